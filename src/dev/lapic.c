// SPDX-License-Identifier: MIT
/* The local APIC's registers (SDM volume 3A, chapter 11): through the page, through MSRs, and the
 * state behind them. Messages are in lapic_msg.c, the timer in lapic_timer.c.
 *
 * An access works under the LAPIC's lock and notes what is to follow (an IPI, an EOI broadcast) in
 * a struct after, done when the lock is dropped: those take other LAPICs' locks or the machine
 * lock. */
#include "dev/lapic_priv.h"

#include <string.h>

enum { AFTER_NOTHING, AFTER_IPI, AFTER_SELF_IPI, AFTER_EOI };
struct after {
	int what;
	u8 vector;
	u64 icr;
};

/* ---- state ---- */

static int highest(const u32 v[8])
{
	for (int i = 7; i >= 0; i--)
		if (v[i])
			return i * 32 + 31 - __builtin_clz(v[i]);
	return -1;
}

static void bit_put(u32 v[8], u8 n, bool on)
{
	if (on)
		v[n >> 5] |= 1u << (n & 31);
	else
		v[n >> 5] &= ~(1u << (n & 31));
}

static bool bit_get(const u32 v[8], u8 n)
{
	return v[n >> 5] >> (n & 31) & 1;
}

bool lapic_pending(const struct lapic *l, u8 vector)
{
	return bit_get(l->irr, vector) || bit_get(l->isr, vector);
}

unsigned lapic_ppr(const struct lapic *l)
{
	int isrv = highest(l->isr);
	unsigned in_service = isrv < 0 ? 0 : (unsigned)isrv & 0xf0;

	return (l->tpr & 0xf0u) >= in_service ? l->tpr : in_service;
}

/* The vector to deliver: the highest request, if its class is above the processor's. */
static int lapic_deliverable(const struct lapic *l)
{
	int v = highest(l->irr);

	return v >= 0 && ((unsigned)v & 0xf0) > (lapic_ppr(l) & 0xf0) ? v : -1;
}

static bool lapic_extint(const struct lapic *l)
{
	if (!lapic_hw_enabled(l))
		return l->lint[0]; /* the pins are INTR and NMI then */
	if (l->extint_msg)
		return true;
	for (unsigned n = 0; n < 2; n++) {
		u32 lvt = l->lvt[LVT_LINT0 + n];

		if (l->lint[n] && !(lvt & LVT_MASKED) && LVT_MODE(lvt) == DM_EXTINT)
			return true;
	}
	return false;
}

void lapic_update_intr(struct lapic *l)
{
	bool intr = lapic_extint(l) || (lapic_hw_enabled(l) && lapic_deliverable(l) >= 0);

	if (intr == l->intr)
		return;
	l->intr = intr;
	if (intr)
		vcpu_kick(l->vcpu, VCPU_REQ_IRQ);
	else
		vcpu_clear(l->vcpu, VCPU_REQ_IRQ);
}

bool lapic_accept(struct lapic *l, u8 vector, bool level)
{
	if (!lapic_hw_enabled(l) || !(l->svr & SVR_ENABLE))
		return false;
	if (vector < 16) {
		lapic_error(l, ESR_RECV_ILLEGAL);
		return false;
	}
	bit_put(l->irr, vector, true);
	bit_put(l->tmr, vector, level);
	lapic_update_intr(l);
	return true;
}

void lapic_error(struct lapic *l, u32 bit)
{
	u32 lvt = l->lvt[LVT_ERROR];

	l->errors |= bit;
	if (trace_on(l->trace, TRACE_IRQ))
		trace_msg(l->trace, "lapic %u: error %#x", l->cfg.id, bit);
	/* One interrupt, then none until the ESR is written. */
	if (!l->error_armed || (lvt & LVT_MASKED))
		return;
	l->error_armed = false;
	if ((lvt & LVT_VECTOR) < 16)
		l->errors |= ESR_RECV_ILLEGAL;
	else
		lapic_accept(l, lvt & LVT_VECTOR, false);
}

/* ---- LINT0, LINT1 ---- */

/* An input with a level-triggered fixed interrupt asks while it is high and not in service. */
static void lapic_lint_level(struct lapic *l, unsigned n)
{
	u32 *lvt = &l->lvt[LVT_LINT0 + n];

	if (l->lint[n] && LVT_MODE(*lvt) == DM_FIXED && (*lvt & LVT_LEVEL) &&
	    !(*lvt & (LVT_MASKED | LVT_REMOTE_IRR)) && lapic_accept(l, *lvt & LVT_VECTOR, true))
		*lvt |= LVT_REMOTE_IRR;
}

void lapic_lint(struct lapic *l, unsigned n, bool level)
{
	u32 lvt = l->lvt[LVT_LINT0 + n];
	bool rising = level && !l->lint[n];

	l->lint[n] = level;
	if (!lapic_hw_enabled(l)) {
		if (n == 1 && rising)
			vcpu_nmi(l->vcpu);
	} else if (rising && !(lvt & LVT_MASKED)) {
		switch (LVT_MODE(lvt)) {
		case DM_FIXED:
			if (lvt & LVT_LEVEL)
				lapic_lint_level(l, n);
			else
				lapic_accept(l, lvt & LVT_VECTOR, false);
			break;
		case DM_NMI:
			vcpu_nmi(l->vcpu);
			break;
		case DM_INIT:
			vcpu_clear(l->vcpu, VCPU_REQ_SIPI);
			vcpu_kick(l->vcpu, VCPU_REQ_INIT);
			break;
		}
	}
	lapic_update_intr(l);
}

/* ---- reset ---- */

/* Power-up state (SDM 3A 11.4.7.1) but for the ID and the base; INIT is the same (11.4.7.3). */
void lapic_init_state(struct lapic *l)
{
	lapic_timer_stop(l);
	memset(l->isr, 0, sizeof(l->isr));
	memset(l->irr, 0, sizeof(l->irr));
	memset(l->tmr, 0, sizeof(l->tmr));
	l->tpr = 0;
	l->ldr = 0;
	l->dfr = ~0u;
	l->svr = 0xff;
	l->esr = l->errors = 0;
	l->error_armed = true;
	l->icr = 0;
	l->tdcr = 0;
	l->extint_msg = false;
	for (unsigned i = 0; i < LVT_NR; i++)
		l->lvt[i] = LVT_MASKED;
}

void lapic_reset(struct lapic *l)
{
	pthread_mutex_lock(&l->lock);
	lapic_init_state(l);
	l->xapic_id = (u8)l->cfg.id;
	l->base = LAPIC_DEFAULT_BASE | APIC_BASE_EN | (l->cfg.bsp ? APIC_BASE_BSP : 0);
	lapic_update_intr(l);
	pthread_mutex_unlock(&l->lock);
}

static void lapic_op_init(void *dev)
{
	struct lapic *l = dev;

	pthread_mutex_lock(&l->lock);
	lapic_init_state(l);
	lapic_update_intr(l);
	pthread_mutex_unlock(&l->lock);
}

void lapic_virtual_wire(struct lapic *l)
{
	pthread_mutex_lock(&l->lock);
	l->svr |= SVR_ENABLE;
	l->lvt[LVT_LINT0] = DM_EXTINT << 8;
	l->lvt[LVT_LINT1] = DM_NMI << 8;
	lapic_update_intr(l);
	pthread_mutex_unlock(&l->lock);
}

/* ---- registers ---- */

static u32 lvt_bits(const struct lapic *l, unsigned n)
{
	switch (n) {
	case LVT_TIMER_:
		return l->cfg.tsc_deadline ? 0x700ff : 0x300ff;
	case LVT_THERMAL:
	case LVT_PERF:
		return 0x107ff;
	case LVT_ERROR:
		return 0x100ff;
	default:
		return 0x1a7ff;
	}
}

static void lapic_write_lvt(struct lapic *l, unsigned n, u32 val)
{
	u32 old = l->lvt[n];

	val &= lvt_bits(l, n);
	if (!(l->svr & SVR_ENABLE))
		val |= LVT_MASKED;
	if (n == LVT_TIMER_) {
		lapic_timer_write_lvt(l, val);
		return;
	}
	/* Remote IRR belongs to a level-triggered fixed interrupt. */
	if (LVT_MODE(val) == DM_FIXED && (val & LVT_LEVEL))
		val |= old & LVT_REMOTE_IRR;
	l->lvt[n] = val;
	if (n == LVT_LINT0 || n == LVT_LINT1) {
		lapic_lint_level(l, n - LVT_LINT0);
		lapic_update_intr(l);
	}
}

static void lapic_write_svr(struct lapic *l, u32 val)
{
	l->svr = val & SVR_BITS;
	if (l->svr & SVR_ENABLE)
		return;
	for (unsigned i = 0; i < LVT_NR; i++)
		l->lvt[i] |= LVT_MASKED;
	lapic_update_intr(l);
}

static void lapic_eoi(struct lapic *l, struct after *after)
{
	int v = highest(l->isr);

	if (v < 0)
		return;
	bit_put(l->isr, (u8)v, false);
	if (bit_get(l->tmr, (u8)v)) {
		for (unsigned n = 0; n < 2; n++) {
			u32 *lvt = &l->lvt[LVT_LINT0 + n];

			if ((*lvt & LVT_REMOTE_IRR) && (*lvt & LVT_VECTOR) == (u32)v) {
				*lvt &= ~(u32)LVT_REMOTE_IRR;
				lapic_lint_level(l, n);
			}
		}
		if (!(l->svr & SVR_NO_BROADCAST)) {
			after->what = AFTER_EOI;
			after->vector = (u8)v;
		}
	}
	lapic_update_intr(l);
}

static void lapic_set_tpr(struct lapic *l, u8 tpr)
{
	l->tpr = tpr;
	lapic_update_intr(l);
}

/* The register at `off` (a multiple of 16); *ok false: there is none. */
static u32 lapic_read_reg(struct lapic *l, unsigned off, bool *ok)
{
	bool x2 = lapic_x2apic(l);

	*ok = true;
	switch (off) {
	case APIC_ID:
		return x2 ? l->cfg.id : (u32)l->xapic_id << 24;
	case APIC_VERSION:
		return APIC_VERSION_VALUE;
	case APIC_TPR:
		return l->tpr;
	case APIC_PPR:
		return lapic_ppr(l);
	case APIC_LDR:
		return x2 ? lapic_x2apic_ldr(l) : l->ldr;
	case APIC_SVR:
		return l->svr;
	case APIC_ISR ... APIC_ISR + 0x70:
		return l->isr[(off - APIC_ISR) >> 4];
	case APIC_TMR ... APIC_TMR + 0x70:
		return l->tmr[(off - APIC_TMR) >> 4];
	case APIC_IRR ... APIC_IRR + 0x70:
		return l->irr[(off - APIC_IRR) >> 4];
	case APIC_ESR:
		return l->esr;
	case APIC_ICR:
		return (u32)l->icr;
	case APIC_LVT ... APIC_LVT_LAST:
		return l->lvt[(off - APIC_LVT) >> 4];
	case APIC_TMICT:
		return l->tmict;
	case APIC_TMCCT:
		return lapic_timer_count(l);
	case APIC_TDCR:
		return l->tdcr;
	}
	/* Those that x2APIC mode does not have. */
	if (!x2) {
		switch (off) {
		case APIC_APR:
		case APIC_RRD: /* not in the Pentium 4 and after; no error either */
		case APIC_EOI: /* write only */
			return 0;
		case APIC_DFR:
			return l->dfr;
		case APIC_ICR2:
			return (u32)(l->icr >> 32);
		}
	}
	*ok = false;
	return 0;
}

/* Bits that a WRMSR to the register may set; ~0 in the upper half of the result means that it
 * cannot be written (SDM 3A table 11-6). */
#define X2_NONE (~0ull)
static u64 x2apic_writable(const struct lapic *l, unsigned off)
{
	switch (off) {
	case APIC_TPR:
		return 0xff;
	case APIC_EOI:
	case APIC_ESR:
		return 0;
	case APIC_SVR:
		return SVR_BITS;
	case APIC_ICR:
		return 0xffffffff00000000ull | ICR_BITS;
	case APIC_LVT ... APIC_LVT_LAST: {
		unsigned n = (off - APIC_LVT) >> 4;
		/* Delivery status and remote IRR are read-only, not reserved. */
		return lvt_bits(l, n) | 0x1000 |
		       (n == LVT_LINT0 || n == LVT_LINT1 ? LVT_REMOTE_IRR : 0);
	}
	case APIC_TMICT:
		return 0xffffffff;
	case APIC_TDCR:
		return 0xb;
	case APIC_SELF_IPI:
		return 0xff;
	}
	return X2_NONE;
}

/* Also of those that are only in one of the modes; false: no such register, or read-only. */
static bool lapic_write_reg(struct lapic *l, unsigned off, u32 val, struct after *after)
{
	switch (off) {
	case APIC_TPR:
		lapic_set_tpr(l, (u8)val);
		return true;
	case APIC_EOI:
		lapic_eoi(l, after);
		return true;
	case APIC_SVR:
		lapic_write_svr(l, val);
		return true;
	case APIC_ESR:
		l->esr = l->errors;
		l->errors = 0;
		l->error_armed = true;
		return true;
	case APIC_ICR:
		l->icr = (l->icr & ~0xffffffffull) | (val & ICR_BITS & ~0x1000u);
		after->what = AFTER_IPI;
		after->icr = l->icr;
		return true;
	case APIC_LVT ... APIC_LVT_LAST:
		lapic_write_lvt(l, (off - APIC_LVT) >> 4, val);
		return true;
	case APIC_TMICT:
		lapic_timer_set_count(l, val);
		return true;
	case APIC_TDCR:
		lapic_timer_set_divide(l, val);
		return true;
	}
	return false;
}

/* ---- through the page ---- */

static void lapic_finish(struct lapic *l, const struct after *after, bool x2apic)
{
	struct lapic_set *set = l->set;

	switch (after->what) {
	case AFTER_IPI:
		lapic_send_ipi(l, after->icr, x2apic);
		break;
	case AFTER_SELF_IPI:
		lapic_send_self(l, after->vector);
		break;
	case AFTER_EOI:
		if (!set->wires.eoi)
			break;
		bus_lock(set->bus);
		set->wires.eoi(set->wires.ioapic, after->vector);
		bus_unlock(set->bus);
		break;
	}
}

u64 lapic_mmio_read(struct lapic *l, u64 off, unsigned size)
{
	unsigned skip = off & 15;
	bool ok;
	u64 val;

	pthread_mutex_lock(&l->lock);
	val = lapic_read_reg(l, off & 0xff0, &ok);
	if (!ok)
		lapic_error(l, ESR_ILLEGAL_REG);
	pthread_mutex_unlock(&l->lock);
	/* Only 32-bit accesses at multiples of 16 are defined: pieces of the register, zeros beside
	 * it. */
	return skip < 4 ? val >> (skip * 8) & size_mask(size) : 0;
}

void lapic_mmio_write(struct lapic *l, u64 off, u64 val64, unsigned size)
{
	struct after after = {0};
	u32 val = (u32)val64;
	bool ok = true;

	if ((off & 15) || size < 4) {
		guest_warn(&l->set->rl, "write of %u bytes to APIC register %#llx dropped", size,
		           (unsigned long long)off);
		return;
	}
	pthread_mutex_lock(&l->lock);
	switch (off & 0xff0) {
	case APIC_ID:
		if ((u8)(val >> 24) != l->xapic_id) {
			l->xapic_id = (u8)(val >> 24);
			l->set->ids_moved = true;
		}
		break;
	case APIC_LDR:
		l->ldr = val & 0xff000000;
		break;
	case APIC_DFR:
		l->dfr = val | 0x0fffffff;
		break;
	case APIC_ICR2:
		l->icr = (u32)l->icr | (u64)(val & 0xff000000) << 32;
		break;
	default:
		/* Writes to read-only registers do nothing; to no register they are an error. */
		if (!lapic_write_reg(l, off & 0xff0, val, &after))
			lapic_read_reg(l, off & 0xff0, &ok);
		if (!ok)
			lapic_error(l, ESR_ILLEGAL_REG);
	}
	pthread_mutex_unlock(&l->lock);
	lapic_finish(l, &after, false);
}

static gpa_t lapic_op_mmio_base(void *dev)
{
	struct lapic *l = dev;

	if ((l->base & (APIC_BASE_EN | APIC_BASE_EXTD)) != APIC_BASE_EN)
		return ~0ull;
	return l->base & PAGE_MASK;
}

static bool lapic_op_mmio(void *dev, gpa_t gpa, bool write, u64 *val, unsigned size)
{
	struct lapic *l = dev;
	gpa_t base = lapic_op_mmio_base(l);

	if (base == ~0ull || gpa - base >= PAGE_SIZE)
		return false;
	if (write)
		lapic_mmio_write(l, gpa - base, *val, size);
	else
		*val = lapic_mmio_read(l, gpa - base, size);
	return true;
}

/* ---- through MSRs ---- */

static bool lapic_write_base(struct lapic *l, u64 val)
{
	u64 old = l->base;
	u64 modes = APIC_BASE_EN | APIC_BASE_EXTD;

	/* SDM 3A 11.4.4, figure 11-5, and 11.12.5: the allowed changes of mode. */
	if ((val & 0x2ff) || val >> l->cfg.maxphyaddr)
		return false;
	if ((val & modes) == APIC_BASE_EXTD || ((val & APIC_BASE_EXTD) && !l->cfg.x2apic))
		return false;
	if ((old & modes) == modes && (val & modes) == APIC_BASE_EN)
		return false;
	if (!(old & APIC_BASE_EN) && (val & modes) == modes)
		return false;
	pthread_mutex_lock(&l->lock);
	l->base = val;
	if ((old ^ val) & APIC_BASE_EN) {
		/* Off: "prior initialization may be lost and the APIC may return to the power-up
		 * state" (11.4.3). CR8 goes on working, so the task priority stays. */
		u8 tpr = l->tpr;

		lapic_init_state(l);
		l->tpr = tpr;
		l->xapic_id = (u8)l->cfg.id;
	} else if ((old ^ val) & APIC_BASE_EXTD) {
		/* To x2APIC mode: all is kept but the ID, the LDR, and the destination in the ICR.
		 */
		l->icr = (u32)l->icr;
		l->xapic_id = (u8)l->cfg.id;
		l->ldr = 0;
	}
	lapic_update_intr(l);
	pthread_mutex_unlock(&l->lock);
	if (trace_on(l->trace, TRACE_IRQ))
		trace_msg(l->trace, "lapic %u: base %#llx", l->cfg.id, (unsigned long long)val);
	if ((old ^ val) & (PAGE_MASK | modes))
		vcpu_kick(l->vcpu, VCPU_REQ_TLB_FLUSH);
	return true;
}

static bool lapic_op_rdmsr(void *dev, u32 msr, u64 *val)
{
	struct lapic *l = dev;
	unsigned off = (msr - MSR_X2APIC_FIRST) << 4;
	bool ok;

	switch (msr) {
	case MSR_IA32_APIC_BASE:
		*val = l->base;
		return true;
	case MSR_IA32_TSC_DEADLINE:
		if (!l->cfg.tsc_deadline)
			return false;
		pthread_mutex_lock(&l->lock);
		*val = lapic_timer_deadline(l);
		pthread_mutex_unlock(&l->lock);
		return true;
	case MSR_X2APIC_FIRST ... MSR_X2APIC_LAST:
		if (!lapic_x2apic(l))
			return false;
		pthread_mutex_lock(&l->lock);
		*val = lapic_read_reg(l, off, &ok);
		if (off == APIC_ICR)
			*val = l->icr;
		pthread_mutex_unlock(&l->lock);
		return ok;
	}
	return false;
}

static bool lapic_x2apic_write(struct lapic *l, unsigned off, u64 val)
{
	u64 bits = x2apic_writable(l, off);
	struct after after = {0};

	if (bits == X2_NONE || (val & ~bits))
		return false;
	pthread_mutex_lock(&l->lock);
	if (off == APIC_SELF_IPI) {
		after.what = AFTER_SELF_IPI;
		after.vector = (u8)val;
	} else {
		if (off == APIC_ICR)
			l->icr = val & ~0xffffffffull;
		lapic_write_reg(l, off, (u32)val, &after);
	}
	pthread_mutex_unlock(&l->lock);
	lapic_finish(l, &after, true);
	return true;
}

static bool lapic_op_wrmsr(void *dev, u32 msr, u64 val)
{
	struct lapic *l = dev;

	switch (msr) {
	case MSR_IA32_APIC_BASE:
		return lapic_write_base(l, val);
	case MSR_IA32_TSC_DEADLINE:
		if (!l->cfg.tsc_deadline)
			return false;
		pthread_mutex_lock(&l->lock);
		lapic_timer_set_deadline(l, val);
		pthread_mutex_unlock(&l->lock);
		return true;
	case MSR_X2APIC_FIRST ... MSR_X2APIC_LAST:
		return lapic_x2apic(l) && lapic_x2apic_write(l, (msr - MSR_X2APIC_FIRST) << 4, val);
	}
	return false;
}

/* ---- the processor's side ---- */

static int lapic_op_ack(void *dev)
{
	struct lapic *l = dev;
	struct lapic_set *set = l->set;
	int v;

	pthread_mutex_lock(&l->lock);
	if (lapic_extint(l) && set->wires.inta) {
		/* The 8259 answers, and lowers its line when it has no more. */
		l->extint_msg = false;
		lapic_update_intr(l);
		pthread_mutex_unlock(&l->lock);
		return set->wires.inta(set->wires.pic);
	}
	v = lapic_hw_enabled(l) ? lapic_deliverable(l) : -1;
	if (v >= 0) {
		bit_put(l->irr, (u8)v, false);
		bit_put(l->isr, (u8)v, true);
	}
	lapic_update_intr(l);
	pthread_mutex_unlock(&l->lock);
	return v;
}

static unsigned lapic_op_get_cr8(void *dev)
{
	struct lapic *l = dev;

	return l->tpr >> 4; /* written by this thread only */
}

static void lapic_op_set_cr8(void *dev, unsigned cr8)
{
	struct lapic *l = dev;

	pthread_mutex_lock(&l->lock);
	lapic_set_tpr(l, (u8)(cr8 << 4));
	pthread_mutex_unlock(&l->lock);
}

static int lapic_op_send_ipis(void *dev, u64 low, u64 high, u32 min, u32 icr)
{
	return lapic_send_ipis(dev, low, high, min, icr);
}

static void lapic_op_tsc_changed(void *dev)
{
	lapic_tsc_changed(dev);
}

const struct irqchip_ops lapic_irqchip_ops = {
	.ack = lapic_op_ack,
	.get_cr8 = lapic_op_get_cr8,
	.set_cr8 = lapic_op_set_cr8,
	.rdmsr = lapic_op_rdmsr,
	.wrmsr = lapic_op_wrmsr,
	.init = lapic_op_init,
	.mmio = lapic_op_mmio,
	.mmio_base = lapic_op_mmio_base,
	.send_ipis = lapic_op_send_ipis,
	.tsc_changed = lapic_op_tsc_changed,
};

/* ---- for people ---- */

static void dump_vectors(const char *name, const u32 v[8], FILE *out)
{
	fprintf(out, "  %s", name);
	for (unsigned i = 0; i < 256; i++)
		if (bit_get(v, (u8)i))
			fprintf(out, " %02x", i);
	fprintf(out, "\n");
}

void lapic_dump(struct lapic *l, FILE *out)
{
	pthread_mutex_lock(&l->lock);
	fprintf(out,
	        "lapic %u: base %#llx id %u tpr %02x ppr %02x svr %x esr %x/%x ldr %08x dfr %08x "
	        "icr "
	        "%016llx intr %d\n",
	        l->cfg.id, (unsigned long long)l->base, l->xapic_id, l->tpr, lapic_ppr(l), l->svr,
	        l->esr, l->errors, l->ldr, l->dfr, (unsigned long long)l->icr, l->intr);
	fprintf(out, "  lvt timer %x thermal %x perf %x lint0 %x (%d) lint1 %x (%d) error %x\n",
	        l->lvt[0], l->lvt[1], l->lvt[2], l->lvt[3], l->lint[0], l->lvt[4], l->lint[1],
	        l->lvt[5]);
	fprintf(out, "  timer initial %u count %u divide %x deadline %#llx\n", l->tmict,
	        lapic_timer_count(l), l->tdcr, (unsigned long long)l->tsc_deadline);
	dump_vectors("irr", l->irr, out);
	dump_vectors("isr", l->isr, out);
	dump_vectors("tmr", l->tmr, out);
	pthread_mutex_unlock(&l->lock);
}
