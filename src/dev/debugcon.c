// SPDX-License-Identifier: MIT
/* The port has no status register, so the guest can't be held back: what a congested back end does
 * not take is lost, and counted. */
#include "dev/debugcon.h"

#include <errno.h>
#include <stdlib.h>

struct debugcon {
	struct dev dev;
	struct dev_env env;
	struct debugcon_config cfg;
	u64 bytes, lost;
};

static u64 debugcon_read(void *dev, u64 off, unsigned size)
{
	return DEBUGCON_PORT;
}

static void debugcon_write(void *dev, u64 off, u64 val, unsigned size)
{
	struct debugcon *d = dev;
	u8 byte = (u8)val;

	d->bytes++;
	if (!chardev_write(d->cfg.back, &byte, 1) && !d->lost++)
		log_warn("debug console: output lost, nobody reads it");
}

static void debugcon_destroy(struct dev *dev)
{
	struct debugcon *d = container_of(dev, struct debugcon, dev);

	bus_detach(d->env.bus, BUS_PIO, d->cfg.iobase);
	free(d);
}

static void debugcon_dump(struct dev *dev, FILE *out)
{
	const struct debugcon *d = container_of(dev, struct debugcon, dev);

	fprintf(out, "debugcon %#x: %llu bytes, %llu lost\n", d->cfg.iobase,
	        (unsigned long long)d->bytes, (unsigned long long)d->lost);
}

static const struct dev_ops debugcon_dev_ops = {
	.destroy = debugcon_destroy,
	.dump = debugcon_dump,
};

static const struct region_ops debugcon_region_ops = {debugcon_read, debugcon_write};

int debugcon_create(struct debugcon **out, const struct dev_env *env,
                    const struct debugcon_config *cfg)
{
	struct debugcon *d = calloc(1, sizeof(*d));
	struct region r = {
		.name = "debugcon", .len = 1, .max_size = 1, .ops = &debugcon_region_ops, .dev = d};
	int err;

	if (!d)
		return -ENOMEM;
	d->env = *env;
	d->cfg = *cfg;
	if (!d->cfg.iobase)
		d->cfg.iobase = DEBUGCON_PORT;
	d->dev.name = "debugcon";
	d->dev.ops = &debugcon_dev_ops;
	r.base = d->cfg.iobase;
	err = bus_attach(env->bus, BUS_PIO, &r);
	if (err) {
		free(d);
		return err;
	}
	dev_register(env, &d->dev);
	*out = d;
	return 0;
}
