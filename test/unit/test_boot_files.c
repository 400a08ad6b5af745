// SPDX-License-Identifier: MIT
/* What is wrong before any loader looks: files that are not there or are something else. And
 * what all loaders share: a load that can be repeated, and the BIOS data area. */
#include "boot_test.h"

#include <asm/bootparam.h>
#include <fcntl.h>
#include <sys/stat.h>

static char dir[] = "/tmp/ringer-boot-XXXXXX";

static const char *file(const char *name, const void *bytes, size_t size)
{
	static char path[256];
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	f = fopen(path, "w");
	assert_non_null(f);
	fwrite(bytes, 1, size, f);
	fclose(f);
	return path;
}

/* The smallest kernel: a multiboot header with addresses, loaded to 2 MiB. */
static void kernel_bytes(u32 k[64])
{
	memset(k, 0, 64 * 4);
	k[0] = 0x1badb002;
	k[1] = 0x10000;
	k[2] = 0u - k[0] - k[1];
	k[3] = k[4] = k[7] = 0x200000;
}

static void refused(const char *kernel, const char *initrd, int err, const char *what)
{
	struct boot_config cfg = {.kernel = kernel, .initrd = initrd, .nr_cpus = 1};
	struct boot_image *img = NULL;
	char message[4096];
	int saved, fd = capture_begin(&saved);
	int got = boot_image_open(&img, &cfg);

	capture_end(fd, saved, message, sizeof(message));
	if (got != err)
		fail_msg("%s: returned %d, not %d: '%s'", kernel, got, err, message);
	check_message(kernel, message, what);
	assert_null(img);
}

static void test_open_errors(void **unused)
{
	char path[256], good[256];
	u32 k[64];

	kernel_bytes(k);
	strcpy(good, file("kernel", k, sizeof(k)));
	refused("/nonexistent/vmlinuz", NULL, -ENOENT, "No such file");
	refused("", NULL, -ENOENT, "the path is empty");
	refused(dir, NULL, -EISDIR, "is a directory");
	refused("/dev/null", NULL, -EINVAL, "not a regular file");
	refused(file("empty", "", 0), NULL, -EINVAL, "is empty");
	snprintf(path, sizeof(path), "%s/kernel/x", dir);
	refused(path, NULL, -ENOTDIR, "Not a directory");
	snprintf(path, sizeof(path), "%s/fifo", dir);
	assert_int_equal(mkfifo(path, 0600), 0);
	refused(path, NULL, -EINVAL, "not a regular file"); /* at once, without a writer */
	strcpy(path, file("huge", "x", 1));
	assert_int_equal(truncate(path, 5ll << 30), 0);
	refused(path, NULL, -EFBIG, "larger than 4 GiB");

	refused(good, "/nonexistent/initrd", -ENOENT, "initrd /nonexistent/initrd");
	refused(good, dir, -EISDIR, "is a directory");
	refused(good, file("empty", "", 0), -EINVAL, "is empty");

	if (geteuid() == 0)
		return; /* root may read everything */
	strcpy(path, file("secret", "x", 1));
	assert_int_equal(chmod(path, 0), 0);
	refused(path, NULL, -EACCES, "Permission denied; make it readable");
}

static void test_foreign(void **unused)
{
	static const struct {
		u32 offset;
		const char *bytes;
		u32 size;
		const char *what;
	} f[] = {
		{0x38, "ARM\x64", 4, "arm64"},
		{0x24, "\x18\x28\x6f\x01", 4, "32-bit ARM"},
		{0x38, "RSC\x05", 4, "RISC-V"},
		{0, "\x27\x05\x19\x56", 4, "uImage"},
		{0, "\xd0\x0d\xfe\xed", 4, "FIT"},
		{0, "\x1f\x8b\x08", 3, "gunzip"},
		{0, "\xfd\x37zXZ\0", 6, "xz -dc"},
		{0, "BZh9", 4, "bunzip2"},
		{0, "\x28\xb5\x2f\xfd", 4, "zstd -dc"},
		{0, "\x02\x21\x4c\x18", 4, "lz4 -dc"},
		{0, "\x04\x22\x4d\x18", 4, "lz4 -dc"},
		{0, "070701", 6, "initramfs"},
		{0, "\xc7\x71", 2, "cpio"},
		{0, "!<arch>\n", 8, "dpkg-deb -x"},
		{0, "QFI\xfb", 4, "qcow2"},
		{0x8001, "CD001", 5, "ISO 9660"},
		{0, "#!/bin/sh", 9, "script"},
		{0, "MZ\0\0zimg", 8, "zboot"},
		{0, "MZ", 2, "objcopy -O binary -j .linux"},
		{0x1fe, "\x55\xaa", 2, "boot sector"},
		{0, "hello", 5, "no bzImage, no ELF kernel"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(f); i++) {
		u8 *bytes = calloc(1, f[i].offset + f[i].size);

		memcpy(bytes + f[i].offset, f[i].bytes, f[i].size);
		refused(file("foreign", bytes, f[i].offset + f[i].size), NULL, -ENOEXEC, f[i].what);
		/* Cut inside its magic it is nothing known, and nothing is read behind the end. */
		if (f[i].size > 2 && i + 1 < ARRAY_SIZE(f))
			refused(file("foreign", bytes, f[i].offset + 1), NULL, -ENOEXEC,
			        "no bzImage, no ELF kernel");
		free(bytes);
	}
}

/* Files that are overwritten in place are no longer what the machine was started with. */
static void test_changed(void **unused)
{
	struct boot_config cfg = {.nr_cpus = 1};
	struct boot_state state;
	struct boot_image *img;
	struct pmap *pmap;
	char kernel[256], initrd[256];
	u32 k[64];

	kernel_bytes(k);
	strcpy(kernel, file("kernel", k, sizeof(k)));
	cfg.kernel = kernel;
	cfg.initrd = initrd;
	assert_int_equal(pmap_create(&pmap, 4 * MiB), 0);
	for (unsigned cut = 0; cut < 2; cut++) {
		strcpy(initrd, file("initrd", "some bytes", 10));
		assert_int_equal(boot_image_open(&img, &cfg), 0);
		assert_int_equal(boot_image_load(img, pmap, &state), 0);
		if (cut) {
			assert_int_equal(truncate(initrd, 5), 0);
		} else {
			struct timespec t[2] = {{.tv_sec = 1}, {.tv_sec = 1}};

			assert_int_equal(utimensat(AT_FDCWD, initrd, t, 0), 0);
		}
		assert_int_equal(boot_image_load(img, pmap, &state), -ESTALE);
		boot_image_close(img);
	}
	pmap_destroy(pmap);
}

/* A machine reset: the file is gone, memory is garbage, and the second load is like the first. */
static void test_reload(void **unused)
{
	struct boot_config cfg = {.nr_cpus = 2, .cmdline = "a b"};
	struct boot_image *img;
	struct boot_state first, second;
	struct pmap *pmap;
	char kernel[256], initrd[256];
	u8 *copy;
	u32 k[64];

	kernel_bytes(k);
	strcpy(kernel, file("kernel", k, sizeof(k)));
	strcpy(initrd, file("initrd", "some bytes", 10));
	cfg.kernel = kernel;
	cfg.initrd = initrd;
	assert_int_equal(boot_image_open(&img, &cfg), 0);
	assert_int_equal(unlink(kernel), 0);
	assert_int_equal(unlink(initrd), 0);
	cfg.cmdline = NULL; /* the image has its own copy */

	assert_int_equal(pmap_create(&pmap, 4 * MiB), 0);
	assert_int_equal(boot_image_load(img, pmap, &first), 0);
	copy = malloc(4 * MiB);
	memcpy(copy, pmap->hva, 4 * MiB);
	/* Guest code that was decoded meanwhile must be noticed as changed. */
	pmap->code_ver[first.rip >> PAGE_SHIFT] = PMAP_CODE_MARKED | PMAP_CODE_SETTLED;
	memset(pmap->hva + first.kernel_start, 0xcc, 256);
	memset(pmap->hva + 0x80000, 0xcc, 0x19000);
	memset(pmap->hva + 0xf0000, 0xcc, 0x10000);
	memset(pmap->hva + first.initrd_start, 0xcc, 10);
	memset(pmap->hva, 0xcc, 0x500);
	assert_int_equal(boot_image_load(img, pmap, &second), 0);
	assert_int_equal(pmap->code_ver[first.rip >> PAGE_SHIFT] & PMAP_CODE_MARKED, 0);
	/* Only what the loader put there counts, not the rest of its area. */
	assert_memory_equal(pmap->hva, copy, 0x500);
	assert_memory_equal(pmap->hva + 0x86000, copy + 0x86000, first.gdt_limit + 1u);
	assert_memory_equal(pmap->hva + 0x87000, copy + 0x87000, 88);
	assert_string_equal((char *)pmap->hva + 0x89000, (char *)copy + 0x89000);
	assert_memory_equal(pmap->hva + 0xf0000, copy + 0xf0000, 0x10000);
	assert_memory_equal(pmap->hva + 0x200000, copy + 0x200000, 0x200000);
	assert_memory_equal(&first, &second, sizeof(first));
	free(copy);
	boot_image_close(img);
	pmap_destroy(pmap);
}

static void test_bios_data(void **unused)
{
	struct boot_config cfg = {.nr_cpus = 1};
	struct boot_state state;
	struct pmap *pmap;
	u32 k[64];

	kernel_bytes(k);
	cfg.kernel = file("kernel", k, sizeof(k));
	assert_int_equal(pmap_create(&pmap, 4 * MiB), 0);
	assert_int_equal(boot_load(&cfg, pmap, &state), 0);
	assert_int_equal(get_le16(pmap->hva + 0x400), 0x3f8);
	assert_int_equal(get_le16(pmap->hva + 0x40e), 0x9fc0);
	assert_int_equal(get_le16(pmap->hva + 0x413), 639);
	assert_int_equal(pmap->hva[0x9fc00], 1);
	/* Each vector leads to an IRET, those of the 8259s by way of an EOI to the right ones;
	 * f000:fff0 writes 6 to port 0xcf9. */
	for (unsigned i = 0; i < 256; i++) {
		u32 v = get_le32(pmap->hva + i * 4);
		const u8 *code = pmap->hva + (v >> 16) * 16 + (v & 0xffff);

		if (i >= 0x08 && i < 0x10)
			assert_memory_equal(code, "\x50\xb0\x20\xe6\x20\x58\xcf", 7);
		else if (i >= 0x70 && i < 0x78)
			assert_memory_equal(code, "\x50\xb0\x20\xe6\xa0\xe6\x20\x58\xcf", 9);
		else
			assert_int_equal(*code, 0xcf);
	}
	assert_memory_equal(pmap->hva + 0xffff0, "\xba\xf9\x0c\xb0\x06\xee", 6);
	/* The ACPI tables are neither overwritten nor behind the code. */
	assert_memory_equal(pmap->hva + state.rsdp, "RSD PTR ", 8);
	pmap_destroy(pmap);
}

static int setup(void **unused)
{
	return mkdtemp(dir) ? 0 : -1;
}

static int teardown(void **unused)
{
	char command[256];

	snprintf(command, sizeof(command), "rm -rf %s", dir);
	return system(command);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_open_errors), cmocka_unit_test(test_foreign),
		cmocka_unit_test(test_changed),     cmocka_unit_test(test_reload),
		cmocka_unit_test(test_bios_data),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
