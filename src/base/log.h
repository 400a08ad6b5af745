/* SPDX-License-Identifier: MIT */
/* Messages for people, and traces.
 *
 * log_*: one line on stderr, prefixed "ringer: ". Thread-safe (one write each).
 * The log has no state except the level, set once by the CLI before any thread
 * exists. In raw terminal mode lines end in \r\n when log_set_raw() says so.
 *
 * trace: `struct trace` hangs off the VM. trace_on() is one load and a test, so
 * it may stand on warm paths. */
#pragma once

#include <stdarg.h>
#include <stdio.h>

#include "base/types.h"

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };

void log_set_level(enum log_level level);
/* Raw terminal: end lines with \r\n. Called by the console when it switches modes. */
void log_set_raw(bool raw);
void log_msg(enum log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void log_vmsg(enum log_level level, const char *fmt, va_list ap);

/* Lines of text as they are, whatever the level: register dumps. */
void log_text(const char *text);

#define log_error(...) log_msg(LOG_ERROR, __VA_ARGS__)
#define log_warn(...)  log_msg(LOG_WARN, __VA_ARGS__)
#define log_info(...)  log_msg(LOG_INFO, __VA_ARGS__)
#define log_debug(...) log_msg(LOG_DEBUG, __VA_ARGS__)

/* A defect of the VMM itself: prints, runs the hook set by bug_set_hook (state
 * dump, terminal restore) once, aborts. */
void bug_at(const char *file, int line, const char *fmt, ...)
	__attribute__((format(printf, 3, 4), noreturn));
void bug_set_hook(void (*hook)(void *arg), void *arg);
#define bug(...) bug_at(__FILE__, __LINE__, __VA_ARGS__)

/* Guest misprogramming: at most `burst` lines, then one per second. Zero-initialise. */
struct ratelimit {
	u64 next_ns;
	u32 count;
	u32 dropped;
};
void guest_warn(struct ratelimit *rl, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

enum trace_cat {
	TRACE_IN_ASM = 1 << 0, /* each block of guest code when it is first decoded */
	TRACE_INT = 1 << 1,    /* exceptions and interrupts delivered */
	TRACE_MMU = 1 << 2,    /* page walks, TLB flushes, page faults */
	TRACE_IRQ = 1 << 3,    /* interrupt lines, controllers, IPIs */
	TRACE_IO = 1 << 4,     /* port and MMIO accesses */
	TRACE_EXEC = 1 << 5,   /* every instruction executed, with registers */
	TRACE_MSR = 1 << 6,    /* RDMSR, WRMSR, CPUID */
};

struct trace {
	u32 mask;
	FILE *out; /* NULL: stderr */
};

static inline bool trace_on(const struct trace *t, u32 cat)
{
	return unlikely(t && (t->mask & cat));
}
void trace_msg(const struct trace *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Parse "in_asm,int,..." into a mask. 0, or -1 with *bad set to the first unknown word. */
int trace_parse(const char *list, u32 *mask, char *bad, size_t bad_size);
/* Space-separated names, for help texts. */
const char *trace_names(void);
