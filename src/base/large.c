// SPDX-License-Identifier: MIT
#include "base/large.h"

#include <stdint.h>
#include <sys/mman.h>

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

void *large_map(size_t size, int prot)
{
	size_t want = ALIGN_UP(size, (size_t)PAGE_SIZE);
	u8 *area = mmap(NULL, want + LARGE_SIZE, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
	                -1, 0);
	u8 *at = (u8 *)ALIGN_UP((uintptr_t)area, LARGE_SIZE);

	if (area == MAP_FAILED)
		return NULL;
	if (at > area)
		munmap(area, (size_t)(at - area));
	munmap(at + want, (size_t)(area + LARGE_SIZE - at));
	return at;
}

bool large_collapse(void *at)
{
	(void)*(volatile u8 *)at; /* something must be there to be made large */
	return !madvise(at, LARGE_SIZE, MADV_COLLAPSE);
}
