/* SPDX-License-Identifier: MIT */
/* Disk images: a stack of layers, each of which reads and writes through those below it. A raw
 * file, RAM and a network block device are leaves; a part of an image and qcow2 are layers above.
 *
 * The calls block and may be made by several threads at a time; io/disk.h runs them on threads of
 * its own. So that cached or allocated data needs no thread, image_map() tells where in a leaf a
 * range lies, and the disk then gives the leaf's descriptor to io_uring.
 *
 * Who calls keeps writes, discards and zeroing that overlap apart where both touch one granule
 * (im->granule); reads beside in-place writes are free. A layer relies on that.
 *
 * Everything is opened by name, and locked, before the sandbox is entered; nothing is opened later.
 */
#pragma once

#include <stdio.h>

#include "base/iov.h"

struct image;

#define IMAGE_MAX_IOV   260 /* a layer may add two to BLOCK_MAX_IOV */
#define IMAGE_MAX_CHAIN 32  /* backing files above each other */

struct image_ops {
	/* The whole range or -errno; within [0, size) unless the image grows. */
	int (*read)(struct image *im, u64 off, const struct iovec *iov, unsigned n);
	int (*write)(struct image *im, u64 off, const struct iovec *iov, unsigned n);
	int (*flush)(struct image *im);
	int (*discard)(struct image *im, u64 off, u64 len);          /* NULL: not supported */
	int (*zero)(struct image *im, u64 off, u64 len, bool unmap); /* NULL: writes of zeros */
	/* True: the range is one piece of *leaf, at *leaf_off, now and as long as no request of
	 * another kind changes it; never blocks. NULL: never. */
	bool (*map)(struct image *im, u64 off, u64 len, bool write, struct image **leaf,
	            u64 *leaf_off);
	void (*destroy)(struct image *im); /* stable first; the layers below too */
};

struct image {
	const struct image_ops *ops;
	char *name; /* for messages */
	u64 size;   /* bytes; of an image that grows: when it was opened */
	bool ro;
	bool grows;     /* writes behind the end are possible, and reads there give zeros */
	bool zero_tail; /* what lies behind the end reads as zeros once it is written around */
	int fd;         /* leaf that io_uring may read and write; else -1 */
	u32 align;      /* of offsets and lengths on fd: 1, or O_DIRECT's unit */
	u32 mem_align;  /* of memory on fd */
	u32 granule;    /* unit of allocation, a power of 2; 1: there is none */
	struct image *below, *backing; /* layers, owned; or NULL */
};

/* One range that a layer hands on. 0 or -errno. */
int image_read(struct image *im, u64 off, void *buf, u64 len);
int image_write(struct image *im, u64 off, const void *buf, u64 len);
int image_readv(struct image *im, u64 off, const struct iovec *iov, unsigned n);
int image_writev(struct image *im, u64 off, const struct iovec *iov, unsigned n);
int image_flush(struct image *im);
int image_discard(struct image *im, u64 off, u64 len); /* 0 where it isn't supported */
int image_zero(struct image *im, u64 off, u64 len, bool unmap);
bool image_map(struct image *im, u64 off, u64 len, bool write, struct image **leaf, u64 *leaf_off);
void image_destroy(struct image *im); /* NULL is nothing */

/* For implementations: zeroed memory of `size` bytes that begins with a struct image. */
void *image_alloc(size_t size, const struct image_ops *ops, const char *name);
void image_free(struct image *im); /* the name and the memory */

/* ---- leaves ---- */

struct image_raw_config {
	bool ro;
	bool direct;      /* O_DIRECT where the file system has it; else said and done without */
	bool holds_image; /* a qcow2 image: the file may get longer */
	/* What is locked: a part of the file. len 0: all. */
	u64 lock_off, lock_len;
};

/* Reads and writes of at most this many bytes go through one buffer when they are not aligned. */
#define IMAGE_BOUNCE_MAX (1u << 20)

/* A regular file or a block device. 0 or -errno, logged. */
int image_raw_open(struct image **out, const char *path, const struct image_raw_config *cfg);
/* A file without name in $TMPDIR or /var/tmp, for what need not survive; never made stable. */
int image_raw_temp(struct image **out);
/* A descriptor of a file that the caller opened; taken over in any case. For tests. */
int image_raw_fd(struct image **out, int fd, const char *name, bool ro);
int image_ram_create(struct image **out, u64 size);
/* nbd://HOST[:PORT][/EXPORT] or nbd+unix:///[EXPORT]?socket=PATH. `reconnect`: seconds that
 * requests wait for a server that was lost; 0: it stays lost. */
int image_nbd_open(struct image **out, const char *uri, bool ro, unsigned reconnect);

/* ---- layers: they own what they stand on, but only when they could be made ---- */

/* `len` bytes from `off` on. 0, or -EINVAL (logged): not within `below`. */
int image_part(struct image **out, struct image *below, u64 off, u64 len);

/* A file in its place among the backing files of an image, to find loops. */
struct image_chain {
	const struct image_chain *above;
	const char *path;
	u64 dev, ino;
};

struct image_qcow2_config {
	bool ro;
	struct image *backing; /* instead of the file that the header names; owned on success */
	/* What the image's file is called; NULL: a named backing file is refused. */
	const struct image_chain *chain;
	bool direct; /* of backing files */
};

/* 0 or -errno, logged. */
int image_qcow2_open(struct image **out, struct image *file, const struct image_qcow2_config *cfg);
/* An empty version 3 image of `size` bytes, without a backing file in its header, at the beginning
 * of `file`, which must be empty. */
int image_qcow2_format(struct image *file, u64 size);
bool image_is_qcow2(const void *first, size_t len); /* by its first bytes */
