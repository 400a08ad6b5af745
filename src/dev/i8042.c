// SPDX-License-Identifier: MIT
/* Intel 8042 with the IBM AT's firmware (IBM PC AT Technical Reference, "Keyboard Controller").
 *
 * Nothing is plugged in: the interface test of the keyboard port says "clock line stuck low", the
 * PS/2 commands for a second port behave as on an AT, which has none, and a byte sent to the
 * keyboard comes back as a time-out. A guest with ACPI does not probe at all (no PNP0303 in
 * the DSDT, IAPC_BOOT_ARCH bit 1 clear); one without ACPI finds a controller that works and no
 * device.
 *
 * A controller with nothing to do answers in no time: the input buffer is never full. */
#include "dev/i8042.h"

#include <errno.h>
#include <stdlib.h>

#define STS_OBF  0x01 /* a byte for the host */
#define STS_SYS  0x04 /* self test passed */
#define STS_CMD  0x08 /* last write was to 0x64 */
#define STS_KEYL 0x10 /* keyboard not locked */
#define STS_TIMO 0x40

#define CFG_KBD_INT 0x01
#define CFG_SYS     0x04
#define CFG_KBD_DIS 0x10
#define CFG_AUX_DIS 0x20

#define OUT_RESET 0x01 /* low: the CPU is held in reset */
#define OUT_A20   0x02
#define OUT_OBF   0x10 /* wired to IRQ 1 */

#define PORT_A_RESET 0x01

struct i8042 {
	struct dev dev;
	struct dev_env env;
	struct i8042_config cfg;
	u8 ram[32]; /* byte 0: the command byte */
	u8 status;
	u8 out;      /* output buffer */
	u8 out_port; /* OUT_A20 and the unused bits */
	u8 port_a;   /* 0x92 without the A20 bit */
	u8 command;  /* waits for its data byte at 0x60; 0: none, data goes to the keyboard */
	struct ratelimit rl;
};

static void irq_update(struct i8042 *k)
{
	irq_set(k->env.irq, I8042_IRQ, (k->status & STS_OBF) && (k->ram[0] & CFG_KBD_INT));
}

static void reply(struct i8042 *k, u8 byte)
{
	k->out = byte;
	k->status = (k->status & (u8)~STS_TIMO) | STS_OBF;
	irq_update(k);
}

/* No device took the byte. */
static void reply_timeout(struct i8042 *k)
{
	reply(k, 0xfe);
	k->status |= STS_TIMO;
}

static void a20_set(struct i8042 *k, bool open)
{
	bool was = k->out_port & OUT_A20;

	k->out_port = (k->out_port & (u8)~OUT_A20) | (open ? OUT_A20 : 0);
	if (was != open && k->cfg.a20)
		k->cfg.a20(k->cfg.arg, open);
}

static void out_port_write(struct i8042 *k, u8 val)
{
	k->out_port = (val & (u8) ~(OUT_A20 | OUT_OBF | OUT_RESET)) | (k->out_port & OUT_A20);
	a20_set(k, val & OUT_A20);
	if (!(val & OUT_RESET))
		k->cfg.reset(k->cfg.arg);
}

static u8 out_port_read(const struct i8042 *k)
{
	return k->out_port | OUT_RESET | (k->status & STS_OBF ? OUT_OBF : 0);
}

static void command(struct i8042 *k, u8 cmd)
{
	k->command = 0;
	switch (cmd) {
	case 0x20 ... 0x3f: /* read the controller's memory; 0x20: the command byte */
		reply(k, k->ram[cmd & 0x1f]);
		break;
	case 0x60 ... 0x7f: /* write it */
	case 0xd1:          /* write the output port */
	case 0xd2:          /* write the output buffer as if the keyboard had sent it */
	case 0xd3:          /* ... the second port */
	case 0xd4:          /* send to the second port */
		k->command = cmd;
		break;
	case 0xa7: /* second port off, on: it is not there */
	case 0xa8:
		break;
	case 0xa9: /* test the second port */
	case 0xab: /* test the keyboard port: clock line stuck low */
		reply(k, 0x01);
		break;
	case 0xaa: /* self test; also resets the command byte */
		k->status |= STS_SYS;
		k->ram[0] = CFG_SYS | CFG_KBD_DIS | CFG_AUX_DIS;
		reply(k, 0x55);
		break;
	case 0xad:
		k->ram[0] |= CFG_KBD_DIS;
		break;
	case 0xae:
		k->ram[0] &= (u8)~CFG_KBD_DIS;
		break;
	case 0xc0: /* input port: not locked, no jumpers */
		reply(k, 0x80);
		break;
	case 0xd0:
		reply(k, out_port_read(k));
		break;
	case 0xdd: /* A20 off, on: some chip sets */
		a20_set(k, false);
		break;
	case 0xdf:
		a20_set(k, true);
		break;
	case 0xf0 ... 0xff: /* pulse the output bits that are 0 in the command low */
		if (!(cmd & OUT_RESET))
			k->cfg.reset(k->cfg.arg);
		break;
	default:
		guest_warn(&k->rl, "keyboard controller: unknown command %#x", cmd);
		break;
	}
}

static void data(struct i8042 *k, u8 val)
{
	u8 cmd = k->command;

	k->command = 0;
	switch (cmd) {
	case 0x60 ... 0x7f:
		k->ram[cmd & 0x1f] = val;
		if (cmd == 0x60) {
			k->status = (k->status & (u8)~STS_SYS) | (val & CFG_SYS ? STS_SYS : 0);
			irq_update(k);
		}
		break;
	case 0xd1:
		out_port_write(k, val);
		break;
	case 0xd2:
	case 0xd3: /* an AT has one output buffer: not marked as the second port's */
		reply(k, val);
		break;
	default: /* to the keyboard or the second port */
		reply_timeout(k);
		break;
	}
}

static u64 i8042_read(void *dev, u64 off, unsigned size)
{
	struct i8042 *k = dev;

	k->status &= (u8) ~(STS_OBF | STS_TIMO);
	irq_update(k);
	return k->out;
}

static void i8042_write(void *dev, u64 off, u64 val, unsigned size)
{
	struct i8042 *k = dev;

	k->status &= (u8)~STS_CMD;
	data(k, (u8)val);
}

static u64 i8042_status_read(void *dev, u64 off, unsigned size)
{
	struct i8042 *k = dev;

	return k->status;
}

static void i8042_command_write(void *dev, u64 off, u64 val, unsigned size)
{
	struct i8042 *k = dev;

	k->status |= STS_CMD;
	command(k, (u8)val);
}

/* ---- system control port A ---- */

static u64 port_a_read(void *dev, u64 off, unsigned size)
{
	struct i8042 *k = dev;

	return k->port_a | (k->out_port & OUT_A20);
}

static void port_a_write(void *dev, u64 off, u64 val, unsigned size)
{
	struct i8042 *k = dev;
	u8 rise = (u8)val & ~k->port_a;

	k->port_a = (u8)val & (u8)~OUT_A20;
	a20_set(k, val & OUT_A20); /* the same bit there */
	if (rise & PORT_A_RESET)
		k->cfg.reset(k->cfg.arg);
}

/* ---- the device ---- */

static void i8042_reset(struct dev *d)
{
	struct i8042 *k = container_of(d, struct i8042, dev);

	for (size_t i = 0; i < sizeof(k->ram); i++)
		k->ram[i] = 0;
	/* As a BIOS leaves it: tested, nothing enabled. */
	k->ram[0] = CFG_SYS | CFG_KBD_DIS | CFG_AUX_DIS;
	k->status = STS_SYS | STS_KEYL;
	k->out = 0;
	k->command = 0;
	k->port_a = 0;
	k->out_port = 0xcc | (k->out_port & OUT_A20);
	a20_set(k, true);
	irq_update(k);
}

static void i8042_destroy(struct dev *d)
{
	struct i8042 *k = container_of(d, struct i8042, dev);

	bus_detach(k->env.bus, BUS_PIO, I8042_DATA_PORT);
	bus_detach(k->env.bus, BUS_PIO, I8042_CMD_PORT);
	bus_detach(k->env.bus, BUS_PIO, I8042_PORT_A);
	free(k);
}

static void i8042_dump(struct dev *d, FILE *out)
{
	const struct i8042 *k = container_of(d, struct i8042, dev);

	fprintf(out,
	        "i8042: status %02x, command byte %02x, output port %02x, port A %02x, A20 %s\n",
	        k->status, k->ram[0], out_port_read(k), k->port_a,
	        k->out_port & OUT_A20 ? "open" : "closed");
}

static const struct dev_ops i8042_dev_ops = {
	.reset = i8042_reset,
	.destroy = i8042_destroy,
	.dump = i8042_dump,
};

static const struct region_ops data_ops = {i8042_read, i8042_write};
static const struct region_ops cmd_ops = {i8042_status_read, i8042_command_write};
static const struct region_ops port_a_ops = {port_a_read, port_a_write};

int i8042_create(struct i8042 **out, const struct dev_env *env, const struct i8042_config *cfg)
{
	struct i8042 *k = calloc(1, sizeof(*k));
	struct region r[] = {
		{.name = "i8042", .base = I8042_DATA_PORT, .ops = &data_ops},
		{.name = "i8042", .base = I8042_CMD_PORT, .ops = &cmd_ops},
		{.name = "port-a", .base = I8042_PORT_A, .ops = &port_a_ops},
	};
	int err;

	if (!k)
		return -ENOMEM;
	k->env = *env;
	k->cfg = *cfg;
	k->dev.name = "i8042";
	k->dev.ops = &i8042_dev_ops;
	k->out_port = OUT_A20;
	i8042_reset(&k->dev);
	for (size_t i = 0; i < ARRAY_SIZE(r); i++) {
		r[i].len = 1;
		r[i].max_size = 1;
		r[i].dev = k;
		err = bus_attach(env->bus, BUS_PIO, &r[i]);
		if (err) {
			while (i--)
				bus_detach(env->bus, BUS_PIO, r[i].base);
			free(k);
			return err;
		}
	}
	dev_register(env, &k->dev);
	*out = k;
	return 0;
}
