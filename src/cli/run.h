/* SPDX-License-Identifier: MIT */
/* `ringer run`: from options to a running virtual machine and its exit code. Main thread. */
#pragma once

#include "cli/options.h"

/* The program's exit code; everything is said already. */
int run_vm(const struct options *o);

/* The engine that `name` means here, or NULL with the reason logged. For "auto", says which. */
const struct engine_ops *engine_choose(const char *name);
/* Table of all engines and why one does not work; for people. */
void engine_list(FILE *out);
