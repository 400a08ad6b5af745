// SPDX-License-Identifier: MIT
/* The terminal's mode on every way out, on a pseudo-terminal. A child takes the terminal, says so
 * on a pipe and ends in some way; the parent looks at the mode of the pty's other side. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "base/log.h"
#include "io/tty.h"

struct pty {
	int master, slave;
	struct termios cooked;
};

static int setup(void **state)
{
	struct pty *p = calloc(1, sizeof(*p));

	assert_non_null(p);
	*state = p;
	p->master = posix_openpt(O_RDWR | O_NOCTTY);
	assert_true(p->master >= 0);
	assert_int_equal(grantpt(p->master) | unlockpt(p->master), 0);
	p->slave = open(ptsname(p->master), O_RDWR | O_NOCTTY);
	assert_true(p->slave >= 0);
	return tcgetattr(p->slave, &p->cooked);
}

static int teardown(void **state)
{
	struct pty *p = *state;

	close(p->master);
	close(p->slave);
	free(p);
	return 0;
}

static bool is_raw(struct pty *p)
{
	struct termios t;

	assert_int_equal(tcgetattr(p->slave, &t), 0);
	return !(t.c_lflag & (ICANON | ECHO | ISIG)) && !(t.c_oflag & OPOST) &&
	       !(t.c_iflag & (ICRNL | IXON));
}

static bool is_cooked(struct pty *p)
{
	struct termios t;

	assert_int_equal(tcgetattr(p->slave, &t), 0);
	return t.c_lflag == p->cooked.c_lflag && t.c_oflag == p->cooked.c_oflag &&
	       t.c_iflag == p->cooked.c_iflag;
}

static void quiet(void)
{
	int null = open("/dev/null", O_WRONLY);

	dup2(null, 2);
}

/* cmocka and the sanitizers have their own. */
static void no_crash_handlers(void)
{
	static const int sigs[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGSYS};

	for (unsigned i = 0; i < ARRAY_SIZE(sigs); i++)
		signal(sigs[i], SIG_DFL);
}

/* In the child: raw, say so, wait for the parent to have looked. */
static void child_raw(struct pty *p, int to_parent, int from_parent)
{
	char c = tty_raw(p->slave) == 0 ? 'r' : 'x';

	if (write(to_parent, &c, 1) != 1 || read(from_parent, &c, 1) != 1)
		_exit(99);
}

/* Runs `way_out` in a child that has the terminal raw; returns its wait status. `sig`: the parent
 * sends it. */
static int run_child(struct pty *p, void (*way_out)(struct pty *p), int sig)
{
	int up[2], down[2], status;
	char c = 0;
	pid_t pid;

	assert_int_equal(pipe(up) | pipe(down), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (!pid) {
		quiet();
		no_crash_handlers();
		child_raw(p, up[1], down[0]);
		if (way_out)
			way_out(p);
		for (;;)
			pause();
	}
	assert_int_equal(read(up[0], &c, 1), 1);
	assert_int_equal(c, 'r');
	assert_true(is_raw(p));
	assert_int_equal(write(down[1], "g", 1), 1);
	if (sig)
		assert_int_equal(kill(pid, sig), 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	close(up[0]);
	close(up[1]);
	close(down[0]);
	close(down[1]);
	return status;
}

static void by_exit(struct pty *p)
{
	exit(7);
}
static void by_restore(struct pty *p)
{
	struct sigaction sa;

	tty_restore();
	tty_restore();
	sigaction(SIGTERM, NULL, &sa);
	_exit(sa.sa_handler == SIG_DFL ? 3 : 4);
}
static void by_abort(struct pty *p)
{
	abort();
}
static void by_bug(struct pty *p)
{
	bug("on purpose");
}
static void by_null(struct pty *p)
{
	volatile uintptr_t nowhere = 16;

	*(volatile int *)nowhere = 1;
}
static void by_trap(struct pty *p)
{
	__asm__ volatile("ud2");
}

static void test_exit(void **state)
{
	int s = run_child(*state, by_exit, 0);

	assert_true(WIFEXITED(s));
	assert_int_equal(WEXITSTATUS(s), 7);
	assert_true(is_cooked(*state));
}

static void test_restore(void **state)
{
	int s = run_child(*state, by_restore, 0);

	assert_int_equal(WEXITSTATUS(s), 3);
	assert_true(is_cooked(*state));
}

static void test_signals(void **state)
{
	static const int sigs[] = {SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGSEGV,
	                           SIGBUS,  SIGILL, SIGFPE, SIGABRT, SIGSYS};

	for (unsigned i = 0; i < ARRAY_SIZE(sigs); i++) {
		int s = run_child(*state, NULL, sigs[i]);

		assert_true(WIFSIGNALED(s));
		assert_int_equal(WTERMSIG(s), sigs[i]);
		assert_true(is_cooked(*state));
	}
}

static void test_crashes(void **state)
{
	static const struct {
		void (*way)(struct pty *p);
		int sig;
	} crash[] = {{by_abort, SIGABRT}, {by_bug, SIGABRT}, {by_null, SIGSEGV}, {by_trap, SIGILL}};

	for (unsigned i = 0; i < ARRAY_SIZE(crash); i++) {
		int s = run_child(*state, crash[i].way, 0);

		assert_true(WIFSIGNALED(s));
		assert_int_equal(WTERMSIG(s), crash[i].sig);
		assert_true(is_cooked(*state));
	}
}

static void own_handler(int sig)
{
	_exit(42);
}

static void by_ignored(struct pty *p)
{
	raise(SIGHUP);
	raise(SIGTERM);
}

/* Handlers that were there before are called, signals that were ignored stay so. */
static void test_earlier_handlers(void **state)
{
	struct sigaction own = {.sa_handler = own_handler}, ign = {.sa_handler = SIG_IGN}, term,
			 hup;
	int s;

	sigaction(SIGTERM, &own, &term);
	sigaction(SIGHUP, &ign, &hup);
	s = run_child(*state, by_ignored, 0);
	sigaction(SIGTERM, &term, NULL);
	sigaction(SIGHUP, &hup, NULL);
	assert_true(WIFEXITED(s));
	assert_int_equal(WEXITSTATUS(s), 42);
	assert_true(is_cooked(*state));
}

static void by_later_handler(struct pty *p)
{
	struct sigaction own = {.sa_handler = own_handler}, now;

	sigaction(SIGUSR1, &own, NULL);
	sigaction(SIGINT, &own, NULL);
	tty_restore();
	sigaction(SIGINT, NULL, &now);
	_exit(now.sa_handler == own_handler ? 5 : 6);
}

static void test_later_handlers(void **state)
{
	int s = run_child(*state, by_later_handler, 0);

	assert_int_equal(WEXITSTATUS(s), 5);
	assert_true(is_cooked(*state));
}

static void test_not_a_terminal(void **state)
{
	int p[2];

	assert_int_equal(pipe(p), 0);
	assert_int_equal(tty_raw(p[0]), -ENOTTY);
	assert_int_equal(tty_raw(-1), -EBADF);
	tty_restore(); /* nothing to do */
	assert_true(is_cooked(*state));
	close(p[0]);
	close(p[1]);
}

static void by_twice(struct pty *p)
{
	int other = open("/dev/null", O_RDWR);

	if (tty_raw(other) != -EBUSY || tty_raw(p->slave) != 0)
		_exit(1);
	exit(0);
}

static void test_twice(void **state)
{
	assert_int_equal(run_child(*state, by_twice, 0), 0);
	assert_true(is_cooked(*state));
}

/* Stopped and continued by a shell that has the terminal. The shell is a process of its own, since
 * job control needs a session. Its exit code names the step that failed. */
static int shell(struct pty *p)
{
	int up[2], down[2], status;
	char c;
	pid_t pid;

	setsid();
	if (ioctl(p->slave, TIOCSCTTY, 0) || pipe(up) || pipe(down))
		return 10;
	signal(SIGTTOU, SIG_IGN);
	pid = fork();
	if (!pid) {
		setpgid(0, 0);
		tcsetpgrp(p->slave, getpid());
		signal(SIGTTOU, SIG_DFL);
		child_raw(p, up[1], down[0]);
		for (;;)
			pause();
	}
	if (read(up[0], &c, 1) != 1 || c != 'r' || !is_raw(p) || write(down[1], "g", 1) != 1)
		return 11;
	kill(pid, SIGTSTP);
	if (waitpid(pid, &status, WUNTRACED) != pid || !WIFSTOPPED(status))
		return 12;
	if (!is_cooked(p))
		return 13;
	/* in the background it leaves the terminal alone */
	tcsetpgrp(p->slave, getpgrp());
	kill(pid, SIGCONT);
	if (waitpid(pid, &status, WCONTINUED) != pid)
		return 14;
	usleep(50000);
	if (!is_cooked(p))
		return 15;
	/* fg */
	tcsetpgrp(p->slave, pid);
	kill(pid, SIGCONT);
	for (int i = 0; i < 200 && !is_raw(p); i++)
		usleep(10000);
	if (!is_raw(p))
		return 16;
	/* a second stop works like the first, and then it is ended while stopped */
	kill(pid, SIGTSTP);
	if (waitpid(pid, &status, WUNTRACED) != pid || !WIFSTOPPED(status) || !is_cooked(p))
		return 17;
	kill(pid, SIGTERM);
	kill(pid, SIGCONT);
	if (waitpid(pid, &status, 0) != pid || !WIFSIGNALED(status))
		return 18;
	return is_cooked(p) ? 0 : 19;
}

static void test_job_control(void **state)
{
	pid_t pid = fork();
	int status;

	assert_true(pid >= 0);
	if (!pid)
		_exit(shell(*state));
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_exit),
		T(test_restore),
		T(test_signals),
		T(test_crashes),
		T(test_earlier_handlers),
		T(test_later_handlers),
		T(test_not_a_terminal),
		T(test_twice),
		T(test_job_control),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
