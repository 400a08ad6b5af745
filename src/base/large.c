// SPDX-License-Identifier: MIT
#include "base/large.h"

#include <stdint.h>
#include <sys/mman.h>

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

void *large_map(size_t size, int prot)
{
	size_t want = ALIGN_UP(size, (size_t)PAGE_SIZE), skip;
	u8 *p = mmap(NULL, want + LARGE_SIZE, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1,
	             0);

	if (p == MAP_FAILED)
		return NULL;
	skip = ALIGN_UP((uintptr_t)p, LARGE_SIZE) - (uintptr_t)p;
	if (skip)
		munmap(p, skip);
	munmap(p + skip + want, LARGE_SIZE - skip);
	return p + skip;
}

bool large_collapse(void *at)
{
	(void)*(volatile u8 *)at; /* something must be there to be made large */
	return !madvise(at, LARGE_SIZE, MADV_COLLAPSE);
}
