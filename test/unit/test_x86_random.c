// SPDX-License-Identifier: MIT
/* Random tables, random transfers: whatever the guest writes into its descriptors, a transfer
 * either leaves the state as it was or ends in one that the processor could be in. */
#include "x86test.h"

static u64 rng_state;

static u64 rnd(void)
{
	rng_state ^= rng_state << 13;
	rng_state ^= rng_state >> 7;
	rng_state ^= rng_state << 17;
	return rng_state * 0x2545f4914f6cdd1dull;
}
static u32 below(u32 n)
{
	return (u32)(rnd() >> 33) % n;
}

static u16 rnd_sel(void)
{
	if (!below(30))
		return (u16)rnd();
	return (u16)(below(S_END / 8 + 2) * 8 | below(4) | (below(8) ? 0 : 4));
}

/* Any type, mostly present; bases and limits mostly sane. */
static u64 rnd_desc(void)
{
	static const u8 sys[] = {1, 2, 3, 4, 5, 6, 7, 9, 11, 12, 14, 15};
	u8 type = (u8)((below(10) ? 0x80 : 0) | below(4) << 5);

	if (below(3))
		return t_desc(below(4) ? 0 : below(0x400000), below(4) ? 0xfffff : below(0x100000),
		              type | 0x10 | (u8)below(16), (u8)below(16));
	type |= sys[below(ARRAY_SIZE(sys))];
	if ((type & 0xf) == 2 || (type & 7) == 1 || (type & 7) == 3)
		return t_desc(T_TSS + 0x1000 * below(4), below(8) ? 0xfff : below(0x200), type, 0);
	return t_gate(rnd_sel(), below(4) ? below(0x300000) : (u32)rnd(), type, (u8)below(32));
}

static void rnd_tables(void)
{
	/* Keep some good ones, so that transfers succeed too. */
	t_tables();
	for (unsigned i = 8; i < S_END; i += 8)
		if (!below(3))
			t_gdt((u16)i, rnd_desc());
	for (unsigned i = 0; i < 0x100; i += 8)
		t_st(T_LDT + i, rnd_desc(), 8);
	for (unsigned v = 0; v < 0x400; v++)
		t_idt(v, below(4) ? t_gate(below(3) ? S_CODE0 : rnd_sel(), below(0x300000),
		                           (u8)(0x8e | below(4) << 5 | below(2)), (u8)below(9))
		                  : rnd_desc());
	for (unsigned i = 0; i < 0x68; i += 2) {
		t_st(T_TSS + i, below(2) ? rnd_sel() : rnd(), 2);
		t_st(T_TSS2 + i, below(2) ? rnd_sel() : rnd(), 2);
		t_st(T_TSS16 + i, below(2) ? rnd_sel() : rnd(), 2);
	}
	for (unsigned i = 0; i < 3; i++)
		if (below(3)) {
			t_st(T_TSS + 4 + i * 8, T_STACK + below(0x100), 4);
			t_st(T_TSS + 8 + i * 8, (u64[]){S_DATA0, S_DATA1 | 1, S_SMALL}[below(3)],
			     2);
		}
}

static void rnd_mode(void)
{
	static const u16 cs[] = {S_CODE0, S_CODE3 | 3, S_CODE1 | 1, S_CODE64, S_CODE64U | 3};
	static const u16 ss[] = {S_DATA0, S_DATA3 | 3, S_DATA1 | 1, S_DATA0, S_DATA3 | 3};
	unsigned m = below(5);

	x86_set_rflags(c, 0);
	c->ldtr.ar = SEG_UNUSABLE;
	c->gdtr.limit = S_END - 1;
	c->idtr = (struct x86_dtable){.base = T_IDT, .limit = below(10) ? 0xfff : below(0x1000)};
	t_tables();
	if (!below(8)) {
		t_real();
		x86_set_rflags(c, rnd() & 0x247fd7);
		return;
	}
	t_mode(cs[m], ss[m], m >= 3 || below(2));
	if (!below(6) && !(c->mode & M_LMA)) {
		x86_set_rflags(c, X86_RFLAGS_VM | (rnd() & 0x7fd7));
		c->cpl = 3;
		for (unsigned i = 0; i < NR_SEG; i++)
			x86_seg_set_real(c, (enum x86_segreg)i, (u16)rnd());
		x86_update_mode(c);
	} else {
		x86_set_rflags(c, rnd() & 0x243fd7 & ~(below(8) ? 0 : X86_RFLAGS_NT));
	}
	if (!below(3))
		c->gpr[RSP] = rnd() >> (below(4) * 16);
	if (below(2)) {
		t_load(&c->ldtr, S_LDT);
		c->ldtr.limit = 0xff;
	}
	c->sysenter_cs = rnd_sel();
	c->star = rnd();
	c->lstar = c->cstar = 0xffffffff80000000;
	c->gpr[RCX] = rnd() >> below(64);
	c->gpr[R11] = rnd();
}

/* Something for returns to pop. */
static void rnd_stack(unsigned size)
{
	u64 at = (c->mode & M_CS64 ? 0 : c->seg[SS].base) + c->gpr[RSP];

	for (unsigned i = 0; i < 9; i++)
		if (at < 0x9f000)
			t_st(at + i * size,
			     below(3)   ? rnd_sel()
			     : below(2) ? 0x20000 + below(0x10000)
			                : rnd(),
			     size);
}

/* These leave the data segments as they are: the check below must not find any. */
static void drop_data(void)
{
	for (unsigned i = DS; i <= GS; i++)
		c->seg[i] = (struct x86_seg){.ar = SEG_UNUSABLE};
	c->seg[ES] = c->seg[DS];
}
static void sysret(unsigned size)
{
	x86_sysret(c, size);
	drop_data();
}
static void sysexit(unsigned size)
{
	x86_sysexit(c, c->mode & M_CS64 ? size : 4);
	drop_data();
}

static void step(void)
{
	static const unsigned sizes[] = {2, 4, 8};
	unsigned size = sizes[below(c->mode & M_CS64 ? 3 : 2)];
	u32 v;

	switch (below(16)) {
	case 0:
	case 1:
		x86_far_jmp(c, rnd_sel(), rnd() >> (below(8) * 8), size);
		break;
	case 2:
	case 3:
		x86_far_call(c, rnd_sel(), rnd() >> (below(8) * 8), size);
		break;
	case 4:
	case 5:
		rnd_stack(size);
		x86_far_ret(c, size, (u16)below(64));
		break;
	case 6:
	case 7:
	case 8:
		rnd_stack(size);
		x86_iret(c, size);
		break;
	case 9:
	case 10:
		x86_load_seg(c, (enum x86_segreg[]){ES, SS, DS, FS, GS}[below(5)], rnd_sel());
		break;
	case 11:
		if (below(2))
			x86_lldt(c, rnd_sel());
		else
			x86_ltr(c, rnd_sel());
		break;
	case 12:
		if (c->mode & M_PE && !(c->mode & M_VM)) {
			x86_lar(c, rnd_sel(), &v);
			x86_lsl(c, rnd_sel(), &v);
			x86_verify(c, rnd_sel(), below(2));
		}
		break;
	case 13:
		if (below(2))
			x86_syscall(c);
		else
			sysret(size);
		break;
	case 14:
		if (below(2))
			x86_sysenter(c);
		else
			sysexit(size);
		break;
	case 15:
		if (below(2))
			x86_push(c, rnd(), size);
		else
			x86_pop(c, size);
		break;
	}
}

/* Task switches set CR0.TS, which t_mode() and t_real() clear. */
static bool switched(void)
{
	return c->cr0 & CR0_TS;
}

/* What holds between any two instructions. */
static void check_state(bool new_task)
{
	bool vm = c->mode & M_VM;

	assert_true(c->cpl <= 3);
	assert_false(c->mode &
	             ~(M_CS64 | M_CS32 | M_SS32 | M_FLAT | M_PE | M_LMA | M_VM | M_PG | M_USER));
	assert_int_equal(!!(c->mode & M_USER), c->cpl == 3);
	assert_true(x86_rflags(c) & X86_RFLAGS_FIXED);
	if (!(c->mode & M_PE)) {
		assert_int_equal(c->cpl, 0);
		return;
	}
	if (vm) {
		assert_int_equal(c->cpl, 3);
		assert_false(c->mode & M_LMA);
		for (unsigned i = 0; i < NR_SEG; i++)
			assert_int_equal(c->seg[i].base, (u32)c->seg[i].sel << 4);
		return;
	}
	if (new_task) /* a task whose segments are bad: its own exception */
		return;
	assert_int_equal(c->seg[CS].sel & 3, c->cpl);
	assert_int_equal(c->seg[CS].ar & (SEG_P | SEG_S | SEG_CODE), SEG_P | SEG_S | SEG_CODE);
	if (c->seg[SS].ar & SEG_UNUSABLE) {
		assert_true(c->mode & M_LMA);
		assert_int_not_equal(c->cpl, 3);
	} else {
		assert_int_equal(c->seg[SS].sel & 3, c->cpl);
		assert_int_equal((c->seg[SS].ar & SEG_DPL) >> SEG_DPL_SHIFT, c->cpl);
	}
	for (unsigned i = DS; i <= GS; i++) /* no more privileged data left behind */
		if (!(c->seg[i].ar & (SEG_UNUSABLE | SEG_CODE)))
			assert_true((c->seg[i].ar & SEG_DPL) >> SEG_DPL_SHIFT >= c->cpl);
	if (c->mode & M_CS64)
		assert_true(is_canonical(c->rip));
}

static bool try_step(void)
{
	volatile bool ok = false;

	c->unwind_valid = true;
	if (!setjmp(c->unwind)) {
		step();
		ok = true;
	}
	c->unwind_valid = false;
	return ok;
}

static void random_transfers(void **state)
{
	unsigned good = 0, raised = 0, landed = 0;

	rng_state = 0x1234567;
	for (unsigned i = 0; i < 150000; i++) {
		static struct t_state before, after;

		rnd_mode();
		if (!(i % 8))
			rnd_tables();
		mmu_flush_all(c);
		t_snap(&before);
		if (try_step()) {
			good++;
			check_state(false);
			continue;
		}
		if (switched()) {
			landed++;
			check_state(true);
			continue;
		}
		raised++;
		t_snap(&after);
		assert_memory_equal(&before, &after, sizeof(before));
	}
	/* The mix must be worth something. */
	print_message("%u transfers, %u faults, %u faults in a new task\n", good, raised, landed);
	assert_true(good > 15000 && raised > 15000 && landed > 50);
}

static void random_events(void **state)
{
	unsigned good = 0, dead = 0;

	rng_state = 0x7654321;
	for (unsigned i = 0; i < 100000; i++) {
		static struct t_state before, after;
		static const enum x86_ev_type types[] = {EV_FAULT, EV_TRAP, EV_INTR,     EV_NMI,
		                                         EV_SOFT,  EV_SOFT, EV_SOFT_XCPT};
		struct x86_event ev = {.type = types[below(7)], .vector = (u8)below(64)};

		rnd_mode();
		if (!(i % 8))
			rnd_tables();
		mmu_flush_all(c);
		if (ev.type == EV_FAULT) {
			ev.vector &= 31;
			ev.has_err = below(2);
			ev.err = (u32)rnd();
		}
		t_snap(&before);
		if (!x86_deliver(c, &ev)) {
			good++;
			check_state(switched());
			continue;
		}
		dead++;
		if (switched())
			continue;
		t_snap(&after);
		before.dr7 = after.dr7; /* GD, L0..L3 */
		assert_memory_equal(&before, &after, sizeof(before));
	}
	print_message("%u delivered, %u shutdowns\n", good, dead);
	assert_true(good > 15000 && dead > 1000);
}

#define T(f) cmocka_unit_test_setup_teardown(f, t_setup, t_teardown)
int main(void)
{
	const struct CMUnitTest tests[] = {
		T(random_transfers),
		T(random_events),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
