/* SPDX-License-Identifier: MIT */
/* Local APICs, one a vCPU, and the bus between them (SDM volume 3A, chapter 11).
 *
 * struct lapic_set holds all of a VM's: what a message's destination is matched against. Making
 *one:
 *
 *	lapic_set_create(&set, env);
 *	pic_create(&pic, env, {lapic_set_extint, set});
 *	ioapic_create(&ioapic, env, {lapic_set_msi, set, ...});
 *	lapic_set_wire(set, {pic_ack, pic, ioapic_eoi, ioapic});
 *	for each vCPU: lapic_create(&l, set, {vcpu, ...});	(sets vcpu->irqchip and irqchip_dev)
 *
 * xAPIC and x2APIC; version 14H with 6 LVT entries (no CMCI) and EOI-broadcast suppression. The
 * timer counts 1 GHz of loop_now() before division, or is the TSC deadline. SMIs are dropped
 * with a warning (there is no SMM), remote read is not answered.
 *
 * The page at IA32_APIC_BASE is each CPU's own: irqchip_ops.mmio serves it, it is not on the bus.
 * CPUID.1:EDX.APIC is to follow IA32_APIC_BASE[11] of the same CPU.
 *
 * Threading: each LAPIC has its own lock, under the machine lock and above vcpu->lock; two are
 *never held at once. irqchip_ops and lapic_mmio_* are for the vCPU's own thread without locks;
 * everything with a set may be called by any thread, with or without the machine lock, no LAPIC's
 * lock. Creation is set-up. */
#pragma once

#include "bus/dev.h"
#include "vcpu/vcpu.h"

#define MSR_IA32_APIC_BASE    0x1b
#define MSR_IA32_TSC_DEADLINE 0x6e0
#define MSR_X2APIC_FIRST      0x800
#define MSR_X2APIC_LAST       0x8ff

#define LAPIC_DEFAULT_BASE 0xfee00000ull
#define LAPIC_MAX          64

struct lapic;
struct lapic_set;

struct lapic_wires {
	int (*inta)(void *pic); /* no locks held; returns the vector */
	void *pic;
	void (*eoi)(void *ioapic, u8 vector); /* machine lock held */
	void *ioapic;
};

struct lapic_config {
	struct vcpu *vcpu;
	u32 id; /* initial APIC ID, as in CPUID leaves 1 and 0BH; unique, below 255 */
	bool bsp;
	unsigned maxphyaddr; /* CPUID.80000008H:EAX[7:0] */
	bool x2apic;         /* as CPUID tells the guest */
	bool tsc_deadline;   /* likewise */
	u64 tsc_khz;         /* of the guest's TSC; needed for tsc_deadline */
	/* The guest's TSC now; called by any thread, with the LAPIC's lock held. */
	u64 (*tsc_now)(struct vcpu *v);
};

/* 0 or -errno (logged). The set is a device: the machine's list resets and destroys it with all
 * its LAPICs. */
int lapic_set_create(struct lapic_set **out, const struct dev_env *env);
void lapic_set_wire(struct lapic_set *set, const struct lapic_wires *wires);
int lapic_create(struct lapic **out, struct lapic_set *set, const struct lapic_config *cfg);

/* What firmware leaves behind: software-enabled, LINT0 ExtINT, LINT1 NMI (SDM 3A 11.5.1, virtual
 * wire mode). For a machine that starts a guest without firmware, while the vCPU does not run. */
void lapic_virtual_wire(struct lapic *l);

/* The guest's TSC was changed (written, adjusted): the deadline stands in it. Also as
 * irqchip_ops.tsc_changed. */
void lapic_tsc_changed(struct lapic *l);

/* The register page; off is 0..4095. */
u64 lapic_mmio_read(struct lapic *l, u64 off, unsigned size);
void lapic_mmio_write(struct lapic *l, u64 off, u64 val, unsigned size);

/* A memory write to FEExxxxxH (SDM 3A 11.11): MSIs, and the IOAPIC's messages, which have
 * the same form. True if some LAPIC took it. `set` is a struct lapic_set. */
bool lapic_set_msi(void *set, u64 addr, u32 data);

/* Level of the line from the 8259 pair's INTR to every LINT0, and of the NMI line to every LINT1.
 */
void lapic_set_extint(void *set, bool level);
void lapic_set_lint1(void *set, bool level);
