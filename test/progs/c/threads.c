/* SPDX-License-Identifier: MIT */
/* Threads: mutexes, conditions, barriers, atomics of every width, memory order, thread-local
 * storage, signals to threads, futex handover. */
#include "check.h"
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <time.h>
#include <unistd.h>

#define THREADS 8

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_barrier_t barrier;
static long plain;
static atomic_long counted, xored, maximum;
static atomic_uchar byte;
static atomic_ushort half;
static struct {
	_Alignas(16) volatile __int128 wide;
} pair;
static _Thread_local long mine;

static void *worker(void *arg)
{
	long id = (long)arg;
	uint64_t seed = id * 7919 + 1;
	pthread_barrier_wait(&barrier);
	for (int i = 0; i < 5000; i++) {
		pthread_mutex_lock(&lock);
		plain++;
		pthread_mutex_unlock(&lock);
		atomic_fetch_add(&counted, 1);
		atomic_fetch_xor(&xored, check_random(&seed));
		atomic_fetch_add(&byte, 1);
		atomic_fetch_add(&half, 3);
		long now = check_random(&seed) >> 20, old = atomic_load(&maximum);
		while (old < now && !atomic_compare_exchange_weak(&maximum, &old, now)) {
		}
		__int128 was = pair.wide;
		while (!__sync_bool_compare_and_swap(&pair.wide, was,
		                                     was + (((__int128)1 << 64) | 1))) {
			was = pair.wide;
		}
		mine += id;
	}
	return (void *)mine;
}

static void counting(void)
{
	pthread_t t[THREADS];
	pthread_barrier_init(&barrier, NULL, THREADS);
	long want = 0, most = 0;
	for (long i = 0; i < THREADS; i++) {
		CHECK(!pthread_create(&t[i], NULL, worker, (void *)i), "thread %ld", i);
		uint64_t seed = i * 7919 + 1;
		for (int k = 0; k < 5000; k++) {
			want ^= check_random(&seed);
			long now = check_random(&seed) >> 20;
			most = now > most ? now : most;
		}
	}
	for (long i = 0; i < THREADS; i++) {
		void *got;
		CHECK(!pthread_join(t[i], &got) && (long)got == 5000 * i, "thread %ld", i);
	}
	CHECK(plain == 5000 * THREADS && counted == plain, "%ld %ld", plain, (long)counted);
	CHECK(xored == want && maximum == most, "%lx %lx", (long)xored, want);
	CHECK(byte == (unsigned char)plain && half == (unsigned short)(3 * plain),
	      "narrow atomics");
	__int128 wide = pair.wide;
	CHECK((long)wide == plain && (long)(wide >> 64) == plain, "cmpxchg16b");
	CHECK(!mine, "thread-local storage");
}

/* A ring with two semaphores, and one with a condition. */
static struct {
	int items[16];
	unsigned in, out;
	sem_t full, empty;
} ring;

static void *producer(void *arg)
{
	(void)arg;
	for (int i = 1; i <= 20000; i++) {
		sem_wait(&ring.empty);
		ring.items[ring.in++ % 16] = i;
		sem_post(&ring.full);
	}
	return NULL;
}

static void handing(void)
{
	pthread_t t;
	long sum = 0, order = 1;
	sem_init(&ring.full, 0, 0);
	sem_init(&ring.empty, 0, 16);
	pthread_create(&t, NULL, producer, NULL);
	for (int i = 1; i <= 20000; i++) {
		sem_wait(&ring.full);
		int got = ring.items[ring.out++ % 16];
		order &= got == i;
		sum += got;
		sem_post(&ring.empty);
	}
	pthread_join(t, NULL);
	CHECK(order && sum == 200010000, "ring %ld", sum);
}

static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
static int turn;

static void *player(void *arg)
{
	int me = (int)(long)arg;
	for (int i = 0; i < 2000; i++) {
		pthread_mutex_lock(&lock);
		while (turn % 3 != me) {
			pthread_cond_wait(&cond, &lock);
		}
		turn++;
		pthread_cond_broadcast(&cond);
		pthread_mutex_unlock(&lock);
	}
	return NULL;
}

static void turns(void)
{
	pthread_t t[3];
	for (long i = 0; i < 3; i++) {
		pthread_create(&t[i], NULL, player, (void *)i);
	}
	for (int i = 0; i < 3; i++) {
		pthread_join(t[i], NULL);
	}
	CHECK(turn == 6000, "%d turns", turn);
}

/* Dekker with fences, and message passing without: x86's order. */
static atomic_int want_in[2], inside, clashes;
static volatile int data_word, ready;

static void *dekker(void *arg)
{
	int me = (int)(long)arg;
	for (int i = 0; i < 20000; i++) {
		atomic_store_explicit(&want_in[me], 1, memory_order_relaxed);
		atomic_thread_fence(memory_order_seq_cst);
		if (!atomic_load_explicit(&want_in[!me], memory_order_relaxed)) {
			if (atomic_fetch_add(&inside, 1)) {
				clashes++;
			}
			atomic_fetch_sub(&inside, 1);
		}
		atomic_store_explicit(&want_in[me], 0, memory_order_release);
	}
	return NULL;
}

static void *reader(void *arg)
{
	long wrong = 0;
	(void)arg;
	for (int i = 1; i <= 3000; i++) {
		while (ready < i) {
			sched_yield();
		}
		asm volatile("" ::: "memory");
		wrong += data_word < i;
	}
	return (void *)wrong;
}

static void ordering(void)
{
	pthread_t t[2];
	void *wrong;
	for (long i = 0; i < 2; i++) {
		pthread_create(&t[i], NULL, dekker, (void *)i);
	}
	for (int i = 0; i < 2; i++) {
		pthread_join(t[i], NULL);
	}
	CHECK(!clashes, "%d clashes", (int)clashes);
	pthread_create(&t[0], NULL, reader, NULL);
	for (int i = 1; i <= 3000; i++) {
		data_word = i;
		asm volatile("" ::: "memory");
		ready = i;
		if (i % 16 == 0) {
			sched_yield();
		}
	}
	pthread_join(t[0], &wrong);
	CHECK(!wrong, "%ld stores seen out of order", (long)wrong);
}

static atomic_int signals;

static void on_signal(int sig)
{
	(void)sig;
	signals++;
}

static atomic_int stop;

static void *spinner(void *arg)
{
	uint64_t seed = 5;
	double x = 0, *out = arg;
	/* State in every kind of register, while signals arrive. */
	while (!stop) {
		x = 0;
		seed = 5;
		for (int i = 0; i < 1000; i++) {
			x += (double)(check_random(&seed) >> 40) * 0.5;
		}
		if (*out != 0 && *out != x) {
			return (void *)1;
		}
		*out = x;
	}
	return NULL;
}

static void signalling(void)
{
	pthread_t t;
	double value = 0;
	void *bad;
	signal(SIGUSR1, on_signal);
	pthread_create(&t, NULL, spinner, &value);
	for (int i = 0; i < 300; i++) {
		int before = signals;
		pthread_kill(t, SIGUSR1);
		while (signals == before) {
			sched_yield();
		}
	}
	stop = 1;
	pthread_join(t, &bad);
	CHECK(signals == 300 && !bad, "%d signals", (int)signals);
}

static void many(void)
{
	for (int i = 0; i < 300; i++) {
		pthread_t t;
		void *got = NULL;
		pthread_barrier_init(&barrier, NULL, 1);
		if (pthread_create(&t, NULL, (void *(*)(void *))(void *)strdup, "thread")) {
			CHECK(0, "thread %d: %s", i, strerror(errno));
			return;
		}
		pthread_join(t, &got);
		CHECK(got && !strcmp(got, "thread"), "thread %d", i);
		free(got);
	}
}

static void timed(void)
{
	struct timespec when, before, after;
	pthread_mutex_lock(&lock);
	clock_gettime(CLOCK_MONOTONIC, &before);
	clock_gettime(CLOCK_REALTIME, &when);
	when.tv_nsec += 50000000;
	if (when.tv_nsec >= 1000000000) {
		when.tv_sec++;
		when.tv_nsec -= 1000000000;
	}
	int rc;
	while ((rc = pthread_cond_timedwait(&cond, &lock, &when)) == 0) {
	}
	clock_gettime(CLOCK_MONOTONIC, &after);
	pthread_mutex_unlock(&lock);
	double waited = after.tv_sec - before.tv_sec + 1e-9 * (after.tv_nsec - before.tv_nsec);
	CHECK(rc == ETIMEDOUT && waited > 0.049 && waited < 30, "waited %g s", waited);
}

int main(void)
{
	counting();
	handing();
	turns();
	ordering();
	signalling();
	many();
	timed();
	return check_end();
}
