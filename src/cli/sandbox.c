// SPDX-License-Identifier: MIT
/* The guest is hostile and the monitor has defects: what a guest could gain by one of them is
 * bounded here. No capabilities, no new privileges (no_new_privs: set-user-id programs give
 * none), and a seccomp filter with a short list of system calls: no open(2), no
 * execve(2), no fork, no new sockets, no mapping of executable memory. Descriptors that are
 * open already are all there is.
 *
 * Refused calls trap instead of killing at once, so that the handler can name the
 * call; the process then dies of SIGSYS, the terminal restored by src/io/tty.c, whose handler
 * runs before this one. */
#include "cli/sandbox.h"

#include <asm/prctl.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <malloc.h>
#include <linux/if_tun.h>
#include <sched.h>
#include <seccomp.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#include "base/log.h"

/* Allowed whatever the arguments are. */
static const int allowed[] = {
	/* descriptors that are open */
	SCMP_SYS(read),
	SCMP_SYS(readv),
	SCMP_SYS(pread64),
	SCMP_SYS(preadv),
	SCMP_SYS(write),
	SCMP_SYS(writev),
	SCMP_SYS(pwrite64),
	SCMP_SYS(pwritev),
	SCMP_SYS(lseek),
	SCMP_SYS(close),
	SCMP_SYS(fstat),
	SCMP_SYS(fsync),
	SCMP_SYS(fdatasync),
	SCMP_SYS(fallocate),
	SCMP_SYS(io_uring_enter), /* rings are restricted when they are made (io/disk.c) */
	/* sockets that listen or are connected */
	SCMP_SYS(accept4),
	SCMP_SYS(accept),
	SCMP_SYS(recvfrom),
	SCMP_SYS(recvmsg),
	SCMP_SYS(sendto),
	SCMP_SYS(sendmsg),
	SCMP_SYS(shutdown),
	SCMP_SYS(setsockopt),
	SCMP_SYS(getsockopt),
	/* waiting and time */
	SCMP_SYS(poll),
	SCMP_SYS(ppoll),
	SCMP_SYS(epoll_wait),
	SCMP_SYS(epoll_pwait),
	SCMP_SYS(epoll_pwait2),
	SCMP_SYS(epoll_ctl),
	SCMP_SYS(futex),
	SCMP_SYS(nanosleep),
	SCMP_SYS(clock_nanosleep),
	SCMP_SYS(clock_gettime),
	SCMP_SYS(gettimeofday),
	SCMP_SYS(time),
	SCMP_SYS(timerfd_settime),
	SCMP_SYS(timerfd_gettime),
	SCMP_SYS(timer_settime),
	SCMP_SYS(timer_gettime),
	SCMP_SYS(restart_syscall),
	/* memory: without execution, see below */
	SCMP_SYS(munmap),
	SCMP_SYS(brk),
	SCMP_SYS(madvise),
	SCMP_SYS(membarrier),
	/* threads and signals of this process */
	SCMP_SYS(exit),
	SCMP_SYS(exit_group),
	SCMP_SYS(set_robust_list),
	SCMP_SYS(rseq),
	SCMP_SYS(sched_yield),
	SCMP_SYS(sched_getaffinity),
	SCMP_SYS(getpid),
	SCMP_SYS(gettid),
	SCMP_SYS(rt_sigaction),
	SCMP_SYS(rt_sigprocmask),
	SCMP_SYS(rt_sigreturn),
	SCMP_SYS(rt_sigpending),
	SCMP_SYS(sigaltstack),
	SCMP_SYS(getpgrp),
	SCMP_SYS(getrandom),
};

/* What the threads that serve shared folders call besides. Flags of openat2 are in memory, where
 * a filter can't look: those threads are held in their folder by Landlock (io/fuse_path.c), and no
 * other thread gets this list. */
static const int allowed_files[] = {
	SCMP_SYS(openat2),
	SCMP_SYS(mkdirat),
	SCMP_SYS(mknodat),
	SCMP_SYS(symlinkat),
	SCMP_SYS(linkat),
	SCMP_SYS(unlinkat),
	SCMP_SYS(renameat2),
	SCMP_SYS(readlinkat),
	SCMP_SYS(getdents64),
	SCMP_SYS(newfstatat),
	SCMP_SYS(fstatfs),
	SCMP_SYS(faccessat2),
	SCMP_SYS(fchmod),
	SCMP_SYS(fchmodat),
	SCMP_SYS(fchownat),
	SCMP_SYS(utimensat),
	SCMP_SYS(ftruncate),
	SCMP_SYS(getxattr),
	SCMP_SYS(setxattr),
	SCMP_SYS(listxattr),
	SCMP_SYS(removexattr),
	SCMP_SYS(pwritev2),
	SCMP_SYS(copy_file_range),
	SCMP_SYS(syncfs),
	SCMP_SYS(flock),
	SCMP_SYS(setfsuid),
	SCMP_SYS(setfsgid),
	/* the narrower filter of the other threads comes after theirs */
	SCMP_SYS(seccomp),
};

static const int allowed_files_fcntls[] = {F_DUPFD_CLOEXEC, F_OFD_SETLK, F_OFD_GETLK};

/* Terminal modes, and whether a job is in the foreground. TIOCSTI, which types into the
 * user's shell, is the reason for a list. */
static const unsigned long allowed_ioctls[] = {
	TCGETS, TCSETS, TCSETSW, TCSETSF, TIOCGWINSZ, TIOCGPGRP, FIONREAD,
};

static const int allowed_fcntls[] = {F_GETFL, F_SETFL, F_GETFD, F_SETFD, F_OFD_SETLK};

/* --net user: sockets towards the Internet. Those of the host itself (AF_UNIX) stay out of reach,
 * and so does listening: the forwarded ports are open by now. */
static int add_internet_rules(scmp_filter_ctx ctx)
{
	static const int families[] = {AF_INET, AF_INET6};
	static const int calls[] = {SCMP_SYS(connect), SCMP_SYS(getsockname),
	                            SCMP_SYS(getpeername)};
	int err = 0;

	for (size_t i = 0; i < ARRAY_SIZE(families) && !err; i++)
		err = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(socket), 1,
		                       SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)families[i]));
	for (size_t i = 0; i < ARRAY_SIZE(calls) && !err; i++)
		err = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, calls[i], 0);
	if (!err) /* the resolver's configuration, once more */
		err = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(fcntl), 1,
		                       SCMP_A1(SCMP_CMP_EQ, F_DUPFD_CLOEXEC));
	return err;
}

static int add_tap_rules(scmp_filter_ctx ctx)
{
	static const unsigned long calls[] = {TUNSETOFFLOAD, TUNSETQUEUE};
	int err = 0;

	for (size_t i = 0; i < ARRAY_SIZE(calls) && !err; i++)
		err = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1,
		                       SCMP_A1(SCMP_CMP_EQ, calls[i]));
	return err;
}

static int add_file_rules(scmp_filter_ctx ctx)
{
	int err = 0;

	for (size_t i = 0; i < ARRAY_SIZE(allowed_files) && !err; i++)
		err = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, allowed_files[i], 0);
	for (size_t i = 0; i < ARRAY_SIZE(allowed_files_fcntls) && !err; i++)
		err = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(fcntl), 1,
		                       SCMP_A1(SCMP_CMP_EQ, (scmp_datum_t)allowed_files_fcntls[i]));
	return err;
}

static int add_rules(scmp_filter_ctx ctx)
{
	int err = 0;

	for (size_t i = 0; i < ARRAY_SIZE(allowed) && !err; i++)
		err = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, allowed[i], 0);
	for (size_t i = 0; i < ARRAY_SIZE(allowed_ioctls) && !err; i++)
		err = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1,
		                       SCMP_A1(SCMP_CMP_EQ, allowed_ioctls[i]));
	for (size_t i = 0; i < ARRAY_SIZE(allowed_fcntls) && !err; i++)
		err = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(fcntl), 1,
		                       SCMP_A1(SCMP_CMP_EQ, (scmp_datum_t)allowed_fcntls[i]));
	if (err)
		return err;

	/* glibc's fstat(). */
	err = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(newfstatat), 1,
	                       SCMP_A3(SCMP_CMP_EQ, AT_EMPTY_PATH));
	if (err)
		return err;
	/* Memory is writable or executable from the start, never made so. */
	err = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 1,
	                       SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
	if (!err)
		err = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(mprotect), 1,
		                       SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
	if (!err)
		err = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(mremap), 0);
	if (err)
		return err;
	/* Threads, not processes. clone3's flags are in memory, where a filter can't look: it
	 * seems not to exist, and glibc takes clone. */
	err = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);
	if (!err)
		err = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(clone), 1,
		                       SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_THREAD, CLONE_THREAD));
	if (!err)
		err = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(tgkill), 1,
		                       SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)getpid()));
	if (!err) /* the binary translator's vCPU threads */
		err = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(arch_prctl), 1,
		                       SCMP_A0(SCMP_CMP_EQ, ARCH_SET_GS));
	if (!err) /* pthread_setname_np() of the thread itself */
		err = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(prctl), 1,
		                       SCMP_A0(SCMP_CMP_EQ, PR_SET_NAME));
	return err;
}

static void on_sigsys(int sig, siginfo_t *info, void *uc)
{
	static const char head[] = "ringer: seccomp: system call ";
	static const char tail[] = " refused (please report; --no-sandbox avoids it)\n";
	unsigned nr = (unsigned)info->si_syscall;
	char line[128], digits[12];
	size_t n = sizeof(head) - 1, d = 0;
	struct sigaction dfl = {.sa_handler = SIG_DFL};

	memcpy(line, head, n);
	do {
		digits[d++] = (char)('0' + nr % 10);
		nr /= 10;
	} while (nr);
	while (d)
		line[n++] = digits[--d];
	memcpy(line + n, tail, sizeof(tail) - 1);
	n += sizeof(tail) - 1;
	if (write(STDERR_FILENO, line, n) < 0) {
		/* nowhere left to say it */
	}
	sigaction(SIGSYS, &dfl, NULL);
	raise(SIGSYS); /* blocked until the handler returns */
}

/* libslirp looks at the host's resolver by name, again and again: stat(2), and open(2) when it has
 * changed. Both are refused and come here; for this one name, and no other, they are done with the
 * descriptor that was opened before. A signal handler is given no data, hence the globals. */
#define RESOLV_CONF "/etc/resolv.conf"
static int resolv_fd = -1;
static struct sigaction refused; /* what handles all the other calls */

static bool resolver_call(const siginfo_t *info, ucontext_t *uc)
{
	greg_t *r = uc->uc_mcontext.gregs;
	bool open = info->si_syscall == SYS_openat, stat = info->si_syscall == SYS_newfstatat;
	long ret;

	if ((!open && !stat) || (int)r[REG_RDI] != AT_FDCWD ||
	    strcmp((const char *)r[REG_RSI], RESOLV_CONF))
		return false;
	if (resolv_fd < 0)
		ret = -ENOENT;
	else if (stat)
		ret = fstat(resolv_fd, (struct stat *)r[REG_RDX]) < 0 ? -errno : 0;
	else
		ret = fcntl(resolv_fd, F_DUPFD_CLOEXEC, 3);
	if (open && ret >= 0)
		lseek((int)ret, 0, SEEK_SET);
	else if (open && resolv_fd >= 0)
		ret = -errno;
	r[REG_RAX] = ret;
	return true;
}

static void on_call(int sig, siginfo_t *info, void *uc)
{
	int err = errno;

	if (!resolver_call(info, uc))
		refused.sa_sigaction(sig, info, uc);
	errno = err;
}

/* In front of the handler that is there, which may be the console's (it restores the terminal). */
static void serve_resolver(void)
{
	struct sigaction sa = {.sa_sigaction = on_call, .sa_flags = SA_SIGINFO | SA_ONSTACK};

	resolv_fd = open(RESOLV_CONF, O_RDONLY | O_CLOEXEC);
	if (resolv_fd < 0)
		log_warn("--net user: %s: %s; the guest cannot look up names", RESOLV_CONF,
		         strerror(errno));
	sigfillset(&sa.sa_mask);
	sigaction(SIGSYS, &sa, &refused);
}

static int drop_capabilities(void)
{
	struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = {0};

	/* The ambient set, if any, goes with the permitted one. */
	return syscall(SYS_capset, &head, none) < 0 ? -errno : 0;
}

void sandbox_prepare(void)
{
	struct sigaction sa = {.sa_sigaction = on_sigsys, .sa_flags = SA_SIGINFO | SA_ONSTACK};

	sigaction(SIGSYS, &sa, NULL);
}

static int load_filter(const struct sandbox_config *cfg, bool all_threads, bool files)
{
	scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_TRAP);
	int err;

	if (!ctx)
		return -ENOMEM;
	/* A tree instead of a list; no_new_privs is the attribute's default. */
	err = seccomp_attr_set(ctx, SCMP_FLTATR_CTL_OPTIMIZE, 2);
	if (!err)
		err = seccomp_attr_set(ctx, SCMP_FLTATR_CTL_TSYNC, all_threads);
	if (!err && !all_threads) /* set already; prctl(2) for that is refused by now */
		err = seccomp_attr_set(ctx, SCMP_FLTATR_CTL_NNP, 0);
	if (!err)
		err = add_rules(ctx);
	if (!err && cfg->internet)
		err = add_internet_rules(ctx);
	if (!err && cfg->tap)
		err = add_tap_rules(ctx);
	if (!err && files)
		err = add_file_rules(ctx);
	if (!err)
		err = seccomp_load(ctx);
	seccomp_release(ctx);
	return err;
}

int sandbox_enter(const struct sandbox_config *cfg)
{
	int err;

	tzset(); /* libc reads its time zone file once, on first use: now */
	/* malloc() opens a file in /proc before it gives part of a thread's heap, which is 64 MiB
	 * at most, back to the kernel; and one in /sys, for the number of processors, when it
	 * decides how many heaps there may be. So it is told. */
	mallopt(M_TRIM_THRESHOLD, 128 << 20);
	mallopt(M_ARENA_MAX, 8);
	err = drop_capabilities();
	if (err) {
		log_error("cannot drop capabilities: %s", strerror(-err));
		return err;
	}
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
	log_warn("built with a sanitizer, which needs system calls that the sandbox refuses: "
	         "no sandbox");
	return 0;
#endif
	if (cfg->internet)
		serve_resolver();
	err = load_filter(cfg, true, cfg->files);
	if (!err && cfg->files) /* both filters must agree */
		err = load_filter(cfg, false, false);
	if (err)
		log_error("cannot install the seccomp filter: %s; --no-sandbox runs without it",
		          strerror(-err));
	return err;
}
