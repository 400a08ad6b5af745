/* SPDX-License-Identifier: MIT */
/* A front end that keeps the frames it was given, and frames to send. */
#pragma once

#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "devtest.h"
#include "dev/netgso.h"
#include "io/net.h"

#define TESTFRONT_KEEP 600

/* The loop runs on a thread of its own; the test holds the machine lock while it looks. */
struct nettest {
	struct devtest t;
	pthread_t thread;
};

static inline void *nettest_main(void *arg)
{
	loop_run(arg);
	return NULL;
}

static inline void nettest_init(struct nettest *n)
{
	devtest_init(&n->t, 0);
	if (pthread_create(&n->thread, NULL, nettest_main, n->t.loop))
		abort();
}

static inline void nettest_fini(struct nettest *n)
{
	loop_stop(n->t.loop);
	pthread_join(n->thread, NULL);
	devtest_fini(&n->t);
}

/* Until `cond` holds, the lock held around it; 10 s at most. */
#define NETTEST_WAIT(n, cond)                                                                      \
	({                                                                                         \
		bool wait_ok = false;                                                              \
		for (int wait_i = 0; wait_i < 5000 && !wait_ok; wait_i++) {                        \
			if (wait_i)                                                                \
				usleep(2000);                                                      \
			bus_lock((n)->t.bus);                                                      \
			wait_ok = (cond);                                                          \
			bus_unlock((n)->t.bus);                                                    \
		}                                                                                  \
		wait_ok;                                                                           \
	})

struct testfront {
	struct netback *back;
	unsigned room; /* frames it still takes */
	bool refused, writable;
	unsigned nr;
	bool link_down;
	size_t len[TESTFRONT_KEEP];
	struct net_vhdr hdr[TESTFRONT_KEEP];
	u8 *frame[TESTFRONT_KEEP];
};

static inline bool testfront_receive(void *arg, unsigned queue, const struct net_vhdr *h,
                                     const u8 *frame, size_t len)
{
	struct testfront *f = arg;

	if (!f->room) {
		f->refused = true;
		return false;
	}
	f->room--;
	if (f->nr < TESTFRONT_KEEP) {
		f->frame[f->nr] = malloc(len);
		memcpy(f->frame[f->nr], frame, len);
		f->len[f->nr] = len;
		f->hdr[f->nr] = *h;
	}
	f->nr++;
	return true;
}

static inline void testfront_writable(void *arg, unsigned queue)
{
	((struct testfront *)arg)->writable = true;
}

static inline void testfront_link(void *arg, bool up)
{
	((struct testfront *)arg)->link_down = !up;
}

static inline void testfront_connect(struct testfront *f, struct netback *b)
{
	static const struct netback_front ops = {testfront_receive, testfront_writable,
	                                         testfront_link};

	memset(f, 0, sizeof(*f));
	f->back = b;
	f->room = ~0u;
	netback_connect(b, &ops, f);
}

static inline void testfront_clear(struct testfront *f)
{
	for (unsigned i = 0; i < MIN(f->nr, (unsigned)TESTFRONT_KEEP); i++)
		free(f->frame[i]);
	f->nr = 0;
}

static inline void be16(u8 *p, unsigned v)
{
	p[0] = (u8)(v >> 8);
	p[1] = (u8)v;
}

/* A TCP (protocol 6) or UDP packet over IPv4 in an Ethernet frame, with right checksums; its
 * length. Addresses are 10.0.2.15 to `dst`. */
static inline size_t ipv4_frame(u8 *f, u8 protocol, u32 dst, u16 sport, u16 dport,
                                const void *payload, size_t n)
{
	size_t hl = protocol == 6 ? 20 : 8, len = 34 + hl + n;

	memset(f, 0, 34 + hl);
	memcpy(f, "\x52\x55\x0a\x00\x02\x02\x52\x54\x00\x12\x34\x56\x08\x00", 14);
	f[14] = 0x45;
	be16(f + 16, (unsigned)(len - 14));
	f[22] = 64;
	f[23] = protocol;
	memcpy(f + 26, "\x0a\x00\x02\x0f", 4);
	be16(f + 30, dst >> 16);
	be16(f + 32, dst & 0xffff);
	put_le16(f + 24, net_csum_fold(net_csum_add(0, f + 14, 20)));
	be16(f + 34, sport);
	be16(f + 36, dport);
	if (protocol == 6)
		f[46] = 0x50;
	else
		be16(f + 38, (unsigned)(8 + n));
	memcpy(f + 34 + hl, payload, n);
	put_le16(f + 34 + (protocol == 6 ? 16 : 6),
	         net_csum_fold(net_csum_add(net_csum_pseudo(f + 26, 8, protocol, (u32)(hl + n)),
	                                    f + 34, hl + n)));
	return len;
}

/* Are the IP and the TCP or UDP checksum of an IPv4 packet right? */
static inline bool ipv4_right(const u8 *f, size_t len)
{
	struct net_packet p;

	return net_packet_parse(&p, f, len) && p.ip_version == 4 &&
	       net_csum_fold(net_csum_add(0, f + p.l3, p.l4 - p.l3)) == 0 &&
	       net_csum_fold(
		       net_csum_add(net_csum_pseudo(f + p.l3 + 12, 8, p.protocol, p.end - p.l4),
	                            f + p.l4, p.end - p.l4)) == 0;
}
