/* SPDX-License-Identifier: MIT */
/* What a guest left undone in a frame, done in software: Internet checksums (RFC 1071) and cutting
 * a large TCP segment into packets that fit the wire. Also the check that every header from a
 * guest passes before anybody acts on it. Stateless; any thread. */
#pragma once

#include "dev/netback.h"

/* Sum of 16-bit words in memory order, not folded; the bytes before `p` were of even number. */
u32 net_csum_add(u32 sum, const u8 *p, size_t n);
/* The checksum field's value in memory order. */
u16 net_csum_fold(u32 sum);
/* Sum of a pseudo-header: `addrs` are both addresses (8 or 32 bytes). */
u32 net_csum_pseudo(const u8 *addrs, size_t addr_len, u8 protocol, u32 len);

/* Where the parts of a TCP or UDP packet are, offsets in the frame. */
struct net_packet {
	u8 ip_version; /* 4, 6 */
	u8 protocol;   /* 6, 17, ... of the first header behind IP; not looked for behind IPv6
	                * extension headers */
	u16 l3, l4;
	u32 end; /* behind the IP packet: what follows is padding */
	bool fragment;
};
/* False: not IP, or cut short. VLAN tags are skipped (one). */
bool net_packet_parse(struct net_packet *p, const u8 *frame, size_t len);

/* Is the header consistent with a frame of `len` bytes, and does it ask for `offload` at most? */
bool net_vhdr_check(const struct net_vhdr *h, const u8 *frame, size_t len, u32 offload);

/* Fill in the checksum that NEEDS_CSUM leaves open. The header was checked. */
void net_csum_finish(const struct net_vhdr *h, u8 *frame, size_t len);

/* Hand over the frame as packets of at most h->gso_size bytes of payload, complete with checksums,
 * each in `buf` (NET_FRAME_MAX bytes). A frame that isn't GSO goes out once, in place. Ends early
 * when `emit` returns false, and then returns false. A frame that can't be cut is dropped (true).
 */
bool net_gso_split(const struct net_vhdr *h, u8 *frame, size_t len, u8 *buf,
                   bool (*emit)(void *arg, u8 *frame, size_t len), void *arg);
