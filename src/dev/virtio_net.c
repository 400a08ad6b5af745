// SPDX-License-Identifier: MIT
/* Frames are copied between guest memory and one buffer of ours in each direction: headers are
 * looked at and must not change meanwhile, and a copy costs little beside the system call.
 *
 * Sending is done on the loop's thread, not on the vCPU that notified: the guest goes on and queues
 * more, and one pass sends all of it. Receiving happens where the back has frames, on the
 * loop's thread as well.
 *
 * Flow control: a frame that the back does not take waits with its chain, and the queue with it; a
 * frame for which the guest has no buffers waits in the back (netback.h). */
#include "dev/virtio_net.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "dev/netgso.h"
#include "dev/virtio_net_priv.h"

#define HDR_LEN 12  /* with num_buffers, always since version 1 (5.1.6.1) */
#define TX_ONCE 256 /* frames sent before others have their turn */
/* Buffers that one frame may be spread over. Linux's are of 1536 bytes and more, or pages. */
#define RX_PARTS 256

static struct virtio_net *net_of(struct virtio *v)
{
	return container_of(v, struct virtio_net, v);
}

static struct virtqueue *rx_queue(struct net_pair *p)
{
	return virtio_queue(&p->n->v, p->index * 2);
}
static struct virtqueue *tx_queue(struct net_pair *p)
{
	return virtio_queue(&p->n->v, p->index * 2 + 1);
}

/* Without MQ the control queue follows the first pair (5.1.2). */
static unsigned ctrl_index(const struct virtio_net *n)
{
	return virtio_has(&n->v, VIRTIO_NET_F_MQ) ? n->pairs * 2 : 2;
}

/* ---- to the guest ---- */

/* Chains for `need` bytes: how many, 0: not enough are there. *bad: the guest's buffers are of no
 * use for this frame. */
static unsigned rx_gather(struct net_pair *p, struct vq_chain **c, size_t need, bool *bad)
{
	bool merge = virtio_has(&p->n->v, VIRTIO_NET_F_MRG_RXBUF);
	struct virtqueue *vq = rx_queue(p);
	size_t have = 0;
	unsigned nr = 0;

	*bad = false;
	while (have < need) {
		if (nr == RX_PARTS || (nr && !merge)) {
			*bad = true;
			break;
		}
		c[nr] = virtqueue_pop(vq);
		if (!c[nr])
			break;
		have += c[nr++]->wr_len;
		if (c[nr - 1]->wr_len < (nr == 1 ? HDR_LEN : 1)) {
			virtqueue_break(vq, "a receive buffer without room for a header");
			*bad = true;
			break;
		}
	}
	if (have >= need && !*bad)
		return nr;
	while (nr)
		virtqueue_unpop(c[--nr]);
	return 0;
}

static void rx_store(struct net_pair *p, struct vq_chain **c, unsigned nr, const struct net_vhdr *h,
                     const u8 *frame, size_t len)
{
	u8 hdr[HDR_LEN];
	size_t done = 0;

	memcpy(hdr, h, NET_VHDR_LEN);
	put_le16(hdr + NET_VHDR_LEN, (u16)nr);
	vq_write(c[0], 0, hdr, HDR_LEN);
	for (unsigned i = 0; i < nr; i++) {
		u32 off = i ? 0 : HDR_LEN;
		size_t n = vq_write(c[i], off, frame + done, len - done);

		done += n;
		virtqueue_fill(c[i], off + (u32)n);
	}
	virtqueue_flush(rx_queue(p));
	virtqueue_interrupt(rx_queue(p));
	p->received++;
}

/* 1: the guest has it; 0: it lacks buffers; -1: they are of no use. */
static int rx_put(struct net_pair *p, const struct net_vhdr *h, const u8 *frame, size_t len)
{
	struct vq_chain *c[RX_PARTS];
	bool bad;
	unsigned nr = rx_gather(p, c, HDR_LEN + len, &bad);

	if (nr)
		rx_store(p, c, nr, h, frame, len);
	return nr ? 1 : bad ? -1 : 0;
}

static bool on_receive(void *arg, unsigned queue, const struct net_vhdr *h, const u8 *frame,
                       size_t len)
{
	struct virtio_net *n = arg;
	struct net_pair *p;
	struct virtqueue *vq;
	int r;

	if (!n->v.started || queue >= n->active)
		return true;
	p = n->pair[queue];
	vq = rx_queue(p);
	if (!virtqueue_live(vq) || len > NET_FRAME_MAX || !virtio_net_wants(n, frame, len)) {
		p->dropped++;
		return true;
	}
	r = rx_put(p, h, frame, len);
	if (!r) {
		/* The driver is to tell of new buffers, those that came meanwhile are tried. */
		virtqueue_notify_on(vq);
		r = rx_put(p, h, frame, len);
		if (r)
			virtqueue_notify_off(vq);
	}
	if (r < 0)
		p->dropped++;
	p->rx_waiting = !r && virtqueue_live(vq);
	return !p->rx_waiting;
}

/* ---- from the guest ---- */

/* The frame of a chain, checked, in p->tx_*. False: it is dropped. */
static bool tx_load(struct net_pair *p, const struct vq_chain *c)
{
	struct virtio_net *n = p->n;
	u8 hdr[HDR_LEN];

	if (vq_read(c, 0, hdr, HDR_LEN) != HDR_LEN || c->rd_len < HDR_LEN + NET_ETH_LEN ||
	    c->rd_len > HDR_LEN + NET_FRAME_MAX) {
		guest_warn(&n->v.rl, "virtio-net: a frame of %u bytes is dropped", c->rd_len);
		return false;
	}
	p->tx_len = vq_read(c, HDR_LEN, p->tx_frame, NET_FRAME_MAX);
	memcpy(&p->tx_hdr, hdr, NET_VHDR_LEN);
	/* 5.1.6.2: other flags are not for the driver. */
	p->tx_hdr.flags &= VIRTIO_NET_HDR_F_NEEDS_CSUM;
	if (!p->tx_hdr.flags && p->tx_hdr.gso_type == VIRTIO_NET_HDR_GSO_NONE)
		p->tx_hdr = (struct net_vhdr){0};
	if (!net_vhdr_check(&p->tx_hdr, p->tx_frame, p->tx_len, n->tx_offload)) {
		guest_warn(
			&n->v.rl,
			"virtio-net: a frame with a bad header is dropped (flags %#x, gso %#x of "
			"%u, checksum at %u + %u, %zu bytes)",
			hdr[0], p->tx_hdr.gso_type, p->tx_hdr.gso_size, p->tx_hdr.csum_start,
			p->tx_hdr.csum_offset, p->tx_len);
		return false;
	}
	return true;
}

/* The frame in p->tx_*: false when the back does not take it now. */
static bool tx_send(struct net_pair *p)
{
	if (!netback_send(p->n->back, p->index, &p->tx_hdr, p->tx_frame, p->tx_len))
		return false;
	p->sent++;
	return true;
}

static void tx_post(struct net_pair *p);

/* True: all is sent. False: there may be more, or the back is congested. */
static bool tx_some(struct net_pair *p)
{
	struct virtqueue *vq = tx_queue(p);
	struct vq_chain *c;

	for (unsigned i = 0; i < TX_ONCE; i++) {
		c = virtqueue_pop(vq);
		if (!c)
			return true;
		if (!tx_load(p, c)) {
			p->dropped++;
		} else if (!tx_send(p)) {
			p->tx_chain = c;
			p->tx_stopped = true;
			return false;
		}
		virtqueue_push(c, 0);
	}
	tx_post(p);
	return false;
}

static void tx_run(struct net_pair *p)
{
	struct virtqueue *vq = tx_queue(p);

	if (p->tx_stopped || !virtqueue_live(vq))
		return;
	do {
		virtqueue_notify_off(vq);
		if (!tx_some(p))
			break;
	} while (virtqueue_notify_on(vq));
	virtqueue_interrupt(vq);
}

static void tx_work(void *arg)
{
	struct net_pair *p = arg;

	if (p->n->v.started)
		tx_run(p);
}

static void tx_post(struct net_pair *p)
{
	if (!timer_armed(&p->tx_soon))
		timer_arm(&p->tx_soon, 0);
}

static void on_writable(void *arg, unsigned queue)
{
	struct virtio_net *n = arg;
	struct net_pair *p;

	if (queue >= n->pairs)
		return;
	p = n->pair[queue];
	if (!p->tx_stopped)
		return;
	if (!tx_send(p))
		return;
	virtqueue_push(p->tx_chain, 0);
	p->tx_chain = NULL;
	p->tx_stopped = false;
	tx_post(p); /* not from here: the back is in the middle of something */
}

static void on_link(void *arg, bool up)
{
	struct virtio_net *n = arg;

	n->space.status = up ? VIRTIO_NET_S_LINK_UP : 0;
	virtio_config_changed(&n->v);
}

static const struct netback_front front = {
	.receive = on_receive,
	.writable = on_writable,
	.link = on_link,
};

/* ---- the device ---- */

static bool net_features_ok(struct virtio *v)
{
	static const struct {
		u64 feature, any_of;
	} needs[] = {
		/* 5.1.3.1 */
		{VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_CSUM},
		{VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_GUEST_CSUM},
		{VIRTIO_NET_F_GUEST_ECN, VIRTIO_NET_F_GUEST_TSO4 | VIRTIO_NET_F_GUEST_TSO6},
		{VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_CSUM},
		{VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_CSUM},
		{VIRTIO_NET_F_HOST_ECN, VIRTIO_NET_F_HOST_TSO4 | VIRTIO_NET_F_HOST_TSO6},
		{VIRTIO_NET_F_CTRL_RX, VIRTIO_NET_F_CTRL_VQ},
		{VIRTIO_NET_F_CTRL_RX_EXTRA, VIRTIO_NET_F_CTRL_VQ},
		{VIRTIO_NET_F_CTRL_VLAN, VIRTIO_NET_F_CTRL_VQ},
		{VIRTIO_NET_F_CTRL_MAC_ADDR, VIRTIO_NET_F_CTRL_VQ},
		{VIRTIO_NET_F_CTRL_GUEST_OFFLOADS, VIRTIO_NET_F_CTRL_VQ},
		{VIRTIO_NET_F_MQ, VIRTIO_NET_F_CTRL_VQ},
	};

	for (size_t i = 0; i < ARRAY_SIZE(needs); i++)
		if (virtio_has(v, needs[i].feature) && !virtio_has(v, needs[i].any_of))
			return false;
	return true;
}

static void net_start(struct virtio *v)
{
	struct virtio_net *n = net_of(v);
	u32 off = 0;

	off |= virtio_has(v, VIRTIO_NET_F_CSUM) ? NET_OFF_CSUM : 0;
	off |= virtio_has(v, VIRTIO_NET_F_HOST_TSO4) ? NET_OFF_TSO4 : 0;
	off |= virtio_has(v, VIRTIO_NET_F_HOST_TSO6) ? NET_OFF_TSO6 : 0;
	off |= virtio_has(v, VIRTIO_NET_F_HOST_ECN) ? NET_OFF_ECN : 0;
	n->tx_offload = off;
	n->active = 1;
	memcpy(n->space.mac, n->mac, 6);
	virtio_net_ctrl_reset(n);
	n->back->ops->set_queues(n->back, 1);
	virtio_net_set_offload(n, v->driver_features);
}

static void net_notify(struct virtio *v, struct virtqueue *vq)
{
	struct virtio_net *n = net_of(v);
	unsigned i = virtqueue_index(vq);
	struct net_pair *p;

	if (i == ctrl_index(n)) {
		if (virtio_has(v, VIRTIO_NET_F_CTRL_VQ))
			virtio_net_ctrl_serve(n, vq);
		return;
	}
	if (i >= n->pairs * 2)
		return;
	p = n->pair[i / 2];
	if (i % 2) {
		virtqueue_notify_off(vq);
		tx_post(p);
		return;
	}
	virtqueue_notify_off(vq);
	p->rx_waiting = false;
	netback_pull(n->back, p->index);
}

static void pair_stop_tx(struct net_pair *p)
{
	if (p->tx_chain)
		virtqueue_drop(p->tx_chain);
	p->tx_chain = NULL;
	p->tx_stopped = false;
}

static void net_queue_stop(struct virtio *v, struct virtqueue *vq)
{
	struct virtio_net *n = net_of(v);
	unsigned i = virtqueue_index(vq);

	if (i == ctrl_index(n) || i >= n->pairs * 2)
		return;
	if (i % 2)
		pair_stop_tx(n->pair[i / 2]);
	else
		n->pair[i / 2]->rx_waiting = false;
}

static void net_stop(struct virtio *v)
{
	struct virtio_net *n = net_of(v);

	for (unsigned i = 0; i < n->pairs; i++) {
		pair_stop_tx(n->pair[i]);
		n->pair[i]->rx_waiting = false;
	}
	n->tx_offload = 0;
	virtio_net_set_offload(n, 0);
	/* What waits in the back for a guest that is gone: it is taken, and dropped. */
	for (unsigned i = 0; i < n->active; i++)
		netback_pull(n->back, i);
	n->back->ops->set_queues(n->back, 1);
	n->active = 1;
}

static void net_dump(struct virtio *v, FILE *out)
{
	struct virtio_net *n = net_of(v);
	const u8 *m = n->space.mac;

	fprintf(out,
	        "  %02x:%02x:%02x:%02x:%02x:%02x, %u of %u queue pairs, offloads %#x to us, %#x to "
	        "the guest%s\n",
	        m[0], m[1], m[2], m[3], m[4], m[5], n->active, n->pairs, n->tx_offload,
	        n->rx_offload, n->filter.promisc ? ", promiscuous" : "");
	for (unsigned i = 0; i < n->pairs; i++) {
		const struct net_pair *p = n->pair[i];

		fprintf(out, "  pair %u: %llu sent, %llu received, %llu dropped%s%s\n", i,
		        (unsigned long long)p->sent, (unsigned long long)p->received,
		        (unsigned long long)p->dropped, p->tx_stopped ? ", sending waits" : "",
		        p->rx_waiting ? ", no receive buffers" : "");
	}
	n->back->ops->dump(n->back, out);
}

static void net_destroy(struct virtio *v)
{
	struct virtio_net *n = net_of(v);

	netback_destroy(n->back);
	for (unsigned i = 0; i < n->pairs; i++) {
		timer_cancel(&n->pair[i]->tx_soon);
		free(n->pair[i]);
	}
	free(n);
}

static const struct virtio_ops net_ops = {
	.features_ok = net_features_ok,
	.start = net_start,
	.notify = net_notify,
	.stop = net_stop,
	.queue_stop = net_queue_stop,
	.dump = net_dump,
	.destroy = net_destroy,
};

static u64 features(const struct netback *b)
{
	u64 f = VIRTIO_NET_F_MAC | VIRTIO_NET_F_MRG_RXBUF | VIRTIO_NET_F_STATUS |
	        VIRTIO_NET_F_CTRL_VQ | VIRTIO_NET_F_CTRL_RX | VIRTIO_NET_F_CTRL_RX_EXTRA |
	        VIRTIO_NET_F_CTRL_VLAN | VIRTIO_NET_F_CTRL_MAC_ADDR |
	        VIRTIO_NET_F_CTRL_GUEST_OFFLOADS;

	f |= b->tx_offload & NET_OFF_CSUM ? VIRTIO_NET_F_CSUM : 0;
	f |= b->tx_offload & NET_OFF_TSO4 ? VIRTIO_NET_F_HOST_TSO4 : 0;
	f |= b->tx_offload & NET_OFF_TSO6 ? VIRTIO_NET_F_HOST_TSO6 : 0;
	f |= b->tx_offload & NET_OFF_ECN ? VIRTIO_NET_F_HOST_ECN : 0;
	f |= b->rx_offload & NET_OFF_CSUM ? VIRTIO_NET_F_GUEST_CSUM : 0;
	f |= b->rx_offload & NET_OFF_TSO4 ? VIRTIO_NET_F_GUEST_TSO4 : 0;
	f |= b->rx_offload & NET_OFF_TSO6 ? VIRTIO_NET_F_GUEST_TSO6 : 0;
	f |= b->rx_offload & NET_OFF_ECN ? VIRTIO_NET_F_GUEST_ECN : 0;
	f |= b->queues > 1 ? VIRTIO_NET_F_MQ : 0;
	f |= b->mtu ? VIRTIO_NET_F_MTU : 0;
	return f;
}

int virtio_net_create(const struct virtio_env *env, const struct virtio_net_config *cfg)
{
	struct netback *b = cfg->back;
	struct virtio_net *n = calloc(1, sizeof(*n));
	u16 sizes[NET_QUEUES_MAX * 2 + 1];
	struct virtio_config vc = {
		.name = "virtio-net",
		.id = VIRTIO_ID_NET,
		.pci_class = 0x020000, /* Ethernet controller */
		.queue_sizes = sizes,
		.ops = &net_ops,
	};
	int err = -ENOMEM;

	if (!n)
		goto fail;
	n->back = b;
	for (n->pairs = 0; n->pairs < MIN(b->queues, (unsigned)NET_QUEUES_MAX); n->pairs++) {
		struct net_pair *p = calloc(1, sizeof(*p));

		if (!p)
			goto fail;
		*p = (struct net_pair){.n = n, .index = n->pairs};
		timer_init(&p->tx_soon, env->env->loop, tx_work, p);
		n->pair[n->pairs] = p;
	}
	n->active = 1;
	memcpy(n->mac, cfg->mac, 6);
	n->space = (struct virtio_net_space){
		.status = VIRTIO_NET_S_LINK_UP,
		.max_virtqueue_pairs = (u16)n->pairs,
		.mtu = b->mtu,
	};
	memcpy(n->space.mac, cfg->mac, 6);
	virtio_net_ctrl_reset(n);
	vc.nr_queues = n->pairs * 2 + 1;
	for (unsigned i = 0; i < vc.nr_queues; i++)
		sizes[i] = i == n->pairs * 2 ? 64 : 256;
	vc.features = features(b);
	vc.config = &n->space;
	vc.config_len = sizeof(n->space);
	err = virtio_create(&n->v, env, &vc);
	if (err)
		goto fail;
	netback_connect(b, &front, n);
	return 0;
fail:
	if (err == -ENOMEM)
		log_error("out of memory for a network card");
	netback_destroy(b);
	for (unsigned i = 0; n && i < n->pairs; i++)
		free(n->pair[i]);
	free(n);
	return err;
}
