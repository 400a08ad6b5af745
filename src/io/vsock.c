// SPDX-License-Identifier: MIT
/* Connections of the guest are made by the connector (io/connector.h), which makes the socket's
 * name PATH_<port> itself. The port is the guest's choice, and the folder may be one where others
 * write, like /tmp: so what bears that name must be a socket itself, no link to one, and of this
 * user or of root. It is held by a descriptor while that is looked at, and connected to by the
 * descriptor's name in /proc, so it is the same one. */
#include "io/vsock.h"

#include <errno.h>
#include <fcntl.h>
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
	char path[VSOCK_PATH_LEN];
	struct ratelimit rl;
};

/* What the connector knows. */
struct ports {
	const char *path;
	u32 uid;
};

/* ---- in the connector ---- */

/* A descriptor for the socket of that name, not a connection. -EPERM: it is not to be used. */
static int look(const struct ports *p, u32 port)
{
	char name[VSOCK_PATH_LEN + 16];
	struct stat st;
	int fd;

	snprintf(name, sizeof(name), "%s_%u", p->path, port);
	fd = open(name, CONNECTOR_LOOK);
	if (fd < 0)
		return -errno;
	if (fstat(fd, &st) == 0 && S_ISSOCK(st.st_mode) && (!st.st_uid || st.st_uid == p->uid))
		return fd;
	close(fd);
	return -EPERM;
}

static int connect_port(const void *arg, u32 port)
{
	struct sockaddr_un sun = {.sun_family = AF_UNIX};
	int err, fd, there = look(arg, port);

	if (there < 0)
		return there;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0) {
		err = -errno;
		close(there);
		return err;
	}
	snprintf(sun.sun_path, sizeof(sun.sun_path), "/proc/self/fd/%d", there);
	err = connect(fd, (struct sockaddr *)&sun, sizeof(sun)) < 0 ? -errno : 0;
	close(there);
	if (!err)
		return fd;
	close(fd);
	return err; /* EAGAIN: its backlog is full; nobody waits here */
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
	if (fd == -EPERM)
		guest_warn(&u->rl,
		           "vsock: a connection was refused: what is at that port's %s_<port> is "
		           "not a socket of this user's",
		           u->path);
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
	const struct ports ports = {.path = path, .uid = geteuid()};
	struct vsock_unix *u = calloc(1, sizeof(*u));
	int err;

	if (!u)
		return -ENOMEM;
	u->loop = loop;
	snprintf(u->path, sizeof(u->path), "%s", path);
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
	if (access("/proc/self/fd", X_OK) < 0) {
		err = -errno;
		log_error("--vsock: /proc/self/fd: %s; mount /proc", strerror(-err));
		goto fail;
	}
	err = connector_start(&u->connector, "ringer:vsock", AF_UNIX, true, connect_port, &ports);
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
