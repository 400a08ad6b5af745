// SPDX-License-Identifier: MIT
/* Differential instruction tests: random instructions in random states, on the host's processor
 * and in an engine; everything that comes out is compared. A case is made from (seed, index), so
 * --seed S --start I --count 1 with the same classes and mode repeats it. */
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>
#include <time.h>

#include "compare.h"
#include "subject.h"

#define IMAGES_BYTES ((size_t)DATA_IMAGES * DATA_SIZE)

struct options {
	u64 seed, start, count;
	unsigned mode, soak, max_reports, sequence;
	bool verbose, strict, list, self_test;
	const char *classes, *subject;
	u8 fixed[15];
	u32 fixed_len;
};

struct class_stats {
	u64 cases, faults, failed, skipped;
};

struct run {
	struct options o;
	struct gen gen;
	u8 *images;
	struct hostcpu *host;
	const struct subject_ops *ops;
	void *subject;
	struct class_stats stats[NR_CLASS];
	u64 passed, failed, skipped;
	unsigned reports;
	u8 reported[ZYDIS_MNEMONIC_MAX_VALUE + 1];
	struct case_info info[HOSTCPU_BATCH];
	struct outcome got;
};

static volatile sig_atomic_t interrupted;

static void on_interrupt(int sig)
{
	interrupted = 1;
}

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + 1e-9 * (double)ts.tv_nsec;
}

/* ---- shrinking ---- */

/* Does the case still fail in one of the ways `kinds`? */
static bool still_fails(struct run *r, const struct tcase *t, const struct case_info *info,
                        u32 kinds)
{
	struct dont_care d;
	struct outcome *want = hostcpu_outcome(r->host, 0);

	memcpy(hostcpu_case(r->host, 0), t, sizeof(*t));
	if (hostcpu_run(r->host, 1) || want->status > OUT_FAULT)
		return false;
	r->ops->run(r->subject, t, &r->got);
	dont_care_of(&d, info, t, r->o.strict);
	return outcome_compare(want, &r->got, &d) & kinds;
}

static bool try(struct run *r, struct tcase *t, const struct tcase *simpler,
                const struct case_info *info, u32 kinds)
{
	if (!memcmp(t, simpler, sizeof(*t)) || !still_fails(r, simpler, info, kinds))
		return false;
	*t = *simpler;
	return true;
}

/* Take away from the state what does not matter for the failure. */
static void shrink(struct run *r, struct tcase *t, const struct case_info *info, u32 kinds)
{
	static struct tcase s;

#define TRY(change)                                                                                \
	do {                                                                                       \
		s = *t;                                                                            \
		change;                                                                            \
		try(r, t, &s, info, kinds);                                                        \
	} while (0)
	TRY({
		memset(s.st.xsave, 0, XS_BV);
		put_le16(s.st.xsave + XS_FCW, 0x37f);
		put_le32(s.st.xsave + XS_MXCSR, 0x1f80);
		memset(s.st.xsave + XS_YMMHI(0), 0, 256);
	});
	TRY(s.st.rflags = 0x202);
	TRY(s.nr_patches = 0);
	for (u32 i = t->nr_patches; i-- > 0;)
		TRY({
			s.nr_patches--;
			memmove(&s.patch[i], &s.patch[i + 1],
			        (s.nr_patches - i) * sizeof(s.patch[0]));
		});
	for (int i = 0; i < 16; i++) {
		TRY(s.st.gpr[i] = 0);
		TRY(s.st.gpr[i] &= 0xffff);
		TRY(s.st.gpr[i] &= 0xffffffff);
		TRY(memset(s.st.xsave + XS_XMM(i), 0, 16));
		TRY(memset(s.st.xsave + XS_YMMHI(i), 0, 16));
	}
	for (int i = 0; i < 8; i++)
		TRY(memset(s.st.xsave + XS_ST(i), 0, 16));
	TRY({
		put_le16(s.st.xsave + XS_FCW, 0x37f);
		put_le16(s.st.xsave + XS_FSW, 0);
	});
	TRY(s.st.xsave[XS_FTW] = 0);
	TRY(put_le32(s.st.xsave + XS_MXCSR, 0x1f80));
	TRY(s.image = 0);
	TRY(s.st.fs_base = 0);
	TRY(s.st.gs_base = 0);
	for (int i = 0; i < 22; i++)
		TRY(s.st.rflags &= ~(1ull << i) | 0x202);
#undef TRY
}

/* ---- reporting ---- */

static void print_command(const struct run *r, u64 index)
{
	printf("  repeat: test-diff --subject %s --mode %u%s%s%s --seed %#llx --start %llu --count "
	       "1",
	       r->ops->name, r->o.mode, r->o.classes ? " --class " : "",
	       r->o.classes ? r->o.classes : "", r->o.strict ? " --strict" : "",
	       (unsigned long long)r->o.seed, (unsigned long long)index);
	if (r->o.sequence)
		printf(" --sequence %u", r->o.sequence);
	if (r->o.fixed_len) {
		printf(" --insn '");
		for (u32 i = 0; i < r->o.fixed_len; i++)
			printf("%s%02x", i ? " " : "", r->o.fixed[i]);
		printf("'");
	}
	printf("\n");
}

static void report(struct run *r, const struct tcase *t, const struct case_info *info, u32 kinds)
{
	static struct tcase small;
	struct dont_care d;

	printf("\nDIFFERENCE %u: %s, class %s\n", r->reports,
	       ZydisMnemonicGetString(info->insn.mnemonic), class_name[info->cls]);
	code_print(stdout, &r->gen, t);
	print_command(r, info->index);
	small = *t;
	shrink(r, &small, info, kinds);
	if (!still_fails(r, &small, info, kinds)) {
		small = *t;
		if (!still_fails(r, &small, info, kinds))
			printf("  (it did not happen again)\n");
	}
	dont_care_of(&d, info, &small, r->o.strict);
	outcome_print(stdout, &small, r->images, hostcpu_outcome(r->host, 0), &r->got, &d,
	              r->ops->name);
	fflush(stdout);
}

static void judge(struct run *r, unsigned i)
{
	static struct tcase t;
	struct case_info *info = &r->info[i];
	struct class_stats *st = &r->stats[info->cls];
	const struct outcome *want = hostcpu_outcome(r->host, i);
	struct dont_care d;
	u32 kinds;

	if (want->status > OUT_FAULT) {
		st->skipped++;
		r->skipped++;
		if (r->o.verbose) {
			printf("skipped: %s\n", want->status == OUT_DIED ? "process died" : "hung");
			code_print(stdout, &r->gen, hostcpu_case(r->host, i));
			print_command(r, info->index);
		}
		return;
	}
	r->ops->run(r->subject, hostcpu_case(r->host, i), &r->got);
	if (r->got.status == OUT_REFUSED) {
		st->skipped++;
		r->skipped++;
		return;
	}
	dont_care_of(&d, info, hostcpu_case(r->host, i), r->o.strict);
	kinds = outcome_compare(want, &r->got, &d);
	st->cases++;
	st->faults += want->status == OUT_FAULT;
	if (r->o.verbose) {
		code_print(stdout, &r->gen, hostcpu_case(r->host, i));
		outcome_print(stdout, hostcpu_case(r->host, i), r->images, want, &r->got, &d,
		              r->ops->name);
	}
	if (!kinds) {
		r->passed++;
		return;
	}
	r->failed++;
	st->failed++;
	if (r->reports < r->o.max_reports && !r->reported[info->insn.mnemonic]) {
		r->reported[info->insn.mnemonic] = 1;
		r->reports++;
		t = *hostcpu_case(r->host, i);
		/* Shrinking uses the batch's first place, which has been judged by now. */
		report(r, &t, info, kinds);
	}
}

static void summary(const struct run *r, double seconds)
{
	u64 total = r->passed + r->failed;

	printf("\n%-8s %10s %10s %8s %8s\n", "class", "cases", "faulting", "skipped", "failed");
	for (unsigned c = 0; c < NR_CLASS; c++) {
		const struct class_stats *s = &r->stats[c];

		if (s->cases || s->skipped)
			printf("%-8s %10llu %10llu %8llu %8llu\n", class_name[c],
			       (unsigned long long)s->cases, (unsigned long long)s->faults,
			       (unsigned long long)s->skipped, (unsigned long long)s->failed);
	}
	printf("subject %s, mode %u, seed %#llx, %.1f s, %.0f cases/s, host child replaced %llu "
	       "times\n",
	       r->ops->name, r->o.mode, (unsigned long long)r->o.seed, seconds,
	       seconds > 0 ? (double)total / seconds : 0,
	       (unsigned long long)hostcpu_restarts(r->host));
	if (r->skipped)
		printf("skip: the host did not come back from the case, or the subject cannot run "
		       "it\n"
		       "%llu passed, %llu failed, %llu skipped\n",
		       (unsigned long long)r->passed, (unsigned long long)r->failed,
		       (unsigned long long)r->skipped);
	else
		printf("%llu passed, %llu failed\n", (unsigned long long)r->passed,
		       (unsigned long long)r->failed);
}

/* ---- the loop ---- */

static int batches(struct run *r)
{
	double start = now();
	u64 index = r->o.start, end = r->o.start + r->o.count;
	int ret;

	while (!interrupted && (r->o.soak ? now() - start < r->o.soak : index < end)) {
		unsigned n = 0;

		while (n < HOSTCPU_BATCH && (r->o.soak || index < end)) {
			if (gen_case(&r->gen, index++, hostcpu_case(r->host, n), &r->info[n]))
				n++;
			else if (r->o.fixed_len)
				return -EINVAL;
		}
		ret = hostcpu_run(r->host, n);
		if (ret)
			return ret;
		for (unsigned i = 0; i < n; i++)
			judge(r, i);
	}
	summary(r, now() - start);
	return 0;
}

/* Every kind of difference must be seen: change one thing of an outcome at a time. */
static int self_test(struct run *r)
{
	static struct outcome a, b;
	struct dont_care d = {0};
	u64 failed = 0, passed = 0;
	struct {
		const char *name;
		void *p;
		u8 bit;
		u32 kind;
	} flips[] = {
		{"gpr", &b.st.gpr[15], 0x80, DIFF_GPR},
		{"rip", &b.st.rip, 1, DIFF_RIP},
		{"rflags", &b.st.rflags, 1, DIFF_FLAGS},
		{"fs base", &b.st.fs_base, 1, DIFF_SEG},
		{"gs base", &b.st.gs_base, 1, DIFF_SEG},
		{"selector", &b.st.sel[4], 0x10, DIFF_SEG},
		{"vector", &b.vector, 1, DIFF_STATUS},
		{"error code", &b.err, 1, DIFF_ERR},
		{"cr2", &b.cr2, 1, DIFF_CR2},
		{"fcw", b.st.xsave + XS_FCW, 1, DIFF_X87},
		{"fsw", b.st.xsave + XS_FSW + 1, 1, DIFF_X87},
		{"ftw", b.st.xsave + XS_FTW, 1, DIFF_X87},
		{"st7", b.st.xsave + XS_ST(7) + 9, 1, DIFF_X87},
		{"mxcsr", b.st.xsave + XS_MXCSR, 1, DIFF_MXCSR},
		{"xmm15", b.st.xsave + XS_XMM(15) + 15, 1, DIFF_VEC},
		{"ymm15", b.st.xsave + XS_YMMHI(15) + 15, 1, DIFF_VEC},
		{"memory", b.mem + DATA_RW_SIZE - 1, 1, DIFF_MEM},
	};

	for (u64 i = 0; i < 200; i++) {
		if (!gen_case(&r->gen, i, hostcpu_case(r->host, 0), &r->info[0]) ||
		    hostcpu_run(r->host, 1) || hostcpu_outcome(r->host, 0)->status > OUT_FAULT)
			continue;
		for (size_t k = 0; k < ARRAY_SIZE(flips); k++) {
			a = *hostcpu_outcome(r->host, 0);
			b = a;
			*(u8 *)flips[k].p ^= flips[k].bit;
			if (outcome_compare(&a, &b, &d) == flips[k].kind)
				passed++;
			else if (failed++ < 5)
				printf("a change of %s is not seen\n", flips[k].name);
		}
	}
	printf("%llu passed, %llu failed\n", (unsigned long long)passed,
	       (unsigned long long)failed);
	return failed || !passed ? 1 : 0;
}

/* ---- options ---- */

static const char usage[] =
	"usage: test-diff [options]\n"
	"  --subject NAME    what is held against the host (--list)\n"
	"  --mode 64|32      64-bit code, or 32-bit code in compatibility mode\n"
	"  --seed N          $RINGER_TEST_SEED, or random; printed\n"
	"  --start N         index of the first case (0)\n"
	"  --count N         cases (100000)\n"
	"  --soak SECONDS    until then, instead of a count\n"
	"  --class A,B,...   only these (--list)\n"
	"  --insn 'HEX'      this encoding, in random states\n"
	"  --sequence N      2 to N instructions in a row, with forward branches\n"
	"  --strict          also what the manuals leave undefined\n"
	"  --max-reports N   differences to show, one a mnemonic (10)\n"
	"  --verbose         show every case\n"
	"  --self-test       does the comparison see everything?\n"
	"  --list            classes and subjects\n";

static int usage_error(const char *what, const char *arg)
{
	fprintf(stderr, "test-diff: %s '%s'\n%s", what, arg, usage);
	return -1;
}

static int parse_hex(struct options *o, const char *s)
{
	const char *p = s;

	while (*p) {
		unsigned v;
		int n = 0;

		if (*p == ' ') {
			p++;
			continue;
		}
		if (o->fixed_len == sizeof(o->fixed) || sscanf(p, "%2x%n", &v, &n) != 1 || n != 2)
			return usage_error("not an instruction in hex", s);
		o->fixed[o->fixed_len++] = (u8)v;
		p += 2;
	}
	return o->fixed_len ? 0 : usage_error("not an instruction in hex", s);
}

static int parse_number(const char *s, u64 *out)
{
	char *end;

	errno = 0;
	*out = strtoull(s, &end, 0);
	return errno || end == s || *end || *s == '-' ? usage_error("not a number", s) : 0;
}

static int parse_options(struct options *o, int argc, char **argv)
{
	static const struct option longs[] = {
		{"subject", 1, NULL, 'S'},     {"mode", 1, NULL, 'm'},
		{"seed", 1, NULL, 's'},        {"start", 1, NULL, 'b'},
		{"count", 1, NULL, 'n'},       {"soak", 1, NULL, 't'},
		{"class", 1, NULL, 'c'},       {"insn", 1, NULL, 'i'},
		{"strict", 0, NULL, 'x'},      {"verbose", 0, NULL, 'v'},
		{"max-reports", 1, NULL, 'r'}, {"list", 0, NULL, 'l'},
		{"help", 0, NULL, 'h'},        {"sequence", 1, NULL, 'q'},
		{"self-test", 0, NULL, 'T'},   {NULL, 0, NULL, 0},
	};
	const char *seed = getenv("RINGER_TEST_SEED");
	u64 v = 0;
	int c;

	*o = (struct options){.count = 100000, .mode = 64, .max_reports = 10};
	if (seed ? parse_number(seed, &o->seed)
	         : getrandom(&o->seed, sizeof(o->seed), 0) != sizeof(o->seed))
		return -1;
	o->seed &= 0xffffffff;
	while ((c = getopt_long(argc, argv, "h", longs, NULL)) != -1) {
		if (strchr("msbntrq", c) && parse_number(optarg, &v))
			return -1;
		switch (c) {
		case 'S':
			o->subject = optarg;
			break;
		case 'm':
			if (v != 64 && v != 32)
				return usage_error("no such mode", optarg);
			o->mode = (unsigned)v;
			break;
		case 's':
			o->seed = v;
			break;
		case 'b':
			o->start = v;
			break;
		case 'n':
			o->count = v;
			break;
		case 't':
			o->soak = (unsigned)v;
			break;
		case 'r':
			o->max_reports = (unsigned)v;
			break;
		case 'q':
			if (v < 2 || v > 8)
				return usage_error("2 to 8, not", optarg);
			o->sequence = (unsigned)v;
			break;
		case 'c':
			o->classes = optarg;
			break;
		case 'i':
			if (parse_hex(o, optarg))
				return -1;
			break;
		case 'x':
			o->strict = true;
			break;
		case 'v':
			o->verbose = true;
			break;
		case 'l':
			o->list = true;
			break;
		case 'T':
			o->self_test = true;
			break;
		case 'h':
			fputs(usage, stdout);
			exit(0);
		default:
			fputs(usage, stderr);
			return -1;
		}
	}
	return optind < argc ? usage_error("what is", argv[optind]) : 0;
}

/* How often each class: by how much there is in it and how often it went wrong elsewhere. */
static const u32 weights[NR_CLASS] = {
	[CL_ALU] = 14,   [CL_SHIFT] = 8,  [CL_MULDIV] = 5, [CL_BIT] = 8,    [CL_ATOMIC] = 4,
	[CL_BCD] = 3,    [CL_STRING] = 6, [CL_STACK] = 6,  [CL_BRANCH] = 6, [CL_SEG] = 2,
	[CL_FSGS] = 1,   [CL_X87] = 10,   [CL_MMX] = 4,    [CL_SSE] = 12,   [CL_AVX] = 12,
	[CL_GATHER] = 2, [CL_XSAVE] = 2,  [CL_HINT] = 1,   [CL_PRIV] = 2,
};

static int choose_classes(struct gen *g, const char *list)
{
	char word[32];

	for (unsigned c = 0; c < NR_CLASS; c++)
		g->weight[c] = list ? 0 : weights[c];
	while (list && *list) {
		size_t n = strcspn(list, ",");
		unsigned c;

		snprintf(word, sizeof(word), "%.*s", (int)MIN(n, sizeof(word) - 1), list);
		for (c = 0; c < NR_CLASS; c++)
			if (!strcmp(word, class_name[c]))
				break;
		if (c == NR_CLASS)
			return usage_error("no such class", word);
		g->weight[c] = weights[c];
		list += n + (list[n] == ',');
	}
	for (unsigned c = 0; c < NR_CLASS; c++) {
		if (g->forms.class_first[c] == g->forms.class_first[c + 1])
			g->weight[c] = 0;
		g->weight_sum += g->weight[c];
	}
	return g->weight_sum ? 0 : usage_error("nothing to test in", list ? list : "");
}

static void list_all(void)
{
	printf("classes:");
	for (unsigned c = 0; c < NR_CLASS; c++)
		printf(" %s", class_name[c]);
	printf("\nsubjects:\n");
	for (size_t i = 0; subjects[i]; i++)
		printf("  %-8s %s\n", subjects[i]->name, subjects[i]->summary);
}

static const struct subject_ops *find_subject(const char *name)
{
	if (!name)
		return subjects[0];
	for (size_t i = 0; subjects[i]; i++)
		if (!strcmp(subjects[i]->name, name))
			return subjects[i];
	usage_error("no such subject", name);
	return NULL;
}

static int run_all(struct run *r)
{
	struct subject_env env = {.images = r->images, .mode = r->o.mode};
	char why[200] = "";
	int ret;

	images_make(r->images, r->o.seed);
	ret = hostcpu_create(&r->host, r->images, why, sizeof(why));
	if (ret) {
		printf("skip: %s\n", why);
		return 77;
	}
	if (r->o.self_test) {
		ret = self_test(r);
		goto out;
	}
	ret = r->ops->create(&r->subject, &env, why, sizeof(why));
	if (ret) {
		fprintf(stderr, "test-diff: %s: %s\n", r->ops->name, why);
		ret = 1;
		goto out;
	}
	printf("seed %#llx\n", (unsigned long long)r->o.seed);
	ret = batches(r);
	if (ret == -EINVAL)
		fprintf(stderr, "test-diff: that is no instruction\n");
	else if (ret)
		fprintf(stderr, "test-diff: host processor: %s\n", strerror(-ret));
	ret = ret || r->failed ? 1 : 0;
	r->ops->destroy(r->subject);
out:
	hostcpu_destroy(r->host);
	return ret;
}

int main(int argc, char **argv)
{
	static struct run r;
	int ret;

	if (parse_options(&r.o, argc, argv))
		return 2;
	if (r.o.list) {
		list_all();
		return 0;
	}
	r.ops = find_subject(r.o.subject);
	if (!r.ops)
		return 2;
	signal(SIGINT, on_interrupt);
	if (gen_create(&r.gen, r.o.mode, r.o.seed)) {
		fprintf(stderr, "test-diff: out of memory\n");
		return 1;
	}
	ret = 2;
	r.images = calloc(1, IMAGES_BYTES);
	if (r.images && !choose_classes(&r.gen, r.o.classes)) {
		if (r.o.sequence)
			r.gen.max_insns = r.o.sequence;
		if (r.o.fixed_len) {
			r.gen.fixed = r.o.fixed;
			r.gen.fixed_len = r.o.fixed_len;
		}
		ret = run_all(&r);
	}
	free(r.images);
	gen_destroy(&r.gen);
	return ret;
}
