// SPDX-License-Identifier: MIT
/* Consoles on pipes, a full device and a pseudo-terminal. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "devtest.h"
#include "io/console.h"

#define MS 1000000ull

struct st {
	struct devtest t;
	struct chardev *c;
	int in[2], out[2];
	/* the front */
	size_t room;
	u8 got[70000];
	size_t nr_got;
	unsigned drained;
	/* the menu */
	char keys[16];
	unsigned nr_keys;
};

static size_t f_room(void *arg)
{
	struct st *st = arg;

	return MIN(st->room, sizeof(st->got) - st->nr_got);
}

static void f_receive(void *arg, const u8 *buf, size_t n)
{
	struct st *st = arg;

	assert_true(n <= st->room);
	memcpy(st->got + st->nr_got, buf, n);
	st->nr_got += n;
	st->room -= n;
}

static void f_drained(void *arg)
{
	struct st *st = arg;

	st->drained++;
	loop_stop(st->t.loop);
}

static const struct chardev_front front = {f_room, f_receive, f_drained};

static bool on_command(void *arg, char key)
{
	struct st *st = arg;

	if (key == '!')
		return false;
	st->keys[st->nr_keys++] = key;
	return true;
}

static int setup(void **state)
{
	struct st *st = calloc(1, sizeof(*st));

	devtest_init(&st->t, 0);
	if (pipe(st->in) || pipe(st->out))
		return -1;
	*state = st;
	return 0;
}

static void close_one(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

static int teardown(void **state)
{
	struct st *st = *state;

	chardev_destroy(st->c);
	devtest_fini(&st->t);
	for (int i = 0; i < 2; i++) {
		close_one(&st->in[i]);
		close_one(&st->out[i]);
	}
	free(st);
	return 0;
}

static void make(struct st *st, int in, int out, const struct console_escape *esc)
{
	struct console_config cfg = {in, out, esc};

	assert_int_equal(console_create(&st->c, st->t.loop, &cfg), 0);
	chardev_connect(st->c, &front, st);
}

static void put(struct st *st, const char *s, size_t n)
{
	assert_int_equal(write(st->in[1], s, n), n);
}

static void test_write(void **state)
{
	struct st *st = *state;
	char buf[16];

	make(st, -1, st->out[1], NULL);
	assert_int_equal(chardev_write(st->c, (const u8 *)"hello", 5), 5);
	assert_int_equal(read(st->out[0], buf, sizeof(buf)), 5); /* there at once */
	assert_memory_equal(buf, "hello", 5);
	/* the descriptor that others share stays blocking */
	assert_int_equal(fcntl(st->out[1], F_GETFL) & O_NONBLOCK, 0);
}

static void test_none(void **state)
{
	struct st *st = *state;

	make(st, -1, -1, NULL);
	assert_int_equal(chardev_write(st->c, (const u8 *)"hello", 5), 5);
	chardev_pull(st->c);
}

/* Reads everything to the end, slowly at first. */
struct reader {
	int fd;
	size_t seen;
	bool wrong;
};

static u8 pattern(size_t i)
{
	return (u8)(i * 13 >> 3);
}

static void *reader_run(void *arg)
{
	struct reader *r = arg;
	u8 buf[4096];
	ssize_t n;

	while ((n = read(r->fd, buf, sizeof(buf))) > 0)
		for (ssize_t i = 0; i < n; i++, r->seen++)
			if (buf[i] != pattern(r->seen))
				r->wrong = true;
	return NULL;
}

/* Fill the descriptor and the buffer, then read: nothing blocks, nothing is lost. */
static void congest(struct st *st, int *out, int reader_fd)
{
	struct reader r = {reader_fd};
	size_t sent = 0, n;
	u64 start = loop_now(st->t.loop);
	pthread_t th;
	u8 buf[1000];

	make(st, -1, *out, NULL);
	close_one(out);
	do {
		for (size_t i = 0; i < sizeof(buf); i++)
			buf[i] = pattern(sent + i);
		n = chardev_write(st->c, buf, sizeof(buf));
		sent += n;
		assert_true(sent < 64 * MiB);
	} while (n == sizeof(buf));
	assert_true(loop_now(st->t.loop) - start < 2000 * MS);
	assert_true(sent > CONSOLE_OUT_SIZE);
	assert_int_equal(chardev_write(st->c, buf, 1), 0);
	assert_int_equal(st->drained, 0);
	assert_int_equal(pthread_create(&th, NULL, reader_run, &r), 0);
	assert_true(devtest_run(&st->t, 5000 * MS)); /* until `drained` */
	buf[0] = pattern(sent);
	assert_int_equal(chardev_write(st->c, buf, 1), 1);
	sent++;
	chardev_destroy(st->c); /* hands over the rest */
	st->c = NULL;
	pthread_join(th, NULL);
	assert_int_equal(st->drained, 1);
	assert_int_equal(r.seen, sent);
	assert_false(r.wrong);
}

static void test_full_pipe(void **state)
{
	struct st *st = *state;

	congest(st, &st->out[1], st->out[0]);
}

static void test_full_socket(void **state)
{
	struct st *st = *state;
	int sv[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, sv), 0);
	congest(st, &sv[0], sv[1]);
	close(sv[1]);
}

static int open_pty(int *master)
{
	struct termios t;
	int slave;

	*master = posix_openpt(O_RDWR | O_NOCTTY);
	assert_true(*master >= 0 && !grantpt(*master) && !unlockpt(*master));
	slave = open(ptsname(*master), O_RDWR | O_NOCTTY);
	assert_true(slave >= 0);
	assert_int_equal(tcgetattr(slave, &t), 0);
	cfmakeraw(&t);
	assert_int_equal(tcsetattr(slave, TCSANOW, &t), 0);
	return slave;
}

static void test_full_terminal(void **state)
{
	struct st *st = *state;
	int master, slave = open_pty(&master);

	congest(st, &slave, master);
	close(master);
}

/* Nobody reads at all: the end does not hang. */
static void test_stuck_reader(void **state)
{
	struct st *st = *state;
	u8 buf[4096] = {0};
	u64 start;

	make(st, -1, st->out[1], NULL);
	while (chardev_write(st->c, buf, sizeof(buf)))
		;
	start = loop_now(st->t.loop);
	chardev_destroy(st->c);
	st->c = NULL;
	assert_true(loop_now(st->t.loop) - start < 5000 * MS);
}

static void test_reader_gone(void **state)
{
	struct st *st = *state;
	u8 buf[4096] = {0};

	make(st, -1, st->out[1], NULL);
	close_one(&st->out[0]);
	for (int i = 0; i < 100; i++) /* swallowed, and no SIGPIPE */
		assert_int_equal(chardev_write(st->c, buf, sizeof(buf)), sizeof(buf));
}

static void test_reader_goes_while_full(void **state)
{
	struct st *st = *state;
	u8 buf[4096] = {0};

	make(st, -1, st->out[1], NULL);
	while (chardev_write(st->c, buf, sizeof(buf)))
		;
	close_one(&st->out[0]);
	assert_true(devtest_run(&st->t, 2000 * MS)); /* the front hears that it may go on */
	assert_int_equal(chardev_write(st->c, buf, sizeof(buf)), sizeof(buf));
}

static void test_full_device(void **state)
{
	struct st *st = *state;
	int fd = open("/dev/full", O_WRONLY);

	make(st, -1, fd, NULL);
	close(fd);
	assert_int_equal(chardev_write(st->c, (const u8 *)"x", 1), 1);
	assert_int_equal(chardev_write(st->c, (const u8 *)"x", 1), 1);
}

static void test_input(void **state)
{
	struct st *st = *state;

	make(st, st->in[0], -1, NULL);
	st->room = 4;
	put(st, "abc\x1dqdef", 8);
	devtest_run(&st->t, 30 * MS);
	assert_int_equal(st->nr_got, 4); /* no more than there is room for */
	st->room = 100;
	chardev_pull(st->c);
	assert_int_equal(st->nr_got, 8);
	assert_memory_equal(st->got, "abc\x1dqdef", 8); /* no escape without a menu */
	assert_int_equal(st->nr_keys, 0);
}

static void test_input_before_front(void **state)
{
	struct st *st = *state;
	struct console_config cfg = {st->in[0], -1, NULL};

	assert_int_equal(console_create(&st->c, st->t.loop, &cfg), 0);
	put(st, "early", 5);
	devtest_run(&st->t, 30 * MS);
	st->room = 100;
	chardev_connect(st->c, &front, st);
	assert_int_equal(st->nr_got, 5);
}

static void test_input_end(void **state)
{
	struct st *st = *state;
	struct timespec a, b;

	make(st, st->in[0], -1, NULL);
	st->room = 3;
	put(st, "12345", 5);
	close_one(&st->in[1]);
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &a);
	devtest_run(&st->t, 300 * MS); /* asleep, not spinning on the hang-up */
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &b);
	assert_true((b.tv_sec - a.tv_sec) * 1000 + (b.tv_nsec - a.tv_nsec) / 1000000 < 100);
	assert_int_equal(st->nr_got, 3);
	st->room = 10;
	chardev_pull(st->c); /* what came before the end is not lost */
	assert_int_equal(st->nr_got, 5);
}

/* A pipe is not read further than the buffer: its writer waits. */
static void test_input_held_back(void **state)
{
	struct st *st = *state;
	static char big[CONSOLE_IN_SIZE + 5000];
	int left;

	memset(big, 'z', sizeof(big));
	make(st, st->in[0], -1, NULL);
	put(st, big, sizeof(big));
	devtest_run(&st->t, 50 * MS);
	assert_int_equal(ioctl(st->in[0], FIONREAD, &left), 0);
	assert_int_equal(left, 5000);
	assert_int_equal(st->nr_got, 0);
}

static void test_menu(void **state)
{
	struct st *st = *state;
	struct console_escape esc = {on_command, st};

	make(st, st->in[0], st->out[1], &esc);
	st->room = 100;
	put(st,
	    "a\x1dqb\x1d\x1d"
	    "c\x1dhd\x1d!e\x1d",
	    13);
	devtest_run(&st->t, 30 * MS);
	assert_int_equal(st->nr_keys, 1);
	assert_int_equal(st->keys[0], 'q');
	assert_int_equal(st->nr_got, 6);
	assert_memory_equal(st->got,
	                    "ab\x1d"
	                    "cde",
	                    6);
}

/* The escape key works although the guest reads nothing. */
static void test_menu_when_full(void **state)
{
	struct st *st = *state;
	struct console_escape esc = {on_command, st};
	static char big[CONSOLE_IN_SIZE + 5000];

	memset(big, 'z', sizeof(big));
	make(st, st->in[0], -1, &esc);
	put(st, big, sizeof(big));
	put(st, "\x1dr", 2);
	devtest_run(&st->t, 50 * MS);
	assert_int_equal(st->nr_keys, 1);
	assert_int_equal(st->keys[0], 'r');
	st->room = sizeof(st->got);
	chardev_pull(st->c);
	assert_int_equal(st->nr_got, CONSOLE_IN_SIZE);
}

/* Everything together in a child with a terminal as stdin and stdout. */
static void child_stdio(int slave)
{
	struct st *st = calloc(1, sizeof(*st));
	struct console_escape esc = {on_command, st};

	dup2(slave, 0);
	dup2(slave, 1);
	devtest_init(&st->t, 0);
	st->room = 100;
	if (console_create_stdio(&st->c, st->t.loop, &esc))
		_exit(1);
	chardev_connect(st->c, &front, st);
	console_print(st->c, "one\ntwo\n");
	devtest_run(&st->t, 400 * MS);
	chardev_write(st->c, st->got, st->nr_got);
	chardev_destroy(st->c);
	_exit(st->nr_keys == 1 && st->keys[0] == 'p' ? 0 : 2);
}

static size_t read_some(int fd, char *buf, size_t size)
{
	struct pollfd p = {fd, POLLIN, 0};
	size_t n = 0;
	ssize_t r;

	while (n < size - 1 && poll(&p, 1, 150) > 0 && (p.revents & POLLIN)) {
		r = read(fd, buf + n, size - 1 - n);
		if (r <= 0)
			break;
		n += (size_t)r;
	}
	buf[n] = 0;
	return n;
}

static void test_stdio_terminal(void **state)
{
	struct termios before, t;
	char buf[2000];
	int master, status, slave;
	pid_t pid;

	slave = open_pty(&master);
	assert_int_equal(tcgetattr(slave, &before), 0);
	before.c_lflag |= ICANON | ISIG | ECHO;
	before.c_oflag |= OPOST | ONLCR;
	assert_int_equal(tcsetattr(slave, TCSANOW, &before), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (!pid)
		child_stdio(slave);
	assert_true(read_some(master, buf, sizeof(buf)) > 0);
	assert_string_equal(buf, "one\r\ntwo\r\n"); /* line ends of our own: the terminal is raw */
	assert_int_equal(tcgetattr(slave, &t), 0);
	assert_int_equal(t.c_lflag & (ICANON | ISIG | ECHO), 0);
	assert_int_equal(write(master, "k\x03\x1dp", 4), 4); /* Ctrl-C is the guest's */
	read_some(master, buf, sizeof(buf));
	assert_non_null(strstr(buf, "h help"));
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	read_some(master, buf, sizeof(buf));
	assert_string_equal(buf, "k\x03");
	assert_int_equal(tcgetattr(slave, &t), 0);
	assert_int_equal(t.c_lflag, before.c_lflag);
	close(master);
	close(slave);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_write),
		T(test_none),
		T(test_full_pipe),
		T(test_full_socket),
		T(test_full_terminal),
		T(test_stuck_reader),
		T(test_reader_gone),
		T(test_reader_goes_while_full),
		T(test_full_device),
		T(test_input),
		T(test_input_before_front),
		T(test_input_end),
		T(test_input_held_back),
		T(test_menu),
		T(test_menu_when_full),
		T(test_stdio_terminal),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
