// SPDX-License-Identifier: MIT
/* From unit to unit without the run loop; and from host code back to the guest's instruction. */
#include "engine/bt/runtime.h"

/* An exit whose neighbour page changes (the same page in several address spaces) is linked anew
 * a few times, then left alone: each link takes room in the cache. */
#define MAX_LINKS 8

void bt_link(struct bt_cpu *b, u32 exit, u32 entry)
{
	struct bt_vm *bt = b->vm;
	struct bt_link *l = &bt_priv_of(bt)->links[exit];
	const struct bt_exit *e = &bt->exits[exit];
	const struct bt_entry *t = &bt->entries[entry];
	s64 dist = (s64)(b->pb[t->page] - b->pb[e->page]);
	/* From a failed check to its variant nothing is executed, so nothing need be polled. */
	u32 target = e->mode & BTM_SINGLE ? t->start : t->body, rel;

	if (!e->patch || l->entry == entry + 1 || l->times == MAX_LINKS)
		return;
	if (t->page != e->page && (dist >= INT32_MAX || dist <= INT32_MIN + 1))
		return;
	pthread_mutex_lock(&bt->lock);
	if (bt->pages[e->page].dead || bt->pages[t->page].dead)
		goto out;
	if (t->page != e->page) {
		target = bt_emit_link(bt, e, t, (s32)dist);
		if (!target)
			goto out;
	}
	l->entry = entry + 1;
	l->times++;
	rel = target - (e->patch + 4);
	/* Within a cache line (xlate.c): others execute the old or the new jump (SDM 3A 8.1.3 asks
	 * for more, but every processor does this). */
	__atomic_store_n((u32 *)(void *)(bt->cache.rw + e->patch), rel, __ATOMIC_RELEASE);
	b->stat[BT_STAT_LINKS]++;
out:
	pthread_mutex_unlock(&bt->lock);
}

void bt_unlink(struct bt_vm *bt, u32 entry)
{
	const struct bt_link *links = bt_priv_of(bt)->links;

	for (u32 i = 1; i < bt->nr_exits; i++) {
		const struct bt_exit *e = &bt->exits[i];

		/* The link knows it still: it isn't made again but to another entry. */
		if (links[i].entry == entry + 1)
			__atomic_store_n((u32 *)(void *)(bt->cache.rw + e->patch),
			                 e->stub - (e->patch + 4), __ATOMIC_RELEASE);
	}
}

static const struct bt_unit *unit_at(const struct bt_vm *bt, u32 host)
{
	u32 lo = 0, hi = bt->nr_units;

	while (hi - lo > 1) {
		u32 mid = lo + (hi - lo) / 2;

		if (bt->units[mid].host <= host)
			lo = mid;
		else
			hi = mid;
	}
	return hi && host - bt->units[lo].host < bt->units[lo].host_end - bt->units[lo].host
	               ? &bt->units[lo]
	               : NULL;
}

bool bt_find_insn(struct bt_vm *bt, u32 host, struct bt_unit *unit, struct bt_insn *insn)
{
	const struct bt_unit *u;
	bool found = false;
	u32 lo, hi;

	pthread_mutex_lock(&bt->lock);
	u = unit_at(bt, host);
	if (u && u->nr_insns && bt->insns[u->insns].host <= host) {
		lo = u->insns;
		hi = lo + u->nr_insns;
		/* Of instructions without code the last one is meant: they come first. */
		while (hi - lo > 1) {
			u32 mid = lo + (hi - lo) / 2;

			if (bt->insns[mid].host <= host)
				lo = mid;
			else
				hi = mid;
		}
		*unit = *u;
		*insn = bt->insns[lo];
		found = true;
	}
	pthread_mutex_unlock(&bt->lock);
	return found;
}
