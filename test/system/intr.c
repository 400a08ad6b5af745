// SPDX-License-Identifier: MIT
/* Interrupts: every shape of loop can be interrupted, at once and with the right state; what holds
 * them back does so for as long as it should (SDM 3A 6.8, 11.8). */
#include "rt.h"

#define CODE  (VA + 0x10000)
#define STACK (VA + 0x80000)
#define DATA  (VA + 0x200000)

#define US 1000ull

/* ---- loops ---- */

#define R3OK 1
#define REP  2
/* RBX is DATA; RCX is small unless REP. */
#define LOOPS(X)                                                                                   \
	X(jmp_self, R3OK, "1: jmp 1b")                                                             \
	X(dec_jnz, R3OK, "1: decq %r15; jnz 1b; jmp 1b")                                           \
	X(two_blocks, R3OK, "1: addq $1, %rax; jc 2f; nop; 2: jmp 1b")                             \
	X(across_pages, R3OK,                                                                      \
	  "jmp 1f; .org lp_across_pages + 0xffd; 1: incl %eax; nop; nop; nop; jmp 1b")             \
	X(jumps_across, R3OK,                                                                      \
	  "1: jmp lp_jumps_across + 0x1800; .org lp_jumps_across + 0x1800; jmp 1b")                \
	X(indirect, R3OK, "leaq 1f(%rip), %rdx; 1: jmpq *%rdx")                                    \
	X(indirect_two, R3OK,                                                                      \
	  "leaq 1f(%rip), %rdx; leaq 2f(%rip), %rsi; 1: jmpq *%rsi; 2: jmpq *%rdx")                \
	X(indirect_memory, R3OK, "leaq 1f(%rip), %rdx; movq %rdx, (%rbx); 1: jmpq *(%rbx)")        \
	X(loop_insn, R3OK, "1: movl $100, %ecx; 2: loop 2b; jmp 1b")                               \
	X(call_ret, R3OK, "1: call 2f; jmp 1b; 2: ret")                                            \
	X(call_only, R3OK, "movq %rsp, %rdx; 1: movq %rdx, %rsp; call 1b")                         \
	X(ret_only, R3OK, "leaq 1f(%rip), %rdx; 1: pushq %rdx; ret")                               \
	X(recursion, R3OK,                                                                         \
	  "1: movl $200, %ecx; call 2f; jmp 1b; 2: decl %ecx; jz 3f; call 2b; 3: ret")             \
	X(flags_live, R3OK, "stc; 1: adcq $1, %rax; rclq $1, %rdx; jc 1b; jmp 1b")                 \
	X(jrcxz, R3OK, "1: xorl %ecx, %ecx; 2: jrcxz 2b")                                          \
	X(straight, R3OK, "1: .fill 6000, 1, 0x90; jmp 1b")                                        \
	X(stores, R3OK,                                                                            \
	  "1: movq %rax, (%rbx); addq $1, 8(%rbx); lock xaddl %eax, 16(%rbx); jmp 1b")             \
	X(pause, R3OK, "1: pause; cmpb $0, (%rbx); je 1b; jmp 1b")                                 \
	X(sse, R3OK, "1: addps %xmm0, %xmm1; movups %xmm1, (%rbx); jmp 1b")                        \
	X(x87, R3OK, "1: fld1; fstp %st(0); jmp 1b")                                               \
	X(string_short, R3OK, "1: movq %rbx, %rdi; movl $64, %ecx; rep stosb; jmp 1b")             \
	X(cpuid, R3OK, "1: cpuid; jmp 1b")                                                         \
	X(rdtsc, R3OK, "1: rdtsc; jmp 1b")                                                         \
	X(soft_int, R3OK, "1: int $0x51; jmp 1b")                                                  \
	X(modify, 0, "movb $0x90, %al; 1: movb %al, 2f(%rip); 2: nop; jmp 1b")                     \
	X(port, 0, "1: outb %al, $0x80; jmp 1b")                                                   \
	X(invlpg, 0, "1: invlpg (%rbx); movq (%rbx), %rax; jmp 1b")                                \
	X(cr3, 0, "movq %cr3, %rdx; 1: movq %rdx, %cr3; jmp 1b")                                   \
	X(sti_cli, 0, "1: sti; nop; cli; jmp 1b")                                                  \
	X(cli_sti, 0, "1: cli; sti; jmp 1b")                                                       \
	X(popf, 0, "1: pushq $2; popfq; nop; pushq $0x202; popfq; jmp 1b")                         \
	X(mov_ss, 0, "movl %ss, %eax; 1: movl %eax, %ss; jmp 1b")                                  \
	X(hlt, 0, "1: hlt; jmp 1b")                                                                \
	X(rep_stos, R3OK | REP, "rep stosb")                                                       \
	X(rep_movs, R3OK | REP, "rep movsb")                                                       \
	X(rep_lods, R3OK | REP, "rep lodsb")                                                       \
	X(rep_scas, R3OK | REP, "repne scasb")                                                     \
	X(rep_cmps, R3OK | REP, "repe cmpsb")

#define X(n, flags, body) SNIPPET(lp_##n, body)
LOOPS(X)
#undef X
#define X(n, flags, body) {lp_##n, lp_##n##_end, flags},
static const struct {
	const u8 *start, *end;
	u8 flags;
} loops[] = {LOOPS(X)};
#undef X

static bool ignore(struct regs *r)
{
	return true;
}

#define REP_BYTES (512ull * PAGE * 512) /* all of it one page, again and again */

/* A GiB of addresses over one page of memory, so that a string instruction has long to go. */
static void map_endless(u64 va)
{
	u64 table = page_alloc(), pa = page_alloc();

	for (unsigned i = 0; i < 512; i++)
		((u64 *)phys(table))[i] = pa | URWX;
	for (u64 i = 0; i < 512; i++)
		*pte_of(0, va + i * LARGE, 1) = table | URWX;
	barrier();
}

static u64 interrupt_once(struct regs *r, u32 ns)
{
	u64 t = rdtsc();

	timer_start(ns, 0);
	run(r);
	t = rdtsc() - t;
	apic_write(APIC_EOI, 0);
	t = t * 1000 / tsc_per_ms() * 1000; /* ns */
	return t > ns ? t - ns : 0;
}

static void loop(u64 which)
{
	u64 size = (u64)(loops[which].end - loops[which].start), worst = 0, begun = 0;
	bool rep = loops[which].flags & REP;
	struct regs r;

	tsc_per_ms();
	vector_on();
	map_range(CODE, 2, URWX);
	map_range(STACK, 4, URWX);
	map_new(DATA, URWX);
	set_handler(0x51, ignore);
	idt_open(0x51);
	code_copy(CODE, loops[which].start, loops[which].end);
	if (rep) {
		map_endless(VA + (4ull << 30));
		map_endless(VA + (8ull << 30));
	}
	serialize();
	for (unsigned i = 0; i < 20 && !case_bad(); i++) {
		u64 late, left = REP_BYTES;

		if (i & 1 && !(loops[which].flags & R3OK))
			continue;
		if (i & 1)
			regs_user(&r, CODE, STACK + 3 * PAGE);
		else
			regs_kernel(&r, CODE, STACK + 3 * PAGE);
		r.rflags |= F_IF;
		r.rbx = DATA;
		if (rep) {
			r.rcx = left;
			r.rsi = VA + (4ull << 30);
			r.rdi = VA + (8ull << 30);
		}
		asm volatile("fninit");
		late = interrupt_once(&r, (u32)(100 * US + i * 37 * US));
		worst = late > worst ? late : worst;
		if (!expect_eq(r.vector, V_TIMER, "vector"))
			break;
		expect(r.rip >= CODE && r.rip < CODE + size);
		expect(r.rflags & F_IF);
		if (rep) {
			expect_eq(r.rip, CODE, "RIP");
			expect(r.rcx <= left && r.rcx > 0);
			begun += r.rcx < left;
			left -= r.rcx;
			if (loops[which].start != lp_rep_lods)
				expect_eq(r.rdi, VA + (8ull << 30) + left, "RDI");
		}
	}
	expect(!rep || begun > 3);
	note(" (latest %u us)", worst / 1000);
}

/* ---- how late ---- */

static void latency(u64 arg)
{
	static const u64 limit[] = {20, 50, 100, 200, 500, 1000, 10000, 50000};
	u64 count[ARRAY_SIZE(limit) + 1] = {0}, n = 1500, late = 0;
	struct regs r;

	tsc_per_ms();
	map_new(CODE, KRWX);
	map_new(STACK, KRWX);
	map_new(DATA, KRWX);
	code_put(CODE, lp_flags_live);
	serialize();
	for (u64 i = 0; i < n && !case_bad(); i++) {
		unsigned k = 0;
		u64 ns;

		regs_kernel(&r, CODE, STACK + 2048);
		r.rflags |= F_IF;
		ns = interrupt_once(&r, (u32)(20 * US + i % 100 * US));
		expect_eq(r.vector, V_TIMER, "vector");
		while (k < ARRAY_SIZE(limit) && ns > limit[k] * US)
			k++;
		count[k]++;
		late += ns > 50000 * US;
	}
	for (unsigned k = 0; k < ARRAY_SIZE(limit); k++)
		note("%s%u us: %u", k ? ", " : " (below ", limit[k], count[k]);
	note(", above: %u)", count[ARRAY_SIZE(limit)]);
	/* The host may be busy; half of them late is not the host. */
	expect(late * 2 < n);
}

/* ---- what holds interrupts back ---- */

static volatile u64 taken, taken_rip, order;
static bool on_interrupt(struct regs *r)
{
	taken++;
	taken_rip = r->rip;
	order = order << 8 | r->vector;
	apic_write(APIC_EOI, 0);
	return true;
}

/* An interrupt of this CPU for itself, pending when it returns. */
static void pend(unsigned vector)
{
	apic_write(APIC_ICR, ICR_SELF | ICR_ASSERT | vector);
	while (!(apic_read(APIC_IRR + vector / 32 * 0x10) >> vector % 32 & 1))
		asm volatile("pause");
}

SNIPPET(sti_shadow, "sti; cli; nop; nop; sti; nop\n"
                    "sti_shadow_here: cli; nop; ret")
SNIPPET(popf_opens, "pushfq; orl $0x200, (%rsp); popfq\n"
                    "popf_opens_here: cli; ret")
SNIPPET(iret_opens,
        "movl %ss, %eax; leaq 8(%rsp), %rcx; movq (%rsp), %rdx; pushq %rax; pushq %rcx; pushq "
        "$0x202\n"
        "movl %cs, %eax; pushq %rax; leaq iret_opens_here(%rip), %rax; pushq %rax; iretq\n"
        "iret_opens_here: cli; jmpq *%rdx")
SNIPPET(shadow_of_jump, "jmp 1f; 2: ud2; 1: sti; jmp shadow_of_jump_here; ud2\n"
                        "shadow_of_jump_here: cli; ret")
SNIPPET(shadow_of_call, "sti; call shadow_of_call_here; ret\n"
                        "shadow_of_call_here: cli; ret")
SNIPPET(cr8_opens, "movl $4, %eax; movq %rax, %cr8; sti; nop; nop; movl $3, %eax; movq %rax, %cr8\n"
                   "cr8_opens_here: cli; xorl %eax, %eax; movq %rax, %cr8; ret")
extern u8 sti_shadow_here[], popf_opens_here[], iret_opens_here[], shadow_of_jump_here[],
	shadow_of_call_here[], cr8_opens_here[];

static void window(u64 which)
{
	static const struct {
		const u8 *code, *here;
	} w[] = {{sti_shadow, sti_shadow_here},         {popf_opens, popf_opens_here},
	         {iret_opens, iret_opens_here},         {shadow_of_jump, shadow_of_jump_here},
	         {shadow_of_call, shadow_of_call_here}, {cr8_opens, cr8_opens_here}};

	set_handler(V_IPI, on_interrupt);
	for (unsigned i = 0; i < 200 && !case_bad(); i++) {
		taken = 0;
		pend(V_IPI);
		asm volatile("callq *%0" ::"r"(w[which].code)
		             : "rax", "rcx", "rdx", "memory", "cc");
		expect_eq(taken, 1, "interrupts taken");
		expect_eq(taken_rip, (u64)w[which].here, "RIP");
	}
}

static void priorities(u64 arg)
{
	static const u8 vectors[] = {0x43, 0x91, 0x52, 0x7e, 0x44, 0xe0};

	for (unsigned i = 0; i < ARRAY_SIZE(vectors); i++)
		set_handler(vectors[i], on_interrupt);
	for (unsigned n = 0; n < 50 && !case_bad(); n++) {
		taken = order = 0;
		for (unsigned i = 0; i < ARRAY_SIZE(vectors); i++)
			pend(vectors[i]);
		asm volatile("sti; nop; nop; cli" ::: "memory");
		expect_eq(taken, 6, "interrupts taken");
		expect_eq(order, 0xe0917e524443, "order");
	}
}

/* The timer fires while interrupts are off: later, and once. */
static void cli_window(u64 arg)
{
	set_handler(V_TIMER, on_interrupt);
	for (unsigned i = 0; i < 20 && !case_bad(); i++) {
		u64 until = rdtsc() + tsc_per_ms() / 2;

		taken = 0;
		timer_start(100000, 0);
		while (rdtsc() < until ||
		       !(apic_read(APIC_IRR + V_TIMER / 32 * 0x10) >> V_TIMER % 32 & 1))
			asm volatile("" ::: "memory");
		expect_eq(taken, 0, "interrupts while off");
		asm volatile("sti; nop; nop; cli" ::: "memory");
		expect_eq(taken, 1, "interrupts after");
	}
}

static void sti_hlt(u64 pending)
{
	set_handler(V_TIMER, on_interrupt);
	set_handler(V_IPI, on_interrupt);
	for (unsigned i = 0; i < 50 && !case_bad(); i++) {
		u64 here;

		taken = 0;
		if (pending)
			pend(V_IPI);
		else
			timer_start(50000, 0);
		asm volatile("leaq 1f(%%rip), %0; sti; hlt; 1: cli" : "=r"(here)::"memory");
		expect_eq(taken, 1, "interrupts");
		expect_eq(taken_rip, here, "RIP");
	}
}

/* ---- NMI ---- */

static volatile u64 nmis, nmi_depth, nmi_nested, nmi_again;
static bool on_nmi(struct regs *r)
{
	nmis++;
	if (nmi_depth++)
		nmi_nested++;
	if (nmi_again) {
		nmi_again--;
		ipi(0, ICR_NMI | ICR_ASSERT);
		for (unsigned i = 0; i < 1000; i++)
			asm volatile("pause" ::: "memory");
	}
	nmi_depth--;
	return true;
}

static void wait_nmis(u64 n)
{
	u64 until = rdtsc() + 5000 * tsc_per_ms();

	while (nmis < n && rdtsc() < until)
		asm volatile("pause" ::: "memory");
}

static void nmi(u64 again)
{
	set_handler(V_NMI, on_nmi);
	for (unsigned i = 0; i < 50 && !case_bad(); i++) {
		nmis = nmi_nested = nmi_depth = 0;
		nmi_again = again;
		ipi(0, ICR_NMI | ICR_ASSERT); /* with interrupts off */
		wait_nmis(1 + again);
		expect_eq(nmis, 1 + again, "NMIs");
		expect_eq(nmi_nested, 0, "NMIs within an NMI's handler");
	}
}

#define X(n, flags, body) {"loop of " #n, loop, __COUNTER__ - FIRST},
enum { FIRST = __COUNTER__ + 1 };
static const struct test_case cases[] = {
	LOOPS(X){"latency", latency, 0},
	{"shadow of STI", window, 0},
	{"POPF opens", window, 1},
	{"IRET opens", window, 2},
	{"shadow of STI over a jump", window, 3},
	{"shadow of STI over a call", window, 4},
	{"CR8 opens", window, 5},
	{"priorities", priorities, 0},
	{"timer while interrupts are off", cli_window, 0},
	{"STI, HLT, timer", sti_hlt, 0},
	{"STI, HLT, pending", sti_hlt, 1},
	{"NMI while interrupts are off", nmi, 0},
	{"NMI within an NMI's handler", nmi, 1},
};
TOPIC(intr, 1, cases);
