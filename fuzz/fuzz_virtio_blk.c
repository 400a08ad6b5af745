// SPDX-License-Identifier: MIT
/* A hostile driver of a disk: requests with any header, any buffers, over any registers and rings,
 * resets in between. The image's own checks (bounds of each request) and the sanitizers judge; the
 * image lies on a RAM disk and fails now and then. */
#include "dev/virtio_blk.h"
#include "fuzz_virtio.h"
#include "io/disk.h"

#define RAM   (2 * MiB)
#define RINGS 0x100000
#define HEADS 0x10a000
#define DATA  0x110000
#define DISK  (64 * KiB)

/* Runs every request at once, or keeps it for later. */
struct fake {
	struct block block;
	u8 *mem;
	TAILQ_HEAD(, block_req) held;
	unsigned mode;
};

struct machine {
	struct pcitest p;
	struct driver d;
	struct ring r[2];
	struct fake *f;
};

static void serve(struct fake *f, struct block_req *r)
{
	u64 sum = 0;

	if (r->op != BLOCK_FLUSH && (r->offset > DISK || r->len > DISK - r->offset))
		abort();
	if (r->op == BLOCK_READ || r->op == BLOCK_WRITE) {
		if (r->nr_iov > BLOCK_MAX_IOV || iov_total(r->iov, r->nr_iov) != r->len)
			abort();
		for (unsigned i = 0; i < r->nr_iov; sum += r->iov[i++].iov_len) {
			u8 *at = f->mem + r->offset + sum;

			if (r->op == BLOCK_READ)
				memcpy(r->iov[i].iov_base, at, r->iov[i].iov_len);
			else
				memcpy(at, r->iov[i].iov_base, r->iov[i].iov_len);
		}
	}
	r->done(r, f->mode & 2 ? -28 : 0);
}

static void fake_serve(struct block *b)
{
	struct fake *f = container_of(b, struct fake, block);
	struct block_req *r;
	unsigned n = 0; /* a driver that tries again for ever has its turn later */

	while (n++ < 1000 && (r = TAILQ_FIRST(&f->held))) {
		TAILQ_REMOVE(&f->held, r, order);
		serve(f, r);
	}
	if (b->settled)
		b->settled(b->settled_arg);
}

static void fake_submit(struct block *b, struct block_req *r)
{
	TAILQ_INSERT_TAIL(&container_of(b, struct fake, block)->held, r, order);
}

static void fake_kick(struct block *b)
{
	if (!(container_of(b, struct fake, block)->mode & 1))
		fake_serve(b);
}

static void fake_destroy(struct block *b)
{
	struct fake *f = container_of(b, struct fake, block);

	if (!TAILQ_EMPTY(&f->held))
		abort();
	free(f->mem);
	free(f);
}

static const struct block_ops fake_ops = {
	.submit = fake_submit, .kick = fake_kick, .drain = fake_serve, .destroy = fake_destroy};

static void on_error(void *arg)
{
}

static void machine_make(struct machine *m, u8 how)
{
	struct virtio_blk_config cfg = {.serial = "s",
	                                .queues = 2,
	                                .packed = true,
	                                .host_error = how & 1 ? on_error : NULL};

	pcitest_init(&m->p, RAM);
	m->f = calloc(1, sizeof(*m->f));
	if (!m->f)
		abort();
	m->f->mem = calloc(1, DISK);
	TAILQ_INIT(&m->f->held);
	m->f->block = (struct block){.ops = &fake_ops,
	                             .name = "fake",
	                             .size = DISK,
	                             .ro = how & 2,
	                             .can_discard = true,
	                             .block_size = 512,
	                             .granule = 4096};
	cfg.back = &m->f->block;
	if (virtio_blk_create(&m->p.venv, &cfg) || pci_host_assign(m->p.host))
		abort();
	driver_init(&m->d, &m->p, 1);
}

static void start(struct machine *m, u8 how)
{
	u64 f = (how & 1 ? VIRTIO_F_RING_PACKED : 0) | (how & 2 ? VIRTIO_F_EVENT_IDX : 0) |
	        VIRTIO_F_INDIRECT_DESC | VIRTIO_F_RING_RESET | (how & 4 ? 0x7244ull : 0) |
	        (how & 8 ? BIT(9) : 0);

	fuzz_start(&m->d, m->r, 2, f, 16, RINGS);
}

/* A request that is nearly right. */
static void add(struct machine *m, struct input *in, u8 op)
{
	static const u32 types[] = {0, 1, 4, 8, 11, 13, 0, 1};
	struct ring *r = &m->r[op >> 3 & 1];
	u16 id = (u16)(take(in, 1) % 16);
	gpa_t head = HEADS + id * 32ull;
	u32 x = (u32)take(in, 4);
	struct buf b[4] = {{head, 16, 0},
	                   {DATA + (x & 0xfff0), (x >> 16 & 0x3f) * 256, (u16)(x >> 24 & 2)},
	                   {DATA + 0x20000, (x >> 25 & 3) * 256, VIRTQ_DESC_F_WRITE},
	                   {head + 16, 1, VIRTQ_DESC_F_WRITE}};
	unsigned n = 4;

	if (!r->size)
		return;
	ram_put(&m->p, head, op & 0x80 ? take(in, 1) : types[op >> 4 & 7], 4);
	ram_put(&m->p, head + 8, take(in, 1), 8);
	if (!(x >> 27 & 3)) /* ranges */
		for (unsigned i = 0; i < 3; i++) {
			ram_put(&m->p, b[1].addr + 16 * i, take(in, 1), 8);
			ram_put(&m->p, b[1].addr + 16 * i + 8, take(in, 1), 4);
			ram_put(&m->p, b[1].addr + 16 * i + 12, take(in, 1) & 3, 4);
			b[1].len = 16 * (i + 1);
		}
	if (!b[2].len)
		b[2] = b[--n];
	if (x >> 29 == 7)
		b[x & 3].len = (u32)take(in, 2);
	ring_add(r, id, b, n);
}

static void step(struct machine *m, struct input *in)
{
	u8 op = (u8)take(in, 1);

	switch (op & 7) {
	case 0:
		if (op >> 5 == 0)
			start(m, (u8)take(in, 1));
		else
			fake_serve(&m->f->block);
		break;
	case 1:
		fuzz_register(&m->d, in, op);
		break;
	case 2:
		fuzz_memory(&m->p, in, op, RINGS, 0xb000);
		break;
	case 3:
	case 4:
	case 5:
		add(m, in, op);
		break;
	case 6:
		mmio_out(&m->p, m->d.notify + (op >> 3 & 1) * 4, op >> 3 & 1, 2);
		break;
	case 7:
		m->f->mode = op >> 3 & 3;
		if (op >> 5 == 7)
			dev_reset_all(m->p.t.devices);
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
	machine_make(m, (u8)take(&in, 1));
	start(m, (u8)take(&in, 1));
	for (unsigned i = 0; in.left && i < 1000; i++)
		step(m, &in);
	/* what is due: work left for the loop */
	m->f->mode = 0;
	fuzz_loop(&m->p);
	fuzz_dump(&m->p);
	pcitest_fini(&m->p);
	free(m);
	return 0;
}
