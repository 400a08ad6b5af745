// SPDX-License-Identifier: MIT
/* Loops over memory, whose checks a translator may move in front of them: pages that lie elsewhere
 * than their neighbours, faults in the middle, pages remapped and code changed while a loop runs,
 * interrupts that must come. */
#include "rt.h"

#define CODE  (VA + 0x10000)
#define A     (VA + 0x200000)
#define B     (VA + 0x400000)
#define C     (VA + 0x600000)
#define PAGES 6ull
#define STACK (VA + 0x20000)
#define USER  0x100 /* with a loop's number: in ring 3 */

/* RDI, RSI, RDX: A, B, C plus offsets of theirs; RCX: rounds; R8: A - 2^62 + 64. Each leaves what
 * it computed in RAX. */
#define LOOPS(X)                                                                                   \
	X(base, "1: addq (%rdi), %rax; addq $8, %rdi; decq %rcx; jnz 1b")                          \
	X(base_disp, "1: addq $24, %rdi; addq -24(%rdi), %rax; xorq -16(%rdi), %rax\n"             \
	             "decq %rcx; jnz 1b")                                                          \
	X(index, "xorl %ebx, %ebx; 1: addq (%rdi,%rbx,8), %rax; incq %rbx; decq %rcx; jnz 1b")     \
	X(index_below, "leaq (%rdi,%rcx,8), %rdi; negq %rcx\n"                                     \
	               "1: addq (%rdi,%rcx,8), %rax; incq %rcx; jnz 1b")                           \
	X(index_great, "movabsq $0x3fffffffffffffc0, %rbx\n"                                       \
	               "1: addq (%r8,%rbx), %rax; addq $4, %rbx; decq %rcx; jnz 1b")               \
	X(index_wraps, "movabsq $0x7fffffffffffffc0, %rbx; movabsq $-0x4000000000000000, %r9\n"    \
	               "addq %r9, %r8; 1: addq (%r8,%rbx), %rax; addq $4, %rbx\n"                  \
	               "decq %rcx; jnz 1b")                                                        \
	X(two, "xorl %ebx, %ebx; 1: movq (%rdi,%rbx), %rbp; addq %rbp, %rax\n"                     \
	       "movq %rax, (%rsi,%rbx); addq $8, %rbx; decq %rcx; jnz 1b")                         \
	X(two_bases, "1: movl (%rdi), %ebp; addq $4, %rdi; addq $8, %rsi; addq %rbp, %rax\n"       \
	             "movq %rax, -8(%rsi); decq %rcx; jnz 1b")                                     \
	X(widen, "xorl %ebx, %ebx; 1: movzbl (%rdi,%rbx), %ebp; addl %ebp, %eax\n"                 \
	         "movl %eax, (%rsi,%rbx,4); addq $1, %rbx; decq %rcx; jnz 1b")                     \
	X(narrow, "1: movq (%rdi), %rbp; addq $8, %rdi; addq %rbp, %rax; movb %al, (%rsi)\n"       \
	          "incq %rsi; decq %rcx; jnz 1b")                                                  \
	X(odd_steps, "1: movq (%rdi), %rbp; addq $24, %rdi; addq %rbp, %rax; movq %rax, (%rsi)\n"  \
	             "addq $40, %rsi; decq %rcx; jnz 1b")                                          \
	X(three, "xorl %ebx, %ebx; 1: movq (%rdi,%rbx), %rbp; xorq (%rsi,%rbx), %rbp\n"            \
	         "addq %rbp, %rax; movq %rax, (%rdx,%rbx); addq $8, %rbx; decq %rcx; jnz 1b")      \
	X(high_regs, "movq %rdi, %r13; movq %rsi, %r14; movq %rdx, %r15; xorl %ebx, %ebx\n"        \
	             "1: movq (%r13,%rbx), %rbp; addq %rbp, %rax; movq (%r15), %r9\n"              \
	             "addq %r9, %rax; movq %rax, (%r14,%rbx); addq $8, %rbx; decq %rcx; jnz 1b")   \
	X(high_key, "movq %rdi, %r14; movq %rsi, %r15; 1: movq (%r14), %r13; addq %r13, %rax\n"    \
	            "movq %rax, (%r15); addq $8, %r14; addq $8, %r15; decq %rcx; jnz 1b")          \
	X(base_changes, "xorl %ebx, %ebx; 1: addq $16, %rdi; movq -16(%rdi,%rbx), %rbp\n"          \
	                "addq %rbp, %rax; subq $16, %rdi; addq $8, %rbx; decq %rcx; jnz 1b")       \
	X(both_grow, "xorl %ebx, %ebx; 1: addq (%rdi,%rbx,2), %rax; addq $4, %rdi; incq %rbx\n"    \
	             "decq %rcx; jnz 1b")                                                          \
	X(shrinks, "leaq 0x2ff8(%rdi), %rdi; 1: addq (%rdi), %rax; subq $8, %rdi\n"                \
	           "decq %rcx; jnz 1b")                                                            \
	X(unaligned, "1: addq 3(%rdi), %rax; addq $5, %rdi; decq %rcx; jnz 1b")                    \
	X(stack, "1: pushq %rax; addq (%rdi), %rax; popq %rbp; addq %rbp, %rax; addq $8, %rdi\n"   \
	         "pushq %rdi; addq (%rsp), %rax; addq $8, %rsp; decq %rcx; jnz 1b")                \
	X(exit_inside, "1: movq (%rdi), %rbp; addq $8, %rdi; testq %rcx, %rcx; je 2f\n"            \
	               "addq %rbp, %rax; movq %rax, (%rsi); addq $8, %rsi; decq %rcx; jmp 1b; 2:") \
	X(nested, "movl $3, %r9d; 3: movq %rdi, %rbp; movq %rcx, %rbx\n"                           \
	          "1: addq (%rbp), %rax; addq $8, %rbp; decq %rbx; jnz 1b\n"                       \
	          "decl %r9d; jnz 3b")                                                             \
	X(takes_turns, "1: addq (%rdi), %rax; addq %rax, 8(%rsi); xorq 8(%rdi), %rax\n"            \
	               "xchgq %rdi, %rsi; xchgq %rsi, %rdx; decq %rcx; jnz 1b")                    \
	X(takes_turns_indexed, "movl $16, %ebx; 1: addq (%rdi,%rbx), %rax\n"                       \
	                       "movq %rax, -8(%rsi,%rbx,2); xchgq %rdi, %rsi\n"                    \
	                       "xchgq %rsi, %rdx; decq %rcx; jnz 1b")                              \
	X(crosses_flags,                                                                           \
	  "1: cmpq %rcx, %rax; movq 1(%rdi), %rbp; sbbq %rbp, %rax; addq $5, %rdi\n"               \
	  "decq %rcx; jnz 1b")                                                                     \
	X(crosses_flags_high, "xorl %ebx, %ebx; 1: cmpq %rcx, %rax; movq 5(%rdi,%rbx), %r14\n"     \
	                      "adcq %r14, %rax; movl (%rdi,%rbx), %r15d; subq %r15, %rax\n"        \
	                      "addq $3, %rbx; decq %rcx; jnz 1b")                                  \
	X(crosses_stack, "movq %rsp, %r9; leaq 3(%rdi), %rsp; 1: popq %rbp; addq %rbp, %rax\n"     \
	                 "xorw (%rsp), %ax; decq %rcx; jnz 1b; movq %r9, %rsp")                    \
	X(read_modify_write, "1: addq %rax, (%rdi); addq 8(%rdi), %rax; addq $8, %rdi\n"           \
	                     "decq %rcx; jnz 1b")

#define X(n, body) SNIPPET(lo_##n, body "\n" END)
LOOPS(X)
#undef X
#define X(n, body) {lo_##n, lo_##n##_end},
static const struct {
	const u8 *start, *end;
} loops[] = {LOOPS(X)};
#undef X

static const u64 area[] = {A, B, C};
static u64 area_pa[3];

/* Three areas whose pages lie in memory in another order than they are mapped. */
static void areas_map(u64 flags)
{
	map_new(CODE, flags);
	map_new(STACK, flags);
	for (unsigned i = 0; i < 3; i++) {
		area_pa[i] = pages_alloc(PAGES, PAGE);
		for (u64 p = 0; p < PAGES; p++)
			map(0, area[i] + p * PAGE, area_pa[i] + (PAGES - 1 - p) * PAGE, flags);
	}
}

static void areas_fill(void)
{
	u64 seed = 1;

	for (unsigned i = 0; i < 3; i++)
		for (u64 k = 0; k < PAGES * PAGE; k += 8) {
			seed = seed * 6364136223846793005ull + 1442695040888963407ull;
			*(u64 *)phys(area_pa[i] + k) = seed;
		}
}

static u64 digest(void)
{
	u64 sum = 0;

	for (unsigned i = 0; i < 3; i++)
		for (u64 k = 0; k < PAGES * PAGE; k += 8)
			sum = (sum ^ *(u64 *)phys(area_pa[i] + k)) * 0x9e3779b97f4a7c15ull;
	return sum;
}

static u64 rounds_of(const u8 *loop)
{
	return loop == lo_odd_steps                           ? 400
	       : loop == lo_base_disp || loop == lo_unaligned ? 700
	                                                      : 530;
}

static bool step_on(struct regs *r)
{
	return true;
}

/* A loop's stops: faults, whose cause is then removed, and the end. */
#define STOPS 8
struct course {
	unsigned nr;
	struct regs at[STOPS];
	u64 cr2[STOPS], memory[STOPS];
};

enum hole { NONE, ABSENT, READ_ONLY, HOLES };

static void follow(struct course *c, bool user, u64 offset, u64 rounds, enum hole kind, u64 hole,
                   bool step)
{
	struct regs r;
	u64 *pte = pte_of(0, hole, 0), was = *pte & ~(P_A | P_D);

	areas_fill();
	*pte = kind == NONE ? was : kind == ABSENT ? 0 : was & ~P_W;
	barrier();
	invlpg(hole);
	(user ? regs_user : regs_kernel)(&r, CODE, STACK + 2048);
	r.rax = 0;
	r.rdi = A + offset;
	r.rsi = B + offset;
	r.rdx = C + offset;
	r.rcx = rounds;
	r.r8 = A - 0x3fffffffffffffc0ull + offset;
	if (step)
		r.rflags |= F_TF;
	for (c->nr = 0; c->nr < STOPS; c->nr++) {
		u64 vector = run(&r);

		r.rflags = 0; /* dead flags may be anything */
		c->at[c->nr] = r;
		c->cr2[c->nr] = vector == V_PF ? this_cpu()->cr2 : 0;
		c->memory[c->nr] = digest();
		if (vector != V_PF)
			break;
		*pte = was;
		barrier();
		invlpg(hole);
		r.rflags = F_1 | (step ? F_TF : 0);
	}
	*pte = was;
	invlpg(hole);
}

static void compare(const struct course *got, const struct course *want)
{
	static const char *const what[] = {"stop 0", "stop 1", "stop 2", "stop 3",
	                                   "stop 4", "stop 5", "stop 6", "stop 7"};

	expect_eq(got->nr, want->nr, "stops");
	for (unsigned i = 0; i <= want->nr && i < STOPS && !case_bad(); i++) {
		expect_regs(&got->at[i], &want->at[i], what[i]);
		expect_eq(got->at[i].rip, want->at[i].rip, "RIP");
		expect_eq(got->at[i].vector, want->at[i].vector, "vector");
		expect_eq(got->at[i].err, want->at[i].err, "error code");
		expect_eq(got->cr2[i], want->cr2[i], "CR2");
		expect_eq(got->memory[i], want->memory[i], "memory");
	}
}

/* What instruction after instruction does, done at speed: on pages that are all there, and with one
 * that is missing or may not be written. */
static void loop(u64 arg)
{
	bool user = arg & USER;
	u64 which = arg & ~(u64)USER;
	static const u64 offset[] = {0, 0xfc5};
	static struct course want, got;
	u64 rounds = rounds_of(loops[which].start);

	areas_map(user ? URWX : KRWX);
	write_cr0(read_cr0() | CR0_WP);
	code_copy(CODE, loops[which].start, loops[which].end);
	serialize();
	for (unsigned o = 0; o < ARRAY_SIZE(offset); o++)
		for (enum hole kind = NONE; kind < HOLES && !case_bad(); kind++) {
			/* What is read is missing; what is written may not be. */
			u64 hole = (kind == READ_ONLY ? B : A) + (o ? 0 : PAGE);

			set_handler(V_DB, step_on);
			follow(&want, user, offset[o], rounds, kind, hole, true);
			set_handler(V_DB, NULL);
			for (unsigned again = 0; again < 2; again++) {
				follow(&got, user, offset[o], rounds, kind, hole, false);
				compare(&got, &want);
			}
		}
}

/* ---- what happens to a loop from outside ---- */

SNIPPET(passes, "2: xorl %eax, %eax; xorl %ebx, %ebx\n"
                "1: addq (%rdi,%rbx), %rax; addq $8, %rbx; cmpq $8192, %rbx; jne 1b\n"
                "cmpq $0, (%rsi); je 2b\n" END)
SNIPPET(waits, "1: movq (%rdi), %rax; cmpq $7, %rax; jne 1b\n" END)
SNIPPET(copies, "2: xorl %ebx, %ebx\n"
                "1: movq (%rdi,%rbx), %rax; movq %rax, (%rdx,%rbx); addq $8, %rbx\n"
                "cmpq $8192, %rbx; jne 1b\n"
                "cmpq $0, (%rsi); je 2b\n" END)

static struct {
	u64 fresh[2]; /* physical pages to be mapped at A and A + PAGE */
	unsigned ticks;
} outside;

/* First the pages are exchanged, much later the loop is told to end. */
static bool tick(struct regs *r)
{
	apic_write(APIC_EOI, 0);
	if (++outside.ticks == 1)
		for (unsigned i = 0; i < 2; i++) {
			*pte_of(0, A + i * PAGE, 0) = outside.fresh[i] | KRWX;
			barrier();
			invlpg(A + i * PAGE);
		}
	if (outside.ticks == 4)
		*(volatile u64 *)B = 1;
	return true;
}

static void remapped(u64 code)
{
	const u8 *start[] = {passes, waits, copies}, *end[] = {passes_end, waits_end, copies_end};
	struct regs r;
	u64 sum = 0;

	for (unsigned round = 0; round < 5 && !case_bad(); round++) {
		areas_map(KRWX);
		areas_fill();
		code_copy(CODE, start[code], end[code]);
		*(u64 *)B = 0;
		outside.ticks = 0;
		sum = 0;
		for (u64 i = 0; i < 2; i++) {
			outside.fresh[i] = page_alloc();
			for (u64 k = 0; k < PAGE; k += 8)
				sum += *(u64 *)phys(outside.fresh[i] + k) =
					7 + (k + i * PAGE) * (k + round);
		}
		*(u64 *)phys(outside.fresh[0]) = 7;
		sum -= code == 0 ? 0 : sum;
		apic_on();
		set_handler(V_TIMER, tick);
		timer_start(2000000, TIMER_PERIODIC);
		regs_kernel(&r, CODE, STACK + 2048);
		r.rflags |= F_IF;
		r.rdi = A;
		r.rsi = B;
		r.rdx = C;
		run(&r);
		timer_stop();
		set_handler(V_TIMER, NULL);
		expect_eq(r.vector, V_END, "vector");
		if (code == 0)
			expect_eq(r.rax, sum, "sum of the pages mapped last");
		else if (code == 1)
			expect_eq(r.rax, 7, "what the page mapped last has");
		else
			expect(!memcmp((void *)A, (void *)C, 2 * PAGE));
	}
}

/* The store walks over the loop's own first instruction: MOV EDX is 0xba, and stays. */
SNIPPET(changes_itself, "1: movl $0x11111111, %edx; addl %edx, %eax; movb $0xba, (%rdi)\n"
                        "addq $1, %rdi; decl %ecx; jnz 1b\n" END)

static void own_code(u64 before)
{
	const u64 at = CODE + 0x800, rounds = before + 4;
	struct regs r;

	map_new(CODE, KRWX);
	map_new(STACK, KRWX);
	for (unsigned k = 0; k < 20 && !case_bad(); k++) {
		u32 imm = 0x11111111, sum = 0;

		code_put(at, changes_itself);
		serialize();
		regs_kernel(&r, at, STACK + 2048);
		r.rax = 0;
		r.rdi = at + 1 - before;
		r.rcx = rounds;
		for (u64 i = 0; i < rounds; i++) {
			sum += imm;
			if (i >= before)
				imm = (imm & ~(0xffu << (i - before) * 8)) |
				      0xbau << (i - before) * 8;
		}
		run(&r);
		expect_eq(r.vector, V_END, "vector");
		expect_eq(r.rax, sum, "sum of the immediates");
	}
}

static const struct test_case cases[] = {
	{"base", loop, 0},
	{"base, ring 3", loop, USER | 0},
	{"base disp", loop, 1},
	{"base disp, ring 3", loop, USER | 1},
	{"index", loop, 2},
	{"index, ring 3", loop, USER | 2},
	{"index below", loop, 3},
	{"index below, ring 3", loop, USER | 3},
	{"index great", loop, 4},
	{"index great, ring 3", loop, USER | 4},
	{"index wraps", loop, 5},
	{"index wraps, ring 3", loop, USER | 5},
	{"two", loop, 6},
	{"two, ring 3", loop, USER | 6},
	{"two bases", loop, 7},
	{"two bases, ring 3", loop, USER | 7},
	{"widen", loop, 8},
	{"widen, ring 3", loop, USER | 8},
	{"narrow", loop, 9},
	{"narrow, ring 3", loop, USER | 9},
	{"odd steps", loop, 10},
	{"odd steps, ring 3", loop, USER | 10},
	{"three", loop, 11},
	{"three, ring 3", loop, USER | 11},
	{"high regs", loop, 12},
	{"high regs, ring 3", loop, USER | 12},
	{"high key", loop, 13},
	{"high key, ring 3", loop, USER | 13},
	{"base changes", loop, 14},
	{"base changes, ring 3", loop, USER | 14},
	{"both grow", loop, 15},
	{"both grow, ring 3", loop, USER | 15},
	{"shrinks", loop, 16},
	{"shrinks, ring 3", loop, USER | 16},
	{"unaligned", loop, 17},
	{"unaligned, ring 3", loop, USER | 17},
	{"stack", loop, 18},
	{"stack, ring 3", loop, USER | 18},
	{"exit inside", loop, 19},
	{"exit inside, ring 3", loop, USER | 19},
	{"nested", loop, 20},
	{"nested, ring 3", loop, USER | 20},
	{"takes turns", loop, 21},
	{"takes turns, ring 3", loop, USER | 21},
	{"takes turns indexed", loop, 22},
	{"takes turns indexed, ring 3", loop, USER | 22},
	{"crosses flags", loop, 23},
	{"crosses flags, ring 3", loop, USER | 23},
	{"crosses flags high", loop, 24},
	{"crosses flags high, ring 3", loop, USER | 24},
	{"crosses stack", loop, 25},
	{"crosses stack, ring 3", loop, USER | 25},
	{"read modify write", loop, 26},
	{"read modify write, ring 3", loop, USER | 26},
	{"remapped while a loop adds", remapped, 0},
	{"remapped while a loop waits", remapped, 1},
	{"remapped while a loop copies", remapped, 2},
	{"a loop changes itself", own_code, 4},
	{"a loop changes itself, after long", own_code, 1500},
};
TOPIC(loops, 1, cases);
