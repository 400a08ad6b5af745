/* SPDX-License-Identifier: MIT */
/* KVM's paravirtual clock, as msr.c calls it. On the vCPU's own thread. */
#pragma once

#include "cpu/x86/x86.h"

/* Writes of MSR_KVM_SYSTEM_TIME and MSR_KVM_WALL_CLOCK, old or new number. False: #GP(0). */
bool x86_kvmpv_set_system_time(struct x86_cpu *c, u64 val);
bool x86_kvmpv_set_wall_clock(struct x86_cpu *c, u64 val);

/* steal.c: a write of MSR_KVM_STEAL_TIME; false: #GP(0). */
bool x86_steal_set(struct x86_cpu *c, u64 val);
/* The vCPU halts, or goes on. On its thread, outside of the engine. */
void x86_steal_halt(struct vcpu *v, bool halted);
/* Now and then while the vCPU runs; vector state is put away. */
void x86_steal_update(struct x86_cpu *c);

/* The guest has set its TSC: the clock's page must say so. */
void x86_kvmpv_tsc_changed(struct x86_cpu *c);
