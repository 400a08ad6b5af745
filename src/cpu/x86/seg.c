// SPDX-License-Identifier: MIT
/* Segment registers, descriptor tables and their checks (SDM 3A chapters 3 and 5; vol. 2: MOV,
 * LLDT, LTR, LAR, LSL, VERR/VERW).
 *
 * Order everywhere: fetch, check, set the accessed bit (which may raise #PF), and only then change
 * the register. */
#include "cpu/x86/desc.h"

/* ---- descriptors ---- */

bool desc_fetch(struct x86_cpu *c, u16 sel, struct desc *d)
{
	u64 base;
	u32 limit;

	if (sel & 4) {
		if (c->ldtr.ar & SEG_UNUSABLE)
			return false;
		base = c->ldtr.base;
		limit = c->ldtr.limit;
	} else {
		base = c->gdtr.base;
		limit = c->gdtr.limit;
	}
	if ((sel | 7u) > limit)
		return false;
	d->sel = sel;
	d->addr = lin(c, base + (sel & ~7u));
	d->raw = ld8_sys(c, d->addr);
	return true;
}

bool desc_fetch_high(struct x86_cpu *c, const struct desc *d, u64 *high)
{
	u32 limit = d->sel & 4 ? c->ldtr.limit : c->gdtr.limit;

	if ((d->sel | 7u) + 8 > limit)
		return false;
	*high = mmu_ld_sys(c, d->addr + 8, 8);
	return !(*high >> 40 & 0x1f);
}

void desc_probe(struct x86_cpu *c, const struct desc *d)
{
	struct mmu_walk w;

	if (!mmu_walk(c, lin(c, d->addr + 5), MMU_WRITE | MMU_SYS, &w))
		x86_raise_pf(c, lin(c, d->addr + 5), w.err);
}

void desc_update(struct x86_cpu *c, const struct desc *d, u8 set, u8 clear)
{
	gva_t addr = lin(c, d->addr + 5);
	const struct pmap_slot *slot;
	struct mmu_walk w;
	u8 *p;

	if (!mmu_walk(c, addr, MMU_WRITE | MMU_SYS, &w))
		x86_raise_pf(c, addr, w.err);
	slot = pmap_slot(c->pmap, w.gpa);
	if (!slot) {
		mmu_st_sys(c, addr, (mmu_ld_sys(c, addr, 1) & ~(u64)clear) | set, 1);
		return;
	}
	p = slot->hva + (w.gpa - slot->base);
	if (clear)
		__atomic_and_fetch(p, (u8)~clear, __ATOMIC_SEQ_CST);
	if (set)
		__atomic_or_fetch(p, set, __ATOMIC_SEQ_CST);
	mmu_stored(c, (uintptr_t)p, 1);
}

/* ---- segment registers ---- */

/* A data segment register changed. In 64-bit code only the bases of FS and GS count. */
static void seg_changed(struct x86_cpu *c, enum x86_segreg s)
{
	/* cppcheck-suppress arrayIndexOutOfBoundsCond */
	if (s >= FS) {
		/* cppcheck-suppress arrayIndexOutOfBoundsCond */
		c->segbase[s] = c->seg[s].base;
		x86_update_segbar(c, s - FS);
	} else if (!(c->mode & M_CS64)) {
		x86_update_mode(c);
	}
}

/* Real mode changes base and selector only: limit and rights stay what protected mode left
 * (SDM 3A 9.9.2; "unreal mode"). Virtual-8086 mode sets all (20.2). */
void x86_seg_set_real(struct x86_cpu *c, enum x86_segreg s, u16 sel)
{
	struct x86_seg *seg = &c->seg[s];

	if ((c->sflags & X86_RFLAGS_VM) && (c->cr0 & CR0_PE)) {
		seg->limit = 0xffff;
		seg->ar = SEG_P | SEG_DPL | SEG_S | SEG_RW | SEG_A;
	} else if (seg->ar & SEG_UNUSABLE) {
		seg->limit = 0xffff;
		seg->ar = SEG_P | SEG_S | SEG_RW | SEG_A;
	}
	seg->sel = sel;
	seg->base = (u32)sel << 4;
	seg_changed(c, s);
}

static void load_ss(struct x86_cpu *c, u16 sel)
{
	struct desc d;
	u32 ar;

	if (sel_null(sel)) {
		/* 64-bit code below CPL 3 may run without a stack segment. */
		if (!(c->mode & M_CS64) || c->cpl == 3 || (sel & 3) != c->cpl)
			x86_gp(c, 0);
		seg_set_null(&c->seg[SS], sel, c->cpl);
		return;
	}
	if (!desc_fetch(c, sel, &d))
		x86_gp(c, sel_err(sel));
	ar = desc_ar(&d);
	if ((sel & 3) != c->cpl || !ar_is_writable(ar) || ar_dpl(ar) != c->cpl)
		x86_gp(c, sel_err(sel));
	if (!(ar & SEG_P))
		x86_raise_err(c, X86_SS, sel_err(sel));
	desc_mark_accessed(c, &d);
	seg_from_desc(&c->seg[SS], &d, sel);
}

static void load_data(struct x86_cpu *c, enum x86_segreg s, u16 sel)
{
	struct desc d;
	u32 ar;

	if (sel_null(sel)) {
		seg_set_null(&c->seg[s], sel, 0);
		return;
	}
	if (!desc_fetch(c, sel, &d))
		x86_gp(c, sel_err(sel));
	ar = desc_ar(&d);
	if (!(ar & SEG_S) || (ar & (SEG_CODE | SEG_RW)) == SEG_CODE)
		x86_gp(c, sel_err(sel));
	if (!ar_is_conforming(ar) && ((sel & 3u) > ar_dpl(ar) || c->cpl > ar_dpl(ar)))
		x86_gp(c, sel_err(sel));
	if (!(ar & SEG_P))
		x86_raise_err(c, X86_NP, sel_err(sel));
	desc_mark_accessed(c, &d);
	seg_from_desc(&c->seg[s], &d, sel);
}

void x86_load_seg(struct x86_cpu *c, enum x86_segreg s, u16 sel)
{
	if (!in_pm(c)) {
		x86_seg_set_real(c, s, sel);
		return;
	}
	if (s == SS)
		load_ss(c, sel);
	else
		load_data(c, s, sel);
	seg_changed(c, s);
}

void seg_drop_inner(struct x86_cpu *c, unsigned cpl)
{
	static const u8 regs[] = {ES, DS, FS, GS};

	for (unsigned i = 0; i < ARRAY_SIZE(regs); i++) {
		struct x86_seg *s = &c->seg[regs[i]];

		if ((s->ar & SEG_UNUSABLE) || ar_is_conforming(s->ar) || ar_dpl(s->ar) >= cpl)
			continue;
		/* The hidden base stays: in 64-bit mode FS and GS still have one. */
		s->sel = 0;
		s->ar = SEG_UNUSABLE;
		if (regs[i] >= FS)
			x86_update_segbar(c, regs[i] - FS);
	}
}

/* ---- LDTR, TR ---- */

static void need_pm(struct x86_cpu *c)
{
	if (!in_pm(c))
		x86_ud(c);
}

static void need_pm_cpl0(struct x86_cpu *c)
{
	need_pm(c);
	if (c->cpl)
		x86_gp(c, 0);
}

/* The full base of a system segment: 64 bits in IA-32e mode. */
static u64 sys_base(struct x86_cpu *c, const struct desc *d)
{
	u64 base = desc_base(d), high;

	if (!(c->mode & M_LMA))
		return base;
	if (!desc_fetch_high(c, d, &high))
		x86_gp(c, sel_err(d->sel));
	base |= high << 32;
	if (!is_canonical(base))
		x86_gp(c, sel_err(d->sel));
	return base;
}

void x86_lldt(struct x86_cpu *c, u16 sel)
{
	struct desc d;
	u64 base;

	need_pm_cpl0(c);
	if (sel_null(sel)) {
		seg_set_null(&c->ldtr, sel, 0);
		return;
	}
	if ((sel & 4) || !desc_fetch(c, sel, &d) || (desc_ar(&d) & (SEG_S | SEG_TYPE)) != SYS_LDT)
		x86_gp(c, sel_err(sel));
	if (!(desc_ar(&d) & SEG_P))
		x86_raise_err(c, X86_NP, sel_err(sel));
	base = sys_base(c, &d);
	seg_from_desc(&c->ldtr, &d, sel);
	c->ldtr.base = base;
}

void x86_ltr(struct x86_cpu *c, u16 sel)
{
	struct desc d;
	u32 type;
	u64 base;

	need_pm_cpl0(c);
	if (sel_null(sel))
		x86_gp(c, 0);
	if ((sel & 4) || !desc_fetch(c, sel, &d))
		x86_gp(c, sel_err(sel));
	type = desc_ar(&d) & (SEG_S | SEG_TYPE);
	if (type != SYS_TSS && (type != SYS_TSS16 || (c->mode & M_LMA)))
		x86_gp(c, sel_err(sel));
	if (!(desc_ar(&d) & SEG_P))
		x86_raise_err(c, X86_NP, sel_err(sel));
	base = sys_base(c, &d);
	desc_update(c, &d, SEG_RW, 0); /* busy */
	seg_from_desc(&c->tr, &d, sel);
	c->tr.base = base;
	c->tr.ar |= SEG_RW;
}

/* ---- LAR, LSL, VERR, VERW ---- */

/* May CPL and RPL see this segment? */
static bool visible(const struct x86_cpu *c, u16 sel, u32 ar)
{
	return ar_is_conforming(ar) || (c->cpl <= ar_dpl(ar) && (sel & 3u) <= ar_dpl(ar));
}

static bool sys_type_in(const struct x86_cpu *c, u32 ar, u32 legacy, u32 ia32e)
{
	return (c->mode & M_LMA ? ia32e : legacy) >> (ar & SEG_TYPE) & 1;
}

bool x86_lar(struct x86_cpu *c, u16 sel, u32 *val)
{
	const u32 ia32e = 1u << SYS_LDT | 1u << SYS_TSS | 1u << SYS_TSS_BUSY | 1u << SYS_CALL;
	const u32 legacy = ia32e | 1u << SYS_TSS16 | 1u << SYS_TSS16_BUSY | 1u << SYS_CALL16 |
	                   1u << SYS_TASK_GATE;
	struct desc d;

	need_pm(c);
	if (sel_null(sel) || !desc_fetch(c, sel, &d))
		return false;
	if (!(desc_ar(&d) & SEG_S) && !sys_type_in(c, desc_ar(&d), legacy, ia32e))
		return false;
	if (!visible(c, sel, desc_ar(&d)))
		return false;
	/* Bits 16..19 are undefined by the manual; processors return them as they are. */
	*val = (u32)(d.raw >> 32) & 0x00ffff00;
	return true;
}

bool x86_lsl(struct x86_cpu *c, u16 sel, u32 *val)
{
	const u32 ia32e = 1u << SYS_LDT | 1u << SYS_TSS | 1u << SYS_TSS_BUSY;
	const u32 legacy = ia32e | 1u << SYS_TSS16 | 1u << SYS_TSS16_BUSY;
	struct desc d;

	need_pm(c);
	if (sel_null(sel) || !desc_fetch(c, sel, &d))
		return false;
	if (!(desc_ar(&d) & SEG_S) && !sys_type_in(c, desc_ar(&d), legacy, ia32e))
		return false;
	if (!visible(c, sel, desc_ar(&d)))
		return false;
	*val = desc_limit(&d);
	return true;
}

bool x86_verify(struct x86_cpu *c, u16 sel, bool write)
{
	struct desc d;
	u32 ar;

	need_pm(c);
	if (sel_null(sel) || !desc_fetch(c, sel, &d))
		return false;
	ar = desc_ar(&d);
	if (!(ar & SEG_S) || !visible(c, sel, ar))
		return false;
	if (write)
		return ar_is_writable(ar);
	return !(ar & SEG_CODE) || (ar & SEG_RW);
}

/* ---- linear addresses ---- */

static void __attribute__((noreturn)) linear_fault(struct x86_cpu *c, enum x86_segreg s)
{
	x86_raise_err(c, s == SS ? X86_SS : X86_GP, 0);
}

gva_t x86_linear(struct x86_cpu *c, enum x86_segreg s, u64 off, unsigned size, bool write)
{
	const struct x86_seg *seg = &c->seg[s];

	if (likely(c->mode & M_CS64)) {
		gva_t addr = c->segbase[s] + off;

		if (unlikely(!is_canonical(addr) || !is_canonical(addr + size - 1)))
			linear_fault(c, s);
		return addr;
	}
	/* CS is never writable in protected mode. */
	if (likely((c->mode & M_FLAT) && s <= DS && !(s == CS && write)))
		return (u32)off;
	if (seg->ar & SEG_UNUSABLE)
		linear_fault(c, s);
	if (in_pm(c)) {
		if (write ? !ar_is_writable(seg->ar) : (seg->ar & (SEG_CODE | SEG_RW)) == SEG_CODE)
			linear_fault(c, s);
	}
	/* A 4 GiB segment wraps: both that and a fault are allowed (SDM 3A 5.3), and it is what
	 * code does that looks at pages only. */
	if ((seg->limit != 0xffffffff || ar_is_expand_down(seg->ar)) &&
	    seg_outside(seg->ar, seg->limit, off, size))
		linear_fault(c, s);
	return (u32)(seg->base + off);
}
