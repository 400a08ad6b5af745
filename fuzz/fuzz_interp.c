// SPDX-License-Identifier: MIT
/* Hostile guest code on the interpreter: the first bytes of the input choose the processor's mode
 * and registers, the rest is code that may overwrite its own descriptor and page tables, program
 * devices, and be interrupted. Each input starts on a fresh machine.
 *
 * Checked besides what the sanitizers see, after every instruction: registers hold nothing that
 * the architecture forbids, what is derived from them (mode word, TLB set) is up to date, and
 * every TLB entry leads into the guest's RAM. While a guest has left its first page tables alone,
 * the TLB must agree with them, rights included: that is what keeps CPL 3 out of the kernel.
 *
 * In lockstep inputs a second machine runs whole blocks where the first runs single instructions;
 * both must come to the same state. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <signal.h>
#include <sys/time.h>

#include "cpu/x86/mmu.h"
#include "cpu/x86/msr.h"
#include "cpu/x86/x86.h"
#include "dev/lapic.h"
#include "dev/pic.h"
#include "dev/pit.h"
#include "dev/serial.h"
#include "engine/interp/op.h"

#define RAM_SIZE  (4 * MiB)
#define MAX_STEPS 2000

/* Physical and linear addresses. */
#define PA_PML4  0x1000u
#define PA_PDPT  0x2000u
#define PA_PD    0x3000u
#define PA_PT    0x4000u /* 4 KiB pages of the first 2 MiB */
#define PA_PD32  0x5000u
#define PA_PT32  0x6000u
#define PA_GDT   0x8000u
#define PA_IDT   0x9000u
#define PA_TSS   0xa000u
#define PA_TSS2  0xa800u
#define PA_LDT   0xb000u
#define PA_KERN  0xc000u /* supervisor's page, as all below it */
#define PA_STACK 0xe000u
#define PA_CODE  0x10000u
#define CODE_MAX 0x4000u
#define PA_DATA  0x20000u

enum {
	S_CODE0 = 0x08,
	S_DATA0 = 0x10,
	S_CODE64 = 0x18,
	S_CODE3 = 0x20,
	S_DATA3 = 0x28,
	S_CODE64U = 0x30,
	S_CODE16 = 0x38,
	S_DATA16 = 0x40,
	S_TSS = 0x48,  /* two slots */
	S_TSS2 = 0x58, /* likewise */
	S_LDT = 0x68,  /* likewise */
	S_CALL = 0x78, /* a call gate; likewise */
	S_CONF = 0x88,
	S_DOWN = 0x90,
	S_NP = 0x98,
	S_TASK = 0xa0, /* a task gate */
	S_END = 0xa8,
};

enum { REAL, PROT16, PROT32, USER32, V86, COMPAT, LONG0, LONG3, NR_START };
enum how { STEPS, RUN, LOCKSTEP, NR_HOW };
enum { PAGING_OFF, PAGING_32, PAGING_PAE };

struct input {
	u8 mode, paging, how, events;
	u32 cr4, rflags;
	u8 regs[8];
	const u8 *code;
	u32 len;
};

struct machine {
	struct vm vm;
	struct vcpu *v;
	struct x86_cpu *c;
	struct interp *in;
	const struct input *input;
	u64 cr3;                         /* at the start */
	u8 *tables;                      /* paging structures at the start */
	bool long_mode_seen, other_mode; /* left the paging mode it began in */
	bool real_seen;                  /* CS.RPL need not be the CPL */
	bool raised;                     /* by the last instruction, and not delivered */
	u32 gen, checked;
};

int LLVMFuzzerTestOneInput(const u8 *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);

/* ---- the machine at the start ---- */

static void put(struct machine *m, gpa_t at, u64 v)
{
	pmap_write(m->vm.pmap, at, &v, 8);
}

static u64 desc(u32 base, u32 limit, u8 type, u8 flags)
{
	return (limit & 0xffff) | (u64)(base & 0xffffff) << 16 | (u64)type << 40 |
	       (u64)(limit >> 16 & 0xf) << 48 | (u64)flags << 52 | (u64)(base >> 24) << 56;
}

static u64 gate(u16 sel, u32 off, u8 type)
{
	return (off & 0xffff) | (u64)sel << 16 | (u64)type << 40 | (u64)(off >> 16) << 48;
}

static bool is_long(const struct input *in)
{
	return in->mode >= COMPAT;
}

static bool is_user(const struct input *in)
{
	return in->mode == USER32 || in->mode == V86 || in->mode == COMPAT || in->mode == LONG3;
}

static void make_descriptors(struct machine *m)
{
	bool lma = is_long(m->input);
	u8 tss = 0x89;

	put(m, PA_GDT + S_CODE0, desc(0, 0xfffff, 0x9b, 0xc));
	put(m, PA_GDT + S_DATA0, desc(0, 0xfffff, 0x93, 0xc));
	put(m, PA_GDT + S_CODE64, desc(0, 0xfffff, 0x9b, 0xa));
	put(m, PA_GDT + S_CODE3, desc(0, 0xfffff, 0xfb, 0xc));
	put(m, PA_GDT + S_DATA3, desc(0, 0xfffff, 0xf3, 0xc));
	put(m, PA_GDT + S_CODE64U, desc(0, 0xfffff, 0xfb, 0xa));
	put(m, PA_GDT + S_CODE16, desc(PA_CODE, 0xffff, 0x9b, 0));
	put(m, PA_GDT + S_DATA16, desc(PA_CODE, 0xffff, 0x93, 0));
	put(m, PA_GDT + S_TSS, desc(PA_TSS, 0x7ff, tss | 2, 0));
	put(m, PA_GDT + S_TSS2, desc(PA_TSS2, 0x7ff, tss, 0));
	put(m, PA_GDT + S_LDT, desc(PA_LDT, 0xff, 0x82, 0));
	put(m, PA_GDT + S_CALL, gate(lma ? S_CODE64 : S_CODE0, PA_CODE + 8, 0xec));
	put(m, PA_GDT + S_CONF, desc(0, 0xfffff, 0x9f, 0xc));
	put(m, PA_GDT + S_DOWN, desc(0, 1, 0xf7, 0xc));
	put(m, PA_GDT + S_NP, desc(0, 0xfffff, 0x73, 0xc));
	put(m, PA_GDT + S_TASK, gate(S_TSS2, 0, 0xe5));
	put(m, PA_LDT, desc(0, 0xfffff, 0xf3, 0xc));
	put(m, PA_LDT + 8, desc(PA_DATA, 0xfff, 0xfb, 0x4));

	for (unsigned i = 0; i < 256; i++) {
		/* Handlers are entry points in the input. */
		u32 off = i * 3 % MAX(m->input->len, 1u);

		if (m->input->mode == REAL) {
			u32 e = (PA_CODE >> 4) << 16 | off;

			pmap_write(m->vm.pmap, i * 4, &e, 4);
		} else if (lma) {
			put(m, PA_IDT + i * 16, gate(S_CODE64, PA_CODE + off, i & 1 ? 0xee : 0x8e));
			if (i == X86_DF)
				put(m, PA_IDT + i * 16,
				    gate(S_CODE64, PA_CODE + off, 0x8e) | 1ull << 32);
		} else {
			put(m, PA_IDT + i * 8, gate(S_CODE0, PA_CODE + off, i & 1 ? 0xef : 0x8e));
			if (i == X86_TS || i == 0x21)
				put(m, PA_IDT + i * 8, gate(S_TSS2, 0, 0xe5));
		}
	}
	if (lma) {
		put(m, PA_TSS + 4, PA_STACK);
		put(m, PA_TSS + 36, PA_STACK - 0x400);
	} else {
		put(m, PA_TSS + 4, PA_STACK | (u64)S_DATA0 << 32);
	}
	put(m, PA_TSS + 100, 0x0068ull << 16);
	memset(pmap_ptr(m->vm.pmap, PA_TSS + 0x68, 0x80), 0x5a, 0x80);
	put(m, PA_TSS2 + 0x1c, 0); /* CR3: the same for a task with paging is put below */
	put(m, PA_TSS2 + 0x20, PA_CODE | 2ull << 32);
	put(m, PA_TSS2 + 0x38, PA_STACK - 0x800);
	put(m, PA_TSS2 + 0x48, S_DATA0 | (u64)S_CODE0 << 32);
	put(m, PA_TSS2 + 0x50, S_DATA0 | (u64)S_DATA0 << 32);
	put(m, PA_TSS2 + 0x58, S_DATA0);
}

static void make_page_tables(struct machine *m)
{
	const u64 all = PTE_P | PTE_W | PTE_U;
	bool pae = m->input->paging == PAGING_PAE && !is_long(m->input);

	put(m, PA_PML4, PA_PDPT | all);
	put(m, PA_PML4 + 511 * 8, PA_PDPT | PTE_P | PTE_W);
	put(m, PA_PDPT, PA_PD | (pae ? PTE_P : all));
	put(m, PA_PDPT + 8, PA_PD | (pae ? PTE_P : PTE_P | PTE_W));
	put(m, PA_PD, PA_PT | all);
	put(m, PA_PD + 8, 0x200000 | all | PTE_PS | PTE_G);
	put(m, PA_PD + 16, 0xfee00000ull | all | PTE_PS);
	put(m, PA_PD32, (PA_PT32 | all) | (0xfec00000ull | PTE_PS | all) << 32);
	for (u32 i = 0; i < 1024; i++) {
		u32 page = i << 12;
		u32 e = page | PTE_P | PTE_A;

		e |= page < PA_CODE    ? (u32)PTE_W
		     : page < 0x100000 ? (u32)(PTE_W | PTE_U | (i & 1 ? PTE_D : 0))
		                       : (u32)(i & 1 ? PTE_U : 0) | (u32)(i & 2 ? PTE_W : 0);
		if (i == 0x30)
			e = 0;
		pmap_write(m->vm.pmap, PA_PT32 + i * 4, &e, 4);
		if (i < 512)
			put(m, PA_PT + i * 8, e | (i == 0x31 ? PTE_NX : 0));
	}
	m->cr3 = is_long(m->input) ? PA_PML4 : pae ? PA_PDPT : PA_PD32;
	pmap_write(m->vm.pmap, PA_TSS2 + 0x1c, &m->cr3, 4);
}

static void load_seg(struct machine *m, struct x86_seg *s, u16 sel)
{
	u64 d = 0;

	pmap_read(m->vm.pmap, PA_GDT + (sel & ~7u), &d, 8);
	s->sel = sel;
	s->ar = (u32)(d >> 40) & 0xf0ff;
	s->base = (u32)(d >> 16 & 0xffffff) | (u32)(d >> 32 & 0xff000000);
	s->limit = (u32)(d & 0xffff) | (u32)(d >> 32 & 0xf0000);
	if (s->ar & SEG_G)
		s->limit = s->limit << 12 | 0xfff;
}

static void set_segments(struct machine *m)
{
	static const u16 cs[NR_START] = {0, S_CODE16,    S_CODE0,  S_CODE3 | 3,
	                                 0, S_CODE3 | 3, S_CODE64, S_CODE64U | 3};
	static const u16 ds[NR_START] = {0, S_DATA16,    S_DATA0, S_DATA3 | 3,
	                                 0, S_DATA3 | 3, S_DATA0, S_DATA3 | 3};
	struct x86_cpu *c = m->c;
	u8 mode = m->input->mode;

	for (unsigned s = 0; s < NR_SEG; s++) {
		if (mode == REAL || mode == V86)
			c->seg[s] = (struct x86_seg){PA_CODE, 0xffff,
			                             SEG_P | SEG_S | SEG_RW | SEG_A |
			                                     (mode == V86 ? SEG_DPL : 0),
			                             PA_CODE >> 4};
		else
			load_seg(m, &c->seg[s], s == CS ? cs[mode] : ds[mode]);
	}
	if (mode == REAL)
		return;
	load_seg(m, &c->tr, S_TSS);
	load_seg(m, &c->ldtr, S_LDT);
	c->gdtr = (struct x86_dtable){PA_GDT, S_END - 1};
	c->idtr = (struct x86_dtable){PA_IDT, is_long(m->input) ? 0xfff : 0x7ff};
}

static void set_registers(struct machine *m)
{
	static const u64 values[16] = {
		PA_DATA,    PA_DATA + 0xffd,       PA_CODE + 64, 0x30ffe,
		PA_GDT,     PA_IDT + 14 * 16,      PA_PT + 8,    0x400000 + 0x200080,
		0x103ff8,   0xffffff8000020000,    0x3f8,        0xfee00300,
		0xfffffffe, 0x8000000000000000ull, 0x20,         0x7ffffffffffe,
	};
	struct x86_cpu *c = m->c;
	const struct input *in = m->input;

	for (unsigned r = 0; r < 16; r++)
		c->gpr[r] = values[in->regs[r / 2] >> (r & 1) * 4 & 15];
	c->gpr[RSP] = in->mode == REAL || in->mode == V86 || in->mode == PROT16 ? 0x8000
	                                                                        : PA_DATA + 0x8000;
	c->rip = c->next_rip =
		in->mode == REAL || in->mode == V86 || in->mode == PROT16 ? 0 : PA_CODE;
	x86_set_rflags(c,
	               (in->rflags & ~(u64)X86_RFLAGS_VM) | (in->mode == V86 ? X86_RFLAGS_VM : 0));
}

static void set_control(struct machine *m)
{
	struct x86_cpu *c = m->c;
	const struct input *in = m->input;

	c->cr0 = CR0_ET | CR0_NE | (in->cr4 & BIT(31) ? CR0_WP : 0) |
	         (in->cr4 & BIT(30) ? CR0_AM : 0);
	c->cr4 = in->cr4 & c->feat.cr4 & ~(CR4_PAE | CR4_PCIDE | CR4_LA57);
	if (in->mode != REAL)
		c->cr0 |= CR0_PE;
	if (is_long(in)) {
		c->efer = (EFER_LME | EFER_LMA | EFER_SCE | EFER_NXE) & c->feat.efer;
		c->cr4 |= CR4_PAE | (in->cr4 & c->feat.cr4 & CR4_PCIDE);
	} else if (in->paging == PAGING_PAE) {
		c->cr4 |= CR4_PAE;
		c->efer = EFER_NXE & c->feat.efer;
	}
	if (is_long(in) || (in->paging && in->mode != REAL)) {
		c->cr0 |= CR0_PG;
		c->cr3 = m->cr3;
		if (!is_long(in) && in->paging == PAGING_PAE)
			for (unsigned i = 0; i < 4; i++)
				pmap_read(m->vm.pmap, PA_PDPT + i * 8, &c->pdpte[i], 8);
	}
	c->star = (u64)(S_CODE0 | (u64)(S_CODE3 - 8) << 16) << 32;
	c->lstar = PA_CODE + 16;
	c->cstar = PA_CODE + 24;
	c->sfmask = X86_RFLAGS_TF;
	c->sysenter_cs = S_CODE0;
	c->sysenter_esp = PA_STACK;
	c->sysenter_eip = PA_CODE + 32;
	c->xcr0 = c->feat.xcr0;
	c->cpl = is_user(in) ? 3 : 0;
}

static u64 tsc_now(struct vcpu *v)
{
	return x86_tsc(vcpu_x86(v));
}

static void make_devices(struct machine *m)
{
	struct vm *vm = &m->vm;
	const struct dev_env env = {vm->bus, vm->loop, &vm->irq, vm->pmap, NULL, &vm->devices};
	struct lapic_set *set;
	struct serial *serial;
	struct lapic *lapic;
	struct pit *pit;
	struct pic *pic;

	if (lapic_set_create(&set, &env) || pit_create(&pit, &env) ||
	    pic_create(&pic, &env, &(struct pic_config){lapic_set_extint, set}) ||
	    serial_create(&serial, &env, &(struct serial_config){0}))
		abort();
	lapic_set_wire(set, &(struct lapic_wires){.inta = pic_ack, .pic = pic});
	if (lapic_create(&lapic, set,
	                 &(struct lapic_config){.vcpu = m->v,
	                                        .bsp = true,
	                                        .maxphyaddr = m->c->phys_bits,
	                                        .x2apic = true,
	                                        .tsc_deadline = true,
	                                        .tsc_khz = vm->tsc_khz,
	                                        .tsc_now = tsc_now}))
		abort();
	pic_firmware_init(pic);
	lapic_virtual_wire(lapic);
}

/* What native instructions raise on this thread is this machine's. */
static void take_thread(struct machine *m)
{
	if (interp_thread_init(m->c))
		abort();
}

static void machine_make(struct machine *m, const struct input *in)
{
	memset(m, 0, sizeof(*m));
	m->input = in;
	m->vm.tsc_khz = 2000000;
	if (vm_init(&m->vm) || pmap_create(&m->vm.pmap, RAM_SIZE))
		abort();
	loop_clock_stop(m->vm.loop);
	m->vm.engine = &interp_engine;
	m->vm.pmap->single = true;
	m->v = vm_add_vcpu(&m->vm);
	if (!m->v || x86_cpu_create(m->v) || interp_engine.vcpu_create(m->v))
		abort();
	m->c = vcpu_x86(m->v);
	m->in = m->v->engine_state;
	take_thread(m);
	m->in->thread_ready = true;
	make_devices(m);
	m->v->state = VCPU_RUNNING;
	make_descriptors(m);
	make_page_tables(m);
	m->tables = malloc(PA_PT32 + 0x1000 - PA_PML4);
	if (!m->tables)
		abort();
	pmap_read(m->vm.pmap, PA_PML4, m->tables, PA_PT32 + 0x1000 - PA_PML4);
	pmap_write(m->vm.pmap, PA_CODE, in->code, in->len);
	set_control(m);
	set_segments(m);
	set_registers(m);
	m->real_seen = in->mode == REAL;
	mmu_flush_all(m->c);
	x86_update_mode(m->c);
	x86_update_step(m->c);
}

static void machine_destroy(struct machine *m)
{
	free(m->tables);
	vm_destroy(&m->vm);
}

/* ---- what must hold between instructions ---- */

#define MUST(cond)                                                                                 \
	do {                                                                                       \
		if (!(cond))                                                                       \
			bug("at %04x:%#llx, CPL %u, mode %#x: not so: " #cond, c->seg[CS].sel,     \
			    (unsigned long long)c->rip, c->cpl, c->mode);                          \
	} while (0)

static void check_control(struct x86_cpu *c)
{
	MUST(!(c->cr0 & ~(CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_ET | CR0_NE | CR0_WP | CR0_AM |
	                  CR0_NW | CR0_CD | CR0_PG)));
	MUST(c->cr0 & CR0_ET);
	MUST(!(c->cr0 & CR0_PG) || (c->cr0 & CR0_PE));
	MUST(!(c->cr0 & CR0_NW) || (c->cr0 & CR0_CD));
	MUST(!!(c->efer & EFER_LMA) == ((c->cr0 & CR0_PG) && (c->efer & EFER_LME)));
	MUST(!(c->efer & EFER_LMA) || (c->cr4 & CR4_PAE));
	MUST(!(c->cr4 & CR4_PCIDE) || (c->efer & EFER_LMA));
	MUST(!(c->cr4 & ~c->feat.cr4) && !(c->efer & ~c->feat.efer));
	MUST(!(c->xcr0 & ~c->feat.xcr0) && (c->xcr0 & XCR0_X87));
	MUST(!(c->cr3 >> c->phys_bits));
	MUST((c->dr[6] & 0xffff1ff0) == 0xffff0ff0 && !(c->dr[7] & ~0xffff27ffull));
	MUST(is_canonical(c->lstar) && is_canonical(c->cstar) && is_canonical(c->kernel_gs_base));
	MUST(is_canonical(c->sysenter_esp) && is_canonical(c->sysenter_eip));
	MUST(is_canonical(c->gdtr.base) && is_canonical(c->idtr.base));
	MUST(is_canonical(c->tr.base) && is_canonical(c->ldtr.base));
	MUST(is_canonical(c->seg[FS].base) && is_canonical(c->seg[GS].base));
}

static void check_segments(struct machine *m)
{
	struct x86_cpu *c = m->c;
	bool pe = c->cr0 & CR0_PE, vm = pe && (c->sflags & X86_RFLAGS_VM);

	if (!pe)
		m->real_seen = true;
	MUST(c->cpl <= 3);
	MUST(pe || !c->cpl);
	MUST(!vm || c->cpl == 3);
	MUST(!vm || !(c->efer & EFER_LMA));
	MUST(!(c->sflags & ~(0x3f7fd7ull | X86_RFLAGS_FIXED)));
	MUST((x86_rflags(c) & (X86_RFLAGS_FIXED | 0x8028)) == X86_RFLAGS_FIXED);
	for (unsigned s = 0; s < NR_SEG; s++) {
		const struct x86_seg *g = &c->seg[s];

		MUST(s >= FS || !(g->base >> 32));
		if (vm) {
			MUST(g->base == g->sel * 16u && g->limit == 0xffff);
		} else if (pe && !m->real_seen && !(g->ar & SEG_UNUSABLE)) {
			MUST((g->ar & (SEG_P | SEG_S)) == (SEG_P | SEG_S));
			MUST(s != CS || (g->ar & SEG_CODE));
			MUST(s != SS || (g->ar & (SEG_CODE | SEG_RW)) == SEG_RW);
			MUST(!(g->ar & SEG_CODE) || (g->ar & SEG_RW) || s == CS);
		}
	}
	/* A task switch that fails in the new task leaves segment registers with selectors only. */
	if (m->raised && ((c->seg[CS].ar | c->seg[SS].ar) & SEG_UNUSABLE))
		pe = false;
	if (pe && !vm && !m->real_seen) {
		MUST((c->seg[CS].sel & 3) == c->cpl);
		MUST((c->seg[SS].sel & 3) == c->cpl);
		MUST(!(c->seg[CS].ar & SEG_UNUSABLE));
	}
	MUST((c->mode & M_CS64) || !(c->rip >> 32));
	MUST(!c->gpr[REG_ZERO]);
}

static void check_derived(struct x86_cpu *c)
{
	const struct tlb_entry *tlb = c->tlb;
	u32 mode = c->mode;
	bool step = c->step;
	u64 base[NR_SEG + 2], bar[2];

	memcpy(base, c->segbase, sizeof(base));
	memcpy(bar, c->segbar, sizeof(bar));
	x86_update_mode(c);
	x86_update_step(c);
	MUST(mode == c->mode);
	MUST(tlb == c->tlb);
	MUST(step == c->step);
	MUST(!memcmp(base, c->segbase, sizeof(base)));
	MUST(!memcmp(bar, c->segbar, sizeof(bar)));
}

static void check_fpu(const struct x86_cpu *c)
{
	u64 bv = get_le64(c->xsave + 512), comp = get_le64(c->xsave + 520);

	MUST(!c->fpu_live);
	MUST(!(get_le32(c->xsave + 24) & ~c->fpu_mxcsr_mask));
	MUST(!(bv & ~(XCR0_X87 | XCR0_SSE | XCR0_AVX)) && !comp);
}

/* Have the page tables only changed in A and D, and is nothing else in their place? */
static bool tables_untouched(struct machine *m)
{
	const struct x86_cpu *c = m->c;
	const u8 *now = pmap_ptr(m->vm.pmap, PA_PML4, PA_PT32 + 0x1000 - PA_PML4);

	if (m->other_mode)
		return false;
	for (u32 i = 0; i < PA_PT32 + 0x1000 - PA_PML4; i += 4)
		if ((get_le32(now + i) ^ get_le32(m->tables + i)) & ~(u32)(PTE_A | PTE_D)) {
			m->other_mode = true;
			return false;
		}
	MUST(now);
	return true;
}

static void check_entry(struct machine *m, unsigned set, unsigned i, bool untouched)
{
	struct x86_cpu *c = m->c;
	const struct tlb_entry *e = &c->tlbs[set][i];
	const struct pmap *p = m->vm.pmap;
	const u8 *hva;
	gpa_t gpa;
	u64 off, va;

	MUST(!(e->r & ~PAGE_MASK) && !(e->w & ~PAGE_MASK));
	if ((e->r >> PAGE_SHIFT & (TLB_SIZE - 1)) != i) {
		MUST((e->w >> PAGE_SHIFT & (TLB_SIZE - 1)) != i);
		return;
	}
	va = e->r;
	MUST(set != TLB_USER_AC);
	MUST((e->w >> PAGE_SHIFT & (TLB_SIZE - 1)) != i || e->w == va);
	MUST(is_canonical(va));
	hva = (const u8 *)(uintptr_t)(va + e->addend);
	off = (u64)(hva - p->hva);
	MUST(off < p->ram_size && !(off & ~PAGE_MASK));
	MUST(e->bt_addend == e->addend);
	MUST(c->code_ver_bias + ((uintptr_t)hva >> PAGE_SHIFT) * sizeof(u32) ==
	     (uintptr_t)&p->code_ver[off >> PAGE_SHIFT]);
	if (!untouched)
		return;
	MUST(mmu_probe(c, va, &gpa));
	MUST(pmap_ptr(p, gpa, PAGE_SIZE) == hva);
	if (set == TLB_USER && (c->mode & M_PG)) {
		/* Read from the tables of the start, by hand: below 1 MiB or odd pages are the
		 * user's. */
		u64 page = va & (2 * MiB - 1);

		MUST(va < 4 * MiB || (c->cr4 & CR4_PAE) == 0 || !(c->mode & M_LMA));
		if (va < 2 * MiB) {
			MUST(page >= PA_CODE);
			MUST(page < 0x100000 || (page >> 12 & 1));
			MUST(e->w != va || page < 0x100000 || (page >> 12 & 2));
		}
	}
}

/* The second level: only RAM, and while the tables are those of the start, what they say. */
static void check_second(struct machine *m, bool untouched)
{
	struct x86_cpu *c = m->c;
	u32 own = c->pcid_space[c->cr4 & CR4_PCIDE ? c->cr3 & 0xfff : 0];

	for (unsigned i = 0; i < STLB_SIZE; i++) {
		const struct stlb_entry *e = &c->stlb[i];
		gpa_t gpa;

		MUST(e->page < m->vm.pmap->ram_size >> PAGE_SHIFT);
		if (!untouched || !e->space || (e->space != own && e->space != c->space_global))
			continue;
		MUST(is_canonical(e->tag & PAGE_MASK));
		MUST(mmu_probe(c, e->tag & PAGE_MASK, &gpa));
		MUST(gpa == pmap_gpa(e->page));
	}
}

static void check_tlb(struct machine *m, bool all)
{
	struct x86_cpu *c = m->c;
	u32 n = MIN(c->tlb_fills, TLB_FILL_LOG);
	bool untouched;

	if (!(c->cr0 & CR0_PG) !=
	            !(is_long(m->input) || (m->input->paging && m->input->mode != REAL)) ||
	    ((c->cr0 & CR0_PG) && c->cr3 != m->cr3) ||
	    !(c->cr4 & CR4_PAE) != !(is_long(m->input) || m->input->paging == PAGING_PAE) ||
	    !!(c->efer & EFER_LMA) != is_long(m->input))
		m->other_mode = true;
	if (!all && c->tlb_gen == m->gen && n == m->checked)
		return;
	untouched = tables_untouched(m);
	if (all) {
		for (unsigned s = 0; s < TLB_SETS; s++)
			for (unsigned i = 0; i < TLB_SIZE; i++)
				check_entry(m, s, i, untouched);
		check_second(m, untouched);
	} else {
		for (u32 k = c->tlb_gen == m->gen ? m->checked : 0; k < n; k++)
			check_entry(m, c->tlb_filled[k] / TLB_SIZE, c->tlb_filled[k] % TLB_SIZE,
			            untouched);
	}
	m->gen = c->tlb_gen;
	m->checked = n;
}

static void check(struct machine *m)
{
	x86_fpu_put(m->c);
	check_control(m->c);
	check_segments(m);
	check_derived(m->c);
	check_fpu(m->c);
	check_tlb(m, false);
}

/* Every block lies in the arena, within its limits, and ends in an op of its own. */
static void check_blocks(struct machine *m)
{
	struct interp *in = m->in;
	const struct x86_cpu *c = m->c;

	for (unsigned h = 0; h < 1u << BLOCK_HASH_BITS; h++) {
		for (const struct block *b = in->hash[h]; b; b = b->hash_next) {
			const u8 *p = (const u8 *)b;
			u32 at = 0;

			MUST(p >= in->arena && p < in->arena + in->arena_used);
			MUST(b->nr_ops && b->nr_ops <= BLOCK_MAX_OPS && b->len <= BLOCK_MAX_BYTES);
			MUST((const u8 *)&b->ops[b->nr_ops] <= in->arena + in->arena_used);
			MUST(b->code >= in->arena &&
			     b->code + b->len <= in->arena + in->arena_used);
			for (u32 i = 0; i < b->nr_ops; i++) {
				MUST(b->ops[i].fn && b->ops[i].off == at);
				at += b->ops[i].len;
			}
			MUST(at == b->len);
			MUST((b->gpa & ~PAGE_MASK) + b->len <= PAGE_SIZE || b->page2_ver);
			MUST(!b->page2_ver || b->nr_ops == 1);
		}
	}
}

/* ---- running ---- */

/* false: the guest is at its end. */
static bool deliver(struct machine *m, const struct x86_event *ev)
{
	if (x86_deliver(m->c, ev) < 0)
		return false;
	check(m);
	return true;
}

static bool pending(struct machine *m)
{
	struct vcpu *v = m->v;
	struct x86_cpu *c = m->c;

	if (v->req & VCPU_REQ_TLB_FLUSH) {
		vcpu_clear(v, VCPU_REQ_TLB_FLUSH);
		mmu_flush_all(c);
	}
	if ((v->req & VCPU_REQ_NMI) && !c->nmi_blocked && !c->irq_shadow) {
		vcpu_take_nmi(v);
		return deliver(m, &(struct x86_event){.type = EV_NMI, .vector = X86_NMI});
	}
	if ((v->req & VCPU_REQ_IRQ) && x86_intr_open(c)) {
		int vec = v->irqchip->ack(v->irqchip_dev);

		if (vec >= 0)
			return deliver(m, &(struct x86_event){.type = EV_INTR, .vector = (u8)vec});
	}
	return true;
}

static bool step(struct machine *m)
{
	struct x86_cpu *c = m->c;
	int ret;

	c->sflags &= ~X86_RFLAGS_RF;
	c->irq_shadow = c->shadow_db = false;
	ret = interp_step(c);
	m->raised = ret;
	check(m);
	m->raised = false;
	m->v->state = VCPU_RUNNING;
	if (!ret)
		return true;
	return deliver(m, &c->ev);
}

/* What comes from outside: time, NMIs. */
static void outside(struct machine *m, unsigned n)
{
	u8 e = m->input->events;

	if (!(e & 0x1f) || n % ((e & 0x1f) * 3u))
		return;
	if (e & 0x20)
		vcpu_nmi(m->v);
	if (e & 0x40)
		loop_clock_step(m->vm.loop, 100000);
}

static void run_steps(struct machine *m)
{
	for (unsigned n = 1; n < MAX_STEPS; n++) {
		outside(m, n);
		if (!pending(m) || !step(m) || m->vm.ended ||
		    (m->v->req & (VCPU_REQ_INIT | VCPU_REQ_SIPI)))
			return;
	}
}

/* A guest whose handler faults at its first instruction never retires one: it is stopped as any
 * other is, by a request. One process-wide pointer, since signals are the process's. */
static struct vcpu *_Atomic running;

static void too_long(int sig)
{
	struct vcpu *v = running;

	if (v)
		__atomic_fetch_or((u32 *)&v->req, VCPU_REQ_PAUSE, __ATOMIC_SEQ_CST);
}

/* The engine's own loop, a debugger's single steps. */
static void run_run(struct machine *m)
{
	const struct itimerval limit = {.it_value.tv_usec = 50000}, off = {0};
	struct vcpu *v = m->v;

	running = v;
	v->single_step = true;
	x86_update_step(m->c);
	setitimer(ITIMER_VIRTUAL, &limit, NULL);
	for (unsigned n = 1; n < MAX_STEPS; n++) {
		enum vcpu_stop stop;

		outside(m, n);
		stop = interp_engine.run(v);
		check(m);
		v->state = VCPU_RUNNING;
		if (m->vm.ended || (stop != STOP_DEBUG && stop != STOP_HLT))
			break;
	}
	setitimer(ITIMER_VIRTUAL, &off, NULL);
	running = NULL;
}

static void same(struct machine *m, const struct machine *o)
{
	struct x86_cpu *c = m->c;
	const struct x86_cpu *d = o->c;

	MUST(c->rip == d->rip);
	MUST(x86_rflags(c) == x86_rflags(d));
	for (unsigned r = 0; r < 16; r++)
		if (c->gpr[r] != d->gpr[r])
			bug("at %#llx: register %u is %#llx by steps, %#llx by blocks",
			    (unsigned long long)c->rip, r, (unsigned long long)c->gpr[r],
			    (unsigned long long)d->gpr[r]);
	MUST(c->mode == d->mode && c->cpl == d->cpl);
	MUST(c->cr0 == d->cr0 && c->cr2 == d->cr2 && c->cr3 == d->cr3 && c->cr4 == d->cr4);
	for (unsigned s = 0; s < NR_SEG; s++)
		MUST(c->seg[s].sel == d->seg[s].sel && c->seg[s].base == d->seg[s].base &&
		     c->seg[s].limit == d->seg[s].limit && c->seg[s].ar == d->seg[s].ar);
	MUST(!memcmp(c->xsave, d->xsave, 832));
}

/* Whole blocks here, single instructions there. Time is not the same on both. */
static void run_lockstep(struct machine *m, struct machine *o)
{
	struct x86_cpu *c = m->c, *d = o->c;

	for (unsigned n = 0; n < MAX_STEPS;) {
		u64 before = o->in->insns, start = d->rip;
		u64 k;
		int ret;

		take_thread(o);
		d->irq_shadow = d->shadow_db = false;
		d->sflags &= ~X86_RFLAGS_RF;
		ret = interp_step_block(d);
		x86_fpu_put(d);
		k = o->in->insns - before;
		if (o->vm.ended)
			return;
		if (!ret && !k) /* it ended in a system instruction, which does not count */
			k = o->in->cur->nr_ops;
		if (ret && d->rip != start) /* else the first, or its fetch */
			for (unsigned i = 0; o->in->cur && i < o->in->cur->nr_ops; i++)
				if (d->gpr[REG_IP] + o->in->cur->ops[i].off == d->rip)
					k = i;
		take_thread(m);
		for (u64 i = 0; i < k; i++, n++) {
			c->irq_shadow = c->shadow_db = false;
			c->sflags &= ~X86_RFLAGS_RF;
			MUST(!interp_step(c));
			check(m);
		}
		if (ret) {
			c->irq_shadow = c->shadow_db = false;
			c->sflags &= ~X86_RFLAGS_RF;
			n++;
			MUST(interp_step(c));
			MUST(c->ev.vector == d->ev.vector && c->ev.type == d->ev.type);
			MUST(!c->ev.has_err || c->ev.err == d->ev.err);
		}
		x86_fpu_put(c);
		same(m, o);
		m->v->state = o->v->state = VCPU_RUNNING;
		if (ret) {
			int end = x86_deliver(d, &d->ev);

			MUST(x86_deliver(c, &c->ev) == end);
			if (end)
				return;
			same(m, o);
		}
		if (m->vm.ended || o->vm.ended || m->v->req || o->v->req)
			return;
	}
}

/* RDTSC and what stands for it: two machines don't see the same. */
static bool tells_time(const struct input *in)
{
	for (u32 i = 0; i + 1 < in->len; i++)
		if ((in->code[i] == 0x0f && (in->code[i + 1] == 0x31 || in->code[i + 1] == 0x01 ||
		                             in->code[i + 1] == 0x32 || in->code[i + 1] == 0x30)))
			return true;
	return false;
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	const struct sigaction sa = {.sa_handler = too_long, .sa_flags = SA_RESTART};

	log_set_level(LOG_ERROR);
	sigaction(SIGVTALRM, &sa, NULL);
	return 0;
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	struct input in;
	struct machine m, other;

	if (size < 24)
		return 0;
	in.mode = data[0] % NR_START;
	in.paging = data[1] % 3;
	in.how = data[2] % NR_HOW;
	in.events = data[3];
	in.cr4 = get_le32(data + 4);
	in.rflags = get_le32(data + 8);
	memcpy(in.regs, data + 12, 8);
	in.code = data + 20;
	in.len = (u32)MIN(size - 20, (size_t)CODE_MAX);
	if (in.how == LOCKSTEP && tells_time(&in))
		in.how = STEPS;
	machine_make(&m, &in);
	check(&m);
	switch (in.how) {
	case STEPS:
		run_steps(&m);
		break;
	case RUN:
		run_run(&m);
		break;
	default:
		machine_make(&other, &in);
		run_lockstep(&m, &other);
		check(&other);
		check_tlb(&other, true);
		check_blocks(&other);
		machine_destroy(&other);
		break;
	}
	x86_fpu_put(m.c);
	check_tlb(&m, true);
	check_blocks(&m);
	machine_destroy(&m);
	return 0;
}
