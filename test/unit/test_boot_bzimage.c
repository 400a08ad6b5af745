// SPDX-License-Identifier: MIT
#include "boot_test.h"

#include <asm/bootparam.h>

#define SETUP   (5 * 512ul)
#define PAYLOAD 0x3000ul
#define LOAD    0x1000000ull
#define INIT    0x800000u

#define HDR(field) (0x1f1 + offsetof(struct setup_header, field))

/* setup_sects 4, a payload of counted bytes. */
static void make(struct boot_test *t)
{
	struct setup_header *h;

	boot_test_init(t, SETUP + PAYLOAD);
	h = (struct setup_header *)(t->kernel + 0x1f1);
	h->setup_sects = 4;
	h->syssize = PAYLOAD / 16;
	h->boot_flag = 0xaa55;
	h->jump = 0x6aeb; /* the header ends at 0x202 + 0x6a */
	h->header = 0x53726448;
	h->version = 0x020f;
	h->loadflags = LOADED_HIGH | CAN_USE_HEAP;
	h->initrd_addr_max = 0x7fffffff;
	h->kernel_alignment = 0x200000;
	h->relocatable_kernel = 1;
	h->xloadflags = XLF_KERNEL_64;
	h->cmdline_size = 2047;
	h->pref_address = LOAD;
	h->init_size = INIT;
	h->setup_data = 0x1234; /* a loader must not hand this on */
	memset(t->kernel, 0xff, 0x1f1);
	for (u64 i = 0; i < PAYLOAD; i++)
		t->kernel[SETUP + i] = (u8)(i ^ i >> 8);
}

static void test_state(void **unused)
{
	struct boot_test t;
	const struct boot_params *bp;
	u64 *gdt, *pt;

	make(&t);
	boot_test_accepted(&t);
	assert_int_equal(t.state.mode, BOOT_LONG64);
	assert_string_equal(t.state.protocol, "bzImage");
	assert_int_equal(t.state.rip, LOAD + 0x200);
	assert_int_equal(t.state.kernel_start, LOAD);
	assert_int_equal(t.state.kernel_end, LOAD + INIT);
	assert_int_equal(t.state.cr0, 0x80000011);
	assert_int_equal(t.state.cr4, 0x20);
	assert_int_equal(t.state.efer, 0x500);
	assert_int_equal(t.state.rflags, 2);

	assert_memory_equal(guest(&t, LOAD, PAYLOAD), t.kernel + SETUP, PAYLOAD);
	assert_true(all_zero(guest(&t, LOAD + PAYLOAD, INIT - PAYLOAD), INIT - PAYLOAD));

	bp = (const void *)guest(&t, t.state.rsi, sizeof(*bp));
	assert_true(all_zero((const u8 *)bp, 0x70)); /* no display */
	assert_int_equal(bp->acpi_rsdp_addr, t.state.rsdp);
	assert_int_equal(bp->sentinel, 0);
	assert_int_equal(bp->hdr.header, 0x53726448);
	assert_int_equal(bp->hdr.type_of_loader, 0xff);
	assert_int_equal(bp->hdr.loadflags, LOADED_HIGH);
	assert_int_equal(bp->hdr.setup_data, 0);
	assert_int_equal(bp->hdr.init_size, INIT);
	assert_int_equal(bp->hdr.ramdisk_image, 0);
	assert_int_equal(bp->hdr.ramdisk_size, 0);
	assert_string_equal((char *)guest(&t, bp->hdr.cmd_line_ptr, 64), "console=ttyS0 one two");

	/* Segments: 64-bit code and flat data at the protocol's selectors. */
	gdt = (u64 *)guest(&t, t.state.gdt_base, t.state.gdt_limit + 1ul);
	assert_int_equal(t.state.cs, 0x10);
	assert_int_equal(t.state.ds, 0x18);
	assert_int_equal(gdt[2], 0x00af9b000000ffff);
	assert_int_equal(gdt[3], 0x00cf93000000ffff);

	/* The page tables map the first 4 GiB to themselves. */
	for (u64 gva = 0; gva < 4 * GiB; gva += 2 * MiB) {
		pt = (u64 *)guest(&t, t.state.cr3, 4096);
		assert_int_equal(pt[gva >> 39] & 0xfff, 3);
		pt = (u64 *)guest(&t, pt[gva >> 39] & PAGE_MASK, 4096);
		assert_int_equal(pt[gva >> 30 & 511] & 0xfff, 3);
		pt = (u64 *)guest(&t, pt[gva >> 30 & 511] & PAGE_MASK, 4096);
		assert_int_equal(pt[gva >> 21 & 511], gva | 0x83);
	}
	boot_test_done(&t);
}

/* Without a 64-bit entry: the first byte, in protected mode with flat segments. */
static void test_entry_32(void **unused)
{
	struct setup_header *h;
	struct boot_test t;
	const u64 *gdt;

	for (unsigned version = 0x20a; version <= 0x20f; version += 5) {
		make(&t);
		h = (struct setup_header *)(t.kernel + 0x1f1);
		h->version = (u16)version;
		h->xloadflags =
			version < 0x20c ? XLF_KERNEL_64 : 0; /* the older has no such field */
		boot_test_accepted(&t);
		assert_int_equal(t.state.mode, BOOT_PROT32);
		assert_int_equal(t.state.rip, LOAD);
		assert_int_equal(t.state.cr0, 0x11);
		assert_int_equal(t.state.efer, 0);
		assert_int_equal(t.state.rbx, 0);
		assert_int_equal(t.state.cs, 0x10);
		assert_int_equal(t.state.ds, 0x18);
		gdt = (const u64 *)guest(&t, t.state.gdt_base, t.state.gdt_limit + 1ul);
		assert_int_equal(gdt[2], 0x00cf9b000000ffff);
		assert_string_equal(
			(char *)guest(&t, get_le32(guest(&t, t.state.rsi + 0x228, 4)), 64),
			"console=ttyS0 one two");
		boot_test_done(&t);
	}
}

/* syssize counts paragraphs of 16 bytes: a file may lack up to 15 of what it says. */
static void test_short_tail(void **unused)
{
	struct boot_test t;

	make(&t);
	t.kernel_size -= 15;
	boot_test_accepted(&t);
	assert_memory_equal(guest(&t, LOAD, PAYLOAD - 15), t.kernel + SETUP, PAYLOAD - 15);
	assert_true(all_zero(guest(&t, LOAD + PAYLOAD - 15, 15), 15));
	boot_test_done(&t);
}

static void check_e820(const struct boot_e820_entry *e, u64 addr, u64 end, u32 type)
{
	assert_int_equal(e->addr, addr);
	assert_int_equal(e->addr + e->size, end);
	assert_int_equal(e->type, type);
}

static void test_e820(void **unused)
{
	struct boot_test t;
	const struct boot_params *bp;

	make(&t);
	boot_test_accepted(&t);
	bp = (const void *)guest(&t, t.state.rsi, sizeof(*bp));
	assert_int_equal(bp->e820_entries, 4);
	check_e820(&bp->e820_table[0], 0, 0x9fc00, 1);
	check_e820(&bp->e820_table[1], 0x9fc00, 0xa0000, 2);
	check_e820(&bp->e820_table[2], 0xf0000, 0x100000, 2);
	check_e820(&bp->e820_table[3], 0x100000, TEST_RAM, 1);

	t.ram_size = 8 * GiB; /* goes on behind the PCI hole */
	boot_test_initrd(&t, 5000);
	boot_test_accepted(&t);
	bp = (const void *)guest(&t, t.state.rsi, sizeof(*bp));
	assert_int_equal(bp->e820_entries, 5);
	check_e820(&bp->e820_table[3], 0x100000, PCI_HOLE_START, 1);
	check_e820(&bp->e820_table[4], 4 * GiB, 9 * GiB, 1);
	/* Below initrd_addr_max, though there is memory above. */
	assert_int_equal(t.state.initrd_start, 0x7fffffff - 0x1fff);
	boot_test_done(&t);
}

static void test_initrd(void **unused)
{
	static const u64 size[] = {1, 4095, 4096, 4097, 3 * MiB + 5};

	for (size_t i = 0; i < ARRAY_SIZE(size); i++) {
		struct boot_test t;
		const struct boot_params *bp;

		make(&t);
		boot_test_initrd(&t, size[i]);
		boot_test_accepted(&t);
		bp = (const void *)guest(&t, t.state.rsi, sizeof(*bp));
		assert_int_equal(bp->hdr.ramdisk_image, t.state.initrd_start);
		assert_int_equal(bp->hdr.ramdisk_size, size[i]);
		assert_int_equal(t.state.initrd_start, (TEST_RAM - size[i]) & PAGE_MASK);
		assert_memory_equal(guest(&t, t.state.initrd_start, size[i]), t.initrd, size[i]);
		boot_test_done(&t);
	}
}

static void test_initrd_limits(void **unused)
{
	struct boot_test t;
	u64 room = TEST_RAM - LOAD - INIT;

	make(&t);
	boot_test_initrd(&t, room); /* exactly fits */
	boot_test_accepted(&t);
	assert_int_equal(t.state.initrd_start, LOAD + INIT);
	boot_test_initrd(&t, room + 1);
	boot_test_refused(&t, "one byte too many", -ENOSPC, "try -m 66M");
	boot_test_done(&t);

	make(&t);
	put_le32(t.kernel + HDR(initrd_addr_max), (u32)(LOAD + INIT + 0x4fff));
	boot_test_initrd(&t, 0x5000);
	boot_test_accepted(&t);
	boot_test_initrd(&t, 0x5001);
	boot_test_refused(&t, "initrd_addr_max", -ENOSPC, "below the address 0x1804fff");
	put_le32(t.kernel + HDR(initrd_addr_max), 0);
	boot_test_refused(&t, "initrd_addr_max 0", -ENOSPC, "below the address 0x0");
	boot_test_done(&t);
}

static void test_cmdline(void **unused)
{
	struct boot_test t;
	char line[2049];

	make(&t);
	memset(line, 'x', sizeof(line));
	line[2047] = 0;
	t.cmdline = line;
	boot_test_accepted(&t);
	assert_string_equal((char *)guest(&t, 0x89000, 2048), line);
	line[2047] = 'x';
	line[2048] = 0;
	boot_test_refused(&t, "2048 bytes", -EINVAL, "takes 2047; shorten it");
	t.cmdline = NULL;
	boot_test_accepted(&t);
	assert_string_equal((char *)guest(&t, 0x89000, 1), "");
	boot_test_done(&t);
}

/* The cmdline of the loader, not of the kernel, is the limit when the kernel has none. */
static void test_cmdline_huge(void **unused)
{
	struct boot_test t;
	char *line = malloc(70000);

	make(&t);
	put_le32(t.kernel + HDR(cmdline_size), 0xffffffff);
	memset(line, 'x', 70000);
	line[69999] = 0;
	t.cmdline = line;
	boot_test_refused(&t, "70000 bytes", -EINVAL, "64 KiB");
	line[60000] = 0;
	boot_test_accepted(&t);
	boot_test_done(&t);
	free(line);
}

/* Without a preferred address a relocatable kernel goes to the first aligned one from 1 MiB on. */
static void test_relocate(void **unused)
{
	struct boot_test t;

	make(&t);
	put_le64(t.kernel + HDR(pref_address), 0);
	boot_test_accepted(&t);
	assert_int_equal(t.state.kernel_start, 0x200000);
	put_le32(t.kernel + HDR(kernel_alignment), 0x1000);
	boot_test_accepted(&t);
	assert_int_equal(t.state.kernel_start, 0x100000);
	assert_int_equal(t.state.rip, 0x100200);
	boot_test_done(&t);
}

/* setup_sects 0 means 4, and bytes behind the payload (a signature) are not loaded. */
static void test_odd_but_valid(void **unused)
{
	struct boot_test t;

	make(&t);
	t.kernel[HDR(setup_sects)] = 0;
	put_le32(t.kernel + HDR(syssize), PAYLOAD / 16 - 1);
	boot_test_accepted(&t);
	assert_memory_equal(guest(&t, LOAD, PAYLOAD - 16), t.kernel + SETUP, PAYLOAD - 16);
	assert_true(all_zero(guest(&t, LOAD + PAYLOAD - 16, 16), 16));
	boot_test_done(&t);
}

static void test_memory(void **unused)
{
	struct boot_test t;

	make(&t);
	t.ram_size = 24 * MiB; /* exactly */
	boot_test_accepted(&t);
	t.ram_size = 22 * MiB;
	boot_test_refused(&t, "22 MiB", -ENOSPC, "needs memory up to 24 MiB, the machine has 22");
	t.ram_size = 2 * MiB;
	boot_test_refused(&t, "2 MiB", -ENOSPC, "try -m 24M");
	boot_test_done(&t);
}

static void test_cpus(void **unused)
{
	struct boot_test t;

	make(&t);
	t.nr_cpus = BOOT_MAX_CPUS;
	boot_test_accepted(&t);
	t.nr_cpus = BOOT_MAX_CPUS + 1;
	boot_test_refused(&t, "65 CPUs", -EINVAL, "1 to 64");
	t.nr_cpus = 0;
	boot_test_refused(&t, "0 CPUs", -EINVAL, "1 to 64");
	boot_test_done(&t);
}

static void test_damaged(void **unused)
{
	static const struct damage d[] = {
		{"cut in setup", 0, 0, 0x400, -EINVAL, "truncated"},
		{"cut in header", 0, 0, 0x220, -EINVAL, "cut off"},
		{"cut behind magic", 0, 0, 0x206, -EINVAL, "cut off"},
		{"no payload", 0, 0, SETUP, -EINVAL, "truncated"},
		{"cut by 16 bytes", 0, 0, SETUP + PAYLOAD - 16, -EINVAL,
	         "promises 14848 bytes, the file has 14832"},
		{"setup_sects 255", HDR(setup_sects), 1, 255, -EINVAL, "truncated"},
		{"syssize 0", HDR(syssize), 4, 0, -EINVAL, "no kernel behind it"},
		{"syssize small", HDR(syssize), 4, 0x20, -EINVAL, "no kernel behind it"},
		{"syssize max", HDR(syssize), 4, 0xffffffff, -EINVAL, "truncated"},
		{"header too long", 0x201, 1, 0xff, -EINVAL, "setup header is too long"},
		{"header too short", 0x201, 1, 0x20, -EINVAL, "kernel_alignment"},
		{"old protocol", HDR(version), 2, 0x0204, -EINVAL, "protocol 2.04"},
		{"protocol 0", HDR(version), 2, 0, -EINVAL, "protocol 0.00"},
		{"before 2.10", HDR(version), 2, 0x0209, -EINVAL, "without a BIOS"},
		{"zImage", HDR(loadflags), 1, 0, -EINVAL, "without a BIOS"},
		{"alignment 0", HDR(kernel_alignment), 4, 0, -EINVAL, "kernel_alignment"},
		{"alignment odd", HDR(kernel_alignment), 4, 0x300000, -EINVAL, "kernel_alignment"},
		{"init_size 0", HDR(init_size), 4, 0, -EINVAL, "init_size"},
		{"init_size small", HDR(init_size), 4, PAYLOAD - 1, -EINVAL, "init_size"},
		{"init_size max", HDR(init_size), 4, 0xffffffff, -EINVAL, "first 3 GiB"},
		{"init_size 100 MiB", HDR(init_size), 4, 100 << 20, -ENOSPC, "try -m 116M"},
		{"address max", HDR(pref_address), 8, ~0ull, -EINVAL, "first 3 GiB"},
		{"address wraps", HDR(pref_address), 8, 0ull - PAYLOAD, -EINVAL, "first 3 GiB"},
		{"address in the hole", HDR(pref_address), 8, 0xfee00000, -EINVAL, "first 3 GiB"},
		{"address above 4 GiB", HDR(pref_address), 8, 4 * GiB, -EINVAL, "first 3 GiB"},
		{"no magic", 0x202, 4, 0, -ENOEXEC, "boot sector"},
		{"no boot flag", 0x1fe, 2, 0, -ENOEXEC, "no bzImage"},
	};
	struct boot_test t;

	check_damage(d, ARRAY_SIZE(d), make);

	make(&t);
	put_le64(t.kernel + HDR(pref_address), 0x80000);
	t.kernel[HDR(relocatable_kernel)] = 0;
	boot_test_refused(&t, "fixed below 1 MiB", -EINVAL, "below 1 MiB");
	put_le64(t.kernel + HDR(pref_address), 0);
	t.kernel[HDR(relocatable_kernel)] = 1;
	put_le32(t.kernel + HDR(kernel_alignment), 0x80000000);
	boot_test_refused(&t, "alignment 2 GiB", -ENOSPC, "needs memory up to 2056 MiB");
	boot_test_done(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_state),    cmocka_unit_test(test_e820),
		cmocka_unit_test(test_initrd),   cmocka_unit_test(test_initrd_limits),
		cmocka_unit_test(test_cmdline),  cmocka_unit_test(test_cmdline_huge),
		cmocka_unit_test(test_relocate), cmocka_unit_test(test_odd_but_valid),
		cmocka_unit_test(test_memory),   cmocka_unit_test(test_cpus),
		cmocka_unit_test(test_entry_32), cmocka_unit_test(test_short_tail),
		cmocka_unit_test(test_damaged),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
