// SPDX-License-Identifier: MIT
/* Local APICs against the SDM (volume 3A, chapter 11), several CPUs without threads, wired with the
 * 8259 pair and the I/O APIC as a machine does it. The clock is moved by the test. */
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "devtest.h"
#include "dev/ioapic.h"
#include "dev/lapic.h"
#include "dev/pic.h"

#define NR  20
#define EN  BIT(11)
#define X2  BIT(10)
#define BSP BIT(8)

#define ID    0x20
#define VER   0x30
#define TPR   0x80
#define PPR   0xa0
#define EOI   0xb0
#define LDR   0xd0
#define DFR   0xe0
#define SVR   0xf0
#define ISR   0x100
#define TMR   0x180
#define IRR   0x200
#define ESR   0x280
#define ICR   0x300
#define ICR2  0x310
#define LVTT  0x320
#define LVTTH 0x330
#define LVTPC 0x340
#define LVT0  0x350
#define LVT1  0x360
#define LVTE  0x370
#define TMICT 0x380
#define TMCCT 0x390
#define TDCR  0x3e0
#define SELF  0x3f0

#define MASKED  0x10000u
#define LEVEL   0x8000u
#define ASSERT  0x4000u
#define LOGICAL 0x800u
#define MS      1000000ull

struct st {
	struct devtest t;
	struct pic *pic;
	struct ioapic *ioapic;
	struct lapic_set *set;
	struct vcpu v[NR];
	struct lapic *l[NR];
};

static s64 tsc_offset; /* of all CPUs; each test starts with 0 */

static u64 tsc_now(struct vcpu *v)
{
	struct lapic *l = v->irqchip_dev;
	struct st *st = container_of(v - v->index, struct st, v[0]);

	(void)l;
	return loop_now(st->t.loop) * 2 + (u64)tsc_offset;
}

static int make(void **state, bool x2apic, bool deadline)
{
	struct st *st = calloc(1, sizeof(*st));
	struct lapic_wires wires;
	struct pic_config pc;
	struct ioapic_config ic;

	tsc_offset = 0;
	devtest_init(&st->t, 0);
	if (lapic_set_create(&st->set, &st->t.env))
		return -1;
	pc = (struct pic_config){lapic_set_extint, st->set};
	ic = (struct ioapic_config){lapic_set_msi, st->set, 0x20, 0, true};
	if (pic_create(&st->pic, &st->t.env, &pc) || ioapic_create(&st->ioapic, &st->t.env, &ic))
		return -1;
	wires = (struct lapic_wires){pic_ack, st->pic, ioapic_eoi, st->ioapic};
	lapic_set_wire(st->set, &wires);
	for (unsigned i = 0; i < NR; i++) {
		struct lapic_config lc = {
			.vcpu = &st->v[i],
			.id = i,
			.bsp = i == 0,
			.maxphyaddr = 40,
			.x2apic = x2apic,
			.tsc_deadline = deadline,
			.tsc_khz = 2000000,
			.tsc_now = tsc_now,
		};

		pthread_mutex_init(&st->v[i].lock, NULL);
		pthread_cond_init(&st->v[i].cond, NULL);
		st->v[i].index = i;
		if (lapic_create(&st->l[i], st->set, &lc))
			return -1;
	}
	loop_clock_stop(st->t.loop);
	*state = st;
	return 0;
}

static int setup(void **state)
{
	return make(state, true, true);
}

static int setup_plain(void **state)
{
	return make(state, false, false);
}

static int teardown(void **state)
{
	struct st *st = *state;

	devtest_fini(&st->t);
	for (unsigned i = 0; i < NR; i++) {
		pthread_mutex_destroy(&st->v[i].lock);
		pthread_cond_destroy(&st->v[i].cond);
	}
	free(st);
	return 0;
}

static const struct irqchip_ops *ops(struct st *st)
{
	return st->v[0].irqchip;
}

static u32 rd(struct st *st, unsigned cpu, unsigned reg)
{
	u64 v;

	assert_true(ops(st)->mmio(st->l[cpu], LAPIC_DEFAULT_BASE + reg, false, &v, 4));
	return (u32)v;
}

static void wr(struct st *st, unsigned cpu, unsigned reg, u32 val)
{
	u64 v = val;

	assert_true(ops(st)->mmio(st->l[cpu], LAPIC_DEFAULT_BASE + reg, true, &v, 4));
}

static bool rdmsr(struct st *st, unsigned cpu, u32 msr, u64 *val)
{
	return ops(st)->rdmsr(st->l[cpu], msr, val);
}

static bool wrmsr(struct st *st, unsigned cpu, u32 msr, u64 val)
{
	return ops(st)->wrmsr(st->l[cpu], msr, val);
}

static u64 msr(struct st *st, unsigned cpu, u32 n)
{
	u64 v = 0;

	assert_true(rdmsr(st, cpu, n, &v));
	return v;
}

static void enable(struct st *st, unsigned nr)
{
	for (unsigned i = 0; i < nr; i++)
		wr(st, i, SVR, 0x1ff);
}

static void enable_x2(struct st *st, unsigned nr)
{
	for (unsigned i = 0; i < nr; i++) {
		assert_true(wrmsr(st, i, 0x1b, msr(st, i, 0x1b) | X2));
		assert_true(wrmsr(st, i, 0x80f, 0x1ff));
	}
}

static bool intr(struct st *st, unsigned cpu)
{
	return st->v[cpu].req & VCPU_REQ_IRQ;
}

static int ack(struct st *st, unsigned cpu)
{
	return ops(st)->ack(st->l[cpu]);
}

static u32 req(struct st *st, unsigned cpu, u32 bits)
{
	u32 r = st->v[cpu].req & bits;

	vcpu_clear(&st->v[cpu], bits);
	return r;
}

/* The CPUs that have the vector, as a mask; takes and ends it everywhere. */
static u32 got(struct st *st, u8 vector)
{
	u32 mask = 0;

	for (unsigned i = 0; i < NR; i++) {
		if (!intr(st, i))
			continue;
		assert_int_equal(ack(st, i), vector);
		assert_false(intr(st, i));
		mask |= 1u << i;
		if (msr(st, i, 0x1b) & X2)
			assert_true(wrmsr(st, i, 0x80b, 0));
		else
			wr(st, i, EOI, 0);
	}
	return mask;
}

static void ipi(struct st *st, unsigned cpu, u32 dest, u32 icr)
{
	wr(st, cpu, ICR2, dest << 24);
	wr(st, cpu, ICR, icr);
}

static void step(struct st *st, u64 ns)
{
	loop_clock_step(st->t.loop, ns);
}

static void line(struct st *st, unsigned n, bool level)
{
	bus_lock(st->t.bus);
	irq_set(&st->t.irq, n, level);
	bus_unlock(st->t.bus);
}

static void ioapic_put(struct st *st, u8 reg, u32 val)
{
	bus_write(st->t.bus, BUS_MMIO, IOAPIC_BASE, reg, 4);
	bus_write(st->t.bus, BUS_MMIO, IOAPIC_BASE + 0x10, val, 4);
}

static u32 ioapic_get(struct st *st, u8 reg)
{
	bus_write(st->t.bus, BUS_MMIO, IOAPIC_BASE, reg, 4);
	return (u32)bus_read(st->t.bus, BUS_MMIO, IOAPIC_BASE + 0x10, 4);
}

static void rte(struct st *st, unsigned pin, u64 val)
{
	ioapic_put(st, (u8)(0x11 + 2 * pin), (u32)(val >> 32));
	ioapic_put(st, (u8)(0x10 + 2 * pin), (u32)val);
}

/* ---- registers ---- */

static void test_power_up(void **state)
{
	struct st *st = *state;

	for (unsigned i = 0; i < NR; i++) {
		assert_int_equal(msr(st, i, 0x1b), LAPIC_DEFAULT_BASE | EN | (i ? 0 : BSP));
		assert_int_equal(rd(st, i, ID), i << 24);
		assert_int_equal(rd(st, i, VER), 0x01050014);
		assert_int_equal(rd(st, i, SVR), 0xff);
		assert_int_equal(rd(st, i, DFR), ~0u);
		assert_int_equal(rd(st, i, LDR), 0);
		assert_int_equal(rd(st, i, TPR), 0);
		assert_int_equal(rd(st, i, TDCR), 0);
		assert_int_equal(rd(st, i, ICR), 0);
		for (unsigned r = LVTT; r <= LVTE; r += 0x10)
			assert_int_equal(rd(st, i, r), MASKED);
		for (unsigned r = ISR; r < ESR; r += 0x10)
			assert_int_equal(rd(st, i, r), 0);
		assert_false(intr(st, i));
		assert_int_equal(ack(st, i), -1);
	}
}

static void test_writable_bits(void **state)
{
	struct st *st = *state;
	static const struct {
		unsigned reg;
		u32 bits;
	} c[] = {
		{TPR, 0xff},      {LDR, 0xff000000}, {LVTT, 0x700ff}, {LVTTH, 0x107ff},
		{LVTPC, 0x107ff}, {LVT0, 0x1a7ff},   {LVT1, 0x1a7ff}, {LVTE, 0x100ff},
		{TMICT, 0},       {TMICT, 0},        {TDCR, 0xb},     {ICR2, 0xff000000},
		{SVR, 0x13ff},
	};

	wr(st, 0, SVR, ~0u);
	for (unsigned i = 0; i < ARRAY_SIZE(c); i++) {
		wr(st, 0, c[i].reg, ~0u);
		assert_int_equal(rd(st, 0, c[i].reg), c[i].bits);
	}
	wr(st, 0, DFR, 0);
	assert_int_equal(rd(st, 0, DFR), 0x0fffffff);
	/* Read-only registers. */
	wr(st, 0, VER, 0);
	assert_int_equal(rd(st, 0, VER), 0x01050014);
	wr(st, 0, PPR, 0);
	wr(st, 0, IRR, ~0u);
	wr(st, 0, ISR, ~0u);
	wr(st, 0, TMR, ~0u);
	wr(st, 0, TMCCT, 5);
	assert_int_equal(rd(st, 0, IRR) | rd(st, 0, ISR) | rd(st, 0, TMR), 0);
	/* Delivery status never reads 1. */
	wr(st, 0, ICR, 0x40000 | 0x1000 | 0x30);
	assert_int_equal(rd(st, 0, ICR), 0x40030);
	/* None of this was an error. */
	wr(st, 0, ESR, 0);
	assert_int_equal(rd(st, 0, ESR), 0);
}

static void test_mmio_widths(void **state)
{
	struct st *st = *state;
	struct lapic *l = st->l[0];

	assert_int_equal(lapic_mmio_read(l, VER, 1), 0x14);
	assert_int_equal(lapic_mmio_read(l, VER + 2, 2), 0x0105);
	assert_int_equal(lapic_mmio_read(l, VER, 8), 0x01050014);
	assert_int_equal(lapic_mmio_read(l, VER + 4, 4), 0);
	lapic_mmio_write(l, TPR, 0x20, 1);
	lapic_mmio_write(l, TPR + 4, 0x20, 4);
	assert_int_equal(lapic_mmio_read(l, TPR, 4), 0);
	lapic_mmio_write(l, TPR, 0x20, 8);
	assert_int_equal(lapic_mmio_read(l, TPR, 4), 0x20);
	assert_int_equal(lapic_mmio_read(l, 0xfff, 8), 0);
}

static void test_esr(void **state)
{
	struct st *st = *state;

	enable(st, 2);
	/* Illegal register addresses: 0x7c0, beyond the page's end, CMCI, self-IPI in xAPIC mode.
	 */
	rd(st, 0, 0x7c0);
	assert_int_equal(rd(st, 0, ESR), 0); /* not before it is written */
	wr(st, 0, ESR, 0x1234);
	assert_int_equal(rd(st, 0, ESR), 0x80);
	assert_int_equal(rd(st, 0, ESR), 0x80);
	wr(st, 0, ESR, 0);
	assert_int_equal(rd(st, 0, ESR), 0);
	static const unsigned none[] = {0x00, 0x10, 0x40, 0x2f0, SELF, 0x400, 0xff0, 0x290};
	for (unsigned i = 0; i < ARRAY_SIZE(none); i++) {
		wr(st, 0, none[i], 0xff);
		wr(st, 0, ESR, 0);
		assert_int_equal(rd(st, 0, ESR), 0x80);
	}
	/* Not there, but no error: APR and remote read. */
	rd(st, 0, 0x90);
	rd(st, 0, 0xc0);
	wr(st, 0, ESR, 0);
	assert_int_equal(rd(st, 0, ESR), 0);
	/* Sending vector 15. */
	ipi(st, 0, 1, 15);
	wr(st, 0, ESR, 0);
	assert_int_equal(rd(st, 0, ESR), 0x20);
	assert_false(intr(st, 1));
	wr(st, 1, ESR, 0);
	assert_int_equal(rd(st, 1, ESR), 0);
	/* Receiving it. */
	assert_false(lapic_set_msi(st->set, 0xfee01000, 0x0f));
	wr(st, 1, ESR, 0);
	assert_int_equal(rd(st, 1, ESR), 0x40);
	/* From the LVT. */
	wr(st, 1, LVTT, 0x05);
	wr(st, 1, TMICT, 100);
	step(st, 1000);
	wr(st, 1, ESR, 0);
	assert_int_equal(rd(st, 1, ESR), 0x40);
	/* NMI has no vector. */
	ipi(st, 0, 1, 0x400);
	wr(st, 0, ESR, 0);
	assert_int_equal(rd(st, 0, ESR), 0);
	/* The error interrupt: one until the ESR is written. */
	wr(st, 0, LVTE, 0xe0);
	rd(st, 0, 0x7c0);
	assert_int_equal(got(st, 0xe0), 1);
	rd(st, 0, 0x7c0);
	assert_false(intr(st, 0));
	wr(st, 0, ESR, 0);
	rd(st, 0, 0x7c0);
	assert_int_equal(got(st, 0xe0), 1);
	wr(st, 0, ESR, 0);
	wr(st, 0, LVTE, 0x05); /* an illegal one itself: no endless loop */
	rd(st, 0, 0x7c0);
	wr(st, 0, ESR, 0);
	assert_int_equal(rd(st, 0, ESR), 0xc0);
}

/* ---- priorities ---- */

static void test_priority(void **state)
{
	struct st *st = *state;

	enable(st, 1);
	ipi(st, 0, 0, 0x31);
	assert_true(intr(st, 0));
	ipi(st, 0, 0, 0x52);
	ipi(st, 0, 0, 0x53);
	assert_int_equal(rd(st, 0, IRR + 0x10), 1u << 0x11);
	assert_int_equal(rd(st, 0, IRR + 0x20), 3u << 0x12);
	assert_int_equal(ack(st, 0), 0x53);
	assert_int_equal(rd(st, 0, PPR), 0x50);
	assert_int_equal(rd(st, 0, ISR + 0x20), 1u << 0x13);
	assert_false(intr(st, 0)); /* 0x52 is of the same class */
	assert_int_equal(ack(st, 0), -1);
	ipi(st, 0, 0, 0x60);
	assert_true(intr(st, 0));
	assert_int_equal(ack(st, 0), 0x60);
	wr(st, 0, EOI, 0);
	assert_int_equal(rd(st, 0, PPR), 0x50);
	wr(st, 0, EOI, 123);
	assert_int_equal(ack(st, 0), 0x52);
	wr(st, 0, EOI, 0);
	/* TPR holds back its own class and below. */
	wr(st, 0, TPR, 0x3f);
	assert_false(intr(st, 0));
	assert_int_equal(rd(st, 0, PPR), 0x3f);
	wr(st, 0, TPR, 0x2f);
	assert_true(intr(st, 0));
	assert_int_equal(ack(st, 0), 0x31);
	assert_int_equal(rd(st, 0, PPR), 0x30);
	wr(st, 0, EOI, 0);
	wr(st, 0, EOI, 0); /* nothing in service */
	assert_int_equal(rd(st, 0, PPR), 0x2f);
	/* The same vector once more while in service, and twice while pending. */
	wr(st, 0, TPR, 0);
	ipi(st, 0, 0, 0x40);
	ack(st, 0);
	ipi(st, 0, 0, 0x40);
	ipi(st, 0, 0, 0x40);
	assert_false(intr(st, 0));
	wr(st, 0, EOI, 0);
	assert_int_equal(ack(st, 0), 0x40);
	wr(st, 0, EOI, 0);
	assert_false(intr(st, 0));
}

static void test_cr8(void **state)
{
	struct st *st = *state;

	enable(st, 1);
	wr(st, 0, TPR, 0x57);
	assert_int_equal(ops(st)->get_cr8(st->l[0]), 5);
	ops(st)->set_cr8(st->l[0], 0xf);
	assert_int_equal(rd(st, 0, TPR), 0xf0);
	ipi(st, 0, 0, 0xff);
	assert_false(intr(st, 0));
	ops(st)->set_cr8(st->l[0], 0xe);
	assert_int_equal(got(st, 0xff), 1);
	ops(st)->set_cr8(st->l[0], 0);
	assert_int_equal(rd(st, 0, TPR), 0);
}

static void test_software_disable(void **state)
{
	struct st *st = *state;

	enable(st, 2);
	for (unsigned r = LVTT; r <= LVTE; r += 0x10)
		wr(st, 1, r, 0x40);
	ipi(st, 0, 1, 0x50);
	wr(st, 1, SVR, 0xff);
	for (unsigned r = LVTT; r <= LVTE; r += 0x10) {
		assert_int_equal(rd(st, 1, r), MASKED | 0x40);
		wr(st, 1, r, 0x40); /* cannot be unmasked */
		assert_int_equal(rd(st, 1, r), MASKED | 0x40);
	}
	/* What is in the IRR stays; new ones are not taken, NMI, INIT and SIPI are. */
	assert_true(intr(st, 1));
	assert_int_equal(ack(st, 1), 0x50);
	wr(st, 1, EOI, 0);
	ipi(st, 0, 1, 0x51);
	assert_false(intr(st, 1));
	ipi(st, 0, 1, 0x400);
	assert_int_equal(req(st, 1, VCPU_REQ_NMI), VCPU_REQ_NMI);
	ipi(st, 0, 1, 0x4500);
	ipi(st, 0, 1, 0x4699);
	assert_int_equal(req(st, 1, VCPU_REQ_INIT | VCPU_REQ_SIPI), VCPU_REQ_INIT | VCPU_REQ_SIPI);
	assert_int_equal(st->v[1].sipi_vector, 0x99);
	/* It can still send. */
	ipi(st, 1, 0, 0x61);
	assert_int_equal(got(st, 0x61), 1);
	/* Enabled again the masks stay. */
	wr(st, 1, SVR, 0x1ff);
	assert_int_equal(rd(st, 1, LVT0), MASKED | 0x40);
}

/* ---- IA32_APIC_BASE ---- */

static void test_base(void **state)
{
	struct st *st = *state;
	u64 base = LAPIC_DEFAULT_BASE | BSP;
	u64 v;

	assert_int_equal(ops(st)->mmio_base(st->l[0]), LAPIC_DEFAULT_BASE);
	/* Reserved bits. */
	for (unsigned bit = 0; bit < 8; bit++)
		assert_false(wrmsr(st, 0, 0x1b, base | EN | BIT(bit)));
	assert_false(wrmsr(st, 0, 0x1b, base | EN | BIT(9)));
	for (unsigned bit = 40; bit < 64; bit++)
		assert_false(wrmsr(st, 0, 0x1b, base | EN | BIT(bit)));
	/* xAPIC -> invalid; -> x2APIC -> invalid, xAPIC; -> disabled -> invalid, x2APIC; -> xAPIC.
	 */
	assert_false(wrmsr(st, 0, 0x1b, base | X2));
	assert_int_equal(req(st, 0, VCPU_REQ_TLB_FLUSH), 0);
	assert_true(wrmsr(st, 0, 0x1b, base | EN | X2));
	assert_int_equal(req(st, 0, VCPU_REQ_TLB_FLUSH), VCPU_REQ_TLB_FLUSH);
	assert_int_equal(ops(st)->mmio_base(st->l[0]), ~0ull);
	assert_false(ops(st)->mmio(st->l[0], LAPIC_DEFAULT_BASE + VER, false, &v, 4));
	assert_false(wrmsr(st, 0, 0x1b, base | X2));
	assert_false(wrmsr(st, 0, 0x1b, base | EN));
	assert_true(wrmsr(st, 0, 0x1b, base | EN | X2));
	assert_true(wrmsr(st, 0, 0x1b, base));
	assert_int_equal(ops(st)->mmio_base(st->l[0]), ~0ull);
	assert_false(wrmsr(st, 0, 0x1b, base | X2));
	assert_false(wrmsr(st, 0, 0x1b, base | EN | X2));
	assert_true(wrmsr(st, 0, 0x1b, base | EN));
	/* Moved. */
	assert_true(wrmsr(st, 0, 0x1b, 0xfed40000 | BSP | EN));
	assert_int_equal(ops(st)->mmio_base(st->l[0]), 0xfed40000);
	assert_false(ops(st)->mmio(st->l[0], LAPIC_DEFAULT_BASE + VER, false, &v, 4));
	assert_true(ops(st)->mmio(st->l[0], 0xfed40000 + VER, false, &v, 4));
	assert_int_equal(v, 0x01050014);
	assert_false(ops(st)->mmio(st->l[0], 0xfed41000, false, &v, 4));
	assert_false(ops(st)->mmio(st->l[0], 0xfed3ffff, false, &v, 4));
	assert_true(wrmsr(st, 0, 0x1b, base | EN));
	/* MSRs that are not the APIC's. */
	assert_false(rdmsr(st, 0, 0x10, &v));
	assert_false(wrmsr(st, 0, 0x7ff, 0));
	assert_false(wrmsr(st, 0, 0x900, 0));
}

static void test_hardware_disable(void **state)
{
	struct st *st = *state;

	enable(st, 2);
	ipi(st, 0, 0, 0x80);
	wr(st, 0, TPR, 0x30);
	wr(st, 0, LVT0, 0x33);
	assert_true(wrmsr(st, 0, 0x1b, LAPIC_DEFAULT_BASE | BSP));
	assert_false(intr(st, 0));
	/* CR8 works on. */
	assert_int_equal(ops(st)->get_cr8(st->l[0]), 3);
	ops(st)->set_cr8(st->l[0], 0xc);
	assert_int_equal(ops(st)->get_cr8(st->l[0]), 0xc);
	/* Deaf to messages. */
	ipi(st, 1, 0, 0x40);
	ipi(st, 1, 0, 0x400);
	ipi(st, 1, 0, 0x4500);
	ipi(st, 1, 0xff, 0x400);
	assert_int_equal(req(st, 0, VCPU_REQ_NMI | VCPU_REQ_INIT | VCPU_REQ_IRQ), 0);
	/* The pins are INTR and NMI. */
	lapic_set_lint1(st->set, true);
	assert_int_equal(req(st, 0, VCPU_REQ_NMI), VCPU_REQ_NMI);
	assert_true(wrmsr(st, 0, 0x1b, LAPIC_DEFAULT_BASE | BSP | EN));
	assert_int_equal(rd(st, 0, SVR), 0xff);
	assert_int_equal(rd(st, 0, LVT0), MASKED);
	assert_int_equal(rd(st, 0, TPR), 0xc0);
}

static void test_id(void **state)
{
	struct st *st = *state;

	enable(st, 4);
	wr(st, 1, ID, 7u << 24);
	assert_int_equal(rd(st, 1, ID), 7u << 24);
	ipi(st, 0, 1, 0x40);
	assert_int_equal(got(st, 0x40), 0);
	wr(st, 2, ID,
	   7u << 24); /* two of the same name both take it; 7 itself is software-disabled */
	ipi(st, 0, 7, 0x40);
	assert_int_equal(got(st, 0x40), 6);
	/* x2APIC mode and disabling bring the initial one back. */
	assert_true(wrmsr(st, 1, 0x1b, LAPIC_DEFAULT_BASE | EN | X2));
	assert_int_equal(msr(st, 1, 0x802), 1);
	assert_false(wrmsr(st, 1, 0x802, 2));
	assert_true(wrmsr(st, 1, 0x1b, LAPIC_DEFAULT_BASE));
	assert_true(wrmsr(st, 1, 0x1b, LAPIC_DEFAULT_BASE | EN));
	assert_int_equal(rd(st, 1, ID), 1u << 24);
}

/* ---- x2APIC ---- */

static void test_x2apic_registers(void **state)
{
	struct st *st = *state;
	u64 v;

	for (u32 m = 0x800; m < 0x900; m++) {
		assert_false(rdmsr(st, 0, m, &v));
		assert_false(wrmsr(st, 0, m, 0));
	}
	enable_x2(st, 1);
	for (u32 m = 0x800; m < 0x900; m++) {
		bool r, w;

		switch (m) {
		case 0x802:
		case 0x803:
		case 0x80a:
		case 0x80d:
		case 0x810 ... 0x827:
		case 0x839:
			r = true;
			w = false;
			break;
		case 0x808:
		case 0x80f:
		case 0x828:
		case 0x830:
		case 0x832 ... 0x838:
		case 0x83e:
			r = w = true;
			break;
		case 0x80b:
		case 0x83f:
			r = false;
			w = true;
			break;
		default:
			r = w = false;
		}
		assert_int_equal(rdmsr(st, 0, m, &v), r);
		if (r)
			assert_int_equal(v >> 32, 0);
		assert_int_equal(wrmsr(st, 0, m, 0), w);
		if (m != 0x830)
			assert_false(wrmsr(st, 0, m, ~0ull));
		assert_false(wrmsr(st, 0, m, m == 0x830 ? 1 << 13 : 1ull << 32));
	}
}

static void test_x2apic_reserved(void **state)
{
	struct st *st = *state;
	static const struct {
		u32 msr;
		u64 ok;
	} c[] = {
		{0x808, 0xff},    {0x80b, 0},
		{0x80f, 0x13ff},  {0x828, 0},
		{0x832, 0x710ff}, {0x833, 0x117ff},
		{0x834, 0x117ff}, {0x835, 0x1f7ff},
		{0x836, 0x1f7ff}, {0x837, 0x110ff},
		{0x83e, 0xb},     {0x838, 0xffffffff},
		{0x83f, 0xff},    {0x830, 0xffffffff000ccfff},
	};

	enable_x2(st, 1);
	for (unsigned i = 0; i < ARRAY_SIZE(c); i++)
		for (unsigned bit = 0; bit < 64; bit++)
			assert_int_equal(wrmsr(st, 0, c[i].msr, BIT(bit)), !!(c[i].ok & BIT(bit)));
	/* Read-only bits read 0. */
	assert_true(wrmsr(st, 0, 0x80f, 0x1ff));
	assert_true(wrmsr(st, 0, 0x835, 0x1f7ff));
	assert_int_equal(msr(st, 0, 0x835), 0x1a7ff);
}

static void test_x2apic_modes(void **state)
{
	struct st *st = *state;

	enable(st, NR);
	wr(st, 17, LDR, 0x40u << 24);
	wr(st, 17, TPR, 0x20);
	wr(st, 17, LVTPC, 0x400);
	wr(st, 17, ICR2, 0x55u << 24);
	assert_true(wrmsr(st, 17, 0x1b, LAPIC_DEFAULT_BASE | EN | X2));
	assert_int_equal(msr(st, 17, 0x802), 17);
	assert_int_equal(msr(st, 17, 0x803), 0x01050014);
	assert_int_equal(msr(st, 17, 0x80d), 0x00010002);
	assert_int_equal(msr(st, 17, 0x808), 0x20);
	assert_int_equal(msr(st, 17, 0x834), 0x400);
	assert_int_equal(msr(st, 17, 0x80f), 0x1ff);
	assert_int_equal(msr(st, 17, 0x830), 0);
	/* One 64-bit ICR. */
	assert_true(wrmsr(st, 17, 0x830, 0x000000030000003full));
	assert_int_equal(msr(st, 17, 0x830), 0x000000030000003full);
	assert_int_equal(got(st, 0x3f), 8);
	/* Self-IPI. */
	assert_true(wrmsr(st, 17, 0x83f, 0x44));
	assert_int_equal(got(st, 0x44), 1u << 17);
	assert_false(wrmsr(st, 17, 0x83f, 0x144));
	assert_true(wrmsr(st, 17, 0x83f, 0x0f));
	assert_true(wrmsr(st, 17, 0x828, 0));
	assert_int_equal(msr(st, 17, 0x828), 0x60);
	assert_false(wrmsr(st, 17, 0x828, 1));
}

static void test_no_x2apic(void **state)
{
	struct st *st = *state;
	u64 v;

	assert_false(wrmsr(st, 0, 0x1b, LAPIC_DEFAULT_BASE | EN | X2));
	assert_false(rdmsr(st, 0, 0x6e0, &v));
	assert_false(wrmsr(st, 0, 0x6e0, 1));
	wr(st, 0, SVR, 0x1ff);
	wr(st, 0, LVTT, 0x40040);
	assert_int_equal(rd(st, 0, LVTT), 0x40);
}

/* ---- destinations ---- */

#define ALL ((1u << NR) - 1)

static void test_physical(void **state)
{
	struct st *st = *state;

	enable(st, NR);
	for (unsigned i = 0; i < NR; i++) {
		ipi(st, 3, i, 0x40);
		assert_int_equal(got(st, 0x40), 1u << i);
	}
	ipi(st, 3, NR, 0x40);
	ipi(st, 3, 0xfe, 0x40);
	assert_int_equal(got(st, 0x40), 0);
	ipi(st, 3, 0xff, 0x40);
	assert_int_equal(got(st, 0x40), ALL);
	/* Shorthands; the destination does not matter. */
	ipi(st, 3, 9, 0x40040);
	assert_int_equal(got(st, 0x40), 8);
	ipi(st, 3, 9, 0x80040);
	assert_int_equal(got(st, 0x40), ALL);
	ipi(st, 3, 9, 0xc0040);
	assert_int_equal(got(st, 0x40), ALL & ~8u);
	/* Level and trigger mode do not matter either: an edge. */
	ipi(st, 3, 5, 0xc040);
	assert_int_equal(rd(st, 5, TMR + 0x20), 0);
	assert_int_equal(got(st, 0x40), 1u << 5);
	ipi(st, 3, 5, 0x8040);
	assert_int_equal(got(st, 0x40), 1u << 5);
}

static void test_x2apic_destinations(void **state)
{
	struct st *st = *state;

	enable_x2(st, NR);
	for (unsigned i = 0; i < NR; i++) {
		assert_true(wrmsr(st, 0, 0x830, (u64)i << 32 | 0x41));
		assert_int_equal(got(st, 0x41), 1u << i);
	}
	assert_true(wrmsr(st, 0, 0x830, 0xffull << 32 | 0x41)); /* a name, no broadcast */
	assert_int_equal(got(st, 0x41), 0);
	assert_true(wrmsr(st, 0, 0x830, 0xffffffffull << 32 | 0x41));
	assert_int_equal(got(st, 0x41), ALL);
	assert_true(wrmsr(st, 0, 0x830, 0x100000001ull << 32 | 0x41));
	assert_int_equal(got(st, 0x41), 2);
	/* Logical: cluster and a set in it. */
	assert_true(wrmsr(st, 0, 0x830, 0x00008005ull << 32 | LOGICAL | 0x41));
	assert_int_equal(got(st, 0x41), 0x8005);
	assert_true(wrmsr(st, 0, 0x830, 0x0001ffffull << 32 | LOGICAL | 0x41));
	assert_int_equal(got(st, 0x41), 0xf0000);
	assert_true(wrmsr(st, 0, 0x830, 0x00020001ull << 32 | LOGICAL | 0x41));
	assert_int_equal(got(st, 0x41), 0);
	assert_true(wrmsr(st, 0, 0x830, 0xffffffffull << 32 | LOGICAL | 0x41));
	assert_int_equal(got(st, 0x41), ALL);
	/* Eight bits from an MSI: cluster 0, FFH all. */
	assert_true(lapic_set_msi(st->set, 0xfee0d004, 0x42));
	assert_int_equal(got(st, 0x42), 0x0d);
	assert_true(lapic_set_msi(st->set, 0xfeeff000, 0x42));
	assert_int_equal(got(st, 0x42), ALL);
	assert_true(lapic_set_msi(st->set, 0xfee13000, 0x42));
	assert_int_equal(got(st, 0x42), 1u << 19);
	assert_false(lapic_set_msi(st->set, 0xfee14000, 0x42));
	assert_false(lapic_set_msi(st->set, 0xfed01000, 0x42));
}

static void test_mixed_modes(void **state)
{
	struct st *st = *state;

	enable(st, NR);
	enable_x2(st, 1);
	assert_true(wrmsr(st, 0, 0x830, 0xffffffffull << 32 | 0x41));
	assert_int_equal(got(st, 0x41), ALL);
	assert_true(wrmsr(st, 0, 0x830, 5ull << 32 | 0x41));
	assert_int_equal(got(st, 0x41), 1u << 5);
	ipi(st, 1, 0, 0x41);
	assert_int_equal(got(st, 0x41), 1);
	ipi(st, 1, 0xff, 0x41);
	assert_int_equal(got(st, 0x41), ALL);
}

/* All logical IDs against all destinations, flat and cluster. */
static void test_logical(void **state)
{
	struct st *st = *state;

	enable(st, 3);
	wr(st, 0, LDR, 0);
	for (unsigned cluster = 0; cluster < 2; cluster++) {
		for (unsigned i = 0; i < 3; i++)
			wr(st, i, DFR, cluster ? 0x0fffffff : ~0u);
		for (unsigned id = 0; id < 256; id++) {
			wr(st, 1, LDR, id << 24);
			wr(st, 2, LDR, (id ^ 0x81) << 24);
			for (unsigned d = 0; d < 256; d++) {
				u32 want = 0;

				for (unsigned i = 1; i < 3; i++) {
					unsigned l = i == 1 ? id : id ^ 0x81;

					if (cluster ? l >> 4 == d >> 4 && (l & d & 15) : l & d)
						want |= 1u << i;
				}
				if (d == 0xff)
					want = 7;
				ipi(st, 0, d, LOGICAL | 0x43);
				assert_int_equal(got(st, 0x43), want);
			}
		}
	}
	wr(st, 1, DFR, 0x7fffffff); /* no model */
	wr(st, 1, LDR, ~0u);
	ipi(st, 0, 0x7f, LOGICAL | 0x43);
	assert_int_equal(got(st, 0x43) & 2, 0);
}

static void test_lowest_priority(void **state)
{
	struct st *st = *state;
	u32 seen = 0;

	enable(st, 4);
	for (unsigned i = 0; i < 4; i++)
		wr(st, i, LDR, 1u << (24 + i));
	/* The lowest PPR wins. */
	wr(st, 0, TPR, 0x30);
	wr(st, 1, TPR, 0x20);
	wr(st, 2, TPR, 0x10);
	wr(st, 3, TPR, 0x40);
	ipi(st, 0, 0x0f, LOGICAL | 0x100 | 0x90);
	assert_int_equal(got(st, 0x90), 4);
	ipi(st, 0, 0x0b, LOGICAL | 0x100 | 0x90);
	assert_int_equal(got(st, 0x90), 2);
	ipi(st, 0, 0x08, LOGICAL | 0x100 | 0x90);
	assert_int_equal(got(st, 0x90), 8);
	ipi(st, 0, 0x70, LOGICAL | 0x100 | 0x90);
	assert_int_equal(got(st, 0x90), 0);
	/* Among equals they take turns. */
	for (unsigned i = 0; i < 4; i++)
		wr(st, i, TPR, 0);
	for (unsigned i = 0; i < 16; i++) {
		u32 g;

		assert_true(lapic_set_msi(st->set, 0xfee0f004, 0x191));
		g = got(st, 0x91);
		assert_int_equal(__builtin_popcount(g), 1);
		seen |= g;
	}
	assert_int_equal(seen, 0xf);
	/* The redirection hint of an MSI; without it a fixed one goes to all. */
	assert_true(lapic_set_msi(st->set, 0xfee0f00c, 0x91));
	assert_int_equal(__builtin_popcount(got(st, 0x91)), 1);
	assert_true(lapic_set_msi(st->set, 0xfee0f004, 0x91));
	assert_int_equal(got(st, 0x91), 0xf);
	/* The focus processor: it has the vector already. */
	wr(st, 2, TPR, 0xf0);
	assert_true(lapic_set_msi(st->set, 0xfee04004, 0x92));
	for (unsigned i = 0; i < 8; i++)
		assert_true(lapic_set_msi(st->set, 0xfee0f004, 0x192));
	wr(st, 2, TPR, 0);
	assert_int_equal(got(st, 0x92), 4);
	/* With focus checking off it is none. */
	wr(st, 2, SVR, 0x3ff);
	wr(st, 2, TPR, 0xf0);
	assert_true(lapic_set_msi(st->set, 0xfee04004, 0x92));
	assert_true(lapic_set_msi(st->set, 0xfee0f004, 0x192));
	wr(st, 2, TPR, 0);
	assert_int_equal(__builtin_popcount(got(st, 0x92)), 2);
	/* A software-disabled one is out. */
	for (unsigned i = 0; i < 3; i++)
		wr(st, i, SVR, 0xff);
	for (unsigned i = 0; i < 5; i++) {
		assert_true(lapic_set_msi(st->set, 0xfee0f004, 0x193));
		assert_int_equal(got(st, 0x93), 8);
	}
	wr(st, 3, SVR, 0xff);
	assert_false(lapic_set_msi(st->set, 0xfee0f004, 0x193));
}

static void test_other_modes(void **state)
{
	struct st *st = *state;

	enable(st, 4);
	/* NMI: two that meet stay two, more do not add up. */
	ipi(st, 0, 2, 0x400);
	assert_true(vcpu_take_nmi(&st->v[2]));
	assert_false(vcpu_take_nmi(&st->v[2]));
	for (unsigned i = 0; i < 5; i++)
		ipi(st, 0, 2, 0x4400);
	assert_true(vcpu_take_nmi(&st->v[2]));
	assert_true(vcpu_take_nmi(&st->v[2]));
	assert_false(vcpu_take_nmi(&st->v[2]));
	for (unsigned i = 0; i < 5; i++)
		ipi(st, 0, 2, 0x4400);
	vcpu_nmi_unblocked(&st->v[2]);
	assert_true(vcpu_take_nmi(&st->v[2]));
	assert_false(vcpu_take_nmi(&st->v[2]));
	/* INIT and SIPI; an INIT takes back an older SIPI. */
	ipi(st, 0, 1, 0x4608);
	ipi(st, 0, 0, 0xc4500);
	for (unsigned i = 0; i < NR; i++)
		assert_int_equal(req(st, i, VCPU_REQ_INIT | VCPU_REQ_SIPI), i ? VCPU_REQ_INIT : 0);
	ipi(st, 0, 0, 0xc4609);
	for (unsigned i = 1; i < NR; i++) {
		assert_int_equal(req(st, i, ~0u), VCPU_REQ_SIPI);
		assert_int_equal(st->v[i].sipi_vector, 9);
	}
	/* INIT level de-assert is nothing; INIT as an edge without "assert" is INIT. */
	ipi(st, 0, 1, 0x8500);
	assert_int_equal(req(st, 1, ~0u), 0);
	ipi(st, 0, 1, 0x0500);
	assert_int_equal(req(st, 1, ~0u), VCPU_REQ_INIT);
	ipi(st, 0, 0, 0x40500);
	assert_int_equal(req(st, 0, ~0u), VCPU_REQ_INIT);
	/* SMI, remote read, ExtINT by ICR: nothing happens. */
	ipi(st, 0, 1, 0x4200);
	ipi(st, 0, 1, 0x4300);
	ipi(st, 0, 1, 0x4700);
	assert_int_equal(req(st, 1, ~0u), 0);
	assert_false(lapic_set_msi(st->set, 0xfee01000, 0x240));
	assert_false(lapic_set_msi(st->set, 0xfee01000, 0x340));
	assert_false(lapic_set_msi(st->set, 0xfee01000, 0x640));
	assert_false(lapic_set_msi(st->set, 0xfee01000, 0x8040)); /* level de-assert */
	assert_true(lapic_set_msi(st->set, 0xfee01000, 0x400));
	assert_true(lapic_set_msi(st->set, 0xfee01000, 0x500));
	assert_int_equal(req(st, 1, ~0u), VCPU_REQ_NMI | VCPU_REQ_INIT);
}

/* KVM's hypercall. */
static void test_send_ipis(void **state)
{
	struct st *st = *state;
	struct lapic *l = st->l[0];

	enable_x2(st, NR);
	assert_int_equal(ops(st)->send_ipis(l, 0x15, 0, 2, 0x47), 3);
	assert_int_equal(got(st, 0x47), 0x54);
	assert_int_equal(ops(st)->send_ipis(l, ~0ull, ~0ull, 18, 0x47), 2);
	assert_int_equal(got(st, 0x47), 0xc0000);
	assert_int_equal(ops(st)->send_ipis(l, ~0ull, 0, ~0u, 0), 0);
	assert_int_equal(ops(st)->send_ipis(l, ~0ull, ~0ull, ~0u, 0x47), 0);
	assert_int_equal(ops(st)->send_ipis(l, 2, 0, 0, 0x400), 1);
	assert_int_equal(req(st, 1, VCPU_REQ_NMI), VCPU_REQ_NMI);
	assert_int_equal(ops(st)->send_ipis(l, 2, 0, 0, LOGICAL | 0x47), -1);
	assert_int_equal(ops(st)->send_ipis(l, 2, 0, 0, 0x80047), -1);
	assert_int_equal(got(st, 0x47), 0);
}

static void test_init(void **state)
{
	struct st *st = *state;

	enable(st, 2);
	wr(st, 1, ID, 9u << 24);
	wr(st, 1, TPR, 0x10);
	wr(st, 1, LVTT, 0x20040);
	wr(st, 1, TMICT, 1000000);
	ipi(st, 0, 9, 0x55);
	assert_true(wrmsr(st, 1, 0x1b, 0xfec80000 | EN));
	ops(st)->init(st->l[1]);
	assert_false(intr(st, 1));
	assert_int_equal(msr(st, 1, 0x1b), 0xfec80000 | EN);
	assert_true(wrmsr(st, 1, 0x1b, LAPIC_DEFAULT_BASE | EN));
	assert_int_equal(rd(st, 1, ID), 9u << 24);
	assert_int_equal(rd(st, 1, TPR), 0);
	assert_int_equal(rd(st, 1, SVR), 0xff);
	assert_int_equal(rd(st, 1, LVTT), MASKED);
	assert_int_equal(rd(st, 1, TMICT), 0);
	assert_int_equal(rd(st, 1, TMCCT), 0);
	step(st, 10 * MS);
	assert_false(intr(st, 1));
	/* x2APIC mode survives INIT, not a reset. */
	enable_x2(st, 1);
	ops(st)->init(st->l[0]);
	assert_int_equal(msr(st, 0, 0x1b), LAPIC_DEFAULT_BASE | EN | X2 | BSP);
	assert_int_equal(msr(st, 0, 0x80f), 0xff);
	bus_lock(st->t.bus);
	dev_reset_all(st->t.devices);
	bus_unlock(st->t.bus);
	test_power_up(state);
}

/* ---- timer ---- */

static void test_divider(void **state)
{
	struct st *st = *state;
	static const struct {
		u32 tdcr;
		unsigned div;
	} c[] = {{0xb, 1}, {0, 2}, {1, 4}, {2, 8}, {3, 16}, {8, 32}, {9, 64}, {10, 128}};

	enable(st, 1);
	wr(st, 0, LVTT, 0x50);
	for (unsigned i = 0; i < ARRAY_SIZE(c); i++) {
		wr(st, 0, TDCR, c[i].tdcr);
		wr(st, 0, TMICT, 1000);
		assert_int_equal(rd(st, 0, TMCCT), 1000);
		step(st, 400 * c[i].div);
		assert_int_equal(rd(st, 0, TMCCT), 600);
		step(st, 600 * c[i].div - 1);
		assert_int_equal(rd(st, 0, TMCCT), 1);
		assert_false(intr(st, 0));
		step(st, 1);
		assert_int_equal(rd(st, 0, TMCCT), 0);
		assert_int_equal(got(st, 0x50), 1);
		step(st, 5000 * c[i].div);
		assert_false(intr(st, 0)); /* one shot */
		assert_int_equal(rd(st, 0, TMICT), 1000);
	}
	/* Changed on the way: the count goes on at the new speed. */
	wr(st, 0, TDCR, 0xb);
	wr(st, 0, TMICT, 1000);
	step(st, 500);
	wr(st, 0, TDCR, 1);
	assert_int_equal(rd(st, 0, TMCCT), 500);
	step(st, 1999);
	assert_false(intr(st, 0));
	step(st, 1);
	assert_int_equal(got(st, 0x50), 1);
	/* 0 stops it. */
	wr(st, 0, TMICT, 1000);
	wr(st, 0, TMICT, 0);
	assert_int_equal(rd(st, 0, TMCCT), 0);
	step(st, MS);
	assert_false(intr(st, 0));
	/* The longest: 9 minutes. */
	wr(st, 0, TDCR, 10);
	wr(st, 0, TMICT, ~0u);
	step(st, 0xffffffffull * 128 - 1);
	assert_false(intr(st, 0));
	step(st, 1);
	assert_int_equal(got(st, 0x50), 1);
}

static void test_periodic(void **state)
{
	struct st *st = *state;

	enable(st, 1);
	wr(st, 0, TDCR, 0xb);
	wr(st, 0, LVTT, 0x20050);
	wr(st, 0, TMICT, 1000000);
	for (unsigned i = 0; i < 1000; i++) {
		step(st, MS - 1);
		assert_false(intr(st, 0));
		assert_int_equal(rd(st, 0, TMCCT), 1);
		step(st, 1);
		assert_int_equal(rd(st, 0, TMCCT), 1000000);
		assert_int_equal(got(st, 0x50), 1);
	}
	/* Masked it runs on but sets no IRR, not even later. */
	wr(st, 0, LVTT, 0x20050 | MASKED);
	step(st, 5 * MS + MS / 2);
	assert_int_equal(rd(st, 0, TMCCT), 500000);
	wr(st, 0, LVTT, 0x20050);
	assert_false(intr(st, 0));
	step(st, MS / 2);
	assert_int_equal(got(st, 0x50), 1);
}

static void test_tiny_period(void **state)
{
	struct st *st = *state;
	unsigned n = 0;

	enable(st, 1);
	wr(st, 0, TDCR, 0xb);
	wr(st, 0, LVTT, 0x20050);
	wr(st, 0, TMICT, 1);
	for (unsigned i = 0; i < 10000; i++) {
		step(st, 1000);
		n += got(st, 0x50) == 1;
		assert_in_range(rd(st, 0, TMCCT), 0, 1);
	}
	assert_in_range(n, 450, 501); /* 10 ms, one in 20 us */
	/* 7 us: multiples of the period, so the phase stays. */
	wr(st, 0, TMICT, 7000);
	for (unsigned i = 1; i < 3000; i++) {
		step(st, 1000);
		if (got(st, 0x50))
			assert_int_equal(i % 7, 0);
		assert_int_equal(rd(st, 0, TMCCT), 7000 - i % 7 * 1000);
	}
}

/* The count and the mode, as kvm-unit-tests' apic test looks at them. */
static void test_mode_change(void **state)
{
	struct st *st = *state;
	u32 n = 0x999999;

	enable(st, 1);
	wr(st, 0, TDCR, 0xb);
	wr(st, 0, LVTT, 0x50);
	wr(st, 0, TMICT, n);
	wr(st, 0, LVTT, 0x20050);
	assert_int_equal(rd(st, 0, TMICT), n);
	wr(st, 0, LVTT, 0x50);
	wr(st, 0, TMICT, n);
	step(st, n);
	assert_int_equal(rd(st, 0, TMCCT), 0);
	assert_int_equal(got(st, 0x50), 1);
	wr(st, 0, TMICT, n);
	step(st, n / 2 + 10);
	wr(st, 0, LVTT, 0x20050); /* on the way: periodic from here */
	assert_in_range(rd(st, 0, TMCCT), 1, n / 2);
	step(st, n / 2 + 10);
	assert_int_equal(got(st, 0x50), 1);
	assert_in_range(rd(st, 0, TMCCT), n / 2, n);
	step(st, n / 2 + 10);
	wr(st, 0, LVTT, 0x50);
	assert_in_range(rd(st, 0, TMCCT), 1, n / 2);
	step(st, n / 2 + 10);
	assert_int_equal(got(st, 0x50), 1);
	assert_int_equal(rd(st, 0, TMCCT), 0);
	wr(st, 0, LVTT, 0x20050); /* after its end: stays at 0 */
	assert_int_equal(rd(st, 0, TMCCT), 0);
	step(st, 3 * n);
	assert_false(intr(st, 0));
}

static void test_deadline(void **state)
{
	struct st *st = *state;
	u64 t;

	enable(st, 1);
	/* In other modes: reads 0, writes ignored. */
	wr(st, 0, LVTT, 0x50);
	assert_true(wrmsr(st, 0, 0x6e0, 1));
	assert_int_equal(msr(st, 0, 0x6e0), 0);
	assert_false(intr(st, 0));
	wr(st, 0, LVTT, 0x40050);
	wr(st, 0, TMICT, 1000);
	assert_int_equal(rd(st, 0, TMICT), 0);
	assert_int_equal(rd(st, 0, TMCCT), 0);
	/* In the past, and now: at once. */
	assert_true(wrmsr(st, 0, 0x6e0, 1));
	assert_int_equal(got(st, 0x50), 1);
	assert_int_equal(msr(st, 0, 0x6e0), 0);
	assert_true(wrmsr(st, 0, 0x6e0, tsc_now(&st->v[0])));
	assert_int_equal(got(st, 0x50), 1);
	/* In the future: 2 GHz. */
	t = tsc_now(&st->v[0]) + 2001;
	assert_true(wrmsr(st, 0, 0x6e0, t));
	step(st, 1000);
	assert_false(intr(st, 0));
	assert_int_equal(msr(st, 0, 0x6e0), t);
	step(st, 1);
	assert_int_equal(msr(st, 0, 0x6e0), 0);
	assert_int_equal(got(st, 0x50), 1);
	/* 0 disarms; a later one replaces an earlier, and an earlier a later. */
	assert_true(wrmsr(st, 0, 0x6e0, tsc_now(&st->v[0]) + 2000));
	assert_true(wrmsr(st, 0, 0x6e0, 0));
	step(st, MS);
	assert_false(intr(st, 0));
	assert_true(wrmsr(st, 0, 0x6e0, tsc_now(&st->v[0]) + 2000));
	assert_true(wrmsr(st, 0, 0x6e0, tsc_now(&st->v[0]) + 4000));
	step(st, 1500);
	assert_false(intr(st, 0));
	step(st, 500);
	assert_int_equal(got(st, 0x50), 1);
	assert_true(wrmsr(st, 0, 0x6e0, tsc_now(&st->v[0]) + 4000000));
	assert_true(wrmsr(st, 0, 0x6e0, tsc_now(&st->v[0]) + 2000));
	step(st, 1000);
	assert_int_equal(got(st, 0x50), 1);
	step(st, 4 * MS);
	assert_false(intr(st, 0));
	/* Masked: it passes without a trace. */
	wr(st, 0, LVTT, 0x40050 | MASKED);
	assert_true(wrmsr(st, 0, 0x6e0, tsc_now(&st->v[0]) + 2000));
	step(st, 2000);
	assert_int_equal(msr(st, 0, 0x6e0), 0);
	wr(st, 0, LVTT, 0x40050);
	assert_false(intr(st, 0));
	/* Unmasked in time. */
	wr(st, 0, LVTT, 0x40050 | MASKED);
	assert_true(wrmsr(st, 0, 0x6e0, tsc_now(&st->v[0]) + 4000));
	wr(st, 0, LVTT, 0x40050);
	step(st, 2000);
	assert_int_equal(got(st, 0x50), 1);
	/* Leaving the mode disarms, coming back does not arm; nor does the count survive. */
	assert_true(wrmsr(st, 0, 0x6e0, tsc_now(&st->v[0]) + 4000));
	wr(st, 0, LVTT, 0x50);
	wr(st, 0, LVTT, 0x40050);
	assert_int_equal(msr(st, 0, 0x6e0), 0);
	step(st, MS);
	wr(st, 0, LVTT, 0x50);
	wr(st, 0, TMICT, 1000);
	wr(st, 0, LVTT, 0x40050);
	step(st, MS);
	assert_false(intr(st, 0));
	assert_int_equal(rd(st, 0, TMICT), 0);
	/* Far away, and the end of time. */
	assert_true(wrmsr(st, 0, 0x6e0, ~0ull));
	step(st, 3600 * 1000 * MS);
	assert_false(intr(st, 0));
	assert_int_equal(msr(st, 0, 0x6e0), ~0ull);
}

static void test_tsc_changed(void **state)
{
	struct st *st = *state;

	enable(st, 1);
	wr(st, 0, LVTT, 0x40050);
	assert_true(wrmsr(st, 0, 0x6e0, tsc_now(&st->v[0]) + 2 * MS));
	tsc_offset += MS; /* half of it is gone */
	lapic_tsc_changed(st->l[0]);
	step(st, MS / 2 - 1);
	assert_false(intr(st, 0));
	step(st, 1);
	assert_int_equal(got(st, 0x50), 1);
	assert_true(wrmsr(st, 0, 0x6e0, tsc_now(&st->v[0]) + 2 * MS));
	tsc_offset -= MS; /* it takes longer */
	lapic_tsc_changed(st->l[0]);
	step(st, MS + MS / 2 - 1);
	assert_false(intr(st, 0));
	step(st, 1);
	assert_int_equal(got(st, 0x50), 1);
	assert_true(wrmsr(st, 0, 0x6e0, tsc_now(&st->v[0]) + 2 * MS));
	tsc_offset += 3 * MS; /* past it */
	lapic_tsc_changed(st->l[0]);
	assert_int_equal(got(st, 0x50), 1);
}

static void test_real_timer(void **state)
{
	struct st *st = *state;
	u64 from;

	loop_clock_start(st->t.loop);
	enable(st, 2);
	wr(st, 0, TDCR, 0xb);
	wr(st, 0, LVTT, 0x50);
	wr(st, 1, LVTT, 0x40051);
	from = loop_now(st->t.loop);
	wr(st, 0, TMICT, 20 * MS);
	assert_true(wrmsr(st, 1, 0x6e0, tsc_now(&st->v[1]) + 2 * 25 * MS));
	assert_false(devtest_run(&st->t, 100 * MS));
	assert_true(loop_now(st->t.loop) - from >= 100 * MS);
	assert_int_equal(ack(st, 0), 0x50);
	assert_int_equal(ack(st, 1), 0x51);
}

/* ---- LINT pins, 8259 ---- */

static void pic_init(struct st *st)
{
	static const struct {
		u16 port;
		u8 val;
	} c[] = {{0x20, 0x11}, {0x21, 0x20}, {0x21, 4}, {0x21, 1},
	         {0xa0, 0x11}, {0xa1, 0x28}, {0xa1, 2}, {0xa1, 1}};

	for (unsigned i = 0; i < ARRAY_SIZE(c); i++)
		outb(&st->t, c[i].port, c[i].val);
}

static void test_extint(void **state)
{
	struct st *st = *state;

	pic_init(st);
	line(st, 5, true);
	for (unsigned i = 0; i < NR; i++)
		assert_false(intr(st, i)); /* all LVT0 are masked */
	lapic_virtual_wire(st->l[0]);
	assert_int_equal(rd(st, 0, LVT0), 0x700);
	assert_int_equal(rd(st, 0, LVT1), 0x400);
	assert_int_equal(rd(st, 0, SVR), 0x1ff);
	for (unsigned i = 0; i < NR; i++)
		assert_int_equal(intr(st, i), i == 0);
	/* The 8259's vector goes past the APIC: no IRR, ISR, TPR. */
	wr(st, 0, TPR, 0xff);
	assert_true(intr(st, 0));
	assert_int_equal(ack(st, 0), 0x25);
	assert_false(intr(st, 0));
	assert_int_equal(rd(st, 0, ISR + 0x10), 0);
	outb(&st->t, 0x20, 0x20);
	line(st, 5, false);
	line(st, 5, true);
	assert_true(intr(st, 0));
	wr(st, 0, LVT0, 0x10700);
	assert_false(intr(st, 0));
	wr(st, 0, LVT0, 0x700);
	assert_true(intr(st, 0));
	outb(&st->t, 0x21, 0xff); /* masked in the 8259 */
	assert_false(intr(st, 0));
	outb(&st->t, 0x21, 0);
	/* The APIC switched off: the pin is INTR. */
	assert_true(wrmsr(st, 1, 0x1b, LAPIC_DEFAULT_BASE));
	assert_true(intr(st, 1));
	assert_int_equal(ack(st, 1), 0x25);
	assert_false(intr(st, 0));
	assert_false(intr(st, 1));
	/* Both before each other: 8259 first, then the APIC's own. */
	outb(&st->t, 0x20, 0x20);
	wr(st, 0, TPR, 0);
	ipi(st, 0, 0, 0xf1);
	line(st, 1, true);
	assert_int_equal(ack(st, 0), 0x21);
	assert_true(intr(st, 0));
	assert_int_equal(ack(st, 0), 0xf1);
}

static void test_lint(void **state)
{
	struct st *st = *state;

	enable(st, 2);
	/* Fixed, edge. */
	wr(st, 0, LVT0, 0x61);
	lapic_set_extint(st->set, true);
	assert_int_equal(got(st, 0x61), 1);
	lapic_set_extint(st->set, true);
	lapic_set_extint(st->set, false);
	assert_false(intr(st, 0));
	/* An edge while masked is lost. */
	wr(st, 0, LVT0, 0x61 | MASKED);
	lapic_set_extint(st->set, true);
	wr(st, 0, LVT0, 0x61);
	assert_false(intr(st, 0));
	lapic_set_extint(st->set, false);
	/* Fixed, level: remote IRR until the EOI. */
	wr(st, 0, LVT0, 0x61 | LEVEL);
	lapic_set_extint(st->set, true);
	assert_int_equal(rd(st, 0, LVT0), 0x61 | LEVEL | 0x4000);
	assert_int_equal(ack(st, 0), 0x61);
	assert_int_equal(rd(st, 0, TMR + 0x30), 2);
	wr(st, 0, EOI, 0);
	assert_true(intr(st, 0)); /* still high */
	assert_int_equal(ack(st, 0), 0x61);
	lapic_set_extint(st->set, false);
	wr(st, 0, EOI, 0);
	assert_false(intr(st, 0));
	assert_int_equal(rd(st, 0, LVT0), 0x61 | LEVEL);
	/* A level is there when it is unmasked. */
	wr(st, 0, LVT0, 0x61 | LEVEL | MASKED);
	lapic_set_extint(st->set, true);
	wr(st, 0, LVT0, 0x61 | LEVEL);
	assert_int_equal(ack(st, 0), 0x61);
	lapic_set_extint(st->set, false);
	wr(st, 0, EOI, 0);
	/* NMI and INIT. */
	wr(st, 0, LVT1, 0x400);
	wr(st, 1, LVT1, 0x10400);
	lapic_set_lint1(st->set, true);
	assert_int_equal(req(st, 0, VCPU_REQ_NMI), VCPU_REQ_NMI);
	assert_int_equal(req(st, 1, VCPU_REQ_NMI), 0);
	lapic_set_lint1(st->set, true);
	assert_int_equal(req(st, 0, VCPU_REQ_NMI), 0);
	lapic_set_lint1(st->set, false);
	wr(st, 1, LVT1, 0x500);
	lapic_set_lint1(st->set, true);
	assert_int_equal(req(st, 1, VCPU_REQ_INIT), VCPU_REQ_INIT);
	assert_int_equal(req(st, 0, VCPU_REQ_NMI), VCPU_REQ_NMI);
}

static void test_extint_message(void **state)
{
	struct st *st = *state;

	enable(st, 2);
	pic_init(st);
	rte(st, 20, 0x0100000000000700);
	line(st, 4, true);
	line(st, 20, true);
	assert_true(intr(st, 1));
	assert_int_equal(ack(st, 1), 0x24);
	assert_false(intr(st, 1));
}

/* ---- with the I/O APIC ---- */

static void test_ioapic_level(void **state)
{
	struct st *st = *state;

	enable(st, 2);
	rte(st, 14, 0x0100000000000077 | LEVEL);
	line(st, 14, true);
	assert_int_equal(ack(st, 1), 0x77);
	assert_int_equal(rd(st, 1, TMR + 0x30), 1u << 0x17);
	assert_int_equal(ioapic_get(st, 0x10 + 28) & 0x4000, 0x4000);
	wr(st, 1, EOI, 0);
	assert_true(intr(st, 1)); /* still asserted */
	assert_int_equal(ack(st, 1), 0x77);
	line(st, 14, false);
	wr(st, 1, EOI, 0);
	assert_false(intr(st, 1));
	assert_int_equal(ioapic_get(st, 0x10 + 28) & 0x4000, 0);
	/* The TMR bit follows the last message: an edge now. */
	rte(st, 14, 0x0100000000000077);
	assert_int_equal(rd(st, 1, TMR + 0x30), 1u << 0x17);
	line(st, 14, true);
	assert_int_equal(rd(st, 1, TMR + 0x30), 0);
	assert_int_equal(got(st, 0x77), 2);
	line(st, 14, false);
	/* EOI-broadcast suppression: the I/O APIC's own EOI register ends it. */
	wr(st, 1, SVR, 0x11ff);
	rte(st, 14, 0x0100000000000077 | LEVEL);
	line(st, 14, true);
	assert_int_equal(got(st, 0x77), 2);
	assert_int_equal(ioapic_get(st, 0x10 + 28) & 0x4000, 0x4000);
	assert_false(intr(st, 1));
	bus_write(st->t.bus, BUS_MMIO, IOAPIC_BASE + 0x40, 0x77, 4);
	assert_true(intr(st, 1));
}

/* kvm-unit-tests' test_ioapic_self_reconfigure. */
static void test_ioapic_reconfigure(void **state)
{
	struct st *st = *state;

	enable_x2(st, 2);
	rte(st, 13, 0x64 | LEVEL);
	rte(st, 14, 0x84 | LEVEL);
	line(st, 13, true);
	assert_int_equal(ack(st, 0), 0x64);
	line(st, 14, true);
	line(st, 14, false);
	assert_int_equal(ioapic_get(st, 0x10 + 28) & 0x4000, 0x4000);
	ioapic_put(st, 0x11 + 28, 1u << 24);
	line(st, 13, false);
	ioapic_put(st, 0x11 + 26, 1u << 24);
	assert_true(wrmsr(st, 0, 0x80b, 0));
	assert_int_equal(ioapic_get(st, 0x10 + 26) & 0x4000, 0);
	assert_int_equal(ack(st, 0), 0x84);
	assert_true(wrmsr(st, 0, 0x80b, 0));
	assert_int_equal(ioapic_get(st, 0x10 + 28) & 0x4000, 0);
	assert_int_equal(got(st, 0), 0);
}

static void test_ioapic_logical(void **state)
{
	struct st *st = *state;

	enable_x2(st, 4);
	rte(st, 14, 0x0d00000000000886 | LEVEL);
	line(st, 14, true);
	assert_true(intr(st, 0) && !intr(st, 1) && intr(st, 2) && intr(st, 3));
	line(st, 14, false);
	assert_int_equal(got(st, 0x86), 0xd);
	assert_int_equal(ioapic_get(st, 0x10 + 28) & 0x4000, 0);
}

/* ---- threads ---- */

#define THREADS 4
#define TURNS   20000

struct player {
	struct st *st;
	unsigned cpu;
	unsigned turns, ticks, levels; /* vectors 0x60, 0x70, 0x80 taken */
	int strange;
	_Atomic bool *stop;
};

/* A token goes round by IPI; timers and a level-triggered line disturb. What is lost stops it. */
static void *play(void *arg)
{
	struct player *p = arg;
	struct st *st = p->st;
	struct vcpu *v = &st->v[p->cpu];

	while (!*p->stop) {
		int vec;

		if (!(v->req & VCPU_REQ_IRQ)) {
			sched_yield();
			continue;
		}
		vec = v->irqchip->ack(v->irqchip_dev);
		if (vec == 0x80) {
			p->levels++;
			line(st, 14, false);
		} else if (vec == 0x70) {
			p->ticks++;
		} else if (vec == 0x60) {
			p->turns++;
		} else {
			p->strange = vec;
		}
		v->irqchip->wrmsr(v->irqchip_dev, 0x80b, 0);
		if (vec == 0x60 && !(p->turns == TURNS && p->cpu == THREADS - 1))
			v->irqchip->wrmsr(v->irqchip_dev, 0x830,
			                  (u64)((p->cpu + 1) % THREADS) << 32 | 0x60);
		if (vec == 0x60 && p->turns % 64 == 0)
			line(st, 14, true);
		if (vec == 0x60 && p->turns == TURNS && p->cpu == THREADS - 1) {
			*p->stop = true;
			loop_stop(st->t.loop);
		}
	}
	return NULL;
}

static void test_threads(void **state)
{
	struct st *st = *state;
	struct player p[THREADS];
	pthread_t t[THREADS];
	_Atomic bool stop = false;
	unsigned levels = 0, ticks = 0;
	bool finished;

	loop_clock_start(st->t.loop);
	enable_x2(st, THREADS);
	rte(st, 14, 0x0f00000000000980 | LEVEL); /* to whoever is free */
	for (unsigned i = 0; i < THREADS; i++) {
		assert_true(wrmsr(st, i, 0x83e, 0xb));
		assert_true(wrmsr(st, i, 0x832, 0x20070));
		assert_true(wrmsr(st, i, 0x838, 300000 + i));
		p[i] = (struct player){.st = st, .cpu = i, .stop = &stop};
	}
	for (unsigned i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&t[i], NULL, play, &p[i]), 0);
	assert_true(lapic_set_msi(st->set, 0xfee00000, 0x60));
	finished = devtest_run(&st->t, 60000 * MS);
	stop = true;
	for (unsigned i = 0; i < THREADS; i++) {
		pthread_join(t[i], NULL);
		assert_int_equal(p[i].strange, 0);
		levels += p[i].levels;
		ticks += p[i].ticks;
	}
	assert_true(finished);
	for (unsigned i = 0; i < THREADS; i++)
		assert_int_equal(p[i].turns, TURNS);
	assert_true(levels > 0);
	assert_true(ticks > 0);
}

#define T(x) cmocka_unit_test_setup_teardown(x, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_power_up),
		T(test_writable_bits),
		T(test_mmio_widths),
		T(test_esr),
		T(test_priority),
		T(test_cr8),
		T(test_software_disable),
		T(test_base),
		T(test_hardware_disable),
		T(test_id),
		T(test_x2apic_registers),
		T(test_x2apic_reserved),
		T(test_x2apic_modes),
		cmocka_unit_test_setup_teardown(test_no_x2apic, setup_plain, teardown),
		T(test_physical),
		T(test_x2apic_destinations),
		T(test_mixed_modes),
		T(test_logical),
		T(test_lowest_priority),
		T(test_other_modes),
		T(test_send_ipis),
		T(test_init),
		T(test_divider),
		T(test_periodic),
		T(test_tiny_period),
		T(test_mode_change),
		T(test_deadline),
		T(test_tsc_changed),
		T(test_real_timer),
		T(test_extint),
		T(test_lint),
		T(test_extint_message),
		T(test_ioapic_level),
		T(test_ioapic_reconfigure),
		T(test_ioapic_logical),
		T(test_threads),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
