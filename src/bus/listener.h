/* SPDX-License-Identifier: MIT */
/* A socket that listens, in a loop: who connects is accepted. When the process has no descriptor
 * left for one more, the socket is left alone for a while: it would be readable without end.
 *
 * Machine lock held, as in all that a loop calls. */
#pragma once

#include "bus/loop.h"

#define LISTENER_PAUSE_NS (NSEC_PER_SEC / 2)

struct listener {
	struct loop *loop;
	int fd; /* -1: not in use; belongs to the caller */
	bool wanted, watched;
	bool scarce; /* the process has no descriptor or memory for one more */
	struct timer again;
	/* A connection, without blocking, closed on exec: the callee's. */
	void (*fn)(void *arg, int fd);
	void *arg;
};

/* 0 or -errno. */
int listener_start(struct listener *l, struct loop *loop, int fd, void (*fn)(void *arg, int fd),
                   void *arg);
/* While it is off connections wait in the kernel. */
void listener_enable(struct listener *l, bool on);
/* Idempotent; also for one that was never started, if it is all zero. */
void listener_stop(struct listener *l);
