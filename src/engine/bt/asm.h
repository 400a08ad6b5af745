/* SPDX-License-Identifier: MIT */
/* Emitters of host instructions: one function an instruction, 64-bit operands unless the name says
 * otherwise. Registers are numbers (RAX 0 .. R15 15). Nothing here checks for space: whoever
 * emits reserves first (struct bt_asm keeps a margin that bt_asm_full() watches). */
#pragma once

#include <string.h>

#include "base/types.h"

struct bt_asm {
	u8 *base; /* of the cache's writable alias: offsets are relative to it */
	u8 *p, *end;
};

/* Room for the longest sequence that is emitted without looking. */
#define BT_ASM_MARGIN 2048

static inline bool bt_asm_full(const struct bt_asm *a)
{
	return a->end - a->p < BT_ASM_MARGIN;
}

static inline u32 as_here(const struct bt_asm *a)
{
	return (u32)(a->p - a->base);
}

static inline void as_1(struct bt_asm *a, unsigned b)
{
	*a->p++ = (u8)b;
}

static inline void as_4(struct bt_asm *a, u32 v)
{
	memcpy(a->p, &v, 4);
	a->p += 4;
}

static inline void as_8(struct bt_asm *a, u64 v)
{
	memcpy(a->p, &v, 8);
	a->p += 8;
}

static inline void as_bytes(struct bt_asm *a, const void *p, unsigned n)
{
	memcpy(a->p, p, n);
	a->p += n;
}

static inline void as_rex(struct bt_asm *a, bool w, int reg, int index, int base)
{
	u8 r = (u8)(0x40 | w << 3 | (reg >= 8) << 2 | (index >= 8) << 1 | (base >= 8));

	if (r != 0x40)
		as_1(a, r);
}

/* op reg, r/m with a register in r/m */
static inline void as_rr(struct bt_asm *a, bool w, unsigned op, int reg, int rm)
{
	as_rex(a, w, reg, 0, rm);
	as_1(a, op);
	as_1(a, 0xc0 | (reg & 7) << 3 | (rm & 7));
}

/* ModRM, SIB and displacement of [base + index * 2^scale + disp]; index < 0: none; base < 0: none.
 */
static inline void as_modrm_mem(struct bt_asm *a, int reg, int base, int index, int scale, s32 disp)
{
	int r = (reg & 7) << 3, mod;

	if (base < 0) {
		as_1(a, 0x04 | r);
		as_1(a, scale << 6 | (index < 0 ? 4 : index & 7) << 3 | 5);
		as_4(a, (u32)disp);
		return;
	}
	mod = disp == 0 && (base & 7) != 5 ? 0 : disp >= -128 && disp < 128 ? 0x40 : 0x80;
	if (index < 0 && (base & 7) != 4) {
		as_1(a, mod | r | (base & 7));
	} else {
		as_1(a, mod | r | 4);
		as_1(a, scale << 6 | (index < 0 ? 4 : index & 7) << 3 | (base & 7));
	}
	if (mod == 0x40)
		as_1(a, (u8)disp);
	else if (mod == 0x80)
		as_4(a, (u32)disp);
}

static inline void as_mem(struct bt_asm *a, bool w, unsigned op, int reg, int base, int index,
                          int scale, s32 disp)
{
	as_rex(a, w, reg, index < 0 ? 0 : index, base < 0 ? 0 : base);
	as_1(a, op);
	as_modrm_mem(a, reg, base, index, scale, disp);
}

static inline void as_gs(struct bt_asm *a, bool w, unsigned op, int reg, s32 disp)
{
	as_1(a, 0x65);
	as_mem(a, w, op, reg, -1, -1, 0, disp);
}

static inline void as_mov(struct bt_asm *a, int dst, int src)
{
	as_rr(a, true, 0x89, src, dst);
}

/* op reg, %gs:disp(base) */
static inline void as_gs_at(struct bt_asm *a, unsigned op, int reg, int base, s32 disp)
{
	as_1(a, 0x65);
	as_mem(a, true, op, reg, base, -1, 0, disp);
}

static inline void as_ld_gs(struct bt_asm *a, int reg, s32 disp)
{
	as_gs(a, true, 0x8b, reg, disp);
}

static inline void as_ld32_gs(struct bt_asm *a, int reg, s32 disp)
{
	as_gs(a, false, 0x8b, reg, disp);
}

static inline void as_st_gs(struct bt_asm *a, s32 disp, int reg)
{
	as_gs(a, true, 0x89, reg, disp);
}

static inline void as_st32_gs(struct bt_asm *a, s32 disp, int reg)
{
	as_gs(a, false, 0x89, reg, disp);
}

static inline void as_add_gs(struct bt_asm *a, int reg, s32 disp)
{
	as_gs(a, true, 0x03, reg, disp);
}

static inline void as_sub_gs(struct bt_asm *a, int reg, s32 disp)
{
	as_gs(a, true, 0x2b, reg, disp);
}

/* cmp dword %gs:disp, imm8 */
static inline void as_cmp32_gs_i8(struct bt_asm *a, s32 disp, int imm)
{
	as_gs(a, false, 0x83, 7, disp);
	as_1(a, (u8)imm);
}

static inline void as_lea(struct bt_asm *a, bool w, int dst, int base, int index, int scale,
                          s32 disp)
{
	as_mem(a, w, 0x8d, dst, base, index, scale, disp);
}

/* group 1: /n with an immediate: 0 add, 4 and, 5 sub, 7 cmp */
static inline void as_alu_i(struct bt_asm *a, bool w, int n, int reg, s32 imm)
{
	as_rex(a, w, 0, 0, reg);
	if (imm >= -128 && imm < 128) {
		as_1(a, 0x83);
		as_1(a, 0xc0 | n << 3 | (reg & 7));
		as_1(a, (u8)imm);
	} else {
		as_1(a, 0x81);
		as_1(a, 0xc0 | n << 3 | (reg & 7));
		as_4(a, (u32)imm);
	}
}

static inline void as_cmp_i(struct bt_asm *a, int reg, s32 imm)
{
	as_alu_i(a, true, 7, reg, imm);
}

/* Zero-extended 32 bits */
static inline void as_mov_i32(struct bt_asm *a, int reg, u32 imm)
{
	as_rex(a, false, 0, 0, reg);
	as_1(a, 0xb8 | (reg & 7));
	as_4(a, imm);
}

static inline void as_mov_i64(struct bt_asm *a, int reg, u64 imm)
{
	if (imm <= 0xffffffff) {
		as_mov_i32(a, reg, (u32)imm);
	} else {
		as_rex(a, true, 0, 0, reg);
		as_1(a, 0xb8 | (reg & 7));
		as_8(a, imm);
	}
}

/* rel32 branches; the target is an offset in the cache, 0 for one that is patched later. They
 * return the offset of the rel32. */
static inline u32 as_rel32(struct bt_asm *a, u32 target)
{
	u32 at = as_here(a);

	as_4(a, target - (at + 4));
	return at;
}

static inline u32 as_jmp(struct bt_asm *a, u32 target)
{
	as_1(a, 0xe9);
	return as_rel32(a, target);
}

static inline u32 as_call(struct bt_asm *a, u32 target)
{
	as_1(a, 0xe8);
	return as_rel32(a, target);
}

static inline u32 as_jcc(struct bt_asm *a, unsigned cc, u32 target)
{
	as_1(a, 0x0f);
	as_1(a, 0x80 | cc);
	return as_rel32(a, target);
}

static inline void as_patch(struct bt_asm *a, u32 at, u32 target)
{
	u32 rel = target - (at + 4);

	memcpy(a->base + at, &rel, 4);
}

/* jrcxz, to be patched by as_patch8() */
static inline u32 as_jrcxz(struct bt_asm *a)
{
	as_1(a, 0xe3);
	as_1(a, 0);
	return as_here(a) - 1;
}

static inline void as_patch8(struct bt_asm *a, u32 at, u32 target)
{
	a->base[at] = (u8)(target - (at + 1));
}

/* Recommended no-operations (SDM 2B, NOP) until the offset + `bias` is a multiple of 2^k. */
static inline void as_align(struct bt_asm *a, unsigned to, unsigned bias)
{
	static const u8 nops[8][8] = {
		{0},
		{0x90},
		{0x66, 0x90},
		{0x0f, 0x1f, 0x00},
		{0x0f, 0x1f, 0x40, 0x00},
		{0x0f, 0x1f, 0x44, 0x00, 0x00},
		{0x66, 0x0f, 0x1f, 0x44, 0x00, 0x00},
		{0x0f, 0x1f, 0x80, 0x00, 0x00, 0x00, 0x00},
	};
	unsigned n = (0 - (as_here(a) + bias)) & (to - 1);

	while (n) {
		unsigned k = n > 7 ? 7 : n;

		as_bytes(a, nops[k], k);
		n -= k;
	}
}

/* Flags into AX (LAHF: AH; OF: AL) and back; keeps no register but AX. */
static inline void as_flags_to_ax(struct bt_asm *a)
{
	static const u8 code[] = {0x9f, 0x0f, 0x90, 0xc0}; /* lahf; seto al */

	as_bytes(a, code, sizeof(code));
}

static inline void as_ax_to_flags(struct bt_asm *a)
{
	static const u8 code[] = {0x04, 0x7f, 0x9e}; /* add al, 0x7f: OF; sahf */

	as_bytes(a, code, sizeof(code));
}
