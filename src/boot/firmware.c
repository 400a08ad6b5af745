// SPDX-License-Identifier: MIT
/* A BIOS image in place of a kernel.
 *
 * The image ends at 1 MiB, in RAM, where chipsets show a shadow of the flash below 4 GiB once
 * firmware has asked for it. The first CPU starts at f000:fff0 with its segment base already in the
 * shadow: the far jump that stands there leads into it from either. So the guest needs no chipset
 * registers that switch the shadow on, and SeaBIOS works with a host bridge that it does not know.
 *
 * What firmware wants to know it reads from fw_cfg (QEMU, docs/specs/fw_cfg): the map of memory in
 * etc/e820, and the ACPI tables. Those lie at the end of low memory, which that map says is
 * reserved; only the RSDP has to be where guests look for it, and firmware puts it there as
 * etc/table-loader says (SeaBIOS, src/fw/romfile_loader.h). */
#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "boot/acpi.h"
#include "boot/image.h"

#define BIOS_END     HIGH_START
#define BIOS_UNIT    (64 * KiB)
#define BIOS_MAX     (256 * KiB)
#define RESET_OFFSET 16u /* from the end: the first instruction */
#define ACPI_ROOM    (64 * KiB)
#define RSDP_SIZE    36u

enum { JMP_FAR = 0xea, JMP_NEAR = 0xe9, JMP_SHORT = 0xeb };

/* One command of etc/table-loader. */
struct loader_allocate {
	u32 command; /* 1 */
	char file[56];
	u32 align;
	u8 zone; /* 2: below 1 MiB, where firmware's own tables are */
	u8 pad[63];
} __attribute__((packed));

struct e820_record {
	u64 base, size;
	u32 type;
} __attribute__((packed));

static bool firmware_probe(const struct boot_image *img)
{
	return img->firmware;
}

static int firmware_check(struct boot_image *img)
{
	const struct boot_file *f = &img->kernel;
	u8 first;

	if (!f->size || f->size % BIOS_UNIT || f->size > BIOS_MAX) {
		log_error("firmware %s: has %llu bytes; a PC BIOS has 64, 128, 192 or 256 KiB, for "
		          "example Debian's /usr/share/seabios/bios-256k.bin (UEFI firmware is not "
		          "supported)",
		          f->path, (unsigned long long)f->size);
		return -EINVAL;
	}
	first = f->data[f->size - RESET_OFFSET];
	if (first != JMP_FAR && first != JMP_NEAR && first != JMP_SHORT) {
		log_error("firmware %s: there is no jump 16 bytes before its end, where the "
		          "processor starts; it is no PC BIOS, try "
		          "/usr/share/seabios/bios-256k.bin",
		          f->path);
		return -EINVAL;
	}
	return 0;
}

static gpa_t tables_base(const struct boot_memmap *map)
{
	return map->low_end - ACPI_ROOM;
}

static int firmware_enter(const struct boot_image *img, struct pmap *pmap,
                          const struct boot_memmap *map, struct boot_state *out)
{
	const struct boot_file *f = &img->kernel;
	int err = pmap_write(pmap, BIOS_END - f->size, f->data, f->size);

	if (!err)
		err = acpi_put_tables(pmap, &img->platform, img->nr_cpus, tables_base(map),
		                      &out->rsdp);
	out->mode = BOOT_REAL16;
	out->cs = BIOS_SEGMENT;
	out->rip = BIOS_RESET;
	out->kernel_start = BIOS_END - f->size;
	out->kernel_end = BIOS_END;
	return err;
}

const struct boot_loader firmware_loader = {
	.name = "BIOS",
	.probe = firmware_probe,
	.check = firmware_check,
	.enter = firmware_enter,
};

static u32 e820_make(const struct boot_memmap *map, struct e820_record *r)
{
	u32 n = 0;

	r[n++] = (struct e820_record){0, tables_base(map), MEMMAP_RAM};
	r[n++] = (struct e820_record){tables_base(map), ACPI_ROOM, MEMMAP_RESERVED};
	for (unsigned i = 0; i < map->nr; i++)
		if (map->entry[i].base >= map->low_end)
			r[n++] = (struct e820_record){map->entry[i].base, map->entry[i].size,
			                              map->entry[i].type};
	return n;
}

int boot_firmware_files(const struct boot_image *img, const struct pmap *pmap,
                        int (*add)(void *arg, const char *name, const void *data, u32 len),
                        void *arg)
{
	struct e820_record e820[BOOT_MEMMAP_MAX + 2];
	struct loader_allocate allocate = {
		.command = 1, .file = "etc/acpi/rsdp", .align = 16, .zone = 2};
	const u16 com1 = BOOT_COM1;
	struct boot_memmap map;
	u8 rsdp[RSDP_SIZE];
	int err;

	_Static_assert(sizeof(allocate) == 128, "etc/table-loader");
	_Static_assert(sizeof(e820[0]) == 20, "etc/e820");
	if (!img->firmware)
		return 0;
	boot_memmap_make(&map, pmap, &img->platform);
	err = pmap_read(pmap, tables_base(&map), rsdp, sizeof(rsdp));
	if (!err)
		err = add(arg, "etc/e820", e820, e820_make(&map, e820) * (u32)sizeof(e820[0]));
	if (!err)
		err = add(arg, "etc/acpi/rsdp", rsdp, sizeof(rsdp));
	if (!err)
		err = add(arg, "etc/table-loader", &allocate, sizeof(allocate));
	/* Text of the BIOS's video services goes there, and keys come from there. */
	if (!err)
		err = add(arg, "etc/sercon-port", &com1, sizeof(com1));
	return err;
}
