// SPDX-License-Identifier: MIT
/* What of the nanobenchmarks a user program can do: calls and returns. Also the rate of the TSC, to
 * turn cycles into nanoseconds. */
#define _GNU_SOURCE
#include <stdio.h>
#include <time.h>

#include "timing.h"

static u64 now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (u64)ts.tv_sec * 1000000000u + (u64)ts.tv_nsec;
}

static u64 zero(u64 turns)
{
	(void)turns;
	return 0;
}

int main(void)
{
	struct timing t;
	u64 ns = now(), start = tsc();

	if (time_test(&t, test_callret, zero))
		return 1;
	printf("nano callret %llu %llu\n", (unsigned long long)t.cycles,
	       (unsigned long long)t.turns * 10);
	while (now() - ns < 100000000)
		;
	ns = now() - ns;
	printf("nano-hz %.0f\n", (double)(tsc() - start) / (double)ns * 1e9);
	return 0;
}
