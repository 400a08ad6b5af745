/* SPDX-License-Identifier: MIT */
/* --share TAG=DIR[,ro][,locks=host]: folders of the host for the guest. Main thread, at start. */
#pragma once

#include "machine/config.h"

struct share_option {
	char *copy; /* of the argument; tag and path point into it */
	const char *tag, *path;
	bool read_only;
	unsigned locks; /* SHARE_LOCKS_* */
};

enum share_locks { SHARE_LOCKS_GUEST, SHARE_LOCKS_HOST };

/* 0, or -1 with the error logged. `others`: those given before, for tags given twice. */
int share_parse(struct share_option *s, const char *arg, const struct share_option *others,
                unsigned nr_others);

/* Open the folders. 0, or -1 with the error logged and none open. */
int shares_open(struct vm_share *out, const struct share_option *s, unsigned nr);
void shares_close(struct vm_share *shares, unsigned nr);
