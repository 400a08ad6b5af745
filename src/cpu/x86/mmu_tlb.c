// SPDX-License-Identifier: MIT
/* The software TLB: what is in it, what drops it (SDM 3A 4.10).
 *
 * An entry holds rights as tags: a right that is missing (or must be seen by the slow path: first
 * write to a clean page, watched pages, devices) is a tag that cannot match at that index. The
 * inline check of the engines and this file are the isolation boundary: a host pointer is only ever
 * made here, from the pmap.
 *
 * Entries of the supervisor's sets and the ITLB's supervisor entries that come from global pages
 * outlive a change of address space. Which ones is a bit beside them. Fills that are not global are
 * logged, so that the flush that happens most often touches only what it drops.
 *
 * Behind it is a second level, which saves page walks only: no engine looks into it. Its entries
 * belong to a space: a number that stands for the global pages, or for a PCID since it was last
 * flushed. A space is flushed by giving out another number. Of pages larger than 4 KiB it has only
 * global ones, since those noted in tlb_large[1] are dropped together with it. */
#include "cpu/x86/mmu_priv.h"

#include "cpu/x86/inputs.h"

/* An address with a different index than entry i's: never matches there. */
static u64 invalid_tag(unsigned i)
{
	return (u64)(i ^ 1) << PAGE_SHIFT;
}

static unsigned tlb_index(gva_t addr)
{
	return (unsigned)(addr >> PAGE_SHIFT) & (TLB_SIZE - 1);
}

/* ---- bitmaps ---- */

static bool bit_test(const u64 *map, unsigned i)
{
	return map[i / 64] >> (i % 64) & 1;
}

static void bit_put(u64 *map, unsigned i, bool set)
{
	u64 bit = 1ull << (i % 64);

	map[i / 64] = set ? map[i / 64] | bit : map[i / 64] & ~bit;
}

/* Not a loop: the compiler would call memset(), which uses vector registers. */
static void bits_clear(u64 *map, size_t words)
{
	__asm__ volatile("rep stosq" : "+D"(map), "+c"(words) : "a"(0) : "memory");
}

/* ---- large pages ----
 *
 * They are cached in pieces of 4 KiB, but INVLPG of any address drops all of such a page, and all
 * that was cached with it may be somewhere else by now (or in an engine's caches). So for every 2
 * MiB and 1 GiB of addresses there is a hashed bit: something was filled from a large page here. */

static unsigned large_key(gva_t addr, unsigned shift)
{
	u64 h = ((addr >> shift) * 64 + shift) * 0x9e3779b97f4a7c15ull;

	return (unsigned)(h >> (64 - TLB_LARGE_BITS));
}

static void large_note(struct x86_cpu *c, gva_t addr, const struct mmu_walk *w)
{
	struct tlb_large *l = &c->tlb_large[!!(w->perm & PERM_G)];

	if (likely(w->page_size == PAGE_SIZE))
		return;
	l->any = true;
	if (w->page_size > 4 * MiB) {
		bit_put(l->map, large_key(addr, 30), true);
		return;
	}
	bit_put(l->map, large_key(addr, 21), true);
	if (w->page_size > 2 * MiB) /* two of them */
		bit_put(l->map, large_key(addr ^ 2 * MiB, 21), true);
}

static bool large_hit(const struct tlb_large *l, gva_t addr)
{
	return l->any &&
	       (bit_test(l->map, large_key(addr, 21)) || bit_test(l->map, large_key(addr, 30)));
}

static void large_clear(struct tlb_large *l)
{
	if (!l->any)
		return;
	bits_clear(l->map, ARRAY_SIZE(l->map));
	l->any = false;
}

/* ---- pieces of 2 MiB ----
 *
 * A large page's rights hold for all of it, and RAM is in one piece but where the map of physical
 * addresses has its holes. So such a piece can be granted at once, to who stores through the second
 * mapping: a page with code in it is read-only there. Where such stores happen again and again,
 * which costs a host's fault each, the piece is granted for reading only. Only of global pages:
 * others are dropped too often. */

#define BIG_MASK      (~(TLB_BIG_SIZE - 1))
#define MANY_STORES   8    /* to pages with code of one piece, */
#define STORES_FORGOT 4096 /* of so many */

static u64 big_invalid(unsigned i)
{
	return (u64)(i ^ 1) << TLB_BIG_SHIFT;
}

static u8 *big_stores(struct x86_cpu *c, u64 page)
{
	return &c->tlb_big_stores[(page >> (TLB_BIG_SHIFT - PAGE_SHIFT)) % TLB_BIG_STORES];
}

/* What maps the piece at `addr`, and its neighbours up to the next GiB. */
struct big_map {
	struct x86_cpu *c;
	const u8 *table; /* entries of 8 bytes, or NULL: one page of 1 GiB */
	u64 at, entry;   /* the piece's index; its entry */
	const u8 *host;  /* of the piece */
	gpa_t gpa;
};

static u64 big_entry(const u8 *table, u64 i)
{
	return __atomic_load_n((const u64 *)(const void *)table + i, __ATOMIC_RELAXED);
}

/* 4-level paging, of which the walk has just used these tables; false: they have changed. */
static bool big_map_find(struct big_map *m, gva_t addr)
{
	const struct x86_cpu *c = m->c;
	u64 e = c->cr3;

	for (unsigned shift = 39; shift >= 30; shift -= 9) {
		const u8 *at = pmap_host(c->pmap, e & PTE_ADDR);

		if (!at)
			return false;
		e = big_entry(at, addr >> shift & 511);
		if (!(e & PTE_P))
			return false;
		if (shift == 30 && (e & PTE_PS)) {
			m->table = NULL;
			m->entry = e;
			return (e & PTE_ADDR & ~(512 * TLB_BIG_SIZE - 1)) +
			               (m->at << TLB_BIG_SHIFT) ==
			       m->gpa;
		}
	}
	m->table = pmap_host(c->pmap, e & PTE_ADDR);
	if (!m->table)
		return false;
	m->entry = big_entry(m->table, m->at);
	return (m->entry & PTE_PS) && (m->entry & PTE_ADDR & BIG_MASK) == m->gpa;
}

/* Is piece `i` mapped like the one at m->at, to memory that lies with its in one row? A translation
 * may be kept for pages that were not accessed, if their accessed bit is set (SDM 3A 4.10.2.3). */
static bool big_like(const struct big_map *m, u64 i)
{
	u64 off = (i - m->at) << TLB_BIG_SHIFT; /* modulo 2^64 */
	gpa_t gpa = m->gpa + off;

	if (m->table && big_entry(m->table, i) != m->entry + off)
		return false;
	return gpa >= TLB_BIG_SIZE && ((gpa ^ m->c->apic_page) & BIG_MASK) &&
	       pmap_host(m->c->pmap, gpa) == m->host + off;
}

static void big_range_note(struct x86_cpu *c, u64 base, u64 size)
{
	for (u32 i = 0; i < c->tlb_nr_ranges; i++)
		if (base - c->tlb_ranges[i].base < c->tlb_ranges[i].size &&
		    base + size - 1 - c->tlb_ranges[i].base < c->tlb_ranges[i].size)
			return;
	c->tlb_ranges[c->tlb_nr_ranges].base = base;
	c->tlb_ranges[c->tlb_nr_ranges++].size = size;
}

/* Are there many stores to the code of piece `i`? */
static bool big_stored_to(const struct big_map *m, u64 i)
{
	u64 page = pmap_page(m->c->pmap, m->host) + ((i - m->at) << (TLB_BIG_SHIFT - PAGE_SHIFT));

	return *big_stores(m->c, page) >= MANY_STORES;
}

/* The range around the piece, and what of it may be written. */
static void big_run(struct big_map *m, gva_t addr, struct tlb_run *run)
{
	u64 first = m->at, end = m->at + 1, base = addr & ~(512 * TLB_BIG_SIZE - 1);
	u64 w_first = m->at, w_end = m->at + 1;
	struct x86_cpu *c = m->c;

	if ((c->mode & M_LMA) && c->tlb_nr_ranges < TLB_BIG_RUNS && big_map_find(m, addr) &&
	    (m->entry & (PTE_A | PTE_D)) == (PTE_A | PTE_D)) {
		while (first && big_like(m, first - 1))
			first--;
		while (end < 512 && big_like(m, end))
			end++;
		if (end - first > 1)
			big_range_note(c, base + (first << TLB_BIG_SHIFT),
			               (end - first) << TLB_BIG_SHIFT);
	}
	while (w_first > first && !big_stored_to(m, w_first - 1))
		w_first--;
	while (w_end < end && !big_stored_to(m, w_end))
		w_end++;
	*run = (struct tlb_run){.r_base = base + (first << TLB_BIG_SHIFT),
	                        .r_size = (end - first) << TLB_BIG_SHIFT,
	                        .w_base = base + (w_first << TLB_BIG_SHIFT),
	                        .w_size = (w_end - w_first) << TLB_BIG_SHIFT};
}

static void big_fill(struct x86_cpu *c, enum tlb_set set, gva_t addr, const u8 *host, u32 perm)
{
	const u32 need = PERM_D | (c->cr0 & CR0_WP ? PERM_W : 0);
	unsigned i = (unsigned)(addr >> TLB_BIG_SHIFT) % TLB_BIG;
	u64 page = pmap_page(c->pmap, host);
	struct tlb_entry *e = &c->tlb_big[set][i];
	struct big_map m = {.c = c,
	                    .at = addr >> TLB_BIG_SHIFT & 511,
	                    .host = host - (addr & ~BIG_MASK & PAGE_MASK),
	                    .gpa = pmap_gpa(page) & BIG_MASK};
	bool write = (perm & need) == need && *big_stores(c, page) < MANY_STORES;

	/* The first piece has the hole below 1 MiB; what the local APIC hides is none of RAM's. */
	if (m.gpa < TLB_BIG_SIZE || !((m.gpa ^ c->apic_page) & BIG_MASK))
		return;
	if (e->r == (addr & BIG_MASK) && (e->w == e->r) >= write)
		return;
	e->r = addr & BIG_MASK;
	e->w = write ? e->r : big_invalid(i);
	e->addend = (uintptr_t)host - (addr & PAGE_MASK);
	e->bt_addend = e->addend + (uintptr_t)c->pmap->bt_hva - (uintptr_t)c->pmap->hva;
	c->tlb_big_any = true;
	big_run(&m, addr, &c->tlb_run[set][i]);
}

static void big_drop(struct x86_cpu *c)
{
	for (unsigned set = 0; set < TLB_GLOBAL_SETS && c->tlb_big_any; set++)
		for (unsigned i = 0; i < TLB_BIG; i++)
			c->tlb_big[set][i].r = c->tlb_big[set][i].w = big_invalid(i);
	c->tlb_big_any = false;
	c->tlb_nr_ranges = 0;
}

/* Does an entry reach farther than the large page that it was made from? */
static bool big_hit(const struct x86_cpu *c, gva_t addr)
{
	for (u32 i = 0; i < c->tlb_nr_ranges; i++)
		if (addr - c->tlb_ranges[i].base < c->tlb_ranges[i].size)
			return true;
	return false;
}

/* A store went to a page with code: nothing may write there. */
static void big_drop_write(struct x86_cpu *c, u64 page)
{
	uintptr_t host = (uintptr_t)(c->pmap->hva + (page << PAGE_SHIFT));

	for (unsigned set = 0; set < TLB_GLOBAL_SETS && c->tlb_big_any; set++)
		for (unsigned i = 0; i < TLB_BIG; i++) {
			struct tlb_entry *e = &c->tlb_big[set][i];
			const struct tlb_run *r = &c->tlb_run[set][i];

			if (e->w == e->r && host - (r->w_base + e->addend) < r->w_size)
				e->w = big_invalid(i);
		}
	*big_stores(c, page) += *big_stores(c, page) < MANY_STORES;
	if (++c->tlb_big_all_stores % STORES_FORGOT == 0)
		bits_clear((u64 *)(void *)c->tlb_big_stores, sizeof(c->tlb_big_stores) / 8);
}

/* ---- the second level ---- */

static u32 pcid_of(const struct x86_cpu *c)
{
	return c->cr4 & CR4_PCIDE ? c->cr3 & 0xfff : 0;
}

/* A number that no entry has. */
static u32 space_new(struct x86_cpu *c)
{
	if (unlikely(++c->space_last == 0)) {
		bits_clear((u64 *)c->stlb, sizeof(c->stlb) / 8);
		bits_clear((u64 *)c->pcid_space, sizeof(c->pcid_space) / 8);
		c->space_global = 1;
		c->space_last = 2;
	}
	return c->space_last;
}

static struct stlb_entry *stlb_entry(struct x86_cpu *c, gva_t addr, u32 space)
{
	u32 h = (u32)(addr >> PAGE_SHIFT) ^ (u32)(addr >> (PAGE_SHIFT + STLB_BITS)) ^
	        (space * 0x9e3779b1u) >> (32 - STLB_BITS);

	return &c->stlb[h & (STLB_SIZE - 1)];
}

static bool stlb_match(const struct stlb_entry *e, gva_t addr, u32 space)
{
	return e->space == space && !((e->tag ^ addr) & PAGE_MASK);
}

static void stlb_drop(struct x86_cpu *c, gva_t addr, u32 space)
{
	struct stlb_entry *e = stlb_entry(c, addr, space);

	if (stlb_match(e, addr, space))
		e->space = 0;
}

/* The entry that allows the access as it is; NULL: walk. */
static inline const struct stlb_entry *stlb_find(struct x86_cpu *c, gva_t addr, u32 access)
{
	u32 own = c->pcid_space[pcid_of(c)], other = c->space_global;
	const struct stlb_entry *e;

	if (addr >> 63) { /* most likely */
		u32 t = own;

		own = other;
		other = t;
	}
	e = stlb_entry(c, addr, own);
	if (!stlb_match(e, addr, own)) {
		e = stlb_entry(c, addr, other);
		if (!stlb_match(e, addr, other))
			return NULL;
	}
	if (!e->space || !mmu_allowed(c, (u32)e->tag, access) ||
	    ((access & MMU_WRITE) && !(e->tag & PERM_D)))
		return NULL;
	return e;
}

static void stlb_fill(struct x86_cpu *c, gva_t addr, const u8 *host, const struct mmu_walk *w)
{
	u32 space = c->space_global;
	struct stlb_entry *e;

	if (!(w->perm & PERM_G)) {
		u32 *own = &c->pcid_space[pcid_of(c)];

		if (w->page_size != PAGE_SIZE)
			return;
		if (!*own)
			*own = space_new(c);
		space = *own;
	}
	e = stlb_entry(c, addr, space);
	e->tag = (addr & PAGE_MASK) | w->perm;
	e->space = space;
	e->page = (u32)pmap_page(c->pmap, host);
}

/* ---- flushes ---- */

static void entry_drop(struct x86_cpu *c, unsigned set, unsigned i)
{
	struct tlb_entry *e = &c->tlbs[set][i];

	e->r = e->w = invalid_tag(i);
}

static bool entry_global(const struct x86_cpu *c, unsigned set, unsigned i)
{
	return set < TLB_GLOBAL_SETS && bit_test(c->tlb_global[set], i);
}

/* All but the global ones. */
static void drop_nonglobal(struct x86_cpu *c)
{
	if (c->tlb_fills <= TLB_FILL_LOG) {
		for (unsigned n = 0; n < c->tlb_fills; n++) {
			unsigned set = c->tlb_filled[n] / TLB_SIZE, i = c->tlb_filled[n] % TLB_SIZE;

			if (!entry_global(c, set, i)) /* filled again since */
				entry_drop(c, set, i);
		}
	} else {
		for (unsigned s = 0; s < TLB_SETS; s++)
			for (unsigned i = 0; c->tlb_used & (1u << s) && i < TLB_SIZE; i++)
				if (!entry_global(c, s, i))
					entry_drop(c, s, i);
	}
	c->tlb_fills = 0;
	c->tlb_used &= (1u << TLB_GLOBAL_SETS) - 1;
	if (c->itlb_fills <= ITLB_FILL_LOG) {
		for (unsigned n = 0; n < c->itlb_fills; n++)
			if (!bit_test(c->itlb_global, c->itlb_filled[n]))
				c->itlb[c->itlb_filled[n]].tag = ~0ull;
	} else {
		for (unsigned i = 0; i < ITLB_SIZE; i++)
			if (!bit_test(c->itlb_global, i))
				c->itlb[i].tag = ~0ull;
	}
	c->itlb_fills = 0;
	large_clear(&c->tlb_large[0]);
}

static void drop_all(struct x86_cpu *c)
{
	bits_clear((u64 *)c->pcid_space, sizeof(c->pcid_space) / 8);
	if (!c->tlb_any_global) {
		drop_nonglobal(c);
		return;
	}
	c->tlb_any_global = false;
	c->space_global = space_new(c);
	for (unsigned s = 0; s < TLB_SETS; s++)
		for (unsigned i = 0; c->tlb_used & (1u << s) && i < TLB_SIZE; i++)
			entry_drop(c, s, i);
	for (unsigned i = 0; i < ITLB_SIZE; i++)
		c->itlb[i].tag = ~0ull;
	c->tlb_fills = c->itlb_fills = 0;
	c->tlb_used = 0;
	bits_clear(c->tlb_global[0], sizeof(c->tlb_global) / sizeof(u64));
	bits_clear(c->itlb_global, ARRAY_SIZE(c->itlb_global));
	big_drop(c);
	large_clear(&c->tlb_large[0]);
	large_clear(&c->tlb_large[1]);
}

static void flushed(struct x86_cpu *c, bool global_too)
{
	c->tlb_gen++;
	c->flush_nonglobal_gen++;
	c->flush_all_gen += global_too;
	c->vcpu->stats.count[EXIT_TLB_FLUSH]++;
	if (c->tlb_flushed)
		c->tlb_flushed(c, global_too);
}

void mmu_flush_all(struct x86_cpu *c)
{
	drop_all(c);
	flushed(c, true);
}

void mmu_flush_nonglobal(struct x86_cpu *c)
{
	bits_clear((u64 *)c->pcid_space, sizeof(c->pcid_space) / 8);
	mmu_switch_pcid(c);
}

void mmu_flush_pcid(struct x86_cpu *c, unsigned pcid)
{
	c->pcid_space[pcid] = 0;
	if (pcid == pcid_of(c))
		mmu_switch_pcid(c);
}

void mmu_switch_pcid(struct x86_cpu *c)
{
	drop_nonglobal(c);
	flushed(c, false);
}

void mmu_flush_page(struct x86_cpu *c, gva_t addr)
{
	unsigned i = tlb_index(addr);

	if (unlikely(large_hit(&c->tlb_large[1], addr) || big_hit(c, addr))) {
		mmu_flush_all(c);
		return;
	}
	for (unsigned s = 0; s < TLB_SETS; s++)
		entry_drop(c, s, i);
	c->itlb[(addr >> PAGE_SHIFT) & (ITLB_SIZE - 1)].tag = ~0ull;
	stlb_drop(c, addr, c->space_global);
	stlb_drop(c, addr, c->pcid_space[pcid_of(c)]);
	if (unlikely(large_hit(&c->tlb_large[0], addr)))
		mmu_switch_pcid(c);
	c->tlb_gen++;
	if (c->tlb_page_flushed)
		c->tlb_page_flushed(c, addr & PAGE_MASK);
}

void mmu_flush_pcid_page(struct x86_cpu *c, unsigned pcid, gva_t addr)
{
	if (pcid == pcid_of(c))
		mmu_flush_page(c, addr);
	else
		stlb_drop(c, addr, c->pcid_space[pcid]);
}

void mmu_init(struct x86_cpu *c)
{
	c->apic_page = ~0ull;
	c->code_ver_bias = (uintptr_t)c->pmap->code_ver -
	                   ((uintptr_t)c->pmap->hva >> PAGE_SHIFT) * sizeof(u32);
	c->tlb_used = (1u << TLB_SETS) - 1;
	c->tlb_any_global = c->tlb_big_any = true; /* whatever is in there */
	mmu_flush_all(c);
}

/* ---- filling ---- */

static enum tlb_set set_of(const struct x86_cpu *c, u32 access)
{
	return access & MMU_SYS ? TLB_SUP : (enum tlb_set)((c->tlb - c->tlbs[0]) / TLB_SIZE);
}

/* RAM at gpa up to the page's end, or NULL. The local APIC's page hides what is below it. */
static u8 *ram_at(const struct x86_cpu *c, gpa_t gpa)
{
	return (gpa & PAGE_MASK) == c->apic_page ? NULL : pmap_host(c->pmap, gpa);
}

/* An entry may grant the write: the page is dirty already, and a store needs no other look. Stores
 * through the second mapping don't see the code mark; should the page be marked just now, by
 * another vCPU, they fault. */
static bool may_write(const struct x86_cpu *c, enum tlb_set set, u32 perm, const u8 *host)
{
	const u32 need = PERM_D | (set == TLB_USER || (c->cr0 & CR0_WP) ? PERM_W : 0);

	if ((perm & need) != need)
		return false;
	return likely(!c->pmap->bt_hva) || !mmu_code_marked(c, (uintptr_t)host);
}

static void fill(struct x86_cpu *c, enum tlb_set set, gva_t addr, const u8 *host, u32 perm)
{
	const struct pmap *p = c->pmap;
	unsigned i = tlb_index(addr);
	struct tlb_entry *e = &c->tlbs[set][i];

	e->r = addr & PAGE_MASK;
	e->w = may_write(c, set, perm, host) ? e->r : invalid_tag(i);
	e->addend = (uintptr_t)host - (addr & PAGE_MASK);
	e->bt_addend = e->addend + (p->bt_hva ? (uintptr_t)p->bt_hva - (uintptr_t)p->hva : 0);
	c->tlb_used |= 1u << set;
	if (set == TLB_SUP) {
		c->tlb_sup_nonglobal |= !(perm & PERM_G);
		c->tlb_sup_low |= !(addr >> 63);
	}
	if (set < TLB_GLOBAL_SETS) {
		if ((perm & (PERM_L | PERM_G)) == (PERM_L | PERM_G) && p->bt_hva && !c->step)
			big_fill(c, set, addr, host, perm);
		bit_put(c->tlb_global[set], i, perm & PERM_G);
		if (perm & PERM_G)
			return;
	}
	if (c->tlb_fills < TLB_FILL_LOG)
		c->tlb_filled[c->tlb_fills] = (u16)(set * TLB_SIZE + i);
	c->tlb_fills += c->tlb_fills <= TLB_FILL_LOG;
}

/* Outside IA-32e mode linear addresses have 32 bits: the parts of an operand that reaches beyond
 * 4 GiB wrap, whoever adds to its address. An entry for such a page under another tag than its own
 * would outlive INVLPG. */
static gva_t linear_wrap(const struct x86_cpu *c, gva_t addr)
{
	return c->mode & M_LMA ? addr : (u32)addr;
}

/* By the second level, else by a walk, which fills it. w: gpa is that of the page, page_size that
 * of the piece to note as large. NULL: a device or nothing. Raises #PF. */
static inline u8 *translate(struct x86_cpu *c, gva_t addr, u32 access, struct mmu_walk *w)
{
	const struct stlb_entry *e = stlb_find(c, addr, access);
	u8 *host;

	if (e) {
		c->vcpu->stats.count[EXIT_STLB_HIT]++;
		w->gpa = pmap_gpa(e->page);
		w->page_size = PAGE_SIZE;
		w->perm = (u32)(e->tag & ~PAGE_MASK);
		return c->pmap->hva + ((u64)e->page << PAGE_SHIFT);
	}
	c->vcpu->stats.count[EXIT_PAGE_WALK]++;
	if (!mmu_walk(c, addr, access, w))
		x86_raise_pf(c, addr, w->err);
	w->gpa &= PAGE_MASK;
	host = ram_at(c, w->gpa);
	if (!host)
		return NULL;
	pmap_touch(c->pmap, pmap_page(c->pmap, host));
	large_note(c, addr, w);
	if (w->page_size != PAGE_SIZE)
		w->perm |= PERM_L;
	if (w->perm & PERM_G)
		c->tlb_any_global = true;
	if (likely(c->mode & M_PG))
		stlb_fill(c, addr, host, w);
	return host;
}

void mmu_resolve(struct x86_cpu *c, gva_t addr, unsigned len, u32 access, struct mmu_span *out)
{
	enum tlb_set set = set_of(c, access);
	const struct tlb_entry *e;
	struct mmu_walk w;
	u8 *host;

	addr = linear_wrap(c, addr);
	e = &c->tlbs[set][tlb_index(addr)];
	if (set != TLB_USER_AC && addr - (access & MMU_WRITE ? e->w : e->r) < PAGE_SIZE) {
		out->hva = (u8 *)(uintptr_t)(addr + e->addend);
		out->gpa = 0;
		return;
	}
	host = translate(c, addr, access, &w);
	if (unlikely(c->step) && !(access & MMU_SYS))
		x86_check_data_bp(c, addr, len, access & MMU_WRITE);
	out->gpa = w.gpa | (addr & ~PAGE_MASK);
	out->hva = host ? host + (addr & ~PAGE_MASK) : NULL;
	if (unlikely(c->inputs) && host && ((access & MMU_WRITE) || (w.perm & PERM_D)))
		c->inputs->ops->writable(c->inputs->arg, pmap_page(c->pmap, host));
	if (!host || set == TLB_USER_AC ||
	    (unlikely(c->step) && x86_page_watched(c, addr & PAGE_MASK)))
		return;
	fill(c, set, addr, host, w.perm);
}

bool mmu_fill(struct x86_cpu *c, gva_t addr, bool write)
{
	enum tlb_set set = set_of(c, 0);
	const struct tlb_entry *e;
	struct mmu_span s;

	if (set == TLB_USER_AC || (unlikely(c->step) && x86_page_watched(c, addr & PAGE_MASK)))
		return false;
	mmu_resolve(c, addr, 1, write ? MMU_WRITE : MMU_READ, &s);
	e = &c->tlbs[set][tlb_index(addr)];
	return addr - (write ? e->w : e->r) < PAGE_SIZE;
}

void mmu_drop_write(struct x86_cpu *c, u64 page)
{
	uintptr_t host = (uintptr_t)(c->pmap->hva + (page << PAGE_SHIFT));

	for (unsigned s = 0; s < TLB_SETS; s++)
		for (unsigned i = 0; c->tlb_used & (1u << s) && i < TLB_SIZE; i++) {
			struct tlb_entry *e = &c->tlbs[s][i];

			/* One that is invalid may be hit by chance, and stays so. */
			if (e->w + e->addend == host)
				e->w = invalid_tag(i);
		}
	big_drop_write(c, page);
}

const struct itlb_entry *mmu_fetch(struct x86_cpu *c, gva_t addr)
{
	struct itlb_entry *e;
	struct mmu_walk w;
	unsigned i;
	u8 *host;
	u64 tag;

	addr = linear_wrap(c, addr);
	i = (addr >> PAGE_SHIFT) & (ITLB_SIZE - 1);
	e = &c->itlb[i];
	tag = (addr & PAGE_MASK) | (c->cpl == 3);
	if (likely(e->tag == tag))
		return e;
	host = translate(c, addr, MMU_FETCH, &w);
	if (!host)
		return NULL;
	e->tag = tag;
	e->gpa = w.gpa;
	e->hva = host;
	e->code_ver = &c->pmap->code_ver[pmap_page(c->pmap, host)];
	bit_put(c->itlb_global, i, (w.perm & PERM_G) && c->cpl < 3);
	if (bit_test(c->itlb_global, i))
		return e;
	if (c->itlb_fills < ITLB_FILL_LOG)
		c->itlb_filled[c->itlb_fills] = (u8)i;
	c->itlb_fills += c->itlb_fills <= ITLB_FILL_LOG;
	return e;
}
