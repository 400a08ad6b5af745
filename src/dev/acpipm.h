/* SPDX-License-Identifier: MIT */
/* ACPI fixed hardware (ACPI 6.5, section 4.8): PM1a event and control block, PM timer, one GPE
 * block, the SMI command port, the power button; and the reset register.
 *
 * The FADT of the machine must say: SMI_CMD ACPIPM_SMI_CMD, ACPI_ENABLE/DISABLE as below, the
 * blocks at iobase + ACPIPM_*, SCI_INT cfg.sci, RESET_REG port ACPIPM_RESET_PORT, 8 bits wide,
 * RESET_VALUE ACPIPM_RESET_VALUE, flag TMR_VAL_EXT if cfg.timer32; the DSDT: _S5 with
 * ACPIPM_SLP_TYP_S5.
 *
 * Threading: the machine lock; the PM timer is read without it. */
#pragma once

#include "bus/dev.h"

struct acpipm;

struct acpipm_config {
	u16 iobase;   /* 0: ACPIPM_IOBASE; ACPIPM_LEN ports */
	u8 sci;       /* GSI of the SCI, level-triggered; 0: 9 */
	bool timer32; /* the PM timer counts 32 bits instead of 24 */
	bool pci;     /* a PCI host bridge owns 0xcf8..0xcfb: it calls acpipm_reset_control() */
	void (*poweroff)(void *arg); /* S5 */
	void (*reset)(void *arg);    /* the reset register */
	void *arg;
};

#define ACPIPM_IOBASE      0x600
#define ACPIPM_LEN         0x40
#define ACPIPM_PM1_EVT     0x00 /* 4 bytes */
#define ACPIPM_PM1_CNT     0x04 /* 2 bytes */
#define ACPIPM_PM_TMR      0x08 /* 4 bytes */
#define ACPIPM_GPE0        0x20 /* ACPIPM_GPE0_LEN bytes: status, then enable */
#define ACPIPM_GPE0_LEN    8
#define ACPIPM_SCI         9
#define ACPIPM_SMI_CMD     0xb2
#define ACPIPM_ENABLE      0xf1
#define ACPIPM_DISABLE     0xf0
#define ACPIPM_SLP_TYP_S5  5
#define ACPIPM_RESET_PORT  0xcf9
#define ACPIPM_RESET_VALUE 0x06
#define ACPIPM_TIMER_HZ    3579545

/* 0 or -errno (logged). */
int acpipm_create(struct acpipm **out, const struct dev_env *env, const struct acpipm_config *cfg);

/* The user pressed the power button. False: the guest does not listen (not in ACPI mode, or
 * the button's event is not enabled); the press is remembered in PM1_STS all the same. */
bool acpipm_power_button(struct acpipm *a);

/* Raise a general-purpose event, 0..31. */
void acpipm_gpe(struct acpipm *a, unsigned gpe);

/* The register at 0xcf9, for a PCI host bridge that owns the ports around it. */
u8 acpipm_reset_control_read(const struct acpipm *a);
void acpipm_reset_control(struct acpipm *a, u8 val);
