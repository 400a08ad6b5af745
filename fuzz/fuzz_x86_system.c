// SPDX-License-Identifier: MIT
/* The system side of a processor: MSRs, control and debug registers, descriptor tables, CPUID,
 * ports, hypercalls, loads and stores, in any order with any operands. Each input starts on a fresh
 * machine.
 *
 * Checked besides what the sanitizers see: that the registers never hold a combination that the
 * architecture forbids (the walker and the engines rely on it), and that the software TLB agrees
 * with a walk. */
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/x86/mmu.h"
#include "cpu/x86/msr.h"
#include "cpu/x86/x86.h"

struct input {
	const u8 *p, *end;
};

static u64 take(struct input *in, unsigned n)
{
	u64 v = 0;

	n = (unsigned)MIN((size_t)n, (size_t)(in->end - in->p));
	memcpy(&v, in->p, n);
	in->p += n;
	return v;
}

/* An operand: small, wide, one bit, an address in RAM. */
static u64 operand(struct input *in)
{
	u64 kind = take(in, 1);

	switch (kind % 5) {
	case 0:
		return take(in, 1);
	case 1:
		return take(in, 8);
	case 2:
		return BIT(take(in, 1) & 63) | BIT(take(in, 1) & 63);
	case 3:
		return take(in, 3) & 0x3fffff;
	default:
		return 0 - take(in, 2);
	}
}

static u32 msr_number(struct input *in)
{
	static const u32 known[] = {
		IA32_TSC,
		IA32_TSC_ADJUST,
		IA32_EFER,
		IA32_MISC_ENABLE,
		IA32_PAT,
		IA32_SPEC_CTRL,
		IA32_DEBUGCTL,
		MSR_KVM_SYSTEM_TIME_NEW,
		MSR_KVM_SYSTEM_TIME,
		MSR_KVM_WALL_CLOCK_NEW,
		IA32_FS_BASE,
		IA32_GS_BASE,
		IA32_MTRR_PHYSBASE0,
		IA32_MC0_CTL,
		IA32_MTRR_FIX4K_C0000,
		IA32_TSC_AUX,
	};
	u64 i = take(in, 1);

	if (i < 128)
		return known[i % ARRAY_SIZE(known)] + (u32)(i / ARRAY_SIZE(known));
	return i < 192 ? (u32)take(in, 2) : (u32)take(in, 4);
}

static void check(struct x86_cpu *c)
{
	u64 lma = EFER_LME | EFER_LMA;

	if ((c->cr0 & CR0_PG) && !(c->cr0 & CR0_PE))
		bug("PG without PE");
	if (!!(c->efer & EFER_LMA) != ((c->cr0 & CR0_PG) && (c->efer & EFER_LME)))
		bug("LMA is not LME and PG");
	if ((c->efer & lma) == lma && !(c->cr4 & CR4_PAE))
		bug("long mode without PAE");
	if ((c->cr4 & CR4_PCIDE) && !(c->efer & EFER_LMA))
		bug("PCIDE outside long mode");
	if ((c->cr4 & ~c->feat.cr4) || (c->efer & ~c->feat.efer) || (c->xcr0 & ~c->feat.xcr0))
		bug("a bit that is not offered");
	if (c->cr3 >> c->phys_bits)
		bug("CR3 beyond the physical address");
	for (unsigned s = FS; s <= GS; s++)
		if (c->segbase[s] != c->seg[s].base || !is_canonical(c->seg[s].base))
			bug("segment base");
	if ((c->dr[6] & 0xffff1ff0) != 0xffff0ff0 || (c->dr[7] & ~0xffff27ffull))
		bug("debug registers");
}

/* 64-bit code is where half of the checks are. */
static void long_mode(struct x86_cpu *c)
{
	const u64 rights = PTE_P | PTE_W | PTE_U;
	u64 e = 0x11000 | rights;

	pmap_write(c->pmap, 0x10000, &e, 8);
	e = rights | PTE_PS;
	pmap_write(c->pmap, 0x11000, &e, 8);
	c->cr4 |= CR4_PAE;
	c->cr3 = 0x10000;
	c->efer |= EFER_LME | EFER_LMA;
	c->cr0 |= CR0_PE | CR0_PG;
	c->seg[CS].ar = SEG_P | SEG_S | SEG_CODE | SEG_RW | SEG_A | SEG_L;
	mmu_flush_all(c);
	x86_update_mode(c);
}

static void step(struct x86_cpu *c, struct input *in)
{
	struct x86_dtable dt;
	struct mmu_walk w;
	u64 a, b;

	switch (take(in, 1) % 26) {
	case 0:
		a = msr_number(in);
		x86_wrmsr(c, (u32)a, operand(in));
		mmu_flush_all(c); /* the clock's page may be a page table */
		break;
	case 1:
		x86_rdmsr(c, msr_number(in));
		break;
	case 2:
		a = take(in, 1) % 9;
		x86_mov_to_cr(c, (unsigned)a, operand(in));
		break;
	case 3:
		a = take(in, 1) % 4;
		x86_mov_to_cr(c, a == 1 ? 3 : (unsigned)a + (a == 2 ? 2 : 0),
		              x86_mov_from_cr(c, a == 1   ? 3
		                                 : a == 2 ? 4
		                                          : 0) ^
		                      operand(in));
		break;
	case 4:
		a = take(in, 1) % 9;
		x86_mov_to_dr(c, (unsigned)a, operand(in));
		break;
	case 5:
		x86_mov_from_dr(c, (unsigned)take(in, 1) % 9);
		break;
	case 6:
		a = operand(in);
		x86_xsetbv(c, (u32)take(in, 1) % 3, a);
		break;
	case 7:
		x86_xgetbv(c, (u32)take(in, 1) % 3);
		break;
	case 8:
		x86_invlpg(c, operand(in));
		break;
	case 9:
		a = take(in, 1) % 5;
		b = operand(in);
		x86_invpcid(c, a, b, operand(in));
		break;
	case 10:
		dt.base = operand(in);
		dt.limit = (u16)take(in, 2);
		x86_lgdt(c, &dt);
		break;
	case 11:
		x86_lmsw(c, (u16)take(in, 2));
		break;
	case 12:
		x86_swapgs(c);
		break;
	case 13:
		a = FS + (take(in, 1) & 1);
		x86_wrfsgsbase(c, (enum x86_segreg)a, operand(in));
		break;
	case 14:
		x86_stac_clac(c, take(in, 1) & 1);
		break;
	case 15:
		c->gpr[RAX] = operand(in);
		c->gpr[RCX] = operand(in);
		x86_cpuid(c);
		break;
	case 16:
		c->gpr[RAX] = take(in, 1);
		c->gpr[RBX] = operand(in);
		c->gpr[RCX] = operand(in);
		x86_hypercall(c);
		break;
	case 17:
		a = take(in, 2);
		b = 1u << (take(in, 1) % 3);
		x86_io_check(c, (u16)a, (unsigned)b);
		x86_out(c, (u16)a, x86_in(c, (u16)a, (unsigned)b), (unsigned)b);
		break;
	case 18: /* segment registers, as another module would load them */
		c->cpl = take(in, 1) & 1 ? 3 : 0;
		c->tr.base = take(in, 2);
		c->tr.limit = (u32)take(in, 2);
		x86_set_rflags(c, take(in, 3) & ~X86_RFLAGS_VM);
		x86_update_mode(c);
		break;
	case 19:
		c->vcpu->arch->tsc_shift(c->vcpu, (s64)operand(in));
		break;
	case 20:
		if (take(in, 1) & 1)
			c->vcpu->arch->reset(c->vcpu);
		else
			c->vcpu->arch->init(c->vcpu);
		break;
	case 21:
		long_mode(c);
		break;
	case 22:
		c->rip = operand(in);
		x86_check_code_bp(c);
		break;
	case 23:
		a = operand(in);
		if (is_canonical(a) && is_canonical(a + 7))
			mmu_st(c, a, operand(in), 1u << (take(in, 1) & 3));
		mmu_flush_all(c); /* as above */
		break;
	default:
		a = operand(in);
		if (!is_canonical(a) || !is_canonical(a + 7))
			break;
		b = mmu_ld(c, a, 8);
		/* The walk gives the same place as the TLB. */
		if (mmu_walk(c, a, MMU_READ, &w) && (a & ~PAGE_MASK) <= PAGE_SIZE - 8) {
			const u8 *p = pmap_ptr(c->pmap, w.gpa, 8);

			if (p && get_le64(p) != b)
				bug("the TLB and the page tables disagree at %#llx",
				    (unsigned long long)a);
		}
		break;
	}
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size);
int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	static FILE *null;
	struct input in = {data, data + size};
	struct vm vm = {.tsc_khz = 2000000};
	struct x86_cpu *c;
	struct vcpu *v;

	if (!null)
		null = fopen("/dev/null", "w");
	if (vm_init(&vm) || pmap_create(&vm.pmap, 4 * MiB))
		abort();
	v = vm_add_vcpu(&vm);
	if (!v || x86_cpu_create(v))
		abort();
	c = vcpu_x86(v);
	while (in.p < in.end) {
		if (!_setjmp(c->unwind)) {
			c->unwind_valid = true;
			step(c, &in);
		}
		c->unwind_valid = false;
		check(c);
	}
	if (null)
		x86_dump(v, null);
	vm_destroy(&vm);
	return 0;
}
