/* SPDX-License-Identifier: MIT */
/* The user's terminal in raw mode, and out of it again on every way the process can end: exit(),
 * SIGTERM, SIGINT, SIGHUP, SIGQUIT, a crash (SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT); and while
 * it is stopped by SIGTSTP. Only SIGKILL and SIGSTOP leave it as it is.
 *
 * A process has one controlling terminal, and a signal handler has no argument: so this state
 * belongs to the process. Signals that were ignored stay ignored (nohup); a handler
 * installed before tty_raw() is called after the terminal is restored; one that is installed later
 * (an engine's SIGSEGV handler) must call the handler it replaced for faults that are not its own.
 * Threads that want the crash handler to work on a stack overflow need a sigaltstack of their own.
 *
 * tty_raw() and tty_restore() may be called repeatedly, on one thread; tty_restore() is
 * async-signal-safe. */
#pragma once

#include "base/types.h"

/* Save fd's mode, set it raw. fd stays the caller's and must stay open till tty_restore(). 0, or
 * -errno with nothing changed (-ENOTTY: not a terminal, -EBUSY: another terminal is raw). */
int tty_raw(int fd);
/* Back to the saved mode and the signal handlers there were; nothing when the terminal is not raw.
 */
void tty_restore(void);
