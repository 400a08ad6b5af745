/* SPDX-License-Identifier: MIT */
/* PVH entry (32-bit, paging off) to long mode: two GiB of virtual addresses, of which the first
 * is mapped one to one in 2 MiB pages, and the second belongs to the tests. Everything is open to
 * ring 3. Interrupts stay off. */
#include "nano.h"

#define PG_ALL 7 /* present, writable, user */
#define PG_BIG 0x80

	.section .note.pvh, "a", @note
	.balign 4
	.long 4, 4, 18 /* XEN_ELFNOTE_PHYS32_ENTRY */
	.asciz "Xen"
	.long _start

	.text
	.code32
	.globl _start
_start:
	cli
	movl $stack_top, %esp
	movl $pdpt + PG_ALL, pml4
	movl $pd_flat + PG_ALL, pdpt
	movl $pd_test + PG_ALL, pdpt + 8
	movl $pt_test + PG_ALL, pd_test
	movl $pd_flat, %edi
	movl $PG_ALL | PG_BIG, %eax
1:	movl %eax, (%edi)
	addl $8, %edi
	addl $0x200000, %eax
	cmpl $0x40000000, %eax
	jb 1b
	movl %cr4, %eax
	orl $0x20, %eax /* PAE */
	movl %eax, %cr4
	movl $pml4, %eax
	movl %eax, %cr3
	movl $0xc0000080, %ecx /* EFER: LME, SCE */
	rdmsr
	orl $0x101, %eax
	wrmsr
	movl %cr0, %eax
	andl $~0x2c, %eax  /* no emulated x87, no task switched, no #MF by pin */
	orl $0x80010021, %eax
	movl %eax, %cr0
	lgdt gdt_pointer
	ljmp $SEL_CODE, $2f

	.code64
2:	movl $SEL_DATA, %eax
	movl %eax, %ds
	movl %eax, %es
	movl %eax, %ss
	xorl %eax, %eax
	movl %eax, %fs
	movl %eax, %gs
	call nano_main
3:	hlt
	jmp 3b

	/* Anything unexpected ends the run: vector, then an error code or 0, on the stack. */
	.globl trap_stubs
	.balign 16
trap_stubs:
	.set vec, 0
	.rept 32
	.balign 16
	.if !((1 << vec) & 0x60227d00) /* those with an error code of their own */
	pushq $0
	.endif
	pushq $vec
	jmp trap
	.set vec, vec + 1
	.endr
trap:
	popq %rdi
	popq %rsi
	movq (%rsp), %rdx
	andq $-16, %rsp
	call nano_trap
	jmp 3b

	.data
	.balign 16
	.globl gdt
gdt:	.quad 0
	.quad 0x00af9b000000ffff /* SEL_CODE */
	.quad 0x00cf93000000ffff /* SEL_DATA */
	.quad 0                  /* SEL_USER */
	.quad 0x00cff3000000ffff /* SEL_UDATA */
	.quad 0x00affb000000ffff /* SEL_UCODE */
	.quad 0, 0               /* SEL_TSS, filled in by nano.c */
gdt_pointer:
	.word . - gdt - 1
	.long gdt

	.bss
	.balign 4096
pml4:	.space 4096
pdpt:	.space 4096
pd_flat: .space 4096
pd_test: .space 4096
	.globl pt_test
pt_test: .space 4096
	.space 16384
stack_top:
	.section .note.GNU-stack, "", @progbits
