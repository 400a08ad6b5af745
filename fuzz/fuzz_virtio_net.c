// SPDX-License-Identifier: MIT
/* A hostile driver of a network card, and a hostile network: any rings and registers, frames with
 * any header in both directions, commands, congestion, resets in between. The fake back end aborts
 * when a frame comes through whose header asks for what it must not. */
#include "../test/unit/netcard.h"
#include "fuzz_virtio.h"

#define DATA 0x200000

static void be16(u8 *p, unsigned v)
{
	p[0] = (u8)(v >> 8);
	p[1] = (u8)v;
}

/* A frame that is nearly a TCP packet, with a header that is nearly right; its length. */
static size_t make_frame(struct input *in, struct net_vhdr *h, u8 *f)
{
	static const u8 tcp[54] = {2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0, 4, 0};
	size_t len = 14 + take(in, 1) * 8;
	u8 how = (u8)take(in, 1);

	memset(f, how, len);
	memcpy(f, tcp, MIN(len, sizeof(tcp)));
	f[23] = 6;
	if (len > 46)
		f[46] = 0x50;
	be16(f + 16, (unsigned)len - 14);
	*h = (struct net_vhdr){.flags = how & 1, .csum_start = 34, .csum_offset = 16};
	if (how & 2) {
		h->flags = 1;
		h->gso_type = how & 4 ? VIRTIO_NET_HDR_GSO_TCPV4 : VIRTIO_NET_HDR_GSO_TCPV6;
		h->gso_size = (u16)(64 + take(in, 1));
	}
	for (unsigned i = 0; i < (how >> 3 & 3u); i++)
		f[take(in, 1) % len] = (u8)take(in, 1);
	for (unsigned i = 0; i < (how >> 5 & 3u); i++)
		((u8 *)h)[take(in, 1) % sizeof(*h)] = (u8)take(in, 1);
	return len;
}

static void add_tx(struct card *c, struct input *in)
{
	static u8 f[4096];
	struct net_vhdr h;
	size_t len = make_frame(in, &h, f);
	u16 id = (u16)(take(in, 1) % 16);
	gpa_t at = DATA + id * 0x2000ull;
	struct buf b[2] = {{at, 12, 0}, {at + 0x100, (u32)len, 0}};

	pmap_write(c->p.t.pmap, at, &h, sizeof(h));
	pmap_write(c->p.t.pmap, at + 0x100, f, len);
	if (!(id & 3))
		b[id >> 2 & 1].len = (u32)take(in, 4) & 0x3ffff;
	ring_add(&c->tx, id, b, 2);
}

static void step(struct card *c, struct input *in)
{
	static u8 f[4096];
	u8 op = (u8)take(in, 1);
	u16 id = (u16)(op >> 4);
	struct net_vhdr h;
	u32 n;

	switch (op & 7) {
	case 0:
		if (!(op >> 3))
			card_start(c, take(in, 3), 16, false);
		else
			card_run(c);
		break;
	case 1:
		fuzz_register(&c->d, in, op);
		break;
	case 2:
		fuzz_memory(&c->p, in, op, CARD_RINGS, 0x9000);
		break;
	case 3:
		add_tx(c, in);
		break;
	case 4:
		n = (u32)take(in, 2);
		ring_add(&c->rx, id,
		         &(struct buf){DATA + 0x40000 + id * 0x1000ull, n, VIRTQ_DESC_F_WRITE}, 1);
		break;
	case 5: { /* a command */
		struct buf b[2] = {{DATA + 0x80000, 0, 0}, {DATA + 0x90000, 1, VIRTQ_DESC_F_WRITE}};

		n = (u32)take(in, 1);
		for (u32 i = 0; i < MIN(n, 40u); i++)
			ram_put(&c->p, DATA + 0x80000 + i, take(in, 1), 1);
		b[0].len = n & 0x80 ? n * 64 : n;
		ring_add(&c->ctrl, 0, b, 2);
		break;
	}
	case 6:
		mmio_out(&c->p, c->d.notify + (op >> 3) * 4, op >> 3, 2);
		break;
	case 7: /* outside */
		n = (u32)make_frame(in, &h, f);
		bus_lock(c->p.t.bus);
		if (op & 8)
			c->f->congested = !c->f->congested;
		if (op & 16)
			c->f->back.front->writable(c->f->back.front_arg, op >> 6);
		if (net_vhdr_check(&h, f, n, c->f->offload))
			netback_receive(&c->f->back, op >> 6, &h, f, n);
		if (op == 0xff)
			dev_reset_all(c->p.t.devices);
		bus_unlock(c->p.t.bus);
		break;
	}
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	struct card *c = malloc(sizeof(*c));
	struct input in = {data, size};

	fuzz_quiet();
	if (!c)
		abort();
	card_make(c, 1 + take(&in, 1) % 4);
	card_start(c, take(&in, 3), 16, false);
	for (unsigned i = 0; in.left && i < 1000; i++)
		step(c, &in);
	c->f->congested = false;
	card_run(c);
	fuzz_dump(&c->p);
	pcitest_fini(&c->p);
	free(c);
	return 0;
}
