// SPDX-License-Identifier: MIT
/* What one guest instruction is: from bytes to a struct gi. Which arithmetic flags it reads and
 * writes, whether it runs as it is, is code of our own or a call of a helper, where control goes,
 * and what its memory operand is. What has no place here goes to interp. */
#include "engine/bt/xlate.h"

#include <string.h>

/* ---- flags ---- */

static u8 mask_of(ZydisAccessedFlagsMask f)
{
	return (u8)((f & ZYDIS_CPUFLAG_CF ? BT_F_C : 0) | (f & ZYDIS_CPUFLAG_PF ? BT_F_P : 0) |
	            (f & ZYDIS_CPUFLAG_AF ? BT_F_A : 0) | (f & ZYDIS_CPUFLAG_ZF ? BT_F_Z : 0) |
	            (f & ZYDIS_CPUFLAG_SF ? BT_F_S : 0) | (f & ZYDIS_CPUFLAG_OF ? BT_F_O : 0));
}

/* Shifts by CL, or by an immediate that is 0 modulo the width, may write no flags at all. */
static bool may_skip_flags(const struct gi *g)
{
	const ZydisDecodedInstruction *i = &g->i;

	switch (i->mnemonic) {
	case ZYDIS_MNEMONIC_SHL:
	case ZYDIS_MNEMONIC_SHR:
	case ZYDIS_MNEMONIC_SAR:
	case ZYDIS_MNEMONIC_ROL:
	case ZYDIS_MNEMONIC_ROR:
	case ZYDIS_MNEMONIC_RCL:
	case ZYDIS_MNEMONIC_RCR:
		return g->o[1].type != ZYDIS_OPERAND_TYPE_IMMEDIATE ||
		       !(g->o[1].imm.value.u & (g->o[0].size == 64 ? 63 : 31)) ||
		       (g->o[0].size < 32 && (g->o[1].imm.value.u & 31) >= 8);
	case ZYDIS_MNEMONIC_SHLD:
	case ZYDIS_MNEMONIC_SHRD:
		return g->o[2].type != ZYDIS_OPERAND_TYPE_IMMEDIATE ||
		       !(g->o[2].imm.value.u & (g->o[0].size == 64 ? 63 : 31));
	default:
		return i->attributes &
		       (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE);
	}
}

/* Flags that the manual calls undefined are left as they were by some instructions (divisions, bit
 * tests, scans); these write all of them. */
static bool writes_undefined(ZydisMnemonic m)
{
	switch (m) {
	case ZYDIS_MNEMONIC_AND:
	case ZYDIS_MNEMONIC_OR:
	case ZYDIS_MNEMONIC_XOR:
	case ZYDIS_MNEMONIC_TEST:
	case ZYDIS_MNEMONIC_SHL:
	case ZYDIS_MNEMONIC_SHR:
	case ZYDIS_MNEMONIC_SAR:
	case ZYDIS_MNEMONIC_MUL:
	case ZYDIS_MNEMONIC_IMUL:
		return true;
	default:
		return false;
	}
}

static void find_flags(struct gi *g)
{
	const ZydisAccessedFlags *f = g->i.cpu_flags;
	u8 written;

	if (!f)
		return;
	g->use = g->tested = mask_of(f->tested);
	written = mask_of(f->modified | f->set_0 | f->set_1);
	if (g->i.mnemonic == ZYDIS_MNEMONIC_CMPXCHG8B || g->i.mnemonic == ZYDIS_MNEMONIC_CMPXCHG16B)
		written = BT_F_Z;
	else if (writes_undefined(g->i.mnemonic))
		written |= mask_of(f->undefined);
	g->mod = written | mask_of(f->undefined);
	if (may_skip_flags(g))
		g->use |= g->mod; /* what was there may come out again */
	else
		g->kill = written;
}

/* ---- classification ---- */

static void as_interp(struct gi *g)
{
	g->kind = GI_HELPER;
	g->helper = BT_H_INTERP;
	g->harg = g->i.mnemonic; /* for the statistics */
	g->use |= g->mod;        /* so that what it kills is live all the same, but isn't read */
}

static void as_ending(struct gi *g)
{
	as_interp(g);
	g->ends = true;
	g->use = BT_F_ALL; /* the flags may go into a frame */
	g->kill = 0;
}

void gi_set_helper(struct gi *g, unsigned h, u32 arg)
{
	g->kind = GI_HELPER;
	g->helper = (u8)h;
	g->harg = arg;
}

static bool near_target(struct gi *g)
{
	if (g->o[0].type != ZYDIS_OPERAND_TYPE_IMMEDIATE || !g->o[0].imm.is_relative)
		return false;
	if (g->i.operand_width == 16)
		return false; /* truncates the instruction pointer */
	g->target = (s32)g->off + g->len + (s32)g->o[0].imm.value.s;
	/* From the page's start it must not wrap. */
	return g->o[0].imm.value.s > -0x7fff0000ll && g->o[0].imm.value.s < 0x7fff0000ll;
}

static int condition(ZydisMnemonic m)
{
	switch (m) {
	case ZYDIS_MNEMONIC_JO:
		return 0;
	case ZYDIS_MNEMONIC_JNO:
		return 1;
	case ZYDIS_MNEMONIC_JB:
		return 2;
	case ZYDIS_MNEMONIC_JNB:
		return 3;
	case ZYDIS_MNEMONIC_JZ:
		return 4;
	case ZYDIS_MNEMONIC_JNZ:
		return 5;
	case ZYDIS_MNEMONIC_JBE:
		return 6;
	case ZYDIS_MNEMONIC_JNBE:
		return 7;
	case ZYDIS_MNEMONIC_JS:
		return 8;
	case ZYDIS_MNEMONIC_JNS:
		return 9;
	case ZYDIS_MNEMONIC_JP:
		return 10;
	case ZYDIS_MNEMONIC_JNP:
		return 11;
	case ZYDIS_MNEMONIC_JL:
		return 12;
	case ZYDIS_MNEMONIC_JNL:
		return 13;
	case ZYDIS_MNEMONIC_JLE:
		return 14;
	case ZYDIS_MNEMONIC_JNLE:
		return 15;
	default:
		return -1;
	}
}

static bool is_gpr_operand(const ZydisDecodedOperand *o, unsigned bits)
{
	return o->type == ZYDIS_OPERAND_TYPE_REGISTER && o->size == bits &&
	       reg_is_gpr(o->reg.value) && gpr_size(o->reg.value) >= 2;
}

/* Branches. true: classified. */
static bool classify_branch(struct xlate *x, struct gi *g)
{
	unsigned word = x->code64 ? 64 : 32;
	int cc = condition(g->i.mnemonic);
	bool released;

	if (cc >= 0) {
		g->kind = GI_JCC;
		g->arg = (u32)cc;
		if (!near_target(g))
			as_ending(g);
		return true;
	}
	switch (g->i.mnemonic) {
	case ZYDIS_MNEMONIC_JMP:
		g->ends = true;
		if (near_target(g))
			g->kind = GI_JMP;
		else if (g->i.meta.branch_type == ZYDIS_BRANCH_TYPE_NEAR && g->o[0].size == word &&
		         (is_gpr_operand(&g->o[0], word) ||
		          g->o[0].type == ZYDIS_OPERAND_TYPE_MEMORY))
			g->kind = GI_JMP_IND;
		else
			as_ending(g);
		return true;
	case ZYDIS_MNEMONIC_CALL:
		if (near_target(g))
			g->kind = GI_CALL;
		else if (g->i.meta.branch_type == ZYDIS_BRANCH_TYPE_NEAR && g->o[0].size == word &&
		         (is_gpr_operand(&g->o[0], word) ||
		          g->o[0].type == ZYDIS_OPERAND_TYPE_MEMORY))
			g->kind = GI_CALL_IND;
		else
			as_ending(g);
		return true;
	case ZYDIS_MNEMONIC_RET:
		g->ends = true;
		released = g->o[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE;
		if (g->i.meta.branch_type != ZYDIS_BRANCH_TYPE_NEAR || g->i.operand_width != word ||
		    (released && x->code64)) { /* back_to_source() wants to undo it */
			as_ending(g);
			return true;
		}
		g->kind = GI_RET;
		g->arg = released ? (u16)g->o[0].imm.value.u : 0;
		return true;
	case ZYDIS_MNEMONIC_JRCXZ:
	case ZYDIS_MNEMONIC_JECXZ:
	case ZYDIS_MNEMONIC_LOOP:
		g->kind = GI_JRCXZ;
		g->arg = g->i.mnemonic == ZYDIS_MNEMONIC_LOOP;
		if (g->i.address_width != word || !near_target(g))
			as_ending(g);
		return true;
	case ZYDIS_MNEMONIC_JCXZ:
	case ZYDIS_MNEMONIC_LOOPE:
	case ZYDIS_MNEMONIC_LOOPNE:
		as_ending(g);
		return true;
	default:
		return false;
	}
}

static bool classify_stack(struct xlate *x, struct gi *g)
{
	unsigned word = x->code64 ? 64 : 32;

	switch (g->i.mnemonic) {
	case ZYDIS_MNEMONIC_PUSH:
		if (g->i.operand_width != word ||
		    (g->o[0].type == ZYDIS_OPERAND_TYPE_REGISTER &&
		     !is_gpr_operand(&g->o[0], word)) ||
		    (g->o[0].type == ZYDIS_OPERAND_TYPE_MEMORY && g->o[0].size != word))
			as_interp(g);
		else
			g->kind = GI_PUSH;
		return true;
	case ZYDIS_MNEMONIC_POP:
		if (g->i.operand_width != word || !is_gpr_operand(&g->o[0], word))
			as_interp(g);
		else
			g->kind = GI_POP;
		return true;
	case ZYDIS_MNEMONIC_LEAVE:
		if (g->i.operand_width == word)
			g->kind = GI_LEAVE;
		else
			as_interp(g);
		return true;
	default:
		return false;
	}
}

static unsigned gpr_id(const ZydisDecodedOperand *o)
{
	return reg_number(o->reg.value);
}

/* Moves to and from control registers: reg | cr << 4. */
static bool classify_mov(struct gi *g)
{
	ZydisRegisterClass c0, c1;

	if (g->i.mnemonic != ZYDIS_MNEMONIC_MOV)
		return false;
	if (g->o[0].type != ZYDIS_OPERAND_TYPE_REGISTER &&
	    g->o[1].type != ZYDIS_OPERAND_TYPE_REGISTER)
		return false;
	c0 = g->o[0].type == ZYDIS_OPERAND_TYPE_REGISTER ? ZydisRegisterGetClass(g->o[0].reg.value)
	                                                 : ZYDIS_REGCLASS_INVALID;
	c1 = g->o[1].type == ZYDIS_OPERAND_TYPE_REGISTER ? ZydisRegisterGetClass(g->o[1].reg.value)
	                                                 : ZYDIS_REGCLASS_INVALID;
	if (c0 == ZYDIS_REGCLASS_CONTROL || c1 == ZYDIS_REGCLASS_CONTROL) {
		const ZydisDecodedOperand *cr = &g->o[c0 == ZYDIS_REGCLASS_CONTROL ? 0 : 1];
		const ZydisDecodedOperand *r = &g->o[c0 == ZYDIS_REGCLASS_CONTROL ? 1 : 0];
		u32 arg = gpr_id(r) | (u32)(cr->reg.value - ZYDIS_REGISTER_CR0) << 4;

		gi_set_helper(g, c0 == ZYDIS_REGCLASS_CONTROL ? BT_H_MOV_TO_CR : BT_H_MOV_FROM_CR,
		              arg);
		return true;
	}
	if (c0 == ZYDIS_REGCLASS_DEBUG || c1 == ZYDIS_REGCLASS_DEBUG) {
		const ZydisDecodedOperand *dr = &g->o[c0 == ZYDIS_REGCLASS_DEBUG ? 0 : 1];
		const ZydisDecodedOperand *r = &g->o[c0 == ZYDIS_REGCLASS_DEBUG ? 1 : 0];
		u32 arg = gpr_id(r) | (u32)(dr->reg.value - ZYDIS_REGISTER_DR0) << 4;

		gi_set_helper(g, c0 == ZYDIS_REGCLASS_DEBUG ? BT_H_MOV_TO_DR : BT_H_MOV_FROM_DR,
		              arg);
		return true;
	}
	if (c0 == ZYDIS_REGCLASS_SEGMENT || c1 == ZYDIS_REGCLASS_SEGMENT) {
		as_interp(g);
		if (c1 == ZYDIS_REGCLASS_SEGMENT && g->o[0].type == ZYDIS_OPERAND_TYPE_REGISTER) {
			g->kind = GI_FROM_SREG;
			g->arg = gpr_id(&g->o[0]) | (u32)(g->o[1].reg.value - ZYDIS_REGISTER_ES)
			                                    << 4;
		}
		return true;
	}
	return false;
}

static void port_io(struct gi *g, bool in)
{
	const ZydisDecodedOperand *data = &g->o[in ? 0 : 1], *port = &g->o[in ? 1 : 0];
	bool dx = port->type == ZYDIS_OPERAND_TYPE_REGISTER;

	gi_set_helper(g, in ? BT_H_IN : BT_H_OUT,
	              data->size / 8u | (u32)dx << 3 |
	                      (dx ? 0 : ((u32)port->imm.value.u & 0xff) << 4));
}

/* System instructions without operands that matter, by table. */
static const struct {
	bool is;
	u8 helper;
	u8 arg;
} plain[ZYDIS_MNEMONIC_MAX_VALUE + 1] = {
	[ZYDIS_MNEMONIC_CLI] = {true, BT_H_CLI, 0},
	[ZYDIS_MNEMONIC_STI] = {true, BT_H_STI, 0},
	[ZYDIS_MNEMONIC_HLT] = {true, BT_H_HLT, 0},
	[ZYDIS_MNEMONIC_SWAPGS] = {true, BT_H_SWAPGS, 0},
	[ZYDIS_MNEMONIC_CLTS] = {true, BT_H_CLTS, 0},
	[ZYDIS_MNEMONIC_CLD] = {true, BT_H_INTERP, 0},
	[ZYDIS_MNEMONIC_STD] = {true, BT_H_INTERP, 0},
	[ZYDIS_MNEMONIC_STAC] = {true, BT_H_STAC, 1},
	[ZYDIS_MNEMONIC_CLAC] = {true, BT_H_STAC, 0},
	[ZYDIS_MNEMONIC_RDMSR] = {true, BT_H_RDMSR, 0},
	[ZYDIS_MNEMONIC_WRMSR] = {true, BT_H_WRMSR, 0},
	[ZYDIS_MNEMONIC_CPUID] = {true, BT_H_CPUID, 0},
	[ZYDIS_MNEMONIC_RDTSC] = {true, BT_H_RDTSC, 0},
	[ZYDIS_MNEMONIC_RDTSCP] = {true, BT_H_RDTSCP, 0},
	[ZYDIS_MNEMONIC_RDPMC] = {true, BT_H_RDPMC, 0},
	[ZYDIS_MNEMONIC_XGETBV] = {true, BT_H_XGETBV, 0},
	[ZYDIS_MNEMONIC_PAUSE] = {true, BT_H_PAUSE, 0},
	[ZYDIS_MNEMONIC_VMCALL] = {true, BT_H_HYPERCALL, 0},
	[ZYDIS_MNEMONIC_VMMCALL] = {true, BT_H_HYPERCALL, 0},
};

/* Those that transfer control; flags go with them. */
static bool classify_transfer(struct gi *g)
{
	unsigned size = g->i.operand_width / 8u;

	switch (g->i.mnemonic) {
	case ZYDIS_MNEMONIC_SYSCALL:
		gi_set_helper(g, BT_H_SYSCALL, 0);
		break;
	case ZYDIS_MNEMONIC_SYSRET:
		gi_set_helper(g, BT_H_SYSRET, size);
		break;
	case ZYDIS_MNEMONIC_SYSENTER:
		gi_set_helper(g, BT_H_SYSENTER, 0);
		break;
	case ZYDIS_MNEMONIC_SYSEXIT:
		gi_set_helper(g, BT_H_SYSEXIT, size);
		break;
	case ZYDIS_MNEMONIC_IRET:
	case ZYDIS_MNEMONIC_IRETD:
	case ZYDIS_MNEMONIC_IRETQ:
		gi_set_helper(g, BT_H_IRET, size);
		break;
	case ZYDIS_MNEMONIC_INT:
		gi_set_helper(g, BT_H_INT, (u32)g->o[0].imm.value.u & 0xff);
		break;
	case ZYDIS_MNEMONIC_INT3:
		gi_set_helper(g, BT_H_INT, X86_BP | 1 << 8);
		break;
	case ZYDIS_MNEMONIC_INT1:
		gi_set_helper(g, BT_H_INT, X86_DB | 3 << 8);
		break;
	case ZYDIS_MNEMONIC_UD0:
	case ZYDIS_MNEMONIC_UD1:
	case ZYDIS_MNEMONIC_UD2:
		gi_set_helper(g, BT_H_UD, 0);
		break;
	default:
		return false;
	}
	g->ends = true;
	g->use = BT_F_ALL;
	g->kill = 0;
	return true;
}

/* Frequent ones that code does in place (emit_sys.c). */
static void without_call(const struct xlate *x, struct gi *g)
{
	switch (g->i.mnemonic) {
	case ZYDIS_MNEMONIC_CLD:
	case ZYDIS_MNEMONIC_STD:
		g->kind = GI_DF;
		g->arg = g->i.mnemonic == ZYDIS_MNEMONIC_STD;
		return;
	case ZYDIS_MNEMONIC_RDTSC:
	case ZYDIS_MNEMONIC_RDTSCP:
		if (!x->c->inputs) /* which the helper records */
			g->kind = GI_RDTSC;
		return;
	default:
		break;
	}
	if (x->user)
		return;
	switch (g->helper) {
	case BT_H_CLI:
		g->kind = GI_CLI;
		break;
	case BT_H_STI:
		g->kind = GI_STI;
		break;
	case BT_H_SWAPGS:
		g->kind = GI_SWAPGS;
		break;
	case BT_H_STAC:
		/* Only where the mode says that access is closed, or open, does it change. */
		if (g->harg == !(x->mode & BTM_AC)) {
			g->kind = GI_STAC;
			g->target = (s32)g->off + g->len;
		} else if (!g->harg) {
			g->kind = GI_CLOSED;
		}
		break;
	default:
		break;
	}
}

static bool classify_system(struct xlate *x, struct gi *g)
{
	unsigned size = g->i.operand_width / 8u;

	if (plain[g->i.mnemonic].is) {
		gi_set_helper(g, plain[g->i.mnemonic].helper, plain[g->i.mnemonic].arg);
		if (g->helper == BT_H_INTERP)
			g->harg = g->i.mnemonic;
		g->kill = 0;
		if (x->code64)
			without_call(x, g);
		return true;
	}
	switch (g->i.mnemonic) {
	case ZYDIS_MNEMONIC_PUSHF:
	case ZYDIS_MNEMONIC_PUSHFD:
	case ZYDIS_MNEMONIC_PUSHFQ:
		gi_set_helper(g, BT_H_PUSHF, size);
		g->use = g->tested = BT_F_ALL;
		/* Lockstep wants a boundary there, to take over dead flags. */
		if (x->code64 && !x->user && size == 8 && !x->c->inputs) {
			g->kind = GI_PUSHF;
			g->tested = 0; /* see seen_reads() */
		}
		return true;
	case ZYDIS_MNEMONIC_POPF:
	case ZYDIS_MNEMONIC_POPFD:
	case ZYDIS_MNEMONIC_POPFQ:
		gi_set_helper(g, BT_H_POPF, size);
		g->use = 0;
		g->kill = BT_F_ALL;
		return true;
	case ZYDIS_MNEMONIC_IN:
	case ZYDIS_MNEMONIC_OUT:
		port_io(g, g->i.mnemonic == ZYDIS_MNEMONIC_IN);
		return true;
	case ZYDIS_MNEMONIC_INVLPG:
		if (g->i.address_width != 64 || !x->code64 ||
		    g->o[0].mem.segment == ZYDIS_REGISTER_FS ||
		    g->o[0].mem.segment == ZYDIS_REGISTER_GS ||
		    g->o[0].mem.base == ZYDIS_REGISTER_EIP)
			return false;
		gi_set_helper(g, BT_H_INVLPG, 0);
		return true;
	case ZYDIS_MNEMONIC_RDFSBASE:
	case ZYDIS_MNEMONIC_RDGSBASE:
	case ZYDIS_MNEMONIC_WRFSBASE:
	case ZYDIS_MNEMONIC_WRGSBASE: {
		bool gs = g->i.mnemonic == ZYDIS_MNEMONIC_RDGSBASE ||
		          g->i.mnemonic == ZYDIS_MNEMONIC_WRGSBASE;
		bool rd = g->i.mnemonic == ZYDIS_MNEMONIC_RDFSBASE ||
		          g->i.mnemonic == ZYDIS_MNEMONIC_RDGSBASE;

		gi_set_helper(g, rd ? BT_H_RDFSGSBASE : BT_H_WRFSGSBASE,
		              gpr_id(&g->o[0]) | (u32)gs << 4 | (u32)(g->o[0].size == 64) << 5);
		if (x->code64)
			g->kind = GI_BASE;
		return true;
	}
	default:
		return classify_transfer(g);
	}
}

/* The explicit memory operand. false: more than one, or of a kind for interp. */
static bool find_memory(struct xlate *x, struct gi *g)
{
	/* Their access to the stack is theirs to know. */
	bool stack = g->kind == GI_PUSH || g->kind == GI_CALL_IND;

	g->mem = -1;
	for (unsigned k = 0; k < g->i.operand_count; k++) {
		const ZydisDecodedOperand *o = &g->o[k];

		if (o->type != ZYDIS_OPERAND_TYPE_MEMORY || o->mem.type == ZYDIS_MEMOP_TYPE_AGEN)
			continue;
		if (stack && o->visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN)
			continue;
		if (o->visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN || g->mem >= 0 ||
		    o->mem.type != ZYDIS_MEMOP_TYPE_MEM || !o->size || o->size > 512)
			return false;
		g->mem = (s8)k;
		g->mem_size = (u8)(o->size / 8);
		g->mem_write = o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
		if (!x->code64 && o->mem.segment == ZYDIS_REGISTER_CS && g->mem_write)
			return false; /* #GP */
		if (g->i.address_width == 16 || o->mem.base == ZYDIS_REGISTER_EIP)
			return false;
	}
	return true;
}

/* Registers without a home that an instruction names as operands: as many as there are scratch
 * registers left. */
static bool homeless_ok(const struct gi *g)
{
	bool high8 = false, elsewhere = false;
	u32 seen = 0;

	for (unsigned k = 0; k < g->i.operand_count; k++) {
		const ZydisDecodedOperand *o = &g->o[k];
		ZydisRegisterClass cls;
		unsigned r;

		if (o->type != ZYDIS_OPERAND_TYPE_REGISTER)
			continue;
		cls = ZydisRegisterGetClass(o->reg.value);
		if (cls != ZYDIS_REGCLASS_GPR8 && cls != ZYDIS_REGCLASS_GPR16 &&
		    cls != ZYDIS_REGCLASS_GPR32 && cls != ZYDIS_REGCLASS_GPR64)
			continue;
		if (reg_is_high8(o->reg.value)) {
			high8 = true;
			elsewhere |= o->encoding != ZYDIS_OPERAND_ENCODING_MODRM_REG;
		}
		r = gpr_id(o);
		if (r < 16 && bt_home(r) < 0)
			seen |= BIT(r);
	}
	/* AH..BH exclude REX, which every memory operand here and every scratch register needs: see
	 * emit_copy(). */
	if (high8 && (seen || (elsewhere && g->mem >= 0)))
		return false;
	return (unsigned)__builtin_popcount(seen) <= (g->mem >= 0 ? 1u : 2u);
}

static bool available(const struct xlate *x, const struct gi *g)
{
	switch ((enum insn_kind)g->info.cls) {
	case INSN_X87:
	case INSN_MMX:
	case INSN_SSE:
		return x->mode & BTM_FPU;
	case INSN_AVX:
		return x->mode & BTM_AVX;
	case INSN_XSAVE:
		return false;
	default:
		return true;
	}
}

/* Is what a string instruction reads in a segment without base or limit? */
static bool flat_source(const struct gi *g)
{
	ZydisRegister s = g->o[1].mem.segment;

	return s != ZYDIS_REGISTER_FS && s != ZYDIS_REGISTER_GS && s != ZYDIS_REGISTER_CS;
}

/* F2 in front of MOVS, STOS and LODS is not defined, and a repetition to processors. */
static bool has_repne(const ZydisDecodedInstruction *i)
{
	for (unsigned k = 0; k < i->raw.prefix_count; k++)
		if (i->raw.prefixes[k].value == 0xf2)
			return true;
	return false;
}

/* MOVS and STOS, with REP or of one element; LODS of one. */
static bool classify_string(const struct xlate *x, struct gi *g)
{
	const ZydisDecodedInstruction *i = &g->i;
	bool rep = i->attributes & ZYDIS_ATTRIB_HAS_REP;
	unsigned size = g->o[0].size;

	if (i->meta.category != ZYDIS_CATEGORY_STRINGOP ||
	    i->address_width != (x->code64 ? 64 : 32) || has_repne(i))
		return false;
	switch (i->mnemonic) {
	case ZYDIS_MNEMONIC_MOVSB:
	case ZYDIS_MNEMONIC_MOVSW:
	case ZYDIS_MNEMONIC_MOVSD:
	case ZYDIS_MNEMONIC_MOVSQ:
		if (!flat_source(g))
			return false;
		gi_set_helper(g, BT_H_MOVS, 0);
		break;
	case ZYDIS_MNEMONIC_STOSB:
	case ZYDIS_MNEMONIC_STOSW:
	case ZYDIS_MNEMONIC_STOSD:
	case ZYDIS_MNEMONIC_STOSQ:
		gi_set_helper(g, BT_H_STOS, 0);
		break;
	case ZYDIS_MNEMONIC_LODSB:
	case ZYDIS_MNEMONIC_LODSW:
	case ZYDIS_MNEMONIC_LODSD:
	case ZYDIS_MNEMONIC_LODSQ:
		if (rep || !flat_source(g))
			return false;
		break;
	default:
		return false;
	}
	if (!rep) {
		as_interp(g); /* for when it goes down */
		g->kind = GI_STRING;
		g->arg = (u32)__builtin_ctz(size / 8);
		return true;
	}
	g->harg = (u32)__builtin_ctz(size / 8) | (u32)i->mnemonic << 2;
	return true;
}

/* XSAVE64, XSAVEC64, XRSTOR64; with AVX all that they ask for is there. */
static bool classify_xstate(const struct xlate *x, struct gi *g)
{
	u32 arg = g->i.mnemonic;
	unsigned h;

	switch (g->i.mnemonic) {
	case ZYDIS_MNEMONIC_XSAVE64:
		h = BT_H_XSAVE;
		arg = arg << 1;
		break;
	case ZYDIS_MNEMONIC_XSAVEC64:
		h = BT_H_XSAVE;
		arg = arg << 1 | 1;
		break;
	case ZYDIS_MNEMONIC_XRSTOR64:
		h = BT_H_XRSTOR;
		break;
	default:
		return false;
	}
	if (!x->code64 || !(x->mode & BTM_AVX) || !g->info.special || g->i.address_width != 64 ||
	    g->o[0].mem.segment == ZYDIS_REGISTER_FS || g->o[0].mem.segment == ZYDIS_REGISTER_GS ||
	    g->o[0].mem.base == ZYDIS_REGISTER_EIP)
		return false;
	gi_set_helper(g, h, arg);
	return true;
}

/* The bit offset is a register's of 32 or 64 bits, and the address is one of 64. */
static bool is_bitstr(const struct xlate *x, const struct gi *g)
{
	return g->info.bitstr && x->code64 && g->i.address_width == 64 &&
	       (g->i.operand_width == 32 || g->i.operand_width == 64) &&
	       is_gpr_operand(&g->o[1], g->i.operand_width);
}

static void classify(struct xlate *x, struct gi *g)
{
	bool known;

	g->mem = -1;
	g->inner = -1;
	find_flags(g);
	if (classify_branch(x, g)) {
		if ((g->kind == GI_JMP_IND || g->kind == GI_CALL_IND) && !find_memory(x, g))
			as_ending(g);
		return;
	}
	if (classify_stack(x, g)) {
		if (g->kind == GI_PUSH && !find_memory(x, g))
			as_interp(g);
		return;
	}
	if (classify_mov(g) || classify_system(x, g))
		return;
	if (g->i.mnemonic == ZYDIS_MNEMONIC_LEA) {
		if (g->i.address_width == 16 || g->i.operand_width == 16 ||
		    g->o[1].mem.base == ZYDIS_REGISTER_EIP)
			as_interp(g);
		else
			g->kind = GI_LEA;
		return;
	}
	if (unlikely(x->c->inputs) &&
	    (g->i.mnemonic == ZYDIS_MNEMONIC_RDRAND || g->i.mnemonic == ZYDIS_MNEMONIC_RDSEED)) {
		as_interp(g); /* which records them */
		return;
	}
	if (classify_string(x, g))
		return;
	known = bt_insn_info(&g->info, x->feat, &g->i, g->o);
	if (classify_xstate(x, g))
		return;
	if (known && is_bitstr(x, g) && find_memory(x, g)) {
		g->kind = GI_BITS;
		return;
	}
	if (known && g->i.mnemonic == ZYDIS_MNEMONIC_MULX && x->code64 && find_memory(x, g) &&
	    !homeless_ok(g)) {
		g->kind = GI_MULX;
		return;
	}
	if (!known || g->info.special || g->info.bitstr || !available(x, g) || !find_memory(x, g) ||
	    !homeless_ok(g)) {
		if (g->info.nop) {
			g->kind = GI_NOP;
			return;
		}
		as_interp(g);
		return;
	}
	g->kind = GI_COPY;
}

/* ---- decoding ---- */

/* ZydisDecoderDecodeFull() clears room for ten operands each time; what is asked about without
 * looking at their number are the first ones. */
static ZyanStatus decode_full(const ZydisDecoder *d, const u8 *buf, unsigned have, struct gi *g)
{
	ZydisDecoderContext ctx;
	ZyanStatus st = ZydisDecoderDecodeInstruction(d, &ctx, buf, have, &g->i);

	if (!ZYAN_SUCCESS(st))
		return st;
	for (unsigned k = g->i.operand_count; k < 3; k++)
		memset(&g->o[k], 0, sizeof(g->o[k]));
	return ZydisDecoderDecodeOperands(d, &ctx, &g->i, g->o, g->i.operand_count);
}

unsigned gi_decode(struct xlate *x, const u8 *code, const u8 *next, unsigned off, u8 *buf,
                   struct gi *g)
{
	unsigned have = (unsigned)PAGE_SIZE - off;
	enum bt_shape_found found;
	ZyanStatus st;

	if (likely(have >= 16)) { /* as a whole: it is loaded from soon */
		memcpy(buf, code + off, 16);
		have = 15;
	} else {
		memcpy(buf, code + off, have);
		if (next) {
			memcpy(buf + have, next, 15 - have);
			have = 15;
		}
	}
	found = bt_shape_find(x, buf, have, g);
	if (found != SHAPE_CLASSIFIED) {
		memset((u8 *)g + offsetof(struct gi, info), 0,
		       sizeof(*g) - offsetof(struct gi, info));
		g->inner = g->mem = -1;
	}
	g->off = (u16)off;
	if (found == SHAPE_UNKNOWN) {
		st = decode_full(&x->bt->decoder[x->code64], buf, have, g);
		if (st == ZYDIS_STATUS_NO_MORE_DATA && have < 15)
			return 0;
		if (!ZYAN_SUCCESS(st)) {
			g->len = 1;
			as_ending(g);
			return 1;
		}
		insn_sib_without_base(&g->i, g->o);
	}
	g->len = g->i.length;
	if (found != SHAPE_CLASSIFIED)
		classify(x, g);
	if (found == SHAPE_UNKNOWN)
		bt_shape_keep(x, buf, g);
	return g->len;
}
