// SPDX-License-Identifier: MIT
/* KVM's steal time and, built on it, its paravirtual TLB flush (Linux:
 * Documentation/virt/kvm/x86/msr.rst, MSR_KVM_STEAL_TIME).
 *
 * The guest learns how long a vCPU that wanted to run did not, and which vCPUs are not running now.
 * Those need no interprocessor interrupt to flush their TLB: the guest leaves a note, and it is
 * done before the vCPU executes its next instruction. Not running, here, is halted: whether the
 * host's scheduler has taken the processor away nobody tells us in time.
 *
 * Stolen is the time that passed less what the thread used of a processor, both since the vCPU
 * was last resumed. */
#include <time.h>

#include "cpu/x86/kvmpv.h"

#define ENABLE   1ull
#define RESERVED 0x3eull

#define PREEMPTED (1u << 0)
#define FLUSH_TLB (1u << 1)

#define UPDATE_NS (NSEC_PER_SEC / 200)

struct steal_time {
	u64 steal; /* ns */
	u32 version, flags;
	u8 preempted;
	u8 pad[47];
};
_Static_assert(sizeof(struct steal_time) == 64, "the guest's layout");

static u64 now(clockid_t clock)
{
	struct timespec ts;

	clock_gettime(clock, &ts);
	return (u64)ts.tv_sec * NSEC_PER_SEC + (u64)ts.tv_nsec;
}

/* The guest's record; NULL: none, or not in RAM. */
static struct steal_time *record(const struct x86_cpu *c)
{
	return c->kvm.steal & ENABLE
	               ? (void *)pmap_ptr(c->pmap, c->kvm.steal & ~(RESERVED | ENABLE),
	                                  sizeof(struct steal_time))
	               : NULL;
}

static void record_written(const struct x86_cpu *c, const struct steal_time *st)
{
	pmap_code_written(c->pmap, pmap_page(c->pmap, st), (u32)((uintptr_t)st & ~PAGE_MASK),
	                  sizeof(*st));
}

/* From here on time counts as wanted. */
static void begin(struct x86_cpu *c)
{
	c->kvm.steal_wall = now(CLOCK_MONOTONIC);
	c->kvm.steal_cpu = now(CLOCK_THREAD_CPUTIME_ID);
}

void x86_steal_update(struct x86_cpu *c)
{
	struct steal_time *st;
	u64 wall, cpu, ns;

	if (likely(!(c->kvm.steal & ENABLE)))
		return;
	wall = now(CLOCK_MONOTONIC) - c->kvm.steal_wall;
	if (wall < UPDATE_NS)
		return;
	st = record(c);
	cpu = now(CLOCK_THREAD_CPUTIME_ID) - c->kvm.steal_cpu;
	ns = wall > cpu ? wall - cpu : 0;
	begin(c);
	if (!st)
		return;
	/* Odd while the rest changes; only this thread writes it, and the guest reads. */
	__atomic_store_n(&st->version, st->version | 1, __ATOMIC_SEQ_CST);
	__atomic_store_n(&st->steal, st->steal + ns, __ATOMIC_SEQ_CST);
	__atomic_store_n(&st->version, st->version + 1, __ATOMIC_SEQ_CST);
	record_written(c, st);
}

void x86_steal_halt(struct vcpu *v, bool halted)
{
	struct x86_cpu *c = vcpu_x86(v);
	struct steal_time *st = record(c);
	u8 was;

	if (!st)
		return;
	was = __atomic_exchange_n(&st->preempted, halted ? PREEMPTED : 0, __ATOMIC_SEQ_CST);
	record_written(c, st);
	if (halted)
		return;
	begin(c);
	if (was & FLUSH_TLB) {
		v->stats.count[EXIT_PV_FLUSH]++;
		vcpu_kick(v, VCPU_REQ_TLB_FLUSH);
	}
}

bool x86_steal_set(struct x86_cpu *c, u64 val)
{
	if (val & RESERVED)
		return false;
	c->kvm.steal = val;
	begin(c);
	return true;
}
