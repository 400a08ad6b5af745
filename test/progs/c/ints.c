/* SPDX-License-Identifier: MIT */
/* Integer arithmetic of every width, with the results of the compiler that computes them in its own
 * head (constants), by other means (shift and add), and as checksums. */
#include "check.h"
#include <limits.h>

typedef unsigned __int128 u128;

static uint64_t slow_mul_high(uint64_t a, uint64_t b)
{
	uint64_t al = (uint32_t)a, ah = a >> 32, bl = (uint32_t)b, bh = b >> 32;
	uint64_t mid = ah * bl + (al * bl >> 32);
	uint64_t mid2 = al * bh + (uint32_t)mid;
	return ah * bh + (mid >> 32) + (mid2 >> 32);
}

static uint64_t slow_div(uint64_t hi, uint64_t lo, uint64_t d, uint64_t *rem)
{
	uint64_t q = 0;
	for (int i = 0; i < 64; i++) {
		uint64_t top = hi >> 63;
		hi = hi << 1 | lo >> 63;
		lo <<= 1;
		q <<= 1;
		if (top || hi >= d) {
			hi -= d;
			q |= 1;
		}
	}
	*rem = hi;
	return q;
}

static unsigned slow_popcount(uint64_t x)
{
	unsigned n = 0;
	for (; x; x &= x - 1) {
		n++;
	}
	return n;
}

static void wide(uint64_t *seed)
{
	for (int i = 0; i < 2000; i++) {
		uint64_t a = check_random(seed), b = check_random(seed) >> (i % 64),
			 c = check_random(seed);
		u128 p = (u128)a * b;
		CHECK((uint64_t)(p >> 64) == slow_mul_high(a, b), "%llx * %llx", (long long)a,
		      (long long)b);
		if (b) {
			uint64_t hi = c % b, rem;
			uint64_t q = slow_div(hi, a, b, &rem);
			u128 n = (u128)hi << 64 | a;
			CHECK((uint64_t)(n / b) == q && (uint64_t)(n % b) == rem,
			      "%llx:%llx / %llx", (long long)hi, (long long)a, (long long)b);
		}
	}
}

static void bits(uint64_t *seed)
{
	for (int i = 0; i < 1000; i++) {
		uint64_t a = check_random(seed) >> (i % 64);
		unsigned n = 0, m = 0, s = i % 63 + 1;
		if (!a) {
			continue;
		}
		while (!(a >> n & 1)) {
			n++;
		}
		while (!(a >> (63 - m) & 1)) {
			m++;
		}
		CHECK((unsigned)__builtin_ctzll(a) == n, "ctz %llx", (long long)a);
		CHECK((unsigned)__builtin_clzll(a) == m, "clz %llx", (long long)a);
		CHECK((unsigned)__builtin_popcountll(a) == slow_popcount(a), "popcount %llx",
		      (long long)a);
		CHECK(__builtin_bswap64(__builtin_bswap64(a)) == a, "bswap %llx", (long long)a);
		CHECK((a << s | a >> (64 - s)) == (a >> (64 - s)) + (a << s), "rotate %llx",
		      (long long)a);
		CHECK(((int64_t)a >> s) ==
		              (int64_t)(a >> s | ((int64_t)a < 0 ? ~0ull << (64 - s) : 0)),
		      "sar %llx", (long long)a);
	}
}

#define OVERFLOWS(type, wide_type, lo, hi)                                                         \
	do {                                                                                       \
		type a = (type)check_random(seed), b = (type)check_random(seed), r;                \
		wide_type w = (wide_type)a + b;                                                    \
		CHECK(__builtin_add_overflow(a, b, &r) == (w < (lo) || w > (hi)), "add");          \
		w = (wide_type)a - b;                                                              \
		CHECK(__builtin_sub_overflow(a, b, &r) == (w < (lo) || w > (hi)), "sub");          \
		w = (wide_type)a * b;                                                              \
		CHECK(__builtin_mul_overflow(a, b, &r) == (w < (lo) || w > (hi)), "mul");          \
	} while (0)

static void overflows(uint64_t *seed)
{
	for (int i = 0; i < 300; i++) {
		OVERFLOWS(signed char, int, SCHAR_MIN, SCHAR_MAX);
		OVERFLOWS(short, int, SHRT_MIN, SHRT_MAX);
		OVERFLOWS(int, long long, INT_MIN, INT_MAX);
		OVERFLOWS(long, __int128, LONG_MIN, LONG_MAX);
		OVERFLOWS(unsigned char, int, 0, UCHAR_MAX);
		OVERFLOWS(unsigned short, long long, 0, USHRT_MAX);
		OVERFLOWS(unsigned, __int128, 0, UINT_MAX);
	}
}

/* Flags through every consumer: setcc, cmovcc, jcc, adc/sbb chains of 256 bits. */
static uint64_t chains(uint64_t *seed)
{
	uint64_t h = CHECK_HASH_START, a[4], b[4], c[4], d[4];
	for (int i = 0; i < 1000; i++) {
		for (int k = 0; k < 4; k++) {
			a[k] = check_random(seed);
			b[k] = i & 1 ? ~a[k] : check_random(seed);
		}
		unsigned char carry = i & 1;
		unsigned long long out;
		for (int k = 0; k < 4; k++) {
			carry = __builtin_ia32_addcarryx_u64(carry, a[k], b[k], &out);
			c[k] = out;
		}
		if (i & 1) { /* x + ~x + 1 = 0 and a carry */
			CHECK(carry && !(c[0] | c[1] | c[2] | c[3]), "adc chain");
		}
		carry = 0;
		for (int k = 0; k < 4; k++) {
			carry = __builtin_ia32_sbb_u64(carry, c[k], b[k], &out);
			d[k] = out;
		}
		if (!(i & 1)) {
			CHECK(!memcmp(a, d, sizeof(a)), "sbb chain");
		}
		h = check_hash(h, d, sizeof(d));
		h += (a[0] < b[0]) + 2 * ((int64_t)a[1] < (int64_t)b[1]) + 4 * (a[2] == b[2]) +
		     8 * ((int8_t)a[3] <= (int8_t)b[3]) + 16 * ((uint16_t)a[3] > (uint16_t)b[2]);
	}
	return h;
}

static void flag_bits(void)
{
	/* PUSHF, POPF, LAHF, SAHF and DF in user mode. */
	unsigned long f;
	asm volatile("std; pushfq; cld; popq %0" : "=r"(f)::"cc");
	CHECK(f & 1 << 10, "DF %lx", f);
	asm volatile("pushq $0x8d5; popfq; pushfq; popq %0; cld" : "=r"(f)::"cc", "memory");
	CHECK((f & 0xcd5) == 0x8d5, "popf %lx", f);
	CHECK(f & 1 << 9, "IF cannot be cleared: %lx", f);
	unsigned char ah;
	asm volatile("movb $0xd5, %%ah; sahf; lahf; movb %%ah, %%al; movb %%al, %0"
	             : "=m"(ah)::"rax", "cc");
	CHECK((ah & 0xd5) == 0xd5, "lahf %x", ah);
}

static void sorted(uint64_t *seed)
{
	enum { N = 20000 };
	static uint32_t v[N];
	uint64_t sum = 0, after = 0;
	for (int i = 0; i < N; i++) {
		sum += v[i] = check_random(seed);
	}
	for (int gap = N / 2; gap; gap /= 2) {
		for (int i = gap; i < N; i++) {
			uint32_t x = v[i];
			int j = i;
			for (; j >= gap && v[j - gap] > x; j -= gap) {
				v[j] = v[j - gap];
			}
			v[j] = x;
		}
	}
	int order = 1;
	for (int i = 0; i < N; i++) {
		after += v[i];
		order &= !i || v[i - 1] <= v[i];
	}
	CHECK(order && sum == after, "sort");
}

int main(void)
{
	uint64_t seed = 0x9e3779b97f4a7c15;
	wide(&seed);
	bits(&seed);
	overflows(&seed);
	uint64_t h = chains(&seed);
	CHECK(h == 0x51aadb6ef6e2b267, "checksum %#llx", (long long)h);
	flag_bits();
	sorted(&seed);
	return check_end();
}
