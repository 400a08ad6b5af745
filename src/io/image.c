// SPDX-License-Identifier: MIT
/* What all images share: bounds, flat buffers, vectors; and the two layers that are too small for
 * a file of their own, a part of an image and a RAM disk. */
#include "io/image.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/log.h"

#define ZERO_STEP (64 * KiB)

/* ---- any image ---- */

void *image_alloc(size_t size, const struct image_ops *ops, const char *name)
{
	struct image *im = calloc(1, size);

	if (!im)
		return NULL;
	im->ops = ops;
	im->fd = -1;
	im->align = im->mem_align = im->granule = 1;
	im->name = strdup(name);
	if (!im->name) {
		free(im);
		return NULL;
	}
	return im;
}

void image_free(struct image *im)
{
	free(im->name);
	free(im);
}

void image_destroy(struct image *im)
{
	if (im)
		im->ops->destroy(im);
}

static bool outside(const struct image *im, u64 off, u64 len)
{
	if (im->grows)
		return off + len < off || off + len > (u64)INT64_MAX;
	return off > im->size || len > im->size - off;
}

int image_readv(struct image *im, u64 off, const struct iovec *iov, unsigned n)
{
	if (n > IMAGE_MAX_IOV || outside(im, off, iov_total(iov, n)))
		return -EINVAL;
	return im->ops->read(im, off, iov, n);
}

int image_writev(struct image *im, u64 off, const struct iovec *iov, unsigned n)
{
	if (im->ro)
		return -EROFS;
	if (n > IMAGE_MAX_IOV || outside(im, off, iov_total(iov, n)))
		return -EINVAL;
	return im->ops->write(im, off, iov, n);
}

int image_read(struct image *im, u64 off, void *buf, u64 len)
{
	const struct iovec iov = {buf, len};

	return image_readv(im, off, &iov, 1);
}

int image_write(struct image *im, u64 off, const void *buf, u64 len)
{
	const struct iovec iov = {(void *)(uintptr_t)buf, len};

	return image_writev(im, off, &iov, 1);
}

int image_flush(struct image *im)
{
	return im->ro ? 0 : im->ops->flush(im);
}

int image_discard(struct image *im, u64 off, u64 len)
{
	if (im->ro)
		return -EROFS;
	if (outside(im, off, len))
		return -EINVAL;
	return im->ops->discard ? im->ops->discard(im, off, len) : 0;
}

int image_zero(struct image *im, u64 off, u64 len, bool unmap)
{
	void *zeros;
	int err = 0;

	if (im->ro)
		return -EROFS;
	if (outside(im, off, len))
		return -EINVAL;
	if (im->ops->zero) {
		err = im->ops->zero(im, off, len, unmap);
		if (err != -EOPNOTSUPP)
			return err;
	}
	zeros = aligned_alloc(PAGE_SIZE, ZERO_STEP);
	if (!zeros)
		return -ENOMEM;
	memset(zeros, 0, ZERO_STEP);
	for (err = 0; len && !err;) {
		u64 n = MIN(len, ZERO_STEP);

		err = image_write(im, off, zeros, n);
		off += n;
		len -= n;
	}
	free(zeros);
	return err;
}

bool image_map(struct image *im, u64 off, u64 len, bool write, struct image **leaf, u64 *leaf_off)
{
	if (!im->ops->map || (write && im->ro) || outside(im, off, len))
		return false;
	return im->ops->map(im, off, len, write, leaf, leaf_off);
}

/* ---- a part of an image ---- */

struct part {
	struct image image;
	u64 off;
};

static u64 part_at(const struct image *im, u64 off)
{
	return container_of(im, const struct part, image)->off + off;
}

static int part_read(struct image *im, u64 off, const struct iovec *iov, unsigned n)
{
	return image_readv(im->below, part_at(im, off), iov, n);
}
static int part_write(struct image *im, u64 off, const struct iovec *iov, unsigned n)
{
	return image_writev(im->below, part_at(im, off), iov, n);
}
static int part_flush(struct image *im)
{
	return image_flush(im->below);
}
static int part_discard(struct image *im, u64 off, u64 len)
{
	return image_discard(im->below, part_at(im, off), len);
}
static int part_zero(struct image *im, u64 off, u64 len, bool unmap)
{
	return image_zero(im->below, part_at(im, off), len, unmap);
}
static bool part_map(struct image *im, u64 off, u64 len, bool write, struct image **leaf,
                     u64 *leaf_off)
{
	return image_map(im->below, part_at(im, off), len, write, leaf, leaf_off);
}
static void part_destroy(struct image *im)
{
	image_destroy(im->below);
	image_free(im);
}

static const struct image_ops part_ops = {
	.read = part_read,
	.write = part_write,
	.flush = part_flush,
	.discard = part_discard,
	.zero = part_zero,
	.map = part_map,
	.destroy = part_destroy,
};

int image_part(struct image **out, struct image *below, u64 off, u64 len)
{
	struct part *p;

	if (off > below->size || len > below->size - off || !len) {
		log_error("%s: offset=%llu,size=%llu reaches beyond its end at %llu bytes; a part "
		          "must lie within the image",
		          below->name, (unsigned long long)off, (unsigned long long)len,
		          (unsigned long long)below->size);
		return -EINVAL;
	}
	p = image_alloc(sizeof(*p), &part_ops, below->name);
	if (!p)
		return -ENOMEM;
	p->off = off;
	p->image.size = len;
	p->image.ro = below->ro;
	p->image.below = below;
	p->image.align = below->align;
	p->image.granule = below->granule;
	*out = &p->image;
	return 0;
}

/* ---- RAM ---- */

struct ram {
	struct image image;
	u8 *mem;
};

static int ram_read(struct image *im, u64 off, const struct iovec *iov, unsigned n)
{
	const u8 *from = container_of(im, struct ram, image)->mem + off;

	for (unsigned i = 0; i < n; from += iov[i++].iov_len)
		memcpy(iov[i].iov_base, from, iov[i].iov_len);
	return 0;
}

static int ram_write(struct image *im, u64 off, const struct iovec *iov, unsigned n)
{
	u8 *to = container_of(im, struct ram, image)->mem + off;

	for (unsigned i = 0; i < n; to += iov[i++].iov_len)
		memcpy(to, iov[i].iov_base, iov[i].iov_len);
	return 0;
}

static int ram_flush(struct image *im)
{
	return 0;
}

/* Whole pages go back to the host. */
static int ram_zero(struct image *im, u64 off, u64 len, bool unmap)
{
	u8 *mem = container_of(im, struct ram, image)->mem;
	u64 first = ALIGN_UP(off, PAGE_SIZE), last = ALIGN_DOWN(off + len, PAGE_SIZE);

	if (!unmap || first >= last || madvise(mem + first, last - first, MADV_DONTNEED) < 0) {
		memset(mem + off, 0, len);
		return 0;
	}
	memset(mem + off, 0, first - off);
	memset(mem + last, 0, off + len - last);
	return 0;
}

static int ram_discard(struct image *im, u64 off, u64 len)
{
	return ram_zero(im, off, len, true);
}

static void ram_destroy(struct image *im)
{
	struct ram *r = container_of(im, struct ram, image);

	munmap(r->mem, im->size);
	image_free(im);
}

static const struct image_ops ram_ops = {
	.read = ram_read,
	.write = ram_write,
	.flush = ram_flush,
	.discard = ram_discard,
	.zero = ram_zero,
	.destroy = ram_destroy,
};

int image_ram_create(struct image **out, u64 size)
{
	struct ram *r = image_alloc(sizeof(*r), &ram_ops, "RAM disk");

	if (!r)
		return -ENOMEM;
	r->mem = mmap(NULL, size, PROT_READ | PROT_WRITE,
	              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (r->mem == MAP_FAILED) {
		int err = -errno;

		log_error(
			"RAM disk of %llu MiB: %s; the host has no room for it, take a smaller one",
			(unsigned long long)(size / MiB), strerror(-err));
		image_free(&r->image);
		return err;
	}
	r->image.size = size;
	*out = &r->image;
	return 0;
}
