/* SPDX-License-Identifier: MIT */
/* Memory that the host may back by large pages (2 MiB). */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "base/types.h"

#define LARGE_SHIFT 21
#define LARGE_SIZE  ((size_t)1 << LARGE_SHIFT)

/* `size` bytes of private zeroed memory, not reserved, at a multiple of LARGE_SIZE; `prot` as for
 * mmap(2), which it fails like. NULL: errno. Given back by munmap() of `size`. */
void *large_map(size_t size, int prot);

/* One large page at `at`, a multiple of LARGE_SIZE in shared memory of which all LARGE_SIZE bytes
 * are mapped, whatever the host's settings say; what is there is kept. false: pages stay small (no
 * large page to be had, or Linux before 6.1). madvise(2), MADV_COLLAPSE. */
bool large_collapse(void *at);
