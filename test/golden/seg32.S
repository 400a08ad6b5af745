/* SPDX-License-Identifier: MIT */
/* Segmentation and protection in 32-bit protected mode: limits, types, gates, changes of privilege,
 * task switches, and returns. Selectors from SEL_FREE are each test's own. */
#include "macros.inc"
	.code32
#if IMAGE_AT == 0
	.set	DATA, SCRATCH
	.set	STACK, STACK_OFF
#else
	.set	DATA, FSCRATCH
	.set	STACK, FSTACK
#endif
	.macro	DESC sel:req, low:req, high:req
	ITEM	TAG_DESC, \sel, \low, \high
	.endm

GOLDEN "a byte beyond the limit", M_32CPL0
	mov	$SEL_FREE, %ax
	mov	%ax, %es
	movb	%es:0xfff, %bl
	movw	%es:0xffe, %cx
1:	movw	%es:0xfff, %dx
	hlt
DESC SEL_FREE, 0x00000fff, 0x00409300
FAULT 13, 0, 1b

GOLDEN "limit of the stack segment is #SS", M_32CPL0
	mov	$SEL_FREE, %ax
	mov	%ax, %ss
	mov	$0x1000, %ebp
1:	mov	%al, (%ebp)
	hlt
DESC SEL_FREE, 0x00000fff, 0x00409300
SET ESP, 0x800
FAULT 12, 0, 1b

GOLDEN "expand-down: above the limit is inside", M_32CPL0
	mov	$SEL_FREE, %ax
	mov	%ax, %es
	movb	$0x5a, %es:0xd000
	movb	%es:0x1000, %bl
1:	movb	%es:0xfff, %cl
	hlt
DESC SEL_FREE, 0x00000fff, 0x00409701
FAULT 13, 0, 1b
ITEM TAG_PHYS, 0x1d000, 0x5a, 1

GOLDEN "expand-down of 16 bits ends at 64K", M_32CPL0
	mov	$SEL_FREE, %ax
	mov	%ax, %es
	movb	%es:0xffff, %bl
1:	movb	%es:0x10000, %cl
	hlt
DESC SEL_FREE, 0x00000fff, 0x00009701
FAULT 13, 0, 1b

GOLDEN "the last byte of an expand-down segment, crossing", M_32CPL0
	mov	$SEL_FREE, %ax
	mov	%ax, %es
1:	movw	%es:0xffff, %bx
	hlt
DESC SEL_FREE, 0x00000fff, 0x00009701
FAULT 13, 0, 1b

GOLDEN "a read-only segment", M_32CPL0
	mov	$SEL_FREE, %ax
	mov	%ax, %es
	movb	%es:0, %bl
1:	movb	%bl, %es:0
	hlt
DESC SEL_FREE, 0x0000ffff, 0x00409100
FAULT 13, 0, 1b

GOLDEN "an execute-only code segment cannot be read", M_32CPL0
	mov	$SEL_FREE, %ax
1:	mov	%ax, %es
	hlt
DESC SEL_FREE, 0x0000ffff, 0x00409900
FAULT 13, SEL_FREE, 1b

GOLDEN "a readable code segment as data, not for writing", M_32CPL0
	mov	$SEL_FREE, %ax
	mov	%ax, %gs
	movb	%gs:0x100, %bl
1:	movb	%bl, %gs:0x100
	hlt
DESC SEL_FREE, 0x0000ffff, 0x00409b00
FAULT 13, 0, 1b

GOLDEN "writing through CS", M_32CPL0
1:	movb	$1, %cs:DATA
	hlt
FAULT 13, 0, 1b

GOLDEN "the null selector loads, but is of no use", M_32CPL0
	xor	%eax, %eax
	mov	%ax, %es
	mov	%es, %ebx
1:	mov	%es:0, %cl
	hlt
REG EBX, 0
FAULT 13, 0, 1b

GOLDEN "null for SS", M_32CPL0
	xor	%eax, %eax
1:	mov	%ax, %ss
	hlt
FAULT 13, 0, 1b

GOLDEN "a segment that is not present", M_32CPL0
	mov	$SEL_FREE, %ax
1:	mov	%ax, %fs
	hlt
DESC SEL_FREE, 0x0000ffff, 0x00401300
FAULT 11, SEL_FREE, 1b

GOLDEN "a stack that is not present", M_32CPL0
	mov	$SEL_FREE, %ax
1:	mov	%ax, %ss
	hlt
DESC SEL_FREE, 0x0000ffff, 0x00401300
FAULT 12, SEL_FREE, 1b

GOLDEN "a selector beyond the table", M_32CPL0
	mov	$0x1001, %ax
1:	mov	%ax, %ds
	hlt
FAULT 13, 0x1000, 1b

GOLDEN "the accessed bit is set by the load", M_32CPL0
	mov	$SEL_FREE, %ax
	mov	%ax, %es
	hlt
DESC SEL_FREE, 0x0000ffff, 0x00409200
ITEM TAG_PHYS, GDT_PA+SEL_FREE+4, 0x00409300, 4

GOLDEN "a segment of the LDT", M_32CPL0
	mov	$0x0c, %ax
	mov	%ax, %es
	movb	%es:0, %bl
	mov	$0x84, %cx
1:	mov	%cx, %fs
	hlt
DESC 0x0c, 0xd000ffff, 0x00409301
ITEM TAG_SEG, 0, 0x0c
FAULT 13, 0x84, 1b

GOLDEN "lldt, sldt, ltr, str", M_32CPL0
	mov	$SEL_FREE, %ax
	lldt	%ax
	sldt	%bx
	mov	$SEL_FREE+8, %cx
	ltr	%cx
	str	%dx
	mov	$4, %ax
1:	mov	%ax, %es
	hlt
DESC SEL_FREE, 0x18000007, 0x00008200
DESC SEL_FREE+8, 0x30000067, 0x00008900
REG EBX, SEL_FREE
REG EDX, SEL_FREE+8
ITEM TAG_PHYS, GDT_PA+SEL_FREE+12, 0x00008b00, 4
FAULT 13, 4, 1b

GOLDEN "ltr of a busy TSS", M_32CPL0
	mov	$SEL_TSS, %ax
1:	ltr	%ax
	hlt
FAULT 13, SEL_TSS, 1b

GOLDEN "lar, lsl, verr, verw", M_32CPL0
	mov	$SEL_DATA32, %ax
	lar	%eax, %ebx
	lsl	%eax, %ecx
	setz	%dl
	mov	$SEL_CODE32, %ax
	verr	%ax
	setz	%dh
	verw	%ax
	setz	DATA
	mov	$0x1000, %ax
	mov	$0x1234, %esi
	lar	%eax, %esi
	setz	DATA+1
	mov	$SEL_TSS, %ax
	lar	%eax, %edi
	hlt
REG EBX, 0x00cf9300
REG ECX, 0xffffffff
REG EDX, 0x0101
MEM16 DATA, 0
REG ESI, 0x1234
REG EDI, 0x00008b00

GOLDEN "lsl fails for a gate", M_32CPL0
	mov	$SEL_FREE, %ax
	mov	$0x77, %ebx
	lsl	%eax, %ebx
	setz	%cl
	lar	%eax, %edx
	setz	%ch
	hlt
DESC SEL_FREE, 0x00080000, 0x00008c00
REG EBX, 0x77
REG ECX, 0x0100
REG EDX, 0x00008c00

GOLDEN "arpl", M_32CPL0
	mov	$0x0010, %ax
	mov	$0x0023, %bx
	arpl	%bx, %ax
	setz	%cl
	arpl	%bx, %ax
	setz	%ch
	hlt
REG EAX, 0x0013
REG ECX, 1

GOLDEN "far call and return within the same level", M_32CPL0
	mov	%cs, %eax
	mov	%ax, 2f+5
	jmp	2f
2:	lcall	$0, $1f
	mov	%esp, %ebx
	hlt
1:	mov	4(%esp), %ecx
	mov	(%esp), %edx
	lret
REG EBX, STACK
REG EDX, 2b+7

GOLDEN "far call to a data segment", M_32CPL0
1:	lcall	$SEL_DATA32, $0
	hlt
FAULT 13, SEL_DATA32, 1b

GOLDEN "far jump to a segment that is not present", M_32CPL0
1:	ljmp	$SEL_FREE, $0
	hlt
DESC SEL_FREE, 0x0000ffff, 0x00401b00
FAULT 11, SEL_FREE, 1b

GOLDEN "far jump to null", M_32CPL0
1:	ljmp	$0, $0
	hlt
FAULT 13, 0, 1b

GOLDEN "far jump beyond the limit", M_32CPL0
1:	ljmp	$SEL_FREE, $0x1000
	hlt
DESC SEL_FREE, 0x00000fff, 0x00409b00
FAULT 13, 0, 1b

GOLDEN "a call gate to the same level", M_FLAT32|M_PAGED32|M_PAE32
	lcall	$SEL_FREE, $0x12345678
2:	hlt
1:	mov	(%esp), %eax
	mov	4(%esp), %ebx
	mov	%esp, %ecx
	lret
DESC SEL_FREE, 0x00080000, 0x00018c00
ITEM TAG_POKE, GDT_PA+SEL_FREE, 1b, 2
REG EAX, 2b
REG EBX, SEL_CODE32
REG ECX, STACK-8
REG ESP, STACK

GOLDEN "a call gate from level 3, with two parameters, and back", M_USER32
	push	$0x1111
	push	$0x2222
	lcall	$SEL_FREE|3, $0
2:	mov	%cs, %edi
	hlt
1:	mov	%cs, %eax
	mov	%esp, %ebx
	mov	8(%esp), %ecx
	mov	12(%esp), %edx
	mov	16(%esp), %esi
	lret	$8
DESC SEL_FREE, 0x00080000, 0x0000ec02
ITEM TAG_POKE, GDT_PA+SEL_FREE, 1b, 2
ITEM TAG_POKE, GDT_PA+SEL_FREE+6, 1, 2
REG EAX, SEL_CODE32
REG EBX, STACK0_PA-24
REG ECX, 0x2222
REG EDX, 0x1111
REG ESI, STACK-8
REG EDI, SEL_UCODE32
REG ESP, STACK
ITEM TAG_SEG, 2, SEL_UDATA32

GOLDEN "a call gate whose DPL is too small", M_USER32
1:	lcall	$SEL_FREE|3, $0
	hlt
DESC SEL_FREE, 0x00080000, 0x00008c01
FAULT 13, SEL_FREE, 1b

GOLDEN "a jump through a gate may not change the level", M_USER32
1:	ljmp	$SEL_FREE|3, $0
	hlt
DESC SEL_FREE, 0x00080000, 0x0000ec01
FAULT 13, SEL_CODE32, 1b

GOLDEN "conforming code is called from level 3 at level 3", M_USER32
	lcall	$SEL_FREE, $1f
	hlt
1:	mov	%cs, %eax
	lret
DESC SEL_FREE, 0x0000ffff, 0x00cf9f00
REG EAX, SEL_FREE|3

GOLDEN "level 3 cannot load a level 0 segment", M_USER32
	mov	$SEL_DATA32|3, %ax
1:	mov	%ax, %ds
	hlt
FAULT 13, SEL_DATA32, 1b

GOLDEN "level 3 cannot call level 0 code", M_USER32
1:	lcall	$SEL_CODE32|3, $0
	hlt
FAULT 13, SEL_CODE32, 1b

GOLDEN "return to level 3 nulls segments that it may not have", M_32CPL0
	mov	$SEL_DATA32, %ax
	mov	%ax, %es
	mov	$SEL_UDATA32, %ax
	mov	%ax, %fs
	push	$SEL_UDATA32
	push	$0x1ff00
	push	$SEL_UCODE32
	push	$0x10000 + 1f - IMAGE_AT
	lret
	hlt
1:	mov	%es, %ebx
	mov	%fs, %ecx
	mov	%cs, %edx
	mov	%esp, %esi
	hlt
REG EBX, 0
REG ECX, SEL_UDATA32
REG EDX, SEL_UCODE32
REG ESI, 0x1ff00
ITEM TAG_SEG, 2, SEL_UDATA32

GOLDEN "iret to level 3", M_32CPL0
	push	$SEL_UDATA32
	push	$0x1ff00
	push	$0x3202
	push	$SEL_UCODE32
	push	$0x10000 + 1f - IMAGE_AT
	iret
	hlt
1:	mov	%ss, %eax
	pushf
	pop	%ebx
	hlt
REG EAX, SEL_UDATA32
REG EBX, 0x3202, 0x7ed7

GOLDEN "iret to level 3 with a level 0 stack", M_32CPL0
	push	$SEL_DATA32
	push	$0x1ff00
	push	$2
	push	$SEL_UCODE32
	push	$0
1:	iret
	hlt
FAULT 13, SEL_DATA32, 1b

GOLDEN "iret into virtual-8086 mode", M_FLAT32|M_PAGED32
	push	$0x1111
	push	$0x2222
	push	$0x1d00
	push	$0x3333
	push	$0x1000
	push	$0xff00
	push	$0x23002
	push	$0x1000
	push	$1f-IMAGE_AT
	iret
	hlt
	.code16
1:	mov	%ds, %ax
	mov	%es, %bx
	mov	%gs, %cx
	mov	%sp, %dx
	movb	$0x6b, 0x10
	.code32
	hlt
REG EAX, 0x1d00
REG EBX, 0x3333
REG ECX, 0x1111
REG EDX, 0xff00
ITEM TAG_PHYS, 0x1d010, 0x6b, 1

GOLDEN "an interrupt gate from level 3 changes the stack", M_USER32
	int	$0x80
	mov	%esp, %esi
	hlt
1:	mov	%cs, %eax
	mov	%esp, %ebx
	mov	12(%esp), %ecx
	pushf
	pop	%edx
	iret
ITEM TAG_GATE, 0x80, 1b, (SEL_CODE32<<16)|0xee
SET FLAGS, 0x202
REG EAX, SEL_CODE32
REG EBX, STACK0_PA-20
REG ECX, STACK
REG EDX, 0, 0x200
REG ESI, STACK
FLAGS 0x200, 0x200

GOLDEN "a trap gate leaves IF alone", M_USER32
	int	$0x80
	hlt
1:	pushf
	pop	%edx
	iret
ITEM TAG_GATE, 0x80, 1b, (SEL_CODE32<<16)|0xef
SET FLAGS, 0x202
REG EDX, 0x200, 0x200

GOLDEN "int through a gate of too small DPL", M_USER32
1:	int	$0x80
	hlt
FAULT 13, 0x80*8+2, 1b

GOLDEN "int through a gate that is not present", M_32CPL0
1:	int	$0x80
	hlt
ITEM TAG_GATE, 0x80, 0, (SEL_CODE32<<16)|0x0e
FAULT 11, 0x80*8+2, 1b

GOLDEN "int beyond the IDT's limit", M_32CPL0
	movw	$0x7f*8+7, DATA
	movl	$IDT_PA, DATA+2
	lidt	DATA
1:	int	$0x80
	hlt
FAULT 13, 0x80*8+2, 1b

GOLDEN "a 16-bit interrupt gate pushes words", M_FLAT32|M_PAGED32
	int	$0x80
2:	hlt
	.code16
1:	mov	%esp, %ebx
	movzwl	(%esp), %ecx
	add	$6, %esp
	hlt
	.code32
ITEM TAG_GATE, 0x80, 1b-IMAGE_AT, (SEL_CODE16B<<16)|0x86
REG EBX, STACK-6
REG ECX, 2b, 0xffff

GOLDEN "privileged instructions at level 3", M_USER32
1:	cli
	hlt
FAULT 13, 0, 1b

GOLDEN "mov from CR0 at level 3", M_USER32
1:	mov	%cr0, %eax
	hlt
FAULT 13, 0, 1b

GOLDEN "ports at level 3 without a map", M_USER32
	mov	$0x80, %dx
1:	out	%al, %dx
	hlt
FAULT 13, 0, 1b

GOLDEN "ports at level 3 with a map that allows", M_USER32
	in	$0x11, %al
	mov	$1, %ebx
1:	in	$0x12, %al
	hlt
ITEM TAG_POKE, TSS_PA+0x64, 0x00580000, 4
ITEM TAG_POKE, TSS_PA+0x58, 0xff04ff00, 4
FAULT 13, 0, 1b
REG EBX, 1

GOLDEN "popf at level 3 leaves IF and IOPL", M_USER32
	push	$0x3cd5
	popf
	pushf
	pop	%eax
	hlt
SET FLAGS, 0x202
REG EAX, 0xed7, 0x7fd7

GOLDEN "a task switch by far jump and back by iret", M_FLAT32
	ljmp	$SEL_FREE, $0
	mov	$0x77, %edi
	hlt
1:	str	%ax
	mov	%esp, %ebx
	pushf
	pop	%edx
	mov	%ecx, 0x1d000
	ljmp	$SEL_TSS, $0
DESC SEL_FREE, 0x38000067, 0x00008900
ITEM TAG_POKE, TSS2_PA+0x20, 1b, 4
ITEM TAG_POKE, TSS2_PA+0x24, 2, 4
ITEM TAG_POKE, TSS2_PA+0x2c, 0xc0ffee, 4
ITEM TAG_POKE, TSS2_PA+0x38, 0x1e000, 4
ITEM TAG_POKE, TSS2_PA+0x48, SEL_DATA32, 4
ITEM TAG_POKE, TSS2_PA+0x4c, SEL_CODE32, 4
ITEM TAG_POKE, TSS2_PA+0x50, SEL_DATA32, 4
ITEM TAG_POKE, TSS2_PA+0x54, SEL_DATA32, 4
REG EDI, 0x77
ITEM TAG_PHYS, 0x1d000, 0xc0ffee, 4
ITEM TAG_PHYS, TSS2_PA+0x28, SEL_FREE, 4
ITEM TAG_PHYS, TSS2_PA+0x34, 0x1e000, 4

GOLDEN "a task gate for an interrupt: linked, NT, iret returns", M_FLAT32
	mov	$5, %esi
	int	$0x80
	mov	$6, %edi
	hlt
1:	pushf
	popl	0x1d000
	iret
DESC SEL_FREE, 0x38000067, 0x00008900
ITEM TAG_GATE, 0x80, 0, (SEL_FREE<<16)|0x85
ITEM TAG_POKE, TSS2_PA+0x20, 1b, 4
ITEM TAG_POKE, TSS2_PA+0x24, 2, 4
ITEM TAG_POKE, TSS2_PA+0x38, 0x1e000, 4
ITEM TAG_POKE, TSS2_PA+0x48, SEL_DATA32, 4
ITEM TAG_POKE, TSS2_PA+0x4c, SEL_CODE32, 4
ITEM TAG_POKE, TSS2_PA+0x50, SEL_DATA32, 4
ITEM TAG_POKE, TSS2_PA+0x54, SEL_DATA32, 4
REG ESI, 5
REG EDI, 6
ITEM TAG_PHYS, 0x1d000, 0x4002, 4
ITEM TAG_PHYS, TSS2_PA, SEL_TSS, 2

GOLDEN "16-bit code called from 32-bit code", M_FLAT32|M_PAGED32|M_PAE32
	lcall	$SEL_CODE16B, $1f-IMAGE_AT
	mov	%esp, %edi
	hlt
	.code16
1:	mov	%cs, %ax
	mov	$0x12345678, %ebx
	inc	%bx
	lretl
	.code32
REG EAX, SEL_CODE16B
REG EBX, 0x12345679
REG EDI, STACK

GOLDEN "a 16-bit stack in 32-bit code wraps and keeps the upper half", M_FLAT32|M_PAGED32|M_PAE32
	mov	$SEL_DATA16B, %ax
	mov	%ax, %ss
	mov	$0x77770000, %esp
	push	$0x5a5a5a5a
	mov	%esp, %ebx
	hlt
REG EBX, 0x7777fffc
ITEM TAG_PHYS, 0x1fffc, 0x5a5a5a5a, 4

GOLDEN "running over the limit of the code segment", M_FLAT32|M_PAGED32
	movl	$0x90909090, 0x1dffc
	ljmp	$SEL_FREE, $0x1dffc
	hlt
DESC SEL_FREE, 0x0000001d, 0x00c09b00
FAULT 13, 0, 0x1e000
