/* SPDX-License-Identifier: MIT */
/* A client that speaks FUSE to the server directly, and a folder to share, with a file beside it
 * that must stay out of reach. */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "io/fuse.h"

#define ROOT FUSE_ROOT_ID
#define BUF  (64 * KiB)

struct rig {
	char top[64]; /* top/share is shared, top/secret is not */
	int share;    /* descriptor */
	struct fuse_server *s;
	u64 unique;
	u32 uid, gid; /* of the guest's callers */
	u8 *out;      /* the last answer, its head included */
	u32 len;
	const char *never[2]; /* texts that no answer may hold */
};

static inline void nothing_logged(void)
{
	log_set_level(LOG_ERROR);
}

/* ---- a client ---- */

struct request {
	struct fuse_req r;
	sem_t done;
	u32 len;
};

static inline void request_done(struct fuse_req *r, u32 len)
{
	struct request *q = container_of(r, struct request, r);

	q->len = len;
	sem_post(&q->done);
}

/* What lies in `in` (head and all), answered into `out`. */
static inline u32 raw(struct fuse_server *s, void *in, size_t in_len, void *out, size_t out_len)
{
	/* In pieces that end nowhere in particular. */
	size_t a = MIN(in_len, (size_t)7), b = MIN(in_len - a, (size_t)50);
	struct iovec iv[3] = {{in, a}, {(u8 *)in + a, b}, {(u8 *)in + a + b, in_len - a - b}};
	size_t c = MIN(out_len, (size_t)9);
	struct iovec ov[2] = {{out, c}, {(u8 *)out + c, out_len - c}};
	struct request q = {
		.r = {.in = iv, .nr_in = 3, .out = ov, .nr_out = 2, .done = request_done}};

	sem_init(&q.done, 0, 0);
	fuse_server_submit(s, &q.r);
	sem_wait(&q.done);
	sem_destroy(&q.done);
	return q.len;
}

struct part {
	const void *p;
	size_t n;
};
#define P(x)    ((struct part){&(x), sizeof(x)})
#define S(text) ((struct part){text, strlen(text) + 1})
#define NONE    ((struct part){NULL, 0})

/* The error (0 or positive) of an operation with up to three parts behind its head. */
static inline int call3(struct rig *g, u32 op, u64 node, struct part a, struct part b,
                        struct part c)
{
	struct fuse_in_header h = {.len = (u32)(sizeof(h) + a.n + b.n + c.n),
	                           .opcode = op,
	                           .unique = ++g->unique,
	                           .nodeid = node,
	                           .uid = g->uid,
	                           .gid = g->gid,
	                           .pid = 1};
	const struct part all[] = {P(h), a, b, c};
	struct fuse_out_header *o = (struct fuse_out_header *)g->out;
	u8 *in = malloc(h.len + 1);
	size_t at = 0;

	for (unsigned i = 0; i < ARRAY_SIZE(all); i++) {
		if (all[i].n)
			memcpy(in + at, all[i].p, all[i].n);
		at += all[i].n;
	}
	memset(g->out, 0x55, BUF);
	g->len = raw(g->s, in, h.len, g->out, BUF);
	free(in);
	if (!g->len)
		return 0;
	assert_true(g->len >= sizeof(*o));
	for (unsigned i = 0; i < ARRAY_SIZE(g->never); i++)
		if (g->never[i])
			assert_null(memmem(g->out, g->len, g->never[i], strlen(g->never[i])));
	assert_int_equal(o->len, g->len);
	assert_int_equal(o->unique, g->unique);
	return -o->error;
}

static inline int call(struct rig *g, u32 op, u64 node, struct part a, struct part b)
{
	return call3(g, op, node, a, b, NONE);
}

static inline const void *answer(const struct rig *g)
{
	return g->out + sizeof(struct fuse_out_header);
}

static inline u32 answer_len(const struct rig *g)
{
	return g->len - (u32)sizeof(struct fuse_out_header);
}

static inline int init(struct rig *g, u32 minor)
{
	struct fuse_init_in in = {
		.major = 7, .minor = minor, .flags = ~0u, .max_readahead = 1 << 17};

	return call(g, FUSE_INIT, 0, P(in), NONE);
}

static inline int lookup(struct rig *g, u64 dir, const char *name, struct fuse_entry_out *e)
{
	int err = call(g, FUSE_LOOKUP, dir, S(name), NONE);

	memset(e, 0, sizeof(*e));
	if (err)
		return err;
	memcpy(e, answer(g), sizeof(*e));
	return e->nodeid ? 0 : ENOENT;
}

static inline u64 node_of(struct rig *g, u64 dir, const char *name)
{
	struct fuse_entry_out e;

	assert_int_equal(lookup(g, dir, name, &e), 0);
	return e.nodeid;
}

static inline void forget(struct rig *g, u64 node, u64 n)
{
	struct fuse_forget_in in = {.nlookup = n};

	call(g, FUSE_FORGET, node, P(in), NONE);
	assert_int_equal(g->len, 0);
}

static inline int stat_of(struct rig *g, u64 node, struct fuse_attr *a)
{
	struct fuse_getattr_in in = {0};
	int err = call(g, FUSE_GETATTR, node, P(in), NONE);

	memset(a, 0, sizeof(*a));
	if (!err)
		*a = ((const struct fuse_attr_out *)answer(g))->attr;
	return err;
}

static inline int open_node(struct rig *g, u64 node, u32 flags, u64 *fh)
{
	struct fuse_open_in in = {.flags = flags};
	int err = call(g, FUSE_OPEN, node, P(in), NONE);

	*fh = 0;
	if (!err)
		*fh = ((const struct fuse_open_out *)answer(g))->fh;
	return err;
}

static inline int create(struct rig *g, u64 dir, const char *name, u32 flags, u32 mode, u64 *node,
                         u64 *fh)
{
	struct fuse_create_in in = {.flags = flags, .mode = S_IFREG | mode};
	int err = call(g, FUSE_CREATE, dir, P(in), S(name));
	const struct fuse_entry_out *e = answer(g);

	*node = *fh = 0;
	if (!err) {
		*node = e->nodeid;
		*fh = ((const struct fuse_open_out *)(e + 1))->fh;
	}
	return err;
}

static inline int write_file(struct rig *g, u64 node, u64 fh, u64 off, const void *p, u32 n,
                             u32 flags)
{
	struct fuse_write_in in = {.fh = fh, .offset = off, .size = n, .flags = flags};
	int err = call(g, FUSE_WRITE, node, P(in), (struct part){p, n});

	if (!err)
		assert_int_equal(((const struct fuse_write_out *)answer(g))->size, n);
	return err;
}

/* Bytes read, or a negative error. */
static inline int read_file(struct rig *g, u32 op, u64 node, u64 fh, u64 off, u32 n)
{
	struct fuse_read_in in = {.fh = fh, .offset = off, .size = n};
	int err = call(g, op, node, P(in), NONE);

	return err ? -err : (int)answer_len(g);
}

static inline int release(struct rig *g, u32 op, u64 node, u64 fh)
{
	struct fuse_release_in in = {.fh = fh};

	return call(g, op, node, P(in), NONE);
}

static inline int set_attr(struct rig *g, u64 node, struct fuse_setattr_in in)
{
	return call(g, FUSE_SETATTR, node, P(in), NONE);
}

static inline int make_dir(struct rig *g, u64 dir, const char *name, u64 *node)
{
	struct fuse_mkdir_in in = {.mode = 0755};
	int err = call(g, FUSE_MKDIR, dir, P(in), S(name));

	if (node)
		*node = 0;
	if (!err && node)
		*node = ((const struct fuse_entry_out *)answer(g))->nodeid;
	return err;
}

static inline int rename_name(struct rig *g, u64 from, const char *a, u64 to, const char *b,
                              u32 flags)
{
	struct fuse_rename2_in in = {.newdir = to, .flags = flags};

	return call3(g, FUSE_RENAME2, from, P(in), S(a), S(b));
}

/* ---- the folder ---- */

static inline void host_write(int dir, const char *name, const char *text)
{
	int fd = openat(dir, name, O_WRONLY | O_CREAT | O_TRUNC, 0644);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, strlen(text)), strlen(text));
	close(fd);
}

static inline struct rig *rig_new(const struct fuse_config *cfg)
{
	struct rig *g = calloc(1, sizeof(*g));
	struct fuse_config c = *cfg;
	int top;

	nothing_logged();
	umask(022);
	strcpy(g->top, "/tmp/ringer-fuse-XXXXXX");
	assert_non_null(mkdtemp(g->top));
	top = open(g->top, O_RDONLY | O_DIRECTORY);
	assert_int_equal(mkdirat(top, "share", 0755), 0);
	host_write(top, "secret", "never to be read");
	g->share = openat(top, "share", O_RDONLY | O_DIRECTORY);
	close(top);
	g->out = malloc(BUF);
	g->uid = geteuid();
	g->gid = getegid();
	c.dir_fd = g->share;
	c.name = "test";
	assert_int_equal(fuse_server_create(&g->s, &c), 0);
	umask(0); /* what a server's own thread has */
	return g;
}

static inline void remove_tree(const char *path)
{
	char cmd[128];

	snprintf(cmd, sizeof(cmd), "rm -rf %s", path);
	assert_int_equal(system(cmd), 0);
}

static inline void rig_free(struct rig *g)
{
	fuse_server_destroy(g->s);
	close(g->share);
	remove_tree(g->top);
	free(g->out);
	free(g);
}
