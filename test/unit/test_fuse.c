// SPDX-License-Identifier: MIT
/* FUSE spoken to the server directly: every operation, and what a hostile guest would send. Each
 * case has a folder of its own with one beside it that must stay out of reach; test_fuse_escape.c
 * tries to get there. */
#include <dirent.h>
#include <pthread.h>
#include <sys/file.h>
#include <sys/syscall.h>
#include <time.h>

#include "fusetest.h"

static int setup(void **state)
{
	struct fuse_config cfg = {.max_nodes = 4096, .max_handles = 256};

	*state = rig_new(&cfg);
	assert_int_equal(init(*state, 37), 0);
	return 0;
}

static int teardown(void **state)
{
	rig_free(*state);
	return 0;
}

/* ---- cases ---- */

static void test_init(void **state)
{
	struct rig *g = *state;
	const struct fuse_init_out *o;
	struct fuse_attr a;

	assert_int_equal(init(g, 37), EIO); /* a second one */
	assert_int_equal(call(g, FUSE_DESTROY, 0, NONE, NONE), 0);
	assert_int_equal(stat_of(g, ROOT, &a), EIO);
	assert_int_equal(init(g, 8), EPROTO);
	assert_int_equal(init(g, 31), 0);
	o = answer(g);
	assert_int_equal(o->major, 7);
	assert_true(o->minor >= 31);
	assert_int_equal(o->max_write, 1 << 20);
	assert_int_equal(o->max_pages, 256);
	assert_int_equal(o->flags & (FUSE_WRITEBACK_CACHE | FUSE_POSIX_ACL | FUSE_POSIX_LOCKS), 0);
	assert_int_equal(o->flags & FUSE_ATOMIC_O_TRUNC, FUSE_ATOMIC_O_TRUNC);
	assert_int_equal(stat_of(g, ROOT, &a), 0);
	assert_true(S_ISDIR(a.mode));
}

static void test_references(void **state)
{
	struct rig *g = *state;
	struct fuse_entry_out a, b;
	struct fuse_attr attr;
	struct fuse_stats st;

	host_write(g->share, "f", "x");
	assert_int_equal(lookup(g, ROOT, "f", &a), 0);
	assert_int_equal(lookup(g, ROOT, "f", &b), 0);
	assert_int_equal(a.nodeid, b.nodeid);
	forget(g, a.nodeid, 1);
	assert_int_equal(stat_of(g, a.nodeid, &attr), 0);
	forget(g, a.nodeid, 1);
	assert_int_equal(stat_of(g, a.nodeid, &attr), ESTALE);
	forget(g, a.nodeid, 1); /* of nothing */
	forget(g, ROOT, ~0ull);
	assert_int_equal(stat_of(g, ROOT, &attr), 0);

	/* The next one has another number, though it takes the same place. */
	assert_int_equal(lookup(g, ROOT, "f", &b), 0);
	assert_true(a.nodeid != b.nodeid);
	assert_int_equal((u32)a.nodeid, (u32)b.nodeid);
	forget(g, b.nodeid, ~0ull); /* more than there are */
	fuse_server_stats(g->s, &st);
	assert_int_equal(st.nodes, 1);
	assert_int_equal(stat_of(g, 0, &attr), ESTALE);
	assert_int_equal(stat_of(g, ~0ull, &attr), ESTALE);
}

static void test_batch_forget(void **state)
{
	struct rig *g = *state;
	struct fuse_batch_forget_in in = {.count = 1000}; /* there are two */
	struct fuse_forget_one one[2] = {{.nlookup = 1}, {.nlookup = 2}};
	struct fuse_stats st;

	host_write(g->share, "a", "x");
	host_write(g->share, "b", "x");
	one[0].nodeid = node_of(g, ROOT, "a");
	one[1].nodeid = node_of(g, ROOT, "b");
	node_of(g, ROOT, "b");
	call(g, FUSE_BATCH_FORGET, 0, P(in), P(one));
	assert_int_equal(g->len, 0);
	fuse_server_stats(g->s, &st);
	assert_int_equal(st.nodes, 1);
}

static void test_file(void **state)
{
	struct rig *g = *state;
	u64 node, fh, other;
	struct fuse_attr a;
	char text[16];
	int fd;

	assert_int_equal(create(g, ROOT, "f", O_RDWR | O_EXCL, 0640, &node, &fh), 0);
	assert_int_equal(create(g, ROOT, "f", O_RDWR | O_EXCL, 0640, &other, &other), EEXIST);
	assert_int_equal(write_file(g, node, fh, 3, "hello", 5, 0), 0);
	assert_int_equal(stat_of(g, node, &a), 0);
	assert_int_equal(a.size, 8);
	assert_int_equal(a.mode, S_IFREG | 0640);
	assert_int_equal(read_file(g, FUSE_READ, node, fh, 0, 100), 8);
	assert_memory_equal(answer(g), "\0\0\0hello", 8);
	assert_int_equal(read_file(g, FUSE_READ, node, fh, 8, 100), 0);
	fd = openat(g->share, "f", O_RDONLY);
	assert_int_equal(read(fd, text, 16), 8);
	close(fd);
	assert_int_equal(call(g, FUSE_FLUSH, node, P(((struct fuse_flush_in){.fh = fh})), NONE), 0);
	assert_int_equal(call(g, FUSE_FSYNC, node, P(((struct fuse_fsync_in){.fh = fh})), NONE), 0);

	/* Open and gone: it lives until it is closed. */
	assert_int_equal(call(g, FUSE_UNLINK, ROOT, S("f"), NONE), 0);
	assert_int_equal(read_file(g, FUSE_READ, node, fh, 3, 5), 5);
	assert_int_equal(stat_of(g, node, &a), 0);
	assert_int_equal(a.nlink, 0);
	assert_int_equal(release(g, FUSE_RELEASE, node, fh), 0);
	assert_int_equal(release(g, FUSE_RELEASE, node, fh), EBADF);
	assert_int_equal(read_file(g, FUSE_READ, node, fh, 0, 5), -EBADF);
}

static void test_open_modes(void **state)
{
	struct rig *g = *state;
	u64 node, fh, rd, wr;
	struct fuse_attr a;

	assert_int_equal(create(g, ROOT, "f", O_RDWR, 0644, &node, &fh), 0);
	assert_int_equal(write_file(g, node, fh, 0, "abc", 3, 0), 0);
	assert_int_equal(open_node(g, node, O_RDONLY, &rd), 0);
	assert_int_equal(open_node(g, node, O_WRONLY, &wr), 0);
	assert_int_equal(write_file(g, node, rd, 0, "x", 1, 0), EBADF);
	assert_int_equal(read_file(g, FUSE_READ, node, wr, 0, 1), -EBADF);
	assert_int_equal(open_node(g, node, O_ACCMODE, &rd), EINVAL);
	assert_int_equal(open_node(g, node, O_RDWR | O_TRUNC, &rd), 0);
	assert_int_equal(stat_of(g, node, &a), 0);
	assert_int_equal(a.size, 0);
	/* CREATE of what is there opens it. */
	assert_int_equal(create(g, ROOT, "f", O_RDWR, 0600, &node, &fh), 0);
	assert_int_equal(stat_of(g, node, &a), 0);
	assert_int_equal(a.mode & 07777, 0644);
}

/* Appending goes to the end as it is on the host; a page that is written back does not. */
static void test_append(void **state)
{
	struct rig *g = *state;
	u64 node, fh;
	struct fuse_write_in in;

	assert_int_equal(create(g, ROOT, "f", O_WRONLY | O_APPEND, 0644, &node, &fh), 0);
	host_write(g->share, "f", "host");
	assert_int_equal(write_file(g, node, fh, 0, "guest", 5, O_WRONLY | O_APPEND), 0);
	in = (struct fuse_write_in){.fh = fh,
	                            .offset = 0,
	                            .size = 1,
	                            .write_flags = FUSE_WRITE_CACHE,
	                            .flags = O_WRONLY | O_APPEND};
	assert_int_equal(call(g, FUSE_WRITE, node, P(in), (struct part){"H", 1}), 0);
	assert_int_equal(open_node(g, node, O_RDONLY, &fh), 0);
	assert_int_equal(read_file(g, FUSE_READ, node, fh, 0, 100), 9);
	assert_memory_equal(answer(g), "Hostguest", 9);
}

/* A name that isn't there is remembered as such for the same second; it counts no look-up. */
static void test_missing_names(void **state)
{
	const struct fuse_entry_out nothing = {.entry_valid = 1};
	struct rig *g = *state;
	struct fuse_entry_out e;
	struct fuse_stats before, after;

	fuse_server_stats(g->s, &before);
	assert_int_equal(call(g, FUSE_LOOKUP, ROOT, S("f"), NONE), 0);
	assert_int_equal(answer_len(g), sizeof(e));
	assert_memory_equal(answer(g), &nothing, sizeof(nothing));
	fuse_server_stats(g->s, &after);
	assert_int_equal(after.nodes, before.nodes);
	host_write(g->share, "f", "x");
	assert_int_equal(lookup(g, ROOT, "f", &e), 0);
	assert_int_equal(e.attr.size, 1);
}

/* What others changed between two opens drops the guest's cache; its own writes don't. Who only
 * reads needs no FLUSH. */
static void test_cache_flags(void **state)
{
	struct rig *g = *state;
	const struct fuse_open_out *o;
	u64 node, fh;

	assert_int_equal(create(g, ROOT, "f", O_RDWR, 0644, &node, &fh), 0);
	assert_int_equal(write_file(g, node, fh, 0, "abc", 3, 0), 0);
	assert_int_equal(release(g, FUSE_RELEASE, node, fh), 0);
	assert_int_equal(open_node(g, node, O_RDONLY, &fh), 0);
	o = answer(g);
	assert_int_equal(o->open_flags, FOPEN_KEEP_CACHE | FOPEN_NOFLUSH);
	assert_int_equal(open_node(g, node, O_RDWR, &fh), 0);
	assert_int_equal(o->open_flags, FOPEN_KEEP_CACHE);
	usleep(20000); /* a tick of the host's file times */
	host_write(g->share, "f", "xyz");
	assert_int_equal(open_node(g, node, O_RDONLY, &fh), 0);
	assert_int_equal(o->open_flags & FOPEN_KEEP_CACHE, 0);
}

static void test_attributes(void **state)
{
	struct rig *g = *state;
	u64 node, fh, link;
	struct fuse_attr a;

	assert_int_equal(create(g, ROOT, "f", O_RDWR, 0644, &node, &fh), 0);
	assert_int_equal(
		set_attr(g, node, (struct fuse_setattr_in){.valid = FATTR_MODE, .mode = 04711}), 0);
	assert_int_equal(stat_of(g, node, &a), 0);
	assert_int_equal(a.mode, S_IFREG | 04711);
	assert_int_equal(set_attr(g, node,
	                          (struct fuse_setattr_in){.valid = FATTR_SIZE | FATTR_KILL_SUIDGID,
	                                                   .size = 12345}),
	                 0);
	assert_int_equal(stat_of(g, node, &a), 0);
	assert_int_equal(a.size, 12345);
	assert_int_equal(a.mode & 07777, 0711);
	assert_int_equal(set_attr(g, node,
	                          (struct fuse_setattr_in){.valid = FATTR_ATIME | FATTR_MTIME,
	                                                   .atime = 1000,
	                                                   .atimensec = 1,
	                                                   .mtime = 2000,
	                                                   .mtimensec = 999999999}),
	                 0);
	assert_int_equal(stat_of(g, node, &a), 0);
	assert_int_equal(a.atime, 1000);
	assert_int_equal(a.mtimensec, 999999999);
	assert_int_equal(
		set_attr(g, node,
	                 (struct fuse_setattr_in){.valid = FATTR_MTIME, .mtimensec = 1000000000}),
		EINVAL);
	assert_int_equal(set_attr(g, node, (struct fuse_setattr_in){.valid = FATTR_MTIME_NOW}), 0);
	assert_int_equal(stat_of(g, node, &a), 0);
	assert_int_equal(a.atime, 1000);
	assert_true(a.mtime > 1600000000);

	assert_int_equal(call(g, FUSE_SYMLINK, ROOT, S("l"), S("f")), 0);
	link = node_of(g, ROOT, "l");
	assert_int_equal(
		set_attr(g, link, (struct fuse_setattr_in){.valid = FATTR_MODE, .mode = 0}),
		EOPNOTSUPP);
	assert_int_equal(set_attr(g, link, (struct fuse_setattr_in){.valid = FATTR_SIZE}), EINVAL);
	assert_int_equal(set_attr(g, ROOT, (struct fuse_setattr_in){.valid = FATTR_SIZE}), EISDIR);
	/* Times of the link, not of what it names. */
	assert_int_equal(
		set_attr(g, link, (struct fuse_setattr_in){.valid = FATTR_ATIME, .atime = 77}), 0);
	assert_int_equal(stat_of(g, node, &a), 0);
	assert_int_equal(a.atime, 1000);
}

static void test_owners(void **state)
{
	struct rig *g = *state;
	bool root = geteuid() == 0;
	u64 node, fh;
	struct fuse_attr a;
	struct stat st;

	g->uid = 1234;
	g->gid = 2345;
	assert_int_equal(create(g, ROOT, "f", O_RDWR, 0600, &node, &fh), 0);
	assert_int_equal(make_dir(g, ROOT, "d", NULL), 0);
	assert_int_equal(stat_of(g, node, &a), 0);
	assert_int_equal(a.uid, root ? 1234 : 0);
	assert_int_equal(a.gid, root ? 2345 : 0);
	assert_int_equal(fstatat(g->share, "d", &st, 0), 0);
	assert_int_equal(st.st_uid, root ? 1234 : geteuid());
	assert_int_equal(set_attr(g, node,
	                          (struct fuse_setattr_in){.valid = FATTR_UID | FATTR_GID,
	                                                   .uid = root ? 55 : 0,
	                                                   .gid = root ? 66 : 0}),
	                 0);
	assert_int_equal(stat_of(g, node, &a), 0);
	assert_int_equal(a.uid, root ? 55 : 0);
	if (!root)
		assert_int_equal(
			set_attr(g, node, (struct fuse_setattr_in){.valid = FATTR_UID, .uid = 1}),
			EPERM);
	g->uid = ~0u;
	assert_int_equal(make_dir(g, ROOT, "e", NULL), root ? EINVAL : 0);
	/* What the monitor makes itself afterwards is its own. */
	host_write(g->share, "own", "x");
	assert_int_equal(fstatat(g->share, "own", &st, 0), 0);
	assert_int_equal(st.st_uid, geteuid());
}

static void test_names(void **state)
{
	struct rig *g = *state;
	u64 d, node, fh;
	struct fuse_attr a;
	struct fuse_link_in ln;
	struct fuse_mknod_in mk = {.mode = S_IFIFO | 0600};

	assert_int_equal(make_dir(g, ROOT, "d", &d), 0);
	assert_int_equal(make_dir(g, ROOT, "d", NULL), EEXIST);
	assert_int_equal(create(g, d, "f", O_RDWR, 0644, &node, &fh), 0);
	ln.oldnodeid = node;
	assert_int_equal(call(g, FUSE_LINK, ROOT, P(ln), S("g")), 0);
	assert_int_equal(((const struct fuse_entry_out *)answer(g))->nodeid, node);
	assert_int_equal(stat_of(g, node, &a), 0);
	assert_int_equal(a.nlink, 2);
	ln.oldnodeid = 99;
	assert_int_equal(call(g, FUSE_LINK, ROOT, P(ln), S("h")), ESTALE);

	assert_int_equal(call(g, FUSE_RMDIR, ROOT, S("d"), NONE), ENOTEMPTY);
	assert_int_equal(call(g, FUSE_UNLINK, ROOT, S("nothing"), NONE), ENOENT);
	assert_int_equal(call(g, FUSE_SYMLINK, ROOT, S("l"), S("/etc/passwd")), 0);
	node = ((const struct fuse_entry_out *)answer(g))->nodeid;
	assert_int_equal(call(g, FUSE_READLINK, node, NONE, NONE), 0);
	assert_int_equal(answer_len(g), 11);
	assert_memory_equal(answer(g), "/etc/passwd", 11);
	assert_int_equal(call(g, FUSE_READLINK, d, NONE, NONE), EINVAL);

	assert_int_equal(call(g, FUSE_MKNOD, ROOT, P(mk), S("fifo")), 0);
	mk.mode = S_IFREG | 0644;
	assert_int_equal(call(g, FUSE_MKNOD, ROOT, P(mk), S("reg")), 0);
	mk.mode = S_IFCHR | 0666;
	mk.rdev = 0x103;
	assert_int_equal(call(g, FUSE_MKNOD, ROOT, P(mk), S("null")), EPERM);
	mk.mode = S_IFBLK | 0666;
	mk.rdev = 0;
	assert_int_equal(call(g, FUSE_MKNOD, ROOT, P(mk), S("disk")), EPERM);
}

static void test_rename(void **state)
{
	struct rig *g = *state;
	struct fuse_rename_in in = {.newdir = ROOT};
	u64 d, a, b;

	assert_int_equal(make_dir(g, ROOT, "d", &d), 0);
	host_write(g->share, "a", "a");
	host_write(g->share, "b", "b");
	a = node_of(g, ROOT, "a");
	b = node_of(g, ROOT, "b");
	assert_int_equal(rename_name(g, ROOT, "a", ROOT, "b", RENAME_NOREPLACE), EEXIST);
	assert_int_equal(rename_name(g, ROOT, "a", ROOT, "b", RENAME_EXCHANGE), 0);
	assert_int_equal(node_of(g, ROOT, "a"), b);
	assert_int_equal(rename_name(g, ROOT, "a", d, "c", 0), 0);
	assert_int_equal(node_of(g, d, "c"), b);
	assert_int_equal(rename_name(g, ROOT, "b", d, "c", 0), 0);
	assert_int_equal(node_of(g, d, "c"), a);
	assert_int_equal(rename_name(g, ROOT, "d", d, "x", 0), EINVAL); /* into itself */
	assert_int_equal(rename_name(g, d, "c", 12345, "x", 0), ESTALE);
	assert_int_equal(rename_name(g, d, "c", ROOT, "x", 1 << 7), EINVAL);
	assert_int_equal(call3(g, FUSE_RENAME, d, P(in), S("c"), S("z")), 0);
	assert_int_equal(node_of(g, ROOT, "z"), a);
}

/* Names of a directory read in pieces of `size`; how many there were, each once. */
static unsigned list(struct rig *g, u64 dir, u64 fh, u32 op, u32 size, unsigned *with_node)
{
	static bool seen[1000];
	unsigned nr = 0;
	u64 off = 0;
	int n;

	memset(seen, 0, sizeof(seen));
	*with_node = 0;
	while ((n = read_file(g, op, dir, fh, off, size)) > 0) {
		const u8 *p = answer(g);

		for (int at = 0; at < n;) {
			const struct fuse_direntplus *plus = (const void *)(p + at);
			const struct fuse_dirent *d =
				op == FUSE_READDIR ? (const void *)(p + at) : &plus->dirent;
			unsigned i;

			if (sscanf(d->name, "n%u", &i) == 1 && i < 1000) {
				assert_false(seen[i]);
				seen[i] = true;
				nr++;
				if (op == FUSE_READDIRPLUS && plus->entry_out.nodeid)
					++*with_node;
			}
			off = d->off;
			at += op == FUSE_READDIR ? (int)FUSE_DIRENT_SIZE(d)
			                         : (int)FUSE_DIRENTPLUS_SIZE(plus);
		}
	}
	assert_int_equal(n, 0);
	return nr;
}

static void test_directories(void **state)
{
	struct rig *g = *state;
	struct fuse_open_in in = {0};
	struct fuse_stats st;
	unsigned with_node;
	char name[16];
	u64 fh;

	for (unsigned i = 0; i < 500; i++) {
		snprintf(name, sizeof(name), "n%u", i);
		host_write(g->share, name, "");
	}
	assert_int_equal(call(g, FUSE_OPENDIR, ROOT, P(in), NONE), 0);
	fh = ((const struct fuse_open_out *)answer(g))->fh;
	assert_int_equal(list(g, ROOT, fh, FUSE_READDIR, 4096, &with_node), 500);
	assert_int_equal(list(g, ROOT, fh, FUSE_READDIR, 100, &with_node), 500);
	assert_int_equal(list(g, ROOT, fh, FUSE_READDIR, 65000, &with_node), 500);
	assert_int_equal(list(g, ROOT, fh, FUSE_READDIRPLUS, 5000, &with_node), 500);
	assert_int_equal(with_node, 500);
	fuse_server_stats(g->s, &st);
	assert_int_equal(st.nodes, 501);
	assert_int_equal(read_file(g, FUSE_READDIR, ROOT, fh, 0, 10), -EINVAL);
	assert_int_equal(read_file(g, FUSE_READ, ROOT, fh, 0, 10), -EBADF);
	assert_int_equal(call(g, FUSE_FSYNCDIR, ROOT, P(((struct fuse_fsync_in){.fh = fh})), NONE),
	                 0);
	assert_int_equal(release(g, FUSE_RELEASEDIR, ROOT, fh), 0);
	assert_int_equal(read_file(g, FUSE_READDIR, ROOT, fh, 0, 100), -EBADF);
	assert_int_equal(call(g, FUSE_OPENDIR, node_of(g, ROOT, "n1"), P(in), NONE), ENOTDIR);
}

static void test_xattr(void **state)
{
	struct rig *g = *state;
	struct {
		u32 size, flags;
	} set = {.size = 5};
	struct fuse_getxattr_in get = {.size = 100};
	u64 node;

	host_write(g->share, "f", "x");
	node = node_of(g, ROOT, "f");
	assert_int_equal(
		call3(g, FUSE_SETXATTR, node, P(set), S("user.a"), (struct part){"value", 5}), 0);
	assert_int_equal(call(g, FUSE_GETXATTR, node, P(get), S("user.a")), 0);
	assert_int_equal(answer_len(g), 5);
	assert_memory_equal(answer(g), "value", 5);
	get.size = 0;
	assert_int_equal(call(g, FUSE_GETXATTR, node, P(get), S("user.a")), 0);
	assert_int_equal(((const struct fuse_getxattr_out *)answer(g))->size, 5);
	assert_int_equal(call(g, FUSE_LISTXATTR, node, P(get), NONE), 0);
	assert_int_equal(((const struct fuse_getxattr_out *)answer(g))->size, 7);
	get.size = 3;
	assert_int_equal(call(g, FUSE_GETXATTR, node, P(get), S("user.a")), ERANGE);
	get.size = 7;
	assert_int_equal(call(g, FUSE_LISTXATTR, node, P(get), NONE), 0);
	assert_memory_equal(answer(g), "user.a", 7);
	set.flags = 1; /* XATTR_CREATE */
	assert_int_equal(
		call3(g, FUSE_SETXATTR, node, P(set), S("user.a"), (struct part){"value", 5}),
		EEXIST);
	set.flags = 0;
	set.size = 6; /* one more than there is */
	assert_int_equal(
		call3(g, FUSE_SETXATTR, node, P(set), S("user.b"), (struct part){"value", 5}),
		EINVAL);
	set.size = 5;
	assert_int_equal(call3(g, FUSE_SETXATTR, node, P(set), S("security.capability"),
	                       (struct part){"value", 5}),
	                 EOPNOTSUPP);
	assert_int_equal(call3(g, FUSE_SETXATTR, node, P(set), S("trusted.overlay.opaque"),
	                       (struct part){"value", 5}),
	                 EOPNOTSUPP);
	assert_int_equal(call(g, FUSE_REMOVEXATTR, node, S("user.a"), NONE), 0);
	assert_int_equal(call(g, FUSE_REMOVEXATTR, node, S("user.a"), NONE), ENODATA);
}

static void test_ranges(void **state)
{
	struct rig *g = *state;
	struct fuse_fallocate_in fa;
	struct fuse_lseek_in ls;
	struct fuse_copy_file_range_in cp;
	struct fuse_attr attr;
	u64 a, b, fa_h, fb_h;

	assert_int_equal(create(g, ROOT, "a", O_RDWR, 0644, &a, &fa_h), 0);
	assert_int_equal(create(g, ROOT, "b", O_RDWR, 0644, &b, &fb_h), 0);
	fa = (struct fuse_fallocate_in){.fh = fa_h, .offset = 0, .length = 8192};
	assert_int_equal(call(g, FUSE_FALLOCATE, a, P(fa), NONE), 0);
	assert_int_equal(stat_of(g, a, &attr), 0);
	assert_int_equal(attr.size, 8192);
	fa.mode = 8; /* FALLOC_FL_COLLAPSE_RANGE */
	assert_int_equal(call(g, FUSE_FALLOCATE, a, P(fa), NONE), EOPNOTSUPP);
	assert_int_equal(write_file(g, a, fa_h, 1 << 20, "data", 4, 0), 0);
	ls = (struct fuse_lseek_in){.fh = fa_h, .offset = 0, .whence = SEEK_HOLE};
	assert_int_equal(call(g, FUSE_LSEEK, a, P(ls), NONE), 0);
	assert_true(((const struct fuse_lseek_out *)answer(g))->offset <= (1 << 20) + 4);
	ls.whence = SEEK_SET;
	assert_int_equal(call(g, FUSE_LSEEK, a, P(ls), NONE), EINVAL);
	cp = (struct fuse_copy_file_range_in){
		.fh_in = fa_h, .off_in = 1 << 20, .nodeid_out = b, .fh_out = fb_h, .len = 4};
	assert_int_equal(call(g, FUSE_COPY_FILE_RANGE, a, P(cp), NONE), 0);
	assert_int_equal(((const struct fuse_write_out *)answer(g))->size, 4);
	assert_int_equal(read_file(g, FUSE_READ, b, fb_h, 0, 10), 4);
	assert_memory_equal(answer(g), "data", 4);
	cp.nodeid_out = a; /* not the node that handle is of */
	assert_int_equal(call(g, FUSE_COPY_FILE_RANGE, a, P(cp), NONE), EBADF);
	assert_int_equal(call(g, FUSE_SYNCFS, ROOT, P(((struct fuse_syncfs_in){0})), NONE), 0);
	assert_int_equal(call(g, FUSE_STATFS, ROOT, NONE, NONE), 0);
	assert_true(((const struct fuse_statfs_out *)answer(g))->st.blocks > 0);
	assert_int_equal(call(g, FUSE_ACCESS, a, P(((struct fuse_access_in){.mask = R_OK})), NONE),
	                 0);
}

static void test_tmpfile(void **state)
{
	struct rig *g = *state;
	struct fuse_create_in in = {.flags = O_RDWR, .mode = S_IFREG | 0600};
	int err = call(g, FUSE_TMPFILE, ROOT, P(in), S("ignored"));
	const struct fuse_entry_out *e = answer(g);
	struct fuse_link_in ln;
	u64 node, fh;

	if (err == EOPNOTSUPP)
		skip(); /* the file system of /tmp has none */
	assert_int_equal(err, 0);
	node = e->nodeid;
	fh = ((const struct fuse_open_out *)(e + 1))->fh;
	assert_int_equal(write_file(g, node, fh, 0, "x", 1, 0), 0);
	ln.oldnodeid = node;
	assert_int_equal(call(g, FUSE_LINK, ROOT, P(ln), S("named")), 0);
	assert_int_equal(node_of(g, ROOT, "named"), node);
}

/* ---- locks ---- */

struct locked {
	struct rig *g;
	u64 node, fh;
};

static int lock_op(struct locked *l, u32 op, u64 owner, u32 type, u64 start, u64 end, u32 flags)
{
	struct fuse_lk_in in = {.fh = l->fh,
	                        .owner = owner,
	                        .lk = {.start = start, .end = end, .type = type},
	                        .lk_flags = flags};

	return call(l->g, op, l->node, P(in), NONE);
}

#define TO_END INT64_MAX

static struct rig *locks_rig(struct locked *l, unsigned workers)
{
	struct fuse_config cfg = {.host_locks = true, .nr_workers = workers};
	struct rig *g = rig_new(&cfg);

	assert_int_equal(init(g, 37), 0);
	l->g = g;
	assert_int_equal(create(g, ROOT, "f", O_RDWR, 0644, &l->node, &l->fh), 0);
	return g;
}

static void test_locks(void **state)
{
	struct locked l, m;
	struct rig *g = locks_rig(&l, 0);
	const struct fuse_lk_out *out;
	struct flock fl = {.l_type = F_WRLCK, .l_start = 0, .l_len = 1};
	int fd = openat(g->share, "f", O_RDWR);

	assert_int_equal(lock_op(&l, FUSE_SETLK, 1, F_WRLCK, 0, 9, 0), 0);
	assert_int_equal(lock_op(&l, FUSE_SETLK, 2, F_RDLCK, 9, 9, 0), EAGAIN);
	assert_int_equal(lock_op(&l, FUSE_SETLK, 2, F_RDLCK, 10, TO_END, 0), 0);
	assert_int_equal(fcntl(fd, F_OFD_SETLK, &fl), -1); /* the host sees it */
	assert_int_equal(lock_op(&l, FUSE_GETLK, 2, F_WRLCK, 0, TO_END, 0), 0);
	out = answer(g);
	assert_int_equal(out->lk.type, F_WRLCK);
	assert_int_equal(out->lk.end, 9);
	assert_int_equal(lock_op(&l, FUSE_SETLK, 1, F_WRLCK, 5, 4, 0), EINVAL);
	assert_int_equal(lock_op(&l, FUSE_SETLK, 1, 77, 0, 4, 0), EINVAL);
	/* Closing lets go, so who only reads must send FLUSH as well. */
	assert_int_equal(open_node(g, l.node, O_RDONLY, &m.fh), 0);
	assert_int_equal(((const struct fuse_open_out *)answer(g))->open_flags & FOPEN_NOFLUSH, 0);
	assert_int_equal(call(g, FUSE_FLUSH, l.node,
	                      P(((struct fuse_flush_in){.fh = l.fh, .lock_owner = 1})), NONE),
	                 0);
	assert_int_equal(fcntl(fd, F_OFD_SETLK, &fl), 0);

	m = l;
	assert_int_equal(open_node(g, l.node, O_RDONLY, &m.fh), 0);
	assert_int_equal(lock_op(&l, FUSE_SETLK, 1, F_WRLCK, 0, TO_END, FUSE_LK_FLOCK), 0);
	assert_int_equal(lock_op(&m, FUSE_SETLK, 2, F_RDLCK, 0, TO_END, FUSE_LK_FLOCK), EAGAIN);
	assert_int_equal(flock(fd, LOCK_SH | LOCK_NB), -1);
	assert_int_equal(lock_op(&l, FUSE_SETLK, 1, F_UNLCK, 0, TO_END, FUSE_LK_FLOCK), 0);
	assert_int_equal(lock_op(&m, FUSE_SETLK, 2, F_RDLCK, 0, TO_END, FUSE_LK_FLOCK), 0);
	close(fd);
	rig_free(g);
}

struct lock_thread {
	struct fuse_server *s;
	u64 node, fh, owner, unique;
	struct fuse_out_header out;
	_Atomic bool done;
	pthread_t t;
};

static void *wait_for_lock(void *arg)
{
	struct lock_thread *w = arg;
	struct {
		struct fuse_in_header h;
		struct fuse_lk_in in;
	} q = {.h = {.len = sizeof(q),
	             .opcode = FUSE_SETLKW,
	             .unique = w->unique,
	             .nodeid = w->node},
	       .in = {.fh = w->fh,
	              .owner = w->owner,
	              .lk = {.start = 0, .end = TO_END, .type = F_WRLCK}}};

	raw(w->s, &q, sizeof(q), &w->out, sizeof(w->out));
	w->done = true;
	return NULL;
}

static void start_waiting(struct lock_thread *w, struct locked *l, u64 owner)
{
	*w = (struct lock_thread){.s = l->g->s,
	                          .node = l->node,
	                          .fh = l->fh,
	                          .owner = owner,
	                          .unique = 1000000 + owner};
	assert_int_equal(pthread_create(&w->t, NULL, wait_for_lock, w), 0);
	usleep(20000);
	assert_false(w->done);
}

static int join(struct lock_thread *w)
{
	pthread_join(w->t, NULL);
	return -w->out.error;
}

static void test_lock_waits(void **state)
{
	struct locked l;
	struct rig *g = locks_rig(&l, 2);
	struct lock_thread w[6];
	struct flock fl = {.l_type = F_WRLCK};
	struct fuse_attr a;
	int fd = openat(g->share, "f", O_RDWR);

	/* More waiters than threads: the server goes on serving. */
	assert_int_equal(lock_op(&l, FUSE_SETLK, 1, F_WRLCK, 0, TO_END, 0), 0);
	for (unsigned i = 0; i < 6; i++)
		start_waiting(&w[i], &l, 10 + i);
	assert_int_equal(stat_of(g, l.node, &a), 0);
	/* One is interrupted. */
	call(g, FUSE_INTERRUPT, 0, P(((struct fuse_interrupt_in){.unique = w[3].unique})), NONE);
	assert_int_equal(join(&w[3]), EINTR);
	assert_int_equal(call(g, FUSE_INTERRUPT, 0,
	                      P(((struct fuse_interrupt_in){.unique = w[3].unique})), NONE),
	                 EAGAIN);
	/* One gets it; the others are let go, as a reset does. */
	assert_int_equal(lock_op(&l, FUSE_SETLK, 1, F_UNLCK, 0, TO_END, 0), 0);
	usleep(50000);
	assert_int_equal(w[0].done + w[1].done + w[2].done + w[4].done + w[5].done, 1);
	fuse_server_reset(g->s);
	for (unsigned i = 0, got = 0; i < 6; i++) {
		int err = i == 3 ? EINTR : join(&w[i]);

		assert_true(!err || err == EINTR);
		got += !err;
		assert_true(got <= 1);
	}

	/* Someone outside lets go, and nobody tells. */
	assert_int_equal(init(g, 37), 0);
	l.node = node_of(g, ROOT, "f");
	assert_int_equal(open_node(g, l.node, O_RDWR, &l.fh), 0);
	assert_int_equal(fcntl(fd, F_OFD_SETLK, &fl), 0);
	start_waiting(&w[0], &l, 5);
	close(fd);
	assert_int_equal(join(&w[0]), 0);
	rig_free(g);
}

/* ---- hostile ---- */

static void test_bad_names(void **state)
{
	struct rig *g = *state;
	static const char *const bad[] = {
		"..", ".", "", "/", "/etc/passwd", "../secret", "a/../../secret", "a/b"};
	struct fuse_mkdir_in mk = {.mode = 0755};
	struct fuse_create_in cr = {.flags = O_RDWR, .mode = S_IFREG | 0644};
	struct fuse_mknod_in nod = {.mode = S_IFREG | 0644};
	struct fuse_link_in ln;
	struct fuse_entry_out e;
	char longest[300];

	assert_int_equal(make_dir(g, ROOT, "a", NULL), 0);
	host_write(g->share, "f", "x");
	ln.oldnodeid = node_of(g, ROOT, "f");
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		assert_int_equal(lookup(g, ROOT, bad[i], &e), EINVAL);
		assert_int_equal(call(g, FUSE_UNLINK, ROOT, S(bad[i]), NONE), EINVAL);
		assert_int_equal(call(g, FUSE_RMDIR, ROOT, S(bad[i]), NONE), EINVAL);
		assert_int_equal(call(g, FUSE_MKDIR, ROOT, P(mk), S(bad[i])), EINVAL);
		assert_int_equal(call(g, FUSE_CREATE, ROOT, P(cr), S(bad[i])), EINVAL);
		assert_int_equal(call(g, FUSE_MKNOD, ROOT, P(nod), S(bad[i])), EINVAL);
		assert_int_equal(call(g, FUSE_LINK, ROOT, P(ln), S(bad[i])), EINVAL);
		assert_int_equal(call(g, FUSE_SYMLINK, ROOT, S(bad[i]), S("t")), EINVAL);
		assert_int_equal(rename_name(g, ROOT, "f", ROOT, bad[i], 0), EINVAL);
		assert_int_equal(rename_name(g, ROOT, bad[i], ROOT, "n", 0), EINVAL);
	}
	memset(longest, 'n', sizeof(longest));
	longest[299] = '\0';
	assert_int_equal(lookup(g, ROOT, longest, &e), ENAMETOOLONG);
	/* Without an end. */
	assert_int_equal(call(g, FUSE_LOOKUP, ROOT, (struct part){"abc", 3}, NONE), EINVAL);
	assert_int_equal(call(g, FUSE_LOOKUP, ROOT, NONE, NONE), EINVAL);
	assert_int_equal(call(g, FUSE_SYMLINK, ROOT, S("x"), NONE), EINVAL);
}

static void test_symlinks_lead_nowhere(void **state)
{
	struct rig *g = *state;
	struct fuse_open_in in = {0};
	struct fuse_entry_out e;
	u64 up, file, fh, node;

	assert_int_equal(symlinkat("..", g->share, "up"), 0);
	assert_int_equal(symlinkat("../secret", g->share, "file"), 0);
	up = node_of(g, ROOT, "up");
	file = node_of(g, ROOT, "file");
	assert_int_equal(lookup(g, up, "secret", &e), ENOTDIR);
	assert_int_equal(call(g, FUSE_OPENDIR, up, P(in), NONE), ENOTDIR);
	assert_int_equal(open_node(g, file, O_RDONLY, &fh), ELOOP);
	assert_int_equal(create(g, ROOT, "file", O_RDWR | O_TRUNC, 0644, &node, &fh), ESTALE);
	assert_int_equal(set_attr(g, file, (struct fuse_setattr_in){.valid = FATTR_SIZE}), EINVAL);
	assert_int_equal(make_dir(g, up, "d", NULL), ENOTDIR);
	assert_int_equal(call(g, FUSE_UNLINK, up, S("secret"), NONE), ENOTDIR);
	assert_int_equal(rename_name(g, up, "secret", ROOT, "got", 0), ENOTDIR);
}

static void test_special_files(void **state)
{
	struct rig *g = *state;
	u64 node, fh;

	assert_int_equal(mkfifoat(g->share, "fifo", 0666), 0);
	assert_int_equal(open_node(g, node_of(g, ROOT, "fifo"), O_RDONLY, &fh), EACCES);
	assert_int_equal(open_node(g, node_of(g, ROOT, "fifo"), O_RDWR, &fh), EACCES);
	assert_int_equal(create(g, ROOT, "fifo", O_WRONLY, 0644, &node, &fh), ESTALE);
}

/* Other file systems mounted in the folder are no part of it. */
static void test_other_mounts(void **state)
{
	int dir = open("/", O_RDONLY | O_DIRECTORY);
	struct fuse_config cfg = {.dir_fd = dir, .read_only = true, .name = "root"};
	struct rig *g = *state;
	struct fuse_entry_out e;
	struct fuse_server *share = g->s, *s;

	assert_int_equal(fuse_server_create(&s, &cfg), 0);
	g->s = s;
	assert_int_equal(init(g, 37), 0);
	assert_int_equal(lookup(g, ROOT, "proc", &e), EACCES);
	assert_int_equal(lookup(g, ROOT, "..", &e), EINVAL);
	g->s = share;
	fuse_server_destroy(s);
	close(dir);
}

struct swapper {
	int dir;
	_Atomic bool stop;
};

/* `d` is a directory one moment and a link to the outside the next. */
static void *swap(void *arg)
{
	struct swapper *w = arg;

	while (!w->stop)
		syscall(SYS_renameat2, w->dir, "d", w->dir, "l", RENAME_EXCHANGE);
	return NULL;
}

static void test_swapped_links(void **state)
{
	struct rig *g = *state;
	struct swapper w = {.dir = g->share};
	struct timespec from, now;
	unsigned links = 0, dirs = 0;
	struct fuse_entry_out d, f;
	struct stat secret;
	pthread_t t;
	char path[96];

	snprintf(path, sizeof(path), "%s/secret", g->top);
	assert_int_equal(stat(path, &secret), 0);
	assert_int_equal(mkdirat(g->share, "d", 0755), 0);
	host_write(g->share, "d/secret", "harmless");
	assert_int_equal(symlinkat("..", g->share, "l"), 0);
	assert_int_equal(pthread_create(&t, NULL, swap, &w), 0);
	clock_gettime(CLOCK_MONOTONIC, &from);
	do {
		u64 fh;

		assert_int_equal(lookup(g, ROOT, "d", &d), 0);
		if (S_ISLNK(d.attr.mode))
			links++;
		else
			dirs++;
		if (!lookup(g, d.nodeid, "secret", &f)) {
			assert_true(f.attr.ino != secret.st_ino);
			assert_int_equal(open_node(g, f.nodeid, O_RDONLY, &fh), 0);
			assert_int_equal(read_file(g, FUSE_READ, f.nodeid, fh, 0, 100), 8);
			assert_memory_equal(answer(g), "harmless", 8);
			release(g, FUSE_RELEASE, f.nodeid, fh);
		}
		clock_gettime(CLOCK_MONOTONIC, &now);
	} while (now.tv_sec - from.tv_sec < 2 && (links < 300 || dirs < 300));
	w.stop = true;
	pthread_join(t, NULL);
	assert_true(links && dirs);
}

static void test_bad_requests(void **state)
{
	struct rig *g = *state;
	struct fuse_in_header h = {
		.len = sizeof(h), .opcode = FUSE_GETATTR, .unique = 7, .nodeid = 1};
	struct {
		struct fuse_in_header h;
		struct fuse_write_in in;
		u8 data[4];
	} w;
	struct fuse_out_header o;
	u8 huge[4096] = {0};
	u64 node, fh;

	/* Less than a head, and heads that lie. */
	assert_int_equal(raw(g->s, &h, 10, g->out, BUF), 0);
	assert_int_equal(raw(g->s, &h, 0, g->out, BUF), 0);
	h.len = 10000;
	assert_int_equal(raw(g->s, &h, sizeof(h), &o, sizeof(o)), sizeof(o));
	assert_int_equal(o.error, -EINVAL);
	h.len = 3;
	assert_int_equal(raw(g->s, &h, sizeof(h), &o, sizeof(o)), sizeof(o));
	assert_int_equal(o.error, -EINVAL);
	/* No room for the answer, or for its head. */
	memcpy(huge, &h, sizeof(h));
	((struct fuse_in_header *)huge)->len = sizeof(h) + sizeof(struct fuse_getattr_in);
	assert_int_equal(raw(g->s, huge, sizeof(huge), &o, sizeof(o)), sizeof(o));
	assert_int_equal(o.error, -EINVAL);
	assert_int_equal(raw(g->s, huge, sizeof(huge), g->out, 15), 0);
	/* Operations that aren't. */
	assert_int_equal(call(g, 0, ROOT, NONE, NONE), ENOSYS);
	assert_int_equal(call(g, 4095, ROOT, NONE, NONE), ENOSYS);
	assert_int_equal(call(g, ~0u, ROOT, NONE, NONE), ENOSYS);
	assert_int_equal(call(g, FUSE_IOCTL, ROOT, P(huge), NONE), ENOSYS);
	assert_int_equal(call(g, FUSE_SETUPMAPPING, ROOT, P(huge), NONE), ENOSYS);
	/* More to write than there is. */
	assert_int_equal(create(g, ROOT, "f", O_RDWR, 0644, &node, &fh), 0);
	memset(&w, 0, sizeof(w));
	w.h = (struct fuse_in_header){.len = sizeof(w), .opcode = FUSE_WRITE, .nodeid = node};
	w.in = (struct fuse_write_in){.fh = fh, .size = sizeof(w.data) + 5};
	assert_int_equal(raw(g->s, &w, sizeof(w), g->out, BUF), sizeof(o));
	assert_int_equal(((struct fuse_out_header *)g->out)->error, -EINVAL);
	assert_int_equal(read_file(g, FUSE_READ, node, fh, ~0ull, 10), -EINVAL);
	assert_int_equal(read_file(g, FUSE_READ, node, fh + 1, 0, 10), -EBADF);
	assert_int_equal(read_file(g, FUSE_READ, ROOT, fh, 0, 10), -EBADF);
	assert_int_equal(read_file(g, FUSE_READDIR, node, fh, 0, 10), -EBADF);
}

static void test_limits(void **state)
{
	struct fuse_config cfg = {.max_nodes = 16, .max_handles = 4};
	struct rig *g = rig_new(&cfg);
	struct fuse_open_in in = {0};
	struct fuse_stats st;
	unsigned with_node;
	char name[16];
	u64 node = 0, fh, dir;

	assert_int_equal(init(g, 37), 0);
	for (unsigned i = 0; i < 40; i++) {
		snprintf(name, sizeof(name), "n%u", i);
		host_write(g->share, name, "");
	}
	/* READDIRPLUS leaves some for look-ups. */
	assert_int_equal(call(g, FUSE_OPENDIR, ROOT, P(in), NONE), 0);
	dir = ((const struct fuse_open_out *)answer(g))->fh;
	assert_int_equal(list(g, ROOT, dir, FUSE_READDIRPLUS, 400, &with_node), 40);
	assert_in_range(with_node, 1, 15);
	fuse_server_stats(g->s, &st);
	assert_true(st.nodes <= 16);
	for (unsigned i = 0; i < 40; i++) {
		struct fuse_entry_out e;
		int err;

		snprintf(name, sizeof(name), "n%u", i);
		err = lookup(g, ROOT, name, &e);
		assert_true(!err || err == ENFILE);
		if (!err)
			node = e.nodeid;
	}
	fuse_server_stats(g->s, &st);
	assert_int_equal(st.nodes, 16);
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(open_node(g, node, O_RDONLY, &fh), 0);
	assert_int_equal(open_node(g, node, O_RDONLY, &fh), EMFILE);
	/* CREATE that fails half-way leaves no references. */
	assert_int_equal(call(g, FUSE_DESTROY, 0, NONE, NONE), 0);
	fuse_server_stats(g->s, &st);
	assert_int_equal(st.nodes, 1);
	assert_int_equal(st.handles, 0);
	rig_free(g);
}

static void test_read_only(void **state)
{
	struct fuse_config cfg = {.read_only = true};
	struct rig *g = rig_new(&cfg);
	struct fuse_mkdir_in mk = {.mode = 0755};
	struct fuse_create_in cr = {.flags = O_RDONLY, .mode = S_IFREG | 0644};
	struct fuse_link_in ln;
	u64 node, fh;

	host_write(g->share, "f", "text");
	assert_int_equal(init(g, 37), 0);
	node = node_of(g, ROOT, "f");
	ln.oldnodeid = node;
	assert_int_equal(open_node(g, node, O_RDWR, &fh), EROFS);
	assert_int_equal(open_node(g, node, O_RDONLY | O_TRUNC, &fh), EROFS);
	assert_int_equal(open_node(g, node, O_RDONLY, &fh), 0);
	assert_int_equal(read_file(g, FUSE_READ, node, fh, 0, 100), 4);
	assert_int_equal(write_file(g, node, fh, 0, "x", 1, 0), EROFS);
	assert_int_equal(call(g, FUSE_MKDIR, ROOT, P(mk), S("d")), EROFS);
	assert_int_equal(call(g, FUSE_CREATE, ROOT, P(cr), S("n")), EROFS);
	assert_int_equal(call(g, FUSE_UNLINK, ROOT, S("f"), NONE), EROFS);
	assert_int_equal(call(g, FUSE_LINK, ROOT, P(ln), S("g")), EROFS);
	assert_int_equal(call(g, FUSE_SYMLINK, ROOT, S("s"), S("t")), EROFS);
	assert_int_equal(rename_name(g, ROOT, "f", ROOT, "g", 0), EROFS);
	assert_int_equal(set_attr(g, node, (struct fuse_setattr_in){.valid = FATTR_MODE}), EROFS);
	assert_int_equal(call(g, FUSE_REMOVEXATTR, node, S("user.a"), NONE), EROFS);
	rig_free(g);
}

/* ---- threads ---- */

static unsigned open_descriptors(void)
{
	DIR *d = opendir("/proc/self/fd");
	unsigned n = 0;

	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

static void *hammer(void *arg)
{
	struct rig mine = *(struct rig *)arg, *g = &mine;
	unsigned seed = (unsigned)(uintptr_t)&mine;

	g->out = malloc(BUF);
	for (unsigned i = 0; i < 400; i++) {
		u64 node = 0, fh = 0, dirfh = 0;
		struct fuse_entry_out e;
		struct fuse_open_in in = {0};
		char name[8] = {'f', (char)('0' + rand_r(&seed) % 8), 0};

		create(g, ROOT, name, O_RDWR, 0644, &node, &fh);
		write_file(g, node, fh, 0, name, 2, 0);
		/* Numbers of others, too. */
		read_file(g, FUSE_READ, node, (u64)rand_r(&seed) % 40, 0, 100);
		release(g, FUSE_RELEASE, node, fh);
		release(g, FUSE_RELEASE, (u64)rand_r(&seed) % 20 + 1, (u64)rand_r(&seed) % 40);
		if (!call(g, FUSE_OPENDIR, ROOT, P(in), NONE))
			dirfh = ((const struct fuse_open_out *)answer(g))->fh;
		read_file(g, FUSE_READDIRPLUS, ROOT, dirfh, 0, 4096);
		release(g, FUSE_RELEASEDIR, ROOT, dirfh);
		forget(g, node, (u64)rand_r(&seed) % 4);
		lookup(g, ROOT, name, &e);
		if (rand_r(&seed) % 4 == 0)
			call(g, FUSE_UNLINK, ROOT, S(name), NONE);
		if (rand_r(&seed) % 64 == 0) {
			call(g, FUSE_DESTROY, 0, NONE, NONE);
			init(g, 37);
		}
	}
	free(g->out);
	return NULL;
}

static void test_threads(void **state)
{
	struct fuse_config cfg = {.nr_workers = 4, .host_locks = true};
	unsigned before = open_descriptors();
	struct rig *g = rig_new(&cfg);
	struct fuse_stats st;
	pthread_t t[4];

	assert_int_equal(init(g, 37), 0);
	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&t[i], NULL, hammer, g), 0);
	for (unsigned i = 0; i < 4; i++)
		pthread_join(t[i], NULL);
	fuse_server_reset(g->s);
	fuse_server_stats(g->s, &st);
	assert_int_equal(st.nodes, 1);
	assert_int_equal(st.handles, 0);
	rig_free(g);
	assert_int_equal(open_descriptors(), before);
}

/* What a thread of the server may do itself, were it taken over. */
static void test_confinement(void **state)
{
	struct fuse_config cfg = {.nr_workers = 1};
	struct rig *g = rig_new(&cfg);
	u64 node, fh;

	assert_int_equal(init(g, 37), 0);
	g->uid = 1234;
	g->gid = 1234;
	umask(077); /* the monitor's own */
	assert_int_equal(create(g, ROOT, "f", O_RDWR, 04777, &node, &fh), 0);
	assert_int_equal(((const struct fuse_entry_out *)answer(g))->attr.mode, S_IFREG | 04777);
	umask(0);
	rig_free(g);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_init),
		T(test_references),
		T(test_batch_forget),
		T(test_file),
		T(test_open_modes),
		T(test_append),
		T(test_cache_flags),
		T(test_attributes),
		T(test_owners),
		T(test_names),
		T(test_missing_names),
		T(test_rename),
		T(test_directories),
		T(test_xattr),
		T(test_ranges),
		T(test_tmpfile),
		cmocka_unit_test(test_locks),
		cmocka_unit_test(test_lock_waits),
		T(test_bad_names),
		T(test_symlinks_lead_nowhere),
		T(test_special_files),
		T(test_other_mounts),
		T(test_swapped_links),
		T(test_bad_requests),
		cmocka_unit_test(test_limits),
		cmocka_unit_test(test_read_only),
		cmocka_unit_test(test_threads),
		cmocka_unit_test(test_confinement),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
