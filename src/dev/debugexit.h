/* SPDX-License-Identifier: MIT */
/* QEMU's isa-debug-exit: a guest (a test) that writes v to the port ends the VM with exit code
 * (v << 1) | 1, so never 0. Threading: the machine lock. */
#pragma once

#include "bus/dev.h"

struct debugexit;

struct debugexit_config {
	u16 iobase;                        /* 0: 0xf4 */
	u8 iosize;                         /* ports, 1..4; 0: 4 */
	void (*exit)(void *arg, int code); /* code is 1..255: what a process can return */
	void *arg;
};

#define DEBUGEXIT_PORT 0xf4

/* 0 or -errno (logged). */
int debugexit_create(struct debugexit **out, const struct dev_env *env,
                     const struct debugexit_config *cfg);
