// SPDX-License-Identifier: MIT
/* Regions are few (a PC has some dozens), so a sorted array and a binary search do. */
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

/* Index of the first region whose base is above `addr`. */
static unsigned upper_bound(const struct bus_map *m, u64 addr)
{
	unsigned lo = 0, hi = m->nr;

	while (lo < hi) {
		unsigned mid = (lo + hi) / 2;

		if (m->r[mid].base > addr)
			hi = mid;
		else
			lo = mid + 1;
	}
	return lo;
}

const struct region *bus_find(const struct bus *b, enum bus_space space, u64 addr)
{
	const struct bus_map *m = &b->map[space];
	unsigned i = upper_bound(m, addr);

	if (i && addr - m->r[i - 1].base < m->r[i - 1].len)
		return &m->r[i - 1];
	return NULL;
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
	i = upper_bound(m, r.base);
	if (i && r.base - m->r[i - 1].base < m->r[i - 1].len)
		goto bad;
	if (i < m->nr && m->r[i].base - r.base < r.len)
		goto bad;
	memmove(&m->r[i + 1], &m->r[i], (m->nr - i) * sizeof(m->r[0]));
	m->r[i] = r;
	m->nr++;
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
	memmove(&m->r[i - 1], &m->r[i], (m->nr - i) * sizeof(m->r[0]));
	m->nr--;
	return 0;
}

static u64 region_read(struct bus *b, const struct region *r, u64 off, unsigned size)
{
	u64 v;

	if (!r->nolock)
		bus_lock(b);
	v = r->ops->read(r->dev, off, size);
	if (!r->nolock)
		bus_unlock(b);
	return v & size_mask(size);
}

static void region_write(struct bus *b, const struct region *r, u64 off, u64 val, unsigned size)
{
	if (!r->nolock)
		bus_lock(b);
	r->ops->write(r->dev, off, val & size_mask(size), size);
	if (!r->nolock)
		bus_unlock(b);
}

/* The largest piece at `addr` that region `r` takes whole (r NULL: one byte). */
static unsigned piece(const struct region *r, u64 addr, unsigned size)
{
	u64 room;

	if (!r)
		return 1;
	room = r->len - (addr - r->base);
	if (size > r->max_size)
		size = r->max_size;
	while (size > room)
		size /= 2;
	return size;
}

u64 bus_read(struct bus *b, enum bus_space space, u64 addr, unsigned size)
{
	u64 val = 0;
	u64 at = addr;
	unsigned done = 0;

	while (done < size) {
		const struct region *r = bus_find(b, space, at);
		unsigned n = piece(r, at, size - done);
		u64 v = ~0ull;

		if (n & (n - 1)) /* 3 bytes left, and the like */
			n = n > 4 ? 4 : 2;
		if (r && n < r->min_size) {
			u64 off = ALIGN_DOWN(at - r->base, (u64)r->min_size);

			v = region_read(b, r, off, r->min_size) >> ((at - r->base - off) * 8);
		} else if (r) {
			v = region_read(b, r, at - r->base, n);
		}
		val |= (v & size_mask(n)) << (done * 8);
		done += n;
		at += n;
		if (space == BUS_PIO)
			at &= 0xffff;
	}
	if (trace_on(b->trace, TRACE_IO)) {
		const struct region *r = bus_find(b, space, addr);

		trace_msg(b->trace, "%s read  %#llx/%u = %#llx %s",
		          space == BUS_PIO ? "pio" : "mmio", (unsigned long long)addr, size,
		          (unsigned long long)val, r ? r->name : "(none)");
	}
	return val;
}

void bus_write(struct bus *b, enum bus_space space, u64 addr, u64 val, unsigned size)
{
	u64 at = addr;
	unsigned done = 0;

	if (trace_on(b->trace, TRACE_IO)) {
		const struct region *r = bus_find(b, space, addr);

		trace_msg(b->trace, "%s write %#llx/%u = %#llx %s",
		          space == BUS_PIO ? "pio" : "mmio", (unsigned long long)addr, size,
		          (unsigned long long)(val & size_mask(size)), r ? r->name : "(none)");
	}
	while (done < size) {
		const struct region *r = bus_find(b, space, at);
		unsigned n = piece(r, at, size - done);

		if (n & (n - 1))
			n = n > 4 ? 4 : 2;
		if (r && n < r->min_size)
			guest_warn(&b->rl, "write of %u bytes to %s at %#llx dropped: it takes %u",
			           n, r->name, (unsigned long long)at, r->min_size);
		else if (r)
			region_write(b, r, at - r->base, val >> (done * 8), n);
		done += n;
		at += n;
		if (space == BUS_PIO)
			at &= 0xffff;
	}
}
