/* SPDX-License-Identifier: MIT */
/* Isolation as an attack: random hostile guest code, aimed at the monitor's own addresses, on an
 * engine and on the reference interpreter. world.c: the machines and what must not change; gen.c
 * and runs.c: the code. */
#pragma once

#include "cpu/x86/x86.h"

enum attack_mode { LONG0, LONG3, COMPAT3, PROT0, PAE0, NR_MODES };

#define RAM_SIZE   (2 * MiB)
#define IDT_PA     0x1000
#define GDT_PA     0x2000
#define TSS_PA     0x3000
#define STACK0_PA  0x4ff0  /* top */
#define HANDLER_PA 0x6000  /* a HLT for each vector */
#define REMAP_PA   0x6200  /* a function that exchanges the second page of code with ALT_PA's */
#define CODE_PA    0x10000 /* two pages, the third absent in the page tables */
#define ALT_PA     0x20000 /* what else may be mapped as the second page of code */
#define STACK_PA   0x30000 /* top */
#define DATA_PA    0x40000
#define DATA_END   0x60000
#define TABLES_PA  0x100000

#define NR_TARGETS 24
#define MAX_INSNS  24

/* One case: code with the places where instructions begin, as offsets from CODE_PA. */
struct attack_case {
	enum attack_mode mode;
	unsigned nr;
	u16 start[MAX_INSNS + 1];
	u16 at;      /* where it begins */
	bool remaps; /* it calls REMAP_PA */
	u8 code[0x800];
	u8 other[0x800]; /* the same, changed here and there: what of it would be on the second page
	                  * is at ALT_PA */
};

struct rnd {
	u64 s;
};
static inline u32 rnd_next(struct rnd *r)
{
	r->s = r->s * 6364136223846793005ull + 1442695040888963407ull;
	return (u32)(r->s >> 33);
}
static inline u32 rnd_below(struct rnd *r, u32 n)
{
	return rnd_next(r) % n;
}

/* Addresses worth trying: the monitor's (host), the guest's borders, the architecture's. */
struct targets {
	unsigned nr;
	u64 addr[NR_TARGETS];
};
u64 target_pick(const struct targets *t, struct rnd *r);

struct attack_kinds {
	/* Also LOCK and XCHG. Across cache lines, a host that detects split locks makes each of
	 * them wait for up to a second. */
	bool locks;
	bool runs; /* of accesses (runs.c), and nothing else */
};
void attack_generate(struct attack_case *a, const struct targets *t, struct rnd *r,
                     struct attack_kinds kinds);

/* runs.c: a run of accesses at `p`, if there is room before `end`; its end. */
u8 *attack_run(u8 *p, const u8 *end, struct rnd *r);

/* A machine of one processor; what it has besides RAM is watched by canaries. */
struct world {
	struct vm vm;
	struct vcpu *v;
	struct x86_cpu *c;
	u8 *ram;
	u8 *shadow;       /* what RAM holds at the start of a program */
	gpa_t tables_end; /* of its page tables */
	gpa_t reach;      /* RAM from 0 that it can touch; and its page tables */
	u8 *heap[4];
	u8 *fence[2]; /* mappings right before and behind RAM, where the host had room */
	u8 *constant; /* copies of structures that never change */
	size_t constant_size;
};

int world_create(struct world *w, const struct engine_ops *engine);
void world_destroy(struct world *w);
void world_targets(const struct world *w, struct targets *t);
/* RAM, tables and registers for a case. `seed`: registers and data; the same for both worlds. */
void world_load(struct world *w, const struct attack_case *a, const struct targets *t, u64 seed);
/* Start at code offset `off`, with some registers made hostile again. */
void world_start(struct world *w, const struct attack_case *a, const struct targets *t,
                 unsigned off, u64 seed);
/* First difference of the two RAMs in what the last program could touch; RAM_SIZE: none. */
gpa_t world_compare(const struct world *a, const struct world *b);
/* Can this engine's arithmetic flags be made more exact? Then before the first run: they pass into
 * functions and out of them; `everywhere`: and are right in every frame of an exception, too. */
bool world_can_keep_flags(const struct world *w);
void world_keep_flags(struct world *w, bool everywhere);
/* Moves when translated code was modified. */
u64 world_modified(const struct world *w);
/* NULL, or what of the monitor's memory has changed. */
const char *world_damage(const struct world *w, bool all);
