// SPDX-License-Identifier: MIT
/* System instructions: operands are fetched here, the work is done by cpu/x86. All end their block:
 * whatever a block was decoded or looked up under may have changed. The next one is looked up by
 * what holds then, in op_chain_any(). */
#include "engine/interp/op.h"

#include <sched.h>

/* Operand of 16 bits, register or memory (size 0). */
static u16 op16(struct x86_cpu *c, const struct op *op)
{
	if (op->size)
		return REG_AT(c, u16, op->src);
	return op_ld2(c, op, ea(c, op, 2, false));
}

static void set_size(struct x86_cpu *c, u8 off, u64 v, unsigned size)
{
	if (size == 2)
		REG_AT(c, u16, off) = (u16)v;
	else
		REG_AT(c, u64, off) = size == 4 ? (u32)v : v;
}

/* SLDT, STR, SMSW: register of the operand size, memory always 16 bits. */
static void store_sys16(struct x86_cpu *c, const struct op *op, u64 v)
{
	if (op->size)
		set_size(c, op->dst, v, op->size);
	else
		op_st2(c, op, ea(c, op, 2, true), (u16)v);
}

static void load_dtable(struct x86_cpu *c, const struct op *op, struct x86_dtable *d)
{
	unsigned n = c->mode & M_CS64 ? 8 : 4;
	gva_t a;

	x86_need_cpl0(c);
	a = ea(c, op, 2 + n, false);
	d->limit = (u16)op_ld2(c, op, a);
	d->base = n == 8 ? op_ld8(c, op, a + 2) : op_ld4(c, op, a + 2);
	if (op->size == 2)
		d->base &= 0xffffff; /* SDM 2A LGDT: 24 bits with a 16-bit operand size */
}

static void store_dtable(struct x86_cpu *c, const struct op *op, const struct x86_dtable *d)
{
	unsigned n = c->mode & M_CS64 ? 8 : 4;
	gva_t a;
	u8 buf[10];

	x86_umip_check(c);
	a = ea(c, op, 2 + n, true);
	buf[0] = (u8)d->limit;
	buf[1] = (u8)(d->limit >> 8);
	for (unsigned i = 0; i < n; i++)
		buf[2 + i] = (u8)(d->base >> (8 * i));
	OP_SYNC;
	if ((c->mode & M_CS64) && (!is_canonical(a) || !is_canonical(a + 9)))
		x86_raise_err(c, op->seg == SS ? X86_SS : X86_GP, 0);
	mmu_write(c, a, buf, 2 + n);
}

static void set_zf(struct x86_cpu *c, bool zf)
{
	c->aflags = (c->aflags & ~X86_RFLAGS_ZF) | (zf ? X86_RFLAGS_ZF : 0);
}

static void need_pe(struct x86_cpu *c)
{
	if (!(c->mode & M_PE) || (c->mode & M_VM))
		x86_ud(c);
}

static void sys_lar_lsl(struct x86_cpu *c, const struct op *op, bool lar)
{
	u32 v;
	bool ok;

	need_pe(c);
	ok = lar ? x86_lar(c, op16(c, op), &v) : x86_lsl(c, op16(c, op), &v);
	if (ok)
		set_size(c, op->dst, v, (unsigned)op->imm); /* imm: the destination's size */
	set_zf(c, ok);
}

static void sys_arpl(struct x86_cpu *c, const struct op *op)
{
	u16 s = REG_AT(c, u16, op->dst), d;
	gva_t a = 0;

	need_pe(c);
	if (op->size) {
		d = REG_AT(c, u16, op->src);
	} else {
		a = ea_checked(c, op, 2, false);
		d = (u16)mmu_ld(c, a, 2);
	}
	if ((d & 3) < (s & 3)) {
		d = (u16)((d & ~3) | (s & 3));
		if (op->size)
			REG_AT(c, u16, op->src) = d;
		else
			mmu_st(c, ea_checked(c, op, 2, true), d, 2);
		set_zf(c, true);
	} else {
		set_zf(c, false);
	}
}

static void sys_invpcid(struct x86_cpu *c, const struct op *op)
{
	u64 type, lo, hi;
	gva_t a;

	x86_need_cpl0(c);
	type = c->mode & M_CS64 ? REG_AT(c, u64, op->dst) : REG_AT(c, u32, op->dst);
	a = ea(c, op, 16, false);
	lo = op_ld8(c, op, a);
	hi = op_ld8(c, op, a + 8);
	x86_invpcid(c, type, lo, hi);
}

static u64 edx_eax(const struct x86_cpu *c)
{
	return (u64)(u32)c->gpr[RDX] << 32 | (u32)c->gpr[RAX];
}

static void set_edx_eax(struct x86_cpu *c, u64 v)
{
	c->gpr[RAX] = (u32)v;
	c->gpr[RDX] = v >> 32;
}

/* imm: control or debug register number, where one is meant. c->rip is set. */
static __attribute__((noinline)) void execute(struct x86_cpu *c, const struct op *op)
{
	struct x86_dtable d;

	OP_SYNC;
	switch ((enum sys_op)op->aux) {
	case SYS_CLI:
		x86_cli(c);
		break;
	case SYS_STI:
		x86_sti(c);
		break;
	case SYS_HLT:
		x86_need_cpl0(c);
		interp_of(c)->stop_hlt = true;
		c->vcpu->stats.count[EXIT_HLT]++;
		break;
	case SYS_SYSCALL:
		x86_syscall(c);
		return;
	case SYS_SYSRET:
		x86_sysret(c, op->size);
		x86_sysret_trap(c);
		return;
	case SYS_SYSENTER:
		x86_sysenter(c);
		return;
	case SYS_SYSEXIT:
		x86_sysexit(c, op->size);
		return;
	case SYS_CPUID:
		x86_cpuid(c);
		break;
	case SYS_RDTSC:
		set_edx_eax(c, x86_rdtsc(c));
		break;
	case SYS_RDTSCP:
		set_edx_eax(c, x86_rdtsc(c));
		c->gpr[RCX] = (u32)c->tsc_aux;
		break;
	case SYS_RDPMC:
		set_edx_eax(c, x86_rdpmc(c));
		break;
	case SYS_RDMSR:
		set_edx_eax(c, x86_rdmsr(c, (u32)c->gpr[RCX]));
		break;
	case SYS_WRMSR:
		x86_wrmsr(c, (u32)c->gpr[RCX], edx_eax(c));
		break;
	case SYS_INVD:
	case SYS_WBINVD:
		x86_need_cpl0(c); /* caches are the host's and coherent */
		break;
	case SYS_INVLPG:
		x86_need_cpl0(c);
		x86_invlpg(c, ea_offset(c, op) + c->segbase[op->seg]);
		break;
	case SYS_INVPCID:
		sys_invpcid(c, op);
		break;
	case SYS_LGDT:
		load_dtable(c, op, &d);
		x86_lgdt(c, &d);
		break;
	case SYS_LIDT:
		load_dtable(c, op, &d);
		x86_lidt(c, &d);
		break;
	case SYS_SGDT:
		store_dtable(c, op, &c->gdtr);
		break;
	case SYS_SIDT:
		store_dtable(c, op, &c->idtr);
		break;
	case SYS_LLDT:
		need_pe(c);
		x86_need_cpl0(c);
		x86_lldt(c, op16(c, op));
		break;
	case SYS_LTR:
		need_pe(c);
		x86_need_cpl0(c);
		x86_ltr(c, op16(c, op));
		break;
	case SYS_SLDT:
		need_pe(c);
		x86_umip_check(c);
		store_sys16(c, op, c->ldtr.sel);
		break;
	case SYS_STR:
		need_pe(c);
		x86_umip_check(c);
		store_sys16(c, op, c->tr.sel);
		break;
	case SYS_LMSW:
		x86_need_cpl0(c);
		x86_lmsw(c, op16(c, op));
		break;
	case SYS_SMSW:
		x86_umip_check(c);
		store_sys16(c, op, x86_smsw(c));
		break;
	case SYS_CLTS:
		x86_clts(c);
		break;
	case SYS_MOV_FROM_CR: {
		u64 v = x86_mov_from_cr(c, (unsigned)op->imm);

		set_size(c, op->dst, v, c->mode & M_CS64 ? 8 : 4);
		break;
	}
	case SYS_MOV_TO_CR:
		x86_mov_to_cr(c, (unsigned)op->imm,
		              c->mode & M_CS64 ? REG_AT(c, u64, op->src) : REG_AT(c, u32, op->src));
		break;
	case SYS_MOV_FROM_DR: {
		u64 v = x86_mov_from_dr(c, (unsigned)op->imm);

		set_size(c, op->dst, v, c->mode & M_CS64 ? 8 : 4);
		break;
	}
	case SYS_MOV_TO_DR:
		x86_mov_to_dr(c, (unsigned)op->imm,
		              c->mode & M_CS64 ? REG_AT(c, u64, op->src) : REG_AT(c, u32, op->src));
		break;
	case SYS_SWAPGS:
		x86_swapgs(c);
		break;
	case SYS_LAR:
		sys_lar_lsl(c, op, true);
		break;
	case SYS_LSL:
		sys_lar_lsl(c, op, false);
		break;
	case SYS_VERR:
	case SYS_VERW:
		need_pe(c);
		set_zf(c, x86_verify(c, op16(c, op), op->aux == SYS_VERW));
		break;
	case SYS_ARPL:
		sys_arpl(c, op);
		break;
	case SYS_XGETBV:
		set_edx_eax(c, x86_xgetbv(c, (u32)c->gpr[RCX]));
		break;
	case SYS_XSETBV:
		x86_xsetbv(c, (u32)c->gpr[RCX], edx_eax(c));
		break;
	case SYS_STAC:
		x86_stac_clac(c, true);
		break;
	case SYS_CLAC:
		x86_stac_clac(c, false);
		break;
	case SYS_RDFSBASE:
		set_size(c, op->dst, x86_rdfsgsbase(c, (enum x86_segreg)op->imm), op->size);
		break;
	case SYS_WRFSBASE:
		x86_wrfsgsbase(c, (enum x86_segreg)op->imm,
		               op->size == 8 ? REG_AT(c, u64, op->src) : REG_AT(c, u32, op->src));
		break;
	case SYS_HYPERCALL:
		c->vcpu->stats.count[EXIT_HYPERCALL]++;
		x86_hypercall(c);
		break;
	case SYS_CLFLUSH:
		(void)op_ld1(c, op, ea(c, op, 1, false));
		break;
	case SYS_RDPID:
		set_size(c, op->dst, (u32)c->tsc_aux, c->mode & M_CS64 ? 8 : 4);
		break;
	case SYS_PAUSE:
		/* A spinning vCPU may be keeping the one it waits for off the processor. */
		if (!c->pmap->single && (++interp_of(c)->pauses & 15) == 0)
			sched_yield();
		break;
	case SYS_FENCE:
		__atomic_thread_fence(__ATOMIC_SEQ_CST);
		break;
	}
	c->rip = c->next_rip;
}

/* No local of its own, so that it ends in a jump. */
void op_sys(struct x86_cpu *c, const struct op *op)
{
	execute(c, op);
	op_chain_any(c, interp_of(c));
}
