// SPDX-License-Identifier: MIT
/* The header of a qcow2 image and its backing files; empty images.
 *
 * An image comes from anywhere. Whatever this layer does not understand, or would have to keep up
 * to date when it writes (snapshots, bitmaps), is refused or, where the format provides for it,
 * marked as no longer valid. What it doesn't refuse is bounded here or, tables' entries, when it is
 * used. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "io/qcow2_priv.h"

#define L2_CACHE  (16 * MiB)
#define REF_CACHE (4 * MiB)

/* Incompatible features */
#define FEATURE_DIRTY       BIT(0)
#define FEATURE_CORRUPT     BIT(1)
#define FEATURE_DATA_FILE   BIT(2)
#define FEATURE_COMPRESSION BIT(3)
#define FEATURE_EXTENDED_L2 BIT(4)

#define EXT_END            0u
#define EXT_BACKING_FORMAT 0xe2792acau
#define EXT_ENCRYPTION     0x0537be77u
#define EXT_DATA_FILE      0x44415441u

#define NAME_MAX_LEN 1023 /* of a backing file, as the format has it */

struct header {
	u32 version, cluster_bits, crypt, nr_snapshots, refcount_order, length;
	u64 size, incompatible, compatible, autoclear;
	u64 l1_offset, reftable_offset, backing_offset;
	u32 l1_size, reftable_clusters, backing_len;
	u8 compression;
	char backing[NAME_MAX_LEN + 1];
	char backing_format[16];
};

static u32 be32(const u8 *p)
{
	return be32toh(get_le32(p));
}
static u64 be64(const u8 *p)
{
	return be64toh(get_le64(p));
}

bool image_is_qcow2(const void *first, size_t len)
{
	return len >= 4 && be32(first) == QCOW_MAGIC;
}

static int refuse(const char *name, const char *what, const char *instead)
{
	log_error("%s: %s; %s", name, what, instead);
	return -ENOTSUP;
}

static int damaged(const char *name, const char *what)
{
	log_error("%s: not a valid qcow2 image: %s; \"qemu-img check\" may say more", name, what);
	return -EINVAL;
}

/* ---- the header ---- */

static int parse_header(const u8 *p, struct header *h, const char *name)
{
	if (!image_is_qcow2(p, 4))
		return damaged(name, "it doesn't begin as one");
	*h = (struct header){
		.version = be32(p + 4),
		.backing_offset = be64(p + 8),
		.backing_len = be32(p + 16),
		.cluster_bits = be32(p + 20),
		.size = be64(p + 24),
		.crypt = be32(p + 32),
		.l1_size = be32(p + 36),
		.l1_offset = be64(p + 40),
		.reftable_offset = be64(p + 48),
		.reftable_clusters = be32(p + 56),
		.nr_snapshots = be32(p + 60),
		.refcount_order = 4,
		.length = 72,
	};
	if (h->version == 3) {
		h->incompatible = be64(p + 72);
		h->compatible = be64(p + 80);
		h->autoclear = be64(p + 88);
		h->refcount_order = be32(p + 96);
		h->length = be32(p + 100);
		if (h->length < 104 || h->length % 8)
			return damaged(name, "the header's length");
		if (h->length > 104)
			h->compression = p[104];
	} else if (h->version != 2) {
		return refuse(name, "a qcow image of an unknown version",
		              "versions 2 and 3 are supported, \"qemu-img convert -O qcow2\" makes "
		              "one");
	}
	return 0;
}

/* What this layer can't do. */
static int check_features(const struct header *h, const char *name, bool ro)
{
	u64 known = FEATURE_DIRTY | FEATURE_CORRUPT | FEATURE_COMPRESSION;

	if (h->crypt)
		return refuse(name, "the image is encrypted, which is not supported",
		              "\"qemu-img convert\" makes a plain one");
	if (h->incompatible & FEATURE_DATA_FILE)
		return refuse(name, "the image keeps its data in another file (data_file)",
		              "\"qemu-img convert -O qcow2\" makes one file");
	if (h->incompatible & FEATURE_EXTENDED_L2)
		return refuse(name, "the image has subclusters (extended_l2)",
		              "\"qemu-img convert -O qcow2\" makes one without");
	if (h->incompatible & ~known)
		return refuse(name, "the image has features that this program does not know",
		              "\"qemu-img info\" lists them, \"qemu-img convert\" makes an image "
		              "without");
	if (h->nr_snapshots)
		return refuse(name, "the image contains internal snapshots",
		              "\"qemu-img snapshot -d NAME\" deletes one, \"qemu-img convert\" "
		              "makes an image of the current state");
	if (h->compression > QCOW_COMPRESS_ZSTD ||
	    (h->compression != QCOW_COMPRESS_ZLIB) != !!(h->incompatible & FEATURE_COMPRESSION))
		return refuse(name, "the image is compressed in an unknown way",
		              "zlib and zstd are supported");
	if (!ro && h->incompatible & FEATURE_DIRTY)
		return refuse(name, "the image was not closed properly (dirty, lazy refcounts)",
		              "\"qemu-img check -r all\" repairs it, and ,ro reads it as it is");
	if (!ro && h->incompatible & FEATURE_CORRUPT)
		return refuse(name, "the image is marked as corrupt",
		              "\"qemu-img check -r all\" tries to repair it, and ,ro reads it as "
		              "it is");
	return 0;
}

static bool table_ok(const struct image *file, u64 offset, u64 bytes, u64 cluster)
{
	return offset && !(offset & (cluster - 1)) && offset <= file->size &&
	       bytes <= file->size - offset;
}

static int check_numbers(const struct header *h, const struct image *file, const char *name)
{
	u64 cluster, covers;

	if (h->cluster_bits < QCOW_MIN_BITS || h->cluster_bits > QCOW_MAX_BITS)
		return damaged(name, "the size of clusters");
	cluster = BIT(h->cluster_bits);
	if (h->refcount_order > 6)
		return damaged(name, "the width of refcounts");
	if (h->length > cluster)
		return damaged(name, "the header's length");
	if (h->l1_size * 8ull > QCOW_MAX_L1 ||
	    (h->l1_size && !table_ok(file, h->l1_offset, h->l1_size * 8ull, cluster)))
		return damaged(name, "the L1 table's place");
	covers = cluster * (cluster / 8);
	if (h->size > (u64)INT64_MAX - covers || (h->size + covers - 1) / covers > h->l1_size)
		return damaged(name, "the L1 table is too short for the size of the disk");
	if (!h->reftable_clusters || h->reftable_clusters * cluster > QCOW_MAX_REFTABLE ||
	    !table_ok(file, h->reftable_offset, h->reftable_clusters * cluster, cluster))
		return damaged(name, "the refcount table's place");
	if (h->backing_offset && (h->backing_len > NAME_MAX_LEN || !h->backing_len ||
	                          h->backing_offset > cluster - h->backing_len))
		return damaged(name, "the backing file's name");
	return 0;
}

/* Extensions between the header and the backing file's name, within the first cluster. */
static int parse_extensions(const u8 *p, u64 len, struct header *h, const char *name)
{
	u64 at = h->length, end = h->backing_offset ? h->backing_offset : len;

	while (at + 8 <= end) {
		u32 type = be32(p + at), n = be32(p + at + 4);

		at += 8;
		if (type == EXT_END)
			return 0;
		if (n > end - at)
			return damaged(name, "a header extension");
		if (type == EXT_ENCRYPTION || type == EXT_DATA_FILE)
			return refuse(name, "the image is encrypted or keeps its data elsewhere",
			              "\"qemu-img convert\" makes a plain one");
		if (type == EXT_BACKING_FORMAT)
			snprintf(h->backing_format, sizeof(h->backing_format), "%.*s",
			         (int)MIN(n, 15u), (const char *)p + at);
		at += ALIGN_UP((u64)n, 8);
	}
	return 0;
}

static int read_header(struct image *file, struct header *h, bool ro)
{
	u8 first[112] = {0}, *p;
	u64 len;
	int err;

	if (file->size < 72)
		return damaged(file->name, "it is too short");
	err = image_read(file, 0, first, MIN(file->size, sizeof(first)));
	if (err) {
		log_error("%s: cannot read: %s", file->name, strerror(-err));
		return err;
	}
	err = parse_header(first, h, file->name);
	if (!err)
		err = check_features(h, file->name, ro);
	if (!err)
		err = check_numbers(h, file, file->name);
	if (err)
		return err;
	len = MIN(BIT(h->cluster_bits), file->size);
	p = malloc(len);
	if (!p)
		return -ENOMEM;
	err = image_read(file, 0, p, len);
	if (!err && h->backing_offset && h->backing_offset + h->backing_len > len)
		err = damaged(file->name, "the backing file's name");
	if (!err)
		err = parse_extensions(p, len, h, file->name);
	if (!err && h->backing_offset)
		memcpy(h->backing, p + h->backing_offset, h->backing_len);
	free(p);
	return err;
}

/* ---- backing files ---- */

/* Relative to the folder of the image that names it. */
static int resolve(char *out, size_t size, const char *image, const char *name)
{
	const char *slash = strrchr(image, '/');
	int n;

	if (*name == '/' || !slash)
		n = snprintf(out, size, "%s", name);
	else
		n = snprintf(out, size, "%.*s/%s", (int)(slash - image), image, name);
	return n < 0 || (size_t)n >= size ? -ENAMETOOLONG : 0;
}

/* file.qcow2 -> a.qcow2 -> file.qcow2, and chains without end. */
static int check_chain(const struct image_chain *c, const char *path, const struct stat *st)
{
	unsigned depth = 1;

	for (; c; c = c->above, depth++) {
		if (c->dev == st->st_dev && c->ino == st->st_ino) {
			log_error("%s: is its own backing file, directly or through others; "
			          "\"qemu-img rebase -u\" corrects the name",
			          path);
			return -ELOOP;
		}
	}
	if (depth > IMAGE_MAX_CHAIN) {
		log_error("%s: more than %d backing files above each other; \"qemu-img commit\" or "
		          "convert makes it fewer",
		          path, IMAGE_MAX_CHAIN);
		return -ELOOP;
	}
	return 0;
}

static int open_backing(struct image **out, const struct header *h, const char *name,
                        const struct image_qcow2_config *cfg)
{
	struct image_raw_config raw = {.ro = true, .direct = cfg->direct, .holds_image = true};
	struct image_qcow2_config q = {.ro = true, .direct = cfg->direct};
	struct image_chain chain;
	struct stat st;
	struct image *file;
	char path[4096];
	bool qcow2 = !strcmp(h->backing_format, "qcow2");
	int err;

	if (!cfg->chain)
		return refuse(name, "it has a backing file, which is looked for beside files only",
		              "\"qemu-img convert\" makes an image without");
	if (!qcow2 && strcmp(h->backing_format, "raw")) {
		/* To look into the file would let a guest whose raw disk it was name any file. */
		log_error("%s: the format of its backing file %s is %s%s; raw and qcow2 are "
		          "supported: \"qemu-img rebase -u -F FORMAT -b %s %s\" states it",
		          name, h->backing, *h->backing_format ? "" : "not stated",
		          h->backing_format, h->backing, name);
		return -ENOTSUP;
	}
	if (memchr(h->backing, ':', strcspn(h->backing, "/")))
		return refuse(name, "its backing file is not a plain file",
		              "give it a file's name");
	err = resolve(path, sizeof(path), cfg->chain->path, h->backing);
	if (!err && stat(path, &st) < 0)
		err = -errno;
	if (err) {
		log_error("%s: its backing file %s: %s", name, h->backing, strerror(-err));
		return err;
	}
	err = check_chain(cfg->chain, path, &st);
	if (err)
		return err;
	raw.holds_image = qcow2;
	err = image_raw_open(&file, path, &raw);
	if (err || !qcow2) {
		if (!err)
			*out = file;
		return err;
	}
	chain = (struct image_chain){cfg->chain, path, st.st_dev, st.st_ino};
	q.chain = &chain;
	err = image_qcow2_open(out, file, &q);
	if (err)
		image_destroy(file);
	return err;
}

/* ---- opening ---- */

static int load_top(struct qcow2 *q, struct qcow2_top *t, u64 offset, u32 nr, u64 reserved,
                    const char *what)
{
	int err;

	t->offset = offset;
	t->nr = nr;
	t->entry = calloc(MAX(nr, 1u), sizeof(*t->entry));
	if (!t->entry)
		return -ENOMEM;
	err = image_read(q->image.below, offset, t->entry, nr * 8ull);
	if (err) {
		log_error("%s: cannot read the %s: %s", q->image.name, what, strerror(-err));
		return err;
	}
	for (u32 i = 0; i < nr; i++) {
		u64 e = be64toh(t->entry[i]), at = e & QCOW_OFFSET;

		t->entry[i] = e;
		if (e & reserved || at & (q->cluster - 1) ||
		    (at && !table_ok(q->image.below, at, 1, q->cluster)))
			return damaged(q->image.name, what);
	}
	return 0;
}

static unsigned slots(u64 bytes, u64 cluster, unsigned max)
{
	return (unsigned)MIN(MAX(bytes / cluster, 8ull), (u64)max);
}

static int load_tables(struct qcow2 *q, const struct header *h)
{
	u64 l1_used = (h->size + (q->cluster << q->l2_bits) - 1) / (q->cluster << q->l2_bits);
	int err = load_top(q, &q->reftable, h->reftable_offset,
	                   (u32)(h->reftable_clusters * (q->cluster / 8)),
	                   QCOW_REF_RESERVED | ~QCOW_OFFSET, "the refcount table");

	if (!err)
		err = load_top(q, &q->l1, h->l1_offset, h->l1_size, QCOW_L1_RESERVED,
		               "the L1 table");
	if (err)
		return err;
	err = qcow2_set_build(q);
	if (err == -EEXIST)
		return damaged(q->image.name, "its tables overlap");
	if (!err)
		err = qcow2_cache_init(
			&q->l2, slots(MIN(L2_CACHE, (l1_used + 1) * q->cluster), q->cluster, 4096));
	if (!err)
		err = qcow2_cache_init(&q->ref, slots(REF_CACHE, q->cluster, 1024));
	return err;
}

/* Features that are kept valid only by who knows them (bitmaps) become invalid with the first
 * write: said before anything else is written. */
static int clear_autoclear(struct qcow2 *q, const struct header *h)
{
	const u64 none = 0;
	int err;

	if (q->image.ro || !h->autoclear)
		return 0;
	log_info("%s: bitmaps or other features that writing makes invalid are marked so",
	         q->image.name);
	err = image_write(q->image.below, 88, &none, sizeof(none));
	if (!err)
		err = image_flush(q->image.below);
	if (err)
		log_error("%s: cannot write: %s", q->image.name, strerror(-err));
	return err;
}

int image_qcow2_open(struct image **out, struct image *file, const struct image_qcow2_config *cfg)
{
	struct qcow2 *q;
	struct header h;
	int err = read_header(file, &h, cfg->ro || file->ro);

	if (err)
		return err;
	q = image_alloc(sizeof(*q), &qcow2_ops, file->name);
	if (!q)
		return -ENOMEM;
	pthread_mutex_init(&q->lock, NULL);
	pthread_mutex_init(&q->inflate_lock, NULL);
	q->version = h.version;
	q->cluster_bits = h.cluster_bits;
	q->cluster = BIT(h.cluster_bits);
	q->l2_bits = h.cluster_bits - 3;
	q->ref_order = h.refcount_order;
	q->ref_bits = h.cluster_bits + 3 - h.refcount_order;
	q->compression = h.compression;
	q->end = (file->size + q->cluster - 1) >> q->cluster_bits;
	q->image.size = h.size;
	q->image.ro = cfg->ro || file->ro;
	q->image.granule = (u32)MAX(q->cluster, (u64)file->align);
	q->image.below = file;
	if (file->align > q->cluster) {
		err = refuse(file->name, "its clusters are smaller than what cache=none writes",
		             "leave out cache=none");
		goto fail;
	}
	err = load_tables(q, &h);
	if (!err && !cfg->backing && h.backing_offset)
		err = open_backing(&q->image.backing, &h, q->image.name, cfg);
	if (!err)
		err = clear_autoclear(q, &h);
	if (err)
		goto fail;
	if (cfg->backing)
		q->image.backing = cfg->backing;
	*out = &q->image;
	return 0;

fail:
	q->broken = true;      /* nothing to flush */
	q->image.below = NULL; /* the caller's */
	q->image.ops->destroy(&q->image);
	return err;
}

/* ---- empty images ---- */

/* Cluster 0 the header, 1 the refcount table, 2 its block, then the L1 table. */
int image_qcow2_format(struct image *file, u64 size)
{
	const unsigned bits = 16;
	u64 cluster = BIT(bits), l1 = (size + (cluster << 13) - 1) / (cluster << 13);
	u64 l1_clusters = (l1 * 8 + cluster - 1) / cluster;
	u32 word[] = {QCOW_MAGIC,
	              3,
	              0,
	              0,
	              0,
	              bits,
	              (u32)(size >> 32),
	              (u32)size,
	              0,
	              (u32)l1,
	              0,
	              (u32)(3 * cluster),
	              0,
	              (u32)cluster,
	              1,
	              0,
	              0,
	              0,
	              /* version 3 */ 0,
	              0,
	              0,
	              0,
	              0,
	              0,
	              4,
	              104};
	u8 *meta;
	int err;

	if (l1 * 8 > QCOW_MAX_L1)
		return -EFBIG;
	meta = calloc(3 + l1_clusters, cluster);
	if (!meta)
		return -ENOMEM;
	for (unsigned i = 0; i < ARRAY_SIZE(word); i++)
		put_le32(meta + i * 4, htobe32(word[i]));
	put_le64(meta + cluster, htobe64(2 * cluster));
	for (u64 i = 0; i < 3 + l1_clusters; i++)
		put_le16(meta + 2 * cluster + i * 2, htobe16(1));
	err = image_write(file, 0, meta, (3 + l1_clusters) * cluster);
	free(meta);
	if (!err)
		file->size = (3 + l1_clusters) * cluster;
	return err;
}
