// SPDX-License-Identifier: MIT
/* The clock against the MC146818A data sheet, at a wall time that the test sets. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <time.h>

#include "devtest.h"
#include "dev/rtc.h"

#define MS 1000000ull
/* Tue 2024-02-27 23:59:58 UTC, the leap year's last days but two */
#define T0 1709078398ull

struct st {
	struct devtest t;
	struct rtc *r;
	u64 now;
	bool real; /* now runs with the monotonic clock */
	u64 base;
};

static u64 mono(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (u64)ts.tv_sec * NSEC_PER_SEC + (u64)ts.tv_nsec;
}

static u64 test_clock(void *arg)
{
	struct st *st = arg;

	return st->real ? st->now + mono() - st->base : st->now;
}

static void run_real(struct st *st)
{
	st->base = mono();
	st->real = true;
}

static int setup(void **state)
{
	struct st *st = calloc(1, sizeof(*st));
	struct rtc_config cfg = {.nr_vcpus = 4, .clock = test_clock, .clock_arg = st};

	devtest_init(&st->t, 64 * MiB);
	st->now = T0 * NSEC_PER_SEC;
	if (rtc_create(&st->r, &st->t.env, &cfg))
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

static u8 rd(struct st *st, u8 reg)
{
	outb(&st->t, 0x70, reg);
	return inb(&st->t, 0x71);
}
static void wr(struct st *st, u8 reg, u8 v)
{
	outb(&st->t, 0x70, reg);
	outb(&st->t, 0x71, v);
}

static void expect_time(struct st *st, u8 cent, u8 y, u8 mo, u8 d, u8 wd, u8 h, u8 mi, u8 s)
{
	assert_int_equal(rd(st, 0x32), cent);
	assert_int_equal(rd(st, 9), y);
	assert_int_equal(rd(st, 8), mo);
	assert_int_equal(rd(st, 7), d);
	assert_int_equal(rd(st, 6), wd);
	assert_int_equal(rd(st, 4), h);
	assert_int_equal(rd(st, 2), mi);
	assert_int_equal(rd(st, 0), s);
}

static void test_time(void **state)
{
	struct st *st = *state;

	assert_int_equal(rd(st, 10), 0x26);
	assert_int_equal(rd(st, 11), 0x02);
	assert_int_equal(rd(st, 13), 0x80);
	expect_time(st, 0x20, 0x24, 0x02, 0x27, 3, 0x23, 0x59, 0x58);
	st->now += 2 * NSEC_PER_SEC;
	expect_time(st, 0x20, 0x24, 0x02, 0x28, 4, 0x00, 0x00, 0x00);
	st->now += 86400 * NSEC_PER_SEC;
	expect_time(st, 0x20, 0x24, 0x02, 0x29, 5, 0x00, 0x00, 0x00);
	st->now += 86400 * NSEC_PER_SEC;
	expect_time(st, 0x20, 0x24, 0x03, 0x01, 6, 0x00, 0x00, 0x00);
}

static void test_formats(void **state)
{
	struct st *st = *state;

	wr(st, 11, 0x06); /* binary, 24 h */
	expect_time(st, 20, 24, 2, 27, 3, 23, 59, 58);
	wr(st, 11, 0x04); /* binary, 12 h */
	assert_int_equal(rd(st, 4), 0x80 | 11);
	wr(st, 11, 0x00); /* BCD, 12 h */
	assert_int_equal(rd(st, 4), 0x91);
	st->now += 3 * NSEC_PER_SEC;
	assert_int_equal(rd(st, 4), 0x12); /* midnight */
	st->now += 12 * 3600 * NSEC_PER_SEC;
	assert_int_equal(rd(st, 4), 0x92); /* noon */
	wr(st, 4, 0x81);                   /* 1 pm */
	wr(st, 11, 0x02);
	assert_int_equal(rd(st, 4), 0x13);
}

/* As Linux sets it: SET, divider reset, fields, SET off, divider on. */
static void test_set(void **state)
{
	struct st *st = *state;

	st->now += 700 * MS;
	wr(st, 11, 0x82);
	wr(st, 10, 0x76);
	wr(st, 9, 0x99);
	wr(st, 0x32, 0x19);
	wr(st, 8, 0x12);
	wr(st, 7, 0x31);
	wr(st, 6, 0x06);
	wr(st, 4, 0x23);
	wr(st, 2, 0x59);
	wr(st, 0, 0x59);
	st->now += 5 * NSEC_PER_SEC; /* it stands */
	assert_int_equal(rd(st, 0), 0x59);
	wr(st, 11, 0x02);
	wr(st, 10, 0x26);
	expect_time(st, 0x19, 0x99, 0x12, 0x31, 6, 0x23, 0x59, 0x59);
	st->now += 499 * MS;
	assert_int_equal(rd(st, 0), 0x59);
	st->now += 1 * MS; /* the first update is half a second after the divider starts */
	expect_time(st, 0x20, 0x00, 0x01, 0x01, 7, 0x00, 0x00, 0x00);
	st->now += 999 * MS;
	assert_int_equal(rd(st, 0), 0x00);
	/* without the divider the fraction stays */
	wr(st, 11, 0x82);
	wr(st, 0, 0x30);
	wr(st, 11, 0x02);
	assert_int_equal(rd(st, 0), 0x30);
	st->now += 1 * MS;
	assert_int_equal(rd(st, 0), 0x31);
	/* the time survives a reset */
	st->t.devices->ops->reset(st->t.devices);
	assert_int_equal(rd(st, 0), 0x31);
	/* nonsense does not hurt */
	wr(st, 11, 0x82);
	for (u8 i = 0; i < 10; i++)
		wr(st, i, 0xff);
	wr(st, 0x32, 0xff);
	wr(st, 11, 0x02);
	rd(st, 0);
	st->now += 100 * NSEC_PER_SEC;
	rd(st, 0);
}

static void test_uip(void **state)
{
	struct st *st = *state;

	st->now += 500 * MS;
	assert_int_equal(rd(st, 10) & 0x80, 0);
	st->now += 499 * MS + 500000;
	assert_int_equal(rd(st, 10) & 0x80, 0x80);
	wr(st, 11, 0x82); /* SET aborts the update */
	assert_int_equal(rd(st, 10) & 0x80, 0);
	wr(st, 11, 0x02);
	st->now += 500000;
	assert_int_equal(rd(st, 10) & 0x80, 0);
}

static void test_flags_polled(void **state)
{
	struct st *st = *state;

	assert_int_equal(rd(st, 12), 0);
	st->now += 1 * MS; /* 1024 Hz */
	assert_int_equal(rd(st, 12), 0x40);
	assert_int_equal(rd(st, 12), 0);
	wr(st, 10, 0x20); /* no periodic rate */
	st->now += 998 * MS;
	assert_int_equal(rd(st, 12), 0);
	st->now += 1 * MS;
	assert_int_equal(rd(st, 12), 0x10);
	wr(st, 5, 0x00);
	wr(st, 3, 0x00);
	wr(st, 1, 0x05);
	st->now += 5 * NSEC_PER_SEC; /* 00:00:04 */
	assert_int_equal(rd(st, 12), 0x10);
	st->now += 1 * NSEC_PER_SEC;
	assert_int_equal(rd(st, 12), 0x30);
	st->now += 86400 * NSEC_PER_SEC;
	assert_int_equal(rd(st, 12), 0x30);
	wr(st, 1, 0xc0); /* every second of minute 0 */
	st->now += 1 * NSEC_PER_SEC;
	assert_int_equal(rd(st, 12), 0x30);
	st->now += 60 * NSEC_PER_SEC;
	rd(st, 12);
	st->now += 1 * NSEC_PER_SEC;
	assert_int_equal(rd(st, 12), 0x10);
	wr(st, 1, 0x99); /* never */
	st->now += 2 * 86400 * NSEC_PER_SEC;
	assert_int_equal(rd(st, 12), 0x10);
	assert_int_equal(st->t.irq.count[8], 0);
}

static void stop_on_irq8(void *loop, unsigned n, bool level)
{
	if (n == 8 && level)
		loop_stop(loop);
}

static void watch_irq8(struct st *st)
{
	st->t.irq.sink[st->t.irq.nr_sinks++] = (struct irq_sink){stop_on_irq8, st->t.loop};
}

static void test_periodic_interrupt(void **state)
{
	struct st *st = *state;
	u64 start;

	watch_irq8(st);
	run_real(st);
	wr(st, 10, 0x2c); /* 16 Hz: 62.5 ms */
	rd(st, 12);
	start = mono();
	wr(st, 11, 0x42);
	assert_true(devtest_run(&st->t, 2 * NSEC_PER_SEC));
	assert_true(mono() - start >= 61 * MS);
	assert_true(mono() - start < 500 * MS);
	assert_true(st->t.irq.level[8]);
	assert_int_equal(rd(st, 12) & 0xc0, 0xc0);
	assert_false(st->t.irq.level[8]);
}

static void test_periodic_needs_read(void **state)
{
	struct st *st = *state;

	run_real(st);
	rd(st, 12);
	wr(st, 10, 0x23); /* 8192 Hz */
	wr(st, 11, 0x42);
	assert_false(devtest_run(&st->t, 20 * MS));
	assert_int_equal(st->t.irq.count[8], 1); /* register C was not read */
	assert_int_equal(rd(st, 12), 0xc0);
}

static void test_update_interrupt(void **state)
{
	struct st *st = *state;

	watch_irq8(st);
	st->now += 950 * MS;
	run_real(st);
	wr(st, 11, 0x12);
	assert_false(st->t.irq.level[8]);
	assert_true(devtest_run(&st->t, 2 * NSEC_PER_SEC));
	assert_true(mono() - st->base >= 50 * MS);
	assert_int_equal(rd(st, 0), 0x59);
	assert_int_equal(rd(st, 12) & 0x90, 0x90);
	wr(st, 11, 0x92); /* SET clears UIE */
	assert_int_equal(rd(st, 11), 0x82);
}

static void test_alarm_interrupt(void **state)
{
	struct st *st = *state;

	watch_irq8(st);
	st->now += 1980 * MS; /* 20 ms before midnight */
	run_real(st);
	wr(st, 5, 0x00);
	wr(st, 3, 0x00);
	wr(st, 1, 0x00);
	rd(st, 12);
	wr(st, 11, 0x22);
	assert_true(devtest_run(&st->t, 2 * NSEC_PER_SEC));
	assert_int_equal(rd(st, 7), 0x28);
	assert_int_equal(rd(st, 12) & 0xa0, 0xa0);
}

static void test_enable_after_event(void **state)
{
	struct st *st = *state;

	st->now += 1 * NSEC_PER_SEC;
	wr(st, 11, 0x12); /* UF is set already: an interrupt at once */
	assert_true(st->t.irq.level[8]);
	st->t.devices->ops->reset(st->t.devices);
	assert_false(st->t.irq.level[8]);
	assert_int_equal(rd(st, 11), 0x02);
	assert_int_equal(rd(st, 12), 0);
}

static void test_nvram(void **state)
{
	struct st *st = *state;

	assert_int_equal(rd(st, 0x15) | rd(st, 0x16) << 8, 640);
	assert_int_equal(rd(st, 0x17) | rd(st, 0x18) << 8, 63 * 1024);
	assert_int_equal(rd(st, 0x30) | rd(st, 0x31) << 8, 63 * 1024);
	assert_int_equal(rd(st, 0x34) | rd(st, 0x35) << 8, 48 * 16);
	assert_int_equal(rd(st, 0x5b) | rd(st, 0x5c) | rd(st, 0x5d), 0);
	assert_int_equal(rd(st, 0x5f), 3);
	wr(st, 0x8f, 0x0a); /* bit 7 is the NMI mask */
	assert_int_equal(rd(st, 0x0f), 0x0a);
	assert_int_equal(rtc_nvram_get(st->r, RTC_SHUTDOWN), 0x0a);
	st->t.devices->ops->reset(st->t.devices);
	assert_int_equal(rd(st, 0x0f), 0x0a);
	rtc_nvram_set(st->r, 0x3d, 0x21);
	assert_int_equal(rd(st, 0x3d), 0x21);
	assert_int_equal(inb(&st->t, 0x70), 0xff);
	wr(st, 13, 0);
	assert_int_equal(rd(st, 13), 0x80);
	/* both ports with one word */
	outw(&st->t, 0x70, 0x5a3e);
	assert_int_equal(rd(st, 0x3e), 0x5a);
}

static void test_big_memory(void **state)
{
	struct devtest t;
	struct rtc *r;
	struct rtc_config cfg = {0};

	devtest_init(&t, 5 * GiB);
	assert_int_equal(rtc_create(&r, &t.env, &cfg), 0);
	assert_int_equal(rtc_nvram_get(r, 0x17) | rtc_nvram_get(r, 0x18) << 8, 0xffff);
	assert_int_equal(rtc_nvram_get(r, 0x34) | rtc_nvram_get(r, 0x35) << 8, (3072 - 16) * 16);
	assert_int_equal(rtc_nvram_get(r, 0x5b) | rtc_nvram_get(r, 0x5c) << 8, 2048 * 16);
	devtest_fini(&t);
}

static void test_host_clock(void **state)
{
	struct devtest t;
	struct rtc *r;
	struct rtc_config cfg = {.localtime = true};
	time_t before, after;
	struct tm tm;
	u8 h, m;

	setenv("TZ", "XYZ-5:30", 1);
	tzset();
	devtest_init(&t, 0);
	assert_int_equal(rtc_create(&r, &t.env, &cfg), 0);
	do { /* not across a minute */
		before = time(NULL);
		outb(&t, 0x70, 4);
		h = inb(&t, 0x71);
		outb(&t, 0x70, 2);
		m = inb(&t, 0x71);
		after = time(NULL);
	} while (before / 60 != after / 60);
	before += 5 * 3600 + 30 * 60;
	gmtime_r(&before, &tm);
	assert_int_equal(h, tm.tm_hour / 10 << 4 | tm.tm_hour % 10);
	assert_int_equal(m, tm.tm_min / 10 << 4 | tm.tm_min % 10);
	devtest_fini(&t);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_time),
		T(test_formats),
		T(test_set),
		T(test_uip),
		T(test_flags_polled),
		T(test_periodic_interrupt),
		T(test_periodic_needs_read),
		T(test_update_interrupt),
		T(test_alarm_interrupt),
		T(test_enable_after_event),
		T(test_nvram),
		cmocka_unit_test(test_big_memory),
		cmocka_unit_test(test_host_clock),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
