// SPDX-License-Identifier: MIT
/* One function for each kind of device: from what the configuration says to what the device's own
 * header wants. */
#include "machine/devices.h"

#include <errno.h>
#include <string.h>

#include "dev/virtio_net.h"
#include "dev/virtio_rng.h"
#include "io/net.h"

static int create_rng(const struct virtio_env *env, const struct vm_device *d)
{
	const struct virtio_rng_config cfg = {.packed = d->packed};

	return virtio_rng_create(env, &cfg);
}

static int (*const create[NR_VM_DEVICES])(const struct virtio_env *env,
                                          const struct vm_device *d) = {
	[VM_DEVICE_RNG] = create_rng,
};

static int create_net(const struct virtio_env *env, const struct net_config *c, const char *vm_name)
{
	struct virtio_net_config cfg;
	int err;

	memcpy(cfg.mac, c->mac, sizeof(cfg.mac));
	err = net_create(&cfg.back, env->env->loop, c, vm_name, c->mac);
	return err ? err : virtio_net_create(env, &cfg);
}

int devices_create(const struct virtio_env *env, const struct vm_config *cfg)
{
	int err = 0;

	for (unsigned i = 0; i < cfg->nr_devices && !err; i++)
		err = create[cfg->device[i].kind](env, &cfg->device[i]);
	for (unsigned i = 0; i < cfg->nr_nets && !err; i++)
		err = create_net(env, &cfg->net[i], cfg->name);
	return err;
}
