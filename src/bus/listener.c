// SPDX-License-Identifier: MIT
/* accept(2) leaves the connection in the queue when it fails for want of descriptors or memory, and
 * poll(2) reports it again at once. So the socket is not watched for LISTENER_PAUSE_NS then. */
#include "bus/listener.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "base/log.h"

static void on_readable(void *arg, short revents);

static void watch(struct listener *l)
{
	bool want = l->wanted && !l->scarce;

	if (want == l->watched)
		return;
	if (!want)
		loop_del_fd(l->loop, l->fd);
	else if (loop_add_fd(l->loop, l->fd, POLLIN, on_readable, l) < 0)
		want = false;
	l->watched = want;
	if (l->wanted && !want) /* no memory, or that is why it is off */
		timer_arm(&l->again, loop_now(l->loop) + LISTENER_PAUSE_NS);
}

static bool is_scarce(int err)
{
	return err == EMFILE || err == ENFILE || err == ENOMEM || err == ENOBUFS;
}

static void on_readable(void *arg, short revents)
{
	struct listener *l = arg;
	int fd = accept4(l->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd >= 0) {
		l->fn(l->arg, fd);
		return;
	}
	/* Anything else is about a connection that is gone by now (accept(2)). */
	if (!is_scarce(errno))
		return;
	log_debug("a connection waits: %s", strerror(errno));
	l->scarce = true;
	watch(l);
}

static void on_again(void *arg)
{
	struct listener *l = arg;

	l->scarce = false;
	if (l->fd >= 0)
		watch(l);
}

int listener_start(struct listener *l, struct loop *loop, int fd, void (*fn)(void *arg, int fd),
                   void *arg)
{
	int err;

	*l = (struct listener){.loop = loop, .fd = fd, .wanted = true, .fn = fn, .arg = arg};
	timer_init(&l->again, loop, on_again, l);
	err = loop_add_fd(loop, fd, POLLIN, on_readable, l);
	if (err) {
		l->fd = -1;
		return err;
	}
	l->watched = true;
	return 0;
}

void listener_enable(struct listener *l, bool on)
{
	l->wanted = on;
	watch(l);
}

void listener_stop(struct listener *l)
{
	if (!l->loop || l->fd < 0)
		return;
	timer_cancel(&l->again);
	if (l->watched)
		loop_del_fd(l->loop, l->fd);
	l->watched = false;
	l->fd = -1;
}
