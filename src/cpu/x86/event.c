// SPDX-License-Identifier: MIT
/* Delivery of exceptions, interrupts and INT n (SDM 3A chapter 6; vol. 2, INT n).
 *
 * A fault met on the way comes back to x86_deliver()'s own unwind point and becomes the next event
 * to deliver, or a double fault, or the end (table 6-5). Everything that can fault is done
 * before the processor's state changes; the frame's stores are made with the rights of the
 * level being entered (lend_cpl), which is taken back if one of them faults. */
#include "cpu/x86/desc.h"

#include "base/log.h"

/* Benign faults can follow each other; none does so for long but #AC on its own misaligned
 * stack, which a processor would repeat forever. */
#define MAX_NESTED 8

struct delivery {
	struct x86_event ev;
	u32 ext;   /* EXT of error codes: not for INT n, INT3, INTO */
	u64 ret;   /* the RIP to be pushed */
	u64 flags; /* the RFLAGS image to be pushed */
	u8 cpl;    /* before */
	bool lent; /* memory is accessed with the new level's rights */
};

static bool is_soft(const struct x86_event *ev)
{
	return ev->type == EV_SOFT || ev->type == EV_SOFT_XCPT;
}

static bool is_exception(const struct x86_event *ev)
{
	return ev->type == EV_FAULT || ev->type == EV_TRAP;
}

/* Error code that names an IDT entry. */
static u32 idt_err(const struct delivery *d)
{
	return d->ev.vector * 8u + 2u + d->ext;
}

/* ---- committing ---- */

/* `clear`: what a handler starts without. */
static void commit(struct x86_cpu *c, const struct desc *cs, unsigned cpl, u64 rip, u64 clear)
{
	u64 changed = c->sflags & clear & X86_RFLAGS_TF;

	seg_from_desc(&c->seg[CS], cs, (u16)((cs->sel & ~3u) | cpl));
	c->cpl = (u8)cpl;
	c->rip = rip;
	c->sflags &= ~clear;
	x86_update_mode(c);
	if (unlikely(changed))
		x86_update_step(c);
}

#define HANDLER_CLEARS (X86_RFLAGS_TF | X86_RFLAGS_NT | X86_RFLAGS_RF | X86_RFLAGS_VM)

/* The code segment of a gate. */
static void fetch_code(struct x86_cpu *c, const struct delivery *d, u16 sel, struct desc *cs)
{
	if (sel_null(sel))
		x86_gp(c, d->ext);
	if (!desc_fetch(c, sel, cs))
		x86_gp(c, sel_err(sel) | d->ext);
	if (!ar_is_code(desc_ar(cs)) || ar_dpl(desc_ar(cs)) > c->cpl)
		x86_gp(c, sel_err(sel) | d->ext);
}

/* ---- IA-32e mode (6.14) ---- */

static void deliver_long(struct x86_cpu *c, struct delivery *d)
{
	unsigned cpl = c->cpl, ist;
	u64 lo, hi, rip, rsp;
	bool inner;
	struct frame f;
	struct desc cs;
	u32 ar;
	u16 ss;

	if (d->ev.vector * 16u + 15 > c->idtr.limit)
		x86_gp(c, idt_err(d));
	lo = ld8_sys(c, c->idtr.base + d->ev.vector * 16u);
	hi = ld8_sys(c, c->idtr.base + d->ev.vector * 16u + 8);
	ar = (u32)(lo >> 40) & 0xff;
	if ((ar & (SEG_S | 0xe)) != SYS_INT || (hi >> 40 & 0x1f))
		x86_gp(c, idt_err(d));
	if (is_soft(&d->ev) && ar_dpl(ar) < c->cpl)
		x86_gp(c, idt_err(d));
	if (!(ar & SEG_P))
		x86_raise_err(c, X86_NP, idt_err(d));
	rip = (lo & 0xffff) | (lo >> 32 & 0xffff0000) | hi << 32;
	ist = (unsigned)(lo >> 32) & 7;

	fetch_code(c, d, (u16)(lo >> 16), &cs);
	if ((desc_ar(&cs) & (SEG_L | SEG_DB)) != SEG_L)
		x86_gp(c, sel_err(cs.sel) | d->ext);
	if (!(desc_ar(&cs) & SEG_P))
		x86_raise_err(c, X86_NP, sel_err(cs.sel) | d->ext);
	inner = !ar_is_conforming(desc_ar(&cs)) && ar_dpl(desc_ar(&cs)) < cpl;
	if (inner)
		cpl = ar_dpl(desc_ar(&cs));
	if (ist)
		rsp = tss_ist(c, ist, d->ext);
	else if (inner)
		tss_stack(c, cpl, d->ext, &ss, &rsp);
	else
		rsp = c->gpr[RSP];
	if (!is_canonical(rip))
		x86_gp(c, d->ext);
	desc_mark_accessed(c, &cs);

	frame_init(c, &f, &c->seg[SS], rsp & ~15ull, true, d->ext);
	if (inner) {
		d->lent = true;
		lend_cpl(c, cpl);
	}
	{
		const u64 image[6] = {c->seg[SS].sel, c->gpr[RSP], d->flags,
		                      c->seg[CS].sel, d->ret,      d->ev.err};

		frame_push8(c, &f, image, d->ev.has_err ? 6 : 5);
	}

	c->gpr[RSP] = f.sp;
	if (inner)
		seg_set_null(&c->seg[SS], (u16)cpl, cpl);
	commit(c, &cs, cpl, rip, HANDLER_CLEARS | (ar & 1 ? 0 : X86_RFLAGS_IF));
}

/* ---- protected and virtual-8086 mode (6.12, 20.3) ---- */

static void push_frame(struct x86_cpu *c, const struct delivery *d, struct frame *f, unsigned size,
                       bool switched)
{
	static const u8 order[] = {GS, FS, DS, ES};

	if (c->mode & M_VM)
		for (unsigned i = 0; i < ARRAY_SIZE(order); i++)
			frame_push(c, f, c->seg[order[i]].sel, size);
	if (switched) {
		frame_push(c, f, c->seg[SS].sel, size);
		frame_push(c, f, c->gpr[RSP], size);
	}
	frame_push(c, f, d->flags, size);
	frame_push(c, f, c->seg[CS].sel, size);
	frame_push(c, f, d->ret, size);
	if (d->ev.has_err)
		frame_push(c, f, d->ev.err, size);
}

static void deliver_pm(struct x86_cpu *c, struct delivery *d)
{
	static const u8 data[] = {ES, DS, FS, GS};
	unsigned cpl = c->cpl, size;
	bool inner, from_vm = c->mode & M_VM;
	struct desc gate, cs;
	struct frame f;
	struct x86_seg ss;
	u64 rip, rsp;
	u32 ar;
	u16 sel;

	if (d->ev.vector * 8u + 7 > c->idtr.limit)
		x86_gp(c, idt_err(d));
	gate.raw = mmu_ld_sys(c, lin(c, c->idtr.base + d->ev.vector * 8u), 8);
	ar = desc_ar(&gate) & 0xff;
	switch (ar & (SEG_S | SEG_TYPE)) {
	case SYS_TASK_GATE:
	case SYS_INT16:
	case SYS_TRAP16:
	case SYS_INT:
	case SYS_TRAP:
		break;
	default:
		x86_gp(c, idt_err(d));
	}
	if (is_soft(&d->ev) && ar_dpl(ar) < c->cpl)
		x86_gp(c, idt_err(d));
	if (!(ar & SEG_P))
		x86_raise_err(c, X86_NP, idt_err(d));
	if ((ar & SEG_TYPE) == SYS_TASK_GATE) {
		task_switch(c, gate_sel(&gate), TASK_EVENT, d->ret, d->flags, d->ext, d->ev.has_err,
		            d->ev.err);
		return;
	}
	size = ar & 8 ? 4 : 2;
	rip = gate_offset(&gate) & size_mask(size);

	fetch_code(c, d, gate_sel(&gate), &cs);
	if (!(desc_ar(&cs) & SEG_P))
		x86_raise_err(c, X86_NP, sel_err(cs.sel) | d->ext);
	inner = !ar_is_conforming(desc_ar(&cs)) && ar_dpl(desc_ar(&cs)) < cpl;
	if (from_vm && (!inner || ar_dpl(desc_ar(&cs))))
		x86_gp(c, sel_err(cs.sel) | d->ext);
	if (inner) {
		cpl = ar_dpl(desc_ar(&cs));
		tss_stack(c, cpl, d->ext, &sel, &rsp);
		tss_check_ss(c, sel, cpl, d->ext, &ss);
		frame_init(c, &f, &ss, rsp, false, sel_err(sel) | d->ext);
	} else {
		frame_current(c, &f, d->ext);
	}
	if (rip > desc_limit(&cs))
		x86_gp(c, d->ext);
	desc_mark_accessed(c, &cs);
	if (inner) {
		d->lent = true;
		lend_cpl(c, cpl);
	}
	push_frame(c, d, &f, size, inner);

	if (inner) {
		c->seg[SS] = ss;
		c->gpr[RSP] = rsp;
	}
	frame_commit(c, &f);
	if (from_vm)
		for (unsigned i = 0; i < ARRAY_SIZE(data); i++)
			seg_set_null(&c->seg[data[i]], 0, 0);
	commit(c, &cs, cpl, rip, HANDLER_CLEARS | (ar & 1 ? 0 : X86_RFLAGS_IF));
}

/* ---- real mode (SDM 3A 20.1.4) ---- */

static void deliver_real(struct x86_cpu *c, struct delivery *d)
{
	struct frame f;
	u32 entry;

	if (d->ev.vector * 4u + 3 > c->idtr.limit)
		x86_gp(c, idt_err(d));
	entry = (u32)mmu_ld_sys(c, lin(c, c->idtr.base + d->ev.vector * 4u), 4);
	frame_current(c, &f, 0);
	frame_push(c, &f, d->flags, 2);
	frame_push(c, &f, c->seg[CS].sel, 2);
	frame_push(c, &f, d->ret, 2);
	if ((entry & 0xffff) > c->seg[CS].limit)
		x86_gp(c, 0);
	frame_commit(c, &f);
	x86_set_rflags(c, x86_rflags(c) &
	                          ~(X86_RFLAGS_IF | X86_RFLAGS_TF | X86_RFLAGS_AC | X86_RFLAGS_RF));
	x86_seg_set_real(c, CS, (u16)(entry >> 16));
	c->rip = entry & 0xffff;
}

/* ---- one event ---- */

static void trace_event(struct x86_cpu *c, const struct delivery *d)
{
	static const char *const type[] = {"?",   "fault", "trap", "intr",
	                                   "nmi", "int",   "int",  "icebp"};
	const struct x86_event *ev = &d->ev;
	char err[24] = "";

	x86_fpu_put(c);
	if (ev->has_err)
		snprintf(err, sizeof(err), " err %04x", ev->err);
	trace_msg(&c->vcpu->vm->trace,
	          "int: cpu %u %s %02x%s cs:rip %04x:%016llx cpl %u ss:rsp %04x:%016llx cr2 %llx "
	          "rax %llx",
	          c->vcpu->index, type[ev->type], ev->vector, err, c->seg[CS].sel,
	          (unsigned long long)d->ret, c->cpl, c->seg[SS].sel,
	          (unsigned long long)c->gpr[RSP],
	          (unsigned long long)(ev->vector == X86_PF && is_exception(ev) ? ev->cr2 : c->cr2),
	          (unsigned long long)c->gpr[RAX]);
}

/* What an exception does to registers of its own, whether its delivery succeeds or not. */
static void side_effects(struct x86_cpu *c, const struct x86_event *ev)
{
	if (ev->type == EV_NMI)
		c->nmi_blocked = true;
	if (!is_exception(ev) && ev->type != EV_ICEBP)
		return;
	if (ev->vector == X86_PF) {
		c->cr2 = ev->cr2;
	} else if (ev->vector == X86_DB) {
		if (ev->type != EV_ICEBP) /* B0..B3 tell of this exception alone */
			c->dr[6] = (c->dr[6] & ~0xfull) | ev->dr6;
		if (c->dr[7] & (1u << 13)) {
			c->dr[7] &= ~(1ull << 13); /* GD */
			x86_update_step(c);
		}
	}
}

static void deliver(struct x86_cpu *c, struct delivery *d)
{
	const struct x86_event *ev = &d->ev;

	d->ext = !is_soft(ev);
	d->ret = is_soft(ev) || ev->type == EV_ICEBP ? c->next_rip : c->rip;
	d->flags = x86_rflags(c);
	/* Faults restart with RF set; instruction breakpoints and #DF, an abort, do not (17.3.1.1).
	 */
	if (ev->type == EV_FAULT && ev->vector != X86_DB && ev->vector != X86_DF)
		d->flags |= X86_RFLAGS_RF;
	d->cpl = c->cpl;
	d->lent = false;
	side_effects(c, ev);
	if (trace_on(&c->vcpu->vm->trace, TRACE_INT))
		trace_event(c, d);
	if (likely(c->mode & M_LMA))
		deliver_long(c, d);
	else if (c->mode & M_PE)
		deliver_pm(c, d);
	else
		deliver_real(c, d);
}

/* ---- nesting (table 6-5) ---- */

enum fault_class { BENIGN, CONTRIBUTORY, PAGE_FAULT, DOUBLE_FAULT };

static enum fault_class class_of(const struct x86_event *ev)
{
	if (!is_exception(ev))
		return BENIGN;
	switch (ev->vector) {
	case X86_DE:
	case X86_TS:
	case X86_NP:
	case X86_SS:
	case X86_GP:
		return CONTRIBUTORY;
	case X86_PF:
		return PAGE_FAULT;
	case X86_DF:
		return DOUBLE_FAULT;
	}
	return BENIGN;
}

/* `second` was met while `ev` was delivered: what is to be delivered now. false: shutdown. */
static bool combine(struct x86_event *ev, const struct x86_event *second)
{
	enum fault_class a = class_of(ev), b = class_of(second);

	if (a == DOUBLE_FAULT && b != BENIGN)
		return false;
	if ((a == CONTRIBUTORY && b == CONTRIBUTORY) || (a == PAGE_FAULT && b != BENIGN))
		*ev = (struct x86_event){
			.type = EV_FAULT, .vector = X86_DF, .has_err = true, .err = 0};
	else
		*ev = *second;
	return true;
}

int x86_deliver(struct x86_cpu *c, const struct x86_event *ev)
{
	const volatile bool valid = c->unwind_valid;
	volatile unsigned nested;
	volatile int ret = -1;
	struct delivery d;
	jmp_buf saved;

	if (likely(quick_deliver(c, ev))) {
		c->irq_shadow = c->shadow_db = false;
		return 0;
	}
	d.ev = *ev;
	unwind_copy(&saved, &c->unwind);
	c->unwind_valid = true;
	for (nested = 0; nested < MAX_NESTED; nested++) {
		if (!setjmp(c->unwind)) {
			deliver(c, &d);
			ret = 0;
			break;
		}
		if (d.lent) {
			c->cpl = d.cpl;
			x86_update_mode(c);
		}
		if (!combine(&d.ev, &c->ev))
			break;
		/* The engine counts what it hands in; these it never sees. */
		c->vcpu->stats.exception[d.ev.vector & 31]++;
	}
	unwind_copy(&c->unwind, &saved);
	c->unwind_valid = valid;
	c->irq_shadow = c->shadow_db = false;
	return ret;
}

void x86_soft_int(struct x86_cpu *c, u8 vector, enum x86_ev_type type)
{
	const struct x86_event ev = {.type = type, .vector = vector};

	/* Without VME, INT n of virtual-8086 mode belongs to IOPL 3 (20.3.3); INT3, INTO, INT1 do
	 * not. */
	if (type == EV_SOFT && (c->mode & M_VM) && iopl(c) != 3)
		x86_gp(c, 0);
	x86_raise_ev(c, &ev);
}
