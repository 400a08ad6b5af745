/* SPDX-License-Identifier: MIT */
/* The pmap: the VMM's map from guest-physical pages to machine pages, one per VM.
 *
 * RAM is one memfd, mapped once and sparse. It appears to the guest as slots:
 *
 *	0 .. 640K			RAM
 *	640K .. 768K (VGA hole)		nothing
 *	768K .. min(size, 3G)		RAM
 *	3G .. 4G			the PCI hole: devices
 *	4G ..				the rest of RAM
 *
 * Code marks: for every RAM page there is a 32-bit word, `code_ver`. Bit 0 (MARKED) says
 * that some vCPU holds decoded or translated code of that page, bit 1 (SETTLED) that the
 * barrier after marking is over; the upper bits are a version. A store to a marked page calls
 * pmap_code_written(), which moves the version and takes the mark off; whoever holds code of the
 * page compares the version before he uses it.
 *
 * An engine whose stores don't look at the mark has them made through a second mapping of the same
 * memfd, `bt_hva`, in which it takes the right to write from pages with code: then they fault. Its
 * `code_hook` hears of pages being marked, and of stores through the first mapping, `hva`; it may
 * keep the mark although a page was written.
 *
 * Memory order: the writer stores, then reads the mark; the decoder sets the mark, then
 * (pmap_code_mark) runs membarrier(2), then reads the bytes. So either the decoder sees the store
 * or the writer sees the mark.
 *
 * Threading: slots are fixed after pmap_create()/pmap_add_slot() at set-up; the rest may be called
 * by any thread. Guest RAM is hostile, shared, changing memory: read each field
 * once. */
#pragma once

#include "base/large.h"
#include "base/types.h"

#define PMAP_MAX_SLOTS    8
#define VGA_HOLE_START    0xa0000ull
#define VGA_HOLE_END      0xc0000ull
#define PCI_HOLE_START    0xc0000000ull
#define PCI_HOLE_END      0x100000000ull
#define PMAP_CODE_MARKED  1u
#define PMAP_CODE_SETTLED 2u
#define PMAP_CODE_STEP    4u /* the version counts in these */

struct pmap_slot {
	gpa_t base;
	u64 size;
	u8 *hva;
	_Atomic u32 *code_ver; /* one word a page */
};

/* `page`: index of the page in the memfd. Both may be called by any thread that marks or writes. */
struct pmap_code_hook {
	/* The page is being marked, and its bytes are not read yet. May be called more than once
	 * for one mark, by several threads at a time. */
	void (*marked)(void *arg, u64 page);
	/* `len` bytes at `off` of a marked page were stored through the first mapping. It calls
	 * pmap_code_moved(), in one step with what it does to the owner's own records of the
	 * page: a mark that goes later than the page's code could be another's, of newer code. */
	void (*written)(void *arg, u64 page, u32 off, u32 len);
	void *arg;
};

/* Who wants to know of writes that no guest instruction makes: devices', the monitor's. */
struct pmap_write_hook {
	/* Before `len` bytes are written from `buf` (NULL: zeros); they are all RAM. true: not to
	 * be made now, the hook's owner does it later. Any thread. */
	bool (*write)(void *arg, gpa_t gpa, const void *buf, u64 len);
	void *arg;
};

struct pmap {
	int fd;
	u64 ram_size;
	u8 *hva;    /* the whole of RAM */
	u8 *bt_hva; /* the same once more, or NULL */
	u8 *large;  /* by piece of LARGE_SIZE: was a large page asked for? NULL: none shall be */
	_Atomic u32 *code_ver;
	u64 low_size, high_size; /* RAM from VGA_HOLE_END, from PCI_HOLE_END: pmap_host() */
	const struct pmap_code_hook *code_hook;   /* set before the first vCPU runs, or NULL */
	const struct pmap_write_hook *write_hook; /* likewise */
	unsigned nr_slots;
	struct pmap_slot slot[PMAP_MAX_SLOTS];
	bool single; /* only one vCPU: no membarrier needed */
};

/* `ram_size` in bytes, a multiple of 2 MiB, at least 2 MiB. 0 or -errno (logged). */
int pmap_create(struct pmap **out, u64 ram_size);
void pmap_destroy(struct pmap *p);
/* Make the second mapping, p->bt_hva, all of it readable and writable; before the first vCPU runs.
 * 0 or -errno (logged). */
int pmap_create_protected(struct pmap *p);

/* The guest begins to use this page of RAM: ask for a large host page there, once. */
void pmap_enlarge(const struct pmap *p, u64 page);

static inline void pmap_touch(const struct pmap *p, u64 page)
{
	if (p->large && unlikely(!p->large[page >> (LARGE_SHIFT - PAGE_SHIFT)]))
		pmap_enlarge(p, page);
}

/* Index of the page in RAM that a pointer into p->hva is in. */
static inline u64 pmap_page(const struct pmap *p, const void *host)
{
	return (u64)((const u8 *)host - p->hva) >> PAGE_SHIFT;
}

/* The slot that holds `gpa`, or NULL (device or nothing). */
static inline const struct pmap_slot *pmap_slot(const struct pmap *p, gpa_t gpa)
{
	for (unsigned i = 0; i < p->nr_slots; i++)
		if (gpa - p->slot[i].base < p->slot[i].size)
			return &p->slot[i];
	return NULL;
}

/* Host pointer to RAM at `gpa`, up to its page's end, or NULL. On the path of every page walk, so
 * it knows the layout. */
static inline u8 *pmap_host(const struct pmap *p, gpa_t gpa)
{
	if (likely(gpa - VGA_HOLE_END < p->low_size))
		return p->hva + gpa;
	if (gpa - PCI_HOLE_END < p->high_size)
		return p->hva + (gpa - (PCI_HOLE_END - PCI_HOLE_START));
	return gpa < VGA_HOLE_START ? p->hva + gpa : NULL;
}

/* Guest-physical address of a page of RAM, by its index. */
static inline gpa_t pmap_gpa(u64 page)
{
	gpa_t gpa = page << PAGE_SHIFT;

	return gpa < PCI_HOLE_START ? gpa : gpa + (PCI_HOLE_END - PCI_HOLE_START);
}

/* Host pointer to `len` bytes of contiguous RAM at `gpa`, or NULL if any byte is not RAM. */
u8 *pmap_ptr(const struct pmap *p, gpa_t gpa, u64 len);

/* Copy out of / into guest RAM, across slots where they touch. 0 or -EFAULT when any
 * byte is not RAM (then nothing is copied). pmap_write keeps the code marks. */
int pmap_read(const struct pmap *p, gpa_t gpa, void *buf, u64 len);
int pmap_write(struct pmap *p, gpa_t gpa, const void *buf, u64 len);
int pmap_zero(struct pmap *p, gpa_t gpa, u64 len);

/* Give whole pages of RAM back to the host: they are zeros when they are touched again, which is a
 * write like others. While a write_hook is set they stay as they are. 0, -EINVAL (not
 * page-aligned), -EFAULT (not RAM), or the host's -errno. Any thread. */
int pmap_discard(struct pmap *p, gpa_t gpa, u64 len);

/* Slow half of a store to a marked page: `len` bytes at `off` of page `page`, which are stored.
 * Does nothing when the page is not marked. */
void pmap_code_written(const struct pmap *p, u64 page, u32 off, u32 len);

/* The version of a marked page moves on; the mark stays or goes. */
void pmap_code_moved(const struct pmap *p, u64 page, bool keep);

static inline bool pmap_code_settled(const struct pmap *p, u64 page)
{
	const u32 both = PMAP_CODE_MARKED | PMAP_CODE_SETTLED;

	return (__atomic_load_n((u32 *)&p->code_ver[page], __ATOMIC_SEQ_CST) & both) == both;
}

/* Mark a page before its bytes are read as code; returns the version (marked, settled). */
u32 pmap_code_mark(struct pmap *p, _Atomic u32 *ver);

/* RAM as a list for firmware tables: number of entries, filled up to `max`. */
struct pmap_range {
	gpa_t base;
	u64 size;
};
unsigned pmap_ranges(const struct pmap *p, struct pmap_range *r, unsigned max);
