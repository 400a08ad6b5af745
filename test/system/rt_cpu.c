// SPDX-License-Identifier: MIT
/* One CPU: descriptor tables, traps, run(), features. */
#include "rt.h"

extern u8 trap_stubs[], entry_syscall[], entry_sysenter[];
extern u64 boot_pml4[];
void guest_main(void);
void ap_main(struct cpu *c) __attribute__((noreturn));

static struct gate idt[256] __attribute__((aligned(16)));

void idt_set(unsigned vector, u64 h, unsigned ist, unsigned dpl)
{
	idt[vector].lo = (h & 0xffff) | (u64)KCODE64 << 16 | (u64)ist << 32 |
	                 (0x8eull | dpl << 5) << 40 | (h >> 16 & 0xffff) << 48;
	idt[vector].hi = h >> 32;
}

void idt_open(unsigned vector)
{
	idt[vector].lo |= 3ull << 45;
}

void gdt_set(unsigned sel, u64 descriptor)
{
	this_cpu()->gdt[sel / 8] = descriptor;
}

static void idt_default(void)
{
	for (unsigned i = 0; i < 256; i++)
		idt_set(i, (u64)trap_stubs + i * 16ull,
		        i == V_NMI  ? 2
		        : i == V_DF ? 3
		                    : 1,
		        i == V_BP || i == V_OF || i == V_END ? 3 : 0);
}

static void tables_load(struct cpu *c)
{
	struct {
		u16 limit;
		u64 base;
	} __attribute__((packed)) gdtr = {sizeof(c->gdt) - 1, (u64)c->gdt},
				  idtr = {sizeof(idt) - 1, (u64)idt};
	u64 tss = (u64)&c->tss;

	memset(c->gdt, 0, sizeof(c->gdt));
	c->gdt[KCODE64 / 8] = 0x00af9b000000ffff;
	c->gdt[KDATA / 8] = 0x00cf93000000ffff;
	c->gdt[KCODE32 / 8] = 0x00cf9b000000ffff;
	c->gdt[UCODE32 / 8] = 0x00cffb000000ffff;
	c->gdt[UDATA / 8] = 0x00cff3000000ffff;
	c->gdt[UCODE64 / 8] = 0x00affb000000ffff;
	c->gdt[SEL_TSS / 8] = (sizeof(struct tss) - 1) | (tss & 0xffffff) << 16 | 0x89ull << 40 |
	                      (tss >> 24 & 0xff) << 56;
	c->gdt[SEL_TSS / 8 + 1] = tss >> 32;
	memset(&c->tss, 0, sizeof(c->tss));
	c->tss.rsp[0] = (u64)c + CPU_IST1_TOP;
	c->tss.ist[0] = (u64)c + CPU_IST1_TOP;
	c->tss.ist[1] = (u64)c + CPU_IST2_TOP;
	c->tss.ist[2] = (u64)c + CPU_IST3_TOP;
	c->tss.iopb = sizeof(struct tss);
	asm volatile("lgdt %0; lidt %1; ltr %w2" ::"m"(gdtr), "m"(idtr), "r"(SEL_TSS) : "memory");
	asm volatile("pushq %0; leaq 1f(%%rip), %%rax; pushq %%rax; lretq; 1:\n"
	             "mov %1, %%ss; mov %1, %%ds; mov %1, %%es; mov %2, %%fs; mov %2, %%gs" ::"i"(
			     KCODE64),
	             "r"(KDATA), "r"(0)
	             : "rax", "memory");
}

/* What a case may have changed. */
void cpu_reset_state(void)
{
	struct cpu *c = this_cpu();

	asm volatile("cli; cld");
	write_cr3((u64)boot_pml4);
	write_cr4(CR4_PAE);
	write_cr0(0x80010033);
	wrmsr(MSR_EFER, EFER_SCE | EFER_LME | EFER_NXE);
	if (c->index == 0)
		idt_default();
	tables_load(c);
	memset(c->handler, 0, sizeof(c->handler));
	c->run = NULL;
	c->entry_rsp = (u64)c + CPU_IST1_TOP;
	wrmsr(MSR_STAR, (u64)(UCODE32 & ~3) << 48 | (u64)KCODE64 << 32);
	wrmsr(MSR_LSTAR, (u64)entry_syscall);
	wrmsr(MSR_SFMASK, F_IF | F_TF | F_DF | F_AC | F_NT);
	wrmsr(MSR_GS_BASE, 0);
	wrmsr(MSR_FS_BASE, 0);
	wrmsr(MSR_KERNEL_GS, (u64)c);
	wrmsr(MSR_SYSENTER_CS, KCODE64);
	wrmsr(MSR_SYSENTER_ESP, (u64)c + CPU_IST1_TOP);
	wrmsr(MSR_SYSENTER_EIP, (u64)entry_sysenter);
	write_cr8(0);
	asm volatile("mov %0, %%dr7; mov %0, %%dr6" ::"r"(0ull));
	/* An NMI's handler may have been left by a longjmp: IRET ends its blocking. */
	asm volatile("mov %%rsp, %%rax; pushq %0; pushq %%rax; pushq $2; pushq %1\n"
	             "leaq 1f(%%rip), %%rax; pushq %%rax; iretq; 1:" ::"i"(KDATA),
	             "i"(KCODE64)
	             : "rax", "memory");
	apic_on();
}

void cpu_start(unsigned index)
{
	struct cpu *c = cpu_of(index);

	if (index == 0) {
		idt_default();
		outb(0x21, 0xff); /* firmware may have left the 8259s ticking */
		outb(0xa1, 0xff);
	}
	c->index = index;
	cpu_reset_state();
	if (index == 0)
		guest_main();
	ap_main(c);
}

bool cpu_has(u32 leaf, unsigned reg, unsigned bit)
{
	u32 r[4];

	cpuid(leaf & 0x80000000, 0, r);
	if (r[0] < leaf)
		return false;
	cpuid(leaf, 0, r);
	return r[reg] >> bit & 1;
}

bool cpu_is_amd(void)
{
	u32 r[4];

	cpuid(0, 0, r);
	return r[2] == 0x444d4163 || r[2] == 0x656e6975; /* ...cAMD, ...uine */
}

void vector_on(void)
{
	write_cr4(read_cr4() | CR4_OSFXSR | CR4_OSXMMEXCPT);
	asm volatile("fninit");
	if (HAS_AVX) {
		write_cr4(read_cr4() | CR4_OSXSAVE);
		asm volatile("xsetbv" ::"c"(0), "a"(7), "d"(0));
	}
}

/* ---- traps ---- */

void set_handler(unsigned vector, bool (*fn)(struct regs *r))
{
	this_cpu()->handler[vector] = fn;
}

void trap(struct regs *r)
{
	struct cpu *c = this_cpu();

	if (r->vector == V_PF)
		c->cr2 = read_cr2();
	if (c->handler[r->vector] && c->handler[r->vector](r))
		return;
	if (c->run) {
		*c->run = *r;
		c->run = NULL;
		run_leave(c->run_rsp);
	}
	fail("CPU %u: exception %u, error code 0x%x, RIP 0x%x, CS 0x%x, RSP 0x%x, CR2 0x%x",
	     (u64)c->index, r->vector, r->err, r->rip, r->cs, r->rsp, c->cr2);
	if (cpu_of(0)->in_case && c->index == 0)
		case_end();
	/* Another CPU: that one is lost, and whoever waits for it will find out. */
	print("\nFATAL\n");
	outb(0xf4, 1);
	for (;;)
		asm volatile("cli; hlt");
}

u64 run(struct regs *r)
{
	struct cpu *c = this_cpu();

	c->run = r;
	c->cr2 = 0;
	run_enter(r, &c->run_rsp);
	return r->vector;
}

static void regs_fill(struct regs *r, u64 rip, u64 rsp)
{
	u64 *p = &r->r15;

	for (unsigned i = 0; i < 15; i++)
		p[i] = 0x1122334455667788ull * (i + 1) ^ (u64)(i + 1) << 56;
	r->vector = r->err = 0;
	r->rip = rip;
	r->rsp = rsp;
	r->rflags = F_1;
}

void regs_kernel(struct regs *r, u64 rip, u64 rsp)
{
	regs_fill(r, rip, rsp);
	r->cs = KCODE64;
	r->ss = KDATA;
}

void regs_user(struct regs *r, u64 rip, u64 rsp)
{
	regs_fill(r, rip, rsp);
	r->cs = UCODE64;
	r->ss = UDATA;
}

bool expect_regs(const struct regs *got, const struct regs *want, const char *what)
{
	static const char *const name[] = {"r15", "r14", "r13", "r12", "r11", "r10", "r9", "r8",
	                                   "rdi", "rsi", "rbp", "rbx", "rdx", "rcx", "rax"};
	const u64 *g = &got->r15, *w = &want->r15;
	bool ok = true;

	for (unsigned i = 0; i < ARRAY_SIZE(name); i++) {
		if (g[i] != w[i]) {
			fail("%s: %s is 0x%x, should be 0x%x", what, name[i], g[i], w[i]);
			ok = false;
		}
	}
	if (got->rsp != want->rsp) {
		fail("%s: rsp is 0x%x, should be 0x%x", what, got->rsp, want->rsp);
		ok = false;
	}
	if ((got->rflags ^ want->rflags) & F_ARITH) {
		fail("%s: flags are 0x%x, should be 0x%x", what, got->rflags & F_ARITH,
		     want->rflags & F_ARITH);
		ok = false;
	}
	return ok;
}

bool expect_trap(const struct regs *r, u64 vector, u64 err, u64 rip)
{
	if (r->vector == vector && r->err == err && r->rip == rip)
		return true;
	fail("vector %u, error code 0x%x, RIP 0x%x, should be %u, 0x%x, 0x%x (CR2 0x%x)", r->vector,
	     r->err, r->rip, vector, err, rip, this_cpu()->cr2);
	return false;
}

void *code_copy(u64 to, const u8 *from, const u8 *end)
{
	return memcpy((void *)to, from, (u64)(end - from));
}
