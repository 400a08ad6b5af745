// SPDX-License-Identifier: MIT
/* From bytes to ops. Zydis says what the instruction is; this file picks a handler and fills
 * in the operands. Anything innocuous without a handler goes to native_get(), anything that
 * neither knows is #UD: no instruction runs by default.
 *
 * The bytes of a block are copied first and the copy is decoded, since another vCPU may be
 * writing them; the copy also serves to keep a block when its page was written but not its bytes.
 */
#include "engine/insn/insn.h"
#include "engine/interp/native.h"
#include "engine/interp/op.h"

#include <string.h>
#include <Zydis/Zydis.h>

struct dec {
	struct interp *in;
	struct x86_cpu *c;
	u32 mode;
	unsigned bits; /* 16, 32, 64 */
	ZydisDecoder zd;
	ZydisDecodedInstruction i;
	ZydisDecodedOperand o[ZYDIS_MAX_OPERAND_COUNT];
	const u8 *bytes;
	struct op *op;
	bool bad; /* no instruction */
};

/* ---- operands ---- */

/* Byte offset of a general register in c->gpr; AH..BH are the second byte. */
static u8 reg_off(ZydisRegister r)
{
	if (r >= ZYDIS_REGISTER_AH && r <= ZYDIS_REGISTER_BH)
		return (u8)((r - ZYDIS_REGISTER_AH) * 8 + 1);
	switch (ZydisRegisterGetClass(r)) {
	case ZYDIS_REGCLASS_GPR8:
	case ZYDIS_REGCLASS_GPR16:
	case ZYDIS_REGCLASS_GPR32:
	case ZYDIS_REGCLASS_GPR64:
		return GPR_OFF(ZydisRegisterGetId(
			ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, r)));
	default:
		return GPR_OFF(REG_ZERO);
	}
}

static enum x86_segreg seg_of(ZydisRegister r)
{
	switch (r) {
	case ZYDIS_REGISTER_ES:
		return ES;
	case ZYDIS_REGISTER_CS:
		return CS;
	case ZYDIS_REGISTER_SS:
		return SS;
	case ZYDIS_REGISTER_FS:
		return FS;
	case ZYDIS_REGISTER_GS:
		return GS;
	default:
		return DS;
	}
}

static unsigned log2_size(unsigned bytes)
{
	return (unsigned)__builtin_ctz(bytes);
}

static bool is_reg(const ZydisDecodedOperand *o)
{
	return o->type == ZYDIS_OPERAND_TYPE_REGISTER;
}
static bool is_mem(const ZydisDecodedOperand *o)
{
	return o->type == ZYDIS_OPERAND_TYPE_MEMORY;
}
static bool is_imm(const ZydisDecodedOperand *o)
{
	return o->type == ZYDIS_OPERAND_TYPE_IMMEDIATE;
}

/* Segment and address-size treatment of a memory operand. */
static void set_seg(struct dec *d, ZydisRegister seg)
{
	struct op *op = d->op;

	op->seg = (u8)seg_of(seg);
	if (d->bits == 64) {
		if (d->i.address_width == 32)
			op->ea = EA_ADDR32;
		return;
	}
	op->ea = d->i.address_width == 32 ? EA_ADDR32 : EA_ADDR16;
	if (!(d->mode & M_FLAT) || op->seg >= FS || op->seg == CS)
		op->ea |= EA_SEG; /* CS: not writable */
}

/* false: a 64-bit offset (moffs) fits nowhere, imm is in use. */
static bool set_mem(struct dec *d, const ZydisDecodedOperand *o)
{
	struct op *op = d->op;
	s64 disp = o->mem.disp.has_displacement ? o->mem.disp.value : 0;

	op->index = o->mem.index ? reg_off(o->mem.index) : GPR_OFF(REG_ZERO);
	op->scale = o->mem.scale ? (u8)log2_size(o->mem.scale) : 0;
	set_seg(d, o->mem.segment);
	if (o->mem.base == ZYDIS_REGISTER_RIP || o->mem.base == ZYDIS_REGISTER_EIP) {
		/* At the very end of the range the distance from the block doesn't fit `disp`. */
		if (disp + op->off + op->len > INT32_MAX)
			op->ea |= EA_FAR_IP;
		else
			disp += op->off + op->len;
		op->base = GPR_OFF(REG_IP);
	} else {
		op->base = o->mem.base ? reg_off(o->mem.base) : GPR_OFF(REG_ZERO);
	}
	op->disp = (s32)disp;
	if (op->disp != disp) {
		if (op->imm || op->native)
			return false;
		op->ea |= EA_MOFFS;
		op->disp = 0;
		op->imm = (u64)disp;
	}
	return true;
}

static unsigned opsize(const struct dec *d)
{
	return d->i.operand_width / 8u;
}

static bool has_lock(const struct dec *d)
{
	return d->i.attributes & ZYDIS_ATTRIB_HAS_LOCK;
}

/* Immediates of 32 bits are sign-extended to a 64-bit operand, whatever their notation. */
static u64 imm_of(const struct dec *d, const ZydisDecodedOperand *o)
{
	if (d->i.operand_width == 64 && d->i.raw.imm[0].size == 32)
		return (u64)(s64)(s32)o->imm.value.u;
	return o->imm.is_signed ? (u64)o->imm.value.s : o->imm.value.u;
}

/* ---- groups; each returns the handler or NULL for "run it natively" ---- */

static op_fn *bin_op(struct dec *d, op_fn *const tab[NR_FORM][4])
{
	const ZydisDecodedOperand *a = &d->o[0], *b = &d->o[1];
	unsigned z = log2_size(a->size / 8u);

	if (has_lock(d))
		return NULL;
	if (is_imm(b))
		d->op->imm = imm_of(d, b);
	if (is_reg(a)) {
		d->op->dst = reg_off(a->reg.value);
		if (is_imm(b))
			return tab[F_RI][z];
		if (is_reg(b)) {
			d->op->src = reg_off(b->reg.value);
			return tab[F_RR][z];
		}
		return set_mem(d, b) ? tab[F_RM][z] : NULL;
	}
	if (is_reg(b))
		d->op->src = reg_off(b->reg.value);
	if (!set_mem(d, a)) {
		d->op->imm = 0;
		return NULL;
	}
	return is_imm(b) ? tab[F_MI][z] : tab[F_MR][z];
}

static op_fn *alu(struct dec *d, enum alu_op what)
{
	/* TEST r/m, r is symmetric: Zydis may give the memory operand on either side */
	if (what == ALU_TEST && is_mem(&d->o[1])) {
		ZydisDecodedOperand t = d->o[0];

		d->o[0] = d->o[1];
		d->o[1] = t;
	}
	return bin_op(d, ops_alu[what]);
}

static op_fn *un(struct dec *d, enum un_op what)
{
	unsigned z = log2_size(d->o[0].size / 8u);

	if (has_lock(d))
		return NULL;
	if (is_reg(&d->o[0])) {
		d->op->dst = reg_off(d->o[0].reg.value);
		return ops_un[what][0][z];
	}
	return set_mem(d, &d->o[0]) ? ops_un[what][1][z] : NULL;
}

static op_fn *shift(struct dec *d, enum sh_op what)
{
	unsigned z = log2_size(d->o[0].size / 8u);
	bool cl = is_reg(&d->o[1]);

	if (!cl) {
		/* OF is undefined (SDM 2B RCL/RCR/ROL/ROR), and there are processors that give it
		 * another value by immediate than by CL: it is the host's, for all engines. */
		if ((what == SH_ROL || what == SH_ROR || what == SH_RCL || what == SH_RCR) &&
		    (d->o[1].imm.value.u & (d->o[0].size == 64 ? 63 : 31)) > 1)
			return NULL;
		d->op->imm = d->o[1].imm.value.u;
	}
	if (is_reg(&d->o[0])) {
		d->op->dst = reg_off(d->o[0].reg.value);
		return ops_sh[what][0][cl][z];
	}
	return set_mem(d, &d->o[0]) ? ops_sh[what][1][cl][z] : NULL;
}

static op_fn *movx(struct dec *d, bool sign)
{
	unsigned dz = log2_size(d->o[0].size / 16u), sz = log2_size(d->o[1].size / 8u);

	d->op->dst = reg_off(d->o[0].reg.value);
	if (is_reg(&d->o[1])) {
		d->op->src = reg_off(d->o[1].reg.value);
		return ops_movzx[sign][0][dz][sz];
	}
	return set_mem(d, &d->o[1]) ? ops_movzx[sign][1][dz][sz] : NULL;
}

static op_fn *imul(struct dec *d)
{
	unsigned z;

	if (d->i.operand_count_visible == 1)
		return NULL;
	z = log2_size(d->o[0].size / 16u);
	d->op->dst = reg_off(d->o[0].reg.value);
	if (d->i.operand_count_visible == 3) {
		d->op->imm = (u64)d->o[2].imm.value.s;
		if (is_reg(&d->o[1])) {
			d->op->src = reg_off(d->o[1].reg.value);
			return ops_imul3[0][z];
		}
		return set_mem(d, &d->o[1]) ? ops_imul3[1][z] : NULL;
	}
	if (is_reg(&d->o[1])) {
		d->op->src = reg_off(d->o[1].reg.value);
		return ops_imul[0][z];
	}
	return set_mem(d, &d->o[1]) ? ops_imul[1][z] : NULL;
}

static op_fn *cmov(struct dec *d, unsigned cc)
{
	unsigned z = log2_size(d->o[0].size / 16u);

	d->op->dst = reg_off(d->o[0].reg.value);
	if (is_reg(&d->o[1])) {
		d->op->src = reg_off(d->o[1].reg.value);
		return ops_cmov[cc][0][z];
	}
	return set_mem(d, &d->o[1]) ? ops_cmov[cc][1][z] : NULL;
}

static op_fn *setcc(struct dec *d, unsigned cc)
{
	if (is_reg(&d->o[0])) {
		d->op->dst = reg_off(d->o[0].reg.value);
		return ops_setcc[cc][0];
	}
	return set_mem(d, &d->o[0]) ? ops_setcc[cc][1] : NULL;
}

static op_fn *bit_test(struct dec *d, enum bt_op what)
{
	bool imm = is_imm(&d->o[1]);

	if (imm)
		d->op->imm = d->o[1].imm.value.u;
	else
		d->op->src = reg_off(d->o[1].reg.value);
	if (is_reg(&d->o[0])) {
		d->op->dst = reg_off(d->o[0].reg.value);
		return ops_bt_r[what][imm][log2_size(d->o[0].size / 16u)];
	}
	if (!set_mem(d, &d->o[0]))
		return NULL;
	d->op->size = (u8)(d->o[0].size / 8u);
	d->op->aux = (u8)(what | (imm ? 4 : 0) | (has_lock(d) ? 8 : 0));
	return op_bt_mem;
}

static void str_common(struct dec *d, unsigned n)
{
	struct op *op = d->op;

	op->size = (u8)n;
	op->aux = d->i.attributes & ZYDIS_ATTRIB_HAS_REPNE                           ? STR_REPNE
	          : d->i.attributes & (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE) ? STR_REP
	                                                                             : 0;
	if (d->i.address_width == 32)
		op->aux |= STR_A32;
	if (d->i.address_width == 16)
		op->aux |= STR_A16;
	op->seg = DS;
	for (unsigned k = 0; k < d->i.operand_count; k++)
		if (is_mem(&d->o[k]) && d->o[k].mem.base != ZYDIS_REGISTER_DI &&
		    d->o[k].mem.base != ZYDIS_REGISTER_EDI &&
		    d->o[k].mem.base != ZYDIS_REGISTER_RDI)
			op->seg = (u8)seg_of(d->o[k].mem.segment);
	/* F2 and F3 before MOVS, STOS, LODS, INS, OUTS both mean REP. */
	for (unsigned k = 0; k < d->i.raw.prefix_count; k++)
		if (d->i.raw.prefixes[k].value == 0xf2 && !(op->aux & (STR_REP | STR_REPNE)))
			op->aux |= STR_REPNE;
		else if (d->i.raw.prefixes[k].value == 0xf3 && !(op->aux & (STR_REP | STR_REPNE)))
			op->aux |= STR_REP;
}

static op_fn *str(struct dec *d, enum str_op what, unsigned n)
{
	str_common(d, n);
	return ops_str[what][log2_size(n)];
}

static op_fn *push(struct dec *d)
{
	const ZydisDecodedOperand *o = &d->o[0];
	unsigned n = opsize(d);
	struct op *op = d->op;

	op->size = (u8)n;
	op->seg = SS;
	if (is_reg(o) && ZydisRegisterGetClass(o->reg.value) == ZYDIS_REGCLASS_SEGMENT) {
		op->aux = (u8)seg_of(o->reg.value);
		return op_push_sreg;
	}
	if (is_reg(o)) {
		op->src = reg_off(o->reg.value);
		return n == 8 ? op_push64_r : op_push_gen;
	}
	if (is_imm(o)) {
		op->imm = imm_of(d, o);
		op->aux = 1;
		return n == 8 ? op_push64_i : op_push_gen;
	}
	op->aux = 2;
	set_mem(d, o);
	return op_push_gen;
}

static op_fn *pop(struct dec *d, bool *end)
{
	const ZydisDecodedOperand *o = &d->o[0];
	unsigned n = opsize(d);
	struct op *op = d->op;

	op->size = (u8)n;
	op->seg = SS;
	if (is_reg(o) && ZydisRegisterGetClass(o->reg.value) == ZYDIS_REGCLASS_SEGMENT) {
		op->aux = (u8)seg_of(o->reg.value);
		*end = true;
		return op_pop_sreg;
	}
	if (is_reg(o)) {
		op->dst = reg_off(o->reg.value);
		return n == 8 ? op_pop64_r : op_pop_gen;
	}
	op->aux = 2;
	set_mem(d, o);
	return op_pop_gen;
}

static op_fn *mov(struct dec *d, bool *end)
{
	const ZydisDecodedOperand *a = &d->o[0], *b = &d->o[1];
	ZydisRegisterClass ca =
		is_reg(a) ? ZydisRegisterGetClass(a->reg.value) : ZYDIS_REGCLASS_INVALID;
	ZydisRegisterClass cb =
		is_reg(b) ? ZydisRegisterGetClass(b->reg.value) : ZYDIS_REGCLASS_INVALID;
	struct op *op = d->op;

	if (ca == ZYDIS_REGCLASS_CONTROL || ca == ZYDIS_REGCLASS_DEBUG) {
		*end = true;
		op->imm = (u64)ZydisRegisterGetId(a->reg.value);
		op->src = reg_off(b->reg.value);
		op->aux = ca == ZYDIS_REGCLASS_CONTROL ? SYS_MOV_TO_CR : SYS_MOV_TO_DR;
		return op_sys;
	}
	if (cb == ZYDIS_REGCLASS_CONTROL || cb == ZYDIS_REGCLASS_DEBUG) {
		*end = true;
		op->imm = (u64)ZydisRegisterGetId(b->reg.value);
		op->dst = reg_off(a->reg.value);
		op->aux = cb == ZYDIS_REGCLASS_CONTROL ? SYS_MOV_FROM_CR : SYS_MOV_FROM_DR;
		return op_sys;
	}
	if (ca == ZYDIS_REGCLASS_SEGMENT) {
		*end = true;
		op->aux = (u8)seg_of(a->reg.value);
		if (op->aux == CS)
			return op_ud;
		if (is_reg(b)) {
			op->src = reg_off(b->reg.value);
			op->size = 2;
		} else {
			set_mem(d, b);
		}
		return op_mov_sreg;
	}
	if (cb == ZYDIS_REGCLASS_SEGMENT) {
		op->aux = (u8)seg_of(b->reg.value);
		if (is_reg(a)) {
			op->dst = reg_off(a->reg.value);
			op->size = (u8)opsize(d);
		} else {
			set_mem(d, a);
		}
		return op_mov_from_sreg;
	}
	return bin_op(d, ops_mov);
}

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
		set_mem(d, o);
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
		set_mem(d, o);
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
		set_mem(d, o);
	}
	return op_sys;
}

/* One operand in memory; size stays the operand size. */
static op_fn *sys_mem(struct dec *d, enum sys_op what, unsigned which)
{
	d->op->aux = (u8)what;
	d->op->size = (u8)opsize(d);
	set_mem(d, &d->o[which]);
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

static op_fn *io(struct dec *d, bool in)
{
	const ZydisDecodedOperand *port = &d->o[in ? 1 : 0], *acc = &d->o[in ? 0 : 1];

	d->op->size = (u8)(acc->size / 8u);
	if (is_imm(port))
		d->op->imm = port->imm.value.u;
	else
		d->op->aux = 1;
	return in ? op_in : op_out;
}

static op_fn *convert(struct dec *d, unsigned n, bool dx)
{
	d->op->size = (u8)n;
	d->op->aux = dx;
	return op_convert;
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
	set_mem(d, &d->o[1]);
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

static op_fn *opcode_aux(struct dec *d, op_fn *fn)
{
	d->op->aux = d->i.opcode;
	return fn;
}

static op_fn *sized(struct dec *d, op_fn *fn)
{
	d->op->size = (u8)opsize(d);
	d->op->seg = SS;
	return fn;
}

static op_fn *xchg(struct dec *d)
{
	if (!is_reg(&d->o[0]) || !is_reg(&d->o[1]))
		return NULL;
	d->op->dst = reg_off(d->o[0].reg.value);
	d->op->src = reg_off(d->o[1].reg.value);
	return ops_xchg_rr[log2_size(d->o[0].size / 8u)];
}

static op_fn *xlat(struct dec *d)
{
	for (unsigned k = 0; k < d->i.operand_count; k++)
		if (is_mem(&d->o[k]))
			set_seg(d, d->o[k].mem.segment);
	return op_xlat;
}

static op_fn *lea(struct dec *d)
{
	d->op->dst = reg_off(d->o[0].reg.value);
	if (!set_mem(d, &d->o[1]))
		return op_ud;
	d->op->ea &= (u8)~EA_SEG;
	return ops_lea[log2_size(d->o[0].size / 16u)];
}

static op_fn *enter(struct dec *d)
{
	d->op->size = (u8)opsize(d);
	d->op->imm = (d->o[0].imm.value.u & 0xffff) | d->o[1].imm.value.u << 16;
	return op_enter;
}

static op_fn *bound(struct dec *d)
{
	d->op->size = (u8)opsize(d);
	d->op->dst = reg_off(d->o[0].reg.value);
	set_mem(d, &d->o[1]);
	return op_bound;
}

static op_fn *bcd(struct dec *d)
{
	d->op->aux = d->i.opcode;
	d->op->imm = d->i.operand_count_visible ? d->o[0].imm.value.u & 0xff : 0;
	return op_bcd;
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

static bool host_has(u32 leaf, u32 sub, unsigned reg, unsigned bit, struct dec *d)
{
	u32 r[4];

	x86_cpuid_leaf(d->c, leaf, sub, r);
	return r[reg] >> bit & 1;
}

static bool is_string(const struct dec *d)
{
	return d->i.meta.category == ZYDIS_CATEGORY_STRINGOP;
}

/* Control transfer and system instructions: all end a block. NULL: not one of them. */
static op_fn *pick_ending(struct dec *d)
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
		return host_has(7, 0, 1, 23, d) ? sys_mem(d, SYS_CLFLUSH, 0) : op_ud;
	case ZYDIS_MNEMONIC_CLWB:
		return host_has(7, 0, 1, 24, d) ? sys_mem(d, SYS_CLFLUSH, 0) : op_ud;
	case ZYDIS_MNEMONIC_RDPID:
		if (!host_has(7, 0, 2, 22, d))
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

/* Innocuous instructions with a handler of their own. */
static op_fn *pick_plain(struct dec *d, bool *end)
{
	unsigned n = d->i.operand_count_visible ? d->o[0].size / 8u : 0;

	switch (d->i.mnemonic) {
	case ZYDIS_MNEMONIC_MOV:
		return mov(d, end);
	case ZYDIS_MNEMONIC_ADD:
		return alu(d, ALU_ADD);
	case ZYDIS_MNEMONIC_OR:
		return alu(d, ALU_OR);
	case ZYDIS_MNEMONIC_ADC:
		return alu(d, ALU_ADC);
	case ZYDIS_MNEMONIC_SBB:
		return alu(d, ALU_SBB);
	case ZYDIS_MNEMONIC_AND:
		return alu(d, ALU_AND);
	case ZYDIS_MNEMONIC_SUB:
		return alu(d, ALU_SUB);
	case ZYDIS_MNEMONIC_XOR:
		return alu(d, ALU_XOR);
	case ZYDIS_MNEMONIC_CMP:
		return alu(d, ALU_CMP);
	case ZYDIS_MNEMONIC_TEST:
		return alu(d, ALU_TEST);
	case ZYDIS_MNEMONIC_INC:
		return un(d, UN_INC);
	case ZYDIS_MNEMONIC_DEC:
		return un(d, UN_DEC);
	case ZYDIS_MNEMONIC_NOT:
		return un(d, UN_NOT);
	case ZYDIS_MNEMONIC_NEG:
		return un(d, UN_NEG);
	case ZYDIS_MNEMONIC_ROL:
		return shift(d, SH_ROL);
	case ZYDIS_MNEMONIC_ROR:
		return shift(d, SH_ROR);
	case ZYDIS_MNEMONIC_RCL:
		return shift(d, SH_RCL);
	case ZYDIS_MNEMONIC_RCR:
		return shift(d, SH_RCR);
	case ZYDIS_MNEMONIC_SHL:
		return shift(d, SH_SHL);
	case ZYDIS_MNEMONIC_SHR:
		return shift(d, SH_SHR);
	case ZYDIS_MNEMONIC_SAR:
		return shift(d, SH_SAR);
	case ZYDIS_MNEMONIC_MOVZX:
		return movx(d, false);
	case ZYDIS_MNEMONIC_MOVSX:
	case ZYDIS_MNEMONIC_MOVSXD:
		return d->o[0].size == d->o[1].size ? bin_op(d, ops_mov) : movx(d, true);
	case ZYDIS_MNEMONIC_LEA:
		return lea(d);
	case ZYDIS_MNEMONIC_IMUL:
		return imul(d);
	case ZYDIS_MNEMONIC_XCHG:
		return xchg(d);
	case ZYDIS_MNEMONIC_PUSH:
		return push(d);
	case ZYDIS_MNEMONIC_POP:
		return pop(d, end);
	case ZYDIS_MNEMONIC_PUSHA:
	case ZYDIS_MNEMONIC_PUSHAD:
		return sized(d, op_pusha);
	case ZYDIS_MNEMONIC_POPA:
	case ZYDIS_MNEMONIC_POPAD:
		return sized(d, op_popa);
	case ZYDIS_MNEMONIC_PUSHF:
	case ZYDIS_MNEMONIC_PUSHFD:
	case ZYDIS_MNEMONIC_PUSHFQ:
		return sized(d, op_pushf);
	case ZYDIS_MNEMONIC_ENTER:
		return enter(d);
	case ZYDIS_MNEMONIC_LEAVE:
		return sized(d, d->bits == 64 && opsize(d) == 8 ? op_leave64 : op_leave);
	case ZYDIS_MNEMONIC_BT:
		return bit_test(d, BT_BT);
	case ZYDIS_MNEMONIC_BTS:
		return bit_test(d, BT_BTS);
	case ZYDIS_MNEMONIC_BTR:
		return bit_test(d, BT_BTR);
	case ZYDIS_MNEMONIC_BTC:
		return bit_test(d, BT_BTC);
	case ZYDIS_MNEMONIC_BSWAP:
		d->op->dst = reg_off(d->o[0].reg.value);
		return n == 8 ? op_bswap8 : n == 4 ? op_bswap4 : op_bswap2;
	case ZYDIS_MNEMONIC_CBW:
		return convert(d, 2, false);
	case ZYDIS_MNEMONIC_CWDE:
		return convert(d, 4, false);
	case ZYDIS_MNEMONIC_CDQE:
		return convert(d, 8, false);
	case ZYDIS_MNEMONIC_CWD:
		return convert(d, 2, true);
	case ZYDIS_MNEMONIC_CDQ:
		return convert(d, 4, true);
	case ZYDIS_MNEMONIC_CQO:
		return convert(d, 8, true);
	case ZYDIS_MNEMONIC_CLC:
	case ZYDIS_MNEMONIC_STC:
	case ZYDIS_MNEMONIC_CMC:
	case ZYDIS_MNEMONIC_CLD:
	case ZYDIS_MNEMONIC_STD:
		return opcode_aux(d, op_flag);
	case ZYDIS_MNEMONIC_LAHF:
		return op_lahf;
	case ZYDIS_MNEMONIC_SAHF:
		return op_sahf;
	case ZYDIS_MNEMONIC_SALC:
		return op_salc;
	case ZYDIS_MNEMONIC_XLAT:
		return xlat(d);
	case ZYDIS_MNEMONIC_DAA:
	case ZYDIS_MNEMONIC_DAS:
	case ZYDIS_MNEMONIC_AAA:
	case ZYDIS_MNEMONIC_AAS:
	case ZYDIS_MNEMONIC_AAM:
	case ZYDIS_MNEMONIC_AAD:
		return bcd(d);
	case ZYDIS_MNEMONIC_BOUND:
		return bound(d);
	case ZYDIS_MNEMONIC_IN:
		return io(d, true);
	case ZYDIS_MNEMONIC_OUT:
		return io(d, false);
	case ZYDIS_MNEMONIC_NOP:
	case ZYDIS_MNEMONIC_ENDBR32:
	case ZYDIS_MNEMONIC_ENDBR64:
	case ZYDIS_MNEMONIC_PREFETCH:
	case ZYDIS_MNEMONIC_PREFETCHNTA:
	case ZYDIS_MNEMONIC_PREFETCHT0:
	case ZYDIS_MNEMONIC_PREFETCHT1:
	case ZYDIS_MNEMONIC_PREFETCHT2:
	case ZYDIS_MNEMONIC_PREFETCHW:
		return op_nop;
	case ZYDIS_MNEMONIC_CMOVO:
		return cmov(d, 0);
	case ZYDIS_MNEMONIC_CMOVNO:
		return cmov(d, 1);
	case ZYDIS_MNEMONIC_CMOVB:
		return cmov(d, 2);
	case ZYDIS_MNEMONIC_CMOVNB:
		return cmov(d, 3);
	case ZYDIS_MNEMONIC_CMOVZ:
		return cmov(d, 4);
	case ZYDIS_MNEMONIC_CMOVNZ:
		return cmov(d, 5);
	case ZYDIS_MNEMONIC_CMOVBE:
		return cmov(d, 6);
	case ZYDIS_MNEMONIC_CMOVNBE:
		return cmov(d, 7);
	case ZYDIS_MNEMONIC_CMOVS:
		return cmov(d, 8);
	case ZYDIS_MNEMONIC_CMOVNS:
		return cmov(d, 9);
	case ZYDIS_MNEMONIC_CMOVP:
		return cmov(d, 10);
	case ZYDIS_MNEMONIC_CMOVNP:
		return cmov(d, 11);
	case ZYDIS_MNEMONIC_CMOVL:
		return cmov(d, 12);
	case ZYDIS_MNEMONIC_CMOVNL:
		return cmov(d, 13);
	case ZYDIS_MNEMONIC_CMOVLE:
		return cmov(d, 14);
	case ZYDIS_MNEMONIC_CMOVNLE:
		return cmov(d, 15);
	case ZYDIS_MNEMONIC_SETO:
		return setcc(d, 0);
	case ZYDIS_MNEMONIC_SETNO:
		return setcc(d, 1);
	case ZYDIS_MNEMONIC_SETB:
		return setcc(d, 2);
	case ZYDIS_MNEMONIC_SETNB:
		return setcc(d, 3);
	case ZYDIS_MNEMONIC_SETZ:
		return setcc(d, 4);
	case ZYDIS_MNEMONIC_SETNZ:
		return setcc(d, 5);
	case ZYDIS_MNEMONIC_SETBE:
		return setcc(d, 6);
	case ZYDIS_MNEMONIC_SETNBE:
		return setcc(d, 7);
	case ZYDIS_MNEMONIC_SETS:
		return setcc(d, 8);
	case ZYDIS_MNEMONIC_SETNS:
		return setcc(d, 9);
	case ZYDIS_MNEMONIC_SETP:
		return setcc(d, 10);
	case ZYDIS_MNEMONIC_SETNP:
		return setcc(d, 11);
	case ZYDIS_MNEMONIC_SETL:
		return setcc(d, 12);
	case ZYDIS_MNEMONIC_SETNL:
		return setcc(d, 13);
	case ZYDIS_MNEMONIC_SETLE:
		return setcc(d, 14);
	case ZYDIS_MNEMONIC_SETNLE:
		return setcc(d, 15);
	case ZYDIS_MNEMONIC_MOVSB:
		return str(d, STR_MOVS, 1);
	case ZYDIS_MNEMONIC_MOVSW:
		return str(d, STR_MOVS, 2);
	case ZYDIS_MNEMONIC_MOVSD:
		return is_string(d) ? str(d, STR_MOVS, 4) : NULL;
	case ZYDIS_MNEMONIC_MOVSQ:
		return str(d, STR_MOVS, 8);
	case ZYDIS_MNEMONIC_STOSB:
		return str(d, STR_STOS, 1);
	case ZYDIS_MNEMONIC_STOSW:
		return str(d, STR_STOS, 2);
	case ZYDIS_MNEMONIC_STOSD:
		return str(d, STR_STOS, 4);
	case ZYDIS_MNEMONIC_STOSQ:
		return str(d, STR_STOS, 8);
	case ZYDIS_MNEMONIC_LODSB:
		return str(d, STR_LODS, 1);
	case ZYDIS_MNEMONIC_LODSW:
		return str(d, STR_LODS, 2);
	case ZYDIS_MNEMONIC_LODSD:
		return str(d, STR_LODS, 4);
	case ZYDIS_MNEMONIC_LODSQ:
		return str(d, STR_LODS, 8);
	case ZYDIS_MNEMONIC_SCASB:
		return str(d, STR_SCAS, 1);
	case ZYDIS_MNEMONIC_SCASW:
		return str(d, STR_SCAS, 2);
	case ZYDIS_MNEMONIC_SCASD:
		return str(d, STR_SCAS, 4);
	case ZYDIS_MNEMONIC_SCASQ:
		return str(d, STR_SCAS, 8);
	case ZYDIS_MNEMONIC_CMPSB:
		return str(d, STR_CMPS, 1);
	case ZYDIS_MNEMONIC_CMPSW:
		return str(d, STR_CMPS, 2);
	case ZYDIS_MNEMONIC_CMPSD:
		return is_string(d) ? str(d, STR_CMPS, 4) : NULL;
	case ZYDIS_MNEMONIC_CMPSQ:
		return str(d, STR_CMPS, 8);
	case ZYDIS_MNEMONIC_INSB:
		str_common(d, 1);
		return op_ins;
	case ZYDIS_MNEMONIC_INSW:
		str_common(d, 2);
		return op_ins;
	case ZYDIS_MNEMONIC_INSD:
		str_common(d, 4);
		return op_ins;
	case ZYDIS_MNEMONIC_OUTSB:
		str_common(d, 1);
		return op_outs;
	case ZYDIS_MNEMONIC_OUTSW:
		str_common(d, 2);
		return op_outs;
	case ZYDIS_MNEMONIC_OUTSD:
		str_common(d, 4);
		return op_outs;
	default:
		return NULL;
	}
}

static bool is_masked(const struct dec *d)
{
	switch (d->i.mnemonic) {
	case ZYDIS_MNEMONIC_VMASKMOVPS:
	case ZYDIS_MNEMONIC_VMASKMOVPD:
	case ZYDIS_MNEMONIC_VPMASKMOVD:
	case ZYDIS_MNEMONIC_VPMASKMOVQ:
		return true;
	default:
		return false;
	}
}

static op_fn *run_natively(struct dec *d)
{
	struct op *op = d->op;

	op->native = native_get(d->in->native, &d->i, d->o, d->bytes);
	if (!op->native)
		return op_ud;
	if (unlikely(d->c->inputs) &&
	    (d->i.mnemonic == ZYDIS_MNEMONIC_RDRAND || d->i.mnemonic == ZYDIS_MNEMONIC_RDSEED)) {
		op->dst = reg_off(d->o[0].reg.value);
		return op_native_random;
	}
	for (unsigned k = 0; k < d->i.operand_count; k++)
		if (is_mem(&d->o[k]) && d->o[k].mem.type != ZYDIS_MEMOP_TYPE_AGEN &&
		    (d->o[k].visibility == ZYDIS_OPERAND_VISIBILITY_EXPLICIT) && op->native->size) {
			if (!set_mem(d, &d->o[k]))
				return op_ud;
			return is_masked(d) ? op_native_masked : op_native_mem;
		}
	return op_native;
}

/* Fill *op. true: the block ends here. */
static bool pick(struct dec *d)
{
	struct op *op = d->op;
	bool end = false;

	op->base = op->index = GPR_OFF(REG_ZERO);
	op->seg = DS;
	op->fn = pick_ending(d);
	if (op->fn)
		return true;
	op->fn = pick_plain(d, &end);
	if (!op->fn) {
		op->imm = 0;
		op->ea = 0;
		op->fn = run_natively(d);
	}
	return end || op->fn == op_ud;
}

/* ---- blocks ---- */

static void dec_init(struct dec *d, struct interp *in, struct x86_cpu *c, u32 mode)
{
	static const struct {
		ZydisMachineMode mode;
		ZydisStackWidth stack;
	} modes[] = {
		{ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_STACK_WIDTH_16},
		{ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32},
		{ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64},
		{ZYDIS_MACHINE_MODE_REAL_16, ZYDIS_STACK_WIDTH_16},
	};
	unsigned k = mode & M_CS64 ? 2 : mode & M_CS32 ? 1 : mode & M_PE ? 0 : 3;

	d->in = in;
	d->c = c;
	d->mode = mode;
	d->bad = false;
	d->bits = mode & M_CS64 ? 64 : mode & M_CS32 ? 32 : 16;
	ZydisDecoderInit(&d->zd, modes[k].mode, modes[k].stack);
	ZydisDecoderEnableMode(&d->zd, ZYDIS_DECODER_MODE_MPX, ZYAN_FALSE);
	ZydisDecoderEnableMode(&d->zd, ZYDIS_DECODER_MODE_CET, ZYAN_FALSE);
	ZydisDecoderEnableMode(&d->zd, ZYDIS_DECODER_MODE_CLDEMOTE, ZYAN_FALSE);
	ZydisDecoderEnableMode(&d->zd, ZYDIS_DECODER_MODE_WBNOINVD, ZYAN_FALSE);
	ZydisDecoderEnableMode(&d->zd, ZYDIS_DECODER_MODE_LZCNT,
	                       host_has(0x80000001, 0, 2, 5, d) ? ZYAN_TRUE : ZYAN_FALSE);
	ZydisDecoderEnableMode(&d->zd, ZYDIS_DECODER_MODE_TZCNT,
	                       host_has(7, 0, 1, 3, d) ? ZYAN_TRUE : ZYAN_FALSE);
}

/* Decode at bytes[off]. The instruction's length; 0: not enough bytes. op is filled, `*end` set. */
static unsigned decode_one(struct dec *d, const u8 *bytes, unsigned len, unsigned off,
                           struct op *op, bool *end)
{
	ZyanStatus st;

	*op = (struct op){.off = (u16)off};
	d->op = op;
	d->bytes = bytes + off;
	st = ZydisDecoderDecodeFull(&d->zd, bytes + off, len - off, &d->i, d->o);
	if (st == ZYDIS_STATUS_NO_MORE_DATA && len - off < 15)
		return 0;
	*end = true;
	op->base = op->index = GPR_OFF(REG_ZERO);
	op->len = 1;
	d->bad = !ZYAN_SUCCESS(st);
	if (d->bad) {
		op->fn = st == ZYDIS_STATUS_INSTRUCTION_TOO_LONG || st == ZYDIS_STATUS_NO_MORE_DATA
		                 ? op_gp0
		                 : op_ud;
		return 1;
	}
	op->len = d->i.length;
	insn_sib_without_base(&d->i, d->o);
	*end = pick(d);
	return op->len;
}

void interp_flush_blocks(struct interp *in)
{
	for (unsigned i = 0; i < ARRAY_SIZE(in->hash); i++)
		in->hash[i] = NULL;
	for (unsigned i = 0; i < ARRAY_SIZE(in->jc); i++)
		in->jc[i] = (struct jc_entry){.lin = ~0ull};
	in->arena_used = 0;
	in->cur = NULL;
}

static void trace_block(struct x86_cpu *c, const struct block *b, u64 lin, const struct dec *d)
{
	ZydisFormatter f;
	const struct trace *t = &c->vcpu->vm->trace;

	ZydisFormatterInit(&f, ZYDIS_FORMATTER_STYLE_INTEL);
	trace_msg(t, "in_asm vcpu%u mode %#x gpa %#llx:", c->vcpu->index, b->mode,
	          (unsigned long long)b->gpa);
	for (unsigned off = 0; off < b->len;) {
		ZydisDecodedInstruction i;
		ZydisDecodedOperand o[ZYDIS_MAX_OPERAND_COUNT];
		char text[128];

		if (!ZYAN_SUCCESS(
			    ZydisDecoderDecodeFull(&d->zd, b->code + off, b->len - off, &i, o)))
			break;
		ZydisFormatterFormatInstruction(&f, &i, o, i.operand_count_visible, text,
		                                sizeof(text), lin + off, NULL);
		trace_msg(t, "  %#018llx: %s", (unsigned long long)(lin + off), text);
		off += i.length;
	}
}

static struct block *build(struct interp *in, struct x86_cpu *c, u32 mode,
                           const struct itlb_entry *e, u64 lin)
{
	const size_t worst = sizeof(struct block) + (BLOCK_MAX_OPS + 1) * sizeof(struct op) +
	                     BLOCK_MAX_BYTES + 64;
	u8 bytes[BLOCK_MAX_BYTES + 16];
	unsigned page_off = (unsigned)(lin & ~PAGE_MASK);
	unsigned room = (unsigned)PAGE_SIZE - page_off;
	unsigned have = MIN(room, (unsigned)BLOCK_MAX_BYTES), len = 0, n = 0;
	unsigned max_ops = mode & MODE_ONE ? 1 : BLOCK_MAX_OPS;
	u32 generation = native_generation(in->native);
	struct block *b;
	struct dec d;
	bool end = false;

	if (in->arena_used + worst > in->arena_size)
		interp_flush_blocks(in);
	b = (struct block *)(void *)(in->arena + in->arena_used);
	*b = (struct block){.gpa = e->gpa | page_off, .mode = mode, .page_ver = e->code_ver};
	b->ver = pmap_code_mark(c->pmap, e->code_ver);
	memcpy(bytes, e->hva + page_off, have);
	dec_init(&d, in, c, mode);
	while (n < max_ops && !end) {
		unsigned l = decode_one(&d, bytes, have, len, &b->ops[n], &end);

		if (!l)
			break;
		len += l;
		n++;
	}
	if (!n) {
		/* The first instruction reaches into the next page: its fetch may fault. */
		const struct itlb_entry *e2 = mmu_fetch(c, (lin & PAGE_MASK) + PAGE_SIZE);

		if (e2) {
			b->page2_ver = e2->code_ver;
			b->gpa2 = e2->gpa;
			b->ver2 = pmap_code_mark(c->pmap, e2->code_ver);
			memcpy(bytes + have, e2->hva, 15);
			have += 15;
		} else {
			memset(bytes + have, 0xff, 15); /* nothing there */
			have += 15;
			b->ver = BLOCK_DEAD; /* no version says when there will be */
		}
		len = decode_one(&d, bytes, have, 0, &b->ops[0], &end);
		n = 1;
	}
	if (native_generation(in->native) != generation)
		return NULL; /* handlers of this block went away: the cache was flushed */
	if (!end) {
		b->ops[n] = (struct op){.fn = op_end, .off = (u16)len};
	}
	b->nr_ops = (u16)n;
	b->len = (u16)len;
	b->seen = (u16)(d.bad ? MIN(b->ops[n - 1].off + 15u, have) : len);
	b->code = (u8 *)&b->ops[n + 1];
	memcpy((u8 *)&b->ops[n + 1], bytes, b->seen);
	in->arena_used += ALIGN_UP(sizeof(*b) + (n + 1) * sizeof(struct op) + b->seen, (size_t)64);
	if (trace_on(&c->vcpu->vm->trace, TRACE_IN_ASM))
		trace_block(c, b, lin, &d);
	return b;
}

struct block *block_decode(struct interp *in, struct x86_cpu *c, u32 mode,
                           const struct itlb_entry *e, u64 lin)
{
	u64 begin = exit_begin(&c->vcpu->stats);
	struct itlb_entry at = *e; /* build() may refill the slot */
	struct block *b;

	x86_fpu_put(c);
	do
		b = build(in, c, mode, &at, lin);
	while (!b);
	exit_end(&c->vcpu->stats, EXIT_DECODE, begin);
	return b;
}
