// SPDX-License-Identifier: MIT
/* The common road of all loaders: read the files, find the protocol, place the kernel's segments,
 * write what firmware would have left behind (BIOS data area, ACPI tables, GDT), and let
 * the loader fill in what its protocol hands to the kernel.
 *
 * Nothing is assumed of guest memory, neither zeros nor an earlier load: a reset loads again, from
 * the files, which stay open. */
#include "boot/boot.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "boot/acpi.h"
#include "boot/image.h"
#include "dev/acpipm.h"
#include "dev/pvpanic.h"
#include "mem/pmap.h"

#define MAX_FILE (4 * GiB - 1)

const struct boot_platform boot_platform_pc = {
	.pm_base = ACPIPM_IOBASE,
	.pm_timer_32 = true,
	.gpe0_base = ACPIPM_IOBASE + ACPIPM_GPE0,
	.gpe0_len = ACPIPM_GPE0_LEN,
	.sci_irq = ACPIPM_SCI,
	.smi_cmd = ACPIPM_SMI_CMD,
	.acpi_enable = ACPIPM_ENABLE,
	.acpi_disable = ACPIPM_DISABLE,
	.s5_type = ACPIPM_SLP_TYP_S5,
	.reset_port = ACPIPM_RESET_PORT,
	.reset_value = ACPIPM_RESET_VALUE,
	.pvpanic_port = PVPANIC_PORT,
};

/* ELF files may be of two protocols; the one with the explicit header goes first. */
static const struct boot_loader *const loaders[] = {
	&firmware_loader,
	&bzimage_loader,
	&multiboot_loader,
	&pvh_loader,
};

/* Files. */

static int file_error(const char *what, const char *path, int err)
{
	const char *hint = "";

	if (err == ENOENT || err == ENOTDIR)
		hint = "; check the path";
	else if (err == EACCES || err == EPERM)
		hint = "; make it readable for this user (Debian keeps /boot/vmlinuz readable, "
		       "but some systems do not)";
	log_error("%s %s: %s%s", what, path, strerror(err), hint);
	return -err;
}

static int read_all(int fd, u8 *buf, u64 size, const char *what, const char *path)
{
	u64 done = 0;

	while (done < size) {
		ssize_t n = pread(fd, buf + done, size - done, (off_t)done);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return file_error(what, path, errno);
		if (n == 0) {
			log_error("%s %s: became shorter while it was read (%llu of %llu bytes); "
			          "try again when nobody writes it",
			          what, path, (unsigned long long)done, (unsigned long long)size);
			return -EIO;
		}
		done += (u64)n;
	}
	return 0;
}

/* Between two loads the bytes are the host's page cache's, not ours: a kernel has tens of MiB. */
static void file_drop(struct boot_file *f)
{
	if (f->map)
		f->dropped = !madvise(f->map, f->size, MADV_DONTNEED);
}

static int file_again(struct boot_file *f, const char *what)
{
	struct stat st;
	int err;

	if (!f->dropped)
		return 0;
	if (fstat(f->fd, &st) < 0)
		return file_error(what, f->path, errno);
	if ((u64)st.st_size != f->size || st.st_mtim.tv_sec != f->mtime.tv_sec ||
	    st.st_mtim.tv_nsec != f->mtime.tv_nsec) {
		log_error("%s %s: has been changed since the machine was started, which read it "
		          "again for a reset; start the machine anew to use the new one, and "
		          "replace files by renaming others over them",
		          what, f->path);
		return -ESTALE;
	}
	err = read_all(f->fd, f->map, f->size, what, f->path);
	f->dropped = err;
	return err;
}

static void file_close(struct boot_file *f)
{
	if (!f->map)
		return;
	munmap(f->map, f->size);
	close(f->fd);
	f->map = NULL;
	f->data = NULL;
}

/* `what` is "kernel" or "initrd". */
static int file_read(const char *what, const char *path, struct boot_file *out)
{
	int fd, err;
	struct stat st;
	u8 *buf;

	if (!path[0]) {
		log_error("%s: the path is empty; name a file", what);
		return -ENOENT;
	}
	/* O_NONBLOCK: a FIFO that nobody writes must not hold us. */
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		return file_error(what, path, errno);
	if (fstat(fd, &st) < 0) {
		err = file_error(what, path, errno);
		goto out;
	}
	err = -EINVAL;
	if (S_ISDIR(st.st_mode)) {
		log_error("%s %s: is a directory; name the file in it", what, path);
		err = -EISDIR;
	} else if (!S_ISREG(st.st_mode)) {
		log_error("%s %s: is not a regular file; copy it to one first", what, path);
	} else if (st.st_size == 0) {
		log_error("%s %s: is empty; get it again", what, path);
	} else if ((u64)st.st_size > MAX_FILE) {
		log_error("%s %s: is larger than 4 GiB; is it a disk image?", what, path);
		err = -EFBIG;
	} else {
		err = 0;
	}
	if (err)
		goto out;
	buf = mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
	           -1, 0);
	if (buf == MAP_FAILED) {
		log_error("%s %s: no memory for its %llu bytes; free some on the host", what, path,
		          (unsigned long long)st.st_size);
		err = -ENOMEM;
		goto out;
	}
	madvise(buf, (size_t)st.st_size, MADV_HUGEPAGE); /* a matter of speed only */
	err = read_all(fd, buf, (u64)st.st_size, what, path);
	if (err) {
		munmap(buf, (size_t)st.st_size);
		goto out;
	}
	*out = (struct boot_file){
		.map = buf, .data = buf, .size = (u64)st.st_size, .fd = fd, .mtime = st.st_mtim};
	return 0;
out:
	close(fd);
	return err;
}

/* Segments. */

static int corrupt(const struct boot_image *img, const char *why)
{
	log_error("kernel %s: is damaged: %s; get it again", img->kernel.path, why);
	return -EINVAL;
}

int boot_segment_add(struct boot_image *img, const struct boot_segment *seg)
{
	struct boot_segments *all = &img->segments;

	if (!seg->mem_size && !seg->file_size)
		return 0;
	if (seg->offset > img->kernel.size || seg->file_size > img->kernel.size - seg->offset)
		return corrupt(img, "a segment ends after the end of the file (truncated?)");
	if (seg->file_size > seg->mem_size)
		return corrupt(img, "a segment has more bytes in the file than in memory");
	if (seg->gpa + seg->mem_size < seg->gpa)
		return corrupt(img, "a segment's address overflows");
	if (all->nr == BOOT_MAX_SEGMENTS)
		return corrupt(img, "it has more than 64 segments");
	all->seg[all->nr++] = *seg;
	return 0;
}

static int segment_compare(const void *a, const void *b)
{
	const struct boot_segment *x = a, *y = b;

	return x->gpa < y->gpa ? -1 : x->gpa > y->gpa;
}

int boot_segments_finish(struct boot_image *img)
{
	struct boot_segments *all = &img->segments;

	if (!all->nr)
		return corrupt(img, "it has nothing to load");
	qsort(all->seg, all->nr, sizeof(all->seg[0]), segment_compare);
	for (unsigned i = 1; i < all->nr; i++)
		if (all->seg[i - 1].gpa + all->seg[i - 1].mem_size > all->seg[i].gpa)
			return corrupt(img, "its segments overlap");
	return 0;
}

gpa_t boot_segments_end(const struct boot_image *img)
{
	const struct boot_segment *last = &img->segments.seg[img->segments.nr - 1];

	return last->gpa + last->mem_size;
}

bool boot_segments_have(const struct boot_image *img, u64 gpa)
{
	for (unsigned i = 0; i < img->segments.nr; i++)
		if (gpa - img->segments.seg[i].gpa < img->segments.seg[i].mem_size)
			return true;
	return false;
}

/* The memory map entry of RAM that holds `gpa`. */
static const struct boot_memmap_entry *ram_at(const struct boot_memmap *map, gpa_t gpa)
{
	for (unsigned i = 0; i < map->nr; i++)
		if (map->entry[i].type == MEMMAP_RAM &&
		    gpa - map->entry[i].base < map->entry[i].size)
			return &map->entry[i];
	return NULL;
}

static unsigned long long mib_up(u64 bytes)
{
	return (bytes >> 20) + !!(bytes & (MiB - 1));
}

/* What to say after -m so that `end` bytes of memory are there: the size goes by 2 MiB. */
static unsigned long long memory_hint(u64 end)
{
	return ALIGN_UP(end, 2 * MiB) >> 20;
}

static int segment_fits(const struct boot_image *img, const struct boot_memmap *map,
                        const struct boot_segment *seg)
{
	const struct boot_memmap_entry *ram = ram_at(map, seg->gpa);
	gpa_t end = seg->gpa + seg->mem_size;

	if (seg->gpa >= HIGH_START && end <= PCI_HOLE_START && end > map->low_end) {
		log_error("kernel %s: needs memory up to %llu MiB, the machine has %llu; try -m "
		          "%lluM",
		          img->kernel.path, mib_up(end), (unsigned long long)(map->low_end >> 20),
		          memory_hint(end));
		return -ENOSPC;
	}
	if (!ram || seg->mem_size > ram->size - (seg->gpa - ram->base)) {
		log_error(
			"kernel %s: wants to be loaded at 0x%llx-0x%llx, where this machine has no "
			"memory; is it for another kind of machine?",
			img->kernel.path, (unsigned long long)seg->gpa,
			(unsigned long long)(end - 1));
		return -EINVAL;
	}
	if (seg->gpa < BDA_END || (seg->gpa < BOOT_TABLES_END && end > BOOT_TABLES)) {
		log_error("kernel %s: wants to be loaded at 0x%llx-0x%llx, over the loader's own "
		          "tables "
		          "(0x0-0x%x, 0x%x-0x%x); link it to another address",
		          img->kernel.path, (unsigned long long)seg->gpa,
		          (unsigned long long)(end - 1), BDA_END - 1, BOOT_TABLES,
		          BOOT_TABLES_END - 1);
		return -EINVAL;
	}
	return 0;
}

static int segments_load(const struct boot_image *img, struct pmap *pmap,
                         const struct boot_memmap *map)
{
	const struct boot_segments *all = &img->segments;
	int err = 0;

	for (unsigned i = 0; i < all->nr && !err; i++)
		err = segment_fits(img, map, &all->seg[i]);
	for (unsigned i = 0; i < all->nr && !err; i++) {
		const struct boot_segment *s = &all->seg[i];

		err = pmap_write(pmap, s->gpa, img->kernel.data + s->offset, s->file_size);
		if (!err)
			err = pmap_zero(pmap, s->gpa + s->file_size, s->mem_size - s->file_size);
	}
	return err;
}

int boot_place_initrd(const struct boot_image *img, const struct boot_memmap *map, bool high,
                      gpa_t floor, gpa_t *out)
{
	u64 size = img->initrd.size;
	gpa_t top = map->low_end;

	floor = ALIGN_UP(MAX(floor, (gpa_t)HIGH_START), PAGE_SIZE);
	if (img->initrd_max < top)
		top = img->initrd_max + 1;
	if (floor > top || size > top - floor) {
		u64 needed = floor + ALIGN_UP(size, PAGE_SIZE);

		if (needed <= MIN((u64)PCI_HOLE_START, img->initrd_max))
			log_error("initrd %s: its %llu MiB do not fit into memory behind the "
			          "kernel (%llu of %llu MiB are left); try -m %lluM or a smaller "
			          "initrd",
			          img->initrd.path, mib_up(size),
			          (unsigned long long)(floor < top ? (top - floor) >> 20 : 0),
			          (unsigned long long)(map->low_end >> 20), memory_hint(needed));
		else
			log_error(
				"initrd %s: its %llu MiB do not fit below the address 0x%llx, the "
				"highest this kernel takes; try a smaller initrd",
				img->initrd.path, mib_up(size),
				(unsigned long long)MIN((u64)PCI_HOLE_START - 1, img->initrd_max));
		return -ENOSPC;
	}
	*out = high ? ALIGN_DOWN(top - size, PAGE_SIZE) : floor;
	return 0;
}

/* Firmware's part. */

static void memmap_add(struct boot_memmap *map, gpa_t base, gpa_t end, u32 type)
{
	unsigned i;

	if (base >= end || map->nr == BOOT_MEMMAP_MAX)
		return;
	for (i = map->nr++; i > 0 && map->entry[i - 1].base > base; i--)
		map->entry[i] = map->entry[i - 1];
	map->entry[i].base = base;
	map->entry[i].size = end - base;
	map->entry[i].type = type;
}

/* The map as PC firmware gives it: RAM ends at the EBDA and goes on at 1 MiB, whatever is between.
 */
void boot_memmap_make(struct boot_memmap *map, const struct pmap *pmap,
                      const struct boot_platform *pf)
{
	struct pmap_range range[PMAP_MAX_SLOTS];
	unsigned nr = pmap_ranges(pmap, range, ARRAY_SIZE(range));

	memset(map, 0, sizeof(*map));
	for (unsigned i = 0; i < nr && i < ARRAY_SIZE(range); i++) {
		gpa_t base = range[i].base, end = base + range[i].size;

		memmap_add(map, base, MIN(end, (gpa_t)EBDA_START), MEMMAP_RAM);
		memmap_add(map, MAX(base, (gpa_t)HIGH_START), end, MEMMAP_RAM);
		if (base <= HIGH_START && end > HIGH_START)
			map->low_end = MIN(end, (gpa_t)PCI_HOLE_START);
	}
	memmap_add(map, EBDA_START, EBDA_END, MEMMAP_RESERVED);
	memmap_add(map, ACPI_START, ACPI_END, MEMMAP_RESERVED);
	if (pf->pci.ecam) /* PCI Firmware 3.2, 4.1.2: so the guest knows that MCFG means it */
		memmap_add(map, pf->pci.ecam, pf->pci.ecam + BOOT_ECAM_LEN, MEMMAP_RESERVED);
}

/* What a BIOS leaves in low memory: every interrupt vector points to an IRET; the data area has
 * COM1, the segment of the EBDA and the KiB of low memory, where kernels look for the end of usable
 * memory and, through the EBDA, for tables. A jump to f000:fff0 resets the machine. The two pieces
 * of code lie where the PC BIOS has them. */
static int put_bios_data(struct pmap *pmap, const struct boot_platform *pf)
{
	/* At BIOS_IRET: iret; then the handlers of the 8259s' requests: push %ax; mov $0x20, %al;
	 * (out %al, $0xa0;) out %al, $0x20; pop %ax; iret */
	static const u8 code[] = {0xcf, 0x50, 0xb0, 0x20, 0xe6, 0x20, 0x58, 0xcf, 0x50,
	                          0xb0, 0x20, 0xe6, 0xa0, 0xe6, 0x20, 0x58, 0xcf};
	const u32 eoi_master = BIOS_IRET + 1, eoi_slave = BIOS_IRET + 8;
	/* mov $port, %dx; mov $value, %al; out %al, %dx; 1: hlt; jmp 1b */
	u8 reset[] = {0xba, 0, 0, 0xb0, pf->reset_value, 0xee, 0xf4, 0xeb, 0xfd};
	u8 low[BDA_END] = {0};
	u8 ebda[EBDA_END - EBDA_START] = {0};
	int err;

	for (unsigned i = 0; i < 256; i++)
		put_le32(low + i * 4,
		         BIOS_SEGMENT << 16 | ((i & 0xf8) == BOOT_PIC_MASTER  ? eoi_master
		                               : (i & 0xf8) == BOOT_PIC_SLAVE ? eoi_slave
		                                                              : BIOS_IRET));
	put_le16(low + 0x400, BOOT_COM1);
	put_le16(low + 0x40e, EBDA_START >> 4);
	put_le16(low + 0x413, EBDA_START >> 10);
	ebda[0] = sizeof(ebda) >> 10;
	put_le16(reset + 1, pf->reset_port);
	err = pmap_write(pmap, 0, low, sizeof(low));
	if (!err)
		err = pmap_write(pmap, EBDA_START, ebda, sizeof(ebda));
	if (!err)
		err = pmap_write(pmap, (BIOS_SEGMENT << 4) + BIOS_IRET, code, sizeof(code));
	if (!err)
		err = pmap_write(pmap, (BIOS_SEGMENT << 4) + BIOS_RESET, reset, sizeof(reset));
	return err;
}

/* SDM volume 3, 3.4.5: flat 4 GiB segments, accessed already so that nothing is ever written. */
static int put_gdt(struct pmap *pmap, enum boot_mode mode, struct boot_state *out)
{
	u64 gdt[] = {
		0,
		0,
		mode == BOOT_LONG64 ? 0x00af9b000000ffff : 0x00cf9b000000ffff, /* code */
		0x00cf93000000ffff,                                            /* data */
		0x00008b0000000067, /* 32-bit TSS at 0, busy, */
		0,                  /* 16 bytes in 64-bit mode */
	};

	out->gdt_base = BOOT_GDT;
	out->gdt_limit = sizeof(gdt) - 1;
	out->cs = BOOT_CS;
	out->ds = BOOT_DS;
	return pmap_write(pmap, BOOT_GDT, gdt, sizeof(gdt));
}

/* SDM volume 3, 4.5: 4 GiB with 2 MiB pages. */
static int put_page_tables(struct pmap *pmap, struct boot_state *out)
{
	u64 table[512] = {0};
	u64 flags = 0x3; /* present, writable */
	int err;

	table[0] = (BOOT_PAGE_TABLES + PAGE_SIZE) | flags;
	err = pmap_write(pmap, BOOT_PAGE_TABLES, table, sizeof(table));
	for (unsigned i = 0; i < 4; i++)
		table[i] = (BOOT_PAGE_TABLES + (2 + i) * PAGE_SIZE) | flags;
	if (!err)
		err = pmap_write(pmap, BOOT_PAGE_TABLES + PAGE_SIZE, table, sizeof(table));
	for (u64 i = 0; i < 4 && !err; i++) {
		for (u64 j = 0; j < 512; j++)
			table[j] = (i << 30 | j << 21) | flags | BIT(7);
		err = pmap_write(pmap, BOOT_PAGE_TABLES + (2 + i) * PAGE_SIZE, table,
		                 sizeof(table));
	}
	out->cr3 = BOOT_PAGE_TABLES;
	return err;
}

int boot_put_cmdline(const struct boot_image *img, struct pmap *pmap, bool path_first)
{
	/* boot_image_from_memory() has made sure that all of it fits. */
	size_t n = path_first ? strlen(img->kernel.path) : 0;
	int err = pmap_write(pmap, BOOT_CMDLINE, img->kernel.path, n);

	if (!err && n)
		err = pmap_write(pmap, BOOT_CMDLINE + n++, " ", 1);
	return err ? err
	           : pmap_write(pmap, BOOT_CMDLINE + n, img->cmdline, strlen(img->cmdline) + 1);
}

static int image_put(const struct boot_image *img, struct pmap *pmap, struct boot_state *out)
{
	struct boot_memmap map;
	int err;

	memset(out, 0, sizeof(*out));
	boot_memmap_make(&map, pmap, &img->platform);
	out->protocol = img->loader->name;
	if (img->firmware)
		return img->loader->enter(img, pmap, &map, out);
	err = segments_load(img, pmap, &map);
	if (err)
		return err;
	out->kernel_start = img->segments.seg[0].gpa;
	out->kernel_end = boot_segments_end(img);
	out->rip = img->entry;
	out->rflags = BIT(1);
	out->initrd_size = img->initrd.size;

	err = acpi_put_tables(pmap, &img->platform, img->nr_cpus, ACPI_START, &out->rsdp);
	if (!err)
		err = put_bios_data(pmap, &img->platform);
	if (!err)
		err = img->loader->enter(img, pmap, &map, out);
	if (!err && img->initrd.data)
		err = pmap_write(pmap, out->initrd_start, img->initrd.data, img->initrd.size);
	if (!err)
		err = put_gdt(pmap, out->mode, out);
	if (!err && out->mode == BOOT_LONG64)
		err = put_page_tables(pmap, out);
	if (err)
		return err;
	out->cr0 = CR0_PE | CR0_ET;
	if (out->mode == BOOT_LONG64) {
		out->cr0 |= CR0_PG;
		out->cr4 = CR4_PAE;
		out->efer = EFER_LME | EFER_LMA;
	}
	return 0;
}

int boot_image_load(struct boot_image *img, struct pmap *pmap, struct boot_state *out)
{
	int err = file_again(&img->kernel, img->firmware ? "firmware" : "kernel");

	if (!err)
		err = file_again(&img->initrd, "initrd");
	if (!err)
		err = image_put(img, pmap, out);
	file_drop(&img->kernel);
	file_drop(&img->initrd);
	return err;
}

/* Opening. */

static char *dup_owned(struct boot_image *img, unsigned slot, const char *s)
{
	img->owned[slot] = strdup(s ? s : "");
	return img->owned[slot];
}

static int image_find_loader(struct boot_image *img)
{
	const char *foreign;

	for (unsigned i = 0; i < ARRAY_SIZE(loaders); i++) {
		if (!loaders[i]->probe(img))
			continue;
		img->loader = loaders[i];
		return img->loader->check(img);
	}
	foreign = boot_foreign(img->kernel.data, img->kernel.size);
	if (foreign)
		log_error("kernel %s: %s", img->kernel.path, foreign);
	else
		log_error(
			"kernel %s: is no bzImage, no ELF kernel and no multiboot kernel; try the "
			"vmlinuz of an x86-64 Linux",
			img->kernel.path);
	return -ENOEXEC;
}

int boot_image_from_memory(struct boot_image **out, const struct boot_config *cfg,
                           const void *kernel, u64 kernel_size, const void *initrd, u64 initrd_size)
{
	struct boot_image *img = calloc(1, sizeof(*img));
	int err = -ENOMEM;

	if (!img)
		goto fail_host;
	img->firmware = cfg->firmware;
	img->kernel.path = dup_owned(img, 0, cfg->firmware ? cfg->firmware : cfg->kernel);
	img->initrd.path = dup_owned(img, 1, cfg->initrd);
	img->cmdline = dup_owned(img, 2, cfg->cmdline);
	if (!img->kernel.path || !img->initrd.path || !img->cmdline)
		goto fail_host;
	img->kernel.data = kernel;
	img->kernel.size = kernel_size;
	img->initrd.data = initrd;
	img->initrd.size = initrd ? initrd_size : 0;
	img->initrd_max = PCI_HOLE_START - 1;
	img->platform = cfg->platform ? *cfg->platform : boot_platform_pc;
	img->nr_cpus = cfg->nr_cpus;
	err = -EINVAL;
	if (cfg->nr_cpus < 1 || cfg->nr_cpus > BOOT_MAX_CPUS) {
		log_error("%u CPUs: the firmware tables hold 1 to %u; try a number between",
		          cfg->nr_cpus, BOOT_MAX_CPUS);
		goto fail;
	}
	/* Here for all protocols; a kernel's own limit may be lower. */
	if (strlen(img->cmdline) + strlen(img->kernel.path) + 2 > BOOT_CMDLINE_SIZE) {
		log_error("the kernel command line has %zu bytes, more than the loader's 64 KiB "
		          "hold; "
		          "shorten it",
		          strlen(img->cmdline));
		goto fail;
	}
	err = image_find_loader(img);
	if (err)
		goto fail;
	*out = img;
	return 0;

fail_host:
	log_error("no memory for the boot image; free some on the host");
fail:
	boot_image_close(img);
	return err;
}

int boot_image_open(struct boot_image **out, const struct boot_config *cfg)
{
	struct boot_file kernel = {0}, initrd = {0};
	int err = file_read(cfg->firmware ? "firmware" : "kernel",
	                    cfg->firmware ? cfg->firmware : cfg->kernel, &kernel);

	if (!err && cfg->initrd)
		err = file_read("initrd", cfg->initrd, &initrd);
	if (!err)
		err = boot_image_from_memory(out, cfg, kernel.data, kernel.size, initrd.data,
		                             initrd.size);
	if (err) {
		file_close(&kernel);
		file_close(&initrd);
		return err;
	}
	kernel.path = (*out)->kernel.path;
	initrd.path = (*out)->initrd.path;
	(*out)->kernel = kernel;
	(*out)->initrd = initrd;
	return 0;
}

void boot_image_close(struct boot_image *img)
{
	if (!img)
		return;
	file_close(&img->kernel);
	file_close(&img->initrd);
	for (unsigned i = 0; i < ARRAY_SIZE(img->owned); i++)
		free(img->owned[i]);
	free(img);
}

int boot_load(const struct boot_config *cfg, struct pmap *pmap, struct boot_state *out)
{
	struct boot_image *img;
	int err = boot_image_open(&img, cfg);

	if (err)
		return err;
	err = boot_image_load(img, pmap, out);
	boot_image_close(img);
	return err;
}
