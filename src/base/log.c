// SPDX-License-Identifier: MIT
/* One line is one write(2), so lines of several threads never mix. The level and
 * the raw flag are the only process-wide state of the program: stderr itself is
 * process-wide. */
#include "base/log.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static enum log_level log_level = LOG_INFO;
static bool log_raw;
static void (*bug_hook)(void *);
static void *bug_hook_arg;

void log_set_level(enum log_level level)
{
	log_level = level;
}

void log_set_raw(bool raw)
{
	log_raw = raw;
}

static void emit(FILE *out, const char *prefix, const char *fmt, va_list ap)
	__attribute__((format(printf, 3, 0)));

static void __attribute__((format(printf, 2, 3))) emit_line(FILE *out, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	emit(out, "", fmt, ap);
	va_end(ap);
}

static void emit(FILE *out, const char *prefix, const char *fmt, va_list ap)
{
	char line[1024];
	size_t n = (size_t)snprintf(line, sizeof(line), "%s", prefix);
	int m = vsnprintf(line + n, sizeof(line) - n - 2, fmt, ap);

	if (m < 0)
		return;
	n += (size_t)m;
	if (n > sizeof(line) - 3)
		n = sizeof(line) - 3;
	if (log_raw && out == stderr)
		line[n++] = '\r';
	line[n++] = '\n';
	if (out == stderr) {
		ssize_t r = write(STDERR_FILENO, line, n);
		(void)r; /* nowhere left to say it */
	} else {
		fwrite(line, 1, n, out);
	}
}

void log_vmsg(enum log_level level, const char *fmt, va_list ap)
{
	static const char *const prefix[] = {
		"ringer: error: ", "ringer: warning: ", "ringer: ", "ringer: debug: "};

	if (level <= log_level)
		emit(stderr, prefix[level], fmt, ap);
}

void log_msg(enum log_level level, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	log_vmsg(level, fmt, ap);
	va_end(ap);
}

void log_text(const char *text)
{
	for (size_t n; *text; text += n + (text[n] == '\n')) {
		n = strcspn(text, "\n");
		emit_line(stderr, "%.*s", (int)n, text);
	}
}

void bug_set_hook(void (*hook)(void *arg), void *arg)
{
	bug_hook = hook;
	bug_hook_arg = arg;
}

void bug_at(const char *file, int line, const char *fmt, ...)
{
	char prefix[128];
	void (*hook)(void *) = bug_hook;
	va_list ap;

	snprintf(prefix, sizeof(prefix), "ringer: bug at %s:%d: ", file, line);
	va_start(ap, fmt);
	emit(stderr, prefix, fmt, ap);
	va_end(ap);
	bug_hook = NULL;
	if (hook)
		hook(bug_hook_arg);
	abort();
}

void guest_warn(struct ratelimit *rl, const char *fmt, ...)
{
	struct timespec ts;
	va_list ap;
	u64 now;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	now = (u64)ts.tv_sec * NSEC_PER_SEC + (u64)ts.tv_nsec;
	if (rl->count >= 5 && now < rl->next_ns) {
		rl->dropped++;
		return;
	}
	rl->count++;
	rl->next_ns = now + NSEC_PER_SEC;
	if (LOG_WARN <= log_level) {
		va_start(ap, fmt);
		emit(stderr, "ringer: guest: ", fmt, ap);
		va_end(ap);
	}
	if (rl->dropped) {
		log_msg(LOG_WARN, "(%u more such messages suppressed)", rl->dropped);
		rl->dropped = 0;
	}
}

void trace_msg(const struct trace *t, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	emit(t->out ? t->out : stderr, "", fmt, ap);
	va_end(ap);
}

static const struct {
	const char *name;
	u32 bit;
} trace_table[] = {
	{"in_asm", TRACE_IN_ASM}, {"int", TRACE_INT},   {"mmu", TRACE_MMU}, {"irq", TRACE_IRQ},
	{"io", TRACE_IO},         {"exec", TRACE_EXEC}, {"msr", TRACE_MSR},
};

int trace_parse(const char *list, u32 *mask, char *bad, size_t bad_size)
{
	*mask = 0;
	while (*list) {
		size_t n = strcspn(list, ",");
		size_t i;

		for (i = 0; i < ARRAY_SIZE(trace_table); i++)
			if (strlen(trace_table[i].name) == n &&
			    !memcmp(trace_table[i].name, list, n))
				break;
		if (i == ARRAY_SIZE(trace_table)) {
			snprintf(bad, bad_size, "%.*s", (int)n, list);
			return -1;
		}
		*mask |= trace_table[i].bit;
		list += n;
		if (*list == ',')
			list++;
	}
	return 0;
}

const char *trace_names(void)
{
	return "in_asm int mmu irq io exec msr";
}
