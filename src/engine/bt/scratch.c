// SPDX-License-Identifier: MIT
/* The translator's scratch memory: one piece in large pages, since most of it is looked up at
 * random. */
#include <sys/mman.h>

#include "base/large.h"
#include "engine/bt/xlate.h"

void *bt_map_large(size_t size)
{
	void *p = large_map(size, PROT_READ | PROT_WRITE);

	/* A hint, for what fills large pages: the rest of a last one would be paid for nothing. */
	if (p)
		madvise(p, size & ~(LARGE_SIZE - 1), MADV_HUGEPAGE);
	return p;
}

void bt_unmap_large(void *p, size_t size)
{
	if (p)
		munmap(p, size);
}

enum part {
	PART_XLATE,
	PART_POOLS,
	PART_GI,
	PART_GROUPING,
	PART_GLANCES,
	PART_VERIFIED,
	PART_SHAPES,
	PARTS
};

/* Where each part begins, and behind the last one the size of all. */
static void lay_out(size_t at[PARTS + 1])
{
	const size_t size[PARTS] = {
		[PART_XLATE] = sizeof(struct xlate),
		[PART_POOLS] = bt_pools_size(),
		[PART_GI] = (UNIT_MAX_INSNS + 1) * sizeof(struct gi),
		[PART_GROUPING] = bt_grouping_size(),
		[PART_GLANCES] = GLANCES * sizeof(struct glance),
		[PART_VERIFIED] = sizeof(struct enc_verified),
		[PART_SHAPES] = bt_shapes_size(),
	};

	at[0] = 0;
	for (unsigned i = 0; i < PARTS; i++)
		at[i + 1] = at[i] + ALIGN_UP(size[i], (size_t)64);
}

int bt_xlate_create(struct bt_vm *bt)
{
	size_t at[PARTS + 1];
	u8 *p;

	lay_out(at);
	p = bt_map_large(at[PARTS]);
	if (!p)
		return -1;
	bt->xlate = (void *)(p + at[PART_XLATE]);
	bt->xlate->pools = (void *)(p + at[PART_POOLS]);
	bt->xlate->gi = (void *)(p + at[PART_GI]);
	bt->xlate->grouping = (void *)(p + at[PART_GROUPING]);
	bt->xlate->glances = (void *)(p + at[PART_GLANCES]);
	bt->xlate->verified = (void *)(p + at[PART_VERIFIED]);
	bt->xlate->shapes = (void *)(p + at[PART_SHAPES]);
	return 0;
}

void bt_xlate_destroy(struct bt_vm *bt)
{
	size_t at[PARTS + 1];

	lay_out(at);
	bt_unmap_large(bt->xlate, at[PARTS]);
	bt->xlate = NULL;
}
