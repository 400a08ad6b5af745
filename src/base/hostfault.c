// SPDX-License-Identifier: MIT
/* The kernel saves and restores the vector state around a signal handler, and every flag, so a
 * handler may be ordinary code whatever it interrupts. */
#include "base/hostfault.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>

#define SIGSTACK_SIZE  (64 * KiB)
#define SIGSTACK_MAGIC 0x72676e697272746bull
#define MAX_FNS        4

struct sigstack_head {
	u64 magic;
	struct sigstack_head *self;
	struct {
		hostfault_fn *fn;
		void *arg;
	} h[MAX_FNS];
	stack_t old;
};

static const int signals[] = {SIGFPE, SIGSEGV, SIGBUS, SIGILL};

static struct {
	pthread_mutex_t lock;
	struct sigaction old[ARRAY_SIZE(signals)];
} previous = {.lock = PTHREAD_MUTEX_INITIALIZER};

static struct sigstack_head *head_of(const stack_t *ss)
{
	struct sigstack_head *h = ss->ss_sp;

	if (!h || (ss->ss_flags & SS_DISABLE) || ss->ss_size != SIGSTACK_SIZE ||
	    h->magic != SIGSTACK_MAGIC || h->self != h)
		return NULL;
	return h;
}

static bool claimed(const siginfo_t *info, ucontext_t *uc)
{
	const struct sigstack_head *h = head_of(&uc->uc_stack);

	for (unsigned i = 0; h && i < MAX_FNS; i++)
		if (h->h[i].fn && h->h[i].fn(h->h[i].arg, info, uc))
			return true;
	return false;
}

static void handler(int sig, siginfo_t *info, void *ctx)
{
	if (claimed(info, ctx))
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

static int head_make(struct sigstack_head **out)
{
	struct sigstack_head *h = mmap(NULL, SIGSTACK_SIZE, PROT_READ | PROT_WRITE,
	                               MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	stack_t ss = {.ss_sp = h, .ss_size = SIGSTACK_SIZE};
	int err;

	if (h == MAP_FAILED)
		return -errno;
	*h = (struct sigstack_head){.magic = SIGSTACK_MAGIC, .self = h};
	if (sigaltstack(&ss, &h->old)) {
		err = -errno;
		munmap(h, SIGSTACK_SIZE);
		return err;
	}
	*out = h;
	return 0;
}

int hostfault_set(hostfault_fn *fn, void *arg)
{
	struct sigstack_head *h;
	stack_t cur;
	int err, free_slot = -1;

	if (sigaltstack(NULL, &cur))
		return -errno;
	h = head_of(&cur);
	for (unsigned i = 0; h && i < MAX_FNS; i++)
		if (h->h[i].fn == fn && h->h[i].arg == arg)
			return 0;
	/* Others may have put theirs in front since the thread's first one. */
	err = signals_install();
	if (!err && !h)
		err = head_make(&h);
	if (err)
		return err;
	for (int i = MAX_FNS - 1; i >= 0; i--) {
		if (h->h[i].fn == fn) {
			h->h[i].arg = arg;
			return 0;
		}
		if (!h->h[i].fn)
			free_slot = i;
	}
	if (free_slot < 0)
		return -ENOSPC;
	h->h[free_slot].arg = arg;
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	h->h[free_slot].fn = fn;
	return 0;
}

void hostfault_clear(hostfault_fn *fn, void *arg)
{
	struct sigstack_head *h;
	bool used = false;
	stack_t cur;

	if (sigaltstack(NULL, &cur))
		return;
	h = head_of(&cur);
	if (!h)
		return;
	for (unsigned i = 0; i < MAX_FNS; i++) {
		if (h->h[i].fn == fn && h->h[i].arg == arg)
			h->h[i].fn = NULL;
		used |= h->h[i].fn != NULL;
	}
	if (used)
		return;
	sigaltstack(&h->old, NULL);
	munmap(h, SIGSTACK_SIZE);
}
