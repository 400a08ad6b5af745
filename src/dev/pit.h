/* SPDX-License-Identifier: MIT */
/* The 8254 interval timer of a PC and the port that goes with it.
 *
 * Ports 0x40..0x43: counters 0 (IRQ line 0), 1 (memory refresh, goes nowhere), 2 (speaker), control
 * word. Port 0x61 (system control port B): bit 0 gate of counter 2, bit 1 speaker data,
 * bits 2 and 3 parity and channel check enables (kept, nothing behind them), bit 4 refresh
 * toggle, bit 5 OUT of counter 2, bits 6 and 7 zero (no NMI sources).
 *
 * The clock is 1193182 Hz of loop_now(), so the timer stands while the VM is paused.
 * Everything is computed from time at access; only counter 0 has a loop timer, for its next rising
 * edge. The edges keep their exact average rate: when the loop was late they follow faster, up to
 * PIT_MAX_BACKLOG of them; what is more than that is left out.
 *
 * Threading: machine lock. */
#pragma once

#include "bus/dev.h"

#define PIT_HZ          1193182ull
#define PIT_MAX_BACKLOG 16

struct pit;

/* 0 or -errno (logged). */
int pit_create(struct pit **out, const struct dev_env *env);
