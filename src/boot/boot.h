/* SPDX-License-Identifier: MIT */
/* Booting: a kernel file, an initrd and a command line become bytes in guest memory and the state
 *in which the first CPU starts. Three protocols, chosen by what the kernel file is:
 *
 *	bzImage		Linux/x86 boot protocol 2.12 or later, its 64-bit entry
 *	ELF with the	PVH (Xen's "x86/HVM direct boot ABI"): 32-bit protected mode, paging off
 *	PHYS32_ENTRY note
 *	multiboot 1	32-bit protected mode, paging off
 *
 * boot_image_open() reads the files; boot_image_load() can run again at every machine reset and
 * puts everything it relies on into guest memory anew. Between two loads the files' bytes take no
 * memory: they are read again from the open files, which must not have changed (-ESTALE). The bytes
 *of the files are as hostile as a guest. Here nothing knows a CPU: struct boot_state is plain data
 *that the machine applies to one.
 *
 * Threading: none; set-up and reset only. Each error is logged here, in one line. */
#pragma once

#include "base/types.h"

struct boot_image;
struct pmap;

#define BOOT_MAX_CPUS 64

/* Where a BIOS puts the vectors of the two 8259s; the machine programs them so. */
#define BOOT_PIC_MASTER 0x08
#define BOOT_PIC_SLAVE  0x70

#define BOOT_ECAM_LEN (256 * MiB)

/* A PCI host bridge with one bus. */
struct boot_pci {
	gpa_t ecam; /* configuration space of 256 buses, 256 MiB; 0: no PCI */
	struct {
		gpa_t base;
		u64 len; /* 0: none */
	} mem[2], mem64; /* windows for BARs: below 4 GiB, above */
	u8 gsi_base;     /* INTx of device d, pin p (0 for A): gsi_base + (d + p) % nr_gsis */
	u8 nr_gsis;
};

/* What the firmware tables say of the machine; the machine makes its devices from the same values.
 */
struct boot_platform {
	u16 pm_base;      /* PM1a event block (4 bytes), at +4 control (2), at +8 the timer (4) */
	bool pm_timer_32; /* the timer counts in 32 bits, else in 24 */
	u16 gpe0_base;    /* status, then enable, half of gpe0_len bytes each */
	u8 gpe0_len;
	u8 sci_irq;  /* the ISA interrupt of ACPI events; level, active high */
	u16 smi_cmd; /* 0: always in ACPI mode; else the port that takes the next two */
	u8 acpi_enable, acpi_disable;
	u8 s5_type;     /* SLP_TYP of soft off, 0 to 7 */
	u16 reset_port; /* the reset register, and what is written to it */
	u8 reset_value;
	u16 pvpanic_port; /* 0: there is none */
	struct boot_pci pci;
};

extern const struct boot_platform boot_platform_pc;

struct boot_config {
	const char *kernel;                   /* path; not used when there is firmware */
	const char *firmware;                 /* path of a BIOS image, or NULL */
	const char *initrd;                   /* path, or NULL */
	const char *cmdline;                  /* or NULL */
	unsigned nr_cpus;                     /* 1 to BOOT_MAX_CPUS; APIC ids 0 to nr_cpus - 1 */
	const struct boot_platform *platform; /* NULL: boot_platform_pc */
};

enum boot_mode {
	BOOT_LONG64, /* 64-bit mode: flat segments, paging on with an identity map */
	BOOT_PROT32, /* 32-bit protected mode: flat 4 GiB segments, paging off */
	BOOT_REAL16, /* as after INIT, but for CS:IP */
};

/* The state of the first CPU; what is not named here is as after INIT, interrupts off. The other
 * CPUs wait for INIT/SIPI. CS is loaded from the descriptor `cs`, DS, ES, SS, FS and GS from `ds`;
 * both descriptors are in the GDT in guest memory and are what is said at the mode. TR is a 32-bit
 * TSS of limit 0x67 at 0, busy. */
struct boot_state {
	enum boot_mode mode;
	const char *protocol; /* for people: "bzImage", "PVH", "multiboot" */
	u64 rip, rsp;
	u64 rax, rbx, rsi;
	u64 rflags;
	u64 cr0, cr3, cr4, efer;
	gpa_t gdt_base;
	u16 gdt_limit;
	u16 cs, ds;
	gpa_t rsdp; /* of the ACPI tables */
	gpa_t kernel_start, kernel_end;
	gpa_t initrd_start;
	u64 initrd_size; /* 0: none */
};

/* Read and check the files. 0 or -errno, logged. */
int boot_image_open(struct boot_image **out, const struct boot_config *cfg);

/* The same with the files' bytes given; the paths then serve for messages only. */
int boot_image_from_memory(struct boot_image **out, const struct boot_config *cfg,
                           const void *kernel, u64 kernel_size, const void *initrd,
                           u64 initrd_size);

/* Put kernel, initrd, command line and firmware tables into guest memory. 0 or -errno, logged:
 * -ENOSPC when the memory is too small. */
int boot_image_load(struct boot_image *img, struct pmap *pmap, struct boot_state *out);

/* What firmware reads from fw_cfg, given to `add` file by file; none without firmware. The image
 * was loaded. 0 or what `add` returned. */
int boot_firmware_files(const struct boot_image *img, const struct pmap *pmap,
                        int (*add)(void *arg, const char *name, const void *data, u32 len),
                        void *arg);

void boot_image_close(struct boot_image *img);

/* Open, load, close. */
int boot_load(const struct boot_config *cfg, struct pmap *pmap, struct boot_state *out);
