// SPDX-License-Identifier: MIT
/* Calls and returns that do not pair: nothing may depend on the guest returning to where it was
 * called from. */
#include "rt.h"

#define CODE  (VA + 0x10000)
#define STACK 0x200000ull /* bytes */

static u64 stack_new(u64 size)
{
	return pages_alloc(size / PAGE, PAGE) + size - 64;
}

/* fn in assembler with an argument in RDI, result in RAX, on a stack of its own */
static u64 call_stack(void *fn, u64 arg, u64 stack)
{
	return call_on((u64(*)(u64))fn, arg, stack);
}

/* ---- all take a count in RDI and return a number that tells that nothing was left out ---- */

SNIPPET(other_return, "1: call 2f; movl $-1, %eax; ret\n"
                      "2: leaq 3f(%rip), %rdx; movq %rdx, (%rsp); ret\n"
                      "3: incq %rax; decq %rdi; jnz 1b; ret")
SNIPPET(past_return, "1: call 2f; .byte 0x0f, 0x0b\n" /* UD2 that is skipped */
                     "incq %rax; decq %rdi; jnz 1b; ret\n"
                     "2: addq $2, (%rsp); ret")
SNIPPET(ret_jump, "1: leaq 2f(%rip), %rdx; pushq %rdx; ret; ud2\n"
                  "2: incq %rax; decq %rdi; jnz 1b; ret")
SNIPPET(call_pop, "1: call 2f\n"
                  "2: popq %rdx; leaq 2b(%rip), %rcx; cmpq %rcx, %rdx; jne 3f\n"
                  "incq %rax; decq %rdi; jnz 1b; 3: ret")
SNIPPET(call_drop, "1: call 2f; ud2\n"
                   "2: addq $8, %rsp; incq %rax; decq %rdi; jnz 1b; ret")
SNIPPET(double_ret, "1: leaq 4f(%rip), %rdx; pushq %rdx; call 2f; ud2\n"
                    "2: addq $8, %rsp; ret; ud2\n" /* returns for its caller */
                    "4: incq %rax; decq %rdi; jnz 1b; ret")
SNIPPET(ret_imm, "1: pushq %rdi; pushq %rdi; call 2f; incq %rax; decq %rdi; jnz 1b; ret\n"
                 "2: ret $16")
SNIPPET(far_return, "1: movl %cs, %edx; pushq %rdx; call 2f; incq %rax; decq %rdi; jnz 1b; ret\n"
                    "2: lretq")
SNIPPET(iret_return, "1: movq %rsp, %rcx; movl %ss, %edx; pushq %rdx; pushq %rcx; pushfq\n"
                     "movl %cs, %edx; pushq %rdx; call 2f\n"
                     "incq %rax; decq %rdi; jnz 1b; ret\n"
                     "2: iretq")
SNIPPET(call_memory, "1: leaq 2f(%rip), %rdx; pushq %rdx; callq *(%rsp); addq $8, %rsp\n"
                     "leaq 2f(%rip), %rdx; callq *%rdx\n"
                     "pushq %rdx; pushq %rdx; callq *8(%rsp); addq $16, %rsp\n"
                     "decq %rdi; jnz 1b; ret\n"
                     "2: incq %rax; ret")
SNIPPET(jump_memory, "1: leaq 2f(%rip), %rdx; pushq %rdx; jmpq *(%rsp); ud2\n"
                     "2: popq %rdx; leaq 3f(%rip), %rdx; jmpq *%rdx; ud2\n"
                     "3: incq %rax; decq %rdi; jnz 1b; ret")
SNIPPET(stack_pointer,
        "1: movq %rsp, %rcx; pushq %rsp; popq %rdx; cmpq %rcx, %rdx; jne 9f\n"
        "pushq %rcx; popq %rsp; cmpq %rsp, %rcx; jne 9f\n"
        "pushq $7; popq -16(%rsp); cmpq $7, -16(%rsp); jne 9f\n" /* EA after the pop */
        "pushq $8; pushq (%rsp); popq %rdx; cmpq $8, %rdx; jne 9f; popq %rdx\n"
        "pushq $5; movq $6, %rdx; xchgq %rdx, (%rsp); popq %r8; cmpq $6, %r8; jne 9f\n"
        "movq %rbp, %r9; enter $32, $0; leave; cmpq %rbp, %r9; jne 9f\n"
        "cmpq %rsp, %rcx; jne 9f\n"
        "incq %rax; decq %rdi; jnz 1b; 9: movq %rcx, %rsp; ret")
SNIPPET(swap_returns,
        "1: call 2f; jmp 4f\n" /* two return addresses change places */
        "2: call 3f; addq $1, %rax; decq %rdi; jnz 1b; ret\n"
        "3: movq (%rsp), %rdx; movq 8(%rsp), %rcx; movq %rdx, 8(%rsp); movq %rcx, (%rsp)\n"
        "ret\n"
        "4: ret") /* comes from 3 with 2's address on the stack */

static const struct {
	const u8 *start, *end;
} idioms[] = {
#define I(n)                                                                                       \
	{                                                                                          \
		n, n##_end                                                                         \
	}
	I(other_return), I(past_return),   I(ret_jump),     I(call_pop),    I(call_drop),
	I(double_ret),   I(ret_imm),       I(far_return),   I(iret_return), I(call_memory),
	I(jump_memory),  I(stack_pointer), I(swap_returns),
};

static void idiom(u64 which)
{
	u64 n = 5000, want = idioms[which].start == call_memory ? 3 * n : n, got;

	map_new(CODE, KRWX);
	code_copy(CODE, idioms[which].start, idioms[which].end);
	asm volatile("callq *%2"
	             : "=a"(got), "+D"(n)
	             : "r"(CODE), "a"(0ull)
	             : "rcx", "rdx", "r8", "r9", "memory", "cc");
	expect_eq(got, want, "times through");
}

/* ---- depth ---- */

SNIPPET(recurse, "xorl %eax, %eax\n"
                 "1: testq %rdi, %rdi; jz 2f; decq %rdi; call 1b; incq %rax; 2: ret")
/* Four places to return to, in an order that depends on the depth. */
SNIPPET(mixed, "xorl %eax, %eax\n"
               "1: testq %rdi, %rdi; jz 9f; decq %rdi; movl %edi, %edx; imull $0x9e3779b1, %edx\n"
               "testl $0x40000000, %edx; jz 3f; js 2f\n"
               "call 1b; addq $1, %rax; ret\n"
               "2: call 1b; addq $16, %rax; ret\n"
               "3: testl $0x80000000, %edx; jz 4f; call 1b; addq $256, %rax; ret\n"
               "4: call 1b; addq $4096, %rax; 9: ret")

static u64 mixed_result(u64 n)
{
	u64 sum = 0;

	while (n--) {
		u32 x = (u32)n * 0x9e3779b1u;

		/* JS after TEST of bit 30 alone is never taken. */
		sum += x & 0x40000000 ? 1 : x & 0x80000000 ? 256 : 4096;
	}
	return sum;
}

static void deep(u64 n)
{
	u64 stack = stack_new(STACK);

	map_new(CODE, KRWX);
	code_put(CODE, recurse);
	code_put(CODE + 256, mixed);
	for (unsigned i = 0; i < 3; i++) {
		expect_eq(call_stack((void *)CODE, n, stack), n, "levels");
		expect_eq(call_stack((void *)(CODE + 256), n, stack), mixed_result(n), "sum");
	}
}

/* Down some levels, then back at once by the stack pointer; other returns before and after. */
SNIPPET(jump_out, "xorl %eax, %eax; movq %rsp, %rsi; movq %rdi, %r8\n"
                  "1: movl $200, %ecx; call 2f\n"
                  "3: movq %rsi, %rsp; incq %rax; decq %r8; jnz 1b; ret\n"
                  "2: decl %ecx; jz 4f; call 2b; ud2\n"
                  "4: jmp 3b")

static void longjumps(u64 n)
{
	map_new(CODE, KRWX);
	code_put(CODE, jump_out);
	expect_eq(call_stack((void *)CODE, n, stack_new(64 * PAGE)), n, "times out");
}

/* ---- coroutines ---- */

/* yield: RSP goes to (RBX), the other's comes from (RBP), and the two change places. */
SNIPPET(coroutines,
        "main_side: pushq %rbx; pushq %rbp; leaq -16(%rsp), %rsp; movq %rsp, %rbx\n"
        "leaq 8(%rsp), %rbp; movq %rsi, (%rbp)\n" /* slots: ours, the other's */
        "leaq side(%rip), %rdx; subq $8, (%rbp); movq (%rbp), %rcx; movq %rdx, (%rcx)\n"
        "xorl %eax, %eax\n"
        "1: call yield; incq %rax; movl $3, %ecx; call nested; decq %rdi; jnz 1b\n"
        "movq %rbx, %rsp; movq (%rbx), %rsp\n"
        "leaq 16(%rbx), %rsp; popq %rbp; popq %rbx; ret\n"
        "nested: decl %ecx; jz 2f; pushq %rcx; call nested; popq %rcx; ret\n"
        "2: call yield; incq %rax; ret\n"
        "yield: movq %rsp, (%rbx); movq (%rbp), %rsp; xchgq %rbx, %rbp; ret\n"
        "side: addq $0x100000, %rax; call yield; movl $5, %ecx; call nested2; jmp side\n"
        "nested2: decl %ecx; jz 3f; pushq %rcx; call nested2; popq %rcx; ret\n"
        "3: addq $0x100000, %rax; call yield; ret\n")

static void coroutine(u64 n)
{
	u64 got, other = stack_new(64 * PAGE), count = n;

	map_new(CODE, KRWX);
	code_put(CODE, coroutines);
	asm volatile("callq *%2"
	             : "=a"(got), "+D"(count)
	             : "r"(CODE), "S"(other)
	             : "rcx", "rdx", "memory", "cc");
	/* RBX and RBP have changed places an even number of times. */
	expect_eq(got, 2 * n + (2 * n << 20), "turns of both");
}

/* ---- the caller changes while it is away ---- */

enum { CALLER_PATCHED, CALLER_REMAPPED, CALLER_GONE };

SNIPPET(caller, "callq *%rdi\n"
                "1: movl $0x11111111, %eax; ret")

static u64 caller_pa, other_pa;

static u64 change(void)
{
	static const u8 patch[] = {0xb8, 0x22, 0x22, 0x22, 0x22, 0xc3};

	memcpy((void *)(CODE + 2), patch, sizeof(patch));
	return 0;
}

static u64 remap(void)
{
	map(0, CODE, other_pa, KRWX);
	invlpg(CODE);
	return 0;
}

static u64 unmap(void)
{
	*pte_of(0, CODE, 0) = 0;
	invlpg(CODE);
	return 0;
}

static void caller_changes(u64 how)
{
	static u64 (*const fn[])(void) = {change, remap, unmap};
	u64 got = 0;
	struct regs r;

	caller_pa = map_new(CODE, KRWX);
	other_pa = page_alloc();
	code_copy((u64)phys(other_pa), caller, caller_end);
	*(u32 *)phys(other_pa + 3) = 0x22222222;
	for (unsigned i = 0; i < 300 && !case_bad(); i++) {
		map(0, CODE, caller_pa, KRWX);
		invlpg(CODE);
		code_put(CODE, caller);
		serialize();
		if (how != CALLER_GONE) {
			asm volatile("callq *%2"
			             : "=a"(got)
			             : "D"(fn[how]), "r"(CODE)
			             : "rcx", "rdx", "rsi", "r8", "r9", "r10", "r11", "memory",
			               "cc");
			expect_eq(got, 0x22222222, "result");
			continue;
		}
		regs_kernel(&r, CODE, (u64)this_cpu() + CPU_STACK_TOP - 0x4000);
		r.rdi = (u64)fn[how];
		run(&r);
		expect_trap(&r, V_PF, PF_I, CODE + 2);
		expect_eq(this_cpu()->cr2, CODE + 2, "CR2");
		expect_eq(r.rsp, (u64)this_cpu() + CPU_STACK_TOP - 0x4000, "RSP");
	}
}

static const struct test_case cases[] = {
	{"return elsewhere", idiom, 0},
	{"return behind data", idiom, 1},
	{"push; ret", idiom, 2},
	{"call next; pop", idiom, 3},
	{"call without return", idiom, 4},
	{"return for the caller", idiom, 5},
	{"ret with an immediate", idiom, 6},
	{"far return of a near call", idiom, 7},
	{"IRET of a near call", idiom, 8},
	{"calls through registers and the stack", idiom, 9},
	{"jumps through registers and the stack", idiom, 10},
	{"RSP as an operand", idiom, 11},
	{"return addresses exchanged", idiom, 12},
	{"recursion, 100000 levels", deep, 100000},
	{"recursion, 17 levels", deep, 17},
	{"out of many levels at once", longjumps, 2000},
	{"coroutines", coroutine, 3000},
	{"callee patches its caller", caller_changes, CALLER_PATCHED},
	{"callee remaps its caller", caller_changes, CALLER_REMAPPED},
	{"callee unmaps its caller", caller_changes, CALLER_GONE},
};
TOPIC(stack, 1, cases);
