/* SPDX-License-Identifier: MIT */
/* Decimal arithmetic. 16-bit code; the encodings are the same in 32-bit code. */
#include "macros.inc"
	.code16

GOLDEN "daa after 79 + 35", M_16
	mov	$0x79, %al
	add	$0x35, %al
	daa
	hlt
REG EAX, 0x14
FLAGS CF|AF|PF, CF|PF|AF|ZF|SF

GOLDEN "daa with both corrections from 9a", M_16
	mov	$0x9a, %al
	clc
	and	$0xff, %al
	daa
	hlt
REG EAX, 0x00
FLAGS CF|AF|ZF|PF, CF|PF|AF|ZF|SF

GOLDEN "das after 35 - 47", M_16
	mov	$0x35, %al
	sub	$0x47, %al
	das
	hlt
REG EAX, 0x88
FLAGS CF|AF|SF|PF, CF|PF|AF|ZF|SF

GOLDEN "das borrows from a low digit", M_16
	xor	%al, %al
	sub	$1, %al
	das
	hlt
REG EAX, 0x99
FLAGS CF|AF|SF|PF, CF|PF|AF|ZF|SF

GOLDEN "aaa carries into AH", M_16
	mov	$0x0008, %ax
	add	$9, %al
	aaa
	hlt
REG EAX, 0x0107
FLAGS CF|AF, CF|AF

GOLDEN "aaa without adjustment clears the upper digit", M_16
	mov	$0x0245, %ax
	test	%al, %al
	aaa
	hlt
REG EAX, 0x0205
FLAGS 0, 0x001

GOLDEN "aas borrows from AH", M_16
	mov	$0x0203, %ax
	sub	$8, %al
	aas
	hlt
REG EAX, 0x0105
FLAGS CF|AF, CF|AF

GOLDEN "aam splits, also by other bases", M_16
	mov	$0xff4f, %ax
	aam
	mov	%ax, %bx
	mov	$0x00a5, %ax
	aam	$16
	hlt
REG EBX, 0x0709
REG EAX, 0x0a05
FLAGS PF, PF|ZF|SF

GOLDEN "aam by zero", M_16
	mov	$0x0012, %ax
1:	aam	$0
	hlt
REG EAX, 0x0012
FAULT 0, NO_ERR, 1b

GOLDEN "aad joins, also by other bases", M_16
	mov	$0x0709, %ax
	aad
	mov	%ax, %bx
	mov	$0x0a05, %ax
	aad	$16
	hlt
REG EBX, 0x004f
REG EAX, 0x00a5
FLAGS SF|PF, PF|ZF|SF
