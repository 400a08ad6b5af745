// SPDX-License-Identifier: MIT
/* Breakpoints: the guest's (DR0..DR7, SDM 3B 17.2) and the debugger's (vm->breakpoint).
 *
 * While any is set the engine goes one instruction at a time (c->step) and pages with watched data
 * are kept out of the TLB, so that nothing here costs anything otherwise. An instruction breakpoint
 * is a fault before its instruction; data and I/O breakpoints are collected in c->dr6_pending and
 * become one trap when the instruction is over. The debugger's watchpoints are left in
 * vcpu->debug. */
#include "cpu/x86/x86.h"

enum dr7_rw { RW_EXEC, RW_WRITE, RW_IO, RW_ACCESS };

static bool bp_enabled(const struct x86_cpu *c, unsigned i)
{
	return c->dr[7] & (3ull << (2 * i)); /* Ln or Gn */
}

static enum dr7_rw bp_rw(const struct x86_cpu *c, unsigned i)
{
	return (enum dr7_rw)((c->dr[7] >> (16 + 4 * i)) & 3);
}

static unsigned bp_len(const struct x86_cpu *c, unsigned i)
{
	static const u8 len[] = {1, 2, 8, 4};

	return len[(c->dr[7] >> (18 + 4 * i)) & 3];
}

static bool overlap(u64 a, u64 alen, u64 b, u64 blen)
{
	return a - b < blen || b - a < alen;
}

/* The breakpoint's range; its address is taken as aligned to its length. */
static bool bp_touches(const struct x86_cpu *c, unsigned i, u64 addr, u64 len)
{
	u64 n = bp_len(c, i);

	return overlap(addr, len, c->dr[i] & ~(n - 1), n);
}

static bool any_enabled(const struct x86_cpu *c)
{
	return c->dr[7] & 0xff;
}

/* ---- the guest's ---- */

void x86_check_code_bp(struct x86_cpu *c)
{
	u64 addr = c->mode & M_CS64 ? c->rip : (u32)(c->seg[CS].base + c->rip);
	struct x86_event ev = {.type = EV_FAULT, .vector = X86_DB};

	if (!any_enabled(c) || (c->sflags & X86_RFLAGS_RF) || c->shadow_db)
		return;
	for (unsigned i = 0; i < 4; i++)
		if (bp_enabled(c, i) && bp_rw(c, i) == RW_EXEC && c->dr[i] == addr)
			ev.dr6 |= BIT(i);
	if (ev.dr6)
		x86_raise_ev(c, &ev);
}

void x86_check_io_bp(struct x86_cpu *c, u16 port, unsigned size)
{
	if (likely(!any_enabled(c)) || !(c->cr4 & CR4_DE))
		return;
	for (unsigned i = 0; i < 4; i++)
		if (bp_enabled(c, i) && bp_rw(c, i) == RW_IO && bp_touches(c, i, port, size))
			c->dr6_pending |= BIT(i);
}

/* ---- both ---- */

static bool watch_hits(const struct breakpoint *b, gva_t addr, u64 size, bool write)
{
	bool kind = b->kind == BP_ACCESS || b->kind == (write ? BP_WRITE : BP_READ);

	return kind && overlap(addr, size, b->addr, b->len);
}

void x86_check_data_bp(struct x86_cpu *c, gva_t addr, unsigned size, bool write)
{
	struct vcpu *v = c->vcpu;

	for (unsigned i = 0; any_enabled(c) && i < 4; i++) {
		enum dr7_rw rw = bp_rw(c, i);

		if (bp_enabled(c, i) && (rw == RW_ACCESS || (rw == RW_WRITE && write)) &&
		    bp_touches(c, i, addr, size))
			c->dr6_pending |= BIT(i);
	}
	for (unsigned i = 0; i < v->vm->nr_breakpoints; i++) {
		const struct breakpoint *b = &v->vm->breakpoint[i];

		if (watch_hits(b, addr, size, write))
			v->debug = (struct debug_info){.reason = DEBUG_WATCH, .addr = b->addr};
	}
}

bool x86_page_watched(const struct x86_cpu *c, gva_t page)
{
	const struct vm *vm = c->vcpu->vm;

	for (unsigned i = 0; any_enabled(c) && i < 4; i++) {
		enum dr7_rw rw = bp_rw(c, i);

		if (bp_enabled(c, i) && (rw == RW_ACCESS || rw == RW_WRITE) &&
		    bp_touches(c, i, page, PAGE_SIZE))
			return true;
	}
	for (unsigned i = 0; i < vm->nr_breakpoints; i++) {
		const struct breakpoint *b = &vm->breakpoint[i];

		if (b->kind >= BP_WRITE && overlap(page, PAGE_SIZE, b->addr, b->len))
			return true;
	}
	return false;
}

bool x86_debugger_bp(const struct x86_cpu *c)
{
	const struct vm *vm = c->vcpu->vm;
	u64 addr = c->mode & M_CS64 ? c->rip : (u32)(c->seg[CS].base + c->rip);

	for (unsigned i = 0; i < vm->nr_breakpoints; i++) {
		const struct breakpoint *b = &vm->breakpoint[i];

		if (b->kind <= BP_HARD && b->addr == addr)
			return true;
	}
	return false;
}
