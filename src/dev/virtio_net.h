/* SPDX-License-Identifier: MIT */
/* virtio network card: virtio 1.2, section 5.1. Machine lock held. */
#pragma once

#include "dev/netback.h"
#include "dev/virtio.h"

struct virtio_net_config {
	struct netback *back; /* belongs to the device from now on, even on failure */
	u8 mac[6];
};

/* 0 or -errno (logged). */
int virtio_net_create(const struct virtio_env *env, const struct virtio_net_config *cfg);
