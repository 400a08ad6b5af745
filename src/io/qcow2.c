// SPDX-License-Identifier: MIT
/* qcow2: reading, writing, giving up space.
 *
 * A write to a cluster of its own goes straight there. Otherwise clusters are allocated, the data
 * goes into them, with what the write leaves of the old content, and then the L2 entries are
 * changed: in memory, because making that stable is the commit's business (qcow2_cache.c). */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

#include "io/qcow2_priv.h"

/* Of one allocation: bounds what an error leaves behind, and the vectors. */
#define ALLOC_MAX (4 * MiB)

/* ---- compressed clusters ---- */

/* Raw deflate data; what follows its end is padding. */
static int unpack_zlib(const u8 *in, u64 in_len, u8 *out, u64 out_len)
{
	z_stream z = {.next_in = (u8 *)(uintptr_t)in,
	              .avail_in = (unsigned)in_len,
	              .next_out = out,
	              .avail_out = (unsigned)out_len};
	int r;

	if (inflateInit2(&z, -12) != Z_OK)
		return -ENOMEM;
	r = inflate(&z, Z_FINISH);
	inflateEnd(&z);
	return (r == Z_STREAM_END || r == Z_BUF_ERROR) && !z.avail_out ? 0 : -EIO;
}

static int unpack_zstd(const u8 *in, u64 in_len, u8 *out, u64 out_len)
{
	ZSTD_DCtx *ctx = ZSTD_createDCtx();
	ZSTD_inBuffer from = {in, in_len, 0};
	ZSTD_outBuffer to = {out, out_len, 0};
	size_t r = 1;

	if (!ctx)
		return -ENOMEM;
	while (to.pos < to.size) {
		size_t in_pos = from.pos, out_pos = to.pos;

		r = ZSTD_decompressStream(ctx, &to, &from);
		if (ZSTD_isError(r) || (from.pos == in_pos && to.pos == out_pos))
			break;
	}
	ZSTD_freeDCtx(ctx);
	return !ZSTD_isError(r) && to.pos == to.size ? 0 : -EIO;
}

/* The cluster of an L2 entry in q->inflate_out; inflate_lock is held. What was unpacked last is
 * kept: guests read the same cluster page by page. */
static int unpack(struct qcow2 *q, u64 entry)
{
	unsigned x = 62 - (q->cluster_bits - 8);
	u64 host = entry & (BIT(x) - 1), len, max = 2 * q->cluster;
	const struct image *f = q->image.below;
	int err;

	if (q->inflated == entry)
		return 0;
	if (!q->inflate_in)
		q->inflate_in = malloc(max);
	if (!q->inflate_out)
		q->inflate_out = malloc(q->cluster);
	if (!q->inflate_in || !q->inflate_out)
		return -ENOMEM;
	q->inflated = 0;
	len = ((entry >> x & (BIT(q->cluster_bits - 8) - 1)) + 1) * 512 - (host & 511);
	if (!f->grows && host + len > f->size) /* the last sector may be cut */
		len = host < f->size ? f->size - host : 0;
	err = image_read(q->image.below, host, q->inflate_in, len);
	if (err)
		return err;
	if (q->compression == QCOW_COMPRESS_ZSTD)
		err = unpack_zstd(q->inflate_in, len, q->inflate_out, q->cluster);
	else
		err = unpack_zlib(q->inflate_in, len, q->inflate_out, q->cluster);
	if (!err)
		q->inflated = entry;
	else if (err == -EIO)
		log_error("%s: compressed data at %#llx is damaged", q->image.name,
		          (unsigned long long)host);
	return err;
}

static int read_packed(struct qcow2 *q, u64 entry, u64 in, const struct iovec *iov, unsigned n,
                       u64 at, u64 len)
{
	int err;

	pthread_mutex_lock(&q->inflate_lock);
	err = unpack(q, entry);
	if (!err)
		iov_write(iov, n, at, q->inflate_out + in, len);
	pthread_mutex_unlock(&q->inflate_lock);
	return err;
}

/* ---- reading ---- */

static int read_backing(struct qcow2 *q, u64 off, const struct iovec *iov, unsigned n, u64 at,
                        u64 len)
{
	struct image *b = q->image.backing;
	u64 there = b && off < b->size ? MIN(len, b->size - off) : 0;
	struct iovec part[IMAGE_MAX_IOV];
	int err = 0;

	if (there)
		err = image_readv(b, off, part, iov_slice(iov, n, at, there, part, IMAGE_MAX_IOV));
	if (!err && there < len)
		iov_fill(iov, n, at + there, 0, len - there);
	return err;
}

/* What is behind the image's end, in its last cluster, reads as zeros. */
static int qcow2_read(struct image *im, u64 off, const struct iovec *iov, unsigned n)
{
	struct qcow2 *q = qcow2_of(im);
	u64 len = iov_total(iov, n);
	struct iovec part[IMAGE_MAX_IOV];
	int err = 0;

	for (u64 at = 0; at < len && !err;) {
		struct qcow2_extent e;
		u64 here = off + at;

		if (here >= im->size) {
			iov_fill(iov, n, at, 0, len - at);
			break;
		}
		pthread_mutex_lock(&q->lock);
		err = qcow2_lookup(q, here, MIN(len - at, im->size - here), true, &e);
		pthread_mutex_unlock(&q->lock);
		if (err)
			break;
		switch (e.kind) {
		case QCOW2_NONE:
			err = read_backing(q, here, iov, n, at, e.len);
			break;
		case QCOW2_ZEROS:
			iov_fill(iov, n, at, 0, e.len);
			break;
		case QCOW2_DATA:
			err = image_readv(im->below, e.host, part,
			                  iov_slice(iov, n, at, e.len, part, IMAGE_MAX_IOV));
			break;
		case QCOW2_PACKED:
			err = read_packed(q, e.host, here & (q->cluster - 1), iov, n, at, e.len);
			break;
		}
		at += e.len;
	}
	return err;
}

/* ---- writing ---- */

/* What a new cluster keeps of the guest's old content; NULL in *out when it is zero already. */
static int old_content(struct qcow2 *q, u64 off, u64 len, bool fresh, u8 **out)
{
	struct qcow2_extent e = {.kind = QCOW2_ZEROS};
	struct iovec iov;
	int err = 0;

	*out = NULL;
	if (!len)
		return 0;
	if (off < q->image.size) {
		pthread_mutex_lock(&q->lock);
		err = qcow2_lookup(q, off, 1, true, &e);
		pthread_mutex_unlock(&q->lock);
		if (err)
			return err;
	}
	if (fresh && (e.kind == QCOW2_ZEROS || (e.kind == QCOW2_NONE && !q->image.backing)))
		return 0;
	*out = malloc(len);
	if (!*out)
		return -ENOMEM;
	iov = (struct iovec){*out, len};
	return qcow2_read(&q->image, off, &iov, 1);
}

/* `len` bytes of the guest's at `off`, into the clusters from `first` on. */
static int fill_clusters(struct qcow2 *q, u64 off, u64 len, const struct iovec *iov, unsigned n,
                         u64 at, u64 first, bool fresh)
{
	u64 in = off & (q->cluster - 1), host = first << q->cluster_bits;
	u64 rest = -(off + len) & (q->cluster - 1);
	struct iovec vec[IMAGE_MAX_IOV];
	u8 *head = NULL, *tail = NULL;
	unsigned k = 0;
	int err = old_content(q, off - in, in, fresh, &head);

	if (!err)
		err = old_content(q, off + len, rest, fresh, &tail);
	if (err)
		goto out;
	if (head)
		vec[k++] = (struct iovec){head, in};
	k += iov_slice(iov, n, at, len, vec + k, IMAGE_MAX_IOV - 1 - k);
	if (tail)
		vec[k++] = (struct iovec){tail, rest};
	err = image_writev(q->image.below, head ? host : host + in, vec, k);
out:
	free(head);
	free(tail);
	return err;
}

/* Allocate and write up to `max` bytes; *done is how many. */
static int write_new(struct qcow2 *q, u64 off, u64 max, const struct iovec *iov, unsigned n, u64 at,
                     u64 *done)
{
	u64 in = off & (q->cluster - 1), first = 0, got = 0, len, want;
	bool fresh = false;
	int err;

	*done = 0;
	pthread_mutex_lock(&q->lock);
	err = qcow2_count_missing(q, off, MIN(max, ALLOC_MAX), &len);
	want = (in + len + q->cluster - 1) >> q->cluster_bits;
	if (!err && len)
		err = qcow2_alloc(q, want, &first, &got, &fresh);
	if (err == -ENOSPC && q->nr_freed) {
		err = qcow2_commit(q);
		if (!err)
			err = qcow2_alloc(q, want, &first, &got, &fresh);
	}
	pthread_mutex_unlock(&q->lock);
	if (err || !len)
		return err;
	len = MIN(len, (got << q->cluster_bits) - in);
	if (n + 2 > IMAGE_MAX_IOV)
		err = -EINVAL;
	else
		err = fill_clusters(q, off, len, iov, n, at, first, fresh);
	pthread_mutex_lock(&q->lock);
	if (!err)
		err = qcow2_link(q, off, got, first);
	if (err && !q->broken)
		qcow2_unalloc(q, first, got);
	if (!err && q->nr_freed > QCOW_MAX_FREED)
		err = qcow2_commit(q);
	pthread_mutex_unlock(&q->lock);
	*done = len;
	return err;
}

static int qcow2_write(struct image *im, u64 off, const struct iovec *iov, unsigned n)
{
	struct qcow2 *q = qcow2_of(im);
	u64 len = iov_total(iov, n), done;
	struct iovec part[IMAGE_MAX_IOV];
	int err = 0;

	for (u64 at = 0; at < len && !err; at += done) {
		struct qcow2_extent e;

		pthread_mutex_lock(&q->lock);
		err = q->broken ? -EIO : qcow2_lookup(q, off + at, len - at, true, &e);
		pthread_mutex_unlock(&q->lock);
		if (err)
			break;
		if (e.kind == QCOW2_DATA && e.copied) {
			done = e.len;
			err = image_writev(im->below, e.host, part,
			                   iov_slice(iov, n, at, done, part, IMAGE_MAX_IOV));
		} else {
			err = write_new(q, off + at, len - at, iov, n, at, &done);
		}
	}
	return err;
}

static int qcow2_flush(struct image *im)
{
	struct qcow2 *q = qcow2_of(im);
	bool clean;
	int err = 0;

	pthread_mutex_lock(&q->lock);
	clean = qcow2_is_clean(q);
	if (q->broken)
		err = -EIO;
	else if (!clean)
		err = qcow2_commit(q);
	pthread_mutex_unlock(&q->lock);
	/* Without changes of metadata others need not wait. */
	return !err && clean ? image_flush(im->below) : err;
}

/* ---- giving up space, zeros ---- */

/* Whole clusters. */
static int unlink_range(struct qcow2 *q, u64 off, u64 nr, bool zero)
{
	u64 done;
	int err = 0;

	for (; nr && !err; nr -= done, off += done << q->cluster_bits) {
		pthread_mutex_lock(&q->lock);
		err = qcow2_unlink(q, off, nr, zero, &done);
		if (!err && q->nr_freed > QCOW_MAX_FREED)
			err = qcow2_commit(q);
		pthread_mutex_unlock(&q->lock);
	}
	return err;
}

/* The clusters that lie wholly in the range, the image's last one too when the range ends with it.
 */
static u64 whole_clusters(const struct qcow2 *q, u64 off, u64 len, u64 *first)
{
	u64 end = off + len;

	*first = ALIGN_UP(off, q->cluster);
	end = end == q->image.size ? ALIGN_UP(end, q->cluster) : ALIGN_DOWN(end, q->cluster);
	return end > *first ? (end - *first) >> q->cluster_bits : 0;
}

static int qcow2_discard(struct image *im, u64 off, u64 len)
{
	struct qcow2 *q = qcow2_of(im);
	u64 first, nr = whole_clusters(q, off, len, &first);

	if (q->version < 3 && im->backing) /* what is below would show again */
		return 0;
	return unlink_range(q, first, nr, false);
}

/* Less than a cluster. */
static int zero_part(struct qcow2 *q, u64 off, u64 len)
{
	struct qcow2_extent e;
	struct iovec iov;
	int err;

	if (!len)
		return 0;
	pthread_mutex_lock(&q->lock);
	err = qcow2_lookup(q, off, 1, true, &e);
	pthread_mutex_unlock(&q->lock);
	if (err || e.kind == QCOW2_ZEROS || (e.kind == QCOW2_NONE && !q->image.backing))
		return err;
	iov = (struct iovec){calloc(1, len), len};
	if (!iov.iov_base)
		return -ENOMEM;
	err = qcow2_write(&q->image, off, &iov, 1);
	free(iov.iov_base);
	return err;
}

static int qcow2_zero(struct image *im, u64 off, u64 len, bool unmap)
{
	struct qcow2 *q = qcow2_of(im);
	u64 first, nr = whole_clusters(q, off, len, &first), end = off + len, last;
	int err;

	if (q->version < 3 && im->backing)
		return -EOPNOTSUPP;
	if (!nr) {
		u64 cut = MIN(MAX(ALIGN_UP(off, q->cluster), off), end);

		err = zero_part(q, off, cut - off);
		return err ? err : zero_part(q, cut, end - cut);
	}
	last = MIN(first + (nr << q->cluster_bits), end);
	err = zero_part(q, off, first - off);
	if (!err)
		err = unlink_range(q, first, nr, true);
	if (!err)
		err = zero_part(q, last, end - last);
	return err;
}

/* ---- for the ring ---- */

static bool qcow2_map(struct image *im, u64 off, u64 len, bool write, struct image **leaf,
                      u64 *leaf_off)
{
	struct qcow2 *q = qcow2_of(im);
	struct qcow2_extent e;
	int err;

	if (!len || pthread_mutex_trylock(&q->lock))
		return false;
	err = q->broken ? -EIO : qcow2_lookup(q, off, len, false, &e);
	pthread_mutex_unlock(&q->lock);
	if (err || e.len < len)
		return false;
	if (e.kind == QCOW2_DATA && (!write || e.copied))
		return image_map(im->below, e.host, len, write, leaf, leaf_off);
	if (e.kind == QCOW2_NONE && !write && im->backing && off + len <= im->backing->size)
		return image_map(im->backing, off, len, false, leaf, leaf_off);
	return false;
}

static void qcow2_destroy(struct image *im)
{
	struct qcow2 *q = qcow2_of(im);

	int err = 0;

	/* The second one writes the counts of what the first one freed. */
	for (unsigned i = 0; i < 2 && !im->ro && !q->broken && !err; i++)
		err = qcow2_flush(im);
	if (err)
		log_error("%s: what was written last may be lost: %s", im->name, strerror(-err));
	qcow2_cache_fini(&q->l2);
	qcow2_cache_fini(&q->ref);
	free(q->l1.entry);
	free(q->reftable.entry);
	free(q->meta.key);
	free(q->freed);
	free(q->inflate_in);
	free(q->inflate_out);
	pthread_mutex_destroy(&q->lock);
	pthread_mutex_destroy(&q->inflate_lock);
	image_destroy(im->backing);
	image_destroy(im->below);
	image_free(im);
}

const struct image_ops qcow2_ops = {
	.read = qcow2_read,
	.write = qcow2_write,
	.flush = qcow2_flush,
	.discard = qcow2_discard,
	.zero = qcow2_zero,
	.map = qcow2_map,
	.destroy = qcow2_destroy,
};
