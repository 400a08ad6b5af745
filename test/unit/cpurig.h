/* SPDX-License-Identifier: MIT */
/* A processor without an engine, for tests of cpu/x86: a VM with some RAM and vCPUs in power-on
 * state, an interrupt controller that only remembers, and a way to see what was raised. */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "cpu/x86/mmu.h"
#include "cpu/x86/msr.h"
#include "cpu/x86/x86.h"
#include "vcpu/vm.h"

struct cpurig {
	struct vm vm;
	struct x86_cpu *c; /* of vCPU 0 */
	u64 apic_base, tsc_deadline;
	unsigned cr8;
	unsigned tsc_changes;
	u64 ipis[2];
	u32 ipi_min, ipi_icr;
};

static inline struct cpurig *rig_of(void *dev)
{
	return dev;
}

static inline unsigned rig_get_cr8(void *dev)
{
	return rig_of(dev)->cr8;
}

static inline void rig_set_cr8(void *dev, unsigned cr8)
{
	rig_of(dev)->cr8 = cr8;
}

static inline bool rig_rdmsr(void *dev, u32 msr, u64 *val)
{
	if (msr == IA32_APIC_BASE)
		*val = rig_of(dev)->apic_base;
	else if (msr == IA32_TSC_DEADLINE)
		*val = rig_of(dev)->tsc_deadline;
	else
		return false;
	return true;
}

static inline bool rig_wrmsr(void *dev, u32 msr, u64 val)
{
	if (msr == IA32_APIC_BASE)
		rig_of(dev)->apic_base = val;
	else if (msr == IA32_TSC_DEADLINE)
		rig_of(dev)->tsc_deadline = val;
	else
		return false;
	return true;
}

static inline void rig_tsc_changed(void *dev)
{
	rig_of(dev)->tsc_changes++;
}

static inline int rig_send_ipis(void *dev, u64 low, u64 high, u32 min, u32 icr)
{
	struct cpurig *r = dev;

	r->ipis[0] = low;
	r->ipis[1] = high;
	r->ipi_min = min;
	r->ipi_icr = icr;
	return icr == ~0u ? -1 : __builtin_popcountll(low) + __builtin_popcountll(high);
}

static inline void rig_init(struct cpurig *r, unsigned vcpus)
{
	static const struct irqchip_ops chip = {
		.get_cr8 = rig_get_cr8,
		.set_cr8 = rig_set_cr8,
		.rdmsr = rig_rdmsr,
		.wrmsr = rig_wrmsr,
		.send_ipis = rig_send_ipis,
		.tsc_changed = rig_tsc_changed,
	};

	memset(r, 0, sizeof(*r));
	r->apic_base = 0xfee00000 | IA32_APIC_BASE_EN | 1 << 8;
	r->vm.tsc_khz = 2500000;
	if (vm_init(&r->vm) || pmap_create(&r->vm.pmap, 16 * MiB))
		abort();
	for (unsigned i = 0; i < vcpus; i++) {
		struct vcpu *v = vm_add_vcpu(&r->vm);

		if (!v || x86_cpu_create(v))
			abort();
		v->irqchip = &chip;
		v->irqchip_dev = r;
	}
	r->c = vcpu_x86(r->vm.vcpu[0]);
}

static inline void rig_fini(struct cpurig *r)
{
	vm_destroy(&r->vm);
}

/* 64-bit kernel code with paging by one identity-mapped 1 GiB page; tables at 1 MiB. */
static inline void rig_long_mode(struct cpurig *r)
{
	struct x86_cpu *c = r->c;
	const u64 pml4 = 0x100000, pdpt = 0x101000;
	u64 e = pdpt | PTE_P | PTE_W | PTE_U;

	pmap_write(r->vm.pmap, pml4, &e, 8);
	e = PTE_P | PTE_W | PTE_U | PTE_PS;
	pmap_write(r->vm.pmap, pdpt, &e, 8);
	c->cr4 = CR4_PAE;
	c->cr3 = pml4;
	c->efer = EFER_LME | EFER_LMA;
	c->cr0 = CR0_PE | CR0_PG | CR0_ET | CR0_NE | CR0_WP;
	c->seg[CS] = (struct x86_seg){0, ~0u, SEG_P | SEG_S | SEG_CODE | SEG_RW | SEG_A | SEG_L, 8};
	for (unsigned s = 0; s < NR_SEG; s++)
		if (s != CS)
			c->seg[s] = (struct x86_seg){
				0, ~0u, SEG_P | SEG_S | SEG_RW | SEG_A | SEG_DB | SEG_G, 16};
	mmu_flush_all(c);
	x86_update_mode(c);
}

static inline void rig_user(struct cpurig *r)
{
	r->c->cpl = 3;
	x86_update_mode(r->c);
}

/* What a statement raised: the vector, or -1. */
#define RAISED(c, stmt)                                                                            \
	({                                                                                         \
		volatile int raised_ = -1;                                                         \
		(c)->unwind_valid = true;                                                          \
		if (setjmp((c)->unwind) == 0) {                                                    \
			stmt;                                                                      \
		} else {                                                                           \
			raised_ = (c)->ev.vector;                                                  \
		}                                                                                  \
		(c)->unwind_valid = false;                                                         \
		raised_;                                                                           \
	})
#define assert_gp(c, stmt)                                                                         \
	do {                                                                                       \
		assert_int_equal(RAISED(c, stmt), X86_GP);                                         \
		assert_true((c)->ev.has_err);                                                      \
		assert_int_equal((c)->ev.err, 0);                                                  \
	} while (0)
#define assert_ud(c, stmt) assert_int_equal(RAISED(c, stmt), X86_UD)
#define assert_ok(c, stmt) assert_int_equal(RAISED(c, stmt), -1)
