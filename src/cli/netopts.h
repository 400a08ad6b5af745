/* SPDX-License-Identifier: MIT */
/* `--net`: text to a struct net_config. Opens nothing. Main thread, at start. */
#pragma once

#include "io/net.h"

/* 0, or -1 with one line logged that names the option, what is accepted, and an example. */
int net_option_parse(struct net_config *c, const char *arg);
