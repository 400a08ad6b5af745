// SPDX-License-Identifier: MIT
/* Instructions by their shape (engine/bt/shape.c): whatever has been decoded before, an instruction
 * decodes as it does when nothing has. Random instructions, each followed by others that share some
 * of its bytes: the same shape with other values, or another one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "../diff/case.h"
#include "engine/bt/xlate.h"

#define ROUNDS   8000
#define VARIANTS 12

struct shape_rig {
	struct bt_vm bt;
	struct x86_cpu *c;
	struct xlate x[2]; /* [0] remembers, [1] has forgotten all each time */
	u8 *code;          /* a page */
	unsigned decoded, found[SHAPE_CLASSIFIED + 1];
};

static void setup(struct shape_rig *r)
{
	memset(r, 0, sizeof(*r));
	r->c = calloc(1, sizeof(*r->c));
	r->code = calloc(1, PAGE_SIZE);
	assert_true(r->c && r->code);
	ZydisDecoderInit(&r->bt.decoder[0], ZYDIS_MACHINE_MODE_LONG_COMPAT_32,
	                 ZYDIS_STACK_WIDTH_32);
	ZydisDecoderInit(&r->bt.decoder[1], ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	for (unsigned i = 0; i < 2; i++) {
		r->x[i].bt = &r->bt;
		r->x[i].c = r->c;
		r->x[i].feat = ~0ull;
		r->x[i].shapes = bt_map_large(bt_shapes_size());
		assert_non_null(r->x[i].shapes);
		madvise(r->x[i].shapes, bt_shapes_size(), MADV_NOHUGEPAGE);
	}
}

static void fini(struct shape_rig *r)
{
	for (unsigned i = 0; i < 2; i++)
		bt_unmap_large(r->x[i].shapes, bt_shapes_size());
	free(r->code);
	free(r->c);
}

static void set_mode(struct shape_rig *r, u32 mode)
{
	for (unsigned i = 0; i < 2; i++) {
		r->x[i].mode = mode;
		r->x[i].code64 = mode & BTM_CODE64;
		r->x[i].user = mode & BTM_USER;
	}
}

static void print_bytes(const u8 *b, u32 mode, const char *what)
{
	printf("mode %#x, %s:", mode, what);
	for (unsigned i = 0; i < 15; i++)
		printf(" %02x", b[i]);
	printf("\n");
}

/* Fields one by one: what lies between them is anything. */
static const char *differ(const struct gi *a, const struct gi *b)
{
	if (a->len != b->len || a->off != b->off)
		return "length";
	if (a->kind != b->kind || a->helper != b->helper || a->harg != b->harg ||
	    a->arg != b->arg || a->ends != b->ends)
		return "kind";
	if (a->target != b->target)
		return "target";
	if (a->use != b->use || a->kill != b->kill || a->mod != b->mod || a->tested != b->tested ||
	    a->live != b->live || a->after != b->after || a->reads != b->reads)
		return "flags";
	if (a->mem != b->mem || a->mem_size != b->mem_size || a->mem_write != b->mem_write)
		return "memory operand";
	if (a->label || a->backward || a->nr_back || a->inner != b->inner)
		return "labels";
	if (a->info.cls != b->info.cls || a->info.allowed != b->info.allowed ||
	    a->info.special != b->info.special || a->info.nop != b->info.nop ||
	    a->info.x87_record != b->info.x87_record || a->info.fop != b->info.fop ||
	    a->info.locked != b->info.locked || a->info.bitstr != b->info.bitstr ||
	    a->info.aligned != b->info.aligned || a->info.size != b->info.size)
		return "properties";
	if (a->ends && a->len == 1 && a->helper == BT_H_INTERP)
		return NULL; /* bad: nothing else is told */
	if (memcmp(&a->i, &b->i, sizeof(a->i)))
		return "instruction";
	if (memcmp(a->o, b->o, MAX(a->i.operand_count, 3u) * sizeof(a->o[0])))
		return "operands";
	return NULL;
}

/* The instruction at `off` of the page, `next` behind it. */
static void decode_both(struct shape_rig *r, unsigned off, const u8 *next)
{
	u8 buf[2][16] = {{0}}, bytes[16] = {0};
	static struct gi g[2]; /* stale from the one before, as the translator's are */
	unsigned len[2], have = MIN((unsigned)PAGE_SIZE - off, 15u);
	const char *what;

	madvise(r->x[1].shapes, bt_shapes_size(), MADV_DONTNEED);
	memcpy(bytes, r->code + off, have);
	if (next)
		memcpy(bytes + have, next, 15 - have);
	r->decoded++;
	r->found[bt_shape_find(&r->x[0], bytes, next ? 15 : have, &g[0])]++;
	for (unsigned i = 0; i < 2; i++)
		len[i] = gi_decode(&r->x[i], r->code, next, off, buf[i], &g[i]);
	what = len[0] != len[1] ? "length" : len[0] ? differ(&g[0], &g[1]) : NULL;
	if (what) {
		print_bytes(bytes, r->x[0].mode, what);
		fail();
	}
}

static void random_insn(struct rng *s, u8 *b)
{
	static const u8 prefixes[] = {0x66, 0xf2, 0xf3, 0xf0, 0x64, 0x65, 0x2e, 0x36, 0x3e, 0x67};
	unsigned n = 0;

	for (unsigned i = 0; i < 15; i++)
		b[i] = (u8)rng_u64(s);
	while (rng_pct(s, 15) && n < 5)
		b[n++] = prefixes[rng_below(s, ARRAY_SIZE(prefixes))];
	if (rng_pct(s, 50))
		b[n++] = (u8)(0x40 | rng_below(s, 16));
	if (rng_pct(s, 35)) {
		b[n++] = 0x0f;
		if (rng_pct(s, 15))
			b[n++] = rng_pct(s, 50) ? 0x38 : 0x3a;
	}
}

/* One at a random place, then others that differ from some byte on, or in one byte. */
static void one_family(struct shape_rig *r, struct rng *s)
{
	unsigned off = rng_pct(s, 20) ? PAGE_SIZE - 1 - rng_below(s, 15) : rng_below(s, 4000);
	u8 b[15], v[15], tail[15] = {0};

	random_insn(s, b);
	for (unsigned k = 0; k < VARIANTS; k++) {
		unsigned from = rng_below(s, 15), n = rng_pct(s, 50) ? 1 : 15 - from, room;
		bool next = rng_pct(s, 50);

		memcpy(v, b, 15);
		for (unsigned i = from; k && i < from + n; i++)
			v[i] = (u8)rng_u64(s);
		if (rng_pct(s, 30)) /* elsewhere: what depends on the place shows */
			off = rng_below(s, 4000);
		room = MIN((unsigned)PAGE_SIZE - off, 15u);
		memcpy(r->code + off, v, room);
		memcpy(tail, v + room, 15 - room);
		decode_both(r, off, next && room < 15 ? tail : NULL);
	}
}

static void test_random(void **state)
{
	static const u32 modes[] = {
		BTM_VALID | BTM_CODE64,
		BTM_VALID | BTM_CODE64 | BTM_AC | BTM_FPU,
		BTM_VALID | BTM_CODE64 | BTM_USER | BTM_FPU | BTM_AVX,
		BTM_VALID | BTM_USER | BTM_FPU | BTM_AVX,
		BTM_VALID,
	};
	struct shape_rig *r = calloc(1, sizeof(*r));
	struct rng s;

	assert_non_null(r);
	setup(r);
	rng_seed(&s, 1, 0);
	for (unsigned i = 0; i < ROUNDS; i++) {
		set_mode(r, modes[rng_below(&s, ARRAY_SIZE(modes))]);
		r->c->inputs = rng_pct(&s, 5) ? (void *)r : NULL;
		one_family(r, &s);
	}
	printf("%u decoded, %u of a known shape, %u of these to be classified\n", r->decoded,
	       r->found[SHAPE_CLASSIFIED] + r->found[SHAPE_DECODED], r->found[SHAPE_DECODED]);
	/* Else nothing was tested. */
	assert_true(r->found[SHAPE_CLASSIFIED] > r->decoded / 8);
	assert_true(r->found[SHAPE_DECODED] > r->decoded / 100);
	fini(r);
	free(r);
}

/* What a program is made of must be remembered, and an instruction cut off at the page's end is not
 * what the whole one was. */
static void test_known(void **state)
{
	static const struct {
		u8 len, b[10];
	} all[] = {
		{3, {0x48, 0x89, 0xc3}},                         /* mov rbx, rax */
		{5, {0x48, 0x8b, 0x44, 0x24, 0x18}},             /* mov rax, [rsp + 0x18] */
		{7, {0x48, 0x8b, 0x05, 0x11, 0x22, 0x33, 0x44}}, /* mov rax, [rip + ...] */
		{8,
	         {0x48, 0x81, 0x43, 0x10, 0x78, 0x56, 0x34, 0x12}}, /* add qword [rbx + 16], ... */
		{10, {0x48, 0xb8, 1, 2, 3, 4, 5, 6, 7, 8}},         /* mov rax, imm64 */
		{2, {0x74, 0x10}},                                  /* jz */
		{6, {0x0f, 0x85, 1, 2, 0, 0}},                      /* jnz */
		{5, {0xe8, 0, 1, 0, 0}},                            /* call */
		{1, {0x55}},                                        /* push rbp */
		{4, {0x48, 0xc1, 0xe8, 0x05}},                      /* shr rax, 5 */
		{5, {0x48, 0x0f, 0xa4, 0xc3, 0x05}},                /* shld rbx, rax, 5 */
		{3, {0x0f, 0x01, 0xcb}},                            /* stac */
		{4, {0x0f, 0xb6, 0x04, 0x08}},                      /* movzx eax, [rax + rcx] */
	};
	struct shape_rig *r = calloc(1, sizeof(*r));

	assert_non_null(r);
	setup(r);
	set_mode(r, BTM_VALID | BTM_CODE64);
	for (unsigned i = 0; i < ARRAY_SIZE(all); i++) {
		unsigned found = r->found[SHAPE_UNKNOWN];

		memcpy(r->code, all[i].b, all[i].len);
		decode_both(r, 0, NULL);
		memcpy(r->code + 64, all[i].b, all[i].len);
		decode_both(r, 64, NULL);
		assert_int_equal(r->found[SHAPE_UNKNOWN], found + 1);
		r->code[64 + all[i].len - 1] = 0; /* a shift by none, and others */
		decode_both(r, 64, NULL);
		for (unsigned n = 1; n < all[i].len; n++) {
			struct gi g;
			u8 buf[16];

			memcpy(r->code + PAGE_SIZE - n, all[i].b, n);
			assert_int_equal(gi_decode(&r->x[0], r->code, NULL, PAGE_SIZE - n, buf, &g),
			                 0);
		}
	}
	fini(r);
	free(r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_random),
		cmocka_unit_test(test_known),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
