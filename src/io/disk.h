/* SPDX-License-Identifier: MIT */
/* From what the user named to a block that a device can use (dev/block.h).
 *
 * Reads and writes that lie in one piece in a file go to io_uring; everything else (allocation in
 * qcow2, backing files in several pieces, decompression, network, unaligned direct I/O) to a pool
 * of threads, which call the image (io/image.h). Where the host has no io_uring all goes to
 * the pool.
 *
 * The ring can do three things only, on descriptors that are open already: it is restricted before
 * the sandbox is entered, because seccomp does not see what a ring does. */
#pragma once

#include "bus/loop.h"
#include "dev/block.h"
#include "io/image.h"

enum disk_format {
	DISK_AUTO, /* qcow2 when the name ends so, else raw */
	DISK_RAW,
	DISK_QCOW2,
};

struct disk_config {
	const char *path; /* file, block device, ram:SIZE as ram_size, nbd://, nbd+unix:// */
	u64 ram_size;     /* not 0: a RAM disk */
	enum disk_format format;
	bool ro;
	bool snapshot;      /* writes go to a temporary layer */
	bool direct;        /* cache=none */
	u64 offset;         /* of the part of the file that is used */
	u64 size;           /* 0: to the end */
	unsigned reconnect; /* NBD: seconds to wait for a server that was lost; 0: never */
};

/* Is it the address of a server? */
bool disk_is_nbd(const char *path);
/* 0 or -errno, logged. `path` as given. */
int disk_open(struct block **out, struct loop *loop, const struct disk_config *cfg);
/* The image alone, as disk_open() makes it. */
int disk_open_image(struct image **out, const struct disk_config *cfg);

#define DISK_NO_URING 1u
/* A block of an image, which it then owns (in any case). */
int disk_create(struct block **out, struct loop *loop, struct image *im, unsigned flags);
