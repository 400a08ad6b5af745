// SPDX-License-Identifier: MIT
/* A unit: its instructions, branches and exits, the ways in, the cold code behind it.
 *
 * Polls: translated code must come out soon when attn is set, without a signal. Every endless loop
 * goes backward by a direct branch, or by an indirect one, or by a return that finds no landing;
 * so backward direct branches poll (at the label where flags are dead there, else at the branch),
 * and indirect entries poll. A matched return goes forward only.
 *
 * Where flags are live, comparisons are made with LEA and JRCXZ. */
#include "engine/bt/xlate.h"

#include "base/log.h"

static u32 stub_off(const struct xlate *x, enum bt_stub s)
{
	return (u32)(x->bt->stub[s] - (uintptr_t)x->bt->cache.rx);
}

/* ---- exits ---- */

u32 new_exit(struct xlate *x, s32 rel)
{
	struct bt_vm *bt = x->bt;

	if (bt->nr_exits == bt->max_exits) {
		x->full = true;
		return 0;
	}
	bt->exits[bt->nr_exits] =
		(struct bt_exit){.page = x->page, .mode = x->mode & BTM_PAGE_MASK, .delta = rel};
	return bt->nr_exits++;
}

/* A rel32 that is patched while others run it lies within a cache line. */
static void align_patch(struct xlate *x, unsigned opcode_len)
{
	if (((as_here(&x->a) + opcode_len) & 63) > 60)
		as_align(&x->a, 64, opcode_len);
}

static void cold_exit(struct xlate *x, u32 exit, u32 from)
{
	struct cold *k = cold_add(x, COLD_EXIT);

	k->exit = exit;
	k->from = from;
}

/* cc < 0: jmp; 16: call */
void emit_exit_insn(struct xlate *x, u32 exit, int cc)
{
	u32 at;

	align_patch(x, cc >= 0 && cc < 16 ? 2 : 1);
	if (cc == 16)
		at = as_call(&x->a, 0);
	else if (cc >= 0)
		at = as_jcc(&x->a, (unsigned)cc, 0);
	else
		at = as_jmp(&x->a, 0);
	x->bt->exits[exit].patch = at;
	cold_exit(x, exit, at);
}

/* ---- polls ---- */

/* To the exit's cold code when attn is set. */
void emit_poll(struct xlate *x, u32 exit, bool live)
{
	struct bt_asm *a = &x->a;
	u32 ok;

	if (!live) {
		as_cmp32_gs_i8(a, BT_GS(attn), 0);
		cold_exit(x, exit, as_jcc(a, 5, 0));
		return;
	}
	as_st_gs(a, BT_GS(save[7]), RCX);
	as_ld32_gs(a, RCX, BT_GS(attn));
	ok = as_jrcxz(a);
	as_ld_gs(a, RCX, BT_GS(save[7]));
	cold_exit(x, exit, as_jmp(a, 0));
	as_patch8(a, ok, as_here(a));
	as_ld_gs(a, RCX, BT_GS(save[7]));
}

static bool label_polls(const struct gi *g)
{
	return g->backward && !g->live;
}

/* ---- direct branches ---- */

static void add_fix(struct xlate *x, u32 at, int insn, bool again)
{
	if (x->nr_fix == ARRAY_SIZE(x->fix)) {
		x->full = true;
		return;
	}
	x->fix[x->nr_fix++] = (struct fixup){.at = at, .insn = (u16)insn, .again = again};
}

/* The jump itself, its poll done. */
static void emit_goto(struct xlate *x, const struct gi *g, s32 rel, int cc)
{
	if (g->inner >= 0 && rel == g->target)
		add_fix(x, cc < 0 ? as_jmp(&x->a, 0) : as_jcc(&x->a, (unsigned)cc, 0), g->inner,
		        x->gi[g->inner].loop_end == (int)(g - x->gi));
	else
		emit_exit_insn(x, new_exit(x, rel), cc);
}

/* Does the branch have to poll? Forward ones and those to a label that does don't. */
static bool must_poll(const struct xlate *x, const struct gi *g)
{
	if (g->target > (s32)g->off)
		return false;
	return g->inner < 0 || !label_polls(&x->gi[g->inner]);
}

static u8 live_there(const struct xlate *x, const struct gi *g)
{
	return g->inner >= 0 ? x->gi[g->inner].live : g->there_live;
}

static void emit_jcc(struct xlate *x, const struct gi *g)
{
	int cc = (int)(g->arg & 15);
	u32 skip;

	if (!must_poll(x, g)) {
		emit_goto(x, g, g->target, cc);
		return;
	}
	skip = as_jcc(&x->a, (unsigned)cc ^ 1, 0);
	emit_poll(x, new_exit(x, g->target), live_there(x, g));
	emit_goto(x, g, g->target, -1);
	as_patch(&x->a, skip, as_here(&x->a));
}

static void emit_jmp(struct xlate *x, const struct gi *g)
{
	if (must_poll(x, g))
		emit_poll(x, new_exit(x, g->target), live_there(x, g));
	emit_goto(x, g, g->target, -1);
}

static void emit_jrcxz(struct xlate *x, const struct gi *g)
{
	u32 zero, over;

	if (g->arg & 1) /* LOOP */
		as_lea(&x->a, x->code64, RCX, RCX, -1, 0, -1);
	if (!x->code64)
		as_1(&x->a, 0x67); /* jecxz */
	zero = as_jrcxz(&x->a);
	if (g->arg & 1) {
		if (must_poll(x, g))
			emit_poll(x, new_exit(x, g->target), live_there(x, g));
		emit_goto(x, g, g->target, -1);
		as_patch8(&x->a, zero, as_here(&x->a));
		return;
	}
	as_1(&x->a, 0xeb);
	as_1(&x->a, 0);
	over = as_here(&x->a) - 1;
	as_patch8(&x->a, zero, as_here(&x->a));
	if (must_poll(x, g))
		emit_poll(x, new_exit(x, g->target), live_there(x, g));
	emit_goto(x, g, g->target, -1);
	as_patch8(&x->a, over, as_here(&x->a));
}

/* ---- calls and returns ---- */

/* Compare BT_T0 with the virtual address of page offset `off`, keeping flags: go on if equal, else
 * BT_T0 is as it was and control goes to `bad`. */
static void emit_compare_live(struct xlate *x, unsigned off, u32 bad, bool poll)
{
	struct bt_asm *a = &x->a;
	u32 ok, ok2 = 0;

	as_ld_gs(a, BT_T1, BT_GS_PB(x->page));
	as_rr(a, true, 0xf7, 2, BT_T1); /* not */
	as_lea(a, true, BT_T1, BT_T0, BT_T1, 0, 1 - (s32)off);
	as_st_gs(a, BT_GS(save[7]), RCX);
	as_mov(a, RCX, BT_T1);
	ok = as_jrcxz(a);
	as_ld_gs(a, RCX, BT_GS(save[7]));
	as_jmp(a, bad);
	as_patch8(a, ok, as_here(a));
	if (poll) {
		as_ld32_gs(a, RCX, BT_GS(attn));
		ok2 = as_jrcxz(a);
		as_ld_gs(a, RCX, BT_GS(save[7]));
		as_jmp(a, bad);
		as_patch8(a, ok2, as_here(a));
	}
	as_ld_gs(a, RCX, BT_GS(save[7]));
}

static void emit_landing(struct xlate *x, unsigned n)
{
	const struct gi *g = &x->gi[n];
	unsigned off = g->off + g->len;
	const struct gi *next = n + 1 < x->nr ? &x->gi[n + 1] : NULL;
	struct cold *k;

	/* A RET has destroyed the flags anyway, unless the code here was seen to read them; in
	 * strict code they may be read where it went instead. */
	if (x->bt->strict_flags[x->user] || (next ? next->reads : x->last)) {
		emit_compare_live(x, off,
		                  stub_off(x, x->user ? STUB_INDIRECT_USER : STUB_INDIRECT_SUP),
		                  false);
		return;
	}
	as_sub_gs(&x->a, BT_T0, BT_GS_PB(x->page));
	as_cmp_i(&x->a, BT_T0, (s32)off);
	k = cold_add(x, COLD_RET_MISS);
	k->from = as_jcc(&x->a, 5, 0);
}

static void emit_source(struct xlate *x, const struct gi *g, enum bt_source_kind kind)
{
	if (!x->code64)
		return;
	as_gs(&x->a, false, 0xc7, 0, BT_GS(source));
	as_4(&x->a, BT_SOURCE(x->page, g->off, kind));
}

/* jmp or call through the jump cache; the target is in BT_T0. */
static void emit_indirect(struct xlate *x, const struct gi *g, bool call)
{
	static const u8 index[] = BT_JC_CODE;
	struct bt_asm *a = &x->a;

	x->t1_group = -1;
	emit_source(x, g, call ? BT_SOURCE_CALL : BT_SOURCE_JMP);
	as_bytes(a, index, sizeof(index));
	as_1(a, 0x65);
	as_mem(a, false, 0xff, call ? 2 : 4, -1, BT_T1, 3, BT_GS(jc[x->user]));
}

/* Push the return address; the host's register for it is scratch. */
static void emit_push_return(struct xlate *x, unsigned n)
{
	const struct gi *g = &x->gi[n];
	unsigned word = x->code64 ? 8 : 4;
	struct mem_ref ref;

	emit_check_stack(x, n, BT_SP, -(s32)word, word, true, &ref);
	if (g->kind == GI_CALL_IND && x->code64) { /* run.c, back_to_source() */
		as_mem(&x->a, true, 0x8b, ref.spare, ref.base, ref.index == 0xff ? -1 : ref.index,
		       0, ref.disp);
		as_st_gs(&x->a, BT_GS(overwritten), ref.spare);
	}
	emit_va(x, ref.spare, g->off + g->len);
	as_mem(&x->a, x->code64, 0x89, ref.spare, ref.base, ref.index == 0xff ? -1 : ref.index, 0,
	       ref.disp);
	as_lea(&x->a, x->code64, BT_SP, BT_SP, -1, 0, -(s32)word);
}

static void emit_call(struct xlate *x, unsigned n)
{
	const struct gi *g = &x->gi[n];

	emit_push_return(x, n);
	emit_exit_insn(x, new_exit(x, g->target), 16);
	emit_landing(x, n);
}

/* Target of an indirect branch into BT_T0. */
static void emit_target(struct xlate *x, unsigned n)
{
	const struct gi *g = &x->gi[n];
	struct mem_ref ref;
	unsigned r;
	int home;

	if (g->mem >= 0) {
		emit_check_operand(x, n, false, &ref);
		as_mem(&x->a, x->code64, 0x8b, BT_T0, ref.base, ref.index == 0xff ? -1 : ref.index,
		       ref.scale, ref.disp);
		return;
	}
	r = reg_number(g->o[0].reg.value);
	home = bt_home(r);
	if (home >= 0)
		as_rr(&x->a, x->code64, 0x89, home, BT_T0);
	else
		as_gs(&x->a, x->code64, 0x8b, BT_T0, BT_GS_GPR(r));
}

static void emit_call_ind(struct xlate *x, unsigned n)
{
	if (x->gi[n].mem >= 0 || x->gi[n].o[0].reg.value == ZYDIS_REGISTER_RSP ||
	    x->gi[n].o[0].reg.value == ZYDIS_REGISTER_ESP) {
		emit_target(x, n);
		as_st_gs(&x->a, BT_GS(save[0]), BT_T0);
		emit_push_return(x, n);
		as_ld_gs(&x->a, BT_T0, BT_GS(save[0]));
	} else { /* the push changes no other register */
		emit_push_return(x, n);
		emit_target(x, n);
	}
	emit_indirect(x, &x->gi[n], true);
	emit_landing(x, n);
}

static void emit_ret(struct xlate *x, unsigned n)
{
	const struct gi *g = &x->gi[n];
	unsigned word = x->code64 ? 8 : 4;
	struct mem_ref ref;

	emit_check_stack(x, n, BT_SP, 0, word, false, &ref);
	as_mem(&x->a, x->code64, 0x8b, BT_T0, ref.base, ref.index == 0xff ? -1 : ref.index, 0,
	       ref.disp);
	as_lea(&x->a, x->code64, BT_SP, BT_SP, -1, 0, (s32)(word + g->arg));
	emit_source(x, g, BT_SOURCE_RET);
	as_1(&x->a, 0xc3);
}

static void emit_one(struct xlate *x, unsigned n)
{
	const struct gi *g = &x->gi[n];

	switch ((enum gi_kind)g->kind) {
	case GI_JMP:
		emit_jmp(x, g);
		break;
	case GI_JCC:
		emit_jcc(x, g);
		break;
	case GI_JRCXZ:
		emit_jrcxz(x, g);
		break;
	case GI_CALL:
		emit_call(x, n);
		break;
	case GI_CALL_IND:
		emit_call_ind(x, n);
		break;
	case GI_JMP_IND:
		emit_target(x, n);
		emit_indirect(x, g, false);
		break;
	case GI_RET:
		emit_ret(x, n);
		break;
	case GI_CLI:
	case GI_STI:
	case GI_SWAPGS:
	case GI_PUSHF:
	case GI_FROM_SREG:
	case GI_BASE:
	case GI_RDTSC:
	case GI_DF:
	case GI_CLOSED:
	case GI_STAC:
		emit_system(x, n);
		break;
	default:
		emit_insn(x, n);
	}
}

/* ---- ways in ---- */

static u32 emit_indirect_entry(struct xlate *x, const struct gi *g)
{
	struct bt_asm *a = &x->a;
	u32 at = as_here(a), lookup = stub_off(x, STUB_LOOKUP);

	if (g->live) {
		emit_compare_live(x, g->off, lookup, true);
		return at;
	}
	as_mov(a, BT_T1, BT_T0);
	as_sub_gs(a, BT_T1, BT_GS_PB(x->page));
	as_cmp_i(a, BT_T1, g->off);
	as_jcc(a, 5, lookup);
	as_cmp32_gs_i8(a, BT_GS(attn), 0);
	as_jcc(a, 5, lookup);
	return at;
}

static void add_entry(struct xlate *x, const struct gi *g, u32 indirect)
{
	const struct bt_entry e = {.page = x->page,
	                           .off = g->off,
	                           .single = x->mode & BTM_SINGLE,
	                           .live = g->live,
	                           .reads = g->reads,
	                           .unit = x->unit,
	                           .body = g->host,
	                           .start = g->start,
	                           .indirect = indirect};

	if (bt_entry_add(x->bt, &e) == BT_NONE)
		x->full = true;
}

/* Labels that nobody has translated before. */
static void emit_entries(struct xlate *x, u32 first)
{
	for (unsigned n = 0; n < x->nr && !x->full; n++) {
		const struct gi *g = &x->gi[n];
		u32 at = first;

		if (!g->label || ((x->mode & BTM_SINGLE) && n))
			continue;
		if (n) {
			if (bt_entry_find(x->bt, x->page, g->off, x->mode & BTM_SINGLE) != BT_NONE)
				continue;
			at = emit_indirect_entry(x, g);
			as_jmp(&x->a, g->host);
		}
		add_entry(x, g, at);
	}
}

/* ---- cold code ---- */

static void emit_cold(struct xlate *x)
{
	struct bt_asm *a = &x->a;

	/* The list grows on the way: a group's cold code has an exit. */
	for (unsigned i = 0; i < x->nr_cold && !x->full; i++) {
		const struct cold one = x->cold[i], *k = &one;
		struct bt_exit *e = &x->bt->exits[k->exit];

		x->full |= bt_asm_full(a);
		switch ((enum cold_kind)k->kind) {
		case COLD_MISS:
			emit_cold_miss(x, k);
			break;
		case COLD_GROUP:
			emit_cold_group(x, k);
			break;
		case COLD_ROUND:
			as_patch(a, k->from, as_here(a));
			emit_poll(x, new_exit(x, x->gi[k->insn].off), false);
			as_jmp(a, x->gi[k->insn].setup);
			break;
		case COLD_HELPER:
			emit_cold_helper(x, k);
			break;
		case COLD_STRING:
			emit_cold_string(x, k);
			break;
		case COLD_STRADDLE: /* does not come back */
			as_patch(a, k->from, as_here(a));
			emit_helper(x, &x->gi[k->insn], BT_H_STRADDLE, x->page2);
			break;
		case COLD_RET_MISS:
			as_patch(a, k->from, as_here(a));
			as_add_gs(a, BT_T0, BT_GS_PB(x->page));
			as_jmp(a, stub_off(x, x->user ? STUB_INDIRECT_USER : STUB_INDIRECT_SUP));
			break;
		default:
			as_patch(a, k->from, as_here(a));
			if (!e->stub)
				e->stub = as_here(a);
			as_mov_i32(a, BT_T1, k->exit);
			as_jmp(a, stub_off(x, STUB_EXIT));
		}
	}
}

static void apply_fixups(struct xlate *x, u32 end)
{
	for (unsigned i = 0; i < x->nr_fix; i++) {
		const struct fixup *f = &x->fix[i];
		const struct gi *g = &x->gi[f->insn];

		as_patch(&x->a, f->at, f->insn >= x->nr ? end : f->again ? g->again : g->host);
	}
}

/* ---- the unit ---- */

static bool falls_through(const struct gi *g)
{
	return g->kind != GI_JMP && g->kind != GI_RET && g->kind != GI_JMP_IND &&
	       g->kind != GI_STAC;
}

/* Who comes from elsewhere has polled. A round polls, unless there is a limit to what it may do
 * without. */
static void emit_loop_head(struct xlate *x, unsigned n)
{
	struct gi *g = &x->gi[n];
	struct cold *k;
	u32 over;

	g->setup = as_here(&x->a);
	emit_loop_setup(x, n);
	as_align(&x->a, 32, 0);
	g->again = as_here(&x->a);
	if (g->loop_key >= 0) {
		as_gs(&x->a, true, 0x3b, bt_home((unsigned)g->loop_key), BT_GS(loop_limit));
		k = cold_add(x, COLD_ROUND);
		k->from = as_jcc(&x->a, 13, 0); /* jge */
		k->insn = (u16)n;
		return;
	}
	as_1(&x->a, 0xeb);
	as_1(&x->a, 0);
	over = as_here(&x->a) - 1;
	g->again = as_here(&x->a);
	emit_poll(x, new_exit(x, g->off), false);
	as_patch8(&x->a, over, as_here(&x->a));
}

/* The first instruction reaches into page2: is this the page behind it here? Where it isn't, or
 * where page2 was modified, which closes it, the cold code has the instruction done otherwise. */
static void emit_straddle_check(struct xlate *x)
{
	struct bt_asm *a = &x->a;
	struct cold *k;
	u32 good;

	k = cold_add(x, COLD_STRADDLE);
	k->insn = 0;
	as_ld_gs(a, BT_T0, BT_GS_PB(x->page2));
	if (!x->gi[0].live) {
		as_sub_gs(a, BT_T0, BT_GS_PB(x->page));
		as_cmp_i(a, BT_T0, PAGE_SIZE);
		k->from = as_jcc(a, 5, 0);
		return;
	}
	as_st_gs(a, BT_GS(save[7]), RCX);
	as_ld_gs(a, RCX, BT_GS_PB(x->page));
	as_rr(a, true, 0xf7, 2, RCX); /* not */
	as_lea(a, true, RCX, RCX, BT_T0, 0, 1 - (s32)PAGE_SIZE);
	good = as_jrcxz(a);
	as_ld_gs(a, RCX, BT_GS(save[7]));
	k->from = as_jmp(a, 0);
	as_patch8(a, good, as_here(a));
	as_ld_gs(a, RCX, BT_GS(save[7]));
}

static bool reaches_over(const struct xlate *x)
{
	return x->page2 != BT_NONE && x->gi[0].off + x->gi[0].len > PAGE_SIZE;
}

static bool is_system(const struct gi *g)
{
	return g->kind >= GI_CLI && g->kind <= GI_STAC;
}

/* Does the code of this kind keep account of what is in the scratch registers? */
static bool keeps_held(const struct gi *g)
{
	return g->kind == GI_NOP || g->kind == GI_COPY || g->kind == GI_LEA || g->kind == GI_PUSH ||
	       g->kind == GI_POP || g->kind == GI_JCC;
}

/* Can it fault, miss, or go elsewhere? Then what it leaves behind must be complete. */
static bool may_leave(const struct gi *g)
{
	return !(g->kind == GI_NOP || g->kind == GI_LEA ||
	         (g->kind == GI_COPY && g->mem < 0 && g->info.cls == INSN_INT &&
	          g->i.mnemonic != ZYDIS_MNEMONIC_DIV && g->i.mnemonic != ZYDIS_MNEMONIC_IDIV));
}

static void emit_body(struct xlate *x)
{
	unsigned colds;
	int loop_end = -1;

	for (unsigned n = 0; n < x->nr && !x->full; n++) {
		struct gi *g = &x->gi[n];

		x->full |= bt_asm_full(&x->a);
		if (g->label) {
			x->t1_group = -1;
			x->pin[0] = x->pin[1] = -1;
			held_clear(x);
		}
		if (g->loop_end >= 0)
			loop_end = g->loop_end;
		g->host = as_here(&x->a);
		if (!keeps_held(g))
			held_clear(x);
		else if (may_leave(g))
			held_flush(x);
		if (g->label && label_polls(g))
			emit_poll(x, new_exit(x, g->off), false);
		/* Before a call has pushed anything, and before CLI: an exit to the instruction
		 * itself. */
		if ((g->kind == GI_CALL && g->target <= (s32)g->off) ||
		    (g->kind == GI_CLI && !g->live))
			emit_poll(x, new_exit(x, g->off), g->live);
		g->start = as_here(&x->a);
		if (!n && reaches_over(x))
			emit_straddle_check(x);
		if (g->loop_end >= 0)
			emit_loop_head(x, n);
		for (unsigned i = 0; i < x->nr_groups; i++)
			if (x->groups[i].at == n && !x->groups[i].loop)
				emit_group_check(x, i, n);
		colds = x->nr_cold;
		emit_one(x, n);
		if (!keeps_held(g))
			held_clear(x);
		if ((int)n == loop_end)
			x->pin[0] = x->pin[1] = -1;
		for (unsigned i = colds; i < x->nr_cold; i++) {
			memcpy(x->cold[i].held, x->held, sizeof(x->held));
			x->cold[i].t1_group = (s16)x->t1_group;
		}
	}
	held_clear(x);
}

static void trace_unit(const struct xlate *x)
{
	const struct trace *t = &x->c->vcpu->vm->trace;
	u64 va = bt_of(x->c)->pb[x->page];
	ZydisFormatter f;

	ZydisFormatterInit(&f, ZYDIS_FORMATTER_STYLE_INTEL);
	trace_msg(t, "in_asm vcpu%u bt mode %#x gpa %#llx unit %u:", x->c->vcpu->index, x->mode,
	          (unsigned long long)(x->gpa + x->gi[0].off), x->unit);
	for (unsigned n = 0; n < x->nr; n++) {
		const struct gi *g = &x->gi[n];
		char text[128] = "(bad)";

		if (g->i.length)
			ZydisFormatterFormatInstruction(&f, &g->i, g->o, g->i.operand_count_visible,
			                                text, sizeof(text), va + g->off, NULL);
		trace_msg(t, "  %#018llx: %-40s%s live %02x host %#x",
		          (unsigned long long)(va + g->off), text, g->label ? " label" : "",
		          g->live, g->host);
	}
}

static void emit_at(struct xlate *x, u32 at)
{
	u8 *base = x->bt->cache.rw;

	x->a = (struct bt_asm){.base = base, .p = base + at, .end = base + at + UNIT_MAX_BYTES};
}

static void prepare(struct xlate *x, struct bt_vm *bt, struct x86_cpu *c, u32 page, u32 mode,
                    const u8 *code)
{
	x->bt = bt;
	x->c = c;
	x->page = page;
	x->mode = mode;
	x->gpa = bt->pages[page].gpa;
	x->code64 = mode & BTM_CODE64;
	x->user = mode & BTM_USER;
	x->code = code;
	x->cls_r = x->user ? BT_USER_R : mode & BTM_AC ? BT_SUPAC_R : BT_SUP_R;
	x->cls_w = x->cls_r + 1;
	x->nr_fix = x->nr_cold = 0;
	x->nr_stack[0] = x->nr_stack[1] = 0;
	if (!x->feat)
		x->feat = insn_features(c);
	x->full = false;
	x->last = 0;
	x->held[0] = x->held[1] = -1;
	x->held_dirty[0] = x->held_dirty[1] = false;
	x->pin[0] = x->pin[1] = -1;
	x->unit = bt->nr_units;
	emit_at(x, ALIGN_UP(bt->cache.used, 16u));
}

static bool room_left(struct bt_vm *bt)
{
	return bt->nr_units < bt->max_units && bt->nr_insns + UNIT_MAX_INSNS < bt->max_insns &&
	       bt->nr_exits + 3 * UNIT_MAX_INSNS < bt->max_exits &&
	       bt->nr_entries + UNIT_MAX_INSNS < bt->max_entries &&
	       bt_cache_room(&bt->cache, UNIT_MAX_BYTES + 64, UNIT_MAX_BYTES + 64);
}

/* Code from `start` to `end`, and cold code up to here. */
static void commit(struct xlate *x, u32 start, u32 end)
{
	struct bt_vm *bt = x->bt;
	struct bt_cpu *b = bt_of(x->c);
	const struct gi *last = &x->gi[x->nr - 1];

	bt->units[bt->nr_units++] = (struct bt_unit){.page = x->page,
	                                             .page2 = x->page2,
	                                             .mode = x->mode,
	                                             .host = start,
	                                             .host_end = end,
	                                             .insns = bt->nr_insns,
	                                             .nr_insns = x->nr,
	                                             .next = bt->pages[x->page].units};
	bt->pages[x->page].units = x->unit;
	for (unsigned n = 0; n < x->nr; n++)
		bt->insns[bt->nr_insns++] = (struct bt_insn){
			.host = x->gi[n].host, .guest = x->gi[n].off, .len = x->gi[n].len};
	b->stat[BT_STAT_HOST_BYTES] += end - start + as_here(&x->a) - bt->cache.cold;
	bt->cache.used = end;
	bt->cache.cold = as_here(&x->a);
	bt_cache_populate(bt);
	bt_page_cover(bt, x->page, x->gi[0].off, last->off + last->len - x->gi[0].off);
	if (x->page2 != BT_NONE)
		bt_page_cover(bt, x->page2, 0, last->off + last->len - PAGE_SIZE);
	b->stat[BT_STAT_TRANSLATED]++;
	b->stat[BT_STAT_GUEST_INSNS] += x->nr;
	if (trace_on(&x->c->vcpu->vm->trace, TRACE_IN_ASM))
		trace_unit(x);
}

/* An instruction that reaches into the next page, alone: the reference executes it. */
static void straddling(struct xlate *x, u16 off)
{
	struct gi *g = &x->gi[0];

	memset(g, 0, sizeof(*g));
	g->kind = GI_HELPER;
	g->helper = BT_H_INTERP;
	g->ends = g->label = true;
	g->off = off;
	g->len = (u8)(PAGE_SIZE - off); /* at least; the helper finds the length itself */
	g->live = BT_F_ALL;
	g->inner = g->mem = -1;
	g->group_mem = g->group_stack = -1;
	g->loop_end = -1;
	x->nr_groups = 0;
	x->nr = 1;
}

u32 bt_translate(struct bt_vm *bt, struct x86_cpu *c, u32 page, u32 mode, u16 off, const u8 *code,
                 u32 page2, const u8 *next)
{
	struct xlate *x = bt->xlate;
	u32 exits = bt->nr_exits, entries = bt->nr_entries, start, first, end, hot_end;
	u32 entry;

	if (!room_left(bt))
		return BT_NONE;
	prepare(x, bt, c, page, mode, code);
	x->page2 = page2;
	x->next = next;
	bt_decode(x, off);
	/* What emit_sys.c makes ends where the next instruction can't be looked at. */
	if (x->nr && (!reaches_over(x) || is_system(&x->gi[0]))) {
		x->nr = reaches_over(x) ? 0 : x->nr;
		x->page2 = BT_NONE;
	}
	if (!x->nr)
		straddling(x, off);
	else
		bt_find_groups(x);
	start = first = as_here(&x->a);
	emit_indirect_entry(x, &x->gi[0]);
	emit_body(x);
	end = as_here(&x->a);
	if (falls_through(&x->gi[x->nr - 1]))
		emit_exit_insn(x, new_exit(x, x->gi[x->nr - 1].off + x->gi[x->nr - 1].len), -1);
	hot_end = as_here(&x->a);
	emit_at(x, bt->cache.cold);
	emit_cold(x);
	apply_fixups(x, end);
	if (!x->full) {
		entry = bt->nr_entries;
		emit_entries(x, first);
	}
	if (x->full) {
		bt->nr_exits = exits;
		if (bt->nr_entries != entries)
			bug("bt: a unit ran out of room with entries made");
		return BT_NONE;
	}
	commit(x, start, hot_end);
	return entry;
}
