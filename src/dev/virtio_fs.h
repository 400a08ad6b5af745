/* SPDX-License-Identifier: MIT */
/* File system device: virtio 1.2, section 5.11. Requests go to a back end, whose threads do the
 * work and return the chains. */
#pragma once

#include "dev/fsback.h"
#include "dev/virtio.h"

#define VIRTIO_FS_TAG_LEN 36

/* `tag`: what the guest mounts, 1 to 36 bytes. The device takes `back`, also when it fails. 0 or
 * -errno (logged). */
int virtio_fs_create(const struct virtio_env *env, const char *tag, struct fsback *back);
