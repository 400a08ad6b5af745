// SPDX-License-Identifier: MIT
/* How fast the host's TSC runs; the guest's runs alike. Every timer and clock of the guest stands
 * on this number, so it is measured, and what CPUID says is only believed when it agrees. */
#include <time.h>

#include "base/log.h"
#include "cpu/x86/host.h"
#include "cpu/x86/x86.h"

static u64 now_raw(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC_RAW, &ts);
	return (u64)ts.tv_sec * NSEC_PER_SEC + (u64)ts.tv_nsec;
}

/* The clock and the TSC at the same moment: the best of some tries. Returns how far they may be
 * apart, in ticks. */
static u64 sample(u64 *ns, u64 *tsc)
{
	u64 best = ~0ull;

	*ns = *tsc = 0;
	for (int i = 0; i < 32; i++) {
		u64 t0 = __builtin_ia32_rdtsc();
		u64 t = now_raw();
		u64 t1 = __builtin_ia32_rdtsc();

		if (t1 - t0 < best) {
			best = t1 - t0;
			*ns = t;
			*tsc = t0 + best / 2;
		}
	}
	return best;
}

static u64 measure_khz(void)
{
	u64 ns0, ns1, tsc0, tsc1, blur, khz;

	blur = sample(&ns0, &tsc0);
	/* Aim at 20 ppm: 20 ms do when the clock is read in user space, a host that needs a system
	 * call or an exit for it takes longer. */
	for (unsigned ms = 20;; ms *= 2) {
		const struct timespec ts = {.tv_nsec = (long)ms * 1000000};

		nanosleep(&ts, NULL);
		blur += sample(&ns1, &tsc1);
		if (ns1 <= ns0 || tsc1 <= tsc0)
			return 0;
		khz = (u64)((unsigned __int128)(tsc1 - tsc0) * 1000000 / (ns1 - ns0));
		if (blur * 25000 < tsc1 - tsc0 || ms >= 160)
			return khz;
	}
}

/* What CPUID says, or 0. */
static u64 cpuid_khz(void)
{
	u32 r[4];

	host_leaf(1, 0, r);
	if (r[2] & BIT(31) /* running under a hypervisor */) {
		host_leaf(0x40000000, 0, r);
		if (r[0] >= 0x40000010 && r[0] < 0x40001000) {
			host_cpuid(0x40000010, 0, r);
			if (r[0])
				return r[0];
		}
	}
	host_leaf(0x15, 0, r);
	if (r[0] && r[1] && r[2])
		return (u64)r[2] * r[1] / r[0] / 1000;
	return 0;
}

/* CPUID gives the nominal frequency of a crystal that may be off, or spread: it is taken only when
 * it is what we measure. */
u64 x86_host_tsc_khz(void)
{
	u64 nominal = cpuid_khz();
	u64 khz = measure_khz();
	u64 off = nominal > khz ? nominal - khz : khz - nominal;

	if (nominal && (!khz || off <= nominal / 10000))
		khz = nominal;
	if (khz < 100000 || khz > 20000000) {
		log_warn("the host's TSC seems to run at %llu kHz; taking 1 GHz",
		         (unsigned long long)khz);
		khz = 1000000;
	}
	return khz;
}
