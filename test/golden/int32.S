/* SPDX-License-Identifier: MIT */
/* Integer instructions in 32-bit code. */
#include "macros.inc"
	.code32
#if IMAGE_AT == 0
	.set	DATA, SCRATCH
	.set	STACK, STACK_OFF
#else
	.set	DATA, FSCRATCH
	.set	STACK, FSTACK
#endif

GOLDEN "16-bit operands leave the upper half", M_32
	mov	$0x7fff7fff, %eax
	add	$1, %ax
	mov	$0xffffffff, %ebx
	inc	%bx
	mov	$0x12345678, %ecx
	mov	$0xab, %ch
	hlt
REG EAX, 0x7fff8000
REG EBX, 0xffff0000
REG ECX, 0x1234ab78

GOLDEN "mul and div of all sizes", M_32
	mov	$0xffffffff, %eax
	mov	$0xffffffff, %edx
	mul	%edx
	mov	%eax, %esi
	mov	%edx, %edi
	mov	$6, %edx
	mov	$7, %ecx
	div	%ecx
	hlt
REG ESI, 1
REG EDI, 0xfffffffe
REG EAX, 0xdb6db6db
REG EDX, 4

GOLDEN "div overflow", M_32
	mov	$7, %edx
	mov	$7, %ecx
1:	div	%ecx
	hlt
REG EDX, 7
FAULT 0, NO_ERR, 1b

GOLDEN "imul by immediates", M_32
	mov	$0x40000000, %eax
	imul	$2, %eax, %ebx
	seto	%cl
	imul	$-1, %eax, %edx
	seto	%ch
	hlt
REG EBX, 0x80000000
REG ECX, 0x0001
REG EDX, 0xc0000000

GOLDEN "16-bit addressing in 32-bit code wraps at 64K", M_PROT32
	movb	$0x42, DATA+7
	mov	$0x1234f000, %ebx
	mov	$0x5678e007, %esi
	addr16 mov (%bx,%si), %al
	hlt
REG EAX, 0x42

GOLDEN "16-bit addressing: bp is of the stack segment", M_PROT32
	movw	$0x4242, DATA+2
	mov	$DATA, %ebp
	addr16 mov 2(%bp), %ax
	hlt
REG EAX, 0x4242

GOLDEN "addresses wrap at 4G", M_32
	movl	$0x13572468, DATA+8
	mov	$0xfffffff0, %eax
	mov	$DATA+24, %ecx
	mov	(%eax,%ecx), %edx
	mov	$0x80000004, %ebx
	mov	DATA(,%ebx,2), %esi
	hlt
REG EDX, 0x13572468
REG ESI, 0x13572468

GOLDEN "scaled index, ebp without base", M_32
	movl	$0x99887766, DATA+0x40
	mov	$8, %ebp
	mov	DATA(,%ebp,8), %eax
	mov	$DATA+0x38, %ebp
	mov	8(%ebp), %ebx
	hlt
REG EAX, 0x99887766
REG EBX, 0x99887766

GOLDEN "lea with address size 16", M_32
	mov	$0x1234fff0, %ebx
	mov	$0x56780020, %esi
	lea	(%bx,%si), %ecx
	lea	(%bx,%si), %dx
	hlt
REG ECX, 0x10
REG EDX, 0x10

GOLDEN "the one-byte inc and dec", M_32
	mov	$0x7fffffff, %eax
	stc
	.byte	0x40
	.byte	0x66, 0x4b
	hlt
REG EAX, 0x80000000
REG EBX, 0x0000ffff
FLAGS CF|SF|PF|AF

GOLDEN "opcode 82 is 80", M_32
	mov	$0x10, %al
	.byte	0x82, 0xc0, 0x05
	hlt
REG EAX, 0x15

GOLDEN "shifts by CL use five bits", M_32
	mov	$0x80000001, %eax
	mov	$33, %cl
	rol	%cl, %eax
	mov	$0x80000000, %ebx
	mov	$63, %cl
	sar	%cl, %ebx
	hlt
REG EAX, 3
REG EBX, 0xffffffff

GOLDEN "rcl dword through 33 bits", M_32
	mov	$0x80000000, %eax
	clc
	rcl	$1, %eax
	rcl	$1, %eax
	hlt
REG EAX, 1
FLAGS 0, 1

GOLDEN "bit strings reach backwards", M_32
	mov	$-33, %eax
	bts	%eax, DATA+8
	mov	$95, %ebx
	bts	%ebx, DATA
	hlt
MEM32 DATA, 0x80000000
MEM32 DATA+8, 0x80000000

GOLDEN "cmpxchg8b both ways", M_32
	movl	$1, DATA
	movl	$2, DATA+4
	mov	$1, %eax
	mov	$2, %edx
	mov	$0xb, %ebx
	mov	$0xc, %ecx
	lock cmpxchg8b DATA
	setz	DATA+16
	cmpxchg8b DATA
	hlt
MEM32 DATA, 0xb
MEM32 DATA+4, 0xc
MEM8 DATA+16, 1
REG EAX, 0xb
REG EDX, 0xc
FLAGS 0, ZF

GOLDEN "pushad, popad skip ESP", M_32
	mov	$1, %eax
	mov	$2, %ecx
	mov	$3, %edx
	mov	$4, %ebx
	mov	$5, %ebp
	mov	$6, %esi
	mov	$7, %edi
	pusha
	mov	12(%esp), %eax
	movl	$0x1111, 12(%esp)
	movl	$0x2222, 28(%esp)
	mov	%eax, DATA
	popa
	hlt
MEM32 DATA, STACK
REG EAX, 0x2222
REG EBX, 4
REG EBP, 5
REG ESI, 6
REG EDI, 7
REG ESP, STACK

GOLDEN "pusha of words", M_32
	mov	$0xaaaa1111, %eax
	mov	$0xbbbb7777, %edi
	pushaw
	movzwl	(%esp), %ecx
	movzwl	14(%esp), %edx
	hlt
REG ECX, 0x7777
REG EDX, 0x1111
REG ESP, STACK-16

GOLDEN "enter and leave nest in 32 bits", M_32
	mov	$0x1234, %ebp
	enter	$16, $1
	mov	%ebp, %eax
	mov	-4(%ebp), %ebx
	mov	%esp, %ecx
	leave
	hlt
REG EAX, STACK-4
REG EBX, STACK-4
REG ECX, STACK-24
REG EBP, 0x1234
REG ESP, STACK

GOLDEN "push and pop of words and selectors", M_32
	pushw	$0x1234
	push	%ds
	pop	%es
	popw	%ax
	pushw	%ds
	mov	%esp, %ebx
	add	$2, %esp
	hlt
REG EAX, 0x1234
REG EBX, STACK-2
REG ESP, STACK

GOLDEN "call, ret imm16, indirect", M_32
	push	$0x55
	mov	$1f, %eax
	call	*%eax
2:	hlt
1:	mov	(%esp), %ebx
	mov	4(%esp), %ecx
	ret	$4
REG EBX, 2b
REG ECX, 0x55
REG ESP, STACK

GOLDEN "rep movsd and 16-bit address size", M_PROT32
	movl	$0x01020304, DATA
	mov	$0x7777d000, %esi
	mov	$0x8888d010, %edi
	mov	$0x99990001, %ecx
	.byte	0x67
	rep movsl
	hlt
MEM32 DATA+0x10, 0x01020304
REG ESI, 0x7777d004
REG EDI, 0x8888d014
REG ECX, 0x99990000

GOLDEN "repe cmpsd and scasw", M_32
	movl	$0x11111111, DATA
	movl	$0x11111111, DATA+0x10
	movl	$0x22222222, DATA+4
	movl	$0x33333333, DATA+0x14
	mov	$DATA, %esi
	mov	$DATA+0x10, %edi
	mov	$9, %ecx
	repe cmpsl
	setb	%bl
	mov	$0x3333, %ax
	mov	$DATA+0x10, %edi
	mov	$9, %edx
	xchg	%edx, %ecx
	repne scasw
	hlt
REG EBX, 1
REG EDX, 7
REG ECX, 6

GOLDEN "backwards stosd", M_32
	std
	mov	$0xa5a5a5a5, %eax
	mov	$DATA+8, %edi
	mov	$2, %ecx
	rep stosl
	cld
	hlt
MEM32 DATA, 0
MEM32 DATA+4, 0xa5a5a5a5
MEM32 DATA+8, 0xa5a5a5a5
REG EDI, DATA

GOLDEN "rep movsb backwards, overlapping, over two pages", M_32
	mov	$DATA+0xff8, %edi
	mov	$16, %ecx
	xor	%eax, %eax
1:	stosb
	inc	%eax
	loop	1b
	std
	mov	$DATA+0x1007, %esi
	mov	$DATA+0x100b, %edi
	mov	$16, %ecx
	rep movsb
	mov	$DATA+0x100a, %edi
	mov	$0x08, %al
	mov	$20, %ecx
	repne scasb
	cld
	hlt
MEM32 DATA+0xff8, 0x03020100
MEM32 DATA+0xffc, 0x03020100
MEM32 DATA+0x1000, 0x07060504
MEM32 DATA+0x1008, 0x0f0e0d0c
REG ESI, DATA+0xff7
REG EDI, DATA+0x1003
REG ECX, 13

GOLDEN "single movs, lods and stos keep flags, up and down", M_32
	movl	$0x44332211, DATA
	movl	$0x88776655, DATA+4
	mov	$DATA, %esi
	mov	$DATA+0x10, %edi
	xor	%ebx, %ebx
	mov	$0xaabbcc00, %eax
	stc
	movsb
	movsw
	lodsb
	stosb
	movsl
	adc	$0, %ebx
	std
	stc
	movsb
	lodsw
	stosl
	adc	$0, %ebx
	cld
	hlt
MEM32 DATA+0x10, 0x44332211
MEM32 DATA+0x14, 0x88776655
MEM32 DATA+0x18, 0x00aabb00
REG EBX, 2
REG ESI, DATA+5
REG EDI, DATA+0x13

GOLDEN "ret releases its caller's arguments", M_32
	xor	%eax, %eax
	mov	$3, %ecx
1:	push	%eax
	push	%ecx
	call	2f
	loop	1b
	hlt
2:	add	4(%esp), %eax
	ret	$8
REG EAX, 6
REG ESP, STACK

GOLDEN "jecxz, jcxz, loop", M_32
	mov	$0x10000, %ecx
	jcxz	1f
	hlt
1:	jecxz	2f
	mov	$2, %ecx
3:	inc	%eax
	loop	3b
2:	hlt
REG EAX, 2
REG ECX, 0

GOLDEN "salc, xlat, into, bound", M_32
	movb	$0x99, DATA+0xff
	stc
	.byte	0xd6
	mov	$DATA, %ebx
	xlat
	movl	$0, DATA
	movl	$5, DATA+4
	mov	$5, %ecx
	bound	%ecx, DATA
	inc	%ecx
1:	bound	%ecx, DATA
	hlt
REG EAX, 0x99
FAULT 5, NO_ERR, 1b

GOLDEN "into", M_32
	mov	$0x80000000, %eax
	dec	%eax
	into
1:	hlt
FAULT 4, NO_ERR, 1b

GOLDEN "decimal arithmetic", M_32
	mov	$0x99, %al
	add	$0x99, %al
	daa
	setc	%bl
	mov	$0x0109, %cx
	mov	%cx, %ax
	aad
	mov	%eax, %edx
	aam	$7
	hlt
REG EBX, 1
REG EDX, 0x13
REG EAX, 0x0205

GOLDEN "no lock on a load", M_32
1:	.byte	0xf0, 0x8b, 0x00
	hlt
FAULT 6, NO_ERR, 1b

GOLDEN "a jump with operand size 16 cuts EIP", M_PROT32
	mov	$0x12340000 + 1f, %eax
	jmp	*%ax
	hlt
1:	mov	$1, %ebx
	hlt
REG EBX, 1

GOLDEN "x87 and SSE in compatibility and protected mode", M_32CPL0
	mov	%cr0, %eax
	and	$~0xc, %eax
	mov	%eax, %cr0
	mov	%cr4, %eax
	or	$0x600, %eax
	mov	%eax, %cr4
	fninit
	fld1
	fldpi
	faddp
	fistpl	DATA
	mov	$0x40490fdb, %eax
	movd	%eax, %xmm0
	addss	%xmm0, %xmm0
	cvtss2si %xmm0, %ebx
	hlt
MEM32 DATA, 4
REG EBX, 6

GOLDEN "SSE without CR4.OSFXSR is undefined, x87 with TS raises #NM", M_32CPL0
	mov	%cr0, %eax
	or	$8, %eax
	mov	%eax, %cr0
1:	fld1
	hlt
FAULT 7, NO_ERR, 1b

GOLDEN "SSE without OSFXSR", M_32CPL0
1:	addps	%xmm0, %xmm0
	hlt
FAULT 6, NO_ERR, 1b
