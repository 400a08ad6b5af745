// SPDX-License-Identifier: MIT
/* The interrupt controllers against the 8259A data sheet, as the PC wires them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "devtest.h"
#include "dev/pic.h"

#define M0 0x20
#define M1 0x21
#define S0 0xa0
#define S1 0xa1

struct st {
	struct devtest t;
	struct pic *pic;
	bool intr;
	unsigned edges;
};

static void on_intr(void *arg, bool level)
{
	struct st *st = arg;

	assert_true(level != st->intr);
	st->intr = level;
	st->edges += level;
}

static int setup(void **state)
{
	struct st *st = calloc(1, sizeof(*st));
	struct pic_config cfg = {on_intr, st};

	devtest_init(&st->t, 0);
	if (pic_create(&st->pic, &st->t.env, &cfg))
		return -1;
	*state = st;
	return 0;
}

static int teardown(void **state)
{
	struct st *st = *state;

	devtest_fini(&st->t);
	free(st);
	return 0;
}

/* As Linux and a BIOS do it: master at 0x20, slave at 0x28, `icw4` for both. */
static void init(struct st *st, u8 icw1, u8 icw4_master, u8 icw4_slave)
{
	outb(&st->t, M0, icw1);
	outb(&st->t, M1, 0x20);
	outb(&st->t, M1, 0x04);
	outb(&st->t, M1, icw4_master);
	outb(&st->t, S0, icw1);
	outb(&st->t, S1, 0x28);
	outb(&st->t, S1, 0x02);
	outb(&st->t, S1, icw4_slave);
}

static void line(struct st *st, unsigned n, bool level)
{
	bus_lock(st->t.bus);
	irq_set(&st->t.irq, n, level);
	bus_unlock(st->t.bus);
}

static void pulse(struct st *st, unsigned n)
{
	line(st, n, true);
	line(st, n, false);
}

static u8 irr(struct st *st, u16 port)
{
	outb(&st->t, port, 0x0a);
	return inb(&st->t, port);
}

static u8 isr(struct st *st, u16 port)
{
	outb(&st->t, port, 0x0b);
	return inb(&st->t, port);
}

#define ack(st) pic_ack((st)->pic)

static void test_uninitialised(void **state)
{
	struct st *st = *state;

	pulse(st, 3);
	assert_false(st->intr);
	outb(&st->t, M0, 0x11);
	outb(&st->t, M1, 0x20);
	line(st, 5, true);
	assert_false(st->intr); /* between ICW2 and ICW4 */
	outb(&st->t, M1, 0x04);
	assert_false(st->intr);
	outb(&st->t, M1, 0x01);
	assert_true(st->intr);
	assert_int_equal(ack(st), 0x25);
}

static void test_imr(void **state)
{
	struct st *st = *state;

	init(st, 0x11, 1, 1);
	assert_int_equal(inb(&st->t, M1), 0); /* ICW1 clears it */
	outb(&st->t, M1, 0xfb);
	outb(&st->t, S1, 0xa5);
	assert_int_equal(inb(&st->t, M1), 0xfb);
	assert_int_equal(inb(&st->t, S1), 0xa5);
	pulse(st, 4);
	assert_false(st->intr);
	assert_int_equal(irr(st, M0), 0x10); /* masked ones are in the IRR */
	outb(&st->t, M1, 0xef);
	assert_true(st->intr);
	outb(&st->t, M1, 0xff);
	assert_false(st->intr);
	outb(&st->t, M1, 0);
	assert_int_equal(ack(st), 0x24);
	assert_int_equal(irr(st, M0), 0);
	assert_int_equal(isr(st, M0), 0x10);
}

static void test_priority_nesting(void **state)
{
	struct st *st = *state;

	init(st, 0x11, 1, 1);
	pulse(st, 5);
	pulse(st, 1);
	assert_int_equal(ack(st), 0x21);
	assert_false(st->intr); /* 5 waits behind 1 */
	pulse(st, 0);
	assert_true(st->intr); /* a higher one does not */
	assert_int_equal(ack(st), 0x20);
	assert_int_equal(isr(st, M0), 0x03);
	outb(&st->t, M0, 0x20); /* non-specific EOI: the highest, 0 */
	assert_int_equal(isr(st, M0), 0x02);
	assert_false(st->intr);
	outb(&st->t, M0, 0x61); /* specific EOI of 1 */
	assert_int_equal(isr(st, M0), 0);
	assert_true(st->intr);
	assert_int_equal(ack(st), 0x25);
	outb(&st->t, M0, 0x66); /* specific EOI of one not in service */
	assert_int_equal(isr(st, M0), 0x20);
	outb(&st->t, M0, 0x20);
	outb(&st->t, M0, 0x20);
	assert_int_equal(isr(st, M0), 0);
}

static void test_slave(void **state)
{
	struct st *st = *state;

	init(st, 0x11, 1, 1);
	pulse(st, 12);
	assert_true(st->intr);
	assert_int_equal(irr(st, M0), 0x04); /* the cascade shows in the master */
	assert_int_equal(irr(st, S0), 0x10);
	assert_int_equal(ack(st), 0x2c);
	assert_int_equal(isr(st, M0), 0x04);
	assert_int_equal(isr(st, S0), 0x10);
	assert_int_equal(irr(st, M0), 0);
	pulse(st, 8); /* higher in the slave, but the master's IR2 is in service */
	assert_false(st->intr);
	pulse(st, 1);
	assert_true(st->intr);
	assert_int_equal(ack(st), 0x21);
	outb(&st->t, M0, 0x20);
	outb(&st->t, S0, 0x20);
	outb(&st->t, M0, 0x62);
	assert_true(st->intr);
	assert_int_equal(ack(st), 0x28);
	outb(&st->t, S0, 0x20);
	outb(&st->t, M0, 0x20);
	assert_false(st->intr);
	line(st, 2, true); /* no such pin */
	assert_false(st->intr);
}

static void test_special_fully_nested(void **state)
{
	struct st *st = *state;

	init(st, 0x11, 0x11, 1);
	pulse(st, 12);
	assert_int_equal(ack(st), 0x2c);
	pulse(st, 14); /* lower in the slave */
	assert_false(st->intr);
	pulse(st, 9); /* higher in the slave goes through */
	assert_true(st->intr);
	assert_int_equal(ack(st), 0x29);
	assert_int_equal(isr(st, S0), 0x12);
	outb(&st->t, S0, 0x20);
	assert_int_equal(isr(st, S0), 0x10);
	outb(&st->t, S0, 0x20);
	assert_true(st->intr); /* 14 */
	assert_int_equal(ack(st), 0x2e);
	outb(&st->t, S0, 0x20);
	outb(&st->t, M0, 0x20);
	assert_int_equal(isr(st, M0), 0);
}

static void test_rotation(void **state)
{
	struct st *st = *state;

	init(st, 0x11, 1, 1);
	outb(&st->t, M0, 0xc4); /* set priority: 4 lowest, 5 highest */
	pulse(st, 4);
	pulse(st, 5);
	pulse(st, 0);
	assert_int_equal(ack(st), 0x25);
	outb(&st->t, M0, 0xa0); /* rotate on non-specific EOI: 5 lowest */
	assert_int_equal(isr(st, M0), 0);
	assert_int_equal(ack(st), 0x20); /* 6, 7, 0, ... 4 */
	pulse(st, 7);
	assert_true(st->intr); /* 7 is above 0 now */
	assert_int_equal(ack(st), 0x27);
	outb(&st->t, M0, 0xe0); /* rotate on specific EOI of 0: 0 lowest */
	assert_int_equal(isr(st, M0), 0x80);
	assert_true(st->intr); /* 4 is above 7 */
	assert_int_equal(ack(st), 0x24);
	outb(&st->t, M0, 0x20);
	outb(&st->t, M0, 0x20);
	assert_int_equal(isr(st, M0), 0);
	outb(&st->t, M0, 0x40); /* no operation */
	pulse(st, 0);
	pulse(st, 1);
	assert_int_equal(ack(st), 0x21);
}

static void test_aeoi(void **state)
{
	struct st *st = *state;

	init(st, 0x11, 3, 1);
	pulse(st, 3);
	pulse(st, 6);
	assert_int_equal(ack(st), 0x23);
	assert_int_equal(isr(st, M0), 0);
	assert_true(st->intr);
	assert_int_equal(ack(st), 0x26);
	/* Rotate in automatic EOI mode. */
	outb(&st->t, M0, 0x80);
	pulse(st, 0);
	assert_int_equal(ack(st), 0x20);
	pulse(st, 0);
	pulse(st, 7);
	assert_int_equal(ack(st), 0x27);
	assert_int_equal(ack(st), 0x20);
	outb(&st->t, M0, 0x00);
	pulse(st, 3);
	assert_int_equal(ack(st), 0x23);
	pulse(st, 0);
	pulse(st, 1);
	assert_int_equal(ack(st), 0x21); /* 0 is still lowest: no more rotation */
}

static void test_special_mask(void **state)
{
	struct st *st = *state;

	init(st, 0x11, 1, 1);
	pulse(st, 3);
	assert_int_equal(ack(st), 0x23);
	pulse(st, 5);
	assert_false(st->intr);
	outb(&st->t, M1, 0x08);
	assert_false(st->intr); /* masking what is in service alone does not help */
	outb(&st->t, M0, 0x68); /* set special mask mode */
	assert_true(st->intr);
	assert_int_equal(ack(st), 0x25);
	outb(&st->t, M0, 0x20); /* does not touch the masked 3 */
	assert_int_equal(isr(st, M0), 0x08);
	outb(&st->t, M0, 0x20);
	assert_int_equal(isr(st, M0), 0x08);
	outb(&st->t, M0, 0x48); /* reset special mask */
	pulse(st, 6);
	assert_false(st->intr);
	outb(&st->t, M0, 0x63);
	assert_true(st->intr);
	assert_int_equal(ack(st), 0x26);
}

static void test_poll(void **state)
{
	struct st *st = *state;

	init(st, 0x11, 1, 1);
	outb(&st->t, M0, 0x0c);
	assert_int_equal(inb(&st->t, M0), 0);
	pulse(st, 6);
	outb(&st->t, M0, 0x0c);
	assert_int_equal(inb(&st->t, M0), 0x86);
	assert_false(st->intr);
	assert_int_equal(isr(st, M0), 0x40);
	outb(&st->t, M0, 0x20);
	/* The slave: poll the master, then the slave. */
	pulse(st, 13);
	outb(&st->t, M0, 0x0c);
	assert_int_equal(inb(&st->t, M0), 0x82);
	outb(&st->t, S0, 0x0c);
	assert_int_equal(inb(&st->t, S1), 0x85); /* the next read, of either port */
	assert_int_equal(inb(&st->t, S1), 0);    /* the IMR again */
	assert_int_equal(isr(st, S0), 0x20);
}

static void test_read_select(void **state)
{
	struct st *st = *state;

	init(st, 0x11, 1, 1);
	pulse(st, 1);
	pulse(st, 4);
	ack(st);
	outb(&st->t, M0, 0x0b);
	assert_int_equal(inb(&st->t, M0), 0x02);
	outb(&st->t, M0, 0x08); /* RR = 0: no change */
	assert_int_equal(inb(&st->t, M0), 0x02);
	outb(&st->t, M0, 0x0a);
	assert_int_equal(inb(&st->t, M0), 0x10);
	outb(&st->t, M0, 0x0b);
	init(st, 0x11, 1, 1); /* ICW1 selects the IRR */
	pulse(st, 7);
	assert_int_equal(inb(&st->t, M0), 0x80);
}

static void test_edge(void **state)
{
	struct st *st = *state;

	init(st, 0x11, 1, 1);
	line(st, 3, true);
	assert_int_equal(ack(st), 0x23);
	outb(&st->t, M0, 0x20);
	assert_false(st->intr); /* high all along: no second edge */
	line(st, 3, true);
	assert_false(st->intr);
	line(st, 3, false);
	line(st, 3, true);
	assert_int_equal(ack(st), 0x23);
	outb(&st->t, M0, 0x20);
	/* ICW1 resets the edge sense circuit. */
	pulse(st, 4);
	init(st, 0x11, 1, 1);
	assert_false(st->intr);
	assert_int_equal(irr(st, M0), 0);
}

static void test_level(void **state)
{
	struct st *st = *state;

	init(st, 0x11, 1, 1);
	assert_int_equal(inb(&st->t, 0x4d0), 0);
	outb(&st->t, 0x4d0, 0xff);
	outb(&st->t, 0x4d1, 0xff);
	assert_int_equal(inb(&st->t, 0x4d0), 0xf8);
	assert_int_equal(inb(&st->t, 0x4d1), 0xde);
	outw(&st->t, 0x4d0, 0x0820); /* 5 and 11 */
	assert_int_equal(inw(&st->t, 0x4d0), 0x0820);
	line(st, 5, true);
	assert_int_equal(ack(st), 0x25);
	assert_int_equal(irr(st, M0), 0x20); /* as long as the line */
	outb(&st->t, M0, 0x20);
	assert_true(st->intr);
	assert_int_equal(ack(st), 0x25);
	line(st, 5, false);
	outb(&st->t, M0, 0x20);
	assert_false(st->intr);
	/* On the slave. */
	line(st, 11, true);
	assert_int_equal(ack(st), 0x2b);
	outb(&st->t, S0, 0x20);
	outb(&st->t, M0, 0x20);
	assert_int_equal(ack(st), 0x2b);
	line(st, 11, false);
	outb(&st->t, S0, 0x20);
	outb(&st->t, M0, 0x20);
	assert_false(st->intr);
	/* Switching the mode with the line high. */
	outb(&st->t, 0x4d0, 0);
	line(st, 6, true);
	assert_int_equal(ack(st), 0x26);
	outb(&st->t, M0, 0x20);
	outb(&st->t, 0x4d0, 0x40);
	assert_true(st->intr);
	outb(&st->t, 0x4d0, 0);
	assert_false(st->intr);
}

static void test_ltim(void **state)
{
	struct st *st = *state;

	init(st, 0x19, 1, 1);
	line(st, 0, true); /* even one that ELCR has no bit for */
	assert_int_equal(ack(st), 0x20);
	outb(&st->t, M0, 0x20);
	assert_int_equal(ack(st), 0x20);
	outb(&st->t, M0, 0x20);
	line(st, 0, false);
	assert_false(st->intr);
}

static void test_spurious(void **state)
{
	struct st *st = *state;

	init(st, 0x11, 1, 1);
	outw(&st->t, 0x4d0, 0x0820);
	assert_int_equal(ack(st), 0x27); /* out of the blue */
	assert_int_equal(isr(st, M0), 0);
	line(st, 5, true);
	assert_true(st->intr);
	line(st, 5, false);
	assert_false(st->intr);
	assert_int_equal(ack(st), 0x27);
	assert_int_equal(isr(st, M0), 0);
	/* Masked between INTR and INTA. */
	pulse(st, 3);
	outb(&st->t, M1, 0x08);
	assert_int_equal(ack(st), 0x27);
	outb(&st->t, M1, 0);
	assert_int_equal(ack(st), 0x23);
	outb(&st->t, M0, 0x20);
	/* IRQ15: only when the master still sees the slave's INT, which falls at once; so none
	 * here, and the master gives IRQ7. */
	line(st, 11, true);
	line(st, 11, false);
	assert_int_equal(ack(st), 0x27);
	assert_int_equal(isr(st, S0), 0);
}

static void test_icw_variants(void **state)
{
	struct st *st = *state;

	/* Single: no ICW3; IC4 = 0: no ICW4 and its functions off. */
	init(st, 0x11, 3, 1);
	outb(&st->t, M0, 0x12);
	outb(&st->t, M1, 0x47); /* T2..T0 are the IR */
	outb(&st->t, M1, 0x81); /* already OCW1 */
	assert_int_equal(inb(&st->t, M1), 0x81);
	pulse(st, 1);
	assert_int_equal(ack(st), 0x41);
	assert_int_equal(isr(st, M0), 0x02); /* no AEOI any more */
	/* In single mode IR2 is no cascade. */
	outb(&st->t, M0, 0x20);
	pulse(st, 9);
	assert_int_equal(ack(st), 0x42);
	/* A slave of another identity does not answer. */
	init(st, 0x11, 1, 1);
	outb(&st->t, S0, 0x11);
	outb(&st->t, S1, 0x28);
	outb(&st->t, S1, 0x05);
	outb(&st->t, S1, 0x01);
	pulse(st, 10);
	assert_int_equal(ack(st), 0xff);
	/* No slave where ICW3 says so. */
	outb(&st->t, M0, 0x11);
	outb(&st->t, M1, 0x20);
	outb(&st->t, M1, 0x00);
	outb(&st->t, M1, 0x01);
	outb(&st->t, S0, 0x20);
	pulse(st, 10);
	assert_int_equal(ack(st), 0x22);
}

static void test_firmware(void **state)
{
	struct st *st = *state;

	bus_lock(st->t.bus);
	pic_firmware_init(st->pic);
	bus_unlock(st->t.bus);
	assert_int_equal(inb(&st->t, M1) | inb(&st->t, S1), 0);
	pulse(st, 11);
	assert_int_equal(ack(st), 0x73);
	outb(&st->t, S0, 0x20);
	outb(&st->t, M0, 0x20);
	pulse(st, 1);
	assert_int_equal(ack(st), 9);
}

static void test_reset(void **state)
{
	struct st *st = *state;

	init(st, 0x11, 1, 1);
	outb(&st->t, 0x4d0, 0x20);
	line(st, 5, true);
	assert_true(st->intr);
	bus_lock(st->t.bus);
	dev_reset_all(st->t.devices);
	bus_unlock(st->t.bus);
	assert_false(st->intr);
	assert_int_equal(inb(&st->t, 0x4d0), 0);
	init(st, 0x11, 1, 1);
	assert_false(st->intr); /* edge now, and there was none */
	line(st, 5, false);
	line(st, 5, true);
	assert_true(st->intr);
}

#define T(x) cmocka_unit_test_setup_teardown(x, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_uninitialised),
		T(test_imr),
		T(test_priority_nesting),
		T(test_slave),
		T(test_special_fully_nested),
		T(test_rotation),
		T(test_aeoi),
		T(test_special_mask),
		T(test_poll),
		T(test_read_select),
		T(test_edge),
		T(test_level),
		T(test_ltim),
		T(test_spurious),
		T(test_icw_variants),
		T(test_firmware),
		T(test_reset),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
