/* SPDX-License-Identifier: MIT */
/* Ports that software writes to for the delay alone or to say how far it got: 0x80 (POST code) and
 * 0xed. Threading: no lock; the value is a relaxed atomic, since guests write here often. */
#pragma once

#include "bus/dev.h"

struct port80;

struct port80_config {
	bool no_delay_port; /* leave out 0xed */
};

#define PORT80_POST  0x80
#define PORT80_DELAY 0xed

/* 0 or -errno (logged). */
int port80_create(struct port80 **out, const struct dev_env *env, const struct port80_config *cfg);
/* The last POST code. */
u8 port80_code(const struct port80 *p);
