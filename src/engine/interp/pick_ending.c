// SPDX-License-Identifier: MIT
/* Handlers of control transfers and system instructions. */
#include "engine/interp/decode.h"

/* Near branches. Targets are kept relative to the block's first byte. */
static u64 rel_target(const struct dec *d)
{
	return (u64)d->o[0].imm.value.s + d->op->off + d->op->len;
}

static op_fn *near_branch(struct dec *d, bool call)
{
	const ZydisDecodedOperand *o = &d->o[0];
	struct op *op = d->op;

	op->size = (u8)opsize(d);
	op->seg = SS; /* of a CALL's push */
	if (is_imm(o)) {
		op->imm = rel_target(d);
		if (d->bits == 64)
			return call ? op_call64 : op_jmp;
		op->aux = 0;
	} else if (is_reg(o)) {
		op->dst = reg_off(o->reg.value);
		op->aux = 1;
		if (d->bits == 64)
			return call ? op_call_ind : op_jmp_ind;
	} else {
		dec_set_mem(d, o);
		op->aux = 2;
		if (d->bits == 64) {
			op->size = 0;
			return call ? op_call_ind : op_jmp_ind;
		}
	}
	return call ? op_call_gen : op_jmp_gen;
}

static op_fn *branch(struct dec *d, bool call)
{
	const ZydisDecodedOperand *o = &d->o[0];
	struct op *op = d->op;

	if (d->i.meta.branch_type != ZYDIS_BRANCH_TYPE_FAR)
		return near_branch(d, call);
	op->size = (u8)opsize(d);
	if (o->type == ZYDIS_OPERAND_TYPE_POINTER) {
		op->imm = (u64)o->ptr.segment << 48 | o->ptr.offset;
	} else {
		op->aux = 1;
		dec_set_mem(d, o);
	}
	return call ? op_call_far : op_jmp_far;
}

static op_fn *jcc(struct dec *d, unsigned cc)
{
	d->op->imm = rel_target(d);
	d->op->size = (u8)opsize(d);
	d->op->aux = (u8)cc;
	d->op->scale = (u8)(d->i.address_width / 8u);
	return d->bits == 64 && cc < 16 ? ops_jcc[cc] : op_jcc_gen;
}

static op_fn *ret(struct dec *d)
{
	d->op->size = (u8)opsize(d);
	d->op->imm = d->i.operand_count_visible ? d->o[0].imm.value.u : 0;
	d->op->seg = SS;
	if (d->i.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR)
		return op_retf;
	return d->bits == 64 ? op_ret64 : op_ret_gen;
}

static op_fn *sys(struct dec *d, enum sys_op what)
{
	struct op *op = d->op;

	op->aux = (u8)what;
	op->size = (u8)opsize(d);
	return op_sys;
}

/* One operand of 16 bits to read, or to store: size 0 means memory. */
static op_fn *sys_rm(struct dec *d, enum sys_op what, unsigned which, bool store)
{
	struct op *op = d->op;
	const ZydisDecodedOperand *o = &d->o[which];

	op->aux = (u8)what;
	if (is_reg(o)) {
		op->size = (u8)opsize(d);
		if (store)
			op->dst = reg_off(o->reg.value);
		else
			op->src = reg_off(o->reg.value);
	} else {
		op->size = 0;
		dec_set_mem(d, o);
	}
	return op_sys;
}

/* One operand in memory; size stays the operand size. */
static op_fn *sys_mem(struct dec *d, enum sys_op what, unsigned which)
{
	d->op->aux = (u8)what;
	d->op->size = (u8)opsize(d);
	dec_set_mem(d, &d->o[which]);
	return op_sys;
}

static op_fn *lar_lsl(struct dec *d, enum sys_op what)
{
	op_fn *fn = sys_rm(d, what, 1, false);
	u8 width = (u8)opsize(d);

	d->op->dst = reg_off(d->o[0].reg.value);
	d->op->imm = width;
	return fn;
}

static op_fn *soft_int(struct dec *d, u8 vector, unsigned kind)
{
	d->op->imm = vector;
	d->op->aux = (u8)kind;
	return op_int;
}

static op_fn *load_far(struct dec *d, enum x86_segreg s)
{
	d->op->aux = (u8)s;
	d->op->size = (u8)opsize(d);
	d->op->dst = reg_off(d->o[0].reg.value);
	dec_set_mem(d, &d->o[1]);
	return op_load_far;
}

static op_fn *fsgsbase(struct dec *d, enum x86_segreg s, bool write)
{
	d->op->aux = write ? SYS_WRFSBASE : SYS_RDFSBASE;
	d->op->imm = s;
	d->op->size = (u8)(d->o[0].size / 8u);
	d->op->src = d->op->dst = reg_off(d->o[0].reg.value);
	return op_sys;
}

static op_fn *arpl(struct dec *d)
{
	sys_rm(d, SYS_ARPL, 0, false);
	d->op->dst = reg_off(d->o[1].reg.value);
	return op_sys;
}

static op_fn *invpcid(struct dec *d)
{
	sys_mem(d, SYS_INVPCID, 1);
	d->op->dst = reg_off(d->o[0].reg.value);
	return op_sys;
}

op_fn *dec_pick_ending(struct dec *d)
{
	switch (d->i.mnemonic) {
	case ZYDIS_MNEMONIC_JMP:
		return branch(d, false);
	case ZYDIS_MNEMONIC_CALL:
		return branch(d, true);
	case ZYDIS_MNEMONIC_RET:
		return ret(d);
	case ZYDIS_MNEMONIC_JO:
		return jcc(d, 0);
	case ZYDIS_MNEMONIC_JNO:
		return jcc(d, 1);
	case ZYDIS_MNEMONIC_JB:
		return jcc(d, 2);
	case ZYDIS_MNEMONIC_JNB:
		return jcc(d, 3);
	case ZYDIS_MNEMONIC_JZ:
		return jcc(d, 4);
	case ZYDIS_MNEMONIC_JNZ:
		return jcc(d, 5);
	case ZYDIS_MNEMONIC_JBE:
		return jcc(d, 6);
	case ZYDIS_MNEMONIC_JNBE:
		return jcc(d, 7);
	case ZYDIS_MNEMONIC_JS:
		return jcc(d, 8);
	case ZYDIS_MNEMONIC_JNS:
		return jcc(d, 9);
	case ZYDIS_MNEMONIC_JP:
		return jcc(d, 10);
	case ZYDIS_MNEMONIC_JNP:
		return jcc(d, 11);
	case ZYDIS_MNEMONIC_JL:
		return jcc(d, 12);
	case ZYDIS_MNEMONIC_JNL:
		return jcc(d, 13);
	case ZYDIS_MNEMONIC_JLE:
		return jcc(d, 14);
	case ZYDIS_MNEMONIC_JNLE:
		return jcc(d, 15);
	case ZYDIS_MNEMONIC_LOOPNE:
		return jcc(d, 16);
	case ZYDIS_MNEMONIC_LOOPE:
		return jcc(d, 17);
	case ZYDIS_MNEMONIC_LOOP:
		return jcc(d, 18);
	case ZYDIS_MNEMONIC_JCXZ:
	case ZYDIS_MNEMONIC_JECXZ:
	case ZYDIS_MNEMONIC_JRCXZ:
		return jcc(d, 19);
	case ZYDIS_MNEMONIC_IRET:
	case ZYDIS_MNEMONIC_IRETD:
	case ZYDIS_MNEMONIC_IRETQ:
		return sized(d, op_iret);
	case ZYDIS_MNEMONIC_INT:
		return soft_int(d, (u8)d->o[0].imm.value.u, 0);
	case ZYDIS_MNEMONIC_INT3:
		return soft_int(d, X86_BP, 1);
	case ZYDIS_MNEMONIC_INTO:
		return soft_int(d, X86_OF, 2);
	case ZYDIS_MNEMONIC_INT1:
		return soft_int(d, X86_DB, 3);
	case ZYDIS_MNEMONIC_POPF:
	case ZYDIS_MNEMONIC_POPFD:
	case ZYDIS_MNEMONIC_POPFQ:
		return sized(d, op_popf);
	case ZYDIS_MNEMONIC_LDS:
		return load_far(d, DS);
	case ZYDIS_MNEMONIC_LES:
		return load_far(d, ES);
	case ZYDIS_MNEMONIC_LSS:
		return load_far(d, SS);
	case ZYDIS_MNEMONIC_LFS:
		return load_far(d, FS);
	case ZYDIS_MNEMONIC_LGS:
		return load_far(d, GS);
	case ZYDIS_MNEMONIC_CLI:
		return sys(d, SYS_CLI);
	case ZYDIS_MNEMONIC_STI:
		return sys(d, SYS_STI);
	case ZYDIS_MNEMONIC_HLT:
		return sys(d, SYS_HLT);
	case ZYDIS_MNEMONIC_SYSCALL:
		return sys(d, SYS_SYSCALL);
	case ZYDIS_MNEMONIC_SYSRET:
		sys(d, SYS_SYSRET);
		d->op->size = d->i.raw.rex.W ? 8 : 4;
		return op_sys;
	case ZYDIS_MNEMONIC_SYSENTER:
		return sys(d, SYS_SYSENTER);
	case ZYDIS_MNEMONIC_SYSEXIT:
		sys(d, SYS_SYSEXIT);
		d->op->size = d->i.raw.rex.W ? 8 : 4;
		return op_sys;
	case ZYDIS_MNEMONIC_CPUID:
		return sys(d, SYS_CPUID);
	case ZYDIS_MNEMONIC_RDTSC:
		return sys(d, SYS_RDTSC);
	case ZYDIS_MNEMONIC_RDTSCP:
		return sys(d, SYS_RDTSCP);
	case ZYDIS_MNEMONIC_RDPMC:
		return sys(d, SYS_RDPMC);
	case ZYDIS_MNEMONIC_RDMSR:
		return sys(d, SYS_RDMSR);
	case ZYDIS_MNEMONIC_WRMSR:
		return sys(d, SYS_WRMSR);
	case ZYDIS_MNEMONIC_INVD:
		return sys(d, SYS_INVD);
	case ZYDIS_MNEMONIC_WBINVD:
		return sys(d, SYS_WBINVD);
	case ZYDIS_MNEMONIC_INVLPG:
		return sys_mem(d, SYS_INVLPG, 0);
	case ZYDIS_MNEMONIC_INVPCID:
		return invpcid(d);
	case ZYDIS_MNEMONIC_LGDT:
		return sys_mem(d, SYS_LGDT, 0);
	case ZYDIS_MNEMONIC_LIDT:
		return sys_mem(d, SYS_LIDT, 0);
	case ZYDIS_MNEMONIC_SGDT:
		return sys_mem(d, SYS_SGDT, 0);
	case ZYDIS_MNEMONIC_SIDT:
		return sys_mem(d, SYS_SIDT, 0);
	case ZYDIS_MNEMONIC_LLDT:
		return sys_rm(d, SYS_LLDT, 0, false);
	case ZYDIS_MNEMONIC_LTR:
		return sys_rm(d, SYS_LTR, 0, false);
	case ZYDIS_MNEMONIC_SLDT:
		return sys_rm(d, SYS_SLDT, 0, true);
	case ZYDIS_MNEMONIC_STR:
		return sys_rm(d, SYS_STR, 0, true);
	case ZYDIS_MNEMONIC_LMSW:
		return sys_rm(d, SYS_LMSW, 0, false);
	case ZYDIS_MNEMONIC_SMSW:
		return sys_rm(d, SYS_SMSW, 0, true);
	case ZYDIS_MNEMONIC_CLTS:
		return sys(d, SYS_CLTS);
	case ZYDIS_MNEMONIC_SWAPGS:
		return sys(d, SYS_SWAPGS);
	case ZYDIS_MNEMONIC_LAR:
		return lar_lsl(d, SYS_LAR);
	case ZYDIS_MNEMONIC_LSL:
		return lar_lsl(d, SYS_LSL);
	case ZYDIS_MNEMONIC_VERR:
		return sys_rm(d, SYS_VERR, 0, false);
	case ZYDIS_MNEMONIC_VERW:
		return sys_rm(d, SYS_VERW, 0, false);
	case ZYDIS_MNEMONIC_ARPL:
		return arpl(d);
	case ZYDIS_MNEMONIC_XGETBV:
		return sys(d, SYS_XGETBV);
	case ZYDIS_MNEMONIC_XSETBV:
		return sys(d, SYS_XSETBV);
	case ZYDIS_MNEMONIC_STAC:
		return sys(d, SYS_STAC);
	case ZYDIS_MNEMONIC_CLAC:
		return sys(d, SYS_CLAC);
	case ZYDIS_MNEMONIC_RDFSBASE:
		return fsgsbase(d, FS, false);
	case ZYDIS_MNEMONIC_RDGSBASE:
		return fsgsbase(d, GS, false);
	case ZYDIS_MNEMONIC_WRFSBASE:
		return fsgsbase(d, FS, true);
	case ZYDIS_MNEMONIC_WRGSBASE:
		return fsgsbase(d, GS, true);
	case ZYDIS_MNEMONIC_VMCALL:
	case ZYDIS_MNEMONIC_VMMCALL:
		return sys(d, SYS_HYPERCALL);
	case ZYDIS_MNEMONIC_PAUSE:
		return sys(d, SYS_PAUSE);
	case ZYDIS_MNEMONIC_CLFLUSH:
		return sys_mem(d, SYS_CLFLUSH, 0);
	case ZYDIS_MNEMONIC_CLFLUSHOPT:
		return dec_has(7, 0, 1, 23, d) ? sys_mem(d, SYS_CLFLUSH, 0) : op_ud;
	case ZYDIS_MNEMONIC_CLWB:
		return dec_has(7, 0, 1, 24, d) ? sys_mem(d, SYS_CLFLUSH, 0) : op_ud;
	case ZYDIS_MNEMONIC_RDPID:
		if (!dec_has(7, 0, 2, 22, d))
			return op_ud;
		sys(d, SYS_RDPID);
		d->op->dst = reg_off(d->o[0].reg.value);
		return op_sys;
	case ZYDIS_MNEMONIC_UD0:
	case ZYDIS_MNEMONIC_UD1:
	case ZYDIS_MNEMONIC_UD2:
	case ZYDIS_MNEMONIC_MONITOR:
	case ZYDIS_MNEMONIC_MWAIT:
		return op_ud;
	default:
		return NULL;
	}
}
