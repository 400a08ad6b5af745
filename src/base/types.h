/* SPDX-License-Identifier: MIT */
/* Fixed-width names, address types and the few macros that everything uses.
 * Stateless; any thread. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int8_t s8;
typedef int16_t s16;
typedef int32_t s32;
typedef int64_t s64;

typedef u64 gva_t; /* guest virtual (linear) address */
typedef u64 gpa_t; /* guest physical address */

#define PAGE_SHIFT 12
#define PAGE_SIZE  4096ul
#define PAGE_MASK  (~(u64)(PAGE_SIZE - 1))

#define likely(x)   __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

#define ARRAY_SIZE(a)         (sizeof(a) / sizeof((a)[0]))
#define ALIGN_UP(x, a)        (((x) + ((a)-1)) & ~((__typeof__(x))(a)-1))
#define ALIGN_DOWN(x, a)      ((x) & ~((__typeof__(x))(a)-1))
#define BIT(n)                (1ull << (n))
#define container_of(p, t, m) ((t *)((char *)(p)-offsetof(t, m)))

#define KiB (1ull << 10)
#define MiB (1ull << 20)
#define GiB (1ull << 30)

#define MIN(a, b)                                                                                  \
	({                                                                                         \
		__typeof__(a) min_a = (a);                                                         \
		__typeof__(b) min_b = (b);                                                         \
		min_a < min_b ? min_a : min_b;                                                     \
	})
#define MAX(a, b)                                                                                  \
	({                                                                                         \
		__typeof__(a) max_a = (a);                                                         \
		__typeof__(b) max_b = (b);                                                         \
		max_a > max_b ? max_a : max_b;                                                     \
	})

#define NSEC_PER_SEC 1000000000ull

/* Value of a little-endian field at any alignment. */
static inline u16 get_le16(const void *p)
{
	u16 v;
	__builtin_memcpy(&v, p, 2);
	return v;
}
static inline u32 get_le32(const void *p)
{
	u32 v;
	__builtin_memcpy(&v, p, 4);
	return v;
}
static inline u64 get_le64(const void *p)
{
	u64 v;
	__builtin_memcpy(&v, p, 8);
	return v;
}
static inline void put_le16(void *p, u16 v)
{
	__builtin_memcpy(p, &v, 2);
}
static inline void put_le32(void *p, u32 v)
{
	__builtin_memcpy(p, &v, 4);
}
static inline void put_le64(void *p, u64 v)
{
	__builtin_memcpy(p, &v, 8);
}

/* All ones in the low `size` bytes; size is 1, 2, 4 or 8. */
static inline u64 size_mask(unsigned size)
{
	return size >= 8 ? ~0ull : (1ull << (size * 8)) - 1;
}
