// SPDX-License-Identifier: MIT
/* The guest's CPUID (SDM 2A CPUID; AMD APM 3 appendix E; KVM's leaves: Linux's
 * Documentation/virt/kvm/x86/cpuid.rst).
 *
 * The model is the host's processor, cut down by allow-lists: a bit that is not listed below is
 * never shown, whatever the host has or will have. Bits in the tables' `host` column are shown when
 * the host has them, because the guest's instructions run on it; those in `own` always, because
 * their semantics are this program's. doc/cpu-model.md says why for each.
 *
 * What depends on the guest's state or on the size of the VM is put in when the guest asks. */
#include "cpu/x86/host.h"
#include "cpu/x86/msr.h"
#include "cpu/x86/x86.h"

#include <string.h>

enum { EAX, EBX, ECX, EDX };

/* ---- feature bits ---- */

enum {
	/* 1.ECX */
	F_SSE3 = 1u << 0,
	F_PCLMULQDQ = 1u << 1,
	F_SSSE3 = 1u << 9,
	F_FMA = 1u << 12,
	F_CX16 = 1u << 13,
	F_PCID = 1u << 17,
	F_SSE41 = 1u << 19,
	F_SSE42 = 1u << 20,
	F_X2APIC = 1u << 21,
	F_MOVBE = 1u << 22,
	F_POPCNT = 1u << 23,
	F_TSC_DEADLINE = 1u << 24,
	F_AES = 1u << 25,
	F_XSAVE = 1u << 26,
	F_OSXSAVE = 1u << 27,
	F_AVX = 1u << 28,
	F_F16C = 1u << 29,
	F_RDRAND = 1u << 30,
	F_HYPERVISOR = 1u << 31,
};
enum {
	/* 1.EDX, most of it also 80000001.EDX on AMD */
	F_FPU = 1u << 0,
	F_DE = 1u << 2,
	F_PSE = 1u << 3,
	F_TSC = 1u << 4,
	F_MSR = 1u << 5,
	F_PAE = 1u << 6,
	F_MCE = 1u << 7,
	F_CX8 = 1u << 8,
	F_APIC = 1u << 9,
	F_SEP = 1u << 11,
	F_MTRR = 1u << 12,
	F_PGE = 1u << 13,
	F_MCA = 1u << 14,
	F_CMOV = 1u << 15,
	F_PAT = 1u << 16,
	F_PSE36 = 1u << 17,
	F_CLFSH = 1u << 19,
	F_MMX = 1u << 23,
	F_FXSR = 1u << 24,
	F_SSE = 1u << 25,
	F_SSE2 = 1u << 26,
	F_SS = 1u << 27,
	F_HTT = 1u << 28,
};
enum {
	/* 7.EBX */
	F_FSGSBASE = 1u << 0,
	F_TSC_ADJUST = 1u << 1,
	F_BMI1 = 1u << 3,
	F_AVX2 = 1u << 5,
	F_FDP_EXCPTN_ONLY = 1u << 6,
	F_SMEP = 1u << 7,
	F_BMI2 = 1u << 8,
	F_ERMS = 1u << 9,
	F_INVPCID = 1u << 10,
	F_NO_FPU_CSDS = 1u << 13,
	F_RDSEED = 1u << 18,
	F_ADX = 1u << 19,
	F_SMAP = 1u << 20,
	F_CLFLUSHOPT = 1u << 23,
	F_CLWB = 1u << 24,
	F_SHA = 1u << 29,
	/* 7.ECX */
	F_UMIP = 1u << 2,
	/* 7.EDX */
	F_FSRM = 1u << 4,
	F_SPEC_CTRL = 1u << 26, /* IBRS and IBPB */
	F_STIBP = 1u << 27,
	F_ARCH_CAPABILITIES = 1u << 29,
	F_SSBD = 1u << 31,
	/* 7.2.EDX */
	F_BHI_CTRL = 1u << 4,
};
enum {
	/* D.1.EAX */
	F_XSAVEOPT = 1u << 0,
	F_XSAVEC = 1u << 1,
	F_XGETBV1 = 1u << 2,
};
enum {
	/* 80000001.ECX */
	F_LAHF = 1u << 0,
	F_CMP_LEGACY = 1u << 1,
	F_LZCNT = 1u << 5,
	F_PREFETCHW = 1u << 8,
	F_TOPOEXT = 1u << 22,
	/* 80000001.EDX */
	F_SYSCALL = 1u << 11,
	F_NX = 1u << 20,
	F_MMXEXT = 1u << 22,
	F_PAGE1GB = 1u << 26,
	F_RDTSCP = 1u << 27,
	F_LM = 1u << 29,
	/* 80000007.EDX */
	F_INVARIANT_TSC = 1u << 8,
	/* 80000008.EBX, AMD */
	F_AMD_IBPB = 1u << 12,
	F_AMD_IBRS = 1u << 14,
	F_AMD_STIBP = 1u << 15,
	F_AMD_SSBD = 1u << 24,
	F_AMD_SSB_NO = 1u << 26,
	F_AMD_BTC_NO = 1u << 29,
	F_AMD_IBPB_RET = 1u << 30,
	/* 80000021.EAX, AMD */
	F_LFENCE_SERIALIZING = 1u << 2,
	F_NULL_SEL_CLEARS_BASE = 1u << 6,
	F_SRSO_NO = 1u << 29,
	/* 80000021.ECX, AMD */
	F_TSA_SQ_NO = 1u << 1,
	F_TSA_L1_NO = 1u << 2,
};
enum {
	/* 40000001.EAX: KVM's paravirtual features */
	KVM_CLOCKSOURCE = 1u << 0,
	KVM_NOP_IO_DELAY = 1u << 1,
	KVM_CLOCKSOURCE2 = 1u << 3,
	KVM_STEAL_TIME = 1u << 5,
	KVM_PV_UNHALT = 1u << 7,
	KVM_PV_TLB_FLUSH = 1u << 9,
	KVM_PV_SEND_IPI = 1u << 11,
	KVM_POLL_CONTROL = 1u << 12,
	KVM_CLOCKSOURCE_STABLE = 1u << 24,
};

#define BASE_EDX                                                                                   \
	(F_DE | F_PSE | F_TSC | F_MSR | F_PAE | F_MCE | F_CX8 | F_APIC | F_MTRR | F_PGE | F_MCA |  \
	 F_PAT | F_PSE36)
#define USER_EDX (F_FPU | F_CMOV | F_MMX | F_FXSR)

enum vendor { ANY, INTEL, AMD };

struct allow {
	u32 leaf, subleaf;
	u8 reg;
	u8 vendor; /* whose processors have this word */
	u32 host;  /* shown when the host has it */
	u32 own;   /* shown always */
};

static const struct allow allow[] = {
	{1, 0, ECX, ANY,
         F_SSE3 | F_PCLMULQDQ | F_SSSE3 | F_FMA | F_CX16 | F_SSE41 | F_SSE42 | F_MOVBE | F_POPCNT |
                 F_AES | F_XSAVE | F_AVX | F_F16C | F_RDRAND,
         F_PCID | F_X2APIC | F_TSC_DEADLINE | F_HYPERVISOR},
	{1, 0, EDX, ANY, USER_EDX | F_CLFSH | F_SSE | F_SSE2 | F_SS, BASE_EDX | F_SEP},
	{6, 0, EAX, ANY, 0, 1u << 2 /* ARAT: the APIC timer never stops */},
	{7, 0, EBX, ANY,
         F_BMI1 | F_AVX2 | F_FDP_EXCPTN_ONLY | F_BMI2 | F_ERMS | F_NO_FPU_CSDS | F_RDSEED | F_ADX |
                 F_CLFLUSHOPT | F_CLWB | F_SHA,
         F_FSGSBASE | F_TSC_ADJUST | F_SMEP | F_INVPCID | F_SMAP},
	{7, 0, ECX, ANY, 0, F_UMIP},
	{7, 0, EDX, ANY, F_FSRM, F_SPEC_CTRL | F_STIBP | F_SSBD | F_ARCH_CAPABILITIES},
	{7, 0, EAX, ANY, 0, 2 /* the last subleaf */},
	{7, 2, EDX, ANY, 0, F_BHI_CTRL},
	{0xd, 1, EAX, ANY, F_XSAVEOPT | F_XSAVEC | F_XGETBV1, 0},
	{0x80000001, 0, ECX, ANY, F_LAHF | F_LZCNT | F_PREFETCHW, 0},
	{0x80000001, 0, ECX, AMD, F_TOPOEXT, 0},
	{0x80000001, 0, EDX, ANY, 0, F_SYSCALL | F_NX | F_PAGE1GB | F_RDTSCP | F_LM},
	{0x80000001, 0, EDX, AMD, USER_EDX | F_MMXEXT, BASE_EDX},
	{0x80000007, 0, EDX, ANY, F_INVARIANT_TSC, 0},
	{0x80000008, 0, EBX, AMD, 0,
         F_AMD_IBPB | F_AMD_IBRS | F_AMD_STIBP | F_AMD_SSBD | F_AMD_SSB_NO | F_AMD_BTC_NO |
                 F_AMD_IBPB_RET},
	{0x80000021, 0, EAX, AMD, F_LFENCE_SERIALIZING, F_NULL_SEL_CLEARS_BASE | F_SRSO_NO},
	{0x80000021, 0, ECX, AMD, 0, F_TSA_SQ_NO | F_TSA_L1_NO},
	{0x40000001, 0, EAX, ANY, 0,
         KVM_CLOCKSOURCE | KVM_NOP_IO_DELAY | KVM_CLOCKSOURCE2 | KVM_PV_UNHALT | KVM_PV_SEND_IPI |
                 KVM_POLL_CONTROL | KVM_CLOCKSOURCE_STABLE},
};

/* Words that describe, and grant nothing: taken over as they are. */
static const struct {
	u32 leaf;
	u8 vendor;
	u8 regs; /* bit per register */
} describe[] = {
	{1, ANY, 1 << EAX},          /* family, model, stepping */
	{2, INTEL, 15},              /* cache descriptors */
	{0x80000001, AMD, 1 << EAX}, /* family, model, stepping again */
	{0x80000002, ANY, 15},       /* the brand string */
	{0x80000003, ANY, 15},
	{0x80000004, ANY, 15},
	{0x80000005, AMD, 15}, /* L1 */
	{0x80000006, ANY, 15}, /* L2 */
	{0x80000019, AMD, 15}, /* TLBs of 1 GiB pages */
};

/* What the caches (leaf 4, 8000001D) may have as subleaves: more than any processor has. */
#define MAX_CACHES 6

/* All that Linux, and others that follow it, ask for before they leave a mitigation out. The
 * guest's could not work here: its MSR writes never reach the processor. What protects guests from
 * each other and the host from them are the host's own mitigations of this process. */
#define ARCH_RDCL_NO            (1ull << 0)
#define ARCH_IBRS_ALL           (1ull << 1)
#define ARCH_SKIP_L1DFL_VMENTRY (1ull << 3)
#define ARCH_SSB_NO             (1ull << 4)
#define ARCH_MDS_NO             (1ull << 5)
#define ARCH_IF_PSCHANGE_MC_NO  (1ull << 6)
#define ARCH_TAA_NO             (1ull << 8)
#define ARCH_SBDR_SSDP_NO       (1ull << 13)
#define ARCH_FBSDP_NO           (1ull << 14)
#define ARCH_PSDP_NO            (1ull << 15)
#define ARCH_BHI_NO             (1ull << 20)
#define ARCH_PBRSB_NO           (1ull << 24)
#define ARCH_GDS_NO             (1ull << 26)
#define ARCH_RFDS_NO            (1ull << 27)
#define ARCH_ITS_NO             (1ull << 62)
#define ARCH_CAPS                                                                                  \
	(ARCH_RDCL_NO | ARCH_IBRS_ALL | ARCH_SKIP_L1DFL_VMENTRY | ARCH_SSB_NO | ARCH_MDS_NO |      \
	 ARCH_IF_PSCHANGE_MC_NO | ARCH_TAA_NO | ARCH_SBDR_SSDP_NO | ARCH_FBSDP_NO | ARCH_PSDP_NO | \
	 ARCH_BHI_NO | ARCH_PBRSB_NO | ARCH_GDS_NO | ARCH_RFDS_NO | ARCH_ITS_NO)

#define PHYS_BITS_MAX 46
#define XSAVE_LEGACY  576 /* x87 and SSE area and header */
#define APIC_BUS_KHZ  1000000
#define EXT_MAX_AMD   0x80000021
#define EXT_MAX_INTEL 0x80000008
#define KVM_BASE      0x40000000
#define KVM_MAX       0x40000010

/* ---- building ---- */

static struct x86_cpuid_leaf *find(struct x86_cpu *c, u32 leaf, u32 subleaf)
{
	for (unsigned i = 0; i < c->nr_cpuid; i++) {
		struct x86_cpuid_leaf *l = &c->cpuid[i];

		if (l->leaf == leaf && (!l->indexed || l->subleaf == subleaf))
			return l;
	}
	return NULL;
}

static struct x86_cpuid_leaf *get(struct x86_cpu *c, u32 leaf, u32 subleaf, bool indexed)
{
	struct x86_cpuid_leaf *l = find(c, leaf, subleaf);

	if (l)
		return l;
	if (c->nr_cpuid == X86_MAX_CPUID)
		bug("CPUID: no room for leaf %#x", leaf);
	l = &c->cpuid[c->nr_cpuid++];
	*l = (struct x86_cpuid_leaf){.leaf = leaf, .subleaf = subleaf, .indexed = indexed};
	return l;
}

static bool is_indexed(u32 leaf)
{
	return leaf == 4 || leaf == 7 || leaf == 0xb || leaf == 0xd || leaf == 0x1f ||
	       leaf == 0x8000001d;
}

static void set(struct x86_cpu *c, u32 leaf, u32 sub, u32 eax, u32 ebx, u32 ecx, u32 edx)
{
	struct x86_cpuid_leaf *l = get(c, leaf, sub, is_indexed(leaf));

	l->out[EAX] = eax;
	l->out[EBX] = ebx;
	l->out[ECX] = ecx;
	l->out[EDX] = edx;
}

static bool vendor_ok(const struct x86_cpu *c, u8 vendor)
{
	return vendor == ANY || (vendor == AMD) == c->feat.amd;
}

static void build_words(struct x86_cpu *c)
{
	u32 host[4];

	for (unsigned i = 0; i < ARRAY_SIZE(allow); i++) {
		const struct allow *a = &allow[i];

		if (!vendor_ok(c, a->vendor))
			continue;
		host_leaf(a->leaf, a->subleaf, host);
		get(c, a->leaf, a->subleaf, is_indexed(a->leaf))->out[a->reg] |=
			(host[a->reg] & a->host) | a->own;
	}
	for (unsigned i = 0; i < ARRAY_SIZE(describe); i++) {
		struct x86_cpuid_leaf *l;

		if (!vendor_ok(c, describe[i].vendor))
			continue;
		host_leaf(describe[i].leaf, 0, host);
		l = get(c, describe[i].leaf, 0, false);
		for (unsigned r = 0; r < 4; r++)
			if (describe[i].regs & (1 << r))
				l->out[r] = host[r];
	}
}

/* The caches' shape is the host's; who shares them is put in by cpuid_topology(). */
static void build_caches(struct x86_cpu *c)
{
	u32 leaf = c->feat.amd ? 0x8000001d : 4;
	u32 host[4];

	for (u32 i = 0; i < MAX_CACHES; i++) {
		host_leaf(leaf, i, host);
		if (!(host[EAX] & 31))
			break;
		set(c, leaf, i, host[EAX] & 0x3ff, host[EBX], host[ECX], host[EDX] & 7);
	}
}

/* Instructions that need the AVX state go with it. */
static void build_xsave(struct x86_cpu *c)
{
	u32 *ecx1 = &get(c, 1, 0, false)->out[ECX];
	u32 *ebx7 = &get(c, 7, 0, true)->out[EBX];
	struct x86_cpuid_leaf *d1 = get(c, 0xd, 1, true);
	u32 d0[4], d2[4];

	host_leaf(0xd, 0, d0);
	host_leaf(0xd, 2, d2);
	if (*ecx1 & F_XSAVE)
		c->feat.xcr0 = d0[EAX] & (XCR0_X87 | XCR0_SSE | XCR0_AVX);
	if ((c->feat.xcr0 & XCR0_AVX) && d2[EBX] + d2[EAX] > XSAVE_AREA_SIZE)
		c->feat.xcr0 &= ~XCR0_AVX;
	if (!(c->feat.xcr0 & XCR0_AVX) || !(*ecx1 & F_AVX)) {
		c->feat.xcr0 &= ~XCR0_AVX;
		*ecx1 &= ~(F_AVX | F_FMA | F_F16C);
		*ebx7 &= ~F_AVX2;
	}
	if (!c->feat.xcr0) {
		*ecx1 &= ~F_XSAVE;
		d1->out[EAX] = 0;
		return;
	}
	c->feat.xgetbv1 = d1->out[EAX] & F_XGETBV1;
	c->feat.xsavec = d1->out[EAX] & F_XSAVEC;
	set(c, 0xd, 0, (u32)c->feat.xcr0, XSAVE_LEGACY, XSAVE_LEGACY, 0);
	if (c->feat.xcr0 & XCR0_AVX) {
		get(c, 0xd, 0, true)->out[ECX] = d2[EBX] + d2[EAX];
		set(c, 0xd, 2, d2[EAX], d2[EBX], d2[ECX] & 2, 0);
	}
}

/* Frequencies. 15H: TSC = crystal * EBX / EAX. The APIC timer's clock is the crystal (SDM 3A
 * 10.5.4), so the crystal is what our APIC counts, and the ratio makes the TSC exact. */
static void build_frequencies(struct x86_cpu *c)
{
	u32 khz = (u32)c->vcpu->vm->tsc_khz;

	if (!c->feat.amd) {
		set(c, 0x15, 0, APIC_BUS_KHZ, khz, APIC_BUS_KHZ * 1000, 0);
		set(c, 0x16, 0, khz / 1000, khz / 1000, 100, 0);
	}
	set(c, 0x40000010, 0, khz, APIC_BUS_KHZ, 0, 0);
}

static void build_limits(struct x86_cpu *c)
{
	u32 host[4], ext[4];
	u32 phys, lin;

	host_cpuid(0, 0, host);
	if (c->feat.amd)
		set(c, 0, 0, MAX(host[EAX], c->feat.xcr0 ? 0xdu : 0xbu), host[EBX], host[ECX],
		    host[EDX]);
	else
		set(c, 0, 0, MIN(MAX(host[EAX], 0x16u), 0x1fu), host[EBX], host[ECX], host[EDX]);
	if (c->feat.amd && get(c, 0, 0, false)->out[EAX] > 0x10)
		get(c, 0, 0, false)->out[EAX] = 0x10;

	host_leaf(0x80000008, 0, ext);
	phys = ext[EAX] & 0xff;
	lin = (ext[EAX] >> 8) & 0xff;
	if (phys < 36 || lin < 48)
		phys = 36; /* no such leaf: the least that a 64-bit processor has */
	c->phys_bits = (u8)MIN(phys, (u32)PHYS_BITS_MAX);
	get(c, 0x80000008, 0, false)->out[EAX] = c->phys_bits | 48 << 8;
	host_cpuid(0x80000000, 0, ext);
	if (c->feat.amd)
		set(c, 0x80000000, 0, EXT_MAX_AMD, ext[EBX], ext[ECX], ext[EDX]);
	else
		set(c, 0x80000000, 0, EXT_MAX_INTEL, 0, 0, 0);
}

static void build_features(struct x86_cpu *c)
{
	struct x86_features *f = &c->feat;

	f->cr4 = CR4_TSD | CR4_DE | CR4_PSE | CR4_PAE | CR4_MCE | CR4_PGE | CR4_PCE | CR4_OSFXSR |
	         CR4_OSXMMEXCPT | CR4_UMIP | CR4_FSGSBASE | CR4_PCIDE | CR4_SMEP | CR4_SMAP;
	if (f->xcr0)
		f->cr4 |= CR4_OSXSAVE;
	f->efer = EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE;
	f->arch_caps = ARCH_CAPS;
}

/* Programs built by gcc's target_clones("arch=...") and their like go by the model's number and
 * never look whether the features that it promises are there. So a host with AVX-512, which the
 * guest does not get, shows itself as the youngest server model without: 06_4FH (Broadwell). */
static void hide_model(struct x86_cpu *c)
{
	u32 host[4];

	host_leaf(7, 0, host);
	if (!c->feat.amd && (host[EBX] & (1u << 16))) /* AVX512F */
		get(c, 1, 0, false)->out[EAX] = 0x000406f1;
}

void x86_cpuid_build(struct x86_cpu *c)
{
	u32 host[4];

	c->nr_cpuid = 0;
	memset(&c->feat, 0, sizeof(c->feat));
	host_cpuid(0, 0, host);
	/* "AuthenticAMD", "HygonGenuine" */
	c->feat.amd = host[EBX] == 0x68747541 || host[EBX] == 0x6f677948;

	set(c, KVM_BASE, 0, KVM_MAX, 0x4b4d564b /* "KVMKVMKVM\0\0\0" */, 0x564b4d56, 0x4d);
	build_words(c);
	build_caches(c);
	build_xsave(c);
	build_frequencies(c);
	build_limits(c);
	build_features(c);
	host_leaf(1, 0, host);
	get(c, 1, 0, false)->out[EBX] = host[EBX] & 0xff00; /* CLFLUSH line size */
	hide_model(c);
}

/* ---- answering ---- */

/* Bits needed to number n things. */
static u32 id_bits(u32 n)
{
	u32 bits = 0;

	while ((1u << bits) < n)
		bits++;
	return bits;
}

/* All vCPUs are cores, with one thread each, of one package. */
static void topology(const struct x86_cpu *c, u32 leaf, u32 subleaf, u32 out[4])
{
	u32 n = c->vcpu->vm->nr_vcpus;
	u32 bits = id_bits(n);
	u32 id = c->vcpu->index;
	u32 level = (out[EAX] >> 5) & 7;

	switch (leaf) {
	case 1:
		out[EBX] |= MIN(1u << bits, 255u) << 16 | id << 24;
		if (n > 1)
			out[EDX] |= F_HTT;
		break;
	case 4:
		if (out[EAX] & 31)
			out[EAX] |= (MIN(1u << bits, 64u) - 1) << 26 |
			            (level >= 3 ? (1u << bits) - 1 : 0) << 14;
		break;
	case 0xb:
	case 0x1f:
		out[ECX] = subleaf & 0xff;
		out[EDX] = id;
		if (subleaf == 0) {
			out[EBX] = 1;
			out[ECX] |= 1 << 8; /* thread */
		} else if (subleaf == 1) {
			out[EAX] = bits;
			out[EBX] = n;
			out[ECX] |= 2 << 8; /* core */
		}
		break;
	case 0x40000001:
		/* The record is written behind the vCPU's back, which nobody repeats for the one
		 * that is followed (cpu/x86/inputs.h). */
		if (n > 1)
			out[EAX] |= KVM_STEAL_TIME | KVM_PV_TLB_FLUSH;
		break;
	case 0x80000001:
		if (c->feat.amd && n > 1)
			out[ECX] |= F_CMP_LEGACY;
		break;
	case 0x80000008:
		if (c->feat.amd)
			out[ECX] = bits << 12 | (n - 1);
		break;
	case 0x8000001d:
		if (out[EAX] & 31)
			out[EAX] |= (level >= 3 ? n - 1 : 0) << 14;
		break;
	case 0x8000001e:
		if (c->feat.amd) {
			out[EAX] = id;
			out[EBX] = id & 0xff;
		}
		break;
	default:
		break;
	}
}

static u32 xsave_size(const struct x86_cpu *c, u64 components, bool compact)
{
	u32 size = XSAVE_LEGACY;

	for (unsigned i = 0; i < c->nr_cpuid; i++) {
		const struct x86_cpuid_leaf *l = &c->cpuid[i];

		if (l->leaf == 0xd && l->subleaf == 2 && (components & XCR0_AVX))
			size = compact ? size + l->out[EAX] : l->out[EBX] + l->out[EAX];
	}
	return size;
}

/* What the guest's registers change in its CPUID. */
static void dynamic(const struct x86_cpu *c, u32 leaf, u32 subleaf, u32 out[4])
{
	const struct vcpu *v = c->vcpu;
	u64 apic_base;

	switch (leaf) {
	case 0:
		if (c->misc_enable & MISC_ENABLE_LIMIT_CPUID)
			out[EAX] = MIN(out[EAX], 2u);
		break;
	case 1:
		if (c->cr4 & CR4_OSXSAVE)
			out[ECX] |= F_OSXSAVE;
		if (v->irqchip && v->irqchip->rdmsr(v->irqchip_dev, IA32_APIC_BASE, &apic_base) &&
		    !(apic_base & IA32_APIC_BASE_EN))
			out[EDX] &= ~F_APIC;
		break;
	case 0xd:
		if (subleaf == 0 && c->feat.xcr0)
			out[EBX] = xsave_size(c, c->xcr0, false);
		else if (subleaf == 1 && (out[EAX] & F_XSAVEC))
			out[EBX] = xsave_size(c, c->xcr0 | c->xss, true);
		break;
	case 0x80000001:
		if (c->misc_enable & MISC_ENABLE_XD_DISABLE)
			out[EDX] &= ~F_NX;
		break;
	default:
		break;
	}
}

/* Is the leaf within its range (basic, hypervisor's, extended)? *max_basic: the last basic one. */
static bool leaf_exists(const struct x86_cpu *c, u32 leaf, u32 *max_basic)
{
	u32 max = 0;

	for (unsigned i = 0; i < c->nr_cpuid; i++) {
		const struct x86_cpuid_leaf *l = &c->cpuid[i];

		if (l->leaf == 0)
			*max_basic = l->out[EAX];
		if (l->leaf == (leaf & 0xffff0000))
			max = l->out[EAX];
	}
	if (c->misc_enable & MISC_ENABLE_LIMIT_CPUID) {
		*max_basic = MIN(*max_basic, 2u);
		if (leaf < 0x40000000)
			max = *max_basic;
	}
	return leaf <= max;
}

void x86_cpuid_leaf(const struct x86_cpu *c, u32 leaf, u32 subleaf, u32 out[4])
{
	u32 max_basic = 0;

	memset(out, 0, 4 * sizeof(u32));
	if (!leaf_exists(c, leaf, &max_basic)) {
		/* AMD's processors answer zeros, Intel's as for the last basic leaf. */
		if (c->feat.amd)
			return;
		leaf = max_basic;
	}
	for (unsigned i = 0; i < c->nr_cpuid; i++) {
		const struct x86_cpuid_leaf *l = &c->cpuid[i];

		if (l->leaf == leaf && (!l->indexed || l->subleaf == subleaf)) {
			memcpy(out, l->out, 4 * sizeof(u32));
			break;
		}
	}
	topology(c, leaf, subleaf, out);
	dynamic(c, leaf, subleaf, out);
}

void x86_cpuid(struct x86_cpu *c)
{
	struct vcpu *v = c->vcpu;
	u64 begin = exit_begin(&v->stats);
	u32 leaf = (u32)c->gpr[RAX], subleaf = (u32)c->gpr[RCX];
	u32 out[4];

	x86_fpu_put(c); /* for the APIC's and the trace's sake */
	x86_cpuid_leaf(c, leaf, subleaf, out);
	/* Leaf 1 is how software asks for the microcode revision (SDM 3A 9.11.7.1). */
	if (leaf == 1)
		c->bios_sign_id = X86_UCODE_REVISION;
	if (trace_on(&v->vm->trace, TRACE_MSR))
		trace_msg(&v->vm->trace, "cpu%u cpuid %08x.%x: %08x %08x %08x %08x", v->index, leaf,
		          subleaf, out[EAX], out[EBX], out[ECX], out[EDX]);
	c->gpr[RAX] = out[EAX];
	c->gpr[RBX] = out[EBX];
	c->gpr[RCX] = out[ECX];
	c->gpr[RDX] = out[EDX];
	exit_end(&v->stats, EXIT_CPUID, begin);
}
