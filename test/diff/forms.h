/* SPDX-License-Identifier: MIT */
/* What can be encoded: every form of instruction that Zydis knows and that a user program may
 * execute on the guest's CPU model, found by trying all opcodes of all maps. Built once, then read
 * only. */
#pragma once

#include <Zydis/Zydis.h>

#include "case.h"

enum insn_class {
	CL_ALU,
	CL_SHIFT,
	CL_MULDIV,
	CL_BIT,
	CL_ATOMIC,
	CL_BCD, /* mode 32 only */
	CL_STRING,
	CL_STACK,
	CL_BRANCH,
	CL_SEG,
	CL_FSGS,
	CL_X87,
	CL_MMX,
	CL_SSE,
	CL_AVX,
	CL_GATHER,
	CL_XSAVE,
	CL_HINT,
	CL_PRIV, /* #GP or #UD for a user program */
	NR_CLASS
};

extern const char *const class_name[NR_CLASS];

enum form_rm { RM_NONE, RM_MEM, RM_REG };

struct form {
	bool vex;
	u8 map; /* legacy: 0 one byte, 1 0F, 2 0F38, 3 0F3A; VEX: 1, 2, 3 */
	u8 opcode;
	u8 prefix; /* 0, 66, F3, F2 */
	u8 w, l;
	u8 rm_kind;
	s8 reg, rm; /* fixed values of these ModRM fields, or -1 */
	u8 cls;
	bool vsib;
	u16 mnemonic;
};

/* Forms of one class and mnemonic are neighbours: a group. */
struct form_group {
	u32 first, count;
};

struct forms {
	ZydisMachineMode mode;
	ZydisDecoder decoder;
	struct form *form;
	u32 count, room;
	struct form_group *group; /* ordered by class */
	u32 nr_groups;
	u32 class_first[NR_CLASS + 1];
};

/* mode: 64 or 32. 0 or -ENOMEM. */
int forms_create(struct forms *f, unsigned mode);
void forms_destroy(struct forms *f);
/* The class of a decoded instruction, or -1: not to be tested here. */
int insn_class(const ZydisDecodedInstruction *insn);
