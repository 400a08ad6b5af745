// SPDX-License-Identifier: MIT
/* Local APIC (SDM 3A chapter 11), start of the other CPUs (9.4), time. */
#include "rt.h"

extern u8 ap_start[], ap_start_end[];
extern volatile u32 cpus_entered;

void apic_on(void)
{
	apic_write(APIC_SVR, 0x1ff);
	apic_write(APIC_LVTT, 0x10000);
	apic_write(APIC_TMICT, 0);
	apic_write(APIC_TPR, 0);
	for (unsigned i = 0; i < 8; i++) /* what was in service when a case was left */
		apic_write(APIC_EOI, 0);
}

void ipi(unsigned cpu, u32 icr)
{
	while (apic_read(APIC_ICR) & 0x1000)
		;
	apic_write(APIC_ICR2, cpu << 24);
	apic_write(APIC_ICR, icr);
}

void timer_start(u32 ns, u32 mode)
{
	apic_write(APIC_TDCR, 0xb); /* divide by 1 */
	apic_write(APIC_LVTT, V_TIMER | mode);
	apic_write(APIC_TMICT, ns);
}

void timer_stop(void)
{
	apic_write(APIC_LVTT, 0x10000);
	apic_write(APIC_TMICT, 0);
}

/* The APIC's timer is the clock, masked; so not while it is in use. */
void delay_ns(u64 ns)
{
	apic_write(APIC_TDCR, 0xb);
	apic_write(APIC_LVTT, 0x10000);
	apic_write(APIC_TMICT, (u32)ns);
	while (apic_read(APIC_TMCCT))
		asm volatile("pause");
}

u64 tsc_per_ms(void)
{
	static u64 known;
	u64 t = rdtsc();

	if (!known) {
		delay_ns(20 * 1000 * 1000);
		known = (rdtsc() - t) / 20;
	}
	return known;
}

/* ---- other CPUs ---- */

static bool on_ipi(struct regs *r)
{
	apic_write(APIC_EOI, 0);
	return true;
}

void ap_main(struct cpu *c)
{
	for (;;) {
		cpu_reset_state();
		set_handler(V_IPI, on_ipi);
		c->busy = false;
		while (!c->fn)
			asm volatile("sti; hlt; cli" ::: "memory");
		write_cr3(read_cr3()); /* the caller has changed mappings */
		c->fn(c->arg);
		c->fn = NULL;
	}
}

void smp_start(unsigned n)
{
	if (n > MAX_CPUS)
		n = MAX_CPUS;
	memcpy(phys(AP_START), ap_start, (u64)(ap_start_end - ap_start));
	for (unsigned i = 1; i < n; i++)
		cpu_of(i)->busy = true;
	for (unsigned i = 1; i < n; i++) {
		ipi(i, ICR_INIT | ICR_ASSERT);
		delay_ns(10 * 1000 * 1000);
		ipi(i, ICR_SIPI | ICR_ASSERT | AP_START >> 12);
		while (cpu_of(i)->busy)
			asm volatile("pause");
	}
}

void smp_call(unsigned cpu, void (*fn)(void *), void *arg)
{
	struct cpu *c = cpu_of(cpu);

	c->arg = arg;
	c->busy = true;
	barrier();
	c->fn = fn;
	ipi(cpu, V_IPI | ICR_ASSERT);
}

void smp_wait(unsigned cpu)
{
	while (cpu_of(cpu)->busy)
		asm volatile("pause" ::: "memory");
}

void smp_all(void (*fn)(void *))
{
	for (unsigned i = 1; i < nr_cpus(); i++)
		smp_call(i, fn, (void *)(u64)i);
	fn((void *)0);
	for (unsigned i = 1; i < nr_cpus(); i++)
		smp_wait(i);
}
