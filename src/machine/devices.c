// SPDX-License-Identifier: MIT
/* One function for each kind of device: from what the configuration says to what the device's own
 * header wants. */
#include "machine/devices.h"

#include <errno.h>
#include <string.h>

#include "dev/virtio_balloon.h"
#include "dev/virtio_blk.h"
#include "dev/virtio_net.h"
#include "dev/virtio_rng.h"
#include "io/net.h"
#include "vcpu/vm.h"

static int create_rng(const struct virtio_env *env, const struct vm_device *d,
                      struct machine_devices *out)
{
	const struct virtio_rng_config cfg = {.packed = d->packed};

	return virtio_rng_create(env, &cfg);
}

static int create_balloon(const struct virtio_env *env, const struct vm_device *d,
                          struct machine_devices *out)
{
	const struct virtio_balloon_config cfg = {.amount = d->amount,
	                                          .deflate_on_oom = d->deflate_on_oom,
	                                          .reporting = d->reporting,
	                                          .packed = d->packed};
	struct virtio_balloon *b;
	int err = virtio_balloon_create(&b, env, &cfg);

	if (!err && !out->balloon)
		out->balloon = b;
	return err;
}

static int (*const create[NR_VM_DEVICES])(const struct virtio_env *env, const struct vm_device *d,
                                          struct machine_devices *out) = {
	[VM_DEVICE_RNG] = create_rng,
	[VM_DEVICE_BALLOON] = create_balloon,
};

static int create_net(const struct virtio_env *env, const struct net_config *c, const char *vm_name)
{
	struct virtio_net_config cfg;
	int err;

	memcpy(cfg.mac, c->mac, sizeof(cfg.mac));
	err = net_create(&cfg.back, env->env->loop, c, vm_name, c->mac);
	return err ? err : virtio_net_create(env, &cfg);
}

static void pause_posted(void *arg)
{
	struct vm *vm = arg;

	if (vm_pause(vm) == 0)
		log_warn("paused, because the host failed to serve a disk; free space or repair "
		         "it, then Ctrl-] s goes on and tries again");
}

static void on_disk_error(void *arg)
{
	struct vm *vm = arg;

	if (loop_post(vm->loop, pause_posted, vm) < 0)
		log_error("out of memory");
}

static int create_disk(const struct virtio_env *env, const struct vm_disk *d, unsigned index,
                       struct machine_devices *out)
{
	char serial[VIRTIO_BLK_ID_LEN];
	struct virtio_blk_config cfg = {
		.back = out->disk[index],
		.serial = d->serial ? d->serial : serial,
		.queues = d->queues,
		.packed = d->packed,
		.host_error = d->stop_on_error ? on_disk_error : NULL,
		.arg = out->vm,
	};

	snprintf(serial, sizeof(serial), "disk%u", index);
	out->disk[index] = NULL; /* the device's now */
	return virtio_blk_create(env, &cfg);
}

int devices_create(const struct virtio_env *env, const struct vm_config *cfg,
                   struct machine_devices *out)
{
	int err = 0;

	for (unsigned i = 0; i < cfg->nr_disks && !err; i++)
		err = create_disk(env, &cfg->disk[i], i, out);
	for (unsigned i = 0; i < cfg->nr_devices && !err; i++)
		err = create[cfg->device[i].kind](env, &cfg->device[i], out);
	for (unsigned i = 0; i < cfg->nr_nets && !err; i++)
		err = create_net(env, &cfg->net[i], cfg->name);
	return err;
}
