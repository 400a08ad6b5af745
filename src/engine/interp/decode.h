/* SPDX-License-Identifier: MIT */
/* An instruction while it is decoded, and what fills in the operands of its op. Private to
 * decode.c (blocks), pick_plain.c and pick_ending.c (handlers). */
#pragma once

#include "engine/interp/op.h"

#include <Zydis/Zydis.h>

struct dec {
	struct interp *in;
	struct x86_cpu *c;
	u32 mode;
	unsigned bits; /* 16, 32, 64 */
	ZydisDecoder zd;
	ZydisDecodedInstruction i;
	ZydisDecodedOperand o[ZYDIS_MAX_OPERAND_COUNT];
	const u8 *bytes;
	struct op *op;
	bool bad; /* no instruction */
};

/* Byte offset of a general register in c->gpr; AH..BH are the second byte. */
static inline u8 reg_off(ZydisRegister r)
{
	if (r >= ZYDIS_REGISTER_AH && r <= ZYDIS_REGISTER_BH)
		return (u8)((r - ZYDIS_REGISTER_AH) * 8 + 1);
	switch (ZydisRegisterGetClass(r)) {
	case ZYDIS_REGCLASS_GPR8:
	case ZYDIS_REGCLASS_GPR16:
	case ZYDIS_REGCLASS_GPR32:
	case ZYDIS_REGCLASS_GPR64:
		return GPR_OFF(ZydisRegisterGetId(
			ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, r)));
	default:
		return GPR_OFF(REG_ZERO);
	}
}

static inline enum x86_segreg seg_of(ZydisRegister r)
{
	switch (r) {
	case ZYDIS_REGISTER_ES:
		return ES;
	case ZYDIS_REGISTER_CS:
		return CS;
	case ZYDIS_REGISTER_SS:
		return SS;
	case ZYDIS_REGISTER_FS:
		return FS;
	case ZYDIS_REGISTER_GS:
		return GS;
	default:
		return DS;
	}
}

static inline unsigned log2_size(unsigned bytes)
{
	return (unsigned)__builtin_ctz(bytes);
}

static inline bool is_reg(const ZydisDecodedOperand *o)
{
	return o->type == ZYDIS_OPERAND_TYPE_REGISTER;
}

static inline bool is_mem(const ZydisDecodedOperand *o)
{
	return o->type == ZYDIS_OPERAND_TYPE_MEMORY;
}

static inline bool is_imm(const ZydisDecodedOperand *o)
{
	return o->type == ZYDIS_OPERAND_TYPE_IMMEDIATE;
}

static inline unsigned opsize(const struct dec *d)
{
	return d->i.operand_width / 8u;
}

static inline bool has_lock(const struct dec *d)
{
	return d->i.attributes & ZYDIS_ATTRIB_HAS_LOCK;
}

/* Immediates of 32 bits are sign-extended to a 64-bit operand, whatever their notation. */
static inline u64 imm_of(const struct dec *d, const ZydisDecodedOperand *o)
{
	if (d->i.operand_width == 64 && d->i.raw.imm[0].size == 32)
		return (u64)(s64)(s32)o->imm.value.u;
	return o->imm.is_signed ? (u64)o->imm.value.s : o->imm.value.u;
}

static inline op_fn *sized(struct dec *d, op_fn *fn)
{
	d->op->size = (u8)opsize(d);
	d->op->seg = SS;
	return fn;
}

/* Segment and address-size treatment of a memory operand. */
void dec_set_seg(struct dec *d, ZydisRegister seg);
/* Likewise, and all else. false: a 64-bit offset (moffs) fits nowhere, imm is in use. */
bool dec_set_mem(struct dec *d, const ZydisDecodedOperand *o);
/* A bit of the guest's CPUID. */
bool dec_has(u32 leaf, u32 sub, unsigned reg, unsigned bit, struct dec *d);

/* pick_ending.c: control transfer and system instructions; all end a block. NULL: not one of
 * them. */
op_fn *dec_pick_ending(struct dec *d);
/* pick_plain.c: innocuous instructions with a handler of their own; NULL: "run it natively".
 * *end: the block ends there. */
op_fn *dec_pick_plain(struct dec *d, bool *end);
