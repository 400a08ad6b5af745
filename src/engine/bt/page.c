// SPDX-License-Identifier: MIT
/* Code pages and entries, and how they die when their bytes change.
 *
 * A RAM page with translated code is marked (mem/pmap.h), and read-only in bt_hva, where translated
 * code stores. So a store by translated code faults and is made by interp instead; it, and
 * every other store through pmap->hva, comes to bt_code_written(), which compares it with the bytes
 * that are translated. If it hits some, the pages of all modes die: their numbers are posted
 * to the vCPUs, each of which closes them (pb) at its next safe point. Instructions that another
 * CPU changes may run once more until then, as on hardware without a serialising instruction.
 *
 * Readers without the lock (runtime.h): hash chains grow at their heads only; dead pages are taken
 * out, so that what looks for a page that was modified often does not pass all its predecessors,
 * but keep their place in the chain for who stands on them. */
#include <string.h>
#include <sys/mman.h>

#include "engine/bt/runtime.h"

/* ---- pages ---- */

static u32 *page_slot(struct bt_vm *bt, gpa_t gpa, u32 mode)
{
	u64 h = (gpa ^ (u64)mode << 3) * 0x9e3779b97f4a7c15ull;

	return &bt->page_hash[(u32)(h >> 40) & bt->page_hash_mask];
}

static u32 page_find(struct bt_vm *bt, gpa_t gpa, u32 mode)
{
	u32 id = __atomic_load_n(page_slot(bt, gpa, mode), __ATOMIC_ACQUIRE);

	while (id != BT_NONE) {
		const struct bt_page *p = &bt->pages[id];

		if (p->gpa == gpa && p->mode == mode &&
		    !__atomic_load_n(&p->dead, __ATOMIC_RELAXED))
			return id;
		id = p->hash_next;
	}
	return BT_NONE;
}

/* Under the lock. Who is on the chain just now goes on by what the page still points to. */
static void page_unlink(struct bt_vm *bt, u32 id)
{
	const struct bt_page *p = &bt->pages[id];
	u32 *at = page_slot(bt, p->gpa, p->mode);

	while (*at != id) {
		if (*at == BT_NONE)
			return;
		at = &bt->pages[*at].hash_next;
	}
	__atomic_store_n(at, p->hash_next, __ATOMIC_RELEASE);
}

static u32 page_make(struct bt_vm *bt, gpa_t gpa, u64 ram_page, u32 mode)
{
	struct bt_ram *ram = &bt_priv_of(bt)->ram[ram_page];
	u32 id = bt->nr_pages, *slot = page_slot(bt, gpa, mode);

	if (id == BT_MAX_PAGES)
		return BT_NONE;
	bt->pages[id] = (struct bt_page){
		.gpa = gpa,
		.ram_page = ram_page,
		.mode = mode,
		.units = BT_NONE,
		.hash_next = *slot,
		.ram_next = ram->first ? ram->first - 1 : BT_NONE,
	};
	bt->nr_pages++;
	ram->first = id + 1;
	__atomic_store_n(slot, id, __ATOMIC_RELEASE);
	return id;
}

u32 bt_page_get(struct bt_vm *bt, gpa_t gpa, u64 ram_page, u32 mode)
{
	u32 id = page_find(bt, gpa, mode);

	if (likely(id != BT_NONE))
		return id;
	pthread_mutex_lock(&bt->lock);
	id = page_find(bt, gpa, mode);
	if (id == BT_NONE)
		id = page_make(bt, gpa, ram_page, mode);
	pthread_mutex_unlock(&bt->lock);
	return id;
}

/* With the lock: while it is held, the mark of a page with translated code neither goes nor comes
 * back, since whoever takes it off does it under the lock. */
bool bt_page_ready(struct bt_vm *bt, u32 id)
{
	const struct bt_page *p = &bt->pages[id];

	return !p->dead && bt_priv_of(bt)->ram[p->ram_page].protected &&
	       pmap_code_settled(bt->vm->pmap, p->ram_page);
}

bool bt_page_hot(struct bt_vm *bt, u64 ram_page)
{
	struct bt_priv *pv = bt_priv_of(bt);
	struct bt_ram *r = &pv->ram[ram_page];

	if (likely(__atomic_load_n(&r->writes, __ATOMIC_RELAXED) < BT_HOT_WRITES) || pv->never_hot)
		return false;
	pthread_mutex_lock(&bt->lock);
	if (r->cool++ == 255) /* give it another chance, but a shorter one */
		r->writes = BT_HOT_WRITES / 2;
	pthread_mutex_unlock(&bt->lock);
	return true;
}

/* ---- entries ---- */

static u32 *entry_slot(struct bt_vm *bt, u32 page, u16 off, bool single)
{
	u64 h = ((u64)page << 13 | (u64)off << 1 | single) * 0x9e3779b97f4a7c15ull;

	return &bt->entry_hash[(u32)(h >> 40) & bt->entry_hash_mask];
}

u32 bt_entry_find(struct bt_vm *bt, u32 page, u16 off, bool single)
{
	u32 i = __atomic_load_n(entry_slot(bt, page, off, single), __ATOMIC_ACQUIRE);

	while (i != BT_NONE) {
		const struct bt_entry *e = &bt->entries[i];

		if (e->page == page && e->off == off && e->single == single)
			break;
		i = e->hash_next;
	}
	return i;
}

bool bt_entry_stale(const struct bt_vm *bt, u32 entry)
{
	u32 page2 = bt->units[bt->entries[entry].unit].page2;

	return unlikely(page2 != BT_NONE) &&
	       __atomic_load_n(&bt->pages[page2].dead, __ATOMIC_RELAXED);
}

u32 bt_entry_add(struct bt_vm *bt, const struct bt_entry *e)
{
	u32 i = bt->nr_entries, *slot = entry_slot(bt, e->page, e->off, e->single);

	if (i == bt->max_entries)
		return BT_NONE;
	bt->entries[i] = *e;
	bt->entries[i].hash_next = *slot;
	bt->nr_entries++;
	__atomic_store_n(slot, i, __ATOMIC_RELEASE);
	return i;
}

/* ---- bytes that are translated ---- */

static u64 word_mask(unsigned first, unsigned last) /* bits of one word */
{
	return (~0ull << first) & (~0ull >> (63 - last));
}

void bt_page_cover(struct bt_vm *bt, u32 page, unsigned off, unsigned len)
{
	struct bt_ram *r = &bt_priv_of(bt)->ram[bt->pages[page].ram_page];
	unsigned end = MIN(off + len, (unsigned)PAGE_SIZE);

	while (off < end) {
		unsigned w = off / 64, last = MIN(end - 1, w * 64 + 63);

		r->covered[w] |= word_mask(off % 64, last % 64);
		off = last + 1;
	}
}

bool bt_page_covered(const struct bt_vm *bt, u32 page, unsigned off)
{
	const struct bt_priv *pv = bt->priv;

	return pv->ram[bt->pages[page].ram_page].covered[off / 64] >> off % 64 & 1;
}

bool bt_page_modified(const struct bt_vm *bt, u32 page)
{
	const struct bt_priv *pv = bt->priv;

	return pv->ram[bt->pages[page].ram_page].writes >= BT_MODIFIED;
}

static bool covered(const struct bt_ram *r, unsigned off, unsigned len)
{
	unsigned end = MIN(off + len, (unsigned)PAGE_SIZE);

	while (off < end) {
		unsigned w = off / 64, last = MIN(end - 1, w * 64 + 63);

		if (r->covered[w] & word_mask(off % 64, last % 64))
			return true;
		off = last + 1;
	}
	return false;
}

/* ---- marks ---- */

static void want_flush(struct bt_vm *bt)
{
	__atomic_store_n(&bt_priv_of(bt)->want_flush, true, __ATOMIC_SEQ_CST);
	bt_kick_all(bt);
}

static u8 *protected_page(const struct bt_vm *bt, u64 page)
{
	return bt->vm->pmap->bt_hva + (page << PAGE_SHIFT);
}

void bt_code_marked(void *arg, u64 page)
{
	struct bt_vm *bt = arg;
	struct bt_priv *pv = bt_priv_of(bt);
	struct bt_ram *r = &pv->ram[page];

	pthread_mutex_lock(&bt->lock);
	if (!r->protected) {
		r->protected = !mprotect(protected_page(bt, page), PAGE_SIZE, PROT_READ);
		pv->nr_protected += r->protected;
		/* Too many mappings. Until the flush a page without protection is not translated.
		 */
		if (!r->protected || pv->nr_protected > BT_MAX_PROTECTED)
			want_flush(bt);
	}
	pthread_mutex_unlock(&bt->lock);
}

static void unprotect(struct bt_vm *bt, u64 page)
{
	struct bt_priv *pv = bt_priv_of(bt);
	struct bt_ram *r = &pv->ram[page];

	/* A failure leaves it read-only, which is slow, not wrong: the next fault comes here again.
	 */
	if (!r->protected || mprotect(protected_page(bt, page), PAGE_SIZE, PROT_READ | PROT_WRITE))
		return;
	r->protected = false;
	pv->nr_protected--;
}

static void pages_kill(struct bt_vm *bt, struct bt_ram *r)
{
	struct bt_priv *pv = bt_priv_of(bt);

	for (u32 id = r->first ? r->first - 1 : BT_NONE; id != BT_NONE;
	     id = bt->pages[id].ram_next) {
		struct bt_page *p = &bt->pages[id];

		__atomic_store_n(&p->dead, true, __ATOMIC_RELAXED);
		page_unlink(bt, id);
		for (u32 u = p->units; u != BT_NONE; u = bt->units[u].next)
			bt->units[u].dead = true;
		pv->ring[pv->ring_n % BT_RING] = id;
		__atomic_store_n(&pv->ring_n, pv->ring_n + 1, __ATOMIC_RELEASE);
		pv->invalidated++;
	}
	r->first = 0;
	memset(r->covered, 0, sizeof(r->covered));
	if (r->writes < 255)
		r->writes++;
	r->cool = 0;
	bt_kick_all(bt);
}

void bt_code_written(void *arg, u64 page, u32 off, u32 len)
{
	struct bt_vm *bt = arg;
	struct bt_ram *r = &bt_priv_of(bt)->ram[page];
	bool keep;

	pthread_mutex_lock(&bt->lock);
	keep = r->first && !covered(r, off, len);
	if (!keep) {
		if (r->first)
			pages_kill(bt, r);
		unprotect(bt, page);
	}
	pmap_code_moved(bt->vm->pmap, page, keep);
	pthread_mutex_unlock(&bt->lock);
}

void bt_pages_reset(struct bt_vm *bt)
{
	struct bt_priv *pv = bt_priv_of(bt);
	struct pmap *p = bt->vm->pmap;

	for (u32 id = 0; id < bt->nr_pages; id++) {
		struct bt_ram *r = &pv->ram[bt->pages[id].ram_page];

		r->first = 0;
		memset(r->covered, 0, sizeof(r->covered));
	}
	/* What interp has decoded is marked as well. */
	for (u64 i = 0; i < pv->nr_ram; i++) {
		if (!(__atomic_load_n((u32 *)&p->code_ver[i], __ATOMIC_RELAXED) & PMAP_CODE_MARKED))
			continue;
		pmap_code_moved(p, i, false);
		pv->ram[i].protected = false;
	}
	pv->nr_protected = 0;
	mprotect(p->bt_hva, p->ram_size, PROT_READ | PROT_WRITE);
}

void bt_set_strict(struct bt_vm *bt, bool user)
{
	if (bt->strict_flags[user])
		return;
	bt->strict_flags[user] = true;
	want_flush(bt);
}
