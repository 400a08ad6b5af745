// SPDX-License-Identifier: MIT
/* Connections of the guest are made by the connector (io/connector.h), which makes the socket's
 * name PATH_<port> itself. */
#include "io/vsock.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/log.h"
#include "io/connector.h"

#define BACKLOG 64

struct vsock_unix {
	struct vsock_host host;
	struct loop *loop;
	int connector; /* SOCK_SEQPACKET */
};

/* ---- in the connector ---- */

static int connect_port(const void *path, u32 port)
{
	struct sockaddr_un sun = {.sun_family = AF_UNIX};
	int err, fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -errno;
	snprintf(sun.sun_path, sizeof(sun.sun_path), "%s_%u", (const char *)path, port);
	if (connect(fd, (struct sockaddr *)&sun, sizeof(sun)) == 0)
		return fd;
	err = -errno; /* EAGAIN: its backlog is full; nobody waits here */
	close(fd);
	return err;
}

/* ---- the device's side ---- */

static struct vsock_unix *unix_of(struct vsock_host *h)
{
	return container_of(h, struct vsock_unix, host);
}

static int unix_connect(struct vsock_host *h, u32 port, u32 id)
{
	return connector_ask(unix_of(h)->connector, id, port);
}

static void on_answer(void *arg, short revents)
{
	struct vsock_unix *u = arg;
	u32 id;
	int fd, err = connector_take(u->connector, &id, &fd);

	if (err == -EAGAIN)
		return;
	if (err) {
		log_error("vsock: the process that connects to the host's sockets has ended");
		loop_del_fd(u->loop, u->connector);
		return;
	}
	if (u->host.connected)
		u->host.connected(u->host.arg, id, fd);
	else if (fd >= 0)
		close(fd);
}

static void unix_destroy(struct vsock_host *h)
{
	struct vsock_unix *u = unix_of(h);

	if (u->connector >= 0) {
		loop_del_fd(u->loop, u->connector);
		close(u->connector);
	}
	if (h->listen_fd >= 0)
		close(h->listen_fd);
	free(u);
}

/* A socket's name that nobody listens behind is one that a machine left. */
static void remove_stale(const struct sockaddr_un *sun)
{
	struct stat st;
	int fd;

	if (lstat(sun->sun_path, &st) < 0 || !S_ISSOCK(st.st_mode))
		return;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return;
	if (connect(fd, (const struct sockaddr *)sun, sizeof(*sun)) < 0 && errno == ECONNREFUSED)
		unlink(sun->sun_path);
	close(fd);
}

static int listen_at(const char *path)
{
	struct sockaddr_un sun = {.sun_family = AF_UNIX};
	mode_t mask;
	int err, fd;

	snprintf(sun.sun_path, sizeof(sun.sun_path), "%s", path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	remove_stale(&sun);
	mask = umask(077);
	err = bind(fd, (struct sockaddr *)&sun, sizeof(sun)) < 0 ? -errno : 0;
	umask(mask);
	if (!err && listen(fd, BACKLOG) < 0)
		err = -errno;
	if (err) {
		close(fd);
		return err;
	}
	return fd;
}

int vsock_host_create(struct vsock_host **out, struct loop *loop, const char *path)
{
	struct vsock_unix *u = calloc(1, sizeof(*u));
	int err;

	if (!u)
		return -ENOMEM;
	u->loop = loop;
	u->connector = -1;
	u->host.connect = unix_connect;
	u->host.destroy = unix_destroy;
	u->host.listen_fd = listen_at(path);
	if (u->host.listen_fd < 0) {
		err = u->host.listen_fd;
		log_error("--vsock path=%s: cannot listen: %s%s", path, strerror(-err),
		          err == -EADDRINUSE
		                  ? "; another machine has it, or it is no socket: choose "
		                    "another path, for example path=/tmp/vm2.sock"
		                  : "; the folder must exist and be writable, for example "
		                    "path=/tmp/vm.sock");
		goto fail;
	}
	err = connector_start(&u->connector, "ringer:vsock", AF_UNIX, connect_port, path);
	if (err) {
		log_error("--vsock: cannot start the process that connects: %s", strerror(-err));
		goto fail;
	}
	err = loop_add_fd(loop, u->connector, POLLIN, on_answer, u);
	if (err)
		goto fail;
	*out = &u->host;
	return 0;
fail:
	unix_destroy(&u->host);
	return err;
}
