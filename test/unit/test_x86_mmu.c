// SPDX-License-Identifier: MIT
/* The software TLB: what is kept under which address, and what drops it. */
#include "x86test.h"

/* ---- operands that reach beyond 4 GiB ---- */

static bool tlb_above_4g(void)
{
	for (unsigned s = 0; s < TLB_SETS; s++)
		for (unsigned i = 0; i < TLB_SIZE; i++)
			if ((c->tlbs[s][i].r | c->tlbs[s][i].w) >> 32)
				return true;
	for (unsigned i = 0; i < ITLB_SIZE; i++)
		if (c->itlb[i].tag != ~0ull && c->itlb[i].tag >> 32)
			return true;
	return false;
}

/* The second part of a far pointer at 0xfffffffe is at 2, and there is no other name for page 0. */
static void test_wrap_no_paging(void **state)
{
	t_mode(S_CODE0, S_DATA0, false);
	t_st(0, 0x8877665544332211ull, 8);
	T_OK(assert_int_equal(mmu_ld(c, 0x100000002, 2), 0x4433));
	T_OK(mmu_st(c, 0x100000003, 0xaa, 1));
	T_OK(assert_int_equal(mmu_fetch(c, 0x100000000)->gpa, 0));
	assert_int_equal(t_ld(2, 2), 0xaa33);
	assert_false(tlb_above_4g());
}

/* Page 0 is mapped elsewhere and INVLPG names it by its 32-bit address. */
static void test_wrap_invlpg(void **state)
{
	t_mode(S_CODE0, S_DATA0, false);
	t_st(0x10000, 0x11000 | PTE_P | PTE_W, 4);
	t_st(0x11000, 0x12000 | PTE_P | PTE_W, 4);
	t_st(0x12000, 0x1111, 4);
	t_st(0x13000, 0x2222, 4);
	c->cr3 = 0x10000;
	c->cr0 |= CR0_PG;
	x86_update_mode(c);
	mmu_flush_all(c);
	T_OK(assert_int_equal(mmu_ld(c, 0x100000000, 2), 0x1111));
	t_st(0x11000, 0x13000 | PTE_P | PTE_W, 4);
	T_OK(x86_invlpg(c, 0));
	T_OK(assert_int_equal(mmu_ld(c, 0x100000000, 2), 0x2222));
	assert_false(tlb_above_4g());
	t_st(0x11000, 0, 4);
	T_OK(x86_invlpg(c, 0));
	T_FAULT(mmu_ld(c, 0x100000000, 2), X86_PF, 0);
	assert_int_equal(c->ev.cr2, 0);
}

/* ---- pages with code and the second mapping ---- */

static struct {
	bool keep;
	unsigned marked, written;
	u64 page;
	u32 off, len;
	u64 seen; /* what is in memory when written() is called */
} t_code;

static void code_marked(void *arg, u64 page)
{
	t_code.marked++;
	t_code.page = page;
}

static bool code_written(void *arg, u64 page, u32 off, u32 len)
{
	t_code.written++;
	t_code.page = page;
	t_code.off = off;
	t_code.len = len;
	memcpy(&t_code.seen, c->pmap->hva + (page << PAGE_SHIFT) + off, MIN(len, 8u));
	return t_code.keep;
}

static const struct pmap_code_hook hook = {.marked = code_marked, .written = code_written};

static struct tlb_entry *entry(gva_t addr)
{
	return &c->tlb[addr >> PAGE_SHIFT & (TLB_SIZE - 1)];
}

static bool may_read(gva_t addr)
{
	return addr - entry(addr)->r < PAGE_SIZE;
}

static bool may_write(gva_t addr)
{
	return addr - entry(addr)->w < PAGE_SIZE;
}

static u32 mark(gpa_t page)
{
	return pmap_code_mark(c->pmap, &c->pmap->code_ver[page >> PAGE_SHIFT]);
}

static u32 version(gpa_t page)
{
	return c->pmap->code_ver[page >> PAGE_SHIFT];
}

static void protected_setup(void)
{
	memset(&t_code, 0, sizeof(t_code));
	assert_int_equal(pmap_create_protected(c->pmap), 0);
	c->pmap->code_hook = &hook;
	t_mode(S_CODE64, S_DATA0, true);
}

static void test_addends(void **state)
{
	t_mode(S_CODE64, S_DATA0, true);
	T_OK(assert_true(mmu_fill(c, 0x31234, true)));
	assert_int_equal(entry(0x31000)->addend + 0x31234, (uintptr_t)t_mem(0x31234));
	assert_int_equal(entry(0x31000)->bt_addend, entry(0x31000)->addend);
	protected_setup();
	T_OK(assert_true(mmu_fill(c, 0x31234, false)));
	assert_int_equal(entry(0x31000)->addend + 0x31234, (uintptr_t)t_mem(0x31234));
	assert_int_equal(entry(0x31000)->bt_addend + 0x31234,
	                 (uintptr_t)(c->pmap->bt_hva + 0x31234));
	t_st(0x31234, 0x5aa5, 2); /* one memory */
	assert_int_equal(c->pmap->bt_hva[0x31234], 0xa5);
}

/* 4-level paging: page `addr` of the first 2 MiB by this entry. */
static void map_to(gva_t addr, u64 entry)
{
	t_st(T_PT + (addr >> 12) * 8, entry, 8);
	mmu_flush_all(c);
}

static void test_fill(void **state)
{
	t_mode(S_CODE64, S_DATA0, true);
	t_map(0x31000, PTE_P | PTE_U); /* read-only */
	T_OK(assert_true(mmu_fill(c, 0x31fff, false)));
	assert_true(may_read(0x31000) && !may_write(0x31000));
	T_FAULT(mmu_fill(c, 0x31fff, true), X86_PF, PF_P | PF_W);
	assert_int_equal(c->ev.cr2, 0x31fff);
	t_map(0x31000, 0);
	T_FAULT(mmu_fill(c, 0x31008, false), X86_PF, 0);
	/* clean: a read does not grant the write; the write sets D */
	t_map(0x31000, PTE_P | PTE_W | PTE_U);
	T_OK(assert_true(mmu_fill(c, 0x31000, false)));
	assert_false(may_write(0x31000));
	T_OK(assert_true(mmu_fill(c, 0x31000, true)));
	assert_true(may_write(0x31000));
	assert_int_equal(t_ld(T_PT + 0x31 * 8, 8) & (PTE_A | PTE_D), PTE_A | PTE_D);
	/* no RAM */
	map_to(0x31000, 0xfec00000 | PTE_P | PTE_W | PTE_U);
	T_OK(assert_false(mmu_fill(c, 0x31000, false)));
	T_OK(assert_false(mmu_fill(c, 0x31000, true)));
	assert_false(may_read(0x31000) || may_write(0x31000));
	/* the local APIC's page lies over RAM */
	map_to(0x31000, 0x32000 | PTE_P | PTE_W | PTE_U);
	c->apic_page = 0x32000;
	T_OK(assert_false(mmu_fill(c, 0x31000, false)));
	c->apic_page = ~0ull;
	T_OK(assert_true(mmu_fill(c, 0x31000, false)));
	/* alignment checks: nothing is cached, nothing raised */
	t_mode(S_CODE64U | 3, S_DATA3 | 3, true);
	c->cr0 |= CR0_AM;
	c->sflags |= X86_RFLAGS_AC;
	x86_update_mode(c);
	T_OK(assert_false(mmu_fill(c, 0x31000, false)));
	assert_false(may_read(0x31000));
}

/* A watched page is not cached, its neighbours are. */
static void test_fill_watched(void **state)
{
	t_mode(S_CODE64, S_DATA0, true);
	c->dr[0] = 0x31010;
	c->dr[7] = 0x400 | 1 | 3u << 16; /* byte, read or write */
	x86_update_step(c);
	mmu_flush_all(c);
	T_OK(assert_false(mmu_fill(c, 0x31010, false)));
	T_OK(assert_false(mmu_fill(c, 0x31800, true)));
	assert_int_equal(c->dr6_pending, 0);
	T_OK(assert_true(mmu_fill(c, 0x32010, true)));
	T_OK(mmu_ld(c, 0x31010, 1));
	assert_int_equal(c->dr6_pending, 1);
}

/* Without a second mapping stores look at the mark, and the right to write stays. */
static void test_mark_alone(void **state)
{
	u32 v;

	t_mode(S_CODE64, S_DATA0, true);
	v = mark(0x31000);
	T_OK(assert_true(mmu_fill(c, 0x31000, true)));
	T_OK(mmu_st(c, 0x31ffe, 0x1122, 2));
	assert_int_equal(version(0x31000), (v & ~3u) + PMAP_CODE_STEP);
	assert_true(c->code_written);
}

static void test_mark_no_write(void **state)
{
	u32 v;

	protected_setup();
	v = mark(0x31000);
	assert_int_equal(t_code.marked, 1);
	assert_int_equal(t_code.page, 0x31);
	assert_int_equal(mark(0x31000), v);
	assert_int_equal(t_code.marked, 1); /* settled: nothing new */
	T_OK(assert_false(mmu_fill(c, 0x31000, true)));
	T_OK(assert_true(mmu_fill(c, 0x31000, false)));
	assert_true(may_read(0x31000) && !may_write(0x31000));
	/* the mark is kept: the version moves, the right to write is still withheld */
	t_code.keep = true;
	T_OK(mmu_st(c, 0x31ff8, 0x8877665544332211, 8));
	assert_int_equal(t_code.written, 1);
	assert_int_equal(t_code.page, 0x31);
	assert_int_equal(t_code.off, 0xff8);
	assert_int_equal(t_code.len, 8);
	assert_true(t_code.seen == 0x8877665544332211);
	assert_int_equal(version(0x31000), v + PMAP_CODE_STEP);
	assert_true(c->code_written);
	assert_false(may_write(0x31000));
	/* it goes: the next store brings the right back */
	t_code.keep = false;
	T_OK(mmu_st(c, 0x31000, 1, 1));
	assert_int_equal(t_code.written, 2);
	assert_int_equal(version(0x31000), (v & ~3u) + 2 * PMAP_CODE_STEP);
	T_OK(mmu_st(c, 0x31000, 2, 1));
	assert_int_equal(t_code.written, 2);
	assert_true(may_write(0x31000));
	assert_int_equal(mark(0x31000) & 3, 3);
	assert_int_equal(t_code.marked, 2);
}

/* Every way of storing says where and how much. */
static void test_mark_stores(void **state)
{
	u8 buf[64] = {1, 2, 3, 4};

	protected_setup();
	t_code.keep = true;
	mark(0x31000);
	mark(0x200000);
	T_OK(mmu_st(c, 0x30ffe, 0x44332211, 4));
	assert_int_equal(t_code.written, 1);
	assert_int_equal(t_code.page, 0x31);
	assert_int_equal(t_code.off, 0);
	assert_int_equal(t_code.len, 2);
	assert_int_equal(t_code.seen, 0x4433);
	T_OK(mmu_st(c, 0x31fff, 0x44332211, 4));
	assert_int_equal(t_code.written, 2);
	assert_int_equal(t_code.off, 0xfff);
	assert_int_equal(t_code.len, 1);
	assert_int_equal(t_code.seen & 0xff, 0x11);
	T_OK(mmu_write(c, 0x31ff0, buf, sizeof(buf)));
	assert_int_equal(t_code.written, 3);
	assert_int_equal(t_code.off, 0xff0);
	assert_int_equal(t_code.len, 16);
	T_OK(mmu_st_sys(c, 0x31123, 7, 1));
	assert_int_equal(t_code.off, 0x123);
	T_OK(mmu_wrote(c, 0x30fc0, 0x60));
	assert_int_equal(t_code.written, 5);
	assert_int_equal(t_code.off, 0);
	assert_int_equal(t_code.len, 0x20);
	T_OK(mmu_st(c, 0x200010, 7, 8)); /* by a large page */
	assert_int_equal(t_code.written, 6);
	assert_int_equal(t_code.page, 0x200);
	assert_int_equal(t_code.off, 0x10);
	assert_int_equal(pmap_write(c->pmap, 0x31800, buf, 5), 0);
	assert_int_equal(t_code.written, 7);
	assert_int_equal(t_code.off, 0x800);
	assert_int_equal(t_code.len, 5);
	T_OK(mmu_st(c, 0x32000, 7, 8)); /* no code there */
	assert_int_equal(t_code.written, 7);
}

static void drop_write(unsigned others)
{
	volatile gva_t a = 0x80000;
	volatile unsigned i;

	protected_setup();
	c->cr4 |= CR4_SMAP;                       /* two sets for the supervisor */
	map_to(0x40000, 0x31000 | PTE_P | PTE_W); /* another name of page 0x31000 */
	map_to(0x31000, 0x31000 | PTE_P | PTE_W);
	map_to(0x32000, 0x32000 | PTE_P | PTE_W);
	for (unsigned set = 0; set < 2; set++) {
		c->sflags ^= X86_RFLAGS_AC;
		x86_update_mode(c);
		for (i = 0; i < others; i++, a += PAGE_SIZE) {
			t_st(T_PT + (a >> 12) * 8, a | PTE_P, 8);
			T_OK(mmu_fill(c, a, false));
		}
		T_OK(assert_true(mmu_fill(c, 0x31000, true)));
		T_OK(assert_true(mmu_fill(c, 0x40000, true)));
		T_OK(assert_true(mmu_fill(c, 0x32000, true)));
	}
	mmu_drop_write(c, 0x31);
	for (unsigned set = 0; set < 2; set++) {
		c->sflags ^= X86_RFLAGS_AC;
		x86_update_mode(c);
		assert_true(may_read(0x31000) && !may_write(0x31000));
		assert_true(may_read(0x40000) && !may_write(0x40000));
		assert_true(may_write(0x32000));
	}
}

static void test_drop_write(void **state)
{
	drop_write(0);
}

/* More fills than the log holds. */
static void test_drop_write_many(void **state)
{
	drop_write(TLB_FILL_LOG / 2);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, t_setup, t_teardown)
	const struct CMUnitTest tests[] = {
		T(test_wrap_no_paging), T(test_wrap_invlpg),
		T(test_addends),        T(test_fill),
		T(test_fill_watched),   T(test_mark_alone),
		T(test_mark_no_write),  T(test_mark_stores),
		T(test_drop_write),     T(test_drop_write_many),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
