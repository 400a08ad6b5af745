/* SPDX-License-Identifier: MIT */
/* String instructions in 16-bit code: direction, wrap-around, address size, partial progress. */
#include "macros.inc"
	.code16

GOLDEN "rep movsb forwards", M_16
	cld
	mov	$1f, %si
	mov	$SCRATCH, %di
	mov	$5, %cx
	rep movsb
	hlt
1:	.ascii	"hello"
MEM32 SCRATCH, 0x6c6c6568
MEM16 SCRATCH+4, 0x006f
REG ECX, 0
REG EDI, SCRATCH+5

GOLDEN "rep movsw backwards, overlapping", M_16
	movl	$0x22221111, SCRATCH
	movl	$0x44443333, SCRATCH+4
	std
	mov	$SCRATCH+6, %si
	mov	$SCRATCH+8, %di
	mov	$4, %cx
	rep movsw
	cld
	hlt
MEM32 SCRATCH, 0x11111111
MEM32 SCRATCH+4, 0x33332222
MEM16 SCRATCH+8, 0x4444
REG ESI, SCRATCH-2
REG EDI, SCRATCH

GOLDEN "rep movsd with an operand-size prefix", M_16
	movl	$0xdeadbeef, SCRATCH
	mov	$SCRATCH, %si
	mov	$SCRATCH+4, %di
	mov	$2, %cx
	rep movsl
	hlt
MEM32 SCRATCH+8, 0xdeadbeef
REG ESI, SCRATCH+8

GOLDEN "overlapping movsb spreads a byte", M_16
	movb	$0x5a, SCRATCH
	mov	$SCRATCH, %si
	mov	$SCRATCH+1, %di
	mov	$7, %cx
	rep movsb
	hlt
MEM32 SCRATCH+4, 0x5a5a5a5a

GOLDEN "count of zero does nothing", M_16
	mov	$0xffff0000, %ecx
	mov	$SCRATCH, %di
	mov	$0xaa, %al
	rep stosb
	hlt
MEM8 SCRATCH, 0
REG ECX, 0xffff0000
REG EDI, SCRATCH

GOLDEN "stosw wraps DI at 64K, the upper half stays", M_16
	mov	$0x7777fffe, %edi
	mov	$0xabcd, %ax
	stosw
	hlt
MEM16 0xfffe, 0xabcd
REG EDI, 0x77770000

GOLDEN "address-size prefix: ECX, EDI", M_16
	mov	$SCRATCH, %edi
	mov	$3, %ecx
	mov	$0x1234, %ax
	.byte	0x67
	rep stosw
	hlt
MEM32 SCRATCH+2, 0x12341234
REG EDI, SCRATCH+6
REG ECX, 0

GOLDEN "repne scasb finds", M_16
	mov	$1f, %di
	mov	$10, %cx
	mov	$'d', %al
	repne scasb
	hlt
1:	.ascii	"abcdefghij"
REG ECX, 6
FLAGS ZF|PF

GOLDEN "repe cmpsb stops at the difference", M_16
	mov	$1f, %si
	mov	$2f, %di
	mov	$8, %cx
	repe cmpsb
	hlt
1:	.ascii	"same_A__"
2:	.ascii	"same_B__"
REG ECX, 2
FLAGS CF|SF|AF|PF

GOLDEN "lodsb with segment override", M_16
	push	%ds
	pop	%gs
	movw	$0x8142, SCRATCH
	mov	$SCRATCH, %si
	lods	%gs:(%si), %al
	mov	%al, %bl
	lodsb
	hlt
REG EBX, 0x42
REG EAX, 0x81

GOLDEN "rep movsb faults at the segment's end with progress kept", M_REAL|M_PROT16
	mov	$0xfffd, %si
	mov	$SCRATCH, %edi
	mov	$0x10, %ecx
	mov	$0xfffd, %esi
1:	.byte	0x67
	rep movsb
	hlt
REG ECX, 0xd
REG ESI, 0x10000
REG EDI, SCRATCH+3
FAULT 13, NO_ERR, 1b
