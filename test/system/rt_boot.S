/* SPDX-License-Identifier: MIT */
/* From multiboot 1 (32 bits, no paging) and from SIPI (16 bits) to C in 64-bit mode. */
#include "layout.h"

#define MB_FLAGS 0x10000 /* the address fields count */

	.section .boot, "ax"
	.code32
	.balign 4
header:
	.long 0x1badb002, MB_FLAGS, -(0x1badb002 + MB_FLAGS)
	.long header, image_start, image_data_end, image_end, boot32

	.globl boot32
boot32:
	cli
	cld
	movl %ebx, boot_info
	/* 1 GiB one to one in 2 MiB pages, and the page of the local APIC. */
	movl $boot_pdpt + 7, boot_pml4
	movl $boot_pd + 7, boot_pdpt
	movl $boot_pd_apic + 7, boot_pdpt + 3 * 8
	movl $boot_pd, %edi
	movl $0x83, %eax
	movl $512, %ecx
1:	movl %eax, (%edi)
	movl $0, 4(%edi)
	addl $0x200000, %eax
	addl $8, %edi
	loop 1b
	movl $0xfee00000 + 0x9b, boot_pd_apic + 503 * 8 /* P, W, PWT, PCD, PS */
	/* All CPUs come here with 32-bit flat segments. */
enter64:
	movl $0x20, %eax /* PAE */
	movl %eax, %cr4
	movl $boot_pml4, %eax
	movl %eax, %cr3
	movl $0xc0000080, %ecx /* EFER: SCE, LME, NXE */
	rdmsr
	orl $0x901, %eax
	wrmsr
	movl $0x80010033, %eax /* PG, WP, NE, ET, MP, PE */
	movl %eax, %cr0
	lgdt boot_gdtr
	ljmp $KCODE64, $start64

	.code64
start64:
	movl $KDATA, %eax
	movl %eax, %ds
	movl %eax, %es
	movl %eax, %ss
	movl %eax, %fs
	movl %eax, %gs
	movl $1, %eax
	lock xaddl %eax, cpus_entered
	cmpl $MAX_CPUS, %eax
	jae 2f
	movl %eax, %edi
	shll $16, %eax /* CPU_BLOCK */
	leaq cpu_blocks + CPU_STACK_TOP(%rax), %rsp
	xorl %ebp, %ebp
	call cpu_start
2:	cli
	hlt
	jmp 2b

	.balign 8
boot_gdt:
	.quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff, 0x00cf9b000000ffff
boot_gdtr:
	.word 31
	.long boot_gdt
	.long 0

	/* Copied to AP_START; ends in enter64. */
	.code16
	.globl ap_start, ap_start_end
ap_start:
	cli
	xorw %ax, %ax
	movw %ax, %ds
	lgdtl ap_gdtr - ap_start + AP_START
	movl %cr0, %eax
	orb $1, %al
	movl %eax, %cr0
	ljmpl $KCODE32, $ap32
	.balign 8
ap_gdtr:
	.word 31
	.long boot_gdt
ap_start_end:

	.code32
ap32:	movl $KDATA, %eax
	movl %eax, %ds
	movl %eax, %es
	movl %eax, %ss
	jmp enter64

	.data
	.globl boot_info, cpus_entered
boot_info: .long 0
cpus_entered: .long 0

	.bss
	.balign 4096
	.globl boot_pml4
boot_pml4: .skip 4096
boot_pdpt: .skip 4096
boot_pd: .skip 4096
boot_pd_apic: .skip 4096

	.section .cpus, "aw", @nobits
	.globl cpu_blocks
cpu_blocks: .skip MAX_CPUS * CPU_BLOCK
