// SPDX-License-Identifier: MIT
/* All lengths and offsets come from a guest: each is compared with the frame's real length before
 * it is used. Cutting follows RFC 793 and Linux's rules for what changes from segment to segment:
 * sequence number, IPv4 identification and lengths; FIN and PSH are for the last one only, CWR for
 * the first. */
#include "dev/netgso.h"

#include <string.h>

#define ETH_P_IPV4 0x0800
#define ETH_P_IPV6 0x86dd
#define ETH_P_VLAN 0x8100

#define TCP_FIN 0x01
#define TCP_PSH 0x08
#define TCP_CWR 0x80

static u16 get_be16(const u8 *p)
{
	return (u16)(p[0] << 8 | p[1]);
}
static u32 get_be32(const u8 *p)
{
	return (u32)get_be16(p) << 16 | get_be16(p + 2);
}
static void put_be16(u8 *p, u16 v)
{
	p[0] = (u8)(v >> 8);
	p[1] = (u8)v;
}
static void put_be32(u8 *p, u32 v)
{
	put_be16(p, (u16)(v >> 16));
	put_be16(p + 2, (u16)v);
}

u32 net_csum_add(u32 sum, const u8 *p, size_t n)
{
	u64 s = sum;

	for (; n >= 8; n -= 8, p += 8) {
		u64 v = get_le64(p);

		s += (v & 0xffffffff) + (v >> 32);
	}
	for (; n >= 2; n -= 2, p += 2)
		s += get_le16(p);
	if (n)
		s += *p;
	s = (s & 0xffffffff) + (s >> 32);
	s = (s & 0xffffffff) + (s >> 32);
	return (u32)s;
}

u16 net_csum_fold(u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (u16)~sum;
}

u32 net_csum_pseudo(const u8 *addrs, size_t addr_len, u8 protocol, u32 len)
{
	u8 tail[8] = {0};

	put_be32(tail, len);
	tail[7] = protocol;
	return net_csum_add(net_csum_add(0, addrs, addr_len), tail, sizeof(tail));
}

bool net_packet_parse(struct net_packet *p, const u8 *frame, size_t len)
{
	size_t l3 = NET_ETH_LEN;
	u16 type;

	if (len < l3 + 20)
		return false;
	type = get_be16(frame + 12);
	if (type == ETH_P_VLAN) {
		type = get_be16(frame + 16);
		l3 += 4;
		if (len < l3 + 20)
			return false;
	}
	*p = (struct net_packet){.l3 = (u16)l3};
	if (type == ETH_P_IPV4 && frame[l3] >> 4 == 4) {
		size_t ihl = (frame[l3] & 15) * 4u, total = get_be16(frame + l3 + 2);

		if (ihl < 20 || total < ihl || l3 + total > len)
			return false;
		p->ip_version = 4;
		p->protocol = frame[l3 + 9];
		p->fragment = get_be16(frame + l3 + 6) & 0x3fff;
		p->l4 = (u16)(l3 + ihl);
		p->end = (u32)(l3 + total);
		return true;
	}
	if (type == ETH_P_IPV6 && frame[l3] >> 4 == 6) {
		size_t payload;

		if (len < l3 + 40)
			return false;
		payload = get_be16(frame + l3 + 4);
		if (l3 + 40 + payload > len)
			return false;
		p->ip_version = 6;
		p->protocol = frame[l3 + 6];
		p->l4 = (u16)(l3 + 40);
		p->end = (u32)(l3 + 40 + payload);
		return true;
	}
	return false;
}

/* The TCP header's end in the frame, or 0. */
static u32 tcp_header_end(const struct net_packet *p, const u8 *frame)
{
	u32 hlen;

	if (p->protocol != 6 || p->fragment || p->end < p->l4 + 20u)
		return 0;
	hlen = (frame[p->l4 + 12] >> 4) * 4u;
	if (hlen < 20 || p->l4 + hlen > p->end)
		return 0;
	return p->l4 + hlen;
}

static bool gso_check(const struct net_vhdr *h, const u8 *frame, size_t len, u32 offload)
{
	struct net_packet p;
	u8 type = h->gso_type & (u8)~VIRTIO_NET_HDR_GSO_ECN;

	if (!(h->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) || !h->gso_size)
		return false;
	if (type == VIRTIO_NET_HDR_GSO_TCPV4 && !(offload & NET_OFF_TSO4))
		return false;
	if (type == VIRTIO_NET_HDR_GSO_TCPV6 && !(offload & NET_OFF_TSO6))
		return false;
	if (type != VIRTIO_NET_HDR_GSO_TCPV4 && type != VIRTIO_NET_HDR_GSO_TCPV6)
		return false;
	if ((h->gso_type & VIRTIO_NET_HDR_GSO_ECN) && !(offload & NET_OFF_ECN))
		return false;
	if (!net_packet_parse(&p, frame, len) || !tcp_header_end(&p, frame))
		return false;
	/* A bound on the number of segments; a real MSS is 536 and more, 88 in Linux's least. */
	if (h->gso_size < 64)
		return false;
	return p.ip_version == (type == VIRTIO_NET_HDR_GSO_TCPV4 ? 4 : 6) &&
	       h->csum_start == p.l4 && h->csum_offset == 16;
}

bool net_vhdr_check(const struct net_vhdr *h, const u8 *frame, size_t len, u32 offload)
{
	if (len < NET_ETH_LEN || len > NET_FRAME_MAX)
		return false;
	if (h->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) {
		if (!(offload & NET_OFF_CSUM))
			return false;
		if ((size_t)h->csum_start + h->csum_offset + 2 > len)
			return false;
		/* The addresses are no field for a checksum. */
		if (h->csum_start < NET_ETH_LEN)
			return false;
	}
	return h->gso_type == VIRTIO_NET_HDR_GSO_NONE || gso_check(h, frame, len, offload);
}

void net_csum_finish(const struct net_vhdr *h, u8 *frame, size_t len)
{
	struct net_packet p;
	size_t end = len;
	u16 sum;

	if (!(h->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM))
		return;
	/* Padding to the least Ethernet length is none of the packet's. */
	if (net_packet_parse(&p, frame, len) && p.end > (u32)h->csum_start + h->csum_offset + 1)
		end = p.end;
	/* The field holds the pseudo-header's sum, so it is part of the sum. */
	sum = net_csum_fold(net_csum_add(0, frame + h->csum_start, end - h->csum_start));
	/* 0 means "none" in UDP (RFC 768); in TCP both zeros are equal. */
	put_le16(frame + h->csum_start + h->csum_offset, sum ? sum : 0xffff);
}

/* One segment's headers: `payload` bytes, which begin `off` bytes into the large one. */
static void segment_headers(const struct net_packet *p, u8 *buf, u32 hdr_end, u32 off, u32 payload,
                            u32 index, bool last)
{
	u8 *ip = buf + p->l3, *tcp = buf + p->l4;
	u32 l4_len = hdr_end - p->l4 + payload;
	u32 sum;

	if (p->ip_version == 4) {
		put_be16(ip + 2, (u16)(p->l4 - p->l3 + l4_len));
		put_be16(ip + 4, (u16)(get_be16(ip + 4) + index));
		put_be16(ip + 10, 0);
		put_le16(ip + 10, net_csum_fold(net_csum_add(0, ip, p->l4 - p->l3)));
		sum = net_csum_pseudo(ip + 12, 8, 6, l4_len);
	} else {
		put_be16(ip + 4, (u16)l4_len);
		sum = net_csum_pseudo(ip + 8, 32, 6, l4_len);
	}
	put_be32(tcp + 4, get_be32(tcp + 4) + off);
	if (!last)
		tcp[13] &= (u8) ~(TCP_FIN | TCP_PSH);
	if (index)
		tcp[13] &= (u8)~TCP_CWR;
	put_be16(tcp + 16, 0);
	put_le16(tcp + 16, net_csum_fold(net_csum_add(sum, tcp, l4_len)));
}

bool net_gso_split(const struct net_vhdr *h, u8 *frame, size_t len, u8 *buf,
                   bool (*emit)(void *arg, u8 *frame, size_t len), void *arg)
{
	struct net_packet p;
	u32 hdr_end, total, index = 0;

	if (h->gso_type == VIRTIO_NET_HDR_GSO_NONE) {
		net_csum_finish(h, frame, len);
		return emit(arg, frame, len);
	}
	hdr_end = net_packet_parse(&p, frame, len) ? tcp_header_end(&p, frame) : 0;
	if (!hdr_end || !h->gso_size)
		return true;
	total = p.end - hdr_end;
	for (u32 off = 0; off < total || !index; index++) {
		u32 n = MIN((u32)h->gso_size, total - off);

		memcpy(buf, frame, hdr_end);
		memcpy(buf + hdr_end, frame + hdr_end + off, n);
		segment_headers(&p, buf, hdr_end, off, n, index, off + n == total);
		if (!emit(arg, buf, hdr_end + n))
			return false;
		off += n;
	}
	return true;
}
