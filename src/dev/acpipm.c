// SPDX-License-Identifier: MIT
/* ACPI 6.5, section 4.8.3 "Fixed hardware register blocks". Sleep states other than S5 are
 * not offered: the DSDT has no _S1.._S4, and a guest that tries anyway is told so.
 *
 * A hard reset of this machine resets the CPUs too, so the reset register's two kinds (INIT, full
 * reset) are one here. */
#include "dev/acpipm.h"

#include <errno.h>
#include <stdlib.h>

#define PM1_TMR    (1u << 0)
#define PM1_GBL    (1u << 5)
#define PM1_PWRBTN (1u << 8)
#define PM1_SLPBTN (1u << 9)
#define PM1_RTC    (1u << 10)
#define PM1_WAK    (1u << 15)
#define PM1_STS                                                                                    \
	(PM1_TMR | 1u << 4 /* BM_STS */ | PM1_GBL | PM1_PWRBTN | PM1_SLPBTN | PM1_RTC | PM1_WAK)
#define PM1_EN (PM1_TMR | PM1_GBL | PM1_PWRBTN | PM1_SLPBTN | PM1_RTC)

#define CNT_SCI_EN    (1u << 0)
#define CNT_BM_RLD    (1u << 1)
#define CNT_SLP_TYP   (7u << 10)
#define CNT_SLP_EN    (1u << 13)
#define CNT_SLP_SHIFT 10

#define RST_CPU  0x04
#define RST_SYS  0x02
#define RST_FULL 0x08

#define PCI_CONFIG_ADDRESS 0xcf8

struct acpipm {
	struct dev dev;
	struct dev_env env;
	struct acpipm_config cfg;
	struct timer timer; /* to the PM timer's next carry, while TMR_EN */
	u64 carries;        /* of the PM timer, as of the last look */
	u16 pm1_sts, pm1_en, pm1_cnt;
	u32 gpe_sts, gpe_en;
	u8 apm_status; /* port 0xb3: a scratch byte */
	u8 smi_cmd;
	u8 reset_control;
	bool sci_level;
	struct ratelimit rl;
};

/* ---- PM timer ---- */

static u64 timer_ticks(const struct acpipm *a)
{
	return (u64)((unsigned __int128)loop_now(a->env.loop) * ACPIPM_TIMER_HZ / NSEC_PER_SEC);
}

/* TMR_STS is set whenever the counter's most significant bit changes (4.8.3.3). */
static unsigned carry_shift(const struct acpipm *a)
{
	return a->cfg.timer32 ? 31 : 23;
}

static void timer_catch_up(struct acpipm *a)
{
	u64 carries = timer_ticks(a) >> carry_shift(a);

	if (carries != a->carries)
		a->pm1_sts |= PM1_TMR;
	a->carries = carries;
}

static u64 pm_timer_read(void *dev, u64 off, unsigned size)
{
	const struct acpipm *a = dev;
	u32 v = (u32)timer_ticks(a);

	if (!a->cfg.timer32)
		v &= 0xffffff;
	return v >> (off * 8);
}

static void pm_timer_write(void *dev, u64 off, u64 val, unsigned size)
{
	/* read-only */
}

/* ---- SCI ---- */

static void sci_update(struct acpipm *a)
{
	bool level = (a->pm1_cnt & CNT_SCI_EN) &&
	             ((a->pm1_sts & a->pm1_en & PM1_EN) || (a->gpe_sts & a->gpe_en));

	if (level != a->sci_level) {
		a->sci_level = level;
		irq_set(a->env.irq, a->cfg.sci, level);
	}
	if ((a->pm1_en & PM1_TMR) && !(a->pm1_sts & PM1_TMR)) {
		unsigned __int128 next = (unsigned __int128)(a->carries + 1) << carry_shift(a);

		timer_arm(&a->timer, (u64)(next * NSEC_PER_SEC / ACPIPM_TIMER_HZ) + 1);
	} else {
		timer_cancel(&a->timer);
	}
}

static void on_timer(void *arg)
{
	struct acpipm *a = arg;

	timer_catch_up(a);
	sci_update(a);
}

bool acpipm_power_button(struct acpipm *a)
{
	a->pm1_sts |= PM1_PWRBTN;
	sci_update(a);
	return (a->pm1_cnt & CNT_SCI_EN) && (a->pm1_en & PM1_PWRBTN);
}

void acpipm_gpe(struct acpipm *a, unsigned gpe)
{
	if (gpe >= 32)
		bug("GPE %u of 32", gpe);
	a->gpe_sts |= 1u << gpe;
	sci_update(a);
}

/* ---- PM1 and GPE blocks ---- */

static void pm1_cnt_write(struct acpipm *a, u16 val)
{
	unsigned type = (val & CNT_SLP_TYP) >> CNT_SLP_SHIFT;

	/* SCI_EN is moved by the SMI command only (4.8.3.2.1); GBL_RLS and SLP_EN read as 0. */
	a->pm1_cnt = (a->pm1_cnt & CNT_SCI_EN) | (val & (CNT_BM_RLD | CNT_SLP_TYP));
	sci_update(a);
	if (!(val & CNT_SLP_EN))
		return;
	if (type == ACPIPM_SLP_TYP_S5)
		a->cfg.poweroff(a->cfg.arg);
	else
		guest_warn(&a->rl, "ACPI sleep type %u is not offered: only S5 (type %u) is", type,
		           ACPIPM_SLP_TYP_S5);
}

static u8 pm_read8(struct acpipm *a, u64 off)
{
	unsigned shift = (off & 1) * 8;

	switch (off) {
	case 0 ... 1:
		timer_catch_up(a);
		return (u8)(a->pm1_sts >> shift);
	case 2 ... 3:
		return (u8)(a->pm1_en >> shift);
	case 4 ... 5:
		return (u8)(a->pm1_cnt >> shift);
	case ACPIPM_GPE0 ... ACPIPM_GPE0 + 3:
		return (u8)(a->gpe_sts >> ((off & 3) * 8));
	case ACPIPM_GPE0 + 4 ... ACPIPM_GPE0 + 7:
		return (u8)(a->gpe_en >> ((off & 3) * 8));
	default:
		return 0;
	}
}

/* All but PM1_CNT, whose two bytes act together. */
static void pm_write8(struct acpipm *a, u64 off, u8 val)
{
	unsigned shift = (off & 1) * 8, gshift = (off & 3) * 8;

	switch (off) {
	case 0 ... 1: /* one clears */
		a->pm1_sts &= (u16) ~((val << shift) & PM1_STS);
		break;
	case 2 ... 3:
		a->pm1_en = (u16)(((a->pm1_en & ~(0xff << shift)) | val << shift) & PM1_EN);
		break;
	case ACPIPM_GPE0 ... ACPIPM_GPE0 + 3:
		a->gpe_sts &= ~((u32)val << gshift);
		break;
	case ACPIPM_GPE0 + 4 ... ACPIPM_GPE0 + 7:
		a->gpe_en = (a->gpe_en & ~(0xffu << gshift)) | (u32)val << gshift;
		break;
	default:
		break;
	}
}

static u64 pm_read(void *dev, u64 off, unsigned size)
{
	struct acpipm *a = dev;
	u64 v = 0;

	for (unsigned i = 0; i < size; i++)
		v |= (u64)pm_read8(a, off + i) << (i * 8);
	return v;
}

static void pm_write(void *dev, u64 off, u64 val, unsigned size)
{
	struct acpipm *a = dev;

	timer_catch_up(a);
	for (unsigned i = 0; i < size; i++) {
		u64 at = off + i;
		u8 byte = (u8)(val >> (i * 8));

		if (at == ACPIPM_PM1_CNT && i + 1 < size) {
			pm1_cnt_write(a, (u16)(val >> (i * 8)));
			i++;
		} else if (at == ACPIPM_PM1_CNT) {
			pm1_cnt_write(a, (u16)((a->pm1_cnt & 0xff00) | byte));
		} else if (at == ACPIPM_PM1_CNT + 1) {
			pm1_cnt_write(a, (u16)((a->pm1_cnt & 0xff) | byte << 8));
		} else {
			pm_write8(a, at, byte);
		}
	}
	sci_update(a);
}

/* The part after the PM timer has its own region, since the timer is read without the lock. */
static u64 gpe_read(void *dev, u64 off, unsigned size)
{
	return pm_read(dev, off + ACPIPM_PM_TMR + 4, size);
}

static void gpe_write(void *dev, u64 off, u64 val, unsigned size)
{
	pm_write(dev, off + ACPIPM_PM_TMR + 4, val, size);
}

/* ---- SMI command ---- */

static u64 smi_read(void *dev, u64 off, unsigned size)
{
	const struct acpipm *a = dev;

	return off ? a->apm_status : a->smi_cmd;
}

static void smi_write(void *dev, u64 off, u64 val, unsigned size)
{
	struct acpipm *a = dev;

	if (off) {
		a->apm_status = (u8)val;
		return;
	}
	a->smi_cmd = (u8)val;
	if (val == ACPIPM_ENABLE)
		a->pm1_cnt |= CNT_SCI_EN;
	else if (val == ACPIPM_DISABLE)
		a->pm1_cnt &= (u16)~CNT_SCI_EN;
	sci_update(a);
}

/* ---- reset control ---- */

u8 acpipm_reset_control_read(const struct acpipm *a)
{
	return a->reset_control;
}

/* Intel ICH9 data sheet, 13.7.5 RST_CNT: the rising edge of bit 2 starts the reset. */
void acpipm_reset_control(struct acpipm *a, u8 val)
{
	bool rise = val & ~a->reset_control & RST_CPU;

	a->reset_control = val & (RST_CPU | RST_SYS | RST_FULL);
	if (rise)
		a->cfg.reset(a->cfg.arg);
}

/* Without a PCI host bridge: a doubleword at 0xcf8 is a configuration address and must not be
 * taken apart into a write to 0xcf9. It reads as all ones: no PCI. */
static u64 cf8_read(void *dev, u64 off, unsigned size)
{
	return off == 1 && size == 1 ? acpipm_reset_control_read(dev) : ~0ull;
}

static void cf8_write(void *dev, u64 off, u64 val, unsigned size)
{
	if (off == 1 && size == 1)
		acpipm_reset_control(dev, (u8)val);
}

/* ---- the device ---- */

static void acpipm_reset(struct dev *d)
{
	struct acpipm *a = container_of(d, struct acpipm, dev);

	a->pm1_sts = a->pm1_en = a->pm1_cnt = 0;
	a->gpe_sts = a->gpe_en = 0;
	a->apm_status = a->smi_cmd = a->reset_control = 0;
	timer_catch_up(a);
	a->pm1_sts = 0;
	sci_update(a);
}

static void acpipm_detach(struct acpipm *a)
{
	bus_detach(a->env.bus, BUS_PIO, a->cfg.iobase);
	bus_detach(a->env.bus, BUS_PIO, a->cfg.iobase + ACPIPM_PM_TMR);
	bus_detach(a->env.bus, BUS_PIO, a->cfg.iobase + ACPIPM_PM_TMR + 4u);
	bus_detach(a->env.bus, BUS_PIO, ACPIPM_SMI_CMD);
	if (!a->cfg.pci)
		bus_detach(a->env.bus, BUS_PIO, PCI_CONFIG_ADDRESS);
}

static void acpipm_destroy(struct dev *d)
{
	struct acpipm *a = container_of(d, struct acpipm, dev);

	timer_cancel(&a->timer);
	acpipm_detach(a);
	free(a);
}

static void acpipm_dump(struct dev *d, FILE *out)
{
	const struct acpipm *a = container_of(d, struct acpipm, dev);

	fprintf(out,
	        "acpipm %#x: PM1 status %04x enable %04x control %04x, GPE0 status %08x enable "
	        "%08x, "
	        "timer %#x, SCI %u %s\n",
	        a->cfg.iobase, a->pm1_sts, a->pm1_en, a->pm1_cnt, a->gpe_sts, a->gpe_en,
	        (u32)timer_ticks(a), a->cfg.sci, a->sci_level ? "high" : "low");
}

static const struct dev_ops acpipm_dev_ops = {
	.reset = acpipm_reset,
	.destroy = acpipm_destroy,
	.dump = acpipm_dump,
};

static const struct region_ops pm_ops = {pm_read, pm_write};
static const struct region_ops pm_timer_ops = {pm_timer_read, pm_timer_write};
static const struct region_ops gpe_ops = {gpe_read, gpe_write};
static const struct region_ops smi_ops = {smi_read, smi_write};
static const struct region_ops cf8_ops = {cf8_read, cf8_write};

int acpipm_create(struct acpipm **out, const struct dev_env *env, const struct acpipm_config *cfg)
{
	struct acpipm *a = calloc(1, sizeof(*a));
	int err = -ENOMEM;

	if (!a)
		return err;
	a->env = *env;
	a->cfg = *cfg;
	if (!a->cfg.iobase)
		a->cfg.iobase = ACPIPM_IOBASE;
	if (!a->cfg.sci)
		a->cfg.sci = ACPIPM_SCI;
	a->dev.name = "acpipm";
	a->dev.ops = &acpipm_dev_ops;
	timer_init(&a->timer, env->loop, on_timer, a);
	acpipm_reset(&a->dev);

	const struct region r[] = {
		{"acpi-pm1", a->cfg.iobase, ACPIPM_PM_TMR, .ops = &pm_ops, .dev = a},
		{"acpi-timer", a->cfg.iobase + ACPIPM_PM_TMR, 4, .nolock = true,
	         .ops = &pm_timer_ops, .dev = a},
		{"acpi-gpe", a->cfg.iobase + ACPIPM_PM_TMR + 4u, ACPIPM_LEN - ACPIPM_PM_TMR - 4,
	         .ops = &gpe_ops, .dev = a},
		{"smi-cmd", ACPIPM_SMI_CMD, 2, .max_size = 1, .ops = &smi_ops, .dev = a},
		{"reset-control", PCI_CONFIG_ADDRESS, 4, .ops = &cf8_ops, .dev = a},
	};
	for (size_t i = 0; i < ARRAY_SIZE(r) - (cfg->pci ? 1 : 0); i++) {
		err = bus_attach(env->bus, BUS_PIO, &r[i]);
		if (err) {
			while (i--)
				bus_detach(env->bus, BUS_PIO, r[i].base);
			free(a);
			return err;
		}
	}
	dev_register(env, &a->dev);
	*out = a;
	return 0;
}
