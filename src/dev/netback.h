/* SPDX-License-Identifier: MIT */
/* Frames between a network device (the front) and the outside (the back: libslirp, a tap, a switch
 * among VMs). This is only the contract, so that devices need not know src/io, which implements
 * it.
 *
 * A frame is Ethernet without FCS, in one piece, with a header that says what is left undone in
 * it: a checksum to fill in, one large TCP segment to cut. The header is that of virtio
 * (virtio 1.2, 5.1.6) and of Linux's tap, so it can pass through to whoever does the work,
 * another guest's kernel at best.
 *
 * Flow control: nothing here blocks. A back that takes no frame now says so and calls `writable`
 * later. A front that has no buffer says so and calls netback_pull() later; what waits in the back
 * meanwhile is bounded.
 *
 * Threading: everything with the machine lock held. Ownership: the back belongs to its front,
 * which destroys it. */
#pragma once

#include <stdio.h>

#include "base/types.h"

/* net_vhdr.flags, gso_type: names of virtio 1.2, 5.1.6 */
#define VIRTIO_NET_HDR_F_NEEDS_CSUM 1
#define VIRTIO_NET_HDR_F_DATA_VALID 2
#define VIRTIO_NET_HDR_GSO_NONE     0
#define VIRTIO_NET_HDR_GSO_TCPV4    1
#define VIRTIO_NET_HDR_GSO_UDP      3
#define VIRTIO_NET_HDR_GSO_TCPV6    4
#define VIRTIO_NET_HDR_GSO_ECN      0x80

struct net_vhdr {
	u8 flags;
	u8 gso_type;
	u16 hdr_len;     /* Ethernet, IP and TCP headers; a hint */
	u16 gso_size;    /* payload of each segment */
	u16 csum_start;  /* from the frame's start */
	u16 csum_offset; /* of the field, from csum_start */
};
#define NET_VHDR_LEN 10
_Static_assert(sizeof(struct net_vhdr) == NET_VHDR_LEN, "virtio 1.2, 5.1.6");

#define NET_ETH_LEN 14
/* The largest frame: an IP packet of 64 KiB less one, behind an Ethernet header with VLAN tag. */
#define NET_FRAME_MAX  (65535 + NET_ETH_LEN + 4)
#define NET_QUEUES_MAX 8

/* What one side leaves to the other. */
#define NET_OFF_CSUM 1u
#define NET_OFF_TSO4 2u
#define NET_OFF_TSO6 4u
#define NET_OFF_ECN  8u /* with TSO: segments of a flow that signals congestion */

struct netback;

struct netback_ops {
	/* A frame of the guest. `h` was checked (net_vhdr_check) and asks for nothing beyond
	 * b->tx_offload. False: not taken, `writable` follows for this queue. The frame may be
	 * changed (headers fixed up). */
	bool (*send)(struct netback *b, unsigned queue, const struct net_vhdr *h, u8 *frame,
	             size_t len);
	/* The front takes frames (again). May call `receive` before it returns. */
	void (*pull)(struct netback *b, unsigned queue);
	/* What received frames may leave to the guest; 0 until it says so. */
	void (*set_offload)(struct netback *b, u32 offload);
	/* Queue pairs in use, 1 .. b->queues; 1 until it says so. */
	void (*set_queues)(struct netback *b, unsigned pairs);
	void (*dump)(struct netback *b, FILE *out);
	void (*destroy)(struct netback *b);
};

struct netback_front {
	/* False: no buffer now, netback_pull() follows. A front that is not in operation takes all
	 * and drops it. */
	bool (*receive)(void *arg, unsigned queue, const struct net_vhdr *h, const u8 *frame,
	                size_t len);
	void (*writable)(void *arg, unsigned queue);
	/* The outside is gone for good, or back: the guest sees its cable. */
	void (*link)(void *arg, bool up);
};

struct netback {
	const struct netback_ops *ops;
	const char *kind;                  /* "user", "tap", "switch" */
	unsigned queues;                   /* queue pairs it can serve */
	u32 tx_offload;                    /* what the guest may leave to it */
	u32 rx_offload;                    /* what it can make use of in the guest */
	u16 mtu;                           /* 0: it does not say */
	const struct netback_front *front; /* NULL: frames from outside are dropped */
	void *front_arg;
};

static inline void netback_connect(struct netback *b, const struct netback_front *f, void *arg)
{
	b->front = f;
	b->front_arg = arg;
}
static inline bool netback_receive(struct netback *b, unsigned queue, const struct net_vhdr *h,
                                   const u8 *frame, size_t len)
{
	return !b->front || b->front->receive(b->front_arg, queue, h, frame, len);
}
static inline bool netback_send(struct netback *b, unsigned queue, const struct net_vhdr *h,
                                u8 *frame, size_t len)
{
	return b->ops->send(b, queue, h, frame, len);
}
static inline void netback_pull(struct netback *b, unsigned queue)
{
	b->ops->pull(b, queue);
}
static inline void netback_destroy(struct netback *b)
{
	if (b)
		b->ops->destroy(b);
}
