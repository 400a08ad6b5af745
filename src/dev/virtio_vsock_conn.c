// SPDX-License-Identifier: MIT
/* One connection: a stream socket of the host on one side, credit (5.10.6.3) on the other. What the
 * guest may send is bounded by the credit we give, VSOCK_BUF bytes, so what waits for a slow reader
 * on the host is bounded by it too; what the host sends is read only when the guest has room. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "dev/virtio_vsock_priv.h"

#define GREETING_NS (10 * NSEC_PER_SEC)
#define REQUEST_NS  (5 * NSEC_PER_SEC)
#define FIRST_PORT  0x40000000u /* of connections that the host makes */
#define TELL_AT     (VSOCK_BUF / 4)

static void on_event(void *arg, short revents);

struct vsock_conn *vsock_conn_find(struct virtio_vsock *d, u32 guest_port, u32 host_port)
{
	for (unsigned i = 0; i < VSOCK_CONNS; i++) {
		struct vsock_conn *c = &d->conn[i];

		if (c->state > VSOCK_GREETING && c->guest_port == guest_port &&
		    c->host_port == host_port)
			return c;
	}
	return NULL;
}

struct vsock_conn *vsock_conn_new(struct virtio_vsock *d, enum vsock_state state)
{
	for (unsigned i = 0; i < VSOCK_CONNS; i++) {
		struct vsock_conn *c = &d->conn[i];

		if (c->state != VSOCK_FREE)
			continue;
		*c = (struct vsock_conn){.d = d, .state = state, .fd = -1};
		return c;
	}
	return NULL;
}

static void fd_close(struct vsock_conn *c)
{
	if (c->fd < 0)
		return;
	if (c->watched)
		loop_del_fd(c->d->v.env.loop, c->fd);
	close(c->fd);
	c->fd = -1;
	c->watched = false;
}

void vsock_conn_free(struct vsock_conn *c)
{
	fd_close(c);
	free(c->out);
	*c = (struct vsock_conn){.fd = -1};
}

void vsock_conn_reset(struct vsock_conn *c)
{
	fd_close(c);
	c->state = VSOCK_CLOSING;
	c->pending = VSOCK_P_RST;
	c->deadline = 0;
	vsock_kick(c->d);
}

void vsock_conn_deadline(struct vsock_conn *c, u64 ns)
{
	c->deadline = loop_now(c->d->v.env.loop) + ns;
	if (!timer_armed(&c->d->tick) || c->d->tick.deadline > c->deadline)
		timer_arm(&c->d->tick, c->deadline);
}

u32 vsock_conn_credit(const struct vsock_conn *c)
{
	u32 used = c->tx_cnt - c->peer_fwd;

	return used >= c->peer_alloc ? 0 : c->peer_alloc - used;
}

void vsock_conn_watch(struct vsock_conn *c)
{
	struct loop *l = c->d->v.env.loop;
	bool on = c->fd >= 0 && !c->hup;
	short want = 0;

	if (c->state == VSOCK_GREETING)
		want = POLLIN;
	else if (c->state == VSOCK_OPEN)
		want = (short)((c->out_len ? POLLOUT : 0) |
		               (c->host_shut & VSOCK_SHUT_SEND || c->guest_shut & VSOCK_SHUT_RCV ||
		                                c->pending & VSOCK_P_DATA || !vsock_conn_credit(c)
		                        ? 0
		                        : POLLIN));
	else
		on = false;
	/* It is not watched any more, but what it has sent before is still to be read. */
	if (c->state == VSOCK_OPEN && c->hup && want & POLLIN) {
		c->pending |= VSOCK_P_DATA;
		vsock_kick(c->d);
	}
	/* Nobody takes what it has: that it hangs up is of no use before that, and would be
	 * reported without end. */
	if (!want && (c->pending & VSOCK_P_DATA || !vsock_conn_credit(c)))
		on = false;
	if (on && !c->watched) {
		on = loop_add_fd(l, c->fd, want, on_event, c) == 0;
	} else if (on && want != c->events) {
		loop_mod_fd(l, c->fd, want);
	} else if (!on && c->watched) {
		loop_del_fd(l, c->fd);
	}
	c->watched = on;
	c->events = want;
}

/* ---- towards the host ---- */

static void forwarded(struct vsock_conn *c, u32 n)
{
	c->fwd_cnt += n;
	if (c->fwd_cnt - c->told_fwd >= TELL_AT) {
		c->pending |= VSOCK_P_CREDIT;
		vsock_kick(c->d);
	}
}

/* All that the guest sent is with the host: what it said about the end can be done. */
static void drained(struct vsock_conn *c)
{
	if (c->guest_shut == VSOCK_SHUT_BOTH)
		vsock_conn_reset(c); /* 5.10.6.5: the answer to a shutdown of both directions */
	else if (c->guest_shut & VSOCK_SHUT_SEND)
		shutdown(c->fd, SHUT_WR);
}

/* What the socket takes of `n` bytes; -1: it is broken. */
static s64 fd_write(struct vsock_conn *c, const u8 *p, u32 n)
{
	ssize_t r = send(c->fd, p, n, MSG_DONTWAIT | MSG_NOSIGNAL);

	if (r < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -1;
	forwarded(c, (u32)r);
	return r;
}

static void flush(struct vsock_conn *c)
{
	while (c->out_len) {
		u32 n = MIN(c->out_len, VSOCK_BUF - c->out_head);
		s64 r = fd_write(c, c->out + c->out_head, n);

		if (r < 0) {
			vsock_conn_reset(c);
			return;
		}
		if (!r)
			break;
		c->out_head = (c->out_head + (u32)r) % VSOCK_BUF;
		c->out_len -= (u32)r;
	}
	if (!c->out_len)
		drained(c);
	if (c->state == VSOCK_OPEN)
		vsock_conn_watch(c);
}

void vsock_conn_put(struct vsock_conn *c, const u8 *p, u32 n)
{
	s64 done = c->out_len ? 0 : fd_write(c, p, n);

	if (done < 0) {
		vsock_conn_reset(c);
		return;
	}
	p += done;
	n -= (u32)done;
	if (!n)
		return;
	if (!c->out)
		c->out = malloc(VSOCK_BUF);
	if (!c->out ||
	    n > VSOCK_BUF - c->out_len) { /* the latter: our defect, credit prevents it */
		vsock_conn_reset(c);
		return;
	}
	while (n) {
		u32 at = (c->out_head + c->out_len) % VSOCK_BUF, m = MIN(n, VSOCK_BUF - at);

		memcpy(c->out + at, p, m);
		c->out_len += m;
		p += m;
		n -= m;
	}
	vsock_conn_watch(c);
}

void vsock_conn_shutdown(struct vsock_conn *c, u32 flags)
{
	c->guest_shut |= flags & VSOCK_SHUT_BOTH;
	if (c->guest_shut & VSOCK_SHUT_RCV)
		c->pending &= ~VSOCK_P_DATA;
	if (!c->out_len)
		drained(c);
	if (c->state == VSOCK_OPEN)
		vsock_conn_watch(c);
}

/* ---- from the host ---- */

int vsock_conn_get(struct vsock_conn *c, u8 *p, u32 n)
{
	ssize_t r = recv(c->fd, p, n, MSG_DONTWAIT);

	return r < 0 ? (errno == EINTR ? -EAGAIN : -errno) : (int)r;
}

void vsock_conn_opened(struct vsock_conn *c)
{
	char text[32];
	int n;

	if (c->state == VSOCK_REQUESTED) {
		/* As Firecracker answers. It fits an empty socket. */
		n = snprintf(text, sizeof(text), "OK %u\n", c->host_port);
		if (send(c->fd, text, (size_t)n, MSG_DONTWAIT | MSG_NOSIGNAL) != n) {
			vsock_conn_reset(c);
			return;
		}
	}
	c->state = VSOCK_OPEN;
	c->deadline = 0;
	vsock_conn_watch(c);
}

/* A port for the host's end that no connection to the same port of the guest uses. */
static u32 new_port(struct virtio_vsock *d, u32 guest_port)
{
	u32 port;

	do {
		port = FIRST_PORT + d->next_port++ % FIRST_PORT;
	} while (vsock_conn_find(d, guest_port, port));
	return port;
}

/* The whole line: to the guest's port. False: it is none. */
static bool greeted(struct vsock_conn *c)
{
	unsigned long port;
	char *end;

	if (strncmp(c->line, "CONNECT ", 8) || c->line[8] < '0' || c->line[8] > '9')
		return false;
	port = strtoul(c->line + 8, &end, 10);
	if (*end || port > 0xfffffffe || !virtqueue_live(virtio_queue(&c->d->v, 0)))
		return false;
	c->guest_port = (u32)port;
	c->host_port = new_port(c->d, c->guest_port);
	c->state = VSOCK_REQUESTED;
	c->pending = VSOCK_P_REQUEST;
	vsock_conn_deadline(c, REQUEST_NS);
	vsock_kick(c->d);
	return true;
}

/* "CONNECT <port>\n", byte by byte, so that what follows stays in the socket. The deadline bounds
 * how long it may take. */
static void greeting(struct vsock_conn *c)
{
	while (c->line_len < sizeof(c->line)) {
		char *at = &c->line[c->line_len];
		ssize_t n = recv(c->fd, at, 1, MSG_DONTWAIT);

		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return;
		if (n <= 0)
			break;
		if (*at != '\n') {
			c->line_len++;
			continue;
		}
		*at = '\0';
		if (!greeted(c))
			break;
		vsock_conn_watch(c);
		return;
	}
	vsock_conn_free(c);
}

static void on_event(void *arg, short revents)
{
	struct vsock_conn *c = arg;

	if (c->state == VSOCK_GREETING) {
		greeting(c);
		return;
	}
	if (c->state != VSOCK_OPEN)
		return;
	if (revents & POLLOUT) {
		flush(c);
		if (c->state != VSOCK_OPEN)
			return;
	}
	if (revents & (POLLHUP | POLLERR))
		c->hup = true;
	if (c->hup && c->host_shut & VSOCK_SHUT_SEND) {
		/* It had ended its sending before; now nobody reads either. */
		c->host_shut = VSOCK_SHUT_BOTH;
		c->pending |= VSOCK_P_SHUTDOWN;
		vsock_kick(c->d);
	} else if (revents & (POLLIN | POLLHUP | POLLERR)) {
		c->pending |= VSOCK_P_DATA;
		vsock_kick(c->d);
	}
	vsock_conn_watch(c);
}

void vsock_conn_accept(struct virtio_vsock *d, int fd)
{
	struct vsock_conn *c = vsock_conn_new(d, VSOCK_GREETING);

	if (!c) {
		guest_warn(&d->v.rl, "vsock: %u connections, one more is refused", VSOCK_CONNS);
		close(fd);
		return;
	}
	c->fd = fd;
	vsock_conn_deadline(c, GREETING_NS);
	vsock_conn_watch(c);
}
