// SPDX-License-Identifier: MIT
/* Segment registers, descriptor tables and address checks (SDM 3A chapters 3 and 5). */
#include "x86test.h"

static void load_data(void **state)
{
	T_OK(x86_load_seg(c, DS, S_DATA3 | 3));
	assert_int_equal(c->seg[DS].sel, S_DATA3 | 3);
	assert_int_equal(c->seg[DS].limit, 0xffffffff);
	T_OK(x86_load_seg(c, ES, 0));
	assert_true(c->seg[ES].ar & SEG_UNUSABLE);
	assert_false(c->mode & M_FLAT);
	T_OK(x86_load_seg(c, ES, 3)); /* null with any RPL */
	T_OK(x86_load_seg(c, ES, S_DATA0));
	assert_true(c->mode & M_FLAT);
	T_OK(x86_load_seg(c, FS, S_CODE0)); /* readable code */
	T_OK(x86_load_seg(c, GS, S_CONF | 3));

	T_FAULT(x86_load_seg(c, DS, S_XO), X86_GP, S_XO);
	T_FAULT(x86_load_seg(c, DS, S_TSS), X86_GP, S_TSS);
	T_FAULT(x86_load_seg(c, DS, S_END | 3), X86_GP, S_END);
	T_FAULT(x86_load_seg(c, DS, 0xfff3), X86_GP, 0xfff0);
	T_FAULT(x86_load_seg(c, DS, S_DATA0 | 1), X86_GP, S_DATA0); /* RPL > DPL */
	T_FAULT(x86_load_seg(c, DS, S_NP), X86_NP, S_NP);
	T_FAULT(x86_load_seg(c, DS, S_DATA0 | 4), X86_GP, S_DATA0 | 4); /* no LDT */

	t_mode(S_CODE3 | 3, S_DATA3 | 3, false);
	T_FAULT(x86_load_seg(c, DS, S_DATA0 | 3), X86_GP, S_DATA0);
	T_FAULT(x86_load_seg(c, DS, S_DATA0), X86_GP, S_DATA0); /* CPL > DPL */
	T_OK(x86_load_seg(c, DS, S_CONF | 3));
	T_OK(x86_load_seg(c, DS, S_RO | 3));
	assert_false(c->mode & M_FLAT);
}

static void load_ss(void **state)
{
	T_OK(x86_load_seg(c, SS, S_SMALL));
	assert_int_equal(c->seg[SS].base, 0x20000);
	T_FAULT(x86_load_seg(c, SS, 0), X86_GP, 0);
	T_FAULT(x86_load_seg(c, SS, S_DATA3), X86_GP, S_DATA3);     /* DPL */
	T_FAULT(x86_load_seg(c, SS, S_DATA0 | 3), X86_GP, S_DATA0); /* RPL */
	T_FAULT(x86_load_seg(c, SS, S_RO), X86_GP, S_RO);
	T_FAULT(x86_load_seg(c, SS, S_CODE0), X86_GP, S_CODE0);
	T_FAULT(x86_load_seg(c, SS, S_END), X86_GP, S_END);
	t_gdt(S_NP, t_desc(0, 0xfffff, 0x13, 0xc));
	T_FAULT(x86_load_seg(c, SS, S_NP), X86_SS, S_NP);

	/* Null: only in 64-bit code, below CPL 3, RPL = CPL. */
	t_mode(S_CODE64, S_DATA0, true);
	T_FAULT(x86_load_seg(c, SS, 1), X86_GP, 0);
	T_OK(x86_load_seg(c, SS, 0));
	assert_int_equal(c->seg[SS].ar, SEG_UNUSABLE);
	t_mode(S_CODE64U | 3, S_DATA3 | 3, true);
	T_FAULT(x86_load_seg(c, SS, 3), X86_GP, 0);
	t_mode(S_CODE0, S_DATA0, true); /* compatibility mode */
	T_FAULT(x86_load_seg(c, SS, 0), X86_GP, 0);
}

static void accessed(void **state)
{
	t_gdt(S_DATA0, t_desc(0, 0xfffff, 0x92, 0xc));
	T_OK(x86_load_seg(c, DS, S_DATA0));
	assert_int_equal(t_ld(T_GDT + S_DATA0 + 5, 1), 0x93);
	assert_true(c->seg[DS].ar & SEG_A);
	/* A fault sets nothing. */
	t_gdt(S_NP, t_desc(0, 0xfffff, 0x12, 0xc));
	T_FAULT(x86_load_seg(c, DS, S_NP), X86_NP, S_NP);
	assert_int_equal(t_ld(T_GDT + S_NP + 5, 1), 0x12);
	/* A table that can't be written: only the bit needs it. */
	t_mode(S_CODE64, S_DATA0, true);
	t_gdt(S_DATA3, t_desc(0, 0xfffff, 0xf2, 0xc));
	t_map(T_GDT, PTE_P | PTE_U);
	T_OK(x86_load_seg(c, DS, S_DATA0));
	T_FAULT(x86_load_seg(c, DS, S_DATA3), X86_PF, PF_P | PF_W);
	assert_int_equal(c->ev.cr2, T_GDT + S_DATA3 + 5);
	t_map(T_GDT, 0);
	T_FAULT(x86_load_seg(c, DS, S_DATA0), X86_PF, 0);
	/* ... and CPL 3 reads it as the supervisor does. */
	t_mode(S_CODE64U | 3, S_DATA3 | 3, true);
	t_map(T_GDT, PTE_P | PTE_W);
	T_OK(x86_load_seg(c, DS, S_DATA3 | 3));
	t_map(T_GDT, 0);
	T_FAULT(x86_load_seg(c, ES, S_DATA3 | 3), X86_PF, 0);
}

static void bases64(void **state)
{
	t_mode(S_CODE64, S_DATA0, true);
	t_gdt(S_FREE, t_desc(0x12345678, 0xfff, 0xf3, 0x4));
	T_OK(x86_load_seg(c, FS, S_FREE));
	assert_int_equal(c->segbase[FS], 0x12345678);
	T_OK(x86_load_seg(c, ES, S_FREE));
	assert_int_equal(c->segbase[ES], 0);
	T_OK(x86_load_seg(c, FS, 0));
	assert_int_equal(c->segbase[FS], 0);
}

static void real_and_vm(void **state)
{
	t_real();
	T_OK(x86_load_seg(c, DS, 0xb800));
	assert_int_equal(c->seg[DS].base, 0xb8000);
	assert_int_equal(c->seg[DS].limit, 0xffff);
	c->seg[DS].limit = 0xffffffff; /* "unreal" mode keeps it */
	T_OK(x86_load_seg(c, DS, 0x1234));
	assert_int_equal(c->seg[DS].limit, 0xffffffff);
	assert_int_equal(x86_linear(c, DS, 0x100000, 4, true), 0x112340);
	T_FAULT(x86_linear(c, ES, 0xffff, 2, false), X86_GP, 0);
	T_FAULT(x86_linear(c, SS, 0xfffe, 4, false), X86_SS, 0);
	assert_int_equal(x86_linear(c, CS, 0, 4, true), 0x10000); /* no types in real mode */

	t_mode(S_CODE3 | 3, S_DATA3 | 3, false);
	x86_set_rflags(c, X86_RFLAGS_VM);
	x86_update_mode(c);
	T_OK(x86_load_seg(c, FS, 0xffff));
	assert_int_equal(c->seg[FS].base, 0xffff0);
	assert_int_equal(c->seg[FS].limit, 0xffff);
	assert_int_equal(c->seg[FS].ar, 0xf3);
	T_FAULT(x86_linear(c, FS, 0x10000, 1, false), X86_GP, 0);
}

static void linear32(void **state)
{
	assert_int_equal(x86_linear(c, DS, 0xfffffffe, 2, true), 0xfffffffe);
	T_FAULT(x86_linear(c, CS, 0, 1, true), X86_GP, 0);
	assert_int_equal(x86_linear(c, CS, 0, 1, false), 0);
	T_OK(x86_load_seg(c, DS, S_SMALL));
	assert_int_equal(x86_linear(c, DS, 0xffc, 4, true), 0x20ffc);
	T_FAULT(x86_linear(c, DS, 0xffd, 4, true), X86_GP, 0);
	T_FAULT(x86_linear(c, DS, 0xffffffff, 4, true), X86_GP, 0);
	T_OK(x86_load_seg(c, SS, S_SMALL));
	T_FAULT(x86_linear(c, SS, 0xfff, 2, true), X86_SS, 0);
	T_OK(x86_load_seg(c, DS, S_RO));
	assert_int_equal(x86_linear(c, DS, 0x10, 4, false), 0x10);
	T_FAULT(x86_linear(c, DS, 0x10, 4, true), X86_GP, 0);
	T_OK(x86_load_seg(c, DS, S_DOWN));
	T_FAULT(x86_linear(c, DS, 0x1fff, 4, true), X86_GP, 0);
	assert_int_equal(x86_linear(c, DS, 0x2000, 4, true), 0x2000);
	T_FAULT(x86_linear(c, DS, 0xfffffffd, 4, true), X86_GP, 0);
	t_gdt(S_DOWN, t_desc(0, 1, 0xf7, 0x8)); /* B clear: up to 0xffff */
	T_OK(x86_load_seg(c, DS, S_DOWN));
	T_FAULT(x86_linear(c, DS, 0xfffd, 4, true), X86_GP, 0);
	assert_int_equal(x86_linear(c, DS, 0xfffc, 4, true), 0xfffc);
	T_OK(x86_load_seg(c, DS, 0));
	T_FAULT(x86_linear(c, DS, 0, 1, false), X86_GP, 0);
	t_load(&c->seg[CS], S_XO);
	T_FAULT(x86_linear(c, CS, 0, 1, false), X86_GP, 0);
	/* A base that wraps at 4 GiB. */
	t_gdt(S_FREE, t_desc(0xfffff000, 0xfffff, 0x93, 0xc));
	T_OK(x86_load_seg(c, DS, S_FREE));
	assert_int_equal(x86_linear(c, DS, 0x2000, 4, true), 0x1000);
}

static void linear64(void **state)
{
	t_mode(S_CODE64, S_DATA0, true);
	assert_int_equal(x86_linear(c, DS, 0x7fffffffffff, 1, true), 0x7fffffffffff);
	T_FAULT(x86_linear(c, DS, 0x7fffffffffff, 2, true), X86_GP, 0);
	T_FAULT(x86_linear(c, SS, 0x800000000000, 8, true), X86_SS, 0);
	T_FAULT(x86_linear(c, DS, 0xffff7fffffffffff, 1, true), X86_GP, 0);
	assert_int_equal(x86_linear(c, CS, 0xffff800000000000, 8, true), 0xffff800000000000);
	c->segbase[GS] = c->seg[GS].base = 0xffff888000000000;
	assert_int_equal(x86_linear(c, GS, 0x10, 8, true), 0xffff888000000010);
	assert_int_equal(x86_linear(c, GS, 0x1000000000000 - 0x888000000000 - 0x10, 8, true),
	                 (u64)0 - 0x10);
}

static void ldt(void **state)
{
	T_OK(x86_lldt(c, S_LDT | 3));
	assert_int_equal(c->ldtr.base, T_LDT);
	t_st(T_LDT + 8, t_desc(0x4000, 0xff, 0x93, 0x4), 8);
	T_OK(x86_load_seg(c, DS, 8 | 4));
	assert_int_equal(c->seg[DS].base, 0x4000);
	T_FAULT(x86_load_seg(c, DS, 0x104), X86_GP, 0x104); /* beyond its limit */
	T_OK(x86_lldt(c, 0));
	T_FAULT(x86_load_seg(c, DS, 8 | 4), X86_GP, 8 | 4);
	T_FAULT(x86_lldt(c, S_LDT | 4), X86_GP, S_LDT | 4);
	T_FAULT(x86_lldt(c, S_TSS), X86_GP, S_TSS);
	T_FAULT(x86_lldt(c, S_END), X86_GP, S_END);
	t_gdt(S_LDT, t_desc(T_LDT, 0xff, 0x02, 0));
	T_FAULT(x86_lldt(c, S_LDT), X86_NP, S_LDT);
	t_mode(S_CODE3 | 3, S_DATA3 | 3, false);
	T_FAULT(x86_lldt(c, 0), X86_GP, 0);
	t_real();
	assert_int_equal(T_TRY(x86_lldt(c, S_LDT)), X86_UD);

	t_mode(S_CODE64, S_DATA0, true);
	t_gdt(S_LDT, t_desc(T_LDT, 0xff, 0x82, 0));
	t_gdt(S_LDT + 8, 0xffff8880);
	T_OK(x86_lldt(c, S_LDT));
	assert_int_equal(c->ldtr.base, 0xffff888000000000 | T_LDT);
	t_gdt(S_LDT + 8, 0xf0000000);
	T_FAULT(x86_lldt(c, S_LDT), X86_GP, S_LDT);
	t_gdt(S_LDT + 8, 0x10000000000); /* its type field must be 0 */
	T_FAULT(x86_lldt(c, S_LDT), X86_GP, S_LDT);
	c->gdtr.limit = S_LDT + 7;
	T_FAULT(x86_lldt(c, S_LDT), X86_GP, S_LDT);
}

static void ltr(void **state)
{
	T_OK(x86_ltr(c, S_TSS));
	assert_int_equal(t_ld(T_GDT + S_TSS + 5, 1), 0x8b);
	assert_int_equal(c->tr.base, T_TSS);
	assert_int_equal(c->tr.ar & 0xf, 0xb);
	T_FAULT(x86_ltr(c, S_TSS), X86_GP, S_TSS); /* busy */
	T_FAULT(x86_ltr(c, 0), X86_GP, 0);
	T_FAULT(x86_ltr(c, S_LDT), X86_GP, S_LDT);
	T_FAULT(x86_ltr(c, S_TSS | 4), X86_GP, S_TSS | 4);
	t_gdt(S_TSS2, t_desc(T_TSS2, 0x67, 0x09, 0));
	T_FAULT(x86_ltr(c, S_TSS2), X86_NP, S_TSS2);
	T_OK(x86_ltr(c, S_TSS16));
	t_mode(S_CODE64, S_DATA0, true);
	t_gdt(S_TSS16, t_desc(T_TSS16, 0x2b, 0x81, 0));
	T_FAULT(x86_ltr(c, S_TSS16), X86_GP, S_TSS16);
	t_gdt(S_TSS, t_desc(T_TSS, 0xfff, 0x89, 0));
	t_gdt(S_TSS + 8, 0xffff8880);
	T_OK(x86_ltr(c, S_TSS));
	assert_int_equal(c->tr.base, 0xffff888000000000 | T_TSS);
	/* A table that can't be written: nothing is loaded. */
	t_gdt(S_TSS, t_desc(T_TSS, 0xfff, 0x89, 0));
	t_map(T_GDT, PTE_P);
	T_FAULT(x86_ltr(c, S_TSS), X86_PF, PF_P | PF_W);
}

static bool lar(u16 sel, u32 *v)
{
	volatile bool r = false;

	*v = 0xdeadbeef;
	T_OK(r = x86_lar(c, sel, v));
	return r;
}
static bool lsl(u16 sel, u32 *v)
{
	volatile bool r = false;

	*v = 0xdeadbeef;
	T_OK(r = x86_lsl(c, sel, v));
	return r;
}

static void lar_lsl_verify(void **state)
{
	u32 v;

	assert_true(lar(S_DATA3 | 3, &v));
	assert_int_equal(v, 0x00cff300);
	assert_true(lsl(S_DATA3 | 3, &v));
	assert_int_equal(v, 0xffffffff);
	assert_true(lsl(S_SMALL, &v));
	assert_int_equal(v, 0xfff);
	assert_false(lar(0, &v));
	assert_false(lar(S_END, &v));
	assert_int_equal(v, 0xdeadbeef);
	assert_true(lar(S_TSS, &v));
	assert_true(lsl(S_TSS, &v));
	assert_int_equal(v, 0xfff);
	t_gdt(S_FREE, t_gate(S_CODE0, 0, 0x8c, 0));
	assert_true(lar(S_FREE, &v));
	assert_false(lsl(S_FREE, &v));
	t_gdt(S_FREE, t_gate(S_TSS2, 0, 0x85, 0));
	assert_true(lar(S_FREE, &v));
	t_gdt(S_FREE, t_gate(S_CODE0, 0, 0x8e, 0));
	assert_false(lar(S_FREE, &v));
	assert_true(lar(S_TSS16, &v));
	assert_false(lar(S_DATA0 | 3, &v)); /* RPL > DPL */
	assert_true(lar(S_CONF | 3, &v));
	assert_true(lar(S_NP, &v)); /* presence does not matter */

	assert_true(x86_verify(c, S_DATA0, true));
	assert_true(x86_verify(c, S_RO, false));
	assert_false(x86_verify(c, S_RO, true));
	assert_false(x86_verify(c, S_XO, false));
	assert_true(x86_verify(c, S_CODE0, false));
	assert_false(x86_verify(c, S_CODE0, true));
	assert_false(x86_verify(c, S_TSS, false));
	assert_false(x86_verify(c, 0, false));
	assert_false(x86_verify(c, S_DATA0 | 3, false));
	assert_true(x86_verify(c, S_CONF | 3, false));

	t_mode(S_CODE64U | 3, S_DATA3 | 3, true);
	assert_false(lar(S_TSS16, &v)); /* no 16-bit TSS in IA-32e mode */
	assert_false(lsl(S_TSS, &v));   /* DPL 0 */
	assert_true(lsl(S_CODE3, &v));
	t_real();
	assert_int_equal(T_TRY(x86_lar(c, 8, &v)), X86_UD);
	assert_int_equal(T_TRY(x86_verify(c, 8, true)), X86_UD);
}

static void push_pop(void **state)
{
	T_OK(x86_push(c, 0x11223344, 4));
	assert_int_equal(c->gpr[RSP], T_STACK - 4);
	assert_int_equal(t_ld(T_STACK - 4, 4), 0x11223344);
	T_OK(x86_push(c, 0x5566, 2));
	assert_int_equal(x86_pop(c, 2), 0x5566);
	assert_int_equal(x86_pop(c, 4), 0x11223344);
	assert_int_equal(c->gpr[RSP], T_STACK);

	T_OK(x86_load_seg(c, SS, S_SMALL));
	c->gpr[RSP] = 0x1001;
	T_FAULT(x86_pop(c, 4), X86_SS, 0);
	T_FAULT(x86_push(c, 1, 2), X86_SS, 0);
	c->gpr[RSP] = 0x1000;
	T_OK(x86_push(c, 1, 2));
	assert_int_equal(c->gpr[RSP], 0xffe);
	c->gpr[RSP] = 2;
	T_FAULT(x86_push(c, 1, 4), X86_SS, 0);

	/* A 16-bit stack wraps and leaves the upper half of ESP. */
	T_OK(x86_load_seg(c, SS, S_DATA16));
	c->gpr[RSP] = 0x12340000;
	T_OK(x86_push(c, 0xabcd, 2));
	assert_int_equal(c->gpr[RSP], 0x1234fffe);
	assert_int_equal(t_ld(0x1fffe, 2), 0xabcd);
	assert_int_equal(x86_pop(c, 2), 0xabcd);
	assert_int_equal(c->gpr[RSP], 0x12340000);

	t_mode(S_CODE64, S_DATA0, true);
	T_OK(x86_push(c, 0x1122334455667788, 8));
	assert_true(x86_pop(c, 8) == 0x1122334455667788);
	c->gpr[RSP] = 0x800000000004;
	T_FAULT(x86_push(c, 0, 8), X86_SS, 0);
	c->gpr[RSP] = 0x7ffffffffffc;
	T_FAULT(x86_pop(c, 8), X86_SS, 0);
	t_map(0x1f000, PTE_P);
	c->gpr[RSP] = T_STACK;
	T_FAULT(x86_push(c, 0, 8), X86_PF, PF_P | PF_W);
}

static void flags(void **state)
{
	const u64 all = 0x3f7fd7;

	c->sflags = X86_RFLAGS_FIXED;
	x86_popf(c, all, 4);
	assert_int_equal(x86_rflags(c), 0x247fd7); /* not VM, RF, VIF, VIP */
	assert_true(c->step);
	assert_int_equal(x86_pushf_image(c, 4), 0x247fd7);
	assert_int_equal(x86_pushf_image(c, 2), 0x7fd7);
	x86_popf(c, 2, 2);
	assert_int_equal(x86_rflags(c), 0x240002);
	x86_popf(c, 2, 4);
	assert_false(c->step);

	t_mode(S_CODE3 | 3, S_DATA3 | 3, false);
	x86_popf(c, all, 4);
	assert_int_equal(x86_rflags(c), 0x244dd7); /* neither IF nor IOPL */
	x86_set_rflags(c, X86_RFLAGS_IOPL);
	x86_popf(c, X86_RFLAGS_IF, 4);
	assert_int_equal(x86_rflags(c), 0x3202); /* IF, IOPL unchanged */
	x86_cli(c);
	assert_int_equal(x86_rflags(c), 0x3002);
	x86_sti(c);
	assert_true(c->irq_shadow);
	c->irq_shadow = false;
	x86_sti(c);
	assert_false(c->irq_shadow); /* IF was set already */
	x86_set_rflags(c, 0x2000);
	T_FAULT(x86_cli(c), X86_GP, 0);
	T_FAULT(x86_sti(c), X86_GP, 0);

	x86_set_rflags(c, X86_RFLAGS_VM | 0x2000);
	x86_update_mode(c);
	T_FAULT(x86_popf(c, 0, 2), X86_GP, 0);
	T_FAULT(x86_pushf_image(c, 2), X86_GP, 0);
	T_FAULT(x86_cli(c), X86_GP, 0);
	x86_set_rflags(c, X86_RFLAGS_VM | X86_RFLAGS_IOPL);
	T_OK(x86_popf(c, all & ~X86_RFLAGS_VM, 4));
	assert_int_equal(x86_rflags(c), 0x267fd7);
	assert_int_equal(x86_pushf_image(c, 4), 0x247fd7);
}

#define T(f) cmocka_unit_test_setup_teardown(f, t_setup, t_teardown)
int main(void)
{
	const struct CMUnitTest tests[] = {
		T(load_data),   T(load_ss),        T(accessed), T(bases64),
		T(real_and_vm), T(linear32),       T(linear64), T(ldt),
		T(ltr),         T(lar_lsl_verify), T(push_pop), T(flags),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
