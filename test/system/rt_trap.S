/* SPDX-License-Identifier: MIT */
/* Into the guest kernel's trap() and out of it, and run()'s switch to a whole register set. */
#include "layout.h"

	.text
	.code64

	.macro push_all
	pushq %rax
	pushq %rcx
	pushq %rdx
	pushq %rbx
	pushq %rbp
	pushq %rsi
	pushq %rdi
	pushq %r8
	pushq %r9
	pushq %r10
	pushq %r11
	pushq %r12
	pushq %r13
	pushq %r14
	pushq %r15
	.endm

	.macro pop_all
	popq %r15
	popq %r14
	popq %r13
	popq %r12
	popq %r11
	popq %r10
	popq %r9
	popq %r8
	popq %rdi
	popq %rsi
	popq %rbp
	popq %rbx
	popq %rdx
	popq %rcx
	popq %rax
	.endm

	/* Sixteen bytes each; #DF, #TS, #NP, #SS, #GP, #PF, #AC, #CP have an error code. */
	.balign 16
	.globl trap_stubs
trap_stubs:
	vec = 0
	.rept VEC_STUBS
	.balign 16
	.if !(vec == 8 || (vec >= 10 && vec <= 14) || vec == 17 || vec == 21)
	pushq $0
	.endif
	pushq $vec
	jmp common
	vec = vec + 1
	.endr

common:
	push_all
	cld
	movq %rsp, %rdi
	call trap
	pop_all
	addq $16, %rsp
	iretq

	/* The base of GS in the kernel is the CPU's block only between these two SWAPGS. */
	.globl entry_syscall
entry_syscall:
	swapgs
	movq %rsp, %gs:CPU_USER_RSP
	movq %gs:CPU_ENTRY_RSP, %rsp
	pushq $UDATA
	pushq %gs:CPU_USER_RSP
	swapgs
	pushq %r11
	pushq $UCODE64
	pushq %rcx
	pushq $0
	pushq $VEC_SYSCALL
	jmp common

	/* What user code left in RSP and RIP is lost: zeros stand for it. */
	.globl entry_sysenter
entry_sysenter:
	pushq $0
	pushq $0
	pushfq
	pushq $0
	pushq $0
	pushq $0
	pushq $VEC_SYSENTER
	jmp common

	/* run_enter(struct regs *, u64 *saved_rsp) */
	.globl run_enter
run_enter:
	pushq %rbx
	pushq %rbp
	pushq %r12
	pushq %r13
	pushq %r14
	pushq %r15
	pushfq
	cli
	movq %rsp, (%rsi)
	movq %rdi, %rsp
	pop_all
	addq $16, %rsp
	iretq

	/* run_leave(u64 saved_rsp): returns from that run_enter() */
	.globl run_leave
run_leave:
	movq %rdi, %rsp
	movl $KDATA, %eax
	movl %eax, %ss
	movl %eax, %ds
	movl %eax, %es
	popfq
	popq %r15
	popq %r14
	popq %r13
	popq %r12
	popq %rbp
	popq %rbx
	ret

	/* call_on(fn, arg, stack): a call on another stack */
	.globl call_on
call_on:
	pushq %rbp
	movq %rsp, %rbp
	movq %rdx, %rsp
	movq %rdi, %rax
	movq %rsi, %rdi
	call *%rax
	movq %rbp, %rsp
	popq %rbp
	ret
