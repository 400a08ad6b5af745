// SPDX-License-Identifier: MIT
/* The value of the whole access counts, whatever its width and place within the ports. */
#include "dev/debugexit.h"

#include <errno.h>
#include <stdlib.h>

struct debugexit {
	struct dev dev;
	struct dev_env env;
	struct debugexit_config cfg;
};

static u64 debugexit_read(void *dev, u64 off, unsigned size)
{
	return 0;
}

static void debugexit_write(void *dev, u64 off, u64 val, unsigned size)
{
	struct debugexit *d = dev;

	d->cfg.exit(d->cfg.arg, (int)((val << 1 | 1) & 0xff));
}

static void debugexit_destroy(struct dev *dev)
{
	struct debugexit *d = container_of(dev, struct debugexit, dev);

	bus_detach(d->env.bus, BUS_PIO, d->cfg.iobase);
	free(d);
}

static void debugexit_dump(struct dev *dev, FILE *out)
{
	const struct debugexit *d = container_of(dev, struct debugexit, dev);

	fprintf(out, "debug-exit: ports %#x..%#x\n", d->cfg.iobase,
	        d->cfg.iobase + d->cfg.iosize - 1);
}

static const struct dev_ops debugexit_dev_ops = {
	.destroy = debugexit_destroy,
	.dump = debugexit_dump,
};

static const struct region_ops debugexit_region_ops = {debugexit_read, debugexit_write};

int debugexit_create(struct debugexit **out, const struct dev_env *env,
                     const struct debugexit_config *cfg)
{
	struct debugexit *d = calloc(1, sizeof(*d));
	struct region r = {
		.name = "debug-exit", .max_size = 4, .ops = &debugexit_region_ops, .dev = d};
	int err;

	if (!d)
		return -ENOMEM;
	d->env = *env;
	d->cfg = *cfg;
	if (!d->cfg.iobase)
		d->cfg.iobase = DEBUGEXIT_PORT;
	if (!d->cfg.iosize)
		d->cfg.iosize = 4;
	d->dev.name = "debug-exit";
	d->dev.ops = &debugexit_dev_ops;
	r.base = d->cfg.iobase;
	r.len = d->cfg.iosize;
	err = bus_attach(env->bus, BUS_PIO, &r);
	if (err) {
		free(d);
		return err;
	}
	dev_register(env, &d->dev);
	*out = d;
	return 0;
}
