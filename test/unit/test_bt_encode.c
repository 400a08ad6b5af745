// SPDX-License-Identifier: MIT
/* The re-encoder (engine/insn/encode.h): every form of instruction that the differential tests
 * know and that may run natively, with random prefixes, registers and immediates, under every kind
 * of replacement; what comes out is decoded and compared in more respects than the encoder's own
 * verification does. Then encodings and refusals byte by byte. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "../diff/forms.h"
#include "engine/bt/encode.h"

#define HOST_SP 13
#define ALL     (~0ull)

/* ---- making instructions ---- */

static unsigned make_prefixes(struct rng *r, const struct form *f, u8 *b)
{
	unsigned n = 0;

	if (rng_pct(r, 10)) {
		static const u8 seg[] = {0x64, 0x65, 0x2e, 0x36, 0x3e, 0x26};

		b[n++] = seg[rng_below(r, ARRAY_SIZE(seg))];
	}
	if (rng_pct(r, 10))
		b[n++] = 0x67;
	if (f->vex)
		return n;
	if (f->rm_kind == RM_MEM && rng_pct(r, 20))
		b[n++] = 0xf0;
	if (f->prefix)
		b[n++] = f->prefix;
	else if (rng_pct(r, 4))
		b[n++] = rng_pct(r, 50) ? 0xf2 : 0xf3; /* without meaning */
	return n;
}

/* 15 bytes: the form with random operands. */
static void make_insn(struct rng *r, const struct form *f, bool m64, u8 b[16])
{
	static const u8 pp[256] = {[0x66] = 1, [0xf3] = 2, [0xf2] = 3};
	u64 x = rng_u64(r);
	unsigned n;

	put_le64(b, rng_u64(r));
	put_le64(b + 8, rng_u64(r));
	n = make_prefixes(r, f, b);
	if (f->vex) {
		b[n++] = 0xc4;
		b[n++] = (u8)((m64 ? x & 7 : 7) << 5 | f->map);
		b[n++] = (u8)(f->w << 7 | ((x >> 3 & 15) | (m64 ? 0 : 8)) << 3 | f->l << 2 |
		              pp[f->prefix]);
	} else {
		if (m64 && (f->w || (x & 0x100)))
			b[n++] = (u8)(0x40 | f->w << 3 | (x & 7));
		if (f->map >= 1)
			b[n++] = 0x0f;
		if (f->map >= 2)
			b[n++] = f->map == 2 ? 0x38 : 0x3a;
	}
	b[n++] = f->opcode;
	if (f->rm_kind != RM_NONE)
		b[n++] = (u8)((f->rm_kind == RM_REG ? 3 : rng_below(r, 3)) << 6 |
		              (f->reg >= 0 ? (unsigned)f->reg : rng_below(r, 8)) << 3 |
		              (f->rm >= 0 && f->rm_kind == RM_REG ? (unsigned)f->rm
		                                                  : rng_below(r, 8)));
}

struct dec {
	ZydisDecodedInstruction i;
	ZydisDecodedOperand o[ZYDIS_MAX_OPERAND_COUNT];
};

static bool decode(const ZydisDecoder *d, const u8 *b, unsigned len, struct dec *out)
{
	return ZYAN_SUCCESS(ZydisDecoderDecodeFull(d, b, len, &out->i, out->o));
}

/* ---- replacements ---- */

enum kind { K_T0, K_T0_T1, K_RBX_T1, K_SP_T1, K_GS, K_ANY, NR_KINDS };

static s32 any_disp(struct rng *r)
{
	switch (rng_below(r, 4)) {
	case 0:
		return 0;
	case 1:
		return (s8)rng_u64(r);
	case 2:
		return rng_pct(r, 50) ? 128 : -129;
	default:
		return (s32)rng_u64(r);
	}
}

static void make_map(struct rng *r, enum kind k, struct enc_map *m)
{
	static const u8 base[] = {R14, R14, RBX, HOST_SP, 0};

	*m = (struct enc_map){.mem = ENC_MEM_BASE, .index = ENC_NO_INDEX};
	for (unsigned g = 0; g < 13; g++)
		m->reg[g] = g == RSP ? HOST_SP : (s8)g;
	m->reg[R13] = rng_pct(r, 50) ? R14 : R15;
	m->reg[R14] = (s8)(R14 + R15 - m->reg[R13]);
	m->reg[R15] = -1;
	if (k == K_GS) {
		m->mem = ENC_MEM_GS;
		m->disp = any_disp(r);
		return;
	}
	m->base = k == K_ANY ? (u8)rng_below(r, 16) : base[k];
	if (k == K_ANY && rng_pct(r, 50)) {
		do
			m->index = (u8)rng_below(r, 16);
		while (m->index == RSP);
	} else if (k != K_T0 && k != K_ANY) {
		m->index = R15;
	}
	if (k > K_T0_T1)
		m->disp = any_disp(r);
}

/* ---- comparing ---- */

static ZydisRegister full(ZydisRegister r)
{
	return ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, r);
}

static bool is_gpr(ZydisRegister r)
{
	return ZydisRegisterGetClass(full(r)) == ZYDIS_REGCLASS_GPR64;
}

static bool is_high(const ZydisDecodedOperand *o)
{
	return o->type == ZYDIS_OPERAND_TYPE_REGISTER && o->reg.value >= ZYDIS_REGISTER_AH &&
	       o->reg.value <= ZYDIS_REGISTER_BH;
}

/* The host's register that stands for the guest's: built up by name, not by fields. */
static ZydisRegister expected(ZydisRegister g, const struct enc_map *m)
{
	unsigned id;

	if (!is_gpr(g) || (g >= ZYDIS_REGISTER_AH && g <= ZYDIS_REGISTER_BH))
		return g;
	id = (unsigned)m->reg[ZydisRegisterGetId(full(g))];
	switch (ZydisRegisterGetClass(g)) {
	case ZYDIS_REGCLASS_GPR8: /* AL CL DL BL, AH.., SPL.. */
		return id < 4 ? ZYDIS_REGISTER_AL + id : ZYDIS_REGISTER_SPL + id - 4;
	case ZYDIS_REGCLASS_GPR16:
		return ZYDIS_REGISTER_AX + id;
	case ZYDIS_REGCLASS_GPR32:
		return ZYDIS_REGISTER_EAX + id;
	default:
		return ZYDIS_REGISTER_RAX + id;
	}
}

static bool memory_as_asked(const ZydisDecodedOperandMem *h, const struct enc_map *m)
{
	if (h->disp.value != m->disp)
		return false;
	if (m->mem == ENC_MEM_GS)
		return h->segment == ZYDIS_REGISTER_GS && h->base == ZYDIS_REGISTER_NONE &&
		       h->index == ZYDIS_REGISTER_NONE;
	if (h->segment == ZYDIS_REGISTER_GS ||
	    h->base != (ZydisRegister)(ZYDIS_REGISTER_RAX + m->base))
		return false;
	if (m->index == ENC_NO_INDEX)
		return h->index == ZYDIS_REGISTER_NONE;
	return h->index == (ZydisRegister)(ZYDIS_REGISTER_RAX + m->index) && h->scale == 1;
}

static bool operand_same(const struct dec *g, const struct dec *h, unsigned n,
                         const struct enc_map *m)
{
	const ZydisDecodedOperand *a = &g->o[n], *b = &h->o[n];
	bool m64 = g->i.machine_mode == ZYDIS_MACHINE_MODE_LONG_64;

	if (a->actions != b->actions)
		return false;
	if (m->rm_gs && a->encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM)
		return a->size == b->size && b->type == ZYDIS_OPERAND_TYPE_MEMORY &&
		       memory_as_asked(&b->mem, m);
	if (a->type != b->type)
		return false;
	switch (a->type) {
	case ZYDIS_OPERAND_TYPE_REGISTER:
		if (ZydisRegisterGetClass(a->reg.value) == ZYDIS_REGCLASS_FLAGS)
			return ZydisRegisterGetClass(b->reg.value) == ZYDIS_REGCLASS_FLAGS;
		if (b->reg.value == expected(a->reg.value, m))
			return a->size == b->size && a->element_size == b->element_size &&
			       a->element_count == b->element_count &&
			       /* EXTRACTPS: Zydis types its two forms differently */
			       (m->rm_gs || a->element_type == b->element_type);
		/* VPCMPESTRI with VEX.W outside 64-bit code */
		return !m64 && a->visibility != ZYDIS_OPERAND_VISIBILITY_EXPLICIT &&
		       full(b->reg.value) == a->reg.value;
	case ZYDIS_OPERAND_TYPE_MEMORY:
		return a->size == b->size && a->element_size == b->element_size &&
		       a->element_type == b->element_type && memory_as_asked(&b->mem, m);
	case ZYDIS_OPERAND_TYPE_IMMEDIATE:
		return m64 ? a->imm.value.u == b->imm.value.u
		           : (u32)a->imm.value.u == (u32)b->imm.value.u;
	default:
		return false;
	}
}

static bool insn_same(const struct dec *g, const struct dec *h, const struct enc_map *m)
{
	const ZydisAccessedFlags *f = g->i.cpu_flags, *k = h->i.cpu_flags;

	if (g->i.mnemonic != h->i.mnemonic || g->i.operand_count != h->i.operand_count ||
	    g->i.meta.isa_set != h->i.meta.isa_set || g->i.encoding != h->i.encoding ||
	    g->i.avx.vector_length != h->i.avx.vector_length || !f != !k)
		return false;
	if ((g->i.attributes ^ h->i.attributes) & ZYDIS_ATTRIB_HAS_LOCK)
		return false;
	if (f && (f->tested != k->tested || f->modified != k->modified || f->set_0 != k->set_0 ||
	          f->set_1 != k->set_1 || f->undefined != k->undefined))
		return false;
	for (unsigned i = 0; i < g->i.operand_count; i++)
		if (!operand_same(g, h, i, m))
			return false;
	return true;
}

static void describe(const struct dec *g, const u8 *b, const u8 *out, unsigned len,
                     const struct enc_map *m)
{
	ZydisFormatter f;
	char text[128] = "?";

	ZydisFormatterInit(&f, ZYDIS_FORMATTER_STYLE_INTEL);
	ZydisFormatterFormatInstruction(&f, &g->i, g->o, g->i.operand_count_visible, text,
	                                sizeof(text), 0, NULL);
	print_error("%s:", text);
	for (unsigned i = 0; i < g->i.length; i++)
		print_error(" %02x", b[i]);
	print_error(" ->");
	for (unsigned i = 0; i < len; i++)
		print_error(" %02x", out[i]);
	print_error("; mem %d base %d index %d disp %d rm_gs %d\n", m->mem, m->base, m->index,
	            m->disp, m->rm_gs);
}

/* ---- the sweep ---- */

struct tally {
	ZydisDecoder host;
	unsigned done, cls[INSN_XSAVE + 1];
	unsigned gs_done, gs_refused, high_refused, no_place;
};

static bool has_high(const struct dec *g)
{
	for (unsigned i = 0; i < g->i.operand_count; i++)
		if (is_high(&g->o[i]))
			return true;
	return false;
}

/* Names a register without a place (the guest's R15)? With rm_gs, ModRM.rm has one. */
static bool homeless(const struct dec *g, const struct enc_map *m)
{
	for (unsigned i = 0; i < g->i.operand_count; i++)
		if (g->o[i].type == ZYDIS_OPERAND_TYPE_REGISTER && is_gpr(g->o[i].reg.value) &&
		    m->reg[ZydisRegisterGetId(full(g->o[i].reg.value))] < 0 &&
		    !(m->rm_gs && g->o[i].encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM))
			return true;
	return false;
}

static void one(struct tally *t, const struct dec *g, const u8 *b, const struct enc_map *m)
{
	u8 out[ENC_MAX + 16];
	struct dec h;
	unsigned len;

	memset(out, 0xcc, sizeof(out));
	len = bt_encode(out, &g->i, g->o, b, m, NULL);
	if (homeless(g, m)) {
		t->no_place++;
		assert_int_equal(len, 0);
		return;
	}
	if (!len && m->rm_gs) {
		t->gs_refused++;
		return;
	}
	if (!len && has_high(g)) {
		t->high_refused++;
		return;
	}
	if (!len || len > 15 || !decode(&t->host, out, len, &h) || h.i.length != len ||
	    !insn_same(g, &h, m)) {
		describe(g, b, out, len, m);
		fail_msg("encoded wrongly, or not at all");
	}
	t->done++;
	t->gs_done += m->rm_gs;
}

static bool rm_is_gpr(const struct dec *g)
{
	for (unsigned i = 0; i < g->i.operand_count; i++)
		if (g->o[i].type == ZYDIS_OPERAND_TYPE_REGISTER && is_gpr(g->o[i].reg.value) &&
		    g->o[i].encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM)
			return true;
	return false;
}

static void sweep(unsigned mode, unsigned rounds, struct tally *t)
{
	struct forms forms;
	struct rng r;

	memset(t, 0, sizeof(*t));
	ZydisDecoderInit(&t->host, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	assert_int_equal(forms_create(&forms, mode), 0);
	rng_seed(&r, 1, mode);
	for (unsigned k = 0; k < forms.count * rounds; k++) {
		struct enc_map m;
		struct insn_info info;
		struct dec g;
		u8 b[16];

		make_insn(&r, &forms.form[k % forms.count], mode == 64, b);
		if (!decode(&forms.decoder, b, 15, &g) || !bt_insn_info(&info, ALL, &g.i, g.o))
			continue;
		t->cls[info.cls]++;
		make_map(&r, k / forms.count % NR_KINDS, &m);
		one(t, &g, b, &m);
		if (mode != 64 || !rm_is_gpr(&g))
			continue;
		make_map(&r, K_GS, &m);
		m.rm_gs = true;
		m.rm_gs_low32 = rng_pct(&r, 50);
		one(t, &g, b, &m);
	}
	forms_destroy(&forms);
	print_message("mode %u: %u encoded, %u by rm_gs (%u refused), %u refused for AH..BH, "
	              "%u for want of a register\n",
	              mode, t->done, t->gs_done, t->gs_refused, t->high_refused, t->no_place);
}

static void test_sweep_64(void **state)
{
	struct tally t;

	sweep(64, 30, &t);
	assert_true(t.done > 40000 && t.gs_done > 3000 && t.gs_refused && t.high_refused &&
	            t.no_place);
	for (unsigned i = INSN_INT; i <= INSN_AVX; i++)
		assert_true(t.cls[i] > 500);
}

static void test_sweep_32(void **state)
{
	struct tally t;

	sweep(32, 30, &t);
	assert_true(t.done > 40000);
	for (unsigned i = INSN_INT; i <= INSN_AVX; i++)
		assert_true(t.cls[i] > 500);
}

/* ---- byte by byte ---- */

static const struct enc_map gs_map = {
	.reg = {0, 1, 2, 3, 13, 5, 6, 7, 8, 9, 10, 11, 12, -1, -1, -1},
	.mem = ENC_MEM_GS,
	.disp = 0x1234,
};

static unsigned encode(unsigned bits, const char *code, unsigned len, const struct enc_map *m,
                       u8 out[ENC_MAX])
{
	ZydisDecoder d;
	struct dec g;

	if (bits == 64)
		ZydisDecoderInit(&d, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	else if (bits == 32)
		ZydisDecoderInit(&d, ZYDIS_MACHINE_MODE_LONG_COMPAT_32, ZYDIS_STACK_WIDTH_32);
	else
		ZydisDecoderInit(&d, ZYDIS_MACHINE_MODE_LONG_COMPAT_16, ZYDIS_STACK_WIDTH_16);
	assert_true(decode(&d, (const u8 *)code, len, &g));
	assert_int_equal(g.i.length, len);
	return bt_encode(out, &g.i, g.o, (const u8 *)code, m, NULL);
}

#define REFUSED(bits, code, m)                                                                     \
	do {                                                                                       \
		u8 out_[ENC_MAX];                                                                  \
		assert_int_equal(encode(bits, code, sizeof(code) - 1, m, out_), 0);                \
	} while (0)
#define BECOMES(bits, code, m, want)                                                               \
	do {                                                                                       \
		u8 out_[ENC_MAX];                                                                  \
		assert_int_equal(encode(bits, code, sizeof(code) - 1, m, out_), sizeof(want) - 1); \
		assert_memory_equal(out_, want, sizeof(want) - 1);                                 \
	} while (0)

static void test_rm_gs(void **state)
{
	struct enc_map m = gs_map, low = gs_map;

	m.rm_gs = low.rm_gs = low.rm_gs_low32 = true;
	/* add r14, rax */
	BECOMES(64, "\x49\x01\xc6", &m, "\x65\x48\x01\x04\x25\x34\x12\x00\x00");
	/* mov rsp, r15: RSP lives in R13 */
	BECOMES(64, "\x49\x8b\xe7", &m, "\x65\x4c\x8b\x2c\x25\x34\x12\x00\x00");
	/* cmp r13b, 5 */
	BECOMES(64, "\x41\x80\xfd\x05", &m, "\x65\x80\x3c\x25\x34\x12\x00\x00\x05");
	/* mov r14w, 0x1122 */
	BECOMES(64, "\x66\x41\xc7\xc6\x22\x11", &m, "\x65\x66\xc7\x04\x25\x34\x12\x00\x00\x22\x11");
	/* test r14d, eax reads only; add r14d, eax clears the upper half */
	BECOMES(64, "\x41\x85\xc6", &m, "\x65\x85\x04\x25\x34\x12\x00\x00");
	REFUSED(64, "\x41\x01\xc6", &m);
	BECOMES(64, "\x41\x01\xc6", &low, "\x65\x01\x04\x25\x34\x12\x00\x00");
	/* cvtsi2sd xmm1, r14; andn rax, rcx, r15 */
	BECOMES(64, "\xf2\x49\x0f\x2a\xce", &m, "\x65\xf2\x48\x0f\x2a\x0c\x25\x34\x12\x00\x00");
	BECOMES(64, "\xc4\xc2\xf0\xf2\xc7", &m, "\x65\xc4\xe2\xf0\xf2\x04\x25\x34\x12\x00\x00");
	REFUSED(64, "\x49\x0f\xab\xc6", &low); /* bts r14, rax: beyond the slot */
	BECOMES(64, "\x49\x0f\xba\xee\x07", &low, "\x65\x48\x0f\xba\x2c\x25\x34\x12\x00\x00\x07");
	REFUSED(64, "\x45\x0f\xb1\xce", &low);             /* cmpxchg r14d, r9d */
	REFUSED(64, "\x66\x41\x0f\x3a\x14\xc6\x01", &low); /* pextrb r14d, xmm0, 1 */
	REFUSED(64, "\x66\x41\x0f\xc4\xc6\x01", &low);     /* pinsrw xmm0, r14d, 1 */
	REFUSED(64, "\x49\x0f\xc7\xf6", &low);             /* rdrand r14: VMPTRLD with memory */
	REFUSED(64, "\x66\x41\x8c\xdd", &low);             /* mov r13w, ds */
	REFUSED(64, "\x4d\x01\xf6", &low);                 /* add r14, r14: one has no place */
	REFUSED(64, "\x0f\x28\xc8", &low);                 /* movaps: no general register */
}

static void test_forms(void **state)
{
	struct enc_map b = gs_map;

	b.mem = ENC_MEM_BASE;
	b.base = R14;
	b.index = ENC_NO_INDEX;
	b.disp = 0;
	/* [rip + 0x10], [rax], absolute: all the same */
	BECOMES(64, "\x48\x03\x0d\x10\x00\x00\x00", &b, "\x49\x03\x0e");
	BECOMES(64, "\x65\x48\x03\x08", &b, "\x49\x03\x0e");
	BECOMES(64, "\xf0\x67\x48\x0f\xc1\x08", &b, "\xf0\x49\x0f\xc1\x0e"); /* lock xadd */
	BECOMES(64, "\xf2\xf0\x0f\xb1\x08", &b, "\xf0\x41\x0f\xb1\x0e");     /* xacquire */
	REFUSED(64, "\x88\x23", &b);                     /* mov [rbx], ah: [r14] needs REX */
	REFUSED(64, "\x48\x8d\x08", &b);                 /* lea */
	REFUSED(64, "\x50", &b);                         /* push rax: hidden operand */
	REFUSED(64, "\xa4", &b);                         /* movsb */
	REFUSED(64, "\x8e\xd8", &b);                     /* mov ds, eax */
	REFUSED(64, "\x0f\x22\xd8", &b);                 /* mov cr3, rax */
	REFUSED(64, "\x49\xf7\xe5", &b);                 /* mul r13: without a place */
	BECOMES(64, "\x48\xf7\xe4", &b, "\x49\xf7\xe5"); /* mul rsp */
	BECOMES(64, "\x40\x88\xe0", &b, "\x44\x88\xe8"); /* mov al, spl */
	BECOMES(64, "\x48\x94", &b, "\x49\x95");         /* xchg rax, rsp */
	BECOMES(64, "\x48\x0f\xcc", &b, "\x49\x0f\xcd"); /* bswap rsp */
	b.base = RBX;
	BECOMES(64, "\x88\x21", &b, "\x88\x23"); /* mov [rcx], ah */
	b.base = HOST_SP;
	BECOMES(64, "\x01\x08", &b, "\x41\x01\x4d\x00");
	b.base = R12;
	BECOMES(64, "\x01\x08", &b, "\x41\x01\x0c\x24");
	b.index = R15;
	b.disp = 128;
	BECOMES(64, "\x01\x08", &b, "\x43\x01\x8c\x3c\x80\x00\x00\x00");
	/* The accumulator and an absolute address */
	b.base = R14;
	b.index = ENC_NO_INDEX;
	b.disp = 0;
	BECOMES(64, "\x48\xa1\x88\x77\x66\x55\x44\x33\x22\x11", &b, "\x49\x8b\x06");
	BECOMES(64, "\xa2\x88\x77\x66\x55\x44\x33\x22\x11", &b, "\x41\x88\x06");
	BECOMES(32, "\x66\xa3\x88\x77\x66\x55", &b, "\x66\x41\x89\x06");
	BECOMES(16, "\xa1\x88\x77", &b, "\x66\x41\x8b\x06");
	/* 32-bit code: INC ESP, DEC CX, 82, a VEX register field's top bit, 16-bit addresses */
	BECOMES(32, "\x44", &b, "\x41\xff\xc5");
	BECOMES(32, "\x66\x49", &b, "\x66\xff\xc9");
	BECOMES(32, "\x82\xc0\x05", &b, "\x80\xc0\x05");
	BECOMES(32, "\x67\x01\x48\x10", &b, "\x41\x01\x0e");
	BECOMES(32, "\xc4\xe2\xb0\xf2\xc2", &b, "\xc4\xe2\x70\xf2\xc2"); /* andn, W and vvvv */
	BECOMES(16, "\x01\xd8", &b, "\x66\x01\xd8");
	BECOMES(16, "\x66\x01\xd8", &b, "\x01\xd8");
}

static const struct CMUnitTest tests[] = {
	cmocka_unit_test(test_sweep_64),
	cmocka_unit_test(test_sweep_32),
	cmocka_unit_test(test_rm_gs),
	cmocka_unit_test(test_forms),
};

int main(void)
{
	return cmocka_run_group_tests(tests, NULL, NULL);
}
