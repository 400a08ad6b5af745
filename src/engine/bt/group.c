// SPDX-License-Identifier: MIT
/* Which checks can be merged.
 *
 * Within a stretch without labels, calls and helpers, accesses through one value of a register at
 * different constant distances (a structure's fields, a stack frame, a series of pushes) lie on one
 * page almost always. They make a group: one check of the whole range in front of the first access,
 * or earlier, where flags are dead; its addend is kept in bt->group[] for all of them. When the
 * range is not on one page, or may not be accessed so as a whole, control goes on in the
 * BTM_SINGLE variant, where each access has its own check; so groups change no result.
 *
 * Registers are tracked as value + distance: PUSH, ADD of an immediate, LEA, MOV move a value or
 * copy it.
 *
 * Loops: when a stretch is the whole body of a loop, and the registers of a group only grow by
 * constants from round to round (one of them, the key, at most), a check that has succeeded holds
 * until the key reaches a limit, where the page ends. So each round compares the key with
 * bt->loop[].limit instead. Whoever enters the loop from elsewhere makes the limit the lowest
 * number, for which nothing holds. Keys are compared with sign, since indexes count from below zero
 * too; a limit that a key could jump over by wrapping around is not kept: each round passes each
 * check, and grows by LOOP_STEP at most. */
#include "engine/bt/xlate.h"

#include <string.h>

#define MAX_SPAN  512
#define LOOP_STEP (1 << 20)

struct track {
	u32 value;
	s32 delta;
};

struct open_group {
	u32 value;
	u32 index; /* the index's value; 0: none */
	struct group g;
	unsigned count;
	u16 members[32]; /* insn << 1 | stack access */
};

struct grouping {
	struct xlate *x;
	struct track reg[16];
	u32 next_value;
	unsigned start; /* of the stretch */
	unsigned nr;
	struct open_group open[24];
	/* Value and distance of each register before each instruction of the stretch, for hoisting:
	 * only those of groups are asked, so a copy per instruction is kept. */
	struct track before[UNIT_MAX_INSNS][16];
};

static unsigned reg_id(ZydisRegister r)
{
	return (unsigned)ZydisRegisterGetId(
		ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, r));
}

static bool is_gpr(const ZydisDecodedOperand *o)
{
	ZydisRegisterClass cls = ZydisRegisterGetClass(o->reg.value);

	return o->type == ZYDIS_OPERAND_TYPE_REGISTER &&
	       (cls == ZYDIS_REGCLASS_GPR8 || cls == ZYDIS_REGCLASS_GPR16 ||
	        cls == ZYDIS_REGCLASS_GPR32 || cls == ZYDIS_REGCLASS_GPR64);
}

static bool has_homeless_operand(const struct gi *g)
{
	for (unsigned k = 0; k < g->i.operand_count; k++)
		if (is_gpr(&g->o[k]) && reg_id(g->o[k].reg.value) < 16 &&
		    bt_home(reg_id(g->o[k].reg.value)) < 0)
			return true;
	return false;
}

/* An operand's address: base plus index shifted by scale plus disp. */
struct address {
	unsigned base;
	int index; /* -1: none */
	unsigned scale;
	s32 disp;
};

static bool operand_address(const struct gi *g, struct address *at)
{
	const ZydisDecodedOperand *o;

	if (g->mem < 0)
		return false;
	o = &g->o[g->mem];
	if (g->i.address_width != 64 || o->mem.base == ZYDIS_REGISTER_NONE ||
	    o->mem.base == ZYDIS_REGISTER_RIP || o->mem.segment == ZYDIS_REGISTER_FS ||
	    o->mem.segment == ZYDIS_REGISTER_GS)
		return false;
	*at = (struct address){.base = reg_id(o->mem.base), .index = -1};
	if (at->base > 15 || (bt_home(at->base) < 0 && has_homeless_operand(g)))
		return false;
	if (o->mem.index != ZYDIS_REGISTER_NONE) {
		at->index = (int)reg_id(o->mem.index);
		at->scale = (unsigned)__builtin_ctz(o->mem.scale);
		if (at->index > 15 || bt_home((unsigned)at->index) < 0)
			return false;
	}
	at->disp = o->mem.disp.has_displacement ? (s32)o->mem.disp.value : 0;
	return true;
}

static void fresh(struct grouping *s, unsigned r)
{
	s->reg[r] = (struct track){.value = ++s->next_value};
}

/* ---- closing a stretch ---- */

/* The group's distance in front of instruction p; false: the registers hold other values there. */
static bool delta_at(const struct grouping *s, const struct open_group *o, unsigned p, s32 *delta)
{
	const struct track *t = s->before[p - s->start];

	if (t[o->g.reg].value != o->value || (o->index && t[o->g.index].value != o->index))
		return false;
	*delta = t[o->g.reg].delta;
	if (o->index)
		*delta += t[o->g.index].delta * (1 << o->g.scale);
	return true;
}

/* The last instruction not behind the first access where flags are dead and the value is in the
 * register; the first access itself when there is none. */
static void place(struct grouping *s, struct open_group *o)
{
	struct xlate *x = s->x;
	unsigned p = o->g.first;
	s32 delta;

	o->g.at = o->g.first;
	o->g.at_reg = o->g.reg;
	if (delta_at(s, o, p, &delta))
		o->g.at_delta = delta;
	if (!x->gi[p].live)
		return;
	while (p-- > s->start) {
		if (!delta_at(s, o, p, &delta))
			return;
		if (!x->gi[p].live) {
			o->g.at = (u16)p;
			o->g.at_delta = delta;
			return;
		}
	}
}

/* By how much a register grows from round to round; -1: not by a constant. */
static s32 step_of(const struct grouping *s, unsigned reg, u32 value)
{
	const struct track *first = &s->before[0][reg], *last = &s->reg[reg];
	s32 step = last->delta - first->delta;

	return first->value == value && last->value == value && step >= 0 && step <= LOOP_STEP
	               ? step
	               : -1;
}

/* The register that may grow in the loop that the stretch is, or -1: there is none such. */
static int loop_key(const struct grouping *s, const struct open_group *o)
{
	s32 base = step_of(s, o->g.reg, o->value), index = 0;

	if (o->index)
		index = step_of(s, (unsigned)o->g.index, o->index);
	if (base < 0 || index < 0 || (base && index))
		return -1;
	return index ? o->g.index : o->g.reg;
}

static void close_stretch(struct grouping *s, unsigned next, bool loop)
{
	struct xlate *x = s->x;
	unsigned slots = 0, loops = 0;

	for (unsigned i = 0; i < s->nr; i++) {
		struct open_group *o = &s->open[i];

		place(s, o);
		o->g.key = loop && loops < ARRAY_SIZE(((struct bt_cpu *)0)->loop)
		                   ? (s8)loop_key(s, o)
		                   : -1;
		/* One access alone gains only if its flags are saved otherwise. */
		if ((o->count < 2 && o->g.key < 0 &&
		     !(x->gi[o->g.first].live && o->g.at != o->g.first)) ||
		    (o->g.key < 0 && slots == ARRAY_SIZE(((struct bt_cpu *)0)->group)) ||
		    x->nr_groups == ARRAY_SIZE(x->groups))
			continue;
		o->g.slot = (u8)(o->g.key < 0 ? slots++ : loops++);
		for (unsigned m = 0; m < o->count; m++) {
			struct gi *g = &x->gi[o->members[m] >> 1];

			if (o->members[m] & 1)
				g->group_stack = (s16)x->nr_groups;
			else
				g->group_mem = (s16)x->nr_groups;
		}
		x->groups[x->nr_groups++] = o->g;
	}
	if (loops)
		x->gi[s->start].loop_end = (int)next - 1;
	s->nr = 0;
	s->start = next;
	for (unsigned r = 0; r < 16; r++)
		fresh(s, r);
}

/* ---- accesses ---- */

static void access_at(struct grouping *s, unsigned n, const struct address *at, unsigned size,
                      bool write, bool stack)
{
	const struct track *t = &s->reg[at->base];
	const struct track *v = at->index < 0 ? NULL : &s->reg[at->index];
	s64 lo = (s64)t->delta + at->disp + (v ? (s64)v->delta * (1 << at->scale) : 0);
	s64 hi = lo + size;
	u32 index = v ? v->value : 0;
	struct open_group *o = NULL;

	if (lo < -0x40000000ll || hi > 0x40000000ll)
		return;
	for (unsigned i = 0; i < s->nr && !o; i++)
		if (s->open[i].value == t->value && s->open[i].index == index &&
		    (!v || s->open[i].g.scale == at->scale) &&
		    MAX(hi, s->open[i].g.hi) - MIN(lo, s->open[i].g.lo) <= MAX_SPAN &&
		    s->open[i].count < ARRAY_SIZE(s->open[i].members))
			o = &s->open[i];
	if (!o) {
		if (s->nr == ARRAY_SIZE(s->open))
			return;
		o = &s->open[s->nr++];
		*o = (struct open_group){.value = t->value,
		                         .index = index,
		                         .g = {.reg = (u8)at->base,
		                               .index = (s8)at->index,
		                               .scale = (u8)at->scale,
		                               .lo = (s32)lo,
		                               .hi = (s32)hi,
		                               .first = (u16)n}};
	}
	o->g.lo = (s32)MIN(lo, o->g.lo);
	o->g.hi = (s32)MAX(hi, o->g.hi);
	o->g.write |= write;
	o->members[o->count++] = (u16)(n << 1 | stack);
}

static void accesses(struct grouping *s, unsigned n)
{
	const struct gi *g = &s->x->gi[n];
	struct address at, top = {.base = RSP, .index = -1};

	if ((g->kind == GI_COPY || g->kind == GI_PUSH || g->kind == GI_JMP_IND ||
	     g->kind == GI_CALL_IND) &&
	    operand_address(g, &at))
		access_at(s, n, &at, g->mem_size, g->mem_write, false);
	switch (g->kind) {
	case GI_PUSH:
	case GI_CALL:
	case GI_CALL_IND:
		top.disp = -8;
		access_at(s, n, &top, 8, true, true);
		break;
	case GI_POP:
	case GI_RET:
		access_at(s, n, &top, 8, false, true);
		break;
	case GI_LEAVE:
		top.base = RBP;
		access_at(s, n, &top, 8, false, true);
		break;
	default:
		break;
	}
}

/* ---- effects on registers ---- */

static bool moved(struct grouping *s, const struct gi *g)
{
	const ZydisDecodedOperand *d = &g->o[0], *v = &g->o[1];
	bool full = g->i.operand_count && is_gpr(d) && d->size == 64;
	struct track *t = full ? &s->reg[reg_id(d->reg.value) & 15] : NULL;
	bool small = v->type == ZYDIS_OPERAND_TYPE_IMMEDIATE && v->imm.value.s > -0x1000000 &&
	             v->imm.value.s < 0x1000000;

	if (!full)
		return false;
	switch (g->i.mnemonic) {
	case ZYDIS_MNEMONIC_ADD:
	case ZYDIS_MNEMONIC_SUB:
		if (!small)
			return false;
		t->delta += g->i.mnemonic == ZYDIS_MNEMONIC_ADD ? (s32)v->imm.value.s
		                                                : -(s32)v->imm.value.s;
		break;
	case ZYDIS_MNEMONIC_INC:
		t->delta++;
		break;
	case ZYDIS_MNEMONIC_DEC:
		t->delta--;
		break;
	case ZYDIS_MNEMONIC_MOV:
		if (!is_gpr(v) || v->size != 64)
			return false;
		*t = s->reg[reg_id(v->reg.value) & 15];
		break;
	case ZYDIS_MNEMONIC_LEA:
		if (g->i.address_width != 64 || v->mem.index != ZYDIS_REGISTER_NONE ||
		    v->mem.base == ZYDIS_REGISTER_NONE || v->mem.base == ZYDIS_REGISTER_RIP)
			return false;
		*t = s->reg[reg_id(v->mem.base) & 15];
		t->delta += v->mem.disp.has_displacement ? (s32)v->mem.disp.value : 0;
		break;
	default:
		return false;
	}
	/* Far from where it was: another value, so that sums don't overflow. */
	if (t->delta < -0x8000000 || t->delta > 0x8000000)
		fresh(s, reg_id(d->reg.value) & 15);
	return true;
}

static void effects(struct grouping *s, const struct gi *g)
{
	switch (g->kind) {
	case GI_PUSH:
		s->reg[RSP].delta -= 8;
		return;
	case GI_POP:
		s->reg[RSP].delta += 8;
		fresh(s, reg_id(g->o[0].reg.value) & 15);
		return;
	case GI_LEAVE:
		s->reg[RSP] = s->reg[RBP];
		s->reg[RSP].delta += 8;
		fresh(s, RBP);
		return;
	case GI_COPY:
	case GI_LEA:
	case GI_JRCXZ:
		break;
	default:
		return;
	}
	if (g->kind != GI_JRCXZ && moved(s, g))
		return;
	if (g->kind == GI_JRCXZ && (g->arg & 1))
		fresh(s, RCX);
	for (unsigned k = 0; k < g->i.operand_count; k++)
		if (is_gpr(&g->o[k]) && (g->o[k].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) &&
		    reg_id(g->o[k].reg.value) < 16)
			fresh(s, reg_id(g->o[k].reg.value));
}

/* Is instruction n the only branch back to where the stretch begins? */
static bool ends_loop(const struct grouping *s, unsigned n)
{
	const struct gi *g = &s->x->gi[n], *head = &s->x->gi[s->start];

	return g->inner == (int)s->start && head->label && head->nr_back == 1 &&
	       (g->kind == GI_JCC || g->kind == GI_JMP || g->kind == GI_JRCXZ);
}

void bt_find_groups(struct xlate *x)
{
	struct grouping *s = x->grouping;

	x->nr_groups = 0;
	for (unsigned n = 0; n < x->nr; n++) {
		x->gi[n].group_mem = x->gi[n].group_stack = -1;
		x->gi[n].loop_end = -1;
	}
	if (!x->code64 || (x->mode & BTM_SINGLE))
		return;
	s->x = x;
	s->nr = 0;
	s->next_value = 0;
	close_stretch(s, 0, false);
	for (unsigned n = 0; n < x->nr; n++) {
		const struct gi *g = &x->gi[n];

		if (g->label && n)
			close_stretch(s, n, false);
		memcpy(s->before[n - s->start], s->reg, sizeof(s->reg));
		accesses(s, n);
		effects(s, g);
		if (ends_loop(s, n))
			close_stretch(s, n + 1, true);
		else if (g->kind == GI_HELPER || g->kind == GI_STAC || g->kind == GI_CALL ||
		         g->kind == GI_CALL_IND || g->ends)
			close_stretch(s, n + 1, false);
	}
	close_stretch(s, x->nr, false);
}

size_t bt_grouping_size(void)
{
	return sizeof(struct grouping);
}
