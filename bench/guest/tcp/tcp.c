// SPDX-License-Identifier: MIT
/* The ends of a TCP connection for bench/net, on the host and in guests: static, with buffers so
 *large that system calls are not what is measured (nc of busybox moves 1 KiB with each).
 *
 *	tcp give ADDRESS PORT SECONDS	connect, send zeros for that long
 *	tcp take ADDRESS PORT		connect, read to the end
 *	tcp listen PORT			take one connection, read to its end
 *
 * Who reads prints "net-first" with the first bytes and "net-end BYTES" at the end. Who gives waits
 * until the other side has it all: it closes its own end then. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static char buf[256 * 1024];

static int fail(const char *what)
{
	perror(what);
	return 1;
}

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static int take(int fd)
{
	unsigned long long total = 0;
	ssize_t n;

	while ((n = read(fd, buf, sizeof(buf))) > 0) {
		if (!total) {
			puts("net-first");
			fflush(stdout);
		}
		total += (unsigned long long)n;
	}
	printf("net-end %llu\n", total);
	fflush(stdout);
	return n < 0 ? fail("read") : 0;
}

static int give(int fd, double seconds)
{
	double end = now() + seconds;

	while (now() < end)
		if (write(fd, buf, sizeof(buf)) < 0)
			return fail("write");
	shutdown(fd, SHUT_WR);
	return read(fd, buf, sizeof(buf)) < 0 ? fail("read") : 0;
}

static int connected(const char *address, const char *port)
{
	struct sockaddr_in sin = {.sin_family = AF_INET,
	                          .sin_port = htons((unsigned short)atoi(port))};
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	if (inet_pton(AF_INET, address, &sin.sin_addr) == 1 &&
	    !connect(fd, (struct sockaddr *)&sin, sizeof(sin)))
		return fd;
	fail("connect");
	exit(1);
}

static int listens(const char *port)
{
	struct sockaddr_in sin = {.sin_family = AF_INET,
	                          .sin_port = htons((unsigned short)atoi(port))};
	int one = 1, fd = socket(AF_INET, SOCK_STREAM, 0);

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(fd, (struct sockaddr *)&sin, sizeof(sin)) || listen(fd, 1))
		return fail("listen");
	puts("net-listens");
	fflush(stdout);
	fd = accept(fd, NULL, NULL);
	return fd < 0 ? fail("accept") : take(fd);
}

int main(int argc, char **argv)
{
	if (argc == 3 && !strcmp(argv[1], "listen"))
		return listens(argv[2]);
	if (argc == 4 && !strcmp(argv[1], "take"))
		return take(connected(argv[2], argv[3]));
	if (argc == 5 && !strcmp(argv[1], "give"))
		return give(connected(argv[2], argv[3]), atof(argv[4]));
	fprintf(stderr, "usage: tcp give ADDRESS PORT SECONDS | take ADDRESS PORT | listen PORT\n");
	return 2;
}
