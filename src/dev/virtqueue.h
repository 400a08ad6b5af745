/* SPDX-License-Identifier: MIT */
/* One virtqueue for all devices: virtio 1.2, sections 2.6 (queues), 2.7 (split rings), 2.8 (packed
 * rings). doc/virtio.md says how to write a device with it.
 *
 * The guest is hostile. Each field of the rings and descriptors is read once, every address must
 * be RAM, every length and index is checked; a chain comes out as host pointers into guest RAM.
 * What is wrong breaks the queue: the device shows DEVICE_NEEDS_RESET, and virtqueue_pop() returns
 * NULL until the driver has reset it. What the buffers hold is still the guest's and changes while
 * it is read: copy a header (vq_read), then judge the copy.
 *
 * Threading: a queue has no lock; one thread at a time uses it. That is whoever holds the machine
 * lock, unless the device gives a queue to a thread of its own; then only that thread calls what
 * is below, without the machine lock, from `start` until `stop` or `queue_stop` (virtio.h) has
 * made it leave the queue. virtqueue_live() and virtqueue_break() may be called by any thread.
 *
 * Ownership: a chain belongs to whoever popped it until it is pushed, unpopped or dropped. That may
 * be done after a reset of the queue, too: then nothing is written to guest memory. But queues live
 * no longer than the device. */
#pragma once

#include "base/iov.h"

struct pmap;
struct virtio;
struct virtqueue;

#define VQ_MAX_SIZE  1024 /* entries of a queue */
#define VQ_MAX_PARTS 1024 /* buffers of a chain, those in an indirect table included */

/* Descriptor flags. */
#define VIRTQ_DESC_F_NEXT     0x0001
#define VIRTQ_DESC_F_WRITE    0x0002
#define VIRTQ_DESC_F_INDIRECT 0x0004
#define VIRTQ_DESC_F_AVAIL    0x0080 /* packed ring */
#define VIRTQ_DESC_F_USED     0x8000

struct vq_chain {
	struct virtqueue *vq;
	/* What the device reads, then what it writes; empty buffers are left out. */
	struct iovec *rd, *wr;
	unsigned nr_rd, nr_wr;
	u32 rd_len, wr_len; /* bytes */

	/* for virtqueue.c */
	u16 id;      /* head of the chain; packed ring: buffer id */
	u16 nr_desc; /* places in the packed ring */
	u16 pos;     /* packed ring: where it was, and the wrap counter there */
	bool wrap;
	u32 generation; /* of the queue, moved on by each reset */
	u8 *bounce;     /* stands for guest memory while pmap->write_hook wants to see writes */
	gpa_t *wr_gpa;  /* then: where the writable buffers are */
	struct iovec iov[];
};

/* ---- taking and returning chains ---- */

/* The next chain, or NULL: none, or the queue is not live. */
struct vq_chain *virtqueue_pop(struct virtqueue *vq);

/* The chain is done; `written` is the number of bytes, from the start of the writable part, that
 * the device wrote (at most wr_len). Frees the chain. The driver is not interrupted. */
void virtqueue_push(struct vq_chain *c, u32 written);

/* The same in two steps, for several chains that the driver must see at once: fill each, flush. */
void virtqueue_fill(struct vq_chain *c, u32 written);
void virtqueue_flush(struct virtqueue *vq);

/* As if it had never been popped; only the last one popped and not returned, then the one before.
 */
void virtqueue_unpop(struct vq_chain *c);

/* Free without telling the driver: after a reset. */
void virtqueue_drop(struct vq_chain *c);

/* Interrupt the driver, if it wants to hear of what was pushed since the last time. */
void virtqueue_interrupt(struct virtqueue *vq);

/* ---- notifications by the driver ---- */

/* Notifications are on to begin with. A device that is going to look at the queue anyway may save
 * the driver some:
 *
 *	do {
 *		virtqueue_notify_off(vq);
 *		while ((c = virtqueue_pop(vq)))
 *			...
 *	} while (virtqueue_notify_on(vq));
 *
 * notify_on returns true when there is something in the queue by now. */
void virtqueue_notify_off(struct virtqueue *vq);
bool virtqueue_notify_on(struct virtqueue *vq);

/* Nothing to pop now (or not live). */
bool virtqueue_empty(struct virtqueue *vq);

/* Enabled, DRIVER_OK, bus master, not broken. Any thread. */
bool virtqueue_live(const struct virtqueue *vq);

unsigned virtqueue_index(const struct virtqueue *vq);
struct virtio *virtqueue_device(const struct virtqueue *vq);

/* The driver violated the device's protocol beyond repair: DEVICE_NEEDS_RESET, with a guest
 * warning. Any thread. */
void virtqueue_break(struct virtqueue *vq, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

/* ---- bytes of a chain ---- */

/* Copy from the readable part, or into the writable part, at `off`; how many bytes there were. */
size_t vq_read(const struct vq_chain *c, size_t off, void *buf, size_t n);
size_t vq_write(const struct vq_chain *c, size_t off, const void *buf, size_t n);
size_t vq_fill(const struct vq_chain *c, size_t off, u8 byte, size_t n);
