// SPDX-License-Identifier: MIT
/* One guest instruction that is no branch. Each piece of code obeys: what can fault comes before
 * the first change of the guest's state. */
#include "engine/bt/xlate.h"

static unsigned gpr_of(const ZydisDecodedOperand *o)
{
	return reg_number(o->reg.value);
}

static bool is_gpr(const ZydisDecodedOperand *o)
{
	return o->type == ZYDIS_OPERAND_TYPE_REGISTER && reg_is_gpr(o->reg.value);
}

void emit_helper(struct xlate *x, const struct gi *g, unsigned helper, u32 arg)
{
	x->t1_group = -1;
	held_clear(x);
	emit_va(x, BT_T0, g->off);
	as_mov_i32(&x->a, BT_T1, BT_HARG(helper, g->len, arg));
	as_call(&x->a, (u32)(x->bt->stub[STUB_HELPER] - (uintptr_t)x->bt->cache.rx));
}

/* ---- innocuous instructions ---- */

/* Registers without a home: which scratch register stands for each, is it read, is it written. */
struct lodgers {
	unsigned nr;
	struct {
		u8 guest, host;
		bool read, write;
	} l[2];
};

static void find_lodgers(const struct gi *g, struct lodgers *s)
{
	s->nr = 0;
	for (unsigned k = 0; k < g->i.operand_count; k++) {
		const ZydisDecodedOperand *o = &g->o[k];
		unsigned r, i;

		if (!is_gpr(o))
			continue;
		r = gpr_of(o);
		if (r > 15 || bt_home(r) >= 0)
			continue;
		for (i = 0; i < s->nr && s->l[i].guest != r; i++)
			;
		if (i == s->nr) {
			s->l[i].guest = (u8)r;
			s->l[i].read = s->l[i].write = false;
			s->nr++;
		}
		if (o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE)
			s->l[i].write = true;
		/* Narrow and conditional writes leave the rest as it was; a scan of 0 leaves all.
		 */
		if ((o->actions & ~(ZydisOperandActions)ZYDIS_OPERAND_ACTION_WRITE) ||
		    o->size < 32 || g->i.mnemonic == ZYDIS_MNEMONIC_BSF ||
		    g->i.mnemonic == ZYDIS_MNEMONIC_BSR)
			s->l[i].read = true;
	}
}

static bool reg_is(ZydisRegister reg, unsigned r)
{
	return reg != ZYDIS_REGISTER_NONE && reg_number(reg) == r;
}

/* Choose their scratch registers; `spare`: what the address leaves, or -1: it has none. */
static void place_lodgers(const struct xlate *x, struct lodgers *s, int spare)
{
	u8 used = 0;

	if (spare >= 0) { /* one at most */
		s->l[0].host = (u8)spare;
		return;
	}
	for (unsigned i = 0; i < s->nr; i++) {
		int h = held_in(x, s->l[i].guest);

		s->l[i].host = (u8)(h < 0 ? 0 : h);
		if (h >= BT_T0)
			used |= (u8)(1 << (h - BT_T0));
	}
	for (unsigned i = 0; i < s->nr; i++) {
		int t = BT_T0;

		if (s->l[i].host)
			continue;
		if ((used & 1) || (!used && x->held[0] >= 0 && x->held[1] < 0 && x->t1_group < 0))
			t = BT_T1;
		s->l[i].host = (u8)t;
		used |= (u8)(1 << (t - BT_T0));
	}
}

/* x87: instruction and data pointer, opcode (SDM 1 8.1.8), as native.h keeps them. */
static void emit_x87_record(struct xlate *x, const struct gi *g)
{
	struct bt_asm *a = &x->a;
	bool excp_only = x->c->fpu_excp_only;

	held_clear(x);
	emit_va(x, BT_T0, g->off);
	as_st_gs(a, BT_GS_C(fpu_ip), BT_T0);
	as_mov_i32(a, BT_T0, g->info.fop);
	as_1(a, 0x66); /* mov %r14w, %gs: the prefixes may come in any order before REX */
	as_st32_gs(a, BT_GS_C(fpu_last_op), BT_T0);
	if (!excp_only) {
		as_1(a, 0x66);
		as_st32_gs(a, BT_GS_C(fpu_op), BT_T0);
	}
	if (g->mem >= 0) {
		emit_address(x, g, &g->o[g->mem], BT_T0, false);
		as_st_gs(a, BT_GS_C(fpu_last_dp), BT_T0);
		if (!excp_only)
			as_st_gs(a, BT_GS_C(fpu_dp), BT_T0);
	} else {
		as_ld_gs(a, BT_T0, BT_GS_C(fpu_dp));
		as_st_gs(a, BT_GS_C(fpu_last_dp), BT_T0);
	}
}

static void emit_x87_settle(struct xlate *x)
{
	struct bt_asm *a = &x->a;

	held_clear(x);
	as_ld_gs(a, BT_T0, BT_GS_C(fpu_dp));
	as_st_gs(a, BT_GS_C(fpu_last_dp), BT_T0);
	as_ld32_gs(a, BT_T0, BT_GS_C(fpu_op));
	as_1(a, 0x66);
	as_st32_gs(a, BT_GS_C(fpu_last_op), BT_T0);
}

/* Their OF is undefined, and there are processors that give it another value in memory. */
static bool is_rotate(ZydisMnemonic m)
{
	return m == ZYDIS_MNEMONIC_ROL || m == ZYDIS_MNEMONIC_ROR || m == ZYDIS_MNEMONIC_RCL ||
	       m == ZYDIS_MNEMONIC_RCR;
}

#define LOOK_FOR_READS 6

/* Does an instruction read register r, while what a scratch register holds is still known there? */
static bool read_soon(const struct xlate *x, unsigned n, unsigned r)
{
	struct lodgers s;

	for (unsigned i = n + 1; i < x->nr && i <= n + LOOK_FOR_READS; i++) {
		const struct gi *g = &x->gi[i];
		const ZydisDecodedOperand *o = g->mem >= 0 ? &g->o[g->mem] : NULL;

		if (g->label || (g->kind != GI_COPY && g->kind != GI_LEA && g->kind != GI_NOP &&
		                 g->kind != GI_JCC))
			return false;
		if (g->kind == GI_LEA)
			o = &g->o[1];
		if (o && (reg_is(o->mem.base, r) || reg_is(o->mem.index, r)))
			return true;
		if (g->mem >= 0 && g->group_mem < 0)
			return false;
		find_lodgers(g, &s);
		for (unsigned k = 0; k < s.nr; k++)
			if (s.l[k].guest == r)
				return s.l[k].read;
	}
	return false;
}

/* The register without a home used where it lies. */
static bool emit_in_place(struct xlate *x, unsigned n, struct enc_map m, const struct lodgers *s)
{
	const struct gi *g = &x->gi[n];
	unsigned len;

	if (g->mem >= 0 || s->nr != 1 || is_rotate(g->i.mnemonic) ||
	    held_in(x, s->l[0].guest) >= 0 || read_soon(x, n, s->l[0].guest))
		return false;
	m.mem = ENC_MEM_GS;
	m.rm_gs = true;
	m.disp = BT_GS_GPR(s->l[0].guest);
	len = bt_encode(x->a.p, &g->i, g->o, x->bytes + g->off, &m, x->verified);
	x->a.p += len;
	return len;
}

/* DIV and IDIV, encoded in `code`: #DE without a host's exception, which costs several thousand
 * cycles. DIV faults exactly when the upper half of the dividend is not below the divisor;
 * of IDIV and of bytes only a divisor of 0 is looked for. */
static void emit_divide_check(struct xlate *x, unsigned n, const u8 *code, unsigned len)
{
	const struct gi *g = &x->gi[n];
	bool whole = g->i.mnemonic == ZYDIS_MNEMONIC_DIV && g->i.operand_width > 8;
	u8 cmp[ENC_MAX];
	struct cold *k;
	unsigned i = 0;

	memcpy(cmp, code, len);
	while (i < len && (cmp[i] & 0xfe) != 0xf6) {
		if ((cmp[i] & 0xf0) == 0x40)
			cmp[i] &= (u8)~0x04; /* REX.R, which means nothing there */
		i++;
	}
	if (i + 1 >= len)
		return;
	cmp[i + 1] &= 0xc7;
	if (whole) { /* cmp (r|e)dx, divisor */
		cmp[i] = 0x3b;
		cmp[i + 1] |= RDX << 3;
	} else { /* cmp divisor, 0 */
		cmp[i] = cmp[i] == 0xf6 ? 0x80 : 0x83;
		cmp[i + 1] |= 7 << 3;
	}
	as_bytes(&x->a, cmp, len);
	if (!whole)
		as_1(&x->a, 0);
	k = cold_add(x, COLD_HELPER);
	k->insn = (u16)n;
	k->from = as_jcc(&x->a, whole ? 3 : 4, 0); /* jae, je */
}

/* AH..BH beside memory, whose address needs REX: the scratch register `spare` has the byte, and
 * c->gpr is no part of it. -1: no such operand. */
static int high8_operand(const struct gi *g)
{
	if (g->mem < 0)
		return -1;
	for (unsigned k = 0; k < g->i.operand_count; k++)
		if (is_gpr(&g->o[k]) && reg_is_high8(g->o[k].reg.value))
			return (int)k;
	return -1;
}

/* The byte is behind the lowest one of the register, in memory. */
static void emit_high8(struct xlate *x, unsigned n, unsigned k, const struct enc_map *map,
                       int spare)
{
	const s32 byte = BT_GS(save[0]) + 1;
	const struct gi *g = &x->gi[n];
	ZydisDecodedOperand o[ZYDIS_MAX_OPERAND_COUNT];
	unsigned r = gpr_of(&g->o[k]);
	struct bt_asm *a = &x->a;
	struct enc_map m = *map;
	unsigned len;

	held_evict(x, spare);
	if (spare == BT_T1)
		x->t1_group = -1;
	as_st_gs(a, BT_GS(save[0]), (int)r);
	if (g->o[k].actions & ZYDIS_OPERAND_ACTION_MASK_READ) {
		as_1(a, 0x65); /* movzx spare, byte %gs: */
		as_rex(a, false, spare, 0, 0);
		as_1(a, 0x0f);
		as_1(a, 0xb6);
		as_modrm_mem(a, spare, -1, -1, 0, byte);
	}
	memcpy(o, g->o, g->i.operand_count * sizeof(*o));
	o[k].reg.value = ZYDIS_REGISTER_R15B;
	m.reg[R15] = (s8)spare;
	len = bt_encode(a->p, &g->i, o, x->bytes + g->off, &m, x->verified);
	if (!len) {
		emit_helper(x, g, BT_H_INTERP, g->i.mnemonic);
		return;
	}
	a->p += len;
	if (!(g->o[k].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
		return;
	as_gs(a, false, 0x88, spare, byte);
	as_ld_gs(a, (int)r, BT_GS(save[0]));
}

static void emit_copy(struct xlate *x, unsigned n)
{
	const struct gi *g = &x->gi[n];
	struct enc_map m = {.mem = ENC_MEM_NONE, .index = 0xff};
	struct mem_ref ref = {.spare = BT_T0};
	int high8 = high8_operand(g);
	struct lodgers lodge;
	unsigned len;

	for (unsigned r = 0; r < 16; r++)
		m.reg[r] = (s8)bt_home(r);
	find_lodgers(g, &lodge);
	if (emit_in_place(x, n, m, &lodge))
		return;
	if (g->mem >= 0) {
		emit_check_operand(x, n, g->mem_write, &ref);
		m.mem = ENC_MEM_BASE;
		m.base = ref.base;
		m.index = ref.index;
		m.scale = ref.scale;
		m.disp = ref.disp;
	}
	if (high8 >= 0) {
		emit_high8(x, n, (unsigned)high8, &m, ref.spare);
		return;
	}
	place_lodgers(x, &lodge, g->mem >= 0 ? ref.spare : -1);
	for (unsigned i = 0; i < lodge.nr; i++) {
		unsigned r = lodge.l[i].guest;
		int h = lodge.l[i].host;

		m.reg[r] = (s8)h;
		if (lodge.l[i].read) {
			held_load(x, h, r);
		} else if (held_in(x, r) != h) {
			held_evict(x, h);
			held_set(x, h, r, false);
		}
	}
	len = bt_encode(x->a.p, &g->i, g->o, x->bytes + g->off, &m, x->verified);
	if (!len) {
		/* The encoder refuses what it cannot prove: the reference does it. */
		emit_helper(x, g, BT_H_INTERP, g->i.mnemonic);
		emit_pins(x);
		return;
	}
	if ((g->i.mnemonic == ZYDIS_MNEMONIC_DIV || g->i.mnemonic == ZYDIS_MNEMONIC_IDIV) &&
	    !g->live) {
		u8 code[ENC_MAX];

		memcpy(code, x->a.p, len);
		emit_divide_check(x, n, code, len);
		memcpy(x->a.p, code, len);
	}
	x->a.p += len;
	for (unsigned i = 0; i < lodge.nr; i++)
		if (lodge.l[i].write)
			held_set(x, lodge.l[i].host, lodge.l[i].guest, true);
	if (g->info.x87_record)
		emit_x87_record(x, g);
	if (g->info.x87_ldcw) /* what was recorded before is settled */
		emit_x87_settle(x);
}

/* Where an operand's register is: `tmp`, into which it is loaded, for one without a home. */
static int bit_register(struct xlate *x, ZydisRegister reg, int tmp)
{
	unsigned r;

	r = reg_number(reg);
	if (bt_home(r) >= 0)
		return bt_home(r);
	as_ld_gs(&x->a, tmp, BT_GS_GPR(r));
	return tmp;
}

/* The dword or quadword with the bit is found as the processor does (SDM 2A 3.1.1.9). */
static void emit_bits(struct xlate *x, unsigned n)
{
	const struct gi *g = &x->gi[n];
	bool w = g->i.operand_width == 64, write = g->mem_write;
	unsigned r = gpr_of(&g->o[1]);
	struct bt_asm *a = &x->a;
	struct mem_ref ref;
	int home = bt_home(r);

	if (g->live)
		emit_flags_save(x);
	if (write) { /* the offset in it, for the form with memory */
		bit_register(x, g->o[1].reg.value, BT_T1);
		if (home >= 0)
			as_rr(a, false, 0x89, home, BT_T1);
		as_alu_i(a, false, 4, BT_T1, w ? 63 : 31);
		as_st_gs(a, BT_GS(save[0]), BT_T1);
	}
	emit_address(x, g, &g->o[g->mem], BT_T0, true);
	held_clear(x);
	bit_register(x, g->o[1].reg.value, BT_T1);
	if (!w)
		as_rr(a, true, 0x63, BT_T1, home < 0 ? BT_T1 : home); /* movsxd */
	else if (home >= 0)
		as_mov(a, BT_T1, home);
	as_rr(a, true, 0xc1, 7, BT_T1); /* sar */
	as_1(a, w ? 6 : 5);
	as_lea(a, true, BT_T0, BT_T0, BT_T1, w ? 3 : 2, 0);
	emit_check_address(x, n, w ? 8 : 4, write, &ref);
	if (!write) {
		as_mem(a, w, 0x8b, BT_T1, ref.base, -1, 0, 0);
		home = bit_register(x, g->o[1].reg.value, BT_T0);
		as_rex(a, w, home, 0, BT_T1);
		as_1(a, 0x0f);
		as_1(a, 0xa3);
		as_1(a, 0xc0 | (home & 7) << 3 | (BT_T1 & 7));
		return;
	}
	as_ld_gs(a, BT_T1, BT_GS(save[0]));
	if (g->info.locked)
		as_1(a, 0xf0);
	as_rex(a, w, BT_T1, 0, ref.base);
	as_1(a, 0x0f);
	as_1(a, g->i.mnemonic == ZYDIS_MNEMONIC_BTS   ? 0xab
	        : g->i.mnemonic == ZYDIS_MNEMONIC_BTR ? 0xb3
	                                              : 0xbb);
	as_modrm_mem(a, BT_T1, ref.base, -1, 0, 0);
}

/* The source first, into a scratch register where it is in memory or has no home: that register may
 * be a destination as well. Both halves in one register: it gets the high one (SDM 2B, MULX). */
static void emit_mulx(struct xlate *x, unsigned n)
{
	const struct gi *g = &x->gi[n];
	unsigned r_hi = gpr_of(&g->o[0]), r_lo = gpr_of(&g->o[1]);
	int hi = bt_home(r_hi) < 0 ? BT_T0 : bt_home(r_hi), src = BT_T0;
	int lo = r_lo == r_hi ? hi : bt_home(r_lo) < 0 ? BT_T1 : bt_home(r_lo);
	bool w = g->i.operand_width == 64;
	struct bt_asm *a = &x->a;
	struct mem_ref ref;

	if (g->mem >= 0) {
		emit_check_operand(x, n, false, &ref);
		as_mem(a, w, 0x8b, src, ref.base, ref.index == 0xff ? -1 : ref.index, ref.scale,
		       ref.disp);
	} else if (bt_home(gpr_of(&g->o[2])) < 0) {
		as_ld_gs(a, src, BT_GS_GPR(gpr_of(&g->o[2])));
	} else {
		src = bt_home(gpr_of(&g->o[2]));
	}
	as_1(a, 0xc4); /* VEX.LZ.F2.0F38 f6 /r */
	as_1(a, (hi < 8 ? 0x80u : 0) | 0x40 | (src < 8 ? 0x20u : 0) | 2);
	as_1(a, (w ? 0x80u : 0) | (~(unsigned)lo & 15) << 3 | 3);
	as_1(a, 0xf6);
	as_1(a, 0xc0 | ((unsigned)hi & 7) << 3 | ((unsigned)src & 7));
	if (bt_home(r_hi) < 0)
		as_st_gs(a, BT_GS_GPR(r_hi), BT_T0);
	if (bt_home(r_lo) < 0 && r_lo != r_hi)
		as_st_gs(a, BT_GS_GPR(r_lo), BT_T1);
	x->t1_group = -1;
	held_drop(x, BT_T0);
	held_drop(x, BT_T1);
}

static void emit_lea(struct xlate *x, const struct gi *g)
{
	unsigned r = gpr_of(&g->o[0]);
	int home = bt_home(r);

	held_flush(x);
	emit_address(x, g, &g->o[1], BT_T0, false);
	if (home < 0) {
		if (g->i.operand_width == 32)
			as_rr(&x->a, false, 0x89, BT_T0, BT_T0);
		held_set(x, BT_T0, r, true);
	} else {
		as_rr(&x->a, g->i.operand_width == 64, 0x89, BT_T0, home);
	}
}

/* Straight into the register, where it has a home. */
static bool emit_lea_direct(struct xlate *x, const struct gi *g)
{
	const ZydisDecodedOperand *o = &g->o[1];
	int home = bt_home(gpr_of(&g->o[0]));
	int base, index;
	s64 disp = o->mem.disp.has_displacement ? o->mem.disp.value : 0;
	bool w = g->i.operand_width == 64 && g->i.address_width == 64;
	unsigned s = o->mem.scale;

	if (home < 0 || (s64)(s32)disp != disp)
		return false;
	if (o->mem.base == ZYDIS_REGISTER_RIP) {
		s64 rel = (s64)g->off + g->len + disp;

		if (!w || rel != (s32)rel)
			return false;
		emit_va(x, home, (s32)rel);
		return true;
	}
	if (o->mem.base == ZYDIS_REGISTER_NONE && o->mem.index == ZYDIS_REGISTER_NONE)
		return false;
	emit_address_registers(x, o, BT_T0, &base, &index);
	as_lea(&x->a, w, home, base, index, s == 8 ? 3 : s == 4 ? 2 : s == 2 ? 1 : 0, (s32)disp);
	return true;
}

/* ---- the stack ---- */

static void emit_push(struct xlate *x, unsigned n)
{
	const struct gi *g = &x->gi[n];
	unsigned word = x->code64 ? 8 : 4;
	const ZydisDecodedOperand *o = &g->o[0];
	struct mem_ref ref;
	int reg = BT_T0;

	if (o->type == ZYDIS_OPERAND_TYPE_MEMORY) {
		emit_check_operand(x, n, false, &ref);
		as_mem(&x->a, x->code64, 0x8b, BT_T0, ref.base, ref.index == 0xff ? -1 : ref.index,
		       ref.scale, ref.disp);
		as_st_gs(&x->a, BT_GS(save[0]), BT_T0);
		held_drop(x, BT_T0);
	}
	emit_check_stack(x, n, BT_SP, -(s32)word, word, true, &ref);
	if (o->type == ZYDIS_OPERAND_TYPE_IMMEDIATE) {
		as_mem(&x->a, x->code64, 0xc7, 0, ref.base, ref.index == 0xff ? -1 : ref.index, 0,
		       ref.disp);
		as_4(&x->a, (u32)o->imm.value.u);
	} else {
		if (o->type == ZYDIS_OPERAND_TYPE_MEMORY) {
			reg = ref.spare;
			as_ld_gs(&x->a, reg, BT_GS(save[0]));
			held_drop(x, reg);
		} else {
			reg = bt_home(gpr_of(o));
			if (reg < 0) {
				reg = ref.spare;
				held_load(x, reg, gpr_of(o));
			}
		}
		as_mem(&x->a, x->code64, 0x89, reg, ref.base, ref.index == 0xff ? -1 : ref.index, 0,
		       ref.disp);
	}
	as_lea(&x->a, x->code64, BT_SP, BT_SP, -1, 0, -(s32)word);
}

static void emit_pop(struct xlate *x, unsigned n)
{
	const struct gi *g = &x->gi[n];
	unsigned word = x->code64 ? 8 : 4, r = gpr_of(&g->o[0]);
	int home = bt_home(r), dst = home < 0 ? BT_T0 : home;
	struct mem_ref ref;

	emit_check_stack(x, n, BT_SP, 0, word, false, &ref);
	as_mem(&x->a, x->code64, 0x8b, dst, ref.base, ref.index == 0xff ? -1 : ref.index, 0,
	       ref.disp);
	if (home < 0) {
		held_evict(x, BT_T0);
		held_set(x, BT_T0, r, true);
	}
	if (r != RSP)
		as_lea(&x->a, x->code64, BT_SP, BT_SP, -1, 0, (s32)word);
}

static void emit_leave(struct xlate *x, unsigned n)
{
	unsigned word = x->code64 ? 8 : 4;
	struct mem_ref ref;

	emit_check_stack(x, n, RBP, 0, word, false, &ref);
	as_mem(&x->a, x->code64, 0x8b, BT_T0, ref.base, ref.index == 0xff ? -1 : ref.index, 0,
	       ref.disp);
	as_lea(&x->a, x->code64, BT_SP, RBP, -1, 0, (s32)word);
	as_rr(&x->a, x->code64, 0x89, BT_T0, RBP);
}

void emit_insn(struct xlate *x, unsigned n)
{
	const struct gi *g = &x->gi[n];

	switch ((enum gi_kind)g->kind) {
	case GI_NOP:
		break;
	case GI_COPY:
		emit_copy(x, n);
		break;
	case GI_BITS:
		emit_bits(x, n);
		break;
	case GI_MULX:
		emit_mulx(x, n);
		break;
	case GI_LEA:
		if (!emit_lea_direct(x, g))
			emit_lea(x, g);
		break;
	case GI_PUSH:
		emit_push(x, n);
		break;
	case GI_POP:
		emit_pop(x, n);
		break;
	case GI_LEAVE:
		emit_leave(x, n);
		break;
	case GI_STRING:
		emit_string(x, n);
		break;
	default:
		if (g->helper == BT_H_INVLPG || g->helper == BT_H_XSAVE ||
		    g->helper == BT_H_XRSTOR) {
			emit_address(x, g, &g->o[0], BT_T0, false);
			as_st_gs(&x->a, BT_GS(save[0]), BT_T0);
		}
		emit_helped(x, n);
	}
}
