/* SPDX-License-Identifier: MIT */
/* What lapic.c (registers), lapic_msg.c (messages between APICs) and lapic_timer.c share; nobody
 * else includes it. Functions want the LAPIC's lock held unless they say otherwise. */
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "dev/lapic.h"

/* Register offsets in the page; MSR 800H + offset / 16. */
#define APIC_ID       0x020
#define APIC_VERSION  0x030
#define APIC_TPR      0x080
#define APIC_APR      0x090
#define APIC_PPR      0x0a0
#define APIC_EOI      0x0b0
#define APIC_RRD      0x0c0
#define APIC_LDR      0x0d0
#define APIC_DFR      0x0e0
#define APIC_SVR      0x0f0
#define APIC_ISR      0x100
#define APIC_TMR      0x180
#define APIC_IRR      0x200
#define APIC_ESR      0x280
#define APIC_ICR      0x300
#define APIC_ICR2     0x310
#define APIC_LVT      0x320 /* timer, thermal, perf, LINT0, LINT1, error */
#define APIC_LVT_LAST 0x370
#define APIC_TMICT    0x380
#define APIC_TMCCT    0x390
#define APIC_TDCR     0x3e0
#define APIC_SELF_IPI 0x3f0

#define APIC_VERSION_VALUE (0x14 | (LVT_NR - 1) << 16 | 1 << 24)

#define APIC_BASE_BSP  BIT(8)
#define APIC_BASE_EXTD BIT(10)
#define APIC_BASE_EN   BIT(11)

#define SVR_ENABLE       BIT(8)
#define SVR_NO_FOCUS     BIT(9)
#define SVR_NO_BROADCAST BIT(12) /* of EOIs */
#define SVR_BITS         0x13ff

#define ESR_SEND_ILLEGAL 0x20
#define ESR_RECV_ILLEGAL 0x40
#define ESR_ILLEGAL_REG  0x80

/* LVT and ICR fields */
#define LVT_VECTOR     0xff
#define LVT_MODE(x)    ((x) >> 8 & 7)
#define LVT_LOGICAL    BIT(11)
#define LVT_REMOTE_IRR BIT(14)
#define LVT_ASSERT     BIT(14)
#define LVT_LEVEL      BIT(15)
#define LVT_MASKED     BIT(16)
#define LVT_TIMER(x)   ((x) >> 17 & 3)
#define ICR_BITS       0xccfffull

enum lvt { LVT_TIMER_, LVT_THERMAL, LVT_PERF, LVT_LINT0, LVT_LINT1, LVT_ERROR, LVT_NR };
enum timer_mode { TIMER_ONESHOT, TIMER_PERIODIC, TIMER_DEADLINE, TIMER_RESERVED };
enum delivery {
	DM_FIXED,
	DM_LOWEST,
	DM_SMI,
	DM_REMOTE_READ,
	DM_NMI,
	DM_INIT,
	DM_STARTUP,
	DM_EXTINT
};

struct lapic {
	pthread_mutex_t lock;
	struct lapic_set *set;
	struct vcpu *vcpu;
	struct lapic_config cfg;
	const struct trace *trace;

	u64 base;    /* IA32_APIC_BASE; written by the own thread (or at reset) under the lock */
	u8 xapic_id; /* the ID register in xAPIC mode */
	u8 tpr;
	u32 ldr, dfr, svr; /* ldr: xAPIC mode's */
	u32 esr;           /* what the guest reads */
	u32 errors;        /* since its last write to the ESR */
	bool error_armed;  /* the next error makes an interrupt */
	u64 icr;
	u32 lvt[LVT_NR];
	u32 isr[8], irr[8], tmr[8];

	bool lint[2];    /* levels of the pins */
	bool extint_msg; /* an ExtINT message waits for INTA */
	bool intr;       /* what VCPU_REQ_IRQ is */

	/* Timer (lapic_timer.c). */
	u32 tmict, tdcr;
	bool counting;    /* one-shot or periodic: it runs */
	u64 period;       /* ns of loop_now(), tmict * divisor */
	u64 expiry;       /* when the count is 0, or a whole number of periods after that */
	u64 tsc_deadline; /* 0: not armed */
	struct timer timer;
	u64 timer_at; /* when `timer` is queued for, 0: it is not */
};

struct lapic_set {
	struct dev dev;
	struct bus *bus;
	struct loop *loop;
	const struct trace *trace;
	struct lapic_wires wires;
	unsigned nr;
	struct lapic *lapic[LAPIC_MAX];
	struct lapic *by_id[256]; /* initial IDs */
	_Atomic bool ids_moved;   /* a guest wrote an ID register: by_id is no shortcut */
	_Atomic unsigned rotor;   /* takes turns in lowest-priority arbitration */
	_Atomic bool level[2];    /* of the LINT lines, for LAPICs yet to come */
	struct ratelimit rl;
};

/* A message on the APIC bus. */
struct lapic_msg {
	u32 dest;
	bool broadcast;             /* to all */
	const struct lapic *except; /* but this one; may be NULL */
	bool logical;
	bool level; /* level triggered */
	u8 mode;    /* enum delivery */
	u8 vector;
};

static inline bool lapic_hw_enabled(const struct lapic *l)
{
	return l->base & APIC_BASE_EN;
}
static inline bool lapic_x2apic(const struct lapic *l)
{
	return l->base & APIC_BASE_EXTD;
}
static inline u32 lapic_x2apic_ldr(const struct lapic *l)
{
	return l->cfg.id >> 4 << 16 | 1u << (l->cfg.id & 15);
}

/* lapic.c */
void lapic_init_state(struct lapic *l);
void lapic_reset(struct lapic *l); /* power-up; takes the lock */
unsigned lapic_ppr(const struct lapic *l);
void lapic_update_intr(struct lapic *l);
void lapic_error(struct lapic *l, u32 bit);
/* Into the IRR. False: not now (disabled), or the vector is illegal. */
bool lapic_accept(struct lapic *l, u8 vector, bool level);
void lapic_lint(struct lapic *l, unsigned n, bool level);
bool lapic_pending(const struct lapic *l, u8 vector); /* in IRR or ISR */
extern const struct irqchip_ops lapic_irqchip_ops;
void lapic_dump(struct lapic *l, FILE *out); /* takes the lock */

/* lapic_msg.c */
bool lapic_send(struct lapic_set *set, const struct lapic_msg *m); /* no LAPIC's lock held */
/* What the ICR of `l` says; no LAPIC's lock held. `x2apic`: the mode it was written in. */
void lapic_send_ipi(struct lapic *l, u64 icr, bool x2apic);
int lapic_send_ipis(struct lapic *l, u64 low, u64 high, u32 min, u32 icr);
void lapic_send_self(struct lapic *l, u8 vector);

/* lapic_timer.c */
void lapic_timer_init(struct lapic *l);
void lapic_timer_stop(struct lapic *l);
u32 lapic_timer_count(struct lapic *l);
void lapic_timer_set_count(struct lapic *l, u32 count);
void lapic_timer_set_divide(struct lapic *l, u32 val);
void lapic_timer_write_lvt(struct lapic *l, u32 val);
void lapic_timer_set_deadline(struct lapic *l, u64 tsc);
u64 lapic_timer_deadline(struct lapic *l);
