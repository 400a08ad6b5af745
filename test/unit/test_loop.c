// SPDX-License-Identifier: MIT
/* Timers, descriptors, posts and the virtual clock. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "bus/loop.h"

#define MS 1000000ull

struct st {
	pthread_mutex_t lock;
	struct loop *l;
	unsigned order[64], nr;
	unsigned want; /* stop after so many */
	struct timer t[64];
	struct arg {
		struct st *st;
		unsigned id;
	} arg[64];
	u64 at;
	int fd[2];
	unsigned calls;
	short revents;
};

static int setup(void **state)
{
	struct st *st = calloc(1, sizeof(*st));

	pthread_mutex_init(&st->lock, NULL);
	if (loop_create(&st->l, &st->lock) || pipe(st->fd))
		return -1;
	for (unsigned i = 0; i < 64; i++)
		st->arg[i] = (struct arg){st, i};
	*state = st;
	return 0;
}

static int teardown(void **state)
{
	struct st *st = *state;

	loop_destroy(st->l);
	close(st->fd[0]);
	close(st->fd[1]);
	free(st);
	return 0;
}

static void fired(void *arg)
{
	struct arg *a = arg;
	struct st *st = a->st;

	assert_int_not_equal(pthread_mutex_trylock(&st->lock), 0); /* the machine lock is held */
	assert_true(loop_now(st->l) >= st->t[a->id].deadline);
	st->order[st->nr++] = a->id;
	if (st->nr == st->want)
		loop_stop(st->l);
}

static void stop(void *arg)
{
	struct st *st = arg;

	loop_stop(st->l);
}

static void test_order(void **state)
{
	struct st *st = *state;
	u64 now = loop_now(st->l);

	/* a permutation of 0..63, one every 100 us, armed in a wild order */
	st->want = 64;
	for (unsigned i = 0; i < 64; i++) {
		unsigned id = i * 37 % 64;

		timer_init(&st->t[id], st->l, fired, &st->arg[id]);
		timer_arm(&st->t[id], now + MS + id * 100000ull);
		assert_true(timer_armed(&st->t[id]));
	}
	loop_run(st->l);
	assert_int_equal(st->nr, 64);
	for (unsigned i = 0; i < 64; i++) {
		assert_int_equal(st->order[i], i);
		assert_false(timer_armed(&st->t[i]));
	}
}

static void test_cancel_and_rearm(void **state)
{
	struct st *st = *state;
	u64 now = loop_now(st->l);

	st->want = 3;
	for (unsigned i = 0; i < 6; i++) {
		timer_init(&st->t[i], st->l, fired, &st->arg[i]);
		timer_arm(&st->t[i], now + (i + 1) * MS);
	}
	timer_cancel(&st->t[0]);
	timer_cancel(&st->t[0]);
	timer_cancel(&st->t[3]);
	timer_arm(&st->t[1], now + 30 * MS);
	timer_arm(&st->t[5], now); /* past: at once */
	loop_run(st->l);
	assert_int_equal(st->order[0], 5);
	assert_int_equal(st->order[1], 2);
	assert_int_equal(st->order[2], 4);
	assert_true(timer_armed(&st->t[1]));
	timer_cancel(&st->t[1]);
}

/* A callback that arms itself again and cancels another. */
static void again(void *arg)
{
	struct arg *a = arg;
	struct st *st = a->st;

	timer_cancel(&st->t[1]);
	if (++st->calls < 5)
		timer_arm(&st->t[0], loop_now(st->l) + MS / 10);
	else
		loop_stop(st->l);
}

static void test_arm_in_callback(void **state)
{
	struct st *st = *state;
	u64 now = loop_now(st->l);

	timer_init(&st->t[0], st->l, again, &st->arg[0]);
	timer_init(&st->t[1], st->l, fired, &st->arg[1]);
	timer_arm(&st->t[0], now);
	timer_arm(&st->t[1], now); /* due at the same time, but cancelled by the first */
	loop_run(st->l);
	assert_int_equal(st->calls, 5);
	assert_int_equal(st->nr, 0);
}

static void test_clock_stop(void **state)
{
	struct st *st = *state;
	struct timespec ts = {0, 20 * (long)MS};
	u64 before = loop_now(st->l), stopped;

	loop_clock_stop(st->l);
	stopped = loop_now(st->l);
	assert_true(stopped >= before);
	nanosleep(&ts, NULL);
	loop_clock_stop(st->l);
	assert_int_equal(loop_now(st->l), stopped);
	loop_clock_start(st->l);
	loop_clock_start(st->l);
	assert_true(loop_now(st->l) >= stopped);
	assert_true(loop_now(st->l) - stopped < 15 * MS);
	assert_true(loop_clock_offset(st->l) <= -20 * (s64)MS);
}

static void *start_clock(void *arg)
{
	struct st *st = arg;
	struct timespec ts = {0, 50 * (long)MS};

	nanosleep(&ts, NULL);
	st->calls = st->nr; /* timers that fired while it stood */
	loop_clock_start(st->l);
	return NULL;
}

static void test_timers_stand_with_the_clock(void **state)
{
	struct st *st = *state;
	pthread_t th;

	st->want = 1;
	timer_init(&st->t[0], st->l, fired, &st->arg[0]);
	timer_arm(&st->t[0], loop_now(st->l) + 5 * MS);
	loop_clock_stop(st->l);
	assert_int_equal(pthread_create(&th, NULL, start_clock, st), 0);
	loop_run(st->l);
	pthread_join(th, NULL);
	assert_int_equal(st->calls, 0);
	assert_int_equal(st->nr, 1);
}

static void *arm_early(void *arg)
{
	struct st *st = arg;
	struct timespec ts = {0, 20 * (long)MS};

	nanosleep(&ts, NULL); /* the loop sleeps until the far timer */
	st->at = loop_now(st->l);
	timer_arm(&st->t[1], st->at + MS);
	return NULL;
}

static void test_arm_from_another_thread(void **state)
{
	struct st *st = *state;
	pthread_t th;

	st->want = 1;
	timer_init(&st->t[0], st->l, fired, &st->arg[0]);
	timer_init(&st->t[1], st->l, fired, &st->arg[1]);
	timer_arm(&st->t[0], loop_now(st->l) + 5000 * MS);
	assert_int_equal(pthread_create(&th, NULL, arm_early, st), 0);
	loop_run(st->l);
	assert_true(loop_now(st->l) - st->at < 2000 * MS);
	pthread_join(th, NULL);
	assert_int_equal(st->order[0], 1);
}

static void readable(void *arg, short revents)
{
	struct st *st = arg;
	char c[8];

	st->calls++;
	st->revents = revents;
	assert_int_not_equal(pthread_mutex_trylock(&st->lock), 0);
	if (read(st->fd[0], c, sizeof(c)) == 0) {
		loop_del_fd(st->l, st->fd[0]);
		loop_stop(st->l);
	} else {
		close(st->fd[1]);
		st->fd[1] = -1;
	}
}

static void *arm_often(void *arg)
{
	struct st *st = arg;
	struct timespec ts = {0, 20 * (long)MS};
	u64 now;

	nanosleep(&ts, NULL); /* the loop sleeps */
	now = loop_now(st->l);
	/* always the earliest, as a guest that shortens its deadline does */
	for (unsigned i = 0; i < 2000; i++)
		timer_arm(&st->t[0], now + 60000 * MS - i * MS);
	timer_arm(&st->t[0], loop_now(st->l) + MS);
	return NULL;
}

/* The loop sleeps on while timers are armed, and still wakes for the last. */
static void test_arming_wakes_nobody(void **state)
{
	struct st *st = *state;
	struct rusage before, after;
	pthread_t th;

	st->want = 1;
	timer_init(&st->t[0], st->l, fired, &st->arg[0]);
	getrusage(RUSAGE_THREAD, &before);
	assert_int_equal(pthread_create(&th, NULL, arm_often, st), 0);
	loop_run(st->l);
	getrusage(RUSAGE_THREAD, &after);
	pthread_join(th, NULL);
	assert_true(after.ru_nvcsw - before.ru_nvcsw < 20);
}

/* What was armed by another thread before a pause comes as much later as the pause was long. */
static void *pause_clock(void *arg)
{
	struct st *st = arg;
	struct timespec ts = {0, 20 * (long)MS}, pause = {0, 60 * (long)MS};

	nanosleep(&ts, NULL);
	timer_arm(&st->t[0], loop_now(st->l) + 30 * MS);
	loop_clock_stop(st->l);
	nanosleep(&pause, NULL);
	st->calls = st->nr;
	loop_clock_start(st->l);
	return NULL;
}

static void test_pause_moves_the_alarm(void **state)
{
	struct st *st = *state;
	pthread_t th;

	st->want = 1;
	timer_init(&st->t[0], st->l, fired, &st->arg[0]);
	assert_int_equal(pthread_create(&th, NULL, pause_clock, st), 0);
	loop_run(st->l); /* fired() checks the virtual time */
	pthread_join(th, NULL);
	assert_int_equal(st->calls, 0);
	assert_int_equal(st->nr, 1);
}

static void test_descriptor(void **state)
{
	struct st *st = *state;

	assert_int_equal(loop_add_fd(st->l, st->fd[0], POLLIN, readable, st), 0);
	assert_int_equal(loop_add_fd(st->l, st->fd[0], POLLIN, readable, st), -EEXIST);
	assert_int_equal(loop_mod_fd(st->l, st->fd[1], POLLIN), -ENOENT);
	assert_int_equal(write(st->fd[1], "x", 1), 1);
	loop_run(st->l);
	assert_int_equal(st->calls, 2);
	assert_true(st->revents & POLLHUP);
	assert_int_equal(loop_add_fd(st->l, st->fd[0], POLLIN, readable, st), 0);
	loop_del_fd(st->l, st->fd[0]);
}

static void writable(void *arg, short revents)
{
	struct st *st = arg;

	st->calls++;
	loop_mod_fd(st->l, st->fd[1], 0); /* not wanted any more */
	assert_int_equal(loop_post(st->l, stop, st), 0);
}

static void test_modify_and_post(void **state)
{
	struct st *st = *state;

	assert_int_equal(loop_add_fd(st->l, st->fd[1], POLLOUT, writable, st), 0);
	loop_run(st->l);
	assert_int_equal(st->calls, 1);
	loop_del_fd(st->l, st->fd[1]);
}

static void count_post(void *arg)
{
	struct arg *a = arg;

	a->st->order[a->st->nr++] = a->id;
}

static void test_posts_in_order(void **state)
{
	struct st *st = *state;

	for (unsigned i = 0; i < 20; i++)
		assert_int_equal(loop_post(st->l, count_post, &st->arg[i]), 0);
	assert_int_equal(loop_post(st->l, stop, st), 0);
	loop_run(st->l);
	assert_int_equal(st->nr, 20);
	for (unsigned i = 0; i < 20; i++)
		assert_int_equal(st->order[i], i);
	/* what is left when it is destroyed is freed, not run */
	assert_int_equal(loop_post(st->l, count_post, &st->arg[0]), 0);
}

/* Timers that are due for ever, as a guest can make them: descriptors and posts have their turn. */
static void always_due(void *arg)
{
	struct arg *a = arg;
	struct st *st = a->st;

	timer_arm(&st->t[a->id], st->at);
	assert_true(++st->calls < 1000000);
}

static void stop_on_input(void *arg, short revents)
{
	stop(arg);
}

static void test_timers_without_end(void **state)
{
	struct st *st = *state;

	st->at = loop_now(st->l);
	timer_init(&st->t[0], st->l, always_due, &st->arg[0]);
	timer_arm(&st->t[0], st->at);
	assert_int_equal(write(st->fd[1], "x", 1), 1);
	assert_int_equal(loop_add_fd(st->l, st->fd[0], POLLIN, stop_on_input, st), 0);
	loop_run(st->l);
	timer_cancel(&st->t[0]);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_order),
		T(test_cancel_and_rearm),
		T(test_arm_in_callback),
		T(test_clock_stop),
		T(test_timers_stand_with_the_clock),
		T(test_arm_from_another_thread),
		T(test_arming_wakes_nobody),
		T(test_pause_moves_the_alarm),
		T(test_descriptor),
		T(test_modify_and_post),
		T(test_posts_in_order),
		T(test_timers_without_end),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
