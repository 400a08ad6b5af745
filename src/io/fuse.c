// SPDX-License-Identifier: MIT
/* Requests in, answers out: the queue, the threads that serve it, and the table of operations,
 * which says what of a request is checked before its function sees it.
 *
 * A request's memory belongs to the guest, who may write it at any time. Its head and
 * arguments are therefore copied once, and only the copy is looked at. The data of READ and WRITE
 * is not copied: the host's kernel moves it between that memory and the file. */
#include "io/fuse_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/vfs.h>
#include <unistd.h>

#define MINOR_MIN  27 /* Linux 4.18; virtio-fs itself came with 7.31 */
#define MINOR_OURS 37
#define RETRY_NS   20000000 /* how often a lock that others hold is asked for */

/* ---- operations ---- */

enum op_flags {
	OP_NODE = 1,    /* nodeid must be valid */
	OP_WRITES = 2,  /* refused on a read-only share */
	OP_SILENT = 4,  /* never answered */
	OP_PARTIAL = 8, /* the rest of the request stays in the guest's memory */
};

struct fuse_op {
	const char *name;
	int (*fn)(struct fuse_call *c);
	u16 arg, out;    /* bytes of the fixed parts */
	u8 names, flags; /* strings that follow */
};

static int op_init(struct fuse_call *c);
static int op_destroy(struct fuse_call *c);

#define OP(nr, lower, arg, out, names, flags)                                                      \
	[FUSE_##nr] = {#nr, fuse_op_##lower, arg, out, names, flags}
#define IN(t)  sizeof(struct fuse_##t##_in)
#define OUT(t) sizeof(struct fuse_##t##_out)

static const struct fuse_op ops[] = {
	/* before 7.36 the argument of INIT ended where flags2 is */
	[FUSE_INIT] = {"INIT", op_init, offsetof(struct fuse_init_in, flags2), OUT(init), 0, 0},
	[FUSE_DESTROY] = {"DESTROY", op_destroy, 0, 0, 0, 0},
	OP(LOOKUP, lookup, 0, OUT(entry), 1, OP_NODE),
	OP(FORGET, forget, IN(forget), 0, 0, OP_SILENT),
	OP(BATCH_FORGET, batch_forget, IN(batch_forget), 0, 0, OP_SILENT),
	OP(GETATTR, getattr, IN(getattr), OUT(attr), 0, OP_NODE),
	OP(SETATTR, setattr, IN(setattr), OUT(attr), 0, OP_NODE | OP_WRITES),
	OP(READLINK, readlink, 0, 0, 0, OP_NODE),
	OP(SYMLINK, symlink, 0, OUT(entry), 2, OP_NODE | OP_WRITES),
	OP(MKNOD, mknod, IN(mknod), OUT(entry), 1, OP_NODE | OP_WRITES),
	OP(MKDIR, mkdir, IN(mkdir), OUT(entry), 1, OP_NODE | OP_WRITES),
	OP(UNLINK, unlink, 0, 0, 1, OP_NODE | OP_WRITES),
	OP(RMDIR, rmdir, 0, 0, 1, OP_NODE | OP_WRITES),
	OP(RENAME, rename, IN(rename), 0, 2, OP_NODE | OP_WRITES),
	OP(RENAME2, rename2, IN(rename2), 0, 2, OP_NODE | OP_WRITES),
	OP(LINK, link, IN(link), OUT(entry), 1, OP_NODE | OP_WRITES),
	OP(OPEN, open, IN(open), OUT(open), 0, OP_NODE),
	OP(CREATE, create, IN(create), OUT(entry) + OUT(open), 1, OP_NODE | OP_WRITES),
	OP(TMPFILE, tmpfile, IN(create), OUT(entry) + OUT(open), 0, OP_NODE | OP_WRITES),
	OP(READ, read, IN(read), 0, 0, OP_NODE),
	OP(WRITE, write, IN(write), OUT(write), 0, OP_NODE | OP_WRITES | OP_PARTIAL),
	OP(STATFS, statfs, 0, OUT(statfs), 0, OP_NODE),
	OP(RELEASE, release, IN(release), 0, 0, OP_NODE),
	OP(RELEASEDIR, release, IN(release), 0, 0, OP_NODE),
	OP(FSYNC, fsync, IN(fsync), 0, 0, OP_NODE),
	OP(FSYNCDIR, fsync, IN(fsync), 0, 0, OP_NODE),
	OP(SETXATTR, setxattr, FUSE_COMPAT_SETXATTR_IN_SIZE, 0, 1, OP_NODE | OP_WRITES),
	OP(GETXATTR, getxattr, IN(getxattr), 0, 1, OP_NODE),
	OP(LISTXATTR, listxattr, IN(getxattr), 0, 0, OP_NODE),
	OP(REMOVEXATTR, removexattr, 0, 0, 1, OP_NODE | OP_WRITES),
	OP(FLUSH, flush, IN(flush), 0, 0, OP_NODE),
	OP(OPENDIR, opendir, IN(open), OUT(open), 0, OP_NODE),
	OP(READDIR, readdir, IN(read), 0, 0, OP_NODE),
	OP(READDIRPLUS, readdirplus, IN(read), 0, 0, OP_NODE),
	OP(GETLK, getlk, IN(lk), OUT(lk), 0, OP_NODE),
	OP(SETLK, setlk, IN(lk), 0, 0, OP_NODE),
	OP(SETLKW, setlkw, IN(lk), 0, 0, OP_NODE),
	OP(ACCESS, access, IN(access), 0, 0, OP_NODE),
	OP(INTERRUPT, interrupt, IN(interrupt), 0, 0, 0),
	OP(FALLOCATE, fallocate, IN(fallocate), 0, 0, OP_NODE | OP_WRITES),
	OP(LSEEK, lseek, IN(lseek), OUT(lseek), 0, OP_NODE),
	OP(COPY_FILE_RANGE, copy_file_range, IN(copy_file_range), OUT(write), 0,
           OP_NODE | OP_WRITES),
	OP(SYNCFS, syncfs, IN(syncfs), 0, 0, OP_NODE),
};

static int op_init(struct fuse_call *c)
{
	const struct fuse_init_in *in = c->arg;
	struct fuse_init_out *out = c->out;
	struct fuse_server *s = c->s;
	u32 flags = FUSE_ASYNC_READ | FUSE_ATOMIC_O_TRUNC | FUSE_BIG_WRITES | FUSE_AUTO_INVAL_DATA |
	            FUSE_DO_READDIRPLUS | FUSE_READDIRPLUS_AUTO | FUSE_ASYNC_DIO |
	            FUSE_PARALLEL_DIROPS | FUSE_MAX_PAGES | FUSE_HANDLE_KILLPRIV_V2;

	if (s->host_locks)
		flags |= FUSE_POSIX_LOCKS | FUSE_FLOCK_LOCKS;
	out->major = FUSE_KERNEL_VERSION;
	out->minor = MINOR_OURS;
	if (in->major > FUSE_KERNEL_VERSION)
		return 0; /* it asks again, with ours */
	if (in->major < FUSE_KERNEL_VERSION || in->minor < MINOR_MIN) {
		guest_warn(&s->rl, "share %s: the guest speaks FUSE %u.%u; 7.%u or newer is wanted",
		           s->name, in->major, in->minor, MINOR_MIN);
		return -EPROTO;
	}
	out->max_readahead = MIN(in->max_readahead, FUSE_MAX_WRITE);
	out->flags = in->flags & flags;
	out->max_background = 64;
	out->congestion_threshold = 48;
	out->max_write = FUSE_MAX_WRITE;
	out->time_gran = 1;
	out->max_pages = FUSE_MAX_WRITE / PAGE_SIZE;
	pthread_mutex_lock(&s->mutex);
	s->inited = true;
	pthread_mutex_unlock(&s->mutex);
	return 0;
}

static int op_destroy(struct fuse_call *c)
{
	struct fuse_server *s = c->s;

	pthread_mutex_lock(&s->mutex);
	s->inited = false;
	pthread_mutex_unlock(&s->mutex);
	fuse_nodes_clear(s);
	return 0;
}

/* ---- serving one request ---- */

static void finish(struct fuse_server *s, struct fuse_req *r, u32 len)
{
	r->done(r, len);
	pthread_mutex_lock(&s->mutex);
	if (!--s->busy)
		pthread_cond_broadcast(&s->idle);
	pthread_mutex_unlock(&s->mutex);
}

static u32 reply(struct fuse_req *r, u64 unique, int err, const void *data, size_t len)
{
	struct fuse_out_header h = {.error = err, .unique = unique};

	if (err)
		len = 0;
	h.len = (u32)(sizeof(h) + len);
	if (iov_write(r->out, r->nr_out, 0, &h, sizeof(h)) < sizeof(h))
		return 0;
	if (data)
		iov_write(r->out, r->nr_out, sizeof(h), data, len);
	return h.len;
}

void fuse_reply_later(struct fuse_server *s, struct fuse_req *r, u64 unique, int err)
{
	finish(s, r, reply(r, unique, err, NULL, 0));
}

/* Cut the copied body into the fixed part, the names and the rest. */
static int parse_body(struct fuse_call *c, const struct fuse_op *op, const u8 *body, size_t len)
{
	if (len < op->arg)
		return -EINVAL;
	c->arg = body;
	body += op->arg;
	len -= op->arg;
	for (unsigned i = 0; i < op->names; i++) {
		size_t n = strnlen((const char *)body, len);

		if (n == len)
			return -EINVAL;
		c->name[i] = (const char *)body;
		body += n + 1;
		len -= n + 1;
	}
	c->tail = body;
	c->tail_len = len;
	return 0;
}

static int run_op(struct fuse_call *c, const struct fuse_op *op)
{
	struct fuse_server *s = c->s;
	int err;

	if (op->flags & OP_WRITES && s->read_only)
		return -EROFS;
	if (c->out_max < op->out)
		return -EINVAL;
	if (op->flags & OP_NODE) {
		c->node = fuse_node_get(s, c->h.nodeid);
		if (!c->node)
			return -ESTALE;
	}
	memset(c->out, 0, op->out);
	c->out_len = op->out;
	err = op->fn(c);
	if (c->node)
		fuse_node_put(s, c->node);
	return err;
}

/* What keeps the request from being served, and its body in c. */
static int check_request(struct fuse_call *c, const struct fuse_op **out)
{
	const struct fuse_op *op = NULL;
	const struct fuse_req *r = c->req;
	size_t total = iov_total(r->in, r->nr_in), want, room;
	bool inited;

	if (c->h.len < sizeof(c->h) || c->h.len > total)
		return -EINVAL;
	if (c->h.opcode < ARRAY_SIZE(ops) && ops[c->h.opcode].fn)
		op = &ops[c->h.opcode];
	*out = op;
	if (!op)
		return -ENOSYS;
	pthread_mutex_lock(&c->s->mutex);
	inited = c->s->inited;
	pthread_mutex_unlock(&c->s->mutex);
	if (inited == (c->h.opcode == FUSE_INIT))
		return -EIO;
	room = iov_total(r->out, r->nr_out);
	if (room < sizeof(struct fuse_out_header) && !(op->flags & OP_SILENT) &&
	    c->h.opcode != FUSE_INTERRUPT)
		return -EINVAL;
	c->data_max = room - MIN(room, sizeof(struct fuse_out_header));
	c->out_max = MIN(c->data_max, FUSE_BUF_SIZE);
	c->in_len = c->h.len;
	want = c->h.len - sizeof(c->h);
	if (op->flags & OP_PARTIAL)
		want = MIN(want, op->arg);
	if (want > FUSE_BUF_SIZE)
		return -E2BIG;
	iov_read(r->in, r->nr_in, sizeof(c->h), c->w->in, want);
	return parse_body(c, op, c->w->in, want);
}

/* Length of the answer, 0 none; false: it comes later. */
static bool serve(struct fuse_worker *w, struct fuse_req *r, u32 *len)
{
	struct fuse_call c = {.s = w->s, .w = w, .req = r, .out = w->out};
	const struct fuse_op *op = NULL;
	bool malformed;
	int err;

	*len = 0;
	if (iov_read(r->in, r->nr_in, 0, &c.h, sizeof(c.h)) < sizeof(c.h)) {
		guest_warn(&w->s->rl, "share %s: a request without a head", w->s->name);
		return true;
	}
	err = check_request(&c, &op);
	malformed = err;
	if (!err)
		err = run_op(&c, op);
	pthread_mutex_lock(&w->s->mutex);
	w->s->nr_requests++;
	w->s->nr_refused += malformed;
	pthread_mutex_unlock(&w->s->mutex);
	if (c.no_reply)
		return false;
	if (!op || (!(op->flags & OP_SILENT) && !c.silent))
		*len = reply(r, c.h.unique, err, c.direct ? NULL : c.out, c.out_len);
	return true;
}

/* ---- threads ---- */

static struct fuse_req *queue_take(struct fuse_server *s)
{
	struct fuse_req *r = s->head;

	if (!r)
		return NULL;
	s->head = r->next;
	if (!s->head)
		s->tail = &s->head;
	return r;
}

/* Wait for work; with locks being waited for, no longer than RETRY_NS. With the mutex held. */
static void wait_for_work(struct fuse_server *s)
{
	struct timespec t;

	if (!s->nr_waiters) {
		pthread_cond_wait(&s->work, &s->mutex);
		return;
	}
	clock_gettime(CLOCK_MONOTONIC, &t);
	t.tv_nsec += RETRY_NS;
	if (t.tv_nsec >= (long)NSEC_PER_SEC) {
		t.tv_nsec -= (long)NSEC_PER_SEC;
		t.tv_sec++;
	}
	if (pthread_cond_timedwait(&s->work, &s->mutex, &t) != ETIMEDOUT)
		return;
	pthread_mutex_unlock(&s->mutex);
	fuse_locks_retry(s);
	pthread_mutex_lock(&s->mutex);
}

static void *worker_main(void *arg)
{
	struct fuse_worker *w = arg;
	struct fuse_server *s = w->s;
	int err = fuse_confine_thread(s);
	struct fuse_req *r;
	u32 len;

	pthread_setname_np(pthread_self(), "fuse");
	pthread_mutex_lock(&s->mutex);
	s->nr_ready++;
	if (err)
		s->worker_err = err;
	pthread_cond_broadcast(&s->ready);
	while (!s->stopping && !err) {
		r = queue_take(s);
		if (!r) {
			wait_for_work(s);
			continue;
		}
		pthread_mutex_unlock(&s->mutex);
		if (serve(w, r, &len))
			finish(s, r, len);
		pthread_mutex_lock(&s->mutex);
	}
	pthread_mutex_unlock(&s->mutex);
	return NULL;
}

void fuse_server_submit(struct fuse_server *s, struct fuse_req *r)
{
	u32 len;

	r->next = NULL;
	r->interrupted = false;
	/* For INTERRUPT, while it is queued. The guest may change it: then nothing is found. */
	r->unique = 0;
	iov_read(r->in, r->nr_in, offsetof(struct fuse_in_header, unique), &r->unique,
	         sizeof(r->unique));
	pthread_mutex_lock(&s->mutex);
	s->busy++;
	if (s->nr_workers) {
		*s->tail = r;
		s->tail = &r->next;
		pthread_cond_signal(&s->work);
	}
	pthread_mutex_unlock(&s->mutex);
	if (s->nr_workers)
		return;
	if (serve(&s->worker[0], r, &len))
		finish(s, r, len);
	fuse_locks_retry(s);
}

void fuse_server_reset(struct fuse_server *s)
{
	struct fuse_req *r;

	pthread_mutex_lock(&s->mutex);
	s->cancelled = true;
	while ((r = queue_take(s))) {
		pthread_mutex_unlock(&s->mutex);
		finish(s, r, 0);
		pthread_mutex_lock(&s->mutex);
	}
	pthread_mutex_unlock(&s->mutex);
	fuse_locks_cancel(s);
	pthread_mutex_lock(&s->mutex);
	while (s->busy)
		pthread_cond_wait(&s->idle, &s->mutex);
	s->inited = false;
	s->cancelled = false;
	pthread_mutex_unlock(&s->mutex);
	fuse_nodes_clear(s);
}

void fuse_server_stats(struct fuse_server *s, struct fuse_stats *out)
{
	pthread_mutex_lock(&s->mutex);
	*out = (struct fuse_stats){.nodes = s->nodes.used,
	                           .handles = s->handles.used,
	                           .requests = s->nr_requests,
	                           .refused = s->nr_refused};
	pthread_mutex_unlock(&s->mutex);
}

/* ---- as a device sees it ---- */

static void back_submit(struct fsback *b, struct fuse_req *r)
{
	fuse_server_submit(container_of(b, struct fuse_server, back), r);
}

static void back_reset(struct fsback *b)
{
	fuse_server_reset(container_of(b, struct fuse_server, back));
}

static void back_dump(struct fsback *b, FILE *out)
{
	struct fuse_server *s = container_of(b, struct fuse_server, back);
	struct fuse_stats st;

	fuse_server_stats(s, &st);
	fprintf(out, "  %s: %u files known, %u open; %llu requests, %llu refused\n", s->name,
	        st.nodes, st.handles, (unsigned long long)st.requests,
	        (unsigned long long)st.refused);
}

static void back_destroy(struct fsback *b)
{
	fuse_server_destroy(container_of(b, struct fuse_server, back));
}

static const struct fsback_ops back_ops = {
	.submit = back_submit,
	.reset = back_reset,
	.dump = back_dump,
	.destroy = back_destroy,
};

struct fsback *fuse_server_back(struct fuse_server *s)
{
	return &s->back;
}

/* ---- set-up ---- */

/* A descriptor for each file the guest knows of: as many as there can be. */
static int set_limits(struct fuse_server *s, const struct fuse_config *cfg)
{
	unsigned share = MAX(cfg->nr_servers, 1u);
	struct rlimit lim;
	u64 fds;

	if (getrlimit(RLIMIT_NOFILE, &lim) < 0)
		return -errno;
	if (lim.rlim_cur < lim.rlim_max) {
		rlim_t soft = lim.rlim_cur;

		lim.rlim_cur = lim.rlim_max;
		if (setrlimit(RLIMIT_NOFILE, &lim) < 0)
			lim.rlim_cur = soft;
	}
	/* An eighth is for the rest of the monitor and, half of it, for owners of locks; another
	 * for open files. */
	fds = MIN((u64)lim.rlim_cur, 1ull << 22) / share;
	s->nodes.max = cfg->max_nodes ? cfg->max_nodes : (u32)(fds - fds / 4);
	s->handles.max = cfg->max_handles ? cfg->max_handles : (u32)(fds / 8);
	if (s->nodes.max < 64 && !cfg->max_nodes) {
		log_error("share %s: the limit of open files, %llu, is too low; for example: "
		          "ulimit -n 65536",
		          s->name, (unsigned long long)lim.rlim_cur);
		return -EMFILE;
	}
	return 0;
}

static int open_root(struct fuse_server *s, const struct fuse_config *cfg)
{
	struct statfs fs;
	int fd;

	s->proc_fd = open("/proc/self/fd", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (s->proc_fd < 0 || fstatfs(s->proc_fd, &fs) < 0 || fs.f_type != PROC_SUPER_MAGIC) {
		log_error("share %s: /proc is not mounted here, and sharing a folder needs it",
		          s->name);
		return -ENOENT;
	}
	s->root_fd = fuse_reopen(s, cfg->dir_fd, O_RDONLY | O_DIRECTORY);
	if (s->root_fd < 0) {
		log_error("share %s: cannot read the folder: %s", s->name, strerror(-s->root_fd));
		return s->root_fd;
	}
	fd = openat(s->root_fd, ".", O_PATH | O_DIRECTORY | O_CLOEXEC);
	return fd < 0 ? -errno : fuse_nodes_create(s, fd);
}

static int start_workers(struct fuse_server *s, unsigned wanted)
{
	unsigned nr = MAX(wanted, 1u);
	int err = wanted ? 0 : fuse_creds_prepare(s);

	s->worker = calloc(nr, sizeof(*s->worker));
	if (!s->worker)
		return -ENOMEM;
	for (unsigned i = 0; i < nr && !err; i++) {
		struct fuse_worker *w = &s->worker[i];

		w->s = s;
		w->in = malloc(FUSE_BUF_SIZE);
		w->out = malloc(FUSE_BUF_SIZE);
		w->iov = calloc(FUSE_MAX_IOV, sizeof(*w->iov));
		if (!w->in || !w->out || !w->iov)
			return -ENOMEM;
		if (wanted)
			err = -pthread_create(&w->thread, NULL, worker_main, w);
		if (wanted && !err)
			s->nr_workers++;
	}
	pthread_mutex_lock(&s->mutex);
	while (s->nr_ready < s->nr_workers)
		pthread_cond_wait(&s->ready, &s->mutex);
	if (!err)
		err = s->worker_err;
	pthread_mutex_unlock(&s->mutex);
	return err;
}

static void init_sync(struct fuse_server *s)
{
	pthread_condattr_t a;

	pthread_mutex_init(&s->mutex, NULL);
	pthread_mutex_init(&s->lock_mutex, NULL);
	pthread_condattr_init(&a);
	pthread_condattr_setclock(&a, CLOCK_MONOTONIC);
	pthread_cond_init(&s->work, &a);
	pthread_cond_init(&s->ready, &a);
	pthread_cond_init(&s->idle, &a);
	pthread_condattr_destroy(&a);
}

int fuse_server_create(struct fuse_server **out, const struct fuse_config *cfg)
{
	struct fuse_server *s = calloc(1, sizeof(*s));
	int err;

	if (!s) {
		log_error("out of memory");
		return -ENOMEM;
	}
	s->back.ops = &back_ops;
	s->name = cfg->name;
	s->read_only = cfg->read_only;
	s->host_locks = cfg->host_locks;
	s->uid = geteuid();
	s->gid = getegid();
	s->real_ids = s->uid == 0;
	s->root_fd = s->proc_fd = -1;
	s->tail = &s->head;
	init_sync(s);
	err = set_limits(s, cfg);
	if (!err)
		err = open_root(s, cfg);
	if (!err) {
		err = start_workers(s, cfg->nr_workers);
		if (err)
			log_error("share %s: cannot start its threads: %s", s->name,
			          strerror(-err));
	}
	if (err)
		fuse_server_destroy(s);
	else
		*out = s;
	return err;
}

void fuse_server_destroy(struct fuse_server *s)
{
	if (!s)
		return;
	pthread_mutex_lock(&s->mutex);
	s->stopping = true;
	pthread_cond_broadcast(&s->work);
	pthread_mutex_unlock(&s->mutex);
	for (unsigned i = 0; i < s->nr_workers; i++)
		pthread_join(s->worker[i].thread, NULL);
	fuse_locks_cancel(s);
	fuse_nodes_destroy(s);
	for (unsigned i = 0; s->worker && i < MAX(s->nr_workers, 1u); i++) {
		free(s->worker[i].in);
		free(s->worker[i].out);
		free(s->worker[i].iov);
	}
	free(s->worker);
	if (s->root_fd >= 0)
		close(s->root_fd);
	if (s->proc_fd >= 0)
		close(s->proc_fd);
	pthread_cond_destroy(&s->work);
	pthread_cond_destroy(&s->ready);
	pthread_cond_destroy(&s->idle);
	pthread_mutex_destroy(&s->mutex);
	pthread_mutex_destroy(&s->lock_mutex);
	free(s);
}
