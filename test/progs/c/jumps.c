/* SPDX-License-Identifier: MIT */
/* Unusual control flow: computed goto, longjmp, contexts, signal handlers that repair or leave
 * a fault, with the fault's code and address as the manual has them, deep recursion. */
#define _GNU_SOURCE
#include "check.h"
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <ucontext.h>
#include <unistd.h>

/* A machine of threaded code: counts primes below n by trial division. */
static long interpret(const int *code, long n)
{
	static const void *const op[] = {&&set, &&inc, &&rem, &&jz, &&jlt, &&jmp, &&sq, &&end};
	long v[4] = {0, 0, 0, n}, t = 0;
	int pc = 0;
#define NEXT goto *op[code[pc]]
	NEXT;
set:
	v[code[pc + 1]] = code[pc + 2];
	pc += 3;
	NEXT;
inc:
	v[code[pc + 1]]++;
	pc += 2;
	NEXT;
rem:
	t = v[code[pc + 1]] % v[code[pc + 2]];
	pc += 3;
	NEXT;
jz:
	pc = t == 0 ? code[pc + 1] : pc + 2;
	NEXT;
jlt:
	pc = v[code[pc + 1]] < v[code[pc + 2]] ? code[pc + 3] : pc + 4;
	NEXT;
jmp:
	pc = code[pc + 1];
	NEXT;
sq:
	pc = v[code[pc + 1]] * v[code[pc + 1]] > v[code[pc + 2]] ? code[pc + 3] : pc + 4;
	NEXT;
end:
	return v[2];
}

static void threaded_code(void)
{
	enum { SET, INC, REM, JZ, JLT, JMP, SQ, END };
	static const int code[] = {
		/* 0 */ SET,  0,  2,     /* candidate */
		/* 3 */ SET,  1,  2,     /* divisor */
		/* 6 */ SQ,   1,  0, 19, /* divisor squared is larger: prime */
		/* 10 */ REM, 0,  1,
		/* 13 */ JZ,  21,
		/* 15 */ INC, 1,
		/* 17 */ JMP, 6,
		/* 19 */ INC, 2,
		/* 21 */ INC, 0,
		/* 23 */ JLT, 0,  3, 3,
		/* 27 */ END,
	};
	CHECK(interpret(code, 10000) == 1229, "%ld primes", interpret(code, 10000));
}

static jmp_buf env;

static int down(int n)
{
	if (!n) {
		longjmp(env, 42);
	}
	return down(n - 1) + 1;
}

static void long_jumps(void)
{
	volatile int count = 0;
	for (int i = 0; i < 300; i++) {
		int got = setjmp(env);
		if (!got) {
			down(i);
			CHECK(0, "longjmp returned");
		}
		count += got;
	}
	CHECK(count == 300 * 42, "%d", count);
	count = 0;
	if (setjmp(env) != 7) {
		count++;
		longjmp(env, count < 100 ? 1 : 7);
	}
	CHECK(count == 100, "%d", count);
}

static int deep(int n)
{
	volatile int local = n;
	return n ? deep(n - 1) + (local == n) : 0;
}

static ucontext_t contexts[3];
static int order[30], steps;

static void step(int id)
{
	for (int i = 0; i < 10; i++) {
		order[steps++] = id;
		swapcontext(&contexts[id], &contexts[3 - id]);
	}
}

static void coroutines(void)
{
	static char stacks[2][65536];
	for (int i = 1; i <= 2; i++) {
		getcontext(&contexts[i]);
		contexts[i].uc_stack.ss_sp = stacks[i - 1];
		contexts[i].uc_stack.ss_size = sizeof(stacks[0]);
		contexts[i].uc_link = &contexts[0];
		makecontext(&contexts[i], (void (*)(void))step, 1, i);
	}
	swapcontext(&contexts[0], &contexts[1]);
	int good = steps == 20;
	for (int i = 0; i < 20; i++) {
		good &= order[i] == 1 + i % 2;
	}
	CHECK(good, "%d steps", steps);
}

/* ---- faults ---- */

static sigjmp_buf back;
static volatile int seen_signal, seen_code;
static void *volatile seen_address;
static volatile unsigned long seen_rip, seen_trap, seen_error;

static void on_fault(int sig, siginfo_t *info, void *context)
{
	ucontext_t *uc = context;
	seen_signal = sig;
	seen_code = info->si_code;
	seen_address = info->si_addr;
	seen_rip = uc->uc_mcontext.gregs[REG_RIP];
	seen_trap = uc->uc_mcontext.gregs[REG_TRAPNO];
	seen_error = uc->uc_mcontext.gregs[REG_ERR];
	siglongjmp(back, 1);
}

/* The statement raises a signal at the label that it has. */
#define FAULTS(sig, code, addr, trap, what, statement)                                             \
	do {                                                                                       \
		seen_signal = 0;                                                                   \
		if (!sigsetjmp(back, 1)) {                                                         \
			statement;                                                                 \
		}                                                                                  \
		CHECK(seen_signal == (sig) && seen_code == (code) && seen_trap == (trap),          \
		      what ": signal %d code %d trap %lu", seen_signal, seen_code, seen_trap);     \
		if ((long)(addr) != -1) {                                                          \
			CHECK(seen_address == (void *)(addr), what ": at %p", seen_address);       \
		}                                                                                  \
	} while (0)

static void faults(void)
{
	struct sigaction sa = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};
	int all[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP};
	for (unsigned i = 0; i < sizeof(all) / sizeof(*all); i++) {
		sigaction(all[i], &sa, NULL);
	}
	char *page = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	memset(page, 0xc3, 8192);
	mprotect(page + 4096, 4096, PROT_READ);
	volatile int zero = 0, lowest = -2147483647 - 1, minus = -1;
	FAULTS(SIGSEGV, SEGV_MAPERR, 0x10, 14, "read of nothing", *(volatile int *)0x10);
	CHECK(seen_error == 4, "error code %lx", seen_error);
	FAULTS(SIGSEGV, SEGV_ACCERR, page + 4098, 14, "write to read-only", page[4098] = 1);
	CHECK(seen_error == 7, "error code %lx", seen_error);
	FAULTS(SIGSEGV, SEGV_ACCERR, page + 4096, 14, "write over the edge",
	       *(volatile uint64_t *)(page + 4092) = 1);
	CHECK(page[4092] == (char)0xc3, "half of a write was done");
	FAULTS(SIGSEGV, SEGV_ACCERR, page + 5, 14, "execution of data",
	       ((void (*)(void))(page + 5))());
	CHECK(seen_rip == (unsigned long)page + 5 && seen_error == 0x15, "at %lx, error %lx",
	      seen_rip, seen_error);
	FAULTS(SIGSEGV, SEGV_MAPERR, 0xffffffffff000000, 14, "read of the kernel's",
	       *(volatile char *)0xffffffffff000000);
	FAULTS(SIGSEGV, SI_KERNEL, 0, 13, "non-canonical address",
	       *(volatile char *)0x123456789abcdef0);
	FAULTS(SIGSEGV, SI_KERNEL, 0, 13, "HLT", asm volatile("hlt"));
	FAULTS(SIGSEGV, SI_KERNEL, 0, 13, "CLI", asm volatile("cli"));
	FAULTS(SIGSEGV, SI_KERNEL, 0, 13, "MOV CR3", asm volatile("mov %%cr3, %%rax" ::: "rax"));
	FAULTS(SIGSEGV, SI_KERNEL, 0, 13, "WRMSR",
	       asm volatile("wrmsr" ::"c"(0x10), "a"(0), "d"(0)));
	FAULTS(SIGSEGV, SI_KERNEL, 0, 13, "IN", asm volatile("inb $0x70, %%al" ::: "rax"));
	FAULTS(SIGSEGV, SI_KERNEL, 0, 13, "INT 0x33", asm volatile("int $0x33"));
	FAULTS(SIGSEGV, SI_KERNEL, 0, 13, "unaligned MOVAPS",
	       asm volatile("movaps %0, %%xmm0" ::"m"(page[1])
	                    : "xmm0"));
	FAULTS(SIGFPE, FPE_INTDIV, -1, 0, "division by zero", minus = minus / zero);
	FAULTS(SIGFPE, FPE_INTDIV, -1, 0, "division overflow",
	       asm volatile("cltd; idivl %1" ::"a"(lowest), "m"(minus)
	                    : "edx"));
	FAULTS(SIGILL, ILL_ILLOPN, -1, 6, "UD2", asm volatile("ud2"));
	FAULTS(SIGILL, ILL_ILLOPN, -1, 6, "invalid opcode", asm volatile(".byte 0x06"));
	FAULTS(SIGILL, ILL_ILLOPN, -1, 6, "LOCK on a register",
	       asm volatile(".byte 0xf0, 0x01, 0xc8"));
	FAULTS(SIGTRAP, SI_KERNEL, 0, 3, "INT3", asm volatile("int3"));
	volatile double dzero = 0, one = 1;
	unsigned csr = 0x1f80 & ~0x200, usual = 0x1f80;
	FAULTS(SIGFPE, FPE_FLTDIV, -1, 19, "SSE division by zero",
	       asm volatile("ldmxcsr %0" ::"m"(csr));
	       one = one / dzero);
	asm volatile("ldmxcsr %0" ::"m"(usual));
	unsigned short cw = 0x37f & ~4;
	FAULTS(SIGFPE, FPE_FLTDIV, -1, 16, "x87 division by zero",
	       asm volatile("fninit; fldcw %0; fld1; fldz; fdivrp; fwait" ::"m"(cw)));
	asm volatile("fninit");
	/* A breakpoint of one's own: the trap flag. */
	FAULTS(SIGTRAP, TRAP_TRACE, -1, 1, "trap flag",
	       asm volatile("pushfq; orq $0x100, (%%rsp); popfq; nop; nop; nop" ::
	                            : "memory"));
	munmap(page, 8192);
}

static char *lazy;
static volatile int repaired;

static void on_missing(int sig, siginfo_t *info, void *context)
{
	(void)sig, (void)context;
	char *p = (char *)((unsigned long)info->si_addr & -4096l);
	if (mprotect(p, 4096, PROT_READ | PROT_WRITE)) {
		_exit(9);
	}
	memset(p, ++repaired, 4096);
}

/* The handler maps the page; the instruction runs again, with all registers as they were. */
static void repairs(void)
{
	struct sigaction sa = {.sa_sigaction = on_missing, .sa_flags = SA_SIGINFO | SA_ONSTACK},
			 old;
	static char stack[65536];
	stack_t alt = {.ss_sp = stack, .ss_size = sizeof(stack)};
	sigaltstack(&alt, NULL);
	sigaction(SIGSEGV, &sa, &old);
	lazy = mmap(NULL, 64 * 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	long sum = 0;
	for (int i = 0; i < 64; i++) {
		sum += lazy[i * 4096 + 17] * (i + 1);
	}
	CHECK(repaired == 64 && sum == 64 * 65 * 129 / 6, "%d pages, sum %ld", repaired, sum);
	/* REP MOVS over pages that are not there yet. */
	munmap(lazy, 64 * 4096);
	repaired = 0;
	lazy = mmap(NULL, 8 * 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	static char from[6 * 4096];
	for (unsigned i = 0; i < sizeof(from); i++) {
		from[i] = i * 31;
	}
	void *di = lazy + 100, *si = from;
	unsigned long n = sizeof(from);
	asm volatile("rep movsb" : "+D"(di), "+S"(si), "+c"(n)::"memory");
	CHECK(!n && di == lazy + 100 + sizeof(from) && !memcmp(lazy + 100, from, sizeof(from)) &&
	              repaired == 7,
	      "rep movsb with %d faults", repaired);
	sigaction(SIGSEGV, &old, NULL);
}

static volatile int ticks;

static void on_tick(int sig)
{
	(void)sig;
	ticks++;
}

static void timers(void)
{
	struct itimerval it = {{0, 2000}, {0, 2000}}, off = {{0, 0}, {0, 0}};
	uint64_t seed = 1, want = 0;
	signal(SIGALRM, on_tick);
	for (int i = 0; i < 100000; i++) {
		want += check_random(&seed);
	}
	setitimer(ITIMER_REAL, &it, NULL);
	int rounds = 0, wrong = 0;
	for (; ticks < 100 && rounds < 1000000; rounds++) {
		uint64_t got = 0;
		seed = 1;
		for (int i = 0; i < 100000; i++) {
			got += check_random(&seed);
		}
		wrong += got != want;
	}
	setitimer(ITIMER_REAL, &off, NULL);
	CHECK(!wrong && ticks >= 100, "%d rounds of %d wrong, %d ticks", wrong, rounds, ticks);
}

int main(void)
{
	threaded_code();
	long_jumps();
	CHECK(deep(50000) == 50000, "recursion");
	coroutines();
	faults();
	repairs();
	timers();
	return check_end();
}
