// SPDX-License-Identifier: MIT
/* A network block device, by libnbd.
 *
 * Requests of the pool's threads are sent at once, as many at a time as there are threads, and one
 * thread waits for the answers. nbd_poll() would hold the handle's lock while it waits, so this
 * thread polls the socket itself.
 *
 * A server that doesn't answer for NBD_TIMEOUT_S is taken for lost, as is one that closes the
 * connection. That thread then connects again, once a second: by the connector, because the sandbox
 * makes no sockets, to the address that the first connection had. What was under way is done again
 * as a whole, which is right for reads, writes, flushes, zeros and trims alike: the guest was told
 * nothing of them. Until the server is back requests wait, but not longer than `reconnect` seconds
 * from the loss; then they fail, and so does every later one at once, until it is back. A server
 * that crashed itself may have lost what it said was written and was not flushed; nobody here can
 * tell, so the message says it. */
#include <errno.h>
#include <libnbd.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "io/connector.h"
#include "io/image.h"

#define NBD_TIMEOUT_S   60
#define NBD_HANDSHAKE_S 5
#define NBD_PAUSE_MS    1000       /* between attempts to connect */
#define NBD_MAX_LEN     (32 * MiB) /* of one request: what every server takes */

struct nbd {
	struct image image;
	char *export_name;
	bool can_flush, can_trim, can_zero;
	u64 max_len;

	int connector; /* -1: a connection that is lost stays lost */
	struct sockaddr_storage addr;
	socklen_t addr_len;
	unsigned reconnect; /* seconds that requests wait for */

	int wake_fd;
	bool has_thread;
	pthread_t thread;
	pthread_mutex_t lock; /* over the ops and these */
	pthread_cond_t done;
	struct nbd_handle *h; /* replaced only when it is lost and has no users */
	unsigned users;
	bool connected, stop;
	bool unflushed;       /* the server has writes that were not flushed */
	u64 lost_at, made_at; /* ms */
};

/* One call of an image operation; several requests of it may be under way. */
struct op {
	struct nbd *n;
	struct nbd_handle *h;
	unsigned pending;
	int err;
	bool lost;     /* with its connection */
	bool farewell; /* the server says that it ends, and the connection is still there */
};

enum call_kind { CALL_READ, CALL_WRITE, CALL_FLUSH, CALL_TRIM, CALL_ZERO };

/* What is to be done, as often as connections are lost. */
struct call {
	enum call_kind kind;
	u32 flags;
	u64 off, len;
	const struct iovec *iov;
	unsigned nr;
};

static u64 now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (u64)ts.tv_sec * 1000 + (u64)ts.tv_nsec / 1000000;
}

static struct nbd *nbd_of(struct image *im)
{
	return container_of(im, struct nbd, image);
}

/* ---- the connection's state ---- */

static void wake(struct nbd *n)
{
	const u64 one = 1;

	if (write(n->wake_fd, &one, sizeof(one)) < 0) {
		/* it is awake */
	}
}

/* `h`, if it is the current one, is not to be used any more. Nothing is said of an end that is
 * wanted. */
static void set_lost(struct nbd *n, struct nbd_handle *h, const char *why)
{
	bool first;

	pthread_mutex_lock(&n->lock);
	first = n->h == h && n->connected;
	if (first) {
		n->connected = false;
		n->lost_at = now_ms();
	}
	first &= !n->stop;
	pthread_mutex_unlock(&n->lock);
	if (!first)
		return;
	if (!why)
		why = "unknown reason";
	if (n->connector < 0)
		log_error("%s: connection to the server lost (%s): every access fails from now on; "
		          "start the VM again when the server is back",
		          n->image.name, why);
	else
		log_error(
			"%s: connection to the server lost (%s): requests wait for it, up to %u s "
			"(,reconnect=SECONDS), and fail then until it is back",
			n->image.name, why, n->reconnect);
	wake(n);
}

static bool stopping(struct nbd *n)
{
	bool stop;

	pthread_mutex_lock(&n->lock);
	stop = n->stop;
	pthread_mutex_unlock(&n->lock);
	return stop;
}

/* The handle, for one op; NULL: there is no connection, and none was made in time. */
static struct nbd_handle *handle_get(struct nbd *n)
{
	struct nbd_handle *h = NULL;

	pthread_mutex_lock(&n->lock);
	while (!n->connected && !n->stop && n->connector >= 0) {
		u64 now = now_ms(), end = n->lost_at + n->reconnect * 1000ull;
		struct timespec until;

		if (now >= end)
			break;
		clock_gettime(CLOCK_REALTIME, &until);
		until.tv_sec += (time_t)((end - now) / 1000 + 1);
		pthread_cond_timedwait(&n->done, &n->lock, &until);
	}
	if (n->connected) {
		h = n->h;
		n->users++;
	}
	pthread_mutex_unlock(&n->lock);
	return h;
}

static void handle_put(struct nbd *n)
{
	pthread_mutex_lock(&n->lock);
	n->users--;
	pthread_cond_broadcast(&n->done);
	pthread_mutex_unlock(&n->lock);
}

/* ---- requests ---- */

static int op_done(void *arg, int *error)
{
	struct op *op = arg;

	pthread_mutex_lock(&op->n->lock);
	if (*error && !op->err)
		op->err = -*error;
	/* libnbd's own word for what it had not got an answer for, and a server's farewell */
	op->lost |= *error == ENOTCONN || *error == ESHUTDOWN;
	op->farewell |= *error == ESHUTDOWN;
	op->pending--;
	pthread_cond_broadcast(&op->n->done);
	pthread_mutex_unlock(&op->n->lock);
	return 1; /* nobody asks for it by its number */
}

/* Before a request is sent; its completion may come at once. */
static nbd_completion_callback op_start(struct op *op)
{
	pthread_mutex_lock(&op->n->lock);
	op->pending++;
	pthread_mutex_unlock(&op->n->lock);
	return (nbd_completion_callback){.callback = op_done, .user_data = op};
}

static bool is_over(struct nbd_handle *h)
{
	return nbd_aio_is_dead(h) > 0 || nbd_aio_is_closed(h) > 0;
}

/* After it: `cookie` below 0 says that it was not sent, and then op_done is not called. */
static int op_sent(struct op *op, s64 cookie)
{
	struct nbd *n = op->n;
	int err = 0;

	if (cookie < 0) {
		err = nbd_get_errno() ? -nbd_get_errno() : -EIO;
		pthread_mutex_lock(&n->lock);
		op->pending--;
		op->lost |= is_over(op->h);
		pthread_mutex_unlock(&n->lock);
	}
	if (nbd_aio_get_direction(op->h) & LIBNBD_AIO_DIRECTION_WRITE || is_over(op->h))
		wake(n);
	return err;
}

/* For the answers to all that was sent. */
static void op_wait(struct op *op)
{
	struct nbd *n = op->n;
	struct timespec until;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += NBD_TIMEOUT_S;
	pthread_mutex_lock(&n->lock);
	while (op->pending) {
		if (pthread_cond_timedwait(&n->done, &n->lock, &until) != ETIMEDOUT)
			continue;
		/* The buffers are the library's until it gives up. */
		pthread_mutex_unlock(&n->lock);
		set_lost(n, op->h, "it does not answer");
		shutdown(nbd_aio_get_fd(op->h), SHUT_RDWR);
		pthread_mutex_lock(&n->lock);
		clock_gettime(CLOCK_REALTIME, &until);
		until.tv_sec += NBD_TIMEOUT_S;
	}
	pthread_mutex_unlock(&n->lock);
}

static int op_send(struct op *op, const struct call *c, void *buf, u64 off, u64 len)
{
	nbd_completion_callback cb = op_start(op);

	switch (c->kind) {
	case CALL_READ:
		return op_sent(op, nbd_aio_pread(op->h, buf, len, off, cb, 0));
	case CALL_WRITE:
		return op_sent(op, nbd_aio_pwrite(op->h, buf, len, off, cb, 0));
	case CALL_FLUSH:
		return op_sent(op, nbd_aio_flush(op->h, cb, 0));
	case CALL_TRIM:
		return op_sent(op, nbd_aio_trim(op->h, len, off, cb, c->flags));
	default:
		return op_sent(op, nbd_aio_zero(op->h, len, off, cb, c->flags));
	}
}

/* All of a call, in requests that the server takes. */
static int send_call(struct op *op, const struct call *c)
{
	u64 off = c->off, max = op->n->max_len;
	int err = 0;

	if (c->kind == CALL_FLUSH)
		return op_send(op, c, NULL, 0, 0);
	for (unsigned i = 0; i < c->nr && !err; i++) {
		for (u64 at = 0, len; at < c->iov[i].iov_len && !err; at += len, off += len) {
			len = MIN(c->iov[i].iov_len - at, max);
			err = op_send(op, c, (u8 *)c->iov[i].iov_base + at, off, len);
		}
	}
	for (u64 at = 0; at < c->len && !err; at += max)
		err = op_send(op, c, NULL, off + at, MIN(c->len - at, max));
	return err;
}

static void note_stable(struct nbd *n, enum call_kind kind, bool before, int err)
{
	if (kind == CALL_READ)
		return;
	pthread_mutex_lock(&n->lock);
	if (kind != CALL_FLUSH)
		n->unflushed |= !before && !err;
	else
		n->unflushed = before ? false : n->unflushed || err;
	pthread_mutex_unlock(&n->lock);
}

/* Until it is done, or there is no connection any more; a server that drops each connection is
 * given up, too. */
static int call_do(struct nbd *n, const struct call *c)
{
	u64 end = 0;

	for (;;) {
		struct op op = {.n = n, .h = handle_get(n)};
		const char *why;
		int err;

		if (!op.h)
			return -EIO;
		note_stable(n, c->kind, true, 0);
		err = send_call(&op, c);
		why = err ? nbd_get_error() : NULL;
		op_wait(&op);
		if (!err)
			err = op.err;
		if (op.lost) /* said before whoever asked says what he lost */
			set_lost(n, op.h, why ? why : strerror(-err));
		if (op.farewell)
			shutdown(nbd_aio_get_fd(op.h), SHUT_RDWR);
		handle_put(n);
		note_stable(n, c->kind, false, err);
		if (!op.lost)
			return err && err != -ENOSPC ? -EIO : err;
		if (!end)
			end = now_ms() + n->reconnect * 1000ull;
		else if (now_ms() >= end)
			return -EIO;
	}
}

static int nbd_image_read(struct image *im, u64 off, const struct iovec *iov, unsigned n)
{
	return call_do(nbd_of(im),
	               &(struct call){.kind = CALL_READ, .off = off, .iov = iov, .nr = n});
}

static int nbd_image_write(struct image *im, u64 off, const struct iovec *iov, unsigned n)
{
	return call_do(nbd_of(im),
	               &(struct call){.kind = CALL_WRITE, .off = off, .iov = iov, .nr = n});
}

static int nbd_image_flush(struct image *im)
{
	struct nbd *n = nbd_of(im);

	return n->can_flush ? call_do(n, &(struct call){.kind = CALL_FLUSH}) : 0;
}

static int nbd_image_discard(struct image *im, u64 off, u64 len)
{
	struct nbd *n = nbd_of(im);

	return n->can_trim ? call_do(n, &(struct call){.kind = CALL_TRIM, .off = off, .len = len})
	                   : 0;
}

static int nbd_image_zero(struct image *im, u64 off, u64 len, bool unmap)
{
	struct nbd *n = nbd_of(im);
	u32 flags = unmap ? 0 : LIBNBD_CMD_FLAG_NO_HOLE;

	if (!n->can_zero)
		return -EOPNOTSUPP;
	return call_do(n,
	               &(struct call){.kind = CALL_ZERO, .off = off, .len = len, .flags = flags});
}

/* ---- the thread that reads answers, and connects again ---- */

/* Wait for a descriptor or for a wake, and drive the library. */
static void step(struct nbd *n, struct nbd_handle *h, int timeout)
{
	unsigned dir = nbd_aio_get_direction(h);
	struct pollfd p[2] = {{.fd = nbd_aio_get_fd(h)}, {.fd = n->wake_fd, .events = POLLIN}};
	u64 v;

	p[0].events = (short)((dir & LIBNBD_AIO_DIRECTION_READ ? POLLIN : 0) |
	                      (dir & LIBNBD_AIO_DIRECTION_WRITE ? POLLOUT : 0));
	if (poll(p, 2, timeout) < 0)
		return;
	if (p[1].revents && read(n->wake_fd, &v, sizeof(v)) < 0) {
		/* nothing to take */
	}
	/* The direction may have changed meanwhile, by a request that was sent. */
	dir = nbd_aio_get_direction(h);
	if (p[0].revents & (POLLIN | POLLHUP | POLLERR) && dir & LIBNBD_AIO_DIRECTION_READ)
		nbd_aio_notify_read(h);
	else if (p[0].revents & (POLLOUT | POLLHUP | POLLERR) && dir & LIBNBD_AIO_DIRECTION_WRITE)
		nbd_aio_notify_write(h);
}

/* Sleep, unless it is to stop. */
static void pause_ms(struct nbd *n, int ms)
{
	u64 end = now_ms() + (u64)ms;

	for (u64 now = now_ms(); now < end && !stopping(n); now = now_ms()) {
		struct pollfd p = {.fd = n->wake_fd, .events = POLLIN};
		u64 v;

		if (poll(&p, 1, (int)(end - now)) > 0 && read(n->wake_fd, &v, sizeof(v)) < 0) {
			/* nothing to take */
		}
	}
}

/* A connected socket, or -errno. */
static int dial(struct nbd *n)
{
	struct pollfd p = {.fd = n->connector, .events = POLLIN};
	int err, fd = -1, so = 0;
	const int one = 1;
	socklen_t len = sizeof(so);
	u32 id;

	while (connector_take(n->connector, &id, &fd) == 0) /* that came too late */
		if (fd >= 0)
			close(fd);
	err = connector_ask(n->connector, 0, 0);
	if (!err && poll(&p, 1, NBD_HANDSHAKE_S * 1000) <= 0)
		err = -ETIMEDOUT;
	if (!err)
		err = connector_take(n->connector, &id, &fd);
	if (err || fd < 0)
		return err ? err : fd;
	p = (struct pollfd){.fd = fd, .events = POLLOUT};
	if (poll(&p, 1, NBD_HANDSHAKE_S * 1000) <= 0)
		err = -ETIMEDOUT;
	else if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &so, &len) < 0 || so)
		err = so ? -so : -errno;
	if (err) {
		close(fd);
		return err;
	}
	if (n->addr.ss_family != AF_UNIX)
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	return fd;
}

/* NULL, or why the server that came back is not the one that was lost. */
static const char *differs(const struct nbd *n, struct nbd_handle *h)
{
	s64 max = nbd_get_block_size(h, LIBNBD_SIZE_MAXIMUM);

	if (nbd_get_size(h) != (s64)n->image.size)
		return "its disk has another size";
	if (!n->image.ro && nbd_is_read_only(h) > 0)
		return "it offers it for reading only";
	if ((n->can_flush && nbd_can_flush(h) <= 0) || (n->can_trim && nbd_can_trim(h) <= 0) ||
	    (n->can_zero && nbd_can_zero(h) <= 0) || (max > 0 && (u64)max < n->max_len) ||
	    nbd_get_block_size(h, LIBNBD_SIZE_MINIMUM) > 512)
		return "it can do less than before";
	return NULL;
}

/* One attempt: a handle that is ready, or NULL. `said`: what was wrong with the server the last
 * time. */
static struct nbd_handle *connect_again(struct nbd *n, const char **said)
{
	int fd = dial(n);
	struct nbd_handle *h = fd < 0 ? NULL : nbd_create();
	u64 end = now_ms() + NBD_HANDSHAKE_S * 1000;
	const char *why = NULL;

	if (fd < 0)
		return NULL;
	if (!h || nbd_set_export_name(h, n->export_name) < 0) {
		close(fd);
		goto fail;
	}
	if (nbd_aio_connect_socket(h, fd) < 0)
		goto fail;
	while (nbd_aio_is_ready(h) <= 0 && !is_over(h) && now_ms() < end && !stopping(n))
		step(n, h, 500);
	if (nbd_aio_is_ready(h) <= 0)
		goto fail;
	why = differs(n, h);
	if (!why)
		return h;
	if (why != *said)
		log_error("%s: the server is there again, but %s: not used", n->image.name, why);
	*said = why;
fail:
	if (h)
		nbd_close(h);
	return NULL;
}

/* Until there is a connection, or it is to stop. */
static void reconnect(struct nbd *n)
{
	struct nbd_handle *h = NULL;
	const char *said = NULL;
	bool unflushed;
	u64 away;

	pthread_mutex_lock(&n->lock);
	while (n->users) /* their requests end, since the connection has */
		pthread_cond_wait(&n->done, &n->lock);
	h = n->h;
	n->h = NULL;
	pthread_mutex_unlock(&n->lock);
	nbd_close(h);
	/* At once, but not again and again to a server that drops connections. */
	h = n->lost_at - n->made_at < NBD_PAUSE_MS ? NULL : connect_again(n, &said);
	while (!h && !stopping(n)) {
		pause_ms(n, NBD_PAUSE_MS);
		if (!stopping(n))
			h = connect_again(n, &said);
	}
	if (!h)
		return;
	pthread_mutex_lock(&n->lock);
	n->h = h;
	n->connected = true;
	n->made_at = now_ms();
	away = n->made_at - n->lost_at;
	unflushed = n->unflushed;
	pthread_cond_broadcast(&n->done);
	pthread_mutex_unlock(&n->lock);
	log_warn("%s: connected to the server again after %.1f s%s", n->image.name,
	         (double)away / 1000,
	         unflushed ? "; if the server itself crashed, what was not flushed is lost" : "");
}

static void *nbd_main(void *arg)
{
	struct nbd *n = arg;

	pthread_setname_np(pthread_self(), "nbd");
	while (!stopping(n)) {
		if (!is_over(n->h)) {
			step(n, n->h, -1);
			continue;
		}
		set_lost(n, n->h, nbd_get_error());
		if (n->connector < 0)
			break;
		reconnect(n);
	}
	return NULL;
}

static void nbd_destroy(struct image *im)
{
	struct nbd *n = nbd_of(im);

	bool connected;

	pthread_mutex_lock(&n->lock);
	connected = n->connected;
	pthread_mutex_unlock(&n->lock);
	if (n->has_thread && !im->ro && connected)
		nbd_image_flush(im);
	pthread_mutex_lock(&n->lock);
	n->stop = true;
	pthread_cond_broadcast(&n->done);
	pthread_mutex_unlock(&n->lock);
	if (n->has_thread) {
		wake(n);
		pthread_join(n->thread, NULL);
		if (n->connected)
			nbd_aio_disconnect(n->h, 0); /* says goodbye; its answer is not awaited */
	}
	if (n->h)
		nbd_close(n->h);
	if (n->wake_fd >= 0)
		close(n->wake_fd);
	if (n->connector >= 0)
		close(n->connector);
	free(n->export_name);
	pthread_mutex_destroy(&n->lock);
	pthread_cond_destroy(&n->done);
	image_free(im);
}

static const struct image_ops nbd_ops = {
	.read = nbd_image_read,
	.write = nbd_image_write,
	.flush = nbd_image_flush,
	.discard = nbd_image_discard,
	.zero = nbd_image_zero,
	.destroy = nbd_destroy,
};

/* ---- opening ---- */

/* A server may take the connection and never say a word. The signals that end a process are blocked
 * already, to be read by the machine's loop, which does not run yet: let them through, for nothing
 * is there yet that would have to be put in order. */
static int connect_killable(struct nbd_handle *h, const char *uri)
{
	sigset_t ending, old;
	int ret;

	sigemptyset(&ending);
	sigaddset(&ending, SIGINT);
	sigaddset(&ending, SIGTERM);
	sigaddset(&ending, SIGHUP);
	sigaddset(&ending, SIGQUIT);
	pthread_sigmask(SIG_UNBLOCK, &ending, &old);
	ret = nbd_connect_uri(h, uri);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return ret;
}

static int nbd_connect(struct nbd *n, const char *uri)
{
	if (nbd_set_uri_allow_transports(n->h, LIBNBD_ALLOW_TRANSPORT_TCP |
	                                               LIBNBD_ALLOW_TRANSPORT_UNIX) < 0 ||
	    nbd_set_uri_allow_local_file(n->h, false) < 0 || connect_killable(n->h, uri) < 0) {
		log_error("%s: cannot connect: %s; is the server running, for example: nbdkit -f "
		          "file disk.img",
		          uri, nbd_get_error());
		return -ECONNREFUSED;
	}
	return 0;
}

/* In the connector. */
static int connect_addr(const void *arg, u32 unused)
{
	const struct nbd *n = arg;
	int err, fd = socket(n->addr.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	(void)unused;
	if (fd < 0)
		return -errno;
	if (connect(fd, (const struct sockaddr *)&n->addr, n->addr_len) == 0 ||
	    errno == EINPROGRESS)
		return fd;
	err = -errno;
	close(fd);
	return err;
}

/* A unix socket's name as this process sees it, which need not be the one that the server bound. */
static int socket_name(struct nbd *n, const char *uri)
{
	struct sockaddr_un *un = (struct sockaddr_un *)&n->addr;
	const char *p = strstr(uri, "socket=");
	size_t i = 0;

	if (!p)
		return -EINVAL;
	memset(un->sun_path, 0, sizeof(un->sun_path));
	for (p += strlen("socket="); *p && *p != '&' && *p != '#'; i++) {
		char hex[3] = {0};

		if (i >= sizeof(un->sun_path) - 1)
			return -ENAMETOOLONG;
		if (*p == '%' && p[1] && p[2]) {
			memcpy(hex, p + 1, 2);
			un->sun_path[i] = (char)strtoul(hex, NULL, 16);
			p += 3;
		} else {
			un->sun_path[i] = *p++;
		}
	}
	n->addr_len = sizeof(*un);
	return 0;
}

/* What it takes to connect again; a server with TLS is refused, because the library would read
 * files. */
static int nbd_prepare(struct nbd *n, const char *uri)
{
	int err;

	n->addr_len = sizeof(n->addr);
	if (!n->reconnect || nbd_get_tls_negotiated(n->h) > 0)
		return 0;
	n->export_name = nbd_get_export_name(n->h);
	if (!n->export_name)
		return -ENOMEM;
	if (getpeername(nbd_aio_get_fd(n->h), (struct sockaddr *)&n->addr, &n->addr_len) < 0)
		return -errno;
	err = n->addr.ss_family == AF_UNIX ? socket_name(n, uri) : 0;
	if (!err)
		err = connector_start(&n->connector, "ringer:nbd", n->addr.ss_family, false,
		                      connect_addr, n);
	if (err)
		log_error("%s: cannot start the process that connects again: %s", n->image.name,
		          strerror(-err));
	return err;
}

/* What the server offers. */
static int nbd_look(struct nbd *n, bool ro)
{
	s64 size = nbd_get_size(n->h), min = nbd_get_block_size(n->h, LIBNBD_SIZE_MINIMUM);
	s64 max = nbd_get_block_size(n->h, LIBNBD_SIZE_MAXIMUM);

	if (size < 0) {
		log_error("%s: the server states no size: %s", n->image.name, nbd_get_error());
		return -EIO;
	}
	if (min > 512) {
		log_error("%s: the server takes requests of %lld bytes at least, and 512 are "
		          "needed; nbdkit's --filter=blocksize makes them fit",
		          n->image.name, (long long)min);
		return -ENOTSUP;
	}
	if (!ro && nbd_is_read_only(n->h) > 0) {
		log_error("%s: the server offers it for reading only; add ,ro or ,snapshot=on",
		          n->image.name);
		return -EROFS;
	}
	n->can_flush = nbd_can_flush(n->h) > 0;
	n->can_trim = nbd_can_trim(n->h) > 0;
	n->can_zero = nbd_can_zero(n->h) > 0;
	n->max_len = max > 0 ? MIN((u64)max, NBD_MAX_LEN) & ~511ull : NBD_MAX_LEN;
	if (!n->max_len)
		n->max_len = 512;
	if (!ro && !n->can_flush)
		log_warn("%s: the server has no flush: what is written is not safe from its crash",
		         n->image.name);
	n->image.size = (u64)size;
	n->image.ro = ro;
	return 0;
}

static int nbd_start(struct nbd *n)
{
	sigset_t all, old;
	int err;

	n->connected = true;
	n->made_at = now_ms();
	n->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (n->wake_fd < 0)
		return -errno;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	err = -pthread_create(&n->thread, NULL, nbd_main, n);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	n->has_thread = !err;
	return err;
}

int image_nbd_open(struct image **out, const char *uri, bool ro, unsigned reconnect)
{
	struct nbd *n = image_alloc(sizeof(*n), &nbd_ops, uri);
	int err;

	if (!n)
		return -ENOMEM;
	pthread_mutex_init(&n->lock, NULL);
	pthread_cond_init(&n->done, NULL);
	n->wake_fd = n->connector = -1;
	n->reconnect = reconnect;
	n->image.ro = true;
	n->h = nbd_create();
	err = n->h ? nbd_connect(n, uri) : -ENOMEM;
	if (!err)
		err = nbd_look(n, ro);
	if (!err)
		err = nbd_prepare(n, uri);
	if (!err)
		err = nbd_start(n);
	if (err) {
		nbd_destroy(&n->image);
		return err;
	}
	*out = &n->image;
	return 0;
}
