/* SPDX-License-Identifier: MIT */
/* A network card with a back end that the test plays, for test_virtio_net.c and the fuzzer. */
#pragma once

#include <stdlib.h>

#include "dev/netgso.h"
#include "dev/virtio_net.h"
#include "ringtest.h"

struct fakeback {
	struct netback back;
	bool congested;
	unsigned sent, pairs;
	size_t len; /* of the last frame sent */
	struct net_vhdr hdr;
	u8 frame[NET_FRAME_MAX];
	u32 offload;
	bool pulled;
};

static inline struct fakeback *fakeback_of(struct netback *b)
{
	return container_of(b, struct fakeback, back);
}

static inline bool fakeback_send(struct netback *b, unsigned queue, const struct net_vhdr *h,
                                 u8 *frame, size_t len)
{
	struct fakeback *f = fakeback_of(b);

	/* The contract of netback.h. */
	if (queue >= b->queues || !net_vhdr_check(h, frame, len, b->tx_offload))
		abort();
	if (f->congested)
		return false;
	f->sent++;
	f->len = len;
	f->hdr = *h;
	memcpy(f->frame, frame, len);
	return true;
}

static inline void fakeback_pull(struct netback *b, unsigned queue)
{
	fakeback_of(b)->pulled = true;
}

static inline void fakeback_set_offload(struct netback *b, u32 offload)
{
	fakeback_of(b)->offload = offload;
}

static inline void fakeback_set_queues(struct netback *b, unsigned pairs)
{
	if (!pairs || pairs > b->queues)
		abort();
	fakeback_of(b)->pairs = pairs;
}

static inline void fakeback_dump(struct netback *b, FILE *out)
{
}

static inline void fakeback_destroy(struct netback *b)
{
	free(fakeback_of(b));
}

#define CARD_RAM   (4 * MiB)
#define CARD_RINGS 0x100000

struct card {
	struct pcitest p;
	struct driver d;
	struct fakeback *f;
	struct ring rx, tx, ctrl;
};

static inline void card_make(struct card *c, unsigned queues)
{
	static const struct netback_ops ops = {fakeback_send,        fakeback_pull,
	                                       fakeback_set_offload, fakeback_set_queues,
	                                       fakeback_dump,        fakeback_destroy};
	struct virtio_net_config cfg = {.mac = {2, 0, 0, 0, 0, 1}};
	u32 all = NET_OFF_CSUM | NET_OFF_TSO4 | NET_OFF_TSO6 | NET_OFF_ECN;

	memset(c, 0, sizeof(*c));
	pcitest_init(&c->p, CARD_RAM);
	loop_clock_stop(c->p.t.loop);
	c->f = calloc(1, sizeof(*c->f));
	if (!c->f)
		abort();
	c->f->back = (struct netback){.ops = &ops,
	                              .kind = "fake",
	                              .queues = queues,
	                              .tx_offload = all,
	                              .rx_offload = all,
	                              .mtu = 1500};
	cfg.back = &c->f->back;
	if (virtio_net_create(&c->p.venv, &cfg) || pci_host_assign(c->p.host))
		abort();
	driver_init(&c->d, &c->p, 1);
}

static inline void card_start(struct card *c, u64 features, u16 size, bool packed)
{
	driver_negotiate(&c->d, features & (driver_offered(&c->d) | BIT(32)));
	ring_init(&c->rx, &c->d, 0, size, packed, CARD_RINGS);
	ring_init(&c->tx, &c->d, 1, size, packed, CARD_RINGS + 0x3000);
	ring_init(&c->ctrl, &c->d, 2 * (features & BIT(22) ? c->f->back.queues : 1), 16, packed,
	          CARD_RINGS + 0x6000);
	ring_enable(&c->rx);
	ring_enable(&c->tx);
	ring_enable(&c->ctrl);
	driver_ok(&c->d);
	loop_clock_step(c->p.t.loop, 1);
}

/* What is due on the loop's thread. */
static inline void card_run(struct card *c)
{
	loop_clock_step(c->p.t.loop, 1);
}

static inline bool card_receive(struct card *c, const struct net_vhdr *h, const u8 *frame, size_t n)
{
	bool ok;

	bus_lock(c->p.t.bus);
	ok = netback_receive(&c->f->back, 0, h, frame, n);
	bus_unlock(c->p.t.bus);
	return ok;
}
