// SPDX-License-Identifier: MIT
/* The UART against the PC16550D data sheet, and the probe sequences of guests. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "devtest.h"
#include "dev/serial.h"

#define P 0x3f8
enum { DATA, IER, IIR, LCR, MCR, LSR, MSR, SCR };

struct st {
	struct devtest t;
	struct testback b;
	struct serial *s;
};

static int setup(void **state)
{
	struct st *st = calloc(1, sizeof(*st));
	struct serial_config cfg = {.back = &st->b.chardev};

	devtest_init(&st->t, 0);
	testback_init(&st->b);
	if (serial_create(&st->s, &st->t.env, &cfg))
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

static u8 in(struct st *st, unsigned reg)
{
	return inb(&st->t, (u16)(P + reg));
}
static void out(struct st *st, unsigned reg, u8 v)
{
	outb(&st->t, (u16)(P + reg), v);
}
static bool line(struct st *st)
{
	return st->t.irq.level[4];
}

static void test_reset_values(void **state)
{
	struct st *st = *state;

	assert_int_equal(in(st, IER), 0);
	assert_int_equal(in(st, IIR), 0x01);
	assert_int_equal(in(st, LCR), 0);
	assert_int_equal(in(st, MCR), 0);
	assert_int_equal(in(st, LSR), 0x60);
	assert_int_equal(in(st, MSR), 0xb0);
	out(st, SCR, 0xa5);
	assert_int_equal(in(st, SCR), 0xa5);
	st->t.devices->ops->reset(st->t.devices);
	assert_int_equal(in(st, SCR), 0);
}

static void test_divisor_latch(void **state)
{
	struct st *st = *state;

	out(st, LCR, 0x83);
	out(st, DATA, 0x34);
	out(st, IER, 0x12);
	assert_int_equal(in(st, DATA), 0x34);
	assert_int_equal(in(st, IER), 0x12);
	out(st, LCR, 0x03);
	assert_int_equal(in(st, IER), 0);
	assert_int_equal(st->b.out_len, 0);
	/* reserved bits of IER and MCR read as 0 */
	out(st, IER, 0xf0);
	assert_int_equal(in(st, IER), 0);
	out(st, MCR, 0xe0);
	assert_int_equal(in(st, MCR), 0);
}

/* What Linux's 8250 driver does to call it a 16550A. */
static void test_linux_autoconfig(void **state)
{
	struct st *st = *state;

	out(st, IER, 0);
	assert_int_equal(in(st, IER) & 0x0f, 0);
	out(st, IER, 0x0f);
	assert_int_equal(in(st, IER) & 0x0f, 0x0f);
	out(st, IER, 0);
	out(st, MCR, 0x1a);
	assert_int_equal(in(st, MSR) & 0xf0, 0x90);
	out(st, MCR, 0);
	out(st, LCR, 0xbf);
	out(st, IIR, 0);
	out(st, LCR, 0);
	out(st, IIR, 0x01);
	assert_int_equal(in(st, IIR) >> 6, 3);
	/* no 16650, 16750, XScale */
	out(st, LCR, 0x80);
	assert_int_not_equal(in(st, IIR), 0);
	out(st, LCR, 0);
	out(st, IIR, 0x21);
	assert_int_equal(in(st, IIR) >> 5, 6);
	out(st, LCR, 0x80);
	out(st, IIR, 0x21);
	assert_int_equal(in(st, IIR) >> 5, 6);
	out(st, LCR, 0);
	out(st, IER, 0x40);
	assert_int_equal(in(st, IER), 0);
	/* its test for the THRE bug */
	out(st, IER, 0x02);
	assert_int_equal(in(st, IIR) & 0x0f, 0x02);
	assert_int_equal(in(st, IIR) & 0x0f, 0x01);
	out(st, IER, 0);
	out(st, IER, 0x02);
	assert_int_equal(in(st, IIR) & 0x0f, 0x02);
}

static void test_transmit(void **state)
{
	struct st *st = *state;

	for (const char *c = "hello"; *c; c++) {
		assert_int_equal(in(st, LSR) & 0x60, 0x60);
		out(st, DATA, (u8)*c);
	}
	assert_int_equal(st->b.out_len, 5);
	assert_memory_equal(st->b.out, "hello", 5);
}

static void test_thre_interrupt(void **state)
{
	struct st *st = *state;
	u64 edges;

	out(st, IIR, 0x01);
	out(st, IER, 0x02);
	assert_false(line(st)); /* OUT2 gates */
	out(st, MCR, 0x08);
	assert_true(line(st));
	assert_int_equal(in(st, IIR), 0xc2);
	assert_false(line(st));
	edges = st->t.irq.count[4];
	out(st, DATA, 'x'); /* THR empties again: a new edge */
	assert_true(line(st));
	assert_int_equal(st->t.irq.count[4], edges + 1);
	out(st, DATA, 'y'); /* although it was not read */
	assert_true(line(st));
	assert_int_equal(st->t.irq.count[4], edges + 2);
	out(st, IER, 0);
	assert_false(line(st));
}

static void test_backpressure(void **state)
{
	struct st *st = *state;

	out(st, IIR, 0x01);
	out(st, MCR, 0x08);
	st->b.room = 1;
	out(st, DATA, 'a');
	assert_int_equal(in(st, LSR) & 0x60, 0x60);
	for (int i = 0; i < 16; i++)
		out(st, DATA, (u8)('b' + i));
	assert_int_equal(in(st, LSR) & 0x60, 0);
	out(st, DATA, '!'); /* the 17th is lost */
	out(st, IER, 0x02);
	assert_int_equal(in(st, IIR), 0xc1);
	assert_false(line(st));
	st->b.room = 10;
	st->b.chardev.front->drained(st->b.chardev.front_arg);
	assert_int_equal(in(st, LSR) & 0x60, 0);
	st->b.room = 100;
	st->b.chardev.front->drained(st->b.chardev.front_arg);
	assert_int_equal(in(st, LSR) & 0x60, 0x60);
	assert_true(line(st));
	assert_int_equal(in(st, IIR), 0xc2);
	assert_int_equal(st->b.out_len, 17);
	assert_memory_equal(st->b.out, "abcdefghijklmnopq", 17);
	/* without FIFO: one */
	out(st, IIR, 0);
	st->b.room = 0;
	out(st, DATA, '1');
	out(st, DATA, '2');
	st->b.room = 100;
	st->b.chardev.front->drained(st->b.chardev.front_arg);
	assert_int_equal(st->b.out_len, 18);
}

static void test_receive(void **state)
{
	struct st *st = *state;

	out(st, MCR, 0x08);
	out(st, IER, 0x01);
	testback_input(&st->b, "xyz", 3);
	assert_int_equal(st->b.in_len, 2); /* 16450 mode holds one */
	assert_true(line(st));
	assert_int_equal(in(st, IIR), 0x04);
	assert_int_equal(in(st, LSR) & 1, 1);
	assert_int_equal(in(st, DATA), 'x');
	assert_int_equal(in(st, DATA), 'y');
	assert_int_equal(in(st, DATA), 'z');
	assert_int_equal(in(st, LSR) & 1, 0);
	assert_false(line(st));
}

static void test_trigger_levels(void **state)
{
	struct st *st = *state;
	static const u8 level[] = {1, 4, 8, 14};
	static const u8 in16[16] = "0123456789abcdef";

	out(st, MCR, 0x08);
	out(st, IER, 0x01);
	for (unsigned i = 0; i < 4; i++) {
		out(st, IIR, (u8)(i << 6 | 0x07));
		if (level[i] > 1) {
			testback_input(&st->b, in16, level[i] - 1u);
			assert_int_equal(in(st, IIR), 0xc1);
			assert_false(line(st));
			out(st, IIR, (u8)(i << 6 | 0x03)); /* clears the FIFO */
			assert_int_equal(in(st, LSR), 0x60);
		}
		testback_input(&st->b, in16, level[i]);
		assert_int_equal(in(st, IIR), 0xc4);
		assert_true(line(st));
		for (unsigned k = 0; k < level[i]; k++) {
			assert_int_equal(in(st, DATA), in16[k]);
			assert_int_equal(in(st, IIR), 0xc1);
		}
		assert_false(line(st));
	}
	/* never more than the FIFO holds */
	testback_input(&st->b, "0123456789abcdefXY", 18);
	assert_int_equal(st->b.in_len, 2);
	assert_int_equal(in(st, LSR) & 2, 0);
}

static void timeout_seen(void *dev, unsigned n, bool level)
{
	if (n == 4 && level)
		loop_stop(dev);
}

static void test_receive_timeout(void **state)
{
	struct st *st = *state;
	u64 start;

	out(st, LCR, 0x83);
	out(st, DATA, 12); /* 9600 baud: 10 bits, 4 characters: 4.17 ms */
	out(st, IER, 0);
	out(st, LCR, 0x03);
	out(st, IIR, 0x81);
	out(st, MCR, 0x08);
	out(st, IER, 0x01);
	st->t.irq.sink[st->t.irq.nr_sinks++] = (struct irq_sink){timeout_seen, st->t.loop};
	start = loop_now(st->t.loop);
	testback_input(&st->b, "ab", 2);
	assert_int_equal(in(st, IIR), 0xc1);
	assert_true(devtest_run(&st->t, NSEC_PER_SEC));
	assert_true(loop_now(st->t.loop) - start >= 4160000);
	assert_int_equal(in(st, IIR), 0xcc);
	assert_true(line(st));
	assert_int_equal(in(st, DATA), 'a'); /* reading ends it */
	assert_int_equal(in(st, IIR), 0xc1);
	assert_false(line(st));
	assert_int_equal(in(st, DATA), 'b');
}

static void test_loopback(void **state)
{
	struct st *st = *state;

	in(st, MSR);
	out(st, IIR, 0x01);
	out(st, MCR, 0x10);
	assert_int_equal(in(st, MSR), 0x0b); /* CTS, DSR, DCD fell */
	assert_int_equal(in(st, MSR), 0x00);
	out(st, MCR, 0x1f);
	assert_int_equal(in(st, MSR), 0xfb); /* RI has no bit for a rising edge */
	out(st, MCR, 0x1b);
	assert_int_equal(in(st, MSR), 0xb4); /* but for a falling one */
	out(st, DATA, 0x5a);
	assert_int_equal(st->b.out_len, 0);
	assert_int_equal(in(st, LSR), 0x61);
	assert_int_equal(in(st, DATA), 0x5a);
	/* input from outside waits */
	testback_input(&st->b, "q", 1);
	assert_int_equal(in(st, LSR), 0x60);
	/* until it can interrupt; emptying the receiver before that loses nothing */
	out(st, IER, 0x01);
	assert_int_equal(in(st, LSR), 0x60);
	out(st, IER, 0x00);
	out(st, MCR, 0x0b);
	out(st, 2, 0x07);
	assert_int_equal(in(st, LSR), 0x60);
	out(st, IER, 0x01);
	assert_int_equal(in(st, LSR), 0x61);
	assert_int_equal(in(st, DATA), 'q');
	out(st, IER, 0x00);
}

static void test_overrun(void **state)
{
	struct st *st = *state;

	out(st, MCR, 0x10);
	out(st, IER, 0x04);
	out(st, DATA, 1);
	assert_int_equal(in(st, LSR), 0x61);
	out(st, DATA, 2);
	assert_int_equal(in(st, IIR), 0x06);
	assert_int_equal(in(st, LSR), 0x63);
	assert_int_equal(in(st, LSR), 0x61); /* reading clears it */
	assert_int_equal(in(st, IIR), 0x01);
	assert_int_equal(in(st, DATA), 2); /* RBR was overwritten */
	/* FIFO: the 17th is lost, the 16 stay */
	out(st, IIR, 0x01);
	for (u8 i = 0; i < 17; i++)
		out(st, DATA, i);
	assert_int_equal(in(st, LSR), 0x63);
	for (u8 i = 0; i < 16; i++)
		assert_int_equal(in(st, DATA), i);
	assert_int_equal(in(st, LSR), 0x60);
}

static void test_break(void **state)
{
	struct st *st = *state;

	out(st, IIR, 0x01);
	out(st, MCR, 0x10);
	out(st, DATA, 'a');
	out(st, LCR, 0x43);
	assert_int_equal(in(st, LSR), 0xe1); /* an error in the FIFO, not at its top */
	assert_int_equal(in(st, DATA), 'a');
	assert_int_equal(in(st, LSR), 0xf9); /* BI, FE, DR */
	assert_int_equal(in(st, LSR), 0x61);
	assert_int_equal(in(st, DATA), 0);
}

static void test_priority(void **state)
{
	struct st *st = *state;

	out(st, MCR, 0x10); /* MSR deltas */
	out(st, IER, 0x0f); /* THRE */
	out(st, DATA, 1);
	out(st, DATA, 2); /* data, overrun */
	assert_int_equal(in(st, IIR), 0x06);
	in(st, LSR);
	assert_int_equal(in(st, IIR), 0x04);
	in(st, DATA);
	assert_int_equal(in(st, IIR), 0x02);
	assert_int_equal(in(st, IIR), 0x00);
	in(st, MSR);
	assert_int_equal(in(st, IIR), 0x01);
}

static void test_second_port(void **state)
{
	struct st *st = *state;
	struct serial *s;
	struct serial_config cfg = {SERIAL_COM2_PORT, SERIAL_COM2_IRQ, NULL};

	assert_int_equal(serial_create(&s, &st->t.env, &cfg), 0);
	outb(&st->t, 0x2f8 + MCR, 0x08);
	outb(&st->t, 0x2f8 + IER, 0x02);
	assert_true(st->t.irq.level[3]);
	assert_false(st->t.irq.level[4]);
	outb(&st->t, 0x2f8, 'x'); /* nobody there: swallowed */
	assert_int_equal(inb(&st->t, 0x2f8 + LSR), 0x60);
	/* wide accesses are split */
	assert_int_equal(inw(&st->t, P + MCR) >> 8, 0x60);
	/* the same port twice does not fit */
	assert_int_not_equal(serial_create(&s, &st->t.env, &cfg), 0);
}

static void test_dump(void **state)
{
	struct st *st = *state;
	char *text;
	size_t n;
	FILE *f = open_memstream(&text, &n);

	out(st, DATA, 'x');
	st->t.devices->ops->dump(st->t.devices, f);
	fclose(f);
	assert_non_null(strstr(text, "LSR 60"));
	assert_non_null(strstr(text, "out 1"));
	free(text);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_reset_values), T(test_divisor_latch),  T(test_linux_autoconfig),
		T(test_transmit),     T(test_thre_interrupt), T(test_backpressure),
		T(test_receive),      T(test_trigger_levels), T(test_receive_timeout),
		T(test_loopback),     T(test_overrun),        T(test_break),
		T(test_priority),     T(test_second_port),    T(test_dump),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
