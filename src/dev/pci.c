// SPDX-License-Identifier: MIT
/* The host bridge: configuration space by ports 0xcf8/0xcfc (PCI Local Bus 3.0, section 3.2.2.3.2)
 * and by ECAM (PCI Express Base 5.0, section 7.2.2), BARs, interrupt pins.
 *
 * One bus, devices with one function each. The bridge has the identity of QEMU's generic
 * PCI Express host bridge, which promises no registers beyond the standard ones: a chipset that
 * firmware knows is asked for shadow RAM, SMM and a place for ECAM.
 *
 * A BAR that the guest puts over another region is not seen until that place is free: which of two
 * devices answers on a real bus is not defined either. RAM wins over every BAR, since it is no
 * region of the bus. */
#include "dev/pci.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define CONFIG_ADDRESS 0xcf8
#define CONFIG_DATA    0xcfc
#define ADDRESS_ENABLE BIT(31)
#define ECAM_LEN       (256 * MiB)

#define REDHAT_VENDOR_ID  0x1b36
#define GENERIC_BRIDGE    0x0008
#define CLASS_BRIDGE_HOST 0x060000

struct pci_host {
	struct dev dev;
	struct dev_env env;
	struct pci_host_config cfg;
	struct pci_func *func[PCI_NR_SLOTS];
	struct pci_func bridge;
	u32 address;              /* CONFIG_ADDRESS */
	u8 asserted[PCI_NR_INTX]; /* functions that assert each line */
	struct ratelimit rl;
};

/* ---- making a function ---- */

void pci_set_writable(struct pci_func *f, u32 off, u32 mask, unsigned size)
{
	memcpy(f->wmask + off, &mask, size);
}

void pci_func_init(struct pci_func *f, const char *name, const struct pci_ops *ops,
                   const struct pci_id *id)
{
	memset(f, 0, sizeof(*f));
	pthread_mutex_init(&f->msi_lock, NULL);
	f->name = name;
	f->ops = ops;
	f->cap_end = 0x40;
	put_le16(f->config + PCI_VENDOR_ID, id->vendor);
	put_le16(f->config + PCI_DEVICE_ID, id->device);
	put_le16(f->config + PCI_SUBSYSTEM_VENDOR_ID, id->subsystem_vendor);
	put_le16(f->config + PCI_SUBSYSTEM_ID, id->subsystem);
	f->config[PCI_REVISION_ID] = id->revision;
	f->config[PCI_CLASS_PROG] = (u8)id->class_code;
	put_le16(f->config + PCI_CLASS_PROG + 1, (u16)(id->class_code >> 8));
	pci_set_writable(f, PCI_COMMAND, PCI_COMMAND_MASTER, 2);
	f->wmask[PCI_CACHE_LINE_SIZE] = 0xff;
	f->wmask[PCI_INTERRUPT_LINE] = 0xff;
}

void pci_add_bar(struct pci_func *f, unsigned nr, u8 kind, u64 len, const struct region *r)
{
	u32 off = PCI_BAR0 + 4 * nr;
	u64 mask = ~(len - 1);

	if (nr + (kind & PCI_BAR_MEM64 ? 1 : 0) >= PCI_NR_BARS || f->bar[nr].len ||
	    (len & (len - 1)) || len < (kind & PCI_BAR_IO ? 4 : 16))
		bug("%s: bad BAR %u", f->name, nr);
	f->bar[nr] = (struct pci_bar){.len = len, .region = *r, .kind = kind};
	f->bar[nr].region.name = f->name;
	f->bar[nr].region.len = len;
	put_le32(f->config + off, kind);
	if (kind & PCI_BAR_IO) {
		pci_set_writable(f, off, (u32)mask & 0xffff, 4);
		f->wmask[PCI_COMMAND] |= PCI_COMMAND_IO;
	} else {
		pci_set_writable(f, off, (u32)mask, 4);
		f->wmask[PCI_COMMAND] |= PCI_COMMAND_MEMORY;
		if (kind & PCI_BAR_MEM64)
			pci_set_writable(f, off + 4, (u32)(mask >> 32), 4);
	}
}

u8 pci_add_capability(struct pci_func *f, u8 id, u8 len)
{
	u8 off = f->cap_end;
	u32 end = ALIGN_UP((u32)off + len, 4u);

	if (end >= PCI_CONFIG_SIZE)
		bug("%s: no room for capability %#x", f->name, id);
	f->config[off] = id;
	f->config[f->cap_last ? f->cap_last + 1 : PCI_CAPABILITIES] = off;
	f->config[PCI_STATUS] |= PCI_STATUS_CAP_LIST;
	f->cap_last = off;
	f->cap_end = (u8)end;
	return off;
}

void pci_add_intx(struct pci_func *f)
{
	f->config[PCI_INTERRUPT_PIN] = 1;
	f->wmask[PCI_COMMAND + 1] |= PCI_COMMAND_INTX_OFF >> 8;
}

/* ---- BARs ---- */

static u64 bar_address(const struct pci_func *f, unsigned nr)
{
	const struct pci_bar *b = &f->bar[nr];
	const u8 *reg = f->config + PCI_BAR0 + (size_t)4 * nr;

	if (b->kind & PCI_BAR_IO)
		return get_le32(reg) & 0xfffc;
	return (get_le32(reg) & ~0xfu) |
	       (b->kind & PCI_BAR_MEM64 ? (u64)get_le32(reg + 4) << 32 : 0);
}

static enum bus_space bar_space(const struct pci_bar *b)
{
	return b->kind & PCI_BAR_IO ? BUS_PIO : BUS_MMIO;
}

static bool bar_decodes(const struct pci_func *f, unsigned nr)
{
	const struct pci_bar *b = &f->bar[nr];
	u16 want = b->kind & PCI_BAR_IO ? PCI_COMMAND_IO : PCI_COMMAND_MEMORY;

	/* 0 is what an unassigned BAR has. */
	return b->len && (get_le16(f->config + PCI_COMMAND) & want) && bar_address(f, nr);
}

static void bar_detach(struct pci_func *f, unsigned nr)
{
	struct pci_bar *b = &f->bar[nr];

	if (b->attached)
		bus_detach(f->host->env.bus, bar_space(b), b->region.base);
	b->attached = false;
}

/* Detach what moved, then attach: also what had to wait for its place. */
static void bars_update(struct pci_host *h)
{
	for (unsigned s = 0; s < PCI_NR_SLOTS; s++) {
		struct pci_func *f = h->func[s];

		for (unsigned i = 0; f && i < PCI_NR_BARS; i++)
			if (!bar_decodes(f, i) || f->bar[i].region.base != bar_address(f, i))
				bar_detach(f, i);
	}
	for (unsigned s = 0; s < PCI_NR_SLOTS; s++) {
		struct pci_func *f = h->func[s];

		for (unsigned i = 0; f && i < PCI_NR_BARS; i++) {
			struct pci_bar *b = &f->bar[i];

			if (b->attached || !bar_decodes(f, i))
				continue;
			b->region.base = bar_address(f, i);
			if (bus_is_free(h->env.bus, bar_space(b), b->region.base, b->len))
				b->attached = !bus_attach(h->env.bus, bar_space(b), &b->region);
			else
				guest_warn(&h->rl,
				           "PCI device %u (%s): BAR %u at %#llx is in the "
				           "way of something else",
				           s, f->name, i, (unsigned long long)b->region.base);
		}
	}
}

/* ---- interrupt pins ---- */

static void intx_update(struct pci_func *f)
{
	struct pci_host *h = f->host;
	unsigned line = f->slot % PCI_NR_INTX; /* + pin A */
	bool show = f->intx && !(get_le16(f->config + PCI_COMMAND) & PCI_COMMAND_INTX_OFF);

	if (f->intx)
		f->config[PCI_STATUS] |= PCI_STATUS_INTERRUPT;
	else
		f->config[PCI_STATUS] &= (u8)~PCI_STATUS_INTERRUPT;
	if (show == f->intx_shown)
		return;
	f->intx_shown = show;
	h->asserted[line] = (u8)(h->asserted[line] + (show ? 1 : -1));
	irq_set(h->env.irq, h->cfg.gsi_base + line, h->asserted[line]);
}

void pci_set_intx(struct pci_func *f, bool level)
{
	f->intx = level;
	intx_update(f);
}

/* ---- configuration space ---- */

static struct pci_func *func_at(struct pci_host *h, u16 bdf)
{
	return bdf >> 3 < PCI_NR_SLOTS && !(bdf & 7) ? h->func[bdf >> 3] : NULL;
}

u32 pci_config_read(struct pci_host *h, u16 bdf, u32 off, unsigned size)
{
	struct pci_func *f = func_at(h, bdf);
	u32 v = 0;

	if (!f || off > PCI_CONFIG_SIZE - size)
		return ~0u;
	pci_msi_config_read(f);
	if (f->ops && f->ops->config_read)
		f->ops->config_read(f, off, size);
	memcpy(&v, f->config + off, size);
	return v;
}

static bool touches(u32 off, unsigned size, u32 reg, u32 len)
{
	return off < reg + len && reg < off + size;
}

void pci_config_write(struct pci_host *h, u16 bdf, u32 off, u32 val, unsigned size)
{
	struct pci_func *f = func_at(h, bdf);

	if (!f || off > PCI_CONFIG_SIZE - size)
		return;
	for (unsigned i = 0; i < size; i++) {
		u8 v = (u8)(val >> (8 * i)), m = f->wmask[off + i];
		u8 *c = &f->config[off + i];

		*c = (u8)((*c & ~m) | (v & m));
		*c &= (u8) ~(v & f->w1c[off + i]);
	}
	if (touches(off, size, PCI_COMMAND, 2)) {
		bars_update(h);
		intx_update(f);
	} else if (touches(off, size, PCI_BAR0, 4 * PCI_NR_BARS)) {
		bars_update(h);
	}
	pci_msi_config_written(f);
	if (f->ops && f->ops->config_write)
		f->ops->config_write(f, off, size);
}

static u64 ecam_read(void *dev, u64 off, unsigned size)
{
	return off & (size - 1) ? ~0ull : pci_config_read(dev, (u16)(off >> 12), off & 0xfff, size);
}

static void ecam_write(void *dev, u64 off, u64 val, unsigned size)
{
	if (!(off & (size - 1)))
		pci_config_write(dev, (u16)(off >> 12), off & 0xfff, (u32)val, size);
}

/* Only a doubleword goes to the address register; a byte at 0xcf9 is the reset register of the chip
 * set, other accesses go through the bridge to a bus where nobody answers. */
static u64 address_read(void *dev, u64 off, unsigned size)
{
	struct pci_host *h = dev;

	if (!off && size == 4)
		return h->address;
	if (off == 1 && size == 1 && h->cfg.cf9_read)
		return h->cfg.cf9_read(h->cfg.cf9_arg);
	return ~0ull;
}

static void address_write(void *dev, u64 off, u64 val, unsigned size)
{
	struct pci_host *h = dev;

	if (!off && size == 4)
		h->address = (u32)val & 0x80fffffc;
	else if (off == 1 && size == 1 && h->cfg.cf9_write)
		h->cfg.cf9_write(h->cfg.cf9_arg, (u8)val);
}

static u64 data_read(void *dev, u64 off, unsigned size)
{
	struct pci_host *h = dev;

	if (!(h->address & ADDRESS_ENABLE) || off + size > 4)
		return ~0ull;
	return pci_config_read(h, (u16)(h->address >> 8), (h->address & 0xfc) + (u32)off, size);
}

static void data_write(void *dev, u64 off, u64 val, unsigned size)
{
	struct pci_host *h = dev;

	if ((h->address & ADDRESS_ENABLE) && off + size <= 4)
		pci_config_write(h, (u16)(h->address >> 8), (h->address & 0xfc) + (u32)off,
		                 (u32)val, size);
}

static const struct region_ops ecam_ops = {ecam_read, ecam_write};
static const struct region_ops address_ops = {address_read, address_write};
static const struct region_ops data_ops = {data_read, data_write};

/* ---- the bus ---- */

int pci_func_plug(struct pci_host *h, struct pci_func *f, int slot)
{
	if (slot < 0)
		for (slot = 1; slot < PCI_NR_SLOTS && h->func[slot]; slot++)
			;
	if (slot >= PCI_NR_SLOTS) {
		log_error("%s: all %d PCI slots are taken; use fewer devices", f->name,
		          PCI_NR_SLOTS);
		return -ENOSPC;
	}
	if (h->func[slot]) {
		log_error("%s: PCI slot %d is taken by %s", f->name, slot, h->func[slot]->name);
		return -EBUSY;
	}
	f->host = h;
	f->slot = (u8)slot;
	memcpy(f->start, f->config, sizeof(f->start));
	h->func[slot] = f;
	return 0;
}

void pci_func_unplug(struct pci_func *f)
{
	struct pci_host *h = f->host;

	if (h) {
		for (unsigned i = 0; i < PCI_NR_BARS; i++)
			bar_detach(f, i);
		pci_set_intx(f, false);
		h->func[f->slot] = NULL;
	}
	f->host = NULL;
	free(f->msix_table);
	free(f->msix_pba);
	f->msix_table = NULL;
	f->msix_pba = NULL;
	pthread_mutex_destroy(&f->msi_lock);
}

bool pci_send_msi(struct pci_host *h, u64 addr, u32 data)
{
	return h->cfg.msi && h->cfg.msi(h->cfg.msi_arg, addr, data);
}

/* ---- assignment ---- */

struct window {
	u64 next, end;
};

static bool window_take(struct window *w, u64 len, u64 *at)
{
	u64 base = ALIGN_UP(w->next, len);

	if (base < w->next || base > w->end || len > w->end - base)
		return false;
	*at = base;
	w->next = base + len;
	return true;
}

static void bar_place(struct pci_func *f, unsigned nr, u64 at)
{
	u8 *reg = f->start + PCI_BAR0 + (size_t)4 * nr;

	put_le32(reg, (u32)at | f->bar[nr].kind);
	if (f->bar[nr].kind & PCI_BAR_MEM64)
		put_le32(reg + 4, (u32)(at >> 32));
	f->start[PCI_COMMAND] |= f->bar[nr].kind & PCI_BAR_IO ? PCI_COMMAND_IO : PCI_COMMAND_MEMORY;
}

/* All BARs of one length: largest first wastes nothing by alignment. */
static int assign_length(struct pci_host *h, u64 len, struct window *io, struct window *low,
                         struct window *high)
{
	for (unsigned s = 0; s < PCI_NR_SLOTS; s++) {
		struct pci_func *f = h->func[s];

		for (unsigned i = 0; f && i < PCI_NR_BARS; i++) {
			const struct pci_bar *b = &f->bar[i];
			u64 at;
			bool ok;

			if (b->len != len)
				continue;
			if (b->kind & PCI_BAR_IO)
				ok = window_take(io, len, &at);
			else if (b->kind & PCI_BAR_MEM64 && len > 64 * MiB)
				ok = window_take(high, len, &at);
			else
				ok = window_take(low, len, &at);
			if (!ok) {
				log_error("%s: no address space for a BAR of %llu bytes", f->name,
				          (unsigned long long)len);
				return -ENOSPC;
			}
			bar_place(f, i, at);
		}
	}
	return 0;
}

static void funcs_reset(struct pci_host *h)
{
	for (unsigned s = 0; s < PCI_NR_SLOTS; s++) {
		struct pci_func *f = h->func[s];

		if (!f)
			continue;
		memcpy(f->config, f->start, sizeof(f->config));
		pci_msi_reset(f);
		intx_update(f);
	}
	bars_update(h);
}

int pci_host_assign(struct pci_host *h)
{
	const struct pci_host_config *c = &h->cfg;
	struct window io = {c->io_base, c->io_base + (u64)c->io_len};
	struct window low = {c->mem_base, c->mem_base + c->mem_len};
	struct window high = {c->mem64_base, c->mem64_base + c->mem64_len};
	int err = 0;

	for (u64 len = BIT(63); len >= 4 && !err; len >>= 1)
		err = assign_length(h, len, &io, &low, &high);
	if (!err)
		funcs_reset(h);
	return err;
}

/* ---- the device ---- */

static void pci_host_reset(struct dev *d)
{
	struct pci_host *h = container_of(d, struct pci_host, dev);

	h->address = 0;
	funcs_reset(h);
}

static void pci_host_dump(struct dev *d, FILE *out)
{
	struct pci_host *h = container_of(d, struct pci_host, dev);

	for (unsigned s = 0; s < PCI_NR_SLOTS; s++) {
		struct pci_func *f = h->func[s];

		if (!f)
			continue;
		fprintf(out, "pci 00:%02x.0: %04x:%04x %s, command %04x%s%s%s\n", s,
		        get_le16(f->config), get_le16(f->config + PCI_DEVICE_ID), f->name,
		        get_le16(f->config + PCI_COMMAND), f->intx_shown ? ", INTA" : "",
		        f->msi_on ? ", MSI" : "", f->msix_on ? ", MSI-X" : "");
		for (unsigned i = 0; i < PCI_NR_BARS; i++)
			if (f->bar[i].len)
				fprintf(out, "  BAR %u: %#llx, %#llx bytes%s\n", i,
				        (unsigned long long)bar_address(f, i),
				        (unsigned long long)f->bar[i].len,
				        f->bar[i].attached ? "" : ", not decoded");
	}
}

static void pci_host_destroy(struct dev *d)
{
	struct pci_host *h = container_of(d, struct pci_host, dev);

	pci_func_unplug(&h->bridge);
	bus_detach(h->env.bus, BUS_MMIO, h->cfg.ecam_base);
	bus_detach(h->env.bus, BUS_PIO, CONFIG_ADDRESS);
	bus_detach(h->env.bus, BUS_PIO, CONFIG_DATA);
	free(h);
}

static const struct dev_ops pci_host_ops = {
	.reset = pci_host_reset,
	.destroy = pci_host_destroy,
	.dump = pci_host_dump,
};

static int attach_regions(struct pci_host *h)
{
	const struct region ecam = {"pci-ecam", h->cfg.ecam_base, ECAM_LEN, .ops = &ecam_ops,
	                            .dev = h};
	const struct region address = {"pci-address", CONFIG_ADDRESS, 4, .ops = &address_ops,
	                               .dev = h};
	const struct region data = {"pci-data", CONFIG_DATA, 4, .ops = &data_ops, .dev = h};
	int err = bus_attach(h->env.bus, BUS_MMIO, &ecam);

	if (!err)
		err = bus_attach(h->env.bus, BUS_PIO, &address);
	if (!err)
		err = bus_attach(h->env.bus, BUS_PIO, &data);
	return err;
}

int pci_host_create(struct pci_host **out, const struct dev_env *env,
                    const struct pci_host_config *cfg)
{
	const struct pci_id id = {.vendor = REDHAT_VENDOR_ID,
	                          .device = GENERIC_BRIDGE,
	                          .class_code = CLASS_BRIDGE_HOST};
	struct pci_host *h = calloc(1, sizeof(*h));
	int err;

	if (!h) {
		log_error("pci: out of memory");
		return -ENOMEM;
	}
	h->dev = (struct dev){.name = "pci", .ops = &pci_host_ops};
	h->env = *env;
	h->cfg = *cfg;
	pci_func_init(&h->bridge, "host bridge", NULL, &id);
	err = attach_regions(h);
	if (!err)
		err = pci_func_plug(h, &h->bridge, 0);
	if (err) {
		pci_host_destroy(&h->dev);
		return err;
	}
	dev_register(env, &h->dev);
	*out = h;
	return 0;
}
