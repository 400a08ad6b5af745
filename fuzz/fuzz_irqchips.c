// SPDX-License-Identifier: MIT
/* PIC, I/O APIC, local APICs and PIT, wired as in the machine, under a stream of register accesses,
 * line changes, time, interrupt acknowledges. Each input starts on a fresh machine.
 *
 * Checked besides what the sanitizers see: VCPU_REQ_IRQ says at every moment whether ack() would
 * find a vector. */
#include <stdlib.h>
#include <string.h>

#include "bus/dev.h"
#include "dev/ioapic.h"
#include "dev/lapic.h"
#include "dev/pic.h"
#include "dev/pit.h"

#define NR 3

struct machine {
	struct bus *bus;
	struct loop *loop;
	struct irq_router irq;
	struct dev *devices;
	struct lapic_set *set;
	struct vcpu v[NR];
	struct lapic *l[NR];
	u64 tsc_offset;
};

struct input {
	const u8 *p, *end;
};

static u64 take(struct input *in, unsigned n)
{
	u64 v = 0;

	n = (unsigned)MIN((size_t)n, (size_t)(in->end - in->p));
	memcpy(&v, in->p, n);
	in->p += n;
	return v;
}

static u64 tsc_now(struct vcpu *v)
{
	struct machine *m = container_of(v - v->index, struct machine, v[0]);

	return loop_now(m->loop) * 2 + m->tsc_offset;
}

#define must(x)                                                                                    \
	do {                                                                                       \
		if (!(x))                                                                          \
			bug("%s", #x);                                                             \
	} while (0)

static void machine_make(struct machine *m)
{
	struct dev_env env = {.loop = NULL};
	struct pic_config pc;
	struct ioapic_config ic;
	struct lapic_wires wires;
	struct pic *pic;
	struct ioapic *ioapic;
	struct pit *pit;

	must(!bus_create(&m->bus, NULL));
	must(!loop_create(&m->loop, &m->bus->lock));
	loop_clock_stop(m->loop);
	env = (struct dev_env){m->bus, m->loop, &m->irq, NULL, NULL, &m->devices};
	must(!lapic_set_create(&m->set, &env));
	pc = (struct pic_config){lapic_set_extint, m->set};
	must(!pic_create(&pic, &env, &pc));
	ic = (struct ioapic_config){lapic_set_msi, m->set, 0x20, 0, true};
	must(!ioapic_create(&ioapic, &env, &ic));
	must(!pit_create(&pit, &env));
	wires = (struct lapic_wires){pic_ack, pic, ioapic_eoi, ioapic};
	lapic_set_wire(m->set, &wires);
	for (unsigned i = 0; i < NR; i++) {
		struct lapic_config lc = {
			.vcpu = &m->v[i],
			.id = i,
			.bsp = !i,
			.maxphyaddr = 40,
			.x2apic = true,
			.tsc_deadline = true,
			.tsc_khz = 2000000,
			.tsc_now = tsc_now,
		};

		pthread_mutex_init(&m->v[i].lock, NULL);
		pthread_cond_init(&m->v[i].cond, NULL);
		m->v[i].index = i;
		must(!lapic_create(&m->l[i], m->set, &lc));
	}
}

static void machine_free(struct machine *m)
{
	dev_destroy_all(&m->devices);
	loop_destroy(m->loop);
	bus_destroy(m->bus);
	for (unsigned i = 0; i < NR; i++) {
		pthread_mutex_destroy(&m->v[i].lock);
		pthread_cond_destroy(&m->v[i].cond);
	}
}

/* Most of the space is uninteresting: fold addresses onto registers. */
static u16 port_of(u8 b)
{
	static const u16 port[] = {0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1,
	                           0x40, 0x41, 0x42, 0x43, 0x61};

	return port[b % ARRAY_SIZE(port)];
}

static void cpu_ack(struct machine *m, unsigned cpu)
{
	struct vcpu *v = &m->v[cpu];
	bool pending = v->req & VCPU_REQ_IRQ;
	int vector;

	if (!pending)
		return;
	vector = v->irqchip->ack(v->irqchip_dev);
	must(vector >= 0 && vector < 256);
}

static void one(struct machine *m, struct input *in)
{
	u8 op = (u8)take(in, 1);
	struct vcpu *v = &m->v[op >> 4 & 15 ? (op >> 4 & 15) % NR : 0];
	u64 val, a;

	switch (op & 15) {
	case 0:
		bus_write(m->bus, BUS_PIO, port_of((u8)take(in, 1)), take(in, 1), 1);
		break;
	case 1:
		bus_read(m->bus, BUS_PIO, port_of((u8)take(in, 1)), 1);
		break;
	case 2: /* an I/O APIC register */
		bus_write(m->bus, BUS_MMIO, IOAPIC_BASE, take(in, 1), 4);
		bus_write(m->bus, BUS_MMIO, IOAPIC_BASE + 0x10, take(in, 4), 4);
		break;
	case 3: /* any access to its page */
		a = IOAPIC_BASE + (take(in, 2) & 0xfff);
		if (a & 1)
			bus_write(m->bus, BUS_MMIO, a, take(in, 8), 1u << (op >> 4 & 3));
		else
			bus_read(m->bus, BUS_MMIO, a, 1u << (op >> 4 & 3));
		break;
	case 4: /* a LAPIC register, where it is and in which mode */
		a = take(in, 1) << 4;
		val = take(in, 4);
		if (!v->irqchip->mmio(v->irqchip_dev, LAPIC_DEFAULT_BASE + a, true, &val, 4))
			v->irqchip->wrmsr(v->irqchip_dev, (u32)(0x800 + (a >> 4)), val);
		break;
	case 5:
		a = take(in, 2);
		if (!v->irqchip->mmio(v->irqchip_dev, LAPIC_DEFAULT_BASE + (a & 0xfff), false, &val,
		                      1u << (a >> 12 & 3)))
			v->irqchip->rdmsr(v->irqchip_dev, (u32)(0x800 + (a & 0xff)), &val);
		break;
	case 6:
		a = take(in, 1);
		v->irqchip->wrmsr(v->irqchip_dev, (u32)(0x800 + a), take(in, 8));
		break;
	case 7:
		a = take(in, 2);
		v->irqchip->wrmsr(v->irqchip_dev, MSR_IA32_APIC_BASE,
		                  LAPIC_DEFAULT_BASE | (a & 0xfff));
		break;
	case 8: /* a deadline: near, or anything */
		a = take(in, 4);
		if (op & 0x80)
			a = take(in, 8);
		else
			a += tsc_now(v);
		v->irqchip->wrmsr(v->irqchip_dev, MSR_IA32_TSC_DEADLINE, a);
		must(v->irqchip->rdmsr(v->irqchip_dev, MSR_IA32_TSC_DEADLINE, &val));
		break;
	case 9:
		a = take(in, 1);
		bus_lock(m->bus);
		irq_set(&m->irq, a & 31, a & 0x80);
		bus_unlock(m->bus);
		break;
	case 10: /* up to 4 ms: some hundred timers at most */
		loop_clock_step(m->loop, take(in, op & 0x10 ? 1 : 2) * 64);
		break;
	case 11:
		cpu_ack(m, (unsigned)(v - m->v));
		break;
	case 12:
		lapic_set_msi(m->set, LAPIC_DEFAULT_BASE | (take(in, 3) & 0xfffff),
		              (u32)take(in, 2));
		break;
	case 13:
		a = take(in, 1);
		v->irqchip->set_cr8(v->irqchip_dev, a & 15);
		must(v->irqchip->get_cr8(v->irqchip_dev) == (a & 15));
		break;
	case 14:
		a = take(in, 1);
		switch (a % 6) {
		case 0:
			v->irqchip->init(v->irqchip_dev);
			break;
		case 1:
			lapic_set_lint1(m->set, a & 0x80);
			break;
		case 2:
			m->tsc_offset += take(in, 4);
			lapic_tsc_changed(v->irqchip_dev);
			break;
		case 3:
			lapic_virtual_wire(v->irqchip_dev);
			break;
		case 4:
			bus_lock(m->bus);
			dev_reset_all(m->devices);
			bus_unlock(m->bus);
			break;
		case 5:
			vcpu_clear(v, ~(u32)VCPU_REQ_IRQ);
			break;
		}
		break;
	case 15: { /* a state worth having: everything on */
		static const u8 icw[][2] = {{0, 0x11}, {1, 0x20}, {1, 4}, {1, 1},
		                            {2, 0x11}, {3, 0x28}, {3, 2}, {3, 1}};

		for (unsigned i = 0; i < ARRAY_SIZE(icw); i++)
			bus_write(m->bus, BUS_PIO, port_of(icw[i][0]), icw[i][1], 1);
		for (unsigned i = 0; i < NR; i++)
			lapic_virtual_wire(m->l[i]);
		break;
	}
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct machine *m = calloc(1, sizeof(*m));
	struct input in = {data, data + MIN(size, (size_t)4096)};

	log_set_level(LOG_ERROR);
	must(m);
	machine_make(m);
	while (in.p < in.end) {
		one(m, &in);
		for (unsigned i = 0; i < NR; i++)
			must((m->v[i].req & VCPU_REQ_IRQ) ||
			     m->v[i].irqchip->ack(m->v[i].irqchip_dev) == -1);
	}
	/* Drain: each ack takes something away, so it ends. */
	for (unsigned i = 0; i < NR; i++) {
		for (unsigned n = 0; (m->v[i].req & VCPU_REQ_IRQ) && n < 600; n++)
			cpu_ack(m, i);
	}
	machine_free(m);
	free(m);
	return 0;
}
