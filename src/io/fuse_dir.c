// SPDX-License-Identifier: MIT
/* Names: looking them up, making and removing them, and reading directories. All names come from
 * the guest, or, from a directory, from the host, and are one component each. */
#include "io/fuse_priv.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define DIR_CHUNK (32 * KiB) /* of the host's entries at a time */

void fuse_entry_fill(const struct fuse_server *s, struct fuse_entry_out *e, u64 id,
                     const struct stat *st)
{
	*e = (struct fuse_entry_out){
		.nodeid = id, .entry_valid = FUSE_VALID_SEC, .attr_valid = FUSE_VALID_SEC};
	fuse_attr_fill(s, &e->attr, st);
}

int fuse_lookup(struct fuse_call *c, const char *name, struct fuse_entry_out *e)
{
	struct stat st;
	u64 id;
	int fd = fuse_open_child(c->node, name), err;

	if (fd == -EXDEV) /* another file system is mounted there: not part of what is shared */
		fd = -EACCES;
	if (fd < 0)
		return fd;
	if (fstat(fd, &st) < 0) {
		err = -errno;
		close(fd);
		return err;
	}
	err = fuse_node_enter(c->s, fd, &st, &id);
	if (err)
		return err;
	fuse_entry_fill(c->s, e, id, &st);
	return 0;
}

/* That a name is not there the guest may remember as long as one that is: Linux takes an entry of
 * node 0 as that. A search for headers or a PATH asks for the same missing names again and again.
 */
int fuse_op_lookup(struct fuse_call *c)
{
	int err = fuse_lookup(c, c->name[0], c->out);

	if (err != -ENOENT)
		return err;
	*(struct fuse_entry_out *)c->out = (struct fuse_entry_out){.entry_valid = FUSE_VALID_SEC};
	return 0;
}

int fuse_op_forget(struct fuse_call *c)
{
	const struct fuse_forget_in *in = c->arg;

	fuse_node_forget(c->s, c->h.nodeid, in->nlookup);
	return 0;
}

int fuse_op_batch_forget(struct fuse_call *c)
{
	const struct fuse_batch_forget_in *in = c->arg;
	size_t nr = MIN(in->count, c->tail_len / sizeof(struct fuse_forget_one));

	for (size_t i = 0; i < nr; i++) {
		struct fuse_forget_one one;

		memcpy(&one, c->tail + i * sizeof(one), sizeof(one));
		fuse_node_forget(c->s, one.nodeid, one.nlookup);
	}
	return 0;
}

/* ---- making and removing ---- */

/* Device nodes of the guest's choice on the host would be a way around the host's rights. What
 * overlayfs calls a whiteout, device 0:0, stands for nothing. */
static bool mknod_allowed(u32 mode, u32 rdev)
{
	switch (mode & S_IFMT) {
	case 0:
	case S_IFREG:
	case S_IFIFO:
	case S_IFSOCK:
		return true;
	case S_IFCHR:
		return rdev == 0;
	default:
		return false;
	}
}

int fuse_op_mknod(struct fuse_call *c)
{
	const struct fuse_mknod_in *in = c->arg;
	int err = fuse_name_check(c->name[0]);

	if (err)
		return err;
	if (!mknod_allowed(in->mode, in->rdev))
		return -EPERM;
	err = fuse_creds_enter(c);
	if (err)
		return err;
	err = mknodat(c->node->fd, c->name[0], in->mode & (S_IFMT | 07777), 0) < 0 ? -errno : 0;
	fuse_creds_leave(c);
	return err ? err : fuse_lookup(c, c->name[0], c->out);
}

int fuse_op_mkdir(struct fuse_call *c)
{
	const struct fuse_mkdir_in *in = c->arg;
	int err = fuse_name_check(c->name[0]);

	if (!err)
		err = fuse_creds_enter(c);
	if (err)
		return err;
	err = mkdirat(c->node->fd, c->name[0], in->mode & 07777) < 0 ? -errno : 0;
	fuse_creds_leave(c);
	return err ? err : fuse_lookup(c, c->name[0], c->out);
}

/* The link's text is the guest's affair: nobody follows it here. */
int fuse_op_symlink(struct fuse_call *c)
{
	int err = fuse_name_check(c->name[0]);

	if (!err)
		err = fuse_creds_enter(c);
	if (err)
		return err;
	err = symlinkat(c->name[1], c->node->fd, c->name[0]) < 0 ? -errno : 0;
	fuse_creds_leave(c);
	return err ? err : fuse_lookup(c, c->name[0], c->out);
}

int fuse_op_readlink(struct fuse_call *c)
{
	ssize_t n;

	if (c->node->type != S_IFLNK)
		return -EINVAL;
	n = readlinkat(c->node->fd, "", c->out, c->out_max);
	if (n < 0)
		return -errno;
	c->out_len = (size_t)n;
	return 0;
}

int fuse_op_link(struct fuse_call *c)
{
	const struct fuse_link_in *in = c->arg;
	int err = fuse_name_check(c->name[0]);
	struct fuse_node *old;

	if (err)
		return err;
	old = fuse_node_get(c->s, in->oldnodeid);
	if (!old)
		return -ESTALE;
	/* By descriptor: linkat(AT_EMPTY_PATH) would want a capability. The link that is followed
	 * is /proc's; a symbolic link of the guest's gets a second name itself. */
	if (linkat(c->s->proc_fd, fuse_fd_name(old->fd).text, c->node->fd, c->name[0],
	           AT_SYMLINK_FOLLOW) < 0)
		err = -errno;
	fuse_node_put(c->s, old);
	return err ? err : fuse_lookup(c, c->name[0], c->out);
}

static int unlink_name(struct fuse_call *c, int flags)
{
	int err = fuse_name_check(c->name[0]);

	if (!err && unlinkat(c->node->fd, c->name[0], flags) < 0)
		err = -errno;
	return err;
}

int fuse_op_unlink(struct fuse_call *c)
{
	return unlink_name(c, 0);
}

int fuse_op_rmdir(struct fuse_call *c)
{
	return unlink_name(c, AT_REMOVEDIR);
}

static int rename_to(struct fuse_call *c, u64 newdir, unsigned flags)
{
	int err = fuse_name_check(c->name[0]);
	struct fuse_node *to;

	if (!err)
		err = fuse_name_check(c->name[1]);
	if (err)
		return err;
	if (flags & ~(unsigned)(RENAME_NOREPLACE | RENAME_EXCHANGE | RENAME_WHITEOUT))
		return -EINVAL;
	to = fuse_node_get(c->s, newdir);
	if (!to)
		return -ESTALE;
	if (syscall(SYS_renameat2, c->node->fd, c->name[0], to->fd, c->name[1], flags) < 0)
		err = -errno;
	fuse_node_put(c->s, to);
	return err;
}

int fuse_op_rename(struct fuse_call *c)
{
	const struct fuse_rename_in *in = c->arg;

	return rename_to(c, in->newdir, 0);
}

int fuse_op_rename2(struct fuse_call *c)
{
	const struct fuse_rename2_in *in = c->arg;

	return rename_to(c, in->newdir, in->flags);
}

/* ---- directories ---- */

int fuse_op_opendir(struct fuse_call *c)
{
	struct fuse_open_out *out = c->out;
	int fd;

	if (c->node->type != S_IFDIR)
		return -ENOTDIR;
	fd = fuse_reopen(c->s, c->node->fd, O_RDONLY | O_DIRECTORY);
	if (fd < 0)
		return fd;
	return fuse_handle_create(c->s, c->node, fd, O_RDONLY, true, &out->fh);
}

struct dir_entry { /* getdents64(2) */
	u64 ino;
	s64 off;
	u16 reclen;
	u8 type;
	char name[];
};

/* What a directory's reading goes through. */
struct dir_read {
	struct fuse_call *c;
	bool plus;
	bool scarce;
	size_t size, done; /* of the answer */
	u64 pos;           /* behind the last entry that went into it */
};

static void dirent_fill(struct fuse_dirent *d, const struct dir_entry *e, size_t len)
{
	d->ino = e->ino;
	d->off = (u64)e->off;
	d->namelen = (u32)len;
	d->type = e->type;
	memcpy(d->name, e->name, len);
}

/* One of the host's entries into the answer; false: no room. */
static bool dir_put(struct dir_read *r, const struct dir_entry *e)
{
	size_t len = strnlen(e->name, e->reclen - offsetof(struct dir_entry, name));
	size_t head = r->plus ? FUSE_NAME_OFFSET_DIRENTPLUS : FUSE_NAME_OFFSET;
	size_t need = FUSE_DIRENT_ALIGN(head + len);
	u8 *to = (u8 *)r->c->out + r->done;
	bool dots = !strcmp(e->name, ".") || !strcmp(e->name, "..");

	if (need > r->size - r->done)
		return false;
	memset(to, 0, need);
	if (!r->plus) {
		dirent_fill((struct fuse_dirent *)to, e, len);
	} else {
		struct fuse_direntplus *p = (struct fuse_direntplus *)to;

		dirent_fill(&p->dirent, e, len);
		/* Without a node id it is a name only: what can't be looked up, too. */
		if (!dots && !r->scarce && fuse_lookup(r->c, e->name, &p->entry_out) < 0)
			memset(&p->entry_out, 0, sizeof(p->entry_out));
	}
	r->done += need;
	r->pos = (u64)e->off;
	return true;
}

/* Fill the answer from the descriptor's position on. 0 or -errno; *all: what was read went in. */
static int dir_fill(struct dir_read *r, int fd, bool *all)
{
	_Alignas(8) u8 chunk[DIR_CHUNK];
	/* No more than fits by the shortest form, so that little is read twice. */
	size_t ask = MAX(MIN((size_t)DIR_CHUNK, r->size - r->done), (size_t)1024);
	long n = syscall(SYS_getdents64, fd, chunk, ask);

	*all = false;
	if (n < 0)
		return -errno;
	for (long at = 0; at < n;) {
		const struct dir_entry *e = (const struct dir_entry *)(chunk + at);

		if (!dir_put(r, e))
			return r->done ? 0 : -EINVAL; /* not even one: the buffer is too small */
		at += e->reclen;
	}
	*all = true;
	return n ? 1 : 0;
}

static int read_dir(struct fuse_call *c, bool plus)
{
	const struct fuse_read_in *in = c->arg;
	struct dir_read r = {.c = c, .plus = plus, .size = MIN((size_t)in->size, c->out_max)};
	struct fuse_handle *h = fuse_handle_get(c->s, in->fh, c->node, true);
	bool all = true;
	int err = 0;

	if (!h)
		return -EBADF;
	r.scarce = plus && fuse_nodes_scarce(c->s);
	pthread_mutex_lock(&h->dir_lock);
	if (h->dir_pos != in->offset) {
		h->dir_pos = ~0ull;
		if (lseek(h->fd, (off_t)in->offset, SEEK_SET) < 0)
			err = -errno;
	}
	r.pos = in->offset;
	while (!err) {
		err = dir_fill(&r, h->fd, &all);
		if (err != 1)
			break;
		err = 0;
	}
	/* Entries that were read but had no room are read again. */
	h->dir_pos = all && !err ? r.pos : ~0ull;
	pthread_mutex_unlock(&h->dir_lock);
	fuse_handle_put(c->s, h);
	c->out_len = r.done;
	return r.done ? 0 : err;
}

int fuse_op_readdir(struct fuse_call *c)
{
	return read_dir(c, false);
}

int fuse_op_readdirplus(struct fuse_call *c)
{
	return read_dir(c, true);
}
