/* SPDX-License-Identifier: MIT */
/* Code that is written while it runs: by itself, by another thread, under another address, by a
 * read from a file; in pages that are writable, and in those that change their rights. */
#define _GNU_SOURCE
#include "check.h"
#include <emmintrin.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

typedef long fn(long);

#define RWX (PROT_READ | PROT_WRITE | PROT_EXEC)

static unsigned char *pages(int n, int prot)
{
	void *p = mmap(NULL, n * 4096, prot, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED) {
		perror("mmap");
		exit(1);
	}
	return p;
}

/* lea k(%rdi), %rax; ret */
static int add_code(unsigned char *p, int k)
{
	const unsigned char code[] = {0x48, 0x8d, 0x87, k, k >> 8, k >> 16, k >> 24, 0xc3};
	memcpy(p, code, sizeof(code));
	return sizeof(code);
}

static void immediate(void)
{
	unsigned char *p = pages(1, RWX);
	long wrong = 0;
	for (int i = 0; i < 3000; i++) {
		add_code(p, i);
		wrong += ((fn *)p)(1000) != 1000 + i;
	}
	for (int i = 0; i < 3000; i++) { /* only the displacement */
		memcpy(p + 3, &i, 4);
		wrong += ((fn *)p)(1) != 1 + i;
	}
	for (int i = 0; i < 3000; i++) { /* only one byte */
		p[3] = i;
		wrong += (((fn *)p)(0) & 0xff) != (i & 0xff);
	}
	CHECK(!wrong, "%ld wrong results", wrong);
	munmap(p, 4096);
}

/* A block that patches the instruction after next, in the same block. */
static void within(void)
{
	unsigned char *p = pages(1, RWX);
	static const unsigned char code[] = {0x40, 0x88, 0x3d, 0x01, 0x00,
	                                     0x00, 0x00, /* mov %dil, 1(%rip): over the byte 0x11 */
	                                     0xb8, 0x11, 0x00, 0x00, 0x00, /* mov $0x11, %eax */
	                                     0xc3};
	memcpy(p, code, sizeof(code));
	long wrong = 0;
	for (int i = 0; i < 1000; i++) {
		wrong += ((fn *)p)(i & 0xff) != (i & 0xff);
	}
	CHECK(!wrong, "%ld wrong results", wrong);
	/* A loop that counts its own immediate up. */
	static const unsigned char loop[] = {0x31, 0xc0,       /* xor %eax, %eax */
	                                     0x83, 0xc0, 0x00, /* 2: add $0, %eax */
	                                     0xfe, 0x05, 0xf9,
	                                     0xff, 0xff, 0xff, /* incb -7(%rip): the 0 above */
	                                     0x48, 0xff, 0xcf, /* dec %rdi */
	                                     0x75, 0xf2,       /* jnz 2 */
	                                     0xc3};
	memcpy(p, loop, sizeof(loop));
	long got = ((fn *)p)(100);
	CHECK(got == 99 * 100 / 2, "%ld", got);
	munmap(p, 4096);
}

static void rights(void)
{
	unsigned char *p = pages(4, PROT_READ | PROT_WRITE);
	long wrong = 0;
	for (int i = 0; i < 300; i++) {
		mprotect(p, 4 * 4096, PROT_READ | PROT_WRITE);
		for (int k = 0; k < 4; k++) {
			add_code(p + 4096 * k + 4090, i + k); /* over the edge, but for the last */
			add_code(p + 4096 * k, i * k);
		}
		mprotect(p, 4 * 4096, PROT_READ | PROT_EXEC);
		for (int k = 0; k < 3; k++) {
			wrong += ((fn *)(p + 4096 * k))(5) != 5 + i * k;
		}
	}
	CHECK(!wrong, "%ld wrong results", wrong);
	munmap(p, 4 * 4096);
	/* The same address, another mapping. */
	for (int i = 0; i < 300; i++) {
		unsigned char *q =
			mmap(p, 4096, RWX, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
		add_code(q, 7 * i);
		wrong += ((fn *)q)(1) != 1 + 7 * i;
		munmap(q, 4096);
	}
	CHECK(!wrong, "%ld wrong results after a new mapping", wrong);
}

/* An instruction across two pages, of which the second changes alone. */
static void edge(void)
{
	unsigned char *p = pages(2, RWX);
	long wrong = 0;
	for (int at = 4096 - 8; at <= 4096; at++) {
		add_code(p + at, 0);
		for (int i = 1; i < 100; i++) {
			int k = i * 0x01010101;
			memcpy(p + at + 3, &k, 4);
			wrong += ((fn *)(p + at))(0) != k;
			p[at + 6] = i ^ 3;
			wrong += ((fn *)(p + at))(0) !=
			         ((k & 0xffffff) | (int)((unsigned)(i ^ 3) << 24));
		}
	}
	CHECK(!wrong, "%ld wrong results", wrong);
	munmap(p, 8192);
}

/* Written under one address, executed under another; and written by the kernel. */
static void aliases(void)
{
	int fd = memfd_create("code", 0);
	if (ftruncate(fd, 8192)) {
		perror("ftruncate");
		exit(1);
	}
	unsigned char *w = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	unsigned char *x = mmap(NULL, 8192, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
	unsigned char *y = mmap(NULL, 8192, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
	long wrong = 0;
	for (int i = 0; i < 1000; i++) {
		add_code(w + 64, i);
		wrong += ((fn *)(x + 64))(1) != 1 + i;
		wrong += ((fn *)(y + 64))(2) != 2 + i;
	}
	CHECK(!wrong, "%ld wrong results by the alias", wrong);
	for (int i = 0; i < 300; i++) {
		unsigned char code[16];
		int size = add_code(code, 3 * i);
		if (pwrite(fd, code, size, 64) != size) {
			perror("pwrite");
			exit(1);
		}
		wrong += ((fn *)(x + 64))(1) != 1 + 3 * i;
	}
	CHECK(!wrong, "%ld wrong results by pwrite", wrong);
	/* REP STOS and MOVS into code. */
	for (int i = 1; i < 100; i++) {
		unsigned char code[8];
		add_code(code, i);
		void *di = w + 64, *si = code;
		unsigned long n = 8;
		asm volatile("rep movsb" : "+D"(di), "+S"(si), "+c"(n)::"memory");
		wrong += ((fn *)(x + 64))(0) != i;
		di = w + 67;
		n = 4;
		asm volatile("rep stosb" : "+D"(di), "+c"(n) : "a"(i) : "memory");
		wrong += ((fn *)(x + 64))(0) != i * 0x01010101;
		__m128i_u *v = (void *)(w + 64);
		*v = *v; /* a vector store of the same bytes */
		wrong += ((fn *)(x + 64))(0) != i * 0x01010101;
	}
	CHECK(!wrong, "%ld wrong results by strings", wrong);
	close(fd);
}

static void forked(void)
{
	unsigned char *p = pages(1, RWX);
	add_code(p, 1);
	long wrong = ((fn *)p)(0) != 1;
	for (int i = 0; i < 30; i++) {
		pid_t child = fork();
		if (!child) {
			wrong = ((fn *)p)(0) != 1 + (i > 0) * (i - 1 + 1);
			add_code(p, 99); /* its own copy */
			_exit(wrong || ((fn *)p)(0) != 99);
		}
		int status;
		waitpid(child, &status, 0);
		wrong += status != 0;
		wrong += ((fn *)p)(0) != (i ? i + 1 : 1);
		add_code(p, i + 2);
	}
	CHECK(!wrong, "%ld wrong results over fork", wrong);
	munmap(p, 4096);
}

/* One thread patches an aligned displacement, others call: every result is an old or a new one. */
static unsigned char *shared;
static volatile int top, done;

static void *caller(void *arg)
{
	long wrong = 0, last = 0;
	(void)arg;
	while (!done) {
		long low = last, got = ((fn *)shared)(0), high = top;
		/* A result that was seen does not go back, and is none of the future. */
		wrong += got < low || got > high;
		last = got > last ? got : last;
	}
	return (void *)wrong;
}

static void crossed(void)
{
	pthread_t t[3];
	shared = pages(1, RWX);
	memset(shared, 0x90, 64);
	unsigned char *code = shared + 5; /* the displacement at 8: in one line, aligned */
	add_code(code, 0);
	for (int i = 0; i < 3; i++) {
		pthread_create(&t[i], NULL, caller, NULL);
	}
	for (int i = 1; i <= 2000; i++) {
		top = i;
		__atomic_store_n((int *)(code + 3), i, __ATOMIC_RELEASE);
		/* A serializing instruction, before this processor runs it. */
		unsigned a = 0, b, c, d;
		asm volatile("cpuid" : "+a"(a), "=b"(b), "=c"(c), "=d"(d)::"memory");
		long got = ((fn *)shared)(0);
		CHECK(got == i, "%ld, not %d", got, i);
		if (i % 64 == 0) {
			sched_yield();
		}
	}
	done = 1;
	long wrong = 0;
	for (int i = 0; i < 3; i++) {
		void *each;
		pthread_join(t[i], &each);
		wrong += (long)each;
	}
	CHECK(!wrong, "%ld wrong results in other threads", wrong);
}

/* Much code: more than a translator keeps. Every function is called again after all the others. */
static void much(void)
{
	enum { PAGES = 512 };
	unsigned char *p = pages(PAGES, RWX);
	long wrong = 0;
	for (int at = 0; at + 16 <= PAGES * 4096; at += 16) {
		add_code(p + at, at);
	}
	for (int round = 0; round < 2; round++) {
		for (int at = 0; at + 16 <= PAGES * 4096; at += 16) {
			wrong += ((fn *)(p + at))(round) != at + round;
		}
	}
	CHECK(!wrong, "%ld wrong results", wrong);
	munmap(p, PAGES * 4096);
}

int main(void)
{
	immediate();
	within();
	rights();
	edge();
	aliases();
	forked();
	crossed();
	much();
	return check_end();
}
