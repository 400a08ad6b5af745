// SPDX-License-Identifier: MIT
#include "rt.h"

extern const struct topic topic_smc, topic_alias, topic_stack, topic_stale;

const struct topic *const topics[] = {
	&topic_smc, &topic_alias, &topic_stack, &topic_stale, NULL,
};
