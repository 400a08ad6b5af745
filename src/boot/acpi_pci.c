// SPDX-License-Identifier: MIT
/* PCI Firmware 3.2 sections 4.1 (ECAM) and 4.5 (_OSC); ACPI 6.5 sections 6.2.13 (_PRT) and 6.4. */
#include "boot/acpi_pci.h"

#define NR_SLOTS 32
#define NR_PINS  4

enum { RETURN_OP = 0xa4, IF_OP = 0xa0, BUFFER_OP = 0x11 };

/* Interrupts without links: each pin of each device has a fixed global interrupt. */
static void put_prt(struct aml *a, const struct boot_pci *pci)
{
	aml_name(a, "_PRT");
	aml_package(a, NR_SLOTS * NR_PINS);
	for (unsigned slot = 0; slot < NR_SLOTS; slot++) {
		for (unsigned pin = 0; pin < NR_PINS; pin++) {
			aml_package(a, 4);
			aml_integer(a, slot << 16 | 0xffff); /* all functions */
			aml_integer(a, pin);
			aml_integer(a, 0);
			aml_integer(a, pci->gsi_base + (slot + pin) % pci->nr_gsis);
			aml_close(a);
		}
	}
	aml_close(a);
}

/* The operating system may control what it asks for: there is nothing that firmware does. For
 * another interface's UUID: bit 2 of the first word, "unrecognized". */
static void put_osc(struct aml *a)
{
	/* 33db4d5b-1ff7-401c-9657-7441c03dd766 */
	static const u8 not_pci[] = {0x92 /* not */, 0x93 /* equal */, 0x68 /* Arg0 */};
	static const u8 uuid[] = {0x0a, 16,   0x5b, 0x4d, 0xdb, 0x33, 0xf7, 0x1f, 0x1c,
	                          0x40, 0x96, 0x57, 0x74, 0x41, 0xc0, 0x3d, 0xd7, 0x66};
	/* CreateDWordField (Arg3, 0, CDW1); Or (CDW1, 4, CDW1) */
	static const u8 refuse[] = {0x8a, 0x6b, 0x00, 'C',  'D',  'W', '1', 0x7d, 'C',
	                            'D',  'W',  '1',  0x0a, 0x04, 'C', 'D', 'W',  '1'};
	static const u8 give[] = {RETURN_OP, 0x6b /* Arg3 */};

	aml_method(a, "_OSC", 4);
	aml_open(a, IF_OP);
	aml_bytes(a, not_pci, sizeof(not_pci));
	aml_open(a, BUFFER_OP);
	aml_bytes(a, uuid, sizeof(uuid));
	aml_close(a);
	aml_bytes(a, refuse, sizeof(refuse));
	aml_close(a);
	aml_bytes(a, give, sizeof(give));
	aml_close(a);
}

void acpi_pci_devices(struct aml *a, const struct boot_pci *pci)
{
	aml_device(a, "PCI0");
	aml_name(a, "_HID");
	aml_eisaid(a, "PNP0A08"); /* PCI Express */
	aml_name(a, "_CID");
	aml_eisaid(a, "PNP0A03"); /* PCI */
	aml_name(a, "_UID");
	aml_integer(a, 0);
	aml_name(a, "_SEG");
	aml_integer(a, 0);
	aml_name(a, "_BBN");
	aml_integer(a, 0);
	aml_crs_open(a);
	aml_crs_bus(a, 0, 255);
	aml_crs_io(a, 0xcf8, 8);
	aml_crs_io_window(a, 0, 0xcf7);
	aml_crs_io_window(a, 0xd00, 0xffff);
	for (unsigned i = 0; i < ARRAY_SIZE(pci->mem); i++)
		if (pci->mem[i].len)
			aml_crs_memory_window(a, pci->mem[i].base, pci->mem[i].len);
	if (pci->mem64.len)
		aml_crs_memory_window(a, pci->mem64.base, pci->mem64.len);
	aml_crs_close(a);
	put_prt(a, pci);
	put_osc(a);
	aml_close(a);

	/* Configuration space is no device's memory: a motherboard resource. */
	aml_device(a, "ECAM");
	aml_name(a, "_HID");
	aml_eisaid(a, "PNP0C02");
	aml_crs_open(a);
	aml_crs_memory(a, (u32)pci->ecam, BOOT_ECAM_LEN);
	aml_crs_close(a);
	aml_close(a);
}
