// SPDX-License-Identifier: MIT
/* Locks that the guest leaves to the server, so that they hold among all who use the folder: the
 * host's programs and other virtual machines.
 *
 * A POSIX lock belongs to an owner, of which there are many in one process here. Each owner of
 * locks on a file therefore gets an open file description of his own, whose locks (F_OFD_SETLK)
 * are his; flock(2)'s belong to the guest's open file, which has one anyway.
 *
 * Who must wait occupies no thread: the request is kept, and tried again when a lock is let go
 * here, and every 20 ms, because nobody tells of what others let go. Deadlocks are not found. */
#include "io/fuse_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/file.h>
#include <unistd.h>

#define WAITERS_MAX 4096
#define OWNERS_MAX  8192u /* all of a file's are gone through for each request */

struct fuse_lock_owner {
	struct fuse_lock_owner *next;
	u64 owner;
	int fd;
};

struct fuse_waiter {
	struct fuse_waiter *next;
	struct fuse_req *req;
	struct fuse_handle *h;
	u64 unique;
	struct fuse_lk_in in;
	int err; /* what is answered, once it is known */
};

/* ---- owners; with lock_mutex held ---- */

static struct fuse_lock_owner *owner_find(const struct fuse_node *n, u64 owner)
{
	struct fuse_lock_owner *o = n->owners;

	while (o && o->owner != owner)
		o = o->next;
	return o;
}

static int owner_make(struct fuse_server *s, struct fuse_handle *h, u64 owner,
                      struct fuse_lock_owner **out)
{
	struct fuse_lock_owner *o;
	int fd = -EACCES;

	/* Their descriptors are the monitor's own share (set_limits()): it keeps half of that. */
	if (s->nr_owners >= MIN(s->handles.max / 2, OWNERS_MAX))
		return -ENOLCK;
	/* A lock for reading wants a descriptor to read from, one for writing one to write to; the
	 * owner may ask for both, through several of his open files. */
	if (!s->read_only)
		fd = fuse_reopen(s, h->node->fd, O_RDWR);
	if (fd < 0)
		fd = fuse_reopen(s, h->node->fd, h->flags);
	if (fd < 0)
		return fd;
	o = calloc(1, sizeof(*o));
	if (!o) {
		close(fd);
		return -ENOMEM;
	}
	*o = (struct fuse_lock_owner){.next = h->node->owners, .owner = owner, .fd = fd};
	h->node->owners = o;
	s->nr_owners++;
	*out = o;
	return 0;
}

void fuse_locks_free(struct fuse_server *s, struct fuse_lock_owner *list)
{
	if (!list)
		return;
	pthread_mutex_lock(&s->lock_mutex);
	while (list) {
		struct fuse_lock_owner *o = list;

		list = o->next;
		s->nr_owners--;
		close(o->fd);
		free(o);
	}
	pthread_mutex_unlock(&s->lock_mutex);
}

void fuse_locks_drop_owner(struct fuse_server *s, struct fuse_node *n, u64 owner)
{
	struct fuse_lock_owner *o = NULL;

	pthread_mutex_lock(&s->lock_mutex);
	for (struct fuse_lock_owner **p = &n->owners; *p; p = &(*p)->next)
		if ((*p)->owner == owner) {
			o = *p;
			*p = o->next;
			break;
		}
	pthread_mutex_unlock(&s->lock_mutex);
	if (!o)
		return;
	o->next = NULL;
	fuse_locks_free(s, o);
	fuse_locks_retry(s);
}

/* ---- asking ---- */

/* The range as fcntl(2) has it. 0 or -EINVAL. */
static int range(const struct fuse_file_lock *lk, struct flock *fl)
{
	if (lk->start > lk->end || lk->start > INT64_MAX)
		return -EINVAL;
	if (lk->type != F_RDLCK && lk->type != F_WRLCK && lk->type != F_UNLCK)
		return -EINVAL;
	*fl = (struct flock){
		.l_type = (short)lk->type, .l_whence = SEEK_SET, .l_start = (off_t)lk->start};
	/* OFFSET_MAX, the kernel's "to the end", is a length of 0. */
	if (lk->end < INT64_MAX)
		fl->l_len = (off_t)(lk->end - lk->start + 1);
	return 0;
}

static int try_flock(const struct fuse_handle *h, u32 type)
{
	int op = type == F_RDLCK ? LOCK_SH : type == F_WRLCK ? LOCK_EX : LOCK_UN;

	return flock(h->fd, op | LOCK_NB) < 0 ? -errno : 0;
}

/* One attempt; -EAGAIN: someone else holds it. With lock_mutex held. */
static int try_lock(struct fuse_server *s, struct fuse_handle *h, const struct fuse_lk_in *in)
{
	struct fuse_lock_owner *o;
	struct flock fl;
	int err = range(&in->lk, &fl);

	if (err)
		return err;
	if (in->lk_flags & FUSE_LK_FLOCK)
		return try_flock(h, in->lk.type);
	o = owner_find(h->node, in->owner);
	if (!o && fl.l_type == F_UNLCK)
		return 0;
	if (!o)
		err = owner_make(s, h, in->owner, &o);
	if (err)
		return err;
	if (fcntl(o->fd, F_OFD_SETLK, &fl) < 0)
		return errno == EACCES ? -EAGAIN : -errno;
	return 0;
}

/* Keep the request until the lock is to be had. With lock_mutex held. */
static int wait_for_lock(struct fuse_call *c, struct fuse_handle *h, const struct fuse_lk_in *in)
{
	struct fuse_server *s = c->s;
	struct fuse_waiter *w;
	bool ends;

	pthread_mutex_lock(&s->mutex);
	ends = s->cancelled || s->stopping || c->req->interrupted;
	pthread_mutex_unlock(&s->mutex);
	if (ends)
		return -EINTR;
	if (s->nr_waiters >= WAITERS_MAX)
		return -ENOLCK;
	w = calloc(1, sizeof(*w));
	if (!w)
		return -ENOMEM;
	*w = (struct fuse_waiter){
		.next = s->waiters, .req = c->req, .h = h, .unique = c->h.unique, .in = *in};
	s->waiters = w;
	c->no_reply = true;
	pthread_mutex_lock(&s->mutex);
	s->nr_waiters++;
	pthread_cond_signal(&s->work); /* someone must look at the clock */
	pthread_mutex_unlock(&s->mutex);
	return 0;
}

static int set_lock(struct fuse_call *c, bool wait)
{
	const struct fuse_lk_in *in = c->arg;
	struct fuse_server *s = c->s;
	struct fuse_handle *h;
	int err;

	if (!s->host_locks)
		return -ENOSYS;
	h = fuse_handle_get(s, in->fh, c->node, false);
	if (!h)
		return -EBADF;
	pthread_mutex_lock(&s->lock_mutex);
	err = try_lock(s, h, in);
	if (err == -EAGAIN && wait)
		err = wait_for_lock(c, h, in);
	pthread_mutex_unlock(&s->lock_mutex);
	if (!c->no_reply)
		fuse_handle_put(s, h); /* else the waiter has it */
	if (!err && in->lk.type != F_WRLCK)
		fuse_locks_retry(s);
	return err;
}

int fuse_op_setlk(struct fuse_call *c)
{
	return set_lock(c, false);
}

int fuse_op_setlkw(struct fuse_call *c)
{
	return set_lock(c, true);
}

int fuse_op_getlk(struct fuse_call *c)
{
	const struct fuse_lk_in *in = c->arg;
	struct fuse_lk_out *out = c->out;
	struct fuse_lock_owner *o;
	struct fuse_handle *h;
	struct flock fl;
	int err = range(&in->lk, &fl);

	if (!c->s->host_locks)
		return -ENOSYS;
	if (err)
		return err;
	h = fuse_handle_get(c->s, in->fh, c->node, false);
	if (!h)
		return -EBADF;
	pthread_mutex_lock(&c->s->lock_mutex);
	o = owner_find(h->node, in->owner);
	if (fcntl(o ? o->fd : h->fd, F_OFD_GETLK, &fl) < 0)
		err = -errno;
	pthread_mutex_unlock(&c->s->lock_mutex);
	fuse_handle_put(c->s, h);
	out->lk.type = (u32)fl.l_type;
	if (fl.l_type != F_UNLCK) {
		out->lk.start = (u64)fl.l_start;
		out->lk.end = fl.l_len ? (u64)(fl.l_start + fl.l_len - 1) : INT64_MAX;
	}
	return err; /* no pid: the holder may be a process of the host, or of another guest */
}

/* ---- waiting ---- */

static void answer_waiters(struct fuse_server *s, struct fuse_waiter *list)
{
	while (list) {
		struct fuse_waiter *w = list;

		list = w->next;
		fuse_handle_put(s, w->h);
		fuse_reply_later(s, w->req, w->unique, w->err);
		free(w);
	}
}

/* Move the waiters for whom `ends` sets an answer to a list. With lock_mutex held. */
static struct fuse_waiter *
take_waiters(struct fuse_server *s,
             bool (*ends)(struct fuse_server *s, struct fuse_waiter *w, u64 arg), u64 arg)
{
	struct fuse_waiter **p = &s->waiters, *list = NULL;
	unsigned nr = 0;

	while (*p) {
		struct fuse_waiter *w = *p;

		if (!ends(s, w, arg)) {
			p = &w->next;
			continue;
		}
		*p = w->next;
		w->next = list;
		list = w;
		nr++;
	}
	pthread_mutex_lock(&s->mutex);
	s->nr_waiters -= nr;
	pthread_mutex_unlock(&s->mutex);
	return list;
}

static bool gets_lock(struct fuse_server *s, struct fuse_waiter *w, u64 arg)
{
	w->err = try_lock(s, w->h, &w->in);
	return w->err != -EAGAIN;
}

static bool is_ended(struct fuse_server *s, struct fuse_waiter *w, u64 unique)
{
	w->err = -EINTR;
	return !unique || w->unique == unique;
}

void fuse_locks_retry(struct fuse_server *s)
{
	struct fuse_waiter *list;

	pthread_mutex_lock(&s->lock_mutex);
	list = take_waiters(s, gets_lock, 0);
	pthread_mutex_unlock(&s->lock_mutex);
	answer_waiters(s, list);
}

void fuse_locks_cancel(struct fuse_server *s)
{
	struct fuse_waiter *list;

	pthread_mutex_lock(&s->lock_mutex);
	list = take_waiters(s, is_ended, 0);
	pthread_mutex_unlock(&s->lock_mutex);
	answer_waiters(s, list);
}

int fuse_op_interrupt(struct fuse_call *c)
{
	const struct fuse_interrupt_in *in = c->arg;
	struct fuse_server *s = c->s;
	struct fuse_waiter *list = NULL;
	bool found = false;

	c->silent = true;
	if (!in->unique)
		return -EINVAL;
	pthread_mutex_lock(&s->lock_mutex);
	list = take_waiters(s, is_ended, in->unique);
	pthread_mutex_unlock(&s->lock_mutex);
	found = list;
	answer_waiters(s, list);
	pthread_mutex_lock(&s->mutex);
	for (struct fuse_req *r = s->head; r && !found; r = r->next)
		found = r->interrupted = r->unique == in->unique;
	pthread_mutex_unlock(&s->mutex);
	if (found)
		return 0;
	/* Being served now, or done: the guest's kernel asks again if it still waits. */
	c->silent = false;
	return -EAGAIN;
}
