// SPDX-License-Identifier: MIT
/* Requests in flight: io_uring, a pool of threads, and who has to wait for whom.
 *
 * A layer wants requests that change where data lies (allocation, discard) to have their granules
 * for themselves (io/image.h). So every request on an image with granules is in the list `active`
 * with the range that it touches, and one that collides waits in `waiting`; the rule is that of a
 * read-write lock, in the order of arrival.
 *
 * The lists are under the machine lock; only `todo` and `finished`, between this side and
 * the pool, are under the disk's own. */
#include "io/disk.h"

#include <errno.h>
#include <liburing.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/log.h"

#define RING_ENTRIES 256
#define RING_FILES   8
#define POOL_MAX     16
#define POOL_STACK   (1024 * KiB)

STAILQ_HEAD(req_queue, block_req);
TAILQ_HEAD(req_order, block_req);

struct disk {
	struct block block;
	struct image *image;
	struct loop *loop;
	u32 granule; /* of requests that exclude each other; 1: none do */

	struct req_order active, waiting;
	unsigned in_flight;
	bool completing; /* block_kick() in a `done` must not complete others beneath it */

	bool has_ring;
	struct io_uring ring;
	unsigned unsubmitted, in_ring;
	struct image *file[RING_FILES]; /* by index in the ring */
	unsigned nr_files;

	int event_fd; /* something finished */
	pthread_mutex_t lock;
	pthread_cond_t work;
	struct req_queue todo, finished;
	pthread_t thread[POOL_MAX];
	unsigned nr_threads, idle;
	bool stop;
};

static struct disk *disk_of(struct block *b)
{
	return container_of(b, struct disk, block);
}

/* ---- the pool ---- */

static int run_request(struct image *im, const struct block_req *r)
{
	switch (r->op) {
	case BLOCK_READ:
		return image_readv(im, r->offset, r->iov, r->nr_iov);
	case BLOCK_WRITE:
		return image_writev(im, r->offset, r->iov, r->nr_iov);
	case BLOCK_FLUSH:
		return image_flush(im);
	case BLOCK_DISCARD:
		return image_discard(im, r->offset, r->len);
	case BLOCK_ZERO:
		return image_zero(im, r->offset, r->len, r->unmap);
	}
	return -EINVAL;
}

static void wake_loop(struct disk *d)
{
	const u64 one = 1;

	if (write(d->event_fd, &one, sizeof(one)) < 0) {
		/* EAGAIN: it is awake */
	}
}

static void *pool_main(void *arg)
{
	struct disk *d = arg;

	pthread_setname_np(pthread_self(), "disk");
	pthread_mutex_lock(&d->lock);
	for (;;) {
		struct block_req *r = STAILQ_FIRST(&d->todo);

		if (!r) {
			if (d->stop)
				break;
			d->idle++;
			pthread_cond_wait(&d->work, &d->lock);
			d->idle--;
			continue;
		}
		STAILQ_REMOVE_HEAD(&d->todo, next);
		pthread_mutex_unlock(&d->lock);
		r->err = run_request(d->image, r);
		pthread_mutex_lock(&d->lock);
		if (STAILQ_EMPTY(&d->finished))
			wake_loop(d);
		STAILQ_INSERT_TAIL(&d->finished, r, next);
	}
	pthread_mutex_unlock(&d->lock);
	return NULL;
}

/* One thread more; signals are none of its business. */
static int pool_grow(struct disk *d)
{
	sigset_t all, old;
	pthread_attr_t attr;
	int err;

	sigfillset(&all);
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, POOL_STACK);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	err = pthread_create(&d->thread[d->nr_threads], &attr, pool_main, d);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	pthread_attr_destroy(&attr);
	if (!err)
		d->nr_threads++;
	return -err;
}

static void pool_start(struct disk *d, struct block_req *r)
{
	const struct block_req *q;
	unsigned queued = 0;

	r->slow = true;
	pthread_mutex_lock(&d->lock);
	STAILQ_INSERT_TAIL(&d->todo, r, next);
	STAILQ_FOREACH(q, &d->todo, next)
	queued++;
	if (queued > d->idle && d->nr_threads < POOL_MAX)
		pool_grow(d); /* the first one exists since disk_create() */
	pthread_cond_signal(&d->work);
	pthread_mutex_unlock(&d->lock);
}

/* ---- the ring ---- */

static int ring_file(const struct disk *d, const struct image *leaf)
{
	for (unsigned i = 0; i < d->nr_files; i++)
		if (d->file[i] == leaf)
			return (int)i;
	return -1;
}

static bool ring_fits(const struct image *leaf, u64 off, const struct block_req *r)
{
	u64 bits = off | r->len;

	if (leaf->align == 1)
		return true;
	for (unsigned i = 0; i < r->nr_iov; i++) {
		bits |= r->iov[i].iov_len;
		if ((uintptr_t)r->iov[i].iov_base % leaf->mem_align)
			return false;
	}
	return bits % leaf->align == 0;
}

/* Can the ring do it? *file and *off then say where. */
static bool ring_can(struct disk *d, const struct block_req *r, int *file, u64 *off)
{
	struct image *leaf;

	if (!d->has_ring || r->op == BLOCK_DISCARD || r->op == BLOCK_ZERO)
		return false;
	if (!image_map(d->image, r->offset, r->len, r->op != BLOCK_READ, &leaf, off))
		return false;
	*file = ring_file(d, leaf);
	return *file >= 0 && ring_fits(leaf, *off, r);
}

static void ring_submit(struct disk *d)
{
	while (d->unsubmitted) {
		int n = io_uring_submit(&d->ring);

		if (n > 0)
			d->unsubmitted -= MIN((unsigned)n, d->unsubmitted);
		else if (n != -EINTR)
			break; /* EAGAIN, EBUSY: again with the next completion */
	}
}

static bool ring_start(struct disk *d, struct block_req *r, int file, u64 off)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&d->ring);

	if (!sqe) {
		ring_submit(d);
		sqe = io_uring_get_sqe(&d->ring);
		if (!sqe)
			return false;
	}
	if (r->op == BLOCK_READ)
		io_uring_prep_readv(sqe, file, r->iov, r->nr_iov, off);
	else if (r->op == BLOCK_WRITE)
		io_uring_prep_writev(sqe, file, r->iov, r->nr_iov, off);
	else
		io_uring_prep_fsync(sqe, file, IORING_FSYNC_DATASYNC);
	io_uring_sqe_set_flags(sqe, IOSQE_FIXED_FILE);
	io_uring_sqe_set_data(sqe, r);
	r->slow = false;
	d->unsubmitted++;
	d->in_ring++;
	return true;
}

static void ring_files(struct disk *d, struct image *im)
{
	if (im->fd >= 0 && d->nr_files < RING_FILES)
		d->file[d->nr_files++] = im;
	if (im->below)
		ring_files(d, im->below);
	if (im->backing)
		ring_files(d, im->backing);
}

/* Two of its functions are in the headers of Debian's liburing 2.3, but not in the library. */
static int ring_register(struct io_uring *ring, unsigned what, const void *arg, unsigned n)
{
	return syscall(__NR_io_uring_register, ring->ring_fd, what, arg, n) < 0 ? -errno : 0;
}

/* What a ring may do is fixed while it is disabled (io_uring_register(2),
 * IORING_REGISTER_RESTRICTIONS): vectors and flushes on the registered files, no other opcode, no
 * other descriptor, no further registration. */
static int ring_restrict(struct io_uring *ring)
{
	static const u8 ops[] = {IORING_OP_READV, IORING_OP_WRITEV, IORING_OP_FSYNC};
	struct io_uring_restriction res[ARRAY_SIZE(ops) + 2] = {0};
	unsigned n = 0;

	for (; n < ARRAY_SIZE(ops); n++) {
		res[n].opcode = IORING_RESTRICTION_SQE_OP;
		res[n].sqe_op = ops[n];
	}
	res[n].opcode = IORING_RESTRICTION_SQE_FLAGS_ALLOWED;
	res[n++].sqe_flags = IOSQE_FIXED_FILE;
	res[n].opcode = IORING_RESTRICTION_SQE_FLAGS_REQUIRED;
	res[n++].sqe_flags = IOSQE_FIXED_FILE;
	return ring_register(ring, IORING_REGISTER_RESTRICTIONS, res, n);
}

static void ring_create(struct disk *d)
{
	struct io_uring_params p = {.flags = IORING_SETUP_R_DISABLED | IORING_SETUP_CLAMP};
	int fds[RING_FILES], err;

	ring_files(d, d->image);
	if (!d->nr_files)
		return;
	for (unsigned i = 0; i < d->nr_files; i++)
		fds[i] = d->file[i]->fd;
	err = io_uring_queue_init_params(RING_ENTRIES, &d->ring, &p);
	if (err) {
		log_debug("%s: no io_uring (%s), threads instead", d->block.name, strerror(-err));
		return;
	}
	err = io_uring_register_files(&d->ring, fds, d->nr_files);
	if (!err)
		err = io_uring_register_eventfd(&d->ring, d->event_fd);
	if (!err)
		err = ring_restrict(&d->ring);
	if (!err)
		err = ring_register(&d->ring, IORING_REGISTER_ENABLE_RINGS, NULL, 0);
	if (err) {
		log_debug("%s: io_uring cannot be restricted (%s), threads instead", d->block.name,
		          strerror(-err));
		io_uring_queue_exit(&d->ring);
		return;
	}
	d->has_ring = true;
}

/* ---- starting and finishing ---- */

static bool collides(const struct block_req *a, const struct block_req *b)
{
	return (a->exclusive || b->exclusive) && a->lo < b->hi && b->lo < a->hi;
}

/* With any request of the list before `end`. */
static bool collides_any(const struct req_order *l, const struct block_req *r,
                         const struct block_req *end)
{
	const struct block_req *o = NULL;

	TAILQ_FOREACH(o, l, order)
	{
		if (o == end)
			break;
		if (collides(o, r))
			return true;
	}
	return false;
}

static bool is_ordered(const struct disk *d, const struct block_req *r)
{
	return d->granule > 1 && r->op != BLOCK_FLUSH;
}

/* `waits`: it is in the list of waiting ones, and only those before it count. */
static void try_start(struct disk *d, struct block_req *r, bool waits)
{
	int file = -1;
	u64 off = 0;
	bool ring = ring_can(d, r, &file, &off);

	if (is_ordered(d, r)) {
		r->exclusive = r->op != BLOCK_READ && !ring;
		if (collides_any(&d->active, r, NULL) ||
		    collides_any(&d->waiting, r, waits ? r : NULL)) {
			if (!waits)
				TAILQ_INSERT_TAIL(&d->waiting, r, order);
			return;
		}
		if (waits)
			TAILQ_REMOVE(&d->waiting, r, order);
		TAILQ_INSERT_TAIL(&d->active, r, order);
	}
	if (!ring || !ring_start(d, r, file, off))
		pool_start(d, r);
}

static void complete(struct disk *d, struct block_req *r, int err)
{
	struct block_req *w, *next;

	d->in_flight--;
	if (is_ordered(d, r)) {
		TAILQ_REMOVE(&d->active, r, order);
		for (w = TAILQ_FIRST(&d->waiting); w; w = next) {
			next = TAILQ_NEXT(w, order);
			try_start(d, w, true);
		}
	}
	r->done(r, err);
}

/* The ring did part of it, or would not: the pool does all of it, and knows the end of the file. */
static bool ring_left_it(const struct block_req *r, int res)
{
	if (res < 0)
		return res == -EAGAIN || res == -EINTR || res == -ECANCELED || res == -EOPNOTSUPP ||
		       res == -EINVAL;
	return r->op != BLOCK_FLUSH && (u64)res < r->len;
}

static bool collect_ring(struct disk *d)
{
	struct io_uring_cqe *cqe;
	bool any = false;

	while (d->has_ring && io_uring_peek_cqe(&d->ring, &cqe) == 0) {
		struct block_req *r = io_uring_cqe_get_data(cqe);
		int res = cqe->res;

		io_uring_cqe_seen(&d->ring, cqe);
		d->in_ring--;
		any = true;
		if (ring_left_it(r, res))
			pool_start(d, r);
		else
			complete(d, r, MIN(res, 0));
	}
	return any;
}

/* One at a time: a `done` may call block_drain(), which must find the others. */
static bool collect_pool(struct disk *d)
{
	bool any = false;

	for (;;) {
		struct block_req *r;

		pthread_mutex_lock(&d->lock);
		r = STAILQ_FIRST(&d->finished);
		if (r)
			STAILQ_REMOVE_HEAD(&d->finished, next);
		pthread_mutex_unlock(&d->lock);
		if (!r)
			return any;
		any = true;
		complete(d, r, r->err);
	}
}

static void collect_all(struct disk *d)
{
	bool any = true, some = false;

	/* What completes at once is seen here, and needs not wake the loop. (The ring's own way to
	 * say that, IORING_REGISTER_EVENTFD_ASYNC, keeps silent on everything but its threads'
	 * work.) */
	if (d->has_ring)
		io_uring_cq_eventfd_toggle(&d->ring, false);
	while (any) {
		ring_submit(d);
		any = collect_ring(d);
		any |= collect_pool(d);
		some |= any;
		if (!any && d->has_ring && !io_uring_cq_eventfd_enabled(&d->ring)) {
			io_uring_cq_eventfd_toggle(&d->ring, true);
			atomic_thread_fence(memory_order_seq_cst);
			any = true; /* what came before that */
		}
	}
	if (some && d->block.settled)
		d->block.settled(d->block.settled_arg);
	if (d->unsubmitted)
		wake_loop(d); /* the kernel was short of memory: again */
}

static void collect(struct disk *d)
{
	if (d->completing) {
		ring_submit(d);
		return;
	}
	d->completing = true;
	collect_all(d);
	d->completing = false;
}

static void disk_event(void *arg, short revents)
{
	struct disk *d = arg;
	u64 n;

	if (read(d->event_fd, &n, sizeof(n)) < 0) {
		/* EAGAIN: block_drain() was here */
	}
	collect(d);
}

/* ---- as a block ---- */

static void disk_submit(struct block *b, struct block_req *r)
{
	struct disk *d = disk_of(b);
	int err = 0;

	d->in_flight++;
	r->exclusive = false;
	if (r->op == BLOCK_FLUSH) {
		r->offset = r->len = 0;
		r->nr_iov = 0;
	} else if (r->offset > b->size || r->len > b->size - r->offset) {
		err = -EINVAL;
	} else if (r->op != BLOCK_READ && b->ro) {
		err = -EROFS;
	} else if ((r->op == BLOCK_READ || r->op == BLOCK_WRITE) &&
	           (r->nr_iov > BLOCK_MAX_IOV || iov_total(r->iov, r->nr_iov) != r->len)) {
		err = -EINVAL;
	} else if (r->len > BLOCK_MAX_LEN) {
		err = -EINVAL;
	}
	r->lo = r->offset & ~(u64)(d->granule - 1);
	r->hi = ALIGN_UP(r->offset + r->len, (u64)d->granule);
	if (!err && (r->len || r->op == BLOCK_FLUSH)) {
		try_start(d, r, false);
		return;
	}
	/* What is wrong at once is said later all the same. */
	r->err = err;
	if (is_ordered(d, r))
		TAILQ_INSERT_TAIL(&d->active, r, order);
	pthread_mutex_lock(&d->lock);
	STAILQ_INSERT_TAIL(&d->finished, r, next);
	pthread_mutex_unlock(&d->lock);
	wake_loop(d);
}

static void disk_kick(struct block *b)
{
	struct disk *d = disk_of(b);

	if (d->unsubmitted)
		collect(d);
}

static void disk_drain(struct block *b)
{
	struct disk *d = disk_of(b);

	for (;;) {
		struct pollfd p = {.fd = d->event_fd, .events = POLLIN};
		u64 n;

		collect_all(d);
		if (!d->in_flight)
			return;
		if (poll(&p, 1, 100) > 0 && read(d->event_fd, &n, sizeof(n)) < 0) {
			/* nothing: looked at anyway */
		}
	}
}

static void disk_destroy(struct block *b)
{
	struct disk *d = disk_of(b);

	disk_drain(b);
	pthread_mutex_lock(&d->lock);
	d->stop = true;
	pthread_cond_broadcast(&d->work);
	pthread_mutex_unlock(&d->lock);
	for (unsigned i = 0; i < d->nr_threads; i++)
		pthread_join(d->thread[i], NULL);
	if (d->has_ring)
		io_uring_queue_exit(&d->ring);
	if (d->event_fd >= 0) {
		loop_del_fd(d->loop, d->event_fd);
		close(d->event_fd);
	}
	image_destroy(d->image);
	pthread_mutex_destroy(&d->lock);
	pthread_cond_destroy(&d->work);
	free(d);
}

static const struct block_ops disk_ops = {
	.submit = disk_submit,
	.kick = disk_kick,
	.drain = disk_drain,
	.destroy = disk_destroy,
};

static u32 host_block(const struct image *im)
{
	u32 align = MAX(im->align, 512u);

	return im->below ? MAX(align, host_block(im->below)) : align;
}

int disk_create(struct block **out, struct loop *loop, struct image *im, unsigned flags)
{
	struct disk *d = calloc(1, sizeof(*d));
	int err;

	if (!d) {
		image_destroy(im);
		return -ENOMEM;
	}
	d->image = im;
	d->loop = loop;
	d->granule = im->granule;
	d->block = (struct block){.ops = &disk_ops,
	                          .name = im->name,
	                          .size = im->size & ~511ull,
	                          .ro = im->ro,
	                          .can_discard = !im->ro && im->ops->discard,
	                          .block_size = host_block(im)};
	d->block.granule = MAX(d->block.block_size, im->granule);
	TAILQ_INIT(&d->active);
	TAILQ_INIT(&d->waiting);
	STAILQ_INIT(&d->todo);
	STAILQ_INIT(&d->finished);
	pthread_mutex_init(&d->lock, NULL);
	pthread_cond_init(&d->work, NULL);
	d->event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	err = d->event_fd < 0 ? -errno : loop_add_fd(loop, d->event_fd, POLLIN, disk_event, d);
	if (!err)
		err = pool_grow(d);
	if (err) {
		log_error("%s: %s", d->block.name, strerror(-err));
		disk_destroy(&d->block);
		return err;
	}
	if (!(flags & DISK_NO_URING))
		ring_create(d);
	*out = &d->block;
	return 0;
}
