/* SPDX-License-Identifier: MIT */
/* What the console's escape key offers. On the loop's thread with the machine lock held. */
#pragma once

#include "io/console.h"
#include "vcpu/vm.h"

struct menu {
	struct vm *vm;
	struct console_escape escape; /* goes into the machine's configuration */
	bool paused;                  /* this menu holds one pause of the VM */
};

void menu_init(struct menu *m, struct vm *vm);
