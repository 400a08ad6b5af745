// SPDX-License-Identifier: MIT
/* The NAT is libslirp. It wants to be asked before and after each poll(2) which descriptors
 * matter; they are kept in an epoll set, which is one descriptor in the VM's loop: libslirp changes
 * its mind with nearly every packet, and the loop would have to be woken each time.
 *
 * Large frames: libslirp ends each TCP connection itself, so a segment need not fit a wire. What
 * the guest sends large (TSO) goes in as it is, only its checksum is filled in. In the other
 * direction the maximum segment size that the guest announces is raised on its way in, when the
 * guest takes large frames (GUEST_TSO); libslirp then sends up to 64 KiB at once, and they
 * are marked as segments of the size that the guest had announced.
 *
 * libslirp has no way to be told that the guest has no buffers. Frames then wait in a bounded
 * queue, and while there are some, sockets are not read: TCP's windows do the rest.
 *
 * What libslirp keeps of a hostile guest's frames is bounded by net_guard.c, which all frames
 * pass. */
#include <arpa/inet.h>
#include <errno.h>
#include <slirp/libslirp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/log.h"
#include "dev/netgso.h"
#include "io/net.h"
#include "io/net_guard.h"

#define MTU_DEFAULT 1500
#define MTU_LARGE   65520 /* of libslirp when the guest takes large segments */

#define QUEUE_BYTES (512 * KiB) /* waiting for the guest */
#define EVENTS_MAX  64          /* handled at once; the others are still there next time */
#define SNAP_MS     1000        /* look at timers at least that often */

#define TCP_SYN     0x02
#define TCP_OPT_END 0
#define TCP_OPT_NOP 1
#define TCP_OPT_MSS 2

struct waiting {
	struct waiting *next;
	size_t len;
	u8 frame[];
};

/* A descriptor of libslirp's, by its number. */
struct watched {
	u32 events; /* in the epoll set, 0: not in it */
	u32 wanted;
	u32 revents; /* of the last epoll_wait */
	u32 round;   /* in which `wanted` is valid */
	bool open;
	bool listens; /* a forwarded port */
};

struct net_user {
	struct netback back;
	struct loop *loop;
	Slirp *slirp;
	int epoll_fd;
	struct timer timer; /* when libslirp wants to be called */
	struct timer soon;  /* a refresh() is due */
	u32 offload;        /* the guest takes */
	u16 mtu;

	struct watched *watched; /* [nr_watched], indexed by descriptor */
	int nr_watched;
	u32 round;
	unsigned nr_open;    /* of `watched` */
	unsigned accept_max; /* with so many open nobody is accepted any more */

	struct waiting *queue, **queue_tail;
	size_t queue_bytes;
	u64 sent, received, dropped;
	u64 kept_out;   /* frames that the guard did not let in */
	u64 emitted;    /* frames of libslirp's */
	bool unsettled; /* it knows of an address that it did not know */
	struct net_guard guard;
	struct ratelimit rl;
	u8 frame[NET_FRAME_MAX];
	u8 piece[NET_FRAME_MAX];
};

struct slirp_timer {
	struct timer timer;
	SlirpTimerCb fn;
	void *arg;
	struct net_user *n;
};

static struct net_user *user_of(struct netback *b)
{
	return container_of(b, struct net_user, back);
}

static void refresh(struct net_user *n);

/* ---- from libslirp to the guest ---- */

/* The header that turns a large TCP packet into a segment to be cut. False: it is not one. */
static bool large_header(const struct net_user *n, struct net_vhdr *h, u8 *frame, size_t len)
{
	struct net_packet p;
	u32 hlen;

	if (!net_packet_parse(&p, frame, len) || p.protocol != 6 || p.fragment ||
	    p.end < p.l4 + 20u)
		return false;
	hlen = (frame[p.l4 + 12] >> 4) * 4u;
	if (p.end <= p.l4 + hlen)
		return false;
	*h = (struct net_vhdr){
		.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
		.gso_type = p.ip_version == 4 ? VIRTIO_NET_HDR_GSO_TCPV4 : VIRTIO_NET_HDR_GSO_TCPV6,
		.hdr_len = (u16)(p.l4 + hlen),
		.gso_size = (u16)(n->mtu - (p.l4 - p.l3) - hlen),
		.csum_start = p.l4,
		.csum_offset = 16,
	};
	/* Only the pseudo-header's part of the checksum, as NEEDS_CSUM says. */
	put_le16(frame + p.l4 + 16,
	         (u16)~net_csum_fold(net_csum_pseudo(frame + p.l3 + (p.ip_version == 4 ? 12 : 8),
	                                             p.ip_version == 4 ? 8 : 32, 6, p.end - p.l4)));
	return true;
}

static bool give_piece(void *arg, u8 *frame, size_t len)
{
	struct net_user *n = arg;
	const struct net_vhdr none = {0};

	/* The first ones are with the guest already: what does not fit is lost, and sent again. */
	if (!netback_receive(&n->back, 0, &none, frame, len))
		n->dropped++;
	return true;
}

/* False: the guest has no buffers. */
static bool give(struct net_user *n, u8 *frame, size_t len)
{
	struct net_vhdr h = {0};
	u32 tso = NET_OFF_TSO4 | NET_OFF_TSO6;

	if (len > (size_t)n->mtu + NET_ETH_LEN) {
		bool tcp = large_header(n, &h, frame, len);

		if (tcp)
			tso = h.gso_type == VIRTIO_NET_HDR_GSO_TCPV4 ? NET_OFF_TSO4 : NET_OFF_TSO6;
		if (!(n->offload & tso)) {
			/* A large datagram does not fit the guest's buffers. */
			if (tcp)
				return net_gso_split(&h, frame, len, n->piece, give_piece, n);
			n->dropped++;
			return true;
		}
	} else if (n->offload & NET_OFF_CSUM) {
		h.flags = VIRTIO_NET_HDR_F_DATA_VALID; /* libslirp made the checksums */
	}
	if (!netback_receive(&n->back, 0, &h, frame, len))
		return false;
	n->received++;
	return true;
}

static void enqueue(struct net_user *n, const u8 *frame, size_t len)
{
	struct waiting *w;

	if (n->queue_bytes + sizeof(*w) + len > QUEUE_BYTES || !(w = malloc(sizeof(*w) + len))) {
		n->dropped++;
		return;
	}
	w->next = NULL;
	w->len = len;
	memcpy(w->frame, frame, len);
	*n->queue_tail = w;
	n->queue_tail = &w->next;
	n->queue_bytes += sizeof(*w) + len; /* small frames are mostly what is around them */
}

/* True: nothing waits any more. */
static bool drain(struct net_user *n)
{
	while (n->queue) {
		struct waiting *w = n->queue;

		if (!give(n, w->frame, w->len))
			return false;
		n->queue = w->next;
		if (!n->queue)
			n->queue_tail = &n->queue;
		n->queue_bytes -= sizeof(*w) + w->len;
		free(w);
	}
	return true;
}

static ssize_t on_packet(const void *buf, size_t len, void *opaque)
{
	struct net_user *n = opaque;

	if (len < NET_ETH_LEN || len > NET_FRAME_MAX)
		return (ssize_t)len;
	n->emitted++;
	net_guard_out(&n->guard, buf, len, loop_now(n->loop));
	memcpy(n->frame, buf, len);
	if (n->queue || !give(n, n->frame, len))
		enqueue(n, n->frame, len);
	return (ssize_t)len;
}

/* ---- what libslirp asks of us ---- */

static void on_guest_error(const char *msg, void *opaque)
{
	struct net_user *n = opaque;

	guest_warn(&n->rl, "user network: %s", msg);
}

static int64_t on_clock(void *opaque)
{
	struct net_user *n = opaque;

	return (int64_t)loop_now(n->loop);
}

static void on_slirp_timer(void *arg)
{
	struct slirp_timer *t = arg;

	t->fn(t->arg);
	refresh(t->n);
}

static void *on_timer_new(SlirpTimerCb fn, void *arg, void *opaque)
{
	struct net_user *n = opaque;
	struct slirp_timer *t = calloc(1, sizeof(*t));

	if (!t)
		bug("out of memory for a timer of libslirp"); /* it does not check either */
	*t = (struct slirp_timer){.fn = fn, .arg = arg, .n = n};
	timer_init(&t->timer, n->loop, on_slirp_timer, t);
	return t;
}

static void on_timer_free(void *timer, void *opaque)
{
	struct slirp_timer *t = timer;

	timer_cancel(&t->timer);
	free(t);
}

static void on_timer_mod(void *timer, int64_t expire_ms, void *opaque)
{
	struct slirp_timer *t = timer;

	timer_arm(&t->timer, (u64)MAX(expire_ms, (int64_t)0) * 1000000);
}

/* The entry of a descriptor of libslirp's, or NULL. */
static struct watched *watched_of(struct net_user *n, int fd)
{
	if (fd < 0)
		return NULL;
	if (fd >= n->nr_watched) {
		int want = fd + 64;
		struct watched *w = realloc(n->watched, (size_t)want * sizeof(*w));

		if (!w)
			return NULL;
		memset(w + n->nr_watched, 0, (size_t)(want - n->nr_watched) * sizeof(*w));
		n->watched = w;
		n->nr_watched = want;
	}
	if (!n->watched[fd].open) {
		n->watched[fd].open = true;
		n->nr_open++;
	}
	return &n->watched[fd];
}

/* Of TCP only; others are known when they are asked for in slirp_pollfds_fill(). */
static void on_register_fd(int fd, void *opaque)
{
	watched_of(opaque, fd);
}

/* About to be closed: the number may come back as another socket. */
static void on_unregister_fd(int fd, void *opaque)
{
	struct net_user *n = opaque;

	if (fd < 0 || fd >= n->nr_watched)
		return;
	if (n->watched[fd].events)
		epoll_ctl(n->epoll_fd, EPOLL_CTL_DEL, fd, NULL);
	if (n->watched[fd].open)
		n->nr_open--;
	n->watched[fd] = (struct watched){0};
}

static void post_refresh(struct net_user *n);

static void on_notify(void *opaque)
{
	post_refresh(opaque);
}

static const SlirpCb callbacks = {
	.send_packet = on_packet,
	.guest_error = on_guest_error,
	.clock_get_ns = on_clock,
	.timer_new = on_timer_new,
	.timer_free = on_timer_free,
	.timer_mod = on_timer_mod,
	.register_poll_fd = on_register_fd,
	.unregister_poll_fd = on_unregister_fd,
	.notify = on_notify,
};

/* ---- descriptors ---- */

static int on_add_poll(int fd, int events, void *opaque)
{
	struct net_user *n = opaque;
	struct watched *w = watched_of(n, fd);

	if (!w)
		return -1;
	w->wanted = w->round == n->round ? w->wanted : 0; /* it may ask twice */
	w->wanted |= events & SLIRP_POLL_IN ? EPOLLIN : 0;
	w->wanted |= events & SLIRP_POLL_OUT ? EPOLLOUT : 0;
	w->wanted |= events & SLIRP_POLL_PRI ? EPOLLPRI : 0;
	w->wanted |= events & SLIRP_POLL_HUP ? EPOLLRDHUP : 0;
	w->round = n->round;
	return fd;
}

static int on_get_revents(int fd, void *opaque)
{
	struct net_user *n = opaque;
	u32 e = fd >= 0 && fd < n->nr_watched ? n->watched[fd].revents : 0;
	int r = 0;

	r |= e & EPOLLIN ? SLIRP_POLL_IN : 0;
	r |= e & EPOLLOUT ? SLIRP_POLL_OUT : 0;
	r |= e & EPOLLPRI ? SLIRP_POLL_PRI : 0;
	r |= e & EPOLLERR ? SLIRP_POLL_ERR : 0;
	r |= e & (EPOLLHUP | EPOLLRDHUP) ? SLIRP_POLL_HUP : 0;
	return r;
}

static void watch_set(struct net_user *n, int fd, u32 events)
{
	struct watched *w = &n->watched[fd];
	struct epoll_event e = {.events = events, .data.fd = fd};

	if (w->events == events)
		return;
	if (!events) {
		epoll_ctl(n->epoll_fd, EPOLL_CTL_DEL, fd, NULL);
	} else if (epoll_ctl(n->epoll_fd, w->events ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, fd, &e) < 0) {
		/* Closed and opened again behind our back, or already there. */
		int op = errno == ENOENT ? EPOLL_CTL_ADD : EPOLL_CTL_MOD;

		if (epoll_ctl(n->epoll_fd, op, fd, &e) < 0)
			events = 0;
	}
	w->events = events;
}

/* What has waited for an address: libslirp sends one packet of each connection at a time, when it
 * is polled or has one more. After whatever may have made it ask, before the guest goes on. */
static void settle(struct net_user *n)
{
	while (n->unsettled) {
		u64 before = n->emitted;

		slirp_pollfds_poll(n->slirp, 1, on_get_revents, n); /* no socket was looked at */
		n->unsettled = n->emitted != before;
	}
}

/* Ask libslirp what it waits for, and have the epoll set and the timer say the same. */
static void refresh(struct net_user *n)
{
	uint32_t timeout = SNAP_MS;
	bool blocked;
	u64 next;

	settle(n);
	blocked = n->queue_bytes > QUEUE_BYTES / 4;
	n->round++;
	slirp_pollfds_fill(n->slirp, &timeout, on_add_poll, n);
	net_guard_sockets(&n->guard, n->nr_open);
	for (int fd = 0; fd < n->nr_watched; fd++) {
		struct watched *w = &n->watched[fd];
		u32 want = w->round == n->round ? w->wanted : 0;

		if (blocked)
			want &= ~(u32)(EPOLLIN | EPOLLPRI);
		if (w->listens && n->nr_open >= n->accept_max)
			want = 0; /* accept(2) would fail, again and again */
		watch_set(n, fd, want);
	}
	/* Never later than it was: this is here with each frame of the guest's. */
	next = loop_now(n->loop) + (u64)MIN(timeout, (uint32_t)SNAP_MS) * 1000000;
	if (!timer_armed(&n->timer) || next < n->timer.deadline)
		timer_arm(&n->timer, next);
}

static void on_soon(void *arg)
{
	refresh(arg);
}

/* Once for all that happens until the loop's thread comes to it. */
static void post_refresh(struct net_user *n)
{
	if (!timer_armed(&n->soon))
		timer_arm(&n->soon, 0);
}

static void poll_slirp(struct net_user *n, bool look)
{
	struct epoll_event ev[EVENTS_MAX];
	int nr = look ? epoll_wait(n->epoll_fd, ev, EVENTS_MAX, 0) : 0;

	for (int i = 0; i < nr; i++)
		n->watched[ev[i].data.fd].revents = ev[i].events;
	slirp_pollfds_poll(n->slirp, nr < 0, on_get_revents, n);
	for (int i = 0; i < nr; i++)
		n->watched[ev[i].data.fd].revents = 0;
	refresh(n);
}

static void on_readable(void *arg, short revents)
{
	poll_slirp(arg, true);
}

static void on_timer(void *arg)
{
	struct net_user *n = arg;

	net_guard_tick(&n->guard, loop_now(n->loop));
	poll_slirp(n, false);
}

/* ---- from the guest ---- */

/* Where the value of the option "maximum segment size" is, 0: nowhere. RFC 793, 3.1. */
static u32 tcp_option_mss(const u8 *frame, u32 at, u32 end)
{
	while (at + 4 <= end && frame[at] != TCP_OPT_END) {
		if (frame[at] == TCP_OPT_NOP) {
			at++;
			continue;
		}
		if (frame[at] == TCP_OPT_MSS)
			return frame[at + 1] == 4 ? at + 2 : 0;
		if (frame[at + 1] < 2)
			return 0;
		at += frame[at + 1];
	}
	return 0;
}

/* A SYN's maximum segment size becomes the largest. A checksum that was wrong must not become
 * right, so it is mended by the difference (RFC 1624). */
static void raise_mss(struct net_user *n, u8 *frame, size_t len)
{
	struct net_packet p;
	u32 at, end, sum;
	u16 mss;

	if (!net_packet_parse(&p, frame, len) || p.protocol != 6 || p.fragment ||
	    p.end < p.l4 + 20u || !(frame[p.l4 + 13] & TCP_SYN))
		return;
	if (!(n->offload & (p.ip_version == 4 ? NET_OFF_TSO4 : NET_OFF_TSO6)))
		return;
	end = MIN(p.end, p.l4 + (frame[p.l4 + 12] >> 4) * 4u);
	at = tcp_option_mss(frame, p.l4 + 20u, end);
	if (!at || (at - p.l4) % 2)
		return;
	mss = htons((u16)(MTU_LARGE - (p.l4 - p.l3) - 20));
	sum = (u16)~get_le16(frame + p.l4 + 16) + (u32)(u16)~get_le16(frame + at) + mss;
	put_le16(frame + at, mss);
	put_le16(frame + p.l4 + 16, net_csum_fold(sum));
}

static bool user_send(struct netback *b, unsigned queue, const struct net_vhdr *h, u8 *frame,
                      size_t len)
{
	struct net_user *n = user_of(b);

	net_csum_finish(h, frame, len);
	if (n->offload & (NET_OFF_TSO4 | NET_OFF_TSO6))
		raise_mss(n, frame, len);
	n->sent++;
	/* Datagrams count as a socket each until somebody looks, which the loop's thread may have
	 * no time for. */
	if (n->guard.sockets > n->nr_open + n->guard.sockets_max / 8)
		refresh(n);
	frame = net_guard_in(&n->guard, frame, &len, loop_now(n->loop));
	settle(n);
	if (frame)
		slirp_input(n->slirp, frame, (int)len);
	else
		n->kept_out++; /* or a piece of a packet */
	settle(n);
	post_refresh(n); /* sockets may have been made, windows may have opened */
	return true;
}

static void user_pull(struct netback *b, unsigned queue)
{
	struct net_user *n = user_of(b);

	if (n->queue && drain(n))
		post_refresh(n);
}

static void user_set_offload(struct netback *b, u32 offload)
{
	user_of(b)->offload = offload;
}

static void user_set_queues(struct netback *b, unsigned pairs)
{
}

static void user_dump(struct netback *b, FILE *out)
{
	struct net_user *n = user_of(b);
	char *info = slirp_connection_info(n->slirp);

	fprintf(out,
	        "  user network: %llu frames from the guest, %llu to it, %llu lost, %zu bytes "
	        "wait\n"
	        "    %u sockets, %llu frames did not pass the guard, %u segments out of order, %zu "
	        "bytes for fragments\n",
	        (unsigned long long)n->sent, (unsigned long long)n->received,
	        (unsigned long long)n->dropped, n->queue_bytes, n->nr_open,
	        (unsigned long long)n->kept_out, n->guard.kept, net_frag_bytes(n->guard.frag));
	if (info)
		fprintf(out, "%s", info);
	free(info);
}

static void user_destroy(struct netback *b)
{
	struct net_user *n = user_of(b);

	n->back.front = NULL;
	if (n->slirp)
		slirp_cleanup(n->slirp);
	timer_cancel(&n->timer);
	timer_cancel(&n->soon);
	if (n->epoll_fd >= 0) {
		loop_del_fd(n->loop, n->epoll_fd);
		close(n->epoll_fd);
	}
	while (n->queue) {
		struct waiting *w = n->queue;

		n->queue = w->next;
		free(w);
	}
	net_guard_fini(&n->guard);
	free(n->watched);
	free(n);
}

static void inject(void *arg, u8 *frame, size_t len)
{
	struct net_user *n = arg;

	slirp_input(n->slirp, frame, (int)len);
	n->unsettled = true;
}

static const struct netback_ops user_ops = {
	.send = user_send,
	.pull = user_pull,
	.set_offload = user_set_offload,
	.set_queues = user_set_queues,
	.dump = user_dump,
	.destroy = user_destroy,
};

/* ---- making ---- */

static struct in_addr host_of(const struct net_config *cfg, u32 n)
{
	return (struct in_addr){htonl(ntohl(cfg->network.s_addr) + n)};
}

static int add_forwards(struct net_user *n, const struct net_config *cfg)
{
	for (unsigned i = 0; i < cfg->nr_forwards; i++) {
		const struct net_forward *f = &cfg->forward[i];
		struct in_addr guest = f->guest.s_addr ? f->guest : host_of(cfg, 15);
		char host[INET_ADDRSTRLEN];

		errno = 0;
		if (slirp_add_hostfwd(n->slirp, f->udp, f->host, f->host_port, guest,
		                      f->guest_port) == 0)
			continue;
		inet_ntop(AF_INET, &f->host, host, sizeof(host));
		log_error("%s: hostfwd=%s:%s:%u: %s; is the port in use, or below 1024 without the "
		          "right to it? Choose another, for example hostfwd=tcp::2222:22",
		          cfg->option, f->udp ? "udp" : "tcp", host, f->host_port,
		          errno ? strerror(errno) : "cannot listen");
		return errno ? -errno : -EADDRINUSE;
	}
	return 0;
}

/* Which of libslirp's sockets listen; there are no others yet. */
static void find_listeners(struct net_user *n)
{
	for (int fd = 0; fd < n->nr_watched; fd++) {
		socklen_t len = sizeof(int);
		int yes = 0;

		if (n->watched[fd].open &&
		    getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &yes, &len) == 0 && yes)
			n->watched[fd].listens = true;
	}
}

static int slirp_make(struct net_user *n, const struct net_config *cfg, const char *vm_name)
{
	SlirpConfig sc = {
		.version = 4,
		.restricted = cfg->restricted,
		.in_enabled = true,
		.vnetwork = cfg->network,
		.vnetmask = cfg->netmask,
		.vhost = host_of(cfg, 2),
		.vdhcp_start = host_of(cfg, 15),
		.vnameserver = cfg->dns.s_addr ? cfg->dns : host_of(cfg, 3),
		.in6_enabled = !cfg->no_ipv6,
		.vprefix_len = 64,
		.vhostname = *cfg->hostname ? cfg->hostname : vm_name,
		.if_mtu = MTU_LARGE,
		.if_mru = MTU_LARGE,
	};

	if (inet_pton(AF_INET6, "fec0::", &sc.vprefix_addr6) != 1 ||
	    inet_pton(AF_INET6, "fec0::2", &sc.vhost6) != 1 ||
	    inet_pton(AF_INET6, "fec0::3", &sc.vnameserver6) != 1)
		return -EINVAL;
	n->slirp = slirp_new(&sc, &callbacks, n);
	if (!n->slirp) {
		log_error("%s: libslirp %s does not accept this configuration", cfg->option,
		          slirp_version_string());
		return -EINVAL;
	}
	return 0;
}

int net_user_create(struct netback **out, struct loop *loop, const struct net_config *cfg,
                    const char *vm_name)
{
	struct net_user *n = calloc(1, sizeof(*n));
	struct rlimit fds = {0};
	int err;

	if (!n)
		return -ENOMEM;
	getrlimit(RLIMIT_NOFILE, &fds);
	n->back = (struct netback){
		.ops = &user_ops,
		.kind = "user",
		.queues = 1,
		.tx_offload = NET_OFF_CSUM | NET_OFF_TSO4 | NET_OFF_TSO6,
		.rx_offload = NET_OFF_CSUM | NET_OFF_TSO4 | NET_OFF_TSO6,
		.mtu = cfg->mtu,
	};
	n->loop = loop;
	n->mtu = cfg->mtu ? cfg->mtu : MTU_DEFAULT;
	n->accept_max = (unsigned)MIN(fds.rlim_cur / 4 * 3, 1000000ul);
	n->queue_tail = &n->queue;
	timer_init(&n->timer, loop, on_timer, n);
	timer_init(&n->soon, loop, on_soon, n);
	n->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (n->epoll_fd < 0) {
		err = -errno;
		log_error("epoll_create1: %s", strerror(-err));
		goto fail;
	}
	err = net_guard_init(&n->guard, fds.rlim_cur, inject, n);
	if (err)
		goto fail;
	err = loop_add_fd(loop, n->epoll_fd, POLLIN, on_readable, n);
	if (!err)
		err = slirp_make(n, cfg, vm_name);
	if (!err)
		err = add_forwards(n, cfg);
	if (err)
		goto fail;
	refresh(n);
	find_listeners(n);
	*out = &n->back;
	return 0;
fail:
	user_destroy(&n->back);
	return err;
}
