/* SPDX-License-Identifier: MIT */
/* What the process can still do to the host once a guest runs in it. */
#pragma once

#include "base/types.h"

/* What this machine needs beyond what every one does. */
struct sandbox_config {
	bool internet; /* new sockets of the Internet families, and the host's resolver */
	bool tap;      /* offloads and queues of a tap device */
	/* Threads that exist already serve shared folders (io/fuse.h) and may go on opening and
	 * changing files; what else confines them is their own affair. This thread and those it
	 * makes may not. */
	bool files;
};

/* Install the handler that names a refused system call. Before the console takes the terminal,
 * so that the terminal is restored first. */
void sandbox_prepare(void);

/* Give up all capabilities and everything but the system calls that a running VM needs, for
 * this and all later threads; for good. Everything that is opened by name must be open by now.
 * A refused call says so on stderr and ends the process with SIGSYS.
 * 0, or -errno (logged): then the guest must not run. */
int sandbox_enter(const struct sandbox_config *cfg);
