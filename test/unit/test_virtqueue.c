// SPDX-License-Identifier: MIT
/* Both kinds of rings from the driver's side, through the registers: chains of all shapes,
 * wrap-around, notification and interrupt suppression, batches, and every way in which a ring can
 * be wrong. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "ringtest.h"

#define RAM   (2 * MiB)
#define RINGS 0x100000
#define DATA  0x120000
#define TABLE 0x110000

struct echo {
	struct virtio v;
	u8 config[12];
	unsigned notified, started, stopped, queue_stopped;
	bool manual; /* the test pops */
	bool destroyed;
};

struct st {
	struct pcitest p;
	struct echo *e;
	struct driver d;
	struct ring r;
	bool packed;
};

/* Copies what it reads to what it writes. */
static void echo_notify(struct virtio *v, struct virtqueue *vq)
{
	struct echo *e = container_of(v, struct echo, v);
	struct vq_chain *c;
	u8 buf[4096];

	e->notified++;
	if (e->manual)
		return;
	while ((c = virtqueue_pop(vq))) {
		size_t n = vq_read(c, 0, buf, sizeof(buf));

		virtqueue_push(c, (u32)vq_write(c, 0, buf, n));
	}
	virtqueue_interrupt(vq);
}

static void echo_start(struct virtio *v)
{
	container_of(v, struct echo, v)->started++;
}

static void echo_stop(struct virtio *v)
{
	struct echo *e = container_of(v, struct echo, v);

	e->stopped++;
	for (unsigned i = 0; i < 2; i++)
		assert_false(virtqueue_live(virtio_queue(v, i)));
}

static void echo_queue_stop(struct virtio *v, struct virtqueue *vq)
{
	container_of(v, struct echo, v)->queue_stopped++;
}

static void echo_config_write(struct virtio *v, u32 off, const u8 *buf, u32 n)
{
	memcpy(container_of(v, struct echo, v)->config + off, buf, n);
}

static void echo_destroy(struct virtio *v)
{
	free(container_of(v, struct echo, v));
}

static const struct virtio_ops echo_ops = {
	.start = echo_start,
	.notify = echo_notify,
	.stop = echo_stop,
	.queue_stop = echo_queue_stop,
	.config_write = echo_config_write,
	.destroy = echo_destroy,
};

static struct st *make(void)
{
	struct st *st = calloc(1, sizeof(*st));
	struct virtio_config cfg = {.name = "echo",
	                            .id = 42,
	                            .features = BIT(3) | BIT(5),
	                            .nr_queues = 2,
	                            .queue_size = 16,
	                            .config_len = 12,
	                            .packed = true,
	                            .ops = &echo_ops};

	assert_non_null(st);
	pcitest_init(&st->p, RAM);
	st->e = calloc(1, sizeof(*st->e));
	assert_non_null(st->e);
	cfg.config = st->e->config;
	assert_int_equal(virtio_create(&st->e->v, &st->p.venv, &cfg), 0);
	assert_int_equal(pci_host_assign(st->p.host), 0);
	driver_init(&st->d, &st->p, 1);
	return st;
}

static int setup(void **state)
{
	*state = make();
	return 0;
}

static int teardown(void **state)
{
	struct st *st = *state;

	pcitest_fini(&st->p);
	free(st);
	return 0;
}

static void start(struct st *st, bool packed, u64 features, u16 size)
{
	if (packed)
		features |= VIRTIO_F_RING_PACKED;
	st->packed = packed;
	assert_int_equal(driver_negotiate(&st->d, features), 11);
	ring_init(&st->r, &st->d, 0, size, packed, RINGS);
	ring_enable(&st->r);
	assert_int_equal(driver_get(&st->d, C_QUEUE_ENABLE, 2), 1);
	driver_ok(&st->d);
}

/* MSI-X vector 1 for queue 0, 0 for the configuration. */
static void use_msix(struct st *st)
{
	u32 cap = cfg_cap(&st->p, 1, PCI_CAP_ID_MSIX, 0);

	for (unsigned i = 0; i < 2; i++) {
		mmio_out(&st->p, bar_base(&st->p, 1, 4) + 16ull * i, 0xfee00000, 8);
		mmio_out(&st->p, bar_base(&st->p, 1, 4) + 16ull * i + 8, 0x40 + i, 8);
	}
	cfg_write(&st->p, 1, cap + 2, 0x8000, 2);
	driver_set(&st->d, C_CONFIG_VECTOR, 0, 2);
	driver_set(&st->d, C_QUEUE_SELECT, 0, 2);
	driver_set(&st->d, C_QUEUE_VECTOR, 1, 2);
	assert_int_equal(driver_get(&st->d, C_QUEUE_VECTOR, 2), 1);
}

static bool broken(struct st *st)
{
	return driver_get(&st->d, C_STATUS, 1) & VIRTIO_S_NEEDS_RESET;
}

/* One request of `n` readable and `n` writable buffers of odd lengths; its bytes come back. */
static void echo_once(struct st *st, u16 id, unsigned n, bool indirect)
{
	struct buf b[16];
	u32 len = 0, got_id, got_len;
	unsigned total = 2 * n;

	for (unsigned i = 0; i < n; i++) {
		u32 l = 1 + (id * 7u + i * 13u) % 60;

		b[i] = (struct buf){DATA + 64 * i, l, 0};
		b[n + i] = (struct buf){DATA + 0x1000 + 64 * i, l, VIRTQ_DESC_F_WRITE};
		for (u32 k = 0; k < l; k++)
			ram_put(&st->p, b[i].addr + k, (u8)(id * 3u + i * 5u + k), 1);
		len += l;
	}
	pmap_zero(st->p.t.pmap, DATA + 0x1000, 64ull * n);
	if (indirect) {
		struct buf table = {TABLE + 3, 16 * total, VIRTQ_DESC_F_INDIRECT};

		for (unsigned i = 0; i < total; i++) {
			u16 next = !st->packed && i + 1 < total ? VIRTQ_DESC_F_NEXT : 0;

			desc_put(&st->p, table.addr, i, b[i].addr, b[i].len,
			         st->packed ? 0 : (u16)(b[i].flags | next),
			         st->packed ? b[i].flags : (u16)(i + 1));
		}
		ring_add(&st->r, id, &table, 1);
		total = 1;
	} else {
		ring_add(&st->r, id, b, total);
	}
	ring_kick(&st->r);
	assert_false(broken(st));
	assert_true(ring_used(&st->r, total, &got_id, &got_len));
	assert_int_equal(got_id, id);
	assert_int_equal(got_len, len);
	for (unsigned i = 0; i < n; i++)
		for (u32 k = 0; k < b[i].len; k++)
			assert_int_equal(ram_get(&st->p, b[n + i].addr + k, 1),
			                 (u8)(id * 3u + i * 5u + k));
}

static void test_echo(void **state)
{
	struct st *st = *state;

	for (unsigned kind = 0; kind < 2; kind++) {
		start(st, kind, VIRTIO_F_INDIRECT_DESC | VIRTIO_F_EVENT_IDX, 16);
		for (u16 i = 0; i < 200; i++)
			echo_once(st, i % 16, 1 + i % 6, i % 3 == 2);
	}
	/* packed rings need not be powers of two */
	start(st, true, VIRTIO_F_INDIRECT_DESC, 11);
	for (u16 i = 0; i < 200; i++)
		echo_once(st, i % 11, 1 + i % 5, i % 3 == 2);
	/* a split ring's indices wrap */
	start(st, false, 0, 8);
	for (u32 i = 0; i < 66000; i++) {
		struct buf b = {DATA, 1, VIRTQ_DESC_F_WRITE};
		u32 id, len;

		ring_add(&st->r, i % 8, &b, 1);
		ring_kick(&st->r);
		assert_true(ring_used(&st->r, 1, &id, &len));
		assert_int_equal(id, i % 8);
	}
}

static void test_negotiation(void **state)
{
	struct st *st = *state;
	const struct driver *d = &st->d;

	assert_true(driver_offered(d) ==
	            (BIT(3) | BIT(5) | VIRTIO_F_INDIRECT_DESC | VIRTIO_F_EVENT_IDX |
	             VIRTIO_F_VERSION_1 | VIRTIO_F_RING_PACKED | VIRTIO_F_RING_RESET));
	assert_int_equal(driver_get(d, C_NUM_QUEUES, 2), 2);
	assert_int_equal(driver_negotiate(d, BIT(3)), 11);
	assert_int_equal(driver_negotiate(d, BIT(4)), 3); /* not offered */
	driver_set(d, C_STATUS, 15, 1);
	assert_int_equal(driver_get(d, C_STATUS, 1), 3);
	assert_int_equal(st->e->started, 0);
	/* without version 1 */
	driver_set(d, C_STATUS, 0, 1);
	driver_set(d, C_STATUS, 11, 1);
	assert_int_equal(driver_get(d, C_STATUS, 1), 3);
	/* features are settled by FEATURES_OK */
	driver_negotiate(d, BIT(3));
	driver_set(d, C_DRIVER_FEATURE_SELECT, 0, 4);
	driver_set(d, C_DRIVER_FEATURE, BIT(5), 4);
	assert_true(st->e->v.driver_features == (BIT(3) | VIRTIO_F_VERSION_1));
	driver_ok(d);
	assert_int_equal(st->e->started, 1);
	/* bits are not taken back but by a reset, which stops the device once */
	driver_set(d, C_STATUS, 1, 1);
	assert_int_equal(driver_get(d, C_STATUS, 1), 15);
	driver_set(d, C_STATUS, 0, 1);
	assert_int_equal(driver_get(d, C_STATUS, 1), 0);
	driver_set(d, C_STATUS, 0, 1);
	assert_int_equal(st->e->stopped, 1);
}

static void test_registers(void **state)
{
	struct st *st = *state;
	const struct driver *d = &st->d;

	/* a queue that is not there */
	driver_set(d, C_QUEUE_SELECT, 2, 2);
	assert_int_equal(driver_get(d, C_QUEUE_SIZE, 2), 0);
	driver_set(d, C_QUEUE_ENABLE, 1, 2);
	driver_set(d, C_QUEUE_SELECT, 1, 2);
	assert_int_equal(driver_get(d, C_QUEUE_SIZE, 2), 16);
	assert_int_equal(driver_get(d, C_QUEUE_VECTOR, 2), 0xffff);
	driver_set(d, C_QUEUE_VECTOR, 3, 2); /* of 3 */
	assert_int_equal(driver_get(d, C_QUEUE_VECTOR, 2), 0xffff);
	driver_set(d, C_QUEUE_VECTOR, 2, 2);
	assert_int_equal(driver_get(d, C_QUEUE_VECTOR, 2), 2);
	driver_set(d, C_QUEUE_DESC, 0x123456789abcdef0, 8);
	assert_true(driver_get(d, C_QUEUE_DESC, 8) == 0x123456789abcdef0);
	driver_set(d, C_QUEUE_DESC + 4, 7, 4);
	assert_true(driver_get(d, C_QUEUE_DESC, 8) == 0x79abcdef0);
	/* widths that the specification does not know */
	driver_set(d, C_QUEUE_DESC, 0, 2);
	driver_set(d, C_QUEUE_SIZE, 0, 4);
	assert_true(driver_get(d, C_QUEUE_DESC, 8) == 0x79abcdef0);
	assert_int_equal(driver_get(d, C_QUEUE_SIZE, 2), 16);
	/* the device's configuration */
	for (unsigned i = 0; i < 12; i++)
		st->e->config[i] = (u8)(i + 1);
	assert_int_equal(mmio_in(&st->p, d->config + 4, 4), 0x08070605);
	assert_int_equal(mmio_in(&st->p, d->config + 11, 1), 12);
	assert_int_equal(mmio_in(&st->p, d->config + 12, 4), 0);
	mmio_out(&st->p, d->config + 2, 0xbeef, 2);
	assert_int_equal(mmio_in(&st->p, d->config, 4), 0xbeef0201);
	mmio_out(&st->p, d->config + 10, ~0u, 4); /* over its end */
	assert_int_equal(st->e->config[11], 12);
	/* its generation */
	u64 g = driver_get(d, C_GENERATION, 1);

	virtio_config_changed(&st->e->v);
	assert_int_equal(driver_get(d, C_GENERATION, 1), (u8)(g + 1));
}

/* 4.1.4.9: everything through configuration space. */
static void test_pci_access(void **state)
{
	struct st *st = *state;
	u32 at, cap = 0;

	for (unsigned n = 0; (at = cfg_cap(&st->p, 1, PCI_CAP_ID_VENDOR, n)); n++)
		if (cfg_read(&st->p, 1, at + 3, 1) == 5)
			cap = at;
	assert_int_not_equal(cap, 0);
	cfg_write(&st->p, 1, cap + 4, 0, 1); /* BAR 0, number of queues */
	cfg_write(&st->p, 1, cap + 8, C_NUM_QUEUES, 4);
	cfg_write(&st->p, 1, cap + 12, 2, 4);
	assert_int_equal(cfg_read(&st->p, 1, cap + 16, 2), 2);
	cfg_write(&st->p, 1, cap + 8, C_STATUS, 4);
	cfg_write(&st->p, 1, cap + 12, 1, 4);
	cfg_write(&st->p, 1, cap + 16, 3, 1);
	assert_int_equal(driver_get(&st->d, C_STATUS, 1), 3);
	/* a notification */
	start(st, false, 0, 16);
	st->e->notified = 0;
	cfg_write(&st->p, 1, cap + 4, 2, 1);
	cfg_write(&st->p, 1, cap + 8, 0, 4);
	cfg_write(&st->p, 1, cap + 12, 2, 4);
	cfg_write(&st->p, 1, cap + 16, 0, 2);
	assert_int_equal(st->e->notified, 1);
	/* nonsense: bad BARs, lengths and offsets do nothing */
	for (u32 i = 0; i < 4096; i++) {
		cfg_write(&st->p, 1, cap + 4, i * 37 & 0xff, 1);
		cfg_write(&st->p, 1, cap + 8, i % 3 ? i * 0x9e3779b9u : 0xffffffffu - i, 4);
		cfg_write(&st->p, 1, cap + 12, i % 7, 4);
		cfg_read(&st->p, 1, cap + 16, 4);
		if (cfg_read(&st->p, 1, cap + 4, 1))
			cfg_write(&st->p, 1, cap + 16, i, 4);
	}
}

static void add_one(struct st *st, u16 id)
{
	struct buf b = {DATA, 8, VIRTQ_DESC_F_WRITE};

	ring_add(&st->r, id, &b, 1);
}

static unsigned msis_of(struct st *st, u16 id)
{
	unsigned before = st->p.msis;
	u32 i, len;

	add_one(st, id);
	ring_kick(&st->r);
	assert_true(ring_used(&st->r, 1, &i, &len));
	return st->p.msis - before;
}

static void test_interrupts_split(void **state)
{
	struct st *st = *state;

	start(st, false, 0, 16);
	use_msix(st);
	assert_int_equal(msis_of(st, 0), 1);
	assert_int_equal(st->p.msi_data, 0x41);
	ram_put(&st->p, st->r.driver, 1, 2); /* VIRTQ_AVAIL_F_NO_INTERRUPT */
	assert_int_equal(msis_of(st, 1), 0);
	ram_put(&st->p, st->r.driver, 0, 2);
	assert_int_equal(msis_of(st, 2), 1);

	start(st, false, VIRTIO_F_EVENT_IDX, 16);
	use_msix(st);
	assert_int_equal(msis_of(st, 0), 1); /* the first is always told */
	ram_put(&st->p, st->r.driver + 4 + 32, 3, 2);
	assert_int_equal(msis_of(st, 1), 0);
	assert_int_equal(msis_of(st, 2), 0);
	assert_int_equal(msis_of(st, 3), 1);
	assert_int_equal(msis_of(st, 4), 0);
	/* what the device wants: to be notified at the next index */
	assert_int_equal(ram_get(&st->p, st->r.device + 4 + 8 * 16, 2), 5);
}

static void test_interrupts_packed(void **state)
{
	struct st *st = *state;

	start(st, true, VIRTIO_F_EVENT_IDX, 8);
	use_msix(st);
	assert_int_equal(msis_of(st, 0), 1);
	ram_put(&st->p, st->r.driver + 2, 1, 2); /* disable */
	assert_int_equal(msis_of(st, 1), 0);
	ram_put(&st->p, st->r.driver, 4 | 1 << 15, 2);
	ram_put(&st->p, st->r.driver + 2, 2, 2); /* at place 4 of the first lap */
	assert_int_equal(msis_of(st, 2), 0);
	assert_int_equal(msis_of(st, 3), 0);
	assert_int_equal(msis_of(st, 4), 1);
	assert_int_equal(msis_of(st, 5), 0);
	ram_put(&st->p, st->r.driver, 1, 2); /* place 1 of the second lap */
	assert_int_equal(msis_of(st, 6), 0);
	assert_int_equal(msis_of(st, 7), 0);
	assert_int_equal(msis_of(st, 0), 0);
	assert_int_equal(msis_of(st, 1), 1);
	assert_int_equal(msis_of(st, 2), 0);
}

static void test_pin(void **state)
{
	struct st *st = *state;

	start(st, false, 0, 16);
	add_one(st, 0);
	ring_kick(&st->r);
	loop_post(st->p.t.loop, (void (*)(void *))loop_stop, st->p.t.loop);
	loop_run(st->p.t.loop);
	assert_true(st->p.t.irq.level[17]);
	assert_int_equal(mmio_in(&st->p, st->d.isr, 1), 1);
	assert_false(st->p.t.irq.level[17]);
	assert_int_equal(mmio_in(&st->p, st->d.isr, 1), 0);
}

static void test_suppress_notifications(void **state)
{
	struct st *st = *state;
	struct virtqueue *vq = virtio_queue(&st->e->v, 0);

	st->e->manual = true;
	start(st, false, 0, 16);
	virtqueue_notify_off(vq);
	assert_int_equal(ram_get(&st->p, st->r.device, 2), 1);
	assert_false(virtqueue_notify_on(vq));
	assert_int_equal(ram_get(&st->p, st->r.device, 2), 0);
	virtqueue_notify_off(vq);
	add_one(st, 0);
	assert_true(virtqueue_notify_on(vq));
	assert_false(virtqueue_empty(vq));

	start(st, true, 0, 16);
	virtqueue_notify_off(vq);
	assert_int_equal(ram_get(&st->p, st->r.device + 2, 2), 1);
	add_one(st, 0);
	assert_true(virtqueue_notify_on(vq));
	assert_int_equal(ram_get(&st->p, st->r.device + 2, 2), 0);
}

/* Chains that are completed in another order, in a batch, given back, or too late. */
static void test_orders(void **state)
{
	struct st *st = *state;
	struct virtqueue *vq = virtio_queue(&st->e->v, 0);
	struct vq_chain *c[4];
	u32 id, len;

	st->e->manual = true;
	for (unsigned kind = 0; kind < 2; kind++) {
		start(st, kind, 0, 4);
		for (u16 i = 0; i < 4; i++)
			add_one(st, i);
		for (unsigned i = 0; i < 4; i++)
			assert_non_null(c[i] = virtqueue_pop(vq));
		assert_null(virtqueue_pop(vq));
		assert_true(virtqueue_empty(vq));
		virtqueue_unpop(c[3]);
		assert_false(virtqueue_empty(vq));
		assert_non_null(c[3] = virtqueue_pop(vq));
		virtqueue_fill(c[2], 8);
		virtqueue_fill(c[0], 7);
		assert_false(ring_used(&st->r, 1, &id, &len));
		virtqueue_flush(vq);
		assert_true(ring_used(&st->r, 1, &id, &len) && id == 2 && len == 8);
		assert_true(ring_used(&st->r, 1, &id, &len) && id == 0 && len == 7);
		assert_false(ring_used(&st->r, 1, &id, &len));
		virtqueue_push(c[3], 0);
		assert_true(ring_used(&st->r, 1, &id, &len) && id == 3 && len == 0);
		/* after a reset nothing reaches the guest's memory */
		driver_set(&st->d, C_STATUS, 0, 1);
		pmap_zero(st->p.t.pmap, RINGS, 0x3000);
		virtqueue_push(c[1], 8);
		for (gpa_t at = RINGS; at < RINGS + 0x3000; at += 8)
			assert_true(ram_get(&st->p, at, 8) == 0);
		assert_false(broken(st));
	}
}

static void test_queue_reset(void **state)
{
	struct st *st = *state;

	start(st, false, VIRTIO_F_RING_RESET, 16);
	echo_once(st, 0, 2, false);
	driver_set(&st->d, C_QUEUE_SELECT, 0, 2);
	driver_set(&st->d, C_QUEUE_RESET, 1, 2);
	assert_int_equal(driver_get(&st->d, C_QUEUE_RESET, 2), 0);
	assert_int_equal(driver_get(&st->d, C_QUEUE_ENABLE, 2), 0);
	assert_int_equal(st->e->queue_stopped, 1);
	ring_init(&st->r, &st->d, 0, 8, false, RINGS + 0x4000);
	ring_enable(&st->r);
	echo_once(st, 3, 2, false);
	/* not without the feature */
	start(st, false, 0, 16);
	driver_set(&st->d, C_QUEUE_RESET, 1, 2);
	assert_int_equal(driver_get(&st->d, C_QUEUE_ENABLE, 2), 1);
}

static void test_bus_master(void **state)
{
	struct st *st = *state;
	u32 id, len;

	start(st, false, 0, 16);
	cfg_write(&st->p, 1, PCI_COMMAND, 2, 2);
	add_one(st, 0);
	ring_kick(&st->r);
	assert_false(ring_used(&st->r, 1, &id, &len));
	cfg_write(&st->p, 1, PCI_COMMAND, 6, 2); /* what was missed is served */
	assert_true(ring_used(&st->r, 1, &id, &len));
	dev_reset_all(st->p.t.devices); /* the machine's reset takes it away again */
	cfg_write(&st->p, 1, PCI_INTERRUPT_LINE, 0, 1);
	assert_false(st->e->v.master);
}

/* A write hook sees what the device writes, and no store goes around it. */
struct hook {
	struct pmap_write_hook h;
	u64 bytes;
};

static bool hook_write(void *arg, gpa_t gpa, const void *buf, u64 len)
{
	((struct hook *)arg)->bytes += len;
	return true; /* not to be made */
}

static void test_write_hook(void **state)
{
	struct st *st = *state;

	for (unsigned kind = 0; kind < 2; kind++) {
		struct hook h = {.h = {.write = hook_write, .arg = &h}};
		struct buf b[2] = {{DATA, 32, 0}, {DATA + 64, 32, VIRTQ_DESC_F_WRITE}};
		u32 id, len;

		start(st, kind, 0, 16);
		ram_put(&st->p, DATA, 0x1122, 2);
		ram_put(&st->p, DATA + 64, 0, 8);
		ring_add(&st->r, 0, b, 2);
		st->p.t.pmap->write_hook = &h.h;
		ring_kick(&st->r);
		st->p.t.pmap->write_hook = NULL;
		assert_true(h.bytes >= 32 + 8);
		assert_int_equal(ram_get(&st->p, DATA + 64, 8), 0);
		assert_false(ring_used(&st->r, 2, &id, &len));
	}
}

/* A page with decoded code that a device writes into: the mark goes, the version moves. */
static void test_code_marks(void **state)
{
	struct st *st = *state;
	struct pmap *pm = st->p.t.pmap;
	_Atomic u32 *ver = &pm->code_ver[(DATA + 0x1000) >> PAGE_SHIFT];
	u32 v;

	for (unsigned kind = 0; kind < 2; kind++) {
		start(st, kind, 0, 16);
		v = pmap_code_mark(pm, ver);
		echo_once(st, 1, 1, false);
		assert_int_not_equal(*ver, v);
		assert_int_equal(*ver & PMAP_CODE_MARKED, 0);
		/* and the ring itself */
		v = pmap_code_mark(pm, &pm->code_ver[st->r.device >> PAGE_SHIFT]);
		pmap_code_mark(pm, &pm->code_ver[st->r.desc >> PAGE_SHIFT]);
		echo_once(st, 2, 1, false);
		if (kind)
			assert_int_equal(pm->code_ver[st->r.desc >> PAGE_SHIFT] & 1, 0);
		else
			assert_int_equal(pm->code_ver[st->r.device >> PAGE_SHIFT] & 1, 0);
	}
}

/* ---- hostile rings ---- */

static void expect_broken(struct st *st, const char *what)
{
	u32 id, len;

	ring_kick(&st->r);
	if (!broken(st))
		fail_msg("%s was taken", what);
	assert_false(ring_used(&st->r, 1, &id, &len));
	assert_null(virtqueue_pop(virtio_queue(&st->e->v, 0)));
	/* the configuration interrupt says so */
	assert_int_equal(st->p.msi_data, 0x40);
	/* and it works again after a reset */
	start(st, st->packed, VIRTIO_F_INDIRECT_DESC, 16);
	assert_false(broken(st));
	echo_once(st, 1, 2, true);
	start(st, st->packed, VIRTIO_F_INDIRECT_DESC, 16);
	use_msix(st);
	st->p.msi_data = 0;
}

static void bad_chain(struct st *st, const struct buf *b, unsigned n, const char *what)
{
	ring_add(&st->r, 0, b, n);
	expect_broken(st, what);
}

#define W VIRTQ_DESC_F_WRITE
#define I VIRTQ_DESC_F_INDIRECT
#define N VIRTQ_DESC_F_NEXT

static void bad_buffers(struct st *st)
{
	bad_chain(st, (struct buf[]){{RAM - 4, 8, W}}, 1, "over the end of RAM");
	bad_chain(st, (struct buf[]){{0xa0000, 8, 0}}, 1, "no RAM");
	bad_chain(st, (struct buf[]){{0x9fffc, 8, 0}}, 1, "across a hole");
	bad_chain(st, (struct buf[]){{~0ull - 3, 8, W}}, 1, "wrap-around");
	bad_chain(st, (struct buf[]){{ECAM, 8, W}}, 1, "a device's memory");
	bad_chain(st, (struct buf[]){{0, 0xffffffff, W}}, 1, "4 GiB");
	bad_chain(st, (struct buf[]){{DATA, 8, W}, {DATA, 8, 0}}, 2, "readable behind writable");
	bad_chain(st, (struct buf[]){{TABLE, 0, I}}, 1, "empty table");
	bad_chain(st, (struct buf[]){{TABLE, 24, I}}, 1, "one and a half descriptors");
	bad_chain(st, (struct buf[]){{RAM - 16, 32, I}}, 1, "table over the end");
	bad_chain(st, (struct buf[]){{TABLE, 16 * 1025, I}}, 1, "table too long");
	desc_put(&st->p, TABLE, 0, TABLE, 16, st->packed ? 0 : I, st->packed ? I : 0);
	bad_chain(st, (struct buf[]){{TABLE, 16, I}}, 1, "table in a table");
	bad_chain(st, (struct buf[]){{TABLE, 16, I}, {DATA, 8, W}}, 2, "table with NEXT");
}

static void test_bad_split(void **state)
{
	struct st *st = *state;

	start(st, false, VIRTIO_F_INDIRECT_DESC, 16);
	use_msix(st);
	bad_buffers(st);
	ram_put(&st->p, st->r.driver + 2, 17, 2);
	expect_broken(st, "index too far");
	ram_put(&st->p, st->r.driver + 2, 0xffff, 2);
	expect_broken(st, "index backwards");
	ram_put(&st->p, st->r.driver + 4, 16, 2);
	ram_put(&st->p, st->r.driver + 2, 1, 2);
	expect_broken(st, "head");
	desc_put(&st->p, st->r.desc, 0, DATA, 8, N, 16);
	ram_put(&st->p, st->r.driver + 2, 1, 2);
	expect_broken(st, "next");
	desc_put(&st->p, st->r.desc, 0, DATA, 8, N, 1);
	desc_put(&st->p, st->r.desc, 1, DATA, 8, N, 0);
	ram_put(&st->p, st->r.driver + 2, 1, 2);
	expect_broken(st, "loop");
	desc_put(&st->p, TABLE, 0, DATA, 8, N, 0);
	bad_chain(st, (struct buf[]){{TABLE, 16, I}}, 1, "loop in a table");
	desc_put(&st->p, TABLE, 0, DATA, 8, N, 1);
	bad_chain(st, (struct buf[]){{TABLE, 16, I}}, 1, "next in a table");
	/* without the feature */
	start(st, false, 0, 16);
	use_msix(st);
	desc_put(&st->p, TABLE, 0, DATA, 8, 0, 0);
	bad_chain(st, (struct buf[]){{TABLE, 16, I}}, 1, "table without the feature");
}

static void test_bad_packed(void **state)
{
	struct st *st = *state;

	start(st, true, VIRTIO_F_INDIRECT_DESC, 16);
	use_msix(st);
	bad_buffers(st);
	/* NEXT, and the next one is not available */
	desc_put(&st->p, st->r.desc, 0, DATA, 8, 0, N | VIRTQ_DESC_F_AVAIL);
	expect_broken(st, "half a chain");
	/* all 16 have NEXT: the chain never ends */
	for (unsigned i = 0; i < 16; i++)
		desc_put(&st->p, st->r.desc, i, DATA, 8, 0, N | VIRTQ_DESC_F_AVAIL);
	expect_broken(st, "endless chain");
}

static void test_bad_queues(void **state)
{
	struct st *st = *state;
	static const struct {
		gpa_t desc, driver, device;
		u16 size;
		bool packed;
	} bad[] = {
		{RINGS + 8, RINGS + 0x1000, RINGS + 0x2000, 16, false},
		{RINGS, RINGS + 0x1001, RINGS + 0x2000, 16, false},
		{RINGS, RINGS + 0x1000, RINGS + 0x2002, 16, false},
		{RINGS, RINGS + 0x1002, RINGS + 0x2000, 16, true},
		{RAM - 128, RINGS + 0x1000, RINGS + 0x2000, 16, false},
		{RINGS, RAM - 32, RINGS + 0x2000, 16, false},
		{RINGS, RINGS + 0x1000, RAM - 64, 16, false},
		{0xa0000, RINGS + 0x1000, RINGS + 0x2000, 16, true},
		{RINGS, ~0ull << 12, RINGS + 0x2000, 16, false},
		{RINGS, RINGS + 0x1000, RINGS + 0x2000, 0, false},
		{RINGS, RINGS + 0x1000, RINGS + 0x2000, 12, false},
		{RINGS, RINGS + 0x1000, RINGS + 0x2000, 32, false},
		{RINGS, RINGS + 0x1000, RINGS + 0x2000, 0xffff, true},
	};

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		struct ring r = {&st->d,        0,
		                 bad[i].size,   bad[i].packed,
		                 bad[i].desc,   bad[i].driver,
		                 bad[i].device, .avail_wrap = true};

		assert_int_equal(driver_negotiate(&st->d, bad[i].packed ? VIRTIO_F_RING_PACKED : 0),
		                 11);
		ring_enable(&r);
		if (driver_get(&st->d, C_QUEUE_ENABLE, 2) || !broken(st))
			fail_msg("bad queue %u was taken", i);
		driver_ok(&st->d);
		ring_kick(&r);
	}
	/* before FEATURES_OK */
	driver_set(&st->d, C_STATUS, 0, 1);
	ring_init(&st->r, &st->d, 0, 16, false, RINGS);
	ring_enable(&st->r);
	assert_int_equal(driver_get(&st->d, C_QUEUE_ENABLE, 2), 0);
	/* a notification of a queue that is not there */
	mmio_out(&st->p, st->d.notify + 8, 2, 2);
	mmio_out(&st->p, st->d.notify + 0xffc, 2, 2);
	assert_int_equal(st->e->notified, 0);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_echo),
		T(test_negotiation),
		T(test_registers),
		T(test_pci_access),
		T(test_interrupts_split),
		T(test_interrupts_packed),
		T(test_pin),
		T(test_suppress_notifications),
		T(test_orders),
		T(test_queue_reset),
		T(test_bus_master),
		T(test_write_hook),
		T(test_code_marks),
		T(test_bad_split),
		T(test_bad_packed),
		T(test_bad_queues),
	};

	log_set_level(LOG_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
