// SPDX-License-Identifier: MIT
/* Attach and dispatch: overlaps, widths, splits. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "bus/bus.h"

/* A region of bytes that remembers the accesses it was given. */
struct memdev {
	u8 mem[64];
	unsigned nr;
	struct {
		bool write;
		u64 off;
		unsigned size;
	} log[16];
};

static void remember(struct memdev *m, bool write, u64 off, unsigned size)
{
	assert_true(m->nr < 16);
	m->log[m->nr].write = write;
	m->log[m->nr].off = off;
	m->log[m->nr++].size = size;
}

static u64 mem_read(void *dev, u64 off, unsigned size)
{
	struct memdev *m = dev;
	u64 v = ~0ull; /* rubbish above `size`: the bus must cut it off */

	assert_true(off + size <= sizeof(m->mem));
	remember(m, false, off, size);
	memcpy(&v, m->mem + off, size);
	return v;
}

static void mem_write(void *dev, u64 off, u64 val, unsigned size)
{
	struct memdev *m = dev;

	assert_true(off + size <= sizeof(m->mem));
	assert_int_equal(val & ~size_mask(size), 0);
	remember(m, true, off, size);
	memcpy(m->mem + off, &val, size);
}

static const struct region_ops ops = {mem_read, mem_write};

struct st {
	struct bus *b;
	struct memdev m, n;
};

static int setup(void **state)
{
	struct st *st = calloc(1, sizeof(*st));

	if (bus_create(&st->b, NULL))
		return -1;
	for (unsigned i = 0; i < 64; i++) {
		st->m.mem[i] = (u8)(0x10 + i);
		st->n.mem[i] = (u8)(0x80 + i);
	}
	*state = st;
	return 0;
}

static int teardown(void **state)
{
	struct st *st = *state;

	bus_destroy(st->b);
	free(st);
	return 0;
}

static int attach(struct st *st, struct memdev *m, enum bus_space space, u64 base, u64 len, u8 min,
                  u8 max)
{
	struct region r = {"mem", base, len, min, max, false, &ops, m};

	return bus_attach(st->b, space, &r);
}

static void expect(struct memdev *m, unsigned i, bool write, u64 off, unsigned size)
{
	assert_true(i < m->nr);
	assert_int_equal(m->log[i].write, write);
	assert_int_equal(m->log[i].off, off);
	assert_int_equal(m->log[i].size, size);
}

static void test_overlap(void **state)
{
	struct st *st = *state;
	struct region found;

	assert_int_equal(attach(st, &st->m, BUS_PIO, 0x100, 0x10, 0, 0), 0);
	assert_int_not_equal(attach(st, &st->n, BUS_PIO, 0x100, 0x10, 0, 0), 0);
	assert_int_not_equal(attach(st, &st->n, BUS_PIO, 0x10f, 1, 0, 0), 0);
	assert_int_not_equal(attach(st, &st->n, BUS_PIO, 0xff, 2, 0, 0), 0);
	assert_int_not_equal(attach(st, &st->n, BUS_PIO, 0xf0, 0x100, 0, 0), 0);
	assert_int_not_equal(attach(st, &st->n, BUS_PIO, 0x104, 4, 0, 0), 0);
	assert_int_equal(attach(st, &st->n, BUS_PIO, 0x110, 0x10, 0, 0), 0);
	assert_int_equal(attach(st, &st->n, BUS_PIO, 0xf0, 0x10, 0, 0), 0);
	assert_int_equal(attach(st, &st->n, BUS_MMIO, 0x100, 0x10, 0, 0), 0);
	assert_int_equal(bus_detach(st->b, BUS_PIO, 0x104), -2 /* ENOENT */);
	assert_int_equal(bus_detach(st->b, BUS_PIO, 0x100), 0);
	assert_false(bus_find(st->b, BUS_PIO, 0x100, &found));
	assert_int_equal(attach(st, &st->n, BUS_PIO, 0x104, 4, 0, 0), 0);
}

static void test_bad_regions(void **state)
{
	struct st *st = *state;
	struct region r = {"bad", 0x100, 4, 0, 0, false, NULL, NULL};

	assert_int_not_equal(bus_attach(st->b, BUS_PIO, &r), 0); /* no ops */
	assert_int_not_equal(attach(st, &st->m, BUS_PIO, 0x100, 0, 0, 0), 0);
	assert_int_not_equal(attach(st, &st->m, BUS_PIO, 0xfffe, 4, 0, 0), 0);
	assert_int_not_equal(attach(st, &st->m, BUS_PIO, 0x100, 8, 1, 8), 0);
	assert_int_not_equal(attach(st, &st->m, BUS_MMIO, 0x100, 8, 3, 4), 0);
	assert_int_not_equal(attach(st, &st->m, BUS_MMIO, 0x100, 8, 4, 2), 0);
	assert_int_not_equal(attach(st, &st->m, BUS_MMIO, 0x100, 32, 1, 16), 0);
	assert_int_not_equal(attach(st, &st->m, BUS_MMIO, ~0ull - 3, 8, 0, 0), 0);
	assert_int_equal(attach(st, &st->m, BUS_MMIO, ~0ull - 3, 4, 0, 0), 0);
	assert_int_equal(attach(st, &st->m, BUS_PIO, 0xfffc, 4, 0, 0), 0);
}

static void test_full(void **state)
{
	struct st *st = *state;

	for (unsigned i = 0; i < BUS_MAX_REGIONS; i++)
		assert_int_equal(attach(st, &st->m, BUS_MMIO, 0x1000 - i * 8ull, 4, 0, 0), 0);
	assert_int_not_equal(attach(st, &st->m, BUS_MMIO, 0x8000, 4, 0, 0), 0);
	for (unsigned i = 0; i < BUS_MAX_REGIONS; i++) {
		struct region r;

		assert_true(bus_find(st->b, BUS_MMIO, 0x1000 - i * 8ull + 3, &r));
		assert_int_equal(r.base, 0x1000 - i * 8ull);
		assert_false(bus_find(st->b, BUS_MMIO, 0x1000 - i * 8ull + 4, &r));
	}
}

static void test_nothing_there(void **state)
{
	struct st *st = *state;

	assert_int_equal(bus_read(st->b, BUS_PIO, 0x80, 1), 0xff);
	assert_int_equal(bus_read(st->b, BUS_PIO, 0x80, 4), 0xffffffff);
	assert_true(bus_read(st->b, BUS_MMIO, 0xfee00000, 8) == ~0ull);
	bus_write(st->b, BUS_MMIO, ~0ull, 0, 8); /* the end of the address space */
	bus_write(st->b, BUS_PIO, 0xffff, 0, 4);
}

static void test_widths(void **state)
{
	struct st *st = *state;

	assert_int_equal(attach(st, &st->m, BUS_MMIO, 0x1000, 64, 1, 8), 0);
	assert_true(bus_read(st->b, BUS_MMIO, 0x1008, 8) == 0x1f1e1d1c1b1a1918);
	expect(&st->m, 0, false, 8, 8);
	assert_int_equal(bus_read(st->b, BUS_MMIO, 0x1003, 2), 0x1413);
	expect(&st->m, 1, false, 3, 2);
	bus_write(st->b, BUS_MMIO, 0x1000, 0xffffffffffffffab, 1);
	expect(&st->m, 2, true, 0, 1);
	assert_int_equal(st->m.mem[0], 0xab);
	assert_int_equal(st->m.mem[1], 0x11);
}

static void test_split_by_width(void **state)
{
	struct st *st = *state;

	assert_int_equal(attach(st, &st->m, BUS_PIO, 0x3f8, 8, 1, 1), 0);
	assert_int_equal(bus_read(st->b, BUS_PIO, 0x3fa, 4), 0x15141312);
	for (unsigned i = 0; i < 4; i++)
		expect(&st->m, i, false, 2 + i, 1); /* lowest first */
	bus_write(st->b, BUS_PIO, 0x3f8, 0xbeef, 2);
	expect(&st->m, 4, true, 0, 1);
	expect(&st->m, 5, true, 1, 1);
	assert_int_equal(get_le16(st->m.mem), 0xbeef);
}

static void test_split_over_the_end(void **state)
{
	struct st *st = *state;

	assert_int_equal(attach(st, &st->m, BUS_MMIO, 0x1000, 7, 1, 8), 0);
	assert_int_equal(attach(st, &st->n, BUS_MMIO, 0x1009, 8, 1, 8), 0);
	/* 5,6 of the first; 7,8 nobody; 9..12 the second */
	assert_true(bus_read(st->b, BUS_MMIO, 0x1005, 8) == 0x83828180ffff1615);
	bus_write(st->b, BUS_MMIO, 0x1005, 0x8877665544332211, 8);
	assert_int_equal(st->m.mem[5], 0x11);
	assert_int_equal(st->m.mem[6], 0x22);
	assert_int_equal(get_le32(st->n.mem), 0x88776655);
	/* three bytes left in the region */
	st->m.nr = 0;
	bus_read(st->b, BUS_MMIO, 0x1004, 4);
	expect(&st->m, 0, false, 4, 2);
	expect(&st->m, 1, false, 6, 1);
}

static void test_port_wrap(void **state)
{
	struct st *st = *state;

	assert_int_equal(attach(st, &st->m, BUS_PIO, 0xfffe, 2, 1, 4), 0);
	assert_int_equal(attach(st, &st->n, BUS_PIO, 0, 2, 1, 4), 0);
	assert_int_equal(bus_read(st->b, BUS_PIO, 0xfffe, 4), 0x81801110);
}

static void test_min_size(void **state)
{
	struct st *st = *state;

	assert_int_equal(attach(st, &st->m, BUS_MMIO, 0x1000, 16, 4, 4), 0);
	assert_int_equal(bus_read(st->b, BUS_MMIO, 0x1006, 1), 0x16);
	expect(&st->m, 0, false, 4, 4);
	assert_int_equal(bus_read(st->b, BUS_MMIO, 0x100a, 2), 0x1b1a);
	expect(&st->m, 1, false, 8, 4);
	bus_write(st->b, BUS_MMIO, 0x1004, 0, 2);
	assert_int_equal(st->m.nr, 2);
	assert_int_equal(st->m.mem[4], 0x14);
	bus_write(st->b, BUS_MMIO, 0x1004, 0x0102030405060708, 8);
	expect(&st->m, 2, true, 4, 4);
	expect(&st->m, 3, true, 8, 4);
}

static u64 lock_read(void *dev, u64 off, unsigned size)
{
	struct bus *b = dev;
	bool was_free = !pthread_mutex_trylock(&b->lock);

	if (was_free)
		pthread_mutex_unlock(&b->lock);
	return was_free;
}

static void test_lock(void **state)
{
	struct st *st = *state;
	static const struct region_ops lock_ops = {lock_read, mem_write};
	struct region r = {"lock", 0x10, 1, .ops = &lock_ops, .dev = st->b};

	assert_int_equal(bus_attach(st->b, BUS_PIO, &r), 0);
	r.base = 0x20;
	r.nolock = true;
	assert_int_equal(bus_attach(st->b, BUS_PIO, &r), 0);
	assert_int_equal(bus_read(st->b, BUS_PIO, 0x10, 1), 0);
	assert_int_equal(bus_read(st->b, BUS_PIO, 0x20, 1), 1);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_overlap),
		T(test_bad_regions),
		T(test_full),
		T(test_nothing_there),
		T(test_widths),
		T(test_split_by_width),
		T(test_split_over_the_end),
		T(test_port_wrap),
		T(test_min_size),
		T(test_lock),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
