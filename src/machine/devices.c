// SPDX-License-Identifier: MIT
/* One function for each kind of device: from what the configuration says to what the device's own
 * header wants. */
#include "machine/devices.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "dev/virtio_balloon.h"
#include "dev/virtio_blk.h"
#include "dev/virtio_fs.h"
#include "dev/virtio_net.h"
#include "dev/virtio_rng.h"
#include "dev/virtio_vsock.h"
#include "io/console.h"
#include "io/fuse.h"
#include "io/net.h"
#include "io/unixsock.h"
#include "io/vsock.h"
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

/* For writing, made anew. */
static int create_file(struct chardev **out, struct loop *loop, const char *path)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOCTTY, 0644), err;
	struct console_config cfg = {.in_fd = -1, .out_fd = fd};

	if (fd < 0) {
		err = -errno;
		log_error("--device where=file:%s: cannot open for writing: %s; for example: "
		          "--device console,where=file:hvc0.log",
		          path, strerror(-err));
		return err;
	}
	err = console_create(out, loop, &cfg);
	close(fd);
	return err;
}

static int create_back(struct chardev **out, struct loop *loop, const struct vm_device *d,
                       const struct console_escape *escape)
{
	switch (d->where) {
	case CONSOLE_STDIO:
		return console_create_stdio(out, loop, escape);
	case CONSOLE_FILE:
		return create_file(out, loop, d->path);
	case CONSOLE_UNIX:
		return sockcon_create(out, loop, d->path);
	case CONSOLE_NONE:
		break;
	}
	*out = NULL;
	return 0;
}

/* All ports of one kind: consoles come before streams. */
static int add_ports(const struct virtio_env *env, const struct vm_config *cfg,
                     enum vm_device_kind kind, struct virtio_console_config *con,
                     struct virtio_console_port *port, struct machine_devices *out)
{
	int err = 0;

	for (unsigned i = 0; i < cfg->nr_devices && !err; i++) {
		const struct vm_device *d = &cfg->device[i];
		struct virtio_console_port *p = &port[con->nr_ports];

		if (d->kind != kind)
			continue;
		if (con->nr_ports == VIRTIO_CONSOLE_MAX_PORTS - 1) {
			log_error("--device %s: there can be %d console ports",
			          kind == VM_DEVICE_PORT ? "port" : "console",
			          VIRTIO_CONSOLE_MAX_PORTS - 1);
			return -ENOSPC;
		}
		con->packed |= d->packed;
		p->console = kind == VM_DEVICE_CONSOLE;
		memcpy(p->name, d->name, sizeof(p->name));
		err = create_back(&p->back, env->env->loop, d, cfg->escape);
		if (!err && p->back)
			out->port[out->nr_ports++] = p->back;
		con->nr_ports++;
	}
	return err;
}

static int create_ports(const struct virtio_env *env, const struct vm_config *cfg,
                        struct machine_devices *out)
{
	struct virtio_console_port port[VIRTIO_CONSOLE_MAX_PORTS] = {0};
	struct virtio_console_config con = {.port = port};
	int err = add_ports(env, cfg, VM_DEVICE_CONSOLE, &con, port, out);

	if (!err)
		err = add_ports(env, cfg, VM_DEVICE_PORT, &con, port, out);
	return !err && con.nr_ports ? virtio_console_create(env, &con) : err;
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

static int create_vsock(const struct virtio_env *env, const struct vm_config *c)
{
	struct virtio_vsock_config cfg = {.cid = c->vsock_cid};
	int err = vsock_host_create(&cfg.host, env->env->loop, c->vsock_path);

	return err ? err : virtio_vsock_create(env, &cfg);
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

#define FUSE_WORKERS 4

static int create_share(const struct virtio_env *env, const struct vm_share *s, unsigned nr_shares)
{
	const struct fuse_config cfg = {.dir_fd = s->dir_fd,
	                                .read_only = s->read_only,
	                                .host_locks = s->host_locks,
	                                .nr_workers = FUSE_WORKERS,
	                                .nr_servers = nr_shares,
	                                .name = s->tag};
	struct fuse_server *server;
	int err = fuse_server_create(&server, &cfg);

	return err ? err : virtio_fs_create(env, s->tag, fuse_server_back(server));
}

int devices_create(const struct virtio_env *env, const struct vm_config *cfg,
                   struct machine_devices *out)
{
	int err = 0;

	for (unsigned i = 0; i < cfg->nr_disks && !err; i++)
		err = create_disk(env, &cfg->disk[i], i, out);
	for (unsigned i = 0; i < cfg->nr_devices && !err; i++)
		if (create[cfg->device[i].kind])
			err = create[cfg->device[i].kind](env, &cfg->device[i], out);
	if (!err)
		err = create_ports(env, cfg, out);
	for (unsigned i = 0; i < cfg->nr_nets && !err; i++)
		err = create_net(env, &cfg->net[i], cfg->name);
	if (!err && cfg->vsock_cid)
		err = create_vsock(env, cfg);
	for (unsigned i = 0; i < cfg->nr_shares && !err; i++)
		err = create_share(env, &cfg->share[i], cfg->nr_shares);
	return err;
}
