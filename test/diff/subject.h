/* SPDX-License-Identifier: MIT */
/* What is held against the host: an engine, or the host itself a second time. */
#pragma once

#include "gen.h"
#include "hostcpu.h"

struct subject_env {
	const u8 *images;
	unsigned mode; /* 64 or 32 */
};

struct subject_ops {
	const char *name;
	const char *summary;
	/* 0 or -errno with one line in `why`. */
	int (*create)(void **out, const struct subject_env *env, char *why, size_t size);
	void (*destroy)(void *s);
	/* Run one case from its state and memory and fill the outcome, status included. */
	void (*run)(void *s, const struct tcase *t, struct outcome *o);
};

extern const struct subject_ops subject_host;
extern const struct subject_ops subject_interp;
extern const struct subject_ops subject_bt;
extern const struct subject_ops *const subjects[]; /* ended by NULL, the default first */
