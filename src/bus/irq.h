/* SPDX-License-Identifier: MIT */
/* Interrupt lines of the machine: numbered as ACPI's global system interrupts (GSI).
 * A device raises and lowers line n; the machine decides who listens (8259 pair for 0..15 and the
 * IOAPIC for 0..23). Several sources may share a line only through irq_share.
 *
 * Threading: irq_set is called with the machine lock held. MSIs may be sent from any thread. */
#pragma once

#include "base/types.h"

#define IRQ_LINES 24

struct irq_sink {
	void (*set)(void *dev, unsigned line, bool level);
	void *dev;
};

struct irq_router {
	struct irq_sink sink[4];
	unsigned nr_sinks;
	bool level[IRQ_LINES]; /* for statistics and the monitor */
	u64 count[IRQ_LINES];  /* rising edges */
};

static inline void irq_set(struct irq_router *r, unsigned line, bool level)
{
	if (line >= IRQ_LINES)
		return;
	if (level && !r->level[line])
		r->count[line]++;
	r->level[line] = level;
	for (unsigned i = 0; i < r->nr_sinks; i++)
		r->sink[i].set(r->sink[i].dev, line, level);
}

static inline void irq_pulse(struct irq_router *r, unsigned line)
{
	irq_set(r, line, true);
	irq_set(r, line, false);
}
