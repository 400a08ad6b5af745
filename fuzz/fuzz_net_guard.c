// SPDX-License-Identifier: MIT
/* A hostile guest in front of the guard (io/net_guard.c), and behind it a model of libslirp's TCP:
 * what begins at its turn is passed on, what is ahead is kept, whatever it is told it answers with
 * its turn; but it may have to ask first where the guest is, and has to be told at once.
 * However segments, answers and time follow each other, the guard's count must not be below what
 * the model keeps. Between them come frames with anything in them. */
#include <stdlib.h>
#include <string.h>

#include "fuzz_input.h"
#include "io/net_guard.h"

#define PORTS  4
#define WINDOW 256
#define FIN    0x01
#define SYN    0x02
#define RST    0x04
#define ACK    0x10

/* libslirp's end of a connection; sequence numbers are small and near the wrap. */
struct conn {
	bool open;
	u32 turn;
	bool kept[WINDOW]; /* a piece begins so far ahead */
	u16 len[WINDOW];
};

struct world {
	struct net_guard g;
	struct conn conn[PORTS];
	u64 now;
	bool told;
};

static u8 frame[NET_FRAME_MAX];

static void put16(u8 *p, u32 v)
{
	p[0] = (u8)(v >> 8);
	p[1] = (u8)v;
}

static void put32(u8 *p, u32 v)
{
	put16(p, v >> 16);
	put16(p + 2, v);
}

/* TCP over IPv4 or, for odd ports, IPv6. */
static size_t segment(u8 *f, unsigned port, bool in, u32 seq, u32 ack, u8 flags, unsigned n)
{
	u32 ihl = port & 1 ? 40 : 20, len = NET_ETH_LEN + ihl + 20 + n;
	u8 *ip = f + NET_ETH_LEN, *tcp = ip + ihl;

	memset(f, 0, len);
	put16(f + 12, port & 1 ? 0x86dd : 0x0800);
	if (port & 1) {
		ip[0] = 0x60;
		put16(ip + 4, 20 + n);
		ip[6] = 6;
		ip[8 + 15] = in ? 15 : 2;
		ip[24 + 15] = in ? 2 : 15;
	} else {
		ip[0] = 0x45;
		put16(ip + 2, 40 + n);
		ip[9] = 6;
		ip[15] = in ? 15 : 2;
		ip[19] = in ? 2 : 15;
	}
	put16(tcp, in ? 4000 : port);
	put16(tcp + 2, in ? port : 4000);
	put32(tcp + 4, seq);
	put32(tcp + 8, ack);
	tcp[12] = 5 << 4;
	tcp[13] = flags;
	return len;
}

/* ---- behind the guard ---- */

static void say(struct world *w, unsigned port, u32 ack, u8 flags)
{
	static u8 f[200];
	size_t len = segment(f, port, false, 1, ack, flags, 0);

	net_guard_out(&w->g, f, len, w->now);
}

/* It asks who has the address. */
static void ask(struct world *w, unsigned port)
{
	static const u8 arp[42] = {[12] = 8, [13] = 6, [21] = 1, [41] = 15};
	static const u8 ns[78] = {
		[12] = 0x86, [13] = 0xdd, [14] = 0x60, [19] = 24, [20] = 58, [54] = 135, [77] = 15};

	w->told = false;
	net_guard_out(&w->g, port & 1 ? ns : arp, port & 1 ? sizeof(ns) : sizeof(arp), w->now);
	if (!w->told)
		abort(); /* the answer would wait */
}

static void answer(struct world *w, unsigned port, u8 flags, bool forgotten)
{
	if (forgotten)
		ask(w, port);
	say(w, port, w->conn[port].turn, flags);
}

static void advance(struct conn *c)
{
	bool more = true;

	/* What begins at the turn, or has been overtaken by it, is passed on. */
	while (more) {
		more = false;
		for (unsigned i = 0; i < WINDOW && !more; i++) {
			u32 end = i + c->len[i];

			if (!c->kept[i] || i)
				continue;
			c->kept[i] = false;
			c->turn += end;
			for (unsigned j = 0; j < WINDOW; j++) {
				bool has = j + end < WINDOW && c->kept[j + end];

				c->kept[j] = has;
				c->len[j] = has ? c->len[j + end] : 0;
			}
			more = end > 0;
		}
	}
}

static void conn_end(struct conn *c)
{
	c->open = false;
	memset(c->kept, 0, sizeof(c->kept));
	memset(c->len, 0, sizeof(c->len));
}

static void receives(struct world *w, unsigned port, u32 seq, u8 flags, unsigned n, bool forgotten)
{
	struct conn *c = &w->conn[port];
	s32 ahead = (s32)(seq - c->turn);
	u32 len = n + (flags & FIN);

	if (flags & RST) {
		if (c->open && ahead <= 0)
			conn_end(c);
		return;
	}
	if (flags & SYN) {
		if (!c->open) {
			c->open = true;
			c->turn = seq + 1;
		}
		answer(w, port, SYN | ACK, forgotten);
		return;
	}
	if (!c->open) {
		say(w, port, 0, RST);
		return;
	}
	if (!len)
		return;
	if (ahead < 0) { /* sent before, perhaps with something new */
		len = (u32)-ahead >= len ? 0 : len - (u32)-ahead;
		ahead = 0;
	}
	if (ahead >= WINDOW || !len) {
		answer(w, port, ACK, forgotten);
		return;
	}
	len = MIN(len, (u32)(WINDOW - ahead));
	if (!c->kept[ahead] || c->len[ahead] < len)
		c->len[ahead] = (u16)len;
	c->kept[ahead] = true;
	/* Pieces within others are none of their own. */
	for (u32 i = (u32)ahead + 1; i < (u32)ahead + len; i++)
		if (c->kept[i] && i + c->len[i] <= (u32)ahead + len)
			c->kept[i] = false;
	advance(c);
	answer(w, port, ACK, forgotten);
}

static void on_inject(void *arg, u8 *f, size_t len)
{
	struct world *w = arg;
	struct net_packet p;
	unsigned port;

	if (len == 42 && f[13] == 6 && f[21] == 2) { /* ARP */
		w->told = true;
		return;
	}
	if (!net_packet_parse(&p, f, len) || p.end != len)
		abort();
	if (p.protocol == 58 && f[p.l4] == 136) {
		w->told = true;
		return;
	}
	if (p.protocol != 6)
		abort();
	port = f[p.l4 + 3] % PORTS;
	receives(w, port,
	         (u32)f[p.l4 + 4] << 24 | (u32)f[p.l4 + 5] << 16 | (u32)f[p.l4 + 6] << 8 |
	                 f[p.l4 + 7],
	         f[p.l4 + 13], 0, false);
}

/* ---- the guest ---- */

static void guest_sends(struct world *w, struct input *in)
{
	u8 op = (u8)take(in, 1), how = (u8)take(in, 1);
	unsigned port = op & 3, n = how & 0x0f;
	struct conn *c = &w->conn[port];
	u8 flags = op & 0x80 ? RST : op & 0x40 && !(op & 0x20) ? SYN : ACK | (op & 0x10 ? FIN : 0);
	/* Near the turn, mostly; it may begin anywhere, also where numbers wrap. */
	u32 seq = c->open ? c->turn + (u32)(s8)take(in, 1) : 0xffffff80u + (u32)take(in, 1);
	size_t len = segment(frame, port, true, seq, 1, flags, n);

	if (net_guard_in(&w->g, frame, &len, w->now))
		receives(w, port, seq, flags, n, op & 8);
}

static void guest_raves(struct world *w, struct input *in)
{
	size_t len = take(in, 2) % 2000, n = take(in, 1);
	u8 what = (u8)take(in, 1);

	memset(frame, what, len);
	if (what & 1)
		segment(frame, what & 3, true, 1, 1, ACK, 20);
	else if (what & 2) { /* a piece of a packet */
		put16(frame + 12, 0x0800);
		frame[14] = 0x45;
		put16(frame + 16, (u32)len - 14);
		put16(frame + 20, (what & 4 ? 0x2000 : 0) | (what >> 3) * 8);
		put16(frame + 24, 0);
		put_le16(frame + 24, net_csum_fold(net_csum_add(0, frame + 14, 20)));
	}
	for (; n && in->left; n--) {
		size_t at = take(in, 1);

		frame[at] = (u8)take(in, 1);
	}
	/* What comes through as TCP is nothing to the model: ports that it does not have. */
	frame[NET_ETH_LEN + 20] = frame[NET_ETH_LEN + 40] = 99;
	if (what & 0x80) {
		net_guard_out(&w->g, frame, len, w->now);
	} else {
		size_t got = len;
		u8 *f = net_guard_in(&w->g, frame, &got, w->now);

		if (f && (got < NET_ETH_LEN || got > NET_FRAME_MAX))
			abort();
		for (size_t i = 0, sum = 0; f && i < got; i++) /* all of it can be read */
			if ((sum += f[i]) == (size_t)-1)
				abort();
	}
}

static void judge(struct world *w)
{
	unsigned all = 0;

	for (unsigned i = 0; i < w->g.nr_flows; i++)
		all += w->g.flow[i].kept;
	if (all != w->g.kept || all > GUARD_KEPT || w->g.nr_flows > GUARD_FLOWS)
		abort();
	for (unsigned port = 0; port < PORTS; port++) {
		unsigned kept = 0, counted = 0;

		for (unsigned i = 0; i < WINDOW; i++)
			kept += w->conn[port].kept[i];
		for (unsigned i = 0; i < w->g.nr_flows; i++)
			if (w->g.flow[i].ports[3] == port && w->g.flow[i].ports[0] == 4000 >> 8)
				counted = w->g.flow[i].kept;
		if (kept > counted || kept > GUARD_KEPT_FLOW)
			abort();
	}
}

static void step(struct world *w, struct input *in)
{
	u8 op = (u8)take(in, 1);
	struct conn *c = &w->conn[op >> 3 & 3];

	switch (op & 7) {
	case 0:
		guest_raves(w, in);
		break;
	case 1:
		w->now += (take(in, 1) + 1) * NSEC_PER_SEC / 4;
		net_guard_tick(&w->g, w->now);
		break;
	case 2: /* libslirp ends it by itself, and says so */
		if (op & 0x80) {
			conn_end(c);
			say(w, op >> 3 & 3, 0, RST);
		}
		break;
	default:
		guest_sends(w, in);
	}
	judge(w);
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	struct world *w = calloc(1, sizeof(*w));
	struct input in = {data, size};

	if (!w || net_guard_init(&w->g, 20000, on_inject, w))
		abort();
	w->now = 1000 * NSEC_PER_SEC;
	while (in.left)
		step(w, &in);
	net_guard_fini(&w->g);
	free(w);
	return 0;
}
