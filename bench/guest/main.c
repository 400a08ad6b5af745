// SPDX-License-Identifier: MIT
/* The program that runs unchanged on the host and in guests: static, one process per workload, so
 * that one that crashes or hangs takes none of the others with it. bench/run reads what it prints:
 *
 *	bench-begin NS				the clock at the start, to be held against the
 *host's bench-start NAME bench NAME NS ITERATIONS OPS SUM	time of one iteration, operations in
 *it bench-skip NAME REASON bench-fail NAME REASON bench-end NS
 *
 * The first iteration warms up and is not timed. Of the times of the others the lower quartile
 *counts: what a busy host takes away hits some iterations, and those don't say how fast an engine
 *is. */
#define _GNU_SOURCE
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "bench.h"

static const struct workload *const lists[] = {compute_work, string_work, core_work,
                                               vector_work,  system_work, process_work};
#define LISTS (sizeof(lists) / sizeof(lists[0]))

enum { MAX_ITERATIONS = 100000 };

static struct {
	double scale;
	double limit;     /* seconds; no iteration begins after that */
	unsigned timeout; /* seconds for one workload with its set-up */
	const char *only; /* names with commas between; NULL: all */
	const char *busybox;
	const struct workload *now;
} opt = {.scale = 1.0, .limit = 10.0, .timeout = 120, .busybox = "/bin/busybox"};

void bench_fail(const char *fmt, ...)
{
	va_list ap;

	printf("bench-fail %s ", opt.now->name);
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	putchar('\n');
	fflush(stdout);
	_exit(3);
}

const char *bench_busybox(void)
{
	return opt.busybox;
}

static u64 now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (u64)ts.tv_sec * 1000000000u + (u64)ts.tv_nsec;
}

void bench_text(char *to, size_t len, u64 seed)
{
	static const char *const words[] = {
		"the",      "of",       "and",     "a",      "to",        "in",      "is",
		"request",  "from",     "page",    "error",  "GET",       "index",   "connection",
		"accepted", "timeout",  "process", "kernel", "interrupt", "handler", "register",
		"virtual",  "machine",  "monitor", "cache",  "translate", "memory",  "address",
		"0x7ffe",   "10.0.0.1", "src/",    "main.c", "return",    "static",  "unsigned",
	};
	const u32 nr = sizeof(words) / sizeof(words[0]);
	size_t at = 0, line = 20;

	while (at + 16 < len) {
		/* The smaller of two: frequent words come first. */
		u32 r = bench_random(&seed), i = r % nr, j = (r >> 8) % nr;
		const char *w = words[i < j ? i : j];
		size_t n = strlen(w);

		memcpy(to + at, w, n);
		at += n;
		if (r >> 16 & 1)
			to[at++] = (char)('0' + (r >> 20) % 10);
		if (at > line) {
			to[at++] = '\n';
			line = at + 20 + r % 70;
		} else {
			to[at++] = ' ';
		}
	}
	while (at < len - 1)
		to[at++] = '.';
	to[len - 1] = 0;
}

static int by_time(const void *a, const void *b)
{
	u64 x = *(const u64 *)a, y = *(const u64 *)b;

	return x < y ? -1 : x > y;
}

/* In the workload's own process. */
static void measure(const struct workload *w)
{
	static u64 times[MAX_ITERATIONS];
	double want = w->iters * opt.scale;
	u64 n = want < 1 ? 1 : want > MAX_ITERATIONS ? MAX_ITERATIONS : (u64)want;
	u64 limit = (u64)(opt.limit * 1e9), done = 0, sum, start, last;

	if (w->setup)
		w->setup();
	sum = w->iter();
	start = last = now();
	do {
		u64 s = w->iter(), t = now();

		if (s != sum)
			bench_fail("checksum %llx after %llu iterations, %llx at first",
			           (unsigned long long)s, (unsigned long long)done,
			           (unsigned long long)sum);
		times[done++] = t - last;
		last = t;
	} while (done < n && last - start < limit);
	qsort(times, done, sizeof(times[0]), by_time);
	printf("bench %s %llu %llu %u %llx\n", w->name, (unsigned long long)times[done / 4],
	       (unsigned long long)done, w->ops, (unsigned long long)sum);
	fflush(stdout);
	_exit(0);
}

/* SIGALRM ends the wait for a workload. */
static void on_alarm(int sig)
{
	(void)sig;
}

static int run(const struct workload *w)
{
	const char *why = w->missing ? w->missing() : NULL;
	int status = 0;
	pid_t pid, got;

	if (why) {
		printf("bench-skip %s %s\n", w->name, why);
		return 0;
	}
	opt.now = w;
	printf("bench-start %s\n", w->name);
	fflush(stdout);
	pid = fork();
	if (pid < 0) {
		printf("bench-fail %s fork: %s\n", w->name, strerror(errno));
		return 1;
	}
	if (!pid) {
		setpgid(0, 0);
		measure(w);
	}
	setpgid(pid, pid);
	alarm(opt.timeout);
	got = waitpid(pid, &status, 0);
	alarm(0);
	/* Helpers of the workload are in its process group. */
	kill(-pid, SIGKILL);
	if (got != pid) {
		waitpid(pid, &status, 0);
		printf("bench-fail %s took more than %u s\n", w->name, opt.timeout);
		return 1;
	}
	if (WIFSIGNALED(status))
		printf("bench-fail %s ended by signal %d\n", w->name, WTERMSIG(status));
	else if (WEXITSTATUS(status) && WEXITSTATUS(status) != 3)
		printf("bench-fail %s ended with code %d\n", w->name, WEXITSTATUS(status));
	return status != 0;
}

static int wanted(const char *name)
{
	size_t n = strlen(name);

	for (const char *p = opt.only; p; p = strchr(p, ',')) {
		p += *p == ',';
		if (!strncmp(p, name, n) && (p[n] == ',' || !p[n]))
			return 1;
	}
	return !opt.only;
}

static double number(const char *text)
{
	char *end;
	double v = strtod(text, &end);

	if (end == text || *end || v < 0) {
		fprintf(stderr, "bench-guest: %s is no number\n", text);
		exit(2);
	}
	return v;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {{"list", no_argument, NULL, 'l'},
	                                        {"only", required_argument, NULL, 'o'},
	                                        {"scale", required_argument, NULL, 's'},
	                                        {"limit", required_argument, NULL, 'm'},
	                                        {"timeout", required_argument, NULL, 't'},
	                                        {"busybox", required_argument, NULL, 'b'},
	                                        {0}};
	int c, list = 0, failed = 0;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (c) {
		case 'l':
			list = 1;
			break;
		case 'o':
			opt.only = optarg;
			break;
		case 's':
			opt.scale = number(optarg);
			break;
		case 'm':
			opt.limit = number(optarg);
			break;
		case 't':
			opt.timeout = (unsigned)number(optarg);
			break;
		case 'b':
			opt.busybox = optarg;
			break;
		default:
			fprintf(stderr, "usage: bench-guest [--list] [--only NAME,...] [--scale S] "
			                "[--limit SECONDS] [--timeout SECONDS] [--busybox FILE]\n");
			return 2;
		}
	}
	sigaction(SIGALRM, &(struct sigaction){.sa_handler = on_alarm}, NULL);
	if (!list)
		printf("bench-begin %llu\n", (unsigned long long)now());
	fflush(stdout);
	for (unsigned i = 0; i < LISTS; i++)
		for (const struct workload *w = lists[i]; w->name; w++) {
			if (!wanted(w->name))
				continue;
			if (list)
				printf("%s\n", w->name);
			else
				failed |= run(w);
			fflush(stdout);
		}
	if (!list)
		printf("bench-end %llu\n", (unsigned long long)now());
	fflush(stdout);
	return failed;
}
