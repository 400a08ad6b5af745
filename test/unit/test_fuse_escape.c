// SPDX-License-Identifier: MIT
/* Ways out of a shared folder, tried by a driver that sends what it likes: every operation that
 * takes a name or a node, on links that lead out (absolute, upward, through /proc), on names with
 * `..` and slashes, on directories that the host exchanges for links or moves away meanwhile.
 * Afterwards what lies beside the folder is as it was, and no answer held any of it. And a folder
 * that is shared for reading only is as it was, whatever was tried. */
#include <ftw.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <time.h>

#include "fusetest.h"

#define SECRET "never to be read"
#define INNER  "inner-7f3a"

/* ---- what is outside ---- */

/* A text of all that a tree is: names, kinds, owners, times but of access, contents, attributes. */
struct tree {
	char *text;
	size_t size;
};

static struct {
	FILE *out;
	const char *without;
} walk;

static void tell_file(const char *path)
{
	char buf[4096];
	int fd = open(path, O_RDONLY | O_NONBLOCK);
	ssize_t n = fd < 0 ? -1 : read(fd, buf, sizeof(buf));

	if (n > 0)
		fwrite(buf, 1, (size_t)n, walk.out);
	if (fd >= 0)
		close(fd);
}

static int tell(const char *path, const struct stat *st, int flag, struct FTW *f)
{
	char list[1024];
	ssize_t n;

	if (walk.without && !strncmp(path, walk.without, strlen(walk.without)))
		return 0;
	fprintf(walk.out, "%s %o %lu %ld %d:%d %ld.%ld %ld.%ld\n", path, st->st_mode, st->st_nlink,
	        S_ISREG(st->st_mode) ? st->st_size : 0, st->st_uid, st->st_gid, st->st_mtim.tv_sec,
	        st->st_mtim.tv_nsec, st->st_ctim.tv_sec, st->st_ctim.tv_nsec);
	n = llistxattr(path, list, sizeof(list));
	if (n > 0)
		fwrite(list, 1, (size_t)n, walk.out);
	if (S_ISREG(st->st_mode))
		tell_file(path);
	if (S_ISLNK(st->st_mode) && (n = readlink(path, list, sizeof(list))) > 0)
		fwrite(list, 1, (size_t)n, walk.out);
	return 0;
}

static struct tree tree_of(const char *path, const char *without)
{
	struct tree t = {0};

	walk.out = open_memstream(&t.text, &t.size);
	walk.without = without;
	assert_int_equal(nftw(path, tell, 8, FTW_PHYS), 0);
	fclose(walk.out);
	return t;
}

static void expect_same(struct tree *before, const char *path, const char *without)
{
	struct tree now = tree_of(path, without);

	assert_string_equal(now.text, before->text);
	free(now.text);
	free(before->text);
}

/* ---- the folder, with all that leads out of it ---- */

struct escape {
	struct rig *g;
	char share[80], beside[80];
	int top, secret; /* descriptors, for links through /proc */
	ino_t outside[4];
	u64 d, f;
};

static void host_link(struct escape *e, const char *name, const char *to)
{
	char old[256] = "";

	if (readlinkat(e->g->share, name, old, sizeof(old) - 1) > 0 && !strcmp(old, to))
		return;
	unlinkat(e->g->share, name, 0);
	unlinkat(e->g->share, name, AT_REMOVEDIR);
	symlinkat(to, e->g->share, name);
}

static const char *const links[] = {"abs",  "upfile", "up",     "updir", "absdir",
                                    "root", "magic",  "magicd", "cwd",   "d"};

/* As it was at the start; the guest forgets all. */
static void restore(struct escape *e)
{
	char path[128];

	host_link(e, "upfile", "../secret");
	host_link(e, "up", "..");
	host_link(e, "updir", "../beside");
	host_link(e, "absdir", e->beside);
	host_link(e, "root", "/");
	host_link(e, "cwd", "/proc/self/cwd");
	snprintf(path, sizeof(path), "%s/secret", e->g->top);
	host_link(e, "abs", path);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", e->secret);
	host_link(e, "magic", path);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", e->top);
	host_link(e, "magicd", path);
	if (mkdirat(e->g->share, "d", 0755) == 0 || faccessat(e->g->share, "d/f", F_OK, 0) < 0)
		host_write(e->g->share, "d/f", "harmless");
	if (faccessat(e->g->share, "f", F_OK, AT_SYMLINK_NOFOLLOW) < 0)
		host_write(e->g->share, "f", "harmless");
	call(e->g, FUSE_DESTROY, 0, NONE, NONE);
	assert_int_equal(init(e->g, 37), 0);
	e->d = node_of(e->g, ROOT, "d");
	e->f = node_of(e->g, ROOT, "f");
}

static ino_t inode_of(int dir, const char *name)
{
	struct stat st;

	assert_int_equal(fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW), 0);
	return st.st_ino;
}

static void escape_begin(struct escape *e, const struct fuse_config *cfg)
{
	struct rig *g = rig_new(cfg);

	*e = (struct escape){.g = g};
	e->top = open(g->top, O_RDONLY | O_DIRECTORY);
	assert_int_equal(mkdirat(e->top, "beside", 0777), 0);
	host_write(e->top, "beside/" INNER, SECRET);
	e->secret = openat(e->top, "secret", O_RDONLY);
	e->outside[0] = inode_of(e->top, "secret");
	e->outside[1] = inode_of(e->top, "beside");
	e->outside[2] = inode_of(e->top, "beside/" INNER);
	e->outside[3] = inode_of(e->top, ".");
	snprintf(e->share, sizeof(e->share), "%s/share", g->top);
	snprintf(e->beside, sizeof(e->beside), "%s/beside", g->top);
	g->never[0] = SECRET;
	g->never[1] = INNER;
	assert_int_equal(init(g, 37), 0);
	restore(e);
}

static void escape_end(struct escape *e)
{
	close(e->top);
	close(e->secret);
	rig_free(e->g);
}

/* ---- one attempt of each operation ---- */

struct attempt {
	struct escape *e;
	u64 node;
	const char *name;
};

/* An entry in the answer is nothing outside. */
static int entry(const struct attempt *a, int err)
{
	struct fuse_entry_out out;

	if (err)
		return err;
	memcpy(&out, answer(a->e->g), sizeof(out));
	for (unsigned i = 0; i < ARRAY_SIZE(a->e->outside); i++)
		assert_int_not_equal(out.attr.ino, a->e->outside[i]);
	return out.nodeid ? 0 : ENOENT;
}

static int do_lookup(struct attempt *a)
{
	struct fuse_entry_out out;
	int err = entry(a, lookup(a->e->g, a->node, a->name, &out));
	u64 fh;

	if (!err && S_ISREG(out.attr.mode) && !open_node(a->e->g, out.nodeid, O_RDONLY, &fh))
		read_file(a->e->g, FUSE_READ, out.nodeid, fh, 0, 4096);
	return err;
}

static int do_mknod(struct attempt *a)
{
	struct fuse_mknod_in in = {.mode = S_IFREG | 0666};

	return entry(a, call(a->e->g, FUSE_MKNOD, a->node, P(in), S(a->name)));
}

static int do_mkdir(struct attempt *a)
{
	return make_dir(a->e->g, a->node, a->name, NULL);
}

static int do_symlink(struct attempt *a)
{
	return entry(a, call(a->e->g, FUSE_SYMLINK, a->node, S(a->name), S("../secret")));
}

static int do_unlink(struct attempt *a)
{
	return call(a->e->g, FUSE_UNLINK, a->node, S(a->name), NONE);
}

static int do_rmdir(struct attempt *a)
{
	return call(a->e->g, FUSE_RMDIR, a->node, S(a->name), NONE);
}

static int do_fetch(struct attempt *a)
{
	return rename_name(a->e->g, a->node, a->name, ROOT, "got", 0);
}

static int do_fetch_old(struct attempt *a)
{
	struct fuse_rename_in in = {.newdir = a->e->d};

	return call3(a->e->g, FUSE_RENAME, a->node, P(in), S(a->name), S("got"));
}

static int do_put(struct attempt *a)
{
	return rename_name(a->e->g, ROOT, "f", a->node, a->name, 0);
}

static int do_exchange(struct attempt *a)
{
	return rename_name(a->e->g, ROOT, "f", a->node, a->name, RENAME_EXCHANGE);
}

static int do_whiteout(struct attempt *a)
{
	return rename_name(a->e->g, a->node, a->name, ROOT, "w", RENAME_WHITEOUT);
}

static int do_link_here(struct attempt *a)
{
	struct fuse_link_in in = {.oldnodeid = a->e->f};

	return entry(a, call(a->e->g, FUSE_LINK, a->node, P(in), S(a->name)));
}

/* A link gets a second name itself; what that one leads to is not given one. */
static int do_link_of(struct attempt *a)
{
	struct fuse_link_in in = {.oldnodeid = a->node};

	return entry(a, call(a->e->g, FUSE_LINK, ROOT, P(in), S("linked")));
}

static int do_create(struct attempt *a)
{
	struct fuse_create_in in = {.flags = O_RDWR | O_TRUNC, .mode = S_IFREG | 0666};

	return entry(a, call(a->e->g, FUSE_CREATE, a->node, P(in), S(a->name)));
}

static int do_tmpfile(struct attempt *a)
{
	struct fuse_create_in in = {.flags = O_RDWR, .mode = S_IFREG | 0666};

	return entry(a, call(a->e->g, FUSE_TMPFILE, a->node, P(in), S(a->name)));
}

static int do_getattr(struct attempt *a)
{
	struct fuse_attr st;
	int err = stat_of(a->e->g, a->node, &st);

	for (unsigned i = 0; i < ARRAY_SIZE(a->e->outside) && !err; i++)
		assert_int_not_equal(st.ino, a->e->outside[i]);
	return err;
}

static int do_chmod(struct attempt *a)
{
	return set_attr(a->e->g, a->node,
	                (struct fuse_setattr_in){.valid = FATTR_MODE, .mode = 0700});
}

static int do_chown(struct attempt *a)
{
	return set_attr(a->e->g, a->node, (struct fuse_setattr_in){.valid = FATTR_UID | FATTR_GID});
}

static int do_truncate(struct attempt *a)
{
	return set_attr(a->e->g, a->node, (struct fuse_setattr_in){.valid = FATTR_SIZE});
}

static int do_utimes(struct attempt *a)
{
	return set_attr(a->e->g, a->node,
	                (struct fuse_setattr_in){.valid = FATTR_MTIME, .mtime = 77});
}

static int do_readlink(struct attempt *a)
{
	return call(a->e->g, FUSE_READLINK, a->node, NONE, NONE);
}

static int do_open(struct attempt *a, u32 flags)
{
	u64 fh;
	int err = open_node(a->e->g, a->node, flags, &fh);

	if (err)
		return err;
	read_file(a->e->g, FUSE_READ, a->node, fh, 0, 4096);
	write_file(a->e->g, a->node, fh, 0, "taken", 5, 0);
	return 0;
}

static int do_open_read(struct attempt *a)
{
	return do_open(a, O_RDONLY);
}

static int do_open_trunc(struct attempt *a)
{
	return do_open(a, O_RDWR | O_TRUNC);
}

static int do_opendir(struct attempt *a)
{
	struct fuse_open_in in = {0};
	int err = call(a->e->g, FUSE_OPENDIR, a->node, P(in), NONE);
	u64 fh;

	if (err)
		return err;
	fh = ((const struct fuse_open_out *)answer(a->e->g))->fh;
	read_file(a->e->g, FUSE_READDIR, a->node, fh, 0, 32768);
	read_file(a->e->g, FUSE_READDIRPLUS, a->node, fh, 0, 32768);
	return 0;
}

static int do_setxattr(struct attempt *a)
{
	struct {
		u32 size, flags;
	} in = {.size = 1};

	return call3(a->e->g, FUSE_SETXATTR, a->node, P(in), S("user.taken"),
	             (struct part){"1", 1});
}

static int do_getxattr(struct attempt *a)
{
	struct fuse_getxattr_in in = {.size = 100};

	return call(a->e->g, FUSE_GETXATTR, a->node, P(in), S("user.mine"));
}

static int do_listxattr(struct attempt *a)
{
	struct fuse_getxattr_in in = {.size = 100};

	return call(a->e->g, FUSE_LISTXATTR, a->node, P(in), NONE);
}

static int do_removexattr(struct attempt *a)
{
	return call(a->e->g, FUSE_REMOVEXATTR, a->node, S("user.mine"), NONE);
}

static int do_access(struct attempt *a)
{
	struct fuse_access_in in = {.mask = W_OK};

	return call(a->e->g, FUSE_ACCESS, a->node, P(in), NONE);
}

/* With a handle of another file, or none. */
static int do_fallocate(struct attempt *a)
{
	struct fuse_fallocate_in in = {.length = 4096};
	int err = 0;

	for (in.fh = 0; in.fh < 8; in.fh++)
		err |= call(a->e->g, FUSE_FALLOCATE, a->node, P(in), NONE);
	return err;
}

static int do_copy(struct attempt *a)
{
	struct fuse_copy_file_range_in in = {.nodeid_out = a->node, .len = 4096};
	int err = 0;

	for (in.fh_in = in.fh_out = 0; in.fh_in < 8; in.fh_out = ++in.fh_in)
		err |= call(a->e->g, FUSE_COPY_FILE_RANGE, a->e->f, P(in), NONE);
	return err;
}

static int do_write(struct attempt *a)
{
	int err = 0;

	for (u64 fh = 0; fh < 8; fh++)
		err |= write_file(a->e->g, a->node, fh, 0, "taken", 5, 0);
	return err;
}

static const struct operation {
	const char *what;
	int (*fn)(struct attempt *a);
	bool named;  /* takes the name */
	bool writes; /* and so fails on a share for reading */
} operations[] = {
	{"lookup", do_lookup, true, false},
	{"mknod", do_mknod, true, true},
	{"mkdir", do_mkdir, true, true},
	{"symlink", do_symlink, true, true},
	{"unlink", do_unlink, true, true},
	{"rmdir", do_rmdir, true, true},
	{"rename from", do_fetch, true, true},
	{"old rename", do_fetch_old, true, true},
	{"rename to", do_put, true, true},
	{"exchange", do_exchange, true, true},
	{"whiteout", do_whiteout, true, true},
	{"link to", do_link_here, true, true},
	{"link of", do_link_of, false, true},
	{"create", do_create, true, true},
	{"tmpfile", do_tmpfile, false, true},
	{"getattr", do_getattr, false, false},
	{"chmod", do_chmod, false, true},
	{"chown", do_chown, false, true},
	{"truncate", do_truncate, false, true},
	{"utimes", do_utimes, false, true},
	{"readlink", do_readlink, false, false},
	{"open", do_open_read, false, false},
	{"open to write", do_open_trunc, false, true},
	{"opendir", do_opendir, false, false},
	{"setxattr", do_setxattr, false, true},
	{"getxattr", do_getxattr, false, false},
	{"listxattr", do_listxattr, false, false},
	{"removexattr", do_removexattr, false, true},
	{"access to write", do_access, false, true},
	{"fallocate", do_fallocate, false, true},
	{"copy", do_copy, false, true},
	{"write", do_write, false, true},
};

/* ---- cases ---- */

static const char *const names[] = {
	"..",          ".",         "",           "/",      "../secret", "../beside/" INNER,
	"up/secret",   "d/../../s", "secret",     INNER,    "upfile",    "up",
	"updir/inner", "absdir",    "magicd/top", "magicd", "beside",    "/proc/self/fd/0"};

static void every_way(struct escape *e, const struct operation *op)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/secret", e->g->top);
	for (unsigned k = 0; k <= ARRAY_SIZE(links); k++) {
		for (unsigned i = 0; i <= (op->named ? ARRAY_SIZE(names) : 0); i++) {
			struct attempt a = {.e = e, .node = ROOT};

			a.name = i < ARRAY_SIZE(names) ? names[i] : path;
			restore(e);
			if (k < ARRAY_SIZE(links))
				a.node = node_of(e->g, ROOT, links[k]);
			op->fn(&a);
		}
	}
}

static void test_every_operation(void **state)
{
	struct fuse_config cfg = {.max_nodes = 4096, .max_handles = 256};
	struct tree before;
	struct escape e;

	for (unsigned i = 0; i < ARRAY_SIZE(operations); i++) {
		escape_begin(&e, &cfg);
		before = tree_of(e.g->top, e.share);
		every_way(&e, &operations[i]);
		expect_same(&before, e.g->top, e.share);
		escape_end(&e);
	}
}

/* With names that are there, so that nothing but the read-only share keeps them from working. */
static void test_read_only(void **state)
{
	static const char *const own[] = {"f", "d", "new", "upfile", "d/f"};
	struct fuse_config cfg = {.max_nodes = 4096, .max_handles = 256}, ro = cfg;
	struct fuse_server *writable;
	struct escape e;
	struct tree before;

	escape_begin(&e, &cfg);
	setxattr(e.share, "user.mine", "1", 1, 0);
	before = tree_of(e.g->top, NULL);
	writable = e.g->s;
	ro.read_only = true;
	ro.dir_fd = e.g->share;
	ro.name = "ro";
	assert_int_equal(fuse_server_create(&e.g->s, &ro), 0);
	assert_int_equal(init(e.g, 37), 0);
	e.d = node_of(e.g, ROOT, "d");
	e.f = node_of(e.g, ROOT, "f");
	for (unsigned i = 0; i < ARRAY_SIZE(operations); i++)
		for (unsigned k = 0; k < 3 * ARRAY_SIZE(own); k++) {
			u64 nodes[] = {ROOT, e.d, e.f};
			struct attempt a = {.e = &e, .node = nodes[k % 3], .name = own[k / 3]};
			int err = operations[i].fn(&a);

			if (operations[i].writes)
				assert_int_not_equal(err, 0);
		}
	fuse_server_destroy(e.g->s);
	e.g->s = writable;
	expect_same(&before, e.g->top, NULL);
	escape_end(&e);
}

/* ---- the host changes the folder meanwhile ---- */

struct mover {
	struct escape *e;
	_Atomic bool stop;
	unsigned how;
};

static void *move(void *arg)
{
	struct mover *m = arg;
	int share = m->e->g->share;

	while (!m->stop) {
		switch (m->how) {
		case 0: /* a directory one moment, a link to the outside the next */
			syscall(SYS_renameat2, share, "d", share, "updir", RENAME_EXCHANGE);
			break;
		case 1:
			syscall(SYS_renameat2, share, "f", share, "upfile", RENAME_EXCHANGE);
			break;
		default: /* out of the share, and back */
			renameat(share, "d", m->e->top, "away");
			renameat(m->e->top, "away", share, "d");
		}
	}
	return NULL;
}

static void test_moving(void **state)
{
	static const char *const inside[] = {INNER, "secret", "f", "new", "..", "../secret"};
	struct fuse_config cfg = {.max_nodes = 4096, .max_handles = 256};
	unsigned how = (unsigned)(uintptr_t)*state;
	struct timespec from, now;
	struct tree secret, beside;
	struct escape e;
	struct mover m;
	unsigned n = 0;
	pthread_t t;
	char path[128];

	escape_begin(&e, &cfg);
	e.g->never[1] = NULL; /* the guest makes files of that name itself */
	snprintf(path, sizeof(path), "%s/secret", e.g->top);
	secret = tree_of(path, NULL);
	beside = tree_of(e.beside, NULL);
	m = (struct mover){.e = &e, .how = how};
	assert_int_equal(pthread_create(&t, NULL, move, &m), 0);
	clock_gettime(CLOCK_MONOTONIC, &from);
	do {
		const struct operation *op = &operations[n % ARRAY_SIZE(operations)];
		const char *which = how == 1 ? "f" : "d";
		struct attempt a = {.e = &e, .node = ROOT, .name = which};
		struct fuse_entry_out out;

		/* In the directory, or on it. The thread's own names must stay. */
		if (n % 3 && !lookup(e.g, ROOT, which, &out)) {
			a.node = out.nodeid;
			a.name = inside[n / 3 % ARRAY_SIZE(inside)];
			op->fn(&a);
		} else if (!op->writes || op->fn == do_create) {
			op->fn(&a);
		}
		if (++n % 512 == 0) { /* forget all */
			call(e.g, FUSE_DESTROY, 0, NONE, NONE);
			assert_int_equal(init(e.g, 37), 0);
		}
		clock_gettime(CLOCK_MONOTONIC, &now);
	} while (now.tv_sec - from.tv_sec < 2 && n < 30000);
	m.stop = true;
	pthread_join(t, NULL);
	assert_true(n > 500);
	expect_same(&secret, path, NULL);
	expect_same(&beside, e.beside, NULL);
	escape_end(&e);
}

/* A directory that the host moved away stays what it was to who knew it, and nothing above it is
 * reached from there. */
static void test_moved_away(void **state)
{
	struct fuse_config cfg = {.max_nodes = 4096, .max_handles = 256};
	struct fuse_entry_out out;
	struct escape e;
	u64 fh, f;

	escape_begin(&e, &cfg);
	f = node_of(e.g, e.d, "f");
	assert_int_equal(renameat(e.g->share, "d", e.top, "away"), 0);
	assert_int_equal(lookup(e.g, e.d, "..", &out), EINVAL);
	assert_int_equal(lookup(e.g, e.d, "secret", &out), ENOENT);
	assert_int_equal(lookup(e.g, e.d, "../secret", &out), EINVAL);
	assert_int_equal(rename_name(e.g, e.d, "../secret", ROOT, "got", 0), EINVAL);
	assert_int_equal(open_node(e.g, f, O_RDONLY, &fh), 0);
	assert_int_equal(read_file(e.g, FUSE_READ, f, fh, 0, 100), 8);
	assert_int_equal(lookup(e.g, ROOT, "d", &out), ENOENT);
	escape_end(&e);
}

/* ---- bounds ---- */

/* Owners of locks have a descriptor each, which must not be the monitor's last. */
static void test_owners_bounded(void **state)
{
	struct fuse_config cfg = {.max_handles = 8, .host_locks = true};
	struct rig *g = rig_new(&cfg);
	struct fuse_lk_in in = {.lk = {.end = 1, .type = F_RDLCK}};
	u64 node, fh;
	unsigned got = 0;

	assert_int_equal(init(g, 37), 0);
	assert_int_equal(create(g, ROOT, "f", O_RDWR, 0644, &node, &fh), 0);
	for (in.owner = 1; in.owner < 100; in.owner++) {
		int err;

		in.fh = fh;
		err = call(g, FUSE_SETLK, node, P(in), NONE);
		assert_true(!err || err == ENOLCK);
		got += !err;
	}
	assert_int_equal(got, 4);
	rig_free(g);
}

/* A READ of gigabytes into room for them is answered with what INIT said is the most. */
static void test_read_bounded(void **state)
{
	struct fuse_config cfg = {.max_handles = 8};
	struct rig *g = rig_new(&cfg);
	size_t room = 64 * MiB;
	u8 *big = malloc(room);
	struct {
		struct fuse_in_header h;
		struct fuse_read_in in;
	} q = {.h = {.len = sizeof(q), .opcode = FUSE_READ, .unique = 1}, .in = {.size = ~0u}};

	assert_int_equal(init(g, 37), 0);
	assert_int_equal(create(g, ROOT, "f", O_RDWR, 0644, &q.h.nodeid, &q.in.fh), 0);
	assert_int_equal(
		set_attr(g, q.h.nodeid,
	                 (struct fuse_setattr_in){.valid = FATTR_SIZE, .size = 1ull << 40}),
		0);
	assert_int_equal(raw(g->s, &q, sizeof(q), big, room), sizeof(struct fuse_out_header) + MiB);
	free(big);
	rig_free(g);
}

int main(void)
{
#define MOVING(n, name)                                                                            \
	{                                                                                          \
		name, test_moving, NULL, NULL, (void *)(uintptr_t)(n)                              \
	}
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_every_operation),
		cmocka_unit_test(test_read_only),
		MOVING(0, "a directory and a link exchanged"),
		MOVING(1, "a file and a link exchanged"),
		MOVING(2, "a directory moved out and back"),
		cmocka_unit_test(test_moved_away),
		cmocka_unit_test(test_owners_bounded),
		cmocka_unit_test(test_read_bounded),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
