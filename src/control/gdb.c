// SPDX-License-Identifier: MIT
/* Packets come in through a bounded buffer, each is answered at once; the VM is paused whenever
 * one is served, except the interrupt byte. Registers and memory are read in place from the parked
 * vCPUs. Breakpoints never change guest memory: the engine compares addresses (vm->breakpoint). */
#include "control/gdb.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "bus/listener.h"
#include "control/gdb_regs.h"
#include "io/unixsock.h"
#include "cpu/x86/mmu.h"

#define PACKET_MAX 0x4000
#define XML_MAX    0x4000

struct gdb {
	struct vm *vm;
	struct listener listener;
	int listen_fd, fd;
	bool noack, stopped; /* stopped: we hold a pause */
	unsigned cur;        /* vCPU that g, m, ... are about */
	u8 rx[PACKET_MAX + 4];
	size_t rx_len;
	char tx[2 * PACKET_MAX + 8];
	size_t tx_len; /* payload under construction */
	char xml[XML_MAX];
	size_t xml_len;
};

/* ---- text ---- */

static int hex_val(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

/* Parse hex digits; false when there is none. */
static bool get_hex(const char **p, u64 *val)
{
	const char *start = *p;
	int d;

	*val = 0;
	while ((d = hex_val(**p)) >= 0) {
		*val = *val << 4 | (u64)d;
		(*p)++;
	}
	return *p != start;
}

static bool get_char(const char **p, char c)
{
	if (**p != c)
		return false;
	(*p)++;
	return true;
}

static void reply(struct gdb *g, const char *text)
{
	size_t n = strlen(text);

	if (g->tx_len + n > 2 * PACKET_MAX)
		return;
	memcpy(g->tx + g->tx_len, text, n);
	g->tx_len += n;
}

static void reply_bytes(struct gdb *g, const u8 *buf, size_t n)
{
	static const char digits[] = "0123456789abcdef";

	for (size_t i = 0; i < n && g->tx_len + 2 <= 2 * PACKET_MAX; i++) {
		g->tx[g->tx_len++] = digits[buf[i] >> 4];
		g->tx[g->tx_len++] = digits[buf[i] & 15];
	}
}

static size_t take_bytes(const char **p, u8 *buf, size_t max)
{
	size_t n = 0;

	while (n < max && hex_val((*p)[0]) >= 0 && hex_val((*p)[1]) >= 0) {
		buf[n++] = (u8)(hex_val((*p)[0]) << 4 | hex_val((*p)[1]));
		*p += 2;
	}
	return n;
}

/* ---- the connection ---- */

static void client_gone(struct gdb *g);

static bool send_all(struct gdb *g, const char *buf, size_t n)
{
	while (n && g->fd >= 0) {
		ssize_t r = send(g->fd, buf, n, MSG_NOSIGNAL);

		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0) { /* a debugger that doesn't read for the send time-out is gone */
			client_gone(g);
			return false;
		}
		buf += r;
		n -= (size_t)r;
	}
	return g->fd >= 0;
}

static void send_packet(struct gdb *g)
{
	char out[2 * PACKET_MAX + 8];
	u8 sum = 0;
	size_t n = g->tx_len;

	for (size_t i = 0; i < n; i++)
		sum = (u8)(sum + (u8)g->tx[i]);
	out[0] = '$';
	memcpy(out + 1, g->tx, n);
	snprintf(out + 1 + n, 4, "#%02x", sum);
	g->tx_len = 0;
	send_all(g, out, n + 4);
}

/* ---- stopping and going on ---- */

static bool stop_vm(struct gdb *g)
{
	if (g->stopped)
		return true;
	if (vm_pause(g->vm) < 0)
		return false;
	g->stopped = true;
	return true;
}

static void debug_changed(struct gdb *g)
{
	for (unsigned i = 0; i < g->vm->nr_vcpus; i++)
		if (g->vm->engine->debug_changed)
			g->vm->engine->debug_changed(g->vm->vcpu[i]);
}

static void resume_vm(struct gdb *g)
{
	if (!g->stopped)
		return;
	g->stopped = false;
	vm_resume(g->vm);
}

static void stop_reply(struct gdb *g, int signal)
{
	char text[96];
	const struct debug_info *d = &g->vm->vcpu[g->cur]->debug;

	snprintf(text, sizeof(text), "T%02xthread:%x;", signal, g->cur + 1);
	reply(g, text);
	if (d->reason == DEBUG_WATCH) {
		snprintf(text, sizeof(text), "watch:%llx;", (unsigned long long)d->addr);
		for (unsigned i = 0; i < g->vm->nr_breakpoints; i++) {
			const struct breakpoint *b = &g->vm->breakpoint[i];

			if (b->addr != d->addr)
				continue;
			if (b->kind == BP_READ)
				snprintf(text, sizeof(text), "rwatch:%llx;",
				         (unsigned long long)d->addr);
			else if (b->kind == BP_ACCESS)
				snprintf(text, sizeof(text), "awatch:%llx;",
				         (unsigned long long)d->addr);
		}
		reply(g, text);
	}
	send_packet(g);
}

/* A vCPU stopped itself (loop thread). */
static void on_debug_stop(struct vm *vm, void *arg)
{
	struct gdb *g = arg;

	if (g->fd < 0) { /* the client went away meanwhile */
		if (!vm->pause_count && vm_pause(vm) == 0)
			vm_resume(vm);
		return;
	}
	if (g->stopped || !stop_vm(g))
		return;
	vm->held = 0;
	for (unsigned i = 0; i < vm->nr_vcpus; i++) {
		if (vm->vcpu[i]->debug.reason == DEBUG_NONE)
			continue;
		g->cur = i;
		for (unsigned k = 0; k < vm->nr_vcpus; k++)
			vm->vcpu[k]->single_step = false;
		stop_reply(g, 5);
		return;
	}
	resume_vm(g); /* it was served with an earlier stop */
}

/* ---- breakpoints ---- */

static const char *set_breakpoint(struct gdb *g, const char *p, bool insert)
{
	static const enum bp_kind kinds[] = {BP_SOFT, BP_HARD, BP_WRITE, BP_READ, BP_ACCESS};
	struct vm *vm = g->vm;
	unsigned type = (unsigned)(p[0] - '0'), i;
	struct breakpoint b;
	u64 addr, len;

	if (type >= ARRAY_SIZE(kinds))
		return "";
	p++;
	if (!get_char(&p, ',') || !get_hex(&p, &addr) || !get_char(&p, ',') || !get_hex(&p, &len))
		return "E01";
	b = (struct breakpoint){kinds[type], addr, type < 2 ? 1 : (u32)MIN(len, PAGE_SIZE)};
	if (!b.len)
		return "E01";
	for (i = 0; i < vm->nr_breakpoints; i++)
		if (vm->breakpoint[i].kind == b.kind && vm->breakpoint[i].addr == b.addr &&
		    vm->breakpoint[i].len == b.len)
			break;
	if (insert && i == vm->nr_breakpoints) {
		if (i == VM_MAX_BREAKPOINTS)
			return "E28";
		vm->breakpoint[vm->nr_breakpoints++] = b;
	} else if (!insert && i < vm->nr_breakpoints) {
		vm->breakpoint[i] = vm->breakpoint[--vm->nr_breakpoints];
	}
	debug_changed(g);
	return "OK";
}

/* ---- memory and registers ---- */

static struct x86_cpu *cur_cpu(struct gdb *g)
{
	return vcpu_x86(g->vm->vcpu[g->cur]);
}

static void read_memory(struct gdb *g, const char *p)
{
	u64 addr, len, done = 0;
	u8 buf[512];

	if (!get_hex(&p, &addr) || !get_char(&p, ',') || !get_hex(&p, &len) ||
	    len > PACKET_MAX / 2) {
		reply(g, "E01");
		return;
	}
	while (done < len) {
		u64 n = MIN(len - done, sizeof(buf));

		n = MIN(n, PAGE_SIZE - ((addr + done) & ~PAGE_MASK));
		if (mmu_debug_rw(cur_cpu(g), addr + done, buf, n, false) < 0)
			break;
		reply_bytes(g, buf, n);
		done += n;
	}
	if (!done && len)
		reply(g, "E14");
}

static const char *write_memory(struct gdb *g, const char *p, const char *end, bool binary)
{
	u8 buf[PACKET_MAX];
	u64 addr, len;
	size_t n = 0;

	if (!get_hex(&p, &addr) || !get_char(&p, ',') || !get_hex(&p, &len) || !get_char(&p, ':') ||
	    len > sizeof(buf))
		return "E01";
	if (binary) {
		while (p < end && n < len) {
			u8 b = (u8)*p++;

			if (b == '}' && p < end)
				b = (u8)*p++ ^ 0x20;
			buf[n++] = b;
		}
	} else {
		n = take_bytes(&p, buf, len);
	}
	if (n != len)
		return "E01";
	if (len && mmu_debug_rw(cur_cpu(g), addr, buf, len, true) < 0)
		return "E14";
	return "OK";
}

static void read_all_regs(struct gdb *g)
{
	u8 buf[16];

	for (unsigned i = 0; i < gdb_nr_regs(); i++)
		if (gdb_reg_get(cur_cpu(g), i, buf))
			reply_bytes(g, buf, gdb_reg_size(i));
}

static const char *write_all_regs(struct gdb *g, const char *p)
{
	for (unsigned i = 0; i < gdb_nr_regs(); i++) {
		u8 buf[16] = {0};
		size_t n = gdb_reg_size(i);

		if (take_bytes(&p, buf, n) != n)
			return i ? "OK" : "E01";
		gdb_reg_set(cur_cpu(g), i, buf);
	}
	return "OK";
}

static void read_reg(struct gdb *g, const char *p)
{
	u8 buf[16];
	u64 n;

	if (get_hex(&p, &n) && n < gdb_nr_regs() && gdb_reg_get(cur_cpu(g), (unsigned)n, buf))
		reply_bytes(g, buf, gdb_reg_size((unsigned)n));
	else
		reply(g, "E01");
}

static const char *write_reg(struct gdb *g, const char *p)
{
	u8 buf[16] = {0};
	u64 n;

	if (!get_hex(&p, &n) || !get_char(&p, '=') || n >= gdb_nr_regs() ||
	    take_bytes(&p, buf, gdb_reg_size((unsigned)n)) != gdb_reg_size((unsigned)n))
		return "E01";
	return gdb_reg_set(cur_cpu(g), (unsigned)n, buf) ? "OK" : "E22";
}

/* ---- threads and going on ---- */

/* Thread ids are vCPU index + 1; 0 is any, -1 all. */
static bool take_thread(struct gdb *g, const char **p, int *index)
{
	u64 id;

	if (get_char(p, '-')) {
		get_hex(p, &id);
		*index = -1;
		return true;
	}
	if (!get_hex(p, &id) || id > g->vm->nr_vcpus)
		return false;
	*index = id ? (int)id - 1 : (int)g->cur;
	return true;
}

/* vCPU `step` (or none: -1) takes one step; those in `hold` stay parked. */
static void go(struct gdb *g, int step, u64 hold)
{
	if (step >= 0)
		g->vm->vcpu[step]->single_step = true;
	debug_changed(g);
	g->vm->held = hold;
	resume_vm(g);
}

static u64 all_but(const struct gdb *g, unsigned i)
{
	u64 all = g->vm->nr_vcpus == 64 ? ~0ull : BIT(g->vm->nr_vcpus) - 1;

	return all & ~BIT(i);
}

/* vCont;action[:thread]... : the leftmost action that matches a thread holds for it. */
static bool vcont(struct gdb *g, const char *p)
{
	u64 stepping = 0, going = 0, named = 0;
	u64 all = all_but(g, 0) | 1;

	while (get_char(&p, ';')) {
		char action = *p++;
		u64 who = all;
		int index;

		if (action == 'C' || action == 'S') { /* with a signal: guests have none */
			u64 sig;

			if (!get_hex(&p, &sig))
				return false;
			action = action == 'C' ? 'c' : 's';
		}
		if (action != 'c' && action != 's')
			return false;
		if (get_char(&p, ':')) {
			if (!take_thread(g, &p, &index))
				return false;
			if (index >= 0)
				who = BIT(index);
		}
		who &= ~named;
		named |= who;
		if (action == 's')
			stepping |= who;
		else
			going |= who;
	}
	if (*p || !(stepping | going))
		return false;
	for (unsigned i = 0; i < g->vm->nr_vcpus; i++)
		g->vm->vcpu[i]->single_step = stepping >> i & 1;
	go(g, -1, all & ~(stepping | going));
	return true;
}

/* c, s, C, S: with an optional address. */
static void old_resume(struct gdb *g, const char *p, bool step)
{
	u64 addr;

	if (get_hex(&p, &addr))
		cur_cpu(g)->rip = addr;
	go(g, step ? (int)g->cur : -1, step ? all_but(g, g->cur) : 0);
}

/* ---- queries ---- */

static void query_xfer(struct gdb *g, const char *p)
{
	u64 off, len;

	if (strncmp(p, "target.xml:", 11)) {
		reply(g, "E00");
		return;
	}
	p += 11;
	if (!get_hex(&p, &off) || !get_char(&p, ',') || !get_hex(&p, &len)) {
		reply(g, "E01");
		return;
	}
	if (off >= g->xml_len) {
		reply(g, "l");
		return;
	}
	len = MIN(len, (u64)PACKET_MAX / 2);
	reply(g, off + len < g->xml_len ? "m" : "l");
	len = MIN(len, g->xml_len - off);
	memcpy(g->tx + g->tx_len, g->xml + off, len); /* no character that needs an escape */
	g->tx_len += len;
}

/* "monitor ..." */
static void query_rcmd(struct gdb *g, const char *p)
{
	char cmd[64], *text = NULL;
	size_t size = 0, n = take_bytes(&p, (u8 *)cmd, sizeof(cmd) - 1);
	FILE *out;

	cmd[n] = '\0';
	out = open_memstream(&text, &size);
	if (!out) {
		reply(g, "E12");
		return;
	}
	if (!strcmp(cmd, "regs")) {
		for (unsigned i = 0; i < g->vm->nr_vcpus; i++)
			x86_dump(g->vm->vcpu[i], out);
	} else if (!strcmp(cmd, "devices")) {
		for (struct dev *d = g->vm->devices; d; d = d->next)
			if (d->ops->dump)
				d->ops->dump(d, out);
	} else if (!strcmp(cmd, "stats")) {
		const struct exit_stats *st[VM_MAX_VCPUS];

		for (unsigned i = 0; i < g->vm->nr_vcpus; i++)
			st[i] = &g->vm->vcpu[i]->stats;
		exit_stats_print(st, g->vm->nr_vcpus, out);
	} else if (!strcmp(cmd, "reset")) {
		vm_request_reset(g->vm, "debugger");
		fprintf(out, "the machine resets when it goes on\n");
	} else if (!strcmp(cmd, "quit")) {
		vm_end(g->vm, VM_EXIT_POWEROFF, "quit by the debugger");
	} else {
		fprintf(out, "monitor commands: regs devices stats reset quit\n");
	}
	fclose(out);
	if (size)
		reply_bytes(g, (const u8 *)text, MIN(size, (size_t)PACKET_MAX - 16));
	else
		reply(g, "OK");
	free(text);
}

static void query(struct gdb *g, const char *p)
{
	char text[64];
	int index;

	if (!strncmp(p, "Supported", 9)) {
		snprintf(text, sizeof(text), "PacketSize=%x;", PACKET_MAX);
		reply(g, text);
		reply(g, "qXfer:features:read+;QStartNoAckMode+;vContSupported+");
	} else if (!strncmp(p, "Xfer:features:read:", 19)) {
		query_xfer(g, p + 19);
	} else if (!strcmp(p, "C")) {
		snprintf(text, sizeof(text), "QC%x", g->cur + 1);
		reply(g, text);
	} else if (!strcmp(p, "Attached")) {
		reply(g, "1");
	} else if (!strcmp(p, "fThreadInfo")) {
		reply(g, "m");
		for (unsigned i = 0; i < g->vm->nr_vcpus; i++) {
			snprintf(text, sizeof(text), "%s%x", i ? "," : "", i + 1);
			reply(g, text);
		}
	} else if (!strcmp(p, "sThreadInfo")) {
		reply(g, "l");
	} else if (!strncmp(p, "ThreadExtraInfo,", 16)) {
		static const char *const states[] = {"waits for SIPI", "running", "halted",
		                                     "shut down"};

		p += 16;
		if (take_thread(g, &p, &index) && index >= 0) {
			snprintf(text, sizeof(text), "vCPU %d (%s)", index,
			         states[g->vm->vcpu[index]->state]);
			reply_bytes(g, (const u8 *)text, strlen(text));
		} else {
			reply(g, "E01");
		}
	} else if (!strncmp(p, "Rcmd,", 5)) {
		query_rcmd(g, p + 5);
	}
}

/* ---- packets ---- */

static void detach(struct gdb *g)
{
	g->vm->nr_breakpoints = 0;
	for (unsigned i = 0; i < g->vm->nr_vcpus; i++)
		g->vm->vcpu[i]->single_step = false;
	if (!g->stopped && !stop_vm(g))
		return;
	go(g, -1, 0);
}

/* One packet, 0-terminated. false: no answer now (the guest runs). */
static bool serve(struct gdb *g, const char *p, size_t len)
{
	int index;
	char what;

	switch (*p++) {
	case '?':
		stop_reply(g, 5);
		return false;
	case 'g':
		read_all_regs(g);
		break;
	case 'G':
		reply(g, write_all_regs(g, p));
		break;
	case 'p':
		read_reg(g, p);
		break;
	case 'P':
		reply(g, write_reg(g, p));
		break;
	case 'm':
		read_memory(g, p);
		break;
	case 'M':
		reply(g, write_memory(g, p, p + len - 1, false));
		break;
	case 'X':
		reply(g, write_memory(g, p, p + len - 1, true));
		break;
	case 'c':
		old_resume(g, p, false);
		return false;
	case 's':
		old_resume(g, p, true);
		return false;
	case 'C':
	case 'S':
		old_resume(g, "", p[-1] == 'S');
		return false;
	case 'v':
		if (!strncmp(p, "Cont;", 5)) {
			if (vcont(g, p + 4))
				return false;
			reply(g, "E01");
		} else if (!strcmp(p, "Cont?")) {
			reply(g, "vCont;c;C;s;S");
		} else if (!strncmp(p, "Kill", 4)) {
			vm_end(g->vm, VM_EXIT_POWEROFF, "killed by the debugger");
			reply(g, "OK");
		}
		break;
	case 'Z':
	case 'z':
		reply(g, set_breakpoint(g, p, p[-1] == 'Z'));
		break;
	case 'H':
		what = *p ? *p++ : 0;
		if (!take_thread(g, &p, &index)) {
			reply(g, "E01");
			break;
		}
		if (what == 'g' && index >= 0)
			g->cur = (unsigned)index;
		reply(g, "OK");
		break;
	case 'T':
		reply(g, take_thread(g, &p, &index) ? "OK" : "E01");
		break;
	case 'q':
		query(g, p);
		break;
	case 'Q':
		if (!strcmp(p, "StartNoAckMode")) {
			reply(g, "OK");
			send_packet(g);
			g->noack = true;
			return false;
		}
		break;
	case 'D':
		reply(g, "OK");
		send_packet(g);
		detach(g);
		return false;
	case 'k':
		vm_end(g->vm, VM_EXIT_POWEROFF, "killed by the debugger");
		return false;
	}
	return true;
}

static void packet(struct gdb *g, char *p, size_t len)
{
	p[len] = '\0';
	/* While the guest runs, only the interrupt is expected. */
	if (!g->stopped && !stop_vm(g)) {
		reply(g, "E05");
		send_packet(g);
		return;
	}
	if (serve(g, p, len))
		send_packet(g);
}

/* Take whole packets off the front of the buffer. */
static void consume(struct gdb *g)
{
	size_t at = 0;

	while (at < g->rx_len && g->fd >= 0) {
		u8 c = g->rx[at];
		u8 *end;
		size_t n;
		u8 sum = 0;

		if (c == 3) { /* Ctrl-C */
			at++;
			if (!g->stopped && stop_vm(g)) {
				g->vm->held = 0;
				stop_reply(g, 2);
			}
			continue;
		}
		if (c != '$') { /* acknowledgements and noise */
			at++;
			continue;
		}
		end = memchr(g->rx + at, '#', g->rx_len - at);
		if (!end || end + 2 >= g->rx + g->rx_len)
			break;
		n = (size_t)(end - (g->rx + at)) - 1;
		for (size_t i = 0; i < n; i++)
			sum = (u8)(sum + g->rx[at + 1 + i]);
		if (!g->noack) {
			bool good = hex_val((char)end[1]) == sum >> 4 &&
			            hex_val((char)end[2]) == (sum & 15);

			if (!send_all(g, good ? "+" : "-", 1))
				return;
			if (!good) {
				at += n + 4;
				continue;
			}
		}
		at += n + 4;
		packet(g, (char *)g->rx + at - n - 3, n);
	}
	if (g->fd < 0)
		return;
	memmove(g->rx, g->rx + at, g->rx_len - at);
	g->rx_len -= at;
	if (g->rx_len >= PACKET_MAX + 3) { /* longer than we said we take */
		log_warn("gdb: a packet of over %d bytes; connection closed", PACKET_MAX);
		client_gone(g);
	}
}

static void client_gone(struct gdb *g)
{
	if (g->fd < 0)
		return;
	loop_del_fd(g->vm->loop, g->fd);
	close(g->fd);
	g->fd = -1;
	g->rx_len = g->tx_len = 0;
	log_info("gdb: disconnected; the guest goes on");
	detach(g);
}

static void on_input(void *arg, short revents)
{
	struct gdb *g = arg;
	ssize_t n = recv(g->fd, g->rx + g->rx_len, PACKET_MAX + 3 - g->rx_len, MSG_DONTWAIT);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		client_gone(g);
		return;
	}
	g->rx_len += (size_t)n;
	consume(g);
}

static void on_connect(void *arg, int fd)
{
	struct gdb *g = arg;
	struct timeval limit = {.tv_sec = 5};
	int one = 1;

	if (g->fd >= 0) {
		log_warn("gdb: a second client was turned away");
		close(fd);
		return;
	}
	fcntl(fd, F_SETFL, 0); /* answers are written whole */
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one,
	           sizeof(one)); /* fails on a Unix socket: fine */
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	g->fd = fd;
	g->noack = false;
	g->rx_len = g->tx_len = 0;
	g->cur = 0;
	if (loop_add_fd(g->vm->loop, fd, POLLIN, on_input, g) < 0 || !stop_vm(g)) {
		client_gone(g);
		return;
	}
	log_info("gdb: connected; the guest is stopped");
}

/* ---- life ---- */

static int listen_tcp(int port)
{
	struct sockaddr_in a = {.sin_family = AF_INET,
	                        .sin_port = htons((u16)port),
	                        .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int one = 1, err, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return -errno;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(fd, (struct sockaddr *)&a, sizeof(a)) < 0 || listen(fd, 1) < 0) {
		err = -errno;
		close(fd);
		return err;
	}
	return fd;
}

int gdb_create(struct gdb **out, struct vm *vm, const struct gdb_config *cfg)
{
	struct gdb *g = calloc(1, sizeof(*g));
	char where[160];
	int err;

	if (!g)
		return -ENOMEM;
	g->vm = vm;
	g->fd = -1;
	if (cfg->path)
		snprintf(where, sizeof(where), "unix:%s", cfg->path);
	else
		snprintf(where, sizeof(where), "%d", cfg->port);
	g->listen_fd = cfg->path ? unix_listen(cfg->path) : listen_tcp(cfg->port);
	if (g->listen_fd < 0) {
		err = g->listen_fd;
		log_error("--gdb %s: %s; %s", where, strerror(-err),
		          cfg->path ? "try another path" : "try another port");
		free(g);
		return err;
	}
	g->xml_len = gdb_target_xml(g->xml, sizeof(g->xml));
	err = listener_start(&g->listener, vm->loop, g->listen_fd, on_connect, g);
	if (!err && cfg->wait) {
		vm_hold(vm);
		g->stopped = true;
	}
	if (err) {
		close(g->listen_fd);
		free(g);
		return err;
	}
	vm->debug_stop = on_debug_stop;
	vm->debug_arg = g;
	if (cfg->path)
		log_info("gdb: listening; attach with: gdb -ex 'target remote %s'", cfg->path);
	else
		log_info("gdb: listening; attach with: gdb -ex 'target remote :%d'", cfg->port);
	*out = g;
	return 0;
}

void gdb_destroy(struct gdb *g)
{
	char text[16];

	if (!g)
		return;
	if (g->fd >= 0) {
		snprintf(text, sizeof(text), "W%02x", (unsigned)g->vm->exit_code & 0xff);
		reply(g, text);
		send_packet(g);
		if (g->fd >= 0)
			close(g->fd);
	}
	listener_stop(&g->listener);
	close(g->listen_fd);
	g->vm->debug_stop = NULL;
	free(g);
}
