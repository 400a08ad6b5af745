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
 * Threading: attach at set-up only (or with all vCPUs stopped). bus_read/bus_write may be called by
 * any thread; they hold the bus's lock around the device's handler, except for regions with nolock
 * = true. */
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

#define BUS_MAX_REGIONS 96

struct bus_map {
	unsigned nr;
	struct region r[BUS_MAX_REGIONS]; /* sorted by base */
};

struct bus {
	pthread_mutex_t lock; /* the machine lock: device state, interrupt lines */
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

/* The region at an address, or NULL. */
const struct region *bus_find(const struct bus *b, enum bus_space space, u64 addr);

static inline void bus_lock(struct bus *b)
{
	pthread_mutex_lock(&b->lock);
}
static inline void bus_unlock(struct bus *b)
{
	pthread_mutex_unlock(&b->lock);
}
