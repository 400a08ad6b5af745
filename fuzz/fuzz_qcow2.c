// SPDX-License-Identifier: MIT
/* A qcow2 image as somebody hostile made it: opened, read, written, discarded, flushed. The input
 * is either the image itself, or changes to a valid one, which gets deeper. Besides the sanitizers:
 * what was written without an error is read back as long as nothing was found corrupt, nothing is
 * read or written outside of a bounded file, no operation takes long. */
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "io/image.h"

#define FILE_MAX (512 * KiB) /* no longer than this does the file get */
#define CLUSTER  512u
#define OPS_MAX  64

int LLVMFuzzerTestOneInput(const u8 *data, size_t size);

struct input {
	const u8 *p;
	size_t left;
};

struct memfile {
	struct image image;
	u8 *mem;
};

static u64 take(struct input *in, unsigned n)
{
	u64 v = 0;

	for (unsigned i = 0; i < n && in->left; i++, in->left--)
		v |= (u64)*in->p++ << (i * 8);
	return v;
}

static int mem_read(struct image *im, u64 off, const struct iovec *iov, unsigned n)
{
	const struct memfile *f = container_of(im, const struct memfile, image);
	u64 len = iov_total(iov, n), there = off < FILE_MAX ? MIN(len, FILE_MAX - off) : 0;

	iov_write(iov, n, 0, f->mem + MIN(off, FILE_MAX), there);
	iov_fill(iov, n, there, 0, len - there);
	return 0;
}

static int mem_write(struct image *im, u64 off, const struct iovec *iov, unsigned n)
{
	const struct memfile *f = container_of(im, const struct memfile, image);
	u64 len = iov_total(iov, n);

	if (off > FILE_MAX || len > FILE_MAX - off)
		return -28; /* ENOSPC */
	iov_read(iov, n, 0, f->mem + off, len);
	return 0;
}

static int mem_flush(struct image *im)
{
	return 0;
}

static void mem_destroy(struct image *im)
{
	free(container_of(im, struct memfile, image)->mem);
	image_free(im);
}

static const struct image_ops mem_ops = {
	.read = mem_read, .write = mem_write, .flush = mem_flush, .destroy = mem_destroy};

static void be32(u8 *p, u32 v)
{
	put_le32(p, __builtin_bswap32(v));
}
static void be64(u8 *p, u64 v)
{
	put_le64(p, __builtin_bswap64(v));
}

/* Clusters: 0 header, 1 refcount table, 2 its block, 3 L1, 4 and 5 L2, 6 to 9 data; 512 bytes each,
 * 256 KiB of disk. */
static u64 valid_image(u8 *m)
{
	static const u32 head[] = {0x514649fb, 3, 0,           0, 0,       9, 0, 256 * KiB, 0,
	                           8,          0, 3 * CLUSTER, 0, CLUSTER, 1, 0, 0,         0,
	                           0,          0, 0,           0, 0,       0, 4, 104};

	for (unsigned i = 0; i < ARRAY_SIZE(head); i++)
		be32(m + i * 4, head[i]);
	be64(m + CLUSTER, 2 * CLUSTER);
	for (unsigned i = 0; i < 10; i++)
		m[2 * CLUSTER + i * 2 + 1] = 1;
	be64(m + 3 * CLUSTER, BIT(63) | 4 * CLUSTER);
	be64(m + 3 * CLUSTER + 8, BIT(63) | 5 * CLUSTER);
	be64(m + 4 * CLUSTER, BIT(63) | 6 * CLUSTER);
	be64(m + 4 * CLUSTER + 8, BIT(63) | 7 * CLUSTER);
	be64(m + 4 * CLUSTER + 16, 1); /* zeros */
	be64(m + 5 * CLUSTER, BIT(63) | 8 * CLUSTER);
	be64(m + 5 * CLUSTER + 24, BIT(62) | 9 * CLUSTER); /* compressed */
	memset(m + 6 * CLUSTER, 0x5a, 3 * CLUSTER);
	return 10 * CLUSTER;
}

static u64 fill(u8 *m, struct input *in)
{
	u64 len;

	if (take(in, 1) & 1) { /* as it is, behind a place for operations */
		len = in->left > 256 ? in->left - 256 : 0;
		memcpy(m, in->p, len);
		in->p += len;
		in->left -= len;
		return len;
	}
	len = valid_image(m);
	for (unsigned n = (unsigned)take(in, 1) % 16; n; n--) {
		u64 at = take(in, 2) % (len - 8);
		unsigned bytes = 1 + (unsigned)take(in, 1) % 8;

		for (unsigned i = 0; i < bytes; i++)
			m[at + i] = (u8)take(in, 1);
	}
	return len;
}

static void step(struct image *im, struct input *in)
{
	static u8 buf[16 * KiB], back[16 * KiB];
	u8 op = (u8)take(in, 1);
	u64 off = take(in, 3), len = 1 + take(in, 2) % sizeof(buf);

	if (op & 0x80) /* far away */
		off = im->size - MIN(im->size, off & 0xffff);
	if (off >= im->size)
		off %= im->size;
	len = MIN(len, im->size - off);
	switch (op & 7) {
	case 0:
	case 1:
		image_read(im, off, buf, len);
		break;
	case 2:
	case 3:
	case 4:
		memset(buf, op, len);
		if (image_write(im, off, buf, len) == 0 && image_read(im, off, back, len) == 0 &&
		    memcmp(buf, back, len) && image_flush(im) == 0)
			abort();
		break;
	case 5:
		image_discard(im, off, len);
		break;
	case 6:
		if (image_zero(im, off, len, op & 8) == 0 && image_read(im, off, back, len) == 0)
			for (u64 i = 0; i < len; i++)
				if (back[i] && image_flush(im) == 0)
					abort();
		break;
	case 7:
		image_flush(im);
		break;
	}
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	struct image_qcow2_config cfg = {0};
	struct input in = {data, size};
	struct memfile *f;
	struct image *im;

	log_set_level(LOG_ERROR);
	if (size > FILE_MAX / 2)
		return 0;
	f = image_alloc(sizeof(*f), &mem_ops, "image");
	if (!f)
		abort();
	f->mem = calloc(1, FILE_MAX);
	if (!f->mem)
		abort();
	cfg.ro = take(&in, 1) == 0xff;
	f->image.size = fill(f->mem, &in);
	f->image.grows = f->image.zero_tail = true;
	if (image_qcow2_open(&im, &f->image, &cfg)) {
		mem_destroy(&f->image);
		return 0;
	}
	for (unsigned i = 0; i < OPS_MAX && in.left && im->size; i++)
		step(im, &in);
	image_destroy(im);
	return 0;
}
