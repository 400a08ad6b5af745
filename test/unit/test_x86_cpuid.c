// SPDX-License-Identifier: MIT
/* The guest's CPUID: nothing that is not meant to be there, consistent with itself, with the MSRs
 * and with the host it runs on. */
#include "cpurig.h"

#include <cpuid.h>

static int setup_n(void **state, unsigned vcpus)
{
	struct cpurig *r = malloc(sizeof(*r));

	if (!r)
		return -1;
	rig_init(r, vcpus);
	*state = r;
	return 0;
}

static int setup(void **state)
{
	return setup_n(state, 1);
}

static int setup6(void **state)
{
	return setup_n(state, 6);
}

static int teardown(void **state)
{
	rig_fini(*state);
	free(*state);
	return 0;
}

enum { EAX, EBX, ECX, EDX };

static u32 leaf(const struct x86_cpu *c, u32 l, u32 sub, unsigned reg)
{
	u32 out[4];

	x86_cpuid_leaf(c, l, sub, out);
	return out[reg];
}

static bool has(const struct x86_cpu *c, u32 l, unsigned reg, unsigned bit)
{
	return leaf(c, l, 0, reg) >> bit & 1;
}

static bool host_has(u32 l, unsigned reg, unsigned bit)
{
	u32 r[4] = {0};

	__get_cpuid_count(l, 0, &r[0], &r[1], &r[2], &r[3]);
	return r[reg] >> bit & 1;
}

struct bit {
	const char *name;
	u32 leaf;
	u8 reg, bit;
};

/* Of what is refused, every feature that some processor has. */
static void test_never(void **state)
{
	const struct x86_cpu *c = ((struct cpurig *)*state)->c;
	static const struct bit never[] = {
		{"MONITOR", 1, ECX, 3},
		{"DS-CPL", 1, ECX, 4},
		{"VMX", 1, ECX, 5},
		{"SMX", 1, ECX, 6},
		{"EIST", 1, ECX, 7},
		{"TM2", 1, ECX, 8},
		{"SDBG", 1, ECX, 11},
		{"PDCM", 1, ECX, 15},
		{"VME", 1, EDX, 1},
		{"DS", 1, EDX, 21},
		{"ACPI", 1, EDX, 22},
		{"TM", 1, EDX, 29},
		{"SGX", 7, EBX, 2},
		{"HLE", 7, EBX, 4},
		{"RTM", 7, EBX, 11},
		{"RDT-M", 7, EBX, 12},
		{"MPX", 7, EBX, 14},
		{"RDT-A", 7, EBX, 15},
		{"AVX512F", 7, EBX, 16},
		{"AVX512DQ", 7, EBX, 17},
		{"PT", 7, EBX, 25},
		{"AVX512CD", 7, EBX, 28},
		{"AVX512BW", 7, EBX, 30},
		{"AVX512VL", 7, EBX, 31},
		{"AVX512_VBMI", 7, ECX, 1},
		{"PKU", 7, ECX, 3},
		{"OSPKE", 7, ECX, 4},
		{"WAITPKG", 7, ECX, 5},
		{"CET_SS", 7, ECX, 7},
		{"AVX512_VNNI", 7, ECX, 11},
		{"LA57", 7, ECX, 16},
		{"RDPID", 7, ECX, 22},
		{"PKS", 7, ECX, 31},
		{"UINTR", 7, EDX, 5},
		{"CET_IBT", 7, EDX, 20},
		{"AMX_BF16", 7, EDX, 22},
		{"AMX_TILE", 7, EDX, 24},
		{"AMX_INT8", 7, EDX, 25},
		{"L1D_FLUSH", 7, EDX, 28},
		{"CORE_CAPABILITIES", 7, EDX, 30},
		{"SVM", 0x80000001, ECX, 2},
		{"XOP", 0x80000001, ECX, 11},
		{"LWP", 0x80000001, ECX, 15},
		{"FMA4", 0x80000001, ECX, 16},
		{"TBM", 0x80000001, ECX, 21},
		{"MONITORX", 0x80000001, ECX, 29},
		{"FFXSR", 0x80000001, EDX, 25},
		{"3DNOWEXT", 0x80000001, EDX, 30},
		{"3DNOW", 0x80000001, EDX, 31},
	};

	for (unsigned i = 0; i < ARRAY_SIZE(never); i++)
		if (has(c, never[i].leaf, never[i].reg, never[i].bit))
			fail_msg("%s is shown", never[i].name);
	assert_int_equal(leaf(c, 7, 0, EAX), 2);
	for (unsigned sub = 1; sub < 4; sub++)
		for (unsigned reg = 0; reg < 4; reg++)
			assert_int_equal(leaf(c, 7, sub, reg), sub == 2 && reg == EDX ? 1 << 4 : 0);
	for (unsigned reg = 0; reg < 4; reg++)
		assert_int_equal(leaf(c, 0xa, 0, reg), 0); /* no performance counters */
	assert_int_equal(leaf(c, 6, 0, EAX), 4);
	assert_int_equal(leaf(c, 0xd, 1, EAX) & ~7u, 0); /* no XSAVES */
}

/* Ours whatever the host is. */
static void test_always(void **state)
{
	const struct x86_cpu *c = ((struct cpurig *)*state)->c;
	static const struct bit always[] = {
		{"PCID", 1, ECX, 17},
		{"x2APIC", 1, ECX, 21},
		{"TSC deadline", 1, ECX, 24},
		{"hypervisor", 1, ECX, 31},
		{"FPU", 1, EDX, 0},
		{"APIC", 1, EDX, 9},
		{"SEP", 1, EDX, 11},
		{"MTRR", 1, EDX, 12},
		{"PGE", 1, EDX, 13},
		{"PAT", 1, EDX, 16},
		{"SSE2", 1, EDX, 26},
		{"FSGSBASE", 7, EBX, 0},
		{"TSC_ADJUST", 7, EBX, 1},
		{"SMEP", 7, EBX, 7},
		{"INVPCID", 7, EBX, 10},
		{"SMAP", 7, EBX, 20},
		{"UMIP", 7, ECX, 2},
		{"IBRS", 7, EDX, 26},
		{"ARCH_CAP", 7, EDX, 29},
		{"SYSCALL", 0x80000001, EDX, 11},
		{"NX", 0x80000001, EDX, 20},
		{"1G pages", 0x80000001, EDX, 26},
		{"RDTSCP", 0x80000001, EDX, 27},
		{"LM", 0x80000001, EDX, 29},
	};

	for (unsigned i = 0; i < ARRAY_SIZE(always); i++)
		if (!has(c, always[i].leaf, always[i].reg, always[i].bit))
			fail_msg("%s is not shown", always[i].name);
}

/* Instructions run on the host: shown exactly when it has them. */
static void test_host(void **state)
{
	const struct x86_cpu *c = ((struct cpurig *)*state)->c;
	static const struct bit same[] = {
		{"SSE3", 1, ECX, 0},
		{"PCLMULQDQ", 1, ECX, 1},
		{"SSSE3", 1, ECX, 9},
		{"FMA", 1, ECX, 12},
		{"CX16", 1, ECX, 13},
		{"SSE4.1", 1, ECX, 19},
		{"SSE4.2", 1, ECX, 20},
		{"MOVBE", 1, ECX, 22},
		{"POPCNT", 1, ECX, 23},
		{"AES", 1, ECX, 25},
		{"XSAVE", 1, ECX, 26},
		{"AVX", 1, ECX, 28},
		{"F16C", 1, ECX, 29},
		{"RDRAND", 1, ECX, 30},
		{"BMI1", 7, EBX, 3},
		{"AVX2", 7, EBX, 5},
		{"BMI2", 7, EBX, 8},
		{"ERMS", 7, EBX, 9},
		{"RDSEED", 7, EBX, 18},
		{"ADX", 7, EBX, 19},
		{"CLFLUSHOPT", 7, EBX, 23},
		{"CLWB", 7, EBX, 24},
		{"SHA", 7, EBX, 29},
		{"FSRM", 7, EDX, 4},
		{"LAHF", 0x80000001, ECX, 0},
		{"LZCNT", 0x80000001, ECX, 5},
		{"PREFETCHW", 0x80000001, ECX, 8},
	};

	for (unsigned i = 0; i < ARRAY_SIZE(same); i++)
		if (has(c, same[i].leaf, same[i].reg, same[i].bit) !=
		    host_has(same[i].leaf, same[i].reg, same[i].bit))
			fail_msg("%s is not as on the host", same[i].name);
}

static void test_limits(void **state)
{
	const struct x86_cpu *c = ((struct cpurig *)*state)->c;
	u32 max = leaf(c, 0, 0, EAX), out[4], last[4];

	assert_true(max >= 0xd);
	assert_true(leaf(c, 0x80000000, 0, EAX) >= 0x80000008);
	assert_int_equal(leaf(c, 0x40000000, 0, EAX), 0x40000010);
	assert_int_equal(leaf(c, 0x40000000, 0, EBX), 0x4b4d564b);
	assert_true(c->phys_bits >= 36 && c->phys_bits <= 46);
	assert_int_equal(leaf(c, 0x80000008, 0, EAX), c->phys_bits | 48 << 8);
	x86_cpuid_leaf(c, max + 1, 0, out);
	x86_cpuid_leaf(c, max, 0, last);
	if (c->feat.amd)
		memset(last, 0, sizeof(last));
	assert_memory_equal(out, last, sizeof(out));
	x86_cpuid_leaf(c, 0x80001000, 0, out);
	assert_memory_equal(out, last, sizeof(out));
	x86_cpuid_leaf(c, 0x40000011, 0, out);
	assert_memory_equal(out, last, sizeof(out));
}

static void test_dynamic(void **state)
{
	struct cpurig *r = *state;
	struct x86_cpu *c = r->c;

	assert_false(has(c, 1, ECX, 27));
	if (c->feat.xcr0) {
		assert_ok(c, x86_mov_to_cr(c, 4, CR4_OSXSAVE));
		assert_true(has(c, 1, ECX, 27));
		assert_int_equal(leaf(c, 0xd, 0, EAX), c->feat.xcr0);
		assert_int_equal(leaf(c, 0xd, 0, EBX), 576);
		assert_true(leaf(c, 0xd, 0, ECX) <= XSAVE_AREA_SIZE);
		if (c->feat.xcr0 & XCR0_AVX) {
			assert_ok(c, x86_xsetbv(c, 0, 7));
			assert_int_equal(leaf(c, 0xd, 0, EBX), 832);
			assert_int_equal(leaf(c, 0xd, 0, ECX), 832);
			if (leaf(c, 0xd, 1, EAX) & 2)
				assert_int_equal(leaf(c, 0xd, 1, EBX), 832);
			assert_int_equal(leaf(c, 0xd, 2, EAX), 256);
			assert_int_equal(leaf(c, 0xd, 2, EBX), 576);
		}
		assert_int_equal(leaf(c, 0xd, 3, EAX), 0);
	}
	r->apic_base &= ~IA32_APIC_BASE_EN;
	assert_false(has(c, 1, EDX, 9));
}

static void test_topology_one(void **state)
{
	const struct x86_cpu *c = ((struct cpurig *)*state)->c;

	assert_false(has(c, 1, EDX, 28));
	assert_int_equal(leaf(c, 1, 0, EBX) >> 16, 1);
	assert_int_equal(leaf(c, 0xb, 1, EAX), 0);
	assert_int_equal(leaf(c, 0xb, 1, EBX) & 0xffff, 1);
}

static void test_topology(void **state)
{
	struct cpurig *r = *state;

	for (unsigned i = 0; i < 6; i++) {
		const struct x86_cpu *c = vcpu_x86(r->vm.vcpu[i]);

		assert_true(has(c, 1, EDX, 28));
		assert_int_equal(leaf(c, 1, 0, EBX) >> 24, i);
		assert_int_equal(leaf(c, 1, 0, EBX) >> 16 & 0xff, 8);
		/* One thread a core, six cores in IDs of three bits. */
		assert_int_equal(leaf(c, 0xb, 0, EAX), 0);
		assert_int_equal(leaf(c, 0xb, 0, EBX), 1);
		assert_int_equal(leaf(c, 0xb, 0, ECX), 0x100);
		assert_int_equal(leaf(c, 0xb, 1, EAX), 3);
		assert_int_equal(leaf(c, 0xb, 1, EBX), 6);
		assert_int_equal(leaf(c, 0xb, 1, ECX), 0x201);
		assert_int_equal(leaf(c, 0xb, 2, EBX), 0);
		assert_int_equal(leaf(c, 0xb, 2, ECX), 2);
		assert_int_equal(leaf(c, 0xb, 2, EDX), i);
		if (c->feat.amd) {
			assert_int_equal(leaf(c, 0x80000008, 0, ECX), 3 << 12 | 5);
			continue;
		}
		for (unsigned s = 0; leaf(c, 4, s, EAX) & 31; s++) {
			u32 eax = leaf(c, 4, s, EAX);

			assert_int_equal(eax >> 26, 7);
			/* L1 and L2 are a core's own, L3 is everybody's. */
			assert_int_equal(eax >> 14 & 0xfff, (eax >> 5 & 7) >= 3 ? 7 : 0);
		}
		assert_int_not_equal(leaf(c, 4, 0, EAX) & 31, 0);
	}
}

static void test_frequencies(void **state)
{
	struct cpurig *r = *state;
	const struct x86_cpu *c = r->c;
	u64 khz = r->vm.tsc_khz;

	assert_int_equal(leaf(c, 0x40000010, 0, EAX), khz);
	assert_int_equal(leaf(c, 0x40000010, 0, EBX), 1000000);
	if (c->feat.amd)
		return;
	assert_int_equal((u64)leaf(c, 0x15, 0, ECX) * leaf(c, 0x15, 0, EBX) / leaf(c, 0x15, 0, EAX),
	                 khz * 1000);
	assert_int_equal(leaf(c, 0x16, 0, EAX), khz / 1000);
}

/* A bit that says "there is this MSR", and the MSR. */
static void test_msrs_agree(void **state)
{
	struct x86_cpu *c = ((struct cpurig *)*state)->c;
	u64 caps;

	assert_true(has(c, 7, EDX, 29));
	caps = x86_rdmsr(c, IA32_ARCH_CAPABILITIES);
	assert_true(caps & 1);        /* RDCL_NO: no KPTI */
	assert_true(caps & 2);        /* IBRS_ALL: no retpolines */
	assert_false(caps & 1 << 7);  /* no IA32_TSX_CTRL */
	assert_false(caps & 1 << 10); /* no MISC_PACKAGE_CTLS */
	assert_false(caps & 1 << 12); /* no TSX_CTRL */
	assert_false(caps & 1 << 18); /* no FB_CLEAR_CTRL */
	assert_ok(c, x86_wrmsr(c, IA32_SPEC_CTRL, 1 << 10 | 7));
	assert_true(has(c, 7, EBX, 1));
	assert_ok(c, x86_rdmsr(c, IA32_TSC_ADJUST));
}

static void test_instruction(void **state)
{
	struct x86_cpu *c = ((struct cpurig *)*state)->c;
	u32 out[4];

	c->gpr[RAX] = 0xffffffff00000007;
	c->gpr[RCX] = 0xffffffff00000000;
	c->gpr[RBX] = c->gpr[RDX] = ~0ull;
	x86_cpuid_leaf(c, 7, 0, out);
	x86_cpuid(c);
	assert_int_equal(c->gpr[RAX], out[EAX]);
	assert_int_equal(c->gpr[RBX], out[EBX]);
	assert_int_equal(c->gpr[RCX], out[ECX]);
	assert_int_equal(c->gpr[RDX], out[EDX]);
	assert_int_equal(c->vcpu->stats.count[EXIT_CPUID], 1);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_never),
		T(test_always),
		T(test_host),
		T(test_limits),
		T(test_dynamic),
		T(test_topology_one),
		cmocka_unit_test_setup_teardown(test_topology, setup6, teardown),
		T(test_frequencies),
		T(test_msrs_agree),
		T(test_instruction),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
