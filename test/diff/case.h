/* SPDX-License-Identifier: MIT */
/* One case of the differential tests: code, a processor state and memory going in, the same
 * coming out. The native executor and every engine under test take and give these.
 *
 * Address space of a case, the same natively and in the guest; everything else is unmapped:
 *
 *	CODE_BASE  2 pages	read, execute; filled with INT3 around the case's code
 *	DATA_BASE  3 pages	read, write, no execute
 *		   1 page	read only
 *
 * Vector state is a standard-format XSAVE area (SDM 1, 13.4): x87, SSE, AVX. */
#pragma once

#include <string.h>

#include "base/types.h"

#define CODE_BASE       0x10000000u
#define CODE_PAGES      2
#define CODE_SIZE       (CODE_PAGES * 4096u)
#define CODE_END        (CODE_BASE + CODE_SIZE)
#define CODE_THUNK      CODE_BASE /* mode 32: 64-bit code that leaves; 32 bytes */
#define CODE_MAX        192       /* bytes of code in a case */
#define DATA_BASE       0x20000000u
#define DATA_RW_SIZE    (3 * 4096u)
#define DATA_SIZE       (4 * 4096u)
#define DATA_END        (DATA_BASE + DATA_SIZE)
#define DATA_IMAGES     16 /* initial contents, made from the seed */
#define MAX_PATCHES     6
#define PATCH_BYTES     64
#define CASE_XSAVE_SIZE 832

/* Selectors as Linux has them for user code. */
#define SEL_USER_CS32 0x23
#define SEL_USER_DS   0x2b
#define SEL_USER_CS64 0x33

/* FXSAVE layout (SDM 1, table 10-2) and what follows it. */
#define XS_FCW      0
#define XS_FSW      2
#define XS_FTW      4
#define XS_FOP      6
#define XS_FIP      8
#define XS_FDP      16
#define XS_MXCSR    24
#define XS_ST(i)    (32 + 16 * (i))
#define XS_XMM(i)   (160 + 16 * (i))
#define XS_BV       512
#define XS_YMMHI(i) (576 + 16 * (i))

struct cpu_state {
	u64 gpr[16]; /* in the order of the encoding: RAX RCX RDX RBX RSP RBP RSI RDI R8.. */
	u64 rip, rflags, fs_base, gs_base;
	u64 cs;
	u16 sel[8]; /* ES, CS, SS, DS, FS, GS; going in: what state_selectors() says */
	u8 xsave[CASE_XSAVE_SIZE] __attribute__((aligned(64)));
};

static inline void state_selectors(struct cpu_state *st)
{
	static const u16 sel[8] = {SEL_USER_DS, 0, SEL_USER_DS, SEL_USER_DS, 0, 0};

	memcpy(st->sel, sel, sizeof(sel));
	st->sel[1] = (u16)st->cs;
}

struct patch {
	u32 offset; /* from DATA_BASE */
	u32 len;
	u8 bytes[PATCH_BYTES];
};

struct tcase {
	struct cpu_state st;
	u32 code_len;    /* bytes of code, the way out after it not counted */
	u32 nr_insns;    /* 1, or the length of a straight sequence */
	u32 wayout;      /* bytes after the code that leave natively; 0: none (a branch) */
	bool any_length; /* sequence with branches: run until rip is at the way out */
	u8 code[CODE_MAX];
	u32 image; /* initial contents of the data pages */
	u32 nr_patches;
	struct patch patch[MAX_PATCHES];
};

enum out_status { OUT_OK, OUT_FAULT, OUT_TIMEOUT, OUT_DIED, OUT_REFUSED };

struct outcome {
	enum out_status status;
	u8 vector; /* OUT_FAULT */
	u32 err;
	u64 cr2;
	bool flags_unknown; /* OUT_FAULT: arithmetic flags are not told */
	struct cpu_state st;
	u8 mem[DATA_RW_SIZE];
};

/* The data pages' initial contents: image i begins at i * DATA_SIZE. */
void images_make(u8 *images, u64 seed);

static inline void case_memory(const struct tcase *t, const u8 *images, u8 *data)
{
	memcpy(data, images + (size_t)t->image * DATA_SIZE, DATA_SIZE);
	for (u32 i = 0; i < t->nr_patches; i++)
		memcpy(data + t->patch[i].offset, t->patch[i].bytes, t->patch[i].len);
}

/* xoshiro256** */
struct rng {
	u64 s[4];
};

static inline u64 rng_u64(struct rng *r)
{
	u64 x = r->s[1] * 5, res = ((x << 7) | (x >> 57)) * 9, t = r->s[1] << 17;

	r->s[2] ^= r->s[0];
	r->s[3] ^= r->s[1];
	r->s[1] ^= r->s[2];
	r->s[0] ^= r->s[3];
	r->s[2] ^= t;
	r->s[3] = (r->s[3] << 45) | (r->s[3] >> 19);
	return res;
}

static inline u64 splitmix(u64 *x)
{
	u64 z = (*x += 0x9e3779b97f4a7c15ull);

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
	return z ^ (z >> 31);
}

/* A stream of its own for each (seed, index), so that any case can be made again alone. */
static inline void rng_seed(struct rng *r, u64 seed, u64 index)
{
	u64 x = seed ^ (index * 0xd1342543de82ef95ull + 0x632be59bd9b4e019ull);

	for (int i = 0; i < 4; i++)
		r->s[i] = splitmix(&x);
}

static inline u32 rng_below(struct rng *r, u32 n)
{
	return n ? (u32)(((rng_u64(r) >> 32) * n) >> 32) : 0;
}

static inline bool rng_pct(struct rng *r, u32 percent)
{
	return rng_below(r, 100) < percent;
}
