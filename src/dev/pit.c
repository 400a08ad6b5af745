// SPDX-License-Identifier: MIT
/* Intel 8254 after its data sheet (order number 231164): six modes, binary and BCD, counter latch,
 * read-back, status. Names as there: CR the count register (written), CE the counting element, OL
 * the output latch.
 *
 * Time is an integer: ticks of the 1193182 Hz clock since the VM's time 0. A counter keeps the
 * tick at which CE got its count; OUT and the count at any later tick follow from it, so a guest
 * that programs a tiny period costs nothing until it looks. The exception are the edges of counter
 * 0, which are IRQ0: the loop timer stands at the next one. */
#include "dev/pit.h"

#include <errno.h>
#include <stdlib.h>

#define IRQ0_LINE 0

/* Port 0x61 */
#define SPKR_GATE2   0x01
#define SPKR_WRITE   0x0f
#define SPKR_REFRESH 0x10
#define SPKR_OUT2    0x20

#define REFRESH_NS 15085 /* between the AT's memory refreshes: 18 clocks */

/* Interrupts of counter 0 are never nearer than this, so a guest cannot keep the loop busy. */
#define MIN_EDGE_NS 20000

#define NEVER INT64_MAX

enum rw { RW_NONE, RW_LSB, RW_MSB, RW_BOTH };

struct counter {
	u8 mode; /* 0..5 */
	u8 rw;   /* enum rw; RW_NONE: never programmed */
	bool bcd;
	bool gate;

	/* The CPU's side. */
	u16 cr;
	bool cr_msb;   /* RW_BOTH: the next write is the upper byte */
	bool read_msb; /* RW_BOTH: likewise the next read */
	u8 ol_bytes;   /* latched bytes not read yet, 0: not latched */
	u16 ol;        /* the next of them lowest */
	bool st_latched;
	u8 st;

	/* Counting. `n` and `next_n` are in clocks, 1..65536. Ticks. */
	bool loaded;  /* CE has a count */
	bool running; /* CE counts: gate open, or triggered */
	u32 n;        /* what CE was loaded with */
	s64 start;    /* running: when that was */
	s64 elapsed;  /* not running: clocks counted since then */
	bool pending; /* CR waits to be loaded: next_n at next_at */
	u32 next_n;
	s64 next_at; /* NEVER: at the next trigger */
};

struct pit {
	struct dev dev;
	struct loop *loop;
	struct irq_router *irq;
	const struct trace *trace;
	struct counter c[3];
	u8 port61;

	struct timer timer;
	s64 edge;         /* tick of the next rising edge of OUT 0, NEVER: none */
	u64 last_ns;      /* when IRQ0 was last raised */
	unsigned backlog; /* edges that the loop was too late for */
	bool line;
};

/* ---- time ---- */

static s64 ticks_of_ns(u64 ns)
{
	return (s64)((unsigned __int128)ns * PIT_HZ / NSEC_PER_SEC);
}

/* The first ns at which `ticks` have passed. */
static u64 ns_of_ticks(s64 ticks)
{
	return (u64)(((unsigned __int128)(u64)ticks * NSEC_PER_SEC + PIT_HZ - 1) / PIT_HZ);
}

static s64 pit_now(const struct pit *p)
{
	return ticks_of_ns(loop_now(p->loop));
}

/* ---- counting ---- */

static u32 from_bcd(u16 v)
{
	return (v & 15u) + (v >> 4 & 15u) * 10 + (v >> 8 & 15u) * 100 + (v >> 12 & 15u) * 1000;
}

static u16 to_bcd(u32 v)
{
	return (u16)(v % 10 | v / 10 % 10 << 4 | v / 100 % 10 << 8 | v / 1000 % 10 << 12);
}

static u32 counter_modulus(const struct counter *c)
{
	return c->bcd ? 10000 : 65536;
}

static bool periodic(const struct counter *c)
{
	return c->mode == 2 || c->mode == 3;
}

/* The clocks that CR stands for. 0 is the largest count; 1 is illegal in modes 2 and 3. */
static u32 counter_clocks(const struct counter *c)
{
	u32 n = c->bcd ? from_bcd(c->cr) : c->cr;

	if (!n)
		n = counter_modulus(c);
	if (periodic(c) && n == 1)
		n = 2;
	return n;
}

/* Mode 3: OUT is high for this many clocks of `n`. */
static u32 high_half(u32 n)
{
	return (n + 1) / 2;
}

static s64 counter_elapsed(const struct counter *c, s64 now)
{
	if (!c->running)
		return c->elapsed;
	return now > c->start ? now - c->start : 0;
}

/* CE gets count `n` at tick `at`. */
static void counter_load(struct counter *c, u32 n, s64 at)
{
	c->n = n;
	c->start = at;
	c->elapsed = 0;
	c->loaded = true;
	c->pending = false;
}

/* Bring a periodic counter up to `now`: the load that is due, then `start` is the begin
 * of the current period and next_at, if any, is later than now. */
static void counter_sync(struct counter *c, s64 now)
{
	if (!periodic(c) || !c->loaded || !c->running)
		return;
	if (c->pending && now >= c->next_at) {
		/* In mode 3 perhaps between the halves: then the low one of the new count follows.
		 */
		bool half = c->next_at != c->start + c->n;

		counter_load(c, c->next_n, c->next_at - (half ? high_half(c->next_n) : 0));
	}
	if (now > c->start)
		c->start += (now - c->start) / c->n * c->n;
}

/* The three below want counter_sync() first. */
static bool counter_out(const struct counter *c, s64 now)
{
	s64 e = counter_elapsed(c, now);

	switch (c->mode) {
	case 0:
		return c->loaded && e >= c->n;
	case 1:
		return !c->loaded || e >= c->n;
	case 2:
		return !c->loaded || !c->running || e != c->n - 1;
	case 3:
		return !c->loaded || !c->running || e < high_half(c->n);
	default: /* 4, 5: one clock low when it reaches 0 */
		return !c->loaded || e != c->n;
	}
}

static u16 counter_value(const struct counter *c, s64 now)
{
	u32 m = counter_modulus(c);
	s64 e = counter_elapsed(c, now);
	u32 v;

	if (!c->loaded)
		return c->cr;
	if (c->mode == 2) {
		v = c->n - (u32)e;
	} else if (c->mode == 3) {
		/* By two, twice a period; an odd count from the even one below. */
		u32 high = high_half(c->n);
		u32 phase = (u32)e < high ? (u32)e : (u32)e - high;

		v = (c->n & ~1u) - 2 * phase;
	} else {
		v = (c->n % m + m - (u32)(e % m)) % m; /* goes on below 0 */
	}
	v %= m;
	return c->bcd ? to_bcd(v) : (u16)v;
}

/* The tick of the next rising edge of OUT after `now`. */
static s64 counter_next_edge(const struct counter *c, s64 now)
{
	s64 at;

	if (!c->loaded || !c->running)
		return NEVER;
	switch (c->mode) {
	case 0:
	case 1:
		at = c->start + c->n;
		return at > now ? at : NEVER;
	case 4:
	case 5:
		at = c->start + c->n + 1;
		return at > now ? at : NEVER;
	default:
		if (c->pending && c->next_at != c->start + c->n)
			return c->next_at + c->next_n - high_half(c->next_n);
		return c->start + c->n;
	}
}

/* ---- programming ---- */

static void counter_control(struct counter *c, u8 val)
{
	unsigned mode = val >> 1 & 7;

	c->mode = (u8)(mode > 5 ? mode - 4 : mode); /* x10, x11 */
	c->rw = val >> 4 & 3;
	c->bcd = val & 1;
	c->cr = 0;
	c->cr_msb = c->read_msb = false;
	c->ol_bytes = 0;
	c->st_latched = false;
	c->loaded = c->running = false;
	c->elapsed = 0;
	c->pending = true; /* NULL COUNT */
	c->next_n = 0;
	c->next_at = NEVER;
}

/* CR is complete. */
static void counter_written(struct counter *c, s64 now)
{
	u32 n = counter_clocks(c);

	switch (c->mode) {
	case 1:
	case 5: /* loaded by the trigger */
		c->pending = true;
		c->next_n = n;
		c->next_at = NEVER;
		return;
	case 2:
	case 3:
		if (!c->loaded)
			break;
		/* At the end of the period, in mode 3 of the half; by the gate if that is shut. */
		c->pending = true;
		c->next_n = n;
		c->next_at = NEVER;
		if (c->running) {
			c->next_at = c->start + c->n;
			if (c->mode == 3 && now < c->start + high_half(c->n))
				c->next_at = c->start + high_half(c->n);
		}
		return;
	}
	/* On the next clock, gate or not. */
	counter_load(c, n, now + 1);
	c->running = c->gate;
}

static void counter_write(struct counter *c, u8 val, s64 now)
{
	counter_sync(c, now);
	switch (c->rw) {
	case RW_NONE:
		return;
	case RW_LSB:
		c->cr = val;
		break;
	case RW_MSB:
		c->cr = (u16)(val << 8);
		break;
	case RW_BOTH:
		c->cr_msb = !c->cr_msb;
		if (c->cr_msb) {
			c->cr = (u16)((c->cr & 0xff00) | val);
			if (c->mode == 0) { /* stops, OUT goes low */
				c->loaded = c->running = false;
				c->pending = true;
				c->next_at = NEVER;
			}
			return;
		}
		c->cr = (u16)((c->cr & 0xff) | val << 8);
		break;
	}
	counter_written(c, now);
}

static void counter_gate(struct counter *c, bool gate, s64 now)
{
	if (gate == c->gate)
		return;
	counter_sync(c, now);
	c->gate = gate;
	switch (c->mode) {
	case 0:
	case 4:
		if (gate) {
			c->start = now - c->elapsed;
		} else {
			c->elapsed = counter_elapsed(c, now);
		}
		c->running = gate && c->loaded;
		break;
	case 2:
	case 3:
		if (!c->loaded)
			break;
		if (gate) { /* a trigger: from the start on the next clock */
			counter_load(c, c->pending ? c->next_n : c->n, now + 1);
		} else {
			c->elapsed = counter_elapsed(c, now);
			c->next_at = NEVER;
		}
		c->running = gate;
		break;
	case 1:
	case 5:
		if (!gate)
			break;
		if (c->pending && c->next_n)
			counter_load(c, c->next_n, now + 1);
		else if (c->loaded)
			counter_load(c, c->n, now + 1);
		c->running = c->loaded;
		break;
	}
}

static void counter_latch(struct counter *c, s64 now)
{
	u16 v;

	if (c->ol_bytes || c->rw == RW_NONE)
		return;
	counter_sync(c, now);
	v = counter_value(c, now);
	c->ol = c->rw == RW_MSB ? v >> 8 : v;
	c->ol_bytes = c->rw == RW_BOTH ? 2 : 1;
}

static void counter_latch_status(struct counter *c, s64 now)
{
	bool null;

	if (c->st_latched)
		return;
	counter_sync(c, now);
	/* CR goes into CE one clock after it was written. */
	null = c->pending || (c->running && now < c->start);
	c->st = (u8)(counter_out(c, now) << 7 | null << 6 | c->rw << 4 | c->mode << 1 | c->bcd);
	c->st_latched = true;
}

static u8 counter_read(struct counter *c, s64 now)
{
	u16 v;

	if (c->st_latched) {
		c->st_latched = false;
		return c->st;
	}
	if (c->ol_bytes) {
		v = c->ol;
		c->ol >>= 8;
		c->ol_bytes--;
		return (u8)v;
	}
	counter_sync(c, now);
	v = counter_value(c, now);
	switch (c->rw) {
	case RW_LSB:
		return (u8)v;
	case RW_MSB:
		return (u8)(v >> 8);
	case RW_BOTH:
		c->read_msb = !c->read_msb;
		return (u8)(c->read_msb ? v : v >> 8);
	}
	return 0xff;
}

/* ---- IRQ0 ---- */

static void pit_line(struct pit *p, bool level)
{
	if (level == p->line)
		return;
	p->line = level;
	if (level)
		p->last_ns = loop_now(p->loop);
	irq_set(p->irq, IRQ0_LINE, level);
}

static void pit_arm(struct pit *p)
{
	const struct counter *c = &p->c[0];
	u64 at = NEVER;

	if (p->edge != NEVER)
		at = ns_of_ticks(p->edge);
	if (p->backlog)
		at = MIN(at, p->last_ns + ns_of_ticks(c->n) / 2);
	if (at == (u64)NEVER) {
		timer_cancel(&p->timer);
		return;
	}
	timer_arm(&p->timer, MAX(at, p->last_ns + MIN_EDGE_NS));
}

/* Give the edges that are due. */
static void pit_serve(struct pit *p, s64 now)
{
	struct counter *c = &p->c[0];
	bool due = p->edge <= now;

	counter_sync(c, now);
	if (due) {
		s64 next = counter_next_edge(c, now);

		/* Those between were missed. Periods too short for the loop are not caught up. */
		if (periodic(c) && next != NEVER && ns_of_ticks(c->n) > 2 * MIN_EDGE_NS) {
			s64 missed = (next - p->edge) / c->n - 1;

			p->backlog = (unsigned)MIN((s64)PIT_MAX_BACKLOG,
			                           (s64)p->backlog + MAX(missed, (s64)0));
		}
		p->edge = next;
	} else if (p->backlog && loop_now(p->loop) >= p->last_ns + ns_of_ticks(c->n) / 2) {
		p->backlog--;
		due = true;
	}
	if (due) {
		pit_line(p, false);
		pit_line(p, true);
	}
	pit_line(p, counter_out(c, now));
}

static void pit_expired(void *arg)
{
	struct pit *p = arg;

	pit_serve(p, pit_now(p));
	pit_arm(p);
}

/* Counter 0 was programmed. */
static void pit_changed(struct pit *p, s64 now)
{
	struct counter *c = &p->c[0];

	p->backlog = 0;
	counter_sync(c, now);
	pit_line(p, counter_out(c, now));
	p->edge = counter_next_edge(c, now);
	pit_arm(p);
}

/* ---- ports ---- */

static void pit_read_back(struct pit *p, u8 val, s64 now)
{
	for (unsigned i = 0; i < 3; i++) {
		if (!(val & 2u << i))
			continue;
		if (!(val & 0x20))
			counter_latch(&p->c[i], now);
		if (!(val & 0x10))
			counter_latch_status(&p->c[i], now);
	}
}

static void pit_write(void *dev, u64 off, u64 val64, unsigned size)
{
	struct pit *p = dev;
	s64 now = pit_now(p);
	u8 val = (u8)val64;
	unsigned nr = off < 3 ? (unsigned)off : val >> 6;

	if (nr == 0)
		pit_serve(p, now);
	if (off < 3) {
		counter_write(&p->c[nr], val, now);
	} else if (nr == 3) {
		pit_read_back(p, val, now);
		return;
	} else if (!(val & 0x30)) {
		counter_latch(&p->c[nr], now);
		return;
	} else {
		counter_control(&p->c[nr], val);
	}
	if (trace_on(p->trace, TRACE_IRQ))
		trace_msg(p->trace, "pit: counter %u mode %u cr %#x%s", nr, p->c[nr].mode,
		          p->c[nr].cr, p->c[nr].cr_msb ? " (lower byte)" : "");
	if (nr == 0)
		pit_changed(p, now);
}

static u64 pit_read(void *dev, u64 off, unsigned size)
{
	struct pit *p = dev;
	s64 now = pit_now(p);

	if (off == 3)
		return 0xff; /* the control word cannot be read: the bus floats */
	if (off == 0 && p->edge <= now) {
		/* Who sees the counter wrap also finds the interrupt. */
		pit_serve(p, now);
		pit_arm(p);
	}
	return counter_read(&p->c[off], now);
}

static u64 spkr_read(void *dev, u64 off, unsigned size)
{
	struct pit *p = dev;
	u64 ns = loop_now(p->loop);
	s64 now = ticks_of_ns(ns);
	u8 val = p->port61;

	counter_sync(&p->c[2], now);
	if (ns / REFRESH_NS & 1)
		val |= SPKR_REFRESH;
	if (counter_out(&p->c[2], now))
		val |= SPKR_OUT2;
	return val;
}

static void spkr_write(void *dev, u64 off, u64 val, unsigned size)
{
	struct pit *p = dev;

	p->port61 = (u8)val & SPKR_WRITE;
	counter_gate(&p->c[2], val & SPKR_GATE2, pit_now(p));
}

static const struct region_ops pit_ops = {pit_read, pit_write};
static const struct region_ops spkr_ops = {spkr_read, spkr_write};

/* ---- device ---- */

static void pit_reset(struct dev *d)
{
	struct pit *p = container_of(d, struct pit, dev);

	/* The 8254 has no reset pin: its state is undefined until programmed. Ours does nothing. */
	for (unsigned i = 0; i < 3; i++)
		p->c[i] = (struct counter){.gate = i != 2, .next_at = NEVER};
	p->port61 = 0;
	p->backlog = 0;
	p->edge = NEVER;
	timer_cancel(&p->timer);
	pit_line(p, false);
}

static void pit_dump(struct dev *d, FILE *out)
{
	struct pit *p = container_of(d, struct pit, dev);
	s64 now = pit_now(p);

	for (unsigned i = 0; i < 3; i++) {
		struct counter *c = &p->c[i];

		counter_sync(c, now);
		fprintf(out, "pit %u: mode %u rw %u%s n %u count %#x gate %d out %d%s\n", i,
		        c->mode, c->rw, c->bcd ? " bcd" : "", c->loaded ? c->n : 0,
		        counter_value(c, now), c->gate, counter_out(c, now),
		        c->running ? " running" : "");
	}
	fprintf(out, "port 0x61: %#x\n", p->port61);
}

static void pit_destroy(struct dev *d)
{
	struct pit *p = container_of(d, struct pit, dev);

	timer_cancel(&p->timer);
	free(p);
}

static const struct dev_ops pit_dev_ops = {
	.reset = pit_reset,
	.destroy = pit_destroy,
	.dump = pit_dump,
};

int pit_create(struct pit **out, const struct dev_env *env)
{
	struct region pit = {.name = "pit", .base = 0x40, .len = 4, .max_size = 1, .ops = &pit_ops};
	struct region spkr = {
		.name = "port-b", .base = 0x61, .len = 1, .max_size = 1, .ops = &spkr_ops};
	struct pit *p = calloc(1, sizeof(*p));
	int err;

	if (!p) {
		log_error("pit: out of memory");
		return -ENOMEM;
	}
	p->dev = (struct dev){.name = "pit", .ops = &pit_dev_ops};
	p->loop = env->loop;
	p->irq = env->irq;
	p->trace = env->trace;
	timer_init(&p->timer, env->loop, pit_expired, p);
	pit.dev = spkr.dev = p;
	err = bus_attach(env->bus, BUS_PIO, &pit);
	if (err)
		goto fail;
	err = bus_attach(env->bus, BUS_PIO, &spkr);
	if (err)
		goto fail_spkr;
	pit_reset(&p->dev);
	dev_register(env, &p->dev);
	*out = p;
	return 0;
fail_spkr:
	bus_detach(env->bus, BUS_PIO, pit.base);
fail:
	free(p);
	return err;
}
