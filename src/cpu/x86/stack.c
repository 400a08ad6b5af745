// SPDX-License-Identifier: MIT
/* The stack (SDM 3A chapter 3, 6.2 of volume 1), and the flags that move over it: PUSHF, POPF, CLI,
 * STI (vol. 2; VME and PVI are not offered).
 *
 * A `struct frame` is a stack pointer on trial: multi-word transfers push or pop through it
 * and commit RSP when nothing can fault any more. */
#include "cpu/x86/desc.h"

/* ---- frames ---- */

void frame_init(struct x86_cpu *c, struct frame *f, const struct x86_seg *ss, u64 sp, bool wide,
                u32 err)
{
	f->wide = wide;
	f->err = err;
	f->base = wide ? 0 : ss->base;
	f->limit = ss->limit;
	f->ar = ss->ar;
	f->mask = wide ? ~0ull : ss->ar & SEG_DB ? 0xffffffff : 0xffff;
	f->sp = sp & f->mask;
}

void frame_current(struct x86_cpu *c, struct frame *f, u32 err)
{
	frame_init(c, f, &c->seg[SS], c->gpr[RSP], c->mode & M_CS64, err);
}

static gva_t frame_linear(struct x86_cpu *c, const struct frame *f, u64 sp, unsigned size)
{
	if (likely(f->wide)) {
		if (unlikely(!is_canonical(sp) || !is_canonical(sp + size - 1)))
			x86_raise_err(c, X86_SS, f->err);
		return sp;
	}
	if ((f->ar & SEG_UNUSABLE) || seg_outside(f->ar, f->limit, sp, size))
		x86_raise_err(c, X86_SS, f->err);
	return (u32)(f->base + sp);
}

void frame_push(struct x86_cpu *c, struct frame *f, u64 val, unsigned size)
{
	u64 sp = (f->sp - size) & f->mask;

	mmu_st(c, frame_linear(c, f, sp, size), val, size);
	f->sp = sp;
}

u64 frame_pop(struct x86_cpu *c, struct frame *f, unsigned size)
{
	u64 val = mmu_ld(c, frame_linear(c, f, f->sp, size), size);

	f->sp = (f->sp + size) & f->mask;
	return val;
}

void frame_push8(struct x86_cpu *c, struct frame *f, const u64 *val, unsigned nr)
{
	gva_t sp = f->sp - nr * 8;
	const struct tlb_entry *e = &c->tlb[(sp >> PAGE_SHIFT) & (TLB_SIZE - 1)];

	if (likely(sp - e->w <= PAGE_SIZE - nr * 8)) {
		volatile u64 *p = (u64 *)(uintptr_t)(sp + e->addend);

		for (unsigned i = 0; i < nr; i++)
			p[nr - 1 - i] = val[i];
		mmu_stored(c, (uintptr_t)p, nr * 8);
		f->sp = sp;
		return;
	}
	for (unsigned i = 0; i < nr; i++)
		frame_push(c, f, val[i], 8);
}

void frame_pop_n(struct x86_cpu *c, struct frame *f, u64 *val, unsigned nr, unsigned size)
{
	const u8 *p;

	if (likely(f->wide && size == 8) && likely((p = tlb_read_span(c->tlb, f->sp, nr * 8)))) {
		for (unsigned i = 0; i < nr; i++)
			val[i] = ((const volatile u64 *)p)[i];
		f->sp += nr * 8;
		return;
	}
	for (unsigned i = 0; i < nr; i++)
		val[i] = frame_pop(c, f, size);
}

void frame_need(struct x86_cpu *c, const struct frame *f, unsigned len)
{
	frame_linear(c, f, f->sp, len);
}

/* ---- PUSH, POP ---- */

void x86_push(struct x86_cpu *c, u64 val, unsigned size)
{
	u64 sp;

	if (likely(c->mode & M_CS64)) {
		const struct tlb_entry *e;

		sp = c->gpr[RSP] - size;
		e = &c->tlb[(sp >> PAGE_SHIFT) & (TLB_SIZE - 1)];
		if (likely(size == 8 && sp - e->w <= PAGE_SIZE - 8)) {
			*(volatile u64 *)(uintptr_t)(sp + e->addend) = val;
			mmu_stored(c, sp + e->addend, 8);
			c->gpr[RSP] = sp;
			return;
		}
		if (unlikely(!is_canonical(sp) || !is_canonical(sp + size - 1)))
			x86_raise_err(c, X86_SS, 0);
		mmu_st(c, sp, val, size);
		c->gpr[RSP] = sp;
	} else if (c->mode & M_SS32) {
		sp = (u32)(c->gpr[RSP] - size);
		mmu_st(c, x86_linear(c, SS, sp, size, true), val, size);
		c->gpr[RSP] = sp;
	} else {
		sp = (u16)(c->gpr[RSP] - size);
		mmu_st(c, x86_linear(c, SS, sp, size, true), val, size);
		c->gpr[RSP] = (c->gpr[RSP] & 0xffff0000) | sp;
	}
}

u64 x86_pop(struct x86_cpu *c, unsigned size)
{
	u64 sp = c->gpr[RSP], val;
	const u8 *p;

	if (likely(c->mode & M_CS64)) {
		if (likely(size == 8) && likely((p = tlb_read_span(c->tlb, sp, 8)))) {
			c->gpr[RSP] = sp + 8;
			return *(const volatile u64 *)p;
		}
		if (unlikely(!is_canonical(sp) || !is_canonical(sp + size - 1)))
			x86_raise_err(c, X86_SS, 0);
		val = mmu_ld(c, sp, size);
		c->gpr[RSP] = sp + size;
	} else if (c->mode & M_SS32) {
		val = mmu_ld(c, x86_linear(c, SS, (u32)sp, size, false), size);
		c->gpr[RSP] = (u32)(sp + size);
	} else {
		val = mmu_ld(c, x86_linear(c, SS, (u16)sp, size, false), size);
		c->gpr[RSP] = (sp & 0xffff0000) | (u16)(sp + size);
	}
	return val;
}

/* ---- flags ---- */

static void need_iopl3_in_vm(struct x86_cpu *c)
{
	if ((c->mode & M_VM) && iopl(c) != 3)
		x86_gp(c, 0);
}

u64 x86_pushf_image(struct x86_cpu *c, unsigned opsize)
{
	need_iopl3_in_vm(c);
	return x86_rflags(c) & ~(X86_RFLAGS_VM | X86_RFLAGS_RF) & size_mask(opsize);
}

void x86_popf(struct x86_cpu *c, u64 val, unsigned opsize)
{
	u64 mask = AFLAGS | X86_RFLAGS_TF | X86_RFLAGS_DF | X86_RFLAGS_NT;
	u64 new;

	need_iopl3_in_vm(c);
	if (opsize != 2)
		mask |= X86_RFLAGS_AC | X86_RFLAGS_ID;
	if (c->cpl <= iopl(c)) /* virtual-8086 mode: CPL is 3, and so is IOPL */
		mask |= X86_RFLAGS_IF;
	if (!c->cpl)
		mask |= X86_RFLAGS_IOPL;
	new = (x86_rflags(c) & ~mask & ~X86_RFLAGS_RF) | (val & mask);
	if (likely(!((new ^ c->sflags) & (X86_RFLAGS_TF | X86_RFLAGS_AC)))) {
		c->aflags = new &AFLAGS;
		c->sflags = new & ~AFLAGS;
		return;
	}
	x86_set_rflags(c, new);
}

/* IOPL decides in protected and virtual-8086 mode; CPL is 0 in real mode. */
static void need_iopl(struct x86_cpu *c)
{
	if (c->cpl > iopl(c))
		x86_gp(c, 0);
}

void x86_cli(struct x86_cpu *c)
{
	need_iopl(c);
	c->sflags &= ~X86_RFLAGS_IF;
}

void x86_sti(struct x86_cpu *c)
{
	need_iopl(c);
	if (c->sflags & X86_RFLAGS_IF)
		return;
	c->sflags |= X86_RFLAGS_IF;
	c->irq_shadow = true;
}
