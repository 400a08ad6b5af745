// SPDX-License-Identifier: MIT
/* The vsock device by its registers and rings: virtio 1.2, 5.10. The host's sockets are the test's
 * own, the clock stands still between steps. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "vsockcard.h"

#define SIZE  64 /* of the rings */
#define GPORT 1024
#define HPORT 5000

static struct vsockcard card;
static u8 data[VC_SLOT];

static int setup(void **state)
{
	vsockcard_make(&card);
	vsockcard_start(&card, SIZE);
	*state = &card;
	return 0;
}

static int teardown(void **state)
{
	pcitest_fini(&card.p);
	return 0;
}

static void buffers(struct vsockcard *c, unsigned n)
{
	while (n--)
		vsockcard_buffer(c, VC_SLOT);
	ring_kick(&c->rx);
	vsockcard_run(c);
}

/* One packet from the guest, and all that follows from it. */
static void put(struct vsockcard *c, const struct vsock_hdr *h, const void *bytes, u32 n)
{
	vsockcard_send(c, h, bytes, n);
	ring_kick(&c->tx);
	vsockcard_run(c);
}

static void put_op(struct vsockcard *c, u16 op, u32 flags)
{
	struct vsock_hdr h = vsockcard_hdr(op, GPORT, HPORT);

	h.flags = flags;
	put(c, &h, NULL, 0);
}

static void put_data(struct vsockcard *c, const void *bytes, u32 n)
{
	struct vsock_hdr h = vsockcard_hdr(VSOCK_OP_RW, GPORT, HPORT);

	h.len = n;
	put(c, &h, bytes, n);
}

/* The next packet to the guest is of that kind. */
static struct vsock_hdr get(struct vsockcard *c, u16 op)
{
	struct vsock_hdr h;

	assert_true(vsockcard_recv(c, &h, data));
	assert_int_equal(h.op, op);
	assert_int_equal(h.src_cid, VSOCK_CID_HOST);
	assert_int_equal(h.dst_cid, VC_CID);
	assert_int_equal(h.type, VSOCK_TYPE_STREAM);
	return h;
}

static void get_none(struct vsockcard *c)
{
	struct vsock_hdr h;

	assert_false(vsockcard_recv(c, &h, data));
}

static bool closed(int fd)
{
	char x;

	return recv(fd, &x, 1, MSG_DONTWAIT) == 0;
}

/* The guest's connection to the host, up to RESPONSE: the host's end. */
static int guest_connects(struct vsockcard *c, u32 room)
{
	struct vsock_hdr h = vsockcard_hdr(VSOCK_OP_REQUEST, GPORT, HPORT);
	unsigned asked = c->h->asked;
	int fd;

	h.buf_alloc = room;
	put(c, &h, NULL, 0);
	assert_int_equal(c->h->asked, asked + 1);
	assert_int_equal(c->h->port, HPORT);
	fd = vsockcard_answer(c, c->h->id, 0);
	vsockcard_run(c);
	h = get(c, VSOCK_OP_RESPONSE);
	assert_int_equal(h.src_port, HPORT);
	assert_int_equal(h.dst_port, GPORT);
	assert_int_equal(h.buf_alloc, VSOCK_BUF);
	return fd;
}

static unsigned in_use(const struct vsockcard *c)
{
	const struct virtio_vsock *d = vsockcard_dev(c);
	unsigned n = 0;

	for (unsigned i = 0; i < VSOCK_CONNS; i++)
		n += d->conn[i].state != VSOCK_FREE;
	return n;
}

static void both_ways(void **state)
{
	struct vsockcard *c = *state;
	char buf[100];
	int fd;

	buffers(c, 16);
	fd = guest_connects(c, 65536);
	put_data(c, "to the host", 11);
	assert_int_equal(recv(fd, buf, sizeof(buf), 0), 11);
	assert_memory_equal(buf, "to the host", 11);
	assert_int_equal(send(fd, "to the guest", 12, 0), 12);
	vsockcard_run(c);
	assert_int_equal(get(c, VSOCK_OP_RW).fwd_cnt, 11);
	assert_memory_equal(data, "to the guest", 12);
	/* The host ends its sending, the guest all. */
	shutdown(fd, SHUT_WR);
	vsockcard_run(c);
	assert_int_equal(get(c, VSOCK_OP_SHUTDOWN).flags, VSOCK_SHUT_SEND);
	put_data(c, "still", 5);
	assert_int_equal(recv(fd, buf, sizeof(buf), 0), 5);
	put_op(c, VSOCK_OP_SHUTDOWN, VSOCK_SHUT_BOTH);
	get(c, VSOCK_OP_RST);
	assert_true(closed(fd));
	assert_int_equal(in_use(c), 0);
	close(fd);
}

static void refused(void **state)
{
	struct vsockcard *c = *state;
	struct vsock_hdr h = vsockcard_hdr(VSOCK_OP_REQUEST, GPORT, HPORT);

	buffers(c, 8);
	c->h->refuse = -ECONNREFUSED;
	put(c, &h, NULL, 0);
	get(c, VSOCK_OP_RST);
	c->h->refuse = 0;
	put(c, &h, NULL, 0);
	vsockcard_answer(c, c->h->id, -ENOENT);
	vsockcard_run(c);
	get(c, VSOCK_OP_RST);
	/* An answer that comes when the guest has given up: the descriptor is closed. */
	put(c, &h, NULL, 0);
	put_op(c, VSOCK_OP_RST, 0);
	int fd = vsockcard_answer(c, c->h->id, 0);

	assert_true(closed(fd));
	close(fd);
	get_none(c);
	assert_int_equal(in_use(c), 0);
}

/* Where the host's greeting leads: to the guest's port, or to the end. */
static void greeting_is(struct vsockcard *c, const char *line, u32 port)
{
	int fd = vsockcard_dial(c);

	vsockcard_run(c);
	assert_int_equal(send(fd, line, strlen(line), 0), strlen(line));
	vsockcard_run(c);
	if (!port) {
		assert_true(closed(fd) || errno == ECONNRESET);
		get_none(c);
	} else {
		struct vsock_hdr h = get(c, VSOCK_OP_REQUEST);
		struct vsock_hdr r = vsockcard_hdr(VSOCK_OP_RST, port, h.src_port);

		assert_int_equal(h.dst_port, port);
		put(c, &r, NULL, 0);
		assert_true(closed(fd));
	}
	assert_int_equal(in_use(c), 0);
	close(fd);
}

static void greetings(void **state)
{
	struct vsockcard *c = *state;

	buffers(c, 8);
	greeting_is(c, "CONNECT 1\n", 1);
	greeting_is(c, "CONNECT 4294967294\n", 4294967294u);
	greeting_is(c, "CONNECT 4294967295\n", 0); /* VMADDR_PORT_ANY */
	greeting_is(c, "CONNECT 4294967297\n", 0);
	greeting_is(c, "CONNECT 99999999999999999999\n", 0);
	greeting_is(c, "CONNECT \n", 0);
	greeting_is(c, "CONNECT  1\n", 0);
	greeting_is(c, "CONNECT -1\n", 0);
	greeting_is(c, "CONNECT 1 \n", 0);
	greeting_is(c, "GET / HTTP/1.1\n", 0);
	greeting_is(c, "\n", 0);
	greeting_is(c, "CONNECT 0000000000000001\n", 0); /* too long */
}

/* In pieces, with data behind it that must not get lost. */
static int host_connects(struct vsockcard *c, u32 *host_port)
{
	char line[32] = {0}, want[32];
	struct vsock_hdr h;
	int fd = vsockcard_dial(c);

	send(fd, "CONN", 4, 0);
	vsockcard_run(c);
	get_none(c);
	send(fd, "ECT 1024\nearly", 14, 0);
	vsockcard_run(c);
	h = get(c, VSOCK_OP_REQUEST);
	*host_port = h.src_port;
	h = vsockcard_hdr(VSOCK_OP_RESPONSE, GPORT, *host_port);
	put(c, &h, NULL, 0);
	snprintf(want, sizeof(want), "OK %u\n", *host_port);
	assert_int_equal(recv(fd, line, sizeof(line), 0), strlen(want));
	assert_string_equal(line, want);
	get(c, VSOCK_OP_RW);
	assert_memory_equal(data, "early", 5);
	return fd;
}

static void from_the_host(void **state)
{
	struct vsockcard *c = *state;
	struct vsock_hdr h;
	u32 port[2];
	int fd[2];

	buffers(c, 16);
	for (unsigned i = 0; i < 2; i++)
		fd[i] = host_connects(c, &port[i]);
	assert_int_not_equal(port[0], port[1]);
	/* Gone without a word: the guest is told of both directions, and answers with RST. */
	close(fd[0]);
	vsockcard_run(c);
	h = get(c, VSOCK_OP_SHUTDOWN);
	assert_int_equal(h.flags, VSOCK_SHUT_BOTH);
	assert_int_equal(h.src_port, port[0]);
	h = vsockcard_hdr(VSOCK_OP_RST, GPORT, port[0]);
	put(c, &h, NULL, 0);
	assert_int_equal(in_use(c), 1);
	/* A driver that resets the device ends all. */
	driver_set(&c->d, C_STATUS, 0, 1);
	assert_true(closed(fd[1]));
	assert_int_equal(in_use(c), 0);
	close(fd[1]);
}

static void deadlines(void **state)
{
	struct vsockcard *c = *state;
	int greets, asks;

	buffers(c, 8);
	greets = vsockcard_dial(c);
	vsockcard_run(c);
	loop_clock_step(c->p.t.loop, NSEC_PER_SEC);
	asks = vsockcard_dial(c);
	send(asks, "CONNECT 9\n", 10, 0);
	vsockcard_run(c);
	get(c, VSOCK_OP_REQUEST);
	/* The later one has the earlier end: at 6 s, not when the other's is looked at. */
	loop_clock_step(c->p.t.loop, 4900000000);
	assert_false(closed(asks));
	loop_clock_step(c->p.t.loop, 200000000);
	vsockcard_run(c);
	assert_true(closed(asks));
	get(c, VSOCK_OP_RST);
	assert_false(closed(greets));
	loop_clock_step(c->p.t.loop, 4 * NSEC_PER_SEC);
	assert_true(closed(greets));
	assert_int_equal(in_use(c), 0);
	close(asks);
	close(greets);
	/* A guest that does not answer the end of both directions. */
	int fd = guest_connects(c, 65536);

	close(fd);
	vsockcard_run(c);
	get(c, VSOCK_OP_SHUTDOWN);
	loop_clock_step(c->p.t.loop, 7900000000);
	assert_int_equal(in_use(c), 1);
	loop_clock_step(c->p.t.loop, 200000000);
	vsockcard_run(c);
	get(c, VSOCK_OP_RST);
	assert_int_equal(in_use(c), 0);
}

static void credit_of_the_guest(void **state)
{
	struct vsockcard *c = *state;
	static u8 bytes[3000];
	struct vsock_hdr h;
	int fd;

	buffers(c, 32);
	fd = guest_connects(c, 1000);
	for (unsigned i = 0; i < sizeof(bytes); i++)
		bytes[i] = (u8)(i * 7);
	assert_int_equal(send(fd, bytes, sizeof(bytes), 0), sizeof(bytes));
	vsockcard_run(c);
	/* Exactly what the guest has room for, then the question for more. */
	assert_int_equal(get(c, VSOCK_OP_RW).len, 1000);
	assert_memory_equal(data, bytes, 1000);
	get(c, VSOCK_OP_CREDIT_REQUEST);
	get_none(c);
	h = vsockcard_hdr(VSOCK_OP_CREDIT_UPDATE, GPORT, HPORT);
	h.buf_alloc = 1000;
	h.fwd_cnt = 1;
	put(c, &h, NULL, 0);
	assert_int_equal(get(c, VSOCK_OP_RW).len, 1);
	get(c, VSOCK_OP_CREDIT_REQUEST);
	/* A buffer that shrinks below what is under way is no credit, not a huge one. */
	h.buf_alloc = 10;
	put(c, &h, NULL, 0);
	get_none(c);
	h.buf_alloc = ~0u;
	put(c, &h, NULL, 0);
	assert_int_equal(get(c, VSOCK_OP_RW).len, 1999);
	assert_memory_equal(data, bytes + 1001, 1999);
	get_none(c);
	close(fd);
}

/* Bytes that nobody reads on the host: VSOCK_BUF of them are ours to keep, more is an offence. */
static void credit_of_ours(void **state)
{
	struct vsockcard *c = *state;
	static u8 bytes[4096];
	struct vsock_hdr h;
	u32 sent = 0, taken = 0, told = 0;
	int fd, small = 4096;
	ssize_t n;

	buffers(c, 16);
	fd = guest_connects(c, 65536);
	setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small));
	while (sent - told <= VSOCK_BUF - sizeof(bytes) && sent < 8 * VSOCK_BUF) {
		memset(bytes, (int)(sent / sizeof(bytes)), sizeof(bytes));
		put_data(c, bytes, sizeof(bytes));
		sent += sizeof(bytes);
		while (vsockcard_recv(c, &h, data)) {
			assert_int_equal(h.op, VSOCK_OP_CREDIT_UPDATE);
			told = h.fwd_cnt;
			buffers(c, 1);
		}
	}
	assert_in_range(sent, VSOCK_BUF, 8 * VSOCK_BUF - 1); /* the socket took some */
	/* All of it comes through, in order, and the guest is told. */
	while ((n = recv(fd, bytes, sizeof(bytes), 0)) > 0 || taken < sent) {
		for (ssize_t i = 0; i < n; i++, taken++)
			assert_int_equal(bytes[i], (u8)(taken / sizeof(bytes)));
		vsockcard_run(c);
		while (vsockcard_recv(c, &h, data)) {
			assert_int_equal(h.op, VSOCK_OP_CREDIT_UPDATE);
			told = h.fwd_cnt;
			buffers(c, 1);
		}
	}
	assert_int_equal(taken, sent);
	assert_true(sent - told < VSOCK_BUF / 4);
	/* Asked for, exact. */
	put_op(c, VSOCK_OP_CREDIT_REQUEST, 0);
	assert_int_equal(get(c, VSOCK_OP_CREDIT_UPDATE).fwd_cnt, sent);
	/* Nobody reads again, and the guest does not care. */
	for (unsigned i = 0; i < 1000 && in_use(c); i++) {
		put_data(c, bytes, sizeof(bytes));
		while (vsockcard_recv(c, &h, data) && h.op == VSOCK_OP_CREDIT_UPDATE)
			buffers(c, 1);
	}
	assert_int_equal(h.op, VSOCK_OP_RST);
	assert_int_equal(in_use(c), 0);
	close(fd);
}

static void hostile_headers(void **state)
{
	struct vsockcard *c = *state;
	struct vsock_hdr h;
	int fd;

	buffers(c, 40);
	/* Packets of nobody are answered with RST, but for a RST. */
	for (u16 op = 0; op < 10; op++) {
		if (op == VSOCK_OP_REQUEST)
			continue;
		put_op(c, op, 0);
		if (op != VSOCK_OP_RST)
			assert_int_equal(get(c, VSOCK_OP_RST).dst_port, GPORT);
		get_none(c);
	}
	/* Another type, more data than there is, in another's name, to another. */
	h = vsockcard_hdr(VSOCK_OP_REQUEST, GPORT, HPORT);
	h.type = 2;
	put(c, &h, NULL, 0);
	get(c, VSOCK_OP_RST);
	fd = guest_connects(c, 65536);
	h = vsockcard_hdr(VSOCK_OP_RW, GPORT, HPORT);
	h.len = 6;
	put(c, &h, "short", 5);
	get(c, VSOCK_OP_RST);
	h.len = ~0u;
	put(c, &h, "short", 5);
	get(c, VSOCK_OP_RST);
	h.len = 5;
	h.src_cid = VC_CID + 1;
	put(c, &h, "other", 5);
	h.src_cid = VC_CID;
	h.dst_cid = VC_CID;
	put(c, &h, "other", 5);
	get_none(c);
	assert_true(recv(fd, data, 10, MSG_DONTWAIT) < 0);
	/* The connection lived through that. A second request for it does not. */
	put_data(c, "well", 4);
	assert_int_equal(recv(fd, data, 10, MSG_DONTWAIT), 4);
	put_op(c, VSOCK_OP_REQUEST, 0);
	get(c, VSOCK_OP_RST);
	assert_true(closed(fd));
	close(fd);
	/* A buffer too short for a header is given back, nothing else. */
	ring_add(&c->tx, c->tx_id++ % SIZE, &(struct buf){VC_TX, VSOCK_HDR_LEN - 1, 0}, 1);
	ring_kick(&c->tx);
	vsockcard_run(c);
	get_none(c);
	assert_false(driver_get(&c->d, C_STATUS, 1) & VIRTIO_S_NEEDS_RESET);
}

/* What the guest does not fetch does not pile up. */
static void bounded(void **state)
{
	struct vsockcard *c = *state;
	struct virtio_vsock *d = vsockcard_dev(c);
	struct vsock_hdr h = vsockcard_hdr(VSOCK_OP_RW, 1, 1);
	unsigned n = 0;
	int extra;

	for (unsigned i = 0; i < 500; i++, h.src_port++)
		put(c, &h, NULL, 0);
	assert_int_equal(d->nr_rsts, VSOCK_RSTS);
	for (u32 i = 0; i < VSOCK_CONNS + 10; i++) {
		h = vsockcard_hdr(VSOCK_OP_REQUEST, 10000 + i, HPORT);
		put(c, &h, NULL, 0);
	}
	assert_int_equal(in_use(c), VSOCK_CONNS);
	extra = vsockcard_dial(c);
	vsockcard_run(c);
	assert_true(closed(extra));
	close(extra);
	driver_set(&c->d, C_STATUS, 0, 1);
	assert_int_equal(in_use(c), 0);
	vsockcard_start(c, SIZE);
	buffers(c, 16);
	while (vsockcard_recv(c, &h, data))
		n++;
	assert_int_equal(n, 0); /* of the old life */
	close(guest_connects(c, 65536));
}

/* A receive buffer that holds no header: the driver is broken. */
static void useless_buffer(void **state)
{
	struct vsockcard *c = *state;

	vsockcard_buffer(c, VSOCK_HDR_LEN - 1);
	put_op(c, VSOCK_OP_RW, 0);
	assert_true(driver_get(&c->d, C_STATUS, 1) & VIRTIO_S_NEEDS_RESET);
}

/* Of two that have much to send each gets every second buffer. */
static void fairness(void **state)
{
	struct vsockcard *c = *state;
	static u8 bytes[16384];
	struct vsock_hdr h, r[2];
	u32 port[2], last = 0;
	int fd[2];

	buffers(c, 6);
	for (unsigned i = 0; i < 2; i++)
		fd[i] = host_connects(c, &port[i]);
	for (unsigned i = 0; i < 2; i++)
		assert_true(send(fd[i], bytes, sizeof(bytes), 0) > 8192);
	vsockcard_run(c);
	assert_true(vsockcard_recv(c, &r[0], data) && vsockcard_recv(c, &r[1], data));
	assert_int_not_equal(r[0].src_port, r[1].src_port);
	last = r[1].src_port;
	for (unsigned i = 0; i < 8; i++) {
		vsockcard_buffer(c, VSOCK_HDR_LEN + 100);
		ring_kick(&c->rx);
		vsockcard_run(c);
		assert_true(vsockcard_recv(c, &h, data));
		assert_int_equal(h.len, 100);
		assert_int_not_equal(h.src_port, last);
		last = h.src_port;
	}
	close(fd[0]);
	close(fd[1]);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(both_ways),      T(refused),         T(greetings),
		T(from_the_host),  T(deadlines),       T(credit_of_the_guest),
		T(credit_of_ours), T(hostile_headers), T(bounded),
		T(useless_buffer), T(fairness),
	};

	log_set_level(LOG_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
