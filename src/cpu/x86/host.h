/* SPDX-License-Identifier: MIT */
/* The host's own CPUID. Stateless; any thread. */
#pragma once

#include <string.h>

#include "base/types.h"

static inline void host_cpuid(u32 leaf, u32 subleaf, u32 out[4])
{
	__asm__ volatile("cpuid"
	                 : "=a"(out[0]), "=b"(out[1]), "=c"(out[2]), "=d"(out[3])
	                 : "a"(leaf), "c"(subleaf));
}

/* EAX, EBX, ECX, EDX; zeros beyond the host's last leaf, where the instruction itself would
 * repeat that leaf. */
static inline void host_leaf(u32 leaf, u32 subleaf, u32 out[4])
{
	u32 max[4];

	memset(out, 0, 4 * sizeof(u32));
	host_cpuid(leaf & 0xc0000000, 0, max);
	if (leaf <= max[0])
		host_cpuid(leaf, subleaf, out);
}
