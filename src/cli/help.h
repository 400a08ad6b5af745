/* SPDX-License-Identifier: MIT */
/* Help texts. Stateless. */
#pragma once

#include <stdio.h>

/* Print the help on `topic` (NULL: the overview). 0, or VM_EXIT_USAGE: no such topic (logged). */
int help_print(const char *topic, FILE *out);
