/* SPDX-License-Identifier: MIT */
/* Numbers that C and assembler share. */
#pragma once

#define MAX_CPUS 4

/* Each CPU's block: struct cpu at the bottom, then its stacks; found from any stack pointer in it
 * by rounding down. */
#define CPU_BLOCK     0x10000
#define CPU_IST1_TOP  0x4000 /* exceptions, interrupts, SYSCALL, SYSENTER */
#define CPU_IST2_TOP  0x6000 /* NMI */
#define CPU_IST3_TOP  0x8000 /* #DF */
#define CPU_STACK_TOP 0x10000
#define CPU_USER_RSP  0 /* struct cpu: scratch of the SYSCALL entry */
#define CPU_ENTRY_RSP 8 /* its stack */

#define AP_START 0x8000 /* real-mode code of the APs */

/* STAR wants this order. */
#define KCODE64   0x08
#define KDATA     0x10
#define KCODE32   0x18
#define UCODE32   0x23
#define UDATA     0x2b
#define UCODE64   0x33
#define SEL_TSS   0x38 /* two slots */
#define SEL_TEST  0x48 /* free for tests, to the end */
#define GDT_SLOTS 32

#define VEC_SYSCALL  256 /* not of the IDT: how the entries of these show in struct regs */
#define VEC_SYSENTER 257
#define VEC_STUBS    256
