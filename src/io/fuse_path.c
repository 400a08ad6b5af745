// SPDX-License-Identifier: MIT
/* The ways from the guest's names to the host's files, and what a server thread may do at all.
 *
 * A look-up is one component under an O_PATH descriptor, by openat2(2) with RESOLVE_BENEATH,
 * NO_SYMLINKS, NO_MAGICLINKS and NO_XDEV: even if a name that leads elsewhere got past
 * fuse_name_check(), or someone changes the folder meanwhile, the kernel refuses. Calls that have
 * no such variant (mkdirat, renameat2, ...) take the same single component and don't follow a
 * link in it. A descriptor becomes an open file through /proc/self/fd/N, a link the kernel resolves
 * to that very inode.
 *
 * Behind that stand Landlock, where the kernel has it (5.19 and newer): a server thread can open,
 * make and remove files beneath the folder only; and, for root, the loss of all capabilities but
 * those about owners and modes of files. */
#include "io/fuse_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/landlock.h>
#include <linux/limits.h>
#include <linux/openat2.h>
#include <linux/securebits.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

int fuse_name_check(const char *name)
{
	if (!*name || !strcmp(name, ".") || !strcmp(name, "..") || strchr(name, '/'))
		return -EINVAL;
	return strlen(name) > NAME_MAX ? -ENAMETOOLONG : 0;
}

int fuse_open_beneath(const struct fuse_node *dir, const char *name, u64 flags, u32 mode)
{
	const struct open_how how = {.flags = flags | O_NOFOLLOW | O_CLOEXEC,
	                             .mode = mode,
	                             .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS |
	                                        RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV};
	long fd;

	do /* EAGAIN: something was renamed at the same moment */
		fd = syscall(SYS_openat2, dir->fd, name, &how, sizeof(how));
	while (fd < 0 && (errno == EINTR || errno == EAGAIN));
	return fd < 0 ? -errno : (int)fd;
}

int fuse_open_child(const struct fuse_node *dir, const char *name)
{
	int err = fuse_name_check(name);

	if (err)
		return err;
	return fuse_open_beneath(dir, name, O_PATH, 0);
}

int fuse_reopen(const struct fuse_server *s, int fd, int flags)
{
	const struct open_how how = {.flags = (u64)flags | O_CLOEXEC};
	struct fuse_fd_name n = fuse_fd_name(fd);
	long r;

	do
		r = syscall(SYS_openat2, s->proc_fd, n.text, &how, sizeof(how));
	while (r < 0 && errno == EINTR);
	return r < 0 ? -errno : (int)r;
}

struct fuse_fd_name fuse_fd_name(int fd)
{
	struct fuse_fd_name n;

	snprintf(n.text, sizeof(n.text), "%d", fd);
	return n;
}

struct fuse_fd_name fuse_fd_path(int fd)
{
	struct fuse_fd_name n;

	snprintf(n.text, sizeof(n.text), "/proc/self/fd/%d", fd);
	return n;
}

/* ---- whose files ---- */

/* The file system's ids are a thread's own, and with SECBIT_NO_SETUID_FIXUP changing them leaves
 * the capabilities alone: who may do what was decided by the guest's kernel, which knows the
 * caller's groups; here only the owner of what is made is of interest. */
int fuse_creds_prepare(const struct fuse_server *s)
{
	if (!s->real_ids || s->read_only)
		return 0;
	return prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP) < 0 ? -errno : 0;
}

int fuse_creds_enter(const struct fuse_call *c)
{
	if (!c->s->real_ids)
		return 0;
	if (c->h.uid == (u32)-1 || c->h.gid == (u32)-1)
		return -EINVAL;
	setfsgid(c->h.gid);
	setfsuid(c->h.uid);
	/* They have no way to tell of a failure but the next call's result. */
	if ((u32)setfsuid((uid_t)-1) == c->h.uid && (u32)setfsgid((gid_t)-1) == c->h.gid)
		return 0;
	fuse_creds_leave(c);
	return -EPERM;
}

void fuse_creds_leave(const struct fuse_call *c)
{
	if (!c->s->real_ids)
		return;
	setfsuid(c->s->uid);
	setfsgid(c->s->gid);
}

/* ---- what a thread may do ---- */

#define CAP_BIT(c) (1u << (c)) /* all are below 32 */

static int keep_capabilities(const struct fuse_server *s)
{
	struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct d[_LINUX_CAPABILITY_U32S_3] = {0};
	u32 keep = CAP_BIT(CAP_DAC_READ_SEARCH);

	if (!s->read_only)
		keep |= CAP_BIT(CAP_DAC_OVERRIDE) | CAP_BIT(CAP_CHOWN) | CAP_BIT(CAP_FOWNER) |
		        CAP_BIT(CAP_FSETID) | CAP_BIT(CAP_SETUID) | CAP_BIT(CAP_SETGID);
	if (!s->real_ids)
		keep = 0;
	if (syscall(SYS_capget, &head, d) < 0)
		return -errno;
	d[0].effective = d[0].permitted = d[0].permitted & keep;
	d[1].effective = d[1].permitted = 0;
	d[0].inheritable = d[1].inheritable = 0;
	return syscall(SYS_capset, &head, d) < 0 ? -errno : 0;
}

static u64 landlock_rights(const struct fuse_server *s, u64 handled)
{
	u64 rights = LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR;

	if (!s->read_only) /* whiteouts are character devices, 0:0 */
		rights = handled &
		         ~(u64)(LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_MAKE_BLOCK);
	return rights & handled;
}

/* 0, also on a kernel without it; -errno. */
static int landlock(const struct fuse_server *s, const struct fuse_node *root)
{
	long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
	struct landlock_ruleset_attr rules = {.handled_access_fs =
	                                              (LANDLOCK_ACCESS_FS_MAKE_SYM << 1) - 1};
	struct landlock_path_beneath_attr beneath;
	int fd, err = 0;

	/* The first version forbids renaming from one directory to another. */
	if (abi < 2)
		return 0;
	rules.handled_access_fs |= LANDLOCK_ACCESS_FS_REFER;
	if (abi >= 3)
		rules.handled_access_fs |= 1ull << 14; /* TRUNCATE: newer than Debian 12's header */
	beneath = (struct landlock_path_beneath_attr){
		.allowed_access = landlock_rights(s, rules.handled_access_fs),
		.parent_fd = root->fd};
	/* The handled rights are all the first field of the structure's later versions. */
	fd = (int)syscall(SYS_landlock_create_ruleset, &rules, sizeof(rules.handled_access_fs), 0);
	if (fd < 0)
		return -errno;
	if (syscall(SYS_landlock_add_rule, fd, LANDLOCK_RULE_PATH_BENEATH, &beneath, 0) < 0 ||
	    syscall(SYS_landlock_restrict_self, fd, 0) < 0)
		err = -errno;
	close(fd);
	return err;
}

int fuse_confine_thread(const struct fuse_server *s)
{
	int err;

	/* Its own umask: the guest has applied the caller's. */
	if (unshare(CLONE_FS) < 0)
		return -errno;
	umask(0);
	if (s->real_ids && !s->read_only && prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP) < 0)
		return -errno;
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return -errno;
	err = landlock(s, s->nodes.slot[0].obj);
	return err ? err : keep_capabilities(s);
}
