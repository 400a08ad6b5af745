/* SPDX-License-Identifier: MIT */
/* virtio_vsock.c: queues and packets; virtio_vsock_conn.c: one connection and its descriptor. */
#pragma once

#include "bus/listener.h"
#include "dev/virtio_vsock.h"

/* 5.10.6 */
enum {
	VSOCK_OP_REQUEST = 1,
	VSOCK_OP_RESPONSE = 2,
	VSOCK_OP_RST = 3,
	VSOCK_OP_SHUTDOWN = 4,
	VSOCK_OP_RW = 5,
	VSOCK_OP_CREDIT_UPDATE = 6,
	VSOCK_OP_CREDIT_REQUEST = 7,
};
#define VSOCK_TYPE_STREAM 1
#define VSOCK_SHUT_RCV    1u
#define VSOCK_SHUT_SEND   2u
#define VSOCK_SHUT_BOTH   3u

struct vsock_hdr {
	u64 src_cid, dst_cid;
	u32 src_port, dst_port;
	u32 len;
	u16 type, op;
	u32 flags;
	u32 buf_alloc, fwd_cnt;
} __attribute__((packed));
#define VSOCK_HDR_LEN 44
_Static_assert(sizeof(struct vsock_hdr) == VSOCK_HDR_LEN, "virtio 1.2, 5.10.6");

#define VSOCK_CONNS 256          /* at a time, those that only greet included */
#define VSOCK_BUF   (256 * 1024) /* bytes of one connection that wait for the host */
#define VSOCK_PKT   (64 * 1024)  /* data of one packet to the guest */
#define VSOCK_RSTS  64           /* answers to packets of no connection that wait */

enum vsock_state {
	VSOCK_FREE,
	VSOCK_GREETING,   /* the host has connected, and not yet said to which port */
	VSOCK_REQUESTED,  /* the guest is asked */
	VSOCK_CONNECTING, /* the guest asked, the host's socket is being connected */
	VSOCK_OPEN,
	VSOCK_CLOSING, /* only P_RST is left to send */
};

/* What is to be sent to the guest; the order is that of urgency. */
#define VSOCK_P_RST        0x01u
#define VSOCK_P_REQUEST    0x02u
#define VSOCK_P_RESPONSE   0x04u
#define VSOCK_P_CREDIT     0x08u
#define VSOCK_P_CREDIT_REQ 0x10u
#define VSOCK_P_SHUTDOWN   0x20u
#define VSOCK_P_DATA       0x40u /* perhaps: the descriptor is readable */

struct vsock_conn {
	struct virtio_vsock *d;
	enum vsock_state state;
	u32 id; /* of the request to connect */
	u32 guest_port, host_port;
	char line[24]; /* the greeting: "CONNECT 4294967295\n" has 19 */
	u8 line_len;
	int fd; /* -1: none */
	bool watched, hup;
	short events;
	u32 pending;
	/* credit, 5.10.6.3: counters run freely */
	u32 peer_alloc, peer_fwd, tx_cnt; /* the guest's buffer, and what we sent */
	u32 rx_cnt, fwd_cnt, told_fwd;    /* what came, what of it the host has, what was told */
	u8 *out;                          /* VSOCK_BUF bytes, a ring; NULL until needed */
	u32 out_head, out_len;
	u8 guest_shut, host_shut; /* VSOCK_SHUT_*: said by each */
	u64 deadline;             /* loop_now(), 0: none */
};

struct virtio_vsock {
	struct virtio v;
	struct vsock_host *host;
	struct listener listener;
	u64 cid; /* configuration space */
	struct timer tick;
	struct timer tx_soon, rx_soon; /* work for the loop's thread */
	u32 next_port, next_id;
	unsigned turn; /* the connection that may send next */
	unsigned nr_rsts;
	struct vsock_hdr rst[VSOCK_RSTS];
	u64 sent, received, resets;
	struct vsock_conn conn[VSOCK_CONNS];
	u8 buf[VSOCK_PKT];
};

/* ---- virtio_vsock.c ---- */

/* There is something to send to the guest: soon, on the loop's thread. */
void vsock_kick(struct virtio_vsock *d);

/* ---- virtio_vsock_conn.c ---- */

struct vsock_conn *vsock_conn_find(struct virtio_vsock *d, u32 guest_port, u32 host_port);
struct vsock_conn *vsock_conn_new(struct virtio_vsock *d, enum vsock_state state);
/* Gone at once; the guest is not told. */
void vsock_conn_free(struct vsock_conn *c);
/* Gone as soon as the guest was told. */
void vsock_conn_reset(struct vsock_conn *c);
/* How much the guest still takes. */
u32 vsock_conn_credit(const struct vsock_conn *c);
/* Bytes of the guest's for the host. */
void vsock_conn_put(struct vsock_conn *c, const u8 *p, u32 n);
/* Bytes of the host's for the guest: how many, 0 at the end, -EAGAIN, or another -errno. */
int vsock_conn_get(struct vsock_conn *c, u8 *p, u32 n);
void vsock_conn_opened(struct vsock_conn *c);
void vsock_conn_shutdown(struct vsock_conn *c, u32 flags);
void vsock_conn_watch(struct vsock_conn *c);
/* A connection from the host, which belongs to the device from now on. */
void vsock_conn_accept(struct virtio_vsock *d, int fd);
void vsock_conn_deadline(struct vsock_conn *c, u64 ns);
