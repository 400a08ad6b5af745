// SPDX-License-Identifier: MIT
/* Intel 82093AA (data sheet order number 290566): IOREGSEL, IOWIN, ID, version, arbitration ID and
 * 24 redirection entries. Edges on a masked pin are lost, as the data sheet has it; a level is
 * looked at again whenever something changes.
 *
 * Remote IRR is set when a LAPIC took a level-triggered message and cleared by the EOI for its
 * vector; then, if the line is still high, the message is sent again. Making an entry
 * edge-triggered clears it as well (operating systems use that as an EOI where there is no EOI
 * register). */
#include "dev/ioapic.h"

#include <errno.h>
#include <stdlib.h>

#define IOREGSEL 0x00
#define IOWIN    0x10
#define IOEOI    0x40

#define IOAPICID  0x00
#define IOAPICVER 0x01
#define IOAPICARB 0x02
#define IOREDTBL  0x10

#define RTE_VECTOR     0xffull
#define RTE_MODE(e)    ((e) >> 8 & 7)
#define RTE_LOGICAL    BIT(11)
#define RTE_REMOTE_IRR BIT(14)
#define RTE_LEVEL      BIT(15)
#define RTE_MASKED     BIT(16)
#define RTE_DEST(e)    ((e) >> 56)
/* What software may write: not delivery status (12), remote IRR, nor the reserved bits. */
#define RTE_WRITABLE 0xff0000000001afffull

enum { DM_FIXED, DM_LOWEST, DM_SMI, DM_NMI = 4, DM_INIT, DM_EXTINT = 7 };

struct ioapic {
	struct dev dev;
	const struct trace *trace;
	struct ioapic_config cfg;
	u8 select;
	u32 id; /* in bits 27:24 */
	u64 rte[IOAPIC_PINS];
	u32 line; /* levels of the pins */
};

/* Only fixed and lowest priority can be level-triggered; the others are edges whatever is
 * programmed. */
static bool rte_level(u64 rte)
{
	return (rte & RTE_LEVEL) && RTE_MODE(rte) <= DM_LOWEST;
}

static bool ioapic_send(struct ioapic *a, unsigned pin)
{
	u64 rte = a->rte[pin];
	u64 addr = 0xfee00000 | RTE_DEST(rte) << 12 | (rte & RTE_LOGICAL ? 4 : 0);
	u32 data = (u32)(rte & (RTE_VECTOR | 0x700)) | 1 << 14 | (u32)rte_level(rte) << 15;
	bool taken;

	if (RTE_MODE(rte) == DM_LOWEST)
		addr |= 8; /* redirection hint */
	taken = a->cfg.msi(a->cfg.arg, addr, data);
	if (trace_on(a->trace, TRACE_IRQ))
		trace_msg(a->trace, "ioapic: pin %u sends %#llx to %#llx%s", pin,
		          (unsigned long long)data, (unsigned long long)addr,
		          taken ? "" : ", not taken");
	return taken;
}

/* A level that waits to be sent is. */
static void ioapic_serve_level(struct ioapic *a, unsigned pin)
{
	u64 *rte = &a->rte[pin];

	if (!(a->line & 1u << pin) || !rte_level(*rte) || (*rte & (RTE_MASKED | RTE_REMOTE_IRR)))
		return;
	/* Before it is sent: the EOI cannot come in between, but the order should not matter. */
	*rte |= RTE_REMOTE_IRR;
	if (!ioapic_send(a, pin))
		*rte &= ~RTE_REMOTE_IRR;
}

static void ioapic_set(void *dev, unsigned line, bool level)
{
	struct ioapic *a = dev;
	unsigned pin = line;
	u32 bit;
	bool rising;

	if (a->cfg.irq0_to_pin2) {
		if (line == 2)
			return;
		if (line == 0)
			pin = 2;
	}
	if (pin >= IOAPIC_PINS)
		return;
	bit = 1u << pin;
	rising = level && !(a->line & bit);
	a->line = level ? a->line | bit : a->line & ~bit;
	if (!rising)
		return;
	if (rte_level(a->rte[pin]))
		ioapic_serve_level(a, pin);
	else if (!(a->rte[pin] & RTE_MASKED))
		ioapic_send(a, pin);
}

void ioapic_eoi(void *dev, u8 vector)
{
	struct ioapic *a = dev;

	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
		u64 *rte = &a->rte[pin];

		if (!(*rte & RTE_REMOTE_IRR) || (*rte & RTE_VECTOR) != vector)
			continue;
		if (trace_on(a->trace, TRACE_IRQ))
			trace_msg(a->trace, "ioapic: EOI of %#x, pin %u", vector, pin);
		*rte &= ~RTE_REMOTE_IRR;
		ioapic_serve_level(a, pin);
	}
}

/* ---- registers ---- */

static u32 ioapic_read_reg(const struct ioapic *a)
{
	unsigned n = a->select - IOREDTBL;

	switch (a->select) {
	case IOAPICID:
	case IOAPICARB:
		return a->id; /* "loaded when the ID register is written" */
	case IOAPICVER:
		return a->cfg.version | (IOAPIC_PINS - 1) << 16;
	}
	if (n < 2 * IOAPIC_PINS)
		return (u32)(a->rte[n / 2] >> (n & 1 ? 32 : 0));
	return 0; /* reserved */
}

static void ioapic_write_reg(struct ioapic *a, u32 val)
{
	unsigned n = a->select - IOREDTBL, pin = n / 2;
	u64 rte, mask;

	if (a->select == IOAPICID)
		a->id = val & 0x0f000000;
	if (n >= 2 * IOAPIC_PINS)
		return; /* read-only or reserved */
	mask = RTE_WRITABLE & (n & 1 ? ~0ull << 32 : ~0u);
	rte = (a->rte[pin] & ~mask) | ((u64)val << (n & 1 ? 32 : 0) & mask);
	if (!rte_level(rte))
		rte &= ~RTE_REMOTE_IRR;
	a->rte[pin] = rte;
	if (trace_on(a->trace, TRACE_IRQ))
		trace_msg(a->trace, "ioapic: pin %u entry %#llx", pin, (unsigned long long)rte);
	ioapic_serve_level(a, pin);
}

static u64 ioapic_read(void *dev, u64 off, unsigned size)
{
	struct ioapic *a = dev;

	switch (off & ~3ull) {
	case IOREGSEL:
		return a->select >> ((off & 3) * 8);
	case IOWIN:
		return ioapic_read_reg(a) >> ((off & 3) * 8);
	}
	return 0;
}

static void ioapic_write(void *dev, u64 off, u64 val, unsigned size)
{
	struct ioapic *a = dev;

	switch (off) {
	case IOREGSEL:
		a->select = (u8)val;
		break;
	case IOWIN:
		if (size == 4) /* "must be accessed as a double word" */
			ioapic_write_reg(a, (u32)val);
		break;
	case IOEOI:
		if (a->cfg.version >= 0x20)
			ioapic_eoi(a, (u8)val);
		break;
	}
}

static const struct region_ops ioapic_ops = {ioapic_read, ioapic_write};

/* ---- device ---- */

static void ioapic_reset(struct dev *d)
{
	struct ioapic *a = container_of(d, struct ioapic, dev);

	a->select = 0;
	a->id = (u32)a->cfg.id << 24;
	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++)
		a->rte[pin] = RTE_MASKED;
}

static void ioapic_dump(struct dev *d, FILE *out)
{
	struct ioapic *a = container_of(d, struct ioapic, dev);

	fprintf(out, "ioapic: id %#x select %#x lines %06x\n", a->id >> 24, a->select, a->line);
	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++)
		if (a->rte[pin] != RTE_MASKED)
			fprintf(out, "  pin %u: %016llx\n", pin, (unsigned long long)a->rte[pin]);
}

static void ioapic_destroy(struct dev *d)
{
	free(container_of(d, struct ioapic, dev));
}

static const struct dev_ops ioapic_dev_ops = {
	.reset = ioapic_reset,
	.destroy = ioapic_destroy,
	.dump = ioapic_dump,
};

int ioapic_create(struct ioapic **out, const struct dev_env *env, const struct ioapic_config *cfg)
{
	struct region r = {
		.name = "ioapic", .base = IOAPIC_BASE, .len = PAGE_SIZE, .ops = &ioapic_ops};
	struct ioapic *a;
	int err;

	if ((cfg->version != 0x11 && cfg->version != 0x20) || cfg->id > 15) {
		log_error("ioapic: bad version or ID");
		return -EINVAL;
	}
	if (env->irq->nr_sinks == ARRAY_SIZE(env->irq->sink)) {
		log_error("ioapic: no free place in the interrupt router");
		return -ENOSPC;
	}
	a = calloc(1, sizeof(*a));
	if (!a) {
		log_error("ioapic: out of memory");
		return -ENOMEM;
	}
	a->dev = (struct dev){.name = "ioapic", .ops = &ioapic_dev_ops};
	a->trace = env->trace;
	a->cfg = *cfg;
	ioapic_reset(&a->dev);
	r.dev = a;
	err = bus_attach(env->bus, BUS_MMIO, &r);
	if (err) {
		free(a);
		return err;
	}
	env->irq->sink[env->irq->nr_sinks++] = (struct irq_sink){ioapic_set, a};
	dev_register(env, &a->dev);
	*out = a;
	return 0;
}
