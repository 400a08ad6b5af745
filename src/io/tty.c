// SPDX-License-Identifier: MIT
/* Restoring uses only what POSIX lists as async-signal-safe: tcsetattr, sigaction, raise. The
 * order in tty_raw() matters: the mode is saved before the handlers can see `active`, and the
 * handlers are there before the mode changes. */
#include "io/tty.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

#include "base/log.h"

static const int tty_signals[] = {
	SIGTERM, SIGINT,  SIGHUP, SIGQUIT, SIGXCPU, SIGALRM, /* asked to end */
	SIGSEGV, SIGBUS,  SIGILL, SIGFPE,  SIGABRT, SIGSYS,  /* crashed */
	SIGTSTP, SIGCONT,                                    /* job control */
};
#define NR_SIGNALS ARRAY_SIZE(tty_signals)

static struct {
	int fd;
	volatile sig_atomic_t active;  /* handlers are in place, `saved` is valid */
	volatile sig_atomic_t stopped; /* for now the terminal is not in our mode, nor ours */
	bool exit_hook;
	struct termios saved, raw;
	struct sigaction before[NR_SIGNALS];
	bool replaced[NR_SIGNALS];
} tty;

/* TCSANOW: a terminal whose other side does not read would keep TCSADRAIN waiting for ever. */
static void mode_set(const struct termios *t)
{
	while (tcsetattr(tty.fd, TCSANOW, t) < 0 && errno == EINTR)
		;
}

static size_t signal_slot(int sig)
{
	size_t i = 0;

	while (i < NR_SIGNALS - 1 && tty_signals[i] != sig)
		i++;
	return i;
}

static void on_signal(int sig, siginfo_t *info, void *uc);

static void handler_install(size_t i)
{
	struct sigaction sa = {.sa_sigaction = on_signal,
	                       .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART};

	sigfillset(&sa.sa_mask);
	sigaction(tty_signals[i], &sa, NULL);
}

static bool in_foreground(void)
{
	return tcgetpgrp(tty.fd) == getpgrp();
}

/* Default action for SIGTSTP: the process stops inside raise() once the signal is unblocked. */
static void stop_self(size_t slot)
{
	struct sigaction dfl = {.sa_handler = SIG_DFL};
	sigset_t set;

	sigaction(SIGTSTP, &dfl, NULL);
	sigemptyset(&set);
	sigaddset(&set, SIGTSTP);
	raise(SIGTSTP);
	sigprocmask(SIG_UNBLOCK, &set, NULL);
	/* running again */
	sigprocmask(SIG_BLOCK, &set, NULL);
	handler_install(slot);
}

static void on_signal(int sig, siginfo_t *info, void *uc)
{
	int err = errno;
	size_t i = signal_slot(sig);
	struct sigaction *before = &tty.before[i];

	if (sig == SIGCONT) {
		/* After SIGSTOP the shell has put its own mode: raw again, once in the foreground.
		 */
		if (tty.active && in_foreground()) {
			mode_set(&tty.raw);
			log_set_raw(true);
			tty.stopped = false;
		}
		errno = err;
		return;
	}
	if (tty.active && !tty.stopped) {
		mode_set(&tty.saved);
		log_set_raw(false);
	}
	if (sig == SIGTSTP) {
		tty.stopped = true;
		stop_self(i);
		errno = err;
		return;
	}
	tty.stopped = true;
	if (before->sa_flags & SA_SIGINFO) {
		before->sa_sigaction(sig, info, uc);
	} else if (before->sa_handler != SIG_DFL && before->sa_handler != SIG_IGN) {
		before->sa_handler(sig);
	} else {
		struct sigaction dfl = {.sa_handler = SIG_DFL};

		/* Blocked until we return; then the default action, with the registers of the
		 * faulting instruction in the core file. */
		sigaction(sig, &dfl, NULL);
		raise(sig);
	}
	errno = err;
}

int tty_raw(int fd)
{
	struct termios t;

	if (tty.active && fd != tty.fd)
		return -EBUSY;
	if (tty.active) {
		tty.stopped = false;
		mode_set(&tty.raw);
		log_set_raw(true);
		return 0;
	}
	if (tcgetattr(fd, &t) < 0)
		return -errno;
	tty.fd = fd;
	tty.saved = t;
	cfmakeraw(&t);
	t.c_cc[VMIN] = 1;
	t.c_cc[VTIME] = 0;
	tty.raw = t;
	if (!tty.exit_hook) {
		if (atexit(tty_restore))
			return -ENOMEM;
		tty.exit_hook = true;
	}
	for (size_t i = 0; i < NR_SIGNALS; i++) {
		sigaction(tty_signals[i], NULL, &tty.before[i]);
		tty.replaced[i] = (tty.before[i].sa_flags & SA_SIGINFO) ||
		                  tty.before[i].sa_handler != SIG_IGN;
		if (tty.replaced[i])
			handler_install(i);
	}
	tty.stopped = false;
	tty.active = true;
	mode_set(&tty.raw);
	log_set_raw(true);
	return 0;
}

void tty_restore(void)
{
	if (!tty.active)
		return;
	if (!tty.stopped) {
		mode_set(&tty.saved);
		log_set_raw(false);
	}
	tty.active = false;
	for (size_t i = 0; i < NR_SIGNALS; i++) {
		struct sigaction now;

		/* Whoever put a handler on top of ours keeps it. */
		if (tty.replaced[i] && !sigaction(tty_signals[i], NULL, &now) &&
		    (now.sa_flags & SA_SIGINFO) && now.sa_sigaction == on_signal)
			sigaction(tty_signals[i], &tty.before[i], NULL);
	}
}
