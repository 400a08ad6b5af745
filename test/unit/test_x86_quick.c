// SPDX-License-Identifier: MIT
/* The short ways of delivering events and of IRET (cpu/x86/quick.c) against the long ones: the same
 * random state goes both ways, with everything in the TLB, and with an empty TLB, in which case the
 * short way declines. */
#include <stdio.h>

#include "cpu/x86/desc.h" /* before x86test.h, whose `c` it would shadow */
#include "x86test.h"

#define KSTACK  0x21000u /* tops of stacks */
#define ISTACK  0x22000u
#define USTACK  0x25000u
#define MEM_END 0x26000u /* tables and stacks */

static u64 seed = 1;

static u32 rnd(u32 n)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return (u32)((seed >> 32) * n >> 32);
}
static bool pct(u32 p)
{
	return rnd(100) < p;
}

/* Tables, and now and then something that is not usual. */
static void make_tables(void)
{
	static const u16 sel[] = {S_CODE64, S_CODE64, S_CODE64, S_CONF64,
	                          S_CODE0,  S_NPCODE, 0,        0xff8};

	t_tables();
	t_st(T_TSS + 4, pct(97) ? KSTACK - rnd(64) : 0x300000 + rnd(64), 8);
	for (unsigned i = 1; i < 8; i++)
		t_st(T_TSS + 0x1c + i * 8, ISTACK - rnd(64), 8);
	for (unsigned v = 0; v < 64; v++)
		t_idt64(v, sel[pct(90) ? 0 : rnd(ARRAY_SIZE(sel))],
		        pct(98) ? 0xffffffff81000000 + rnd(1 << 20) : 1ull << 47,
		        pct(95) ? 0x8e + rnd(2) : (u8)rnd(256), pct(80) ? 0 : (u8)rnd(8));
	if (pct(5)) /* not accessed yet */
		t_gdt(S_CODE64, t_desc(0, 0xfffff, 0x9a, 0xa));
	if (pct(5))
		t_gdt(S_DATA3, t_desc(0, 0xfffff, 0xf2, 0xc));
}

static u64 random_flags(void)
{
	u64 f = X86_RFLAGS_FIXED;

	f |= rnd(0x10000) & (AFLAGS | X86_RFLAGS_IF | X86_RFLAGS_DF);
	if (pct(30))
		f |= rnd(4) << 12;
	if (pct(5))
		f |= X86_RFLAGS_TF;
	if (pct(5))
		f |= X86_RFLAGS_NT;
	if (pct(20))
		f |= X86_RFLAGS_AC;
	if (pct(20))
		f |= X86_RFLAGS_ID | X86_RFLAGS_RF;
	return f;
}

static void make_state(void)
{
	bool user = pct(50);

	t_mode(user ? S_CODE64U | 3 : S_CODE64, user ? S_DATA3 | 3 : S_DATA0, true);
	if (pct(5))
		t_mode(user ? S_CODE3 | 3 : S_CODE0, user ? S_DATA3 | 3 : S_DATA0, true);
	if (pct(50))
		c->cr4 |= CR4_SMAP;
	if (pct(50))
		c->cr0 |= CR0_AM;
	if (pct(50))
		for (unsigned s = 0; s < NR_SEG; s++)
			if (s != CS && (s != SS || !user))
				seg_set_null(&c->seg[s], 0, 0);
	for (unsigned r = 0; r < 16; r++)
		c->gpr[r] = rnd(~0u);
	c->gpr[RSP] = (user ? USTACK : KSTACK) - 0x100 - rnd(0x200);
	c->seg[FS].base = rnd(~0u);
	c->seg[GS].base = rnd(~0u);
	c->rip = 0x30000 + rnd(100);
	c->next_rip = c->rip + 2;
	c->cr2 = 0x1111;
	c->nmi_blocked = pct(5);
	c->irq_shadow = pct(10);
	x86_set_rflags(c, random_flags());
	x86_update_mode(c);
	x86_update_step(c);
}

struct image {
	struct t_state s;
	u64 cr2, aflags;
	u64 segbase[NR_SEG];
	bool step, nmi_blocked, irq_shadow;
	int ret;
	u8 vector;
	u32 err;
	u8 mem[MEM_END - T_GDT];
};

/* Everything that can be in the TLB, for reading and writing. Accessed bits get no say: the walk of
 * the empty TLB sets the same ones. */
static void warm(void)
{
	static const u32 sys[] = {T_GDT, T_IDT, T_TSS};
	static const u32 stack[] = {KSTACK - 0x1000, KSTACK, ISTACK - 0x1000, USTACK - 0x1000};
	struct tlb_entry *tlb = c->tlb;
	u8 cpl = c->cpl;
	u64 sflags = c->sflags;

	for (unsigned i = 0; i < ARRAY_SIZE(sys); i++)
		(void)mmu_ld_sys(c, sys[i], 8);
	for (unsigned set = TLB_SUP; set <= TLB_USER; set++) {
		c->tlb = c->tlbs[set];
		c->cpl = set == TLB_USER ? 3 : 0;
		c->sflags = set == TLB_SUP_AC ? sflags | X86_RFLAGS_AC : sflags & ~X86_RFLAGS_AC;
		for (unsigned i = 0; i < ARRAY_SIZE(stack); i++) {
			bool user = stack[i] == USTACK - 0x1000;

			if (user == (set == TLB_USER))
				mmu_st(c, stack[i], t_ld(stack[i], 8), 8);
		}
	}
	c->tlb = tlb;
	c->cpl = cpl;
	c->sflags = sflags;
}

static void keep(struct image *im, int ret)
{
	memset(im, 0, sizeof(*im));
	t_snap(&im->s);
	im->cr2 = c->cr2;
	im->aflags = c->aflags & AFLAGS;
	memcpy(im->segbase, c->segbase, sizeof(im->segbase));
	im->step = c->step;
	im->nmi_blocked = c->nmi_blocked;
	im->irq_shadow = c->irq_shadow;
	im->ret = ret;
	if (ret == -2) {
		im->vector = c->ev.vector;
		im->err = c->ev.err;
	}
	memcpy(im->mem, t_mem(T_GDT), sizeof(im->mem));
}

static int by_iret(void)
{
	volatile int ret = 0;

	c->unwind_valid = true;
	if (!setjmp(c->unwind))
		x86_iret(c, 8);
	else
		ret = -2;
	c->unwind_valid = false;
	return ret;
}

static struct x86_cpu saved;
static u8 memory[MEM_END - T_GDT];
static struct image quick, slow;

static void remember(void)
{
	memcpy(memory, t_mem(T_GDT), sizeof(memory));
	saved = *c;
}
static void restore(void)
{
	memcpy(t_mem(T_GDT), memory, sizeof(memory));
	*c = saved;
	mmu_flush_all(c);
}

/* Pages of the kernel's stacks are the supervisor's; SMAP then lets it use them. */
static void make_pages(void)
{
	static const u32 own[] = {T_GDT, T_IDT, T_TSS, KSTACK - 0x1000, KSTACK, ISTACK - 0x1000};

	for (unsigned i = 0; i < ARRAY_SIZE(own); i++)
		t_map(own[i], PTE_P | PTE_W | PTE_A | PTE_D);
	t_map(USTACK - 0x1000, PTE_P | PTE_W | PTE_U | PTE_A | PTE_D);
}

static void test_deliver(void **state)
{
	unsigned short_way = 0;

	make_pages();
	for (unsigned i = 0; i < 4000; i++) {
		struct x86_event ev = {.type = pct(50) ? EV_INTR : EV_FAULT};

		ev.vector = (u8)(ev.type == EV_INTR ? 32 + rnd(32) : rnd(32));
		ev.has_err = ev.type == EV_FAULT && pct(50);
		ev.err = ev.has_err ? rnd(32) : 0;
		ev.cr2 = rnd(~0u);
		make_tables();
		make_state();
		warm();
		remember();
		short_way += quick_deliver(c, &ev);
		restore();
		warm();
		keep(&quick, x86_deliver(c, &ev));
		restore();
		keep(&slow, x86_deliver(c, &ev));
		assert_memory_equal(&quick, &slow, sizeof(quick));
	}
	print_message("%u of 4000 the short way\n", short_way);
	assert_in_range(short_way, 1500, 3900);
}

static void make_frame(void)
{
	static const u16 cs[] = {S_CODE64,     S_CODE64U | 3, S_CODE3 | 3, S_CODE64U, S_CODE64 | 3,
	                         S_CONF64 | 3, S_NPCODE,      0,           0xff8,     S_CODE1 | 1};
	static const u16 ss[] = {0, S_DATA0, S_DATA3 | 3, S_RO | 3, S_NP | 3, 3, S_DATA3, 0xff8};
	bool user = pct(50);
	u64 sp = c->gpr[RSP];
	u64 flags = pct(80) ? (c->sflags & ~0xfffull) | (random_flags() & 0xeff & ~X86_RFLAGS_TF)
	                    : random_flags();

	t_st(sp, pct(97) ? 0x400000 + rnd(1000) : 1ull << 47, 8);
	t_st(sp + 8, pct(90) ? (user ? S_CODE64U | 3u : S_CODE64) : cs[rnd(ARRAY_SIZE(cs))], 8);
	t_st(sp + 16, flags, 8);
	t_st(sp + 24, (u64)rnd(~0u) << 20, 8);
	t_st(sp + 32,
	     pct(90) ? (user      ? S_DATA3 | 3u
	                : pct(50) ? S_DATA0
	                          : 0)
	             : ss[rnd(ARRAY_SIZE(ss))],
	     8);
}

static void test_iret(void **state)
{
	unsigned short_way = 0;

	make_pages();
	for (unsigned i = 0; i < 4000; i++) {
		make_tables();
		make_state();
		make_frame();
		warm();
		remember();
		short_way += quick_iret(c);
		restore();
		warm();
		keep(&quick, by_iret());
		restore();
		keep(&slow, by_iret());
		assert_memory_equal(&quick, &slow, sizeof(quick));
	}
	print_message("%u of 4000 the short way\n", short_way);
	assert_in_range(short_way, 700, 3900);
}

static const struct CMUnitTest tests[] = {
	cmocka_unit_test_setup_teardown(test_deliver, t_setup, t_teardown),
	cmocka_unit_test_setup_teardown(test_iret, t_setup, t_teardown),
};

int main(void)
{
	return cmocka_run_group_tests(tests, NULL, NULL);
}
