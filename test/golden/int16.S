/* SPDX-License-Identifier: MIT */
/* Integer instructions in 16-bit code: operand sizes, address sizes, flags. */
#include "macros.inc"
	.code16

GOLDEN "add byte: carry, auxiliary, zero", M_16
	mov	$0x12345680, %eax
	add	$0x80, %al
	hlt
REG EAX, 0x12345600
FLAGS CF|ZF|PF|OF

GOLDEN "add word leaves the upper half", M_16
	mov	$0x7fffffff, %eax
	add	$1, %ax
	hlt
REG EAX, 0x7fff0000
FLAGS CF|ZF|PF|AF

GOLDEN "add dword by prefix", M_16
	mov	$0x7fffffff, %eax
	add	$1, %eax
	hlt
REG EAX, 0x80000000
FLAGS OF|SF|AF|PF

GOLDEN "adc and sbb chain 96 bits", M_16
	mov	$0xffffffff, %eax
	mov	$0xffffffff, %ebx
	mov	$1, %ecx
	add	$1, %eax
	adc	$0, %ebx
	adc	$0x7ffffffe, %ecx
	sbb	%edx, %edx
	hlt
REG EAX, 0
REG EBX, 0
REG ECX, 0x80000000
REG EDX, 0
FLAGS ZF|PF

GOLDEN "sbb borrows through", M_16
	stc
	mov	$0, %dx
	sbb	$0xffff, %dx
	hlt
REG EDX, 0
FLAGS CF|AF|ZF|PF

GOLDEN "inc and dec keep the carry", M_16
	mov	$0xffff, %cx
	mov	$0x8000, %dx
	stc
	inc	%cx
	dec	%dx
	hlt
REG ECX, 0
REG EDX, 0x7fff
FLAGS CF|OF|AF|PF

GOLDEN "cmp sets, neg and not", M_16
	mov	$0x80, %al
	neg	%al
	mov	$0x1234, %bx
	not	%bx
	hlt
REG EAX, 0x80
REG EBX, 0xedcb
FLAGS CF|SF|OF

GOLDEN "mul word into DX:AX", M_16
	mov	$0xa5a50000, %edx
	mov	$0xdead8000, %eax
	mov	$0x0006, %bx
	mul	%bx
	hlt
REG EAX, 0xdead0000
REG EDX, 0xa5a50003
FLAGS CF|OF, CF|OF

GOLDEN "imul forms", M_16
	mov	$-3, %ax
	mov	$7, %bl
	imul	%bl
	mov	%ax, %si
	mov	$-300, %cx
	imul	$200, %cx, %dx
	setc	%bh
	imul	$-2, %ecx, %edi
	hlt
REG ESI, 0xffeb
REG EDX, 0x15a0
REG EBX, 0x0107
REG EDI, 0xfffe0258

GOLDEN "div and idiv word", M_16
	mov	$0x0001, %dx
	mov	$0x0003, %ax
	mov	$0x0002, %cx
	div	%cx
	mov	%ax, %si
	mov	%dx, %di
	mov	$0xffff, %dx
	mov	$0xfff9, %ax
	idiv	%cx
	hlt
REG ESI, 0x8001
REG EDI, 0x0001
REG EAX, 0xfffd
REG EDX, 0xffff

GOLDEN "div dword in 16-bit code", M_16
	mov	$1, %edx
	mov	$0, %eax
	mov	$0x10000, %ebx
	div	%ebx
	hlt
REG EAX, 0x10000
REG EDX, 0

GOLDEN "div by zero is a fault", M_16
	mov	$5, %ax
	xor	%cl, %cl
1:	div	%cl
	hlt
REG EAX, 5
FAULT 0, NO_ERR, 1b

GOLDEN "idiv overflow of -32768 by -1", M_16
	mov	$0xffff, %dx
	mov	$0x8000, %ax
	mov	$-1, %bx
1:	idiv	%bx
	hlt
REG EAX, 0x8000
REG EDX, 0xffff
FAULT 0, NO_ERR, 1b

GOLDEN "shift counts are masked with 31, also for words", M_16
	mov	$0xffff, %ax
	mov	$33, %cl
	shl	%cl, %ax
	mov	$0xffff, %bx
	shl	$20, %bx
	mov	$0x8000, %dx
	sar	$31, %dx
	hlt
REG EAX, 0xfffe
REG EBX, 0
REG EDX, 0xffff

GOLDEN "a shift by zero touches no flag", M_16
	xor	%ax, %ax
	mov	$32, %cl
	mov	$0x8000, %bx
	stc
	shl	%cl, %bx
	hlt
REG EBX, 0x8000
FLAGS CF|ZF|PF

GOLDEN "rcl through carry by 17 is the identity of a word", M_16
	mov	$0x1234, %ax
	stc
	mov	$17, %cl
	rcl	%cl, %ax
	hlt
REG EAX, 0x1234
FLAGS CF, CF

GOLDEN "rcr byte by 9 is the identity, ror sets carry", M_16
	mov	$0x5a, %al
	clc
	rcr	$9, %al
	setc	%bl
	mov	$1, %dx
	ror	$1, %dx
	hlt
REG EAX, 0x5a
REG EBX, 0
REG EDX, 0x8000
FLAGS CF|OF, CF|OF

GOLDEN "shld and shrd word and dword", M_16
	mov	$0x1234, %ax
	mov	$0xabcd, %bx
	shld	$4, %bx, %ax
	mov	$0x12345678, %ecx
	mov	$0x9abcdef0, %edx
	shrd	$8, %edx, %ecx
	hlt
REG EAX, 0x234a
REG ECX, 0xf0123456

GOLDEN "movzx and movsx to both sizes", M_16
	mov	$0xffffffff, %eax
	mov	%eax, %ebx
	mov	%eax, %edx
	mov	$0x80, %cl
	movzx	%cl, %ax
	movsx	%cl, %bx
	movsx	%cl, %edx
	movzx	%bx, %esi
	hlt
REG EAX, 0xffff0080
REG EBX, 0xffffff80
REG EDX, 0xffffff80
REG ESI, 0x0000ff80

GOLDEN "cbw, cwde, cwd, cdq", M_16
	mov	$0x11110080, %eax
	cbw
	mov	%eax, %ebx
	cwde
	mov	%eax, %ecx
	cwd
	mov	%edx, %esi
	mov	$0x80000000, %eax
	cdq
	hlt
REG EBX, 0x1111ff80
REG ECX, 0xffffff80
REG ESI, 0x0000ffff
REG EDX, 0xffffffff

GOLDEN "xchg, xadd, cmpxchg", M_16
	movw	$0x1111, SCRATCH
	mov	$0x2222, %ax
	xchg	%ax, SCRATCH
	mov	$5, %cx
	xadd	%cx, SCRATCH
	mov	$0x9999, %dx
	mov	$0x2227, %ax
	cmpxchg	%dx, SCRATCH
	setz	%bl
	mov	$0x1234, %ax
	cmpxchg	%cx, SCRATCH
	setz	%bh
	hlt
MEM16 SCRATCH, 0x9999
REG EAX, 0x9999
REG EBX, 0x0001
REG ECX, 0x2222

GOLDEN "bit string with negative offset", M_16
	mov	$-1, %ax
	btsw	%ax, SCRATCH+16
	mov	$17, %bx
	btcw	%bx, SCRATCH+16
	btw	$35, SCRATCH+14
	setc	%cl
	hlt
MEM16 SCRATCH+14, 0x8000
MEM16 SCRATCH+18, 0x0002
REG ECX, 0

GOLDEN "bsf, bsr of zero leave the destination", M_16
	mov	$0xbeef, %bx
	xor	%ax, %ax
	bsf	%ax, %bx
	setz	%cl
	mov	$0x0140, %ax
	bsr	%ax, %dx
	bsf	%ax, %si
	hlt
REG EBX, 0xbeef
REG ECX, 1
REG EDX, 8
REG ESI, 6

GOLDEN "16-bit addresses wrap", M_16
	movb	$0x77, SCRATCH+3
	mov	$0xf000, %bx
	mov	$SCRATCH-0xf000+0x10000+3-0x100, %si
	mov	0x100(%bx,%si), %al
	hlt
REG EAX, 0x77

GOLDEN "32-bit addressing in 16-bit code", M_16
	mov	$SCRATCH, %ecx
	mov	$4, %edx
	movl	$0xcafef00d, 4(%ecx,%edx,4)
	mov	SCRATCH+20, %eax
	hlt
REG EAX, 0xcafef00d

GOLDEN "lea truncates to the operand and address size", M_16
	mov	$0xffffffff, %eax
	mov	$0xfff0, %bx
	mov	$0x0020, %si
	lea	(%bx,%si), %ax
	mov	$0x12345678, %ecx
	addr32 lea 8(%ecx), %dx
	addr32 lea 8(%ecx,%ecx,2), %edi
	lea	0x11(%bx,%si), %ebp
	hlt
REG EAX, 0xffff0010
REG EDX, 0x5680
REG EDI, 0x369d0370
REG EBP, 0x21

GOLDEN "segment override", M_16
	push	%ss
	pop	%fs
	movw	$0xabcd, SCRATCH+8
	movw	%fs:SCRATCH+8, %ax
	mov	$SCRATCH+8, %bp
	mov	%ds:(%bp), %bx
	hlt
REG EAX, 0xabcd
REG EBX, 0xabcd

GOLDEN "xlat with override and 32-bit base", M_16
	movb	$0x5c, SCRATCH+0x7f
	mov	$SCRATCH, %bx
	mov	$0x7f, %al
	xlat
	mov	%al, %cl
	mov	$SCRATCH, %ebx
	mov	$0x7f, %al
	.byte	0x67, 0x36, 0xd7
	hlt
REG ECX, 0x5c
REG EAX, 0x5c

GOLDEN "lahf and sahf", M_16
	mov	$0xd5, %ah
	sahf
	mov	$0, %ah
	lahf
	hlt
REG EAX, 0xd700
FLAGS CF|PF|AF|ZF|SF, CF|PF|AF|ZF|SF

GOLDEN "salc", M_16
	stc
	.byte	0xd6
	mov	%al, %bl
	clc
	.byte	0xd6
	hlt
REG EAX, 0
REG EBX, 0xff

GOLDEN "setcc and cmovcc", M_16
	mov	$5, %ax
	cmp	$6, %ax
	setl	%bl
	setae	%bh
	mov	$0x1111, %cx
	mov	$0x2222, %dx
	cmovb	%dx, %cx
	cmova	%cx, %si
	hlt
REG EBX, 0x0001
REG ECX, 0x2222
REG ESI, 0

GOLDEN "loop counts CX, with prefix ECX", M_16
	mov	$0x10003, %ecx
	xor	%ax, %ax
1:	inc	%ax
	loop	1b
	mov	%ecx, %ebx
	mov	$2, %ecx
2:	inc	%ax
	addr32 loop 2b
	hlt
REG EAX, 5
REG EBX, 0x10000
REG ECX, 0

GOLDEN "loopne, loope, jcxz, jecxz", M_16
	mov	$10, %cx
	xor	%ax, %ax
1:	inc	%ax
	cmp	$4, %ax
	loopne	1b
	mov	%cx, %dx
	mov	$0x10000, %ecx
	jcxz	2f
	mov	$0xdead, %bx
2:	jecxz	3f
	inc	%si
3:	hlt
REG EAX, 4
REG EDX, 6
REG EBX, 0
REG ESI, 1

GOLDEN "bound inside, then below", M_16
	movw	$-5, SCRATCH
	movw	$10, SCRATCH+2
	mov	$10, %ax
	bound	%ax, SCRATCH
	mov	$-6, %ax
1:	bound	%ax, SCRATCH
	hlt
FAULT 5, NO_ERR, 1b

GOLDEN "into traps on overflow", M_16
	mov	$0x7f, %al
	into
	add	$1, %al
	into
1:	hlt
FAULT 4, NO_ERR, 1b

GOLDEN "int3 is a trap", M_REAL|M_PROT16|M_COMPAT16
	int3
1:	hlt
FAULT 3, NO_ERR, 1b

GOLDEN "ud2", M_16
	mov	$1, %ax
1:	ud2
FAULT 6, NO_ERR, 1b

GOLDEN "lock where it may not be", M_16
1:	.byte	0xf0, 0x89, 0x06, 0x00, 0xd0
	hlt
FAULT 6, NO_ERR, 1b

GOLDEN "lock of a register destination", M_16
1:	.byte	0xf0, 0x01, 0xd8
	hlt
FAULT 6, NO_ERR, 1b

GOLDEN "lock add memory", M_16
	movl	$0xffffffff, SCRATCH
	lock addl $2, SCRATCH
	hlt
MEM32 SCRATCH, 1
FLAGS CF|AF

GOLDEN "lea of a register is undefined", M_16
1:	.byte	0x8d, 0xc0
	hlt
FAULT 6, NO_ERR, 1b

GOLDEN "a byte sequence of 16 is too long", M_16
1:	.fill	15, 1, 0x66
	nop
	hlt
FAULT 13, NO_ERR, 1b

GOLDEN "movbe and bswap", M_16
	movl	$0x11223344, SCRATCH
	movbe	SCRATCH, %eax
	movbe	SCRATCH, %cx
	mov	$0x01020304, %edx
	bswap	%edx
	hlt
REG EAX, 0x44332211
REG ECX, 0x4433
REG EDX, 0x04030201

GOLDEN "moffs forms", M_16
	movl	$0x0a0b0c0d, SCRATCH+0x20
	.byte	0xa0
	.short	SCRATCH+0x21
	mov	%al, %bl
	.byte	0x66, 0x67, 0xa1
	.long	SCRATCH+0x20
	mov	%eax, %ecx
	.byte	0xa3
	.short	SCRATCH+0x24
	hlt
REG EBX, 0x0c
REG ECX, 0x0a0b0c0d
MEM32 SCRATCH+0x24, 0x0c0d
