// SPDX-License-Identifier: MIT
#include "io/net.h"

#include <string.h>

/* FNV-1a; 64 bits, of which 46 end up in the address: names that collide are as unlikely as random
 * addresses that do. */
static u64 hash(u64 h, const void *data, size_t n)
{
	const u8 *p = data;

	for (size_t i = 0; i < n; i++)
		h = (h ^ p[i]) * 0x100000001b3ull;
	return h;
}

void net_mac_from_name(u8 mac[6], const char *vm_name, unsigned nic)
{
	u64 h = hash(0xcbf29ce484222325ull, vm_name, strlen(vm_name) + 1);

	h = hash(h, &nic, sizeof(nic));
	h ^= h >> 32; /* FNV's upper bits are the well mixed ones */
	for (unsigned i = 0; i < 6; i++)
		mac[i] = (u8)(h >> (8 * i));
	mac[0] = (u8)((mac[0] & 0xfc) | 0x02); /* IEEE 802: local, one station */
}

int net_create(struct netback **out, struct loop *loop, const struct net_config *cfg,
               const char *vm_name, const u8 *mac)
{
	switch (cfg->kind) {
	case NET_TAP:
		return net_tap_create(out, loop, cfg);
	case NET_SWITCH:
		return net_switch_create(out, loop, cfg, vm_name, mac, NULL);
	default:
		return net_user_create(out, loop, cfg, vm_name);
	}
}
