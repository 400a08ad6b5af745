// SPDX-License-Identifier: MIT
/* A BIOS image: where it lies, how the CPU starts, what firmware finds in fw_cfg. */
#include "boot_test.h"

#define SIZE (128 * KiB)

struct file {
	char name[56];
	u8 data[512];
	u32 len;
};

struct files {
	unsigned nr;
	struct file file[8];
};

static int add(void *arg, const char *name, const void *data, u32 len)
{
	struct files *fs = arg;
	struct file *f = &fs->file[fs->nr++];

	assert_true(fs->nr <= 8 && len <= sizeof(f->data));
	snprintf(f->name, sizeof(f->name), "%s", name);
	memcpy(f->data, data, len);
	f->len = len;
	return 0;
}

static const struct file *find(const struct files *fs, const char *name)
{
	for (unsigned i = 0; i < fs->nr; i++)
		if (!strcmp(fs->file[i].name, name))
			return &fs->file[i];
	fail_msg("no %s", name);
	return NULL;
}

static int run(u64 size, u8 first, u64 ram, struct files *fs, struct boot_state *out, char *message,
               size_t room)
{
	const struct boot_config cfg = {.firmware = "BIOS", .nr_cpus = 2};
	struct boot_image *img = NULL;
	struct pmap *pmap = NULL;
	u8 *bios = calloc(1, size + 1);
	int saved, fd, err;

	for (u64 i = 0; i < size; i++)
		bios[i] = (u8)(i ^ i >> 8);
	if (size >= 16)
		bios[size - 16] = first;
	memset(fs, 0, sizeof(*fs));
	assert_int_equal(pmap_create(&pmap, ram), 0);
	fd = capture_begin(&saved);
	err = boot_image_from_memory(&img, &cfg, bios, size, NULL, 0);
	capture_end(fd, saved, message, room);
	if (!err) {
		assert_int_equal(boot_image_load(img, pmap, out), 0);
		assert_memory_equal(pmap_ptr(pmap, MiB - size, size), bios, size);
		assert_int_equal(boot_firmware_files(img, pmap, add, fs), 0);
		/* The RSDP in the file is that of the tables. */
		assert_memory_equal(find(fs, "etc/acpi/rsdp")->data, pmap_ptr(pmap, out->rsdp, 36),
		                    36);
		assert_memory_equal(
			pmap_ptr(pmap, get_le64(find(fs, "etc/acpi/rsdp")->data + 24), 4), "XSDT",
			4);
		boot_image_close(img);
	}
	pmap_destroy(pmap);
	free(bios);
	return err;
}

static void check_e820(const struct file *f, unsigned n, u64 base, u64 size, u32 type)
{
	assert_true((n + 1) * 20 <= f->len);
	assert_int_equal(get_le64(f->data + n * 20), base);
	assert_int_equal(get_le64(f->data + n * 20 + 8), size);
	assert_int_equal(get_le32(f->data + n * 20 + 16), type);
}

static void test_start(void **unused)
{
	static struct files fs;
	struct boot_state st;
	char message[4096];

	for (u64 size = 64 * KiB; size <= 256 * KiB; size += 64 * KiB) {
		assert_int_equal(run(size, 0xea, TEST_RAM, &fs, &st, message, sizeof(message)), 0);
		assert_int_equal(st.mode, BOOT_REAL16);
		assert_int_equal(st.cs, 0xf000);
		assert_int_equal(st.rip, 0xfff0);
		assert_string_equal(st.protocol, "BIOS");
		assert_int_equal(st.rsdp, TEST_RAM - 64 * KiB);
	}
}

static void test_files(void **unused)
{
	static struct files fs;
	const struct file *f;
	struct boot_state st;
	char message[4096];

	assert_int_equal(run(SIZE, 0xea, 6 * GiB, &fs, &st, message, sizeof(message)), 0);
	f = find(&fs, "etc/e820");
	check_e820(f, 0, 0, 3 * GiB - 64 * KiB, 1);
	check_e820(f, 1, 3 * GiB - 64 * KiB, 64 * KiB, 2);
	check_e820(f, f->len / 20 - 1, 4 * GiB, 3 * GiB, 1);
	f = find(&fs, "etc/table-loader");
	assert_int_equal(f->len, 128);
	assert_int_equal(get_le32(f->data), 1);
	assert_string_equal((const char *)f->data + 4, "etc/acpi/rsdp");
	assert_int_equal(get_le32(f->data + 60), 16);
	assert_int_equal(f->data[64], 2);
	f = find(&fs, "etc/sercon-port");
	assert_int_equal(f->len, 2);
	assert_int_equal(get_le16(f->data), 0x3f8);
}

static void test_refused(void **unused)
{
	static const struct {
		u64 size;
		u8 first;
		const char *what;
	} bad[] = {
		{0, 0, "has 0 bytes"},
		{SIZE - 1, 0xea, "64, 128, 192 or 256 KiB"},
		{512 * KiB, 0xea, "UEFI firmware is not supported"},
		{SIZE, 0x00, "no jump 16 bytes before its end"},
	};
	static struct files fs;
	struct boot_state st;
	char message[4096];

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		assert_int_equal(run(bad[i].size, bad[i].first, TEST_RAM, &fs, &st, message,
		                     sizeof(message)),
		                 -EINVAL);
		check_message(bad[i].what, message, bad[i].what);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_start),
		cmocka_unit_test(test_files),
		cmocka_unit_test(test_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
