// SPDX-License-Identifier: MIT
/* One function for each kind of device: from what the configuration says to what the device's own
 * header wants. */
#include "machine/devices.h"

#include <errno.h>

#include "dev/virtio_rng.h"

static int create_rng(const struct virtio_env *env, const struct vm_device *d)
{
	const struct virtio_rng_config cfg = {.packed = d->packed};

	return virtio_rng_create(env, &cfg);
}

static int (*const create[NR_VM_DEVICES])(const struct virtio_env *env,
                                          const struct vm_device *d) = {
	[VM_DEVICE_RNG] = create_rng,
};

int devices_create(const struct virtio_env *env, const struct vm_config *cfg)
{
	int err = 0;

	for (unsigned i = 0; i < cfg->nr_devices && !err; i++)
		err = create[cfg->device[i].kind](env, &cfg->device[i]);
	return err;
}
