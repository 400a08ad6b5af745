// SPDX-License-Identifier: MIT
/* A regular file or a host block device, byte for byte.
 *
 * Locks are those of the open file description (fcntl(2), F_OFD_SETLK): they belong to
 * this opening, so one process that opens an image twice is refused as well, and they go with the
 * process whatever ends it. They cover the part that is used, so that minidisks on one image may be
 * written by different VMs.
 *
 * O_DIRECT wants offsets, lengths and memory aligned. What isn't goes through a buffer; a
 * write of a part of a unit reads the unit first, under a mutex. Those who call keep whole
 * units apart (image.h: the granule of such an image is the unit). */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "io/image.h"

#define DIRECT_ALIGN 4096
#define LOCK_TRIES   60 /* 50 ms each */

struct raw {
	struct image image;
	bool device;
	bool temp;     /* need not survive */
	bool no_punch; /* the file system has no holes */
	bool no_zero;  /* ... or cannot zero a range */
	pthread_mutex_t rmw;
};

static struct raw *raw_of(struct image *im)
{
	return container_of(im, struct raw, image);
}

/* ---- reading and writing ---- */

/* All of it at `off`; what lies behind the end of the file reads as zeros. */
static int raw_preadv(struct raw *r, u64 off, const struct iovec *iov, unsigned n)
{
	u64 len = iov_total(iov, n), at = 0;
	struct iovec part[IMAGE_MAX_IOV];

	while (at < len) {
		unsigned k = iov_slice(iov, n, at, len - at, part, IMAGE_MAX_IOV);
		ssize_t got = preadv(r->image.fd, part, (int)k, (off_t)(off + at));

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return -errno;
		if (got == 0) {
			iov_fill(iov, n, at, 0, len - at);
			return 0;
		}
		at += (u64)got;
		if (r->image.align > 1 && at % r->image.align) {
			/* Direct I/O ends unaligned only where the file does. */
			iov_fill(iov, n, at, 0, len - at);
			return 0;
		}
	}
	return 0;
}

static int raw_pwritev(struct raw *r, u64 off, const struct iovec *iov, unsigned n)
{
	u64 len = iov_total(iov, n), at = 0;
	struct iovec part[IMAGE_MAX_IOV];

	while (at < len) {
		unsigned k = iov_slice(iov, n, at, len - at, part, IMAGE_MAX_IOV);
		ssize_t put = pwritev(r->image.fd, part, (int)k, (off_t)(off + at));

		if (put < 0 && errno == EINTR)
			continue;
		if (put < 0)
			return -errno;
		if (put == 0)
			return -ENOSPC;
		at += (u64)put;
	}
	return 0;
}

static bool is_aligned(const struct raw *r, u64 off, const struct iovec *iov, unsigned n)
{
	u64 bits = off;

	if (r->image.align == 1)
		return true;
	for (unsigned i = 0; i < n; i++) {
		if ((uintptr_t)iov[i].iov_base % r->image.mem_align)
			return false;
		bits |= iov[i].iov_len;
	}
	return bits % r->image.align == 0;
}

/* A buffer of whole units around [off, off + len). */
static void *bounce_alloc(const struct raw *r, u64 off, u64 len, u64 *lo, u64 *hi)
{
	u64 unit = r->image.align;

	*lo = ALIGN_DOWN(off, unit);
	*hi = ALIGN_UP(off + len, unit);
	return aligned_alloc(MAX(unit, (u64)PAGE_SIZE), ALIGN_UP(*hi - *lo, MAX(unit, PAGE_SIZE)));
}

static int raw_read(struct image *im, u64 off, const struct iovec *iov, unsigned n)
{
	struct raw *r = raw_of(im);
	u64 len = iov_total(iov, n), lo, hi;
	int err = 0;

	if (is_aligned(r, off, iov, n))
		return raw_preadv(r, off, iov, n);
	for (u64 at = 0; at < len && !err;) {
		u64 step = MIN(len - at, (u64)IMAGE_BOUNCE_MAX);
		u8 *buf = bounce_alloc(r, off + at, step, &lo, &hi);

		if (!buf)
			return -ENOMEM;
		err = raw_preadv(r, lo, &(struct iovec){buf, hi - lo}, 1);
		if (!err)
			iov_write(iov, n, at, buf + (off + at - lo), step);
		free(buf);
		at += step;
	}
	return err;
}

/* Up to IMAGE_BOUNCE_MAX bytes; the rest of the units that they touch is read first. */
static int bounce_write(struct raw *r, u64 off, const struct iovec *iov, unsigned n, u64 at,
                        u64 step)
{
	u64 lo, hi;
	u8 *buf = bounce_alloc(r, off, step, &lo, &hi);
	bool part;
	int err = 0;

	if (!buf)
		return -ENOMEM;
	part = lo != off || hi != off + step;
	if (part) {
		pthread_mutex_lock(&r->rmw);
		err = raw_preadv(r, lo, &(struct iovec){buf, hi - lo}, 1);
	}
	if (!err) {
		iov_read(iov, n, at, buf + (off - lo), step);
		err = raw_pwritev(r, lo, &(struct iovec){buf, hi - lo}, 1);
	}
	if (part)
		pthread_mutex_unlock(&r->rmw);
	free(buf);
	return err;
}

static int raw_write(struct image *im, u64 off, const struct iovec *iov, unsigned n)
{
	struct raw *r = raw_of(im);
	u64 len = iov_total(iov, n);
	int err = 0;

	if (is_aligned(r, off, iov, n))
		return raw_pwritev(r, off, iov, n);
	for (u64 at = 0; at < len && !err;) {
		u64 step = MIN(len - at, (u64)IMAGE_BOUNCE_MAX);

		err = bounce_write(r, off + at, iov, n, at, step);
		at += step;
	}
	return err;
}

static int raw_flush(struct image *im)
{
	struct raw *r = raw_of(im);

	if (r->temp)
		return 0;
	while (fdatasync(im->fd) < 0)
		if (errno != EINTR)
			return -errno;
	return 0;
}

static int raw_fallocate(struct raw *r, int mode, u64 off, u64 len)
{
	while (fallocate(r->image.fd, mode | FALLOC_FL_KEEP_SIZE, (off_t)off, (off_t)len) < 0)
		if (errno != EINTR)
			return -errno;
	return 0;
}

static bool unsupported(int err)
{
	return err == -EOPNOTSUPP || err == -ENOSYS || err == -ENODEV || err == -EINVAL;
}

static int raw_discard(struct image *im, u64 off, u64 len)
{
	struct raw *r = raw_of(im);
	int err;

	if (r->no_punch || !len)
		return 0;
	err = raw_fallocate(r, FALLOC_FL_PUNCH_HOLE, off, len);
	if (unsupported(err)) {
		r->no_punch = !r->device || err != -EINVAL; /* a device: not aligned */
		err = 0;                                    /* a hint */
	}
	return err;
}

static int raw_zero(struct image *im, u64 off, u64 len, bool unmap)
{
	struct raw *r = raw_of(im);
	int err = -EOPNOTSUPP;

	if (!len)
		return 0;
	if (unmap && !r->no_punch)
		err = raw_fallocate(r, FALLOC_FL_PUNCH_HOLE, off, len);
	if (unsupported(err) && !r->no_zero) {
		err = raw_fallocate(r, FALLOC_FL_ZERO_RANGE, off, len);
		if (unsupported(err) && !(r->device && err == -EINVAL))
			r->no_zero = true;
	}
	return unsupported(err) ? -EOPNOTSUPP : err;
}

static bool raw_map(struct image *im, u64 off, u64 len, bool write, struct image **leaf,
                    u64 *leaf_off)
{
	*leaf = im;
	*leaf_off = off;
	return true;
}

static void raw_destroy(struct image *im)
{
	struct raw *r = raw_of(im);
	int err = im->ro ? 0 : raw_flush(im);

	if (err)
		log_error("%s: what was written may be lost: %s", im->name, strerror(-err));
	/* The ring's reference to the file may outlive ours for a moment. */
	fcntl(im->fd, F_OFD_SETLK, &(struct flock){.l_type = F_UNLCK, .l_whence = SEEK_SET});
	close(im->fd);
	pthread_mutex_destroy(&r->rmw);
	image_free(im);
}

static const struct image_ops raw_ops = {
	.read = raw_read,
	.write = raw_write,
	.flush = raw_flush,
	.discard = raw_discard,
	.zero = raw_zero,
	.map = raw_map,
	.destroy = raw_destroy,
};

/* ---- opening ---- */

static int raw_size(struct raw *r, const char *name)
{
	struct stat st;
	u64 bytes;

	if (fstat(r->image.fd, &st) < 0) {
		log_error("%s: %s", name, strerror(errno));
		return -EIO;
	}
	if (S_ISREG(st.st_mode)) {
		r->image.size = (u64)st.st_size;
		r->image.grows = r->image.zero_tail = true;
	} else if (S_ISBLK(st.st_mode) && ioctl(r->image.fd, BLKGETSIZE64, &bytes) == 0) {
		r->device = true;
		r->image.size = bytes;
	} else {
		log_error("%s: a disk image is a regular file or a block device, and this is %s",
		          name, S_ISDIR(st.st_mode) ? "a directory" : "neither");
		return -EINVAL;
	}
	return 0;
}

static int raw_lock(struct raw *r, const struct image_raw_config *cfg)
{
	struct flock fl = {.l_type = cfg->ro ? F_RDLCK : F_WRLCK,
	                   .l_whence = SEEK_SET,
	                   .l_start = (off_t)cfg->lock_off,
	                   .l_len = (off_t)cfg->lock_len};

	/* A process that was killed keeps its files till its rings are taken apart. */
	for (unsigned i = 0; i < LOCK_TRIES; i++) {
		const struct timespec nap = {.tv_nsec = 50 * 1000 * 1000};

		if (fcntl(r->image.fd, F_OFD_SETLK, &fl) == 0)
			return 0;
		if (errno != EAGAIN && errno != EACCES)
			break;
		if (i + 1 < LOCK_TRIES)
			nanosleep(&nap, NULL);
	}
	if (errno != EAGAIN && errno != EACCES) {
		log_warn("%s: cannot be locked (%s): take care that no other VM writes it",
		         r->image.name, strerror(errno));
		return 0;
	}
	if (cfg->ro)
		log_error("%s: in use: another VM or program writes it; stop that first",
		          r->image.name);
	else
		log_error("%s: in use by another VM or program; stop that first, or share it: "
		          "everyone with ,ro or ,snapshot=on",
		          r->image.name);
	return -EBUSY;
}

/* O_DIRECT's units, or page cache where there is none. */
static void raw_direct(struct raw *r, bool may_grow)
{
	int flags = fcntl(r->image.fd, F_GETFL);
	u32 unit = DIRECT_ALIGN, mem = DIRECT_ALIGN;
	struct statx stx = {0};
	int sector;

	if (fcntl(r->image.fd, F_SETFL, flags | O_DIRECT) < 0) {
		log_warn("%s: no O_DIRECT here (%s): cache=none goes through the page cache",
		         r->image.name, strerror(errno));
		return;
	}
	if (r->device && ioctl(r->image.fd, BLKSSZGET, &sector) == 0 && sector >= 512) {
		unit = (u32)sector;
		mem = 512;
	}
#ifdef STATX_DIOALIGN
	if (statx(r->image.fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &stx) == 0 &&
	    (stx.stx_mask & STATX_DIOALIGN) && stx.stx_dio_offset_align) {
		unit = stx.stx_dio_offset_align;
		mem = stx.stx_dio_mem_align;
	}
#else
	(void)stx;
#endif
	if (!may_grow && unit && r->image.size % unit) {
		fcntl(r->image.fd, F_SETFL, flags);
		log_warn("%s: its size is not a multiple of %u: cache=none goes through the page "
		         "cache",
		         r->image.name, unit);
		return;
	}
	if (unit & (unit - 1) || unit > 64 * KiB || !unit || mem > PAGE_SIZE || !mem) {
		fcntl(r->image.fd, F_SETFL, flags);
		log_warn("%s: O_DIRECT wants units of %u bytes: cache=none goes through the page "
		         "cache",
		         r->image.name, unit);
		return;
	}
	r->image.align = MAX(unit, 512u);
	r->image.mem_align = mem;
	r->image.granule = r->image.align;
}

static int raw_make(struct image **out, int fd, const char *name, bool ro)
{
	struct raw *r = image_alloc(sizeof(*r), &raw_ops, name);
	int err;

	if (!r) {
		close(fd);
		return -ENOMEM;
	}
	pthread_mutex_init(&r->rmw, NULL);
	r->image.fd = fd;
	r->image.ro = ro;
	err = raw_size(r, name);
	if (err) {
		r->image.ro = true;
		raw_destroy(&r->image);
		return err;
	}
	*out = &r->image;
	return 0;
}

int image_raw_fd(struct image **out, int fd, const char *name, bool ro)
{
	return raw_make(out, fd, name, ro);
}

static const char *open_hint(int err, bool ro)
{
	switch (err) {
	case -ENOENT:
	case -ENOTDIR:
		return "; check the path, or make one, for example: truncate -s 4G disk.img";
	case -EISDIR:
		return "; a guest gets a folder by --share TAG=DIR";
	case -EACCES:
	case -EROFS:
	case -EPERM:
		return ro ? "" : "; ,ro opens it for reading only";
	default:
		return "";
	}
}

int image_raw_open(struct image **out, const char *path, const struct image_raw_config *cfg)
{
	/* O_NONBLOCK: a FIFO must not stop us here. It means nothing to files and disks. */
	int fd = open(path, (cfg->ro ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	int err;

	if (fd < 0) {
		err = -errno;
		log_error("disk image %s: cannot open: %s%s", path, strerror(-err),
		          open_hint(err, cfg->ro));
		return err;
	}
	err = raw_make(out, fd, path, cfg->ro);
	if (err)
		return err;
	err = raw_lock(raw_of(*out), cfg);
	if (err) {
		(*out)->ro = true; /* nothing to make stable */
		image_destroy(*out);
		return err;
	}
	if (cfg->direct)
		raw_direct(raw_of(*out), cfg->holds_image);
	return 0;
}

int image_raw_temp(struct image **out)
{
	const char *dir = getenv("TMPDIR");
	int fd, err;

	if (!dir || !*dir)
		dir = "/var/tmp";
	fd = open(dir, O_TMPFILE | O_RDWR | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0 && (errno == EOPNOTSUPP || errno == EISDIR || errno == ENOENT)) {
		char path[4096];

		snprintf(path, sizeof(path), "%s/ringer-XXXXXX", dir);
		fd = mkostemp(path, O_CLOEXEC);
		if (fd >= 0)
			unlink(path);
	}
	if (fd < 0) {
		err = -errno;
		log_error("no temporary file in %s: %s; TMPDIR=DIR names another folder", dir,
		          strerror(-err));
		return err;
	}
	err = raw_make(out, fd, "temporary layer", false);
	if (!err)
		raw_of(*out)->temp = true;
	return err;
}
