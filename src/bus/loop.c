// SPDX-License-Identifier: MIT
/* poll(2); a wake-up from another thread is an eventfd, and the earliest timer a timerfd.
 * A vCPU that arms a timer (every APIC timer tick) so moves the loop's alarm without waking the
 * loop: one system call if its timer becomes the earliest, none otherwise. The alarm may stand
 * earlier than any timer (one was cancelled): the loop then wakes once for nothing.
 * Timers are a binary heap, so arming is logarithmic and cancelling needs no search. */
#include "bus/loop.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"

/* Timers served before descriptors are looked at again. */
#define TIMERS_AT_ONCE 256

struct watch {
	int fd;
	short events;
	void (*fn)(void *arg, short revents);
	void *arg;
};

struct post {
	struct post *next;
	void (*fn)(void *arg);
	void *arg;
};

struct loop {
	pthread_mutex_t lock;
	pthread_mutex_t *machine_lock;
	int wake_fd;
	_Atomic bool stop;
	int alarm_fd;  /* timerfd */
	bool sleeping; /* in poll, or on the way: who arms a timer sees to the alarm */
	u64 alarm_at;  /* virtual time it is set for, ALARM_OFF: unknown or off */

	struct timer **heap;
	int nr_timers, cap_timers;

	struct watch *watch;
	int nr_watches, cap_watches;
	unsigned watch_gen;

	struct post *posts, **posts_tail;

	_Atomic s64 offset;     /* virtual = monotonic + offset */
	_Atomic u64 stopped_at; /* virtual time at which the clock stands, 0: it runs */
};

#define ALARM_OFF (~0ull)

static u64 mono_now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (u64)ts.tv_sec * NSEC_PER_SEC + (u64)ts.tv_nsec;
}

u64 loop_now(const struct loop *l)
{
	u64 stopped = l->stopped_at;

	return stopped ? stopped : mono_now() + (u64)l->offset;
}

s64 loop_clock_offset(const struct loop *l)
{
	return l->offset;
}

static void loop_wake(struct loop *l)
{
	u64 one = 1;
	ssize_t r = write(l->wake_fd, &one, sizeof(one));

	(void)r; /* EAGAIN: it is awake already */
}

void loop_clock_stop(struct loop *l)
{
	pthread_mutex_lock(&l->lock);
	if (!l->stopped_at)
		l->stopped_at = mono_now() + (u64)l->offset;
	pthread_mutex_unlock(&l->lock);
	loop_wake(l);
}

void loop_clock_start(struct loop *l)
{
	pthread_mutex_lock(&l->lock);
	if (l->stopped_at) {
		l->offset = (s64)(l->stopped_at - mono_now());
		l->stopped_at = 0;
		l->alarm_at = ALARM_OFF; /* it was set by the old offset */
	}
	pthread_mutex_unlock(&l->lock);
	loop_wake(l);
}

int loop_create(struct loop **out, pthread_mutex_t *machine_lock)
{
	struct loop *l = calloc(1, sizeof(*l));

	if (!l)
		return -ENOMEM;
	pthread_mutex_init(&l->lock, NULL);
	l->machine_lock = machine_lock;
	l->posts_tail = &l->posts;
	l->alarm_at = ALARM_OFF;
	l->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (l->wake_fd < 0) {
		int err = -errno;

		log_error("eventfd: %s", strerror(-err));
		free(l);
		return err;
	}
	/* Without the slack (50 us) that poll's timeout has. */
	l->alarm_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
	if (l->alarm_fd < 0) {
		int err = -errno;

		log_error("timerfd_create: %s", strerror(-err));
		close(l->wake_fd);
		free(l);
		return err;
	}
	*out = l;
	return 0;
}

void loop_destroy(struct loop *l)
{
	if (!l)
		return;
	while (l->posts) {
		struct post *p = l->posts;

		l->posts = p->next;
		free(p);
	}
	close(l->wake_fd);
	close(l->alarm_fd);
	free(l->heap);
	free(l->watch);
	pthread_mutex_destroy(&l->lock);
	free(l);
}

/* ---- timers: a heap ordered by deadline ---- */

static void heap_set(struct loop *l, int i, struct timer *t)
{
	l->heap[i] = t;
	t->slot = i;
}

static void heap_up(struct loop *l, int i)
{
	struct timer *t = l->heap[i];

	while (i && l->heap[(i - 1) / 2]->deadline > t->deadline) {
		heap_set(l, i, l->heap[(i - 1) / 2]);
		i = (i - 1) / 2;
	}
	heap_set(l, i, t);
}

static void heap_down(struct loop *l, int i)
{
	struct timer *t = l->heap[i];

	for (;;) {
		int c = 2 * i + 1;

		if (c >= l->nr_timers)
			break;
		if (c + 1 < l->nr_timers && l->heap[c + 1]->deadline < l->heap[c]->deadline)
			c++;
		if (l->heap[c]->deadline >= t->deadline)
			break;
		heap_set(l, i, l->heap[c]);
		i = c;
	}
	heap_set(l, i, t);
}

static void heap_remove(struct loop *l, struct timer *t)
{
	int i = t->slot;
	struct timer *last = l->heap[--l->nr_timers];

	t->slot = -1;
	if (last == t)
		return;
	heap_set(l, i, last);
	heap_up(l, i);
	heap_down(l, last->slot);
}

/* The alarm is not later than the earliest timer; l->lock is held. */
static void set_alarm(struct loop *l)
{
	struct itimerspec its = {0};
	u64 at;

	if (!l->nr_timers || l->stopped_at || l->heap[0]->deadline >= l->alarm_at)
		return;
	l->alarm_at = l->heap[0]->deadline;
	at = l->alarm_at - (u64)l->offset;
	if (at < l->alarm_at) /* beyond all time */
		at = l->alarm_at;
	at = MAX(MIN(at, (u64)INT64_MAX), 1ull); /* 0 would disarm */
	its.it_value.tv_sec = (time_t)(at / NSEC_PER_SEC);
	its.it_value.tv_nsec = (long)(at % NSEC_PER_SEC);
	if (timerfd_settime(l->alarm_fd, TFD_TIMER_ABSTIME, &its, NULL) < 0)
		bug("timerfd_settime: %s", strerror(errno));
}

void timer_init(struct timer *t, struct loop *l, void (*fn)(void *arg), void *arg)
{
	*t = (struct timer){.loop = l, .fn = fn, .arg = arg, .slot = -1};
}

void timer_arm(struct timer *t, u64 deadline_ns)
{
	struct loop *l = t->loop;

	pthread_mutex_lock(&l->lock);
	if (t->slot >= 0)
		heap_remove(l, t);
	if (l->nr_timers == l->cap_timers) {
		int cap = l->cap_timers ? l->cap_timers * 2 : 16;
		struct timer **h = realloc(l->heap, (size_t)cap * sizeof(*h));

		if (!h)
			bug("out of memory for a timer");
		l->heap = h;
		l->cap_timers = cap;
	}
	t->deadline = deadline_ns;
	heap_set(l, l->nr_timers++, t);
	heap_up(l, l->nr_timers - 1);
	if (l->sleeping)
		set_alarm(l);
	pthread_mutex_unlock(&l->lock);
}

void timer_cancel(struct timer *t)
{
	struct loop *l = t->loop;

	pthread_mutex_lock(&l->lock);
	if (t->slot >= 0)
		heap_remove(l, t);
	pthread_mutex_unlock(&l->lock);
}

/* ---- descriptors ---- */

static int watch_index(struct loop *l, int fd)
{
	for (int i = 0; i < l->nr_watches; i++)
		if (l->watch[i].fd == fd)
			return i;
	return -1;
}

int loop_add_fd(struct loop *l, int fd, short events, void (*fn)(void *arg, short revents),
                void *arg)
{
	int err = 0;

	pthread_mutex_lock(&l->lock);
	if (watch_index(l, fd) >= 0) {
		err = -EEXIST;
		goto out;
	}
	if (l->nr_watches == l->cap_watches) {
		int cap = l->cap_watches ? l->cap_watches * 2 : 8;
		struct watch *w = realloc(l->watch, (size_t)cap * sizeof(*w));

		if (!w) {
			err = -ENOMEM;
			goto out;
		}
		l->watch = w;
		l->cap_watches = cap;
	}
	l->watch[l->nr_watches++] = (struct watch){fd, events, fn, arg};
	l->watch_gen++;
out:
	pthread_mutex_unlock(&l->lock);
	loop_wake(l);
	return err;
}

int loop_mod_fd(struct loop *l, int fd, short events)
{
	int i;

	pthread_mutex_lock(&l->lock);
	i = watch_index(l, fd);
	if (i >= 0) {
		l->watch[i].events = events;
		l->watch_gen++;
	}
	pthread_mutex_unlock(&l->lock);
	loop_wake(l);
	return i < 0 ? -ENOENT : 0;
}

void loop_del_fd(struct loop *l, int fd)
{
	int i;

	pthread_mutex_lock(&l->lock);
	i = watch_index(l, fd);
	if (i >= 0) {
		l->watch[i] = l->watch[--l->nr_watches];
		l->watch_gen++;
	}
	pthread_mutex_unlock(&l->lock);
	loop_wake(l);
}

int loop_post(struct loop *l, void (*fn)(void *arg), void *arg)
{
	struct post *p = malloc(sizeof(*p));

	if (!p)
		return -ENOMEM;
	*p = (struct post){NULL, fn, arg};
	pthread_mutex_lock(&l->lock);
	*l->posts_tail = p;
	l->posts_tail = &p->next;
	pthread_mutex_unlock(&l->lock);
	loop_wake(l);
	return 0;
}

/* ---- the loop ---- */

static void run_posts(struct loop *l)
{
	for (;;) {
		struct post *p;

		pthread_mutex_lock(&l->lock);
		p = l->posts;
		if (p) {
			l->posts = p->next;
			if (!l->posts)
				l->posts_tail = &l->posts;
		}
		pthread_mutex_unlock(&l->lock);
		if (!p)
			return;
		pthread_mutex_lock(l->machine_lock);
		p->fn(p->arg);
		pthread_mutex_unlock(l->machine_lock);
		free(p);
	}
}

/* Timers that are due, the machine lock held around each: taken off the heap under both
 * locks, so a device that cancels under the machine lock is never called afterwards. A guest can
 * make timers fall due faster than they are served (short APIC periods on many vCPUs), so their
 * number is limited: descriptors have their turn, or nobody could stop such a guest. */
static void run_timers(struct loop *l)
{
	for (int n = 0; n < TIMERS_AT_ONCE && !l->stop; n++) {
		struct timer *t = NULL;
		void (*fn)(void *) = NULL;
		void *arg = NULL;

		pthread_mutex_lock(l->machine_lock);
		pthread_mutex_lock(&l->lock);
		if (l->nr_timers && !l->stopped_at && l->heap[0]->deadline <= loop_now(l)) {
			t = l->heap[0];
			fn = t->fn;
			arg = t->arg;
			heap_remove(l, t);
		}
		pthread_mutex_unlock(&l->lock);
		if (t)
			fn(arg);
		pthread_mutex_unlock(l->machine_lock);
		if (!t)
			return;
	}
}

void loop_clock_step(struct loop *l, u64 ns)
{
	u64 target;

	if (!l->stopped_at)
		bug("loop_clock_step while the clock runs");
	target = l->stopped_at + ns;
	for (;;) {
		struct timer *t = NULL;

		pthread_mutex_lock(l->machine_lock);
		pthread_mutex_lock(&l->lock);
		if (l->nr_timers && l->heap[0]->deadline <= target) {
			t = l->heap[0];
			if (t->deadline > l->stopped_at)
				l->stopped_at = t->deadline;
			heap_remove(l, t);
		}
		pthread_mutex_unlock(&l->lock);
		if (t)
			t->fn(t->arg);
		pthread_mutex_unlock(l->machine_lock);
		if (!t)
			break;
	}
	l->stopped_at = target;
}

static void run_watch(struct loop *l, int fd, short revents)
{
	struct watch w = {0};
	int i;

	pthread_mutex_lock(l->machine_lock);
	pthread_mutex_lock(&l->lock);
	i = watch_index(l, fd);
	if (i >= 0)
		w = l->watch[i];
	pthread_mutex_unlock(&l->lock);
	revents &= (short)(w.events | POLLERR | POLLHUP | POLLNVAL);
	if (i >= 0 && revents)
		w.fn(w.arg, revents);
	pthread_mutex_unlock(l->machine_lock);
}

void loop_look(struct loop *l)
{
	struct pollfd *pfd;
	int n;

	run_posts(l);
	pthread_mutex_lock(&l->lock);
	n = l->nr_watches;
	pfd = calloc((size_t)n + 1, sizeof(*pfd));
	if (!pfd)
		bug("out of memory for the event loop");
	for (int i = 0; i < n; i++)
		pfd[i] = (struct pollfd){l->watch[i].fd, l->watch[i].events, 0};
	pthread_mutex_unlock(&l->lock);
	if (poll(pfd, (nfds_t)n, 0) > 0)
		for (int i = 0; i < n; i++)
			if (pfd[i].revents)
				run_watch(l, pfd[i].fd, pfd[i].revents);
	free(pfd);
}

void loop_run(struct loop *l)
{
	struct pollfd *pfd = NULL;
	int npfd = 0, cap = 0;
	bool rang = false;
	unsigned gen = l->watch_gen - 1;

	while (!l->stop) {
		const struct timespec at_once = {0, 0};
		bool posts;
		u64 v;

		run_posts(l);
		run_timers(l);

		pthread_mutex_lock(&l->lock);
		if (!pfd || gen != l->watch_gen) {
			gen = l->watch_gen;
			if (!pfd || cap < l->nr_watches + 2) {
				cap = l->nr_watches + 8;
				pfd = realloc(pfd, (size_t)cap * sizeof(*pfd));
				if (!pfd)
					bug("out of memory for the event loop");
			}
			pfd[0] = (struct pollfd){l->wake_fd, POLLIN, 0};
			pfd[1] = (struct pollfd){l->alarm_fd, POLLIN, 0};
			for (int i = 0; i < l->nr_watches; i++)
				pfd[i + 2] = (struct pollfd){l->watch[i].fd, l->watch[i].events, 0};
			npfd = l->nr_watches + 2;
		}
		set_alarm(l); /* which also ends that it is readable */
		if (rang && l->alarm_at == ALARM_OFF && read(l->alarm_fd, &v, sizeof(v)) < 0) {
			/* EAGAIN: it was set anew meanwhile */
		}
		l->sleeping = true;
		posts = l->posts; /* since run_posts */
		pthread_mutex_unlock(&l->lock);

		int n = ppoll(pfd, (nfds_t)npfd, posts ? &at_once : NULL, NULL);

		pthread_mutex_lock(&l->lock);
		l->sleeping = false;
		rang = n > 0 && pfd[1].revents;
		if (rang)
			l->alarm_at = ALARM_OFF;
		pthread_mutex_unlock(&l->lock);
		if (n < 0 && errno != EINTR)
			bug("ppoll: %s", strerror(errno));
		if (n <= 0)
			continue;
		if (pfd[0].revents) {
			ssize_t r = read(l->wake_fd, &v, sizeof(v));

			(void)r;
		}
		for (int i = 2; i < npfd; i++)
			if (pfd[i].revents)
				run_watch(l, pfd[i].fd, pfd[i].revents);
	}
	free(pfd);
}

void loop_stop(struct loop *l)
{
	l->stop = true;
	loop_wake(l);
}
