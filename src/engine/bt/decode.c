// SPDX-License-Identifier: MIT
/* What belongs to a unit, where control goes in it, and which arithmetic flags matter.
 *
 * A unit is found by a sweep: instruction after instruction, past conditional jumps and calls,
 * past unconditional ones too when a jump seen before leads right behind them. So loops and
 * if/else of a function land in one unit, with labels inside.
 *
 * Flags decide where a check is cheap: a comparison destroys them. They are dead where every path
 * writes them before it reads them. Paths that leave the page are followed a few instructions far
 * (peek()); what cannot be seen counts as live. Two conventions bound this, as in every ABI:
 * nobody returns a value in the arithmetic flags... unless the code behind a call reads them; then
 * bt_set_strict() makes them live across returns from now on, before the call is run (BT_H_STRICT);
 * and nobody passes them to a function, unless that is seen where it is called. */
#include "engine/bt/xlate.h"

#include <string.h>

/* ---- the sweep ---- */

static bool in_page(s32 rel)
{
	return rel >= 0 && rel < (s32)PAGE_SIZE;
}

/* Is `off` the target of a forward jump of what has been decoded? */
static bool wanted(const struct xlate *x, unsigned off)
{
	return off < PAGE_SIZE && (x->wanted[off / 64] >> off % 64 & 1);
}

static void want_target(struct xlate *x, const struct gi *g)
{
	if ((g->kind == GI_JMP || g->kind == GI_JCC || g->kind == GI_JRCXZ) && in_page(g->target))
		x->wanted[g->target / 64] |= BIT(g->target % 64);
}

/* What an instruction is seen to read. System instructions put flags into images that nobody
 * takes a result of a function from, but for PUSHF of user code. */
static u8 seen_reads(const struct xlate *x, const struct gi *g)
{
	if (g->kind == GI_HELPER && g->helper == BT_H_PUSHF && x->user)
		return g->use;
	return g->kind != GI_HELPER || (g->helper == BT_H_INTERP && !g->ends) ? g->tested : 0;
}

/* ---- what is looked at again ---- */

/* Look-ahead meets the same instructions again and again, and what the sweep has decoded. What it
 * asks about them is kept, by their place; their bytes tell whether it still holds. */
static struct glance *glance_slot(struct xlate *x, const u8 *code)
{
	return &x->glances[((uintptr_t)code * 0x9e3779b97f4a7c15ull) >> 52 & (GLANCES - 1)];
}

static void glance_keep(struct xlate *x, const u8 *code, const u8 *bytes, const struct gi *g)
{
	struct glance *k = glance_slot(x, code);

	/* What a bad instruction is depends on more bytes than the one that it has here. */
	if (g->off > PAGE_SIZE - sizeof(k->bytes) ||
	    (g->kind == GI_HELPER && g->ends && g->len == 1))
		return;
	memcpy(k->bytes, bytes, g->len);
	k->len = g->len;
	k->mode = (u8)(x->mode & BTM_PAGE_MASK);
	k->kind = g->kind;
	k->ends = g->ends;
	k->use = g->use;
	k->kill = g->kill;
	k->reads = seen_reads(x, g);
	k->dist = g->target - (s32)g->off;
}

/* false: it reaches into the next page. */
static bool glance_at(struct xlate *x, const u8 *page, unsigned off, struct glance *out)
{
	const struct glance *k = glance_slot(x, page + off);
	u8 buf[16];
	struct gi g;

	if (k->len && k->mode == (u8)(x->mode & BTM_PAGE_MASK) &&
	    off <= PAGE_SIZE - sizeof(k->bytes)) {
		*out = *k;
		/* Guest memory changes: but what is compared is what was decoded. */
		if (!memcmp(out->bytes, page + off, out->len))
			return true;
	}
	if (!gi_decode(x, page, NULL, off, buf, &g))
		return false;
	out->len = g.len;
	out->kind = g.kind;
	out->ends = g.ends;
	out->use = g.use;
	out->kill = g.kill;
	out->reads = seen_reads(x, &g);
	out->dist = g.target - (s32)off;
	glance_keep(x, page + off, buf, &g);
	return true;
}

/* Boot loaders have code of 16 and of 32 bits and data on one page, and behind a call that changes
 * the mode lies none of this mode. What is swept there in vain counts as code: when the page is
 * seen to be written again and again, units of 32-bit code end at calls, and data kills no
 * translations. */
static void sweep(struct xlate *x, unsigned off)
{
	bool mixed = !x->code64 && bt_page_modified(x->bt, x->page);

	memset(x->wanted, 0, sizeof(x->wanted));
	while (x->nr < UNIT_MAX_INSNS && off < PAGE_SIZE) {
		struct gi *g = &x->gi[x->nr];
		unsigned len;

		/* What is translated already is jumped to, not translated again. */
		if (x->nr && !wanted(x, off) && bt_page_covered(x->bt, x->page, off) &&
		    bt_entry_find(x->bt, x->page, (u16)off, x->mode & BTM_SINGLE) != BT_NONE)
			return;
		/* Only the first may reach into the next page: see emit_straddle_check(). */
		len = gi_decode(x, x->code, x->nr ? NULL : x->next, off, x->bytes + off, g);
		if (!len)
			return;
		x->nr++;
		want_target(x, g);
		glance_keep(x, x->code + off, x->bytes + off, g);
		off += len;
		if (g->ends && !wanted(x, off))
			return;
		if (g->kind == GI_STAC && !wanted(x, off))
			return;
		if (x->mode & BTM_SINGLE && (g->kind == GI_JCC || g->kind == GI_CALL ||
		                             g->kind == GI_CALL_IND || g->kind == GI_JRCXZ))
			return; /* back to the checked variant as soon as may be */
		if (mixed && (g->kind == GI_CALL || g->kind == GI_CALL_IND))
			return;
	}
}

/* ---- labels and liveness ---- */

static int insn_at(const struct xlate *x, s32 off)
{
	unsigned lo = 0, hi = x->nr;

	if (!in_page(off))
		return -1;
	while (lo < hi) {
		unsigned mid = (lo + hi) / 2;

		if (x->gi[mid].off < off)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo < x->nr && x->gi[lo].off == off ? (int)lo : -1;
}

static void find_labels(struct xlate *x)
{
	x->gi[0].label = true;
	for (unsigned n = 0; n < x->nr; n++) {
		struct gi *g = &x->gi[n];

		if (g->kind == GI_JMP || g->kind == GI_JCC || g->kind == GI_JRCXZ) {
			g->inner = insn_at(x, g->target);
			if (g->inner >= 0) {
				x->gi[g->inner].label = true;
				if ((unsigned)g->inner <= n) {
					x->gi[g->inner].backward = true;
					x->gi[g->inner].nr_back++;
				}
			}
		}
		if ((g->kind == GI_CALL || g->kind == GI_CALL_IND || g->kind == GI_STAC ||
		     g->ends) &&
		    n + 1 < x->nr)
			x->gi[n + 1].label = true;
	}
}

/* What is known of the flags at a place: `live` counts what can't be seen as reads, `reads` only
 * what is seen to be read. */
struct seen {
	u8 live, reads;
};

/* Look ahead at page offset `off`, for `budget` instructions. */
static struct seen look(struct xlate *x, const u8 *code, u32 page, s32 off, unsigned *budget,
                        unsigned depth)
{
	struct seen s = {0, 0}, t;
	bool called = false; /* nobody passes flags to a function, unless seen */
	bool came = true;    /* by a jump: only there entries are looked for */
	u8 need = BT_F_ALL;
	struct glance g;

	while (need) {
		u32 e = BT_NONE;

		if (came && in_page(off) && page != BT_NONE &&
		    bt_page_covered(x->bt, page, (unsigned)off))
			e = bt_entry_find(x->bt, page, (u16)off, x->mode & BTM_SINGLE);
		if (e != BT_NONE) {
			s.live |=
				need & (called ? x->bt->entries[e].reads : x->bt->entries[e].live);
			s.reads |= need & x->bt->entries[e].reads;
			break;
		}
		if (!in_page(off) || !*budget || !glance_at(x, code, (unsigned)off, &g)) {
			s.live |= called ? 0 : need;
			break;
		}
		--*budget;
		s.live |= need & g.use;
		s.reads |= need & g.reads;
		need &= (u8)~g.kill;
		if (!need)
			break;
		if (g.kind == GI_RET || g.kind == GI_CALL_IND) {
			s.live |= x->bt->strict_flags[x->user] ? need : 0;
			break;
		}
		came = g.kind == GI_JMP || g.kind == GI_CALL;
		if (came) {
			called |= g.kind == GI_CALL && !x->bt->strict_flags[x->user];
			off += g.dist;
			continue;
		}
		if (g.ends || ((g.kind == GI_JCC || g.kind == GI_JRCXZ) && !depth)) {
			s.live |= called ? 0 : need;
			break;
		}
		if (g.kind == GI_JCC || g.kind == GI_JRCXZ) {
			t = look(x, code, page, off + g.dist, budget, depth - 1);
			s.live |= need & (called ? t.reads : t.live);
			s.reads |= need & t.reads;
		}
		off += g.len;
	}
	return s;
}

/* At distance `rel` from the page's start, in whatever page that is. */
static struct seen peek(struct xlate *x, s32 rel)
{
	const struct seen unknown = {BT_F_ALL, 0};
	unsigned budget = 16;
	const u8 *p;
	gpa_t gpa;
	u64 va;

	if (unlikely(x->bt->exact_flags))
		return unknown;
	if (in_page(rel))
		return look(x, x->code, x->page, rel, &budget, 2);
	va = bt_of(x->c)->pb[x->page];
	if (va == BT_PB_NONE || !mmu_probe(x->c, (va + (u64)(s64)rel) & PAGE_MASK, &gpa))
		return unknown;
	p = pmap_ptr(x->c->pmap, gpa & PAGE_MASK, PAGE_SIZE);
	return p ? look(x, p, BT_NONE, rel & (s32)~PAGE_MASK, &budget, 2) : unknown;
}

/* At a direct branch's target. */
static struct seen at_target(struct xlate *x, const struct gi *g)
{
	if (g->inner >= 0)
		return (struct seen){x->gi[g->inner].live, x->gi[g->inner].reads};
	return (struct seen){g->there_live, g->there_reads};
}

/* A jump through a constant place, as procedure linkage tables have: part of a call, over which
 * user code passes no flags. */
static bool jumps_on(const struct gi *g)
{
	return g->kind == GI_JMP_IND && g->mem >= 0 && g->o[g->mem].mem.base == ZYDIS_REGISTER_RIP;
}

static bool flow_backward(struct xlate *x, struct seen last)
{
	bool strict = x->bt->strict_flags[x->user], changed = false;

	for (unsigned n = x->nr; n-- > 0;) {
		struct gi *g = &x->gi[n];
		struct seen after = last, there;
		u8 live, reads;

		if (n + 1 < x->nr)
			after = (struct seen){x->gi[n + 1].live, x->gi[n + 1].reads};
		switch (g->kind) {
		case GI_JMP:
		case GI_STAC:
			after = at_target(x, g);
			break;
		case GI_JCC:
		case GI_JRCXZ:
			there = at_target(x, g);
			after.live |= there.live;
			after.reads |= there.reads;
			break;
		case GI_CALL:
			after = at_target(x, g);
			if (!strict)
				after.live = after.reads;
			break;
		case GI_JMP_IND:
			after = (struct seen){strict || !x->user || !jumps_on(g) ? BT_F_ALL : 0, 0};
			break;
		case GI_CALL_IND:
		case GI_RET:
			after = (struct seen){strict ? BT_F_ALL : 0, 0};
			break;
		default:
			if (g->ends)
				after = (struct seen){0, 0};
		}
		if (unlikely(x->bt->exact_flags))
			after.live = BT_F_ALL;
		live = x->bt->exact_flags ? BT_F_ALL : g->use | (after.live & (u8)~g->kill);
		reads = seen_reads(x, g) | (after.reads & (u8)~g->kill);
		changed |= live != g->live || reads != g->reads || after.live != g->after;
		g->live = live;
		g->reads = reads;
		g->after = after.live;
	}
	return changed;
}

/* Code behind a call that reads flags, functions that do: see above. The call is made such that it
 * changes the convention before it is executed; many never are, for what they call does not return.
 */
static bool check_conventions(struct xlate *x, struct seen last)
{
	bool found = false;

	if (x->bt->strict_flags[x->user])
		return false;
	for (unsigned n = 0; n < x->nr; n++) {
		struct gi *g = &x->gi[n];

		if (g->kind != GI_CALL && g->kind != GI_CALL_IND)
			continue;
		if ((n + 1 < x->nr ? x->gi[n + 1].reads : last.reads) ||
		    (g->kind == GI_CALL && g->after)) {
			gi_set_helper(g, BT_H_STRICT, 0);
			g->ends = true;
			g->use = BT_F_ALL;
			g->kill = 0;
			found = true;
		}
	}
	return found;
}

bool bt_straddles(const struct bt_vm *bt, u32 mode, u16 off, const u8 *code)
{
	unsigned have = (unsigned)PAGE_SIZE - off;
	ZydisDecodedInstruction i;
	u8 buf[15];

	if (have >= sizeof(buf))
		return false;
	memcpy(buf, code + off, have);
	return ZydisDecoderDecodeInstruction(&bt->decoder[!!(mode & BTM_CODE64)], NULL, buf, have,
	                                     &i) == ZYDIS_STATUS_NO_MORE_DATA;
}

void bt_decode(struct xlate *x, u16 off)
{
	struct seen last = {0, 0};
	const struct gi *end;

	x->nr = 0;
	sweep(x, off);
	if (!x->nr)
		return;
	find_labels(x);
	for (unsigned n = 0; n < x->nr; n++) {
		struct gi *g = &x->gi[n];
		struct seen there;

		if ((g->kind != GI_JMP && g->kind != GI_JCC && g->kind != GI_JRCXZ &&
		     g->kind != GI_CALL && g->kind != GI_STAC) ||
		    g->inner >= 0)
			continue;
		there = peek(x, g->target);
		g->there_live = there.live;
		g->there_reads = there.reads;
	}
	end = &x->gi[x->nr - 1];
	if (!end->ends && end->kind != GI_STAC)
		last = peek(x, end->off + end->len);
	x->last = x->bt->strict_flags[x->user] ? last.live : last.reads;
	do
		while (flow_backward(x, last))
			;
	while (check_conventions(x, last));
}
