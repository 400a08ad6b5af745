// SPDX-License-Identifier: MIT
/* Far transfers: JMP, CALL, RET through code segments, call gates and task gates (SDM 3A 5.8, 7.3;
 * vol. 2 JMP, CALL, RET).
 *
 * All checks and all stores come first, then CS, SS, RSP and RIP change together, so that
 * any fault leaves the instruction restartable. */
#include "cpu/x86/desc.h"

void x86_check_target(struct x86_cpu *c, u64 rip)
{
	if (c->mode & M_CS64 ? !is_canonical(rip) : rip > c->seg[CS].limit)
		x86_gp(c, 0);
}

/* ---- real and virtual-8086 mode ---- */

static void real_cs(struct x86_cpu *c, u16 sel, u64 rip)
{
	x86_seg_set_real(c, CS, sel);
	c->rip = rip;
}

static void far_real(struct x86_cpu *c, u16 sel, u64 off, unsigned opsize, bool call)
{
	struct frame f;

	off &= size_mask(opsize);
	if (off > c->seg[CS].limit)
		x86_gp(c, 0);
	if (call) {
		frame_current(c, &f, 0);
		frame_push(c, &f, c->seg[CS].sel, opsize);
		frame_push(c, &f, c->next_rip, opsize);
		frame_commit(c, &f);
	}
	real_cs(c, sel, off);
}

/* ---- protected mode ---- */

static void commit_cs(struct x86_cpu *c, const struct desc *d, unsigned cpl, u64 rip)
{
	seg_from_desc(&c->seg[CS], d, (u16)((d->sel & ~3u) | cpl));
	c->cpl = (u8)cpl;
	c->rip = rip;
}

/* Straight to a code segment: the privilege level stays. */
static void far_code(struct x86_cpu *c, struct desc *d, u64 rip, unsigned opsize, bool call)
{
	u32 ar = desc_ar(d);
	struct frame f;

	if (!ar_is_code(ar) || ar_bad_long(c, ar))
		x86_gp(c, sel_err(d->sel));
	if (ar_is_conforming(ar) ? ar_dpl(ar) > c->cpl
	                         : (d->sel & 3) > c->cpl || ar_dpl(ar) != c->cpl)
		x86_gp(c, sel_err(d->sel));
	if (!(ar & SEG_P))
		x86_raise_err(c, X86_NP, sel_err(d->sel));
	rip &= size_mask(opsize);
	if (!ar_long(c, ar))
		rip = (u32)rip; /* leaving 64-bit code: processors cut it off before the check */
	check_rip(c, ar, desc_limit(d), rip, 0);
	desc_mark_accessed(c, d);
	if (call) {
		frame_current(c, &f, 0);
		frame_push(c, &f, c->seg[CS].sel, opsize);
		frame_push(c, &f, c->next_rip, opsize);
		frame_commit(c, &f);
	}
	commit_cs(c, d, c->cpl, rip);
	x86_update_mode(c);
}

struct gate {
	struct desc code;
	u64 rip;
	unsigned size;   /* of a pushed word: 2, 4, 8 */
	unsigned params; /* words to copy to an inner stack */
};

/* Call gate to more privilege: the stack of the TSS. Stores are made with the inner level's
 * rights; gate_inner() takes them back if one faults. */
static void __attribute__((noinline)) gate_push(struct x86_cpu *c, const struct gate *g)
{
	unsigned cpl = ar_dpl(desc_ar(&g->code)), size = g->size;
	bool wide = c->mode & M_LMA;
	struct frame from, f;
	struct x86_seg ss;
	u32 param[31];
	u16 sel;
	u64 sp;

	tss_stack(c, cpl, 0, &sel, &sp);
	if (wide)
		seg_set_null(&ss, (u16)cpl, cpl);
	else
		tss_check_ss(c, sel, cpl, 0, &ss);
	frame_init(c, &f, &ss, sp, wide, sel_err(ss.sel));
	check_rip(c, desc_ar(&g->code), desc_limit(&g->code), g->rip, 0);
	frame_current(c, &from, 0);
	for (unsigned i = 0; i < g->params; i++)
		param[i] = (u32)frame_pop(c, &from, size);

	lend_cpl(c, cpl);
	frame_push(c, &f, c->seg[SS].sel, size);
	frame_push(c, &f, c->gpr[RSP], size);
	for (unsigned i = g->params; i--;)
		frame_push(c, &f, param[i], size);
	frame_push(c, &f, c->seg[CS].sel, size);
	frame_push(c, &f, c->next_rip, size);

	c->seg[SS] = ss;
	c->gpr[RSP] = sp; /* the upper half of ESP on a 16-bit stack */
	frame_commit(c, &f);
	commit_cs(c, &g->code, cpl, g->rip);
	x86_update_mode(c);
}

static void gate_inner(struct x86_cpu *c, const struct gate *g)
{
	jmp_buf saved;
	u8 cpl = c->cpl;

	unwind_copy(&saved, &c->unwind);
	if (!setjmp(c->unwind)) {
		gate_push(c, g);
		unwind_copy(&c->unwind, &saved);
		return;
	}
	unwind_copy(&c->unwind, &saved);
	c->cpl = cpl;
	x86_update_mode(c);
	longjmp(c->unwind, 1); /* c->ev is still the fault */
}

static void far_gate(struct x86_cpu *c, const struct desc *d, bool call)
{
	u32 ar = desc_ar(d), code_ar;
	struct gate g;
	struct frame f;
	u64 high;
	u16 sel;

	if (ar_dpl(ar) < c->cpl || ar_dpl(ar) < (d->sel & 3u))
		x86_gp(c, sel_err(d->sel));
	g.rip = gate_offset(d);
	g.size = ar & 8 ? 4 : 2;
	g.params = (unsigned)(d->raw >> 32) & 0x1f;
	if (c->mode & M_LMA) {
		if (!desc_fetch_high(c, d, &high))
			x86_gp(c, sel_err(d->sel));
		g.rip |= high << 32;
		g.size = 8;
		g.params = 0;
	}
	if (!(ar & SEG_P))
		x86_raise_err(c, X86_NP, sel_err(d->sel));
	g.rip &= size_mask(g.size);

	sel = gate_sel(d);
	if (sel_null(sel))
		x86_gp(c, 0);
	if (!desc_fetch(c, sel, &g.code))
		x86_gp(c, sel_err(sel));
	code_ar = desc_ar(&g.code);
	if (!ar_is_code(code_ar) || ar_dpl(code_ar) > c->cpl)
		x86_gp(c, sel_err(sel));
	if (!call && !ar_is_conforming(code_ar) && ar_dpl(code_ar) != c->cpl)
		x86_gp(c, sel_err(sel));
	if ((c->mode & M_LMA) && (code_ar & (SEG_L | SEG_DB)) != SEG_L)
		x86_gp(c, sel_err(sel));
	if (!(code_ar & SEG_P))
		x86_raise_err(c, X86_NP, sel_err(sel));
	desc_mark_accessed(c, &g.code);

	if (call && !ar_is_conforming(code_ar) && ar_dpl(code_ar) < c->cpl) {
		gate_inner(c, &g);
		return;
	}
	check_rip(c, code_ar, desc_limit(&g.code), g.rip, 0);
	if (call) {
		frame_init(c, &f, &c->seg[SS], c->gpr[RSP], c->mode & M_LMA, 0);
		frame_push(c, &f, c->seg[CS].sel, g.size);
		frame_push(c, &f, c->next_rip, g.size);
		frame_commit(c, &f);
	}
	commit_cs(c, &g.code, c->cpl, g.rip);
	x86_update_mode(c);
}

static void far_system(struct x86_cpu *c, const struct desc *d, bool call)
{
	u32 ar = desc_ar(d);
	u16 tss = d->sel;

	switch (ar & SEG_TYPE) {
	case SYS_CALL16:
		if (c->mode & M_LMA)
			break;
		/* fall through */
	case SYS_CALL:
		far_gate(c, d, call);
		return;
	case SYS_TASK_GATE:
	case SYS_TSS16:
	case SYS_TSS:
		if (c->mode & M_LMA)
			break;
		if (ar_dpl(ar) < c->cpl || ar_dpl(ar) < (d->sel & 3u))
			break;
		if ((ar & SEG_TYPE) == SYS_TASK_GATE) {
			if (!(ar & SEG_P))
				x86_raise_err(c, X86_NP, sel_err(d->sel));
			tss = gate_sel(d);
		}
		task_switch(c, tss, call ? TASK_CALL : TASK_JMP, c->next_rip, x86_rflags(c), 0,
		            false, 0);
		return;
	}
	x86_gp(c, sel_err(d->sel));
}

static void far_transfer(struct x86_cpu *c, u16 sel, u64 off, unsigned opsize, bool call)
{
	struct desc d;

	if (!in_pm(c)) {
		far_real(c, sel, off, opsize, call);
		return;
	}
	if (sel_null(sel))
		x86_gp(c, 0);
	if (!desc_fetch(c, sel, &d))
		x86_gp(c, sel_err(sel));
	if (desc_ar(&d) & SEG_S)
		far_code(c, &d, off, opsize, call);
	else
		far_system(c, &d, call);
}

void x86_far_jmp(struct x86_cpu *c, u16 sel, u64 off, unsigned opsize)
{
	far_transfer(c, sel, off, opsize, false);
}

void x86_far_call(struct x86_cpu *c, u16 sel, u64 off, unsigned opsize)
{
	far_transfer(c, sel, off, opsize, true);
}

/* ---- returns, the part that RET and IRET share ---- */

void return_check_cs(struct x86_cpu *c, u16 sel, struct desc *d)
{
	u32 ar;

	if (sel_null(sel))
		x86_gp(c, 0);
	if (!desc_fetch(c, sel, d))
		x86_gp(c, sel_err(sel));
	ar = desc_ar(d);
	if (!ar_is_code(ar) || (sel & 3) < c->cpl || ar_bad_long(c, ar))
		x86_gp(c, sel_err(sel));
	if (ar_is_conforming(ar) ? ar_dpl(ar) > (sel & 3u) : ar_dpl(ar) != (sel & 3u))
		x86_gp(c, sel_err(sel));
	if (!(ar & SEG_P))
		x86_raise_err(c, X86_NP, sel_err(sel));
}

void return_check_ss(struct x86_cpu *c, u16 sel, const struct desc *cs, struct x86_seg *ss)
{
	unsigned cpl = cs->sel & 3;
	struct desc d;
	u32 ar;

	if (sel_null(sel)) {
		if (!ar_long(c, desc_ar(cs)) || cpl == 3)
			x86_gp(c, 0);
		seg_set_null(ss, sel, cpl);
		return;
	}
	if (!desc_fetch(c, sel, &d))
		x86_gp(c, sel_err(sel));
	ar = desc_ar(&d);
	if ((sel & 3u) != cpl || !ar_is_writable(ar) || ar_dpl(ar) != cpl)
		x86_gp(c, sel_err(sel));
	if (!(ar & SEG_P))
		x86_raise_err(c, X86_SS, sel_err(sel));
	desc_mark_accessed(c, &d);
	seg_from_desc(ss, &d, sel);
}

void return_commit(struct x86_cpu *c, const struct desc *cs, u64 rip, const struct x86_seg *ss,
                   u64 rsp)
{
	unsigned cpl = cs->sel & 3;
	struct frame f;

	if (cpl > c->cpl)
		seg_drop_inner(c, cpl);
	if (ss) {
		c->seg[SS] = *ss;
		/* A 16-bit stack: the upper bits of RSP keep what they were. */
		frame_init(c, &f, ss, rsp, ar_long(c, desc_ar(cs)), 0);
		frame_commit(c, &f);
	}
	commit_cs(c, cs, cpl, rip);
	x86_update_mode(c);
}

void x86_far_ret(struct x86_cpu *c, unsigned opsize, u16 pop_bytes)
{
	bool outer;
	struct frame f;
	struct x86_seg ss;
	struct desc d;
	u64 rip, rsp = 0;
	u16 sel;

	frame_current(c, &f, 0);
	rip = frame_pop(c, &f, opsize);
	sel = (u16)frame_pop(c, &f, opsize);
	if (!in_pm(c)) {
		if (rip > c->seg[CS].limit)
			x86_gp(c, 0);
		f.sp += pop_bytes;
		frame_commit(c, &f);
		real_cs(c, sel, rip);
		return;
	}
	return_check_cs(c, sel, &d);
	outer = (sel & 3) > c->cpl;
	f.sp = (f.sp + pop_bytes) & f.mask;
	if (outer) {
		rsp = frame_pop(c, &f, opsize);
		return_check_ss(c, (u16)frame_pop(c, &f, opsize), &d, &ss);
		rsp += pop_bytes;
	}
	if (!ar_long(c, desc_ar(&d)))
		rip = (u32)rip; /* leaving 64-bit code: processors cut it off before the check */
	check_rip(c, desc_ar(&d), desc_limit(&d), rip, 0);
	desc_mark_accessed(c, &d);
	if (!outer)
		frame_commit(c, &f);
	return_commit(c, &d, rip, outer ? &ss : NULL, rsp);
}
