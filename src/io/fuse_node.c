// SPDX-License-Identifier: MIT
/* Numbers the guest uses for files: node ids for those it knows, handles for those it has open. It
 * may send any number at any time, also of one that is just being freed, so every use takes a
 * reference, and a number carries a generation.
 *
 * A node keeps an O_PATH descriptor. That costs one of the process's descriptors a file, but
 * nothing else names an inode so well: it can't be replaced, renamed away or its number be used
 * again while the guest knows it, and it takes no rights that file handles (open_by_handle_at)
 * would. */
#include "io/fuse_priv.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#define TABLE_FIRST 64
#define HASH_FIRST  256

/* ---- tables ---- */

static int table_grow(struct fuse_table *t)
{
	u32 nr = MIN(t->nr ? t->nr * 2 : TABLE_FIRST, t->max);
	struct fuse_slot *p;

	if (nr <= t->nr)
		return -ENFILE;
	p = realloc(t->slot, nr * sizeof(*p));
	if (!p)
		return -ENOMEM;
	for (u32 i = nr; i-- > t->nr;) {
		p[i] = (struct fuse_slot){.next_free = t->free};
		t->free = i + 1;
	}
	t->slot = p;
	t->nr = nr;
	return 0;
}

int fuse_table_add(struct fuse_table *t, void *obj, u64 *id)
{
	struct fuse_slot *slot;
	int err = t->free ? 0 : table_grow(t);

	if (err)
		return err;
	*id = t->free;
	slot = &t->slot[t->free - 1];
	*id |= (u64)slot->gen << 32;
	t->free = slot->next_free;
	slot->obj = obj;
	t->used++;
	return 0;
}

static struct fuse_slot *table_slot(const struct fuse_table *t, u64 id)
{
	u32 i = (u32)id - 1; /* 0 wraps beyond nr */

	if (i >= t->nr || !t->slot[i].obj || t->slot[i].gen != id >> 32)
		return NULL;
	return &t->slot[i];
}

void *fuse_table_find(const struct fuse_table *t, u64 id)
{
	const struct fuse_slot *slot = table_slot(t, id);

	return slot ? slot->obj : NULL;
}

void fuse_table_remove(struct fuse_table *t, u64 id)
{
	struct fuse_slot *slot = table_slot(t, id);

	if (!slot)
		return;
	slot->obj = NULL;
	slot->gen++;
	slot->next_free = t->free;
	t->free = (u32)id;
	t->used--;
}

/* ---- nodes by inode ---- */

static struct fuse_node **hash_bucket(const struct fuse_server *s, dev_t dev, ino_t ino)
{
	u64 x = ((u64)ino ^ s->hash_seed) * 0x9e3779b97f4a7c15ull + (u64)dev;

	x = (x ^ x >> 32) * 0xd6e8feb86659fd93ull;
	return &s->hash[(x >> 32) & (s->hash_size - 1)];
}

static void hash_insert(struct fuse_server *s, struct fuse_node *n)
{
	struct fuse_node **b = hash_bucket(s, n->dev, n->ino);

	n->next = *b;
	*b = n;
}

static void hash_remove(struct fuse_server *s, struct fuse_node *n)
{
	for (struct fuse_node **b = hash_bucket(s, n->dev, n->ino); *b; b = &(*b)->next)
		if (*b == n) {
			*b = n->next;
			return;
		}
}

/* Chains stay short; without memory they just get longer. */
static void hash_grow(struct fuse_server *s)
{
	u32 size = s->hash_size * 2;
	struct fuse_node **p;

	if (s->nodes.used < s->hash_size || !size)
		return;
	p = calloc(size, sizeof(struct fuse_node *));
	if (!p)
		return;
	free(s->hash);
	s->hash = p;
	s->hash_size = size;
	for (u32 i = 0; i < s->nodes.nr; i++)
		if (s->nodes.slot[i].obj)
			hash_insert(s, s->nodes.slot[i].obj);
}

/* ---- nodes ---- */

static struct fuse_node *node_new(int fd, const struct stat *st)
{
	struct fuse_node *n = calloc(1, sizeof(*n));

	if (!n)
		return NULL;
	n->fd = fd;
	n->type = st->st_mode & S_IFMT;
	n->dev = st->st_dev;
	n->ino = st->st_ino;
	return n;
}

/* With the mutex held; true: the caller frees it with node_free() when he has let go of it. */
static bool node_unused(struct fuse_server *s, struct fuse_node *n)
{
	if (n->refs || n->lookups || n->id == FUSE_ROOT_ID)
		return false;
	hash_remove(s, n);
	fuse_table_remove(&s->nodes, n->id);
	return true;
}

static void node_free(struct fuse_server *s, struct fuse_node *n)
{
	fuse_locks_free(s, n->owners);
	close(n->fd);
	free(n);
}

int fuse_nodes_create(struct fuse_server *s, int root_fd)
{
	struct fuse_node *root;
	struct stat st;
	u64 id = 0;

	if (fstat(root_fd, &st) < 0)
		return -errno;
	if (getrandom(&s->hash_seed, sizeof(s->hash_seed), 0) < 0)
		return -errno;
	s->hash_size = HASH_FIRST;
	s->hash = calloc(s->hash_size, sizeof(struct fuse_node *));
	root = node_new(root_fd, &st);
	if (!s->hash || !root || fuse_table_add(&s->nodes, root, &id) < 0) {
		free(root);
		return -ENOMEM;
	}
	root->id = id; /* the first one: FUSE_ROOT_ID */
	s->root_dev = st.st_dev;
	hash_insert(s, root);
	return 0;
}

void fuse_nodes_clear(struct fuse_server *s)
{
	for (u32 i = 0; i < s->handles.nr; i++) {
		struct fuse_handle *h;

		pthread_mutex_lock(&s->mutex);
		h = s->handles.slot[i].obj;
		if (h)
			h->refs++;
		pthread_mutex_unlock(&s->mutex);
		if (h) {
			fuse_handle_release(s, h);
			/* That was the table's reference, this one is ours. */
			fuse_handle_put(s, h); /* NOLINT(clang-analyzer-unix.Malloc) */
		}
	}
	for (u32 i = 0; i < s->nodes.nr; i++) {
		struct fuse_node *n;
		bool gone = false;

		pthread_mutex_lock(&s->mutex);
		n = s->nodes.slot[i].obj;
		if (n) {
			n->lookups = 0;
			gone = node_unused(s, n);
		}
		pthread_mutex_unlock(&s->mutex);
		if (gone)
			node_free(s, n);
	}
}

void fuse_nodes_destroy(struct fuse_server *s)
{
	struct fuse_node *root = s->nodes.nr ? s->nodes.slot[0].obj : NULL;

	fuse_nodes_clear(s);
	if (root)
		node_free(s, root);
	free(s->nodes.slot);
	free(s->handles.slot);
	free(s->hash);
}

struct fuse_node *fuse_node_get(struct fuse_server *s, u64 id)
{
	struct fuse_node *n;

	pthread_mutex_lock(&s->mutex);
	n = fuse_table_find(&s->nodes, id);
	if (n)
		n->refs++;
	pthread_mutex_unlock(&s->mutex);
	return n;
}

void fuse_node_put(struct fuse_server *s, struct fuse_node *n)
{
	bool gone;

	pthread_mutex_lock(&s->mutex);
	n->refs--;
	gone = node_unused(s, n);
	pthread_mutex_unlock(&s->mutex);
	if (gone)
		node_free(s, n);
}

void fuse_node_forget(struct fuse_server *s, u64 id, u64 count)
{
	struct fuse_node *n;
	bool gone = false;

	pthread_mutex_lock(&s->mutex);
	n = fuse_table_find(&s->nodes, id);
	if (n) {
		n->lookups -= MIN(n->lookups, count); /* never more than it was given */
		gone = node_unused(s, n);
	}
	pthread_mutex_unlock(&s->mutex);
	if (gone)
		node_free(s, n);
}

static struct fuse_node *node_find_inode(const struct fuse_server *s, const struct stat *st)
{
	struct fuse_node *n = *hash_bucket(s, st->st_dev, st->st_ino);

	while (n && (n->dev != st->st_dev || n->ino != st->st_ino))
		n = n->next;
	return n;
}

int fuse_node_enter(struct fuse_server *s, int fd, const struct stat *st, u64 *id)
{
	struct fuse_node *fresh = node_new(fd, st), *n;
	int err = 0;

	if (!fresh) {
		close(fd);
		return -ENOMEM;
	}
	pthread_mutex_lock(&s->mutex);
	n = node_find_inode(s, st);
	if (!n) {
		err = fuse_table_add(&s->nodes, fresh, &fresh->id);
		if (!err) {
			n = fresh;
			hash_insert(s, n);
			hash_grow(s);
		}
	}
	if (n) {
		n->lookups++;
		*id = n->id;
	}
	pthread_mutex_unlock(&s->mutex);
	if (n != fresh) {
		close(fd);
		free(fresh);
	}
	return err;
}

bool fuse_nodes_scarce(struct fuse_server *s)
{
	bool scarce;

	pthread_mutex_lock(&s->mutex);
	scarce = s->nodes.used >= s->nodes.max - s->nodes.max / 8;
	pthread_mutex_unlock(&s->mutex);
	return scarce;
}

/* ---- handles ---- */

int fuse_handle_create(struct fuse_server *s, struct fuse_node *n, int fd, int flags, bool dir,
                       u64 *id)
{
	struct fuse_handle *h = calloc(1, sizeof(*h));
	int err = -ENOMEM;

	if (!h)
		goto fail;
	*h = (struct fuse_handle){.refs = 1, .fd = fd, .flags = flags, .dir = dir, .node = n};
	pthread_mutex_init(&h->dir_lock, NULL);
	pthread_mutex_lock(&s->mutex);
	err = fuse_table_add(&s->handles, h, &h->id);
	if (!err) {
		n->refs++;
		*id = h->id;
	}
	pthread_mutex_unlock(&s->mutex);
	if (!err)
		return 0;
	pthread_mutex_destroy(&h->dir_lock);
	if (err == -ENFILE)
		err = -EMFILE;
fail:
	free(h);
	close(fd);
	return err;
}

struct fuse_handle *fuse_handle_get(struct fuse_server *s, u64 id, const struct fuse_node *n,
                                    bool dir)
{
	struct fuse_handle *h;

	pthread_mutex_lock(&s->mutex);
	h = fuse_table_find(&s->handles, id);
	if (h && (h->node != n || h->dir != dir))
		h = NULL;
	if (h)
		h->refs++;
	pthread_mutex_unlock(&s->mutex);
	return h;
}

void fuse_handle_put(struct fuse_server *s, struct fuse_handle *h)
{
	bool gone;

	pthread_mutex_lock(&s->mutex);
	gone = --h->refs == 0;
	pthread_mutex_unlock(&s->mutex);
	if (!gone)
		return;
	close(h->fd);
	fuse_node_put(s, h->node);
	pthread_mutex_destroy(&h->dir_lock);
	free(h);
}

/* The table's reference goes once, however often the guest releases it. */
void fuse_handle_release(struct fuse_server *s, struct fuse_handle *h)
{
	bool first;

	pthread_mutex_lock(&s->mutex);
	first = fuse_table_find(&s->handles, h->id) == h;
	if (first)
		fuse_table_remove(&s->handles, h->id);
	pthread_mutex_unlock(&s->mutex);
	if (first)
		fuse_handle_put(s, h);
}
