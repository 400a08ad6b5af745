/* SPDX-License-Identifier: MIT */
/* For the tests of the loaders: synthesized kernels, guest memory of 64 MiB, and the one line that
 * an error must print. */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "boot/boot.h"
#include "boot/image.h"
#include "mem/pmap.h"

#define TEST_RAM (64 * MiB)

struct boot_test {
	u8 *kernel;
	u64 kernel_size;
	u8 *initrd; /* NULL: none */
	u64 initrd_size;
	const char *cmdline;
	unsigned nr_cpus;
	u64 ram_size;
	struct pmap *pmap; /* made by boot_test_run() */
	struct boot_state state;
	char message[4096]; /* what was printed */
};

static inline void boot_test_init(struct boot_test *t, u64 kernel_size)
{
	memset(t, 0, sizeof(*t));
	t->kernel = calloc(1, kernel_size);
	t->kernel_size = kernel_size;
	t->cmdline = "console=ttyS0 one two";
	t->nr_cpus = 1;
	t->ram_size = TEST_RAM;
	assert_non_null(t->kernel);
}

static inline void boot_test_initrd(struct boot_test *t, u64 size)
{
	free(t->initrd);
	t->initrd = malloc(size);
	t->initrd_size = size;
	assert_non_null(t->initrd);
	for (u64 i = 0; i < size; i++)
		t->initrd[i] = (u8)(i * 7 + (i >> 8) + 1);
}

static inline void boot_test_done(struct boot_test *t)
{
	free(t->kernel);
	free(t->initrd);
	pmap_destroy(t->pmap);
	t->kernel = t->initrd = NULL;
	t->pmap = NULL;
}

/* Collect what goes to stderr between begin and end. */
static inline int capture_begin(int *saved)
{
	int fd = memfd_create("stderr", MFD_CLOEXEC);

	assert_true(fd >= 0);
	fflush(stderr);
	*saved = dup(STDERR_FILENO);
	dup2(fd, STDERR_FILENO);
	return fd;
}

static inline void capture_end(int fd, int saved, char *text, size_t size)
{
	ssize_t n = pread(fd, text, size - 1, 0);

	dup2(saved, STDERR_FILENO);
	close(saved);
	close(fd);
	text[n > 0 ? n : 0] = 0;
}

/* Open, load into memory full of 0xa5 below 16 MiB, as after another system, close. */
static inline int boot_test_run(struct boot_test *t)
{
	struct boot_config cfg = {
		.kernel = "KERNEL",
		.initrd = t->initrd ? "INITRD" : NULL,
		.cmdline = t->cmdline,
		.nr_cpus = t->nr_cpus,
	};
	struct boot_image *img = NULL;
	int saved, fd, err;

	pmap_destroy(t->pmap);
	t->pmap = NULL;
	assert_int_equal(pmap_create(&t->pmap, t->ram_size), 0);
	for (unsigned i = 0; i < t->pmap->nr_slots; i++)
		memset(t->pmap->slot[i].hva, 0xa5, MIN(t->pmap->slot[i].size, 16 * MiB));
	fd = capture_begin(&saved);
	err = boot_image_from_memory(&img, &cfg, t->kernel, t->kernel_size, t->initrd,
	                             t->initrd_size);
	if (!err) {
		err = boot_image_load(img, t->pmap, &t->state);
		boot_image_close(img);
	}
	capture_end(fd, saved, t->message, sizeof(t->message));
	return err;
}

/* One line, and `what` in it. */
static inline void check_message(const char *name, const char *message, const char *what)
{
	const char *end = strchr(message, '\n');

	if (strncmp(message, "ringer: error: ", 15) || !end || end[1])
		fail_msg("%s: not one line of error: '%s'", name, message);
	if (!strstr(message, what))
		fail_msg("%s: no '%s' in '%s'", name, what, message);
}

static inline void boot_test_refused(struct boot_test *t, const char *name, int err,
                                     const char *what)
{
	int got = boot_test_run(t);

	if (got != err)
		fail_msg("%s: returned %d, not %d: '%s'", name, got, err, t->message);
	check_message(name, t->message, what);
}

static inline void boot_test_accepted(struct boot_test *t)
{
	int got = boot_test_run(t);

	if (got || t->message[0])
		fail_msg("returned %d: '%s'", got, t->message);
}

static inline u8 *guest(const struct boot_test *t, gpa_t gpa, u64 len)
{
	u8 *p = pmap_ptr(t->pmap, gpa, len);

	if (!p)
		fail_msg("no memory at %llx", (unsigned long long)gpa);
	return p;
}

static inline bool all_zero(const u8 *p, u64 n)
{
	for (u64 i = 0; i < n; i++)
		if (p[i])
			return false;
	return true;
}

/* A damaged image: the valid one with `size` bytes (1, 2, 4, 8) at `offset` replaced; size 0 cuts
 * the file to `value` bytes. */
struct damage {
	const char *name;
	u64 offset;
	unsigned size;
	u64 value;
	int err;
	const char *what;
};

static inline void check_damage(const struct damage *d, size_t n, void (*make)(struct boot_test *t))
{
	for (size_t i = 0; i < n; i++) {
		struct boot_test t;

		make(&t);
		if (d[i].size)
			memcpy(t.kernel + d[i].offset, &d[i].value, d[i].size);
		else
			t.kernel_size = d[i].value;
		/* An exact heap block, so that ASan sees a read behind the end. */
		t.kernel = realloc(t.kernel, t.kernel_size);
		boot_test_refused(&t, d[i].name, d[i].err, d[i].what);
		boot_test_done(&t);
	}
}
