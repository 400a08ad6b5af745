/* SPDX-License-Identifier: MIT */
/* The virtio devices that the configuration asks for. Set-up only. */
#pragma once

#include "dev/virtio.h"
#include "dev/virtio_console.h"
#include "machine/config.h"

/* What devices need of the machine, and those that it has business with later, NULL when there are
 * none. */
struct machine_devices {
	struct vm *vm;
	struct block *disk[VM_MAX_DISKS]; /* open, and no device's yet */
	struct virtio_balloon *balloon;   /* the first one */
	/* Outsides of console ports, to be destroyed after the devices. */
	struct chardev *port[VIRTIO_CONSOLE_MAX_PORTS];
	unsigned nr_ports;
};

/* Make them all, in the order in which they were asked for. 0 or -errno (logged); what was made is
 * the machine's, in *out too. */
int devices_create(const struct virtio_env *env, const struct vm_config *cfg,
                   struct machine_devices *out);
