// SPDX-License-Identifier: MIT
#include "boot_test.h"

#include <elf.h>

#define TEXT_OFF  0x1000ul
#define TEXT_SIZE 0x2345ul
#define DATA_OFF  0x4000ul
#define DATA_SIZE 0x111ul
#define DATA_MEM  0x5000ul
#define NOTE_OFF  0x800ul
#define FILE_SIZE (DATA_OFF + DATA_SIZE)
#define TEXT_GPA  0x1000000ull
#define DATA_GPA  0x1400000ull
#define ENTRY     (TEXT_GPA + 0x850)

/* start_info.h of Xen, version 1. */
struct start_info {
	u32 magic, version, flags, nr_modules;
	u64 modlist, cmdline, rsdp, memmap;
	u32 memmap_entries, reserved;
};

static size_t put_note(u8 *p, const char *name, u32 type, const void *desc, u32 desc_size)
{
	u32 name_size = (u32)strlen(name) + 1;

	put_le32(p, name_size);
	put_le32(p + 4, desc_size);
	put_le32(p + 8, type);
	memcpy(p + 12, name, name_size);
	p += 12 + ALIGN_UP(name_size, 4u);
	memcpy(p, desc, desc_size);
	return 12 + ALIGN_UP(name_size, 4u) + ALIGN_UP(desc_size, 4u);
}

/* Three notes, ours the last. */
static u64 put_notes(struct boot_test *t, unsigned desc_size)
{
	u64 entry = ENTRY;
	u8 *p = t->kernel + NOTE_OFF;

	p += put_note(p, "Xen", 6, "linux", 6);
	p += put_note(p, "GNU", 18, "12345678", 8); /* the same type of another owner */
	p += put_note(p, "Xen", 18, &entry, desc_size);
	return (u64)(p - t->kernel) - NOTE_OFF;
}

static void fill(struct boot_test *t)
{
	for (u64 i = 0; i < TEXT_SIZE; i++)
		t->kernel[TEXT_OFF + i] = (u8)(i * 3 + 1);
	memset(t->kernel + DATA_OFF, 0xda, DATA_SIZE);
}

static Elf64_Phdr *phdr(struct boot_test *t, unsigned i)
{
	return (Elf64_Phdr *)(t->kernel + sizeof(Elf64_Ehdr)) + i;
}

static void make(struct boot_test *t)
{
	Elf64_Ehdr *e;

	boot_test_init(t, FILE_SIZE);
	fill(t);
	e = (Elf64_Ehdr *)t->kernel;
	memcpy(e->e_ident, ELFMAG, SELFMAG);
	e->e_ident[EI_CLASS] = ELFCLASS64;
	e->e_ident[EI_DATA] = ELFDATA2LSB;
	e->e_ident[EI_VERSION] = EV_CURRENT;
	e->e_type = ET_EXEC;
	e->e_machine = EM_X86_64;
	e->e_version = EV_CURRENT;
	e->e_entry = 0xffffffff81000000;
	e->e_phoff = sizeof(*e);
	e->e_ehsize = sizeof(*e);
	e->e_phentsize = sizeof(Elf64_Phdr);
	e->e_phnum = 4;
	/* Out of order on purpose. */
	*phdr(t, 0) = (Elf64_Phdr){
		.p_type = PT_LOAD,
		.p_flags = PF_R | PF_W,
		.p_offset = DATA_OFF,
		.p_vaddr = 0xffffffff81400000,
		.p_paddr = DATA_GPA,
		.p_filesz = DATA_SIZE,
		.p_memsz = DATA_MEM,
	};
	*phdr(t, 1) = (Elf64_Phdr){
		.p_type = PT_LOAD,
		.p_flags = PF_R | PF_X,
		.p_offset = TEXT_OFF,
		.p_vaddr = 0xffffffff81000000,
		.p_paddr = TEXT_GPA,
		.p_filesz = TEXT_SIZE,
		.p_memsz = TEXT_SIZE,
	};
	*phdr(t, 2) = (Elf64_Phdr){.p_type = PT_LOAD}; /* empty: ignored */
	*phdr(t, 3) = (Elf64_Phdr){
		.p_type = PT_NOTE,
		.p_offset = NOTE_OFF,
		.p_align = 4,
	};
	phdr(t, 3)->p_filesz = put_notes(t, 8);
}

static void make32(struct boot_test *t)
{
	Elf32_Ehdr *e;
	Elf32_Phdr *ph;

	boot_test_init(t, FILE_SIZE);
	fill(t);
	e = (Elf32_Ehdr *)t->kernel;
	memcpy(e->e_ident, ELFMAG, SELFMAG);
	e->e_ident[EI_CLASS] = ELFCLASS32;
	e->e_ident[EI_DATA] = ELFDATA2LSB;
	e->e_type = ET_EXEC;
	e->e_machine = EM_386;
	e->e_entry = 0xc1000000;
	e->e_phoff = sizeof(*e);
	e->e_phentsize = sizeof(Elf32_Phdr);
	e->e_phnum = 2;
	ph = (Elf32_Phdr *)(t->kernel + sizeof(*e));
	ph[0] = (Elf32_Phdr){
		.p_type = PT_LOAD,
		.p_offset = TEXT_OFF,
		.p_vaddr = 0xc1000000,
		.p_paddr = TEXT_GPA,
		.p_filesz = TEXT_SIZE,
		.p_memsz = TEXT_SIZE,
	};
	ph[1] = (Elf32_Phdr){.p_type = PT_NOTE, .p_offset = NOTE_OFF, .p_align = 4};
	ph[1].p_filesz = (u32)put_notes(t, 4);
}

static void test_state(void **unused)
{
	struct boot_test t;
	const struct start_info *si;
	const u64 *mod, *gdt;
	const u8 *map;

	make(&t);
	boot_test_initrd(&t, 12345);
	boot_test_accepted(&t);
	assert_int_equal(t.state.mode, BOOT_PROT32);
	assert_string_equal(t.state.protocol, "PVH");
	assert_int_equal(t.state.rip, ENTRY);
	assert_int_equal(t.state.cr0, 0x11);
	assert_int_equal(t.state.cr4, 0);
	assert_int_equal(t.state.efer, 0);
	assert_int_equal(t.state.rflags, 2);
	assert_int_equal(t.state.kernel_start, TEXT_GPA);
	assert_int_equal(t.state.kernel_end, DATA_GPA + DATA_MEM);
	gdt = (u64 *)guest(&t, t.state.gdt_base, t.state.gdt_limit + 1ul);
	assert_int_equal(gdt[t.state.cs / 8], 0x00cf9b000000ffff);
	assert_int_equal(gdt[t.state.ds / 8], 0x00cf93000000ffff);

	assert_memory_equal(guest(&t, TEXT_GPA, TEXT_SIZE), t.kernel + TEXT_OFF, TEXT_SIZE);
	assert_int_equal(*guest(&t, TEXT_GPA + TEXT_SIZE, 1), 0xa5); /* nothing more is touched */
	assert_memory_equal(guest(&t, DATA_GPA, DATA_SIZE), t.kernel + DATA_OFF, DATA_SIZE);
	assert_true(all_zero(guest(&t, DATA_GPA + DATA_SIZE, DATA_MEM - DATA_SIZE),
	                     DATA_MEM - DATA_SIZE));

	si = (const void *)guest(&t, t.state.rbx, sizeof(*si));
	assert_int_equal(si->magic, 0x336ec578);
	assert_int_equal(si->version, 1);
	assert_int_equal(si->flags, 0);
	assert_int_equal(si->reserved, 0);
	assert_int_equal(si->rsdp, t.state.rsdp);
	assert_string_equal((char *)guest(&t, si->cmdline, 64), "console=ttyS0 one two");

	assert_int_equal(si->nr_modules, 1);
	mod = (const u64 *)guest(&t, si->modlist, 32);
	assert_int_equal(mod[0], t.state.initrd_start);
	assert_int_equal(mod[1], 12345);
	assert_int_equal(mod[0], TEST_RAM - 0x4000);
	assert_memory_equal(guest(&t, mod[0], 12345), t.initrd, 12345);

	assert_int_equal(si->memmap_entries, 4);
	map = guest(&t, si->memmap, 4 * 24);
	assert_int_equal(get_le64(map + 3 * 24), 0x100000);
	assert_int_equal(get_le64(map + 3 * 24 + 8), TEST_RAM - 0x100000);
	assert_int_equal(get_le32(map + 3 * 24 + 16), 1);
	assert_int_equal(get_le32(map + 3 * 24 + 20), 0);
	boot_test_done(&t);
}

static void test_no_initrd(void **unused)
{
	struct boot_test t;
	const struct start_info *si;

	make(&t);
	boot_test_accepted(&t);
	si = (const void *)guest(&t, t.state.rbx, sizeof(*si));
	assert_int_equal(si->nr_modules, 0);
	assert_int_equal(si->modlist, 0);
	boot_test_done(&t);
}

static void test_elf32(void **unused)
{
	struct boot_test t;

	make32(&t);
	boot_test_accepted(&t);
	assert_int_equal(t.state.rip, ENTRY);
	assert_int_equal(t.state.mode, BOOT_PROT32);
	/* A 32-bit Linux reaches no initrd above its linear map. */
	t.ram_size = 2 * GiB;
	boot_test_initrd(&t, 4096);
	boot_test_accepted(&t);
	assert_int_equal(t.state.initrd_start, 0x37fff000);
	boot_test_done(&t);
}

/* Notes padded to 8 bytes, when the segment says so. */
static void test_note_alignment(void **unused)
{
	struct boot_test t;
	u8 *p;

	make(&t);
	memset(t.kernel + NOTE_OFF, 0, 0x400);
	p = t.kernel + NOTE_OFF;
	put_note(p, "Xen", 6, "linux", 6); /* 12 + 4, 6 bytes padded to 8 */
	p += 24;
	put_note(p, "Abcdefg", 1, "xyz", 3); /* 12 + 8 padded to 24, 3 bytes to 8 */
	p += 32;
	put_note(p, "Xen", 18, &(u64){ENTRY}, 8);
	phdr(&t, 3)->p_filesz = 24 + 32 + 24;
	phdr(&t, 3)->p_align = 8;
	boot_test_accepted(&t);
	assert_int_equal(t.state.rip, ENTRY);
	boot_test_done(&t);
}

/* Two note segments; the first has no entry and is damaged. */
static void test_second_note_segment(void **unused)
{
	struct boot_test t;

	make(&t);
	*phdr(&t, 2) = (Elf64_Phdr){.p_type = PT_NOTE, .p_offset = FILE_SIZE - 8, .p_filesz = 64};
	boot_test_accepted(&t);
	*phdr(&t, 2) = (Elf64_Phdr){.p_type = PT_NOTE, .p_offset = DATA_OFF, .p_filesz = 64};
	boot_test_accepted(&t); /* sizes of 0xdadadada */
	boot_test_done(&t);
}

/* Below 1 MiB and above the PCI hole is memory, too. */
static void test_unusual_places(void **unused)
{
	struct boot_test t;

	make(&t);
	phdr(&t, 0)->p_paddr = 0x500;
	boot_test_accepted(&t);
	assert_int_equal(*guest(&t, 0x500, 1), 0xda);
	phdr(&t, 0)->p_paddr = 0x99000;
	boot_test_accepted(&t);
	phdr(&t, 0)->p_paddr = 0x80000 - DATA_MEM;
	boot_test_accepted(&t);
	phdr(&t, 0)->p_paddr = 4 * GiB;
	t.ram_size = 4 * GiB;
	boot_test_accepted(&t);
	assert_int_equal(*guest(&t, 4 * GiB, 1), 0xda);
	boot_test_done(&t);
}

static void test_initrd_limits(void **unused)
{
	struct boot_test t;
	u64 room = TEST_RAM - (DATA_GPA + DATA_MEM);

	make(&t);
	boot_test_initrd(&t, room);
	boot_test_accepted(&t);
	boot_test_initrd(&t, room + 1);
	boot_test_refused(&t, "too large", -ENOSPC, "try -m 66M");
	boot_test_done(&t);
}

#define EH(field)    offsetof(Elf64_Ehdr, field)
#define PH(i, field) (sizeof(Elf64_Ehdr) + (i) * sizeof(Elf64_Phdr) + offsetof(Elf64_Phdr, field))

static void test_damaged(void **unused)
{
	/* The notes: 12 + 4 + 8, 12 + 4 + 8, 12 + 4 + 8. */
	static const struct damage d[] = {
		{"cut in magic", 0, 0, 3, -ENOEXEC, "no ELF kernel"},
		{"cut in ident", 0, 0, 16, -EINVAL, "truncated"},
		{"cut in header", 0, 0, 63, -EINVAL, "truncated"},
		{"cut behind header", 0, 0, 64, -EINVAL, "program headers are behind the end"},
		{"cut in headers", 0, 0, PH(3, p_align), -EINVAL, "program headers are behind"},
		{"cut in text", 0, 0, TEXT_OFF + 5, -EINVAL, "ends after the end of the file"},
		{"cut by one byte", 0, 0, FILE_SIZE - 1, -EINVAL, "ends after the end of the file"},
		{"class 0", EI_CLASS, 1, 0, -EINVAL, "neither of 32 nor of 64 bits"},
		{"class 3", EI_CLASS, 1, 3, -EINVAL, "neither of 32 nor of 64 bits"},
		{"arm64", EH(e_machine), 2, EM_AARCH64, -ENOEXEC, "arm64"},
		{"arm", EH(e_machine), 2, EM_ARM, -ENOEXEC, "32-bit ARM"},
		{"riscv", EH(e_machine), 2, EM_RISCV, -ENOEXEC, "RISC-V"},
		{"unknown machine", EH(e_machine), 2, 0xfefe, -ENOEXEC, "machine 65278"},
		{"big endian", EI_DATA, 1, ELFDATA2MSB, -ENOEXEC, "not for x86"},
		{"object file", EH(e_type), 2, ET_REL, -EINVAL, "object file"},
		{"core", EH(e_type), 2, ET_CORE, -EINVAL, "no executable"},
		{"phnum 0", EH(e_phnum), 2, 0, -EINVAL, "without program headers"},
		{"phnum max", EH(e_phnum), 2, 0xffff, -EINVAL, "wrong size"},
		{"phnum 257", EH(e_phnum), 2, 257, -EINVAL, "wrong size"},
		{"phentsize 0", EH(e_phentsize), 2, 0, -EINVAL, "wrong size"},
		{"phentsize small", EH(e_phentsize), 2, 55, -EINVAL, "wrong size"},
		{"phentsize max", EH(e_phentsize), 2, 0xffff, -EINVAL, "behind the end"},
		{"phoff max", EH(e_phoff), 8, ~0ull, -EINVAL, "behind the end"},
		{"phoff wraps", EH(e_phoff), 8, 0ull - 100, -EINVAL, "behind the end"},
		{"phoff at the end", EH(e_phoff), 8, FILE_SIZE, -EINVAL, "behind the end"},
		{"program", PH(2, p_type), 4, PT_INTERP, -ENOEXEC, "a program for an operating"},
		{"offset max", PH(0, p_offset), 8, ~0ull, -EINVAL, "ends after the end"},
		{"offset wraps", PH(0, p_offset), 8, 0ull - DATA_SIZE, -EINVAL, "ends after"},
		{"filesz max", PH(0, p_filesz), 8, ~0ull, -EINVAL, "ends after the end"},
		{"filesz over memsz", PH(0, p_memsz), 8, DATA_SIZE - 1, -EINVAL,
	         "more bytes in the"},
		{"memsz 0", PH(0, p_memsz), 8, 0, -EINVAL, "more bytes in the file"},
		{"memsz max", PH(0, p_memsz), 8, ~0ull, -EINVAL, "address overflows"},
		{"memsz wraps to 0", PH(0, p_memsz), 8, 0ull - DATA_GPA, -EINVAL, "overflows"},
		{"memsz 1 TiB", PH(0, p_memsz), 8, 1ull << 40, -EINVAL, "no memory"},
		{"memsz 1 GiB", PH(0, p_memsz), 8, 1ull << 30, -ENOSPC, "try -m 1044M"},
		{"paddr max", PH(0, p_paddr), 8, ~0ull, -EINVAL, "address overflows"},
		{"overlap", PH(0, p_paddr), 8, TEXT_GPA + TEXT_SIZE - 1, -EINVAL, "overlap"},
		{"overlap from below", PH(0, p_paddr), 8, TEXT_GPA - DATA_MEM + 1, -EINVAL,
	         "overlap"},
		{"the same place", PH(0, p_paddr), 8, TEXT_GPA, -EINVAL, "overlap"},
		{"end of memory", PH(0, p_paddr), 8, TEST_RAM - DATA_MEM + 1, -ENOSPC,
	         "try -m 66M"},
		{"display hole", PH(0, p_paddr), 8, 0xa0000, -EINVAL, "no memory"},
		{"BIOS hole", PH(0, p_paddr), 8, 0xc0000, -EINVAL, "no memory"},
		{"ACPI tables", PH(0, p_paddr), 8, 0xf0000, -EINVAL, "no memory"},
		{"EBDA", PH(0, p_paddr), 8, 0x9fc00 - DATA_MEM + 1, -EINVAL, "no memory"},
		{"vectors", PH(0, p_paddr), 8, 0, -EINVAL, "over the loader's own tables"},
		{"BIOS data", PH(0, p_paddr), 8, 0x4ff, -EINVAL, "over the loader's own tables"},
		{"page tables", PH(0, p_paddr), 8, 0x80000, -EINVAL, "loader's own tables"},
		{"reaches the tables", PH(0, p_paddr), 8, 0x80000 - DATA_MEM + 1, -EINVAL,
	         "loader's own tables"},
		{"command line", PH(0, p_paddr), 8, 0x98fff, -EINVAL, "loader's own tables"},
		{"PCI hole", PH(0, p_paddr), 8, 0xfee00000, -EINVAL, "no memory"},
		{"above", PH(0, p_paddr), 8, 4 * GiB, -EINVAL, "no memory"},
		{"no note segment", PH(3, p_type), 4, PT_NULL, -EINVAL, "CONFIG_PVH=y"},
		{"note offset", PH(3, p_offset), 8, FILE_SIZE + 1, -EINVAL, "CONFIG_PVH=y"},
		{"note offset max", PH(3, p_offset), 8, ~0ull, -EINVAL, "CONFIG_PVH=y"},
		{"note filesz max", PH(3, p_filesz), 8, ~0ull, -EINVAL, "CONFIG_PVH=y"},
		{"note filesz 0", PH(3, p_filesz), 8, 0, -EINVAL, "CONFIG_PVH=y"},
		{"note cut", PH(3, p_filesz), 8, 71, -EINVAL, "CONFIG_PVH=y"},
		{"name size max", NOTE_OFF, 4, 0xffffffff, -EINVAL, "CONFIG_PVH=y"},
		{"desc size max", NOTE_OFF + 4, 4, 0xffffffff, -EINVAL, "CONFIG_PVH=y"},
		{"entry of 2 bytes", NOTE_OFF + 48 + 4, 4, 2, -EINVAL, "CONFIG_PVH=y"},
		{"another type", NOTE_OFF + 48 + 8, 4, 17, -EINVAL, "CONFIG_PVH=y"},
		{"another name", NOTE_OFF + 48 + 12, 4, 0x006e6559, -EINVAL, "CONFIG_PVH=y"},
		{"entry outside", NOTE_OFF + 48 + 16, 8, TEXT_GPA + TEXT_SIZE, -EINVAL,
	         "entry point"},
		{"entry 0", NOTE_OFF + 48 + 16, 8, 0, -EINVAL, "entry point"},
		{"entry high", NOTE_OFF + 48 + 16, 8, ENTRY | 1ull << 32, -EINVAL, "entry point"},
	};

	check_damage(d, ARRAY_SIZE(d), make);
}

static void test_damaged32(void **unused)
{
#define PH32(i, field) (sizeof(Elf32_Ehdr) + (i) * sizeof(Elf32_Phdr) + offsetof(Elf32_Phdr, field))
	static const struct damage d[] = {
		{"cut in header", 0, 0, 51, -EINVAL, "truncated"},
		{"phoff max", offsetof(Elf32_Ehdr, e_phoff), 4, 0xffffffff, -EINVAL,
	         "behind the end"},
		{"paddr max", PH32(0, p_paddr), 4, 0xffffffff, -EINVAL, "entry point"},
		{"memsz max", PH32(0, p_memsz), 4, 0xffffffff, -EINVAL, "no memory"},
		{"offset max", PH32(0, p_offset), 4, 0xffffffff, -EINVAL, "ends after the end"},
		{"read as 64 bits", EI_CLASS, 1, ELFCLASS64, -EINVAL, "is"},
	};

	check_damage(d, ARRAY_SIZE(d), make32);
}

/* More segments than the loader keeps. */
static void test_too_many(void **unused)
{
	struct boot_test t;
	Elf64_Ehdr *e;

	make(&t);
	t.kernel = realloc(t.kernel, 0x20000);
	memset(t.kernel + FILE_SIZE, 0, 0x20000 - FILE_SIZE);
	t.kernel_size = 0x20000;
	e = (Elf64_Ehdr *)t.kernel;
	e->e_phoff = 0x10000;
	e->e_phnum = BOOT_MAX_SEGMENTS + 1;
	for (unsigned i = 0; i < BOOT_MAX_SEGMENTS + 1; i++)
		((Elf64_Phdr *)(t.kernel + 0x10000))[i] = (Elf64_Phdr){
			.p_type = PT_LOAD,
			.p_offset = TEXT_OFF,
			.p_paddr = TEXT_GPA + i * 0x1000,
			.p_filesz = 0x10,
			.p_memsz = 0x1000,
		};
	boot_test_refused(&t, "65 segments", -EINVAL, "more than 64 segments");
	((Elf64_Phdr *)(t.kernel + 0x10000))[BOOT_MAX_SEGMENTS] = *phdr(&t, 3);
	boot_test_accepted(&t);
	boot_test_done(&t);
}

/* Nothing to load, but a note. */
static void test_nothing(void **unused)
{
	struct boot_test t;

	make(&t);
	phdr(&t, 0)->p_type = phdr(&t, 1)->p_type = PT_NULL;
	boot_test_refused(&t, "no PT_LOAD", -EINVAL, "nothing to load");
	boot_test_done(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_state),
		cmocka_unit_test(test_no_initrd),
		cmocka_unit_test(test_elf32),
		cmocka_unit_test(test_note_alignment),
		cmocka_unit_test(test_second_note_segment),
		cmocka_unit_test(test_unusual_places),
		cmocka_unit_test(test_initrd_limits),
		cmocka_unit_test(test_damaged),
		cmocka_unit_test(test_damaged32),
		cmocka_unit_test(test_too_many),
		cmocka_unit_test(test_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
