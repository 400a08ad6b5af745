// SPDX-License-Identifier: MIT
#include "rt.h"

extern const struct topic topic_smc;
extern const struct topic topic_alias;
extern const struct topic topic_stack;
extern const struct topic topic_stale;
extern const struct topic topic_dtlb;

const struct topic *const topics[] = {
	&topic_smc, &topic_alias, &topic_stack, &topic_stale, &topic_dtlb, NULL,
};
