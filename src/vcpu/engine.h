/* SPDX-License-Identifier: MIT */
/* An engine is a way to run a virtual CPU. The machine, the devices and the guest are the
 * same for all. */
#pragma once

#include "vcpu/vcpu.h"

struct engine_ops {
	const char *name;
	const char *summary; /* one line, for help */
	/* Can it run a guest here? 0, or -errno with one line in `why`. */
	int (*probe)(char *why, size_t size);
	int (*vm_create)(struct vm *vm); /* before any vCPU */
	void (*vm_destroy)(struct vm *vm);
	int (*vcpu_create)(struct vcpu *v); /* arch_state exists, before the thread does */
	void (*vcpu_destroy)(struct vcpu *v);
	/* Run guest code on the vCPU's own thread until a stop. state is VCPU_RUNNING. */
	enum vcpu_stop (*run)(struct vcpu *v);
	/* Make run() look at v->req soon, from another thread; NULL: it polls. */
	void (*kick)(struct vcpu *v);
	/* Breakpoints, watchpoints or guest memory as code changed while parked; may be NULL. */
	void (*debug_changed)(struct vcpu *v);
	/* Its own figures, for people, behind the table of exits; may be NULL. vCPUs are parked or
	 * gone. */
	void (*print_stats)(struct vm *vm, FILE *out);
};
