/* SPDX-License-Identifier: MIT */
/* The guest kernel of the system tests: cases, exceptions, page tables, APIC, other CPUs.
 *
 * A topic is one file with a table of cases. Each case runs in ring 0 with interrupts off, in a
 * fresh address space whose first GiB is mapped one to one (supervisor, 2 MiB pages, global bit
 * off), and says what it finds by expect(). An exception that nobody asked for fails the case and
 * ends it.
 *
 * Reports go to port 0xe9, one line a case; run_system.py reads them. The end is a write to
 * the debug-exit port. */
#pragma once

#include "layout.h"

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long s64;
typedef __builtin_va_list va_list;
#define bool _Bool
#define true 1
#define false 0
#define NULL ((void *)0)

#define PAGE          4096ull
#define LARGE         0x200000ull
#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define barrier()     asm volatile("" ::: "memory")

/* What a trap saves and run() loads; the order is that of rt_trap.S. */
struct regs {
	u64 r15, r14, r13, r12, r11, r10, r9, r8, rdi, rsi, rbp, rbx, rdx, rcx, rax;
	u64 vector, err; /* ignored by run() on the way in */
	u64 rip, cs, rflags, rsp, ss;
};

struct gate {
	u64 lo, hi;
};

struct tss {
	u32 reserved0;
	u64 rsp[3];
	u64 reserved1;
	u64 ist[7];
	u64 reserved2;
	u16 reserved3, iopb;
} __attribute__((packed));

struct cpu {
	u64 user_rsp, entry_rsp; /* CPU_USER_RSP, CPU_ENTRY_RSP */
	unsigned index;
	/* true: it is dealt with, go back to where it came from */
	bool (*handler[258])(struct regs *r);
	struct regs *run; /* of the run() under way */
	u64 run_rsp;
	u64 cr2; /* of the last #PF that came to trap() */
	u64 gdt[GDT_SLOTS];
	struct tss tss;
	void *case_buf[5];
	bool in_case;
	/* smp_call() */
	void (*volatile fn)(void *arg);
	void *arg;
	volatile bool busy;
} __attribute__((aligned(16)));

extern u8 cpu_blocks[];

/* Only on the CPU's own stacks. */
static inline struct cpu *this_cpu(void)
{
	u64 sp;

	asm volatile("mov %%rsp, %0" : "=r"(sp));
	return (struct cpu *)(sp & ~(CPU_BLOCK - 1ull));
}
static inline struct cpu *cpu_of(unsigned i)
{
	return (struct cpu *)(cpu_blocks + (u64)i * CPU_BLOCK);
}

/* ---- cases ---- */

struct test_case {
	const char *name;
	void (*fn)(u64 arg);
	u64 arg;
};
struct topic {
	const char *name;
	unsigned cpus;
	const struct test_case *cases;
	unsigned nr;
};
#define TOPIC(n, nr_cpus, list) const struct topic topic_##n = {#n, nr_cpus, list, ARRAY_SIZE(list)}
extern const struct topic *const topics[]; /* ends with NULL */

void print(const char *fmt, ...); /* %s %c %d %u %x %p(u64, hex); l and ll are skipped */
void fail(const char *fmt, ...);  /* the case has failed; go on */
void case_end(void) __attribute__((noreturn));
void skip(const char *why) __attribute__((noreturn)); /* and end the case */
void note(const char *fmt, ...); /* a figure for the reader, after the verdict */
bool case_bad(void);
bool expect_eq(u64 got, u64 want, const char *what);
#define expect(cond)                                                                               \
	({                                                                                         \
		bool ok_ = (cond);                                                                 \
		if (!ok_)                                                                          \
			fail("line %d: %s", __LINE__, #cond);                                      \
		ok_;                                                                               \
	})

/* ---- processor ---- */

#define F_CF    0x001ull
#define F_1     0x002ull
#define F_PF    0x004ull
#define F_AF    0x010ull
#define F_ZF    0x040ull
#define F_SF    0x080ull
#define F_TF    0x100ull
#define F_IF    0x200ull
#define F_DF    0x400ull
#define F_OF    0x800ull
#define F_NT    0x4000ull
#define F_RF    0x10000ull
#define F_AC    0x40000ull
#define F_ARITH (F_CF | F_PF | F_AF | F_ZF | F_SF | F_OF)

#define V_DE    0
#define V_DB    1
#define V_NMI   2
#define V_BP    3
#define V_OF    4
#define V_UD    6
#define V_NM    7
#define V_DF    8
#define V_TS    10
#define V_NP    11
#define V_SS    12
#define V_GP    13
#define V_PF    14
#define V_AC    17
#define V_IPI   0x40
#define V_TIMER 0x41
#define V_END   0x50 /* snippets end with int $0x50: open to CPL 3 */

#define PF_P    1
#define PF_W    2
#define PF_U    4
#define PF_RSVD 8
#define PF_I    16

#define CR0_PE         (1ull << 0)
#define CR0_MP         (1ull << 1)
#define CR0_TS         (1ull << 3)
#define CR0_WP         (1ull << 16)
#define CR0_PG         (1ull << 31)
#define CR4_DE         (1ull << 3)
#define CR4_PAE        (1ull << 5)
#define CR4_PGE        (1ull << 7)
#define CR4_OSFXSR     (1ull << 9)
#define CR4_OSXMMEXCPT (1ull << 10)
#define CR4_FSGSBASE   (1ull << 16)
#define CR4_PCIDE      (1ull << 17)
#define CR4_OSXSAVE    (1ull << 18)
#define CR4_SMEP       (1ull << 20)
#define CR4_SMAP       (1ull << 21)

#define EFER_SCE         1ull
#define EFER_LME         (1ull << 8)
#define EFER_NXE         (1ull << 11)
#define MSR_EFER         0xc0000080
#define MSR_STAR         0xc0000081
#define MSR_LSTAR        0xc0000082
#define MSR_SFMASK       0xc0000084
#define MSR_FS_BASE      0xc0000100
#define MSR_GS_BASE      0xc0000101
#define MSR_KERNEL_GS    0xc0000102
#define MSR_SYSENTER_CS  0x174
#define MSR_SYSENTER_ESP 0x175
#define MSR_SYSENTER_EIP 0x176

#define RD_CR(n)                                                                                   \
	static inline u64 read_cr##n(void)                                                         \
	{                                                                                          \
		u64 v;                                                                             \
		asm volatile("mov %%cr" #n ", %0" : "=r"(v)::"memory");                            \
		return v;                                                                          \
	}                                                                                          \
	static inline void write_cr##n(u64 v)                                                      \
	{                                                                                          \
		asm volatile("mov %0, %%cr" #n ::"r"(v) : "memory");                               \
	}
RD_CR(0)
RD_CR(2)
RD_CR(3)
RD_CR(4)
RD_CR(8)

static inline u64 rdmsr(u32 m)
{
	u32 lo, hi;

	asm volatile("rdmsr" : "=a"(lo), "=d"(hi) : "c"(m));
	return lo | (u64)hi << 32;
}
static inline void wrmsr(u32 m, u64 v)
{
	asm volatile("wrmsr" ::"c"(m), "a"((u32)v), "d"((u32)(v >> 32)) : "memory");
}
static inline void outb(u16 port, u8 v)
{
	asm volatile("outb %0, %1" ::"a"(v), "Nd"(port));
}
static inline void invlpg(u64 va)
{
	asm volatile("invlpg (%0)" ::"r"(va) : "memory");
}
static inline u64 rdtsc(void)
{
	u32 lo, hi;

	asm volatile("lfence; rdtsc" : "=a"(lo), "=d"(hi)::"memory");
	return lo | (u64)hi << 32;
}
static inline u64 rflags(void)
{
	u64 v;

	asm volatile("pushfq; popq %0" : "=r"(v));
	return v;
}
static inline void cpuid(u32 leaf, u32 sub, u32 out[4])
{
	asm volatile("cpuid"
	             : "=a"(out[0]), "=b"(out[1]), "=c"(out[2]), "=d"(out[3])
	             : "a"(leaf), "c"(sub)
	             : "memory");
}
static inline void serialize(void)
{
	u32 r[4];

	cpuid(0, 0, r);
}
/* CPUID feature bits: leaf, output register 0..3, bit */
bool cpu_has(u32 leaf, unsigned reg, unsigned bit);
#define HAS_PCID     cpu_has(1, 2, 17)
#define HAS_AVX      cpu_has(1, 2, 28)
#define HAS_AVX2     cpu_has(7, 1, 5)
#define HAS_INVPCID  cpu_has(7, 1, 10)
#define HAS_SMEP     cpu_has(7, 1, 7)
#define HAS_SMAP     cpu_has(7, 1, 20)
#define HAS_FSGSBASE cpu_has(7, 1, 0)
#define HAS_GBPAGES  cpu_has(0x80000001, 3, 26)
bool cpu_is_amd(void);
void vector_on(void); /* CR4.OSFXSR, and AVX when it is there */

/* ---- exceptions ---- */

/* Load all of *r, go on there until the first trap without a handler; *r is then what
 * the trap saved. Returns the vector. */
u64 run(struct regs *r);
/* r for code at `rip` in ring 0 (or 3, 64 bits), every register a pattern of its own, stack as
 * given. */
void regs_kernel(struct regs *r, u64 rip, u64 rsp);
void regs_user(struct regs *r, u64 rip, u64 rsp);
/* All GPRs (RSP and RFLAGS' arithmetic bits included) of two sets the same? Else fails the case. */
bool expect_regs(const struct regs *got, const struct regs *want, const char *what);
bool expect_trap(const struct regs *r, u64 vector, u64 err, u64 rip);
void set_handler(unsigned vector, bool (*fn)(struct regs *r)); /* this CPU; NULL: none */
void idt_set(unsigned vector, u64 handler, unsigned ist, unsigned dpl);
void idt_open(unsigned vector); /* to CPL 3 */
void gdt_set(unsigned sel, u64 descriptor);
void run_enter(struct regs *r, u64 *saved_rsp);
void run_leave(u64 saved_rsp) __attribute__((noreturn));
u64 call_on(u64 (*fn)(u64), u64 arg, u64 stack);

/* Position-independent code in assembler, copied to where a test wants it. */
#define SNIPPET(name, body)                                                                        \
	asm(".pushsection .text.snippets, \"ax\"\n" #name ":\n" body "\n" #name "_end:\n"          \
	    ".popsection");                                                                        \
	extern u8 name[], name##_end[];
#define END "\tint $0x50\n"
void *code_copy(u64 to, const u8 *from, const u8 *end); /* returns `to` */
#define code_put(to, name) code_copy(to, name, name##_end)
#define CALL(va)           (((u64(*)(void))(va))())

/* ---- memory ---- */

#define P_P    1ull
#define P_W    2ull
#define P_U    4ull
#define P_A    0x20ull
#define P_D    0x40ull
#define P_PS   0x80ull
#define P_G    0x100ull
#define P_NX   (1ull << 63)
#define P_ADDR 0x000ffffffffff000ull
#define KRWX   (P_P | P_W)
#define URWX   (P_P | P_W | P_U)

#define POOL_START 0x1000000ull /* physical memory for tests: 16 MiB to 64 MiB */
#define POOL_END   0x4000000ull
#define VA         0x8000000000ull /* virtual addresses free for tests: from here, 256 TiB less */

void *memset(void *d, int c, u64 n);
void *memcpy(void *d, const void *s, u64 n);
int memcmp(const void *a, const void *b, u64 n);

u64 page_alloc(void);              /* physical address of a zeroed page */
u64 pages_alloc(u64 n, u64 align); /* contiguous, not zeroed */
static inline void *phys(u64 pa)   /* through the map of the first GiB */
{
	return (void *)pa;
}
/* In the address space of `root` (a CR3 value; 0: the current one). Intermediate entries are open
 * (P, W, U). level: 0 4 KiB, 1 2 MiB, 2 1 GiB, 3 the PML4's entry. */
u64 *pte_of(u64 root, u64 va, unsigned level);
void map(u64 root, u64 va, u64 pa, u64 flags);
void map_large(u64 root, u64 va, u64 pa, u64 flags);
u64 map_new(u64 va, u64 flags); /* current space, fresh page; its physical address */
void map_range(u64 va, u64 pages, u64 flags);
u64 space_new(void); /* a CR3 value: kernel half and nothing else */
void memory_reset(void);

/* ---- local APIC, other CPUs, time ---- */

#define APIC       0xfee00000ull
#define APIC_ID    0x20
#define APIC_TPR   0x80
#define APIC_EOI   0xb0
#define APIC_SVR   0xf0
#define APIC_IRR   0x200
#define APIC_ICR   0x300
#define APIC_ICR2  0x310
#define APIC_LVTT  0x320
#define APIC_TMICT 0x380
#define APIC_TMCCT 0x390
#define APIC_TDCR  0x3e0
#define ICR_NMI    0x400
#define ICR_INIT   0x500
#define ICR_SIPI   0x600
#define ICR_ASSERT 0x4000
#define ICR_SELF   0x40000
#define ICR_OTHERS 0xc0000

static inline u32 apic_read(u32 reg)
{
	return *(volatile u32 *)(APIC + reg);
}
static inline void apic_write(u32 reg, u32 v)
{
	*(volatile u32 *)(APIC + reg) = v;
}
void apic_on(void);
void ipi(unsigned cpu, u32 icr);
#define TIMER_PERIODIC 0x20000
void timer_start(u32 ns, u32 mode); /* fires V_TIMER; the APIC's clock is 1 GHz here and in QEMU */
void timer_stop(void);
void delay_ns(u64 ns); /* busy */
u64 tsc_per_ms(void);

unsigned nr_cpus(void);
/* Run fn(arg) on another CPU, with interrupts off; smp_wait() until it is through. */
void smp_call(unsigned cpu, void (*fn)(void *), void *arg);
void smp_wait(unsigned cpu);
void smp_all(void (*fn)(void *)); /* on all CPUs with their number as argument; waits */
void cpu_reset_state(void);       /* control registers and the like as a case finds them */
