// SPDX-License-Identifier: MIT
/* The task-state segment (SDM 3A chapter 7): the stacks that it holds, and hardware task switches.
 *
 * A switch has a point of no return. Before it everything that can fault is tried: the new TSS is
 * read, what will be written is probed. After it the processor is in the new task, and what is
 * wrong with the new task's segments is that task's exception (7.3). */
#include "cpu/x86/desc.h"

/* Byte offsets of both layouts (figures 7-2 and 7-10). */
struct tss_layout {
	u8 word;              /* size of a register */
	u8 ip, flags, gpr;    /* gpr: EAX ECX EDX EBX ESP EBP ESI EDI */
	u8 seg, nr_seg, step; /* step: bytes from selector to selector */
	u8 ldt;
	u8 min_limit;
};
static const struct tss_layout tss16 = {.word = 2,
                                        .ip = 0x0e,
                                        .flags = 0x10,
                                        .gpr = 0x12,
                                        .seg = 0x22,
                                        .nr_seg = 4,
                                        .step = 2,
                                        .ldt = 0x2a,
                                        .min_limit = 0x2b};
static const struct tss_layout tss32 = {.word = 4,
                                        .ip = 0x20,
                                        .flags = 0x24,
                                        .gpr = 0x28,
                                        .seg = 0x48,
                                        .nr_seg = 6,
                                        .step = 4,
                                        .ldt = 0x60,
                                        .min_limit = 0x67};
#define TSS32_CR3  0x1c
#define TSS32_TRAP 0x64

static const struct tss_layout *layout_of(u32 ar)
{
	return ar & 8 ? &tss32 : &tss16;
}

static u64 tss_ld(struct x86_cpu *c, u64 base, unsigned off, unsigned size)
{
	return mmu_ld_sys(c, lin(c, base + off), size);
}

/* ---- stacks ---- */

void tss_stack(struct x86_cpu *c, unsigned cpl, u32 ext, u16 *ss, u64 *sp)
{
	bool wide = c->tr.ar & 8;
	unsigned off = wide ? cpl * 8 + 4 : cpl * 4 + 2;
	unsigned len = c->mode & M_LMA ? 8 : wide ? 6 : 4;

	if (off + len - 1 > c->tr.limit)
		x86_raise_err(c, X86_TS, sel_err(c->tr.sel) | ext);
	if (c->mode & M_LMA) {
		*sp = ld8_sys(c, c->tr.base + off);
		*ss = 0;
		return;
	}
	*sp = tss_ld(c, c->tr.base, off, wide ? 4 : 2);
	*ss = (u16)tss_ld(c, c->tr.base, off + (wide ? 4 : 2), 2);
}

u64 tss_ist(struct x86_cpu *c, unsigned ist, u32 ext)
{
	unsigned off = 0x1c + ist * 8;

	if (off + 7 > c->tr.limit)
		x86_raise_err(c, X86_TS, sel_err(c->tr.sel) | ext);
	return ld8_sys(c, c->tr.base + off);
}

void tss_check_ss(struct x86_cpu *c, u16 sel, unsigned cpl, u32 ext, struct x86_seg *ss)
{
	struct desc d;
	u32 ar;

	if (sel_null(sel))
		x86_raise_err(c, X86_TS, ext);
	if (!desc_fetch(c, sel, &d))
		x86_raise_err(c, X86_TS, sel_err(sel) | ext);
	ar = desc_ar(&d);
	if ((sel & 3u) != cpl || ar_dpl(ar) != cpl || !ar_is_writable(ar))
		x86_raise_err(c, X86_TS, sel_err(sel) | ext);
	if (!(ar & SEG_P))
		x86_raise_err(c, X86_SS, sel_err(sel) | ext);
	desc_mark_accessed(c, &d);
	seg_from_desc(ss, &d, sel);
}

/* ---- the switch ---- */

struct task_image {
	u64 ip, flags, gpr[8], cr3;
	u16 seg[NR_SEG], ldt;
	bool trap;
};

static void probe_sys_write(struct x86_cpu *c, u64 base, unsigned from, unsigned to)
{
	struct mmu_walk w;
	gva_t a = lin(c, base + from), b = lin(c, base + to);

	if (!mmu_walk(c, a, MMU_WRITE | MMU_SYS, &w))
		x86_raise_pf(c, a, w.err);
	if (((a ^ b) & PAGE_MASK) && !mmu_walk(c, b, MMU_WRITE | MMU_SYS, &w))
		x86_raise_pf(c, b & PAGE_MASK, w.err);
}

static void image_read(struct x86_cpu *c, u64 base, const struct tss_layout *l,
                       struct task_image *t)
{
	t->ip = tss_ld(c, base, l->ip, l->word);
	t->flags = tss_ld(c, base, l->flags, l->word);
	for (unsigned i = 0; i < 8; i++)
		t->gpr[i] = tss_ld(c, base, l->gpr + i * l->word, l->word);
	for (unsigned i = 0; i < NR_SEG; i++)
		t->seg[i] = i < l->nr_seg ? (u16)tss_ld(c, base, l->seg + i * l->step, 2) : 0;
	t->ldt = (u16)tss_ld(c, base, l->ldt, 2);
	t->cr3 = l->word == 4 ? tss_ld(c, base, TSS32_CR3, 4) : c->cr3;
	t->trap = l->word == 4 && (tss_ld(c, base, TSS32_TRAP, 2) & 1);
}

static void image_save(struct x86_cpu *c, const struct tss_layout *l, u64 ip, u64 flags)
{
	u64 base = c->tr.base;

	mmu_st_sys(c, lin(c, base + l->ip), ip, l->word);
	mmu_st_sys(c, lin(c, base + l->flags), flags, l->word);
	for (unsigned i = 0; i < 8; i++)
		mmu_st_sys(c, lin(c, base + l->gpr + i * l->word), c->gpr[i], l->word);
	for (unsigned i = 0; i < l->nr_seg; i++)
		mmu_st_sys(c, lin(c, base + l->seg + i * l->step), c->seg[i].sel, 2);
}

/* The new TSS's descriptor: JMP, CALL and events need an available one, IRET a busy one. */
static void new_tss(struct x86_cpu *c, u16 sel, enum task_reason why, u32 ext, struct desc *d)
{
	u8 vector = why == TASK_IRET ? X86_TS : X86_GP;
	u32 want = SYS_TSS16 | (why == TASK_IRET ? SEG_RW : 0u); /* with or without bit 3 */

	if (sel_null(sel) || (sel & 4) || !desc_fetch(c, sel, d) ||
	    (desc_ar(d) & (SEG_S | SEG_TYPE) & ~8u) != want)
		x86_raise_err(c, vector, sel_err(sel) | ext);
	if (!(desc_ar(d) & SEG_P))
		x86_raise_err(c, X86_NP, sel_err(sel) | ext);
	if (desc_limit(d) < layout_of(desc_ar(d))->min_limit)
		x86_raise_err(c, X86_TS, sel_err(sel) | ext);
}

/* ---- the new task's segments (table 7-1) ---- */

static void __attribute__((noreturn)) bad_seg(struct x86_cpu *c, u16 sel, u32 ext)
{
	x86_raise_err(c, X86_TS, sel_err(sel) | ext);
}

static void task_ldt(struct x86_cpu *c, u16 sel, u32 ext)
{
	struct desc d;

	seg_set_null(&c->ldtr, sel, 0);
	if (sel_null(sel))
		return;
	if ((sel & 4) || !desc_fetch(c, sel, &d) ||
	    (desc_ar(&d) & (SEG_S | SEG_TYPE | SEG_P)) != (SYS_LDT | SEG_P))
		bad_seg(c, sel, ext);
	seg_from_desc(&c->ldtr, &d, sel);
}

static void task_cs(struct x86_cpu *c, u16 sel, u32 ext)
{
	struct desc d;
	u32 ar;

	if (sel_null(sel) || !desc_fetch(c, sel, &d))
		bad_seg(c, sel, ext);
	ar = desc_ar(&d);
	if (!ar_is_code(ar))
		bad_seg(c, sel, ext);
	if (ar_is_conforming(ar) ? ar_dpl(ar) > c->cpl : ar_dpl(ar) != c->cpl)
		bad_seg(c, sel, ext);
	if (!(ar & SEG_P))
		x86_raise_err(c, X86_NP, sel_err(sel) | ext);
	desc_mark_accessed(c, &d);
	seg_from_desc(&c->seg[CS], &d, sel);
}

static void task_data(struct x86_cpu *c, enum x86_segreg s, u16 sel, u32 ext)
{
	struct desc d;
	u32 ar;

	if (sel_null(sel))
		return;
	if (!desc_fetch(c, sel, &d))
		bad_seg(c, sel, ext);
	ar = desc_ar(&d);
	if (!(ar & SEG_S) || (ar & (SEG_CODE | SEG_RW)) == SEG_CODE)
		bad_seg(c, sel, ext);
	if (!ar_is_conforming(ar) && (c->cpl > ar_dpl(ar) || (sel & 3u) > ar_dpl(ar)))
		bad_seg(c, sel, ext);
	if (!(ar & SEG_P))
		x86_raise_err(c, X86_NP, sel_err(sel) | ext);
	desc_mark_accessed(c, &d);
	seg_from_desc(&c->seg[s], &d, sel);
}

static void task_segments(struct x86_cpu *c, const struct task_image *t, u32 ext)
{
	static const u8 data[] = {ES, DS, FS, GS};

	task_ldt(c, t->ldt, ext);
	if (c->mode & M_VM)
		return;
	/* Each may raise, in the new task as far as it is loaded. */
	task_cs(c, t->seg[CS], ext);
	x86_update_mode(c);
	tss_check_ss(c, t->seg[SS], c->cpl, ext, &c->seg[SS]);
	for (unsigned i = 0; i < ARRAY_SIZE(data); i++) {
		x86_update_mode(c);
		task_data(c, data[i], t->seg[data[i]], ext);
	}
}

/* ---- */

/* Steps 6 to 11 of 7.3: memory is written, TR is the new one. */
static void leave_old(struct x86_cpu *c, const struct desc *new, enum task_reason why, u64 ret,
                      u64 flags)
{
	bool nest = why == TASK_CALL || why == TASK_EVENT;
	struct desc old;

	if (!nest && desc_fetch(c, c->tr.sel, &old))
		desc_update(c, &old, 0, SEG_RW);
	if (why == TASK_IRET)
		flags &= ~X86_RFLAGS_NT;
	image_save(c, layout_of(c->tr.ar), ret, flags);
	if (nest)
		mmu_st_sys(c, lin(c, desc_base(new)), c->tr.sel, 2);
	if (why != TASK_IRET)
		desc_update(c, new, SEG_RW, 0);
	seg_from_desc(&c->tr, new, new->sel);
	c->tr.ar |= SEG_RW;
}

/* Step 12: the registers; segment registers get their selectors only. */
static void enter_new(struct x86_cpu *c, const struct task_image *t, bool nest)
{
	u64 flags = nest ? t->flags | X86_RFLAGS_NT : t->flags;

	c->cr0 |= CR0_TS;
	c->dr[7] &= ~0x155ull; /* L0..L3, LE */
	for (unsigned i = 0; i < 8; i++)
		c->gpr[i] = t->gpr[i];
	c->rip = t->ip;
	x86_set_rflags(c, flags);
	c->cpl = flags & X86_RFLAGS_VM ? 3 : t->seg[CS] & 3;
	for (unsigned i = 0; i < NR_SEG; i++) {
		if (flags & X86_RFLAGS_VM) {
			x86_seg_set_real(c, (enum x86_segreg)i, t->seg[i]);
			continue;
		}
		seg_set_null(&c->seg[i], t->seg[i], 0);
	}
	seg_set_null(&c->ldtr, t->ldt, 0);
	x86_update_mode(c);
	x86_update_step(c);
}

static void push_error(struct x86_cpu *c, u32 err, u32 ext)
{
	struct frame f;

	frame_current(c, &f, ext);
	frame_push(c, &f, err, layout_of(c->tr.ar)->word);
	frame_commit(c, &f);
}

void task_switch(struct x86_cpu *c, u16 sel, enum task_reason why, u64 ret, u64 flags, u32 ext,
                 bool has_err, u32 err)
{
	const struct tss_layout *old = layout_of(c->tr.ar), *l;
	bool nest = why == TASK_CALL || why == TASK_EVENT;
	struct task_image t;
	struct desc d, cur;

	new_tss(c, sel, why, ext, &d);
	l = layout_of(desc_ar(&d));
	if (c->tr.limit < old->min_limit)
		x86_raise_err(c, X86_TS, sel_err(c->tr.sel) | ext);
	image_read(c, desc_base(&d), l, &t);
	probe_sys_write(c, c->tr.base, old->ip, old->min_limit);
	if (nest)
		probe_sys_write(c, desc_base(&d), 0, 1);
	if (why != TASK_IRET)
		desc_probe(c, &d);
	if (!nest && desc_fetch(c, c->tr.sel, &cur))
		desc_probe(c, &cur);

	leave_old(c, &d, why, ret, flags);
	enter_new(c, &t, nest);
	if (l->word == 4 && (c->mode & M_PG))
		x86_load_cr3(c, t.cr3);
	task_segments(c, &t, ext);
	x86_update_mode(c);
	if (c->rip > c->seg[CS].limit)
		x86_gp(c, ext);
	if (has_err)
		push_error(c, err, ext);
	if (t.trap) {
		const struct x86_event ev = {.type = EV_TRAP, .vector = X86_DB, .dr6 = 1u << 15};

		x86_raise_ev(c, &ev);
	}
}

void task_return(struct x86_cpu *c)
{
	u16 link = (u16)mmu_ld_sys(c, lin(c, c->tr.base), 2);

	task_switch(c, link, TASK_IRET, c->next_rip, x86_rflags(c), 0, false, 0);
}
