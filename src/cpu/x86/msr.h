/* SPDX-License-Identifier: MIT */
/* Model-specific registers, as the Intel SDM (volume 4), the AMD APM (volume 2, appendix A) and
 * Linux's Documentation/virt/kvm/x86/msr.rst name them. Only what the guest's CPUID offers. */
#pragma once

enum {
	IA32_TSC = 0x10,
	MSR_KVM_WALL_CLOCK = 0x11,
	MSR_KVM_SYSTEM_TIME = 0x12,
	IA32_PLATFORM_ID = 0x17,
	IA32_APIC_BASE = 0x1b,
	MSR_SMI_COUNT = 0x34,
	IA32_FEATURE_CONTROL = 0x3a,
	IA32_TSC_ADJUST = 0x3b,
	IA32_SPEC_CTRL = 0x48,
	IA32_PRED_CMD = 0x49,
	IA32_BIOS_SIGN_ID = 0x8b,
	MSR_PLATFORM_INFO = 0xce,
	IA32_MTRRCAP = 0xfe,
	IA32_ARCH_CAPABILITIES = 0x10a,
	IA32_SYSENTER_CS = 0x174,
	IA32_SYSENTER_ESP = 0x175,
	IA32_SYSENTER_EIP = 0x176,
	IA32_MCG_CAP = 0x179,
	IA32_MCG_STATUS = 0x17a,
	IA32_MCG_CTL = 0x17b,
	IA32_MISC_ENABLE = 0x1a0,
	IA32_DEBUGCTL = 0x1d9,
	IA32_MTRR_PHYSBASE0 = 0x200,
	IA32_MTRR_FIX64K_00000 = 0x250,
	IA32_MTRR_FIX16K_80000 = 0x258,
	IA32_MTRR_FIX16K_A0000 = 0x259,
	IA32_MTRR_FIX4K_C0000 = 0x268,
	IA32_PAT = 0x277,
	IA32_MTRR_DEF_TYPE = 0x2ff,
	IA32_MC0_CTL = 0x400,
	IA32_TSC_DEADLINE = 0x6e0,
	X2APIC_FIRST = 0x800,
	X2APIC_LAST = 0x8ff,
};

#define IA32_EFER           0xc0000080u
#define IA32_STAR           0xc0000081u
#define IA32_LSTAR          0xc0000082u
#define IA32_CSTAR          0xc0000083u
#define IA32_FMASK          0xc0000084u
#define IA32_FS_BASE        0xc0000100u
#define IA32_GS_BASE        0xc0000101u
#define IA32_KERNEL_GS_BASE 0xc0000102u
#define IA32_TSC_AUX        0xc0000103u

#define MSR_AMD_SYSCFG 0xc0010010u
#define MSR_AMD_HWCR   0xc0010015u
#define MSR_AMD_DE_CFG 0xc0011029u

#define MSR_KVM_WALL_CLOCK_NEW  0x4b564d00u
#define MSR_KVM_SYSTEM_TIME_NEW 0x4b564d01u
#define MSR_KVM_STEAL_TIME      0x4b564d03u
#define MSR_KVM_POLL_CONTROL    0x4b564d05u

#define IA32_APIC_BASE_EN (1ull << 11)

#define MISC_ENABLE_FAST_STRINGS     (1ull << 0)
#define MISC_ENABLE_TM1              (1ull << 3)
#define MISC_ENABLE_EMON             (1ull << 7)
#define MISC_ENABLE_BTS_UNAVAILABLE  (1ull << 11)
#define MISC_ENABLE_PEBS_UNAVAILABLE (1ull << 12)
#define MISC_ENABLE_EIST             (1ull << 16)
#define MISC_ENABLE_MONITOR          (1ull << 18)
#define MISC_ENABLE_LIMIT_CPUID      (1ull << 22)
#define MISC_ENABLE_XTPR_DISABLE     (1ull << 23)
#define MISC_ENABLE_XD_DISABLE       (1ull << 34)

/* Newer than any update there is, so that no guest looks for one or works around an old one. */
#define X86_UCODE_REVISION (0xffffffffull << 32)
