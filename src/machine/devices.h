/* SPDX-License-Identifier: MIT */
/* The virtio devices that the configuration asks for. Set-up only. */
#pragma once

#include "dev/virtio.h"
#include "machine/config.h"

/* Those that the machine has business with later; NULL when there is none. */
struct machine_devices {
	struct virtio_balloon *balloon; /* the first one */
};

/* Make them all, in the order in which they were asked for. 0 or -errno (logged); what was made is
 * the machine's. */
int devices_create(const struct virtio_env *env, const struct vm_config *cfg,
                   struct machine_devices *out);
