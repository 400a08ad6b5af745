// SPDX-License-Identifier: MIT
/* PC16550D data sheet (National Semiconductor, 1995), section 8 "Registers".
 *
 * There is no pacing by the baud rate: a character written to the transmitter leaves in the same
 * moment, so THR is empty again before the guest can look, unless the back is congested; then the
 * transmitter FIFO fills and LSR says so. The baud rate matters for one thing only: the
 * receiver's time-out interrupt, four character times after the last character.
 *
 * Characters with errors can only come from loopback mode (a break); real input has none. */
#include "dev/serial.h"

#include <errno.h>
#include <stdlib.h>

#define FIFO_SIZE       16
#define POLLS_LISTENING 200 /* reads of LSR in a row */

enum {
	REG_DATA = 0, /* RBR, THR; DLAB: DLL */
	REG_IER = 1,  /* DLAB: DLM */
	REG_IIR = 2,  /* read; FCR on write */
	REG_LCR = 3,
	REG_MCR = 4,
	REG_LSR = 5,
	REG_MSR = 6,
	REG_SCR = 7,
};

#define IER_ERBFI 0x01
#define IER_ETBEI 0x02
#define IER_ELSI  0x04
#define IER_EDSSI 0x08

#define IIR_NONE 0x01
#define IIR_MSI  0x00
#define IIR_THRI 0x02
#define IIR_RDI  0x04
#define IIR_CTI  0x0c
#define IIR_RLSI 0x06
#define IIR_FIFO 0xc0

#define FCR_ENABLE   0x01
#define FCR_RX_RESET 0x02
#define FCR_TX_RESET 0x04

#define LCR_BREAK 0x40
#define LCR_DLAB  0x80

#define MCR_DTR  0x01
#define MCR_RTS  0x02
#define MCR_OUT1 0x04
#define MCR_OUT2 0x08
#define MCR_LOOP 0x10

#define LSR_DR     0x01
#define LSR_OE     0x02
#define LSR_PE     0x04
#define LSR_FE     0x08
#define LSR_BI     0x10
#define LSR_THRE   0x20
#define LSR_TEMT   0x40
#define LSR_ERFIFO 0x80
#define LSR_ERRORS (LSR_OE | LSR_PE | LSR_FE | LSR_BI)

#define MSR_DCTS 0x01
#define MSR_DDSR 0x02
#define MSR_TERI 0x04
#define MSR_DDCD 0x08
#define MSR_CTS  0x10
#define MSR_DSR  0x20
#define MSR_RI   0x40
#define MSR_DCD  0x80

struct serial {
	struct dev dev;
	struct dev_env env;
	u16 iobase;
	u8 irq;
	struct chardev *back;
	struct timer timeout; /* the receiver's */

	u8 ier, fcr, lcr, mcr, msr, scr;
	u8 lsr; /* error bits of the top character and OE; the others are computed */
	u16 divisor;
	bool thr_pending; /* THRE interrupt: THR became empty and IIR was not read since */
	bool timeout_pending;
	bool irq_level;
	u8 polls; /* reads of LSR since anything was sent or set, up to POLLS_LISTENING */

	u8 rx[FIFO_SIZE], rx_err[FIFO_SIZE];
	u8 rx_head, rx_len;
	u8 tx[FIFO_SIZE];
	u8 tx_head, tx_len;
	u64 bytes_in, bytes_out, tx_lost;
};

static bool fifo_on(const struct serial *s)
{
	return s->fcr & FCR_ENABLE;
}

static u8 fifo_depth(const struct serial *s)
{
	return fifo_on(s) ? FIFO_SIZE : 1;
}

static u8 rx_trigger(const struct serial *s)
{
	static const u8 level[] = {1, 4, 8, 14};

	return fifo_on(s) ? level[s->fcr >> 6] : 1;
}

/* ---- interrupts ---- */

/* The pending source of highest priority that IER lets through (data sheet, table IV). */
static u8 iir_source(const struct serial *s)
{
	if ((s->ier & IER_ELSI) && (s->lsr & LSR_ERRORS))
		return IIR_RLSI;
	if ((s->ier & IER_ERBFI) && s->rx_len >= rx_trigger(s))
		return IIR_RDI;
	if ((s->ier & IER_ERBFI) && s->timeout_pending)
		return IIR_CTI;
	if ((s->ier & IER_ETBEI) && s->thr_pending)
		return IIR_THRI;
	if ((s->ier & IER_EDSSI) && (s->msr & 0x0f))
		return IIR_MSI;
	return IIR_NONE;
}

/* On a PC the INTR pin passes a gate that OUT2 opens; loopback mode makes OUT2 inactive. */
static void irq_update(struct serial *s)
{
	bool gate = (s->mcr & (MCR_OUT2 | MCR_LOOP)) == MCR_OUT2;
	bool level = gate && iir_source(s) != IIR_NONE;

	if (level != s->irq_level) {
		s->irq_level = level;
		irq_set(s->env.irq, s->irq, level);
	}
}

/* ---- receiver ---- */

static u64 char_time_ns(const struct serial *s)
{
	/* start bit, 5 to 8 data bits, parity, stop bits */
	unsigned bits = 1 + 5 + (s->lcr & 3) + (s->lcr & 8 ? 1 : 0) + (s->lcr & 4 ? 2 : 1);
	u64 ns = bits * 16ull * (s->divisor ? s->divisor : 0x10000) * NSEC_PER_SEC / 1843200;

	return MIN(ns, 5000000ull); /* nobody gains from a slow line */
}

/* A character came or was read: the time-out starts anew if something is left below the trigger. */
static void timeout_restart(struct serial *s)
{
	s->timeout_pending = false;
	if (fifo_on(s) && s->rx_len && s->rx_len < rx_trigger(s))
		timer_arm(&s->timeout, loop_now(s->env.loop) + 4 * char_time_ns(s));
	else
		timer_cancel(&s->timeout);
}

static void on_timeout(void *arg)
{
	struct serial *s = arg;

	if (!fifo_on(s) || !s->rx_len)
		return;
	s->timeout_pending = true;
	irq_update(s);
}

/* The error bits belong to the character at the top of the FIFO. */
static void rx_top_changed(struct serial *s)
{
	if (s->rx_len)
		s->lsr |= s->rx_err[s->rx_head];
}

static void rx_put(struct serial *s, u8 byte, u8 err)
{
	if (s->rx_len >= fifo_depth(s)) {
		/* The FIFO stays; without it RBR is overwritten. */
		s->lsr |= LSR_OE;
		if (!fifo_on(s))
			s->rx[s->rx_head] = byte;
	} else {
		u8 at = (s->rx_head + s->rx_len) % FIFO_SIZE;

		s->rx[at] = byte;
		s->rx_err[at] = err;
		if (!s->rx_len++)
			rx_top_changed(s);
	}
}

static void rx_clear(struct serial *s)
{
	s->rx_head = s->rx_len = 0;
	timeout_restart(s);
}

/* Whether the guest reads what comes: by interrupt, or by polling. A driver that is not open yet
 * empties the receiver when it starts, and what a pipe has sent by then would be gone; so it waits
 * outside until somebody listens. A driver that only sends asks LSR before each character; more
 * than that is polling for input. An interrupt counts if it gets through: drivers that look for
 * the chip set all of IER for a moment. */
static bool listening(const struct serial *s)
{
	return ((s->ier & IER_ERBFI) && (s->mcr & MCR_OUT2)) || s->polls >= POLLS_LISTENING;
}

static size_t front_room(void *arg)
{
	const struct serial *s = arg;

	if (!listening(s))
		return 0;
	return s->mcr & MCR_LOOP || s->rx_len >= fifo_depth(s) ? 0 : fifo_depth(s) - s->rx_len;
}

static void front_receive(void *arg, const u8 *buf, size_t n)
{
	struct serial *s = arg;

	s->bytes_in += n;
	while (n--)
		rx_put(s, *buf++, 0);
	timeout_restart(s);
	irq_update(s);
}

static void pull(struct serial *s)
{
	if (s->back && front_room(s))
		chardev_pull(s->back);
}

static u8 rbr_read(struct serial *s)
{
	u8 byte;

	if (!s->rx_len)
		return s->rx[s->rx_head]; /* the last one stays in the latch */
	byte = s->rx[s->rx_head];
	if (s->rx_len > 1)
		s->rx_head = (s->rx_head + 1) % FIFO_SIZE;
	s->rx_len--;
	rx_top_changed(s);
	timeout_restart(s);
	irq_update(s);
	pull(s);
	return byte;
}

/* ---- transmitter ---- */

/* THR became empty: an interrupt, of which the controller must see an edge. */
static void thr_emptied(struct serial *s)
{
	s->thr_pending = true;
	irq_update(s);
}

/* Hand on what waits in the transmitter. */
static void tx_run(struct serial *s)
{
	bool had = s->tx_len;

	while (s->tx_len) {
		u8 n = MIN(s->tx_len, (u8)(FIFO_SIZE - s->tx_head));
		size_t done = s->back ? chardev_write(s->back, s->tx + s->tx_head, n) : n;

		s->tx_head = (u8)((s->tx_head + done) % FIFO_SIZE);
		s->tx_len -= (u8)done;
		if (done < n)
			return;
	}
	if (had)
		thr_emptied(s);
}

static void front_drained(void *arg)
{
	tx_run(arg);
}

static void thr_write(struct serial *s, u8 byte)
{
	s->thr_pending = false;
	irq_update(s);
	if (s->mcr & MCR_LOOP) {
		rx_put(s, byte, 0);
		timeout_restart(s);
		thr_emptied(s);
		return;
	}
	if (s->tx_len >= fifo_depth(s)) {
		s->tx_lost++; /* the guest did not look at LSR */
		return;
	}
	s->tx[(s->tx_head + s->tx_len++) % FIFO_SIZE] = byte;
	s->bytes_out++;
	if (s->tx_len == 1)
		tx_run(s);
}

static const struct chardev_front serial_front = {
	.room = front_room,
	.receive = front_receive,
	.drained = front_drained,
};

/* ---- modem lines ---- */

/* Loopback wires the four outputs to the inputs; else the cable says: a terminal is there. */
static void msr_update(struct serial *s)
{
	u8 old = s->msr, lines = MSR_CTS | MSR_DSR | MSR_DCD;

	if (s->mcr & MCR_LOOP)
		lines = (s->mcr & MCR_RTS ? MSR_CTS : 0) | (s->mcr & MCR_DTR ? MSR_DSR : 0) |
		        (s->mcr & MCR_OUT1 ? MSR_RI : 0) | (s->mcr & MCR_OUT2 ? MSR_DCD : 0);
	s->msr = lines | (old & 0x0f);
	if ((old ^ lines) & MSR_CTS)
		s->msr |= MSR_DCTS;
	if ((old ^ lines) & MSR_DSR)
		s->msr |= MSR_DDSR;
	if (old & ~lines & MSR_RI) /* the trailing edge only */
		s->msr |= MSR_TERI;
	if ((old ^ lines) & MSR_DCD)
		s->msr |= MSR_DDCD;
}

/* ---- registers ---- */

static u8 lsr_value(const struct serial *s)
{
	u8 v = s->lsr;

	if (s->rx_len)
		v |= LSR_DR;
	if (!s->tx_len)
		v |= LSR_THRE | LSR_TEMT;
	if (fifo_on(s))
		for (u8 i = 0; i < s->rx_len; i++)
			if (s->rx_err[(s->rx_head + i) % FIFO_SIZE])
				v |= LSR_ERFIFO;
	return v;
}

static u8 lsr_read(struct serial *s)
{
	u8 v = lsr_value(s);

	if (s->polls < POLLS_LISTENING && ++s->polls == POLLS_LISTENING)
		pull(s);
	s->lsr = 0;
	if (s->rx_len)
		s->rx_err[s->rx_head] = 0;
	irq_update(s);
	return v;
}

static u8 iir_read(struct serial *s)
{
	u8 v = iir_source(s);

	if (v == IIR_THRI) {
		s->thr_pending = false;
		irq_update(s);
	}
	return v | (fifo_on(s) ? IIR_FIFO : 0);
}

static u64 serial_read(void *dev, u64 off, unsigned size)
{
	struct serial *s = dev;
	u8 v;

	switch (off) {
	case REG_DATA:
		return s->lcr & LCR_DLAB ? s->divisor & 0xff : rbr_read(s);
	case REG_IER:
		return s->lcr & LCR_DLAB ? s->divisor >> 8 : s->ier;
	case REG_IIR:
		return iir_read(s);
	case REG_LCR:
		return s->lcr;
	case REG_MCR:
		return s->mcr;
	case REG_LSR:
		return lsr_read(s);
	case REG_MSR:
		v = s->msr;
		s->msr &= 0xf0;
		irq_update(s);
		return v;
	default:
		return s->scr;
	}
}

static void ier_write(struct serial *s, u8 val)
{
	u8 rise = val & 0x0f & ~s->ier;

	s->ier = val & 0x0f;
	/* Enabling the interrupt while THR is empty raises it, be it read before or not. */
	if ((rise & IER_ETBEI) && !s->tx_len)
		s->thr_pending = true;
	irq_update(s);
	pull(s);
}

static void fcr_write(struct serial *s, u8 val)
{
	bool toggled = (val ^ s->fcr) & FCR_ENABLE;

	if (!(val & FCR_ENABLE))
		val = 0; /* the other bits are only programmed together with bit 0 */
	s->fcr = val & 0xc9;
	if (toggled || (val & FCR_RX_RESET))
		rx_clear(s);
	if ((toggled || (val & FCR_TX_RESET)) && s->tx_len) {
		s->tx_len = 0;
		thr_emptied(s);
	}
	timeout_restart(s);
	irq_update(s);
	pull(s);
}

static void mcr_write(struct serial *s, u8 val)
{
	s->mcr = val & 0x1f;
	msr_update(s);
	irq_update(s);
	pull(s);
}

static void lcr_write(struct serial *s, u8 val)
{
	bool broke = (val & ~s->lcr & LCR_BREAK) != 0;

	s->lcr = val;
	/* A break reaches nobody but ourselves: the outside has no notion of it. */
	if (broke && (s->mcr & MCR_LOOP)) {
		rx_put(s, 0, LSR_BI | LSR_FE);
		timeout_restart(s);
		irq_update(s);
	}
}

static void serial_write(void *dev, u64 off, u64 val, unsigned size)
{
	struct serial *s = dev;
	u8 v = (u8)val;

	s->polls = 0;
	switch (off) {
	case REG_DATA:
		if (s->lcr & LCR_DLAB)
			s->divisor = (s->divisor & 0xff00) | v;
		else
			thr_write(s, v);
		break;
	case REG_IER:
		if (s->lcr & LCR_DLAB)
			s->divisor = (u16)((s->divisor & 0xff) | v << 8);
		else
			ier_write(s, v);
		break;
	case REG_IIR:
		fcr_write(s, v);
		break;
	case REG_LCR:
		lcr_write(s, v);
		break;
	case REG_MCR:
		mcr_write(s, v);
		break;
	case REG_LSR: /* factory test only */
	case REG_MSR:
		break;
	default:
		s->scr = v;
		break;
	}
}

/* ---- the device ---- */

/* Master reset (data sheet, table III), with the lines as the cable has them. */
static void serial_reset(struct dev *d)
{
	struct serial *s = container_of(d, struct serial, dev);

	s->ier = s->fcr = s->lcr = s->mcr = s->scr = s->lsr = 0;
	s->divisor = 12; /* undefined by the data sheet; firmware leaves 9600 */
	s->msr = MSR_CTS | MSR_DSR | MSR_DCD;
	s->thr_pending = s->timeout_pending = false;
	s->rx_head = s->rx_len = s->polls = 0;
	s->tx_head = s->tx_len = 0;
	timer_cancel(&s->timeout);
	irq_update(s);
	pull(s);
}

static void serial_destroy(struct dev *d)
{
	struct serial *s = container_of(d, struct serial, dev);

	if (s->back)
		chardev_connect(s->back, NULL, NULL);
	timer_cancel(&s->timeout);
	bus_detach(s->env.bus, BUS_PIO, s->iobase);
	free(s);
}

static void serial_dump(struct dev *d, FILE *out)
{
	const struct serial *s = container_of(d, struct serial, dev);

	fprintf(out,
	        "serial %#x irq %u: IER %02x IIR %02x FCR %02x LCR %02x MCR %02x LSR %02x MSR "
	        "%02x\n",
	        s->iobase, s->irq, s->ier, iir_source(s) | (fifo_on(s) ? IIR_FIFO : 0), s->fcr,
	        s->lcr, s->mcr, lsr_value(s), s->msr);
	fprintf(out,
	        "  divisor %u, receiver %u of %u, transmitter %u, in %llu out %llu lost %llu\n",
	        s->divisor, s->rx_len, fifo_depth(s), s->tx_len, (unsigned long long)s->bytes_in,
	        (unsigned long long)s->bytes_out, (unsigned long long)s->tx_lost);
}

static const struct dev_ops serial_dev_ops = {
	.reset = serial_reset,
	.destroy = serial_destroy,
	.dump = serial_dump,
};

static const struct region_ops serial_region_ops = {serial_read, serial_write};

int serial_create(struct serial **out, const struct dev_env *env, const struct serial_config *cfg)
{
	struct serial *s = calloc(1, sizeof(*s));
	struct region r = {.name = "serial", .len = 8, .max_size = 1, .ops = &serial_region_ops};
	int err;

	if (!s)
		return -ENOMEM;
	s->env = *env;
	s->dev.name = "serial";
	s->dev.ops = &serial_dev_ops;
	s->iobase = cfg->iobase ? cfg->iobase : SERIAL_COM1_PORT;
	s->irq = cfg->irq ? cfg->irq : SERIAL_COM1_IRQ;
	s->back = cfg->back;
	timer_init(&s->timeout, env->loop, on_timeout, s);
	serial_reset(&s->dev);
	r.base = s->iobase;
	r.dev = s;
	err = bus_attach(env->bus, BUS_PIO, &r);
	if (err) {
		free(s);
		return err;
	}
	dev_register(env, &s->dev);
	if (s->back)
		chardev_connect(s->back, &serial_front, s);
	*out = s;
	return 0;
}
