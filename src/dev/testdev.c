// SPDX-License-Identifier: MIT
/* Only there under --testdev: real guests never look for it. */
#include "dev/testdev.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct testdev {
	struct dev dev;
	struct dev_env env;
	struct testdev_config cfg;
	u8 port[4];
	u64 flushes;
	u8 mem[TESTDEV_MEM_LEN];
};

/* The bus gives accesses that lie within the region. */
static u64 port_read(void *dev, u64 off, unsigned size)
{
	const struct testdev *t = dev;
	u64 v = 0;

	memcpy(&v, t->port + off, size);
	return v;
}

static void port_write(void *dev, u64 off, u64 val, unsigned size)
{
	struct testdev *t = dev;

	memcpy(t->port + off, &val, size);
}

static u64 flush_read(void *dev, u64 off, unsigned size)
{
	return ~0ull;
}

static void flush_write(void *dev, u64 off, u64 val, unsigned size)
{
	struct testdev *t = dev;

	t->flushes++;
	if (t->cfg.flush_page)
		t->cfg.flush_page(t->cfg.arg, val & PAGE_MASK);
}

static u64 line_read(void *dev, u64 off, unsigned size)
{
	const struct testdev *t = dev;

	return t->env.irq->level[off];
}

static void line_write(void *dev, u64 off, u64 val, unsigned size)
{
	struct testdev *t = dev;

	irq_set(t->env.irq, (unsigned)off, val != 0);
}

static u64 mem_read(void *dev, u64 off, unsigned size)
{
	const struct testdev *t = dev;
	u64 v = 0;

	memcpy(&v, t->mem + off, size);
	return v;
}

static void mem_write(void *dev, u64 off, u64 val, unsigned size)
{
	struct testdev *t = dev;

	memcpy(t->mem + off, &val, size);
}

static const struct region_ops port_ops = {port_read, port_write};
static const struct region_ops flush_ops = {flush_read, flush_write};
static const struct region_ops line_ops = {line_read, line_write};
static const struct region_ops mem_ops = {mem_read, mem_write};

static const struct {
	enum bus_space space;
	struct region r;
} testdev_regions[] = {
	{BUS_PIO, {"testdev", TESTDEV_PORT, 4, .ops = &port_ops}},
	{BUS_PIO, {"testdev-flush", TESTDEV_FLUSH, 4, .min_size = 4, .ops = &flush_ops}},
	{BUS_PIO, {"testdev-byte", TESTDEV_PORT_BYTE, 4, .max_size = 1, .ops = &port_ops}},
	{BUS_PIO, {"testdev-irq", TESTDEV_IRQ, IRQ_LINES, .max_size = 1, .ops = &line_ops}},
	{BUS_MMIO, {"testdev-mem", TESTDEV_MEM, TESTDEV_MEM_LEN, .max_size = 8, .ops = &mem_ops}},
};

static bool left_out(const struct testdev *t, size_t n)
{
	return t->cfg.debugcon && testdev_regions[n].r.base == TESTDEV_PORT_BYTE;
}

static void detach(const struct testdev *t, size_t n)
{
	while (n--)
		if (!left_out(t, n))
			bus_detach(t->env.bus, testdev_regions[n].space, testdev_regions[n].r.base);
}

static void testdev_reset(struct dev *dev)
{
	struct testdev *t = container_of(dev, struct testdev, dev);

	memset(t->port, 0, sizeof(t->port));
	memset(t->mem, 0, sizeof(t->mem));
}

static void testdev_destroy(struct dev *dev)
{
	struct testdev *t = container_of(dev, struct testdev, dev);

	detach(t, ARRAY_SIZE(testdev_regions));
	free(t);
}

static void testdev_dump(struct dev *dev, FILE *out)
{
	const struct testdev *t = container_of(dev, struct testdev, dev);

	fprintf(out, "testdev: port %08x, %llu pages flushed\n", get_le32(t->port),
	        (unsigned long long)t->flushes);
}

static const struct dev_ops testdev_dev_ops = {
	.reset = testdev_reset,
	.destroy = testdev_destroy,
	.dump = testdev_dump,
};

int testdev_create(struct testdev **out, const struct dev_env *env,
                   const struct testdev_config *cfg)
{
	struct testdev *t = calloc(1, sizeof(*t));

	if (!t)
		return -ENOMEM;
	t->env = *env;
	t->cfg = *cfg;
	t->dev.name = "testdev";
	t->dev.ops = &testdev_dev_ops;
	for (size_t i = 0; i < ARRAY_SIZE(testdev_regions); i++) {
		struct region r = testdev_regions[i].r;
		int err;

		if (left_out(t, i))
			continue;
		r.dev = t;
		err = bus_attach(env->bus, testdev_regions[i].space, &r);
		if (err) {
			detach(t, i);
			free(t);
			return err;
		}
	}
	dev_register(env, &t->dev);
	*out = t;
	return 0;
}
