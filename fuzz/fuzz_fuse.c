// SPDX-License-Identifier: MIT
/* Requests of a hostile guest to the FUSE server, on a folder of its own. The input is a list of
 * requests: most bytes of each are the input's, but the numbers in it may be taken from earlier
 * answers, so that operations get beyond the look-up of their file. Besides the sanitizers, what is
 * checked: an answer never is longer than it says nor than there is room, and what lies beside the
 * shared folder stays as it is. */
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <linux/fuse.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "io/fuse.h"

#define BODY_MAX 512
#define ROOM     4096
#define IDS      16
#define REQUESTS 200

struct input {
	const u8 *p;
	size_t left;
};

struct guest {
	struct fuse_server *s;
	u64 node[IDS], fh[IDS];
	unsigned nr_node, nr_fh;
	u32 len;
};

int LLVMFuzzerTestOneInput(const u8 *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);

static u64 take(struct input *in, unsigned n)
{
	u64 v = 0;

	for (unsigned i = 0; i < n && in->left; i++, in->left--)
		v |= (u64)*in->p++ << (i * 8);
	return v;
}

/* One of the numbers known, or any. */
static u64 take_id(struct input *in, const u64 *known, unsigned nr)
{
	u8 which = (u8)take(in, 1);

	return which < 0xf0 ? known[which % IDS % (nr ? nr : 1)] : take(in, 8);
}

static struct guest *current;

static void done(struct fuse_req *r, u32 len)
{
	current->len = len;
}

static void remember(u64 *known, unsigned *nr, u64 id)
{
	known[(*nr)++ % IDS] = id;
}

/* Numbers in the answer, for later. */
static void learn(struct guest *g, u32 op, const u8 *body, size_t len)
{
	struct fuse_entry_out e;
	struct fuse_open_out o;

	switch (op) {
	case FUSE_LOOKUP:
	case FUSE_MKNOD:
	case FUSE_MKDIR:
	case FUSE_SYMLINK:
	case FUSE_LINK:
	case FUSE_CREATE:
	case FUSE_TMPFILE:
		if (len < sizeof(e))
			return;
		memcpy(&e, body, sizeof(e));
		remember(g->node, &g->nr_node, e.nodeid);
		body += sizeof(e);
		len -= sizeof(e);
		break;
	default:
		break;
	}
	if (len < sizeof(o) || (op != FUSE_CREATE && op != FUSE_OPEN && op != FUSE_OPENDIR))
		return;
	memcpy(&o, body, sizeof(o));
	remember(g->fh, &g->nr_fh, o.fh);
}

static void submit(struct guest *g, u8 *req, size_t len, u32 op, size_t cut, size_t room)
{
	static u8 out[ROOM];
	struct fuse_out_header h;
	struct iovec iv[2] = {{req, cut}, {req + cut, len - cut}};
	struct iovec ov[2] = {{out, room / 3}, {out + room / 3, room - room / 3}};
	struct fuse_req r = {.in = iv, .nr_in = 2, .out = ov, .nr_out = 2, .done = done};

	current = g;
	g->len = ~0u;
	fuse_server_submit(g->s, &r);
	if (g->len == ~0u || !g->len) /* no lock is waited for: host_locks is off */
		return;
	memcpy(&h, out, sizeof(h));
	if (g->len > room || h.len != g->len || h.len < sizeof(h) || h.error > 0)
		abort();
	if (!h.error)
		learn(g, op, out + sizeof(h), h.len - sizeof(h));
}

static void one_request(struct guest *g, struct input *in)
{
	static const char *const names[] = {"a",    "b",    "dir", "link", "..",  ".",
	                                    "fifo", "",     "/",   "up",   "a/b", "new",
	                                    "x\n",  "deep", "l2",  "file"};
	u8 req[sizeof(struct fuse_in_header) + BODY_MAX];
	struct fuse_in_header h = {.opcode = (u32)take(in, 1), .unique = 1};
	size_t n, at = sizeof(h);
	u8 shape = (u8)take(in, 1);

	if (h.opcode == 255)
		h.opcode = (u32)take(in, 4);
	h.nodeid = take_id(in, g->node, g->nr_node);
	/* The first word of many operations is a handle. */
	if (shape & 1) {
		u64 id =
			shape & 2 ? take_id(in, g->node, g->nr_node) : take_id(in, g->fh, g->nr_fh);

		memcpy(req + at, &id, sizeof(id));
		at += sizeof(id);
	}
	n = take(in, 1) % 128;
	for (size_t i = 0; i < n; i++)
		req[at++] = (u8)take(in, 1);
	for (unsigned i = 0; i < (unsigned)(shape >> 2 & 3); i++) {
		const char *name = names[take(in, 1) % ARRAY_SIZE(names)];

		memcpy(req + at, name, strlen(name) + 1);
		at += strlen(name) + 1;
	}
	h.len = shape & 0x10 ? (u32)take(in, 2) : (u32)at;
	memcpy(req, &h, sizeof(h));
	submit(g, req, at, h.opcode, MIN(at, (size_t)take(in, 1)),
	       shape & 0x20 ? take(in, 2) % ROOM : ROOM);
}

/* ---- the folder ---- */

static char top[] = "/tmp/ringer-fuzz-fuse-XXXXXX";
static int top_fd = -1;

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *f)
{
	if (type == FTW_D || type == FTW_DP)
		chmod(path, 0700);
	return f->level ? remove(path) : 0;
}

static void clear(void)
{
	nftw(top, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static void at_end(void)
{
	clear();
	rmdir(top);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	if (!mkdtemp(top))
		abort();
	top_fd = open(top, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	atexit(at_end);
	log_set_level(LOG_ERROR);
	return 0;
}

static void write_file(const char *name)
{
	int fd = openat(top_fd, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	if (fd < 0 || write(fd, "content", 7) != 7)
		abort();
	close(fd);
}

static void check_outside(void)
{
	struct stat st;
	char text[8] = {0};
	int fd = openat(top_fd, "secret", O_RDONLY | O_CLOEXEC);

	if (fd < 0 || read(fd, text, 8) != 7 || memcmp(text, "content", 7) || fstat(fd, &st) < 0 ||
	    (st.st_mode & 07777) != 0600 || st.st_nlink != 1)
		abort();
	close(fd);
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	struct fuse_config cfg = {.max_nodes = 64, .max_handles = 16, .name = "fuzz"};
	struct input in = {data, size};
	struct guest g = {.node = {1}, .nr_node = 1};
	struct fuse_init_in init = {.major = 7, .minor = 37, .flags = ~0u};
	struct fuse_in_header h = {.len = sizeof(h) + sizeof(init), .opcode = FUSE_INIT};
	u8 req[sizeof(h) + sizeof(init)];

	clear();
	mkdirat(top_fd, "share", 0700);
	write_file("secret");
	write_file("share/a");
	mkdirat(top_fd, "share/dir", 0700);
	write_file("share/dir/file");
	mkfifoat(top_fd, "share/fifo", 0600);
	if (symlinkat("..", top_fd, "share/up") < 0 ||
	    symlinkat("../secret", top_fd, "share/link") < 0)
		abort();
	umask(0);
	cfg.dir_fd = openat(top_fd, "share", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (cfg.dir_fd < 0 || fuse_server_create(&g.s, &cfg) < 0)
		abort();
	memcpy(req, &h, sizeof(h));
	memcpy(req + sizeof(h), &init, sizeof(init));
	submit(&g, req, sizeof(req), FUSE_INIT, 10, ROOM);
	for (unsigned i = 0; i < REQUESTS && in.left; i++)
		one_request(&g, &in);
	fuse_server_destroy(g.s);
	close(cfg.dir_fd);
	check_outside();
	return 0;
}
