// SPDX-License-Identifier: MIT
/* A packet's pieces are copied to their place in a buffer of the largest size, and one bit for each
 * 8 bytes says what is there: offsets count in 8 bytes, and only the last piece may have another
 * length. Pieces that overlap without being the same are an attack or a defect, never
 * a network's doing: the packet is given up (as RFC 5722 has it for IPv6). */
#include "io/net_frag.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define PAYLOAD_MAX 65536
#define UNITS       (PAYLOAD_MAX / 8)
#define HEAD_MAX    (NET_ETH_LEN + 60)
#define IP_MF       0x2000
#define IP_DF       0x4000

struct packet {
	bool used;
	u64 since;
	u8 key[11];   /* addresses, protocol, identification */
	u32 head_len; /* 0: the first piece is missing */
	u32 total;    /* of the payload, 0: the last piece is missing */
	u32 units;    /* that are there */
	u8 there[UNITS / 8];
	u8 *buf; /* HEAD_MAX bytes for the headers, right before the payload */
};

struct net_frag {
	struct packet packet[NET_FRAG_PACKETS];
};

static u16 get_be16(const u8 *p)
{
	return (u16)(p[0] << 8 | p[1]);
}

static void put_be16(u8 *p, u32 v)
{
	p[0] = (u8)(v >> 8);
	p[1] = (u8)v;
}

int net_frag_create(struct net_frag **out)
{
	*out = calloc(1, sizeof(**out));
	return *out ? 0 : -ENOMEM;
}

void net_frag_destroy(struct net_frag *f)
{
	if (!f)
		return;
	for (unsigned i = 0; i < NET_FRAG_PACKETS; i++)
		free(f->packet[i].buf);
	free(f);
}

size_t net_frag_bytes(const struct net_frag *f)
{
	size_t n = sizeof(*f);

	for (unsigned i = 0; i < NET_FRAG_PACKETS; i++)
		n += f->packet[i].buf ? HEAD_MAX + PAYLOAD_MAX : 0;
	return n;
}

static struct packet *packet_of(struct net_frag *f, const u8 key[11], u64 now)
{
	struct packet *q = &f->packet[0];

	for (unsigned i = 0; i < NET_FRAG_PACKETS; i++) {
		struct packet *c = &f->packet[i];

		if (c->used && now - c->since > NET_FRAG_AGE_NS)
			c->used = false;
		if (c->used && !memcmp(c->key, key, sizeof(c->key)))
			return c;
		if (!c->used ? q->used : q->used && c->since < q->since)
			q = c; /* a free one, else the oldest */
	}
	if (!q->buf)
		q->buf = malloc(HEAD_MAX + PAYLOAD_MAX);
	if (!q->buf)
		return NULL;
	*q = (struct packet){.used = true, .since = now, .buf = q->buf};
	memcpy(q->key, key, sizeof(q->key));
	return q;
}

/* How many of these units are there. */
static u32 units_there(const struct packet *q, u32 at, u32 n)
{
	u32 have = 0;

	for (u32 i = at; i < at + n; i++)
		have += q->there[i / 8] >> i % 8 & 1;
	return have;
}

/* False: the packet makes no sense. */
static bool piece_add(struct packet *q, u32 off, const u8 *data, u32 n, bool last)
{
	u32 at = off / 8, units = (n + 7) / 8, have = units_there(q, at, units);

	if (have == units && (!last || q->total == off + n))
		return true; /* sent twice */
	if (have || (q->total && off + n > q->total))
		return false;
	if (last) {
		if (q->total || units_there(q, at, UNITS - at))
			return false;
		q->total = off + n;
	}
	memcpy(q->buf + HEAD_MAX + off, data, n);
	for (u32 i = at; i < at + units; i++)
		q->there[i / 8] |= (u8)(1u << i % 8);
	q->units += units;
	return true;
}

/* The headers of the first piece, made right for the whole. */
static u8 *finish(struct packet *q, size_t *len)
{
	u8 *frame = q->buf + HEAD_MAX - q->head_len, *ip = frame + NET_ETH_LEN;
	u32 ihl = q->head_len - NET_ETH_LEN;

	q->used = false;
	if (ihl + q->total > 65535)
		return NULL;
	put_be16(ip + 2, ihl + q->total);
	put_be16(ip + 6, get_be16(ip + 6) & IP_DF);
	put_be16(ip + 10, 0);
	put_le16(ip + 10, net_csum_fold(net_csum_add(0, ip, ihl)));
	*len = q->head_len + q->total;
	return frame;
}

u8 *net_frag_add(struct net_frag *f, const struct net_packet *p, const u8 *frame, u64 now,
                 size_t *len)
{
	const u8 *ip = frame + p->l3;
	u32 n = p->end - p->l4, off = (get_be16(ip + 6) & 0x1fffu) * 8;
	bool last = !(get_be16(ip + 6) & IP_MF);
	u8 key[11];
	struct packet *q;

	/* Its own header must be right: the whole one's is made anew. */
	if (p->l3 != NET_ETH_LEN || net_csum_fold(net_csum_add(0, ip, p->l4 - p->l3)) || !n ||
	    off + n > PAYLOAD_MAX || (!last && n % 8))
		return NULL;
	memcpy(key, ip + 12, 8);
	key[8] = ip[9];
	memcpy(key + 9, ip + 4, 2);
	q = packet_of(f, key, now);
	if (!q)
		return NULL;
	if (!piece_add(q, off, frame + p->l4, n, last)) {
		q->used = false;
		return NULL;
	}
	if (!off && !q->head_len) {
		q->head_len = NET_ETH_LEN + (p->l4 - p->l3);
		memcpy(q->buf + HEAD_MAX - q->head_len, frame, NET_ETH_LEN);
		memcpy(q->buf + HEAD_MAX - (p->l4 - p->l3), ip, p->l4 - p->l3);
	}
	if (!q->head_len || !q->total || q->units != (q->total + 7) / 8)
		return NULL;
	return finish(q, len);
}
