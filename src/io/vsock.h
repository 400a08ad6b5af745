/* SPDX-License-Identifier: MIT */
/* The host's side of a vsock device as unix sockets, as Firecracker has it: whoever connects to
 * PATH and writes "CONNECT <port>\n" reaches that port of the guest; the guest's connection to a
 * port of the host reaches whoever listens on PATH_<port>.
 *
 * Made at set-up, before the sandbox; then in the VM's loop with the machine lock held. */
#pragma once

#include "bus/loop.h"
#include "dev/virtio_vsock.h"

/* "_4294967295" behind it must fit a sun_path, too. */
#define VSOCK_PATH_LEN 96

/* 0 or -errno, with what to do logged. */
int vsock_host_create(struct vsock_host **out, struct loop *loop, const char *path);
