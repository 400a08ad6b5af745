// SPDX-License-Identifier: MIT
/* Two 8259As after Intel's data sheet (order number 231468), names as there: IRR, IMR, ISR,
 * ICW1..4 to initialise, OCW1..3 to operate.
 *
 * What a PC makes of it, and where we choose:
 * - INTA always answers as in 8086 mode; MCS-80 mode (ICW4.uPM = 0) keeps its bit but there is no
 *   processor for it. Buffered mode has nothing to do.
 * - Level or edge is ICW1.LTIM for all inputs of a chip, or ELCR for one.
 * - The slave's INT reaches the master's IR2 as a level whatever LTIM says: the slave lowers
 *   it at INTA and raises it again for the next request, which comes to the same as an edge.
 * - A request by an edge stays latched when the line falls before INTA. The 8259A
 *   forgets it (and gives IRQ7); the chip sets' cells do not, and a device's pulse would be lost.
 *   A level request goes with its line, and is what makes spurious interrupts here. */
#include "dev/pic.h"

#include <errno.h>
#include <stdlib.h>

/* ICW1 */
#define ICW1_IC4  0x01
#define ICW1_SNGL 0x02
#define ICW1_LTIM 0x08
#define ICW1_ID   0x10 /* an ICW1, on A0 = 0 */
/* ICW4 */
#define ICW4_UPM  0x01
#define ICW4_AEOI 0x02
#define ICW4_SFNM 0x10
/* OCW3 */
#define OCW3_ID  0x08
#define OCW3_RIS 0x01
#define OCW3_RR  0x02
#define OCW3_P   0x04
#define OCW3_SMM 0x20
#define OCW3_ESM 0x40

#define CASCADE_IR 2

struct i8259 {
	u8 irr, imr, isr;
	u8 line;      /* levels of the inputs */
	u8 elcr;      /* 1: level */
	u8 elcr_mask; /* bits that exist */
	u8 lowest;    /* IR of lowest priority; the next one has the highest */
	u8 icw1, icw2, icw3, icw4;
	u8 next_icw; /* which ICW the next write to A0 = 1 is; 0: it is OCW1 */
	bool ready;  /* initialised */
	bool read_isr;
	bool poll;
	bool smm;         /* special mask mode */
	bool rotate_aeoi; /* rotate in automatic EOI mode */
};

struct pic {
	struct dev dev;
	struct bus *bus;
	const struct trace *trace;
	struct pic_config cfg;
	struct i8259 chip[2];
	bool intr;
};

static u8 level_mask(const struct i8259 *c)
{
	return c->icw1 & ICW1_LTIM ? 0xff : c->elcr;
}

/* The bit of `set` that comes first, counted from the IR of highest priority: its rank 0..7, or
 * 8 if there is none. */
static unsigned rank(const struct i8259 *c, u8 set)
{
	for (unsigned r = 0; r < 8; r++)
		if (set & (1u << ((c->lowest + 1u + r) & 7)))
			return r;
	return 8;
}

static unsigned ir_of_rank(const struct i8259 *c, unsigned r)
{
	return (c->lowest + 1u + r) & 7;
}

/* The request to serve now, as an IR number, or -1. */
static int i8259_request(const struct i8259 *c, bool slave_int)
{
	u8 irr = c->irr;
	u8 isr = c->isr;
	unsigned req, busy;

	if (!c->ready)
		return -1;
	if (slave_int)
		irr |= 1u << CASCADE_IR;
	req = rank(c, irr & (u8)~c->imr);
	if (c->smm)
		isr &= (u8)~c->imr;
	busy = rank(c, isr);
	/* Special fully nested mode: the slave's IR in service does not lock out the slave. */
	if (req < busy || (req == busy && req < 8 && (c->icw4 & ICW4_SFNM) && slave_int &&
	                   ir_of_rank(c, req) == CASCADE_IR))
		return (int)ir_of_rank(c, req);
	return -1;
}

static bool cascaded(const struct i8259 *master)
{
	return !(master->icw1 & ICW1_SNGL) && (master->icw3 & (1u << CASCADE_IR));
}

static bool slave_int(const struct pic *p)
{
	return i8259_request(&p->chip[1], false) >= 0;
}

static void pic_update(struct pic *p)
{
	bool intr = i8259_request(&p->chip[0], slave_int(p)) >= 0;

	if (intr == p->intr)
		return;
	p->intr = intr;
	if (trace_on(p->trace, TRACE_IRQ))
		trace_msg(p->trace, "pic: INTR %d", intr);
	p->cfg.intr(p->cfg.arg, intr);
}

/* INTA or a poll takes `ir`. */
static void i8259_take(struct i8259 *c, unsigned ir)
{
	u8 bit = (u8)(1u << ir);

	if (!(level_mask(c) & bit))
		c->irr &= (u8)~bit;
	if (!(c->icw4 & ICW4_AEOI))
		c->isr |= bit;
	else if (c->rotate_aeoi)
		c->lowest = (u8)ir;
}

static void pic_set(void *dev, unsigned line, bool level)
{
	struct pic *p = dev;
	struct i8259 *c;
	u8 bit;

	if (line >= 16 || line == CASCADE_IR)
		return;
	c = &p->chip[line >> 3];
	bit = (u8)(1u << (line & 7));
	if (level_mask(c) & bit)
		c->irr = level ? c->irr | bit : c->irr & (u8)~bit;
	else if (level && !(c->line & bit))
		c->irr |= bit;
	c->line = level ? c->line | bit : c->line & (u8)~bit;
	if (trace_on(p->trace, TRACE_IRQ))
		trace_msg(p->trace, "pic: IRQ%u %d", line, level);
	pic_update(p);
}

/* One chip's half of INTA: the vector; 7 when nothing is requested (then nothing is in service). */
static u8 i8259_inta(struct i8259 *c, bool slave, int *ir)
{
	*ir = i8259_request(c, slave);
	if (*ir >= 0)
		i8259_take(c, (unsigned)*ir);
	return (u8)((c->icw2 & 0xf8) | (*ir < 0 ? 7 : *ir));
}

int pic_ack(void *dev)
{
	struct pic *p = dev;
	u8 vector;
	int ir;

	bus_lock(p->bus);
	vector = i8259_inta(&p->chip[0], slave_int(p), &ir);
	if (ir == CASCADE_IR && cascaded(&p->chip[0])) {
		vector = i8259_inta(&p->chip[1], false, &ir);
		/* The master calls slave 2 over CAS0..2; one with another identity is silent and
		 * the bus floats. */
		if ((p->chip[1].icw3 & 7) != CASCADE_IR)
			vector = 0xff;
	}
	if (trace_on(p->trace, TRACE_IRQ))
		trace_msg(p->trace, "pic: INTA, vector %#x%s", vector, ir < 0 ? " (spurious)" : "");
	pic_update(p);
	bus_unlock(p->bus);
	return vector;
}

/* ---- registers ---- */

static void i8259_icw1(struct i8259 *c, u8 val)
{
	c->icw1 = val;
	c->imr = 0;
	c->isr = 0;
	/* The edge sense circuit is reset: only a new low-to-high transition makes a request. */
	c->irr = c->line & level_mask(c);
	c->lowest = 7;
	c->smm = false;
	c->read_isr = false;
	c->poll = false;
	c->rotate_aeoi = false;
	c->icw3 = 7; /* "the slave mode address is set to 7" */
	if (!(val & ICW1_IC4))
		c->icw4 = 0;
	c->ready = false;
	c->next_icw = 2;
}

static void i8259_icw_next(struct i8259 *c, u8 val)
{
	switch (c->next_icw) {
	case 2:
		c->icw2 = val;
		c->next_icw = c->icw1 & ICW1_SNGL ? 4 : 3;
		break;
	case 3:
		c->icw3 = val;
		c->next_icw = 4;
		break;
	case 4:
		c->icw4 = val & 0x1f;
		c->next_icw = 0;
		break;
	}
	if (c->next_icw == 4 && !(c->icw1 & ICW1_IC4))
		c->next_icw = 0;
	c->ready = !c->next_icw;
}

static void i8259_ocw2(struct i8259 *c, u8 val)
{
	bool r = val & 0x80, sl = val & 0x40, eoi = val & 0x20;
	unsigned ir = val & 7;

	if (!eoi) {
		if (sl && r) /* set priority */
			c->lowest = (u8)ir;
		else if (!sl) /* rotate in automatic EOI mode: set, clear */
			c->rotate_aeoi = r;
		return; /* SL alone: no operation */
	}
	if (!sl) {
		/* Non-specific: the highest in service. In special mask mode a masked one is left
		 * alone. */
		unsigned k = rank(c, c->smm ? c->isr & (u8)~c->imr : c->isr);

		if (k == 8)
			return;
		ir = ir_of_rank(c, k);
	}
	c->isr &= (u8) ~(1u << ir);
	if (r)
		c->lowest = (u8)ir;
}

static void i8259_ocw3(struct i8259 *c, u8 val)
{
	if (val & OCW3_P)
		c->poll = true;
	else if (val & OCW3_RR)
		c->read_isr = val & OCW3_RIS;
	if (val & OCW3_ESM)
		c->smm = val & OCW3_SMM;
}

static void pic_write(void *dev, u64 off, u64 val64, unsigned size, unsigned nr)
{
	struct pic *p = dev;
	struct i8259 *c = &p->chip[nr];
	u8 val = (u8)val64;

	if (off & 1) {
		if (c->next_icw)
			i8259_icw_next(c, val);
		else
			c->imr = val;
	} else if (val & ICW1_ID) {
		i8259_icw1(c, val);
	} else if (val & OCW3_ID) {
		i8259_ocw3(c, val);
	} else {
		i8259_ocw2(c, val);
	}
	pic_update(p);
}

static u64 pic_read(void *dev, u64 off, unsigned size, unsigned nr)
{
	struct pic *p = dev;
	struct i8259 *c = &p->chip[nr];
	bool slave = nr == 0 && slave_int(p);

	if (c->poll) {
		/* The next read is an interrupt acknowledge. */
		int ir = i8259_request(c, slave);

		c->poll = false;
		if (ir < 0)
			return 0;
		i8259_take(c, (unsigned)ir);
		pic_update(p);
		return 0x80 | (unsigned)ir;
	}
	if (off & 1)
		return c->imr;
	if (c->read_isr)
		return c->isr;
	return c->irr | (slave ? 1u << CASCADE_IR : 0);
}

static u64 master_read(void *dev, u64 off, unsigned size)
{
	return pic_read(dev, off, size, 0);
}
static void master_write(void *dev, u64 off, u64 val, unsigned size)
{
	pic_write(dev, off, val, size, 0);
}
static u64 slave_read(void *dev, u64 off, unsigned size)
{
	return pic_read(dev, off, size, 1);
}
static void slave_write(void *dev, u64 off, u64 val, unsigned size)
{
	pic_write(dev, off, val, size, 1);
}

static u64 elcr_read(void *dev, u64 off, unsigned size)
{
	struct pic *p = dev;

	return p->chip[off].elcr;
}

static void elcr_write(void *dev, u64 off, u64 val, unsigned size)
{
	struct pic *p = dev;
	struct i8259 *c = &p->chip[off];
	u8 was = level_mask(c), now;

	c->elcr = (u8)val & c->elcr_mask;
	now = level_mask(c);
	/* An input that becomes level follows its line from now on; one that becomes edge
	 * needs a new edge. */
	c->irr &= (u8) ~(was ^ now);
	c->irr |= c->line & now;
	pic_update(p);
}

static const struct region_ops master_ops = {master_read, master_write};
static const struct region_ops slave_ops = {slave_read, slave_write};
static const struct region_ops elcr_ops = {elcr_read, elcr_write};

void pic_firmware_init(struct pic *p)
{
	for (unsigned nr = 0; nr < 2; nr++) {
		const u8 icw[] = {nr ? 0x70 : 0x08, nr ? CASCADE_IR : 1 << CASCADE_IR, ICW4_UPM};

		pic_write(p, 0, ICW1_ID | ICW1_IC4, 1, nr);
		for (unsigned i = 0; i < ARRAY_SIZE(icw); i++)
			pic_write(p, 1, icw[i], 1, nr);
	}
}

/* ---- device ---- */

static void pic_reset(struct dev *d)
{
	struct pic *p = container_of(d, struct pic, dev);

	for (unsigned i = 0; i < 2; i++) {
		struct i8259 *c = &p->chip[i];
		u8 line = c->line;

		/* IRQ0, 1, 2, 8 and 13 cannot be level (ICH: "reserved, must be 0"). */
		*c = (struct i8259){.line = line, .lowest = 7, .elcr_mask = i ? 0xde : 0xf8};
	}
	pic_update(p);
}

static void pic_dump(struct dev *d, FILE *out)
{
	struct pic *p = container_of(d, struct pic, dev);

	for (unsigned i = 0; i < 2; i++) {
		struct i8259 *c = &p->chip[i];

		fprintf(out,
		        "pic %u: irr %02x imr %02x isr %02x elcr %02x line %02x icw1..4 %02x %02x "
		        "%02x %02x lowest %u%s%s\n",
		        i, c->irr, c->imr, c->isr, c->elcr, c->line, c->icw1, c->icw2, c->icw3,
		        c->icw4, c->lowest, c->smm ? " smm" : "",
		        c->ready ? "" : " not initialised");
	}
}

static void pic_destroy(struct dev *d)
{
	free(container_of(d, struct pic, dev));
}

static const struct dev_ops pic_dev_ops = {
	.reset = pic_reset,
	.destroy = pic_destroy,
	.dump = pic_dump,
};

int pic_create(struct pic **out, const struct dev_env *env, const struct pic_config *cfg)
{
	struct region r[] = {
		{.name = "pic-master", .base = 0x20, .len = 2, .max_size = 1, .ops = &master_ops},
		{.name = "pic-slave", .base = 0xa0, .len = 2, .max_size = 1, .ops = &slave_ops},
		{.name = "elcr", .base = 0x4d0, .len = 2, .max_size = 1, .ops = &elcr_ops},
	};
	struct pic *p;

	if (env->irq->nr_sinks == ARRAY_SIZE(env->irq->sink)) {
		log_error("pic: no free place in the interrupt router");
		return -ENOSPC;
	}
	p = calloc(1, sizeof(*p));
	if (!p) {
		log_error("pic: out of memory");
		return -ENOMEM;
	}
	p->dev = (struct dev){.name = "pic", .ops = &pic_dev_ops};
	p->bus = env->bus;
	p->trace = env->trace;
	p->cfg = *cfg;
	for (unsigned i = 0; i < ARRAY_SIZE(r); i++) {
		int err;

		r[i].dev = p;
		err = bus_attach(env->bus, BUS_PIO, &r[i]);
		if (err) {
			while (i--)
				bus_detach(env->bus, BUS_PIO, r[i].base);
			free(p);
			return err;
		}
	}
	pic_reset(&p->dev);
	env->irq->sink[env->irq->nr_sinks++] = (struct irq_sink){pic_set, p};
	dev_register(env, &p->dev);
	*out = p;
	return 0;
}
