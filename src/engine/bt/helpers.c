// SPDX-License-Identifier: MIT
/* What translated code calls for system instructions: operands come out of `arg`, cpu/x86 does the
 * work, and what is left is to tell whether translated code may simply go on.
 *
 * Interrupts and the interrupt flag. Translated code looks at bt->attn, not at the pin (vcpu->req),
 * and the run loop clears attn when the interrupt can't be taken yet. So whatever sets IF asks for
 * the pin itself. And whatever clears IF asks as well: between STI and CLI there may be no other
 * place where translated code would look, and a guest that opens interrupts for a moment in a loop
 * must get them.
 *
 * STI's shadow is for `sti; hlt`: an interrupt that came in between would be over before the
 * processor halts, and it would sleep on. It has to hold although the interrupt may come at
 * any time after the helper looked: so it is left set, and forgotten elsewhere (helpers.h). */
#include "engine/bt/helpers.h"

#include <sched.h>

#include "engine/bt/runtime.h"
#include "engine/interp/interp.h"

/* ---- what translated code depends on ---- */

struct before {
	const struct tlb_entry *tlb; /* CPL, SMAP, AC */
	u64 cr0, cr4, efer, xcr0;
	u32 mode, tlb_gen;
	bool step, fpu_live;
};

static struct before look(const struct x86_cpu *c)
{
	return (struct before){
		.tlb = c->tlb,
		.cr0 = c->cr0,
		.cr4 = c->cr4,
		.efer = c->efer,
		.xcr0 = c->xcr0,
		.mode = c->mode,
		.tlb_gen = c->tlb_gen,
		.step = c->step,
		.fpu_live = c->fpu_live,
	};
}

static bool same(const struct x86_cpu *c, const struct before *b)
{
	return b->tlb == c->tlb && b->cr0 == c->cr0 && b->cr4 == c->cr4 && b->efer == c->efer &&
	       b->xcr0 == c->xcr0 && b->mode == c->mode && b->tlb_gen == c->tlb_gen &&
	       b->step == c->step;
}

/* The instruction is done; attention is wanted. */
static int out(struct x86_cpu *c)
{
	c->rip = c->next_rip;
	return 1;
}

/* The instruction is done: what has become of the state of before? */
static int after(struct x86_cpu *c, const struct before *b)
{
	if (unlikely(!same(c, b) || c->code_written || bt_pending(c)))
		return out(c);
	if (b->fpu_live)
		x86_fpu_get(c);
	return 0;
}

/* ---- the interpreter ---- */

int h_INTERP(struct x86_cpu *c, u32 arg)
{
	const struct before b = look(c);
	u64 next = c->next_rip;

	bt_of(c)->interpreted[MIN(arg, (u32)ZYDIS_MNEMONIC_MAX_VALUE)]++;
	bt_shadow_settle(c);
	c->irq_shadow = c->shadow_db = false; /* ends with this instruction */
	interp_exec(c, true);
	if (c->irq_shadow)
		bt_of(c)->shadow_rip = c->rip;
	if (c->rip != next || c->irq_shadow)
		return 1;
	c->next_rip = next;
	return after(c, &b);
}

/* An instruction that reaches into the next page, where pb didn't say that it is the page it was
 * translated from: it may now, or the run loop translates it anew, or the interpreter executes it.
 */
static int h_STRADDLE(struct x86_cpu *c, u32 arg)
{
	struct bt_cpu *b = bt_of(c);
	const struct bt_page *p = &b->vm->pages[arg];
	u64 va = (c->rip & PAGE_MASK) + PAGE_SIZE;
	bool dead = __atomic_load_n(&p->dead, __ATOMIC_RELAXED), again = dead;
	const struct itlb_entry *e;
	unsigned i;

	if (!dead && (c->mode & M_CS64 ? is_canonical(va) : va <= ~0u)) {
		e = mmu_fetch(c, va);
		if (e && e->gpa == p->gpa) {
			i = (unsigned)(e - c->itlb);
			bt_pb_set(b, arg, va, c->itlb_global[i / 64] >> i % 64 & 1);
			again = true;
		}
	}
	/* Not for ever, whatever closes it again. Lockstep wants progress. */
	if (again && b->straddled != c->rip && !c->inputs) {
		b->straddled = c->rip;
		return 1;
	}
	b->straddled = BT_PB_NONE;
	h_INTERP(c, 0);
	return 1;
}

/* ---- transfers: privilege and mode change ---- */

static int h_SYSCALL(struct x86_cpu *c, u32 arg)
{
	x86_syscall(c);
	return 1;
}

static int h_SYSRET(struct x86_cpu *c, u32 arg)
{
	x86_sysret(c, arg);
	x86_sysret_trap(c);
	return 1;
}

static int h_SYSENTER(struct x86_cpu *c, u32 arg)
{
	x86_sysenter(c);
	return 1;
}

static int h_SYSEXIT(struct x86_cpu *c, u32 arg)
{
	x86_sysexit(c, arg);
	return 1;
}

static int h_IRET(struct x86_cpu *c, u32 arg)
{
	x86_iret(c, arg);
	return 1;
}

static int h_INT(struct x86_cpu *c, u32 arg)
{
	static const enum x86_ev_type type[] = {EV_SOFT, EV_SOFT_XCPT, EV_SOFT_XCPT, EV_ICEBP};
	unsigned kind = arg >> 8 & 3;

	c->vcpu->stats.count[EXIT_SOFT_INT]++;
	if (kind != 2 || (c->aflags & X86_RFLAGS_OF))
		x86_soft_int(c, (u8)arg, type[kind]);
	return 0;
}

static int h_DE(struct x86_cpu *c, u32 arg)
{
	x86_raise(c, X86_DE);
}

static int h_UD(struct x86_cpu *c, u32 arg)
{
	x86_ud(c);
}

/* ---- interrupts ---- */

/* An interrupt is waiting that would be shut out: it comes first, then the instruction again. */
static bool closes_on_pending(struct x86_cpu *c)
{
	if (likely(!(__atomic_load_n((u32 *)&c->vcpu->req, __ATOMIC_SEQ_CST) & VCPU_REQ_IRQ)))
		return false;
	bt_shadow_settle(c);
	return x86_intr_open(c);
}

static int h_CLI(struct x86_cpu *c, u32 arg)
{
	if (unlikely(closes_on_pending(c)))
		return 1;
	x86_cli(c);
	return 0;
}

static int h_STI(struct x86_cpu *c, u32 arg)
{
	u32 req;

	bt_shadow_settle(c);
	c->irq_shadow = c->shadow_db = false;
	x86_sti(c);
	bt_of(c)->shadow_rip = c->next_rip;
	req = __atomic_load_n((u32 *)&c->vcpu->req, __ATOMIC_SEQ_CST);
	return unlikely(req) ? out(c) : 0;
}

static int h_HLT(struct x86_cpu *c, u32 arg)
{
	c->irq_shadow = c->shadow_db = false;
	interp_exec(c, true);
	return 1;
}

static int h_PUSHF(struct x86_cpu *c, u32 arg)
{
	x86_push(c, x86_pushf_image(c, arg), arg);
	return unlikely(c->code_written) ? out(c) : 0;
}

static int h_POPF(struct x86_cpu *c, u32 arg)
{
	const struct tlb_entry *tlb = c->tlb;
	bool step = c->step, open = c->sflags & X86_RFLAGS_IF;

	if (open && unlikely(closes_on_pending(c)))
		return 1;
	x86_popf(c, x86_pop(c, arg), arg);
	/* What opens interrupts by POPF has no shadow. */
	if (!open)
		c->irq_shadow = c->shadow_db = false;
	if (unlikely(tlb != c->tlb || step != c->step || (!open && bt_pending(c))))
		return out(c);
	return 0;
}

/* ---- small state ---- */

static int h_STAC(struct x86_cpu *c, u32 arg)
{
	const struct tlb_entry *tlb = c->tlb;

	x86_stac_clac(c, arg);
	return tlb != c->tlb ? out(c) : 0;
}

static int h_SWAPGS(struct x86_cpu *c, u32 arg)
{
	x86_swapgs(c);
	return 0;
}

static int h_RDFSGSBASE(struct x86_cpu *c, u32 arg)
{
	u64 v = x86_rdfsgsbase(c, arg & 16 ? GS : FS);

	c->gpr[arg & 15] = arg & 32 ? v : (u32)v;
	return 0;
}

static int h_WRFSGSBASE(struct x86_cpu *c, u32 arg)
{
	u64 v = c->gpr[arg & 15];

	x86_wrfsgsbase(c, arg & 16 ? GS : FS, arg & 32 ? v : (u32)v);
	return 0;
}

/* ---- control and debug registers ---- */

static u64 reg_get(const struct x86_cpu *c, unsigned r)
{
	return c->mode & M_CS64 ? c->gpr[r] : (u32)c->gpr[r];
}

static void reg_set(struct x86_cpu *c, unsigned r, u64 v)
{
	c->gpr[r] = c->mode & M_CS64 ? v : (u32)v;
}

static int h_MOV_FROM_CR(struct x86_cpu *c, u32 arg)
{
	bool live = c->fpu_live;

	reg_set(c, arg & 15, x86_mov_from_cr(c, arg >> 4 & 15));
	if (live)
		x86_fpu_get(c); /* CR8 is a device's */
	return 0;
}

static int h_MOV_TO_CR(struct x86_cpu *c, u32 arg)
{
	const struct before b = look(c);

	x86_mov_to_cr(c, arg >> 4 & 15, reg_get(c, arg & 15));
	return after(c, &b);
}

static int h_MOV_FROM_DR(struct x86_cpu *c, u32 arg)
{
	reg_set(c, arg & 15, x86_mov_from_dr(c, arg >> 4 & 15));
	return 0;
}

static int h_MOV_TO_DR(struct x86_cpu *c, u32 arg)
{
	const struct before b = look(c);

	x86_mov_to_dr(c, arg >> 4 & 15, reg_get(c, arg & 15));
	return after(c, &b);
}

static int h_CLTS(struct x86_cpu *c, u32 arg)
{
	const struct before b = look(c);

	x86_clts(c);
	return after(c, &b);
}

static int h_SMSW(struct x86_cpu *c, u32 arg)
{
	u64 v = x86_smsw(c), *r = &c->gpr[arg & 15];

	if ((arg >> 4 & 15) == 2)
		*r = (*r & ~0xffffull) | (u16)v;
	else
		*r = arg >> 4 & 8 ? v : (u32)v;
	return 0;
}

static int h_LMSW(struct x86_cpu *c, u32 arg)
{
	const struct before b = look(c);

	x86_lmsw(c, (u16)c->gpr[arg & 15]);
	return after(c, &b);
}

/* ---- TLB ---- */

static int h_INVLPG(struct x86_cpu *c, u32 arg)
{
	const struct before b = look(c);

	x86_invlpg(c, bt_of(c)->save[0]);
	return after(c, &b);
}

static int h_INVPCID(struct x86_cpu *c, u32 arg)
{
	const struct before b = look(c);
	gva_t a = bt_of(c)->save[0];
	u64 lo, hi;

	x86_need_cpl0(c);
	if ((c->mode & M_CS64) && (!is_canonical(a) || !is_canonical(a + 15)))
		x86_raise_err(c, arg & 16 ? X86_SS : X86_GP, 0);
	lo = mmu_ld(c, a, 8);
	hi = mmu_ld(c, c->mode & M_CS64 ? a + 8 : (u32)(a + 8), 8);
	x86_invpcid(c, reg_get(c, arg & 15), lo, hi);
	return after(c, &b);
}

/* ---- MSRs, CPUID, time ---- */

static u64 edx_eax(const struct x86_cpu *c)
{
	return (u64)(u32)c->gpr[RDX] << 32 | (u32)c->gpr[RAX];
}

static int set_edx_eax(struct x86_cpu *c, u64 v)
{
	c->gpr[RAX] = (u32)v;
	c->gpr[RDX] = v >> 32;
	return 0;
}

static int h_RDMSR(struct x86_cpu *c, u32 arg)
{
	bool live = c->fpu_live;

	set_edx_eax(c, x86_rdmsr(c, (u32)c->gpr[RCX]));
	if (live)
		x86_fpu_get(c);
	return 0;
}

static int h_WRMSR(struct x86_cpu *c, u32 arg)
{
	const struct before b = look(c);

	x86_wrmsr(c, (u32)c->gpr[RCX], edx_eax(c));
	return after(c, &b);
}

static int h_CPUID(struct x86_cpu *c, u32 arg)
{
	x86_cpuid(c);
	return 0;
}

static int h_RDTSC(struct x86_cpu *c, u32 arg)
{
	return set_edx_eax(c, x86_rdtsc(c));
}

static int h_RDTSCP(struct x86_cpu *c, u32 arg)
{
	set_edx_eax(c, x86_rdtsc(c));
	c->gpr[RCX] = (u32)c->tsc_aux;
	return 0;
}

static int h_RDPID(struct x86_cpu *c, u32 arg)
{
	c->gpr[arg & 15] = (u32)c->tsc_aux;
	return 0;
}

static int h_RDPMC(struct x86_cpu *c, u32 arg)
{
	return set_edx_eax(c, x86_rdpmc(c));
}

static int h_XGETBV(struct x86_cpu *c, u32 arg)
{
	bool live = c->fpu_live;

	set_edx_eax(c, x86_xgetbv(c, (u32)c->gpr[RCX]));
	if (live)
		x86_fpu_get(c);
	return 0;
}

/* ---- devices and the host ---- */

static u16 io_port(const struct x86_cpu *c, u32 arg)
{
	return arg & 8 ? (u16)c->gpr[RDX] : (u8)(arg >> 4);
}

static int h_IN(struct x86_cpu *c, u32 arg)
{
	const struct before b = look(c);
	unsigned size = arg & 7;
	u16 port = io_port(c, arg);
	u32 v;

	x86_io_check(c, port, size);
	v = x86_in(c, port, size);
	c->gpr[RAX] = size == 4 ? v : (c->gpr[RAX] & ~size_mask(size)) | v;
	return after(c, &b);
}

static int h_OUT(struct x86_cpu *c, u32 arg)
{
	const struct before b = look(c);
	unsigned size = arg & 7;
	u16 port = io_port(c, arg);

	x86_io_check(c, port, size);
	x86_out(c, port, (u32)(c->gpr[RAX] & size_mask(size)), size);
	return after(c, &b);
}

static int h_HYPERCALL(struct x86_cpu *c, u32 arg)
{
	const struct before b = look(c);

	c->vcpu->stats.count[EXIT_HYPERCALL]++;
	x86_hypercall(c);
	return after(c, &b);
}

/* A spinning vCPU may be keeping the one it waits for off the processor. */
static int h_PAUSE(struct x86_cpu *c, u32 arg)
{
	if (!c->pmap->single && (++bt_of(c)->pauses & 15) == 0)
		sched_yield();
	return 0;
}

/* The call itself is translated anew after that. */
static int h_STRICT(struct x86_cpu *c, u32 arg)
{
	bt_set_strict(bt_vm_of(c), c->cpl == 3);
	return 1;
}

bt_helper_fn *const bt_helpers[] = {
#define X(name) h_##name,
	BT_HELPERS(X)
#undef X
};
const char *const bt_helper_names[] = {
#define X(name) #name,
	BT_HELPERS(X)
#undef X
};
_Static_assert(BT_H_INTERP == 0, "named by number in translated code");
