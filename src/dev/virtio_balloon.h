/* SPDX-License-Identifier: MIT */
/* Memory balloon: virtio 1.2, section 5.5, with deflation when the guest is out of memory and free
 * page reporting. What the guest gives away goes back to the host at once (pmap_discard) and is
 * zeros when it is touched again.
 *
 * Threading: as doc/virtio.md has it; notifications are served on the notifying vCPU's thread
 * without the machine lock. */
#pragma once

#include "dev/virtio.h"

struct virtio_balloon;

struct virtio_balloon_config {
	u64 amount;          /* bytes to take from the guest at first, a multiple of 4096 */
	bool deflate_on_oom; /* the guest may take pages back rather than kill a process */
	bool reporting;      /* the guest reports pages that are free */
	bool packed;
};

/* 0 or -errno (logged). */
int virtio_balloon_create(struct virtio_balloon **out, const struct virtio_env *env,
                          const struct virtio_balloon_config *cfg);

/* Ask the guest for a balloon of that many bytes; at most its memory. Machine lock. */
void virtio_balloon_set(struct virtio_balloon *b, u64 bytes);
u64 virtio_balloon_target(const struct virtio_balloon *b);
