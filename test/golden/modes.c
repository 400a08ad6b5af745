// SPDX-License-Identifier: MIT
/* See modes.h. Descriptors and page tables as SDM 3A chapters 3 and 4 have them. */
#include "modes.h"

#include <errno.h>
#include <string.h>

#include "cpu/x86/mmu.h"
#include "mem/pmap.h"

/* Paging structures: mapped one to one, the first 4 MiB in 4 KiB pages, all open to CPL 3. */
#define PD32_PA  (TABLES_PA + 0x0000)
#define PT32_PA  (TABLES_PA + 0x1000)
#define PDPT_PA  (TABLES_PA + 0x2000)
#define PD64_PA  (TABLES_PA + 0x3000)
#define PT64_PA  (TABLES_PA + 0x4000) /* two tables: 2 MiB each */
#define PML4_PA  (TABLES_PA + 0x6000)
#define PTE_OPEN (PTE_P | PTE_W | PTE_U)

const char *const mode_name[NR_MODES] = {
	"real",         "protected 16",     "virtual-8086",          "compatibility 16",
	"protected 32", "flat 32",          "flat 32 paged",         "flat 32 PAE",
	"user 32",      "compatibility 32", "user compatibility 32",
};

static bool long_mode(u32 mode)
{
	return mode & (M_COMPAT16 | M_COMPAT32 | M_UCOMPAT32);
}

static bool user_mode(u32 mode)
{
	return mode & (M_V86 | M_USER32 | M_COMPAT16 | M_UCOMPAT32);
}

static void put32(struct machine *m, gpa_t at, u32 v)
{
	pmap_write(m->vm.pmap, at, &v, sizeof(v));
}

static void put64(struct machine *m, gpa_t at, u64 v)
{
	pmap_write(m->vm.pmap, at, &v, sizeof(v));
}

static u64 get64(struct machine *m, gpa_t at)
{
	u64 v = 0;

	pmap_read(m->vm.pmap, at, &v, sizeof(v));
	return v;
}

static void desc(struct machine *m, u16 sel, u32 base, u32 limit, u32 access)
{
	/* access: byte 5, and in bits 12..15 the upper half of byte 6 */
	u64 d = (limit & 0xffff) | (u64)(base & 0xffffff) << 16 | (u64)(access & 0xff) << 40 |
	        (u64)(limit >> 16 & 15) << 48 | (u64)(access >> 12 & 15) << 52 |
	        (u64)(base >> 24) << 56;

	put64(m, GDT_PA + (sel & 0xfff8), d);
}

static void make_gdt(struct machine *m, u32 mode)
{
	desc(m, SEL_CODE32, 0, 0xfffff, 0xc09b);
	desc(m, SEL_DATA32, 0, 0xfffff, 0xc093);
	desc(m, SEL_CODE16B, IMAGE_PA, 0xffff, 0x009b);
	desc(m, SEL_DATA16B, IMAGE_PA, 0xffff, 0x0093);
	desc(m, SEL_CODE32B, IMAGE_PA, 0xfffff, 0x409b);
	desc(m, SEL_DATA32B, IMAGE_PA, 0xfffff, 0x4093);
	desc(m, SEL_CODE64, 0, 0xfffff, 0xa09b);
	desc(m, SEL_UCODE32, 0, 0xfffff, 0xc0fb);
	desc(m, SEL_UDATA32, 0, 0xfffff, 0xc0f3);
	desc(m, SEL_UCODE16B, IMAGE_PA, 0xffff, 0x00fb);
	desc(m, SEL_UDATA16B, IMAGE_PA, 0xffff, 0x00f3);
	desc(m, SEL_TSS, TSS_PA, 0x67, 0x008b);
	desc(m, SEL_LDT, LDT_PA, 16 * 8 - 1, 0x0082);
	put32(m, TSS_PA + 4, STACK0_PA);
	put32(m, TSS_PA + 8, long_mode(mode) ? 0 : SEL_DATA32);
	put32(m, TSS_PA + 0x64, 0x680000);
}

void machine_gate(struct machine *m, u8 vector, u16 sel, u32 offset, u8 access)
{
	u64 d = (offset & 0xffff) | (u64)sel << 16 | (u64)access << 40 | (u64)(offset >> 16) << 48;

	if (m->mode == M_REAL) {
		put32(m, IVT_PA + vector * 4u, (u32)sel << 16 | (offset & 0xffff));
	} else if (long_mode(m->mode)) {
		put64(m, IDT_PA + vector * 16u, d);
		put64(m, IDT_PA + vector * 16u + 8, 0);
	} else {
		put64(m, IDT_PA + vector * 8u, d);
	}
}

static void make_idt(struct machine *m, u32 mode)
{
	for (unsigned i = 0; i < 256; i++)
		if (mode == M_REAL)
			machine_gate(m, (u8)i, HANDLER_PA >> 4, i, 0);
		else
			machine_gate(m, (u8)i, long_mode(mode) ? SEL_CODE64 : SEL_CODE32,
			             HANDLER_PA + i, i == 3 || i == 4 ? 0xee : 0x8e);
}

static void make_page_tables(struct machine *m)
{
	put32(m, PD32_PA, PT32_PA | PTE_OPEN);
	for (u32 i = 0; i < 1024; i++) {
		put32(m, PT32_PA + i * 4, i << 12 | PTE_OPEN);
		put64(m, PT64_PA + i * 8, (u64)i << 12 | PTE_OPEN);
	}
	put64(m, PDPT_PA, PD64_PA | PTE_P); /* PAE's and, with the rights, IA-32e's */
	put64(m, PD64_PA, PT64_PA | PTE_OPEN);
	put64(m, PD64_PA + 8, (PT64_PA + 0x1000) | PTE_OPEN);
	put64(m, PML4_PA, PDPT_PA | PTE_OPEN);
}

void machine_pte_change(struct machine *m, u32 addr, u32 set, u32 clear)
{
	if (m->mode & (M_PAGED32 | M_USER32)) {
		u32 at = PT32_PA + (addr >> 12 & 1023) * 4;

		put32(m, at, ((u32)get64(m, at) | set) & ~clear);
	} else {
		gpa_t at = PT64_PA + (addr >> 12 & 1023) * 8;

		put64(m, at, (get64(m, at) | set) & ~(u64)clear);
	}
}

u32 machine_pte(struct machine *m, u32 addr)
{
	if (m->mode & (M_PAGED32 | M_USER32))
		return (u32)get64(m, PT32_PA + (addr >> 12 & 1023) * 4);
	return (u32)get64(m, PT64_PA + (addr >> 12 & 1023) * 8);
}

/* Hidden parts from the tables, as a load would get them. */
void machine_load_seg(struct machine *m, u32 seg, u16 sel)
{
	struct x86_seg *s = &m->c->seg[seg];
	u64 d = get64(m, (sel & 4 ? LDT_PA : GDT_PA) + (sel & 0xfff8));

	*s = (struct x86_seg){.sel = sel};
	s->base = (u32)(d >> 16 & 0xffffff) | (u32)(d >> 56) << 24;
	s->limit = (u32)(d & 0xffff) | (u32)(d >> 32 & 0xf0000);
	s->ar = (u32)(d >> 40 & 0xff) | (u32)(d >> 40 & 0xf000);
	if (s->ar & SEG_G)
		s->limit = s->limit << 12 | 0xfff;
	x86_update_mode(m->c);
}

static void set_segments(struct machine *m, u32 mode)
{
	struct x86_cpu *c = m->c;
	u16 cs = SEL_CODE32, ds = SEL_DATA32;

	if (mode & (M_REAL | M_V86)) {
		u32 ar = SEG_P | SEG_S | SEG_RW | SEG_A | (mode == M_V86 ? SEG_DPL : 0);

		for (unsigned i = 0; i < NR_SEG; i++)
			c->seg[i] = (struct x86_seg){IMAGE_PA, 0xffff, ar, IMAGE_PA >> 4};
		return;
	}
	switch (mode) {
	case M_PROT16:
		cs = SEL_CODE16B, ds = SEL_DATA16B;
		break;
	case M_COMPAT16:
		cs = SEL_UCODE16B, ds = SEL_UDATA16B;
		break;
	case M_PROT32:
		cs = SEL_CODE32B, ds = SEL_DATA32B;
		break;
	case M_USER32:
	case M_UCOMPAT32:
		cs = SEL_UCODE32, ds = SEL_UDATA32;
		break;
	default:
		break;
	}
	machine_load_seg(m, CS, cs);
	for (unsigned i = 0; i < NR_SEG; i++)
		if (i != CS)
			machine_load_seg(m, i, ds);
}

static void set_control(struct machine *m, u32 mode)
{
	struct x86_cpu *c = m->c;

	c->cr0 = CR0_ET | CR0_NE;
	if (mode != M_REAL) {
		c->cr0 |= CR0_PE;
		c->gdtr = (struct x86_dtable){GDT_PA, GDT_LIMIT};
		c->idtr = (struct x86_dtable){IDT_PA, (u16)(long_mode(mode) ? 4095 : 2047)};
		c->ldtr = (struct x86_seg){LDT_PA, 16 * 8 - 1, 0x82, SEL_LDT};
		c->tr = (struct x86_seg){TSS_PA, 0x67, 0x8b, SEL_TSS};
	}
	if (mode & (M_PAGED32 | M_USER32)) {
		c->cr0 |= CR0_PG | CR0_WP;
		c->cr3 = PD32_PA;
	} else if (mode == M_PAE32) {
		c->cr0 |= CR0_PG | CR0_WP;
		c->cr4 |= CR4_PAE;
		c->cr3 = PDPT_PA;
		for (unsigned i = 0; i < 4; i++)
			c->pdpte[i] = get64(m, PDPT_PA + i * 8);
	} else if (long_mode(mode)) {
		put64(m, PDPT_PA, PD64_PA | PTE_OPEN);
		c->cr0 |= CR0_PG | CR0_WP;
		c->cr4 |= CR4_PAE;
		c->cr3 = PML4_PA;
		c->efer = EFER_LME | EFER_LMA | EFER_NXE;
	}
	c->cpl = user_mode(mode) ? 3 : 0;
}

void machine_reset(struct machine *m, u32 mode, const u8 *image, u32 size, u32 entry)
{
	static const u8 halts[256] = {[0 ... 255] = 0xf4};
	struct x86_cpu *c = m->c;

	m->mode = mode;
	pmap_zero(m->vm.pmap, 0, 0x20000);
	pmap_write(m->vm.pmap, IMAGE_PA, image, size);
	pmap_write(m->vm.pmap, HANDLER_PA, halts, sizeof(halts));
	m->v->arch->reset(m->v);
	m->v->req = 0;
	m->v->state = VCPU_RUNNING;
	memset(c->gpr, 0, sizeof(c->gpr));
	make_gdt(m, mode);
	make_idt(m, mode);
	make_page_tables(m);
	set_control(m, mode);
	set_segments(m, mode);
	c->gpr[RSP] = STACK_OFF + (mode & M_BASED ? 0 : IMAGE_PA);
	c->rip = c->next_rip = entry;
	x86_set_rflags(c, X86_RFLAGS_FIXED | (mode == M_V86 ? X86_RFLAGS_VM | X86_RFLAGS_IOPL : 0));
	mmu_flush_all(c);
	x86_update_mode(c);
	x86_update_step(c);
}

/* ---- the end ---- */

static bool has_error_code(int vector)
{
	return vector == X86_DF || (vector >= X86_TS && vector <= X86_PF) || vector == X86_AC;
}

static u32 frame_word(struct machine *m, u64 *at, unsigned bytes)
{
	u64 v = 0;

	pmap_read(m->vm.pmap, *at, &v, bytes);
	*at += bytes;
	return (u32)v;
}

/* The interrupted state from the frame that delivery pushed (SDM 3A figures 6-4, 6-8, 20-2). */
static void unwind(struct machine *m, u32 mode, struct final *f)
{
	struct x86_cpu *c = m->c;
	unsigned w = mode == M_REAL ? 2 : long_mode(mode) ? 8 : 4;
	u64 mask = c->seg[SS].ar & SEG_DB || w == 8 ? ~0ull : 0xffff;
	u64 sp = c->seg[SS].base + (c->gpr[RSP] & mask), start;

	if (w == 8)
		sp = c->gpr[RSP];
	start = sp;
	if (mode != M_REAL && has_error_code(f->vector))
		f->err = frame_word(m, &sp, w);
	f->rip = frame_word(m, &sp, w);
	f->sel[CS] = (u16)frame_word(m, &sp, w);
	f->rflags = frame_word(m, &sp, w);
	if (mode == M_REAL)
		f->rflags |= x86_rflags(c) & ~0xffffull;
	if (w == 8 || (f->rflags & X86_RFLAGS_VM) || (f->sel[CS] & 3) > c->cpl) {
		f->gpr[RSP] = frame_word(m, &sp, w);
		f->sel[SS] = (u16)frame_word(m, &sp, w);
	} else {
		f->gpr[RSP] = (f->gpr[RSP] & ~mask) | ((f->gpr[RSP] + (sp - start)) & mask);
	}
	if (f->rflags & X86_RFLAGS_VM) {
		static const u8 order[] = {ES, DS, FS, GS};

		for (unsigned i = 0; i < 4; i++)
			f->sel[order[i]] = (u16)frame_word(m, &sp, w);
	}
}

/* Base of the interrupted code segment. */
static u64 frame_base(struct machine *m, const struct final *f)
{
	struct x86_seg saved = m->c->seg[CS];
	u64 base;

	if (m->mode == M_REAL || (f->rflags & X86_RFLAGS_VM))
		return f->sel[CS] * 16ull;
	machine_load_seg(m, CS, f->sel[CS]);
	base = m->c->seg[CS].base;
	m->c->seg[CS] = saved;
	x86_update_mode(m->c);
	return base;
}

void machine_final(struct machine *m, u32 mode, struct final *f)
{
	struct x86_cpu *c = m->c;
	u64 lin = c->seg[CS].base + c->rip - 1;
	u8 at = 0;

	*f = (struct final){.vector = -1, .rip = c->rip - 1, .rflags = x86_rflags(c)};
	for (unsigned i = 0; i < 8; i++)
		f->gpr[i] = c->gpr[i];
	for (unsigned i = 0; i < NR_SEG; i++)
		f->sel[i] = c->seg[i].sel;
	if (lin - HANDLER_PA >= 256)
		return;
	f->vector = (int)(lin - HANDLER_PA);
	unwind(m, mode, f);
	/* A test's HLT where it is not allowed. */
	if (f->vector == X86_GP && !f->err &&
	    ((f->rflags & X86_RFLAGS_VM) || (mode != M_REAL && (f->sel[CS] & 3)))) {
		pmap_read(m->vm.pmap, f->rip + frame_base(m, f), &at, 1);
		if (at == 0xf4)
			f->vector = -1;
	}
}

/* ---- life ---- */

int machine_create(struct machine *m, const struct engine_ops *engine)
{
	int ret = vm_init(&m->vm);

	if (ret)
		return ret;
	m->vm.engine = engine;
	ret = pmap_create(&m->vm.pmap, 2 * MiB);
	if (ret)
		return ret;
	m->vm.pmap->single = true;
	if (engine->vm_create) {
		ret = engine->vm_create(&m->vm);
		if (ret)
			return ret;
	}
	m->v = vm_add_vcpu(&m->vm);
	if (!m->v)
		return -ENOMEM;
	ret = x86_cpu_create(m->v);
	if (ret)
		return ret;
	m->c = vcpu_x86(m->v);
	return engine->vcpu_create(m->v);
}

void machine_destroy(struct machine *m)
{
	vm_destroy(&m->vm);
}
