// SPDX-License-Identifier: MIT
/* RDMSR, WRMSR (SDM volume 4; 3A 12.11 for the MTRRs, 15.3 for machine checks).
 *
 * One sorted table says which MSRs there are. An entry that is only storage gives the place in
 * struct x86_cpu and the bits that may be set; where more follows from a write there is a function.
 * The APIC's MSRs go to the interrupt controller. What is not here does not exist: #GP(0). */
#include "cpu/x86/msr.h"

#include <string.h>

#include "cpu/x86/inputs.h"
#include "cpu/x86/kvmpv.h"
#include "cpu/x86/mmu.h"
#include "cpu/x86/x86.h"

enum {
	READ_ONLY = 1 << 0,
	WRITE_ONLY = 1 << 1,
	CANONICAL = 1 << 2, /* the value is a linear address */
	ON_INTEL = 1 << 3,
	ON_AMD = 1 << 4,
};

struct msr_desc {
	u32 first, last; /* a range of like ones, or one */
	u16 flags;
	u64 reserved; /* bits that must be 0 in a write */
	size_t where; /* of a u64 (an array for a range) in struct x86_cpu; 0: none */
	u64 (*read)(const struct x86_cpu *c, u32 index);
	/* False: #GP(0). The checks of `flags` and `reserved` are done. */
	bool (*write)(struct x86_cpu *c, u32 index, u64 val);
};

static u64 *storage(struct x86_cpu *c, const struct msr_desc *d, u32 index)
{
	return (u64 *)((char *)c + d->where) + index;
}

/* ---- time ---- */

static u64 read_tsc(const struct x86_cpu *c, u32 index)
{
	return x86_tsc(c);
}

/* A write of either is an addition to both (SDM 3B 17.17.3). */
static void tsc_add(struct x86_cpu *c, u64 delta)
{
	c->tsc_offset += delta;
	c->tsc_adjust += delta;
	x86_kvmpv_tsc_changed(c);
	if (c->vcpu->irqchip) {
		x86_fpu_put(c);
		c->vcpu->irqchip->tsc_changed(c->vcpu->irqchip_dev);
	}
}

static bool write_tsc(struct x86_cpu *c, u32 index, u64 val)
{
	tsc_add(c, val - x86_input_value(c, X86_IN_TSC, x86_tsc(c)));
	return true;
}

static bool write_tsc_adjust(struct x86_cpu *c, u32 index, u64 val)
{
	tsc_add(c, val - c->tsc_adjust);
	return true;
}

static bool write_steal_time(struct x86_cpu *c, u32 index, u64 val)
{
	return x86_steal_set(c, val);
}

static bool write_system_time(struct x86_cpu *c, u32 index, u64 val)
{
	return x86_kvmpv_set_system_time(c, val);
}

static bool write_wall_clock(struct x86_cpu *c, u32 index, u64 val)
{
	return x86_kvmpv_set_wall_clock(c, val);
}

/* ---- identification and control ---- */

static u64 read_platform_id(const struct x86_cpu *c, u32 index)
{
	return 0;
}

/* Locked, nothing enabled: neither VMX nor SGX. */
static u64 read_feature_control(const struct x86_cpu *c, u32 index)
{
	return 1;
}

/* Bits 15:8: the TSC in units of 100 MHz. */
static u64 read_platform_info(const struct x86_cpu *c, u32 index)
{
	return (c->vcpu->vm->tsc_khz / 100000 & 0xff) << 8;
}

static u64 read_arch_capabilities(const struct x86_cpu *c, u32 index)
{
	return c->feat.arch_caps;
}

#define MISC_ENABLE_RO                                                                             \
	(MISC_ENABLE_EMON | MISC_ENABLE_BTS_UNAVAILABLE | MISC_ENABLE_PEBS_UNAVAILABLE)

static bool write_misc_enable(struct x86_cpu *c, u32 index, u64 val)
{
	u64 changed = c->misc_enable ^ val;

	if (changed & MISC_ENABLE_RO)
		return false;
	/* The no-execute bit of page-table entries becomes reserved. */
	if ((val & MISC_ENABLE_XD_DISABLE) && (c->efer & EFER_NXE))
		return false;
	c->misc_enable = val;
	return true;
}

/* The commands order the processor's predictors; none of the guest's own instructions can see the
 * difference. */
static bool write_pred_cmd(struct x86_cpu *c, u32 index, u64 val)
{
	return true;
}

/* No last-branch records, no branch trace, no single-step on branches. */
static u64 read_debugctl(const struct x86_cpu *c, u32 index)
{
	return 0;
}

static bool write_debugctl(struct x86_cpu *c, u32 index, u64 val)
{
	return true;
}

static bool write_efer(struct x86_cpu *c, u32 index, u64 val)
{
	u64 changed = c->efer ^ val;

	if ((changed & EFER_LME) && (c->cr0 & CR0_PG))
		return false;
	if ((val & EFER_NXE) && (c->misc_enable & MISC_ENABLE_XD_DISABLE))
		return false;
	c->efer = (val & ~EFER_LMA) | (c->efer & EFER_LMA);
	if (changed & EFER_NXE)
		mmu_flush_all(c);
	return true;
}

/* ---- segment bases ---- */

static u64 read_seg_base(const struct x86_cpu *c, u32 index)
{
	return c->seg[FS + index].base;
}

static bool write_seg_base(struct x86_cpu *c, u32 index, u64 val)
{
	c->seg[FS + index].base = val;
	c->segbase[FS + index] = val;
	return true;
}

/* ---- memory types: kept for the guest to read; they change nothing in a machine without caches
 * of its own ---- */

static bool type_ok(u64 type)
{
	return type <= 6 && type != 2 && type != 3;
}

static bool types_ok(u64 val, u64 also)
{
	for (unsigned i = 0; i < 8; i++) {
		u64 type = (val >> (i * 8)) & 0xff;

		if (!type_ok(type) && type != also)
			return false;
	}
	return true;
}

static bool write_pat(struct x86_cpu *c, u32 index, u64 val)
{
	if (!types_ok(val, 7)) /* UC- */
		return false;
	c->pat = val;
	return true;
}

#define MTRR_VAR   8
#define MTRR_FIXED 11

static u64 read_mtrrcap(const struct x86_cpu *c, u32 index)
{
	return MTRR_VAR | 1 << 8 /* fixed ranges */ | 1 << 10 /* WC */;
}

static u64 read_mtrr_var(const struct x86_cpu *c, u32 index)
{
	return index & 1 ? c->mtrr.mask[index / 2] : c->mtrr.base[index / 2];
}

static bool write_mtrr_var(struct x86_cpu *c, u32 index, u64 val)
{
	if (val >> c->phys_bits)
		return false;
	if (index & 1) {
		if (val & 0x7ff)
			return false;
		c->mtrr.mask[index / 2] = val;
	} else {
		if ((val & 0xf00) || !type_ok(val & 0xff))
			return false;
		c->mtrr.base[index / 2] = val;
	}
	return true;
}

static bool fixed_set(struct x86_cpu *c, u32 index, u64 val)
{
	if (!types_ok(val, 0))
		return false;
	c->mtrr.fixed[index] = val;
	return true;
}

static u64 read_fix64k(const struct x86_cpu *c, u32 index)
{
	return c->mtrr.fixed[0];
}

static bool write_fix64k(struct x86_cpu *c, u32 index, u64 val)
{
	return fixed_set(c, 0, val);
}

static u64 read_fix16k(const struct x86_cpu *c, u32 index)
{
	return c->mtrr.fixed[1 + index];
}

static bool write_fix16k(struct x86_cpu *c, u32 index, u64 val)
{
	return fixed_set(c, 1 + index, val);
}

static u64 read_fix4k(const struct x86_cpu *c, u32 index)
{
	return c->mtrr.fixed[3 + index];
}

static bool write_fix4k(struct x86_cpu *c, u32 index, u64 val)
{
	return fixed_set(c, 3 + index, val);
}

static bool write_mtrr_def(struct x86_cpu *c, u32 index, u64 val)
{
	if (!type_ok(val & 0xff))
		return false;
	c->mtrr.def_type = val;
	return true;
}

/* ---- machine checks: banks that never report ---- */

#define MCG_CTL_P (1ull << 8)
#define MCG_SER_P (1ull << 24)

static u64 read_mcg_cap(const struct x86_cpu *c, u32 index)
{
	return X86_MC_BANKS | MCG_CTL_P | MCG_SER_P;
}

static bool write_mcg_ctl(struct x86_cpu *c, u32 index, u64 val)
{
	if (val && ~val)
		return false;
	c->mcg_ctl = val;
	return true;
}

static bool write_mc(struct x86_cpu *c, u32 index, u64 val)
{
	switch (index % 4) {
	case 0: /* CTL: all off, all on, or what Linux makes of it for errata (bits 0, 10) */
		if (val && ~(val | 1ull << 10 | 1))
			return false;
		break;
	case 1: /* STATUS: may only be cleared */
		if (val)
			return false;
		break;
	default: /* ADDR, MISC */
		break;
	}
	c->mc[index / 4][index % 4] = val;
	return true;
}

/* ---- AMD ---- */

#define HWCR_TSC_FREQ_SEL (1ull << 24) /* the TSC runs at P0's frequency: always */
#define DE_CFG_LFENCE     (1ull << 1)  /* LFENCE serialises: always */

static u64 read_hwcr(const struct x86_cpu *c, u32 index)
{
	return HWCR_TSC_FREQ_SEL;
}

static u64 read_de_cfg(const struct x86_cpu *c, u32 index)
{
	return DE_CFG_LFENCE;
}

static u64 read_syscfg(const struct x86_cpu *c, u32 index)
{
	return 0;
}

/* What reads as a constant may be written with it. */
static bool write_hwcr(struct x86_cpu *c, u32 index, u64 val)
{
	return val == HWCR_TSC_FREQ_SEL;
}

static bool write_de_cfg(struct x86_cpu *c, u32 index, u64 val)
{
	return val == DE_CFG_LFENCE;
}

/* ---- the table ---- */

#define AT(member) offsetof(struct x86_cpu, member)
#define HIGH32     0xffffffff00000000ull

#define SPEC_CTRL_BITS (7ull | 1ull << 10) /* IBRS, STIBP, SSBD; BHI_DIS_S */

/* Sorted by number. */
/* clang-format off */
static const struct msr_desc msrs[] = {
	{IA32_TSC, IA32_TSC, 0, 0, 0, read_tsc, write_tsc},
	{MSR_KVM_WALL_CLOCK, MSR_KVM_WALL_CLOCK, 0, 0, AT(kvm.wall_clock), NULL, write_wall_clock},
	{MSR_KVM_SYSTEM_TIME, MSR_KVM_SYSTEM_TIME, 0, 0, AT(kvm.system_time), NULL, write_system_time},
	{IA32_PLATFORM_ID, IA32_PLATFORM_ID, READ_ONLY | ON_INTEL, 0, 0, read_platform_id, NULL},
	{MSR_SMI_COUNT, MSR_SMI_COUNT, READ_ONLY | ON_INTEL, 0, AT(smi_count), NULL, NULL},
	{IA32_FEATURE_CONTROL, IA32_FEATURE_CONTROL, READ_ONLY | ON_INTEL, 0, 0, read_feature_control, NULL},
	{IA32_TSC_ADJUST, IA32_TSC_ADJUST, 0, 0, AT(tsc_adjust), NULL, write_tsc_adjust},
	{IA32_SPEC_CTRL, IA32_SPEC_CTRL, 0, ~SPEC_CTRL_BITS, AT(spec_ctrl), NULL, NULL},
	{IA32_PRED_CMD, IA32_PRED_CMD, WRITE_ONLY, ~1ull /* IBPB */, 0, NULL, write_pred_cmd},
	{IA32_BIOS_SIGN_ID, IA32_BIOS_SIGN_ID, 0, 0, AT(bios_sign_id), NULL, NULL},
	{MSR_PLATFORM_INFO, MSR_PLATFORM_INFO, READ_ONLY | ON_INTEL, 0, 0, read_platform_info, NULL},
	{IA32_MTRRCAP, IA32_MTRRCAP, READ_ONLY, 0, 0, read_mtrrcap, NULL},
	{IA32_ARCH_CAPABILITIES, IA32_ARCH_CAPABILITIES, READ_ONLY, 0, 0, read_arch_capabilities, NULL},
	{IA32_SYSENTER_CS, IA32_SYSENTER_CS, 0, HIGH32, AT(sysenter_cs), NULL, NULL},
	{IA32_SYSENTER_ESP, IA32_SYSENTER_ESP, CANONICAL, 0, AT(sysenter_esp), NULL, NULL},
	{IA32_SYSENTER_EIP, IA32_SYSENTER_EIP, CANONICAL, 0, AT(sysenter_eip), NULL, NULL},
	{IA32_MCG_CAP, IA32_MCG_CAP, READ_ONLY, 0, 0, read_mcg_cap, NULL},
	{IA32_MCG_STATUS, IA32_MCG_STATUS, 0, ~7ull /* RIPV, EIPV, MCIP */, AT(mcg_status), NULL, NULL},
	{IA32_MCG_CTL, IA32_MCG_CTL, 0, 0, AT(mcg_ctl), NULL, write_mcg_ctl},
	{IA32_MISC_ENABLE, IA32_MISC_ENABLE, 0,
	 ~(MISC_ENABLE_FAST_STRINGS | MISC_ENABLE_TM1 | MISC_ENABLE_RO | MISC_ENABLE_EIST |
	   MISC_ENABLE_MONITOR | MISC_ENABLE_LIMIT_CPUID | MISC_ENABLE_XTPR_DISABLE |
	   MISC_ENABLE_XD_DISABLE), AT(misc_enable), NULL, write_misc_enable},
	{IA32_DEBUGCTL, IA32_DEBUGCTL, 0, ~0ull, 0, read_debugctl, write_debugctl},
	{IA32_MTRR_PHYSBASE0, IA32_MTRR_PHYSBASE0 + 2 * MTRR_VAR - 1, 0, 0, 0, read_mtrr_var, write_mtrr_var},
	{IA32_MTRR_FIX64K_00000, IA32_MTRR_FIX64K_00000, 0, 0, 0, read_fix64k, write_fix64k},
	{IA32_MTRR_FIX16K_80000, IA32_MTRR_FIX16K_A0000, 0, 0, 0, read_fix16k, write_fix16k},
	{IA32_MTRR_FIX4K_C0000, IA32_MTRR_FIX4K_C0000 + 7, 0, 0, 0, read_fix4k, write_fix4k},
	{IA32_PAT, IA32_PAT, 0, 0, AT(pat), NULL, write_pat},
	{IA32_MTRR_DEF_TYPE, IA32_MTRR_DEF_TYPE, 0, ~0xcffull, AT(mtrr.def_type), NULL, write_mtrr_def},
	{IA32_MC0_CTL, IA32_MC0_CTL + 4 * X86_MC_BANKS - 1, 0, 0, AT(mc), NULL, write_mc},
	{MSR_KVM_WALL_CLOCK_NEW, MSR_KVM_WALL_CLOCK_NEW, 0, 0, AT(kvm.wall_clock), NULL, write_wall_clock},
	{MSR_KVM_SYSTEM_TIME_NEW, MSR_KVM_SYSTEM_TIME_NEW, 0, 0, AT(kvm.system_time), NULL, write_system_time},
	{MSR_KVM_STEAL_TIME, MSR_KVM_STEAL_TIME, 0, 0, AT(kvm.steal), NULL, write_steal_time},
	{MSR_KVM_POLL_CONTROL, MSR_KVM_POLL_CONTROL, 0, ~1ull, AT(kvm.poll_control), NULL, NULL},
	{IA32_EFER, IA32_EFER, 0, 0 /* feat.efer */, AT(efer), NULL, write_efer},
	{IA32_STAR, IA32_STAR, 0, 0, AT(star), NULL, NULL},
	{IA32_LSTAR, IA32_LSTAR, CANONICAL, 0, AT(lstar), NULL, NULL},
	{IA32_CSTAR, IA32_CSTAR, CANONICAL, 0, AT(cstar), NULL, NULL},
	{IA32_FMASK, IA32_FMASK, 0, HIGH32, AT(sfmask), NULL, NULL},
	{IA32_FS_BASE, IA32_GS_BASE, CANONICAL, 0, 0, read_seg_base, write_seg_base},
	{IA32_KERNEL_GS_BASE, IA32_KERNEL_GS_BASE, CANONICAL, 0, AT(kernel_gs_base), NULL, NULL},
	{IA32_TSC_AUX, IA32_TSC_AUX, 0, HIGH32, AT(tsc_aux), NULL, NULL},
	{MSR_AMD_SYSCFG, MSR_AMD_SYSCFG, READ_ONLY | ON_AMD, 0, 0, read_syscfg, NULL},
	{MSR_AMD_HWCR, MSR_AMD_HWCR, ON_AMD, 0, 0, read_hwcr, write_hwcr},
	{MSR_AMD_DE_CFG, MSR_AMD_DE_CFG, ON_AMD, 0, 0, read_de_cfg, write_de_cfg},
};
/* clang-format on */

static const struct msr_desc *find(const struct x86_cpu *c, u32 msr)
{
	unsigned lo = 0, hi = ARRAY_SIZE(msrs);

	while (lo < hi) {
		unsigned mid = (lo + hi) / 2;
		const struct msr_desc *d = &msrs[mid];

		if (msr < d->first) {
			hi = mid;
		} else if (msr > d->last) {
			lo = mid + 1;
		} else {
			if (d->flags & (c->feat.amd ? ON_INTEL : ON_AMD))
				return NULL;
			return d;
		}
	}
	return NULL;
}

static bool is_apic(u32 msr)
{
	return (msr >= X2APIC_FIRST && msr <= X2APIC_LAST) || msr == IA32_TSC_DEADLINE ||
	       msr == IA32_APIC_BASE;
}

static void trace(struct x86_cpu *c, const char *what, u32 msr, u64 val, bool ok)
{
	const struct vcpu *v = c->vcpu;

	if (!trace_on(&v->vm->trace, TRACE_MSR))
		return;
	x86_fpu_put(c);
	trace_msg(&v->vm->trace, "cpu%u %s %#x = %#llx%s, rip %#llx", v->index, what, msr,
	          (unsigned long long)val, ok ? "" : ": #GP(0)", (unsigned long long)c->rip);
}

static bool apic_read(struct x86_cpu *c, u32 msr, u64 *val)
{
	const struct vcpu *v = c->vcpu;
	struct x86_input in = {.kind = X86_IN_MSR_READ, .addr = msr};

	x86_fpu_put(c);
	if (!x86_input_take(c, &in)) {
		in.ok = v->irqchip && v->irqchip->rdmsr(v->irqchip_dev, msr, &in.val);
		x86_input_made(c, &in);
	}
	*val = in.val;
	return in.ok;
}

static bool msr_read(struct x86_cpu *c, u32 msr, u64 *val)
{
	const struct msr_desc *d;

	if (is_apic(msr))
		return apic_read(c, msr, val);
	d = find(c, msr);
	if (!d || (d->flags & WRITE_ONLY))
		return false;
	*val = d->read ? d->read(c, msr - d->first) : *storage(c, d, msr - d->first);
	if (msr == IA32_TSC)
		*val = x86_input_value(c, X86_IN_TSC, *val);
	return true;
}

void x86_update_apic_page(struct x86_cpu *c)
{
	const struct vcpu *v = c->vcpu;
	gpa_t old = c->apic_page;

	c->apic_page = ~0ull;
	if (v->irqchip && v->irqchip->mmio_base)
		c->apic_page = v->irqchip->mmio_base(v->irqchip_dev);
	c->apic_page = x86_input_value(c, X86_IN_APIC_PAGE, c->apic_page);
	if (c->apic_page != old)
		mmu_flush_all(c);
}

static bool apic_write(struct x86_cpu *c, u32 msr, u64 val)
{
	const struct vcpu *v = c->vcpu;
	struct x86_input in = {.kind = X86_IN_MSR_WRITE, .addr = msr, .val = val};

	x86_fpu_put(c);
	if (!x86_input_take(c, &in)) {
		in.ok = v->irqchip && v->irqchip->wrmsr(v->irqchip_dev, msr, val);
		x86_input_made(c, &in);
	}
	if (msr == IA32_APIC_BASE)
		x86_update_apic_page(c);
	return in.ok;
}

static bool msr_write(struct x86_cpu *c, u32 msr, u64 val)
{
	const struct msr_desc *d;

	if (is_apic(msr))
		return apic_write(c, msr, val);
	d = find(c, msr);
	if (!d || (d->flags & READ_ONLY) || (val & d->reserved))
		return false;
	if ((d->flags & CANONICAL) && !is_canonical(val))
		return false;
	if (msr == IA32_EFER && (val & ~c->feat.efer))
		return false;
	if (d->write)
		return d->write(c, msr - d->first, val);
	*storage(c, d, msr - d->first) = val;
	return true;
}

u64 x86_rdmsr(struct x86_cpu *c, u32 msr)
{
	struct vcpu *v = c->vcpu;
	u64 begin = exit_begin(&v->stats);
	u64 val = 0;
	bool ok;

	x86_need_cpl0(c);
	ok = msr_read(c, msr, &val);
	trace(c, "rdmsr", msr, val, ok);
	exit_end(&v->stats, EXIT_RDMSR, begin);
	if (!ok)
		x86_gp(c, 0);
	return val;
}

void x86_wrmsr(struct x86_cpu *c, u32 msr, u64 val)
{
	struct vcpu *v = c->vcpu;
	u64 begin = exit_begin(&v->stats);
	bool ok;

	x86_need_cpl0(c);
	ok = msr_write(c, msr, val);
	trace(c, "wrmsr", msr, val, ok);
	exit_end(&v->stats, EXIT_WRMSR, begin);
	if (!ok)
		x86_gp(c, 0);
}

/* ---- time-stamp and performance counters ---- */

u64 x86_rdtsc(struct x86_cpu *c)
{
	if (unlikely((c->cr4 & CR4_TSD) && c->cpl))
		x86_gp(c, 0);
	return x86_input_value(c, X86_IN_TSC, x86_tsc(c));
}

/* CPUID offers no counters, so no index is valid, whatever CR4.PCE says. */
u64 x86_rdpmc(struct x86_cpu *c)
{
	x86_gp(c, 0);
}

/* ---- reset ---- */

#define TYPE_WB 6ull
#define TYPE_WP 5ull
#define ALL8(t) ((t)*0x0101010101010101ull)

/* The MTRRs are as firmware leaves them, on all processors alike, since guests are booted without
 * it: RAM write-back, the PCI hole uncached. All else is as table 9-1 has it. */
static void mtrr_reset(struct x86_cpu *c)
{
	memset(&c->mtrr, 0, sizeof(c->mtrr));
	c->mtrr.fixed[0] = c->mtrr.fixed[1] = ALL8(TYPE_WB); /* 0 .. A0000 */
	for (unsigned i = 3; i < MTRR_FIXED; i++)            /* C0000 .. 100000 */
		c->mtrr.fixed[i] = ALL8(TYPE_WP);
	c->mtrr.base[0] = PCI_HOLE_START; /* UC */
	c->mtrr.mask[0] = (BIT(c->phys_bits) - 1) & ~(PCI_HOLE_END - PCI_HOLE_START - 1);
	c->mtrr.mask[0] |= BIT(11);                     /* valid */
	c->mtrr.def_type = BIT(11) | BIT(10) | TYPE_WB; /* E, FE */
}

void x86_msr_reset(struct x86_cpu *c)
{
	mtrr_reset(c);
	c->pat = 0x0007040600070406;
	c->misc_enable = MISC_ENABLE_FAST_STRINGS | MISC_ENABLE_BTS_UNAVAILABLE |
	                 MISC_ENABLE_PEBS_UNAVAILABLE;
	c->bios_sign_id = X86_UCODE_REVISION;
	c->spec_ctrl = 0;
	c->smi_count = 0;
	c->tsc_aux = 0;
	c->xcr0 = XCR0_X87;
	c->xss = 0;
	c->star = c->lstar = c->cstar = c->sfmask = c->kernel_gs_base = 0;
	c->sysenter_cs = c->sysenter_esp = c->sysenter_eip = 0;
	c->mcg_status = 0;
	c->mcg_ctl = ~0ull;
	memset(c->mc, 0, sizeof(c->mc));
	for (unsigned i = 0; i < X86_MC_BANKS; i++)
		c->mc[i][0] = ~0ull;
}
