/* SPDX-License-Identifier: MIT */
/* The virtio devices that the configuration asks for. Set-up only. */
#pragma once

#include "dev/virtio.h"
#include "machine/config.h"

/* Make them all, in the order in which they were asked for. 0 or -errno (logged); what was made is
 * the machine's. */
int devices_create(const struct virtio_env *env, const struct vm_config *cfg);
