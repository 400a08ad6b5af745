// SPDX-License-Identifier: MIT
/* What can be held against the host, the default first: the engines of this build, then the host.
 */
#include "subject.h"

#define SUBJECT(name) &subject_##name,
const struct subject_ops *const subjects[] = {
#include "subject-list.h"
	NULL,
};
