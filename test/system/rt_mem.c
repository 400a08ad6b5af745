// SPDX-License-Identifier: MIT
/* Page tables and the pool of pages behind them; all of it is given back after each case. */
#include "rt.h"

extern u64 boot_pml4[];

static u64 pool_next = POOL_START;

/* REP: what a C loop would be for an interpreter is one instruction here. */
void *memset(void *d, int c, u64 n)
{
	void *p = d;

	asm volatile("rep stosb" : "+D"(p), "+c"(n) : "a"(c) : "memory");
	return d;
}

void *memcpy(void *d, const void *s, u64 n)
{
	void *p = d;

	asm volatile("rep movsb" : "+D"(p), "+S"(s), "+c"(n)::"memory");
	return d;
}

int memcmp(const void *a, const void *b, u64 n)
{
	bool above, below;

	if (!n)
		return 0;
	asm volatile("repe cmpsb"
	             : "+S"(a), "+D"(b), "+c"(n), "=@cca"(above), "=@ccb"(below)::"memory");
	return above - below;
}

u64 pages_alloc(u64 n, u64 align)
{
	u64 at = (pool_next + align - 1) & ~(align - 1);

	if (at + n * PAGE > POOL_END) {
		fail("the tests' memory is used up");
		case_end();
	}
	pool_next = at + n * PAGE;
	return at;
}

u64 page_alloc(void)
{
	u64 pa = pages_alloc(1, PAGE);

	memset(phys(pa), 0, PAGE);
	return pa;
}

u64 *pte_of(u64 root, u64 va, unsigned level)
{
	u64 *table = phys((root ? root : read_cr3()) & P_ADDR);

	for (unsigned l = 3; l > level; l--) {
		u64 *e = &table[va >> (12 + 9 * l) & 511];

		if (!(*e & P_P))
			*e = page_alloc() | URWX;
		table = phys(*e & P_ADDR);
	}
	return &table[va >> (12 + 9 * level) & 511];
}

void map(u64 root, u64 va, u64 pa, u64 flags)
{
	*pte_of(root, va, 0) = pa | flags;
	barrier();
}

void map_large(u64 root, u64 va, u64 pa, u64 flags)
{
	*pte_of(root, va, 1) = pa | flags | P_PS;
	barrier();
}

u64 map_new(u64 va, u64 flags)
{
	u64 pa = page_alloc();

	map(0, va, pa, flags);
	return pa;
}

void map_range(u64 va, u64 pages, u64 flags)
{
	while (pages--) {
		map_new(va, flags);
		va += PAGE;
	}
}

u64 space_new(void)
{
	u64 pa = page_alloc();

	*(u64 *)phys(pa) = boot_pml4[0];
	return pa;
}

/* The boot space's own tables stay; entries 1 and 2 of its PDPT are for 32-bit addresses. */
void memory_reset(void)
{
	u64 *pdpt = phys(boot_pml4[0] & P_ADDR);

	memset(&boot_pml4[1], 0, 511 * 8);
	pdpt[1] = pdpt[2] = 0;
	pool_next = POOL_START;
	write_cr4(read_cr4() | CR4_PGE);
	write_cr4(read_cr4() & ~CR4_PGE);
}
