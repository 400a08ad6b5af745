// SPDX-License-Identifier: MIT
/* Packed rings: virtio 1.2, section 2.8. One ring of descriptors that both sides write, and an
 * event suppression structure of each side.
 *
 * A place is the driver's or ours by two flags that are compared with a wrap counter. We write a
 * used descriptor at the place where the first descriptor of some available chain was, in the order
 * of completion; a chain of n descriptors moves our place on by n. */
#include "dev/virtqueue_priv.h"

#define RING_EVENT_FLAGS_ENABLE  0
#define RING_EVENT_FLAGS_DISABLE 1
#define RING_EVENT_FLAGS_DESC    2

static u32 packed_desc_len(u16 size)
{
	return 16u * size;
}

static u32 packed_event_len(u16 size)
{
	return 4;
}

struct desc {
	u64 addr;
	u32 len;
	u16 id, flags;
};

static u8 *place(struct virtqueue *vq, u16 pos)
{
	return vq->desc_p + 16u * pos;
}

/* Flags first: the rest is the driver's as long as they do not say that it is ours. */
static bool desc_read(struct virtqueue *vq, u16 pos, bool wrap, struct desc *d)
{
	const u8 *p = place(vq, pos);
	u64 w[2];

	d->flags = ring_load16(p + 14);
	if (!(d->flags & VIRTQ_DESC_F_AVAIL) == wrap || !(d->flags & VIRTQ_DESC_F_USED) != wrap)
		return false;
	ring_load_desc(p, w);
	d->addr = w[0];
	d->len = (u32)w[1];
	d->id = (u16)(w[1] >> 32);
	return true;
}

static void advance(const struct virtqueue *vq, u16 *pos, bool *wrap, u16 n)
{
	u32 next = (u32)*pos + n;

	if (next >= vq->size) {
		next -= vq->size;
		*wrap = !*wrap;
	}
	*pos = (u16)next;
}

/* 2.8.7: a table is read to its end, whatever NEXT says. */
static int walk_table(struct virtqueue *vq, const struct desc *d)
{
	const u8 *t = walk_indirect(vq, d->addr, d->len);

	if (!t)
		return -1;
	for (u32 i = 0; i < d->len / 16; i++) {
		u64 w[2];
		u16 flags;

		ring_load_desc(t + 16u * i, w);
		flags = (u16)(w[1] >> 48);
		if (flags & VIRTQ_DESC_F_INDIRECT) {
			virtqueue_break(vq, "an indirect table in a table");
			return -1;
		}
		if (walk_add(vq, w[0], (u32)w[1], flags & VIRTQ_DESC_F_WRITE) < 0)
			return -1;
	}
	return 1;
}

static int packed_take(struct virtqueue *vq, struct vq_chain *c)
{
	u16 pos = vq->last_avail, n = 0;
	bool wrap = vq->avail_wrap;
	struct desc d;

	if (vq->inflight >= vq->size || !desc_read(vq, pos, wrap, &d))
		return 0;
	for (;;) {
		n++;
		advance(vq, &pos, &wrap, 1);
		if (vq->inflight + n > vq->size) {
			virtqueue_break(vq, "a chain longer than the ring has free places");
			return -1;
		}
		if (d.flags & VIRTQ_DESC_F_INDIRECT) {
			/* 2.8.7: alone in its chain. */
			if (n > 1 || (d.flags & VIRTQ_DESC_F_NEXT)) {
				virtqueue_break(vq, "an indirect table in a chain");
				return -1;
			}
			if (walk_table(vq, &d) < 0)
				return -1;
			break;
		}
		if (walk_add(vq, d.addr, d.len, d.flags & VIRTQ_DESC_F_WRITE) < 0)
			return -1;
		if (!(d.flags & VIRTQ_DESC_F_NEXT))
			break;
		/* The driver makes the first descriptor available last. */
		if (!desc_read(vq, pos, wrap, &d)) {
			virtqueue_break(vq, "a chain with a descriptor that is not available");
			return -1;
		}
	}
	c->id = d.id; /* of the last one */
	c->nr_desc = n;
	c->pos = vq->last_avail;
	c->wrap = vq->avail_wrap;
	vq->last_avail = pos;
	vq->avail_wrap = wrap;
	vq->inflight += n;
	return 1;
}

static void packed_untake(struct virtqueue *vq, const struct vq_chain *c)
{
	vq->last_avail = c->pos;
	vq->avail_wrap = c->wrap;
	vq->inflight -= c->nr_desc;
}

static bool packed_empty(struct virtqueue *vq)
{
	struct desc d;

	return vq->inflight >= vq->size || !desc_read(vq, vq->last_avail, vq->avail_wrap, &d);
}

/* The flags of the first place that is filled come last, in flush: the driver looks at the places
 * in order. */
static void packed_fill(struct virtqueue *vq, const struct vq_chain *c, u32 written)
{
	u16 pos = vq->used, flags;
	bool wrap = vq->used_wrap;
	gpa_t gpa;
	u8 *p;

	advance(vq, &pos, &wrap, vq->filled);
	p = place(vq, pos);
	gpa = vq->desc + 16u * pos;
	flags = (u16)((wrap ? VIRTQ_DESC_F_AVAIL | VIRTQ_DESC_F_USED : 0) |
	              (written ? VIRTQ_DESC_F_WRITE : 0));
	ring_store(vq, p + 8, gpa + 8, written, 4);
	ring_store(vq, p + 12, gpa + 12, c->id, 2);
	if (vq->filled)
		ring_store(vq, p + 14, gpa + 14, flags, 2);
	else
		vq->first_flags = flags;
	vq->filled = (u16)(vq->filled + c->nr_desc);
	vq->inflight -= c->nr_desc;
}

static void packed_flush(struct virtqueue *vq)
{
	ring_store(vq, place(vq, vq->used) + 14, vq->desc + 16u * vq->used + 14, vq->first_flags,
	           2);
	advance(vq, &vq->used, &vq->used_wrap, vq->filled);
	vq->signalled = (u16)MIN((u32)vq->signalled + vq->filled, 0xffffu);
	vq->filled = 0;
}

/* 2.8.10: `signalled` counts the places used since the driver was last asked. */
static bool packed_wanted(struct virtqueue *vq)
{
	u32 event, flags, off;
	u16 moved = vq->signalled;
	int at;

	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	event = ring_load32(vq->driver_p);
	flags = event >> 16 & 3;
	vq->signalled = 0;
	if (flags == RING_EVENT_FLAGS_DISABLE)
		return false;
	if (flags != RING_EVENT_FLAGS_DESC || !vq->event_idx || moved >= vq->size)
		return true;
	off = event & 0x7fff;
	/* Is that place one of the `moved` behind us? In the lap before ours it is `size` back. */
	at = (int)off - ((event >> 15 & 1) != vq->used_wrap ? vq->size : 0);
	return at < (int)vq->used && at >= (int)vq->used - moved;
}

static void packed_notify(struct virtqueue *vq, bool on)
{
	ring_store(vq, vq->device_p + 2, vq->device + 2,
	           on ? RING_EVENT_FLAGS_ENABLE : RING_EVENT_FLAGS_DISABLE, 2);
}

const struct ring_ops packed_ring = {
	.desc_len = packed_desc_len,
	.driver_len = packed_event_len,
	.device_len = packed_event_len,
	.driver_align = 4,
	.device_align = 4,
	.take = packed_take,
	.untake = packed_untake,
	.empty = packed_empty,
	.fill = packed_fill,
	.flush = packed_flush,
	.wanted = packed_wanted,
	.notify = packed_notify,
};
