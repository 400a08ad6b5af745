// SPDX-License-Identifier: MIT
/* The translator's helpers: what they return, and when, above all around the interrupt flag. What
 * the instructions themselves do is cpu/x86's and tested there. */
#include "cpurig.h"
#include "engine/bt/helpers.h"
#include "engine/interp/interp.h"

#define CODE  0x10000ull
#define DATA  0x20000ull
#define STACK 0x30000ull
#define LEN   3 /* of the instruction, as far as the helper is told */

#define IF X86_RFLAGS_IF

static void setup(struct cpurig *r)
{
	rig_init(r, 1);
	rig_long_mode(r);
	assert_int_equal(interp_attach(r->c), 0);
	assert_int_equal(interp_enter(r->c), 0);
	r->c->gpr[RSP] = STACK;
	r->c->sflags = X86_RFLAGS_FIXED;
}

static void fini(struct cpurig *r)
{
	x86_fpu_put(r->c);
	interp_detach(r->c);
	rig_fini(r);
}

static void at(struct cpurig *r, u64 rip)
{
	r->c->rip = rip;
	r->c->next_rip = rip + LEN;
}

/* Call as the stub does: what it returns, or -1 - vector. */
static int call_at(struct cpurig *r, u64 rip, enum bt_helper h, u32 arg)
{
	volatile int ret = -1;
	int vec;

	at(r, rip);
	vec = RAISED(r->c, ret = bt_helpers[h](r->c, arg));
	if (vec >= 0) {
		assert_int_equal(r->c->rip, rip);
		return -1 - vec;
	}
	if (!ret) /* where the stub goes on */
		assert_int_equal(r->c->next_rip, rip + LEN);
	return ret;
}

static int call(struct cpurig *r, enum bt_helper h, u32 arg)
{
	return call_at(r, CODE, h, arg);
}

#define GOES_ON(r, h, arg) assert_int_equal(call(r, h, arg), 0)
/* Attention, behind the instruction. */
#define COMES_OUT(r, h, arg)                                                                       \
	do {                                                                                       \
		assert_int_equal(call(r, h, arg), 1);                                              \
		assert_int_equal((r)->c->rip, CODE + LEN);                                         \
	} while (0)
/* Attention first, then the instruction again. */
#define COMES_OUT_BEFORE(r, h, arg)                                                                \
	do {                                                                                       \
		assert_int_equal(call(r, h, arg), 1);                                              \
		assert_int_equal((r)->c->rip, CODE);                                               \
	} while (0)
#define RAISES(r, h, arg, vec) assert_int_equal(call(r, h, arg), -1 - (vec))

static void pin(struct cpurig *r, bool on)
{
	r->vm.vcpu[0]->req = on ? VCPU_REQ_IRQ : 0;
}

static void code(struct cpurig *r, const void *bytes, size_t len)
{
	pmap_write(r->vm.pmap, CODE, bytes, len);
}

/* Data page holds translated code from here on. */
static void mark_code(struct cpurig *r, gva_t page)
{
	const struct itlb_entry *e;

	assert_ok(r->c, e = mmu_fetch(r->c, page); pmap_code_mark(r->vm.pmap, e->code_ver));
}

/* ---- interrupts ---- */

static void test_sti(void **state)
{
	struct cpurig r;
	struct x86_cpu *c;

	setup(&r);
	c = r.c;
	GOES_ON(&r, BT_H_STI, 0);
	assert_true(c->sflags & IF);
	/* Between STI and what follows an interrupt comes: shut out, whenever it came. */
	pin(&r, true);
	c->rip = CODE + LEN;
	bt_shadow_settle(c);
	assert_false(x86_intr_open(c));
	/* One instruction further it is not. */
	c->rip = CODE + LEN + 1;
	bt_shadow_settle(c);
	assert_true(x86_intr_open(c));

	/* It was there before: the run loop has to know, and the shadow holds. */
	c->sflags &= ~IF;
	COMES_OUT(&r, BT_H_STI, 0);
	bt_shadow_settle(c);
	assert_false(x86_intr_open(c));
	fini(&r);
}

static void test_sti_again(void **state)
{
	struct cpurig r;

	setup(&r);
	GOES_ON(&r, BT_H_STI, 0);
	assert_int_equal(call_at(&r, CODE + LEN, BT_H_STI, 0), 0);
	r.c->rip = CODE + 2 * LEN;
	bt_shadow_settle(r.c);
	assert_true(x86_intr_open(r.c));
	/* Not allowed. */
	r.c->sflags &= ~IF;
	rig_user(&r);
	RAISES(&r, BT_H_STI, 0, X86_GP);
	RAISES(&r, BT_H_CLI, 0, X86_GP);
	assert_false(r.c->sflags & IF);
	fini(&r);
}

/* A guest that opens interrupts for an instruction only must get them. */
static void test_cli(void **state)
{
	struct cpurig r;

	setup(&r);
	r.c->sflags |= IF;
	GOES_ON(&r, BT_H_CLI, 0);
	assert_false(r.c->sflags & IF);
	pin(&r, true);
	GOES_ON(&r, BT_H_CLI, 0); /* closed already */
	r.c->sflags |= IF;
	COMES_OUT_BEFORE(&r, BT_H_CLI, 0);
	assert_true(r.c->sflags & IF);
	assert_true(x86_intr_open(r.c));

	/* STI; CLI: the shadow covers all of it. */
	pin(&r, false);
	r.c->sflags &= ~IF;
	GOES_ON(&r, BT_H_STI, 0);
	pin(&r, true);
	assert_int_equal(call_at(&r, CODE + LEN, BT_H_CLI, 0), 0);
	assert_false(r.c->sflags & IF);

	/* STI; NOP; CLI: it does not. */
	pin(&r, false);
	GOES_ON(&r, BT_H_STI, 0);
	pin(&r, true);
	assert_int_equal(call_at(&r, CODE + LEN + 1, BT_H_CLI, 0), 1);
	assert_true(x86_intr_open(r.c));
	fini(&r);
}

static void push(struct cpurig *r, u64 v)
{
	r->c->gpr[RSP] = STACK - 8;
	pmap_write(r->vm.pmap, STACK - 8, &v, 8);
}

static void test_popf(void **state)
{
	const u64 pdpte = PTE_P | PTE_W | PTE_PS;
	struct cpurig r;
	struct x86_cpu *c;

	setup(&r);
	c = r.c;
	push(&r, X86_RFLAGS_FIXED | X86_RFLAGS_CF | X86_RFLAGS_DF | X86_RFLAGS_NT);
	GOES_ON(&r, BT_H_POPF, 8);
	assert_int_equal(x86_rflags(c),
	                 X86_RFLAGS_FIXED | X86_RFLAGS_CF | X86_RFLAGS_DF | X86_RFLAGS_NT);
	assert_int_equal(c->gpr[RSP], STACK);
	/* Opens with nothing waiting, closes with nothing waiting. */
	push(&r, IF);
	GOES_ON(&r, BT_H_POPF, 8);
	assert_true(x86_intr_open(c));
	push(&r, 0);
	GOES_ON(&r, BT_H_POPF, 8);
	/* Opens with an interrupt waiting: no shadow, not even a stale one. */
	pin(&r, true);
	c->irq_shadow = true;
	push(&r, IF);
	COMES_OUT(&r, BT_H_POPF, 8);
	assert_true(x86_intr_open(c));
	/* It is open, and the run loop has not been out yet. */
	push(&r, IF);
	COMES_OUT_BEFORE(&r, BT_H_POPF, 8);
	/* Closes with an interrupt waiting: that first. */
	push(&r, 0);
	COMES_OUT_BEFORE(&r, BT_H_POPF, 8);
	assert_int_equal(c->gpr[RSP], STACK - 8);
	assert_true(c->sflags & IF);
	pin(&r, false);
	GOES_ON(&r, BT_H_POPF, 8);
	assert_false(c->sflags & IF);

	/* TF, and AC with SMAP, change what may run. The stack is the supervisor's. */
	pmap_write(r.vm.pmap, 0x101000, &pdpte, 8);
	push(&r, X86_RFLAGS_AC);
	GOES_ON(&r, BT_H_POPF, 8);
	push(&r, 0);
	GOES_ON(&r, BT_H_POPF, 8);
	c->cr4 |= CR4_SMAP;
	mmu_flush_all(c);
	x86_update_mode(c);
	push(&r, X86_RFLAGS_AC);
	COMES_OUT(&r, BT_H_POPF, 8);
	push(&r, X86_RFLAGS_TF | X86_RFLAGS_AC);
	COMES_OUT(&r, BT_H_POPF, 8);
	assert_true(c->step);
	/* The stack is not there. */
	c->gpr[RSP] = 0x7f0000000000;
	RAISES(&r, BT_H_POPF, 8, X86_PF);
	fini(&r);
}

static void test_pushf(void **state)
{
	struct cpurig r;
	u64 v = 0;

	setup(&r);
	r.c->aflags = X86_RFLAGS_ZF;
	r.c->sflags |= IF | X86_RFLAGS_RF;
	GOES_ON(&r, BT_H_PUSHF, 8);
	assert_int_equal(r.c->gpr[RSP], STACK - 8);
	pmap_read(r.vm.pmap, STACK - 8, &v, 8);
	assert_int_equal(v, X86_RFLAGS_FIXED | IF | X86_RFLAGS_ZF);
	GOES_ON(&r, BT_H_PUSHF, 2);
	assert_int_equal(r.c->gpr[RSP], STACK - 10);
	/* The stack page has code. */
	mark_code(&r, STACK - PAGE_SIZE);
	COMES_OUT(&r, BT_H_PUSHF, 8);
	assert_true(r.c->code_written);
	fini(&r);
}

static void test_hlt(void **state)
{
	struct cpurig r;

	setup(&r);
	code(&r, "\xf4", 1);
	r.c->sflags |= IF;
	assert_int_equal(call(&r, BT_H_HLT, 0), 1);
	assert_int_equal(r.c->rip, CODE + 1);
	assert_true(interp_take_hlt(r.c));
	/* In the shadow of STI the interrupt is let in when it has halted. */
	r.c->irq_shadow = true;
	bt_of(r.c)->shadow_rip = CODE;
	assert_int_equal(call(&r, BT_H_HLT, 0), 1);
	assert_true(interp_take_hlt(r.c));
	assert_true(x86_intr_open(r.c));
	rig_user(&r);
	RAISES(&r, BT_H_HLT, 0, X86_GP);
	assert_false(interp_take_hlt(r.c));
	fini(&r);
}

/* ---- by the interpreter ---- */

static void test_interp(void **state)
{
	struct cpurig r;
	struct x86_cpu *c;

	setup(&r);
	c = r.c;
	code(&r, "\x48\xff\xc0\x90", 4); /* inc rax; nop: LEN is the first alone */
	GOES_ON(&r, BT_H_INTERP, 0);
	assert_int_equal(c->gpr[RAX], 1);
	code(&r, "\xeb\x10", 2);
	assert_int_equal(call(&r, BT_H_INTERP, 0), 1);
	assert_int_equal(c->rip, CODE + 0x12);
	code(&r, "\x0f\x0b", 2);
	RAISES(&r, BT_H_INTERP, 0, X86_UD);
	/* Stores: mov [rbx], rax. Where there is code, translated code may be gone. */
	code(&r, "\x48\x89\x03", 3);
	c->gpr[RBX] = DATA;
	GOES_ON(&r, BT_H_INTERP, 0);
	mark_code(&r, DATA);
	COMES_OUT(&r, BT_H_INTERP, 0);
	assert_true(c->code_written);
	c->code_written = false;
	/* A shadow of STI is over with its first instruction. */
	code(&r, "\x48\xff\xc0", 3);
	c->sflags &= ~IF;
	assert_int_equal(call_at(&r, CODE - LEN, BT_H_STI, 0), 0);
	GOES_ON(&r, BT_H_INTERP, 0);
	c->rip = c->next_rip;
	bt_shadow_settle(c);
	assert_true(x86_intr_open(c));
	/* MOV SS casts its own; the run loop honours it: mov ss, cx; with REX.W */
	code(&r, "\x48\x8e\xd1", 3);
	c->gpr[RCX] = 0;
	COMES_OUT(&r, BT_H_INTERP, 0);
	assert_true(c->irq_shadow && c->shadow_db);
	bt_shadow_settle(c);
	assert_true(c->irq_shadow && c->shadow_db);
	c->rip++;
	bt_shadow_settle(c);
	assert_false(c->irq_shadow || c->shadow_db);
	fini(&r);
}

/* Vector state that was in the registers is so again, though a device was called. */
static void test_fpu_stays(void **state)
{
	struct cpurig r;
	struct x86_cpu *c;

	setup(&r);
	c = r.c;
	c->gpr[RDX] = 0x5555;
	c->gpr[RAX] = 0x1122334455667788;
	GOES_ON(&r, BT_H_IN, 1 | 1 << 3);
	assert_int_equal(c->gpr[RAX], 0x11223344556677ff);
	assert_false(c->fpu_live);
	x86_fpu_get(c);
	GOES_ON(&r, BT_H_IN, 2 | 0x21 << 4);
	assert_true(c->fpu_live);
	GOES_ON(&r, BT_H_OUT, 4 | 1 << 3);
	assert_true(c->fpu_live);
	x86_fpu_put(c);
	assert_int_equal(c->gpr[RAX], 0x112233445566ffff);
	GOES_ON(&r, BT_H_IN, 4 | 1 << 3);
	assert_int_equal(c->gpr[RAX], 0xffffffff);
	assert_int_equal(c->vcpu->stats.count[EXIT_PIO_IN], 3);
	assert_int_equal(c->vcpu->stats.count[EXIT_PIO_OUT], 1);
	c->tr.limit = 0; /* no permissions */
	rig_user(&r);
	RAISES(&r, BT_H_OUT, 1 | 0x80 << 4, X86_GP);
	fini(&r);
}

/* ---- the rest ---- */

static void test_ac(void **state)
{
	struct cpurig r;

	setup(&r);
	GOES_ON(&r, BT_H_STAC, 1);
	GOES_ON(&r, BT_H_STAC, 0);
	r.c->cr4 |= CR4_SMAP;
	x86_update_mode(r.c);
	COMES_OUT(&r, BT_H_STAC, 1);
	GOES_ON(&r, BT_H_STAC, 1);
	assert_true(r.c->sflags & X86_RFLAGS_AC);
	COMES_OUT(&r, BT_H_STAC, 0);
	GOES_ON(&r, BT_H_STAC, 0);
	rig_user(&r);
	RAISES(&r, BT_H_STAC, 1, X86_UD);
	fini(&r);
}

static void test_cr(void **state)
{
	struct cpurig r;
	struct x86_cpu *c;

	setup(&r);
	c = r.c;
	c->gpr[R9] = c->cr0;
	GOES_ON(&r, BT_H_MOV_TO_CR, R9 | 0 << 4);
	c->gpr[R9] |= CR0_TS;
	COMES_OUT(&r, BT_H_MOV_TO_CR, R9 | 0 << 4);
	COMES_OUT(&r, BT_H_CLTS, 0);
	GOES_ON(&r, BT_H_CLTS, 0);
	GOES_ON(&r, BT_H_SMSW, RBX | 4 << 4);
	assert_int_equal(c->gpr[RBX], c->cr0);
	c->gpr[RBX] = ~0ull;
	GOES_ON(&r, BT_H_SMSW, RBX | 2 << 4);
	assert_int_equal(c->gpr[RBX], 0xffffffffffff0000 | (u16)c->cr0);
	c->gpr[RCX] = CR0_PE | CR0_TS;
	COMES_OUT(&r, BT_H_LMSW, RCX);
	c->gpr[R9] = 0x123456789abc;
	GOES_ON(&r, BT_H_MOV_TO_CR, R9 | 2 << 4);
	GOES_ON(&r, BT_H_MOV_FROM_CR, RSI | 2 << 4);
	assert_int_equal(c->gpr[RSI], 0x123456789abc);
	/* The TLB was flushed. */
	c->gpr[R9] = c->cr3;
	COMES_OUT(&r, BT_H_MOV_TO_CR, R9 | 3 << 4);
	bt_of(c)->save[0] = DATA;
	COMES_OUT(&r, BT_H_INVLPG, 0);
	RAISES(&r, BT_H_MOV_TO_CR, R9 | 1 << 4, X86_UD);
	c->gpr[R9] = 1ull << 63;
	RAISES(&r, BT_H_MOV_TO_CR, R9 | 0 << 4, X86_GP);
	/* A breakpoint: instructions are to be looked at one by one. */
	c->gpr[R9] = 0x402;
	COMES_OUT(&r, BT_H_MOV_TO_DR, R9 | 7 << 4);
	GOES_ON(&r, BT_H_MOV_FROM_DR, RDI | 7 << 4);
	assert_int_equal(c->gpr[RDI], 0x402);
	/* CR8 goes to the interrupt controller and back. */
	c->gpr[R9] = 5;
	x86_fpu_get(c);
	GOES_ON(&r, BT_H_MOV_TO_CR, R9 | 8 << 4);
	GOES_ON(&r, BT_H_MOV_FROM_CR, RSI | 8 << 4);
	assert_int_equal(c->gpr[RSI], 5);
	assert_true(c->fpu_live);
	fini(&r);
}

static void test_msr(void **state)
{
	struct cpurig r;
	struct x86_cpu *c;

	setup(&r);
	c = r.c;
	c->gpr[RCX] = IA32_KERNEL_GS_BASE;
	c->gpr[RAX] = ~0ull << 32 | 0x1000;
	c->gpr[RDX] = 0xffff8000;
	GOES_ON(&r, BT_H_WRMSR, 0);
	assert_int_equal(c->kernel_gs_base, 0xffff800000001000);
	GOES_ON(&r, BT_H_SWAPGS, 0);
	assert_int_equal(c->segbase[GS], 0xffff800000001000);
	RAISES(&r, BT_H_RDFSGSBASE, RAX | 1 << 4 | 1 << 5, X86_UD);
	c->cr4 |= CR4_FSGSBASE;
	GOES_ON(&r, BT_H_RDFSGSBASE, RBX | 1 << 4 | 1 << 5);
	assert_int_equal(c->gpr[RBX], 0xffff800000001000);
	GOES_ON(&r, BT_H_RDFSGSBASE, RSI | 1 << 4);
	assert_int_equal(c->gpr[RSI], 0x1000);
	GOES_ON(&r, BT_H_WRFSGSBASE, RBX);
	assert_int_equal(c->segbase[FS], 0x1000);
	/* The mode that pages are walked in. */
	c->gpr[RCX] = IA32_EFER;
	GOES_ON(&r, BT_H_RDMSR, 0);
	GOES_ON(&r, BT_H_WRMSR, 0);
	c->gpr[RAX] |= EFER_NXE;
	COMES_OUT(&r, BT_H_WRMSR, 0);
	c->gpr[RCX] = 0x12345678;
	RAISES(&r, BT_H_WRMSR, 0, X86_GP);
	RAISES(&r, BT_H_RDMSR, 0, X86_GP);
	/* Its interrupt controller asks for attention. */
	c->gpr[RCX] = IA32_TSC_DEADLINE;
	GOES_ON(&r, BT_H_WRMSR, 0);
	pin(&r, true);
	GOES_ON(&r, BT_H_WRMSR, 0);
	c->sflags |= IF;
	COMES_OUT(&r, BT_H_WRMSR, 0);
	fini(&r);
}

static void test_invpcid(void **state)
{
	struct cpurig r;
	u64 d[2] = {0, DATA};

	setup(&r);
	pmap_write(r.vm.pmap, DATA, d, sizeof(d));
	bt_of(r.c)->save[0] = DATA;
	r.c->gpr[RDX] = 0;
	COMES_OUT(&r, BT_H_INVPCID, RDX);
	r.c->gpr[RDX] = 9;
	RAISES(&r, BT_H_INVPCID, RDX, X86_GP);
	bt_of(r.c)->save[0] = 0x7ffffffffff8; /* ends beyond */
	RAISES(&r, BT_H_INVPCID, RDX, X86_GP);
	RAISES(&r, BT_H_INVPCID, RDX | 1 << 4, X86_SS);
	bt_of(r.c)->save[0] = 0x7ffffffff000;
	RAISES(&r, BT_H_INVPCID, RDX, X86_PF);
	fini(&r);
}

static void test_transfers(void **state)
{
	struct cpurig r;
	struct x86_cpu *c;

	setup(&r);
	c = r.c;
	c->efer |= EFER_SCE;
	c->lstar = DATA;
	c->star = 0x23ull << 48 | 0x10ull << 32;
	c->sfmask = IF | X86_RFLAGS_TF;
	c->sflags |= IF;
	rig_user(&r);
	assert_int_equal(call(&r, BT_H_SYSCALL, 0), 1);
	assert_int_equal(c->rip, DATA);
	assert_int_equal(c->cpl, 0);
	assert_int_equal(c->gpr[RCX], CODE + LEN);
	assert_int_equal(call(&r, BT_H_SYSRET, 8), 1);
	assert_int_equal(c->rip, CODE + LEN);
	assert_int_equal(c->cpl, 3);
	assert_true(c->sflags & IF);
	/* A SYSRET that sets TF traps behind itself, before the program's next instruction. */
	assert_int_equal(call(&r, BT_H_SYSCALL, 0), 1);
	c->gpr[R11] |= X86_RFLAGS_TF;
	at(&r, CODE);
	assert_int_equal(RAISED(c, bt_helpers[BT_H_SYSRET](c, 8)), X86_DB);
	assert_int_equal(c->ev.type, EV_TRAP);
	assert_int_equal(c->rip, CODE + LEN);
	x86_set_rflags(c, IF);

	RAISES(&r, BT_H_INT, 0x80, 0x80);
	assert_int_equal(c->ev.type, EV_SOFT);
	RAISES(&r, BT_H_INT, X86_BP | 1 << 8, X86_BP);
	assert_int_equal(c->ev.type, EV_SOFT_XCPT);
	GOES_ON(&r, BT_H_INT, X86_OF | 2 << 8);
	c->aflags |= X86_RFLAGS_OF;
	RAISES(&r, BT_H_INT, X86_OF | 2 << 8, X86_OF);
	RAISES(&r, BT_H_INT, X86_DB | 3 << 8, X86_DB);
	assert_int_equal(c->ev.type, EV_ICEBP);
	RAISES(&r, BT_H_UD, 0, X86_UD);
	fini(&r);
}

static void test_time(void **state)
{
	struct cpurig r;
	struct x86_cpu *c;
	u64 t;

	setup(&r);
	c = r.c;
	c->tsc_aux = 7;
	t = x86_tsc(c);
	c->gpr[RCX] = c->gpr[RBX] = ~0ull;
	GOES_ON(&r, BT_H_RDTSCP, 0);
	assert_true((c->gpr[RDX] << 32 | c->gpr[RAX]) >= t);
	assert_int_equal(c->gpr[RCX], 7);
	GOES_ON(&r, BT_H_RDPID, RBX);
	assert_int_equal(c->gpr[RBX], 7);
	GOES_ON(&r, BT_H_PAUSE, 0);
	RAISES(&r, BT_H_RDPMC, 0, X86_GP);
	RAISES(&r, BT_H_XGETBV, 0, X86_UD);
	c->cr4 |= CR4_OSXSAVE | CR4_TSD;
	c->gpr[RCX] = 0;
	GOES_ON(&r, BT_H_XGETBV, 0);
	assert_int_equal(c->gpr[RAX], c->xcr0);
	rig_user(&r);
	RAISES(&r, BT_H_RDTSC, 0, X86_GP);
	c->gpr[RAX] = 0;
	GOES_ON(&r, BT_H_CPUID, 0);
	assert_int_equal(c->vcpu->stats.count[EXIT_CPUID], 1);
	fini(&r);
}

static const struct CMUnitTest tests[] = {
	cmocka_unit_test(test_sti),       cmocka_unit_test(test_sti_again),
	cmocka_unit_test(test_cli),       cmocka_unit_test(test_popf),
	cmocka_unit_test(test_pushf),     cmocka_unit_test(test_hlt),
	cmocka_unit_test(test_interp),    cmocka_unit_test(test_fpu_stays),
	cmocka_unit_test(test_ac),        cmocka_unit_test(test_cr),
	cmocka_unit_test(test_msr),       cmocka_unit_test(test_invpcid),
	cmocka_unit_test(test_transfers), cmocka_unit_test(test_time),
};

int main(void)
{
	return cmocka_run_group_tests(tests, NULL, NULL);
}
