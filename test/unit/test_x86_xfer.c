// SPDX-License-Identifier: MIT
/* Far transfers, returns, SYSCALL and SYSENTER (SDM vol. 2; 3A 5.8). */
#include "x86test.h"

#define USER_RSP (T_STACK + 0x3000u)

static void user32(void)
{
	t_mode(S_CODE3 | 3, S_DATA3 | 3, false);
}
static void user64(void)
{
	t_mode(S_CODE64U | 3, S_DATA3 | 3, true);
}
static void kernel64(void)
{
	t_mode(S_CODE64, S_DATA0, true);
}

/* Words for a return to pop, first popped first. */
static void stack(unsigned size, unsigned nr, const u64 *words)
{
	for (unsigned i = 0; i < nr; i++)
		t_st(c->gpr[RSP] + i * size, words[i], size);
}
#define STACK(size, ...) stack(size, sizeof((u64[]){__VA_ARGS__}) / 8, (const u64[]){__VA_ARGS__})

static void jmp_code(void **state)
{
	T_OK(x86_far_jmp(c, S_CODE0, 0x1234, 4));
	assert_int_equal(c->rip, 0x1234);
	assert_int_equal(c->seg[CS].sel, S_CODE0);
	T_OK(x86_far_jmp(c, S_CONF | 3, 0x12345678, 2)); /* RPL becomes CPL, 16-bit offset */
	assert_int_equal(c->seg[CS].sel, S_CONF);
	assert_int_equal(c->rip, 0x5678);
	T_OK(x86_far_jmp(c, S_CODE16, 0x10, 4));
	assert_false(c->mode & M_CS32);
	T_OK(x86_far_jmp(c, S_CODE0, 0x1234, 4));

	T_FAULT(x86_far_jmp(c, S_CODE16, 0x10000, 4), X86_GP, 0);
	T_FAULT(x86_far_jmp(c, 3, 0, 4), X86_GP, 0);
	T_FAULT(x86_far_jmp(c, S_END, 0, 4), X86_GP, S_END);
	T_FAULT(x86_far_jmp(c, S_DATA0, 0, 4), X86_GP, S_DATA0);
	T_FAULT(x86_far_jmp(c, S_CODE3, 0, 4), X86_GP, S_CODE3); /* DPL != CPL */
	T_FAULT(x86_far_jmp(c, S_CODE0 | 1, 0, 4), X86_GP, S_CODE0);
	T_FAULT(x86_far_jmp(c, S_NPCODE, 0, 4), X86_NP, S_NPCODE);
	T_FAULT(x86_far_jmp(c, S_LDT, 0, 4), X86_GP, S_LDT);

	t_gdt(S_CODE0, t_desc(0, 0xfffff, 0x9a, 0xc));
	T_OK(x86_far_jmp(c, S_CODE0, 0, 4));
	assert_int_equal(t_ld(T_GDT + S_CODE0 + 5, 1), 0x9b);

	user32();
	T_FAULT(x86_far_jmp(c, S_CODE0, 0, 4), X86_GP, S_CODE0);
	T_OK(x86_far_jmp(c, S_CONF, 0x99, 4)); /* conforming: CPL stays 3 */
	assert_int_equal(c->cpl, 3);
	assert_int_equal(c->seg[CS].sel, S_CONF | 3);
}

static void jmp_long(void **state)
{
	t_mode(S_CODE0, S_DATA0, true);
	T_OK(x86_far_jmp(c, S_CODE64, 0x1000, 4));
	assert_true(c->mode & M_CS64);
	T_FAULT(x86_far_jmp(c, S_CODE64, 0x800000000000, 8), X86_GP, 0);
	T_OK(x86_far_jmp(c, S_CODE64, 0xffff800000000000, 8));
	assert_true(c->rip == 0xffff800000000000);
	t_gdt(S_FREE, t_desc(0, 0xfffff, 0x9b, 0xe)); /* L and D */
	T_FAULT(x86_far_jmp(c, S_FREE, 0, 8), X86_GP, S_FREE);
	T_FAULT(x86_far_jmp(c, S_TSS, 0, 8), X86_GP, S_TSS);
	t_gdt(S_FREE, t_gate(S_TSS, 0, 0x85, 0));
	T_FAULT(x86_far_jmp(c, S_FREE, 0, 8), X86_GP, S_FREE);
	T_OK(x86_far_jmp(c, S_CODE0, 0x2000, 8));
	assert_int_equal(c->mode & (M_CS64 | M_CS32), M_CS32);
}

static void call_ret(void **state)
{
	T_OK(x86_far_call(c, S_CONF, 0x1234, 4));
	assert_int_equal(c->gpr[RSP], T_STACK - 8);
	assert_int_equal(t_ld(T_STACK - 4, 4), S_CODE0);
	assert_int_equal(t_ld(T_STACK - 8, 4), 0x30002);
	T_OK(x86_far_ret(c, 4, 0));
	assert_int_equal(c->rip, 0x30002);
	assert_int_equal(c->seg[CS].sel, S_CODE0);
	assert_int_equal(c->gpr[RSP], T_STACK);
	T_OK(x86_far_call(c, S_CODE0, 0x1234, 2));
	assert_int_equal(c->gpr[RSP], T_STACK - 4);
	T_OK(x86_far_ret(c, 2, 16));
	assert_int_equal(c->rip, 2);
	assert_int_equal(c->gpr[RSP], T_STACK + 16);

	/* No room: nothing changes, though the first word was written. */
	T_OK(x86_load_seg(c, SS, S_SMALL));
	c->gpr[RSP] = 6;
	T_FAULT(x86_far_call(c, S_CONF, 0x1234, 4), X86_SS, 0);
	c->gpr[RSP] = 0xffa;
	T_FAULT(x86_far_ret(c, 4, 0), X86_SS, 0);

	kernel64();
	T_OK(x86_far_call(c, S_CODE64, 0xffff800000000000, 8));
	assert_int_equal(t_ld(T_STACK - 16, 8), 0x30002);
	T_OK(x86_far_ret(c, 8, 0));
	assert_int_equal(c->gpr[RSP], T_STACK);
	t_map(T_STACK - 0x1000, PTE_P | PTE_U);
	c->gpr[RSP] = T_STACK + 8; /* the second word faults */
	T_FAULT(x86_far_call(c, S_CODE64, 0, 8), X86_PF, PF_P | PF_W);
}

static void ret_faults(void **state)
{
	STACK(4, 0x100, 0);
	T_FAULT(x86_far_ret(c, 4, 0), X86_GP, 0);
	STACK(4, 0x100, S_END);
	T_FAULT(x86_far_ret(c, 4, 0), X86_GP, S_END);
	STACK(4, 0x100, S_DATA0);
	T_FAULT(x86_far_ret(c, 4, 0), X86_GP, S_DATA0);
	STACK(4, 0x100, S_CODE3); /* RPL 0, DPL 3 */
	T_FAULT(x86_far_ret(c, 4, 0), X86_GP, S_CODE3);
	STACK(4, 0x100, S_NPCODE);
	T_FAULT(x86_far_ret(c, 4, 0), X86_NP, S_NPCODE);
	STACK(4, 0x10000, S_CODE16);
	T_FAULT(x86_far_ret(c, 4, 0), X86_GP, 0);
	STACK(4, 0x100, S_CODE3 | 3, 0x9000, 0);
	T_FAULT(x86_far_ret(c, 4, 0), X86_GP, 0); /* null SS */
	STACK(4, 0x100, S_CODE3 | 3, 0x9000, S_DATA3);
	T_FAULT(x86_far_ret(c, 4, 0), X86_GP, S_DATA3); /* its RPL */
	STACK(4, 0x100, S_CODE3 | 3, 0x9000, S_RO | 3);
	T_FAULT(x86_far_ret(c, 4, 0), X86_GP, S_RO);
	STACK(4, 0x100, S_CODE3 | 3, 0x9000, S_END | 3);
	T_FAULT(x86_far_ret(c, 4, 0), X86_GP, S_END);
	STACK(4, 0x100, S_CODE3 | 3, 0x9000, S_NP | 3);
	T_FAULT(x86_far_ret(c, 4, 0), X86_SS, S_NP);
	user32();
	STACK(4, 0x100, S_CODE0);
	T_FAULT(x86_far_ret(c, 4, 0), X86_GP, S_CODE0); /* inwards */
}

static void ret_outer(void **state)
{
	T_OK(x86_load_seg(c, DS, S_DATA0));
	T_OK(x86_load_seg(c, ES, S_DATA3));
	T_OK(x86_load_seg(c, FS, S_CONF));
	T_OK(x86_load_seg(c, GS, S_CODE0));
	STACK(4, 0x100, S_CODE3 | 3, 0, 0, USER_RSP, S_DATA3 | 3); /* 8 bytes of parameters */
	T_OK(x86_far_ret(c, 4, 8));
	assert_int_equal(c->cpl, 3);
	assert_int_equal(c->rip, 0x100);
	assert_int_equal(c->gpr[RSP], USER_RSP + 8);
	assert_int_equal(c->seg[SS].sel, S_DATA3 | 3);
	assert_int_equal(c->seg[DS].ar, SEG_UNUSABLE);
	assert_int_equal(c->seg[DS].sel, 0);
	assert_int_equal(c->seg[ES].sel, S_DATA3);
	assert_int_equal(c->seg[FS].sel, S_CONF);
	assert_int_equal(c->seg[GS].sel, 0);
	assert_ptr_equal(c->tlb, c->tlbs[TLB_USER]);

	kernel64();
	STACK(8, 0x100, S_CODE64 | 1, USER_RSP, 1);
	T_FAULT(x86_far_ret(c, 8, 0), X86_GP, S_CODE64);
	STACK(8, 0x100, S_CODE64U | 3, USER_RSP, 3);
	T_FAULT(x86_far_ret(c, 8, 0), X86_GP, 0); /* null SS at CPL 3 */
	STACK(8, 0x800000000000, S_CODE64U | 3, USER_RSP, S_DATA3 | 3);
	T_FAULT(x86_far_ret(c, 8, 0), X86_GP, 0);
	STACK(8, 0x7ffffffff000, S_CODE64U | 3, USER_RSP, S_DATA3 | 3);
	T_OK(x86_far_ret(c, 8, 0));
	assert_true(c->rip == 0x7ffffffff000);
}

/* ---- gates ---- */

static void call_gate32(void **state)
{
	t_st(T_TSS + 4, T_STACK, 4);
	t_st(T_TSS + 8, S_DATA0, 2);
	t_gdt(S_FREE, t_gate(S_CODE0, 0x12345, 0xec, 2));
	user32();
	STACK(4, 0xaaaaaaaa, 0xbbbbbbbb);
	T_OK(x86_far_call(c, S_FREE | 3, 0xdead, 4));
	assert_int_equal(c->cpl, 0);
	assert_int_equal(c->rip, 0x12345);
	assert_int_equal(c->seg[CS].sel, S_CODE0);
	assert_int_equal(c->seg[SS].sel, S_DATA0);
	assert_int_equal(c->gpr[RSP], T_STACK - 24);
	assert_int_equal(t_ld(T_STACK - 4, 4), S_DATA3 | 3);
	assert_int_equal(t_ld(T_STACK - 8, 4), USER_RSP);
	assert_int_equal(t_ld(T_STACK - 12, 4), 0xbbbbbbbb);
	assert_int_equal(t_ld(T_STACK - 16, 4), 0xaaaaaaaa);
	assert_int_equal(t_ld(T_STACK - 20, 4), S_CODE3 | 3);
	assert_int_equal(t_ld(T_STACK - 24, 4), 0x30002);
	T_OK(x86_far_ret(c, 4, 8));
	assert_int_equal(c->cpl, 3);
	assert_int_equal(c->rip, 0x30002);
	assert_int_equal(c->gpr[RSP], USER_RSP + 8);
	/* JMP can't raise privilege. */
	T_FAULT(x86_far_jmp(c, S_FREE | 3, 0, 4), X86_GP, S_CODE0);

	/* 16-bit gate */
	t_gdt(S_FREE, t_gate(S_CODE0, 0x12345, 0xe4, 1));
	user32();
	T_OK(x86_far_call(c, S_FREE, 0, 4));
	assert_int_equal(c->rip, 0x2345);
	assert_int_equal(c->gpr[RSP], T_STACK - 10);
	assert_int_equal(t_ld(T_STACK - 6, 2), 0xaaaa);
	assert_int_equal(t_ld(T_STACK - 10, 2), 2);

	/* To conforming and to equal privilege: no switch. */
	t_gdt(S_FREE, t_gate(S_CONF, 0x777, 0xec, 2));
	user32();
	T_OK(x86_far_call(c, S_FREE | 3, 0, 4));
	assert_int_equal(c->cpl, 3);
	assert_int_equal(c->gpr[RSP], USER_RSP - 8);
	T_OK(x86_far_jmp(c, S_FREE | 3, 0, 4));
	assert_int_equal(c->rip, 0x777);
}

static void call_gate_faults(void **state)
{
	t_st(T_TSS + 4, T_STACK, 4);
	t_st(T_TSS + 8, S_DATA0, 2);
	user32();
	t_gdt(S_FREE, t_gate(S_CODE0, 0, 0x8c, 0));
	T_FAULT(x86_far_call(c, S_FREE, 0, 4), X86_GP, S_FREE); /* DPL */
	t_gdt(S_FREE, t_gate(S_CODE0, 0, 0x6c, 0));
	T_FAULT(x86_far_call(c, S_FREE | 3, 0, 4), X86_NP, S_FREE);
	t_gdt(S_FREE, t_gate(0, 0, 0xec, 0));
	T_FAULT(x86_far_call(c, S_FREE | 3, 0, 4), X86_GP, 0);
	t_gdt(S_FREE, t_gate(S_END, 0, 0xec, 0));
	T_FAULT(x86_far_call(c, S_FREE | 3, 0, 4), X86_GP, S_END);
	t_gdt(S_FREE, t_gate(S_DATA0, 0, 0xec, 0));
	T_FAULT(x86_far_call(c, S_FREE | 3, 0, 4), X86_GP, S_DATA0);
	t_gdt(S_FREE, t_gate(S_NPCODE, 0, 0xec, 0));
	T_FAULT(x86_far_call(c, S_FREE | 3, 0, 4), X86_NP, S_NPCODE);
	t_gdt(S_FREE, t_gate(S_CODE16, 0x10000, 0xec, 0));
	T_FAULT(x86_far_call(c, S_FREE | 3, 0, 4), X86_GP, 0);

	t_gdt(S_FREE, t_gate(S_CODE0, 0x100, 0xec, 0));
	t_st(T_TSS + 8, 0, 2);
	T_FAULT(x86_far_call(c, S_FREE | 3, 0, 4), X86_TS, 0);
	t_st(T_TSS + 8, S_END, 2);
	T_FAULT(x86_far_call(c, S_FREE | 3, 0, 4), X86_TS, S_END);
	t_st(T_TSS + 8, S_DATA0 | 1, 2);
	T_FAULT(x86_far_call(c, S_FREE | 3, 0, 4), X86_TS, S_DATA0);
	t_st(T_TSS + 8, S_DATA3, 2);
	T_FAULT(x86_far_call(c, S_FREE | 3, 0, 4), X86_TS, S_DATA3);
	t_st(T_TSS + 8, S_CODE0, 2);
	T_FAULT(x86_far_call(c, S_FREE | 3, 0, 4), X86_TS, S_CODE0);
	t_gdt(S_NP, t_desc(0, 0xfffff, 0x13, 0xc));
	t_st(T_TSS + 8, S_NP, 2);
	T_FAULT(x86_far_call(c, S_FREE | 3, 0, 4), X86_SS, S_NP);
	t_st(T_TSS + 8, S_SMALL, 2); /* no room */
	t_st(T_TSS + 4, 8, 4);
	T_FAULT(x86_far_call(c, S_FREE | 3, 0, 4), X86_SS, S_SMALL);
	c->tr.limit = 8;
	T_FAULT(x86_far_call(c, S_FREE | 3, 0, 4), X86_TS, S_TSS);
}

static void call_gate64(void **state)
{
	t_st(T_TSS + 4, T_STACK, 8);
	t_gdt(S_FREE, t_gate(S_CODE64, 0x12345, 0xec, 0));
	t_gdt(S_FREE + 8, 0xffff8000);
	user64();
	T_OK(x86_far_call(c, S_FREE | 3, 0, 4));
	assert_int_equal(c->cpl, 0);
	assert_true(c->rip == 0xffff800000012345);
	assert_int_equal(c->seg[SS].sel, 0);
	assert_true(c->seg[SS].ar & SEG_UNUSABLE);
	assert_int_equal(c->gpr[RSP], T_STACK - 32);
	assert_int_equal(t_ld(T_STACK - 8, 8), S_DATA3 | 3);
	assert_int_equal(t_ld(T_STACK - 16, 8), USER_RSP);
	assert_int_equal(t_ld(T_STACK - 24, 8), S_CODE64U | 3);
	assert_int_equal(t_ld(T_STACK - 32, 8), 0x30002);
	T_OK(x86_far_ret(c, 8, 0));
	assert_int_equal(c->cpl, 3);
	assert_int_equal(c->gpr[RSP], USER_RSP);

	t_gdt(S_FREE + 8, 0xf000);
	T_FAULT(x86_far_call(c, S_FREE | 3, 0, 4), X86_GP, 0); /* non-canonical */
	t_gdt(S_FREE + 8, 0x10000000000);
	T_FAULT(x86_far_call(c, S_FREE | 3, 0, 4), X86_GP, S_FREE);
	t_gdt(S_FREE + 8, 0);
	t_gdt(S_FREE, t_gate(S_CODE0, 0x12345, 0xec, 0)); /* not 64-bit code */
	T_FAULT(x86_far_call(c, S_FREE | 3, 0, 4), X86_GP, S_CODE0);
	t_gdt(S_FREE, t_gate(S_CODE64, 0x12345, 0xe4, 0)); /* 16-bit gate */
	T_FAULT(x86_far_call(c, S_FREE | 3, 0, 4), X86_GP, S_FREE);
	/* The inner stack faults in the middle: all is as before, CPL 3's TLB too. */
	t_gdt(S_FREE, t_gate(S_CODE64, 0x12345, 0xec, 0));
	t_st(T_TSS + 4, T_STACK + 16, 8);
	t_map(T_STACK - 0x1000, PTE_P);
	T_FAULT(x86_far_call(c, S_FREE | 3, 0, 4), X86_PF, PF_P | PF_W);
	assert_int_equal(c->ev.cr2, T_STACK - 8);
	/* The inner stack is the supervisor's: CPL 3 could not write it. */
	t_map(T_STACK - 0x1000, PTE_P | PTE_W);
	T_OK(x86_far_call(c, S_FREE | 3, 0, 4));
}

/* ---- IRET ---- */

static void iret32(void **state)
{
	STACK(4, 0x100, S_CODE0, 0x247ed7);
	c->nmi_blocked = true;
	x86_set_rflags(c, 0);
	T_OK(x86_iret(c, 4));
	assert_int_equal(x86_rflags(c), 0x247ed7);
	assert_int_equal(c->gpr[RSP], T_STACK + 12);
	assert_false(c->nmi_blocked);
	x86_set_rflags(c, 0);
	STACK(2, 0x100, S_CODE0, 0x200);
	T_OK(x86_iret(c, 2));
	assert_int_equal(c->gpr[RSP], T_STACK + 18);
	assert_int_equal(x86_rflags(c), 0x202);

	STACK(4, 0x100, S_CODE3 | 3, 0x3002, USER_RSP, S_DATA3 | 3);
	T_OK(x86_iret(c, 4));
	assert_int_equal(c->cpl, 3);
	assert_int_equal(c->gpr[RSP], USER_RSP);
	assert_int_equal(c->seg[DS].sel, 0);
	/* IOPL 3: IF may change, IOPL not, and VM is ignored. */
	STACK(4, 0x100, S_CODE3 | 3, 0x20200);
	T_OK(x86_iret(c, 4));
	assert_int_equal(x86_rflags(c), 0x3202);

	t_mode(S_CODE0, S_DATA0, false);
	x86_set_rflags(c, 0);
	c->nmi_blocked = true;
	STACK(4, 0x100, S_NPCODE, 2);
	T_FAULT(x86_iret(c, 4), X86_NP, S_NPCODE);
	assert_false(c->nmi_blocked); /* even when it faults */
	/* To a 16-bit stack only SP is loaded. */
	t_gdt(S_FREE, t_desc(0x20000, 0xffff, 0xf3, 0));
	c->gpr[RSP] = 0x54320;
	STACK(4, 0x100, S_CODE3 | 3, 2, 0x99991000, S_FREE | 3);
	T_OK(x86_iret(c, 4));
	assert_int_equal(c->gpr[RSP], 0x51000);
}

static void iret64(void **state)
{
	kernel64();
	x86_set_rflags(c, 0);
	STACK(8, 0x100, S_CODE64, 0x202, T_STACK + 0x800, S_DATA0);
	T_OK(x86_iret(c, 8)); /* SS:RSP popped at the same level, too */
	assert_int_equal(c->gpr[RSP], T_STACK + 0x800);
	assert_int_equal(x86_rflags(c), 0x202);
	STACK(8, 0x100, S_CODE64, 0x202, T_STACK, 0);
	T_OK(x86_iret(c, 8));
	assert_true(c->seg[SS].ar & SEG_UNUSABLE);
	STACK(8, 0x100, S_CODE0, 0x202, T_STACK, 0); /* compatibility code needs a stack segment */
	T_FAULT(x86_iret(c, 8), X86_GP, 0);
	STACK(8, 0x100, S_CODE64U | 3, 0x202, USER_RSP, 3);
	T_FAULT(x86_iret(c, 8), X86_GP, 0);
	STACK(8, 0x800000000000, S_CODE64U | 3, 0x202, USER_RSP, S_DATA3 | 3);
	T_FAULT(x86_iret(c, 8), X86_GP, 0);
	STACK(8, 0x100000100, S_CODE3 | 3, 0x202, USER_RSP, S_DATA3 | 3);
	T_OK(x86_iret(c, 8)); /* to 32-bit code: cut off, as processors do */
	assert_int_equal(c->rip, 0x100);
	kernel64();
	x86_set_rflags(c, 0);
	STACK(8, 0x100, S_CODE3 | 3, 0x20202, USER_RSP, S_DATA3 | 3);
	T_OK(x86_iret(c, 8));
	assert_int_equal(c->mode & (M_CS64 | M_CS32), M_CS32);
	assert_int_equal(x86_rflags(c), 0x202);
	/* Compatibility code pops SS only when the level changes. */
	STACK(4, 0x200, S_CODE64U | 3, 0x202);
	T_OK(x86_iret(c, 4));
	assert_int_equal(c->gpr[RSP], USER_RSP + 12);
	assert_true(c->mode & M_CS64);

	kernel64();
	x86_set_rflags(c, X86_RFLAGS_NT);
	T_FAULT(x86_iret(c, 8), X86_GP, 0);
	x86_set_rflags(c, 0);
	c->gpr[RSP] = 0x7ffffffffffc;
	T_FAULT(x86_iret(c, 8), X86_SS, 0);
}

static void iret_real(void **state)
{
	t_real();
	x86_set_rflags(c, 0);
	t_st(0x21000, 0x1234, 2);
	t_st(0x21002, 0x5678, 2);
	t_st(0x21004, 0xffff, 2);
	T_OK(x86_iret(c, 2));
	assert_int_equal(c->seg[CS].base, 0x56780);
	assert_int_equal(c->rip, 0x1234);
	assert_int_equal(x86_rflags(c), 0x7fd7);
	assert_int_equal(c->gpr[RSP], 0x1006);
	c->gpr[RSP] = 0x1000;
	t_st(0x21000, 0x12345, 4);
	T_FAULT(x86_iret(c, 4), X86_GP, 0);
	T_OK(x86_far_call(c, 0xf000, 0xfff0, 2));
	assert_int_equal(c->seg[CS].base, 0xf0000);
	T_OK(x86_far_ret(c, 2, 4));
	assert_int_equal(c->rip, 0x102);
	assert_int_equal(c->gpr[RSP], 0x1004);
	T_FAULT(x86_far_jmp(c, 0, 0x10000, 4), X86_GP, 0);
}

static void iret_vm(void **state)
{
	STACK(4, 0x100, 0x1000, 0x23202, 0x8000, 0x2000, 0xe500, 0xd500, 0xf500, 0x6500);
	T_OK(x86_iret(c, 4));
	assert_int_equal(c->cpl, 3);
	assert_true(c->mode & M_VM);
	assert_int_equal(c->seg[CS].base, 0x10000);
	assert_int_equal(c->seg[SS].base, 0x20000);
	assert_int_equal(c->seg[ES].sel, 0xe500);
	assert_int_equal(c->seg[DS].sel, 0xd500);
	assert_int_equal(c->seg[FS].sel, 0xf500);
	assert_int_equal(c->seg[GS].sel, 0x6500);
	assert_int_equal(c->gpr[RSP], 0x8000);
	assert_int_equal(x86_rflags(c), 0x23202);
	/* Inside: IOPL 3 lets IRET through, and it can't change IOPL or VM. */
	t_st(0x28000, 0x200, 2);
	t_st(0x28002, 0x3000, 2);
	t_st(0x28004, 0, 2);
	T_OK(x86_iret(c, 2));
	assert_int_equal(c->seg[CS].base, 0x30000);
	assert_int_equal(x86_rflags(c), 0x23002);
	T_OK(x86_far_jmp(c, 0x1234, 0x10, 2));
	assert_int_equal(c->seg[CS].base, 0x12340);
	x86_set_rflags(c, X86_RFLAGS_VM | 0x2000);
	T_FAULT(x86_iret(c, 2), X86_GP, 0);
	T_FAULT(x86_soft_int(c, 0x21, EV_SOFT), X86_GP, 0);
}

/* ---- SYSCALL and friends ---- */

static void syscall_sysret(void **state)
{
	user64();
	c->star = (u64)(S_CODE3 | 3) << 48 | (u64)S_CODE0 << 32;
	c->lstar = 0xffffffff81000000;
	c->sfmask = X86_RFLAGS_IF | X86_RFLAGS_DF | X86_RFLAGS_TF;
	x86_set_rflags(c, 0x10647);
	T_OK(x86_syscall(c));
	assert_true(c->rip == 0xffffffff81000000);
	assert_int_equal(c->gpr[RCX], 0x30002);
	assert_int_equal(c->gpr[R11], 0x647);
	assert_int_equal(x86_rflags(c), 0x47);
	assert_int_equal(c->cpl, 0);
	assert_int_equal(c->seg[CS].sel, S_CODE0);
	assert_int_equal(c->seg[CS].ar, 0xa09b);
	assert_int_equal(c->seg[SS].sel, S_CODE0 + 8);
	assert_int_equal(c->seg[SS].ar, 0xc093);
	assert_true(c->mode & M_CS64);
	assert_ptr_equal(c->tlb, c->tlbs[TLB_SUP_AC]);
	c->gpr[R11] = 0x3f7fd7;
	T_OK(x86_sysret(c, 8));
	assert_int_equal(c->rip, 0x30002);
	assert_int_equal(c->cpl, 3);
	assert_int_equal(c->seg[CS].sel, (S_CODE3 + 16) | 3);
	assert_int_equal(c->seg[CS].ar, 0xa0fb);
	assert_int_equal(c->seg[SS].sel, (S_CODE3 + 8) | 3);
	assert_int_equal(c->seg[SS].ar, 0xc0f3);
	assert_int_equal(x86_rflags(c), 0x3c7fd7);
	assert_true(c->step); /* TF */
	T_FAULT(x86_sysret(c, 8), X86_GP, 0);

	kernel64();
	c->gpr[RCX] = 0x800000000000;
	T_FAULT(x86_sysret(c, 8), X86_GP, 0);
	c->gpr[RCX] = 0x1234500001000;
	c->gpr[R11] = 2;
	T_OK(x86_sysret(c, 4));
	assert_int_equal(c->rip, 0x1000);
	assert_int_equal(c->seg[CS].sel, S_CODE3 | 3);
	assert_int_equal(c->mode & (M_CS64 | M_CS32), M_CS32);
	assert_int_equal(T_TRY(x86_syscall(c)), X86_UD); /* compatibility mode */
	user64();
	c->efer &= ~EFER_SCE;
	assert_int_equal(T_TRY(x86_syscall(c)), X86_UD);
	assert_int_equal(T_TRY(x86_sysret(c, 8)), X86_UD);
	t_real();
	c->efer = EFER_SCE;
	assert_int_equal(T_TRY(x86_syscall(c)), X86_UD);
}

/* AMD has SYSCALL in all protected modes and no SYSENTER in long mode. */
static void syscall_amd(void **state)
{
	c->feat.amd = true;
	c->star = (u64)(S_CODE3 | 3) << 48 | (u64)S_CODE0 << 32 | 0x1234;
	c->cstar = 0xffffffff82000000;
	c->sfmask = X86_RFLAGS_IF;
	t_mode(S_CODE3 | 3, S_DATA3 | 3, true);
	x86_set_rflags(c, 0x246);
	T_OK(x86_syscall(c));
	assert_true(c->rip == 0xffffffff82000000);
	assert_true(c->mode & M_CS64);
	assert_int_equal(c->gpr[R11], 0x246);
	assert_int_equal(x86_rflags(c), 0x46);
	c->gpr[RCX] = 0x800000000000; /* not this instruction's fault */
	T_OK(x86_sysret(c, 8));
	assert_true(c->rip == 0x800000000000);
	c->sysenter_cs = S_CODE0;
	assert_int_equal(T_TRY(x86_sysenter(c)), X86_UD);
	assert_int_equal(T_TRY(x86_sysexit(c, 8)), X86_UD);

	user32();
	c->efer = EFER_SCE;
	x86_set_rflags(c, 0x246);
	c->gpr[R11] = 77;
	T_OK(x86_syscall(c));
	assert_int_equal(c->rip, 0x1234);
	assert_int_equal(c->gpr[RCX], 0x30002);
	assert_int_equal(c->gpr[R11], 77);
	assert_int_equal(x86_rflags(c), 0x46);
	assert_int_equal(c->mode & (M_CS64 | M_CS32), M_CS32);
	T_OK(x86_sysret(c, 4));
	assert_int_equal(c->cpl, 3);
	assert_int_equal(x86_rflags(c), 0x246);
	T_OK(x86_sysenter(c));
}

static void sysenter_sysexit(void **state)
{
	user32();
	T_FAULT(x86_sysenter(c), X86_GP, 0);
	c->sysenter_cs = S_CODE0 | 3;
	c->sysenter_esp = 0xffff800000001000;
	c->sysenter_eip = 0xffff800000002000;
	x86_set_rflags(c, 0x202);
	T_OK(x86_sysenter(c));
	assert_int_equal(c->cpl, 0);
	assert_int_equal(c->rip, 0x2000);
	assert_int_equal(c->gpr[RSP], 0x1000);
	assert_int_equal(x86_rflags(c), 2);
	assert_int_equal(c->seg[CS].sel, S_CODE0);
	assert_int_equal(c->seg[SS].sel, S_CODE0 + 8);
	c->gpr[RDX] = 0x5000;
	c->gpr[RCX] = 0x6000;
	T_OK(x86_sysexit(c, 4));
	assert_int_equal(c->rip, 0x5000);
	assert_int_equal(c->gpr[RSP], 0x6000);
	assert_int_equal(c->seg[CS].sel, (S_CODE0 + 16) | 3);
	assert_int_equal(c->seg[SS].sel, (S_CODE0 + 24) | 3);
	assert_int_equal(c->cpl, 3);
	T_FAULT(x86_sysexit(c, 4), X86_GP, 0);

	t_mode(S_CODE3 | 3, S_DATA3 | 3, true);
	T_OK(x86_sysenter(c));
	assert_true(c->mode & M_CS64);
	assert_true(c->rip == 0xffff800000002000);
	assert_true(c->gpr[RSP] == 0xffff800000001000);
	c->gpr[RDX] = 0x800000000000;
	T_FAULT(x86_sysexit(c, 8), X86_GP, 0);
	c->gpr[RDX] = 0x7fffffff0000;
	T_OK(x86_sysexit(c, 8));
	assert_int_equal(c->seg[CS].sel, (S_CODE0 + 32) | 3);
	assert_true(c->mode & M_CS64);
	t_real();
	T_FAULT(x86_sysenter(c), X86_GP, 0);
}

static void target(void **state)
{
	T_OK(x86_check_target(c, 0xffffffff));
	T_OK(x86_far_jmp(c, S_CODE16, 0, 4));
	T_FAULT(x86_check_target(c, 0x10000), X86_GP, 0);
	kernel64();
	T_FAULT(x86_check_target(c, 0x800000000000), X86_GP, 0);
	T_OK(x86_check_target(c, 0xffff800000000000));
}

#define T(f) cmocka_unit_test_setup_teardown(f, t_setup, t_teardown)
int main(void)
{
	const struct CMUnitTest tests[] = {
		T(jmp_code),       T(jmp_long),    T(call_ret),         T(ret_faults),
		T(ret_outer),      T(call_gate32), T(call_gate_faults), T(call_gate64),
		T(iret32),         T(iret64),      T(iret_real),        T(iret_vm),
		T(syscall_sysret), T(syscall_amd), T(sysenter_sysexit), T(target),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
