// SPDX-License-Identifier: MIT
/* The control queue: virtio 1.2, 5.1.6.5. A command is copied once and then judged; what is
 * malformed is answered with an error, as the specification says, and changes nothing.
 *
 * Filters are a service to the guest, which sees fewer frames; no security rests on them. */
#include <string.h>

#include "dev/virtio_net_priv.h"

/* Class and command in one number. */
#define CMD(class, cmd) ((class) << 8 | (cmd))
enum {
	CTRL_RX_PROMISC = CMD(0, 0),
	CTRL_RX_ALLMULTI = CMD(0, 1),
	CTRL_RX_ALLUNI = CMD(0, 2),
	CTRL_RX_NOMULTI = CMD(0, 3),
	CTRL_RX_NOUNI = CMD(0, 4),
	CTRL_RX_NOBCAST = CMD(0, 5),
	CTRL_MAC_TABLE_SET = CMD(1, 0),
	CTRL_MAC_ADDR_SET = CMD(1, 1),
	CTRL_VLAN_ADD = CMD(2, 0),
	CTRL_VLAN_DEL = CMD(2, 1),
	CTRL_MQ_VQ_PAIRS_SET = CMD(4, 0),
	CTRL_GUEST_OFFLOADS_SET = CMD(5, 0),
};

#define VIRTIO_NET_OK  0
#define VIRTIO_NET_ERR 1

/* A table of addresses may be longer than what is kept of it; this is all that is looked at. */
#define COMMAND_MAX 8192
#define AT_ONCE     64 /* commands served before others have their turn */

#define ETH_P_VLAN_BE 0x0081 /* as it stands in the frame, read as little-endian */

void virtio_net_ctrl_reset(struct virtio_net *n)
{
	n->filter = (struct net_filter){.promisc = true};
}

void virtio_net_set_offload(struct virtio_net *n, u64 features)
{
	u32 off = 0;

	off |= features & VIRTIO_NET_F_GUEST_CSUM ? NET_OFF_CSUM : 0;
	off |= features & VIRTIO_NET_F_GUEST_TSO4 ? NET_OFF_TSO4 : 0;
	off |= features & VIRTIO_NET_F_GUEST_TSO6 ? NET_OFF_TSO6 : 0;
	off |= features & VIRTIO_NET_F_GUEST_ECN ? NET_OFF_ECN : 0;
	n->rx_offload = off & n->back->rx_offload;
	n->back->ops->set_offload(n->back, n->rx_offload);
}

/* ---- which frames are for the guest ---- */

static bool in_table(const u8 (*table)[6], unsigned nr, const u8 *mac)
{
	for (unsigned i = 0; i < nr; i++)
		if (!memcmp(table[i], mac, 6))
			return true;
	return false;
}

bool virtio_net_wants(const struct virtio_net *n, const u8 *frame, size_t len)
{
	const struct net_filter *f = &n->filter;

	if (f->promisc)
		return true;
	if (virtio_has(&n->v, VIRTIO_NET_F_CTRL_VLAN) && len >= 18 &&
	    get_le16(frame + 12) == ETH_P_VLAN_BE) {
		unsigned vid = (unsigned)(frame[14] << 8 | frame[15]) & 0xfff;

		if (!(f->vlans[vid / 64] & BIT(vid % 64)))
			return false;
	}
	if (!memcmp(frame, "\xff\xff\xff\xff\xff\xff", 6))
		return !f->nobcast;
	if (frame[0] & 1) {
		if (f->nomulti)
			return false;
		return f->allmulti || f->multi_overflow || in_table(f->multi, f->nr_multi, frame);
	}
	if (f->nouni)
		return false;
	return f->alluni || f->uni_overflow || !memcmp(frame, n->space.mac, 6) ||
	       in_table(f->uni, f->nr_uni, frame);
}

/* ---- commands ---- */

/* One of the two tables of MAC_TABLE_SET: how many bytes it takes, 0: malformed. */
static size_t take_table(const u8 *p, size_t len, u8 (*table)[6], unsigned *nr, bool *overflow)
{
	u32 count;

	if (len < 4)
		return 0;
	count = get_le32(p);
	if (count > (len - 4) / 6)
		return 0;
	*overflow = count > NET_FILTER_MAX;
	*nr = *overflow ? 0 : count;
	memcpy(table, p + 4, *nr * 6ul);
	return 4 + count * 6ul;
}

static bool mac_table_set(struct virtio_net *n, const u8 *p, size_t len)
{
	struct net_filter f = n->filter;
	size_t used = take_table(p, len, f.uni, &f.nr_uni, &f.uni_overflow);

	if (!used || !take_table(p + used, len - used, f.multi, &f.nr_multi, &f.multi_overflow))
		return false;
	n->filter = f;
	return true;
}

static bool rx_mode(struct virtio_net *n, bool *mode, u64 feature, const u8 *p, size_t len)
{
	if (len != 1 || !virtio_has(&n->v, feature))
		return false;
	*mode = *p;
	return true;
}

static bool vlan_set(struct virtio_net *n, bool on, const u8 *p, size_t len)
{
	u16 vid;

	if (len != 2 || !virtio_has(&n->v, VIRTIO_NET_F_CTRL_VLAN))
		return false;
	vid = get_le16(p);
	if (vid >= 4096)
		return false;
	if (on)
		n->filter.vlans[vid / 64] |= BIT(vid % 64);
	else
		n->filter.vlans[vid / 64] &= ~BIT(vid % 64);
	return true;
}

static bool mac_addr_set(struct virtio_net *n, const u8 *p, size_t len)
{
	if (len != 6 || !virtio_has(&n->v, VIRTIO_NET_F_CTRL_MAC_ADDR))
		return false;
	memcpy(n->space.mac, p, 6);
	return true;
}

static bool pairs_set(struct virtio_net *n, const u8 *p, size_t len)
{
	u16 pairs;

	if (len != 2 || !virtio_has(&n->v, VIRTIO_NET_F_MQ))
		return false;
	pairs = get_le16(p);
	if (!pairs || pairs > n->pairs)
		return false;
	n->active = pairs;
	n->back->ops->set_queues(n->back, pairs);
	return true;
}

static bool offloads_set(struct virtio_net *n, const u8 *p, size_t len)
{
	u64 wanted;

	if (len != 8 || !virtio_has(&n->v, VIRTIO_NET_F_CTRL_GUEST_OFFLOADS))
		return false;
	wanted = get_le64(p);
	if (wanted & ~n->v.driver_features)
		return false;
	virtio_net_set_offload(n, wanted);
	return true;
}

static bool command(struct virtio_net *n, unsigned cmd, const u8 *p, size_t len)
{
	struct net_filter *f = &n->filter;

	switch (cmd) {
	case CTRL_RX_PROMISC:
		return rx_mode(n, &f->promisc, VIRTIO_NET_F_CTRL_RX, p, len);
	case CTRL_RX_ALLMULTI:
		return rx_mode(n, &f->allmulti, VIRTIO_NET_F_CTRL_RX, p, len);
	case CTRL_RX_ALLUNI:
		return rx_mode(n, &f->alluni, VIRTIO_NET_F_CTRL_RX_EXTRA, p, len);
	case CTRL_RX_NOMULTI:
		return rx_mode(n, &f->nomulti, VIRTIO_NET_F_CTRL_RX_EXTRA, p, len);
	case CTRL_RX_NOUNI:
		return rx_mode(n, &f->nouni, VIRTIO_NET_F_CTRL_RX_EXTRA, p, len);
	case CTRL_RX_NOBCAST:
		return rx_mode(n, &f->nobcast, VIRTIO_NET_F_CTRL_RX_EXTRA, p, len);
	case CTRL_MAC_TABLE_SET:
		return virtio_has(&n->v, VIRTIO_NET_F_CTRL_RX) && mac_table_set(n, p, len);
	case CTRL_MAC_ADDR_SET:
		return mac_addr_set(n, p, len);
	case CTRL_VLAN_ADD:
		return vlan_set(n, true, p, len);
	case CTRL_VLAN_DEL:
		return vlan_set(n, false, p, len);
	case CTRL_MQ_VQ_PAIRS_SET:
		return pairs_set(n, p, len);
	case CTRL_GUEST_OFFLOADS_SET:
		return offloads_set(n, p, len);
	default:
		return false;
	}
}

void virtio_net_ctrl_serve(struct virtio_net *n, struct virtqueue *vq)
{
	u8 buf[COMMAND_MAX];
	struct vq_chain *c;

	for (unsigned i = 0; i < AT_ONCE && (c = virtqueue_pop(vq)); i++) {
		size_t len = vq_read(c, 0, buf, sizeof(buf));
		bool ok = len >= 2 && len == c->rd_len &&
		          command(n, (unsigned)CMD(buf[0], buf[1]), buf + 2, len - 2);
		u8 ack = ok ? VIRTIO_NET_OK : VIRTIO_NET_ERR;

		virtqueue_push(c, (u32)vq_write(c, 0, &ack, 1));
	}
	virtqueue_interrupt(vq);
}
