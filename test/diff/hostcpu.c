// SPDX-License-Identifier: MIT
/* The native executor. Parent and child share the batch; the child copies a case's code and data
 * into the pages that the case sees, enters it (hostcpu_asm.S), and gets out by a jump after the
 * code or by a signal, whose frame holds everything that an exception leaves behind, the XSAVE area
 * included (kernel: arch/x86/include/uapi/asm/sigcontext.h).
 *
 * The child has a seccomp filter: a futex to wait for work, nothing else. Its C code must not touch
 * thread-local storage, since FS is the case's. */
#include "hostcpu.h"

#include <cpuid.h>
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#include "cpu/x86/defs.h"

#define STALL_NS      (1 * NSEC_PER_SEC)  /* of processor time for one case */
#define STALL_WALL_NS (60 * NSEC_PER_SEC) /* in all */

struct hostcpu_ctx {
	struct cpu_state in;
	struct cpu_state out;
	u64 host_rsp;
	u64 pad[15];
	u64 stack[16];
	u64 stack_top;
};

/* Shared with the child. */
struct hostcpu_share {
	_Atomic u32 go;   /* moves when a batch is ready */
	_Atomic u32 done; /* equals go when it is over */
	_Atomic u32 current;
	u32 first, count;
	struct tcase in[HOSTCPU_BATCH];
	struct outcome out[HOSTCPU_BATCH];
};

struct hostcpu {
	struct hostcpu_share *share;
	const u8 *images;
	int fd; /* code pages, then data pages */
	u8 *alias;
	pid_t child;
	u64 restarts;
};

/* Named by hostcpu_asm.S; only the child uses it. */
struct hostcpu_ctx hostcpu_ctx __attribute__((aligned(64), visibility("hidden")));
u64 hostcpu_enter(void);
extern const u8 hostcpu_left[], hostcpu_resume[];

_Static_assert(offsetof(struct cpu_state, rip) == 128, "hostcpu_asm.S");
_Static_assert(offsetof(struct cpu_state, rflags) == 136, "hostcpu_asm.S");
_Static_assert(offsetof(struct cpu_state, fs_base) == 144, "hostcpu_asm.S");
_Static_assert(offsetof(struct cpu_state, gs_base) == 152, "hostcpu_asm.S");
_Static_assert(offsetof(struct cpu_state, cs) == 160, "hostcpu_asm.S");
_Static_assert(offsetof(struct cpu_state, sel) == 168, "hostcpu_asm.S");
_Static_assert(offsetof(struct cpu_state, xsave) == 192, "hostcpu_asm.S");
_Static_assert(offsetof(struct hostcpu_ctx, out) == 1024, "hostcpu_asm.S");
_Static_assert(offsetof(struct hostcpu_ctx, host_rsp) == 2048, "hostcpu_asm.S");
_Static_assert(offsetof(struct hostcpu_ctx, stack_top) == 2304, "hostcpu_asm.S");

struct child_fault {
	u8 vector;
	u32 err;
	u64 cr2;
};
static struct child_fault child_fault; /* the child's own */

unsigned hostcpu_wayout(u64 cs, u64 rip, u8 *out)
{
	if (cs == SEL_USER_CS64) {
		/* jmp *pad(%rip); the pointer is aligned, since RFLAGS.AC may be on. */
		unsigned pad = (unsigned)(0 - (rip + 6)) & 7;

		memset(out, 0xcc, 6 + pad);
		out[0] = 0xff;
		out[1] = 0x25;
		put_le32(out + 2, pad);
		put_le64(out + 6 + pad, (u64)(uintptr_t)hostcpu_left);
		return 14 + pad;
	}
	out[0] = 0xea; /* ljmp $SEL_USER_CS64, $CODE_THUNK */
	put_le32(out + 1, CODE_THUNK);
	put_le16(out + 5, SEL_USER_CS64);
	return 7;
}

void hostcpu_code_background(u8 *code)
{
	memset(code, 0xcc, CODE_SIZE);
	hostcpu_wayout(SEL_USER_CS64, CODE_THUNK, code + (CODE_THUNK - CODE_BASE));
}

/* SDM 1, 13.7: with its bit in XSTATE_BV clear a component is in its initial state, whatever the
 * memory holds. */
static void xsave_canonical(u8 *x)
{
	u64 bv = get_le64(x + XS_BV);

	if (!(bv & 1)) {
		memset(x, 0, XS_MXCSR);
		put_le16(x + XS_FCW, 0x37f);
		memset(x + XS_ST(0), 0, 128);
	}
	if (!(bv & 2))
		memset(x + XS_XMM(0), 0, 256);
	if (!(bv & 4))
		memset(x + XS_YMMHI(0), 0, 256);
}

static inline u64 rdfsbase(void)
{
	u64 v;

	__asm__ volatile("rdfsbase %0" : "=r"(v));
	return v;
}

static inline u64 rdgsbase(void)
{
	u64 v;

	__asm__ volatile("rdgsbase %0" : "=r"(v));
	return v;
}

/* AT_HWCAP2 bit 1, HWCAP2_FSGSBASE. */
static bool user_fsgsbase(void)
{
	extern unsigned long getauxval(unsigned long); /* sys/auxv.h has a PF_W of its own */

	return getauxval(26) >> 1 & 1;
}

static void on_signal(int sig, siginfo_t *info, void *ucp)
{
	ucontext_t *uc = ucp;
	const greg_t *g = uc->uc_mcontext.gregs;
	static const u8 order[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP,
	                             REG_RSI, REG_RDI, REG_R8,  REG_R9,  REG_R10, REG_R11,
	                             REG_R12, REG_R13, REG_R14, REG_R15};
	struct cpu_state *st = &hostcpu_ctx.out;

	for (int i = 0; i < 16; i++)
		st->gpr[i] = (u64)g[order[i]];
	st->rip = (u64)g[REG_RIP];
	st->rflags = (u64)g[REG_EFL];
	__asm__ volatile("movw %%es, %0; movw %%ds, %1; movw %%fs, %2; movw %%gs, %3"
	                 : "=m"(st->sel[0]), "=m"(st->sel[3]), "=m"(st->sel[4]), "=m"(st->sel[5]));
	st->sel[1] = (u16)g[REG_CSGSFS];
	st->sel[2] = (u16)((u64)g[REG_CSGSFS] >> 48);
	st->cs = st->sel[1];
	st->fs_base = rdfsbase();
	st->gs_base = rdgsbase();
	__builtin_memcpy(st->xsave, uc->uc_mcontext.fpregs, CASE_XSAVE_SIZE);
	child_fault.vector = (u8)g[REG_TRAPNO];
	child_fault.err = (u32)g[REG_ERR];
	child_fault.cr2 = (u64)g[REG_CR2];
	/* Not by sigreturn: SA_NODEFER, and the alternate stack is free again once RSP has left it.
	 */
	__asm__ volatile("jmp hostcpu_resume" ::"a"(1ull) : "memory");
	__builtin_unreachable();
}

static int child_filter(void)
{
	struct sock_filter f[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 0, 2),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_futex, 1, 0),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog p = {.len = ARRAY_SIZE(f), .filter = f};

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
	    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &p))
		return -errno;
	return 0;
}

static void raw_futex(_Atomic u32 *word, int op, u32 val)
{
	long ret;
	register long r10 __asm__("r10") = 0;

	__asm__ volatile("syscall"
	                 : "=a"(ret)
	                 : "a"(SYS_futex), "D"(word), "S"(op), "d"((u64)val), "r"(r10)
	                 : "rcx", "r11", "memory");
}

static void child_case(const struct hostcpu *n, const struct tcase *t, struct outcome *o)
{
	u8 *code = n->alias, *data = n->alias + CODE_SIZE;
	u32 at = (u32)(t->st.rip - CODE_BASE), len = t->code_len + t->wayout;
	u64 end = t->st.rip + t->code_len, rip;
	struct cpu_state *st = &hostcpu_ctx.out;

	case_memory(t, n->images, data);
	if (at > CODE_SIZE || len > CODE_SIZE - at)
		__builtin_trap();
	__builtin_memcpy(code + at, t->code, len);
	__builtin_memcpy(&hostcpu_ctx.in, &t->st, sizeof(t->st));
	__builtin_memset(st->xsave + XS_BV, 0, 64);
	o->vector = 0;
	o->err = 0;
	o->cr2 = 0;
	if (hostcpu_enter()) {
		o->status = OUT_FAULT;
		o->vector = child_fault.vector;
		rip = st->rip;
		if (o->vector == X86_BP && rip - 1 - CODE_BASE < CODE_SIZE) {
			/* The background: a branch got to rip - 1. */
			st->rip--;
			o->status = OUT_OK;
			o->vector = 0;
		} else if (o->vector == X86_DB && rip == (u64)(uintptr_t)hostcpu_left) {
			/* It set TF: the trap comes after the jump out. */
			st->rip = end;
			o->status = OUT_OK;
			o->vector = 0;
		} else if (o->vector == X86_PF && rip != t->st.rip && child_fault.cr2 == rip &&
		           (child_fault.err & PF_I)) {
			/* Fetching the next instruction failed; this one is over. */
			o->status = OUT_OK;
			o->vector = 0;
		} else {
			o->err = child_fault.err;
			if (o->vector == X86_PF) {
				o->cr2 = child_fault.cr2;
				if (o->cr2 >= HOSTCPU_ADDR_MAX)
					o->err |= PF_P;
			}
		}
	} else {
		o->status = OUT_OK;
		st->rip = end;
		st->cs = t->st.cs;
		st->sel[1] = (u16)t->st.cs;
	}
	xsave_canonical(st->xsave);
	__builtin_memcpy(&o->st, st, sizeof(o->st));
	__builtin_memcpy(o->mem, data, DATA_RW_SIZE);
	__builtin_memset(code + at, 0xcc, len);
}

static void child_loop(const struct hostcpu *n, u32 seen)
{
	struct hostcpu_share *s = n->share;

	for (;;) {
		u32 go;

		while ((go = s->go) == seen)
			raw_futex(&s->go, FUTEX_WAIT, seen);
		seen = go;
		for (u32 i = s->first; i < s->count; i++) {
			s->current = i;
			child_case(n, &s->in[i], &s->out[i]);
		}
		s->done = seen;
		raw_futex(&s->done, FUTEX_WAKE, 1);
	}
}

static void child_main(struct hostcpu *n, u32 seen)
{
	static const int sigs[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP};
	struct sigaction sa = {.sa_sigaction = on_signal,
	                       .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};
	stack_t ss = {.ss_size = 64 * KiB};
	u8 *p;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	prctl(PR_SET_DUMPABLE, 0);
	ss.ss_sp = mmap(NULL, ss.ss_size, PROT_READ | PROT_WRITE,
	                MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (ss.ss_sp == MAP_FAILED || sigaltstack(&ss, NULL))
		_exit(1);
	for (size_t i = 0; i < ARRAY_SIZE(sigs); i++)
		if (sigaction(sigs[i], &sa, NULL))
			_exit(1);
	p = mmap((void *)(uintptr_t)CODE_BASE, CODE_SIZE, PROT_READ | PROT_EXEC,
	         MAP_SHARED | MAP_FIXED_NOREPLACE | MAP_POPULATE, n->fd, 0);
	if (p != (u8 *)(uintptr_t)CODE_BASE)
		_exit(1);
	p = mmap((void *)(uintptr_t)DATA_BASE, DATA_RW_SIZE, PROT_READ | PROT_WRITE,
	         MAP_SHARED | MAP_FIXED_NOREPLACE | MAP_POPULATE, n->fd, CODE_SIZE);
	if (p != (u8 *)(uintptr_t)DATA_BASE)
		_exit(1);
	p = mmap((void *)(uintptr_t)(DATA_BASE + DATA_RW_SIZE), DATA_SIZE - DATA_RW_SIZE, PROT_READ,
	         MAP_SHARED | MAP_FIXED_NOREPLACE | MAP_POPULATE, n->fd, CODE_SIZE + DATA_RW_SIZE);
	if (p != (u8 *)(uintptr_t)(DATA_BASE + DATA_RW_SIZE))
		_exit(1);
	__asm__ volatile("mov %0, %%ds; mov %0, %%es" ::"r"(SEL_USER_DS));
	if (child_filter())
		_exit(1);
	child_loop(n, seen);
}

static int child_start(struct hostcpu *n, u32 seen)
{
	hostcpu_code_background(n->alias);
	n->child = fork();
	if (n->child < 0)
		return -errno;
	if (n->child == 0)
		child_main(n, seen);
	return 0;
}

int hostcpu_create(struct hostcpu **out, const u8 *images, char *why, size_t size)
{
	struct hostcpu *n;
	unsigned a, b, c, d;
	int ret = -ENOTSUP;

	if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !user_fsgsbase()) {
		snprintf(why, size, "the host does not let programs use WRFSBASE");
		return ret;
	}
	if (!__get_cpuid_count(13, 0, &a, &b, &c, &d) || (a & 7) != 7) {
		snprintf(why, size, "the host has no AVX");
		return ret;
	}
	n = calloc(1, sizeof(*n));
	if (!n)
		return -ENOMEM;
	n->images = images;
	n->fd = memfd_create("difftest", MFD_CLOEXEC);
	n->alias = MAP_FAILED;
	n->share = MAP_FAILED;
	if (n->fd < 0 || ftruncate(n->fd, CODE_SIZE + DATA_SIZE))
		goto fail;
	n->alias = mmap(NULL, CODE_SIZE + DATA_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, n->fd, 0);
	n->share = mmap(NULL, sizeof(*n->share), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
	                -1, 0);
	if (n->alias == MAP_FAILED || n->share == MAP_FAILED)
		goto fail;
	ret = child_start(n, 0);
	if (!ret) {
		*out = n;
		return 0;
	}
	errno = -ret;
fail:
	ret = -errno;
	snprintf(why, size, "host processor: %s", strerror(errno));
	hostcpu_destroy(n);
	return ret;
}

void hostcpu_destroy(struct hostcpu *n)
{
	if (!n)
		return;
	if (n->child > 0) {
		kill(n->child, SIGKILL);
		waitpid(n->child, NULL, 0);
	}
	if (n->alias != MAP_FAILED)
		munmap(n->alias, CODE_SIZE + DATA_SIZE);
	if (n->share != MAP_FAILED)
		munmap(n->share, sizeof(*n->share));
	if (n->fd >= 0)
		close(n->fd);
	free(n);
}

struct tcase *hostcpu_case(struct hostcpu *n, unsigned i)
{
	return &n->share->in[i];
}

struct outcome *hostcpu_outcome(struct hostcpu *n, unsigned i)
{
	return &n->share->out[i];
}

u64 hostcpu_restarts(const struct hostcpu *n)
{
	return n->restarts;
}

static u64 now_ns(clockid_t clock)
{
	struct timespec ts;

	if (clock_gettime(clock, &ts))
		return 0;
	return (u64)ts.tv_sec * NSEC_PER_SEC + (u64)ts.tv_nsec;
}

/* Wait for the batch. 0: over; else the status of the case that stopped it. A case hangs when it
 * has used processor time: on a busy machine, and where the kernel delays split locks, it may only
 * be waiting for some. */
static enum out_status wait_batch(struct hostcpu *n)
{
	struct hostcpu_share *s = n->share;
	u32 go = s->go, last = ~0u, done;
	u64 since = now_ns(CLOCK_MONOTONIC), used;
	clockid_t clock;

	if (clock_getcpuclockid(n->child, &clock))
		clock = CLOCK_MONOTONIC;
	used = now_ns(clock);
	while ((done = s->done) != go) {
		struct timespec ts = {.tv_nsec = 100 * 1000 * 1000};

		syscall(SYS_futex, &s->done, FUTEX_WAIT, done, &ts, NULL, 0);
		if (s->done == go)
			break;
		if (waitpid(n->child, NULL, WNOHANG) == n->child) {
			n->child = -1;
			return OUT_DIED;
		}
		if (s->current != last) {
			last = s->current;
			since = now_ns(CLOCK_MONOTONIC);
			used = now_ns(clock);
		} else if (now_ns(clock) - used > STALL_NS ||
		           now_ns(CLOCK_MONOTONIC) - since > STALL_WALL_NS) {
			return OUT_TIMEOUT;
		}
	}
	return OUT_OK;
}

int hostcpu_run(struct hostcpu *n, unsigned count)
{
	struct hostcpu_share *s = n->share;
	unsigned died_early = 0;

	s->first = 0;
	s->count = count;
	while (s->first < count) {
		enum out_status st;
		u32 cur;
		int ret;

		s->current = ~0u;
		s->go++;
		syscall(SYS_futex, &s->go, FUTEX_WAKE, 1, NULL, NULL, 0);
		st = wait_batch(n);
		if (st == OUT_OK)
			return 0;
		if (n->child > 0) {
			kill(n->child, SIGKILL);
			waitpid(n->child, NULL, 0);
		}
		n->restarts++;
		cur = s->current;
		if (cur != ~0u) {
			s->out[cur].status = st;
			s->first = cur + 1;
			died_early = 0;
		} else if (++died_early > 3) {
			return -ECHILD;
		}
		s->done = s->go;
		ret = child_start(n, s->go);
		if (ret)
			return ret;
	}
	return 0;
}
