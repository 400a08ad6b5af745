/* SPDX-License-Identifier: MIT */
/* The measured loops: u64 test_x(u64 turns) returns what nano.c checks. Calls and returns work in any
 * program, so native.c times the same code. */
#include "nano.h"

	.text
	.globl test_callret
test_callret: /* 10 calls a turn */
1:	.rept 10
	call 2f
	.endr
	decq %rdi
	jnz 1b
	xorl %eax, %eax
	ret
	.balign 16
2:	ret

#ifndef NATIVE
	.globl test_in
test_in:
1:	inb $0x80, %al
	decq %rdi
	jnz 1b
	xorl %eax, %eax
	ret

	.globl test_cr8wr
test_cr8wr: /* the value changes; ends with 0 for an even number of turns */
	movl $1, %eax
1:	movq %rax, %cr8
	xorl $1, %eax
	decq %rdi
	jnz 1b
	movq %cr8, %rax
	ret

	.globl test_pgfault, pgfault_entry
test_pgfault: /* returns how many faults there were */
	xorl %eax, %eax
	movl $ABSENT_VA, %esi
1:	movb (%rsi), %cl /* two bytes */
	decq %rdi
	jnz 1b
	ret
pgfault_entry:
	addq $8, %rsp /* error code */
	incq %rax
	addq $2, (%rsp)
	iretq

	.globl test_divzero, divzero_entry
test_divzero: /* returns how many faults there were */
	xorl %esi, %esi
	xorl %ecx, %ecx
	xorl %edx, %edx
1:	divl %ecx /* two bytes */
	decq %rdi
	jnz 1b
	movq %rsi, %rax
	ret
divzero_entry:
	incq %rsi
	addq $2, (%rsp)
	iretq

	/* The page changes between two frames that hold 1 and 2; returns the sum of what was read. */
	.globl test_ptemod
test_ptemod:
	movq ptemod_pte(%rip), %rsi
	movq ptemod_xor(%rip), %rcx
	movl $TEST_VA, %r8d
	xorl %eax, %eax
1:	xorq %rcx, (%rsi)
	invlpg (%r8)
	movzbl (%r8), %edx
	addq %rdx, %rax
	decq %rdi
	jnz 1b
	ret

	/* To ring 3 and into the kernel from there; VEC_DONE comes back. */
	.globl test_syscall, syscall_entry, done_entry
test_syscall: /* returns 0 when ring 3 counted to the end */
	pushq %rbx
	pushq %rbp
	movq %rsp, ring0_rsp(%rip)
	pushq $SEL_UDATA | 3
	leaq ring3_stack_top(%rip), %rax
	pushq %rax
	pushq $2
	pushq $SEL_UCODE | 3
	leaq ring3(%rip), %rax
	pushq %rax
	iretq
ring3:
1:	syscall
	decq %rdi
	jnz 1b
	int $VEC_DONE
	.balign 16
syscall_entry:
	sysretq
done_entry:
	movq ring0_rsp(%rip), %rsp
	popq %rbp
	popq %rbx
	movq %rdi, %rax
	ret

	.bss
	.balign 16
ring0_rsp: .quad 0
	.space 4096
ring3_stack_top:
#endif
	.section .note.GNU-stack, "", @progbits
