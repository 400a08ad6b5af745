// SPDX-License-Identifier: MIT
/* The port reads as the set of events that it knows. A guest with a crash kernel reports
 * CRASHLOADED instead of PANICKED: it goes on by itself, so that is only logged. */
#include "dev/pvpanic.h"

#include <errno.h>
#include <stdlib.h>

struct pvpanic {
	struct dev dev;
	struct pvpanic_config cfg;
	struct ratelimit rl;
};

static u64 pvpanic_read(void *dev, u64 off, unsigned size)
{
	return PVPANIC_PANICKED | PVPANIC_CRASHLOADED;
}

static void pvpanic_write(void *dev, u64 off, u64 val, unsigned size)
{
	struct pvpanic *p = dev;

	if (val & PVPANIC_PANICKED)
		p->cfg.panicked(p->cfg.arg);
	else if (val & PVPANIC_CRASHLOADED)
		guest_warn(&p->rl, "the kernel panicked and starts its crash kernel");
	else
		guest_warn(&p->rl, "pvpanic: unknown event %#x", (unsigned)(val & 0xff));
}

static const struct region_ops pvpanic_region = {.read = pvpanic_read, .write = pvpanic_write};

static void pvpanic_destroy(struct dev *d)
{
	free(container_of(d, struct pvpanic, dev));
}

static const struct dev_ops pvpanic_ops = {.destroy = pvpanic_destroy};

int pvpanic_create(const struct dev_env *env, const struct pvpanic_config *cfg)
{
	struct pvpanic *p = calloc(1, sizeof(*p));
	struct region r = {
		.name = "pvpanic",
		.base = PVPANIC_PORT,
		.len = 1,
		.min_size = 1,
		.max_size = 1,
		.ops = &pvpanic_region,
		.dev = p,
	};
	int err;

	if (!p)
		return -ENOMEM;
	p->cfg = *cfg;
	p->dev.name = "pvpanic";
	p->dev.ops = &pvpanic_ops;
	err = bus_attach(env->bus, BUS_PIO, &r);
	if (err) {
		free(p);
		return err;
	}
	dev_register(env, &p->dev);
	return 0;
}
