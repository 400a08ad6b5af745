/* SPDX-License-Identifier: MIT */
/* Comparing outcomes, with what the manuals leave undefined taken out, and showing them. */
#pragma once

#include <stdio.h>

#include "gen.h"

enum diff_kind {
	DIFF_STATUS = 1 << 0, /* retired, fault, vector */
	DIFF_ERR = 1 << 1,
	DIFF_CR2 = 1 << 2,
	DIFF_GPR = 1 << 3,
	DIFF_RIP = 1 << 4,
	DIFF_FLAGS = 1 << 5,
	DIFF_SEG = 1 << 6,
	DIFF_X87 = 1 << 7,
	DIFF_VEC = 1 << 8,
	DIFF_MXCSR = 1 << 9,
	DIFF_MEM = 1 << 10,
};

/* What is not compared. */
struct dont_care {
	u64 rflags;
	u32 gpr;      /* bit i: gpr[i] */
	u32 gpr_high; /* bit i: upper half of gpr[i] */
	bool fpu_pointers;
	bool fault_place; /* of a fault: cr2 within 64 bytes, and memory not at all */
	/* Faults that count as the same, as sets of bits; and what is not compared when the host
	 * faults (registers: for instructions of several accesses that stop in between). */
	u32 fault_same;
	bool fault_gpr, fault_fpu;
	bool fault_or_not; /* whether it faults at all */
	struct {
		u64 addr;
		u32 len;
	} mem[4];
	u32 nr_mem;
	bool mode32;
};

/* strict: also what the manuals leave undefined. */
void dont_care_of(struct dont_care *d, const struct case_info *info, const struct tcase *t,
                  bool strict);
/* Set of enum diff_kind, 0 when equal. */
u32 outcome_compare(const struct outcome *want, const struct outcome *got,
                    const struct dont_care *d);
/* Input and both outcomes; differing fields bear a mark. */
void outcome_print(FILE *out, const struct tcase *t, const u8 *images, const struct outcome *want,
                   const struct outcome *got, const struct dont_care *d, const char *subject);
void code_print(FILE *out, const struct gen *g, const struct tcase *t);
