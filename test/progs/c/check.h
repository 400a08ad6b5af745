/* SPDX-License-Identifier: MIT */
/* For the programs that the guest compiles: CHECK, and the closing line that the host reads. */
#pragma once
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int check_passed, check_failed;

#define CHECK(cond, ...)                                                                           \
	do {                                                                                       \
		if (cond) {                                                                        \
			__atomic_add_fetch(&check_passed, 1, __ATOMIC_RELAXED);                    \
		} else {                                                                           \
			__atomic_add_fetch(&check_failed, 1, __ATOMIC_RELAXED);                    \
			printf("failed: %s:%d: %s: ", __FILE__, __LINE__, #cond);                  \
			printf(__VA_ARGS__);                                                       \
			printf("\n");                                                              \
		}                                                                                  \
	} while (0)

static inline int check_end(void)
{
	printf("%d passed, %d failed\n", check_passed, check_failed);
	return check_failed || !check_passed;
}

/* xorshift64: the same numbers at every optimization level. */
static inline uint64_t check_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

/* FNV-1a: what a long computation came to. */
static inline uint64_t check_hash(uint64_t hash, const void *data, size_t size)
{
	const unsigned char *p = (const unsigned char *)data;
	while (size--) {
		hash = (hash ^ *p++) * 0x100000001b3;
	}
	return hash;
}

#define CHECK_HASH_START 0xcbf29ce484222325
