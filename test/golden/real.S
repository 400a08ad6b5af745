/* SPDX-License-Identifier: MIT */
/* What real-address mode (and virtual-8086 mode with IOPL 3) has of its own: segments that are paragraphs,
 * the interrupt vector table, limits of 64K, and the ways out of the mode and half out. */
#include "macros.inc"
	.code16

GOLDEN "loading a segment register sets its base", M_16SEG
	movw	$0x4321, SCRATCH+0x10
	mov	%ds, %ax
	add	$((0xd000) >> 4), %ax
	mov	%ax, %es
	mov	%es:0x10, %bx
	hlt
REG EBX, 0x4321
ITEM TAG_SEG, 0, 0x1d00

GOLDEN "les, lds, lfs", M_16SEG
	movl	$0x1d000010, SCRATCH
	movw	$0x5a5a, SCRATCH+0x10
	les	SCRATCH, %bx
	mov	%es:(%bx), %ax
	lfs	SCRATCH, %di
	mov	%fs:(%di), %dx
	lds	SCRATCH, %si
	mov	(%si), %cx
	hlt
REG EAX, 0x5a5a
REG ECX, 0x5a5a
REG EDX, 0x5a5a
REG EBX, 0x10

GOLDEN "lss loads both", M_16SEG
	movl	$0x1d000100, SCRATCH
	lss	SCRATCH, %sp
	pushw	$0x7777
	mov	$0x1000, %ax
	mov	%ax, %ds
	mov	SCRATCH+0xfe, %bx
	hlt
REG EBX, 0x7777
ITEM TAG_SEG, 2, 0x1d00

GOLDEN "les with a 32-bit offset", M_16SEG
	movl	$0x00000020, SCRATCH
	movw	$0x1d00, SCRATCH+4
	mov	$0xffffffff, %ebx
	les	SCRATCH, %ebx
	hlt
REG EBX, 0x20
ITEM TAG_SEG, 0, 0x1d00

GOLDEN "far call and return", M_16SEG
	push	$0x1234
	lcall	$0x1000, $1f
	mov	%sp, %bx
	hlt
1:	mov	%sp, %bp
	mov	2(%bp), %cx
	mov	4(%bp), %dx
	lret	$2
REG ECX, 0x1000
REG EDX, 0x1234
REG EBX, STACK_OFF

GOLDEN "far call with prefix pushes two dwords", M_16SEG
	lcalll	$0x1000, $1f
2:	hlt
1:	mov	%sp, %bp
	mov	(%bp), %eax
	movzwl	4(%bp), %ecx
	mov	%sp, %bx
	lretl
REG EAX, 2b
REG ECX, 0x1000
REG EBX, STACK_OFF-8
REG ESP, STACK_OFF

GOLDEN "far jump to another paragraph of the same place", M_16SEG
	ljmp	$0x0fff, $1f+0x10
1:	mov	%cs, %ax
	ljmp	$0x1000, $2f
2:	hlt
REG EAX, 0x0fff
ITEM TAG_SEG, 1, 0x1000

GOLDEN "indirect far jump and call", M_16SEG
	movw	$1f, SCRATCH
	movw	$0x1000, SCRATCH+2
	ljmp	*SCRATCH
	hlt
1:	movw	$2f, SCRATCH
	lcall	*SCRATCH
	hlt
2:	mov	$3, %si
	lret
REG ESI, 3
REG ESP, STACK_OFF

GOLDEN "addresses beyond 1 MiB are not wrapped (A20)", M_16SEG
	mov	$0xffff, %ax
	mov	%ax, %es
	movb	$0x3c, %es:0x110
	mov	%es:0x110, %bl
	hlt
ITEM TAG_PHYS, 0x100100, 0x3c, 1
REG EBX, 0x3c

GOLDEN "int through the vector table and iret", M_REAL
	movw	$1f, %ss:SCRATCH
	xor	%ax, %ax
	mov	%ax, %es
	movw	$1f, %es:0x60*4
	movw	$0x1000, %es:0x60*4+2
	stc
	sti
	int	$0x60
	hlt
1:	pushf
	pop	%ax
	mov	%sp, %bp
	mov	2(%bp), %bx
	mov	4(%bp), %cx
	iret
REG EAX, 0x0047, 0x0fff
REG EBX, 0x1000
REG ECX, 0x0247, 0x0fff
FLAGS CF, CF
REG ESP, STACK_OFF

GOLDEN "iretd in 16-bit code", M_REAL
	pushl	$0x00244ed7
	pushl	$0x1000
	pushl	$1f
	iretl
	hlt
1:	hlt
FLAGS 0x244ed7, 0x247fd7
REG ESP, STACK_OFF

GOLDEN "int 3 goes to vector 3, into to 4", M_REAL
	int3
1:	hlt
FAULT 3, NO_ERR, 1b
ITEM TAG_FRAMECS, 0, 0x1000

GOLDEN "a word at FFFF is beyond the limit", M_REAL
	mov	$0xffff, %bx
1:	mov	(%bx), %ax
	hlt
FAULT 13, NO_ERR, 1b

GOLDEN "a dword at FFFD is beyond the limit, the stack's is #SS", M_REAL
	mov	$0xfffd, %bp
1:	mov	(%bp), %eax
	hlt
FAULT 12, NO_ERR, 1b

GOLDEN "32-bit addressing beyond 64K", M_REAL
	mov	$0x10000, %ebx
1:	mov	(%ebx), %al
	hlt
FAULT 13, NO_ERR, 1b

GOLDEN "execution runs over the end of the segment", M_REAL
	movb	$0x90, 0xffff
	mov	$0xffff, %ax
	jmp	*%ax
	hlt
FAULT 13, NO_ERR, 0

GOLDEN "protected-mode instructions are undefined", M_16SEG
1:	.byte	0x0f, 0x00, 0xd8
	hlt
FAULT 6, NO_ERR, 1b

GOLDEN "arpl is undefined", M_16SEG
1:	.byte	0x63, 0xc0
	hlt
FAULT 6, NO_ERR, 1b

GOLDEN "smsw, lmsw cannot clear PE", M_REAL
	smsw	%ax
	and	$1, %ax
	mov	%ax, %bx
	hlt
REG EBX, 0

GOLDEN "sgdt and lgdt", M_REAL
	movw	$0x3ff, SCRATCH
	movl	$0x12345678, SCRATCH+2
	lgdtl	SCRATCH
	sgdtl	SCRATCH+0x10
	lgdt	SCRATCH
	sgdtl	SCRATCH+0x20
	hlt
MEM16 SCRATCH+0x10, 0x3ff
MEM32 SCRATCH+0x12, 0x12345678
MEM32 SCRATCH+0x22, 0x00345678

GOLDEN "to protected mode and back", M_REAL
	movw	$0x1ff, SCRATCH
	movl	$GDT_PA, SCRATCH+2
	lgdtl	SCRATCH
	mov	%cr0, %eax
	or	$1, %al
	mov	%eax, %cr0
	ljmp	$SEL_CODE16B, $1f
1:	mov	$SEL_DATA16B, %cx
	mov	%cx, %ds
	mov	%cs, %bx
	smsw	%dx
	movw	$0x9876, SCRATCH+0x10
	and	$0xfe, %al
	mov	%eax, %cr0
	ljmp	$0x1000, $2f
2:	mov	%cs, %si
	mov	$0x1000, %cx
	mov	%cx, %ds
	hlt
REG EBX, SEL_CODE16B
REG EDX, 1, 1
REG ESI, 0x1000
MEM16 SCRATCH+0x10, 0x9876
REG CR0, 0, 1

GOLDEN "to 32-bit protected mode and back", M_REAL
	movw	$0x1ff, SCRATCH
	movl	$GDT_PA, SCRATCH+2
	lgdtl	SCRATCH
	mov	%cr0, %eax
	or	$1, %al
	mov	%eax, %cr0
	ljmp	$SEL_CODE32B, $1f
	.code32
1:	mov	$0x11223344, %ebx
	mov	$SEL_DATA32, %ecx
	mov	%ecx, %es
	movl	$0x55667788, %es:(0x10000 + 0xd010)
	ljmp	$SEL_CODE16B, $2f
	.code16
2:	and	$0xfe, %al
	mov	%eax, %cr0
	ljmp	$0x1000, $3f
3:	hlt
REG EBX, 0x11223344
MEM32 SCRATCH+0x10, 0x55667788

GOLDEN "big real mode: a limit of 4G survives", M_REAL
	movw	$0x1ff, SCRATCH
	movl	$GDT_PA, SCRATCH+2
	lgdtl	SCRATCH
	mov	%cr0, %eax
	or	$1, %al
	mov	%eax, %cr0
	mov	$SEL_DATA32, %bx
	mov	%bx, %fs
	and	$0xfe, %al
	mov	%eax, %cr0
	mov	$0x180000, %esi
	movl	$0xfeedface, %fs:(%esi)
	xor	%cx, %cx
	mov	%cx, %fs
	mov	%fs:(%esi), %edi
	hlt
ITEM TAG_PHYS, 0x180000, 0xfeedface, 4
REG EDI, 0xfeedface

GOLDEN "interrupt flag: cli, sti, pushf", M_REAL
	sti
	pushf
	cli
	pushf
	pop	%bx
	pop	%ax
	and	$0x200, %ax
	and	$0x200, %bx
	hlt
REG EAX, 0x200
REG EBX, 0

GOLDEN "popf of IOPL and NT in real mode", M_REAL
	push	$0x7002
	popf
	pushf
	pop	%ax
	hlt
REG EAX, 0x7002

GOLDEN "the trap flag gives vector 1 after the next instruction", M_REAL
	pushf
	pop	%ax
	or	$0x100, %ax
	push	%ax
	popf
	inc	%bx
1:	inc	%bx
	hlt
REG EBX, 1
FAULT 1, NO_ERR, 1b

GOLDEN "mov ss holds the trap back for one instruction", M_REAL
	mov	%ss, %cx
	pushf
	pop	%ax
	or	$0x100, %ax
	push	%ax
	popf
	mov	%cx, %ss
	inc	%bx
1:	inc	%bx
	hlt
REG EBX, 1
FAULT 1, NO_ERR, 1b

GOLDEN "int in virtual-8086 mode goes to protected mode", M_V86
	int	$0x21
1:	hlt
ITEM TAG_GATE, 0x21, HANDLER_PA+0x21, (SEL_CODE32<<16)|0xee
FAULT 0x21, NO_ERR, 1b
ITEM TAG_FRAMECS, 0, 0x1000
