// SPDX-License-Identifier: MIT
/* The small virtio devices from the driver's side: entropy, balloon, console. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/mman.h>
#include <cmocka.h>

#include "ringtest.h"
#include "dev/virtio_balloon.h"
#include "dev/virtio_console.h"
#include "dev/virtio_rng.h"

#define RAM   (4 * MiB)
#define RINGS 0x100000
#define DATA  0x140000
#define W     VIRTQ_DESC_F_WRITE

struct st {
	struct pcitest p;
	struct driver d;
	struct ring r[8];
	bool packed;
};

static int setup(void **state)
{
	struct st *st = calloc(1, sizeof(*st));

	assert_non_null(st);
	pcitest_init(&st->p, RAM);
	*state = st;
	return 0;
}

static int teardown(void **state)
{
	struct st *st = *state;

	pcitest_fini(&st->p);
	free(st);
	return 0;
}

static void start(struct st *st, unsigned queues, u64 features)
{
	driver_init(&st->d, &st->p, 1);
	assert_int_equal(
		driver_negotiate(&st->d, features | (st->packed ? VIRTIO_F_RING_PACKED : 0)), 11);
	for (unsigned i = 0; i < queues; i++) {
		ring_init(&st->r[i], &st->d, i, 16, st->packed, RINGS + 0x3000 * i);
		ring_enable(&st->r[i]);
	}
	driver_ok(&st->d);
}

static void test_rng(void **state)
{
	struct st *st = *state;
	struct buf b[3] = {{DATA, 100, W}, {DATA + 0x1000, 100, W}, {DATA + 0x2000, 8192, W}};
	u32 id, len, zeros = 0;

	assert_int_equal(virtio_rng_create(&st->p.venv, &(struct virtio_rng_config){0}), 0);
	assert_int_equal(pci_host_assign(st->p.host), 0);
	start(st, 1, 0);
	ring_add(&st->r[0], 0, b, 2);
	ring_kick(&st->r[0]);
	assert_true(ring_used(&st->r[0], 2, &id, &len));
	assert_int_equal(len, 200);
	for (unsigned i = 0; i < 200; i++)
		zeros += !ram_get(&st->p, b[i / 100].addr + i % 100, 1);
	assert_true(zeros < 20);
	assert_int_equal(ram_get(&st->p, DATA + 100, 1), 0);
	/* of a large request a page */
	ring_add(&st->r[0], 2, &b[2], 1);
	ring_kick(&st->r[0]);
	assert_true(ring_used(&st->r[0], 1, &id, &len));
	assert_int_equal(len, 4096);
	/* nothing to write into: an empty answer */
	b[0].flags = 0;
	ring_add(&st->r[0], 3, b, 1);
	ring_kick(&st->r[0]);
	assert_true(ring_used(&st->r[0], 1, &id, &len));
	assert_int_equal(len, 0);
}

/* Pages of the memfd that the host keeps in memory. */
static bool resident(struct st *st, gpa_t gpa)
{
	unsigned char vec = 0;

	assert_int_equal(mincore(pmap_ptr(st->p.t.pmap, gpa, 4096), 4096, &vec), 0);
	return vec & 1;
}

static void test_balloon(void **state)
{
	struct st *st = *state;
	struct virtio_balloon *b;
	struct buf list = {DATA, 12, 0};
	struct buf pages[2] = {{0x200000, 0x3000, W}, {0x300800, 0x1900, W}};
	u32 id, len;

	st->packed = true;
	assert_int_equal(
		virtio_balloon_create(&b, &st->p.venv,
	                              &(struct virtio_balloon_config){.amount = 1 * MiB,
	                                                              .deflate_on_oom = true,
	                                                              .reporting = true,
	                                                              .packed = true}),
		0);
	assert_int_equal(pci_host_assign(st->p.host), 0);
	driver_init(&st->d, &st->p, 1);
	assert_int_equal(driver_offered(&st->d) & 0xffffff, BIT(2) | BIT(5));
	start(st, 3, BIT(2) | BIT(5));
	assert_int_equal(mmio_in(&st->p, st->d.config, 4), 256);
	for (gpa_t at = 0x200000; at < 0x400000; at += 4096)
		ram_put(&st->p, at, 0x77, 1);
	/* three pages, and one that is none */
	ram_put(&st->p, DATA, 0x210, 4);
	ram_put(&st->p, DATA + 4, 0x211, 4);
	ram_put(&st->p, DATA + 8, 0xfffff, 4);
	assert_true(resident(st, 0x210000) && resident(st, 0x211000));
	ring_add(&st->r[0], 0, &list, 1);
	ring_kick(&st->r[0]);
	assert_true(ring_used(&st->r[0], 1, &id, &len));
	assert_false(resident(st, 0x210000) || resident(st, 0x211000));
	assert_true(resident(st, 0x212000) && resident(st, 0x20f000));
	assert_int_equal(ram_get(&st->p, 0x210000, 1), 0);
	/* reported pages: whole ones only */
	ring_add(&st->r[2], 0, pages, 2);
	ring_kick(&st->r[2]);
	assert_true(ring_used(&st->r[2], 2, &id, &len));
	assert_false(resident(st, 0x200000) || resident(st, 0x202000) || resident(st, 0x301000));
	assert_true(resident(st, 0x203000) && resident(st, 0x300000) && resident(st, 0x302000));
	/* the target moves, the driver says what it has */
	virtio_balloon_set(b, 64 * MiB);
	assert_int_equal(mmio_in(&st->p, st->d.config, 4), RAM / 4096);
	mmio_out(&st->p, st->d.config + 4, 3, 4);
	assert_int_equal(mmio_in(&st->p, st->d.config + 4, 4), 3);
	mmio_out(&st->p, st->d.config, 3, 4); /* not the driver's */
	assert_int_equal(mmio_in(&st->p, st->d.config, 4), RAM / 4096);
	driver_set(&st->d, C_STATUS, 0, 1);
	assert_int_equal(mmio_in(&st->p, st->d.config + 4, 4), 0);
}

/* ---- console ---- */

struct control {
	u32 id;
	u16 event, value;
};

static struct testback back[2];

static void make_console(struct st *st)
{
	struct virtio_console_port port[2] = {{.back = &back[0].chardev, .console = true},
	                                      {.back = &back[1].chardev, .name = "agent"}};

	testback_init(&back[0]);
	testback_init(&back[1]);
	assert_int_equal(
		virtio_console_create(&st->p.venv,
	                              &(struct virtio_console_config){.port = port, .nr_ports = 2}),
		0);
	assert_int_equal(pci_host_assign(st->p.host), 0);
	start(st, 6, BIT(1));
}

static void tell(struct st *st, u32 id, u16 event, u16 value)
{
	struct control m = {id, event, value};
	struct buf b = {DATA + 0x8000, 8, 0};
	u32 i, len;

	pmap_write(st->p.t.pmap, b.addr, &m, 8);
	ring_add(&st->r[3], 0, &b, 1);
	ring_kick(&st->r[3]);
	assert_true(ring_used(&st->r[3], 1, &i, &len));
}

/* The next message of the device, for which a buffer was given. */
static u16 told(struct st *st, u32 port, char *name)
{
	struct control m;
	u32 i, len;

	if (!ring_used(&st->r[2], 1, &i, &len))
		return 0xffff;
	pmap_read(st->p.t.pmap, DATA + 64 * i, &m, 8);
	assert_int_equal(m.id, port);
	assert_int_equal(m.value, 1);
	if (name) {
		pmap_read(st->p.t.pmap, DATA + 64 * i + 8, name, len - 8);
		name[len - 8] = '\0';
	}
	return m.event;
}

static void give(struct st *st, unsigned first, unsigned n)
{
	for (unsigned i = first; i < first + n; i++)
		ring_add(&st->r[2], (u16)i, &(struct buf){DATA + 64 * i, 64, W}, 1);
	ring_kick(&st->r[2]);
}

static void test_console_control(void **state)
{
	struct st *st = *state;
	char name[64];

	make_console(st);
	assert_int_equal(mmio_in(&st->p, st->d.config + 4, 4), 2);
	/* it has something to say before there are buffers; repeating changes nothing */
	for (unsigned i = 0; i < 100; i++)
		tell(st, 0, 0, 1);
	assert_int_equal(told(st, 0, NULL), 0xffff);
	give(st, 0, 10);
	assert_int_equal(told(st, 0, NULL), 1);
	assert_int_equal(told(st, 1, NULL), 1);
	assert_int_equal(told(st, 0, NULL), 0xffff);
	tell(st, 0, 3, 1);
	assert_int_equal(told(st, 0, NULL), 4);
	assert_int_equal(told(st, 0, NULL), 6);
	tell(st, 1, 3, 1);
	assert_int_equal(told(st, 1, NULL), 6);
	assert_int_equal(told(st, 1, name), 7);
	assert_string_equal(name, "agent");
	/* ports that are not there, events that are none, half a message */
	tell(st, 2, 3, 1);
	tell(st, 0xffffffff, 6, 1);
	tell(st, 0, 77, 1);
	ring_add(&st->r[3], 1, &(struct buf){DATA, 7, 0}, 1);
	ring_kick(&st->r[3]);
	assert_int_equal(told(st, 0, NULL), 0xffff);
	assert_int_equal(driver_get(&st->d, C_STATUS, 1), 15);
}

static void test_console_streams(void **state)
{
	struct st *st = *state;
	struct buf out[2] = {{DATA + 0x1000, 5, 0}, {DATA + 0x2000, 6, 0}};
	struct buf in = {DATA + 0x3000, 4, W};
	u32 id, len;

	make_console(st);
	pmap_write(st->p.t.pmap, DATA + 0x1000, "hello", 5);
	pmap_write(st->p.t.pmap, DATA + 0x2000, " world", 6);
	/* a back end with little room */
	back[1].room = 3;
	ring_add(&st->r[5], 0, out, 2);
	ring_kick(&st->r[5]);
	assert_false(ring_used(&st->r[5], 2, &id, &len));
	back[1].room = 100;
	back[1].chardev.front->drained(back[1].chardev.front_arg);
	assert_true(ring_used(&st->r[5], 2, &id, &len));
	assert_int_equal(back[1].out_len, 11);
	assert_memory_equal(back[1].out, "hello world", 11);
	/* input waits until the guest opens the port and gives buffers */
	ring_add(&st->r[4], 0, &in, 1);
	ring_kick(&st->r[4]);
	testback_input(&back[1], "abcdefg", 7);
	assert_int_equal(back[1].in_len, 7);
	tell(st, 1, 6, 1);
	assert_int_equal(back[1].in_len, 3);
	assert_true(ring_used(&st->r[4], 1, &id, &len));
	assert_int_equal(len, 4);
	assert_int_equal(ram_get(&st->p, in.addr, 4), 0x64636261);
	ring_add(&st->r[4], 1, &in, 1);
	ring_kick(&st->r[4]);
	assert_true(ring_used(&st->r[4], 1, &id, &len));
	assert_int_equal(len, 3);
	/* a reset in the middle of output */
	back[0].room = 1;
	ring_add(&st->r[1], 0, out, 2);
	ring_kick(&st->r[1]);
	driver_set(&st->d, C_STATUS, 0, 1);
	back[0].room = 100;
	back[0].chardev.front->drained(back[0].chardev.front_arg);
	assert_int_equal(back[0].out_len, 1);
	/* a driver that knows one port only, and the emergency write */
	start(st, 2, BIT(2));
	ring_add(&st->r[1], 0, out, 2);
	ring_kick(&st->r[1]);
	assert_int_equal(back[0].out_len, 12);
	ring_add(&st->r[0], 0, &in, 1);
	ring_kick(&st->r[0]);
	testback_input(&back[0], "x", 1);
	assert_true(ring_used(&st->r[0], 1, &id, &len));
	mmio_out(&st->p, st->d.config + 8, '!', 4);
	assert_int_equal(back[0].out[12], '!');
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_rng),
		T(test_balloon),
		T(test_console_control),
		T(test_console_streams),
	};

	log_set_level(LOG_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
