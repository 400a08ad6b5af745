// SPDX-License-Identifier: MIT
/* Multiboot 1 (Multiboot Specification 0.6.96), for test kernels and small systems.
 *
 * The kernel is a 32-bit ELF file, or anything whose header has the address fields (flag bit 16).
 * As other loaders do it, the command line begins with the kernel's path: kvm-unit-tests and most
 * kernels take the first word for argv[0]. The initrd becomes the one module, placed right behind
 * the kernel, where small kernels have mapped memory. */
#include <elf.h>
#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "boot/image.h"

#define SEARCH       8192u
#define HEADER_MAGIC 0x1badb002u
#define BOOT_MAGIC   0x2badb002u

/* Header flags; the low 16 bits are demands, unknown ones must be refused. */
#define PAGE_ALIGN BIT(0)
#define MEMORY     BIT(1)
#define VIDEO      BIT(2)
#define DEMANDS    0xffffu
#define ADDRESSES  BIT(16)

/* Information flags. */
#define INFO_MEMORY      BIT(0)
#define INFO_CMDLINE     BIT(2)
#define INFO_MODS        BIT(3)
#define INFO_MMAP        BIT(6)
#define INFO_LOADER_NAME BIT(9)

struct mb_header {
	u32 magic, flags, checksum;
	u32 header_addr, load_addr, load_end_addr, bss_end_addr, entry_addr;
};

struct mb_info {
	u32 flags;
	u32 mem_lower, mem_upper; /* KiB from 0, from 1 MiB */
	u32 boot_device;
	u32 cmdline;
	u32 mods_count, mods_addr;
	u32 syms[4];
	u32 mmap_length, mmap_addr;
	u32 drives_length, drives_addr;
	u32 config_table;
	u32 boot_loader_name;
	u32 apm_table;
	u32 vbe[4];
};

struct mb_module {
	u32 start, end; /* end: the first byte behind */
	u32 string;
	u32 reserved;
};

struct mb_mmap {
	u32 size; /* of what follows */
	u64 base, length;
	u32 type;
} __attribute__((packed));

static bool header_find(const struct boot_image *img, struct mb_header *hdr, u64 *offset)
{
	u64 end = MIN(img->kernel.size, (u64)SEARCH);

	for (u64 at = 0; at + 12 <= end; at += 4) {
		const u8 *d = img->kernel.data + at;

		if (get_le32(d) != HEADER_MAGIC || get_le32(d) + get_le32(d + 4) + get_le32(d + 8))
			continue;
		memset(hdr, 0, sizeof(*hdr));
		memcpy(hdr, d, MIN(sizeof(*hdr), img->kernel.size - at));
		*offset = at;
		return true;
	}
	return false;
}

static bool multiboot_probe(const struct boot_image *img)
{
	struct mb_header hdr;
	u64 offset;

	return header_find(img, &hdr, &offset);
}

static int refuse(const struct boot_image *img, const char *why)
{
	log_error("kernel %s: %s", img->kernel.path, why);
	return -EINVAL;
}

/* Load as the header's address fields say. */
static int check_addresses(struct boot_image *img, const struct mb_header *hdr, u64 offset)
{
	struct boot_segment seg = {.gpa = hdr->load_addr};
	u64 before = (u64)hdr->header_addr - hdr->load_addr;
	int err;

	if (img->kernel.size - offset < sizeof(*hdr))
		return refuse(img, "is truncated inside the multiboot header; get it again");
	if (hdr->header_addr < hdr->load_addr || before > offset)
		return refuse(img, "is damaged: the multiboot header says that it is loaded from "
		                   "before the start of the file; get it again");
	seg.offset = offset - before;
	if (hdr->load_end_addr) {
		if (hdr->load_end_addr < hdr->load_addr)
			return refuse(img,
			              "is damaged: the multiboot header has load_end_addr below "
			              "load_addr; get it again");
		seg.file_size = hdr->load_end_addr - hdr->load_addr;
	} else {
		seg.file_size = img->kernel.size - seg.offset;
	}
	seg.mem_size = seg.file_size;
	if (hdr->bss_end_addr) {
		if (hdr->bss_end_addr < seg.gpa + seg.file_size)
			return refuse(img,
			              "is damaged: the multiboot header has bss_end_addr inside "
			              "the loaded bytes; get it again");
		seg.mem_size = hdr->bss_end_addr - hdr->load_addr;
	}
	err = boot_segment_add(img, &seg);
	if (err)
		return err;
	img->entry = hdr->entry_addr;
	return boot_segments_finish(img);
}

static int multiboot_check(struct boot_image *img)
{
	struct mb_header hdr = {0};
	u64 offset = 0;
	int err;

	header_find(img, &hdr, &offset);
	if (hdr.flags & VIDEO)
		return refuse(img, "demands a video mode of the multiboot loader (flag bit 2), and "
		                   "this machine has no display; build it for a text console");
	if (hdr.flags & DEMANDS & ~(PAGE_ALIGN | MEMORY)) {
		log_error(
			"kernel %s: its multiboot header demands what multiboot 1 does not define "
			"(flags 0x%x); is the file damaged?",
			img->kernel.path, hdr.flags);
		return -EINVAL;
	}
	if (hdr.flags & ADDRESSES) {
		err = check_addresses(img, &hdr, offset);
	} else if (!elf_probe(img)) {
		return refuse(img,
		              "has a multiboot header without load addresses and is no ELF file; "
		              "set flag bit 16 and the address fields, or link it as ELF32");
	} else {
		err = elf_check_machine(img);
		if (!err && img->elf64)
			return refuse(img,
			              "is a 64-bit ELF file with a multiboot header, and multiboot "
			              "takes 32-bit ones; try objcopy -O elf32-i386 on it");
		if (!err)
			err = elf_load_segments(img);
		if (!err)
			img->entry = elf_entry(img);
	}
	if (err)
		return err;
	if (boot_segments_end(img) > 4 * GiB)
		return refuse(img, "is damaged: it ends above 4 GiB; get it again");
	if (!boot_segments_have(img, img->entry))
		return refuse(img, "is damaged: the entry point is outside of what is loaded; "
		                   "get it again");
	return 0;
}

/* BOOT_LISTS: the memory map, the module entry, the loader's name, the module's string. */
#define LIST_MMAP   BOOT_LISTS
#define LIST_MODULE (BOOT_LISTS + 0x400)
#define LIST_NAME   (BOOT_LISTS + 0x440)
#define LIST_STRING (BOOT_LISTS + 0x480)
#define STRING_MAX  (BOOT_LISTS + BOOT_LISTS_SIZE - LIST_STRING)

static int put_lists(const struct boot_image *img, struct pmap *pmap, const struct boot_memmap *map,
                     const struct boot_state *out, struct mb_info *info)
{
	struct mb_mmap mmap[BOOT_MEMMAP_MAX];
	static const char name[] = "Ringer";
	int err;

	_Static_assert(sizeof(mmap) <= LIST_MODULE - LIST_MMAP, "memory map");
	for (unsigned i = 0; i < map->nr; i++) {
		mmap[i].size = sizeof(mmap[i]) - 4;
		mmap[i].base = map->entry[i].base;
		mmap[i].length = map->entry[i].size;
		mmap[i].type = map->entry[i].type;
	}
	info->mmap_addr = LIST_MMAP;
	info->mmap_length = map->nr * (u32)sizeof(mmap[0]);
	info->boot_loader_name = LIST_NAME;
	err = pmap_write(pmap, LIST_MMAP, mmap, info->mmap_length);
	if (!err)
		err = pmap_write(pmap, LIST_NAME, name, sizeof(name));
	if (!err && img->initrd.data) {
		struct mb_module mod = {
			.start = (u32)out->initrd_start,
			.end = (u32)(out->initrd_start + out->initrd_size),
			.string = LIST_STRING,
		};
		char string[STRING_MAX] = {0};

		memcpy(string, img->initrd.path, MIN(strlen(img->initrd.path), sizeof(string) - 1));
		info->mods_count = 1;
		info->mods_addr = LIST_MODULE;
		err = pmap_write(pmap, LIST_MODULE, &mod, sizeof(mod));
		if (!err)
			err = pmap_write(pmap, LIST_STRING, string, sizeof(string));
	}
	return err;
}

static int multiboot_enter(const struct boot_image *img, struct pmap *pmap,
                           const struct boot_memmap *map, struct boot_state *out)
{
	struct mb_info info = {
		.flags = INFO_MEMORY | INFO_CMDLINE | INFO_MODS | INFO_MMAP | INFO_LOADER_NAME,
		.mem_lower = EBDA_START >> 10,
		.mem_upper = (u32)((map->low_end - HIGH_START) >> 10),
		.cmdline = BOOT_CMDLINE,
	};
	int err = 0;

	if (img->initrd.data)
		err = boot_place_initrd(img, map, false, out->kernel_end, &out->initrd_start);
	if (!err)
		err = put_lists(img, pmap, map, out, &info);
	if (!err)
		err = pmap_write(pmap, BOOT_INFO, &info, sizeof(info));
	if (!err)
		err = boot_put_cmdline(img, pmap, true);
	out->mode = BOOT_PROT32;
	out->rax = BOOT_MAGIC;
	out->rbx = BOOT_INFO;
	return err;
}

const struct boot_loader multiboot_loader = {
	.name = "multiboot",
	.probe = multiboot_probe,
	.check = multiboot_check,
	.enter = multiboot_enter,
};
