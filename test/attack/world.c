// SPDX-License-Identifier: MIT
/* The machine of an attack: RAM without devices, page tables with every kind of page, and around
 * all of it memory of the monitor's that must stay as it is. */
#include "attack.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "cpu/x86/mmu.h"
#include "mem/pmap.h"

#define FENCE      0x10000
#define HEAP_BYTES 8192
#define PATTERN(i) ((u8)(0xa5 ^ (i)*29))

#define OPEN (PTE_P | PTE_W | PTE_U)

/* Where the last level of the tables of low memory is mapped, for make_remap(). */
#define TABLES_VA (RAM_SIZE + 32 * PAGE_SIZE)

/* ---- the monitor's memory ---- */

static u8 *pattern_new(u8 *p, size_t n)
{
	for (size_t i = 0; p && i < n; i++)
		p[i] = PATTERN(i);
	return p;
}

static bool pattern_ok(const u8 *p, size_t from, size_t n)
{
	for (size_t i = from; i < from + n; i++)
		if (p[i] != PATTERN(i))
			return false;
	return true;
}

static u8 *fence_new(u8 *at)
{
	void *p = mmap(at, FENCE, PROT_READ | PROT_WRITE,
	               MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);

	return p == MAP_FAILED ? NULL : pattern_new(p, FENCE);
}

/* What nobody changes while guests run. */
struct part {
	const void *p;
	size_t n;
};

static unsigned constant_parts(const struct world *w, struct part *part)
{
	const struct x86_cpu *c = w->c;
	unsigned n = 0;

#define PART(x) part[n++] = (struct part){&(x), sizeof(x)}
	PART(*w->vm.pmap);
	PART(w->vm.pmap);
	PART(w->vm.bus);
	PART(w->vm.engine);
	PART(w->vm.nr_vcpus);
	PART(w->vm.vcpu);
	PART(w->v->vm);
	PART(w->v->engine);
	PART(w->v->engine_state);
	PART(w->v->arch);
	PART(w->v->arch_state);
	PART(c->vcpu);
	PART(c->pmap);
	PART(c->phys_bits);
	PART(c->feat);
	PART(c->cpuid);
#undef PART
	return n;
}
#define MAX_PARTS 24

static void constant_save(struct world *w)
{
	struct part part[MAX_PARTS];
	unsigned n = constant_parts(w, part);
	u8 *to;

	for (unsigned i = 0; i < n; i++)
		w->constant_size += part[i].n;
	to = w->constant = malloc(w->constant_size);
	for (unsigned i = 0; i < n; i++) {
		memcpy(to, part[i].p, part[i].n);
		to += part[i].n;
	}
}

const char *world_damage(const struct world *w, bool all)
{
	const u8 *from = w->constant;
	struct part part[MAX_PARTS];
	unsigned n = constant_parts(w, part);

	for (unsigned i = 0; i < n; i++) {
		if (memcmp(from, part[i].p, part[i].n))
			return "a structure of the monitor's";
		from += part[i].n;
	}
	for (unsigned i = 0; all && i < ARRAY_SIZE(w->heap); i++)
		if (!pattern_ok(w->heap[i], 0, HEAP_BYTES))
			return "the monitor's heap";
	/* Near RAM always, the whole of it now and then. */
	for (unsigned i = 0; i < 2; i++)
		if (w->fence[i] &&
		    !pattern_ok(w->fence[i], all || i ? 0 : FENCE - 256, all ? FENCE : 256))
			return "memory beside the guest's RAM";
	return NULL;
}

/* ---- life ---- */

int world_create(struct world *w, const struct engine_ops *engine)
{
	int err;

	w->heap[0] = pattern_new(malloc(HEAP_BYTES), HEAP_BYTES);
	err = vm_init(&w->vm);
	if (err)
		return err;
	w->vm.engine = engine;
	w->vm.tsc_khz = 2000000; /* CPUID says so in both worlds */
	err = pmap_create(&w->vm.pmap, RAM_SIZE);
	if (err)
		return err;
	w->vm.pmap->single = true;
	w->ram = w->vm.pmap->hva;
	w->fence[0] = fence_new(w->ram - FENCE);
	w->fence[1] = fence_new(w->ram + RAM_SIZE);
	w->heap[1] = pattern_new(malloc(HEAP_BYTES), HEAP_BYTES);
	err = engine->vm_create ? engine->vm_create(&w->vm) : 0;
	if (err)
		return err;
	w->v = vm_add_vcpu(&w->vm);
	if (!w->v || x86_cpu_create(w->v))
		return -1;
	w->c = vcpu_x86(w->v);
	w->heap[2] = pattern_new(malloc(HEAP_BYTES), HEAP_BYTES);
	err = engine->vcpu_create(w->v);
	w->heap[3] = pattern_new(malloc(HEAP_BYTES), HEAP_BYTES);
	w->shadow = calloc(1, RAM_SIZE);
	w->tables_end = w->reach = RAM_SIZE;
	if (w->shadow)
		memset(w->shadow + DATA_END, 0xf4, TABLES_PA - DATA_END);
	if (!w->shadow || !w->heap[3])
		return -1;
	constant_save(w);
	return err;
}

void world_destroy(struct world *w)
{
	for (unsigned i = 0; i < 2; i++)
		if (w->fence[i])
			munmap(w->fence[i], FENCE);
	vm_destroy(&w->vm);
	for (unsigned i = 0; i < ARRAY_SIZE(w->heap); i++)
		free(w->heap[i]);
	free(w->shadow);
	free(w->constant);
}

void world_targets(const struct world *w, struct targets *t)
{
	const u64 list[] = {
		/* the monitor's */
		(uintptr_t)w->ram,
		(uintptr_t)w->ram + RAM_SIZE,
		(uintptr_t)w->ram - 64,
		(uintptr_t)&w->vm,
		(uintptr_t)w->v,
		(uintptr_t)w->c,
		(uintptr_t)w->c->gpr,
		(uintptr_t)w->v->engine_state,
		(uintptr_t)w->heap[0],
		(uintptr_t)w->heap[3],
		(uintptr_t)__builtin_frame_address(0) & ~0xffffull, /* without environment */
		(uintptr_t)&world_create,
		(uintptr_t)w->v->engine,
		(uintptr_t)w->vm.pmap,
		/* as displacements of RAM's base: what an unchecked addend would reach */
		(uintptr_t)w->c - (uintptr_t)w->ram,
		(uintptr_t)w->heap[0] - (uintptr_t)w->ram,
		/* the guest's and the architecture's borders */
		RAM_SIZE,
		0x7ffffffff000,
		0x800000000000,
		0xffff800000000000,
		0xfffffffffffff000,
		0,
		0xfee00000,
		DATA_PA,
	};

	_Static_assert(ARRAY_SIZE(list) == NR_TARGETS, "targets");
	t->nr = NR_TARGETS;
	memcpy(t->addr, list, sizeof(list));
}

/* ---- a case ---- */

static void put64(struct world *w, gpa_t at, u64 v)
{
	memcpy(w->shadow + at, &v, 8);
}

static u64 get64(const struct world *w, gpa_t at)
{
	return get_le64(w->shadow + at);
}

static void descriptor(struct world *w, u16 sel, u32 access)
{
	put64(w, GDT_PA + (sel & ~7u),
	      0x000f00000000ffffull | (u64)(access & 0xff) << 40 | (u64)(access >> 12) << 52);
}

#define SEL_CODE32  0x08
#define SEL_DATA32  0x10
#define SEL_CODE64  0x18
#define SEL_UCODE32 0x23
#define SEL_UDATA   0x2b
#define SEL_UCODE64 0x33
#define SEL_TSS     0x40

static void make_tables(struct world *w, enum attack_mode mode)
{
	bool wide = mode == LONG0 || mode == LONG3 || mode == COMPAT3;

	descriptor(w, SEL_CODE32, 0xc09b);
	descriptor(w, SEL_DATA32, 0xc093);
	descriptor(w, SEL_CODE64, 0xa09b);
	descriptor(w, SEL_UCODE32, 0xc0fb);
	descriptor(w, SEL_UDATA, 0xc0f3);
	descriptor(w, SEL_UCODE64, 0xa0fb);
	put64(w, GDT_PA + SEL_TSS, 0x00008b0000000067ull | (u64)TSS_PA << 16);
	put64(w, GDT_PA + SEL_TSS + 8, 0);
	put64(w, TSS_PA + 4, wide ? STACK0_PA : STACK0_PA | (u64)SEL_DATA32 << 32);
	for (unsigned i = 0; i < 256; i++) {
		u64 gate = (HANDLER_PA + i) | (u64)(wide ? SEL_CODE64 : SEL_CODE32) << 16 |
		           0x8eull << 40;

		put64(w, IDT_PA + (wide ? i * 16 : i * 8), gate);
		if (wide)
			put64(w, IDT_PA + i * 16 + 8, 0);
	}
	memset(w->shadow + HANDLER_PA, 0xf4, 256);
}

/* The entry of `va` in 4-level tables, new tables from `*next`. */
static u64 *entry(struct world *w, u64 va, gpa_t *next)
{
	gpa_t table = TABLES_PA;

	for (int l = 3; l > 0; l--) {
		gpa_t at = table + (va >> (12 + 9 * l) & 511) * 8;

		if (!(get64(w, at) & PTE_P)) {
			if (*next >= RAM_SIZE)
				return NULL;
			put64(w, at, *next | OPEN);
			*next += PAGE_SIZE;
		}
		table = get64(w, at) & 0xffffffffff000ull;
	}
	return (u64 *)(void *)(w->shadow + table + (va >> 12 & 511) * 8);
}

/* RAM one to one, with all kinds of page among the data, a hole's addresses behind, and the guest's
 * own pages at some of the monitor's addresses. */
static void make_page_tables(struct world *w, const struct targets *t, struct rnd *r)
{
	gpa_t next = TABLES_PA + PAGE_SIZE;
	u64 *e;

	for (u64 pa = 0; pa < DATA_END; pa += PAGE_SIZE) {
		u64 flags = OPEN;

		e = entry(w, pa, &next);
		if (pa >= DATA_PA && pa < DATA_END)
			switch (rnd_below(r, 8)) {
			case 0:
				flags = 0;
				break;
			case 1:
				flags = PTE_P | PTE_U;
				break;
			case 2:
				flags = PTE_P | PTE_W;
				break;
			case 3:
				flags = OPEN | PTE_NX;
				break;
			}
		if (pa == CODE_PA + 2 * PAGE_SIZE)
			flags = 0;
		*e = pa | flags;
	}
	for (unsigned i = 0; i < 16; i++) {
		static const u64 beyond[] = {RAM_SIZE,   0xa0000,    0xfed00000, 0xfee00000,
		                             0xfffff000, 1ull << 32, 1ull << 40, 0xc0000000};

		e = entry(w, RAM_SIZE + i * PAGE_SIZE, &next);
		if (e)
			*e = beyond[i % 8] | OPEN;
	}
	for (unsigned i = 0; i < 6; i++) {
		u64 va = t->addr[rnd_below(r, t->nr)] & PAGE_MASK;

		e = is_canonical(va) && va >= RAM_SIZE ? entry(w, va, &next) : NULL;
		if (e)
			*e = (DATA_PA + rnd_below(r, 32) * PAGE_SIZE) | OPEN;
	}
	w->tables_end = next;
}

/* A function that exchanges the mapping of the second page of code; its flags are XOR's. */
static void make_remap(struct world *w, const struct attack_case *a)
{
	bool code64 = a->mode == LONG0;
	const u32 page = CODE_PA + PAGE_SIZE, change = page ^ ALT_PA;
	unsigned from = MAX(a->at, (unsigned)PAGE_SIZE), end = a->at + sizeof(a->other);
	gpa_t none = RAM_SIZE;
	u64 *e = entry(w, page, &none);
	u8 *p = w->shadow + REMAP_PA;
	u32 at = TABLES_VA + ((uintptr_t)e & ~PAGE_MASK);

	*entry(w, TABLES_VA, &none) = ((gpa_t)((u8 *)e - w->shadow) & PAGE_MASK) | PTE_P | PTE_W;
	*p++ = 0x81; /* xorl $change, at */
	*p++ = code64 ? 0x34 : 0x35;
	if (code64)
		*p++ = 0x25;
	put_le32(p, at);
	put_le32(p + 4, change);
	p += 8;
	*p++ = 0x0f; /* invlpg page */
	*p++ = 0x01;
	*p++ = code64 ? 0x3c : 0x3d;
	if (code64)
		*p++ = 0x25;
	put_le32(p, page);
	p[4] = 0xc3;
	if (end > from)
		memcpy(w->shadow + ALT_PA + (from - PAGE_SIZE), a->other + (from - a->at),
		       end - from);
}

static void make_data(struct world *w, const struct targets *t, struct rnd *r)
{
	for (gpa_t at = DATA_PA; at < DATA_END; at += 8)
		put64(w, at, at & 0x40 ? t->addr[at / 8 % t->nr] : 0xf4f4f4f4f4f4f4f4ull);
	for (unsigned i = 0; i < 64; i++)
		put64(w, STACK_PA - 512 + i * 8,
		      rnd_below(r, 3) ? CODE_PA + rnd_below(r, 256) : target_pick(t, r));
}

/* RAM becomes what the shadow is, through the pmap where pages differ, so that code marks are kept.
 */
static void restore(struct world *w, gpa_t from, gpa_t to)
{
	for (gpa_t at = from; at < to; at += PAGE_SIZE)
		if (memcmp(w->ram + at, w->shadow + at, PAGE_SIZE))
			pmap_write(w->vm.pmap, at, w->shadow + at, PAGE_SIZE);
}

static gpa_t compare(const struct world *a, const struct world *b, gpa_t from, gpa_t to)
{
	for (gpa_t at = from; at < to; at += PAGE_SIZE)
		for (unsigned i = 0; memcmp(a->ram + at, b->ram + at, PAGE_SIZE) && i < PAGE_SIZE;
		     i++)
			if (a->ram[at + i] != b->ram[at + i])
				return at + i;
	return RAM_SIZE;
}

gpa_t world_compare(const struct world *a, const struct world *b)
{
	gpa_t at = compare(a, b, 0, a->reach);

	return at < RAM_SIZE ? at : compare(a, b, TABLES_PA, a->tables_end);
}

void world_load(struct world *w, const struct attack_case *a, const struct targets *t, u64 seed)
{
	gpa_t last_tables = w->tables_end;
	struct rnd r = {seed};

	memset(w->shadow, 0, CODE_PA);
	memset(w->shadow + CODE_PA, 0xf4, DATA_END - CODE_PA); /* wild jumps end soon */
	memset(w->shadow + TABLES_PA, 0, w->tables_end - TABLES_PA);
	make_data(w, t, &r);
	make_tables(w, a->mode);
	make_page_tables(w, t, &r);
	memcpy(w->shadow + CODE_PA + a->at, a->code, sizeof(a->code));
	if (a->remaps)
		make_remap(w, a);
	if (a->mode ==
	    PAE0) { /* the same tables from the third level on; entries have fewer bits */
		for (unsigned i = 0; i < 4; i++)
			put64(w, TSS_PA + 0x100 + i * 8,
			      get64(w, (get64(w, TABLES_PA) & 0xfffff000) + i * 8) &
			              ~(u64)(PTE_W | PTE_U | PTE_A));
	}
	/* What the last one touched, and what this one needs. */
	restore(w, 0, w->reach);
	restore(w, TABLES_PA, MAX(last_tables, w->tables_end));
	w->reach = a->mode == PROT0 ? RAM_SIZE : DATA_END;
	w->v->arch->reset(w->v);
	x86_fpu_init(w->c);
}

static void set_seg(struct x86_cpu *c, enum x86_segreg s, u16 sel, u32 ar, u64 base)
{
	c->seg[s] = (struct x86_seg){.sel = sel, .base = base, .limit = 0xffffffff, .ar = ar};
}

static void set_control(struct world *w, enum attack_mode mode)
{
	struct x86_cpu *c = w->c;
	bool wide = mode == LONG0 || mode == LONG3 || mode == COMPAT3;

	c->cr0 = CR0_PE | CR0_ET | CR0_NE | (mode == PROT0 ? 0 : CR0_PG | CR0_WP);
	c->cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT | (c->feat.xcr0 ? CR4_OSXSAVE : 0);
	c->xcr0 = c->feat.xcr0 ? c->feat.xcr0 & 7 : 1;
	c->cr3 = mode == PAE0 ? TSS_PA + 0x100 : TABLES_PA;
	c->efer = EFER_NXE | (wide ? EFER_LME | EFER_LMA : 0);
	for (unsigned i = 0; i < 4; i++)
		c->pdpte[i] = mode == PAE0 ? get_le64(w->ram + TSS_PA + 0x100 + i * 8) : 0;
	c->gdtr = (struct x86_dtable){GDT_PA, 0x4f};
	c->idtr = (struct x86_dtable){IDT_PA, (u16)(wide ? 4095 : 2047)};
	c->ldtr = (struct x86_seg){.ar = SEG_UNUSABLE};
	c->tr = (struct x86_seg){.sel = SEL_TSS, .base = TSS_PA, .limit = 0x67, .ar = SEG_P | 11};
	c->cpl = mode == LONG3 || mode == COMPAT3 ? 3 : 0;
	memset(c->dr, 0, sizeof(c->dr));
	c->dr[6] = 0xffff0ff0;
	c->dr[7] = 0x400;
	c->irq_shadow = c->shadow_db = c->nmi_blocked = false;
	c->dr6_pending = 0;
}

/* What makes more of a segment's accesses faults than paging does. */
static void narrow(struct x86_seg *s, struct rnd *r)
{
	switch (rnd_below(r, 6)) {
	case 0:
		s->limit = rnd_below(r, 0x10000);
		break;
	case 1:
		s->limit = ~rnd_below(r, 0x10000);
		break;
	case 2:
		s->ar &= ~SEG_RW;
		break;
	case 3:
		s->ar |= SEG_EC;
		break;
	case 4:
		s->ar |= SEG_CODE;
		break;
	default:
		s->ar = SEG_UNUSABLE;
		break;
	}
}

static void set_segments(struct world *w, enum attack_mode mode, const struct targets *t,
                         struct rnd *r)
{
	struct x86_cpu *c = w->c;
	bool code64 = mode == LONG0 || mode == LONG3, user = c->cpl;
	u32 dpl = user ? SEG_DPL : 0;
	u32 data = SEG_P | SEG_S | SEG_RW | SEG_A | SEG_G | SEG_DB | dpl;

	set_seg(c, CS,
	        code64 ? (user ? SEL_UCODE64 : SEL_CODE64) : (user ? SEL_UCODE32 : SEL_CODE32),
	        SEG_P | SEG_S | SEG_CODE | SEG_RW | SEG_A | SEG_G | dpl | (code64 ? SEG_L : SEG_DB),
	        0);
	for (unsigned s = 0; s < NR_SEG; s++)
		if (s != CS)
			set_seg(c, s, user ? SEL_UDATA : SEL_DATA32, data, 0);
	for (unsigned s = FS; s <= GS; s++) {
		u64 base = rnd_below(r, 2) ? target_pick(t, r) : 0;

		if (code64)
			c->seg[s].base = is_canonical(base) ? base : 0;
		else
			c->seg[s].base = (u32)base;
		if (!code64 && rnd_below(r, 3) == 0)
			narrow(&c->seg[s], r);
	}
}

/* A pointer into data, one of the targets, a part of one for two registers to add up, a small
 * number. */
static u64 hostile(const struct targets *t, struct rnd *r)
{
	switch (rnd_below(r, 8)) {
	case 0:
	case 1:
	case 2:
		return DATA_PA + rnd_below(r, DATA_END - DATA_PA);
	case 3:
		return (DATA_PA + rnd_below(r, DATA_END - DATA_PA)) |
		       (PAGE_SIZE - rnd_below(r, 32));
	case 4:
	case 5:
		return target_pick(t, r);
	case 6:
		return target_pick(t, r) - target_pick(t, r);
	default:
		return rnd_below(r, 2) ? rnd_below(r, 64) : (u64)rnd_next(r) << 33 | rnd_next(r);
	}
}

void world_start(struct world *w, const struct attack_case *a, const struct targets *t,
                 unsigned off, u64 seed)
{
	struct rnd r = {seed};
	struct x86_cpu *c = w->c;

	set_control(w, a->mode);
	set_segments(w, a->mode, t, &r);
	for (unsigned i = 0; i < 16; i++) {
		if (rnd_below(&r, 2) || off == 0)
			c->gpr[i] = hostile(t, &r);
		if (a->mode != LONG0 && a->mode != LONG3)
			c->gpr[i] = i < 8 ? (u32)c->gpr[i] : 0;
	}
	c->gpr[RCX] = rnd_below(&r, 3) ? rnd_below(&r, 200) : (u32)c->gpr[RCX] & 0x3fff;
	if (rnd_below(&r, 3))
		c->gpr[RSP] = STACK_PA - 8 * rnd_below(&r, 32);
	c->rip = c->next_rip = CODE_PA + off;
	x86_set_rflags(c, X86_RFLAGS_FIXED | (rnd_next(&r) & AFLAGS));
	w->v->req = 0;
	w->vm.ended = false; /* code fetched from where there is no RAM ends a machine */
	w->v->state = VCPU_RUNNING;
	mmu_flush_all(c);
	x86_update_mode(c);
	x86_update_step(c);
}
