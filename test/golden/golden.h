/* SPDX-License-Identifier: MIT */
/* What golden tests (.S) and their runner share: modes, the layout of memory, the records that
 * state the results.
 *
 * A .S file is assembled at build time into flat images. 16-bit images and those for segments with
 * a base are linked at 0 and run with CS = DS = ES = SS based at IMAGE_PA; images for flat
 * segments are linked at IMAGE_PA. So a label is its offset in the segment, in every mode.
 *
 * A test is code that ends in HLT, preceded or followed by what is expected:
 *
 *	GOLDEN	"inc keeps CF", M_16
 *	stc
 *	inc	%ax
 *	hlt
 *	REG	EAX, 1
 *	FLAGS	0x001, 0x8d5
 *
 * A test may end in an exception instead (FAULT). All IDT and IVT entries that a test doesn't set
 * itself lead to HLTs of their own at HANDLER_PA + vector, from which the runner sees which
 * exception it was; its frame is on the stack. At CPL 3 HLT raises #GP(0): then that is the end. */
#pragma once

/* Modes, by bits. */
#define M_REAL      0x001 /* real-address mode */
#define M_PROT16    0x002 /* protected, 16-bit segments based at IMAGE_PA, CPL 0 */
#define M_V86       0x004 /* virtual-8086, IOPL 3, paging off */
#define M_COMPAT16  0x008 /* IA-32e compatibility mode, 16-bit, CPL 3 */
#define M_PROT32    0x010 /* protected, 32-bit segments based at IMAGE_PA, CPL 0 */
#define M_FLAT32    0x020 /* protected, flat, CPL 0, no paging */
#define M_PAGED32   0x040 /* ... with 32-bit paging */
#define M_PAE32     0x080 /* ... with PAE paging */
#define M_USER32    0x100 /* flat, CPL 3, 32-bit paging */
#define M_COMPAT32  0x200 /* IA-32e compatibility mode, flat, CPL 0 */
#define M_UCOMPAT32 0x400 /* ... CPL 3 */
#define NR_MODES    11

#define M_16     0x00f /* numbers: these are arguments of assembler macros */
#define M_16SEG  0x005 /* selectors are paragraphs: real, virtual-8086 */
#define M_32     0x7f0
#define M_32CPL0 0x0f0 /* without compatibility mode */
#define M_32FLAT 0x7e0
/* Linked at 0. */
#define M_BASED 0x01f

/* Guest-physical memory. */
#define IVT_PA     0x0000
#define GDT_PA     0x1000 /* 64 entries */
#define LDT_PA     0x1800 /* 16 entries */
#define IDT_PA     0x2000 /* 256 entries, of 8 or 16 bytes */
#define TSS_PA     0x3000
#define TSS2_PA    0x3800 /* for tests of task switches */
#define HANDLER_PA 0x8000
#define IMAGE_PA   0x10000
#define TESTS_OFF  0x9000 /* of the records in the image */
#define TABLES_PA  0x100000

/* SCRATCH: free for tests, zero at first; STACK_OFF: initial (E)SP; offsets in the image's
 * segment, so that in flat ones IMAGE_PA is added (FSCRATCH, FSTACK). STACK0_PA: top of the
 * stack for CPL 0 when entered from CPL 3. */
#ifndef __ASSEMBLER__ /* there they are symbols, with FSCRATCH and FSTACK */
#define SCRATCH   0xd000
#define STACK_OFF 0xfff0
#define STACK0_PA 0x7f00
#endif

/* Selectors. Those from SEL_FREE on are for tests: DESC. */
#define SEL_CODE32   0x08 /* flat */
#define SEL_DATA32   0x10
#define SEL_CODE16B  0x18 /* based at IMAGE_PA, limit 0xffff */
#define SEL_DATA16B  0x20
#define SEL_CODE32B  0x28 /* based at IMAGE_PA, limit 0xfffff */
#define SEL_DATA32B  0x30
#define SEL_CODE64   0x38
#define SEL_TSS      0x40 /* two slots */
#define SEL_UCODE32  0x53
#define SEL_UDATA32  0x5b
#define SEL_UCODE16B 0x63
#define SEL_UDATA16B 0x6b
#define SEL_LDT      0x70 /* two slots */
#define SEL_FREE     0x80
#define GDT_ENTRIES  64
#define GDT_LIMIT    (GDT_ENTRIES * 8 - 1)

/* Records: GOLDEN is 96 bytes: tag, modes, entry, name; items are 16: tag, a, b, c. */
#define TAG_TEST    0x54534554
#define TAG_REG     1  /* a: register, b: value, c: mask */
#define TAG_FLAGS   2  /* b: value, c: mask */
#define TAG_MEM     3  /* a: offset in the image's segment, b: value, c: bytes */
#define TAG_FAULT   4  /* a: vector, b: error code, c: EIP */
#define TAG_SET     5  /* a: register, b: initial value */
#define TAG_GATE    6  /* a: vector, b: offset, c: selector << 16 | access byte */
#define TAG_DESC    7  /* a: selector, b, c: low and high half */
#define TAG_SEG     8  /* a: segment register 0.. ES CS SS DS FS GS, b: selector expected */
#define TAG_PHYS    9  /* a: physical address, b: value, c: bytes; expected */
#define TAG_POKE    10 /* a: physical address, b: value, c: bytes; before the test */
#define TAG_PTE     11 /* a: linear address, b: bits to set, c: bits to clear, in its lowest entry */
#define TAG_PTE_IS  12 /* a: linear address, b: value of the low bits, c: mask */
#define TAG_CR2     13 /* b: value */
#define TAG_SETSEG  14 /* a: segment register, b: selector; loaded from the tables before */
#define TAG_FRAMECS 15 /* b: CS in the exception's frame */
#define NO_ERR      0xffffffff

/* Registers in items: 0..7 in the order of their encoding. */
#define REG_CR0   8
#define REG_FINAL 9  /* R_IP: of the end: the address of the HLT */
#define REG_FLAGS 10 /* TAG_SET only */

/* RFLAGS */
#define CF    0x001
#define PF    0x004
#define AF    0x010
#define ZF    0x040
#define SF    0x080
#define TF    0x100
#define IF    0x200
#define DF    0x400
#define OF    0x800
#define ARITH 0x8d5
