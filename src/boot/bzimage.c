// SPDX-License-Identifier: MIT
/* Linux/x86 boot protocol, 64-bit and 32-bit entry: Documentation/arch/x86/boot.rst.
 *
 * The kernel's real-mode setup code is never run: its header says all that is needed. The
 * 64-bit entry point lies 0x200 into the protected-mode part, the 32-bit one, for kernels that
 * have no other, at its start. The kernel unpacks itself to
 * pref_address (or elsewhere, with KASLR) and needs init_size bytes from there. */
#include <asm/bootparam.h>
#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "base/log.h"
#include "boot/image.h"

#define HEADER_START    0x1f1u
#define HEADER_MAX      (0x290u - HEADER_START) /* where boot_params goes on after its copy */
#define HEADER_MAGIC    0x53726448u             /* "HdrS" */
#define PROTOCOL_2_10   0x020a /* the first that tells pref_address and init_size */
#define PROTOCOL_2_12   0x020c /* the first that tells of a 64-bit entry */
#define ENTRY_64        0x200u
#define LOADER_UNKNOWN  0xff
#define VIDEO_MODE_NONE 0xffff

static bool bzimage_probe(const struct boot_image *img)
{
	const u8 *d = img->kernel.data;

	return img->kernel.size >= 0x206 && get_le16(d + 0x1fe) == 0xaa55 &&
	       get_le32(d + 0x202) == HEADER_MAGIC;
}

/* The header is as long as its jump over it says; what an old kernel has not is zero. */
static bool header_read(const struct boot_image *img, struct setup_header *hdr)
{
	const u8 *d = img->kernel.data;
	u64 size = 0x202 - HEADER_START + d[0x201];

	memset(hdr, 0, sizeof(*hdr));
	if (size > HEADER_MAX || HEADER_START + size > img->kernel.size)
		return false;
	memcpy(hdr, d + HEADER_START, MIN(size, sizeof(*hdr)));
	return true;
}

static int refuse(const struct boot_image *img, const char *why)
{
	log_error("kernel %s: %s", img->kernel.path, why);
	return -EINVAL;
}

static bool has_entry_64(const struct setup_header *hdr)
{
	return hdr->version >= PROTOCOL_2_12 && (hdr->xloadflags & XLF_KERNEL_64);
}

static int bzimage_check(struct boot_image *img)
{
	struct setup_header hdr;
	struct boot_segment seg;
	u64 setup_size, payload, load, missing;
	int err;

	if (!header_read(img, &hdr))
		return refuse(img,
		              "is damaged: the setup header is too long or cut off; get it again");
	if (hdr.version < PROTOCOL_2_10 || !(hdr.loadflags & LOADED_HIGH)) {
		log_error("kernel %s: has boot protocol %u.%02u, 2.10 (Linux 2.6.31) is the first "
		          "that can be started without a BIOS; try a newer kernel",
		          img->kernel.path, hdr.version >> 8, hdr.version & 0xff);
		return -EINVAL;
	}
	setup_size = ((hdr.setup_sects ? hdr.setup_sects : 4) + 1) * 512ull;
	payload = hdr.syssize * 16ull;
	/* syssize is rounded up: of the last 16 bytes the file may lack some. */
	missing = setup_size + payload > img->kernel.size ? setup_size + payload - img->kernel.size
	                                                  : 0;
	if (setup_size >= img->kernel.size || missing > 15) {
		log_error("kernel %s: is truncated: its header promises %llu bytes, the file has "
		          "%llu; "
		          "get it again",
		          img->kernel.path, (unsigned long long)(setup_size + payload),
		          (unsigned long long)img->kernel.size);
		return -EINVAL;
	}
	if (payload <= ENTRY_64)
		return refuse(img, "is damaged: the header says that there is no kernel behind it; "
		                   "get it again");
	if (!hdr.kernel_alignment || (hdr.kernel_alignment & (hdr.kernel_alignment - 1)))
		return refuse(img, "is damaged: kernel_alignment is no power of two; get it again");
	if (hdr.init_size < payload)
		return refuse(img,
		              "is damaged: init_size is smaller than the kernel; get it again");

	load = hdr.pref_address;
	if (load < HIGH_START) {
		if (!hdr.relocatable_kernel)
			return refuse(img, "is damaged: it wants to be loaded below 1 MiB; "
			                   "get it again");
		load = ALIGN_UP((u64)HIGH_START, (u64)hdr.kernel_alignment);
	}
	if (load > PCI_HOLE_START || hdr.init_size > PCI_HOLE_START - load)
		return refuse(img, "is damaged: pref_address and init_size lie outside the first "
		                   "3 GiB; get it again");
	if (strlen(img->cmdline) > hdr.cmdline_size) {
		log_error("the kernel command line has %zu bytes, kernel %s takes %u; shorten it",
		          strlen(img->cmdline), img->kernel.path, hdr.cmdline_size);
		return -EINVAL;
	}
	seg = (struct boot_segment){
		.gpa = load,
		.offset = setup_size,
		.file_size = payload - missing,
		.mem_size = hdr.init_size,
	};
	err = boot_segment_add(img, &seg);
	if (err)
		return err;
	img->entry = has_entry_64(&hdr) ? load + ENTRY_64 : load;
	img->initrd_max = MIN((u64)hdr.initrd_addr_max, img->initrd_max);
	return boot_segments_finish(img);
}

static int bzimage_enter(const struct boot_image *img, struct pmap *pmap,
                         const struct boot_memmap *map, struct boot_state *out)
{
	struct boot_params bp;
	int err;

	_Static_assert(offsetof(struct boot_params, hdr) == HEADER_START, "boot_params");
	_Static_assert(sizeof(struct boot_params) == PAGE_SIZE, "boot_params");
	_Static_assert(BOOT_MEMMAP_MAX <= E820_MAX_ENTRIES_ZEROPAGE, "memory map");

	if (img->initrd.data) {
		err = boot_place_initrd(img, map, true, out->kernel_end, &out->initrd_start);
		if (err)
			return err;
	}
	memset(&bp, 0, sizeof(bp));
	header_read(img, &bp.hdr);
	bp.hdr.type_of_loader = LOADER_UNKNOWN;
	bp.hdr.loadflags &= (u8) ~(CAN_USE_HEAP | QUIET_FLAG | KASLR_FLAG);
	bp.hdr.vid_mode = VIDEO_MODE_NONE;
	bp.hdr.code32_start = (u32)out->kernel_start;
	bp.hdr.cmd_line_ptr = BOOT_CMDLINE;
	bp.hdr.ramdisk_image = (u32)out->initrd_start;
	bp.hdr.ramdisk_size = (u32)out->initrd_size;
	bp.hdr.setup_data = 0;
	bp.acpi_rsdp_addr = out->rsdp;
	bp.e820_entries = (u8)map->nr;
	for (unsigned i = 0; i < map->nr; i++) {
		bp.e820_table[i].addr = map->entry[i].base;
		bp.e820_table[i].size = map->entry[i].size;
		bp.e820_table[i].type = map->entry[i].type;
	}
	err = pmap_write(pmap, BOOT_INFO, &bp, sizeof(bp));
	if (!err)
		err = boot_put_cmdline(img, pmap, false);
	out->mode = has_entry_64(&bp.hdr) ? BOOT_LONG64 : BOOT_PROT32;
	out->rsi = BOOT_INFO;
	return err;
}

const struct boot_loader bzimage_loader = {
	.name = "bzImage",
	.probe = bzimage_probe,
	.check = bzimage_check,
	.enter = bzimage_enter,
};
