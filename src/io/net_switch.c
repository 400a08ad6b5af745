// SPDX-License-Identifier: MIT
/* A network among the VMs of one user: every member is connected to every other one and does the
 * learning for itself, so there is no server that could end, nobody to start, and nothing to take
 * over: when a member ends, its connections close and that is all.
 *
 * A connection is a SOCK_SEQPACKET socket: one message is one frame with virtio's header, which
 * passes along what one guest's kernel leaves undone to the other's.
 *
 * Backpressure: what a peer's socket does not take waits in a queue of ours. When that is half full
 * our guest stops sending, which makes a network without loss; but for STALL_NS at most, which is
 * long enough for a machine that has to wait for a processor, and no longer than TCP waits before
 * it sends again: a peer that takes nothing for that long only gets what fits, and the rest
 * is lost to it alone, until it has taken all that waits. Broadcasts never wait for anybody. */
#include "io/net_switch.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/log.h"
#include "bus/listener.h"
#include "dev/netgso.h"

#define QUEUE_BYTES (1024 * KiB)         /* waiting for one peer */
#define QUEUE_HIGH  (QUEUE_BYTES / 2)    /* our guest stops */
#define QUEUE_LOW   (QUEUE_BYTES / 8)    /* and goes on */
#define STALL_NS    (200 * 1000000ull)   /* how long it waits for one peer */
#define SOCKET_SIZE (400 * 1024)         /* room in the kernel, if it allows */
#define MAC_AGE_NS  (300 * NSEC_PER_SEC) /* IEEE 802.1D, table 7-5 */
#define MAC_SETS    256
#define MAC_WAYS    4
#define BATCH       64 /* frames taken from a peer before others have their turn */

struct waiting {
	struct waiting *next;
	struct net_vhdr hdr;
	size_t len;
	u8 frame[];
};

struct net_switch;

struct peer {
	struct net_switch *s;
	int fd; /* -1: free */
	bool greeted;
	bool stalled; /* nobody waits for it until the queue is empty */
	short events;
	char vm[64];
	struct waiting *queue, **queue_tail;
	size_t queue_bytes;
	u64 lost;
};

struct mac_entry {
	u8 mac[6];
	u8 peer;
	bool used;
	u64 seen; /* ns */
};

struct net_switch {
	struct netback back;
	struct loop *loop;
	char name[NET_NAME_LEN];
	struct switch_hello hello;
	int listen_fd;
	struct listener listener;
	u32 uid; /* asked for once: the sandbox has no geteuid */
	struct peer peer[SWITCH_MAX_PEERS];
	struct mac_entry macs[MAC_SETS][MAC_WAYS];
	u32 offload; /* the guest takes */

	struct peer *waits_for; /* the guest was told to stop until this one has room */
	struct timer patience;

	bool in_stopped; /* the guest has no buffers: `hdr` and `frame` wait */
	struct net_vhdr hdr;
	size_t len;
	bool mac_warned;
	u64 sent, received, lost, bad;
	struct ratelimit rl;
	u8 frame[NET_FRAME_MAX + 1]; /* one more shows that a message is too long */
	u8 piece[NET_FRAME_MAX];
};

static struct net_switch *switch_of(struct netback *b)
{
	return container_of(b, struct net_switch, back);
}

static void on_peer(void *arg, short revents);

/* ---- learning ---- */

static struct mac_entry *mac_set(struct net_switch *s, const u8 *mac)
{
	u32 h = get_le32(mac + 2) * 0x9e3779b1u ^ get_le16(mac) * 0x85ebu;

	return s->macs[(h >> 16) % MAC_SETS];
}

static void learn(struct net_switch *s, const u8 *mac, u8 peer)
{
	struct mac_entry *set = mac_set(s, mac), *at = &set[0];

	if (mac[0] & 1) /* no sender is a group */
		return;
	for (unsigned i = 0; i < MAC_WAYS; i++) {
		if (set[i].used && !memcmp(set[i].mac, mac, 6)) {
			at = &set[i];
			break;
		}
		if (!set[i].used || (at->used && set[i].seen < at->seen))
			at = &set[i]; /* a free one, else the one not seen for longest */
	}
	memcpy(at->mac, mac, 6);
	at->peer = peer;
	at->used = true;
	at->seen = loop_now(s->loop);
}

/* The peer behind an address, or NULL: unknown. */
static struct peer *lookup(struct net_switch *s, const u8 *mac)
{
	struct mac_entry *set = mac_set(s, mac);

	for (unsigned i = 0; i < MAC_WAYS; i++) {
		if (!set[i].used || memcmp(set[i].mac, mac, 6))
			continue;
		if (loop_now(s->loop) - set[i].seen > MAC_AGE_NS) {
			set[i].used = false;
			return NULL;
		}
		return &s->peer[set[i].peer];
	}
	return NULL;
}

static void forget(struct net_switch *s, u8 peer)
{
	for (unsigned i = 0; i < MAC_SETS; i++)
		for (unsigned j = 0; j < MAC_WAYS; j++)
			if (s->macs[i][j].peer == peer)
				s->macs[i][j].used = false;
}

/* ---- peers ---- */

static void watch(struct peer *p)
{
	short want = (short)((p->s->in_stopped ? 0 : POLLIN) | (p->queue ? POLLOUT : 0));

	if (p->fd < 0 || want == p->events)
		return;
	/* Errors and the end are reported whatever is asked for, and would be again and again while
	 * the guest has no buffers: then the peer is not watched at all. */
	if (!want)
		loop_del_fd(p->s->loop, p->fd);
	else if (p->events)
		loop_mod_fd(p->s->loop, p->fd, want);
	else if (loop_add_fd(p->s->loop, p->fd, want, on_peer, p) < 0)
		want = 0;
	p->events = want;
}

static void go_on(struct net_switch *s)
{
	s->waits_for = NULL;
	timer_cancel(&s->patience);
	if (s->back.front)
		s->back.front->writable(s->back.front_arg, 0);
}

static void queue_clear(struct peer *p)
{
	while (p->queue) {
		struct waiting *w = p->queue;

		p->queue = w->next;
		free(w);
	}
	p->queue_tail = &p->queue;
	p->queue_bytes = 0;
}

static void peer_close(struct peer *p)
{
	struct net_switch *s = p->s;

	if (p->events)
		loop_del_fd(s->loop, p->fd);
	close(p->fd);
	queue_clear(p);
	forget(s, (u8)(p - s->peer));
	if (p->greeted)
		log_debug("switch %s: %s has left", s->name, p->vm);
	p->fd = -1;
	p->events = 0;
	p->greeted = p->stalled = false;
	if (s->waits_for == p)
		go_on(s);
}

/* A connection that is there; it is ours from now on. */
static void peer_open(struct net_switch *s, int fd)
{
	struct peer *p = NULL;
	int size = SOCKET_SIZE;

	for (unsigned i = 0; i < SWITCH_MAX_PEERS && !p; i++)
		if (s->peer[i].fd < 0)
			p = &s->peer[i];
	if (!p || !switch_peer_trusted(fd, s->uid)) {
		guest_warn(&s->rl, "switch %s: a connection was refused: %s", s->name,
		           p ? "of another user" : "too many cards on it");
		close(fd);
		return;
	}
	*p = (struct peer){.s = s, .fd = fd};
	p->queue_tail = &p->queue;
	setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size)); /* or what is allowed */
	if (send(fd, &s->hello, sizeof(s->hello), MSG_DONTWAIT | MSG_NOSIGNAL) !=
	    (ssize_t)sizeof(s->hello)) {
		peer_close(p);
		return;
	}
	watch(p);
}

static void on_connection(void *arg, int fd)
{
	peer_open(arg, fd);
}

/* ---- to the peers ---- */

enum sent { SENT, SENT_LATER, SENT_NOT };

static enum sent message_send(struct peer *p, const struct net_vhdr *h, const u8 *frame, size_t len)
{
	struct iovec iov[2] = {{(void *)h, NET_VHDR_LEN}, {(void *)frame, len}};
	struct msghdr m = {.msg_iov = iov, .msg_iovlen = 2};

	if (sendmsg(p->fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0)
		return SENT;
	if (errno == EAGAIN)
		return SENT_LATER;
	/* ENOBUFS, EMSGSIZE: lost. The end of a peer is seen by its descriptor. */
	return SENT_NOT;
}

static void peer_send(struct peer *p, const struct net_vhdr *h, const u8 *frame, size_t len)
{
	enum sent r = p->queue ? SENT_LATER : message_send(p, h, frame, len);
	struct waiting *w = NULL;

	if (r == SENT)
		return;
	if (r == SENT_LATER && p->queue_bytes + sizeof(*w) + len <= QUEUE_BYTES)
		w = malloc(sizeof(*w) + len);
	if (!w) {
		p->lost++;
		return;
	}
	w->next = NULL;
	w->hdr = *h;
	w->len = len;
	memcpy(w->frame, frame, len);
	*p->queue_tail = w;
	p->queue_tail = &w->next;
	p->queue_bytes += sizeof(*w) + len; /* small frames are mostly what is around them */
	watch(p);
}

static void peer_flush(struct peer *p)
{
	while (p->queue) {
		struct waiting *w = p->queue;

		if (message_send(p, &w->hdr, w->frame, w->len) == SENT_LATER)
			break;
		p->queue = w->next;
		if (!p->queue)
			p->queue_tail = &p->queue;
		p->queue_bytes -= sizeof(*w) + w->len;
		free(w);
	}
	if (!p->queue)
		p->stalled = false;
	watch(p);
	if (p->s->waits_for == p && p->queue_bytes <= QUEUE_LOW)
		go_on(p->s);
}

static void on_patience_over(void *arg)
{
	struct net_switch *s = arg;

	if (!s->waits_for)
		return;
	s->waits_for->stalled = true;
	go_on(s);
}

static bool switch_send(struct netback *b, unsigned queue, const struct net_vhdr *h, u8 *frame,
                        size_t len)
{
	struct net_switch *s = switch_of(b);
	struct peer *p = frame[0] & 1 ? NULL : lookup(s, frame);

	if (s->waits_for)
		return false;
	if (p) {
		if (p->queue_bytes >= QUEUE_HIGH && !p->stalled) {
			s->waits_for = p;
			timer_arm(&s->patience, loop_now(s->loop) + STALL_NS);
			return false;
		}
		peer_send(p, h, frame, len);
	} else {
		for (unsigned i = 0; i < SWITCH_MAX_PEERS; i++)
			if (s->peer[i].fd >= 0)
				peer_send(&s->peer[i], h, frame, len);
	}
	s->sent++;
	return true;
}

/* ---- from the peers ---- */

static bool give_piece(void *arg, u8 *frame, size_t len)
{
	struct net_switch *s = arg;
	const struct net_vhdr none = {0};

	/* The first ones are with the guest already: what does not fit is lost. */
	if (!netback_receive(&s->back, 0, &none, frame, len))
		s->lost++;
	return true;
}

/* False: the guest has no buffers, s->frame waits. */
static bool deliver(struct net_switch *s)
{
	bool takes = net_vhdr_check(&s->hdr, s->frame, s->len, s->offload);

	/* What this guest does not take another left undone: it is done here. */
	if (!takes && s->hdr.gso_type == VIRTIO_NET_HDR_GSO_NONE) {
		net_csum_finish(&s->hdr, s->frame, s->len);
		s->hdr = (struct net_vhdr){0};
		takes = true;
	}
	if (!takes)
		net_gso_split(&s->hdr, s->frame, s->len, s->piece, give_piece, s);
	else if (!netback_receive(&s->back, 0, &s->hdr, s->frame, s->len))
		return false;
	s->received++;
	return true;
}

static bool take_hello(struct peer *p, const struct switch_hello *h, size_t len)
{
	struct net_switch *s = p->s;

	if (len != sizeof(*h) || memcmp(h->magic, SWITCH_MAGIC, sizeof(h->magic)))
		return false;
	memcpy(p->vm, h->vm, sizeof(p->vm) - 1);
	p->vm[sizeof(p->vm) - 1] = '\0';
	for (char *c = p->vm; *c; c++)
		if (*c < ' ' || *c > '~')
			*c = '?';
	p->greeted = true;
	if (!memcmp(h->mac, s->hello.mac, 6) && !s->mac_warned) {
		s->mac_warned = true;
		log_warn("switch %s: %s has the same MAC address as this machine: give each "
		         "machine a name of its own, for example --name a and --name b",
		         s->name, p->vm);
	}
	learn(s, h->mac, (u8)(p - s->peer));
	log_debug("switch %s: %s is there", s->name, p->vm);
	return true;
}

/* One message. False: nothing more to take from this peer now. */
static bool take_message(struct peer *p)
{
	struct net_switch *s = p->s;
	struct switch_hello hello;
	struct iovec first[1] = {{&hello, sizeof(hello)}};
	struct iovec iov[2] = {{&s->hdr, NET_VHDR_LEN}, {s->frame, sizeof(s->frame)}};
	struct msghdr m = {.msg_iov = p->greeted ? iov : first, .msg_iovlen = p->greeted ? 2 : 1};
	ssize_t r = recvmsg(p->fd, &m, MSG_DONTWAIT);

	if (r < 0 && (errno == EAGAIN || errno == EINTR))
		return false;
	if (r <= 0) {
		peer_close(p);
		return false;
	}
	if (!p->greeted) {
		if ((m.msg_flags & MSG_TRUNC) || !take_hello(p, &hello, (size_t)r)) {
			log_warn("switch %s: a member speaks another protocol, its version of "
			         "ringer must be the same",
			         s->name);
			peer_close(p);
		}
		return p->fd >= 0;
	}
	s->len = r > NET_VHDR_LEN ? (size_t)r - NET_VHDR_LEN : 0;
	s->hdr.flags &= VIRTIO_NET_HDR_F_NEEDS_CSUM;
	if ((m.msg_flags & MSG_TRUNC) ||
	    !net_vhdr_check(&s->hdr, s->frame, s->len, s->back.tx_offload)) {
		s->bad++;
		guest_warn(&s->rl, "switch %s: a bad frame of %s is dropped", s->name, p->vm);
		return true;
	}
	learn(s, s->frame + 6, (u8)(p - s->peer));
	if (deliver(s))
		return true;
	s->in_stopped = true;
	for (unsigned i = 0; i < SWITCH_MAX_PEERS; i++)
		watch(&s->peer[i]);
	return false;
}

static void on_peer(void *arg, short revents)
{
	struct peer *p = arg;

	if (revents & POLLOUT)
		peer_flush(p);
	if (p->s->in_stopped) {
		/* It has ended. What it sent before is still to be read. */
		if (revents & (POLLERR | POLLHUP)) {
			queue_clear(p);
			watch(p);
		}
		return;
	}
	for (unsigned i = 0; i < BATCH && take_message(p); i++)
		;
}

static void switch_pull(struct netback *b, unsigned queue)
{
	struct net_switch *s = switch_of(b);

	if (!s->in_stopped || !deliver(s))
		return;
	s->in_stopped = false;
	for (unsigned i = 0; i < SWITCH_MAX_PEERS; i++)
		watch(&s->peer[i]);
}

static void switch_set_offload(struct netback *b, u32 offload)
{
	switch_of(b)->offload = offload;
}

static void switch_set_queues(struct netback *b, unsigned pairs)
{
}

static void switch_dump(struct netback *b, FILE *out)
{
	struct net_switch *s = switch_of(b);
	unsigned known = 0;

	for (unsigned i = 0; i < MAC_SETS; i++)
		for (unsigned j = 0; j < MAC_WAYS; j++)
			known += s->macs[i][j].used;
	fprintf(out,
	        "  switch %s: %llu frames from the guest, %llu to it, %llu lost, %llu bad, %u "
	        "addresses known\n",
	        s->name, (unsigned long long)s->sent, (unsigned long long)s->received,
	        (unsigned long long)s->lost, (unsigned long long)s->bad, known);
	for (unsigned i = 0; i < SWITCH_MAX_PEERS; i++) {
		const struct peer *p = &s->peer[i];

		if (p->fd >= 0)
			fprintf(out, "    %s: %zu bytes wait, %llu frames lost to it%s\n",
			        p->greeted ? p->vm : "(no greeting yet)", p->queue_bytes,
			        (unsigned long long)p->lost, p->stalled ? ", takes nothing" : "");
	}
}

static void switch_destroy(struct netback *b)
{
	struct net_switch *s = switch_of(b);

	s->back.front = NULL;
	for (unsigned i = 0; i < SWITCH_MAX_PEERS; i++)
		if (s->peer[i].fd >= 0)
			peer_close(&s->peer[i]);
	timer_cancel(&s->patience);
	listener_stop(&s->listener);
	if (s->listen_fd >= 0)
		close(s->listen_fd);
	free(s);
}

static const struct netback_ops switch_ops = {
	.send = switch_send,
	.pull = switch_pull,
	.set_offload = switch_set_offload,
	.set_queues = switch_set_queues,
	.dump = switch_dump,
	.destroy = switch_destroy,
};

int net_switch_create(struct netback **out, struct loop *loop, const struct net_config *cfg,
                      const char *vm_name, const u8 *mac, const char *dir)
{
	const u32 all = NET_OFF_CSUM | NET_OFF_TSO4 | NET_OFF_TSO6 | NET_OFF_ECN;
	struct net_switch *s = calloc(1, sizeof(*s));
	int fds[SWITCH_MAX_PEERS];
	unsigned nr = 0;
	int err;

	if (!s)
		return -ENOMEM;
	s->back = (struct netback){
		.ops = &switch_ops,
		.kind = "switch",
		.queues = 1,
		.tx_offload = all,
		.rx_offload = all,
		.mtu = cfg->mtu,
	};
	s->loop = loop;
	snprintf(s->name, sizeof(s->name), "%s", cfg->name);
	memcpy(s->hello.magic, SWITCH_MAGIC, sizeof(s->hello.magic));
	memcpy(s->hello.mac, mac, 6);
	snprintf(s->hello.vm, sizeof(s->hello.vm), "%s", vm_name);
	timer_init(&s->patience, loop, on_patience_over, s);
	for (unsigned i = 0; i < SWITCH_MAX_PEERS; i++)
		s->peer[i] = (struct peer){.s = s, .fd = -1};
	s->listen_fd = -1;
	s->uid = geteuid();
	err = switch_join(cfg, dir, &s->listen_fd, fds, &nr);
	if (err)
		goto fail;
	for (unsigned i = 0; i < nr; i++)
		peer_open(s, fds[i]);
	err = listener_start(&s->listener, loop, s->listen_fd, on_connection, s);
	if (err)
		goto fail;
	*out = &s->back;
	return 0;
fail:
	switch_destroy(&s->back);
	return err;
}
