// SPDX-License-Identifier: MIT
/* Site slots: the pages, and the pieces of large pages, that translated code may access without
 * asking (bt.h, emit_mem.c).
 *
 * A user's slot holds a page; the code compares with what the operand's size leaves of it. A
 * supervisor's holds its limit itself: Linux maps all memory by large pages, and its slabs, page
 * tables and page structures are everywhere in there, so that a slot of one page missed most of the
 * time where a process is made or ends. So the limit must be right for every site that shares the
 * slot: each size has slots of its own, a pool, in chunks as they are asked for. Ranges of merged
 * checks are rounded up to a pool's size. */
#include "engine/bt/runtime.h"
#include "engine/bt/xlate.h"

#define CHUNK        256u
#define CHUNKS       (BT_SITES / CHUNK)
#define STACK_CHUNKS (BT_STACK_SLOTS / CHUNK)
#define CLASS_BYTES  ((u32)sizeof(struct bt_range) * BT_SITES) /* of the supervisor's */

_Static_assert(offsetof(struct bt_range, page) == offsetof(struct bt_site, page) &&
                       offsetof(struct bt_range, addend) == offsetof(struct bt_site, addend),
               "code that does not look at the limit need not know which it is");
/* cppcheck-suppress [integerOverflow, signConversion]; the branch of BT_GS_SITE not taken */
_Static_assert(BT_GS_SITE(BT_USER_R, 0) > BT_GS_SITE(BT_SUPAC_W, 0), "first_class(), log_of()");

static const u16 spans[BT_POOLS] = {
	[BT_POOL_PAGE] = 0,
	1,
	2,
	4,
	8,
	16,
	24,
	32,
	48,
	64,
	96,
	128,
	192,
	256,
	384,
	512,
	1024,
	2048,
	4096,
};

/* ---- pools ---- */

struct bt_pools {
	u8 owner[BT_USER_R][CHUNKS]; /* pool + 1; 0: nobody's */
	struct {
		u8 chunk; /* the latest */
		u16 left; /* of its slots */
	} at[BT_USER_R][BT_POOLS];
	u32 next[BT_CLASSES]; /* user classes: slots in turn */
};

size_t bt_pools_size(void)
{
	return sizeof(struct bt_pools);
}

unsigned bt_pool(unsigned size)
{
	unsigned p = BT_POOL_PAGE + 1;

	while (spans[p] < size)
		p++;
	return p;
}

unsigned bt_pool_span(unsigned pool)
{
	return spans[pool];
}

/* A chunk of nobody, else the pool's next one: its slots are shared then. Nobody's are kept for
 * pools that have none. */
static unsigned chunk_next(struct bt_pools *s, unsigned cls, unsigned pool)
{
	unsigned at = s->at[cls][pool].chunk, free = 0, own = 0, found = CHUNKS;

	for (unsigned i = 0; i < CHUNKS; i++) {
		unsigned k = (at + 1 + i) % CHUNKS;

		if (k < STACK_CHUNKS)
			continue;
		own += s->owner[cls][k] == pool + 1;
		if (!s->owner[cls][k])
			free++;
	}
	for (unsigned i = 0; i < CHUNKS && found == CHUNKS; i++) {
		unsigned k = (at + 1 + i) % CHUNKS;

		if (k >= STACK_CHUNKS &&
		    s->owner[cls][k] == (!own || free > BT_POOLS ? 0 : pool + 1))
			found = k;
	}
	s->owner[cls][found] = (u8)(pool + 1);
	return found;
}

u32 bt_site_new(struct bt_pools *s, unsigned cls, unsigned pool)
{
	unsigned i;

	if (cls >= BT_USER_R) {
		/* cppcheck-suppress arrayIndexOutOfBoundsCond; cls < BT_CLASSES */
		i = BT_STACK_SLOTS + s->next[cls]++ % (BT_SITES - BT_STACK_SLOTS);
	} else {
		if (!s->at[cls][pool].left) {
			s->at[cls][pool].chunk = (u8)chunk_next(s, cls, pool);
			s->at[cls][pool].left = CHUNK;
		}
		i = (s->at[cls][pool].chunk + 1u) * CHUNK - s->at[cls][pool].left--;
	}
	return (u32)BT_GS_SITE(cls, i);
}

enum bt_class bt_site_class(u32 slot)
{
	if (slot < (u32)BT_GS(site))
		return (enum bt_class)((slot - (u32)BT_GS(range)) / CLASS_BYTES);
	return BT_USER_R + (enum bt_class)((slot - (u32)BT_GS(site)) /
	                                   (BT_SITES * (u32)sizeof(struct bt_site)));
}

static unsigned pool_of(const struct bt_vm *bt, u32 slot)
{
	u32 i = (slot - (u32)BT_GS(range)) / (u32)sizeof(struct bt_range);

	if (i % BT_SITES < BT_STACK_SLOTS)
		return BT_POOL_PAGE;
	i = bt->xlate->pools->owner[i / BT_SITES][i % BT_SITES / CHUNK];
	return i ? i - 1 : BT_POOL_PAGE;
}

u32 bt_site_span(const struct bt_vm *bt, u32 slot)
{
	return spans[pool_of(bt, slot)];
}

/* ---- filling ---- */

static struct bt_site *slot_at(struct bt_cpu *b, u32 slot)
{
	return (struct bt_site *)(void *)((u8 *)b->c + slot);
}

/* Which log: the supervisor's slots that hold no user page are emptied less often. */
static unsigned log_of(enum bt_class cls)
{
	return cls >= BT_SUPAC_R;
}

static unsigned first_class(unsigned log)
{
	return log ? BT_SUPAC_R : BT_SUP_R;
}

static unsigned end_class(unsigned log)
{
	return log ? BT_CLASSES : BT_SUPAC_R;
}

/* The range around the large page's piece. */
static bool fill_big(const struct bt_cpu *b, enum bt_class cls, struct bt_range *s, gva_t addr,
                     u32 span)
{
	unsigned i = (unsigned)(addr >> TLB_BIG_SHIFT) % TLB_BIG;
	const struct tlb_entry *e = &b->c->tlb_big[cls / 2][i];
	const struct tlb_run *r = &b->c->tlb_run[cls / 2][i];
	u64 base = cls & 1 ? r->w_base : r->r_base, size = cls & 1 ? r->w_size : r->r_size;

	if ((cls & 1 ? e->w : e->r) != (addr & ~(TLB_BIG_SIZE - 1)) || addr - base > size - span)
		return false;
	s->addend = e->bt_addend;
	s->limit = size - span;
	s->page = base;
	return true;
}

/* As the stubs do it (stub.c). */
void bt_site_fill(struct bt_cpu *b, u32 slot, gva_t addr)
{
	enum bt_class cls = bt_site_class(slot);
	unsigned i = (unsigned)(addr >> PAGE_SHIFT) & (TLB_SIZE - 1), l = log_of(cls);
	struct bt_site *s = slot_at(b, slot);

	if (s->page == BT_PB_NONE && b->site_log_n[l] <= BT_SITE_LOG) {
		if (b->site_log_n[l] < BT_SITE_LOG)
			b->site_log[l][b->site_log_n[l]] = slot;
		b->site_log_n[l]++;
	}
	if (cls < BT_USER_R) {
		struct bt_range *r = (struct bt_range *)(void *)s;
		u32 span = bt_site_span(b->vm, slot);

		if (span && fill_big(b, cls, r, addr, span))
			return;
		r->limit = PAGE_SIZE - span;
	}
	s->addend = b->c->tlbs[cls / 2][i].bt_addend;
	s->page = addr & PAGE_MASK;
}

/* ---- emptying ---- */

static void class_drop(struct bt_cpu *b, unsigned cls)
{
	if (cls < BT_USER_R)
		for (unsigned i = 0; i < BT_SITES; i++)
			b->range[cls][i].page = BT_PB_NONE;
	else
		for (unsigned i = 0; i < BT_SITES; i++)
			b->site[cls - BT_USER_R][i].page = BT_PB_NONE;
}

void bt_sites_init(struct bt_cpu *b)
{
	for (unsigned i = 0; i < BT_POOLS; i++)
		b->span[i] = spans[i];
	for (unsigned cls = 0; cls < BT_CLASSES; cls++)
		class_drop(b, cls);
}

void bt_sites_drop(struct bt_cpu *b, unsigned l)
{
	if (b->site_log_n[l] <= BT_SITE_LOG)
		for (u32 i = 0; i < b->site_log_n[l]; i++)
			slot_at(b, b->site_log[l][i])->page = BT_PB_NONE;
	else
		for (unsigned cls = first_class(l); cls < end_class(l); cls++)
			class_drop(b, cls);
	b->site_log_n[l] = 0;
}

/* BT_PB_NONE plus an addend is no host address. */
static void drop_write(struct bt_cpu *b, u32 slot, uintptr_t host)
{
	struct bt_site *s = slot_at(b, slot);
	u64 size = PAGE_SIZE;

	if (bt_site_class(slot) < BT_USER_R)
		size += ((struct bt_range *)(void *)s)->limit;
	if (host - (s->page + s->addend) < size)
		s->page = BT_PB_NONE;
}

void bt_sites_drop_write(struct bt_cpu *b, u64 ram_page)
{
	uintptr_t host = (uintptr_t)b->c->pmap->bt_hva + (ram_page << PAGE_SHIFT);

	/* A slot that is emptied is logged again when it is filled: twice does no harm. */
	for (unsigned l = 0; l < 2; l++) {
		if (b->site_log_n[l] <= BT_SITE_LOG) {
			for (u32 i = 0; i < b->site_log_n[l]; i++)
				drop_write(b, b->site_log[l][i], host);
			continue;
		}
		for (unsigned cls = first_class(l) + 1; cls < end_class(l); cls += 2)
			for (unsigned i = 0; i < BT_SITES; i++)
				drop_write(b, (u32)BT_GS_SITE(cls, i), host);
	}
}
