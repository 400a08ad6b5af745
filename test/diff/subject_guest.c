// SPDX-License-Identifier: MIT
/* The engines: one processor in 64-bit or compatibility mode at CPL 3, with the case's pages at the
 * case's addresses, on this thread. Exceptions are recorded, not delivered. The descriptor table
 * has what Linux's has, so that selectors mean the same on both sides.
 *
 * The interpreter executes one instruction at a time. The translator runs until an exception is
 * raised: behind the case's code is the host's way out, or INT3 as everywhere where a branch may
 * go. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "cpu/x86/mmu.h"
#include "cpu/x86/x86.h"
#include "engine/interp/interp.h"
#ifdef HAVE_BT
#include "engine/bt/bt.h"
#endif
#include "mem/pmap.h"
#include "subject.h"

/* Guest-physical layout. */
#define PA_PML4  0x1000
#define PA_PDPT  0x2000
#define PA_PD    0x3000
#define PA_PT0   0x4000 /* code */
#define PA_PT1   0x5000 /* data */
#define PA_PDPTK 0x6000
#define PA_PDK   0x7000
#define PA_PTK   0x8000
#define PA_GDT   0x9000
#define PA_CODE  0x10000
#define PA_DATA  0x20000
#define VA_GDT   0xffffffff80000000ull
#define VA_TSS   (VA_GDT + 0x800)

#define MAX_STEPS 64

struct guest {
	struct vm vm;
	struct x86_cpu *c;
	const u8 *images;
	u8 *code, *data;
};

static void put(struct guest *g, gpa_t at, u64 v)
{
	pmap_write(g->vm.pmap, at, &v, sizeof(v));
}

static void make_tables(struct guest *g)
{
	const u64 dir = PTE_P | PTE_W | PTE_U | PTE_A;
	static const u64 gdt[16] = {
		[1] = 0x00cf9b000000ffff,  /* kernel code 32 */
		[2] = 0x00af9b000000ffff,  /* kernel code 64 */
		[3] = 0x00cf93000000ffff,  /* kernel data */
		[4] = 0x00cffb000000ffff,  /* SEL_USER_CS32 */
		[5] = 0x00cff3000000ffff,  /* SEL_USER_DS */
		[6] = 0x00affb000000ffff,  /* SEL_USER_CS64 */
		[15] = 0x0040f50000000000, /* the processor's number, for LSL */
	};

	put(g, PA_PML4, PA_PDPT | dir);
	put(g, PA_PDPT, PA_PD | dir);
	put(g, PA_PD + (CODE_BASE >> 21) * 8, PA_PT0 | dir);
	put(g, PA_PD + (DATA_BASE >> 21) * 8, PA_PT1 | dir);
	for (u64 i = 0; i < CODE_PAGES; i++)
		put(g, PA_PT0 + i * 8, (PA_CODE + i * 4096) | PTE_P | PTE_U | PTE_A | PTE_D);
	for (u64 i = 0; i < DATA_SIZE / 4096; i++)
		put(g, PA_PT1 + i * 8,
		    (PA_DATA + i * 4096) | PTE_P | PTE_U | PTE_A | PTE_D | PTE_NX |
		            (i < DATA_RW_SIZE / 4096 ? PTE_W : 0));
	put(g, PA_PML4 + 511 * 8, PA_PDPTK | (dir & ~PTE_U));
	put(g, PA_PDPTK + 510 * 8, PA_PDK | (dir & ~PTE_U));
	put(g, PA_PDK, PA_PTK | (dir & ~PTE_U));
	put(g, PA_PTK, PA_GDT | PTE_P | PTE_W | PTE_A | PTE_D);
	pmap_write(g->vm.pmap, PA_GDT, gdt, sizeof(gdt));
	/* The I/O permission map begins behind the TSS: no port is allowed. */
	put(g, PA_GDT + (VA_TSS - VA_GDT) + 96, 0xffffull << 48);
}

static void set_mode(struct x86_cpu *c, unsigned mode)
{
	const struct x86_seg data = {.limit = 0xffffffff,
	                             .ar = SEG_P | SEG_DPL | SEG_S | SEG_RW | SEG_A | SEG_DB |
	                                   SEG_G,
	                             .sel = SEL_USER_DS};
	const struct x86_seg null = {.ar = SEG_UNUSABLE};
	const struct x86_seg tss = {.base = VA_TSS, .limit = 103, .ar = SEG_P | 11, .sel = 0x40};

	c->cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_PG;
	c->cr3 = PA_PML4;
	c->cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE | CR4_FSGSBASE | CR4_UMIP |
	         CR4_PGE;
	c->efer = EFER_LME | EFER_LMA | EFER_NXE | EFER_SCE;
	c->xcr0 = XCR0_X87 | XCR0_SSE | XCR0_AVX;
	c->cpl = 3;
	c->seg[CS] = data;
	c->seg[CS].ar |= SEG_CODE;
	c->seg[CS].sel = mode == 64 ? SEL_USER_CS64 : SEL_USER_CS32;
	if (mode == 64)
		c->seg[CS].ar = (c->seg[CS].ar & ~SEG_DB) | SEG_L;
	c->seg[SS] = c->seg[DS] = c->seg[ES] = data;
	c->seg[FS] = c->seg[GS] = null;
	c->ldtr = null;
	c->tr = tss;
	c->gdtr = (struct x86_dtable){.base = VA_GDT, .limit = 127};
}

static void destroy(void *s)
{
	struct guest *g = s;

	vm_destroy(&g->vm);
	free(g);
}

static int create(void **out, const struct subject_env *env, char *why, size_t size,
                  const struct engine_ops *engine)
{
	struct guest *g = calloc(1, sizeof(*g));
	u8 code[CODE_SIZE];
	struct vcpu *v;
	int ret;

	if (!g)
		return -ENOMEM;
	ret = vm_init(&g->vm);
	if (ret) {
		free(g);
		snprintf(why, size, "cannot make a VM: %s", strerror(-ret));
		return ret;
	}
	g->vm.engine = engine;
	ret = pmap_create(&g->vm.pmap, 2 * MiB);
	if (ret)
		goto fail;
	g->vm.pmap->single = true;
	ret = g->vm.engine->vm_create ? g->vm.engine->vm_create(&g->vm) : 0;
	if (ret)
		goto fail;
	v = vm_add_vcpu(&g->vm);
	ret = v ? x86_cpu_create(v) : -ENOMEM;
	if (ret)
		goto fail;
	g->c = vcpu_x86(v);
	ret = g->vm.engine->vcpu_create(v);
	if (!ret)
		ret = interp_thread_init(g->c);
	if (ret)
		goto fail;
	g->images = env->images;
	g->code = pmap_ptr(g->vm.pmap, PA_CODE, CODE_SIZE);
	g->data = pmap_ptr(g->vm.pmap, PA_DATA, DATA_SIZE);
	make_tables(g);
	hostcpu_code_background(code);
	pmap_write(g->vm.pmap, PA_CODE, code, CODE_SIZE);
	*out = g;
	return 0;
fail:
	snprintf(why, size, "cannot make a VM: %s", strerror(-ret));
	destroy(g);
	return ret;
}

static void load(struct guest *g, const struct tcase *t)
{
	struct x86_cpu *c = g->c;

	x86_fpu_put(c);
	case_memory(t, g->images, g->data);
	pmap_write(g->vm.pmap, PA_CODE + (t->st.rip - CODE_BASE), t->code, t->code_len + t->wayout);
	memcpy(c->gpr, t->st.gpr, sizeof(t->st.gpr));
	c->rip = c->next_rip = t->st.rip;
	set_mode(c, t->st.cs == SEL_USER_CS64 ? 64 : 32);
	c->seg[FS].base = t->st.fs_base;
	c->seg[GS].base = t->st.gs_base;
	c->irq_shadow = c->shadow_db = false;
	c->ev.type = EV_NONE;
	memcpy(c->xsave, t->st.xsave, CASE_XSAVE_SIZE);
	c->fpu_ip = get_le64(t->st.xsave + XS_FIP);
	c->fpu_dp = get_le64(t->st.xsave + XS_FDP);
	c->fpu_op = get_le16(t->st.xsave + XS_FOP);
	c->fpu_last_op = c->fpu_op;
	c->fpu_last_dp = c->fpu_dp;
	x86_set_rflags(c, t->st.rflags);
	x86_update_mode(c);
}

static void read_back(struct guest *g, const struct tcase *t, struct outcome *o)
{
	struct x86_cpu *c = g->c;

	x86_fpu_put(c);
	memcpy(o->st.gpr, c->gpr, sizeof(o->st.gpr));
	o->st.rip = c->rip;
	o->st.rflags = x86_rflags(c);
	o->st.fs_base = c->seg[FS].base;
	o->st.gs_base = c->seg[GS].base;
	for (unsigned i = 0; i < NR_SEG; i++)
		o->st.sel[i] = c->seg[i].sel;
	o->st.cs = c->seg[CS].sel;
	memcpy(o->st.xsave, c->xsave, CASE_XSAVE_SIZE);
	memcpy(o->mem, g->data, DATA_RW_SIZE);
	pmap_write(g->vm.pmap, PA_CODE + (t->st.rip - CODE_BASE),
	           (const u8[CODE_MAX + 16]){[0 ... CODE_MAX + 15] = 0xcc},
	           t->code_len + t->wayout);
}

static void record_fault(struct x86_cpu *c, struct outcome *o)
{
	o->vector = c->ev.vector;
	if (c->ev.type == EV_SOFT_XCPT) /* INTO is a trap */
		o->st.rip = c->next_rip;
	o->err = c->ev.has_err ? c->ev.err : 0;
	if (o->vector == X86_PF) {
		o->cr2 = c->ev.cr2;
		if (o->cr2 >= HOSTCPU_ADDR_MAX)
			o->err |= PF_P;
	}
}

static void clear(struct outcome *o)
{
	o->flags_unknown = false;
	o->vector = 0;
	o->err = 0;
	o->cr2 = 0;
}

static void run_interp(void *s, const struct tcase *t, struct outcome *o)
{
	struct guest *g = s;
	struct x86_cpu *c = g->c;
	u64 end = t->st.rip + t->code_len;
	u32 steps = t->any_length ? MAX_STEPS : t->nr_insns;
	int ret = 0;

	load(g, t);
	clear(o);
	while (steps-- && !ret && !(t->any_length && c->rip == end))
		ret = interp_step(c);
	o->status = ret ? OUT_FAULT : OUT_OK;
	read_back(g, t, o);
	if (ret)
		record_fault(c, o);
}

static int create_interp(void **out, const struct subject_env *env, char *why, size_t size)
{
	return create(out, env, why, size, &interp_engine);
}

const struct subject_ops subject_interp = {
	.name = "interp",
	.summary = "the reference interpreter",
	.create = create_interp,
	.destroy = destroy,
	.run = run_interp,
};

#ifdef HAVE_BT
/* Arrived behind the case's last instruction, or where its branch went? */
static bool arrived(const struct tcase *t, struct x86_cpu *c)
{
	bool inside = c->rip >= t->st.rip && c->rip < t->st.rip + t->code_len;

	if (inside || c->rip == t->st.rip)
		return false;
	if (c->ev.vector == X86_BP && c->ev.type == EV_SOFT_XCPT)
		return true;
	/* The host's way out is in its place, since code can be read: a jump to where nothing is,
	 * from 32-bit code by way of 64-bit code. */
	if (c->ev.vector == X86_PF && c->rip == (u64)(uintptr_t)hostcpu_left) {
		c->rip = t->st.rip + t->code_len;
		c->seg[CS].sel = (u16)t->st.cs;
		return true;
	}
	/* The fetch behind a branch to nowhere comes after the branch. */
	return !t->wayout && c->ev.vector == X86_PF && c->ev.cr2 == c->rip;
}

static void run_bt(void *s, const struct tcase *t, struct outcome *o)
{
	struct guest *g = s;
	struct x86_cpu *c = g->c;

	/* Flags over calls and returns: as hardware has them. */
	bt_vm_of(c)->strict_flags[0] = bt_vm_of(c)->strict_flags[1] = true;
	load(g, t);
	clear(o);
	if (!bt_step(c)) {
		o->status = OUT_REFUSED; /* nothing in a case halts */
		read_back(g, t, o);
		return;
	}
	o->status = arrived(t, c) ? OUT_OK : OUT_FAULT;
	read_back(g, t, o);
	/* Flags are dead where a call's target writes them before it faults. */
	o->flags_unknown = o->status == OUT_OK && c->ev.vector == X86_PF && c->ev.cr2 == c->rip;
	if (o->status == OUT_FAULT) {
		record_fault(c, o);
		/* Arithmetic flags that the code would overwrite may hold anything (doc/bt.md). */
		o->flags_unknown = true;
	}
}

static int create_bt(void **out, const struct subject_env *env, char *why, size_t size)
{
	return create(out, env, why, size, &bt_engine);
}

const struct subject_ops subject_bt = {
	.name = "bt",
	.summary = "the binary translator",
	.create = create_bt,
	.destroy = destroy,
	.run = run_bt,
};
#endif
