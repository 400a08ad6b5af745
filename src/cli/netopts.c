// SPDX-License-Identifier: MIT
#include "cli/netopts.h"

#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"

#define WORD_LEN 256

struct net_key {
	const char *name;
	unsigned kinds; /* BIT(enum net_kind) */
	const char *accepted, *example;
	int (*set)(struct net_config *c, char *value);
};

static int parse_u16(const char *s, unsigned min, unsigned max, u16 *out)
{
	char *end;
	unsigned long v;

	if (*s < '0' || *s > '9')
		return -1;
	errno = 0;
	v = strtoul(s, &end, 10);
	if (errno || *end || v < min || v > max)
		return -1;
	*out = (u16)v;
	return 0;
}

static int set_mac(struct net_config *c, char *value)
{
	unsigned b[6];
	char more;

	if (strlen(value) != 17 || sscanf(value, "%2x:%2x:%2x:%2x:%2x:%2x%c", &b[0], &b[1], &b[2],
	                                  &b[3], &b[4], &b[5], &more) != 6)
		return -1;
	for (unsigned i = 0; i < 6; i++)
		c->mac[i] = (u8)b[i];
	/* A group is no sender, and zero means "from the name". */
	return c->mac[0] & 1 || !memcmp(c->mac, "\0\0\0\0\0", 6) ? -1 : 0;
}

static int set_mtu(struct net_config *c, char *value)
{
	/* 68: RFC 791's least; virtio 1.2, 5.1.4.1 */
	return parse_u16(value, 68, 65520, &c->mtu);
}

/* ADDRESS/BITS; a /24 to /8 has room for the addresses that are given out. */
static int set_network(struct net_config *c, char *value)
{
	char *slash = strchr(value, '/');
	u16 bits = 24;

	if (slash) {
		*slash = '\0';
		if (parse_u16(slash + 1, 8, 27, &bits) < 0)
			return -1;
	}
	if (inet_pton(AF_INET, value, &c->network) != 1)
		return -1;
	c->netmask.s_addr = htonl(~0u << (32 - bits));
	return c->network.s_addr & ~c->netmask.s_addr || !c->network.s_addr ? -1 : 0;
}

static int set_dns(struct net_config *c, char *value)
{
	return inet_pton(AF_INET, value, &c->dns) == 1 && c->dns.s_addr ? 0 : -1;
}

static int set_hostname(struct net_config *c, char *value)
{
	size_t n = strspn(value, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-");

	if (!n || value[n] || n >= sizeof(c->hostname) - 30 || *value == '-')
		return -1;
	memcpy(c->hostname, value, n + 1);
	return 0;
}

static int parse_bool(const char *value, bool *out)
{
	*out = !strcmp(value, "on");
	return *out || !strcmp(value, "off") ? 0 : -1;
}

static int set_restrict(struct net_config *c, char *value)
{
	return parse_bool(value, &c->restricted);
}

static int set_ipv6(struct net_config *c, char *value)
{
	bool on;

	if (parse_bool(value, &on) < 0)
		return -1;
	c->no_ipv6 = !on;
	return 0;
}

/* "[ADDRESS:]PORT"; an address that is missing or empty stays as it is. */
static int parse_endpoint(char *s, struct in_addr *addr, u16 *port)
{
	char *colon = strrchr(s, ':');

	if (colon) {
		*colon = '\0';
		if (*s && inet_pton(AF_INET, s, addr) != 1)
			return -1;
		s = colon + 1;
	}
	return parse_u16(s, 1, 65535, port);
}

/* tcp|udp:[ADDRESS:]PORT:GUESTPORT or ...-[GUESTADDRESS]:GUESTPORT, as others write it. */
static int set_hostfwd(struct net_config *c, char *value)
{
	struct net_forward *f;
	char *dash, *colon;

	if (c->nr_forwards == NET_MAX_FORWARDS)
		return -1;
	f = &c->forward[c->nr_forwards];
	*f = (struct net_forward){.host.s_addr = htonl(INADDR_LOOPBACK)};
	f->udp = !strncmp(value, "udp:", 4);
	if (!f->udp && strncmp(value, "tcp:", 4))
		return -1;
	value += 4;
	dash = strchr(value, '-');
	if (dash) {
		*dash = '\0';
		if (parse_endpoint(dash + 1, &f->guest, &f->guest_port) < 0)
			return -1;
	} else {
		colon = strrchr(value, ':');
		if (!colon || parse_u16(colon + 1, 1, 65535, &f->guest_port) < 0)
			return -1;
		*colon = '\0';
	}
	if (parse_endpoint(value, &f->host, &f->host_port) < 0)
		return -1;
	c->nr_forwards++;
	return 0;
}

static int set_queues(struct net_config *c, char *value)
{
	u16 n;

	_Static_assert(NET_QUEUES_MAX == 8, "the text in the table");
	if (parse_u16(value, 1, NET_QUEUES_MAX, &n) < 0)
		return -1;
	c->queues = n;
	return 0;
}

static int set_tap(struct net_config *c, char *value)
{
	size_t n = strlen(value);

	c->kind = NET_TAP;
	if (!n || n >= IFNAMSIZ || strpbrk(value, "/ %") || !strcmp(value, ".") ||
	    !strcmp(value, ".."))
		return -1;
	memcpy(c->tap, value, n + 1);
	return 0;
}

static int set_fd(struct net_config *c, char *value)
{
	c->kind = NET_TAP;
	for (char *next = value; next; value = next) {
		u16 fd;

		next = strchr(value, ':');
		if (next)
			*next++ = '\0';
		if (c->nr_fds == NET_QUEUES_MAX || parse_u16(value, 3, 65535, &fd) < 0)
			return -1;
		c->fd[c->nr_fds++] = fd;
	}
	return 0;
}

static int set_switch(struct net_config *c, char *value)
{
	size_t n =
		strspn(value, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-");

	c->kind = NET_SWITCH;
	if (!n || value[n] || n >= NET_NAME_LEN)
		return -1;
	memcpy(c->name, value, n + 1);
	return 0;
}

#define ANY (BIT(NET_USER) | BIT(NET_TAP) | BIT(NET_SWITCH))

/* The first three choose the kind. */
static const struct net_key keys[] = {
	{"tap", 0, "the name of a tap interface, 1 to 15 characters", "tap=tap0", set_tap},
	{"fd", 0, "an open descriptor of a tap device, 3 or more; several with ':' between them",
         "fd=3", set_fd},
	{"switch", 0, "1 to 31 letters, digits, '_' and '-'", "switch=lan", set_switch},
	{"mac", ANY, "six bytes of a station's address", "mac=52:54:00:12:34:56", set_mac},
	{"mtu", ANY, "a number from 68 to 65520", "mtu=1500", set_mtu},
	{"net", BIT(NET_USER), "a network of 8 to 27 bits", "net=10.0.2.0/24", set_network},
	{"dns", BIT(NET_USER), "the address inside the network at which names are looked up",
         "dns=10.0.2.3", set_dns},
	{"hostname", BIT(NET_USER), "up to 33 letters, digits and '-'", "hostname=guest",
         set_hostname},
	{"restrict", BIT(NET_USER), "on or off", "restrict=on", set_restrict},
	{"ipv6", BIT(NET_USER), "on or off", "ipv6=off", set_ipv6},
	{"hostfwd", BIT(NET_USER), "tcp|udp:[ADDRESS:]PORT:GUESTPORT, 32 times at most",
         "hostfwd=tcp:2222:22", set_hostfwd},
	{"queues", BIT(NET_TAP), "a number from 1 to 8", "queues=2", set_queues},
};

static const char *const kind_names[] = {"user", "tap", "switch"};

static int unknown_key(const struct net_config *c, const char *key)
{
	char list[128] = "";

	for (size_t i = 0; i < ARRAY_SIZE(keys); i++)
		if (keys[i].kinds & BIT(c->kind))
			snprintf(list + strlen(list), sizeof(list) - strlen(list), "%s%s",
			         *list ? ", " : "", keys[i].name);
	log_error("--net %s: no setting \"%s\"; there are %s; for example: --net "
	          "user,hostfwd=tcp:2222:22",
	          kind_names[c->kind], key, list);
	return -1;
}

/* One KEY=VALUE. */
static int parse_word(struct net_config *c, char *word, bool first)
{
	char *value = strchr(word, '=');

	if (value)
		*value++ = '\0';
	if (first && !value && !strcmp(word, "user"))
		return 0;
	for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
		const struct net_key *k = &keys[i];
		char given[WORD_LEN];

		if (strcmp(k->name, word) || !value || first != !k->kinds)
			continue;
		if (!first && !(k->kinds & BIT(c->kind)))
			continue;
		snprintf(given, sizeof(given), "%s", value); /* setters take it apart */
		if (k->set(c, value) == 0)
			return 0;
		log_error("--net: %s=%s: %s is wanted; for example: --net %s%s", k->name, given,
		          k->accepted,
		          first                      ? ""
		          : k->kinds & BIT(NET_USER) ? "user,"
		                                     : "tap=tap0,",
		          k->example);
		return -1;
	}
	if (!first)
		return unknown_key(c, word);
	log_error("--net %s: a network is user, tap=NAME, fd=N or switch=NAME, with settings after "
	          "commas; for example: --net user,hostfwd=tcp:2222:22",
	          *word ? word : "\"\"");
	return -1;
}

static int check(struct net_config *c)
{
	if (c->kind == NET_TAP && c->nr_fds) {
		if (c->queues) {
			log_error("%s: queues= is for tap=NAME; as many descriptors as queues are "
			          "given here, for example: --net fd=3:4",
			          c->option);
			return -1;
		}
		c->queues = c->nr_fds;
	}
	if (!c->queues)
		c->queues = 1;
	if (c->kind == NET_USER && c->dns.s_addr &&
	    (c->dns.s_addr & c->netmask.s_addr) != c->network.s_addr) {
		log_error("%s: dns= is an address inside the network, for example: --net "
		          "user,net=10.0.2.0/24,dns=10.0.2.3",
		          c->option);
		return -1;
	}
	return 0;
}

int net_option_parse(struct net_config *c, const char *arg)
{
	bool first = true;

	*c = (struct net_config){.kind = NET_USER};
	c->network.s_addr = htonl(0x0a000200);
	c->netmask.s_addr = htonl(0xffffff00);
	snprintf(c->option, sizeof(c->option), "--net %s", arg);
	do {
		size_t n = strcspn(arg, ",");
		char word[WORD_LEN];

		if (n >= sizeof(word)) {
			log_error("--net: a setting of %zu characters is too long", n);
			return -1;
		}
		memcpy(word, arg, n);
		word[n] = '\0';
		if (parse_word(c, word, first) < 0)
			return -1;
		first = false;
		arg += n;
	} while (*arg++);
	return check(c);
}
