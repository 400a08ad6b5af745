// SPDX-License-Identifier: MIT
/* A processor's life: creation, RESET, INIT, SIPI (SDM 3A 9.1, table 9-1; 8.4), what is derived
 * from its registers, and how an instruction is abandoned for an exception. */
#include "cpu/x86/kvmpv.h"
#include "cpu/x86/x86.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/large.h"
#include "cpu/x86/inputs.h"
#include "cpu/x86/mmu.h"

/* ---- derived state ---- */

/* To 4 GiB, readable, and writable when it is data. */
static bool seg_whole(const struct x86_seg *s, bool code)
{
	const u32 need = SEG_P | SEG_S | SEG_RW | (code ? SEG_CODE : 0);
	const u32 care = SEG_P | SEG_S | SEG_RW | SEG_CODE | SEG_UNUSABLE | (code ? 0 : SEG_EC);

	return s->limit == 0xffffffff && (s->ar & care) == need;
}

/* Usable without any check but the page tables'. */
static bool seg_flat(const struct x86_seg *s, bool code)
{
	return !s->base && seg_whole(s, code);
}

void x86_update_segbar(struct x86_cpu *c, unsigned index)
{
	c->segbar[index] = seg_whole(&c->seg[FS + index], false) ? 0 : X86_SEG_BAR;
}

void x86_update_mode(struct x86_cpu *c)
{
	u32 m = 0;

	if (c->cr0 & CR0_PE) {
		m |= M_PE;
		if (c->sflags & X86_RFLAGS_VM)
			m |= M_VM;
	}
	if (c->cr0 & CR0_PG)
		m |= M_PG;
	if (c->cpl == 3)
		m |= M_USER;
	if (c->efer & EFER_LMA)
		m |= M_LMA;
	if ((m & M_LMA) && (c->seg[CS].ar & SEG_L)) {
		/* M_SS32 stays clear: SS.B means nothing here and must not split code caches. */
		m |= M_CS64 | M_FLAT;
	} else {
		if (c->seg[CS].ar & SEG_DB)
			m |= M_CS32;
		if (c->seg[SS].ar & SEG_DB)
			m |= M_SS32;
		if (seg_flat(&c->seg[CS], true) && seg_flat(&c->seg[SS], false) &&
		    seg_flat(&c->seg[DS], false) && seg_flat(&c->seg[ES], false))
			m |= M_FLAT;
	}
	c->mode = m;

	for (unsigned i = 0; i < NR_SEG; i++)
		c->segbase[i] = (m & M_CS64) && i < FS ? 0 : c->seg[i].base;
	x86_update_segbar(c, 0);
	x86_update_segbar(c, 1);

	if (c->cpl == 3)
		c->tlb = c->tlbs[(c->cr0 & CR0_AM) && (c->sflags & X86_RFLAGS_AC) ? TLB_USER_AC
		                                                                  : TLB_USER];
	else if (!(c->cr4 & CR4_SMAP) || (c->sflags & X86_RFLAGS_AC))
		c->tlb = c->tlbs[TLB_SUP_AC];
	else
		c->tlb = c->tlbs[TLB_SUP];
}

void x86_update_step(struct x86_cpu *c)
{
	const struct vm *vm = c->vcpu->vm;

	c->step = (c->sflags & X86_RFLAGS_TF) || (c->dr[7] & 0xff) || vm->nr_breakpoints ||
	          c->vcpu->single_step || trace_on(&vm->trace, TRACE_EXEC);
}

void x86_set_rflags(struct x86_cpu *c, u64 rflags)
{
	const u64 known = X86_RFLAGS_TF | X86_RFLAGS_IF | X86_RFLAGS_DF | X86_RFLAGS_IOPL |
	                  X86_RFLAGS_NT | X86_RFLAGS_RF | X86_RFLAGS_VM | X86_RFLAGS_AC |
	                  X86_RFLAGS_VIF | X86_RFLAGS_VIP | X86_RFLAGS_ID;
	u64 changed = c->sflags ^ rflags;

	c->aflags = rflags & AFLAGS;
	c->sflags = (rflags & known) | X86_RFLAGS_FIXED;
	if (changed & (X86_RFLAGS_AC | X86_RFLAGS_VM))
		x86_update_mode(c);
	if (changed & X86_RFLAGS_TF)
		x86_update_step(c);
}

/* ---- raising ---- */

void x86_raise_ev(struct x86_cpu *c, const struct x86_event *ev)
{
	c->ev = *ev;
	if (unlikely(!c->unwind_valid)) {
		x86_fpu_put(c);
		bug("exception %u raised outside of an instruction, rip %#llx", ev->vector,
		    (unsigned long long)c->rip);
	}
	longjmp(c->unwind, 1);
}

void x86_raise(struct x86_cpu *c, u8 vector)
{
	const struct x86_event ev = {.type = EV_FAULT, .vector = vector};

	x86_raise_ev(c, &ev);
}

void x86_raise_err(struct x86_cpu *c, u8 vector, u32 err)
{
	const struct x86_event ev = {
		.type = EV_FAULT, .vector = vector, .has_err = true, .err = err};

	x86_raise_ev(c, &ev);
}

void x86_raise_pf(struct x86_cpu *c, gva_t addr, u32 err)
{
	const struct x86_event ev = {
		.type = EV_FAULT, .vector = X86_PF, .has_err = true, .err = err, .cr2 = addr};

	x86_raise_ev(c, &ev);
}

/* ---- RESET, INIT, SIPI ---- */

static void seg_reset(struct x86_seg *s, u16 sel, u64 base, u32 ar)
{
	*s = (struct x86_seg){.base = base, .limit = 0xffff, .ar = ar, .sel = sel};
}

/* The common part of table 9-1: what RESET and INIT both set. */
static void cpu_reset_common(struct x86_cpu *c)
{
	u32 id[4];

	memset(c->gpr, 0, sizeof(c->gpr));
	x86_cpuid_leaf(c, 1, 0, id);
	c->gpr[RDX] = id[0]; /* family, model, stepping */
	c->rip = c->next_rip = 0xfff0;
	c->aflags = 0;
	c->sflags = X86_RFLAGS_FIXED;
	c->cpl = 0;
	c->irq_shadow = c->shadow_db = c->nmi_blocked = false;
	c->dr6_pending = 0;
	c->ev.type = EV_NONE;

	seg_reset(&c->seg[CS], 0xf000, 0xffff0000, SEG_P | SEG_S | SEG_RW | SEG_A);
	for (unsigned s = 0; s < NR_SEG; s++)
		if (s != CS)
			seg_reset(&c->seg[s], 0, 0, SEG_P | SEG_S | SEG_RW | SEG_A);
	seg_reset(&c->ldtr, 0, 0, SEG_P | 2);
	seg_reset(&c->tr, 0, 0, SEG_P | 11);
	c->gdtr = c->idtr = (struct x86_dtable){.base = 0, .limit = 0xffff};

	c->cr2 = c->cr3 = c->cr4 = 0;
	memset(c->pdpte, 0, sizeof(c->pdpte));
	memset(c->dr, 0, sizeof(c->dr));
	c->dr[6] = 0xffff0ff0;
	c->dr[7] = 0x400;
	c->efer = 0;
	x86_kvmpv_reset(c);
}

static void cpu_reset_finish(struct x86_cpu *c)
{
	mmu_flush_all(c);
	x86_update_mode(c);
	x86_update_step(c);
}

static void cpu_reset(struct vcpu *v)
{
	struct x86_cpu *c = vcpu_x86(v);

	x86_fpu_put(c);
	cpu_reset_common(c);
	c->cr0 = CR0_ET | CR0_NW | CR0_CD;
	/* The counter itself goes on: it stays synchronous on all processors. What the guest added
	 * to it is undone. */
	c->tsc_offset -= c->tsc_adjust;
	c->tsc_adjust = 0;
	x86_msr_reset(c);
	x86_fpu_init(c);
	x86_update_apic_page(c);
	cpu_reset_finish(c);
	if (!v->index && c->after_reset) {
		c->after_reset(c, c->after_reset_arg);
		cpu_reset_finish(c);
	}
}

/* INIT leaves x87/SSE/AVX, CR0.CD/NW, the TSC, MTRRs and most MSRs alone. */
static void cpu_init(struct vcpu *v)
{
	struct x86_cpu *c = vcpu_x86(v);

	cpu_reset_common(c);
	c->cr0 = (c->cr0 & (CR0_CD | CR0_NW)) | CR0_ET;
	cpu_reset_finish(c);
	if (unlikely(c->inputs) && !c->inputs->shadow)
		c->inputs->ops->init(c->inputs->arg);
}

static void cpu_sipi(struct vcpu *v, u8 vector)
{
	struct x86_cpu *c = vcpu_x86(v);

	c->seg[CS].sel = (u16)(vector << 8);
	c->seg[CS].base = (u64)vector << 12;
	c->rip = c->next_rip = 0;
	x86_update_mode(c);
}

/* STI's shadow ends with the HLT itself, so only the flag counts. */
static bool cpu_wakes(struct vcpu *v, u32 req)
{
	const struct x86_cpu *c = vcpu_x86(v);

	return ((req & VCPU_REQ_IRQ) && (c->sflags & X86_RFLAGS_IF)) ||
	       ((req & VCPU_REQ_NMI) && !c->nmi_blocked);
}

#define CPU_BYTES (ALIGN_UP(sizeof(struct x86_cpu), (size_t)PAGE_SIZE) + X86_ENGINE_AREA)

static void cpu_destroy(struct vcpu *v)
{
	munmap(v->arch_state, CPU_BYTES);
	v->arch_state = NULL;
}

static void cpu_tsc_shift(struct vcpu *v, s64 delta)
{
	struct x86_cpu *c = vcpu_x86(v);

	c->tsc_offset += (u64)delta;
	x86_kvmpv_tsc_shift(c, delta);
}

const struct arch_ops x86_arch_ops = {
	.reset = cpu_reset,
	.init = cpu_init,
	.sipi = cpu_sipi,
	.wakes = cpu_wakes,
	.halt = x86_steal_halt,
	.dump = x86_dump,
	.tsc_shift = cpu_tsc_shift,
	.destroy = cpu_destroy,
};

/* All of it is looked up in every few instructions: in large pages where the host has them. */
static void *map_cpu(void)
{
	void *p = large_map(CPU_BYTES, PROT_READ | PROT_WRITE);

	if (p)
		madvise(p, CPU_BYTES, MADV_HUGEPAGE); /* a hint */
	return p;
}

int x86_cpu_create(struct vcpu *v)
{
	struct vm *vm = v->vm;
	struct x86_cpu *c = map_cpu();

	if (!c)
		return -ENOMEM;
	if (!vm->tsc_khz)
		vm->tsc_khz = x86_host_tsc_khz();
	c->vcpu = v;
	c->pmap = vm->pmap;
	/* One origin of the counters, so that a guest finds them synchronous. */
	if (v->index) {
		const struct x86_cpu *first = vcpu_x86(vm->vcpu[0]);

		c->tsc_offset = first->tsc_offset;
		c->kvm.ref_tsc = first->kvm.ref_tsc;
		c->kvm.ref_ns = first->kvm.ref_ns;
	} else {
		c->kvm.ref_ns = loop_now(vm->loop);
		c->kvm.ref_tsc = __builtin_ia32_rdtsc();
		c->tsc_offset = 0 - c->kvm.ref_tsc;
	}
	mmu_init(c);
	x86_cpuid_build(c);
	v->arch_state = c;
	v->arch = &x86_arch_ops;
	cpu_reset(v);
	return 0;
}
