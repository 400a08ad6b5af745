// SPDX-License-Identifier: MIT
/* From bytes to ops. Zydis says what the instruction is; pick_plain.c and pick_ending.c have a
 * handler for it and fill in the operands. Anything innocuous without a handler goes to
 * native_get(), anything that neither knows is #UD: no instruction runs by default.
 *
 * The bytes of a block are copied first and the copy is decoded, since another vCPU may be
 * writing them; the copy also serves to keep a block when its page was written but not its bytes.
 */
#include "engine/insn/insn.h"
#include "engine/interp/decode.h"
#include "engine/interp/native.h"

#include <string.h>

/* ---- operands ---- */

void dec_set_seg(struct dec *d, ZydisRegister seg)
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

bool dec_set_mem(struct dec *d, const ZydisDecodedOperand *o)
{
	struct op *op = d->op;
	s64 disp = o->mem.disp.has_displacement ? o->mem.disp.value : 0;

	op->index = o->mem.index ? reg_off(o->mem.index) : GPR_OFF(REG_ZERO);
	op->scale = o->mem.scale ? (u8)log2_size(o->mem.scale) : 0;
	dec_set_seg(d, o->mem.segment);
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

bool dec_has(u32 leaf, u32 sub, unsigned reg, unsigned bit, struct dec *d)
{
	u32 r[4];

	x86_cpuid_leaf(d->c, leaf, sub, r);
	return r[reg] >> bit & 1;
}

/* ---- one instruction ---- */

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
			if (!dec_set_mem(d, &d->o[k]))
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
	op->fn = dec_pick_ending(d);
	if (op->fn)
		return true;
	op->fn = dec_pick_plain(d, &end);
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
	                       dec_has(0x80000001, 0, 2, 5, d) ? ZYAN_TRUE : ZYAN_FALSE);
	ZydisDecoderEnableMode(&d->zd, ZYDIS_DECODER_MODE_TZCNT,
	                       dec_has(7, 0, 1, 3, d) ? ZYAN_TRUE : ZYAN_FALSE);
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
