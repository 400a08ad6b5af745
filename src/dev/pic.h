/* SPDX-License-Identifier: MIT */
/* The pair of 8259A interrupt controllers of a PC, with the edge/level control registers (ELCR) of
 * the PIIX and ICH chip sets.
 *
 * Ports 0x20, 0x21 (master), 0xa0, 0xa1 (slave, on the master's IR2), 0x4d0, 0x4d1 (ELCR).
 * pic_create() adds a sink to the IRQ router: its lines 0..15 are the inputs IRQ0..IRQ15; line 2
 * has no pin (it is the cascade) and is ignored.
 *
 * After reset the pair is not initialised: INTR stays low until the guest (or the machine,
 * playing the firmware, through the ports) has sent ICW1 to ICW4.
 *
 * Threading: machine lock, except pic_ack(), which takes it. */
#pragma once

#include "bus/dev.h"

struct pic;

struct pic_config {
	void (*intr)(void *arg, bool level); /* the INTR pin changed; machine lock held */
	void *arg;
};

/* 0 or -errno (logged). */
int pic_create(struct pic **out, const struct dev_env *env, const struct pic_config *cfg);

/* What firmware leaves behind: IRQ0..7 at vectors 8..15, IRQ8..15 at 70H..77H, edges, nothing
 * masked. For a machine that starts a guest without firmware. */
void pic_firmware_init(struct pic *p);

/* Interrupt acknowledge: two INTA pulses; the vector, 0..255. When the request went away in
 * the meantime it is the spurious IRQ7, as the hardware has it; a spurious IRQ15 needs a request
 * that goes away between the two pulses, and there is no between here. `dev` is a struct pic. Takes
 * the machine lock. */
int pic_ack(void *dev);
