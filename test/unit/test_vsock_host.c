// SPDX-License-Identifier: MIT
/* The host's side of vsock: which sockets a guest's port leads to, and a process that has no
 * descriptor left. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include <cmocka.h>

#include "bus/listener.h"
#include "devtest.h"
#include "io/vsock.h"

struct rig {
	struct devtest t;
	char dir[32], path[64];
	struct vsock_host *h;
	unsigned answers;
	u32 id;
	int fd; /* or -errno */
};

static struct rig rig;

static void on_connected(void *arg, u32 id, int fd)
{
	struct rig *r = arg;

	r->answers++;
	r->id = id;
	r->fd = fd;
}

static int setup(void **state)
{
	memset(&rig, 0, sizeof(rig));
	devtest_init(&rig.t, 0);
	loop_clock_stop(rig.t.loop);
	snprintf(rig.dir, sizeof(rig.dir), "/tmp/ringer-test-XXXXXX");
	assert_non_null(mkdtemp(rig.dir));
	snprintf(rig.path, sizeof(rig.path), "%s/vm", rig.dir);
	assert_int_equal(vsock_host_create(&rig.h, rig.t.loop, rig.path), 0);
	rig.h->connected = on_connected;
	rig.h->arg = &rig;
	*state = &rig;
	return 0;
}

static int teardown(void **state)
{
	char cmd[64];

	rig.h->destroy(rig.h);
	devtest_fini(&rig.t);
	snprintf(cmd, sizeof(cmd), "rm -rf %s", rig.dir);
	return system(cmd);
}

static void name_of(const struct rig *r, char *name, u32 port)
{
	snprintf(name, 100, "%s_%u", r->path, port);
}

static int listens(const struct rig *r, u32 port)
{
	struct sockaddr_un sun = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	name_of(r, sun.sun_path, port);
	assert_int_equal(bind(fd, (struct sockaddr *)&sun, sizeof(sun)), 0);
	assert_int_equal(listen(fd, 4), 0);
	return fd;
}

/* What the guest gets. */
static int ask(struct rig *r, u32 port)
{
	unsigned answers = r->answers;

	assert_int_equal(r->h->connect(r->h, port, 7 + port), 0);
	for (unsigned i = 0; i < 5000 && r->answers == answers; i++) {
		usleep(i ? 2000 : 0);
		loop_look(r->t.loop);
	}
	assert_int_equal(r->answers, answers + 1);
	assert_int_equal(r->id, 7 + port);
	return r->fd;
}

static void a_socket(void **state)
{
	struct rig *r = *state;
	int l = listens(r, 4294967295u), c, fd;
	char buf[4];

	for (unsigned i = 0; i < 3; i++) {
		fd = ask(r, 4294967295u);
		assert_true(fd >= 0);
		c = accept(l, NULL, NULL);
		assert_int_equal(send(fd, "abc", 3, 0), 3);
		assert_int_equal(recv(c, buf, sizeof(buf), 0), 3);
		close(c);
		close(fd);
	}
	close(l);
	assert_int_equal(ask(r, 4294967295u), -ECONNREFUSED);
	assert_int_equal(ask(r, 1), -ENOENT);
}

static void not_a_socket(void **state)
{
	struct rig *r = *state;
	char name[100], to[100];
	int l = listens(r, 5000);

	name_of(r, to, 5000);
	/* To a socket of ours, even: whoever may write in the folder would choose which. */
	name_of(r, name, 5001);
	assert_int_equal(symlink(to, name), 0);
	assert_int_equal(ask(r, 5001), -EPERM);
	name_of(r, name, 5002);
	assert_int_equal(symlink("/nowhere", name), 0);
	assert_int_equal(ask(r, 5002), -EPERM);
	name_of(r, name, 5003);
	close(open(name, O_CREAT | O_WRONLY, 0600));
	assert_int_equal(ask(r, 5003), -EPERM);
	name_of(r, name, 5004);
	assert_int_equal(mkfifo(name, 0600), 0);
	assert_int_equal(ask(r, 5004), -EPERM);
	assert_true(ask(r, 5000) >= 0); /* it lives */
	close(r->fd);
	close(l);
}

static void of_another_user(void **state)
{
	struct rig *r = *state;
	int l = listens(r, 5000);
	char name[100];

	name_of(r, name, 5000);
	if (chown(name, 65534, 65534) < 0) {
		print_message("skip: no right to give a file away\n");
		close(l);
		skip();
	}
	assert_int_equal(ask(r, 5000), -EPERM);
	assert_int_equal(chown(name, 0, 0), 0);
	assert_true(ask(r, 5000) >= 0);
	close(r->fd);
	close(l);
}

/* ---- no descriptors ---- */

struct taken {
	unsigned n;
	int fd;
};

static void on_taken(void *arg, int fd)
{
	struct taken *t = arg;

	t->n++;
	t->fd = fd;
}

static void no_descriptors(void **state)
{
	struct rig *r = *state;
	struct loop *loop = r->t.loop;
	struct sockaddr_un sun = {.sun_family = AF_UNIX};
	int l = listens(r, 5000), c = socket(AF_UNIX, SOCK_STREAM, 0);
	struct rlimit was, none;
	struct listener listener;
	struct taken taken = {0};

	assert_int_equal(listener_start(&listener, loop, l, on_taken, &taken), 0);
	name_of(r, sun.sun_path, 5000);
	assert_int_equal(connect(c, (struct sockaddr *)&sun, sizeof(sun)), 0);
	getrlimit(RLIMIT_NOFILE, &was);
	none = was;
	none.rlim_cur = 3;
	setrlimit(RLIMIT_NOFILE, &none);
	loop_look(loop); /* poll(2) too has that limit, so with it back: */
	setrlimit(RLIMIT_NOFILE, &was);
	assert_int_equal(taken.n, 0);
	/* It is not looked at again at once, but soon. */
	loop_look(loop);
	assert_int_equal(taken.n, 0);
	loop_clock_step(loop, LISTENER_PAUSE_NS);
	loop_look(loop);
	assert_int_equal(taken.n, 1);
	close(taken.fd);
	close(c);
	/* Off and on. */
	c = socket(AF_UNIX, SOCK_STREAM, 0);
	listener_enable(&listener, false);
	assert_int_equal(connect(c, (struct sockaddr *)&sun, sizeof(sun)), 0);
	loop_look(loop);
	assert_int_equal(taken.n, 1);
	listener_enable(&listener, true);
	loop_look(loop);
	assert_int_equal(taken.n, 2);
	close(taken.fd);
	listener_stop(&listener);
	close(c);
	close(l);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(a_socket),
		T(not_a_socket),
		T(of_another_user),
		T(no_descriptors),
	};

	log_set_level(LOG_ERROR);
	return cmocka_run_group_tests_name("vsock_host", tests, NULL, NULL);
}
