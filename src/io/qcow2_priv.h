/* SPDX-License-Identifier: MIT */
/* Inside of the qcow2 layer. The format is QEMU's docs/interop/qcow2.txt; names are those of its
 * tables. qcow2.c reads and writes, qcow2_map.c knows where guest clusters are, qcow2_ref.c which
 * host clusters are free, qcow2_cache.c keeps tables and makes them stable in the right
 * order, qcow2_open.c checks the header.
 *
 * Threading: q->lock is over everything but the guest's data. Functions that say "locked" are
 * called with it; none of the others is. */
#pragma once

#include <endian.h>
#include <pthread.h>

#include "base/log.h"
#include "io/image.h"

#define QCOW_MAGIC         0x514649fbu
#define QCOW_COPIED        (1ull << 63) /* refcount is exactly one */
#define QCOW_COMPRESSED    (1ull << 62)
#define QCOW_ZERO          1ull
#define QCOW_OFFSET        0x00fffffffffffe00ull
#define QCOW_L1_RESERVED   (~(QCOW_COPIED | QCOW_OFFSET))
#define QCOW_L2_RESERVED   (~(QCOW_COPIED | QCOW_COMPRESSED | QCOW_OFFSET | QCOW_ZERO))
#define QCOW_REF_RESERVED  0x1ffull
#define QCOW_MAX_L1        (32 * MiB) /* bytes of the table, as QEMU has it */
#define QCOW_MAX_REFTABLE  (8 * MiB)
#define QCOW_MIN_BITS      9
#define QCOW_MAX_BITS      21
#define QCOW_CACHE_HASH    1024
#define QCOW_MAX_FREED     65536 /* before they are released */
#define QCOW_COMPRESS_ZLIB 0
#define QCOW_COMPRESS_ZSTD 1

/* One table, an L2 table or a refcount block, of a cluster's size; as on disk, big-endian. */
struct qcow2_table {
	u64 host; /* 0: nothing here */
	u8 *data;
	bool dirty, used;
	int next; /* with the same hash, -1: none */
};

struct qcow2_cache {
	struct qcow2_table *slot;
	unsigned nr, hand, nr_dirty;
	int hash[QCOW_CACHE_HASH];
};

/* Clusters that hold metadata: what no data may be in. Open addressing, 0 is free. */
struct qcow2_set {
	u64 *key;
	u64 size, used;
};

/* A table of host offsets that is in memory as a whole, in host order: L1, refcount table. */
struct qcow2_top {
	u64 *entry;
	u64 offset;
	u32 nr;
	u32 dirty_from, dirty_to; /* entries; none when equal */
};

struct qcow2 {
	struct image image; /* .below is the file, .backing the backing image */
	unsigned version, cluster_bits, ref_order, compression;
	unsigned l2_bits;  /* entries of an L2 table */
	unsigned ref_bits; /* ... of a refcount block */
	u64 cluster;       /* bytes */
	struct qcow2_top l1, reftable;

	pthread_mutex_t lock;
	struct qcow2_cache l2, ref;
	struct qcow2_set meta;
	u64 hint;        /* no free cluster below */
	u64 end;         /* clusters from here on were never used */
	bool broken;     /* not written any more */
	bool committing; /* references are stable, only freed clusters' counts change */
	u64 *freed;      /* clusters whose last reference is not stable on disk yet */
	size_t nr_freed, cap_freed;

	pthread_mutex_t inflate_lock;
	u64 inflated; /* the L2 entry whose data is in inflate_out */
	u8 *inflate_in, *inflate_out;
};

static inline struct qcow2 *qcow2_of(struct image *im)
{
	return container_of(im, struct qcow2, image);
}

enum qcow2_kind { QCOW2_NONE, QCOW2_ZEROS, QCOW2_DATA, QCOW2_PACKED };

/* What is at a guest offset. */
struct qcow2_extent {
	enum qcow2_kind kind;
	bool copied; /* DATA: may be written in place */
	u64 len;     /* bytes from the offset on that are the same kind, DATA: contiguous */
	u64 host;    /* DATA: byte offset in the file; PACKED: the L2 entry */
};

/* ---- qcow2.c ---- */

extern const struct image_ops qcow2_ops;

/* ---- qcow2_cache.c, locked ---- */

int qcow2_cache_init(struct qcow2_cache *c, unsigned nr);
void qcow2_cache_fini(struct qcow2_cache *c);
/* The table at `host`; stays valid till the next call for the same cache. */
int qcow2_cache_get(struct qcow2 *q, struct qcow2_cache *c, u64 host, struct qcow2_table **out);
/* Only when it is there. */
struct qcow2_table *qcow2_cache_find(struct qcow2_cache *c, u64 host, unsigned cluster_bits);
/* A new one, zeroed and dirty, that isn't read. */
int qcow2_cache_new(struct qcow2 *q, struct qcow2_cache *c, u64 host, struct qcow2_table **out);
void qcow2_cache_dirty(struct qcow2_cache *c, struct qcow2_table *t);
/* Make all metadata stable, and with it all data that was written before. */
int qcow2_commit(struct qcow2 *q);
bool qcow2_is_clean(const struct qcow2 *q);
void qcow2_top_dirty(struct qcow2_top *t, u32 index);

bool qcow2_set_has(const struct qcow2_set *s, u64 cluster);
int qcow2_set_add(struct qcow2_set *s, u64 cluster); /* -EEXIST, -ENOMEM */
/* All metadata anew from the header and the top tables. -EEXIST: something overlaps. */
int qcow2_set_build(struct qcow2 *q);
/* The image contradicts itself: said once, and nothing is written any more. Returns -EIO. */
int qcow2_corrupt(struct qcow2 *q, const char *what, u64 where);

/* ---- qcow2_ref.c, locked ---- */

/* Up to `want` contiguous clusters, with a count of one; `fresh`: they read as zeros. */
int qcow2_alloc(struct qcow2 *q, u64 want, u64 *first, u64 *got, bool *fresh);
/* Clusters from qcow2_alloc() that nothing refers to. */
void qcow2_unalloc(struct qcow2 *q, u64 first, u64 nr);
/* A reference was taken away in memory; the cluster is free when that is stable. */
void qcow2_free_later(struct qcow2 *q, u64 cluster);
int qcow2_release_freed(struct qcow2 *q); /* by qcow2_commit() */

/* ---- qcow2_map.c, locked ---- */

/* `max` > 0 bytes from `off`, which is within the image, at most. load false: -EAGAIN instead of
 * reading a table. */
int qcow2_lookup(struct qcow2 *q, u64 off, u64 max, bool load, struct qcow2_extent *e);
/* The bytes from `off`, up to `max`, that have to be allocated before they can be written: the
 * clusters from that of `off` on which are not copied DATA. 0: off's own is. */
int qcow2_count_missing(struct qcow2 *q, u64 off, u64 max, u64 *len);
/* `nr` clusters of one L2 table from guest offset `off` are at host cluster `first` now. */
int qcow2_link(struct qcow2 *q, u64 off, u64 nr, u64 first);
/* Whole clusters read as zeros (zero), or as anything (not zero), and are free. One L2 table; *nr
 * is how many clusters were dealt with. */
int qcow2_unlink(struct qcow2 *q, u64 off, u64 max, bool zero, u64 *nr);
