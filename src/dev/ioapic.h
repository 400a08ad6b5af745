/* SPDX-License-Identifier: MIT */
/* The 82093AA I/O APIC, 24 pins, one page at 0xfec00000; with version 20H also the EOI register of
 * the ICH's (offset 40H).
 *
 * ioapic_create() adds a sink to the IRQ router: its line n is pin n. With irq0_to_pin2 line 0 (the
 * PIT) goes to pin 2 instead and line 2 (the 8259s' cascade, which is no device's) nowhere; the
 * MADT then carries an interrupt source override 0 -> 2.
 *
 * Lines are logical: true is "asserted", whatever a redirection entry's polarity bit says.
 *
 * A message goes out as the memory write that the chip sets make of it (SDM 3A 11.11), so the
 * sender of messages is the same as for MSIs: lapic_set_msi().
 *
 * Threading: machine lock. */
#pragma once

#include "bus/dev.h"

#define IOAPIC_BASE 0xfec00000ull
#define IOAPIC_PINS 24

struct ioapic;

struct ioapic_config {
	bool (*msi)(void *arg, u64 addr, u32 data); /* true: some LAPIC took it */
	void *arg;
	u8 version; /* 0x11, or 0x20 with the EOI register */
	u8 id;      /* initial ID, 0..15, as in the MADT */
	bool irq0_to_pin2;
};

/* 0 or -errno (logged). */
int ioapic_create(struct ioapic **out, const struct dev_env *env, const struct ioapic_config *cfg);

/* The EOI of a level-triggered interrupt, broadcast by a LAPIC. Machine lock held. `dev` is a
 * struct ioapic. */
void ioapic_eoi(void *dev, u8 vector);
