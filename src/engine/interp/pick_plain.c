// SPDX-License-Identifier: MIT
/* Handlers of innocuous instructions. Each group returns the handler, or NULL for "run it
 * natively". */
#include "engine/interp/decode.h"

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
		return dec_set_mem(d, b) ? tab[F_RM][z] : NULL;
	}
	if (is_reg(b))
		d->op->src = reg_off(b->reg.value);
	if (!dec_set_mem(d, a)) {
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
	return dec_set_mem(d, &d->o[0]) ? ops_un[what][1][z] : NULL;
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
	return dec_set_mem(d, &d->o[0]) ? ops_sh[what][1][cl][z] : NULL;
}

static op_fn *movx(struct dec *d, bool sign)
{
	unsigned dz = log2_size(d->o[0].size / 16u), sz = log2_size(d->o[1].size / 8u);

	d->op->dst = reg_off(d->o[0].reg.value);
	if (is_reg(&d->o[1])) {
		d->op->src = reg_off(d->o[1].reg.value);
		return ops_movzx[sign][0][dz][sz];
	}
	return dec_set_mem(d, &d->o[1]) ? ops_movzx[sign][1][dz][sz] : NULL;
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
		return dec_set_mem(d, &d->o[1]) ? ops_imul3[1][z] : NULL;
	}
	if (is_reg(&d->o[1])) {
		d->op->src = reg_off(d->o[1].reg.value);
		return ops_imul[0][z];
	}
	return dec_set_mem(d, &d->o[1]) ? ops_imul[1][z] : NULL;
}

static op_fn *cmov(struct dec *d, unsigned cc)
{
	unsigned z = log2_size(d->o[0].size / 16u);

	d->op->dst = reg_off(d->o[0].reg.value);
	if (is_reg(&d->o[1])) {
		d->op->src = reg_off(d->o[1].reg.value);
		return ops_cmov[cc][0][z];
	}
	return dec_set_mem(d, &d->o[1]) ? ops_cmov[cc][1][z] : NULL;
}

static op_fn *setcc(struct dec *d, unsigned cc)
{
	if (is_reg(&d->o[0])) {
		d->op->dst = reg_off(d->o[0].reg.value);
		return ops_setcc[cc][0];
	}
	return dec_set_mem(d, &d->o[0]) ? ops_setcc[cc][1] : NULL;
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
	if (!dec_set_mem(d, &d->o[0]))
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
	dec_set_mem(d, o);
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
	dec_set_mem(d, o);
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
			dec_set_mem(d, b);
		}
		return op_mov_sreg;
	}
	if (cb == ZYDIS_REGCLASS_SEGMENT) {
		op->aux = (u8)seg_of(b->reg.value);
		if (is_reg(a)) {
			op->dst = reg_off(a->reg.value);
			op->size = (u8)opsize(d);
		} else {
			dec_set_mem(d, a);
		}
		return op_mov_from_sreg;
	}
	return bin_op(d, ops_mov);
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

static op_fn *opcode_aux(struct dec *d, op_fn *fn)
{
	d->op->aux = d->i.opcode;
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
			dec_set_seg(d, d->o[k].mem.segment);
	return op_xlat;
}

static op_fn *lea(struct dec *d)
{
	d->op->dst = reg_off(d->o[0].reg.value);
	if (!dec_set_mem(d, &d->o[1]))
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
	dec_set_mem(d, &d->o[1]);
	return op_bound;
}

static op_fn *bcd(struct dec *d)
{
	d->op->aux = d->i.opcode;
	d->op->imm = d->i.operand_count_visible ? d->o[0].imm.value.u & 0xff : 0;
	return op_bcd;
}

static bool is_string(const struct dec *d)
{
	return d->i.meta.category == ZYDIS_CATEGORY_STRINGOP;
}

op_fn *dec_pick_plain(struct dec *d, bool *end)
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
