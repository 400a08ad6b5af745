/* SPDX-License-Identifier: MIT */
/* pvpanic: one I/O port by which a guest's kernel says that it panicked. A guest finds it by the
 * ACPI device QEMU0001, whose _CRS is this port. Linux has the driver as a module (pvpanic-mmio,
 * which also drives the port); without it a panic looks like any hang or reset.
 *
 * The interface: QEMU, docs/specs/pvpanic.txt. All with the machine lock held. */
#pragma once

#include "bus/dev.h"

#define PVPANIC_PORT 0x505

#define PVPANIC_PANICKED    (1 << 0)
#define PVPANIC_CRASHLOADED (1 << 1) /* a panic that a crash kernel will handle */

/* `panicked` is called once for each event that the guest reports. 0 or -errno. */
struct pvpanic_config {
	void (*panicked)(void *arg);
	void *arg;
};
int pvpanic_create(const struct dev_env *env, const struct pvpanic_config *cfg);
