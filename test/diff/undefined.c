// SPDX-License-Identifier: MIT
/* What the SDM (volume 2, "Flags Affected" and "Operation" of each instruction) leaves undefined.
 * Since engines run most instructions on the host, it usually agrees all the same; --strict
 * compares it. */
#include "compare.h"

#include "cpu/x86/defs.h"

#define CF X86_RFLAGS_CF
#define PF X86_RFLAGS_PF
#define AF X86_RFLAGS_AF
#define ZF X86_RFLAGS_ZF
#define SF X86_RFLAGS_SF
#define OF X86_RFLAGS_OF

static const struct {
	ZydisMnemonic mnemonic;
	u64 flags;
} always[] = {
	{ZYDIS_MNEMONIC_AND, AF},
	{ZYDIS_MNEMONIC_OR, AF},
	{ZYDIS_MNEMONIC_XOR, AF},
	{ZYDIS_MNEMONIC_TEST, AF},
	{ZYDIS_MNEMONIC_ANDN, AF | PF},
	{ZYDIS_MNEMONIC_BEXTR, AF | PF | SF},
	{ZYDIS_MNEMONIC_BLSI, AF | PF},
	{ZYDIS_MNEMONIC_BLSR, AF | PF},
	{ZYDIS_MNEMONIC_BLSMSK, AF | PF},
	{ZYDIS_MNEMONIC_BZHI, AF | PF},
	{ZYDIS_MNEMONIC_LZCNT, OF | SF | PF | AF},
	{ZYDIS_MNEMONIC_TZCNT, OF | SF | PF | AF},
	{ZYDIS_MNEMONIC_BSF, CF | OF | SF | AF | PF},
	{ZYDIS_MNEMONIC_BSR, CF | OF | SF | AF | PF},
	{ZYDIS_MNEMONIC_BT, OF | SF | AF | PF},
	{ZYDIS_MNEMONIC_BTC, OF | SF | AF | PF},
	{ZYDIS_MNEMONIC_BTR, OF | SF | AF | PF},
	{ZYDIS_MNEMONIC_BTS, OF | SF | AF | PF},
	{ZYDIS_MNEMONIC_MUL, SF | ZF | AF | PF},
	{ZYDIS_MNEMONIC_IMUL, SF | ZF | AF | PF},
	{ZYDIS_MNEMONIC_DIV, CF | OF | SF | ZF | AF | PF},
	{ZYDIS_MNEMONIC_IDIV, CF | OF | SF | ZF | AF | PF},
	{ZYDIS_MNEMONIC_AAA, OF | SF | ZF | PF},
	{ZYDIS_MNEMONIC_AAS, OF | SF | ZF | PF},
	{ZYDIS_MNEMONIC_AAD, OF | AF | CF},
	{ZYDIS_MNEMONIC_AAM, OF | AF | CF},
	{ZYDIS_MNEMONIC_DAA, OF},
	{ZYDIS_MNEMONIC_DAS, OF},
};

static void add_mem(struct dont_care *d, u64 addr, u32 len)
{
	d->mem[d->nr_mem].addr = addr;
	d->mem[d->nr_mem++].len = len;
}

static unsigned shift_count(const struct case_info *info, const struct tcase *t)
{
	const ZydisDecodedInstruction *i = &info->insn;
	unsigned mask = i->operand_width == 64 ? 63 : 31;

	for (unsigned k = 0; k < i->operand_count; k++) {
		if (info->ops[k].type == ZYDIS_OPERAND_TYPE_IMMEDIATE)
			return (unsigned)info->ops[k].imm.value.u & mask;
		if (k > 0 && info->ops[k].type == ZYDIS_OPERAND_TYPE_REGISTER &&
		    info->ops[k].reg.value == ZYDIS_REGISTER_CL)
			return (unsigned)t->st.gpr[1] & mask;
	}
	return 1;
}

static void shifts(struct dont_care *d, const struct case_info *info, const struct tcase *t)
{
	unsigned n = shift_count(info, t), width = info->ops[0].size;

	switch (info->insn.mnemonic) {
	case ZYDIS_MNEMONIC_SHL:
	case ZYDIS_MNEMONIC_SHR:
		if (n >= width)
			d->rflags |= CF;
		/* fall through */
	case ZYDIS_MNEMONIC_SAR:
		if (n)
			d->rflags |= AF;
		if (n > 1)
			d->rflags |= OF;
		break;
	case ZYDIS_MNEMONIC_SHLD:
	case ZYDIS_MNEMONIC_SHRD:
		if (n)
			d->rflags |= AF;
		if (n > 1)
			d->rflags |= OF;
		if (n > width) { /* the destination too */
			d->rflags |= CF | PF | AF | ZF | SF | OF;
			if (info->ops[0].type == ZYDIS_OPERAND_TYPE_REGISTER)
				d->gpr |= BIT(ZydisRegisterGetId(info->ops[0].reg.value));
			else {
				d->mem[d->nr_mem].addr =
					operand_address(&t->st, &info->insn, &info->ops[0],
				                        t->st.rip + info->insn.length);
				d->mem[d->nr_mem++].len = 2;
			}
		}
		break;
	case ZYDIS_MNEMONIC_ROL:
	case ZYDIS_MNEMONIC_ROR:
	case ZYDIS_MNEMONIC_RCL:
	case ZYDIS_MNEMONIC_RCR:
		if (n > 1)
			d->rflags |= OF;
		break;
	default:
		break;
	}
}

/* The x87 instruction and data pointers in memory images (SDM 1, 8.1.8 to 8.1.10): which
 * instruction was the last one, and whether FOP and FDP are kept at all, differs between
 * processors. */
static void fpu_images(struct dont_care *d, const struct case_info *info, const struct tcase *t)
{
	const ZydisDecodedOperand *op = NULL;
	u64 a;

	for (unsigned i = 0; i < info->insn.operand_count && !op; i++)
		if (info->ops[i].type == ZYDIS_OPERAND_TYPE_MEMORY)
			op = &info->ops[i];
	if (!op)
		return;
	a = operand_address(&t->st, &info->insn, op, t->st.rip + info->insn.length);
	switch (info->insn.mnemonic) {
	case ZYDIS_MNEMONIC_FNSTENV:
	case ZYDIS_MNEMONIC_FNSAVE:
		/* Not operand_width: it is 16 with a 66H that REX.W overrides. */
		if (op->size == 14 * 8 || op->size == 94 * 8)
			add_mem(d, a + 6, 8);
		else
			add_mem(d, a + 12, 16);
		break;
	case ZYDIS_MNEMONIC_FXSAVE:
	case ZYDIS_MNEMONIC_FXSAVE64:
	case ZYDIS_MNEMONIC_XSAVE:
	case ZYDIS_MNEMONIC_XSAVE64:
		add_mem(d, a + XS_FOP, 18);
		break;
	default:
		break;
	}
}

#define MEMORY_FAULTS (BIT(X86_PF) | BIT(X86_AC) | BIT(X86_SS) | BIT(X86_GP))

/* Instructions that access memory more than once, or check several things: the SDM promises no
 * order, nor what is left of the first part when the second faults. */
static void faults(struct dont_care *d, const struct case_info *info, const struct tcase *t)
{
	const ZydisDecodedOperand *op = info->ops;
	bool writes = false;

	for (unsigned i = 0; i < info->insn.operand_count; i++)
		writes |= op[i].type == ZYDIS_OPERAND_TYPE_MEMORY &&
		          (op[i].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE);
	switch (info->cls) {
	case CL_SEG:
		d->fault_place = true;
		d->fault_same = MEMORY_FAULTS;
		/* A far CALL to compatibility code pushes by the old or the new mode's width. */
		d->fault_or_not =
			info->insn.mnemonic == ZYDIS_MNEMONIC_CALL && (t->st.gpr[4] >> 32);
		break;
	case CL_XSAVE:
		d->fault_same = MEMORY_FAULTS;
		d->fault_fpu = !writes;
		/* Whether what isn't written (nothing requested, initial state) is checked. */
		d->fault_or_not = writes;
		break;
	case CL_MMX: /* a store has reset TOP, then it faults */
		d->fault_fpu = writes;
		d->fault_same = BIT(X86_MF) | BIT(X86_GP) | BIT(X86_SS);
		break;
	case CL_X87:
		d->fault_same = BIT(X86_MF) | BIT(X86_GP) | BIT(X86_SS);
		/* An unmasked exception and a store that would fault. */
		d->fault_or_not = writes && (~t->st.xsave[XS_FCW] & 0x3f);
		d->fault_place = writes; /* ten bytes over two pages: the first part may stay */
		break;
	case CL_SSE: /* alignment and canonicality */
	case CL_AVX:
	case CL_ATOMIC:
		d->fault_same = BIT(X86_GP) | BIT(X86_SS) | BIT(X86_MF);
		break;
	default:
		break;
	}
	switch (info->insn.mnemonic) {
	case ZYDIS_MNEMONIC_CMPSB: /* two reads */
	case ZYDIS_MNEMONIC_CMPSW:
	case ZYDIS_MNEMONIC_CMPSD:
	case ZYDIS_MNEMONIC_CMPSQ:
		if (info->cls == CL_STRING)
			d->fault_same = MEMORY_FAULTS;
		break;
	case ZYDIS_MNEMONIC_BOUND:
		d->fault_same = MEMORY_FAULTS | BIT(X86_BR);
		break;
	case ZYDIS_MNEMONIC_ENTER: /* several writes */
	case ZYDIS_MNEMONIC_PUSHA:
	case ZYDIS_MNEMONIC_PUSHAD:
	case ZYDIS_MNEMONIC_FLDENV:
	case ZYDIS_MNEMONIC_FNSTENV:
	case ZYDIS_MNEMONIC_FRSTOR:
	case ZYDIS_MNEMONIC_FNSAVE:
	case ZYDIS_MNEMONIC_FBSTP:
		d->fault_same |= MEMORY_FAULTS;
		d->fault_place = true;
		break;
	case ZYDIS_MNEMONIC_POPA:
	case ZYDIS_MNEMONIC_POPAD:
		d->fault_same = MEMORY_FAULTS;
		d->fault_place = true;
		d->fault_gpr = true;
		break;
	case ZYDIS_MNEMONIC_POP: /* a selector: two bytes are read or the whole slot */
		if (op[0].type == ZYDIS_OPERAND_TYPE_REGISTER &&
		    ZydisRegisterGetClass(op[0].reg.value) == ZYDIS_REGCLASS_SEGMENT) {
			d->fault_same = MEMORY_FAULTS;
			d->fault_or_not = (t->st.gpr[4] & 4095) > 4096 - 8;
		}
		break;
	case ZYDIS_MNEMONIC_XRSTOR: /* may read what it does not load */
	case ZYDIS_MNEMONIC_XRSTOR64:
		d->fault_or_not = true;
		break;
	case ZYDIS_MNEMONIC_VCVTPS2PH: /* MXCSR is set, then the store faults */
		d->fault_fpu = writes;
		d->fault_same |= MEMORY_FAULTS | BIT(X86_XM);
		break;
	case ZYDIS_MNEMONIC_MOVSXD: /* of 16 bits: reads two bytes, or four (AMD) */
		d->fault_or_not = info->insn.operand_width == 16;
		break;
	case ZYDIS_MNEMONIC_MOVBE: /* a store over two pages: the first part may stay */
		d->fault_place = true;
		d->fault_same |=
			MEMORY_FAULTS; /* two accesses; an SS prefix without effect otherwise */
		break;
	case ZYDIS_MNEMONIC_CALL: /* the push may come before the target's check */
		d->fault_place = true;
		break;
	case ZYDIS_MNEMONIC_MASKMOVQ: /* of the operand or of its first element that is wanted */
	case ZYDIS_MNEMONIC_MASKMOVDQU:
	case ZYDIS_MNEMONIC_VMASKMOVDQU:
	case ZYDIS_MNEMONIC_VMASKMOVPS:
	case ZYDIS_MNEMONIC_VMASKMOVPD:
	case ZYDIS_MNEMONIC_VPMASKMOVD:
	case ZYDIS_MNEMONIC_VPMASKMOVQ:
		d->fault_place = true;
		d->fault_same |= MEMORY_FAULTS;
		break;
	default:
		break;
	}
	/* #AC against other faults of the same access (SDM 3A 6.9: an order of its own making). */
	if (t->st.rflags & X86_RFLAGS_AC) {
		d->fault_same |= MEMORY_FAULTS;
		/* Which pieces of the operand are checked. */
		d->fault_or_not |= info->cls == CL_SEG || info->cls == CL_BIT ||
		                   info->insn.mnemonic == ZYDIS_MNEMONIC_MOVBE ||
		                   info->insn.mnemonic == ZYDIS_MNEMONIC_VCVTPH2PS ||
		                   info->insn.mnemonic == ZYDIS_MNEMONIC_POP;
	}
}

void dont_care_of(struct dont_care *d, const struct case_info *info, const struct tcase *t,
                  bool strict)
{
	memset(d, 0, sizeof(*d));
	/* Not state of the guest between instructions, and set by exceptions and IRET. */
	d->rflags = X86_RFLAGS_RF;
	d->mode32 = t->st.cs == SEL_USER_CS32;
	d->fpu_pointers = !strict;
	if (strict || t->nr_insns > 1)
		return;
	for (size_t i = 0; i < ARRAY_SIZE(always); i++)
		if (always[i].mnemonic == info->insn.mnemonic)
			d->rflags |= always[i].flags;
	faults(d, info, t);
	/* A selector is pushed zero-extended or leaves the rest of the slot as it was (SDM 2B). */
	if (info->insn.mnemonic == ZYDIS_MNEMONIC_PUSH &&
	    info->ops[0].type == ZYDIS_OPERAND_TYPE_REGISTER &&
	    ZydisRegisterGetClass(info->ops[0].reg.value) == ZYDIS_REGCLASS_SEGMENT)
		add_mem(d, t->st.gpr[4] - info->insn.operand_width / 8 + 2,
		        info->insn.operand_width / 8 - 2);
	/* REP with a 32-bit address size: whether the counter and the pointers are zero-extended
	 * when nothing was done is each processor's own. */
	if (info->cls == CL_STRING && info->insn.address_width == 32)
		d->gpr_high = BIT(1) | BIT(6) | BIT(7);
	if (info->cls == CL_SHIFT)
		shifts(d, info, t);
	if (info->cls == CL_X87 || info->cls == CL_XSAVE)
		fpu_images(d, info, t);
}
