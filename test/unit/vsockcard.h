/* SPDX-License-Identifier: MIT */
/* A vsock device with a host that the test plays, and a driver's packets, for test_vsock.c and the
 * fuzzer. Nothing runs by itself: the clock stands, descriptors are looked at when asked. */
#pragma once

#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "dev/virtio_vsock_priv.h"
#include "ringtest.h"

#define VC_RAM   (4 * MiB)
#define VC_RINGS 0x100000
#define VC_TX    0x200000 /* the driver's packets, one a ring's place */
#define VC_RX    0x280000
#define VC_SLOT  0x2000
#define VC_CID   3

/* What the device asked of its host; the answer is the test's. */
struct fakehost {
	struct vsock_host host;
	struct sockaddr_un addr;
	socklen_t addr_len;
	int refuse; /* -errno: at once */
	unsigned asked;
	u32 id, port; /* of the last one */
};

struct vsockcard {
	struct pcitest p;
	struct driver d;
	struct fakehost *h;
	struct ring rx, tx, ev;
	u16 rx_id, tx_id;
};

static inline int fakehost_connect(struct vsock_host *h, u32 port, u32 id)
{
	struct fakehost *f = container_of(h, struct fakehost, host);

	f->asked++;
	f->port = port;
	f->id = id;
	return f->refuse;
}

static inline void fakehost_destroy(struct vsock_host *h)
{
	close(h->listen_fd);
	free(container_of(h, struct fakehost, host));
}

/* A socket without a name in any folder: the kernel chooses one. */
static inline struct fakehost *fakehost_make(void)
{
	struct fakehost *f = calloc(1, sizeof(*f));

	if (!f)
		abort();
	f->host.connect = fakehost_connect;
	f->host.destroy = fakehost_destroy;
	f->host.listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	f->addr.sun_family = AF_UNIX;
	f->addr_len = sizeof(f->addr);
	if (bind(f->host.listen_fd, (struct sockaddr *)&f->addr, sizeof(sa_family_t)) ||
	    listen(f->host.listen_fd, 300) ||
	    getsockname(f->host.listen_fd, (struct sockaddr *)&f->addr, &f->addr_len))
		abort();
	return f;
}

static inline void vsockcard_make(struct vsockcard *c)
{
	struct virtio_vsock_config cfg = {.cid = VC_CID};

	memset(c, 0, sizeof(*c));
	pcitest_init(&c->p, VC_RAM);
	loop_clock_stop(c->p.t.loop);
	c->h = fakehost_make();
	cfg.host = &c->h->host;
	if (virtio_vsock_create(&c->p.venv, &cfg) || pci_host_assign(c->p.host))
		abort();
	driver_init(&c->d, &c->p, 1);
}

static inline void vsockcard_start(struct vsockcard *c, u16 size)
{
	struct ring *r[3] = {&c->rx, &c->tx, &c->ev};

	driver_negotiate(&c->d, driver_offered(&c->d));
	for (unsigned i = 0; i < 3; i++) {
		ring_init(r[i], &c->d, i, size, false, VC_RINGS + 0x3000 * i);
		ring_enable(r[i]);
	}
	driver_ok(&c->d);
	c->rx_id = c->tx_id = 0;
}

/* All that is due, on the loop's thread and at its descriptors. */
static inline void vsockcard_run(struct vsockcard *c)
{
	for (unsigned i = 0; i < 4; i++) {
		loop_clock_step(c->p.t.loop, 1);
		loop_look(c->p.t.loop);
	}
	loop_clock_step(c->p.t.loop, 1);
}

/* The device's own state, to be looked at. */
static inline struct virtio_vsock *vsockcard_dev(const struct vsockcard *c)
{
	return c->h->host.arg;
}

/* A connection from the host: its end. */
static inline int vsockcard_dial(struct vsockcard *c)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd < 0)
		abort();
	if (connect(fd, (struct sockaddr *)&c->h->addr, c->h->addr_len)) {
		close(fd);
		return -1;
	}
	return fd;
}

/* The answer to the guest's request `id`: the host's end, or -1 after an error. */
static inline int vsockcard_answer(struct vsockcard *c, u32 id, int err)
{
	int s[2] = {err, -1};

	if (!err && socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, s))
		abort();
	bus_lock(c->p.t.bus);
	c->h->host.connected(c->h->host.arg, id, s[0]);
	bus_unlock(c->p.t.bus);
	return s[1];
}

/* A packet of the driver's, header and data in one buffer each. */
static inline void vsockcard_send(struct vsockcard *c, const struct vsock_hdr *h, const void *data,
                                  u32 n)
{
	u16 id = (u16)(c->tx_id % c->tx.size);
	gpa_t at = VC_TX + id * (gpa_t)VC_SLOT;
	struct buf b[2] = {{at, VSOCK_HDR_LEN, 0}, {at + 0x100, n, 0}};

	if (n > VC_SLOT - 0x100 || pmap_write(c->p.t.pmap, at, h, VSOCK_HDR_LEN) ||
	    (n && pmap_write(c->p.t.pmap, at + 0x100, data, n)))
		abort();
	ring_add(&c->tx, id, b, n ? 2 : 1);
	c->tx_id = (u16)(c->tx_id + (n ? 2 : 1));
}

static inline struct vsock_hdr vsockcard_hdr(u16 op, u32 guest_port, u32 host_port)
{
	return (struct vsock_hdr){.src_cid = VC_CID,
	                          .dst_cid = VSOCK_CID_HOST,
	                          .src_port = guest_port,
	                          .dst_port = host_port,
	                          .type = VSOCK_TYPE_STREAM,
	                          .op = op,
	                          .buf_alloc = 65536};
}

/* One more buffer for packets to the guest, header included. */
static inline void vsockcard_buffer(struct vsockcard *c, u32 n)
{
	u16 id = (u16)(c->rx_id++ % c->rx.size);

	ring_add(&c->rx, id, &(struct buf){VC_RX + id * (gpa_t)VC_SLOT, n, VIRTQ_DESC_F_WRITE}, 1);
}

/* The next packet to the guest; its data in `data`, VC_SLOT bytes. False: there is none. */
static inline bool vsockcard_recv(struct vsockcard *c, struct vsock_hdr *h, u8 *data)
{
	u32 id, len;

	if (!ring_used(&c->rx, 1, &id, &len))
		return false;
	if (len < VSOCK_HDR_LEN || len > VC_SLOT || id >= c->rx.size ||
	    pmap_read(c->p.t.pmap, VC_RX + id * (gpa_t)VC_SLOT, h, VSOCK_HDR_LEN) ||
	    h->len != len - VSOCK_HDR_LEN ||
	    (h->len &&
	     pmap_read(c->p.t.pmap, VC_RX + id * (gpa_t)VC_SLOT + VSOCK_HDR_LEN, data, h->len)))
		abort();
	return true;
}
