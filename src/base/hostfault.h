/* SPDX-License-Identifier: MIT */
/* Host exceptions (SIGFPE, SIGSEGV, SIGBUS, SIGILL) that stand for a guest's: whoever runs guest
 * code natively puts a handler in for his thread.
 *
 * Signals are the process's, so hostfault.c holds the one piece of process-wide state: the handlers
 * that were there before, to which everything that nobody claims goes on. The handlers of a thread
 * are found without a global: its alternate signal stack begins with the list of them, and the
 * kernel says where that stack is. */
#pragma once

#include <signal.h>
#include <ucontext.h>

#include "base/types.h"

/* Claims the exception by changing *uc (true), or leaves it to the others. Runs on the alternate
 * stack, all process signals of the vCPU thread blocked; async-signal-safe calls only. */
typedef bool hostfault_fn(void *arg, const siginfo_t *info, ucontext_t *uc);

/* Add `fn` for the calling thread; again with another `arg`: it replaces the first. Makes the
 * thread's signal stack and installs the process's handlers when they are not there yet: on top of
 * those that treat such a signal as a crash, so they should be there before. 0 or -errno. */
int hostfault_set(hostfault_fn *fn, void *arg);
/* Take it out again, if its argument is `arg`; the last one gives the old signal stack back. */
void hostfault_clear(hostfault_fn *fn, void *arg);
