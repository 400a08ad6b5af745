// SPDX-License-Identifier: MIT
#include "boot_test.h"

#include <elf.h>

#define FILE_SIZE 0x5000ul
#define HEADER    0x1010ul /* in the file */
#define LOAD      0x400000u

static void put_header(u8 *p, u32 flags)
{
	put_le32(p, 0x1badb002);
	put_le32(p + 4, flags);
	put_le32(p + 8, 0u - 0x1badb002 - flags);
}

/* An ELF32 kernel as kvm-unit-tests builds it: text and data, virtual is physical. */
static void make(struct boot_test *t)
{
	Elf32_Ehdr *e;
	Elf32_Phdr *ph;

	boot_test_init(t, FILE_SIZE);
	memset(t->kernel + 0x1000, 0x90, 0x4000);
	e = (Elf32_Ehdr *)t->kernel;
	memcpy(e->e_ident, ELFMAG, SELFMAG);
	e->e_ident[EI_CLASS] = ELFCLASS32;
	e->e_ident[EI_DATA] = ELFDATA2LSB;
	e->e_type = ET_EXEC;
	e->e_machine = EM_386;
	e->e_entry = LOAD + 0x20;
	e->e_phoff = sizeof(*e);
	e->e_phentsize = sizeof(Elf32_Phdr);
	e->e_phnum = 2;
	ph = (Elf32_Phdr *)(t->kernel + sizeof(*e));
	ph[0] = (Elf32_Phdr){
		.p_type = PT_LOAD,
		.p_flags = PF_R | PF_X,
		.p_offset = 0x1000,
		.p_vaddr = LOAD,
		.p_paddr = LOAD,
		.p_filesz = 0x1800,
		.p_memsz = 0x1800,
	};
	ph[1] = (Elf32_Phdr){
		.p_type = PT_LOAD,
		.p_flags = PF_R | PF_W,
		.p_offset = 0x3000,
		.p_vaddr = LOAD + 0x2000,
		.p_paddr = LOAD + 0x2000,
		.p_filesz = 0x123,
		.p_memsz = 0x9001,
	};
	put_header(t->kernel + HEADER, 0);
}

/* Loaded by the header's address fields: the whole file from 0x1000 on. */
static void make_flat(struct boot_test *t)
{
	u8 *h;

	boot_test_init(t, FILE_SIZE);
	for (u64 i = 0; i < FILE_SIZE; i++)
		t->kernel[i] = (u8)(i * 5);
	h = t->kernel + HEADER;
	put_header(h, 0x10003);
	put_le32(h + 12, LOAD + 0x10);   /* header_addr */
	put_le32(h + 16, LOAD);          /* load_addr */
	put_le32(h + 20, LOAD + 0x3000); /* load_end_addr */
	put_le32(h + 24, LOAD + 0x8000); /* bss_end_addr */
	put_le32(h + 28, LOAD + 0x40);   /* entry_addr */
}

static void test_state(void **unused)
{
	struct boot_test t;
	const u32 *mbi;
	const u8 *m;
	const u64 *gdt;

	make(&t);
	t.cmdline = "smp 0xff";
	boot_test_initrd(&t, 4321);
	boot_test_accepted(&t);
	assert_int_equal(t.state.mode, BOOT_PROT32);
	assert_string_equal(t.state.protocol, "multiboot");
	assert_int_equal(t.state.rip, LOAD + 0x20);
	assert_int_equal(t.state.rax, 0x2badb002);
	assert_int_equal(t.state.cr0, 0x11);
	gdt = (u64 *)guest(&t, t.state.gdt_base, t.state.gdt_limit + 1ul);
	assert_int_equal(gdt[t.state.cs / 8], 0x00cf9b000000ffff);
	assert_int_equal(gdt[t.state.ds / 8], 0x00cf93000000ffff);
	assert_memory_equal(guest(&t, LOAD, 0x1800), t.kernel + 0x1000, 0x1800);
	assert_memory_equal(guest(&t, LOAD + 0x2000, 0x123), t.kernel + 0x3000, 0x123);
	assert_true(all_zero(guest(&t, LOAD + 0x2123, 0x9001 - 0x123), 0x9001 - 0x123));

	mbi = (const u32 *)guest(&t, t.state.rbx, 88);
	assert_int_equal(mbi[0], 0x24d); /* memory, command line, modules, map, loader's name */
	assert_int_equal(mbi[1], 639);
	assert_int_equal(mbi[2], (TEST_RAM >> 10) - 1024);
	assert_string_equal((char *)guest(&t, mbi[4], 64), "KERNEL smp 0xff");
	assert_string_equal((char *)guest(&t, mbi[16], 16), "Ringer");

	/* The module lies on the next page behind the kernel. */
	assert_int_equal(mbi[5], 1);
	m = guest(&t, mbi[6], 16);
	assert_int_equal(get_le32(m), LOAD + 0xc000);
	assert_int_equal(get_le32(m + 4), LOAD + 0xc000 + 4321);
	assert_string_equal((char *)guest(&t, get_le32(m + 8), 16), "INITRD");
	assert_memory_equal(guest(&t, get_le32(m), 4321), t.initrd, 4321);

	/* The map: entries begin with the size of their rest. */
	assert_int_equal(mbi[11], 4 * 24);
	m = guest(&t, mbi[12], 4 * 24);
	assert_int_equal(get_le32(m), 20);
	assert_int_equal(get_le64(m + 4), 0);
	assert_int_equal(get_le64(m + 12), 0x9fc00);
	assert_int_equal(get_le32(m + 20), 1);
	assert_int_equal(get_le64(m + 3 * 24 + 4), 0x100000);
	assert_int_equal(get_le64(m + 3 * 24 + 12), TEST_RAM - 0x100000);
	boot_test_done(&t);
}

static void test_no_module(void **unused)
{
	struct boot_test t;
	const u32 *mbi;

	make(&t);
	boot_test_accepted(&t);
	mbi = (const u32 *)guest(&t, t.state.rbx, 88);
	assert_int_equal(mbi[5], 0);
	/* mem_upper ends at the hole, whatever is behind it. */
	t.ram_size = 5 * GiB;
	boot_test_accepted(&t);
	mbi = (const u32 *)guest(&t, t.state.rbx, 88);
	assert_int_equal(mbi[2], (3 * GiB - MiB) >> 10);
	assert_int_equal(mbi[11], 5 * 24);
	boot_test_done(&t);
}

static void test_flat(void **unused)
{
	struct boot_test t;

	make_flat(&t);
	boot_test_accepted(&t);
	assert_int_equal(t.state.rip, LOAD + 0x40);
	assert_memory_equal(guest(&t, LOAD, 0x3000), t.kernel + 0x1000, 0x3000);
	assert_true(all_zero(guest(&t, LOAD + 0x3000, 0x5000), 0x5000));
	assert_int_equal(*guest(&t, LOAD + 0x8000, 1), 0xa5);

	/* Without an end: the whole file; without a bss: nothing behind it. */
	put_le32(t.kernel + HEADER + 20, 0);
	put_le32(t.kernel + HEADER + 24, 0);
	boot_test_accepted(&t);
	assert_memory_equal(guest(&t, LOAD, 0x4000), t.kernel + 0x1000, 0x4000);
	assert_int_equal(*guest(&t, LOAD + 0x4000, 1), 0xa5);
	boot_test_done(&t);
}

/* kvm-unit-tests' realmode test is linked to 32 KiB. */
static void test_low(void **unused)
{
	struct boot_test t;
	Elf32_Phdr *ph;
	const u32 *mbi;

	make(&t);
	ph = (Elf32_Phdr *)(t.kernel + sizeof(Elf32_Ehdr));
	ph[0].p_vaddr = ph[0].p_paddr = 0x8000;
	ph[1].p_vaddr = ph[1].p_paddr = 0xa000;
	((Elf32_Ehdr *)t.kernel)->e_entry = 0x8010;
	boot_test_initrd(&t, 100);
	boot_test_accepted(&t);
	assert_int_equal(t.state.rip, 0x8010);
	assert_memory_equal(guest(&t, 0x8000, 0x1800), t.kernel + 0x1000, 0x1800);
	mbi = (const u32 *)guest(&t, t.state.rbx, 88);
	assert_int_equal(get_le32(guest(&t, mbi[6], 16)), 0x100000);
	boot_test_done(&t);
}

/* A kernel linked high: the entry point is virtual, and is entered at its physical address. */
static void test_high_entry(void **unused)
{
	struct boot_test t;

	make(&t);
	((Elf32_Phdr *)(t.kernel + sizeof(Elf32_Ehdr)))->p_vaddr = 0xc0400000;
	((Elf32_Ehdr *)t.kernel)->e_entry = 0xc0400123;
	boot_test_accepted(&t);
	assert_int_equal(t.state.rip, LOAD + 0x123);
	boot_test_done(&t);
}

/* The header counts only in the first 8 KiB, at multiples of 4. */
static void test_header_search(void **unused)
{
	struct boot_test t;

	make(&t);
	memset(t.kernel + HEADER, 0, 12);
	put_header(t.kernel + 8192 - 12, 0);
	boot_test_accepted(&t);
	memset(t.kernel + 8192 - 12, 0, 12);
	put_header(t.kernel + 8192 - 8, 0);
	boot_test_refused(&t, "behind 8 KiB", -EINVAL, "without a PVH entry");
	memset(t.kernel + 8192 - 8, 0, 12);
	put_header(t.kernel + HEADER + 2, 0);
	boot_test_refused(&t, "unaligned", -EINVAL, "without a PVH entry");
	/* Something that is nearly a header, before the right one. */
	put_header(t.kernel + 0x1100, 0);
	put_le32(t.kernel + HEADER, 0x1badb002);
	boot_test_accepted(&t);
	boot_test_done(&t);
}

static void test_module_limits(void **unused)
{
	struct boot_test t;
	u64 room = TEST_RAM - (LOAD + 0xc000);

	make(&t);
	boot_test_initrd(&t, room);
	boot_test_accepted(&t);
	boot_test_initrd(&t, room + 1);
	boot_test_refused(&t, "module", -ENOSPC, "try -m 66M");
	boot_test_done(&t);
}

static void make_video(struct boot_test *t)
{
	make(t);
	put_header(t->kernel + HEADER, 4);
}

static void make_unknown_flag(struct boot_test *t)
{
	make(t);
	put_header(t->kernel + HEADER, 0x80);
}

static void make_elf64(struct boot_test *t)
{
	static const Elf64_Phdr load = {.p_type = PT_LOAD,
	                                .p_offset = 0x1000,
	                                .p_paddr = LOAD,
	                                .p_filesz = 9,
	                                .p_memsz = 9};
	Elf64_Ehdr *e;

	make(t);
	e = (Elf64_Ehdr *)t->kernel;
	e->e_ident[EI_CLASS] = ELFCLASS64;
	e->e_machine = EM_X86_64;
	e->e_phoff = sizeof(*e);
	e->e_phentsize = sizeof(Elf64_Phdr);
	e->e_phnum = 1;
	memcpy(t->kernel + sizeof(*e), &load, sizeof(load));
}

static void make_no_elf(struct boot_test *t)
{
	make(t);
	t->kernel[0] = 0;
}

static void test_damaged(void **unused)
{
#define PH32(i, field) (sizeof(Elf32_Ehdr) + (i) * sizeof(Elf32_Phdr) + offsetof(Elf32_Phdr, field))
	static const struct damage d[] = {
		{"cut in text", 0, 0, 0x1100, -EINVAL, "truncated?"},
		{"entry outside", offsetof(Elf32_Ehdr, e_entry), 4, 0x1000, -EINVAL, "entry point"},
		{"entry behind", offsetof(Elf32_Ehdr, e_entry), 4, LOAD + 0x1800, -EINVAL,
	         "entry point"},
		{"arm64", offsetof(Elf32_Ehdr, e_machine), 2, EM_AARCH64, -ENOEXEC, "arm64"},
		{"overlap", PH32(1, p_paddr), 4, LOAD, -EINVAL, "overlap"},
		{"end above 4 GiB", PH32(1, p_paddr), 4, 0xfffffff0, -EINVAL, "ends above 4 GiB"},
		{"memsz max", PH32(1, p_memsz), 4, 0xffffffff, -EINVAL, "ends above 4 GiB"},
		{"in the hole", PH32(1, p_paddr), 4, 0xfec00000, -EINVAL, "no memory"},
		{"memsz 1 GiB", PH32(1, p_memsz), 4, 1 << 30, -ENOSPC, "try -m 1030M"},
		{"loader's tables", PH32(1, p_paddr), 4, 0x87000, -EINVAL, "loader's own tables"},
		{"phnum 0", offsetof(Elf32_Ehdr, e_phnum), 2, 0, -EINVAL,
	         "without program headers"},
	};
	static const struct damage as_is[] = {{"", 0, 1, 0x7f}};
	struct damage one = as_is[0];

	check_damage(d, ARRAY_SIZE(d), make);

	one.name = "video mode";
	one.err = -EINVAL;
	one.what = "demands a video mode";
	check_damage(&one, 1, make_video);
	one.name = "unknown demand";
	one.what = "does not define";
	check_damage(&one, 1, make_unknown_flag);
	one.name = "64 bits";
	one.what = "objcopy -O elf32-i386";
	check_damage(&one, 1, make_elf64);
	one.name = "neither addresses nor ELF";
	one.what = "without load addresses and is no ELF file";
	one.value = 0;
	check_damage(&one, 1, make_no_elf);
}

static void test_damaged_flat(void **unused)
{
	static const struct damage d[] = {
		{"cut in header", 0, 0, HEADER + 20, -EINVAL,
	         "truncated inside the multiboot header"},
		{"cut in addresses", 0, 0, HEADER + 31, -EINVAL, "truncated inside"},
		{"cut in text", 0, 0, 0x2000, -EINVAL, "truncated?"},
		{"header_addr below", HEADER + 12, 4, LOAD - 4, -EINVAL, "before the start"},
		{"header_addr far", HEADER + 12, 4, LOAD + 0x1014, -EINVAL, "before the start"},
		{"header_addr max", HEADER + 12, 4, 0xffffffff, -EINVAL, "before the start"},
		{"load_addr 0", HEADER + 16, 4, 0, -EINVAL, "before the start"},
		{"load_addr max", HEADER + 16, 4, 0xffffffff, -EINVAL, "before the start"},
		{"load_end below", HEADER + 20, 4, LOAD - 1, -EINVAL, "load_end_addr"},
		{"load_end max", HEADER + 20, 4, 0xffffffff, -EINVAL, "bss_end_addr"},
		{"load_end behind", HEADER + 20, 4, LOAD + 0x4001, -EINVAL, "truncated?"},
		{"bss_end inside", HEADER + 24, 4, LOAD + 0x2fff, -EINVAL, "bss_end_addr"},
		{"bss_end max", HEADER + 24, 4, 0xffffffff, -EINVAL, "no memory"},
		{"bss_end 1 GiB", HEADER + 24, 4, 1 << 30, -ENOSPC, "try -m 1024M"},
		{"entry outside", HEADER + 28, 4, LOAD + 0x8000, -EINVAL, "entry point"},
		{"entry below", HEADER + 28, 4, LOAD - 1, -EINVAL, "entry point"},
		{"checksum", HEADER + 8, 4, 0, -ENOEXEC, "no multiboot kernel"},
	};

	check_damage(d, ARRAY_SIZE(d), make_flat);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_state),         cmocka_unit_test(test_no_module),
		cmocka_unit_test(test_flat),          cmocka_unit_test(test_low),
		cmocka_unit_test(test_high_entry),    cmocka_unit_test(test_header_search),
		cmocka_unit_test(test_module_limits), cmocka_unit_test(test_damaged),
		cmocka_unit_test(test_damaged_flat),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
