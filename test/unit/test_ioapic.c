// SPDX-License-Identifier: MIT
/* The I/O APIC against the 82093AA data sheet, with a recording receiver of its messages. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "devtest.h"
#include "dev/ioapic.h"

struct st {
	struct devtest t;
	struct ioapic *a;
	unsigned sent;
	u64 addr;
	u32 data;
	bool refuse;
};

static bool on_msi(void *arg, u64 addr, u32 data)
{
	struct st *st = arg;

	st->sent++;
	st->addr = addr;
	st->data = data;
	return !st->refuse;
}

static int make(void **state, u8 version, bool remap)
{
	struct st *st = calloc(1, sizeof(*st));
	struct ioapic_config cfg = {on_msi, st, version, 5, remap};

	devtest_init(&st->t, 0);
	if (ioapic_create(&st->a, &st->t.env, &cfg))
		return -1;
	*state = st;
	return 0;
}

static int setup(void **state)
{
	return make(state, 0x20, false);
}

static int setup_11(void **state)
{
	return make(state, 0x11, true);
}

static int teardown(void **state)
{
	struct st *st = *state;

	devtest_fini(&st->t);
	free(st);
	return 0;
}

static u32 get(struct st *st, u8 reg)
{
	bus_write(st->t.bus, BUS_MMIO, IOAPIC_BASE, reg, 4);
	return (u32)bus_read(st->t.bus, BUS_MMIO, IOAPIC_BASE + 0x10, 4);
}

static void put(struct st *st, u8 reg, u32 val)
{
	bus_write(st->t.bus, BUS_MMIO, IOAPIC_BASE, reg, 4);
	bus_write(st->t.bus, BUS_MMIO, IOAPIC_BASE + 0x10, val, 4);
}

static void rte(struct st *st, unsigned pin, u64 val)
{
	put(st, (u8)(0x11 + 2 * pin), (u32)(val >> 32));
	put(st, (u8)(0x10 + 2 * pin), (u32)val);
}

static u64 rte_get(struct st *st, unsigned pin)
{
	return get(st, (u8)(0x10 + 2 * pin)) | (u64)get(st, (u8)(0x11 + 2 * pin)) << 32;
}

static void line(struct st *st, unsigned n, bool level)
{
	bus_lock(st->t.bus);
	irq_set(&st->t.irq, n, level);
	bus_unlock(st->t.bus);
}

static void eoi(struct st *st, u8 vector)
{
	bus_lock(st->t.bus);
	ioapic_eoi(st->a, vector);
	bus_unlock(st->t.bus);
}

#define LEVEL  (1u << 15)
#define MASKED (1u << 16)
#define RIRR   (1u << 14)

static void test_registers(void **state)
{
	struct st *st = *state;

	assert_int_equal(get(st, 1), 0x00170020);
	put(st, 1, ~0u);
	assert_int_equal(get(st, 1), 0x00170020);
	assert_int_equal(get(st, 0), 0x05000000);
	put(st, 0, ~0u);
	assert_int_equal(get(st, 0), 0x0f000000);
	put(st, 0, 0x03123456);
	assert_int_equal(get(st, 0), 0x03000000);
	assert_int_equal(get(st, 2), 0x03000000); /* arbitration ID follows */
	put(st, 2, 0);
	assert_int_equal(get(st, 2), 0x03000000);
	for (unsigned pin = 0; pin < 24; pin++)
		assert_int_equal(rte_get(st, pin), MASKED);
	rte(st, 7, ~0ull);
	assert_int_equal(rte_get(st, 7), 0xff0000000001afff);
	rte(st, 7, MASKED);
	/* No such registers. */
	for (unsigned reg = 0x40; reg < 0x100; reg++) {
		put(st, (u8)reg, ~0u);
		assert_int_equal(get(st, (u8)reg), 0);
	}
	put(st, 0x0f, ~0u);
	assert_int_equal(get(st, 0x0f), 0);
	/* The select register reads back; bytes of it and of the window. */
	bus_write(st->t.bus, BUS_MMIO, IOAPIC_BASE, 1, 1);
	assert_int_equal(bus_read(st->t.bus, BUS_MMIO, IOAPIC_BASE, 4), 1);
	assert_int_equal(bus_read(st->t.bus, BUS_MMIO, IOAPIC_BASE + 0x12, 1), 0x17);
	assert_int_equal(bus_read(st->t.bus, BUS_MMIO, IOAPIC_BASE + 0x20, 4), 0);
	assert_int_equal(bus_read(st->t.bus, BUS_MMIO, IOAPIC_BASE + 0xffc, 4), 0);
	assert_int_equal(st->sent, 0);
}

static void test_edge(void **state)
{
	struct st *st = *state;

	rte(st, 14, 0x76);
	line(st, 14, true);
	assert_int_equal(st->sent, 1);
	assert_int_equal(st->addr, 0xfee00000);
	assert_int_equal(st->data, 0x4076);
	line(st, 14, true);
	assert_int_equal(st->sent, 1);
	line(st, 14, false);
	assert_int_equal(st->sent, 1);
	line(st, 14, true);
	assert_int_equal(st->sent, 2);
	assert_int_equal(rte_get(st, 14), 0x76);
	/* An edge that nobody takes is gone. */
	line(st, 14, false);
	st->refuse = true;
	line(st, 14, true);
	st->refuse = false;
	rte(st, 14, 0x76);
	assert_int_equal(st->sent, 3);
	/* One while masked is ignored. */
	rte(st, 14, 0x76 | MASKED);
	line(st, 14, false);
	line(st, 14, true);
	rte(st, 14, 0x76);
	assert_int_equal(st->sent, 3);
	line(st, 14, false);
	line(st, 14, true);
	assert_int_equal(st->sent, 4);
}

static void test_level(void **state)
{
	struct st *st = *state;

	rte(st, 10, 0x55 | LEVEL);
	line(st, 10, true);
	assert_int_equal(st->sent, 1);
	assert_int_equal(st->data, 0xc055);
	assert_int_equal(rte_get(st, 10), 0x55 | LEVEL | RIRR);
	line(st, 10, false); /* in service: changes are not seen */
	line(st, 10, true);
	assert_int_equal(st->sent, 1);
	eoi(st, 0x54);
	assert_int_equal(st->sent, 1);
	eoi(st, 0x55);
	assert_int_equal(st->sent, 2); /* still high */
	line(st, 10, false);
	eoi(st, 0x55);
	assert_int_equal(st->sent, 2);
	assert_int_equal(rte_get(st, 10), 0x55 | LEVEL);
	eoi(st, 0x55);
	/* Masked in service: the EOI does not send it again, unmasking does. */
	line(st, 10, true);
	assert_int_equal(st->sent, 3);
	rte(st, 10, 0x55 | LEVEL | MASKED);
	assert_int_equal(rte_get(st, 10), 0x55 | LEVEL | MASKED | RIRR);
	eoi(st, 0x55);
	assert_int_equal(st->sent, 3);
	rte(st, 10, 0x55 | LEVEL);
	assert_int_equal(st->sent, 4);
	/* Unmasked while in service: not twice. */
	rte(st, 10, 0x55 | LEVEL | MASKED);
	rte(st, 10, 0x55 | LEVEL);
	assert_int_equal(st->sent, 4);
	/* Edge-triggered and back is an EOI. */
	rte(st, 10, 0x55 | MASKED);
	assert_int_equal(rte_get(st, 10), 0x55 | MASKED);
	rte(st, 10, 0x55 | LEVEL);
	assert_int_equal(st->sent, 5);
	/* Not taken: no remote IRR; sent again when the entry is written. */
	eoi(st, 0x55);
	line(st, 10, false);
	eoi(st, 0x55);
	st->refuse = true;
	st->sent = 0;
	line(st, 10, true);
	assert_int_equal(st->sent, 1);
	assert_int_equal(rte_get(st, 10), 0x55 | LEVEL);
	st->refuse = false;
	rte(st, 10, 0x55 | LEVEL);
	assert_true(st->sent >= 2);
	assert_int_equal(rte_get(st, 10), 0x55 | LEVEL | RIRR);
}

static void test_shared_vector(void **state)
{
	struct st *st = *state;

	rte(st, 3, 0x60 | LEVEL);
	rte(st, 9, 0x60 | LEVEL);
	line(st, 3, true);
	line(st, 9, true);
	assert_int_equal(st->sent, 2);
	line(st, 3, false);
	eoi(st, 0x60); /* both end, the one still high comes again */
	assert_int_equal(st->sent, 3);
	assert_int_equal(rte_get(st, 3), 0x60 | LEVEL);
	assert_int_equal(rte_get(st, 9), 0x60 | LEVEL | RIRR);
}

static void test_eoi_register(void **state)
{
	struct st *st = *state;

	rte(st, 3, 0x60 | LEVEL);
	line(st, 3, true);
	line(st, 3, false);
	bus_write(st->t.bus, BUS_MMIO, IOAPIC_BASE + 0x40, 0x60, 4);
	assert_int_equal(rte_get(st, 3), 0x60 | LEVEL);
}

static void test_message(void **state)
{
	struct st *st = *state;
	static const struct {
		u64 rte;
		u64 addr;
		u32 data;
	} c[] = {
		{0x0d00000000000086, 0xfee0d000, 0x4086},                 /* physical */
		{0x0d00000000000886, 0xfee0d004, 0x4086},                 /* logical */
		{0xff00000000000986, 0xfeeff00c, 0x4186},                 /* lowest priority */
		{0x0100000000000286, 0xfee01000, 0x4286},                 /* SMI */
		{0x0100000000000400, 0xfee01000, 0x4400},                 /* NMI */
		{0x0100000000000500, 0xfee01000, 0x4500},                 /* INIT */
		{0x0100000000000700, 0xfee01000, 0x4700},                 /* ExtINT */
		{0x0100000000002086, 0xfee01000, 0x4086},                 /* polarity is nothing */
		{0x0100000000000000 | LEVEL | 0x186, 0xfee01008, 0xc186}, /* level */
		{0x0100000000000000 | LEVEL | 0x400, 0xfee01000, 0x4400}, /* NMI is an edge */
	};

	for (unsigned i = 0; i < ARRAY_SIZE(c); i++) {
		rte(st, 20, c[i].rte);
		st->sent = 0;
		line(st, 20, true);
		assert_int_equal(st->sent, 1);
		assert_int_equal(st->addr, c[i].addr);
		assert_int_equal(st->data, c[i].data);
		line(st, 20, false);
		rte(st, 20, MASKED);
	}
}

static void test_pins(void **state)
{
	struct st *st = *state;

	for (unsigned pin = 0; pin < 24; pin++)
		rte(st, pin, 0x40 + pin);
	for (unsigned pin = 0; pin < 24; pin++) {
		line(st, pin, true);
		assert_int_equal(st->data, 0x4040 + pin);
	}
	assert_int_equal(st->sent, 24);
}

static void test_11(void **state)
{
	struct st *st = *state;

	assert_int_equal(get(st, 1), 0x00170011);
	rte(st, 3, 0x60 | LEVEL);
	line(st, 3, true);
	bus_write(st->t.bus, BUS_MMIO, IOAPIC_BASE + 0x40, 0x60, 4); /* no such register */
	assert_int_equal(rte_get(st, 3), 0x60 | LEVEL | RIRR);
	/* Line 0 to pin 2. */
	rte(st, 0, 0x70);
	rte(st, 2, 0x72);
	st->sent = 0;
	line(st, 2, true);
	assert_int_equal(st->sent, 0);
	line(st, 0, true);
	assert_int_equal(st->sent, 1);
	assert_int_equal(st->data, 0x4072);
}

static void test_reset(void **state)
{
	struct st *st = *state;

	rte(st, 3, 0x60 | LEVEL);
	put(st, 0, 0x0e000000);
	line(st, 3, true);
	bus_lock(st->t.bus);
	dev_reset_all(st->t.devices);
	bus_unlock(st->t.bus);
	assert_int_equal(rte_get(st, 3), MASKED);
	assert_int_equal(get(st, 0), 0x05000000);
	st->sent = 0;
	rte(st, 3, 0x60 | LEVEL); /* the line is still high */
	assert_int_equal(st->sent, 1);
}

#define T(x) cmocka_unit_test_setup_teardown(x, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_registers),    T(test_edge),
		T(test_level),        T(test_shared_vector),
		T(test_eoi_register), T(test_message),
		T(test_pins),         cmocka_unit_test_setup_teardown(test_11, setup_11, teardown),
		T(test_reset),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
