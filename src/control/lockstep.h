/* SPDX-License-Identifier: MIT */
/* Lockstep: a second processor, the shadow, executes what the VM's only vCPU executed, one
 * instruction at a time by the reference interpreter, on RAM of its own and with the same inputs;
 * the two are compared at every boundary that the engine stops at. doc/lockstep.md has the whole
 * story. Everything runs on the vCPU's thread, but for create and destroy. */
#pragma once

#include "vcpu/vm.h"

struct lockstep;

struct lockstep_config {
	u64 insns;    /* end the VM with success after so many; 0: go on */
	bool exact;   /* compare memory at every boundary */
	u64 break_at; /* self test: flip a bit of the vCPU's RBX before so many boundaries; 0: not
	               */
	bool quiet;   /* no summary at the end */
};

/* The machine is complete, its guest has not begun. 0 or -errno (logged). */
int lockstep_create(struct lockstep **out, struct vm *vm, const struct lockstep_config *cfg);
/* After vm_run(), before the machine goes: says how far it came without a difference. */
void lockstep_destroy(struct lockstep *ls);
/* Was there a difference? */
bool lockstep_failed(const struct lockstep *ls);
