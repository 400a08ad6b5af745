/* SPDX-License-Identifier: MIT */
/* Paging as 32-bit code sees it: rights, accessed and dirty bits, error codes. */
#include "macros.inc"
	.code32
	.macro	PTE addr:req, set:req, clear:req
	ITEM	TAG_PTE, \addr, \set, \clear
	.endm
	.set	PAGE, 0x40000

GOLDEN "accessed by a read", M_PAGED32|M_PAE32|M_COMPAT32
	mov	PAGE, %eax
	hlt
ITEM TAG_PTE_IS, PAGE, 0x27, 0x67

GOLDEN "accessed and dirty by a write", M_PAGED32|M_PAE32|M_USER32|M_COMPAT32|M_UCOMPAT32
	movb	$1, PAGE+4
	hlt
ITEM TAG_PTE_IS, PAGE, 0x67, 0x67
ITEM TAG_PTE_IS, PAGE+0x1000, 0x07, 0x67

GOLDEN "dirty after a read first", M_PAGED32|M_PAE32|M_USER32
	mov	PAGE, %eax
	mov	%eax, PAGE
	hlt
ITEM TAG_PTE_IS, PAGE, 0x67, 0x67

GOLDEN "not present: read", M_PAGED32|M_PAE32|M_COMPAT32
1:	mov	PAGE+8, %eax
	hlt
PTE PAGE, 0, 1
FAULT 14, 0, 1b
ITEM TAG_CR2, 0, PAGE+8

GOLDEN "not present: write by the user", M_USER32|M_UCOMPAT32
1:	mov	%eax, PAGE+8
	hlt
PTE PAGE, 0, 1
FAULT 14, 6, 1b
ITEM TAG_CR2, 0, PAGE+8

GOLDEN "the user and a supervisor page", M_USER32|M_UCOMPAT32
1:	mov	PAGE, %eax
	hlt
PTE PAGE, 0, 4
FAULT 14, 5, 1b

GOLDEN "write protection holds for the supervisor with WP", M_PAGED32|M_PAE32|M_COMPAT32
1:	mov	%eax, PAGE
	hlt
PTE PAGE, 0, 2
FAULT 14, 3, 1b

GOLDEN "... and not without", M_PAGED32|M_PAE32|M_COMPAT32
	mov	%cr0, %eax
	and	$~0x10000, %eax
	mov	%eax, %cr0
	movl	$0x1234, PAGE
	hlt
PTE PAGE, 0, 2
ITEM TAG_PHYS, PAGE, 0x1234, 4
ITEM TAG_PTE_IS, PAGE, 0x65, 0x67

GOLDEN "write protection for the user", M_USER32|M_UCOMPAT32
	mov	PAGE, %ebx
1:	mov	%eax, PAGE
	hlt
PTE PAGE, 0, 2
FAULT 14, 7, 1b

GOLDEN "an access over two pages, the second missing", M_PAGED32|M_PAE32|M_USER32
1:	movl	$0x55555555, PAGE+0xffe
	hlt
PTE PAGE+0x1000, 0, 1
FAULT 14, NO_ERR, 1b
ITEM TAG_CR2, 0, PAGE+0x1000
ITEM TAG_PHYS, PAGE+0xffc, 0, 4

GOLDEN "fetching from a missing page", M_PAGED32|M_PAE32
	mov	$PAGE, %eax
	jmp	*%eax
	hlt
PTE PAGE, 0, 1
FAULT 14, 0, PAGE
ITEM TAG_CR2, 0, PAGE

GOLDEN "an instruction over two pages, the second missing", M_PAGED32|M_PAE32|M_USER32
	movw	$0xb890, PAGE+0xffe
	mov	$PAGE+0xffe, %eax
	jmp	*%eax
	hlt
PTE PAGE+0x1000, 0, 1
FAULT 14, NO_ERR, PAGE+0xfff
ITEM TAG_CR2, 0, PAGE+0x1000

GOLDEN "invlpg shows the new mapping", M_PAGED32
	mov	PAGE, %eax
	movl	$0x12345678, PAGE+0x1000
	mov	$0x41067, %ecx
	mov	%ecx, TABLES_PA+0x1000+(0x40*4)
	invlpg	PAGE
	mov	PAGE, %ebx
	hlt
REG EBX, 0x12345678

GOLDEN "a 4 MiB page", M_PAGED32
	movl	$0x0badcafe, PAGE
	mov	%cr4, %eax
	or	$0x10, %eax
	mov	%eax, %cr4
	movl	$0x00000087, TABLES_PA+4
	mov	0x400000+PAGE, %ebx
	mov	TABLES_PA+4, %ecx
	hlt
REG EBX, 0x0badcafe
REG ECX, 0xa7

GOLDEN "reserved bits of a 4 MiB page", M_PAGED32
	mov	%cr4, %eax
	or	$0x10, %eax
	mov	%eax, %cr4
	movl	$0x00200087, TABLES_PA+4
1:	mov	0x400000+PAGE, %ebx
	hlt
FAULT 14, 9, 1b

GOLDEN "rep movsb stops at a missing page with its progress", M_PAGED32|M_PAE32|M_USER32
	mov	$PAGE, %esi
	mov	$PAGE+0x1ffd, %edi
	mov	$10, %ecx
1:	rep movsb
	hlt
PTE PAGE+0x2000, 0, 1
FAULT 14, NO_ERR, 1b
REG ECX, 7
REG EDI, PAGE+0x2000
REG ESI, PAGE+3
ITEM TAG_CR2, 0, PAGE+0x2000

GOLDEN "turning paging on and off", M_FLAT32
	mov	$TABLES_PA, %eax
	mov	%eax, %cr3
	mov	%cr0, %ebx
	or	$0x80000000, %ebx
	mov	%ebx, %cr0
	jmp	1f
1:	mov	PAGE, %ecx
	and	$0x7fffffff, %ebx
	mov	%ebx, %cr0
	jmp	2f
2:	mov	TABLES_PA+0x1000+(0x40*4), %edx
	hlt
REG EDX, 0x40027

GOLDEN "from 32-bit code through compatibility to 64-bit code and back", M_COMPAT32
	lcall	$SEL_CODE64, $1f
	mov	%cs, %ecx
	hlt
	.code64
1:	mov	$0x123456789abcdef0, %rax
	shr	$32, %rax
	mov	%cs, %ebx
	lretl
	.code32
REG EAX, 0x12345678
REG EBX, SEL_CODE64
REG ECX, SEL_CODE32

GOLDEN "selectors in compatibility mode", M_UCOMPAT32
	mov	%cs, %eax
	mov	%ss, %ebx
	mov	%ds, %ecx
	hlt
REG EAX, SEL_UCODE32
REG EBX, SEL_UDATA32
REG ECX, SEL_UDATA32

GOLDEN "an interrupt in compatibility mode pushes a 64-bit frame", M_UCOMPAT32
	int3
1:	hlt
FAULT 3, NO_ERR, 1b
REG ESP, FSTACK
ITEM TAG_SEG, 2, SEL_UDATA32
ITEM TAG_FRAMECS, 0, SEL_UCODE32
