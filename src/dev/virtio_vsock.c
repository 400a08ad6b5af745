// SPDX-License-Identifier: MIT
/* Packets: virtio 1.2, 5.10.6. Both directions are worked on by the loop's thread, a bounded number
 * of packets at a time. What is due to the guest is marked in its connection (VSOCK_P_*), and sent
 * when there is a buffer, each connection in turn: nothing is queued but marks, and up to
 * VSOCK_RSTS answers to packets that belong to no connection. */
#include "dev/virtio_vsock.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "dev/virtio_vsock_priv.h"

#define VIRTIO_VSOCK_F_STREAM BIT(0)

enum { QUEUE_RX, QUEUE_TX, QUEUE_EVENT, NR_QUEUES };

#define AT_ONCE 128 /* packets before others have their turn */

static struct virtio_vsock *vsock_of(struct virtio *v)
{
	return container_of(v, struct virtio_vsock, v);
}

/* ---- to the guest ---- */

/* A packet in the next buffer. `c` NULL: the header is complete. False: there is no buffer. */
static bool packet_send(struct virtio_vsock *d, struct vsock_conn *c, struct vsock_hdr *h,
                        const u8 *data)
{
	struct virtqueue *vq = virtio_queue(&d->v, QUEUE_RX);
	struct vq_chain *chain = virtqueue_pop(vq);

	if (!chain)
		return false;
	if (chain->wr_len < VSOCK_HDR_LEN + h->len) {
		virtqueue_break(vq, "a receive buffer of %u bytes", chain->wr_len);
		virtqueue_drop(chain);
		return false;
	}
	if (c) {
		h->src_port = c->host_port;
		h->dst_port = c->guest_port;
		h->buf_alloc = VSOCK_BUF;
		h->fwd_cnt = c->told_fwd = c->fwd_cnt;
		c->pending &= ~VSOCK_P_CREDIT; /* told with any packet */
	}
	h->src_cid = VSOCK_CID_HOST;
	h->dst_cid = d->cid;
	h->type = VSOCK_TYPE_STREAM;
	vq_write(chain, 0, h, VSOCK_HDR_LEN);
	vq_write(chain, VSOCK_HDR_LEN, data, h->len);
	virtqueue_push(chain, VSOCK_HDR_LEN + h->len);
	d->sent++;
	return true;
}

/* The host's bytes. False: there is no buffer. */
static bool data_send(struct virtio_vsock *d, struct vsock_conn *c)
{
	struct virtqueue *vq = virtio_queue(&d->v, QUEUE_RX);
	struct vsock_hdr h = {.op = VSOCK_OP_RW};
	struct vq_chain *chain;
	u32 max = MIN(vsock_conn_credit(c), (u32)VSOCK_PKT);
	int n;

	if (!max) { /* the guest's next packet tells of room */
		c->pending &= ~VSOCK_P_DATA;
		c->pending |= VSOCK_P_CREDIT_REQ;
		vsock_conn_watch(c);
		return true;
	}
	/* How much fits is known only with the buffer in hand. */
	chain = virtqueue_pop(vq);
	if (!chain)
		return false;
	max = chain->wr_len > VSOCK_HDR_LEN ? MIN(max, chain->wr_len - VSOCK_HDR_LEN) : 0;
	virtqueue_unpop(chain);
	if (!max) {
		virtqueue_break(vq, "a receive buffer without room for data");
		return false;
	}
	n = vsock_conn_get(c, d->buf, max);
	if (n > 0) {
		h.len = (u32)n;
		c->tx_cnt += (u32)n;
		return packet_send(d, c, &h, d->buf);
	}
	c->pending &= ~VSOCK_P_DATA;
	if (n == 0) {
		c->host_shut |= c->hup ? VSOCK_SHUT_BOTH : VSOCK_SHUT_SEND;
		c->pending |= VSOCK_P_SHUTDOWN;
	} else if (n != -EAGAIN) {
		vsock_conn_reset(c);
		return true;
	}
	vsock_conn_watch(c);
	return true;
}

/* The most urgent of what is due. False: there is no buffer. */
static bool conn_send(struct virtio_vsock *d, struct vsock_conn *c)
{
	static const struct {
		u32 bit;
		u16 op;
	} control[] = {
		{VSOCK_P_RST, VSOCK_OP_RST},
		{VSOCK_P_REQUEST, VSOCK_OP_REQUEST},
		{VSOCK_P_RESPONSE, VSOCK_OP_RESPONSE},
		{VSOCK_P_CREDIT, VSOCK_OP_CREDIT_UPDATE},
		{VSOCK_P_CREDIT_REQ, VSOCK_OP_CREDIT_REQUEST},
		{VSOCK_P_SHUTDOWN, VSOCK_OP_SHUTDOWN},
	};

	for (size_t i = 0; i < ARRAY_SIZE(control); i++) {
		struct vsock_hdr h = {.op = control[i].op};

		if (!(c->pending & control[i].bit))
			continue;
		if (h.op == VSOCK_OP_SHUTDOWN)
			h.flags = c->host_shut;
		if (!packet_send(d, c, &h, NULL))
			return false;
		c->pending &= ~control[i].bit;
		if (h.op == VSOCK_OP_RST)
			vsock_conn_free(c);
		else if (h.op == VSOCK_OP_RESPONSE)
			vsock_conn_opened(c);
		else if (h.op == VSOCK_OP_SHUTDOWN && c->host_shut == VSOCK_SHUT_BOTH)
			vsock_conn_deadline(c, 8 * NSEC_PER_SEC); /* the guest answers with RST */
		return true;
	}
	return data_send(d, c);
}

static void rx_run(struct virtio_vsock *d)
{
	unsigned idle = 0;

	for (unsigned n = 0; n < AT_ONCE;) {
		struct vsock_conn *c;

		if (d->nr_rsts) {
			if (!packet_send(d, NULL, &d->rst[d->nr_rsts - 1], NULL))
				return;
			d->nr_rsts--;
			n++;
			continue;
		}
		c = &d->conn[d->turn];
		d->turn = (d->turn + 1) % VSOCK_CONNS;
		if (c->state != VSOCK_FREE && c->pending) {
			if (!conn_send(d, c)) {
				d->turn = (unsigned)(c - d->conn);
				return;
			}
			idle = 0;
			n++;
		} else if (++idle == VSOCK_CONNS) {
			return;
		}
	}
	vsock_kick(d);
}

static void rx_work(void *arg)
{
	struct virtio_vsock *d = arg;
	struct virtqueue *vq = virtio_queue(&d->v, QUEUE_RX);

	if (!d->v.started || !virtqueue_live(vq))
		return;
	/* Notifications stay on: a driver adds buffers in batches, and what is due waits. */
	rx_run(d);
	virtqueue_interrupt(vq);
}

void vsock_kick(struct virtio_vsock *d)
{
	if (d->v.started && !timer_armed(&d->rx_soon))
		timer_arm(&d->rx_soon, 0);
}

/* ---- from the guest ---- */

/* The answer to a packet that fits nothing, but never to a RST. */
static void refuse(struct virtio_vsock *d, const struct vsock_hdr *h)
{
	d->resets++;
	if (h->op == VSOCK_OP_RST || d->nr_rsts == VSOCK_RSTS)
		return;
	d->rst[d->nr_rsts++] = (struct vsock_hdr){
		.op = VSOCK_OP_RST, .src_port = h->dst_port, .dst_port = h->src_port};
	vsock_kick(d);
}

static void on_request(struct virtio_vsock *d, const struct vsock_hdr *h)
{
	struct vsock_conn *c = vsock_conn_new(d, VSOCK_CONNECTING);

	if (!c) {
		guest_warn(&d->v.rl, "vsock: %u connections, one more is refused", VSOCK_CONNS);
		refuse(d, h);
		return;
	}
	c->guest_port = h->src_port;
	c->host_port = h->dst_port;
	c->peer_alloc = h->buf_alloc;
	c->peer_fwd = h->fwd_cnt;
	c->id = d->next_id++;
	if (d->host->connect(d->host, h->dst_port, c->id) < 0)
		vsock_conn_reset(c);
}

static void on_connected(void *arg, u32 id, int fd)
{
	struct virtio_vsock *d = arg;
	struct vsock_conn *c = NULL;

	for (unsigned i = 0; i < VSOCK_CONNS && !c; i++)
		if (d->conn[i].state == VSOCK_CONNECTING && d->conn[i].id == id)
			c = &d->conn[i];
	if (!c) { /* reset meanwhile */
		if (fd >= 0)
			close(fd);
		return;
	}
	if (fd < 0) {
		vsock_conn_reset(c);
		return;
	}
	c->fd = fd;
	c->pending = VSOCK_P_RESPONSE;
	vsock_kick(d);
}

/* Data, as much as the header says and not more than there is. */
static void on_data(struct virtio_vsock *d, struct vsock_conn *c, const struct vsock_hdr *h,
                    const struct vq_chain *chain)
{
	u32 left = h->len;
	size_t at = VSOCK_HDR_LEN;

	/* 5.10.6.3: no more than the credit. Also what it was not to send at all. */
	if (left > VSOCK_BUF - (c->rx_cnt - c->fwd_cnt) || c->guest_shut & VSOCK_SHUT_SEND) {
		guest_warn(&d->v.rl, "vsock: the guest sends more than it may");
		vsock_conn_reset(c);
		return;
	}
	c->rx_cnt += left;
	while (left && c->state == VSOCK_OPEN) {
		u32 n = MIN(left, (u32)sizeof(d->buf));

		n = (u32)vq_read(chain, at, d->buf, n);
		vsock_conn_put(c, d->buf, n);
		at += n;
		left -= n;
	}
}

static void conn_packet(struct virtio_vsock *d, struct vsock_conn *c, const struct vsock_hdr *h,
                        const struct vq_chain *chain)
{
	bool open = c->state == VSOCK_OPEN;

	c->peer_alloc = h->buf_alloc;
	c->peer_fwd = h->fwd_cnt;
	switch (h->op) {
	case VSOCK_OP_RST:
		vsock_conn_free(c);
		return;
	case VSOCK_OP_RESPONSE:
		if (c->state != VSOCK_REQUESTED || c->pending & VSOCK_P_REQUEST)
			break;
		vsock_conn_opened(c);
		return;
	case VSOCK_OP_RW:
		if (!open)
			break;
		on_data(d, c, h, chain);
		if (c->state == VSOCK_OPEN)
			vsock_conn_watch(c);
		return;
	case VSOCK_OP_CREDIT_REQUEST:
		if (!open)
			break;
		c->pending |= VSOCK_P_CREDIT;
		vsock_kick(d);
		vsock_conn_watch(c);
		return;
	case VSOCK_OP_CREDIT_UPDATE:
		if (open)
			vsock_conn_watch(c);
		return;
	case VSOCK_OP_SHUTDOWN:
		if (!open)
			break;
		vsock_conn_shutdown(c, h->flags);
		return;
	}
	/* Nothing that fits the state. */
	if (c->state != VSOCK_CLOSING)
		vsock_conn_reset(c);
}

static void packet(struct virtio_vsock *d, const struct vq_chain *chain)
{
	struct vsock_conn *c;
	struct vsock_hdr h;

	if (vq_read(chain, 0, &h, VSOCK_HDR_LEN) != VSOCK_HDR_LEN) {
		guest_warn(&d->v.rl, "vsock: a packet without a header");
		return;
	}
	d->received++;
	/* 5.10.6.1: to somebody else, or in another's name: dropped. */
	if (h.src_cid != d->cid || h.dst_cid != VSOCK_CID_HOST)
		return;
	if (h.len > chain->rd_len - VSOCK_HDR_LEN || h.type != VSOCK_TYPE_STREAM) {
		refuse(d, &h);
		return;
	}
	c = vsock_conn_find(d, h.src_port, h.dst_port);
	if (c)
		conn_packet(d, c, &h, chain);
	else if (h.op == VSOCK_OP_REQUEST)
		on_request(d, &h);
	else
		refuse(d, &h);
}

static void tx_post(struct virtio_vsock *d);

static void tx_work(void *arg)
{
	struct virtio_vsock *d = arg;
	struct virtqueue *vq = virtio_queue(&d->v, QUEUE_TX);
	struct vq_chain *c;
	unsigned n = 0;

	if (!d->v.started || !virtqueue_live(vq))
		return;
	do {
		virtqueue_notify_off(vq);
		while (n < AT_ONCE && (c = virtqueue_pop(vq))) {
			packet(d, c);
			virtqueue_push(c, 0);
			n++;
		}
		if (n == AT_ONCE) {
			tx_post(d);
			break;
		}
	} while (virtqueue_notify_on(vq));
	virtqueue_interrupt(vq);
}

static void tx_post(struct virtio_vsock *d)
{
	if (!timer_armed(&d->tx_soon))
		timer_arm(&d->tx_soon, 0);
}

/* ---- the device ---- */

static void on_tick(void *arg)
{
	struct virtio_vsock *d = arg;
	u64 now = loop_now(d->v.env.loop), next = ~0ull;

	for (unsigned i = 0; i < VSOCK_CONNS; i++) {
		struct vsock_conn *c = &d->conn[i];

		if (c->state == VSOCK_FREE || !c->deadline)
			continue;
		if (c->deadline > now)
			next = MIN(next, c->deadline);
		else if (c->state == VSOCK_GREETING)
			vsock_conn_free(c);
		else
			vsock_conn_reset(c);
	}
	if (next != ~0ull)
		timer_arm(&d->tick, next);
}

static void on_connection(void *arg, int fd)
{
	vsock_conn_accept(arg, fd);
}

static void vsock_notify(struct virtio *v, struct virtqueue *vq)
{
	struct virtio_vsock *d = vsock_of(v);

	if (virtqueue_index(vq) == QUEUE_TX) {
		virtqueue_notify_off(vq);
		tx_post(d);
	} else if (virtqueue_index(vq) == QUEUE_RX) {
		vsock_kick(d);
	}
	/* Events are for migration: none so far. */
}

static void vsock_stop(struct virtio *v)
{
	struct virtio_vsock *d = vsock_of(v);

	for (unsigned i = 0; i < VSOCK_CONNS; i++)
		if (d->conn[i].state > VSOCK_GREETING)
			vsock_conn_free(&d->conn[i]);
	d->nr_rsts = 0;
}

static void vsock_queue_stop(struct virtio *v, struct virtqueue *vq)
{
	/* Chains are never kept. */
}

static void vsock_dump(struct virtio *v, FILE *out)
{
	static const char *const names[] = {"free",       "greeting", "requested",
	                                    "connecting", "open",     "closing"};
	struct virtio_vsock *d = vsock_of(v);

	fprintf(out, "  cid %llu, %llu packets to the guest, %llu from it, %llu that fit nothing\n",
	        (unsigned long long)d->cid, (unsigned long long)d->sent,
	        (unsigned long long)d->received, (unsigned long long)d->resets);
	for (unsigned i = 0; i < VSOCK_CONNS; i++) {
		const struct vsock_conn *c = &d->conn[i];

		if (c->state != VSOCK_FREE)
			fprintf(out, "    guest %u, host %u: %s, %u bytes wait, credit %u\n",
			        c->guest_port, c->host_port, names[c->state], c->out_len,
			        vsock_conn_credit(c));
	}
}

static void vsock_free(struct virtio_vsock *d, struct vsock_host *h)
{
	if (d) {
		listener_stop(&d->listener);
		timer_cancel(&d->tick);
		timer_cancel(&d->tx_soon);
		timer_cancel(&d->rx_soon);
		for (unsigned i = 0; i < VSOCK_CONNS; i++)
			vsock_conn_free(&d->conn[i]);
	}
	h->destroy(h);
	free(d);
}

static void vsock_destroy(struct virtio *v)
{
	struct virtio_vsock *d = vsock_of(v);

	vsock_free(d, d->host);
}

static const struct virtio_ops vsock_ops = {
	.notify = vsock_notify,
	.stop = vsock_stop,
	.queue_stop = vsock_queue_stop,
	.dump = vsock_dump,
	.destroy = vsock_destroy,
};

int virtio_vsock_create(const struct virtio_env *env, const struct virtio_vsock_config *cfg)
{
	struct virtio_vsock *d = calloc(1, sizeof(*d));
	struct virtio_config vc = {
		.name = "virtio-vsock",
		.id = VIRTIO_ID_VSOCK,
		.features = VIRTIO_VSOCK_F_STREAM,
		.nr_queues = NR_QUEUES,
		.queue_size = 128,
		.config_len = sizeof(u64),
		.ops = &vsock_ops,
	};
	int err = -ENOMEM;

	if (!d) {
		log_error("out of memory for a vsock device");
		goto fail;
	}
	d->host = cfg->host;
	d->cid = cfg->cid;
	for (unsigned i = 0; i < VSOCK_CONNS; i++)
		d->conn[i].fd = -1;
	timer_init(&d->tick, env->env->loop, on_tick, d);
	timer_init(&d->tx_soon, env->env->loop, tx_work, d);
	timer_init(&d->rx_soon, env->env->loop, rx_work, d);
	vc.config = &d->cid;
	err = listener_start(&d->listener, env->env->loop, cfg->host->listen_fd, on_connection, d);
	if (err)
		goto fail;
	err = virtio_create(&d->v, env, &vc);
	if (err)
		goto fail;
	d->host->connected = on_connected;
	d->host->arg = d;
	return 0;
fail:
	vsock_free(d, cfg->host);
	return err;
}
