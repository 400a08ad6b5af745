// SPDX-License-Identifier: MIT
/* Workloads that run unchanged on the host and in guests: a static program. Each prints
 * "NAME NANOSECONDS CHECKSUM" for the best of a few rounds; the checksum must be the same
 * everywhere.
 *
 * usage: bench-guest [SCALE]	scale 1.0 is meant for a fast machine, emulators get less work */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

typedef uint64_t u64;
typedef uint32_t u32;
typedef uint8_t u8;

static double scale = 1.0;

static u64 now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (u64)ts.tv_sec * 1000000000u + (u64)ts.tv_nsec;
}

static u64 times(u64 n)
{
	u64 k = (u64)((double)n * scale);

	return k ? k : 1;
}

/* Exactly 8 instructions a turn: gives instructions per second. */
#define LOOP_TURNS 100000000ull
static u64 intloop(void)
{
	u64 n = times(LOOP_TURNS), a = 1, b = 2, d = 3;

	__asm__ volatile("1: add %[b], %[a]\n"
	                 "xor %[a], %[d]\n"
	                 "lea 1(%[d],%[b]), %[b]\n"
	                 "shr $1, %[b]\n"
	                 "and $0xffff, %[d]\n"
	                 "sub $3, %[a]\n"
	                 "dec %[n]\n"
	                 "jnz 1b"
	                 : [a] "+r"(a), [b] "+r"(b), [d] "+r"(d), [n] "+r"(n)
	                 :
	                 : "cc");
	return a ^ b ^ d;
}

/* ---- sha256 of a buffer ---- */

static const u32 sha_k[64] = {
	0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4,
	0xab1c5ed5, 0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe,
	0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f,
	0x4a7484aa, 0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7,
	0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967, 0x27b70a85, 0x2e1b2138, 0x4d2c6dfc,
	0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85, 0xa2bfe8a1, 0xa81a664b,
	0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116,
	0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
	0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7,
	0xc67178f2};

static u32 ror(u32 x, int n)
{
	return x >> n | x << (32 - n);
}

static void sha_block(u32 h[8], const u8 *p)
{
	u32 w[64], s[8];

	for (int i = 0; i < 16; i++)
		w[i] = (u32)p[4 * i] << 24 | (u32)p[4 * i + 1] << 16 | (u32)p[4 * i + 2] << 8 |
		       p[4 * i + 3];
	for (int i = 16; i < 64; i++)
		w[i] = w[i - 16] + (ror(w[i - 15], 7) ^ ror(w[i - 15], 18) ^ w[i - 15] >> 3) +
		       w[i - 7] + (ror(w[i - 2], 17) ^ ror(w[i - 2], 19) ^ w[i - 2] >> 10);
	memcpy(s, h, sizeof(s));
	for (int i = 0; i < 64; i++) {
		u32 t1 = s[7] + (ror(s[4], 6) ^ ror(s[4], 11) ^ ror(s[4], 25)) +
		         ((s[4] & s[5]) ^ (~s[4] & s[6])) + sha_k[i] + w[i];
		u32 t2 = (ror(s[0], 2) ^ ror(s[0], 13) ^ ror(s[0], 22)) +
		         ((s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]));

		memmove(s + 1, s, 7 * sizeof(s[0]));
		s[4] += t1;
		s[0] = t1 + t2;
	}
	for (int i = 0; i < 8; i++)
		h[i] += s[i];
}

static u64 sha256(void)
{
	u32 h[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
	            0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
	u8 block[64];

	for (u64 i = 0, n = times(200000); i < n; i++) {
		memset(block, (int)i, sizeof(block));
		sha_block(h, block);
	}
	return (u64)h[0] << 32 | h[7];
}

/* ---- sort and a binary tree ---- */

static u64 seed;
static u64 rnd(void)
{
	seed = seed * 6364136223846793005ull + 1442695040888963407ull;
	return seed >> 33;
}

static int cmp(const void *a, const void *b)
{
	u32 x = *(const u32 *)a, y = *(const u32 *)b;

	return x < y ? -1 : x > y;
}

struct node {
	struct node *l, *r;
	u32 key;
};

static u64 tree_qsort(void)
{
	u64 n = times(200000), sum = 0;
	u32 *v = malloc(n * sizeof(*v));
	struct node *pool = calloc(n, sizeof(*pool)), *root = NULL;

	seed = 42;
	for (u64 i = 0; i < n; i++)
		v[i] = (u32)rnd();
	for (u64 i = 0; i < n; i++) {
		struct node **p = &root;

		while (*p)
			p = v[i] < (*p)->key ? &(*p)->l : &(*p)->r;
		*p = &pool[i];
		pool[i].key = v[i];
	}
	qsort(v, n, sizeof(*v), cmp);
	for (u64 i = 0; i < n; i++)
		sum = sum * 31 + v[i];
	free(pool);
	free(v);
	return sum;
}

/* ---- double matrix product ---- */

static u64 matmul(void)
{
	enum { N = 120 };
	static double a[N][N], b[N][N], c[N][N];
	u64 rounds = times(60), bits;

	for (int i = 0; i < N; i++)
		for (int j = 0; j < N; j++) {
			a[i][j] = i + j * 0.5;
			b[i][j] = i - j * 0.25;
			c[i][j] = 0;
		}
	while (rounds--)
		for (int i = 0; i < N; i++)
			for (int j = 0; j < N; j++) {
				double s = 0;

				for (int k = 0; k < N; k++)
					s += a[i][k] * b[k][j];
				c[i][j] = c[i][j] * 0.5 + s;
			}
	memcpy(&bits, &c[N - 1][N / 2], 8);
	return bits;
}

/* ---- a bytecode interpreter's loop ---- */

static u64 bytecode(void)
{
	static const u8 code[] = {0, 1, 2, 3, 1, 4, 0, 2, 5, 3, 6};
	u64 a = 1, b = 7, n = times(10000000);

	for (u64 i = 0; i < n; i++) {
		switch (code[i % sizeof(code)]) {
		case 0:
			a += b;
			break;
		case 1:
			b ^= a >> 3;
			break;
		case 2:
			a = a << 1 | a >> 63;
			break;
		case 3:
			b += i;
			break;
		case 4:
			a -= b & 0xff;
			break;
		case 5:
			if (a & 1)
				b++;
			break;
		default:
			a ^= b;
		}
	}
	return a ^ b;
}

/* ---- string functions ---- */

static u64 strings(void)
{
	static char s[4096], d[4096];
	u64 sum = 0;

	for (unsigned i = 0; i < sizeof(s) - 1; i++)
		s[i] = (char)('a' + i % 26);
	for (u64 i = 0, n = times(100000); i < n; i++) {
		s[i % 4000] = 'x';
		strcpy(d, s);
		sum += strlen(d) + (u64)(strchr(d, 'z') - d) + (u64)!memcmp(s, d, 4096);
	}
	return sum;
}

/* ---- recursive calls ---- */

static __attribute__((noinline)) u64 fib(unsigned n)
{
	return n < 2 ? n : fib(n - 1) + fib(n - 2);
}

static u64 recursion(void)
{
	u64 sum = 0;

	for (u64 i = 0, n = times(200); i < n; i++)
		sum += fib(22);
	return sum;
}

/* ---- the system: calls, processes, page faults ---- */

static u64 getpid_loop(void)
{
	for (u64 i = 0, n = times(500000); i < n; i++)
		getppid(); /* not cached by libc */
	return 0;
}

static u64 fork_wait(void)
{
	for (u64 i = 0, n = times(300); i < n; i++) {
		pid_t p = fork();

		if (!p)
			_exit(0);
		waitpid(p, NULL, 0);
	}
	return 0;
}

static u64 mmap_touch(void)
{
	for (u64 i = 0, n = times(100); i < n; i++) {
		size_t len = 64 * 4096;
		volatile char *p =
			mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		for (size_t k = 0; k < len; k += 4096)
			p[k] = 1;
		munmap((void *)p, len);
	}
	return 0;
}

static u64 pipe_pingpong(void)
{
	int a[2], b[2];
	char c = 0;
	u64 n = times(5000);
	pid_t p;

	if (pipe(a) || pipe(b))
		return 1;
	p = fork();
	if (!p) {
		for (u64 i = 0; i < n; i++)
			if (read(a[0], &c, 1) != 1 || write(b[1], &c, 1) != 1)
				_exit(1);
		_exit(0);
	}
	for (u64 i = 0; i < n; i++)
		if (write(a[1], &c, 1) != 1 || read(b[0], &c, 1) != 1)
			return 2;
	waitpid(p, NULL, 0);
	close(a[0]), close(a[1]), close(b[0]), close(b[1]);
	return 0;
}

static const struct {
	const char *name;
	u64 (*fn)(void);
} work[] = {
	{"intloop", intloop},       {"sha256", sha256},      {"tree+qsort", tree_qsort},
	{"matmul", matmul},         {"bytecode", bytecode},  {"strings", strings},
	{"recursion", recursion},   {"getpid", getpid_loop}, {"fork+wait", fork_wait},
	{"mmap+touch", mmap_touch}, {"pipe", pipe_pingpong},
};

int main(int argc, char **argv)
{
	if (argc > 1)
		scale = atof(argv[1]);
	for (unsigned i = 0; i < sizeof(work) / sizeof(work[0]); i++) {
		u64 best = ~0ull, sum = 0;

		for (int round = 0; round < 3; round++) {
			u64 t = now();

			sum = work[i].fn();
			t = now() - t;
			if (t < best)
				best = t;
		}
		printf("bench %s %llu %llx\n", work[i].name, (unsigned long long)best,
		       (unsigned long long)sum);
		fflush(stdout);
	}
	printf("bench intloop-instructions %llu 0\n", (unsigned long long)(8 * times(LOOP_TURNS)));
	return 0;
}
