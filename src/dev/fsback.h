/* SPDX-License-Identifier: MIT */
/* What a file system device stands on: something that answers FUSE requests. io/fuse.h is one.
 *
 * Threading: submit may be called by any thread and does not block; a request's `done` is called on
 * a thread of the back end, or on the one that submits or resets. */
#pragma once

#include <stdio.h>
#include <sys/uio.h>

#include "base/types.h"

/* One request. Belongs to the back end from submit to done; the buffers must stay valid that long.
 */
struct fuse_req {
	const struct iovec *in, *out;
	unsigned nr_in, nr_out;
	/* `len` bytes of `out` are written; 0: this request has no answer. */
	void (*done)(struct fuse_req *r, u32 len);

	struct fuse_req *next; /* the back end's */
	u64 unique;
	bool interrupted;
};

struct fsback;

struct fsback_ops {
	void (*submit)(struct fsback *b, struct fuse_req *r);
	/* As after creation. Returns when no request is left; nothing is submitted meanwhile. */
	void (*reset)(struct fsback *b);
	void (*dump)(struct fsback *b, FILE *out); /* one line for people */
	void (*destroy)(struct fsback *b);         /* after a reset */
};

struct fsback {
	const struct fsback_ops *ops;
};
