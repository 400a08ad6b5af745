// SPDX-License-Identifier: MIT
/* A vCPU's own view of virtual addresses: where it runs which code page (pb), its jump cache; and
 * what a TLB flush takes away from them, and from the site slots (site.c).
 *
 * Everything here follows the TLB: whatever a flush of the TLB drops, the same flush drops here.
 * `flushes` moves each time, so that a stub that called C code knows not to go back into the code
 * that called it, which may rely on what was dropped (its own pb, the addends of merged checks). */
#include "engine/bt/runtime.h"

/* ---- by virtual page ---- */

static u32 vhash(u64 va)
{
	u64 page = va >> PAGE_SHIFT;

	return (u32)(page ^ page >> 12) & (BT_VHASH - 1);
}

static void v_unlink(struct bt_cpu *b, u32 id)
{
	u32 *p = &b->vhash[b->vbucket[id] - 1];

	while (*p != id + 1)
		p = &b->vnext[*p - 1];
	*p = b->vnext[id];
	b->vbucket[id] = 0;
}

/* An id whose pb was dropped stays where it is until it is entered elsewhere or met below. */
static void v_link(struct bt_cpu *b, u32 id, u64 va)
{
	u32 h = vhash(va);

	if (b->vbucket[id] == h + 1)
		return;
	if (b->vbucket[id])
		v_unlink(b, id);
	b->vnext[id] = b->vhash[h];
	b->vhash[h] = id + 1;
	b->vbucket[id] = (u16)(h + 1);
}

/* ---- pb ---- */

void bt_pb_set(struct bt_cpu *b, u32 id, u64 va, bool global)
{
	u8 bit = global ? 2 : 1;

	if (likely(b->pb[id] == va && (b->listed[id] & 1 || global)))
		return;
	b->pb[id] = va;
	v_link(b, id, va);
	/* In both lists when it was seen through mappings of both kinds: each list ends with it. */
	if (b->listed[id] & bit)
		return;
	b->listed[id] |= bit;
	if (global)
		b->entered[ARRAY_SIZE(b->entered) - 1 - b->nr_global++] = id;
	else
		b->entered[b->nr_entered++] = id;
}

void bt_pb_drop(struct bt_cpu *b, u32 id)
{
	b->pb[id] = BT_PB_NONE;
	b->flushes++;
}

static void drop_list(struct bt_cpu *b, u32 *list, u32 n, u8 bit)
{
	for (u32 i = 0; i < n; i++) {
		b->pb[list[i]] = BT_PB_NONE;
		b->listed[list[i]] &= (u8)~bit;
	}
}

static void drop_nonglobal(struct bt_cpu *b)
{
	drop_list(b, b->entered, b->nr_entered, 1);
	b->nr_entered = 0;
}

static void drop_all(struct bt_cpu *b)
{
	drop_nonglobal(b);
	drop_list(b, &b->entered[ARRAY_SIZE(b->entered) - b->nr_global], b->nr_global, 2);
	b->nr_global = 0;
}

void bt_pb_reset(struct bt_cpu *b)
{
	drop_all(b);
	for (u32 i = 0; i < BT_VHASH; i++) {
		for (u32 id = b->vhash[i]; id; id = b->vnext[id - 1])
			b->vbucket[id - 1] = 0;
		b->vhash[i] = 0;
	}
	b->flushes++;
}

/* ---- the jump cache ---- */

void bt_jc_set(struct bt_cpu *b, bool user, u64 target, u32 entry)
{
	u16 i = bt_jc_index(target);

	if (b->jc[user][i] == b->vm->stub[STUB_LOOKUP] && b->jc_log_n[user] <= BT_JC_LOG) {
		if (b->jc_log_n[user] < BT_JC_LOG)
			b->jc_log[user][b->jc_log_n[user]] = i;
		b->jc_log_n[user]++;
	}
	b->jc[user][i] = (uintptr_t)b->vm->cache.rx + b->vm->entries[entry].indirect;
	b->jc_entry[user][i] = entry + 1;
}

void bt_jc_reset(struct bt_cpu *b, bool user)
{
	const uintptr_t none = b->vm->stub[STUB_LOOKUP];

	if (b->jc_log_n[user] <= BT_JC_LOG)
		for (u32 i = 0; i < b->jc_log_n[user]; i++) {
			b->jc[user][b->jc_log[user][i]] = none;
			b->jc_entry[user][b->jc_log[user][i]] = 0;
		}
	else
		for (u32 i = 0; i < BT_JC_SIZE; i++) {
			b->jc[user][i] = none;
			b->jc_entry[user][i] = 0;
		}
	b->jc_log_n[user] = 0;
}

/* ---- the TLB's hooks ---- */

void bt_tlb_flushed(struct x86_cpu *c, bool global_too)
{
	struct bt_cpu *b = bt_of(c);

	b->flushes++;
	bt_sites_drop(b, 1);
	/* What a slot holds was in the TLB since the last flush of its kind. */
	if (global_too || c->tlb_sup_nonglobal) {
		b->stat[BT_STAT_SUP_DROPS]++;
		bt_sites_drop(b, 0);
		c->tlb_sup_nonglobal = false;
		c->tlb_sup_low &= !global_too;
	}
	if (global_too)
		drop_all(b);
	else
		drop_nonglobal(b);
}

void bt_tlb_page_flushed(struct x86_cpu *c, gva_t page)
{
	struct bt_cpu *b = bt_of(c);
	u32 *p = &b->vhash[vhash(page)];

	page &= PAGE_MASK;
	b->flushes++;
	/* All slots: those that are used are filled again from the TLB, and a run of flushes finds
	 * the logs empty. But a page of the lower half is rarely in one of the supervisor's. */
	bt_sites_drop(b, 1);
	if (page >> 63 || c->tlb_sup_low) {
		b->stat[BT_STAT_SUP_DROPS]++;
		bt_sites_drop(b, 0);
	}
	while (*p) {
		u32 id = *p - 1;

		if (b->pb[id] == page)
			b->pb[id] = BT_PB_NONE;
		if (b->pb[id] != BT_PB_NONE) {
			p = &b->vnext[id];
			continue;
		}
		*p = b->vnext[id];
		b->vbucket[id] = 0;
	}
}
