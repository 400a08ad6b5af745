// SPDX-License-Identifier: MIT
/* The page walk (SDM 3A chapter 4) and the software TLB.
 *
 * An entry of the TLB holds rights as tags: a right that is missing (or must be seen by the
 * slow path: first write to a clean page, watched pages, devices) is a tag that cannot match at
 * that index. The inline check of the engines and this file are the isolation boundary: a host
 * pointer is only ever made here, from a pmap slot.
 *
 * A walk never raises; its callers do, when nothing has been changed yet. */
#include "cpu/x86/mmu.h"

#include <errno.h>

/* An address with a different index than entry i's: never matches there. */
static u64 invalid_tag(unsigned i)
{
	return (u64)(i ^ 1) << PAGE_SHIFT;
}

static unsigned tlb_index(gva_t addr)
{
	return (unsigned)(addr >> PAGE_SHIFT) & (TLB_SIZE - 1);
}

/* ---- the walk ---- */

struct walk_state {
	struct x86_cpu *c;
	u32 access;
	u32 err;       /* the constant part of the error code */
	bool user_acc; /* the access is made with user rights */
	bool w, u, nx; /* accumulated rights */
	u64 rsvd;      /* reserved bits of every entry */
};

static bool wp_on(const struct x86_cpu *c)
{
	return c->cr0 & CR0_WP;
}

/* Does the access pass the accumulated rights? (SDM 3A 4.6.1) */
static bool rights_ok(const struct walk_state *s)
{
	const struct x86_cpu *c = s->c;

	if (s->access & MMU_FETCH) {
		if (s->nx)
			return false;
		if (s->user_acc)
			return s->u;
		return !(s->u && (c->cr4 & CR4_SMEP));
	}
	if (s->user_acc)
		return s->u && (s->w || !(s->access & MMU_WRITE));
	if (s->u && (c->cr4 & CR4_SMAP) && ((s->access & MMU_SYS) || !(c->sflags & X86_RFLAGS_AC)))
		return false;
	return s->w || !(s->access & MMU_WRITE) || !wp_on(c);
}

static bool fail(const struct walk_state *s, struct mmu_walk *out, u32 err)
{
	out->err = s->err | err;
	return false;
}

/* Set bits in a guest entry as hardware does: atomically, and only if it is still the entry that
 * was read. */
static bool set_bits(void *entry, unsigned size, u64 old, u64 bits)
{
	if ((old & bits) == bits)
		return true;
	if (size == 8)
		return __sync_bool_compare_and_swap((u64 *)entry, old, old | bits);
	return __sync_bool_compare_and_swap((u32 *)entry, (u32)old, (u32)(old | bits));
}

static u64 read_entry(const struct x86_cpu *c, gpa_t pa, unsigned size, void **host)
{
	*host = pmap_ptr(c->pmap, pa, size);
	if (!*host)
		return ~0ull; /* nothing there: all ones */
	if (size == 8)
		return __atomic_load_n((u64 *)*host, __ATOMIC_RELAXED);
	return __atomic_load_n((u32 *)*host, __ATOMIC_RELAXED);
}

/* The leaf is found: check rights, set A and D, fill `out`. 1: ok, 0: fault, -1: entry changed,
 * walk again. */
static int leaf(struct walk_state *s, struct mmu_walk *out, void *host, unsigned size, u64 pte,
                gpa_t base, u64 page_size, gva_t addr)
{
	u64 bits = PTE_A | (s->access & MMU_WRITE ? PTE_D : 0);

	if (!rights_ok(s))
		return fail(s, out, PF_P);
	if (host && !set_bits(host, size, pte, bits))
		return -1;
	out->gpa = base + (addr & (page_size - 1));
	out->page_size = page_size;
	out->global = (pte & PTE_G) && (s->c->cr4 & CR4_PGE);
	out->writable = ((pte | bits) & PTE_D) && (s->w || (!s->user_acc && !wp_on(s->c)));
	return 1;
}

/* PAE and 4-level: entries of 8 bytes. `level` is that of the first table read from memory. */
static int walk8(struct walk_state *s, gva_t addr, u64 table, int level, struct mmu_walk *out)
{
	struct x86_cpu *c = s->c;

	for (;; level--) {
		unsigned shift = 12 + 9 * (unsigned)(level - 1);
		gpa_t pa = table + ((addr >> shift) & 511) * 8;
		void *host;
		u64 e = read_entry(c, pa, 8, &host);

		if (!(e & PTE_P))
			return fail(s, out, 0);
		if (e & s->rsvd || (level == 4 && (e & PTE_PS)))
			return fail(s, out, PF_P | PF_RSVD);
		s->w &= !!(e & PTE_W);
		s->u &= !!(e & PTE_U);
		s->nx |= (e & PTE_NX) && (c->efer & EFER_NXE);
		table = e & 0x000ffffffffff000ull;
		if (level == 1)
			return leaf(s, out, host, 8, e, table, PAGE_SIZE, addr);
		if ((e & PTE_PS) && level <= 3) {
			u64 size = 1ull << shift;

			if (table & (size - 1) & ~0x1000ull) /* bit 12 is PAT */
				return fail(s, out, PF_P | PF_RSVD);
			return leaf(s, out, host, 8, e, table & ~(size - 1), size, addr);
		}
		if (host && !set_bits(host, 8, e, PTE_A))
			return -1;
	}
}

static int walk_pae(struct walk_state *s, gva_t addr, struct mmu_walk *out)
{
	u64 e = s->c->pdpte[(addr >> 30) & 3];

	if (!(e & PTE_P))
		return fail(s, out, 0);
	s->rsvd |= 0x7ff0000000000000ull;
	return walk8(s, addr, e & 0x000ffffffffff000ull, 2, out);
}

static int walk32(struct walk_state *s, gva_t addr, struct mmu_walk *out)
{
	struct x86_cpu *c = s->c;
	void *host;
	gpa_t pa = (c->cr3 & 0xfffff000u) + ((addr >> 22) & 1023) * 4;
	u64 e = read_entry(c, pa, 4, &host);

	e &= 0xffffffff;
	if (!(e & PTE_P))
		return fail(s, out, 0);
	s->w &= !!(e & PTE_W);
	s->u &= !!(e & PTE_U);
	if ((e & PTE_PS) && (c->cr4 & CR4_PSE)) {
		gpa_t base = (e & 0xffc00000u) | ((e >> 13) & 0xff) << 32;

		if ((e & BIT(21)) || (base >> c->phys_bits))
			return fail(s, out, PF_P | PF_RSVD);
		return leaf(s, out, host, 4, e, base, 4 * MiB, addr);
	}
	if (host && !set_bits(host, 4, e, PTE_A))
		return -1;
	pa = (e & 0xfffff000u) + ((addr >> 12) & 1023) * 4;
	e = read_entry(c, pa, 4, &host) & 0xffffffff;
	if (!(e & PTE_P))
		return fail(s, out, 0);
	s->w &= !!(e & PTE_W);
	s->u &= !!(e & PTE_U);
	return leaf(s, out, host, 4, e, e & 0xfffff000u, PAGE_SIZE, addr);
}

bool mmu_walk(struct x86_cpu *c, gva_t addr, u32 access, struct mmu_walk *out)
{
	struct walk_state s;
	int r;

	if (!(c->mode & M_PG)) {
		out->gpa = c->mode & M_CS64 ? addr : (u32)addr;
		out->page_size = PAGE_SIZE;
		out->writable = true;
		out->global = false;
		return true;
	}
	do {
		s = (struct walk_state){.c = c, .access = access, .w = true, .u = true};
		s.user_acc = c->cpl == 3 && !(access & MMU_SYS);
		s.err = (access & MMU_WRITE ? PF_W : 0) | (s.user_acc ? PF_U : 0);
		if ((access & MMU_FETCH) &&
		    (((c->efer & EFER_NXE) && (c->cr4 & CR4_PAE)) || (c->cr4 & CR4_SMEP)))
			s.err |= PF_I;
		if (c->cr4 & CR4_PAE) {
			s.rsvd = ~((1ull << c->phys_bits) - 1) & 0x000ffffffffff000ull;
			if (!(c->efer & EFER_NXE))
				s.rsvd |= PTE_NX;
		}
		if (c->mode & M_LMA)
			r = walk8(&s, addr, c->cr3 & 0x000ffffffffff000ull, 4, out);
		else if (c->cr4 & CR4_PAE)
			r = walk_pae(&s, addr, out);
		else
			r = walk32(&s, addr, out);
	} while (r < 0);
	return r;
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
		u64 e = read_entry(c, (c->cr3 & 0xfffff000u) + ((addr >> 22) & 1023) * 4, 4, &host);

		if (!host || !(e & PTE_P))
			return false;
		if ((e & PTE_PS) && (c->cr4 & CR4_PSE)) {
			*gpa = ((e & 0xffc00000u) | ((e >> 13) & 0xff) << 32) +
			       (addr & (4 * MiB - 1));
			return true;
		}
		e = read_entry(c, (e & 0xfffff000u) + ((addr >> 12) & 1023) * 4, 4, &host);
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
		u64 e = read_entry(c, table + ((addr >> shift) & 511) * 8, 8, &host);

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

int mmu_debug_rw(struct x86_cpu *c, gva_t addr, void *buf, u64 len, bool write)
{
	u8 *p = buf;

	while (len) {
		u64 n = MIN(len, PAGE_SIZE - (addr & ~PAGE_MASK));
		gpa_t gpa;
		int err;

		if (!mmu_probe(c, addr, &gpa))
			return -EFAULT;
		err = write ? pmap_write(c->pmap, gpa, p, n) : pmap_read(c->pmap, gpa, p, n);
		if (err)
			return err;
		p += n;
		addr += n;
		len -= n;
	}
	return 0;
}

/* ---- flushes ---- */

static void flush_sets(struct x86_cpu *c)
{
	for (unsigned s = 0; s < TLB_SETS; s++) {
		if (!(c->tlb_used & (1u << s)))
			continue;
		for (unsigned i = 0; i < TLB_SIZE; i++)
			c->tlbs[s][i].r = c->tlbs[s][i].w = invalid_tag(i);
	}
}

void mmu_flush_all(struct x86_cpu *c)
{
	if (c->tlb_fills <= TLB_FILL_LOG) {
		for (unsigned n = 0; n < c->tlb_fills; n++) {
			unsigned i = c->tlb_filled[n] % TLB_SIZE;
			struct tlb_entry *e = &c->tlbs[c->tlb_filled[n] / TLB_SIZE][i];

			e->r = e->w = invalid_tag(i);
		}
	} else {
		flush_sets(c);
	}
	c->tlb_fills = 0;
	c->tlb_used = 0;
	if (c->itlb_fills <= ITLB_FILL_LOG) {
		for (unsigned n = 0; n < c->itlb_fills; n++)
			c->itlb[c->itlb_filled[n]].tag = ~0ull;
	} else {
		for (unsigned i = 0; i < ITLB_SIZE; i++)
			c->itlb[i].tag = ~0ull;
	}
	c->itlb_fills = 0;
	for (unsigned i = 0; i < 2; i++) {
		c->tlb_large[i].first = ~0ull;
		c->tlb_large[i].last = 0;
	}
	c->tlb_gen++;
	c->vcpu->stats.count[EXIT_TLB_FLUSH]++;
}

void mmu_init(struct x86_cpu *c)
{
	c->apic_page = ~0ull;
	c->code_ver_bias = (uintptr_t)c->pmap->code_ver -
	                   ((uintptr_t)c->pmap->hva >> PAGE_SHIFT) * sizeof(u32);
	c->tlb_used = (1u << TLB_SETS) - 1;
	c->tlb_fills = TLB_FILL_LOG + 1;
	c->itlb_fills = ITLB_FILL_LOG + 1;
	mmu_flush_all(c);
}

/* An entry is about to be filled from a page of this size. */
static void note_size(struct x86_cpu *c, gva_t addr, u64 size)
{
	unsigned half = addr >> 63;

	if (size == PAGE_SIZE)
		return;
	c->tlb_large[half].first = MIN(c->tlb_large[half].first, addr & ~(size - 1));
	c->tlb_large[half].last = MAX(c->tlb_large[half].last, addr | (size - 1));
}

void mmu_flush_page(struct x86_cpu *c, gva_t addr)
{
	unsigned i = tlb_index(addr);
	unsigned half = addr >> 63;

	if (addr >= c->tlb_large[half].first && addr <= c->tlb_large[half].last) {
		mmu_flush_all(c);
		return;
	}
	for (unsigned s = 0; s < TLB_SETS; s++)
		c->tlbs[s][i].r = c->tlbs[s][i].w = invalid_tag(i);
	c->itlb[(addr >> PAGE_SHIFT) & (ITLB_SIZE - 1)].tag = ~0ull;
	c->tlb_gen++;
}

/* ---- filling ---- */

static enum tlb_set set_of(const struct x86_cpu *c, u32 access)
{
	return access & MMU_SYS ? TLB_SUP : (enum tlb_set)((c->tlb - c->tlbs[0]) / TLB_SIZE);
}

/* One page of an access, translated. hva NULL: a device or nothing. */
struct span {
	u8 *hva;
	gpa_t gpa;
};

/* The local APIC's page hides what is below it. */
static const struct pmap_slot *ram_slot(const struct x86_cpu *c, gpa_t gpa)
{
	return (gpa & PAGE_MASK) == c->apic_page ? NULL : pmap_slot(c->pmap, gpa);
}

static void fill(struct x86_cpu *c, enum tlb_set set, gva_t addr, u8 *host, bool writable)
{
	const struct pmap *p = c->pmap;
	unsigned i = tlb_index(addr);
	struct tlb_entry *e = &c->tlbs[set][i];

	if (e->r != (addr & PAGE_MASK))
		e->w = invalid_tag(i);
	e->r = addr & PAGE_MASK;
	/* Stores through the second mapping don't look at the mark. Should the page be marked just
	 * now, by another vCPU, they fault. */
	if (unlikely(p->bt_hva && mmu_code_marked(c, (uintptr_t)host)))
		e->w = invalid_tag(i);
	else if (writable)
		e->w = e->r;
	e->addend = (uintptr_t)host - addr;
	e->bt_addend = e->addend + (p->bt_hva ? (uintptr_t)p->bt_hva - (uintptr_t)p->hva : 0);
	c->tlb_used |= 1u << set;
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

static void resolve(struct x86_cpu *c, gva_t addr, unsigned len, u32 access, struct span *out)
{
	enum tlb_set set = set_of(c, access);
	const struct pmap_slot *slot;
	struct tlb_entry *e;
	struct mmu_walk w;
	unsigned i;

	addr = linear_wrap(c, addr);
	i = tlb_index(addr);
	e = &c->tlbs[set][i];
	if (set != TLB_USER_AC && addr - (access & MMU_WRITE ? e->w : e->r) < PAGE_SIZE) {
		out->hva = (u8 *)(uintptr_t)(addr + e->addend);
		out->gpa = 0;
		return;
	}
	c->vcpu->stats.count[EXIT_PAGE_WALK]++;
	if (!mmu_walk(c, addr, access, &w))
		x86_raise_pf(c, addr, w.err);
	if (unlikely(c->step) && !(access & MMU_SYS))
		x86_check_data_bp(c, addr, len, access & MMU_WRITE);
	out->gpa = w.gpa;
	slot = ram_slot(c, w.gpa);
	if (!slot) {
		out->hva = NULL;
		return;
	}
	out->hva = slot->hva + (w.gpa - slot->base);
	if (set == TLB_USER_AC || (unlikely(c->step) && x86_page_watched(c, addr & PAGE_MASK)))
		return;
	note_size(c, addr, w.page_size);
	fill(c, set, addr, out->hva, w.writable);
}

static void alignment_check(struct x86_cpu *c, gva_t addr, unsigned size)
{
	if (unlikely(c->tlb == c->tlbs[TLB_USER_AC]) && (addr & (size - 1)))
		x86_raise_err(c, X86_AC, 0);
}

bool mmu_fill(struct x86_cpu *c, gva_t addr, bool write)
{
	enum tlb_set set = set_of(c, 0);
	const struct tlb_entry *e;
	struct span s;

	if (set == TLB_USER_AC || (unlikely(c->step) && x86_page_watched(c, addr & PAGE_MASK)))
		return false;
	resolve(c, addr, 1, write ? MMU_WRITE : MMU_READ, &s);
	e = &c->tlbs[set][tlb_index(addr)];
	return addr - (write ? e->w : e->r) < PAGE_SIZE;
}

static void drop_write(const struct x86_cpu *c, struct tlb_entry *e, unsigned i, uintptr_t host)
{
	/* An invalid tag plus the addend can't be mistaken: what it drops is invalid. */
	if (e->w + e->addend == host)
		e->w = invalid_tag(i);
}

void mmu_drop_write(struct x86_cpu *c, u64 page)
{
	uintptr_t host = (uintptr_t)(c->pmap->hva + (page << PAGE_SHIFT));

	if (c->tlb_fills <= TLB_FILL_LOG) {
		for (unsigned n = 0; n < c->tlb_fills; n++) {
			unsigned i = c->tlb_filled[n] % TLB_SIZE;

			drop_write(c, &c->tlbs[c->tlb_filled[n] / TLB_SIZE][i], i, host);
		}
		return;
	}
	for (unsigned s = 0; s < TLB_SETS; s++)
		for (unsigned i = 0; c->tlb_used & (1u << s) && i < TLB_SIZE; i++)
			drop_write(c, &c->tlbs[s][i], i, host);
}

/* ---- stores to pages with code ---- */

void mmu_code_written(struct x86_cpu *c, uintptr_t host, unsigned len)
{
	struct pmap *p = c->pmap;

	if (p->code_hook)
		x86_fpu_put(c); /* it may be ordinary code */
	pmap_code_written(p, pmap_page(p, (const u8 *)host), (u32)(host & ~PAGE_MASK), len);
	c->code_written = true;
	c->vcpu->stats.count[EXIT_SMC]++;
}

static inline void wrote(struct x86_cpu *c, const u8 *host, unsigned len)
{
	mmu_stored(c, (uintptr_t)host, len);
}

/* ---- devices ---- */

static u64 mmio_read(struct x86_cpu *c, gpa_t gpa, unsigned size)
{
	struct vcpu *v = c->vcpu;
	u64 begin = exit_begin(&v->stats);
	u64 val;

	x86_fpu_put(c);
	if (!v->irqchip || !v->irqchip->mmio ||
	    !v->irqchip->mmio(v->irqchip_dev, gpa, false, &val, size))
		val = bus_read(v->vm->bus, BUS_MMIO, gpa, size);
	exit_end(&v->stats, EXIT_MMIO_READ, begin);
	return val & size_mask(size);
}

static void mmio_write(struct x86_cpu *c, gpa_t gpa, u64 val, unsigned size)
{
	struct vcpu *v = c->vcpu;
	u64 begin = exit_begin(&v->stats);

	x86_fpu_put(c);
	if (!v->irqchip || !v->irqchip->mmio ||
	    !v->irqchip->mmio(v->irqchip_dev, gpa, true, &val, size))
		bus_write(v->vm->bus, BUS_MMIO, gpa, val, size);
	exit_end(&v->stats, EXIT_MMIO_WRITE, begin);
}

/* ---- loads and stores ---- */

static u64 load_host(const void *p, unsigned size)
{
	switch (size) {
	case 1:
		return *(const volatile u8 *)p;
	case 2:
		return *(const volatile u16 *)p;
	case 4:
		return *(const volatile u32 *)p;
	}
	return *(const volatile u64 *)p;
}

static void store_host(void *p, u64 val, unsigned size)
{
	switch (size) {
	case 1:
		*(volatile u8 *)p = (u8)val;
		break;
	case 2:
		*(volatile u16 *)p = (u16)val;
		break;
	case 4:
		*(volatile u32 *)p = (u32)val;
		break;
	default:
		*(volatile u64 *)p = val;
	}
}

static unsigned room(gva_t addr)
{
	return (unsigned)(PAGE_SIZE - (addr & ~PAGE_MASK));
}

static gva_t next_page(gva_t addr)
{
	return (addr & PAGE_MASK) + PAGE_SIZE;
}

/* An operand of up to 8 bytes: `n` of them on the page `s`, the others on `t`. */
struct operand {
	struct span s, t;
	unsigned n, size;
};

/* All that may raise. */
static inline void operand_resolve(struct x86_cpu *c, gva_t addr, unsigned size, u32 access,
                                   struct operand *o)
{
	if (!(access & MMU_SYS))
		alignment_check(c, addr, size);
	o->size = size;
	o->n = MIN(room(addr), size);
	resolve(c, addr, o->n, access, &o->s);
	if (unlikely(o->n < size))
		resolve(c, next_page(addr), size - o->n, access, &o->t);
}

static inline u64 operand_ld(struct x86_cpu *c, const struct operand *o)
{
	u64 val = 0;

	if (likely(o->n == o->size))
		return o->s.hva ? load_host(o->s.hva, o->size) : mmio_read(c, o->s.gpa, o->size);
	for (unsigned i = 0; i < o->size; i++) {
		const struct span *p = i < o->n ? &o->s : &o->t;
		unsigned off = i < o->n ? i : i - o->n;
		u64 b = p->hva ? load_host(p->hva + off, 1) : mmio_read(c, p->gpa + off, 1);

		val |= b << (i * 8);
	}
	return val;
}

static inline void operand_st(struct x86_cpu *c, const struct operand *o, u64 val)
{
	if (likely(o->n == o->size)) {
		if (o->s.hva) {
			store_host(o->s.hva, val, o->size);
			wrote(c, o->s.hva, o->size);
		} else {
			mmio_write(c, o->s.gpa, val, o->size);
		}
		return;
	}
	for (unsigned i = 0; i < o->size; i++) {
		const struct span *p = i < o->n ? &o->s : &o->t;
		unsigned off = i < o->n ? i : i - o->n;

		if (p->hva)
			store_host(p->hva + off, val >> (i * 8), 1);
		else
			mmio_write(c, p->gpa + off, (val >> (i * 8)) & 0xff, 1);
	}
	if (o->s.hva)
		wrote(c, o->s.hva, o->n);
	if (o->t.hva)
		wrote(c, o->t.hva, o->size - o->n);
}

static u64 ld(struct x86_cpu *c, gva_t addr, unsigned size, u32 access)
{
	struct operand o;

	operand_resolve(c, addr, size, access, &o);
	return operand_ld(c, &o);
}

static void st(struct x86_cpu *c, gva_t addr, u64 val, unsigned size, u32 access)
{
	struct operand o;

	operand_resolve(c, addr, size, access | MMU_WRITE, &o);
	operand_st(c, &o, val);
}

u64 mmu_rmw_locked(struct x86_cpu *c, gva_t addr, unsigned size,
                   u64 (*fn)(u64 old, const void *arg), const void *arg)
{
	struct operand o;
	u64 old;

	operand_resolve(c, addr, size, MMU_WRITE, &o);
	mmu_split_lock(c);
	old = operand_ld(c, &o);
	operand_st(c, &o, fn(old, arg));
	mmu_split_unlock(c);
	return old;
}

u64 mmu_ld(struct x86_cpu *c, gva_t addr, unsigned size)
{
	return ld(c, addr, size, MMU_READ);
}

void mmu_st(struct x86_cpu *c, gva_t addr, u64 val, unsigned size)
{
	st(c, addr, val, size, MMU_WRITE);
}

u64 mmu_ld_sys(struct x86_cpu *c, gva_t addr, unsigned size)
{
	return ld(c, addr, size, MMU_READ | MMU_SYS);
}

void mmu_st_sys(struct x86_cpu *c, gva_t addr, u64 val, unsigned size)
{
	st(c, addr, val, size, MMU_WRITE | MMU_SYS);
}

static void copy_piece(struct x86_cpu *c, const struct span *s, u8 *buf, unsigned n, bool write)
{
	for (unsigned i = 0; i < n;) {
		/* Naturally aligned pieces keep their atomicity; devices see the widest accesses.
		 */
		uintptr_t at = s->hva ? (uintptr_t)s->hva + i : (uintptr_t)(s->gpa + i);
		unsigned k = 8;

		while (k > n - i || (at & (k - 1)))
			k /= 2;
		if (!write) {
			u64 v = s->hva ? load_host(s->hva + i, k) : mmio_read(c, s->gpa + i, k);

			for (unsigned b = 0; b < k; b++)
				buf[i + b] = (u8)(v >> (b * 8));
		} else {
			u64 v = 0;

			for (unsigned b = 0; b < k; b++)
				v |= (u64)buf[i + b] << (b * 8);
			if (s->hva)
				store_host(s->hva + i, v, k);
			else
				mmio_write(c, s->gpa + i, v, k);
		}
		i += k;
	}
	if (write && s->hva)
		wrote(c, s->hva, n);
}

static void rw(struct x86_cpu *c, gva_t addr, u8 *buf, unsigned len, u32 access)
{
	struct span s, t = {0};
	unsigned n = MIN(room(addr), len);

	resolve(c, addr, n, access, &s);
	if (n < len)
		resolve(c, next_page(addr), len - n, access, &t);
	copy_piece(c, &s, buf, n, access & MMU_WRITE);
	if (n < len)
		copy_piece(c, &t, buf + n, len - n, access & MMU_WRITE);
}

void mmu_read(struct x86_cpu *c, gva_t addr, void *buf, unsigned len)
{
	rw(c, addr, buf, len, MMU_READ);
}

void mmu_write(struct x86_cpu *c, gva_t addr, const void *buf, unsigned len)
{
	rw(c, addr, (u8 *)buf, len, MMU_WRITE);
}

void mmu_probe_write(struct x86_cpu *c, gva_t addr, unsigned len)
{
	struct span s;
	unsigned n = MIN(room(addr), len);

	resolve(c, addr, n, MMU_WRITE, &s);
	if (n < len)
		resolve(c, next_page(addr), len - n, MMU_WRITE, &s);
}

void *mmu_host(struct x86_cpu *c, gva_t addr, unsigned len, bool write)
{
	struct span s;

	if (len > room(addr))
		return NULL;
	resolve(c, addr, len, write ? MMU_WRITE : MMU_READ, &s);
	return s.hva;
}

void mmu_wrote(struct x86_cpu *c, gva_t addr, unsigned len)
{
	unsigned n = MIN(room(addr), len);
	struct span s;

	resolve(c, addr, n, MMU_WRITE, &s);
	if (s.hva)
		wrote(c, s.hva, n);
	if (n < len) {
		resolve(c, next_page(addr), len - n, MMU_WRITE, &s);
		if (s.hva)
			wrote(c, s.hva, len - n);
	}
}

const struct itlb_entry *mmu_fetch(struct x86_cpu *c, gva_t addr)
{
	const struct pmap_slot *slot;
	struct itlb_entry *e;
	struct mmu_walk w;
	gpa_t page;
	u64 tag;

	addr = linear_wrap(c, addr);
	e = &c->itlb[(addr >> PAGE_SHIFT) & (ITLB_SIZE - 1)];
	tag = (addr & PAGE_MASK) | (c->cpl == 3);
	if (likely(e->tag == tag))
		return e;
	c->vcpu->stats.count[EXIT_PAGE_WALK]++;
	if (!mmu_walk(c, addr, MMU_FETCH, &w))
		x86_raise_pf(c, addr, w.err);
	page = w.gpa & PAGE_MASK;
	slot = ram_slot(c, page);
	if (!slot)
		return NULL;
	note_size(c, addr, w.page_size);
	if (c->itlb_fills < ITLB_FILL_LOG)
		c->itlb_filled[c->itlb_fills] = (u8)(e - c->itlb);
	c->itlb_fills += c->itlb_fills <= ITLB_FILL_LOG;
	e->tag = tag;
	e->gpa = page;
	e->hva = slot->hva + (page - slot->base);
	e->code_ver = &slot->code_ver[(page - slot->base) >> PAGE_SHIFT];
	return e;
}

void mmu_split_lock(struct x86_cpu *c)
{
	x86_fpu_put(c);
	pthread_mutex_lock(&c->vcpu->vm->split_lock);
}

void mmu_split_unlock(struct x86_cpu *c)
{
	pthread_mutex_unlock(&c->vcpu->vm->split_lock);
}
