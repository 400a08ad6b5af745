// SPDX-License-Identifier: MIT
/* What is let through to libslirp: packets from their pieces, TCP segments by what has been
 * acknowledged, no more sockets and no more waiting answers than there may be. Both sides' frames
 * are made by hand. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "io/net_guard.h"
#include "nettest.h"

#define HOST   0x0a000202u /* 10.0.2.2 */
#define SECOND NSEC_PER_SEC
#define FIN    0x01
#define SYN    0x02
#define RST    0x04
#define ACK    0x10

struct rig {
	struct net_guard g;
	u64 now;
	unsigned injected, told; /* TCP; where an address is */
	u8 last[100];
	size_t last_len;
};

static struct rig rig;
static u8 frame[NET_FRAME_MAX], data[70000];

static void on_inject(void *arg, u8 *f, size_t len)
{
	struct rig *r = arg;

	if (f[23] == 6 || f[20] == 6)
		r->injected++;
	else
		r->told++;
	r->last_len = len;
	assert_true(len <= sizeof(r->last));
	memcpy(r->last, f, len);
}

static int setup(void **state)
{
	memset(&rig, 0, sizeof(rig));
	rig.now = 1000 * SECOND;
	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (u8)(i * 7 + (i >> 8));
	*state = &rig;
	return net_guard_init(&rig.g, 20000, on_inject, &rig);
}

static int teardown(void **state)
{
	net_guard_fini(&rig.g);
	return 0;
}

/* ---- pieces ---- */

static void ip_header(u8 *f, u16 id, unsigned off, bool more)
{
	be16(f + 18, id);
	be16(f + 20, (more ? 0x2000 : 0) | off / 8);
	be16(f + 24, 0);
	put_le16(f + 24, net_csum_fold(net_csum_add(0, f + 14, 20)));
}

/* Bytes off .. off + n of the payload `data`. */
static u8 *piece(struct rig *r, u16 id, unsigned off, unsigned n, bool more, size_t *len)
{
	ipv4_frame(frame, 17, HOST, 1, 2, "", 0);
	be16(frame + 16, 20 + n);
	ip_header(frame, id, off, more);
	memcpy(frame + 34, data + off, n);
	*len = 34 + n;
	return net_guard_in(&r->g, frame, len, r->now);
}

static void is_whole(const u8 *f, const size_t *size, size_t want)
{
	struct net_packet p;
	size_t len = *size; /* after the call that is the first argument */

	assert_non_null(f);
	assert_int_equal(len, 34 + want);
	assert_true(net_packet_parse(&p, f, len));
	assert_false(p.fragment);
	assert_int_equal(p.end, len);
	assert_int_equal(net_csum_fold(net_csum_add(0, f + 14, 20)), 0);
	assert_memory_equal(f, frame, 14);
	assert_memory_equal(f + 34, data, want);
}

static void pieces(void **state)
{
	static const unsigned orders[4][3] = {{0, 1, 2}, {2, 1, 0}, {1, 2, 0}, {0, 2, 1}};
	struct rig *r = *state;
	size_t len;

	for (unsigned i = 0; i < 4; i++) {
		u8 *f = NULL;

		for (unsigned j = 0; j < 3; j++) {
			unsigned n = orders[i][j];

			assert_null(f);
			f = piece(r, (u16)i, n * 1000, n == 2 ? 333 : 1000, n < 2, &len);
		}
		is_whole(f, &len, 2333);
	}
	/* The largest there is, and one byte more. */
	for (unsigned over = 0; over < 2; over++) {
		u8 *f;

		assert_null(piece(r, 9, 0, 32000, true, &len));
		assert_null(piece(r, 9, 32000, 32000, true, &len));
		f = piece(r, 9, 64000, 65515 - 64000 + over, false, &len);
		if (!over)
			is_whole(f, &len, 65515);
		else
			assert_null(f);
	}
	assert_null(piece(r, 10, 65528, 8, false, &len));
	assert_null(piece(r, 10, 65528, 16, false, &len)); /* beyond all packets */
}

static void pieces_that_do_not_fit(void **state)
{
	struct rig *r = *state;
	size_t len;

	/* The same one twice is no harm. */
	assert_null(piece(r, 1, 0, 800, true, &len));
	assert_null(piece(r, 1, 0, 800, true, &len));
	is_whole(piece(r, 1, 800, 100, false, &len), &len, 900);
	/* One that overlaps ends it: the others are pieces of another one then. */
	assert_null(piece(r, 2, 0, 800, true, &len));
	assert_null(piece(r, 2, 400, 800, true, &len));
	assert_null(piece(r, 2, 800, 100, false, &len));
	is_whole(piece(r, 2, 0, 800, true, &len), &len, 900);
	/* Two different ends; something behind the end; a middle of odd length. */
	assert_null(piece(r, 3, 800, 96, false, &len));
	assert_null(piece(r, 3, 1600, 96, false, &len));
	assert_null(piece(r, 3, 0, 800, true, &len));
	assert_null(piece(r, 4, 800, 100, false, &len));
	assert_null(piece(r, 4, 1600, 800, true, &len));
	assert_null(piece(r, 4, 0, 800, true, &len));
	assert_null(piece(r, 5, 0, 801, true, &len));
	assert_null(piece(r, 5, 800, 100, false, &len));
	/* A header that is not right. */
	assert_null(piece(r, 6, 0, 800, true, &len));
	ipv4_frame(frame, 17, HOST, 1, 2, data + 808, 92);
	ip_header(frame, 6, 800, false);
	frame[24] ^= 1;
	len = 134;
	assert_null(net_guard_in(&r->g, frame, &len, r->now));
	/* Half a minute later they are other packets. */
	assert_null(piece(r, 7, 0, 800, true, &len));
	r->now += NET_FRAG_AGE_NS + 1;
	assert_null(piece(r, 7, 800, 100, false, &len));
}

static void pieces_bounded(void **state)
{
	struct rig *r = *state;
	size_t len;

	for (unsigned i = 0; i < 60000; i++) {
		r->now += 1000;
		assert_null(piece(r, (u16)i, i % 3 * 8, 1000, true, &len));
	}
	assert_true(net_frag_bytes(r->g.frag) < 2 * MiB);
	/* The newest are there. */
	is_whole(piece(r, 59997, 1000, 1000, false, &len), &len, 2000);
}

/* ---- segments ---- */

/* The guest's. True: it has passed. */
static bool segment(struct rig *r, u16 port, u8 flags, u32 seq, size_t n)
{
	size_t len = ipv4_frame(frame, 6, HOST, 5000, port, data, n);
	u8 *f;

	be16(frame + 38, seq >> 16);
	be16(frame + 40, seq & 0xffff);
	frame[47] = flags;
	f = net_guard_in(&r->g, frame, &len, r->now);
	assert_true(!f || (f == frame && len == 54 + n));
	return f;
}

/* libslirp's answer. */
static void answer(struct rig *r, u16 port, u8 flags, u32 ack)
{
	u8 f[60], addr[4];
	size_t len = ipv4_frame(f, 6, HOST, port, 5000, "", 0);

	memcpy(addr, f + 26, 4);
	memcpy(f + 26, f + 30, 4);
	memcpy(f + 30, addr, 4);
	be16(f + 42, ack >> 16);
	be16(f + 44, ack & 0xffff);
	f[47] = flags;
	net_guard_out(&r->g, f, len, r->now);
}

static void in_order(void **state)
{
	struct rig *r = *state;
	u32 seq = 0xfffff000; /* it wraps */

	assert_true(segment(r, 80, SYN, seq++, 0));
	answer(r, 80, SYN | ACK, seq);
	for (unsigned i = 0; i < 10000; i++) {
		assert_true(segment(r, 80, ACK, seq, 1000));
		assert_int_equal(r->g.kept, 1 + i % 2);
		seq += 1000;
		if (i % 2)
			answer(r, 80, ACK, seq);
	}
	assert_int_equal(r->g.nr_flows, 0);
	/* Probes of a window that is closed: nothing of them is taken, or kept. */
	for (unsigned i = 0; i < 1000; i++) {
		r->now += SECOND;
		assert_true(segment(r, 80, ACK, seq, 1));
		answer(r, 80, ACK, seq);
		net_guard_tick(&r->g, r->now);
		assert_int_equal(r->g.kept, 0);
	}
	assert_true(segment(r, 80, ACK | FIN, seq, 0));
	assert_int_equal(r->g.kept, 1);
	answer(r, 80, RST, 0);
	assert_int_equal(r->g.kept, 0);
	assert_int_equal(r->injected, 0);
	/* What libslirp would drop without a word would be counted for ever. */
	assert_false(segment(r, 80, 0, seq, 10));
}

/* Every second byte, on and on. */
static void holes(void **state)
{
	struct rig *r = *state;
	unsigned passed = 0;
	struct net_packet p;

	for (u32 i = 0; i < 5000; i++) {
		bool ok = segment(r, 80, ACK, 1001 + 2 * i, 1);

		passed += ok;
		if (ok)
			answer(r, 80, ACK, 1000);
	}
	assert_int_equal(passed, GUARD_KEPT_FLOW);
	/* Other connections are not held up, nor is this one in its turn. */
	assert_true(segment(r, 81, ACK, 1, 1));
	answer(r, 81, ACK, 2);
	assert_true(segment(r, 80, ACK, 1000, 1));
	answer(r, 80, ACK, 1002);
	assert_true(segment(r, 80, ACK, 1002, 1));
	assert_false(segment(r, 80, ACK, 5000, 1));
	answer(r, 80, ACK, 1001 + 2 * GUARD_KEPT_FLOW - 2);
	assert_int_equal(r->g.kept, 0);
	/* A hole that stays. */
	assert_true(segment(r, 80, ACK, 9000, 1));
	answer(r, 80, ACK, 2000);
	r->now += GUARD_HOLE_NS;
	net_guard_tick(&r->g, r->now);
	assert_int_equal(r->injected, 0);
	r->now++;
	net_guard_tick(&r->g, r->now);
	assert_int_equal(r->injected, 1);
	assert_int_equal(r->g.kept, 0);
	assert_int_equal(r->last_len, 54);
	assert_true(ipv4_right(r->last, 54));
	assert_true(net_packet_parse(&p, r->last, 54));
	assert_int_equal(r->last[47], RST);
	assert_memory_equal(r->last + 26, "\x0a\x00\x02\x0f\x0a\x00\x02\x02\x13\x88\x00\x50", 12);
	assert_memory_equal(r->last + 38, "\x00\x00\x07\xd0", 4);
}

static void many_connections(void **state)
{
	struct rig *r = *state;
	unsigned passed = 0;

	for (unsigned i = 0; i < 3000; i++)
		passed += segment(r, (u16)(i % 1000), ACK, 5000 + i, 1);
	assert_int_equal(passed, GUARD_KEPT);
	assert_int_equal(r->g.kept, GUARD_KEPT);
	/* Without a word of libslirp's nobody knows what it has: they stay. */
	r->now += 10 * GUARD_HOLE_NS;
	net_guard_tick(&r->g, r->now);
	assert_int_equal(r->g.kept, GUARD_KEPT);
	for (unsigned i = 0; i < 1000; i++)
		answer(r, (u16)i, ACK, 1);
	r->now += GUARD_HOLE_NS + 1;
	net_guard_tick(&r->g, r->now);
	assert_int_equal(r->g.kept, 0);
	assert_int_equal(r->g.nr_flows, 0);
	assert_int_equal(r->injected, GUARD_KEPT);
}

/* The ports come again, with other numbers. */
static void another_connection(void **state)
{
	struct rig *r = *state;

	assert_true(segment(r, 80, ACK, 5000, 1));
	assert_false(segment(r, 80, SYN, 7000, 0)); /* nobody knows yet */
	answer(r, 80, ACK, 4000);
	assert_true(segment(r, 80, SYN, 7000, 0));
	assert_int_equal(r->injected, 1);
	assert_memory_equal(r->last + 38, "\x00\x00\x0f\xa0", 4);
	assert_int_equal(r->g.kept, 0);
	answer(r, 80, SYN | ACK, 7001);
	assert_true(segment(r, 80, ACK, 7001, 1));
	answer(r, 80, ACK, 7002);
	assert_int_equal(r->g.kept, 0);
}

static void ipv6(void **state)
{
	struct rig *r = *state;
	u8 f[100] = {0}, back[100];
	struct net_packet p;
	u8 *tcp = f + 54;
	size_t len = 75;

	memcpy(f + 12, "\x86\xdd\x60", 3);
	f[19] = 21;
	f[20] = 6;
	memset(f + 22, 1, 16);
	memset(f + 38, 2, 16);
	memcpy(tcp, "\x10\x00\x00\x50\x00\x00\x30\x00", 8);
	tcp[12] = 0x50;
	tcp[13] = ACK;
	assert_ptr_equal(net_guard_in(&r->g, f, &len, r->now), f);
	assert_int_equal(r->g.kept, 1);
	memcpy(back, f, sizeof(f));
	memset(back + 22, 2, 16);
	memset(back + 38, 1, 16);
	memcpy(back + 54, "\x00\x50\x10\x00\x00\x00\x00\x00\x00\x00\x20\x00", 12);
	net_guard_out(&r->g, back, len, r->now);
	r->now += GUARD_HOLE_NS + 1;
	net_guard_tick(&r->g, r->now);
	assert_int_equal(r->injected, 1);
	assert_int_equal(r->last_len, 74);
	assert_true(net_packet_parse(&p, r->last, 74));
	assert_int_equal(p.ip_version, 6);
	assert_int_equal(p.protocol, 6);
	assert_memory_equal(r->last + 22, f + 22, 36);
	assert_memory_equal(r->last + 58, "\x00\x00\x20\x00", 4);
	assert_int_equal(net_csum_fold(net_csum_add(net_csum_pseudo(r->last + 22, 32, 6, 20),
	                                            r->last + 54, 20)),
	                 0);
	/* Cut short. */
	len = 74;
	assert_null(net_guard_in(&r->g, f, &len, r->now));
}

/* ---- sockets, addresses ---- */

static bool datagram(struct rig *r)
{
	size_t len = ipv4_frame(frame, 17, HOST, 1, 2, "x", 1);

	return net_guard_in(&r->g, frame, &len, r->now);
}

static void sockets(void **state)
{
	struct rig *r = *state;
	unsigned n = 0;

	while (segment(r, (u16)n, SYN, 1, 0))
		n++;
	assert_int_equal(n, GUARD_TCP);
	net_guard_sockets(&r->g, GUARD_TCP);
	assert_false(segment(r, 1, SYN, 1, 0));
	for (n = 0; datagram(r) && n < 10000; n++)
		;
	assert_in_range(n, GUARD_SOCKETS - GUARD_TCP - 1, GUARD_SOCKETS - GUARD_TCP);
	/* Connections that are there go on; some have ended. */
	assert_true(segment(r, 1, ACK, 1, 1));
	net_guard_sockets(&r->g, 10);
	assert_true(segment(r, 2, SYN, 1, 0));
	assert_true(datagram(r));
	/* Where the process may have less. */
	net_guard_fini(&r->g);
	assert_int_equal(net_guard_init(&r->g, 256, on_inject, r), 0);
	for (n = 0; datagram(r) && n < 10000; n++)
		;
	assert_int_equal(n, 128);
}

/* libslirp asks who has an address that it is to answer. */
static void addresses(void **state)
{
	struct rig *r = *state;
	u8 arp[42] = {[12] = 8, [13] = 6, [21] = 1, [38] = 10, [40] = 2, [41] = 15};
	u8 ns[80] = {[12] = 0x86, [13] = 0xdd, [14] = 0x60, [19] = 24, [20] = 58, [54] = 135};
	u8 v6[80] = {[11] = 7, [12] = 0x86, [13] = 0xdd, [14] = 0x60, [20] = 17};
	struct net_packet p;
	size_t len = 54;

	/* Nobody knows, until it sends something. */
	net_guard_out(&r->g, arp, sizeof(arp), r->now);
	assert_int_equal(r->told, 0);
	assert_true(datagram(r));
	assert_int_equal(r->told, 1);
	assert_true(datagram(r));
	assert_int_equal(r->told, 1);
	net_guard_out(&r->g, arp, sizeof(arp) - 1, r->now);
	assert_int_equal(r->told, 1);
	net_guard_out(&r->g, arp, sizeof(arp), r->now);
	assert_int_equal(r->told, 2);
	assert_int_equal(r->last_len, 42);
	assert_memory_equal(r->last + 6, "\x52\x54\x00\x12\x34\x56\x08\x06\x00\x01\x08\x00\x06\x04",
	                    14);
	assert_memory_equal(r->last + 20, "\x00\x02\x52\x54\x00\x12\x34\x56\x0a\x00\x02\x0f", 12);
	arp[21] = 2; /* an answer, of whomever */
	net_guard_out(&r->g, arp, sizeof(arp), r->now);
	assert_int_equal(r->told, 2);
	/* The same by IPv6. */
	memset(v6 + 22, 0xfe, 16);
	memset(ns + 62, 0xfe, 16);
	net_guard_out(&r->g, ns, sizeof(ns), r->now);
	assert_int_equal(r->told, 2);
	assert_non_null(net_guard_in(&r->g, v6, &len, r->now));
	assert_int_equal(r->told, 3);
	net_guard_out(&r->g, ns, sizeof(ns), r->now);
	assert_int_equal(r->told, 4);
	assert_int_equal(r->last_len, 78);
	assert_int_equal(r->last[11], 7);
	assert_true(net_packet_parse(&p, r->last, 78));
	assert_int_equal(r->last[21], 255);
	assert_int_equal(r->last[54], 136);
	assert_memory_equal(r->last + 62, ns + 62, 16);
	assert_int_equal(net_csum_fold(net_csum_add(net_csum_pseudo(r->last + 22, 32, 58, 24),
	                                            r->last + 54, 24)),
	                 0);
	/* It has moved. */
	v6[11] = 8;
	assert_non_null(net_guard_in(&r->g, v6, &len, r->now));
	assert_int_equal(r->told, 5);
	assert_int_equal(r->last[11], 8);
	/* Who has as many as he likes is told of all. */
	for (unsigned i = 0; i < 1000; i++) {
		v6[30] = ns[70] = (u8)i;
		v6[31] = ns[71] = (u8)(i >> 8);
		assert_non_null(net_guard_in(&r->g, v6, &len, r->now));
		r->told = 0;
		net_guard_out(&r->g, ns, sizeof(ns), r->now);
		assert_int_equal(r->told, 1);
	}
}

/* Ping by IPv6: of the router and the name server. */
static void echo6(void **state)
{
	static const char *const there[] = {"fec0::2", "fec0::3", "fe80::2", "fe80::3"};
	static const char *const elsewhere[] = {"2001:db8::2", "fec0::4", "fec0::1:2", "fea0::2",
	                                        "::1"};
	struct rig *r = *state;
	u8 f[62] = {[12] = 0x86, [13] = 0xdd, [14] = 0x60, [19] = 8, [20] = 58, [54] = 128};
	size_t len = sizeof(f);

	for (unsigned i = 0; i < ARRAY_SIZE(there); i++) {
		inet_pton(AF_INET6, there[i], f + 38);
		assert_non_null(net_guard_in(&r->g, f, &len, r->now));
	}
	for (unsigned i = 0; i < ARRAY_SIZE(elsewhere); i++) {
		inet_pton(AF_INET6, elsewhere[i], f + 38);
		assert_null(net_guard_in(&r->g, f, &len, r->now));
	}
}

/* Not for libslirp at all. */
static void others(void **state)
{
	struct rig *r = *state;
	u8 f[100] = {0};

	for (unsigned type = 0; type < 65536; type++) {
		size_t len = sizeof(f);

		be16(f + 12, type);
		f[14] = 0; /* no version of IP */
		assert_int_equal(!!net_guard_in(&r->g, f, &len, r->now), type == 0x0806);
	}
	for (size_t n = 0; n < 100; n++) {
		size_t len = n;

		be16(f + 12, 0x0800);
		f[14] = 0x45;
		be16(f + 16, 86);
		assert_int_equal(!!net_guard_in(&r->g, f, &len, r->now), 0);
	}
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(pieces),
		T(pieces_that_do_not_fit),
		T(pieces_bounded),
		T(in_order),
		T(holes),
		T(many_connections),
		T(another_connection),
		T(ipv6),
		T(sockets),
		T(addresses),
		T(echo6),
		T(others),
	};

	log_set_level(LOG_ERROR);
	return cmocka_run_group_tests_name("net_guard", tests, NULL, NULL);
}
