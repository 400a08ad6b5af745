/* SPDX-License-Identifier: MIT */
/* Guests of a few instructions, one for each way to end or to talk: assembled with -DGUEST_x,
 * started through multiboot 1 (32-bit protected mode, no paging, interrupts off). */

#define COM1      0x3f8
#define PM1_STS   0x600
#define PM1_CNT   0x604
#define S5        ((5 << 10) | (1 << 13)) /* SLP_TYP, SLP_EN */
#define CMOS      0x70
#define CMOS_FREE 0x7f                    /* a byte that nobody else uses */

	.code32
	.section .text
	.balign 4
	.long 0x1badb002, 0, -0x1badb002

	.macro out8 port, value
	movw $\port, %dx
	movb $\value, %al
	outb %al, %dx
	.endm

	.macro poweroff
	movw $PM1_CNT, %dx
	movw $S5, %ax
	outw %ax, %dx
	.endm

	/* Send %al. */
	.macro putc
	movb %al, %bl
1:	movw $COM1 + 5, %dx
	inb %dx, %al
	testb $0x20, %al /* LSR.THRE */
	jz 1b
	movw $COM1, %dx
	movb %bl, %al
	outb %al, %dx
	.endm

	.globl _start
_start:
#if defined(GUEST_poweroff)
	poweroff
#elif defined(GUEST_reset_cf9)
	out8 0xcf9, 6
#elif defined(GUEST_reset_i8042)
	out8 0x64, 0xfe
#elif defined(GUEST_reset_thrice)
	/* Counts in CMOS, which a reset keeps. */
	out8 CMOS, CMOS_FREE
	inb $CMOS + 1, %al
	incb %al
	outb %al, $CMOS + 1
	addb $'0', %al
	putc
	cmpb $'3', %bl
	jae 1f
	out8 0xcf9, 6
	jmp .
1:	poweroff
#elif defined(GUEST_triple)
	lidt no_idt
	ud2
no_idt:	.word 0
	.long 0
#elif defined(GUEST_panic)
	out8 0x505, 1
#elif defined(GUEST_debug_exit)
	out8 EXIT_PORT, EXIT_VALUE
#elif defined(GUEST_spin)
#elif defined(GUEST_halt)
1:	hlt
	jmp 1b
#elif defined(GUEST_hello)
	movl $text, %esi
2:	lodsb
	testb %al, %al
	jz 3f
	putc
	jmp 2b
3:	poweroff
text:	.asciz "hello from the guest\r\n"
#elif defined(GUEST_chatter)
	/* More than any buffer holds, for ever. */
2:	movb $'x', %al
	putc
	jmp 2b
#elif defined(GUEST_echo)
	/* Each byte comes back plus one, 'q' ends. */
2:	movw $COM1 + 5, %dx
	inb %dx, %al
	testb $1, %al /* LSR.DR */
	jz 2b
	movw $COM1, %dx
	inb %dx, %al
	cmpb $'q', %al
	je 3f
	incb %al
	putc
	jmp 2b
3:	poweroff
#elif defined(GUEST_debugcon)
	out8 0xe9, 'd'
	out8 0xe9, 'b'
	out8 0xe9, 'g'
	poweroff
#elif defined(GUEST_dma)
	/* fw_cfg, all the time: DMA_LEN bytes of an item of 4, to 16 MiB and up. */
2:	movl $0x02000000, dma
	movl $dma, %eax
	bswap %eax
	movw $0x518, %dx
	outl %eax, %dx
	jmp 2b
	.balign 8
dma:	.long 0
	.byte DMA_LEN >> 24, DMA_LEN >> 16 & 255, DMA_LEN >> 8 & 255, DMA_LEN & 255
	.byte 0, 0, 0, 0, 1, 0, 0, 0
#elif defined(GUEST_ports)
	/* A device's registers, all the time. */
2:	inb $CMOS + 1, %al
	jmp 2b
#elif defined(GUEST_button)
	/* ACPI mode and the power button's event on, then wait for it. */
	movb $'>', %al
	putc
	out8 0xb2, 0xf1
	movw $PM1_STS + 2, %dx
	movw $0x100, %ax
	outw %ax, %dx
2:	movw $PM1_STS, %dx
	inw %dx, %ax
	testw $0x100, %ax
	jz 2b
	poweroff
#else
#error "which guest?"
#endif
	jmp .
