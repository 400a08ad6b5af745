// SPDX-License-Identifier: MIT
/* System instructions of 64-bit code that are too frequent for a call. CLI, STI, SWAPGS, STAC, CLAC
 * and PUSHF are the supervisor's here: CPL is 0, so none of them can fault but by its push.
 *
 * Each changes struct x86_cpu as its helper does (helpers.c). Where the helper has to look at
 * more than a word, or flags are live, it is called. */
#include "engine/bt/xlate.h"

#define CR4_SMAP_BYTE     2 /* CR4_SMAP is bit 21 */
#define CR4_SMAP_BIT      0x20
#define SFLAGS_IF         1 /* byte of sflags, and bit in it: RFLAGS.IF is bit 9 */
#define SFLAGS_IF_BIT     0x02
#define CR4_FSGSBASE_BYTE 2 /* CR4.FSGSBASE is bit 16 */
#define CR4_FSGSBASE_BIT  0x01
#define SFLAGS_AC         2 /* RFLAGS.AC is bit 18 */
#define SFLAGS_AC_BIT     0x04

_Static_assert(CR4_SMAP == 1ull << (8 * CR4_SMAP_BYTE + 5), "byte and bit");
_Static_assert(CR4_FSGSBASE == 1ull << (8 * CR4_FSGSBASE_BYTE), "byte and bit");
_Static_assert(CR4_TSD < 0x80, "in the first byte");
_Static_assert(X86_RFLAGS_IF == 1ull << (8 * SFLAGS_IF + 1), "byte and bit");
_Static_assert(X86_RFLAGS_AC == 1ull << (8 * SFLAGS_AC + 2), "byte and bit");

/* 80 /n: byte %gs:disp with an immediate: 1 or, 4 and */
static void byte_gs(struct xlate *x, int n, s32 disp, u8 imm)
{
	as_gs(&x->a, false, 0x80, n, disp);
	as_1(&x->a, imm);
}

struct cold *emit_to_helper(struct xlate *x, unsigned n, unsigned cc)
{
	struct cold *k = cold_add(x, COLD_HELPER);

	k->insn = (u16)n;
	k->saved = x->gi[n].live;
	k->from = as_jcc(&x->a, cc, 0);
	return k;
}

void emit_cold_helper(struct xlate *x, const struct cold *k)
{
	const struct gi *g = &x->gi[k->insn];

	as_patch(&x->a, k->from, as_here(&x->a));
	if (k->saved)
		emit_flags_restore(x, BT_T0);
	if (g->kind == GI_COPY) { /* a division; does not come back */
		emit_helper(x, g, BT_H_DE, 0);
		return;
	}
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
	k = emit_to_helper(x, n, 5);
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

	if (g->live)
		emit_flags_save(x);
	mode = open ? mode | BTM_AC : mode & ~(u32)BTM_AC;
	if (open) {
		as_st_gs(a, BT_GS(ac_sp), RSP);
		byte_gs(x, 1, BT_GS_C(sflags) + SFLAGS_AC, SFLAGS_AC_BIT);
	} else {
		/* Without SMAP nothing closes; and what was pushed on the return stack since it
		 * was opened is of the open mode. */
		as_gs(a, false, 0xf6, 0, BT_GS_C(cr4) + CR4_SMAP_BYTE); /* test */
		as_1(a, CR4_SMAP_BIT);
		k[0] = emit_to_helper(x, n, 4);
		as_gs(a, true, 0x3b, RSP, BT_GS(ac_sp)); /* cmp rsp, gs:ac_sp */
		k[1] = emit_to_helper(x, n, 2);
		byte_gs(x, 4, BT_GS_C(sflags) + SFLAGS_AC, (u8)~SFLAGS_AC_BIT);
	}
	if (g->live)
		emit_flags_restore(x, BT_T0);
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

/* The entry of every exception has it. Code of this mode may run while access is open (run.c). */
static void emit_closed(struct xlate *x, unsigned n)
{
	struct cold *k;

	as_ld_gs(&x->a, BT_T0, BT_GS_C(tlb));
	as_gs(&x->a, true, 0x3b, BT_T0, BT_GS(set)); /* cmp */
	k = emit_to_helper(x, n, 5);
	k->back = as_here(&x->a);
}

/* Into general register r, from a register that is not used any more. 16 bits leave the rest. */
static void to_gpr(struct xlate *x, unsigned r, unsigned bits, int from)
{
	int home = bt_home(r);

	if (bits == 16) {
		as_1(&x->a, 0x66);
		if (home >= 0)
			as_rr(&x->a, false, 0x89, from, home);
		else
			as_st32_gs(&x->a, BT_GS_GPR(r), from);
		return;
	}
	if (home >= 0)
		as_rr(&x->a, bits == 64, 0x89, from, home);
	else if (bits == 32)
		as_rr(&x->a, false, 0x89, from, from);
	if (home < 0)
		as_st_gs(&x->a, BT_GS_GPR(r), from);
}

static void emit_from_sreg(struct xlate *x, const struct gi *g)
{
	as_1(&x->a, 0x65); /* movzx r14d, word ptr gs:sel */
	as_rex(&x->a, false, BT_T0, 0, 0);
	as_1(&x->a, 0x0f);
	as_1(&x->a, 0xb7);
	as_modrm_mem(&x->a, BT_T0, -1, -1, 0,
	             BT_GS_C(seg) + (s32)((g->arg >> 4) * sizeof(struct x86_seg)) +
	                     (s32)offsetof(struct x86_seg, sel));
	to_gpr(x, g->arg & 15, g->i.operand_width, BT_T0);
}

/* Without CR4.FSGSBASE the helper raises #UD, as it raises #GP(0) for what is not canonical. */
static void emit_base(struct xlate *x, unsigned n)
{
	const struct gi *g = &x->gi[n];
	enum x86_segreg s = g->harg & 16 ? GS : FS;
	const s32 base = BT_GS_C(seg) + (s32)(s * sizeof(struct x86_seg)) +
	                 (s32)offsetof(struct x86_seg, base);
	unsigned r = g->harg & 15;
	struct bt_asm *a = &x->a;
	struct cold *k[2] = {NULL, NULL};
	bool w = g->harg & 32;

	as_gs(a, false, 0xf6, 0, BT_GS_C(cr4) + CR4_FSGSBASE_BYTE); /* test */
	as_1(a, CR4_FSGSBASE_BIT);
	k[0] = emit_to_helper(x, n, 4);
	if (g->helper == BT_H_RDFSGSBASE) {
		as_ld_gs(a, BT_T0, base);
		to_gpr(x, r, w ? 64 : 32, BT_T0);
	} else {
		if (bt_home(r) >= 0)
			as_rr(a, w, 0x89, bt_home(r), BT_T0);
		else
			as_gs(a, w, 0x8b, BT_T0, BT_GS_GPR(r));
		as_mov(a, BT_T1, BT_T0);
		as_rr(a, true, 0xc1, 4, BT_T1); /* shl, sar: canonical? */
		as_1(a, 16);
		as_rr(a, true, 0xc1, 7, BT_T1);
		as_1(a, 16);
		as_rr(a, true, 0x3b, BT_T1, BT_T0);
		k[1] = emit_to_helper(x, n, 5);
		as_st_gs(a, base, BT_T0);
		as_st_gs(a, BT_GS_C(segbase) + (s32)s * 8, BT_T0);
	}
	for (unsigned i = 0; i < 2; i++)
		if (k[i])
			k[i]->back = as_here(a);
}

/* LFENCE keeps the order that RDTSCP promises (SDM 2B). */
static void emit_rdtsc(struct xlate *x, unsigned n)
{
	static const u8 lfence[] = {0x0f, 0xae, 0xe8}, rdtsc[] = {0x0f, 0x31};
	bool p = x->gi[n].i.mnemonic == ZYDIS_MNEMONIC_RDTSCP;
	struct bt_asm *a = &x->a;
	struct cold *k = NULL;

	if (x->user) { /* CR4.TSD */
		as_gs(a, false, 0xf6, 0, BT_GS_C(cr4));
		as_1(a, CR4_TSD);
		k = emit_to_helper(x, n, 5);
	}
	if (p)
		as_bytes(a, lfence, sizeof(lfence));
	as_bytes(a, rdtsc, sizeof(rdtsc));
	as_rr(a, true, 0xc1, 4, RDX); /* shl */
	as_1(a, 32);
	as_lea(a, true, RDX, RDX, RAX, 0, 0);
	as_add_gs(a, RDX, BT_GS_C(tsc_offset));
	as_rr(a, false, 0x89, RDX, RAX);
	as_rr(a, true, 0xc1, 5, RDX); /* shr */
	as_1(a, 32);
	if (p)
		as_ld32_gs(a, RCX, BT_GS_C(tsc_aux));
	if (k)
		k->back = as_here(a);
}

/* The arithmetic flags are the host's; the others are in sflags. Behind the check of the push, so
 * that they may go. */
static void emit_pushf(struct xlate *x, unsigned n)
{
	static const u8 flags[] = {
		0x9f,             /* lahf */
		0x0f, 0x90, 0xc0, /* seto al */
		0x0f, 0xb7, 0xc0, /* movzx eax, ax */
	};
	struct bt_asm *a = &x->a;
	struct mem_ref ref;
	int t;

	emit_check_stack(x, n, BT_SP, -8, 8, true, &ref);
	t = ref.spare;
	x->t1_group = -1;
	as_st_gs(a, BT_GS(save[0]), RAX);
	as_bytes(a, flags, sizeof(flags));
	as_rr(a, false, 0x89, RAX, t);
	as_rr(a, false, 0xc1, 5, t); /* shr */
	as_1(a, 8);
	as_alu_i(a, false, 4, RAX, 1);
	as_rr(a, false, 0xc1, 4, RAX); /* shl: OF */
	as_1(a, 11);
	as_rr(a, false, 0x09, RAX, t); /* or */
	as_ld32_gs(a, RAX, BT_GS_C(sflags));
	as_alu_i(a, false, 4, RAX, (s32) ~(AFLAGS | X86_RFLAGS_VM | X86_RFLAGS_RF));
	as_rr(a, false, 0x09, RAX, t);
	as_alu_i(a, false, 1, t, X86_RFLAGS_FIXED); /* or */
	as_ld_gs(a, RAX, BT_GS(save[0]));
	as_mem(a, true, 0x89, t, ref.base, ref.index == 0xff ? -1 : ref.index, 0, ref.disp);
	as_lea(a, true, BT_SP, BT_SP, -1, 0, -8);
}

/* ---- helpers that are called seldom ---- */

/* SYSCALL and SYSRET, which the stub does where it can. */
static void emit_transfer(struct xlate *x, const struct gi *g)
{
	enum bt_stub stub = g->helper == BT_H_SYSCALL ? STUB_SYSCALL : STUB_SYSRET;
	u32 slow;

	if (x->code64 && (stub == STUB_SYSCALL ? x->user : !x->user && g->harg == 8)) {
		x->t1_group = -1;
		held_clear(x);
		emit_va(x, BT_T0, g->off + g->len);
		as_rex(&x->a, true, BT_T1, 0, 0); /* lea r15, [rip + slow] */
		as_1(&x->a, 0x8d);
		as_1(&x->a, 0x05 | (BT_T1 & 7) << 3);
		slow = as_rel32(&x->a, 0);
		as_jmp(&x->a, (u32)(x->bt->stub[stub] - (uintptr_t)x->bt->cache.rx));
		as_patch(&x->a, slow, as_here(&x->a));
	}
	emit_helper(x, g, g->helper, g->harg);
}

void emit_helped(struct xlate *x, unsigned n)
{
	const struct gi *g = &x->gi[n];

	if (g->helper == BT_H_SYSCALL || g->helper == BT_H_SYSRET)
		emit_transfer(x, g);
	else if ((g->helper == BT_H_MOVS || g->helper == BT_H_STOS) && x->code64 && !g->live)
		emit_few(x, n);
	else
		emit_helper(x, g, g->helper, g->harg);
}

/* Must it be called? Because the flags that it changes are needed. */
static bool must_call(const struct gi *g)
{
	if (g->kind == GI_SWAPGS || g->kind == GI_FROM_SREG || g->kind == GI_STAC)
		return false;
	return g->kind == GI_PUSHF ? g->after : g->live;
}

void emit_system(struct xlate *x, unsigned n)
{
	const struct gi *g = &x->gi[n];

	if (g->kind == GI_PUSHF && !must_call(g)) {
		emit_pushf(x, n); /* may use a merged check */
		return;
	}
	x->t1_group = -1;
	if (must_call(g)) {
		emit_helper(x, g, g->helper, g->harg);
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
	case GI_FROM_SREG:
		emit_from_sreg(x, g);
		break;
	case GI_BASE:
		emit_base(x, n);
		break;
	case GI_RDTSC:
		emit_rdtsc(x, n);
		break;
	case GI_DF:
		byte_gs(x, g->arg ? 1 : 4, BT_GS_C(sflags) + SFLAGS_DF,
		        g->arg ? SFLAGS_DF_BIT : (u8)~SFLAGS_DF_BIT);
		break;
	case GI_CLOSED:
		emit_closed(x, n);
		break;
	default:
		emit_stac(x, n);
	}
}
