/* SPDX-License-Identifier: MIT */
/* Network back ends (dev/netback.h): how a virtual network card reaches others.
 *
 *	user	libslirp: a NAT with DHCP and DNS in this process; no rights needed
 *	tap	a tap device of the host: bridges, routes, full speed
 *	switch	a network of its own among VMs of the same user; no rights needed
 *
 * Made at set-up, before the sandbox is entered; everything later happens in the VM's loop with
 * the machine lock held. */
#pragma once

#include <netinet/in.h>

#include "bus/loop.h"
#include "dev/netback.h"

enum net_kind { NET_USER, NET_TAP, NET_SWITCH };

#define NET_MAX_NICS     8
#define NET_MAX_FORWARDS 32
#define NET_NAME_LEN     32 /* of a switch, with the zero; a tap's is IFNAMSIZ */

/* A port of the host that leads to one of the guest. */
struct net_forward {
	bool udp;
	struct in_addr host, guest; /* guest 0.0.0.0: the address that DHCP gives first */
	u16 host_port, guest_port;
};

struct net_config {
	enum net_kind kind;
	char option[64]; /* "--net user,...", shortened: messages begin with it */
	u8 mac[6];       /* all zero: from the VM's name */
	u16 mtu;         /* 0: the back's own */
	unsigned queues; /* tap: queue pairs; else 1 */

	/* user */
	struct in_addr network, netmask;
	struct in_addr dns; /* 0: network + 3 */
	char hostname[64];  /* "": the VM's name */
	bool restricted;
	bool no_ipv6;
	unsigned nr_forwards;
	struct net_forward forward[NET_MAX_FORWARDS];

	/* tap: its name, or descriptors */
	char tap[16];
	unsigned nr_fds;
	int fd[NET_QUEUES_MAX];

	/* switch */
	char name[NET_NAME_LEN];
};

/* 0 or -errno, with what to do logged: the user's environment is at fault, most of the time. */
int net_user_create(struct netback **out, struct loop *loop, const struct net_config *cfg,
                    const char *vm_name);
int net_tap_create(struct netback **out, struct loop *loop, const struct net_config *cfg);
/* `mac`: the card's, known to the others from the start; `dir`: where the sockets are, NULL for the
 * user's own runtime folder. */
int net_switch_create(struct netback **out, struct loop *loop, const struct net_config *cfg,
                      const char *vm_name, const u8 *mac, const char *dir);

int net_create(struct netback **out, struct loop *loop, const struct net_config *cfg,
               const char *vm_name, const u8 *mac);

/* A locally administered unicast address that depends on the VM's name and the card's number
 * only. */
void net_mac_from_name(u8 mac[6], const char *vm_name, unsigned nic);
