// SPDX-License-Identifier: MIT
/* Sequences: some instructions in a row, as translators see them. A few registers hold
 * addresses in the data pages and are not written, so that memory operands stay good; branches go
 * forward only, to the beginning of an instruction or to the end, so every sequence ends. */
#include "gen.h"

#include "cpu/x86/defs.h"
#include "hostcpu.h"

/* RBX, RBP, RSI, RDI, R12..R15; RSP is the stack's. */
#define POINTERS 0xf0e8u
#define STACK    0x0010u

struct seq {
	u32 at[9];     /* where each instruction begins, and the end */
	u32 branch[8]; /* offset of a rel32 to be filled in, or 0 */
	unsigned count;
};

static int gpr64_of(ZydisRegister reg)
{
	switch (ZydisRegisterGetClass(reg)) {
	case ZYDIS_REGCLASS_GPR8:
	case ZYDIS_REGCLASS_GPR16:
	case ZYDIS_REGCLASS_GPR32:
	case ZYDIS_REGCLASS_GPR64:
		return ZydisRegisterGetId(
			ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, reg));
	default:
		return -1;
	}
}

static bool class_fits(const struct case_info *info)
{
	switch (info->cls) {
	case CL_ALU:
	case CL_SHIFT:
	case CL_MULDIV:
	case CL_BIT:
	case CL_ATOMIC:
	case CL_STRING:
	case CL_STACK:
	case CL_X87:
	case CL_MMX:
	case CL_SSE:
	case CL_AVX:
		break;
	default:
		return false;
	}
	/* OF of a rotation by more than one, and what would flow from it. */
	if (info->insn.meta.category == ZYDIS_CATEGORY_ROTATE)
		return false;
	switch (info->insn.mnemonic) {
	case ZYDIS_MNEMONIC_POPF:
	case ZYDIS_MNEMONIC_POPFD:
	case ZYDIS_MNEMONIC_POPFQ:
	case ZYDIS_MNEMONIC_ENTER:
	case ZYDIS_MNEMONIC_LEAVE:
	case ZYDIS_MNEMONIC_XLAT:
		return false;
	default:
		return !(info->insn.attributes &
		         (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE));
	}
}

/* Do the operands keep to the rules? Displacements are made to. */
static bool operands_fit(const struct case_info *info, struct rng *r, u8 *b, u64 next)
{
	const ZydisDecodedInstruction *insn = &info->insn;

	for (unsigned i = 0; i < insn->operand_count; i++) {
		const ZydisDecodedOperand *op = &info->ops[i];
		bool hidden = op->visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN;

		if (op->type == ZYDIS_OPERAND_TYPE_REGISTER && !hidden) {
			int g = gpr64_of(op->reg.value);

			if (g >= 0 && (op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) &&
			    ((POINTERS | STACK) >> g & 1))
				return false;
			if (ZydisRegisterGetClass(op->reg.value) == ZYDIS_REGCLASS_SEGMENT)
				return false;
		}
		if (op->type != ZYDIS_OPERAND_TYPE_MEMORY ||
		    op->mem.type == ZYDIS_MEMOP_TYPE_AGEN || hidden)
			continue;
		if (insn->address_width != 64 || op->mem.index != ZYDIS_REGISTER_NONE ||
		    op->mem.segment == ZYDIS_REGISTER_FS || op->mem.segment == ZYDIS_REGISTER_GS ||
		    op->mem.type != ZYDIS_MEMOP_TYPE_MEM || (info->cls == CL_BIT && i == 0))
			return false;
		if (op->mem.base == ZYDIS_REGISTER_RIP)
			put_le32(b + insn->raw.disp.offset,
			         (u32)(DATA_BASE + 4096 + rng_below(r, 64) * 64 - next));
		else if (op->mem.base == ZYDIS_REGISTER_NONE ||
		         !(POINTERS >> gpr64_of(op->mem.base) & 1))
			return false;
		else if (insn->raw.disp.size == 32)
			put_le32(b + insn->raw.disp.offset, rng_below(r, 64) * 16);
	}
	return true;
}

static bool add_insn(const struct gen *g, struct rng *r, struct seq *q, struct tcase *t)
{
	struct case_info info;
	u8 b[16];

	for (int tries = 0; tries < 200; tries++) {
		u32 at = q->at[q->count];

		if (!gen_insn(g, r, b, &info) || !class_fits(&info) ||
		    !operands_fit(&info, r, b, t->st.rip + at + info.insn.length) ||
		    !gen_decode(g, b, 15, &info))
			continue;
		memcpy(t->code + at, b, info.insn.length);
		q->branch[q->count] = 0;
		q->at[++q->count] = at + info.insn.length;
		return true;
	}
	return false;
}

static void add_branch(struct rng *r, struct seq *q, struct tcase *t)
{
	u32 at = q->at[q->count];
	u8 *p = t->code + at;

	if (rng_pct(r, 20)) {
		*p++ = 0xe9; /* jmp rel32 */
	} else {
		*p++ = 0x0f; /* jcc rel32 */
		*p++ = (u8)(0x80 | rng_below(r, 16));
	}
	q->branch[q->count] = (u32)(p - t->code);
	q->at[++q->count] = (u32)(p - t->code) + 4;
}

static void sequence_state(struct rng *r, struct tcase *t)
{
	struct cpu_state *st = &t->st;

	state_random(r, st, LANE_F64);
	st->rflags &= ~(X86_RFLAGS_AC | X86_RFLAGS_NT);
	if (rng_pct(r, 90)) { /* x87 and SSE exceptions masked: go on to the end */
		put_le16(st->xsave + XS_FCW, get_le16(st->xsave + XS_FCW) | 0x3f);
		put_le16(st->xsave + XS_FSW, get_le16(st->xsave + XS_FSW) & 0x7f7f);
		put_le32(st->xsave + XS_MXCSR, get_le32(st->xsave + XS_MXCSR) | 0x1f80);
	}
	for (int i = 0; i < 16; i++)
		if (POINTERS >> i & 1)
			st->gpr[i] = DATA_BASE + 2048 + rng_below(r, 96) * 64 +
			             (rng_pct(r, 20) ? rng_below(r, 64) : 0);
	st->gpr[4] = DATA_BASE + 4096 + rng_below(r, 256) * 8;
	st->cs = SEL_USER_CS64;
	state_selectors(st);
	st->fs_base = st->gs_base = DATA_BASE;
}

bool gen_sequence(const struct gen *g, struct rng *r, struct tcase *t, struct case_info *info)
{
	struct seq q = {.count = 0};
	unsigned want = 2 + rng_below(r, g->max_insns - 1);

	if (g->mode != 64)
		return false;
	sequence_state(r, t);
	t->st.rip =
		CODE_BASE + (rng_pct(r, 10) ? 4096 - rng_below(r, 64) : 256 + rng_below(r, 3072));
	t->image = rng_below(r, DATA_IMAGES);
	while (q.count < want) {
		if (q.count + 1 < want && rng_pct(r, 15))
			add_branch(r, &q, t);
		else if (!add_insn(g, r, &q, t))
			return false;
	}
	for (unsigned i = 0; i < q.count; i++)
		if (q.branch[i])
			put_le32(t->code + q.branch[i],
			         q.at[i + 1 + rng_below(r, q.count - i)] - q.at[i + 1]);
	t->nr_insns = q.count;
	t->any_length = true;
	t->code_len = q.at[q.count];
	t->wayout = hostcpu_wayout(t->st.cs, t->st.rip + t->code_len, t->code + t->code_len);
	if (!case_decode(g, t, info))
		return false;
	info->cls = insn_class(&info->insn);
	if (info->cls < 0)
		info->cls = CL_ALU;
	return true;
}
