/* SPDX-License-Identifier: MIT */
/* A disk: virtio 1.2, section 5.2. */
#pragma once

#include "dev/block.h"
#include "dev/virtio.h"

#define VIRTIO_BLK_QUEUES_MAX 16
#define VIRTIO_BLK_ID_LEN     20 /* of a serial number, 5.2.6 */

struct virtio_blk_config {
	struct block *back;
	const char *serial; /* up to VIRTIO_BLK_ID_LEN bytes; NULL: none. Not kept */
	unsigned queues;    /* 1 .. VIRTIO_BLK_QUEUES_MAX */
	bool packed;
	/* The host failed (disk full, read error): called, not more than once until the virtual
	 * clock stood still, and what failed is tried again when that goes on. NULL: the guest gets
	 * the error. */
	void (*host_error)(void *arg);
	void *arg;
};

/* 0 or -errno (logged). Owns the back end in any case. */
int virtio_blk_create(const struct virtio_env *env, const struct virtio_blk_config *cfg);
