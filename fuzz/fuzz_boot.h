/* SPDX-License-Identifier: MIT */
/* Common part of the loaders' fuzz targets. An input is a kernel file; its last 16 bytes choose
 * what else there is: an initrd, a command line, processors, the size of the memory. Each target
 * has a valid kernel to start from (no binary files are kept), and values that hurt are put into
 * random places of its headers. */
#pragma once

#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "boot/boot.h"
#include "boot/image.h"
#include "mem/pmap.h"

size_t LLVMFuzzerMutate(u8 *data, size_t size, size_t max);
int LLVMFuzzerTestOneInput(const u8 *data, size_t size);
size_t LLVMFuzzerCustomMutator(u8 *data, size_t size, size_t max, unsigned seed);

#define TAIL 16

/* What must hold after a load that succeeded. */
static inline void check_state(const struct pmap *pmap, const struct boot_state *s)
{
	if (!pmap_ptr(pmap, s->rip, 1) || !pmap_ptr(pmap, s->gdt_base, s->gdt_limit + 1ul))
		bug("entry state outside memory");
	if (s->kernel_start < 0x500 || (s->rip >= BOOT_TABLES && s->rip < BOOT_TABLES_END))
		bug("kernel over the loader's tables");
	if (memcmp(pmap_ptr(pmap, s->rsdp, 8), "RSD PTR ", 8))
		bug("ACPI tables were overwritten");
	if (s->initrd_size && (!pmap_ptr(pmap, s->initrd_start, s->initrd_size) ||
	                       s->initrd_start < MAX(s->kernel_end, (gpa_t)HIGH_START)))
		bug("initrd outside memory or over the kernel");
}

static inline void fuzz_boot(const u8 *data, size_t size)
{
	static const u64 ram_size[] = {2 * MiB, 6 * MiB, 20 * MiB, 34 * MiB};
	char cmdline[300];
	struct boot_config cfg = {.kernel = "K", .initrd = "I", .cmdline = cmdline};
	struct boot_image *img = NULL;
	struct boot_state state;
	struct pmap *pmap = NULL;
	const u8 *tail;
	u8 *kernel, *initrd = NULL;
	u64 initrd_size;

	if (size < TAIL)
		return;
	log_set_level((enum log_level) - 1); /* messages by the million */
	size -= TAIL;
	tail = data + size;
	memset(cmdline, 'c', sizeof(cmdline));
	cmdline[tail[0]] = 0;
	cfg.nr_cpus = tail[1] % (BOOT_MAX_CPUS + 2);
	initrd_size = get_le16(tail + 2) & 0x3fff;
	if (tail[4] & 1)
		initrd_size <<= 10;
	/* Exact blocks, so that ASan sees every byte too far. */
	kernel = malloc(size ? size : 1);
	if (initrd_size)
		initrd = calloc(1, initrd_size);
	if (!kernel || (initrd_size && !initrd) || pmap_create(&pmap, ram_size[tail[5] & 3]))
		abort();
	memcpy(kernel, data, size);
	if (!boot_image_from_memory(&img, &cfg, kernel, size, initrd, initrd_size)) {
		if (!boot_image_load(img, pmap, &state)) {
			check_state(pmap, &state);
			if (boot_image_load(img, pmap, &state))
				bug("a second load fails");
		}
		boot_image_close(img);
	}
	pmap_destroy(pmap);
	free(kernel);
	free(initrd);
}

/* `valid` writes a kernel of at most `max` bytes without the tail; headers lie in its first
 * `headers` bytes from `first` on. */
static inline size_t fuzz_boot_mutate(u8 *data, size_t size, size_t max, unsigned seed,
                                      size_t (*valid)(u8 *data, size_t max), size_t first,
                                      size_t headers)
{
	static const u64 hurts[] = {0,          1,          0xfff,          0x1000,
	                            0x7fffffff, 0x80000000, 0xffffffff,     0xfffff000,
	                            0x80000,    0x100000,   0x100000000,    0xc0000000,
	                            0xf0000,    0x1000000,  (u64)INT64_MIN, ~0ull};
	unsigned rnd = seed * 2654435761u;

	if (size < first + headers + TAIL || rnd % 16 == 0) {
		size = valid(data, max - TAIL);
		if (!size)
			return 0;
		memset(data + size, 0, TAIL);
		data[size + 1] = 1;
		data[size + 5] = (u8)(rnd >> 8);
		size += TAIL;
	}
	rnd >>= 4;
	if (rnd % 3 == 0)
		return LLVMFuzzerMutate(data, size, max);
	for (unsigned n = rnd % 3; n; n--) {
		size_t at = first + ((seed = seed * 1103515245u + 12345u) >> 8) % (headers - 8);
		unsigned width = 1u << (seed >> 4 & 3);
		u64 v = hurts[(seed >> 24) % ARRAY_SIZE(hurts)] + (seed >> 20 & 3) - 1;

		at &= ~(size_t)(width > 4 ? 3 : width - 1);
		memcpy(data + at, &v, width);
	}
	return size;
}
