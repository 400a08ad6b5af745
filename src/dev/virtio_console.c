// SPDX-License-Identifier: MIT
/* Port 0 is a console also for drivers that know only one (no VIRTIO_CONSOLE_F_MULTIPORT); when
 * there is none, it stays empty and ports are counted from 1.
 *
 * Nothing blocks: output that the back end does not take keeps its chain until the back end says
 * `drained`; input is taken as far as the driver has given buffers. What the device has to say on
 * the control queue is a set of flags for each port, so a driver that gives no buffers, or asks
 * again and again, makes nothing grow. */
#include "dev/virtio_console.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define VIRTIO_CONSOLE_F_MULTIPORT   BIT(1)
#define VIRTIO_CONSOLE_F_EMERG_WRITE BIT(2)

/* Events of the control queue, 5.3.6.2. */
enum {
	DEVICE_READY = 0,
	DEVICE_ADD = 1,
	PORT_READY = 3,
	CONSOLE_PORT = 4,
	PORT_OPEN = 6,
	PORT_NAME = 7,
};

#define CONTROL_RX 2
#define CONTROL_TX 3
#define ROUND      64 /* chains of output at a time */

struct console_layout {
	u16 cols, rows;
	u32 max_nr_ports;
	u32 emerg_wr;
};

struct control {
	u32 id;
	u16 event, value;
};

struct virtio_console;

struct port {
	struct virtio_console *con;
	struct virtio_console_port cfg;
	unsigned id;
	bool present, open; /* open: by the guest */
	u8 to_say;          /* events, as bits */
	struct vq_chain *out, *in;
	size_t out_off;
};

struct virtio_console {
	struct virtio v;
	struct console_layout config;
	struct port port[VIRTIO_CONSOLE_MAX_PORTS];
	unsigned nr_ports; /* the empty port 0 included */
	bool posted;
};

static struct virtqueue *port_queue(const struct port *p, bool tx)
{
	unsigned first = p->id ? 2 + 2 * p->id : 0;

	return virtio_queue(&p->con->v, first + tx);
}

static bool multiport(const struct port *p)
{
	return virtio_has(&p->con->v, VIRTIO_CONSOLE_F_MULTIPORT);
}

/* ---- output ---- */

/* The pending chain, as far as the back end takes it. True: it is done. */
static bool out_chain(struct port *p)
{
	struct vq_chain *c = p->out;

	while (p->cfg.back && p->out_off < c->rd_len) {
		struct iovec piece;
		size_t n;

		iov_slice(c->rd, c->nr_rd, p->out_off, c->rd_len - p->out_off, &piece, 1);
		n = chardev_write(p->cfg.back, piece.iov_base, piece.iov_len);
		p->out_off += n;
		if (n < piece.iov_len)
			return false;
	}
	p->out = NULL;
	p->out_off = 0;
	virtqueue_push(c, 0);
	return true;
}

static void console_again(void *arg);

/* A driver could refill as fast as we serve: others get the machine lock in between. */
static void post_again(struct virtio_console *con)
{
	con->posted = con->posted || !loop_post(con->v.env.loop, console_again, con);
}

static void port_output(struct port *p)
{
	struct virtqueue *vq = port_queue(p, true);

	for (unsigned i = 0; p->out || (p->out = virtqueue_pop(vq)); i++) {
		if (i == ROUND) {
			post_again(p->con);
			break;
		}
		if (!out_chain(p))
			break;
	}
	virtqueue_interrupt(vq);
}

static void port_drained(void *arg)
{
	struct port *p = arg;

	if (p->con->v.started)
		port_output(p);
}

/* ---- input ---- */

static size_t port_room(void *arg)
{
	struct port *p = arg;

	if (!p->con->v.started || (multiport(p) && !p->open))
		return 0;
	while (!p->in && (p->in = virtqueue_pop(port_queue(p, false))) && !p->in->wr_len) {
		virtqueue_push(p->in, 0);
		p->in = NULL;
	}
	return p->in ? p->in->wr_len : 0;
}

static void port_receive(void *arg, const u8 *buf, size_t n)
{
	struct port *p = arg;
	struct vq_chain *c = p->in;

	if (!c)
		return;
	p->in = NULL;
	virtqueue_push(c, (u32)vq_write(c, 0, buf, n));
	virtqueue_interrupt(port_queue(p, false));
}

static const struct chardev_front port_front = {port_room, port_receive, port_drained};

static void port_input(struct port *p)
{
	if (p->cfg.back)
		chardev_pull(p->cfg.back);
}

/* ---- control ---- */

static void say_one(struct port *p, struct vq_chain *c, u16 event)
{
	struct control m = {.id = p->id, .event = event, .value = 1};
	size_t n = vq_write(c, 0, &m, sizeof(m));

	if (event == PORT_NAME)
		n += vq_write(c, n, p->cfg.name, strlen(p->cfg.name));
	p->to_say &= (u8) ~(1u << event);
	virtqueue_push(c, (u32)n);
}

static void say(struct virtio_console *con)
{
	struct virtqueue *vq = virtio_queue(&con->v, CONTROL_RX);

	for (unsigned i = 0; i < con->nr_ports; i++) {
		struct port *p = &con->port[i];

		while (p->to_say) {
			struct vq_chain *c = virtqueue_pop(vq);

			if (!c)
				goto out;
			say_one(p, c, (u16)__builtin_ctz(p->to_say));
		}
	}
out:
	virtqueue_interrupt(vq);
}

static void heard(struct virtio_console *con, const struct control *m)
{
	struct port *p;

	if (m->event == DEVICE_READY) {
		for (unsigned i = 0; m->value == 1 && i < con->nr_ports; i++)
			if (con->port[i].present)
				con->port[i].to_say |= 1u << DEVICE_ADD;
		return;
	}
	if (m->id >= con->nr_ports || !con->port[m->id].present) {
		guest_warn(&con->v.rl, "virtio-console: event %u for port %u, which is not there",
		           m->event, m->id);
		return;
	}
	p = &con->port[m->id];
	if (m->event == PORT_READY && m->value == 1) {
		p->to_say |= (u8)((p->cfg.console ? 1u << CONSOLE_PORT : 0) |
		                  (*p->cfg.name ? 1u << PORT_NAME : 0) | 1u << PORT_OPEN);
	} else if (m->event == PORT_OPEN) {
		p->open = m->value;
		port_input(p);
	}
}

static void control(struct virtio_console *con, struct virtqueue *vq)
{
	struct vq_chain *c;

	for (unsigned i = 0; (c = virtqueue_pop(vq)); i++) {
		struct control m;
		bool whole = vq_read(c, 0, &m, sizeof(m)) == sizeof(m);

		if (i == ROUND) {
			virtqueue_unpop(c);
			post_again(con);
			break;
		}

		virtqueue_push(c, 0);
		if (whole)
			heard(con, &m);
	}
	virtqueue_interrupt(vq);
	say(con);
}

static void console_again(void *arg)
{
	struct virtio_console *con = arg;

	con->posted = false;
	if (con->v.started && virtio_has(&con->v, VIRTIO_CONSOLE_F_MULTIPORT))
		control(con, virtio_queue(&con->v, CONTROL_TX));
	for (unsigned i = 0; i < con->nr_ports && con->v.started; i++)
		port_output(&con->port[i]);
}

/* ---- the device ---- */

static void console_notify(struct virtio *v, struct virtqueue *vq)
{
	struct virtio_console *con = container_of(v, struct virtio_console, v);
	unsigned q = virtqueue_index(vq);
	struct port *p = &con->port[q < 2 ? 0 : q / 2 - 1];

	if (q == CONTROL_RX)
		say(con);
	else if (q == CONTROL_TX)
		control(con, vq);
	else if (q & 1)
		port_output(p);
	else
		port_input(p);
}

static void port_leave(struct port *p, bool in, bool out)
{
	if (in && p->in) {
		virtqueue_drop(p->in);
		p->in = NULL;
	}
	if (out && p->out) {
		virtqueue_drop(p->out);
		p->out = NULL;
		p->out_off = 0;
	}
}

static void console_stop(struct virtio *v)
{
	struct virtio_console *con = container_of(v, struct virtio_console, v);

	for (unsigned i = 0; i < con->nr_ports; i++) {
		port_leave(&con->port[i], true, true);
		con->port[i].open = false;
		con->port[i].to_say = 0;
	}
}

static void console_queue_stop(struct virtio *v, struct virtqueue *vq)
{
	struct virtio_console *con = container_of(v, struct virtio_console, v);
	unsigned q = virtqueue_index(vq);

	if (q != CONTROL_RX && q != CONTROL_TX)
		port_leave(&con->port[q < 2 ? 0 : q / 2 - 1], !(q & 1), q & 1);
}

/* 5.3.4: emergency write, without any queue. */
static void console_config_write(struct virtio *v, u32 off, const u8 *buf, u32 n)
{
	struct virtio_console *con = container_of(v, struct virtio_console, v);

	if (off == offsetof(struct console_layout, emerg_wr) && con->port[0].cfg.back)
		chardev_write(con->port[0].cfg.back, buf, 1);
}

static void console_dump(struct virtio *v, FILE *out)
{
	const struct virtio_console *con = container_of(v, struct virtio_console, v);

	for (unsigned i = 0; i < con->nr_ports; i++) {
		const struct port *p = &con->port[i];

		if (p->present)
			fprintf(out, "  port %u: %s %s%s%s\n", i,
			        p->cfg.console ? "console" : "stream", p->cfg.name,
			        p->open ? ", open" : "", p->out ? ", waits" : "");
	}
}

static void console_destroy(struct virtio *v)
{
	struct virtio_console *con = container_of(v, struct virtio_console, v);

	for (unsigned i = 0; i < con->nr_ports; i++)
		if (con->port[i].cfg.back)
			chardev_connect(con->port[i].cfg.back, NULL, NULL);
	free(con);
}

static const struct virtio_ops console_ops = {
	.notify = console_notify,
	.stop = console_stop,
	.queue_stop = console_queue_stop,
	.config_write = console_config_write,
	.dump = console_dump,
	.destroy = console_destroy,
};

int virtio_console_create(const struct virtio_env *env, const struct virtio_console_config *cfg)
{
	struct virtio_console *con = calloc(1, sizeof(*con));
	unsigned first = cfg->nr_ports && cfg->port[0].console ? 0 : 1;
	struct virtio_config vc = {
		.name = "virtio-console",
		.id = VIRTIO_ID_CONSOLE,
		.pci_class = 0x078000, /* communication controller, other */
		.features = VIRTIO_CONSOLE_F_MULTIPORT | VIRTIO_CONSOLE_F_EMERG_WRITE,
		.queue_size = 64,
		.config_len = sizeof(con->config),
		.packed = cfg->packed,
		.ops = &console_ops,
	};
	int err;

	if (!con) {
		log_error("virtio-console: out of memory");
		return -ENOMEM;
	}
	con->nr_ports = first + cfg->nr_ports;
	if (con->nr_ports > VIRTIO_CONSOLE_MAX_PORTS) {
		log_error("virtio-console: more than %d ports", VIRTIO_CONSOLE_MAX_PORTS - 1);
		free(con);
		return -EINVAL;
	}
	con->config.max_nr_ports = con->nr_ports;
	vc.config = &con->config;
	vc.nr_queues = 2 + 2 * con->nr_ports;
	for (unsigned i = 0; i < con->nr_ports; i++) {
		con->port[i].con = con;
		con->port[i].id = i;
		con->port[i].present = i >= first;
		if (i >= first)
			con->port[i].cfg = cfg->port[i - first];
	}
	err = virtio_create(&con->v, env, &vc);
	if (err) {
		free(con);
		return err;
	}
	for (unsigned i = first; i < con->nr_ports; i++)
		if (con->port[i].cfg.back)
			chardev_connect(con->port[i].cfg.back, &port_front, &con->port[i]);
	return 0;
}
