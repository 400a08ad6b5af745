// SPDX-License-Identifier: MIT
/* On an AT, 0x80 is an unused page register of the DMA controller; the POST card listens to writes.
 *
 * What firmware and kernels also probe on a PC, and this machine does not have. Each reads as all
 * ones because nothing is attached there, which is the answer that makes the probe conclude
 * "absent"; a write is dropped:
 *
 *	0x00-0x0f, 0xc0-0xdf	8237 DMA controllers; 0x81-0x8f their page registers. Linux
 *				only reserves the ports; ISA DMA has no user here.
 *	0xf0, 0xf1		coprocessor error latch (IRQ 13): CR0.NE reports by #MF instead
 *	0x170, 0x1f0, 0x376, 0x3f6	ATA: status 0xff is a floating bus, no drive
 *	0x278, 0x378		parallel ports: the data latch does not read back
 *	0x2e8, 0x2f8, 0x3e8	further UARTs: IER does not read back
 *	0x3b4, 0x3c0-0x3df	VGA
 *	0x3f0-0x3f5, 0x3f7	floppy controller
 *	0xcfc			PCI configuration data (0xcf8 reads as all ones: dev/acpipm.c)
 *	0x5658			VMware backdoor
 */
#include "dev/port80.h"

#include <errno.h>
#include <stdlib.h>

struct port80 {
	struct dev dev;
	struct dev_env env;
	struct port80_config cfg;
	u8 code;
	u64 writes;
};

u8 port80_code(const struct port80 *p)
{
	return __atomic_load_n(&p->code, __ATOMIC_RELAXED);
}

static u64 port80_read(void *dev, u64 off, unsigned size)
{
	return port80_code(dev); /* a register of the DMA controller: reads back */
}

static void port80_write(void *dev, u64 off, u64 val, unsigned size)
{
	struct port80 *p = dev;

	__atomic_store_n(&p->code, (u8)val, __ATOMIC_RELAXED);
	__atomic_fetch_add(&p->writes, 1, __ATOMIC_RELAXED);
}

static u64 delay_read(void *dev, u64 off, unsigned size)
{
	return ~0ull;
}

static void delay_write(void *dev, u64 off, u64 val, unsigned size)
{
	/* the time it took was the point */
}

static void port80_reset(struct dev *dev)
{
	struct port80 *p = container_of(dev, struct port80, dev);

	__atomic_store_n(&p->code, 0, __ATOMIC_RELAXED);
}

static void port80_destroy(struct dev *dev)
{
	struct port80 *p = container_of(dev, struct port80, dev);

	bus_detach(p->env.bus, BUS_PIO, PORT80_POST);
	if (!p->cfg.no_delay_port)
		bus_detach(p->env.bus, BUS_PIO, PORT80_DELAY);
	free(p);
}

static void port80_dump(struct dev *dev, FILE *out)
{
	const struct port80 *p = container_of(dev, struct port80, dev);

	fprintf(out, "port80: POST code %02x, %llu writes\n", port80_code(p),
	        (unsigned long long)__atomic_load_n(&p->writes, __ATOMIC_RELAXED));
}

static const struct dev_ops port80_dev_ops = {
	.reset = port80_reset,
	.destroy = port80_destroy,
	.dump = port80_dump,
};

static const struct region_ops port80_ops = {port80_read, port80_write};
static const struct region_ops delay_ops = {delay_read, delay_write};

int port80_create(struct port80 **out, const struct dev_env *env, const struct port80_config *cfg)
{
	struct port80 *p = calloc(1, sizeof(*p));
	struct region post = {"post",         PORT80_POST, 1, .max_size = 1,
	                      .nolock = true, &port80_ops, p};
	struct region delay = {"io-delay",     PORT80_DELAY, 1, .max_size = 1,
	                       .nolock = true, &delay_ops,   p};
	int err;

	if (!p)
		return -ENOMEM;
	p->env = *env;
	p->cfg = *cfg;
	p->dev.name = "port80";
	p->dev.ops = &port80_dev_ops;
	err = bus_attach(env->bus, BUS_PIO, &post);
	if (err)
		goto fail;
	if (!cfg->no_delay_port) {
		err = bus_attach(env->bus, BUS_PIO, &delay);
		if (err) {
			bus_detach(env->bus, BUS_PIO, PORT80_POST);
			goto fail;
		}
	}
	dev_register(env, &p->dev);
	*out = p;
	return 0;
fail:
	free(p);
	return err;
}
