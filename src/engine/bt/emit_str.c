// SPDX-License-Identifier: MIT
/* MOVS, STOS and LODS of one element: what compilers that mind the code's size make of `*d++ =
 * *s++`, boot loaders' copies above all. With REP they are helpers (strings.c).
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
