// SPDX-License-Identifier: MIT
/* fw_cfg against QEMU's specification, hostile DMA included. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <endian.h>

#include "devtest.h"
#include "dev/fwcfg.h"

#define RAM (16 * MiB)

struct st {
	struct devtest t;
	struct fwcfg *f;
};

static int setup(void **state)
{
	struct st *st = calloc(1, sizeof(*st));
	struct fwcfg_config cfg = {.nr_vcpus = 3, .max_vcpus = 8};

	devtest_init(&st->t, RAM);
	if (fwcfg_create(&st->f, &st->t.env, &cfg))
		return -1;
	*state = st;
	return 0;
}

static int teardown(void **state)
{
	struct st *st = *state;

	devtest_fini(&st->t);
	free(st);
	return 0;
}

static u64 item(struct st *st, u16 key, unsigned bytes)
{
	u64 v = 0;

	outw(&st->t, 0x510, key);
	for (unsigned i = 0; i < bytes; i++)
		v |= (u64)inb(&st->t, 0x511) << (i * 8);
	return v;
}

/* Runs one DMA operation by a descriptor at `at`; returns the control word. */
static u32 dma(struct st *st, gpa_t at, u32 control, u32 len, gpa_t addr)
{
	u32 c = htobe32(control), l = htobe32(len);
	u64 a = htobe64(addr);

	assert_int_equal(pmap_write(st->t.pmap, at, &c, 4), 0);
	assert_int_equal(pmap_write(st->t.pmap, at + 4, &l, 4), 0);
	assert_int_equal(pmap_write(st->t.pmap, at + 8, &a, 8), 0);
	outl(&st->t, 0x514, htobe32((u32)(at >> 32)));
	outl(&st->t, 0x518, htobe32((u32)at));
	pmap_read(st->t.pmap, at, &c, 4);
	return be32toh(c);
}

static void test_numeric_items(void **state)
{
	struct st *st = *state;

	assert_int_equal(item(st, FWCFG_SIGNATURE, 4), get_le32("QEMU"));
	assert_int_equal(item(st, FWCFG_ID, 4), 3);
	assert_int_equal(item(st, FWCFG_RAM_SIZE, 8), RAM);
	assert_int_equal(item(st, FWCFG_NB_CPUS, 2), 3);
	assert_int_equal(item(st, FWCFG_MAX_CPUS, 2), 8);
	assert_int_equal(item(st, FWCFG_KERNEL_DATA, 8), 0);
	assert_int_equal(item(st, 0x3fff, 4), 0);
	assert_int_equal(item(st, 0xffff, 4), 0);
	assert_int_equal(fwcfg_add_u32(st->f, FWCFG_KERNEL_ADDR, 0x100000), 0);
	assert_int_equal(item(st, FWCFG_KERNEL_ADDR, 8), 0x100000); /* zeros after its end */
	assert_int_equal(fwcfg_add_u32(st->f, FWCFG_KERNEL_ADDR, 0x200000), 0);
	assert_int_equal(item(st, FWCFG_KERNEL_ADDR, 4), 0x200000);
	assert_int_equal(fwcfg_add_u16(st->f, FWCFG_IRQ0_OVERRIDE, 1), 0);
	assert_int_equal(item(st, 0x8002, 1), 1);
	assert_int_not_equal(fwcfg_add_u16(st->f, 0x3000, 1), 0);
	assert_int_not_equal(fwcfg_add_u16(st->f, 0x4003, 1), 0);
}

static void test_selector(void **state)
{
	struct st *st = *state;

	outw(&st->t, 0x510, FWCFG_SIGNATURE);
	assert_int_equal(inb(&st->t, 0x511), 'Q');
	assert_int_equal(inb(&st->t, 0x511), 'E');
	outb(&st->t, 0x511, 'x'); /* writes of data are dropped and do not move */
	assert_int_equal(inb(&st->t, 0x511), 'M');
	outb(&st->t, 0x510, FWCFG_ID); /* a byte selects nothing */
	assert_int_equal(inb(&st->t, 0x511), 'U');
	outw(&st->t, 0x510, FWCFG_SIGNATURE);
	st->t.devices->ops->reset(st->t.devices);
	assert_int_equal(inb(&st->t, 0x511), 'Q');
}

static void test_files(void **state)
{
	struct st *st = *state;
	char name[80];
	u8 entry[64];

	assert_int_equal(item(st, FWCFG_FILE_DIR, 4), 0);
	assert_int_equal(fwcfg_add_file(st->f, "etc/one", "1", 1), 0);
	assert_int_equal(fwcfg_add_file(st->f, "opt/org.example/two", "two!", 4), 0);
	assert_int_not_equal(fwcfg_add_file(st->f, "etc/one", "1", 1), 0);
	assert_int_not_equal(fwcfg_add_file(st->f, "", "1", 1), 0);
	memset(name, 'n', sizeof(name));
	name[56] = 0;
	assert_int_not_equal(fwcfg_add_file(st->f, name, "1", 1), 0);
	name[55] = 0;
	assert_int_equal(fwcfg_add_file(st->f, name, NULL, 0), 0);

	assert_int_equal(item(st, FWCFG_FILE_DIR, 4), htobe32(3));
	for (unsigned i = 0; i < 2; i++)
		for (unsigned k = 0; k < 64; k++)
			entry[k] = inb(&st->t, 0x511);
	assert_int_equal(be32toh(get_le32(entry)), 4);
	assert_int_equal(be16toh(get_le16(entry + 4)), 0x21);
	assert_string_equal((char *)entry + 8, "opt/org.example/two");
	assert_int_equal(item(st, 0x21, 4), get_le32("two!"));

	for (unsigned i = 3; i < FWCFG_MAX_FILES; i++) {
		snprintf(name, sizeof(name), "f%u", i);
		assert_int_equal(fwcfg_add_file(st->f, name, "", 0), 0);
	}
	assert_int_not_equal(fwcfg_add_file(st->f, "more", "", 0), 0);
}

static void test_dma_signature(void **state)
{
	struct st *st = *state;
	static const char sig[] = "QEMU CFG";

	for (unsigned i = 0; i < 8; i++)
		assert_int_equal(inb(&st->t, (u16)(0x514 + i)), sig[i]);
	assert_int_equal(inl(&st->t, 0x514), get_le32("QEMU"));
	assert_int_equal(inl(&st->t, 0x518), get_le32(" CFG"));
}

static void test_dma_read(void **state)
{
	struct st *st = *state;
	u8 data[300], got[310];

	for (unsigned i = 0; i < sizeof(data); i++)
		data[i] = (u8)(i * 7 + 1);
	assert_int_equal(fwcfg_add_bytes(st->f, FWCFG_KERNEL_DATA, data, sizeof(data)), 0);
	assert_int_equal(dma(st, 0x1000, FWCFG_KERNEL_DATA << 16 | 0x0a, 100, 0x2000), 0);
	pmap_read(st->t.pmap, 0x2000, got, 100);
	assert_memory_equal(got, data, 100);
	/* skip, then past the end: zeros */
	memset(got, 0xff, sizeof(got));
	pmap_write(st->t.pmap, 0x2000, got, sizeof(got));
	assert_int_equal(dma(st, 0x1000, 0x04, 50, 0), 0);
	assert_int_equal(dma(st, 0x1000, 0x02, 155, 0x2000), 0);
	pmap_read(st->t.pmap, 0x2000, got, 160);
	assert_memory_equal(got, data + 150, 150);
	for (unsigned i = 150; i < 160; i++)
		assert_int_equal(got[i], i < 155 ? 0 : 0xff);
	/* the data port goes on where DMA stopped */
	assert_int_equal(dma(st, 0x1000, FWCFG_KERNEL_DATA << 16 | 0x0c, 299, 0), 0);
	assert_int_equal(inb(&st->t, 0x511), data[299]);
	assert_int_equal(inb(&st->t, 0x511), 0);
	/* an item that is not there */
	assert_int_equal(dma(st, 0x1000, 0x3abcu << 16 | 0x0a, 4, 0x2000), 0);
	pmap_read(st->t.pmap, 0x2000, got, 4);
	assert_int_equal(get_le32(got), 0);
}

static void test_dma_hostile(void **state)
{
	struct st *st = *state;
	u8 before[16], after[16];

	pmap_read(st->t.pmap, 0, before, 16);
	/* into the VGA hole, over the end of RAM, everything, wrapping */
	assert_int_equal(dma(st, 0x1000, 0x0a, 4, 0x9fffe), 1);
	assert_int_equal(dma(st, 0x1000, 0x0a, 8, RAM - 4), 1);
	assert_int_equal(dma(st, 0x1000, 0x0a, 0xffffffff, 0), 1);
	assert_int_equal(dma(st, 0x1000, 0x0a, 32, ~0ull - 15), 1);
	assert_int_equal(dma(st, 0x1000, 0x0a, 4, 0x8000000000000000ull), 1);
	pmap_read(st->t.pmap, 0, after, 16);
	assert_memory_equal(before, after, 16);
	/* a lot of zeros behind the item, while everybody waits */
	pmap_write(st->t.pmap, 0x1bffff, "x", 1);
	assert_int_equal(dma(st, 0x1000, 0x0a, 0x100000, 0xc0000), 1);
	pmap_read(st->t.pmap, 0x1bffff, after, 1);
	assert_int_equal(after[0], 'x');
	/* writing an item */
	assert_int_equal(dma(st, 0x1000, 0x18, 4, 0x2000), 1);
	assert_int_equal(item(st, FWCFG_SIGNATURE, 4), get_le32("QEMU"));
	/* skipping does not wrap */
	assert_int_equal(dma(st, 0x1000, 0x0c, 0xffffffff, 0), 0);
	assert_int_equal(dma(st, 0x1000, 0x04, 0xffffffff, 0), 0);
	assert_int_equal(inb(&st->t, 0x511), 0);
	/* a descriptor that is not RAM, or half RAM: nothing happens */
	outl(&st->t, 0x514, htobe32(0x80000000));
	outl(&st->t, 0x518, htobe32(0));
	outl(&st->t, 0x514, 0);
	outl(&st->t, 0x518, htobe32((u32)RAM - 8));
	/* odd widths */
	outb(&st->t, 0x518, 1);
	outw(&st->t, 0x51a, 1);
	outl(&st->t, 0x516, 1);
	/* the descriptor is its own target: the status is written last */
	assert_int_equal(dma(st, 0x1000, 0x0a, 16, 0x1000), 0);
	/* a length of nothing anywhere is fine */
	assert_int_equal(dma(st, 0x1000, 0x0a, 0, ~0ull), 0);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_numeric_items), T(test_selector), T(test_files),
		T(test_dma_signature), T(test_dma_read), T(test_dma_hostile),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
