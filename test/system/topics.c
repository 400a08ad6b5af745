// SPDX-License-Identifier: MIT
#include "rt.h"

#define TOPICS(X) X(smc)

#define X(n) extern const struct topic topic_##n;
TOPICS(X)
#undef X
#define X(n) &topic_##n,
const struct topic *const topics[] = {TOPICS(X) NULL};
