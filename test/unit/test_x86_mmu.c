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
	u64 before, seen; /* what is in memory when written() is called, last but once and last */
} t_code;

static void code_marked(void *arg, u64 page)
{
	t_code.marked++;
	t_code.page = page;
}

static void code_written(void *arg, u64 page, u32 off, u32 len)
{
	t_code.written++;
	t_code.page = page;
	t_code.off = off;
	t_code.len = len;
	t_code.before = t_code.seen;
	memcpy(&t_code.seen, c->pmap->hva + (page << PAGE_SHIFT) + off, MIN(len, 8u));
	pmap_code_moved(c->pmap, page, t_code.keep);
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
	assert_int_equal(t_code.written, 2); /* before the store, and after it */
	assert_int_equal(t_code.before, 0);
	assert_int_equal(t_code.page, 0x31);
	assert_int_equal(t_code.off, 0xff8);
	assert_int_equal(t_code.len, 8);
	assert_true(t_code.seen == 0x8877665544332211);
	assert_int_equal(version(0x31000), v + 2 * PMAP_CODE_STEP);
	assert_true(c->code_written);
	assert_false(may_write(0x31000));
	/* it goes, before the store: the next store brings the right back */
	t_code.keep = false;
	T_OK(mmu_st(c, 0x31000, 1, 1));
	assert_int_equal(t_code.written, 3);
	assert_int_equal(t_code.seen & 0xff, 0);
	assert_int_equal(version(0x31000), (v & ~3u) + 3 * PMAP_CODE_STEP);
	T_OK(mmu_st(c, 0x31000, 2, 1));
	assert_int_equal(t_code.written, 3);
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
	assert_int_equal(t_code.written, 6);
	assert_int_equal(t_code.off, 0);
	assert_int_equal(t_code.len, 0x20);
	T_OK(mmu_st(c, 0x200010, 7, 8)); /* by a large page */
	assert_int_equal(t_code.written, 8);
	assert_int_equal(t_code.page, 0x200);
	assert_int_equal(t_code.off, 0x10);
	assert_int_equal(pmap_write(c->pmap, 0x31800, buf, 5), 0);
	assert_int_equal(t_code.written, 9);
	assert_int_equal(t_code.off, 0x800);
	assert_int_equal(t_code.len, 5);
	T_OK(mmu_st(c, 0x32000, 7, 8)); /* no code there */
	assert_int_equal(t_code.written, 9);
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

/* ---- global pages (SDM 3A 4.10.2.4, 4.10.4.1) ---- */

#define VA_G 0x31000u /* global */
#define VA_L 0x32000u /* local */
#define KERN (PTE_P | PTE_W | PTE_A | PTE_D)

static void paging64(u64 cr4)
{
	t_mode(S_CODE64, S_DATA0, true);
	t_st(T_PT + (VA_G >> 12) * 8, VA_G | KERN | PTE_G, 8);
	t_st(T_PT + (VA_L >> 12) * 8, VA_L | KERN, 8);
	c->feat.cr4 = CR4_DE | CR4_PAE | CR4_PGE | CR4_SMEP | CR4_SMAP | CR4_PCIDE;
	c->feat.efer = EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE;
	c->cr4 |= cr4;
	mmu_flush_all(c);
	x86_update_mode(c);
}

static bool itlb_has(gva_t addr)
{
	return c->itlb[addr >> PAGE_SHIFT & (ITLB_SIZE - 1)].tag == (addr | (c->cpl == 3));
}

/* Fill the global and the local page, for data in both of the supervisor's sets, and for code. */
static void fill_both(void)
{
	for (volatile unsigned set = 0; set < 2; set++) {
		c->sflags ^= X86_RFLAGS_AC;
		x86_update_mode(c);
		T_OK(assert_true(mmu_fill(c, VA_G, true)));
		T_OK(assert_true(mmu_fill(c, VA_L, true)));
	}
	T_OK(mmu_fetch(c, VA_G));
	T_OK(mmu_fetch(c, VA_L));
}

static void assert_kept(gva_t addr, bool kept)
{
	for (unsigned set = 0; set < 2; set++) {
		c->sflags ^= X86_RFLAGS_AC;
		x86_update_mode(c);
		assert_int_equal(may_read(addr), kept);
		assert_int_equal(may_write(addr), kept);
	}
	assert_int_equal(itlb_has(addr), kept);
}

#define FLUSH(stmt, global, local)                                                                 \
	do {                                                                                       \
		fill_both();                                                                       \
		T_OK(stmt);                                                                        \
		assert_kept(VA_G, global);                                                         \
		assert_kept(VA_L, local);                                                          \
	} while (0)

static void test_global(void **state)
{
	paging64(CR4_PGE | CR4_SMAP);
	FLUSH((void)0, true, true);
	FLUSH(x86_mov_to_cr(c, 3, c->cr3), true, false);
	FLUSH(x86_mov_to_cr(c, 3, c->cr3), true, false); /* again, and still */
	FLUSH(x86_invlpg(c, VA_G + 8), false, true);
	FLUSH(x86_invlpg(c, VA_L + 8), true, false);
	FLUSH(x86_invpcid(c, 1, 0, 0), true, false);
	FLUSH(x86_invpcid(c, 3, 0, 0), true, false);
	FLUSH(x86_invpcid(c, 2, 0, 0), false, false);
	FLUSH(x86_invpcid(c, 0, 0, VA_L), true, false);
	FLUSH(x86_mov_to_cr(c, 4, c->cr4 ^ CR4_PGE), false, false);
	/* without PGE the bit means nothing */
	FLUSH(x86_mov_to_cr(c, 3, c->cr3), false, false);
	FLUSH(x86_mov_to_cr(c, 4, c->cr4 ^ CR4_PGE), false, false);
	FLUSH(x86_mov_to_cr(c, 4, c->cr4 ^ CR4_SMEP), false, false);
	FLUSH(x86_mov_to_cr(c, 0, c->cr0 ^ CR0_WP), false, false);
	FLUSH(x86_wrmsr(c, 0xc0000080, c->efer ^ EFER_NXE), false, false);
	FLUSH(x86_arch_ops.init(&t_vcpu), false, false);
}

/* More fills than the logs hold, of both kinds. */
static void test_global_many(void **state)
{
	const gva_t first = 0x40000, last = first + (TLB_FILL_LOG + 8) * PAGE_SIZE;
	volatile gva_t a;

	paging64(CR4_PGE | CR4_SMAP);
	for (a = first; a < last; a += PAGE_SIZE)
		t_st(T_PT + (a >> 12) * 8, 0x80000 | KERN | (a >> 12 & 1 ? PTE_G : 0), 8);
	for (volatile unsigned round = 0; round < 3; round++) {
		/* rounds of all pages, of the local ones only, of both again */
		for (a = first; a < last; a += PAGE_SIZE) {
			if (round == 1 && (a >> 12 & 1))
				continue;
			T_OK(assert_true(mmu_fill(c, a, true)));
			T_OK(mmu_fetch(c, a));
		}
		T_OK(x86_mov_to_cr(c, 3, c->cr3));
		for (a = first; a < last; a += PAGE_SIZE) {
			assert_int_equal(may_read(a), a >> 12 & 1);
			assert_int_equal(may_write(a), a >> 12 & 1);
			if (last - a <= ITLB_SIZE * PAGE_SIZE) /* else displaced */
				assert_int_equal(itlb_has(a), a >> 12 & 1);
		}
	}
	T_OK(x86_invpcid(c, 2, 0, 0));
	for (a = first; a < last; a += PAGE_SIZE)
		assert_false(may_read(a) || itlb_has(a));
}

/* One index, first a global page's and then a local one's, and the other way round. */
static void test_global_displaced(void **state)
{
	const gva_t other = VA_G + TLB_SIZE * PAGE_SIZE; /* by a 2 MiB page */

	paging64(CR4_PGE);
	t_st(T_PD + (other >> 21 & 511) * 8, 0x200000 | KERN | PTE_PS, 8);
	T_OK(assert_true(mmu_fill(c, VA_G, true)));
	T_OK(assert_true(mmu_fill(c, other, true)));
	T_OK(mmu_fetch(c, VA_G));
	T_OK(mmu_fetch(c, other));
	assert_ptr_equal(entry(VA_G), entry(other));
	T_OK(x86_mov_to_cr(c, 3, c->cr3));
	assert_false(may_read(other) || may_write(other) || itlb_has(other));
	T_OK(assert_true(mmu_fill(c, other, true)));
	T_OK(assert_true(mmu_fill(c, VA_G, true)));
	T_OK(x86_mov_to_cr(c, 3, c->cr3));
	assert_true(may_read(VA_G) && may_write(VA_G));
}

/* The user's entries go, whatever their pages say; what is kept is the supervisor's. */
static void test_global_user(void **state)
{
	paging64(CR4_PGE);
	t_st(T_PT + (VA_G >> 12) * 8, VA_G | KERN | PTE_U | PTE_G, 8);
	t_mode(S_CODE64U | 3, S_DATA3 | 3, true);
	c->cr4 |= CR4_PGE;
	T_OK(assert_true(mmu_fill(c, VA_G, true)));
	T_OK(mmu_fetch(c, VA_G));
	assert_true(may_read(VA_G) && itlb_has(VA_G));
	c->cpl = 0;
	T_OK(x86_mov_to_cr(c, 3, c->cr3));
	c->cpl = 3;
	assert_false(may_read(VA_G) || may_write(VA_G) || itlb_has(VA_G));
}

static void test_large(void **state)
{
	static const u64 g[] = {0, PTE_G};

	paging64(CR4_PGE);
	for (volatile unsigned i = 0; i < 2; i++) {
		t_st(T_PD + 8, 0x200000 | KERN | PTE_PS | g[i], 8);
		mmu_flush_all(c);
		fill_both();
		T_OK(assert_true(mmu_fill(c, 0x201000, true)));
		T_OK(assert_true(mmu_fill(c, 0x3ff000, true)));
		T_OK(x86_mov_to_cr(c, 3, c->cr3));
		assert_int_equal(may_read(0x201000), i);
		T_OK(assert_true(mmu_fill(c, 0x201000, true)));
		T_OK(assert_true(mmu_fill(c, 0x3ff000, true)));
		T_OK(x86_invlpg(c, VA_L)); /* not of this page: it stays */
		assert_true(may_read(0x201000) && may_read(0x3ff000));
		T_OK(x86_invlpg(c, 0x234567));
		assert_false(may_read(0x201000) || may_write(0x201000) || may_read(0x3ff000));
		assert_int_equal(may_read(VA_G), !i); /* only what must go does */
	}
}

/* 4 MiB pages: INVLPG in one half, entries in the other. */
static void test_large_4m(void **state)
{
	t_mode(S_CODE0, S_DATA0, false);
	t_st(0x10000, 0x00000 | PTE_P | PTE_W | PTE_PS, 4);
	t_st(0x10004, 0x00000 | PTE_P | PTE_W | PTE_PS, 4);
	c->cr3 = 0x10000;
	c->cr0 |= CR0_PG;
	c->cr4 |= CR4_PSE;
	x86_update_mode(c);
	mmu_flush_all(c);
	T_OK(assert_true(mmu_fill(c, 0x400000 + 0x1000, true)));
	T_OK(assert_true(mmu_fill(c, 0x600000 + 0x2000, true)));
	T_OK(x86_invlpg(c, 0x7ff000));
	assert_false(may_read(0x401000) || may_read(0x602000));
	T_OK(assert_true(mmu_fill(c, 0x600000 + 0x2000, true)));
	T_OK(x86_invlpg(c, 0x400000));
	assert_false(may_read(0x602000));
}

/* ---- what an engine hears of it ---- */

static struct {
	unsigned all, local, page;
	gva_t addr;
} t_heard;

static void heard_flush(struct x86_cpu *cpu, bool global_too)
{
	assert_ptr_equal(cpu, c);
	if (global_too)
		t_heard.all++;
	else
		t_heard.local++;
}

static void heard_page(struct x86_cpu *cpu, gva_t page)
{
	assert_ptr_equal(cpu, c);
	t_heard.page++;
	t_heard.addr = page;
}

#define HEARS(stmt, a, l, p)                                                                       \
	do {                                                                                       \
		u32 gen_ = c->tlb_gen, all_ = c->flush_all_gen, local_ = c->flush_nonglobal_gen;   \
                                                                                                   \
		memset(&t_heard, 0, sizeof(t_heard));                                              \
		T_OK(stmt);                                                                        \
		assert_int_equal(t_heard.all, a);                                                  \
		assert_int_equal(t_heard.local, l);                                                \
		assert_int_equal(t_heard.page, p);                                                 \
		assert_int_equal(c->flush_all_gen - all_, a);                                      \
		assert_int_equal(c->flush_nonglobal_gen - local_, (a) + (l));                      \
		assert_int_equal(c->tlb_gen != gen_, (a) || (l) || (p));                           \
	} while (0)

static void test_heard(void **state)
{
	paging64(CR4_PGE);
	c->tlb_flushed = heard_flush;
	c->tlb_page_flushed = heard_page;
	HEARS(x86_mov_to_cr(c, 3, c->cr3), 0, 1, 0);
	HEARS(x86_mov_to_cr(c, 4, c->cr4 ^ CR4_PGE), 1, 0, 0);
	HEARS(x86_mov_to_cr(c, 4, c->cr4 ^ CR4_DE), 0, 0, 0);
	HEARS(x86_invlpg(c, VA_L + 0x123), 0, 0, 1);
	assert_int_equal(t_heard.addr, VA_L);
	HEARS(x86_invlpg(c, 1ull << 47), 0, 0, 0);
	HEARS(x86_invpcid(c, 0, 0, VA_G + 1), 0, 0, 1);
	assert_int_equal(t_heard.addr, VA_G);
	HEARS(x86_invpcid(c, 1, 0, 0), 0, 1, 0);
	HEARS(x86_invpcid(c, 2, 0, 0), 1, 0, 0);
	HEARS(x86_invpcid(c, 3, 0, 0), 0, 1, 0);
	/* a page of a large one: all that may come from it */
	T_OK(assert_true(mmu_fill(c, 0x201000, true)));
	HEARS(x86_invlpg(c, 0x300000), 0, 1, 1);
}

/* ---- the second level: PCIDs (SDM 3A 4.10.1, 4.10.4.1) ---- */

#define FRAME_OLD 0x50000u
#define FRAME_NEW 0x51000u
#define CR3(pcid) (T_PML4 | (pcid))

static void pte(gva_t addr, u64 entry)
{
	t_st(T_PT + (addr >> 12) * 8, entry, 8);
}

static void go(u64 cr3)
{
	T_OK(x86_mov_to_cr(c, 3, cr3));
}

static u64 walks(void)
{
	return t_vcpu.stats.count[EXIT_PAGE_WALK];
}

/* Is what the first tables said still used for this page, by data and code? */
static bool stale(gva_t addr)
{
	volatile u64 before = walks(), val = 0;
	volatile gpa_t code = 0;

	T_OK(val = mmu_ld(c, addr, 4));
	T_OK(code = mmu_fetch(c, addr)->gpa);
	assert_int_equal(code, val);
	assert_true(val == FRAME_OLD || val == FRAME_NEW);
	assert_true(walks() - before <= (val == FRAME_NEW)); /* one fills both */
	return val == FRAME_OLD;
}

/* PCIDs 1 and 2 have a local and the global page from tables that are no more. PCID 1 is left in
 * force. */
static void pcid_prime(void)
{
	t_st(FRAME_OLD, FRAME_OLD, 4);
	t_st(FRAME_NEW, FRAME_NEW, 4);
	pte(VA_G, FRAME_OLD | KERN | PTE_G);
	pte(VA_L, FRAME_OLD | KERN);
	c->cr4 |= CR4_PGE | CR4_PCIDE;
	c->cr3 = CR3(1);
	mmu_flush_all(c);
	for (volatile unsigned pcid = 2; pcid; pcid--) {
		go(CR3(pcid) | CR3_NOFLUSH);
		T_OK(mmu_ld(c, VA_G, 1));
		T_OK(mmu_ld(c, VA_L, 1));
	}
	pte(VA_G, FRAME_NEW | KERN | PTE_G);
	pte(VA_L, FRAME_NEW | KERN);
}

/* After `stmt` under PCID 1: which of {local in 1, local in 2, global} are still the old ones? */
#define PCID(stmt, local1, local2, global)                                                         \
	do {                                                                                       \
		pcid_prime();                                                                      \
		T_OK(stmt);                                                                        \
		go(CR3(2) | CR3_NOFLUSH);                                                          \
		go(CR3(1) | CR3_NOFLUSH);                                                          \
		assert_int_equal(stale(VA_L), local1);                                             \
		assert_int_equal(stale(VA_G), global);                                             \
		go(CR3(2) | CR3_NOFLUSH);                                                          \
		assert_int_equal(stale(VA_L), local2);                                             \
		assert_int_equal(stale(VA_G), global);                                             \
	} while (0)

static void pcide_off_and_on(void)
{
	x86_mov_to_cr(c, 3, CR3(0) | CR3_NOFLUSH);
	x86_mov_to_cr(c, 4, c->cr4 & ~(u64)CR4_PCIDE);
	x86_mov_to_cr(c, 4, c->cr4 | CR4_PCIDE);
	x86_mov_to_cr(c, 3, CR3(1) | CR3_NOFLUSH);
}

static void test_pcid(void **state)
{
	paging64(0);
	PCID((void)0, true, true, true);
	PCID(x86_mov_to_cr(c, 3, CR3(1)), false, true, true);
	PCID(x86_mov_to_cr(c, 3, CR3(2)), true, false, true);
	PCID(x86_mov_to_cr(c, 3, CR3(3)), true, true, true);
	PCID(x86_mov_to_cr(c, 3, CR3(1) | CR3_NOFLUSH), true, true, true);
	PCID(x86_invlpg(c, VA_L + 5), false, true, true);
	PCID(x86_invlpg(c, VA_G + 5), true, true, false);
	PCID(x86_invpcid(c, 0, 1, VA_L + 5), false, true, true);
	PCID(x86_invpcid(c, 0, 2, VA_L + 5), true, false, true);
	PCID(x86_invpcid(c, 0, 3, VA_L), true, true, true);
	PCID(x86_invpcid(c, 0, 2, VA_G), true, true, true);
	PCID(x86_invpcid(c, 1, 1, 0), false, true, true);
	PCID(x86_invpcid(c, 1, 2, 0), true, false, true);
	PCID(x86_invpcid(c, 1, 0xfff, 0), true, true, true);
	PCID(x86_invpcid(c, 2, 0, 0), false, false, false);
	PCID(x86_invpcid(c, 3, 0, 0), false, false, true);
	PCID(x86_mov_to_cr(c, 4, c->cr4 ^ CR4_PGE), false, false, false);
	PCID(x86_mov_to_cr(c, 4, c->cr4 ^ CR4_SMEP), false, false, false);
	PCID(x86_mov_to_cr(c, 0, c->cr0 ^ CR0_WP), false, false, false);
	PCID(x86_wrmsr(c, 0xc0000080, c->efer ^ EFER_NXE), false, false, false);
	PCID(pcide_off_and_on(), false, false, false);
}

/* Without PCIDs every MOV to CR3 drops what is not global. */
static void test_pcid_off(void **state)
{
	paging64(0);
	pcid_prime();
	c->cr4 &= ~(u64)CR4_PCIDE;
	c->cr3 = CR3(0);
	mmu_flush_all(c);
	pte(VA_G, FRAME_OLD | KERN | PTE_G);
	pte(VA_L, FRAME_OLD | KERN);
	T_OK(mmu_ld(c, VA_G, 1));
	T_OK(mmu_ld(c, VA_L, 1));
	pte(VA_G, FRAME_NEW | KERN | PTE_G);
	pte(VA_L, FRAME_NEW | KERN);
	assert_true(stale(VA_L) && stale(VA_G));
	go(CR3(0));
	assert_true(!stale(VA_L) && stale(VA_G));
}

/* Rights are those of each access, from what the walk found. */
static void pcid_refill(void)
{
	u64 pcid = c->cr3 & 0xfff;
	u8 cpl = c->cpl;

	c->cpl = 0; /* nothing but the second level is left */
	go(CR3(pcid ^ 1) | CR3_NOFLUSH);
	go(CR3(pcid) | CR3_NOFLUSH);
	c->cpl = cpl;
}

/* The access by what the second level has: no walk. */
#define HIT(expr)                                                                                  \
	do {                                                                                       \
		volatile u64 walks_ = walks();                                                     \
                                                                                                   \
		pcid_refill();                                                                     \
		T_OK(expr);                                                                        \
		assert_int_equal(walks(), walks_);                                                 \
	} while (0)
#define MISS(expr, code)                                                                           \
	do {                                                                                       \
		pcid_refill();                                                                     \
		T_FAULT(expr, X86_PF, code);                                                       \
	} while (0)

static void as(u8 cpl, u64 cr4, u64 ac)
{
	c->cpl = cpl;
	c->cr4 = (c->cr4 & ~(u64)(CR4_SMAP | CR4_SMEP)) | cr4;
	c->sflags = (c->sflags & ~(u64)X86_RFLAGS_AC) | ac;
	x86_update_mode(c);
}

static void test_rights(void **state)
{
	const u64 all = KERN | PTE_U;

	paging64(CR4_PCIDE);
	/* a user's page */
	pte(VA_L, VA_L | all);
	as(3, 0, 0);
	T_OK(mmu_ld(c, VA_L, 1));
	HIT(mmu_ld(c, VA_L, 1));
	HIT(mmu_st(c, VA_L, 1, 1));
	HIT(mmu_fetch(c, VA_L));
	HIT(mmu_ld_sys(c, VA_L, 1));
	as(0, 0, 0);
	HIT(mmu_st(c, VA_L, 1, 1));
	HIT(mmu_fetch(c, VA_L));
	as(0, CR4_SMEP | CR4_SMAP, 0);
	MISS(mmu_ld(c, VA_L, 1), PF_P);
	MISS(mmu_st(c, VA_L, 1, 1), PF_P | PF_W);
	MISS(mmu_fetch(c, VA_L), PF_P | PF_I);
	as(0, CR4_SMEP | CR4_SMAP, X86_RFLAGS_AC);
	HIT(mmu_st(c, VA_L, 1, 1));
	MISS(mmu_ld_sys(c, VA_L, 1), PF_P); /* implicit: AC does not count */
	/* a kernel's page */
	as(0, 0, 0);
	pte(VA_L, VA_L | KERN);
	T_OK(x86_invlpg(c, VA_L));
	T_OK(mmu_st(c, VA_L, 1, 1));
	HIT(mmu_fetch(c, VA_L));
	as(3, 0, 0);
	MISS(mmu_ld(c, VA_L, 1), PF_P | PF_U);
	MISS(mmu_st(c, VA_L, 1, 1), PF_P | PF_U | PF_W);
	MISS(mmu_fetch(c, VA_L), PF_P | PF_U | PF_I);
	HIT(mmu_ld_sys(c, VA_L, 1));
	HIT(mmu_st_sys(c, VA_L, 1, 1));
	/* read-only, not executable */
	as(0, 0, 0);
	pte(VA_L, VA_L | PTE_P | PTE_U | PTE_A | PTE_D | PTE_NX);
	T_OK(x86_invlpg(c, VA_L));
	T_OK(mmu_ld(c, VA_L, 1));
	MISS(mmu_st(c, VA_L, 1, 1), PF_P | PF_W);
	MISS(mmu_fetch(c, VA_L), PF_P | PF_I);
	HIT(mmu_ld(c, VA_L, 1));
	assert_false(may_write(VA_L));
	c->cr0 &= ~(u64)CR0_WP; /* not by MOV: the entry must do */
	HIT(mmu_st(c, VA_L, 1, 1));
	as(3, 0, 0);
	MISS(mmu_st(c, VA_L, 1, 1), PF_P | PF_U | PF_W);
}

/* A store to a clean page walks and sets D, whatever was read before. */
static void test_dirty(void **state)
{
	paging64(CR4_PCIDE);
	pte(VA_L, VA_L | PTE_P | PTE_W);
	T_OK(mmu_ld(c, VA_L, 1));
	HIT(mmu_ld(c, VA_L, 1));
	assert_int_equal(t_ld(T_PT + (VA_L >> 12) * 8, 8) & (PTE_A | PTE_D), PTE_A);
	pcid_refill();
	T_OK(assert_true(mmu_fill(c, VA_L, true)));
	assert_int_equal(t_ld(T_PT + (VA_L >> 12) * 8, 8) & (PTE_A | PTE_D), PTE_A | PTE_D);
	HIT(mmu_st(c, VA_L, 1, 1));
}

/* No RAM, large pages, paging off: by walks only. */
static void test_not_kept(void **state)
{
	volatile u64 before;

	paging64(CR4_PCIDE);
	pte(VA_L, 0xfec00000 | KERN);
	T_OK(mmu_ld(c, VA_L, 4));
	before = walks();
	T_OK(mmu_ld(c, VA_L, 4));
	assert_int_equal(walks(), before + 1);
	/* a large page that is not global: INVLPG would have to find its parts */
	t_st(T_PD + 8, 0x200000 | KERN | PTE_PS, 8);
	T_OK(mmu_ld(c, 0x201000, 4));
	t_st(0x201000, 1, 4);
	pcid_refill();
	t_st(T_PD + 8, T_PT | KERN, 8);
	t_st(0x1000 + 0x55, 0x77, 1);
	pte(0x1000, 0x1000 | KERN);
	T_OK(assert_int_equal(mmu_ld(c, 0x201055, 1), 0x77));
	/* off */
	t_mode(S_CODE0, S_DATA0, false);
	T_OK(mmu_ld(c, VA_L, 4));
	mmu_switch_pcid(c);
	before = walks();
	T_OK(mmu_ld(c, VA_L, 4));
	assert_int_equal(walks(), before + 1);
}

/* The numbers of spaces begin again: nobody gets another's entries. */
static void test_spaces_wrap(void **state)
{
	paging64(0);
	pcid_prime();
	assert_true(stale(VA_L) && stale(VA_G));
	for (volatile unsigned n = 0; n < 6; n++) {
		c->space_last = ~0u - n;
		for (volatile unsigned pcid = 10; pcid < 20; pcid++) {
			go(CR3(pcid));
			assert_false(stale(VA_L));
		}
		go(CR3(1) | CR3_NOFLUSH);
		assert_false(stale(VA_L));
		pcid_prime();
		go(CR3(2) | CR3_NOFLUSH);
		assert_true(stale(VA_L) && stale(VA_G));
	}
}

/* ---- pieces of 2 MiB ---- */

#define BIG_VA  0xffff888000000000ull
#define BIG_PD  0x60000ull
#define BIG_PTE (PTE_P | PTE_W | PTE_PS | PTE_G | PTE_A | PTE_D)

/* Eight global large pages from BIG_VA on, to the first 16 MiB. */
static void big_setup(void)
{
	protected_setup();
	c->cr4 |= CR4_PGE;
	t_st(T_PML4 + 273 * 8, 0x61000 | PTE_P | PTE_W | PTE_A, 8);
	t_st(0x61000, BIG_PD | PTE_P | PTE_W | PTE_A, 8);
	for (u64 i = 0; i < 8; i++)
		t_st(BIG_PD + i * 8, i * 2 * MiB | BIG_PTE, 8);
	x86_update_mode(c);
	mmu_flush_all(c);
}

static const struct tlb_entry *big(unsigned i)
{
	return &c->tlb_big[TLB_SUP_AC][(BIG_VA >> TLB_BIG_SHIFT) % TLB_BIG + i];
}

static const struct tlb_run *run_of(unsigned i)
{
	return &c->tlb_run[TLB_SUP_AC][(BIG_VA >> TLB_BIG_SHIFT) % TLB_BIG + i];
}

static void check_big(unsigned i, bool r, bool w)
{
	const u64 va = BIG_VA + i * 2 * MiB;

	assert_int_equal(big(i)->r == va, r);
	assert_int_equal(big(i)->w == va, w);
	if (r)
		assert_int_equal(big(i)->bt_addend + va, (uintptr_t)c->pmap->bt_hva + i * 2 * MiB);
}

static void check_run(unsigned i, u64 r, u64 r_end, u64 w, u64 w_end)
{
	const struct tlb_run want = {.r_base = BIG_VA + r * 2 * MiB,
	                             .r_size = (r_end - r) * 2 * MiB,
	                             .w_base = BIG_VA + w * 2 * MiB,
	                             .w_size = (w_end - w) * 2 * MiB};

	assert_memory_equal(run_of(i), &want, sizeof(want));
}

static void test_big(void **state)
{
	big_setup();
	T_OK(assert_true(mmu_fill(c, BIG_VA + 5 * 2 * MiB + 0x3123, false)));
	check_big(5, true, true);
	check_big(4, false, false);
	check_run(5, 1, 8, 1, 8); /* not the first, which has a hole */
	T_OK(assert_true(mmu_fill(c, BIG_VA + 0x3000, false)));
	check_big(0, false, false);
	/* a change of address space leaves them, what drops global pages does not */
	mmu_flush_nonglobal(c);
	check_big(5, true, true);
	mmu_flush_all(c);
	check_big(5, false, false);
	/* INVLPG of any page that it reaches to */
	T_OK(assert_true(mmu_fill(c, BIG_VA + 5 * 2 * MiB, true)));
	T_OK(x86_invlpg(c, BIG_VA + 16 * MiB));
	check_big(5, true, true);
	T_OK(x86_invlpg(c, BIG_VA + 2 * 2 * MiB + 0x5000));
	check_big(5, false, false);
	T_OK(assert_true(mmu_fill(c, BIG_VA + 5 * 2 * MiB, true)));
	T_OK(x86_invlpg(c, BIG_VA + 5 * 2 * MiB + 0x5000));
	check_big(5, false, false);
	/* without CR4.PGE no page is global */
	c->cr4 &= ~CR4_PGE;
	mmu_flush_all(c);
	T_OK(assert_true(mmu_fill(c, BIG_VA + 5 * 2 * MiB, true)));
	check_big(5, false, false);
}

/* Neighbours that are not like it end the range. */
static void test_big_neighbours(void **state)
{
	static const u64 other[] = {
		BIG_PTE & ~PTE_P,  BIG_PTE & ~PTE_W,  BIG_PTE & ~PTE_A,   BIG_PTE & ~PTE_D,
		BIG_PTE & ~PTE_G,  BIG_PTE & ~PTE_PS, BIG_PTE | PTE_U,    BIG_PTE | PTE_NX,
		BIG_PTE | 1 << 12, BIG_PTE | 2 * MiB, BIG_PTE | 16 * MiB,
	};

	big_setup();
	for (unsigned i = 0; i < ARRAY_SIZE(other); i++) {
		t_st(BIG_PD + 6 * 8, 6 * 2 * MiB ^ other[i], 8);
		t_st(BIG_PD + 3 * 8, 3 * 2 * MiB ^ other[i], 8);
		mmu_flush_all(c);
		T_OK(assert_true(mmu_fill(c, BIG_VA + 5 * 2 * MiB, true)));
		check_big(5, true, true);
		check_run(5, 4, 6, 4, 6);
	}
	/* the local APIC's page, and the end of RAM */
	for (u64 i = 3; i < 8; i++)
		t_st(BIG_PD + i * 8, i * 2 * MiB | BIG_PTE, 8);
	t_st(BIG_PD + 8 * 8, 8 * 2 * MiB | BIG_PTE, 8);
	c->apic_page = 4 * 2 * MiB + 0x7000;
	mmu_flush_all(c);
	T_OK(assert_true(mmu_fill(c, BIG_VA + 5 * 2 * MiB, true)));
	check_run(5, 5, 8, 5, 8);
	T_OK(assert_true(mmu_fill(c, BIG_VA + 4 * 2 * MiB, true)));
	check_big(4, false, false);
	c->apic_page = ~0ull;
	/* itself read only, and without CR0.WP; clean, then written */
	t_st(BIG_PD + 5 * 8, 5 * 2 * MiB | (BIG_PTE & ~PTE_W), 8);
	mmu_flush_all(c);
	T_OK(assert_true(mmu_fill(c, BIG_VA + 5 * 2 * MiB, false)));
	check_big(5, true, false);
	check_run(5, 5, 6, 5, 6);
	T_FAULT(mmu_fill(c, BIG_VA + 5 * 2 * MiB + 0x1000, true), X86_PF, PF_P | PF_W);
	t_st(BIG_PD + 5 * 8, 5 * 2 * MiB | (BIG_PTE & ~PTE_D), 8);
	mmu_flush_all(c);
	T_OK(assert_true(mmu_fill(c, BIG_VA + 5 * 2 * MiB, false)));
	check_big(5, true, false);
	T_OK(assert_true(mmu_fill(c, BIG_VA + 5 * 2 * MiB, true)));
	check_big(5, true, true);
	assert_true(t_ld(BIG_PD + 5 * 8, 8) & PTE_D);
	/* under a watched page nothing of the kind */
	mmu_flush_all(c);
	c->dr[0] = BIG_VA + 5 * 2 * MiB;
	c->dr[7] = 0x400 | 1 | 3u << 16;
	x86_update_step(c);
	T_OK(assert_true(mmu_fill(c, BIG_VA + 5 * 2 * MiB + 0x1000, true)));
	check_big(5, false, false);
}

/* Stores to code: the right is gone, and after some of them not given again, nor to
 * neighbours. */
static void test_big_stores(void **state)
{
	const u64 page = (4 * 2 * MiB + 0x3000) >> PAGE_SHIFT;

	big_setup();
	for (unsigned i = 0; i < 8; i++) {
		T_OK(assert_true(mmu_fill(c, BIG_VA + 4 * 2 * MiB + i * 0x1000, true)));
		check_big(4, true, true);
		T_OK(assert_true(mmu_fill(c, BIG_VA + 6 * 2 * MiB + i * 0x1000, true)));
		check_run(6, 1, 8, 1, 8);
		mmu_drop_write(c, page);
		check_big(4, true, false);
		check_big(6, true, false); /* its range has the page */
	}
	T_OK(assert_true(mmu_fill(c, BIG_VA + 4 * 2 * MiB + 0x9000, true)));
	check_big(4, true, false);
	T_OK(assert_true(mmu_fill(c, BIG_VA + 6 * 2 * MiB + 0x9000, true)));
	check_big(6, true, true);
	check_run(6, 1, 8, 5, 8);
	T_OK(assert_true(mmu_fill(c, BIG_VA + 2 * 2 * MiB + 0x9000, true)));
	check_run(2, 1, 8, 1, 4);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, t_setup, t_teardown)
	const struct CMUnitTest tests[] = {
		T(test_wrap_no_paging),
		T(test_wrap_invlpg),
		T(test_addends),
		T(test_fill),
		T(test_fill_watched),
		T(test_big),
		T(test_big_neighbours),
		T(test_big_stores),
		T(test_mark_alone),
		T(test_mark_no_write),
		T(test_mark_stores),
		T(test_drop_write),
		T(test_drop_write_many),
		T(test_global),
		T(test_global_many),
		T(test_global_displaced),
		T(test_global_user),
		T(test_large),
		T(test_large_4m),
		T(test_heard),
		T(test_pcid),
		T(test_pcid_off),
		T(test_rights),
		T(test_dirty),
		T(test_not_kept),
		T(test_spaces_wrap),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
