/* SPDX-License-Identifier: MIT */
/* What the files of the FUSE server share. Lock order: s->lock_mutex (locks of files), then
 * s->mutex (tables, queue, counts). Nothing is called that may block while s->mutex is held. */
#pragma once

#include <linux/fuse.h>
#include <pthread.h>
#include <sys/stat.h>
#include <time.h>

#include "base/iov.h"
#include "base/log.h"
#include "io/fuse.h"

#define FUSE_BUF_SIZE  (192 * KiB) /* arguments, or an answer that is no file data */
#define FUSE_MAX_WRITE (1 * MiB)
#define FUSE_MAX_IOV   1024 /* IOV_MAX */
#define FUSE_VALID_SEC 1    /* how long a guest trusts names and attributes */

struct fuse_lock_owner;
struct fuse_waiter;

/* A file the guest knows of. */
struct fuse_node {
	u64 id;
	u64 lookups;   /* the guest's references: LOOKUP and its like less FORGET */
	unsigned refs; /* calls and handles that use it now */
	int fd;        /* O_PATH: it can't be opened by that, and the inode stays its own */
	u32 type;      /* S_IFMT; an inode's never changes */
	dev_t dev;
	ino_t ino;
	struct timespec seen;           /* ctime when the guest's cache was last known right */
	struct fuse_node *next;         /* of one hash value */
	struct fuse_lock_owner *owners; /* under lock_mutex */
};

/* A file the guest has open. */
struct fuse_handle {
	u64 id;
	unsigned refs; /* one is the table's */
	int fd;
	int flags; /* of open(2): access mode */
	bool dir;
	struct fuse_node *node;
	pthread_mutex_t dir_lock;
	u64 dir_pos; /* the descriptor's position; ~0: not known */
};

/* Objects by number. A number is `generation << 32 | index + 1`, so that one that was freed
 * isn't taken for its successor. */
struct fuse_slot {
	void *obj;
	u32 gen, next_free;
};
struct fuse_table {
	struct fuse_slot *slot;
	u32 nr, used, max, free; /* free: index + 1 of the first, 0 none */
};

struct fuse_worker {
	struct fuse_server *s;
	pthread_t thread;
	u8 *in, *out;      /* FUSE_BUF_SIZE each */
	struct iovec *iov; /* FUSE_MAX_IOV */
};

struct fuse_server {
	struct fsback back;
	const char *name;
	bool read_only, host_locks;
	bool real_ids; /* files belong to the guest's ids; else all to who runs the monitor */
	uid_t uid;
	gid_t gid;
	int root_fd; /* O_RDONLY: syncfs */
	int proc_fd; /* /proc/self/fd */
	dev_t root_dev;

	pthread_mutex_t mutex;
	pthread_cond_t work, ready, idle;
	struct fuse_req *head, **tail;
	unsigned busy; /* requests not done */
	bool stopping, cancelled, inited;
	unsigned nr_ready; /* workers that run; failed ones count in nr_failed */
	int worker_err;

	struct fuse_table nodes, handles;
	struct fuse_node **hash;
	u32 hash_size; /* a power of 2 */
	u64 hash_seed;
	u64 nr_requests, nr_refused;
	struct ratelimit rl;

	pthread_mutex_t lock_mutex;
	struct fuse_waiter *waiters;
	unsigned nr_waiters, nr_owners;

	unsigned nr_workers;
	struct fuse_worker *worker;
};

/* One request being served. */
struct fuse_call {
	struct fuse_server *s;
	struct fuse_worker *w;
	struct fuse_req *req;
	struct fuse_in_header h;
	const void *arg; /* the operation's struct */
	const char *name[2];
	const u8 *tail; /* what follows them */
	size_t tail_len;
	struct fuse_node *node; /* of h.nodeid */
	void *out;              /* the answer behind its head: w->out */
	size_t out_len;         /* of the answer */
	size_t out_max;  /* room in the guest's buffers, less the head, up to FUSE_BUF_SIZE */
	size_t data_max; /* the same without that limit, for READ */
	size_t in_len;   /* bytes of the guest's request */
	bool no_reply;   /* it comes later */
	bool silent;     /* none is due */
	bool direct;     /* READ: the data is in the guest's buffers already */
};

/* ---- fuse_node.c ---- */

int fuse_table_add(struct fuse_table *t, void *obj, u64 *id);
void *fuse_table_find(const struct fuse_table *t, u64 id);
void fuse_table_remove(struct fuse_table *t, u64 id);

int fuse_nodes_create(struct fuse_server *s, int root_fd);
void fuse_nodes_destroy(struct fuse_server *s);
/* Forget all nodes but the root, and close all handles; those in use go when they are put. */
void fuse_nodes_clear(struct fuse_server *s);

struct fuse_node *fuse_node_get(struct fuse_server *s, u64 id);
void fuse_node_put(struct fuse_server *s, struct fuse_node *n);
void fuse_node_forget(struct fuse_server *s, u64 id, u64 count);
/* The number of the node of an O_PATH descriptor, which it takes, with one more look-up counted;
 * the node itself the guest may forget at once. 0 or -errno. */
int fuse_node_enter(struct fuse_server *s, int fd, const struct stat *st, u64 *id);
/* Most of the table is in use: don't fill it with what the guest only might want. */
bool fuse_nodes_scarce(struct fuse_server *s);

/* Takes `fd` in any case. 0 or -errno; `*id` is the guest's number. */
int fuse_handle_create(struct fuse_server *s, struct fuse_node *n, int fd, int flags, bool dir,
                       u64 *id);
/* `n`: the node it must belong to. */
struct fuse_handle *fuse_handle_get(struct fuse_server *s, u64 id, const struct fuse_node *n,
                                    bool dir);
void fuse_handle_put(struct fuse_server *s, struct fuse_handle *h);
void fuse_handle_release(struct fuse_server *s, struct fuse_handle *h);

/* ---- fuse_path.c: the ways to a file ---- */

/* Descriptor or -errno; `name` was checked, or is ".". `mode`: of what is created. */
int fuse_open_beneath(const struct fuse_node *dir, const char *name, u64 flags, u32 mode);
/* One name in a directory. Descriptor (O_PATH), or -errno. */
int fuse_open_child(const struct fuse_node *dir, const char *name);
/* A file by its own descriptor, through /proc/self/fd. */
int fuse_reopen(const struct fuse_server *s, int fd, int flags);
/* "N" for use under s->proc_fd, and the absolute path for calls that know no directory. */
struct fuse_fd_name {
	char text[32];
};
struct fuse_fd_name fuse_fd_name(int fd);
struct fuse_fd_name fuse_fd_path(int fd);
/* A single component that can't lead elsewhere: 0, or -EINVAL or -ENAMETOOLONG. */
int fuse_name_check(const char *name);
/* What is created until fuse_creds_leave() belongs to the caller in the guest. 0 or -errno. */
int fuse_creds_prepare(const struct fuse_server *s); /* once in each thread */
int fuse_creds_enter(const struct fuse_call *c);
void fuse_creds_leave(const struct fuse_call *c);
/* This thread's rights are no more than the server needs. */
int fuse_confine_thread(const struct fuse_server *s);

/* ---- requests ---- */

/* Answer a request that waited. */
void fuse_reply_later(struct fuse_server *s, struct fuse_req *r, u64 unique, int err);

void fuse_attr_fill(const struct fuse_server *s, struct fuse_attr *a, const struct stat *st);
int fuse_node_stat(const struct fuse_node *n, struct stat *st);
void fuse_entry_fill(const struct fuse_server *s, struct fuse_entry_out *e, u64 id,
                     const struct stat *st);
/* Look `name` up in the call's node. */
int fuse_lookup(struct fuse_call *c, const char *name, struct fuse_entry_out *e);
/* Set-user-id and set-group-id are taken off when the guest's kernel asks for it. */
int fuse_kill_suid(int fd);

/* FUSE_X is fuse_op_x(). 0 or -errno. */
#define FUSE_OPS(X)                                                                                \
	X(lookup)                                                                                  \
	X(forget)                                                                                  \
	X(batch_forget)                                                                            \
	X(getattr)                                                                                 \
	X(setattr)                                                                                 \
	X(readlink)                                                                                \
	X(symlink)                                                                                 \
	X(mknod)                                                                                   \
	X(mkdir)                                                                                   \
	X(unlink)                                                                                  \
	X(rmdir)                                                                                   \
	X(rename)                                                                                  \
	X(rename2)                                                                                 \
	X(link)                                                                                    \
	X(open)                                                                                    \
	X(create)                                                                                  \
	X(tmpfile)                                                                                 \
	X(read)                                                                                    \
	X(write)                                                                                   \
	X(statfs)                                                                                  \
	X(release)                                                                                 \
	X(fsync)                                                                                   \
	X(setxattr)                                                                                \
	X(getxattr)                                                                                \
	X(listxattr)                                                                               \
	X(removexattr)                                                                             \
	X(flush)                                                                                   \
	X(opendir)                                                                                 \
	X(readdir)                                                                                 \
	X(readdirplus)                                                                             \
	X(getlk)                                                                                   \
	X(setlk)                                                                                   \
	X(setlkw)                                                                                  \
	X(access)                                                                                  \
	X(interrupt)                                                                               \
	X(fallocate)                                                                               \
	X(lseek)                                                                                   \
	X(copy_file_range)                                                                         \
	X(syncfs)
#define X(name) int fuse_op_##name(struct fuse_call *c);
FUSE_OPS(X)
#undef X

/* ---- fuse_lock.c ---- */

/* The locks of one owner on a file, when he closes it. */
void fuse_locks_drop_owner(struct fuse_server *s, struct fuse_node *n, u64 owner);
/* The node goes: nothing can hold it. */
void fuse_locks_free(struct fuse_server *s, struct fuse_lock_owner *list);
/* Try what waits once more. */
void fuse_locks_retry(struct fuse_server *s);
/* End all waits with -EINTR. */
void fuse_locks_cancel(struct fuse_server *s);
