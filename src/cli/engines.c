// SPDX-License-Identifier: MIT
/* Which engine runs the guest. An engine can be unknown (the parser refuses it), known but not
 * built into this ringer, or built but not able to run here (probe()). */
#include "cli/run.h"

#include <string.h>

#include "vcpu/engine.h"

static const struct engine_ops *find(const char *name)
{
	for (unsigned i = 0; engines[i]; i++)
		if (!strcmp(engines[i]->name, name))
			return engines[i];
	return NULL;
}

/* NULL: it works; else why not. */
static const char *why_not(const char *name, char *why, size_t size)
{
	const struct engine_ops *e = find(name);

	if (!e)
		return "not built into this ringer";
	snprintf(why, size, "does not work here");
	return e->probe(why, size) < 0 ? why : NULL;
}

static const struct engine_ops *choose_auto(void)
{
	char why[200], rest[600] = "";
	const struct engine_name *n;

	for (unsigned i = 0; (n = options_engine(i)); i++) {
		const char *bad = why_not(n->name, why, sizeof(why));
		size_t used = strlen(rest);

		if (!bad) {
			log_info("engine %s (%s)%s", n->name, n->summary, rest);
			return find(n->name);
		}
		snprintf(rest + used, sizeof(rest) - used, "; %s: %s", n->name, bad);
	}
	log_error("--engine auto: no engine works here%s", rest);
	return NULL;
}

const struct engine_ops *engine_choose(const char *name)
{
	char why[200];
	const char *bad;

	if (!strcmp(name, "auto"))
		return choose_auto();
	bad = why_not(name, why, sizeof(why));
	if (!bad)
		return find(name);
	log_error("--engine %s: %s; \"ringer engines\" lists what works, for example: "
	          "--engine auto",
	          name, bad);
	return NULL;
}

void engine_list(FILE *out)
{
	const struct engine_name *n;
	bool chosen = false;
	char why[200];

	for (unsigned i = 0; (n = options_engine(i)); i++) {
		const char *bad = why_not(n->name, why, sizeof(why));

		fprintf(out, "%-8s %-4s %s", n->name, bad ? "no" : "yes", n->summary);
		if (bad)
			fprintf(out, " (%s)", bad);
		else if (!chosen)
			fputs(" (--engine auto takes this one)", out);
		chosen |= !bad;
		fputc('\n', out);
	}
}
