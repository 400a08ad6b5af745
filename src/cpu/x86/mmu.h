/* SPDX-License-Identifier: MIT */
/* Guest memory by linear address: the page walk, the software TLB, loads and stores.
 *
 * Paths: an engine's inline code looks into c->tlb; on a miss it calls mmu_ld/mmu_st, which walk,
 * compose with the pmap, fill the TLB, or do a device access, or raise #PF. Own thread of the vCPU
 * only.
 *
 * Accesses: "user/data" ones are made with the CPL's rights (SMAP, AC apply); "sys" ones
 * are implicit supervisor accesses (descriptor tables, TSS, IDT) whatever the CPL. */
#pragma once

#include "cpu/x86/x86.h"
#include "mem/pmap.h"

enum {
	MMU_READ = 0,
	MMU_WRITE = 1 << 0,
	MMU_FETCH = 1 << 1,
	MMU_SYS = 1 << 2, /* implicit supervisor access */
};

struct mmu_walk {
	gpa_t gpa;     /* of the address */
	u64 page_size; /* of the guest's mapping, bytes */
	u32 perm;      /* PERM_*: of all levels together */
	u32 err;       /* on failure: page-fault error code */
};

/* The first two as in a page-table entry. */
enum {
	PERM_W = PTE_W,
	PERM_U = PTE_U,
	PERM_NX = 1 << 3,
	PERM_D = 1 << 4, /* the dirty bit is set */
	PERM_G = 1 << 5, /* global, and CR4.PGE is set */
	PERM_L = 1 << 6, /* mapped by a page of 2 MiB or more */
};

/* Translate with rights; sets A (and D on MMU_WRITE) as hardware does. true: ok; false: #PF with
 * out->err. */
bool mmu_walk(struct x86_cpu *c, gva_t addr, u32 access, struct mmu_walk *out);
/* For debuggers: no rights, no A/D bits, nothing raised. */
bool mmu_probe(struct x86_cpu *c, gva_t addr, gpa_t *gpa);
/* Debugger's reads and writes through the guest's page tables (RAM only). 0 or -EFAULT. */
int mmu_debug_rw(struct x86_cpu *c, gva_t addr, void *buf, u64 len, bool write);

void mmu_init(struct x86_cpu *c); /* at creation; c->pmap is set */
/* What the architecture's flushes drop (SDM 3A 4.10.4.1); the current PCID is that of CR3, 0
 * without CR4.PCIDE. */
void mmu_flush_all(struct x86_cpu *c);       /* global entries included */
void mmu_flush_nonglobal(struct x86_cpu *c); /* of all PCIDs */
void mmu_flush_pcid(struct x86_cpu *c, unsigned pcid);
void mmu_flush_pcid_page(struct x86_cpu *c, unsigned pcid, gva_t addr);
/* CR3 has another PCID, or other tables, and whatever was kept for it may be used. */
void mmu_switch_pcid(struct x86_cpu *c);
/* All that INVLPG drops: a large page whole, global ones too. */
void mmu_flush_page(struct x86_cpu *c, gva_t addr);

/* Loads and stores of 1, 2, 4, 8 bytes at any alignment; across pages both are checked before
 * either is written. Raise #PF; the address is canonical and inside its segment already (x86_linear
 * or own check). With CR0.AM, AC and CPL 3: #AC. */
u64 mmu_ld(struct x86_cpu *c, gva_t addr, unsigned size);
void mmu_st(struct x86_cpu *c, gva_t addr, u64 val, unsigned size);
u64 mmu_ld_sys(struct x86_cpu *c, gva_t addr, unsigned size);
void mmu_st_sys(struct x86_cpu *c, gva_t addr, u64 val, unsigned size);

/* Any length up to PAGE_SIZE, in ascending pieces; faults before the first byte is written. */
void mmu_read(struct x86_cpu *c, gva_t addr, void *buf, unsigned len);
void mmu_write(struct x86_cpu *c, gva_t addr, const void *buf, unsigned len);
/* Raise now whatever a write to the range would raise (both pages, up to PAGE_SIZE bytes). */
void mmu_probe_write(struct x86_cpu *c, gva_t addr, unsigned len);

/* Host pointer for a native access of `len` bytes, rights checked, or NULL: not RAM, crosses a
 * page, or watched; then the caller bounces through mmu_read/mmu_write. Writers call mmu_wrote()
 * after the store. Raises #PF. */
void *mmu_host(struct x86_cpu *c, gva_t addr, unsigned len, bool write);
void mmu_wrote(struct x86_cpu *c, gva_t addr, unsigned len);

/* Stores by way of an entry's addend end with mmu_stored(): `len` bytes on one page. Its halves are
 * for those to whom a call costs a frame. */
static inline bool mmu_code_marked(const struct x86_cpu *c, uintptr_t host)
{
	const volatile u32 *ver =
		(const volatile u32 *)(c->code_ver_bias + (host >> PAGE_SHIFT) * sizeof(u32));

	__asm__ volatile("" ::: "memory"); /* the store, then the mark (mem/pmap.h) */
	return unlikely(*ver & PMAP_CODE_MARKED);
}
void mmu_code_written(struct x86_cpu *c, uintptr_t host, unsigned len);
static inline void mmu_stored(struct x86_cpu *c, uintptr_t host, unsigned len)
{
	if (mmu_code_marked(c, host))
		mmu_code_written(c, host, len);
}

/* Make the entry of the set in force valid for this access to the page of `addr`, which is
 * canonical: true. False: it must be made by mmu_ld(), mmu_st() or by way of mmu_host(): a device,
 * a watched page, TLB_USER_AC, a store to a page with code while there is a second mapping. Raises
 * #PF. */
bool mmu_fill(struct x86_cpu *c, gva_t addr, bool write);
/* Page `page` of RAM was marked as code: drop the right to write to it from this TLB, as there must
 * be none in an entry made afterwards (with a second mapping). Other vCPUs' need not be dropped:
 * they store through that mapping, and fault. */
void mmu_drop_write(struct x86_cpu *c, u64 page);

/* Instruction fetch: host pointer to the byte at addr (up to the page's end), or raises #PF / NULL
 * when it is not RAM. Fills the ITLB. */
const struct itlb_entry *mmu_fetch(struct x86_cpu *c, gva_t addr);

/* Page-atomic read-modify-write region: accesses with LOCK that cross a page or hit a device take
 * this VM-wide lock. */
/* The old value of *addr, which becomes fn(old, arg), under that lock. What may raise does so
 * before the lock is taken: nobody may leave with it by longjmp. */
u64 mmu_rmw_locked(struct x86_cpu *c, gva_t addr, unsigned size,
                   u64 (*fn)(u64 old, const void *arg), const void *arg);
void mmu_split_lock(struct x86_cpu *c);
void mmu_split_unlock(struct x86_cpu *c);

static inline bool is_canonical(u64 a)
{
	return (u64)((s64)(a << 16) >> 16) == a;
}
