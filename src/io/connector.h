/* SPDX-License-Identifier: MIT */
/* Connecting needs a new socket and an address, which the sandbox has for nobody: who could connect
 * to any unix socket of the user's could do anything in his name. So a process of its own does it,
 * the connector. It is told nothing but a number, makes the address of it by a function that was
 * given to it at the start, and sends back a descriptor; its own filter allows just that. It
 * ends when its socket does.
 *
 * Made before the sandbox closes; asking and taking may be done after it, by one thread. */
#pragma once

#include "base/types.h"

/* In the connector: a socket that is connected or connecting (both without blocking), or -errno. */
typedef int connector_fn(const void *arg, u32 number);

/* What a connector's filter allows besides: to look at names in the file system, without opening
 * what is there: open(2) with CONNECTOR_LOOK, fstat(2). */
#define CONNECTOR_LOOK (O_PATH | O_NOFOLLOW | O_CLOEXEC)

/* The socket to it in *out, to be closed. `name` is that of the process, `family` the only one of
 * its sockets; `looks`: see above. 0 or -errno. */
int connector_start(int *out, const char *name, int family, bool looks, connector_fn *fn,
                    const void *arg);
/* Ask for a connection, without blocking; the answer, for which poll(2) waits, bears `id`. 0 or
 * -errno. */
int connector_ask(int s, u32 id, u32 number);
/* An answer: 0, and a descriptor or -errno in *fd; -EAGAIN: there is none; -EPIPE: the process has
 * ended. */
int connector_take(int s, u32 *id, int *fd);
