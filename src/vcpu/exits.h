/* SPDX-License-Identifier: MIT */
/* Every way out of direct guest execution into the monitor has a reason, counted and (when
 * --exit-stats asks) timed. One struct per vCPU, written by its own thread only. */
#pragma once

#include <stdio.h>
#include <time.h>

#include "base/types.h"

/* clang-format off */
#define EXIT_REASONS(X) \
	X(PIO_IN, "pio-in") \
	X(PIO_OUT, "pio-out") \
	X(MMIO_READ, "mmio-read") \
	X(MMIO_WRITE, "mmio-write") \
	X(CPUID, "cpuid") \
	X(RDMSR, "rdmsr") \
	X(WRMSR, "wrmsr") \
	X(CR, "cr") \
	X(DR, "dr") \
	X(HLT, "hlt") \
	X(EXCEPTION, "exception") \
	X(PAGE_FAULT, "page-fault") \
	X(INTERRUPT, "interrupt") \
	X(SOFT_INT, "int-n") \
	X(NMI, "nmi") \
	X(PAGE_WALK, "page-walk") \
	X(STLB_HIT, "tlb2-hit") \
	X(TLB_FLUSH, "tlb-flush") \
	X(PV_FLUSH, "pv-tlb-flush") \
	X(INVLPG, "invlpg") \
	X(DECODE, "decode") \
	X(SMC, "code-write") \
	X(HYPERCALL, "hypercall") \
	X(REQUEST, "request")
/* clang-format on */

enum exit_reason {
#define X(id, name) EXIT_##id,
	EXIT_REASONS(X)
#undef X
		EXIT_NR
};

struct exit_stats {
	bool timed;
	u64 insns; /* guest instructions retired, as far as the engine counts them */
	u64 count[EXIT_NR];
	u64 ns[EXIT_NR];
	u64 exception[32]; /* by vector */
};

static inline u64 exit_begin(const struct exit_stats *s)
{
	struct timespec ts;

	if (likely(!s->timed))
		return 0;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (u64)ts.tv_sec * NSEC_PER_SEC + (u64)ts.tv_nsec;
}

static inline void exit_end(struct exit_stats *s, enum exit_reason r, u64 begin)
{
	s->count[r]++;
	if (unlikely(begin))
		s->ns[r] += exit_begin(s) - begin;
}

/* A table for people; reasons that never happened are left out. `nr` stats are added up. */
void exit_stats_print(const struct exit_stats *const *stats, unsigned nr, FILE *out);
