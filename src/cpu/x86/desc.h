/* SPDX-License-Identifier: MIT */
/* Private to cpu/x86: descriptors (SDM 3A 3.4.5, 3.5), stack frames that are written before
 * anything is committed, and the task switch.
 *
 * All functions that take a CPU may raise, and have changed nothing visible when they do, save
 * accessed bits and bytes below the stack pointer. Own thread of the vCPU. */
#pragma once

#include "cpu/x86/mmu.h"

/* Types of system descriptors (SDM 3A table 3-2) */
enum {
	SYS_TSS16 = 1,
	SYS_LDT = 2,
	SYS_TSS16_BUSY = 3,
	SYS_CALL16 = 4,
	SYS_TASK_GATE = 5,
	SYS_INT16 = 6,
	SYS_TRAP16 = 7,
	SYS_TSS = 9,
	SYS_TSS_BUSY = 11,
	SYS_CALL = 12,
	SYS_INT = 14,
	SYS_TRAP = 15,
};

struct desc {
	u64 raw;
	gva_t addr;
	u16 sel;
};

/* ---- fields ---- */

static inline u32 desc_ar(const struct desc *d)
{
	return (u32)(d->raw >> 40) & 0xf0ff;
}
static inline u32 desc_base(const struct desc *d)
{
	return (u32)(d->raw >> 16 & 0xffffff) | (u32)(d->raw >> 32 & 0xff000000);
}
static inline u32 desc_limit(const struct desc *d)
{
	u32 limit = (u32)(d->raw & 0xffff) | (u32)(d->raw >> 32 & 0xf0000);

	return desc_ar(d) & SEG_G ? limit << 12 | 0xfff : limit;
}
/* Gates (SDM 3A 5.8.3, 6.11). */
static inline u16 gate_sel(const struct desc *d)
{
	return (u16)(d->raw >> 16);
}
static inline u32 gate_offset(const struct desc *d)
{
	return (u32)(d->raw & 0xffff) | (u32)(d->raw >> 32 & 0xffff0000);
}

static inline unsigned ar_dpl(u32 ar)
{
	return (ar & SEG_DPL) >> SEG_DPL_SHIFT;
}
static inline bool ar_is_code(u32 ar)
{
	return (ar & (SEG_S | SEG_CODE)) == (SEG_S | SEG_CODE);
}
static inline bool ar_is_conforming(u32 ar)
{
	return (ar & (SEG_S | SEG_CODE | SEG_EC)) == (SEG_S | SEG_CODE | SEG_EC);
}
static inline bool ar_is_expand_down(u32 ar)
{
	return (ar & (SEG_S | SEG_CODE | SEG_EC)) == (SEG_S | SEG_EC);
}
static inline bool ar_is_writable(u32 ar)
{
	return (ar & (SEG_S | SEG_CODE | SEG_RW)) == (SEG_S | SEG_RW);
}

static inline bool sel_null(u16 sel)
{
	return !(sel & 0xfffc);
}
static inline u32 sel_err(u16 sel)
{
	return sel & 0xfffc;
}

/* ---- modes ---- */

/* Protected mode proper: not real, not virtual-8086. */
static inline bool in_pm(const struct x86_cpu *c)
{
	return (c->mode & (M_PE | M_VM)) == M_PE;
}
static inline unsigned iopl(const struct x86_cpu *c)
{
	return (unsigned)(c->sflags >> 12) & 3;
}
static inline gva_t lin(const struct x86_cpu *c, u64 addr)
{
	return c->mode & M_LMA ? addr : (u32)addr;
}
/* Is code with these rights 64-bit code? */
static inline bool ar_long(const struct x86_cpu *c, u32 ar)
{
	return (c->mode & M_LMA) && (ar & SEG_L);
}
/* CS.L and CS.D together are reserved in IA-32e mode. */
static inline bool ar_bad_long(const struct x86_cpu *c, u32 ar)
{
	return (c->mode & M_LMA) && (ar & (SEG_L | SEG_DB)) == (SEG_L | SEG_DB);
}

/* The instruction pointer of a transfer into code with `ar` and `limit`. */
static inline void check_rip(struct x86_cpu *c, u32 ar, u32 limit, u64 rip, u32 err)
{
	if (ar_long(c, ar) ? !is_canonical(rip) : rip > limit)
		x86_gp(c, err);
}

/* ---- memory, quickly ---- */

/* The host's view of `len` bytes at `addr` when one TLB entry grants it, else NULL: then the slow
 * way by mmu.h. Nothing is raised. */
static inline u8 *tlb_read_span(const struct tlb_entry *set, gva_t addr, unsigned len)
{
	const struct tlb_entry *e = &set[(addr >> PAGE_SHIFT) & (TLB_SIZE - 1)];

	return likely(addr - e->r <= PAGE_SIZE - len) ? (u8 *)(uintptr_t)(addr + e->addend) : NULL;
}
static inline u64 ld8_sys(struct x86_cpu *c, gva_t addr)
{
	const u8 *p = tlb_read_span(c->tlbs[TLB_SUP], addr, 8);

	return likely(p) ? *(const volatile u64 *)p : mmu_ld_sys(c, addr, 8);
}

/* The set of TLB entries for accesses at `cpl` as of now. */
static inline struct tlb_entry *tlb_set_for(struct x86_cpu *c, unsigned cpl)
{
	bool ac = c->sflags & X86_RFLAGS_AC;

	if (cpl == 3)
		return c->tlbs[ac && (c->cr0 & CR0_AM) ? TLB_USER_AC : TLB_USER];
	return c->tlbs[ac || !(c->cr4 & CR4_SMAP) ? TLB_SUP_AC : TLB_SUP];
}
/* Instead of x86_update_mode() where it was 64-bit code and is so again, with another CPL. */
static inline void update_mode_64(struct x86_cpu *c)
{
	c->mode = (c->mode & ~(u32)M_USER) | (c->cpl == 3 ? M_USER : 0);
	c->tlb = tlb_set_for(c, c->cpl);
}

/* ---- quick.c ---- */

/* Deliver an event, do an IRETQ, when everything is as usual. false: nothing was done. */
bool quick_deliver(struct x86_cpu *c, const struct x86_event *ev);
bool quick_iret(struct x86_cpu *c);

/* ---- seg.c ---- */

/* Read the descriptor of a non-null selector. false: outside its table. */
bool desc_fetch(struct x86_cpu *c, u16 sel, struct desc *d);
/* IA-32e: the upper half of a 16-byte system descriptor. false: outside, or its type field, which
 * must be zero, is not. */
bool desc_fetch_high(struct x86_cpu *c, const struct desc *d, u64 *high);
/* Locked set and clear of bits in the type byte; the memory is written even without a change. */
void desc_update(struct x86_cpu *c, const struct desc *d, u8 set, u8 clear);
/* Raise now what desc_update would raise. */
void desc_probe(struct x86_cpu *c, const struct desc *d);

static inline void desc_mark_accessed(struct x86_cpu *c, struct desc *d)
{
	if (likely(d->raw & (u64)SEG_A << 40))
		return;
	desc_update(c, d, SEG_A, 0);
	d->raw |= (u64)SEG_A << 40;
}

static inline void seg_from_desc(struct x86_seg *s, const struct desc *d, u16 sel)
{
	s->base = desc_base(d);
	s->limit = desc_limit(d);
	s->ar = desc_ar(d);
	s->sel = sel;
}
static inline void seg_set_null(struct x86_seg *s, u16 sel, unsigned dpl)
{
	s->base = 0;
	s->limit = 0;
	s->ar = SEG_UNUSABLE | dpl << SEG_DPL_SHIFT;
	s->sel = sel;
}
static inline void seg_set_flat(struct x86_seg *s, u16 sel, u32 ar)
{
	s->base = 0;
	s->limit = 0xffffffff;
	s->ar = ar;
	s->sel = sel;
}

/* Does an access of `size` bytes at `off` lie outside of the segment? */
static inline bool seg_outside(u32 ar, u32 limit, u64 off, unsigned size)
{
	u64 last = off + size - 1;

	if (ar_is_expand_down(ar))
		return off <= limit || last > (ar & SEG_DB ? 0xffffffffu : 0xffffu);
	return last > limit;
}

/* On return to an outer level: data segments that it may not use become null. */
void seg_drop_inner(struct x86_cpu *c, unsigned cpl);

/* ---- stack.c ---- */

/* A stack being pushed to or popped from while RSP is not yet changed. */
struct frame {
	u64 base, sp, mask;
	u32 limit, ar;
	bool wide; /* 64-bit: flat, canonical */
	u32 err;   /* error code of #SS */
};
void frame_current(struct x86_cpu *c, struct frame *f, u32 err);
void frame_init(struct x86_cpu *c, struct frame *f, const struct x86_seg *ss, u64 sp, bool wide,
                u32 err);
void frame_push(struct x86_cpu *c, struct frame *f, u64 val, unsigned size);
/* Push `nr` quadwords onto a wide stack, val[0] first. */
void frame_push8(struct x86_cpu *c, struct frame *f, const u64 *val, unsigned nr);
/* Pop `nr` words, val[0] first. */
void frame_pop_n(struct x86_cpu *c, struct frame *f, u64 *val, unsigned nr, unsigned size);
u64 frame_pop(struct x86_cpu *c, struct frame *f, unsigned size);
/* Raise #SS if `len` bytes above (pop) the pointer are not within the segment. */
void frame_need(struct x86_cpu *c, const struct frame *f, unsigned len);
static inline void frame_commit(struct x86_cpu *c, const struct frame *f)
{
	c->gpr[RSP] =
		f->mask == 0xffff ? (c->gpr[RSP] & 0xffff0000) | (f->sp & 0xffff) : f->sp & f->mask;
}

/* Memory is accessed with the rights of `cpl` from here on; c->cpl alone does not say so to the
 * TLB. Undone by the caller's unwind point or replaced by x86_update_mode(). */
static inline void lend_cpl(struct x86_cpu *c, unsigned cpl)
{
	c->cpl = (u8)cpl;
	if (cpl != 3) /* only ever lent inwards, or kept */
		c->tlb = tlb_set_for(c, cpl);
}

/* jmp_bufs are copied by words: memcpy may use vector registers. */
static inline void unwind_copy(jmp_buf *to, const jmp_buf *from)
{
	const u64 *s = (const u64 *)from;
	u64 *d = (u64 *)to;

	_Static_assert(sizeof(jmp_buf) % 8 == 0, "jmp_buf is copied by words");
#pragma GCC unroll 32
	for (unsigned i = 0; i < sizeof(jmp_buf) / 8; i++)
		d[i] = s[i];
}

/* ---- task.c ---- */

enum task_reason { TASK_JMP, TASK_CALL, TASK_IRET, TASK_EVENT };

/* The stack of privilege level `cpl` in the current TSS. In IA-32e mode ss is 0. Raises #TS. */
void tss_stack(struct x86_cpu *c, unsigned cpl, u32 ext, u16 *ss, u64 *sp);
/* IA-32e: stack pointer number `ist` (1..7). */
u64 tss_ist(struct x86_cpu *c, unsigned ist, u32 ext);
/* Check a stack segment taken from a TSS for level `cpl` (SDM 3A 6.12.1, 5.8.5): #TS, #SS. */
void tss_check_ss(struct x86_cpu *c, u16 sel, unsigned cpl, u32 ext, struct x86_seg *ss);

/* Switch to the task of TSS selector `sel` (SDM 3A 7.3). `ret` is the EIP to save for the old
 * task, `flags` its EFLAGS image. Privilege of JMP, CALL and the gate has been checked. With
 * has_err an error code is pushed onto the new task's stack. Faults after the point of no return
 * are raised in the new task's context (c->rip is its EIP). */
void task_switch(struct x86_cpu *c, u16 sel, enum task_reason why, u64 ret, u64 flags, u32 ext,
                 bool has_err, u32 err);
/* IRET with NT: back to the task of the previous-task link. */
void task_return(struct x86_cpu *c);

/* ---- xfer.c: what far RET and IRET share ---- */

void return_check_cs(struct x86_cpu *c, u16 sel, struct desc *d);
void return_check_ss(struct x86_cpu *c, u16 sel, const struct desc *cs, struct x86_seg *ss);
/* Nothing faults from here on. `ss` NULL: the stack segment stays, RSP is committed already. */
void return_commit(struct x86_cpu *c, const struct desc *cs, u64 rip, const struct x86_seg *ss,
                   u64 rsp);
