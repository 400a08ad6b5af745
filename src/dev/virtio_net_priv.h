/* SPDX-License-Identifier: MIT */
/* The card's state: virtio_net.c moves frames, virtio_net_ctrl.c serves the control queue and
 * decides which frames are for the guest. */
#pragma once

#include "dev/virtio_net.h"

/* Feature bits, 5.1.3. */
#define VIRTIO_NET_F_CSUM                BIT(0)
#define VIRTIO_NET_F_GUEST_CSUM          BIT(1)
#define VIRTIO_NET_F_CTRL_GUEST_OFFLOADS BIT(2)
#define VIRTIO_NET_F_MTU                 BIT(3)
#define VIRTIO_NET_F_MAC                 BIT(5)
#define VIRTIO_NET_F_GUEST_TSO4          BIT(7)
#define VIRTIO_NET_F_GUEST_TSO6          BIT(8)
#define VIRTIO_NET_F_GUEST_ECN           BIT(9)
#define VIRTIO_NET_F_HOST_TSO4           BIT(11)
#define VIRTIO_NET_F_HOST_TSO6           BIT(12)
#define VIRTIO_NET_F_HOST_ECN            BIT(13)
#define VIRTIO_NET_F_MRG_RXBUF           BIT(15)
#define VIRTIO_NET_F_STATUS              BIT(16)
#define VIRTIO_NET_F_CTRL_VQ             BIT(17)
#define VIRTIO_NET_F_CTRL_RX             BIT(18)
#define VIRTIO_NET_F_CTRL_VLAN           BIT(19)
#define VIRTIO_NET_F_CTRL_RX_EXTRA       BIT(20)
#define VIRTIO_NET_F_MQ                  BIT(22)
#define VIRTIO_NET_F_CTRL_MAC_ADDR       BIT(23)

#define VIRTIO_NET_S_LINK_UP 1

/* Configuration space, 5.1.4. */
struct virtio_net_space {
	u8 mac[6];
	u16 status;
	u16 max_virtqueue_pairs;
	u16 mtu;
};

#define NET_FILTER_MAX 64 /* addresses of each kind; more: all of the kind are let through */

struct net_filter {
	bool promisc, allmulti, alluni, nomulti, nouni, nobcast;
	bool uni_overflow, multi_overflow;
	unsigned nr_uni, nr_multi;
	u8 uni[NET_FILTER_MAX][6];
	u8 multi[NET_FILTER_MAX][6];
	u64 vlans[4096 / 64];
};

struct net_pair {
	struct virtio_net *n;
	unsigned index;
	bool rx_waiting;      /* the back has frames, the guest no buffers */
	struct timer tx_soon; /* sending, on the loop's thread */
	bool tx_stopped;      /* the back takes no more; `tx_chain` waits with its frame below */
	struct vq_chain *tx_chain;
	struct net_vhdr tx_hdr;
	size_t tx_len;
	u64 sent, received, dropped;
	u8 tx_frame[NET_FRAME_MAX];
};

struct virtio_net {
	struct virtio v;
	struct netback *back;
	struct virtio_net_space space;
	u8 mac[6]; /* the card's own; space.mac is what the guest made of it */
	unsigned pairs;
	unsigned active; /* pairs in use */
	u32 tx_offload;  /* the guest may leave to us */
	u32 rx_offload;  /* we may leave to the guest */
	struct net_filter filter;
	struct net_pair *pair[NET_QUEUES_MAX];
};

void virtio_net_ctrl_reset(struct virtio_net *n);
/* Everything in the control queue. */
void virtio_net_ctrl_serve(struct virtio_net *n, struct virtqueue *vq);
/* Is a frame from outside for this guest? */
bool virtio_net_wants(const struct virtio_net *n, const u8 *frame, size_t len);
/* Feature bits of the kind GUEST_* to NET_OFF_*, as far as the back can. */
void virtio_net_set_offload(struct virtio_net *n, u64 features);
