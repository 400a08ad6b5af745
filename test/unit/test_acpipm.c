// SPDX-License-Identifier: MIT
/* ACPI fixed hardware against ACPI 6.5, 4.8.3. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "devtest.h"
#include "dev/acpipm.h"

#define STS 0x600
#define EN  0x602
#define CNT 0x604
#define TMR 0x608
#define GPE 0x620

struct st {
	struct devtest t;
	struct acpipm *a;
	unsigned offs, resets;
};

static void on_off(void *arg)
{
	struct st *st = arg;

	st->offs++;
}
static void on_reset(void *arg)
{
	struct st *st = arg;

	st->resets++;
}

static int make(void **state, struct acpipm_config cfg)
{
	struct st *st = calloc(1, sizeof(*st));

	cfg.poweroff = on_off;
	cfg.reset = on_reset;
	cfg.arg = st;
	devtest_init(&st->t, 0);
	if (acpipm_create(&st->a, &st->t.env, &cfg))
		return -1;
	*state = st;
	return 0;
}

static int setup(void **state)
{
	return make(state, (struct acpipm_config){0});
}
static int setup32(void **state)
{
	return make(state, (struct acpipm_config){.timer32 = true, .iobase = 0xb000, .sci = 11});
}

static int teardown(void **state)
{
	struct st *st = *state;

	devtest_fini(&st->t);
	free(st);
	return 0;
}

static void test_enable(void **state)
{
	struct st *st = *state;

	assert_int_equal(inw(&st->t, CNT), 0);
	outw(&st->t, CNT, 1); /* the OS can't set SCI_EN itself */
	assert_int_equal(inw(&st->t, CNT), 0);
	outb(&st->t, 0xb2, ACPIPM_ENABLE);
	assert_int_equal(inw(&st->t, CNT), 1);
	outw(&st->t, CNT, 0); /* nor clear it */
	assert_int_equal(inw(&st->t, CNT), 1);
	outb(&st->t, 0xb2, ACPIPM_DISABLE);
	assert_int_equal(inw(&st->t, CNT), 0);
	outb(&st->t, 0xb3, 0x5a);
	assert_int_equal(inb(&st->t, 0xb3), 0x5a);
	outb(&st->t, 0xb2, 0x77);
	assert_int_equal(inw(&st->t, CNT), 0);
}

static void test_power_button(void **state)
{
	struct st *st = *state;

	assert_false(acpipm_power_button(st->a)); /* nobody listens */
	assert_int_equal(inw(&st->t, STS), 0x100);
	outw(&st->t, STS, 0xfeff); /* ones clear; this is none for it */
	assert_int_equal(inw(&st->t, STS), 0x100);
	outw(&st->t, STS, 0x100);
	assert_int_equal(inw(&st->t, STS), 0);

	outb(&st->t, 0xb2, ACPIPM_ENABLE);
	outw(&st->t, EN, 0x0100);
	assert_int_equal(inw(&st->t, EN), 0x0100);
	assert_false(st->t.irq.level[9]);
	assert_true(acpipm_power_button(st->a));
	assert_true(st->t.irq.level[9]);
	assert_true(acpipm_power_button(st->a)); /* level: it stays */
	assert_int_equal(st->t.irq.count[9], 1);
	outb(&st->t, STS + 1, 0x01); /* bytes work as well */
	assert_false(st->t.irq.level[9]);
	/* status first, enable later */
	outw(&st->t, EN, 0);
	acpipm_power_button(st->a);
	assert_false(st->t.irq.level[9]);
	outl(&st->t, STS, 0x01000000);
	assert_true(st->t.irq.level[9]);
	outb(&st->t, 0xb2, ACPIPM_DISABLE);
	assert_false(st->t.irq.level[9]);
	/* reserved bits of enable */
	outw(&st->t, EN, 0xffff);
	assert_int_equal(inw(&st->t, EN), 0x0721);
}

static void test_sleep(void **state)
{
	struct st *st = *state;

	outw(&st->t, CNT, ACPIPM_SLP_TYP_S5 << 10); /* type alone does nothing */
	assert_int_equal(st->offs, 0);
	assert_int_equal(inw(&st->t, CNT), ACPIPM_SLP_TYP_S5 << 10);
	outw(&st->t, CNT, 1 << 10 | 1 << 13); /* S3 is not offered */
	assert_int_equal(st->offs, 0);
	outw(&st->t, CNT, ACPIPM_SLP_TYP_S5 << 10 | 1 << 13);
	assert_int_equal(st->offs, 1);
	assert_int_equal(inw(&st->t, CNT), ACPIPM_SLP_TYP_S5 << 10); /* SLP_EN reads 0 */
	outb(&st->t, CNT + 1, (ACPIPM_SLP_TYP_S5 << 10 | 1 << 13) >> 8);
	assert_int_equal(st->offs, 2);
}

static void test_timer(void **state)
{
	struct st *st = *state;
	u64 t0 = loop_now(st->t.loop), v0, v1, t1, ticks;

	v0 = inl(&st->t, TMR);
	while (loop_now(st->t.loop) < t0 + 20000000)
		;
	v1 = inl(&st->t, TMR);
	t1 = loop_now(st->t.loop);
	ticks = (v1 - v0) & 0xffffff;
	assert_int_equal(v0 >> 24, 0);
	assert_true(ticks >= 20000000ull * 3579545 / NSEC_PER_SEC - 5000);
	assert_true(ticks <= (t1 - t0) * 3579545 / NSEC_PER_SEC + 2);
	outl(&st->t, TMR, 0); /* read-only */
	assert_true(((inl(&st->t, TMR) - v1) & 0xffffff) < 3579545);
	/* it stands while the VM does */
	loop_clock_stop(st->t.loop);
	v0 = inl(&st->t, TMR);
	assert_int_equal(inl(&st->t, TMR), v0);
	assert_int_equal(inb(&st->t, TMR + 1), v0 >> 8 & 0xff);
	loop_clock_start(st->t.loop);
}

static void stop_on_sci(void *loop, unsigned n, bool level)
{
	if (n == 9 && level)
		loop_stop(loop);
}

static void test_timer_carry(void **state)
{
	struct st *st = *state;

	st->t.irq.sink[st->t.irq.nr_sinks++] = (struct irq_sink){stop_on_sci, st->t.loop};
	outb(&st->t, 0xb2, ACPIPM_ENABLE);
	outw(&st->t, STS, 1);
	outw(&st->t, EN, 1);
	assert_false(inl(&st->t, STS) & 1);
	/* 2^23 ticks are 2.34 s */
	assert_true(devtest_run(&st->t, 3 * NSEC_PER_SEC));
	assert_int_equal(inw(&st->t, STS) & 1, 1);
	assert_true((inl(&st->t, TMR) & 0x7fffff) < 3579545 / 2); /* the carry was just now */
	outw(&st->t, STS, 1);
	assert_false(st->t.irq.level[9]);
}

static void test_timer32(void **state)
{
	struct st *st = *state;
	u64 now = loop_now(st->t.loop);
	u32 v = inl(&st->t, 0xb008);

	assert_true(v - (u32)(now / 1000 * 3579545 / 1000000) < 357954);
	outb(&st->t, 0xb2, ACPIPM_ENABLE);
	outw(&st->t, 0xb002, 0x100);
	acpipm_power_button(st->a);
	assert_true(st->t.irq.level[11]);
	assert_int_equal(inw(&st->t, STS), 0xffff); /* nothing at the usual place */
}

static void test_gpe(void **state)
{
	struct st *st = *state;

	outb(&st->t, 0xb2, ACPIPM_ENABLE);
	acpipm_gpe(st->a, 9);
	assert_int_equal(inl(&st->t, GPE), 1 << 9);
	assert_false(st->t.irq.level[9]);
	outb(&st->t, GPE + 5, 0x02);
	assert_int_equal(inl(&st->t, GPE + 4), 1 << 9);
	assert_true(st->t.irq.level[9]);
	outb(&st->t, GPE + 1, 0x02);
	assert_false(st->t.irq.level[9]);
	assert_int_equal(inl(&st->t, GPE), 0);
	assert_int_equal(inb(&st->t, 0x60c), 0); /* between the blocks */
	assert_int_equal(inb(&st->t, 0x63f), 0);
}

static void test_reset_register(void **state)
{
	struct st *st = *state;

	outb(&st->t, 0xcf9, 0x02);
	assert_int_equal(st->resets, 0);
	assert_int_equal(inb(&st->t, 0xcf9), 0x02);
	outb(&st->t, 0xcf9, ACPIPM_RESET_VALUE);
	assert_int_equal(st->resets, 1);
	outb(&st->t, 0xcf9, 0x0e); /* the edge counts */
	assert_int_equal(st->resets, 1);
	outb(&st->t, 0xcf9, 0x00);
	outb(&st->t, 0xcf9, 0x0e);
	assert_int_equal(st->resets, 2);
	/* a PCI configuration address with such a byte in it is no reset */
	st->t.devices->ops->reset(st->t.devices);
	outl(&st->t, 0xcf8, 0x80000600);
	assert_int_equal(st->resets, 2);
	assert_int_equal(inl(&st->t, 0xcf8), 0xffffffff);
	outb(&st->t, 0xcfb, 0x01);
	assert_int_equal(st->resets, 2);
}

static void test_machine_reset(void **state)
{
	struct st *st = *state;

	outb(&st->t, 0xb2, ACPIPM_ENABLE);
	outw(&st->t, EN, 0x100);
	acpipm_power_button(st->a);
	st->t.devices->ops->reset(st->t.devices);
	assert_false(st->t.irq.level[9]);
	assert_int_equal(inl(&st->t, STS), 0);
	assert_int_equal(inw(&st->t, CNT), 0);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_enable),
		T(test_power_button),
		T(test_sleep),
		T(test_timer),
		T(test_timer_carry),
		cmocka_unit_test_setup_teardown(test_timer32, setup32, teardown),
		T(test_gpe),
		T(test_reset_register),
		T(test_machine_reset),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
