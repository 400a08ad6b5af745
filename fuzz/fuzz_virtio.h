/* SPDX-License-Identifier: MIT */
/* What hostile drivers have in common, whatever the device: any value in any register and in any
 * place of the rings, work that the loop's thread has left, and a look at the machine's end. RAM
 * lies between pages that are not mapped, so a pointer outside of it is found. */
#pragma once

#include <stdlib.h>

#include "../test/unit/ringtest.h"
#include "base/log.h"
#include "fuzz_input.h"

/* A write of 1, 2, 4 or 8 bytes, as op's highest bits say, to any common register, and a read. */
static inline void fuzz_register(const struct driver *d, struct input *in, u8 op)
{
	unsigned n = 1u << (op >> 6);
	u64 at = d->common + take(in, 1) % 0x40;

	mmio_out(d->p, at, take(in, n), n);
	mmio_in(d->p, at, n);
}

/* The same into memory, at most `span` bytes behind `base`. */
static inline void fuzz_memory(struct pcitest *p, struct input *in, u8 op, gpa_t base, u32 span)
{
	unsigned n = 1u << (op >> 6);
	gpa_t at = base + take(in, 2) % span;

	ram_put(p, at, take(in, n), n);
}

/* Split rings or packed ones, each of three pages from `at` on, and DRIVER_OK. */
static inline void fuzz_start(const struct driver *d, struct ring *r, unsigned nr, u64 features,
                              u16 size, gpa_t at)
{
	driver_negotiate(d, features & (driver_offered(d) | VIRTIO_F_VERSION_1));
	for (unsigned i = 0; i < nr; i++) {
		ring_init(&r[i], d, i, size, features & VIRTIO_F_RING_PACKED, at + 0x3000 * i);
		ring_enable(&r[i]);
	}
	driver_ok(d);
}

/* Once for the process: guests' misbehaviour is not worth a line each. */
static inline void fuzz_quiet(void)
{
	log_set_level(LOG_ERROR);
}

/* All that devices say about themselves in this state. */
static inline void fuzz_dump(struct pcitest *p)
{
	static FILE *null;

	if (!null)
		null = fopen("/dev/null", "w");
	if (!null)
		abort();
	for (struct dev *d = p->t.devices; d; d = d->next)
		if (d->ops->dump)
			d->ops->dump(d, null);
}

static inline void fuzz_loop_stop(void *arg)
{
	loop_stop(arg);
}

/* What is due on the loop's thread, when its clock runs by itself. */
static inline void fuzz_loop(struct pcitest *p)
{
	loop_post(p->t.loop, fuzz_loop_stop, p->t.loop);
	loop_run(p->t.loop);
}
