// SPDX-License-Identifier: MIT
/* Control and debug registers, XCR0, and the small system instructions around them (SDM 2A/2B
 * MOV to/from control and debug registers, 3A 2.5, 4.1 for what paging modes allow, 4.10.4 for
 * what empties the TLB). */
#include "cpu/x86/inputs.h"
#include "cpu/x86/mmu.h"
#include "cpu/x86/x86.h"

void x86_need_cpl0(struct x86_cpu *c)
{
	if (unlikely(c->cpl))
		x86_gp(c, 0);
}

void x86_umip_check(struct x86_cpu *c)
{
	if (unlikely(c->cpl && (c->cr4 & CR4_UMIP)))
		x86_gp(c, 0);
}

/* ---- CR0, CR3, CR4 ---- */

static bool pae_paging(u64 cr0, u64 cr4, u64 efer)
{
	return (cr0 & CR0_PG) && (cr4 & CR4_PAE) && !(efer & EFER_LMA);
}

/* The four entries that PAE paging keeps in registers (SDM 3A 4.4.1). Nothing is changed when they
 * are bad: #GP(0). */
static void load_pdptes(struct x86_cpu *c, u64 cr3)
{
	u64 rsvd = ~((1ull << c->phys_bits) - 1) | 0x1e6;
	gpa_t base = cr3 & 0xffffffe0;
	u64 e[4];

	for (unsigned i = 0; i < 4; i++) {
		const void *p = pmap_ptr(c->pmap, base + i * 8, 8);

		e[i] = p ? __atomic_load_n((const u64 *)p, __ATOMIC_RELAXED) : ~0ull;
		if ((e[i] & PTE_P) && (e[i] & rsvd))
			x86_gp(c, 0);
	}
	for (unsigned i = 0; i < 4; i++)
		c->pdpte[i] = e[i];
}

/* SDM 3A 9.8.5: what activating IA-32e mode needs. */
static bool may_activate_lma(const struct x86_cpu *c)
{
	u32 tss = c->tr.ar & (SEG_TYPE | SEG_S);

	return (c->cr4 & CR4_PAE) && !(c->seg[CS].ar & SEG_L) && tss != 1 && tss != 3;
}

static void set_cr0(struct x86_cpu *c, u64 val)
{
	const u64 known = CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_ET | CR0_NE | CR0_WP | CR0_AM |
	                  CR0_NW | CR0_CD | CR0_PG;
	u64 efer = c->efer;
	u64 changed;

	if (val >> 32)
		x86_gp(c, 0);
	val = (val & known) | CR0_ET;
	changed = val ^ c->cr0;
	if ((val & CR0_NW) && !(val & CR0_CD))
		x86_gp(c, 0);
	if ((val & CR0_PG) && !(val & CR0_PE))
		x86_gp(c, 0);
	if ((changed & val & CR0_PG) && (efer & EFER_LME)) {
		if (!may_activate_lma(c))
			x86_gp(c, 0);
		efer |= EFER_LMA;
	}
	if (changed & ~val & CR0_PG) {
		if ((c->cr4 & CR4_PCIDE) || (c->mode & M_CS64))
			x86_gp(c, 0);
		efer &= ~EFER_LMA;
	}
	if ((changed & (CR0_CD | CR0_NW | CR0_PG)) && pae_paging(val, c->cr4, efer))
		load_pdptes(c, c->cr3);

	c->cr0 = val;
	c->efer = efer;
	/* WP and the mode are part of what the TLB's entries were made from. */
	if (changed & (CR0_PE | CR0_PG | CR0_WP))
		mmu_flush_all(c);
	if (changed & (CR0_PE | CR0_PG | CR0_AM))
		x86_update_mode(c);
}

void x86_load_cr3(struct x86_cpu *c, u64 val)
{
	bool keep = false;

	if (c->mode & M_LMA) {
		u64 rsvd = ~((1ull << c->phys_bits) - 1);

		if (c->cr4 & CR4_PCIDE) {
			keep = val & CR3_NOFLUSH;
			val &= ~CR3_NOFLUSH;
		}
		if (val & rsvd)
			x86_gp(c, 0);
	} else {
		val &= 0xffffffff;
		if (pae_paging(c->cr0, c->cr4, c->efer))
			load_pdptes(c, val);
	}
	if (keep && val == c->cr3)
		return;
	c->cr3 = val;
	if (keep)
		mmu_switch_pcid(c);
	else
		mmu_flush_pcid(c, c->cr4 & CR4_PCIDE ? val & 0xfff : 0);
}

static void set_cr4(struct x86_cpu *c, u64 val)
{
	u64 changed = val ^ c->cr4;

	if (val & ~c->feat.cr4)
		x86_gp(c, 0);
	if ((c->mode & M_LMA) && !(val & CR4_PAE))
		x86_gp(c, 0);
	if ((changed & val & CR4_PCIDE) && (!(c->mode & M_LMA) || (c->cr3 & 0xfff)))
		x86_gp(c, 0);
	if ((changed & (CR4_PAE | CR4_PGE | CR4_PSE | CR4_SMEP)) &&
	    pae_paging(c->cr0, val, c->efer))
		load_pdptes(c, c->cr3);

	c->cr4 = val;
	if (changed & (CR4_PAE | CR4_PGE | CR4_PSE | CR4_PCIDE | CR4_SMEP | CR4_SMAP))
		mmu_flush_all(c);
	if (changed & CR4_SMAP)
		x86_update_mode(c);
}

static unsigned get_cr8(struct x86_cpu *c)
{
	const struct vcpu *v = c->vcpu;
	struct x86_input in = {.kind = X86_IN_CR8_READ};

	x86_fpu_put(c);
	if (!x86_input_take(c, &in)) {
		in.val = v->irqchip ? v->irqchip->get_cr8(v->irqchip_dev) : 0;
		x86_input_made(c, &in);
	}
	return (unsigned)in.val;
}

static void set_cr8(struct x86_cpu *c, u64 val)
{
	const struct vcpu *v = c->vcpu;
	struct x86_input in = {.kind = X86_IN_CR8_WRITE, .val = val};

	if (val & ~0xfull)
		x86_gp(c, 0);
	x86_fpu_put(c);
	if (x86_input_take(c, &in))
		return;
	if (v->irqchip)
		v->irqchip->set_cr8(v->irqchip_dev, (unsigned)val);
	x86_input_made(c, &in);
}

u64 x86_mov_from_cr(struct x86_cpu *c, unsigned cr)
{
	u64 begin = exit_begin(&c->vcpu->stats);
	u64 val;

	if (cr != 0 && cr != 2 && cr != 3 && cr != 4 && cr != 8)
		x86_ud(c);
	x86_need_cpl0(c);
	switch (cr) {
	case 0:
		val = c->cr0;
		break;
	case 2:
		val = c->cr2;
		break;
	case 3:
		val = c->cr3;
		break;
	case 4:
		val = c->cr4;
		break;
	default:
		val = get_cr8(c);
		break;
	}
	exit_end(&c->vcpu->stats, EXIT_CR, begin);
	return val;
}

void x86_mov_to_cr(struct x86_cpu *c, unsigned cr, u64 val)
{
	u64 begin = exit_begin(&c->vcpu->stats);

	if (cr != 0 && cr != 2 && cr != 3 && cr != 4 && cr != 8)
		x86_ud(c);
	x86_need_cpl0(c);
	switch (cr) {
	case 0:
		set_cr0(c, val);
		break;
	case 2:
		c->cr2 = val;
		break;
	case 3:
		x86_load_cr3(c, val);
		break;
	case 4:
		set_cr4(c, val);
		break;
	default:
		set_cr8(c, val);
		break;
	}
	exit_end(&c->vcpu->stats, EXIT_CR, begin);
}

void x86_clts(struct x86_cpu *c)
{
	x86_need_cpl0(c);
	c->cr0 &= ~CR0_TS;
}

/* PE, MP, EM, TS; PE can be set but not cleared. */
void x86_lmsw(struct x86_cpu *c, u16 val)
{
	x86_need_cpl0(c);
	set_cr0(c, (c->cr0 & ~(u64)(CR0_MP | CR0_EM | CR0_TS)) | (val & 0xf));
}

u64 x86_smsw(struct x86_cpu *c)
{
	x86_umip_check(c);
	return c->cr0;
}

/* ---- debug registers (SDM 3B 17.2) ---- */

#define DR6_FIXED_1 0xffff0ff0ull
#define DR6_BITS    0x0000e00full /* B0..B3, BD, BS, BT */
#define DR7_FIXED_1 0x400ull
#define DR7_BITS    0xffff23ffull

/* The register that is meant: 4 and 5 are 6 and 7 unless CR4.DE. General detect (DR7.GD) catches
 * every access, by a fault. */
static unsigned dr_check(struct x86_cpu *c, unsigned dr)
{
	if (dr > 7 || ((dr == 4 || dr == 5) && (c->cr4 & CR4_DE)))
		x86_ud(c);
	x86_need_cpl0(c);
	if (c->dr[7] & DR7_GD) {
		const struct x86_event ev = {.type = EV_FAULT, .vector = X86_DB, .dr6 = DR6_BD};

		x86_raise_ev(c, &ev);
	}
	return dr == 4 || dr == 5 ? dr + 2 : dr;
}

u64 x86_mov_from_dr(struct x86_cpu *c, unsigned dr)
{
	u64 begin = exit_begin(&c->vcpu->stats);
	u64 val = c->dr[dr_check(c, dr)];

	exit_end(&c->vcpu->stats, EXIT_DR, begin);
	return val;
}

void x86_mov_to_dr(struct x86_cpu *c, unsigned dr, u64 val)
{
	u64 begin = exit_begin(&c->vcpu->stats);

	dr = dr_check(c, dr);
	if (dr >= 6 && (val >> 32))
		x86_gp(c, 0);
	switch (dr) {
	case 6:
		c->dr[6] = (val & DR6_BITS) | DR6_FIXED_1;
		break;
	case 7:
		c->dr[7] = (val & DR7_BITS) | DR7_FIXED_1;
		break;
	default:
		c->dr[dr & 3] = val;
		break;
	}
	if (dr != 6) {
		/* Watched pages must not be cached. */
		if (c->dr[7] & 0xff)
			mmu_flush_all(c);
		x86_update_step(c);
	}
	exit_end(&c->vcpu->stats, EXIT_DR, begin);
}

/* ---- XCR0 ---- */

void x86_xsetbv(struct x86_cpu *c, u32 index, u64 val)
{
	if (!(c->cr4 & CR4_OSXSAVE))
		x86_ud(c);
	x86_need_cpl0(c);
	if (index || (val & ~c->feat.xcr0) || !(val & XCR0_X87) ||
	    ((val & XCR0_AVX) && !(val & XCR0_SSE)))
		x86_gp(c, 0);
	c->xcr0 = val;
}

u64 x86_xgetbv(struct x86_cpu *c, u32 index)
{
	u64 in_use;

	if (!(c->cr4 & CR4_OSXSAVE))
		x86_ud(c);
	if (index == 0)
		return c->xcr0;
	if (index != 1 || !c->feat.xgetbv1)
		x86_gp(c, 0);
	/* XINUSE is what XSAVE writes into the header's XSTATE_BV (SDM 1 13.6). */
	x86_fpu_put(c);
	in_use = x86_input_value(c, X86_IN_XINUSE, get_le64(c->xsave + 512));
	return c->xcr0 & in_use;
}

/* ---- the TLB ---- */

void x86_invlpg(struct x86_cpu *c, gva_t addr)
{
	u64 begin = exit_begin(&c->vcpu->stats);

	x86_need_cpl0(c);
	if (!(c->mode & M_CS64))
		addr = (u32)addr;
	if (is_canonical(addr))
		mmu_flush_page(c, addr);
	exit_end(&c->vcpu->stats, EXIT_INVLPG, begin);
}

enum { INVPCID_ADDR, INVPCID_CONTEXT, INVPCID_ALL_GLOBAL, INVPCID_ALL };

void x86_invpcid(struct x86_cpu *c, u64 type, u64 pcid, u64 addr)
{
	u64 begin = exit_begin(&c->vcpu->stats);

	x86_need_cpl0(c);
	if (type > INVPCID_ALL || pcid >> 12)
		x86_gp(c, 0);
	if (type <= INVPCID_CONTEXT && pcid && !(c->cr4 & CR4_PCIDE))
		x86_gp(c, 0);
	if (type == INVPCID_ADDR && !is_canonical(addr))
		x86_gp(c, 0);
	if (type == INVPCID_ADDR)
		mmu_flush_pcid_page(c, (unsigned)pcid, addr);
	else if (type == INVPCID_CONTEXT)
		mmu_flush_pcid(c, (unsigned)pcid);
	else if (type == INVPCID_ALL_GLOBAL)
		mmu_flush_all(c);
	else
		mmu_flush_nonglobal(c);
	exit_end(&c->vcpu->stats, EXIT_INVLPG, begin);
}

/* ---- descriptor tables, FS and GS, AC ---- */

static void check_dtable(struct x86_cpu *c, const struct x86_dtable *d)
{
	x86_need_cpl0(c);
	if ((c->mode & M_CS64) && !is_canonical(d->base))
		x86_gp(c, 0);
}

void x86_lgdt(struct x86_cpu *c, const struct x86_dtable *d)
{
	check_dtable(c, d);
	c->gdtr = *d;
}

void x86_lidt(struct x86_cpu *c, const struct x86_dtable *d)
{
	check_dtable(c, d);
	c->idtr = *d;
}

static void set_base(struct x86_cpu *c, enum x86_segreg s, u64 base)
{
	c->seg[s].base = base;
	c->segbase[s] = base;
}

void x86_swapgs(struct x86_cpu *c)
{
	u64 gs = c->seg[GS].base;

	if (!(c->mode & M_CS64))
		x86_ud(c);
	x86_need_cpl0(c);
	set_base(c, GS, c->kernel_gs_base);
	c->kernel_gs_base = gs;
}

static void fsgsbase_check(struct x86_cpu *c)
{
	if (!(c->mode & M_CS64) || !(c->cr4 & CR4_FSGSBASE))
		x86_ud(c);
}

u64 x86_rdfsgsbase(struct x86_cpu *c, enum x86_segreg s)
{
	fsgsbase_check(c);
	return c->seg[s].base;
}

void x86_wrfsgsbase(struct x86_cpu *c, enum x86_segreg s, u64 val)
{
	fsgsbase_check(c);
	if (!is_canonical(val))
		x86_gp(c, 0);
	set_base(c, s, val);
}

/* Every copy to and from user space has a pair of these: only the TLB's set is to be switched. */
void x86_stac_clac(struct x86_cpu *c, bool ac)
{
	if (c->cpl)
		x86_ud(c);
	if (ac)
		c->sflags |= X86_RFLAGS_AC;
	else
		c->sflags &= ~X86_RFLAGS_AC;
	c->tlb = c->tlbs[ac || !(c->cr4 & CR4_SMAP) ? TLB_SUP_AC : TLB_SUP];
}
