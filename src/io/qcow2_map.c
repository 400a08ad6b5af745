// SPDX-License-Identifier: MIT
/* Where guest clusters are: L1 and L2 tables. Every entry is checked each time it is used, because
 * whoever made the image may have written anything into it. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "io/qcow2_priv.h"

static u64 entry_get(const struct qcow2_table *t, u64 i)
{
	return be64toh(((const u64 *)(const void *)t->data)[i]);
}

static void entry_set(struct qcow2_table *t, u64 i, u64 v)
{
	((u64 *)(void *)t->data)[i] = htobe64(v);
}

static u64 l2_index(const struct qcow2 *q, u64 off)
{
	return off >> q->cluster_bits & (BIT(q->l2_bits) - 1);
}

static u64 l1_index(const struct qcow2 *q, u64 off)
{
	return off >> (q->cluster_bits + q->l2_bits);
}

/* Bytes of the compressed data; where it begins. */
static u64 packed_at(const struct qcow2 *q, u64 entry, u64 *host)
{
	unsigned x = 62 - (q->cluster_bits - 8);
	u64 sectors = (entry >> x & (BIT(q->cluster_bits - 8) - 1)) + 1;

	*host = entry & (BIT(x) - 1);
	return sectors * 512 - (*host & 511);
}

static int classify(struct qcow2 *q, u64 entry, struct qcow2_extent *e)
{
	u64 host = entry & QCOW_OFFSET, len;

	*e = (struct qcow2_extent){.kind = QCOW2_NONE};
	if (entry & QCOW_COMPRESSED) {
		len = packed_at(q, entry, &host);
		if (entry & QCOW_COPIED || host < q->cluster || host >> q->cluster_bits >= q->end ||
		    qcow2_set_has(&q->meta, host >> q->cluster_bits) ||
		    qcow2_set_has(&q->meta, (host + len - 1) >> q->cluster_bits))
			return qcow2_corrupt(q, "a compressed cluster outside of the data", host);
		e->kind = QCOW2_PACKED;
		e->host = entry;
		return 0;
	}
	if (entry & QCOW_L2_RESERVED || (q->version < 3 && entry & QCOW_ZERO) ||
	    host & (q->cluster - 1))
		return qcow2_corrupt(q, "an L2 entry that means nothing", entry);
	if (host &&
	    (host >> q->cluster_bits >= q->end || qcow2_set_has(&q->meta, host >> q->cluster_bits)))
		return qcow2_corrupt(q, "a data cluster in metadata or behind the end", host);
	if (entry & QCOW_ZERO) {
		e->kind = QCOW2_ZEROS;
	} else if (host) {
		e->kind = QCOW2_DATA;
		e->host = host;
		e->copied = entry & QCOW_COPIED;
	}
	return 0;
}

static bool continues(const struct qcow2 *q, const struct qcow2_extent *first, u64 n,
                      const struct qcow2_extent *e)
{
	if (e->kind != first->kind || e->kind == QCOW2_PACKED)
		return false;
	return e->kind != QCOW2_DATA ||
	       (e->host == first->host + n * q->cluster && e->copied == first->copied);
}

int qcow2_lookup(struct qcow2 *q, u64 off, u64 max, bool load, struct qcow2_extent *e)
{
	u64 l1 = l1_index(q, off), i = l2_index(q, off), in = off & (q->cluster - 1), n = 1;
	u64 left = BIT(q->l2_bits) - i; /* clusters of this table */
	struct qcow2_extent next;
	struct qcow2_table *t;
	int err;

	if (l1 >= q->l1.nr)
		return -EINVAL;
	max = MIN(max, (left << q->cluster_bits) - in);
	if (!(q->l1.entry[l1] & QCOW_OFFSET)) {
		*e = (struct qcow2_extent){.kind = QCOW2_NONE, .len = max};
		return 0;
	}
	if (load) {
		err = qcow2_cache_get(q, &q->l2, q->l1.entry[l1] & QCOW_OFFSET, &t);
		if (err)
			return err;
	} else {
		t = qcow2_cache_find(&q->l2, q->l1.entry[l1] & QCOW_OFFSET, q->cluster_bits);
		if (!t)
			return -EAGAIN;
	}
	err = classify(q, entry_get(t, i), e);
	if (err)
		return err;
	while (n * q->cluster - in < max) {
		err = classify(q, entry_get(t, i + n), &next);
		if (err)
			return err;
		if (!continues(q, e, n, &next))
			break;
		n++;
	}
	e->len = MIN(max, n * q->cluster - in);
	if (e->kind == QCOW2_DATA)
		e->host += in;
	return 0;
}

int qcow2_count_missing(struct qcow2 *q, u64 off, u64 max, u64 *len)
{
	struct qcow2_extent e;

	*len = 0;
	while (*len < max) {
		int err = qcow2_lookup(q, off + *len, max - *len, true, &e);

		if (err)
			return err;
		if (e.kind == QCOW2_DATA && e.copied)
			break;
		*len += e.len;
		if (!l2_index(q, off + *len)) /* the next table's */
			break;
	}
	return 0;
}

/* A copy of a table that is not ours alone takes its place. */
static int own_table(struct qcow2 *q, u64 l1, u64 old, struct qcow2_table **out)
{
	u64 first, got;
	u8 *copy = NULL;
	int err;

	if (old) {
		err = qcow2_cache_get(q, &q->l2, old, out);
		if (err)
			return err;
		copy = malloc(q->cluster);
		if (!copy)
			return -ENOMEM;
		memcpy(copy, (*out)->data, q->cluster);
	}
	err = qcow2_alloc(q, 1, &first, &got, NULL);
	if (err)
		goto out;
	err = qcow2_cache_new(q, &q->l2, first << q->cluster_bits, out);
	if (err) {
		qcow2_unalloc(q, first, 1);
		goto out;
	}
	if (old)
		memcpy((*out)->data, copy, q->cluster);
	q->l1.entry[l1] = first << q->cluster_bits | QCOW_COPIED;
	qcow2_top_dirty(&q->l1, (u32)l1);
	if (old) {
		qcow2_free_later(q, old >> q->cluster_bits);
		err = qcow2_set_build(q);
	} else {
		err = qcow2_set_add(&q->meta, first);
	}
	if (err)
		q->broken = true; /* out of memory: what is metadata is not known any more */
out:
	free(copy);
	return err;
}

/* The L2 table of a guest offset, to be changed. */
static int table_to_change(struct qcow2 *q, u64 off, struct qcow2_table **out)
{
	u64 l1 = l1_index(q, off), entry;

	if (q->broken)
		return -EIO;
	if (l1 >= q->l1.nr)
		return -EINVAL;
	entry = q->l1.entry[l1];
	if (!(entry & QCOW_COPIED) || !(entry & QCOW_OFFSET))
		return own_table(q, l1, entry & QCOW_OFFSET, out);
	return qcow2_cache_get(q, &q->l2, entry & QCOW_OFFSET, out);
}

/* An L2 entry is replaced: what it referred to is one reference poorer. */
static void drop(struct qcow2 *q, u64 entry)
{
	u64 host = entry & QCOW_OFFSET, len;

	if (entry & QCOW_COMPRESSED) {
		len = packed_at(q, entry, &host);
		for (u64 c = host >> q->cluster_bits; c <= (host + len - 1) >> q->cluster_bits; c++)
			qcow2_free_later(q, c);
	} else if (host) {
		qcow2_free_later(q, host >> q->cluster_bits);
	}
}

int qcow2_link(struct qcow2 *q, u64 off, u64 nr, u64 first)
{
	u64 i = l2_index(q, off);
	struct qcow2_extent e;
	struct qcow2_table *t;
	int err = table_to_change(q, off, &t);

	for (u64 k = 0; k < nr && !err; k++) /* all or nothing */
		err = classify(q, entry_get(t, i + k), &e);
	if (err)
		return err;
	for (u64 k = 0; k < nr; k++) {
		drop(q, entry_get(t, i + k));
		entry_set(t, i + k, (first + k) << q->cluster_bits | QCOW_COPIED);
	}
	qcow2_cache_dirty(&q->l2, t);
	return 0;
}

int qcow2_unlink(struct qcow2 *q, u64 off, u64 max, bool zero, u64 *nr)
{
	u64 i = l2_index(q, off), l1 = l1_index(q, off);
	bool explicit_zero = q->image.backing != NULL;
	struct qcow2_extent e;
	struct qcow2_table *t;
	int err;

	*nr = MIN(max, BIT(q->l2_bits) - i);
	if (l1 >= q->l1.nr)
		return -EINVAL;
	if (!(q->l1.entry[l1] & QCOW_OFFSET) && (!zero || !explicit_zero))
		return 0;
	err = table_to_change(q, off, &t);
	if (err)
		return err;
	for (u64 k = 0; k < *nr; k++) {
		u64 entry = entry_get(t, i + k);

		err = classify(q, entry, &e);
		if (err)
			return err;
		if (e.kind == QCOW2_ZEROS || (e.kind == QCOW2_NONE && (!zero || !explicit_zero)))
			continue;
		drop(q, entry);
		entry_set(t, i + k, explicit_zero ? QCOW_ZERO : 0);
		qcow2_cache_dirty(&q->l2, t);
	}
	return 0;
}
