// SPDX-License-Identifier: MIT
/* Status, features and life of a virtio device: virtio 1.2, sections 2.1, 2.2, 3.1 and 6. The
 * transport (virtio_pci.c) brings what the driver wrote here.
 *
 * Order when the driver resets: the queues are not live any more; ops->stop, after which no thread
 * of the device is in a queue; then the queues forget what they were. */
#include "dev/virtio.h"

#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "dev/virtqueue_priv.h"

struct virtqueue *virtio_queue(struct virtio *v, unsigned index)
{
	return index < v->cfg.nr_queues ? &v->vq[index] : NULL;
}

void virtio_config_changed(struct virtio *v)
{
	v->generation++;
	if (v->status & VIRTIO_S_DRIVER_OK)
		virtio_pci_interrupt_config(v);
}

/* 2.1.2: with DRIVER_OK set, a configuration change notification. */
void virtio_break(struct virtio *v, const char *fmt, ...)
{
	char why[200];
	u32 old = atomic_fetch_or(&v->status, VIRTIO_S_NEEDS_RESET);
	va_list ap;

	if (old & VIRTIO_S_NEEDS_RESET)
		return;
	va_start(ap, fmt);
	vsnprintf(why, sizeof(why), fmt, ap);
	va_end(ap);
	guest_warn(&v->rl, "%s: %s; the device waits for a reset", v->cfg.name, why);
	if (old & VIRTIO_S_DRIVER_OK)
		virtio_pci_interrupt_config(v);
}

/* ---- queues ---- */

static void notify(struct virtio *v, struct virtqueue *vq)
{
	if (v->started && virtqueue_live(vq))
		v->cfg.ops->notify(v, vq);
}

void virtio_notified(struct virtio *v, unsigned queue)
{
	if (queue < v->cfg.nr_queues)
		notify(v, &v->vq[queue]);
	else
		guest_warn(&v->rl, "%s: notification of queue %u of %u", v->cfg.name, queue,
		           v->cfg.nr_queues);
}

/* What was put into live queues while nobody was told. */
static void notify_all(struct virtio *v)
{
	for (unsigned i = 0; i < v->cfg.nr_queues; i++)
		notify(v, &v->vq[i]);
}

void virtio_queue_enable(struct virtqueue *vq)
{
	struct virtio *v = vq->v;

	if (vq->enabled)
		return;
	if (!(v->status & VIRTIO_S_FEATURES_OK)) {
		guest_warn(&v->rl, "%s: queue %u enabled before FEATURES_OK", v->cfg.name,
		           vq->index);
		return;
	}
	if (virtqueue_enable(vq) < 0) {
		virtqueue_break(vq, "%u entries at %#llx, %#llx, %#llx cannot be", vq->size,
		                (unsigned long long)vq->desc, (unsigned long long)vq->driver,
		                (unsigned long long)vq->device);
		return;
	}
	notify(v, vq);
}

void virtio_queue_reset(struct virtqueue *vq)
{
	struct virtio *v = vq->v;
	u16 vector = vq->vector;

	if (!(v->driver_features & VIRTIO_F_RING_RESET)) {
		guest_warn(&v->rl, "%s: reset of queue %u without VIRTIO_F_RING_RESET", v->cfg.name,
		           vq->index);
		return;
	}
	if (!vq->enabled)
		return;
	vq->enabled = false;
	if (v->started)
		v->cfg.ops->queue_stop(v, vq);
	virtqueue_reset(vq);
	vq->vector = vector; /* Linux does not write it again */
}

void virtio_set_master(struct virtio *v, bool on)
{
	bool was = v->master;

	v->master = on;
	if (on && !was)
		notify_all(v);
}

/* ---- status ---- */

static void device_reset(struct virtio *v)
{
	for (unsigned i = 0; i < v->cfg.nr_queues; i++)
		v->vq[i].enabled = false;
	if (atomic_exchange(&v->started, false) && v->cfg.ops->stop)
		v->cfg.ops->stop(v);
	v->status = 0;
	v->driver_features = 0;
	for (unsigned i = 0; i < v->cfg.nr_queues; i++)
		virtqueue_reset(&v->vq[i]);
	virtio_pci_reset(v);
}

void virtio_set_driver_features(struct virtio *v, u32 word, u32 val)
{
	if (v->status & VIRTIO_S_FEATURES_OK) {
		guest_warn(&v->rl, "%s: features written after FEATURES_OK", v->cfg.name);
		return;
	}
	if (word == 0)
		v->driver_features = (v->driver_features & ~0xffffffffull) | val;
	else if (word == 1)
		v->driver_features = (v->driver_features & 0xffffffffull) | (u64)val << 32;
	else if (val)
		guest_warn(&v->rl, "%s: feature bits from %u on do not exist", v->cfg.name,
		           word * 32);
}

static bool features_ok(struct virtio *v)
{
	u64 f = v->driver_features;

	if (f & ~v->offered) {
		guest_warn(&v->rl, "%s: the driver wants features %#llx, which are not offered",
		           v->cfg.name, (unsigned long long)(f & ~v->offered));
		return false;
	}
	if (!(f & VIRTIO_F_VERSION_1)) {
		guest_warn(&v->rl, "%s: the driver does not know virtio 1", v->cfg.name);
		return false;
	}
	return !v->cfg.ops->features_ok || v->cfg.ops->features_ok(v);
}

/* 3.1.1. The driver takes no bit back but all, by writing 0. */
void virtio_set_status(struct virtio *v, u8 val)
{
	u32 add = val & ~v->status & ~VIRTIO_S_NEEDS_RESET;

	if (!val) {
		device_reset(v);
		return;
	}
	if ((add & VIRTIO_S_FEATURES_OK) && !features_ok(v))
		add &= ~(VIRTIO_S_FEATURES_OK | VIRTIO_S_DRIVER_OK);
	if ((add & VIRTIO_S_DRIVER_OK) && !((v->status | add) & VIRTIO_S_FEATURES_OK)) {
		guest_warn(&v->rl, "%s: DRIVER_OK without FEATURES_OK", v->cfg.name);
		add &= ~VIRTIO_S_DRIVER_OK;
	}
	atomic_fetch_or(&v->status, add);
	if (add & VIRTIO_S_DRIVER_OK) {
		if (v->cfg.ops->start)
			v->cfg.ops->start(v);
		v->started = true;
		notify_all(v);
	}
}

/* ---- the device ---- */

static void virtio_dev_reset(struct dev *d)
{
	struct virtio *v = container_of(d, struct virtio, dev);

	device_reset(v);
	v->master = false; /* as the function's command register */
}

static void virtio_dev_destroy(struct dev *d)
{
	struct virtio *v = container_of(d, struct virtio, dev);

	device_reset(v);
	virtio_pci_destroy(v);
	for (unsigned i = 0; i < v->cfg.nr_queues; i++)
		virtqueue_fini(&v->vq[i]);
	free(v->vq);
	v->vq = NULL;
	v->cfg.ops->destroy(v);
}

static void virtio_dev_dump(struct dev *d, FILE *out)
{
	struct virtio *v = container_of(d, struct virtio, dev);

	fprintf(out, "%s: status %02x features %#llx\n", v->cfg.name, v->status,
	        (unsigned long long)v->driver_features);
	virtio_pci_dump(v, out);
	for (unsigned i = 0; i < v->cfg.nr_queues; i++) {
		const struct virtqueue *vq = &v->vq[i];

		if (vq->enabled)
			fprintf(out, "  queue %u: %s, %u entries, next %u, used %u, %u in flight\n",
			        i, vq->ring == &packed_ring ? "packed" : "split", vq->size,
			        vq->last_avail, vq->used, vq->inflight);
	}
	if (v->cfg.ops->dump)
		v->cfg.ops->dump(v, out);
}

static const struct dev_ops virtio_dev_ops = {
	.reset = virtio_dev_reset,
	.destroy = virtio_dev_destroy,
	.dump = virtio_dev_dump,
};

static int create_queues(struct virtio *v)
{
	const struct virtio_config *c = &v->cfg;

	v->vq = calloc(c->nr_queues, sizeof(*v->vq));
	if (!v->vq)
		return -ENOMEM;
	for (unsigned i = 0; i < c->nr_queues; i++) {
		u16 size = c->queue_sizes ? c->queue_sizes[i] : c->queue_size ? c->queue_size : 256;
		int err = virtqueue_init(&v->vq[i], v, (u16)i, size);

		if (err)
			return err;
	}
	return 0;
}

int virtio_create(struct virtio *v, const struct virtio_env *env, const struct virtio_config *cfg)
{
	int err = -EINVAL;

	memset(v, 0, sizeof(*v));
	v->cfg = *cfg;
	v->env = *env->env;
	v->dev = (struct dev){.name = cfg->name, .ops = &virtio_dev_ops};
	v->offered = cfg->features | VIRTIO_F_VERSION_1 | VIRTIO_F_INDIRECT_DESC |
	             VIRTIO_F_EVENT_IDX | (cfg->packed ? VIRTIO_F_RING_PACKED : 0) |
	             (cfg->ops->queue_stop ? VIRTIO_F_RING_RESET : 0);
	if (cfg->nr_queues && cfg->nr_queues <= VIRTIO_MAX_QUEUES &&
	    cfg->config_len <= VIRTIO_MAX_CONFIG)
		err = create_queues(v);
	if (!err)
		err = virtio_pci_create(v, env->pci);
	if (err) {
		log_error("%s: cannot be made: %s", cfg->name, strerror(-err));
		free(v->vq);
		v->vq = NULL;
		return err;
	}
	dev_register(env->env, &v->dev);
	return 0;
}
