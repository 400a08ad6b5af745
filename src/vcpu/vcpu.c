// SPDX-License-Identifier: MIT
/* The thread of a vCPU: serve requests, wait while there is nothing to run, else run the engine.
 * Everything that stops, starts or parks a vCPU is a request bit, so there
 * is one place that reacts, and it is short. */
#include "vcpu/vcpu.h"

#include <errno.h>
#include <signal.h>
#include <string.h>

#include "vcpu/vm.h"

void vcpu_kick(struct vcpu *v, u32 bits)
{
	__atomic_fetch_or((u32 *)&v->req, bits, __ATOMIC_SEQ_CST);
	/* Pairs with vcpu_wait(): it sets `waiting` under the lock, then looks at req. */
	if (__atomic_load_n(&v->waiting, __ATOMIC_SEQ_CST)) {
		pthread_mutex_lock(&v->lock);
		pthread_cond_broadcast(&v->cond);
		pthread_mutex_unlock(&v->lock);
	}
	if (v->engine && v->engine->kick && __atomic_load_n(&v->in_guest, __ATOMIC_SEQ_CST))
		v->engine->kick(v);
}

void vcpu_unhalt(struct vcpu *v)
{
	__atomic_store_n((bool *)&v->unhalt, true, __ATOMIC_SEQ_CST);
	vcpu_kick(v, 0);
}

void vcpu_nmi(struct vcpu *v)
{
	u32 old = __atomic_load_n((u32 *)&v->req, __ATOMIC_RELAXED);

	while (!__atomic_compare_exchange_n(
		(u32 *)&v->req, &old, old | (old & VCPU_REQ_NMI ? VCPU_REQ_NMI2 : VCPU_REQ_NMI),
		true, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED))
		;
	vcpu_kick(v, 0);
}

#define REQ_ALWAYS (VCPU_REQ_PAUSE | VCPU_REQ_EXIT | VCPU_REQ_RESET | VCPU_REQ_INIT)

static bool has_work(struct vcpu *v)
{
	u32 req = __atomic_load_n((u32 *)&v->req, __ATOMIC_SEQ_CST);

	if (req & REQ_ALWAYS)
		return true;
	switch (v->state) {
	case VCPU_WAIT_SIPI:
		return req & VCPU_REQ_SIPI;
	case VCPU_HALTED:
		return v->single_step || v->unhalt || v->arch->wakes(v, req);
	case VCPU_SHUTDOWN:
		return false;
	case VCPU_RUNNING:
		break;
	}
	return true;
}

static void vcpu_wait(struct vcpu *v)
{
	pthread_mutex_lock(&v->lock);
	__atomic_store_n(&v->waiting, true, __ATOMIC_SEQ_CST);
	while (!has_work(v))
		pthread_cond_wait(&v->cond, &v->lock);
	__atomic_store_n(&v->waiting, false, __ATOMIC_SEQ_CST);
	pthread_mutex_unlock(&v->lock);
}

static void vcpu_park(struct vcpu *v)
{
	pthread_mutex_lock(&v->lock);
	v->parked = true;
	__atomic_store_n(&v->waiting, true, __ATOMIC_SEQ_CST);
	pthread_cond_broadcast(&v->cond);
	while ((v->req & VCPU_REQ_PAUSE) && !(v->req & VCPU_REQ_EXIT))
		pthread_cond_wait(&v->cond, &v->lock);
	__atomic_store_n(&v->waiting, false, __ATOMIC_SEQ_CST);
	v->parked = false;
	pthread_mutex_unlock(&v->lock);
}

static void debug_stop_posted(void *arg)
{
	struct vm *vm = arg;

	if (vm->debug_stop)
		vm->debug_stop(vm, vm->debug_arg);
}

static void vcpu_run_engine(struct vcpu *v)
{
	enum vcpu_stop stop;

	__atomic_store_n(&v->in_guest, true, __ATOMIC_SEQ_CST);
	stop = v->engine->run(v);
	__atomic_store_n(&v->in_guest, false, __ATOMIC_SEQ_CST);
	switch (stop) {
	case STOP_REQUEST:
		v->stats.count[EXIT_REQUEST]++;
		break;
	case STOP_HLT:
		v->state = VCPU_HALTED;
		break;
	case STOP_SHUTDOWN:
		v->state = VCPU_SHUTDOWN;
		vm_kill(v->vm, v, VM_EXIT_TRIPLE_FAULT, "triple fault on vCPU %u", v->index);
		break;
	case STOP_DEBUG:
		vcpu_kick(v, VCPU_REQ_PAUSE);
		loop_post(v->vm->loop, debug_stop_posted, v->vm);
		break;
	case STOP_ERROR:
		v->state = VCPU_SHUTDOWN;
		vm_end(v->vm, VM_EXIT_HOST, "the engine stopped vCPU %u", v->index);
		break;
	}
}

static void *vcpu_main(void *arg)
{
	struct vcpu *v = arg;
	char name[16];
	sigset_t all;

	snprintf(name, sizeof(name), "vcpu%u", v->index);
	pthread_setname_np(pthread_self(), name);
	/* Process signals are the main thread's; synchronous ones stay deliverable. */
	sigfillset(&all);
	sigdelset(&all, SIGSEGV);
	sigdelset(&all, SIGBUS);
	sigdelset(&all, SIGFPE);
	sigdelset(&all, SIGILL);
	sigdelset(&all, SIGTRAP);
	sigdelset(&all, SIGSYS);  /* a system call that the sandbox refuses */
	sigdelset(&all, SIGUSR1); /* an engine's kick */
	pthread_sigmask(SIG_SETMASK, &all, NULL);

	for (;;) {
		u32 req = __atomic_load_n((u32 *)&v->req, __ATOMIC_SEQ_CST);

		if (req & VCPU_REQ_EXIT)
			break;
		if (req & VCPU_REQ_PAUSE) {
			vcpu_park(v);
		} else if (req & VCPU_REQ_RESET) {
			vcpu_clear(v, VCPU_REQ_RESET);
			v->arch->reset(v);
			v->state = v->index ? VCPU_WAIT_SIPI : VCPU_RUNNING;
		} else if (req & VCPU_REQ_INIT) {
			/* A SIPI that is pending now came after the INIT (the sender of an INIT
			 * takes back an older one), so it stays. */
			vcpu_clear(v, VCPU_REQ_INIT);
			v->irqchip->init(v->irqchip_dev);
			v->arch->init(v);
			v->state = v->index ? VCPU_WAIT_SIPI : VCPU_RUNNING;
		} else if (req & VCPU_REQ_SIPI) {
			vcpu_clear(v, VCPU_REQ_SIPI);
			if (v->state == VCPU_WAIT_SIPI) {
				v->arch->sipi(v, v->sipi_vector);
				v->state = VCPU_RUNNING;
			}
		} else if (v->state == VCPU_RUNNING) {
			vcpu_run_engine(v);
		} else {
			if (v->state == VCPU_HALTED)
				v->arch->halt(v, true);
			vcpu_wait(v);
			if (v->state == VCPU_HALTED)
				v->arch->halt(v, false);
			if (v->state == VCPU_HALTED &&
			    (v->single_step || v->unhalt || v->arch->wakes(v, v->req))) {
				v->unhalt = false;
				v->state = VCPU_RUNNING;
			}
		}
	}
	return NULL;
}

int vcpu_start(struct vcpu *v)
{
	int err = pthread_create(&v->thread, NULL, vcpu_main, v);

	if (err) {
		log_error("cannot create the thread of vCPU %u: %s; try a smaller -c", v->index,
		          strerror(err));
		return -err;
	}
	v->thread_started = true;
	return 0;
}

void vcpu_join(struct vcpu *v)
{
	if (!v->thread_started)
		return;
	vcpu_kick(v, VCPU_REQ_EXIT);
	pthread_join(v->thread, NULL);
	v->thread_started = false;
}
