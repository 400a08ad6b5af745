/* SPDX-License-Identifier: MIT */
/* Listening on a Unix stream socket, and a character device whose outside is one. */
#pragma once

#include "bus/loop.h"
#include "dev/chardev.h"

/* A listening socket at `path`, or -errno. A socket that nobody serves any more stays behind when a
 * VM ends, because the sandbox lets no running VM remove files: the next one takes its place. */
int unix_listen(const char *path);

/* One client at a time; the next one waits. Without a client output is thrown away and there is no
 * input. A client that does not read makes the device wait. 0 or -errno (logged).
 *
 * Threading: machine lock. */
int sockcon_create(struct chardev **out, struct loop *loop, const char *path);
