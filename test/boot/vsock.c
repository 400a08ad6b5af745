// SPDX-License-Identifier: MIT
/* Runs in the guest: a vsock stream to or from standard input and output, or an echo.
 *
 *	guest-vsock connect PORT	to the host; input is sent, then what comes is printed
 *	guest-vsock listen PORT		one connection, the same
 *	guest-vsock echo PORT N		N connections, each gets back what it sends, all at once */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <linux/vm_sockets.h>

static int fail(const char *what)
{
	fprintf(stderr, "vsock: %s: %s\n", what, strerror(errno));
	return 1;
}

static int write_all(int fd, const char *p, ssize_t n)
{
	while (n > 0) {
		ssize_t r = write(fd, p, (size_t)n);

		if (r < 0)
			return -1;
		p += r;
		n -= r;
	}
	return 0;
}

static int copy(int from, int to)
{
	static char buf[100000];
	ssize_t n;

	while ((n = read(from, buf, sizeof(buf))) > 0)
		if (write_all(to, buf, n) < 0)
			return -1;
	return (int)n;
}

static int echo(int s, int n)
{
	for (; n > 0; n--) {
		int fd = accept(s, NULL, NULL);

		if (fd < 0)
			return fail("accept");
		if (fork() == 0)
			_exit(copy(fd, fd) < 0);
		close(fd);
	}
	return 0;
}

int main(int argc, char **argv)
{
	struct sockaddr_vm a = {.svm_family = AF_VSOCK};
	int s, fd;

	if (argc < 3)
		return 2;
	a.svm_port = (unsigned)atoi(argv[2]);
	s = socket(AF_VSOCK, SOCK_STREAM, 0);
	if (s < 0)
		return fail("socket");
	if (!strcmp(argv[1], "connect")) {
		a.svm_cid = VMADDR_CID_HOST;
		if (connect(s, (struct sockaddr *)&a, sizeof(a)) < 0)
			return fail("connect");
		fd = s;
	} else {
		a.svm_cid = VMADDR_CID_ANY;
		if (bind(s, (struct sockaddr *)&a, sizeof(a)) < 0 || listen(s, 100) < 0)
			return fail("listen");
		if (argc > 3)
			return echo(s, atoi(argv[3]));
		fd = accept(s, NULL, NULL);
		if (fd < 0)
			return fail("accept");
	}
	if (copy(0, fd) < 0)
		return fail("sending");
	shutdown(fd, SHUT_WR);
	return copy(fd, 1) < 0 ? fail("receiving") : 0;
}
