/* SPDX-License-Identifier: MIT */
/* Random cases. A case is a function of (seed, index, mode, classes) alone. */
#pragma once

#include "forms.h"

struct gen {
	struct forms forms;
	unsigned mode; /* 64 or 32 */
	u64 seed;
	u32 weight[NR_CLASS]; /* 0: not wanted */
	u32 weight_sum;
	u64 foreign_xcr0; /* host's XSAVE components that a guest has not */
	const u8 *fixed;  /* --insn: these bytes */
	u32 fixed_len;
	u32 max_insns; /* sequences up to this length; 1: none */
};

/* What was made, for comparing and reporting. */
struct case_info {
	u64 index;
	int cls;
	ZydisDecodedInstruction insn; /* the first */
	ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
};

int gen_create(struct gen *g, unsigned mode, u64 seed);
void gen_destroy(struct gen *g);
/* false: nothing acceptable could be made (--insn with bytes that are no instruction). */
bool gen_case(const struct gen *g, u64 index, struct tcase *t, struct case_info *info);
/* Decode the first instruction of t again. */
bool case_decode(const struct gen *g, const struct tcase *t, struct case_info *info);
/* Address of a memory operand in state st. */
u64 operand_address(const struct cpu_state *st, const ZydisDecodedInstruction *insn,
                    const ZydisDecodedOperand *op, u64 next_rip);

/* Pieces: an instruction in 15 bytes with random ones behind it; decoding into *info. */
bool gen_insn(const struct gen *g, struct rng *r, u8 b[16], struct case_info *info);
bool gen_decode(const struct gen *g, const u8 *b, unsigned len, struct case_info *info);
/* seq.c: a straight piece of code of up to g->max_insns instructions with forward branches. */
bool gen_sequence(const struct gen *g, struct rng *r, struct tcase *t, struct case_info *info);

/* values.c: corner cases more often than chance */
u64 value_int(struct rng *r, unsigned bits);
u32 value_f32(struct rng *r);
u64 value_f64(struct rng *r);
void value_f80(struct rng *r, u8 out[10]);
enum lane {
	LANE_I8,
	LANE_I16,
	LANE_I32,
	LANE_I64,
	LANE_F32,
	LANE_F64,
	LANE_F80,
	LANE_F16,
	NR_LANE
};
void value_fill(struct rng *r, enum lane lane, u8 *p, unsigned bytes);
void state_random(struct rng *r, struct cpu_state *st, enum lane lane);
