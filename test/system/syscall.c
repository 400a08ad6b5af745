// SPDX-License-Identifier: MIT
/* SYSCALL and SYSRET there and back, often enough that an engine does them by its shortest way:
 * what both leave in registers, flags and segment registers (SDM 2B), and the faults of SYSRET. */
#include "rt.h"

#define KERNEL (VA + 0x10000)
#define USER   (VA + 0x20000)
#define USTACK (VA + 0x31000)
#define KSTACK (VA + 0x41000)
#define F_ID   (1ull << 21)

#define SYSRET_TAKES 0x3c7fd7ull /* of R11 */

/* Flags of RBX at SYSCALL, those behind SYSRET in RDX. */
SNIPPET(user, "pushq %rbx; popfq; syscall; pushfq; popq %rdx; " END)
/* What it sees goes to R12 to R15, RDI and RSI; back with the flags of RBP, to RAX if that is not
 * 0. */
SNIPPET(kernel, "movq %rsp, %r9; movq %r10, %rsp; pushfq; popq %r12; movq %rcx, %r13\n"
                "movq %r11, %r14; movl %cs, %edi; movl %ss, %esi; movq %r9, %r15\n"
                "movq %rbp, %r11; testq %rax, %rax; cmovnzq %rax, %rcx; movq %r9, %rsp; sysretq")

static u64 once(struct regs *r, u64 flags, u64 back)
{
	regs_user(r, USER, USTACK);
	r->rax = 0;
	r->rbx = flags | F_1;
	r->rbp = back;
	r->r10 = KSTACK;
	return run(r);
}

static void there_and_back(u64 mask)
{
	static const u64 in[] = {0,           F_CF,        F_OF | F_SF, F_ARITH,
	                         F_ZF | F_PF, F_AF | F_DF, F_ID,        F_AC};
	const u64 behind = USER + 4;
	struct regs r, first;

	/* Behind pushq, popfq, syscall: 1, 1 and 2 bytes. */
	wrmsr(MSR_SFMASK, mask);
	for (unsigned i = 0; i < 8 * ARRAY_SIZE(in) && !case_bad(); i++) {
		u64 flags = in[i / 8], want = flags | F_1, out = in[i % 8] | 0x1000000000030000ull;

		regs_user(&first, USER, USTACK);
		want |= first.rflags & F_IF;
		expect_eq(once(&r, flags, out), V_END, "vector");
		expect_eq(r.r14, want, "R11");
		expect_eq(r.r12, (want & ~mask) | F_1, "flags in the kernel");
		expect_eq(r.r13, behind, "RCX");
		expect_eq(r.r15, USTACK, "RSP in the kernel");
		expect_eq(r.rdi & 0xffff, KCODE64, "CS in the kernel");
		expect_eq(r.rsi & 0xffff, KCODE64 + 8, "SS in the kernel");
		expect_eq(r.rdx, (out & SYSRET_TAKES) | F_1, "flags behind SYSRET");
		expect_eq(r.cs, UCODE64, "CS");
		expect_eq(r.ss, UDATA, "SS");
		expect_eq(r.rsp, USTACK, "RSP");
		expect_eq(r.rbx, flags | F_1, "RBX");
		expect_eq(r.r8, first.r8, "R8");
	}
}

static void faults(void)
{
	struct regs r;

	for (unsigned i = 0; i < 4; i++) {
		expect_eq(once(&r, 0, F_TF), V_DB, "with TF, the vector");
		expect_eq(r.rip, USER + 4, "with TF, RIP");
		expect_eq(r.cs, UCODE64, "with TF, CS");
		expect_eq(once(&r, 0, 0), V_END, "without, the vector");
	}
	for (unsigned i = 0; i < 4 && !cpu_is_amd(); i++) {
		regs_user(&r, USER, USTACK);
		r.rax = 1ull << 47;
		r.rbx = F_1;
		r.rbp = 0;
		r.r10 = KSTACK;
		expect_eq(run(&r), V_GP, "not canonical, the vector");
		expect_eq(r.cs, KCODE64, "not canonical, CS");
		expect_eq(once(&r, 0, 0), V_END, "canonical, the vector");
	}
	wrmsr(MSR_EFER, rdmsr(MSR_EFER) & ~1ull); /* SCE */
	expect_eq(once(&r, 0, 0), V_UD, "not enabled, the vector");
	expect_eq(r.rip, USER + 2, "not enabled, RIP");
	wrmsr(MSR_EFER, rdmsr(MSR_EFER) | 1);
}

static void round_trip(u64 smap)
{
	u64 lstar = rdmsr(MSR_LSTAR), mask = rdmsr(MSR_SFMASK);

	if (smap && !HAS_SMAP)
		skip("CPUID offers no SMAP");
	map_range(KERNEL, 1, KRWX);
	map_range(USER, 1, URWX);
	map_range(USTACK - PAGE, 1, URWX);
	map_range(KSTACK - PAGE, 1, KRWX);
	code_put(KERNEL, kernel);
	code_put(USER, user);
	idt_open(V_END);
	wrmsr(MSR_LSTAR, KERNEL);
	if (smap)
		write_cr4(read_cr4() | CR4_SMAP);
	there_and_back(F_IF | F_TF | F_DF | F_AC | F_NT | F_ARITH);
	there_and_back(F_IF | F_AC);
	if (!smap) /* SYSRET faults with the user's stack */
		faults();
	there_and_back(F_IF | F_TF | F_AC | F_OF | F_CF);
	if (smap)
		write_cr4(read_cr4() & ~CR4_SMAP);
	wrmsr(MSR_LSTAR, lstar);
	wrmsr(MSR_SFMASK, mask);
}

static const struct test_case cases[] = {
	{"there and back", round_trip, 0},
	{"there and back with SMAP", round_trip, 1},
};
TOPIC(syscall, 1, cases);
