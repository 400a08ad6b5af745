// SPDX-License-Identifier: MIT
/* Control registers, reset states and the system instructions around them, against SDM 3A chapters
 * 2, 4 and 9. */
#include "cpurig.h"

static int setup(void **state)
{
	struct cpurig *r = malloc(sizeof(*r));

	if (!r)
		return -1;
	rig_init(r, 2);
	*state = r;
	return 0;
}

static int teardown(void **state)
{
	rig_fini(*state);
	free(*state);
	return 0;
}

#define CPU(state) (((struct cpurig *)*(state))->c)

static void test_reset(void **state)
{
	struct x86_cpu *c = CPU(state);

	assert_int_equal(c->cr0, 0x60000010);
	assert_int_equal(c->rip, 0xfff0);
	assert_int_equal(c->seg[CS].sel, 0xf000);
	assert_int_equal(c->seg[CS].base, 0xffff0000);
	assert_int_equal(c->seg[DS].limit, 0xffff);
	assert_int_equal(x86_rflags(c), 2);
	assert_int_equal(c->dr[6], 0xffff0ff0);
	assert_int_equal(c->dr[7], 0x400);
	assert_int_equal(c->gdtr.limit, 0xffff);
	assert_int_equal(c->xcr0, 1);
	assert_int_equal(c->pat, 0x0007040600070406);
	assert_int_equal(c->mode, 0);
	assert_ptr_equal(c->tlb, c->tlbs[TLB_SUP_AC]);
	/* EDX: the processor's signature. */
	assert_true(c->gpr[RDX] != 0 && c->gpr[RDX] >> 32 == 0);
}

static void test_init_sipi(void **state)
{
	struct cpurig *r = *state;
	struct x86_cpu *c = r->c;
	struct vcpu *v = r->vm.vcpu[0];

	rig_long_mode(r);
	c->cr0 &= ~(CR0_CD | CR0_NW);
	c->xcr0 = 7;
	c->pat = 0;
	c->lstar = 0x1234;
	c->nmi_blocked = true;
	c->dr[7] = 0x401;
	v->arch->init(v);
	assert_int_equal(c->cr0, CR0_ET); /* CD and NW as they were */
	assert_int_equal(c->efer, 0);
	assert_int_equal(c->cr4, 0);
	assert_int_equal(c->dr[7], 0x400);
	assert_int_equal(c->mode, 0);
	assert_false(c->nmi_blocked);
	assert_int_equal(c->xcr0, 7);
	assert_int_equal(c->pat, 0);
	assert_int_equal(c->lstar, 0x1234);
	v->arch->sipi(v, 0x9a);
	assert_int_equal(c->seg[CS].sel, 0x9a00);
	assert_int_equal(c->seg[CS].base, 0x9a000);
	assert_int_equal(c->rip, 0);
}

static void test_wakes(void **state)
{
	struct cpurig *r = *state;
	struct vcpu *v = r->vm.vcpu[0];

	assert_false(v->arch->wakes(v, VCPU_REQ_IRQ));
	assert_true(v->arch->wakes(v, VCPU_REQ_NMI));
	r->c->nmi_blocked = true;
	assert_false(v->arch->wakes(v, VCPU_REQ_NMI));
	x86_set_rflags(r->c, X86_RFLAGS_IF);
	assert_true(v->arch->wakes(v, VCPU_REQ_IRQ));
	assert_false(v->arch->wakes(v, VCPU_REQ_KICK));
}

static void test_mode_word(void **state)
{
	struct cpurig *r = *state;
	struct x86_cpu *c = r->c;
	const u32 data = SEG_P | SEG_S | SEG_RW | SEG_A | SEG_DB | SEG_G;

	c->cr0 |= CR0_PE;
	for (unsigned s = 0; s < NR_SEG; s++)
		c->seg[s] = (struct x86_seg){0, ~0u, data, 16};
	c->seg[CS].ar |= SEG_CODE;
	x86_update_mode(c);
	assert_int_equal(c->mode, M_PE | M_CS32 | M_SS32 | M_FLAT);
	c->seg[DS].limit = 0xfffff;
	x86_update_mode(c);
	assert_int_equal(c->mode, M_PE | M_CS32 | M_SS32);
	c->seg[DS].limit = ~0u;
	c->seg[ES].ar = SEG_UNUSABLE | data;
	x86_update_mode(c);
	assert_false(c->mode & M_FLAT);
	c->seg[ES].ar = data & ~SEG_RW;
	x86_update_mode(c);
	assert_false(c->mode & M_FLAT);
	c->seg[ES].ar = data | SEG_EC;
	x86_update_mode(c);
	assert_false(c->mode & M_FLAT);
	c->seg[ES].ar = data;
	c->seg[SS].base = 16;
	x86_update_mode(c);
	assert_false(c->mode & M_FLAT);
	assert_int_equal(c->segbase[SS], 16);

	rig_long_mode(r);
	c->seg[DS].base = 0x1000; /* meaningless in 64-bit code */
	c->seg[GS].base = 0x2000;
	x86_update_mode(c);
	assert_int_equal(c->mode, M_PE | M_PG | M_LMA | M_CS64 | M_FLAT);
	assert_int_equal(c->segbase[DS], 0);
	assert_int_equal(c->segbase[GS], 0x2000);
}

static void test_tlb_set(void **state)
{
	struct cpurig *r = *state;
	struct x86_cpu *c = r->c;

	rig_long_mode(r);
	assert_ptr_equal(c->tlb, c->tlbs[TLB_SUP_AC]);
	assert_ok(c, x86_mov_to_cr(c, 4, c->cr4 | CR4_SMAP));
	assert_ptr_equal(c->tlb, c->tlbs[TLB_SUP]);
	assert_ok(c, x86_stac_clac(c, true));
	assert_ptr_equal(c->tlb, c->tlbs[TLB_SUP_AC]);
	assert_true(x86_rflags(c) & X86_RFLAGS_AC);
	assert_ok(c, x86_stac_clac(c, false));
	assert_ptr_equal(c->tlb, c->tlbs[TLB_SUP]);
	x86_set_rflags(c, X86_RFLAGS_AC);
	assert_ptr_equal(c->tlb, c->tlbs[TLB_SUP_AC]);
	rig_user(r);
	assert_ptr_equal(c->tlb, c->tlbs[TLB_USER]);
	c->cr0 |= CR0_AM;
	x86_update_mode(c);
	assert_ptr_equal(c->tlb, c->tlbs[TLB_USER_AC]);
	assert_ud(c, x86_stac_clac(c, true));
}

static void test_privilege(void **state)
{
	struct cpurig *r = *state;
	struct x86_cpu *c = r->c;
	const struct x86_dtable dt = {0, 0};

	rig_long_mode(r);
	rig_user(r);
	assert_gp(c, x86_mov_from_cr(c, 0));
	assert_gp(c, x86_mov_to_cr(c, 8, 0));
	assert_gp(c, x86_mov_from_dr(c, 0));
	assert_gp(c, x86_clts(c));
	assert_gp(c, x86_lmsw(c, 1));
	assert_gp(c, x86_invlpg(c, 0));
	assert_gp(c, x86_invpcid(c, 2, 0, 0));
	assert_gp(c, x86_lgdt(c, &dt));
	assert_gp(c, x86_lidt(c, &dt));
	assert_gp(c, x86_swapgs(c));
	assert_gp(c, x86_rdmsr(c, IA32_EFER));
	assert_gp(c, x86_wrmsr(c, IA32_EFER, 0));
	assert_ok(c, x86_smsw(c));
	c->cr4 |= CR4_UMIP;
	assert_gp(c, x86_smsw(c));
	assert_ok(c, x86_rdtsc(c));
	c->cr4 |= CR4_TSD;
	assert_gp(c, x86_rdtsc(c));
}

static void test_no_such_register(void **state)
{
	struct x86_cpu *c = CPU(state);

	for (volatile unsigned i = 0; i < 16; i++) {
		if (i == 0 || i == 2 || i == 3 || i == 4 || i == 8) {
			assert_ok(c, x86_mov_from_cr(c, i));
		} else {
			assert_ud(c, x86_mov_from_cr(c, i));
			assert_ud(c, x86_mov_to_cr(c, i, 0));
		}
	}
	for (volatile unsigned i = 8; i < 16; i++)
		assert_ud(c, x86_mov_from_dr(c, i));
}

static void test_cr0(void **state)
{
	struct x86_cpu *c = CPU(state);

	assert_gp(c, x86_mov_to_cr(c, 0, 1ull << 32));
	assert_gp(c, x86_mov_to_cr(c, 0, CR0_PG));
	assert_gp(c, x86_mov_to_cr(c, 0, CR0_NW));
	assert_int_equal(c->cr0, 0x60000010);
	/* Reserved bits of the lower half read as 0, ET as 1. */
	assert_ok(c, x86_mov_to_cr(c, 0, CR0_PE | 1 << 6 | 1 << 17));
	assert_int_equal(x86_mov_from_cr(c, 0), CR0_PE | CR0_ET);
	assert_true(c->mode & M_PE);
	assert_ok(c, x86_lmsw(c, 0xe));
	assert_int_equal(c->cr0, CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_ET);
	assert_ok(c, x86_clts(c));
	assert_int_equal(c->cr0, CR0_PE | CR0_MP | CR0_EM | CR0_ET);
	assert_ok(c, x86_lmsw(c, 0xfff0)); /* PE stays */
	assert_int_equal(x86_smsw(c), CR0_PE | CR0_ET);
	assert_ok(c, x86_mov_to_cr(c, 0, 0));
	assert_false(c->mode & M_PE);
}

static void test_long_mode(void **state)
{
	struct cpurig *r = *state;
	struct x86_cpu *c = r->c;
	const u32 code = SEG_P | SEG_S | SEG_CODE | SEG_RW | SEG_A;

	assert_ok(c, x86_mov_to_cr(c, 0, CR0_PE));
	assert_ok(c, x86_wrmsr(c, IA32_EFER, EFER_LME));
	assert_gp(c, x86_mov_to_cr(c, 0, CR0_PE | CR0_PG)); /* no PAE */
	assert_ok(c, x86_mov_to_cr(c, 4, CR4_PAE));
	c->seg[CS].ar = code | SEG_L;
	assert_gp(c, x86_mov_to_cr(c, 0, CR0_PE | CR0_PG));
	c->seg[CS].ar = code | SEG_DB;
	c->tr.ar = SEG_P | 3; /* 16-bit TSS */
	assert_gp(c, x86_mov_to_cr(c, 0, CR0_PE | CR0_PG));
	c->tr.ar = SEG_P | 11;
	assert_ok(c, x86_mov_to_cr(c, 0, CR0_PE | CR0_PG));
	assert_int_equal(c->efer, EFER_LME | EFER_LMA);
	assert_int_equal(c->mode & (M_LMA | M_PG | M_CS64), M_LMA | M_PG);

	assert_gp(c, x86_mov_to_cr(c, 4, 0));            /* PAE must stay */
	assert_gp(c, x86_wrmsr(c, IA32_EFER, 0));        /* and LME, while paging */
	assert_ok(c, x86_wrmsr(c, IA32_EFER, EFER_LME)); /* LMA is not written */
	assert_int_equal(c->efer, EFER_LME | EFER_LMA);
	c->seg[CS].ar = code | SEG_L;
	x86_update_mode(c);
	assert_gp(c, x86_mov_to_cr(c, 0, CR0_PE)); /* not out of 64-bit code */
	c->seg[CS].ar = code | SEG_DB;
	x86_update_mode(c);
	assert_ok(c, x86_mov_to_cr(c, 0, CR0_PE));
	assert_int_equal(c->efer, EFER_LME);
	assert_false(c->mode & M_LMA);
}

static void test_cr4(void **state)
{
	struct cpurig *r = *state;
	struct x86_cpu *c = r->c;

	rig_long_mode(r);
	for (volatile unsigned i = 0; i < 64; i++) {
		const u64 offered = CR4_TSD | CR4_DE | CR4_PSE | CR4_PAE | CR4_MCE | CR4_PGE |
		                    CR4_PCE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_UMIP |
		                    CR4_FSGSBASE | CR4_PCIDE | CR4_SMEP | CR4_SMAP |
		                    (c->feat.xcr0 ? CR4_OSXSAVE : 0);

		if (offered & BIT(i))
			assert_ok(c, x86_mov_to_cr(c, 4, CR4_PAE | BIT(i)));
		else
			assert_gp(c, x86_mov_to_cr(c, 4, CR4_PAE | BIT(i)));
	}
}

static void test_pcid(void **state)
{
	struct cpurig *r = *state;
	struct x86_cpu *c = r->c;
	u64 cr3;

	rig_long_mode(r);
	cr3 = c->cr3;
	assert_ok(c, x86_mov_to_cr(c, 3, cr3 | 1));
	assert_gp(c, x86_mov_to_cr(c, 4, CR4_PAE | CR4_PCIDE));
	assert_gp(c, x86_mov_to_cr(c, 3, cr3 | CR3_NOFLUSH));
	assert_ok(c, x86_mov_to_cr(c, 3, cr3));
	assert_ok(c, x86_mov_to_cr(c, 4, CR4_PAE | CR4_PCIDE));
	assert_ok(c, x86_mov_to_cr(c, 3, cr3 | 5 | CR3_NOFLUSH));
	assert_int_equal(c->cr3, cr3 | 5);
	assert_gp(c, x86_mov_to_cr(c, 3, BIT(c->phys_bits)));
	assert_gp(c, x86_mov_to_cr(c, 3, BIT(62)));
	c->seg[CS].ar = (c->seg[CS].ar & ~SEG_L) | SEG_DB;
	x86_update_mode(c);
	assert_gp(c, x86_mov_to_cr(c, 0, c->cr0 & ~CR0_PG)); /* not with PCIDE */

	/* PCIDE needs long mode. */
	c->cr4 = 0;
	c->efer = 0;
	c->cr0 = CR0_PE | CR0_ET;
	c->cr3 = 0;
	x86_update_mode(c);
	assert_gp(c, x86_mov_to_cr(c, 4, CR4_PCIDE));
}

static void test_invpcid(void **state)
{
	struct cpurig *r = *state;
	struct x86_cpu *c = r->c;
	u32 gen;

	rig_long_mode(r);
	for (volatile u64 type = 0; type < 4; type++) {
		gen = c->tlb_gen;
		assert_ok(c, x86_invpcid(c, type, 0, 0x1000));
		assert_true(c->tlb_gen != gen);
	}
	assert_gp(c, x86_invpcid(c, 4, 0, 0));
	assert_gp(c, x86_invpcid(c, 2, 0x1000, 0)); /* reserved bits of the descriptor */
	assert_gp(c, x86_invpcid(c, 0, 1, 0));      /* a PCID without CR4.PCIDE */
	assert_gp(c, x86_invpcid(c, 1, 1, 0));
	assert_ok(c, x86_invpcid(c, 2, 1, 0));
	assert_gp(c, x86_invpcid(c, 0, 0, 1ull << 47));
	assert_ok(c, x86_invpcid(c, 1, 0, 1ull << 47)); /* no address in this type */
	assert_ok(c, x86_mov_to_cr(c, 4, CR4_PAE | CR4_PCIDE));
	assert_ok(c, x86_invpcid(c, 0, 0xfff, 0));
	assert_ok(c, x86_invpcid(c, 1, 10, 0));
}

static void put64(struct cpurig *r, gpa_t at, u64 val)
{
	assert_int_equal(pmap_write(r->vm.pmap, at, &val, 8), 0);
}

static void test_pdptes(void **state)
{
	struct cpurig *r = *state;
	struct x86_cpu *c = r->c;

	for (unsigned i = 0; i < 4; i++)
		put64(r, 0x2000 + 8 * i, (0x3000 + 0x1000 * i) | PTE_P);
	put64(r, 0x4000, 0x3000 | PTE_P | PTE_W); /* a reserved bit */
	put64(r, 0x5000, BIT(c->phys_bits) | PTE_P);
	put64(r, 0x6000, PTE_W | PTE_NX); /* not present: nothing is looked at */

	assert_ok(c, x86_mov_to_cr(c, 0, CR0_PE));
	assert_ok(c, x86_mov_to_cr(c, 4, CR4_PAE));
	assert_ok(c, x86_mov_to_cr(c, 3, 0x4000)); /* not loaded before paging is on */
	assert_gp(c, x86_mov_to_cr(c, 0, CR0_PE | CR0_PG));
	assert_false(c->mode & M_PG);
	assert_ok(c, x86_mov_to_cr(c, 3, 0x2018)); /* low five bits are ignored */
	assert_ok(c, x86_mov_to_cr(c, 0, CR0_PE | CR0_PG));
	assert_int_equal(c->pdpte[3], 0x6000 | PTE_P);
	assert_gp(c, x86_mov_to_cr(c, 3, 0x4000));
	assert_gp(c, x86_mov_to_cr(c, 3, 0x5000));
	assert_int_equal(c->cr3, 0x2018);
	assert_int_equal(c->pdpte[0], 0x3000 | PTE_P);
	assert_ok(c, x86_mov_to_cr(c, 3, 0x6000));
	assert_int_equal(c->pdpte[0], PTE_W | PTE_NX);
	/* A table that is not RAM reads as all ones. */
	assert_gp(c, x86_mov_to_cr(c, 3, 0xf0000000));
	/* Changes of PGE load them again. */
	put64(r, 0x6000, 0x7000 | PTE_P);
	assert_ok(c, x86_mov_to_cr(c, 4, CR4_PAE | CR4_PGE));
	assert_int_equal(c->pdpte[0], 0x7000 | PTE_P);
}

static void flushes(struct x86_cpu *c, unsigned cr, u64 val, bool expected)
{
	u32 gen = c->tlb_gen;

	assert_ok(c, x86_mov_to_cr(c, cr, val));
	assert_int_equal(c->tlb_gen != gen, expected);
}

static void test_flushes(void **state)
{
	struct cpurig *r = *state;
	struct x86_cpu *c = r->c;
	u32 gen;

	rig_long_mode(r);
	flushes(c, 3, c->cr3, true);
	flushes(c, 4, c->cr4 | CR4_PGE, true);
	flushes(c, 4, c->cr4 & ~CR4_PGE, true);
	flushes(c, 4, c->cr4 | CR4_SMEP, true);
	flushes(c, 4, c->cr4 | CR4_OSFXSR, false);
	flushes(c, 0, c->cr0 & ~CR0_WP, true);
	flushes(c, 0, c->cr0 | CR0_TS, false);
	gen = c->tlb_gen;
	assert_ok(c, x86_wrmsr(c, IA32_EFER, c->efer | EFER_NXE));
	assert_true(c->tlb_gen != gen);
	gen = c->tlb_gen;
	assert_ok(c, x86_invlpg(c, 0x1000));
	assert_true(c->tlb_gen != gen);
	gen = c->tlb_gen;
	assert_ok(c, x86_invlpg(c, 1ull << 47)); /* not canonical: nothing */
	assert_int_equal(c->tlb_gen, gen);
}

/* INVLPG of one address drops the whole large page (SDM 3A 4.10.4.1). */
static void test_invlpg_large(void **state)
{
	struct cpurig *r = *state;
	struct x86_cpu *c = r->c;
	const u64 rights = PTE_P | PTE_W | PTE_U;

	rig_long_mode(r);
	put64(r, 0x101000, 0x102000 | rights); /* 2 MiB pages in place of the 1 GiB one */
	put64(r, 0x102000 + 8, 2 * MiB | rights | PTE_PS);
	put64(r, 0x102000 + 16, 0x103000 | rights); /* and 4 KiB ones from 4 MiB on */
	put64(r, 0x103000, 6 * MiB | rights);
	put64(r, 0x103008, (6 * MiB + 0x1000) | rights);
	mmu_flush_all(c);
	put64(r, 3 * MiB, 1);
	put64(r, 6 * MiB, 2);
	put64(r, 6 * MiB + 0x1000, 3);
	put64(r, 9 * MiB, 4);
	assert_int_equal(mmu_ld(c, 3 * MiB, 8), 1);
	assert_int_equal(mmu_ld(c, 4 * MiB, 8), 2);
	assert_int_equal(mmu_ld(c, 4 * MiB + 0x1000, 8), 3);
	assert_non_null(mmu_fetch(c, 3 * MiB));
	assert_int_equal(mmu_fetch(c, 3 * MiB)->gpa, 3 * MiB);

	put64(r, 0x103000, 9 * MiB | rights);
	put64(r, 0x103008, 9 * MiB | rights);
	assert_ok(c, x86_invlpg(c, 4 * MiB + 5));
	assert_int_equal(mmu_ld(c, 4 * MiB, 8), 4);
	assert_int_equal(mmu_ld(c, 4 * MiB + 0x1000, 8), 3); /* that of the neighbour is kept */

	put64(r, 0x102000 + 8, 8 * MiB | rights | PTE_PS);
	assert_ok(c, x86_invlpg(c, 2 * MiB));
	assert_int_equal(mmu_ld(c, 3 * MiB, 8), 4);
	assert_int_equal(mmu_fetch(c, 3 * MiB)->gpa, 9 * MiB);
}

static void test_cr8(void **state)
{
	struct cpurig *r = *state;

	assert_ok(r->c, x86_mov_to_cr(r->c, 8, 15));
	assert_int_equal(r->cr8, 15);
	assert_int_equal(x86_mov_from_cr(r->c, 8), 15);
	assert_gp(r->c, x86_mov_to_cr(r->c, 8, 16));
}

static void test_xcr0(void **state)
{
	struct x86_cpu *c = CPU(state);

	if (!c->feat.xcr0)
		skip();
	assert_ud(c, x86_xsetbv(c, 0, 1));
	assert_ud(c, x86_xgetbv(c, 0));
	c->cr4 |= CR4_OSXSAVE;
	assert_ok(c, x86_xsetbv(c, 0, 3));
	assert_int_equal(x86_xgetbv(c, 0), 3);
	assert_gp(c, x86_xsetbv(c, 0, 0));
	assert_gp(c, x86_xsetbv(c, 0, 2));
	assert_gp(c, x86_xsetbv(c, 0, 5)); /* AVX without SSE */
	assert_gp(c, x86_xsetbv(c, 0, 0x1b));
	assert_gp(c, x86_xsetbv(c, 0, 0xe7));
	assert_gp(c, x86_xsetbv(c, 1, 1));
	assert_gp(c, x86_xgetbv(c, 2));
	if (c->feat.xcr0 & XCR0_AVX)
		assert_ok(c, x86_xsetbv(c, 0, 7));
	if (c->feat.xgetbv1)
		assert_ok(c, assert_int_equal(x86_xgetbv(c, 1) & ~c->xcr0, 0));
	else
		assert_gp(c, x86_xgetbv(c, 1));
	c->cpl = 3;
	assert_gp(c, x86_xsetbv(c, 0, 1));
	assert_ok(c, x86_xgetbv(c, 0));
}

static void test_fsgs(void **state)
{
	struct cpurig *r = *state;
	struct x86_cpu *c = r->c;

	assert_ud(c, x86_swapgs(c));
	rig_long_mode(r);
	assert_ud(c, x86_rdfsgsbase(c, FS));
	assert_ok(c, x86_mov_to_cr(c, 4, c->cr4 | CR4_FSGSBASE));
	assert_ok(c, x86_wrfsgsbase(c, GS, 0xffff800000000000));
	assert_int_equal(c->segbase[GS], 0xffff800000000000);
	assert_gp(c, x86_wrfsgsbase(c, FS, 0x800000000000));
	assert_ok(c, x86_wrmsr(c, IA32_KERNEL_GS_BASE, 0x1000));
	assert_ok(c, x86_swapgs(c));
	assert_int_equal(x86_rdfsgsbase(c, GS), 0x1000);
	assert_int_equal(c->segbase[GS], 0x1000);
	assert_int_equal(x86_rdmsr(c, IA32_KERNEL_GS_BASE), 0xffff800000000000);
	rig_user(r);
	assert_ok(c, x86_wrfsgsbase(c, FS, 0x7fff00000000));
	assert_int_equal(x86_rdfsgsbase(c, FS), 0x7fff00000000);
}

static void test_dtables(void **state)
{
	struct cpurig *r = *state;
	struct x86_cpu *c = r->c;
	struct x86_dtable dt = {0x800000000000, 0x7f};

	assert_ok(c, x86_lgdt(c, &dt)); /* checked in 64-bit code only */
	rig_long_mode(r);
	assert_gp(c, x86_lgdt(c, &dt));
	assert_gp(c, x86_lidt(c, &dt));
	dt.base = 0xffff800000000000;
	assert_ok(c, x86_lidt(c, &dt));
	assert_int_equal(c->idtr.base, dt.base);
	assert_int_equal(c->idtr.limit, 0x7f);
}

/* Bits of the I/O map, the TSS's limit, IOPL. */
static void test_io_check(void **state)
{
	struct cpurig *r = *state;
	struct x86_cpu *c = r->c;
	u16 map = 0x68;

	assert_ok(c, x86_io_check(c, 0x3f8, 1)); /* real mode */
	rig_long_mode(r);
	assert_ok(c, x86_io_check(c, 0x3f8, 1));
	rig_user(r);
	c->tr = (struct x86_seg){0x8000, 0x68 + 128, SEG_P | 11, 0x40};
	assert_int_equal(pmap_write(r->vm.pmap, 0x8066, &map, 2), 0);
	assert_ok(c, x86_io_check(c, 0x3f7, 4)); /* all zeros: allowed */
	put64(r, 0x8068 + 0x3f8 / 8, 1);         /* 0x3f8 alone refused */
	assert_gp(c, x86_io_check(c, 0x3f8, 1));
	assert_gp(c, x86_io_check(c, 0x3f7, 2));
	assert_gp(c, x86_io_check(c, 0x3f5, 4));
	assert_ok(c, x86_io_check(c, 0x3f4, 4));
	assert_ok(c, x86_io_check(c, 0x3f9, 1));
	c->tr.limit = 0x68 + 0x3f8 / 8; /* the byte is there, the next is not */
	put64(r, 0x8068 + 0x3f8 / 8, 0);
	assert_gp(c, x86_io_check(c, 0x3f8, 1));
	c->tr.limit++;
	assert_ok(c, x86_io_check(c, 0x3f8, 1));
	c->tr.ar = SEG_P | 3; /* a 16-bit TSS has no map */
	assert_gp(c, x86_io_check(c, 0x3f8, 1));
	x86_set_rflags(c, X86_RFLAGS_IOPL);
	assert_ok(c, x86_io_check(c, 0x3f8, 1));
}

static u64 port_read(void *dev, u64 off, unsigned size)
{
	return 0xa0 + off;
}

static void port_write(void *dev, u64 off, u64 val, unsigned size)
{
	u64 *last = dev;

	*last = off << 32 | val;
}

static void test_ports(void **state)
{
	struct cpurig *r = *state;
	static const struct region_ops ops = {port_read, port_write};
	u64 last = 0;
	const struct region reg = {
		.name = "test", .base = 0xfffe, .len = 2, .max_size = 1, .ops = &ops, .dev = &last};

	assert_int_equal(bus_attach(r->vm.bus, BUS_PIO, &reg), 0);
	assert_int_equal(x86_in(r->c, 0xfffe, 2), 0xa1a0);
	/* Nothing behind port 0xffff, nor at its other end. */
	assert_int_equal(x86_in(r->c, 0xffff, 4), 0xffffffa1);
	assert_int_equal(x86_in(r->c, 0xffff, 2), 0xffa1);
	x86_out(r->c, 0xffff, 0x1234, 2);
	assert_int_equal(last, 1ull << 32 | 0x34);
	assert_int_equal(r->vm.vcpu[0]->stats.count[EXIT_PIO_IN], 3);
	assert_int_equal(r->vm.vcpu[0]->stats.count[EXIT_PIO_OUT], 1);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_reset),
		T(test_init_sipi),
		T(test_wakes),
		T(test_mode_word),
		T(test_tlb_set),
		T(test_privilege),
		T(test_no_such_register),
		T(test_cr0),
		T(test_long_mode),
		T(test_cr4),
		T(test_pcid),
		T(test_invpcid),
		T(test_pdptes),
		T(test_flushes),
		T(test_cr8),
		T(test_invlpg_large),
		T(test_xcr0),
		T(test_fsgs),
		T(test_dtables),
		T(test_io_check),
		T(test_ports),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
