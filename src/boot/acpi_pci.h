/* SPDX-License-Identifier: MIT */
/* The PCI host bridge in the DSDT. Set-up and reset only. */
#pragma once

#include "boot/aml.h"
#include "boot/boot.h"

/* Inside \_SB: PCI0 with its windows, its interrupt routing and _OSC, and the device that reserves
 * the configuration space. */
void acpi_pci_devices(struct aml *a, const struct boot_pci *pci);
