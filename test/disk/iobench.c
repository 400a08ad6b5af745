// SPDX-License-Identifier: MIT
/* Throughput of a disk, from inside a guest (or of a file, on the host): static, so that it runs in
 * an initramfs without anything else.
 *
 *   iobench DEVICE SECONDS		prints a line for each kind of access, past the guest's page
 * cache
 *
 * Random accesses are 4 KiB by 1 and by 8 threads, sequential ones 1 MiB by one thread, over the
 * first 128 MiB. It writes: the device's content is lost. */
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define SPAN (128ull << 20)

struct job {
	int fd, write, random;
	size_t len;
	double until;
	uint64_t seed, done;
};

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static void *work(void *arg)
{
	struct job *j = arg;
	uint64_t at = 0;
	void *buf = NULL;

	if (posix_memalign(&buf, 4096, j->len))
		exit(1);
	memset(buf, 0x5a, j->len);
	while (now() < j->until) {
		ssize_t n;

		if (j->random) {
			j->seed = j->seed * 6364136223846793005ull + 1442695040888963407ull;
			at = (j->seed >> 20) % (SPAN / j->len) * j->len;
		} else {
			at = (at + j->len) % SPAN;
		}
		n = j->write ? pwrite(j->fd, buf, j->len, (off_t)at)
		             : pread(j->fd, buf, j->len, (off_t)at);
		if (n != (ssize_t)j->len) {
			perror("iobench");
			exit(1);
		}
		j->done++;
	}
	free(buf);
	return NULL;
}

static void measure(const char *name, int fd, int write, int random, size_t len, int threads,
                    double s)
{
	struct job j[16];
	pthread_t t[16];
	double begin = now(), took;
	uint64_t ops = 0;

	for (int i = 0; i < threads; i++) {
		j[i] = (struct job){fd, write, random, len, begin + s, 12345 + (uint64_t)i * 77, 0};
		if (pthread_create(&t[i], NULL, work, &j[i]))
			exit(1);
	}
	for (int i = 0; i < threads; i++) {
		pthread_join(t[i], NULL);
		ops += j[i].done;
	}
	if (write)
		fdatasync(fd);
	took = now() - begin;
	printf("%-24s %8.0f IOPS %8.1f MB/s\n", name, (double)ops / took,
	       (double)ops * (double)len / took / 1e6);
	fflush(stdout);
}

int main(int argc, char **argv)
{
	double s = argc > 2 ? atof(argv[2]) : 3;
	int fd = argc > 1 ? open(argv[1], O_RDWR | O_DIRECT) : -1;

	if (fd < 0) {
		perror("iobench DEVICE SECONDS");
		return 1;
	}
	measure("sequential write 1M", fd, 1, 0, 1 << 20, 1, s);
	measure("sequential read 1M", fd, 0, 0, 1 << 20, 1, s);
	measure("random write 4k", fd, 1, 1, 4096, 1, s);
	measure("random read 4k", fd, 0, 1, 4096, 1, s);
	measure("random write 4k, 8 at once", fd, 1, 1, 4096, 8, s);
	measure("random read 4k, 8 at once", fd, 0, 1, 4096, 8, s);
	return 0;
}
