/* SPDX-License-Identifier: MIT */
/* Inside of the switch (net_switch.c, net_join.c): how members find each other is one part, how
 * frames move the other. Machine lock held. */
#pragma once

#include "io/net.h"

#define SWITCH_MAX_PEERS 63

/* The first message of each side; everything after it is a net_vhdr and a frame. */
#define SWITCH_MAGIC "RingerS1"
struct switch_hello {
	char magic[8];
	u8 mac[6];
	u8 pad[2];
	char vm[64]; /* for messages */
};

/* Join the network in folder `dir`: a listening socket of our own, in *listen_fd, and connections
 * to all members that are there, *nr of them in fds[SWITCH_MAX_PEERS]. Nobody can join meanwhile.
 * 0 or -errno (logged). */
int switch_join(const struct net_config *cfg, const char *dir, int *listen_fd, int *fds,
                unsigned *nr);
/* Is the process at the other end of this user? */
bool switch_peer_trusted(int fd, u32 uid);
