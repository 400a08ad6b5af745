/* SPDX-License-Identifier: MIT */
/* What the loaders share: the opened files, the map of guest memory as firmware would tell it, the
 * fixed places of the loader's own tables, and segments.
 *
 * Guest memory below 1 MiB, in all protocols:
 *
 *	00000-00500	interrupt vectors and BIOS data area
 *	80000-86000	page tables of the 64-bit entry: 4 GiB mapped one to one
 *	86000-87000	GDT
 *	87000-88000	boot_params, hvm_start_info or multiboot information
 *	88000-89000	memory map, module list and their strings
 *	89000-99000	command line
 *	9fc00-a0000	EBDA
 *	f0000-100000	ACPI tables; at ff53 and fff0 of it two pieces of BIOS code
 *
 * The kernel may use all but the last two once it has read what it needs; Linux takes a page or two
 * below 9f000 for its trampoline while the tables are still in use. */
#pragma once

#include <time.h>

#include "base/types.h"
#include "boot/boot.h"
#include "mem/pmap.h"

#define BOOT_COM1         0x3f8
#define BDA_END           0x500u
#define BOOT_TABLES       0x80000u
#define BOOT_PAGE_TABLES  0x80000u
#define BOOT_GDT          0x86000u
#define BOOT_INFO         0x87000u
#define BOOT_LISTS        0x88000u
#define BOOT_LISTS_SIZE   0x1000u
#define BOOT_CMDLINE      0x89000u
#define BOOT_CMDLINE_SIZE 0x10000u
#define BOOT_TABLES_END   0x99000u
#define EBDA_START        0x9fc00u
#define EBDA_END          0xa0000u
#define ACPI_START        0xf0000u
#define ACPI_END          0x100000u
#define BIOS_SEGMENT      0xf000u
#define BIOS_IRET         0xff53u
#define BIOS_RESET        0xfff0u
#define HIGH_START        0x100000u

/* Selectors of the Linux boot protocol; the other protocols leave them open. */
#define BOOT_CS 0x10u
#define BOOT_DS 0x18u

#define CR0_PE   BIT(0)
#define CR0_ET   BIT(4)
#define CR0_PG   BIT(31)
#define CR4_PAE  BIT(5)
#define EFER_LME BIT(8)
#define EFER_LMA BIT(10)

struct boot_file {
	const char *path;
	const u8 *data;
	u64 size;
	/* Of a file that was opened here: data is our mapping, empty between two loads. */
	u8 *map;
	int fd;
	bool dropped;
	struct timespec mtime;
};

/* A run of bytes of the kernel file, loaded at `gpa` and followed by zeros up to `mem_size`. */
struct boot_segment {
	gpa_t gpa;
	u64 offset;
	u64 file_size, mem_size;
};

#define BOOT_MAX_SEGMENTS 64

struct boot_segments {
	unsigned nr;
	struct boot_segment seg[BOOT_MAX_SEGMENTS]; /* by ascending gpa, disjoint, none empty */
};

struct boot_loader;

struct boot_image {
	const struct boot_loader *loader;
	struct boot_file kernel, initrd; /* initrd.data is NULL when there is none */
	bool firmware;                   /* `kernel` is a BIOS image */
	char *cmdline;
	unsigned nr_cpus;
	struct boot_platform platform;
	void *owned[3]; /* the strings that close frees */

	/* What the loader found when it checked the kernel. */
	struct boot_segments segments;
	u64 entry;
	u64 initrd_max; /* highest address of the initrd's last byte */
	bool elf64;
};

/* Types of the e820 map, which multiboot and PVH share. */
enum { MEMMAP_RAM = 1, MEMMAP_RESERVED = 2 };

#define BOOT_MEMMAP_MAX (PMAP_MAX_SLOTS * 2 + 4)

struct boot_memmap {
	unsigned nr;
	struct boot_memmap_entry {
		gpa_t base;
		u64 size;
		u32 type;
	} entry[BOOT_MEMMAP_MAX];
	gpa_t low_end; /* where RAM from 1 MiB on ends, at the PCI hole at the latest */
};

struct boot_loader {
	const char *name;
	/* Whether the kernel file is for this loader. */
	bool (*probe)(const struct boot_image *img);
	/* Check all that needs no guest memory, fill `segments` and `entry`. */
	int (*check)(struct boot_image *img);
	/* Once the segments are in memory: fill the information that the kernel is handed, and the
	 * registers of `out`. */
	int (*enter)(const struct boot_image *img, struct pmap *pmap, const struct boot_memmap *map,
	             struct boot_state *out);
};

extern const struct boot_loader bzimage_loader;
extern const struct boot_loader pvh_loader;
extern const struct boot_loader multiboot_loader;
extern const struct boot_loader firmware_loader;

/* Memory as firmware tells it to a kernel. */
void boot_memmap_make(struct boot_memmap *map, const struct pmap *pmap,
                      const struct boot_platform *pf);

/* Add a segment; empty ones are dropped. 0, or -EINVAL (logged): outside the file, more in the file
 * than in memory, address overflow, too many. */
int boot_segment_add(struct boot_image *img, const struct boot_segment *seg);

/* Sort; -EINVAL (logged) when segments overlap or there is none. */
int boot_segments_finish(struct boot_image *img);
gpa_t boot_segments_end(const struct boot_image *img);
bool boot_segments_have(const struct boot_image *img, u64 gpa);

/* The lowest page-aligned place at or above `floor`, or the highest, for the initrd. 0 or -ENOSPC
 * (logged). */
int boot_place_initrd(const struct boot_image *img, const struct boot_memmap *map, bool high,
                      gpa_t floor, gpa_t *out);

/* The command line at BOOT_CMDLINE, behind the kernel's path and a blank when `path_first`. */
int boot_put_cmdline(const struct boot_image *img, struct pmap *pmap, bool path_first);

/* PT_LOAD segments by their physical addresses. 0 or -EINVAL, logged. */
int elf_load_segments(struct boot_image *img);
bool elf_probe(const struct boot_image *img);
/* The physical address of the ELF header's entry point. */
u64 elf_entry(const struct boot_image *img);
/* 0, or -ENOEXEC (logged) when the file is for another machine or of another kind. */
int elf_check_machine(struct boot_image *img);

/* What a file is that no loader wants: a phrase for a message with what to do, or NULL. */
const char *boot_foreign(const u8 *data, u64 size);
