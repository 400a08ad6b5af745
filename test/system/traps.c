// SPDX-License-Identifier: MIT
/* Exceptions that are not a memory operand's page: arithmetic, opcodes, privilege, alignment,
 * targets of transfers; string instructions that stop half way; accesses at the ends of the address
 * space. */
#include "rt.h"

#define CODE  0x8000010000ull
#define STACK 0x8000020000ull
#define DATA  0x8000200000ull /* two pages */
#define OTHER 0x8000600000ull /* two pages */

enum {
	R0 = 1, /* in ring 0 */
	R3 = 2,
	ANY = 3,
	TRAP = 4,             /* RIP is behind the instruction */
	TS = 8,               /* with CR0.TS */
	AM = 16,              /* with CR0.AM and RFLAGS.AC */
	FLAGS_UNDEFINED = 32, /* or by convention unused, at a call */
	NO_AVX512 = 64,       /* the host's bytes mean something with it */
};

/* name, vector, error code, where, setup, instruction. RBX is DATA + 1, RSI DATA. */
#define INSNS(X)                                                                                   \
	X(div_zero, V_DE, 0, ANY | FLAGS_UNDEFINED, "xorl %ecx, %ecx", "divl %ecx")                \
	X(div8_zero, V_DE, 0, ANY, "movl $5, %ecx", "divb %ch")                                    \
	X(div64_overflow, V_DE, 0, ANY, "movq %rax, %rdx", "divq %rax")                            \
	X(div_memory_zero, V_DE, 0, ANY | FLAGS_UNDEFINED, "movq $0, (%rsi)", "divq (%rsi)")       \
	X(idiv_overflow, V_DE, 0, ANY, "movl $0x80000000, %eax; cltd; movl $-1, %ecx",             \
	  "idivl %ecx")                                                                            \
	X(idiv64_overflow, V_DE, 0, ANY,                                                           \
	  "movabsq $0x8000000000000000, %rax; cqto; movq $-1, %r15", "idivq %r15")                 \
	X(idiv16_zero, V_DE, 0, ANY, "xorl %r14d, %r14d", "idivw %r14w")                           \
	X(ud2, V_UD, 0, ANY, "", "ud2")                                                            \
	X(ud1, V_UD, 0, ANY, "", ".byte 0x0f, 0xb9, 0xc0")                                         \
	X(push_es, V_UD, 0, ANY, "", ".byte 0x06")                                                 \
	X(daa, V_UD, 0, ANY, "", ".byte 0x27")                                                     \
	X(aas, V_UD, 0, ANY, "", ".byte 0x3f")                                                     \
	X(pusha, V_UD, 0, ANY, "", ".byte 0x60")                                                   \
	X(bound, V_UD, 0, ANY | NO_AVX512, "", ".byte 0x62, 0x03, 0x90, 0x90")                     \
	X(op82, V_UD, 0, ANY, "", ".byte 0x82, 0xc0, 0x01")                                        \
	X(far_call, V_UD, 0, ANY, "", ".byte 0x9a, 0, 0, 0, 0, 8, 0")                              \
	X(into, V_UD, 0, ANY, "", ".byte 0xce")                                                    \
	X(aam, V_UD, 0, ANY, "", ".byte 0xd4, 0x0a")                                               \
	X(salc, V_UD, 0, ANY, "", ".byte 0xd6")                                                    \
	X(far_jump, V_UD, 0, ANY, "", ".byte 0xea, 0, 0, 0, 0, 8, 0")                              \
	X(lock_mov, V_UD, 0, ANY, "", ".byte 0xf0, 0x89, 0x03")                                    \
	X(lock_register, V_UD, 0, ANY, "", ".byte 0xf0, 0x01, 0xc0")                               \
	X(lock_cmp, V_UD, 0, ANY, "", ".byte 0xf0, 0x39, 0x03")                                    \
	X(lea_register, V_UD, 0, ANY, "", ".byte 0x8d, 0xc0")                                      \
	X(mov_to_cs, V_UD, 0, ANY, "", ".byte 0x8e, 0xc8")                                         \
	X(mov_cr1, V_UD, 0, R0, "", ".byte 0x0f, 0x20, 0xc8")                                      \
	X(too_long, V_GP, 0, ANY, "", ".fill 15, 1, 0x66; nop")                                    \
	X(int3, V_BP, 0, ANY | TRAP, "", "int3")                                                   \
	X(int_closed, V_GP, 0x20 * 8 + 2, R3, "", "int $0x20")                                     \
	X(icebp, V_DB, 0, ANY | TRAP, "", ".byte 0xf1")                                            \
	X(hlt, V_GP, 0, R3, "", "hlt")                                                             \
	X(cli, V_GP, 0, R3, "", "cli")                                                             \
	X(in, V_GP, 0, R3, "", "inb $0x80, %al")                                                   \
	X(outs, V_GP, 0, R3, "movl $0x80, %edx", "outsb")                                          \
	X(mov_from_cr, V_GP, 0, R3, "", "movq %cr3, %rax")                                         \
	X(mov_to_cr, V_GP, 0, R3, "", "movq %rax, %cr8")                                           \
	X(mov_dr, V_GP, 0, R3, "", "movq %dr7, %rax")                                              \
	X(rdmsr, V_GP, 0, R3, "", "rdmsr")                                                         \
	X(rdmsr_none, V_GP, 0, R0, "movl $0x12345678, %ecx", "rdmsr")                              \
	X(wrmsr_efer, V_GP, 0, R0, "movl $0xc0000080, %ecx; xorl %edx, %edx; movl $0x2, %eax",     \
	  "wrmsr")                                                                                 \
	X(wrmsr_fs, V_GP, 0, R0,                                                                   \
	  "movl $0xc0000100, %ecx; movl $0x80000000, %edx; xorl %eax, %eax", "wrmsr")              \
	X(cr0_bad, V_GP, 0, R0, "movl $0x80000000, %eax", "movq %rax, %cr0")                       \
	X(cr4_bad, V_GP, 0, R0, "movq %cr4, %rax; orl $0x80000000, %eax", "movq %rax, %cr4")       \
	X(cr4_no_pae, V_GP, 0, R0, "movq %cr4, %rax; andb $0xdf, %al", "movq %rax, %cr4")          \
	X(cr3_bad, V_GP, 0, R0, "movq %cr3, %rax; btsq $55, %rax; cmpq %r8, %r9",                  \
	  "movq %rax, %cr3")                                                                       \
	X(lgdt, V_GP, 0, R3, "", "lgdt (%rsi)")                                                    \
	X(ltr, V_GP, 0, R3, "", "ltr %ax")                                                         \
	X(invlpg, V_GP, 0, R3, "", "invlpg (%rsi)")                                                \
	X(wbinvd, V_GP, 0, R3, "", "wbinvd")                                                       \
	X(swapgs, V_GP, 0, R3, "", "swapgs")                                                       \
	X(sysret, V_GP, 0, R3, "", "sysretq")                                                      \
	X(clts, V_GP, 0, R3, "", "clts")                                                           \
	X(load_bad_selector, V_GP, 0x130, ANY, "movl $0x130, %eax", "movl %eax, %es")              \
	X(load_null_ss, V_GP, 0, R3, "xorl %eax, %eax; cmpq %r8, %r9", "movl %eax, %ss")           \
	X(movaps_load, V_GP, 0, ANY, "", "movaps (%rbx), %xmm0")                                   \
	X(movaps_store, V_GP, 0, ANY, "", "movaps %xmm0, (%rbx)")                                  \
	X(paddd, V_GP, 0, ANY, "", "paddd (%rbx), %xmm0")                                          \
	X(movdqa_rsp, V_GP, 0, ANY, "leaq 1(%rsp), %rsp", "movdqa (%rsp), %xmm0")                  \
	X(cmpxchg16b, V_GP, 0, ANY, "", "cmpxchg16b 7(%rbx)")                                      \
	X(fxsave, V_GP, 0, ANY, "", "fxsave 7(%rbx)")                                              \
	X(ldmxcsr, V_GP, 0, ANY, "movl $-1, (%rsi)", "ldmxcsr (%rsi)")                             \
	X(sse_nm, V_NM, 0, ANY | TS, "", "movups %xmm0, (%rsi)")                                   \
	X(x87_nm, V_NM, 0, ANY | TS, "", "fld1")                                                   \
	X(simd_fp, 19, 0, ANY,                                                                     \
	  "movl $0x1d80, (%rsi); ldmxcsr (%rsi); movl $1, %eax; cvtsi2sd %eax, %xmm0\n"            \
	  "pxor %xmm1, %xmm1; movl $0x1d00, (%rsi); ldmxcsr (%rsi)",                               \
	  "divsd %xmm1, %xmm0")                                                                    \
	X(x87_fp, 16, 0, ANY, "movw $0x37b, (%rsi); fldcw (%rsi); fld1; fldz; fdivrp", "fwait")    \
	X(alignment, V_AC, 0, R3 | AM, "", "movl (%rbx), %eax")                                    \
	X(alignment_push, V_AC, 0, R3 | AM, "leaq 2(%rsp), %rsp", "pushq %rax")                    \
	X(alignment_lock, V_AC, 0, R3 | AM, "", "lock addl %eax, 1(%rbx)")                         \
	X(jmp_hole, V_GP, 0, ANY, "movabsq $0x800000000000, %r15", "jmpq *%r15")                   \
	X(call_hole, V_GP, 0, ANY | FLAGS_UNDEFINED, "movabsq $0xffff7fffffffffff, %r15",          \
	  "callq *%r15")                                                                           \
	X(call_mem_hole, V_GP, 0, ANY | FLAGS_UNDEFINED,                                           \
	  "movabsq $0x8000800000000000, %r15; movq %r15, (%rsi)", "callq *(%rsi)")                 \
	X(ret_hole, V_GP, 0, ANY | FLAGS_UNDEFINED,                                                \
	  "movabsq $0x1234800000000000, %r15; pushq %r15", "ret")                                  \
	X(lret_null, V_GP, 0, ANY, "pushq $0; pushq $0", "lretq")                                  \
	X(iret_bad_cs, V_GP, 0x130, ANY,                                                           \
	  "pushq $0x2b; pushq %rsp; pushq $2; pushq $0x133; pushq %rax", "iretq")                  \
	X(in_hole_load, V_GP, 0, ANY, "movabsq $0x00007ffffffffffc, %r14", "movq 0x7(%r14), %rax") \
	X(after_fnop, V_UD, 0, ANY, "fnop; cld; nopl (%rax)", "ud2")

#define PROLOGUE                                                                                   \
	"leaq 0x111(%r13), %r13; addq %r14, %r15; xorq %r12, %r11; notq %rbp; incl %r8d\n"         \
	"subq $3, %r14; addl %r9d, %r10d; rolq $7, %rdi; cmpq %r8, %r9\n"

#define X(n, vec, err, flags, setup, insn)                                                         \
	SNIPPET(tr_##n, PROLOGUE setup "\ntr_" #n "_at: " insn "\ntr_" #n "_last:" END)            \
	extern u8 tr_##n##_at[], tr_##n##_last[];
INSNS(X)
#undef X
static const struct {
	const u8 *code, *at, *last, *end;
	u16 vector, err;
	u8 flags;
} insns[] = {
#define X(n, vec, err, flags, setup, insn)                                                         \
	{tr_##n, tr_##n##_at, tr_##n##_last, tr_##n##_end, vec, err, flags},
	INSNS(X)
#undef X
};

static void set_regs(struct regs *r, u64 which, bool user)
{
	if (user)
		regs_user(r, CODE, STACK + 2048);
	else
		regs_kernel(r, CODE, STACK + 2048);
	r->rbx = DATA + 1;
	r->rsi = DATA;
	if (insns[which].flags & AM)
		r->rflags |= F_AC;
	write_cr0(read_cr0() & ~CR0_TS);
	asm volatile("fninit");
	if (insns[which].flags & TS)
		write_cr0(read_cr0() | CR0_TS);
}

static void in_ring(u64 which, bool user)
{
	u64 at = CODE + (u64)(insns[which].at - insns[which].code);
	struct regs r, before;

	for (unsigned i = 0; i < 3 && !case_bad(); i++) {
		code_copy(CODE, insns[which].code, insns[which].end);
		memcpy((void *)at, "\xcd\x50", 2);
		serialize();
		set_regs(&before, which, user);
		run(&before);
		expect_trap(&before, V_END, 0, at + 2);
		code_copy(CODE, insns[which].code, insns[which].end);
		serialize();
		set_regs(&r, which, user);
		run(&r);
		if (!expect_trap(&r, insns[which].vector, insns[which].err,
		                 insns[which].flags & TRAP
		                         ? CODE + (u64)(insns[which].last - insns[which].code)
		                         : at))
			fail("  in ring %d", user ? 3 : 0);
		if (insns[which].flags & FLAGS_UNDEFINED)
			r.rflags = before.rflags;
		expect_regs(&r, &before, "at the exception");
	}
}

static void exception(u64 which)
{
	if ((insns[which].flags & NO_AVX512) && cpu_has(7, 1, 16))
		skip("CPUID offers AVX-512, whose prefix this is");
	vector_on();
	if (insns[which].flags & AM)
		write_cr0(read_cr0() | 1 << 18);
	map_new(CODE, URWX);
	map_new(STACK, URWX);
	map_new(DATA, URWX);
	if (insns[which].flags & R0)
		in_ring(which, false);
	if (insns[which].flags & R3)
		in_ring(which, true);
	write_cr0(read_cr0() & ~CR0_TS);
	asm volatile("fninit");
}

/* ---- string instructions stop where the page ends ---- */

SNIPPET(s_movsb, "rep movsb\n" END)
SNIPPET(s_movsq, "rep movsq\n" END)
SNIPPET(s_stosb, "rep stosb\n" END)
SNIPPET(s_stosl, "rep stosl\n" END)
SNIPPET(s_lodsw, "rep lodsw\n" END)
SNIPPET(s_scasb, "repne scasb\n" END)
SNIPPET(s_cmpsl, "repe cmpsl\n" END)

static const struct {
	const u8 *code, *end;
	u8 size;
	bool write, reads_other; /* RDI is written to; both RSI and RDI are used */
	bool uses_rdi;
} strings[] = {
	{s_movsb, s_movsb_end, 1, true, true, true},
	{s_movsq, s_movsq_end, 8, true, true, true},
	{s_stosb, s_stosb_end, 1, true, false, true},
	{s_stosl, s_stosl_end, 4, true, false, true},
	{s_lodsw, s_lodsw_end, 2, false, false, false},
	{s_scasb, s_scasb_end, 1, false, false, true},
	{s_cmpsl, s_cmpsl_end, 4, false, true, true},
};

/* `page` (DATA's second one, or the one before) is absent; the string runs into it. */
static void string_one(u64 which, bool user, bool down, bool by_source)
{
	u64 size = strings[which].size, count = 300, left = 100;
	u64 start = down ? DATA + PAGE + left * size - size : DATA + PAGE - left * size;
	u64 wrong = down ? DATA : DATA + PAGE, pa = *pte_of(0, wrong, 0);
	u64 step = down ? -size : size;
	u64 bad = down ? DATA + PAGE - size : DATA + PAGE;
	struct regs r;

	memset((void *)DATA, 0x33, 2 * PAGE);
	memset((void *)OTHER, 0x33, 2 * PAGE);
	if (user)
		regs_user(&r, CODE, STACK + 2048);
	else
		regs_kernel(&r, CODE, STACK + 2048);
	r.rax = 0x4444444444444444;
	r.rcx = count;
	r.rflags |= down ? F_DF : 0;
	r.rdi = by_source ? OTHER + PAGE : start;
	r.rsi = by_source || !strings[which].uses_rdi ? start : OTHER + PAGE;
	*pte_of(0, wrong, 0) = 0;
	barrier();
	invlpg(wrong);
	run(&r);
	*pte_of(0, wrong, 0) = pa;
	barrier();
	expect_trap(&r, V_PF, (strings[which].write && !by_source ? PF_W : 0) | (user ? PF_U : 0),
	            CODE);
	expect_eq(this_cpu()->cr2, bad, "CR2");
	expect_eq(r.rcx, count - left, "RCX");
	if (strings[which].uses_rdi)
		expect_eq(r.rdi, (by_source ? OTHER + PAGE : start) + left * step, "RDI");
	if (!strings[which].uses_rdi || strings[which].reads_other)
		expect_eq(r.rsi,
		          (by_source || !strings[which].uses_rdi ? start : OTHER + PAGE) +
		                  left * step,
		          "RSI");
	expect_eq(r.rflags & F_DF, down ? F_DF : 0, "DF");
	run(&r);
	expect_trap(&r, V_END, 0, CODE + (u64)(strings[which].end - strings[which].code));
	expect_eq(r.rcx, 0, "RCX at the end");
}

static void string(u64 which)
{
	map_new(CODE, URWX);
	map_new(STACK, URWX);
	map_range(DATA, 2, URWX);
	map_range(OTHER, 2, URWX);
	code_copy(CODE, strings[which].code, strings[which].end);
	for (unsigned i = 0; i < 8 && !case_bad(); i++)
		if (!(i & 4) || strings[which].reads_other)
			string_one(which, i & 1, i & 2, i & 4);
}

/* ---- the ends of the address space ---- */

SNIPPET(load8, "movq (%rbx), %rax\n" END)
SNIPPET(store8, "movq %rdx, (%rbx)\n" END)
SNIPPET(load16, "movups (%rbx), %xmm0; movups %xmm0, (%rdi); movq (%rdi), %rax\n" END)
SNIPPET(lock8, "lock xaddq %rdx, (%rbx)\n" END)
SNIPPET(push8, "movq %rbx, %rsp; pushq %rdx\n" END)

enum { BELOW_HOLE, ABOVE_HOLE };

static void at_hole(u64 kind)
{
	static const struct {
		const u8 *code;
		u8 size, at;
		bool stack;
	} a[] = {{load8, 8, 0, 0},
	         {store8, 8, 0, 0},
	         {load16, 16, 0, 0},
	         {lock8, 8, 0, 0},
	         {push8, 8, 3, 1}};
	u64 page = kind == BELOW_HOLE ? 0x00007ffffffff000 : 0xffff800000000000;
	struct regs r;

	vector_on();
	map_new(page, KRWX);
	map_new(STACK, KRWX);
	for (unsigned i = 0; i < ARRAY_SIZE(a); i++) {
		for (unsigned off = 0; off <= a[i].size; off++) {
			u64 addr = kind == BELOW_HOLE ? page + PAGE - off : page - off;
			bool ok = kind == BELOW_HOLE ? off == a[i].size : off == 0;

			regs_kernel(&r, (u64)a[i].code, STACK + 2048);
			r.rbx = addr + (a[i].stack ? 8 : 0);
			r.rdi = STACK;
			run(&r);
			if (ok)
				expect_eq(r.vector, V_END, "vector");
			else if (!expect_trap(&r, a[i].stack ? V_SS : V_GP, 0,
			                      (u64)a[i].code + a[i].at))
				fail("  access %u of %u bytes at 0x%x", (u64)i, (u64)a[i].size,
				     addr);
		}
	}
}

/* Linear addresses are 64 bits: what runs over the top goes on at 0. */
static void wrap(u64 arg)
{
	u64 top = ~0ull - PAGE + 1, pa = map_new(top, KRWX);
	struct regs r;

	*(u64 *)phys(pa + PAGE - 8) = 0x8877665544332211;
	for (unsigned i = 0; i < 20 && !case_bad(); i++) {
		regs_kernel(&r, (u64)load8, STACK);
		r.rbx = -8ull;
		run(&r);
		expect_eq(r.vector, V_END, "vector");
		expect_eq(r.rax, 0x8877665544332211, "data");
	}
	/* Base and displacement overflow: the sum counts. */
	asm volatile("movq %1, %%rdx; movq 0x10(%%rdx), %0" : "=a"(r.rax) : "i"(-0x18) : "rdx");
	expect_eq(r.rax, 0x8877665544332211, "data, base and displacement");
	asm volatile("movq 0x70000000(%1,%2,8), %0"
	             : "=a"(r.rax)
	             : "r"(-0x70000000ull - 8 - 8 * 0x2000000000000001ull),
	               "r"(0x2000000000000001ull));
	expect_eq(r.rax, 0x8877665544332211, "data, base, index and displacement");
}

/* ---- LOCK across pages ---- */

/* Not across cache lines: hosts that detect split locks make each one wait, for up to a second. */
static void split_lock(u64 arg)
{
	u64 p = DATA + PAGE - 3, old = 0x1111111111111111;
	u64 got = 0x2222222222222221, cmp = 0x3333333333333332;

	map_new(DATA + PAGE, KRWX); /* so that the two are no neighbours */
	map_new(DATA, KRWX);
	*(u64 *)p = old;
	asm volatile("lock xaddq %0, (%1)" : "+r"(got) : "r"(p) : "memory", "cc");
	expect_eq(got, old, "old value");
	expect_eq(*(u64 *)p, 0x3333333333333332, "sum");
	asm volatile("lock cmpxchgq %2, (%1)" : "+a"(cmp) : "r"(p), "r"(7ull) : "memory", "cc");
	expect_eq(*(u64 *)p, 7, "value exchanged");
	asm volatile("xchgl %k0, (%1)" : "+r"(got) : "r"(p) : "memory");
	expect_eq((u32)got, 7, "32 bits exchanged");
}

#define X(n, vec, err, flags, setup, insn) {"exception by " #n, exception, __COUNTER__ - FIRST},
enum { FIRST = __COUNTER__ + 1 };
static const struct test_case cases[] = {
	INSNS(X){"rep movsb into a page fault", string, 0},
	{"rep movsq into a page fault", string, 1},
	{"rep stosb into a page fault", string, 2},
	{"rep stosl into a page fault", string, 3},
	{"rep lodsw into a page fault", string, 4},
	{"repne scasb into a page fault", string, 5},
	{"repe cmpsl into a page fault", string, 6},
	{"accesses at the lower edge of the hole", at_hole, BELOW_HOLE},
	{"accesses at the upper edge of the hole", at_hole, ABOVE_HOLE},
	{"addresses that wrap", wrap, 0},
	{"LOCK across pages", split_lock, 0},
};
TOPIC(traps, 1, cases);
