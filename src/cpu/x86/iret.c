// SPDX-License-Identifier: MIT
/* IRET in all its forms (vol. 2, IRET; SDM 3A 6.14.3 for IA-32e mode, 7.3 for nested tasks, 20.2
 * for virtual-8086 mode). */
#include "cpu/x86/desc.h"

/* Flags that a popped image may change, by the privilege level before the return. */
static u64 flags_mask(const struct x86_cpu *c, unsigned opsize)
{
	u64 mask = AFLAGS | X86_RFLAGS_TF | X86_RFLAGS_DF | X86_RFLAGS_NT;

	if (opsize != 2)
		mask |= X86_RFLAGS_RF | X86_RFLAGS_AC | X86_RFLAGS_ID;
	if (c->cpl <= iopl(c))
		mask |= X86_RFLAGS_IF;
	if (!c->cpl) {
		mask |= X86_RFLAGS_IOPL;
		if (opsize != 2)
			mask |= X86_RFLAGS_VIF | X86_RFLAGS_VIP;
	}
	return mask;
}

/* AC and TF have consequences that x86_set_rflags() knows. */
static void put_flags(struct x86_cpu *c, u64 new)
{
	const u64 heavy = X86_RFLAGS_TF | X86_RFLAGS_AC | X86_RFLAGS_VM;

	if (unlikely((new ^ c->sflags) & heavy)) {
		x86_set_rflags(c, new);
		return;
	}
	c->aflags = new &AFLAGS;
	c->sflags = new & ~AFLAGS;
}

static u64 merge_flags(const struct x86_cpu *c, u64 val, u64 mask)
{
	return (x86_rflags(c) & ~mask) | (val & mask);
}

/* Real mode, and virtual-8086 mode with IOPL 3 (IOPL, VIF and VIP stay there: CPL is 3). */
static void iret_real(struct x86_cpu *c, unsigned opsize)
{
	u64 rip, flags, mask = flags_mask(c, opsize);
	struct frame f;
	u16 sel;

	frame_current(c, &f, 0);
	rip = frame_pop(c, &f, opsize);
	sel = (u16)frame_pop(c, &f, opsize);
	flags = frame_pop(c, &f, opsize);
	if (rip > c->seg[CS].limit)
		x86_gp(c, 0);
	frame_commit(c, &f);
	put_flags(c, merge_flags(c, flags, mask & ~(X86_RFLAGS_VIF | X86_RFLAGS_VIP)));
	x86_seg_set_real(c, CS, sel);
	c->rip = rip;
}

/* To virtual-8086 mode: nine doublewords, the first three popped already. */
static void iret_to_vm(struct x86_cpu *c, struct frame *f, u64 rip, u16 cs, u64 flags)
{
	static const u8 order[] = {ES, DS, FS, GS};
	u64 rsp, mask = flags_mask(c, 4) | X86_RFLAGS_VM;
	u16 sel[NR_SEG];

	sel[CS] = cs;
	rsp = frame_pop(c, f, 4);
	sel[SS] = (u16)frame_pop(c, f, 4);
	for (unsigned i = 0; i < ARRAY_SIZE(order); i++)
		sel[order[i]] = (u16)frame_pop(c, f, 4);
	if (rip > 0xffff)
		x86_gp(c, 0);
	c->cpl = 3;
	x86_set_rflags(c, merge_flags(c, flags, mask));
	for (unsigned i = 0; i < NR_SEG; i++)
		x86_seg_set_real(c, (enum x86_segreg)i, sel[i]);
	c->gpr[RSP] = rsp;
	c->rip = rip;
	x86_update_mode(c);
}

static void iret_pm(struct x86_cpu *c, unsigned opsize)
{
	u64 rip, flags, mask, rsp = 0, pop[5];
	struct x86_seg ss;
	bool with_ss;
	struct desc d;
	struct frame f;
	u16 sel;

	frame_current(c, &f, 0);
	frame_pop_n(c, &f, pop, c->mode & M_CS64 ? 5 : 3, opsize);
	rip = pop[0];
	sel = (u16)pop[1];
	flags = pop[2];
	if (opsize == 4 && (flags & X86_RFLAGS_VM) && !c->cpl && !(c->mode & M_LMA)) {
		iret_to_vm(c, &f, rip, sel, flags);
		return;
	}
	return_check_cs(c, sel, &d);
	/* 64-bit code pops SS:RSP always, whatever the levels. */
	with_ss = (c->mode & M_CS64) || (sel & 3) > c->cpl;
	if (with_ss) {
		if (!(c->mode & M_CS64))
			frame_pop_n(c, &f, pop + 3, 2, opsize);
		rsp = pop[3];
		return_check_ss(c, (u16)pop[4], &d, &ss);
	}
	if (!ar_long(c, desc_ar(&d)))
		rip = (u32)rip; /* leaving 64-bit code: processors cut it off before the check */
	check_rip(c, desc_ar(&d), desc_limit(&d), rip, 0);
	desc_mark_accessed(c, &d);

	mask = flags_mask(c, opsize);
	if (!with_ss)
		frame_commit(c, &f);
	put_flags(c, merge_flags(c, flags, mask));
	return_commit(c, &d, rip, with_ss ? &ss : NULL, rsp);
}

void x86_iret(struct x86_cpu *c, unsigned opsize)
{
	if (opsize == 8 && likely(quick_iret(c)))
		return;
	if ((c->mode & M_VM) && iopl(c) != 3)
		x86_gp(c, 0);
	/* NMIs are open again even if the rest of the instruction faults (SDM 3A 6.7.1, 3C 26.3).
	 */
	if (c->nmi_blocked)
		vcpu_nmi_unblocked(c->vcpu);
	c->nmi_blocked = false;
	if (!in_pm(c)) {
		iret_real(c, opsize);
	} else if (c->sflags & X86_RFLAGS_NT) {
		if (c->mode & M_LMA)
			x86_gp(c, 0);
		task_return(c);
	} else {
		iret_pm(c, opsize);
	}
}
