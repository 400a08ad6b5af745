// SPDX-License-Identifier: MIT
/* The disk device by its registers and rings, on a RAM disk that can be made to fail. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <errno.h>

#include "dev/virtio_blk.h"
#include "io/disk.h"
#include "ringtest.h"

#define RAM   (4 * MiB)
#define DISK  (1 * MiB)
#define RINGS 0x100000
#define HEAD  0x200000 /* the request's header */
#define DATA  0x210000
#define STAT  0x220000

#define F_RO      BIT(5)
#define F_FLUSH   BIT(9)
#define F_MQ      BIT(12)
#define F_DISCARD BIT(13)
#define F_ZEROES  BIT(14)

enum { IN = 0, OUT = 1, FLUSH = 4, GET_ID = 8, DISCARD = 11, ZEROES = 13 };
enum { OK = 0, IOERR = 1, UNSUPP = 2 };

/* A RAM disk that counts, and fails on demand. */
struct weak {
	struct image image;
	struct image *ram;
	int err;
	_Atomic unsigned writes, flushes, discards;
};

static int weak_read(struct image *im, u64 off, const struct iovec *iov, unsigned n)
{
	struct weak *w = container_of(im, struct weak, image);

	return w->err ? w->err : image_readv(w->ram, off, iov, n);
}
static int weak_write(struct image *im, u64 off, const struct iovec *iov, unsigned n)
{
	struct weak *w = container_of(im, struct weak, image);

	w->writes++;
	return w->err ? w->err : image_writev(w->ram, off, iov, n);
}
static int weak_flush(struct image *im)
{
	container_of(im, struct weak, image)->flushes++;
	return 0;
}
static int weak_discard(struct image *im, u64 off, u64 len)
{
	struct weak *w = container_of(im, struct weak, image);

	w->discards++;
	return image_discard(w->ram, off, len);
}
static void weak_destroy(struct image *im)
{
	image_destroy(container_of(im, struct weak, image)->ram);
	image_free(im);
}

static const struct image_ops weak_ops = {.read = weak_read,
                                          .write = weak_write,
                                          .flush = weak_flush,
                                          .discard = weak_discard,
                                          .destroy = weak_destroy};

struct st {
	struct pcitest p;
	struct driver d;
	struct ring r;
	struct weak *w;
	struct block *back;
	unsigned errors; /* of the host, told */
};

static void on_error(void *arg)
{
	((struct st *)arg)->errors++;
}

static struct st *make(bool ro, bool stop, unsigned queues, u64 features)
{
	struct st *st = calloc(1, sizeof(*st));
	struct virtio_blk_config cfg = {.serial = "WD-1234",
	                                .queues = queues,
	                                .host_error = stop ? on_error : NULL,
	                                .arg = st};

	pcitest_init(&st->p, RAM);
	st->w = image_alloc(sizeof(*st->w), &weak_ops, "weak");
	if (image_ram_create(&st->w->ram, DISK))
		abort();
	st->w->image.size = DISK;
	st->w->image.ro = ro;
	if (disk_create(&cfg.back, st->p.t.loop, &st->w->image, 0) ||
	    virtio_blk_create(&st->p.venv, &cfg) || pci_host_assign(st->p.host))
		abort();
	st->back = cfg.back;
	driver_init(&st->d, &st->p, 1);
	if (driver_negotiate(&st->d, features) != 11)
		abort();
	ring_init(&st->r, &st->d, 0, 16, false, RINGS);
	ring_enable(&st->r);
	driver_ok(&st->d);
	return st;
}

static void drop(struct st *st)
{
	pcitest_fini(&st->p);
	free(st);
}

static void stop_loop(void *arg)
{
	loop_stop(arg);
}

static void header(struct st *st, u32 type, u64 sector)
{
	ram_put(&st->p, HEAD, type, 4);
	ram_put(&st->p, HEAD + 4, 0, 4);
	ram_put(&st->p, HEAD + 8, sector, 8);
	ram_put(&st->p, STAT, 0xee, 1);
}

/* One request of `len` bytes at DATA, in or out; the status byte. */
static unsigned request(struct st *st, u32 type, u64 sector, u32 len, bool in)
{
	struct buf b[3] = {{HEAD, 16, 0},
	                   {DATA, len, in ? VIRTQ_DESC_F_WRITE : 0},
	                   {STAT, 1, VIRTQ_DESC_F_WRITE}};
	u32 used, id;

	header(st, type, sector);
	if (!len)
		b[1] = b[2];
	ring_add(&st->r, 0, b, len ? 3 : 2);
	ring_kick(&st->r);
	block_drain(st->back);
	if (!ring_used(&st->r, len ? 3 : 2, &id, &used))
		return 0xff;
	assert_int_equal(used, in ? len + 1 : 1);
	return (unsigned)ram_get(&st->p, STAT, 1);
}

#define ALL (F_FLUSH | F_DISCARD | F_ZEROES)

static void test_read_write(void **state)
{
	struct st *st = make(false, false, 1, ALL);

	assert_int_equal(mmio_in(&st->p, st->d.config, 4), DISK / 512);
	assert_int_equal(mmio_in(&st->p, st->d.config + 20, 4), 512);
	assert_int_equal(driver_offered(&st->d) & (ALL | F_RO | F_MQ), ALL);
	for (u32 i = 0; i < 8192; i += 8)
		ram_put(&st->p, DATA + i, i * 0x9e3779b97f4a7c15ull, 8);
	assert_int_equal(request(st, OUT, 7, 8192, false), OK);
	pmap_zero(st->p.t.pmap, DATA, 8192);
	assert_int_equal(request(st, IN, 7, 8192, true), OK);
	for (u32 i = 0; i < 8192; i += 8)
		assert_int_equal(ram_get(&st->p, DATA + i, 8), i * 0x9e3779b97f4a7c15ull);
	assert_int_equal(request(st, IN, DISK / 512 - 1, 512, true), OK);
	assert_int_equal(st->w->flushes, 0);
	assert_int_equal(request(st, FLUSH, 0, 0, false), OK);
	assert_int_equal(st->w->flushes, 1);
	drop(st);
}

static void test_get_id(void **state)
{
	struct st *st = make(false, false, 1, ALL);
	char id[20];

	assert_int_equal(request(st, GET_ID, 0, 20, true), OK);
	pmap_read(st->p.t.pmap, DATA, id, 20);
	assert_memory_equal(id, "WD-1234\0\0\0\0\0\0\0\0\0\0\0\0\0", 20);
	assert_int_equal(request(st, GET_ID, 0, 19, true), IOERR);
	assert_int_equal(request(st, 77, 0, 512, true), UNSUPP);
	drop(st);
}

static void test_bounds(void **state)
{
	struct st *st = make(false, false, 1, ALL);

	assert_int_equal(request(st, IN, DISK / 512, 512, true), IOERR);
	assert_int_equal(request(st, IN, DISK / 512 - 1, 1024, true), IOERR);
	assert_int_equal(request(st, OUT, ~0ull, 512, false), IOERR);
	assert_int_equal(request(st, OUT, 1ull << 55, 512, false), IOERR);
	assert_int_equal(request(st, OUT, 0, 511, false), IOERR);
	assert_int_equal(request(st, IN, 0, 513, true), IOERR);
	assert_int_equal(st->w->writes, 0);
	drop(st);
}

static void range_put(struct st *st, unsigned i, u64 sector, u32 nr, u32 flags)
{
	ram_put(&st->p, DATA + 16 * i, sector, 8);
	ram_put(&st->p, DATA + 16 * i + 8, nr, 4);
	ram_put(&st->p, DATA + 16 * i + 12, flags, 4);
}

static void test_ranges(void **state)
{
	struct st *st = make(false, false, 1, ALL);
	u8 *ones = malloc(64 * KiB), back[2048];

	memset(ones, 0x11, 64 * KiB);
	image_write(st->w->ram, 0, ones, 64 * KiB);
	range_put(st, 0, 1, 2, 0);
	range_put(st, 1, 4, 1, 1);
	assert_int_equal(request(st, ZEROES, 0, 32, false), OK);
	for (unsigned s = 0; s < 6; s++) {
		image_read(st->w->ram, s * 512, back, 512);
		assert_int_equal(back[0], s == 1 || s == 2 || s == 4 ? 0 : 0x11);
	}
	range_put(st, 0, 8, 8, 0);
	assert_int_equal(request(st, DISCARD, 0, 16, false), OK);
	assert_int_equal(st->w->discards, 1);
	assert_int_equal(request(st, DISCARD, 0, 17, false), IOERR);
	assert_int_equal(request(st, DISCARD, 0, 16 * 17, false), IOERR);
	range_put(st, 0, 8, 8, 1); /* unmap is for write zeroes */
	assert_int_equal(request(st, DISCARD, 0, 16, false), UNSUPP);
	range_put(st, 0, 8, 8, 2);
	assert_int_equal(request(st, ZEROES, 0, 16, false), UNSUPP);
	range_put(st, 0, DISK / 512 - 1, 2, 0);
	assert_int_equal(request(st, ZEROES, 0, 16, false), IOERR);
	range_put(st, 0, ~0ull, 2, 0);
	assert_int_equal(request(st, DISCARD, 0, 16, false), IOERR);
	assert_int_equal(st->w->discards, 1);
	free(ones);
	drop(st);
}

static void test_read_only(void **state)
{
	struct st *st = make(true, false, 1, F_RO | F_FLUSH);

	assert_int_equal(driver_offered(&st->d) & (ALL | F_RO), F_RO | F_FLUSH);
	assert_int_equal(request(st, IN, 0, 512, true), OK);
	assert_int_equal(request(st, OUT, 0, 512, false), IOERR);
	range_put(st, 0, 0, 1, 0);
	assert_int_equal(request(st, ZEROES, 0, 16, false), UNSUPP);
	assert_int_equal(st->w->writes, 0);
	drop(st);
}

/* 5.2.6.2: without FLUSH the driver takes a completed write for stable. */
static void test_without_flush(void **state)
{
	struct st *st = make(false, false, 1, 0);

	assert_int_equal(request(st, OUT, 0, 512, false), OK);
	assert_int_equal(st->w->flushes, 1);
	assert_int_equal(request(st, DISCARD, 0, 16, false), UNSUPP);
	drop(st);
}

static void test_bad_requests(void **state)
{
	struct st *st = make(false, false, 1, ALL);
	struct buf b[2] = {{HEAD, 15, 0}, {STAT, 1, VIRTQ_DESC_F_WRITE}};

	header(st, IN, 0);
	ring_add(&st->r, 0, b, 2);
	ring_kick(&st->r);
	assert_true(driver_get(&st->d, C_STATUS, 1) & VIRTIO_S_NEEDS_RESET);
	drop(st);

	st = make(false, false, 1, ALL);
	header(st, OUT, 0);
	b[0].len = 16;
	ring_add(&st->r, 0, b, 1); /* nowhere to put the status */
	ring_kick(&st->r);
	assert_true(driver_get(&st->d, C_STATUS, 1) & VIRTIO_S_NEEDS_RESET);
	drop(st);
}

static void test_error_reported(void **state)
{
	struct st *st = make(false, false, 1, ALL);

	st->w->err = -EIO;
	assert_int_equal(request(st, OUT, 0, 512, false), IOERR);
	assert_int_equal(request(st, IN, 0, 512, true), IOERR);
	st->w->err = 0;
	assert_int_equal(request(st, IN, 0, 512, true), OK);
	drop(st);
}

/* The disk is full while the loop runs; the host is told, repaired, and the request comes through.
 */
struct repair {
	struct st *st;
	struct timer t;
};

static void repair_now(void *arg)
{
	struct repair *r = arg;

	r->st->w->err = 0;
}

static void test_error_stops(void **state)
{
	struct st *st = make(false, true, 1, ALL);
	struct buf b[3] = {{HEAD, 16, 0}, {DATA, 512, 0}, {STAT, 1, VIRTQ_DESC_F_WRITE}};
	struct repair fix = {.st = st};
	struct timer end;
	u32 id, len;

	st->w->err = -ENOSPC;
	header(st, OUT, 3);
	ram_put(&st->p, DATA, 0x77, 8);
	ring_add(&st->r, 0, b, 3);
	ring_kick(&st->r);
	timer_init(&fix.t, st->p.t.loop, repair_now, &fix);
	timer_arm(&fix.t, loop_now(st->p.t.loop) + 100 * 1000000ull);
	timer_init(&end, st->p.t.loop, stop_loop, st->p.t.loop);
	timer_arm(&end, loop_now(st->p.t.loop) + 400 * 1000000ull);
	loop_run(st->p.t.loop);
	assert_true(st->errors >= 1);
	assert_true(st->w->writes > 1);
	assert_true(ring_used(&st->r, 3, &id, &len));
	assert_int_equal(ram_get(&st->p, STAT, 1), OK);
	drop(st);
}

/* A reset while requests wait for the host takes them away. */
static void test_reset_while_failed(void **state)
{
	struct st *st = make(false, true, 1, ALL);
	struct buf b[3] = {{HEAD, 16, 0}, {DATA, 512, 0}, {STAT, 1, VIRTQ_DESC_F_WRITE}};

	st->w->err = -ENOSPC;
	header(st, OUT, 3);
	ring_add(&st->r, 0, b, 3);
	ring_kick(&st->r);
	driver_set(&st->d, C_STATUS, 0, 1);
	assert_int_equal(driver_get(&st->d, C_STATUS, 1), 0);
	st->w->err = 0;
	assert_int_equal(driver_negotiate(&st->d, ALL), 11);
	ring_init(&st->r, &st->d, 0, 16, false, RINGS);
	ring_enable(&st->r);
	driver_ok(&st->d);
	assert_int_equal(request(st, IN, 0, 512, true), OK);
	drop(st);
}

static void test_queues(void **state)
{
	struct st *st = make(false, false, 4, ALL | F_MQ);

	assert_true(driver_offered(&st->d) & F_MQ);
	assert_int_equal(driver_get(&st->d, C_NUM_QUEUES, 2), 4);
	assert_int_equal(mmio_in(&st->p, st->d.config + 34, 2), 4);
	drop(st);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_read_write),   cmocka_unit_test(test_get_id),
		cmocka_unit_test(test_bounds),       cmocka_unit_test(test_ranges),
		cmocka_unit_test(test_read_only),    cmocka_unit_test(test_without_flush),
		cmocka_unit_test(test_bad_requests), cmocka_unit_test(test_error_reported),
		cmocka_unit_test(test_error_stops),  cmocka_unit_test(test_reset_while_failed),
		cmocka_unit_test(test_queues),
	};

	log_set_level(LOG_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
