// SPDX-License-Identifier: MIT
/* Virtio over PCI: virtio 1.2, section 4.1. Modern devices only: no I/O BAR of the old interface.
 *
 *	BAR 0	common configuration, ISR status, device configuration
 *	BAR 2	notifications, 4 bytes a queue
 *	BAR 4	MSI-X
 *
 * Notifications have a BAR of their own because they need not take the machine lock.
 *
 * Interrupts may be sent by any thread. MSI-X needs no machine lock; the pin does, so it is raised
 *on the loop's thread. */
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "dev/virtqueue_priv.h"

#define VIRTIO_VENDOR_ID  0x1af4
#define VIRTIO_DEVICE_ID  0x1040 /* + type */
#define VIRTIO_REVISION   1
#define CLASS_OTHER       0xff0000
#define MAX_VECTORS       (VIRTIO_MAX_QUEUES + 1)
#define NOTIFY_MULTIPLIER 4u

/* struct virtio_pci_cap, 4.1.4 */
#define CAP_COMMON 1
#define CAP_NOTIFY 2
#define CAP_ISR    3
#define CAP_DEVICE 4
#define CAP_PCI    5
#define CAP_LEN    16
#define CAP_TYPE   3
#define CAP_BAR    4
#define CAP_OFFSET 8
#define CAP_LENGTH 12
#define CAP_EXTRA  16 /* notify: multiplier; PCI: data */

#define BAR_CONFIG 0
#define BAR_NOTIFY 2
#define BAR_MSIX   4

/* In BAR 0 */
#define COMMON_OFFSET 0x0000u
#define ISR_OFFSET    0x0400u
#define DEVICE_OFFSET 0x0800u
#define CONFIG_LEN    0x1000u
_Static_assert(DEVICE_OFFSET + VIRTIO_MAX_CONFIG <= CONFIG_LEN, "BAR 0");

/* struct virtio_pci_common_cfg, 4.1.4.3 */
enum {
	DEVICE_FEATURE_SELECT = 0x00,
	DEVICE_FEATURE = 0x04,
	DRIVER_FEATURE_SELECT = 0x08,
	DRIVER_FEATURE = 0x0c,
	CONFIG_MSIX_VECTOR = 0x10,
	NUM_QUEUES = 0x12,
	DEVICE_STATUS = 0x14,
	CONFIG_GENERATION = 0x15,
	QUEUE_SELECT = 0x16,
	QUEUE_SIZE = 0x18,
	QUEUE_MSIX_VECTOR = 0x1a,
	QUEUE_ENABLE = 0x1c,
	QUEUE_NOTIFY_OFF = 0x1e,
	QUEUE_DESC = 0x20,
	QUEUE_DRIVER = 0x28,
	QUEUE_DEVICE = 0x30,
	QUEUE_NOTIFY_DATA = 0x38,
	QUEUE_RESET = 0x3a,
	COMMON_LEN = 0x3c,
};

#define ISR_QUEUE  1u
#define ISR_CONFIG 2u

struct virtio_pci {
	struct virtio *v;
	struct pci_func func;
	unsigned vectors;
	u32 device_feature_select, driver_feature_select;
	u16 queue_select;
	_Atomic u16 config_vector;
	_Atomic u32 isr;
	_Atomic bool posted; /* pin_update() is on its way */
	u8 pci_cap;          /* offset of the access capability */
};

/* ---- interrupts ---- */

static void pin_update(void *arg)
{
	struct virtio_pci *p = arg;

	atomic_store(&p->posted, false);
	pci_set_intx(&p->func, atomic_load(&p->isr) != 0);
}

static void interrupt(struct virtio_pci *p, u16 vector, u32 isr)
{
	if (pci_msix_enabled(&p->func)) {
		if (vector < p->vectors)
			pci_msix_notify(&p->func, vector);
		return;
	}
	atomic_fetch_or(&p->isr, isr);
	if (!atomic_exchange(&p->posted, true) && loop_post(p->v->env.loop, pin_update, p) < 0)
		atomic_store(&p->posted, false); /* no memory: with the next one */
}

void virtio_pci_interrupt_queue(struct virtio *v, struct virtqueue *vq)
{
	interrupt(v->pci, vq->vector, ISR_QUEUE);
}

void virtio_pci_interrupt_config(struct virtio *v)
{
	interrupt(v->pci, v->pci->config_vector, ISR_CONFIG);
}

/* 4.1.4.5: reading clears it. */
static u8 isr_read(struct virtio_pci *p)
{
	u8 isr = (u8)atomic_exchange(&p->isr, 0);

	pci_set_intx(&p->func, false);
	return isr;
}

/* ---- common configuration ---- */

static u32 feature_word(u64 features, u32 select)
{
	return select == 0 ? (u32)features : select == 1 ? (u32)(features >> 32) : 0;
}

/* The structure as the driver would see all of it. */
static void common_image(const struct virtio_pci *p, u8 c[COMMON_LEN])
{
	const struct virtio *v = p->v;
	struct virtqueue *vq = virtio_queue(p->v, p->queue_select);

	memset(c, 0, COMMON_LEN);
	put_le32(c + DEVICE_FEATURE_SELECT, p->device_feature_select);
	put_le32(c + DEVICE_FEATURE, feature_word(v->offered, p->device_feature_select));
	put_le32(c + DRIVER_FEATURE_SELECT, p->driver_feature_select);
	put_le32(c + DRIVER_FEATURE, feature_word(v->driver_features, p->driver_feature_select));
	put_le16(c + CONFIG_MSIX_VECTOR, p->config_vector);
	put_le16(c + NUM_QUEUES, (u16)v->cfg.nr_queues);
	c[DEVICE_STATUS] = (u8)v->status;
	c[CONFIG_GENERATION] = v->generation;
	put_le16(c + QUEUE_SELECT, p->queue_select);
	if (!vq)
		return; /* 4.1.4.3.1: a queue that does not exist has size 0 */
	put_le16(c + QUEUE_SIZE, vq->size);
	put_le16(c + QUEUE_MSIX_VECTOR, vq->vector);
	put_le16(c + QUEUE_ENABLE, vq->enabled);
	put_le16(c + QUEUE_NOTIFY_OFF, vq->index);
	put_le64(c + QUEUE_DESC, vq->desc);
	put_le64(c + QUEUE_DRIVER, vq->driver);
	put_le64(c + QUEUE_DEVICE, vq->device);
	put_le16(c + QUEUE_NOTIFY_DATA, vq->index);
}

static u64 common_read(const struct virtio_pci *p, u32 off, unsigned size)
{
	u8 c[COMMON_LEN];
	u64 val = 0;

	if (off + size > COMMON_LEN)
		return 0;
	common_image(p, c);
	memcpy(&val, c + off, size);
	return val;
}

/* 4.1.5.1.2.1: a vector that can't be reads back as none. */
static u16 vector_for(const struct virtio_pci *p, u64 val)
{
	return val < p->vectors ? (u16)val : VIRTIO_NO_VECTOR;
}

/* One half of a 64-bit field, or all of it. */
static void address_write(gpa_t *field, u32 at, u64 val, unsigned size)
{
	if (size == 8)
		*field = val;
	else if (size == 4)
		*field = at ? (u32)*field | val << 32 : (*field & ~0xffffffffull) | (u32)val;
}

static void queue_write(struct virtio_pci *p, u32 off, u64 val, unsigned size)
{
	struct virtqueue *vq = virtio_queue(p->v, p->queue_select);

	if (!vq)
		return;
	if (off == QUEUE_MSIX_VECTOR) {
		vq->vector = vector_for(p, val);
	} else if (off == QUEUE_RESET) {
		if (val == 1)
			virtio_queue_reset(vq);
	} else if (vq->enabled) {
		guest_warn(&p->v->rl, "%s: queue %u is programmed while it is enabled",
		           p->v->cfg.name, vq->index);
	} else if (off == QUEUE_SIZE) {
		vq->size = (u16)val;
	} else if (off == QUEUE_ENABLE) {
		if (val == 1)
			virtio_queue_enable(vq);
	} else if (off >= QUEUE_DESC && off < QUEUE_DRIVER) {
		address_write(&vq->desc, off - QUEUE_DESC, val, size);
	} else if (off >= QUEUE_DRIVER && off < QUEUE_DEVICE) {
		address_write(&vq->driver, off - QUEUE_DRIVER, val, size);
	} else if (off >= QUEUE_DEVICE && off < QUEUE_NOTIFY_DATA) {
		address_write(&vq->device, off - QUEUE_DEVICE, val, size);
	}
}

static unsigned field_size(u32 off)
{
	if (off == DEVICE_STATUS || off == CONFIG_GENERATION)
		return 1;
	return off < CONFIG_MSIX_VECTOR || (off >= QUEUE_DESC && off < QUEUE_NOTIFY_DATA) ? 4 : 2;
}

static void common_write(struct virtio_pci *p, u32 off, u64 val, unsigned size)
{
	struct virtio *v = p->v;
	unsigned want = field_size(off);
	bool half = want == 4 && off >= QUEUE_DESC && size == 8 && !(off & 7);

	if ((size != want && !half) || off & (want - 1)) {
		guest_warn(&v->rl, "%s: write of %u bytes at %#x of the common configuration",
		           v->cfg.name, size, off);
		return;
	}
	switch (off) {
	case DEVICE_FEATURE_SELECT:
		p->device_feature_select = (u32)val;
		break;
	case DRIVER_FEATURE_SELECT:
		p->driver_feature_select = (u32)val;
		break;
	case DRIVER_FEATURE:
		virtio_set_driver_features(v, p->driver_feature_select, (u32)val);
		break;
	case CONFIG_MSIX_VECTOR:
		p->config_vector = vector_for(p, val);
		break;
	case DEVICE_STATUS:
		virtio_set_status(v, (u8)val);
		break;
	case QUEUE_SELECT:
		p->queue_select = (u16)val;
		break;
	default:
		if (off >= QUEUE_SIZE)
			queue_write(p, off, val, size);
	}
}

/* ---- device configuration ---- */

static u64 device_read(const struct virtio_pci *p, u32 off, unsigned size)
{
	const struct virtio_config *c = &p->v->cfg;
	u64 val = 0;

	if (off < c->config_len)
		memcpy(&val, (const u8 *)c->config + off, MIN(size, c->config_len - off));
	return val;
}

static void device_write(struct virtio_pci *p, u32 off, u64 val, unsigned size)
{
	const struct virtio_config *c = &p->v->cfg;

	if (c->ops->config_write && off < c->config_len && size <= c->config_len - off)
		c->ops->config_write(p->v, off, (const u8 *)&val, size);
	else
		guest_warn(&p->v->rl, "%s: write of %u bytes at %#x of the configuration", c->name,
		           size, off);
}

/* ---- BARs ---- */

static u64 config_read(void *dev, u64 off, unsigned size)
{
	struct virtio_pci *p = dev;

	if (off >= DEVICE_OFFSET)
		return device_read(p, (u32)off - DEVICE_OFFSET, size);
	if (off >= ISR_OFFSET)
		return off == ISR_OFFSET ? isr_read(p) : 0;
	return common_read(p, (u32)off, size);
}

static void config_write(void *dev, u64 off, u64 val, unsigned size)
{
	struct virtio_pci *p = dev;

	if (off >= DEVICE_OFFSET)
		device_write(p, (u32)off - DEVICE_OFFSET, val, size);
	else if (off < ISR_OFFSET)
		common_write(p, (u32)off, val, size);
}

static u64 notify_read(void *dev, u64 off, unsigned size)
{
	return 0;
}

/* 4.1.5.2: the data is the queue's number, and so is the place. */
static void notify_write(void *dev, u64 off, u64 val, unsigned size)
{
	struct virtio_pci *p = dev;
	struct virtio *v = p->v;

	if (v->cfg.notify_unlocked) {
		virtio_notified(v, (unsigned)(off / NOTIFY_MULTIPLIER));
		return;
	}
	bus_lock(v->env.bus);
	virtio_notified(v, (unsigned)(off / NOTIFY_MULTIPLIER));
	bus_unlock(v->env.bus);
}

static const struct region_ops config_ops = {config_read, config_write};
static const struct region_ops notify_ops = {notify_read, notify_write};

/* ---- the access capability (4.1.4.9): the BARs through configuration space ---- */

/* The access that the capability describes; false: none. */
static bool window(const struct virtio_pci *p, u8 *bar, u32 *off, u32 *len)
{
	const u8 *c = p->func.config + p->pci_cap;

	*bar = c[CAP_BAR];
	*off = get_le32(c + CAP_OFFSET);
	*len = get_le32(c + CAP_LENGTH);
	if ((*len != 1 && *len != 2 && *len != 4) || (*off & (*len - 1)) || *bar >= PCI_NR_BARS)
		return false;
	return p->func.bar[*bar].len && *off <= p->func.bar[*bar].len - *len;
}

static bool touches_data(const struct virtio_pci *p, u32 off, unsigned size)
{
	u32 data = p->pci_cap + (u32)CAP_EXTRA;

	return off < data + 4 && data < off + size;
}

static void on_config_read(struct pci_func *f, u32 off, unsigned size)
{
	struct virtio_pci *p = container_of(f, struct virtio_pci, func);
	u8 *data = f->config + p->pci_cap + CAP_EXTRA;
	u32 at, len, val;
	u8 bar;

	if (!touches_data(p, off, size) || !window(p, &bar, &at, &len))
		return;
	if (bar == BAR_CONFIG)
		val = (u32)config_read(p, at, len);
	else if (bar == BAR_MSIX && len >= 4)
		val = (u32)f->bar[bar].region.ops->read(f, at, len);
	else
		val = 0;
	put_le32(data, val & (u32)size_mask(len));
}

static void on_config_write(struct pci_func *f, u32 off, unsigned size)
{
	struct virtio_pci *p = container_of(f, struct virtio_pci, func);
	u32 at, len, val;
	u8 bar;

	virtio_set_master(p->v, get_le16(f->config + PCI_COMMAND) & PCI_COMMAND_MASTER);
	if (!touches_data(p, off, size) || !window(p, &bar, &at, &len))
		return;
	val = get_le32(f->config + p->pci_cap + CAP_EXTRA) & (u32)size_mask(len);
	if (bar == BAR_CONFIG)
		config_write(p, at, val, len);
	else if (bar == BAR_NOTIFY) /* the machine lock is held, which does no harm */
		virtio_notified(p->v, at / NOTIFY_MULTIPLIER);
	else if (bar == BAR_MSIX && len >= 4)
		f->bar[bar].region.ops->write(f, at, val, len);
}

static const struct pci_ops func_ops = {on_config_read, on_config_write};

/* ---- the function ---- */

static u8 add_cap(struct virtio_pci *p, u8 type, u8 bar, u32 off, u32 len, u8 extra)
{
	u8 at = pci_add_capability(&p->func, PCI_CAP_ID_VENDOR, (u8)(CAP_LEN + extra));
	u8 *c = p->func.config + at;

	c[2] = (u8)(CAP_LEN + extra);
	c[CAP_TYPE] = type;
	c[CAP_BAR] = bar;
	put_le32(c + CAP_OFFSET, off);
	put_le32(c + CAP_LENGTH, len);
	return at;
}

static int describe(struct virtio_pci *p)
{
	const struct virtio_config *cfg = &p->v->cfg;
	struct pci_func *f = &p->func;
	const struct region config = {.max_size = 8, .ops = &config_ops, .dev = p};
	const struct region notify = {.max_size = 4, .nolock = true, .ops = &notify_ops, .dev = p};
	u32 notify_len = cfg->nr_queues * NOTIFY_MULTIPLIER, bar_len = PAGE_SIZE;
	u8 at;

	while (bar_len < notify_len)
		bar_len *= 2;
	pci_add_bar(f, BAR_CONFIG, PCI_BAR_MEM64, CONFIG_LEN, &config);
	pci_add_bar(f, BAR_NOTIFY, PCI_BAR_MEM64, bar_len, &notify);
	add_cap(p, CAP_COMMON, BAR_CONFIG, COMMON_OFFSET, COMMON_LEN, 0);
	at = add_cap(p, CAP_NOTIFY, BAR_NOTIFY, 0, notify_len, 4);
	put_le32(f->config + at + CAP_EXTRA, NOTIFY_MULTIPLIER);
	add_cap(p, CAP_ISR, BAR_CONFIG, ISR_OFFSET, 1, 0);
	if (cfg->config_len)
		add_cap(p, CAP_DEVICE, BAR_CONFIG, DEVICE_OFFSET, cfg->config_len, 0);
	at = p->pci_cap = add_cap(p, CAP_PCI, 0, 0, 0, 4);
	f->wmask[at + CAP_BAR] = 0xff;
	pci_set_writable(f, at + CAP_OFFSET, ~0u, 4);
	pci_set_writable(f, at + CAP_LENGTH, ~0u, 4);
	pci_set_writable(f, at + CAP_EXTRA, ~0u, 4);
	pci_add_intx(f);
	p->vectors = MIN(cfg->nr_queues + 1, (unsigned)MAX_VECTORS);
	return pci_add_msix(f, BAR_MSIX, p->vectors);
}

int virtio_pci_create(struct virtio *v, struct pci_host *pci)
{
	const struct virtio_config *cfg = &v->cfg;
	const struct pci_id id = {
		.vendor = VIRTIO_VENDOR_ID,
		.device = (u16)(VIRTIO_DEVICE_ID + cfg->id),
		.subsystem_vendor = VIRTIO_VENDOR_ID,
		/* 4.1.2.1: from 0x40 on for devices without the old interface. */
		.subsystem = (u16)(VIRTIO_DEVICE_ID + cfg->id),
		.class_code = cfg->pci_class ? cfg->pci_class : CLASS_OTHER,
		.revision = VIRTIO_REVISION,
	};
	struct virtio_pci *p = calloc(1, sizeof(*p));
	int err;

	if (!p)
		return -ENOMEM;
	p->v = v;
	v->pci = p;
	pci_func_init(&p->func, cfg->name, &func_ops, &id);
	err = describe(p);
	if (!err)
		err = pci_func_plug(pci, &p->func, cfg->slot ? cfg->slot : -1);
	if (err) {
		virtio_pci_destroy(v);
		return err;
	}
	virtio_pci_reset(v);
	return 0;
}

void virtio_pci_destroy(struct virtio *v)
{
	if (!v->pci)
		return;
	pci_func_unplug(&v->pci->func);
	free(v->pci);
	v->pci = NULL;
}

/* 4.1.4.3.1: what the driver selected and its vectors; not the PCI function itself. */
void virtio_pci_reset(struct virtio *v)
{
	struct virtio_pci *p = v->pci;

	p->device_feature_select = p->driver_feature_select = 0;
	p->queue_select = 0;
	p->config_vector = VIRTIO_NO_VECTOR;
	isr_read(p);
}

void virtio_pci_dump(struct virtio *v, FILE *out)
{
	fprintf(out, "  PCI slot %u, interrupts by %s\n", v->pci->func.slot,
	        pci_msix_enabled(&v->pci->func) ? "MSI-X" : "pin A");
}
