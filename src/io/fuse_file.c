// SPDX-License-Identifier: MIT
/* Open files. Only regular files are opened: opening a device or a FIFO of the folder would do
 * something on the host (the guest's kernel never asks for it: such files are its own business). */
#include "io/fuse_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/syscall.h>
#include <unistd.h>

#define COPY_MAX (16 * MiB) /* of COPY_FILE_RANGE at a time, so that it has an end */

/* Guest's open flags to the host's. O_APPEND is not one of them: a page of a mapping that is
 * written back through such a file would be appended (see fuse_op_write). O_DIRECT is not: it would
 * want the guest's buffers aligned as the host's disk likes it. */
static int open_flags(u32 flags, int *out)
{
	if ((flags & O_ACCMODE) == O_ACCMODE)
		return -EINVAL;
	*out = (int)(flags & (O_ACCMODE | O_TRUNC | O_SYNC | O_DSYNC));
	return 0;
}

int fuse_kill_suid(int fd)
{
	struct stat st;
	mode_t kill = 0;

	if (fstat(fd, &st) < 0)
		return -errno;
	if (st.st_mode & S_ISUID)
		kill |= S_ISUID;
	if ((st.st_mode & (S_ISGID | S_IXGRP)) == (S_ISGID | S_IXGRP))
		kill |= S_ISGID;
	if (!kill)
		return 0;
	return fchmod(fd, st.st_mode & 07777 & ~kill) < 0 ? -errno : 0;
}

/* The guest's page cache of the file may live on if nothing changed since it was last right:
 * what others changed between a close and the next open is seen. */
static u32 cache_flags(struct fuse_server *s, struct fuse_node *n, int fd)
{
	struct stat st;
	bool same;

	if (fstat(fd, &st) < 0)
		return 0;
	pthread_mutex_lock(&s->mutex);
	same = n->seen.tv_sec == st.st_ctim.tv_sec && n->seen.tv_nsec == st.st_ctim.tv_nsec;
	n->seen = st.st_ctim;
	pthread_mutex_unlock(&s->mutex);
	return same ? FOPEN_KEEP_CACHE : 0;
}

static int finish_open(struct fuse_call *c, struct fuse_node *n, int fd, u32 flags, u32 open_in,
                       struct fuse_open_out *out)
{
	int err = 0;

	if (open_in & FUSE_OPEN_KILL_SUIDGID && flags & O_TRUNC)
		err = fuse_kill_suid(fd);
	if (err) {
		close(fd);
		return err;
	}
	out->open_flags = cache_flags(c->s, n, fd);
	/* FLUSH at close() has nothing to do for who only reads, but to drop locks. */
	if ((flags & O_ACCMODE) == O_RDONLY && !c->s->host_locks)
		out->open_flags |= FOPEN_NOFLUSH;
	return fuse_handle_create(c->s, n, fd, (int)(flags & O_ACCMODE), false, &out->fh);
}

static int open_node(struct fuse_call *c, struct fuse_node *n, u32 flags, u32 open_in,
                     struct fuse_open_out *out)
{
	int how, fd, err = open_flags(flags, &how);

	if (err)
		return err;
	if (c->s->read_only && how & (O_ACCMODE | O_TRUNC))
		return -EROFS;
	if (n->type != S_IFREG)
		return n->type == S_IFDIR ? -EISDIR : n->type == S_IFLNK ? -ELOOP : -EACCES;
	fd = fuse_reopen(c->s, n->fd, how);
	return fd < 0 ? fd : finish_open(c, n, fd, flags, open_in, out);
}

int fuse_op_open(struct fuse_call *c)
{
	const struct fuse_open_in *in = c->arg;

	return open_node(c, c->node, in->flags, in->open_flags, c->out);
}

/* The node of a file that was just made and opened. */
static int enter_open(struct fuse_call *c, int fd, struct fuse_entry_out *e)
{
	int path = fuse_reopen(c->s, fd, O_PATH), err;
	struct stat st;
	u64 id;

	if (path < 0)
		return path;
	if (fstat(path, &st) < 0) {
		err = -errno;
		close(path);
		return err;
	}
	err = fuse_node_enter(c->s, path, &st, &id);
	if (!err)
		fuse_entry_fill(c->s, e, id, &st);
	return err;
}

static int finish_create(struct fuse_call *c, int fd, const struct fuse_create_in *in)
{
	struct fuse_entry_out *e = c->out;
	struct fuse_open_out *o = (struct fuse_open_out *)(e + 1);
	struct fuse_node *n;
	int err = enter_open(c, fd, e);

	if (err) {
		close(fd);
		return err;
	}
	/* finish_open() takes a reference of its own; the look-up just counted keeps n till then,
	 * unless the guest guesses its number and forgets it. */
	n = fuse_node_get(c->s, e->nodeid);
	if (!n) {
		close(fd);
		return -ESTALE;
	}
	err = finish_open(c, n, fd, in->flags, 0, o);
	fuse_node_put(c->s, n);
	if (err)
		fuse_node_forget(c->s, e->nodeid, 1);
	return err;
}

/* What is there already: opened by its node, so that nothing but a regular file is. */
static int create_existing(struct fuse_call *c, const struct fuse_create_in *in)
{
	struct fuse_entry_out *e = c->out;
	struct fuse_node *n;
	int err = fuse_lookup(c, c->name[0], e);

	if (err)
		return err;
	n = fuse_node_get(c->s, e->nodeid);
	err = -ESTALE; /* the guest's kernel looks again */
	if (n && n->type == S_IFREG)
		err = open_node(c, n, in->flags, in->open_flags, (struct fuse_open_out *)(e + 1));
	if (n)
		fuse_node_put(c->s, n);
	if (err)
		fuse_node_forget(c->s, e->nodeid, 1);
	return err;
}

int fuse_op_create(struct fuse_call *c)
{
	const struct fuse_create_in *in = c->arg;
	int how, fd, err = fuse_name_check(c->name[0]);

	if (!err)
		err = open_flags(in->flags, &how);
	if (!err)
		err = fuse_creds_enter(c);
	if (err)
		return err;
	fd = fuse_open_beneath(c->node, c->name[0], (u64)how | O_CREAT | O_EXCL, in->mode & 07777);
	err = MIN(fd, 0);
	fuse_creds_leave(c);
	if (err == -EEXIST && !(in->flags & O_EXCL))
		return create_existing(c, in);
	return err ? err : finish_create(c, fd, in);
}

int fuse_op_tmpfile(struct fuse_call *c)
{
	const struct fuse_create_in *in = c->arg;
	int how, fd, err = open_flags(in->flags, &how);

	if (c->node->type != S_IFDIR)
		return -ENOTDIR;
	if (!err && (how & O_ACCMODE) == O_RDONLY)
		err = -EINVAL;
	if (!err)
		err = fuse_creds_enter(c);
	if (err)
		return err;
	/* O_EXCL would forbid to give it a name later; the guest's kernel keeps count of that. */
	fd = fuse_open_beneath(c->node, ".", (u64)(how & ~O_TRUNC) | O_TMPFILE, in->mode & 07777);
	err = MIN(fd, 0);
	fuse_creds_leave(c);
	return err ? err : finish_create(c, fd, in);
}

/* ---- data ---- */

static struct fuse_handle *file_get(struct fuse_call *c, u64 fh, int mode)
{
	struct fuse_handle *h = fuse_handle_get(c->s, fh, c->node, false);

	if (!h || h->flags == O_RDWR || h->flags == mode)
		return h;
	fuse_handle_put(c->s, h);
	return NULL;
}

int fuse_op_read(struct fuse_call *c)
{
	const struct fuse_read_in *in = c->arg;
	/* No more than INIT said: a thread must get to the end of what a guest asks of it. */
	size_t max = MIN(c->data_max, (size_t)FUSE_MAX_WRITE);
	size_t want = MIN((size_t)in->size, max), done = 0;
	struct fuse_handle *h = file_get(c, in->fh, O_RDONLY);
	int err = 0;

	if (!h)
		return -EBADF;
	while (done < want) {
		unsigned nr = iov_slice(c->req->out, c->req->nr_out,
		                        sizeof(struct fuse_out_header) + done, want - done,
		                        c->w->iov, FUSE_MAX_IOV);
		ssize_t n = preadv(h->fd, c->w->iov, (int)nr, (off_t)(in->offset + done));

		if (n < 0)
			err = -errno;
		if (n <= 0)
			break;
		done += (size_t)n;
	}
	fuse_handle_put(c->s, h);
	if (err && !done)
		return err;
	c->direct = true;
	c->out_len = done;
	return 0;
}

/* RWF_APPEND: at the host's end of the file, in one step with finding it. */
static ssize_t write_part(const struct fuse_handle *h, const struct iovec *iov, unsigned nr,
                          u64 off, bool append)
{
	if (append)
		return pwritev2(h->fd, iov, (int)nr, (off_t)off, RWF_APPEND);
	return pwritev(h->fd, iov, (int)nr, (off_t)off);
}

int fuse_op_write(struct fuse_call *c)
{
	const struct fuse_write_in *in = c->arg;
	struct fuse_write_out *out = c->out;
	size_t head = sizeof(c->h) + sizeof(*in), done = 0;
	bool append = in->flags & O_APPEND && !(in->write_flags & FUSE_WRITE_CACHE);
	struct fuse_handle *h;
	int err = 0;

	if (in->size > c->in_len - head || in->size > FUSE_MAX_WRITE)
		return -EINVAL;
	h = file_get(c, in->fh, O_WRONLY);
	if (!h)
		return -EBADF;
	if (in->write_flags & FUSE_WRITE_KILL_SUIDGID)
		err = fuse_kill_suid(h->fd);
	while (!err && done < in->size) {
		unsigned nr = iov_slice(c->req->in, c->req->nr_in, head + done, in->size - done,
		                        c->w->iov, FUSE_MAX_IOV);
		ssize_t n = write_part(h, c->w->iov, nr, in->offset + done, append);

		if (n < 0)
			err = -errno;
		if (n <= 0)
			break;
		done += (size_t)n;
	}
	fuse_handle_put(c->s, h);
	if (err && !done)
		return err;
	out->size = (u32)done;
	return 0;
}

/* ---- the rest of a file's life ---- */

/* The guest's cache is right when it has written the last: what it wrote is no foreign change. */
static void remember_change(struct fuse_call *c, const struct fuse_handle *h)
{
	struct stat st;

	if (h->flags == O_RDONLY || fstat(h->fd, &st) < 0)
		return;
	pthread_mutex_lock(&c->s->mutex);
	c->node->seen = st.st_ctim;
	pthread_mutex_unlock(&c->s->mutex);
}

int fuse_op_flush(struct fuse_call *c)
{
	const struct fuse_flush_in *in = c->arg;
	struct fuse_handle *h = fuse_handle_get(c->s, in->fh, c->node, false);
	int fd, err = 0;

	if (!h)
		return -EBADF;
	if (c->s->host_locks)
		fuse_locks_drop_owner(c->s, c->node, in->lock_owner);
	if (h->flags != O_RDONLY) {
		remember_change(c, h);
		/* File systems that write late tell of errors in close(2). */
		fd = fcntl(h->fd, F_DUPFD_CLOEXEC, 0);
		if (fd < 0 || close(fd) < 0)
			err = -errno;
	}
	fuse_handle_put(c->s, h);
	return err;
}

int fuse_op_release(struct fuse_call *c)
{
	const struct fuse_release_in *in = c->arg;
	bool dir = c->h.opcode == FUSE_RELEASEDIR;
	struct fuse_handle *h = fuse_handle_get(c->s, in->fh, c->node, dir);

	if (!h)
		return -EBADF;
	if (!dir)
		remember_change(c, h);
	if (in->release_flags & FUSE_RELEASE_FLOCK_UNLOCK && !dir)
		flock(h->fd, LOCK_UN);
	fuse_handle_release(c->s, h);
	fuse_handle_put(c->s, h);
	return 0;
}

int fuse_op_fsync(struct fuse_call *c)
{
	const struct fuse_fsync_in *in = c->arg;
	bool dir = c->h.opcode == FUSE_FSYNCDIR;
	struct fuse_handle *h = fuse_handle_get(c->s, in->fh, c->node, dir);
	int r;

	if (!h)
		return -EBADF;
	r = in->fsync_flags & FUSE_FSYNC_FDATASYNC ? fdatasync(h->fd) : fsync(h->fd);
	if (r < 0)
		r = -errno;
	fuse_handle_put(c->s, h);
	return r;
}

int fuse_op_fallocate(struct fuse_call *c)
{
	const struct fuse_fallocate_in *in = c->arg;
	struct fuse_handle *h;
	int err = 0;

	if (in->mode & ~(u32)(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE))
		return -EOPNOTSUPP;
	h = file_get(c, in->fh, O_WRONLY);
	if (!h)
		return -EBADF;
	if (fallocate(h->fd, (int)in->mode, (off_t)in->offset, (off_t)in->length) < 0)
		err = -errno;
	fuse_handle_put(c->s, h);
	return err;
}

/* The guest's kernel knows the rest: only holes are the server's to tell. */
int fuse_op_lseek(struct fuse_call *c)
{
	const struct fuse_lseek_in *in = c->arg;
	struct fuse_lseek_out *out = c->out;
	struct fuse_handle *h;
	off_t r;

	if (in->whence != SEEK_DATA && in->whence != SEEK_HOLE)
		return -EINVAL;
	h = fuse_handle_get(c->s, in->fh, c->node, false);
	if (!h)
		return -EBADF;
	r = lseek(h->fd, (off_t)in->offset, (int)in->whence);
	out->offset = (u64)r;
	if (r < 0)
		r = -errno;
	fuse_handle_put(c->s, h);
	return r < 0 ? (int)r : 0;
}

int fuse_op_copy_file_range(struct fuse_call *c)
{
	const struct fuse_copy_file_range_in *in = c->arg;
	struct fuse_write_out *out = c->out;
	struct fuse_node *to = fuse_node_get(c->s, in->nodeid_out);
	struct fuse_handle *src = file_get(c, in->fh_in, O_RDONLY), *dst = NULL;
	loff_t from_off = (loff_t)in->off_in, to_off = (loff_t)in->off_out;
	ssize_t n = -EBADF;

	if (to)
		dst = fuse_handle_get(c->s, in->fh_out, to, false);
	if (src && dst && dst->flags != O_RDONLY) {
		n = in->flags ? -EINVAL
		              : copy_file_range(src->fd, &from_off, dst->fd, &to_off,
		                                MIN(in->len, COPY_MAX), 0);
		if (n == -1)
			n = -errno;
	}
	if (dst)
		fuse_handle_put(c->s, dst);
	if (src)
		fuse_handle_put(c->s, src);
	if (to)
		fuse_node_put(c->s, to);
	if (n < 0)
		return (int)n;
	out->size = (u32)n;
	return 0;
}

int fuse_op_syncfs(struct fuse_call *c)
{
	if (c->s->read_only)
		return 0;
	return syncfs(c->s->root_fd) < 0 ? -errno : 0;
}
