// SPDX-License-Identifier: MIT
/* One message each way: the request's {id, number}; the answer's {id, error} and a descriptor. */
#include "io/connector.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <seccomp.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

struct request {
	u32 id, number;
};
struct answer {
	u32 id;
	s32 err; /* 0, or -errno and no descriptor */
};

union control {
	struct cmsghdr align;
	char buf[CMSG_SPACE(sizeof(int))];
};

/* ---- the process ---- */

static bool answer(int s, u32 id, int fd)
{
	struct answer a = {.id = id, .err = fd < 0 ? fd : 0};
	struct iovec iov = {&a, sizeof(a)};
	union control ctl = {0};
	struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};

	if (fd >= 0) {
		struct cmsghdr *c = &ctl.align;

		m.msg_control = ctl.buf;
		m.msg_controllen = sizeof(ctl.buf);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(c), &fd, sizeof(int));
	}
	return sendmsg(s, &m, MSG_NOSIGNAL) == (ssize_t)sizeof(a);
}

static int allow_looks(scmp_filter_ctx ctx)
{
	/* glibc's open() and fstat(). */
	int err = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(openat), 1,
	                           SCMP_A2(SCMP_CMP_EQ, CONNECTOR_LOOK));

	if (!err)
		err = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(newfstatat), 1,
		                       SCMP_A3(SCMP_CMP_EQ, AT_EMPTY_PATH));
	return err ? err : seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(fstat), 0);
}

static int lock_in(int family, bool looks)
{
	static const int calls[] = {SCMP_SYS(recvfrom), SCMP_SYS(connect), SCMP_SYS(sendmsg),
	                            SCMP_SYS(close), SCMP_SYS(exit_group)};
	scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_KILL_PROCESS);
	int err = ctx ? 0 : -ENOMEM;

	for (size_t i = 0; i < ARRAY_SIZE(calls) && !err; i++)
		err = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, calls[i], 0);
	if (!err)
		err = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(socket), 1,
		                       SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)family));
	if (!err && looks)
		err = allow_looks(ctx);
	return err ? err : seccomp_load(ctx);
}

static void __attribute__((noreturn))
connector_main(int s, const char *name, int family, bool looks, connector_fn *fn, const void *arg)
{
	static const int ignored[] = {SIGINT, SIGHUP, SIGQUIT, SIGTERM, SIGTSTP, SIGPIPE};
	struct request r;

	/* It ends with its machine, however that ends. */
	for (size_t i = 0; i < ARRAY_SIZE(ignored); i++)
		signal(ignored[i], SIG_IGN);
	prctl(PR_SET_NAME, name);
	if (dup2(s, 0) < 0 || close_range(1, ~0u, 0) < 0)
		_exit(1);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
	if (lock_in(family, looks) < 0)
		_exit(1);
#endif
	while (recv(0, &r, sizeof(r), 0) == (ssize_t)sizeof(r)) {
		int fd = fn(arg, r.number);
		bool ok = answer(0, r.id, fd);

		if (fd >= 0)
			close(fd);
		if (!ok)
			break;
	}
	_exit(0);
}

/* Twice a child, so that nobody has to wait for it. */
int connector_start(int *out, const char *name, int family, bool looks, connector_fn *fn,
                    const void *arg)
{
	int s[2], status = 0;
	pid_t pid;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, s) < 0)
		return -errno;
	pid = fork();
	if (pid == 0) {
		pid = fork();
		if (pid == 0)
			connector_main(s[1], name, family, looks, fn, arg);
		_exit(pid < 0 ? 1 : 0);
	}
	close(s[1]);
	while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (pid < 0 || status) {
		close(s[0]);
		return -EAGAIN;
	}
	*out = s[0];
	return 0;
}

/* ---- who asks ---- */

int connector_ask(int s, u32 id, u32 number)
{
	const struct request r = {id, number};
	ssize_t n = send(s, &r, sizeof(r), MSG_DONTWAIT | MSG_NOSIGNAL);

	return n == (ssize_t)sizeof(r) ? 0 : n < 0 ? -errno : -EIO;
}

int connector_take(int s, u32 *id, int *fd)
{
	struct answer a = {0};
	struct iovec iov = {&a, sizeof(a)};
	union control ctl;
	struct msghdr m = {.msg_iov = &iov,
	                   .msg_iovlen = 1,
	                   .msg_control = ctl.buf,
	                   .msg_controllen = sizeof(ctl.buf)};
	ssize_t n = recvmsg(s, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	struct cmsghdr *c;
	int got = -1;

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return -EAGAIN;
	c = n > 0 ? CMSG_FIRSTHDR(&m) : NULL;
	if (c && c->cmsg_type == SCM_RIGHTS && c->cmsg_len == CMSG_LEN(sizeof(int)))
		memcpy(&got, CMSG_DATA(c), sizeof(int));
	if (n != (ssize_t)sizeof(a)) {
		if (got >= 0)
			close(got);
		return -EPIPE;
	}
	*id = a.id;
	*fd = got >= 0 ? got : a.err ? a.err : -EIO;
	return 0;
}
