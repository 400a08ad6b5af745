// SPDX-License-Identifier: MIT
/* The host a second time, in a process of its own: differences would be the harness's. With
 * `flip` one bit of each outcome is changed, for the self-test. */
#include "subject.h"

#include <errno.h>

static int create(void **out, const struct subject_env *env, char *why, size_t size)
{
	struct hostcpu *n = NULL;
	int ret = hostcpu_create(&n, env->images, why, size);

	*out = n;
	return ret;
}

static void destroy(void *s)
{
	hostcpu_destroy(s);
}

static void run(void *s, const struct tcase *t, struct outcome *o)
{
	memcpy(hostcpu_case(s, 0), t, sizeof(*t));
	if (hostcpu_run(s, 1))
		o->status = OUT_REFUSED;
	else
		memcpy(o, hostcpu_outcome(s, 0), sizeof(*o));
	/* A split lock may be fast now and slow now, and then it is no difference. */
	if (o->status == OUT_TIMEOUT)
		o->status = OUT_REFUSED;
}

const struct subject_ops subject_host = {
	.name = "host",
	.summary = "the host itself: checks the harness",
	.create = create,
	.destroy = destroy,
	.run = run,
};
