// SPDX-License-Identifier: MIT
/* The kernel's part within one process: system calls, memory maps, signals, files. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "bench.h"

enum { PAGE = 4096 };

static u64 getpid_calls(void)
{
	long pid = getpid();
	u64 same = 0;

	for (int i = 0; i < 2000; i++)
		same += syscall(SYS_getpid) == pid;
	return same;
}

/* ---- one byte ---- */

static int zero_fd, null_fd;

static void rw_setup(void)
{
	zero_fd = open("/dev/zero", O_RDONLY);
	null_fd = open("/dev/null", O_WRONLY);
	if (zero_fd < 0 || null_fd < 0)
		bench_fail("/dev/zero, /dev/null: %s", strerror(errno));
}

static u64 rw_bytes(void)
{
	u64 sum = 0;
	char c = 1;

	for (int i = 0; i < 1000; i++)
		sum += (u64)(read(zero_fd, &c, 1) + write(null_fd, &c, 1) + c);
	return sum;
}

/* ---- memory ---- */

static u64 mmap_touch(void)
{
	const size_t len = 64 * PAGE;
	u64 sum = 0;

	for (int i = 0; i < 4; i++) {
		char *p =
			mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		if (p == MAP_FAILED)
			bench_fail("mmap: %s", strerror(errno));
		for (size_t k = 0; k < len; k += PAGE) {
			sum += (u64)p[k];
			*(volatile char *)(p + k) = 1;
		}
		for (size_t k = 0; k < len; k += PAGE)
			sum += (u64)p[k];
		munmap(p, len);
	}
	return sum;
}

static char *guarded;
static volatile u64 faults;

static void on_fault(int sig, siginfo_t *si, void *context)
{
	(void)sig, (void)context;
	if (si->si_addr != guarded || mprotect(guarded, PAGE, PROT_READ | PROT_WRITE))
		_exit(4);
	faults++;
}

static void mprotect_setup(void)
{
	struct sigaction sa = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};

	guarded = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (guarded == MAP_FAILED || sigaction(SIGSEGV, &sa, NULL))
		bench_fail("mmap or sigaction: %s", strerror(errno));
}

static u64 mprotect_faults(void)
{
	u64 before = faults;

	for (int i = 0; i < 100; i++) {
		if (mprotect(guarded, PAGE, PROT_READ))
			bench_fail("mprotect: %s", strerror(errno));
		*(volatile char *)guarded = (char)i;
	}
	return faults - before;
}

/* ---- signals ---- */

static volatile u64 signals;

static void on_signal(int sig)
{
	(void)sig;
	signals++;
}

static void signal_setup(void)
{
	sigaction(SIGUSR1, &(struct sigaction){.sa_handler = on_signal}, NULL);
}

static u64 signal_self(void)
{
	u64 before = signals;
	pid_t pid = getpid();

	for (int i = 0; i < 200; i++)
		kill(pid, SIGUSR1);
	return signals - before;
}

/* ---- names in a tmpfs: made, looked at, renamed, removed ---- */

static u64 files(void)
{
	enum { FILES = 50 };
	char dir[64], name[32], to[32];
	struct stat st;
	int files_dir;
	u64 sum = 0;

	snprintf(dir, sizeof(dir), "/dev/shm/ringer-bench-%d", (int)getpid());
	if (mkdir(dir, 0700) || (files_dir = open(dir, O_RDONLY | O_DIRECTORY)) < 0)
		bench_fail("%s: %s", dir, strerror(errno));
	for (int i = 0; i < FILES; i++) {
		int fd;

		snprintf(name, sizeof(name), "file-%d", i);
		fd = openat(files_dir, name, O_CREAT | O_EXCL | O_WRONLY, 0600);
		if (fd < 0)
			bench_fail("open: %s", strerror(errno));
		close(fd);
	}
	for (int i = 0; i < FILES; i++) {
		snprintf(name, sizeof(name), "file-%d", i);
		snprintf(to, sizeof(to), "renamed-%d", i);
		if (fstatat(files_dir, name, &st, 0))
			bench_fail("stat: %s", strerror(errno));
		sum = bench_mix(sum, st.st_mode + st.st_nlink + (u64)st.st_size);
		if (renameat(files_dir, name, files_dir, to))
			bench_fail("rename: %s", strerror(errno));
	}
	for (int i = 0; i < FILES; i++) {
		snprintf(to, sizeof(to), "renamed-%d", i);
		if (unlinkat(files_dir, to, 0))
			bench_fail("unlink: %s", strerror(errno));
	}
	close(files_dir);
	if (rmdir(dir))
		bench_fail("rmdir: %s", strerror(errno));
	return sum;
}

const struct workload system_work[] = {
	{"getpid", NULL, getpid_calls, 1000, 2000},
	{"read+write", rw_setup, rw_bytes, 600, 1000},
	{"mmap+touch", NULL, mmap_touch, 300, 4},
	{"mprotect", mprotect_setup, mprotect_faults, 500, 100},
	{"signal", signal_setup, signal_self, 600, 200},
	{"files", NULL, files, 500, 50},
	{0},
};
