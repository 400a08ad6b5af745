// SPDX-License-Identifier: MIT
/* The nanobenchmarks of Adams and Agesen, "A Comparison of Software and Hardware Techniques for x86
 * Virtualization" (ASPLOS 2006, section 6.3): what a single sensitive operation costs, in cycles
 * of the TSC. A guest of its own, so that nothing but the operation is in the loop. On COM1 it
 *prints
 *
 *	nano-begin TSC
 *	nano NAME CYCLES OPERATIONS
 *	nano-fail NAME TURNS RESULT	after so many turns the test returned something wrong
 *	nano-trap VECTOR ERROR	an exception that was not asked for
 *	nano-rip ADDRESS		where
 *	nano-end TSC
 *
 * and ends the machine through the debug exit port. */
#include <stddef.h>
#include <stdint.h>

#include "nano.h"
#include "timing.h"

#define COM1       0x3f8
#define DEBUG_EXIT 0xf4
#define EXIT_VALUE 0x20

#define NOTHING (~(u64)0) /* for put_line() */

#define MSR_STAR  0xc0000081
#define MSR_LSTAR 0xc0000082
#define MSR_FMASK 0xc0000084

struct gate {
	uint16_t low, sel;
	uint8_t ist, type;
	uint16_t mid;
	uint32_t high, reserved;
};

static struct gate idt[256];
static uint32_t tss[26];
static uint8_t ring0_stack[4096] __attribute__((aligned(16)));
static uint8_t frames[2][4096] __attribute__((aligned(4096)));
extern uint64_t gdt[], pt_test[];
extern const uint8_t trap_stubs[], pgfault_entry[], divzero_entry[], syscall_entry[], done_entry[];
uint64_t *ptemod_pte, ptemod_xor;

u64 test_in(u64 turns), test_cr8wr(u64 turns), test_pgfault(u64 turns), test_divzero(u64 turns),
	test_ptemod(u64 turns), test_syscall(u64 turns);

static void outb(uint16_t port, uint8_t v)
{
	__asm__ volatile("outb %0, %1" : : "a"(v), "Nd"(port));
}

static uint8_t inb(uint16_t port)
{
	uint8_t v;

	__asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(port));
	return v;
}

static void wrmsr(uint32_t msr, u64 v)
{
	__asm__ volatile("wrmsr" : : "c"(msr), "a"((uint32_t)v), "d"((uint32_t)(v >> 32)));
}

static void put(const char *s)
{
	for (; *s; s++) {
		while (!(inb(COM1 + 5) & 0x20)) /* LSR.THRE */
			;
		outb(COM1, (uint8_t)*s);
	}
}

static void put_number(u64 v)
{
	char digits[24], *p = digits + sizeof(digits) - 1;

	*p = 0;
	do
		*--p = (char)('0' + v % 10);
	while (v /= 10);
	put(p);
}

static void put_line(const char *a, const char *name, u64 v, u64 w)
{
	put(a);
	put(name);
	put(" ");
	put_number(v);
	if (w != NOTHING) {
		put(" ");
		put_number(w);
	}
	put("\n");
}

static void finish(void)
{
	outb(DEBUG_EXIT, EXIT_VALUE);
	for (;;)
		__asm__ volatile("hlt");
}

void nano_trap(u64 vector, u64 error, u64 rip);
void nano_trap(u64 vector, u64 error, u64 rip)
{
	put_line("nano-", "trap", vector, error);
	put_line("nano-", "rip", rip, NOTHING);
	finish();
}

static void set_gate(unsigned vec, const void *to, uint8_t dpl)
{
	u64 a = (uintptr_t)to;

	idt[vec] = (struct gate){
		(uint16_t)a,         SEL_CODE, 0, (uint8_t)(0x8e | dpl << 5), (uint16_t)(a >> 16),
		(uint32_t)(a >> 32), 0};
}

static void setup(void)
{
	struct {
		uint16_t limit;
		u64 base;
	} __attribute__((packed)) idtr = {sizeof(idt) - 1, (uintptr_t)idt};
	u64 base = (uintptr_t)tss, sp = (uintptr_t)(ring0_stack + sizeof(ring0_stack));

	for (unsigned v = 0; v < 32; v++)
		set_gate(v, trap_stubs + 16 * v, 0);
	set_gate(VEC_DONE, done_entry, 3);
	__asm__ volatile("lidt %0" : : "m"(idtr));
	tss[1] = (uint32_t)sp;
	tss[2] = (uint32_t)(sp >> 32);
	tss[25] = sizeof(tss) << 16; /* no I/O bitmap */
	gdt[SEL_TSS / 8] = (sizeof(tss) - 1) | (base & 0xffffff) << 16 | 0x89ull << 40 |
	                   (base >> 24 & 0xff) << 56;
	gdt[SEL_TSS / 8 + 1] = base >> 32;
	__asm__ volatile("ltr %w0" : : "r"(SEL_TSS));
	wrmsr(MSR_STAR, (u64)SEL_USER << 48 | (u64)SEL_CODE << 32);
	wrmsr(MSR_LSTAR, (uintptr_t)syscall_entry);
	wrmsr(MSR_FMASK, 0);
	frames[0][0] = 1;
	frames[1][0] = 2;
	pt_test[0] = (uintptr_t)frames[0] | 7;
	ptemod_pte = pt_test;
	ptemod_xor = (uintptr_t)frames[0] ^ (uintptr_t)frames[1];
}

static u64 zero(u64 turns)
{
	(void)turns;
	return 0;
}

static u64 all(u64 turns)
{
	return turns;
}

/* Pages with 1 and with 2, in turn. */
static u64 three_halves(u64 turns)
{
	return turns / 2 * 3;
}

void nano_main(void);
void nano_main(void)
{
	static const struct {
		const char *name;
		u64 (*test)(u64), (*want)(u64);
		unsigned ops, vec;
		const uint8_t *entry;
	} tests[] = {
		{"syscall", test_syscall, zero, 1, 0, NULL},
		{"in", test_in, zero, 1, 0, NULL},
		{"cr8wr", test_cr8wr, zero, 1, 0, NULL},
		{"callret", test_callret, zero, 10, 0, NULL},
		{"pgfault", test_pgfault, all, 1, VEC_PF, pgfault_entry},
		{"divzero", test_divzero, all, 1, VEC_DE, divzero_entry},
		{"ptemod", test_ptemod, three_halves, 1, 0, NULL},
	};

	setup();
	put_line("nano-", "begin", tsc(), NOTHING);
	for (unsigned i = 0; i < sizeof(tests) / sizeof(tests[0]); i++) {
		struct timing t = {0};
		u64 got;

		if (tests[i].entry)
			set_gate(tests[i].vec, tests[i].entry, 0);
		got = time_test(&t, tests[i].test, tests[i].want);
		set_gate(tests[i].vec, trap_stubs + 16 * tests[i].vec, 0);
		if (got != tests[i].want(t.turns))
			put_line("nano-fail ", tests[i].name, t.turns, got);
		else
			put_line("nano ", tests[i].name, t.cycles, t.turns * tests[i].ops);
	}
	put_line("nano-", "end", tsc(), NOTHING);
	finish();
}
