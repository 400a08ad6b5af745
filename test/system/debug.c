// SPDX-License-Identifier: MIT
/* Debug exceptions (SDM 3B 18.2, 18.3): single steps trap once for each instruction, breakpoints
 * hit where they are set, also in code that ran at full speed before. */
#include "rt.h"

#define CODE  (VA + 0x10000)
#define STACK (VA + 0x30000)
#define DATA  (VA + 0x200000)

#define DR(n)                                                                                      \
	static inline u64 read_dr##n(void)                                                         \
	{                                                                                          \
		u64 v;                                                                             \
		asm volatile("mov %%dr" #n ", %0" : "=r"(v));                                      \
		return v;                                                                          \
	}                                                                                          \
	static inline void write_dr##n(u64 v)                                                      \
	{                                                                                          \
		asm volatile("mov %0, %%dr" #n ::"r"(v) : "memory");                               \
	}
DR(0)
DR(1)
DR(2)
DR(3)
DR(6)
DR(7)

#define DR6_BS 0x4000
#define DR6_BD 0x2000

static u64 rips[256], dr6s[256];
static unsigned hits;

static bool on_debug(struct regs *r)
{
	u64 dr6 = read_dr6();

	if (hits < ARRAY_SIZE(rips)) {
		rips[hits] = r->rip;
		dr6s[hits] = dr6 & 0xe00f;
	}
	hits++;
	write_dr6(0xffff0ff0);
	/* A code breakpoint is a fault: RF lets the instruction pass. */
	if (dr6 & 15)
		r->rflags |= F_RF;
	return true;
}

static bool pass(struct regs *r)
{
	return true;
}

static bool pass_ud2(struct regs *r)
{
	r->rip += 2;
	return true;
}

/* ---- single steps ---- */

/* `S` stands before each instruction that a step is to end at, in the order in which they run;
 * where that is not the order of the text, the list comes by hand. */
#define S " .pushsection .rodata.steps, \"a\"; .quad 77f; .popsection; 77: "
#define STEPS(name, body)                                                                          \
	asm(".pushsection .rodata.steps, \"a\"; " #name "_steps: .popsection\n");                  \
	SNIPPET(name, body "\n" S END)                                                             \
	asm(".pushsection .rodata.steps, \"a\"; .quad 0; .popsection\n");                          \
	extern const u64 name##_steps[];

STEPS(st_plain, "addq %rax, %rcx;" S "movq %rcx, (%rbx);" S "addl 8(%rbx), %edx;" S "pushq %rdx;" S
                "popq %r15;" S "leaq 5(%r15), %r14;" S "xorl %eax, %eax;" S "nop;" S
                "shll $3, %ecx;" S "movups (%rbx), %xmm0;" S "fnop")
STEPS(st_jumps, "jmp 1f; 2: ud2; 1:" S "cmpl %eax, %eax;" S "jnz 2b;" S "jz 3f; ud2; 3:" S
                "call 4f; ud2; 4:" S "popq %rax;" S "leaq 5f(%rip), %rax;" S "jmpq *%rax; ud2; 5:" S
                "pushq %rax;" S "leaq 6f(%rip), %rcx;" S "movq %rcx, (%rsp);" S "ret; ud2; 6:" S
                "movl $1, %ecx;" S "loop 2b;" S "nop")
STEPS(st_rep,
      "movl $3, %ecx;" S "movq %rbx, %rdi;" S "rep stosb;"
      " .pushsection .rodata.steps; .quad 77b, 77b; .popsection;" S "nop;" S "rep stosb;" S "nop")
STEPS(st_system, "movq %cr0, %rax;" S "movq %rax, %cr0;" S "movq %cr3, %rax;" S "movq %rax, %cr3;" S
                 "cpuid;" S "movl $0xc0000100, %ecx;" S "rdmsr;" S "wrmsr;" S "movl %ss, %eax;" S
                 "movl %eax, %es;" S "outb %al, $0x80;" S "pushfq;" S "popfq;" S "cli;" S
                 "invlpg (%rax);" S "wbinvd;" S "swapgs;" S "swapgs")
/* No step ends at what follows MOV SS, nor at what follows INT n or an exception: the handler's
 * IRET sets TF. */
STEPS(st_shadow,
      "movl %ss, %eax;" S "movl %eax, %ss; nop;" S "nop;" S "pushq %rax;" S "movw %ss, (%rsp);" S
      "popq %rax;" S "nop;" S "int $0x51; nop;" S "nop;" S "ud2; nop")
STEPS(st_self,
      "movb $0x90, 1f(%rip);" S "1: nop;" S "movb $1, 2f+1(%rip);" S "2: movl $0, %eax;" S "nop")

static const struct {
	const u8 *start, *end;
	const u64 *steps;
	bool ring0;
} steps[] = {
#define I(n, r)                                                                                    \
	{                                                                                          \
		n, n##_end, n##_steps, r                                                           \
	}
	I(st_plain, false), I(st_jumps, false), I(st_rep, false),
	I(st_system, true), I(st_shadow, true), I(st_self, true),
};

static void expect_steps(const u64 *want, u64 shift)
{
	unsigned n = 0;

	while (want[n])
		n++;
	if (!expect_eq(hits, n, "steps"))
		for (unsigned i = 0; i < hits && i < 40; i++)
			print(" %x", rips[i] - CODE);
	for (unsigned i = 0; i < n && i < hits && !case_bad(); i++) {
		expect_eq(rips[i], want[i] + shift, "RIP of a step");
		expect_eq(dr6s[i], DR6_BS, "DR6");
	}
}

static void step(u64 which)
{
	struct regs r;

	vector_on();
	map_new(CODE, URWX);
	map_new(STACK, URWX);
	map_new(DATA, URWX);
	set_handler(V_DB, on_debug);
	set_handler(0x51, pass);
	set_handler(V_UD, pass_ud2);
	for (unsigned i = 0; i < 12 && !case_bad(); i++) {
		bool tf = i % 3, user = i & 1 && !steps[which].ring0;

		code_copy(CODE, steps[which].start, steps[which].end);
		serialize();
		hits = 0;
		if (user)
			regs_user(&r, CODE, STACK + 2048);
		else
			regs_kernel(&r, CODE, STACK + 2048);
		r.rflags |= tf ? F_TF : 0;
		r.rbx = DATA;
		run(&r);
		expect_eq(r.vector, V_END, "vector");
		if (tf)
			expect_steps(steps[which].steps, CODE - (u64)steps[which].start);
		else
			expect_eq(hits, 0, "steps without TF");
	}
}

/* TF goes on and off by POPF: the instruction that sets it is not trapped, the one that clears it
 * is. */
SNIPPET(tf_popf, "pushfq; orl $0x100, (%rsp); popfq\n"
                 "nop\n"
                 "tf_1: pushfq\n"
                 "tf_2: andl $0xfffffeff, (%rsp)\n"
                 "tf_3: popfq\n"
                 "tf_4: nop; nop\n" END)
extern u8 tf_1[], tf_2[], tf_3[], tf_4[];

static void step_popf(u64 arg)
{
	const u64 want[] = {(u64)tf_1, (u64)tf_2, (u64)tf_3, (u64)tf_4, 0};
	struct regs r;

	map_new(STACK, KRWX);
	set_handler(V_DB, on_debug);
	for (unsigned i = 0; i < 50 && !case_bad(); i++) {
		hits = 0;
		regs_kernel(&r, (u64)tf_popf, STACK + 2048);
		run(&r);
		expect_eq(r.vector, V_END, "vector");
		expect_steps(want, 0);
	}
}

/* A loop that ran at full speed is stepped for a while by an interrupted and changed RFLAGS, and
 * runs on. */
SNIPPET(counting, "1: addq $1, %rax; adcq $0, %rdx; decq %rcx; jnz 1b\n" END)

static unsigned steps_left;
static bool on_some_steps(struct regs *r)
{
	hits++;
	write_dr6(0xffff0ff0);
	if (--steps_left == 0)
		r->rflags &= ~F_TF;
	return true;
}

static void step_hot(u64 arg)
{
	struct regs r;

	map_new(STACK, KRWX);
	set_handler(V_DB, on_some_steps);
	for (unsigned i = 0; i < 100 && !case_bad(); i++) {
		hits = 0;
		steps_left = 10 + i;
		regs_kernel(&r, (u64)counting, STACK + 2048);
		r.rax = r.rdx = 0;
		r.rcx = 3000;
		r.rflags |= i & 1 ? F_TF : 0;
		run(&r);
		expect_eq(r.vector, V_END, "vector");
		expect_eq(r.rax, 3000, "rounds");
		expect_eq(hits, i & 1 ? 10 + i : 0, "steps");
	}
}

/* SYSCALL masks TF; SYSRET brings it back. */
SNIPPET(tf_user, "nop\n"
                 "tfu_1: nop\n"
                 "tfu_2: syscall\n"
                 "tfu_3: nop\n"
                 "tfu_4: nop\n"
                 "tfu_5: nop\n" END)
extern u8 tfu_1[], tfu_2[], tfu_4[], tfu_5[];

static void step_syscall(u64 arg)
{
	u64 shift = CODE - (u64)tf_user;
	struct regs r;

	map_new(CODE, URWX);
	map_new(STACK, URWX);
	code_put(CODE, tf_user);
	set_handler(V_DB, on_debug);
	for (unsigned i = 0; i < 50 && !case_bad(); i++) {
		hits = 0;
		regs_user(&r, CODE, STACK + 2048);
		r.rflags |= F_TF;
		run(&r);
		expect_eq(r.vector, VEC_SYSCALL, "vector");
		expect_eq(r.r11 & F_TF, F_TF, "TF in R11");
		expect_eq(hits, 2, "steps before SYSCALL");
		expect_eq(rips[0], (u64)tfu_1 + shift, "RIP");
		expect_eq(rips[1], (u64)tfu_2 + shift, "RIP");
		hits = 0;
		run(&r);
		expect_eq(r.vector, V_END, "vector");
		expect_eq(hits, 3, "steps after");
		expect_eq(rips[0], (u64)tfu_4 + shift, "RIP");
		expect_eq(rips[1], (u64)tfu_5 + shift, "RIP");
	}
}

/* ---- breakpoints ---- */

SNIPPET(bp_loop, "1: addq $1, %rax\n"
                 "bp_a: leaq 1(%rdx), %rdx\n"
                 "bp_b: cmpq $50, %rax\n"
                 "bp_c: jne 1b\n" END)
extern u8 bp_a[], bp_b[], bp_c[];

static void code_breakpoints(u64 arg)
{
	struct regs r;

	map_new(STACK, KRWX);
	set_handler(V_DB, on_debug);
	for (unsigned i = 0; i < 32 && !case_bad(); i++) {
		unsigned on = i & 7, want = 0;

		write_dr0((u64)bp_a);
		write_dr1((u64)bp_b);
		write_dr2((u64)bp_c);
		write_dr7((on & 1) | (on & 2 ? 4 : 0) | (on & 4 ? 16 : 0));
		hits = 0;
		regs_kernel(&r, (u64)bp_loop, STACK + 2048);
		r.rax = r.rdx = 0;
		run(&r);
		write_dr7(0);
		expect_eq(r.vector, V_END, "vector");
		expect_eq(r.rdx, 50, "rounds");
		for (unsigned k = 0; k < 150 && !case_bad(); k++) {
			static u8 *const at[] = {bp_a, bp_b, bp_c};

			if (!(on >> k % 3 & 1))
				continue;
			expect_eq(rips[want], (u64)at[k % 3], "RIP");
			expect_eq(dr6s[want], 1u << k % 3, "DR6");
			want++;
		}
		expect_eq(hits, want, "breakpoints hit");
	}
}

/* Stores of `size` bytes at an offset from the watched datum; only those that touch it hit. */
SNIPPET(w1, "movb %al, (%rbx)\nw1_at: nop\n" END)
SNIPPET(w2, "movw %ax, (%rbx)\nw2_at: nop\n" END)
SNIPPET(w4, "movl %eax, (%rbx)\nw4_at: nop\n" END)
SNIPPET(w8, "movq %rax, (%rbx)\nw8_at: nop\n" END)
SNIPPET(w16, "movups %xmm0, (%rbx)\nw16_at: nop\n" END)
SNIPPET(rmw4, "lock addl %eax, (%rbx)\nrmw4_at: nop\n" END)
SNIPPET(push_8, "leaq 8(%rbx), %rsp; pushq %rax\npush_8_at: nop\n" END)
SNIPPET(r4, "movl (%rbx), %eax\nr4_at: nop\n" END)
SNIPPET(r8, "addq (%rbx), %rax\nr8_at: nop\n" END)
SNIPPET(r16, "movups (%rbx), %xmm0\nr16_at: nop\n" END)
SNIPPET(stos8, "movq %rbx, %rdi; stosq\nstos8_at: nop\n" END)
extern u8 w1_at[], w2_at[], w4_at[], w8_at[], w16_at[], rmw4_at[], push_8_at[], r4_at[], r8_at[],
	r16_at[], stos8_at[];

static void watch(u64 len_code)
{
	static const struct {
		const u8 *code, *after;
		u8 size;
		bool write;
	} a[] = {{w1, w1_at, 1, true},         {w2, w2_at, 2, true},      {w4, w4_at, 4, true},
	         {w8, w8_at, 8, true},         {w16, w16_at, 16, true},   {rmw4, rmw4_at, 4, true},
	         {push_8, push_8_at, 8, true}, {r4, r4_at, 4, false},     {r8, r8_at, 8, false},
	         {r16, r16_at, 16, false},     {stos8, stos8_at, 8, true}};
	static const u8 lens[] = {1, 2, 8, 4};
	u64 len = lens[len_code], at = DATA + 96; /* no LOCK across cache lines here */
	struct regs r;

	vector_on();
	map_new(STACK, KRWX);
	map_new(DATA, KRWX);
	map(0, DATA + PAGE, *pte_of(0, DATA, 0) & P_ADDR, KRWX); /* not watched: another address */
	set_handler(V_DB, on_debug);
	write_dr3(at);
	for (unsigned rw = 0; rw < 2; rw++) {
		write_dr7(1 << 6 | (rw ? 3ull : 1ull) << 28 | len_code << 30);
		for (unsigned i = 0; i < ARRAY_SIZE(a) && !case_bad(); i++)
			for (u64 off = 0; off < 28 && !case_bad(); off++) {
				u64 from = at - 17 + off;
				bool hit = from < at + len && from + a[i].size > at &&
				           (rw || a[i].write);

				hits = 0;
				regs_kernel(&r, (u64)a[i].code, STACK + 2048);
				r.rbx = from + (off == 27 ? PAGE : 0);
				hit = hit && off != 27;
				run(&r);
				expect_eq(r.vector, V_END, "vector");
				if (!expect_eq(hits, hit, "hits"))
					fail("  access %u of %u bytes at %d", (u64)i,
					     (u64)a[i].size, (int)(from - at));
				if (hit && hits) {
					expect_eq(rips[0], (u64)a[i].after, "RIP");
					expect_eq(dr6s[0], 8, "DR6");
				}
			}
	}
	write_dr7(0);
}

SNIPPET(ports, "outb %al, $0x80\n"
               "ports_at: inb $0x84, %al; nop\n" END)
extern u8 ports_at[];

static void port_breakpoint(u64 arg)
{
	struct regs r;

	map_new(STACK, KRWX);
	set_handler(V_DB, on_debug);
	write_cr4(read_cr4() | CR4_DE);
	write_dr0(0x80);
	for (unsigned i = 0; i < 20 && !case_bad(); i++) {
		write_dr7(i & 1 ? 1 | 2ull << 16 : 0);
		hits = 0;
		regs_kernel(&r, (u64)ports, STACK + 2048);
		run(&r);
		expect_eq(r.vector, V_END, "vector");
		expect_eq(hits, i & 1, "hits");
		if (i & 1)
			expect_eq(rips[0], (u64)ports_at, "RIP");
	}
	write_dr7(0);
}

/* DR7.GD: the next access to a debug register faults, with GD cleared in the handler. */
SNIPPET(general, "movq %rax, %dr7; nop\n"
                 "general_at: movq %dr0, %rax\n" END)
extern u8 general_at[];

static bool on_general(struct regs *r)
{
	dr6s[0] = read_dr6() & 0xe00f;
	rips[0] = r->rip;
	hits++;
	write_dr6(0xffff0ff0);
	return true;
}

static void general_detect(u64 arg)
{
	struct regs r;

	map_new(STACK, KRWX);
	set_handler(V_DB, on_general);
	hits = 0;
	regs_kernel(&r, (u64)general, STACK + 2048);
	r.rax = 0x2000;
	run(&r);
	expect_eq(r.vector, V_END, "vector");
	expect_eq(hits, 1, "hits");
	expect_eq(rips[0], (u64)general_at, "RIP");
	expect_eq(dr6s[0], DR6_BD, "DR6");
}

static const struct test_case cases[] = {
	{"steps, plain instructions", step, 0},
	{"steps, transfers", step, 1},
	{"steps, REP", step, 2},
	{"steps, system instructions", step, 3},
	{"steps, MOV SS, INT n, exceptions", step, 4},
	{"steps, code that changes itself", step, 5},
	{"TF by POPF", step_popf, 0},
	{"steps in a hot loop", step_hot, 0},
	{"steps and SYSCALL", step_syscall, 0},
	{"code breakpoints in a loop", code_breakpoints, 0},
	{"watchpoint, 1 byte", watch, 0},
	{"watchpoint, 2 bytes", watch, 1},
	{"watchpoint, 8 bytes", watch, 2},
	{"watchpoint, 4 bytes", watch, 3},
	{"port breakpoint", port_breakpoint, 0},
	{"general detect", general_detect, 0},
};
TOPIC(debug, 1, cases);
