// SPDX-License-Identifier: MIT
/* Attributes, extended ones too, and the numbers of statfs(2).
 *
 * Whose a file is: for a monitor that runs as root, ids are the same inside and outside. Otherwise
 * everything the guest makes belongs to whoever runs the monitor, and that user's and group's files
 * are shown as root's, because it is root in the guest who can do what that user can; files of
 * others are nobody's.
 *
 * Extended attributes: "user." only. What "security." and "trusted." mean is decided by the host's
 * kernel, so a guest may neither set nor see them; "system." are ACLs, which are not offered. */
#include "io/fuse_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/limits.h>
#include <string.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#define ID_NOBODY   65534
#define IN_LIST_OFF 64 /* of w->in, behind the arguments */

/* Inode numbers of a second device (a btrfs subvolume) are moved out of the first one's way. */
static u64 inode_number(const struct fuse_server *s, const struct stat *st)
{
	if (st->st_dev == s->root_dev)
		return st->st_ino;
	return st->st_ino ^ ((u64)st->st_dev * 0x9e3779b97f4a7c15ull) << 40;
}

void fuse_attr_fill(const struct fuse_server *s, struct fuse_attr *a, const struct stat *st)
{
	*a = (struct fuse_attr){.ino = inode_number(s, st),
	                        .size = (u64)st->st_size,
	                        .blocks = (u64)st->st_blocks,
	                        .atime = (u64)st->st_atim.tv_sec,
	                        .mtime = (u64)st->st_mtim.tv_sec,
	                        .ctime = (u64)st->st_ctim.tv_sec,
	                        .atimensec = (u32)st->st_atim.tv_nsec,
	                        .mtimensec = (u32)st->st_mtim.tv_nsec,
	                        .ctimensec = (u32)st->st_ctim.tv_nsec,
	                        .mode = st->st_mode,
	                        .nlink = (u32)st->st_nlink,
	                        .uid = st->st_uid,
	                        .gid = st->st_gid,
	                        .blksize = (u32)st->st_blksize};
	/* The kernel's new_encode_dev(). */
	a->rdev = (minor(st->st_rdev) & 0xff) | (major(st->st_rdev) & 0xfff) << 8 |
	          (minor(st->st_rdev) & ~0xffu) << 12;
	if (!s->real_ids) {
		a->uid = st->st_uid == s->uid ? 0 : ID_NOBODY;
		a->gid = st->st_gid == s->gid ? 0 : ID_NOBODY;
	}
}

int fuse_node_stat(const struct fuse_node *n, struct stat *st)
{
	return fstatat(n->fd, "", st, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) < 0 ? -errno : 0;
}

static int answer_attr(struct fuse_call *c)
{
	struct fuse_attr_out *out = c->out;
	struct stat st;
	int err = fuse_node_stat(c->node, &st);

	if (err)
		return err;
	out->attr_valid = FUSE_VALID_SEC;
	fuse_attr_fill(c->s, &out->attr, &st);
	return 0;
}

int fuse_op_getattr(struct fuse_call *c)
{
	return answer_attr(c);
}

/* ---- SETATTR ---- */

static int set_mode(struct fuse_call *c, u32 mode)
{
	if (c->node->type == S_IFLNK)
		return -EOPNOTSUPP;
	if (fchmodat(c->s->proc_fd, fuse_fd_name(c->node->fd).text, mode & 07777, 0) < 0)
		return -errno;
	return 0;
}

static int set_owner(struct fuse_call *c, const struct fuse_setattr_in *in)
{
	uid_t uid = in->valid & FATTR_UID ? in->uid : (uid_t)-1;
	gid_t gid = in->valid & FATTR_GID ? in->gid : (gid_t)-1;

	if (!c->s->real_ids) {
		/* Root is who the files belong to already; there is no one else. */
		if ((in->valid & FATTR_UID && uid) || (in->valid & FATTR_GID && gid))
			return -EPERM;
		return 0;
	}
	return fchownat(c->node->fd, "", uid, gid, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) < 0 ? -errno
	                                                                                    : 0;
}

static int set_size(struct fuse_call *c, const struct fuse_setattr_in *in)
{
	struct fuse_handle *h = NULL;
	int fd, err = 0;

	if (c->node->type != S_IFREG)
		return c->node->type == S_IFDIR ? -EISDIR : -EINVAL;
	if (in->valid & FATTR_FH)
		h = fuse_handle_get(c->s, in->fh, c->node, false);
	if (h && h->flags == O_RDONLY) {
		fuse_handle_put(c->s, h);
		return -EBADF;
	}
	/* Who truncates by name needs the right to write, who does it by descriptor has it. */
	fd = h ? h->fd : fuse_reopen(c->s, c->node->fd, O_WRONLY);
	if (fd < 0)
		return fd;
	if (in->valid & FATTR_KILL_SUIDGID)
		err = fuse_kill_suid(fd);
	if (!err && ftruncate(fd, (off_t)in->size) < 0)
		err = -errno;
	if (h)
		fuse_handle_put(c->s, h);
	else
		close(fd);
	return err;
}

static struct timespec time_to_set(u32 valid, u32 set, u32 now, u64 sec, u32 nsec)
{
	struct timespec t = {.tv_nsec = UTIME_OMIT};

	if (valid & now)
		t.tv_nsec = UTIME_NOW;
	else if (valid & set)
		t = (struct timespec){.tv_sec = (time_t)sec, .tv_nsec = nsec};
	return t;
}

static int set_times(struct fuse_call *c, const struct fuse_setattr_in *in)
{
	struct timespec t[2] = {
		time_to_set(in->valid, FATTR_ATIME, FATTR_ATIME_NOW, in->atime, in->atimensec),
		time_to_set(in->valid, FATTR_MTIME, FATTR_MTIME_NOW, in->mtime, in->mtimensec)};

	if (in->atimensec >= NSEC_PER_SEC || in->mtimensec >= NSEC_PER_SEC)
		return -EINVAL;
	/* glibc's utimensat() refuses an empty path. */
	if (syscall(SYS_utimensat, c->node->fd, "", t, AT_EMPTY_PATH) < 0)
		return -errno;
	return 0;
}

int fuse_op_setattr(struct fuse_call *c)
{
	const struct fuse_setattr_in *in = c->arg;
	int err = 0;

	/* The owner first: a change of it takes set-user-id away, which the mode may give again. */
	if (in->valid & (FATTR_UID | FATTR_GID))
		err = set_owner(c, in);
	if (!err && in->valid & FATTR_SIZE)
		err = set_size(c, in);
	if (!err && in->valid & FATTR_MODE)
		err = set_mode(c, in->mode);
	if (!err && in->valid & (FATTR_ATIME | FATTR_MTIME | FATTR_ATIME_NOW | FATTR_MTIME_NOW))
		err = set_times(c, in);
	return err ? err : answer_attr(c);
}

int fuse_op_access(struct fuse_call *c)
{
	const struct fuse_access_in *in = c->arg;

	if (in->mask & ~7u)
		return -EINVAL;
	if (in->mask & W_OK && c->s->read_only)
		return -EROFS;
	if (syscall(SYS_faccessat2, c->node->fd, "", in->mask, AT_EMPTY_PATH | AT_EACCESS) < 0)
		return -errno;
	return 0;
}

int fuse_op_statfs(struct fuse_call *c)
{
	struct fuse_kstatfs *out = &((struct fuse_statfs_out *)c->out)->st;
	struct statvfs v;

	if (fstatvfs(c->node->fd, &v) < 0)
		return -errno;
	*out = (struct fuse_kstatfs){.blocks = v.f_blocks,
	                             .bfree = v.f_bfree,
	                             .bavail = v.f_bavail,
	                             .files = v.f_files,
	                             .ffree = v.f_ffree,
	                             .bsize = (u32)v.f_bsize,
	                             .namelen = (u32)v.f_namemax,
	                             .frsize = (u32)v.f_frsize};
	return 0;
}

/* ---- extended attributes ---- */

static int xattr_name(const char *name)
{
	if (strncmp(name, "user.", 5) || !name[5])
		return -EOPNOTSUPP;
	return strlen(name) > XATTR_NAME_MAX ? -ERANGE : 0;
}

int fuse_op_setxattr(struct fuse_call *c)
{
	const struct fuse_setxattr_in *in = c->arg;
	int err = xattr_name(c->name[0]);

	if (err)
		return err;
	if (in->size > c->tail_len || in->flags & ~(u32)(XATTR_CREATE | XATTR_REPLACE))
		return -EINVAL;
	if (setxattr(fuse_fd_path(c->node->fd).text, c->name[0], c->tail, in->size,
	             (int)in->flags) < 0)
		return -errno;
	return 0;
}

/* Of a value or list of `n` bytes in c->out, what a caller who has room for `size` gets. */
static int answer_xattr(struct fuse_call *c, ssize_t n, u32 size)
{
	if (n < 0)
		return -errno;
	if (!size) {
		*(struct fuse_getxattr_out *)c->out = (struct fuse_getxattr_out){.size = (u32)n};
		c->out_len = sizeof(struct fuse_getxattr_out);
		return c->out_len > c->out_max ? -EINVAL : 0;
	}
	if ((size_t)n > size || (size_t)n > c->out_max)
		return -ERANGE;
	c->out_len = (size_t)n;
	return 0;
}

int fuse_op_getxattr(struct fuse_call *c)
{
	const struct fuse_getxattr_in *in = c->arg;
	int err = xattr_name(c->name[0]);

	if (err)
		return err;
	return answer_xattr(
		c, getxattr(fuse_fd_path(c->node->fd).text, c->name[0], c->out, FUSE_BUF_SIZE),
		in->size);
}

int fuse_op_listxattr(struct fuse_call *c)
{
	const struct fuse_getxattr_in *in = c->arg;
	char *list = (char *)c->w->in + IN_LIST_OFF;
	char *out = c->out;
	ssize_t n = listxattr(fuse_fd_path(c->node->fd).text, list, FUSE_BUF_SIZE - IN_LIST_OFF);
	ssize_t len = 0;

	if (n < 0)
		return -errno;
	for (ssize_t at = 0; at < n;) {
		size_t part = strnlen(list + at, (size_t)(n - at)) + 1;

		if (!xattr_name(list + at)) {
			memcpy(out + len, list + at, part);
			len += (ssize_t)part;
		}
		at += (ssize_t)part;
	}
	return answer_xattr(c, len, in->size);
}

int fuse_op_removexattr(struct fuse_call *c)
{
	int err = xattr_name(c->name[0]);

	if (!err && removexattr(fuse_fd_path(c->node->fd).text, c->name[0]) < 0)
		err = -errno;
	return err;
}
