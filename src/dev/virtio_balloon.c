// SPDX-License-Identifier: MIT
/* Queues: inflate, deflate, and reporting if that was negotiated (5.5.2; without a statistics queue
 * and free page hints, which are not offered, it is the third).
 *
 * Giving pages back is a system call for each run of them, which can take a while: it is done
 * outside the machine lock. `lock` makes the queues one thread's at a time, and `stop` waits for
 * it. */
#include "dev/virtio_balloon.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define VIRTIO_BALLOON_F_DEFLATE_ON_OOM BIT(2)
#define VIRTIO_BALLOON_F_PAGE_REPORTING BIT(5)

#define INFLATE   0
#define DEFLATE   1
#define REPORTING 2
#define NR_QUEUES 3

#define ROUND 64 /* requests served at a time */

struct balloon_layout {
	u32 num_pages; /* what we want */
	u32 actual;    /* what the driver has */
};

struct virtio_balloon {
	struct virtio v;
	struct balloon_layout config;
	pthread_mutex_t lock;             /* the queues and what follows */
	u64 inflated, deflated, reported; /* bytes */
	bool posted;
};

/* ---- pages ---- */

struct run {
	u64 first, nr; /* page frame numbers */
};

static void run_discard(struct virtio_balloon *b, struct run *r)
{
	if (!r->nr)
		return;
	if (pmap_discard(b->v.env.pmap, r->first << PAGE_SHIFT, r->nr << PAGE_SHIFT) < 0)
		guest_warn(&b->v.rl, "virtio-balloon: pages %#llx to %#llx are not in RAM",
		           (unsigned long long)r->first,
		           (unsigned long long)(r->first + r->nr - 1));
	else
		b->inflated += r->nr << PAGE_SHIFT;
	r->nr = 0;
}

/* Linux hands out neighbours one after the other, upwards or downwards. */
static void run_add(struct virtio_balloon *b, struct run *r, u64 pfn)
{
	if (r->nr && pfn == r->first + r->nr) {
		r->nr++;
	} else if (r->nr && pfn + 1 == r->first) {
		r->first--;
		r->nr++;
	} else {
		run_discard(b, r);
		*r = (struct run){pfn, 1};
	}
}

static void inflate(struct virtio_balloon *b, const struct vq_chain *c)
{
	struct run r = {0};
	u32 pfn[64];
	size_t n;

	for (size_t off = 0; (n = vq_read(c, off, pfn, sizeof(pfn)) / 4); off += n * 4)
		for (size_t i = 0; i < n; i++)
			run_add(b, &r, pfn[i]);
	run_discard(b, &r);
}

/* The buffers are the free pages themselves; only whole pages are given back. */
static void report(struct virtio_balloon *b, const struct vq_chain *c)
{
	const struct pmap *p = b->v.env.pmap;

	if (c->bounce) /* someone watches all writes: then memory stays */
		return;
	for (unsigned i = 0; i < c->nr_wr; i++) {
		u64 from = (u64)((const u8 *)c->wr[i].iov_base - p->hva);
		u64 first = ALIGN_UP(from, PAGE_SIZE);
		u64 end = ALIGN_DOWN(from + c->wr[i].iov_len, PAGE_SIZE);

		if (first < end &&
		    !pmap_discard(b->v.env.pmap, pmap_gpa(first >> PAGE_SHIFT), end - first))
			b->reported += end - first;
	}
}

/* ---- queues ---- */

static void balloon_again(void *arg);

static void serve(struct virtio_balloon *b, struct virtqueue *vq)
{
	struct vq_chain *c;

	for (unsigned i = 0; (c = virtqueue_pop(vq)); i++) {
		if (i == ROUND) {
			virtqueue_unpop(c);
			b->posted = b->posted || !loop_post(b->v.env.loop, balloon_again, b);
			break;
		}
		switch (virtqueue_index(vq)) {
		case INFLATE:
			inflate(b, c);
			break;
		case DEFLATE:
			b->deflated += (u64)(c->rd_len / 4) << PAGE_SHIFT;
			break;
		case REPORTING:
			report(b, c);
			break;
		}
		virtqueue_push(c, 0);
	}
	virtqueue_interrupt(vq);
}

static void balloon_again(void *arg)
{
	struct virtio_balloon *b = arg;

	pthread_mutex_lock(&b->lock);
	b->posted = false;
	for (unsigned i = 0; i < b->v.cfg.nr_queues; i++)
		serve(b, virtio_queue(&b->v, i));
	pthread_mutex_unlock(&b->lock);
}

static void balloon_notify(struct virtio *v, struct virtqueue *vq)
{
	struct virtio_balloon *b = container_of(v, struct virtio_balloon, v);

	pthread_mutex_lock(&b->lock);
	serve(b, vq);
	pthread_mutex_unlock(&b->lock);
}

/* The queues are not live any more: who is in one leaves it. */
static void balloon_leave(struct virtio_balloon *b)
{
	pthread_mutex_lock(&b->lock);
	pthread_mutex_unlock(&b->lock);
}

static void balloon_stop(struct virtio *v)
{
	struct virtio_balloon *b = container_of(v, struct virtio_balloon, v);

	balloon_leave(b);
	b->config.actual = 0; /* 5.5.6.1: a reset empties the balloon */
}

static void balloon_queue_stop(struct virtio *v, struct virtqueue *vq)
{
	balloon_leave(container_of(v, struct virtio_balloon, v));
}

/* ---- configuration ---- */

static void balloon_config_write(struct virtio *v, u32 off, const u8 *buf, u32 n)
{
	struct virtio_balloon *b = container_of(v, struct virtio_balloon, v);

	if (off == offsetof(struct balloon_layout, actual) && n == sizeof(u32))
		b->config.actual = get_le32(buf);
}

void virtio_balloon_set(struct virtio_balloon *b, u64 bytes)
{
	u32 pages = (u32)(MIN(bytes, b->v.env.pmap->ram_size) >> PAGE_SHIFT);

	if (pages == b->config.num_pages)
		return;
	b->config.num_pages = pages;
	virtio_config_changed(&b->v);
}

u64 virtio_balloon_target(const struct virtio_balloon *b)
{
	return (u64)b->config.num_pages << PAGE_SHIFT;
}

static void balloon_dump(struct virtio *v, FILE *out)
{
	struct virtio_balloon *b = container_of(v, struct virtio_balloon, v);

	fprintf(out,
	        "  target %llu MiB, actual %llu MiB; inflated %llu, deflated %llu, reported %llu "
	        "MiB\n",
	        (unsigned long long)(virtio_balloon_target(b) / MiB),
	        (unsigned long long)(((u64)b->config.actual << PAGE_SHIFT) / MiB),
	        (unsigned long long)(b->inflated / MiB), (unsigned long long)(b->deflated / MiB),
	        (unsigned long long)(b->reported / MiB));
}

static void balloon_destroy(struct virtio *v)
{
	struct virtio_balloon *b = container_of(v, struct virtio_balloon, v);

	pthread_mutex_destroy(&b->lock);
	free(b);
}

static const struct virtio_ops balloon_ops = {
	.notify = balloon_notify,
	.stop = balloon_stop,
	.queue_stop = balloon_queue_stop,
	.config_write = balloon_config_write,
	.dump = balloon_dump,
	.destroy = balloon_destroy,
};

int virtio_balloon_create(struct virtio_balloon **out, const struct virtio_env *env,
                          const struct virtio_balloon_config *cfg)
{
	struct virtio_balloon *b = calloc(1, sizeof(*b));
	struct virtio_config vc = {
		.name = "virtio-balloon",
		.id = VIRTIO_ID_BALLOON,
		.features = (cfg->deflate_on_oom ? VIRTIO_BALLOON_F_DEFLATE_ON_OOM : 0) |
	                    (cfg->reporting ? VIRTIO_BALLOON_F_PAGE_REPORTING : 0),
		.nr_queues = NR_QUEUES,
		.queue_size = 128,
		.config_len = sizeof(b->config),
		.notify_unlocked = true,
		.packed = cfg->packed,
		.ops = &balloon_ops,
	};
	int err;

	if (!b) {
		log_error("virtio-balloon: out of memory");
		return -ENOMEM;
	}
	pthread_mutex_init(&b->lock, NULL);
	vc.config = &b->config;
	if (!cfg->reporting)
		vc.nr_queues = REPORTING;
	err = virtio_create(&b->v, env, &vc);
	if (err) {
		pthread_mutex_destroy(&b->lock);
		free(b);
		return err;
	}
	virtio_balloon_set(b, cfg->amount);
	*out = b;
	return 0;
}
