// SPDX-License-Identifier: MIT
/* Which checks can be merged.
 *
 * Within a stretch without labels, calls and helpers, accesses through one value of a register at
 * different constant distances (a structure's fields, a stack frame, a series of pushes) lie on one
 * page almost always. They make a group: one check of the whole range in front of the first access,
 * or earlier, where flags are dead; its slot has the addend for all of them. When the
 * range is not on one page, or may not be accessed so as a whole, control goes on in the
 * BTM_SINGLE variant, where each access has its own check; so groups change no result.
 *
 * Registers are tracked as value + distance: PUSH, ADD of an immediate, LEA, MOV move a value or
 * copy it.
 *
 * Loops: when a stretch is the whole body of a loop, and the address of a group only grows by a
 * constant from round to round, or stays, its check is made in front of the loop, and tells for how
 * many rounds it holds. The loop's limit is the smallest of these, as a value that a register which
 * grows, the key, must stay below: one comparison a round for all groups. When the key has reached
 * it, the checks are made again. Keys are compared with sign, since indexes count from below zero
 * too; one that is so great that its limit could wrap around sends control to the variant. A limit
 * is at most a page away, so such loops look at attn when they reach it, and not in each round. */
#include "engine/bt/xlate.h"

#include <string.h>

#define MAX_SPAN  512
#define LOOP_STEP 4096

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
	return reg_number(r);
}

static bool is_gpr(const ZydisDecodedOperand *o)
{
	return o->type == ZYDIS_OPERAND_TYPE_REGISTER && reg_is_gpr(o->reg.value);
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

/* The group's distance in front of instruction p; false: the registers hold other values there, or
 * are so far from the range that the check's displacement has no 32 bits. */
static bool delta_at(const struct grouping *s, const struct open_group *o, unsigned p, s32 *delta)
{
	const struct track *t = s->before[p - s->start];
	s64 d = t[o->g.reg].delta;

	if (t[o->g.reg].value != o->value || (o->index && t[o->g.index].value != o->index))
		return false;
	if (o->index)
		d += (s64)t[o->g.index].delta * (1 << o->g.scale);
	*delta = (s32)d;
	return d == *delta && o->g.lo - d == (s32)(o->g.lo - d);
}

/* The last instruction not behind the first access where flags are dead and the value is in the
 * register; the first access itself when there is none. false: there is no place. */
static bool place(struct grouping *s, struct open_group *o)
{
	struct xlate *x = s->x;
	unsigned p = o->g.first;
	s32 delta;

	o->g.at = o->g.first;
	o->g.at_reg = o->g.reg;
	if (!delta_at(s, o, p, &o->g.at_delta))
		return false;
	if (!x->gi[p].live)
		return true;
	while (p-- > s->start) {
		if (!delta_at(s, o, p, &delta))
			break;
		if (!x->gi[p].live) {
			o->g.at = (u16)p;
			o->g.at_delta = delta;
			break;
		}
	}
	return true;
}

/* ---- loops ---- */

/* By how much a register grows from round to round; -1: not by a constant. */
static s32 step_of(const struct grouping *s, unsigned reg, u32 value)
{
	const struct track *first = &s->before[0][reg], *last = &s->reg[reg];
	s32 step = last->delta - first->delta;

	return first->value == value && last->value == value && step >= 0 && step <= LOOP_STEP
	               ? step
	               : -1;
}

/* Does no instruction of the loop, n of them, write to the register? */
static bool untouched(const struct grouping *s, unsigned n, unsigned reg)
{
	const struct track *first = &s->before[0][reg];

	for (unsigned i = 1; i < n; i++)
		if (s->before[i][reg].value != first->value ||
		    s->before[i][reg].delta != first->delta)
			return false;
	return s->reg[reg].value == first->value && s->reg[reg].delta == first->delta;
}

/* By which power of 2 `step` is greater than the key's; false: by none. */
static bool ratio(u32 step, u32 key_step, s8 *shift)
{
	for (*shift = -3; *shift <= 12; ++*shift)
		if (*shift < 0 ? step << -*shift == key_step : step == key_step << *shift)
			return true;
	return false;
}

/* A group of the loop that ends before `next`: can its check be made in front? Chooses the key
 * when there is none yet. */
static bool in_front(struct grouping *s, struct open_group *o, unsigned next, int *key,
                     u32 *key_step)
{
	struct group *g = &o->g;
	s32 base = step_of(s, g->reg, o->value), index = 0;
	u32 step;

	if (o->index)
		index = step_of(s, (unsigned)g->index, o->index);
	if (base < 0 || index < 0 || (base && index) || !delta_at(s, o, s->start, &g->at_delta))
		return false;
	step = (u32)(base ? base : index << g->scale);
	if (step && *key < 0) {
		if (bt_home(base ? g->reg : (unsigned)g->index) < 0)
			return false;
		*key = base ? g->reg : g->index;
		*key_step = (u32)(base ? base : index);
	}
	g->grows = step;
	if (step && !ratio(step, *key_step, &g->shift))
		return false;
	g->at = (u16)s->start;
	g->at_reg = g->reg;
	g->form = LOOP_ADDEND;
	if (o->index && untouched(s, next - s->start, g->reg))
		g->form = LOOP_BASE;
	else if (o->index && untouched(s, next - s->start, (unsigned)g->index))
		g->form = LOOP_INDEX;
	return true;
}

static void close_stretch(struct grouping *s, unsigned next, bool loop)
{
	struct xlate *x = s->x;
	unsigned loops = 0;
	u32 key_step = 0;
	int key = -1;

	for (unsigned i = 0; i < s->nr; i++) {
		struct open_group *o = &s->open[i];

		o->g.loop = loop && loops < BT_LOOP_PTRS && in_front(s, o, next, &key, &key_step);
		if (!o->g.loop && !place(s, o))
			continue;
		/* One access alone gains only if its flags are saved otherwise. */
		if ((o->count < 2 && !o->g.loop &&
		     !(x->gi[o->g.first].live && o->g.at != o->g.first)) ||
		    x->nr_groups == ARRAY_SIZE(x->groups))
			continue;
		if (o->g.loop)
			o->g.slot = (u8)loops++;
		for (unsigned m = 0; m < o->count; m++) {
			struct gi *g = &x->gi[o->members[m] >> 1];

			if (o->members[m] & 1)
				g->group_stack = (s16)x->nr_groups;
			else
				g->group_mem = (s16)x->nr_groups;
		}
		x->groups[x->nr_groups++] = o->g;
	}
	if (loops) {
		x->gi[s->start].loop_end = (int)next - 1;
		x->gi[s->start].loop_key = (s8)key;
	}
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

	if ((g->kind == GI_COPY || g->kind == GI_MULX || g->kind == GI_PUSH ||
	     g->kind == GI_JMP_IND || g->kind == GI_CALL_IND) &&
	    operand_address(g, &at))
		access_at(s, n, &at, g->mem_size, g->mem_write, false);
	switch (g->kind) {
	case GI_PUSH:
	case GI_PUSHF:
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
	s64 far;

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
		far = (s64)s->reg[reg_id(v->mem.base) & 15].delta +
		      (v->mem.disp.has_displacement ? v->mem.disp.value : 0);
		if (far != (s32)far)
			return false;
		*t = s->reg[reg_id(v->mem.base) & 15];
		t->delta = (s32)far;
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
	case GI_PUSHF:
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
	case GI_STRING:
		fresh(s, RSI);
		fresh(s, RDI);
		fresh(s, RAX);
		return;
	case GI_COPY:
	case GI_MULX:
	case GI_LEA:
	case GI_JRCXZ:
	case GI_FROM_SREG:
	case GI_BASE:
	case GI_RDTSC:
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

	return g->inner == (int)s->start && head->label && head->nr_back == 1 && !head->live &&
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
