/* SPDX-License-Identifier: MIT */
/* A driver's side of virtio over PCI, as little as tests need: a device's registers and its rings
 * of both kinds in the test's guest RAM. */
#pragma once

#include "pcitest.h"

/* struct virtio_pci_common_cfg */
enum {
	C_DEVICE_FEATURE_SELECT = 0x00,
	C_DEVICE_FEATURE = 0x04,
	C_DRIVER_FEATURE_SELECT = 0x08,
	C_DRIVER_FEATURE = 0x0c,
	C_CONFIG_VECTOR = 0x10,
	C_NUM_QUEUES = 0x12,
	C_STATUS = 0x14,
	C_GENERATION = 0x15,
	C_QUEUE_SELECT = 0x16,
	C_QUEUE_SIZE = 0x18,
	C_QUEUE_VECTOR = 0x1a,
	C_QUEUE_ENABLE = 0x1c,
	C_QUEUE_DESC = 0x20,
	C_QUEUE_DRIVER = 0x28,
	C_QUEUE_DEVICE = 0x30,
	C_QUEUE_RESET = 0x3a,
};

struct driver {
	struct pcitest *p;
	unsigned slot;
	u64 common, notify, isr, config;
};

static inline u64 driver_cap(struct pcitest *p, unsigned slot, unsigned type)
{
	u32 at;

	for (unsigned n = 0; (at = cfg_cap(p, slot, PCI_CAP_ID_VENDOR, n)); n++)
		if (cfg_read(p, slot, at + 3, 1) == type)
			return bar_base(p, slot, cfg_read(p, slot, at + 4, 1)) +
			       cfg_read(p, slot, at + 8, 4);
	return 0;
}

static inline u64 driver_get(const struct driver *d, u32 reg, unsigned size)
{
	return mmio_in(d->p, d->common + reg, size);
}

static inline void driver_set(const struct driver *d, u32 reg, u64 val, unsigned size)
{
	mmio_out(d->p, d->common + reg, val, size);
}

static inline void driver_init(struct driver *d, struct pcitest *p, unsigned slot)
{
	d->p = p;
	d->slot = slot;
	d->common = driver_cap(p, slot, 1);
	d->notify = driver_cap(p, slot, 2);
	d->isr = driver_cap(p, slot, 3);
	d->config = driver_cap(p, slot, 4);
	cfg_write(p, slot, PCI_COMMAND, 6, 2);
}

/* Reset, acknowledge, take `features` plus version 1, FEATURES_OK. The status that it reads back.
 */
static inline u8 driver_negotiate(const struct driver *d, u64 features)
{
	features |= VIRTIO_F_VERSION_1;
	driver_set(d, C_STATUS, 0, 1);
	driver_set(d, C_STATUS, 1, 1);
	driver_set(d, C_STATUS, 3, 1);
	for (u32 w = 0; w < 2; w++) {
		driver_set(d, C_DRIVER_FEATURE_SELECT, w, 4);
		driver_set(d, C_DRIVER_FEATURE, (u32)(features >> (32 * w)), 4);
	}
	driver_set(d, C_STATUS, 11, 1);
	return (u8)driver_get(d, C_STATUS, 1);
}

static inline void driver_ok(const struct driver *d)
{
	driver_set(d, C_STATUS, 15, 1);
}

static inline u64 driver_offered(const struct driver *d)
{
	u64 f;

	driver_set(d, C_DEVICE_FEATURE_SELECT, 0, 4);
	f = driver_get(d, C_DEVICE_FEATURE, 4);
	driver_set(d, C_DEVICE_FEATURE_SELECT, 1, 4);
	return f | driver_get(d, C_DEVICE_FEATURE, 4) << 32;
}

struct ring {
	const struct driver *d;
	unsigned index;
	u16 size;
	bool packed;
	gpa_t desc, driver, device;
	u16 avail, used; /* split: free-running; packed: places */
	bool avail_wrap, used_wrap;
};

/* Three pages from `at` on. */
static inline void ring_init(struct ring *r, const struct driver *d, unsigned index, u16 size,
                             bool packed, gpa_t at)
{
	*r = (struct ring){.d = d,
	                   .index = index,
	                   .size = size,
	                   .packed = packed,
	                   .desc = at,
	                   .driver = at + 0x1000,
	                   .device = at + 0x2000,
	                   .avail_wrap = true,
	                   .used_wrap = true};
	pmap_zero(d->p->t.pmap, at, 0x3000);
}

static inline void ring_enable(const struct ring *r)
{
	const struct driver *d = r->d;

	driver_set(d, C_QUEUE_SELECT, r->index, 2);
	driver_set(d, C_QUEUE_SIZE, r->size, 2);
	for (unsigned h = 0; h < 2; h++) {
		driver_set(d, C_QUEUE_DESC + 4 * h, r->desc >> (32 * h), 4);
		driver_set(d, C_QUEUE_DRIVER + 4 * h, r->driver >> (32 * h), 4);
		driver_set(d, C_QUEUE_DEVICE + 4 * h, r->device >> (32 * h), 4);
	}
	driver_set(d, C_QUEUE_ENABLE, 1, 2);
}

static inline void ring_kick(const struct ring *r)
{
	mmio_out(r->d->p, r->d->notify + 4ull * r->index, r->index, 2);
}

static inline void ram_put(struct pcitest *p, gpa_t at, u64 val, unsigned n)
{
	if (pmap_write(p->t.pmap, at, &val, n))
		abort();
}

static inline u64 ram_get(struct pcitest *p, gpa_t at, unsigned n)
{
	u64 v = 0;

	if (pmap_read(p->t.pmap, at, &v, n))
		abort();
	return v;
}

static inline void desc_put(struct pcitest *p, gpa_t table, unsigned i, u64 addr, u32 len, u16 w12,
                            u16 w14)
{
	ram_put(p, table + 16ull * i, addr, 8);
	ram_put(p, table + 16ull * i + 8, len, 4);
	ram_put(p, table + 16ull * i + 12, w12, 2);
	ram_put(p, table + 16ull * i + 14, w14, 2);
}

struct buf {
	gpa_t addr;
	u32 len;
	u16 flags; /* WRITE, INDIRECT */
};

/* Make a chain of `n` buffers available; `id` is its head (split) or buffer id (packed). */
static inline void ring_add(struct ring *r, u16 id, const struct buf *b, unsigned n)
{
	struct pcitest *p = r->d->p;

	if (!r->packed) {
		for (unsigned i = 0; i < n; i++) {
			bool more = i + 1 < n;

			desc_put(p, r->desc, (id + i) % r->size, b[i].addr, b[i].len,
			         (u16)(b[i].flags | (more ? VIRTQ_DESC_F_NEXT : 0)),
			         (u16)((id + i + 1) % r->size));
		}
		ram_put(p, r->driver + 4 + 2ull * (r->avail % r->size), id, 2);
		ram_put(p, r->driver + 2, ++r->avail, 2);
		return;
	}
	for (unsigned i = 0; i < n; i++) {
		u16 f = b[i].flags;

		if (i + 1 < n)
			f |= VIRTQ_DESC_F_NEXT;
		f = (u16)(f | (r->avail_wrap ? VIRTQ_DESC_F_AVAIL : VIRTQ_DESC_F_USED));
		desc_put(p, r->desc, r->avail, b[i].addr, b[i].len, id, f);
		if (++r->avail == r->size) {
			r->avail = 0;
			r->avail_wrap = !r->avail_wrap;
		}
	}
}

/* The next used chain, of `n` buffers: its id and length. False: there is none. */
static inline bool ring_used(struct ring *r, unsigned n, u32 *id, u32 *len)
{
	struct pcitest *p = r->d->p;

	if (!r->packed) {
		gpa_t e = r->device + 4 + 8ull * (r->used % r->size);

		if ((u16)ram_get(p, r->device + 2, 2) == r->used)
			return false;
		r->used++;
		*id = (u32)ram_get(p, e, 4);
		*len = (u32)ram_get(p, e + 4, 4);
		return true;
	}
	gpa_t e = r->desc + 16ull * r->used;
	u16 f = (u16)ram_get(p, e + 14, 2);

	if (!(f & VIRTQ_DESC_F_AVAIL) == r->used_wrap || !(f & VIRTQ_DESC_F_USED) == r->used_wrap)
		return false;
	*id = (u32)ram_get(p, e + 12, 2);
	*len = (u32)ram_get(p, e + 8, 4);
	r->used = (u16)(r->used + n);
	if (r->used >= r->size) {
		r->used = (u16)(r->used - r->size);
		r->used_wrap = !r->used_wrap;
	}
	return true;
}
