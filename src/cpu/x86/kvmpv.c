// SPDX-License-Identifier: MIT
/* KVM's paravirtual interface, as far as CPUID leaf 40000001 offers it: the clock and hypercalls
 * (Linux: Documentation/virt/kvm/x86/{msr,hypercalls,cpuid}.rst).
 *
 * The clock is one straight line for the whole VM: system time = ref_ns + (host TSC - ref_tsc) *
 * frequency. Every vCPU's page states that line in terms of its own TSC, so that all see the same
 * time and it never goes back, which is what the flag TSC_STABLE promises. When the VM was paused
 * the line moves along with the TSCs. */
#include <string.h>
#include <time.h>

#include "cpu/x86/inputs.h"
#include "cpu/x86/kvmpv.h"
#include "cpu/x86/x86.h"

#define PVCLOCK_TSC_STABLE (1u << 0)
#define ENABLE             1ull

struct pvclock_vcpu_time_info {
	u32 version;
	u32 pad0;
	u64 tsc_timestamp;
	u64 system_time;
	u32 tsc_to_system_mul;
	s8 tsc_shift;
	u8 flags;
	u8 pad[2];
};
_Static_assert(sizeof(struct pvclock_vcpu_time_info) == 32, "the guest's layout");

struct pvclock_wall_clock {
	u32 version, sec, nsec;
};

/* ns = ((ticks shifted left by *shift) * *mul) >> 32, with as many bits in *mul as fit. */
static void clock_scale(u64 tsc_khz, u32 *mul, s8 *shift)
{
	u64 hz = tsc_khz * 1000;
	int s = 0;

	while ((NSEC_PER_SEC << 32) / hz > 0xffffffff) {
		hz *= 2;
		s++;
	}
	while ((NSEC_PER_SEC << 32) / hz < 0x80000000) {
		hz /= 2;
		s--;
	}
	*mul = (u32)((NSEC_PER_SEC << 32) / hz);
	*shift = (s8)s;
}

/* System time now, computed as the guest does. */
static u64 system_now(const struct x86_cpu *c)
{
	u64 ticks = __builtin_ia32_rdtsc() - c->kvm.ref_tsc;
	u32 mul;
	s8 shift;

	clock_scale(c->vcpu->vm->tsc_khz, &mul, &shift);
	ticks = shift < 0 ? ticks >> -shift : ticks << shift;
	return c->kvm.ref_ns + (u64)(((unsigned __int128)ticks * mul) >> 32);
}

/* The version is odd while the rest changes. A page that is not RAM is left alone. */
static void clock_write(struct x86_cpu *c)
{
	struct pvclock_vcpu_time_info info = {0};
	gpa_t gpa = c->kvm.system_time & ~ENABLE;
	u32 version;

	if (!(c->kvm.system_time & ENABLE))
		return;
	x86_fpu_put(c);
	if (pmap_read(c->pmap, gpa, &version, sizeof(version)) < 0)
		return;
	info.version = (version | 1) + 2;
	clock_scale(c->vcpu->vm->tsc_khz, &info.tsc_to_system_mul, &info.tsc_shift);
	info.tsc_timestamp = c->kvm.ref_tsc + c->tsc_offset;
	info.system_time = c->kvm.ref_ns;
	/* A TSC that the guest has set differs from the others'. */
	info.flags = c->tsc_adjust ? 0 : PVCLOCK_TSC_STABLE;
	pmap_write(c->pmap, gpa, &info.version, sizeof(info.version));
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	pmap_write(c->pmap, gpa, &info, sizeof(info));
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	info.version++;
	pmap_write(c->pmap, gpa, &info.version, sizeof(info.version));
}

/* Real time at system time 0. */
static void wall_clock_write(struct x86_cpu *c)
{
	struct pvclock_wall_clock wall = {0};
	struct timespec ts;
	u32 version;
	u64 ns;

	x86_fpu_put(c);
	if (pmap_read(c->pmap, c->kvm.wall_clock, &version, sizeof(version)) < 0)
		return;
	clock_gettime(CLOCK_REALTIME, &ts);
	ns = (u64)ts.tv_sec * NSEC_PER_SEC + (u64)ts.tv_nsec - system_now(c);
	wall.version = (version | 1) + 2;
	wall.sec = (u32)(ns / NSEC_PER_SEC);
	wall.nsec = (u32)(ns % NSEC_PER_SEC);
	pmap_write(c->pmap, c->kvm.wall_clock, &wall.version, sizeof(wall.version));
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	pmap_write(c->pmap, c->kvm.wall_clock, &wall, sizeof(wall));
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	wall.version++;
	pmap_write(c->pmap, c->kvm.wall_clock, &wall.version, sizeof(wall.version));
}

/* One of the above; the shadow of a processor finds it done (cpu/x86/inputs.h). */
static void ram_write(struct x86_cpu *c, gpa_t gpa, void (*write)(struct x86_cpu *c))
{
	struct x86_input in = {.kind = X86_IN_RAM, .addr = gpa};

	if (x86_input_take(c, &in))
		return;
	write(c);
	x86_input_made(c, &in);
}

bool x86_kvmpv_set_system_time(struct x86_cpu *c, u64 val)
{
	c->kvm.system_time = val;
	ram_write(c, val, clock_write);
	return true;
}

bool x86_kvmpv_set_wall_clock(struct x86_cpu *c, u64 val)
{
	c->kvm.wall_clock = val;
	if (val)
		ram_write(c, val, wall_clock_write);
	return true;
}

void x86_kvmpv_tsc_changed(struct x86_cpu *c)
{
	ram_write(c, c->kvm.system_time, clock_write);
}

void x86_kvmpv_tsc_shift(struct x86_cpu *c, s64 delta)
{
	/* The guest's TSC at ref_ns, which is what its page says, stays as it was. */
	c->kvm.ref_tsc -= (u64)delta;
}

void x86_kvmpv_reset(struct x86_cpu *c)
{
	c->kvm.wall_clock = 0;
	c->kvm.system_time = 0;
	c->kvm.poll_control = 1;
	c->kvm.steal = 0;
}

/* ---- hypercalls ---- */

enum {
	KVM_HC_VAPIC_POLL_IRQ = 1,
	KVM_HC_KICK_CPU = 5,
	KVM_HC_SEND_IPI = 10,
};
#define KVM_EPERM  1
#define KVM_EINVAL 22
#define KVM_ENOSYS 1000

static s64 send_ipis(struct x86_cpu *c, u64 low, u64 high)
{
	const struct vcpu *v = c->vcpu;
	struct x86_input in = {.kind = X86_IN_IPIS, .addr = (u32)c->gpr[RSI]};

	x86_fpu_put(c);
	if (!x86_input_take(c, &in)) {
		in.val = (u64)-KVM_ENOSYS;
		if (v->irqchip)
			in.val = (u64)(s64)v->irqchip->send_ipis(
				v->irqchip_dev, low, high, (u32)c->gpr[RDX], (u32)c->gpr[RSI]);
		x86_input_made(c, &in);
	}
	return (s64)in.val;
}

void x86_hypercall(struct x86_cpu *c)
{
	struct vcpu *v = c->vcpu;
	u64 begin = exit_begin(&v->stats);
	u64 mask = c->mode & M_CS64 ? ~0ull : 0xffffffff;
	u64 nr = c->gpr[RAX] & mask;
	u64 apic_id = c->gpr[RCX] & mask;
	s64 ret = -KVM_ENOSYS;

	if (c->cpl) {
		ret = -KVM_EPERM;
	} else if (nr == KVM_HC_VAPIC_POLL_IRQ) {
		ret = 0; /* being here is all that it asks for */
	} else if (nr == KVM_HC_KICK_CPU) {
		if (apic_id < v->vm->nr_vcpus) {
			x86_fpu_put(c);
			vcpu_unhalt(v->vm->vcpu[apic_id]);
		}
		ret = 0;
	} else if (nr == KVM_HC_SEND_IPI && (v->irqchip || c->inputs)) {
		/* In 32-bit code the words of the set are 32 bits wide. */
		u64 low = c->gpr[RBX] & mask, high = c->gpr[RCX] & mask;

		if (mask != ~0ull) {
			low |= high << 32;
			high = 0;
		}
		ret = send_ipis(c, low, high);
		if (ret < 0)
			ret = -KVM_EINVAL;
	}
	c->gpr[RAX] = (u64)ret & mask;
	exit_end(&v->stats, EXIT_HYPERCALL, begin);
}
