// SPDX-License-Identifier: MIT
/* The switch among VMs: who hears what, members that come, end, or stop listening, and members
 * that speak something else. Several members live in this one process. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include <cmocka.h>

#include "nettest.h"

#define ALL     (NET_OFF_CSUM | NET_OFF_TSO4 | NET_OFF_TSO6 | NET_OFF_ECN)
#define MEMBERS 4

struct lan {
	struct nettest n;
	char dir[64];
	struct netback *b[MEMBERS];
	struct testfront f[MEMBERS];
};

static const u8 macs[MEMBERS][6] = {
	{2, 0, 0, 0, 0, 1}, {2, 0, 0, 0, 0, 2}, {2, 0, 0, 0, 0, 3}, {2, 0, 0, 0, 0, 4}};
static const u8 broadcast[6] = {255, 255, 255, 255, 255, 255};
static const struct net_vhdr none;

static void join(struct lan *l, unsigned i)
{
	struct net_config cfg = {.kind = NET_SWITCH, .option = "--net switch=lan", .name = "lan"};
	char name[8];
	int err;

	snprintf(name, sizeof(name), "vm%u", i);
	bus_lock(l->n.t.bus);
	err = net_switch_create(&l->b[i], l->n.t.loop, &cfg, name, macs[i], l->dir);
	assert_int_equal(err, 0);
	testfront_connect(&l->f[i], l->b[i]);
	l->b[i]->ops->set_offload(l->b[i], ALL);
	bus_unlock(l->n.t.bus);
}

static void leave(struct lan *l, unsigned i)
{
	bus_lock(l->n.t.bus);
	if (l->b[i])
		netback_destroy(l->b[i]);
	l->b[i] = NULL;
	testfront_clear(&l->f[i]);
	bus_unlock(l->n.t.bus);
}

static bool send_frame(struct lan *l, unsigned from, const u8 *dst, u8 mark, size_t len);

static bool heard(const struct testfront *f, u8 mark)
{
	for (unsigned i = 0; i < f->nr; i++)
		if (f->frame[i][20] == mark)
			return true;
	return false;
}

/* All have accepted all and know their addresses, and nothing is on its way. */
static void settle(struct lan *l, unsigned members)
{
	for (unsigned phase = 0; phase < 2; phase++)
		for (unsigned i = 0; i < members; i++) {
			u8 mark = (u8)(0xe0 | phase << 2 | i);

			send_frame(l, i, broadcast, mark, 60);
			/* Who joined before has accepted once it hears this. */
			for (unsigned j = 0; j < (phase ? members : i); j++)
				if (j != i)
					assert_true(NETTEST_WAIT(&l->n, heard(&l->f[j], mark)));
		}
	for (unsigned i = 0; i < members; i++)
		testfront_clear(&l->f[i]);
}

static void lan_init(struct lan *l, unsigned members)
{
	memset(l, 0, sizeof(*l));
	snprintf(l->dir, sizeof(l->dir), "/tmp/ringer-test-XXXXXX");
	assert_non_null(mkdtemp(l->dir));
	nettest_init(&l->n);
	for (unsigned i = 0; i < members; i++)
		join(l, i);
	settle(l, members);
}

static void lan_fini(struct lan *l)
{
	char cmd[128];

	for (unsigned i = 0; i < MEMBERS; i++)
		leave(l, i);
	nettest_fini(&l->n);
	snprintf(cmd, sizeof(cmd), "rm -rf %s", l->dir);
	assert_int_equal(system(cmd), 0);
}

static bool send_frame(struct lan *l, unsigned from, const u8 *dst, u8 mark, size_t len)
{
	static u8 f[NET_FRAME_MAX];
	bool ok;

	memset(f, mark, len);
	memcpy(f, dst, 6);
	memcpy(f + 6, macs[from], 6);
	bus_lock(l->n.t.bus);
	ok = netback_send(l->b[from], 0, &none, f, len);
	bus_unlock(l->n.t.bus);
	return ok;
}

static unsigned count(struct lan *l, unsigned i)
{
	unsigned nr;

	bus_lock(l->n.t.bus);
	nr = l->f[i].nr;
	bus_unlock(l->n.t.bus);
	return nr;
}

/* ---- cases ---- */

static void who_hears_what(void **state)
{
	static struct lan l;

	lan_init(&l, 3);
	assert_true(send_frame(&l, 0, broadcast, 7, 100));
	assert_true(NETTEST_WAIT(&l.n, l.f[1].nr == 1 && l.f[2].nr == 1));
	assert_int_equal(l.f[1].len[0], 100);
	assert_int_equal(l.f[1].frame[0][50], 7);
	/* Addresses are known from the greeting on: only the one hears it. */
	assert_true(send_frame(&l, 1, macs[0], 8, 60));
	assert_true(NETTEST_WAIT(&l.n, l.f[0].nr == 1));
	usleep(20000);
	assert_int_equal(count(&l, 2), 1);
	/* An address that nobody has goes to all. */
	assert_true(send_frame(&l, 1, (const u8 *)"\x02\x01\x01\x01\x01\x01", 9, 60));
	assert_true(NETTEST_WAIT(&l.n, l.f[0].nr == 2 && l.f[2].nr == 2));
	lan_fini(&l);
}

/* There is no server: the first may go, a new one comes, those that stay go on. */
static void the_first_ends(void **state)
{
	static struct lan l;

	lan_init(&l, 3);
	assert_true(send_frame(&l, 0, broadcast, 1, 60));
	assert_true(NETTEST_WAIT(&l.n, l.f[1].nr == 1 && l.f[2].nr == 1));
	leave(&l, 0);
	assert_true(send_frame(&l, 1, macs[2], 2, 60));
	assert_true(NETTEST_WAIT(&l.n, l.f[2].nr == 2));
	assert_true(NETTEST_WAIT(&l.n, l.f[1].nr == 1));
	join(&l, 3); /* finds the name of the dead and the two that live */
	assert_true(send_frame(&l, 3, broadcast, 3, 60));
	assert_true(NETTEST_WAIT(&l.n, l.f[1].nr == 2 && l.f[2].nr == 3));
	assert_true(send_frame(&l, 1, macs[3], 4, 60));
	assert_true(NETTEST_WAIT(&l.n, l.f[3].nr == 1));
	join(&l, 0);
	assert_true(send_frame(&l, 0, macs[3], 5, 60));
	assert_true(NETTEST_WAIT(&l.n, l.f[3].nr == 2));
	lan_fini(&l);
}

/* A guest without buffers holds nobody up but who sends to it, and that for a moment only. */
static void a_slow_member(void **state)
{
	static struct lan l;
	unsigned refused = 0, sent = 0;
	bool more = true;

	lan_init(&l, 3);
	l.f[1].room = 0;
	/* Large frames until it is full: the sender is told to wait. */
	for (int i = 0; i < 400 && more; i++) {
		more = send_frame(&l, 0, macs[1], 1, 9000);
		sent += more;
	}
	assert_false(more);
	assert_true(sent >= 60); /* half of the queue, and the socket's */
	/* The patience is limited, and then the way to others is free. */
	assert_true(NETTEST_WAIT(&l.n, l.f[0].writable));
	for (int i = 0; i < 200; i++) {
		refused += !send_frame(&l, 0, macs[1], 2, 9000); /* lost */
		refused += !send_frame(&l, 0, macs[2], 3, 500);
	}
	assert_int_equal(refused, 0);
	assert_true(NETTEST_WAIT(&l.n, l.f[2].nr == 200));
	/* Room again: what waited arrives in order, nothing of it lost. */
	bus_lock(l.n.t.bus);
	l.f[1].room = ~0u;
	netback_pull(l.b[1], 0);
	bus_unlock(l.n.t.bus);
	assert_true(NETTEST_WAIT(&l.n, l.f[1].nr >= sent));
	for (unsigned i = 0; i < sent; i++)
		assert_int_equal(l.f[1].frame[i][5000], 1);
	/* Of those that came while nobody waited for it some fitted, not all. */
	assert_true(NETTEST_WAIT(&l.n, l.f[1].nr > sent));
	/* And it is a member as before. */
	assert_true(send_frame(&l, 0, macs[1], 4, 60));
	assert_true(NETTEST_WAIT(&l.n, heard(&l.f[1], 4)));
	assert_true(l.f[1].nr < sent + 1 + 200);
	lan_fini(&l);
}

/* Sender and receiver keep step: nothing is lost, however much it is. */
static void without_loss(void **state)
{
	static struct lan l;
	unsigned i = 0;

	lan_init(&l, 2);
	while (i < 500) {
		if (send_frame(&l, 0, macs[1], (u8)i, 30000)) {
			i++;
			continue;
		}
		assert_true(NETTEST_WAIT(&l.n, l.f[0].writable));
		l.f[0].writable = false;
	}
	assert_true(NETTEST_WAIT(&l.n, l.f[1].nr == 500));
	for (i = 0; i < 500; i++)
		assert_int_equal(l.f[1].frame[i][100], (u8)i);
	lan_fini(&l);
}

/* What one guest leaves undone is done for one that does not take it. */
static void offloads(void **state)
{
	static struct lan l;
	static u8 f[NET_FRAME_MAX], data[20000];
	struct net_vhdr h = {
		VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_TCPV4, 54, 1000, 34, 16};
	size_t len;

	lan_init(&l, 3);
	bus_lock(l.n.t.bus);
	l.b[2]->ops->set_offload(l.b[2], 0);
	len = ipv4_frame(f, 6, 0x0a000202, 1, 2, data, sizeof(data));
	memcpy(f, broadcast, 6);
	assert_true(netback_send(l.b[0], 0, &h, f, len));
	bus_unlock(l.n.t.bus);
	assert_true(NETTEST_WAIT(&l.n, l.f[1].nr == 1 && l.f[2].nr == 20));
	assert_int_equal(l.f[1].len[0], len);
	assert_memory_equal(&l.f[1].hdr[0], &h, sizeof(h));
	for (unsigned i = 0; i < 20; i++) {
		assert_int_equal(l.f[2].len[i], 1054);
		assert_true(ipv4_right(l.f[2].frame[i], 1054));
		assert_memory_equal(&l.f[2].hdr[i], &none, sizeof(none));
	}
	lan_fini(&l);
}

/* The path of a member's socket. */
static bool member_path(const struct lan *l, char *path, size_t size)
{
	char dir[100];
	struct dirent *e;
	bool found = false;
	DIR *d;

	snprintf(dir, sizeof(dir), "%s/ringer/lan", l->dir);
	d = opendir(dir);
	while (d && (e = readdir(d)))
		if (e->d_name[0] != '.')
			found = snprintf(path, size, "%s/%s", dir, e->d_name) > 0;
	if (d)
		closedir(d);
	return found;
}

static int stranger(const struct lan *l)
{
	struct sockaddr_un sun = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_SEQPACKET, 0);

	assert_true(member_path(l, sun.sun_path, sizeof(sun.sun_path)));
	assert_int_equal(connect(fd, (struct sockaddr *)&sun, sizeof(sun)), 0);
	return fd;
}

/* A process of the same user that sends nonsense. */
static void hostile_members(void **state)
{
	static struct lan l;
	static u8 buf[NET_FRAME_MAX + 100];
	struct {
		char magic[8];
		u8 rest[72];
	} hello = {.magic = "RingerS1"};
	int fd;

	lan_init(&l, 1);
	/* No greeting: thrown out. */
	fd = stranger(&l);
	assert_true(send(fd, "nonsense", 8, 0) == 8);
	assert_true(recv(fd, buf, sizeof(buf), 0) == 80); /* its greeting */
	assert_true(recv(fd, buf, sizeof(buf), 0) <= 0);
	close(fd);
	/* A greeting, then bad frames, then a good one. */
	fd = stranger(&l);
	memset(hello.rest, 0xff, sizeof(hello.rest));
	assert_true(send(fd, &hello, sizeof(hello), 0) == 80);
	memset(buf, 0xff, sizeof(buf));
	assert_true(send(fd, buf, 5, 0) == 5);
	assert_true(send(fd, buf, 10, 0) == 10);
	assert_true(send(fd, buf, 23, 0) == 23);
	assert_true(send(fd, buf, 2000, 0) == 2000); /* a header of all ones */
	memset(buf, 0, 10);
	assert_true(send(fd, buf, sizeof(buf), 0) == (ssize_t)sizeof(buf)); /* too long */
	buf[0] = VIRTIO_NET_HDR_F_NEEDS_CSUM;
	put_le16(buf + 6, 90);
	put_le16(buf + 8, 9);
	assert_true(send(fd, buf, 110, 0) == 110); /* a checksum one byte outside */
	memset(buf, 0, 10);
	memset(buf + 10, 0x44, 60);
	assert_true(send(fd, buf, 70, 0) == 70);
	assert_true(NETTEST_WAIT(&l.n, l.f[0].nr == 1));
	assert_int_equal(l.f[0].len[0], 60);
	/* More connections than there is room for, all silent. */
	for (int i = 0; i < 80; i++)
		stranger(&l);
	join(&l, 1);
	usleep(50000);
	lan_fini(&l);
	for (int i = 3; i < 300; i++)
		close(i);
}

/* A thousand times more addresses than the table holds: it stays as large as it is. */
static void many_addresses(void **state)
{
	static struct lan l;
	u8 f[60] = {0};

	lan_init(&l, 2);
	bus_lock(l.n.t.bus);
	l.f[1].room = ~0u;
	bus_unlock(l.n.t.bus);
	for (unsigned i = 0; i < 20000; i++) {
		memcpy(f, macs[1], 6);
		f[6] = 2;
		memcpy(f + 7, &i, 4);
		bus_lock(l.n.t.bus);
		netback_send(l.b[0], 0, &none, f, sizeof(f));
		bus_unlock(l.n.t.bus);
	}
	usleep(20000);
	assert_true(send_frame(&l, 1, macs[0], 1, 60));
	assert_true(NETTEST_WAIT(&l.n, l.f[0].nr >= 1));
	lan_fini(&l);
}

static void folders(void **state)
{
	struct net_config cfg = {.kind = NET_SWITCH, .option = "--net switch=lan", .name = "lan"};
	static struct lan l;
	struct netback *b;
	char path[128];

	lan_init(&l, 0);
	snprintf(path, sizeof(path), "%s/ringer", l.dir);
	/* Others may write there: refused. */
	assert_int_equal(mkdir(path, 0700), 0);
	assert_int_equal(chmod(path, 0777), 0);
	assert_true(net_switch_create(&b, l.n.t.loop, &cfg, "vm", macs[0], l.dir) < 0);
	assert_int_equal(rmdir(path), 0);
	assert_int_equal(symlink("/tmp", path), 0);
	assert_true(net_switch_create(&b, l.n.t.loop, &cfg, "vm", macs[0], l.dir) < 0);
	assert_int_equal(unlink(path), 0);
	memset(path, 'x', sizeof(path) - 1);
	path[0] = '/';
	path[sizeof(path) - 1] = 0;
	assert_true(net_switch_create(&b, l.n.t.loop, &cfg, "vm", macs[0], path) < 0);
	lan_fini(&l);
}

static void stable_addresses(void **state)
{
	u8 a[6], b[6];

	net_mac_from_name(a, "web", 0);
	net_mac_from_name(b, "web", 0);
	assert_memory_equal(a, b, 6);
	assert_int_equal(a[0] & 3, 2); /* local, no group */
	for (unsigned i = 1; i < 8; i++) {
		net_mac_from_name(b, "web", i);
		assert_memory_not_equal(a, b, 6);
	}
	net_mac_from_name(b, "web2", 0);
	assert_memory_not_equal(a, b, 6);
	/* Not from one version to the next either. */
	net_mac_from_name(b, "a", 0);
	assert_memory_equal(b, "\x02\x6d\xff\x77\x24\x1f", 6);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(who_hears_what),   cmocka_unit_test(the_first_ends),
		cmocka_unit_test(a_slow_member),    cmocka_unit_test(without_loss),
		cmocka_unit_test(offloads),         cmocka_unit_test(hostile_members),
		cmocka_unit_test(many_addresses),   cmocka_unit_test(folders),
		cmocka_unit_test(stable_addresses),
	};

	log_set_level(LOG_ERROR);
	return cmocka_run_group_tests_name("net_switch", tests, NULL, NULL);
}
