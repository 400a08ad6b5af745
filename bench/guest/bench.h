/* SPDX-License-Identifier: MIT */
/* What the workloads have in common. A workload is one iteration of a few milliseconds (natively)
 * that does the same each time and returns a checksum that is the same everywhere; main.c
 * repeats it and divides. So a slow engine can do fewer iterations and still be compared. */
#pragma once

#include <stddef.h>
#include <stdint.h>

typedef uint64_t u64;
typedef uint32_t u32;
typedef uint16_t u16;
typedef uint8_t u8;

struct workload {
	const char *name;
	void (*setup)(void);          /* once, not timed; may be NULL */
	u64 (*iter)(void);            /* one iteration: its checksum */
	unsigned iters;               /* at scale 1: about 0.3 s on a machine of 2023 */
	unsigned ops;                 /* operations in one iteration */
	const char *(*missing)(void); /* why it can't run on this CPU; NULL: it can */
};

/* Each list ends with an entry without a name. */
extern const struct workload compute_work[], string_work[], core_work[], vector_work[],
	system_work[], process_work[];

/* End this workload as failed. */
__attribute__((noreturn, format(printf, 1, 2))) void bench_fail(const char *fmt, ...);

/* The static busybox that fork+exec starts. */
const char *bench_busybox(void);

/* Pseudo-random numbers that are the same everywhere (Knuth's MMIX generator). */
static inline u32 bench_random(u64 *state)
{
	*state = *state * 6364136223846793005ull + 1442695040888963407ull;
	return (u32)(*state >> 33);
}

/* A running checksum. */
static inline u64 bench_mix(u64 sum, u64 v)
{
	sum = (sum ^ v) * 0x9e3779b97f4a7c15ull;
	return sum ^ sum >> 29;
}

/* Text of `len` - 1 bytes and a NUL: words of different frequency, numbers, lines of 20 to 90. */
void bench_text(char *to, size_t len, u64 seed);
