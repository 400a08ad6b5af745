// SPDX-License-Identifier: MIT
/* Which clusters of the file are free: refcounts of 1 to 64 bits, in blocks of a cluster's size
 * that the refcount table lists.
 *
 * Without internal snapshots, which are refused, a count is 0 or 1, but for clusters that hold
 * several compressed ones. A new block is the first cluster of the range that it counts: that whole
 * range is free as long as there is no block, and the block counts itself. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "io/qcow2_priv.h"

static u64 count_get(const struct qcow2 *q, const u8 *block, u64 i)
{
	unsigned bits = 1u << q->ref_order;
	u64 v = 0;

	if (bits < 8)
		return block[i * bits / 8] >> (i * bits % 8) & (BIT(bits) - 1);
	for (unsigned b = 0; b < bits / 8; b++)
		v = v << 8 | block[i * (bits / 8) + b];
	return v;
}

static void count_set(const struct qcow2 *q, u8 *block, u64 i, u64 v)
{
	unsigned bits = 1u << q->ref_order;

	if (bits < 8) {
		u8 *p = &block[i * bits / 8];
		unsigned shift = (unsigned)(i * bits % 8);

		*p = (u8)((*p & ~((BIT(bits) - 1) << shift)) | v << shift);
		return;
	}
	for (unsigned b = bits / 8; b--; v >>= 8)
		block[i * (bits / 8) + b] = (u8)v;
}

/* Is the cluster within what the file can hold? */
static bool fits(const struct qcow2 *q, u64 cluster)
{
	const struct image *f = q->image.below;

	if (cluster >= (QCOW_OFFSET >> q->cluster_bits))
		return false;
	return f->grows || cluster < f->size >> q->cluster_bits;
}

static void used_to(struct qcow2 *q, u64 end)
{
	q->end = MAX(q->end, end);
}

static int new_block(struct qcow2 *q, u32 b, struct qcow2_table **out)
{
	u64 cluster = (u64)b << q->ref_bits;
	int err;

	if (!fits(q, cluster))
		return -ENOSPC;
	if (qcow2_set_has(&q->meta, cluster))
		return qcow2_corrupt(q, "metadata that is not counted", cluster << q->cluster_bits);
	err = qcow2_cache_new(q, &q->ref, cluster << q->cluster_bits, out);
	if (!err)
		err = qcow2_set_add(&q->meta, cluster);
	if (err)
		return err;
	count_set(q, (*out)->data, 0, 1);
	q->reftable.entry[b] = cluster << q->cluster_bits;
	qcow2_top_dirty(&q->reftable, b);
	used_to(q, cluster + 1);
	return 0;
}

/* The header's two fields, in one write. */
static int header_reftable(struct qcow2 *q, u64 offset, u32 clusters)
{
	u8 be[12];
	u64 o = htobe64(offset);
	u32 n = htobe32(clusters);

	memcpy(be, &o, 8);
	memcpy(be + 8, &n, 4);
	return image_write(q->image.below, 48, be, sizeof(be));
}

/* Twice as long a table, in the first range that the old one does not cover: the block that counts
 * the range, then the table. Everything is stable before the header refers to it. */
static int grow_table(struct qcow2 *q)
{
	struct qcow2_top *old = &q->reftable, top = {0};
	u64 per = q->cluster / 8, clusters = 2 * (old->nr / per), moved = old->offset;
	u64 start = (u64)old->nr << q->ref_bits, old_clusters = old->nr / per;
	u8 *block = NULL;
	int err;

	clusters = MIN(clusters, QCOW_MAX_REFTABLE / q->cluster);
	if (clusters <= old_clusters || clusters + 1 > BIT(q->ref_bits) ||
	    !fits(q, start + clusters + 1))
		return -ENOSPC;
	for (u64 i = 0; i <= clusters; i++)
		if (qcow2_set_has(&q->meta, start + i))
			return qcow2_corrupt(q, "metadata that is not counted",
			                     (start + i) << q->cluster_bits);
	err = qcow2_commit(q);
	if (err)
		return err;
	top.nr = (u32)(clusters * per);
	top.offset = (start + 1) << q->cluster_bits;
	top.entry = calloc(top.nr, sizeof(*top.entry));
	block = calloc(1, q->cluster);
	if (!top.entry || !block) {
		err = -ENOMEM;
		goto fail;
	}
	for (u64 i = 0; i <= clusters; i++)
		count_set(q, block, i, 1);
	memcpy(top.entry, old->entry, old->nr * sizeof(*top.entry));
	top.entry[old->nr] = start << q->cluster_bits;
	err = image_write(q->image.below, start << q->cluster_bits, block, q->cluster);
	for (u32 i = 0; i < top.nr; i++)
		top.entry[i] = htobe64(top.entry[i]);
	if (!err)
		err = image_write(q->image.below, top.offset, top.entry, top.nr * 8ull);
	for (u32 i = 0; i < top.nr; i++)
		top.entry[i] = be64toh(top.entry[i]);
	if (!err)
		err = image_flush(q->image.below);
	if (!err)
		err = header_reftable(q, top.offset, (u32)clusters);
	if (!err)
		err = image_flush(q->image.below);
	if (err) {
		/* Which table the header names is not known. */
		q->broken = true;
		log_error("%s: cannot grow the refcount table: %s", q->image.name, strerror(-err));
		goto fail;
	}
	free(block);
	free(old->entry);
	*old = top;
	used_to(q, start + 1 + clusters);
	for (u64 i = 0; i < old_clusters; i++)
		qcow2_free_later(q, (moved >> q->cluster_bits) + i);
	return qcow2_set_build(q);

fail:
	free(top.entry);
	free(block);
	return err;
}

static int get_block(struct qcow2 *q, u64 cluster, struct qcow2_table **out)
{
	u64 b = cluster >> q->ref_bits;
	int err;

	while (b >= q->reftable.nr) {
		err = grow_table(q);
		if (err)
			return err;
	}
	if (!q->reftable.entry[b])
		return new_block(q, (u32)b, out);
	return qcow2_cache_get(q, &q->ref, q->reftable.entry[b], out);
}

int qcow2_alloc(struct qcow2 *q, u64 want, u64 *first, u64 *got, bool *fresh)
{
	u64 n = BIT(q->ref_bits), at = q->hint, i, k;
	struct qcow2_table *t = NULL;

	if (q->broken)
		return -EIO;
	for (;;) {
		int err;

		if (!fits(q, at))
			return -ENOSPC;
		err = get_block(q, at, &t);
		if (err)
			return err;
		i = at & (n - 1);
		/* NOLINTNEXTLINE(clang-analyzer-core.NullDereference): there, unless err */
		while (i < n && count_get(q, t->data, i))
			i++;
		if (i < n)
			break;
		at = ALIGN_DOWN(at, n) + n;
		q->hint = at;
	}
	at = ALIGN_DOWN(at, n) + i;
	for (k = 0; k < want && i + k < n && fits(q, at + k); k++) {
		if (count_get(q, t->data, i + k))
			break;
		if (qcow2_set_has(&q->meta, at + k))
			return qcow2_corrupt(q, "metadata that is not counted",
			                     (at + k) << q->cluster_bits);
	}
	if (!k)
		return -ENOSPC;
	for (u64 j = 0; j < k; j++)
		count_set(q, t->data, i + j, 1);
	qcow2_cache_dirty(&q->ref, t);
	*first = at;
	*got = k;
	if (fresh)
		*fresh = at >= q->end && q->image.below->zero_tail;
	q->hint = at + k;
	used_to(q, at + k);
	return 0;
}

/* Take one count down; *now is what is left. */
static int count_down(struct qcow2 *q, u64 cluster, u64 *now)
{
	u64 b = cluster >> q->ref_bits, i = cluster & (BIT(q->ref_bits) - 1);
	struct qcow2_table *t;
	int err;

	if (b >= q->reftable.nr || !q->reftable.entry[b])
		return qcow2_corrupt(q, "a cluster in use is not counted",
		                     cluster << q->cluster_bits);
	err = qcow2_cache_get(q, &q->ref, q->reftable.entry[b], &t);
	if (err)
		return err;
	*now = count_get(q, t->data, i);
	if (!*now)
		return qcow2_corrupt(q, "a cluster in use is not counted",
		                     cluster << q->cluster_bits);
	count_set(q, t->data, i, --*now);
	qcow2_cache_dirty(&q->ref, t);
	if (!*now)
		q->hint = MIN(q->hint, cluster);
	return 0;
}

void qcow2_unalloc(struct qcow2 *q, u64 first, u64 nr)
{
	u64 left;

	for (u64 i = 0; i < nr; i++)
		if (count_down(q, first + i, &left))
			return; /* leaked */
}

void qcow2_free_later(struct qcow2 *q, u64 cluster)
{
	if (q->nr_freed == q->cap_freed) {
		size_t cap = q->cap_freed ? q->cap_freed * 2 : 256;
		u64 *f = realloc(q->freed, cap * sizeof(*f));

		if (!f)
			return; /* leaked */
		q->freed = f;
		q->cap_freed = cap;
	}
	q->freed[q->nr_freed++] = cluster;
}

int qcow2_release_freed(struct qcow2 *q)
{
	u64 hole = 0, len = 0, left = 0;
	size_t nr = q->nr_freed;
	int err = 0;

	q->nr_freed = 0; /* what an error leaves is leaked */
	for (size_t i = 0; i < nr && !err; i++) {
		err = count_down(q, q->freed[i], &left);
		if (err || left)
			continue;
		if (len && q->freed[i] == hole + len) {
			len++;
			continue;
		}
		if (len)
			image_discard(q->image.below, hole << q->cluster_bits,
			              len << q->cluster_bits);
		hole = q->freed[i];
		len = 1;
	}
	if (len)
		image_discard(q->image.below, hole << q->cluster_bits, len << q->cluster_bits);
	return err;
}
