/* SPDX-License-Identifier: MIT */
/* The gdb stub: GDB's remote serial protocol over a local TCP port or a Unix socket
 * (GDB manual, appendix E). vCPUs are threads 1..n; the VM pauses as a whole when gdb attaches, on
 * a breakpoint, watchpoint or step, and on Ctrl-C.
 *
 * Everything runs on the loop's thread, with the machine lock held. One client at a time; what
 * it sends is checked like any other input. */
#pragma once

#include "vcpu/vm.h"

struct gdb;

struct gdb_config {
	int port; /* TCP on 127.0.0.1, 1..65535, when path is NULL */
	const char *
		path; /* Unix socket; one that nobody serves is replaced, and it stays at the end */
	bool wait;    /* the guest does not start before gdb says so */
};

/* Call before vm_run(). 0 or -errno (logged). */
int gdb_create(struct gdb **out, struct vm *vm, const struct gdb_config *cfg);
/* After vm_run(): tells the client how the VM ended. */
void gdb_destroy(struct gdb *g);
