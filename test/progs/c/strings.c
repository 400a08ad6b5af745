/* SPDX-License-Identifier: MIT */
/* String instructions and the C library's string functions, over every alignment, across pages,
 * up to the edge of a page behind which there is nothing, forwards and backwards. */
#define _GNU_SOURCE
#include "check.h"
#include <sys/mman.h>

static unsigned char *area, *other; /* 2 pages each, then one that cannot be touched */

static unsigned char *guarded(void)
{
	unsigned char *p =
		mmap(NULL, 3 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	mprotect(p + 2 * 4096, 4096, PROT_NONE);
	return p;
}

static void fill(uint64_t *seed)
{
	for (int i = 0; i < 8192; i++) {
		area[i] = check_random(seed) | 1;
		other[i] = check_random(seed) | 1;
	}
}

#define REP(name, insn, unit)                                                                      \
	static void rep_##name(void)                                                               \
	{                                                                                          \
		static unsigned char want[8192];                                                   \
		for (int k = 0; k < 200; k++) {                                                    \
			unsigned long n = k * 5 % 97, from = 4096 - k * 3, to = 4096 - k * 2 + 7;  \
			void *si = area + from, *di = other + to;                                  \
			memcpy(want, other, 8192);                                                 \
			for (unsigned long i = 0; i < n * (unit); i++) {                           \
				want[to + i] = area[from + i];                                     \
			}                                                                          \
			unsigned long c = n;                                                       \
			asm volatile("rep " insn : "+S"(si), "+D"(di), "+c"(c)::"memory");         \
			CHECK(!c && si == area + from + n * (unit) &&                              \
			              di == other + to + n * (unit) && !memcmp(want, other, 8192), \
			      insn " %lu", n);                                                     \
			/* Backwards, from the end to the end of both. */                          \
			si = area + 8192 - (unit)-k;                                               \
			di = other + 8192 - (unit);                                                \
			c = n;                                                                     \
			asm volatile("std; rep " insn "; cld"                                      \
			             : "+S"(si), "+D"(di), "+c"(c)::"memory");                     \
			CHECK(!memcmp(other + 8192 - n * (unit), area + 8192 - k - n * (unit),     \
			              n * (unit)),                                                 \
			      "backwards " insn " %lu", n);                                        \
		}                                                                                  \
	}
REP(movsb, "movsb", 1)
REP(movsw, "movsw", 2)
REP(movsl, "movsl", 4)
REP(movsq, "movsq", 8)

static void overlapping(void)
{
	/* A forward copy by one byte repeats the first one; of 8 repeats eight. */
	unsigned char *p = area + 4000;
	void *si = p, *di = p + 1;
	unsigned long n = 300;
	p[0] = 0x42;
	asm volatile("rep movsb" : "+S"(si), "+D"(di), "+c"(n)::"memory");
	int good = 1;
	for (int i = 0; i < 301; i++) {
		good &= p[i] == 0x42;
	}
	CHECK(good, "by one");
	for (int i = 0; i < 8; i++) {
		p[i] = i;
	}
	si = p, di = p + 8, n = 40;
	asm volatile("rep movsq" : "+S"(si), "+D"(di), "+c"(n)::"memory");
	good = 1;
	for (int i = 0; i < 328; i++) {
		good &= p[i] == i % 8;
	}
	CHECK(good, "by eight");
	for (int i = 0; i < 300; i++) {
		p[i] = i;
	}
	memmove(p + 13, p, 270);
	good = 1;
	for (int i = 0; i < 270; i++) {
		good &= p[i + 13] == (i & 0xff);
	}
	CHECK(good, "memmove up");
	memmove(p, p + 13, 270);
	good = 1;
	for (int i = 0; i < 270; i++) {
		good &= p[i] == (i & 0xff);
	}
	CHECK(good, "memmove down");
}

static void scans(void)
{
	for (int len = 0; len < 300; len++) {
		/* A string that ends with its page. */
		unsigned char *p = area + 8192 - len - 1;
		memset(p, 'x', len);
		p[len] = 0;
		unsigned long n = -1;
		void *di = p;
		asm volatile("repne scasb" : "+D"(di), "+c"(n) : "a"(0) : "memory", "cc");
		CHECK(~n - 1 == (unsigned long)len && di == p + len + 1, "repne scasb %d", len);
		CHECK(strlen((char *)p) == (size_t)len, "strlen %d", len);
		CHECK(memchr(p, 0, len + 1) == p + len, "memchr %d", len);
		CHECK(strchr((char *)p, 'y') == NULL && strrchr((char *)p, 0) == (char *)p + len,
		      "strchr");
		unsigned char *q = other + 4096 - len / 2;
		memcpy(q, p, len + 1);
		CHECK(!strcmp((char *)p, (char *)q) && !memcmp(p, q, len), "strcmp %d", len);
		if (len) {
			q[len - 1] = 'z';
			CHECK(strcmp((char *)p, (char *)q) < 0 && memcmp(q, p, len) > 0, "strcmp");
			void *si = p;
			di = q;
			n = len;
			unsigned char below;
			asm volatile("repe cmpsb; setb %0"
			             : "=r"(below), "+S"(si), "+D"(di), "+c"(n)::"memory", "cc");
			CHECK(below && !n && si == p + len, "repe cmpsb %d", len);
		}
	}
	unsigned long n = 100, flags;
	void *di = area;
	memset(area, 7, 400);
	asm volatile("repe scasl; pushfq; popq %1"
	             : "+D"(di), "=r"(flags), "+c"(n)
	             : "a"(0x07070707)
	             : "memory", "cc");
	CHECK(!n && flags & 0x40, "repe scasl");
	n = 0;
	asm volatile("cmp %%rcx, %%rcx; repne scasb; pushfq; popq %1"
	             : "+D"(di), "=r"(flags), "+c"(n)
	             : "a"(1)
	             : "memory", "cc");
	CHECK(flags & 0x40, "repne scasb of nothing leaves the flags");
}

static void stores(void)
{
	for (int k = 0; k < 300; k++) {
		memset(area, 0, 8192);
		void *di = area + 4096 - k;
		unsigned long n = k;
		asm volatile("rep stosb" : "+D"(di), "+c"(n) : "a"(0x5a) : "memory");
		CHECK(area[4095 - k] == 0 &&
		              (!k || (area[4095] == 0x5a && area[4096 - k] == 0x5a)) &&
		              area[4096] == 0,
		      "rep stosb %d", k);
		di = area + 8192 - 8 * k;
		n = k;
		asm volatile("rep stosq" : "+D"(di), "+c"(n) : "a"(0x0102030405060708) : "memory");
		CHECK(!k || (area[8191] == 1 && area[8192 - 8 * k] == 8), "rep stosq %d", k);
	}
	uint64_t sum = 0, v;
	void *si = area + 1;
	for (int i = 0; i < 1000; i++) {
		asm volatile("lodsq" : "=a"(v), "+S"(si)::"memory");
		sum += v;
	}
	uint64_t want = 0;
	for (int i = 0; i < 1000; i++) {
		memcpy(&v, area + 1 + 8 * i, 8);
		want += v;
	}
	CHECK(sum == want && si == area + 8001, "lodsq");
}

/* Operands of every width across the edge between two pages. */
static void edges(void)
{
	for (int back = 0; back < 34; back++) {
		unsigned char *p = area + 4096 - back;
		for (int i = 0; i < 34; i++) {
			p[i] = i + 1;
		}
		uint16_t w = *(volatile uint16_t *)p;
		uint32_t d = *(volatile uint32_t *)p;
		uint64_t q = *(volatile uint64_t *)p;
		CHECK(w == 0x0201 && d == 0x04030201 && q == 0x0807060504030201, "loads at -%d",
		      back);
		*(volatile uint64_t *)p += 0x1000000000000001;
		CHECK(p[0] == 2 && p[7] == 0x18 && p[8] == 9, "add at -%d", back);
		uint64_t old = __atomic_exchange_n((uint64_t *)p, 5, __ATOMIC_SEQ_CST);
		CHECK(old == 0x1807060504030202 && p[0] == 5 && !p[7], "xchg at -%d", back);
		__sync_fetch_and_add((uint32_t *)p, 0x01010101);
		CHECK(p[0] == 6 && p[3] == 1 && !p[4], "lock xadd at -%d", back);
		asm volatile("vmovdqu %0, %%ymm1; vmovdqu %%ymm1, %1"
		             :
		             : "m"(*(char(*)[32])p), "m"(*(char(*)[32])(other + 4096 - back / 2))
		             : "xmm1", "memory");
		CHECK(!memcmp(p, other + 4096 - back / 2, 32), "ymm at -%d", back);
		long double x = 1.25L, y;
		asm volatile("fldt %1; fstpt %0" : "=m"(*(char(*)[10])p) : "m"(x));
		asm volatile("fldt %1; fstpt %0" : "=m"(y) : "m"(*(char(*)[10])p));
		CHECK(y == 1.25L, "x87 at -%d", back);
		asm volatile("pushq %1; popq (%0)" : : "r"(p), "i"(0x1234567) : "memory");
		CHECK(*(volatile uint64_t *)p == 0x1234567, "pop to memory at -%d", back);
	}
}

int main(void)
{
	uint64_t seed = 42;
	area = guarded();
	other = guarded();
	fill(&seed);
	rep_movsb();
	rep_movsw();
	rep_movsl();
	rep_movsq();
	overlapping();
	scans();
	stores();
	edges();
	return check_end();
}
