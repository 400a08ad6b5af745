// SPDX-License-Identifier: MIT
/* Addresses of guest operands, and the check in front of every access: the isolation boundary.
 *
 * A check compares the operand's virtual page with the one in its site slot and makes sure that
 * the operand ends on that page, in one comparison:
 *
 *	A:	lea disp(base), t0		B:	lea ..., t0;  (add segment base)
 *		sub %gs:slot.page, t0			mov t0, t1;  sub %gs:slot.page, t1
 *		cmp $4096 - size, t0			cmp $4096 - size, t1
 *		ja  miss				ja  miss
 *		mov %gs:slot.addend, t1			add %gs:slot.addend, t0
 *		op  disp(base, t1)			op  (t0)
 *
 * RIP-relative operands' offset in the page is known: a comparison of pages for equality is enough.
 *
 * Form A keeps the slot off the way from address to datum. A slot's page is BT_PB_NONE when it is
 * empty, which no operand reaches. The miss is cold code: STUB_MISS (bt.h) fills the slot from the
 * TLB and comes back, or executes the instruction by interp.
 *
 * Slots are shared by the sites of a class in turn. Whoever shares one meets the other's page and
 * refills it: that is slow, not wrong. */
#include "engine/bt/xlate.h"

/* ---- addresses ---- */

static unsigned reg_id(ZydisRegister r)
{
	return reg_number(r);
}

static int log2_scale(unsigned s)
{
	return s == 8 ? 3 : s == 4 ? 2 : s == 2 ? 1 : 0;
}

/* Does it need a scratch register for an operand: one without a home, or AH..BH beside memory? */
static bool has_lodgers(const struct gi *g)
{
	for (unsigned k = 0; k < g->i.operand_count; k++) {
		const ZydisDecodedOperand *o = &g->o[k];

		if (o->type == ZYDIS_OPERAND_TYPE_REGISTER && reg_is_gpr(o->reg.value) &&
		    (bt_home(reg_id(o->reg.value)) < 0 ||
		     (g->mem >= 0 && reg_is_high8(o->reg.value))))
			return true;
	}
	return false;
}

static bool has_segbase(const ZydisDecodedOperand *o)
{
	return o->mem.segment == ZYDIS_REGISTER_FS || o->mem.segment == ZYDIS_REGISTER_GS;
}

void emit_va(struct xlate *x, int reg, s32 rel)
{
	as_ld_gs(&x->a, reg, BT_GS_PB(x->page));
	if (rel)
		as_lea(&x->a, true, reg, reg, -1, 0, rel);
}

void emit_address_registers(struct xlate *x, const ZydisDecodedOperand *o, int dst, int *base,
                            int *index)
{
	unsigned b = o->mem.base != ZYDIS_REGISTER_NONE ? reg_id(o->mem.base) : 16;
	unsigned i = o->mem.index != ZYDIS_REGISTER_NONE ? reg_id(o->mem.index) : 16;
	int other = BT_T0 + BT_T1 - dst;

	*base = b > 15 ? -1 : bt_home(b) >= 0 ? bt_home(b) : held_in(x, b);
	*index = i > 15 ? -1 : bt_home(i) >= 0 ? bt_home(i) : held_in(x, i);
	if (b < 16 && *base < 0) {
		*base = *index == dst ? other : dst;
		held_load(x, *base, b);
		if (i == b)
			*index = *base;
	}
	if (i < 16 && *index < 0) {
		*index = *base == other ? dst : other;
		held_load(x, *index, i);
	}
}

/* Changes flags. In 32-bit code linear addresses wrap, and a segment with a limit is in no slot. */
static void emit_segbase(struct xlate *x, enum x86_segreg s, int dst)
{
	as_gs(&x->a, x->code64, 0x03, dst, BT_GS_C(segbase) + 8 * (int)s); /* add */
	if (!x->code64)
		as_add_gs(&x->a, dst, BT_GS_C(segbar) + 8 * (int)(s - FS));
}

void emit_address(struct xlate *x, const struct gi *g, const ZydisDecodedOperand *o, int dst,
                  bool with_base)
{
	bool w = g->i.address_width == 64;
	s64 disp = o->mem.disp.has_displacement ? o->mem.disp.value : 0;
	int base = -1, index = -1;

	if (o->mem.base == ZYDIS_REGISTER_RIP) {
		s64 rel = (s64)g->off + g->len + disp;
		bool fits = rel == (s32)rel;

		/* From the page's start it may be farther than a displacement reaches. */
		emit_va(x, dst, fits ? (s32)rel : g->off + g->len);
		if (!fits)
			as_lea(&x->a, true, dst, dst, -1, 0, (s32)disp);
	} else {
		emit_address_registers(x, o, dst, &base, &index);
		if (base < 0 && index < 0)
			as_mov_i64(&x->a, dst, w ? (u64)disp : (u32)disp);
		else if (base >= 0 && index < 0 && !disp && w && base == dst)
			; /* it is there */
		else if (base >= 0 && index < 0 && !disp && w)
			as_mov(&x->a, dst, base);
		else
			as_lea(&x->a, w, dst, base, index, log2_scale(o->mem.scale), (s32)disp);
	}
	held_drop(x, dst);
	if (with_base && has_segbase(o))
		emit_segbase(x, o->mem.segment == ZYDIS_REGISTER_FS ? FS : GS, dst);
}

/* ---- flags over a check ---- */

void emit_flags_save(struct xlate *x)
{
	x->t1_group = -1;
	held_drop(x, BT_T1);
	as_mov(&x->a, BT_T1, RAX);
	as_flags_to_ax(&x->a);
	as_st32_gs(&x->a, BT_GS(flags), RAX);
	as_mov(&x->a, RAX, BT_T1);
}

void emit_flags_restore(struct xlate *x, int tmp)
{
	as_mov(&x->a, tmp, RAX);
	as_ld32_gs(&x->a, RAX, BT_GS(flags));
	as_ax_to_flags(&x->a);
	as_mov(&x->a, RAX, tmp);
}

/* ---- checks ---- */

struct cold *cold_add(struct xlate *x, enum cold_kind kind)
{
	struct cold *k;

	if (x->nr_cold == ARRAY_SIZE(x->cold)) {
		x->full = true;
		k = &x->cold[0];
	} else {
		k = &x->cold[x->nr_cold++];
	}
	*k = (struct cold){.kind = (u8)kind, .held = {-1, -1}, .t1_group = -1};
	return k;
}

struct site new_stack_site(struct xlate *x, bool write, unsigned size)
{
	unsigned cls = write ? x->cls_w : x->cls_r, nr = x->nr_stack[write];

	if (nr == BT_STACK_SITES)
		return new_site(x, write, size);
	x->nr_stack[write]++;
	return (struct site){
		.at = (s32)BT_GS_SITE(cls, x->page % BT_STACK_GROUPS * BT_STACK_SITES + nr),
		.cls = (u8)cls,
		.pool = BT_POOL_PAGE,
		.span = (u16)size};
}

struct site new_site(struct xlate *x, bool write, unsigned size)
{
	unsigned cls = write ? x->cls_w : x->cls_r;
	bool sup = cls < BT_USER_R;
	unsigned pool = sup && size ? bt_pool(size) : BT_POOL_PAGE;

	return (struct site){.at = (s32)bt_site_new(x->pools, cls, pool),
	                     .cls = (u8)cls,
	                     .pool = (u8)pool,
	                     .span = (u16)(sup && size ? bt_pool_span(pool) : size)};
}

void emit_bound(struct xlate *x, int t, const struct site *site)
{
	if (site->cls < BT_USER_R && site->pool != BT_POOL_PAGE)
		as_gs(&x->a, true, 0x3b, t, site->at + (s32)offsetof(struct bt_range, limit));
	else
		as_cmp_i(&x->a, t, (s32)PAGE_SIZE - site->span);
}

void cold_site(struct cold *k, const struct site *site)
{
	k->cls = site->cls;
	k->pool = site->pool;
	k->site = site->at;
	k->span = site->span;
}

/* The comparison; the address is in BT_T0 (form A: it is lost; B: BT_T1 is used). Its miss. */
static struct cold *emit_compare(struct xlate *x, unsigned n, unsigned size, bool form_b,
                                 bool saved, u32 retry, const struct site *site)
{
	struct cold *k;
	int t = form_b ? BT_T1 : BT_T0;

	x->t1_group = -1;
	held_clear(x);
	if (form_b)
		as_mov(&x->a, BT_T1, BT_T0);
	as_sub_gs(&x->a, t, site->at);
	emit_bound(x, t, site);
	k = cold_add(x, COLD_MISS);
	k->from = as_jcc(&x->a, 7, 0); /* ja */
	k->insn = (u16)n;
	cold_site(k, site);
	k->size = (u8)size;
	k->back = retry;
	k->form_b = form_b;
	k->saved = saved;
	return k;
}

/* Form B from a virtual address in BT_T0 on. */
static void finish_b(struct xlate *x, unsigned n, unsigned size, bool live, u32 retry,
                     const struct site *site, struct mem_ref *out)
{
	struct cold *k = emit_compare(x, n, size, true, live, retry, site);

	if (live) {
		emit_flags_restore(x, BT_T1);
		as_ld_gs(&x->a, BT_T1, site->at + (s32)offsetof(struct bt_site, addend));
		as_lea(&x->a, true, BT_T0, BT_T0, BT_T1, 0, 0);
	} else {
		as_add_gs(&x->a, BT_T0, site->at + (s32)offsetof(struct bt_site, addend));
	}
	k->done = as_here(&x->a);
	*out = (struct mem_ref){.base = BT_T0, .index = 0xff, .spare = BT_T1};
}

void emit_check_address(struct xlate *x, unsigned n, unsigned size, bool write, struct mem_ref *out)
{
	struct site site = new_site(x, write, size);

	finish_b(x, n, size, x->gi[n].live, as_here(&x->a), &site, out);
}

static void finish_a(struct xlate *x, unsigned n, int base, s32 disp, unsigned size, bool live,
                     u32 retry, const struct site *site, struct mem_ref *out)
{
	struct cold *k;

	if (disp)
		as_lea(&x->a, true, BT_T0, base, -1, 0, disp);
	else
		as_mov(&x->a, BT_T0, base);
	k = emit_compare(x, n, size, false, live, retry, site);
	if (live)
		emit_flags_restore(x, BT_T0);
	as_ld_gs(&x->a, BT_T1, site->at + (s32)offsetof(struct bt_site, addend));
	k->done = as_here(&x->a);
	*out = (struct mem_ref){.base = (u8)base, .index = BT_T1, .disp = disp, .spare = BT_T0};
}

/* %gs-offset of a group's addend, or of a loop's pointer. */
static s32 group_pointer(const struct group *q)
{
	/* Nobody else fills the slot while the stretch runs. */
	return q->loop ? BT_GS(loop_ptr) + 8 * q->slot
	               : q->site + (s32)offsetof(struct bt_site, addend);
}

/* The scratch register that has the group's pointer. */
static int load_pointer(struct xlate *x, unsigned i)
{
	if (x->pin[0] == (int)i)
		return BT_T0;
	if (x->pin[1] == (int)i)
		return BT_T1;
	if (x->t1_group != (int)i)
		as_ld_gs(&x->a, BT_T1, group_pointer(&x->groups[i]));
	x->t1_group = (int)i;
	held_drop(x, BT_T1);
	return BT_T1;
}

/* An access that its group's check covers. */
static void use_group(struct xlate *x, unsigned i, unsigned reg, int index, s32 disp,
                      struct mem_ref *out)
{
	const struct group *q = &x->groups[i];
	int base = bt_home(reg), ptr = load_pointer(x, i);

	*out = (struct mem_ref){.base = (u8)base, .index = (u8)ptr, .disp = disp, .spare = BT_T0};
	if (x->pin[0] >= 0)
		out->spare = -1;
	if (q->loop && q->form == LOOP_BASE && index >= 0) {
		out->base = (u8)ptr;
		out->index = (u8)bt_home((unsigned)index);
		out->scale = q->scale;
		return;
	}
	if (index >= 0 && !(q->loop && q->form == LOOP_INDEX)) {
		as_lea(&x->a, true, BT_T0, ptr, bt_home((unsigned)index), q->scale, 0);
		held_drop(x, BT_T0);
		out->index = BT_T0;
		out->spare = BT_T1;
	}
	if (base < 0) {
		base = out->spare;
		held_load(x, base, reg);
		out->base = (u8)base;
		out->spare = -1;
	}
}

/* An operand at a constant distance from the code, not over two pages: only the page is compared.
 */
static bool at_constant(const struct gi *g, const ZydisDecodedOperand *o, s64 *rel)
{
	if (o->mem.base != ZYDIS_REGISTER_RIP || g->i.address_width != 64 || has_segbase(o))
		return false;
	*rel = (s64)g->off + g->len + o->mem.disp.value;
	return (s64)(s32)*rel == *rel && g->mem_size &&
	       (u64)(*rel & (s64)~PAGE_MASK) + g->mem_size <= PAGE_SIZE;
}

static void finish_constant(struct xlate *x, unsigned n, s32 rel, unsigned size, bool write,
                            bool live, struct mem_ref *out)
{
	struct site site = new_site(x, write, 0);
	u32 retry = as_here(&x->a);
	struct cold *k;

	x->t1_group = -1;
	held_clear(x);
	as_ld_gs(&x->a, BT_T0, BT_GS_PB(x->page));
	as_lea(&x->a, true, BT_T1, BT_T0, -1, 0, rel & (s32)PAGE_MASK);
	as_gs(&x->a, true, 0x3b, BT_T1, site.at);
	k = cold_add(x, COLD_MISS);
	k->from = as_jcc(&x->a, 5, 0); /* jne */
	k->insn = (u16)n;
	cold_site(k, &site);
	k->size = (u8)size;
	k->back = retry;
	k->form_b = true;
	k->rel = rel;
	k->saved = live;
	if (live) {
		emit_flags_restore(x, BT_T1);
		as_ld_gs(&x->a, BT_T1, site.at + (s32)offsetof(struct bt_site, addend));
		as_lea(&x->a, true, BT_T0, BT_T0, BT_T1, 0, 0);
	} else {
		as_add_gs(&x->a, BT_T0, site.at + (s32)offsetof(struct bt_site, addend));
	}
	*out = (struct mem_ref){.base = BT_T0, .index = 0xff, .disp = rel, .spare = BT_T1};
}

void emit_check_operand(struct xlate *x, unsigned n, bool write, struct mem_ref *out)
{
	const struct gi *g = &x->gi[n];
	const ZydisDecodedOperand *o = &g->o[g->mem];
	bool live = g->live;
	struct site site;
	u32 retry;
	s64 rel;

	if (g->group_mem >= 0) {
		use_group(x, (unsigned)g->group_mem, reg_id(o->mem.base),
		          o->mem.index == ZYDIS_REGISTER_NONE ? -1 : (int)reg_id(o->mem.index),
		          o->mem.disp.has_displacement ? (s32)o->mem.disp.value : 0, out);
		return;
	}
	if (live)
		emit_flags_save(x);
	if (x->code64 && at_constant(g, o, &rel)) {
		finish_constant(x, n, (s32)rel, g->mem_size, write, live, out);
		return;
	}
	if (o->mem.base == ZYDIS_REGISTER_RSP && o->mem.index == ZYDIS_REGISTER_NONE &&
	    g->mem_size <= BT_MISS_STACK_MAX)
		site = new_stack_site(x, write, g->mem_size);
	else
		site = new_site(x, write, g->mem_size);
	retry = as_here(&x->a);
	if (x->code64 && g->i.address_width == 64 && !has_segbase(o) &&
	    o->mem.index == ZYDIS_REGISTER_NONE && o->mem.base != ZYDIS_REGISTER_NONE &&
	    o->mem.base != ZYDIS_REGISTER_RIP && bt_home(reg_id(o->mem.base)) >= 0) {
		s64 disp = o->mem.disp.has_displacement ? o->mem.disp.value : 0;

		finish_a(x, n, bt_home(reg_id(o->mem.base)), (s32)disp, g->mem_size, live, retry,
		         &site, out);
		return;
	}
	/* A miss comes back with the address in BT_T0. */
	emit_address(x, g, o, BT_T0, true);
	retry = as_here(&x->a);
	finish_b(x, n, g->mem_size, live, retry, &site, out);
}

void emit_check_stack(struct xlate *x, unsigned n, int reg, s32 disp, unsigned size, bool write,
                      struct mem_ref *out)
{
	bool live = x->gi[n].live;
	struct site site;
	u32 retry;

	if (x->gi[n].group_stack >= 0) {
		use_group(x, (unsigned)x->gi[n].group_stack, reg == BT_SP ? RSP : (unsigned)reg, -1,
		          disp, out);
		return;
	}
	site = reg == BT_SP ? new_stack_site(x, write, size) : new_site(x, write, size);
	if (live)
		emit_flags_save(x);
	retry = as_here(&x->a);
	if (x->code64) {
		finish_a(x, n, reg, disp, size, live, retry, &site, out);
		return;
	}
	as_lea(&x->a, false, BT_T0, reg, -1, 0, disp);
	retry = as_here(&x->a);
	finish_b(x, n, size, live, retry, &site, out);
}

/* ---- merged checks (group.c) ---- */

/* The comparison with the site's page; the addend into BT_T1. BT_T0: the range's offset in it. */
static void emit_group_compare(struct xlate *x, unsigned i, unsigned n, bool saved)
{
	struct group *q = &x->groups[i];
	bool stack = q->at_reg == RSP && q->index < 0 && !q->loop;
	struct site site =
		(stack ? new_stack_site : new_site)(x, q->write, (unsigned)(q->hi - q->lo));
	int base = bt_home(q->at_reg);
	u32 retry = as_here(&x->a);
	struct cold *k;

	if (base < 0) {
		base = BT_T0;
		as_ld_gs(&x->a, base, BT_GS_GPR(q->at_reg));
	}
	q->site = site.at;
	if (q->index < 0 && q->lo == q->at_delta && base != BT_T0)
		as_mov(&x->a, BT_T0, base);
	else
		as_lea(&x->a, true, BT_T0, base, q->index < 0 ? -1 : bt_home((unsigned)q->index),
		       q->scale, q->lo - q->at_delta);
	as_sub_gs(&x->a, BT_T0, site.at);
	emit_bound(x, BT_T0, &site);
	k = cold_add(x, COLD_GROUP);
	k->from = as_jcc(&x->a, 7, 0);
	k->insn = (u16)n;
	cold_site(k, &site);
	k->back = retry;
	k->saved = saved;
	as_ld_gs(&x->a, BT_T1, site.at + (s32)offsetof(struct bt_site, addend));
	/* A loop's limit needs BT_T0. */
	k->done = q->loop ? retry : as_here(&x->a);
}

void emit_group_check(struct xlate *x, unsigned i, unsigned n)
{
	bool live = x->gi[n].live;

	held_clear(x);
	if (live)
		emit_flags_save(x);
	emit_group_compare(x, i, n, live);
	if (live)
		emit_flags_restore(x, BT_T0);
	x->t1_group = (int)i;
}

/* ---- checks in front of a loop (group.c) ---- */

/* By how much the key may grow before the range leaves its page: the room behind it, in BT_T0, as
 * that of the key; then the limit. It is less than a page's size, since a loop polls only where it
 * reaches it: of a supervisor's slot, whose own limit may be a piece's, the rest to a page. */
static void emit_limit(struct xlate *x, const struct group *q, int key, bool first)
{
	struct bt_asm *a = &x->a;
	u32 less;

	as_rr(a, true, 0xf7, 2, BT_T0); /* not */
	if (x->user) {
		as_alu_i(a, true, 0, BT_T0, (s32)PAGE_SIZE - (q->hi - q->lo) + 1);
	} else {
		as_add_gs(a, BT_T0, q->site + (s32)offsetof(struct bt_range, limit));
		as_lea(a, true, BT_T0, BT_T0, -1, 0, 1);
		as_alu_i(a, false, 4, BT_T0, (s32)(PAGE_SIZE - 1)); /* and */
	}
	if (q->shift) {
		as_rr(a, true, 0xc1, q->shift > 0 ? 5 : 4, BT_T0); /* shr, shl */
		as_1(a, q->shift > 0 ? (unsigned)q->shift : (unsigned)-q->shift);
	}
	as_lea(a, true, BT_T0, BT_T0, key, 0, 1);
	if (first) {
		as_st_gs(a, BT_GS(loop_limit), BT_T0);
		return;
	}
	as_gs(a, true, 0x3b, BT_T0, BT_GS(loop_limit));
	less = as_jcc(a, 13, 0); /* jge */
	as_st_gs(a, BT_GS(loop_limit), BT_T0);
	as_patch(a, less, as_here(a));
}

/* A key near the highest number, to which no limit can be added: to the variant. */
static void emit_key_check(struct xlate *x, unsigned n, int key)
{
	u32 e = new_exit(x, x->gi[n].off);

	x->bt->exits[e].mode = x->mode | BTM_SINGLE;
	as_mov(&x->a, BT_T1, key);
	as_rr(&x->a, true, 0xc1, 5, BT_T1); /* shr */
	as_1(&x->a, 62);
	as_cmp_i(&x->a, BT_T1, 1);
	emit_exit_insn(x, e, 4);
}

/* What the loop's form adds to the addend in BT_T1. */
static void emit_loop_pointer(struct xlate *x, const struct group *q)
{
	int base = bt_home(q->reg);

	if (q->form == LOOP_BASE && base < 0)
		as_add_gs(&x->a, BT_T1, BT_GS_GPR(q->reg));
	else if (q->form == LOOP_BASE)
		as_lea(&x->a, true, BT_T1, BT_T1, base, 0, 0);
	else if (q->form == LOOP_INDEX)
		as_lea(&x->a, true, BT_T1, BT_T1, bt_home((unsigned)q->index), q->scale, 0);
	as_st_gs(&x->a, group_pointer(q), BT_T1);
}

/* Does the instruction leave the scratch registers alone, with pointers in them? */
static bool leaves_scratch(const struct xlate *x, const struct gi *g)
{
	const struct group *q = g->group_mem < 0 ? NULL : &x->groups[g->group_mem];
	const ZydisDecodedOperand *o = g->kind == GI_LEA ? &g->o[1]
	                               : g->mem < 0      ? NULL
	                                                 : &g->o[g->mem];

	if (g->kind == GI_NOP || g->kind == GI_JCC || g->kind == GI_JMP)
		return true;
	if ((g->kind != GI_COPY && g->kind != GI_LEA) || has_lodgers(g) || g->info.x87_record ||
	    g->info.x87_ldcw)
		return false;
	if (g->kind == GI_LEA)
		return g->i.operand_width == 64 && g->i.address_width == 64 &&
		       o->mem.base != ZYDIS_REGISTER_NONE &&
		       (o->mem.base == ZYDIS_REGISTER_RIP || bt_home(reg_id(o->mem.base)) >= 0) &&
		       (o->mem.index == ZYDIS_REGISTER_NONE || bt_home(reg_id(o->mem.index)) >= 0);
	if (!o)
		return true;
	return q && q->loop && (o->mem.index == ZYDIS_REGISTER_NONE || q->form != LOOP_ADDEND) &&
	       (q->form == LOOP_BASE || bt_home(reg_id(o->mem.base)) >= 0);
}

/* Pointers that stay in the scratch registers while the loop runs; of more than two groups, one. */
static void choose_pins(struct xlate *x, unsigned n)
{
	unsigned nr = 0;

	for (int i = (int)n; i <= x->gi[n].loop_end; i++)
		if (!leaves_scratch(x, &x->gi[i]))
			return;
	for (unsigned i = 0; i < x->nr_groups; i++) {
		if (!x->groups[i].loop || x->groups[i].at != n)
			continue;
		if (nr < 2)
			x->pin[nr] = (s8)i;
		nr++;
	}
	if (nr > 2)
		x->pin[1] = -1;
}

void emit_pins(struct xlate *x)
{
	for (int t = 0; t < 2; t++)
		if (x->pin[t] >= 0)
			as_ld_gs(&x->a, BT_T0 + t, group_pointer(&x->groups[x->pin[t]]));
}

/* Must the key be looked at? One that an address is made of by a constant alone has passed the
 * check of that address. */
static bool key_is_number(const struct xlate *x, unsigned n)
{
	for (unsigned i = 0; i < x->nr_groups; i++) {
		const struct group *q = &x->groups[i];

		if (q->loop && q->at == n && q->grows && q->index < 0 &&
		    q->reg == x->gi[n].loop_key)
			return false;
	}
	return true;
}

void emit_loop_setup(struct xlate *x, unsigned n)
{
	int key = x->gi[n].loop_key < 0 ? -1 : bt_home((unsigned)x->gi[n].loop_key);
	bool first = true;

	held_clear(x);
	if (key >= 0 && key_is_number(x, n))
		emit_key_check(x, n, key);
	for (unsigned i = 0; i < x->nr_groups; i++) {
		const struct group *q = &x->groups[i];

		if (!q->loop || q->at != n)
			continue;
		emit_group_compare(x, i, n, false);
		emit_loop_pointer(x, q);
		if (q->grows)
			emit_limit(x, q, key, first);
		first &= !q->grows;
	}
	x->t1_group = -1;
	choose_pins(x, n);
	emit_pins(x);
}

/* The address in BT_T0 (which is kept if this does not help) is looked up in the TLB, the slot
 * filled from there, and the code behind the use of the slot goes on. As STUB_MISS does it, for
 * slots of user code, of which nothing is to be noted, and which have been filled before: those are
 * in the log. */
static void emit_refill(struct xlate *x, const struct cold *k, unsigned size)
{
	struct bt_asm *a = &x->a;
	s32 set = BT_GS_C(tlbs) + (s32)((k->cls >> 1) * TLB_SIZE * sizeof(struct tlb_entry));
	s32 tag = set +
	          (s32)(k->cls & 1 ? offsetof(struct tlb_entry, w) : offsetof(struct tlb_entry, r));
	s32 addend = set + (s32)offsetof(struct tlb_entry, bt_addend);
	s32 slot_addend = k->site + (s32)offsetof(struct bt_site, addend);
	u32 miss, empty;

	as_gs(a, false, 0x80, 7, k->site + 7); /* cmp byte: the highest of the page */
	as_1(a, BT_PB_NONE >> 56);
	empty = as_jcc(a, 4, 0);
	as_rr(a, false, 0x89, BT_T0, BT_T1);
	as_rr(a, false, 0xc1, 5, BT_T1); /* shr */
	as_1(a, PAGE_SHIFT - 5);
	as_alu_i(a, false, 4, BT_T1, (s32)((TLB_SIZE - 1) * sizeof(struct tlb_entry)));
	as_gs_at(a, 0x2b, BT_T0, BT_T1, tag); /* sub */
	as_cmp_i(a, BT_T0, (s32)PAGE_SIZE - size);
	miss = as_jcc(a, 7, 0); /* ja */
	if (k->form_b) {
		as_gs_at(a, 0x03, BT_T0, BT_T1, tag);
		as_gs_at(a, 0x8b, BT_T1, BT_T1, addend);
		as_st_gs(a, slot_addend, BT_T1);
		as_mov(a, BT_T1, BT_T0);
		as_alu_i(a, true, 4, BT_T1, (s32)PAGE_MASK);
		as_st_gs(a, k->site, BT_T1);
		as_add_gs(a, BT_T0, slot_addend);
	} else {
		as_gs_at(a, 0x8b, BT_T0, BT_T1, tag);
		as_st_gs(a, k->site, BT_T0);
		as_gs_at(a, 0x8b, BT_T1, BT_T1, addend);
		as_st_gs(a, slot_addend, BT_T1);
	}
	as_jmp(a, k->done);
	as_patch(a, miss, as_here(a));
	as_gs_at(a, 0x03, BT_T0, BT_T1, tag); /* add */
	as_patch(a, empty, as_here(a));
}

/* The range at BT_T0 again, when its page is in the TLB and it does not cross it; else behind. */
void emit_cold_range(struct xlate *x, const struct cold *k)
{
	u32 stub = (u32)(x->bt->stub[STUB_GROUP + k->cls] - (uintptr_t)x->bt->cache.rx), crosses;

	if (k->cls < BT_USER_R && k->pool != BT_POOL_PAGE) {
		as_mov_i32(&x->a, BT_T1, BT_MISS_SLOT(k->site, k->pool));
		as_call(&x->a, stub);
		as_jcc(&x->a, 3, k->back); /* jnc */
		return;
	}
	as_rr(&x->a, false, 0x89, BT_T0, BT_T1);
	as_alu_i(&x->a, false, 4, BT_T1, 0xfff);
	as_alu_i(&x->a, false, 7, BT_T1, (s32)PAGE_SIZE - k->span);
	crosses = as_jcc(&x->a, 7, 0);
	as_mov_i32(&x->a, BT_T1, BT_MISS_SLOT(k->site, k->cls < BT_USER_R ? BT_MISS_PAGE : 0));
	as_call(&x->a, stub);
	as_jcc(&x->a, 3, k->back);
	as_patch(&x->a, crosses, as_here(&x->a));
}

/* The range crosses its page, or the page isn't in the TLB with the right: the variant. */
void emit_cold_group(struct xlate *x, const struct cold *k)
{
	u32 e = new_exit(x, x->gi[k->insn].off);

	x->bt->exits[e].mode = x->mode | BTM_SINGLE;
	as_patch(&x->a, k->from, as_here(&x->a));
	as_add_gs(&x->a, BT_T0, k->site);
	if (k->cls >= BT_USER_R)
		emit_refill(x, k, k->span);
	emit_cold_range(x, k);
	if (k->saved)
		emit_flags_restore(x, BT_T0);
	emit_exit_insn(x, e, -1);
}

/* ---- cold code of a miss ---- */

static void emit_word(struct xlate *x, u32 v)
{
	as_1(&x->a, 0xa9); /* test eax, imm32 */
	as_4(&x->a, v);
}

/* R15 for STUB_MISS. */
static u32 miss_slot(const struct cold *k)
{
	unsigned size = k->size - 1u;

	if (k->cls >= BT_USER_R)
		return BT_MISS_SLOT(k->site, size);
	return BT_MISS_SLOT(k->site, k->pool != BT_POOL_PAGE ? k->pool : BT_MISS_PAGE | size);
}

void emit_cold_miss(struct xlate *x, const struct cold *k)
{
	const struct gi *g = &x->gi[k->insn];
	bool jumps = g->kind == GI_JMP_IND || g->kind == GI_CALL_IND || g->kind == GI_CALL ||
	             g->kind == GI_RET;
	bool copies = k->done && !(k->cls & 1) && !jumps && !g->info.aligned && x->code64;
	u32 over = 0;

	as_patch(&x->a, k->from, as_here(&x->a));
	if (!k->form_b)
		as_add_gs(&x->a, BT_T0, k->site);
	else if (k->rel)
		as_lea(&x->a, true, BT_T0, BT_T0, -1, 0, k->rel);
	if (k->done && !k->saved && k->cls >= BT_USER_R && k->size && k->size <= 64)
		emit_refill(x, k, k->size);
	as_mov_i32(&x->a, BT_T1, miss_slot(k));
	as_call(&x->a, (u32)(x->bt->stub[STUB_MISS + k->cls] - (uintptr_t)x->bt->cache.rx));
	emit_word(x, BT_MISS1(x->page, (k->saved ? BT_MISS_FLAGS : 0) |
	                                       (g->info.aligned ? BT_MISS_ALIGNED : 0) |
	                                       (g->info.x87_wait ? BT_MISS_WAITS : 0) |
	                                       (copies ? BT_MISS_BOUNCE : 0) |
	                                       (jumps ? BT_MISS_JUMPS : 0)));
	emit_word(x, BT_MISS2(g->off, g->len, k->size > 64 ? 0 : k->size));
	as_jmp(&x->a, k->back);
	if (copies) {
		over = as_jmp(&x->a, 0);
		if (k->saved)
			emit_flags_restore(x, k->form_b ? BT_T1 : BT_T0);
		as_jmp(&x->a, k->done);
		as_patch(&x->a, over, as_here(&x->a));
	}
	if (x->nr_fix == ARRAY_SIZE(x->fix)) {
		x->full = true;
		return;
	}
	for (int t = 0; t < 2; t++)
		if (k->held[t] >= 0)
			as_ld_gs(&x->a, BT_T0 + t, BT_GS_GPR((unsigned)k->held[t]));
	if (k->t1_group >= 0)
		as_ld_gs(&x->a, BT_T1, group_pointer(&x->groups[k->t1_group]));
	x->fix[x->nr_fix++] = (struct fixup){.at = as_jmp(&x->a, 0), .insn = k->insn + 1};
}
