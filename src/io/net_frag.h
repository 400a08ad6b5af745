/* SPDX-License-Identifier: MIT */
/* Fragments of IPv4 packets put together (RFC 791, 3.2) in memory that is set aside once: at most
 * NET_FRAG_PACKETS packets wait for pieces, a further one takes the place of the oldest.
 *
 * Machine lock held. */
#pragma once

#include "dev/netgso.h"

#define NET_FRAG_PACKETS 16
#define NET_FRAG_AGE_NS  (30 * NSEC_PER_SEC) /* then what is there is thrown away */

struct net_frag;

int net_frag_create(struct net_frag **out); /* 0 or -ENOMEM */
void net_frag_destroy(struct net_frag *f);
/* A frame that net_packet_parse() calls a fragment over IPv4. The whole packet as a frame of *len
 * bytes, ours until the next call, or NULL: pieces are missing, or this one was useless. */
u8 *net_frag_add(struct net_frag *f, const struct net_packet *p, const u8 *frame, u64 now,
                 size_t *len);
/* Memory in use, for the dump. */
size_t net_frag_bytes(const struct net_frag *f);
