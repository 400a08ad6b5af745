/* SPDX-License-Identifier: MIT */
/* Into the case and out again. The child's C code uses no thread-local storage, so FS and GS
 * are the case's all the time. IRET goes in: it is serialising, so code that was just written
 * through another mapping is fetched anew (SDM 3A 9.1.3), and it sets RSP, RFLAGS, CS at once.
 *
 * Offsets of struct hostcpu_ctx are asserted in hostcpu.c. */
#define G(n)		(8 * (n))
#define C_RIP		128
#define C_RFLAGS	136
#define C_FS		144
#define C_GS		152
#define C_CS		160
#define C_SEL		168
#define C_XSAVE		192
#define C_OUT		1024
#define C_HOST_RSP	2048
#define C_STACK_TOP	2304

	.text
	.globl	hostcpu_enter, hostcpu_left, hostcpu_resume
	.type	hostcpu_enter, @function
hostcpu_enter:
	push	%rbx
	push	%rbp
	push	%r12
	push	%r13
	push	%r14
	push	%r15
	mov	%rsp, hostcpu_ctx + C_HOST_RSP(%rip)
	mov	hostcpu_ctx + C_FS(%rip), %rax
	wrfsbase %rax
	mov	hostcpu_ctx + C_GS(%rip), %rax
	wrgsbase %rax
	mov	$7, %eax
	xor	%edx, %edx
	xrstor64 hostcpu_ctx + C_XSAVE(%rip)
	lea	hostcpu_ctx + C_STACK_TOP(%rip), %rsp
	push	$0x2b
	push	hostcpu_ctx + G(4)(%rip)
	push	hostcpu_ctx + C_RFLAGS(%rip)
	push	hostcpu_ctx + C_CS(%rip)
	push	hostcpu_ctx + C_RIP(%rip)
	mov	hostcpu_ctx + G(0)(%rip), %rax
	mov	hostcpu_ctx + G(1)(%rip), %rcx
	mov	hostcpu_ctx + G(2)(%rip), %rdx
	mov	hostcpu_ctx + G(3)(%rip), %rbx
	mov	hostcpu_ctx + G(5)(%rip), %rbp
	mov	hostcpu_ctx + G(6)(%rip), %rsi
	mov	hostcpu_ctx + G(7)(%rip), %rdi
	mov	hostcpu_ctx + G(8)(%rip), %r8
	mov	hostcpu_ctx + G(9)(%rip), %r9
	mov	hostcpu_ctx + G(10)(%rip), %r10
	mov	hostcpu_ctx + G(11)(%rip), %r11
	mov	hostcpu_ctx + G(12)(%rip), %r12
	mov	hostcpu_ctx + G(13)(%rip), %r13
	mov	hostcpu_ctx + G(14)(%rip), %r14
	mov	hostcpu_ctx + G(15)(%rip), %r15
	iretq

hostcpu_left:
	mov	%rax, hostcpu_ctx + C_OUT + G(0)(%rip)
	mov	%rcx, hostcpu_ctx + C_OUT + G(1)(%rip)
	mov	%rdx, hostcpu_ctx + C_OUT + G(2)(%rip)
	mov	%rbx, hostcpu_ctx + C_OUT + G(3)(%rip)
	mov	%rsp, hostcpu_ctx + C_OUT + G(4)(%rip)
	mov	%rbp, hostcpu_ctx + C_OUT + G(5)(%rip)
	mov	%rsi, hostcpu_ctx + C_OUT + G(6)(%rip)
	mov	%rdi, hostcpu_ctx + C_OUT + G(7)(%rip)
	mov	%r8, hostcpu_ctx + C_OUT + G(8)(%rip)
	mov	%r9, hostcpu_ctx + C_OUT + G(9)(%rip)
	mov	%r10, hostcpu_ctx + C_OUT + G(10)(%rip)
	mov	%r11, hostcpu_ctx + C_OUT + G(11)(%rip)
	mov	%r12, hostcpu_ctx + C_OUT + G(12)(%rip)
	mov	%r13, hostcpu_ctx + C_OUT + G(13)(%rip)
	mov	%r14, hostcpu_ctx + C_OUT + G(14)(%rip)
	mov	%r15, hostcpu_ctx + C_OUT + G(15)(%rip)
	lea	hostcpu_ctx + C_STACK_TOP(%rip), %rsp
	pushfq
	pop	hostcpu_ctx + C_OUT + C_RFLAGS(%rip)
	mov	$7, %eax
	xor	%edx, %edx
	xsave64	hostcpu_ctx + C_OUT + C_XSAVE(%rip)
	rdfsbase %rax
	mov	%rax, hostcpu_ctx + C_OUT + C_FS(%rip)
	rdgsbase %rax
	mov	%rax, hostcpu_ctx + C_OUT + C_GS(%rip)
	movw	%es, hostcpu_ctx + C_OUT + C_SEL(%rip)
	movw	%cs, hostcpu_ctx + C_OUT + C_SEL + 2(%rip)
	movw	%ss, hostcpu_ctx + C_OUT + C_SEL + 4(%rip)
	movw	%ds, hostcpu_ctx + C_OUT + C_SEL + 6(%rip)
	movw	%fs, hostcpu_ctx + C_OUT + C_SEL + 8(%rip)
	movw	%gs, hostcpu_ctx + C_OUT + C_SEL + 10(%rip)
	xor	%eax, %eax
	/* From the signal handlers: EAX is hostcpu_enter's result. */
hostcpu_resume:
	mov	hostcpu_ctx + C_HOST_RSP(%rip), %rsp
	/* Flat data segments for 32-bit code; 64-bit code does not look at them. */
	mov	$0x2b, %ecx
	mov	%ecx, %ds
	mov	%ecx, %es
	xor	%ecx, %ecx
	mov	%ecx, %fs
	mov	%ecx, %gs
	push	$0x202
	popfq
	fninit
	push	$0x1f80
	ldmxcsr	(%rsp)
	add	$8, %rsp
	pop	%r15
	pop	%r14
	pop	%r13
	pop	%r12
	pop	%rbp
	pop	%rbx
	ret
	.size	hostcpu_enter, . - hostcpu_enter
	.section .note.GNU-stack, "", @progbits
