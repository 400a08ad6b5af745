// SPDX-License-Identifier: MIT
/* Host exceptions in generated stubs, turned into the stub's return value (base/hostfault.h has the
 * signals). */
#include "engine/interp/native_gen.h"

#include "base/hostfault.h"

/* Which exception of the guest is this exception of the host? -1: none. */
static int guest_vector(greg_t trapno)
{
	switch (trapno) {
	case X86_DE:
	case X86_UD:
	case X86_GP:
	case X86_MF:
	case X86_AC:
	case X86_XM:
		return (int)trapno;
	case X86_SS: /* a host matter: no operand goes through the stack segment */
		return X86_GP;
	default:
		return -1;
	}
}

static const struct native_insn *insn_at(const struct native *nat, u32 off)
{
	u32 lo = 0, hi = nat->nr_insns;

	/* Insns without a stub share the next one's address and come first: take the last. */
	while (hi - lo > 1) {
		u32 mid = lo + (hi - lo) / 2;

		if ((uintptr_t)nat->insns[mid].fn - (uintptr_t)nat->rx <= off)
			lo = mid;
		else
			hi = mid;
	}
	return hi ? &nat->insns[lo] : NULL;
}

static bool ours(void *arg, const siginfo_t *info, ucontext_t *uc)
{
	const struct native *nat = arg;
	greg_t *regs = uc->uc_mcontext.gregs;
	int vector = guest_vector(regs[REG_TRAPNO]);
	u64 off = (u64)regs[REG_RIP] - (uintptr_t)nat->rx;
	const struct native_insn *n;

	if (vector < 0 || off >= nat->used)
		return false;
	n = insn_at(nat, (u32)off);
	if (!n || (uintptr_t)n->fn + n->at_insn != (uintptr_t)regs[REG_RIP])
		return false;
	regs[REG_RAX] = NATIVE_RAISED | vector;
	regs[REG_RIP] = (greg_t)((uintptr_t)n->fn + n->at_tail);
	return true;
}

/* Of the second interpreter on a thread, a shadow's (cpu/x86/inputs.h). */
static bool ours_too(void *arg, const siginfo_t *info, ucontext_t *uc)
{
	return ours(arg, info, uc);
}

static hostfault_fn *handler_of(const struct native *nat)
{
	return nat->second ? ours_too : ours;
}

int native_thread_init(struct native *nat)
{
	return hostfault_set(handler_of(nat), nat);
}

void native_thread_exit(struct native *nat)
{
	hostfault_clear(handler_of(nat), nat);
}
