// SPDX-License-Identifier: MIT
/* test-crossmod ENGINE [--seed N] [--count N]: code that one processor modifies and another one
 * executes (SDM 3A 8.1.3).
 *
 * The writer stores a number into an instruction, then publishes it; the reader waits for it,
 * executes a serializing instruction, then the code, which must yield this very number. Or it
 * serializes nothing and executes all the time: then it may meet old numbers, but none twice in the
 * wrong order, and the last one soon. Random are the instruction's kind and place (over two pages,
 * on the page of the loop that executes it), the store, and how it is reached. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "attack.h"
#include "cpu/x86/mmu.h"
#include "machine/config.h"
#include "mem/pmap.h"

#define TABLES   0x1f0000
#define STACKS   0x1e0000 /* a page each */
#define SHARED   0x1d0000
#define ROUNDS   30
#define NR_STUBS 8
#define SECONDS  20

/* Words behind SHARED. */
enum { SEQ = 0, ACK = 0x40, DONE = 0x80, BAD = 0x100, NR_SHARED = 0x140 };

enum { IMMEDIATE, JUMP, CALL_SITE };               /* what is modified */
enum { PLAIN, EXCHANGE, HALVES };                  /* how */
enum { DIRECT, INDIRECT, BY_JUMP, BY_CALL, WAYS }; /* how it is reached */

struct plan {
	bool code64, user, sync, by_cr3;
	unsigned what, store, way;
	u32 f, stubs, wrapper, reader, writer; /* addresses */
	u32 site;                              /* of the four bytes that change */
};

struct rig {
	struct vm vm;
	pthread_t thread[2];
	enum vcpu_stop stop[2];
};

/* ---- code ---- */

struct text {
	u8 b[256];
	unsigned n;
	u32 at;
};

static void add(struct text *t, const char *hex)
{
	unsigned v;
	int used;

	while (sscanf(hex, "%2x %n", &v, &used) == 1) {
		t->b[t->n++] = (u8)v;
		hex += used;
	}
}

static void add32(struct text *t, u32 v)
{
	put_le32(t->b + t->n, v);
	t->n += 4;
}

static void add_rel(struct text *t, const char *opcode, u32 target)
{
	add(t, opcode);
	add32(t, target - (t->at + t->n + 4));
}

/* Tell that it is over and wait: DONE of processor n. */
static void add_end(struct text *t, unsigned n, u32 value)
{
	add(t, "c7 83");
	add32(t, DONE + n * 64);
	add32(t, value);
	add(t, "f3 90 eb fc");
}

/* EAX counts, EBP is the last number, ESI the place, EDI what is added. */
static struct text make_writer(const struct plan *p)
{
	static const char *const store[] = {"89 0e", "87 0e", "66 89 0e c1 e9 10 66 89 4e 02"};
	struct text t = {.at = p->writer};

	add(&t, "83 c0 01 89 c1");
	if (p->what != IMMEDIATE)
		add(&t, "83 e1 07 c1 e1 03 01 f9");
	add(&t, store[p->store]);
	add(&t, "89 03");
	if (p->sync) /* for the answer */
		add(&t, "f3 90 39 43 40 75 f9");
	else
		add(&t, "b9 80 00 00 00 f3 90 e2 fc");
	add(&t, "39 e8");
	add_rel(&t, "0f 85", p->writer);
	add_end(&t, 0, 1);
	return t;
}

/* EBP is the number, ESI the last one, EDI the wrapper or the function. */
static struct text make_reader(struct plan *p)
{
	struct text t = {.at = p->reader};
	unsigned hole;

	if (p->sync) {
		add(&t, "f3 90 8b 13 39 ea 74 f8 89 d5");
		add(&t, p->by_cr3 ? "0f 20 d8 0f 22 d8" : "53 31 c0 31 c9 0f a2 5b");
	}
	if (p->what == CALL_SITE) {
		p->site = t.at + t.n + 1;
		add_rel(&t, "e8", p->stubs);
	} else if (p->way == DIRECT) {
		add_rel(&t, "e8", p->f);
	} else {
		add(&t, "ff d7");
	}
	if (p->sync) {
		add(&t, "89 ea");
		if (p->what != IMMEDIATE)
			add(&t, "83 e2 07");
		add(&t, "39 d0 0f 85");
	} else {
		add(&t, "39 e8 0f 82");
	}
	hole = t.n;
	add32(&t, 0);
	add(&t, p->sync ? "89 6b 40 39 f5" : "89 c5 39 f5");
	add_rel(&t, "0f 85", p->reader);
	add_end(&t, 1, 1);
	put_le32(t.b + hole, t.n - (hole + 4));
	add(&t, "89 83 00 01 00 00 89 ab 04 01 00 00");
	add_end(&t, 1, 2);
	return t;
}

static void place(struct rig *g, const struct text *t)
{
	pmap_write(g->vm.pmap, t->at, t->b, t->n);
}

static void make_code(struct rig *g, struct plan *p)
{
	struct text t = {.at = p->f};

	add(&t, p->what == JUMP ? "e9" : "b8");
	add32(&t, p->what == JUMP ? p->stubs - (p->f + 5) : 0);
	add(&t, "c3");
	place(g, &t);
	if (p->what != CALL_SITE)
		p->site = p->f + 1;
	for (u32 i = 0; i < NR_STUBS; i++) {
		t = (struct text){.at = p->stubs + 8 * i};
		add(&t, "b8");
		add32(&t, i);
		add(&t, "c3");
		place(g, &t);
	}
	t = (struct text){.at = p->wrapper};
	add_rel(&t, p->way == BY_JUMP ? "e9" : "e8", p->f);
	add(&t, "c3");
	place(g, &t);
	t = make_reader(p);
	place(g, &t);
	t = make_writer(p);
	place(g, &t);
}

/* ---- a plan ---- */

static struct plan make_plan(struct rnd *r)
{
	u32 area = 2 + rnd_below(r, 50); /* of eight pages; four lie in the VGA hole */
	u32 base = (area < 20 ? area : area + 4) * 0x8000;
	struct plan p = {
		.code64 = rnd_below(r, 3),
		.user = rnd_below(r, 2),
		.sync = rnd_below(r, 4),
		.what = rnd_below(r, 3),
		.store = rnd_below(r, 3),
		.way = rnd_below(r, WAYS),
		/* the four bytes over two pages, or anywhere */
		.f = base + (rnd_below(r, 2) ? 0xffc + rnd_below(r, 3) : rnd_below(r, 0x500)),
		.stubs = base + (rnd_below(r, 2) ? 0x800 : 0x3000),
		.wrapper = base + (rnd_below(r, 2) ? 0x900 : 0x4ff0 + rnd_below(r, 16)),
		.reader = base + (rnd_below(r, 2) ? 0x600 : 0x5f80 + rnd_below(r, 0x100)),
		.writer = base + (rnd_below(r, 4) ? 0x7000 : 0xa00),
	};

	p.by_cr3 = !p.user && rnd_below(r, 2);
	if (!p.sync) { /* in one piece */
		p.what = IMMEDIATE;
		p.store = PLAIN;
		p.f |= 3;
	}
	/* Locked and over two cache lines: seconds, on a host that detects it. */
	if (p.store == EXCHANGE)
		p.store = p.what == CALL_SITE || (p.f + 1) % 64 > 60 ? PLAIN : EXCHANGE;
	return p;
}

/* ---- the machine ---- */

static int rig_create(struct rig *g, const struct engine_ops *engine)
{
	const u64 table[][2] = {{TABLES, (TABLES + 0x1000) | 7},
	                        {TABLES + 0x1000, (TABLES + 0x2000) | 7},
	                        {TABLES + 0x2000, PTE_P | PTE_W | PTE_U | PTE_PS}};
	int err = vm_init(&g->vm);

	if (err)
		return err;
	g->vm.engine = engine;
	g->vm.tsc_khz = 2000000;
	err = pmap_create(&g->vm.pmap, RAM_SIZE);
	if (!err)
		err = engine->vm_create ? engine->vm_create(&g->vm) : 0;
	for (unsigned i = 0; i < 2 && !err; i++) {
		struct vcpu *v = vm_add_vcpu(&g->vm);

		err = !v || x86_cpu_create(v) ? -1 : engine->vcpu_create(v);
	}
	for (unsigned i = 0; i < ARRAY_SIZE(table) && !err; i++)
		pmap_write(g->vm.pmap, table[i][0], &table[i][1], 8);
	return err;
}

static void start(struct rig *g, const struct plan *p, unsigned n)
{
	struct vcpu *v = g->vm.vcpu[n];
	struct x86_cpu *c = vcpu_x86(v);
	u32 flat = SEG_P | SEG_S | SEG_RW | SEG_A | SEG_G | (p->user ? SEG_DPL : 0);

	v->arch->reset(v);
	c->cr0 = CR0_PE | CR0_ET | CR0_NE | CR0_PG | CR0_WP;
	c->cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT;
	c->cr3 = TABLES;
	c->efer = EFER_NXE | EFER_LME | EFER_LMA;
	c->cpl = p->user ? 3 : 0;
	for (unsigned s = 0; s < NR_SEG; s++)
		c->seg[s] = (struct x86_seg){
			.sel = p->user ? 0x2b : 0x10, .limit = 0xffffffff, .ar = flat | SEG_DB};
	c->seg[CS].ar = flat | SEG_CODE | (p->code64 ? SEG_L : SEG_DB);
	c->idtr.limit = 0; /* an exception ends the machine */
	memset(c->gpr, 0, 16 * sizeof(c->gpr[0]));
	c->gpr[RSP] = STACKS + (n + 1) * PAGE_SIZE - 64;
	c->gpr[RBX] = SHARED;
	if (n) {
		c->gpr[RSI] = ROUNDS;
		c->gpr[RDI] = p->way >= BY_JUMP ? p->wrapper : p->f;
	} else {
		c->gpr[RBP] = ROUNDS;
		c->gpr[RSI] = p->site;
		c->gpr[RDI] = p->stubs - (p->site + 4);
	}
	c->rip = c->next_rip = n ? p->reader : p->writer;
	x86_set_rflags(c, X86_RFLAGS_FIXED);
	v->req = 0;
	v->state = VCPU_RUNNING;
	mmu_flush_all(c);
	x86_update_mode(c);
	x86_update_step(c);
}

static void *run_writer(void *arg)
{
	struct rig *g = arg;

	g->stop[0] = g->vm.engine->run(g->vm.vcpu[0]);
	return NULL;
}

static void *run_reader(void *arg)
{
	struct rig *g = arg;

	g->stop[1] = g->vm.engine->run(g->vm.vcpu[1]);
	return NULL;
}

static u32 shared(const struct rig *g, unsigned off)
{
	return *(volatile const u32 *)(const void *)(g->vm.pmap->hva + SHARED + off);
}

static void stop_both(struct rig *g)
{
	for (unsigned i = 0; i < 2; i++) {
		__atomic_fetch_or((u32 *)&g->vm.vcpu[i]->req, VCPU_REQ_EXIT, __ATOMIC_SEQ_CST);
		if (g->vm.engine->kick)
			g->vm.engine->kick(g->vm.vcpu[i]);
	}
	for (unsigned i = 0; i < 2; i++)
		pthread_join(g->thread[i], NULL);
}

static time_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec;
}

/* NULL, or what went wrong. */
static const char *run_plan(struct rig *g, struct plan *p)
{
	time_t end = now() + SECONDS;
	u8 zero[NR_SHARED] = {0};

	pmap_write(g->vm.pmap, SHARED, zero, sizeof(zero));
	make_code(g, p);
	start(g, p, 0);
	start(g, p, 1);
	g->vm.ended = false;
	if (pthread_create(&g->thread[0], NULL, run_writer, g))
		return "no thread";
	if (pthread_create(&g->thread[1], NULL, run_reader, g))
		abort();
	/* A reader that has met a wrong number answers no more. */
	while ((!shared(g, DONE) || !shared(g, DONE + 64)) && shared(g, DONE + 64) != 2 &&
	       !g->vm.ended && now() < end)
		usleep(200);
	stop_both(g);
	if (shared(g, DONE + 64) == 2)
		return "the reader met another number";
	if (g->stop[0] != STOP_REQUEST || g->stop[1] != STOP_REQUEST || g->vm.ended)
		return "an exception";
	return shared(g, DONE) && shared(g, DONE + 64) ? NULL : "they never came to an end";
}

static void report(const struct rig *g, const struct plan *p, u64 seed, u64 n, const char *what)
{
	static const char *const whats[] = {"immediate", "jump", "call"};
	static const char *const stores[] = {"store", "exchange", "two stores"};
	static const char *const ways[] = {"direct", "indirect", "through a jump",
	                                   "through a call"};

	printf("FAIL case %llu (--seed %llu): %s\n     %u bits, ring %u, %s; %s at %#x by %s, "
	       "reached %s; reader %#x, writer %#x\n     number %u, got %u, expected %u\n",
	       (unsigned long long)n, (unsigned long long)seed, what, p->code64 ? 64 : 32,
	       p->user ? 3 : 0,
	       !p->sync    ? "not serialized"
	       : p->by_cr3 ? "CR3"
	                   : "CPUID",
	       whats[p->what], p->site, stores[p->store], ways[p->way], p->reader, p->writer,
	       shared(g, SEQ), shared(g, BAD), shared(g, BAD + 4));
	fflush(stdout);
}

static const struct engine_ops *engine_find(const char *name)
{
	for (size_t i = 0; engines[i]; i++)
		if (!strcmp(engines[i]->name, name))
			return engines[i];
	return NULL;
}

int main(int argc, char **argv)
{
	static struct rig g;
	const struct engine_ops *engine = argc > 1 ? engine_find(argv[1]) : NULL;
	u64 seed = 1, count = 100, failed = 0;
	char why[160] = "";

	for (int i = 2; i + 1 < argc && engine; i += 2) {
		if (!strcmp(argv[i], "--seed"))
			seed = strtoull(argv[i + 1], NULL, 0);
		else if (!strcmp(argv[i], "--count"))
			count = strtoull(argv[i + 1], NULL, 0);
		else
			engine = NULL;
	}
	if (!engine || argc % 2) {
		fprintf(stderr, "usage: test-crossmod ENGINE [--seed N] [--count N]\n");
		return 2;
	}
	if (engine->probe && engine->probe(why, sizeof(why))) {
		printf("skip: %s: %s\n", engine->name, why);
		return 77;
	}
	if (rig_create(&g, engine)) {
		fprintf(stderr, "test-crossmod: cannot make the machine\n");
		return 1;
	}
	for (u64 n = 0; n < count && failed < 5; n++) {
		struct rnd r = {seed * 0x9e3779b97f4a7c15ull ^ n * 0xd1342543de82ef95ull};
		struct plan p;
		const char *what;

		rnd_next(&r);
		p = make_plan(&r);
		what = run_plan(&g, &p);
		if (what) {
			report(&g, &p, seed, n, what);
			failed++;
		}
	}
	vm_destroy(&g.vm);
	printf("%llu passed, %llu failed\n", (unsigned long long)(count - failed),
	       (unsigned long long)failed);
	return failed ? 1 : 0;
}
