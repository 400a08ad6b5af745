/* SPDX-License-Identifier: MIT */
/* Shared by mmu.c (loads and stores), mmu_tlb.c and mmu_walk.c only. */
#pragma once

#include "cpu/x86/mmu.h"

/* Does a mapping with these rights allow the access? (SDM 3A 4.6.1) */
static inline bool mmu_allowed(const struct x86_cpu *c, u32 perm, u32 access)
{
	if (access & MMU_FETCH) {
		if (perm & PERM_NX)
			return false;
		if (c->cpl == 3)
			return perm & PERM_U;
		return !((perm & PERM_U) && (c->cr4 & CR4_SMEP));
	}
	if (c->cpl == 3 && !(access & MMU_SYS))
		return (perm & PERM_U) && ((perm & PERM_W) || !(access & MMU_WRITE));
	if ((perm & PERM_U) && (c->cr4 & CR4_SMAP) &&
	    ((access & MMU_SYS) || !(c->sflags & X86_RFLAGS_AC)))
		return false;
	return (perm & PERM_W) || !(access & MMU_WRITE) || !(c->cr0 & CR0_WP);
}

/* One page of an access, translated. hva NULL: a device or nothing. */
struct mmu_span {
	u8 *hva;
	gpa_t gpa; /* valid when hva is NULL */
};

/* Translate `len` bytes on one page: by the TLB, which is filled on a miss. Raises #PF. */
void mmu_resolve(struct x86_cpu *c, gva_t addr, unsigned len, u32 access, struct mmu_span *out);
