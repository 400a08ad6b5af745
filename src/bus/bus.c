// SPDX-License-Identifier: MIT
/* Regions are few (a PC has some dozens), so a sorted array and a binary search do.
 *
 * Readers take no lock: `seq` is a sequence lock. The writer, of whom there is one at a time (the
 * machine lock), makes it odd, changes the map, makes it even; a reader that saw it odd or changed
 * looks again. The map's words are therefore read and written as relaxed atomics. */
#include "bus/bus.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int bus_create(struct bus **out, const struct trace *trace)
{
	struct bus *b = calloc(1, sizeof(*b));

	if (!b)
		return -ENOMEM;
	pthread_mutex_init(&b->lock, NULL);
	b->trace = trace;
	*out = b;
	return 0;
}

void bus_destroy(struct bus *b)
{
	if (!b)
		return;
	pthread_mutex_destroy(&b->lock);
	free(b);
}

/* ---- the map ---- */

#define WORDS(bytes) ((bytes) / sizeof(u64))
_Static_assert(sizeof(struct region) % sizeof(u64) == 0, "copied by words");

static void copy_in(struct region *to, const struct region *from)
{
	u64 *d = (u64 *)(void *)to, w[WORDS(sizeof(*from))];

	memcpy(w, from, sizeof(w));
	for (size_t i = 0; i < ARRAY_SIZE(w); i++)
		__atomic_store_n(&d[i], w[i], __ATOMIC_RELAXED);
}

static void copy_out(struct region *to, const struct region *from)
{
	const u64 *s = (const u64 *)(const void *)from;
	u64 w[WORDS(sizeof(*to))] = {0};

	for (size_t i = 0; i < ARRAY_SIZE(w); i++)
		w[i] = __atomic_load_n(&s[i], __ATOMIC_RELAXED);
	memcpy(to, w, sizeof(w));
}

static u32 map_read_begin(const struct bus *b)
{
	u32 seq;

	while ((seq = __atomic_load_n(&b->seq, __ATOMIC_ACQUIRE)) & 1)
		__builtin_ia32_pause();
	return seq;
}

static bool map_read_again(const struct bus *b, u32 seq)
{
	__atomic_thread_fence(__ATOMIC_ACQUIRE);
	return __atomic_load_n(&b->seq, __ATOMIC_RELAXED) != seq;
}

static void map_write_begin(struct bus *b)
{
	__atomic_store_n(&b->seq, b->seq + 1, __ATOMIC_RELAXED);
	__atomic_thread_fence(__ATOMIC_RELEASE);
}

static void map_write_end(struct bus *b)
{
	__atomic_store_n(&b->seq, b->seq + 1, __ATOMIC_RELEASE);
}

/* Index of the first region whose base is above `addr`. */
static unsigned upper_bound(const struct bus_map *m, u64 addr)
{
	unsigned lo = 0, hi = __atomic_load_n(&m->nr, __ATOMIC_RELAXED);

	while (lo < hi) {
		unsigned mid = (lo + hi) / 2;

		if (__atomic_load_n(&m->r[mid].base, __ATOMIC_RELAXED) > addr)
			hi = mid;
		else
			lo = mid + 1;
	}
	return lo;
}

/* `seq` is what the answer belongs to. Where there is nothing, *gap is how many bytes of it. */
static bool find(const struct bus *b, enum bus_space space, u64 addr, struct region *out, u32 *seq,
                 u64 *gap)
{
	const struct bus_map *m = &b->map[space];
	bool found;

	do {
		unsigned i;

		*seq = map_read_begin(b);
		i = upper_bound(m, addr);
		if (i)
			copy_out(out, &m->r[i - 1]);
		found = i && addr - out->base < out->len;
		/* To the end of the space. */
		*gap = (space == BUS_PIO ? 0xffff : ~0ull) - addr;
		*gap += *gap != ~0ull;
		if (i < __atomic_load_n(&m->nr, __ATOMIC_RELAXED))
			*gap = __atomic_load_n(&m->r[i].base, __ATOMIC_RELAXED) - addr;
	} while (map_read_again(b, *seq));
	return found;
}

bool bus_find(const struct bus *b, enum bus_space space, u64 addr, struct region *out)
{
	u64 gap;
	u32 seq;

	return find(b, space, addr, out, &seq, &gap);
}

bool bus_is_free(const struct bus *b, enum bus_space space, u64 base, u64 len)
{
	const struct bus_map *m = &b->map[space];
	unsigned i = upper_bound(m, base);

	if (!len || base + len - 1 < base || (space == BUS_PIO && base + len > 0x10000))
		return false;
	return (!i || base - m->r[i - 1].base >= m->r[i - 1].len) &&
	       (i == m->nr || m->r[i].base - base >= len);
}

static bool width_ok(unsigned w)
{
	return w == 1 || w == 2 || w == 4 || w == 8;
}

int bus_attach(struct bus *b, enum bus_space space, const struct region *region)
{
	struct bus_map *m = &b->map[space];
	struct region r = *region;
	unsigned i;

	if (!r.min_size)
		r.min_size = 1;
	if (!r.max_size)
		r.max_size = 4;
	if (!width_ok(r.min_size) || !width_ok(r.max_size) || r.min_size > r.max_size || !r.len ||
	    r.base + r.len - 1 < r.base || !r.ops || !r.ops->read || !r.ops->write)
		goto bad;
	if (space == BUS_PIO && (r.base + r.len > 0x10000 || r.max_size > 4))
		goto bad;
	if (m->nr == BUS_MAX_REGIONS) {
		log_error("bus: no room for region %s", r.name);
		return -ENOSPC;
	}
	if (!bus_is_free(b, space, r.base, r.len))
		goto bad;
	i = upper_bound(m, r.base);
	map_write_begin(b);
	for (unsigned j = m->nr; j > i; j--)
		copy_in(&m->r[j], &m->r[j - 1]);
	copy_in(&m->r[i], &r);
	__atomic_store_n(&m->nr, m->nr + 1, __ATOMIC_RELAXED);
	map_write_end(b);
	return 0;
bad:
	log_error("bus: region %s at %#llx, length %#llx does not fit", r.name,
	          (unsigned long long)r.base, (unsigned long long)r.len);
	return -EINVAL;
}

int bus_detach(struct bus *b, enum bus_space space, u64 base)
{
	struct bus_map *m = &b->map[space];
	unsigned i = upper_bound(m, base);

	if (!i || m->r[i - 1].base != base)
		return -ENOENT;
	map_write_begin(b);
	for (; i < m->nr; i++)
		copy_in(&m->r[i - 1], &m->r[i]);
	__atomic_store_n(&m->nr, m->nr - 1, __ATOMIC_RELAXED);
	map_write_end(b);
	return 0;
}

/* ---- accesses ---- */

/* What an access of `size` bytes does at once: of the `room` bytes that belong to one region, or to
 * none. */
static unsigned piece(u64 room, unsigned size)
{
	while (size > room && size > 1)
		size /= 2;
	if (size & (size - 1)) /* 3 bytes left, and the like */
		size = size > 4 ? 4 : 2;
	return size;
}

/* Finds the region at `addr` and takes the machine lock if it wants it; *n is the size of the first
 * piece. False: there is none, for a piece of that size. */
static bool enter(struct bus *b, enum bus_space space, u64 addr, unsigned size, struct region *r,
                  unsigned *n)
{
	bool locked = false, found;
	u64 gap;
	u32 seq;

	found = find(b, space, addr, r, &seq, &gap);
	if (found && !r->nolock) {
		bus_lock(b);
		locked = true;
		if (unlikely(__atomic_load_n(&b->seq, __ATOMIC_RELAXED) != seq)) /* moved */
			found = find(b, space, addr, r, &seq, &gap);
	}
	if (locked && (!found || r->nolock))
		bus_unlock(b);
	if (found)
		*n = piece(r->len - (addr - r->base), MIN(size, (unsigned)r->max_size));
	else
		*n = piece(gap, size);
	return found;
}

static void leave(struct bus *b, const struct region *r)
{
	if (!r->nolock)
		bus_unlock(b);
}

static u64 piece_read(const struct region *r, u64 at, unsigned n)
{
	u64 off = at - r->base;

	if (n < r->min_size) {
		off = ALIGN_DOWN(off, (u64)r->min_size);
		return r->ops->read(r->dev, off, r->min_size) >> ((at - r->base - off) * 8);
	}
	return r->ops->read(r->dev, off, n);
}

static void trace_access(struct bus *b, enum bus_space space, u64 addr, unsigned size,
                         const char *what, u64 val)
{
	struct region r;
	bool found = bus_find(b, space, addr, &r);

	trace_msg(b->trace, "%s %s %#llx/%u = %#llx %s", space == BUS_PIO ? "pio" : "mmio", what,
	          (unsigned long long)addr, size, (unsigned long long)val,
	          found ? r.name : "(none)");
}

static u64 next_address(enum bus_space space, u64 at, unsigned n)
{
	return space == BUS_PIO ? (at + n) & 0xffff : at + n;
}

u64 bus_read(struct bus *b, enum bus_space space, u64 addr, unsigned size)
{
	u64 val = 0;
	u64 at = addr;
	unsigned done = 0;

	while (done < size) {
		struct region r;
		unsigned n;
		u64 v = ~0ull;

		if (enter(b, space, at, size - done, &r, &n)) {
			v = piece_read(&r, at, n);
			leave(b, &r);
		}
		val |= (v & size_mask(n)) << (done * 8);
		done += n;
		at = next_address(space, at, n);
	}
	if (trace_on(b->trace, TRACE_IO))
		trace_access(b, space, addr, size, "read ", val);
	return val;
}

void bus_write(struct bus *b, enum bus_space space, u64 addr, u64 val, unsigned size)
{
	u64 at = addr;
	unsigned done = 0;

	if (trace_on(b->trace, TRACE_IO))
		trace_access(b, space, addr, size, "write", val & size_mask(size));
	while (done < size) {
		struct region r;
		unsigned n;

		if (enter(b, space, at, size - done, &r, &n)) {
			if (n < r.min_size)
				guest_warn(&b->rl,
				           "write of %u bytes to %s at %#llx dropped: it takes %u",
				           n, r.name, (unsigned long long)at, r.min_size);
			else
				r.ops->write(r.dev, at - r.base, (val >> (done * 8)) & size_mask(n),
				             n);
			leave(b, &r);
		}
		done += n;
		at = next_address(space, at, n);
	}
}
