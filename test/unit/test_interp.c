// SPDX-License-Identifier: MIT
/* The interpreter's caches and locks: what a single instruction, as the instruction tests run it,
 * does not show. */
#include "cpurig.h"
#include "engine/interp/interp.h"

#define CODE 0x10000
#define DATA 0x20000

static void setup(struct cpurig *r, const void *code, size_t len)
{
	struct vcpu *v;

	rig_init(r, 1);
	rig_long_mode(r);
	v = r->vm.vcpu[0];
	r->vm.engine = v->engine = &interp_engine;
	assert_int_equal(interp_engine.vcpu_create(v), 0);
	assert_int_equal(interp_thread_init(r->c), 0);
	pmap_write(r->vm.pmap, CODE, code, len);
	r->c->rip = CODE;
}

/* Takes U from the page that maps all. */
static void make_supervisor(struct cpurig *r)
{
	u64 e = PTE_P | PTE_W | PTE_PS;

	pmap_write(r->vm.pmap, 0x101000, &e, 8);
	mmu_flush_all(r->c);
}

/* Code that the kernel has run is not the user's to run, though it is decoded and cached. */
static void test_user_in_kernel_code(void **state)
{
	struct cpurig r;

	setup(&r, "\x90", 1);
	make_supervisor(&r);
	assert_int_equal(interp_step(r.c), 0);
	assert_int_equal(r.c->rip, CODE + 1);
	r.c->rip = CODE;
	rig_user(&r);
	assert_int_equal(interp_step(r.c), 1);
	assert_int_equal(r.c->ev.vector, X86_PF);
	assert_int_equal(r.c->ev.err & (PF_P | PF_U), PF_P | PF_U);
	assert_int_equal(r.c->ev.cr2, CODE);
	rig_fini(&r);
}

/* SMEP, likewise. */
static void test_kernel_in_user_code(void **state)
{
	struct cpurig r;

	setup(&r, "\x90", 1);
	r.c->cr4 |= CR4_SMEP;
	rig_user(&r);
	assert_int_equal(interp_step(r.c), 0);
	r.c->rip = CODE;
	r.c->cpl = 0;
	x86_update_mode(r.c);
	assert_int_equal(interp_step(r.c), 1);
	assert_int_equal(r.c->ev.vector, X86_PF);
	assert_int_equal(r.c->ev.err, PF_P | PF_I);
	rig_fini(&r);
}

/* LOCK BTS $1, (%rbx) at CPL 3 with alignment checks. */
static void test_locked_bit_alignment(void **state)
{
	struct cpurig r;
	u32 val = 0;

	setup(&r, "\xf0\x0f\xba\x2b\x01", 5);
	r.c->cr0 |= CR0_AM;
	rig_user(&r);
	x86_set_rflags(r.c, X86_RFLAGS_AC);
	r.c->gpr[RBX] = DATA + 1;
	assert_int_equal(interp_step(r.c), 1);
	assert_int_equal(r.c->ev.vector, X86_AC);
	pmap_read(r.vm.pmap, DATA, &val, 4);
	assert_int_equal(val, 0);
	r.c->gpr[RBX] = DATA;
	assert_int_equal(interp_step(r.c), 0);
	pmap_read(r.vm.pmap, DATA, &val, 4);
	assert_int_equal(val, 2);
	rig_fini(&r);
}

/* ... and over two pages: done under the lock, which is free again afterwards. */
static void test_locked_bit_split(void **state)
{
	struct cpurig r;
	u32 val = 0;

	setup(&r, "\xf0\x0f\xba\x2b\x1f", 5); /* bit 31 */
	r.c->gpr[RBX] = DATA + 0xffe;
	assert_int_equal(interp_step(r.c), 0);
	pmap_read(r.vm.pmap, DATA + 0xffe, &val, 4);
	assert_int_equal(val, 1u << 31);
	assert_int_equal(pthread_mutex_trylock(&r.vm.split_lock), 0);
	pthread_mutex_unlock(&r.vm.split_lock);
	rig_fini(&r);
}

static u64 apic_read_value;

static bool apic_mmio(void *dev, gpa_t gpa, bool write, u64 *val, unsigned size)
{
	struct cpurig *r = dev;

	if (gpa - (r->apic_base & PAGE_MASK) >= PAGE_SIZE)
		return false;
	if (!write)
		*val = apic_read_value;
	return true;
}

static gpa_t apic_mmio_base(void *dev)
{
	struct cpurig *r = dev;

	return r->apic_base & PAGE_MASK;
}

/* An APIC page that was moved over RAM hides it, for data and for code. */
static void test_apic_over_ram(void **state)
{
	struct irqchip_ops chip;
	struct cpurig r;
	u32 ram = 0x11111111;

	setup(&r, "\x8b\x03", 2); /* mov (%rbx), %eax */
	chip = *r.vm.vcpu[0]->irqchip;
	chip.mmio = apic_mmio;
	chip.mmio_base = apic_mmio_base;
	r.vm.vcpu[0]->irqchip = &chip;
	apic_read_value = 0x22222222;
	pmap_write(r.vm.pmap, DATA, &ram, 4);
	r.c->gpr[RBX] = DATA;
	assert_int_equal(interp_step(r.c), 0);
	assert_int_equal(r.c->gpr[RAX], 0x11111111);
	x86_wrmsr(r.c, IA32_APIC_BASE, DATA | IA32_APIC_BASE_EN);
	r.c->rip = CODE;
	assert_int_equal(interp_step(r.c), 0);
	assert_int_equal(r.c->gpr[RAX], 0x22222222);
	assert_null(mmu_fetch(r.c, DATA));
	x86_wrmsr(r.c, IA32_APIC_BASE, 0xfee00000 | IA32_APIC_BASE_EN);
	r.c->rip = CODE;
	assert_int_equal(interp_step(r.c), 0);
	assert_int_equal(r.c->gpr[RAX], 0x11111111);
	rig_fini(&r);
}

/* Bytes that are no instruction, and those of an instruction that begins in the same way: what was
 * decoded first doesn't stay. */
static void test_bad_bytes_change(void **state)
{
	static const u8 bad[] = {0x0f, 0x0b}, good[] = {0x0f, 0xa2}; /* UD2, CPUID */
	static const u8 none[] = {0xc5, 0xf8, 0x04, 0xc0};           /* no such opcode */
	static const u8 move[] = {0xc5, 0xf8, 0x28, 0xc0};           /* VMOVAPS */
	static const struct {
		const u8 *first, *second;
		unsigned len;
	} pair[] = {{bad, good, 2}, {none, move, 4}};

	for (unsigned i = 0; i < ARRAY_SIZE(pair); i++) {
		struct cpurig r;

		setup(&r, pair[i].first, pair[i].len);
		r.c->cr4 |= CR4_OSFXSR | CR4_OSXSAVE;
		r.c->xcr0 = 7;
		assert_int_equal(interp_step(r.c), 1);
		assert_int_equal(r.c->ev.vector, X86_UD);
		pmap_write(r.vm.pmap, CODE, pair[i].second, pair[i].len);
		assert_int_equal(interp_step(r.c), 0);
		assert_int_equal(r.c->rip, CODE + pair[i].len);
		rig_fini(&r);
	}
}

/* RIP-relative operands whose distance from the block's start, but not from the instruction's end,
 * has more than 31 bits: of an instruction that runs natively, and of one with an immediate. */
static void test_farthest_operand(void **state)
{
	static const u8 code[][10] = {
		{0x66, 0x0f, 0x6f, 0x05, 0xff, 0xff, 0xff, 0x7f},       /* movdqa */
		{0x48, 0x0f, 0xba, 0x2d, 0xff, 0xff, 0xff, 0x7f, 0x71}, /* btsq $0x71 */
		{0x8b, 0x05, 0xff, 0xff, 0xff, 0x7f},                   /* mov */
	};
	static const unsigned len[] = {8, 9, 6};

	for (unsigned i = 0; i < ARRAY_SIZE(code); i++) {
		struct cpurig r;

		setup(&r, code[i], len[i]);
		r.c->cr4 |= CR4_OSFXSR;
		if (!i) /* aligned */
			r.c->rip = CODE + 9;
		pmap_write(r.vm.pmap, r.c->rip, code[i], len[i]);
		assert_int_equal(interp_step(r.c), 1);
		assert_int_equal(r.c->ev.vector, X86_PF);
		assert_int_equal(r.c->ev.cr2, r.c->rip + len[i] + INT32_MAX);
		rig_fini(&r);
	}
}

/* An instruction over two pages gives way to one that isn't: the next page is not fetched. */
static void test_no_fetch_behind(void **state)
{
	u64 table = 0x105007, pte;
	struct cpurig r;

	setup(&r, "", 0);
	/* A page table for the first 2 MiB. */
	for (unsigned i = 0; i < 512; i++) {
		pte = i * PAGE_SIZE | PTE_P | PTE_W;
		pmap_write(r.vm.pmap, 0x105000 + i * 8, &pte, 8);
	}
	pmap_write(r.vm.pmap, 0x102000, &table, 8);
	pte = 0x102007;
	pmap_write(r.vm.pmap, 0x101000, &pte, 8);
	mmu_flush_all(r.c);
	pmap_write(r.vm.pmap, CODE + 0xfff, "\xb0\x05", 2); /* mov $5, %al */
	r.c->rip = CODE + 0xfff;
	assert_int_equal(interp_step(r.c), 0);
	assert_int_equal(r.c->rip, CODE + 0x1001);
	pte = 0;
	pmap_write(r.vm.pmap, 0x105000 + (CODE / PAGE_SIZE + 1) * 8, &pte, 8);
	mmu_flush_all(r.c);
	r.c->rip = CODE + 0xfff;
	assert_int_equal(interp_step(r.c), 1);
	assert_int_equal(r.c->ev.vector, X86_PF);
	assert_int_equal(r.c->ev.cr2, CODE + 0x1000);
	pmap_write(r.vm.pmap, CODE + 0xfff, "\x90", 1);
	r.c->rip = CODE + 0xfff;
	assert_int_equal(interp_step(r.c), 0);
	assert_int_equal(r.c->rip, CODE + 0x1000);
	rig_fini(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_user_in_kernel_code),
		cmocka_unit_test(test_kernel_in_user_code),
		cmocka_unit_test(test_locked_bit_alignment),
		cmocka_unit_test(test_locked_bit_split),
		cmocka_unit_test(test_apic_over_ram),
		cmocka_unit_test(test_bad_bytes_change),
		cmocka_unit_test(test_farthest_operand),
		cmocka_unit_test(test_no_fetch_behind),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
