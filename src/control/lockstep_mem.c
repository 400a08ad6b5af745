// SPDX-License-Identifier: MIT
/* The two RAMs. Stores are not recorded, they are found: pages to which the shadow's TLB gave the
 * right to write are compared every so often, all of RAM less often and at the end, which also
 * finds stores that only the engine made.
 *
 * Entries of paging structures may differ in A and D: a processor sets them when it walks, and how
 * often it walks is the TLB's affair (SDM 3A 4.8). There the shadow takes the vCPU's word. */
#include "control/lockstep_priv.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_PRINTED 16

static u64 nr_pages(const struct lockstep *ls)
{
	return ls->vm->pmap->ram_size >> PAGE_SHIFT;
}

static bool test(const u64 *map, u64 page)
{
	return map[page / 64] >> (page % 64) & 1;
}

static void set(u64 *map, u64 page)
{
	map[page / 64] |= BIT(page % 64);
}

int ls_mem_create(struct lockstep *ls)
{
	size_t words = (size_t)(nr_pages(ls) + 63) / 64;

	ls->writable = calloc(words, sizeof(u64));
	ls->table = calloc(words, sizeof(u64));
	ls->max_dirty = (u32)MIN(nr_pages(ls), 1u << 16);
	ls->dirty = calloc(ls->max_dirty, sizeof(u64));
	return ls->writable && ls->table && ls->dirty ? 0 : -ENOMEM;
}

void ls_mem_destroy(struct lockstep *ls)
{
	free(ls->writable);
	free(ls->table);
	free(ls->dirty);
}

void ls_mem_writable(void *arg, u64 page)
{
	struct lockstep *ls = arg;

	if (test(ls->writable, page) || ls->nr_dirty == ls->max_dirty)
		return; /* too many: the next look at all of RAM finds it */
	set(ls->writable, page);
	ls->dirty[ls->nr_dirty++] = page;
}

void ls_mem_table(void *arg, u64 page)
{
	struct lockstep *ls = arg;

	set(ls->table, page);
	ls_mem_writable(ls, page);
}

/* ---- comparing ---- */

static u64 gpa_of(const struct pmap *p, u64 page)
{
	for (unsigned i = 0; i < p->nr_slots; i++) {
		const struct pmap_slot *s = &p->slot[i];
		u64 first = pmap_page(p, s->hva);

		if (page - first < s->size >> PAGE_SHIFT)
			return s->base + ((page - first) << PAGE_SHIFT);
	}
	return ~0ull;
}

static u64 tolerated(const struct lockstep *ls)
{
	const u64 bits = PTE_A | PTE_D;

	return ls->p->cr4 & CR4_PAE ? bits : bits | bits << 32;
}

static bool page_equal(struct lockstep *ls, u64 page, FILE *out, unsigned *printed)
{
	const u64 *a = (const u64 *)(const void *)(ls->vm->pmap->hva + (page << PAGE_SHIFT));
	u64 *b = (u64 *)(void *)(ls->svm->pmap->hva + (page << PAGE_SHIFT));
	u64 except = test(ls->table, page) ? tolerated(ls) : 0;
	bool equal = true;

	if (likely(!memcmp(a, b, PAGE_SIZE)))
		return true;
	for (unsigned i = 0; i < PAGE_SIZE / 8; i++) {
		u64 x = a[i], y = b[i];

		if (x == y)
			continue;
		if (!((x ^ y) & ~except)) {
			b[i] = x;
			ls->entries_taken++;
			continue;
		}
		equal = false;
		if (out && (*printed)++ < MAX_PRINTED)
			fprintf(out, "  memory %#llx  engine %016llx  interp %016llx%s\n",
			        (unsigned long long)(gpa_of(ls->vm->pmap, page) + i * 8),
			        (unsigned long long)x, (unsigned long long)y,
			        except ? " (paging structure)" : "");
	}
	return equal;
}

/* What was found writable, and starts the list anew with what still is. */
bool ls_mem_check(struct lockstep *ls, FILE *out)
{
	u32 nr = ls->nr_dirty, keep = 0;
	unsigned printed = 0;
	bool equal = true;

	for (u32 i = 0; i < nr; i++) {
		u64 page = ls->dirty[i];

		equal &= page_equal(ls, page, out, &printed);
		ls->writable[page / 64] &= ~BIT(page % 64);
	}
	if (printed > MAX_PRINTED)
		fprintf(out, "  and %u more words\n", printed - MAX_PRINTED);
	for (unsigned set_nr = 0; set_nr < TLB_SETS; set_nr++) {
		if (!(ls->s->tlb_used & 1u << set_nr))
			continue;
		for (unsigned i = 0; i < TLB_SIZE && keep < ls->max_dirty; i++) {
			const struct tlb_entry *e = &ls->s->tlbs[set_nr][i];
			u64 page;

			if ((e->w >> PAGE_SHIFT) % TLB_SIZE != i)
				continue;
			page = pmap_page(ls->svm->pmap, (const u8 *)(uintptr_t)(e->w + e->addend));
			if (test(ls->writable, page))
				continue;
			set(ls->writable, page);
			ls->dirty[keep++] = page;
		}
	}
	ls->nr_dirty = keep;
	return equal;
}

/* The next range of pages that either RAM has: from *at on. */
static bool next_data(int fd, off_t from, off_t *start, off_t *end)
{
	*start = lseek(fd, from, SEEK_DATA);
	if (*start < 0)
		return false;
	*end = lseek(fd, *start, SEEK_HOLE);
	return *end > *start;
}

static bool check_fd(struct lockstep *ls, int fd, FILE *out, unsigned *printed)
{
	off_t at = 0, start, end;
	bool equal = true;

	while (next_data(fd, at, &start, &end)) {
		for (off_t p = start; p < end; p += (off_t)PAGE_SIZE)
			equal &= page_equal(ls, (u64)p >> PAGE_SHIFT, out, printed);
		at = end;
	}
	return equal;
}

/* A page that only one of them has is compared with zeros. */
bool ls_mem_check_all(struct lockstep *ls, FILE *out)
{
	unsigned printed = 0;
	bool equal = check_fd(ls, ls->vm->pmap->fd, out, &printed);

	equal &= check_fd(ls, ls->svm->pmap->fd, out, &printed);
	if (printed > MAX_PRINTED)
		fprintf(out, "  and %u more words\n", printed - MAX_PRINTED);
	return equal;
}

int ls_mem_copy(struct lockstep *ls)
{
	int fd = ls->vm->pmap->fd;
	off_t at = 0, start, end;

	while (next_data(fd, at, &start, &end)) {
		memcpy(ls->svm->pmap->hva + start, ls->vm->pmap->hva + start,
		       (size_t)(end - start));
		at = end;
	}
	return 0;
}
