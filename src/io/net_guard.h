/* SPDX-License-Identifier: MIT */
/* What stands between the guest and libslirp, which keeps things for a guest without bound: pieces
 * of packets, segments out of order, sockets, answers to machines that nobody has heard of. Each
 * has its bound here. Frames of both directions pass by, so that the guard knows what libslirp can
 * still have; a guest that behaves never meets it.
 *
 * Machine lock held. */
#pragma once

#include "io/net_frag.h"

#define GUARD_FLOWS     512 /* TCP connections with segments of which libslirp has not told */
#define GUARD_KEPT      512 /* such segments, of all connections */
#define GUARD_KEPT_FLOW 128 /* of one */
#define GUARD_HOLE_NS   (60 * NSEC_PER_SEC) /* what is missing comes by then, or never */
#define GUARD_TCP       768                 /* sockets, then no more connections by TCP */
#define GUARD_SOCKETS   1024                /* and then nothing that could need one */
#define GUARD_MACS      256                 /* a power of 2 */

struct guard_flow {
	u8 addrs[32]; /* the guest's, the other's; of IPv4 the first 8 */
	u8 ports[4];
	u8 ip_version;
	bool acked;
	u16 kept;  /* segments that libslirp may have and not have passed on */
	u32 ack;   /* its last, if acked: all before it was passed on */
	u32 start; /* of the one furthest ahead */
	u64 since; /* the first one, or that `ack` has moved */
};

/* Of the guest's addresses with that hash: where the last one was. */
struct guard_mac {
	bool known;
	u8 mac[6];
};

struct net_guard {
	/* A frame to libslirp that the guard made; also from within net_guard_out(), if libslirp
	 * has no answer to it. */
	void (*inject)(void *arg, u8 *frame, size_t len);
	void *arg;
	struct net_frag *frag;
	unsigned sockets, sockets_max;
	unsigned kept, nr_flows;
	struct guard_flow flow[GUARD_FLOWS];
	struct guard_mac mac[GUARD_MACS];
};

/* 0 or -ENOMEM. `fds`: how many descriptors this process may have open. */
int net_guard_init(struct net_guard *g, unsigned long fds,
                   void (*inject)(void *arg, u8 *frame, size_t len), void *arg);
void net_guard_fini(struct net_guard *g);
/* A frame of the guest's: what libslirp may have of it (*len then says how much), or NULL. */
u8 *net_guard_in(struct net_guard *g, u8 *frame, size_t *len, u64 now);
/* A frame of libslirp's, before anybody changes it. */
void net_guard_out(struct net_guard *g, const u8 *frame, size_t len, u64 now);
/* libslirp has that many sockets. */
void net_guard_sockets(struct net_guard *g, unsigned nr);
/* Once a second, more or less. */
void net_guard_tick(struct net_guard *g, u64 now);
