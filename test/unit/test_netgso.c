// SPDX-License-Identifier: MIT
/* Checksums, cutting of segments, and which headers of a guest are refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "nettest.h"

#define ALL (NET_OFF_CSUM | NET_OFF_TSO4 | NET_OFF_TSO6 | NET_OFF_ECN)

static void checksums(void **state)
{
	/* RFC 1071, section 3: the sum of these is ddf2. */
	static const u8 rfc[8] = {0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7};
	u8 buf[3000], copy[3000];

	assert_int_equal((u16)~net_csum_fold(net_csum_add(0, rfc, 8)), 0xf2dd); /* memory order */
	for (size_t i = 0; i < sizeof(buf); i++)
		buf[i] = (u8)(i * 37 + (i >> 3));
	/* In pieces, at any alignment, and of odd length: as in one. */
	for (size_t n = 0; n < 300; n++) {
		u32 one = net_csum_add(0, buf, n), two;

		two = net_csum_add(net_csum_add(0, buf, n / 2 & ~1ul), buf + (n / 2 & ~1ul),
		                   n - (n / 2 & ~1ul));
		assert_int_equal(net_csum_fold(one), net_csum_fold(two));
		memcpy(copy + 1, buf, n);
		assert_int_equal(net_csum_fold(one), net_csum_fold(net_csum_add(0, copy + 1, n)));
	}
	/* All ones do not overflow. */
	memset(buf, 0xff, sizeof(buf));
	assert_int_equal(net_csum_fold(net_csum_add(0xffffffff, buf, sizeof(buf))), 0);
}

static void finish(void **state)
{
	u8 f[200], right[200];
	size_t len = ipv4_frame(right, 17, 0x0a000202, 1000, 2000, "hello, world", 12);
	struct net_vhdr h = {VIRTIO_NET_HDR_F_NEEDS_CSUM, 0, 0, 0, 34, 6};

	memcpy(f, right, len);
	put_le16(f + 40, (u16)~net_csum_fold(net_csum_pseudo(f + 26, 8, 17, 20)));
	assert_true(net_vhdr_check(&h, f, len, ALL));
	net_csum_finish(&h, f, len);
	assert_memory_equal(f, right, len);
	/* Padding behind the packet is none of it. */
	put_le16(f + 40, (u16)~net_csum_fold(net_csum_pseudo(f + 26, 8, 17, 20)));
	memset(f + len, 0xaa, 20);
	net_csum_finish(&h, f, len + 20);
	assert_memory_equal(f, right, len);
}

struct pieces {
	unsigned nr, stop_at;
	size_t total, largest;
	u8 data[70000];
	u8 flags[200];
	u32 seq[200];
	u16 id[200];
};

static bool on_piece(void *arg, u8 *f, size_t len)
{
	struct pieces *p = arg;
	struct net_packet k;
	u32 hdr;

	assert_true(net_packet_parse(&k, f, len));
	assert_int_equal(k.end, len);
	hdr = k.l4 + (f[k.l4 + 12] >> 4) * 4u;
	if (k.ip_version == 4)
		assert_true(ipv4_right(f, len));
	else
		assert_int_equal(net_csum_fold(net_csum_add(
					 net_csum_pseudo(f + k.l3 + 8, 32, 6, k.end - k.l4),
					 f + k.l4, k.end - k.l4)),
		                 0);
	memcpy(p->data + p->total, f + hdr, len - hdr);
	p->total += len - hdr;
	p->largest = MAX(p->largest, len - hdr);
	p->seq[p->nr] = (u32)f[k.l4 + 4] << 24 | (u32)f[k.l4 + 5] << 16 | (u32)f[k.l4 + 6] << 8 |
	                f[k.l4 + 7];
	p->flags[p->nr] = f[k.l4 + 13];
	p->id[p->nr] = (u16)(f[18] << 8 | f[19]);
	return ++p->nr != p->stop_at;
}

static void cut(void **state)
{
	static u8 f[NET_FRAME_MAX], buf[NET_FRAME_MAX], data[60000];
	static struct pieces p;
	struct net_vhdr h = {
		VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_TCPV4, 54, 1448, 34, 16};
	size_t len;

	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (u8)(i * 7 + (i >> 8));
	len = ipv4_frame(f, 6, 0x0a000202, 1, 2, data, sizeof(data));
	memset(f + 38, 0xff, 4); /* the sequence number wraps */
	f[47] = 0x99;            /* CWR, ACK, PSH, FIN */
	assert_true(net_vhdr_check(&h, f, len, ALL));
	assert_true(net_gso_split(&h, f, len, buf, on_piece, &p));
	assert_int_equal(p.nr, (60000 + 1447) / 1448);
	assert_int_equal(p.total, sizeof(data));
	assert_memory_equal(p.data, data, sizeof(data));
	assert_int_equal(p.largest, 1448);
	for (unsigned i = 0; i < p.nr; i++) {
		assert_int_equal(p.seq[i], 0xffffffffu + i * 1448);
		assert_int_equal(p.id[i], i);
		assert_int_equal(p.flags[i], 0x10 | (i ? 0 : 0x80) | (i == p.nr - 1 ? 0x09 : 0));
	}
	/* Whoever takes no more ends it. */
	p = (struct pieces){.stop_at = 3};
	assert_false(net_gso_split(&h, f, len, buf, on_piece, &p));
	assert_int_equal(p.nr, 3);
}

static void cut_ipv6(void **state)
{
	static u8 f[4000], buf[NET_FRAME_MAX];
	static struct pieces p;
	struct net_vhdr h = {
		VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_TCPV6, 74, 1000, 54, 16};

	memset(f, 0x11, sizeof(f));
	be16(f + 12, 0x86dd);
	f[14] = 0x60;
	be16(f + 18, 20 + 2500);
	f[20] = 6;
	f[54 + 12] = 0x50;
	assert_true(net_vhdr_check(&h, f, 74 + 2500, ALL));
	assert_true(net_gso_split(&h, f, 74 + 2500, buf, on_piece, &p));
	assert_int_equal(p.nr, 3);
	assert_int_equal(p.total, 2500);
}

static void hostile_headers(void **state)
{
	u8 f[1600], data[1400] = {0};
	size_t len = ipv4_frame(f, 6, 0x0a000202, 1, 2, data, sizeof(data));
	const struct net_vhdr good = {
		VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_TCPV4, 54, 500, 34, 16};
	struct net_vhdr h = good;

	assert_true(net_vhdr_check(&h, f, len, ALL));
	assert_false(net_vhdr_check(&h, f, len, ALL & ~NET_OFF_TSO4));
	assert_false(net_vhdr_check(&h, f, len, ALL & ~NET_OFF_CSUM));
	assert_false(net_vhdr_check(&h, f, 13, ALL));
	assert_false(net_vhdr_check(&h, f, 60, ALL)); /* cut short */
	h.gso_size = 0;
	assert_false(net_vhdr_check(&h, f, len, ALL));
	h.gso_size = 1; /* a frame for each byte */
	assert_false(net_vhdr_check(&h, f, len, ALL));
	h = good;
	h.gso_type = VIRTIO_NET_HDR_GSO_UDP;
	assert_false(net_vhdr_check(&h, f, len, ALL));
	h.gso_type = VIRTIO_NET_HDR_GSO_TCPV6;
	assert_false(net_vhdr_check(&h, f, len, ALL));
	h = good;
	h.csum_start = 0xffff;
	h.csum_offset = 0xffff;
	assert_false(net_vhdr_check(&h, f, len, ALL));
	h.gso_type = 0;
	assert_false(net_vhdr_check(&h, f, len, ALL));
	h.csum_start = (u16)(len - 1);
	h.csum_offset = 0;
	assert_false(net_vhdr_check(&h, f, len, ALL));
	h = good;
	f[46] = 0xf0; /* a TCP header behind the packet's end */
	f[17] = 60;
	f[16] = 0;
	assert_false(net_vhdr_check(&h, f, len, ALL));
	f[14] = 0x4f; /* an IP header of 60 bytes in a packet of 60 */
	assert_false(net_vhdr_check(&h, f, len, ALL));
	/* Any header with any frame: nothing but an answer. */
	srand(1);
	for (int i = 0; i < 200000; i++) {
		static u8 buf[NET_FRAME_MAX];
		static struct pieces p;
		struct net_vhdr r = good;
		size_t n = 14 + (size_t)rand() % 1500;

		for (int j = 0; j < 6; j++)
			f[12 + rand() % 60] = (u8)rand();
		if (i & 1)
			memcpy(f + 12, "\x08\x00\x45", 3);
		((u8 *)&r)[rand() % NET_VHDR_LEN] = (u8)rand();
		if (!net_vhdr_check(&r, f, n, ALL))
			continue;
		p.nr = 0, p.total = 0, p.stop_at = 0;
		if (r.gso_type)
			net_gso_split(&r, f, n, buf, on_piece, &p);
		else
			net_csum_finish(&r, f, n);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(checksums),
		cmocka_unit_test(finish),
		cmocka_unit_test(cut),
		cmocka_unit_test(cut_ipv6),
		cmocka_unit_test(hostile_headers),
	};

	return cmocka_run_group_tests_name("netgso", tests, NULL, NULL);
}
