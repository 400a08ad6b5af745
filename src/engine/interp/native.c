// SPDX-License-Identifier: MIT
/* Execution of natively run instructions: what the inline path of native.h leaves over.
 *
 * Order of events, as on the processor: feature and availability checks (#UD, #NM), the operand's
 * address (#GP, #PF), the instruction itself (#DE, #MF, #XM, ...). Where the operand is not a
 * range of host memory (two pages, a device, watched), the instruction works on a copy with the
 * same low address bits, so that the host sees the same alignment. A write is probed before
 * anything is changed. */
#include "engine/interp/native.h"

#define BOUNCE_MAX 64

/* The library's memcpy uses vector registers. */
static void copy(void *dst, const void *src, size_t len)
{
	__asm__ volatile("rep movsb" : "+D"(dst), "+S"(src), "+c"(len)::"memory");
}

/* ---- checks ---- */

/* The exception that the failed quick check of native_exec() stands for, or none: NATIVE_NEVER only
 * leads here. */
static void check(struct x86_cpu *c, const struct native_insn *n)
{
	bool ts = c->cr0 & CR0_TS, em = c->cr0 & CR0_EM;

	if ((n->flags & NATIVE_VEX) && ((c->mode & (M_PE | M_VM)) != M_PE))
		x86_ud(c);
	switch (n->cls) {
	case INSN_X87:
		if (n->flags & NATIVE_FWAIT ? ts && (c->cr0 & CR0_MP) : ts || em)
			x86_raise(c, X86_NM);
		break;
	case INSN_MMX:
		if (em)
			x86_ud(c);
		if (ts)
			x86_raise(c, X86_NM);
		break;
	case INSN_SSE:
		if (em || !(c->cr4 & CR4_OSFXSR))
			x86_ud(c);
		if (ts)
			x86_raise(c, X86_NM);
		break;
	case INSN_AVX:
		if (!(c->cr4 & CR4_OSXSAVE) || (~c->xcr0 & n->xcr0_need))
			x86_ud(c);
		if (ts)
			x86_raise(c, X86_NM);
		break;
	case INSN_XSAVE: /* FXSAVE and FXRSTOR obey EM like x87; XSAVE and its kin need OSXSAVE */
		if (n->cr4_need & CR4_OSXSAVE & ~c->cr4)
			x86_ud(c);
		if (ts || (em && (n->cr0_deny & CR0_EM)))
			x86_raise(c, X86_NM);
		break;
	default:
		break;
	}
}

void native_raise(struct x86_cpu *c, const struct native_insn *n, int raised)
{
	int vector = raised & 0xff;

	switch (vector) {
	case X86_GP:
	case X86_AC:
		x86_raise_err(c, (u8)vector, 0);
	case X86_XM:
		x86_raise(c, c->cr4 & CR4_OSXMMEXCPT ? X86_XM : X86_UD);
	default:
		x86_raise(c, (u8)vector);
	}
}

/* Not instrumented, as nothing may come between the loads of registers and the stub. */
__attribute__((no_sanitize("address", "thread", "undefined"))) int
native_run_eager(struct x86_cpu *c, const struct native_insn *n, void *mem)
{
	int raised;

	x86_fpu_get(c);
	raised = n->fn(c, mem);
	x86_fpu_put(c);
	return raised;
}

/* ---- the operand ---- */

/* BT and its kin address a bit string: the operand is where the bit is (SDM 2A BT). Returns the
 * distance in bytes. */
static s64 bitstr_delta(const struct x86_cpu *c, const struct native_insn *n)
{
	u64 v = c->gpr[n->reg];
	s64 bit = n->size == 8 ? (s64)v : n->size == 4 ? (s64)(s32)v : (s64)(s16)v;

	return (bit >> (n->size == 8 ? 6 : n->size == 4 ? 5 : 4)) * n->size;
}

static gva_t bitstr_addr(struct x86_cpu *c, const struct native_insn *n, gva_t addr, s64 delta)
{
	u64 off = addr - c->segbase[n->seg] + (u64)delta;

	if (n->asize == 4)
		off = (u32)off;
	else if (n->asize == 2)
		off = (u16)off;
	return x86_linear(c, n->seg, off, n->size, n->write);
}

/* CPL 3 with alignment checks on (SDM 3A 6.15): operands of 16 and 32 bytes have rules of their
 * own. */
static void alignment_check(struct x86_cpu *c, const struct native_insn *n, gva_t addr)
{
	unsigned align = n->size == 10 ? 8 : n->size;

	if (c->tlb == c->tlbs[TLB_USER_AC] && align <= 8 && (addr & (align - 1)))
		x86_raise_err(c, X86_AC, 0);
}

/* A pending x87 exception comes before anything that the operand's address can raise. */
static void pending_check(struct x86_cpu *c)
{
	u16 fsw;

	if (c->fpu_live)
		__asm__ volatile("fnstsw %0" : "=m"(fsw));
	else
		fsw = get_le16(c->xsave + 2);
	if (fsw & 0x80)
		x86_raise(c, X86_MF);
}

static void run(struct x86_cpu *c, const struct native_insn *n, void *mem)
{
	int raised = native_run(c, n, mem);

	if (raised)
		native_raise(c, n, raised);
}

/* The operand is at `p` in host memory shifted by `delta` for bit strings, which apply it again. */
static void bounce(struct x86_cpu *c, const struct native_insn *n, gva_t addr, s64 delta)
{
	u8 buf[BOUNCE_MAX + 64] __attribute__((aligned(64)));
	u8 *p = buf + (addr & 63);

	if (n->write)
		mmu_probe_write(c, addr, n->size);
	/* A store that an unmasked x87 exception holds back must put back what was there. */
	if (n->read || n->cls == INSN_X87)
		mmu_read(c, addr, p, n->size);
	run(c, n, p - delta);
	if (n->write)
		mmu_write(c, addr, p, n->size);
}

/* The same under the lock that all such accesses of the VM take. What raises leaves through here.
 */
static void bounce_locked(struct x86_cpu *c, const struct native_insn *n, gva_t addr, s64 delta)
{
	jmp_buf outer;
	bool outer_valid = c->unwind_valid;
	int raised;

	mmu_probe_write(c, addr, n->size);
	copy(&outer, &c->unwind, sizeof(outer));
	mmu_split_lock(c);
	raised = setjmp(c->unwind);
	if (!raised) {
		c->unwind_valid = true;
		bounce(c, n, addr, delta);
	}
	mmu_split_unlock(c);
	copy(&c->unwind, &outer, sizeof(outer));
	c->unwind_valid = outer_valid;
	if (raised) {
		const struct x86_event ev = c->ev;

		x86_raise_ev(c, &ev);
	}
}

static void exec_mem(struct x86_cpu *c, const struct native_insn *n, gva_t addr)
{
	s64 delta = 0;
	u8 *p;

	if (n->flags & NATIVE_WAITS)
		pending_check(c);
	if (n->flags & NATIVE_BITSTR) {
		delta = bitstr_delta(c, n);
		addr = bitstr_addr(c, n, addr, delta);
	}
	if ((n->flags & NATIVE_ALIGNED) && (addr & (n->size - 1)))
		x86_gp(c, 0);
	alignment_check(c, n, addr);
	p = mmu_host(c, addr, n->size, n->write);
	if (likely(p)) {
		run(c, n, p - delta);
		if (n->write)
			mmu_wrote(c, addr, n->size);
	} else if (n->flags & NATIVE_LOCKED) {
		bounce_locked(c, n, addr, delta);
	} else {
		bounce(c, n, addr, delta);
	}
}

void native_first_8(struct x86_cpu *c, const struct native_insn *n, gva_t addr)
{
	check(c, n);
	if (n->flags & NATIVE_WAITS)
		pending_check(c);
	alignment_check(c, n, addr);
	mmu_host(c, addr, 8, n->write);
}

void native_exec_slow(struct x86_cpu *c, const struct native_insn *n, gva_t addr)
{
	check(c, n);
	if (n->special) {
		n->special(c, n, addr);
		return;
	}
	if (n->size)
		exec_mem(c, n, addr);
	else
		run(c, n, NULL);
	if (n->flags & NATIVE_X87_REC)
		native_x87_record(c, n, addr);
	if (n->flags & NATIVE_X87_CTL) {
		/* It can make an old exception pending, which then isn't this one's. */
		c->fpu_last_dp = c->fpu_dp;
		c->fpu_last_op = c->fpu_op;
	}
}
