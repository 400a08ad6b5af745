/* SPDX-License-Identifier: MIT */
/* What every virtio device is made from: virtio 1.2, section 2 (status, features, configuration)
 * over PCI (4.1), modern only. doc/virtio.md says how to write one.
 *
 * A device embeds struct virtio, fills a struct virtio_config and calls virtio_create(), which
 * makes the PCI function and registers the device with the machine.
 *
 * Threading: all callbacks run with the machine lock held, on a vCPU's thread or the loop's; but
 * `notify` runs without it when the device said `notify_unlocked` (it then only wakes its own
 * thread, say). A device with threads stops them in `stop` and `queue_stop`: these return when no
 * thread touches the queue any more. They hold the machine lock, so such a thread must never wait
 * for it; what needs the lock goes to loop_post(). */
#pragma once

#include "bus/dev.h"
#include "dev/pci.h"
#include "dev/virtqueue.h"

/* Section 5. */
enum virtio_id {
	VIRTIO_ID_NET = 1,
	VIRTIO_ID_BLOCK = 2,
	VIRTIO_ID_CONSOLE = 3,
	VIRTIO_ID_RNG = 4,
	VIRTIO_ID_BALLOON = 5,
	VIRTIO_ID_VSOCK = 19,
	VIRTIO_ID_FS = 26,
};

/* Device status, 2.1. */
#define VIRTIO_S_ACKNOWLEDGE 1u
#define VIRTIO_S_DRIVER      2u
#define VIRTIO_S_DRIVER_OK   4u
#define VIRTIO_S_FEATURES_OK 8u
#define VIRTIO_S_NEEDS_RESET 64u
#define VIRTIO_S_FAILED      128u

/* Feature bits of all devices, 6. Those from 24 to 41 are virtio.c's business: it offers version 1,
 * indirect descriptors, event index, queue reset, and packed rings on request. */
#define VIRTIO_F_INDIRECT_DESC BIT(28)
#define VIRTIO_F_EVENT_IDX     BIT(29)
#define VIRTIO_F_VERSION_1     BIT(32)
#define VIRTIO_F_RING_PACKED   BIT(34)
#define VIRTIO_F_RING_RESET    BIT(40)

#define VIRTIO_MAX_QUEUES 256
#define VIRTIO_MAX_CONFIG 1024

struct virtio;

struct virtio_ops {
	/* FEATURES_OK: `v->driver_features` is settled, a subset of what was offered. False: the
	 * device can't work with this subset. May be NULL. */
	bool (*features_ok)(struct virtio *v);
	/* DRIVER_OK was set: queues are live. May be NULL. */
	void (*start)(struct virtio *v);
	/* The driver notified a queue (there is perhaps something in it). Also called for each
	 * enabled queue after `start`, and when a queue becomes live later. Required. With
	 * notify_unlocked several threads may be in it, and one still while `stop` runs. */
	void (*notify)(struct virtio *v, struct virtqueue *vq);
	/* The device is about to be reset or destroyed: leave the queues, drop chains; they are not
	 * live any more. Called after a `start` only. May be NULL when the device keeps no chains
	 * and has no threads. */
	void (*stop)(struct virtio *v);
	/* The same for one queue (2.6.1, queue reset); the driver may enable it again, which calls
	 * `notify`. NULL: VIRTIO_F_RING_RESET is not offered. */
	void (*queue_stop)(struct virtio *v, struct virtqueue *vq);
	/* The driver wrote `n` bytes at `off` of the configuration space, which is all inside it;
	 * the device changes v->cfg.config if it wants to. NULL: read-only. */
	void (*config_write)(struct virtio *v, u32 off, const u8 *buf, u32 n);
	/* What the device's own state is for people: one line or several. May be NULL. */
	void (*dump)(struct virtio *v, FILE *out);
	/* Free what embeds v; called last (after `stop`). Required. */
	void (*destroy)(struct virtio *v);
};

struct virtio_config {
	const char *name; /* "virtio-rng"; in messages */
	enum virtio_id id;
	u32 pci_class;          /* class << 16 | subclass << 8 | interface; 0: 0xff0000, "other" */
	u64 features;           /* what the device offers of its own type's bits */
	unsigned nr_queues;     /* 1 .. VIRTIO_MAX_QUEUES */
	u16 queue_size;         /* entries, a power of two up to VQ_MAX_SIZE; 0: 256 */
	const u16 *queue_sizes; /* one for each queue instead, or NULL */
	void *config;           /* configuration space, read by the driver; the device's memory */
	u32 config_len;         /* up to VIRTIO_MAX_CONFIG */
	bool notify_unlocked;   /* `notify` is called without the machine lock */
	bool packed;            /* offer packed rings */
	int slot;               /* PCI device number, or 0: the next free one */
	const struct virtio_ops *ops;
};

/* Where a device is made: the machine's parts. */
struct virtio_env {
	const struct dev_env *env;
	struct pci_host *pci;
};

struct virtio_pci;

struct virtio {
	struct dev dev; /* the machine resets and destroys it through this */
	struct virtio_config cfg;
	struct dev_env env;
	struct virtio_pci *pci;
	struct virtqueue *vq; /* [nr_queues] */
	u64 offered;          /* features */
	u64 driver_features;  /* what the driver took; settled by FEATURES_OK */
	_Atomic u32 status;
	_Atomic bool master;  /* the function may access memory (PCI command register) */
	u8 generation;        /* of the configuration space */
	_Atomic bool started; /* from the end of `start` to the begin of `stop` */
	struct ratelimit rl;  /* for guest_warn() about this device */
};

/* 0 or -errno (logged). Afterwards the machine owns the device: it calls ops->destroy. On failure
 * the caller frees it. */
int virtio_create(struct virtio *v, const struct virtio_env *env, const struct virtio_config *cfg);

struct virtqueue *virtio_queue(struct virtio *v, unsigned index);

static inline bool virtio_has(const struct virtio *v, u64 feature)
{
	return v->driver_features & feature;
}

/* The device changed its configuration space: the driver is told, and one that has read half of it
 * reads again. Machine lock. */
void virtio_config_changed(struct virtio *v);

/* DEVICE_NEEDS_RESET. Any thread. */
void virtio_break(struct virtio *v, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
