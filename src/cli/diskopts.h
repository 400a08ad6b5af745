/* SPDX-License-Identifier: MIT */
/* `--disk`: text to a struct vm_disk. Opens nothing. Main thread, at start. */
#pragma once

#include "machine/config.h"

/* 0, or -1 with one line logged that names the option, what is accepted, and an example. *copy is
 * what the strings point into, to be freed after them; set on success only. */
int disk_option_parse(struct vm_disk *d, const char *arg, char **copy);
