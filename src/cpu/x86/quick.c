// SPDX-License-Identifier: MIT
/* Events and IRET as 64-bit systems have them nearly always: from 64-bit code to 64-bit code, flat
 * segments with the accessed bit set, everything in the TLB. They are on the path of every page
 * fault, interrupt and IPI, and by the book (event.c, iret.c) cost three times as much.
 *
 * Nothing here raises, and nothing is changed before it is certain that nothing is unusual: false
 * means that the caller does it by the book. */
#include "cpu/x86/desc.h"

/* Attribute bits of a descriptor's two words that must be just so. */
#define RAW(ar)    ((u64)(ar) << 40)
#define RAW_DPL(n) RAW((n) << SEG_DPL_SHIFT)
#define CODE_MASK  RAW(SEG_A | SEG_EC | SEG_CODE | SEG_S | SEG_DPL | SEG_P | SEG_L | SEG_DB)
#define CODE_64    RAW(SEG_A | SEG_CODE | SEG_S | SEG_P | SEG_L)
#define DATA_MASK  RAW(SEG_A | SEG_RW | SEG_CODE | SEG_S | SEG_DPL | SEG_P)
#define DATA_RW    RAW(SEG_A | SEG_RW | SEG_S | SEG_P)

/* A descriptor of the GDT with these attributes. */
static inline bool fetch(struct x86_cpu *c, u16 sel, u64 mask, u64 want, struct desc *d)
{
	const u8 *p;

	if (unlikely((sel & 4) || sel_null(sel) || (sel | 7u) > c->gdtr.limit))
		return false;
	p = tlb_read_span(c->tlbs[TLB_SUP], c->gdtr.base + (sel & ~7u), 8);
	if (unlikely(!p))
		return false;
	d->raw = *(const volatile u64 *)p;
	d->sel = sel;
	return (d->raw & mask) == want;
}

static inline bool read_sys(const struct x86_cpu *c, gva_t addr, u64 *val)
{
	const u8 *p = tlb_read_span(c->tlbs[TLB_SUP], addr, 8);

	if (likely(p))
		*val = *(const volatile u64 *)p;
	return p;
}

/* ---- events ---- */

struct gate64 {
	u64 rip;
	unsigned ist;
	bool trap;
	struct desc cs;
};

/* An interrupt or trap gate to code of CPL 0. */
static inline bool get_gate(struct x86_cpu *c, unsigned vector, struct gate64 *g)
{
	const u8 *p;
	u64 lo, hi;
	u32 ar;

	if (unlikely(vector * 16 + 15 > c->idtr.limit))
		return false;
	p = tlb_read_span(c->tlbs[TLB_SUP], c->idtr.base + vector * 16, 16);
	if (unlikely(!p))
		return false;
	lo = *(const volatile u64 *)p;
	hi = *(const volatile u64 *)(p + 8);
	ar = (u32)(lo >> 40) & 0xff;
	if (unlikely((ar & (SEG_P | SEG_S | 0xe)) != (SEG_P | SYS_INT) || (hi >> 40 & 0x1f)))
		return false;
	g->trap = ar & 1;
	g->rip = (lo & 0xffff) | (lo >> 32 & 0xffff0000) | hi << 32;
	g->ist = (unsigned)(lo >> 32) & 7;
	return is_canonical(g->rip) && fetch(c, (u16)(lo >> 16), CODE_MASK, CODE_64, &g->cs);
}

static inline bool get_stack(const struct x86_cpu *c, unsigned ist, u64 *rsp)
{
	unsigned off = ist ? 0x1c + ist * 8 : 4;

	if (!ist && !c->cpl) {
		*rsp = c->gpr[RSP];
		return true;
	}
	return off + 7 <= c->tr.limit && read_sys(c, c->tr.base + off, rsp);
}

bool quick_deliver(struct x86_cpu *c, const struct x86_event *ev)
{
	unsigned words = ev->has_err ? 6 : 5;
	struct tlb_entry *set = tlb_set_for(c, 0);
	const struct tlb_entry *e;
	struct gate64 g;
	volatile u64 *p;
	u64 rsp, sp;

	if (!(c->mode & M_CS64) || unlikely(c->sflags & X86_RFLAGS_TF))
		return false;
	if (ev->type != EV_INTR && (ev->type != EV_FAULT || ev->vector == X86_DB))
		return false;
	if (unlikely(trace_on(&c->vcpu->vm->trace, TRACE_INT)) || !get_gate(c, ev->vector, &g) ||
	    !get_stack(c, g.ist, &rsp))
		return false;
	sp = (rsp & ~15ull) - words * 8;
	e = &set[(sp >> PAGE_SHIFT) & (TLB_SIZE - 1)];
	if (unlikely(sp - e->w > PAGE_SIZE - words * 8))
		return false;

	p = (volatile u64 *)(uintptr_t)(sp + e->addend);
	if (ev->has_err)
		*p++ = ev->err;
	p[0] = c->rip;
	p[1] = c->seg[CS].sel;
	p[2] = x86_rflags(c) | (ev->type == EV_FAULT && ev->vector != X86_DF ? X86_RFLAGS_RF : 0);
	p[3] = c->gpr[RSP];
	p[4] = c->seg[SS].sel;
	mmu_stored(c, sp + e->addend, words * 8);
	if (ev->type == EV_FAULT && ev->vector == X86_PF)
		c->cr2 = ev->cr2;
	c->gpr[RSP] = sp;
	if (c->cpl)
		seg_set_null(&c->seg[SS], 0, 0);
	seg_from_desc(&c->seg[CS], &g.cs, (u16)(g.cs.sel & ~3u));
	c->rip = g.rip;
	c->sflags &= ~(X86_RFLAGS_NT | X86_RFLAGS_RF | (g.trap ? 0 : X86_RFLAGS_IF));
	c->cpl = 0;
	update_mode_64(c);
	return true;
}

/* ---- IRET ---- */

/* From CPL 0, by IRETQ, to CPL 3 or to CPL 0. */
bool quick_iret(struct x86_cpu *c)
{
	const u64 mask = AFLAGS | X86_RFLAGS_DF | X86_RFLAGS_NT | X86_RFLAGS_RF | X86_RFLAGS_ID |
	                 X86_RFLAGS_IF | X86_RFLAGS_IOPL | X86_RFLAGS_VIF | X86_RFLAGS_VIP;
	const u64 heavy = X86_RFLAGS_TF | X86_RFLAGS_AC;
	const volatile u64 *f;
	u64 rip, cs, flags, rsp, ss;
	struct desc dc, ds;
	unsigned cpl;

	if (!(c->mode & M_CS64) || c->cpl || unlikely(c->nmi_blocked) ||
	    unlikely(c->sflags & X86_RFLAGS_NT))
		return false;
	f = (const volatile u64 *)tlb_read_span(c->tlb, c->gpr[RSP], 40);
	if (unlikely(!f))
		return false;
	rip = f[0];
	cs = f[1] & 0xffff;
	flags = f[2];
	rsp = f[3];
	ss = f[4] & 0xffff;
	cpl = cs & 3;
	if (unlikely((cpl && cpl != 3) || !is_canonical(rip) || ((flags ^ c->sflags) & heavy)))
		return false;
	if (!fetch(c, (u16)cs, CODE_MASK, CODE_64 | RAW_DPL(cpl), &dc))
		return false;
	if (ss & 0xfffc) {
		if ((ss & 3) != cpl || !fetch(c, (u16)ss, DATA_MASK, DATA_RW | RAW_DPL(cpl), &ds))
			return false;
	} else if (cpl) {
		return false;
	}

	if (cpl)
		seg_drop_inner(c, cpl);
	if (ss & 0xfffc)
		seg_from_desc(&c->seg[SS], &ds, (u16)ss);
	else
		seg_set_null(&c->seg[SS], (u16)ss, cpl);
	seg_from_desc(&c->seg[CS], &dc, (u16)cs);
	c->gpr[RSP] = rsp;
	c->rip = rip;
	c->aflags = flags & AFLAGS;
	c->sflags = (c->sflags & ~mask) | (flags & mask & ~AFLAGS);
	c->cpl = (u8)cpl;
	update_mode_64(c);
	return true;
}
