// SPDX-License-Identifier: MIT
/* The page walk (SDM 3A chapter 4).
 *
 * It never raises: its callers do, when nothing has been changed yet. Reserved bits and missing
 * entries end it level by level; rights are those of all levels together, so they are collected on
 * the way and judged at the end. Accessed bits of a walk that fails in between are set, as on
 * hardware. */
#include "cpu/x86/mmu_priv.h"

#include <errno.h>

#include "cpu/x86/inputs.h"

struct walk_state {
	struct x86_cpu *c;
	gva_t addr;
	u32 access;
	u64 rsvd; /* reserved bits of every entry */
	u64 all;  /* bits set in every entry: W, U */
	u64 any;  /* bits set in some entry: NX */
};

static bool fail(const struct walk_state *s, struct mmu_walk *out, u32 err)
{
	const struct x86_cpu *c = s->c;

	if (s->access & MMU_WRITE)
		err |= PF_W;
	if (c->cpl == 3 && !(s->access & MMU_SYS))
		err |= PF_U;
	if ((s->access & MMU_FETCH) &&
	    (((c->efer & EFER_NXE) && (c->cr4 & CR4_PAE)) || (c->cr4 & CR4_SMEP)))
		err |= PF_I;
	out->err = err;
	return false;
}

/* Set bits in a guest entry as hardware does: atomically, and only if it is still the entry that
 * was read. */
static bool set_bits(struct x86_cpu *c, void *entry, unsigned size, u64 old, u64 bits)
{
	bool done;

	if (likely((old & bits) == bits))
		return true;
	if (unlikely(c->inputs))
		c->inputs->ops->table(c->inputs->arg, pmap_page(c->pmap, entry));
	if (size == 8)
		done = __sync_bool_compare_and_swap((u64 *)entry, old, old | bits);
	else
		done = __sync_bool_compare_and_swap((u32 *)entry, (u32)old, (u32)(old | bits));
	if (done)
		mmu_stored(c, (uintptr_t)entry, size);
	return done;
}

static inline u64 entry_read(const struct x86_cpu *c, gpa_t pa, unsigned size, void **host)
{
	*host = pmap_host(c->pmap, pa);
	if (unlikely(!*host))
		return ~0ull; /* nothing there: all ones */
	if (size == 8)
		return __atomic_load_n((u64 *)*host, __ATOMIC_RELAXED);
	return __atomic_load_n((u32 *)*host, __ATOMIC_RELAXED);
}

/* The leaf is found: check rights, set A and D, fill `out`. 1: ok, 0: fault, -1: entry changed,
 * walk again. */
static inline int leaf(const struct walk_state *s, struct mmu_walk *out, void *host, unsigned size,
                       u64 pte, gpa_t base, u64 page_size)
{
	struct x86_cpu *c = s->c;
	u64 bits = PTE_A | (s->access & MMU_WRITE ? PTE_D : 0);
	u32 perm = (s->all & (PTE_W | PTE_U)) | (s->any & PTE_NX ? PERM_NX : 0);

	if (unlikely(!mmu_allowed(c, perm, s->access)))
		return fail(s, out, PF_P);
	if (host && unlikely(!set_bits(c, host, size, pte, bits)))
		return -1;
	if ((pte | bits) & PTE_D)
		perm |= PERM_D;
	if ((pte & PTE_G) && (c->cr4 & CR4_PGE))
		perm |= PERM_G;
	out->gpa = base + (s->addr & (page_size - 1));
	out->page_size = page_size;
	out->perm = perm;
	return 1;
}

/* PAE and 4-level: entries of 8 bytes. `shift` is that of the addresses that index the first table
 * read from memory. */
static int walk8(struct walk_state *s, u64 table, unsigned shift, struct mmu_walk *out)
{
	struct x86_cpu *c = s->c;
	void *host;
	u64 e;

	for (;; shift -= 9) {
		e = entry_read(c, (table & PTE_ADDR) + ((s->addr >> shift) & 511) * 8, 8, &host);
		if (unlikely(!(e & PTE_P)))
			return fail(s, out, 0);
		if (unlikely(e & s->rsvd))
			return fail(s, out, PF_P | PF_RSVD);
		s->all &= e;
		s->any |= e;
		if (shift == 12 || ((e & PTE_PS) && shift <= 30))
			break;
		if (unlikely(e & PTE_PS)) /* of a PML4E */
			return fail(s, out, PF_P | PF_RSVD);
		if (host && unlikely(!set_bits(c, host, 8, e, PTE_A)))
			return -1;
		table = e;
	}
	if (likely(shift == 12))
		return leaf(s, out, host, 8, e, e & PTE_ADDR, PAGE_SIZE);
	if (unlikely(e & PTE_ADDR & ((1ull << shift) - 1) & ~0x1000ull)) /* bit 12 is PAT */
		return fail(s, out, PF_P | PF_RSVD);
	return leaf(s, out, host, 8, e, e & PTE_ADDR & ~((1ull << shift) - 1), 1ull << shift);
}

static int walk_pae(struct walk_state *s, struct mmu_walk *out)
{
	u64 e = s->c->pdpte[(s->addr >> 30) & 3];

	if (!(e & PTE_P))
		return fail(s, out, 0);
	s->rsvd |= 0x7ff0000000000000ull;
	return walk8(s, e, 21, out);
}

static int walk32(struct walk_state *s, struct mmu_walk *out)
{
	struct x86_cpu *c = s->c;
	void *host;
	gpa_t pa = (c->cr3 & 0xfffff000u) + ((s->addr >> 22) & 1023) * 4;
	u64 e = entry_read(c, pa, 4, &host);

	e &= 0xffffffff;
	if (!(e & PTE_P))
		return fail(s, out, 0);
	s->all &= e;
	if ((e & PTE_PS) && (c->cr4 & CR4_PSE)) {
		gpa_t base = (e & 0xffc00000u) | ((e >> 13) & 0xff) << 32;

		if ((e & BIT(21)) || (base >> c->phys_bits))
			return fail(s, out, PF_P | PF_RSVD);
		return leaf(s, out, host, 4, e, base, 4 * MiB);
	}
	if (host && !set_bits(c, host, 4, e, PTE_A))
		return -1;
	pa = (e & 0xfffff000u) + ((s->addr >> 12) & 1023) * 4;
	e = entry_read(c, pa, 4, &host) & 0xffffffff;
	if (!(e & PTE_P))
		return fail(s, out, 0);
	s->all &= e;
	return leaf(s, out, host, 4, e, e & 0xfffff000u, PAGE_SIZE);
}

static inline u64 reserved_bits(const struct x86_cpu *c)
{
	return (PTE_ADDR >> c->phys_bits << c->phys_bits) | (c->efer & EFER_NXE ? 0 : PTE_NX);
}

/* Every paging mode; faults; accessed and dirty bits. */
static __attribute__((noinline)) bool walk_slow(struct x86_cpu *c, gva_t addr, u32 access,
                                                struct mmu_walk *out)
{
	struct walk_state s;
	int r;

	if (unlikely(!(c->mode & M_PG))) {
		out->gpa = (u32)addr;
		out->page_size = PAGE_SIZE;
		out->perm = PERM_W | PERM_U | PERM_D;
		return true;
	}
	do {
		s = (struct walk_state){.c = c, .addr = addr, .access = access, .all = ~0ull};
		if (c->mode & M_LMA) {
			s.rsvd = reserved_bits(c);
			r = walk8(&s, c->cr3, 39, out);
		} else if (c->cr4 & CR4_PAE) {
			s.rsvd = reserved_bits(c);
			r = walk_pae(&s, out);
		} else {
			r = walk32(&s, out);
		}
	} while (r < 0);
	return r;
}

/* 4-level paging when all goes well: every entry is there, has its accessed bit (the leaf its dirty
 * bit too, for a write) and no reserved one. Whatever isn't so is the business of walk8(), from the
 * start. */
static inline bool walk_fast(struct x86_cpu *c, gva_t addr, u32 access, struct mmu_walk *out)
{
	const struct pmap *p = c->pmap;
	const u64 want = PTE_P | PTE_A, check = want | PTE_PS | reserved_bits(c);
	u64 e = c->cr3, all = PTE_W | PTE_U, any = 0;
	u64 size = 1ull << 39;
	u32 perm;

#pragma GCC unroll 4
	for (unsigned shift = 39; shift >= 12; shift -= 9) {
		const u8 *at = pmap_host(p, e & PTE_ADDR);
		u64 bad;

		if (unlikely(!at))
			return false;
		e = __atomic_load_n((const u64 *)at + (addr >> shift & 511), __ATOMIC_RELAXED);
		all &= e;
		any |= e;
		size = 1ull << shift;
		bad = (e ^ want) & (shift == 12 ? check & ~(u64)PTE_PS : check);
		if (unlikely(bad)) {
			/* A large page; those of bit 12 and up must be zero, but for PAT. */
			if (shift > 30 || bad != PTE_PS || (e & (size - 1) & PTE_ADDR))
				return false;
			break;
		}
	}
	if (unlikely((access & MMU_WRITE) && !(e & PTE_D)))
		return false;
	perm = all | (any & PTE_NX ? PERM_NX : 0) | (e & PTE_D ? PERM_D : 0);
	if (unlikely(!mmu_allowed(c, perm, access)))
		return false;
	if ((e & PTE_G) && (c->cr4 & CR4_PGE))
		perm |= PERM_G;
	out->gpa = (e & PTE_ADDR & ~(size - 1)) + (addr & (size - 1));
	out->page_size = size;
	out->perm = perm;
	return true;
}

bool mmu_walk(struct x86_cpu *c, gva_t addr, u32 access, struct mmu_walk *out)
{
	if (likely(c->mode & M_LMA) && likely(walk_fast(c, addr, access, out)))
		return true;
	return walk_slow(c, addr, access, out);
}

/* ---- debugger's view ---- */

bool mmu_probe(struct x86_cpu *c, gva_t addr, gpa_t *gpa)
{
	int level = c->mode & M_LMA ? 4 : 2;
	u64 table = c->cr3 & 0x000ffffffffff000ull;
	void *host;

	if (!(c->mode & M_PG)) {
		*gpa = addr;
		return true;
	}
	if (!(c->cr4 & CR4_PAE)) {
		u64 e = entry_read(c, (c->cr3 & 0xfffff000u) + ((addr >> 22) & 1023) * 4, 4, &host);

		if (!host || !(e & PTE_P))
			return false;
		if ((e & PTE_PS) && (c->cr4 & CR4_PSE)) {
			*gpa = ((e & 0xffc00000u) | ((e >> 13) & 0xff) << 32) +
			       (addr & (4 * MiB - 1));
			return true;
		}
		e = entry_read(c, (e & 0xfffff000u) + ((addr >> 12) & 1023) * 4, 4, &host);
		*gpa = (e & 0xfffff000u) + (addr & 0xfff);
		return host && (e & PTE_P);
	}
	if (level == 2) {
		u64 e = c->pdpte[(addr >> 30) & 3];

		if (!(e & PTE_P))
			return false;
		table = e & 0x000ffffffffff000ull;
	}
	for (;; level--) {
		unsigned shift = 12 + 9 * (unsigned)(level - 1);
		u64 e = entry_read(c, table + ((addr >> shift) & 511) * 8, 8, &host);

		if (!host || !(e & PTE_P))
			return false;
		table = e & 0x000ffffffffff000ull;
		if (level == 1 || ((e & PTE_PS) && level <= 3)) {
			u64 size = 1ull << shift;

			*gpa = (table & ~(size - 1)) + (addr & (size - 1));
			return true;
		}
	}
}
