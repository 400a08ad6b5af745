// SPDX-License-Identifier: MIT
/* Which layers make up a disk.
 *
 * The format is never found out by looking into the image alone: a guest with a raw disk writes
 * what it likes, a qcow2 header that names a file of the host as its backing file too. Contents
 * that contradict the name are refused until the user says what he means. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/log.h"
#include "io/disk.h"

static bool ends_in(const char *s, const char *end)
{
	size_t n = strlen(s), m = strlen(end);

	return n >= m && !strcmp(s + n - m, end);
}

bool disk_is_nbd(const char *path)
{
	return !strncmp(path, "nbd://", 6) || !strncmp(path, "nbd+unix://", 11);
}

/* DISK_RAW, DISK_QCOW2, or -errno with what is wrong logged. */
static int format_of(struct image *file, const struct disk_config *cfg)
{
	u8 first[8] = {0};
	bool named, is;
	int err;

	if (cfg->format != DISK_AUTO)
		return cfg->format;
	err = image_read(file, 0, first, file->size < 8 ? 0 : 8);
	if (err) {
		log_error("%s: cannot read: %s", cfg->path, strerror(-err));
		return err;
	}
	named = ends_in(cfg->path, ".qcow2");
	is = image_is_qcow2(first, sizeof(first));
	if (is && !named) {
		log_error("%s: contains a qcow2 image, but its name doesn't end in .qcow2; say "
		          ",format=qcow2, or ,format=raw if the guest is to see the image itself",
		          cfg->path);
		return -EINVAL;
	}
	if (named && !is) {
		log_error("%s: not a qcow2 image, as its name says; ,format=raw takes it as it is",
		          cfg->path);
		return -EINVAL;
	}
	return named ? DISK_QCOW2 : DISK_RAW;
}

/* The file, device, server or RAM, or a part of it. */
static int open_file(struct image **out, const struct disk_config *cfg, bool ro)
{
	const struct image_raw_config raw = {
		.ro = ro,
		.direct = cfg->direct && cfg->offset % (64 * KiB) == 0,
		.holds_image = cfg->format == DISK_QCOW2 ||
	                       (cfg->format == DISK_AUTO && ends_in(cfg->path, ".qcow2")),
		.lock_off = cfg->offset,
		.lock_len = cfg->size,
	};
	struct image *file;
	int err;

	if (cfg->ram_size)
		err = image_ram_create(&file, cfg->ram_size);
	else if (disk_is_nbd(cfg->path))
		err = image_nbd_open(&file, cfg->path, ro, cfg->reconnect);
	else
		err = image_raw_open(&file, cfg->path, &raw);
	if (err)
		return err;
	if (cfg->offset || cfg->size) {
		u64 len = cfg->size;

		if (!len && cfg->offset < file->size)
			len = file->size - cfg->offset;
		err = image_part(out, file, cfg->offset, len);
		if (err)
			image_destroy(file);
		return err;
	}
	*out = file;
	return 0;
}

static int open_qcow2(struct image **out, struct image *file, const struct disk_config *cfg,
                      bool ro)
{
	struct image_chain chain = {.path = cfg->path};
	struct image_qcow2_config q = {.ro = ro, .chain = &chain, .direct = cfg->direct};
	struct stat st;

	if (cfg->ram_size || disk_is_nbd(cfg->path)) {
		q.chain = NULL;
	} else if (fstat(file->fd >= 0 ? file->fd : file->below->fd, &st) == 0) {
		chain.dev = st.st_dev;
		chain.ino = st.st_ino;
	}
	return image_qcow2_open(out, file, &q);
}

/* A temporary qcow2 image above `base`. */
static int add_snapshot(struct image **out, struct image *base)
{
	const struct image_qcow2_config q = {.backing = base};
	struct image *file;
	int err = image_raw_temp(&file);

	if (err)
		return err;
	err = image_qcow2_format(file, base->size);
	if (err)
		log_error("temporary layer: %s", strerror(-err));
	else
		err = image_qcow2_open(out, file, &q);
	if (err)
		image_destroy(file);
	return err;
}

int disk_open_image(struct image **out, const struct disk_config *cfg)
{
	bool ro = cfg->ro || cfg->snapshot;
	struct image *im, *top;
	int err = open_file(&im, cfg, ro), format;

	if (err)
		return err;
	format = cfg->ram_size ? DISK_RAW : format_of(im, cfg);
	if (format < 0) {
		image_destroy(im);
		return format;
	}
	if (format == DISK_QCOW2) {
		err = open_qcow2(&top, im, cfg, ro);
		if (err) {
			image_destroy(im);
			return err;
		}
		im = top;
	}
	if (im->size < 512) {
		log_error("%s: empty; a disk has 512 bytes at least, for example: truncate -s 4G "
		          "%s",
		          cfg->path, cfg->path);
		image_destroy(im);
		return -EINVAL;
	}
	if (im->size % 512)
		log_warn("%s: the last %llu bytes, less than a sector, are left out", cfg->path,
		         (unsigned long long)(im->size % 512));
	im->size &= ~511ull;
	if (cfg->snapshot) {
		err = add_snapshot(&top, im);
		if (err) {
			image_destroy(im);
			return err;
		}
		im = top;
		im->ro = cfg->ro;
	}
	*out = im;
	return 0;
}

int disk_open(struct block **out, struct loop *loop, const struct disk_config *cfg)
{
	struct image *im;
	int err = disk_open_image(&im, cfg);

	return err ? err : disk_create(out, loop, im, 0);
}
