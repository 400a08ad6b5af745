/* SPDX-License-Identifier: MIT */
/* What the engines that run guest instructions on the host's own processor need to know of a
 * decoded one: may it run there, and under which conditions.
 *
 * Nothing may by default: an instruction must be on the allow-list (insn.c), and the guest's
 * CPUID must offer it. What is on the list is innocuous: with its registers and its memory
 * operand redirected (encode.h) it computes what it computes in the guest, touches nothing else,
 * and faults only as the guest's would.
 *
 * Stateless; any thread. Compiled normally: not to be called with c->fpu_live. */
#pragma once

#include <Zydis/Zydis.h>

#include "cpu/x86/x86.h"

enum insn_kind { INSN_INT, INSN_X87, INSN_MMX, INSN_SSE, INSN_AVX, INSN_XSAVE };

struct insn_info {
	u8 cls; /* enum insn_kind */
	/* May run natively with its memory operand redirected; otherwise the rest says nothing,
	 * unless `nop` or `special` is set. */
	bool allowed;
	bool nop; /* does nothing at all here: a hint (PAUSE is one), its operand not looked at */
	bool special;    /* offered to the guest, but takes more than redirection: the interpreter's
	                    native_special.c has it */
	bool fpu;        /* uses or changes x87, MMX, or vector state (MXCSR included) */
	bool x87_record; /* non-control x87 instruction: FIP, FDP, FOP are recorded */
	bool x87_ldcw;   /* FLDCW: ends the life of what was recorded */
	bool x87_wait;   /* #MF first when an x87 exception is pending */
	bool fwait;      /* #NM by TS only with MP */
	bool locked;     /* LOCK, or XCHG with memory */
	bool bitstr;     /* BT family, bit offset in a register: reaches beyond its address */
	bool aligned;    /* #GP(0) unless aligned to its size */
	bool vex_legacy; /* VEX outside 64-bit code: #UD in real-address and virtual-8086 mode */
	bool read, write;       /* the memory operand */
	u8 seg;                 /* its enum x86_segreg */
	u16 size;               /* its bytes, 0: none; `special`: only VMASKMOV's and the like */
	u16 fop;                /* x87: the 11 bits of FOP */
	u32 cr0_deny, cr4_need; /* bits that must be clear, set; else native_refused() says what */
	u8 xcr0_need;
};

/* What the guest's CPUID (x86_cpuid_build()) offers, for insn_info_get(). */
u64 insn_features(const struct x86_cpu *c);
/* Describe; returns out->allowed. */
bool insn_info_get(struct insn_info *out, u64 feat, const ZydisDecodedInstruction *insn,
                   const ZydisDecodedOperand *ops);

/* The class alone, whether or not the guest has the instruction; INSN_INT for what is unknown. */
enum insn_kind insn_kind_of(const ZydisDecodedInstruction *insn);
/* Chooses VEX.W the width of general registers? Outside 64-bit code it is ignored then. */
bool insn_vex_w_is_width(const ZydisDecodedInstruction *insn);
/* Would an operand-size prefix make it another instruction? */
bool insn_no_opsize(const ZydisDecodedInstruction *insn);

/* Zydis 4.0 takes SIB.base = 101b with mod = 00b for r13 when the prefix has B set: it means a
 * 32-bit displacement and no base whatever B is (SDM 2A, table 2-3). Corrects the operands. */
void insn_sib_without_base(const ZydisDecodedInstruction *insn, ZydisDecodedOperand *ops);
