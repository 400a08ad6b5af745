// SPDX-License-Identifier: MIT
/* Messages between APICs: whom a destination names (SDM volume 3A, 11.6.2), lowest-priority
 * arbitration, IPIs, MSIs.
 *
 * Each LAPIC is asked under its own lock whether it is meant, one after the other, so a
 * message is not atomic over its receivers; on the APIC bus of old or the system bus it is not
 * either.
 *
 * Modes may be mixed while a guest switches its CPUs to x2APIC one by one. Then: a
 * broadcast (FFH from a source with 8-bit destinations, FFFFFFFFH from an x2APIC) reaches all, and
 * an 8-bit logical destination means cluster 0 to a CPU in x2APIC mode. */
#include "dev/lapic_priv.h"

#include <errno.h>
#include <stdlib.h>

/* Interrupt command register, shorthand */
enum { TO_DEST, TO_SELF, TO_ALL, TO_OTHERS };

static bool lapic_matches(const struct lapic *l, const struct lapic_msg *m)
{
	u32 ldr = l->ldr >> 24;

	if (!lapic_hw_enabled(l) || l == m->except)
		return false;
	if (m->broadcast)
		return true;
	if (!m->logical)
		return m->dest == (lapic_x2apic(l) ? l->cfg.id : l->xapic_id);
	if (lapic_x2apic(l)) {
		ldr = lapic_x2apic_ldr(l);
		return m->dest >> 16 == ldr >> 16 && (m->dest & ldr & 0xffff);
	}
	if (m->dest > 0xff)
		return false;
	switch (l->dfr >> 28) {
	case 0xf: /* flat */
		return m->dest & ldr;
	case 0: /* cluster */
		return m->dest >> 4 == ldr >> 4 && (m->dest & ldr & 0xf);
	}
	return false;
}

/* One LAPIC takes the message. */
static bool lapic_take(struct lapic *l, const struct lapic_msg *m)
{
	switch (m->mode) {
	case DM_FIXED:
	case DM_LOWEST:
		return lapic_accept(l, m->vector, m->level);
	case DM_NMI:
		vcpu_nmi(l->vcpu);
		return true;
	case DM_INIT:
		/* A SIPI from before is void; one that comes after stays, see vcpu.c. */
		vcpu_clear(l->vcpu, VCPU_REQ_SIPI);
		vcpu_kick(l->vcpu, VCPU_REQ_INIT);
		return true;
	case DM_STARTUP:
		l->vcpu->sipi_vector = m->vector;
		vcpu_kick(l->vcpu, VCPU_REQ_SIPI);
		return true;
	case DM_EXTINT:
		l->extint_msg = true;
		lapic_update_intr(l);
		return true;
	case DM_SMI:
		guest_warn(&l->set->rl, "SMI to CPU %u dropped: there is no system management mode",
		           l->cfg.id);
		return false;
	}
	return false; /* remote read, reserved */
}

static bool lapic_offer(struct lapic *l, const struct lapic_msg *m)
{
	bool taken = false;

	pthread_mutex_lock(&l->lock);
	if (lapic_matches(l, m)) {
		taken = lapic_take(l, m);
		if (trace_on(l->trace, TRACE_IRQ))
			trace_msg(l->trace, "lapic %u: message mode %u vector %#x%s%s", l->cfg.id,
			          m->mode, m->vector, m->level ? " level" : "",
			          taken ? "" : ", not taken");
	}
	pthread_mutex_unlock(&l->lock);
	return taken;
}

/* Lowest priority: the focus processor if there is one (it has the vector pending or in service
 * and does focus checking), else the lowest PPR; among equals they take turns. */
static bool lapic_arbitrate(struct lapic_set *set, const struct lapic_msg *m)
{
	struct lapic *best[LAPIC_MAX];
	unsigned nr = 0, best_ppr = ~0u;

	for (unsigned i = 0; i < set->nr; i++) {
		struct lapic *l = set->lapic[i];
		bool match, focus = false;
		unsigned ppr = 0;

		pthread_mutex_lock(&l->lock);
		match = lapic_matches(l, m) && (l->svr & SVR_ENABLE);
		if (match) {
			ppr = lapic_ppr(l);
			focus = !(l->svr & SVR_NO_FOCUS) && lapic_pending(l, m->vector);
		}
		pthread_mutex_unlock(&l->lock);
		if (!match || (!focus && ppr > best_ppr))
			continue;
		if (focus || ppr < best_ppr)
			nr = 0;
		best[nr++] = l;
		best_ppr = ppr;
		if (focus)
			break;
	}
	if (!nr)
		return false;
	return lapic_offer(
		best[atomic_fetch_add_explicit(&set->rotor, 1, memory_order_relaxed) % nr], m);
}

bool lapic_send(struct lapic_set *set, const struct lapic_msg *m)
{
	bool taken = false;

	if (m->mode == DM_LOWEST)
		return lapic_arbitrate(set, m);
	if (!m->logical && !m->broadcast &&
	    !atomic_load_explicit(&set->ids_moved, memory_order_relaxed))
		return m->dest < ARRAY_SIZE(set->by_id) && set->by_id[m->dest] &&
		       lapic_offer(set->by_id[m->dest], m);
	for (unsigned i = 0; i < set->nr; i++)
		taken |= lapic_offer(set->lapic[i], m);
	return taken;
}

/* The vector of a message that has one is legal, or the sender's ESR says so. */
static bool lapic_vector_ok(struct lapic *l, unsigned mode, u8 vector)
{
	if (vector >= 16 || (mode != DM_FIXED && mode != DM_LOWEST))
		return true;
	pthread_mutex_lock(&l->lock);
	lapic_error(l, ESR_SEND_ILLEGAL);
	pthread_mutex_unlock(&l->lock);
	return false;
}

static bool lapic_take_locked(struct lapic *l, const struct lapic_msg *m)
{
	bool taken;

	pthread_mutex_lock(&l->lock);
	taken = lapic_hw_enabled(l) && lapic_take(l, m);
	pthread_mutex_unlock(&l->lock);
	return taken;
}

void lapic_send_ipi(struct lapic *l, u64 icr, bool x2apic)
{
	unsigned shorthand = icr >> 18 & 3;
	/* Trigger mode and level only matter to tell INIT from INIT level de-assert, which sets
	 * arbitration IDs on the Pentium and nothing since (SDM 3A 11.6.1). */
	struct lapic_msg m = {
		.dest = (u32)(x2apic ? icr >> 32 : icr >> 56),
		.logical = icr & LVT_LOGICAL,
		.mode = LVT_MODE(icr),
		.vector = (u8)icr,
	};

	m.broadcast = m.dest == (x2apic ? ~0u : 0xffu);
	if (trace_on(l->trace, TRACE_IRQ))
		trace_msg(l->trace, "lapic %u: IPI icr %#llx", l->cfg.id, (unsigned long long)icr);
	if (m.mode == DM_INIT && (icr & LVT_LEVEL) && !(icr & LVT_ASSERT))
		return;
	if (m.mode == DM_REMOTE_READ || m.mode == DM_EXTINT) {
		guest_warn(&l->set->rl, "IPI with delivery mode %u dropped", m.mode);
		return;
	}
	if (!lapic_vector_ok(l, m.mode, m.vector))
		return;
	switch (shorthand) {
	case TO_DEST:
		lapic_send(l->set, &m);
		break;
	case TO_SELF:
		lapic_take_locked(l, &m);
		break;
	case TO_OTHERS:
		m.except = l;
		m.broadcast = true;
		lapic_send(l->set, &m);
		break;
	case TO_ALL:
		m.broadcast = true;
		lapic_send(l->set, &m);
		break;
	}
}

int lapic_send_ipis(struct lapic *l, u64 low, u64 high, u32 min, u32 icr)
{
	struct lapic_msg m = {.mode = LVT_MODE(icr), .vector = (u8)icr};
	u64 bits[2] = {low, high};
	int n = 0;

	/* No destination mode, no shorthand; and not what lapic_send_ipi() refuses. */
	if (icr & (LVT_LOGICAL | 0xc0000))
		return -1;
	if (m.mode != DM_NMI && (m.mode != DM_FIXED || m.vector < 16))
		return 0;
	for (unsigned w = 0; w < 2; w++) {
		for (; bits[w]; bits[w] &= bits[w] - 1) {
			u64 id = (u64)min + w * 64 + (unsigned)__builtin_ctzll(bits[w]);
			struct lapic *to =
				id < ARRAY_SIZE(l->set->by_id) ? l->set->by_id[id] : NULL;

			n += to && lapic_take_locked(to, &m);
		}
	}
	return n;
}

void lapic_send_self(struct lapic *l, u8 vector)
{
	pthread_mutex_lock(&l->lock);
	if (vector < 16)
		lapic_error(l, ESR_SEND_ILLEGAL);
	lapic_accept(l, vector, false);
	pthread_mutex_unlock(&l->lock);
}

bool lapic_set_msi(void *dev, u64 addr, u32 data)
{
	struct lapic_set *set = dev;
	struct lapic_msg m = {
		.dest = addr >> 12 & 0xff,
		.logical = addr >> 2 & 1,
		.mode = LVT_MODE(data),
		.vector = (u8)data,
		.level = data & LVT_LEVEL,
	};

	if (addr >> 20 != LAPIC_DEFAULT_BASE >> 20) {
		guest_warn(&set->rl, "MSI to address %#llx dropped", (unsigned long long)addr);
		return false;
	}
	m.broadcast = m.dest == 0xff;
	/* A level message with the level de-asserted only takes back an earlier one. */
	if (m.level && !(data & LVT_ASSERT))
		return false;
	/* Redirection hint: to one of the set that the logical destination names. */
	if ((addr & 8) && m.logical && m.mode == DM_FIXED)
		m.mode = DM_LOWEST;
	if (m.mode == DM_STARTUP || m.mode == DM_REMOTE_READ) {
		guest_warn(&set->rl, "MSI with delivery mode %u dropped", m.mode);
		return false;
	}
	return lapic_send(set, &m);
}

static void lapic_set_lint(struct lapic_set *set, unsigned n, bool level)
{
	if (set->level[n] == level)
		return;
	set->level[n] = level;
	for (unsigned i = 0; i < set->nr; i++) {
		struct lapic *l = set->lapic[i];

		pthread_mutex_lock(&l->lock);
		lapic_lint(l, n, level);
		pthread_mutex_unlock(&l->lock);
	}
}

void lapic_set_extint(void *set, bool level)
{
	lapic_set_lint(set, 0, level);
}

void lapic_set_lint1(void *set, bool level)
{
	lapic_set_lint(set, 1, level);
}

/* ---- the set as a device ---- */

static void lapic_set_reset(struct dev *d)
{
	struct lapic_set *set = container_of(d, struct lapic_set, dev);

	set->ids_moved = false;
	for (unsigned i = 0; i < set->nr; i++)
		lapic_reset(set->lapic[i]);
}

static void lapic_set_dump(struct dev *d, FILE *out)
{
	struct lapic_set *set = container_of(d, struct lapic_set, dev);

	for (unsigned i = 0; i < set->nr; i++)
		lapic_dump(set->lapic[i], out);
}

static void lapic_set_destroy(struct dev *d)
{
	struct lapic_set *set = container_of(d, struct lapic_set, dev);

	for (unsigned i = 0; i < set->nr; i++) {
		struct lapic *l = set->lapic[i];

		timer_cancel(&l->timer);
		l->vcpu->irqchip = NULL;
		l->vcpu->irqchip_dev = NULL;
		pthread_mutex_destroy(&l->lock);
		free(l);
	}
	free(set);
}

static const struct dev_ops lapic_dev_ops = {
	.reset = lapic_set_reset,
	.destroy = lapic_set_destroy,
	.dump = lapic_set_dump,
};

int lapic_set_create(struct lapic_set **out, const struct dev_env *env)
{
	struct lapic_set *set = calloc(1, sizeof(*set));

	if (!set) {
		log_error("lapic: out of memory");
		return -ENOMEM;
	}
	set->dev = (struct dev){.name = "lapic", .ops = &lapic_dev_ops};
	set->bus = env->bus;
	set->loop = env->loop;
	set->trace = env->trace;
	dev_register(env, &set->dev);
	*out = set;
	return 0;
}

void lapic_set_wire(struct lapic_set *set, const struct lapic_wires *wires)
{
	set->wires = *wires;
}

int lapic_create(struct lapic **out, struct lapic_set *set, const struct lapic_config *cfg)
{
	struct lapic *l;

	if (set->nr == LAPIC_MAX || cfg->id >= 255 || set->by_id[cfg->id] ||
	    (cfg->tsc_deadline && (!cfg->tsc_khz || !cfg->tsc_now)) || cfg->maxphyaddr < 32 ||
	    cfg->maxphyaddr > 52) {
		log_error("lapic: bad configuration for APIC ID %u", cfg->id);
		return -EINVAL;
	}
	l = calloc(1, sizeof(*l));
	if (!l) {
		log_error("lapic: out of memory");
		return -ENOMEM;
	}
	pthread_mutex_init(&l->lock, NULL);
	l->set = set;
	l->vcpu = cfg->vcpu;
	l->cfg = *cfg;
	l->trace = set->trace;
	l->lint[0] = set->level[0];
	l->lint[1] = set->level[1];
	lapic_timer_init(l);
	lapic_reset(l);
	l->vcpu->irqchip = &lapic_irqchip_ops;
	l->vcpu->irqchip_dev = l;
	set->lapic[set->nr++] = l;
	set->by_id[cfg->id] = l;
	*out = l;
	return 0;
}
