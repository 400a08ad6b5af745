// SPDX-License-Identifier: MIT
/* Instructions by their shape.
 *
 * Prefixes, opcode, ModRM and SIB of an instruction, its *head*, decide all that a decoder finds
 * out about it but the values of its displacement and its immediate, which follow (SDM 2A 2.1). And
 * code says the same things again and again, on the same registers. So each head is decoded and
 * classified once for each mode, and what came out is copied with the two values put in.
 *
 * Little is known here of how instructions are encoded: where a head seems to end. Whether it does
 * end there is asked of what the decoder made of the first instruction of the shape: after a wrong
 * guess nothing is kept. VEX and EVEX, whose immediate may name a register, and 16-bit addresses
 * are left to the decoder. */
#include "engine/bt/xlate.h"

#include <string.h>

#define SETS      1024u
#define WAYS      4u
#define SHAPE_OPS 4u /* DIV, CMPXCHG and CALL have as many, hidden ones included */
#define HEAD_MAX  6u
#define NO_HEAD   0

struct value {
	u8 at, size; /* offset and bytes; 0 bytes: none */
	s8 op;       /* operand that has it, or -1 */
	bool is_signed;
};

struct shape {
	/* As they are in struct gi. */
	ZydisDecodedInstruction i;
	ZydisDecodedOperand o[SHAPE_OPS];
	u8 rest[sizeof(struct gi) - offsetof(struct gi, info)];
	struct value disp, imm;
	bool again; /* what it is depends on the values, or on where it is: to be classified */
};

struct shapes {
	/* A head's bytes, their number, the mode; NO_HEAD: empty. Apart from the rest: they are
	 * looked at far more often. */
	u64 head[SETS][WAYS] __attribute__((aligned(64)));
	u8 oldest[SETS];
	struct shape shape[SETS][WAYS];
};

size_t bt_shapes_size(void)
{
	return sizeof(struct shapes);
}

/* ---- heads ---- */

/* Opcodes with ModRM (SDM 2D, tables ). */
static const u64 has_modrm[2][4] = {
	{0x0f0f0f0f0f0f0f0full, 0x00000a0c00000000ull, 0x000000000000ffffull,
         0xc0c00000ff0f00f3ull},
	{0x0000ffffffffa00full, 0xff7fffffffffffffull, 0xfffff8f8ffff0000ull,
         0xffffffffffff00ffull},
};

static bool is_prefix(u8 b)
{
	switch (b) {
	case 0x26:
	case 0x2e:
	case 0x36:
	case 0x3e:
	case 0x64:
	case 0x65:
	case 0x66:
	case 0xf0:
	case 0xf2:
	case 0xf3:
		return true;
	default:
		return false; /* 67 as well: few have it */
	}
}

/* Position behind the opcode, which begins at n; 0: none that is kept. */
static unsigned behind_opcode(const u8 *b, unsigned n, bool *modrm)
{
	u8 op = b[n++];

	if (op != 0x0f) {
		*modrm = has_modrm[0][op / 64] >> op % 64 & 1;
		/* VEX, EVEX, XOP or what looks like them */
		return op == 0x62 || op == 0xc4 || op == 0xc5 || op == 0x8f || op == 0x67 ? 0 : n;
	}
	op = b[n++];
	*modrm = has_modrm[1][op / 64] >> op % 64 & 1;
	if (op == 0x38 || op == 0x3a)
		n++;
	return op == 0x0f ? 0 : n; /* 3DNow! has its opcode behind the operands */
}

/* All that classification looks at besides the instruction: 9 bits. */
static u64 mode_of(const struct xlate *x)
{
	return (x->mode & BTM_PAGE_MASK) | (u64) !!x->c->inputs << 8;
}

/* Of an instruction in `have` bytes, with room for 15. */
static u64 head_of(const struct xlate *x, const u8 *b, unsigned have)
{
	unsigned n = 0, k;
	bool modrm;
	u64 head;

	_Static_assert(BTM_VALID < 1 << 8, "modes fit");
	while (n < 4 && is_prefix(b[n]))
		n++;
	if (x->code64 && (b[n] & 0xf0) == 0x40)
		n++;
	k = behind_opcode(b, n, &modrm);
	if (!k)
		return NO_HEAD;
	if (modrm) {
		u8 m = b[k++];

		if (m < 0xc0 && (m & 7) == 4)
			k++;
	}
	if (k > HEAD_MAX || k > have)
		return NO_HEAD;
	memcpy(&head, b, sizeof(head));
	return (head & (BIT(8 * k) - 1)) | (u64)k << 48 | mode_of(x) << 52;
}

static unsigned head_size(u64 head)
{
	return head >> 48 & 15;
}

static unsigned set_of(u64 head)
{
	return (head ^ head >> 52) * 0x9e3779b97f4a7c15ull >> 40 & (SETS - 1);
}

/* ---- values ---- */

static u64 value_at(const struct value *v, const u8 *b)
{
	u64 w = 0;

	switch (v->size) {
	case 1:
		return v->is_signed ? (u64)(s64)(s8)b[v->at] : b[v->at];
	case 2:
		memcpy(&w, b + v->at, 2);
		return v->is_signed ? (u64)(s64)(s16)w : w;
	case 4:
		memcpy(&w, b + v->at, 4);
		return v->is_signed ? (u64)(s64)(s32)w : w;
	default:
		memcpy(&w, b + v->at, v->size); /* 0 or 8 */
		return w;
	}
}

static void put_values(const struct shape *s, const u8 *b, struct gi *g)
{
	if (s->disp.size) {
		s64 v = (s64)value_at(&s->disp, b);

		g->i.raw.disp.value = v;
		g->o[s->disp.op].mem.disp.value = v;
	}
	if (s->imm.size) {
		u64 v = value_at(&s->imm, b);

		g->i.raw.imm[0].value.u = v;
		g->o[s->imm.op].imm.value.u = v;
	}
}

/* What memcpy() of a constant size becomes is slower here. */
static void copy_blocks(void *to, const void *from, size_t n)
{
	for (size_t k = 0; k < n; k += 64)
		memcpy((u8 *)to + k, (const u8 *)from + k, 64);
}

enum bt_shape_found bt_shape_find(struct xlate *x, const u8 *bytes, unsigned have, struct gi *g)
{
	u64 head = head_of(x, bytes, have);
	unsigned set = set_of(head), w = 0;
	const struct shape *s;

	_Static_assert(offsetof(struct gi, i) == offsetof(struct shape, i) &&
	                       offsetof(struct gi, o) == offsetof(struct shape, o) &&
	                       sizeof(g->o) >= sizeof(s->o) + 64 && sizeof(s->rest) >= 64,
	               "copied together, by blocks");
	if (head == NO_HEAD)
		return SHAPE_UNKNOWN;
	while (x->shapes->head[set][w] != head)
		if (++w == WAYS)
			return SHAPE_UNKNOWN;
	s = &x->shapes->shape[set][w];
	if (s->i.length > have)
		return SHAPE_UNKNOWN;
	copy_blocks(g, s, offsetof(struct gi, o) + MAX(s->i.operand_count, 3u) * sizeof(g->o[0]));
	put_values(s, bytes, g);
	if (s->again)
		return SHAPE_DECODED;
	memcpy(&g->info, s->rest, sizeof(s->rest));
	return SHAPE_CLASSIFIED;
}

/* ---- new ones ---- */

/* Do the values decide what it is? Those that look at an immediate for that are few. */
static bool must_look(const struct gi *g, bool imm)
{
	switch (g->i.mnemonic) {
	case ZYDIS_MNEMONIC_SHL:
	case ZYDIS_MNEMONIC_SHR:
	case ZYDIS_MNEMONIC_SAR:
	case ZYDIS_MNEMONIC_ROL:
	case ZYDIS_MNEMONIC_ROR:
	case ZYDIS_MNEMONIC_RCL:
	case ZYDIS_MNEMONIC_RCR:
	case ZYDIS_MNEMONIC_SHLD:
	case ZYDIS_MNEMONIC_SHRD:
		return imm;
	default:
		/* A branch has its place in its target, STAC goes on behind itself. */
		return g->kind == GI_STAC || (imm && g->kind != GI_COPY && g->kind != GI_PUSH);
	}
}

/* The operands that have the values. */
static void find_values(struct shape *s, const struct gi *g)
{
	const ZydisDecodedInstructionRaw *r = &g->i.raw;

	s->disp = (struct value){r->disp.offset, r->disp.size / 8, -1, true};
	s->imm = (struct value){r->imm[0].offset, r->imm[0].size / 8, -1, r->imm[0].is_signed};
	for (unsigned k = 0; k < g->i.operand_count; k++) {
		const ZydisDecodedOperand *o = &g->o[k];

		if (s->disp.size && o->type == ZYDIS_OPERAND_TYPE_MEMORY &&
		    o->encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM)
			s->disp.op = (s8)k;
		if (s->imm.size && o->type == ZYDIS_OPERAND_TYPE_IMMEDIATE)
			s->imm.op = (s8)k;
	}
}

/* Is it put together as is thought here, and are the values where they are thought to be? */
static bool as_thought(const struct shape *s, u64 head, const struct gi *g, const u8 *bytes)
{
	unsigned behind = head_size(head) + s->disp.size;
	u64 disp = value_at(&s->disp, bytes), imm = value_at(&s->imm, bytes);

	if (g->i.encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY || g->i.raw.imm[1].size ||
	    behind + s->imm.size != g->i.length || (s->disp.size && s->disp.op < 0) ||
	    (s->imm.size && s->imm.op < 0))
		return false;
	if (s->disp.size && (s->disp.at != head_size(head) || (u64)g->i.raw.disp.value != disp ||
	                     (u64)g->o[s->disp.op].mem.disp.value != disp ||
	                     !g->o[s->disp.op].mem.disp.has_displacement))
		return false;
	return !s->imm.size || (s->imm.at == behind && g->i.raw.imm[0].value.u == imm &&
	                        g->o[s->imm.op].imm.value.u == imm);
}

void bt_shape_keep(struct xlate *x, const u8 *bytes, const struct gi *g)
{
	u64 head = head_of(x, bytes, g->i.length);
	unsigned set = set_of(head), w;
	struct shape n = {0};

	if (head == NO_HEAD || g->i.operand_count > SHAPE_OPS)
		return;
	find_values(&n, g);
	if (!as_thought(&n, head, g, bytes))
		return;
	n.again = must_look(g, n.imm.size);
	n.i = g->i;
	memcpy(n.o, g->o, sizeof(n.o));
	memcpy(n.rest, &g->info, sizeof(n.rest));
	w = x->shapes->oldest[set]++ % WAYS;
	x->shapes->shape[set][w] = n;
	x->shapes->head[set][w] = head;
}
