/* SPDX-License-Identifier: MIT */
/* The PC's keyboard controller without a keyboard or mouse, ports 0x60 and 0x64, IRQ 1, and the
 * system control port A, 0x92: what is left of them is the reset line and the A20 gate.
 * Threading: the machine lock. */
#pragma once

#include "bus/dev.h"

struct i8042;

struct i8042_config {
	void (*reset)(void *arg); /* the guest pulled the CPU's reset line */
	void (*a20)(void *arg,
	            bool open); /* the gate moved; NULL: it is open, whatever is written */
	void *arg;
};

#define I8042_DATA_PORT 0x60
#define I8042_CMD_PORT  0x64
#define I8042_PORT_A    0x92
#define I8042_IRQ       1

/* 0 or -errno (logged). */
int i8042_create(struct i8042 **out, const struct dev_env *env, const struct i8042_config *cfg);
