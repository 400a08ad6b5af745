/* SPDX-License-Identifier: MIT */
/* A virtual CPU as everything but its engine sees it: a host thread, a word of requests, a run
 * state, counters. The architecture's registers hang off `arch_state`, the engine's private data
 * off `engine_state`, the local interrupt controller off `irqchip_dev`.
 *
 * Requests are bits of an atomic word that the engine looks at between blocks of guest code
 * (one load); vcpu_kick() sets bits and wakes a halted vCPU. VCPU_REQ_IRQ is the level of the
 * processor's INTR pin: only the interrupt controller sets and clears it. All others are set by
 * anyone and cleared by the vCPU's own thread when served.
 *
 * Lock order: machine lock (bus->lock), then a local APIC's own lock, then vcpu->lock. */
#pragma once

#include <pthread.h>
#include <stdio.h>

#include "base/types.h"
#include "vcpu/exits.h"

struct vm;
struct vcpu;

enum vcpu_req {
	VCPU_REQ_IRQ = 1 << 0, /* INTR is asserted */
	VCPU_REQ_NMI = 1 << 1,
	VCPU_REQ_INIT = 1 << 2,
	VCPU_REQ_SIPI = 1 << 3,      /* vector in sipi_vector */
	VCPU_REQ_PAUSE = 1 << 4,     /* park until resumed */
	VCPU_REQ_EXIT = 1 << 5,      /* the thread ends */
	VCPU_REQ_TLB_FLUSH = 1 << 6, /* drop cached translations */
	VCPU_REQ_RESET = 1 << 7,     /* the machine is being reset: power-on state */
	VCPU_REQ_KICK = 1 << 8,      /* only come out once */
	VCPU_REQ_NMI2 = 1 << 9,      /* a second NMI behind VCPU_REQ_NMI: see vcpu_nmi() */
};

enum vcpu_state { VCPU_WAIT_SIPI, VCPU_RUNNING, VCPU_HALTED, VCPU_SHUTDOWN };

/* Why an engine's run() came back. */
enum vcpu_stop {
	STOP_REQUEST,  /* a request bit that the thread's loop serves (PAUSE, EXIT, INIT, SIPI,
	                  RESET, ...) */
	STOP_HLT,      /* halted until an interrupt */
	STOP_SHUTDOWN, /* triple fault */
	STOP_DEBUG,    /* a breakpoint, watchpoint or step of the debugger: debug_info says which */
	STOP_ERROR,    /* the engine can't go on: vm_kill() was called */
};

/* What stopped a vCPU for the debugger. */
enum debug_reason { DEBUG_NONE, DEBUG_STEP, DEBUG_BREAK, DEBUG_WATCH };
struct debug_info {
	enum debug_reason reason;
	gva_t addr; /* of the breakpoint or the watched datum */
};

/* The interrupt controller as its CPU sees it; all called on the vCPU's thread without locks held.
 */
struct irqchip_ops {
	/* INTA: the vector to deliver, moved to in-service; -1: nothing (spurious, already gone).
	 */
	int (*ack)(void *dev);
	/* CR8: the task priority's upper four bits, 0..15. */
	unsigned (*get_cr8)(void *dev);
	void (*set_cr8)(void *dev, unsigned cr8);
	/* IA32_APIC_BASE, IA32_TSC_DEADLINE, 0x800..0x8ff. true: handled; false: #GP(0). */
	bool (*rdmsr)(void *dev, u32 msr, u64 *val);
	bool (*wrmsr)(void *dev, u32 msr, u64 val);
	/* INIT to this CPU resets part of the controller (SDM 3A 11.4.7.3). */
	void (*init)(void *dev);
	/* A physical access of this CPU. True: it fell into the APIC's page (as IA32_APIC_BASE has
	 * it now: enabled, not in x2APIC mode) and was served; a read left its result in *val.
	 * False: not ours, go on to RAM and the bus. NULL: no such page. */
	bool (*mmio)(void *dev, gpa_t gpa, bool write, u64 *val, unsigned size);
	/* Base of the page that mmio() serves, ~0 if none. It hides RAM and devices there. A change
	 * (by wrmsr only) sets VCPU_REQ_TLB_FLUSH. */
	gpa_t (*mmio_base)(void *dev);
	/* IPIs to a set of APIC IDs, `min` + the number of each bit in the two words, with the
	 * vector and delivery mode of `icr` (KVM's hypercall). How many there were, or -1: icr
	 * cannot be. */
	int (*send_ipis)(void *dev, u64 low, u64 high, u32 min, u32 icr);
	/* The guest's TSC was written: a TSC deadline stands in it. */
	void (*tsc_changed)(void *dev);
};

/* What the generic thread loop needs from the architecture. */
struct arch_ops {
	void (*reset)(struct vcpu *v);           /* power-on state */
	void (*init)(struct vcpu *v);            /* INIT: like reset, but keeps some state */
	void (*sipi)(struct vcpu *v, u8 vector); /* start at vector << 12 in real mode */
	/* May an event in `req` end a HLT now? (interrupt flag, blocking) */
	bool (*wakes)(struct vcpu *v, u32 req);
	/* Its thread is about to wait for the end of a HLT (true), or has waited. */
	void (*halt)(struct vcpu *v, bool halted);
	void (*dump)(struct vcpu *v, FILE *out); /* registers, code bytes */
	/* Virtual time jumped: guest TSC = host TSC + offset must stay continuous. */
	void (*tsc_shift)(struct vcpu *v, s64 delta);
	void (*destroy)(struct vcpu *v); /* frees arch_state */
};

struct vcpu {
	_Atomic u32 req; /* first: engines poll it */
	struct vm *vm;
	unsigned index; /* also the APIC id */
	const struct engine_ops *engine;
	void *engine_state;
	const struct arch_ops *arch;
	void *arch_state;
	const struct irqchip_ops *irqchip;
	void *irqchip_dev;

	u8 sipi_vector;
	enum vcpu_state state;   /* own thread, or any while parked */
	struct debug_info debug; /* valid after STOP_DEBUG until resumed */
	_Atomic bool unhalt; /* another CPU asked: ends this HLT, or the next if there is none */
	bool single_step;    /* the debugger wants one instruction; set while parked */

	pthread_t thread;
	bool thread_started;
	pthread_mutex_t lock;
	pthread_cond_t cond; /* wakes a halted or parked thread */
	bool parked;         /* under lock: guest state may be read and written by others */
	bool waiting;        /* under lock: in a HLT wait */
	bool in_guest;       /* the engine runs */

	struct exit_stats stats;
};

/* Set request bits and wake the vCPU if it waits. Any thread; takes v->lock only. */
void vcpu_kick(struct vcpu *v, u32 bits);
/* Clear bits, by the server of the request. */
static inline void vcpu_clear(struct vcpu *v, u32 bits)
{
	__atomic_fetch_and((u32 *)&v->req, ~bits, __ATOMIC_SEQ_CST);
}

/* End the vCPU's HLT without an interrupt, or its next one when it is not halted. Any thread. */
void vcpu_unhalt(struct vcpu *v);

/* An NMI, from any thread. A processor that is serving no NMI takes one and holds one more
 * (SDM 3A 6.7.1), so two that come together must not become one: the second sets VCPU_REQ_NMI2. */
void vcpu_nmi(struct vcpu *v);
/* The vCPU's thread begins to serve an NMI: true, and one is taken off the requests; false: none.
 */
static inline bool vcpu_take_nmi(struct vcpu *v)
{
	u32 old = __atomic_load_n((u32 *)&v->req, __ATOMIC_RELAXED);

	do {
		if (!(old & VCPU_REQ_NMI))
			return false;
	} while (!__atomic_compare_exchange_n(
		(u32 *)&v->req, &old,
		old & ~(u32)(old & VCPU_REQ_NMI2 ? VCPU_REQ_NMI2 : VCPU_REQ_NMI), true,
		__ATOMIC_SEQ_CST, __ATOMIC_RELAXED));
	return true;
}
/* NMIs are unblocked (IRET): of those that came while blocked only one is kept. */
static inline void vcpu_nmi_unblocked(struct vcpu *v)
{
	if (unlikely(__atomic_load_n((u32 *)&v->req, __ATOMIC_RELAXED) & VCPU_REQ_NMI2))
		vcpu_clear(v, VCPU_REQ_NMI2);
}

int vcpu_start(struct vcpu *v); /* creates the thread. 0 or -errno */
void vcpu_join(struct vcpu *v);
