// SPDX-License-Identifier: MIT
/* Host exceptions in generated stubs, turned into the stub's return value.
 *
 * Signals are the process's, so this file holds the one piece of process-wide state: the handlers
 * that were there before, to which everything that isn't ours goes on. Which vCPU a fault
 * belongs to is found without a global: its thread's alternate signal stack begins with a
 * `struct sigstack_head`, and the kernel tells the handler where that stack is.
 *
 * The kernel saves and restores the vector state around the handler, and every flag. */
#include "engine/interp/native_gen.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <ucontext.h>

#include "base/log.h"

#define SIGSTACK_SIZE  (64 * KiB)
#define SIGSTACK_MAGIC 0x72676e697272746bull

struct sigstack_head {
	u64 magic;
	struct sigstack_head *self;
	struct native *nat;
	stack_t old;
};

static const int signals[] = {SIGFPE, SIGSEGV, SIGBUS, SIGILL};

static struct {
	pthread_mutex_t lock;
	struct sigaction old[ARRAY_SIZE(signals)];
} previous = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* Which exception of the guest is this exception of the host? -1: none. */
static int guest_vector(greg_t trapno)
{
	switch (trapno) {
	case X86_DE:
	case X86_UD:
	case X86_GP:
	case X86_MF:
	case X86_AC:
	case X86_XM:
		return (int)trapno;
	case X86_SS: /* a host matter: no operand goes through the stack segment */
		return X86_GP;
	default:
		return -1;
	}
}

static const struct native_insn *insn_at(const struct native *nat, u32 off)
{
	u32 lo = 0, hi = nat->nr_insns;

	/* Insns without a stub share the next one's address and come first: take the last. */
	while (hi - lo > 1) {
		u32 mid = lo + (hi - lo) / 2;

		if ((uintptr_t)nat->insns[mid].fn - (uintptr_t)nat->rx <= off)
			lo = mid;
		else
			hi = mid;
	}
	return hi ? &nat->insns[lo] : NULL;
}

static bool ours(ucontext_t *uc)
{
	const struct sigstack_head *h = uc->uc_stack.ss_sp;
	greg_t *regs = uc->uc_mcontext.gregs;
	int vector = guest_vector(regs[REG_TRAPNO]);
	const struct native_insn *n;
	u64 off;

	if (vector < 0 || !h || (uc->uc_stack.ss_flags & SS_DISABLE) ||
	    uc->uc_stack.ss_size != SIGSTACK_SIZE || h->magic != SIGSTACK_MAGIC || h->self != h)
		return false;
	off = (u64)regs[REG_RIP] - (uintptr_t)h->nat->rx;
	if (off >= h->nat->used)
		return false;
	n = insn_at(h->nat, (u32)off);
	if (!n || (uintptr_t)n->fn + n->at_insn != (uintptr_t)regs[REG_RIP])
		return false;
	regs[REG_RAX] = NATIVE_RAISED | vector;
	regs[REG_RIP] = (greg_t)((uintptr_t)n->fn + n->at_tail);
	return true;
}

static void handler(int sig, siginfo_t *info, void *ctx)
{
	if (ours(ctx))
		return;
	for (size_t i = 0; i < ARRAY_SIZE(signals); i++) {
		const struct sigaction *old = &previous.old[i];

		if (signals[i] != sig)
			continue;
		if (old->sa_flags & SA_SIGINFO) {
			old->sa_sigaction(sig, info, ctx);
		} else if (old->sa_handler == SIG_DFL || old->sa_handler == SIG_IGN) {
			/* A fault happens again on return, and kills with a core; a signal that was
			 * sent does not. */
			signal(sig, SIG_DFL);
			if (info->si_code <= 0)
				raise(sig);
		} else {
			old->sa_handler(sig);
		}
	}
}

static int signals_install(void)
{
	int err = 0;

	pthread_mutex_lock(&previous.lock);
	for (size_t i = 0; i < ARRAY_SIZE(signals) && !err; i++) {
		struct sigaction sa = {.sa_sigaction = handler,
		                       .sa_flags = SA_SIGINFO | SA_ONSTACK};
		struct sigaction cur;

		sigemptyset(&sa.sa_mask);
		if (sigaction(signals[i], NULL, &cur)) {
			err = -errno;
		} else if (!(cur.sa_flags & SA_SIGINFO) || cur.sa_sigaction != handler) {
			/* The old one first: a fault of another thread may come at any time. */
			previous.old[i] = cur;
			if (sigaction(signals[i], &sa, NULL))
				err = -errno;
		}
	}
	pthread_mutex_unlock(&previous.lock);
	return err;
}

/* Only when a vCPU starts do the handlers go in: on top of those that treat such a signal as a
 * crash (io/tty.h), so that a guest's exceptions never get there. */
int native_thread_init(struct native *nat)
{
	struct sigstack_head *h = mmap(NULL, SIGSTACK_SIZE, PROT_READ | PROT_WRITE,
	                               MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	stack_t ss = {.ss_sp = h, .ss_size = SIGSTACK_SIZE};
	int err;

	if (h == MAP_FAILED)
		return -errno;
	err = signals_install();
	if (err) {
		munmap(h, SIGSTACK_SIZE);
		return err;
	}
	*h = (struct sigstack_head){.magic = SIGSTACK_MAGIC, .self = h, .nat = nat};
	if (sigaltstack(&ss, &h->old)) {
		err = -errno;
		munmap(h, SIGSTACK_SIZE);
		return err;
	}
	return 0;
}

void native_thread_exit(struct native *nat)
{
	struct sigstack_head *h;
	stack_t cur;

	if (sigaltstack(NULL, &cur) || (cur.ss_flags & SS_DISABLE) || cur.ss_size != SIGSTACK_SIZE)
		return;
	h = cur.ss_sp;
	if (h->magic != SIGSTACK_MAGIC || h->self != h || h->nat != nat)
		return;
	sigaltstack(&h->old, NULL);
	munmap(h, SIGSTACK_SIZE);
}
