// SPDX-License-Identifier: MIT
/* Golden tests: run-golden ENGINE IMAGE.. runs each test of each image in each of its modes on a
 * machine of one processor and a little memory, without devices, and compares with what
 * the test states. golden.h says how tests are written. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>

#include "cpu/x86/x86.h"
#include "machine/config.h"
#include "mem/pmap.h"
#include "modes.h"

#define TIME_LIMIT_S 5

static struct vcpu *alarm_vcpu;

static void on_alarm(int sig)
{
	__atomic_fetch_or((u32 *)&alarm_vcpu->req, VCPU_REQ_EXIT, __ATOMIC_SEQ_CST);
}

struct golden {
	struct machine m;
	const struct engine_ops *engine;
	u8 image[0x10000];
	u32 origin; /* that it is linked at */
	u64 passed, failed;
	const char *file, *name, *mode;
	bool bad;
};

struct item {
	u32 tag, a, b, c;
};

struct test {
	u32 tag, modes, entry;
	char name[84];
};

static void complain(struct golden *g, const char *what, u64 got, u64 want)
{
	if (!g->bad)
		printf("FAIL %s: %s [%s]\n", g->file, g->name, g->mode);
	g->bad = true;
	printf("     %s is %#llx, should be %#llx\n", what, (unsigned long long)got,
	       (unsigned long long)want);
}

static void check(struct golden *g, const char *what, u64 got, u64 want)
{
	if (got != want)
		complain(g, what, got, want);
}

static u32 read_mem(struct golden *g, gpa_t at, u32 bytes)
{
	u32 v = 0;

	pmap_read(g->m.vm.pmap, at, &v, bytes);
	return v;
}

/* ---- one test ---- */

static void prepare(struct golden *g, const struct item *it)
{
	struct x86_cpu *c = g->m.c;

	switch (it->tag) {
	case TAG_SET:
		if (it->a < 8)
			c->gpr[it->a] = it->b;
		else if (it->a == REG_FLAGS)
			x86_set_rflags(c, (x86_rflags(c) & ~0xfffull) | it->b);
		break;
	case TAG_GATE:
		machine_gate(&g->m, (u8)it->a, (u16)(it->c >> 16), it->b, (u8)it->c);
		break;
	case TAG_DESC: {
		u32 d[2] = {it->b, it->c};

		pmap_write(g->m.vm.pmap, (it->a & 4 ? LDT_PA : GDT_PA) + (it->a & 0xfff8), d, 8);
		break;
	}
	case TAG_POKE:
		pmap_write(g->m.vm.pmap, it->a, &it->b, it->c);
		break;
	case TAG_PTE:
		machine_pte_change(&g->m, it->a, it->b, it->c);
		break;
	case TAG_SETSEG:
		machine_load_seg(&g->m, it->a, (u16)it->b);
		break;
	default:
		break;
	}
}

static void expect_fault(struct golden *g, const struct final *f, const struct item *it)
{
	if (f->vector < 0) {
		complain(g, "vector (none)", 0, it->a);
		return;
	}
	check(g, "vector", (u64)f->vector, it->a);
	if (it->b != NO_ERR)
		check(g, "error code", f->err, it->b);
	check(g, "EIP of the exception", f->rip, it->c);
}

static void expect(struct golden *g, const struct final *f, const struct item *it)
{
	static const char *const reg[] = {"EAX", "ECX", "EDX", "EBX", "ESP",
	                                  "EBP", "ESI", "EDI", "CR0", "EIP"};
	static const char *const seg[] = {"ES", "CS", "SS", "DS", "FS", "GS"};
	char what[40];

	switch (it->tag) {
	case TAG_REG:
		if (it->a < ARRAY_SIZE(reg))
			check(g, reg[it->a],
			      (it->a < 8          ? f->gpr[it->a]
			       : it->a == REG_CR0 ? g->m.c->cr0
			                          : f->rip) &
			              it->c,
			      it->b & it->c);
		break;
	case TAG_FLAGS:
		check(g, "EFLAGS", f->rflags & it->c, it->b & it->c);
		break;
	case TAG_MEM:
		snprintf(what, sizeof(what), "memory %#x", it->a);
		check(g, what, read_mem(g, IMAGE_PA + it->a - g->origin, it->c),
		      it->b & size_mask(it->c));
		break;
	case TAG_PHYS:
		snprintf(what, sizeof(what), "physical memory %#x", it->a);
		check(g, what, read_mem(g, it->a, it->c), it->b & size_mask(it->c));
		break;
	case TAG_SEG:
		check(g, seg[it->a % 6], f->sel[it->a % 6], it->b);
		break;
	case TAG_FAULT:
		expect_fault(g, f, it);
		break;
	case TAG_PTE_IS:
		check(g, "page-table entry", machine_pte(&g->m, it->a) & it->c, it->b);
		break;
	case TAG_CR2:
		check(g, "CR2", g->m.c->cr2, it->b);
		break;
	case TAG_FRAMECS:
		check(g, "CS in the frame", f->sel[CS], it->b);
		break;
	default:
		break;
	}
}

static void run_test(struct golden *g, const struct test *t, const struct item *items, u32 nr,
                     unsigned mode)
{
	const struct itimerval limit = {.it_value = {.tv_sec = TIME_LIMIT_S}}, none = {0};
	struct final f;
	enum vcpu_stop stop;
	bool want_fault = false;

	g->name = t->name;
	g->mode = mode_name[mode];
	g->bad = false;
	machine_reset(&g->m, 1u << mode, g->image, sizeof(g->image), t->entry);
	for (u32 i = 0; i < nr; i++)
		prepare(g, &items[i]);
	alarm_vcpu = g->m.v;
	setitimer(ITIMER_REAL, &limit, NULL);
	stop = g->engine->run(g->m.v);
	setitimer(ITIMER_REAL, &none, NULL);
	machine_final(&g->m, 1u << mode, &f);
	if (stop != STOP_HLT) {
		complain(g,
		         stop == STOP_SHUTDOWN  ? "stop (triple fault)"
		         : stop == STOP_REQUEST ? "stop (time limit)"
		                                : "stop",
		         stop, STOP_HLT);
	} else {
		for (u32 i = 0; i < nr; i++) {
			want_fault |= items[i].tag == TAG_FAULT;
			expect(g, &f, &items[i]);
		}
		if (f.vector >= 0 && !want_fault) {
			char what[80];

			snprintf(what, sizeof(what),
			         "exception %d, error code %#x, at EIP %#llx; their number",
			         f.vector, f.err, (unsigned long long)f.rip);
			complain(g, what, 1, 0);
		}
	}
	if (g->bad)
		g->failed++;
	else
		g->passed++;
}

static void run_image(struct golden *g)
{
	const u8 *p = g->image + TESTS_OFF, *end = g->image + SCRATCH;
	bool based = g->origin == 0;

	/* The engine finds zeros there, not records. */
	static u8 records[SCRATCH - TESTS_OFF];

	memcpy(records, p, sizeof(records));
	memset(g->image + TESTS_OFF, 0, sizeof(records));
	p = records;
	end = records + sizeof(records);
	while (p + sizeof(struct test) <= end && get_le32(p) == TAG_TEST) {
		const struct test *t = (const void *)p;
		const struct item *items = (const void *)(p + sizeof(*t));
		u32 nr = 0;

		while ((const u8 *)&items[nr + 1] <= end && items[nr].tag &&
		       items[nr].tag != TAG_TEST)
			nr++;
		for (unsigned m = 0; m < NR_MODES; m++)
			if ((t->modes >> m & 1) && based == !!(1u << m & M_BASED))
				run_test(g, t, items, nr, m);
		p = (const u8 *)&items[nr];
	}
}

/* ---- set-up ---- */

static int load_image(struct golden *g, const char *path)
{
	const char *dot = strrchr(path, '.'), *slash = strrchr(path, '/');
	FILE *f = fopen(path, "rb");
	size_t n;

	if (!f) {
		fprintf(stderr, "run-golden: %s: %s\n", path, strerror(errno));
		return -1;
	}
	memset(g->image, 0, sizeof(g->image));
	n = fread(g->image, 1, sizeof(g->image), f);
	fclose(f);
	if (n <= TESTS_OFF || n > SCRATCH || !dot) {
		fprintf(stderr, "run-golden: %s: not an image of tests\n", path);
		return -1;
	}
	g->file = slash ? slash + 1 : path;
	g->origin = !strcmp(dot, ".flat") ? IMAGE_PA : 0;
	return 0;
}

int main(int argc, char **argv)
{
	static struct golden g;
	char why[160] = "";
	int ret;

	for (size_t i = 0; argc > 2 && engines[i]; i++)
		if (!strcmp(engines[i]->name, argv[1]))
			g.engine = engines[i];
	if (!g.engine) {
		fprintf(stderr, "usage: run-golden ENGINE IMAGE..., engines:");
		for (size_t i = 0; engines[i]; i++)
			fprintf(stderr, " %s", engines[i]->name);
		fprintf(stderr, "\n");
		return 2;
	}
	if (g.engine->probe && g.engine->probe(why, sizeof(why))) {
		printf("skip: %s: %s\n", g.engine->name, why);
		return 77;
	}
	signal(SIGALRM, on_alarm);
	ret = machine_create(&g.m, g.engine);
	if (ret) {
		fprintf(stderr, "run-golden: cannot make a machine: %s\n", strerror(-ret));
		return 1;
	}
	for (int i = 2; i < argc; i++) {
		if (load_image(&g, argv[i]))
			return 1;
		run_image(&g);
	}
	machine_destroy(&g.m);
	printf("%llu passed, %llu failed\n", (unsigned long long)g.passed,
	       (unsigned long long)g.failed);
	return g.failed || !g.passed ? 1 : 0;
}
