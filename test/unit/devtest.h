/* SPDX-License-Identifier: MIT */
/* A bare machine for tests of devices: bus, loop, interrupt lines, 2 MiB of RAM; and a character
 * back end that records. */
#pragma once

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "bus/dev.h"
#include "dev/chardev.h"

struct devtest {
	struct bus *bus;
	struct loop *loop;
	struct irq_router irq;
	struct pmap *pmap;
	struct dev *devices;
	struct dev_env env;
	bool expired;
};

/* `ram` in bytes, 0: no pmap. Set-up failures abort: nothing can be tested then. */
static inline void devtest_init(struct devtest *t, u64 ram)
{
	memset(t, 0, sizeof(*t));
	if (bus_create(&t->bus, NULL) || loop_create(&t->loop, &t->bus->lock) ||
	    (ram && pmap_create(&t->pmap, ram)))
		abort();
	t->env = (struct dev_env){t->bus, t->loop, &t->irq, t->pmap, NULL, &t->devices};
}

static inline void devtest_fini(struct devtest *t)
{
	dev_destroy_all(&t->devices);
	loop_destroy(t->loop);
	bus_destroy(t->bus);
	pmap_destroy(t->pmap);
}

static inline u8 inb(struct devtest *t, u16 port)
{
	return (u8)bus_read(t->bus, BUS_PIO, port, 1);
}
static inline u16 inw(struct devtest *t, u16 port)
{
	return (u16)bus_read(t->bus, BUS_PIO, port, 2);
}
static inline u32 inl(struct devtest *t, u16 port)
{
	return (u32)bus_read(t->bus, BUS_PIO, port, 4);
}
static inline void outb(struct devtest *t, u16 port, u8 v)
{
	bus_write(t->bus, BUS_PIO, port, v, 1);
}
static inline void outw(struct devtest *t, u16 port, u16 v)
{
	bus_write(t->bus, BUS_PIO, port, v, 2);
}
static inline void outl(struct devtest *t, u16 port, u32 v)
{
	bus_write(t->bus, BUS_PIO, port, v, 4);
}

static inline void devtest_expire(void *arg)
{
	struct devtest *t = arg;

	t->expired = true;
	loop_stop(t->loop);
}

/* Serve the loop until somebody calls loop_stop(), at most `ns`. True: somebody did. A loop that
 * was stopped stays so; each test runs its loop once. */
static inline bool devtest_run(struct devtest *t, u64 ns)
{
	struct timer end;

	t->expired = false;
	timer_init(&end, t->loop, devtest_expire, t);
	timer_arm(&end, loop_now(t->loop) + ns);
	loop_run(t->loop);
	timer_cancel(&end);
	return !t->expired;
}

/* A back end that takes `room` bytes and remembers them; input is pushed by the test. */
struct testback {
	struct chardev chardev;
	u8 out[4096];
	size_t out_len, room;
	const u8 *in;
	size_t in_len;
};

static inline size_t testback_write(struct chardev *c, const u8 *buf, size_t n)
{
	struct testback *b = container_of(c, struct testback, chardev);

	n = MIN(n, b->room);
	n = MIN(n, sizeof(b->out) - b->out_len);
	memcpy(b->out + b->out_len, buf, n);
	b->out_len += n;
	b->room -= n;
	return n;
}

static inline void testback_pull(struct chardev *c)
{
	struct testback *b = container_of(c, struct testback, chardev);

	while (b->in_len && c->front) {
		size_t n = MIN(b->in_len, c->front->room(c->front_arg));
		const u8 *at = b->in;

		if (!n)
			return;
		b->in += n;
		b->in_len -= n;
		c->front->receive(c->front_arg, at, n);
	}
}

static inline void testback_destroy(struct chardev *c)
{
}

static inline void testback_init(struct testback *b)
{
	static const struct chardev_ops ops = {testback_write, testback_pull, testback_destroy};

	memset(b, 0, sizeof(*b));
	b->chardev.ops = &ops;
	b->room = ~(size_t)0;
}

static inline void testback_input(struct testback *b, const void *in, size_t n)
{
	b->in = in;
	b->in_len = n;
	testback_pull(&b->chardev);
}
