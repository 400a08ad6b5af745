// SPDX-License-Identifier: MIT
/* What a running VM needs goes on working in the sandbox, everything else ends the process with
 * SIGSYS and a line that names the call. Each case runs in a child, which alone is
 * locked in. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <netinet/in.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/types.h"
#include "cli/sandbox.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define NO_SANDBOX 1
#else
#define NO_SANDBOX 0
#endif

struct outcome {
	int status; /* of waitpid */
	char err[512];
};

/* Run fn in a sandboxed child; it exits with what fn returns. */
static struct outcome run_with(const struct sandbox_config *cfg, int (*fn)(void *arg), void *arg)
{
	struct outcome o = {0};
	int p[2];
	pid_t pid;
	size_t n = 0;
	ssize_t r;

	assert_int_equal(pipe(p), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		dup2(p[1], STDERR_FILENO);
		close(p[0]);
		alarm(20);
		sandbox_prepare();
		if (sandbox_enter(cfg) < 0)
			_exit(100);
		_exit(fn(arg));
	}
	close(p[1]);
	while (n < sizeof(o.err) - 1 && (r = read(p[0], o.err + n, sizeof(o.err) - 1 - n)) > 0)
		n += (size_t)r;
	close(p[0]);
	assert_int_equal(waitpid(pid, &o.status, 0), pid);
	return o;
}

static const struct sandbox_config plain;

static struct outcome run_inside(int (*fn)(void *arg), void *arg)
{
	return run_with(&plain, fn, arg);
}

/* ---- what must work ---- */

/* A thread's own heap grows and shrinks, and there are many threads. */
static void use_heap(void)
{
	static _Thread_local void *block[2000];

	for (size_t i = 0; i < ARRAY_SIZE(block); i++)
		block[i] = malloc(1000);
	for (size_t i = 0; i < ARRAY_SIZE(block); i++)
		free(block[i]);
}

static void *thread_main(void *arg)
{
	stack_t ss = {.ss_size = 64 * 1024, .ss_sp = malloc(64 * 1024)};
	sigset_t set;

	pthread_setname_np(pthread_self(), "vcpu0");
	use_heap();
	usleep(100000); /* so that the others don't take this one's heap over */
	sigaltstack(&ss, NULL);
	sigfillset(&set);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	ss.ss_flags = SS_DISABLE;
	sigaltstack(&ss, NULL);
	free(ss.ss_sp);
	return arg;
}

static volatile sig_atomic_t got_signal;
static void on_usr1(int sig)
{
	got_signal = 1;
}

/* Returns the line of the first thing that failed. */
#define MUST(x)                                                                                    \
	do {                                                                                       \
		if (!(x))                                                                          \
			return __LINE__ % 90 + 1;                                                  \
	} while (0)

static int normal_life(void *arg)
{
	int *fds = arg; /* eventfd, listening socket, connected socket, file */
	struct sigaction sa = {.sa_handler = on_usr1};
	struct timespec ts = {0, 1000000};
	struct pollfd pfd = {.fd = fds[0], .events = POLLIN};
	struct termios t;
	pthread_t th[12];
	struct stat st;
	u64 one = 1;
	char buf[16];
	void *m;
	int fd;

	for (int i = 0; i < 12; i++)
		MUST(pthread_create(&th[i], NULL, thread_main, NULL) == 0);
	for (int i = 0; i < 12; i++)
		MUST(pthread_join(th[i], NULL) == 0);
	MUST(write(fds[0], &one, 8) == 8 && ppoll(&pfd, 1, &ts, NULL) == 1);
	MUST(read(fds[0], &one, 8) == 8 && ppoll(&pfd, 1, &ts, NULL) == 0);
	m = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	MUST(m != MAP_FAILED);
	MUST(mprotect(m, 4096, PROT_READ) == 0 && madvise(m, 1 << 20, MADV_DONTNEED) == 0);
	MUST(munmap(m, 1 << 20) == 0);
	m = malloc(10 << 20);
	MUST(m);
	memset(m, 1, 10 << 20);
	m = realloc(m, 20 << 20);
	MUST(m);
	free(m);
	MUST(sigaction(SIGUSR1, &sa, NULL) == 0 && pthread_kill(pthread_self(), SIGUSR1) == 0 &&
	     got_signal);
	MUST(nanosleep(&ts, NULL) == 0 && clock_gettime(CLOCK_REALTIME, &ts) == 0);
	MUST(fstat(fds[3], &st) == 0 && pwrite(fds[3], "x", 1, 0) == 1 &&
	     pread(fds[3], buf, 1, 0) == 1 && fdatasync(fds[3]) == 0 &&
	     lseek(fds[3], 0, SEEK_END) == 1);
	fd = accept4(fds[1], NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	MUST(fd >= 0 && send(fd, "hi", 2, MSG_NOSIGNAL) == 2 && recv(fds[2], buf, 16, 0) == 2);
	MUST(fcntl(fd, F_SETFL, O_NONBLOCK) == 0 && shutdown(fd, SHUT_RDWR) == 0 && close(fd) == 0);
	MUST(ioctl(fds[3], TCGETS, &t) == -1 && errno == ENOTTY);
	MUST(sched_yield() == 0);
	MUST(fprintf(stderr, "%s", "") == 0 && printf("%s", "") == 0);
	return 0;
}

static void life_goes_on(void **state)
{
	struct sockaddr_un sun = {.sun_family = AF_UNIX};
	char path[] = "/tmp/ringer-sandbox-XXXXXX";
	int fds[4];
	struct outcome o;

	fds[0] = eventfd(0, EFD_NONBLOCK);
	fds[1] = socket(AF_UNIX, SOCK_STREAM, 0);
	fds[2] = socket(AF_UNIX, SOCK_STREAM, 0);
	fds[3] = mkstemp(path);
	unlink(path);
	/* An abstract address of the kernel's choice. */
	assert_int_equal(bind(fds[1], (struct sockaddr *)&sun, sizeof(sun.sun_family)), 0);
	assert_int_equal(listen(fds[1], 1), 0);
	socklen_t len = sizeof(sun);
	assert_int_equal(getsockname(fds[1], (struct sockaddr *)&sun, &len), 0);
	assert_int_equal(connect(fds[2], (struct sockaddr *)&sun, len), 0);
	o = run_inside(normal_life, fds);
	for (int i = 0; i < 4; i++)
		close(fds[i]);
	if (!WIFEXITED(o.status) || WEXITSTATUS(o.status))
		fail_msg("status %#x: %s", o.status, o.err);
}

/* ---- what must not ---- */

static int do_open(void *arg)
{
	return open("/etc/passwd", O_RDONLY);
}
static int do_exec(void *arg)
{
	return execl("/bin/true", "true", NULL);
}
static int do_fork(void *arg)
{
	return fork();
}
static int do_socket(void *arg)
{
	return socket(AF_INET, SOCK_STREAM, 0);
}
static int do_unlink(void *arg)
{
	return unlink("/nonexistent");
}
static int do_map_exec(void *arg)
{
	return mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == arg;
}
static int do_protect_exec(void *arg)
{
	return mprotect((void *)((uintptr_t)do_protect_exec & PAGE_MASK), 4096,
	                PROT_READ | PROT_WRITE | PROT_EXEC);
}
static int do_tiocsti(void *arg)
{
	char c = 'x';

	return ioctl(0, TIOCSTI, &c);
}
static int do_kill(void *arg)
{
	return kill(getppid(), 0);
}
static int do_ptrace(void *arg)
{
	return (int)ptrace(PTRACE_TRACEME, 0, NULL, NULL);
}
static int do_stat(void *arg)
{
	struct stat st;

	return stat("/etc/passwd", &st);
}
static int do_prctl(void *arg)
{
	return prctl(PR_SET_DUMPABLE, 1);
}

static void the_rest_is_refused(void **state)
{
	static const struct {
		const char *what;
		int (*fn)(void *);
	} table[] = {
		{"open", do_open},
		{"execve", do_exec},
		{"fork", do_fork},
		{"socket", do_socket},
		{"unlink", do_unlink},
		{"mmap exec", do_map_exec},
		{"mprotect exec", do_protect_exec},
		{"TIOCSTI", do_tiocsti},
		{"kill", do_kill},
		{"ptrace", do_ptrace},
		{"stat", do_stat},
		{"prctl", do_prctl},
	};

	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		struct outcome o = run_inside(table[i].fn, NULL);

		if (!WIFSIGNALED(o.status) || WTERMSIG(o.status) != SIGSYS)
			fail_msg("%s: status %#x", table[i].what, o.status);
		if (!strstr(o.err, "ringer: seccomp: system call ") || !strstr(o.err, " refused"))
			fail_msg("%s: said \"%s\"", table[i].what, o.err);
	}
}

/* ---- --net user ---- */

static int internet_life(void *arg)
{
	struct sockaddr_in sin = {.sin_family = AF_INET, .sin_port = 0x3500};
	struct stat st;
	char buf[64];
	FILE *f;
	int fd;

	sin.sin_addr.s_addr = 0x0100007f;
	fd = socket(AF_INET, SOCK_DGRAM, 0);
	MUST(fd >= 0 && connect(fd, (struct sockaddr *)&sin, sizeof(sin)) == 0);
	close(fd);
	/* By the way that libslirp goes, twice: the second starts at the beginning as well. */
	for (int i = 0; i < 2; i++) {
		MUST(stat("/etc/resolv.conf", &st) == 0 && S_ISREG(st.st_mode));
		f = fopen("/etc/resolv.conf", "r");
		MUST(f);
		MUST(st.st_size == 0 || fgets(buf, sizeof(buf), f));
		fclose(f);
	}
	return 0;
}

static int do_socket_unix(void *arg)
{
	return socket(AF_UNIX, SOCK_STREAM, 0);
}

static int do_bind(void *arg)
{
	struct sockaddr_in sin = {.sin_family = AF_INET};

	return bind(socket(AF_INET, SOCK_STREAM, 0), (struct sockaddr *)&sin, sizeof(sin));
}

static void internet(void **state)
{
	static const struct sandbox_config cfg = {.internet = true};
	static int (*const refused[])(void *) = {do_open, do_stat, do_exec, do_socket_unix,
	                                         do_bind};
	struct outcome o;

	if (access("/etc/resolv.conf", R_OK))
		skip();
	o = run_with(&cfg, internet_life, NULL);
	if (!WIFEXITED(o.status) || WEXITSTATUS(o.status))
		fail_msg("status %#x: %s", o.status, o.err);
	for (size_t i = 0; i < ARRAY_SIZE(refused); i++) {
		o = run_with(&cfg, refused[i], NULL);
		if (!WIFSIGNALED(o.status) || WTERMSIG(o.status) != SIGSYS)
			fail_msg("%zu: status %#x", i, o.status);
	}
}

static void *open_in_thread(void *arg)
{
	for (;;) {
		if (*(volatile int *)arg)
			open("/etc/passwd", O_RDONLY);
		usleep(1000);
	}
	return NULL;
}

/* A thread that exists already is locked in as well. */
static void older_threads(void **state)
{
	volatile int go = 0;
	pthread_t th;
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		alarm(20);
		close(STDERR_FILENO);
		if (pthread_create(&th, NULL, open_in_thread, (void *)&go))
			_exit(101);
		sandbox_prepare();
		if (sandbox_enter(&plain) < 0)
			_exit(100);
		go = 1;
		sleep(10);
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS);
}

struct server {
	volatile int go, done;
};

/* What a thread does that serves a shared folder. */
static void *serve_files(void *arg)
{
	const struct open_how how = {.flags = O_PATH | O_CLOEXEC};
	struct server *s = arg;
	struct stat st;
	int fd;

	while (!s->go)
		usleep(1000);
	fd = (int)syscall(SYS_openat2, AT_FDCWD, "/", &how, sizeof(how));
	if (fd >= 0 && fstatat(fd, "", &st, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) == 0 &&
	    S_ISDIR(st.st_mode))
		s->done = 1;
	for (;;)
		usleep(1000);
	return NULL;
}

static int do_open2(void *arg)
{
	const struct open_how how = {.flags = O_PATH | O_CLOEXEC};

	return (int)syscall(SYS_openat2, AT_FDCWD, "/", &how, sizeof(how));
}

static void *do_open2_thread(void *arg)
{
	do_open2(NULL);
	return NULL;
}

/* 0: the server's thread went on. Then SIGSYS for this thread, or one that it makes. */
static int files_child(bool in_thread)
{
	const struct sandbox_config cfg = {.files = true};
	struct server s = {0};
	pthread_t th;

	alarm(20);
	close(STDERR_FILENO);
	if (pthread_create(&th, NULL, serve_files, &s))
		return 101;
	sandbox_prepare();
	if (sandbox_enter(&cfg) < 0)
		return 100;
	s.go = 1;
	for (int i = 0; i < 5000 && !s.done; i++)
		usleep(1000);
	if (!s.done)
		return 102;
	if (!in_thread)
		return do_open2(NULL) >= 0 ? 103 : 104;
	if (pthread_create(&th, NULL, do_open2_thread, NULL))
		return 105;
	pthread_join(th, NULL);
	return 106;
}

static void files_for_their_threads_only(void **state)
{
	for (int in_thread = 0; in_thread < 2; in_thread++) {
		int status;
		pid_t pid = fork();

		if (pid == 0)
			_exit(files_child(in_thread));
		assert_int_equal(waitpid(pid, &status, 0), pid);
		if (NO_SANDBOX)
			continue;
		if (WIFEXITED(status))
			fail_msg("exit code %d", WEXITSTATUS(status));
		assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS);
	}
}

static int read_status(void *arg)
{
	static char text[8192];
	ssize_t n = pread(*(int *)arg, text, sizeof(text) - 1, 0);

	MUST(n > 0);
	MUST(strstr(text, "NoNewPrivs:\t1"));
	MUST(strstr(text, "CapEff:\t0000000000000000"));
	MUST(strstr(text, "CapPrm:\t0000000000000000"));
	return 0;
}

/* /proc must be opened by the child itself, before it is locked in. */
static void privileges_are_gone(void **state)
{
	int status, fd;
	pid_t pid = fork();

	if (pid == 0) {
		fd = open("/proc/self/status", O_RDONLY);
		if (sandbox_enter(&plain) < 0)
			_exit(100);
		_exit(read_status(&fd));
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(life_goes_on),
		cmocka_unit_test(the_rest_is_refused),
		cmocka_unit_test(internet),
		cmocka_unit_test(older_threads),
		cmocka_unit_test(files_for_their_threads_only),
		cmocka_unit_test(privileges_are_gone),
	};

	if (NO_SANDBOX) {
		printf("skip: a sanitizer's run-time needs what the sandbox refuses\n");
		return 77;
	}
	return cmocka_run_group_tests_name("sandbox", tests, NULL, NULL);
}
