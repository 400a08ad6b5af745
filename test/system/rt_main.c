// SPDX-License-Identifier: MIT
/* Cases and their report. The command line (multiboot's; the first word is the kernel's path):
 *
 *	list			one line for each topic: name, CPUs, number of cases
 *	TOPIC CPUS FIRST	its cases from FIRST on
 *
 * A case is announced before it runs, so that a reader knows which one ended the guest. */
#include "rt.h"

#define DEBUG_PORT 0xe9
#define EXIT_PORT  0xf4

extern u32 boot_info;

static struct {
	bool bad, skipped;
	bool printing; /* notes and failures: not within each other's lines */
	char notes[240];
	unsigned notes_len;
} now;

/* ---- text ---- */

struct out {
	char *buf; /* NULL: the port */
	unsigned len, size;
};

static void put(struct out *o, char c)
{
	if (!o->buf)
		outb(DEBUG_PORT, (u8)c);
	else if (o->len + 1 < o->size)
		o->buf[o->len++] = c;
}

static void put_number(struct out *o, u64 v, unsigned base)
{
	char digits[24];
	unsigned n = 0;

	do {
		digits[n++] = "0123456789abcdef"[v % base];
		v /= base;
	} while (v);
	while (n)
		put(o, digits[--n]);
}

static void format(struct out *o, const char *f, va_list ap)
{
	for (; *f; f++) {
		if (*f != '%') {
			put(o, *f);
			continue;
		}
		f++;
		while (*f == 'l')
			f++;
		switch (*f) {
		case 's':
			for (const char *s = __builtin_va_arg(ap, const char *); *s; s++)
				put(o, *s);
			break;
		case 'c':
			put(o, (char)__builtin_va_arg(ap, int));
			break;
		case 'd': {
			int v = __builtin_va_arg(ap, int);

			if (v < 0)
				put(o, '-');
			put_number(o, v < 0 ? -(u64)v : (u64)v, 10);
			break;
		}
		case 'u':
			put_number(o, __builtin_va_arg(ap, u64), 10);
			break;
		case 'x':
			put_number(o, __builtin_va_arg(ap, u64), 16);
			break;
		default:
			put(o, *f);
		}
	}
}

void print(const char *fmt, ...)
{
	struct out o = {0};
	va_list ap;

	__builtin_va_start(ap, fmt);
	format(&o, fmt, ap);
	__builtin_va_end(ap);
}

void fail(const char *fmt, ...)
{
	struct out o = {0};
	va_list ap;

	now.bad = true;
	print("\n    ");
	__builtin_va_start(ap, fmt);
	format(&o, fmt, ap);
	__builtin_va_end(ap);
}

void note(const char *fmt, ...)
{
	struct out o = {now.notes, now.notes_len, sizeof(now.notes)};
	va_list ap;

	__builtin_va_start(ap, fmt);
	format(&o, fmt, ap);
	__builtin_va_end(ap);
	now.notes_len = o.len;
	now.notes[o.len] = 0;
}

bool case_bad(void)
{
	return now.bad;
}

bool expect_eq(u64 got, u64 want, const char *what)
{
	if (got != want)
		fail("%s is 0x%x, should be 0x%x", what, got, want);
	return got == want;
}

/* ---- cases ---- */

void case_end(void)
{
	struct cpu *c = cpu_of(0);

	c->in_case = false;
	__builtin_longjmp(c->case_buf, 1);
}

void skip(const char *why)
{
	print("skip: %s", why);
	now.skipped = true;
	case_end();
}

static void run_case(const struct test_case *t)
{
	struct cpu *c = cpu_of(0);

	now.bad = now.skipped = false;
	now.notes_len = 0;
	now.notes[0] = 0;
	cpu_reset_state();
	memory_reset();
	if (!__builtin_setjmp(c->case_buf)) {
		c->in_case = true;
		t->fn(t->arg);
	}
	c->in_case = false;
}

static void run_topic(const struct topic *t, unsigned first)
{
	for (unsigned i = first; i < t->nr; i++) {
		print("case %u %s: ", (u64)i, t->cases[i].name);
		run_case(&t->cases[i]);
		print(now.skipped ? "\n" : now.bad ? "\nFAIL" : "ok");
		print("%s\n", now.notes_len ? now.notes : "");
	}
	print("done %s\n", t->name);
}

/* ---- command line ---- */

static const char *word(const char *s)
{
	while (*s && *s != ' ')
		s++;
	while (*s == ' ')
		s++;
	return s;
}

static bool word_is(const char *s, const char *w)
{
	while (*w && *s == *w)
		s++, w++;
	return !*w && (!*s || *s == ' ');
}

static unsigned number(const char *s)
{
	unsigned v = 0;

	for (; *s >= '0' && *s <= '9'; s++)
		v = v * 10 + (unsigned)(*s - '0');
	return v;
}

static unsigned cpus_wanted = 1;

unsigned nr_cpus(void)
{
	return cpus_wanted;
}

void smp_start(unsigned n);

void guest_main(void)
{
	const u32 *info = phys(boot_info);
	const char *line = info[0] & 4 ? word(phys(info[4])) : "";

	if (word_is(line, "list")) {
		for (unsigned i = 0; topics[i]; i++)
			print("topic %s %u %u\n", topics[i]->name, (u64)topics[i]->cpus,
			      (u64)topics[i]->nr);
		print("done list\n");
		outb(EXIT_PORT, 0);
	}
	for (unsigned i = 0; topics[i]; i++) {
		if (!word_is(line, topics[i]->name))
			continue;
		cpus_wanted = number(word(line));
		smp_start(cpus_wanted);
		run_topic(topics[i], number(word(word(line))));
		outb(EXIT_PORT, 0);
	}
	print("no such topic: %s\n", line);
	outb(EXIT_PORT, 1);
	for (;;)
		asm volatile("cli; hlt");
}
