// SPDX-License-Identifier: MIT
/* MOVS, STOS and LODS of one element: what compilers that mind the code's size make of `*d++ =
 * *s++`, boot loaders' copies above all. With REP they are helpers (strings.c), but for a few
 * elements in 64-bit code.
 *
 * Both checks come before the store, and that before the registers move; what was loaded waits in
 * bt->save[0] for the second check. Elements that go down (RFLAGS.DF) are the interpreter's. */
#include "engine/bt/xlate.h"

/* mov between register `reg` and (base): op 88 stores, 8a loads a byte. */
static void move(struct xlate *x, unsigned shift, unsigned op, int reg, int base)
{
	if (shift == 1)
		as_1(&x->a, 0x66);
	as_mem(&x->a, shift == 3, op | (shift > 0), reg, base, -1, 0, 0);
}

/* The element that `reg` points to, checked: its host address is in out->base. */
static void element(struct xlate *x, unsigned n, int reg, bool write, struct mem_ref *out)
{
	as_rr(&x->a, x->code64, 0x89, reg, BT_T0);
	emit_check_address(x, n, 1u << x->gi[n].arg, write, out);
}

static void advance(struct xlate *x, unsigned n, int reg)
{
	as_lea(&x->a, x->code64, reg, reg, -1, 0, 1 << x->gi[n].arg);
}

void emit_string(struct xlate *x, unsigned n)
{
	const struct gi *g = &x->gi[n];
	ZydisMnemonic m = g->i.mnemonic;
	bool stos = m == ZYDIS_MNEMONIC_STOSB || m == ZYDIS_MNEMONIC_STOSW ||
	            m == ZYDIS_MNEMONIC_STOSD || m == ZYDIS_MNEMONIC_STOSQ;
	bool lods = m == ZYDIS_MNEMONIC_LODSB || m == ZYDIS_MNEMONIC_LODSW ||
	            m == ZYDIS_MNEMONIC_LODSD || m == ZYDIS_MNEMONIC_LODSQ;
	struct mem_ref ref;
	struct cold *down;

	if (g->live)
		emit_flags_save(x);
	as_gs(&x->a, false, 0xf6, 0, BT_GS_C(sflags) + SFLAGS_DF); /* test */
	as_1(&x->a, SFLAGS_DF_BIT);
	down = emit_to_helper(x, n, 5);
	if (!stos) {
		element(x, n, RSI, false, &ref);
		move(x, g->arg, 0x8a, lods ? RAX : BT_T1, ref.base);
	}
	if (!lods) {
		if (!stos)
			as_st_gs(&x->a, BT_GS(save[0]), BT_T1);
		element(x, n, RDI, true, &ref);
		if (!stos)
			as_ld_gs(&x->a, BT_T1, BT_GS(save[0]));
		move(x, g->arg, 0x88, stos ? RAX : BT_T1, ref.base);
		advance(x, n, RDI);
	}
	if (!stos)
		advance(x, n, RSI);
	down->back = as_here(&x->a);
}

/* ---- REP MOVS, REP STOS of few elements ----
 *
 * Element by element, which costs less than the helper; each leaves the registers as the processor
 * does between two elements. More of them, going down, or a page that is not in its slot and not in
 * the TLB: the helper. */

#define FEW 16

/* The check of FEW elements at `reg`: its slot. */
static struct cold *check_few(struct xlate *x, unsigned n, int reg, bool write)
{
	struct site site = new_site(x, write, FEW << (x->gi[n].harg & 3));
	struct bt_asm *a = &x->a;
	u32 back = as_here(a);
	struct cold *k = cold_add(x, COLD_STRING);

	k->insn = (u16)n;
	cold_site(k, &site);
	k->back = back;
	as_mov(a, BT_T0, reg);
	as_sub_gs(a, BT_T0, k->site);
	emit_bound(x, BT_T0, &site);
	k->from = as_jcc(a, 7, 0); /* ja */
	return k;
}

void emit_cold_string(struct xlate *x, const struct cold *k)
{
	const struct gi *g = &x->gi[k->insn];
	struct bt_asm *a = &x->a;

	as_patch(a, k->from, as_here(a));
	as_add_gs(a, BT_T0, k->site);
	emit_cold_range(x, k);
	emit_helper(x, g, g->helper, g->harg);
	as_jmp(a, k->done);
}

static void move_element(struct bt_asm *a, unsigned shift, bool load, int reg, int base, int index)
{
	/* A load of 1 or 2 bytes reads into the part of the register that is stored. */
	if (shift == 1)
		as_1(a, 0x66);
	as_mem(a, shift == 3, (load ? 0x8a : 0x88) | (shift > 0), reg, base, index, 0, 0);
}

void emit_few(struct xlate *x, unsigned n)
{
	const s32 addend = (s32)offsetof(struct bt_site, addend);
	const struct gi *g = &x->gi[n];
	bool move = g->helper == BT_H_MOVS;
	unsigned shift = g->harg & 3;
	struct cold *k[4];
	struct bt_asm *a = &x->a;
	u32 next, out;

	x->t1_group = -1;
	held_clear(x);
	as_cmp_i(a, RCX, FEW);
	k[0] = emit_to_helper(x, n, 7); /* ja */
	as_gs(a, false, 0xf6, 0, BT_GS_C(sflags) + SFLAGS_DF);
	as_1(a, SFLAGS_DF_BIT);
	k[1] = emit_to_helper(x, n, 5);
	k[2] = check_few(x, n, RDI, true);
	if (move)
		k[3] = check_few(x, n, RSI, false);
	as_ld_gs(a, BT_T1, k[2]->site + addend);
	next = as_here(a);
	out = as_jrcxz(a);
	if (move) {
		as_ld_gs(a, BT_T0, k[3]->site + addend);
		move_element(a, shift, true, BT_T0, RSI, BT_T0);
	}
	move_element(a, shift, false, move ? BT_T0 : RAX, RDI, BT_T1);
	as_lea(a, true, RDI, RDI, -1, 0, 1 << shift);
	if (move)
		as_lea(a, true, RSI, RSI, -1, 0, 1 << shift);
	as_lea(a, true, RCX, RCX, -1, 0, -1);
	as_jmp(a, next);
	as_patch8(a, out, as_here(a));
	k[0]->back = k[1]->back = k[2]->done = as_here(a);
	if (move)
		k[3]->done = as_here(a);
}
