// SPDX-License-Identifier: MIT
/* The program: one command line, one command, one exit code. */
#include <stdio.h>
#include <string.h>
#include <errno.h>

#include "cli/help.h"
#include "cli/options.h"
#include "cli/run.h"
#include "vcpu/vm.h"

static void print_version(FILE *out)
{
	fprintf(out, "ringer %s\n", RINGER_VERSION);
	fputs("engines:", out);
	for (unsigned i = 0; engines[i]; i++)
		fprintf(out, " %s", engines[i]->name);
	fputc('\n', out);
}

int main(int argc, char **argv)
{
	struct options o;
	int code = options_parse(&o, argc, argv);

	if (code) {
		options_free(&o);
		return code;
	}
	switch (o.command) {
	case CMD_RUN:
		code = run_vm(&o);
		options_free(&o);
		return code;
	case CMD_VERSION:
		print_version(stdout);
		break;
	case CMD_HELP:
		code = help_print(o.help_topic, stdout);
		break;
	case CMD_ENGINES:
		engine_list(stdout);
		break;
	}
	if (fflush(stdout) == EOF) {
		log_error("cannot write to stdout: %s", strerror(errno));
		return VM_EXIT_HOST;
	}
	return code;
}
