// SPDX-License-Identifier: MIT
/* A hostile driver: rings of both kinds in memory that it fills with anything, registers in any
 * order, chains that are completed late, given back or dropped across resets. The device touches
 * every byte of what it is handed, so that a pointer outside of RAM is found; RAM lies between
 * pages that are not mapped. */
#include "fuzz_virtio.h"

#define RAM       (2 * MiB)
#define RINGS     0x100000
#define DATA      0x108000
#define MAX_CHAIN 64

struct toy {
	struct virtio v;
	struct input *in;
	struct vq_chain *kept[MAX_CHAIN];
	unsigned nr_kept;
};

struct machine {
	struct pcitest p;
	struct driver d;
	struct ring r[2];
	struct toy *toy;
};

static void inside(const struct pmap *p, const struct iovec *iov, unsigned nr)
{
	for (unsigned i = 0; i < nr; i++) {
		const u8 *at = iov[i].iov_base;

		if (!iov[i].iov_len || at < p->hva || at >= p->hva + p->ram_size ||
		    iov[i].iov_len > (size_t)(p->hva + p->ram_size - at))
			abort();
	}
}

static void check(const struct pmap *p, const struct vq_chain *c)
{
	u64 rd = 0, wr = 0;

	inside(p, c->rd, c->nr_rd);
	inside(p, c->wr, c->nr_wr);
	for (unsigned i = 0; i < c->nr_rd; i++)
		rd += c->rd[i].iov_len;
	for (unsigned i = 0; i < c->nr_wr; i++)
		wr += c->wr[i].iov_len;
	if (rd != c->rd_len || wr != c->wr_len || c->nr_rd + c->nr_wr > VQ_MAX_PARTS)
		abort();
}

static void finish(struct toy *t, unsigned i, unsigned how)
{
	struct vq_chain *c = t->kept[i];
	struct virtqueue *vq = c->vq;

	t->kept[i] = t->kept[--t->nr_kept];
	if (how == 0)
		virtqueue_fill(c, c->wr_len ? (u32)take(t->in, 2) % c->wr_len : 0);
	else
		virtqueue_push(c, c->wr_len);
	if (how == 2)
		virtqueue_interrupt(vq);
}

static void toy_notify(struct virtio *v, struct virtqueue *vq)
{
	struct toy *t = container_of(v, struct toy, v);
	unsigned limit = (unsigned)take(t->in, 1) % 40;
	struct vq_chain *c;

	if (limit & 1)
		virtqueue_notify_off(vq);
	while (limit-- && t->nr_kept < MAX_CHAIN && (c = virtqueue_pop(vq))) {
		u8 buf[256];
		size_t n = vq_read(c, 0, buf, sizeof(buf));

		check(v->env.pmap, c);
		vq_write(c, take(t->in, 1), buf, n);
		if (limit % 7 == 3) {
			virtqueue_unpop(c);
			break;
		}
		t->kept[t->nr_kept++] = c;
		if (limit % 3)
			finish(t, t->nr_kept - 1, limit % 3);
	}
	virtqueue_flush(vq);
	virtqueue_notify_on(vq);
	virtqueue_interrupt(vq);
}

static void toy_queue_stop(struct virtio *v, struct virtqueue *vq)
{
}

static void toy_destroy(struct virtio *v)
{
	struct toy *t = container_of(v, struct toy, v);

	while (t->nr_kept)
		virtqueue_drop(t->kept[--t->nr_kept]);
	free(t);
}

static const struct virtio_ops toy_ops = {
	.notify = toy_notify,
	.queue_stop = toy_queue_stop,
	.destroy = toy_destroy,
};

static void machine_make(struct machine *m, struct input *in)
{
	const struct virtio_config cfg = {.name = "toy",
	                                  .id = 42,
	                                  .nr_queues = 2,
	                                  .queue_size = 32,
	                                  .packed = true,
	                                  .ops = &toy_ops};

	pcitest_init(&m->p, RAM);
	m->toy = calloc(1, sizeof(*m->toy));
	if (!m->toy || virtio_create(&m->toy->v, &m->p.venv, &cfg) || pci_host_assign(m->p.host))
		abort();
	m->toy->in = in;
	driver_init(&m->d, &m->p, 1);
}

/* A driver that gets as far as DRIVER_OK. */
static void start(struct machine *m, u8 how)
{
	bool packed = how & 1;
	u64 f = (packed ? VIRTIO_F_RING_PACKED : 0) | (how & 2 ? VIRTIO_F_EVENT_IDX : 0) |
	        (how & 4 ? VIRTIO_F_INDIRECT_DESC : 0) | (how & 8 ? VIRTIO_F_RING_RESET : 0);
	u16 size = packed ? (u16)(1 + (how >> 4) * 2) : (u16)(1u << (how >> 4) % 6);

	fuzz_start(&m->d, m->r, 2, f, size, RINGS);
}

static void add(struct machine *m, struct input *in, u8 op)
{
	struct ring *r = &m->r[op >> 3 & 1];
	struct buf b[8];
	unsigned n = 1 + (op >> 4 & 7);

	if (!r->size)
		return;
	for (unsigned i = 0; i < n; i++) {
		u32 x = (u32)take(in, 4);

		b[i] = (struct buf){DATA + (x & 0xffff), x >> 16 & 0xfff,
		                    (u16)((x >> 28 & 3) << 1)};
		if (x >> 30 == 3)
			b[i].addr = x;
	}
	ring_add(r, (u16)(take(in, 1) % r->size), b, n);
}

static void step(struct machine *m, struct input *in)
{
	u8 op = (u8)take(in, 1);

	switch (op & 7) {
	case 0:
		start(m, (u8)take(in, 1));
		break;
	case 1: /* any register */
		fuzz_register(&m->d, in, op);
		break;
	case 2: /* anything into the rings and what they point to */
		fuzz_memory(&m->p, in, op, RINGS, 0xa000);
		break;
	case 3:
	case 4:
		add(m, in, op);
		break;
	case 5:
		mmio_out(&m->p, m->d.notify + (op >> 3 & 3) * 4, 0, 2);
		break;
	case 6:
		if (m->toy->nr_kept)
			finish(m->toy, (unsigned)take(in, 1) % m->toy->nr_kept, (op >> 3) % 3);
		virtqueue_flush(virtio_queue(&m->toy->v, op >> 7));
		break;
	case 7:
		if (op >> 3 == 31)
			dev_reset_all(m->p.t.devices);
		else if (op >> 3 & 1)
			cfg_write(&m->p, 1, (u32)take(in, 1), (u32)take(in, 4), 4);
		else
			mmio_in(&m->p, m->d.isr, 1);
		break;
	}
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	struct machine *m = calloc(1, sizeof(*m));
	struct input in = {data, size};

	fuzz_quiet();
	if (!m)
		abort();
	machine_make(m, &in);
	start(m, (u8)take(&in, 1));
	for (unsigned i = 0; in.left && i < 2000; i++)
		step(m, &in);
	fuzz_dump(&m->p);
	pcitest_fini(&m->p);
	free(m);
	return 0;
}
