// SPDX-License-Identifier: MIT
/* Delivery of exceptions and interrupts, double and triple faults, task switches, virtual-8086 mode
 * (SDM 3A chapters 6, 7 and 20). */
#include "x86test.h"

#define USER_RSP (T_STACK + 0x3000u)

static int deliver(enum x86_ev_type type, u8 vector, bool has_err, u32 err)
{
	const struct x86_event ev = {
		.type = type, .vector = vector, .has_err = has_err, .err = err};
	int r;

	c->unwind_valid = false;
	r = x86_deliver(c, &ev);
	assert_false(c->unwind_valid);
	return r;
}

/* Handlers at 0x40000 + vector * 16, so that RIP tells which one was entered. */
static u64 handler(unsigned vector)
{
	return 0x40000 + vector * 16;
}
#define ENTERED(vector) assert_int_equal(c->rip, handler(vector))

static void idt32(u8 type)
{
	for (unsigned v = 0; v < 32; v++)
		t_idt(v, t_gate(S_CODE0, (u32)handler(v), type, 0));
	t_st(T_TSS + 4, T_STACK, 4);
	t_st(T_TSS + 8, S_DATA0, 2);
}
static void idt64(void)
{
	for (unsigned v = 0; v < 64; v++)
		t_idt64(v, S_CODE64, handler(v), 0x8e, 0);
	t_st(T_TSS + 4, T_STACK, 8);
}
static void user64(void)
{
	t_mode(S_CODE64U | 3, S_DATA3 | 3, true);
}
static void kernel64(void)
{
	t_mode(S_CODE64, S_DATA0, true);
}

/* ---- 64-bit ---- */

static void long_user_to_kernel(void **state)
{
	idt64();
	user64();
	t_st(T_TSS + 4, T_STACK - 8, 8); /* gets aligned */
	x86_set_rflags(c, 0x40346);      /* AC, IF, TF, some flags */
	c->irq_shadow = true;
	assert_int_equal(deliver(EV_FAULT, X86_GP, true, 0x1234), 0);
	ENTERED(X86_GP);
	assert_int_equal(c->cpl, 0);
	assert_false(c->irq_shadow);
	assert_int_equal(c->seg[CS].sel, S_CODE64);
	assert_int_equal(c->seg[SS].sel, 0);
	assert_true(c->seg[SS].ar & SEG_UNUSABLE);
	assert_int_equal(c->gpr[RSP], T_STACK - 16 - 48);
	assert_int_equal(t_ld(T_STACK - 64, 8), 0x1234);
	assert_int_equal(t_ld(T_STACK - 56, 8), 0x30000);
	assert_int_equal(t_ld(T_STACK - 48, 8), S_CODE64U | 3);
	assert_int_equal(t_ld(T_STACK - 40, 8), 0x50346); /* RF for a fault */
	assert_int_equal(t_ld(T_STACK - 32, 8), USER_RSP);
	assert_int_equal(t_ld(T_STACK - 24, 8), S_DATA3 | 3);
	assert_int_equal(x86_rflags(c), 0x40046);
	assert_false(c->step);
	assert_ptr_equal(c->tlb, c->tlbs[TLB_SUP_AC]);
}

static void long_same_level(void **state)
{
	idt64();
	kernel64();
	c->gpr[RSP] = T_STACK - 4;
	x86_set_rflags(c, 0x202);
	assert_int_equal(deliver(EV_INTR, 0x30, false, 0), 0);
	ENTERED(0x30);
	assert_int_equal(c->gpr[RSP], T_STACK - 16 - 40);
	assert_int_equal(t_ld(T_STACK - 24, 8), S_DATA0);
	assert_int_equal(t_ld(T_STACK - 32, 8), T_STACK - 4);
	assert_int_equal(t_ld(T_STACK - 40, 8), 0x202); /* no RF */
	assert_int_equal(t_ld(T_STACK - 56, 8), 0x30000);
	assert_int_equal(c->seg[SS].sel, S_DATA0);
	assert_int_equal(x86_rflags(c), 2);
	/* A trap gate leaves IF. */
	t_idt64(0x31, S_CODE64, handler(0x31), 0x8f, 0);
	x86_set_rflags(c, 0x202);
	assert_int_equal(deliver(EV_INTR, 0x31, false, 0), 0);
	assert_int_equal(x86_rflags(c), 0x202);
	/* IST, also without a change of level */
	t_idt64(2, S_CODE64, handler(2), 0x8e, 3);
	t_st(T_TSS + 0x1c + 3 * 8, 0x15008, 8);
	assert_int_equal(deliver(EV_NMI, X86_NMI, false, 0), 0);
	assert_true(c->nmi_blocked);
	assert_int_equal(c->gpr[RSP], 0x15000 - 40);
	assert_int_equal(c->seg[SS].sel, S_DATA0);
}

static void long_soft(void **state)
{
	idt64();
	user64();
	assert_int_equal(T_TRY(x86_soft_int(c, 0x30, EV_SOFT)), 0x30);
	assert_int_equal(c->ev.type, EV_SOFT);
	/* DPL 0: #GP names the gate, EXT clear, RIP is the INT's. */
	assert_int_equal(deliver(EV_SOFT, 0x30, false, 0), 0);
	ENTERED(X86_GP);
	assert_int_equal(t_ld(c->gpr[RSP], 8), 0x30 * 8 + 2);
	assert_int_equal(t_ld(c->gpr[RSP] + 8, 8), 0x30000);
	assert_int_equal(t_ld(c->gpr[RSP] + 24, 8) & X86_RFLAGS_RF, X86_RFLAGS_RF);
	user64();
	assert_int_equal(deliver(EV_SOFT_XCPT, X86_BP, false, 0), 0);
	ENTERED(X86_GP);
	user64(); /* INT1 ignores the DPL */
	x86_set_rflags(c, 2);
	assert_int_equal(deliver(EV_ICEBP, X86_DB, false, 0), 0);
	ENTERED(X86_DB);
	assert_int_equal(t_ld(c->gpr[RSP], 8), 0x30002);
	user64();
	t_idt64(3, S_CODE64, handler(3), 0xee, 0);
	assert_int_equal(deliver(EV_SOFT_XCPT, X86_BP, false, 0), 0);
	ENTERED(X86_BP);
	assert_int_equal(t_ld(c->gpr[RSP], 8), 0x30002);
	assert_int_equal(t_ld(c->gpr[RSP] + 16, 8), 2);
	assert_int_equal(c->gpr[RSP], T_STACK - 40);
}

/* What is wrong with gate 0x30 becomes the exception `vector` with `err`. */
static void expect(u8 vector, u32 err)
{
	user64();
	assert_int_equal(deliver(EV_INTR, 0x30, false, 0), 0);
	ENTERED(vector);
	assert_int_equal(t_ld(c->gpr[RSP], 8), err);
	assert_int_equal(t_ld(c->gpr[RSP] + 8, 8), 0x30000);
	assert_int_equal(t_ld(c->gpr[RSP] + 16, 8), S_CODE64U | 3);
	assert_int_equal(t_ld(c->gpr[RSP] + 32, 8), USER_RSP);
}

static void long_bad_gates(void **state)
{
	idt64();
	t_idt64(0x30, S_CODE64, 0x1000, 0x0e, 0);
	expect(X86_NP, 0x30 * 8 + 3);
	t_idt64(0x30, S_CODE64, 0x1000, 0x86, 0);
	expect(X86_GP, 0x30 * 8 + 3);
	t_idt64(0x30, S_CODE64, 0x1000, 0x85, 0);
	expect(X86_GP, 0x30 * 8 + 3);
	t_idt64(0x30, 0, 0x1000, 0x8e, 0);
	expect(X86_GP, 1);
	t_idt64(0x30, S_END, 0x1000, 0x8e, 0);
	expect(X86_GP, S_END | 1);
	t_idt64(0x30, S_CODE0, 0x1000, 0x8e, 0); /* not 64-bit */
	expect(X86_GP, S_CODE0 | 1);
	t_idt64(0x30, S_DATA0, 0x1000, 0x8e, 0);
	expect(X86_GP, S_DATA0 | 1);
	t_gdt(S_NPCODE, t_desc(0, 0xfffff, 0x1b, 0xa));
	t_idt64(0x30, S_NPCODE, 0x1000, 0x8e, 0);
	expect(X86_NP, S_NPCODE | 1);
	t_idt64(0x30, S_CODE64, 0x800000000000, 0x8e, 0);
	expect(X86_GP, 1);
	t_idt64(0x30, S_CODE64, 0x1000, 0x8e, 1); /* IST: a stack that is not canonical */
	t_st(T_TSS + 0x1c + 8, 0x800000000040, 8);
	expect(X86_SS, 1);
	t_st(T_TSS + 0x1c + 8, 0x600000, 8); /* ... not mapped */
	expect(X86_PF, PF_W);
	assert_int_equal(c->cr2, 0x600000 - 8);
	c->idtr.limit = 0x30 * 16 + 14;
	expect(X86_GP, 0x30 * 8 + 3);
	/* Conforming: the level stays 3. */
	c->idtr.limit = 0xfff;
	t_idt64(0x30, S_CONF64, handler(0x30), 0x8e, 0);
	user64();
	assert_int_equal(deliver(EV_INTR, 0x30, false, 0), 0);
	ENTERED(0x30);
	assert_int_equal(c->cpl, 3);
	assert_int_equal(c->seg[CS].sel, S_CONF64 | 3);
	assert_int_equal(c->gpr[RSP], USER_RSP - 40);
	/* The TSS is too short. */
	user64();
	t_idt64(X86_TS, S_CONF64, handler(X86_TS), 0x8e, 0);
	c->tr.limit = 10;
	assert_int_equal(deliver(EV_FAULT, X86_UD, false, 0), 0);
	ENTERED(X86_TS);
	assert_int_equal(t_ld(c->gpr[RSP], 8), S_TSS | 1);
}

/* SMAP: the frame goes to the kernel's stack with the kernel's rights. */
static void long_rights(void **state)
{
	idt64();
	user64();
	t_map(T_STACK - 0x1000, PTE_P | PTE_W); /* supervisor page */
	assert_int_equal(deliver(EV_INTR, 0x30, false, 0), 0);
	ENTERED(0x30);
	user64();
	c->cr4 |= CR4_SMAP;
	x86_update_mode(c);
	t_map(T_STACK - 0x1000, PTE_P | PTE_W | PTE_U); /* refused: no stack at all */
	t_map(T_TSS, PTE_P | PTE_W);
	t_map(T_IDT, PTE_P);
	t_map(T_GDT, PTE_P);
	assert_int_equal(deliver(EV_INTR, 0x30, false, 0), -1);
	user64();
	c->cr4 |= CR4_SMAP;
	x86_set_rflags(c, X86_RFLAGS_AC);
	x86_update_mode(c);
	assert_int_equal(deliver(EV_INTR, 0x30, false, 0), 0);
	ENTERED(0x30);
}

/* ---- nesting ---- */

static void double_fault(void **state)
{
	idt64();
	kernel64();
	/* #GP on #NP's way: both contributory */
	t_idt64(X86_NP, 0, 0, 0x8e, 0);
	assert_int_equal(deliver(EV_FAULT, X86_NP, true, 0), 0);
	ENTERED(X86_DF);
	assert_int_equal(t_ld(c->gpr[RSP], 8), 0);
	assert_int_equal(t_ld(c->gpr[RSP] + 8, 8), 0x30000);
	assert_int_equal(t_ld(c->gpr[RSP] + 24, 8) & X86_RFLAGS_RF, 0);
	/* #UD is benign: its #GP is served; so is one met by INT 13 and by NMI. */
	kernel64();
	t_idt64(X86_UD, 0, 0, 0x8e, 0);
	assert_int_equal(deliver(EV_FAULT, X86_UD, false, 0), 0);
	ENTERED(X86_GP);
	kernel64();
	assert_int_equal(deliver(EV_SOFT, X86_NP, false, 0), 0);
	ENTERED(X86_GP);
	/* a contributory fault, then #PF: served one after the other */
	kernel64();
	t_idt64(X86_NP, S_CODE64, handler(X86_NP), 0x8e, 1);
	t_st(T_TSS + 0x1c + 8, 0x600000, 8);
	assert_int_equal(deliver(EV_FAULT, X86_NP, true, 0x10), 0);
	ENTERED(X86_PF);
	/* #PF, then a contributory fault or #PF: double */
	kernel64();
	t_idt64(X86_PF, S_CODE64, handler(X86_PF), 0x0e, 0);
	assert_int_equal(deliver(EV_FAULT, X86_PF, true, 2), 0);
	ENTERED(X86_DF);
	kernel64();
	t_idt64(X86_PF, S_CODE64, handler(X86_PF), 0x8e, 1);
	assert_int_equal(deliver(EV_FAULT, X86_PF, true, 2), 0);
	ENTERED(X86_DF);
	/* and a double fault that fails ends it all, the state untouched */
	kernel64();
	t_idt64(X86_DF, 0, 0, 0x8e, 0);
	{
		static struct t_state before, after;

		t_snap(&before);
		assert_int_equal(deliver(EV_FAULT, X86_PF, true, 2), -1);
		t_snap(&after);
		assert_memory_equal(&before, &after, sizeof(before));
	}
	kernel64();
	c->idtr.limit = 0;
	assert_int_equal(deliver(EV_INTR, 0x30, false, 0), -1);
}

static void align_loop(void **state)
{
	/* #AC whose handler runs on the same misaligned stack: a processor hangs, we give up. */
	idt32(0xee);
	for (unsigned v = 0; v < 32; v++)
		t_idt(v, t_gate(S_CODE3, (u32)handler(v), 0xee, 0));
	t_mode(S_CODE3 | 3, S_DATA3 | 3, false);
	c->cr0 |= CR0_AM;
	c->gpr[RSP] = USER_RSP + 1;
	x86_set_rflags(c, X86_RFLAGS_AC);
	x86_update_mode(c);
	assert_int_equal(deliver(EV_INTR, 0x10, false, 0), -1);
}

static void registers(void **state)
{
	const struct x86_event pf = {
		.type = EV_FAULT, .vector = X86_PF, .has_err = true, .err = 2, .cr2 = 0x123456};
	struct x86_event db = {.type = EV_TRAP, .vector = X86_DB, .dr6 = 0x4002};

	idt64();
	kernel64();
	assert_int_equal(x86_deliver(c, &pf), 0);
	assert_int_equal(c->cr2, 0x123456);
	ENTERED(X86_PF);
	kernel64();
	c->dr[6] = 0xffff0ff1;
	c->dr[7] = 0x2400;
	x86_set_rflags(c, X86_RFLAGS_TF);
	assert_int_equal(x86_deliver(c, &db), 0);
	assert_int_equal(c->dr[6], 0xffff4ff2);
	assert_int_equal(c->dr[7], 0x400);
	assert_int_equal(t_ld(c->gpr[RSP] + 16, 8), 0x102);
	assert_false(c->step);
	kernel64();
	db = (struct x86_event){.type = EV_FAULT, .vector = X86_DB, .dr6 = 1};
	x86_set_rflags(c, 2);
	assert_int_equal(x86_deliver(c, &db), 0); /* instruction breakpoint: RF not set */
	assert_int_equal(t_ld(c->gpr[RSP] + 16, 8), 2);
	/* INT 1 and INT 14 are no debug exception and no page fault. */
	kernel64();
	c->dr[7] = 0x2400;
	assert_int_equal(deliver(EV_SOFT, X86_DB, false, 0), 0);
	assert_int_equal(c->dr[7], 0x2400);
	c->cr2 = 0x77;
	kernel64();
	assert_int_equal(deliver(EV_SOFT, X86_PF, false, 0), 0);
	assert_int_equal(c->cr2, 0x77);
	assert_int_equal(c->gpr[RSP], T_STACK - 40); /* and pushes no error code */
}

/* ---- 32 and 16 bits ---- */

static void pm_gates(void **state)
{
	idt32(0x8e);
	x86_set_rflags(c, 0x4302); /* NT, TF, IF */
	assert_int_equal(deliver(EV_FAULT, X86_GP, true, 0x55), 0);
	ENTERED(X86_GP);
	assert_int_equal(c->gpr[RSP], T_STACK - 16);
	assert_int_equal(t_ld(T_STACK - 16, 4), 0x55);
	assert_int_equal(t_ld(T_STACK - 12, 4), 0x30000);
	assert_int_equal(t_ld(T_STACK - 8, 4), S_CODE0);
	assert_int_equal(t_ld(T_STACK - 4, 4), 0x14302);
	assert_int_equal(x86_rflags(c), 2);

	t_mode(S_CODE3 | 3, S_DATA3 | 3, false);
	t_idt(9, t_gate(S_CODE0, (u32)handler(9), 0x8f, 0));
	x86_set_rflags(c, 0x202);
	assert_int_equal(deliver(EV_INTR, 9, false, 0), 0);
	ENTERED(9);
	assert_int_equal(c->cpl, 0);
	assert_int_equal(c->seg[SS].sel, S_DATA0);
	assert_int_equal(c->gpr[RSP], T_STACK - 20);
	assert_int_equal(t_ld(T_STACK - 4, 4), S_DATA3 | 3);
	assert_int_equal(t_ld(T_STACK - 8, 4), USER_RSP);
	assert_int_equal(t_ld(T_STACK - 12, 4), 0x202);
	assert_int_equal(t_ld(T_STACK - 16, 4), S_CODE3 | 3);
	assert_int_equal(x86_rflags(c), 0x202); /* trap gate */
	T_OK(x86_iret(c, 4));
	assert_int_equal(c->cpl, 3);
	assert_int_equal(c->gpr[RSP], USER_RSP);

	/* 16-bit gates push words. */
	t_idt(9, t_gate(S_CODE0, 0x54321, 0x86, 0));
	assert_int_equal(deliver(EV_INTR, 9, false, 0), 0);
	assert_int_equal(c->rip, 0x4321);
	assert_int_equal(c->gpr[RSP], T_STACK - 10);
	assert_int_equal(t_ld(T_STACK - 2, 2), S_DATA3 | 3);
	T_OK(x86_iret(c, 2));
	assert_int_equal(c->rip, 0); /* 0x30000 was cut to 16 bits */
	assert_int_equal(c->gpr[RSP], USER_RSP & 0xffff);
}

static void expect32(u8 vector, u32 err)
{
	t_mode(S_CODE3 | 3, S_DATA3 | 3, false);
	assert_int_equal(deliver(EV_INTR, 9, false, 0), 0);
	ENTERED(vector);
	assert_int_equal(t_ld(c->gpr[RSP], 4), err);
}

static void pm_faults(void **state)
{
	idt32(0x8e);
	/* Exceptions go to ring 3 here, so that the broken stack does not matter to them. */
	for (unsigned v = X86_TS; v <= X86_GP; v++)
		t_idt(v, t_gate(S_CONF, (u32)handler(v), 0x8e, 0));
	t_idt(9, t_gate(S_CODE0, 0, 0x8d, 0));
	expect32(X86_GP, 9 * 8 + 3);
	t_idt(9, t_gate(S_CODE0, 0, 0x0e, 0));
	expect32(X86_NP, 9 * 8 + 3);
	t_idt(9, t_gate(0, 0, 0x8e, 0));
	expect32(X86_GP, 1);
	t_idt(9, t_gate(S_NPCODE, 0, 0x8e, 0));
	expect32(X86_NP, S_NPCODE | 1);
	t_idt(9, t_gate(S_CODE16, 0x10000, 0x8e, 0));
	expect32(X86_GP, 1);
	t_idt(9, t_gate(S_CODE0, 0, 0x8e, 0));
	t_st(T_TSS + 8, 0, 2);
	expect32(X86_TS, 1);
	t_st(T_TSS + 8, S_END, 2);
	expect32(X86_TS, S_END | 1);
	t_st(T_TSS + 8, S_DATA0 | 1, 2);
	expect32(X86_TS, S_DATA0 | 1);
	t_st(T_TSS + 8, S_DATA3, 2);
	expect32(X86_TS, S_DATA3 | 1);
	t_gdt(S_NP, t_desc(0, 0xfffff, 0x13, 0xc));
	t_st(T_TSS + 8, S_NP, 2);
	expect32(X86_SS, S_NP | 1);
	t_st(T_TSS + 8, S_SMALL, 2);
	t_st(T_TSS + 4, 16, 4);
	expect32(X86_SS, S_SMALL | 1);
	t_idt(9, t_gate(S_CODE0, 0, 0xe5, 0)); /* task gate to nothing */
	expect32(X86_GP, S_CODE0 | 1);
	/* INT n: EXT is clear, and RIP stays at the INT. */
	t_mode(S_CODE3 | 3, S_DATA3 | 3, false);
	t_idt(9, t_gate(0, 0, 0xee, 0));
	assert_int_equal(deliver(EV_SOFT, 9, false, 0), 0);
	ENTERED(X86_GP);
	assert_int_equal(t_ld(c->gpr[RSP], 4), 0);
	assert_int_equal(t_ld(c->gpr[RSP] + 4, 4), 0x30000);
}

static void real_mode(void **state)
{
	t_real();
	t_st(0x21 * 4, 0xf0001234, 4);
	x86_set_rflags(c, 0x40302);
	assert_int_equal(deliver(EV_SOFT, 0x21, false, 0), 0);
	assert_int_equal(c->rip, 0x1234);
	assert_int_equal(c->seg[CS].base, 0xf0000);
	assert_int_equal(c->gpr[RSP], 0x0ffa);
	assert_int_equal(t_ld(0x20ffa, 2), 0x102);
	assert_int_equal(t_ld(0x20ffc, 2), 0x1000);
	assert_int_equal(t_ld(0x20ffe, 2), 0x302);
	assert_int_equal(x86_rflags(c), 2);
	/* Exceptions push no error code. */
	t_st(X86_GP * 4, 0xe0000010, 4);
	assert_int_equal(deliver(EV_FAULT, X86_GP, true, 0), 0);
	assert_int_equal(c->gpr[RSP], 0x0ff4);
	assert_int_equal(c->rip, 0x10);
	/* A vector beyond the limit: #GP, or the end. */
	c->idtr.limit = X86_GP * 4 + 3;
	assert_int_equal(deliver(EV_INTR, 0x40, false, 0), 0);
	assert_int_equal(c->gpr[RSP], 0x0fee);
	c->idtr.limit = 3;
	assert_int_equal(deliver(EV_INTR, 0x40, false, 0), -1);
}

/* ---- virtual-8086 mode ---- */

static void enter_vm(u64 iopl)
{
	t_mode(S_CODE3 | 3, S_DATA3 | 3, false);
	x86_set_rflags(c, X86_RFLAGS_VM | X86_RFLAGS_IF | iopl);
	for (unsigned i = 0; i < NR_SEG; i++)
		x86_seg_set_real(c, (enum x86_segreg)i, (u16)(0x1000 + i * 0x100));
	c->gpr[RSP] = 0xfffe;
	c->rip = 0x10;
	c->next_rip = 0x12;
	x86_update_mode(c);
}

static void vm86(void **state)
{
	idt32(0xee);
	enter_vm(X86_RFLAGS_IOPL);
	assert_int_equal(deliver(EV_SOFT, 0x11, false, 0), 0);
	ENTERED(0x11);
	assert_int_equal(c->cpl, 0);
	assert_false(c->mode & M_VM);
	assert_int_equal(c->gpr[RSP], T_STACK - 36);
	assert_int_equal(t_ld(T_STACK - 36, 4), 0x12);
	assert_int_equal(t_ld(T_STACK - 32, 4), 0x1100);
	assert_int_equal(t_ld(T_STACK - 28, 4), 0x23202);
	assert_int_equal(t_ld(T_STACK - 24, 4), 0xfffe);
	assert_int_equal(t_ld(T_STACK - 20, 4), 0x1200);
	assert_int_equal(t_ld(T_STACK - 16, 4), 0x1000);
	assert_int_equal(t_ld(T_STACK - 12, 4), 0x1300);
	assert_int_equal(t_ld(T_STACK - 8, 4), 0x1400);
	assert_int_equal(t_ld(T_STACK - 4, 4), 0x1500);
	assert_true(c->seg[DS].ar & SEG_UNUSABLE);
	assert_int_equal(x86_rflags(c) & X86_RFLAGS_IF, 0);
	T_OK(x86_iret(c, 4));
	assert_true(c->mode & M_VM);
	assert_int_equal(c->seg[GS].base, 0x15000);
	assert_int_equal(c->gpr[RSP], 0xfffe);
	assert_int_equal(c->rip, 0x12);

	/* IOPL below 3: INT n is #GP(0), INT3 is not. */
	enter_vm(0);
	T_FAULT(x86_soft_int(c, 0x11, EV_SOFT), X86_GP, 0);
	assert_int_equal(T_TRY(x86_soft_int(c, 3, EV_SOFT_XCPT)), 3);
	/* Handlers must be at level 0 and not conforming. */
	t_idt(0x11, t_gate(S_CONF, 0, 0xee, 0));
	assert_int_equal(deliver(EV_INTR, 0x11, false, 0), 0);
	ENTERED(X86_GP);
	assert_int_equal(t_ld(c->gpr[RSP], 4), S_CONF | 1);
}

/* ---- tasks ---- */

static void task32(u32 tss, u32 eip, u16 cs, u16 ss, u32 flags)
{
	static const u16 at[] = {0x48, 0x50, 0x54, 0x58, 0x5c};

	t_st(tss + 0x1c, 0, 4);
	t_st(tss + 0x20, eip, 4);
	t_st(tss + 0x24, flags, 4);
	for (unsigned i = 0; i < 8; i++)
		t_st(tss + 0x28 + i * 4, 0xa0 + i, 4);
	t_st(tss + 0x38, T_STACK + 0x8000, 4);
	for (unsigned i = 0; i < ARRAY_SIZE(at); i++)
		t_st(tss + at[i], ss, 4);
	t_st(tss + 0x4c, cs, 4);
	t_st(tss + 0x60, 0, 4);
	t_st(tss + 0x64, 0, 4);
}
static unsigned busy(u16 sel)
{
	return t_ld(T_GDT + sel + 5, 1) >> 1 & 1;
}
static void start_task(void)
{
	T_OK(x86_ltr(c, S_TSS));
	c->gpr[RBX] = 0xb;
	x86_set_rflags(c, 0x246);
}

static void task_call_iret(void **state)
{
	task32(T_TSS2, 0x50000, S_CODE0, S_DATA0, 2);
	start_task();
	c->dr[7] = 0x455;
	T_OK(x86_far_call(c, S_TSS2, 0, 4));
	assert_int_equal(c->rip, 0x50000);
	assert_int_equal(c->gpr[RAX], 0xa0);
	assert_int_equal(c->gpr[RDI], 0xa7);
	assert_int_equal(c->gpr[RSP], T_STACK + 0x8000);
	assert_int_equal(x86_rflags(c), 0x4002); /* NT */
	assert_int_equal(c->tr.sel, S_TSS2);
	assert_int_equal(busy(S_TSS), 1);
	assert_int_equal(busy(S_TSS2), 1);
	assert_int_equal(t_ld(T_TSS2, 2), S_TSS);
	assert_true(c->cr0 & CR0_TS);
	assert_int_equal(c->dr[7], 0x400);
	assert_int_equal(t_ld(T_TSS + 0x20, 4), 0x30002);
	assert_int_equal(t_ld(T_TSS + 0x24, 4), 0x246);
	assert_int_equal(t_ld(T_TSS + 0x34, 4), 0xb);
	assert_int_equal(t_ld(T_TSS + 0x4c, 2), S_CODE0);
	T_FAULT(x86_far_call(c, S_TSS2, 0, 4), X86_GP, S_TSS2); /* tasks don't recurse */
	T_FAULT(x86_far_call(c, S_TSS, 0, 4), X86_GP, S_TSS);
	c->next_rip = 0x50001;
	T_OK(x86_iret(c, 4));
	assert_int_equal(c->rip, 0x30002);
	assert_int_equal(x86_rflags(c), 0x246);
	assert_int_equal(c->gpr[RBX], 0xb);
	assert_int_equal(c->tr.sel, S_TSS);
	assert_int_equal(busy(S_TSS), 1);
	assert_int_equal(busy(S_TSS2), 0);
	assert_int_equal(t_ld(T_TSS2 + 0x24, 4), 2); /* NT cleared in the image */
	assert_int_equal(t_ld(T_TSS2 + 0x20, 4), 0x50001);
	/* JMP: no nesting. */
	c->next_rip = 0x30004;
	T_OK(x86_far_jmp(c, S_TSS2, 0, 4));
	assert_int_equal(c->rip, 0x50001);
	assert_int_equal(x86_rflags(c), 2);
	assert_int_equal(busy(S_TSS), 0);
	assert_int_equal(busy(S_TSS2), 1);
	/* Back through a task gate. */
	t_gdt(S_FREE, t_gate(S_TSS, 0, 0x85, 0));
	T_OK(x86_far_jmp(c, S_FREE, 0, 4));
	assert_int_equal(c->rip, 0x30004);
}

static void task_event(void **state)
{
	task32(T_TSS2, 0x50000, S_CODE0, S_DATA0, 2);
	idt32(0x8e);
	t_idt(X86_PF, t_gate(S_TSS2, 0, 0x85, 0));
	start_task();
	assert_int_equal(deliver(EV_FAULT, X86_PF, true, 2), 0);
	assert_int_equal(c->rip, 0x50000);
	assert_int_equal(c->gpr[RSP], T_STACK + 0x8000 - 4);
	assert_int_equal(t_ld(T_STACK + 0x8000 - 4, 4), 2);
	assert_int_equal(t_ld(T_TSS + 0x20, 4), 0x30000);
	assert_int_equal(t_ld(T_TSS + 0x24, 4), 0x10246); /* RF */
	assert_int_equal(x86_rflags(c), 0x4002);
	c->gpr[RSP] += 4;
	T_OK(x86_iret(c, 4));
	assert_int_equal(c->rip, 0x30000);
	/* INT n saves the next instruction's address. */
	t_idt(9, t_gate(S_TSS2, 0, 0x85, 0));
	task32(T_TSS2, 0x50000, S_CODE0, S_DATA0, 2);
	c->next_rip = 0x30002;
	assert_int_equal(deliver(EV_SOFT, 9, false, 0), 0);
	assert_int_equal(t_ld(T_TSS + 0x20, 4), 0x30002);
	assert_int_equal(c->gpr[RSP], T_STACK + 0x8000);
}

static void task16(void **state)
{
	start_task();
	for (unsigned i = 0; i < 8; i++)
		t_st(T_TSS16 + 0x12 + i * 2, 0xc0 + i, 2);
	t_st(T_TSS16 + 0x0e, 0x6000, 2);
	t_st(T_TSS16 + 0x10, 2, 2);
	t_st(T_TSS16 + 0x22, S_DATA0, 2);
	t_st(T_TSS16 + 0x24, S_CODE16, 2);
	t_st(T_TSS16 + 0x26, S_DATA16, 2);
	t_st(T_TSS16 + 0x28, S_DATA0, 2);
	T_OK(x86_far_call(c, S_TSS16, 0, 4));
	assert_int_equal(c->rip, 0x6000);
	assert_int_equal(c->seg[SS].base, 0x10000);
	assert_int_equal(c->gpr[RSP], 0xc4);
	assert_true(c->seg[FS].ar & SEG_UNUSABLE);
	c->next_rip = 0x6001;
	T_OK(x86_iret(c, 4));
	assert_int_equal(c->rip, 0x30002);
	assert_int_equal(t_ld(T_TSS16 + 0x0e, 2), 0x6001);
	assert_int_equal(t_ld(T_TSS16, 2), S_TSS);
}

static void task_faults(void **state)
{
	task32(T_TSS2, 0x50000, S_CODE0, S_DATA0, 2);
	start_task();
	T_FAULT(x86_far_jmp(c, S_TSS2 | 3, 0, 4), X86_GP, S_TSS2);
	t_gdt(S_TSS2, t_desc(T_TSS2, 0x66, 0x89, 0));
	T_FAULT(x86_far_jmp(c, S_TSS2, 0, 4), X86_TS, S_TSS2);
	t_gdt(S_TSS2, t_desc(T_TSS2, 0x67, 0x09, 0));
	T_FAULT(x86_far_jmp(c, S_TSS2, 0, 4), X86_NP, S_TSS2);
	t_gdt(S_TSS2, t_desc(T_TSS2, 0x67, 0x89, 0));
	x86_set_rflags(c, X86_RFLAGS_NT | 2);
	t_st(T_TSS, S_TSS2, 2);
	T_FAULT(x86_iret(c, 4), X86_TS, S_TSS2); /* not busy */
	t_st(T_TSS, 0, 2);
	T_FAULT(x86_iret(c, 4), X86_TS, 0);
	t_st(T_TSS, 0xfff0, 2);
	T_FAULT(x86_iret(c, 4), X86_TS, 0xfff0);
	x86_set_rflags(c, 2);
	assert_int_equal(c->tr.sel, S_TSS);
	assert_int_equal(busy(S_TSS), 1);
}

/* A bad segment of the new task is the new task's fault. */
static void bad_task(u16 at, u16 sel, int vector, u32 err)
{
	task32(T_TSS2, 0x50000, S_CODE3 | 3, S_DATA3 | 3, 2);
	t_st(T_TSS2 + at, sel, 2);
	t_gdt(S_TSS2, t_desc(T_TSS2, 0x67, 0x89, 0));
	t_mode(S_CODE0, S_DATA0, false);
	c->unwind_valid = true;
	if (!setjmp(c->unwind)) {
		x86_far_jmp(c, S_TSS2, 0, 4);
		fail();
	}
	c->unwind_valid = false;
	assert_int_equal(c->ev.vector, vector);
	assert_int_equal(c->ev.err, err);
	assert_int_equal(c->rip, 0x50000);
	assert_int_equal(c->tr.sel, S_TSS2);
	assert_int_equal(c->cpl, at == 0x4c ? sel & 3 : 3);
}

static void task_segments(void **state)
{
	bad_task(0x4c, 3, X86_TS, 0);
	bad_task(0x4c, S_DATA3 | 3, X86_TS, S_DATA3);
	bad_task(0x4c, S_CODE3, X86_TS, S_CODE3);
	bad_task(0x4c, S_NPCODE, X86_NP, S_NPCODE);
	bad_task(0x50, 0, X86_TS, 0);
	bad_task(0x50, S_DATA3, X86_TS, S_DATA3);
	bad_task(0x50, S_NP | 3, X86_SS, S_NP);
	bad_task(0x54, S_DATA0, X86_TS, S_DATA0);
	bad_task(0x48, S_NP | 3, X86_NP, S_NP);
	bad_task(0x60, S_DATA0, X86_TS, S_DATA0);
	bad_task(0x60, S_END, X86_TS, S_END);
	/* The T bit: #DB with BT, in the new task. */
	task32(T_TSS2, 0x50000, S_CONF | 3, S_DATA3 | 3, 2);
	t_st(T_TSS2 + 0x64, 1, 2);
	t_gdt(S_TSS2, t_desc(T_TSS2, 0x67, 0x89, 0));
	t_mode(S_CODE0, S_DATA0, false);
	c->unwind_valid = true;
	if (!setjmp(c->unwind)) {
		x86_far_jmp(c, S_TSS2, 0, 4);
		fail();
	}
	c->unwind_valid = false;
	assert_int_equal(c->ev.type, EV_TRAP);
	assert_int_equal(c->ev.dr6, 0x8000);
	assert_int_equal(c->cpl, 3);
	assert_int_equal(c->seg[DS].sel, S_DATA3 | 3);
}

static void task_vm86(void **state)
{
	task32(T_TSS2, 0, 0x4200, 0x1234, 0x20002);
	t_st(T_TSS2 + 0x48, 0x2345, 2);
	t_gdt(S_TSS2, t_desc(T_TSS2, 0x67, 0x8b, 0));
	idt32(0x8e);
	start_task();
	t_st(T_TSS, S_TSS2, 2);
	x86_set_rflags(c, X86_RFLAGS_NT | 2);
	T_OK(x86_iret(c, 4));
	assert_true(c->mode & M_VM);
	assert_int_equal(c->cpl, 3);
	assert_int_equal(c->seg[CS].base, 0x42000);
	assert_int_equal(c->seg[ES].base, 0x23450);
	assert_int_equal(busy(S_TSS), 0);
	/* And back by a task gate. */
	t_idt(X86_UD, t_gate(S_TSS, 0, 0x85, 0));
	assert_int_equal(deliver(EV_FAULT, X86_UD, false, 0), 0);
	assert_false(c->mode & M_VM);
	assert_int_equal(c->rip, 0x30002);
	assert_int_equal(c->cpl, 0);
	assert_int_equal(t_ld(T_TSS2 + 0x24, 4), 0x30002);
}

#define T(f) cmocka_unit_test_setup_teardown(f, t_setup, t_teardown)
int main(void)
{
	const struct CMUnitTest tests[] = {
		T(long_user_to_kernel), T(long_same_level), T(long_soft),
		T(long_bad_gates),      T(long_rights),     T(double_fault),
		T(align_loop),          T(registers),       T(pm_gates),
		T(pm_faults),           T(real_mode),       T(vm86),
		T(task_call_iret),      T(task_event),      T(task16),
		T(task_faults),         T(task_segments),   T(task_vm86),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
