/* SPDX-License-Identifier: MIT */
/* Entropy device: virtio 1.2, section 5.4. The host's random numbers. */
#pragma once

#include "dev/virtio.h"

struct virtio_rng_config {
	bool packed; /* offer packed rings */
};

/* 0 or -errno (logged). */
int virtio_rng_create(const struct virtio_env *env, const struct virtio_rng_config *cfg);
