// SPDX-License-Identifier: MIT
/* The keyboard controller against the AT's technical reference, and the probes of Linux and
 * SeaBIOS. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "devtest.h"
#include "dev/i8042.h"

struct st {
	struct devtest t;
	unsigned resets, a20_moves;
	bool a20;
};

static void on_reset(void *arg)
{
	struct st *st = arg;

	st->resets++;
}

static void on_a20(void *arg, bool open)
{
	struct st *st = arg;

	st->a20_moves++;
	st->a20 = open;
}

static int setup(void **state)
{
	struct st *st = calloc(1, sizeof(*st));
	struct i8042 *k;
	struct i8042_config cfg = {on_reset, on_a20, st};

	devtest_init(&st->t, 0);
	st->a20 = true;
	if (i8042_create(&k, &st->t.env, &cfg))
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

static u8 cmd(struct st *st, u8 c)
{
	outb(&st->t, 0x64, c);
	assert_int_equal(inb(&st->t, 0x64) & 0x03, 0x01);
	return inb(&st->t, 0x60);
}
static void cmd_data(struct st *st, u8 c, u8 d)
{
	outb(&st->t, 0x64, c);
	assert_int_equal(inb(&st->t, 0x64) & 0x0b, 0x08); /* CMD, nothing to read, ready */
	outb(&st->t, 0x60, d);
}

static void test_self_test(void **state)
{
	struct st *st = *state;

	assert_int_equal(inb(&st->t, 0x64), 0x14); /* SYS, not locked, buffers empty */
	assert_int_equal(cmd(st, 0xaa), 0x55);
	assert_int_equal(inb(&st->t, 0x64) & 1, 0);
	assert_int_equal(cmd(st, 0x20) & 0x30, 0x30); /* ports off after it */
	assert_int_equal(cmd(st, 0xab), 1);           /* no keyboard */
	assert_int_equal(cmd(st, 0xa9), 1);           /* no second port */
	assert_int_equal(cmd(st, 0xc0) & 0x80, 0x80);
}

static void test_command_byte(void **state)
{
	struct st *st = *state;

	cmd_data(st, 0x60, 0x65);
	assert_int_equal(cmd(st, 0x20), 0x65);
	outb(&st->t, 0x64, 0xad);
	assert_int_equal(cmd(st, 0x20), 0x75);
	outb(&st->t, 0x64, 0xae);
	assert_int_equal(cmd(st, 0x20), 0x65);
	cmd_data(st, 0x65, 0x12); /* the rest of its memory */
	assert_int_equal(cmd(st, 0x25), 0x12);
	cmd_data(st, 0x60, 0x00);
	assert_int_equal(inb(&st->t, 0x64) & 0x04, 0); /* SYS follows the command byte */
}

static void test_interrupt(void **state)
{
	struct st *st = *state;

	cmd_data(st, 0xd2, 0x1c);
	assert_false(st->t.irq.level[1]);
	assert_int_equal(inb(&st->t, 0x60), 0x1c);
	cmd_data(st, 0x60, 0x01);
	cmd_data(st, 0xd2, 0x1d);
	assert_true(st->t.irq.level[1]);
	assert_int_equal(inb(&st->t, 0x60), 0x1d);
	assert_false(st->t.irq.level[1]);
}

static void test_no_keyboard(void **state)
{
	struct st *st = *state;

	outb(&st->t, 0x60, 0xff); /* reset the keyboard: nobody takes it */
	assert_int_equal(inb(&st->t, 0x64) & 0x49, 0x41);
	assert_int_equal(inb(&st->t, 0x60), 0xfe);
	assert_int_equal(inb(&st->t, 0x64) & 0x41, 0);
	cmd_data(st, 0xd4, 0xf2); /* nor the mouse */
	assert_int_equal(inb(&st->t, 0x64) & 0x41, 0x41);
	assert_int_equal(inb(&st->t, 0x60), 0xfe);
	cmd_data(st, 0xd3, 0x5a); /* Linux' AUX loop: not marked as the second port's */
	assert_int_equal(inb(&st->t, 0x64) & 0x21, 0x01);
	assert_int_equal(inb(&st->t, 0x60), 0x5a);
}

static void test_a20(void **state)
{
	struct st *st = *state;

	assert_int_equal(inb(&st->t, 0x92), 0x02);
	assert_int_equal(cmd(st, 0xd0) & 0x03, 0x03);
	cmd_data(st, 0xd1, 0xdd);
	assert_false(st->a20);
	assert_int_equal(inb(&st->t, 0x92), 0);
	assert_int_equal(cmd(st, 0xd0) & 0x02, 0);
	outb(&st->t, 0x92, 0x02);
	assert_true(st->a20);
	cmd_data(st, 0xd1, 0xdf);
	assert_int_equal(st->a20_moves, 2);
	outb(&st->t, 0x64, 0xdd);
	assert_false(st->a20);
	outb(&st->t, 0x64, 0xdf);
	assert_true(st->a20);
	outb(&st->t, 0x92, 0x00);
	st->t.devices->ops->reset(st->t.devices);
	assert_true(st->a20);
	assert_int_equal(inb(&st->t, 0x92), 0x02);
	assert_int_equal(st->resets, 0);
}

static void test_reset_line(void **state)
{
	struct st *st = *state;

	outb(&st->t, 0x64, 0xff); /* pulses nothing */
	outb(&st->t, 0x64, 0xfd);
	assert_int_equal(st->resets, 0);
	outb(&st->t, 0x64, 0xfe);
	assert_int_equal(st->resets, 1);
	cmd_data(st, 0xd1, 0xdf);
	assert_int_equal(st->resets, 1);
	cmd_data(st, 0xd1, 0xde);
	assert_int_equal(st->resets, 2);
	outb(&st->t, 0x92, 0x03);
	assert_int_equal(st->resets, 3);
	outb(&st->t, 0x92, 0x03); /* the edge counts */
	assert_int_equal(st->resets, 3);
	assert_int_equal(inb(&st->t, 0x92) & 1, 1);
	outb(&st->t, 0x92, 0x02);
	outb(&st->t, 0x92, 0x03);
	assert_int_equal(st->resets, 4);
}

static void test_unknown(void **state)
{
	struct st *st = *state;

	for (unsigned c = 0; c < 0x20; c++)
		outb(&st->t, 0x64, (u8)c);
	assert_int_equal(inb(&st->t, 0x64) & 1, 0);
	assert_int_equal(inb(&st->t, 0x61), 0xff); /* between its ports: not ours */
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_self_test), T(test_command_byte), T(test_interrupt), T(test_no_keyboard),
		T(test_a20),       T(test_reset_line),   T(test_unknown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
