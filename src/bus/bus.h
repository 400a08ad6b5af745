/* SPDX-License-Identifier: MIT */
/* Port and MMIO regions: attach and dispatch.
 *
 * A device fills a struct region and attaches it; attach refuses overlaps. An access is
 * given to the region that holds its first byte; one that is wider than the
 * region allows (max_size) or reaches over its end is split into accesses of allowed
 * size, lowest address first, as a real bus would do. An access narrower than
 * min_size is widened on reads (and the wanted bytes taken) and dropped with a guest warning on
 * writes. Nothing there: reads are all ones, writes are dropped.
 *
 * Threading: attach and detach at set-up, or later with the machine lock held: a guest moves the
 * BARs of PCI functions while all vCPUs run. bus_read/bus_write may be called by any thread; they
 * hold the machine lock around the device's handler, except for regions with nolock = true. The
 * region is looked up without a lock and, once the lock is held, again if the map changed
 * meanwhile; so a handler is never called for a range that was detached before, but one with nolock
 * may be, shortly after, as an access that was on its way. */
#pragma once

#include <pthread.h>

#include "base/log.h"
#include "base/types.h"

struct region_ops {
	/* size is 1, 2, 4 or 8 within [min_size, max_size]; `off` is relative to the region. The
	 * result's bytes above `size` are ignored. */
	u64 (*read)(void *dev, u64 off, unsigned size);
	void (*write)(void *dev, u64 off, u64 val, unsigned size);
};

struct region {
	const char *name;      /* for traces and statistics */
	u64 base;              /* port number or guest-physical address */
	u64 len;               /* bytes */
	u8 min_size, max_size; /* 0: 1 and 4 */
	bool nolock;           /* the device locks for itself */
	const struct region_ops *ops;
	void *dev;
};

enum bus_space { BUS_PIO, BUS_MMIO };

#define BUS_MAX_REGIONS 256

struct bus_map {
	unsigned nr;
	struct region r[BUS_MAX_REGIONS]; /* sorted by base */
};

struct bus {
	pthread_mutex_t lock; /* the machine lock: device state, interrupt lines */
	u32 seq;              /* odd while the maps change; see bus.c */
	struct bus_map map[2];
	const struct trace *trace;
	struct ratelimit rl;
};

int bus_create(struct bus **out, const struct trace *trace);
void bus_destroy(struct bus *b);

/* 0, or -EINVAL on a bad width, zero length, wrap-around, or overlap, -ENOSPC (logged: it is our
 * defect). */
int bus_attach(struct bus *b, enum bus_space space, const struct region *r);
int bus_detach(struct bus *b, enum bus_space space, u64 base);

/* size is 1, 2, 4 or 8 (ports: up to 4). */
u64 bus_read(struct bus *b, enum bus_space space, u64 addr, unsigned size);
void bus_write(struct bus *b, enum bus_space space, u64 addr, u64 val, unsigned size);

/* Nothing is attached to any of the `len` bytes, and they do not wrap. For addresses that the guest
 * chooses. */
bool bus_is_free(const struct bus *b, enum bus_space space, u64 base, u64 len);

/* Copies the region at an address; false: there is none. Any thread. */
bool bus_find(const struct bus *b, enum bus_space space, u64 addr, struct region *out);

static inline void bus_lock(struct bus *b)
{
	pthread_mutex_lock(&b->lock);
}
static inline void bus_unlock(struct bus *b)
{
	pthread_mutex_unlock(&b->lock);
}
