// SPDX-License-Identifier: MIT
/* The host bridge as a guest sees it: configuration space by both ways in, masks, BARs that move,
 * pins, MSI and MSI-X. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "pcitest.h"

struct card {
	struct dev dev;
	struct pci_func f;
	u64 reg[2];
	unsigned config_writes;
};

struct st {
	struct pcitest p;
	struct card a, b;
};

static u64 card_read(void *dev, u64 off, unsigned size)
{
	struct card *c = dev;

	return c->reg[off >> 3 & 1] >> (off % 8 * 8);
}

static void card_write(void *dev, u64 off, u64 val, unsigned size)
{
	((struct card *)dev)->reg[off >> 3 & 1] = val;
}

static const struct region_ops card_region = {card_read, card_write};

static void card_config_write(struct pci_func *f, u32 off, unsigned size)
{
	container_of(f, struct card, f)->config_writes++;
}

static const struct pci_ops card_ops = {.config_write = card_config_write};

static void card_destroy(struct dev *d)
{
	pci_func_unplug(&container_of(d, struct card, dev)->f);
}

static const struct dev_ops card_dev_ops = {.destroy = card_destroy};

/* BAR 0: 8 KiB of memory; 1: 16 ports; 2 and 3: 128 MiB, 64-bit; 4 and 5: MSI-X with 70 vectors. */
static void card_make(struct st *st, struct card *c, u16 device)
{
	const struct pci_id id = {0x1234, device, 0x5678, 0x9abc, 0x020000, 7};
	struct region r = {.ops = &card_region, .dev = c};

	memset(c, 0, sizeof(*c));
	c->dev = (struct dev){.name = "card", .ops = &card_dev_ops};
	pci_func_init(&c->f, "card", &card_ops, &id);
	pci_add_bar(&c->f, 0, 0, 8192, &r);
	pci_add_bar(&c->f, 1, PCI_BAR_IO, 16, &r);
	pci_add_bar(&c->f, 2, PCI_BAR_MEM64 | PCI_BAR_PREFETCH, 128 * MiB, &r);
	pci_add_intx(&c->f);
	pci_add_msi(&c->f, 4);
	assert_int_equal(pci_add_msix(&c->f, 4, 70), 0);
	assert_int_equal(pci_func_plug(st->p.host, &c->f, -1), 0);
	dev_register(&st->p.t.env, &c->dev);
}

static int setup(void **state)
{
	struct st *st = malloc(sizeof(*st));

	assert_non_null(st);
	pcitest_init(&st->p, 0);
	card_make(st, &st->a, 1);
	card_make(st, &st->b, 2);
	assert_int_equal(pci_host_assign(st->p.host), 0);
	*state = st;
	return 0;
}

static int teardown(void **state)
{
	struct st *st = *state;

	pcitest_fini(&st->p);
	free(st);
	return 0;
}

static void test_two_ways(void **state)
{
	struct st *st = *state;
	struct devtest *t = &st->p.t;

	assert_int_equal(cfg_read(&st->p, 0, 0, 4), 0x00081b36);
	assert_int_equal(cfg_read(&st->p, 0, PCI_REVISION_ID, 4) >> 16, 0x0600);
	for (u32 off = 0; off < 256; off += 4) {
		outl(t, 0xcf8, 0x80000000 | 1 << 11 | off);
		assert_int_equal(inl(t, 0xcf8), 0x80000000 | 1 << 11 | off);
		assert_int_equal(inl(t, 0xcfc), cfg_read(&st->p, 1, off, 4));
		assert_int_equal(inw(t, 0xcfe), cfg_read(&st->p, 1, off + 2, 2));
		assert_int_equal(inb(t, 0xcfd), cfg_read(&st->p, 1, off + 1, 1));
	}
	/* without the enable bit, other buses, functions and empty slots: nobody */
	outl(t, 0xcf8, 1 << 11);
	assert_int_equal(inl(t, 0xcfc), 0xffffffff);
	outl(t, 0xcf8, 0x80000000 | 1 << 16);
	assert_int_equal(inl(t, 0xcfc), 0xffffffff);
	assert_int_equal(cfg_read(&st->p, 3, 0, 4), 0xffffffff);
	assert_int_equal(mmio_in(&st->p, ECAM + (1 << 15) + (1 << 12), 4), 0xffffffff);
	assert_int_equal(mmio_in(&st->p, ECAM + (1 << 20), 2), 0xffff);
	/* no extended configuration space */
	assert_int_equal(cfg_read(&st->p, 1, 0x100, 4), 0xffffffff);
	/* the reset register lies in the address register, and a byte is not the address */
	outl(t, 0xcf8, 0x80000800);
	outb(t, 0xcf9, 6);
	assert_int_equal(st->p.cf9, 6);
	assert_int_equal(inb(t, 0xcf9), 6);
	assert_int_equal(inl(t, 0xcf8), 0x80000800);
}

static void test_masks(void **state)
{
	struct st *st = *state;
	struct pcitest *p = &st->p;

	cfg_write(p, 1, 0, 0xffffffff, 4);
	cfg_write(p, 1, 8, 0xffffffff, 4);
	cfg_write(p, 1, 0x2c, 0, 4);
	assert_int_equal(cfg_read(p, 1, 0, 4), 0x00011234);
	assert_int_equal(cfg_read(p, 1, 8, 4), 0x02000007);
	assert_int_equal(cfg_read(p, 1, 0x2c, 4), 0x9abc5678);
	cfg_write(p, 1, PCI_COMMAND, 0xffff, 2);
	assert_int_equal(cfg_read(p, 1, PCI_COMMAND, 2), 0x407);
	cfg_write(p, 1, PCI_STATUS, 0xffff, 2);
	assert_int_equal(cfg_read(p, 1, PCI_STATUS, 2), 0x10);
	cfg_write(p, 1, PCI_INTERRUPT_LINE, 0xaa55, 2);
	assert_int_equal(cfg_read(p, 1, PCI_INTERRUPT_LINE, 2), 0x0155);
	/* w1c */
	st->a.f.config[0xd0] = 0xf0;
	st->a.f.w1c[0xd0] = 0x30;
	cfg_write(p, 1, 0xd0, 0x11, 1);
	assert_int_equal(cfg_read(p, 1, 0xd0, 1), 0xe0);
	assert_true(st->a.config_writes > 0);
}

static void test_sizing(void **state)
{
	static const u32 want[6] = {0xffffe000, 0xfff1,     0xf800000c,
	                            0xffffffff, 0xfffff004, 0xffffffff};
	struct st *st = *state;

	cfg_write(&st->p, 1, PCI_COMMAND, 0, 2);
	for (unsigned i = 0; i < 6; i++) {
		u32 at = PCI_BAR0 + 4 * i, old = cfg_read(&st->p, 1, at, 4);

		cfg_write(&st->p, 1, at, 0xffffffff, 4);
		assert_int_equal(cfg_read(&st->p, 1, at, 4), want[i]);
		cfg_write(&st->p, 1, at, old, 4);
		assert_int_equal(cfg_read(&st->p, 1, at, 4), old);
	}
}

static bool seen(struct st *st, struct card *c, u64 at)
{
	struct region r;

	return bus_find(st->p.t.bus, BUS_MMIO, at, &r) && r.dev == c && at >= r.base;
}

static void test_assigned(void **state)
{
	struct st *st = *state;

	for (unsigned slot = 1; slot <= 2; slot++) {
		struct card *c = slot == 1 ? &st->a : &st->b;
		u64 base = bar_base(&st->p, slot, 0);

		assert_true(base >= PCI_MEM && base + 8192 <= PCI_MEM + 256 * MiB);
		assert_int_equal(base % 8192, 0);
		assert_true(bar_base(&st->p, slot, 2) >= 64 * GiB);
		mmio_out(&st->p, base + 8, 0x1000 + slot, 4);
		assert_int_equal(c->reg[1], 0x1000 + slot);
		assert_int_equal(mmio_in(&st->p, bar_base(&st->p, slot, 2) + 8, 4), 0x1000 + slot);
		outl(&st->p.t, (u16)(cfg_read(&st->p, slot, PCI_BAR0 + 4, 4) & 0xfffc), slot);
		assert_int_equal(c->reg[0], slot);
	}
}

static void test_moving(void **state)
{
	struct st *st = *state;
	struct pcitest *p = &st->p;
	u64 a = bar_base(p, 1, 0), b = bar_base(p, 2, 0);
	u32 command = cfg_read(p, 1, PCI_COMMAND, 2);

	cfg_write(p, 1, PCI_BAR0, 0xd0000000, 4);
	assert_false(seen(st, &st->a, a));
	assert_true(seen(st, &st->a, 0xd0000000));
	/* over another one: it has to wait */
	cfg_write(p, 1, PCI_BAR0, (u32)b, 4);
	assert_true(seen(st, &st->b, b));
	cfg_write(p, 2, PCI_BAR0, 0xd1000000, 4);
	assert_true(seen(st, &st->a, b));
	assert_true(seen(st, &st->b, 0xd1000000));
	/* over the bridge's own memory, and 0 */
	cfg_write(p, 1, PCI_BAR0, (u32)ECAM, 4);
	assert_int_equal(cfg_read(p, 0, 0, 4), 0x00081b36);
	cfg_write(p, 1, PCI_BAR0, 0, 4);
	assert_false(seen(st, &st->a, 0));
	/* decoding off and on */
	cfg_write(p, 1, PCI_BAR0, (u32)a, 4);
	cfg_write(p, 1, PCI_COMMAND, command & ~2u, 2);
	assert_false(seen(st, &st->a, a));
	cfg_write(p, 1, PCI_COMMAND, command, 2);
	assert_true(seen(st, &st->a, a));
	/* a reset puts all back */
	cfg_write(p, 1, PCI_BAR0, 0xd0000000, 4);
	dev_reset_all(p->t.devices);
	assert_true(bar_base(p, 1, 0) == a && bar_base(p, 2, 0) == b);
	assert_true(seen(st, &st->a, a) && seen(st, &st->b, b));
}

static void bar64_set(struct st *st, u64 at)
{
	cfg_write(&st->p, 1, PCI_BAR0 + 8, (u32)at, 4);
	cfg_write(&st->p, 1, PCI_BAR0 + 12, (u32)(at >> 32), 4);
}

/* Places that a guest may give a BAR and no machine would: the end of all addresses, over the
 * processor's own, over itself, half and half. What answers there is the card or nobody. */
static void test_odd_places(void **state)
{
	struct st *st = *state;
	struct pcitest *p = &st->p;
	const u64 len = 128 * MiB, places[] = {0 - len, /* up to the last byte */
	                                       0xfee00000 & ~(len - 1),
	                                       1ull << 63,
	                                       1ull << 52,
	                                       64 * GiB - len,
	                                       len};

	cfg_write(p, 1, PCI_BAR0, 0xd0000000, 4);
	for (unsigned i = 0; i < ARRAY_SIZE(places); i++) {
		u64 at = places[i];

		bar64_set(st, at);
		assert_true(bar_base(p, 1, 2) == at);
		st->a.reg[1] = 0;
		mmio_out(p, at + len - 8, 0x1234 + i, 4);
		assert_int_equal(st->a.reg[1], 0x1234 + i);
		/* over its end, and over that of all addresses */
		st->a.reg[0] = st->a.reg[1] = 0;
		mmio_out(p, at + len - 2, ~0ull, 8);
		assert_int_equal(st->a.reg[0], 0);
		mmio_in(p, at + len - 1, 8);
		mmio_in(p, at - 4, 8);
	}
	/* over the card's own registers: one of the two, until it is gone */
	bar64_set(st, 0xd0000000);
	assert_true(seen(st, &st->a, 0xd0000000));
	/* half an address at a time, with decoding on */
	for (u32 i = 0; i < 64; i++) {
		cfg_write(p, 1, PCI_BAR0 + 12, 1u << (i & 31), 4);
		cfg_write(p, 1, PCI_BAR0 + 8 + (i & 3), ~0u << (i & 31), 1);
		mmio_in(p, bar_base(p, 1, 2), 8);
	}
	/* ports: at the end of their space, over the bridge's */
	cfg_write(p, 1, PCI_COMMAND, 3, 2);
	for (u32 port = 0; port < 0x10000; port += 0x7f0) {
		cfg_write(p, 1, PCI_BAR0 + 4, port, 4);
		outl(&p->t, (u16)port, port);
	}
	cfg_write(p, 1, PCI_BAR0 + 4, 0xffff, 4);
	outl(&p->t, 0xfffe, 1);
	inl(&p->t, 0xffff);
	cfg_write(p, 1, PCI_BAR0 + 4, 0xcf0, 4);
	outl(&p->t, 0xcf8, 0x80000000);
	assert_int_equal(inl(&p->t, 0xcfc), 0x00081b36);
	dev_reset_all(p->t.devices);
	assert_true(seen(st, &st->a, bar_base(p, 1, 0)));
}

static void test_pins(void **state)
{
	struct st *st = *state;
	const bool *level = st->p.t.irq.level;

	pci_set_intx(&st->a.f, true);
	assert_true(level[17] && !level[18]);
	assert_int_equal(cfg_read(&st->p, 1, PCI_STATUS, 2) & 8, 8);
	cfg_write(&st->p, 1, PCI_COMMAND, 0x402, 2);
	assert_false(level[17]);
	assert_int_equal(cfg_read(&st->p, 1, PCI_STATUS, 2) & 8, 8);
	cfg_write(&st->p, 1, PCI_COMMAND, 2, 2);
	assert_true(level[17]);
	pci_set_intx(&st->a.f, false);
	assert_false(level[17]);
	assert_int_equal(cfg_read(&st->p, 1, PCI_STATUS, 2) & 8, 0);
}

static void msix_entry(struct st *st, unsigned n, u32 addr, u32 data, u32 control)
{
	u64 at = bar_base(&st->p, 1, 4) + 16ull * n;

	mmio_out(&st->p, at, addr, 4);
	mmio_out(&st->p, at + 4, 0, 4);
	mmio_out(&st->p, at + 8, (u64)control << 32 | data, 8);
}

static u64 msix_pending(struct st *st, unsigned word)
{
	u32 cap = cfg_cap(&st->p, 1, PCI_CAP_ID_MSIX, 0);

	return mmio_in(
		&st->p,
		bar_base(&st->p, 1, 4) + (cfg_read(&st->p, 1, cap + 8, 4) & ~7u) + 8ull * word, 8);
}

static void test_msix(void **state)
{
	struct st *st = *state;
	struct pcitest *p = &st->p;
	u32 cap = cfg_cap(p, 1, PCI_CAP_ID_MSIX, 0);

	assert_int_equal(cfg_read(p, 1, cap + 2, 2), 69);
	assert_int_equal(cfg_read(p, 1, cap + 4, 4), 4);            /* BAR 4, offset 0 */
	assert_int_equal(mmio_in(p, bar_base(p, 1, 4) + 12, 4), 1); /* masked */
	cfg_write(p, 1, PCI_COMMAND, 6, 2);
	pci_msix_notify(&st->a.f, 3);
	assert_int_equal(p->msis, 0);
	assert_true(msix_pending(st, 0) == 8);
	cfg_write(p, 1, cap + 2, 0x8000, 2);
	assert_int_equal(p->msis, 0); /* the entry is masked */
	msix_entry(st, 3, 0xfee01000, 0x4321, 0);
	assert_int_equal(p->msis, 1);
	assert_true(p->msi_addr == 0xfee01000 && p->msi_data == 0x4321);
	assert_true(msix_pending(st, 0) == 0);
	pci_msix_notify(&st->a.f, 3);
	assert_int_equal(p->msis, 2);
	/* the function's mask, and bus mastering */
	cfg_write(p, 1, cap + 2, 0xc000, 2);
	pci_msix_notify(&st->a.f, 3);
	msix_entry(st, 69, 0xfee02000, 0x69, 0);
	pci_msix_notify(&st->a.f, 69);
	pci_msix_notify(&st->a.f, 70);
	assert_int_equal(p->msis, 2);
	assert_true(msix_pending(st, 0) == 8 && msix_pending(st, 1) == 1u << 5);
	cfg_write(p, 1, PCI_COMMAND, 2, 2);
	cfg_write(p, 1, cap + 2, 0x8000, 2);
	assert_int_equal(p->msis, 2);
	cfg_write(p, 1, PCI_COMMAND, 6, 2);
	assert_int_equal(p->msis, 4);
	assert_int_equal(p->msi_data, 0x69);
	/* reserved bits, pending bits and gaps are not writable */
	msix_entry(st, 5, 0xfee00000, 0, 0xfffffffe);
	assert_int_equal(mmio_in(p, bar_base(p, 1, 4) + 5 * 16 + 12, 4), 0);
	mmio_out(p, bar_base(p, 1, 4) + 0x800, ~0ull, 8);
	assert_true(msix_pending(st, 0) == 0);
	mmio_out(p, bar_base(p, 1, 4) + 70 * 16, ~0ull, 8);
	assert_true(mmio_in(p, bar_base(p, 1, 4) + 70 * 16, 8) == 0);
	/* misaligned */
	mmio_out(p, bar_base(p, 1, 4) + 5 * 16 + 2, 0xffffffff, 4);
	assert_int_equal(mmio_in(p, bar_base(p, 1, 4) + 5 * 16, 4), 0xfee00000);
	dev_reset_all(p->t.devices);
	assert_false(pci_msix_enabled(&st->a.f));
	assert_int_equal(mmio_in(p, bar_base(p, 1, 4) + 3 * 16 + 8, 8), 1ull << 32);
}

/* Every width at every place of the MSI-X BAR, and of configuration space behind its end. */
static void test_all_widths(void **state)
{
	struct st *st = *state;
	struct pcitest *p = &st->p;
	u64 at = bar_base(p, 1, 4), len = st->a.f.bar[4].len;

	cfg_write(p, 1, PCI_COMMAND, 6, 2);
	cfg_write(p, 1, cfg_cap(p, 1, PCI_CAP_ID_MSIX, 0) + 2, 0x8000, 2);
	for (u64 off = 0; off < len + 8; off++)
		for (unsigned size = 1; size <= 8; size *= 2) {
			mmio_out(p, at + off, 0x9e3779b97f4a7c15ull * (off + 1), size);
			mmio_in(p, at + off, size);
		}
	for (unsigned v = 0; v < 200; v++)
		pci_msix_notify(&st->a.f, v);
	assert_true(msix_pending(st, 1) >> 6 == 0); /* 70 vectors */
	for (u32 off = 0; off < 0x1010; off++)
		for (unsigned size = 1; size <= 8; size *= 2) {
			u64 v = bus_read(p->t.bus, BUS_MMIO, ECAM + (2 << 15) + off, size);

			if (off >= PCI_CONFIG_SIZE && off + size <= 0x1000)
				assert_true(v == size_mask(size));
		}
}

static void test_msi(void **state)
{
	struct st *st = *state;
	struct pcitest *p = &st->p;
	u32 cap = cfg_cap(p, 1, PCI_CAP_ID_MSI, 0);

	assert_int_equal(cfg_read(p, 1, cap + 2, 2), 0x184); /* masks, 64 bits, 4 vectors */
	cfg_write(p, 1, PCI_COMMAND, 6, 2);
	cfg_write(p, 1, cap + 4, 0xfee03003, 4);
	cfg_write(p, 1, cap + 12, 0x41, 2);
	assert_int_equal(cfg_read(p, 1, cap + 4, 4), 0xfee03000);
	pci_msi_notify(&st->a.f, 2);
	assert_int_equal(p->msis, 0);
	assert_int_equal(cfg_read(p, 1, cap + 20, 4), 4);
	cfg_write(p, 1, cap + 2, 0x21, 2); /* on, 4 vectors */
	assert_int_equal(p->msis, 1);
	assert_true(p->msi_addr == 0xfee03000 && p->msi_data == 0x42);
	assert_int_equal(cfg_read(p, 1, cap + 20, 4), 0);
	cfg_write(p, 1, cap + 16, 0xffffffff, 4);
	assert_int_equal(cfg_read(p, 1, cap + 16, 4), 0xf);
	pci_msi_notify(&st->a.f, 1);
	pci_msi_notify(&st->a.f, 4);
	assert_int_equal(p->msis, 1);
	cfg_write(p, 1, cap + 16, 0, 4);
	assert_int_equal(p->msis, 2);
	assert_int_equal(p->msi_data, 0x41);
	/* with one vector granted all are the same message */
	cfg_write(p, 1, cap + 2, 0x01, 2);
	pci_msi_notify(&st->a.f, 3);
	assert_int_equal(p->msi_data, 0x41);
	/* a grant of more than there are */
	cfg_write(p, 1, cap + 2, 0x71, 2);
	pci_msi_notify(&st->a.f, 3);
	assert_int_equal(p->msi_data, 0x43);
}

static void test_full_bus(void **state)
{
	struct st *st = *state;
	struct pci_func *f = calloc(30, sizeof(*f));
	const struct pci_id id = {0x1234, 9, 0, 0, 0, 0};
	unsigned n = 0;

	assert_non_null(f);
	for (; n < 29; n++) {
		pci_func_init(&f[n], "x", NULL, &id);
		assert_int_equal(pci_func_plug(st->p.host, &f[n], -1), 0);
	}
	pci_func_init(&f[n], "x", NULL, &id);
	assert_int_not_equal(pci_func_plug(st->p.host, &f[n], -1), 0);
	assert_int_not_equal(pci_func_plug(st->p.host, &f[n], 7), 0);
	assert_int_equal(cfg_read(&st->p, 31, 0, 4), 0x91234);
	for (unsigned i = 0; i <= n; i++)
		pci_func_unplug(&f[i]);
	assert_int_equal(cfg_read(&st->p, 31, 0, 4), 0xffffffff);
	free(f);
}

/* One thread reads through a BAR while another moves it: an access finds the card, or nothing. */
static void *reader(void *arg)
{
	struct st *st = arg;

	for (unsigned i = 0; i < 20000; i++) {
		u64 v = mmio_in(&st->p, 0xd0000000, 4);

		if (v != 0xffffffff && v != 0x600d)
			return arg;
	}
	return NULL;
}

static void test_threads(void **state)
{
	struct st *st = *state;
	pthread_t th[2];
	void *bad;

	st->a.reg[0] = 0x600d;
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(pthread_create(&th[i], NULL, reader, st), 0);
	for (unsigned i = 0; i < 3000; i++)
		cfg_write(&st->p, 1, PCI_BAR0, i & 1 ? 0xd0000000 : 0xd0100000, 4);
	for (unsigned i = 0; i < 2; i++) {
		pthread_join(th[i], &bad);
		assert_null(bad);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_two_ways, setup, teardown),
		cmocka_unit_test_setup_teardown(test_masks, setup, teardown),
		cmocka_unit_test_setup_teardown(test_sizing, setup, teardown),
		cmocka_unit_test_setup_teardown(test_assigned, setup, teardown),
		cmocka_unit_test_setup_teardown(test_moving, setup, teardown),
		cmocka_unit_test_setup_teardown(test_odd_places, setup, teardown),
		cmocka_unit_test_setup_teardown(test_all_widths, setup, teardown),
		cmocka_unit_test_setup_teardown(test_pins, setup, teardown),
		cmocka_unit_test_setup_teardown(test_msix, setup, teardown),
		cmocka_unit_test_setup_teardown(test_msi, setup, teardown),
		cmocka_unit_test_setup_teardown(test_full_bus, setup, teardown),
		cmocka_unit_test_setup_teardown(test_threads, setup, teardown),
	};

	log_set_level(LOG_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
