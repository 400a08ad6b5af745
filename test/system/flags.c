// SPDX-License-Identifier: MIT
/* Arithmetic flags from where they are made to where they are used: over jumps, calls, returns,
 * pages, exceptions and interrupts, and instructions that leave them alone. */
#include "rt.h"

#define CODE  (VA + 0x10000)
#define STACK (VA + 0x30000)
#define DATA  (VA + 0x200000)

#define PATTERNS 64
/* The n-th set of the six flags. */
static u64 pattern(unsigned n)
{
	return (n & 1 ? F_CF : 0) | (n & 2 ? F_PF : 0) | (n & 4 ? F_AF : 0) | (n & 8 ? F_ZF : 0) |
	       (n & 16 ? F_SF : 0) | (n & 32 ? F_OF : 0);
}

/* ---- ways that must carry all flags ---- */

/* Each begins with the flags set and leaves them unchanged; instructions look, not only a frame.
 * RBX is DATA + 8. */
#define LOOK "lahf; seto %al; movzwl %ax, %r12d\n" END
#define WAYS(X)                                                                                    \
	X(jmp, "jmp 1f; ud2; 1: nop")                                                              \
	X(jmp_page, "jmp way_jmp_page + 0x1000; .org way_jmp_page + 0x1000; nop")                  \
	X(fall_page,                                                                               \
	  "jmp 1f; .org way_fall_page + 0xff8; 1: movl $1, %eax; leal 1(%rax), %ecx; nop")         \
	X(split_insn, "jmp 1f; .org way_split_insn + 0xffc; 1: movabsq $0x1122334455667788, %rax") \
	X(jmp_reg, "leaq 1f(%rip), %rax; jmpq *%rax; ud2; 1: nop")                                 \
	X(jmp_mem, "leaq 1f(%rip), %rax; movq %rax, (%rbx); jmpq *(%rbx); ud2; 1: nop")            \
	X(jmp_r15, "leaq 1f(%rip), %r15; jmpq *%r15; ud2; 1: nop")                                 \
	X(call_into, "call 1f; ud2; 1: popq %rax")                                                 \
	X(call_ret, "call 1f; jmp 2f; 1: ret; 2: nop")                                             \
	X(call_reg_ret, "leaq 1f(%rip), %rax; callq *%rax; jmp 2f; 1: ret; 2: nop")                \
	X(call_twice, "call 1f; jmp 3f; 1: call 2f; ret; 2: ret; 3: nop")                          \
	X(ret_imm, "pushq %rax; call 1f; jmp 2f; 1: ret $8; 2: nop")                               \
	X(push_ret, "leaq 1f(%rip), %rax; pushq %rax; ret; ud2; 1: nop")                           \
	X(lret, "leaq 1f(%rip), %rax; movl %cs, %ecx; pushq %rcx; pushq %rax; lretq; 1: nop")      \
	X(loop, "movl $20, %ecx; 1: loop 1b")                                                      \
	X(jrcxz, "movl $0, %ecx; jrcxz 1f; ud2; 1: nop")                                           \
	X(stores, "movq %rax, (%rbx); movb %al, 77(%rbx); pushq %rax; popq %rcx")                  \
	X(loads,                                                                                   \
	  "movq (%rbx), %rax; movzbl 5(%rbx), %ecx; movslq 9(%rbx), %rdx; xchgq %rax, (%rbx)")     \
	X(far_data, "movq %rbx, %r14; movl $30, %ecx\n"                                            \
	            "1: movq (%r14), %rax; movq %rax, 64(%r14); leaq 4096(%r14), %r14; loop 1b")   \
	X(lea_not,                                                                                 \
	  "leaq 5(%rax,%rcx,2), %rdx; notq %rdx; movq %rdx, %r15; notq %r15; bswapq %rax")         \
	X(bmi2, "rorxq $5, %rax, %rdx; shlxq %rcx, %rax, %r8; mulxq %rax, %rsi, %rdi; pdepq "      \
	        "%rax, %rcx, %r9")                                                                 \
	X(string, "movq %rbx, %rdi; movl $40, %ecx; rep stosb; movq %rbx, %rsi; lodsq; movl $9, "  \
	          "%ecx; rep movsb")                                                               \
	X(cmps_none, "movq %rbx, %rdi; movq %rbx, %rsi; movl $0, %ecx; repe cmpsb; repne scasb")   \
	X(shift_none,                                                                              \
	  "movl $0, %ecx; shll %cl, %eax; sarq %cl, %rdx; rorb %cl, %al; shldl %cl, %eax, %edx")   \
	X(setcc, "setc %al; sets (%rbx); cmovoq %rax, %rdx; cmovzq (%rbx), %r15")                  \
	X(jcc_all,                                                                                 \
	  "jc 1f; 1: jo 1f; 1: jz 1f; 1: js 1f; 1: jp 1f; 1: ja 1f; 1: jg 1f; 1: jl 1f; 1: nop")   \
	X(enter_leave, "enter $32, $0; movq %rax, -8(%rbp); leave")                                \
	X(int, "int $0x51; nop")                                                                   \
	X(int3, "int3; nop")                                                                       \
	X(cpuid, "movq %rbx, %r8; cpuid; movq %r8, %rbx; rdtsc; lfence; mfence; pause")            \
	X(mov_cr,                                                                                  \
	  "movq %cr0, %rax; movq %rax, %cr2; movq %cr3, %rax; movq %rax, %cr3; movl %ss, %eax")    \
	X(msr, "movl $0xc0000100, %ecx; rdmsr; wrmsr")                                             \
	X(port, "outb %al, $0x80; inb $0x80, %al")                                                 \
	X(invlpg, "invlpg (%rbx); movq (%rbx), %rax; invlpg (%rbx); movq %rax, (%rbx)")            \
	X(sse, "movups (%rbx), %xmm0; addps %xmm0, %xmm1; movups %xmm1, (%rbx); movd %xmm0, %eax") \
	X(x87, "fld1; fldpi; faddp; fstpl (%rbx); fnstsw %ax; fnstcw (%rbx)")                      \
	X(segments, "movl %ss, %eax; movl %eax, %es; pushq %fs; popq %fs; swapgs; swapgs")         \
	X(lahf_sahf, "seto %cl; lahf; movq $0, %rdx; addb $0x7f, %cl; sahf")                       \
	X(pushf_popf,                                                                              \
	  "pushfq; addq $7, %rax; popfq; pushfq; popq %rcx; xorl %eax, %eax; pushq %rcx; popfq")   \
	X(iret,                                                                                    \
	  "movl %ss, %eax; pushq %rax; leaq 8(%rsp), %rcx; pushq %rcx; pushfq; movl %cs, %eax\n"   \
	  "pushq %rax; leaq 1f(%rip), %rax; pushq %rax; xorl %eax, %eax; iretq; 1: nop")           \
	X(self_modify, "movb $0x90, 1f(%rip); 1: nop; movb $0x90, 1b(%rip); jmp 2f; 2: nop")       \
	X(sti_cli, "sti; cli; std; cld; nop")

#define X(n, body) SNIPPET(way_##n, "nop; " body "\n" LOOK)
WAYS(X)
#undef X
#define X(n, body) {way_##n, way_##n##_end},
static const struct {
	const u8 *start, *end;
} ways[] = {WAYS(X)};
#undef X

static bool skip_it(struct regs *r)
{
	return true;
}

static void carries(u64 which)
{
	struct regs r;

	vector_on();
	if ((ways[which].start == way_bmi2) && !cpu_has(7, 1, 8))
		skip("CPUID offers no BMI2");
	map_range(CODE, 2, KRWX);
	map_new(STACK, KRWX);
	map_range(DATA, 32, KRWX);
	code_copy(CODE, ways[which].start, ways[which].end);
	serialize();
	set_handler(0x51, skip_it);
	set_handler(V_BP, skip_it);
	for (unsigned n = 0; n < 2 * PATTERNS && !case_bad(); n++) {
		asm volatile("fninit");
		regs_kernel(&r, CODE, STACK + 2048);
		r.rflags |= pattern(n % PATTERNS);
		r.rbx = DATA + 8;
		run(&r);
		expect_trap(&r, V_END, 0, CODE + (u64)(ways[which].end - ways[which].start));
		expect_eq((r.r12 >> 8 & F_ARITH) | (r.r12 & 1 ? F_OF : 0), pattern(n % PATTERNS),
		          "flags");
	}
}

/* ---- flags that a function returns, or takes ---- */

SNIPPET(returns_carry, "xorl %eax, %eax\n" /* EDI: 0..255 */
                       "call 1f; jc 2f; addl $1, %eax; jmp 3f; 2: addl $16, %eax\n"
                       "3: leaq 1f(%rip), %rdx; callq *%rdx; adcl $0x100, %eax\n"
                       "leaq 4f(%rip), %rdx; movl $7, %ecx; cmpl $128, %edi; jmpq *%rdx\n"
                       "4: ja 5f; leal 0x1000(%rax), %eax; 5: setb %cl; jmp 6f\n"
                       "1: cmpb $100, %dil; movl %edi, %esi; ret\n"
                       "6: shll $16, %ecx; addl %ecx, %eax; ret")

static void function_flags(u64 arg)
{
	map_new(CODE, KRWX);
	code_put(CODE, returns_carry);
	for (u32 i = 0; i < 256 && !case_bad(); i++) {
		u32 want = (i < 100 ? 16 : 1) + 0x100 + (i < 100) + (i > 128 ? 0 : 0x1000) +
		           ((i < 128 ? 1 : 0) << 16);
		u64 got;

		asm volatile("callq *%1"
		             : "=a"(got)
		             : "r"(CODE), "D"((u64)i)
		             : "rcx", "rdx", "rsi", "cc");
		expect_eq((u32)got, want, "result");
	}
}

/* ---- all conditions ---- */

#define CONDITIONS(X)                                                                              \
	X(o) X(no) X(b) X(ae) X(e) X(ne) X(be) X(a) X(s) X(ns) X(p) X(np) X(l) X(ge) X(le) X(g)
#define X(c)                                                                                       \
	SNIPPET(cond_##c,                                                                          \
	        "set" #c " %al; movl $0, %edx; j" #c " 1f; jmp 2f; 1: movl $1, %edx; 2:\n"         \
	        "movl $0, %ecx; movl $1, %esi; cmov" #c "l %esi, %ecx\n" END)
CONDITIONS(X)
#undef X
#define X(c) cond_##c,
static const u8 *const conditions[] = {CONDITIONS(X)};
#undef X

static bool condition(unsigned c, u64 f)
{
	bool v = false, sf = f & F_SF, of = f & F_OF;

	switch (c >> 1) {
	case 0:
		v = of;
		break;
	case 1:
		v = f & F_CF;
		break;
	case 2:
		v = f & F_ZF;
		break;
	case 3:
		v = f & (F_CF | F_ZF);
		break;
	case 4:
		v = sf;
		break;
	case 5:
		v = f & F_PF;
		break;
	case 6:
		v = sf != of;
		break;
	case 7:
		v = (f & F_ZF) || sf != of;
		break;
	}
	return v != (c & 1);
}

static void all_conditions(u64 arg)
{
	struct regs r;

	map_new(STACK, KRWX);
	for (unsigned c = 0; c < 16; c++)
		for (unsigned n = 0; n < PATTERNS && !case_bad(); n++) {
			bool want = condition(c, pattern(n));

			regs_kernel(&r, (u64)conditions[c], STACK + 2048);
			r.rflags |= pattern(n);
			run(&r);
			expect(r.vector == V_END && (r.rax & 0xff) == want && r.rdx == want &&
			       r.rcx == want);
			expect_eq(r.rflags & F_ARITH, pattern(n), "flags");
		}
}

/* ---- long chains of carries ---- */

SNIPPET(chain,
        "xorl %eax, %eax; clc\n"
        "1: adcq %rdx, %rax; rclq $1, %rdx; leaq -1(%rcx), %rcx; movq %rax, (%rbx)\n"
        "sbbq %rsi, %rdi; pushfq; popq %r9; movq (%rbx), %rax; pushq %r9; popfq; adcq $0, %rdi\n"
        "lahf; pushq %rax; testl %eax, %eax; popq %rax; sahf\n"
        "movq (%rbx), %rax; jrcxz 2f; jmp 1b; 2: ret")

static u64 add(u64 a, u64 b, bool *carry)
{
	u64 s = a + b, t = s + *carry;

	*carry = s < a || t < s;
	return t;
}

static void carry_chain(u64 arg)
{
	u64 rax = 0, rdx = 0x123456789abcdef1, rdi = 77, rsi = 0xfedcba9876543210;
	u64 a, d = rdx, di = rdi, n = 2000;
	bool c = false;

	map_new(CODE, KRWX);
	map_new(DATA, KRWX);
	code_put(CODE, chain);
	asm volatile("callq *%5"
	             : "=a"(a), "+d"(d), "+D"(di), "+c"(n)
	             : "S"(rsi), "r"(CODE), "b"(DATA)
	             : "r8", "r9", "r10", "memory", "cc");
	for (unsigned i = 0; i < 2000; i++) {
		bool out = rdx >> 63, b;

		rax = add(rax, rdx, &c);
		rdx = rdx << 1 | c;
		c = out;
		b = !c; /* a - b - c is a + ~b + !c */
		rdi = add(rdi, ~rsi, &b);
		c = !b;
		rdi = add(rdi, 0, &c);
	}
	expect_eq(a, rax, "RAX");
	expect_eq(d, rdx, "RDX");
	expect_eq(di, rdi, "RDI");
}

/* ---- flags over a page fault whose handler repairs it ---- */

static unsigned repaired;
static u64 seen_flags;

static bool repair(struct regs *r)
{
	*pte_of(0, this_cpu()->cr2, 0) |= P_P;
	barrier();
	seen_flags |= r->rflags & F_ARITH;
	repaired++;
	/* The handler's own flags are anything. */
	asm volatile("cmpq %0, %0" ::"r"((u64)r) : "cc");
	return true;
}

SNIPPET(over_fault, "movq %rdx, (%rbx); movq 4096(%rbx), %rcx; leaq 1(%rcx), %rdx\n"
                    "movb %dl, 8192(%rbx)\n" END)

static void over_page_faults(u64 arg)
{
	struct regs r;

	map_new(STACK, KRWX);
	map_range(DATA, 3, KRWX);
	set_handler(V_PF, repair);
	for (unsigned n = 0; n < 2 * PATTERNS && !case_bad(); n++) {
		for (unsigned i = 0; i < 3; i++) {
			*pte_of(0, DATA + i * PAGE, 0) &= ~P_P;
			barrier();
			invlpg(DATA + i * PAGE);
		}
		regs_kernel(&r, (u64)over_fault, STACK + 2048);
		r.rflags |= pattern(n % PATTERNS);
		r.rbx = DATA + 16;
		repaired = 0;
		seen_flags = 0;
		run(&r);
		expect_eq(r.vector, V_END, "vector");
		expect_eq(repaired, 3, "page faults");
		expect_eq(seen_flags, pattern(n % PATTERNS), "flags in the handler");
		expect_eq(r.rflags & F_ARITH, pattern(n % PATTERNS), "flags");
	}
}

/* ---- flags over timer interrupts at any place ---- */

static volatile u64 ticks;
static bool on_tick(struct regs *r)
{
	ticks++;
	apic_write(APIC_EOI, 0);
	return true;
}

/* Every instruction uses flags of the one before. */
SNIPPET(interrupted,
        "sti; clc\n"
        "1: adcq %rdx, %rax; rclq $3, %rdx; sbbq %rax, %r8; setp %r9b; adcq %r9, %r10\n"
        "jc 2f; rcrq $1, %r8; 2: adcq %r8, %r11; jmp 3f; 3: rclq $1, %rax; call 4f\n"
        "sbbq $5, %rdx; lahf; leaq -1(%rcx), %rcx; sahf; jrcxz 5f; jmp 1b\n"
        "4: leaq 0(%rsp), %rsi; ret\n"
        "5: cli\n" END)

static void over_interrupts(u64 arg)
{
	struct regs r, quiet;

	map_new(STACK, KRWX);
	set_handler(V_TIMER, on_tick);
	for (unsigned i = 0; i < 2; i++) {
		regs_kernel(&r, (u64)interrupted, STACK + 2048);
		r.rcx = 600000;
		ticks = 0;
		if (i)
			timer_start(50000, TIMER_PERIODIC);
		run(&r);
		timer_stop();
		expect_eq(r.vector, V_END, "vector");
		if (!i)
			quiet = r;
	}
	expect_regs(&r, &quiet, "after interrupts");
	expect(ticks > 2);
	note(" (%u interrupts)", ticks);
}

/* DF stays over calls, faults and string instructions. */
SNIPPET(direction,
        "std; call 1f; movl $4, %ecx; rep stosb; call 1f; stosw; cld; stosq\n" END "1: ret")

static void direction_flag(u64 arg)
{
	struct regs r;

	map_new(STACK, KRWX);
	map_range(DATA, 2, KRWX);
	for (unsigned i = 0; i < 100 && !case_bad(); i++) {
		regs_kernel(&r, (u64)direction, STACK + 2048);
		r.rdi = DATA + PAGE + 1;
		set_handler(V_PF, repair);
		*pte_of(0, DATA, 0) &= ~P_P;
		barrier();
		invlpg(DATA);
		run(&r);
		expect_eq(r.vector, V_END, "vector");
		expect_eq(r.rdi, DATA + PAGE + 1 - 4 - 2 + 8, "RDI");
	}
}

#define X(n, body) {"carried by " #n, carries, __COUNTER__ - FIRST},
enum { FIRST = __COUNTER__ + 1 };
static const struct test_case cases[] = {
	WAYS(X){"flags returned by functions", function_flags, 0},
	{"all conditions, all flags", all_conditions, 0},
	{"carries in a long chain", carry_chain, 0},
	{"over page faults", over_page_faults, 0},
	{"over timer interrupts", over_interrupts, 0},
	{"direction flag", direction_flag, 0},
};
TOPIC(flags, 1, cases);
