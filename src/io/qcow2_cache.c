// SPDX-License-Identifier: MIT
/* Tables in memory, and the order in which they become stable.
 *
 * Nothing of the metadata is written before a commit (a flush of the guest, the end, a cache
 * full of changes). A commit then takes these steps, each stable before the next begins:
 *
 *   1. refcount blocks: new clusters are counted. The guest's data is stable with them.
 *   2. the refcount table, if it refers to new blocks
 *   3. L2 tables, which refer to the new clusters
 *   4. the L1 table, if it refers to new L2 tables
 *   5. only now are the counts of clusters taken down that nothing refers to any more; that is
 *      written by the next commit's step 1, and only then may they be used again
 *
 * So at every moment what is on disk refers only to clusters that are counted and written. Whatever
 * ends the process or the host leaves at worst clusters that are counted and not used (leaks). */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "io/qcow2_priv.h"

/* ---- tables ---- */

static unsigned hash_of(u64 host, unsigned cluster_bits)
{
	u64 n = host >> cluster_bits;

	return (unsigned)(n ^ n >> 10) % QCOW_CACHE_HASH;
}

int qcow2_cache_init(struct qcow2_cache *c, unsigned nr)
{
	c->slot = calloc(nr, sizeof(*c->slot));
	c->nr = nr;
	for (unsigned i = 0; i < QCOW_CACHE_HASH; i++)
		c->hash[i] = -1;
	return c->slot ? 0 : -ENOMEM;
}

void qcow2_cache_fini(struct qcow2_cache *c)
{
	for (unsigned i = 0; c->slot && i < c->nr; i++)
		free(c->slot[i].data);
	free(c->slot);
}

struct qcow2_table *qcow2_cache_find(struct qcow2_cache *c, u64 host, unsigned cluster_bits)
{
	for (int i = c->hash[hash_of(host, cluster_bits)]; i >= 0; i = c->slot[i].next) {
		if (c->slot[i].host == host) {
			c->slot[i].used = true;
			return &c->slot[i];
		}
	}
	return NULL;
}

void qcow2_cache_dirty(struct qcow2_cache *c, struct qcow2_table *t)
{
	if (!t->dirty)
		c->nr_dirty++;
	t->dirty = true;
}

static int table_write(struct qcow2 *q, struct qcow2_cache *c, struct qcow2_table *t)
{
	int err = image_write(q->image.below, t->host, t->data, q->cluster);

	if (!err) {
		t->dirty = false;
		c->nr_dirty--;
	}
	return err;
}

static void unhash(struct qcow2 *q, struct qcow2_cache *c, struct qcow2_table *t)
{
	int *p = &c->hash[hash_of(t->host, q->cluster_bits)];

	while (*p != (int)(t - c->slot))
		p = &c->slot[*p].next;
	*p = t->next;
	t->host = 0;
}

/* A slot to use anew: the clock algorithm. Changes are committed before they leave memory. */
static int take_slot(struct qcow2 *q, struct qcow2_cache *c, struct qcow2_table **out)
{
	struct qcow2_table *t;
	int err;

	for (;;) {
		t = &c->slot[c->hand];
		c->hand = (c->hand + 1) % c->nr;
		if (!t->used)
			break;
		t->used = false;
	}
	if (t->dirty) {
		err = q->committing ? table_write(q, c, t) : qcow2_commit(q);
		if (err)
			return err;
		if (t->dirty) { /* a count that the commit itself took down */
			err = table_write(q, c, t);
			if (err)
				return err;
		}
	}
	if (t->host)
		unhash(q, c, t);
	if (!t->data)
		t->data = aligned_alloc(PAGE_SIZE, ALIGN_UP(q->cluster, PAGE_SIZE));
	*out = t;
	return t->data ? 0 : -ENOMEM;
}

static void put_slot(struct qcow2 *q, struct qcow2_cache *c, struct qcow2_table *t, u64 host)
{
	int *head = &c->hash[hash_of(host, q->cluster_bits)];

	t->host = host;
	t->used = true;
	t->next = *head;
	*head = (int)(t - c->slot);
}

int qcow2_cache_get(struct qcow2 *q, struct qcow2_cache *c, u64 host, struct qcow2_table **out)
{
	int err;

	*out = qcow2_cache_find(c, host, q->cluster_bits);
	if (*out)
		return 0;
	err = take_slot(q, c, out);
	if (err)
		return err;
	err = image_read(q->image.below, host, (*out)->data, q->cluster);
	if (err)
		return err;
	put_slot(q, c, *out, host);
	return 0;
}

int qcow2_cache_new(struct qcow2 *q, struct qcow2_cache *c, u64 host, struct qcow2_table **out)
{
	/* What was there before (an L2 table that was copied) is of no interest. */
	struct qcow2_table *old = qcow2_cache_find(c, host, q->cluster_bits);
	int err = 0;

	if (old)
		*out = old;
	else
		err = take_slot(q, c, out);
	if (err)
		return err;
	memset((*out)->data, 0, q->cluster);
	if (!old)
		put_slot(q, c, *out, host);
	qcow2_cache_dirty(c, *out);
	return 0;
}

/* ---- the commit ---- */

static int cache_write(struct qcow2 *q, struct qcow2_cache *c)
{
	int err = 0;

	for (unsigned i = 0; i < c->nr && c->nr_dirty && !err; i++)
		if (c->slot[i].dirty)
			err = table_write(q, c, &c->slot[i]);
	return err;
}

void qcow2_top_dirty(struct qcow2_top *t, u32 index)
{
	if (t->dirty_from == t->dirty_to) {
		t->dirty_from = index;
		t->dirty_to = index + 1;
	}
	t->dirty_from = MIN(t->dirty_from, index);
	t->dirty_to = MAX(t->dirty_to, index + 1);
}

/* Whole sectors, so that none is written in two parts. */
static int top_write(struct qcow2 *q, struct qcow2_top *t)
{
	u32 from = t->dirty_from & ~63u, to = MIN(ALIGN_UP(t->dirty_to, 64u), t->nr);
	u64 *be;
	int err;

	if (t->dirty_from == t->dirty_to)
		return 0;
	be = malloc((to - from) * sizeof(*be));
	if (!be)
		return -ENOMEM;
	for (u32 i = from; i < to; i++)
		be[i - from] = htobe64(t->entry[i]);
	err = image_write(q->image.below, t->offset + from * 8ull, be, (to - from) * 8ull);
	free(be);
	if (!err)
		t->dirty_from = t->dirty_to = 0;
	return err;
}

/* After a failed flush nobody knows what is on disk (the kernel forgets what it could not write),
 * and the order of what follows would be lost. */
static int barrier(struct qcow2 *q)
{
	int err = image_flush(q->image.below);

	if (err) {
		log_error("%s: the host cannot make it stable: %s; it is not written any more",
		          q->image.name, strerror(-err));
		q->broken = true;
	}
	return err;
}

static bool top_clean(const struct qcow2_top *t)
{
	return t->dirty_from == t->dirty_to;
}

bool qcow2_is_clean(const struct qcow2 *q)
{
	return !q->l2.nr_dirty && !q->ref.nr_dirty && top_clean(&q->l1) &&
	       top_clean(&q->reftable) && !q->nr_freed;
}

int qcow2_commit(struct qcow2 *q)
{
	int err;

	if (q->broken)
		return -EIO;
	err = cache_write(q, &q->ref);
	if (!err)
		err = barrier(q);
	if (!err && !top_clean(&q->reftable)) {
		err = top_write(q, &q->reftable);
		if (!err)
			err = barrier(q);
	}
	if (!err && q->l2.nr_dirty) {
		err = cache_write(q, &q->l2);
		if (!err)
			err = barrier(q);
	}
	if (!err && !top_clean(&q->l1)) {
		err = top_write(q, &q->l1);
		if (!err)
			err = barrier(q);
	}
	if (!err && q->nr_freed) {
		q->committing = true;
		err = qcow2_release_freed(q);
		q->committing = false;
	}
	return err;
}

/* ---- which clusters are metadata ---- */

static u64 *set_place(const struct qcow2_set *s, u64 cluster)
{
	u64 i = (cluster * 0x9e3779b97f4a7c15ull) >> 20;

	while (s->key[i & (s->size - 1)] && s->key[i & (s->size - 1)] != cluster + 1)
		i++;
	return &s->key[i & (s->size - 1)];
}

bool qcow2_set_has(const struct qcow2_set *s, u64 cluster)
{
	return *set_place(s, cluster) != 0;
}

int qcow2_set_add(struct qcow2_set *s, u64 cluster)
{
	u64 *p;

	if (s->used * 2 >= s->size) {
		struct qcow2_set big = {.size = MAX(s->size * 2, 64ull)};

		big.key = calloc(big.size, sizeof(*big.key));
		if (!big.key)
			return -ENOMEM;
		for (u64 i = 0; i < s->size; i++)
			if (s->key[i])
				*set_place(&big, s->key[i] - 1) = s->key[i];
		big.used = s->used;
		free(s->key);
		*s = big;
	}
	p = set_place(s, cluster);
	if (*p)
		return -EEXIST;
	*p = cluster + 1;
	s->used++;
	return 0;
}

static int add_run(struct qcow2 *q, u64 offset, u64 bytes)
{
	u64 end = (offset + bytes + q->cluster - 1) >> q->cluster_bits;
	int err = 0;

	for (u64 c = offset >> q->cluster_bits; c < end && !err; c++)
		err = qcow2_set_add(&q->meta, c);
	return err;
}

static int add_tables(struct qcow2 *q, const struct qcow2_top *t)
{
	int err = 0;

	for (u32 i = 0; i < t->nr && !err; i++)
		if (t->entry[i] & QCOW_OFFSET)
			err = add_run(q, t->entry[i] & QCOW_OFFSET, q->cluster);
	return err;
}

int qcow2_set_build(struct qcow2 *q)
{
	int err;

	free(q->meta.key);
	memset(&q->meta, 0, sizeof(q->meta));
	err = add_run(q, 0, 1);
	if (!err)
		err = add_run(q, q->l1.offset, q->l1.nr * 8ull);
	if (!err)
		err = add_run(q, q->reftable.offset, q->reftable.nr * 8ull);
	if (!err)
		err = add_tables(q, &q->l1);
	if (!err)
		err = add_tables(q, &q->reftable);
	return err;
}

int qcow2_corrupt(struct qcow2 *q, const char *what, u64 where)
{
	if (!q->broken)
		log_error("%s: corrupt: %s (at %#llx); %s; \"qemu-img check\" says more",
		          q->image.name, what, (unsigned long long)where,
		          q->image.ro ? "that part cannot be read" : "it is not written any more");
	q->broken = true;
	return -EIO;
}
