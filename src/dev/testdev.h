/* SPDX-License-Identifier: MIT */
/* The test device that kvm-unit-tests expect (QEMU's pc-testdev):
 *
 *	0xe0-0xe3	a register that reads back what was written, 1, 2 and 4 bytes wide
 *	0xe4		write a guest-physical address: its page is taken out of the VMM's caches
 *	0xe8-0xeb	the same register as 0xe0, one byte at a time
 *	0x2000+n	level of interrupt line n, 0..23
 *	0xff000000	64 KiB of memory that is a device: any width up to 8 bytes
 *
 * Threading: the machine lock. */
#pragma once

#include "bus/dev.h"

struct testdev;

struct testdev_config {
	/* Drop what is cached about the page (translations); NULL: nothing is. */
	void (*flush_page)(void *arg, gpa_t page);
	void *arg;
	bool debugcon; /* dev/debugcon.h has 0xe9: leave out 0xe8-0xeb */
};

#define TESTDEV_PORT      0xe0
#define TESTDEV_FLUSH     0xe4
#define TESTDEV_PORT_BYTE 0xe8
#define TESTDEV_IRQ       0x2000
#define TESTDEV_MEM       0xff000000ull
#define TESTDEV_MEM_LEN   0x10000

/* 0 or -errno (logged). */
int testdev_create(struct testdev **out, const struct dev_env *env,
                   const struct testdev_config *cfg);
