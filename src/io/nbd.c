// SPDX-License-Identifier: MIT
/* A network block device, by libnbd.
 *
 * Requests of the pool's threads are sent at once, as many at a time as there are threads, and one
 * thread waits for the answers. nbd_poll() would hold the handle's lock while it waits, so this
 * thread polls the socket itself.
 *
 * The sandbox makes no new sockets, so a connection that is lost stays lost: every request fails
 * from then on, which the guest sees as I/O errors (or werror=stop keeps it from seeing). A
 * server that doesn't answer is taken for lost after NBD_TIMEOUT_S. */
#include <errno.h>
#include <libnbd.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "io/image.h"

#define NBD_TIMEOUT_S 60
#define NBD_MAX_LEN   (32 * MiB) /* of one request: what every server takes */

struct nbd {
	struct image image;
	struct nbd_handle *h;
	bool can_flush, can_trim, can_zero;
	u64 max_len;

	int wake_fd;
	bool has_thread;
	pthread_t thread;
	pthread_mutex_t lock; /* over the ops and these */
	pthread_cond_t done;
	bool dead, stop;
};

/* One call of an image operation; several requests of it may be under way. */
struct op {
	struct nbd *n;
	unsigned pending;
	int err;
};

static struct nbd *nbd_of(struct image *im)
{
	return container_of(im, struct nbd, image);
}

/* ---- the thread that reads answers ---- */

static void set_dead(struct nbd *n, const char *why)
{
	bool first;

	pthread_mutex_lock(&n->lock);
	first = !n->dead && !n->stop;
	n->dead = true;
	pthread_mutex_unlock(&n->lock);
	if (first)
		log_error("%s: connection to the server lost (%s): every access fails from now on; "
		          "start the VM again when the server is back",
		          n->image.name, why ? why : "unknown reason");
}

static bool stopping(struct nbd *n)
{
	bool stop;

	pthread_mutex_lock(&n->lock);
	stop = n->stop;
	pthread_mutex_unlock(&n->lock);
	return stop;
}

static void *nbd_main(void *arg)
{
	struct nbd *n = arg;
	int fd = nbd_aio_get_fd(n->h);

	pthread_setname_np(pthread_self(), "nbd");
	while (!stopping(n)) {
		unsigned dir = nbd_aio_get_direction(n->h);
		struct pollfd p[2] = {{.fd = fd}, {.fd = n->wake_fd, .events = POLLIN}};
		u64 v;

		if (nbd_aio_is_dead(n->h) || nbd_aio_is_closed(n->h)) {
			set_dead(n, nbd_get_error());
			break;
		}
		p[0].events = (short)((dir & LIBNBD_AIO_DIRECTION_READ ? POLLIN : 0) |
		                      (dir & LIBNBD_AIO_DIRECTION_WRITE ? POLLOUT : 0));
		if (poll(p, 2, -1) < 0)
			continue;
		if (p[1].revents && read(n->wake_fd, &v, sizeof(v)) < 0) {
			/* nothing to take */
		}
		/* The direction may have changed meanwhile, by a request that was sent. */
		dir = nbd_aio_get_direction(n->h);
		if (p[0].revents & (POLLIN | POLLHUP | POLLERR) && dir & LIBNBD_AIO_DIRECTION_READ)
			nbd_aio_notify_read(n->h);
		else if (p[0].revents & (POLLOUT | POLLHUP | POLLERR) &&
		         dir & LIBNBD_AIO_DIRECTION_WRITE)
			nbd_aio_notify_write(n->h);
	}
	return NULL;
}

static void wake(struct nbd *n)
{
	const u64 one = 1;

	if (write(n->wake_fd, &one, sizeof(one)) < 0) {
		/* it is awake */
	}
}

/* ---- requests ---- */

static int op_done(void *arg, int *error)
{
	struct op *op = arg;

	pthread_mutex_lock(&op->n->lock);
	if (*error && !op->err)
		op->err = -*error;
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

/* After it: `cookie` below 0 says that it was not sent, and then op_done is not called. */
static int op_sent(struct op *op, s64 cookie)
{
	struct nbd *n = op->n;
	int err = 0;

	if (cookie < 0) {
		err = nbd_get_errno() ? -nbd_get_errno() : -EIO;
		pthread_mutex_lock(&n->lock);
		op->pending--;
		pthread_mutex_unlock(&n->lock);
	}
	if (nbd_aio_get_direction(n->h) & LIBNBD_AIO_DIRECTION_WRITE || nbd_aio_is_dead(n->h))
		wake(n);
	return err;
}

static int op_wait(struct op *op, int err)
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
		set_dead(n, "it does not answer");
		shutdown(nbd_aio_get_fd(n->h), SHUT_RDWR);
		pthread_mutex_lock(&n->lock);
		until.tv_sec += NBD_TIMEOUT_S;
	}
	pthread_mutex_unlock(&n->lock);
	if (!err)
		err = op->err;
	if (err && nbd_aio_is_dead(n->h)) /* said before whoever asked says what he lost */
		set_dead(n, strerror(-err));
	return err == -ENOSPC ? err : err ? -EIO : 0;
}

static int transfer(struct nbd *n, bool write, u64 off, const struct iovec *iov, unsigned nr)
{
	struct op op = {.n = n};
	int err = 0;

	for (unsigned i = 0; i < nr && !err; i++) {
		for (u64 at = 0; at < iov[i].iov_len && !err;) {
			u64 len = MIN(iov[i].iov_len - at, n->max_len);
			u8 *buf = (u8 *)iov[i].iov_base + at;
			nbd_completion_callback cb = op_start(&op);

			err = op_sent(&op, write ? nbd_aio_pwrite(n->h, buf, len, off, cb, 0)
			                         : nbd_aio_pread(n->h, buf, len, off, cb, 0));
			at += len;
			off += len;
		}
	}
	return op_wait(&op, err);
}

static int nbd_image_read(struct image *im, u64 off, const struct iovec *iov, unsigned n)
{
	return transfer(nbd_of(im), false, off, iov, n);
}

static int nbd_image_write(struct image *im, u64 off, const struct iovec *iov, unsigned n)
{
	return transfer(nbd_of(im), true, off, iov, n);
}

static int nbd_image_flush(struct image *im)
{
	struct nbd *n = nbd_of(im);
	struct op op = {.n = n};

	if (!n->can_flush)
		return 0;
	return op_wait(&op, op_sent(&op, nbd_aio_flush(n->h, op_start(&op), 0)));
}

static int trim_or_zero(struct nbd *n, bool trim, u64 off, u64 len, u32 flags)
{
	struct op op = {.n = n};
	int err = 0;

	for (u64 at = 0; at < len && !err;) {
		u64 step = MIN(len - at, n->max_len);
		nbd_completion_callback cb = op_start(&op);

		err = op_sent(&op, trim ? nbd_aio_trim(n->h, step, off + at, cb, flags)
		                        : nbd_aio_zero(n->h, step, off + at, cb, flags));
		at += step;
	}
	return op_wait(&op, err);
}

static int nbd_image_discard(struct image *im, u64 off, u64 len)
{
	struct nbd *n = nbd_of(im);

	return n->can_trim ? trim_or_zero(n, true, off, len, 0) : 0;
}

static int nbd_image_zero(struct image *im, u64 off, u64 len, bool unmap)
{
	struct nbd *n = nbd_of(im);

	if (!n->can_zero)
		return -EOPNOTSUPP;
	return trim_or_zero(n, false, off, len, unmap ? 0 : LIBNBD_CMD_FLAG_NO_HOLE);
}

static void nbd_destroy(struct image *im)
{
	struct nbd *n = nbd_of(im);

	if (n->has_thread && !im->ro && !n->dead)
		nbd_image_flush(im);
	pthread_mutex_lock(&n->lock);
	n->stop = true;
	pthread_mutex_unlock(&n->lock);
	if (n->has_thread) {
		wake(n);
		pthread_join(n->thread, NULL);
		if (!n->dead)
			nbd_aio_disconnect(n->h, 0); /* says goodbye; its answer is not awaited */
	}
	nbd_close(n->h);
	if (n->wake_fd >= 0)
		close(n->wake_fd);
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

static int nbd_connect(struct nbd *n, const char *uri)
{
	if (nbd_set_uri_allow_transports(n->h, LIBNBD_ALLOW_TRANSPORT_TCP |
	                                               LIBNBD_ALLOW_TRANSPORT_UNIX) < 0 ||
	    nbd_set_uri_allow_local_file(n->h, false) < 0 || nbd_connect_uri(n->h, uri) < 0) {
		log_error("%s: cannot connect: %s; is the server running, for example: nbdkit -f "
		          "file disk.img",
		          uri, nbd_get_error());
		return -ECONNREFUSED;
	}
	return 0;
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

int image_nbd_open(struct image **out, const char *uri, bool ro)
{
	struct nbd *n = image_alloc(sizeof(*n), &nbd_ops, uri);
	int err;

	if (!n)
		return -ENOMEM;
	pthread_mutex_init(&n->lock, NULL);
	pthread_cond_init(&n->done, NULL);
	n->wake_fd = -1;
	n->image.ro = true;
	n->h = nbd_create();
	err = n->h ? nbd_connect(n, uri) : -ENOMEM;
	if (!err)
		err = nbd_look(n, ro);
	if (!err)
		err = nbd_start(n);
	if (err) {
		nbd_destroy(&n->image);
		return err;
	}
	*out = &n->image;
	return 0;
}
