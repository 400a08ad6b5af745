// SPDX-License-Identifier: MIT
/* The program that the end-to-end tests run in the guest. `probe self` checks what a shell cannot:
 * vector state across context switches and signals, exceptions as signals, single-stepping,
 * compatibility mode, TLB shootdowns, locked instructions between processors, clocks. It is held
 * against the host's own kernel as well: what fails there is the test's fault.
 *
 *	probe self [NAME]	all checks, or one; "ok NAME" or "FAILED NAME: why" each
 *	probe clock		answers each line with its clocks
 *	probe debug		an endless loop with places for a debugger to stop at
 *	probe spin [N]		N processes that never rest
 *	probe rate SECONDS	interrupts of the local timer in that long, the CPU being busy
 *	probe ticks SECONDS HZ	the same of the host: signals of a timer to a busy thread
 */
#include <cpuid.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

typedef uint64_t u64;
typedef uint32_t u32;

static char why[200];
#define FAIL(...) (snprintf(why, sizeof(why), __VA_ARGS__), false)

static u64 now(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return (u64)t.tv_sec * 1000000000u + (u64)t.tv_nsec;
}

/* ---- state across context switches ---- */

/* Fill the vector, x87 and general registers with values of this process, let others run, look. */
static int keep_state(u32 seed)
{
	bool avx = __builtin_cpu_supports("avx2");
	u64 end = now(CLOCK_MONOTONIC) + 400000000u;
	u32 a[8], b[8], c[8];
	long double st;

	for (u32 round = 0; now(CLOCK_MONOTONIC) < end; round++) {
		u32 x = seed * 2654435761u + round;

		for (u32 i = 0; i < 8; i++)
			a[i] = x + i;
		memset(b, 0, sizeof(b));
		memset(c, 0, sizeof(c));
		/* Sometimes sched_yield, sometimes long enough for the timer. */
		if (avx)
			__asm__ volatile(
				"vmovdqu %[a], %%ymm2\n\tvmovdqu %[a], %%ymm13\n\t"
				"fildl %[a]\n\t"
				"test $7, %[n]\n\tjnz 1f\n\tmov %[yield], %%eax\n\tsyscall\n"
				"1:\tmov $3000, %%r8d\n2:\tdec %%r8d\n\tjnz 2b\n\t"
				"vmovdqu %%ymm2, %[b]\n\tvmovdqu %%ymm13, %[c]\n\t"
				"fstpt %[st]"
				: [b] "=m"(b), [c] "=m"(c), [st] "=m"(st)
				: [a] "m"(a), [n] "r"(round), [yield] "i"(SYS_sched_yield)
				: "rax", "rcx", "r8", "r11", "xmm2", "xmm13", "memory", "cc");
		else
			__asm__ volatile(
				"movdqu %[a], %%xmm2\n\tmovdqu %[a], %%xmm13\n\t"
				"fildl %[a]\n\t"
				"test $7, %[n]\n\tjnz 1f\n\tmov %[yield], %%eax\n\tsyscall\n"
				"1:\tmov $3000, %%r8d\n2:\tdec %%r8d\n\tjnz 2b\n\t"
				"movdqu %%xmm2, %[b]\n\tmovdqu %%xmm13, %[c]\n\t"
				"fstpt %[st]"
				: [b] "=m"(b), [c] "=m"(c), [st] "=m"(st)
				: [a] "m"(a), [n] "r"(round), [yield] "i"(SYS_sched_yield)
				: "rax", "rcx", "r8", "r11", "xmm2", "xmm13", "memory", "cc");
		if (memcmp(a, b, avx ? 32 : 16) || memcmp(a, c, avx ? 32 : 16) ||
		    st != (long double)(int)a[0])
			return 1;
	}
	return 0;
}

static bool test_switch(void)
{
	int bad = 0, status;

	for (u32 i = 0; i < 5; i++)
		if (fork() == 0)
			_exit(keep_state(i + 1));
	while (wait(&status) > 0)
		bad += status != 0;
	return bad ? FAIL("%d of 5 processes lost registers", bad) : true;
}

static volatile int alarms;

static void on_alarm(int sig)
{
	/* Spoil everything that the interrupted code has. */
	__asm__ volatile("pcmpeqd %%xmm2, %%xmm2\n\tpcmpeqd %%xmm13, %%xmm13\n\t"
	                 "fninit\n\tfldpi" ::
	                         : "xmm2", "xmm13");
	if (__builtin_cpu_supports("avx2"))
		__asm__ volatile("vpcmpeqd %%ymm2, %%ymm2, %%ymm2\n\t"
		                 "vpcmpeqd %%ymm13, %%ymm13, %%ymm13" ::
		                         : "xmm2", "xmm13");
	alarms++;
}

static bool test_signal_state(void)
{
	timer_t timer;
	struct sigevent ev = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGALRM};
	struct itimerspec every = {{0, 5000000}, {0, 5000000}};
	int bad;

	signal(SIGALRM, on_alarm);
	alarms = 0;
	if (timer_create(CLOCK_MONOTONIC, &ev, &timer) || timer_settime(timer, 0, &every, NULL))
		return FAIL("timer: %s", strerror(errno));
	bad = keep_state(99);
	timer_delete(timer);
	if (bad)
		return FAIL("registers are not as they were before the signal");
	return alarms > 10 ? true : FAIL("%d signals in 0.4 s, not about 80", alarms);
}

/* ---- exceptions ---- */

static sigjmp_buf back;
static volatile int got_sig, got_code;
static volatile u64 got_addr, got_trap, got_err;

static void on_fault(int sig, siginfo_t *si, void *context)
{
	const ucontext_t *uc = context;

	got_sig = sig;
	got_code = si->si_code;
	got_addr = (u64)si->si_addr;
	got_trap = (u64)uc->uc_mcontext.gregs[REG_TRAPNO];
	got_err = (u64)uc->uc_mcontext.gregs[REG_ERR];
	siglongjmp(back, 1);
}

static const int fault_signals[] = {SIGSEGV, SIGFPE, SIGILL, SIGTRAP, SIGBUS};

#define FAULTS(code)                                                                               \
	do {                                                                                       \
		got_sig = 0;                                                                       \
		if (!sigsetjmp(back, 1)) {                                                         \
			code;                                                                      \
		}                                                                                  \
	} while (0)

static bool expect_fault(const char *name, int sig, u64 trap)
{
	if (got_sig == sig && got_trap == trap)
		return true;
	return FAIL("%s: signal %d by exception %d, not %d by %d", name, got_sig, (int)got_trap,
	            sig, (int)trap);
}

static bool test_exceptions(void)
{
	struct sigaction sa = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};
	u64 page = (u64)mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	double nan = 0;
	u32 mxcsr = 0x1f80 & ~0x80u; /* invalid operation unmasked */

	for (size_t i = 0; i < sizeof(fault_signals) / sizeof(*fault_signals); i++)
		sigaction(fault_signals[i], &sa, NULL);
	FAULTS(__asm__ volatile("xor %%edx, %%edx\n\tdivl %%edx" ::: "rax", "rdx"));
	if (!expect_fault("division", SIGFPE, 0))
		return false;
	FAULTS(__asm__ volatile("int3"));
	if (!expect_fault("int3", SIGTRAP, 3))
		return false;
	FAULTS(__asm__ volatile("ud2"));
	if (!expect_fault("ud2", SIGILL, 6))
		return false;
	FAULTS(__asm__ volatile("hlt"));
	if (!expect_fault("hlt", SIGSEGV, 13))
		return false;
	FAULTS(__asm__ volatile("cli"));
	if (!expect_fault("cli", SIGSEGV, 13))
		return false;
	FAULTS(*(volatile u64 *)0x8000000000000000u);
	if (!expect_fault("a non-canonical address", SIGSEGV, 13))
		return false;
	FAULTS(*(volatile char *)8);
	if (!expect_fault("NULL", SIGSEGV, 14) || got_addr != 8 || got_err != 4)
		return FAIL("NULL: address %#lx, error code %#lx", (long)got_addr, (long)got_err);
	FAULTS(*(volatile char *)(page + 5) = 1);
	if (!expect_fault("a write to a page without the right", SIGSEGV, 14) ||
	    got_addr != page + 5 || !(got_err & 2))
		return FAIL("read-only: address %#lx, error code %#lx", (long)got_addr,
		            (long)got_err);
	*(volatile char *)page; /* the zero page is there now */
	FAULTS(*(volatile char *)(page + 5) = 1);
	if (!expect_fault("a write to a read-only page", SIGSEGV, 14) || got_err != 7)
		return FAIL("read-only: error code %#lx", (long)got_err);
	FAULTS(((void (*)(void))page)());
	if (!expect_fault("execution of data", SIGSEGV, 14) || got_err != 0x15)
		return FAIL("NX: error code %#lx", (long)got_err);
	FAULTS(*(volatile char *)0xffffffff81000000u);
	if (!expect_fault("kernel memory", SIGSEGV, 14))
		return false;
	FAULTS(__asm__ volatile("ldmxcsr %0\n\tdivsd %1, %1" ::"m"(mxcsr), "x"(nan)));
	if (!expect_fault("SIMD exception", SIGFPE, 19))
		return false;
	FAULTS(__asm__ volatile("fninit\n\tfldcw %0\n\tfld1\n\tfldz\n\tfdivrp\n\tfwait" ::"m"(
		(const uint16_t){0x37b})));
	if (!expect_fault("x87 exception", SIGFPE, 16))
		return false;
	__asm__ volatile("fninit");
	FAULTS(__asm__ volatile("pushfq\n\torl $0x100, (%%rsp)\n\tpopfq\n\tnop\n\tnop" ::
	                                : "memory"));
	if (!expect_fault("single step", SIGTRAP, 1))
		return false;
	/* UMIP: Linux serves SGDT itself (a #GP that the program never sees). */
	{
		struct {
			uint16_t limit;
			u64 base;
		} __attribute__((packed)) gdt = {0, 0};

		FAULTS(__asm__ volatile("sgdt %0" : "=m"(gdt)));
		if (got_sig)
			return FAIL("sgdt: signal %d", got_sig);
	}
	return true;
}

static bool test_step(void)
{
	pid_t child = fork();
	int status, steps = 0;
	bool entered = false;
	struct user_regs_struct r;

	if (child == 0) {
		ptrace(PTRACE_TRACEME, 0, 0, 0);
		raise(SIGSTOP);
		__asm__ volatile(
			"mov $0x1234567, %%r15d\n\tmov $39, %%eax\n\tsyscall\n\t"
			"mov $1000, %%ecx\n\txor %%eax, %%eax\n\tlea -512(%%rsp), %%rdi\n\t"
			"mov $64, %%ecx\n\trep stosb\n\tmov $0x7654321, %%r15d\n\tnop" ::
				: "rax", "rcx", "rdi", "r11", "r15", "memory");
		_exit(7);
	}
	waitpid(child, &status, 0);
	for (int i = 0; i < 20000; i++) {
		if (ptrace(PTRACE_SINGLESTEP, child, 0, 0) || waitpid(child, &status, 0) != child ||
		    WIFEXITED(status))
			break;
		if (!WIFSTOPPED(status) || WSTOPSIG(status) != SIGTRAP)
			return FAIL("a step ended with status %#x", (unsigned)status);
		ptrace(PTRACE_GETREGS, child, 0, &r);
		if (r.r15 == 0x1234567)
			entered = true;
		if (r.r15 == 0x7654321)
			break;
		steps += entered;
	}
	kill(child, SIGKILL);
	waitpid(child, &status, 0);
	/* mov, syscall, mov, xor, lea, mov, 64 iterations, and the last mov is not counted. */
	return steps == 1 + 1 + 1 + 1 + 1 + 1 + 1 + 64 ? true : FAIL("%d steps, not 71", steps);
}

/* A debug register watches a variable (through ptrace, as gdb does). */
static volatile u64 watched __attribute__((aligned(8)));

static bool test_watch(void)
{
	pid_t child = fork();
	int status;
	u64 dr6;

	if (child == 0) {
		ptrace(PTRACE_TRACEME, 0, 0, 0);
		raise(SIGSTOP);
		for (int i = 0; i < 1000; i++)
			__asm__ volatile("" ::: "memory");
		watched = 77;
		for (int i = 0; i < 1000; i++)
			__asm__ volatile("" ::: "memory");
		_exit(7);
	}
	waitpid(child, &status, 0);
	if (ptrace(PTRACE_POKEUSER, child, offsetof(struct user, u_debugreg[0]), &watched) ||
	    ptrace(PTRACE_POKEUSER, child, offsetof(struct user, u_debugreg[7]), 0x90101)) {
		kill(child, SIGKILL);
		waitpid(child, &status, 0);
		return FAIL("debug registers: %s", strerror(errno));
	}
	ptrace(PTRACE_CONT, child, 0, 0);
	waitpid(child, &status, 0);
	if (!WIFSTOPPED(status) || WSTOPSIG(status) != SIGTRAP) {
		kill(child, SIGKILL);
		waitpid(child, NULL, 0);
		return FAIL("no stop at the write: status %#x", (unsigned)status);
	}
	dr6 = (u64)ptrace(PTRACE_PEEKUSER, child, offsetof(struct user, u_debugreg[6]), 0);
	if (ptrace(PTRACE_PEEKDATA, child, (void *)&watched, 0) != 77 || !(dr6 & 1)) {
		kill(child, SIGKILL);
		waitpid(child, NULL, 0);
		return FAIL("stopped, but DR6 is %#lx", (long)dr6);
	}
	ptrace(PTRACE_CONT, child, 0, 0);
	waitpid(child, &status, 0);
	return WIFEXITED(status) && WEXITSTATUS(status) == 7 ? true : FAIL("it did not go on");
}

/* ---- 32-bit code ---- */

/* getpid by INT 80h, and by 32-bit code in a low page with the compatibility segment. */
static bool test_compat(void)
{
	static const unsigned char code[] = {
		0x55,                /* push %ebp */
		0xb8, 20,   0, 0, 0, /* mov $20 (getpid), %eax */
		0xcd, 0x80,          /* int $0x80 */
		0x40, 0x48,          /* inc %eax, dec %eax: REX in 64-bit mode */
		0x5d,                /* pop %ebp */
		0xcb,                /* lret */
	};
	unsigned char *low = mmap(NULL, 8192, PROT_READ | PROT_WRITE | PROT_EXEC,
	                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	u64 pid = (u64)getpid(), got, target[2], *stack;
	int status;

	if (low == MAP_FAILED)
		return FAIL("mmap: %s", strerror(errno));
	__asm__ volatile("int $0x80" : "=a"(got) : "a"(20) : "r8", "r9", "r10", "r11", "memory");
	if (got != pid)
		return FAIL("INT 80h: %ld, not %ld", (long)got, (long)pid);
	memcpy(low, code, sizeof(code));
	stack = (u64 *)(low + 8192 - 64);
	target[0] = (u64)low | 0x23ull << 32; /* m16:32: offset, USER32_CS */
	__asm__ volatile("mov %%rsp, %%r12\n\tmov %[sp], %%rsp\n\tlcall *(%[t])\n\tmov %%r12, %%rsp"
	                 : "=a"(got)
	                 : [sp] "r"(stack), [t] "r"(target)
	                 : "rcx", "rdx", "rbx", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12",
	                   "memory", "cc");
	if ((u32)got != (u32)pid)
		return FAIL("compatibility mode: %ld, not %ld", (long)got, (long)pid);
	/* A fault in 32-bit code. */
	low[7] = 0x0b;
	low[6] = 0x0f; /* ud2 for the INT 80h */
	pid = (u64)fork();
	if (pid == 0) {
		signal(SIGILL, SIG_DFL);
		__asm__ volatile(
			"mov %[sp], %%rsp\n\tlcall *(%[t])" ::[sp] "r"(stack), [t] "r"(target)
			: "rax", "memory");
		_exit(0);
	}
	waitpid((pid_t)pid, &status, 0);
	return WIFSIGNALED(status) && WTERMSIG(status) == SIGILL
	               ? true
	               : FAIL("ud2 in compatibility mode: status %#x", (unsigned)status);
}

/* ---- memory ---- */

static volatile bool stop_threads;
static volatile u64 *volatile shared;

static void *writer(void *arg)
{
	u64 n = 0;

	while (!stop_threads)
		shared[(u64)arg] = ++n;
	return NULL;
}

/* After mmap(MAP_FIXED) came back no processor may write through the old mapping. */
static bool test_shootdown(void)
{
	int fd[2] = {memfd_create("a", 0), memfd_create("b", 0)};
	volatile u64 *view[2];
	pthread_t th[2];
	bool ok = true;

	for (int i = 0; i < 2; i++) {
		if (fd[i] < 0 || ftruncate(fd[i], 4096))
			return FAIL("memfd: %s", strerror(errno));
		view[i] = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd[i], 0);
	}
	shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd[0], 0);
	stop_threads = false;
	for (u64 i = 0; i < 2; i++)
		pthread_create(&th[i], NULL, writer, (void *)i);
	for (int round = 0; round < 200 && ok; round++) {
		int to = ~round & 1;
		u64 a, b;

		if (mmap((void *)shared, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
		         fd[to], 0) != (void *)shared)
			ok = FAIL("mmap: %s", strerror(errno));
		a = view[!to][0];
		b = view[!to][1];
		for (int i = 0; i < 5000; i++)
			__asm__ volatile("" ::: "memory");
		if (view[!to][0] != a || view[!to][1] != b)
			ok = FAIL("a write through a mapping that is gone, in round %d", round);
	}
	stop_threads = true;
	for (int i = 0; i < 2; i++)
		pthread_join(th[i], NULL);
	return ok;
}

static u64 counter[4] __attribute__((aligned(64)));
#define COUNT_TO 20000

static void *count_up(void *arg)
{
	for (int i = 0; i < COUNT_TO; i++) {
		__atomic_fetch_add(&counter[0], 1, __ATOMIC_SEQ_CST);
		__asm__ volatile("lock incq %0" : "+m"(counter[1])::"cc");
		u64 old = counter[2];
		while (!__atomic_compare_exchange_n(&counter[2], &old, old + 1, false,
		                                    __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
			;
	}
	return NULL;
}

static bool test_locks(void)
{
	pthread_t th[4];

	memset(counter, 0, sizeof(counter));
	for (int i = 0; i < 4; i++)
		pthread_create(&th[i], NULL, count_up, NULL);
	for (int i = 0; i < 4; i++)
		pthread_join(th[i], NULL);
	for (int i = 0; i < 3; i++)
		if (counter[i] != 4 * COUNT_TO)
			return FAIL("counter %d is %ld", i, (long)counter[i]);
	return true;
}

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
static int turn;

static void *take_turns(void *arg)
{
	int me = (int)(intptr_t)arg;

	for (int i = 0; i < 300; i++) {
		pthread_mutex_lock(&mutex);
		while (turn % 3 != me)
			pthread_cond_wait(&cond, &mutex);
		turn++;
		pthread_cond_broadcast(&cond);
		pthread_mutex_unlock(&mutex);
	}
	return NULL;
}

static bool test_futex(void)
{
	pthread_t th[3];

	turn = 0;
	for (intptr_t i = 0; i < 3; i++)
		pthread_create(&th[i], NULL, take_turns, (void *)i);
	for (int i = 0; i < 3; i++)
		pthread_join(th[i], NULL);
	return turn == 900 ? true : FAIL("%d turns, not 900", turn);
}

static bool test_fork_cow(void)
{
	size_t size = 1 << 20;
	unsigned char *p =
		mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int status, bad = 0;

	memset(p, 1, size);
	for (int n = 2; n < 6; n++) {
		if (fork() == 0) {
			for (size_t i = 0; i < size; i += 4096) {
				if (p[i] != 1)
					_exit(1);
				p[i] = (unsigned char)n;
			}
			sched_yield();
			for (size_t i = 0; i < size; i += 4096)
				if (p[i] != n || p[i + 1] != 1)
					_exit(2);
			_exit(0);
		}
	}
	while (wait(&status) > 0)
		bad += status != 0;
	for (size_t i = 0; i < size; i++)
		bad += p[i] != 1;
	munmap(p, size);
	return bad ? FAIL("%d differences", bad) : true;
}

/* Code that is written, run, and written again, by this processor and by another one. */
static void *rewrite(void *arg)
{
	unsigned char *code = arg;

	for (u32 n = 1; n <= 2000; n++) {
		memcpy(code + 1, &n, 4);
		__atomic_store_n((u32 *)(code + 64), n, __ATOMIC_SEQ_CST);
		if (n % 64 == 0)
			sched_yield();
	}
	return NULL;
}

static bool test_code(void)
{
	unsigned char *code = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC,
	                           MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	pthread_t th;
	u32 got, last = 0;

	if (code == MAP_FAILED)
		return FAIL("mmap: %s", strerror(errno));
	code[0] = 0xb8; /* mov $n, %eax; ret */
	code[5] = 0xc3;
	for (u32 n = 0; n < 3000; n++) {
		memcpy(code + 1, &n, 4);
		got = ((u32(*)(void))code)();
		if (got != n)
			return FAIL("code that was just written gave %u, not %u", got, n);
	}
	memset(code + 1, 0, 4);
	/* What another processor wrote must show once we have serialized (SDM 3A 8.1.3). The
	 * immediate is written in one piece, so never less than the flag said before. */
	pthread_create(&th, NULL, rewrite, code);
	while (last < 2000) {
		u32 flag = __atomic_load_n((u32 *)(code + 64), __ATOMIC_SEQ_CST), a, b, c, d;

		__cpuid(0, a, b, c, d);
		got = ((u32(*)(void))code)();
		if (got < flag || got < last) {
			pthread_join(th, NULL);
			return FAIL("another processor's code: %u after %u (%u before)", got, flag,
			            last);
		}
		last = got;
	}
	pthread_join(th, NULL);
	return true;
}

/* ---- clocks ---- */

static bool test_clocks(void)
{
	u64 last = 0, raw0 = now(CLOCK_MONOTONIC_RAW), mono0 = now(CLOCK_MONOTONIC), raw, mono;
	cpu_set_t all, one;

	sched_getaffinity(0, sizeof(all), &all);
	/* Never backwards, whichever processor one is on. */
	for (int i = 0; i < 3000; i++) {
		u64 t = now(CLOCK_MONOTONIC);

		if (t < last)
			return FAIL("the clock went back by %ld ns", (long)(last - t));
		last = t;
		if (i % 100 == 0) {
			int cpu = i / 100 % CPU_COUNT(&all);

			CPU_ZERO(&one);
			CPU_SET(cpu, &one);
			sched_setaffinity(0, sizeof(one), &one);
		}
	}
	sched_setaffinity(0, sizeof(all), &all);
	/* Timers never end early, and with nothing else to do not much too late. */
	for (u64 ns = 1000; ns <= 64000000; ns *= 4) {
		struct timespec ts = {0, (long)ns};
		u64 t0 = now(CLOCK_MONOTONIC), took;

		nanosleep(&ts, NULL);
		took = now(CLOCK_MONOTONIC) - t0;
		if (took < ns)
			return FAIL("a sleep of %ld ns took %ld", (long)ns, (long)took);
	}
	raw = now(CLOCK_MONOTONIC_RAW) - raw0;
	mono = now(CLOCK_MONOTONIC) - mono0;
	if (raw > mono + mono / 500 + 1000000 || mono > raw + raw / 500 + 1000000)
		return FAIL("%ld ns by one clock, %ld by the other", (long)mono, (long)raw);
	return true;
}

/* ---- instructions that ask the machine ---- */

static bool test_cpuid(void)
{
	u32 a, b, c, d;

	__cpuid(1, a, b, c, d);
	if (!(c & 1u << 27))
		return FAIL("OSXSAVE is not set");
	__asm__ volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
	if ((a & 3) != 3)
		return FAIL("XCR0 is %#x", a);
	if (!__get_cpuid_count(7, 0, &a, &b, &c, &d))
		return FAIL("no leaf 7");
	if (b & 1) { /* FSGSBASE, which Linux lets programs use */
		u64 base, again;

		__asm__ volatile("rdfsbase %0" : "=r"(base));
		if (syscall(SYS_arch_prctl, 0x1003 /* ARCH_GET_FS */, &again) || base != again)
			return FAIL("FS base: %#lx and %#lx", (long)base, (long)again);
	}
	if (__builtin_cpu_supports("avx2")) {
		u32 x[8] = {0, 0, 0, 0, 0, 0, 0, 3};

		__asm__ volatile("vmovdqu %0, %%ymm1\n\tvpmulld %%ymm1, %%ymm1, %%ymm1\n\t"
		                 "vmovdqu %%ymm1, %0"
		                 : "+m"(x)::"xmm1");
		if (x[7] != 9)
			return FAIL("AVX2: 3 * 3 is %u", x[7]);
	}
	__asm__ volatile("rdtscp" : "=a"(a), "=d"(d), "=c"(c));
	return sched_getcpu() >= 0 ? true : FAIL("sched_getcpu: %s", strerror(errno));
}

static const struct {
	const char *name;
	bool (*run)(void);
} tests[] = {
	{"switch", test_switch},
	{"signal-state", test_signal_state},
	{"exceptions", test_exceptions},
	{"step", test_step},
	{"watch", test_watch},
	{"compat", test_compat},
	{"shootdown", test_shootdown},
	{"locks", test_locks},
	{"futex", test_futex},
	{"fork-cow", test_fork_cow},
	{"code", test_code},
	{"clocks", test_clocks},
	{"cpuid", test_cpuid},
};

static int self(const char *only)
{
	int failed = 0;

	for (size_t i = 0; i < sizeof(tests) / sizeof(*tests); i++) {
		u64 t0 = now(CLOCK_MONOTONIC);
		bool ok;

		if (only && strcmp(only, tests[i].name))
			continue;
		ok = tests[i].run();
		if (ok)
			printf("ok %s %.2f s\n", tests[i].name,
			       (double)(now(CLOCK_MONOTONIC) - t0) / 1e9);
		else
			printf("FAILED %s: %s\n", tests[i].name, why);
		fflush(stdout);
		failed += !ok;
	}
	return failed != 0;
}

/* ---- for the timing test ---- */

static int clocks(void)
{
	struct termios t;
	char line[80];

	if (!tcgetattr(0, &t)) {
		t.c_lflag &= ~(tcflag_t)ECHO;
		tcsetattr(0, TCSANOW, &t);
	}
	puts("clock ready");
	while (fgets(line, sizeof(line), stdin) && line[0] != 'q') {
		line[strcspn(line, "\n")] = '\0';
		printf("clock %s %lu %lu %lu\n", line, now(CLOCK_REALTIME), now(CLOCK_MONOTONIC),
		       now(CLOCK_MONOTONIC_RAW));
		fflush(stdout);
	}
	if (!tcgetattr(0, &t)) {
		t.c_lflag |= ECHO;
		tcsetattr(0, TCSANOW, &t);
	}
	return 0;
}

static u64 timer_interrupts(void)
{
	FILE *f = fopen("/proc/interrupts", "r");
	char line[1000];
	u64 sum = 0;

	while (f && fgets(line, sizeof(line), f)) {
		char *p = strstr(line, "LOC:");

		if (!p)
			continue;
		for (p += 4;;) {
			char *end;
			u64 n = strtoull(p, &end, 10);

			if (end == p)
				break;
			sum += n;
			p = end;
		}
	}
	if (f)
		fclose(f);
	return sum;
}

static int rate(u64 seconds)
{
	u64 before = timer_interrupts(), t0 = now(CLOCK_MONOTONIC), t;
	volatile u64 n = 0;

	/* Busy, so that the tick does not stop. */
	do {
		for (int i = 0; i < 10000; i++)
			n = n + 1;
		t = now(CLOCK_MONOTONIC) - t0;
	} while (t < seconds * 1000000000u);
	printf("rate %lu interrupts in %.3f s\n", timer_interrupts() - before, (double)t / 1e9);
	return 0;
}

/* What a VMM's timer does, without a guest: how much of it a loaded host lets through. */
struct ticker {
	pthread_t to;
	u64 period, end; /* ns of CLOCK_MONOTONIC */
};

static volatile sig_atomic_t tick_count;

static void on_tick(int sig)
{
	(void)sig;
	tick_count = tick_count + 1;
}

static void *send_ticks(void *arg)
{
	const struct ticker *t = arg;

	for (u64 next = now(CLOCK_MONOTONIC) + t->period; next < t->end;) {
		struct timespec at = {(time_t)(next / 1000000000u), (long)(next % 1000000000u)};

		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL);
		pthread_kill(t->to, SIGUSR1);
		next += t->period;
		/* As Linux does: what is over is skipped. */
		if (next < now(CLOCK_MONOTONIC))
			next += (now(CLOCK_MONOTONIC) - next) / t->period * t->period + t->period;
	}
	return NULL;
}

static int ticks(u64 seconds, u64 hz)
{
	u64 begin = now(CLOCK_MONOTONIC);
	struct ticker t = {pthread_self(), 1000000000u / hz, begin + seconds * 1000000000u};
	pthread_t sender;
	volatile u64 n = 0;
	int err;

	signal(SIGUSR1, on_tick);
	err = pthread_create(&sender, NULL, send_ticks, &t);
	if (err) {
		fprintf(stderr, "probe: pthread_create: %s\n", strerror(err));
		return 1;
	}
	while (now(CLOCK_MONOTONIC) < t.end)
		for (int i = 0; i < 10000; i++)
			n = n + 1;
	pthread_join(sender, NULL);
	printf("ticks %d\n", (int)tick_count);
	return 0;
}

static void __attribute__((noreturn)) spin(int processes)
{
	for (int i = 1; i < processes; i++)
		if (fork() == 0)
			break;
	for (;;)
		__asm__ volatile("" ::: "memory");
}

/* ---- for the debugger ---- */

volatile u64 debug_count, debug_cell, debug_input = 5, debug_sum;
u64 debug_pattern[4] = {0x1111222233334444, 0x5555666677778888, 0x9999aaaabbbbcccc,
                        0xddddeeeeffff0000};

void debug_target(u64 n);
void debug_vector(void);
void debug_vector_avx(void);
__asm__(".text\n"
        ".globl debug_target, debug_vector, debug_vector_here, debug_vector_avx\n"
        ".globl debug_vector_avx_here, debug_syscall, debug_syscall_at, debug_syscall_after\n"
        ".type debug_target, @function\n"
        "debug_target:\n"
        "	mov %rdi, debug_count(%rip)\n"
        "	ret\n"
        ".type debug_vector, @function\n"
        "debug_vector:\n"
        "	movdqu debug_pattern(%rip), %xmm3\n"
        "	fldpi\n"
        "debug_vector_here:\n"
        "	nop\n"
        "	fstp %st(0)\n"
        "	ret\n"
        ".type debug_vector_avx, @function\n"
        "debug_vector_avx:\n"
        "	vmovdqu debug_pattern(%rip), %ymm5\n"
        "debug_vector_avx_here:\n"
        "	nop\n"
        "	vzeroupper\n"
        "	ret\n"
        ".type debug_syscall, @function\n"
        "debug_syscall:\n"
        "	mov $110, %eax\n" /* getppid */
        "debug_syscall_at:\n"
        "	syscall\n"
        "debug_syscall_after:\n"
        "	ret\n");
u64 debug_syscall(void);

static void __attribute__((noreturn)) debug(void)
{
	bool avx = __builtin_cpu_supports("avx2");

	puts("debug ready");
	fflush(stdout);
	for (u64 n = 1;; n++) {
		debug_target(n);
		debug_cell = n * 2;
		debug_sum += debug_input;
		debug_vector();
		if (avx)
			debug_vector_avx();
		debug_syscall();
		if (n % 16 == 0)
			usleep(1000);
	}
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";

	if (!strcmp(what, "self"))
		return self(argc > 2 ? argv[2] : NULL);
	if (!strcmp(what, "clock"))
		return clocks();
	if (!strcmp(what, "rate") && argc > 2)
		return rate(strtoull(argv[2], NULL, 10));
	if (!strcmp(what, "ticks") && argc > 3 && atoi(argv[2]) > 0 && atoi(argv[3]) > 0)
		return ticks(strtoull(argv[2], NULL, 10), strtoull(argv[3], NULL, 10));
	if (!strcmp(what, "spin"))
		spin(argc > 2 ? atoi(argv[2]) : 1);
	if (!strcmp(what, "debug"))
		debug();
	fputs("usage: probe self [NAME] | clock | debug | spin [N] | rate SECONDS | ticks SECONDS "
	      "HZ\n",
	      stderr);
	return 2;
}
