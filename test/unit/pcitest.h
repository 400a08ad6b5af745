/* SPDX-License-Identifier: MIT */
/* A bare machine with a PCI host bridge whose MSIs are recorded, and a driver's view of virtio over
 * PCI. */
#pragma once

#include "devtest.h"
#include "dev/pci.h"
#include "dev/virtio.h"

#define ECAM    0xe0000000ull
#define PCI_MEM 0xc0000000ull

struct pcitest {
	struct devtest t;
	struct pci_host *host;
	unsigned msis;
	u64 msi_addr;
	u32 msi_data;
	u8 cf9;
	struct virtio_env venv;
};

static inline bool pcitest_msi(void *arg, u64 addr, u32 data)
{
	struct pcitest *p = arg;

	p->msis++;
	p->msi_addr = addr;
	p->msi_data = data;
	return true;
}

static inline u8 pcitest_cf9_read(void *arg)
{
	return ((struct pcitest *)arg)->cf9;
}

static inline void pcitest_cf9_write(void *arg, u8 v)
{
	((struct pcitest *)arg)->cf9 = v;
}

static inline void pcitest_init(struct pcitest *p, u64 ram)
{
	memset(p, 0, sizeof(*p));
	devtest_init(&p->t, ram);
	if (pci_host_create(&p->host, &p->t.env,
	                    &(struct pci_host_config){.ecam_base = ECAM,
	                                              .mem_base = PCI_MEM,
	                                              .mem_len = 256 * MiB,
	                                              .mem64_base = 64 * GiB,
	                                              .mem64_len = 16 * GiB,
	                                              .io_base = 0xc000,
	                                              .io_len = 0x1000,
	                                              .gsi_base = 16,
	                                              .msi = pcitest_msi,
	                                              .msi_arg = p,
	                                              .cf9_read = pcitest_cf9_read,
	                                              .cf9_write = pcitest_cf9_write,
	                                              .cf9_arg = p}))
		abort();
	p->venv = (struct virtio_env){&p->t.env, p->host};
}

static inline void pcitest_fini(struct pcitest *p)
{
	devtest_fini(&p->t);
}

/* Configuration space of device `slot` by ECAM. */
static inline u32 cfg_read(struct pcitest *p, unsigned slot, u32 off, unsigned size)
{
	return (u32)bus_read(p->t.bus, BUS_MMIO, ECAM + (slot << 15) + off, size);
}

static inline void cfg_write(struct pcitest *p, unsigned slot, u32 off, u32 val, unsigned size)
{
	bus_write(p->t.bus, BUS_MMIO, ECAM + (slot << 15) + off, val, size);
}

/* Offset of the n-th capability `id`, 0 if there is none. */
static inline u32 cfg_cap(struct pcitest *p, unsigned slot, u8 id, unsigned n)
{
	u32 at = cfg_read(p, slot, PCI_CAPABILITIES, 1);

	for (unsigned i = 0; at && i < 48; i++, at = cfg_read(p, slot, at + 1, 1))
		if (cfg_read(p, slot, at, 1) == id && !n--)
			return at;
	return 0;
}

static inline u64 bar_base(struct pcitest *p, unsigned slot, unsigned bar)
{
	u32 low = cfg_read(p, slot, PCI_BAR0 + 4 * bar, 4);

	return (low & ~0xfu) |
	       ((low & 6) == 4 ? (u64)cfg_read(p, slot, PCI_BAR0 + 4 * bar + 4, 4) << 32 : 0);
}

static inline u64 mmio_in(struct pcitest *p, u64 at, unsigned size)
{
	return bus_read(p->t.bus, BUS_MMIO, at, size);
}

static inline void mmio_out(struct pcitest *p, u64 at, u64 val, unsigned size)
{
	bus_write(p->t.bus, BUS_MMIO, at, val, size);
}
