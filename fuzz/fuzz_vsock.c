// SPDX-License-Identifier: MIT
/* A hostile driver of the vsock device, and hostile programs on the host: packets of any kind at
 * any time, rings and registers with anything in them, greetings in pieces, ends that are closed,
 * answers that come late, deadlines that pass. After each step the books of all connections must
 * agree: what waits is within the credit that was given. */
#include "../test/unit/vsockcard.h"
#include "fuzz_virtio.h"

#define ENDS  16 /* sockets of the host's programs */
#define ASKED 16 /* requests not answered yet */

struct machine {
	struct vsockcard c;
	int end[ENDS];
	u32 ids[ASKED];
	unsigned seen; /* requests that were written down */
};

static void start(struct machine *m, u8 how)
{
	vsockcard_start(&m->c, (u16)(1u << (2 + how % 5)));
}

/* Packets for ports that are in use, most of them: few ports on both sides. */
static void packet(struct machine *m, struct input *in)
{
	static u8 data[4096];
	u8 op = (u8)take(in, 1), how = (u8)take(in, 1);
	struct vsock_hdr h = vsockcard_hdr(op & 7, 1 + (how & 3), 5000 + (how >> 2 & 3));
	struct virtio_vsock *d = vsockcard_dev(&m->c);
	u32 n = 0;

	if (how & 0x40) { /* the port that a connection of the host's has, if there is one */
		const struct vsock_conn *c = &d->conn[how & 15];

		h.src_port = c->guest_port;
		h.dst_port = c->host_port;
	}
	if ((op & 7) == VSOCK_OP_RW)
		n = (u32)take(in, 2) % sizeof(data);
	h.len = n;
	h.flags = op >> 3 & 3;
	if (op & 0x20)
		h.buf_alloc = (u32)take(in, 2);
	if (op & 0x40)
		h.fwd_cnt = (u32)take(in, 4);
	if (op & 0x80) {
		unsigned at = (unsigned)take(in, 1) % VSOCK_HDR_LEN;

		((u8 *)&h)[at] = (u8)take(in, 1);
	}
	vsockcard_send(&m->c, &h, data, n);
}

/* One of the programs on the host does something. */
static void outside(struct machine *m, struct input *in, u8 op)
{
	static const char *const lines[] = {
		"CONNECT 1\n", "CONNECT 2\nhello", "CONN", "ECT 3\n", "CONNECT 4294967295\n",
		"\n",          "CONNECT  7\n",     "x"};
	static u8 data[8192];
	int *fd = &m->end[op >> 3 & 15];
	u8 what = (u8)take(in, 1);

	if (*fd < 0) {
		*fd = vsockcard_dial(&m->c);
		return;
	}
	switch (what & 7) {
	case 0:
	case 1:
		send(*fd, lines[what >> 3 & 7], strlen(lines[what >> 3 & 7]),
		     MSG_DONTWAIT | MSG_NOSIGNAL);
		break;
	case 2:
		send(*fd, data, (what >> 3) * 256u, MSG_DONTWAIT | MSG_NOSIGNAL);
		break;
	case 3:
	case 4:
		while (recv(*fd, data, sizeof(data), MSG_DONTWAIT) == (ssize_t)sizeof(data) &&
		       what & 8)
			;
		break;
	case 5:
		shutdown(*fd, what >> 3 & 1);
		break;
	default:
		close(*fd);
		*fd = -1;
	}
}

/* The guest's requests to connect are answered, sooner or later, or again with an old id. */
static void answer(struct machine *m, struct input *in)
{
	u8 which = (u8)take(in, 1);
	int *fd = &m->end[which & 15];
	int got = vsockcard_answer(&m->c, m->ids[which >> 4], which & 8 && *fd >= 0 ? -ENOENT : 0);

	if (got < 0)
		return;
	if (*fd >= 0)
		close(*fd);
	*fd = got;
}

static void judge(struct machine *m)
{
	struct virtio_vsock *d = vsockcard_dev(&m->c);

	if (m->seen != m->c.h->asked) {
		m->ids[m->c.h->id % ASKED] = m->c.h->id;
		m->seen = m->c.h->asked;
	}
	if (d->nr_rsts > VSOCK_RSTS)
		abort();
	for (unsigned i = 0; i < VSOCK_CONNS; i++) {
		const struct vsock_conn *c = &d->conn[i];

		if (c->state == VSOCK_FREE) {
			if (c->fd >= 0 || c->out || c->pending || c->watched)
				abort();
			continue;
		}
		if (c->state == VSOCK_CLOSING && (c->fd >= 0 || c->pending != VSOCK_P_RST))
			abort();
		if (c->out_len > VSOCK_BUF || (c->out_len && !c->out))
			abort();
		if (c->state == VSOCK_OPEN && c->rx_cnt - c->fwd_cnt != c->out_len)
			abort();
		if (c->state > VSOCK_GREETING &&
		    vsock_conn_find(d, c->guest_port, c->host_port) != c)
			abort(); /* two of one name */
	}
}

static void step(struct machine *m, struct input *in)
{
	struct vsockcard *c = &m->c;
	u8 op = (u8)take(in, 1);

	switch (op & 7) {
	case 0:
		if (op >> 3 == 0)
			start(m, (u8)take(in, 1));
		else if (op >> 3 == 1)
			dev_reset_all(c->p.t.devices);
		else if (op >> 3 == 2)
			loop_clock_step(c->p.t.loop, take(in, 1) * (NSEC_PER_SEC / 16));
		else if (op >> 3 == 3)
			c->h->refuse = c->h->refuse ? 0 : -ECONNREFUSED;
		else
			vsockcard_run(c);
		break;
	case 1:
		if (op & 8)
			fuzz_memory(&c->p, in, op, VC_RINGS, 0x9000);
		else
			fuzz_register(&c->d, in, op);
		break;
	case 2:
	case 3:
		if (c->tx.size)
			packet(m, in);
		break;
	case 4:
		if (c->rx.size)
			vsockcard_buffer(c, op & 8 ? (u32)take(in, 2) % VC_SLOT : VC_SLOT);
		break;
	case 5:
		mmio_out(&c->p, c->d.notify + (op >> 3 & 3) * 4, op >> 3 & 3, 2);
		if (op & 0x20)
			vsockcard_run(c);
		break;
	case 6:
		outside(m, in, op);
		break;
	case 7:
		answer(m, in);
		break;
	}
	judge(m);
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	struct machine *m = calloc(1, sizeof(*m));
	struct input in = {data, size};

	fuzz_quiet();
	if (!m)
		abort();
	for (unsigned i = 0; i < ENDS; i++)
		m->end[i] = -1;
	vsockcard_make(&m->c);
	start(m, (u8)take(&in, 1));
	for (unsigned i = 0; in.left && i < 1000; i++)
		step(m, &in);
	vsockcard_run(&m->c);
	judge(m);
	fuzz_dump(&m->c.p);
	pcitest_fini(&m->c.p);
	for (unsigned i = 0; i < ENDS; i++)
		if (m->end[i] >= 0)
			close(m->end[i]);
	free(m);
	return 0;
}
