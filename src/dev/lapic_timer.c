// SPDX-License-Identifier: MIT
/* The APIC timer (SDM volume 3A, 11.5.4): one-shot, periodic, TSC deadline.
 *
 * The count is never stored: it follows from when the timer expires and the time now. The loop's
 * timer is only moved when the APIC's expires earlier than it is queued for; else it is left where
 * it is, finds nothing due, and queues itself anew. A kernel that pushes its deadline back at every
 * tick so costs no work on the loop's heap. */
#include "dev/lapic_priv.h"

/* A periodic timer interrupts no more often; the periods between are left out. */
#define MIN_PERIOD_NS 20000

/* Farthest that a loop timer is set, some 73 years: no sum of times overflows. */
#define FAR_NS (1ull << 61)

static unsigned divisor(u32 tdcr)
{
	unsigned v = (tdcr & 3) | (tdcr >> 1 & 4);

	return v == 7 ? 1 : 2u << v;
}

static enum timer_mode timer_mode(const struct lapic *l)
{
	return LVT_TIMER(l->lvt[LVT_TIMER_]);
}

static void lapic_timer_fire(struct lapic *l)
{
	u32 lvt = l->lvt[LVT_TIMER_];

	if (!(lvt & LVT_MASKED))
		lapic_accept(l, lvt & LVT_VECTOR, false);
}

/* What is due at `now` happens. */
static void lapic_timer_serve(struct lapic *l, u64 now)
{
	if (l->tsc_deadline && l->cfg.tsc_now(l->vcpu) >= l->tsc_deadline) {
		l->tsc_deadline = 0;
		lapic_timer_fire(l);
	}
	if (l->counting && now >= l->expiry) {
		if (timer_mode(l) == TIMER_PERIODIC) {
			u64 skip = now - l->expiry;

			if (l->period < MIN_PERIOD_NS)
				skip += MIN_PERIOD_NS;
			l->expiry += (skip / l->period + 1) * l->period;
		} else {
			l->counting = false;
		}
		lapic_timer_fire(l);
	}
}

static void lapic_timer_arm(struct lapic *l, u64 now)
{
	u64 at;

	/* Nobody would notice: the registers show the time anyhow. */
	if (l->lvt[LVT_TIMER_] & LVT_MASKED)
		return;
	if (l->counting) {
		at = l->expiry;
	} else if (l->tsc_deadline) {
		u64 tsc = l->cfg.tsc_now(l->vcpu);
		u64 left = l->tsc_deadline > tsc ? l->tsc_deadline - tsc : 0;
		unsigned __int128 ns =
			((unsigned __int128)left * 1000000 + l->cfg.tsc_khz - 1) / l->cfg.tsc_khz;

		at = now + (u64)MIN(ns, (unsigned __int128)FAR_NS);
	} else {
		return;
	}
	if (l->timer_at && l->timer_at <= at)
		return;
	l->timer_at = at;
	timer_arm(&l->timer, at);
}

static void lapic_timer_run(struct lapic *l)
{
	u64 now = loop_now(l->set->loop);

	lapic_timer_serve(l, now);
	lapic_timer_arm(l, now);
}

static void lapic_timer_expired(void *arg)
{
	struct lapic *l = arg;

	pthread_mutex_lock(&l->lock);
	l->timer_at = 0;
	lapic_timer_run(l);
	pthread_mutex_unlock(&l->lock);
}

void lapic_timer_init(struct lapic *l)
{
	timer_init(&l->timer, l->set->loop, lapic_timer_expired, l);
}

/* The queued loop timer may stay: it will find nothing. */
void lapic_timer_stop(struct lapic *l)
{
	l->counting = false;
	l->tsc_deadline = 0;
	l->tmict = 0;
}

u32 lapic_timer_count(struct lapic *l)
{
	u64 now = loop_now(l->set->loop);
	unsigned div = divisor(l->tdcr);
	u64 left;

	/* Who sees the count at 0 finds the interrupt too. */
	if (l->counting && now >= l->expiry) {
		lapic_timer_serve(l, now);
		lapic_timer_arm(l, now);
	}
	if (!l->counting)
		return 0;
	left = l->expiry - now;
	if (left > l->period) /* periods that are left out */
		left = (left - 1) % l->period + 1;
	return (u32)((left + div - 1) / div);
}

void lapic_timer_set_count(struct lapic *l, u32 count)
{
	u64 now;

	if (timer_mode(l) >= TIMER_DEADLINE)
		return;
	now = loop_now(l->set->loop);
	lapic_timer_serve(l, now);
	l->tmict = count;
	l->counting = count;
	l->period = (u64)count * divisor(l->tdcr);
	l->expiry = now + l->period;
	lapic_timer_arm(l, now);
}

void lapic_timer_set_divide(struct lapic *l, u32 val)
{
	u32 count = lapic_timer_count(l);
	u64 now = loop_now(l->set->loop);

	l->tdcr = val & 0xb;
	if (!l->counting)
		return;
	/* The count goes on from where it is, at the new speed. */
	l->period = (u64)l->tmict * divisor(l->tdcr);
	l->expiry = now + (u64)count * divisor(l->tdcr);
	lapic_timer_arm(l, now);
}

/* Between one-shot and periodic the count runs on; the TSC deadline and the counter disarm each
 * other. What expired while masked is gone. */
void lapic_timer_write_lvt(struct lapic *l, u32 val)
{
	unsigned from = timer_mode(l), to = LVT_TIMER(val);
	u64 now = 0;

	if (l->counting || l->tsc_deadline) {
		now = loop_now(l->set->loop);
		lapic_timer_serve(l, now);
	}
	if (from != to && (from >= TIMER_DEADLINE || to >= TIMER_DEADLINE))
		lapic_timer_stop(l);
	l->lvt[LVT_TIMER_] = val;
	lapic_timer_arm(l, now);
}

void lapic_timer_set_deadline(struct lapic *l, u64 tsc)
{
	if (timer_mode(l) != TIMER_DEADLINE)
		return;
	l->tsc_deadline = tsc;
	if (trace_on(l->trace, TRACE_IRQ))
		trace_msg(l->trace, "lapic %u: TSC deadline %#llx", l->cfg.id,
		          (unsigned long long)tsc);
	if (tsc)
		lapic_timer_run(l);
}

u64 lapic_timer_deadline(struct lapic *l)
{
	if (l->tsc_deadline && l->cfg.tsc_now(l->vcpu) >= l->tsc_deadline)
		lapic_timer_serve(l, loop_now(l->set->loop));
	return l->tsc_deadline;
}

void lapic_tsc_changed(struct lapic *l)
{
	pthread_mutex_lock(&l->lock);
	if (l->tsc_deadline)
		lapic_timer_run(l);
	pthread_mutex_unlock(&l->lock);
}
