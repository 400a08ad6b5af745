// SPDX-License-Identifier: MIT
/* A stream of accesses to configuration space (ports and ECAM), to BARs wherever they are, and of
 * the device's own interrupts, on a host bridge with two functions. Invariants: registers that are
 * not writable stay, and nothing but the two functions, the bridge's regions and empty space
 * answers. */
#include "../test/unit/pcitest.h"

struct input {
	const u8 *p;
	size_t left;
};

struct card {
	struct dev dev;
	struct pci_func f;
};

int LLVMFuzzerTestOneInput(const u8 *data, size_t size);

static u64 take(struct input *in, unsigned n)
{
	u64 v = 0;

	for (unsigned i = 0; i < n && in->left; i++, in->left--)
		v |= (u64)*in->p++ << (i * 8);
	return v;
}

static u64 card_read(void *dev, u64 off, unsigned size)
{
	return off;
}

static void card_write(void *dev, u64 off, u64 val, unsigned size)
{
}

static const struct region_ops card_region = {card_read, card_write};

static void card_destroy(struct dev *d)
{
	struct card *c = container_of(d, struct card, dev);

	pci_func_unplug(&c->f);
	free(c);
}

static const struct dev_ops card_ops = {.destroy = card_destroy};

static struct card *card_make(struct pcitest *p, u16 device)
{
	const struct pci_id id = {0x1234, device, 0x1234, device, 0x020000, 0};
	struct card *c = calloc(1, sizeof(*c));
	struct region r = {.ops = &card_region, .dev = c};

	if (!c)
		abort();
	c->dev = (struct dev){.name = "card", .ops = &card_ops};
	pci_func_init(&c->f, "card", NULL, &id);
	pci_add_bar(&c->f, 0, 0, 4096, &r);
	pci_add_bar(&c->f, 1, PCI_BAR_IO, 32, &r);
	pci_add_bar(&c->f, 2, PCI_BAR_MEM64, 1 * MiB, &r);
	pci_add_intx(&c->f);
	pci_add_msi(&c->f, 8);
	if (pci_add_msix(&c->f, 4, 67) || pci_func_plug(p->host, &c->f, -1))
		abort();
	dev_register(&p->t.env, &c->dev);
	return c;
}

static void step(struct pcitest *p, struct card *c[2], struct input *in)
{
	u8 op = (u8)take(in, 1);
	unsigned size = 1u << (op >> 6), n = op >> 3 & 1, slot = op >> 3 & 3;
	u64 at;

	switch (op & 7) {
	case 0:
		cfg_write(p, slot, (u32)take(in, 1), (u32)take(in, 4), MIN(size, 4u));
		break;
	case 1:
		at = ECAM + (take(in, 3) & 0xfffffff);
		mmio_out(p, at, take(in, size), size);
		mmio_in(p, at, size);
		break;
	case 2:
		outl(&p->t, 0xcf8, (u32)take(in, 4) | 0x80000000);
		bus_write(p->t.bus, BUS_PIO, 0xcf8 + take(in, 1) % 8, take(in, 4), MIN(size, 4u));
		bus_read(p->t.bus, BUS_PIO, 0xcf8 + (op >> 3), MIN(size, 4u));
		break;
	case 3:
	case 4: /* where the BARs are now */
		at = bar_base(p, 1 + n, op & 0x10 ? 4 : op & 0x20 ? 2 : 0) + take(in, 2);
		mmio_out(p, at, take(in, size), size);
		mmio_in(p, at, size);
		break;
	case 5:
		pci_msix_notify(&c[n]->f, (unsigned)take(in, 1));
		pci_msi_notify(&c[n]->f, (unsigned)take(in, 1) & 15);
		break;
	case 6:
		pci_set_intx(&c[n]->f, op & 0x40);
		break;
	case 7:
		if (take(in, 1) == 0xaa)
			dev_reset_all(p->t.devices);
		break;
	}
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	static FILE *null;
	struct pcitest *p = malloc(sizeof(*p));
	struct input in = {data, size};
	struct card *c[2];

	if (!null) {
		null = fopen("/dev/null", "w");
		log_set_level(LOG_ERROR);
	}
	if (!p || !null)
		abort();
	pcitest_init(p, 0);
	c[0] = card_make(p, 1);
	c[1] = card_make(p, 2);
	if (pci_host_assign(p->host))
		abort();
	for (unsigned i = 0; in.left && i < 3000; i++)
		step(p, c, &in);
	if (cfg_read(p, 0, 0, 4) != 0x00081b36 || cfg_read(p, 1, 0, 4) != 0x00011234 ||
	    cfg_read(p, 2, 0, 4) != 0x00021234 || cfg_read(p, 3, 0, 4) != ~0u)
		abort();
	for (struct dev *d = p->t.devices; d; d = d->next)
		if (d->ops->dump)
			d->ops->dump(d, null);
	pcitest_fini(p);
	free(p);
	return 0;
}
