// SPDX-License-Identifier: MIT
/* The tap back end against the host's kernel, which answers ARP: needs the right to make an
 * interface, and skips without it. Errors are looked at in any case. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <fcntl.h>
#include <net/if.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <cmocka.h>

#include "nettest.h"

static const struct net_vhdr none;

static void set_ioctl(unsigned long request, const struct ifreq *ifr)
{
	int s = socket(AF_INET, SOCK_DGRAM, 0);

	assert_int_equal(ioctl(s, request, ifr), 0);
	close(s);
}

/* 10.213.77.1/24, up. */
static void bring_up(const char *name)
{
	struct ifreq ifr = {0};
	struct sockaddr_in *sin = (struct sockaddr_in *)&ifr.ifr_addr;

	snprintf(ifr.ifr_name, sizeof(ifr.ifr_name), "%s", name);
	sin->sin_family = AF_INET;
	sin->sin_addr.s_addr = htonl(0x0ad54d01);
	set_ioctl(SIOCSIFADDR, &ifr);
	sin->sin_addr.s_addr = htonl(0xffffff00);
	set_ioctl(SIOCSIFNETMASK, &ifr);
	ifr.ifr_flags = IFF_UP;
	set_ioctl(SIOCSIFFLAGS, &ifr);
}

static bool has_arp_reply(const struct testfront *f)
{
	for (unsigned i = 0; i < MIN(f->nr, (unsigned)TESTFRONT_KEEP); i++)
		if (f->len[i] >= 42 && f->frame[i][12] == 8 && f->frame[i][13] == 6 &&
		    f->frame[i][21] == 2)
			return true;
	return false;
}

static void both_ways(unsigned queues)
{
	/* Who has 10.213.77.1? Tell 10.213.77.2. */
	u8 arp[42] = "\xff\xff\xff\xff\xff\xff\x02\0\0\0\0\x01\x08\x06\0\x01\x08\0\x06\x04\0\x01"
		     "\x02\0\0\0\0\x01\x0a\xd5\x4d\x02\0\0\0\0\0\0\x0a\xd5\x4d\x01";
	struct net_config cfg = {.kind = NET_TAP, .option = "--net tap=", .queues = queues};
	static struct nettest n;
	struct testfront f;
	struct netback *b;
	int err;

	snprintf(cfg.tap, sizeof(cfg.tap), "rt%u", (unsigned)getpid() % 1000000);
	nettest_init(&n);
	bus_lock(n.t.bus);
	err = net_tap_create(&b, n.t.loop, &cfg);
	if (err) {
		bus_unlock(n.t.bus);
		nettest_fini(&n);
		skip(); /* no rights, or no driver: said on stderr */
	}
	testfront_connect(&f, b);
	assert_int_equal(b->mtu, 1500);
	b->ops->set_offload(b, NET_OFF_CSUM | NET_OFF_TSO4);
	b->ops->set_queues(b, queues);
	bring_up(cfg.tap);
	f.room = 0;
	assert_true(netback_send(b, queues - 1, &none, arp, sizeof(arp)));
	bus_unlock(n.t.bus);
	/* No buffer: it waits. */
	assert_true(NETTEST_WAIT(&n, f.refused));
	bus_lock(n.t.bus);
	f.room = ~0u;
	for (unsigned i = 0; i < queues; i++)
		netback_pull(b, i);
	bus_unlock(n.t.bus);
	assert_true(NETTEST_WAIT(&n, has_arp_reply(&f)));
	bus_lock(n.t.bus);
	b->ops->set_queues(b, 1);
	assert_true(netback_send(b, 0, &none, arp, sizeof(arp)));
	netback_destroy(b);
	testfront_clear(&f);
	bus_unlock(n.t.bus);
	nettest_fini(&n);
}

static void one_queue(void **state)
{
	both_ways(1);
}

static void two_queues(void **state)
{
	both_ways(2);
}

static void bad_descriptors(void **state)
{
	struct net_config cfg = {.kind = NET_TAP, .option = "--net fd=3", .nr_fds = 1};
	static struct nettest n;
	struct netback *b;

	nettest_init(&n);
	cfg.fd[0] = open("/dev/null", O_RDWR);
	assert_true(net_tap_create(&b, n.t.loop, &cfg) < 0);
	close(cfg.fd[0]);
	assert_true(net_tap_create(&b, n.t.loop, &cfg) < 0);
	nettest_fini(&n);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(one_queue),
		cmocka_unit_test(two_queues),
		cmocka_unit_test(bad_descriptors),
	};

	log_set_level(LOG_ERROR);
	return cmocka_run_group_tests_name("net_tap", tests, NULL, NULL);
}
