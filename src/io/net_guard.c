// SPDX-License-Identifier: MIT
/* libslirp (4.7) takes what a guest sends and answers at once, on the same stack. That makes
 * its memory countable from outside:
 *
 * Fragments wait for 30 s each, in any number. It gets none: they are put together here.
 *
 * TCP segments that are ahead of their turn wait until what is missing has come, or the connection
 * ends, 64 KiB each however short. With each segment that it sends, libslirp tells in `ack` what
 * its turn is (RFC 793, 3.3): what begins before that has been passed on, so when all that we let
 * through begins there, it has nothing. What may be ahead is counted until then. At the bound only
 * what is certainly not ahead passes; a hole that stays for GUARD_HOLE_NS costs the connection: a
 * RST in the guest's name.
 *
 * Sockets come with buffers. New ones can be made by a SYN and by any datagram.
 *
 * Answers to an address without an entry in libslirp's ARP or neighbour table, which has 16, wait
 * for a second, and those of the same connection behind each other for a second each. So the guard
 * answers itself when libslirp asks (RFC 826, RFC 4861) for an address that the guest has sent
 * from. What then waits for others is what the host sends to forwarded ports. */
#include "io/net_guard.h"

#include <string.h>

#define ETH_P_IPV4 0x0800
#define ETH_P_ARP  0x0806
#define ETH_P_IPV6 0x86dd

#define IP_ICMP    1
#define IP_TCP     6
#define IP_UDP     17
#define IP_ICMP6   58
#define ECHO6      128
#define ND_SOLICIT 135 /* RFC 4861, 4.3 */
#define ND_ADVERT  136
#define ND_LEN     24u /* of both, without options */

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

static u32 get_be32(const u8 *p)
{
	return (u32)p[0] << 24 | (u32)p[1] << 16 | (u32)p[2] << 8 | p[3];
}

static void put_be16(u8 *p, u32 v)
{
	p[0] = (u8)(v >> 8);
	p[1] = (u8)v;
}

static void put_be32(u8 *p, u32 v)
{
	put_be16(p, v >> 16);
	put_be16(p + 2, v);
}

static u32 ether_type(const u8 *frame)
{
	return (u32)frame[12] << 8 | frame[13];
}

/* Sequence numbers are compared as RFC 793, 3.3 says. */
static bool seq_after(u32 a, u32 b)
{
	return (s32)(a - b) > 0;
}

int net_guard_init(struct net_guard *g, unsigned long fds,
                   void (*inject)(void *arg, u8 *frame, size_t len), void *arg)
{
	*g = (struct net_guard){.inject = inject, .arg = arg};
	/* Half of the descriptors are left to everybody else. */
	g->sockets_max = (unsigned)MIN(fds / 2, (unsigned long)GUARD_SOCKETS);
	return net_frag_create(&g->frag);
}

void net_guard_fini(struct net_guard *g)
{
	net_frag_destroy(g->frag);
	g->frag = NULL;
}

void net_guard_sockets(struct net_guard *g, unsigned nr)
{
	g->sockets = nr;
}

/* ---- TCP out of order ---- */

/* The connection of a packet, from the guest or to it, as a key. */
static void flow_key(struct guard_flow *k, const struct net_packet *p, const u8 *frame, bool in)
{
	u32 n = p->ip_version == 4 ? 4 : 16;
	const u8 *src = frame + p->l3 + (p->ip_version == 4 ? 12 : 8), *dst = src + n;
	const u8 *ports = frame + p->l4;

	*k = (struct guard_flow){.ip_version = p->ip_version};
	memcpy(k->addrs, in ? src : dst, n);
	memcpy(k->addrs + n, in ? dst : src, n);
	memcpy(k->ports, in ? ports : ports + 2, 2);
	memcpy(k->ports + 2, in ? ports + 2 : ports, 2);
}

/* They are few: most connections have none of their segments here. */
static struct guard_flow *flow_find(struct net_guard *g, const struct guard_flow *k)
{
	for (unsigned i = 0; i < g->nr_flows; i++) {
		struct guard_flow *f = &g->flow[i];

		if (!memcmp(f->ports, k->ports, 4) && f->ip_version == k->ip_version &&
		    !memcmp(f->addrs, k->addrs, sizeof(k->addrs)))
			return f;
	}
	return NULL;
}

static void flow_forget(struct net_guard *g, struct guard_flow *f)
{
	g->kept -= f->kept;
	*f = g->flow[--g->nr_flows];
}

/* A RST where libslirp's own `ack` says, which it takes in every state that can have segments. */
static void flow_reset(struct net_guard *g, struct guard_flow *f)
{
	u8 frame[NET_ETH_LEN + 60] = {0x52, 0x55, 0, 0, 0, 0, 0x52, 0x54},
			       *ip = frame + NET_ETH_LEN;
	u32 n = f->ip_version == 4 ? 4 : 16, ihl = n == 4 ? 20 : 40;
	u8 *tcp = ip + ihl;

	put_be16(frame + 12, n == 4 ? ETH_P_IPV4 : ETH_P_IPV6);
	if (n == 4) {
		ip[0] = 0x45;
		put_be16(ip + 2, ihl + 20);
		ip[8] = 64;
		ip[9] = IP_TCP;
		memcpy(ip + 12, f->addrs, 8);
		put_le16(ip + 10, net_csum_fold(net_csum_add(0, ip, ihl)));
	} else {
		ip[0] = 0x60;
		put_be16(ip + 4, 20);
		ip[6] = IP_TCP;
		ip[7] = 64;
		memcpy(ip + 8, f->addrs, 32);
	}
	memcpy(tcp, f->ports, 4);
	put_be32(tcp + 4, f->ack);
	tcp[12] = 5 << 4;
	tcp[13] = TCP_RST;
	put_le16(tcp + 16, net_csum_fold(net_csum_add(net_csum_pseudo(f->addrs, 2 * n, IP_TCP, 20),
	                                              tcp, 20)));
	flow_forget(g, f);
	g->inject(g->arg, frame, NET_ETH_LEN + ihl + 20);
}

/* True: it may pass. */
static bool tcp_in(struct net_guard *g, const struct net_packet *p, const u8 *frame, u64 now)
{
	const u8 *tcp = frame + p->l4;
	struct guard_flow k, *f;
	u32 hlen, seq;

	if (p->end < p->l4 + 20u)
		return false;
	hlen = (tcp[12] >> 4) * 4u;
	if (hlen < 20 || p->l4 + hlen > p->end)
		return false;
	seq = get_be32(tcp + 4);
	if (p->end == p->l4 + hlen && !(tcp[13] & (TCP_FIN | TCP_SYN)))
		return true; /* there is nothing in it to keep */
	flow_key(&k, p, frame, true);
	f = flow_find(g, &k);
	if (tcp[13] & TCP_SYN) {
		/* Another connection, with numbers of its own: the one before has to go. */
		if (f && f->acked)
			flow_reset(g, f);
		else if (f)
			return false;
		if (tcp[13] & TCP_ACK)
			return true;
		return g->sockets++ < g->sockets_max * 3 / 4;
	}
	if (!(tcp[13] & TCP_ACK))
		return false; /* RFC 793, 3.9: it would be dropped without a word */
	if (f && f->acked && !seq_after(seq, f->ack))
		return true;
	if (g->kept == GUARD_KEPT || (f && f->kept == GUARD_KEPT_FLOW) ||
	    (!f && g->nr_flows == GUARD_FLOWS))
		return false;
	if (!f) {
		f = &g->flow[g->nr_flows++];
		*f = k;
		f->start = seq;
		f->since = now;
	}
	if (seq_after(seq, f->start))
		f->start = seq;
	f->kept++;
	g->kept++;
	return true;
}

static void tcp_out(struct net_guard *g, const struct net_packet *p, const u8 *frame, u64 now)
{
	const u8 *tcp = frame + p->l4;
	struct guard_flow k, *f;

	if (!g->nr_flows || p->end < p->l4 + 20u)
		return;
	flow_key(&k, p, frame, false);
	f = flow_find(g, &k);
	if (!f)
		return;
	if (tcp[13] & TCP_RST) { /* the connection is no more */
		flow_forget(g, f);
	} else if (tcp[13] & TCP_ACK) {
		u32 ack = get_be32(tcp + 8);

		if (!f->acked || seq_after(ack, f->ack))
			f->since = now;
		f->ack = ack;
		f->acked = true;
		if (!seq_after(f->start, f->ack))
			flow_forget(g, f);
	}
}

/* ---- where the guest's addresses are ---- */

/* `n`: 4 or 16. */
static struct guard_mac *mac_of(struct net_guard *g, const u8 *addr, u32 n)
{
	u32 h = n;

	for (u32 i = 0; i < n; i++)
		h = (h ^ addr[i]) * 0x9e3779b1u;
	return &g->mac[(h >> 24) % GUARD_MACS];
}

static void tell_arp(struct net_guard *g, const u8 *addr, const u8 mac[6])
{
	u8 f[NET_ETH_LEN + 28] = {0x52, 0x55}, *arp = f + NET_ETH_LEN;

	memcpy(f + 6, mac, 6);
	put_be16(f + 12, ETH_P_ARP);
	memcpy(arp, "\x00\x01\x08\x00\x06\x04\x00\x02", 8);
	memcpy(arp + 8, mac, 6);
	memcpy(arp + 14, addr, 4);
	g->inject(g->arg, f, sizeof(f));
}

static void tell_nd(struct net_guard *g, const u8 *addr, const u8 mac[6])
{
	u8 f[NET_ETH_LEN + 40 + ND_LEN] = {0x52, 0x55}, *ip = f + NET_ETH_LEN, *nd = ip + 40;

	memcpy(f + 6, mac, 6);
	put_be16(f + 12, ETH_P_IPV6);
	ip[0] = 0x60;
	put_be16(ip + 4, ND_LEN);
	ip[6] = IP_ICMP6;
	ip[7] = 255;
	memcpy(ip + 8, addr, 16);
	memcpy(ip + 24, addr, 16); /* libslirp does not mind whose */
	nd[0] = ND_ADVERT;
	memcpy(nd + 8, addr, 16);
	put_le16(nd + 2, net_csum_fold(net_csum_add(net_csum_pseudo(ip + 8, 32, IP_ICMP6, ND_LEN),
	                                            nd, ND_LEN)));
	g->inject(g->arg, f, sizeof(f));
}

static void tell(struct net_guard *g, const u8 *addr, u32 n, const u8 mac[6])
{
	if (n == 4)
		tell_arp(g, addr, mac);
	else
		tell_nd(g, addr, mac);
}

/* A packet of the guest's. Something may wait for its address already. */
static void learn(struct net_guard *g, const struct net_packet *p, const u8 *frame)
{
	u32 n = p->ip_version == 4 ? 4 : 16;
	const u8 *src = frame + p->l3 + (n == 4 ? 12 : 8);
	struct guard_mac *m = mac_of(g, src, n);

	if (m->known && !memcmp(m->mac, frame + 6, 6))
		return;
	m->known = true;
	memcpy(m->mac, frame + 6, 6);
	tell(g, src, n, m->mac);
}

/* libslirp has asked for an address. */
static void asked(struct net_guard *g, const u8 *addr, u32 n)
{
	const struct guard_mac *m = mac_of(g, addr, n);

	if (m->known)
		tell(g, addr, n, m->mac);
}

/* ---- all ---- */

/* Ping of what is not libslirp's router or name server (::2 and ::3 of its network, and link-local)
 * goes nowhere, but for each there is a line on the monitor's stderr. */
static bool echo6_elsewhere(const struct net_packet *p, const u8 *frame)
{
	static const u8 zeros[13];
	const u8 *dst = frame + p->l3 + 24;

	if (p->ip_version != 6 || p->protocol != IP_ICMP6 || p->end == p->l4 ||
	    frame[p->l4] != ECHO6)
		return false;
	return dst[0] != 0xfe || (dst[1] != 0xc0 && dst[1] != 0x80) || memcmp(dst + 2, zeros, 13) ||
	       (dst[15] != 2 && dst[15] != 3);
}

u8 *net_guard_in(struct net_guard *g, u8 *frame, size_t *len, u64 now)
{
	struct net_packet p;

	if (*len >= NET_ETH_LEN && ether_type(frame) == ETH_P_ARP)
		return frame;
	/* No VLANs: there is only one network. Nothing cut short: it need not find that out. */
	if (!net_packet_parse(&p, frame, *len) || p.l3 != NET_ETH_LEN)
		return NULL;
	learn(g, &p, frame);
	if (echo6_elsewhere(&p, frame))
		return NULL;
	if (p.fragment) {
		frame = net_frag_add(g->frag, &p, frame, now, len);
		if (!frame || !net_packet_parse(&p, frame, *len) || p.fragment)
			return NULL;
	}
	if (p.protocol == IP_TCP)
		return tcp_in(g, &p, frame, now) ? frame : NULL;
	/* Counted as if each made a socket, until it is known how many there are. */
	if ((p.protocol == IP_UDP || p.protocol == IP_ICMP) && g->sockets++ >= g->sockets_max)
		return NULL;
	return frame;
}

void net_guard_out(struct net_guard *g, const u8 *frame, size_t len, u64 now)
{
	struct net_packet p;

	if (len >= NET_ETH_LEN + 28 && ether_type(frame) == ETH_P_ARP) {
		if (frame[NET_ETH_LEN + 7] == 1) /* a request */
			asked(g, frame + NET_ETH_LEN + 24, 4);
		return;
	}
	if (!net_packet_parse(&p, frame, len) || p.fragment)
		return;
	if (p.protocol == IP_TCP)
		tcp_out(g, &p, frame, now);
	else if (p.protocol == IP_ICMP6 && p.end >= p.l4 + ND_LEN && frame[p.l4] == ND_SOLICIT)
		asked(g, frame + p.l4 + 8, 16);
}

void net_guard_tick(struct net_guard *g, u64 now)
{
	for (unsigned i = 0; i < g->nr_flows;) {
		struct guard_flow *f = &g->flow[i];

		if (f->acked && now - f->since > GUARD_HOLE_NS)
			flow_reset(g, f); /* another one takes its place */
		else
			i++;
	}
}
