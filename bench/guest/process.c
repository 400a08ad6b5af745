// SPDX-License-Identifier: MIT
/* The kernel's part between processes: pipes, fork, exec, context switches. Helper processes stay
 * in the workload's process group, which main.c ends. */
#define _GNU_SOURCE
#include <errno.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench.h"

/* Processes in a ring of pipes; whoever reads the byte sends it on. The first one is this one. */
enum { MAX_RING = 8 };
static int ring_in, ring_out;

static void ring_setup(unsigned nr)
{
	int p[MAX_RING][2];

	for (unsigned i = 0; i < nr; i++)
		if (pipe(p[i]))
			bench_fail("pipe: %s", strerror(errno));
	for (unsigned i = 1; i < nr; i++) {
		pid_t pid = fork();
		char c;

		if (pid < 0)
			bench_fail("fork: %s", strerror(errno));
		if (pid)
			continue;
		while (read(p[i - 1][0], &c, 1) == 1 && write(p[i][1], &c, 1) == 1)
			;
		_exit(0);
	}
	ring_out = p[0][1];
	ring_in = p[nr - 1][0];
}

static u64 ring_laps(int laps)
{
	u64 sum = 0;

	for (int i = 0; i < laps; i++) {
		char c = (char)i;

		if (write(ring_out, &c, 1) != 1 || read(ring_in, &c, 1) != 1)
			bench_fail("the ring is broken: %s", strerror(errno));
		sum += (u64)(c == (char)i);
	}
	return sum;
}

static void pipe_setup(void)
{
	ring_setup(2);
}

static u64 pipe_pingpong(void)
{
	return ring_laps(100);
}

static void switch_setup(void)
{
	ring_setup(8);
}

static u64 switches(void)
{
	return ring_laps(25);
}

static u64 children(int nr, int exec)
{
	const char *busybox = bench_busybox();
	u64 sum = 0;

	for (int i = 0; i < nr; i++) {
		int status = -1;
		pid_t pid = fork();

		if (pid < 0)
			bench_fail("fork: %s", strerror(errno));
		if (!pid) {
			if (exec)
				execl(busybox, "busybox", "true", (char *)NULL);
			_exit(exec ? 127 : 5);
		}
		if (waitpid(pid, &status, 0) != pid || !WIFEXITED(status))
			bench_fail("a child ended with status %#x", status);
		sum += (u64)WEXITSTATUS(status);
	}
	if (exec && sum)
		bench_fail("%s true failed", busybox);
	return sum + (u64)nr;
}

static u64 fork_exit(void)
{
	return children(5, 0);
}

static u64 fork_exec(void)
{
	return children(2, 1);
}

const struct workload process_work[] = {
	{"pipe", pipe_setup, pipe_pingpong, 600, 100},
	{"switch", switch_setup, switches, 320, 200},
	{"fork+exit", NULL, fork_exit, 540, 5},
	{"fork+exec", NULL, fork_exec, 280, 2},
	{0},
};
