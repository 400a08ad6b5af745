// SPDX-License-Identifier: MIT
/* Descriptors are not set non-blocking: the open file description is shared with the shell and with
 * stderr, and others would fail with EAGAIN. A terminal or pipe is opened anew through
 * /proc/self/fd instead, which gives a description of our own; where that is refused, every write
 * is small and preceded by poll(). */
#include "io/console.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "io/tty.h"

#define FLUSH_STALL_MS 1000 /* at the end: give up after this long without progress */
/* The guest may fill CONSOLE_OUT_SIZE of it; the rest is for the menu, which must be heard also
 * when the guest prints without end. */
#define OUT_RING     (CONSOLE_OUT_SIZE + 32 * 1024)
#define POLLED_WRITE 512 /* PIPE_BUF's least value: a writable pipe takes it whole */

enum out_kind { OUT_NONE, OUT_FILE, OUT_NONBLOCK, OUT_SOCKET, OUT_POLLED };

struct console {
	struct chardev chardev;
	struct loop *loop;

	int in_fd; /* -1: none, or at its end */
	bool in_watched;
	bool raw;
	struct console_escape escape;
	bool escape_on, escaped; /* escaped: the escape key was the last one */
	u8 in[CONSOLE_IN_SIZE];
	u32 in_head, in_len;
	u64 in_lost;
	bool pulling; /* in front->receive: it may pull again */

	int out_fd;
	enum out_kind out_kind;
	bool out_tty, out_watched, out_failed;
	bool short_write; /* the front waits for `drained` */
	u8 out[OUT_RING];
	u32 out_head, out_len;
};

static const char menu_line[] =
	"\n[ringer: q quit, p power button, s pause/resume, r registers, i info, h help]\n";

static const char help_text[] = "Ctrl-] then\n"
				"  q       quit: end the virtual machine at once\n"
				"  p       press the power button: asks the guest to shut down\n"
				"  s       pause, or go on\n"
				"  r       registers of every virtual CPU\n"
				"  i       exit statistics and state of the devices\n"
				"  h or ?  this help\n"
				"  Ctrl-]  send a Ctrl-] to the guest\n";

static struct console *console_of(struct chardev *c)
{
	return container_of(c, struct console, chardev);
}

/* ---- output ---- */

/* What the descriptor takes now: bytes, 0 when it is congested, -errno when it is broken. */
static ssize_t out_raw_write(struct console *s, const u8 *buf, size_t n)
{
	struct pollfd p = {s->out_fd, POLLOUT, 0};
	ssize_t r;

	switch (s->out_kind) {
	case OUT_NONE:
		return (ssize_t)n;
	case OUT_SOCKET:
		r = send(s->out_fd, buf, n, MSG_DONTWAIT | MSG_NOSIGNAL);
		break;
	case OUT_POLLED:
		if (poll(&p, 1, 0) <= 0)
			return 0;
		r = write(s->out_fd, buf, MIN(n, (size_t)POLLED_WRITE));
		break;
	default:
		r = write(s->out_fd, buf, n);
		break;
	}
	if (r < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	return r;
}

static void on_writable(void *arg, short revents);

static void out_watch(struct console *s, bool on)
{
	if (on == s->out_watched)
		return;
	if (on && loop_add_fd(s->loop, s->out_fd, POLLOUT, on_writable, s) < 0)
		return; /* out of memory: tried again with the next byte */
	if (!on)
		loop_del_fd(s->loop, s->out_fd);
	s->out_watched = on;
}

static void out_fail(struct console *s, int err)
{
	if (!s->out_failed)
		log_warn("console output lost: %s", strerror(err));
	s->out_failed = true;
	s->out_len = 0;
	out_watch(s, false);
}

/* Write from the ring what goes without waiting. */
static void out_flush(struct console *s)
{
	while (s->out_len) {
		u32 n = MIN(s->out_len, OUT_RING - s->out_head);
		ssize_t r = out_raw_write(s, s->out + s->out_head, n);

		if (r < 0) {
			out_fail(s, (int)-r);
			return;
		}
		if (!r)
			break;
		s->out_head = (s->out_head + (u32)r) % OUT_RING;
		s->out_len -= (u32)r;
	}
	out_watch(s, s->out_len != 0);
}

/* What goes at once, then into the ring up to `limit`. */
static size_t out_write(struct console *s, const u8 *buf, size_t n, u32 limit)
{
	size_t done = 0;

	if (s->out_failed || s->out_kind == OUT_NONE)
		return n;
	if (!s->out_len) {
		ssize_t r = out_raw_write(s, buf, n);

		if (r < 0) {
			out_fail(s, (int)-r);
			return n;
		}
		done = (size_t)r;
	}
	while (done < n && s->out_len < limit) {
		u32 at = (s->out_head + s->out_len) % OUT_RING;
		u32 room = MIN(limit - s->out_len, OUT_RING - at);
		u32 m = (u32)MIN(n - done, (size_t)room);

		memcpy(s->out + at, buf + done, m);
		s->out_len += m;
		done += m;
	}
	if (s->out_len)
		out_watch(s, true);
	return done;
}

static size_t console_write(struct chardev *c, const u8 *buf, size_t n)
{
	struct console *s = console_of(c);
	size_t done = out_write(s, buf, n, CONSOLE_OUT_SIZE);

	if (done < n)
		s->short_write = true;
	return done;
}

static void on_writable(void *arg, short revents)
{
	struct console *s = arg;

	out_flush(s);
	if (s->short_write && s->out_len < CONSOLE_OUT_SIZE / 2) {
		s->short_write = false;
		if (s->chardev.front)
			s->chardev.front->drained(s->chardev.front_arg);
	}
}

/* The ring to the host, waiting as long as there is progress. */
static void out_drain(struct console *s)
{
	while (s->out_len) {
		struct pollfd p = {s->out_fd, POLLOUT, 0};
		u32 before = s->out_len;

		if (poll(&p, 1, FLUSH_STALL_MS) == 0)
			break;
		out_flush(s);
		if (s->out_len == before && !(p.revents & POLLOUT))
			break;
	}
	if (s->out_len)
		log_warn("%u bytes of console output lost: nobody reads them", s->out_len);
	out_watch(s, false);
}

/* For the user's eyes: when the guest's output goes elsewhere, on stderr. */
static void print_bytes(struct console *s, const char *text, size_t n)
{
	if (s->out_tty) {
		out_write(s, (const u8 *)text, n, OUT_RING);
	} else {
		ssize_t r = write(STDERR_FILENO, text, n);

		(void)r; /* nowhere left to say it */
	}
}

void console_print(struct chardev *c, const char *text)
{
	struct console *s = console_of(c);

	while (*text) {
		size_t n = strcspn(text, "\n");

		print_bytes(s, text, n);
		text += n;
		if (*text == '\n') {
			print_bytes(s, s->raw ? "\r\n" : "\n", s->raw ? 2 : 1);
			text++;
		}
	}
}

/* ---- input ---- */

static void on_readable(void *arg, short revents);

static void in_watch(struct console *s, bool on)
{
	if (s->in_fd < 0)
		on = false;
	if (on == s->in_watched)
		return;
	if (on && loop_add_fd(s->loop, s->in_fd, POLLIN, on_readable, s) < 0)
		return;
	if (!on)
		loop_del_fd(s->loop, s->in_fd);
	s->in_watched = on;
}

static void in_close(struct console *s)
{
	in_watch(s, false);
	if (s->in_fd >= 0)
		close(s->in_fd);
	s->in_fd = -1;
}

/* Buffered input to the device, as much as it takes. */
static void console_pull(struct chardev *c)
{
	struct console *s = console_of(c);

	if (s->pulling)
		return;
	s->pulling = true;
	while (s->in_len && c->front) {
		size_t room = c->front->room(c->front_arg);
		u32 n = MIN(s->in_len, CONSOLE_IN_SIZE - s->in_head);

		if (!room)
			break;
		n = (u32)MIN((size_t)n, room);
		c->front->receive(c->front_arg, s->in + s->in_head, n);
		s->in_head = (s->in_head + n) % CONSOLE_IN_SIZE;
		s->in_len -= n;
	}
	s->pulling = false;
	in_watch(s, s->escape_on || s->in_len < CONSOLE_IN_SIZE);
}

static void in_put(struct console *s, u8 byte)
{
	if (s->in_len == CONSOLE_IN_SIZE) {
		if (!s->in_lost++)
			log_warn("console input lost: the guest does not read it");
		return;
	}
	s->in[(s->in_head + s->in_len++) % CONSOLE_IN_SIZE] = byte;
}

static void in_key(struct console *s, u8 key)
{
	if (!s->escape_on) {
		in_put(s, key);
	} else if (!s->escaped) {
		if (key == CONSOLE_ESCAPE_KEY) {
			s->escaped = true;
			console_print(&s->chardev, menu_line);
		} else {
			in_put(s, key);
		}
	} else {
		s->escaped = false;
		if (key == CONSOLE_ESCAPE_KEY)
			in_put(s, key);
		else if (key == 'h' || key == '?')
			console_print(&s->chardev, help_text);
		else if (!s->escape.command || !s->escape.command(s->escape.arg, (char)key))
			console_print(&s->chardev,
			              "ringer: no such command; Ctrl-] h lists them\n");
	}
}

static void on_readable(void *arg, short revents)
{
	struct console *s = arg;
	u8 buf[1024];
	size_t want = sizeof(buf);
	ssize_t r;

	if (!s->escape_on)
		want = MIN(want, (size_t)(CONSOLE_IN_SIZE - s->in_len));
	if (!want) {
		in_watch(s, false);
		return;
	}
	r = read(s->in_fd, buf, want);
	if (r < 0 && (errno == EINTR || errno == EAGAIN))
		return;
	if (r <= 0) { /* EOF, or EIO: the terminal was hung up */
		in_close(s);
		return;
	}
	for (ssize_t i = 0; i < r; i++)
		in_key(s, buf[i]);
	console_pull(&s->chardev);
}

/* ---- making and ending ---- */

static void console_destroy(struct chardev *c)
{
	struct console *s = console_of(c);

	in_close(s);
	out_drain(s);
	if (s->out_fd >= 0)
		close(s->out_fd);
	if (s->raw)
		tty_restore();
	free(s);
}

static const struct chardev_ops console_ops = {
	.write = console_write,
	.pull = console_pull,
	.destroy = console_destroy,
};

/* A descriptor of our own for output, and how to write to it. */
static int out_open(struct console *s, int fd)
{
	char path[32];
	struct stat st;

	if (fstat(fd, &st) < 0)
		return -errno;
	/* Other character devices do not block; opening a pty's master anew would make a new pty.
	 */
	if (S_ISFIFO(st.st_mode) || (isatty(fd) && st.st_rdev != makedev(5, 2))) {
		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		s->out_fd = open(path, O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
		if (s->out_fd >= 0) {
			s->out_kind = OUT_NONBLOCK;
			return 0;
		}
		s->out_kind = OUT_POLLED;
	} else {
		s->out_kind = S_ISSOCK(st.st_mode) ? OUT_SOCKET
		              : isatty(fd)         ? OUT_POLLED
		                                   : OUT_FILE;
	}
	s->out_fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	return s->out_fd < 0 ? -errno : 0;
}

static void ignore_sigpipe(void)
{
	struct sigaction sa;

	/* Writing to a pipe has no MSG_NOSIGNAL; EPIPE is handled where it happens. */
	if (!sigaction(SIGPIPE, NULL, &sa) && !(sa.sa_flags & SA_SIGINFO) &&
	    sa.sa_handler == SIG_DFL)
		signal(SIGPIPE, SIG_IGN);
}

int console_create(struct chardev **out, struct loop *loop, const struct console_config *cfg)
{
	struct console *s = calloc(1, sizeof(*s));
	int err = -ENOMEM;

	if (!s)
		goto fail;
	s->chardev.ops = &console_ops;
	s->loop = loop;
	s->in_fd = s->out_fd = -1;
	if (cfg->escape) {
		s->escape = *cfg->escape;
		s->escape_on = true;
	}
	if (cfg->out_fd >= 0) {
		ignore_sigpipe();
		err = out_open(s, cfg->out_fd);
		if (err)
			goto fail;
		s->out_tty = isatty(s->out_fd);
	}
	if (cfg->in_fd >= 0) {
		s->in_fd = fcntl(cfg->in_fd, F_DUPFD_CLOEXEC, 3);
		if (s->in_fd < 0) {
			err = -errno;
			goto fail;
		}
		in_watch(s, true);
		if (!s->in_watched) {
			err = -ENOMEM;
			goto fail;
		}
	}
	*out = &s->chardev;
	return 0;
fail:
	log_error("console: %s", strerror(-err));
	if (s)
		console_destroy(&s->chardev);
	return err;
}

int console_create_stdio(struct chardev **out, struct loop *loop,
                         const struct console_escape *escape)
{
	bool terminal = isatty(STDIN_FILENO);
	struct console_config cfg = {STDIN_FILENO, STDOUT_FILENO, terminal ? escape : NULL};
	int err;

	/* A closed stdin or stdout (`<&-`) is none. */
	if (fcntl(cfg.in_fd, F_GETFD) < 0)
		cfg.in_fd = -1;
	if (fcntl(cfg.out_fd, F_GETFD) < 0)
		cfg.out_fd = -1;
	err = console_create(out, loop, &cfg);
	if (err || !terminal)
		return err;
	err = tty_raw(STDIN_FILENO);
	if (err) {
		log_error("cannot set the terminal to raw mode: %s", strerror(-err));
		chardev_destroy(*out);
		*out = NULL;
		return err;
	}
	console_of(*out)->raw = true;
	return 0;
}
