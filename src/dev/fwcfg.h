/* SPDX-License-Identifier: MIT */
/* QEMU's firmware configuration device (docs/specs/fw_cfg): selector 0x510, data 0x511, DMA 0x514.
 * The ACPI device, if the DSDT has it, is QEMU0002 with the ports FWCFG_PORT, FWCFG_LEN.
 * Threading: the machine lock; items are added at set-up. */
#pragma once

#include "bus/dev.h"

struct fwcfg;

struct fwcfg_config {
	unsigned nr_vcpus, max_vcpus; /* max 0: as nr */
};

#define FWCFG_PORT 0x510
#define FWCFG_LEN  12

enum fwcfg_key {
	FWCFG_SIGNATURE = 0x00,
	FWCFG_ID = 0x01,
	FWCFG_UUID = 0x02,
	FWCFG_RAM_SIZE = 0x03,
	FWCFG_NOGRAPHIC = 0x04,
	FWCFG_NB_CPUS = 0x05,
	FWCFG_KERNEL_ADDR = 0x07,
	FWCFG_KERNEL_SIZE = 0x08,
	FWCFG_KERNEL_CMDLINE = 0x09,
	FWCFG_INITRD_ADDR = 0x0a,
	FWCFG_INITRD_SIZE = 0x0b,
	FWCFG_BOOT_DEVICE = 0x0c,
	FWCFG_NUMA = 0x0d,
	FWCFG_BOOT_MENU = 0x0e,
	FWCFG_MAX_CPUS = 0x0f,
	FWCFG_KERNEL_ENTRY = 0x10,
	FWCFG_KERNEL_DATA = 0x11,
	FWCFG_INITRD_DATA = 0x12,
	FWCFG_CMDLINE_ADDR = 0x13,
	FWCFG_CMDLINE_SIZE = 0x14,
	FWCFG_CMDLINE_DATA = 0x15,
	FWCFG_SETUP_ADDR = 0x16,
	FWCFG_SETUP_SIZE = 0x17,
	FWCFG_SETUP_DATA = 0x18,
	FWCFG_FILE_DIR = 0x19,
	FWCFG_FILE_FIRST = 0x20,
	FWCFG_ARCH = 0x8000, /* x86's own */
	FWCFG_ACPI_TABLES = FWCFG_ARCH + 0,
	FWCFG_SMBIOS_ENTRIES = FWCFG_ARCH + 1,
	FWCFG_IRQ0_OVERRIDE = FWCFG_ARCH + 2,
};

#define FWCFG_MAX_FILES 64
#define FWCFG_NAME_SIZE 56 /* with the terminating 0 */

/* The numeric items every machine has (signature, id, RAM size, CPU counts) are made here. 0 or
 * -errno (logged). */
int fwcfg_create(struct fwcfg **out, const struct dev_env *env, const struct fwcfg_config *cfg);

/* Items; the data is copied. An item that exists is replaced. 0, -EINVAL (no such key, logged),
 * -ENOMEM.
 */
int fwcfg_add_bytes(struct fwcfg *f, u16 key, const void *data, u32 len);
int fwcfg_add_u16(struct fwcfg *f, u16 key, u16 val);
int fwcfg_add_u32(struct fwcfg *f, u16 key, u32 val);
int fwcfg_add_u64(struct fwcfg *f, u16 key, u64 val);
/* The same without a copy, for kernels: `data` is borrowed and outlives the device. */
int fwcfg_add_ref(struct fwcfg *f, u16 key, const void *data, u32 len);

/* A named file; the data is copied. 0, -EINVAL (name too long or empty), -EEXIST, -ENOSPC, -ENOMEM
 * (logged). */
int fwcfg_add_file(struct fwcfg *f, const char *name, const void *data, u32 len);
