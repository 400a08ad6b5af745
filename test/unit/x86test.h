/* SPDX-License-Identifier: MIT */
/* A bare processor over 4 MiB of memory with hand-made tables, for tests of cpu/x86 without an
 * engine. */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "bus/bus.h"
#include "cpu/x86/mmu.h"

/* Physical = linear addresses. */
#define T_PML4  0x1000u
#define T_PDPT  0x2000u
#define T_PD    0x3000u
#define T_PT    0x4000u /* 4 KiB pages of the first 2 MiB */
#define T_GDT   0x5000u
#define T_IDT   0x6000u
#define T_TSS   0x7000u
#define T_LDT   0x8000u
#define T_TSS2  0x9000u
#define T_TSS16 0xa000u
#define T_STACK 0x20000u /* tops of stacks: CPL 0 here, others above */

/* Selectors of the GDT that t_init() makes. */
enum {
	S_CODE0 = 0x08, /* 32-bit code, DPL 0 */
	S_DATA0 = 0x10,
	S_CODE64 = 0x18, /* 64-bit code, DPL 0 */
	S_CODE3 = 0x20,
	S_DATA3 = 0x28,
	S_CODE64U = 0x30,
	S_CONF = 0x38,   /* conforming 32-bit code, DPL 0 */
	S_TSS = 0x40,    /* two slots: 64-bit mode */
	S_LDT = 0x50,    /* two slots */
	S_NP = 0x60,     /* data, not present */
	S_XO = 0x68,     /* execute-only code, DPL 3 */
	S_RO = 0x70,     /* read-only data, DPL 3 */
	S_DOWN = 0x78,   /* expand-down data, DPL 3: valid above 0x1fff */
	S_CODE16 = 0x80, /* 16-bit code, DPL 0, base 0x10000 */
	S_DATA16 = 0x88, /* 16-bit data, DPL 0, base 0x10000 */
	S_CODE1 = 0x90,
	S_DATA1 = 0x98,
	S_NPCODE = 0xa0, /* code, DPL 0, not present */
	S_TSS2 = 0xa8,   /* another task */
	S_TSS16 = 0xb0,  /* a 16-bit task */
	S_CONF64 = 0xb8, /* conforming 64-bit code, DPL 0 */
	S_SMALL = 0xc0,  /* 32-bit data, DPL 0, limit 0xfff, base 0x20000 */
	S_FREE = 0xd0,   /* for gates; two slots each */
	S_FREE2 = 0xe0,
	S_END = 0xf0,
};

static struct x86_cpu *c;
static struct vcpu t_vcpu;
static struct vm t_vm;

static inline u8 *t_mem(u64 addr)
{
	return pmap_ptr(c->pmap, addr, 1);
}
static inline u64 t_ld(u64 addr, unsigned size)
{
	u64 v = 0;

	memcpy(&v, t_mem(addr), size);
	return v;
}
static inline void t_st(u64 addr, u64 v, unsigned size)
{
	memcpy(t_mem(addr), &v, size);
}

/* A segment descriptor; flags: G 8, D/B 4, L 2, AVL 1. */
static inline u64 t_desc(u32 base, u32 limit, u8 type, u8 flags)
{
	return (limit & 0xffff) | (u64)(base & 0xffffff) << 16 | (u64)type << 40 |
	       (u64)(limit >> 16 & 0xf) << 48 | (u64)flags << 52 | (u64)(base >> 24) << 56;
}
static inline void t_gdt(u16 sel, u64 raw)
{
	t_st(T_GDT + (sel & ~7u), raw, 8);
}
/* A gate of 8 bytes; in 64-bit mode with t_gate_high(). */
static inline u64 t_gate(u16 sel, u32 off, u8 type, u8 count)
{
	return (off & 0xffff) | (u64)sel << 16 | (u64)count << 32 | (u64)type << 40 |
	       (u64)(off >> 16) << 48;
}
static inline void t_idt(unsigned vec, u64 raw)
{
	t_st(T_IDT + vec * 8, raw, 8);
}
static inline void t_idt64(unsigned vec, u16 sel, u64 off, u8 type, u8 ist)
{
	t_st(T_IDT + vec * 16, t_gate(sel, (u32)off, type, ist), 8);
	t_st(T_IDT + vec * 16 + 8, off >> 32, 8);
}

static inline void t_load(struct x86_seg *s, u16 sel)
{
	u64 d = t_ld(T_GDT + (sel & ~7u), 8);

	s->sel = sel;
	s->ar = (u32)(d >> 40) & 0xf0ff;
	s->base = (u32)(d >> 16 & 0xffffff) | (u32)(d >> 32 & 0xff000000);
	s->limit = (u32)(d & 0xffff) | (u32)(d >> 32 & 0xf0000);
	if (s->ar & SEG_G)
		s->limit = s->limit << 12 | 0xfff;
}

/* Map page `page` of the first 2 MiB with these bits (long mode). */
static inline void t_map(u64 page, u64 bits)
{
	t_st(T_PT + (page >> 12) * 8, page | bits, 8);
	mmu_flush_all(c);
}

static inline void t_tables(void)
{
	static const struct {
		u16 sel;
		u32 base, limit;
		u8 type, flags;
	} d[] = {
		{S_CODE0, 0, 0xfffff, 0x9b, 0xc},
		{S_DATA0, 0, 0xfffff, 0x93, 0xc},
		{S_CODE64, 0, 0xfffff, 0x9b, 0xa},
		{S_CODE3, 0, 0xfffff, 0xfb, 0xc},
		{S_DATA3, 0, 0xfffff, 0xf3, 0xc},
		{S_CODE64U, 0, 0xfffff, 0xfb, 0xa},
		{S_CONF, 0, 0xfffff, 0x9f, 0xc},
		{S_TSS, T_TSS, 0xfff, 0x89, 0},
		{S_LDT, T_LDT, 0xff, 0x82, 0},
		{S_NP, 0, 0xfffff, 0x73, 0xc},
		{S_XO, 0, 0xfffff, 0xf9, 0xc},
		{S_RO, 0, 0xfffff, 0xf1, 0xc},
		{S_DOWN, 0, 1, 0xf7, 0xc},
		{S_CODE16, 0x10000, 0xffff, 0x9b, 0},
		{S_DATA16, 0x10000, 0xffff, 0x93, 0},
		{S_CODE1, 0, 0xfffff, 0xbb, 0xc},
		{S_DATA1, 0, 0xfffff, 0xb3, 0xc},
		{S_NPCODE, 0, 0xfffff, 0x1b, 0xc},
		{S_TSS2, T_TSS2, 0x67, 0x89, 0},
		{S_TSS16, T_TSS16, 0x2b, 0x81, 0},
		{S_CONF64, 0, 0xfffff, 0x9f, 0xa},
		{S_SMALL, 0x20000, 0xfff, 0x93, 0x4},
	};

	for (unsigned i = 0; i < ARRAY_SIZE(d); i++)
		t_gdt(d[i].sel, t_desc(d[i].base, d[i].limit, d[i].type, d[i].flags));
}

/* Into a mode: `cs` and `ss` are loaded with all they mean, CPL from cs. */
static inline void t_mode(u16 cs, u16 ss, bool lma)
{
	c->cr0 = CR0_PE | CR0_ET | CR0_WP | (lma ? CR0_PG : 0);
	c->cr4 = lma ? CR4_PAE : 0;
	c->efer = lma ? EFER_LMA | EFER_LME | EFER_SCE | EFER_NXE : 0;
	c->cr3 = lma ? T_PML4 : 0;
	c->cpl = cs & 3;
	t_load(&c->seg[CS], cs);
	t_load(&c->seg[SS], ss);
	t_load(&c->seg[DS], ss);
	t_load(&c->seg[ES], ss);
	t_load(&c->seg[FS], ss);
	t_load(&c->seg[GS], ss);
	t_load(&c->tr, S_TSS);
	c->tr.ar |= 2;
	c->gpr[RSP] = T_STACK + 0x1000u * c->cpl;
	c->rip = 0x30000;
	c->next_rip = 0x30002;
	x86_update_mode(c);
	mmu_flush_all(c);
}

static inline void t_real(void)
{
	c->cr0 = CR0_ET;
	c->cr4 = c->efer = 0;
	c->cpl = 0;
	for (unsigned i = 0; i < NR_SEG; i++)
		c->seg[i] = (struct x86_seg){.limit = 0xffff, .ar = 0x93};
	c->seg[CS].sel = 0x1000;
	c->seg[CS].base = 0x10000;
	c->seg[SS].sel = 0x2000;
	c->seg[SS].base = 0x20000;
	c->gpr[RSP] = 0x1000;
	c->rip = 0x100;
	c->next_rip = 0x102;
	c->idtr = (struct x86_dtable){.base = 0, .limit = 0x3ff};
	x86_update_mode(c);
	mmu_flush_all(c);
}

static inline int t_setup(void **state)
{
	memset(&t_vm, 0, sizeof(t_vm));
	memset(&t_vcpu, 0, sizeof(t_vcpu));
	c = aligned_alloc(64, ALIGN_UP(sizeof(*c), (size_t)64));
	if (!c)
		return -1;
	memset(c, 0, sizeof(*c));
	if (pmap_create(&c->pmap, 16 * MiB) || bus_create(&t_vm.bus, NULL))
		return -1;
	t_vm.pmap = c->pmap;
	t_vm.nr_vcpus = 1;
	t_vm.vcpu[0] = &t_vcpu;
	t_vcpu.vm = &t_vm;
	t_vcpu.arch_state = c;
	c->vcpu = &t_vcpu;
	c->phys_bits = 39;
	c->sflags = X86_RFLAGS_FIXED;
	c->dr[6] = 0xffff0ff0;
	c->dr[7] = 0x400;
	c->gdtr = (struct x86_dtable){.base = T_GDT, .limit = S_END - 1};
	c->idtr = (struct x86_dtable){.base = T_IDT, .limit = 0xfff};
	c->ldtr.ar = SEG_UNUSABLE;
	t_st(T_PML4, T_PDPT | 7, 8);
	t_st(T_PDPT, T_PD | 7, 8);
	t_st(T_PD, T_PT | 7, 8);
	t_st(T_PD + 8, 0x200000 | 0x87, 8);
	for (u64 p = 0; p < 0x200000; p += 0x1000)
		t_st(T_PT + (p >> 12) * 8, p | 7, 8);
	t_tables();
	c->tlb = c->tlbs[TLB_SUP];
	mmu_init(c);
	t_mode(S_CODE0, S_DATA0, false);
	return 0;
}

static inline int t_teardown(void **state)
{
	bus_destroy(t_vm.bus);
	pmap_destroy(c->pmap);
	free(c);
	return 0;
}

/* Run an expression as an instruction: -1, or the vector that it raised (c->ev has the rest).
 * The visible state must then be untouched. */
struct t_state {
	u64 gpr[NR_GPR], rip, rflags, cr0, cr3, dr7;
	struct x86_seg seg[NR_SEG], ldtr, tr;
	u32 mode;
	u8 cpl;
	struct tlb_entry *tlb;
};
static inline void t_snap(struct t_state *s)
{
	memset(s, 0, sizeof(*s));
	memcpy(s->gpr, c->gpr, sizeof(s->gpr));
	s->rip = c->rip;
	s->rflags = x86_rflags(c);
	s->cr0 = c->cr0;
	s->cr3 = c->cr3;
	s->dr7 = c->dr[7];
	for (unsigned i = 0; i < NR_SEG; i++) {
		s->seg[i].sel = c->seg[i].sel;
		s->seg[i].base = c->seg[i].base;
		s->seg[i].limit = c->seg[i].limit;
		s->seg[i].ar = c->seg[i].ar;
	}
	s->ldtr.sel = c->ldtr.sel;
	s->ldtr.base = c->ldtr.base;
	s->tr.sel = c->tr.sel;
	s->tr.base = c->tr.base;
	s->tr.ar = c->tr.ar;
	s->mode = c->mode;
	s->cpl = c->cpl;
	s->tlb = c->tlb;
}

#define T_TRY(expr)                                                                                \
	({                                                                                         \
		volatile int t_vec = -1;                                                           \
		static struct t_state t_before, t_after;                                           \
                                                                                                   \
		t_snap(&t_before);                                                                 \
		c->unwind_valid = true;                                                            \
		if (!setjmp(c->unwind)) {                                                          \
			expr;                                                                      \
		} else {                                                                           \
			t_vec = c->ev.vector;                                                      \
			t_snap(&t_after);                                                          \
			assert_memory_equal(&t_before, &t_after, sizeof(t_before));                \
		}                                                                                  \
		c->unwind_valid = false;                                                           \
		t_vec;                                                                             \
	})

#define T_OK(expr) assert_int_equal(T_TRY(expr), -1)
/* It raises `vector` with error code `code`. */
#define T_FAULT(expr, vec, code)                                                                   \
	do {                                                                                       \
		assert_int_equal(T_TRY(expr), vec);                                                \
		assert_true(c->ev.has_err);                                                        \
		assert_int_equal(c->ev.err, code);                                                 \
	} while (0)
