/* SPDX-License-Identifier: MIT */
/* The debug output port of Bochs and QEMU, 0xe9: a byte written there goes to a chardev; reading
 * gives 0xe9, by which firmware knows that the port exists.
 * Threading: the machine lock. The chardev is borrowed. */
#pragma once

#include "bus/dev.h"
#include "dev/chardev.h"

struct debugcon;

struct debugcon_config {
	u16 iobase;           /* 0: 0xe9 */
	struct chardev *back; /* never NULL; may be shared with a UART: only written to */
};

#define DEBUGCON_PORT 0xe9

/* 0 or -errno (logged). */
int debugcon_create(struct debugcon **out, const struct dev_env *env,
                    const struct debugcon_config *cfg);
