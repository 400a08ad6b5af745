// SPDX-License-Identifier: MIT
/* The ACPI tables: ACPI 6.5, sections 5.2 (tables) and 20 (AML, see aml.c).
 *
 * The machine is a PC without an 8042 and without a display: the FADT says so, so that the guest's
 * kernel does not look for them. PCI is there if the platform says so (acpi_pci.c). The legacy
 * interrupt controllers, timer, RTC and serial port are there. It is always in ACPI mode (SMI_CMD
 * is 0; SCI_EN reads as one). */
#include "boot/acpi.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "boot/acpi_pci.h"
#include "boot/aml.h"
#include "boot/image.h"
#include "mem/pmap.h"

#define LOCAL_APIC_BASE 0xfee00000u
#define IO_APIC_BASE    0xfec00000u
#define CMOS_CENTURY    0x32

struct acpi_rsdp {
	char signature[8];
	u8 checksum; /* of the first 20 bytes */
	char oem_id[6];
	u8 revision;
	u32 rsdt_address;
	u32 length;
	u64 xsdt_address;
	u8 extended_checksum;
	u8 reserved[3];
} __attribute__((packed));

struct acpi_header {
	char signature[4];
	u32 length;
	u8 revision;
	u8 checksum;
	char oem_id[6];
	char oem_table_id[8];
	u32 oem_revision;
	char creator_id[4];
	u32 creator_revision;
} __attribute__((packed));

/* Generic address structure, 5.2.3.2. */
struct acpi_gas {
	u8 space_id; /* 1: system I/O */
	u8 bit_width, bit_offset;
	u8 access_size; /* 1 byte, 2 word, 3 dword */
	u64 address;
} __attribute__((packed));

/* Revision 6, 5.2.9. */
struct acpi_fadt {
	struct acpi_header header;
	u32 firmware_ctrl, dsdt;
	u8 reserved, preferred_pm_profile;
	u16 sci_int;
	u32 smi_cmd;
	u8 acpi_enable, acpi_disable, s4bios_req, pstate_cnt;
	u32 pm1a_evt_blk, pm1b_evt_blk, pm1a_cnt_blk, pm1b_cnt_blk;
	u32 pm2_cnt_blk, pm_tmr_blk, gpe0_blk, gpe1_blk;
	u8 pm1_evt_len, pm1_cnt_len, pm2_cnt_len, pm_tmr_len;
	u8 gpe0_blk_len, gpe1_blk_len, gpe1_base, cst_cnt;
	u16 p_lvl2_lat, p_lvl3_lat, flush_size, flush_stride;
	u8 duty_offset, duty_width, day_alrm, mon_alrm, century;
	u16 iapc_boot_arch;
	u8 reserved2;
	u32 flags;
	struct acpi_gas reset_reg;
	u8 reset_value;
	u16 arm_boot_arch;
	u8 minor_version;
	u64 x_firmware_ctrl, x_dsdt;
	struct acpi_gas x_pm1a_evt_blk, x_pm1b_evt_blk, x_pm1a_cnt_blk, x_pm1b_cnt_blk;
	struct acpi_gas x_pm2_cnt_blk, x_pm_tmr_blk, x_gpe0_blk, x_gpe1_blk;
	struct acpi_gas sleep_control_reg, sleep_status_reg;
	char hypervisor_vendor_id[8];
} __attribute__((packed));

/* FADT flags, table 5.10. PWR_BUTTON and SLP_BUTTON clear mean fixed hardware. */
#define FADT_WBINVD        BIT(0)
#define FADT_PROC_C1       BIT(2)
#define FADT_SLP_BUTTON    BIT(5)
#define FADT_FIX_RTC       BIT(6)
#define FADT_TMR_VAL_EXT   BIT(8)
#define FADT_RESET_REG_SUP BIT(10)

/* IAPC_BOOT_ARCH, table 5.11. 8042 and "CMOS RTC not present" are clear. */
#define BOOT_LEGACY_DEVICES  BIT(0)
#define BOOT_VGA_NOT_PRESENT BIT(2)

struct acpi_facs {
	char signature[4];
	u32 length;
	u32 hardware_signature;
	u32 firmware_waking_vector;
	u32 global_lock;
	u32 flags;
	u64 x_firmware_waking_vector;
	u8 version;
	u8 reserved[31];
} __attribute__((packed));

struct madt_header {
	struct acpi_header header;
	u32 local_apic_address;
	u32 flags; /* bit 0, PCAT_COMPAT: there are 8259s, too */
} __attribute__((packed));

struct madt_local_apic {
	u8 type, length;
	u8 processor_uid, apic_id;
	u32 flags;
} __attribute__((packed));

struct madt_io_apic {
	u8 type, length;
	u8 id, reserved;
	u32 address, gsi_base;
} __attribute__((packed));

struct madt_override {
	u8 type, length;
	u8 bus, source;
	u32 gsi;
	u16 flags;
} __attribute__((packed));

struct madt_local_nmi {
	u8 type, length;
	u8 processor_uid;
	u16 flags;
	u8 lint;
} __attribute__((packed));

/* MPS INTI flags, table 5.26. */
#define INTI_ACTIVE_HIGH 0x1
#define INTI_LEVEL       0xc

/* The area under construction. Tables start at multiples of 64, as the FACS must. */
struct area {
	u8 *buf;
	u32 len;
	gpa_t base;
	u32 size;
};

static u8 checksum(const void *bytes, size_t n)
{
	const u8 *b = bytes;
	u8 sum = 0;

	for (size_t i = 0; i < n; i++)
		sum = (u8)(sum + b[i]);
	return (u8)-sum;
}

static void header_fill(struct acpi_header *h, const char *signature, u8 revision, u32 length)
{
	memcpy(h->signature, signature, 4);
	h->length = length;
	h->revision = revision;
	memcpy(h->oem_id, "RINGER", 6);
	memcpy(h->oem_table_id, "RINGERPC", 8);
	h->oem_revision = 1;
	memcpy(h->creator_id, "RNGR", 4);
	h->creator_revision = 1;
	h->checksum = 0;
	h->checksum = checksum(h, length);
}

/* Append bytes at the next multiple of 64; their address, or 0 when the area is full. */
static u32 area_put(struct area *a, const void *bytes, u32 n)
{
	u32 at = ALIGN_UP(a->len, 64u);

	if (n > a->size || at > a->size - n)
		return 0;
	memcpy(a->buf + at, bytes, n);
	a->len = at + n;
	return (u32)a->base + at;
}

static void device_open(struct aml *a, const char *name, const char *hid)
{
	aml_device(a, name);
	aml_name(a, "_HID");
	aml_eisaid(a, hid);
}

static u32 put_dsdt(struct area *area, const struct boot_platform *pf, unsigned nr_cpus)
{
	u8 table[0x4000] = {0};
	struct aml aml, *a = &aml;
	u32 length;

	aml_init(a, table + sizeof(struct acpi_header), sizeof(table) - sizeof(struct acpi_header));

	/* 7.4.2: SLP_TYP for PM1a, for PM1b, and two reserved ones. */
	aml_name(a, "\\_S5");
	aml_package(a, 4);
	aml_integer(a, pf->s5_type);
	aml_integer(a, pf->s5_type);
	aml_integer(a, 0);
	aml_integer(a, 0);
	aml_close(a);

	aml_scope(a, "\\_SB");

	device_open(a, "RTC", "PNP0B00");
	aml_crs_open(a);
	aml_crs_io(a, 0x70, 2);
	aml_crs_irq(a, 8);
	aml_crs_close(a);
	aml_close(a);

	device_open(a, "COM1", "PNP0501");
	aml_name(a, "_UID");
	aml_integer(a, 1);
	aml_crs_open(a);
	aml_crs_io(a, 0x3f8, 8);
	aml_crs_irq(a, 4);
	aml_crs_close(a);
	aml_close(a);

	if (pf->pvpanic_port) {
		aml_device(a, "PEVT");
		aml_name(a, "_HID");
		aml_string(a, "QEMU0001"); /* the id by which drivers know pvpanic */
		aml_crs_open(a);
		aml_crs_io(a, pf->pvpanic_port, 1);
		aml_crs_close(a);
		aml_close(a);
	}

	if (pf->pci.ecam)
		acpi_pci_devices(a, &pf->pci);

	/* 8.4: processor devices; _UID is what the MADT calls the processor's UID. */
	for (unsigned i = 0; i < nr_cpus; i++) {
		static const char digit[] = "0123456789ABCDEF";
		char name[] = {'C', 'P', digit[i >> 4 & 0xf], digit[i & 0xf], 0};

		aml_device(a, name);
		aml_name(a, "_HID");
		aml_string(a, "ACPI0007");
		aml_name(a, "_UID");
		aml_integer(a, i);
		aml_close(a);
	}
	aml_close(a);

	if (!aml_ok(a))
		return 0;
	length = (u32)(sizeof(struct acpi_header) + a->len);
	/* Revision 2: integers of 64 bits. */
	header_fill((struct acpi_header *)table, "DSDT", 2, length);
	return area_put(area, table, length);
}

static struct acpi_gas gas_io(u16 port, u8 bytes)
{
	return (struct acpi_gas){
		.space_id = 1,
		.bit_width = (u8)(bytes * 8),
		.access_size = bytes == 1   ? 1
	                       : bytes == 2 ? 2
	                                    : 3,
		.address = port,
	};
}

static u32 put_fadt(struct area *area, const struct boot_platform *pf, u32 facs, u32 dsdt)
{
	struct acpi_fadt f = {
		.firmware_ctrl = facs, /* and not x_firmware_ctrl: exactly one of them */
		.dsdt = dsdt,
		.x_dsdt = dsdt,
		.sci_int = pf->sci_irq,
		.smi_cmd = pf->smi_cmd,
		.acpi_enable = pf->acpi_enable,
		.acpi_disable = pf->acpi_disable,
		.pm1a_evt_blk = pf->pm_base,
		.pm1a_cnt_blk = pf->pm_base + 4u,
		.pm_tmr_blk = pf->pm_base + 8u,
		.gpe0_blk = pf->gpe0_base,
		.pm1_evt_len = 4,
		.pm1_cnt_len = 2,
		.pm_tmr_len = 4,
		.gpe0_blk_len = pf->gpe0_len,
		.p_lvl2_lat = 0xfff, /* over 100 and 1000: no C2 and C3 */
		.p_lvl3_lat = 0xfff,
		.century = CMOS_CENTURY,
		.iapc_boot_arch = BOOT_LEGACY_DEVICES | BOOT_VGA_NOT_PRESENT,
		.flags = FADT_WBINVD | FADT_PROC_C1 | FADT_SLP_BUTTON | FADT_FIX_RTC |
	                 FADT_RESET_REG_SUP,
		.reset_reg = gas_io(pf->reset_port, 1),
		.reset_value = pf->reset_value,
		.minor_version = 3,
		.x_pm1a_evt_blk = gas_io(pf->pm_base, 4),
		.x_pm1a_cnt_blk = gas_io((u16)(pf->pm_base + 4), 2),
		.x_pm_tmr_blk = gas_io((u16)(pf->pm_base + 8), 4),
		.x_gpe0_blk = gas_io(pf->gpe0_base, pf->gpe0_len),
		.hypervisor_vendor_id = "RINGER",
	};

	_Static_assert(sizeof(struct acpi_fadt) == 276, "FADT of revision 6");
	f.x_pm1a_evt_blk.access_size = 2; /* two registers of two bytes */
	f.x_gpe0_blk.access_size = 1;
	if (pf->pm_timer_32)
		f.flags |= FADT_TMR_VAL_EXT;
	header_fill(&f.header, "FACP", 6, sizeof(f));
	return area_put(area, &f, sizeof(f));
}

static u32 put_facs(struct area *area)
{
	struct acpi_facs f = {.signature = {'F', 'A', 'C', 'S'}, .length = 64, .version = 2};

	_Static_assert(sizeof(f) == 64, "FACS");
	return area_put(area, &f, sizeof(f));
}

static u32 put_madt(struct area *area, const struct boot_platform *pf, unsigned nr_cpus)
{
	struct {
		struct madt_header head;
		u8 entries[BOOT_MAX_CPUS * sizeof(struct madt_local_apic) + 64];
	} __attribute__((packed)) m = {
		.head = {.local_apic_address = LOCAL_APIC_BASE, .flags = 1},
	};
	u8 *p = m.entries;
	struct madt_io_apic io = {.type = 1, .length = sizeof(io), .address = IO_APIC_BASE};
	/* ISA interrupt 0 is wired to input 2; the SCI is level-triggered and active high. */
	struct madt_override timer = {.type = 2, .length = sizeof(timer), .source = 0, .gsi = 2};
	struct madt_override sci = {
		.type = 2,
		.length = sizeof(sci),
		.source = pf->sci_irq,
		.gsi = pf->sci_irq,
		.flags = INTI_ACTIVE_HIGH | INTI_LEVEL,
	};
	struct madt_local_nmi nmi = {
		.type = 4,
		.length = sizeof(nmi),
		.processor_uid = 0xff, /* all */
		.lint = 1,
	};

	_Static_assert(sizeof(io) + sizeof(timer) + sizeof(sci) + sizeof(nmi) <= 64, "MADT");
	for (unsigned i = 0; i < nr_cpus; i++) {
		struct madt_local_apic cpu = {
			.type = 0,
			.length = sizeof(cpu),
			.processor_uid = (u8)i,
			.apic_id = (u8)i,
			.flags = 1, /* enabled */
		};

		memcpy(p, &cpu, sizeof(cpu));
		p += sizeof(cpu);
	}
	memcpy(p, &io, sizeof(io));
	p += sizeof(io);
	memcpy(p, &timer, sizeof(timer));
	p += sizeof(timer);
	memcpy(p, &sci, sizeof(sci));
	p += sizeof(sci);
	memcpy(p, &nmi, sizeof(nmi));
	p += sizeof(nmi);
	header_fill(&m.head.header, "APIC", 5, (u32)(p - (u8 *)&m));
	return area_put(area, &m, m.head.header.length);
}

static u32 put_mcfg(struct area *area, const struct boot_pci *pci)
{
	/* PCI Firmware 3.2, 4.1.2: one segment. */
	struct {
		struct acpi_header header;
		u8 reserved[8];
		u64 base;
		u16 segment;
		u8 start_bus, end_bus;
		u8 reserved2[4];
	} __attribute__((packed)) m = {.base = pci->ecam, .end_bus = 255};

	header_fill(&m.header, "MCFG", 1, sizeof(m));
	return area_put(area, &m, sizeof(m));
}

/* The two lists of tables: RSDT with 32-bit addresses, XSDT with 64-bit ones. */
static u32 put_list(struct area *area, const u32 *tables, unsigned n, unsigned width)
{
	u8 list[sizeof(struct acpi_header) + 8 * 8] = {0};
	u32 length = (u32)(sizeof(struct acpi_header) + (size_t)n * width);

	for (unsigned i = 0; i < n; i++)
		put_le32(list + sizeof(struct acpi_header) + (size_t)i * width, tables[i]);
	header_fill((struct acpi_header *)list, width == 8 ? "XSDT" : "RSDT", 1, length);
	return area_put(area, list, length);
}

int acpi_put_tables(struct pmap *pmap, const struct boot_platform *pf, unsigned nr_cpus, gpa_t base,
                    gpa_t *rsdp)
{
	struct area area = {.base = base, .size = ACPI_END - ACPI_START};
	struct acpi_rsdp r = {.signature = "RSD PTR ", .revision = 2, .length = sizeof(r)};
	u32 tables[3], facs, dsdt;
	unsigned nr = 2;
	bool ok;
	int err = -ENOMEM;

	area.buf = calloc(1, area.size);
	if (!area.buf) {
		log_error("no memory for the ACPI tables; free some on the host");
		return err;
	}
	_Static_assert(sizeof(r) == 36, "RSDP");
	area.len = sizeof(r); /* the RSDP itself comes first, on a 16-byte boundary */
	facs = put_facs(&area);
	dsdt = put_dsdt(&area, pf, nr_cpus);
	tables[0] = put_fadt(&area, pf, facs, dsdt);
	tables[1] = put_madt(&area, pf, nr_cpus);
	if (pf->pci.ecam)
		tables[nr++] = put_mcfg(&area, &pf->pci);
	r.rsdt_address = put_list(&area, tables, nr, 4);
	r.xsdt_address = put_list(&area, tables, nr, 8);
	ok = facs && dsdt && r.rsdt_address && r.xsdt_address;
	for (unsigned i = 0; i < nr; i++)
		ok &= tables[i] != 0;
	if (!ok)
		bug("ACPI tables do not fit");
	memcpy(r.oem_id, "RINGER", 6);
	r.checksum = checksum(&r, 20);
	r.extended_checksum = checksum(&r, sizeof(r));
	memcpy(area.buf, &r, sizeof(r));

	*rsdp = base;
	err = pmap_write(pmap, base, area.buf, area.size);
	free(area.buf);
	return err;
}
