// SPDX-License-Identifier: MIT
/* test-attack ENGINE [--seed N] [--count N] [--seconds S] [--first N] [--case N] [--alone]
 * [--exact] [--locks] [--runs] [-v]: random hostile code (attack.h).
 *
 * Each case runs on the engine and, from the same state, on the reference interpreter. A case is a
 * run of instructions; where one ends in an exception, the next is started behind it. After every
 * stop both machines must agree (registers, RAM, how it stopped), and no byte of the monitor's may
 * have changed. The cases run in a child, so that one that kills it is named.
 *
 * A case whose end differs is run again where the translator keeps arithmetic flags over calls and
 * returns, and, if it modified code, where it keeps them everywhere. What agrees then is one of the
 * known inexactnesses (doc/bt.md) and counted, no failure. --exact: keep flags everywhere from the
 * start.
 *
 * Addresses are not randomized, so that a case is the same each time. */
#include <errno.h>
#include <stdarg.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "attack.h"
#include "cpu/x86/mmu.h"
#include "engine/interp/interp.h"
#include "machine/config.h"
#include "mem/pmap.h"

#define TIME_LIMIT_MS 10 /* of CPU time */
#define MAX_STARTS    40
#define MAX_REPORTS   20

/* Shared with the child. */
struct progress {
	u64 next; /* case to run */
	u64 failed, slow, stops, exceptions;
	u64 conventions, modified, frames; /* differences that are known, by kind */
	bool crashing;                     /* the one at `next` is under way */
};

struct attack {
	const struct engine_ops *engine;
	u64 seed, count, only, first;
	bool verbose, every;
	struct attack_kinds kinds;
	bool alone; /* no reference: only the monitor's memory is watched */
	bool exact;
	double seconds;
	struct progress *p;
	struct world a, b; /* the engine's, the reference's */
	/* The engine's with arithmetic flags kept over calls and returns, and everywhere. */
	struct world strict, everywhere;
	struct targets t;
	u64 modified;    /* how often the last program modified translated code */
	char text[4096]; /* what differs */
	size_t text_len;
};

enum outcome { AGREE, DIFFER, DAMAGE };

static const struct engine_ops *engine_find(const char *name)
{
	for (size_t i = 0; engines[i]; i++)
		if (!strcmp(engines[i]->name, name))
			return engines[i];
	return NULL;
}

static struct vcpu *alarm_vcpu;

static void on_alarm(int sig)
{
	if (!alarm_vcpu)
		return;
	__atomic_fetch_or((u32 *)&alarm_vcpu->req, VCPU_REQ_EXIT, __ATOMIC_SEQ_CST);
	if (alarm_vcpu->engine->kick)
		alarm_vcpu->engine->kick(alarm_vcpu);
}

static enum vcpu_stop run(struct world *w, u64 *modified)
{
	const struct itimerval limit = {.it_value = {.tv_usec = TIME_LIMIT_MS * 1000}}, none = {0};
	enum vcpu_stop stop;
	u64 before = world_modified(w);

	/* Two interpreters on one thread: host exceptions are for the one that runs. */
	if (interp_thread_init(w->c))
		return STOP_ERROR;
	alarm_vcpu = w->v;
	setitimer(ITIMER_PROF, &limit, NULL);
	stop = w->v->engine->run(w->v);
	setitimer(ITIMER_PROF, &none, NULL);
	alarm_vcpu = NULL;
	x86_fpu_put(w->c);
	*modified += world_modified(w) - before;
	return stop;
}

/* ---- do the two agree? ---- */

__attribute__((format(printf, 2, 3))) static void say(struct attack *k, const char *fmt, ...)
{
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(k->text + k->text_len, sizeof(k->text) - k->text_len, fmt, ap);
	va_end(ap);
	k->text_len = MIN(k->text_len + (size_t)n, sizeof(k->text) - 1);
}

static bool differ(struct attack *k, const char *what, u64 got, u64 want)
{
	if (got != want)
		say(k, "     %s: %#llx, the reference has %#llx\n", what, (unsigned long long)got,
		    (unsigned long long)want);
	return got != want;
}

/* The arithmetic flags in an exception's frame may be anything where the code would overwrite them
 * before it reads them (doc/bt.md); instructions that read flags are compared by their results. */
static void forget_flags(struct world *w, const struct attack_case *c)
{
	unsigned word = c->mode == PROT0 || c->mode == PAE0 ? 4 : 8;
	u64 vector = w->c->rip - 1 - HANDLER_PA, at;
	bool code = vector == X86_DF || (vector >= X86_TS && vector <= X86_PF) || vector == X86_AC;

	if (vector >= 256)
		return;
	at = w->c->gpr[RSP] + word * (code ? 3u : 2u);
	for (unsigned i = 0; i < 2; i++) {
		static const u8 flags[] = {AFLAGS & 0xff, AFLAGS >> 8};
		u64 byte = word == 4 ? (u32)(at + i) : at + i;
		gpa_t gpa;
		u8 *p = mmu_probe(w->c, byte, &gpa) ? pmap_ptr(w->vm.pmap, gpa, 1) : NULL;

		if (p)
			*p &= (u8)~flags[i];
	}
}

static bool differs(struct attack *k, const struct world *w, enum vcpu_stop sa, enum vcpu_stop sb,
                    bool ram)
{
	static const char *const name[] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
	                                   "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};
	const struct x86_cpu *x = w->c, *y = k->b.c;
	gpa_t at;
	bool bad = differ(k, "stop", (u64)sa, (u64)sb);

	for (unsigned i = 0; i < 16; i++)
		bad |= differ(k, name[i], x->gpr[i], y->gpr[i]);
	bad |= differ(k, "rip", x->rip, y->rip);
	bad |= differ(k, "cr2", x->cr2, y->cr2);
	bad |= differ(k, "cpl", x->cpl, y->cpl);
	bad |= differ(k, "system flags", x->sflags, y->sflags);
	if (k->exact || w == &k->everywhere)
		bad |= differ(k, "arithmetic flags", x->aflags & AFLAGS, y->aflags & AFLAGS);
	for (unsigned i = 0; i < NR_SEG; i++) {
		bad |= differ(k, "selector", x->seg[i].sel, y->seg[i].sel);
		bad |= differ(k, "base", x->seg[i].base, y->seg[i].base);
	}
	/* Registers of x87 and SSE; not where the last x87 instruction was. */
	if (memcmp(x->xsave + 32, y->xsave + 32, 16 * 8 + 16 * 16) || memcmp(x->xsave, y->xsave, 6))
		bad |= differ(k, "vector state", 1, 0);
	at = ram || bad ? world_compare(w, &k->b) : RAM_SIZE;
	if (at < RAM_SIZE) {
		char what[40];

		snprintf(what, sizeof(what), "RAM at %#llx", (unsigned long long)at);
		return differ(k, what, w->ram[at], k->b.ram[at]);
	}
	return bad;
}

/* ---- a case ---- */

/* Where the code goes on: behind the place that stopped, or at the next instruction in turn. */
static unsigned next_start(const struct attack_case *c, unsigned turn, u64 rip)
{
	if (rip - CODE_PA < c->start[c->nr])
		for (unsigned i = turn; i < c->nr; i++)
			if (CODE_PA + (u64)c->start[i] > rip)
				return i;
	return turn;
}

static void report(struct attack *k, const struct attack_case *c, u64 n, unsigned turn,
                   const char *what)
{
	static const char *const mode[] = {"64-bit ring 0", "64-bit ring 3",
	                                   "32-bit ring 3, IA-32e", "32-bit ring 0, no paging",
	                                   "32-bit ring 0, PAE"};

	say(k, "FAIL case %llu (--seed %llu --case %llu), %s, from instruction %u: %s\n     code",
	    (unsigned long long)n, (unsigned long long)k->seed, (unsigned long long)n,
	    mode[c->mode], turn, what);
	for (unsigned i = c->start[turn]; i < c->start[c->nr] && i < c->start[turn] + 48u; i++)
		say(k, " %02x", c->code[i - c->at]);
	say(k, "\n");
}

/* Case n on world `w` and on the reference. */
static enum outcome run_case(struct attack *k, struct world *w, u64 n)
{
	struct rnd r = {k->seed * 0x9e3779b97f4a7c15ull ^ n * 0xd1342543de82ef95ull};
	bool exact = k->exact || w == &k->everywhere;
	struct attack_case c;
	unsigned turn = 0, turn_next;
	u64 seed, none = 0;

	rnd_next(&r);
	attack_generate(&c, &k->t, &r, k->kinds);
	seed = (u64)rnd_next(&r) << 32 | rnd_next(&r);
	world_load(w, &c, &k->t, seed);
	world_load(&k->b, &c, &k->t, seed);
	k->modified = k->text_len = 0;
	for (unsigned starts = 0; turn < c.nr && starts < MAX_STARTS; starts++) {
		enum vcpu_stop sa, sb;
		const char *damage;

		world_start(w, &c, &k->t, c.start[turn], seed + starts);
		world_start(&k->b, &c, &k->t, c.start[turn], seed + starts);
		sb = k->alone ? STOP_HLT : run(&k->b, &none);
		if (sb == STOP_REQUEST) { /* a long loop */
			k->p->slow++;
			return AGREE;
		}
		sa = run(w, &k->modified);
		/* Code that the translator had only looked at counts as well: for live flags. */
		k->modified += !!memcmp(w->ram + CODE_PA + c.at, c.code, sizeof(c.code));
		k->p->stops++;
		k->p->exceptions += w->c->rip - 1 - HANDLER_PA < 256;
		damage = world_damage(w, false);
		if (damage) {
			report(k, &c, n, turn, damage);
			return DAMAGE;
		}
		if (sa == STOP_REQUEST) {
			k->p->slow++;
			return AGREE;
		}
		if (!exact) {
			forget_flags(w, &c);
			forget_flags(&k->b, &c);
		}
		turn_next = next_start(&c, turn + 1, w->c->rip);
		/* RAM once a program: it is large. */
		if (!k->alone &&
		    differs(k, w, sa, sb,
		            k->every || turn_next >= c.nr || starts + 1 == MAX_STARTS)) {
			report(k, &c, n, turn, "the engines differ");
			return DIFFER;
		}
		turn = turn_next;
	}
	return AGREE;
}

/* Is the difference that case n has just shown one of those that are known? What goes away where
 * flags are kept everywhere is one of flags: in modified code, or in frames that forget_flags()
 * doesn't find, such as one that begins on a page and would end on one that faults. They are few.
 */
static bool known(struct attack *k, u64 n)
{
	bool modified;

	if (k->exact || !world_can_keep_flags(&k->a))
		return false;
	if (run_case(k, &k->strict, n) == AGREE) {
		k->p->conventions++;
		return true;
	}
	modified = k->modified;
	if (run_case(k, &k->everywhere, n) != AGREE)
		return false;
	k->p->modified += modified;
	k->p->frames += !modified;
	return true;
}

/* false: it failed. */
static bool try_case(struct attack *k, u64 n)
{
	enum outcome o = run_case(k, &k->a, n);
	char text[sizeof(k->text)];

	if (o == AGREE)
		return true;
	memcpy(text, k->text, sizeof(text));
	if (o == DIFFER && known(k, n)) {
		if (k->verbose)
			printf("known: %s", text);
		return true;
	}
	printf("%s", text);
	if (k->text_len && o == DIFFER && !k->exact && world_can_keep_flags(&k->a))
		printf("with flags kept:\n%s", k->text);
	fflush(stdout);
	return false;
}

/* ---- the child ---- */

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

extern const char __executable_start[], etext[];

static u64 text_sum(void)
{
	const u64 *p = (const void *)(((uintptr_t)__executable_start + 7) & ~7ul);
	u64 sum = 0;

	for (; (const char *)(p + 1) <= etext; p++)
		sum = sum * 31 + *p;
	return sum;
}

static int make_worlds(struct attack *k)
{
	if (world_create(&k->a, k->engine) || world_create(&k->b, engine_find("interp")))
		return -1;
	world_targets(&k->a, &k->t);
	if (!world_can_keep_flags(&k->a))
		return 0;
	if (k->exact)
		world_keep_flags(&k->a, true);
	if (world_create(&k->strict, k->engine) || world_create(&k->everywhere, k->engine))
		return -1;
	world_keep_flags(&k->strict, false);
	world_keep_flags(&k->everywhere, true);
	return 0;
}

static int child(struct attack *k, double end)
{
	struct progress *p = k->p;
	u64 text = text_sum();
	const char *damage;

	signal(SIGPROF, on_alarm);
	if (!k->verbose && !freopen("/dev/null", "w", stderr)) /* machines that end say why */
		return 3;
	if (make_worlds(k)) {
		fprintf(stderr, "test-attack: cannot make the machines\n");
		return 3;
	}
	while (p->next < k->count && now() < end) {
		bool ok;

		p->crashing = true;
		ok = try_case(k, p->next);
		p->crashing = false;
		p->failed += !ok;
		p->next++;
		if (p->next % 64 == 0 && (damage = world_damage(&k->a, true))) {
			printf("FAIL one of the cases up to %llu (--seed %llu): %s\n",
			       (unsigned long long)p->next, (unsigned long long)k->seed, damage);
			p->failed++;
			return 0;
		}
		if (p->failed >= MAX_REPORTS)
			return 0;
	}
	damage = world_damage(&k->a, true);
	if (damage || text_sum() != text) {
		printf("FAIL at the end (--seed %llu): %s\n", (unsigned long long)k->seed,
		       damage ? damage : "the monitor's code");
		p->failed++;
	}
	if (world_can_keep_flags(&k->a)) {
		world_destroy(&k->strict);
		world_destroy(&k->everywhere);
	}
	world_destroy(&k->a);
	world_destroy(&k->b);
	return 0;
}

/* Again behind a case that killed the child. */
static void supervise(struct attack *k, double end)
{
	struct progress *p = k->p;

	while (p->next < k->count && now() < end && p->failed < MAX_REPORTS) {
		pid_t pid;
		int status;

		fflush(NULL);
		pid = fork();
		if (pid == 0) {
			status = child(k, end);
			fflush(NULL);
			_exit(status);
		}
		if (pid < 0 || waitpid(pid, &status, 0) < 0) {
			perror("test-attack");
			exit(1);
		}
		if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
			break;
		printf("FAIL case %llu (--seed %llu --case %llu): the monitor died, %s %d\n",
		       (unsigned long long)p->next, (unsigned long long)k->seed,
		       (unsigned long long)p->next, WIFSIGNALED(status) ? "signal" : "code",
		       WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
		p->failed++;
		p->next++;
		if (!p->crashing)
			break;
	}
}

/* ---- options ---- */

static int usage(void)
{
	fprintf(stderr, "usage: test-attack ENGINE [--seed N] [--count N] [--seconds S] [--case N] "
	                "[--first N] [--alone] [--exact] [--locks] [--runs] [-v]\n");
	return 2;
}

/* Ten times what is usual: something else agrees by chance when it is tried again. */
static bool too_many_known(const struct progress *p)
{
	return p->conventions > 3 + p->next / 300 || p->modified > 5 + p->next / 70 ||
	       p->frames > 5 + p->next / 40;
}

/* The program anew, at addresses that are always the same; goes on if it may not have them. */
static void fixed_addresses(char **argv)
{
	int now = personality(0xffffffff);

	if (now < 0 || (now & ADDR_NO_RANDOMIZE) ||
	    personality((unsigned long)now | ADDR_NO_RANDOMIZE) < 0)
		return;
	execv("/proc/self/exe", argv);
}

int main(int argc, char **argv)
{
	static struct attack k = {.seed = 1, .count = 4000};
	bool one = false;
	char why[160] = "";

	fixed_addresses(argv);
	if (argc < 2 || !(k.engine = engine_find(argv[1])))
		return usage();
	for (; argc > 2; argc--) {
		if (!strcmp(argv[argc - 1], "-v"))
			k.verbose = true;
		else if (!strcmp(argv[argc - 1], "--alone"))
			k.alone = true;
		else if (!strcmp(argv[argc - 1], "--exact"))
			k.exact = true;
		else if (!strcmp(argv[argc - 1], "--locks"))
			k.kinds.locks = true;
		else if (!strcmp(argv[argc - 1], "--runs"))
			k.kinds.runs = true;
		else
			break;
	}
	for (int i = 2; i < argc; i += 2) {
		if (i + 1 >= argc)
			return usage();
		if (!strcmp(argv[i], "--seed"))
			k.seed = strtoull(argv[i + 1], NULL, 0);
		else if (!strcmp(argv[i], "--count"))
			k.count = strtoull(argv[i + 1], NULL, 0);
		else if (!strcmp(argv[i], "--seconds"))
			k.seconds = strtod(argv[i + 1], NULL), k.count = ~0ull;
		else if (!strcmp(argv[i], "--first"))
			k.first = strtoull(argv[i + 1], NULL, 0);
		else if (!strcmp(argv[i], "--case"))
			k.only = strtoull(argv[i + 1], NULL, 0), one = true;
		else
			return usage();
	}
	if (k.engine->probe && k.engine->probe(why, sizeof(why))) {
		printf("skip: %s: %s\n", k.engine->name, why);
		return 77;
	}
	k.p = mmap(NULL, sizeof(*k.p), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (k.p == MAP_FAILED) {
		perror("test-attack");
		return 1;
	}
	k.p->next = k.first;
	if (one)
		k.p->next = k.only, k.count = k.only + 1, k.every = true;
	printf("seed %llu\n", (unsigned long long)k.seed);
	supervise(&k, now() + (k.seconds > 0 ? k.seconds : 3600));
	printf("%llu programs, %llu exceptions in them, %llu given up after %d ms of CPU time\n",
	       (unsigned long long)k.p->next, (unsigned long long)k.p->exceptions,
	       (unsigned long long)k.p->slow, TIME_LIMIT_MS);
	if (k.p->conventions || k.p->modified || k.p->frames)
		printf("known: %llu programs passed flags where no compiler does, %llu wrote code "
		       "that reads flags, %llu had frames over the edge\n",
		       (unsigned long long)k.p->conventions, (unsigned long long)k.p->modified,
		       (unsigned long long)k.p->frames);
	if (too_many_known(k.p)) {
		printf("FAIL these are more than flags explain\n");
		k.p->failed++;
	}
	printf("%llu passed, %llu failed\n", (unsigned long long)k.p->stops,
	       (unsigned long long)k.p->failed);
	return k.p->failed || !k.p->stops ? 1 : 0;
}
