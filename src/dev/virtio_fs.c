// SPDX-License-Identifier: MIT
/* Between the queues and the back end, a FUSE server. A notification takes all requests out of a
 * queue and hands them on; they come back from the server's threads in any order. Neither needs the
 * machine lock, which a file call would otherwise hold up: a queue has a mutex of its own, so that
 * one thread at a time uses it.
 *
 * Queue 0 is for FORGET and INTERRUPT; they go the same way, because the server never lets a
 * request wait for another one. There is one queue for the rest: Linux (before 6.11) uses no more.
 */
#include "dev/virtio_fs.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define NR_QUEUES  2
#define QUEUE_SIZE 512 /* a request of 1 MiB has 256 pages and a few buffers more */

/* 5.11.4. linux/virtio_fs.h has it too, with names that virtio.h defines otherwise. */
struct virtio_fs_config {
	u8 tag[VIRTIO_FS_TAG_LEN]; /* padded with zeros */
	u32 num_request_queues;
};

struct fs_queue {
	pthread_mutex_t mutex; /* the queue's user; below the machine lock */
	bool live;             /* between start and stop */
};

struct virtio_fs {
	struct virtio v;
	struct fs_queue queue[NR_QUEUES];
	struct fsback *back;
	struct virtio_fs_config config; /* what the driver reads */
};

struct fs_req {
	struct fuse_req r;
	struct vq_chain *c;
	struct virtio_fs *fs;
};

static struct fs_queue *queue_of(struct virtio_fs *fs, const struct virtqueue *vq)
{
	return &fs->queue[virtqueue_index(vq)];
}

/* On a thread of the server, or on the one that resets. */
static void fs_done(struct fuse_req *r, u32 len)
{
	struct fs_req *q = container_of(r, struct fs_req, r);
	struct virtqueue *vq = q->c->vq;
	struct fs_queue *queue = queue_of(q->fs, vq);

	pthread_mutex_lock(&queue->mutex);
	virtqueue_push(q->c, len);
	virtqueue_interrupt(vq);
	pthread_mutex_unlock(&queue->mutex);
	free(q);
}

static void fs_submit(struct virtio_fs *fs, struct vq_chain *c)
{
	struct fs_req *q = calloc(1, sizeof(*q));

	if (!q) {
		struct virtqueue *vq = c->vq;

		virtqueue_drop(c);
		virtqueue_break(vq, "the host is out of memory");
		return;
	}
	*q = (struct fs_req){.r = {.in = c->rd,
	                           .nr_in = c->nr_rd,
	                           .out = c->wr,
	                           .nr_out = c->nr_wr,
	                           .done = fs_done},
	                     .c = c,
	                     .fs = fs};
	fs->back->ops->submit(fs->back, &q->r);
}

/* Without the machine lock. No more requests come out than the queue has places, for returning
 * them takes the mutex. */
static void fs_notify(struct virtio *v, struct virtqueue *vq)
{
	struct virtio_fs *fs = container_of(v, struct virtio_fs, v);
	struct fs_queue *queue = queue_of(fs, vq);
	struct vq_chain *c;

	pthread_mutex_lock(&queue->mutex);
	while (queue->live && (c = virtqueue_pop(vq)))
		fs_submit(fs, c);
	pthread_mutex_unlock(&queue->mutex);
}

static void set_live(struct virtio_fs *fs, bool live)
{
	for (unsigned i = 0; i < NR_QUEUES; i++) {
		pthread_mutex_lock(&fs->queue[i].mutex);
		fs->queue[i].live = live;
		pthread_mutex_unlock(&fs->queue[i].mutex);
	}
}

static void fs_start(struct virtio *v)
{
	set_live(container_of(v, struct virtio_fs, v), true);
}

/* File calls that were begun are waited for: data may be on its way into guest memory. */
static void fs_stop(struct virtio *v)
{
	struct virtio_fs *fs = container_of(v, struct virtio_fs, v);

	set_live(fs, false);
	fs->back->ops->reset(fs->back);
}

static void fs_dump(struct virtio *v, FILE *out)
{
	struct virtio_fs *fs = container_of(v, struct virtio_fs, v);

	fs->back->ops->dump(fs->back, out);
}

static void fs_free(struct virtio_fs *fs)
{
	fs->back->ops->destroy(fs->back);
	for (unsigned i = 0; i < NR_QUEUES; i++)
		pthread_mutex_destroy(&fs->queue[i].mutex);
	free(fs);
}

static void fs_destroy(struct virtio *v)
{
	fs_free(container_of(v, struct virtio_fs, v));
}

static const struct virtio_ops fs_ops = {
	.start = fs_start,
	.notify = fs_notify,
	.stop = fs_stop,
	.dump = fs_dump,
	.destroy = fs_destroy,
};

int virtio_fs_create(const struct virtio_env *env, const char *tag, struct fsback *back)
{
	struct virtio_fs *fs = calloc(1, sizeof(*fs));
	struct virtio_config cfg = {.name = "virtio-fs",
	                            .id = VIRTIO_ID_FS,
	                            .pci_class = 0x018000, /* other mass storage */
	                            .nr_queues = NR_QUEUES,
	                            .queue_size = QUEUE_SIZE,
	                            .notify_unlocked = true,
	                            .slot = -1,
	                            .ops = &fs_ops};
	int err;

	if (!fs) {
		log_error("out of memory");
		back->ops->destroy(back);
		return -ENOMEM;
	}
	fs->back = back;
	for (unsigned i = 0; i < NR_QUEUES; i++)
		pthread_mutex_init(&fs->queue[i].mutex, NULL);
	memcpy(fs->config.tag, tag, strnlen(tag, VIRTIO_FS_TAG_LEN));
	fs->config.num_request_queues = NR_QUEUES - 1;
	cfg.config = &fs->config;
	cfg.config_len = sizeof(fs->config);
	err = virtio_create(&fs->v, env, &cfg);
	if (err)
		fs_free(fs);
	return err;
}
