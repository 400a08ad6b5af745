/* SPDX-License-Identifier: MIT */
/* Console device with several ports: virtio 1.2, section 5.3. A port is a console (hvc0 and on in
 * Linux) or a stream with a name (/dev/virtio-ports/NAME); its outside is a struct chardev. */
#pragma once

#include "dev/chardev.h"
#include "dev/virtio.h"

#define VIRTIO_CONSOLE_MAX_PORTS 16
#define VIRTIO_CONSOLE_NAME_MAX  31

struct virtio_console_port {
	struct chardev *back; /* NULL: output is thrown away, no input */
	bool console;
	char name[VIRTIO_CONSOLE_NAME_MAX + 1]; /* "": none */
};

struct virtio_console_config {
	const struct virtio_console_port *port; /* consoles first */
	unsigned nr_ports;                      /* 1 .. VIRTIO_CONSOLE_MAX_PORTS - 1 */
	bool packed;
};

/* 0 or -errno (logged). */
int virtio_console_create(const struct virtio_env *env, const struct virtio_console_config *cfg);
