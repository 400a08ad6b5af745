/* SPDX-License-Identifier: MIT */
/* virtio socket device: virtio 1.2, section 5.10, streams only. The other ends of the guest's
 * connections are descriptors of stream sockets on the host. Who makes them is in src/io
 * (io/vsock.h); this is the contract.
 *
 * Machine lock held. */
#pragma once

#include "dev/virtio.h"

#define VSOCK_CID_HOST 2
#define VSOCK_CID_MIN  3 /* 5.10.4: 0 to 2 are reserved */

struct virtio_vsock;

struct vsock_host {
	int listen_fd; /* connections from the host; each begins with "CONNECT <port>\n" */
	/* A connection of the guest's to a port of the host's: 0, or -errno at once. After 0
	 * `connected` (below) is called once, later, with the same id. */
	int (*connect)(struct vsock_host *h, u32 port, u32 id);
	void (*destroy)(struct vsock_host *h);

	/* Set by the device. `fd` belongs to it from then on; or -errno. */
	void (*connected)(void *arg, u32 id, int fd);
	void *arg;
};

struct virtio_vsock_config {
	u32 cid;
	struct vsock_host *host; /* belongs to the device from now on, even on failure */
};

/* 0 or -errno (logged). */
int virtio_vsock_create(const struct virtio_env *env, const struct virtio_vsock_config *cfg);
