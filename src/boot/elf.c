// SPDX-License-Identifier: MIT
/* ELF kernels: System V ABI, "Object Files" and "Program Loading".
 *
 * Segments go where their physical addresses say; the sections are not looked at. The PVH protocol
 * (Xen, docs/misc/pvh.pandoc and xen/include/public/arch-x86/hvm/start_info.h) finds its entry
 * point in a note. */
#include <elf.h>
#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "boot/image.h"

#define MAX_PHDRS           256
#define XEN_ELFNOTE_PHYS32  18 /* XEN_ELFNOTE_PHYS32_ENTRY */
#define XEN_HVM_START_MAGIC 0x336ec578u
#define LINUX_32_INITRD_MAX 0x37ffffffu /* the end of a 32-bit Linux's linear map */

struct hvm_start_info {
	u32 magic, version;
	u32 flags, nr_modules;
	u64 modlist_paddr, cmdline_paddr, rsdp_paddr;
	u64 memmap_paddr;
	u32 memmap_entries, reserved;
};

struct hvm_modlist_entry {
	u64 paddr, size, cmdline_paddr, reserved;
};

struct hvm_memmap_entry {
	u64 addr, size;
	u32 type, reserved;
};

static int refuse(const struct boot_image *img, const char *why)
{
	log_error("kernel %s: %s", img->kernel.path, why);
	return -EINVAL;
}

bool elf_probe(const struct boot_image *img)
{
	return img->kernel.size >= EI_NIDENT && !memcmp(img->kernel.data, ELFMAG, SELFMAG);
}

/* The two classes have the same fields at other places: both become the 64-bit form. */
static void header_read(const struct boot_image *img, Elf64_Ehdr *eh)
{
	const u8 *d = img->kernel.data;

	if (img->elf64) {
		memcpy(eh, d, sizeof(*eh));
	} else {
		Elf32_Ehdr e;

		memcpy(&e, d, sizeof(e));
		memset(eh, 0, sizeof(*eh));
		eh->e_type = e.e_type;
		eh->e_machine = e.e_machine;
		eh->e_entry = e.e_entry;
		eh->e_phoff = e.e_phoff;
		eh->e_phentsize = e.e_phentsize;
		eh->e_phnum = e.e_phnum;
	}
}

/* Program header `i`; elf_check_machine() has seen that the table is inside the file. */
static void phdr_read(const struct boot_image *img, const Elf64_Ehdr *eh, unsigned i,
                      Elf64_Phdr *ph)
{
	const u8 *d = img->kernel.data + eh->e_phoff + (u64)i * eh->e_phentsize;

	if (img->elf64) {
		memcpy(ph, d, sizeof(*ph));
	} else {
		Elf32_Phdr p;

		memcpy(&p, d, sizeof(p));
		ph->p_type = p.p_type;
		ph->p_flags = p.p_flags;
		ph->p_offset = p.p_offset;
		ph->p_vaddr = p.p_vaddr;
		ph->p_paddr = p.p_paddr;
		ph->p_filesz = p.p_filesz;
		ph->p_memsz = p.p_memsz;
		ph->p_align = p.p_align;
	}
}

static const char *machine_name(unsigned machine)
{
	switch (machine) {
	case EM_AARCH64:
		return "arm64 (aarch64)";
	case EM_ARM:
		return "32-bit ARM";
	case EM_RISCV:
		return "RISC-V";
	case EM_PPC:
	case EM_PPC64:
		return "PowerPC";
	case EM_MIPS:
		return "MIPS";
	case EM_S390:
		return "S/390";
	case EM_LOONGARCH:
		return "LoongArch";
	default:
		return NULL;
	}
}

int elf_check_machine(struct boot_image *img)
{
	const u8 *d = img->kernel.data;
	const char *path = img->kernel.path;
	bool swapped = d[EI_DATA] == ELFDATA2MSB;
	Elf64_Ehdr eh;
	u64 need, table;

	if (d[EI_CLASS] != ELFCLASS32 && d[EI_CLASS] != ELFCLASS64)
		return refuse(img,
		              "is damaged: an ELF file neither of 32 nor of 64 bits; get it again");
	img->elf64 = d[EI_CLASS] == ELFCLASS64;
	need = img->elf64 ? sizeof(Elf64_Ehdr) : sizeof(Elf32_Ehdr);
	if (img->kernel.size < need)
		return refuse(img, "is truncated inside the ELF header; get it again");
	header_read(img, &eh);
	if (swapped)
		eh.e_machine = __builtin_bswap16(eh.e_machine);
	if (swapped || (eh.e_machine != EM_386 && eh.e_machine != EM_X86_64)) {
		const char *name = machine_name(eh.e_machine);

		log_error(
			"kernel %s: is an ELF file for %s (machine %u), not for x86; try a kernel "
			"for x86-64",
			path, name ? name : "another architecture", eh.e_machine);
		return -ENOEXEC;
	}
	if (eh.e_type == ET_REL)
		return refuse(img,
		              "is an object file (or kernel module), not a linked kernel; try the "
		              "vmlinux or vmlinuz");
	if (eh.e_type != ET_EXEC && eh.e_type != ET_DYN)
		return refuse(img, "is an ELF file but no executable; try the vmlinux or vmlinuz");
	need = img->elf64 ? sizeof(Elf64_Phdr) : sizeof(Elf32_Phdr);
	if (!eh.e_phnum)
		return refuse(img, "is damaged: an ELF file without program headers; get it again");
	if (eh.e_phnum > MAX_PHDRS || eh.e_phentsize < need)
		return refuse(img, "is damaged: the ELF program header table has a wrong size; "
		                   "get it again");
	table = (u64)eh.e_phnum * eh.e_phentsize;
	if (eh.e_phoff > img->kernel.size || table > img->kernel.size - eh.e_phoff)
		return refuse(img,
		              "is truncated: the ELF program headers are behind the end of the "
		              "file; get it again");
	for (unsigned i = 0; i < eh.e_phnum; i++) {
		Elf64_Phdr ph;

		phdr_read(img, &eh, i, &ph);
		if (ph.p_type == PT_INTERP) {
			log_error("kernel %s: is a program for an operating system, not a kernel; "
			          "try "
			          "the vmlinuz of an x86-64 Linux",
			          path);
			return -ENOEXEC;
		}
	}
	return 0;
}

int elf_load_segments(struct boot_image *img)
{
	Elf64_Ehdr eh;
	int err = 0;

	header_read(img, &eh);
	for (unsigned i = 0; i < eh.e_phnum && !err; i++) {
		struct boot_segment seg;
		Elf64_Phdr ph;

		phdr_read(img, &eh, i, &ph);
		if (ph.p_type != PT_LOAD)
			continue;
		seg.gpa = ph.p_paddr;
		seg.offset = ph.p_offset;
		seg.file_size = ph.p_filesz;
		seg.mem_size = ph.p_memsz;
		err = boot_segment_add(img, &seg);
	}
	return err ? err : boot_segments_finish(img);
}

/* e_entry is a virtual address; kernels are entered with paging off. */
u64 elf_entry(const struct boot_image *img)
{
	Elf64_Ehdr eh;

	header_read(img, &eh);
	for (unsigned i = 0; i < eh.e_phnum; i++) {
		Elf64_Phdr ph;

		phdr_read(img, &eh, i, &ph);
		if (ph.p_type == PT_LOAD && (ph.p_flags & PF_X) &&
		    eh.e_entry - ph.p_vaddr < ph.p_filesz)
			return eh.e_entry - ph.p_vaddr + ph.p_paddr;
	}
	return eh.e_entry;
}

/* Look for the entry note among the notes of one segment: name size, descriptor size, type, name,
 * descriptor, both padded to the alignment (4, or 8 where the segment says so). */
static bool note_find(const u8 *d, u64 size, u64 align, u64 *entry)
{
	u64 at = 0;

	while (size - at >= 12) {
		u64 name_size = get_le32(d + at), desc_size = get_le32(d + at + 4);
		u32 type = get_le32(d + at + 8);
		u64 desc = ALIGN_UP(at + 12 + name_size, align);
		u64 next = ALIGN_UP(desc + desc_size, align);

		if (desc + desc_size > size)
			return false;
		if (type == XEN_ELFNOTE_PHYS32 && name_size == 4 &&
		    !memcmp(d + at + 12, "Xen", 4) && (desc_size == 4 || desc_size == 8)) {
			*entry = desc_size == 4 ? get_le32(d + desc) : get_le64(d + desc);
			return true;
		}
		if (next > size)
			return false;
		at = next;
	}
	return false;
}

static bool pvh_entry_find(const struct boot_image *img, u64 *entry)
{
	Elf64_Ehdr eh;

	header_read(img, &eh);
	for (unsigned i = 0; i < eh.e_phnum; i++) {
		Elf64_Phdr ph;

		phdr_read(img, &eh, i, &ph);
		if (ph.p_type != PT_NOTE || ph.p_offset > img->kernel.size ||
		    ph.p_filesz > img->kernel.size - ph.p_offset)
			continue;
		if (note_find(img->kernel.data + ph.p_offset, ph.p_filesz, ph.p_align == 8 ? 8 : 4,
		              entry))
			return true;
	}
	return false;
}

static int pvh_check(struct boot_image *img)
{
	int err = elf_check_machine(img);

	if (!err)
		err = elf_load_segments(img);
	if (err)
		return err;
	if (!pvh_entry_find(img, &img->entry))
		return refuse(img,
		              "is an ELF file without a PVH entry (Xen note 18); try the bzImage "
		              "(vmlinuz), or a kernel with CONFIG_PVH=y");
	if (img->entry >= 4 * GiB || !boot_segments_have(img, img->entry))
		return refuse(img, "is damaged: the PVH entry point is outside of what is loaded; "
		                   "get it again");
	if (!img->elf64)
		img->initrd_max = LINUX_32_INITRD_MAX;
	return 0;
}

/* BOOT_LISTS: the memory map, then the module entry. */
#define LIST_MEMMAP BOOT_LISTS
#define LIST_MODULE (BOOT_LISTS + 0x800)

static int pvh_enter(const struct boot_image *img, struct pmap *pmap, const struct boot_memmap *map,
                     struct boot_state *out)
{
	struct hvm_memmap_entry memmap[BOOT_MEMMAP_MAX];
	struct hvm_start_info info = {
		.magic = XEN_HVM_START_MAGIC,
		.version = 1,
		.cmdline_paddr = BOOT_CMDLINE,
		.rsdp_paddr = out->rsdp,
		.memmap_paddr = LIST_MEMMAP,
		.memmap_entries = map->nr,
	};
	int err = 0;

	_Static_assert(sizeof(memmap) <= LIST_MODULE - LIST_MEMMAP, "memory map");
	if (img->initrd.data) {
		struct hvm_modlist_entry mod = {.size = img->initrd.size};
		gpa_t floor = MIN(out->kernel_end, (gpa_t)PCI_HOLE_START);

		err = boot_place_initrd(img, map, true, floor, &out->initrd_start);
		mod.paddr = out->initrd_start;
		info.nr_modules = 1;
		info.modlist_paddr = LIST_MODULE;
		if (!err)
			err = pmap_write(pmap, LIST_MODULE, &mod, sizeof(mod));
	}
	for (unsigned i = 0; i < map->nr; i++) {
		memmap[i].addr = map->entry[i].base;
		memmap[i].size = map->entry[i].size;
		memmap[i].type = map->entry[i].type;
		memmap[i].reserved = 0;
	}
	if (!err)
		err = pmap_write(pmap, LIST_MEMMAP, memmap, map->nr * sizeof(memmap[0]));
	if (!err)
		err = pmap_write(pmap, BOOT_INFO, &info, sizeof(info));
	if (!err)
		err = boot_put_cmdline(img, pmap, false);
	out->mode = BOOT_PROT32;
	out->rbx = BOOT_INFO;
	return err;
}

const struct boot_loader pvh_loader = {
	.name = "PVH",
	.probe = elf_probe,
	.check = pvh_check,
	.enter = pvh_enter,
};
