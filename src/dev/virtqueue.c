// SPDX-License-Identifier: MIT
/* What both ring formats share: chains, their memory, and the rules of the device for it.
 *
 * Writes of a device into guest RAM go straight to the memory behind the host pointers. When the
 * chain is returned the code marks of all its writable pages are looked at (mem/pmap.h): a page
 * that holds code and was filled from a disk is then decoded anew, and that happens before the
 * driver can know that the data is there. While a pmap->write_hook is set, the chain's writable
 * part is a copy that is written back with pmap_write(). */
#include "dev/virtqueue.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "dev/virtqueue_priv.h"

/* Of the copies of one chain's writable part. */
#define BOUNCE_MAX (256 * MiB)

/* ---- the queue's state ---- */

bool virtqueue_live(const struct virtqueue *vq)
{
	const struct virtio *v = vq->v;

	return vq->enabled && v->master &&
	       (v->status & (VIRTIO_S_DRIVER_OK | VIRTIO_S_NEEDS_RESET)) == VIRTIO_S_DRIVER_OK;
}

unsigned virtqueue_index(const struct virtqueue *vq)
{
	return vq->index;
}

struct virtio *virtqueue_device(const struct virtqueue *vq)
{
	return vq->v;
}

void virtqueue_break(struct virtqueue *vq, const char *fmt, ...)
{
	char why[160];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(why, sizeof(why), fmt, ap);
	va_end(ap);
	virtio_break(vq->v, "queue %u: %s", vq->index, why);
}

int virtqueue_init(struct virtqueue *vq, struct virtio *v, u16 index, u16 max_size)
{
	if (!max_size || max_size > VQ_MAX_SIZE || (max_size & (max_size - 1)))
		return -EINVAL;
	vq->v = v;
	vq->pmap = v->env.pmap;
	vq->index = index;
	vq->max_size = max_size;
	virtqueue_reset(vq);
	return 0;
}

void virtqueue_fini(struct virtqueue *vq)
{
	free(vq->walk);
	vq->walk = NULL;
}

void virtqueue_reset(struct virtqueue *vq)
{
	vq->enabled = false;
	vq->generation++;
	vq->size = vq->max_size;
	vq->desc = vq->driver = vq->device = 0;
	vq->vector = VIRTIO_NO_VECTOR;
	vq->desc_p = vq->driver_p = vq->device_p = NULL;
	vq->ring = NULL;
}

static u8 *area(struct virtqueue *vq, gpa_t gpa, u32 len, unsigned align)
{
	return gpa & (align - 1) ? NULL : pmap_ptr(vq->pmap, gpa, len);
}

int virtqueue_enable(struct virtqueue *vq)
{
	const struct ring_ops *ring =
		virtio_has(vq->v, VIRTIO_F_RING_PACKED) ? &packed_ring : &split_ring;

	if (!vq->size || vq->size > vq->max_size ||
	    (ring == &split_ring && (vq->size & (vq->size - 1))))
		return -EINVAL;
	vq->desc_p = area(vq, vq->desc, ring->desc_len(vq->size), 16);
	vq->driver_p = area(vq, vq->driver, ring->driver_len(vq->size), ring->driver_align);
	vq->device_p = area(vq, vq->device, ring->device_len(vq->size), ring->device_align);
	if (!vq->desc_p || !vq->driver_p || !vq->device_p)
		return -EINVAL;
	if (!vq->walk)
		vq->walk = malloc(sizeof(*vq->walk));
	if (!vq->walk)
		return -ENOMEM;
	vq->ring = ring;
	vq->event_idx = virtio_has(vq->v, VIRTIO_F_EVENT_IDX);
	vq->indirect = virtio_has(vq->v, VIRTIO_F_INDIRECT_DESC);
	vq->notify_on = true;
	vq->last_avail = vq->used = vq->filled = vq->signalled = vq->avail_event = 0;
	vq->avail_wrap = vq->used_wrap = true;
	vq->signalled_valid = vq->fresh = false;
	vq->inflight = 0;
	vq->enabled = true;
	return 0;
}

/* ---- writes to guest memory ---- */

static void marks(struct virtqueue *vq, const u8 *host, u64 len)
{
	u64 at = (u64)(host - vq->pmap->hva);

	while (len) {
		u64 off = at & ~PAGE_MASK, n = MIN(len, PAGE_SIZE - off);

		pmap_code_written(vq->pmap, at >> PAGE_SHIFT, (u32)off, (u32)n);
		at += n;
		len -= n;
	}
}

void ring_store(struct virtqueue *vq, u8 *host, gpa_t gpa, u32 val, unsigned n)
{
	if (unlikely(vq->pmap->write_hook)) {
		pmap_write(vq->pmap, gpa, &val, n);
		return;
	}
	if (n == 2)
		__atomic_store_n((u16 *)(void *)host, (u16)val, __ATOMIC_RELEASE);
	else
		__atomic_store_n((u32 *)(void *)host, val, __ATOMIC_RELEASE);
	__atomic_thread_fence(__ATOMIC_SEQ_CST); /* the store, then the mark */
	marks(vq, host, n);
}

/* The device's writes to the chain's buffers are complete: before the ring says so. */
static void chain_written(struct vq_chain *c)
{
	struct virtqueue *vq = c->vq;

	if (c->bounce) {
		for (unsigned i = 0; i < c->nr_wr; i++)
			pmap_write(vq->pmap, c->wr_gpa[i], c->wr[i].iov_base, c->wr[i].iov_len);
		return;
	}
	if (!c->nr_wr)
		return;
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	for (unsigned i = 0; i < c->nr_wr; i++)
		marks(vq, c->wr[i].iov_base, c->wr[i].iov_len);
}

/* ---- walking a chain ---- */

int walk_add(struct virtqueue *vq, gpa_t gpa, u32 len, bool writable)
{
	struct vq_walk *w = vq->walk;
	u8 *host;

	if (!writable && w->wr_len) {
		virtqueue_break(vq, "a readable buffer behind a writable one");
		return -1;
	}
	if (!len)
		return 0;
	if (w->nr == VQ_MAX_PARTS) {
		virtqueue_break(vq, "a chain of more than %u buffers", VQ_MAX_PARTS);
		return -1;
	}
	host = pmap_ptr(vq->pmap, gpa, len);
	if (!host) {
		virtqueue_break(vq, "buffer at %#llx of %u bytes is not in RAM",
		                (unsigned long long)gpa, len);
		return -1;
	}
	w->iov[w->nr] = (struct iovec){host, len};
	w->gpa[w->nr++] = gpa;
	if (writable) {
		w->wr_len += len;
	} else {
		w->nr_rd++;
		w->rd_len += len;
	}
	/* 2.7.4.2: together at most 4 GiB. */
	if (w->wr_len + w->rd_len > ~0u) {
		virtqueue_break(vq, "a chain of more than 4 GiB");
		return -1;
	}
	return 0;
}

const u8 *walk_indirect(struct virtqueue *vq, gpa_t gpa, u32 len)
{
	const u8 *host;

	if (!vq->indirect || !len || len % 16 || len / 16 > VQ_MAX_PARTS) {
		virtqueue_break(vq, "a bad indirect table: %u bytes", len);
		return NULL;
	}
	host = pmap_ptr(vq->pmap, gpa, len);
	if (!host)
		virtqueue_break(vq, "indirect table at %#llx of %u bytes is not in RAM",
		                (unsigned long long)gpa, len);
	return host;
}

/* The writable part as a copy. */
static bool chain_bounce(struct vq_chain *c, const struct vq_walk *w)
{
	u8 *at;

	if (c->wr_len > BOUNCE_MAX)
		return false;
	c->bounce = malloc((size_t)c->nr_wr * sizeof(gpa_t) + c->wr_len);
	if (!c->bounce)
		return false;
	c->wr_gpa = (gpa_t *)(void *)c->bounce;
	memcpy(c->wr_gpa, w->gpa + w->nr_rd, (size_t)c->nr_wr * sizeof(gpa_t));
	at = c->bounce + (size_t)c->nr_wr * sizeof(gpa_t);
	for (unsigned i = 0; i < c->nr_wr; i++) {
		memcpy(at, c->wr[i].iov_base, c->wr[i].iov_len);
		c->wr[i].iov_base = at;
		at += c->wr[i].iov_len;
	}
	return true;
}

static struct vq_chain *chain_make(struct virtqueue *vq, const struct vq_chain *head)
{
	const struct vq_walk *w = vq->walk;
	size_t bytes = w->nr * sizeof(struct iovec);
	struct vq_chain *c = malloc(sizeof(*c) + bytes);

	if (!c)
		return NULL;
	*c = *head;
	c->vq = vq;
	c->generation = vq->generation;
	memcpy(c->iov, w->iov, bytes);
	c->rd = c->iov;
	c->nr_rd = w->nr_rd;
	c->wr = c->iov + w->nr_rd;
	c->nr_wr = w->nr - w->nr_rd;
	c->rd_len = (u32)w->rd_len;
	c->wr_len = (u32)w->wr_len;
	if (unlikely(vq->pmap->write_hook) && c->nr_wr && !chain_bounce(c, w)) {
		free(c);
		return NULL;
	}
	return c;
}

struct vq_chain *virtqueue_pop(struct virtqueue *vq)
{
	struct vq_chain head = {0}, *c;

	if (!virtqueue_live(vq))
		return NULL;
	vq->walk->nr = vq->walk->nr_rd = 0;
	vq->walk->rd_len = vq->walk->wr_len = 0;
	if (vq->ring->take(vq, &head) <= 0)
		return NULL;
	c = chain_make(vq, &head);
	if (!c) {
		vq->ring->untake(vq, &head);
		virtqueue_break(vq, "out of memory");
	}
	return c;
}

static void chain_free(struct vq_chain *c)
{
	free(c->bounce);
	free(c);
}

/* The queue was not reset since the chain was popped. */
static bool chain_current(const struct vq_chain *c)
{
	return c->generation == c->vq->generation && c->vq->ring;
}

void virtqueue_fill(struct vq_chain *c, u32 written)
{
	struct virtqueue *vq = c->vq;

	if (written > c->wr_len)
		bug("%s wrote %u bytes to a chain with room for %u", vq->v->cfg.name, written,
		    c->wr_len);
	if (chain_current(c)) {
		chain_written(c);
		vq->ring->fill(vq, c, written);
	}
	chain_free(c);
}

void virtqueue_flush(struct virtqueue *vq)
{
	if (!vq->ring || !vq->filled)
		return;
	vq->ring->flush(vq);
	vq->fresh = true;
}

void virtqueue_push(struct vq_chain *c, u32 written)
{
	struct virtqueue *vq = c->vq;

	virtqueue_fill(c, written);
	virtqueue_flush(vq);
}

void virtqueue_unpop(struct vq_chain *c)
{
	if (chain_current(c))
		c->vq->ring->untake(c->vq, c);
	chain_free(c);
}

void virtqueue_drop(struct vq_chain *c)
{
	chain_free(c);
}

bool virtqueue_empty(struct virtqueue *vq)
{
	return !virtqueue_live(vq) || vq->ring->empty(vq);
}

void virtqueue_interrupt(struct virtqueue *vq)
{
	if (!virtqueue_live(vq) || !vq->fresh)
		return;
	vq->fresh = false;
	if (vq->ring->wanted(vq))
		virtio_pci_interrupt_queue(vq->v, vq);
}

void virtqueue_notify_off(struct virtqueue *vq)
{
	if (!virtqueue_live(vq) || !vq->notify_on)
		return;
	vq->notify_on = false;
	vq->ring->notify(vq, false);
}

bool virtqueue_notify_on(struct virtqueue *vq)
{
	if (!virtqueue_live(vq))
		return false;
	vq->notify_on = true;
	vq->ring->notify(vq, true);
	__atomic_thread_fence(
		__ATOMIC_SEQ_CST); /* we say so, then look; the driver does the reverse */
	return !vq->ring->empty(vq);
}

/* ---- bytes ---- */

size_t vq_read(const struct vq_chain *c, size_t off, void *buf, size_t n)
{
	return iov_read(c->rd, c->nr_rd, off, buf, n);
}

size_t vq_write(const struct vq_chain *c, size_t off, const void *buf, size_t n)
{
	return iov_write(c->wr, c->nr_wr, off, buf, n);
}

size_t vq_fill(const struct vq_chain *c, size_t off, u8 byte, size_t n)
{
	return iov_fill(c->wr, c->nr_wr, off, byte, n);
}
