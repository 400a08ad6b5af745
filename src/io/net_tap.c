// SPDX-License-Identifier: MIT
/* Linux's tap device (Documentation/networking/tuntap.rst), with IFF_VNET_HDR: the header of
 * virtio passes through, so checksums and segments are the business of the guest's and the host's
 * kernels, and of the wire's hardware at best.
 *
 * A queue pair is a descriptor. Those that the guest does not use are detached (TUNSETQUEUE): the
 * host would steer flows into them and they would be lost. */
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/log.h"
#include "dev/netgso.h"
#include "io/net.h"

#define BATCH 64 /* frames read at once before others have their turn */

struct net_tap;

struct tap_queue {
	struct net_tap *tap;
	unsigned index;
	int fd;
	bool attached;
	bool in_stopped;  /* the guest has no buffer: `frame` waits */
	bool out_stopped; /* the tap takes no more: `writable` is owed */
	short events;     /* watched */
	struct net_vhdr hdr;
	size_t len;
	u8 frame[NET_FRAME_MAX];
};

struct net_tap {
	struct netback back;
	struct loop *loop;
	char name[IFNAMSIZ];
	u64 sent, received, lost;
	bool failed; /* said once */
	unsigned nr;
	struct tap_queue *queue[NET_QUEUES_MAX];
};

static struct net_tap *tap_of(struct netback *b)
{
	return container_of(b, struct net_tap, back);
}

static void on_event(void *arg, short revents);

static void watch(struct tap_queue *q)
{
	short want = 0;

	if (q->attached)
		want = (short)((q->in_stopped ? 0 : POLLIN) | (q->out_stopped ? POLLOUT : 0));
	if (want == q->events)
		return;
	if (!want)
		loop_del_fd(q->tap->loop, q->fd);
	else if (q->events)
		loop_mod_fd(q->tap->loop, q->fd, want);
	else if (loop_add_fd(q->tap->loop, q->fd, want, on_event, q) < 0)
		want = 0; /* out of memory: tried again with the next frame */
	q->events = want;
}

/* ---- from the tap ---- */

/* False: the guest has no buffer, the frame waits. */
static bool deliver(struct tap_queue *q)
{
	struct net_tap *t = q->tap;

	/* Ours is the kernel, but what it hands over may come from another guest. */
	if (q->len < NET_ETH_LEN) {
		q->len = 0;
		return true;
	}
	if (!netback_receive(&t->back, q->index, &q->hdr, q->frame, q->len))
		return false;
	t->received++;
	q->len = 0;
	return true;
}

static void fail(struct net_tap *t, int err)
{
	if (!t->failed)
		log_error("tap %s: %s; the guest has no network from now on", t->name,
		          strerror(err));
	t->failed = true;
	for (unsigned i = 0; i < t->nr; i++) {
		t->queue[i]->attached = false;
		watch(t->queue[i]);
	}
	if (t->back.front)
		t->back.front->link(t->back.front_arg, false);
}

static void read_frames(struct tap_queue *q)
{
	struct iovec iov[2] = {{&q->hdr, NET_VHDR_LEN}, {q->frame, sizeof(q->frame)}};

	for (unsigned n = 0; n < BATCH; n++) {
		ssize_t r = readv(q->fd, iov, 2);

		if (r < 0) {
			/* EIO: the interface is down, which passes. */
			if (errno == EBADFD || errno == ENODEV)
				fail(q->tap, errno);
			break;
		}
		q->len = r > NET_VHDR_LEN ? (size_t)r - NET_VHDR_LEN : 0;
		if (!deliver(q)) {
			q->in_stopped = true;
			break;
		}
	}
	watch(q);
}

static void on_event(void *arg, short revents)
{
	struct tap_queue *q = arg;

	if ((revents & POLLOUT) && q->out_stopped) {
		q->out_stopped = false;
		watch(q);
		if (q->tap->back.front)
			q->tap->back.front->writable(q->tap->back.front_arg, q->index);
	}
	if (revents & (POLLIN | POLLERR | POLLHUP))
		read_frames(q);
}

static void tap_pull(struct netback *b, unsigned queue)
{
	struct tap_queue *q = tap_of(b)->queue[queue];

	if (!q->in_stopped || !deliver(q))
		return;
	q->in_stopped = false;
	watch(q); /* the rest comes from the loop */
}

/* ---- to the tap ---- */

static bool tap_send(struct netback *b, unsigned queue, const struct net_vhdr *h, u8 *frame,
                     size_t len)
{
	struct net_tap *t = tap_of(b);
	struct tap_queue *q = t->queue[queue];
	struct iovec iov[2] = {{(void *)h, NET_VHDR_LEN}, {frame, len}};
	ssize_t r;

	if (!q->attached)
		return true;
	r = writev(q->fd, iov, 2);
	if (r < 0 && (errno == EAGAIN || errno == ENOBUFS)) {
		q->out_stopped = true;
		watch(q);
		if (q->events & POLLOUT)
			return false;
		q->out_stopped = false;
	}
	if (r < 0)
		t->lost++; /* EIO: interface down; EINVAL: a frame that the host won't have */
	else
		t->sent++;
	return true;
}

static void tap_set_offload(struct netback *b, u32 offload)
{
	struct net_tap *t = tap_of(b);
	unsigned long flags = 0;

	flags |= offload & NET_OFF_CSUM ? TUN_F_CSUM : 0;
	if (offload & NET_OFF_CSUM) { /* the kernel wants it for the others */
		flags |= offload & NET_OFF_TSO4 ? TUN_F_TSO4 : 0;
		flags |= offload & NET_OFF_TSO6 ? TUN_F_TSO6 : 0;
		if (offload & (NET_OFF_TSO4 | NET_OFF_TSO6))
			flags |= offload & NET_OFF_ECN ? TUN_F_TSO_ECN : 0;
	}
	/* One for all queues of the interface. */
	if (ioctl(t->queue[0]->fd, TUNSETOFFLOAD, flags) < 0)
		log_warn("tap %s: TUNSETOFFLOAD: %s", t->name, strerror(errno));
}

static void tap_set_queues(struct netback *b, unsigned pairs)
{
	struct net_tap *t = tap_of(b);

	for (unsigned i = 0; i < t->nr; i++) {
		struct tap_queue *q = t->queue[i];
		bool on = i < pairs && !t->failed;
		struct ifreq ifr = {
			.ifr_flags = on ? IFF_ATTACH_QUEUE : IFF_DETACH_QUEUE,
		};

		if (on == q->attached)
			continue;
		/* A detached queue without IFF_MULTI_QUEUE does not exist. */
		if (ioctl(q->fd, TUNSETQUEUE, &ifr) < 0) {
			log_warn("tap %s: queue %u: TUNSETQUEUE: %s", t->name, i, strerror(errno));
			continue;
		}
		q->attached = on;
		q->in_stopped = q->out_stopped = false;
		q->len = 0;
		watch(q);
	}
}

static void tap_dump(struct netback *b, FILE *out)
{
	struct net_tap *t = tap_of(b);
	unsigned attached = 0;

	for (unsigned i = 0; i < t->nr; i++)
		attached += t->queue[i]->attached;
	fprintf(out,
	        "  tap %s: %llu frames from the guest, %llu to it, %llu lost, %u of %u queues%s\n",
	        t->name, (unsigned long long)t->sent, (unsigned long long)t->received,
	        (unsigned long long)t->lost, attached, t->nr, t->failed ? ", failed" : "");
}

static void tap_destroy(struct netback *b)
{
	struct net_tap *t = tap_of(b);

	for (unsigned i = 0; i < t->nr; i++) {
		struct tap_queue *q = t->queue[i];

		q->attached = false;
		watch(q);
		close(q->fd);
		free(q);
	}
	free(t);
}

static const struct netback_ops tap_ops = {
	.send = tap_send,
	.pull = tap_pull,
	.set_offload = tap_set_offload,
	.set_queues = tap_set_queues,
	.dump = tap_dump,
	.destroy = tap_destroy,
};

/* ---- making ---- */

static void say_open(const struct net_config *cfg, const char *what, int err)
{
	const char *todo = "";

	if (err == EPERM || err == EACCES)
		todo = "; making an interface needs root: let root make it for you, \"ip tuntap "
		       "add dev "
		       "NAME mode tap user YOU multi_queue vnet_hdr\", or use --net user, which "
		       "needs no rights";
	else if (err == ENOENT || err == ENODEV || err == ENXIO)
		todo = "; this host has no tun driver (\"modprobe tun\"), or this container was "
		       "not "
		       "given /dev/net/tun";
	else if (err == EBUSY)
		todo = "; another program uses it";
	else if (err == EINVAL)
		todo = "; it exists in another mode: a tap made for one queue takes no queues=N, "
		       "one "
		       "made with multi_queue wants queues=2 or more";
	log_error("%s: %s: %s%s", cfg->option, what, strerror(err), todo);
}

/* A descriptor of the interface, or -errno with the error logged. */
static int open_queue(const struct net_config *cfg, struct net_tap *t)
{
	struct ifreq ifr = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
	int err, fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);

	if (fd < 0) {
		err = errno;
		say_open(cfg, "/dev/net/tun", err);
		return -err;
	}
	if (cfg->queues > 1)
		ifr.ifr_flags |= IFF_MULTI_QUEUE;
	memcpy(ifr.ifr_name, t->name, IFNAMSIZ);
	if (ioctl(fd, TUNSETIFF, &ifr) < 0) {
		err = errno;
		say_open(cfg, "TUNSETIFF", err);
		close(fd);
		return -err;
	}
	memcpy(t->name, ifr.ifr_name, IFNAMSIZ);
	return fd;
}

/* A descriptor that whoever started us has opened. */
static int take_queue(const struct net_config *cfg, struct net_tap *t, int given)
{
	struct ifreq ifr = {0};
	int fd, flags;

	if (ioctl(given, TUNGETIFF, &ifr) < 0) {
		log_error("%s: descriptor %d is no tap device (%s); whoever starts ringer opens "
		          "/dev/net/tun and does TUNSETIFF with IFF_TAP | IFF_NO_PI | IFF_VNET_HDR",
		          cfg->option, given, strerror(errno));
		return -EINVAL;
	}
	if (!(ifr.ifr_flags & IFF_TAP) || !(ifr.ifr_flags & IFF_NO_PI) ||
	    !(ifr.ifr_flags & IFF_VNET_HDR)) {
		log_error("%s: descriptor %d: the interface %s lacks one of IFF_TAP, IFF_NO_PI and "
		          "IFF_VNET_HDR; give all three to TUNSETIFF",
		          cfg->option, given, ifr.ifr_name);
		return -EINVAL;
	}
	if (*t->name && strncmp(t->name, ifr.ifr_name, IFNAMSIZ)) {
		log_error("%s: the descriptors are of two interfaces, %s and %s; all queues of a "
		          "card are of one",
		          cfg->option, t->name, ifr.ifr_name);
		return -EINVAL;
	}
	memcpy(t->name, ifr.ifr_name, IFNAMSIZ);
	fd = fcntl(given, F_DUPFD_CLOEXEC, 3);
	flags = fd < 0 ? -1 : fcntl(fd, F_GETFL);
	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0) {
		log_error("%s: descriptor %d: %s", cfg->option, given, strerror(errno));
		if (fd >= 0)
			close(fd);
		return -EINVAL;
	}
	return fd;
}

static int add_queue(struct net_tap *t, int fd)
{
	int hdr_len = NET_VHDR_LEN;
	struct tap_queue *q = calloc(1, sizeof(*q));

	if (!q) {
		close(fd);
		return -ENOMEM;
	}
	q->tap = t;
	q->index = t->nr;
	q->fd = fd;
	q->attached = true;
	t->queue[t->nr++] = q;
	if (ioctl(fd, TUNSETVNETHDRSZ, &hdr_len) < 0) {
		int err = errno;

		log_error("tap %s: TUNSETVNETHDRSZ: %s", t->name, strerror(err));
		return -err;
	}
	return 0;
}

static u16 interface_mtu(const char *name)
{
	struct ifreq ifr = {0};
	int s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	int mtu = 0;

	memcpy(ifr.ifr_name, name, IFNAMSIZ);
	if (s >= 0 && ioctl(s, SIOCGIFMTU, &ifr) == 0)
		mtu = ifr.ifr_mtu;
	if (s >= 0)
		close(s);
	return mtu >= 68 && mtu <= 65535 ? (u16)mtu : 0;
}

int net_tap_create(struct netback **out, struct loop *loop, const struct net_config *cfg)
{
	struct net_tap *t = calloc(1, sizeof(*t));
	unsigned nr = cfg->nr_fds ? cfg->nr_fds : MAX(cfg->queues, 1u);
	int err = 0;

	if (!t)
		return -ENOMEM;
	t->loop = loop;
	memcpy(t->name, cfg->tap, sizeof(t->name));
	for (unsigned i = 0; i < nr && !err; i++) {
		int fd = cfg->nr_fds ? take_queue(cfg, t, cfg->fd[i]) : open_queue(cfg, t);

		err = fd < 0 ? fd : add_queue(t, fd);
	}
	if (err) {
		tap_destroy(&t->back);
		return err;
	}
	t->back = (struct netback){
		.ops = &tap_ops,
		.kind = "tap",
		.queues = nr,
		.tx_offload = NET_OFF_CSUM | NET_OFF_TSO4 | NET_OFF_TSO6 | NET_OFF_ECN,
		.rx_offload = NET_OFF_CSUM | NET_OFF_TSO4 | NET_OFF_TSO6 | NET_OFF_ECN,
		.mtu = cfg->mtu ? cfg->mtu : interface_mtu(t->name),
	};
	tap_set_offload(&t->back, 0);
	tap_set_queues(&t->back, 1);
	for (unsigned i = 0; i < nr; i++)
		watch(t->queue[i]);
	*out = &t->back;
	return 0;
}
