// SPDX-License-Identifier: MIT
/* Nothing but arithmetic: no list is looked at beyond `nr`, no buffer beyond its length. */
#include "base/iov.h"

#include <string.h>

u64 iov_total(const struct iovec *v, unsigned nr)
{
	u64 sum = 0;

	for (unsigned i = 0; i < nr; i++)
		if (__builtin_add_overflow(sum, v[i].iov_len, &sum))
			return ~0ull;
	return sum;
}

/* The next piece at v[*i] + *skip, of `len` bytes at most; both go on behind it. false: the end. */
static bool next_piece(const struct iovec *v, unsigned nr, unsigned *i, u64 *skip, u64 len,
                       struct iovec *piece)
{
	while (*i < nr && *skip >= v[*i].iov_len)
		*skip -= v[(*i)++].iov_len;
	if (*i == nr || !len)
		return false;
	piece->iov_base = (u8 *)v[*i].iov_base + *skip;
	piece->iov_len = MIN(v[*i].iov_len - *skip, len);
	*skip += piece->iov_len;
	return true;
}

unsigned iov_slice(const struct iovec *v, unsigned nr, u64 skip, u64 len, struct iovec *out,
                   unsigned max)
{
	unsigned i = 0, used = 0;

	while (used < max && next_piece(v, nr, &i, &skip, len, &out[used]))
		len -= out[used++].iov_len;
	return used;
}

size_t iov_read(const struct iovec *v, unsigned nr, u64 skip, void *buf, size_t len)
{
	struct iovec p;
	size_t done = 0;

	for (unsigned i = 0; next_piece(v, nr, &i, &skip, len - done, &p); done += p.iov_len)
		memcpy((u8 *)buf + done, p.iov_base, p.iov_len);
	return done;
}

size_t iov_write(const struct iovec *v, unsigned nr, u64 skip, const void *buf, size_t len)
{
	struct iovec p;
	size_t done = 0;

	for (unsigned i = 0; next_piece(v, nr, &i, &skip, len - done, &p); done += p.iov_len)
		memcpy(p.iov_base, (const u8 *)buf + done, p.iov_len);
	return done;
}

size_t iov_fill(const struct iovec *v, unsigned nr, u64 skip, u8 byte, size_t len)
{
	struct iovec p;
	size_t done = 0;

	for (unsigned i = 0; next_piece(v, nr, &i, &skip, len - done, &p); done += p.iov_len)
		memset(p.iov_base, byte, p.iov_len);
	return done;
}
