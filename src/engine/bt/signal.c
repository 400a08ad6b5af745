// SPDX-License-Identifier: MIT
/* Host exceptions in translated code. All of them are the guest's, or ours by design: the return
 * stack's end, and stores to pages with code, which are read-only in bt_hva. */
#include "engine/bt/runtime.h"

#include "base/hostfault.h"

#define PF_TRAP 14

/* The guest's vector for a host's; -1: none. */
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
	case X86_SS: /* a non-canonical operand by way of RBP or RSP can't be, but this is its
	                vector */
		return X86_GP;
	default:
		return -1;
	}
}

bool bt_host_fault(void *arg, const siginfo_t *info, ucontext_t *uc)
{
	struct bt_cpu *b = arg;
	const struct bt_vm *bt = b->vm;
	greg_t *regs = uc->uc_mcontext.gregs;
	u64 off = (u64)regs[REG_RIP] - (uintptr_t)bt->cache.rx;
	uintptr_t addr = (uintptr_t)regs[REG_CR2];
	bool write = regs[REG_ERR] & PF_W;
	int vector;

	if (off >= bt->cache.size)
		return false;
	if (regs[REG_TRAPNO] == PF_TRAP) {
		if (write && bt_rstack_guard(b, addr)) {
			/* A CALL found no room: what is on the stack is forgotten, and it is made
			 * again. */
			regs[REG_RSP] = (greg_t)b->ret_top;
			b->ac_sp = b->ret_top;
			return true;
		}
		if (!write || addr - (uintptr_t)bt->vm->pmap->bt_hva >= bt->vm->pmap->ram_size)
			return false;
		vector = -1;
	} else {
		vector = guest_vector(regs[REG_TRAPNO]);
		if (vector < 0)
			return false;
	}
	if (off < bt->cache.stubs_end)
		return false;
	b->fault_pc = (uintptr_t)regs[REG_RIP];
	b->fault_addr = addr;
	b->fault_vector = vector;
	regs[REG_RIP] = (greg_t)bt->stub[STUB_FAULT];
	return true;
}
