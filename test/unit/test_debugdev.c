// SPDX-License-Identifier: MIT
/* Debug console, debug exit, port 0x80 and the test device. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "devtest.h"
#include "dev/debugcon.h"
#include "dev/debugexit.h"
#include "dev/port80.h"
#include "dev/testdev.h"

struct st {
	struct devtest t;
	struct testback b;
	int code;
	unsigned exits, flushes;
	gpa_t page;
};

static int setup(void **state)
{
	struct st *st = calloc(1, sizeof(*st));

	devtest_init(&st->t, 0);
	testback_init(&st->b);
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

static void on_exit_code(void *arg, int code)
{
	struct st *st = arg;

	st->exits++;
	st->code = code;
}

static void on_flush(void *arg, gpa_t page)
{
	struct st *st = arg;

	st->flushes++;
	st->page = page;
}

static void test_debugcon(void **state)
{
	struct st *st = *state;
	struct debugcon *d;
	struct debugcon_config cfg = {.back = &st->b.chardev};

	assert_int_equal(debugcon_create(&d, &st->t.env, &cfg), 0);
	assert_int_equal(inb(&st->t, 0xe9), 0xe9);
	outb(&st->t, 0xe9, 'o');
	outb(&st->t, 0xe9, 'k');
	st->b.room = 0;
	outb(&st->t, 0xe9, '!');
	assert_int_equal(st->b.out_len, 2);
	assert_memory_equal(st->b.out, "ok", 2);
}

static void test_debugexit(void **state)
{
	struct st *st = *state;
	struct debugexit *d;
	struct debugexit_config cfg = {.exit = on_exit_code, .arg = st};

	assert_int_equal(debugexit_create(&d, &st->t.env, &cfg), 0);
	assert_int_equal(inl(&st->t, 0xf4), 0);
	assert_int_equal(st->exits, 0);
	outl(&st->t, 0xf4, 0);
	assert_int_equal(st->code, 1);
	outb(&st->t, 0xf4, 0x10);
	assert_int_equal(st->code, 0x21);
	outw(&st->t, 0xf4, 1);
	assert_int_equal(st->code, 3);
	outl(&st->t, 0xf4, 0xffffffff);
	assert_int_equal(st->code, 0xff);
	assert_int_equal(st->exits, 4);
}

static void test_debugexit_place(void **state)
{
	struct st *st = *state;
	struct debugexit *d;
	struct debugexit_config cfg = {
		.iobase = 0x501, .iosize = 1, .exit = on_exit_code, .arg = st};

	assert_int_equal(debugexit_create(&d, &st->t.env, &cfg), 0);
	outb(&st->t, 0xf4, 1);
	outb(&st->t, 0x502, 1);
	assert_int_equal(st->exits, 0);
	outb(&st->t, 0x501, 1);
	assert_int_equal(st->exits, 1);
	cfg.iosize = 4;
	cfg.iobase = 0x4ff;
	assert_int_not_equal(debugexit_create(&d, &st->t.env, &cfg), 0);
}

static void test_port80(void **state)
{
	struct st *st = *state;
	struct port80 *p;
	struct port80_config cfg = {0};

	assert_int_equal(port80_create(&p, &st->t.env, &cfg), 0);
	outb(&st->t, 0x80, 0x42);
	assert_int_equal(port80_code(p), 0x42);
	assert_int_equal(inb(&st->t, 0x80), 0x42);
	outb(&st->t, 0xed, 0x42);
	assert_int_equal(inb(&st->t, 0xed), 0xff);
	assert_int_equal(inb(&st->t, 0x81), 0xff); /* no DMA page registers */
	st->t.devices->ops->reset(st->t.devices);
	assert_int_equal(port80_code(p), 0);
}

static void test_testdev_ports(void **state)
{
	struct st *st = *state;
	struct testdev *d;
	struct testdev_config cfg = {.flush_page = on_flush, .arg = st};

	assert_int_equal(testdev_create(&d, &st->t.env, &cfg), 0);
	outl(&st->t, 0xe0, 0x12345678);
	assert_int_equal(inl(&st->t, 0xe0), 0x12345678);
	outw(&st->t, 0xe0, 0x9999);
	assert_int_equal(inl(&st->t, 0xe0), 0x12349999);
	outb(&st->t, 0xe3, 0xff);
	assert_int_equal(inw(&st->t, 0xe2), 0xff34);
	assert_int_equal(inl(&st->t, 0xe8), 0xff349999);
	outw(&st->t, 0xe9, 0xabcd);
	assert_int_equal(inl(&st->t, 0xe0), 0xffabcd99);
	outl(&st->t, 0xe4, 0x12345678);
	assert_int_equal(st->page, 0x12345000);
	outb(&st->t, 0xe4, 1); /* too narrow */
	assert_int_equal(st->flushes, 1);
}

static void test_testdev_lines(void **state)
{
	struct st *st = *state;
	struct testdev *d;
	struct testdev_config cfg = {.debugcon = true};
	struct debugcon *c;
	struct debugcon_config con = {.back = &st->b.chardev};

	assert_int_equal(testdev_create(&d, &st->t.env, &cfg), 0);
	assert_int_equal(debugcon_create(&c, &st->t.env, &con), 0);
	for (u16 i = 0; i < 24; i++) {
		outb(&st->t, 0x2000 + i, 1);
		assert_true(st->t.irq.level[i]);
		assert_int_equal(inb(&st->t, 0x2000 + i), 1);
		outb(&st->t, 0x2000 + i, 0);
		assert_false(st->t.irq.level[i]);
		assert_int_equal(st->t.irq.count[i], 1);
	}
	outb(&st->t, 0x2000 + 24, 1);
	outl(&st->t, 0xe4, 0x1000); /* nobody wants to know: fine */
}

static void test_testdev_memory(void **state)
{
	struct st *st = *state;
	struct testdev *d;
	struct testdev_config cfg = {0};
	struct bus *b = st->t.bus;

	assert_int_equal(testdev_create(&d, &st->t.env, &cfg), 0);
	bus_write(b, BUS_MMIO, 0xff000000, 0x1122334455667788, 8);
	assert_int_equal(bus_read(b, BUS_MMIO, 0xff000000, 8), 0x1122334455667788);
	assert_int_equal(bus_read(b, BUS_MMIO, 0xff000003, 2), 0x4455);
	bus_write(b, BUS_MMIO, 0xff000001, 0xee, 1);
	assert_int_equal(bus_read(b, BUS_MMIO, 0xff000000, 4), 0x5566ee88);
	bus_write(b, BUS_MMIO, 0xff00fffe, 0xa1b2c3d4, 4); /* half of it is outside */
	assert_int_equal(bus_read(b, BUS_MMIO, 0xff00fffe, 4), 0xffffc3d4);
	st->t.devices->ops->reset(st->t.devices);
	assert_int_equal(bus_read(b, BUS_MMIO, 0xff000000, 8), 0);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_debugcon),       T(test_debugexit),     T(test_debugexit_place),
		T(test_port80),         T(test_testdev_ports), T(test_testdev_lines),
		T(test_testdev_memory),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
