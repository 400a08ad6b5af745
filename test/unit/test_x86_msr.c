// SPDX-License-Identifier: MIT
/* MSRs, the TSC, KVM's clock and hypercalls, against SDM volume 4 and Linux's description of KVM's
 * interface. */
#include "cpurig.h"
#include "cpu/x86/kvmpv.h"

#include <time.h>

static int setup(void **state)
{
	struct cpurig *r = malloc(sizeof(*r));

	if (!r)
		return -1;
	rig_init(r, 2);
	*state = r;
	return 0;
}

static int teardown(void **state)
{
	rig_fini(*state);
	free(*state);
	return 0;
}

#define CPU(state) (((struct cpurig *)*(state))->c)

static void rw(struct x86_cpu *c, u32 msr, u64 val)
{
	assert_ok(c, x86_wrmsr(c, msr, val));
	assert_int_equal(x86_rdmsr(c, msr), val);
}

static void read_only(struct x86_cpu *c, u32 msr)
{
	assert_ok(c, x86_rdmsr(c, msr));
	assert_gp(c, x86_wrmsr(c, msr, x86_rdmsr(c, msr)));
}

static void test_plain(void **state)
{
	struct x86_cpu *c = CPU(state);

	rw(c, IA32_SYSENTER_CS, 0x1234);
	rw(c, IA32_SYSENTER_ESP, 0x123456789abc);
	rw(c, IA32_SYSENTER_EIP, 0xffff800000000000);
	rw(c, IA32_STAR, 0x0023001000000000);
	rw(c, IA32_LSTAR, 0xffffffff81000000);
	rw(c, IA32_CSTAR, 0x123456789abc);
	rw(c, IA32_FMASK, 0xffffffff);
	rw(c, IA32_FS_BASE, 0x123456789abc);
	rw(c, IA32_GS_BASE, 0xffff888000000000);
	rw(c, IA32_KERNEL_GS_BASE, 0x123456789abc);
	rw(c, IA32_TSC_AUX, 0xffffffff);
	rw(c, IA32_EFER, EFER_SCE | EFER_NXE);
	assert_int_equal(c->seg[GS].base, 0xffff888000000000);
	assert_int_equal(c->segbase[GS], 0xffff888000000000);
	assert_int_equal(c->seg[FS].base, 0x123456789abc);
}

static void test_bad_values(void **state)
{
	struct x86_cpu *c = CPU(state);
	static const u32 addresses[] = {IA32_SYSENTER_ESP,  IA32_SYSENTER_EIP, IA32_LSTAR,
	                                IA32_CSTAR,         IA32_FS_BASE,      IA32_GS_BASE,
	                                IA32_KERNEL_GS_BASE};

	for (volatile unsigned i = 0; i < ARRAY_SIZE(addresses); i++)
		assert_gp(c, x86_wrmsr(c, addresses[i], 0xaaaaaaaaaaaaaaaa));
	assert_gp(c, x86_wrmsr(c, IA32_TSC_AUX, 1ull << 32));
	assert_gp(c, x86_wrmsr(c, IA32_FMASK, 1ull << 32));
	assert_gp(c, x86_wrmsr(c, IA32_EFER, 1 << 12)); /* SVME */
	assert_gp(c, x86_wrmsr(c, IA32_EFER, 1 << 14)); /* FFXSR */
	assert_gp(c, x86_wrmsr(c, IA32_DEBUGCTL, 1));
	assert_ok(c, x86_wrmsr(c, IA32_DEBUGCTL, 0));
	assert_gp(c, x86_wrmsr(c, IA32_SPEC_CTRL, 8));
	rw(c, IA32_SPEC_CTRL, 0x407);
	assert_ok(c, x86_wrmsr(c, IA32_PRED_CMD, 1));
	assert_gp(c, x86_wrmsr(c, IA32_PRED_CMD, 2));
	assert_gp(c, x86_rdmsr(c, IA32_PRED_CMD));
	read_only(c, IA32_MTRRCAP);
	read_only(c, IA32_MCG_CAP);
	read_only(c, IA32_ARCH_CAPABILITIES);
}

/* What is not offered does not exist: neighbours of all that is, VMX, PMU, XSS, SVM. */
static void test_unknown(void **state)
{
	struct x86_cpu *c = CPU(state);
	static const u32 absent[] = {0x2,        0x13,       0xc1,       0x10b,      0x186,
	                             0x345,      0x38f,      0x480,      0x570,      0x6e1,
	                             0xda0,      0x1000,     0x40000000, 0x4b564d02, 0xc0000085,
	                             0xc0000104, 0xc0010114, 0xffffffff};

	for (volatile unsigned i = 0; i < ARRAY_SIZE(absent); i++) {
		assert_gp(c, x86_rdmsr(c, absent[i]));
		assert_gp(c, x86_wrmsr(c, absent[i], 0));
	}
	/* The bits that CPUID does not show have no MSR either. */
	if (c->feat.amd)
		assert_gp(c, x86_rdmsr(c, IA32_FEATURE_CONTROL));
	else
		assert_gp(c, x86_rdmsr(c, MSR_AMD_HWCR));
}

static void test_apic_forwarded(void **state)
{
	struct cpurig *r = *state;

	rw(r->c, IA32_TSC_DEADLINE, 12345);
	assert_int_equal(r->tsc_deadline, 12345);
	assert_int_equal(x86_rdmsr(r->c, IA32_APIC_BASE), r->apic_base);
	assert_gp(r->c, x86_rdmsr(r->c, 0x802)); /* the controller refuses */
}

static void test_misc_enable(void **state)
{
	struct x86_cpu *c = CPU(state);
	const u64 fixed = MISC_ENABLE_BTS_UNAVAILABLE | MISC_ENABLE_PEBS_UNAVAILABLE;
	u32 out[4];

	assert_int_equal(x86_rdmsr(c, IA32_MISC_ENABLE), fixed | 1);
	rw(c, IA32_MISC_ENABLE, 0x400c50009 | fixed);
	/* Bits 22 and 34 do what they say. */
	x86_cpuid_leaf(c, 0, 0, out);
	assert_int_equal(out[0], 2);
	x86_cpuid_leaf(c, 0x80000001, 0, out);
	assert_false(out[3] & 1 << 20);
	assert_gp(c, x86_wrmsr(c, IA32_EFER, EFER_NXE));
	rw(c, IA32_MISC_ENABLE, fixed);
	rw(c, IA32_EFER, EFER_NXE);
	assert_gp(c, x86_wrmsr(c, IA32_MISC_ENABLE, fixed | MISC_ENABLE_XD_DISABLE));
	assert_gp(c, x86_wrmsr(c, IA32_MISC_ENABLE, 0));
	assert_gp(c, x86_wrmsr(c, IA32_MISC_ENABLE, fixed | 2));
}

static void test_pat_mtrr(void **state)
{
	struct x86_cpu *c = CPU(state);

	rw(c, IA32_PAT, 0x0007010600070106);
	rw(c, IA32_PAT, 0x07070707);
	assert_gp(c, x86_wrmsr(c, IA32_PAT, 2));
	assert_gp(c, x86_wrmsr(c, IA32_PAT, 3ull << 56));
	assert_gp(c, x86_wrmsr(c, IA32_PAT, 8));

	assert_int_equal(x86_rdmsr(c, IA32_MTRRCAP), 0x508);
	rw(c, IA32_MTRR_FIX64K_00000, 0x0606060605040100);
	assert_gp(c, x86_wrmsr(c, IA32_MTRR_FIX64K_00000, 7));
	for (u32 i = 0; i < 8; i++)
		rw(c, IA32_MTRR_FIX4K_C0000 + i, 0x0101010101010101 * (i & 1 ? 5 : 6));
	rw(c, IA32_MTRR_FIX16K_A0000, 0);
	assert_int_equal(x86_rdmsr(c, IA32_MTRR_FIX4K_C0000), 0x0606060606060606);
	assert_gp(c, x86_rdmsr(c, IA32_MTRR_FIX4K_C0000 + 8));

	rw(c, IA32_MTRR_PHYSBASE0 + 14, 0x80000006);
	rw(c, IA32_MTRR_PHYSBASE0 + 15, 0xfc0000800);
	assert_gp(c, x86_wrmsr(c, IA32_MTRR_PHYSBASE0, 2));
	assert_gp(c, x86_wrmsr(c, IA32_MTRR_PHYSBASE0, 0x106));
	assert_gp(c, x86_wrmsr(c, IA32_MTRR_PHYSBASE0, BIT(c->phys_bits)));
	assert_gp(c, x86_wrmsr(c, IA32_MTRR_PHYSBASE0 + 1, 0x400));
	assert_gp(c, x86_wrmsr(c, IA32_MTRR_PHYSBASE0 + 1, BIT(c->phys_bits)));
	assert_gp(c, x86_rdmsr(c, IA32_MTRR_PHYSBASE0 + 16));
	rw(c, IA32_MTRR_DEF_TYPE, 0xc06);
	assert_gp(c, x86_wrmsr(c, IA32_MTRR_DEF_TYPE, 0xc02));
	assert_gp(c, x86_wrmsr(c, IA32_MTRR_DEF_TYPE, 0x1c06));
}

static void test_machine_check(void **state)
{
	struct x86_cpu *c = CPU(state);
	const u64 noncanonical = 0xaaaaaaaaaaaaaaaa;
	unsigned banks = x86_rdmsr(c, IA32_MCG_CAP) & 0xff;

	assert_int_equal(banks, X86_MC_BANKS);
	for (volatile u32 m = IA32_MC0_CTL; m < IA32_MC0_CTL + 4 * X86_MC_BANKS; m += 4) {
		rw(c, m, 0);
		rw(c, m, ~0ull);
		assert_gp(c, x86_wrmsr(c, m, noncanonical));
		rw(c, m + 1, 0);
		assert_gp(c, x86_wrmsr(c, m + 1, 1));
		rw(c, m + 2, ~0ull);
		rw(c, m + 3, noncanonical);
	}
	assert_gp(c, x86_rdmsr(c, IA32_MC0_CTL + 4 * banks));
	rw(c, IA32_MCG_CTL, 0);
	assert_gp(c, x86_wrmsr(c, IA32_MCG_CTL, 5));
	assert_gp(c, x86_wrmsr(c, IA32_MCG_STATUS, 8));
}

/* Software writes 0, asks CPUID leaf 1, and reads the revision. */
static void test_microcode(void **state)
{
	struct x86_cpu *c = CPU(state);

	rw(c, IA32_BIOS_SIGN_ID, 0);
	c->gpr[RAX] = 1;
	x86_cpuid(c);
	assert_int_equal(x86_rdmsr(c, IA32_BIOS_SIGN_ID), X86_UCODE_REVISION);
}

static void test_tsc(void **state)
{
	struct x86_cpu *c = CPU(state);
	struct x86_cpu *other = vcpu_x86(((struct cpurig *)*state)->vm.vcpu[1]);
	const u64 step = 100000000000ull;
	u64 t0, t1;

	assert_int_equal(c->tsc_offset, other->tsc_offset);
	assert_int_equal(x86_rdmsr(c, IA32_TSC_ADJUST), 0);
	t0 = x86_rdtsc(c);
	rw(c, IA32_TSC_ADJUST, step);
	t1 = x86_rdtsc(c);
	assert_true(t1 - t0 >= step && t1 - t0 < step + step / 10);
	rw(c, IA32_TSC_ADJUST, 0);
	assert_true(x86_rdtsc(c) - t0 < step / 10);
	assert_ok(c, x86_wrmsr(c, IA32_TSC, step));
	t1 = x86_rdmsr(c, IA32_TSC);
	assert_true(t1 >= step && t1 < step + step / 10);
	assert_int_equal(x86_rdmsr(c, IA32_TSC_ADJUST), c->tsc_offset - other->tsc_offset);
	assert_int_equal(((struct cpurig *)*state)->tsc_changes, 3);
	/* A reset makes it synchronous again. */
	c->vcpu->arch->reset(c->vcpu);
	assert_int_equal(c->tsc_offset, other->tsc_offset);
	assert_int_equal(x86_rdmsr(c, IA32_TSC_ADJUST), 0);
}

/* ---- the clock ---- */

struct pvti {
	u32 version, pad0;
	u64 tsc_timestamp, system_time;
	u32 mul;
	s8 shift;
	u8 flags, pad[2];
};

static u64 pv_now(struct x86_cpu *c, gpa_t at)
{
	struct pvti t;
	u64 delta;

	assert_int_equal(pmap_read(c->pmap, at, &t, sizeof(t)), 0);
	assert_false(t.version & 1);
	assert_int_equal(t.flags, 1);
	delta = x86_tsc(c) - t.tsc_timestamp;
	delta = t.shift < 0 ? delta >> -t.shift : delta << t.shift;
	return t.system_time + (u64)(((unsigned __int128)delta * t.mul) >> 32);
}

static void test_kvmclock(void **state)
{
	struct cpurig *r = *state;
	struct x86_cpu *c = r->c, *other = vcpu_x86(r->vm.vcpu[1]);
	const gpa_t at = 0x2ffc; /* 4-byte aligned, across a page */
	const gpa_t at2 = 0x5000;
	u64 a, b, host;
	struct pvti t, t2;

	assert_ok(c, x86_wrmsr(c, MSR_KVM_SYSTEM_TIME_NEW, at | 1));
	assert_ok(other, x86_wrmsr(other, MSR_KVM_SYSTEM_TIME, at2 | 1)); /* the old number */
	assert_int_equal(x86_rdmsr(c, MSR_KVM_SYSTEM_TIME_NEW), at | 1);
	for (int i = 0; i < 1000; i++) {
		a = pv_now(c, at);
		b = pv_now(other, at2);
		assert_true(b >= a);
	}
	/* tsc_khz is what the rig says, not the host's: compare ratios. */
	a = x86_tsc(c);
	host = pv_now(c, at);
	while (x86_tsc(c) - a < 2500000)
		;
	b = x86_tsc(c) - a;
	host = pv_now(c, at) - host;
	assert_true(host >= b * 4 / 10 - 2000 && host <= b * 4 / 10 + 1000000);

	/* Paused: neither the counter nor the clock has moved. */
	a = pv_now(c, at);
	c->vcpu->arch->tsc_shift(c->vcpu, -(s64)1000000000000);
	other->vcpu->arch->tsc_shift(other->vcpu, -(s64)1000000000000);
	assert_ok(c, x86_wrmsr(c, MSR_KVM_SYSTEM_TIME_NEW, at | 1));
	assert_int_equal(pmap_read(c->pmap, at, &t, sizeof(t)), 0);
	assert_int_equal(pmap_read(c->pmap, at2, &t2, sizeof(t2)), 0);
	assert_int_equal(t.tsc_timestamp, t2.tsc_timestamp);
	assert_int_equal(t.system_time, t2.system_time);

	/* The guest sets one TSC: its page follows, and says that it is alone. */
	assert_ok(c, x86_wrmsr(c, IA32_TSC_ADJUST, 1000));
	assert_int_equal(pmap_read(c->pmap, at, &t2, sizeof(t2)), 0);
	assert_int_equal(t2.tsc_timestamp, t.tsc_timestamp + 1000);
	assert_int_equal(t2.flags, 0);
	assert_true(t2.version > t.version);

	/* Off; and pages that are not RAM. */
	assert_ok(c, x86_wrmsr(c, MSR_KVM_SYSTEM_TIME_NEW, 0));
	assert_ok(c, x86_wrmsr(c, MSR_KVM_SYSTEM_TIME_NEW, 0xf0000001));
	assert_ok(c, x86_wrmsr(c, MSR_KVM_SYSTEM_TIME_NEW, 16 * MiB - 16 + 1));
	assert_ok(c, x86_wrmsr(c, MSR_KVM_WALL_CLOCK_NEW, ~0ull));
	c->vcpu->arch->init(c->vcpu);
	assert_int_equal(x86_rdmsr(c, MSR_KVM_SYSTEM_TIME_NEW), 0);
}

/* The record of stolen time, and the flush that a halted vCPU is left a note for. */
static void test_steal_time(void **state)
{
	struct cpurig *r = *state;
	struct x86_cpu *c = r->c;
	struct vcpu *v = c->vcpu;
	const gpa_t at = 0x7040;
	u8 *st = pmap_ptr(c->pmap, at, 64);

	memset(st, 0, 64);
	assert_gp(c, x86_wrmsr(c, MSR_KVM_STEAL_TIME, at | 3)); /* reserved bits */
	x86_steal_halt(v, true);                                /* not enabled: nothing */
	assert_int_equal(st[16], 0);
	assert_ok(c, x86_wrmsr(c, MSR_KVM_STEAL_TIME, at | 1));
	assert_int_equal(x86_rdmsr(c, MSR_KVM_STEAL_TIME), at | 1);

	v->req = 0;
	x86_steal_halt(v, true);
	assert_int_equal(st[16], 1);
	x86_steal_halt(v, false);
	assert_int_equal(st[16], 0);
	assert_int_equal(v->req & VCPU_REQ_TLB_FLUSH, 0);
	x86_steal_halt(v, true);
	st[16] |= 2;
	x86_steal_halt(v, false);
	assert_int_equal(st[16], 0);
	assert_int_equal(v->req & VCPU_REQ_TLB_FLUSH, VCPU_REQ_TLB_FLUSH);
	v->req = 0;

	/* Too early for an update; then 20 ms in which the thread got nothing. */
	x86_steal_update(c);
	assert_int_equal(get_le64(st), 0);
	c->kvm.steal_wall -= 20000000;
	x86_steal_update(c);
	assert_true(get_le64(st) >= 19000000 && get_le64(st) < 20000000000);
	assert_int_equal(get_le32(st + 8), 2); /* even */

	assert_ok(c, x86_wrmsr(c, MSR_KVM_STEAL_TIME, 0xf0000001)); /* no RAM */
	x86_steal_halt(v, true);
	x86_steal_halt(v, false);
	v->arch->init(v);
	assert_int_equal(x86_rdmsr(c, MSR_KVM_STEAL_TIME), 0);
}

static void test_wall_clock(void **state)
{
	struct x86_cpu *c = CPU(state);
	struct {
		u32 version, sec, nsec;
	} w;
	u64 now;

	c->vcpu->vm->tsc_khz = x86_host_tsc_khz();
	assert_ok(c, x86_wrmsr(c, MSR_KVM_SYSTEM_TIME_NEW, 0x3001));
	assert_ok(c, x86_wrmsr(c, MSR_KVM_WALL_CLOCK_NEW, 0x4000));
	assert_int_equal(pmap_read(c->pmap, 0x4000, &w, sizeof(w)), 0);
	assert_false(w.version & 1);
	assert_true(w.nsec < NSEC_PER_SEC);
	now = w.sec + (w.nsec + pv_now(c, 0x3000)) / NSEC_PER_SEC;
	assert_true(now + 1 >= (u64)time(NULL) && now <= (u64)time(NULL) + 1);
}

static void test_hypercalls(void **state)
{
	struct cpurig *r = *state;
	struct x86_cpu *c = r->c;

	rig_long_mode(r);
	c->gpr[RAX] = ~0ull;
	x86_hypercall(c);
	assert_int_equal(c->gpr[RAX], -1000); /* -KVM_ENOSYS */
	c->gpr[RAX] = 1;
	x86_hypercall(c);
	assert_int_equal(c->gpr[RAX], 0);
	/* KICK_CPU ends the HLT of another, or its next. */
	c->gpr[RAX] = 5;
	c->gpr[RCX] = 1;
	x86_hypercall(c);
	assert_int_equal(c->gpr[RAX], 0);
	assert_true(r->vm.vcpu[1]->unhalt);
	c->gpr[RAX] = 5;
	c->gpr[RCX] = 99;
	x86_hypercall(c);
	assert_int_equal(c->gpr[RAX], 0);
	c->gpr[RAX] = 10; /* SEND_IPI */
	c->gpr[RBX] = 5;
	c->gpr[RCX] = 1;
	c->gpr[RDX] = 2;
	c->gpr[RSI] = 0xfd;
	x86_hypercall(c);
	assert_int_equal(c->gpr[RAX], 3);
	assert_int_equal(r->ipis[0], 5);
	assert_int_equal(r->ipis[1], 1);
	assert_int_equal(r->ipi_min, 2);
	assert_int_equal(r->ipi_icr, 0xfd);
	c->gpr[RAX] = 10;
	c->gpr[RSI] = ~0ull;
	x86_hypercall(c);
	assert_int_equal(c->gpr[RAX], -22); /* -KVM_EINVAL */
	rig_user(r);
	c->gpr[RAX] = 5;
	x86_hypercall(c);
	assert_int_equal(c->gpr[RAX], -1); /* -KVM_EPERM */
	/* 32-bit code gets 32 bits. */
	c->seg[CS].ar = (c->seg[CS].ar & ~SEG_L) | SEG_DB;
	x86_update_mode(c);
	x86_hypercall(c);
	assert_int_equal(c->gpr[RAX], 0xffffffff);
}

/* Against a long, plain measurement. */
static void test_host_tsc(void **state)
{
	struct timespec a, b;
	u64 t0, t1, khz, ns, want;

	khz = x86_host_tsc_khz();
	clock_gettime(CLOCK_MONOTONIC_RAW, &a);
	t0 = __builtin_ia32_rdtsc();
	nanosleep(&(struct timespec){.tv_nsec = 400000000}, NULL);
	clock_gettime(CLOCK_MONOTONIC_RAW, &b);
	t1 = __builtin_ia32_rdtsc();
	ns = (u64)(b.tv_sec - a.tv_sec) * NSEC_PER_SEC + (u64)b.tv_nsec - (u64)a.tv_nsec;
	want = (u64)((unsigned __int128)(t1 - t0) * 1000000 / ns);
	print_message("TSC %llu kHz, measured over 400 ms %llu kHz\n", (unsigned long long)khz,
	              (unsigned long long)want);
	assert_true(khz > want - want / 2000 && khz < want + want / 2000);
}

static void test_rdpmc(void **state)
{
	struct x86_cpu *c = CPU(state);

	assert_gp(c, x86_rdpmc(c));
	c->cr4 |= CR4_PCE;
	assert_gp(c, x86_rdpmc(c));
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_plain),          T(test_bad_values),  T(test_unknown),
		T(test_apic_forwarded), T(test_misc_enable), T(test_pat_mtrr),
		T(test_machine_check),  T(test_microcode),   T(test_tsc),
		T(test_kvmclock),       T(test_wall_clock),  T(test_steal_time),
		T(test_hypercalls),     T(test_host_tsc),    T(test_rdpmc),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
