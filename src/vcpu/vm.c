// SPDX-License-Identifier: MIT
/* How a VM runs, pauses, resets and ends. */
#include "vcpu/vm.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define PAUSE_TIMEOUT_S 10

int vm_init(struct vm *vm)
{
	int err;

	pthread_mutex_init(&vm->split_lock, NULL);
	pthread_mutex_init(&vm->lock, NULL);
	pthread_cond_init(&vm->cond, NULL);
	err = bus_create(&vm->bus, &vm->trace);
	if (err)
		return err;
	return loop_create(&vm->loop, &vm->bus->lock);
}

void vm_destroy(struct vm *vm)
{
	for (unsigned i = 0; i < vm->nr_vcpus; i++) {
		struct vcpu *v = vm->vcpu[i];

		if (v->engine_state)
			vm->engine->vcpu_destroy(v);
	}
	dev_destroy_all(&vm->devices);
	if (vm->engine && vm->engine->vm_destroy)
		vm->engine->vm_destroy(vm);
	for (unsigned i = 0; i < vm->nr_vcpus; i++) {
		struct vcpu *v = vm->vcpu[i];

		if (v->arch)
			v->arch->destroy(v);
		pthread_mutex_destroy(&v->lock);
		pthread_cond_destroy(&v->cond);
		free(v);
	}
	vm->nr_vcpus = 0;
	loop_destroy(vm->loop);
	bus_destroy(vm->bus);
	pmap_destroy(vm->pmap);
	vm->loop = NULL;
	vm->bus = NULL;
	vm->pmap = NULL;
	pthread_mutex_destroy(&vm->split_lock);
	pthread_mutex_destroy(&vm->lock);
	pthread_cond_destroy(&vm->cond);
}

struct vcpu *vm_add_vcpu(struct vm *vm)
{
	struct vcpu *v;

	if (vm->nr_vcpus == VM_MAX_VCPUS)
		return NULL;
	v = aligned_alloc(64, ALIGN_UP(sizeof(*v), (size_t)64));
	if (!v)
		return NULL;
	memset(v, 0, sizeof(*v));
	pthread_mutex_init(&v->lock, NULL);
	pthread_cond_init(&v->cond, NULL);
	v->vm = vm;
	v->engine = vm->engine;
	v->index = vm->nr_vcpus;
	v->state = v->index ? VCPU_WAIT_SIPI : VCPU_RUNNING;
	v->stats.timed = vm->timed_exits;
	vm->vcpu[vm->nr_vcpus++] = v;
	return v;
}

static void vm_vend(struct vm *vm, int exit_code, const char *fmt, va_list ap)
{
	pthread_mutex_lock(&vm->lock);
	if (!vm->ended) {
		vm->ended = true;
		vm->exit_code = exit_code;
		vsnprintf(vm->exit_why, sizeof(vm->exit_why), fmt, ap);
	}
	pthread_mutex_unlock(&vm->lock);
	loop_stop(vm->loop);
	/* The guest never runs again. */
	for (unsigned i = 0; i < vm->nr_vcpus; i++)
		vcpu_kick(vm->vcpu[i], VCPU_REQ_EXIT);
}

void vm_end(struct vm *vm, int exit_code, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vm_vend(vm, exit_code, fmt, ap);
	va_end(ap);
}

/* The state as one text, so that lines end as the terminal wants it. */
static void dump_log(struct vcpu *v)
{
	char *text = NULL;
	size_t size;
	FILE *out = open_memstream(&text, &size);

	if (!out) {
		log_error("out of memory for the registers of vCPU %u", v->index);
		return;
	}
	v->arch->dump(v, out);
	if (fclose(out) == 0)
		log_text(text);
	free(text);
}

void vm_kill(struct vm *vm, struct vcpu *v, int exit_code, const char *fmt, ...)
{
	bool first;
	va_list ap;

	pthread_mutex_lock(&vm->lock);
	first = !vm->ended;
	pthread_mutex_unlock(&vm->lock);
	va_start(ap, fmt);
	vm_vend(vm, exit_code, fmt, ap);
	va_end(ap);
	if (first && v && v->arch && v->arch->dump)
		dump_log(v);
}

/* ---- pause ---- */

static bool all_parked(struct vm *vm, struct timespec *deadline)
{
	for (unsigned i = 0; i < vm->nr_vcpus; i++) {
		struct vcpu *v = vm->vcpu[i];
		int err = 0;

		if (!v->thread_started)
			continue;
		pthread_mutex_lock(&v->lock);
		while (!v->parked && !(v->req & VCPU_REQ_EXIT) && !err)
			err = pthread_cond_timedwait(&v->cond, &v->lock, deadline);
		pthread_mutex_unlock(&v->lock);
		if (err) {
			log_error("vCPU %u did not stop within %d s", i, PAUSE_TIMEOUT_S);
			return false;
		}
	}
	return true;
}

int vm_pause(struct vm *vm)
{
	struct timespec deadline;
	bool ok;

	if (vm->pause_count++)
		return 0;
	for (unsigned i = 0; i < vm->nr_vcpus; i++)
		vcpu_kick(vm->vcpu[i], VCPU_REQ_PAUSE);
	bus_unlock(vm->bus);
	clock_gettime(CLOCK_REALTIME, &deadline);
	deadline.tv_sec += PAUSE_TIMEOUT_S;
	ok = all_parked(vm, &deadline);
	bus_lock(vm->bus);
	if (!ok) {
		vm_resume(vm);
		return -ETIMEDOUT;
	}
	loop_clock_stop(vm->loop);
	vm->pause_tsc = __builtin_ia32_rdtsc();
	return 0;
}

void vm_hold(struct vm *vm)
{
	if (vm->pause_count++)
		return;
	for (unsigned i = 0; i < vm->nr_vcpus; i++)
		vcpu_kick(vm->vcpu[i], VCPU_REQ_PAUSE);
	loop_clock_stop(vm->loop);
	vm->pause_tsc = __builtin_ia32_rdtsc();
}

void vm_resume(struct vm *vm)
{
	if (!vm->pause_count || --vm->pause_count)
		return;
	if (vm->pause_tsc) {
		s64 gone = (s64)(__builtin_ia32_rdtsc() - vm->pause_tsc);

		for (unsigned i = 0; i < vm->nr_vcpus; i++)
			vm->vcpu[i]->arch->tsc_shift(vm->vcpu[i], -gone);
		vm->pause_tsc = 0;
	}
	loop_clock_start(vm->loop);
	for (unsigned i = 0; i < vm->nr_vcpus; i++) {
		struct vcpu *v = vm->vcpu[i];

		if (vm->held >> i & 1)
			continue;
		v->debug.reason = DEBUG_NONE;
		vcpu_clear(v, VCPU_REQ_PAUSE);
		pthread_mutex_lock(&v->lock);
		pthread_cond_broadcast(&v->cond);
		pthread_mutex_unlock(&v->lock);
	}
}

bool vm_paused(const struct vm *vm)
{
	return vm->pause_count != 0;
}

/* ---- reset ---- */

static void reset_posted(void *arg)
{
	struct vm *vm = arg;

	if (vm_pause(vm) < 0) {
		vm_end(vm, VM_EXIT_HOST, "reset failed: a vCPU does not stop");
		return;
	}
	vm->reset_pending = false;
	dev_reset_all(vm->devices);
	if (vm->machine_reset && vm->machine_reset(vm) < 0)
		vm_end(vm, VM_EXIT_HOST, "reset failed: cannot load the guest again");
	/* What is pending goes here, not when each vCPU serves its reset: a vCPU that is faster may
	 * have sent a new INIT and SIPI by then. */
	for (unsigned i = 0; i < vm->nr_vcpus; i++) {
		vcpu_clear(vm->vcpu[i],
		           VCPU_REQ_INIT | VCPU_REQ_SIPI | VCPU_REQ_NMI | VCPU_REQ_NMI2);
		vcpu_kick(vm->vcpu[i], VCPU_REQ_RESET);
	}
	vm_resume(vm);
}

void vm_request_reset(struct vm *vm, const char *by)
{
	if (vm->no_reboot) {
		vm_end(vm, VM_EXIT_RESET, "the guest asked for a reset (%s)", by);
		return;
	}
	if (!__atomic_exchange_n((bool *)&vm->reset_pending, true, __ATOMIC_SEQ_CST)) {
		log_debug("reset by %s", by);
		if (loop_post(vm->loop, reset_posted, vm) < 0)
			vm_end(vm, VM_EXIT_HOST, "out of memory");
	}
}

int vm_run(struct vm *vm)
{
	int err = 0;

	/* The first vCPU, which alone runs at once, comes last: without all the others the guest
	 * does not start. */
	for (unsigned i = vm->nr_vcpus; i-- && !err;)
		err = vcpu_start(vm->vcpu[i]);
	if (err)
		vm_end(vm, VM_EXIT_HOST, "cannot start the vCPUs");
	loop_run(vm->loop);
	for (unsigned i = 0; i < vm->nr_vcpus; i++)
		vcpu_join(vm->vcpu[i]);
	return vm->exit_code;
}
