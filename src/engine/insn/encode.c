// SPDX-License-Identifier: MIT
/* The re-encoder (SDM 2A chapter 2). Register fields are made from the decoded operands, not from
 * the guest's bits, some of which are ignored in one mode and count in another. */
#include "engine/insn/encode.h"

#include <string.h>

#include "engine/insn/gpr.h"
#include "engine/insn/insn.h"

#define M64 ZYDIS_MACHINE_MODE_LONG_64

struct enc {
	const ZydisDecodedInstruction *insn;
	const ZydisDecodedOperand *ops;
	const u8 *bytes;
	const struct enc_map *map;
	bool code64, vex;
	bool fail;
	bool high8; /* an AH..BH operand: no REX prefix possible */
	bool rex8;  /* an SPL..DIL operand: REX needed */
	u8 opcode, reg, rm, vvvv, op_reg;
	u8 w;
	bool has_modrm, op_holds_reg;
	bool mem; /* the rm operand of the result is memory */
	u8 imm[8];
	unsigned nr_imm, guest_imm; /* replace_opcode() takes some away */
};

/* The field's value for a register operand. `raw`: as the guest encoded it. */
static u8 field_of(struct enc *e, const ZydisDecodedOperand *o, u8 raw)
{
	ZydisRegister r = o->reg.value;
	int host;

	if (!reg_is_gpr(r)) {
		switch (ZydisRegisterGetClass(r)) {
		case ZYDIS_REGCLASS_XMM:
		case ZYDIS_REGCLASS_YMM:
			return (u8)ZydisRegisterGetId(r);
		case ZYDIS_REGCLASS_MMX: /* their extension bits are ignored */
		case ZYDIS_REGCLASS_X87:
			return raw;
		default:
			e->fail = true;
			return 0;
		}
	}
	host = e->map->reg[gpr_number(r)];
	if (host < 0) {
		e->fail = true;
		return 0;
	}
	if (reg_is_high8(r)) {
		e->high8 = true;
		e->fail |= host > RBX;
		return (u8)(host + 4);
	}
	if (!gpr_size(r) && host >= RSP)
		e->rex8 = true;
	return (u8)host;
}

/* Length of what follows ModRM, SIB and displacement: immediates. */
static unsigned imm_bytes(const ZydisDecodedInstruction *insn)
{
	unsigned end;

	if (!(insn->attributes & ZYDIS_ATTRIB_HAS_MODRM))
		return (insn->raw.imm[0].size + insn->raw.imm[1].size) / 8u;
	end = insn->raw.modrm.offset + 1u;
	if (insn->attributes & ZYDIS_ATTRIB_HAS_SIB)
		end = insn->raw.sib.offset + 1u;
	end += insn->raw.disp.size / 8u;
	return insn->length - end;
}

static bool mandatory_prefix(const ZydisDecodedInstruction *insn, u8 value)
{
	for (unsigned i = 0; i < insn->raw.prefix_count; i++)
		if (insn->raw.prefixes[i].value == value &&
		    insn->raw.prefixes[i].type == ZYDIS_PREFIX_TYPE_MANDATORY)
			return true;
	return false;
}

/* Has the instruction 16-bit operands by its operand-size attribute? Vector and x87 instructions
 * use the prefix for other things or for nothing. */
static bool opsize16(const ZydisDecodedInstruction *insn)
{
	return insn->operand_width == 16 && insn_kind_of(insn) == INSN_INT && !insn_no_opsize(insn);
}

/* May memory take the place of this register operand? Sizes are compared by verify(). */
static bool rm_gs_ok(const struct enc *e, const ZydisDecodedOperand *o)
{
	if (e->map->mem != ENC_MEM_GS || !reg_is_gpr(o->reg.value) || reg_is_high8(o->reg.value))
		return false;
	if (e->insn->meta.category == ZYDIS_CATEGORY_BITBYTE &&
	    e->ops[0].encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM &&
	    e->ops[1].type == ZYDIS_OPERAND_TYPE_REGISTER)
		switch (e->insn->mnemonic) {
		case ZYDIS_MNEMONIC_BT:
		case ZYDIS_MNEMONIC_BTC:
		case ZYDIS_MNEMONIC_BTR:
		case ZYDIS_MNEMONIC_BTS:
			return false;
		default:
			break;
		}
	if (!(o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) || o->size != 32)
		return true;
	/* CMPXCHG: whether the upper half is cleared when nothing is stored is the processor's
	 * choice. */
	return e->map->rm_gs_low32 && e->insn->mnemonic != ZYDIS_MNEMONIC_CMPXCHG;
}

static void scan_register(struct enc *e, const ZydisDecodedOperand *o)
{
	switch (o->encoding) {
	case ZYDIS_OPERAND_ENCODING_MODRM_REG:
		e->reg = field_of(e, o, e->reg);
		break;
	case ZYDIS_OPERAND_ENCODING_MODRM_RM:
		if (e->map->rm_gs) {
			e->mem = true;
			e->fail |= !rm_gs_ok(e, o);
		} else {
			e->rm = field_of(e, o, e->rm);
		}
		break;
	case ZYDIS_OPERAND_ENCODING_NDSNDD:
		e->vvvv = field_of(e, o, e->vvvv);
		break;
	case ZYDIS_OPERAND_ENCODING_OPCODE:
		/* For x87 registers and for fixed ones these bits are the opcode's. */
		e->op_holds_reg = true;
		e->op_reg = field_of(e, o, e->op_reg);
		break;
	case ZYDIS_OPERAND_ENCODING_IS4:
		/* Bit 7 is ignored outside 64-bit code. */
		if (!e->code64 && e->nr_imm)
			e->imm[e->nr_imm - 1] &= 0x7f;
		break;
	default:
		if (reg_is_high8(o->reg.value))
			e->high8 = true;
		break;
	}
}

/* Fields as the guest has them, then operand by operand. */
static void scan(struct enc *e)
{
	const ZydisDecodedInstruction *insn = e->insn;

	e->code64 = insn->machine_mode == M64;
	e->vex = insn->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX;
	e->has_modrm = insn->attributes & ZYDIS_ATTRIB_HAS_MODRM;
	e->opcode = insn->opcode;
	e->op_reg = insn->opcode & 7;
	e->reg = insn->raw.modrm.reg;
	e->rm = insn->raw.modrm.rm;
	if (e->code64 || !insn_vex_w_is_width(insn))
		e->w = e->vex ? insn->raw.vex.W : insn->raw.rex.W;
	e->nr_imm = e->guest_imm = imm_bytes(insn);
	if (e->nr_imm > sizeof(e->imm) ||
	    (!e->vex && insn->encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY)) {
		e->fail = true;
		return;
	}
	memcpy(e->imm, e->bytes + insn->length - e->nr_imm, e->nr_imm);
	for (unsigned i = 0; i < insn->operand_count; i++) {
		const ZydisDecodedOperand *o = &e->ops[i];

		switch (o->type) {
		case ZYDIS_OPERAND_TYPE_REGISTER:
			scan_register(e, o);
			break;
		case ZYDIS_OPERAND_TYPE_MEMORY:
			if (e->mem || o->mem.type != ZYDIS_MEMOP_TYPE_MEM || e->map->rm_gs ||
			    e->map->mem == ENC_MEM_NONE ||
			    o->visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN)
				e->fail = true;
			e->mem = true;
			break;
		case ZYDIS_OPERAND_TYPE_IMMEDIATE:
			break;
		default:
			e->fail = true;
		}
	}
	if (e->map->rm_gs && !e->mem)
		e->fail = true;
}

/* Opcodes that 64-bit code lacks or that have no ModRM where one is needed. */
static void replace_opcode(struct enc *e)
{
	if (e->vex || e->insn->opcode_map != ZYDIS_OPCODE_MAP_DEFAULT)
		return;
	if (!e->code64 && e->opcode >= 0x40 && e->opcode < 0x50) {
		/* INC and DEC by register: FF /0, /1 */
		e->reg = e->opcode >> 3 & 1;
		e->rm = e->op_reg;
		e->opcode = 0xff;
		e->has_modrm = true;
		e->op_holds_reg = false;
	} else if (!e->code64 && e->opcode == 0x82) {
		e->opcode = 0x80; /* its alias */
	} else if (e->opcode >= 0xa0 && e->opcode <= 0xa3 && !e->has_modrm) {
		/* MOV between the accumulator and an absolute address: 8A, 8B, 88, 89 */
		e->opcode = (u8)((e->opcode & 1) | (e->opcode & 2 ? 0x88 : 0x8a));
		e->reg = RAX;
		e->has_modrm = true;
		e->nr_imm = 0; /* the address */
		e->fail |= e->map->reg[RAX] != RAX;
	}
}

/* ModRM, SIB, displacement of the replaced memory operand (SDM 2A tables 2-2, 2-3). */
static u8 *put_memory(const struct enc *e, u8 *p)
{
	const struct enc_map *m = e->map;
	u8 reg = (u8)((e->reg & 7) << 3);
	u8 mod;

	if (m->mem == ENC_MEM_GS) {
		*p++ = reg | 4;
		*p++ = 0x25;
		put_le32(p, (u32)m->disp);
		return p + 4;
	}
	if (!m->disp && (m->base & 7) != RBP)
		mod = 0;
	else
		mod = m->disp == (s8)m->disp ? 0x40 : 0x80;
	if (m->index != ENC_NO_INDEX || (m->base & 7) == RSP) {
		*p++ = mod | reg | 4;
		*p++ = (u8)((m->index == ENC_NO_INDEX ? 4 : m->scale << 3 | (m->index & 7)) << 3 |
		            (m->base & 7));
	} else {
		*p++ = mod | reg | (m->base & 7);
	}
	if (mod == 0x40)
		*p++ = (u8)m->disp;
	if (mod == 0x80) {
		put_le32(p, (u32)m->disp);
		p += 4;
	}
	return p;
}

/* Extension bits X and B of what stands in ModRM and SIB, or in the opcode. */
static u8 ext_xb(const struct enc *e)
{
	const struct enc_map *m = e->map;

	if (e->op_holds_reg)
		return e->op_reg >= 8;
	if (!e->has_modrm)
		return 0;
	if (!e->mem)
		return e->rm >= 8;
	if (m->mem == ENC_MEM_GS)
		return 0;
	return (u8)((m->index != ENC_NO_INDEX && m->index >= 8) << 1 | (m->base >= 8));
}

static unsigned put_all(struct enc *e, u8 *out)
{
	const ZydisDecodedInstruction *insn = e->insn;
	u8 *p = out;
	u8 xb = ext_xb(e);

	if (e->mem && e->map->mem == ENC_MEM_GS)
		*p++ = 0x65;
	if (e->vex) {
		*p++ = 0xc4;
		*p++ = (u8)((e->reg < 8) << 7 | (~xb & 3) << 5 | insn->raw.vex.m_mmmm);
		*p++ = (u8)(e->w << 7 | (~e->vvvv & 15) << 3 | insn->raw.vex.L << 2 |
		            insn->raw.vex.pp);
	} else {
		u8 rex = (u8)(e->w << 3 | (e->has_modrm && e->reg >= 8) << 2 | xb);

		if (insn->attributes & ZYDIS_ATTRIB_HAS_LOCK)
			*p++ = 0xf0;
		if (mandatory_prefix(insn, 0x66) || opsize16(insn))
			*p++ = 0x66;
		if (mandatory_prefix(insn, 0xf2))
			*p++ = 0xf2;
		if (mandatory_prefix(insn, 0xf3))
			*p++ = 0xf3;
		if (rex || e->rex8) {
			if (e->high8)
				return 0;
			*p++ = 0x40 | rex;
		}
		if (insn->opcode_map != ZYDIS_OPCODE_MAP_DEFAULT)
			*p++ = 0x0f;
		if (insn->opcode_map == ZYDIS_OPCODE_MAP_0F38)
			*p++ = 0x38;
		if (insn->opcode_map == ZYDIS_OPCODE_MAP_0F3A)
			*p++ = 0x3a;
	}
	*p++ = e->op_holds_reg ? (e->opcode & 0xf8) | (e->op_reg & 7) : e->opcode;
	if (e->has_modrm && e->mem)
		p = put_memory(e, p);
	else if (e->has_modrm)
		*p++ = (u8)(0xc0 | (e->reg & 7) << 3 | (e->rm & 7));
	memcpy(p, e->imm, e->nr_imm);
	return (unsigned)(p - out) + e->nr_imm;
}

/* ---- verification ---- */

static bool same_register(const struct enc *e, ZydisRegister guest, ZydisRegister host)
{
	if (!reg_is_gpr(guest)) /* FLAGS, EFLAGS, RFLAGS by mode */
		return guest == host || (ZydisRegisterGetClass(guest) == ZYDIS_REGCLASS_FLAGS &&
		                         ZydisRegisterGetClass(host) == ZYDIS_REGCLASS_FLAGS);
	if (!reg_is_gpr(host) || e->map->reg[gpr_number(guest)] != (int)gpr_number(host) ||
	    reg_is_high8(guest) != reg_is_high8(host))
		return false;
	/* Outside 64-bit code, implicit registers whose width VEX.W would choose. */
	return gpr_size(guest) == gpr_size(host) || (!e->code64 && gpr_size(guest) == 3);
}

static bool same_memory(const struct enc *e, const ZydisDecodedOperand *h)
{
	const struct enc_map *m = e->map;
	bool gs = m->mem == ENC_MEM_GS;

	if (h->type != ZYDIS_OPERAND_TYPE_MEMORY || h->mem.type != ZYDIS_MEMOP_TYPE_MEM ||
	    h->mem.disp.value != m->disp || (h->mem.segment == ZYDIS_REGISTER_GS) != gs)
		return false;
	if (gs)
		return h->mem.base == ZYDIS_REGISTER_NONE && h->mem.index == ZYDIS_REGISTER_NONE;
	if (!reg_is_gpr(h->mem.base) || gpr_size(h->mem.base) != 3 ||
	    gpr_number(h->mem.base) != m->base)
		return false;
	if (m->index == ENC_NO_INDEX)
		return h->mem.index == ZYDIS_REGISTER_NONE;
	return reg_is_gpr(h->mem.index) && gpr_size(h->mem.index) == 3 &&
	       gpr_number(h->mem.index) == m->index && h->mem.scale == 1u << m->scale;
}

static bool same_operand(const struct enc *e, const ZydisDecodedOperand *g,
                         const ZydisDecodedOperand *h)
{
	if (g->actions != h->actions)
		return false;
	switch (g->type) {
	case ZYDIS_OPERAND_TYPE_REGISTER:
		if (e->map->rm_gs && g->encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM)
			return g->size == h->size && same_memory(e, h);
		return h->type == g->type && same_register(e, g->reg.value, h->reg.value);
	case ZYDIS_OPERAND_TYPE_MEMORY:
		return g->size == h->size && same_memory(e, h);
	case ZYDIS_OPERAND_TYPE_IMMEDIATE:
		if (h->type != g->type)
			return false;
		return e->code64 ? g->imm.value.u == h->imm.value.u
		                 : (u32)g->imm.value.u == (u32)h->imm.value.u;
	default:
		return false;
	}
}

/* The encoder is not trusted: what it made must decode as the guest's instruction. */
static bool verify(const struct enc *e, const u8 *out, unsigned len)
{
	ZydisDecoder decoder;
	ZydisDecodedInstruction hi;
	ZydisDecodedOperand ho[ZYDIS_MAX_OPERAND_COUNT];

	ZydisDecoderInit(&decoder, M64, ZYDIS_STACK_WIDTH_64);
	if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, out, len, &hi, ho)) ||
	    hi.length != len || hi.mnemonic != e->insn->mnemonic ||
	    hi.operand_count != e->insn->operand_count ||
	    (hi.attributes & ZYDIS_ATTRIB_HAS_LOCK) !=
	            (e->insn->attributes & ZYDIS_ATTRIB_HAS_LOCK))
		return false;
	for (unsigned i = 0; i < hi.operand_count; i++)
		if (!same_operand(e, &e->ops[i], &ho[i]))
			return false;
	return true;
}

/* What decides what put_all() makes, and what verify() compares but for copied values. false: it
 * does not fit. */
static bool shape_of(const struct enc *e, struct enc_shape *s)
{
	const ZydisDecodedInstruction *insn = e->insn;
	const struct enc_map *m = e->map;
	unsigned head = insn->length - (e->vex ? 0 : e->guest_imm), disp = insn->raw.disp.size / 8u;
	u8 *b = (u8 *)s->word;
	unsigned n = 0;

	memset(s, 0, sizeof(*s));
	for (unsigned i = 0; i < head; i++) {
		if (disp && i - insn->raw.disp.offset < disp)
			continue;
		if (n == 12)
			return false;
		b[n++] = e->bytes[i];
	}
	b[12] = (u8)(n << 4 | disp);
	b[13] = (u8)(1 | e->code64 << 1 | m->rm_gs << 2 | m->rm_gs_low32 << 3 | e->guest_imm << 4);
	/* The displacement's form is its value's, the bytes in memory hold nothing else of it. */
	b[14] = (u8)(m->mem | (!m->disp ? 0 : m->disp == (s8)m->disp ? 1 : 2) << 4);
	b[15] = m->base;
	b[16] = m->index;
	memcpy(b + 17, m->reg, sizeof(m->reg));
	b[17 + sizeof(m->reg)] = m->scale;
	return true;
}

/* verify(), unless the same shape has been. */
static bool verify_once(const struct enc *e, const u8 *out, unsigned len,
                        struct enc_verified *known)
{
	struct enc_shape s, *k;
	u64 h = 0;

	if (!known || !shape_of(e, &s))
		return verify(e, out, len);
	for (unsigned i = 0; i < ARRAY_SIZE(s.word); i++)
		h = (h ^ s.word[i]) * 0x9e3779b97f4a7c15ull, h ^= h >> 29;
	k = &known->shape[h >> 32 & (ENC_SHAPES - 1)];
	if (!memcmp(k, &s, sizeof(s)))
		return true;
	if (!verify(e, out, len))
		return false;
	*k = s;
	return true;
}

unsigned insn_encode(u8 out[ENC_MAX], const ZydisDecodedInstruction *insn,
                     const ZydisDecodedOperand *ops, const u8 *bytes, const struct enc_map *map,
                     struct enc_verified *verified)
{
	struct enc e = {.insn = insn, .ops = ops, .bytes = bytes, .map = map};
	unsigned len;

	scan(&e);
	if (e.fail)
		return 0;
	replace_opcode(&e);
	if (e.fail || (e.mem && !e.has_modrm))
		return 0;
	len = put_all(&e, out);
	return len && verify_once(&e, out, len, verified) ? len : 0;
}
