/* SPDX-License-Identifier: MIT */
/* What virtqueue.c, its two ring formats and the transport share. */
#pragma once

#include "dev/virtio.h"
#include "mem/pmap.h"

#define VIRTIO_NO_VECTOR 0xffff /* 4.1.5.1.2 */

struct virtqueue;

/* What the two ring formats do differently. All of it on a live queue, by its owner. */
struct ring_ops {
	/* Bytes of the descriptor, driver and device areas of a queue with `size` entries, and
	 * what their addresses are multiples of (2.7, 2.8). */
	u32 (*desc_len)(u16 size);
	u32 (*driver_len)(u16 size);
	u32 (*device_len)(u16 size);
	u8 driver_align, device_align;
	/* The next chain's buffers into vq->walk, and its id, nr_desc, pos and wrap into `c`. 1:
	 * there is one, 0: none, -1: the queue is broken. */
	int (*take)(struct virtqueue *vq, struct vq_chain *c);
	void (*untake)(struct virtqueue *vq, const struct vq_chain *c);
	bool (*empty)(struct virtqueue *vq);
	void (*fill)(struct virtqueue *vq, const struct vq_chain *c, u32 written);
	void (*flush)(struct virtqueue *vq);
	/* The driver wants to be interrupted for what was flushed since the last call. */
	bool (*wanted)(struct virtqueue *vq);
	void (*notify)(struct virtqueue *vq, bool on);
};

extern const struct ring_ops split_ring;
extern const struct ring_ops packed_ring;

/* The buffers of the chain that is being taken. */
struct vq_walk {
	unsigned nr, nr_rd;
	u64 rd_len, wr_len;
	struct iovec iov[VQ_MAX_PARTS];
	gpa_t gpa[VQ_MAX_PARTS];
};

struct virtqueue {
	struct virtio *v;
	struct pmap *pmap;
	u16 index;
	u16 max_size;

	/* As the driver programmed it. */
	u16 size;
	gpa_t desc, driver, device;
	_Atomic u16 vector;
	_Atomic bool enabled;

	/* Since it was enabled. */
	const struct ring_ops *ring;
	u8 *desc_p, *driver_p, *device_p;
	bool event_idx, indirect;
	bool notify_on;
	bool fresh; /* something was flushed since virtqueue_interrupt() */
	u32 generation;
	u16 last_avail; /* split: free-running; packed: position */
	u16 used;       /* likewise */
	u16 filled;     /* split: chains; packed: places, that are filled and not flushed */
	u16 signalled;  /* `used` when the driver was last asked whether it wants an interrupt */
	bool signalled_valid;
	u16 avail_event; /* split: as last written */
	bool avail_wrap, used_wrap;
	u16 first_flags; /* packed: of the first place filled, written last */
	u32 inflight;    /* places (packed) or chains (split) popped and not returned */
	struct vq_walk *walk;
};

/* Little-endian fields of guest memory, each read once, as a whole. */
static inline u16 ring_load16(const u8 *p)
{
	return __atomic_load_n((const u16 *)(const void *)p, __ATOMIC_ACQUIRE);
}
static inline u32 ring_load32(const u8 *p)
{
	return __atomic_load_n((const u32 *)(const void *)p, __ATOMIC_ACQUIRE);
}
/* A descriptor of 16 bytes as two words, at any alignment: what is in `w` is not read again. */
static inline void ring_load_desc(const u8 *p, u64 w[2])
{
	__builtin_memcpy(w, p, 16);
	__asm__ volatile("" : "+r"(w[0]), "+r"(w[1]) : : "memory");
}

/* Store into a ring and keep the code marks. `n` is 2 or 4, `host` a multiple of it. A store is
 * seen after all that were made before it. */
void ring_store(struct virtqueue *vq, u8 *host, gpa_t gpa, u32 val, unsigned n);

/* One descriptor's buffer into the walk. 0, or -1: the queue is broken. */
int walk_add(struct virtqueue *vq, gpa_t gpa, u32 len, bool writable);
/* A table of indirect descriptors: host pointer or NULL (broken). */
const u8 *walk_indirect(struct virtqueue *vq, gpa_t gpa, u32 len);

/* ---- for the transport; machine lock held ---- */

/* Prepare the queue at the addresses in it. 0, or -EINVAL when an address or the size is wrong. */
int virtqueue_enable(struct virtqueue *vq);
/* Back to the state after power-on. The device has left it. */
void virtqueue_reset(struct virtqueue *vq);

int virtqueue_init(struct virtqueue *vq, struct virtio *v, u16 index, u16 max_size);
void virtqueue_fini(struct virtqueue *vq);

/* virtio.c: status and features, for the transport. */
void virtio_set_status(struct virtio *v, u8 val);
void virtio_set_driver_features(struct virtio *v, u32 word, u32 val);
void virtio_queue_enable(struct virtqueue *vq);
void virtio_queue_reset(struct virtqueue *vq);
void virtio_set_master(struct virtio *v, bool on);
/* Machine lock held or not, as the device wants it for `notify`. */
void virtio_notified(struct virtio *v, unsigned queue);

/* virtio_pci.c: what the transport does for the device. The interrupts: any thread. */
int virtio_pci_create(struct virtio *v, struct pci_host *pci);
void virtio_pci_destroy(struct virtio *v);
void virtio_pci_reset(struct virtio *v);
void virtio_pci_interrupt_queue(struct virtio *v, struct virtqueue *vq);
void virtio_pci_interrupt_config(struct virtio *v);
void virtio_pci_dump(struct virtio *v, FILE *out);
