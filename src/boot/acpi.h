/* SPDX-License-Identifier: MIT */
/* ACPI tables of the `pc` machine: RSDP, RSDT, XSDT, FADT, FACS, MADT, DSDT, in 64 KiB that the
 * memory map says are reserved. Set-up and reset only. */
#pragma once

#include "base/types.h"
#include "boot/boot.h"

struct pmap;

/* Write the tables at `base`, below 4 GiB, a multiple of 16; the RSDP comes first. `nr_cpus` is 1
 * to BOOT_MAX_CPUS. 0 or -errno (logged). */
int acpi_put_tables(struct pmap *pmap, const struct boot_platform *pf, unsigned nr_cpus, gpa_t base,
                    gpa_t *rsdp);
