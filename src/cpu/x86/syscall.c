// SPDX-License-Identifier: MIT
/* SYSCALL, SYSRET, SYSENTER, SYSEXIT (vol. 2). They load CS and SS with fixed attributes and never
 * look at a descriptor table.
 *
 * Intel and AMD differ: SYSCALL outside of 64-bit code and SYSRET to it exist on AMD only
 * (APM vol. 3), SYSENTER in long mode on Intel only. The vendor that CPUID shows decides. */
#include "cpu/x86/desc.h"

#define AR_CODE64 (SEG_G | SEG_L | SEG_P | SEG_S | SEG_CODE | SEG_RW | SEG_A)
#define AR_CODE32 (SEG_G | SEG_DB | SEG_P | SEG_S | SEG_CODE | SEG_RW | SEG_A)
#define AR_DATA   (SEG_G | SEG_DB | SEG_P | SEG_S | SEG_RW | SEG_A)

static void enter(struct x86_cpu *c, unsigned cpl, u16 cs, u32 cs_ar, u16 ss)
{
	seg_set_flat(&c->seg[CS], cs, cs_ar | cpl << SEG_DPL_SHIFT);
	seg_set_flat(&c->seg[SS], ss, AR_DATA | cpl << SEG_DPL_SHIFT);
	c->cpl = (u8)cpl;
}

/* Flags, then the mode once; put last so that it sees all of the new state. */
static void finish(struct x86_cpu *c, u64 flags)
{
	u64 changed = (c->sflags ^ flags) & X86_RFLAGS_TF;

	c->aflags = flags & AFLAGS;
	c->sflags = (flags & ~AFLAGS) | X86_RFLAGS_FIXED;
	if ((c->mode & M_CS64) && (c->seg[CS].ar & SEG_L))
		update_mode_64(c);
	else
		x86_update_mode(c);
	if (unlikely(changed))
		x86_update_step(c);
}

/* AMD: from legacy mode the target is STAR's low half, IF and VM alone are cleared. */
static void syscall_legacy(struct x86_cpu *c)
{
	u16 sel = (u16)(c->star >> 32) & 0xfffc;

	c->gpr[RCX] = (u32)c->next_rip;
	c->rip = (u32)c->star;
	enter(c, 0, sel, AR_CODE32, (u16)(sel + 8));
	finish(c, x86_rflags(c) & ~(X86_RFLAGS_IF | X86_RFLAGS_VM | X86_RFLAGS_RF));
}

/* SYSCALL outside of 64-bit code. As KVM's emulation does, an Intel model takes it too once the
 * guest has loaded IA32_CSTAR, which an Intel processor ignores: only a system that expects the
 * instruction does that. (Linux leaves it 0 there and counts on #UD.) */
static bool offers_compat(const struct x86_cpu *c)
{
	return c->feat.amd || ((c->mode & M_LMA) && c->cstar);
}

void x86_syscall(struct x86_cpu *c)
{
	u64 flags = x86_rflags(c) & ~X86_RFLAGS_RF;
	u16 sel = (u16)(c->star >> 32) & 0xfffc;
	bool wide = c->mode & M_CS64;

	if (!(c->efer & EFER_SCE) || (!wide && (!(c->mode & M_PE) || !offers_compat(c))))
		x86_ud(c);
	if (!(c->mode & M_LMA)) {
		syscall_legacy(c);
		return;
	}
	c->gpr[RCX] = c->next_rip;
	c->gpr[R11] = flags;
	c->rip = wide ? c->lstar : c->cstar;
	enter(c, 0, sel, AR_CODE64, (u16)(sel + 8));
	finish(c, flags & ~c->sfmask);
}

void x86_sysret(struct x86_cpu *c, unsigned opsize)
{
	u16 sel = (u16)(c->star >> 48);
	bool wide = c->mode & M_CS64;

	if (!(c->efer & EFER_SCE) || (!wide && (!(c->mode & M_PE) || !c->feat.amd)))
		x86_ud(c);
	if (c->cpl || (c->mode & M_VM))
		x86_gp(c, 0);
	if (wide && opsize == 8) {
		/* Intel checks here, at CPL 0; AMD's fault comes at the target. */
		if (!is_canonical(c->gpr[RCX]) && !c->feat.amd)
			x86_gp(c, 0);
		c->rip = c->gpr[RCX];
		enter(c, 3, (u16)((sel + 16) | 3), AR_CODE64, (u16)((sel + 8) | 3));
	} else {
		c->rip = (u32)c->gpr[RCX];
		enter(c, 3, sel | 3, AR_CODE32, (u16)((sel + 8) | 3));
	}
	if (c->mode & M_LMA)
		finish(c, (c->gpr[R11] & X86_SYSRET_FLAGS) | X86_RFLAGS_FIXED);
	else
		finish(c, x86_rflags(c) | X86_RFLAGS_IF);
}

void x86_sysret_trap(struct x86_cpu *c)
{
	if (unlikely(c->sflags & X86_RFLAGS_TF)) {
		const struct x86_event ev = {.type = EV_TRAP, .vector = X86_DB, .dr6 = DR6_BS};

		x86_raise_ev(c, &ev);
	}
}

void x86_sysenter(struct x86_cpu *c)
{
	u16 sel = (u16)c->sysenter_cs & 0xfffc;
	bool wide = c->mode & M_LMA;

	if (wide && c->feat.amd)
		x86_ud(c);
	if (!(c->mode & M_PE) || !sel)
		x86_gp(c, 0);
	c->rip = wide ? c->sysenter_eip : (u32)c->sysenter_eip;
	c->gpr[RSP] = wide ? c->sysenter_esp : (u32)c->sysenter_esp;
	enter(c, 0, sel, wide ? AR_CODE64 : AR_CODE32, (u16)(sel + 8));
	finish(c, x86_rflags(c) & ~(X86_RFLAGS_VM | X86_RFLAGS_IF | X86_RFLAGS_RF));
}

void x86_sysexit(struct x86_cpu *c, unsigned opsize)
{
	u16 sel = (u16)c->sysenter_cs & 0xfffc;
	u64 rip = c->gpr[RDX], rsp = c->gpr[RCX];
	bool wide = opsize == 8;

	if ((c->mode & M_LMA) && c->feat.amd)
		x86_ud(c);
	if (!(c->mode & M_PE) || c->cpl || !sel)
		x86_gp(c, 0);
	if (wide) {
		if (!is_canonical(rip) || !is_canonical(rsp))
			x86_gp(c, 0);
		sel = (u16)(sel + 32);
	} else {
		rip = (u32)rip;
		rsp = (u32)rsp;
		sel = (u16)(sel + 16);
	}
	c->rip = rip;
	c->gpr[RSP] = rsp;
	enter(c, 3, sel | 3, wide ? AR_CODE64 : AR_CODE32, (u16)((sel + 8) | 3));
	finish(c, x86_rflags(c));
}
