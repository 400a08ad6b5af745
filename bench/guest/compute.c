// SPDX-License-Identifier: MIT
/* User code without system calls: hashing, compression, pointers, doubles, an interpreter, calls.
 */
#include <stdlib.h>
#include <string.h>

#include "bench.h"

/* ---- SHA-256 (FIPS 180-4) of 128 KiB ---- */

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

#define SHA_BYTES (128 << 10)
static u8 sha_data[SHA_BYTES];

static inline u32 ror(u32 x, int n)
{
	return x >> n | x << (32 - n);
}

static void sha_block(u32 h[8], const u8 *p)
{
	u32 w[64], a = h[0], b = h[1], c = h[2], d = h[3], e = h[4], f = h[5], g = h[6], i = h[7];

	for (int t = 0; t < 16; t++)
		w[t] = (u32)p[4 * t] << 24 | (u32)p[4 * t + 1] << 16 | (u32)p[4 * t + 2] << 8 |
		       p[4 * t + 3];
	for (int t = 16; t < 64; t++)
		w[t] = w[t - 16] + (ror(w[t - 15], 7) ^ ror(w[t - 15], 18) ^ w[t - 15] >> 3) +
		       w[t - 7] + (ror(w[t - 2], 17) ^ ror(w[t - 2], 19) ^ w[t - 2] >> 10);
	for (int t = 0; t < 64; t++) {
		u32 t1 = i + (ror(e, 6) ^ ror(e, 11) ^ ror(e, 25)) + ((e & f) ^ (~e & g)) +
		         sha_k[t] + w[t];
		u32 t2 = (ror(a, 2) ^ ror(a, 13) ^ ror(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));

		i = g, g = f, f = e, e = d + t1;
		d = c, c = b, b = a, a = t1 + t2;
	}
	h[0] += a, h[1] += b, h[2] += c, h[3] += d;
	h[4] += e, h[5] += f, h[6] += g, h[7] += i;
}

static void sha_setup(void)
{
	u64 seed = 1;

	for (size_t i = 0; i < SHA_BYTES; i++)
		sha_data[i] = (u8)bench_random(&seed);
}

static u64 sha256(void)
{
	u32 h[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
	            0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};

	for (size_t i = 0; i < SHA_BYTES; i += 64)
		sha_block(h, sha_data + i);
	return (u64)h[0] << 32 | h[7];
}

/* ---- LZ77 with a hash table and byte-aligned output, as LZ4 does it ---- */

enum { LZ_BYTES = 128 << 10, LZ_HASH = 1 << 14, LZ_MIN = 4 };
static u8 lz_in[LZ_BYTES], lz_out[LZ_BYTES + LZ_BYTES / 128 + 64], lz_back[LZ_BYTES];
static u32 lz_table[LZ_HASH];

static u32 load32(const u8 *p)
{
	u32 v;

	memcpy(&v, p, 4);
	return v;
}

/* A length as LZ4 has it: 4 bits in the token, then bytes of 255. */
static u8 *lz_length(u8 *o, size_t n)
{
	if (n < 15)
		return o;
	for (n -= 15; n >= 255; n -= 255)
		*o++ = 255;
	*o++ = (u8)n;
	return o;
}

static u8 *lz_sequence(u8 *o, const u8 *lit, size_t lits, size_t match, size_t offset)
{
	size_t m = match ? match - LZ_MIN : 0;

	*o++ = (u8)((lits < 15 ? lits : 15) << 4 | (m < 15 ? m : 15));
	o = lz_length(o, lits);
	memcpy(o, lit, lits);
	o += lits;
	if (!match)
		return o;
	*o++ = (u8)offset;
	*o++ = (u8)(offset >> 8);
	return lz_length(o, m);
}

static size_t lz_compress(u8 *out, const u8 *in, size_t n)
{
	u8 *o = out;
	size_t at = 0, lit = 0;

	memset(lz_table, 0xff, sizeof(lz_table));
	while (at + LZ_MIN + 8 < n) {
		u32 v = load32(in + at), slot = v * 2654435761u >> 18, cand = lz_table[slot];
		size_t len = LZ_MIN;

		lz_table[slot] = (u32)at;
		if (cand == ~0u || at - cand > 0xffff || load32(in + cand) != v) {
			at++;
			continue;
		}
		while (at + len < n - 8 && in[cand + len] == in[at + len])
			len++;
		o = lz_sequence(o, in + lit, at - lit, len, at - cand);
		at += len;
		lit = at;
	}
	return (size_t)(lz_sequence(o, in + lit, n - lit, 0, 0) - out);
}

static size_t lz_decompress(u8 *out, const u8 *in, size_t n)
{
	const u8 *end = in + n;
	u8 *o = out;

	while (in < end) {
		size_t lits = *in >> 4, m = *in++ & 15, offset;

		for (u8 more = lits == 15 ? 255 : 0; more == 255; lits += more)
			more = *in++;
		memcpy(o, in, lits);
		o += lits;
		in += lits;
		if (in >= end)
			break;
		offset = in[0] | (size_t)in[1] << 8;
		in += 2;
		for (u8 more = m == 15 ? 255 : 0; more == 255; m += more)
			more = *in++;
		for (m += LZ_MIN; m; m--, o++)
			*o = o[-(ptrdiff_t)offset];
	}
	return (size_t)(o - out);
}

static void lz_setup(void)
{
	u64 seed = 3;

	bench_text((char *)lz_in, LZ_BYTES, 2);
	/* A quarter of it does not compress. */
	for (size_t i = 0; i < LZ_BYTES / 4; i++)
		lz_in[LZ_BYTES / 2 + i] = (u8)bench_random(&seed);
}

static u64 lz77(void)
{
	size_t n = lz_compress(lz_out, lz_in, LZ_BYTES);
	u64 sum = n;

	if (lz_decompress(lz_back, lz_out, n) != LZ_BYTES || memcmp(lz_in, lz_back, LZ_BYTES))
		bench_fail("what was decompressed differs");
	for (size_t i = 0; i < n; i += 64)
		sum = bench_mix(sum, lz_out[i]);
	return sum;
}

/* ---- a binary tree and qsort ---- */

enum { KEYS = 4000 };
struct node {
	struct node *l, *r;
	u32 key, count;
};
static struct node pool[KEYS];
static u32 keys[KEYS], sorted[KEYS];

static int compare(const void *a, const void *b)
{
	u32 x = *(const u32 *)a, y = *(const u32 *)b;

	return x < y ? -1 : x > y;
}

static void tree_setup(void)
{
	u64 seed = 42;

	for (unsigned i = 0; i < KEYS; i++)
		keys[i] = bench_random(&seed) % 100000;
}

static u64 walk(const struct node *n, u64 sum)
{
	if (!n)
		return sum;
	sum = walk(n->l, sum);
	return walk(n->r, bench_mix(sum, n->key + n->count));
}

static u64 tree_qsort(void)
{
	struct node *root = NULL;
	unsigned used = 0;
	u64 sum;

	for (unsigned i = 0; i < KEYS; i++) {
		struct node **p = &root;

		while (*p && (*p)->key != keys[i])
			p = keys[i] < (*p)->key ? &(*p)->l : &(*p)->r;
		if (!*p) {
			*p = &pool[used++];
			**p = (struct node){.key = keys[i]};
		}
		(*p)->count++;
	}
	sum = walk(root, used);
	memcpy(sorted, keys, sizeof(keys));
	qsort(sorted, KEYS, sizeof(sorted[0]), compare);
	for (unsigned i = 0; i < KEYS; i += 16)
		sum = bench_mix(sum, sorted[i]);
	return sum;
}

/* ---- product of matrices of doubles ---- */

enum { N = 96 };
static double ma[N][N], mb[N][N], mc[N][N];

static void matmul_setup(void)
{
	for (int i = 0; i < N; i++)
		for (int j = 0; j < N; j++) {
			ma[i][j] = i + j * 0.5;
			mb[i][j] = (i - j) * 0.25;
		}
}

static u64 matmul(void)
{
	u64 sum = 0, bits;

	/* In the order that caches like. */
	memset(mc, 0, sizeof(mc));
	for (int i = 0; i < N; i++)
		for (int k = 0; k < N; k++) {
			double a = ma[i][k];

			for (int j = 0; j < N; j++)
				mc[i][j] += a * mb[k][j];
		}
	for (int i = 0; i < N; i++) {
		memcpy(&bits, &mc[i][N - 1 - i], 8);
		sum = bench_mix(sum, bits);
	}
	return sum;
}

/* ---- the loop of a bytecode interpreter ---- */

enum op { LI, MOV, ADD, ADDI, MULI, SHR, ANDI, LD, ST, JZ, JNZ, JLT, JMP, END };
struct insn {
	u8 op, a, b;
	int32_t imm;
};

enum { VM_MEM = 4096 };
static u32 vm_mem[VM_MEM];

/* Counts the steps of the Collatz sequences of 1, 8, 15, ... into r5, then the primes below VM_MEM
 * into r6. The numbers are the indices of the instructions that jumps go to. */
static const struct insn vm_code[] = {
	/* 0 */ {LI, 0, 0, VM_MEM},
	{LI, 1, 0, 1},
	{LI, 5, 0, 0},
	/* 3 */ {MOV, 2, 1, 0},
	/* 4 */ {ADDI, 3, 2, -1},
	{JZ, 3, 0, 14},
	{ADDI, 5, 5, 1},
	{ANDI, 3, 2, 1},
	{JZ, 3, 0, 12},
	/* 9 */ {MULI, 2, 2, 3},
	{ADDI, 2, 2, 1},
	{JMP, 0, 0, 4},
	/* 12 */ {SHR, 2, 2, 1},
	{JMP, 0, 0, 4},
	/* 14 */ {ADDI, 1, 1, 7},
	{JLT, 1, 0, 3},
	{LI, 1, 0, 0},
	{LI, 2, 0, 0},
	/* 18 */ {ST, 2, 1, 0},
	{ADDI, 1, 1, 1},
	{JLT, 1, 0, 18},
	/* 21 */ {LI, 1, 0, 2},
	{LI, 6, 0, 0},
	{LI, 4, 0, 1},
	/* 24 */ {LD, 2, 1, 0},
	{JNZ, 2, 0, 34},
	{ADDI, 6, 6, 1},
	{MOV, 3, 1, 0},
	{ADD, 3, 1, 0},
	/* 29 */ {JLT, 3, 0, 31},
	{JMP, 0, 0, 34},
	/* 31 */ {ST, 4, 3, 0},
	{ADD, 3, 1, 0},
	{JMP, 0, 0, 29},
	/* 34 */ {ADDI, 1, 1, 1},
	{JLT, 1, 0, 24},
	{END, 0, 0, 0},
};

static u64 bytecode(void)
{
	u32 r[8] = {0};
	u64 count = 0;

	for (const struct insn *p = vm_code;; count++) {
		const struct insn *i = p++;

		switch ((enum op)i->op) {
		case LI:
			r[i->a] = (u32)i->imm;
			break;
		case MOV:
			r[i->a] = r[i->b];
			break;
		case ADD:
			r[i->a] += r[i->b];
			break;
		case ADDI:
			r[i->a] = r[i->b] + (u32)i->imm;
			break;
		case MULI:
			r[i->a] = r[i->b] * (u32)i->imm;
			break;
		case SHR:
			r[i->a] = r[i->b] >> i->imm;
			break;
		case ANDI:
			r[i->a] = r[i->b] & (u32)i->imm;
			break;
		case LD:
			r[i->a] = vm_mem[r[i->b] % VM_MEM];
			break;
		case ST:
			vm_mem[r[i->b] % VM_MEM] = r[i->a];
			break;
		case JZ:
			p = r[i->a] ? p : vm_code + i->imm;
			break;
		case JNZ:
			p = r[i->a] ? vm_code + i->imm : p;
			break;
		case JLT:
			p = r[i->a] < r[i->b] ? vm_code + i->imm : p;
			break;
		case JMP:
			p = vm_code + i->imm;
			break;
		case END:
			if (r[6] != 564) /* primes below 4096 */
				bench_fail("%u primes", r[6]);
			return bench_mix(count, r[5]);
		}
	}
}

/* ---- recursive calls ---- */

static __attribute__((noinline, noipa)) u64 fib(unsigned n)
{
	return n < 2 ? n : fib(n - 1) + fib(n - 2);
}

static __attribute__((noinline, noipa)) u64 ackermann(u64 m, u64 n)
{
	if (!m)
		return n + 1;
	return ackermann(m - 1, n ? ackermann(m, n - 1) : 1);
}

static u64 recursion(void)
{
	return bench_mix(fib(23), ackermann(2, 100) + ackermann(3, 4));
}

const struct workload compute_work[] = {
	{"sha256", sha_setup, sha256, 350, 1},
	{"lz77", lz_setup, lz77, 300, 1},
	{"tree+qsort", tree_setup, tree_qsort, 450, 1},
	{"matmul", matmul_setup, matmul, 1500, 1},
	{"bytecode", NULL, bytecode, 300, 1},
	{"recursion", NULL, recursion, 700, 1},
	{0},
};
