// SPDX-License-Identifier: MIT
/* Split rings: virtio 1.2, section 2.7. Descriptor table, available ring (the driver's), used ring
 * (ours). */
#include "dev/virtqueue_priv.h"

#define AVAIL_F_NO_INTERRUPT 1
#define USED_F_NO_NOTIFY     1

/* struct virtq_avail: flags, idx, ring[size], used_event; virtq_used: flags, idx, ring[size] of
 * {id, len}, avail_event. */
#define RING_FLAGS 0u
#define RING_IDX   2u
#define RING_RING  4u

static u32 split_desc_len(u16 size)
{
	return 16u * size;
}

static u32 split_driver_len(u16 size)
{
	return 6u + 2u * size;
}

static u32 split_device_len(u16 size)
{
	return 6u + 8u * size;
}

static u8 *used_event(struct virtqueue *vq)
{
	return vq->driver_p + RING_RING + 2u * vq->size;
}

static void device_store(struct virtqueue *vq, u32 off, u32 val, unsigned n)
{
	ring_store(vq, vq->device_p + off, vq->device + off, val, n);
}

static void set_avail_event(struct virtqueue *vq)
{
	if (vq->avail_event == vq->last_avail)
		return;
	vq->avail_event = vq->last_avail;
	device_store(vq, RING_RING + 8u * vq->size, vq->avail_event, 2);
}

/* How many chains wait, or -1. */
static int split_waiting(struct virtqueue *vq)
{
	u16 n = (u16)(ring_load16(vq->driver_p + RING_IDX) - vq->last_avail);

	if (!n && vq->event_idx && vq->notify_on && vq->avail_event != vq->last_avail) {
		/* The driver notifies when it passes this; look again, it may have. */
		set_avail_event(vq);
		__atomic_thread_fence(__ATOMIC_SEQ_CST);
		n = (u16)(ring_load16(vq->driver_p + RING_IDX) - vq->last_avail);
	}
	if (n > vq->size) {
		virtqueue_break(vq, "available index %u ahead, with %u entries", n, vq->size);
		return -1;
	}
	return n;
}

struct desc {
	u64 addr;
	u32 len;
	u16 flags, next;
};

static struct desc desc_read(const u8 *p)
{
	u64 w[2];

	ring_load_desc(p, w);
	return (struct desc){
		.addr = w[0],
		.len = (u32)w[1],
		.flags = (u16)(w[1] >> 32),
		.next = (u16)(w[1] >> 48),
	};
}

/* The chain that starts at `i` in a table of `size` descriptors. It has at most as many, else it is
 * a loop. */
static int walk_table(struct virtqueue *vq, const u8 *table, u32 size, u32 i, bool top)
{
	for (u32 n = 0; n < size; n++) {
		struct desc d;

		if (i >= size) {
			virtqueue_break(vq, "descriptor %u of %u", i, size);
			return -1;
		}
		d = desc_read(table + 16u * i);
		if (d.flags & VIRTQ_DESC_F_INDIRECT) {
			const u8 *t;

			/* 2.7.5.3.1: no table in a table, and no NEXT. A chain may begin with
			 * direct descriptors. */
			if (!top || (d.flags & VIRTQ_DESC_F_NEXT)) {
				virtqueue_break(vq, "an indirect table in a table or with NEXT");
				return -1;
			}
			t = walk_indirect(vq, d.addr, d.len);
			return t ? walk_table(vq, t, d.len / 16, 0, false) : -1;
		}
		if (walk_add(vq, d.addr, d.len, d.flags & VIRTQ_DESC_F_WRITE) < 0)
			return -1;
		if (!(d.flags & VIRTQ_DESC_F_NEXT))
			return 1;
		i = d.next;
	}
	virtqueue_break(vq, "a loop of descriptors");
	return -1;
}

static int split_take(struct virtqueue *vq, struct vq_chain *c)
{
	int n = split_waiting(vq);
	u16 head;

	if (n <= 0)
		return n;
	if (vq->inflight >= vq->size) {
		virtqueue_break(vq, "more than %u chains at a time", vq->size);
		return -1;
	}
	head = ring_load16(vq->driver_p + RING_RING + 2u * (vq->last_avail % vq->size));
	if (head >= vq->size) {
		virtqueue_break(vq, "descriptor %u of %u", head, vq->size);
		return -1;
	}
	if (walk_table(vq, vq->desc_p, vq->size, head, true) < 0)
		return -1;
	c->id = head;
	c->nr_desc = 1;
	vq->last_avail++;
	vq->inflight++;
	return 1;
}

static void split_untake(struct virtqueue *vq, const struct vq_chain *c)
{
	vq->last_avail--;
	vq->inflight--;
}

static bool split_empty(struct virtqueue *vq)
{
	return ring_load16(vq->driver_p + RING_IDX) == vq->last_avail;
}

static void split_fill(struct virtqueue *vq, const struct vq_chain *c, u32 written)
{
	u32 at = RING_RING + 8u * ((u16)(vq->used + vq->filled) % vq->size);

	/* Two words: an entry is a multiple of 4 only. */
	device_store(vq, at, c->id, 4);
	device_store(vq, at + 4, written, 4);
	vq->filled++;
	vq->inflight--;
}

static void split_flush(struct virtqueue *vq)
{
	vq->used = (u16)(vq->used + vq->filled);
	/* After 2^15 entries the distance to the last one asked about means nothing. */
	if ((u16)(vq->used - vq->signalled) < vq->filled)
		vq->signalled_valid = false;
	vq->filled = 0;
	device_store(vq, RING_IDX, vq->used, 2);
}

/* 2.7.7.2: vring_need_event() in the driver's index. */
static bool split_wanted(struct virtqueue *vq)
{
	u16 old = vq->signalled, event;
	bool valid = vq->signalled_valid;

	__atomic_thread_fence(__ATOMIC_SEQ_CST); /* the used index, then what the driver wants */
	if (!vq->event_idx)
		return !(ring_load16(vq->driver_p + RING_FLAGS) & AVAIL_F_NO_INTERRUPT);
	vq->signalled = vq->used;
	vq->signalled_valid = true;
	event = ring_load16(used_event(vq));
	return !valid || (u16)(vq->used - event - 1) < (u16)(vq->used - old);
}

static void split_notify(struct virtqueue *vq, bool on)
{
	if (!vq->event_idx)
		device_store(vq, RING_FLAGS, on ? 0 : USED_F_NO_NOTIFY, 2);
	else if (on)
		set_avail_event(vq);
}

const struct ring_ops split_ring = {
	.desc_len = split_desc_len,
	.driver_len = split_driver_len,
	.device_len = split_device_len,
	.driver_align = 2,
	.device_align = 4,
	.take = split_take,
	.untake = split_untake,
	.empty = split_empty,
	.fill = split_fill,
	.flush = split_flush,
	.wanted = split_wanted,
	.notify = split_notify,
};
