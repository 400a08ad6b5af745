/* SPDX-License-Identifier: MIT */
/* The event loop of one VM: file descriptors and timers, run by one thread (the main one).
 *
 * Callbacks run on the loop's thread with the machine lock (bus->lock) held, so a device's
 * state needs no lock of its own. The loop's own mutex protects only its lists and is never held
 * while a callback runs; every function but loop_run may be called from any thread,
 * with or without the machine lock.
 *
 * Time: loop_now() is the VM's virtual time: CLOCK_MONOTONIC less the time
 * the VM was paused; timers count in it, so they stand still while the VM does.
 *
 * A timer's callback may run once more after timer_cancel() or timer_arm() by another thread (it
 * was already on its way): a callback checks its device's state first. It can't when the caller
 * holds the machine lock. */
#pragma once

#include <pthread.h>
#include <poll.h>

#include "base/types.h"

struct loop;

struct timer {
	struct loop *loop;
	void (*fn)(void *arg);
	void *arg;
	u64 deadline; /* ns of loop_now(); valid while queued */
	int slot;     /* index in the heap, -1: not queued */
};

/* The calling thread is the one that will run the loop. */
int loop_create(struct loop **out, pthread_mutex_t *machine_lock);
void loop_destroy(struct loop *l);

u64 loop_now(const struct loop *l);
/* The virtual clock stops and goes on; idempotent. */
void loop_clock_stop(struct loop *l);
void loop_clock_start(struct loop *l);
/* What to add to CLOCK_MONOTONIC to get virtual time, in ns (<= 0). Meaningful while the clock
 * runs. */
s64 loop_clock_offset(const struct loop *l);

/* With the clock stopped: move it on by `ns`, running each timer that comes due on the way
 * at its own time, on this thread, with the machine lock held around each. For tests and for runs
 * that must be repeatable; nobody else may run the loop meanwhile. */
void loop_clock_step(struct loop *l, u64 ns);

/* What was posted and the descriptors that are ready, once, without waiting, on this thread. For
 * the same runs. */
void loop_look(struct loop *l);

void timer_init(struct timer *t, struct loop *l, void (*fn)(void *arg), void *arg);
void timer_arm(struct timer *t, u64 deadline_ns);
void timer_cancel(struct timer *t);
static inline bool timer_armed(const struct timer *t)
{
	return t->slot >= 0;
}

/* `events` are poll(2)'s; fn gets revents. One watch a descriptor. 0 or -errno. */
int loop_add_fd(struct loop *l, int fd, short events, void (*fn)(void *arg, short revents),
                void *arg);
int loop_mod_fd(struct loop *l, int fd, short events);
void loop_del_fd(struct loop *l, int fd);

/* Run fn once, soon, on the loop's thread with the machine lock held. Async-signal-unsafe. 0 or
 * -ENOMEM. */
int loop_post(struct loop *l, void (*fn)(void *arg), void *arg);

/* Serve until loop_stop(). */
void loop_run(struct loop *l);
void loop_stop(struct loop *l); /* any thread; async-signal-safe */
