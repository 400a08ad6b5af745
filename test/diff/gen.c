// SPDX-License-Identifier: MIT
/* From a form to a case: bytes with random prefixes and operands, then a state in which memory
 * operands lie where something is to be seen: in the data pages, across their boundaries, over
 * their ends, in the read-only page, sometimes at addresses that no program can have. */
#include "gen.h"

#include "hostcpu.h"

#include <cpuid.h>
#include <errno.h>

#include "cpu/x86/defs.h"

#define RSP 4

int gen_create(struct gen *g, unsigned mode, u64 seed)
{
	u32 lo = 0, hi = 0;

	memset(g, 0, sizeof(*g));
	g->mode = mode;
	g->seed = seed;
	g->max_insns = 1;
	__asm__("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
	g->foreign_xcr0 = ((u64)hi << 32 | lo) & ~7ull;
	return forms_create(&g->forms, mode);
}

void gen_destroy(struct gen *g)
{
	forms_destroy(&g->forms);
}

/* ---- bytes ---- */

static const struct form *pick_form(const struct gen *g, struct rng *r)
{
	u32 at = rng_below(r, g->weight_sum);
	unsigned c = 0;
	const struct form_group *gr;

	while (at >= g->weight[c])
		at -= g->weight[c++];
	gr = &g->forms.group[g->forms.class_first[c] +
	                     rng_below(r, g->forms.class_first[c + 1] - g->forms.class_first[c])];
	return &g->forms.form[gr->first + rng_below(r, gr->count)];
}

static u8 pick_modrm(struct rng *r, const struct form *f)
{
	unsigned mod = f->rm_kind == RM_REG ? 3 : rng_below(r, 3);
	unsigned reg = f->reg >= 0 ? (unsigned)f->reg : rng_below(r, 8);
	unsigned rm = f->rm >= 0 && f->rm_kind == RM_REG ? (unsigned)f->rm : rng_below(r, 8);

	if (f->vsib && mod != 3)
		rm = 4;
	return (u8)(mod << 6 | reg << 3 | rm);
}

static unsigned make_prefixes(const struct gen *g, struct rng *r, const struct form *f, u8 *b)
{
	unsigned n = 0;

	if (rng_pct(r, f->rm_kind == RM_MEM || f->cls == CL_STRING ? 8 : 2)) {
		static const u8 seg[] = {0x64, 0x65, 0x64, 0x65, 0x2e, 0x36, 0x3e, 0x26};

		b[n++] = seg[rng_below(r, ARRAY_SIZE(seg))];
	}
	if (rng_pct(r, f->rm_kind == RM_MEM || f->cls == CL_STRING || f->cls == CL_BRANCH ? 8 : 2))
		b[n++] = 0x67;
	if (f->vex)
		return n;
	if (rng_pct(r, f->cls == CL_ATOMIC && f->rm_kind == RM_MEM ? 50
	               : f->rm_kind == RM_MEM                      ? 5
	                                                           : 1))
		b[n++] = 0xf0;
	if (f->prefix)
		b[n++] = f->prefix;
	else if (f->cls <= CL_BRANCH && f->cls != CL_STRING && rng_pct(r, 2))
		b[n++] = rng_pct(r, 50) ? 0xf2 : 0xf3; /* without meaning, or XACQUIRE, BND */
	return n;
}

/* All up to the opcode's operands; the rest of the 15 bytes is random. Returns the offset of what
 * follows the ModRM byte. */
static unsigned make_bytes(const struct gen *g, struct rng *r, const struct form *f, u8 b[16])
{
	static const u8 pp[256] = {[0x66] = 1, [0xf3] = 2, [0xf2] = 3};
	bool m64 = g->mode == 64;
	unsigned n;
	u64 x = rng_u64(r);

	put_le64(b, rng_u64(r));
	put_le64(b + 8, rng_u64(r));
	n = make_prefixes(g, r, f, b);
	if (f->vex) {
		u8 rxb = m64 ? (u8)(x & 7) : 7, vvvv = (u8)(x >> 3 & 15);

		if (!m64)
			vvvv |= 8;
		if (f->map == 1 && f->w == 0 && rng_pct(r, 50) && (rxb & 3) == 3) {
			b[n++] = 0xc5;
			b[n++] = (u8)(rxb >> 2 << 7 | vvvv << 3 | f->l << 2 | pp[f->prefix]);
		} else {
			b[n++] = 0xc4;
			b[n++] = (u8)(rxb << 5 | f->map);
			b[n++] = (u8)(f->w << 7 | vvvv << 3 | f->l << 2 | pp[f->prefix]);
		}
	} else {
		if (m64 && (f->w || rng_pct(r, 50)))
			b[n++] = (u8)(0x40 | f->w << 3 | (x & 7));
		if (f->map >= 1)
			b[n++] = 0x0f;
		if (f->map >= 2)
			b[n++] = f->map == 2 ? 0x38 : 0x3a;
	}
	b[n++] = f->opcode;
	if (f->rm_kind != RM_NONE)
		b[n++] = pick_modrm(r, f);
	return n;
}

bool gen_decode(const struct gen *g, const u8 *b, unsigned len, struct case_info *info)
{
	ZydisDecoderContext ctx;

	return ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&g->forms.decoder, &ctx, b, len,
	                                                  &info->insn)) &&
	       ZYAN_SUCCESS(ZydisDecoderDecodeOperands(&g->forms.decoder, &ctx, &info->insn,
	                                               info->ops, info->insn.operand_count));
}

bool case_decode(const struct gen *g, const struct tcase *t, struct case_info *info)
{
	return gen_decode(g, t->code, t->code_len, info);
}

static void put_value(u8 *p, unsigned bits, u64 v)
{
	memcpy(p, &v, bits / 8);
}

static void make_immediates(struct rng *r, const ZydisDecodedInstruction *insn, u8 *b)
{
	for (int i = 0; i < 2; i++)
		if (insn->raw.imm[i].size)
			put_value(b + insn->raw.imm[i].offset, insn->raw.imm[i].size,
			          value_int(r, insn->raw.imm[i].size));
	/* Displacements of moderate size leave more choice to the registers. */
	if (insn->raw.disp.size == 32 && rng_pct(r, 60))
		put_value(b + insn->raw.disp.offset, 32, (u64)(s64)(s8)rng_u64(r));
	if (insn->mnemonic == ZYDIS_MNEMONIC_ENTER && insn->raw.imm[1].size == 8) {
		b[insn->raw.imm[1].offset] = (u8)(rng_pct(r, 50) ? 0 : rng_below(r, 40));
		if (rng_pct(r, 80))
			put_le16(b + insn->raw.imm[0].offset, (u16)rng_below(r, 512));
	}
}

/* ---- where operands lie ---- */

static int gpr_index(ZydisRegister reg)
{
	switch (ZydisRegisterGetClass(reg)) {
	case ZYDIS_REGCLASS_GPR16:
	case ZYDIS_REGCLASS_GPR32:
	case ZYDIS_REGCLASS_GPR64:
		return ZydisRegisterGetId(reg);
	default:
		return -1;
	}
}

static bool is_ip(ZydisRegister reg)
{
	return reg == ZYDIS_REGISTER_RIP || reg == ZYDIS_REGISTER_EIP;
}

static u64 seg_base(const struct cpu_state *st, ZydisRegister seg)
{
	return seg == ZYDIS_REGISTER_FS ? st->fs_base : seg == ZYDIS_REGISTER_GS ? st->gs_base : 0;
}

static u64 width_mask(unsigned bits)
{
	return bits >= 64 ? ~0ull : (1ull << bits) - 1;
}

u64 operand_address(const struct cpu_state *st, const ZydisDecodedInstruction *insn,
                    const ZydisDecodedOperand *op, u64 next_rip)
{
	const ZydisDecodedOperandMem *m = &op->mem;
	int base = gpr_index(m->base), index = gpr_index(m->index);
	u64 a = (u64)m->disp.value;

	if (is_ip(m->base))
		a += next_rip;
	else if (base >= 0)
		a += st->gpr[base];
	if (index >= 0)
		a += st->gpr[index] * m->scale;
	return (a & width_mask(insn->address_width)) + seg_base(st, m->segment);
}

/* A target for an access of `size` bytes. */
static u64 pick_address(struct rng *r, unsigned size, bool m64)
{
	u32 k = rng_below(r, 100), room = size ? size : 1;

	if (k < 50)
		return DATA_BASE + rng_below(r, DATA_RW_SIZE / 64 - 64) * 64;
	if (k < 72)
		return DATA_BASE + rng_below(r, DATA_RW_SIZE - room);
	if (k < 80) /* crosses pages */
		return DATA_BASE + 4096 * (1 + rng_below(r, 2)) - rng_below(r, room + 1);
	if (k < 83) /* into the read-only page */
		return DATA_BASE + DATA_RW_SIZE - rng_below(r, room + 1);
	if (k < 86)
		return DATA_BASE + DATA_RW_SIZE + rng_below(r, 4096 - 64) / 64 * 64;
	if (k < 89) /* over the end */
		return DATA_END - rng_below(r, room + 1);
	if (k < 92) /* from before the beginning */
		return DATA_BASE - rng_below(r, room + 1);
	if (k < 95) /* unmapped */
		return DATA_END + rng_below(r, 4096);
	if (k < 96)
		return CODE_BASE + rng_below(r, CODE_SIZE);
	if (!m64)
		return (u32)rng_u64(r);
	switch (rng_below(r, 8)) {
	case 0:
		return rng_below(r, 4096);
	case 1: /* not canonical */
		return 0x800000000000ull + rng_below(r, 64);
	case 2:
		return 0x800000000000ull - rng_below(r, 64);
	case 3:
		return 0xffff7fffffffffffull - rng_below(r, 64);
	case 4: /* the other half */
		return 0xffff800000000000ull + rng_below(r, 64);
	case 5:
		return 0ull - rng_below(r, 64);
	case 6:
		return rng_u64(r);
	default:
		return 0x100000000ull - rng_below(r, 64);
	}
}

struct maker {
	const struct gen *g;
	struct rng *r;
	struct tcase *t;
	struct case_info *info;
	u8 *bytes; /* of this instruction */
	u64 rip;
	bool reencoded;
};

static void add_patch(struct maker *m, u64 addr, const void *bytes, unsigned len)
{
	struct tcase *t = m->t;
	u64 off = addr - DATA_BASE;

	if (off >= DATA_SIZE || t->nr_patches == MAX_PATCHES)
		return;
	len = (unsigned)MIN((u64)len, DATA_SIZE - off);
	t->patch[t->nr_patches].offset = (u32)off;
	t->patch[t->nr_patches].len = len;
	memcpy(t->patch[t->nr_patches++].bytes, bytes, len);
}

static void set_disp(struct maker *m, u64 v)
{
	const ZydisDecodedInstruction *i = &m->info->insn;

	if (i->raw.disp.size) {
		put_value(m->bytes + i->raw.disp.offset, i->raw.disp.size, v);
		m->reencoded = true;
	}
}

static void place_vsib(struct maker *m, const ZydisDecodedOperand *op, u64 target)
{
	const ZydisDecodedOperandMem *mem = &op->mem;
	int base = gpr_index(mem->base);
	struct cpu_state *st = &m->t->st;
	unsigned index = (unsigned)ZydisRegisterGetId(mem->index);
	bool wide = strstr(ZydisMnemonicGetString(m->info->insn.mnemonic), "gatherq");
	u64 start = target - (u64)mem->disp.value - seg_base(st, mem->segment);

	if (base >= 0)
		st->gpr[base] = start;
	else
		start = 0;
	for (unsigned i = 0; i < (wide ? 4u : 8u); i++) {
		s64 off = (s64)rng_below(m->r, 2048) - 1024;
		u8 *p;

		if (rng_pct(m->r, 3))
			off = (s64)(pick_address(m->r, 8, m->g->mode == 64) - target);
		else if (base < 0)
			off += (s64)(target - (u64)mem->disp.value);
		off /= mem->scale ? mem->scale : 1;
		p = i * (wide ? 8 : 4) < 16 ? st->xsave + XS_XMM(index)
		                            : st->xsave + XS_YMMHI(index) - 16;
		if (wide)
			put_le64(p + i * 8, (u64)off);
		else
			put_le32(p + i * 4, (u32)off);
	}
}

static void place_operand(struct maker *m, const ZydisDecodedOperand *op, u64 target)
{
	const ZydisDecodedInstruction *insn = &m->info->insn;
	const ZydisDecodedOperandMem *mem = &op->mem;
	struct cpu_state *st = &m->t->st;
	int base = gpr_index(mem->base), index = gpr_index(mem->index);
	u64 disp = (u64)mem->disp.value, want = target - seg_base(st, mem->segment);
	u64 scale = mem->scale ? mem->scale : 1, keep;

	if (mem->type == ZYDIS_MEMOP_TYPE_VSIB) {
		place_vsib(m, op, target);
		return;
	}
	if (is_ip(mem->base)) {
		set_disp(m, want - (m->rip + insn->length));
		return;
	}
	if (base < 0 && index < 0) {
		set_disp(m, want);
		return;
	}
	/* Above the address size, whatever was in the register stays. */
	keep = ~width_mask(insn->address_width);
	if (base < 0) {
		if (insn->raw.disp.size == 32) {
			st->gpr[index] = (u64)(s64)(s8)rng_u64(m->r);
			set_disp(m, want - st->gpr[index] * scale);
		} else {
			st->gpr[index] = (st->gpr[index] & keep) | ((want - disp) / scale & ~keep);
		}
	} else if (index < 0) {
		st->gpr[base] = (st->gpr[base] & keep) | ((want - disp) & ~keep);
	} else if (base == index) {
		st->gpr[base] = (st->gpr[base] & keep) | ((want - disp) / (scale + 1) & ~keep);
	} else {
		if (rng_pct(m->r, 70))
			st->gpr[index] = (u64)(s64)(s16)rng_u64(m->r);
		st->gpr[base] =
			(st->gpr[base] & keep) | ((want - disp - st->gpr[index] * scale) & ~keep);
	}
}

static enum lane lane_of(const ZydisDecodedOperand *op)
{
	switch (op->element_type) {
	case ZYDIS_ELEMENT_TYPE_FLOAT16:
		return LANE_F16;
	case ZYDIS_ELEMENT_TYPE_FLOAT32:
		return LANE_F32;
	case ZYDIS_ELEMENT_TYPE_FLOAT64:
		return LANE_F64;
	case ZYDIS_ELEMENT_TYPE_FLOAT80:
		return LANE_F80;
	default:
		return op->element_size <= 8    ? LANE_I8
		       : op->element_size <= 16 ? LANE_I16
		       : op->element_size <= 32 ? LANE_I32
		                                : LANE_I64;
	}
}

/* ---- what some instructions want to be interesting ---- */

/* An address that a branch may go to: the native executor recognises where it got by the code
 * page's INT3s, so not into the case's own code. */
static u64 any_target(struct maker *m)
{
	u32 k = rng_below(m->r, 100);
	u64 a;

	if (k < 4)
		return DATA_BASE + rng_below(m->r, DATA_SIZE);
	if (k < 8 && m->g->mode == 64)
		return value_int(m->r, 64);
	if (k < 10)
		return (u32)rng_u64(m->r);
	do {
		a = CODE_BASE + 64 + rng_below(m->r, CODE_SIZE - 128);
	} while (a >= m->rip - 1 && a <= m->rip + 16);
	return a;
}

/* Nor into the thunk, which would run. */
static u64 branch_target(struct maker *m)
{
	u64 a = any_target(m);

	return a - CODE_THUNK < 64 ? a + 64 : a;
}

static void tune_branch(struct maker *m, u64 data)
{
	const ZydisDecodedInstruction *insn = &m->info->insn;
	const ZydisDecodedOperand *op = &m->info->ops[0];
	u8 buf[8];

	if (insn->raw.imm[0].size && insn->raw.imm[0].is_relative) {
		unsigned bits = insn->raw.imm[0].size;
		u64 next = m->rip + insn->length, rel = branch_target(m) - next;

		if (bits == 8) {
			rel = 2 + rng_below(m->r, 126);
			if (rng_pct(m->r, 50))
				rel = 0ull - insn->length - 1 - rel % (0x7f - insn->length);
		}
		put_value(m->bytes + insn->raw.imm[0].offset, bits, rel);
		m->reencoded = true;
	}
	if (rng_pct(m->r, 60))
		m->t->st.gpr[1] = (m->t->st.gpr[1] & ~0xffull) | rng_below(m->r, 3);
	if (op->type == ZYDIS_OPERAND_TYPE_REGISTER && gpr_index(op->reg.value) >= 0)
		m->t->st.gpr[gpr_index(op->reg.value)] = branch_target(m);
	put_le64(buf, branch_target(m));
	if (insn->mnemonic == ZYDIS_MNEMONIC_RET)
		add_patch(m, m->t->st.gpr[RSP], buf, 8);
	else if (data)
		add_patch(m, data, buf, 8);
}

static u16 pick_selector(struct maker *m)
{
	static const u16 sel[] = {SEL_USER_CS64, SEL_USER_CS32, SEL_USER_DS, 0,    1,     3,
	                          SEL_USER_CS64, SEL_USER_DS,   0x30,        0x28, 0x1000};

	return sel[rng_below(m->r, ARRAY_SIZE(sel))];
}

static void tune_seg(struct maker *m, u64 data)
{
	const ZydisDecodedInstruction *insn = &m->info->insn;
	unsigned n = insn->operand_width / 8;
	u8 buf[40] = {0};
	u64 flags = X86_RFLAGS_FIXED | (rng_u64(m->r) & 0x244ed5);

	for (unsigned i = 0; i < insn->operand_count; i++) {
		int g = m->info->ops[i].type == ZYDIS_OPERAND_TYPE_REGISTER
		                ? gpr_index(m->info->ops[i].reg.value)
		                : -1;

		if (g >= 0)
			m->t->st.gpr[g] = (m->t->st.gpr[g] & ~0xffffull) | pick_selector(m);
	}
	if (n > 8)
		n = 8;
	/* An IRET that sets AC from an unaligned stack: some processors raise #AC with AC still
	 * clear in the frame, which Linux takes for a split lock and tries again for ever. */
	if (m->t->st.gpr[RSP] & 7)
		flags &= ~X86_RFLAGS_AC;
	put_value(buf, n * 8, branch_target(m));
	put_le16(buf + n, pick_selector(m));
	put_value(buf + 2 * n, n * 8, flags);
	put_value(buf + 3 * n, n * 8, DATA_BASE + rng_below(m->r, DATA_RW_SIZE));
	put_le16(buf + 4 * n, rng_pct(m->r, 70) ? SEL_USER_DS : pick_selector(m));
	if (insn->mnemonic == ZYDIS_MNEMONIC_MOV) {
		put_le16(buf, pick_selector(m));
		n = 0;
	}
	add_patch(m, data ? data : m->t->st.gpr[RSP], buf, n ? 5 * n : 2);
}

static void tune_xsave(struct maker *m, u64 data)
{
	struct cpu_state *st = &m->t->st;
	u8 buf[64] = {0};
	struct cpu_state img;

	st->gpr[0] = rng_pct(m->r, 80) ? rng_below(m->r, 8) : rng_u64(m->r);
	st->gpr[2] = rng_pct(m->r, 90) ? 0 : rng_u64(m->r);
	st->gpr[0] &= ~(m->g->foreign_xcr0 & 0xffffffff);
	st->gpr[2] &= ~(m->g->foreign_xcr0 >> 32);
	/* A sensible image for the restoring ones. */
	state_random(m->r, &img, LANE_F32);
	memcpy(buf, img.xsave, 32);
	if (rng_pct(m->r, 5))
		put_le32(buf + XS_MXCSR, (u32)rng_u64(m->r));
	add_patch(m, data, buf, 32);
	memset(buf, 0, sizeof(buf));
	put_le64(buf, rng_below(m->r, 8));
	if (rng_pct(m->r, 5))
		put_le64(buf, (rng_u64(m->r) & rng_u64(m->r)) & ~m->g->foreign_xcr0);
	if (rng_pct(m->r, 3))
		put_le64(buf + 8 * (1 + rng_below(m->r, 7)), 1ull << rng_below(m->r, 64));
	add_patch(m, data + XS_BV, buf, 64);
}

static void tune_string(struct maker *m)
{
	struct cpu_state *st = &m->t->st;
	u32 k = rng_below(m->r, 100);

	if (k < 70)
		st->gpr[1] = rng_below(m->r, 70);
	else if (k < 85)
		st->gpr[1] = rng_below(m->r, 4096);
	if (rng_pct(m->r, 35))
		st->rflags ^= X86_RFLAGS_DF;
}

static void tune_muldiv(struct maker *m)
{
	struct cpu_state *st = &m->t->st;
	u32 k = rng_below(m->r, 4);

	/* A quotient that fits, more often than by chance. */
	if (k == 0)
		st->gpr[2] = 0;
	else if (k == 1)
		st->gpr[2] = (s64)st->gpr[0] < 0 ? ~0ull : 0;
	else if (k == 2)
		st->gpr[2] = rng_below(m->r, 256);
}

static void tune_bit(struct maker *m)
{
	const ZydisDecodedOperand *op = m->info->ops;

	/* Bit strings in memory: the offset moves the address. */
	if (op[0].type == ZYDIS_OPERAND_TYPE_MEMORY && op[1].type == ZYDIS_OPERAND_TYPE_REGISTER &&
	    gpr_index(op[1].reg.value) >= 0 && rng_pct(m->r, 85)) {
		u64 *g = &m->t->st.gpr[gpr_index(op[1].reg.value)];

		*g = (u64)((s64)rng_below(m->r, 0x4000) - 0x2000);
	}
}

static void tune_atomic(struct maker *m, u64 data)
{
	struct cpu_state *st = &m->t->st;
	u8 buf[16];

	if (!data || rng_pct(m->r, 50))
		return;
	/* What is compared with is there. */
	put_le64(buf, st->gpr[0]);
	put_le64(buf + 8, st->gpr[2]);
	if (m->info->insn.mnemonic == ZYDIS_MNEMONIC_CMPXCHG8B)
		put_le32(buf + 4, (u32)st->gpr[2]);
	add_patch(m, data, buf, 16);
}

/* ---- all together ---- */

static void set_up(struct maker *m)
{
	struct case_info *info = m->info;
	struct cpu_state *st = &m->t->st;
	u64 data = 0;

	for (int pass = 0; pass < 2; pass++) {
		for (unsigned i = 0; i < info->insn.operand_count; i++) {
			const ZydisDecodedOperand *op = &info->ops[i];
			bool hidden = op->visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN;
			u64 target;
			u8 buf[PATCH_BYTES];

			/* Hidden ones (stack, strings) first, so that explicit ones win. */
			if (op->type != ZYDIS_OPERAND_TYPE_MEMORY || hidden != (pass == 0) ||
			    op->mem.type == ZYDIS_MEMOP_TYPE_AGEN)
				continue;
			target = pick_address(m->r, op->size / 8, m->g->mode == 64);
			place_operand(m, op, target);
			if (target - DATA_BASE < DATA_SIZE) {
				value_fill(m->r, lane_of(op), buf, sizeof(buf));
				add_patch(m, target, buf, MIN(sizeof(buf), op->size / 8 + 8u));
			}
			if (!hidden)
				data = target;
		}
	}
	switch (info->cls) {
	case CL_STRING:
		tune_string(m);
		break;
	case CL_MULDIV:
		tune_muldiv(m);
		break;
	case CL_BIT:
		tune_bit(m);
		break;
	case CL_ATOMIC:
		tune_atomic(m, data);
		break;
	case CL_BRANCH:
		tune_branch(m, data);
		break;
	case CL_SEG:
		tune_seg(m, data);
		break;
	case CL_XSAVE:
		tune_xsave(m, data);
		break;
	default:
		break;
	}
	switch (info->insn.mnemonic) {
	case ZYDIS_MNEMONIC_POPF:
	case ZYDIS_MNEMONIC_POPFD:
	case ZYDIS_MNEMONIC_POPFQ: {
		u8 buf[8];

		put_le64(buf, rng_u64(m->r) & ~X86_RFLAGS_TF);
		add_patch(m, st->gpr[RSP], buf, 8);
		break;
	}
	case ZYDIS_MNEMONIC_LDMXCSR:
	case ZYDIS_MNEMONIC_VLDMXCSR:
		if (rng_pct(m->r, 80) && data) {
			u8 buf[4];

			put_le32(buf, (u32)rng_u64(m->r) & 0xffff);
			add_patch(m, data, buf, 4);
		}
		break;
	case ZYDIS_MNEMONIC_XLAT:
		st->gpr[3] = pick_address(m->r, 1, m->g->mode == 64) - (u8)st->gpr[0];
		break;
	case ZYDIS_MNEMONIC_WRFSBASE:
	case ZYDIS_MNEMONIC_WRGSBASE: {
		int g = gpr_index(info->ops[0].reg.value);

		if (g >= 0 && rng_pct(m->r, 70))
			st->gpr[g] = (u64)((s64)(st->gpr[g] << 16) >> 16);
		break;
	}
	case ZYDIS_MNEMONIC_ENTER:
		st->rflags &= ~X86_RFLAGS_AC; /* for its probing write too, on some */
		if (rng_pct(m->r, 90))
			st->gpr[5] = DATA_BASE + 512 + rng_below(m->r, 2 * 4096);
		break;
	default:
		break;
	}
}

static enum lane vector_lane(const struct case_info *info)
{
	for (unsigned i = 0; i < info->insn.operand_count; i++) {
		const ZydisDecodedOperand *op = &info->ops[i];

		if (op->type == ZYDIS_OPERAND_TYPE_REGISTER &&
		    op->visibility == ZYDIS_OPERAND_VISIBILITY_EXPLICIT && op->size >= 64 &&
		    op->element_count > 0 && (op->actions & ZYDIS_OPERAND_ACTION_MASK_READ))
			return lane_of(op);
	}
	return LANE_I32;
}

bool gen_insn(const struct gen *g, struct rng *r, u8 b[16], struct case_info *info)
{
	const struct form *f = NULL;

	if (g->fixed) {
		memset(b, 0, 16);
		memcpy(b, g->fixed, MIN(g->fixed_len, 15u));
		if (!gen_decode(g, b, g->fixed_len, info))
			return false;
		info->cls = insn_class(&info->insn);
		if (info->cls < 0)
			info->cls = CL_ALU;
		return true;
	}
	for (int tries = 0; tries < 64; tries++) {
		f = pick_form(g, r);
		make_bytes(g, r, f, b);
		if (!gen_decode(g, b, 15, info))
			continue;
		make_immediates(r, &info->insn, b);
		if (!gen_decode(g, b, 15, info))
			continue;
		info->cls = insn_class(&info->insn);
		/* A random prefix may have made it another one. */
		if (info->cls >= 0 && g->weight[info->cls])
			return true;
	}
	return false;
}

static u64 pick_rip(struct rng *r, unsigned len, bool falls_through)
{
	u32 k = rng_below(r, 100);

	if (k < 3) /* across the pages */
		return CODE_BASE + 4096 - rng_below(r, len + 1);
	if (k < 5) /* over or up to the end */
		return CODE_END - rng_below(r, len + 1) - (k & 1);
	if (k < 7)
		return CODE_END - len - (falls_through ? WAYOUT_MAX : 0);
	return CODE_BASE + 256 + rng_below(r, 3072);
}

bool gen_case(const struct gen *g, u64 index, struct tcase *t, struct case_info *info)
{
	struct rng rng;
	struct maker m = {.g = g, .r = &rng, .t = t, .info = info};
	u8 b[16];
	bool branch;

	rng_seed(&rng, g->seed, index);
	memset(t, 0, offsetof(struct tcase, patch));
	info->index = index;
	if (g->max_insns > 1)
		return gen_sequence(g, &rng, t, info);
	if (!gen_insn(g, &rng, b, info))
		return false;
	branch = info->cls == CL_BRANCH || (info->cls == CL_SEG && info->insn.meta.branch_type) ||
	         info->insn.mnemonic == ZYDIS_MNEMONIC_IRET ||
	         info->insn.mnemonic == ZYDIS_MNEMONIC_IRETD ||
	         info->insn.mnemonic == ZYDIS_MNEMONIC_IRETQ;
	state_random(&rng, &t->st, vector_lane(info));
	t->st.cs = g->mode == 64 ? SEL_USER_CS64 : SEL_USER_CS32;
	state_selectors(&t->st);
	if (g->mode == 64) {
		t->st.fs_base = rng_pct(&rng, 50) ? DATA_BASE + rng_below(&rng, DATA_SIZE)
		                                  : (rng_u64(&rng) >> 17);
		t->st.gs_base = rng_pct(&rng, 90) ? DATA_BASE + rng_below(&rng, DATA_SIZE)
		                                  : ~(rng_u64(&rng) >> 17);
	} else {
		for (int i = 0; i < 16; i++)
			t->st.gpr[i] = i < 8 ? (u32)t->st.gpr[i] : 0;
	}
	t->image = rng_below(&rng, DATA_IMAGES);
	t->nr_insns = 1;
	m.rip = t->st.rip = pick_rip(&rng, info->insn.length, !branch);
	m.bytes = b;
	set_up(&m);
	if (g->mode == 32)
		for (int i = 0; i < 8; i++)
			t->st.gpr[i] = (u32)t->st.gpr[i];
	if (m.reencoded && !g->fixed && !gen_decode(g, b, 15, info))
		return false;
	t->code_len = info->insn.length;
	memcpy(t->code, b, t->code_len);
	if (t->st.rip + t->code_len > CODE_END)
		t->code_len = (u32)(CODE_END - t->st.rip);
	else if (!branch && t->st.rip + t->code_len + WAYOUT_MAX <= CODE_END)
		t->wayout =
			hostcpu_wayout(t->st.cs, t->st.rip + t->code_len, t->code + t->code_len);
	return true;
}
