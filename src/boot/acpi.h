/* SPDX-License-Identifier: MIT */
/* ACPI tables of the `pc` machine: RSDP, RSDT, XSDT, FADT, FACS, MADT, DSDT, all between 0xf0000
 * and 0x100000, which the memory map says is reserved. Set-up and reset only. */
#pragma once

#include "base/types.h"
#include "boot/boot.h"

struct pmap;

/* Write the tables. `nr_cpus` is 1 to BOOT_MAX_CPUS. 0 or -errno (logged). */
int acpi_put_tables(struct pmap *pmap, const struct boot_platform *pf, unsigned nr_cpus,
                    gpa_t *rsdp);
