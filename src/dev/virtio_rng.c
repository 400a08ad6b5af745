// SPDX-License-Identifier: MIT
/* One queue of writable buffers, filled from getrandom(2), which does not block once the host has
 * booted. A request that is larger than a page is answered in part, as 5.4.6.1 allows: a guest has
 * no means to keep the machine lock for long. */
#include "dev/virtio_rng.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>

#define ROUND 64 /* requests */

struct virtio_rng {
	struct virtio v;
	u64 bytes; /* handed out */
	bool posted;
};

static void rng_again(void *arg);

static void rng_serve(struct virtio_rng *r, struct virtqueue *vq)
{
	struct vq_chain *c;
	u8 buf[PAGE_SIZE];
	unsigned n_served = 0;

	while ((c = virtqueue_pop(vq))) {
		ssize_t n;

		/* The driver could refill as fast as we serve: others get the lock in between. */
		if (n_served++ == ROUND) {
			virtqueue_unpop(c);
			r->posted = r->posted || !loop_post(r->v.env.loop, rng_again, r);
			break;
		}
		n = getrandom(buf, MIN(c->wr_len, sizeof(buf)), GRND_NONBLOCK);
		if (n < 0) {
			virtqueue_drop(c);
			virtqueue_break(vq, "the host has no random numbers yet");
			return;
		}
		r->bytes += (u64)n;
		virtqueue_push(c, (u32)vq_write(c, 0, buf, (size_t)n));
	}
	virtqueue_interrupt(vq);
}

static void rng_again(void *arg)
{
	struct virtio_rng *r = arg;

	r->posted = false;
	rng_serve(r, virtio_queue(&r->v, 0));
}

static void rng_notify(struct virtio *v, struct virtqueue *vq)
{
	rng_serve(container_of(v, struct virtio_rng, v), vq);
}

static void rng_dump(struct virtio *v, FILE *out)
{
	const struct virtio_rng *r = container_of(v, struct virtio_rng, v);

	fprintf(out, "  %llu random bytes\n", (unsigned long long)r->bytes);
}

static void rng_queue_stop(struct virtio *v, struct virtqueue *vq)
{
	/* Nothing is kept between two notifications. */
}

static void rng_destroy(struct virtio *v)
{
	free(container_of(v, struct virtio_rng, v));
}

static const struct virtio_ops rng_ops = {
	.notify = rng_notify,
	.queue_stop = rng_queue_stop,
	.dump = rng_dump,
	.destroy = rng_destroy,
};

int virtio_rng_create(const struct virtio_env *env, const struct virtio_rng_config *cfg)
{
	const struct virtio_config vc = {
		.name = "virtio-rng",
		.id = VIRTIO_ID_RNG,
		.nr_queues = 1,
		.queue_size = 64,
		.packed = cfg->packed,
		.ops = &rng_ops,
	};
	struct virtio_rng *r = calloc(1, sizeof(*r));
	int err;

	if (!r)
		return -ENOMEM;
	err = virtio_create(&r->v, env, &vc);
	if (err)
		free(r);
	return err;
}
