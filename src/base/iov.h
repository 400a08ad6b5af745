/* SPDX-License-Identifier: MIT */
/* Lists of buffers as readv() has them. Stateless; any thread. `skip` counts bytes from the list's
 * start; what reaches beyond its end is left out. */
#pragma once

#include <sys/uio.h>

#include "base/types.h"

/* Bytes in it; ~0 when they don't fit. */
u64 iov_total(const struct iovec *v, unsigned nr);
/* The part [skip, skip + len) as a list of its own, of at most `max` entries: how many. */
unsigned iov_slice(const struct iovec *v, unsigned nr, u64 skip, u64 len, struct iovec *out,
                   unsigned max);
/* Copy out of it, or into it, or fill it; how many bytes there were. */
size_t iov_read(const struct iovec *v, unsigned nr, u64 skip, void *buf, size_t len);
size_t iov_write(const struct iovec *v, unsigned nr, u64 skip, const void *buf, size_t len);
size_t iov_fill(const struct iovec *v, unsigned nr, u64 skip, u8 byte, size_t len);
