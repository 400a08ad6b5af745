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

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_wrap_no_paging, t_setup, t_teardown),
		cmocka_unit_test_setup_teardown(test_wrap_invlpg, t_setup, t_teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
