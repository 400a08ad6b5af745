// SPDX-License-Identifier: MIT
/* Sockets are made before the sandbox closes; while the VM runs there is only accept(2). */
#include "io/unixsock.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/log.h"
#include "bus/listener.h"

/* Whether anybody still listens at a socket that is there. */
static void remove_stale(const struct sockaddr_un *a)
{
	struct stat st;
	int fd;

	if (lstat(a->sun_path, &st) < 0 || !S_ISSOCK(st.st_mode))
		return;
	/* The wrong type: who listens is not disturbed, its guest not let go (EPROTOTYPE). */
	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return;
	if (connect(fd, (const struct sockaddr *)a, sizeof(*a)) < 0 && errno == ECONNREFUSED)
		unlink(a->sun_path);
	close(fd);
}

int unix_listen(const char *path)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int err, fd;

	if (strlen(path) >= sizeof(a.sun_path))
		return -ENAMETOOLONG;
	strcpy(a.sun_path, path);
	remove_stale(&a);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	if (bind(fd, (struct sockaddr *)&a, sizeof(a)) < 0 || listen(fd, 1) < 0) {
		err = -errno;
		close(fd);
		return err;
	}
	return fd;
}

/* ---- the character device ---- */

struct sockcon {
	struct chardev chardev;
	struct loop *loop;
	struct listener listener;
	int listen_fd, fd; /* fd -1: no client */
	short events;
	bool owes_drained; /* the front's last write was short */
};

static void client_gone(struct sockcon *s);

static void watch(struct sockcon *s, short events)
{
	if (s->events == events)
		return;
	s->events = events;
	loop_mod_fd(s->loop, s->fd, events);
}

static size_t front_room(struct sockcon *s)
{
	const struct chardev *c = &s->chardev;

	return c->front ? c->front->room(c->front_arg) : 0;
}

static void receive(struct sockcon *s)
{
	u8 buf[4096];
	size_t room = front_room(s);
	ssize_t n;

	if (!room) { /* until the front pulls */
		watch(s, s->events & ~POLLIN);
		return;
	}
	n = recv(s->fd, buf, MIN(room, sizeof(buf)), MSG_DONTWAIT);
	if (n > 0)
		s->chardev.front->receive(s->chardev.front_arg, buf, (size_t)n);
	else if (!n || (errno != EAGAIN && errno != EINTR))
		client_gone(s);
}

static void drained(struct sockcon *s)
{
	if (!s->owes_drained)
		return;
	s->owes_drained = false;
	if (s->chardev.front)
		s->chardev.front->drained(s->chardev.front_arg);
}

static void client_event(void *arg, short revents)
{
	struct sockcon *s = arg;

	if (revents & POLLOUT) {
		watch(s, s->events & ~POLLOUT);
		drained(s);
	}
	/* The other side is gone, and we do not read because nobody wants it. */
	if ((revents & (POLLHUP | POLLERR)) && !(s->events & POLLIN))
		client_gone(s);
	else if (s->fd >= 0 && (revents & (POLLIN | POLLHUP | POLLERR)))
		receive(s);
}

static void connected(void *arg, int fd)
{
	struct sockcon *s = arg;

	s->fd = fd;
	s->events = POLLIN;
	if (loop_add_fd(s->loop, fd, s->events, client_event, s) < 0) {
		close(fd);
		s->fd = -1;
		return;
	}
	listener_enable(&s->listener, false);
}

static void client_gone(struct sockcon *s)
{
	loop_del_fd(s->loop, s->fd);
	close(s->fd);
	s->fd = -1;
	listener_enable(&s->listener, true);
	drained(s);
}

static size_t sockcon_write(struct chardev *c, const u8 *buf, size_t n)
{
	struct sockcon *s = container_of(c, struct sockcon, chardev);
	ssize_t done;

	if (s->fd < 0)
		return n;
	done = send(s->fd, buf, n, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (done < 0) {
		if (errno != EAGAIN && errno != EINTR)
			return n; /* gone: the loop will find out */
		done = 0;
	}
	if ((size_t)done < n) {
		s->owes_drained = true;
		watch(s, s->events | POLLOUT);
	}
	return (size_t)done;
}

static void sockcon_pull(struct chardev *c)
{
	struct sockcon *s = container_of(c, struct sockcon, chardev);

	if (s->fd >= 0 && front_room(s))
		watch(s, s->events | POLLIN);
}

static void sockcon_destroy(struct chardev *c)
{
	struct sockcon *s = container_of(c, struct sockcon, chardev);

	if (s->fd >= 0) {
		loop_del_fd(s->loop, s->fd);
		close(s->fd);
	}
	listener_stop(&s->listener);
	close(s->listen_fd);
	free(s);
}

int sockcon_create(struct chardev **out, struct loop *loop, const char *path)
{
	static const struct chardev_ops ops = {sockcon_write, sockcon_pull, sockcon_destroy};
	struct sockcon *s = calloc(1, sizeof(*s));
	int err = -ENOMEM;

	if (!s)
		goto fail;
	s->chardev.ops = &ops;
	s->loop = loop;
	s->fd = -1;
	err = s->listen_fd = unix_listen(path);
	if (err < 0)
		goto fail;
	err = listener_start(&s->listener, loop, s->listen_fd, connected, s);
	if (err < 0) {
		close(s->listen_fd);
		goto fail;
	}
	*out = &s->chardev;
	return 0;
fail:
	log_error(
		"unix:%s: cannot listen there: %s; give the path of a socket in a folder that you "
		"can write to",
		path, strerror(-err));
	free(s);
	return err;
}
