/* SPDX-License-Identifier: MIT */
/* A disk as a device sees it: requests are submitted and completed later, many at a time and in any
 * order. This is only the contract, so that devices need not know src/io, which implements
 * it (io/disk.h).
 *
 * A write is stable after a flush that was submitted after the write's completion; before that a
 * crash of the host may take it. Requests in flight that overlap have no order among themselves.
 *
 * Threading: everything with the machine lock held. `done` is called with it too, from the loop's
 * thread or from within block_kick() and block_drain(), never from within block_submit(). It may
 * submit again. Ownership: a block belongs to the device that is made with it. */
#pragma once

#include <sys/queue.h>
#include <sys/uio.h>

#include "base/types.h"

struct block;

enum block_op {
	BLOCK_READ,
	BLOCK_WRITE,
	BLOCK_FLUSH,   /* no offset, no length */
	BLOCK_DISCARD, /* the content is of no use any more: a hint */
	BLOCK_ZERO,    /* reads as zeros afterwards */
};

#define BLOCK_MAX_IOV 256
#define BLOCK_MAX_LEN (1u << 30) /* of one discard or write-zeroes; reads and writes: see iov */

struct block_req {
	enum block_op op;
	bool unmap;              /* BLOCK_ZERO: space on the host may be given up */
	u64 offset, len;         /* bytes; any alignment works, block_size is quicker */
	const struct iovec *iov; /* belongs to the device, stays till `done`; adds up to len */
	unsigned nr_iov;         /* at most BLOCK_MAX_IOV */
	/* 0 or -errno: -EIO, -ENOSPC, -EROFS, -EINVAL (outside of the disk), ... */
	void (*done)(struct block_req *r, int err);

	/* the back end's own */
	STAILQ_ENTRY(block_req) next;
	TAILQ_ENTRY(block_req) order;
	u64 lo, hi; /* what of the disk it keeps others away from */
	bool exclusive;
	bool slow; /* by a thread of the pool */
	int err;
};

struct block_ops {
	void (*submit)(struct block *b, struct block_req *r);
	/* What was submitted starts at the latest now. */
	void (*kick)(struct block *b);
	/* Wait until nothing is in flight, calling each `done`. */
	void (*drain)(struct block *b);
	void (*destroy)(struct block *b); /* drained; stable on disk */
};

struct block {
	const struct block_ops *ops;
	/* After some calls of `done`, once: the device interrupts its driver. NULL: nobody. */
	void (*settled)(void *arg);
	void *settled_arg;
	const char *name; /* for messages */
	u64 size;         /* bytes, a multiple of 512 */
	bool ro;
	bool can_discard;
	u32 block_size; /* of the host: writes of less cost a read. A power of 2, 512 or more */
	u32 granule;    /* unit of allocation, for discards; a multiple of block_size */
};

static inline void block_submit(struct block *b, struct block_req *r)
{
	b->ops->submit(b, r);
}
static inline void block_kick(struct block *b)
{
	b->ops->kick(b);
}
static inline void block_drain(struct block *b)
{
	b->ops->drain(b);
}
static inline void block_destroy(struct block *b)
{
	if (b)
		b->ops->destroy(b);
}
