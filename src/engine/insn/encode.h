/* SPDX-License-Identifier: MIT */
/* Re-encode a decoded guest instruction of 64-, 32- or 16-bit code as host code (64-bit) that does
 * the same on other registers and with another memory operand.
 *
 * Address-size and segment prefixes and prefixes without a meaning fall off; LOCK and mandatory
 * ones stay. What came out is decoded again and compared: nothing else than the guest's
 * instruction with the replacements asked for is ever returned.
 *
 * Stateless; any thread. Compiled normally. */
#pragma once

#include <Zydis/Zydis.h>

#include "base/types.h"

#define ENC_NO_INDEX 0xff
#define ENC_MAX      32 /* room for an encoding; 15 bytes are the longest */

enum enc_mem {
	ENC_MEM_NONE,
	ENC_MEM_BASE, /* [base + index << scale + disp]; `disp` takes the shortest form */
	ENC_MEM_GS,   /* %gs:disp, absolute */
};

struct enc_map {
	/* Host register of each guest general register, -1: must not occur as a register operand.
	 * Implicit operands (RAX of MUL, CL of shifts) can only be themselves. */
	s8 reg[16];
	enum enc_mem
		mem;    /* what replaces the explicit memory operand, or, with rm_gs, a register */
	u8 base, index; /* ENC_MEM_BASE; index may be ENC_NO_INDEX, not RSP */
	u8 scale;       /* the index is shifted left by this: 0 to 3 */
	s32 disp;
	/* The general register in ModRM.rm becomes %gs:disp (mem is ENC_MEM_GS). Refused where
	 * memory would not do the same: 32-bit destinations, which clear bits 63:32 of a register
	 * (unless rm_gs_low32: the caller clears them), operands of another size (PEXTRB, PINSRW,
	 * MOV from Sreg), bit offsets in registers. XCHG is locked with memory, and slow. */
	bool rm_gs, rm_gs_low32;
};

/* Shapes of encodings that have been verified: everything of instruction and replacement but the
 * values of displacements and, outside VEX, immediates, which are copied. Zeroed at the start;
 * its owner's, who calls from one thread at a time. */
#define ENC_SHAPES 2048u
struct enc_shape {
	u64 word[5];
};
struct enc_verified {
	struct enc_shape shape[ENC_SHAPES];
};

/* The length of the encoding in `out`; 0: it can't be done, for example AH..BH together with a
 * register that needs REX, a register without a place, an instruction that has no ModRM operand
 * to replace, LEA and hidden memory operands (PUSH, string instructions). `bytes`: the guest's
 * insn->length bytes. Does not ask whether the instruction is innocuous (insn_info_get()).
 * `verified`: each shape is verified once; NULL: each encoding is. */
unsigned insn_encode(u8 out[ENC_MAX], const ZydisDecodedInstruction *insn,
                     const ZydisDecodedOperand *ops, const u8 *bytes, const struct enc_map *map,
                     struct enc_verified *verified);
