/* SPDX-License-Identifier: MIT */
/* PCI: a host bridge with one bus, and the functions on it. PCI Local Bus 3.0, PCI Express Base 5.0
 * section 7 (configuration space).
 *
 * A device fills a struct pci_func's configuration space with the pci_set_* functions and
 * pci_add_*, and adds it to the bus. Every register says which of its bits the guest can write
 * (wmask) or clear by writing ones (w1c). Where BARs point is the guest's decision: they are
 * attached to the machine's bus and detached as it programs them.
 *
 * Threading: the machine lock for everything, except pci_msix_notify() and pci_msi_notify(), which
 * any thread may call. Lock order: machine lock, pci_func.msi_lock, a local APIC's lock.
 *
 * Ownership: a pci_func is part of its device and is removed by it before it is freed. */
#pragma once

#include "bus/dev.h"

#define PCI_NR_SLOTS    32
#define PCI_CONFIG_SIZE 256
#define PCI_NR_BARS     6

/* Registers of a type 0 header. */
#define PCI_VENDOR_ID           0x00
#define PCI_DEVICE_ID           0x02
#define PCI_COMMAND             0x04
#define PCI_COMMAND_IO          0x1
#define PCI_COMMAND_MEMORY      0x2
#define PCI_COMMAND_MASTER      0x4
#define PCI_COMMAND_INTX_OFF    0x400
#define PCI_STATUS              0x06
#define PCI_STATUS_INTERRUPT    0x08
#define PCI_STATUS_CAP_LIST     0x10
#define PCI_REVISION_ID         0x08
#define PCI_CLASS_PROG          0x09
#define PCI_CACHE_LINE_SIZE     0x0c
#define PCI_HEADER_TYPE         0x0e
#define PCI_BAR0                0x10
#define PCI_SUBSYSTEM_VENDOR_ID 0x2c
#define PCI_SUBSYSTEM_ID        0x2e
#define PCI_CAPABILITIES        0x34
#define PCI_INTERRUPT_LINE      0x3c
#define PCI_INTERRUPT_PIN       0x3d

#define PCI_CAP_ID_MSI    0x05
#define PCI_CAP_ID_VENDOR 0x09
#define PCI_CAP_ID_MSIX   0x11

/* Kinds of BARs: the low bits of the register. */
#define PCI_BAR_IO       0x1
#define PCI_BAR_MEM64    0x4
#define PCI_BAR_PREFETCH 0x8

#define PCI_MSIX_MAX 2048

struct pci_func;
struct pci_host;

struct pci_ops {
	/* Before a read of [off, off + size): the device may change config[]. May be NULL. */
	void (*config_read)(struct pci_func *f, u32 off, unsigned size);
	/* After a write, of which the masks let through what they do. May be NULL. */
	void (*config_write)(struct pci_func *f, u32 off, unsigned size);
};

struct pci_bar {
	u64 len;              /* 0: none */
	struct region region; /* base: where it is attached */
	u8 kind;
	bool attached;
};

struct pci_func {
	const char *name;
	const struct pci_ops *ops; /* may be NULL */
	struct pci_host *host;
	u8 slot;
	u8 config[PCI_CONFIG_SIZE];
	u8 wmask[PCI_CONFIG_SIZE]; /* bits that the guest writes */
	u8 w1c[PCI_CONFIG_SIZE];   /* bits that the guest clears by writing ones */
	u8 start[PCI_CONFIG_SIZE]; /* config[] as the machine starts */
	u8 cap_last;               /* offset of the last capability, and the end of all */
	u8 cap_end;
	struct pci_bar bar[PCI_NR_BARS];
	bool intx;       /* the device asserts its pin */
	bool intx_shown; /* and that is seen outside */

	/* Message signalled interrupts: below msi_lock. */
	pthread_mutex_t msi_lock;
	u8 msi_cap, msix_cap; /* offsets; 0: none */
	bool msi_on, msix_on, msix_masked, master;
	u8 msi_vectors;
	u32 msi_pending, msi_mask;
	u64 msi_address;
	u32 msi_data;
	u8 msi_enabled; /* vectors, a power of two */
	u16 msix_vectors;
	u8 *msix_table; /* 16 bytes a vector */
	u64 *msix_pba;
};

/* ---- making a function ---- */

struct pci_id {
	u16 vendor, device, subsystem_vendor, subsystem;
	u32 class_code; /* class << 16 | subclass << 8 | interface */
	u8 revision;
};

/* Before anything else. */
void pci_func_init(struct pci_func *f, const char *name, const struct pci_ops *ops,
                   const struct pci_id *id);
void pci_set_writable(struct pci_func *f, u32 off, u32 mask, unsigned size);

/* `len`: a power of two, at least 16 (memory; larger than 4 GiB only with PCI_BAR_MEM64) or 4 to
 * 256 (I/O). Takes two places with PCI_BAR_MEM64. `r`: ops, dev, widths and nolock of the region;
 * base and length are ignored. */
void pci_add_bar(struct pci_func *f, unsigned nr, u8 kind, u64 len, const struct region *r);

/* A capability of `len` bytes, zeros behind its two-byte header: its offset. */
u8 pci_add_capability(struct pci_func *f, u8 id, u8 len);

/* The function has an interrupt pin: INTA#. */
void pci_add_intx(struct pci_func *f);

/* MSI with 64-bit addresses and masks; 1, 2, 4, .. 32 vectors. */
void pci_add_msi(struct pci_func *f, unsigned vectors);

/* MSI-X with 1 to PCI_MSIX_MAX vectors; table and pending bits fill BAR `bar`, a 64-bit one. 0 or
 * -ENOMEM. */
int pci_add_msix(struct pci_func *f, unsigned bar, unsigned vectors);

/* ---- on the bus ---- */

/* `slot` -1: the next free one. 0, or -EBUSY, -ENOSPC (logged). */
int pci_func_plug(struct pci_host *h, struct pci_func *f, int slot);
void pci_func_unplug(struct pci_func *f); /* also frees what pci_add_msix took */

/* Level of the pin. Machine lock. */
void pci_set_intx(struct pci_func *f, bool level);

/* The guest switched MSI-X (MSI) on: interrupts go there. Any thread. */
bool pci_msix_enabled(struct pci_func *f);
bool pci_msi_enabled(struct pci_func *f);

/* Send a message, or set its pending bit when it is masked. Numbers that do not exist are ignored.
 */
void pci_msix_notify(struct pci_func *f, unsigned vector);
void pci_msi_notify(struct pci_func *f, unsigned vector);

/* ---- the host bridge ---- */

struct pci_host_config {
	gpa_t ecam_base; /* 256 MiB for 256 buses */
	/* Where BARs are placed at start. */
	gpa_t mem_base, mem_len;     /* below 4 GiB */
	gpa_t mem64_base, mem64_len; /* above; for BARs that do not fit below; length 0: none */
	u16 io_base, io_len;
	/* INTx of device d, pin p (0 for A) is GSI gsi_base + (d + p) % 8. */
	u8 gsi_base;
	/* As the IOAPIC's; any thread. */
	bool (*msi)(void *arg, u64 addr, u32 data);
	void *msi_arg;
	/* The reset control register at 0xcf9, which lies inside the address register. */
	u8 (*cf9_read)(void *arg);
	void (*cf9_write)(void *arg, u8 val);
	void *cf9_arg;
};

#define PCI_NR_INTX 8

/* 0 or -errno (logged). A device; make it before the functions, so that it is destroyed after them.
 */
int pci_host_create(struct pci_host **out, const struct dev_env *env,
                    const struct pci_host_config *cfg);

/* As firmware does: give every BAR an address and switch decoding on; this is the state after a
 * reset, too. Once, when all functions are plugged. 0 or -ENOSPC (logged). */
int pci_host_assign(struct pci_host *h);

/* Configuration access: bus, device and function as in ECAM addresses (bus << 8 | devfn). */
u32 pci_config_read(struct pci_host *h, u16 bdf, u32 off, unsigned size);
void pci_config_write(struct pci_host *h, u16 bdf, u32 off, u32 val, unsigned size);

/* for pci_msi.c */
void pci_msi_config_read(struct pci_func *f);
void pci_msi_config_written(struct pci_func *f);
void pci_msi_reset(struct pci_func *f);
bool pci_send_msi(struct pci_host *h, u64 addr, u32 data);
