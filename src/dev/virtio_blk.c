// SPDX-License-Identifier: MIT
/* virtio 1.2, section 5.2, block device.
 *
 * A request is a header of 16 bytes and perhaps data, which the device reads, then perhaps
 * data and a status byte, which it writes. Data goes between guest memory and the host's file
 * without a copy: the buffers' host pointers are what the back end gets.
 *
 * As many requests are in flight as the queues hold. One notification serves ROUND requests, so
 * that a driver that refills as fast as the host's page cache answers does not keep the machine
 * lock.
 *
 * What the host could not do is reported to the guest (VIRTIO_BLK_S_IOERR), or, if the user wants
 * that (werror=stop), kept while the VM is paused and tried again when it goes on: by a
 * timer, because timers stand still meanwhile. */
#include "dev/virtio_blk.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define ROUND     64
#define SECTOR    512u
#define RETRY_NS  (10 * 1000 * 1000ull)
#define SEG_MAX   (BLOCK_MAX_IOV - 2) /* a buffer may lie in two pieces of RAM */
#define RANGE_MAX 16u                 /* of one discard or write-zeroes request */

/* 5.2.3 */
#define VIRTIO_BLK_F_SEG_MAX      BIT(2)
#define VIRTIO_BLK_F_RO           BIT(5)
#define VIRTIO_BLK_F_BLK_SIZE     BIT(6)
#define VIRTIO_BLK_F_FLUSH        BIT(9)
#define VIRTIO_BLK_F_TOPOLOGY     BIT(10)
#define VIRTIO_BLK_F_MQ           BIT(12)
#define VIRTIO_BLK_F_DISCARD      BIT(13)
#define VIRTIO_BLK_F_WRITE_ZEROES BIT(14)

/* 5.2.6 */
#define VIRTIO_BLK_T_IN           0u
#define VIRTIO_BLK_T_OUT          1u
#define VIRTIO_BLK_T_FLUSH        4u
#define VIRTIO_BLK_T_GET_ID       8u
#define VIRTIO_BLK_T_DISCARD      11u
#define VIRTIO_BLK_T_WRITE_ZEROES 13u

#define VIRTIO_BLK_S_OK     0
#define VIRTIO_BLK_S_IOERR  1
#define VIRTIO_BLK_S_UNSUPP 2

struct blk_header {
	u32 type;
	u32 reserved;
	u64 sector;
};

struct blk_range {
	u64 sector;
	u32 nr_sectors;
	u32 flags; /* bit 0: unmap */
};

/* 5.2.4 */
struct blk_space {
	u64 capacity;
	u32 size_max, seg_max;
	u16 cylinders;
	u8 heads, sectors;
	u32 blk_size;
	u8 physical_block_exp, alignment_offset;
	u16 min_io_size;
	u32 opt_io_size;
	u8 writeback, unused0;
	u16 num_queues;
	u32 max_discard_sectors, max_discard_seg, discard_sector_alignment;
	u32 max_write_zeroes_sectors, max_write_zeroes_seg;
	u8 write_zeroes_may_unmap, unused1[3];
};
_Static_assert(sizeof(struct blk_space) == 64 && offsetof(struct blk_space, num_queues) == 34 &&
                       offsetof(struct blk_space, max_write_zeroes_sectors) == 48,
               "5.2.4");

struct blk_req {
	struct block_req io;
	struct virtio_blk *b;
	struct vq_chain *c;
	TAILQ_ENTRY(blk_req) link; /* in `failed` */
	bool then_flush;           /* a driver without FLUSH counts on stable writes */
	unsigned range, nr_ranges; /* discard, write zeroes: which is under way */
	struct blk_range ranges[RANGE_MAX];
	struct iovec iov[];
};

struct virtio_blk {
	struct virtio v;
	struct block *back;
	struct blk_space space;
	char serial[VIRTIO_BLK_ID_LEN];
	void (*host_error)(void *arg);
	void *arg;

	TAILQ_HEAD(blk_reqs, blk_req) failed; /* tried again when the VM goes on */
	struct timer retry;
	bool told;        /* host_error() was called, and the retry has not come yet */
	bool in_notify;   /* interrupts come at its end */
	u64 to_interrupt; /* queues */
	u64 next_log;     /* ns: no more than one line a second about the host */
	u64 done, errors; /* requests, for people */
	u16 posted;       /* queues with work left for the loop */
};

static struct virtio_blk *blk_of(struct virtio *v)
{
	return container_of(v, struct virtio_blk, v);
}

/* ---- the end of a request ---- */

static void interrupt_all(struct virtio_blk *b)
{
	u64 queues = b->to_interrupt;

	b->to_interrupt = 0;
	for (unsigned i = 0; queues; i++, queues >>= 1)
		if (queues & 1)
			virtqueue_interrupt(virtio_queue(&b->v, i));
}

/* After a batch of completions. */
static void blk_settled(void *arg)
{
	struct virtio_blk *b = arg;

	if (!b->in_notify)
		interrupt_all(b);
}

static void finish_chain(struct virtio_blk *b, struct vq_chain *c, u8 status)
{
	b->done++;
	b->errors += status != VIRTIO_BLK_S_OK;
	b->to_interrupt |= BIT(virtqueue_index(c->vq));
	vq_write(c, c->wr_len - 1, &status, 1);
	virtqueue_push(c, c->wr_len);
}

static void finish(struct blk_req *r, u8 status)
{
	finish_chain(r->b, r->c, status);
	free(r);
}

static const char *op_name(enum block_op op)
{
	static const char *const names[] = {"read", "write", "flush", "discard", "write zeroes"};

	return names[op];
}

/* Once a second at most: a guest that tries again and again shall not fill the user's log. */
static void say_error(struct virtio_blk *b, const struct blk_req *r, int err)
{
	u64 now = loop_now(b->v.env.loop);

	if (now < b->next_log)
		return;
	b->next_log = now + NSEC_PER_SEC;
	log_error("%s: %s at %llu, %llu bytes: %s", b->back->name, op_name(r->io.op),
	          (unsigned long long)r->io.offset, (unsigned long long)r->io.len, strerror(-err));
}

static void blk_done(struct block_req *io, int err);

static void start_range(struct blk_req *r)
{
	const struct blk_range *g = &r->ranges[r->range];

	r->io.offset = g->sector * SECTOR;
	r->io.len = (u64)g->nr_sectors * SECTOR;
	r->io.unmap = g->flags & 1;
	block_submit(r->b->back, &r->io);
}

static void blk_done(struct block_req *io, int err)
{
	struct blk_req *r = container_of(io, struct blk_req, io);
	struct virtio_blk *b = r->b;

	if (err) {
		say_error(b, r, err);
		if (b->host_error && err != -EINVAL && err != -EROFS && virtqueue_live(r->c->vq)) {
			TAILQ_INSERT_TAIL(&b->failed, r, link);
			timer_arm(&b->retry, loop_now(b->v.env.loop) + RETRY_NS);
			if (!b->told)
				b->host_error(b->arg);
			b->told = true;
			return;
		}
		finish(r, VIRTIO_BLK_S_IOERR);
		return;
	}
	if (++r->range < r->nr_ranges) {
		start_range(r);
		block_kick(b->back);
	} else if (r->then_flush) {
		r->then_flush = false;
		r->io.op = BLOCK_FLUSH;
		block_submit(b->back, &r->io);
		block_kick(b->back);
	} else {
		finish(r, VIRTIO_BLK_S_OK);
	}
}

/* The VM goes on after an error of the host. */
static void blk_retry(void *arg)
{
	struct virtio_blk *b = arg;
	struct blk_req *r;
	unsigned n = 0;

	b->told = false;
	TAILQ_FOREACH(r, &b->failed, link)
	n++;
	while (n-- && (r = TAILQ_FIRST(&b->failed))) {
		TAILQ_REMOVE(&b->failed, r, link);
		block_submit(b->back, &r->io);
	}
	block_kick(b->back);
}

/* ---- its beginning ---- */

/* Data of `len` bytes behind the header, or before the status byte. */
static bool take_data(struct blk_req *r, const struct iovec *iov, unsigned nr, size_t off, u64 len)
{
	u64 sum = 0;

	r->io.nr_iov = iov_slice(iov, nr, off, len, r->iov, BLOCK_MAX_IOV);
	r->io.iov = r->iov;
	for (unsigned i = 0; i < r->io.nr_iov; i++)
		sum += r->iov[i].iov_len;
	return sum == len;
}

/* The status, or -1: it is under way. */
static int start_data(struct blk_req *r, const struct blk_header *h)
{
	struct virtio_blk *b = r->b;
	const struct vq_chain *c = r->c;
	bool write = h->type == VIRTIO_BLK_T_OUT;
	u64 len = write ? c->rd_len - sizeof(*h) : c->wr_len - 1;

	if (write && b->back->ro)
		return VIRTIO_BLK_S_IOERR;
	if (len % SECTOR || h->sector > b->space.capacity ||
	    len / SECTOR > b->space.capacity - h->sector)
		return VIRTIO_BLK_S_IOERR;
	if (!len)
		return VIRTIO_BLK_S_OK;
	if (write ? !take_data(r, c->rd, c->nr_rd, sizeof(*h), len)
	          : !take_data(r, c->wr, c->nr_wr, 0, len))
		return VIRTIO_BLK_S_IOERR; /* more pieces than seg_max */
	r->io.op = write ? BLOCK_WRITE : BLOCK_READ;
	r->io.offset = h->sector * SECTOR;
	r->io.len = len;
	r->then_flush = write && !virtio_has(&b->v, VIRTIO_BLK_F_FLUSH);
	block_submit(b->back, &r->io);
	return -1;
}

/* 5.2.6.2: whole ranges within the disk, known flags. */
static int start_ranges(struct blk_req *r, bool discard)
{
	struct virtio_blk *b = r->b;
	u32 len = r->c->rd_len - (u32)sizeof(struct blk_header);

	if (b->back->ro)
		return VIRTIO_BLK_S_IOERR;
	if (!len || len % sizeof(struct blk_range) || len / sizeof(struct blk_range) > RANGE_MAX)
		return VIRTIO_BLK_S_IOERR;
	r->nr_ranges = len / (u32)sizeof(struct blk_range);
	vq_read(r->c, sizeof(struct blk_header), r->ranges, len);
	for (unsigned i = 0; i < r->nr_ranges; i++) {
		const struct blk_range *g = &r->ranges[i];

		if (g->flags & (discard ? ~0u : ~1u))
			return VIRTIO_BLK_S_UNSUPP;
		if (g->nr_sectors > BLOCK_MAX_LEN / SECTOR || g->sector > b->space.capacity ||
		    g->nr_sectors > b->space.capacity - g->sector)
			return VIRTIO_BLK_S_IOERR;
	}
	r->io.op = discard ? BLOCK_DISCARD : BLOCK_ZERO;
	r->then_flush = !discard && !virtio_has(&b->v, VIRTIO_BLK_F_FLUSH);
	start_range(r);
	return -1;
}

static int start(struct blk_req *r, const struct blk_header *h)
{
	struct virtio_blk *b = r->b;

	switch (h->type) {
	case VIRTIO_BLK_T_IN:
	case VIRTIO_BLK_T_OUT:
		return start_data(r, h);
	case VIRTIO_BLK_T_FLUSH:
		r->io.op = BLOCK_FLUSH;
		block_submit(b->back, &r->io);
		return -1;
	case VIRTIO_BLK_T_GET_ID:
		if (r->c->wr_len - 1 < VIRTIO_BLK_ID_LEN)
			return VIRTIO_BLK_S_IOERR;
		vq_write(r->c, 0, b->serial, VIRTIO_BLK_ID_LEN);
		return VIRTIO_BLK_S_OK;
	case VIRTIO_BLK_T_DISCARD:
		return virtio_has(&b->v, VIRTIO_BLK_F_DISCARD) ? start_ranges(r, true)
		                                               : VIRTIO_BLK_S_UNSUPP;
	case VIRTIO_BLK_T_WRITE_ZEROES:
		return virtio_has(&b->v, VIRTIO_BLK_F_WRITE_ZEROES) ? start_ranges(r, false)
		                                                    : VIRTIO_BLK_S_UNSUPP;
	default:
		return VIRTIO_BLK_S_UNSUPP;
	}
}

/* False: the queue is broken, or out of memory. */
static bool take(struct virtio_blk *b, struct vq_chain *c)
{
	unsigned nr_iov = MIN(c->nr_rd + c->nr_wr, (unsigned)BLOCK_MAX_IOV);
	struct virtqueue *vq = c->vq;
	struct blk_header h;
	struct blk_req *r;
	int status;

	if (!c->wr_len || vq_read(c, 0, &h, sizeof(h)) != sizeof(h)) {
		virtqueue_break(vq, "a request without a %s", c->wr_len ? "header" : "status");
		virtqueue_drop(c);
		return false;
	}
	r = calloc(1, sizeof(*r) + nr_iov * sizeof(r->iov[0]));
	if (!r) {
		finish_chain(b, c, VIRTIO_BLK_S_IOERR);
		return true;
	}
	r->b = b;
	r->c = c;
	r->io.done = blk_done;
	status = start(r, &h);
	if (status >= 0)
		finish(r, (u8)status);
	return true;
}

static void blk_again(void *arg);

static void blk_notify(struct virtio *v, struct virtqueue *vq)
{
	struct virtio_blk *b = blk_of(v);
	struct vq_chain *c;
	unsigned n = 0;

	b->in_notify = true;
	do {
		virtqueue_notify_off(vq);
		while (n < ROUND && (c = virtqueue_pop(vq))) {
			n++;
			if (!take(b, c))
				break;
		}
		block_kick(b->back);
	} while (n < ROUND && virtqueue_notify_on(vq));
	b->in_notify = false;
	interrupt_all(b);
	if (n >= ROUND) { /* others have their turn */
		if (!b->posted && loop_post(b->v.env.loop, blk_again, b) < 0) {
			virtqueue_notify_on(vq);
			return;
		}
		b->posted |= (u16)BIT(virtqueue_index(vq));
	}
}

static void blk_again(void *arg)
{
	struct virtio_blk *b = arg;
	u16 queues = b->posted;

	b->posted = 0;
	for (unsigned i = 0; queues; i++, queues >>= 1)
		if (queues & 1)
			blk_notify(&b->v, virtio_queue(&b->v, i));
}

/* ---- the device ---- */

/* What is in flight ends, into queues that take nothing any more; so does what failed. */
static void blk_leave(struct virtio_blk *b, const struct virtqueue *vq)
{
	struct blk_req *r, *next;

	block_drain(b->back);
	for (r = TAILQ_FIRST(&b->failed); r; r = next) {
		next = TAILQ_NEXT(r, link);
		if (vq && r->c->vq != vq)
			continue;
		TAILQ_REMOVE(&b->failed, r, link);
		virtqueue_drop(r->c);
		free(r);
	}
}

static void blk_stop(struct virtio *v)
{
	struct virtio_blk *b = blk_of(v);

	blk_leave(b, NULL);
	timer_cancel(&b->retry);
	b->told = false;
	b->to_interrupt = 0;
}

static void blk_queue_stop(struct virtio *v, struct virtqueue *vq)
{
	blk_leave(blk_of(v), vq);
}

static void blk_dump(struct virtio *v, FILE *out)
{
	const struct virtio_blk *b = blk_of(v);

	fprintf(out, "  %s, %llu MiB%s: %llu requests, %llu with an error\n", b->back->name,
	        (unsigned long long)(b->back->size / MiB), b->back->ro ? ", read-only" : "",
	        (unsigned long long)b->done, (unsigned long long)b->errors);
}

static void blk_destroy(struct virtio *v)
{
	struct virtio_blk *b = blk_of(v);

	timer_cancel(&b->retry);
	block_destroy(b->back);
	free(b);
}

static const struct virtio_ops blk_ops = {
	.notify = blk_notify,
	.stop = blk_stop,
	.queue_stop = blk_queue_stop,
	.dump = blk_dump,
	.destroy = blk_destroy,
};

static u64 fill_space(struct virtio_blk *b, unsigned queues)
{
	const struct block *k = b->back;
	u64 features = VIRTIO_BLK_F_SEG_MAX | VIRTIO_BLK_F_BLK_SIZE | VIRTIO_BLK_F_FLUSH |
	               VIRTIO_BLK_F_TOPOLOGY;
	struct blk_space *s = &b->space;

	*s = (struct blk_space){
		.capacity = k->size / SECTOR,
		.seg_max = SEG_MAX,
		.blk_size = SECTOR,
		.physical_block_exp = (u8)__builtin_ctz(MAX(k->block_size, 4096u) / SECTOR),
		.min_io_size = (u16)(MAX(k->block_size, 4096u) / SECTOR),
		.writeback = 1,
		.num_queues = (u16)queues,
		.max_discard_sectors = BLOCK_MAX_LEN / SECTOR,
		.max_discard_seg = RANGE_MAX,
		.discard_sector_alignment = k->granule / SECTOR,
		.max_write_zeroes_sectors = BLOCK_MAX_LEN / SECTOR,
		.max_write_zeroes_seg = RANGE_MAX,
		.write_zeroes_may_unmap = k->can_discard,
	};
	if (queues > 1)
		features |= VIRTIO_BLK_F_MQ;
	if (k->ro)
		features |= VIRTIO_BLK_F_RO;
	else
		features |= VIRTIO_BLK_F_WRITE_ZEROES | (k->can_discard ? VIRTIO_BLK_F_DISCARD : 0);
	return features;
}

int virtio_blk_create(const struct virtio_env *env, const struct virtio_blk_config *cfg)
{
	struct virtio_blk *b = calloc(1, sizeof(*b));
	struct virtio_config vc = {
		.name = "virtio-blk",
		.id = VIRTIO_ID_BLOCK,
		.pci_class = 0x018000, /* mass storage, other */
		.nr_queues = cfg->queues,
		.packed = cfg->packed,
		.config_len = sizeof(b->space),
		.ops = &blk_ops,
	};
	int err;

	if (!b) {
		block_destroy(cfg->back);
		return -ENOMEM;
	}
	b->back = cfg->back;
	b->host_error = cfg->host_error;
	b->arg = cfg->arg;
	if (cfg->serial) /* not a string when it fills the field, 5.2.6 */
		memcpy(b->serial, cfg->serial, strnlen(cfg->serial, sizeof(b->serial)));
	TAILQ_INIT(&b->failed);
	timer_init(&b->retry, env->env->loop, blk_retry, b);
	b->back->settled = blk_settled;
	b->back->settled_arg = b;
	vc.features = fill_space(b, cfg->queues);
	vc.config = &b->space;
	err = virtio_create(&b->v, env, &vc);
	if (err) {
		block_destroy(b->back);
		free(b);
	}
	return err;
}
