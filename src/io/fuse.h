/* SPDX-License-Identifier: MIT */
/* A FUSE server inside the monitor: a folder of the host for a guest (linux/fuse.h, protocol 7.37).
 * It knows no transport: a request is two lists of buffers, as virtio-fs delivers it, and a
 * unit test can.
 *
 * Containment. The folder is opened once. Everything else is reached from there by descriptors, one
 * name at a time, never through a symbolic link, `..` or another mount, and what is no regular file
 * or directory is never opened. The requests are the guest's: hostile, and in memory that
 * changes; heads and arguments are copied once, data goes between that memory and the file.
 *
 * Threading: file calls block, so requests are served by the server's own threads, without any lock
 * of the machine. fuse_server_submit() may be called from any thread and does not block;
 * `done` is called on a server thread, in any order. */
#pragma once

#include "dev/fsback.h"

struct fuse_server;

struct fuse_config {
	int dir_fd;           /* the folder, opened O_DIRECTORY (O_PATH will do); borrowed */
	bool read_only;       /* every change is EROFS */
	bool host_locks;      /* locks are the host's, seen by others who use the folder */
	unsigned nr_workers;  /* threads; 0: submit does the work itself, for tests */
	unsigned max_nodes;   /* files the guest may know of; 0: as many as descriptors allow */
	unsigned max_handles; /* files it may have open; 0: likewise */
	unsigned nr_servers;  /* among how many servers descriptors are shared; 0: 1 */
	const char *name;     /* for messages */
};

/* 0 or -errno (logged). Raises the process's soft limit of descriptors to the hard one. */
int fuse_server_create(struct fuse_server **out, const struct fuse_config *cfg);
/* After a reset, or when all requests are done. */
void fuse_server_destroy(struct fuse_server *s);

/* What a device takes; it is the server itself, and destroys it. */
struct fsback *fuse_server_back(struct fuse_server *s);

void fuse_server_submit(struct fuse_server *s, struct fuse_req *r);
/* As after creation: the guest knows no file and has none open. Returns when no request is left:
 * those being served are waited for, the others are done without an answer. Nothing may be
 * submitted meanwhile. */
void fuse_server_reset(struct fuse_server *s);

struct fuse_stats {
	unsigned nodes, handles;
	u64 requests, refused; /* refused: malformed, or out of bounds */
};
void fuse_server_stats(struct fuse_server *s, struct fuse_stats *out);
