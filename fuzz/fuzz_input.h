/* SPDX-License-Identifier: MIT */
/* An input as a stream of numbers, zeros behind its end. */
#pragma once

#include "base/types.h"

struct input {
	const u8 *p;
	size_t left;
};

int LLVMFuzzerTestOneInput(const u8 *data, size_t size);

static inline u64 take(struct input *in, unsigned n)
{
	u64 v = 0;

	for (unsigned i = 0; i < n && in->left; i++, in->left--)
		v |= (u64)*in->p++ << (i * 8);
	return v;
}
