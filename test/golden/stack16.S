/* SPDX-License-Identifier: MIT */
/* The stack in 16-bit code. */
#include "macros.inc"
	.code16

GOLDEN "push sp pushes the old value", M_16
	push	%sp
	pop	%ax
	hlt
REG EAX, STACK_OFF
REG ESP, STACK_OFF

GOLDEN "push of both sizes", M_16
	mov	$0x12345678, %eax
	push	%eax
	push	%ax
	mov	%sp, %bp
	mov	(%bp), %bx
	mov	2(%bp), %ecx
	hlt
REG EBX, 0x5678
REG ECX, 0x12345678
REG ESP, STACK_OFF-6

GOLDEN "push immediate, sign-extended", M_16
	push	$-2
	pushl	$-3
	pop	%eax
	pop	%bx
	hlt
REG EAX, 0xfffffffd
REG EBX, 0xfffe

GOLDEN "pop into memory relative to the new SP", M_16
	mov	$0x4321, %ax
	push	%ax
	addr32 popw -2(%esp)
	mov	%sp, %bp
	mov	-2(%bp), %cx
	hlt
REG ECX, 0x4321

GOLDEN "pusha and popa", M_16
	mov	$1, %ax
	mov	$2, %cx
	mov	$3, %dx
	mov	$4, %bx
	mov	$5, %bp
	mov	$6, %si
	mov	$7, %di
	pusha
	mov	%sp, %bp
	mov	6(%bp), %ax
	movw	$0x1111, 6(%bp)
	movw	$0x2222, 14(%bp)
	mov	%ax, SCRATCH
	popa
	hlt
MEM16 SCRATCH, STACK_OFF
REG EAX, 0x2222
REG ECX, 2
REG EDX, 3
REG EBX, 4
REG ESP, STACK_OFF
REG EBP, 5
REG EDI, 7

GOLDEN "pushad in 16-bit code", M_16
	mov	$0xaaaaaaaa, %eax
	mov	$0xbbbbbbbb, %edi
	pushal
	mov	%sp, %bp
	mov	(%bp), %ecx
	mov	28(%bp), %edx
	hlt
REG ECX, 0xbbbbbbbb
REG EDX, 0xaaaaaaaa
REG ESP, STACK_OFF-32

GOLDEN "enter 8, 0 and leave", M_16
	mov	$0x9999, %bp
	enter	$8, $0
	mov	%sp, %ax
	mov	%bp, %bx
	leave
	hlt
REG EAX, STACK_OFF-10
REG EBX, STACK_OFF-2
REG ESP, STACK_OFF
REG EBP, 0x9999

GOLDEN "enter with nesting copies the display", M_16
	mov	$SCRATCH+0x100, %bp
	movw	$0x1111, SCRATCH+0xfe
	movw	$0x2222, SCRATCH+0xfc
	enter	$4, $3
	mov	%bp, %si
	mov	%sp, %di
	mov	-2(%bp), %ax
	mov	-4(%bp), %bx
	mov	-6(%bp), %cx
	hlt
REG ESI, STACK_OFF-2
REG EDI, STACK_OFF-12
REG EAX, 0x1111
REG EBX, 0x2222
REG ECX, STACK_OFF-2

GOLDEN "near call and ret with immediate", M_16
	push	$0x1234
	call	1f
	mov	%sp, %bx
	hlt
1:	mov	%sp, %bp
	mov	2(%bp), %ax
	ret	$2
REG EAX, 0x1234
REG EBX, STACK_OFF

GOLDEN "call with operand-size prefix pushes 4 bytes", M_16
	calll	1f
2:	hlt
1:	mov	%sp, %bp
	mov	(%bp), %eax
	mov	%sp, %bx
	retl
REG EAX, 2b
REG EBX, STACK_OFF-4
REG IP, 2b

GOLDEN "indirect near jumps and calls", M_16
	mov	$1f, %ax
	jmp	*%ax
	hlt
1:	movw	$2f, SCRATCH
	call	*SCRATCH
	mov	$7, %cx
	hlt
2:	mov	$9, %dx
	ret
REG ECX, 7
REG EDX, 9

GOLDEN "stack wraps at 64K", M_16
	mov	$0, %sp
	mov	$0x1234, %ax
	push	%ax
	mov	%sp, %bx
	pop	%cx
	hlt
REG EBX, 0xfffe
REG ECX, 0x1234
REG ESP, 0

GOLDEN "a word at SS:FFFF does not fit", M_REAL|M_PROT16
	mov	$0xffff, %bp
1:	mov	%ax, (%bp)
	hlt
FAULT 12, 0, 1b

GOLDEN "push at an odd SP", M_REAL|M_PROT16
	mov	$3, %sp
	push	%ax
	hlt
REG ESP, 1

GOLDEN "the upper half of ESP stays", M_16
	mov	$0x5555fff0, %esp
	push	%ax
	pop	%bx
	push	%bx
	hlt
REG ESP, 0x5555ffee

GOLDEN "pushf and popf", M_16
	pushf
	pop	%ax
	and	$0xfff, %ax
	push	$0xad5
	popf
	pushf
	pop	%bx
	and	$0xdff, %bx
	hlt
REG EAX, 0x2
REG EBX, 0x8d7

GOLDEN "push and pop segment registers", M_16
	mov	%ds, %cx
	push	%ds
	pop	%es
	push	%ss
	pop	%fs
	mov	%es, %ax
	mov	%fs, %dx
	sub	%cx, %ax
	sub	%cx, %dx
	hlt
REG EAX, 0
REG EDX, 0

GOLDEN "leave with prefix takes EBP", M_16
	movl	$0x87654321, SCRATCH
	mov	$SCRATCH, %ebp
	.byte	0x66
	leave
	hlt
REG EBP, 0x87654321
REG ESP, SCRATCH+4
