// SPDX-License-Identifier: MIT
#include "rt.h"

extern const struct topic topic_smc;
extern const struct topic topic_alias;
extern const struct topic topic_stack;
extern const struct topic topic_stale;
extern const struct topic topic_dtlb;
extern const struct topic topic_faults;
extern const struct topic topic_traps;
extern const struct topic topic_flags;
extern const struct topic topic_intr;
extern const struct topic topic_debug;
extern const struct topic topic_smp;
extern const struct topic topic_loops;
extern const struct topic topic_inplace;
extern const struct topic topic_syscall;

const struct topic *const topics[] = {
	&topic_smc,    &topic_alias, &topic_stack,   &topic_stale,   &topic_dtlb,
	&topic_faults, &topic_traps, &topic_flags,   &topic_intr,    &topic_debug,
	&topic_smp,    &topic_loops, &topic_inplace, &topic_syscall, NULL,
};
