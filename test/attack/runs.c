// SPDX-License-Identifier: MIT
/* Runs of address arithmetic with accesses in between, once or in a loop: what a translator merges
 * checks for. The constants are chosen such that the address is a good one at the access, or
 * exactly 4 GiB beside one, however far the registers went; so a check of another address is seen
 * by what it lets through and by what it stops. 64-bit code. */
#include <string.h>

#include "attack.h"

#define ROOM 400 /* bytes of a run, at most */

struct run {
	struct rnd *r;
	u8 *p;
	unsigned base, index, scale, copy, data, count; /* registers, all different */
	u64 vb, vi, vc;                                 /* what they hold at this place */
	bool copied;
	s32 far; /* where the registers are likely to go, in between */
};

static void put(struct run *g, u8 b)
{
	*g->p++ = b;
}

static void put32(struct run *g, u32 v)
{
	memcpy(g->p, &v, 4);
	g->p += 4;
}

/* op reg, [base + index * 2^scale + disp]; index 4: none */
static void mem(struct run *g, bool w, unsigned map, u8 op, unsigned reg, unsigned base,
                unsigned index, unsigned scale, u32 disp)
{
	put(g, (u8)(0x40 | w << 3 | (reg >> 3) << 2 | (index >> 3) << 1 | base >> 3));
	if (map)
		put(g, 0x0f);
	put(g, op);
	put(g, (u8)(0x84 | (reg & 7) << 3));
	put(g, (u8)(scale << 6 | (index & 7) << 3 | (base & 7)));
	put32(g, disp);
}

static void reg_reg(struct run *g, u8 op, unsigned reg, unsigned rm)
{
	put(g, (u8)(0x48 | (reg >> 3) << 2 | rm >> 3));
	put(g, op);
	put(g, (u8)(0xc0 | (reg & 7) << 3 | (rm & 7)));
}

static void set(struct run *g, unsigned reg, u64 v)
{
	put(g, (u8)(0x48 | reg >> 3));
	put(g, (u8)(0xb8 | (reg & 7)));
	memcpy(g->p, &v, 8);
	g->p += 8;
}

static s32 distance(struct run *g)
{
	static const s32 far[] = {0x8000000,  0x7ffffff,  0x8000001,  0xffffff,    0x1000000,
	                          0x40000000, 0x3ffffff0, 0x7fffffff, -0x7fffffff, 0x10000};
	s32 d = (s32)rnd_below(g->r, 600) - 300;

	if (rnd_below(g->r, 2))
		d = far[rnd_below(g->r, sizeof(far) / sizeof(far[0]))];
	return rnd_below(g->r, 2) ? -d : d;
}

/* A register goes somewhere; how far. */
static s32 step(struct run *g, unsigned reg)
{
	s32 d = distance(g);

	switch (rnd_below(g->r, 5)) {
	case 0:
	case 1:
		mem(g, true, 0, 0x8d, reg, reg, 4, 0, (u32)d); /* lea */
		return d;
	case 2:
		reg_reg(g, 0x81, 0, reg); /* add */
		put32(g, (u32)d);
		return d;
	case 3:
		reg_reg(g, 0x81, 5, reg); /* sub */
		put32(g, (u32)d);
		return (s32)(0u - (u32)d);
	default:
		d = rnd_below(g->r, 2) ? 1 : -1;
		reg_reg(g, 0xff, d > 0 ? 0 : 1, reg); /* inc, dec */
		return d;
	}
}

/* An access to `at`, if a displacement reaches it from where the registers are. */
static void reach(struct run *g, u64 at)
{
	static const u8 ops[] = {0x8b, 0x89, 0x03, 0x01, 0x3b, 0x39, 0x8a, 0x88, 0x33, 0x87};
	bool by_copy = g->copied && rnd_below(g->r, 3) == 0, indexed = rnd_below(g->r, 4);
	u64 from = by_copy ? g->vc : g->vb;
	u64 disp;

	if (indexed)
		from += g->vi << g->scale;
	disp = at - from;
	if (disp != (u64)(s64)(s32)disp)
		return;
	if (rnd_below(g->r, 6) == 0)
		mem(g, false, 1, rnd_below(g->r, 2) ? 0x10 : 0x11, rnd_below(g->r, 8),
		    by_copy ? g->copy : g->base, indexed ? g->index : 4, g->scale, (u32)disp);
	else
		mem(g, rnd_below(g->r, 2), 0, ops[rnd_below(g->r, sizeof(ops))], g->data,
		    by_copy ? g->copy : g->base, indexed ? g->index : 4, g->scale, (u32)disp);
}

static void setcc(struct run *g)
{
	put(g, (u8)(0x40 | g->data >> 3));
	put(g, 0x0f);
	put(g, (u8)(0x90 | rnd_below(g->r, 16)));
	put(g, (u8)(0xc0 | (g->data & 7)));
}

static void go(struct run *g, unsigned reg, u64 *v, u32 d)
{
	mem(g, true, 0, 0x8d, reg, reg, 4, 0, d);
	*v += (u64)(s64)(s32)d;
}

/* Both far away, where flags are dead, and back for an access where they are not. */
static void swing(struct run *g, u64 at)
{
	u32 d = (u32)(rnd_below(g->r, 2) ? g->far : distance(g)), e;

	e = rnd_below(g->r, 3) ? d : (u32)distance(g);

	go(g, g->base, &g->vb, 0 - d);
	go(g, g->index, &g->vi, 0 - e);
	reg_reg(g, 0x39, g->data, g->count);
	go(g, g->base, &g->vb, d);
	go(g, g->index, &g->vi, e);
	reach(g, at + rnd_below(g->r, 16));
	setcc(g);
}

static void push(struct run *g)
{
	put(g, (u8)(0x40 | g->data >> 3));
	put(g, (u8)(0x50 | (g->data & 7)));
}

/* push, pop; above or below the top */
static void stack(struct run *g, u64 at)
{
	u64 disp;

	if (rnd_below(g->r, 2)) /* on two pages */
		at = (at & PAGE_MASK) + PAGE_SIZE - 1 - rnd_below(g->r, 8);
	disp = at - g->vb;
	switch (rnd_below(g->r, 5)) {
	case 0: /* of memory, if it is in reach; and what may rely on the same check */
		if (disp != (u64)(s64)(s32)disp)
			return;
		mem(g, false, 0, 0xff, 6, g->base, 4, 0, (u32)disp);
		push(g);
		break;
	case 1:
		put(g, (u8)(0x40 | g->data >> 3));
		put(g, (u8)(0x58 | (g->data & 7)));
		break;
	case 2:
		mem(g, true, 0, rnd_below(g->r, 2) ? 0x8b : 0x89, g->data, 4, 4, 0,
		    8 * rnd_below(g->r, 8) - 32);
		break;
	default:
		push(g);
	}
}

static void element(struct run *g, u64 at)
{
	switch (rnd_below(g->r, 16)) {
	case 12:
	case 13:
	case 14:
		stack(g, at + rnd_below(g->r, 96));
		break;
	case 10:
	case 11:
		swing(g, at);
		break;
	case 0:
	case 1:
		g->vb += (u64)(s64)step(g, g->base);
		break;
	case 2:
	case 3:
		g->vi += (u64)(s64)step(g, g->index);
		break;
	case 4: /* where flags are dead in front of */
		reg_reg(g, 0x39, g->data, g->count);
		break;
	case 5: /* where they are read */
		setcc(g);
		break;
	case 6:
		reg_reg(g, 0x89, g->base, g->copy);
		g->vc = g->vb;
		g->copied = true;
		break;
	default:
		reach(g, at + rnd_below(g->r, 96));
	}
}

/* Different ones; R13 to R15 among them, which have no host register, and not RSP. */
static void choose(struct run *g)
{
	static const u8 all[] = {0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
	unsigned *to[] = {&g->base, &g->index, &g->copy, &g->data, &g->count};
	u8 left[sizeof(all)];

	memcpy(left, all, sizeof(all));
	for (unsigned i = 0; i < sizeof(to) / sizeof(to[0]); i++) {
		unsigned k = rnd_below(g->r, sizeof(all) - i);

		*to[i] = left[k];
		left[k] = left[sizeof(all) - 1 - i];
	}
}

/* Back where the round began, and on by a little; and again. */
static void round_ends(struct run *g, const u8 *head, u64 vb, u64 vi)
{
	static const u8 small[] = {0, 1, 4, 8, 8, 16, 64, 255};
	u64 back_b = vb - g->vb, back_i = vi - g->vi;
	u64 db = rnd_below(g->r, 3) ? small[rnd_below(g->r, sizeof(small))] : 0;
	u64 di = rnd_below(g->r, 2) ? small[rnd_below(g->r, sizeof(small))] >> g->scale : 0;

	/* The distance has 32 bits, mostly; else the next round is wild. */
	mem(g, true, 0, 0x8d, g->base, g->base, 4, 0, (u32)(back_b + db));
	mem(g, true, 0, 0x8d, g->index, g->index, 4, 0, (u32)(back_i + di));
	if (rnd_below(g->r, 2)) {
		reg_reg(g, 0xff, 1, g->count); /* dec */
	} else {
		reg_reg(g, 0x83, 5, g->count); /* sub */
		put(g, 1);
	}
	put(g, 0x0f); /* jnz, or jg */
	put(g, rnd_below(g->r, 2) ? 0x85 : 0x8f);
	put32(g, (u32)(head - (g->p + 4)));
}

u8 *attack_run(u8 *p, const u8 *end, struct rnd *r)
{
	/* Displacements at the edge of what is taken for near, with the distances that add most to
	 * them, and where 32 bits of the sum would be. */
	static const struct {
		s64 disp, beside;
		s32 far;
	} way[] = {{0x3fffffe0, 1ll << 32, 0x8000000},
	           {-0x40000000, -(1ll << 32), -0x8000000},
	           {0x7fffff00, 1ll << 32, 0x7fffff00},
	           {-0x7fffff00, -(1ll << 32), -0x7fffff00}};
	u64 good = DATA_PA + rnd_below(r, (DATA_END - DATA_PA) / 8) * 8ull, at, vb, vi;
	struct run g = {.r = r, .p = p, .scale = 3 - rnd_below(r, 6) / 2};
	unsigned which = rnd_below(r, 4);
	bool loops = rnd_below(r, 2);
	const u8 *head;

	if (end - p < ROOM)
		return p;
	if (rnd_below(r, 3) == 0) /* near a page's end */
		good = (good & PAGE_MASK) + PAGE_SIZE - rnd_below(r, 120);
	at = good + (rnd_below(r, 2) ? (u64)way[which].beside : 0);
	g.far = way[which].far;
	choose(&g);
	/* Known to whoever keeps translations of addresses. */
	set(&g, g.copy, good);
	mem(&g, false, 0, 0x8a, g.data, g.copy, 4, 0, 0);
	mem(&g, false, 0, 0x80, 0, g.copy, 4, 0, 0); /* add $0 */
	put(&g, 0);
	vi = rnd_below(r, 2) ? rnd_below(r, 0x1000) : (u64)(s64)distance(&g);
	vb = at - (vi << g.scale);
	vb -= (u64)(rnd_below(r, 2) ? way[which].disp : distance(&g));
	set(&g, g.base, g.vb = vb);
	set(&g, g.index, g.vi = vi);
	set(&g, g.count, loops ? 1 + rnd_below(r, 80) : rnd_next(r));
	head = g.p;
	for (unsigned n = 3 + rnd_below(r, 12); n-- && g.p - p < ROOM - 100;)
		element(&g, at);
	if (loops)
		round_ends(&g, head, vb, vi);
	return g.p;
}
