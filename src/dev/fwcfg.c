// SPDX-License-Identifier: MIT
/* Facts from QEMU's docs/specs/fw_cfg. Every item is read-only: a DMA write is answered with the
 * error bit, a write to the data port is dropped.
 *
 * DMA is done before the write to the address register ends, with the machine lock held, which
 * others wait for: behind an item's end there are zeros, but what asks for a lot of them gets an
 * error. */
#include "dev/fwcfg.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define KEY_INDEX(key)  ((key)&0x3fff)
#define NR_ITEMS        (FWCFG_FILE_FIRST + FWCFG_MAX_FILES)
#define FILE_ENTRY_SIZE 64
#define ID_TRADITIONAL  1u
#define ID_DMA          2u
#define DMA_SIGNATURE   0x51454d5520434647ull /* "QEMU CFG" */
#define DMA_ERROR       (1u << 0)
#define DMA_READ        (1u << 1)
#define DMA_SKIP        (1u << 2)
#define DMA_SELECT      (1u << 3)
#define DMA_WRITE       (1u << 4)
#define DMA_MAX_ZEROS   (64 * KiB)

struct fwcfg_item {
	const u8 *data; /* NULL: no such item */
	u8 *copy;       /* the same if it is ours */
	u32 len;
};

struct fwcfg {
	struct dev dev;
	struct dev_env env;
	struct fwcfg_item item[2][NR_ITEMS]; /* generic, architecture's */
	u8 dir[4 + FWCFG_MAX_FILES * FILE_ENTRY_SIZE];
	u32 nr_files;

	const struct fwcfg_item *cur; /* selected; NULL: no such item */
	u16 key;
	u32 offset;
	u64 dma_addr;
	u64 dma_ops;
	struct ratelimit rl;
};

static struct fwcfg_item *item_of(struct fwcfg *f, u16 key)
{
	return KEY_INDEX(key) < NR_ITEMS ? &f->item[key >> 15][KEY_INDEX(key)] : NULL;
}

/* ---- set-up ---- */

static int item_set(struct fwcfg *f, u16 key, const u8 *data, u8 *copy, u32 len)
{
	struct fwcfg_item *it = item_of(f, key);

	if (!it || (key & 0x4000)) {
		log_error("fw_cfg: no item can have the key %#x", key);
		free(copy);
		return -EINVAL;
	}
	free(it->copy);
	*it = (struct fwcfg_item){data, copy, len};
	return 0;
}

int fwcfg_add_ref(struct fwcfg *f, u16 key, const void *data, u32 len)
{
	return item_set(f, key, data, NULL, len);
}

int fwcfg_add_bytes(struct fwcfg *f, u16 key, const void *data, u32 len)
{
	u8 *copy = malloc(len ? len : 1);

	if (!copy)
		return -ENOMEM;
	if (len)
		memcpy(copy, data, len);
	return item_set(f, key, copy, copy, len);
}

int fwcfg_add_u16(struct fwcfg *f, u16 key, u16 val)
{
	val = htole16(val);
	return fwcfg_add_bytes(f, key, &val, sizeof(val));
}

int fwcfg_add_u32(struct fwcfg *f, u16 key, u32 val)
{
	val = htole32(val);
	return fwcfg_add_bytes(f, key, &val, sizeof(val));
}

int fwcfg_add_u64(struct fwcfg *f, u16 key, u64 val)
{
	val = htole64(val);
	return fwcfg_add_bytes(f, key, &val, sizeof(val));
}

/* An entry of the directory: size, key (both big-endian), 2 reserved bytes, name. */
int fwcfg_add_file(struct fwcfg *f, const char *name, const void *data, u32 len)
{
	size_t n = strlen(name);
	u16 key = (u16)(FWCFG_FILE_FIRST + f->nr_files);
	u8 *e = f->dir + 4 + f->nr_files * FILE_ENTRY_SIZE;
	int err = 0;

	if (!n || n >= FWCFG_NAME_SIZE)
		err = -EINVAL;
	else if (f->nr_files == FWCFG_MAX_FILES)
		err = -ENOSPC;
	for (u32 i = 0; i < f->nr_files && !err; i++)
		if (!strcmp((char *)f->dir + 4 + i * FILE_ENTRY_SIZE + 8, name))
			err = -EEXIST;
	if (!err)
		err = fwcfg_add_bytes(f, key, data, len);
	if (err) {
		log_error("fw_cfg: cannot add file %s: %s", name, strerror(-err));
		return err;
	}
	put_le32(e, htobe32(len));
	put_le16(e + 4, htobe16(key));
	memcpy(e + 8, name, n + 1);
	f->nr_files++;
	put_le32(f->dir, htobe32(f->nr_files));
	return fwcfg_add_ref(f, FWCFG_FILE_DIR, f->dir, 4 + f->nr_files * FILE_ENTRY_SIZE);
}

/* ---- selector and data ---- */

static void fwcfg_select(struct fwcfg *f, u16 key)
{
	const struct fwcfg_item *it = item_of(f, key);

	f->key = key;
	f->offset = 0;
	f->cur = it && it->data ? it : NULL;
}

/* Bytes of the current item from the current place on. */
static u32 left(const struct fwcfg *f)
{
	return f->cur && f->offset < f->cur->len ? f->cur->len - f->offset : 0;
}

static void advance(struct fwcfg *f, u32 n)
{
	f->offset = n > ~f->offset ? ~0u : f->offset + n;
}

static u64 io_read(void *dev, u64 off, unsigned size)
{
	struct fwcfg *f = dev;
	u8 v = 0;

	if (off != 1 || size != 1)
		return 0; /* the selector is write-only */
	if (left(f))
		v = f->cur->data[f->offset];
	advance(f, 1);
	return v;
}

static void io_write(void *dev, u64 off, u64 val, unsigned size)
{
	if (!off && size == 2)
		fwcfg_select(dev, (u16)val);
}

/* ---- DMA ---- */

/* Item bytes, then zeros. */
static int dma_read(struct fwcfg *f, gpa_t addr, u32 len)
{
	u32 n = MIN(len, left(f));

	if (len - n > DMA_MAX_ZEROS)
		return -EINVAL;
	/* nothing is written if a part of the target is no RAM */
	if (n < len && pmap_zero(f->env.pmap, addr, len))
		return -EFAULT;
	return n ? pmap_write(f->env.pmap, addr, f->cur->data + f->offset, n) : 0;
}

static void dma_run(struct fwcfg *f)
{
	gpa_t at = f->dma_addr;
	u8 desc[16];
	u32 control, len;
	gpa_t addr;
	int err = 0;

	f->dma_addr = 0;
	f->dma_ops++;
	if (pmap_read(f->env.pmap, at, desc, sizeof(desc))) {
		guest_warn(&f->rl, "fw_cfg: DMA descriptor at %#llx is not in RAM",
		           (unsigned long long)at);
		return;
	}
	control = be32toh(get_le32(desc));
	len = be32toh(get_le32(desc + 4));
	addr = be64toh(get_le64(desc + 8));
	if (control & DMA_SELECT)
		fwcfg_select(f, (u16)(control >> 16));
	if (control & DMA_READ)
		err = dma_read(f, addr, len);
	else if (control & DMA_WRITE)
		err = -EACCES;
	if (!err && (control & (DMA_READ | DMA_SKIP)))
		advance(f, len);
	put_le32(desc, htobe32(err ? DMA_ERROR : 0));
	pmap_write(f->env.pmap, at, desc, 4); /* RAM: it was read above */
}

static u64 dma_reg_read(void *dev, u64 off, unsigned size)
{
	u64 be = htobe64(DMA_SIGNATURE);

	return be >> (off * 8);
}

/* Two big-endian halves; the lower one, at offset 4, starts the operation. */
static void dma_reg_write(void *dev, u64 off, u64 val, unsigned size)
{
	struct fwcfg *f = dev;

	if (size != 4 || (off & 3)) {
		guest_warn(&f->rl, "fw_cfg: DMA address written %u bytes wide at offset %llu", size,
		           (unsigned long long)off);
		return;
	}
	if (!off) {
		f->dma_addr = (u64)be32toh((u32)val) << 32;
	} else {
		f->dma_addr |= be32toh((u32)val);
		dma_run(f);
	}
}

/* ---- the device ---- */

static void fwcfg_reset(struct dev *d)
{
	struct fwcfg *f = container_of(d, struct fwcfg, dev);

	fwcfg_select(f, FWCFG_SIGNATURE);
	f->dma_addr = 0;
}

static void fwcfg_free(struct fwcfg *f)
{
	for (unsigned i = 0; i < 2; i++)
		for (unsigned k = 0; k < NR_ITEMS; k++)
			free(f->item[i][k].copy);
	free(f);
}

static void fwcfg_destroy(struct dev *d)
{
	struct fwcfg *f = container_of(d, struct fwcfg, dev);

	bus_detach(f->env.bus, BUS_PIO, FWCFG_PORT);
	bus_detach(f->env.bus, BUS_PIO, FWCFG_PORT + 4);
	fwcfg_free(f);
}

static void fwcfg_dump(struct dev *d, FILE *out)
{
	const struct fwcfg *f = container_of(d, struct fwcfg, dev);

	fprintf(out, "fw_cfg: key %#06x%s, offset %u, %llu DMA operations, %u files\n", f->key,
	        f->cur ? "" : " (no such item)", f->offset, (unsigned long long)f->dma_ops,
	        f->nr_files);
	for (u32 i = 0; i < f->nr_files; i++) {
		const u8 *e = f->dir + 4 + i * FILE_ENTRY_SIZE;

		fprintf(out, "  %#06x %8u %s\n", be16toh(get_le16(e + 4)), be32toh(get_le32(e)),
		        (const char *)e + 8);
	}
}

static const struct dev_ops fwcfg_dev_ops = {
	.reset = fwcfg_reset,
	.destroy = fwcfg_destroy,
	.dump = fwcfg_dump,
};

static const struct region_ops io_ops = {io_read, io_write};
static const struct region_ops dma_ops = {dma_reg_read, dma_reg_write};

static int standard_items(struct fwcfg *f, const struct fwcfg_config *cfg)
{
	unsigned max = cfg->max_vcpus ? cfg->max_vcpus : cfg->nr_vcpus;
	int err = fwcfg_add_bytes(f, FWCFG_SIGNATURE, "QEMU", 4);

	if (!err)
		err = fwcfg_add_u32(f, FWCFG_ID, ID_TRADITIONAL | ID_DMA);
	if (!err)
		err = fwcfg_add_u64(f, FWCFG_RAM_SIZE, f->env.pmap->ram_size);
	if (!err)
		err = fwcfg_add_u16(f, FWCFG_NOGRAPHIC, 1);
	if (!err)
		err = fwcfg_add_u16(f, FWCFG_NB_CPUS, (u16)cfg->nr_vcpus);
	if (!err)
		err = fwcfg_add_u16(f, FWCFG_MAX_CPUS, (u16)max);
	if (!err)
		err = fwcfg_add_ref(f, FWCFG_FILE_DIR, f->dir, 4);
	return err;
}

int fwcfg_create(struct fwcfg **out, const struct dev_env *env, const struct fwcfg_config *cfg)
{
	struct fwcfg *f = calloc(1, sizeof(*f));
	struct region io = {"fw_cfg", FWCFG_PORT, 2, .max_size = 2, .ops = &io_ops, .dev = f};
	struct region dma = {"fw_cfg-dma", FWCFG_PORT + 4, 8, .ops = &dma_ops, .dev = f};
	int err;

	if (!f)
		return -ENOMEM;
	f->env = *env;
	f->dev.name = "fw_cfg";
	f->dev.ops = &fwcfg_dev_ops;
	err = standard_items(f, cfg);
	if (err)
		goto fail;
	fwcfg_reset(&f->dev);
	err = bus_attach(env->bus, BUS_PIO, &io);
	if (err)
		goto fail;
	err = bus_attach(env->bus, BUS_PIO, &dma);
	if (err) {
		bus_detach(env->bus, BUS_PIO, FWCFG_PORT);
		goto fail;
	}
	dev_register(env, &f->dev);
	*out = f;
	return 0;
fail:
	fwcfg_free(f);
	return err;
}
