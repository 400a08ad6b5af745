/* SPDX-License-Identifier: MIT */
/* Processes: fork and exec, pipes, copy on write, shared memory, exit codes, deep trees, memory
 * that comes and goes, moved mappings. */
#define _GNU_SOURCE
#include "check.h"
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int status_of(pid_t child)
{
	int status = -1;
	while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
	}
	return status;
}

static void copies(void)
{
	enum { PAGES = 256 };
	int *p = mmap(NULL, PAGES * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
	              0);
	int *s = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	for (int i = 0; i < PAGES; i++) {
		p[i * 1024] = i;
	}
	for (int round = 1; round <= 20; round++) {
		pid_t child = fork();
		if (!child) {
			int bad = 0;
			for (int i = 0; i < PAGES; i++) {
				bad += p[i * 1024] != i * round;
				p[i * 1024] = -1;
			}
			s[round] = round * 3;
			_exit(bad != 0);
		}
		for (int i = 0; i < PAGES; i++) {
			p[i * 1024] += i;
		}
		CHECK(!status_of(child), "the child saw other values");
		CHECK(s[round] == round * 3, "shared memory");
		for (int i = 0; i < PAGES; i++) {
			if (p[i * 1024] != i * (round + 1)) {
				CHECK(0, "the parent's page %d has %d", i, p[i * 1024]);
				break;
			}
		}
	}
	munmap(p, PAGES * 4096);
}

static void executes(const char *self)
{
	for (int i = 0; i < 100; i++) {
		char number[16];
		snprintf(number, sizeof(number), "%d", i);
		pid_t child = i & 1 ? fork() : vfork();
		if (!child) {
			execl(self, self, "exit", number, (char *)NULL);
			_exit(255);
		}
		int status = status_of(child);
		CHECK(WIFEXITED(status) && WEXITSTATUS(status) == i, "status %x of %d", status, i);
	}
	pid_t child = fork();
	if (!child) {
		raise(SIGKILL);
	}
	int status = status_of(child);
	CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL, "status %x", status);
}

static void pipes(void)
{
	int to[2], from[2];
	if (pipe(to) || pipe(from)) {
		perror("pipe");
		exit(1);
	}
	pid_t child = fork();
	if (!child) {
		long n;
		while (read(to[0], &n, sizeof(n)) == sizeof(n) && n >= 0) {
			n = n * n + 1;
			if (write(from[1], &n, sizeof(n)) != sizeof(n)) {
				_exit(1);
			}
		}
		_exit(0);
	}
	long good = 0;
	for (long i = 0; i < 5000; i++) {
		long n = i;
		good += write(to[1], &n, sizeof(n)) == sizeof(n) &&
		        read(from[0], &n, sizeof(n)) == sizeof(n) && n == i * i + 1;
	}
	long end = -1;
	good += write(to[1], &end, sizeof(end)) == sizeof(end);
	CHECK(good == 5001, "%ld", good);
	CHECK(!status_of(child), "the child");
}

static int tree(int depth)
{
	int sum = 1;
	if (depth) {
		for (int i = 0; i < 2; i++) {
			pid_t child = fork();
			if (!child) {
				_exit(tree(depth - 1));
			}
			sum += WEXITSTATUS(status_of(child));
		}
	}
	return sum;
}

static void mappings(void)
{
	long bad = 0;
	for (int i = 1; i < 200; i++) {
		size_t size = (size_t)i * 4096;
		char *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
		               0);
		bad += p[0] || p[size - 1];
		p[0] = 1;
		p[size - 1] = 2;
		p = mremap(p, size, size * 2, MREMAP_MAYMOVE);
		bad += p[0] != 1 || p[2 * size - 1];
		madvise(p, size, MADV_DONTNEED);
		bad += p[0] != 0;
		munmap(p, size * 2);
	}
	CHECK(!bad, "%ld", bad);
	/* Large allocations, which the kernel may back with large pages. */
	size_t size = 24 << 20;
	for (int i = 0; i < 3; i++) {
		char *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
		               0);
		madvise(p, size, MADV_HUGEPAGE);
		for (size_t at = 0; at < size; at += 4096) {
			*(uint64_t *)(p + at) = at ^ i;
		}
		mprotect(p + size / 2 + 4096, 4096, PROT_READ); /* splits one */
		for (size_t at = 0; at < size; at += 4096) {
			bad += *(uint64_t *)(p + at) != (at ^ i);
		}
		munmap(p, size);
	}
	CHECK(!bad, "%ld large", bad);
	for (int i = 0; i < 50; i++) { /* the heap, up and down */
		char *p = sbrk(1 << 20);
		memset(p, i, 1 << 20);
		bad += p[12345] != i;
		sbrk(-(1 << 20));
	}
	CHECK(!bad, "%ld in the heap", bad);
}

/* A debugger's view: single steps and a breakpoint in a child. */
static void traced(void)
{
	pid_t child = fork();
	if (!child) {
		ptrace(PTRACE_TRACEME, 0, NULL, NULL);
		raise(SIGSTOP);
		asm volatile("mov $1000, %%ecx\n 1: dec %%ecx\n jnz 1b\n int3" ::: "rcx");
		_exit(77);
	}
	int status = status_of(child);
	CHECK(WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP, "status %x", status);
	int steps = 0;
	struct user_regs_struct regs;
	while (steps < 5000) {
		ptrace(PTRACE_SINGLESTEP, child, NULL, NULL);
		status = status_of(child);
		if (!WIFSTOPPED(status)) {
			break;
		}
		steps++;
		ptrace(PTRACE_GETREGS, child, NULL, &regs);
		unsigned long before = ptrace(PTRACE_PEEKTEXT, child, (void *)(regs.rip - 1), NULL);
		if ((before & 0xff) == 0xcc && regs.rcx == 0) {
			break;
		}
	}
	CHECK(steps > 2000 && steps < 5000, "%d steps, status %x", steps, status);
	ptrace(PTRACE_CONT, child, NULL, NULL);
	status = status_of(child);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 77, "status %x", status);
}

static void clocks(void)
{
	struct timespec a, b;
	long back = 0;
	clock_gettime(CLOCK_MONOTONIC, &a);
	for (int i = 0; i < 20000; i++) {
		clock_gettime(CLOCK_MONOTONIC, &b);
		back += b.tv_sec < a.tv_sec || (b.tv_sec == a.tv_sec && b.tv_nsec < a.tv_nsec);
		a = b;
	}
	CHECK(!back, "%ld times backwards", back);
	struct timespec nap = {0, 20000000};
	clock_gettime(CLOCK_MONOTONIC, &a);
	nanosleep(&nap, NULL);
	clock_gettime(CLOCK_MONOTONIC, &b);
	double slept = b.tv_sec - a.tv_sec + 1e-9 * (b.tv_nsec - a.tv_nsec);
	CHECK(slept >= 0.02 && slept < 30, "%g s", slept);
}

/* Every processor does its part, and a process can be moved to each. */
static void processors(void)
{
	cpu_set_t all, one;
	CHECK(!sched_getaffinity(0, sizeof(all), &all), "affinity");
	for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
		if (CPU_ISSET(cpu, &all)) {
			CPU_ZERO(&one);
			CPU_SET(cpu, &one);
			CHECK(!sched_setaffinity(0, sizeof(one), &one) && sched_getcpu() == cpu,
			      "CPU %d", cpu);
			unsigned aux;
			__builtin_ia32_rdtscp(&aux);
			CHECK((aux & 0xfff) == (unsigned)cpu, "RDTSCP says %u on %d", aux & 0xfff,
			      cpu);
		}
	}
	sched_setaffinity(0, sizeof(all), &all);
}

int main(int argc, char **argv)
{
	if (argc == 3) {
		return atoi(argv[2]);
	}
	copies();
	executes(argv[0]);
	pipes();
	CHECK(tree(6) == 127, "a tree of processes");
	mappings();
	traced();
	clocks();
	processors();
	return check_end();
}
