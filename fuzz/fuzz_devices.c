// SPDX-License-Identifier: MIT
/* A stream of register accesses, RAM writes and outside events over the legacy devices of a PC:
 * UART, RTC, keyboard controller, ACPI PM, fw_cfg, debug and test devices. Besides the sanitizers,
 * the invariants checked are: a read's value fits its width, interrupt lines stay in range, and no
 * operation takes longer than libFuzzer's time limit. */
#include "../test/unit/devtest.h"
#include "dev/acpipm.h"
#include "dev/debugcon.h"
#include "dev/debugexit.h"
#include "dev/fwcfg.h"
#include "dev/i8042.h"
#include "dev/port80.h"
#include "dev/rtc.h"
#include "dev/serial.h"
#include "dev/testdev.h"

#define RAM_SIZE (2 * MiB)

struct input {
	const u8 *p;
	size_t left;
};

struct machine {
	struct devtest t;
	struct testback back;
	struct acpipm *pm;
	u64 wall; /* what the RTC sees */
	unsigned events;
};

int LLVMFuzzerTestOneInput(const u8 *data, size_t size);

static u64 take(struct input *in, unsigned n)
{
	u64 v = 0;

	for (unsigned i = 0; i < n && in->left; i++, in->left--)
		v |= (u64)*in->p++ << (i * 8);
	return v;
}

static u64 wall_clock(void *arg)
{
	const struct machine *m = arg;

	return m->wall;
}

static void event(void *arg)
{
	struct machine *m = arg;

	m->events++;
}
static void event_bool(void *arg, bool on)
{
	event(arg);
}
static void event_code(void *arg, int code)
{
	if (code < 1 || code > 255 || !(code & 1))
		abort();
	event(arg);
}
static void event_page(void *arg, gpa_t page)
{
	if (page & ~PAGE_MASK)
		abort();
	event(arg);
}

static void line(void *dev, unsigned n, bool level)
{
	if (n >= IRQ_LINES)
		abort();
}

static void stop(void *arg)
{
	loop_stop(arg);
}

static void machine_make(struct machine *m)
{
	struct serial *serial;
	struct rtc *rtc;
	struct i8042 *kbd;
	struct fwcfg *fw;
	struct debugcon *con;
	struct debugexit *ex;
	struct port80 *p80;
	struct testdev *test;
	const struct dev_env *env = &m->t.env;

	memset(m, 0, sizeof(*m));
	devtest_init(&m->t, RAM_SIZE);
	testback_init(&m->back);
	m->wall = 1709078398ull * NSEC_PER_SEC;
	m->t.irq.sink[m->t.irq.nr_sinks++] = (struct irq_sink){line, NULL};
	if (serial_create(&serial, env, &(struct serial_config){.back = &m->back.chardev}) ||
	    rtc_create(&rtc, env, &(struct rtc_config){.clock = wall_clock, .clock_arg = m}) ||
	    i8042_create(&kbd, env, &(struct i8042_config){event, event_bool, m}) ||
	    acpipm_create(&m->pm, env,
	                  &(struct acpipm_config){.poweroff = event, .reset = event, .arg = m}) ||
	    fwcfg_create(&fw, env, &(struct fwcfg_config){.nr_vcpus = 2}) ||
	    fwcfg_add_file(fw, "etc/e", "file", 4) ||
	    debugcon_create(&con, env, &(struct debugcon_config){.back = &m->back.chardev}) ||
	    debugexit_create(&ex, env, &(struct debugexit_config){.exit = event_code, .arg = m}) ||
	    port80_create(&p80, env, &(struct port80_config){0}) ||
	    testdev_create(&test, env, &(struct testdev_config){event_page, m, .debugcon = true}))
		abort();
}

static u16 port_of(struct input *in)
{
	static const struct {
		u16 base, len;
	} range[] = {
		{0x3f8, 8}, {0x70, 2},   {0x60, 5},  {0x92, 1}, {0x600, 64}, {0xb2, 2},
		{0xcf8, 4}, {0x510, 12}, {0xe0, 12}, {0xf4, 4}, {0x80, 1},   {0x2000, 24},
	};
	u8 r = (u8)take(in, 1), off = (u8)take(in, 1);

	if (r >= 0xfc)
		return (u16)(r << 8 | off);
	r %= ARRAY_SIZE(range);
	return (u16)(range[r].base + off % range[r].len);
}

static void step(struct machine *m, struct input *in)
{
	static u8 text[256];
	u8 op = (u8)take(in, 1);
	unsigned size = 1u << (op & 3);
	u16 port;
	u64 v;

	switch (op >> 2 & 7) {
	case 0:
	case 1:
		port = port_of(in);
		if (bus_read(m->t.bus, BUS_PIO, port, MIN(size, 4u)) & ~size_mask(size))
			abort();
		break;
	case 2:
	case 3:
		port = port_of(in);
		bus_write(m->t.bus, BUS_PIO, port, take(in, MIN(size, 4u)), MIN(size, 4u));
		break;
	case 4:
		v = TESTDEV_MEM - 8 + take(in, 2) * 2;
		bus_write(m->t.bus, BUS_MMIO, v, v * 3, size);
		if (bus_read(m->t.bus, BUS_MMIO, v, size) & ~size_mask(size))
			abort();
		break;
	case 5: /* RAM: descriptors for fw_cfg */
		v = take(in, 2) * 32;
		for (unsigned i = 0; i < 16; i++) {
			u8 byte = (u8)take(in, 1);

			pmap_write(m->t.pmap, v + i, &byte, 1);
		}
		break;
	case 6: /* outside: input, room for output */
		v = take(in, 1);
		if (op & 1)
			m->back.room = v;
		if ((op & 2) && m->back.chardev.front)
			m->back.chardev.front->drained(m->back.chardev.front_arg);
		if (m->back.out_len > sizeof(m->back.out) / 2)
			m->back.out_len = 0;
		testback_input(&m->back, text, v);
		break;
	case 7: /* time, buttons, reset */
		if (size == 1)
			m->wall += take(in, 2) * 1000000ull;
		else if (size == 2)
			m->wall += (take(in, 4) & 0x3ffffff) * NSEC_PER_SEC; /* up to 2 years */
		else if (size == 4)
			acpipm_power_button(m->pm);
		else if (take(in, 1) == 0xaa)
			dev_reset_all(m->t.devices);
		break;
	}
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	static FILE *null;
	struct machine *m = malloc(sizeof(*m));
	struct input in = {data, size};

	if (!null) {
		null = fopen("/dev/null", "w");
		log_set_level(LOG_ERROR);
	}
	if (!m || !null)
		abort();
	machine_make(m);
	/* the RTC is good for some decades */
	for (unsigned i = 0; in.left && i < 2000 && m->wall < 2500000000ull * NSEC_PER_SEC; i++)
		step(m, &in);
	/* what is due */
	loop_post(m->t.loop, stop, m->t.loop);
	loop_run(m->t.loop);
	for (struct dev *d = m->t.devices; d; d = d->next)
		d->ops->dump(d, null);
	devtest_fini(&m->t);
	free(m);
	return 0;
}
