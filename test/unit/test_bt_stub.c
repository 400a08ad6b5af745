// SPDX-License-Identifier: MIT
/* The translator's runtime by itself: hand-made units in the cache, and what the stubs, the return
 * stack, host exceptions, links, flushes and stores to code do with them. */
#include "cpurig.h"
#include "engine/bt/asm.h"
#include "engine/bt/helpers.h"
#include "engine/bt/runtime.h"
#include "engine/bt/xlate.h"
#include "engine/interp/interp.h"

#define CODE  0x10000 /* identity-mapped, as is everything */
#define CODE2 0x12000
#define DATA  0x20000

struct fix {
	struct cpurig r;
	struct bt_vm *bt;
	struct bt_cpu *b;
	struct bt_priv *pv;
	struct bt_asm a;
	u32 page;
};

static bool supported(void)
{
	char why[100];

	return bt_engine.probe(why, sizeof(why)) == 0;
}

static u32 page_at(struct fix *f, u64 va)
{
	const struct itlb_entry *e = mmu_fetch(f->r.c, va);
	u64 ram = pmap_page(f->r.c->pmap, e->hva);
	u32 id = bt_page_get(f->bt, e->gpa, ram, bt_mode(f->r.c));

	pmap_code_mark(f->r.c->pmap, e->code_ver);
	bt_pb_set(f->b, id, va, false);
	return id;
}

static struct fix *setup(void)
{
	struct fix *f = calloc(1, sizeof(*f));
	struct vcpu *v;

	assert_non_null(f);
	rig_init(&f->r, 1);
	rig_long_mode(&f->r);
	f->r.c->cr4 |= CR4_OSFXSR | CR4_OSXMMEXCPT;
	v = f->r.vm.vcpu[0];
	f->r.vm.engine = v->engine = &bt_engine;
	assert_int_equal(bt_engine.vm_create(&f->r.vm), 0);
	assert_int_equal(bt_engine.vcpu_create(v), 0);
	f->bt = f->r.vm.engine_vm;
	f->b = v->engine_state;
	f->pv = f->bt->priv;
	assert_int_equal(interp_enter(f->r.c), 0);
	assert_int_equal(bt_thread_init(f->b), 0);
	bt_enter_inside(f->b);
	f->page = page_at(f, CODE);
	f->a = (struct bt_asm){.base = f->bt->cache.rw,
	                       .p = f->bt->cache.rw + f->bt->cache.used,
	                       .end = f->bt->cache.rw + f->bt->cache.size};
	return f;
}

static void teardown(struct fix *f)
{
	x86_fpu_put(f->r.c);
	bt_leave_inside(f->b);
	rig_fini(&f->r);
	free(f);
}

static u32 stub(const struct fix *f, enum bt_stub s)
{
	return (u32)(f->bt->stub[s] - (uintptr_t)f->bt->cache.rx);
}

/* jmp STUB_EXIT with a number */
static void leave_by(struct fix *f, u32 exit)
{
	as_mov_i32(&f->a, BT_T1, exit);
	as_jmp(&f->a, stub(f, STUB_EXIT));
}

static void emit(struct fix *f, const char *bytes, unsigned n)
{
	as_bytes(&f->a, bytes, n);
}

/* Run what was emitted from `at` on; -1: an exception was raised. */
static int run(struct fix *f, u32 at)
{
	struct x86_cpu *c = f->r.c;
	volatile int why = -1;

	f->bt->cache.used = as_here(&f->a);
	c->unwind_valid = true;
	if (!setjmp(c->unwind)) {
		x86_fpu_get(c);
		why = f->pv->enter(c, (uintptr_t)f->bt->cache.rx + at);
	}
	c->unwind_valid = false;
	x86_fpu_put(c);
	return why;
}

/* A unit of one instruction at guest offset `off`, its host code what was emitted from `at` on. */
static void add_unit(struct fix *f, u32 at, u16 off, u8 len)
{
	f->bt->insns[f->bt->nr_insns] = (struct bt_insn){.host = at, .guest = off, .len = len};
	f->bt->units[f->bt->nr_units++] = (struct bt_unit){.page = f->page,
	                                                   .page2 = BT_NONE,
	                                                   .mode = bt_mode(f->r.c),
	                                                   .host = at,
	                                                   .host_end = as_here(&f->a),
	                                                   .insns = f->bt->nr_insns++,
	                                                   .nr_insns = 1,
	                                                   .next = BT_NONE};
}

static void test_registers(void **state)
{
	struct fix *f = setup();
	struct x86_cpu *c = f->r.c;
	u32 at = as_here(&f->a);

	for (unsigned r = 0; r < 16; r++)
		c->gpr[r] = 0x1111111111111111ull * r + 5;
	c->aflags = X86_RFLAGS_CF | X86_RFLAGS_OF | X86_RFLAGS_AF | X86_RFLAGS_PF;
	for (unsigned r = 0; r < 13; r++)
		as_lea(&f->a, true, bt_home(r), bt_home(r), -1, 0, 1);
	leave_by(f, 77);
	assert_int_equal(run(f, at), BT_LEAVE_EXIT);
	assert_int_equal(f->b->exit, 77);
	for (unsigned r = 0; r < 16; r++)
		assert_int_equal(c->gpr[r], 0x1111111111111111ull * r + 5 + (r < 13));
	assert_int_equal(c->aflags & AFLAGS,
	                 X86_RFLAGS_CF | X86_RFLAGS_OF | X86_RFLAGS_AF | X86_RFLAGS_PF);
	/* ... and the complement */
	c->aflags = X86_RFLAGS_ZF | X86_RFLAGS_SF;
	assert_int_equal(run(f, at), BT_LEAVE_EXIT);
	assert_int_equal(c->aflags & AFLAGS, X86_RFLAGS_ZF | X86_RFLAGS_SF);
	assert_int_equal(f->b->ret_sp, f->b->ret_top);
	teardown(f);
}

/* The jump cache leads `target` to an address in the cache. */
static void jc_to(struct fix *f, bool user, u64 target, uintptr_t host)
{
	u32 n = f->bt->nr_entries++;

	f->bt->entries[n] =
		(struct bt_entry){.page = 1, .indirect = (u32)(host - (uintptr_t)f->bt->cache.rx)};
	bt_jc_set(f->b, user, target, n);
}

static void test_lookup_and_jump_cache(void **state)
{
	struct fix *f = setup();
	u32 at = as_here(&f->a), other;

	as_mov_i64(&f->a, BT_T0, 0x123456789abcull);
	as_jmp(&f->a, stub(f, STUB_INDIRECT_SUP));
	other = as_here(&f->a);
	leave_by(f, 5);
	assert_int_equal(run(f, at), BT_LEAVE_LOOKUP);
	assert_int_equal(f->r.c->rip, 0x123456789abcull);
	jc_to(f, false, 0x123456789abcull, (uintptr_t)f->bt->cache.rx + other);
	assert_int_equal(run(f, at), BT_LEAVE_EXIT);
	assert_int_equal(f->b->exit, 5);
	bt_jc_reset(f->b, false);
	assert_int_equal(run(f, at), BT_LEAVE_LOOKUP);
	teardown(f);
}

/* ---- the return stack ---- */

static void test_underflow(void **state)
{
	struct fix *f = setup();
	u32 at = as_here(&f->a);

	as_mov_i64(&f->a, BT_T0, 0xabcdef);
	emit(f, "\xc3", 1);
	f->r.c->aflags = X86_RFLAGS_CF | X86_RFLAGS_ZF;
	for (unsigned i = 0; i < 3; i++) {
		f->r.c->rip = 0;
		assert_int_equal(run(f, at), BT_LEAVE_LOOKUP);
		assert_int_equal(f->r.c->rip, 0xabcdef);
		assert_int_equal(f->b->ret_sp, f->b->ret_top);
		assert_int_equal(f->r.c->aflags & AFLAGS, X86_RFLAGS_CF | X86_RFLAGS_ZF);
	}
	/* At CPL 3 it goes by the user's jump cache. */
	rig_user(&f->r);
	jc_to(f, true, 0xabcdef, f->bt->stub[STUB_EXIT]);
	assert_int_equal(run(f, at), BT_LEAVE_EXIT);
	teardown(f);
}

static void test_overflow(void **state)
{
	struct fix *f = setup();
	struct x86_cpu *c = f->r.c;
	u32 at = as_here(&f->a), loop;

	/* rcx times: call the next instruction */
	loop = as_here(&f->a);
	as_call(&f->a, as_here(&f->a) + 5);
	as_lea(&f->a, true, RCX, RCX, -1, 0, -1);
	emit(f, "\xe3\x05", 2); /* jrcxz over the jump */
	as_jmp(&f->a, loop);
	leave_by(f, 1);
	c->gpr[RCX] = BT_RSTACK / 8;
	assert_int_equal(run(f, at), BT_LEAVE_EXIT);
	assert_int_equal(f->b->ret_sp, f->b->ret_top - BT_RSTACK);
	c->gpr[RCX] = 1; /* the next one has no room: all is forgotten, then it is done */
	assert_int_equal(run(f, at), BT_LEAVE_EXIT);
	assert_int_equal(f->b->ret_sp, f->b->ret_top - 8);
	c->gpr[RCX] = 3 * BT_RSTACK / 8;
	assert_int_equal(run(f, at), BT_LEAVE_EXIT);
	assert_int_equal(c->gpr[RCX], 0);
	teardown(f);
}

/* ---- helpers ---- */

static void helper(struct fix *f, u64 va, unsigned h, unsigned len, u32 arg)
{
	as_mov_i64(&f->a, BT_T0, va);
	as_mov_i32(&f->a, BT_T1, BT_HARG(h, len, arg));
	as_call(&f->a, stub(f, STUB_HELPER));
}

static void test_helper(void **state)
{
	struct fix *f = setup();
	struct x86_cpu *c = f->r.c;
	u32 at = as_here(&f->a);

	helper(f, CODE + 7, BT_H_RDPID, 4, RBX);
	leave_by(f, 9);
	c->tsc_aux = 0x55;
	c->gpr[RSI] = 3;
	c->aflags = X86_RFLAGS_SF | X86_RFLAGS_CF;
	assert_int_equal(run(f, at), BT_LEAVE_EXIT);
	assert_int_equal(c->gpr[RBX], 0x55);
	assert_int_equal(c->gpr[RSI], 3);
	assert_int_equal(c->aflags & AFLAGS, X86_RFLAGS_SF | X86_RFLAGS_CF);
	assert_int_equal(f->b->ret_sp, f->b->ret_top);
	assert_int_equal(c->rip, CODE + 7);
	/* With attention it comes out behind the instruction. */
	bt_kick(f->b);
	assert_int_equal(run(f, at), BT_LEAVE_LOOKUP);
	assert_int_equal(c->rip, CODE + 11);
	assert_int_equal(f->b->ret_sp, f->b->ret_top);
	f->b->attn = 0;
	/* What it flushes may be what the code relies on. */
	at = as_here(&f->a);
	helper(f, CODE, BT_H_INVLPG, 3, 0);
	leave_by(f, 9);
	f->b->save[0] = CODE;
	assert_int_equal(run(f, at), BT_LEAVE_LOOKUP);
	assert_int_equal(f->b->pb[f->page], BT_PB_NONE);
	teardown(f);
}

static void test_helper_raises(void **state)
{
	struct fix *f = setup();
	u32 at = as_here(&f->a);

	as_call(&f->a, as_here(&f->a) + 5); /* one call deep */
	helper(f, CODE + 3, BT_H_UD, 2, 0);
	f->r.c->gpr[R12] = 0x77;
	assert_int_equal(run(f, at), -1);
	assert_int_equal(f->r.c->ev.vector, X86_UD);
	assert_int_equal(f->r.c->rip, CODE + 3);
	assert_int_equal(f->r.c->gpr[R12], 0x77);
	assert_int_equal(f->b->ret_sp, f->b->ret_top - 8);
	teardown(f);
}

/* ---- misses ---- */

static struct bt_range *slot(const struct fix *f, s32 at)
{
	return (struct bt_range *)(void *)((u8 *)f->r.c + at);
}

/* A read or write of `size` bytes at R14, `where` for R15; afterwards exit 1: again, 2: executed.
 */
static u32 miss_at(struct fix *f, bool write, u64 va, u32 flags, unsigned off, unsigned len,
                   unsigned size, u32 where)
{
	u32 at = as_here(&f->a), one, two;

	as_mov_i64(&f->a, BT_T0, va);
	as_mov_i32(&f->a, BT_T1, where);
	as_call(&f->a, stub(f, STUB_MISS + (write ? BT_SUPAC_W : BT_SUPAC_R)));
	as_1(&f->a, 0xa9);
	as_4(&f->a, BT_MISS1(f->page, flags));
	as_1(&f->a, 0xa9);
	as_4(&f->a, BT_MISS2(off, len, size));
	one = as_jmp(&f->a, 0);
	two = as_jmp(&f->a, 0);
	as_patch(&f->a, one, as_here(&f->a));
	leave_by(f, 1);
	as_patch(&f->a, two, as_here(&f->a));
	leave_by(f, 2);
	return at;
}

/* By slot 3, which is one of the stack's. */
static u32 miss(struct fix *f, bool write, u64 va, u32 flags, unsigned off, unsigned len,
                unsigned size)
{
	s32 site = BT_GS_SITE(write ? BT_SUPAC_W : BT_SUPAC_R, 3);

	return miss_at(f, write, va, flags, off, len, size,
	               BT_MISS_SLOT(site, BT_MISS_PAGE | (size - 1)));
}

static void test_miss_fills(void **state)
{
	struct fix *f = setup();
	struct bt_range *s = slot(f, BT_GS_SITE(BT_SUPAC_W, 3));
	struct x86_cpu *c = f->r.c;
	u32 at = miss(f, true, DATA + 8, 0, 0, 4, 8);

	for (unsigned r = 0; r < 13; r++)
		c->gpr[r] = r + 100;
	/* by C, then from the TLB */
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(run(f, at), BT_LEAVE_EXIT);
		assert_int_equal(f->b->exit, 1);
		assert_int_equal(f->b->stat[BT_STAT_MISSES], 1);
		assert_int_equal(s->page, DATA);
		assert_ptr_equal(s->addend + DATA, c->pmap->bt_hva + DATA);
		for (unsigned r = 0; r < 13; r++)
			assert_int_equal(c->gpr[r], r + 100);
		assert_int_equal(f->b->site_log_n[1], 1);
		s->page = BT_PB_NONE;
		f->b->site_log_n[1] = 0;
	}
	/* a flush empties TLB and slot */
	assert_int_equal(run(f, at), BT_LEAVE_EXIT);
	mmu_flush_all(c);
	assert_int_equal(s->page, BT_PB_NONE);
	assert_int_equal(f->b->site_log_n[1], 0);
	teardown(f);
}

static void test_miss_crosses(void **state)
{
	struct fix *f = setup();
	struct x86_cpu *c = f->r.c;
	u64 val = 0x1122334455667788ull, sum;
	u32 at;

	/* add %rcx, (%rbx): flags are kept in bt->flags */
	pmap_write(c->pmap, CODE + 0x20, "\x48\x11\x0b", 3); /* adc */
	pmap_write(c->pmap, DATA + 0xffc, &val, 8);
	f->page = page_at(f, CODE);
	at = miss(f, true, DATA + 0xffc, BT_MISS_FLAGS, 0x20, 3, 8);
	c->gpr[RBX] = DATA + 0xffc;
	c->gpr[RCX] = 1;
	f->b->flags = 0x0100; /* CF */
	assert_int_equal(run(f, at), BT_LEAVE_EXIT);
	assert_int_equal(f->b->exit, 2);
	pmap_read(c->pmap, DATA + 0xffc, &sum, 8);
	assert_int_equal(sum, val + 2);
	assert_int_equal(c->rip, CODE + 0x23);
	assert_int_equal(f->b->ret_sp, f->b->ret_top);
	/* no page there: the exception is the instruction's */
	at = miss(f, true, 1ull << 40, 0, 0x20, 3, 8);
	c->gpr[RBX] = 1ull << 40;
	assert_int_equal(run(f, at), -1);
	assert_int_equal(c->ev.vector, X86_PF);
	assert_int_equal(c->rip, CODE + 0x20);
	assert_int_equal(f->b->ret_sp, f->b->ret_top);
	teardown(f);
}

/* Slots of a pool hold what the pool's size leaves of a page, or of the range around a large page's
 * piece: by the stub, by C, and not where it ends. */
static void test_miss_ranges(void **state)
{
	struct fix *f = setup();
	struct x86_cpu *c = f->r.c;
	struct bt_pools *pools = f->bt->xlate->pools;
	u32 one = bt_site_new(pools, BT_SUPAC_R, bt_pool(7)), at;
	u32 two = bt_site_new(pools, BT_SUPAC_R, bt_pool(8));
	struct bt_range *s = slot(f, (s32)one), *t = slot(f, (s32)two);

	assert_int_equal(bt_site_span(f->bt, one), 8);
	assert_int_equal(bt_site_class(one), BT_SUPAC_R);
	assert_int_equal(two, one + sizeof(struct bt_range));
	at = miss_at(f, false, DATA + 8, 0, 0, 4, 7, BT_MISS_SLOT(one, bt_pool(7)));
	for (unsigned i = 0; i < 2; i++) { /* C, then the stub */
		assert_int_equal(run(f, at), BT_LEAVE_EXIT);
		assert_int_equal(f->b->exit, 1);
		assert_int_equal(f->b->stat[BT_STAT_MISSES], 1);
		assert_int_equal(s->page, DATA);
		assert_int_equal(s->limit, PAGE_SIZE - 8);
		s->page = BT_PB_NONE;
		s->limit = 0;
	}

	/* as if a large page were there, which may be read only, in a range */
	c->tlb_big[1][DATA >> TLB_BIG_SHIFT] =
		(struct tlb_entry){.w = 7 * TLB_BIG_SIZE, .bt_addend = 0x1000};
	c->tlb_run[1][DATA >> TLB_BIG_SHIFT] =
		(struct tlb_run){.r_base = DATA - 0x3000, .r_size = 0x5000};
	_Static_assert(DATA < TLB_BIG_SIZE, "its piece's tag is 0");
	assert_int_equal(run(f, at), BT_LEAVE_EXIT);
	bt_site_fill(f->b, two, DATA + 16);
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal((i ? t : s)->page, DATA - 0x3000);
		assert_int_equal((i ? t : s)->limit, 0x5000 - 8);
		assert_int_equal((i ? t : s)->addend, 0x1000);
	}
	assert_int_equal(f->b->stat[BT_STAT_MISSES], 1);
	/* where the pool's size crosses the range's end */
	c->tlb_run[1][DATA >> TLB_BIG_SHIFT].r_size = 0x3000 + 15;
	assert_int_equal(run(f, at), BT_LEAVE_EXIT);
	assert_int_equal(f->b->stat[BT_STAT_MISSES], 2);
	assert_int_equal(s->page, DATA);
	assert_int_equal(s->limit, PAGE_SIZE - 8);
	/* a write has no right there */
	two = bt_site_new(pools, BT_SUPAC_W, bt_pool(8));
	at = miss_at(f, true, DATA + 8, 0, 0, 4, 8, BT_MISS_SLOT(two, bt_pool(8)));
	assert_int_equal(run(f, at), BT_LEAVE_EXIT);
	assert_int_equal(slot(f, (s32)two)->page, DATA);
	assert_int_equal(slot(f, (s32)two)->limit, PAGE_SIZE - 8);
	teardown(f);
}

static void test_group(void **state)
{
	struct fix *f = setup();
	struct x86_cpu *c = f->r.c;
	u32 at = as_here(&f->a), there;

	as_mov_i64(&f->a, BT_T0, DATA + 0xfff);
	as_mov_i32(&f->a, BT_T1, BT_MISS_SLOT(BT_GS_SITE(BT_SUPAC_R, 9), BT_MISS_PAGE));
	as_call(&f->a, stub(f, STUB_GROUP + BT_SUPAC_R));
	there = as_jcc(&f->a, 3, 0); /* jae */
	leave_by(f, 1);
	as_patch(&f->a, there, as_here(&f->a));
	leave_by(f, 2);
	assert_int_equal(run(f, at), BT_LEAVE_EXIT);
	assert_int_equal(f->b->exit, 1);
	assert_int_equal(slot(f, BT_GS_SITE(BT_SUPAC_R, 9))->page, BT_PB_NONE);
	c->unwind_valid = true;
	assert_true(mmu_fill(c, DATA, false));
	assert_int_equal(run(f, at), BT_LEAVE_EXIT);
	assert_int_equal(f->b->exit, 2);
	assert_int_equal(slot(f, BT_GS_SITE(BT_SUPAC_R, 9))->page, DATA);
	teardown(f);
}

/* ---- host exceptions ---- */

static void check_fault(struct fix *f, u32 at, int vector, u16 off)
{
	struct bt_unit u;
	struct bt_insn i;

	assert_int_equal(run(f, at), BT_LEAVE_FAULT);
	assert_int_equal(f->b->fault_vector, vector);
	assert_int_equal(f->b->ret_sp, f->b->ret_top);
	assert_true(
		bt_find_insn(f->bt, (u32)(f->b->fault_pc - (uintptr_t)f->bt->cache.rx), &u, &i));
	assert_int_equal(u.page, f->page);
	assert_int_equal(i.guest, off);
}

static void test_exceptions(void **state)
{
	struct fix *f = setup();
	struct x86_cpu *c = f->r.c;
	u8 *ram = c->pmap->bt_hva;
	u32 at[3];

	at[0] = as_here(&f->a);
	emit(f, "\xf7\xf1", 2); /* div ecx */
	leave_by(f, 1);
	add_unit(f, at[0], 0x10, 2);
	at[1] = as_here(&f->a);
	emit(f, "\x0f\x28\x03", 3); /* movaps (rbx), xmm0 */
	leave_by(f, 1);
	add_unit(f, at[1], 0x20, 3);
	at[2] = as_here(&f->a);
	emit(f, "\x89\x0b", 2); /* mov ecx, (rbx) */
	leave_by(f, 1);
	add_unit(f, at[2], 0x30, 2);

	c->gpr[RAX] = 42;
	c->gpr[RDX] = c->gpr[RCX] = 0;
	check_fault(f, at[0], X86_DE, 0x10);
	assert_int_equal(c->gpr[RAX], 42);
	c->gpr[RCX] = 5;
	assert_int_equal(run(f, at[0]), BT_LEAVE_EXIT);
	assert_int_equal(c->gpr[RAX], 8);
	c->gpr[RBX] = (uintptr_t)ram + DATA + 1;
	check_fault(f, at[1], X86_GP, 0x20);
	/* a store to a page with code, and to another one */
	c->gpr[RBX] = (uintptr_t)ram + DATA;
	assert_int_equal(run(f, at[2]), BT_LEAVE_EXIT);
	c->gpr[RBX] = (uintptr_t)ram + CODE + 4;
	check_fault(f, at[2], -1, 0x30);
	assert_int_equal(f->b->fault_addr, c->gpr[RBX]);
	teardown(f);
}

/* ---- links ---- */

static void link_to(struct fix *f, u32 page, u8 live)
{
	struct bt_vm *bt = f->bt;
	u32 at = as_here(&f->a), body, exit = bt->nr_exits++, entry;
	struct bt_entry e = {.page = page, .live = live};

	bt->exits[exit] = (struct bt_exit){.page = f->page, .mode = bt_mode(f->r.c)};
	bt->exits[exit].patch = as_jmp(&f->a, 0);
	bt->exits[exit].stub = as_here(&f->a);
	as_patch(&f->a, bt->exits[exit].patch, as_here(&f->a));
	leave_by(f, exit);
	body = as_here(&f->a);
	leave_by(f, 99);
	e.body = body;
	entry = bt_entry_add(bt, &e);
	bt->cache.used = as_here(&f->a);

	f->r.c->aflags = X86_RFLAGS_CF | X86_RFLAGS_SF;
	f->r.c->gpr[RCX] = 0x1234;
	assert_int_equal(run(f, at), BT_LEAVE_EXIT);
	assert_int_equal(f->b->exit, exit);
	bt_link(f->b, exit, entry);
	f->a.p = f->bt->cache.rw + f->bt->cache.used;
	assert_int_equal(run(f, at), BT_LEAVE_EXIT);
	assert_int_equal(f->b->exit, 99);
	assert_int_equal(f->r.c->gpr[RCX], 0x1234);
	if (live)
		assert_int_equal(f->r.c->aflags & AFLAGS, X86_RFLAGS_CF | X86_RFLAGS_SF);
	if (page == f->page)
		return;
	/* The other page is elsewhere now, or nowhere. */
	bt_pb_set(f->b, page, CODE2 + 0x5000, false);
	assert_int_equal(run(f, at), BT_LEAVE_EXIT);
	assert_int_equal(f->b->exit, exit);
	assert_int_equal(f->r.c->gpr[RCX], 0x1234);
	bt_pb_drop(f->b, page);
	assert_int_equal(run(f, at), BT_LEAVE_EXIT);
	assert_int_equal(f->b->exit, exit);
	bt_pb_set(f->b, page, CODE2, false);
	assert_int_equal(run(f, at), BT_LEAVE_EXIT);
	assert_int_equal(f->b->exit, 99);
}

static void test_links(void **state)
{
	struct fix *f = setup();
	u32 other = page_at(f, CODE2);

	link_to(f, f->page, 0);
	link_to(f, other, 0);
	link_to(f, other, BT_F_C);
	teardown(f);
}

/* ---- code that is written ---- */

static void test_stores_to_code(void **state)
{
	struct fix *f = setup();
	struct x86_cpu *c = f->r.c;
	_Atomic u32 *ver = &c->pmap->code_ver[CODE >> PAGE_SHIFT];
	u32 id = f->page;

	bt_page_cover(f->bt, id, 0x3e, 5); /* over two words of the map */
	assert_true(bt_page_ready(f->bt, id));
	pmap_write(c->pmap, CODE + 0x30, "12345678901234", 14);
	pmap_write(c->pmap, CODE + 0x43, "1", 1);
	assert_true(bt_page_ready(f->bt, id));
	assert_true(*ver & PMAP_CODE_MARKED);
	assert_int_equal(f->b->attn, 0);
	pmap_write(c->pmap, CODE + 0x42, "1", 1);
	assert_false(bt_page_ready(f->bt, id));
	assert_true(f->bt->pages[id].dead);
	assert_false(*ver & PMAP_CODE_MARKED);
	assert_int_equal(f->b->attn, 1);
	assert_int_equal(f->b->pb[id], CODE); /* until it looks */
	bt_safe_point(f->b);
	assert_int_equal(f->b->pb[id], BT_PB_NONE);
	*(volatile u8 *)(c->pmap->bt_hva + CODE) = 1; /* writable again */
	/* what comes next is another page */
	assert_int_not_equal(page_at(f, CODE), id);
	/* many in a row: the interpreter's for a while, not forever */
	for (unsigned i = 0; i < BT_HOT_WRITES; i++) {
		bt_page_cover(f->bt, page_at(f, CODE), 0, 64);
		pmap_write(c->pmap, CODE, "1", 1);
	}
	assert_true(bt_page_hot(f->bt, CODE >> PAGE_SHIFT));
	for (unsigned i = 0; i < 255; i++)
		bt_page_hot(f->bt, CODE >> PAGE_SHIFT);
	assert_false(bt_page_hot(f->bt, CODE >> PAGE_SHIFT));
	/* more than the ring holds: all pages are closed */
	id = page_at(f, CODE2);
	f->pv->ring_n += BT_RING + 1;
	bt_safe_point(f->b);
	assert_int_equal(f->b->pb[id], BT_PB_NONE);
	teardown(f);
}

/* ---- flushes ---- */

static void test_flushes(void **state)
{
	struct fix *f = setup();
	struct x86_cpu *c = f->r.c;
	u32 other = page_at(f, CODE2), seen;

	bt_pb_drop(f->b, other);
	mmu_flush_all(c);
	assert_false(c->tlb_sup_nonglobal || c->tlb_sup_low);
	bt_pb_set(f->b, f->page, CODE, false);
	bt_pb_set(f->b, other, CODE2, true);
	bt_site_fill(f->b, (u32)BT_GS_SITE(BT_SUP_R, 1), DATA);
	bt_site_fill(f->b, (u32)BT_GS_SITE(BT_USER_R, 1), DATA);
	seen = f->b->flushes;
	bt_tlb_flushed(c, false);
	assert_int_not_equal(f->b->flushes, seen);
	assert_int_equal(f->b->pb[f->page], BT_PB_NONE);
	assert_int_equal(f->b->pb[other], CODE2);
	assert_int_equal(slot(f, BT_GS_SITE(BT_SUP_R, 1))->page, DATA);
	assert_int_equal(slot(f, BT_GS_SITE(BT_USER_R, 1))->page, BT_PB_NONE);
	/* seen by way of a mapping that is not global as well */
	bt_pb_set(f->b, other, CODE2, false);
	c->tlb_sup_nonglobal = true;
	bt_site_fill(f->b, (u32)BT_GS_SITE(BT_SUP_R, 2), DATA);
	bt_tlb_flushed(c, false);
	assert_int_equal(f->b->pb[other], BT_PB_NONE);
	assert_int_equal(slot(f, BT_GS_SITE(BT_SUP_R, 1))->page, BT_PB_NONE);
	/* one page */
	bt_pb_set(f->b, f->page, CODE, false);
	bt_pb_set(f->b, other, CODE2, true);
	bt_tlb_page_flushed(c, CODE2);
	assert_int_equal(f->b->pb[f->page], CODE);
	assert_int_equal(f->b->pb[other], BT_PB_NONE);
	bt_pb_set(f->b, other, CODE2, true);
	bt_pb_set(f->b, other, CODE2 + ((u64)BT_VHASH << PAGE_SHIFT << 12), true);
	bt_tlb_page_flushed(c, CODE2);
	assert_int_not_equal(f->b->pb[other], BT_PB_NONE);
	bt_tlb_flushed(c, true);
	assert_int_equal(f->b->pb[f->page], BT_PB_NONE);
	assert_int_equal(f->b->pb[other], BT_PB_NONE);
	/* more slots than the log holds */
	for (unsigned i = 0; i < BT_SITES; i++)
		for (unsigned cl = BT_SUPAC_R; cl < BT_CLASSES; cl++)
			bt_site_fill(f->b, (u32)BT_GS_SITE(cl, i), DATA);
	bt_tlb_flushed(c, false);
	for (unsigned i = 0; i < BT_SITES; i++)
		for (unsigned cl = BT_SUPAC_R; cl < BT_CLASSES; cl++)
			assert_int_equal(slot(f, BT_GS_SITE(cl, i))->page, BT_PB_NONE);
	teardown(f);
}

static void test_full_flush(void **state)
{
	struct fix *f = setup();
	struct x86_cpu *c = f->r.c;
	u32 used = f->bt->cache.stubs_end;

	bt_page_cover(f->bt, f->page, 0, 16);
	f->bt->cache.used = used + 100;
	jc_to(f, false, 5, f->bt->stub[STUB_EXIT]);
	f->b->ret_sp -= 80;
	bt_flush_code(f->b);
	assert_int_equal(f->bt->cache.used, used);
	assert_int_equal(f->bt->nr_pages, 0);
	assert_int_equal(f->b->pb[f->page], BT_PB_NONE);
	assert_int_equal(f->b->jc[0][bt_jc_index(5)], f->bt->stub[STUB_LOOKUP]);
	assert_int_equal(f->b->ret_sp, f->b->ret_top);
	assert_int_equal(f->pv->nr_protected, 0);
	assert_false(c->pmap->code_ver[CODE >> PAGE_SHIFT] & PMAP_CODE_MARKED);
	*(volatile u8 *)(c->pmap->bt_hva + CODE) = 1;
	assert_true(f->b->in_cache);
	teardown(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_registers),      cmocka_unit_test(test_lookup_and_jump_cache),
		cmocka_unit_test(test_underflow),      cmocka_unit_test(test_overflow),
		cmocka_unit_test(test_helper),         cmocka_unit_test(test_helper_raises),
		cmocka_unit_test(test_miss_fills),     cmocka_unit_test(test_miss_crosses),
		cmocka_unit_test(test_miss_ranges),    cmocka_unit_test(test_group),
		cmocka_unit_test(test_exceptions),     cmocka_unit_test(test_links),
		cmocka_unit_test(test_stores_to_code), cmocka_unit_test(test_flushes),
		cmocka_unit_test(test_full_flush),
	};

	if (!supported()) {
		print_message("skip: the translator does not run here (sanitizer, or processor)\n");
		return 77;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
