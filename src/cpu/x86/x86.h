/* SPDX-License-Identifier: MIT */
/* The architectural state of one x86-64 processor, and the operations on it that all engines
 * share: everything sensitive is implemented once, here (cpu/x86), and called by the engines.
 *
 * Threading: a struct x86_cpu belongs to its vCPU's thread; others may look only while the vCPU is
 * parked.
 *
 * Conventions of every function here that "may raise":
 *  - before the call, c->rip is the address of the current instruction and c->next_rip that of the
 *    following one;
 *  - an architectural exception is raised by x86_raise*(), which records it in c->ev and
 *    longjmps to c->unwind; guest-visible state is then as it was before the instruction (c->rip
 * included), save what the architecture says is done before the fault (accessed bits, ...);
 *  - functions that transfer control set c->rip to the target; all others leave c->rip alone
 *    and the engine moves on to c->next_rip.
 *
 * This code is compiled without vector registers: the guest's x87/SSE/AVX state may be in the
 * host's registers (c->fpu_live). Before anything compiled otherwise is called (devices, libc,
 * logging), x86_fpu_put() saves it. */
#pragma once

#include <setjmp.h>

#include "base/types.h"
#include "cpu/x86/defs.h"
#include "vcpu/vm.h"

enum x86_gpr { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15 };
/* Two more slots so that every effective address is gpr[base] + (gpr[index] << scale) + disp. */
#define REG_IP   16 /* interp: virtual address of the current block's first byte */
#define REG_ZERO 17 /* always 0 */
#define NR_GPR   18

enum x86_segreg { ES, CS, SS, DS, FS, GS, NR_SEG };

/* Hidden part included. `ar` has the layout of the second descriptor dword's bits 8..23, shifted
 * down by 8 (as VMX's access rights): type 0..3, S 4, DPL 5..6, P 7, AVL 12, L 13, D/B 14, G 15.
 * SEG_UNUSABLE: null selector loaded. */
struct x86_seg {
	u64 base;
	u32 limit; /* in bytes, G applied */
	u32 ar;
	u16 sel;
};

struct x86_dtable {
	u64 base;
	u16 limit;
};

#define X86_SEG_BAR (1ull << 61) /* in no page, nor is what a 32-bit address makes of it */

/* Mode word: what decoding and fast paths depend on; kept by x86_update_mode(). */
enum {
	M_CS64 = 1 << 0, /* 64-bit code */
	M_CS32 = 1 << 1, /* 32-bit code (neither: 16-bit) */
	M_SS32 = 1 << 2, /* stack pointer is ESP (64-bit code: RSP) */
	M_FLAT = 1 << 3, /* CS, DS, ES, SS: base 0, limit 4G, usable, writable data: no segment
	                    checks; in 64-bit code always */
	M_PE = 1 << 4,
	M_LMA = 1 << 5,
	M_VM = 1 << 6, /* virtual-8086 */
	M_PG = 1 << 7,
	M_USER = 1 << 8, /* CPL 3 */
};

enum x86_ev_type {
	EV_NONE,
	EV_FAULT,
	EV_TRAP,
	EV_INTR,
	EV_NMI,
	EV_SOFT /* INT n */,
	EV_SOFT_XCPT /* INT3, INTO */,
	EV_ICEBP
};

struct x86_event {
	enum x86_ev_type type;
	u8 vector;
	bool has_err;
	u32 err;
	u64 cr2; /* #PF: faulting address, put into CR2 at delivery */
	u64 dr6; /* #DB: bits to merge into DR6 */
};

#define TLB_BITS 12
#define TLB_SIZE (1u << TLB_BITS)
/* One entry for each set {supervisor, supervisor with access to user pages, user}: a tag is the
 * page's virtual address when the right is there, else an address of another index (never matches).
 */
struct tlb_entry {
	u64 r, w;
	uintptr_t addend;    /* host pointer = gva + addend, in pmap->hva */
	uintptr_t bt_addend; /* likewise in pmap->bt_hva, if there is one */
};
/* TLB_USER_AC: CPL 3 with alignment checks on; never filled, so that every access comes to the slow
 * path. */
enum tlb_set { TLB_SUP, TLB_SUP_AC, TLB_USER, TLB_USER_AC, TLB_SETS };
#define TLB_GLOBAL_SETS 2 /* the first ones keep global entries */

/* The same for large pages, in pieces of 2 MiB, whose tags are the piece's address; only the
 * translator looks there, and only supervisor's sets are filled. Beside each: the range around the
 * piece in which addend and rights are the same. */
struct tlb_run {
	u64 r_base, r_size;
	u64 w_base, w_size;
};
#define TLB_BIG        1024u
#define TLB_BIG_RUNS   16u
#define TLB_BIG_SHIFT  21
#define TLB_BIG_SIZE   (1ull << TLB_BIG_SHIFT)
#define TLB_BIG_STORES 1024u

#define ITLB_SIZE     256u
#define TLB_FILL_LOG  256u
#define ITLB_FILL_LOG 64u
struct itlb_entry {
	u64 tag; /* page address | 1 when user; ~0 invalid */
	gpa_t gpa;
	const u8 *hva;
	_Atomic u32 *code_ver;
};

/* Second level, for data and code of all rights: what a walk found. */
#define STLB_BITS 12
#define STLB_SIZE (1u << STLB_BITS)
struct stlb_entry {
	u64 tag;   /* page address | PERM_* (mmu.h) */
	u32 space; /* 0: invalid */
	u32 page;  /* of RAM: pmap_page() */
};

/* Where large pages have been filled from: hashed bits (mmu_tlb.c). */
#define TLB_LARGE_BITS 12
struct tlb_large {
	bool any;
	u64 map[(1 << TLB_LARGE_BITS) / 64];
};

#define XSAVE_AREA_SIZE 1088 /* x87, SSE, AVX: 832; rounded up, room to grow */

#define X86_MC_BANKS 10

struct x86_mtrr {
	u64 def_type, fixed[11], base[8], mask[8];
};

/* One leaf of the guest's CPUID, as built at creation (cpuid.c). */
struct x86_cpuid_leaf {
	u32 leaf, subleaf;
	bool indexed; /* the leaf looks at ECX */
	u32 out[4];   /* EAX, EBX, ECX, EDX */
};
#define X86_MAX_CPUID 64

/* What follows from the guest's CPUID, in the form that checks want. */
struct x86_features {
	u64 cr4;       /* bits that may be set */
	u64 efer;      /* bits that may be set */
	u64 xcr0;      /* components offered; 0: no XSAVE */
	u64 arch_caps; /* IA32_ARCH_CAPABILITIES */
	bool amd;      /* AMD's or Hygon's: their MSRs and their reading of the manual */
	bool xgetbv1;  /* XGETBV of XINUSE */
	bool xsavec;
};

/* Room behind struct x86_cpu, which an engine that reaches all by one segment base uses as it
 * likes: page-aligned, zero, untouched pages cost nothing. */
#define X86_ENGINE_AREA (9 * MiB)

struct x86_cpu {
	u64 gpr[NR_GPR];
	u64 rip, next_rip;
	u64 aflags; /* CF PF AF ZF SF OF in their places; other bits are garbage: x86_rflags() */
	u64 sflags; /* all other bits of RFLAGS in their places */
	struct tlb_entry *tlb; /* the set in force: &tlbs[...] by CPL, SMAP, AC */
	u32 mode;              /* M_* */
	u8 cpl;
	bool irq_shadow; /* STI or MOV SS/POP SS just executed: no interrupt before the next
	                    instruction is over */
	bool shadow_db;  /* ... it was MOV/POP SS: debug traps are held back too */
	bool nmi_blocked;
	bool fpu_live;     /* vector state is in the host's registers */
	bool code_written; /* set by a store to a page with code: the running block must end */
	bool step;         /* one instruction at a time: TF, breakpoints, debugger, exec trace:
	                      x86_update_step() */
	u32 tlb_gen; /* moves on every TLB flush: caches keyed by virtual address compare it */
	u32 flush_nonglobal_gen; /* moves when all that is not global is dropped, ... */
	u32 flush_all_gen;       /* ... and this one too when global entries go as well */
	u64 segbase[NR_SEG + 2]; /* bases to add: in 64-bit code 0 but for FS and GS (index ES..GS;
	                            [6] always 0) */
	/* Of FS and GS, for 32-bit code that only looks at pages: what to add besides the base. 0,
	 * or X86_SEG_BAR where the segment's own limit or rights are to be looked at as well. */
	u64 segbar[2];
	/* Of a host pointer into RAM: its page's word in pmap->code_ver is at
	 * code_ver_bias + (pointer >> PAGE_SHIFT) * 4. */
	uintptr_t code_ver_bias;
	struct vcpu *vcpu;
	struct pmap *pmap;
	struct x86_inputs *inputs; /* cpu/x86/inputs.h; normally NULL */
	struct interp *interp; /* the interpreter's instance, which other engines fall back on */

	struct x86_seg seg[NR_SEG], ldtr, tr;
	struct x86_dtable gdtr, idtr;
	u64 cr0, cr2, cr3, cr4; /* CR8 is the local APIC's */
	u64 pdpte[4];           /* PAE, loaded by MOV CR3 etc. (SDM 3A 4.4.1) */
	u64 dr[8];              /* 4, 5 unused */
	u64 efer, xcr0, xss;
	u64 star, lstar, cstar, sfmask, kernel_gs_base;
	u64 sysenter_cs, sysenter_esp, sysenter_eip;
	u64 tsc_offset; /* guest TSC = host TSC + tsc_offset, TSC_ADJUST included */
	u64 tsc_adjust, tsc_aux;
	u64 pat, misc_enable, spec_ctrl, smi_count, bios_sign_id;
	u64 mcg_status, mcg_ctl, mc[X86_MC_BANKS][4]; /* machine check: CTL, STATUS, ADDR, MISC */
	struct x86_mtrr mtrr;
	struct x86_kvm_state { /* paravirtual leaf 0x40000000 */
		u64 wall_clock, system_time, poll_control, steal;
		u64 steal_wall, steal_cpu; /* steal.c: when the vCPU was resumed, in ns */
		u64 ref_tsc; /* host TSC at virtual time ref_ns: the same line for all vCPUs */
		u64 ref_ns;
	} kvm;
	u8 phys_bits;
	gpa_t apic_page; /* irqchip->mmio_base() as of now: x86_update_apic_page() */
	struct x86_features feat;
	unsigned nr_cpuid;
	struct x86_cpuid_leaf cpuid[X86_MAX_CPUID];
	u64 dr6_pending; /* data breakpoints hit by the current instruction, BS */

	struct x86_event ev; /* what x86_raise recorded */
	jmp_buf unwind;
	bool unwind_valid;

	/* x87 instruction and data pointer: ours, since instructions run elsewhere on the host.
	 * fpu_excp_only: FOP and FDP move only with an unmasked exception; until one is seen
	 * those of the latest instruction wait in fpu_last_* (x86_fpu_pointers()). */
	u64 fpu_ip, fpu_dp, fpu_last_dp;
	u16 fpu_op, fpu_last_op;
	bool fpu_excp_only;
	u32 fpu_mxcsr_mask; /* the host's MXCSR_MASK */

	struct tlb_entry tlbs[TLB_SETS][TLB_SIZE] __attribute__((aligned(64)));
	struct tlb_entry tlb_big[TLB_GLOBAL_SETS][TLB_BIG];
	struct tlb_run tlb_run[TLB_GLOBAL_SETS][TLB_BIG];
	struct itlb_entry itlb[ITLB_SIZE];
	u8 xsave[XSAVE_AREA_SIZE]
		__attribute__((aligned(64))); /* standard format, components x87, SSE, AVX */
	u32 tlb_used;                         /* bit per set */
	/* Entries filled since the last flush that are not global (set * TLB_SIZE + index; the
	 * ITLB's), so that a flush after a few of them is cheap; more than fit: all are gone
	 * through. */
	u32 tlb_fills, itlb_fills;
	u16 tlb_filled[TLB_FILL_LOG];
	u8 itlb_filled[ITLB_FILL_LOG];
	u64 tlb_global[TLB_GLOBAL_SETS][TLB_SIZE / 64], itlb_global[ITLB_SIZE / 64];
	struct tlb_large tlb_large[2];     /* of pages that are not global; global */
	bool tlb_big_any;                  /* in tlb_big */
	u8 tlb_big_stores[TLB_BIG_STORES]; /* by piece of RAM, hashed: to its pages with code */
	u32 tlb_big_all_stores;
	u32 tlb_nr_ranges;
	struct {
		u64 base, size;
	} tlb_ranges[TLB_BIG_RUNS]; /* all that tlb_run has, but for single pieces */
	bool tlb_any_global;        /* anything global was filled since all was flushed */
	/* Of TLB_SUP, for an engine that caches what is in it and sets them back when it has
	 * dropped that: a page that is not global, one of the lower half was filled. */
	bool tlb_sup_nonglobal, tlb_sup_low;
	struct stlb_entry stlb[STLB_SIZE];
	u32 pcid_space[4096]; /* 0: none yet */
	u32 space_global, space_last;

	/* For an engine that caches more by virtual address; NULL: it doesn't. All that is not
	 * global was dropped (or global entries too); one page, which is no large one's part. */
	void (*tlb_flushed)(struct x86_cpu *c, bool global_too);
	void (*tlb_page_flushed)(struct x86_cpu *c, gva_t page);

	/* BSP after power-on reset: the machine puts a direct-boot state here; NULL: reset vector.
	 */
	void (*after_reset)(struct x86_cpu *c, void *arg);
	void *after_reset_arg;
};

static inline struct x86_cpu *vcpu_x86(struct vcpu *v)
{
	return v->arch_state;
}

extern const struct arch_ops x86_arch_ops;
/* Allocate arch_state of a vCPU in power-on state and set v->arch. vCPUs are created in order of
 * their index; the VM's pmap and loop exist. Measures vm->tsc_khz when it is 0. 0 or -ENOMEM. */
int x86_cpu_create(struct vcpu *v);
/* The host's TSC frequency, from CPUID where it says so, else measured (some 20 ms). */
u64 x86_host_tsc_khz(void);
/* Fill c->cpuid, c->feat, c->phys_bits from the host's CPUID. */
void x86_cpuid_build(struct x86_cpu *c);
/* Paravirtual state at RESET and INIT; after virtual time jumped by `delta` TSC ticks. */
void x86_kvmpv_reset(struct x86_cpu *c);
void x86_kvmpv_tsc_shift(struct x86_cpu *c, s64 delta);
/* MSRs at power-on reset. */
void x86_msr_reset(struct x86_cpu *c);

/* ---- flags ---- */
#define AFLAGS           0x8d5ull
#define X86_SYSRET_FLAGS 0x3c7fd7ull /* what SYSRET takes from R11 */
static inline u64 x86_rflags(const struct x86_cpu *c)
{
	return (c->aflags & AFLAGS) | (c->sflags & ~AFLAGS) | X86_RFLAGS_FIXED;
}
/* Sets all bits (no privilege check) and what follows from them (TLB set for AC, step for TF). */
void x86_set_rflags(struct x86_cpu *c, u64 rflags);

/* After changes of CR0, CR4, EFER, CS, SS, DS, ES, CPL, RFLAGS.AC/VM: recompute mode, segbase, tlb
 * pointer. */
void x86_update_mode(struct x86_cpu *c);
/* After a change of FS or GS (index 0 or 1). */
void x86_update_segbar(struct x86_cpu *c, unsigned index);
/* After changes of IA32_APIC_BASE. */
void x86_update_apic_page(struct x86_cpu *c);
/* After changes of TF, DR7, the debugger's breakpoints, traces. */
void x86_update_step(struct x86_cpu *c);

/* ---- raising ---- */
void x86_raise(struct x86_cpu *c, u8 vector) __attribute__((noreturn)); /* fault, no error code */
void x86_raise_err(struct x86_cpu *c, u8 vector, u32 err)
	__attribute__((noreturn)); /* fault with error code */
void x86_raise_pf(struct x86_cpu *c, gva_t addr, u32 err) __attribute__((noreturn));
void x86_raise_ev(struct x86_cpu *c, const struct x86_event *ev) __attribute__((noreturn));
#define x86_gp(c, err) x86_raise_err(c, X86_GP, err)
#define x86_ud(c)      x86_raise(c, X86_UD)

/* ---- event.c: delivery (SDM 3A chapter 6) ---- */
/* Deliver through the IVT/IDT, nested faults, double fault included (uses its own unwind point;
 * c->unwind is kept). For faults c->rip is the instruction; for traps and interrupts c->rip is
 * already the next instruction; for EV_SOFT* c->rip is the INT itself and c->next_rip what is
 * pushed. 0; -1: triple fault. */
int x86_deliver(struct x86_cpu *c, const struct x86_event *ev);
/* Can INTR / NMI be taken now? */
static inline bool x86_intr_open(const struct x86_cpu *c)
{
	return (c->sflags & X86_RFLAGS_IF) && !c->irq_shadow;
}

/* ---- seg.c: may raise (SDM 3A chapters 3, 5) ---- */
void x86_load_seg(
	struct x86_cpu *c, enum x86_segreg s,
	u16 sel); /* MOV/POP/Lxx Sreg in any mode; not CS. SS sets no shadow: the engine does */
void x86_seg_set_real(struct x86_cpu *c, enum x86_segreg s, u16 sel);
void x86_lldt(struct x86_cpu *c, u16 sel);
void x86_ltr(struct x86_cpu *c, u16 sel);
/* LAR, LSL: true: *val is valid and ZF is to be set. VERR, VERW: true: ZF. */
bool x86_lar(struct x86_cpu *c, u16 sel, u32 *val);
bool x86_lsl(struct x86_cpu *c, u16 sel, u32 *val);
bool x86_verify(struct x86_cpu *c, u16 sel, bool write);
/* Linear address of seg:off for an access of `size` bytes with all checks of the mode: canonical
 * (#GP, #SS), limit, type, null. `off` is already truncated to the address size. */
gva_t x86_linear(struct x86_cpu *c, enum x86_segreg s, u64 off, unsigned size, bool write);

/* ---- xfer.c: may raise. opsize 2, 4, 8 ---- */
void x86_far_jmp(struct x86_cpu *c, u16 sel, u64 off, unsigned opsize);
void x86_far_call(struct x86_cpu *c, u16 sel, u64 off, unsigned opsize);
void x86_far_ret(struct x86_cpu *c, unsigned opsize, u16 pop_bytes);
void x86_iret(struct x86_cpu *c, unsigned opsize);
void x86_soft_int(struct x86_cpu *c, u8 vector,
                  enum x86_ev_type type); /* INT n, INT3, INTO, ICEBP: checks, then delivers by
                                             raising c->ev */
void x86_syscall(struct x86_cpu *c);
void x86_sysret(struct x86_cpu *c, unsigned opsize);
/* Behind x86_sysret(): unlike IRET, a SYSRET that sets TF traps before the instruction it returns
 * to. */
void x86_sysret_trap(struct x86_cpu *c);
void x86_sysenter(struct x86_cpu *c);
void x86_sysexit(struct x86_cpu *c, unsigned opsize);
/* Near transfer target check: canonical in 64-bit code, CS limit elsewhere: #GP(0). */
void x86_check_target(struct x86_cpu *c, u64 rip);
/* Stack by SS and mode: width 2, 4, 8 bytes; checks as x86_linear(SS). RSP changes only when the
 * access succeeded. */
void x86_push(struct x86_cpu *c, u64 val, unsigned size);
u64 x86_pop(struct x86_cpu *c, unsigned size);
/* PUSHF's image and POPF's effect, by CPL, IOPL, VM; may raise #GP in virtual-8086 mode. */
u64 x86_pushf_image(struct x86_cpu *c, unsigned opsize);
void x86_popf(struct x86_cpu *c, u64 val, unsigned opsize);
void x86_cli(struct x86_cpu *c);
void x86_sti(struct x86_cpu *c); /* sets irq_shadow when IF goes from 0 to 1 */

/* ---- cr.c: may raise; privilege checked inside ---- */
u64 x86_mov_from_cr(struct x86_cpu *c, unsigned cr);
void x86_mov_to_cr(struct x86_cpu *c, unsigned cr, u64 val);
/* What MOV to CR3 and a task switch share, without the privilege check: PAE's PDPTEs (#GP(0) when
 * one is bad, nothing changed), TLB flush as bit 63 and CR4.PCIDE say. */
void x86_load_cr3(struct x86_cpu *c, u64 val);
u64 x86_mov_from_dr(struct x86_cpu *c, unsigned dr);
void x86_mov_to_dr(struct x86_cpu *c, unsigned dr, u64 val);
void x86_clts(struct x86_cpu *c);
void x86_lmsw(struct x86_cpu *c, u16 val);
u64 x86_smsw(struct x86_cpu *c);
void x86_xsetbv(struct x86_cpu *c, u32 index, u64 val);
u64 x86_xgetbv(struct x86_cpu *c, u32 index);
void x86_invlpg(struct x86_cpu *c, gva_t addr); /* addr: linear; non-canonical: nothing */
void x86_invpcid(struct x86_cpu *c, u64 type, u64 pcid,
                 u64 addr); /* the 128-bit descriptor's halves */
void x86_lgdt(struct x86_cpu *c, const struct x86_dtable *d);
void x86_lidt(struct x86_cpu *c, const struct x86_dtable *d);
void x86_umip_check(struct x86_cpu *c); /* SGDT SIDT SLDT STR SMSW at CPL > 0 */
void x86_need_cpl0(struct x86_cpu *c);
void x86_swapgs(struct x86_cpu *c);
u64 x86_rdfsgsbase(struct x86_cpu *c, enum x86_segreg s);
void x86_wrfsgsbase(struct x86_cpu *c, enum x86_segreg s, u64 val);
void x86_stac_clac(struct x86_cpu *c, bool set);

/* ---- msr.c, cpuid.c, kvmpv.c: may raise ---- */
u64 x86_rdmsr(struct x86_cpu *c, u32 msr);
void x86_wrmsr(struct x86_cpu *c, u32 msr, u64 val);
void x86_cpuid(struct x86_cpu *c); /* EAX, ECX in; EAX..EDX out */
void x86_cpuid_leaf(const struct x86_cpu *c, u32 leaf, u32 subleaf, u32 out[4]);
u64 x86_rdtsc(struct x86_cpu *c); /* with CR4.TSD check */
static inline u64 x86_tsc(const struct x86_cpu *c)
{
	return __builtin_ia32_rdtsc() + c->tsc_offset;
}
u64 x86_rdpmc(struct x86_cpu *c);
void x86_hypercall(struct x86_cpu *c); /* VMCALL/VMMCALL: KVM's numbers; result in RAX */
/* IN/OUT: x86_io_check is the permission (IOPL, TSS bitmap; may raise); x86_in and x86_out are the
 * access alone, I/O breakpoints included. size 1, 2, 4. */
void x86_io_check(struct x86_cpu *c, u16 port, unsigned size);
u32 x86_in(struct x86_cpu *c, u16 port, unsigned size);
void x86_out(struct x86_cpu *c, u16 port, u32 val, unsigned size);

/* ---- debug.c ---- */
/* Before an instruction in step mode: DR7 instruction breakpoints (raises #DB fault unless RF). */
void x86_check_code_bp(struct x86_cpu *c);
/* Data breakpoints: does [addr, addr+size) hit? sets c->dr6_pending. Called by the mmu slow path.
 */
void x86_check_data_bp(struct x86_cpu *c, gva_t addr, unsigned size, bool write);
void x86_check_io_bp(struct x86_cpu *c, u16 port, unsigned size);
/* Is there any enabled data breakpoint or debugger's watchpoint on this page? Then it must not be
 * cached for that access. */
bool x86_page_watched(const struct x86_cpu *c, gva_t page);
/* Has the debugger a breakpoint at the current instruction? */
bool x86_debugger_bp(const struct x86_cpu *c);
void x86_dump(struct vcpu *v, FILE *out);

/* ---- fpu.c ---- */
void x86_fpu_get(struct x86_cpu *c);  /* guest's state into the host's registers; idempotent */
void x86_fpu_put(struct x86_cpu *c);  /* and out again, VMM defaults loaded; idempotent, cheap when
                                         not live */
void x86_fpu_init(struct x86_cpu *c); /* power-on state */
void x86_fpu_sync(struct x86_cpu *c); /* c->xsave brought up to date; stays live if it was */
/* Settle fpu_op and fpu_dp and put them and fpu_ip into c->xsave, which is up to date. */
void x86_fpu_pointers(struct x86_cpu *c);
/* Is an unmasked x87 exception pending? It comes before what a waiting instruction raises itself.
 */
bool x86_fpu_pending(const struct x86_cpu *c);
