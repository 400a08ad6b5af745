/* SPDX-License-Identifier: MIT */
/* A stream of characters between a device (the front: a UART) and the outside (the back: a
 * terminal, a file). This is only the contract, so that devices need not know src/io, which
 * implements it.
 *
 * Nothing here ever blocks. The back takes what it has room for and calls `drained` once it has
 * room again; the front says how much input it takes now (`room`) and calls chardev_pull() once it
 * takes more. The back offers no more than `room` bytes, so neither side needs to drop anything.
 *
 * Threading: everything with the machine lock held. Ownership: whoever made a chardev destroys it,
 * after the devices. */
#pragma once

#include "base/types.h"

struct chardev;

struct chardev_ops {
	/* Take up to n bytes; how many were taken. Fewer than n: `drained` follows. */
	size_t (*write)(struct chardev *c, const u8 *buf, size_t n);
	/* The front has room for input (again). May call `receive` before it returns. */
	void (*pull)(struct chardev *c);
	/* Hands what is still buffered to the host (waiting a bounded time), then frees. */
	void (*destroy)(struct chardev *c);
};

struct chardev_front {
	size_t (*room)(void *arg); /* bytes of input it takes now */
	void (*receive)(void *arg, const u8 *buf, size_t n);
	void (*drained)(void *arg); /* output after a short write may go on */
};

struct chardev {
	const struct chardev_ops *ops;
	const struct chardev_front *front; /* NULL: nobody is connected, input waits */
	void *front_arg;
};

static inline void chardev_connect(struct chardev *c, const struct chardev_front *front, void *arg)
{
	c->front = front;
	c->front_arg = arg;
	if (front)
		c->ops->pull(c);
}
static inline size_t chardev_write(struct chardev *c, const u8 *buf, size_t n)
{
	return c->ops->write(c, buf, n);
}
static inline void chardev_pull(struct chardev *c)
{
	c->ops->pull(c);
}
static inline void chardev_destroy(struct chardev *c)
{
	if (c)
		c->ops->destroy(c);
}
