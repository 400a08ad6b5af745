// SPDX-License-Identifier: MIT
#include "cli/diskopts.h"

#include <stdlib.h>
#include <string.h>

#include "cli/keyval.h"
#include "cli/options.h"
#include "dev/virtio_blk.h"

struct disk_arg {
	const char *path, *serial;
	unsigned format, werror, cache;
	bool ro, snapshot, packed;
	u64 offset, size, queues, reconnect;
};

#define RECONNECT_S    15
#define RECONNECT_NONE ~0ull /* not given */

static const char *const formats[] = {"auto", "raw", "qcow2", NULL}; /* enum disk_format */
static const char *const werrors[] = {"report", "stop", NULL};
static const char *const caches[] = {"writeback", "none", NULL};

static const struct keyval_key disk_keys[] = {
	{"format", KEYVAL_WORD, offsetof(struct disk_arg, format), .words = formats},
	{"ro", KEYVAL_BOOL, offsetof(struct disk_arg, ro)},
	{"snapshot", KEYVAL_BOOL, offsetof(struct disk_arg, snapshot)},
	{"serial", KEYVAL_STRING, offsetof(struct disk_arg, serial)},
	{"werror", KEYVAL_WORD, offsetof(struct disk_arg, werror), .words = werrors},
	{"cache", KEYVAL_WORD, offsetof(struct disk_arg, cache), .words = caches},
	{"offset", KEYVAL_SIZE, offsetof(struct disk_arg, offset), 0, INT64_MAX},
	{"size", KEYVAL_SIZE, offsetof(struct disk_arg, size), 512, INT64_MAX},
	{"queues", KEYVAL_NUMBER, offsetof(struct disk_arg, queues), 1, VIRTIO_BLK_QUEUES_MAX},
	{"reconnect", KEYVAL_NUMBER, offsetof(struct disk_arg, reconnect), 0, 3600},
	{"packed", KEYVAL_BOOL, offsetof(struct disk_arg, packed)},
};

static int wrong(const char *arg, const char *what, const char *example)
{
	log_error("--disk %s: %s; for example: --disk %s", arg, what, example);
	return -1;
}

static int check(const struct disk_arg *a, struct vm_disk *d, const char *arg)
{
	if (!strncmp(a->path, "ram:", 4)) {
		if (options_parse_size(a->path + 4, &d->image.ram_size) < 0 || !d->image.ram_size)
			return wrong(arg, "a RAM disk's size is in MiB, or with K, M, G, T",
			             "ram:256M");
		if (a->format || a->offset || a->size || a->snapshot || a->cache)
			return wrong(arg, "a RAM disk has no format, part, snapshot or cache",
			             "ram:256M,serial=scratch");
	}
	if (a->offset % 512 || a->size % 512)
		return wrong(arg, "offset and size are multiples of 512 bytes",
		             "disk.img,offset=1M,size=4G");
	if (a->serial && strlen(a->serial) > VIRTIO_BLK_ID_LEN)
		return wrong(arg, "a serial number has 20 characters at most",
		             "disk.img,serial=WD-123456");
	if (a->reconnect != RECONNECT_NONE && !disk_is_nbd(a->path))
		return wrong(arg, "reconnect is for servers", "nbd://localhost/disk,reconnect=60");
	if (a->ro && a->snapshot)
		return wrong(arg, "with ro nothing is written that a snapshot could keep apart",
		             "disk.img,snapshot=on");
	return 0;
}

int disk_option_parse(struct vm_disk *d, const char *arg, char **copy)
{
	static const struct keyval_def def = {
		.option = "--disk",
		.first = "a file, block device, nbd://HOST/NAME or ram:SIZE",
		.first_offset = offsetof(struct disk_arg, path),
		.example = "--disk disk.qcow2,serial=root",
		.keys = disk_keys,
		.nr_keys = ARRAY_SIZE(disk_keys),
	};
	struct disk_arg a = {.queues = 1, .reconnect = RECONNECT_NONE};

	if (keyval_parse(&def, arg, &a, copy) < 0)
		return -1;
	*d = (struct vm_disk){
		.image = {.path = a.path,
	                  .format = a.format,
	                  .ro = a.ro,
	                  .snapshot = a.snapshot,
	                  .direct = a.cache == 1,
	                  .offset = a.offset,
	                  .size = a.size,
	                  .reconnect = (unsigned)(a.reconnect == RECONNECT_NONE ? RECONNECT_S
	                                                                        : a.reconnect)},
		.serial = a.serial,
		.queues = (unsigned)a.queues,
		.packed = a.packed,
		.stop_on_error = a.werror == 1,
	};
	if (check(&a, d, arg) == 0)
		return 0;
	free(*copy);
	*copy = NULL;
	return -1;
}
