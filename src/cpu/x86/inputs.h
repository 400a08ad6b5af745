/* SPDX-License-Identifier: MIT */
/* What a processor learns from outside of its own registers and RAM: time, devices, the local APIC,
 * random numbers, events, RAM that the monitor writes. All of it passes through here, so that a
 * second processor can be given the same (control/lockstep.h); without one c->inputs is NULL, and
 * each place costs a test at most.
 *
 * The first processor does what it always does and reports it: made(). The other one, the shadow,
 * does nothing of that kind itself: take() gives it what the first one got, and notes a difference
 * when it asks for something else. */
#pragma once

#include "cpu/x86/x86.h"

enum x86_input_kind {
	X86_IN_TSC,
	X86_IN_PIO_READ, /* addr: the port */
	X86_IN_PIO_WRITE,
	X86_IN_MMIO_READ,
	X86_IN_MMIO_WRITE,
	X86_IN_MSR_READ, /* of the APIC; ok: false is #GP(0) */
	X86_IN_MSR_WRITE,
	X86_IN_CR8_READ,
	X86_IN_CR8_WRITE,
	X86_IN_APIC_PAGE,
	X86_IN_IPIS,   /* KVM's hypercall: addr: ICR; val: the result */
	X86_IN_RAM,    /* the monitor wrote to guest RAM for this instruction; addr */
	X86_IN_RANDOM, /* addr: offset of the register in gpr[]; val: all of it; ok: CF */
	X86_IN_XINUSE,
	NR_X86_IN
};

struct x86_input {
	enum x86_input_kind kind;
	u32 size;
	u64 addr;
	u64 val; /* of a write: what is written, else the result */
	bool ok;
};

struct x86_inputs {
	bool shadow;
	const struct x86_inputs_ops *ops;
	void *arg;
};

/* All called on the vCPU's thread, vector state put away (x86_fpu_put). */
struct x86_inputs_ops {
	void (*take)(void *arg, struct x86_input *in);
	void (*made)(void *arg, const struct x86_input *in);
	/* An engine at an instruction boundary, about to look for requests, and to deliver them.
	 * `progress` differs from the last call's if instructions have been executed since. */
	void (*boundary)(void *arg, u64 progress);
	/* x86_deliver() of this is next; c->rip is what it wants it to be. After an exception the
	 * next thing is boundary(). */
	void (*event)(void *arg, const struct x86_event *ev);
	void (*init)(void *arg); /* INIT was received */
	/* The shadow may store to this page of RAM from now on, by way of the TLB. */
	void (*writable)(void *arg, u64 page);
	/* A and D were set in a paging structure on this page of RAM. */
	void (*table)(void *arg, u64 page);
};

/* True: this is the shadow, in->val and in->ok are filled, and nothing else is to be done. */
bool x86_input_take_slow(struct x86_cpu *c, struct x86_input *in);
void x86_input_made_slow(struct x86_cpu *c, const struct x86_input *in);
u64 x86_input_value_slow(struct x86_cpu *c, enum x86_input_kind kind, u64 val);

static inline bool x86_input_take(struct x86_cpu *c, struct x86_input *in)
{
	return unlikely(c->inputs) && x86_input_take_slow(c, in);
}

static inline void x86_input_made(struct x86_cpu *c, const struct x86_input *in)
{
	if (unlikely(c->inputs))
		x86_input_made_slow(c, in);
}

/* A value without arguments: `val`, or what the first processor had. */
static inline u64 x86_input_value(struct x86_cpu *c, enum x86_input_kind kind, u64 val)
{
	return likely(!c->inputs) ? val : x86_input_value_slow(c, kind, val);
}

/* For engines. */
void x86_inputs_boundary(struct x86_cpu *c, u64 progress);
void x86_inputs_event(struct x86_cpu *c, const struct x86_event *ev);
