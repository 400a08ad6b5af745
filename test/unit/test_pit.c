// SPDX-License-Identifier: MIT
/* The timer against the 8254 data sheet, on a clock that the test moves tick by tick; and
 * once in real time. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "devtest.h"
#include "dev/pit.h"

struct st {
	struct devtest t;
	struct pit *pit;
	u64 ticks; /* of the PIT clock since the clock was stopped; we stand in the middle of one */
	u64 t0;    /* tick at that time */
	u64 now;   /* virtual ns */
	unsigned irqs;
	bool line;
	u64 irq_ns; /* time of the last */
};

static void on_irq(void *dev, unsigned n, bool level)
{
	struct st *st = dev;

	assert_int_equal(n, 0);
	if (level && !st->line) {
		st->irqs++;
		st->irq_ns = loop_now(st->t.loop);
	}
	st->line = level;
}

/* The middle of tick k. */
static u64 ns_at(u64 k)
{
	return (u64)(((unsigned __int128)(2 * k + 1) * NSEC_PER_SEC) / (2 * PIT_HZ)) + 1;
}

static void go(struct st *st, u64 ticks)
{
	u64 to;

	st->ticks += ticks;
	to = ns_at(st->t0 + st->ticks);
	loop_clock_step(st->t.loop, to - st->now);
	st->now = to;
}

static int setup(void **state)
{
	struct st *st = calloc(1, sizeof(*st));

	devtest_init(&st->t, 0);
	st->t.irq.sink[st->t.irq.nr_sinks++] = (struct irq_sink){on_irq, st};
	if (pit_create(&st->pit, &st->t.env))
		return -1;
	loop_clock_stop(st->t.loop);
	st->now = loop_now(st->t.loop);
	st->t0 = (u64)((unsigned __int128)st->now * PIT_HZ / NSEC_PER_SEC) + 2;
	go(st, 0);
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

static void cw(struct st *st, unsigned ch, unsigned mode, bool bcd)
{
	outb(&st->t, 0x43, (u8)(ch << 6 | 0x30 | mode << 1 | bcd));
}

static void put(struct st *st, unsigned ch, u16 n)
{
	outb(&st->t, (u16)(0x40 + ch), (u8)n);
	outb(&st->t, (u16)(0x40 + ch), (u8)(n >> 8));
}

static u16 get(struct st *st, unsigned ch)
{
	u8 lo = inb(&st->t, (u16)(0x40 + ch));

	return (u16)(lo | inb(&st->t, (u16)(0x40 + ch)) << 8);
}

static u16 latched(struct st *st, unsigned ch)
{
	outb(&st->t, 0x43, (u8)(ch << 6));
	return get(st, ch);
}

static u8 status(struct st *st, unsigned ch)
{
	outb(&st->t, 0x43, (u8)(0xe0 | 2 << ch));
	return inb(&st->t, (u16)(0x40 + ch));
}

static bool out(struct st *st, unsigned ch)
{
	return status(st, ch) >> 7;
}

static void gate(struct st *st, bool on)
{
	outb(&st->t, 0x61, on);
}

/* OUT of a counter over the next `n` ticks, as a string. */
static void wave(struct st *st, unsigned ch, unsigned n, char *buf)
{
	for (unsigned i = 0; i < n; i++) {
		buf[i] = out(st, ch) ? '1' : '0';
		go(st, 1);
	}
	buf[n] = 0;
}
#define assert_wave(st, ch, want)                                                                  \
	do {                                                                                       \
		char got[128];                                                                     \
		wave(st, ch, sizeof(want) - 1, got);                                               \
		assert_string_equal(got, want);                                                    \
	} while (0)

static void test_unprogrammed(void **state)
{
	struct st *st = *state;

	assert_int_equal(inb(&st->t, 0x40), 0xff);
	outb(&st->t, 0x40, 5);
	go(st, 100000);
	assert_int_equal(st->irqs, 0);
	assert_int_equal(inb(&st->t, 0x43), 0xff);
}

static void test_mode0(void **state)
{
	struct st *st = *state;

	cw(st, 0, 0, false);
	assert_false(out(st, 0));
	assert_int_equal(status(st, 0), 0x70); /* OUT low, null count, both bytes, mode 0 */
	put(st, 0, 4);
	/* CE gets the count on the next clock; OUT rises N + 1 clocks after the write. */
	assert_int_equal(status(st, 0), 0x70);
	assert_wave(st, 0, "0000011");
	assert_int_equal(st->irqs, 1);
	assert_int_equal(status(st, 0), 0xb0);
	assert_int_equal(latched(st, 0), 0xfffe); /* goes on below 0 */
	go(st, 200000);
	assert_int_equal(st->irqs, 1);
	/* A new count: OUT low again, one more interrupt. */
	put(st, 0, 1000);
	assert_false(st->line);
	go(st, 500);
	assert_int_equal(latched(st, 0), 501);
	/* The first of two bytes stops the counter. */
	outb(&st->t, 0x40, 3);
	go(st, 5000);
	assert_int_equal(st->irqs, 1);
	outb(&st->t, 0x40, 0);
	go(st, 3);
	assert_int_equal(st->irqs, 1);
	go(st, 1);
	assert_int_equal(st->irqs, 2);
	/* A control word stops it. */
	put(st, 0, 100);
	cw(st, 0, 0, false);
	go(st, 1000);
	assert_int_equal(st->irqs, 2);
}

static void test_mode0_gate(void **state)
{
	struct st *st = *state;

	gate(st, true);
	cw(st, 2, 0, false);
	put(st, 2, 10);
	go(st, 5);
	assert_int_equal(latched(st, 2), 6);
	gate(st, false);
	go(st, 50);
	assert_int_equal(latched(st, 2), 6);
	assert_false(inb(&st->t, 0x61) & 0x20);
	gate(st, true);
	go(st, 5);
	assert_int_equal(latched(st, 2), 1);
	assert_false(inb(&st->t, 0x61) & 0x20);
	go(st, 1);
	assert_true(inb(&st->t, 0x61) & 0x20);
	/* Written with the gate shut it is loaded but does not count; N clocks after it opens. */
	gate(st, false);
	put(st, 2, 5);
	go(st, 20);
	assert_int_equal(latched(st, 2), 5);
	gate(st, true);
	assert_wave(st, 2, "000001");
}

static void test_mode1(void **state)
{
	struct st *st = *state;

	cw(st, 2, 1, false);
	assert_true(out(st, 2));
	put(st, 2, 3);
	assert_wave(st, 2, "1111"); /* waits for the trigger */
	assert_int_equal(status(st, 2) & 0x40, 0x40);
	gate(st, true);
	assert_wave(st, 2, "0000111");
	gate(st, false);
	gate(st, true);
	go(st, 2);
	gate(st, false); /* the gate's level does not matter */
	gate(st, true);  /* retriggered */
	assert_wave(st, 2, "0000111");
	/* A new count is for the next trigger. */
	gate(st, false);
	gate(st, true);
	go(st, 1);
	put(st, 2, 6);
	assert_int_equal(status(st, 2) & 0x40, 0x40);
	assert_wave(st, 2, "000111");
	gate(st, false);
	gate(st, true);
	assert_wave(st, 2, "00000001");
	assert_int_equal(status(st, 2) & 0x40, 0);
}

static void test_mode2(void **state)
{
	struct st *st = *state;

	gate(st, true);
	cw(st, 2, 2, false);
	assert_true(out(st, 2));
	put(st, 2, 3);
	assert_wave(st, 2, "1110110110");
	/* A new count from the next period. */
	put(st, 2, 5);
	assert_wave(st, 2, "11011110");
	assert_int_equal(latched(st, 2), 5);
	go(st, 4);
	assert_int_equal(latched(st, 2), 1);
	/* Gate low: OUT high at once, reloaded when it rises. */
	assert_false(out(st, 2));
	gate(st, false);
	assert_wave(st, 2, "11111111");
	gate(st, true);
	assert_wave(st, 2, "11111011110");
	/* A count written while the gate is shut. */
	gate(st, false);
	put(st, 2, 2);
	gate(st, true);
	assert_wave(st, 2, "1101010");
}

static void test_mode3(void **state)
{
	struct st *st = *state;

	gate(st, true);
	cw(st, 2, 3, false);
	put(st, 2, 4);
	go(st, 1);
	assert_wave(st, 2, "110011001100");
	cw(st, 2, 3, false);
	put(st, 2, 5);
	go(st, 1);
	assert_wave(st, 2, "111001110011100");
	/* Odd: 4 2 0 high, 4 2 low. */
	assert_int_equal(latched(st, 2), 4);
	go(st, 1);
	assert_int_equal(latched(st, 2), 2);
	go(st, 1);
	assert_int_equal(latched(st, 2), 0);
	go(st, 1);
	assert_int_equal(latched(st, 2), 4);
	assert_false(out(st, 2));
	go(st, 1);
	assert_int_equal(latched(st, 2), 2);
	go(st, 1);
	/* A new count from the next half. */
	put(st, 2, 8);
	assert_wave(st, 2, "1110000111100001");
	cw(st, 2, 7, false); /* x11 is mode 3 */
	assert_int_equal(status(st, 2) & 0xe, 6);
	/* The gate. */
	put(st, 2, 4);
	go(st, 4);
	assert_false(out(st, 2));
	gate(st, false);
	assert_wave(st, 2, "1111");
	gate(st, true);
	assert_wave(st, 2, "1110011");
}

static void test_mode4(void **state)
{
	struct st *st = *state;

	cw(st, 0, 4, false);
	assert_true(out(st, 0));
	st->irqs = 0;
	put(st, 0, 3);
	assert_wave(st, 0, "111101111");
	assert_int_equal(st->irqs, 1);
	go(st, 70000);
	assert_int_equal(st->irqs, 1);
	put(st, 0, 2);
	go(st, 4);
	assert_int_equal(st->irqs, 2);
}

static void test_mode5(void **state)
{
	struct st *st = *state;

	cw(st, 2, 5, false);
	put(st, 2, 3);
	assert_wave(st, 2, "111111");
	gate(st, true);
	assert_wave(st, 2, "1111011");
	gate(st, false);
	gate(st, true);
	go(st, 2);
	gate(st, false);
	gate(st, true); /* retriggered before it came */
	assert_wave(st, 2, "1111011");
}

static void test_bcd(void **state)
{
	struct st *st = *state;

	cw(st, 0, 0, true);
	put(st, 0, 0x1000);
	go(st, 2);
	assert_int_equal(latched(st, 0), 0x0999);
	go(st, 900);
	assert_int_equal(latched(st, 0), 0x0099);
	go(st, 100);
	assert_int_equal(latched(st, 0), 0x9999);
	put(st, 0, 0); /* 10000 */
	go(st, 2);
	assert_int_equal(latched(st, 0), 0x9999);
	st->irqs = 0;
	go(st, 9998);
	assert_int_equal(st->irqs, 0);
	go(st, 1);
	assert_int_equal(st->irqs, 1);
	cw(st, 0, 2, true);
	put(st, 0, 0xffff); /* no BCD number; 16665 */
	go(st, 40000);
}

static void test_access_modes(void **state)
{
	struct st *st = *state;

	outb(&st->t, 0x43, 0x10); /* counter 0, LSB only, mode 0 */
	outb(&st->t, 0x40, 0x80);
	go(st, 0x11);
	assert_int_equal(inb(&st->t, 0x40), 0x70);
	assert_int_equal(inb(&st->t, 0x40), 0x70);
	outb(&st->t, 0x43, 0x20); /* MSB only */
	outb(&st->t, 0x40, 0x12);
	go(st, 1);
	assert_int_equal(inb(&st->t, 0x40), 0x12);
	go(st, 0x81);
	assert_int_equal(inb(&st->t, 0x40), 0x11);
	outb(&st->t, 0x43, 0x00); /* latch gives the one byte */
	go(st, 0x1000);
	assert_int_equal(inb(&st->t, 0x40), 0x11);
	assert_int_equal(inb(&st->t, 0x40), 0x01);
	/* 0 is 65536. */
	cw(st, 0, 0, false);
	put(st, 0, 0);
	go(st, 2);
	assert_int_equal(latched(st, 0), 0xffff);
	go(st, 65534);
	assert_false(out(st, 0));
	go(st, 1);
	assert_true(out(st, 0));
}

static void test_latch(void **state)
{
	struct st *st = *state;

	cw(st, 0, 2, false);
	put(st, 0, 0x1234);
	go(st, 1);
	outb(&st->t, 0x43, 0x00);
	go(st, 0x34);
	outb(&st->t, 0x43, 0x00); /* ignored: not read yet */
	assert_int_equal(inb(&st->t, 0x40), 0x34);
	go(st, 0x100);
	assert_int_equal(inb(&st->t, 0x40), 0x12);
	assert_int_equal(get(st, 0), 0x1100);
	/* A control word drops what is latched. */
	outb(&st->t, 0x43, 0x00);
	cw(st, 0, 2, false);
	put(st, 0, 0x0100);
	go(st, 1);
	assert_int_equal(get(st, 0), 0x0100);
}

static void test_read_back(void **state)
{
	struct st *st = *state;

	cw(st, 0, 2, false);
	put(st, 0, 1000);
	cw(st, 1, 3, true);
	put(st, 1, 0x500);
	gate(st, true);
	cw(st, 2, 0, false);
	put(st, 2, 2000);
	go(st, 101);
	outb(&st->t, 0x43, 0xce); /* counts and status of all three */
	go(st, 50);
	outb(&st->t, 0x43, 0xce); /* ignored */
	assert_int_equal(inb(&st->t, 0x40), 0x80 | 0x30 | 4);
	assert_int_equal(get(st, 0), 900);
	assert_int_equal(get(st, 0), 850);
	assert_int_equal(inb(&st->t, 0x41), 0x80 | 0x30 | 6 | 1);
	assert_int_equal(get(st, 1), 0x300);
	assert_int_equal(inb(&st->t, 0x42), 0x30);
	assert_int_equal(get(st, 2), 1900);
	outb(&st->t, 0x43, 0xda); /* count of 0 and 2 only */
	assert_int_equal(get(st, 0), 850);
	assert_int_equal(get(st, 2), 1850);
	outb(&st->t, 0x43, 0xe4); /* status of 1 only */
	assert_int_equal(inb(&st->t, 0x41) & 0x3f, 0x37);
}

static void test_irq_rate(void **state)
{
	struct st *st = *state;
	u64 start;

	/* HZ=250: 1193182 / 250 = 4773 ticks. Exact over a minute. */
	cw(st, 0, 2, false);
	put(st, 0, 4773);
	start = st->ticks;
	st->irqs = 0;
	for (unsigned i = 1; i <= 15000; i++) {
		u64 at = ns_at(st->t0 + start + 1 + i * 4773ull);

		go(st, start + 1 + i * 4773ull - st->ticks);
		assert_int_equal(st->irqs, i);
		assert_true(at - st->irq_ns < 1000);
	}
	/* Mode 3, the BIOS's 18.2 Hz. */
	cw(st, 0, 3, false);
	put(st, 0, 0);
	start = st->ticks;
	st->irqs = 0;
	go(st, 1 + 65536 * 100ull);
	assert_int_equal(st->irqs, 100);
	/* Stopped: mode 0 without a count. */
	cw(st, 0, 0, false);
	st->irqs = 0;
	go(st, 1000000);
	assert_int_equal(st->irqs, 0);
}

static void test_tiny_period(void **state)
{
	struct st *st = *state;

	cw(st, 0, 2, false);
	put(st, 0, 1); /* illegal; taken as 2: 600 kHz */
	st->irqs = 0;
	go(st, PIT_HZ / 10);
	assert_in_range(st->irqs, 4000, 5001); /* one in 20 us */
	put(st, 0, 24);                        /* 20.1 us: just served */
	go(st, 100);
	st->irqs = 0;
	go(st, 24 * 1000);
	assert_in_range(st->irqs, 990, 1001);
}

/* The loop comes late: the missed edges follow, up to a limit, and the rate is right again. */
static void test_late(void **state)
{
	struct st *st = *state;
	u64 start;

	cw(st, 0, 2, false);
	put(st, 0, 1193);
	start = st->ticks;
	go(st, 1 + 1193 * 10);
	assert_int_equal(st->ticks - start, 1 + 1193 * 10);
	st->irqs = 0;
	/* Time jumps by 7.5 periods while no timer runs: a long callback, or the host was busy. */
	loop_clock_start(st->t.loop);
	loop_clock_stop(st->t.loop);
	st->now = loop_now(st->t.loop);
	loop_clock_start(st->t.loop);
	{
		struct timespec ts = {0, 7500000};

		nanosleep(&ts, NULL);
	}
	loop_clock_stop(st->t.loop);
	{
		u64 late = (loop_now(st->t.loop) - st->now) / 1000000; /* periods, nearly */

		st->now = loop_now(st->t.loop);
		assert_true(late >= 7);
		/* In the next 30 periods all those come as well, if they are not too many. */
		loop_clock_step(st->t.loop, 30 * 999850ull);
		assert_in_range(st->irqs, 29 + MIN(late, (u64)PIT_MAX_BACKLOG) - 1,
		                32 + MIN(late, (u64)PIT_MAX_BACKLOG + 1));
		st->irqs = 0;
		loop_clock_step(st->t.loop, 100 * 999850ull);
		assert_in_range(st->irqs, 99, 101);
	}
}

static void test_port61(void **state)
{
	struct st *st = *state;
	unsigned toggles = 0;
	u8 last;

	outb(&st->t, 0x61, 0xff);
	assert_int_equal(inb(&st->t, 0x61) & 0xcf, 0x0f);
	outb(&st->t, 0x61, 0x02);
	assert_int_equal(inb(&st->t, 0x61) & 0xcf, 0x02);
	last = inb(&st->t, 0x61) & 0x10;
	for (unsigned i = 0; i < 1800; i++) {
		u8 v;

		go(st, 1);
		v = inb(&st->t, 0x61) & 0x10;
		toggles += v != last;
		last = v;
	}
	assert_in_range(toggles, 99, 101);
}

/* What Linux does to calibrate the TSC (pit_calibrate_tsc). */
static void test_calibration(void **state)
{
	struct st *st = *state;
	unsigned n = 0;

	outb(&st->t, 0x61, (u8)((inb(&st->t, 0x61) & ~2) | 1));
	outb(&st->t, 0x43, 0xb0);
	outb(&st->t, 0x42, (u8)11931);
	outb(&st->t, 0x42, 11931 >> 8); /* 10 ms */
	while (!(inb(&st->t, 0x61) & 0x20)) {
		go(st, 1);
		assert_true(++n < 20000);
	}
	assert_int_equal(n, 11932);
	/* quick_pit_calibrate: the upper byte goes down through 0xff, 0xfe, ... */
	outb(&st->t, 0x43, 0xb0);
	outb(&st->t, 0x42, 0xff);
	outb(&st->t, 0x42, 0xff);
	inb(&st->t, 0x42);
	assert_int_equal(inb(&st->t, 0x42), 0xff);
	go(st, 257);
	inb(&st->t, 0x42);
	assert_int_equal(inb(&st->t, 0x42), 0xfe);
}

static void test_reset(void **state)
{
	struct st *st = *state;

	cw(st, 0, 2, false);
	put(st, 0, 100);
	outb(&st->t, 0x61, 3);
	go(st, 1000);
	bus_lock(st->t.bus);
	dev_reset_all(st->t.devices);
	bus_unlock(st->t.bus);
	st->irqs = 0;
	assert_false(st->line);
	go(st, 100000);
	assert_int_equal(st->irqs, 0);
	assert_int_equal(inb(&st->t, 0x61) & 0x0f, 0);
}

static void test_real_time(void **state)
{
	struct st *st = *state;
	u64 from, took;

	loop_clock_start(st->t.loop);
	cw(st, 0, 2, false);
	put(st, 0, 1193); /* 1 kHz */
	st->irqs = 0;
	from = loop_now(st->t.loop);
	assert_false(devtest_run(&st->t, 200000000));
	took = loop_now(st->t.loop) - from;
	/* Late ones may still be outstanding when the host is busy, never more than there is time
	 * for. */
	assert_true(st->irqs <= took / 999847 + 1);
	assert_true(st->irqs + 40 >= took / 999847);
}

#define T(x) cmocka_unit_test_setup_teardown(x, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_unprogrammed), T(test_mode0),        T(test_mode0_gate), T(test_mode1),
		T(test_mode2),        T(test_mode3),        T(test_mode4),      T(test_mode5),
		T(test_bcd),          T(test_access_modes), T(test_latch),      T(test_read_back),
		T(test_irq_rate),     T(test_tiny_period),  T(test_late),       T(test_port61),
		T(test_calibration),  T(test_reset),        T(test_real_time),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
