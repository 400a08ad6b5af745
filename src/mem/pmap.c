// SPDX-License-Identifier: MIT
/* RAM is a memfd so that later a KVM slot, a vhost back end or a clone can map the
 * same pages; it is reserved, not committed: untouched guest memory costs nothing. */
#include "mem/pmap.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/membarrier.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/large.h"
#include "base/log.h"

static void slot_add(struct pmap *p, gpa_t base, u64 size, u64 offset)
{
	struct pmap_slot *s = &p->slot[p->nr_slots++];

	s->base = base;
	s->size = size;
	s->hva = p->hva + offset;
	s->code_ver = p->code_ver + (offset >> PAGE_SHIFT);
}

/* All of RAM, at an address at which large pages can be mapped. NULL: errno. */
static u8 *map_ram(const struct pmap *p)
{
	u8 *at = large_map(p->ram_size, PROT_NONE);

	if (!at)
		return NULL;
	/* cppcheck-suppress leakReturnValNotUsed; at `at` */
	if (mmap(at, p->ram_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE | MAP_FIXED,
	         p->fd, 0) == MAP_FAILED) {
		int err = errno;

		munmap(at, p->ram_size);
		errno = err;
		return NULL;
	}
	if (p->large)
		madvise(at, p->ram_size, MADV_HUGEPAGE); /* heard where tmpfs may have them */
	madvise(at, p->ram_size, MADV_DONTDUMP);
	return at;
}

/* Where RAM is more than half of the machine's, a guest that touches it here and there is better
 * off with small pages. */
static bool may_be_large(u64 ram_size)
{
	return ram_size <= (u64)MAX(sysconf(_SC_PHYS_PAGES), 0L) * PAGE_SIZE / 2;
}

int pmap_create(struct pmap **out, u64 ram_size)
{
	struct pmap *p = calloc(1, sizeof(*p));
	u64 low = MIN(ram_size, PCI_HOLE_START);
	size_t marks = (ram_size >> PAGE_SHIFT) * sizeof(u32);
	int err;

	if (!p)
		return -ENOMEM;
	p->fd = -1;
	p->ram_size = ram_size;
	p->code_ver = mmap(NULL, marks, PROT_READ | PROT_WRITE,
	                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (p->code_ver == MAP_FAILED) {
		p->code_ver = NULL;
		goto fail;
	}
	p->fd = memfd_create("ringer-ram", MFD_CLOEXEC);
	if (p->fd < 0 || ftruncate(p->fd, (off_t)ram_size) < 0)
		goto fail;
	if (may_be_large(ram_size)) {
		p->large = calloc(ram_size / LARGE_SIZE, 1);
		if (!p->large)
			goto fail;
	}
	p->hva = map_ram(p);
	if (!p->hva)
		goto fail;

	slot_add(p, VGA_HOLE_END, low - VGA_HOLE_END, VGA_HOLE_END);
	slot_add(p, 0, VGA_HOLE_START, 0);
	if (ram_size > low)
		slot_add(p, PCI_HOLE_END, ram_size - low, low);

	p->low_size = low - VGA_HOLE_END;
	p->high_size = ram_size - low;

	if (syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0) < 0)
		log_debug("membarrier: %s; falling back to the slow form", strerror(errno));
	*out = p;
	return 0;

fail:
	err = -errno;
	log_error("cannot reserve %llu MiB of guest memory: %s; try a smaller -m",
	          (unsigned long long)(ram_size / MiB), strerror(-err));
	pmap_destroy(p);
	return err;
}

int pmap_create_protected(struct pmap *p)
{
	u8 *hva = map_ram(p);

	if (!hva) {
		int err = -errno;

		log_error("cannot map %llu MiB of guest memory a second time: %s; "
		          "try a smaller -m",
		          (unsigned long long)(p->ram_size / MiB), strerror(-err));
		return err;
	}
	p->bt_hva = hva;
	return 0;
}

void pmap_enlarge(const struct pmap *p, u64 page)
{
	u64 i = page >> (LARGE_SHIFT - PAGE_SHIFT);

	if (!__atomic_exchange_n(&p->large[i], 1, __ATOMIC_RELAXED))
		large_collapse(p->hva + (i << LARGE_SHIFT)); /* or pages stay small */
}

void pmap_destroy(struct pmap *p)
{
	if (!p)
		return;
	if (p->bt_hva)
		munmap(p->bt_hva, p->ram_size);
	if (p->hva)
		munmap(p->hva, p->ram_size);
	if (p->code_ver)
		munmap(p->code_ver, (p->ram_size >> PAGE_SHIFT) * sizeof(u32));
	if (p->fd >= 0)
		close(p->fd);
	free(p->large);
	free(p);
}

u8 *pmap_ptr(const struct pmap *p, gpa_t gpa, u64 len)
{
	const struct pmap_slot *s = pmap_slot(p, gpa);

	if (!s || len > s->size - (gpa - s->base))
		return NULL;
	return s->hva + (gpa - s->base);
}

/* What to do with each contiguous piece; `arg` advances by the piece's length. */
enum piece_op { PIECE_CHECK, PIECE_READ, PIECE_WRITE, PIECE_ZERO };

static void pieces_written(const struct pmap *p, u64 at, u64 len)
{
	__atomic_thread_fence(__ATOMIC_SEQ_CST); /* the stores, then the marks */
	while (len) {
		u64 off = at & ~PAGE_MASK, n = MIN(len, PAGE_SIZE - off);

		pmap_code_written(p, at >> PAGE_SHIFT, (u32)off, (u32)n);
		at += n;
		len -= n;
	}
}

/* `len` > 0 bytes at `at` of RAM. A large page made now, before a kernel is loaded, say, is not
 * copied. */
static void touch_pieces(const struct pmap *p, u64 at, u64 len)
{
	for (u64 i = at / LARGE_SIZE; i <= (at + len - 1) / LARGE_SIZE; i++)
		pmap_touch(p, i * (LARGE_SIZE / PAGE_SIZE));
}

static int for_pieces(const struct pmap *p, gpa_t gpa, u8 *buf, u64 len, enum piece_op op)
{
	while (len) {
		const struct pmap_slot *s = pmap_slot(p, gpa);
		u64 off, n;

		if (!s)
			return -EFAULT;
		off = gpa - s->base;
		n = MIN(len, s->size - off);
		if (op == PIECE_WRITE || op == PIECE_ZERO)
			touch_pieces(p, (u64)(s->hva - p->hva) + off, n);
		if (op == PIECE_READ)
			memcpy(buf, s->hva + off, n);
		else if (op == PIECE_WRITE)
			memcpy(s->hva + off, buf, n);
		else if (op == PIECE_ZERO)
			memset(s->hva + off, 0, n);
		if (op == PIECE_WRITE || op == PIECE_ZERO)
			pieces_written(p, (u64)(s->hva - p->hva) + off, n);
		if (buf)
			buf += n;
		gpa += n;
		len -= n;
	}
	return 0;
}

int pmap_read(const struct pmap *p, gpa_t gpa, void *buf, u64 len)
{
	int err = for_pieces(p, gpa, NULL, len, PIECE_CHECK);

	return err ? err : for_pieces(p, gpa, buf, len, PIECE_READ);
}

int pmap_write(struct pmap *p, gpa_t gpa, const void *buf, u64 len)
{
	int err = for_pieces(p, gpa, NULL, len, PIECE_CHECK);

	if (unlikely(p->write_hook) && !err &&
	    p->write_hook->write(p->write_hook->arg, gpa, buf, len))
		return 0;
	return err ? err : for_pieces(p, gpa, (u8 *)buf, len, PIECE_WRITE);
}

int pmap_zero(struct pmap *p, gpa_t gpa, u64 len)
{
	int err = for_pieces(p, gpa, NULL, len, PIECE_CHECK);

	if (unlikely(p->write_hook) && !err &&
	    p->write_hook->write(p->write_hook->arg, gpa, NULL, len))
		return 0;
	return err ? err : for_pieces(p, gpa, NULL, len, PIECE_ZERO);
}

void pmap_code_moved(const struct pmap *p, u64 page, bool keep)
{
	u32 *w = (u32 *)&p->code_ver[page];
	u32 v = __atomic_load_n(w, __ATOMIC_RELAXED);
	u32 flags = keep ? PMAP_CODE_STEP - 1 : 0;

	/* Again when a decoder settled the mark, or took a new one, in between: it may have read
	 * the bytes while our store was still in the store buffer. */
	while ((v & PMAP_CODE_MARKED) &&
	       !__atomic_compare_exchange_n(w, &v,
	                                    (v + PMAP_CODE_STEP) & ~(PMAP_CODE_STEP - 1 - flags),
	                                    false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED))
		;
}

int pmap_discard(struct pmap *p, gpa_t gpa, u64 len)
{
	const u8 *host;
	off_t at;

	if ((gpa | len) & ~PAGE_MASK)
		return -EINVAL;
	host = pmap_ptr(p, gpa, len);
	if (!host)
		return -EFAULT;
	if (unlikely(p->write_hook))
		return 0;
	at = host - p->hva;
	/* Out of the file, and so out of both mappings; their protection stays. */
	if (fallocate(p->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, (off_t)len) < 0)
		return -errno;
	pieces_written(p, (u64)at, len);
	return 0;
}

void pmap_code_written(const struct pmap *p, u64 page, u32 off, u32 len)
{
	const struct pmap_code_hook *hook = p->code_hook;

	if (likely(!(__atomic_load_n((u32 *)&p->code_ver[page], __ATOMIC_RELAXED) &
	             PMAP_CODE_MARKED)))
		return;
	if (hook)
		hook->written(hook->arg, page, off, len);
	else
		pmap_code_moved(p, page, false);
}

u32 pmap_code_mark(struct pmap *p, _Atomic u32 *ver)
{
	const struct pmap_code_hook *hook = p->code_hook;
	const u32 both = PMAP_CODE_MARKED | PMAP_CODE_SETTLED;
	u32 *w = (u32 *)ver;
	u32 v = __atomic_load_n(w, __ATOMIC_SEQ_CST);

	/* A writer may move the version at any step: then start again. */
	while ((v & both) != both) {
		v = __atomic_or_fetch(w, PMAP_CODE_MARKED, __ATOMIC_SEQ_CST);
		/* Not only by the one who set the bit: another may be between that and its call,
		 * and we must not read before the page is protected. */
		if (hook)
			hook->marked(hook->arg, (u64)(ver - p->code_ver));
		if (!p->single &&
		    syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0) < 0)
			syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0);
		if (__atomic_compare_exchange_n(w, &v, v | both, false, __ATOMIC_SEQ_CST,
		                                __ATOMIC_SEQ_CST))
			return v | both;
	}
	return v;
}

unsigned pmap_ranges(const struct pmap *p, struct pmap_range *r, unsigned max)
{
	unsigned n = 0;

	for (unsigned i = 0; i < p->nr_slots && n < max; i++)
		r[n++] = (struct pmap_range){p->slot[i].base, p->slot[i].size};
	/* ascending order: the table is tiny */
	for (unsigned i = 0; i + 1 < n; i++)
		for (unsigned j = i + 1; j < n; j++)
			if (r[j].base < r[i].base) {
				struct pmap_range t = r[i];
				r[i] = r[j];
				r[j] = t;
			}
	return n;
}
