// SPDX-License-Identifier: MIT
/* Connecting needs a new socket and a name, which the sandbox has for nobody: who could connect to
 * any unix socket of the user's could do anything in his name. So a process of its own does it,
 * the connector. It is told nothing but a port's number, makes the name PATH_<port> itself, and
 * sends back a connected descriptor; its own filter allows just that. It ends when its socket does.
 *
 * One message each way: the request's {id, port}; the answer's {id, error} and a descriptor. */
#include "io/vsock.h"

#include <errno.h>
#include <linux/close_range.h>
#include <seccomp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/log.h"

#define BACKLOG 64

struct request {
	u32 id, port;
};
struct answer {
	u32 id;
	s32 err; /* 0, or -errno and no descriptor */
};

struct vsock_unix {
	struct vsock_host host;
	struct loop *loop;
	int connector; /* SOCK_SEQPACKET */
};

union control {
	struct cmsghdr align;
	char buf[CMSG_SPACE(sizeof(int))];
};

/* ---- the connector ---- */

static int connector_connect(const char *path, u32 port)
{
	struct sockaddr_un sun = {.sun_family = AF_UNIX};
	int err, fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -errno;
	snprintf(sun.sun_path, sizeof(sun.sun_path), "%s_%u", path, port);
	if (connect(fd, (struct sockaddr *)&sun, sizeof(sun)) == 0)
		return fd;
	err = -errno; /* EAGAIN: its backlog is full; nobody waits here */
	close(fd);
	return err;
}

static bool connector_answer(int s, u32 id, int fd)
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

static int connector_lock_in(void)
{
	static const int calls[] = {SCMP_SYS(recvfrom), SCMP_SYS(connect), SCMP_SYS(sendmsg),
	                            SCMP_SYS(close), SCMP_SYS(exit_group)};
	scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_KILL_PROCESS);
	int err = ctx ? 0 : -ENOMEM;

	for (size_t i = 0; i < ARRAY_SIZE(calls) && !err; i++)
		err = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, calls[i], 0);
	if (!err)
		err = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(socket), 1,
		                       SCMP_A0(SCMP_CMP_EQ, AF_UNIX));
	return err ? err : seccomp_load(ctx);
}

static void __attribute__((noreturn)) connector_main(int s, const char *path)
{
	static const int ignored[] = {SIGINT, SIGHUP, SIGQUIT, SIGTERM, SIGTSTP, SIGPIPE};
	struct request r;

	/* It ends with its machine, however that ends. */
	for (size_t i = 0; i < ARRAY_SIZE(ignored); i++)
		signal(ignored[i], SIG_IGN);
	prctl(PR_SET_NAME, "ringer:vsock");
	if (dup2(s, 0) < 0 || close_range(1, ~0u, 0) < 0)
		_exit(1);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
	if (connector_lock_in() < 0)
		_exit(1);
#endif
	while (recv(0, &r, sizeof(r), 0) == (ssize_t)sizeof(r)) {
		int fd = connector_connect(path, r.port);
		bool ok = connector_answer(0, r.id, fd);

		if (fd >= 0)
			close(fd);
		if (!ok)
			break;
	}
	_exit(0);
}

/* Twice a child, so that nobody has to wait for it. */
static int connector_start(const char *path, int *out)
{
	int s[2], status = 0;
	pid_t pid;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, s) < 0)
		return -errno;
	pid = fork();
	if (pid == 0) {
		pid = fork();
		if (pid == 0)
			connector_main(s[1], path);
		_exit(pid < 0);
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

/* ---- the device's side ---- */

static struct vsock_unix *unix_of(struct vsock_host *h)
{
	return container_of(h, struct vsock_unix, host);
}

static int unix_connect(struct vsock_host *h, u32 port, u32 id)
{
	const struct request r = {id, port};
	ssize_t n = send(unix_of(h)->connector, &r, sizeof(r), MSG_DONTWAIT | MSG_NOSIGNAL);

	return n == (ssize_t)sizeof(r) ? 0 : n < 0 ? -errno : -EIO;
}

static void on_answer(void *arg, short revents)
{
	struct vsock_unix *u = arg;
	struct answer a = {0};
	struct iovec iov = {&a, sizeof(a)};
	union control ctl;
	struct msghdr m = {.msg_iov = &iov,
	                   .msg_iovlen = 1,
	                   .msg_control = ctl.buf,
	                   .msg_controllen = sizeof(ctl.buf)};
	struct cmsghdr *c;
	ssize_t n = recvmsg(u->connector, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	int fd = -1;

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	c = n > 0 ? CMSG_FIRSTHDR(&m) : NULL;
	if (c && c->cmsg_type == SCM_RIGHTS && c->cmsg_len == CMSG_LEN(sizeof(int)))
		memcpy(&fd, CMSG_DATA(c), sizeof(int));
	if (n != (ssize_t)sizeof(a)) {
		log_error("vsock: the process that connects to the host's sockets has ended");
		loop_del_fd(u->loop, u->connector);
		if (fd >= 0)
			close(fd);
		return;
	}
	if (u->host.connected)
		u->host.connected(u->host.arg, a.id, fd >= 0 ? fd : a.err ? a.err : -EIO);
	else if (fd >= 0)
		close(fd);
}

static void unix_destroy(struct vsock_host *h)
{
	struct vsock_unix *u = unix_of(h);

	if (u->connector >= 0) {
		loop_del_fd(u->loop, u->connector);
		close(u->connector);
	}
	if (h->listen_fd >= 0)
		close(h->listen_fd);
	free(u);
}

/* A socket's name that nobody listens behind is one that a machine left. */
static void remove_stale(const struct sockaddr_un *sun)
{
	struct stat st;
	int fd;

	if (lstat(sun->sun_path, &st) < 0 || !S_ISSOCK(st.st_mode))
		return;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return;
	if (connect(fd, (const struct sockaddr *)sun, sizeof(*sun)) < 0 && errno == ECONNREFUSED)
		unlink(sun->sun_path);
	close(fd);
}

static int listen_at(const char *path)
{
	struct sockaddr_un sun = {.sun_family = AF_UNIX};
	mode_t mask;
	int err, fd;

	snprintf(sun.sun_path, sizeof(sun.sun_path), "%s", path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	remove_stale(&sun);
	mask = umask(077);
	err = bind(fd, (struct sockaddr *)&sun, sizeof(sun)) < 0 ? -errno : 0;
	umask(mask);
	if (!err && listen(fd, BACKLOG) < 0)
		err = -errno;
	if (err) {
		close(fd);
		return err;
	}
	return fd;
}

int vsock_host_create(struct vsock_host **out, struct loop *loop, const char *path)
{
	struct vsock_unix *u = calloc(1, sizeof(*u));
	int err;

	if (!u)
		return -ENOMEM;
	u->loop = loop;
	u->connector = -1;
	u->host.connect = unix_connect;
	u->host.destroy = unix_destroy;
	u->host.listen_fd = listen_at(path);
	if (u->host.listen_fd < 0) {
		err = u->host.listen_fd;
		log_error("--vsock path=%s: cannot listen: %s%s", path, strerror(-err),
		          err == -EADDRINUSE
		                  ? "; another machine has it, or it is no socket: choose "
		                    "another path, for example path=/tmp/vm2.sock"
		                  : "; the folder must exist and be writable, for example "
		                    "path=/tmp/vm.sock");
		goto fail;
	}
	err = connector_start(path, &u->connector);
	if (err) {
		log_error("--vsock: cannot start the process that connects: %s", strerror(-err));
		goto fail;
	}
	err = loop_add_fd(loop, u->connector, POLLIN, on_answer, u);
	if (err)
		goto fail;
	*out = &u->host;
	return 0;
fail:
	unix_destroy(&u->host);
	return err;
}
