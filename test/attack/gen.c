// SPDX-License-Identifier: MIT
/* Random instructions with random operands, by opcode and encoding (SDM volume 2, appendix A): what
 * an assembler would not write is as likely as what it would. Left out is what two machines may
 * answer differently: time, random numbers, MSRs, and what switches the mode. */
#include <string.h>

#include "attack.h"

struct gen {
	struct rnd *r;
	const struct targets *t;
	u8 *p, *end;
	bool code64, locks, remaps;
	u32 at; /* address of the code */
	const u8 *begin;
};

enum {
	M = 1,   /* ModRM with any operand */
	MEM = 2, /* ModRM with a memory operand */
	I8 = 4,
	IZ = 8, /* 16 or 32 bits by operand size */
	LOCKABLE = 16,
	REP = 32, /* a string instruction */
	ONLY64 = 64,
	ONLY32 = 128,
	MOFFS = 256,
	REG = 512, /* the ModRM's reg field is `reg` */
	RING0 = 1024,
	IV = 2048, /* 16, 32 or, with REX.W, 64 bits */
};

struct form {
	u8 prefix, map; /* 0x66, 0xf2, 0xf3; map 0 one byte, 1 0f, 2 0f38, 3 0f3a, 4.. VEX of 1.. */
	u8 op;
	u16 flags;
	u8 reg;
};

/* So many opcodes in a row. */
/* clang-format off */
#define RUN2(p, map, op, f) {p, map, op, f}, {p, map, (op) + 1, f}
/* clang-format on */
#define RUN4(p, map, op, f) RUN2(p, map, op, f), RUN2(p, map, (op) + 2, f)
#define RUN6(p, map, op, f) RUN4(p, map, op, f), RUN2(p, map, (op) + 4, f)

static const struct form forms[] = {
	/* ALU */
	RUN2(0, 0, 0x00, M | LOCKABLE),
	{0, 0, 0x03, M},
	{0, 0, 0x09, M | LOCKABLE},
	{0, 0, 0x11, M | LOCKABLE},
	{0, 0, 0x13, M},
	{0, 0, 0x19, M},
	{0, 0, 0x21, M | LOCKABLE},
	{0, 0, 0x29, M | LOCKABLE},
	{0, 0, 0x2b, M},
	{0, 0, 0x31, M | LOCKABLE},
	RUN2(0, 0, 0x38, M),
	{0, 0, 0x3b, M},
	{0, 0, 0x80, M | I8 | LOCKABLE},
	{0, 0, 0x81, M | IZ | LOCKABLE},
	{0, 0, 0x83, M | I8 | LOCKABLE},
	RUN2(0, 0, 0x84, M),
	RUN2(0, 0, 0x86, M | LOCKABLE),
	RUN4(0, 0, 0x88, M),
	{0, 0, 0x89, MEM},
	{0, 0, 0x8b, MEM},
	{0, 0, 0x89, MEM},
	{0, 0, 0x8b, MEM},
	{0, 0, 0xc6, M | I8 | REG, 0},
	{0, 0, 0xc7, M | IZ | REG, 0},
	{0, 0, 0xb8, IV},
	{0, 0, 0x8d, MEM},
	RUN4(0, 0, 0xa0, MOFFS),
	{0, 0, 0xf6, M | LOCKABLE | REG, 2},
	{0, 0, 0xf7, M | LOCKABLE | REG, 3},
	{0, 0, 0xf7, M | REG, 4},
	{0, 0, 0xf7, M | REG, 6},
	{0, 0, 0xfe, M | LOCKABLE | REG, 0},
	{0, 0, 0xff, M | LOCKABLE | REG, 1},
	{0, 0, 0x63, M | ONLY64},
	{0, 0, 0x63, M | ONLY32},
	{0, 0, 0x69, M | IZ},
	/* shifts */
	RUN2(0, 0, 0xc0, M | I8),
	{0, 0, 0xd1, M},
	{0, 0, 0xd3, M},
	{0, 1, 0xa4, M | I8},
	{0, 1, 0xad, M},
	/* bit strings, with offsets of any size */
	{0, 1, 0xa3, M},
	{0, 1, 0xab, MEM | LOCKABLE},
	{0, 1, 0xb3, MEM | LOCKABLE},
	{0, 1, 0xbb, MEM | LOCKABLE},
	{0, 1, 0xba, MEM | I8 | LOCKABLE | REG, 5},
	/* exchanges */
	RUN2(0, 1, 0xb0, M | LOCKABLE),
	RUN2(0, 1, 0xc0, M | LOCKABLE),
	{0, 1, 0xc7, MEM | LOCKABLE | REG, 1},
	{0, 1, 0xb6, M},
	{0, 1, 0xbf, M},
	{0, 1, 0x44, M},
	{0, 1, 0x4f, M},
	{0, 1, 0x92, M},
	{0, 1, 0xaf, M},
	{0, 1, 0x38 + 0x72, M},
	RUN2(0, 2, 0xf0, MEM),
	{0, 1, 0xc3, MEM},
	{0xf3, 1, 0xb8, M},
	/* the stack */
	{0, 0, 0x50, 0},
	RUN2(0, 0, 0x53, 0),
	RUN2(0, 0, 0x57, 0),
	RUN2(0, 0, 0x5c, 0),
	{0, 0, 0x5f, 0},
	{0, 0, 0x68, IZ},
	{0, 0, 0x8f, M | REG, 0},
	{0, 0, 0xff, M | REG, 6},
	{0, 0, 0x9c, 0},
	{0, 0, 0xc9, 0},
	RUN2(0, 0, 0x60, ONLY32),
	/* transfers */
	{0, 0, 0xff, M | REG, 2},
	{0, 0, 0xff, M | REG, 4},
	{0, 0, 0xff, MEM | REG, 3},
	{0, 0, 0xff, MEM | REG, 5},
	{0, 0, 0xc3, 0},
	{0, 0, 0xcb, 0},
	{0, 0, 0xcf, 0},
	/* strings */
	RUN4(0, 0, 0xa4, REP),
	RUN6(0, 0, 0xaa, REP),
	{0, 0, 0xd7, 0},
	RUN2(0, 0, 0xfc, 0),
	/* vector and x87 memory operands */
	RUN2(0, 1, 0x10, MEM),
	RUN2(0, 1, 0x28, MEM),
	{0, 1, 0x2b, MEM},
	{0xf3, 1, 0x6f, MEM},
	{0xf3, 1, 0x7f, MEM},
	{0x66, 1, 0x6f, MEM},
	{0x66, 1, 0x7f, MEM},
	RUN2(0xf2, 1, 0x10, MEM),
	{0xf3, 1, 0x11, MEM},
	{0, 1, 0x13, MEM},
	{0, 1, 0x16, MEM},
	{0x66, 1, 0xe7, MEM},
	{0, 1, 0xe7, MEM},
	{0, 1, 0x7f, MEM},
	{0x66, 1, 0xd6, MEM},
	{0x66, 1, 0xfe, MEM},
	{0x66, 2, 0x2a, MEM},
	{0xf2, 1, 0xf0, MEM},
	{0x66, 3, 0x14, MEM | I8},
	RUN2(0, 4, 0x10, MEM),
	{0x66, 4, 0x6f, MEM},
	{0x66, 4, 0x7f, MEM},
	{0x66, 5, 0x2c, MEM},
	RUN2(0x66, 5, 0x2e, MEM),
	{0x66, 5, 0x8c, MEM},
	{0x66, 5, 0x8e, MEM},
	RUN4(0x66, 5, 0x90, MEM),
	{0, 5, 0xf7, MEM},
	{0, 0, 0xd9, MEM},
	{0, 0, 0xdb, MEM},
	{0, 0, 0xdd, MEM},
	{0, 0, 0xdf, MEM},
	{0, 1, 0xae, MEM | REG, 0},
	{0, 1, 0xae, MEM | REG, 1},
	{0, 1, 0xae, MEM | REG, 3},
	{0, 1, 0xae, MEM | REG, 4},
	{0, 1, 0xae, MEM | REG, 5},
	{0, 1, 0xae, MEM | REG, 7},
	{0, 1, 0x18, MEM},
	/* segments, system */
	{0, 0, 0x8e, M},
	{0, 0, 0x8c, M},
	RUN2(0, 1, 0x02, M),
	{0, 1, 0x00, M},
	{0, 1, 0xb2, MEM},
	{0, 1, 0xb4, MEM},
	RUN2(0, 0, 0xc4, MEM | ONLY32),
	{0, 0, 0x62, MEM | ONLY32},
	{0, 1, 0x01, MEM | REG, 0},
	{0, 1, 0x01, MEM | REG, 1},
	{0, 1, 0x01, MEM | REG | RING0, 2},
	{0, 1, 0x01, MEM | REG | RING0, 3},
	{0, 1, 0x01, MEM | REG, 4},
	{0, 1, 0x01, MEM | REG, 7},
	{0, 1, 0x0b, 0},
	{0, 0, 0xcc, 0},
	{0, 0, 0xf1, 0},
	{0, 1, 0xa2, 0},
};

static void put(struct gen *g, u8 b)
{
	if (g->p < g->end)
		*g->p++ = b;
}

static void put_n(struct gen *g, u64 v, unsigned n)
{
	while (n--) {
		put(g, (u8)v);
		v >>= 8;
	}
}

u64 target_pick(const struct targets *t, struct rnd *r)
{
	u64 a = t->addr[rnd_below(r, t->nr)];

	switch (rnd_below(r, 4)) {
	case 0:
		return a;
	case 1:
		return a + rnd_below(r, 64) - 32;
	case 2:
		return (a & PAGE_MASK) + PAGE_SIZE - rnd_below(r, 40);
	default:
		return a + (u64)(s64)(s32)rnd_next(r) * (rnd_below(r, 2) ? 1 : 4096);
	}
}

static u32 displacement(struct gen *g)
{
	switch (rnd_below(g->r, 5)) {
	case 0:
		return (u32)target_pick(g->t, g->r);
	case 1:
		return rnd_next(g->r) << 1;
	case 2:
		return (rnd_below(g->r, 2) ? 0x7fffffffu : 0x80000000u) + rnd_below(g->r, 16) - 8;
	case 3:
		return DATA_PA + rnd_below(g->r, DATA_END - DATA_PA);
	default:
		return rnd_below(g->r, 256) - 128;
	}
}

/* ModRM, SIB, displacement. `tail`: bytes of the instruction behind, for nothing here. */
static void put_modrm(struct gen *g, unsigned reg, bool memory, bool sib, bool addr16)
{
	unsigned mod = rnd_below(g->r, memory ? 3 : 4), rm = rnd_below(g->r, 8);

	if (sib)
		rm = 4;
	put(g, (u8)(mod << 6 | reg << 3 | rm));
	if (mod == 3)
		return;
	if (addr16) {
		if (mod == 1)
			put(g, (u8)rnd_next(g->r));
		else if (mod == 2 || rm == 6)
			put_n(g, displacement(g), 2);
		return;
	}
	if (rm == 4) {
		unsigned s = rnd_below(g->r, 256);

		put(g, (u8)s);
		if ((s & 7) == 5 && !mod)
			put_n(g, displacement(g), 4);
	} else if (rm == 5 && !mod) {
		put_n(g, displacement(g), 4);
	}
	if (mod == 1)
		put(g, (u8)rnd_next(g->r));
	else if (mod == 2)
		put_n(g, displacement(g), 4);
}

static void put_vex(struct gen *g, const struct form *f)
{
	unsigned pp = f->prefix == 0x66 ? 1 : f->prefix == 0xf3 ? 2 : f->prefix == 0xf2 ? 3 : 0;
	/* R, X, B are stored inverted; 32-bit code wants them 1. */
	unsigned rxb = g->code64 ? rnd_below(g->r, 8) : 7;
	unsigned vvvv = f->map == 4 ? 15 : g->code64 ? rnd_below(g->r, 16) : 8 | rnd_below(g->r, 8);

	put(g, 0xc4);
	put(g, (u8)(rxb << 5 | (f->map - 3u)));
	put(g, (u8)(rnd_below(g->r, 2) << 7 | vvvv << 3 | rnd_below(g->r, 2) << 2 | pp));
}

static void put_form(struct gen *g, const struct form *f)
{
	bool addr = rnd_below(g->r, 12) == 0, word = false, wide = false;
	bool gather = f->map == 5 && f->op >= 0x90 && f->op <= 0x93;
	static const u8 seg[] = {0x64, 0x65, 0x64, 0x65, 0x2e, 0x36, 0x3e, 0x26};

	if (rnd_below(g->r, 6) == 0)
		put(g, seg[rnd_below(g->r, 8)]);
	if (addr)
		put(g, 0x67);
	if (f->map < 4) {
		if (!f->prefix && !f->map && rnd_below(g->r, 8) == 0) {
			put(g, 0x66);
			word = true;
		}
		if ((f->flags & LOCKABLE) && rnd_below(g->r, 3) == 0 && g->locks)
			put(g, 0xf0);
		if ((f->flags & REP) && rnd_below(g->r, 2))
			put(g, rnd_below(g->r, 2) ? 0xf3 : 0xf2);
		if (f->prefix)
			put(g, f->prefix);
		if (g->code64 && rnd_below(g->r, 3)) {
			u8 rex = (u8)(0x40 | rnd_below(g->r, 16));

			wide = rex & 8;
			put(g, rex);
		}
		if (f->map)
			put(g, 0x0f);
		if (f->map > 1)
			put(g, f->map == 2 ? 0x38 : 0x3a);
	} else {
		put_vex(g, f);
	}
	put(g, f->op);
	if (f->flags & (M | MEM))
		put_modrm(g, f->flags & REG ? f->reg : rnd_below(g->r, 8), f->flags & MEM, gather,
		          addr && !g->code64);
	if (f->flags & MOFFS)
		put_n(g, target_pick(g->t, g->r), g->code64 ? (addr ? 4 : 8) : (addr ? 2 : 4));
	if (f->flags & I8)
		put(g, (u8)rnd_next(g->r));
	if (f->flags & IZ)
		put_n(g, displacement(g), word && !wide ? 2 : 4);
	if (f->flags & IV)
		put_n(g, target_pick(g->t, g->r), wide ? 8 : word ? 2 : 4);
}

/* Jumps, and set-up that makes the rest bite. */
static void put_special(struct gen *g)
{
	switch (rnd_below(g->r, g->remaps ? 12 : 10)) {
	case 8: /* a call of what follows, or of what was before */
		put(g, 0xe8);
		put_n(g, rnd_below(g->r, 3) ? rnd_below(g->r, 40) : 0u - rnd_below(g->r, 60), 4);
		break;
	case 9: /* test %ecx, %ecx; a jump backward, until ECX is 0 */
		put_n(g, 0xc985, 2);
		put(g, 0xe0 | rnd_below(g->r, 2));
		put(g, (u8)(0u - rnd_below(g->r, 40)));
		break;
	case 10:
	case 11:
		put(g, 0xe8);
		put_n(g, REMAP_PA - (g->at + (u32)(g->p - g->begin) + 4), 4);
		break;
	case 0: /* into the middle of what follows */
		put(g, 0xeb);
		put(g, (u8)rnd_below(g->r, 20));
		break;
	case 1:
		put(g, (u8)(0x70 | rnd_below(g->r, 16)));
		put(g, (u8)rnd_below(g->r, 24));
		break;
	case 2: /* wild, or the pages around */
		put(g, rnd_below(g->r, 2) ? 0xe8 : 0xe9);
		put_n(g, rnd_below(g->r, 2) ? rnd_below(g->r, 0x2800) : rnd_next(g->r) << 1, 4);
		break;
	case 3: /* mov $n, %ecx: counts of string instructions */
		put(g, 0xb9);
		put_n(g, rnd_below(g->r, 3) ? rnd_below(g->r, 300) : rnd_below(g->r, 9000), 4);
		break;
	case 4: /* the code itself, by a displacement */
		put(g, 0xc6);
		put(g, 0x05);
		put_n(g, g->code64 ? rnd_below(g->r, 64) : CODE_PA + rnd_below(g->r, 256), 4);
		put(g, (u8)rnd_next(g->r));
		break;
	case 5: /* enter */
		put(g, 0xc8);
		put_n(g, rnd_next(g->r), 2);
		put(g, (u8)rnd_below(g->r, 40));
		break;
	case 6: /* mov reg, %rsp */
		if (g->code64)
			put(g, 0x48);
		put(g, 0x89);
		put(g, (u8)(0xc4 | rnd_below(g->r, 8) << 3));
		break;
	default: /* a loop with an access in it */
		put(g, 0xb9);
		put_n(g, 1 + rnd_below(g->r, 30), 4);
		put(g, 0x89);
		put(g, 0x03);
		put(g, 0x83);
		put(g, (u8)(0xc0 | rnd_below(g->r, 4)));
		put(g, (u8)rnd_next(g->r));
		put(g, 0xe2);
		put(g, 0xf9);
	}
}

/* No RDTSC, RDTSCP, RDRAND or RDSEED, not even for a jump into the middle; what code that
 * overwrites itself makes up can still be one, and then two interpreters differ as well. */
static void defuse(u8 *p, const u8 *end)
{
	for (; p + 2 < end; p++) {
		if (p[1] == 0x31)
			p[1] = 0x30;
		if (p[0] == 0x01 && p[1] == 0xf9)
			p[1] = 0xf8;
		if (p[0] == 0xc7 && p[1] >= 0xf0)
			p[1] = 0xc0;
	}
}

void attack_generate(struct attack_case *a, const struct targets *t, struct rnd *r,
                     struct attack_kinds kinds)
{
	struct gen g = {.r = r,
	                .t = t,
	                .p = a->code,
	                .end = a->code + sizeof(a->code) - 32,
	                .locks = kinds.locks};

	memset(a, 0, sizeof(*a));
	a->mode = (enum attack_mode)rnd_below(r, NR_MODES + 3);
	if (a->mode >= NR_MODES || kinds.runs)
		a->mode = a->mode & 1 ? LONG0 : LONG3;
	g.code64 = a->mode == LONG0 || a->mode == LONG3;
	a->nr = 4 + rnd_below(r, MAX_INSNS - 4);
	/* At the page's start, over two pages, or over the second page's end. */
	switch (rnd_below(r, 4)) {
	case 0:
	case 1:
		a->at = (u16)(PAGE_SIZE - rnd_below(r, 120));
		break;
	case 2:
		a->at = rnd_below(r, 4) ? 0 : (u16)(2 * PAGE_SIZE - 1 - rnd_below(r, 120));
		break;
	}
	a->remaps = a->at && (a->mode == LONG0 || a->mode == PAE0) && rnd_below(r, 2);
	g.remaps = a->remaps;
	g.at = CODE_PA + a->at;
	g.begin = a->code;
	if (a->at > PAGE_SIZE) /* what there is room for */
		g.end = a->code + 2 * PAGE_SIZE - a->at;
	for (unsigned i = 0; i < a->nr; i++) {
		const struct form *f = &forms[rnd_below(r, ARRAY_SIZE(forms))];

		a->start[i] = (u16)(a->at + (g.p - a->code));
		if (kinds.runs || (g.code64 && rnd_below(r, 12) == 0))
			g.p = attack_run(g.p, g.end, r);
		else if (rnd_below(r, 6) == 0)
			put_special(&g);
		else if (!(f->flags & (g.code64 ? ONLY32 : ONLY64)) &&
		         (kinds.locks || f->map || (f->op != 0x86 && f->op != 0x87)))
			put_form(&g, f);
	}
	if (g.p == a->code) /* no run had room */
		put(&g, 0x90);
	a->start[a->nr] = (u16)(a->at + (g.p - a->code));
	memcpy(a->other, a->code, sizeof(a->other));
	for (unsigned i = 0; i < 4 && a->remaps; i++)
		a->other[rnd_below(r, (u32)(g.p - a->code))] ^= 1u << rnd_below(r, 8);
	/* With what follows it would be RDRAND. */
	a->other[g.p - a->code - 1] &= g.p[-1] == 0xc7 ? 0xfe : 0xff;
	g.p[-1] &= g.p[-1] == 0xc7 ? 0xfe : 0xff;
	defuse(a->other, a->other + (g.p - a->code));
	defuse(a->code, g.p);
	memset(g.p, 0xf4, 16);
	memset(a->other + (g.p - a->code), 0xf4, 16);
}
