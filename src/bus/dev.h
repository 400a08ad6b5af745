/* SPDX-License-Identifier: MIT */
/* What every device is made from.
 *
 * A device embeds struct dev, is made by X_create(struct X **, const struct dev_env *,
 * const struct X_config *), attaches its regions to env->bus and registers itself with
 * dev_register(). The machine resets and destroys all devices through the list.
 * All callbacks run with the machine lock held (bus/bus.h, bus/loop.h).
 * A device that must reach a CPU (INTR, NMI, INIT, reset) does it through the struct it is
 * handed at creation (vcpu/vcpu.h, or a callback), never through an engine. */
#pragma once

#include <stdio.h>

#include "bus/bus.h"
#include "bus/irq.h"
#include "bus/loop.h"
#include "mem/pmap.h"

struct dev;

struct dev_ops {
	void (*reset)(struct dev *d);           /* power-on state; NULL: nothing to do */
	void (*destroy)(struct dev *d);         /* frees it; required */
	void (*dump)(struct dev *d, FILE *out); /* state for people; may be NULL */
};

struct dev {
	const char *name;
	const struct dev_ops *ops;
	struct dev *next;
};

struct dev_env {
	struct bus *bus;
	struct loop *loop;
	struct irq_router *irq;
	struct pmap *pmap;
	const struct trace *trace;
	struct dev **devices; /* the machine's list */
};

static inline void dev_register(const struct dev_env *env, struct dev *d)
{
	d->next = *env->devices;
	*env->devices = d;
}

static inline void dev_reset_all(struct dev *list)
{
	for (struct dev *d = list; d; d = d->next)
		if (d->ops->reset)
			d->ops->reset(d);
}

static inline void dev_destroy_all(struct dev **list)
{
	while (*list) {
		struct dev *d = *list;

		*list = d->next;
		d->ops->destroy(d);
	}
}
