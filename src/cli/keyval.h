/* SPDX-License-Identifier: MIT */
/* Arguments of the form WORD[,key=value][,flag]...: one parser for all options that make devices.
 *
 * A comma inside a value is written twice. Each error is one line that names the option, what is
 * wrong, what is accepted, and an example. Main thread, at start. */
#pragma once

#include "base/types.h"

enum keyval_kind {
	KEYVAL_STRING, /* const char *: part of the argument's copy; not empty */
	KEYVAL_BOOL,   /* bool: on, off; the key alone is "on" */
	KEYVAL_NUMBER, /* u64 in [min, max], decimal or 0x hexadecimal */
	KEYVAL_SIZE,   /* u64 in [min, max] bytes, or with K, M, G, T */
	KEYVAL_WORD,   /* unsigned: the index in `words` */
};

struct keyval_key {
	const char *key;
	enum keyval_kind kind;
	size_t offset;            /* of the field in the struct that is filled */
	u64 min, max;             /* NUMBER, SIZE; max 0: no limit */
	const char *const *words; /* WORD: NULL-terminated */
};

struct keyval_def {
	const char *option; /* "--device" */
	const char *first;  /* what the first word is, for messages: "a path"; NULL: no such word */
	size_t first_offset; /* const char * of the first word */
	const char *example; /* "--device rng,packed=on" */
	const struct keyval_key *keys;
	unsigned nr_keys; /* at most 64 */
};

/* Fill the fields that are given, leave the others. *copy is what the strings point into, to be
 * freed after them; set on success only. 0, or -1 with the error logged. */
int keyval_parse(const struct keyval_def *d, const char *arg, void *out, char **copy);

/* An unsigned number in [min, max], decimal or 0x hexadecimal, nothing around it. 0 or -1. */
int keyval_number(const char *s, u64 min, u64 max, u64 *out);
