// SPDX-License-Identifier: MIT
/* System instructions of 64-bit supervisor code that are too frequent for a call: CLI, STI, SWAPGS,
 * STAC, CLAC. CPL is 0 here, so none of them can fault.
 *
 * Each changes struct x86_cpu as its helper does (helpers.c). Where the helper has to look at
 * more than a word, or flags are live, it is called. */
#include "engine/bt/xlate.h"

#define CR4_SMAP_BYTE 2 /* CR4_SMAP is bit 21 */
#define CR4_SMAP_BIT  0x20
#define SFLAGS_IF     1 /* byte of sflags, and bit in it: RFLAGS.IF is bit 9 */
#define SFLAGS_IF_BIT 0x02
#define SFLAGS_AC     2 /* RFLAGS.AC is bit 18 */
#define SFLAGS_AC_BIT 0x04

_Static_assert(CR4_SMAP == 1ull << (8 * CR4_SMAP_BYTE + 5), "byte and bit");
_Static_assert(X86_RFLAGS_IF == 1ull << (8 * SFLAGS_IF + 1), "byte and bit");
_Static_assert(X86_RFLAGS_AC == 1ull << (8 * SFLAGS_AC + 2), "byte and bit");

/* 80 /n: byte %gs:disp with an immediate: 1 or, 4 and */
static void byte_gs(struct xlate *x, int n, s32 disp, u8 imm)
{
	as_gs(&x->a, false, 0x80, n, disp);
	as_1(&x->a, imm);
}

/* jcc to the helper's call, which comes back to `back` or leaves. */
static struct cold *to_helper(struct xlate *x, unsigned n, unsigned cc)
{
	struct cold *k = cold_add(x, COLD_HELPER);

	k->insn = (u16)n;
	k->from = as_jcc(&x->a, cc, 0);
	return k;
}

void emit_cold_helper(struct xlate *x, const struct cold *k)
{
	const struct gi *g = &x->gi[k->insn];

	as_patch(&x->a, k->from, as_here(&x->a));
	emit_helper(x, g, g->helper, g->harg);
	as_jmp(&x->a, k->back);
}

static void emit_cli(struct xlate *x)
{
	/* An interrupt that is waiting comes first: emit_body() polls. */
	byte_gs(x, 4, BT_GS_C(sflags) + SFLAGS_IF, (u8)~SFLAGS_IF_BIT);
}

static void emit_sti(struct xlate *x, unsigned n)
{
	struct cold *k;

	/* Is there any request? Then the helper, with its interrupt shadow. Else none can be
	 * taken before the next instruction: nobody looks in between. */
	as_ld_gs(&x->a, BT_T0, BT_GS_C(vcpu));
	as_mem(&x->a, false, 0x83, 7, BT_T0, -1, 0, (s32)offsetof(struct vcpu, req));
	as_1(&x->a, 0);
	k = to_helper(x, n, 5);
	byte_gs(x, 1, BT_GS_C(sflags) + SFLAGS_IF, SFLAGS_IF_BIT);
	k->back = as_here(&x->a);
}

static void emit_swapgs(struct xlate *x)
{
	const s32 base = BT_GS_C(seg) + (s32)(GS * sizeof(struct x86_seg)) +
	                 (s32)offsetof(struct x86_seg, base);
	struct bt_asm *a = &x->a;

	as_ld_gs(a, BT_T0, BT_GS_C(kernel_gs_base));
	as_ld_gs(a, BT_T1, base);
	as_st_gs(a, base, BT_T0);
	as_st_gs(a, BT_GS_C(segbase) + GS * 8, BT_T0);
	as_st_gs(a, BT_GS_C(kernel_gs_base), BT_T1);
}

/* To the other mode. What run.c does when modes change is done here. */
static void emit_stac(struct xlate *x, unsigned n)
{
	const struct gi *g = &x->gi[n];
	bool open = g->harg;
	u32 mode = x->mode & BTM_PAGE_MASK, exit;
	struct bt_asm *a = &x->a;
	struct cold *k[2] = {NULL, NULL};

	mode = open ? mode | BTM_AC : mode & ~(u32)BTM_AC;
	if (open) {
		as_st_gs(a, BT_GS(ac_sp), RSP);
		byte_gs(x, 1, BT_GS_C(sflags) + SFLAGS_AC, SFLAGS_AC_BIT);
	} else {
		/* Without SMAP nothing closes; and what was pushed on the return stack since it
		 * was opened is of the open mode. */
		as_gs(a, false, 0xf6, 0, BT_GS_C(cr4) + CR4_SMAP_BYTE); /* test */
		as_1(a, CR4_SMAP_BIT);
		k[0] = to_helper(x, n, 4);
		as_gs(a, true, 0x3b, RSP, BT_GS(ac_sp)); /* cmp rsp, gs:ac_sp */
		k[1] = to_helper(x, n, 2);
		byte_gs(x, 4, BT_GS_C(sflags) + SFLAGS_AC, (u8)~SFLAGS_AC_BIT);
	}
	as_ld_gs(a, BT_T0, BT_GS(set) + 8 * open);
	as_st_gs(a, BT_GS_C(tlb), BT_T0);
	as_gs(a, false, 0xc7, 0, BT_GS(mode));
	as_4(a, mode);
	exit = new_exit(x, g->target);
	x->bt->exits[exit].mode = mode;
	emit_exit_insn(x, exit, -1);
	if (open)
		return;
	/* The helper came back: nothing has changed. */
	k[0]->back = k[1]->back = as_here(a);
	emit_exit_insn(x, new_exit(x, g->target), -1);
}

void emit_system(struct xlate *x, unsigned n)
{
	const struct gi *g = &x->gi[n];

	x->t1_group = -1;
	if (g->live && g->kind != GI_SWAPGS) {
		emit_helper(x, g, g->helper, g->harg);
		if (g->kind == GI_STAC) /* where SMAP is off the mode stays */
			emit_exit_insn(x, new_exit(x, g->target), -1);
		return;
	}
	switch (g->kind) {
	case GI_CLI:
		emit_cli(x);
		break;
	case GI_STI:
		emit_sti(x, n);
		break;
	case GI_SWAPGS:
		emit_swapgs(x);
		break;
	default:
		emit_stac(x, n);
	}
}
