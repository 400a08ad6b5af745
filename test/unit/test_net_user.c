// SPDX-License-Identifier: MIT
/* The user network: DHCP, a forwarded port, the way out to the host's loopback, large segments, and
 * guests that take nothing. Packets are made by hand. */
#include <malloc.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include "nettest.h"

#define HOST  0x0a000202u /* 10.0.2.2 */
#define GUEST 0x0a00020fu

struct net {
	struct nettest n;
	struct netback *b;
	struct testfront f;
	u32 seq, ack; /* of the one TCP connection */
};

static const struct net_vhdr none;

static int bound_socket(int type, u16 *port)
{
	struct sockaddr_in sin = {.sin_family = AF_INET};
	socklen_t len = sizeof(sin);
	struct timeval limit = {10, 0};
	int fd = socket(AF_INET, type, 0);

	sin.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	assert_int_equal(bind(fd, (struct sockaddr *)&sin, sizeof(sin)), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&sin, &len), 0);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	*port = ntohs(sin.sin_port);
	return fd;
}

static void net_init(struct net *n, const struct net_forward *fwd)
{
	struct net_config cfg = {.kind = NET_USER, .option = "--net user"};
	int err;

	memset(n, 0, sizeof(*n));
	cfg.network.s_addr = htonl(0x0a000200);
	cfg.netmask.s_addr = htonl(0xffffff00);
	if (fwd) {
		cfg.forward[0] = *fwd;
		cfg.nr_forwards = 1;
	}
	nettest_init(&n->n);
	bus_lock(n->n.t.bus);
	err = net_user_create(&n->b, n->n.t.loop, &cfg, "testvm");
	assert_int_equal(err, 0);
	testfront_connect(&n->f, n->b);
	bus_unlock(n->n.t.bus);
}

static void net_fini(struct net *n)
{
	bus_lock(n->n.t.bus);
	netback_destroy(n->b);
	testfront_clear(&n->f);
	bus_unlock(n->n.t.bus);
	nettest_fini(&n->n);
}

static void send_frame(struct net *n, u8 *f, size_t len)
{
	bus_lock(n->n.t.bus);
	assert_true(netback_send(n->b, 0, &none, f, len));
	bus_unlock(n->n.t.bus);
}

/* The last frame received that is this protocol over IPv4 for this port, or NULL. */
static const u8 *last(const struct testfront *f, u8 protocol, u16 port, size_t *len)
{
	for (unsigned i = MIN(f->nr, (unsigned)TESTFRONT_KEEP); i--;) {
		const u8 *p = f->frame[i];

		if (f->len[i] >= 42 && p[12] == 8 && p[13] == 0 && p[23] == protocol &&
		    p[36] == port >> 8 && p[37] == (u8)port) {
			*len = f->len[i];
			return p;
		}
	}
	return NULL;
}

/* libslirp learns our MAC address by ARP; it asks when it has something for us. */
static void answer_arp(struct net *n)
{
	static const u8 reply[42] = "\x52\x55\x0a\x00\x02\x02\x52\x54\x00\x12\x34\x56\x08\x06"
				    "\x00\x01\x08\x00\x06\x04\x00\x02\x52\x54\x00\x12\x34\x56"
				    "\x0a\x00\x02\x0f\x52\x55\x0a\x00\x02\x02\x0a\x00\x02\x02";
	u8 f[60] = {0};

	memcpy(f, reply, sizeof(reply));
	send_frame(n, f, sizeof(f));
}

static void dhcp(void **state)
{
	static struct net n;
	u8 f[600], bootp[300] = {1, 1, 6};
	const u8 *r;
	size_t len;

	net_init(&n, NULL);
	memcpy(bootp + 28, "\x52\x54\x00\x12\x34\x56", 6);
	memcpy(bootp + 236, "\x63\x82\x53\x63\x35\x01\x01\xff", 8); /* DISCOVER */
	len = ipv4_frame(f, 17, 0xffffffff, 68, 67, bootp, sizeof(bootp));
	memset(f, 0xff, 6);
	send_frame(&n, f, len);
	assert_true(NETTEST_WAIT(&n.n, last(&n.f, 17, 68, &len)));
	r = last(&n.f, 17, 68, &len);
	assert_true(ipv4_right(r, len));
	assert_memory_equal(r + 42 + 16, "\x0a\x00\x02\x0f", 4); /* 10.0.2.15 */
	net_fini(&n);
}

static void udp_out_and_in(void **state)
{
	static struct net n;
	struct net_forward fwd = {.udp = true, .guest_port = 99};
	struct sockaddr_in sin = {.sin_family = AF_INET};
	u16 port, other;
	int fd = bound_socket(SOCK_DGRAM, &port), to = bound_socket(SOCK_DGRAM, &other);
	socklen_t slen = sizeof(sin);
	u8 f[200];
	char buf[64];
	const u8 *r;
	size_t len;

	close(to); /* a port that is free, very likely */
	fwd.host.s_addr = htonl(INADDR_LOOPBACK);
	fwd.host_port = other;
	net_init(&n, &fwd);
	answer_arp(&n);
	/* 10.0.2.2 is the host's loopback. */
	len = ipv4_frame(f, 17, HOST, 1234, port, "ping", 4);
	send_frame(&n, f, len);
	assert_int_equal(recvfrom(fd, buf, sizeof(buf), 0, (struct sockaddr *)&sin, &slen), 4);
	assert_memory_equal(buf, "ping", 4);
	assert_int_equal(sendto(fd, "answer", 6, 0, (struct sockaddr *)&sin, slen), 6);
	assert_true(NETTEST_WAIT(&n.n, last(&n.f, 17, 1234, &len)));
	r = last(&n.f, 17, 1234, &len);
	assert_memory_equal(r + 42, "answer", 6);
	/* The forwarded port. */
	sin.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	sin.sin_port = htons(other);
	assert_int_equal(sendto(fd, "knock", 5, 0, (struct sockaddr *)&sin, sizeof(sin)), 5);
	assert_true(NETTEST_WAIT(&n.n, last(&n.f, 17, 99, &len)));
	r = last(&n.f, 17, 99, &len);
	assert_memory_equal(r + 42, "knock", 5);
	net_fini(&n);
	close(fd);
}

/* A TCP segment of the guest's, by n->seq and n->ack; `opts`: 4 bytes of options, or NULL. */
static void tcp(struct net *n, u16 port, u8 flags, const u8 *opts, const void *data, size_t len)
{
	static u8 f[NET_FRAME_MAX], body[NET_FRAME_MAX];
	size_t total, olen = opts ? 4 : 0;

	if (opts)
		memcpy(body, opts, 4);
	memcpy(body + olen, data, len);
	total = ipv4_frame(f, 6, HOST, 5000, port, body, olen + len);
	be16(f + 38, n->seq >> 16);
	be16(f + 40, n->seq & 0xffff);
	be16(f + 42, n->ack >> 16);
	be16(f + 44, n->ack & 0xffff);
	f[46] = (u8)((5 + olen / 4) << 4);
	f[47] = flags;
	be16(f + 48, 65535);
	be16(f + 50, 0);
	put_le16(f + 50,
	         net_csum_fold(net_csum_add(net_csum_pseudo(f + 26, 8, 6, (u32)(total - 34)),
	                                    f + 34, total - 34)));
	send_frame(n, f, total);
	n->seq += (u32)len;
}

/* Connect to a listening socket of the host with an MSS of 1460; the accepted descriptor. */
static int connect_out(struct net *n, u16 port, int fd)
{
	const u8 *r;
	size_t len;
	int c;

	n->seq = 1000;
	tcp(n, port, 0x02, (const u8 *)"\x02\x04\x05\xb4", "", 0);
	c = accept(fd, NULL, NULL);
	assert_true(c >= 0);
	assert_true(NETTEST_WAIT(&n->n, last(&n->f, 6, 5000, &len)));
	r = last(&n->f, 6, 5000, &len);
	assert_int_equal(r[47], 0x12);
	n->ack = ((u32)r[38] << 24 | (u32)r[39] << 16 | (u32)r[40] << 8 | r[41]) + 1;
	n->seq = 1001;
	tcp(n, port, 0x10, NULL, "", 0);
	return c;
}

static void large_segments(u32 offload)
{
	static struct net n;
	static u8 data[60000], got[60000];
	u16 port;
	int fd = bound_socket(SOCK_STREAM, &port), c;
	size_t have = 0;
	unsigned large = 0;

	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (u8)(i * 3 + (i >> 9));
	listen(fd, 1);
	net_init(&n, NULL);
	bus_lock(n.n.t.bus);
	n.b->ops->set_offload(n.b, offload);
	bus_unlock(n.n.t.bus);
	answer_arp(&n);
	c = connect_out(&n, port, fd);
	/* To the host: one segment of 40000 bytes. */
	tcp(&n, port, 0x18, NULL, data, 40000);
	while (have < 40000) {
		ssize_t r = recv(c, got + have, sizeof(got) - have, 0);

		assert_true(r > 0);
		have += (size_t)r;
	}
	assert_memory_equal(got, data, 40000);
	/* From the host: as large as the guest takes, in any case no larger than it said. */
	assert_int_equal(send(c, data, 8000, 0), 8000);
	have = 0;
	for (unsigned i = 0; have < 8000; i++) {
		struct net_packet p;
		const u8 *f;
		u32 hdr;

		assert_true(NETTEST_WAIT(&n.n, n.f.nr > i));
		f = n.f.frame[i];
		if (!net_packet_parse(&p, f, n.f.len[i]) || p.protocol != 6)
			continue;
		hdr = p.l4 + (f[p.l4 + 12] >> 4) * 4u;
		if (p.end == hdr)
			continue;
		if (n.f.hdr[i].gso_type) {
			assert_int_equal(n.f.hdr[i].gso_size, 1460);
			assert_true(net_vhdr_check(&n.f.hdr[i], f, n.f.len[i], offload));
			large++;
		} else {
			assert_true(n.f.len[i] <= 1514);
			assert_true(ipv4_right(f, n.f.len[i]));
		}
		assert_true(have + p.end - hdr <= 8000);
		assert_memory_equal(f + hdr, data + have, p.end - hdr);
		have += p.end - hdr;
		n.ack += p.end - hdr;
		tcp(&n, port, 0x10, NULL, "", 0);
	}
	assert_int_equal(large > 0, offload != 0);
	net_fini(&n);
	close(c);
	close(fd);
}

static void tcp_plain(void **state)
{
	large_segments(0);
}

static void tcp_large(void **state)
{
	large_segments(NET_OFF_CSUM | NET_OFF_TSO4);
}

/* The host sends without end, the guest takes nothing: bounded, and it goes on later. */
static void no_buffers(void **state)
{
	static struct net n;
	u16 port;
	int fd = bound_socket(SOCK_STREAM, &port), c;
	static u8 data[4096];
	size_t total = 0;
	unsigned seen;

	listen(fd, 1);
	net_init(&n, NULL);
	answer_arp(&n);
	c = connect_out(&n, port, fd);
	bus_lock(n.n.t.bus);
	n.f.room = 0;
	seen = n.f.nr;
	bus_unlock(n.n.t.bus);
	for (int idle = 0; idle < 50;) {
		ssize_t r = send(c, data, sizeof(data), MSG_DONTWAIT);

		if (r > 0) {
			total += (size_t)r;
			idle = 0;
		} else {
			usleep(1000);
			idle++;
		}
	}
	assert_true(total < 16 * MiB); /* the kernel's buffers, and ours */
	bus_lock(n.n.t.bus);
	assert_true(n.f.refused);
	n.f.room = ~0u;
	netback_pull(n.b, 0);
	bus_unlock(n.n.t.bus);
	assert_true(NETTEST_WAIT(&n.n, n.f.nr > seen));
	net_fini(&n);
	close(c);
	close(fd);
}

/* Anything at all as a frame. */
static void nonsense(void **state)
{
	static struct net n;
	static u8 f[NET_FRAME_MAX], data[60000];

	net_init(&n, NULL);
	srand(2);
	for (int i = 0; i < 5000; i++) {
		size_t len = 14 + (size_t)rand() % (i % 50 ? 300 : NET_FRAME_MAX - 14);

		len = ipv4_frame(f, i & 1 ? 6 : 17, HOST, 1, 7, data, MIN(len, 60000ul));
		for (int j = 0; j < 4; j++)
			f[12 + rand() % 50] = (u8)rand();
		if (i % 7 == 0)
			memcpy(f + 12, "\x86\xdd\x60", 3);
		send_frame(&n, f, 14 + (size_t)rand() % (len - 13));
	}
	net_fini(&n);
}

/* ---- what a hostile guest can make it keep ---- */

static u64 thread_ns(pthread_t t)
{
	struct timespec ts;
	clockid_t id;

	assert_int_equal(pthread_getcpuclockid(t, &id), 0);
	assert_int_equal(clock_gettime(id, &ts), 0);
	return (u64)ts.tv_sec * NSEC_PER_SEC + (u64)ts.tv_nsec;
}

static size_t heap(void)
{
	struct mallinfo2 m = mallinfo2();

	return m.uordblks + m.hblkhd;
}

/* A packet of UDP to that port, a piece of it. */
static void send_piece(struct net *n, u16 port, u16 id, unsigned off, unsigned len, bool more)
{
	static u8 whole[4096], f[4096];

	for (unsigned i = 0; i < 3000; i++)
		f[i] = (u8)(i * 3);
	ipv4_frame(whole, 17, HOST, 1234, port, f, 3000);
	memcpy(f, whole, 34);
	be16(f + 16, 20 + len);
	be16(f + 18, id);
	be16(f + 20, (more ? 0x2000 : 0) | off / 8);
	be16(f + 24, 0);
	put_le16(f + 24, net_csum_fold(net_csum_add(0, f + 14, 20)));
	memcpy(f + 34, whole + 34 + off, len);
	send_frame(n, f, 34 + len);
}

/* Pieces whose others never come, and between them some that make a whole. */
static void fragments(void **state)
{
	static struct net n;
	size_t before, most;
	u8 buf[4096];
	u16 port;
	int fd = bound_socket(SOCK_DGRAM, &port);

	net_init(&n, NULL);
	answer_arp(&n);
	before = heap();
	for (unsigned i = 0; i < 20000; i++)
		send_piece(&n, port, (u16)i, 0, 1480, true);
	most = heap() - before;
	send_piece(&n, port, 50000, 2960, 48, false);
	send_piece(&n, port, 50000, 0, 1480, true);
	send_piece(&n, port, 50000, 1480, 1480, true);
	assert_int_equal(recv(fd, buf, sizeof(buf), 0), 3000);
	for (unsigned i = 0; i < 3000; i++)
		assert_int_equal(buf[i], (u8)(i * 3));
	if (before) /* else another allocator, which does not tell */
		assert_true(most < 4 * MiB);
	net_fini(&n);
	close(fd);
}

/* Every second byte of a stream, on many connections; then what is missing. */
static void holes(void **state)
{
	static struct net n[1];
	size_t before, most;
	u8 buf[16];
	u16 port;
	int fd = bound_socket(SOCK_STREAM, &port), c;

	listen(fd, 1);
	net_init(n, NULL);
	answer_arp(n);
	c = connect_out(n, port, fd);
	before = heap();
	for (unsigned i = 0; i < 20000; i++) {
		n->seq = 1002 + 2 * i;
		tcp(n, port, 0x10, NULL, "x", 1);
	}
	most = heap() - before;
	n->seq = 1001;
	tcp(n, port, 0x18, NULL, "abcde", 5);
	/* The one behind it was there. */
	assert_int_equal(recv(c, buf, 6, MSG_WAITALL), 6);
	if (before)
		assert_true(most < 16 * MiB);
	net_fini(n);
	close(c);
	close(fd);
}

/* The lowest one that is free. */
static int free_descriptor(void)
{
	int fd = dup(0);

	close(fd);
	return fd;
}

/* More connections to a forwarded port than there are descriptors for: those that fit are taken,
 * the others wait in the kernel, and the loop does not spin. */
static void many_callers(void **state)
{
	static struct net n;
	struct net_forward fwd = {.guest_port = 99};
	struct sockaddr_in sin = {.sin_family = AF_INET};
	struct rlimit was, few;
	u16 port;
	int fd = bound_socket(SOCK_STREAM, &port), hold[2], free_fd;
	u64 taken, begin;
	pid_t pid;
	u8 done;

	close(fd);
	fwd.host.s_addr = sin.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	fwd.host_port = port;
	sin.sin_port = htons(port);
	getrlimit(RLIMIT_NOFILE, &was);
	few = was;
	few.rlim_cur = 64;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
	net_init(&n, &fwd);
	assert_int_equal(pipe(hold), 0);
	pid = fork(); /* a process with descriptors of its own */
	assert_true(pid >= 0);
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		setrlimit(RLIMIT_NOFILE, &was);
		for (unsigned i = 0; i < 100; i++) {
			fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
			connect(fd, (struct sockaddr *)&sin, sizeof(sin));
			usleep(3000); /* it listens with a backlog of one */
		}
		for (;;)
			if (write(hold[1], "", 1) == 1)
				pause();
	}
	assert_int_equal(read(hold[0], &done, 1), 1);
	/* Those that found no place are tried again by the kernel, after a second. */
	for (unsigned i = 0; i < 200 && free_descriptor() < 48; i++)
		usleep(50000);
	begin = thread_ns(n.n.thread);
	usleep(300000);
	taken = thread_ns(n.n.thread) - begin;
	free_fd = free_descriptor();
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	close(hold[0]);
	close(hold[1]);
	net_fini(&n);
	setrlimit(RLIMIT_NOFILE, &was);
	assert_true(taken < 150 * 1000000ull);
	assert_in_range(free_fd, 48, 63); /* there are some left for others */
}

/* A packet each to many ports, and none of the senders is there to be answered. */
static void many_sockets(void **state)
{
	static struct net n;
	size_t before, most;
	u8 f[200];
	u16 port;
	int fd = bound_socket(SOCK_DGRAM, &port);

	net_init(&n, NULL);
	before = heap();
	for (unsigned i = 0; i < 5000; i++) {
		size_t len = ipv4_frame(f, 17, HOST, (u16)(1000 + i), port, "x", 1);

		send_frame(&n, f, len);
	}
	/* Answers to nobody: a segment of a connection that does not exist. */
	for (unsigned i = 0; i < 5000; i++) {
		size_t len = ipv4_frame(f, 6, HOST, 7, 7, "x", 1);

		f[47] = 0x10;
		f[28] = (u8)(i >> 8);
		f[29] = (u8)i;
		put_le16(f + 24, 0);
		put_le16(f + 24, net_csum_fold(net_csum_add(0, f + 14, 20)));
		put_le16(f + 50, 0);
		put_le16(f + 50, net_csum_fold(net_csum_add(net_csum_pseudo(f + 26, 8, 6, 21),
		                                            f + 34, len - 34)));
		send_frame(&n, f, len);
	}
	most = heap() - before;
	if (before)
		assert_true(most < 128 * MiB);
	net_fini(&n);
	close(fd);
}

/* The guest takes its own address out of libslirp's table, by others, and has a connection
 * answered. */
static void forgotten_address(void **state)
{
	static struct net n[1];
	u8 arp[60] = "\xff\xff\xff\xff\xff\xff\x52\x54\x00\x12\x34\x56\x08\x06"
		     "\x00\x01\x08\x00\x06\x04\x00\x01\x52\x54\x00\x12\x34\x56";
	size_t before, most;
	unsigned seen;
	u16 port;
	int fd = bound_socket(SOCK_STREAM, &port), c;

	listen(fd, 1);
	net_init(n, NULL);
	answer_arp(n);
	c = connect_out(n, port, fd);
	before = heap();
	for (unsigned i = 0; i < 30; i++) {
		for (u8 j = 0; j < 16; j++) {
			memcpy(arp + 28, (u8[]){10, 0, 2, (u8)(100 + j)}, 4);
			memcpy(arp + 38, arp + 28, 4);
			send_frame(n, arp, sizeof(arp));
		}
		for (unsigned j = 0; j < 100; j++) {
			n->seq = 1000; /* it has that: an ACK tells so */
			tcp(n, port, 0x10, NULL, "", 0);
		}
	}
	most = heap() - before;
	seen = n->f.nr;
	n->seq = 1001;
	tcp(n, port, 0x18, NULL, "abcde", 5);
	if (before)
		assert_true(most < 16 * MiB);
	assert_true(n->f.nr > seen); /* without waiting for anybody */
	assert_true(seen > 2900);
	net_fini(n);
	close(c);
	close(fd);
}

/* More addresses than libslirp can remember, none of which says where it is: each gets its answer.
 */
static void many_addresses6(void **state)
{
	static struct net n;
	u8 f[62] = {[6] = 0x52,  0x54,     [12] = 0x86, [13] = 0xdd,
	            [14] = 0x60, [19] = 8, [20] = 58,   [21] = 64};

	net_init(&n, NULL);
	inet_pton(AF_INET6, "fec0::2", f + 38);
	for (unsigned i = 0; i < 100; i++) {
		const u8 *r;

		inet_pton(AF_INET6, "fec0::1:0", f + 22);
		f[37] = (u8)(i % 50);
		f[11] = (u8)i;
		memcpy(f + 54, "\x80\x00\x00\x00\x00\x01", 6);
		be16(f + 60, i);
		put_le16(f + 56, net_csum_fold(net_csum_add(net_csum_pseudo(f + 22, 32, 58, 8),
		                                            f + 54, 8)));
		bus_lock(n.n.t.bus);
		testfront_clear(&n.f);
		assert_true(netback_send(n.b, 0, &none, f, sizeof(f)));
		assert_true(n.f.nr > 0);
		r = n.f.frame[n.f.nr - 1];
		assert_int_equal(n.f.len[n.f.nr - 1], 62);
		assert_memory_equal(r, f + 6, 6);
		assert_memory_equal(r + 38, f + 22, 16);
		assert_int_equal(r[54], 129);
		assert_memory_equal(r + 60, f + 60, 2);
		bus_unlock(n.n.t.bus);
	}
	net_fini(&n);
}

/* Many datagrams of one sender before the loop comes to anything: they are no sockets. */
static void burst(void **state)
{
	static struct net n;
	unsigned got = 0;
	u8 f[200], buf[16];
	u16 port;
	int fd = bound_socket(SOCK_DGRAM, &port);

	net_init(&n, NULL);
	answer_arp(&n);
	bus_lock(n.n.t.bus);
	for (unsigned i = 0; i < 5000; i++) {
		size_t len = ipv4_frame(f, 17, HOST, 1234, port, "x", 1);

		assert_true(netback_send(n.b, 0, &none, f, len));
		got += recv(fd, buf, sizeof(buf), MSG_DONTWAIT) == 1;
	}
	bus_unlock(n.n.t.bus);
	assert_int_equal(got, 5000);
	net_fini(&n);
	close(fd);
}

/* A guest that sends all the time does not keep libslirp from its timers: what waited for an
 * address comes when that is known. */
static void busy_guest(void **state)
{
	static struct net n;
	struct net_forward fwd = {.guest_port = 99};
	struct sockaddr_in sin = {.sin_family = AF_INET};
	u8 f[60] = {[12] = 0x88, [13] = 0xb5};
	u16 port;
	int fd = bound_socket(SOCK_STREAM, &port);
	size_t len;
	bool came = false;

	close(fd);
	fwd.host.s_addr = sin.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	fwd.host_port = port;
	sin.sin_port = htons(port);
	net_init(&n, &fwd);
	fd = socket(AF_INET, SOCK_STREAM, 0);
	assert_int_equal(connect(fd, (struct sockaddr *)&sin, sizeof(sin)), 0);
	assert_true(NETTEST_WAIT(&n.n, n.f.nr > 0)); /* who has ... */
	answer_arp(&n);
	for (unsigned i = 0; i < 1000 && !came; i++) { /* at once, or when it is sent again */
		send_frame(&n, f, sizeof(f));
		usleep(10000);
		bus_lock(n.n.t.bus);
		came = last(&n.f, 6, 99, &len);
		bus_unlock(n.n.t.bus);
	}
	assert_true(came);
	net_fini(&n);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(dhcp),
		cmocka_unit_test(udp_out_and_in),
		cmocka_unit_test(tcp_plain),
		cmocka_unit_test(tcp_large),
		cmocka_unit_test(no_buffers),
		cmocka_unit_test(nonsense),
		cmocka_unit_test(fragments),
		cmocka_unit_test(holes),
		cmocka_unit_test(many_sockets),
		cmocka_unit_test(many_callers),
		cmocka_unit_test(forgotten_address),
		cmocka_unit_test(busy_guest),
		cmocka_unit_test(burst),
		cmocka_unit_test(many_addresses6),
	};

	log_set_level(LOG_ERROR);
	return cmocka_run_group_tests_name("net_user", tests, NULL, NULL);
}
