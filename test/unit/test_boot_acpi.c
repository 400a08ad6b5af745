// SPDX-License-Identifier: MIT
/* The tables as a guest finds them: scan for the RSDP, follow the pointers, add up the checksums,
 * walk the MADT, and the AML by a parser of its own; and iasl's opinion where it is installed. */
#include "boot_test.h"

#include <sys/wait.h>

#include "boot/acpi.h"
#include "boot/aml.h"

struct tables {
	struct pmap *pmap;
	gpa_t rsdp;
	const u8 *facp, *apic, *dsdt, *facs;
	const u8 *mcfg; /* NULL without PCI */
};

static const u8 *ram(const struct tables *t, gpa_t gpa, u64 len)
{
	const u8 *p = pmap_ptr(t->pmap, gpa, len);

	if (!p || gpa < 0xf0000 || gpa + len > 0x100000)
		fail_msg("%llx is outside the reserved area", (unsigned long long)gpa);
	return p;
}

static u8 sum(const u8 *p, u64 n)
{
	u8 s = 0;

	for (u64 i = 0; i < n; i++)
		s = (u8)(s + p[i]);
	return s;
}

static const u8 *table(const struct tables *t, gpa_t gpa, const char *signature)
{
	const u8 *p = ram(t, gpa, 36);

	assert_memory_equal(p, signature, 4);
	p = ram(t, gpa, get_le32(p + 4));
	assert_int_equal(sum(p, get_le32(p + 4)), 0);
	assert_memory_equal(p + 10, "RINGERRINGERPC", 14);
	return p;
}

static void make(struct tables *t, unsigned nr_cpus, const struct boot_platform *pf)
{
	unsigned nr = pf->pci.ecam ? 3 : 2;
	const u8 *r, *xsdt, *rsdt;
	gpa_t found = 0;

	assert_int_equal(pmap_create(&t->pmap, 2 * MiB), 0);
	memset(t->pmap->hva, 0xa5, 0xa0000);
	memset(t->pmap->hva + 0xc0000, 0xa5, 0x40000);
	assert_int_equal(acpi_put_tables(t->pmap, pf, nr_cpus, 0xf0000, &t->rsdp), 0);

	/* 5.2.5.1: on a 16-byte boundary between 0xe0000 and 0x100000. */
	for (gpa_t gpa = 0xe0000; gpa < 0x100000 && !found; gpa += 16)
		if (!memcmp(pmap_ptr(t->pmap, gpa, 8), "RSD PTR ", 8))
			found = gpa;
	assert_int_equal(found, t->rsdp);
	r = ram(t, found, 36);
	assert_int_equal(sum(r, 20), 0);
	assert_int_equal(sum(r, 36), 0);
	assert_int_equal(r[15], 2);
	assert_int_equal(get_le32(r + 20), 36);

	xsdt = table(t, get_le64(r + 24), "XSDT");
	rsdt = table(t, get_le32(r + 16), "RSDT");
	assert_int_equal(get_le32(xsdt + 4), 36 + nr * 8);
	assert_int_equal(get_le32(rsdt + 4), 36 + nr * 4);
	for (unsigned i = 0; i < nr; i++)
		assert_int_equal(get_le64(xsdt + 36 + i * 8), get_le32(rsdt + 36 + i * 4));
	t->facp = table(t, get_le64(xsdt + 36), "FACP");
	t->apic = table(t, get_le64(xsdt + 44), "APIC");
	t->dsdt = table(t, get_le64(t->facp + 140), "DSDT");
	t->facs = ram(t, get_le32(t->facp + 36), 64);
	t->mcfg = nr > 2 ? table(t, get_le64(xsdt + 52), "MCFG") : NULL;
}

static void done(struct tables *t)
{
	pmap_destroy(t->pmap);
}

static void check_gas(const u8 *g, u8 bits, u8 access, u16 port)
{
	assert_int_equal(g[0], port ? 1 : 0); /* system I/O */
	assert_int_equal(g[1], bits);
	assert_int_equal(g[2], 0);
	assert_int_equal(g[3], access);
	assert_int_equal(get_le64(g + 4), port);
}

/* Offsets of table 5.9. */
static void test_fadt(void **unused)
{
	struct tables t;

	make(&t, 1, &boot_platform_pc);
	assert_int_equal(get_le32(t.facp + 4), 276);
	assert_int_equal(t.facp[8], 6);
	assert_int_equal(get_le16(t.facp + 46), 9);           /* SCI_INT */
	assert_int_equal(get_le32(t.facp + 48), 0xb2);        /* SMI_CMD */
	assert_int_equal(t.facp[52], 0xf1);                   /* ACPI_ENABLE */
	assert_int_equal(t.facp[53], 0xf0);                   /* ACPI_DISABLE */
	assert_int_equal(get_le32(t.facp + 56), 0x600);       /* PM1a_EVT_BLK */
	assert_int_equal(get_le32(t.facp + 64), 0x604);       /* PM1a_CNT_BLK */
	assert_int_equal(get_le32(t.facp + 76), 0x608);       /* PM_TMR_BLK */
	assert_int_equal(get_le32(t.facp + 80), 0x620);       /* GPE0_BLK */
	assert_memory_equal(t.facp + 88, "\4\2\0\4\10\0", 6); /* their lengths */
	assert_int_equal(t.facp[108], 0x32);                  /* CENTURY */
	assert_int_equal(get_le16(t.facp + 109), 0x5);        /* legacy devices, no 8042, no VGA */
	/* WBINVD, PROC_C1, no sleep button, FIX_RTC, 32-bit timer, RESET_REG_SUP; the fixed
	 * power button is bit 4 clear. */
	assert_int_equal(get_le32(t.facp + 112), 0x565);
	check_gas(t.facp + 116, 8, 1, 0xcf9);
	assert_int_equal(t.facp[128], 6);
	/* The FACS by its 32-bit pointer, not by both. */
	assert_int_equal(get_le64(t.facp + 132), 0);
	assert_int_equal(get_le32(t.facp + 40), get_le64(t.facp + 140));
	check_gas(t.facp + 148, 32, 2, 0x600);
	check_gas(t.facp + 160, 0, 0, 0);
	check_gas(t.facp + 172, 16, 2, 0x604);
	check_gas(t.facp + 184, 0, 0, 0);
	check_gas(t.facp + 196, 0, 0, 0);
	check_gas(t.facp + 208, 32, 3, 0x608);
	check_gas(t.facp + 220, 64, 1, 0x620);

	assert_memory_equal(t.facs, "FACS", 4);
	assert_int_equal(get_le32(t.facs + 4), 64);
	assert_int_equal(get_le32(t.facp + 36) & 63, 0);
	assert_true(all_zero(t.facs + 8, 24)); /* waking vectors, lock, flags */
	done(&t);
}

static void test_platform(void **unused)
{
	struct boot_platform pf = boot_platform_pc;
	struct tables t;

	pf.pm_base = 0xb000;
	pf.pm_timer_32 = false;
	pf.sci_irq = 10;
	pf.smi_cmd = 0;
	pf.reset_port = 0x64;
	pf.reset_value = 0xfe;
	make(&t, 1, &pf);
	assert_int_equal(get_le16(t.facp + 46), 10);
	assert_int_equal(get_le32(t.facp + 48), 0);
	assert_int_equal(get_le32(t.facp + 76), 0xb008);
	assert_int_equal(get_le32(t.facp + 112), 0x465);
	check_gas(t.facp + 116, 8, 1, 0x64);
	assert_int_equal(t.facp[128], 0xfe);
	/* IOAPIC 12 bytes, the timer's override 10, then the SCI's. */
	assert_memory_equal(t.apic + 44 + 8 + 12 + 10, "\2\12\0\12\12\0\0\0\15\0", 10);
	done(&t);
}

static void test_madt(void **unused)
{
	static const unsigned cpus[] = {1, 2, 64};

	for (unsigned k = 0; k < ARRAY_SIZE(cpus); k++) {
		struct tables t;
		const u8 *p, *end;
		unsigned seen[16] = {0};

		make(&t, cpus[k], &boot_platform_pc);
		assert_int_equal(get_le32(t.apic + 36), 0xfee00000);
		assert_int_equal(get_le32(t.apic + 40), 1); /* PCAT_COMPAT */
		end = t.apic + get_le32(t.apic + 4);
		for (p = t.apic + 44; p < end; p += p[1]) {
			assert_true(p[1] >= 2 && p[1] <= end - p);
			assert_true(p[0] < 16);
			switch (p[0]) {
			case 0: /* local APIC: UID, id, enabled */
				assert_int_equal(p[1], 8);
				assert_int_equal(p[2], seen[0]);
				assert_int_equal(p[3], seen[0]);
				assert_int_equal(get_le32(p + 4), 1);
				break;
			case 1:
				assert_int_equal(p[1], 12);
				assert_int_equal(get_le32(p + 4), 0xfec00000);
				assert_int_equal(get_le32(p + 8), 0);
				break;
			case 2:
				assert_memory_equal(p,
				                    seen[2] ? "\2\12\0\11\11\0\0\0\15\0"
				                            : "\2\12\0\0\2\0\0\0\0\0",
				                    10);
				break;
			case 4: /* all processors, flags 0, LINT1 */
				assert_memory_equal(p, "\4\6\377\0\0\1", 6);
				break;
			default:
				fail_msg("MADT entry of type %u", p[0]);
			}
			seen[p[0]]++;
		}
		assert_ptr_equal(p, end);
		assert_int_equal(seen[0], cpus[k]);
		assert_int_equal(seen[1], 1);
		assert_int_equal(seen[2], 2);
		assert_int_equal(seen[4], 1);
		done(&t);
	}
}

/* A parser of the AML that the DSDT uses, independent of the writer. */
struct parser {
	const u8 *p, *end;
	unsigned devices, cpus, crs;
	u8 s5;
};

static u64 package_length(struct parser *a, const u8 **end)
{
	const u8 *start = a->p;
	unsigned more = *a->p >> 6;
	u64 length = more ? *a->p & 0xf : *a->p & 0x3f;

	a->p++;
	for (unsigned i = 0; i < more; i++)
		length |= (u64)*a->p++ << (4 + 8 * i);
	assert_true(length <= (u64)(a->end - start));
	*end = start + length;
	return length;
}

static u64 integer(struct parser *a)
{
	u64 v = 0;
	unsigned size;
	u8 op = *a->p++;

	if (op <= 1)
		return op;
	size = op == 0x0a ? 1 : op == 0x0b ? 2 : op == 0x0c ? 4 : 0;
	if (!size)
		fail_msg("AML opcode %02x is no integer", op);
	memcpy(&v, a->p, size);
	a->p += size;
	return v;
}

static void object(struct parser *a, const char *name)
{
	const u8 *end;
	u64 size;

	switch (*a->p) {
	case 0x12: /* package of integers */
		a->p++;
		package_length(a, &end);
		assert_int_equal(*a->p++, 4);
		a->s5 = (u8)integer(a);
		assert_int_equal(integer(a), a->s5);
		integer(a);
		integer(a);
		assert_ptr_equal(a->p, end);
		break;
	case 0x11: /* buffer: resources up to an end tag that ends it */
		a->p++;
		package_length(a, &end);
		size = integer(a);
		assert_int_equal(size, end - a->p);
		assert_string_equal(name, "_CRS");
		while (*a->p != 0x79) {
			assert_true(*a->p == 0x47 || *a->p == 0x22);
			a->p += 1 + (*a->p & 7);
			assert_true(a->p < end - 1);
		}
		a->p += 2;
		assert_ptr_equal(a->p, end);
		a->crs++;
		break;
	case 0x0d:
		a->cpus += !strcmp((const char *)a->p + 1, "ACPI0007");
		a->p += strlen((const char *)a->p) + 1;
		break;
	default:
		integer(a);
	}
}

static void term_list(struct parser *a, const u8 *end)
{
	while (a->p < end) {
		char name[5] = {0};
		const u8 *inner;
		u8 op = *a->p++;

		if (op == 0x5b)
			assert_int_equal(*a->p++, 0x82); /* device */
		else
			assert_true(op == 0x08 || op == 0x10); /* name, scope */
		if (op != 0x08)
			package_length(a, &inner);
		if (*a->p == '\\')
			a->p++;
		memcpy(name, a->p, 4);
		a->p += 4;
		for (unsigned i = 0; i < 4; i++)
			assert_non_null(strchr("ABCDEFGHIJKLMNOPQRSTUVWXYZ_0123456789", name[i]));
		if (op == 0x08) {
			object(a, name);
			continue;
		}
		a->devices += op == 0x5b;
		term_list(a, inner);
	}
	assert_ptr_equal(a->p, end);
}

static void test_dsdt(void **unused)
{
	static const unsigned cpus[] = {1, 3, 64};

	for (unsigned k = 0; k < ARRAY_SIZE(cpus); k++) {
		struct parser a = {0};
		struct tables t;

		make(&t, cpus[k], &boot_platform_pc);
		a.p = t.dsdt + 36;
		a.end = t.dsdt + get_le32(t.dsdt + 4);
		term_list(&a, a.end);
		assert_int_equal(a.s5, 5);
		assert_int_equal(a.cpus, cpus[k]);
		assert_int_equal(a.devices, cpus[k] + 3); /* RTC, COM1, pvpanic */
		assert_int_equal(a.crs, 3);
		done(&t);
	}
}

/* Lengths around the limits of the encodings: 63 needs one byte, 64 two, 4096 three. */
static void test_package_length(void **unused)
{
	static const size_t content[] = {1,    58,   59,   61,   62,   63,  64,
	                                 4092, 4093, 4094, 4095, 4096, 9000};

	for (unsigned k = 0; k < ARRAY_SIZE(content); k++) {
		u8 buf[10000] = {0};
		struct aml a;
		struct parser p = {0};
		const u8 *end;

		aml_init(&a, buf, sizeof(buf));
		aml_package(&a, 7); /* a count, then as many one-byte integers */
		for (size_t i = 1; i < content[k]; i++)
			aml_integer(&a, 1);
		aml_close(&a);
		assert_true(aml_ok(&a));
		p.p = buf + 1;
		p.end = buf + a.len;
		package_length(&p, &end);
		assert_ptr_equal(end, buf + a.len);
		assert_int_equal(end - p.p, content[k]);
		assert_int_equal(p.p[0], 7);
		assert_true(content[k] < 2 || p.p[content[k] - 1] == 1);
	}
}

static void test_aml_values(void **unused)
{
	static const u8 want[] = {
		0x08, 'A',  'B',  '_',  '_',  0x00,                                    /* 0 */
		0x08, '\\', '_',  'S',  'B',  '_',  0x01,                              /* 1 */
		0x08, 0x2e, 'A',  '_',  '_',  '_',  'B',  'C',  'D',  'E', 0x0a, 0xff, /* byte */
		0x08, '\\', 0x2f, 3,    'A',  '_',  '_',  '_',  'B',  '_', '_',  '_',
		'C',  '_',  '_',  '_',  0x0b, 0x34, 0x12,             /* word */
		0x0c, 0x78, 0x56, 0x34, 0x12,                         /* dword */
		0x0e, 0xf0, 0xde, 0xbc, 0x9a, 0x78, 0x56, 0x34, 0x12, /* qword */
		0x0c, 0x41, 0xd0, 0x05, 0x01,                         /* PNP0501 */
		0x0d, 'x',  'y',  0,
	};
	u8 buf[256];
	struct aml a;

	aml_init(&a, buf, sizeof(buf));
	aml_name(&a, "AB");
	aml_integer(&a, 0);
	aml_name(&a, "\\_SB");
	aml_integer(&a, 1);
	aml_name(&a, "A.BCDE");
	aml_integer(&a, 0xff);
	aml_name(&a, "\\A.B.C");
	aml_integer(&a, 0x1234);
	aml_integer(&a, 0x12345678);
	aml_integer(&a, 0x123456789abcdef0);
	aml_eisaid(&a, "PNP0501");
	aml_string(&a, "xy");
	assert_true(aml_ok(&a));
	assert_int_equal(a.len, sizeof(want));
	assert_memory_equal(buf, want, sizeof(want));
}

/* Whatever does not fit is noticed, and nothing is written behind the buffer. */
static void test_aml_overflow(void **unused)
{
	for (size_t size = 0; size < 80; size++) {
		u8 *buf = malloc(size + 1); /* exact for ASan but never of size 0 */
		struct aml a;

		buf[size] = 0x5a;
		aml_init(&a, buf, size);
		aml_device(&a, "COM1");
		aml_crs_open(&a);
		for (unsigned i = 0; i < 7; i++)
			aml_crs_io(&a, 0x3f8, 8);
		aml_crs_close(&a);
		aml_close(&a);
		/* 2 + PkgLength + 4, name 5, buffer 1 + PkgLength + 2 and 7 * 8 + 2. */
		assert_int_equal(aml_ok(&a), size >= 2 + 2 + 4 + 5 + 1 + 1 + 2 + 58);
		assert_int_equal(buf[size], 0x5a);
		free(buf);
	}
	{
		u8 buf[64];
		struct aml a;

		aml_init(&a, buf, sizeof(buf));
		aml_scope(&a, "\\");
		assert_false(aml_ok(&a)); /* still open */
		aml_close(&a);
		assert_true(aml_ok(&a));
		aml_close(&a); /* nothing to close */
		assert_false(aml_ok(&a));
	}
}

/* All tables through iasl: 0 errors and 0 warnings, and the compiler accepts what it disassembled.
 */
static void through_iasl(const struct boot_platform *pf)
{
	static const char script[] = "cd \"$0\" || exit 9\n"
				     "for t in *.dat; do t=${t%.dat}\n"
				     "  iasl -d $t.dat >$t.log 2>&1 || exit 1\n"
				     "  grep -iE 'error|invalid|fail' $t.log && exit 2\n"
				     "  iasl -we $t.dsl >$t.log2 2>&1 || exit 3\n"
				     "  grep -q ' 0 Errors, 0 Warnings' $t.log2 || exit 4\n"
				     "done\n";
	static const char signature[][5] = {"FACP", "APIC", "DSDT", "RSDT", "XSDT", "MCFG"};
	char dir[] = "/tmp/ringer-acpi-XXXXXX", path[128], command[256];
	struct tables t;
	const u8 *r, *at[6];
	int status;
	pid_t pid;

	make(&t, 64, pf);
	r = ram(&t, t.rsdp, 36);
	at[0] = t.facp;
	at[5] = t.mcfg;
	at[1] = t.apic;
	at[2] = t.dsdt;
	at[3] = table(&t, get_le32(r + 16), "RSDT");
	at[4] = table(&t, get_le64(r + 24), "XSDT");
	assert_non_null(mkdtemp(dir));
	for (unsigned i = 0; i < 5u + !!t.mcfg; i++) {
		FILE *f;

		snprintf(path, sizeof(path), "%s/%s.dat", dir, signature[i]);
		f = fopen(path, "w");
		assert_non_null(f);
		fwrite(at[i], 1, get_le32(at[i] + 4), f);
		fclose(f);
	}
	pid = fork();
	if (!pid) {
		execl("/bin/sh", "sh", "-c", script, dir, (char *)NULL);
		_exit(127);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
	snprintf(command, sizeof(command), "rm -rf %s", dir);
	assert_int_equal(system(command), 0);
	done(&t);
}

static struct boot_platform platform_with_pci(void)
{
	struct boot_platform pf = boot_platform_pc;

	pf.pci = (struct boot_pci){
		.ecam = 0xe0000000,
		.mem = {{0xc0000000, 0x20000000}, {0xf0000000, 0xec00000}},
		.mem64 = {64 * GiB, 16 * GiB},
		.gsi_base = 16,
		.nr_gsis = 8,
	};
	return pf;
}

static void test_iasl(void **unused)
{
	const struct boot_platform pci = platform_with_pci();

	if (system("command -v iasl >/dev/null 2>&1"))
		skip(); /* package acpica-tools */
	through_iasl(&boot_platform_pc);
	through_iasl(&pci);
}

static const u8 *find_bytes(const u8 *in, u32 len, const void *what, u32 n)
{
	for (u32 i = 0; i + n <= len; i++)
		if (!memcmp(in + i, what, n))
			return in + i;
	return NULL;
}

/* PCI Firmware 3.2, 4.1.2; of the DSDT the routing of a pin in the middle, and _OSC. */
static void test_pci(void **unused)
{
	static const u8 route[] = {0x0c, 0xff, 0xff, 0x06, 0x00, /* device 6 */
	                           0x0a, 0x03,                   /* INTD */
	                           0x00, 0x0a, 0x11};            /* GSI 16 + 9 % 8 */
	const struct boot_platform pf = platform_with_pci();
	struct tables t;

	make(&t, 2, &pf);
	assert_int_equal(get_le32(t.mcfg + 4), 60);
	assert_true(get_le64(t.mcfg + 44) == 0xe0000000);
	assert_int_equal(get_le16(t.mcfg + 52), 0);
	assert_int_equal(t.mcfg[54], 0);
	assert_int_equal(t.mcfg[55], 255);
	assert_non_null(find_bytes(t.dsdt, get_le32(t.dsdt + 4), route, sizeof(route)));
	assert_non_null(find_bytes(t.dsdt, get_le32(t.dsdt + 4), "_OSC\4", 5));
	assert_non_null(find_bytes(t.dsdt, get_le32(t.dsdt + 4), "PCI0", 4));
	done(&t);
	make(&t, 2, &boot_platform_pc);
	assert_null(find_bytes(t.dsdt, get_le32(t.dsdt + 4), "PCI0", 4));
	done(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_fadt),       cmocka_unit_test(test_platform),
		cmocka_unit_test(test_madt),       cmocka_unit_test(test_dsdt),
		cmocka_unit_test(test_aml_values), cmocka_unit_test(test_package_length),
		cmocka_unit_test(test_iasl),       cmocka_unit_test(test_aml_overflow),
		cmocka_unit_test(test_pci),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
