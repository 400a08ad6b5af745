// SPDX-License-Identifier: MIT
/* The network card by its registers and rings: virtio 1.2, 5.1. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "netcard.h"

#define DATA 0x200000
#define ALL  0xdfbbafull /* 0 to 23, without what is not offered */

static const struct net_vhdr none;

static void send_one(struct card *c, const struct net_vhdr *h, const u8 *frame, size_t len)
{
	struct buf b[2] = {{DATA, 12, 0}, {DATA + 0x1000, (u32)len, 0}};

	ram_put(&c->p, DATA, 0, 8);
	ram_put(&c->p, DATA + 8, 0, 4);
	assert_int_equal(pmap_write(c->p.t.pmap, DATA, h, sizeof(*h)), 0);
	assert_int_equal(pmap_write(c->p.t.pmap, DATA + 0x1000, frame, len), 0);
	ring_add(&c->tx, 0, b, 2);
	ring_kick(&c->tx);
	card_run(c);
}

static void sending(void **state)
{
	static struct card c;
	u8 f[2000];
	struct net_vhdr h = {
		.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM, .csum_start = 34, .csum_offset = 6};
	u32 id, len;

	for (int again = 0; again < 2; again++) {
		card_make(&c, 1);
		card_start(&c, ALL, 16, false);
		memset(f, 0x5a, sizeof(f));
		send_one(&c, &none, f, 100);
		assert_int_equal(c.f->sent, 1);
		assert_int_equal(c.f->len, 100);
		assert_memory_equal(c.f->frame, f, 100);
		assert_true(ring_used(&c.tx, 2, &id, &len) && id == 0 && len == 0);
		send_one(&c, &h, f, 100);
		assert_int_equal(c.f->sent, 2);
		assert_memory_equal(&c.f->hdr, &h, sizeof(h));
		/* Bad ones are dropped, their buffers come back. */
		h.csum_start = 99;
		send_one(&c, &h, f, 100);
		assert_int_equal(c.f->sent, 2);
		assert_true(ring_used(&c.tx, 2, &id, &len));
		assert_true(ring_used(&c.tx, 2, &id, &len));
		h.csum_start = 34;
		send_one(&c, &none, f, 13);
		h.gso_type = VIRTIO_NET_HDR_GSO_TCPV4;
		h.gso_size = 1;
		send_one(&c, &h, f, 100);
		assert_int_equal(c.f->sent, 2);
		h.gso_type = 0;
		/* Congestion: it waits, and goes later. */
		c.f->congested = true;
		send_one(&c, &none, f, 200);
		send_one(&c, &none, f, 300);
		assert_int_equal(c.f->sent, 2);
		c.f->congested = false;
		bus_lock(c.p.t.bus);
		c.f->back.front->writable(c.f->back.front_arg, 0);
		bus_unlock(c.p.t.bus);
		card_run(&c);
		assert_int_equal(c.f->sent, 4);
		assert_int_equal(c.f->len, 300);
		/* A reset while one waits. */
		c.f->congested = true;
		send_one(&c, &none, f, 200);
		card_start(&c, ALL, 16, false);
		c.f->congested = false;
		bus_lock(c.p.t.bus);
		c.f->back.front->writable(c.f->back.front_arg, 0);
		bus_unlock(c.p.t.bus);
		card_run(&c);
		assert_int_equal(c.f->sent, 4);
		pcitest_fini(&c.p);
	}
}

/* Without what the driver took, its headers may not ask for it. */
static void features_bind(void **state)
{
	static struct card c;
	u8 f[200] = {0};
	struct net_vhdr h = {
		.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM, .csum_start = 34, .csum_offset = 6};

	card_make(&c, 1);
	card_start(&c, 0, 16, false);
	send_one(&c, &h, f, 100);
	assert_int_equal(c.f->sent, 0);
	assert_int_equal(c.f->offload, 0);
	card_start(&c, ALL, 16, false);
	assert_int_equal(c.f->offload, NET_OFF_CSUM | NET_OFF_TSO4 | NET_OFF_TSO6 | NET_OFF_ECN);
	/* 5.1.3.1: segments need checksums. */
	assert_false(driver_negotiate(&c.d, BIT(7)) & 8);
	assert_false(driver_negotiate(&c.d, BIT(11)) & 8);
	assert_false(driver_negotiate(&c.d, BIT(18)) & 8);
	assert_true(driver_negotiate(&c.d, BIT(0) | BIT(11)) & 8);
	pcitest_fini(&c.p);
}

static void receiving(void **state)
{
	static struct card c;
	static u8 f[5000], got[5000];
	u32 id, len;

	for (size_t i = 0; i < sizeof(f); i++)
		f[i] = (u8)(i * 11);
	card_make(&c, 1);
	assert_true(card_receive(&c, &none, f, 100)); /* no driver: dropped */
	card_start(&c, ALL, 16, false);
	/* No buffer: the back waits, and is told when there is one. */
	assert_false(card_receive(&c, &none, f, 4000));
	c.f->pulled = false;
	for (u16 i = 0; i < 2; i++) {
		ring_add(&c.rx, i, &(struct buf){DATA + 0x800 * i, 1500, VIRTQ_DESC_F_WRITE}, 1);
		ring_kick(&c.rx);
	}
	assert_true(c.f->pulled);
	assert_false(card_receive(&c, &none, f, 4000)); /* not enough: they stay available */
	c.f->pulled = false;
	ring_add(&c.rx, 2, &(struct buf){DATA + 0x1000, 1500, VIRTQ_DESC_F_WRITE}, 1);
	ring_kick(&c.rx);
	assert_true(c.f->pulled);
	assert_true(card_receive(&c, &none, f, 4000));
	for (u32 i = 0, at = 0; i < 3; i++) {
		u32 head = i ? 0 : 12, n = MIN(1500 - head, 4000 - at);

		assert_true(ring_used(&c.rx, 1, &id, &len));
		assert_int_equal(id, i);
		assert_int_equal(len, head + n);
		pmap_read(c.p.t.pmap, DATA + 0x800 * i + head, got + at, n);
		at += n;
	}
	assert_memory_equal(got, f, 4000);
	assert_int_equal(ram_get(&c.p, DATA + 10, 2), 3); /* num_buffers */
	/* Without mergeable buffers a frame that does not fit is lost, the buffer is not. */
	card_start(&c, ALL & ~BIT(15), 16, false);
	ring_add(&c.rx, 0, &(struct buf){DATA, 1500, VIRTQ_DESC_F_WRITE}, 1);
	assert_true(card_receive(&c, &none, f, 4000));
	assert_false(ring_used(&c.rx, 1, &id, &len));
	assert_true(card_receive(&c, &none, f, 100));
	assert_true(ring_used(&c.rx, 1, &id, &len));
	assert_int_equal(len, 112);
	/* A buffer without room for the header breaks the ring. */
	card_start(&c, ALL, 16, false);
	ring_add(&c.rx, 0, &(struct buf){DATA, 11, VIRTQ_DESC_F_WRITE}, 1);
	assert_true(card_receive(&c, &none, f, 100));
	assert_int_equal(driver_get(&c.d, C_STATUS, 1) & 64, 64);
	pcitest_fini(&c.p);
}

/* A command; its answer: 0, 1, or 0xff when there was none. */
static u8 command(struct card *c, const void *cmd, u32 n)
{
	struct buf b[2] = {{DATA + 0x4000, n, 0}, {DATA + 0x8000, 1, VIRTQ_DESC_F_WRITE}};

	assert_int_equal(pmap_write(c->p.t.pmap, DATA + 0x4000, cmd, n), 0);
	ram_put(&c->p, DATA + 0x8000, 0xff, 1);
	ring_add(&c->ctrl, 0, b, 2);
	ring_kick(&c->ctrl);
	card_run(c);
	return (u8)ram_get(&c->p, DATA + 0x8000, 1);
}

/* Does a frame for `dst` reach the guest? Buffers for 16. */
static bool reaches(struct card *c, const char *dst, const char *tag)
{
	u8 f[64] = {0};
	u32 id, len;

	memcpy(f, dst, 6);
	memcpy(f + 12, tag, 4);
	ring_add(&c->rx, 0, &(struct buf){DATA, 2000, VIRTQ_DESC_F_WRITE}, 1);
	assert_true(card_receive(c, &none, f, sizeof(f)));
	if (ring_used(&c->rx, 1, &id, &len))
		return true;
	c->rx.avail--; /* take it back: the card does not look at it meanwhile */
	ram_put(&c->p, c->rx.driver + 2, c->rx.avail, 2);
	return false;
}

static void control(void **state)
{
	static struct card c;
	static u8 big[4 + 6 * 100 + 10];
	const char *own = "\x02\0\0\0\0\x01", *other = "\x02\0\0\0\0\x02",
		   *group = "\x33\x33\0\0\0\x01";
	const char *all = "\xff\xff\xff\xff\xff\xff", *ip = "\x08\0\0\0", *vlan5 = "\x81\0\0\x05";

	card_make(&c, 4);
	card_start(&c, ALL, 16, false);
	assert_true(reaches(&c, other, ip)); /* promiscuous at first */
	assert_int_equal(command(&c, "\0\0\0", 3), 0);
	assert_false(reaches(&c, other, ip));
	assert_true(reaches(&c, own, ip));
	assert_true(reaches(&c, all, ip));
	assert_false(reaches(&c, group, ip));
	/* Tables: one address of each kind. */
	assert_int_equal(command(&c, "\1\0\1\0\0\0\x02\0\0\0\0\x02\1\0\0\0\x33\x33\0\0\0\x01", 22),
	                 0);
	assert_true(reaches(&c, other, ip));
	assert_true(reaches(&c, group, ip));
	/* Longer than the command says, and longer than what is kept. */
	assert_int_equal(command(&c, "\1\0\xff\xff\xff\xff\x02\0\0\0\0\x02\0\0\0\0", 16), 1);
	assert_true(reaches(&c, other, ip));
	big[0] = 1;
	big[2] = 99;
	assert_int_equal(command(&c, big, 2 + 4 + 99 * 6 + 4), 0);
	assert_true(reaches(&c, other, ip)); /* all, since not all can be kept */
	assert_false(reaches(&c, group, ip));
	/* VLANs. */
	assert_false(reaches(&c, own, vlan5));
	assert_int_equal(command(&c, "\2\0\5\0", 4), 0);
	assert_true(reaches(&c, own, vlan5));
	assert_int_equal(command(&c, "\2\1\5\0", 4), 0);
	assert_false(reaches(&c, own, vlan5));
	assert_int_equal(command(&c, "\2\0\0\x10", 4), 1);
	/* Another address of its own. */
	assert_int_equal(command(&c, "\1\1\x02\0\0\0\0\x09", 8), 0);
	assert_int_equal(mmio_in(&c.p, c.d.config + 5, 1), 9);
	/* Queue pairs. */
	assert_int_equal(command(&c, "\4\0\4\0", 4), 0);
	assert_int_equal(c.f->pairs, 4);
	assert_int_equal(command(&c, "\4\0\5\0", 4), 1);
	assert_int_equal(command(&c, "\4\0\0\0", 4), 1);
	assert_int_equal(c.f->pairs, 4);
	/* Offloads: fewer, then one that was not negotiated. */
	assert_int_equal(command(&c, "\5\0\2\0\0\0\0\0\0\0", 10), 0);
	assert_int_equal(c.f->offload, NET_OFF_CSUM);
	assert_int_equal(command(&c, "\5\0\0\0\0\0\0\0\0\x80", 10), 1);
	/* What is none. */
	assert_int_equal(command(&c, "\x63\0\0", 3), 1);
	assert_int_equal(command(&c, "\0", 1), 1);
	/* A reset forgets all of it. */
	card_start(&c, ALL, 16, false);
	assert_true(reaches(&c, other, ip));
	assert_int_equal(mmio_in(&c.p, c.d.config + 5, 1), 1);
	assert_int_equal(c.f->pairs, 1);
	pcitest_fini(&c.p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sending),
		cmocka_unit_test(features_bind),
		cmocka_unit_test(receiving),
		cmocka_unit_test(control),
	};

	log_set_level(LOG_ERROR);
	return cmocka_run_group_tests_name("virtio_net", tests, NULL, NULL);
}
