/* SPDX-License-Identifier: MIT */
/* Time a loop by the TSC: as many turns as take 10 million cycles or so, the best of five. */
#pragma once

#include <stdint.h>

typedef uint64_t u64;

struct timing {
	u64 cycles, turns;
};

u64 test_callret(u64 turns);

static inline u64 tsc(void)
{
	uint32_t lo, hi;

	__asm__ volatile("lfence; rdtsc; lfence" : "=a"(lo), "=d"(hi) : : "memory");
	return (u64)hi << 32 | lo;
}

/* What the test returned: want(t->turns), or it went wrong and was not timed. Turns are even. */
static inline u64 time_test(struct timing *t, u64 (*test)(u64), u64 (*want)(u64))
{
	u64 turns = 500, cycles, got;
	unsigned rounds = 0;

	t->cycles = ~(u64)0;
	do {
		u64 start = tsc();

		got = test(turns);
		cycles = tsc() - start;
		t->turns = turns;
		if (got != want(turns))
			break;
		if (cycles < 5000000 && turns < (u64)1 << 40)
			turns *= 2;
		else
			t->cycles = cycles < t->cycles ? cycles : t->cycles, rounds++;
	} while (rounds < 5);
	return got;
}
