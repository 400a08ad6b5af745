// SPDX-License-Identifier: MIT
/* Translations of code after its mapping changed (SDM 3A 4.10): before the flush the old page may
 * still run, after it only the new one. */
#include "rt.h"

#define CODE (VA + 0x40000)

/* mov $n, %eax; ret, written through the map of the first GiB */
static void put_const(u64 pa, u32 n)
{
	u8 *p = phys(pa);

	p[0] = 0xb8;
	memcpy(p + 1, &n, 4);
	p[5] = 0xc3;
}

static void invpcid(u64 type, u64 pcid, u64 va)
{
	u64 d[2] = {pcid, va};

	asm volatile("invpcid (%0), %1" ::"r"(d), "r"(type) : "memory");
}

/* ---- ways to flush ---- */

enum {
	BY_INVLPG,
	BY_CR3,
	BY_PGE,
	BY_INVPCID_ADDR,
	BY_INVPCID_ONE,
	BY_INVPCID_ALL_GLOBAL,
	BY_INVPCID_ALL,
	BY_CR3_PCID,
};

static void flush_need(u64 how)
{
	if (how >= BY_INVPCID_ADDR && how <= BY_INVPCID_ALL && !HAS_INVPCID)
		skip("CPUID offers no INVPCID");
	if (how == BY_CR3_PCID) {
		if (!HAS_PCID)
			skip("CPUID offers no PCID");
		write_cr4(read_cr4() | CR4_PCIDE);
		write_cr3(read_cr3() | 5);
	}
	write_cr4(read_cr4() | CR4_PGE);
}

static void flush(u64 how, u64 va)
{
	u64 pcid = read_cr4() & CR4_PCIDE ? read_cr3() & 0xfff : 0;

	switch (how) {
	case BY_INVLPG:
		invlpg(va);
		break;
	case BY_CR3:
	case BY_CR3_PCID:
		write_cr3(read_cr3());
		break;
	case BY_PGE:
		write_cr4(read_cr4() & ~CR4_PGE);
		write_cr4(read_cr4() | CR4_PGE);
		break;
	case BY_INVPCID_ADDR:
		invpcid(0, pcid, va);
		break;
	case BY_INVPCID_ONE:
		invpcid(1, pcid, 0);
		break;
	case BY_INVPCID_ALL_GLOBAL:
		invpcid(2, 0, 0);
		break;
	default:
		invpcid(3, 0, 0);
	}
}

/* ---- ways to come to a page ---- */

/* The page before: functions that call, jump and run on to the next one, or come back to it by RET.
 */
SNIPPET(before, "call before + 0x1000; ret\n"
                ".org before + 0x40; jmp before + 0x1000\n"
                ".org before + 0x80; cmpl %eax, %eax; je before + 0x1000; ud2\n"
                ".org before + 0xc0; leaq before + 0x1000(%rip), %rax; pushq %rax; ret\n"
                ".org before + 0x100; leaq before + 0x1000(%rip), %rax; jmpq *%rax\n"
                ".org before + 0xff0; .fill 16, 1, 0x90\n")
static const u16 entries[] = {0x1000, 0, 0x40, 0x80, 0xc0, 0x100, 0xff0};
#define WAYS ARRAY_SIZE(entries)

static void remap(u64 arg)
{
	u64 how = arg & 15, global = arg & 16 ? P_G : 0, page[2];

	flush_need(how);
	map_new(CODE - PAGE, KRWX);
	code_copy(CODE - PAGE, before, before_end);
	for (unsigned i = 0; i < 2; i++)
		put_const(page[i] = page_alloc(), i);
	for (unsigned i = 0; i < 1000 && !case_bad(); i++) {
		unsigned which = i & 1;
		u64 entry = CODE - PAGE + entries[i / 2 % WAYS];

		if (i > 8) { /* before the flush: old or new */
			map(0, CODE, page[which], KRWX | global);
			expect((u32)CALL(entry) < 2);
		}
		map(0, CODE, page[which], KRWX | global);
		flush(how, CODE);
		for (unsigned k = 0; k < 3; k++)
			expect_eq((u32)CALL(entry), which, "page that ran");
	}
}

/* In a loop that does not leave its two pages, the second changes under it. */
SNIPPET(own_next, "xorl %eax, %eax; movl $300, %ecx\n"
                  "1: movq %rsi, (%rdi); invlpg (%rdx); xchgq %rsi, %r8\n" /* the PTE; a turn */
                  "jmp own_next + 0x1000\n"
                  "2: decl %ecx; jnz 1b; ret\n"
                  ".org own_next + 0x1000; addl $1, %eax; jmp 2b\n")

static void remap_own_next(u64 arg)
{
	u64 a = page_alloc(), b = page_alloc(), got;

	map_new(CODE, KRWX);
	code_copy(CODE, own_next, own_next + PAGE);
	code_copy((u64)phys(a), own_next + PAGE, own_next_end);
	code_copy((u64)phys(b), own_next + PAGE, own_next_end);
	((u8 *)phys(b))[2] = 100;
	map(0, CODE + PAGE, a, KRWX);
	asm volatile("movq %5, %%r8; callq *%1"
	             : "=a"(got)
	             : "r"(CODE), "D"(pte_of(0, CODE + PAGE, 0)), "S"(b | KRWX), "d"(CODE + PAGE),
	               "r"(a | KRWX)
	             : "rcx", "r8", "memory", "cc");
	expect_eq((u32)got, 150 * 101, "sum");
}

/* ---- address spaces ---- */

SNIPPET(switch_cr3, "movq %rdi, %cr3\n"
                    "movl $0, %eax\n" /* the immediate differs between the spaces */
                    "movq %rsi, %cr3; ret\n")

/* MOV CR3 in the middle of a block: what follows comes from the new space. */
static void switch_inside(u64 arg)
{
	u64 here = read_cr3(), there = space_new();

	for (unsigned i = 0; i < 2; i++) {
		u64 pa = page_alloc();

		code_copy((u64)phys(pa), switch_cr3, switch_cr3_end);
		*(u32 *)phys(pa + 4) = i;
		map(i ? there : here, CODE, pa, KRWX);
	}
	for (unsigned i = 0; i < 200 && !case_bad(); i++) {
		u64 got, to = i % 3 ? there : here, back = here;

		asm volatile("callq *%3"
		             : "=a"(got), "+D"(to), "+S"(back)
		             : "r"(CODE)
		             : "memory", "cc");
		expect_eq((u32)got, i % 3 != 0, "space whose code ran");
	}
}

#define SPACES 6
enum { PLAIN, WITH_PCID, WITH_GLOBAL };

/* The same address, code of its own in each space. */
static void processes(u64 kind)
{
	u64 cr3[SPACES], keep = 0;

	if (kind == WITH_PCID && !HAS_PCID)
		skip("CPUID offers no PCID");
	for (unsigned i = 0; i < SPACES; i++) {
		u64 pa = page_alloc();

		cr3[i] = space_new();
		put_const(pa, 100 + i);
		map(cr3[i], CODE, pa, KRWX);
		if (kind == WITH_GLOBAL) {
			put_const(pa = page_alloc(), 77);
			map(cr3[i], CODE + 2 * PAGE, pa, KRWX | P_G);
		}
	}
	if (kind == WITH_PCID) {
		write_cr4(read_cr4() | CR4_PCIDE);
		for (unsigned i = 0; i < SPACES; i++) {
			cr3[i] |= 10 + i;
			write_cr3(cr3[i]); /* once with a flush */
		}
		keep = 1ull << 63;
	}
	if (kind == WITH_GLOBAL)
		write_cr4(read_cr4() | CR4_PGE);
	for (unsigned i = 0; i < 4000 && !case_bad(); i++) {
		unsigned n = (i * 7 + i / 5) % SPACES;

		write_cr3(cr3[n] | keep);
		expect_eq((u32)CALL(CODE), 100 + n, "space whose code ran");
		if (kind == WITH_GLOBAL)
			expect_eq((u32)CALL(CODE + 2 * PAGE), 77, "global page");
	}
}

/* The same in ring 3: a process ends each turn with a system call. */
SNIPPET(process, "movl $0, %eax; 1: incl (%rbx); decl %ecx; jnz 1b; syscall")

static void user_processes(u64 pcid)
{
	u64 cr3[SPACES], keep = 0;
	struct regs r;

	if (pcid && !HAS_PCID)
		skip("CPUID offers no PCID");
	for (unsigned i = 0; i < SPACES; i++) {
		u64 pa = page_alloc();

		cr3[i] = space_new();
		code_copy((u64)phys(pa), process, process_end);
		*(u32 *)phys(pa + 1) = i;
		map(cr3[i], CODE, pa, P_P | P_U);
		map(cr3[i], CODE + PAGE, page_alloc(), URWX | P_NX);
	}
	if (pcid) {
		write_cr4(read_cr4() | CR4_PCIDE);
		keep = 1ull << 63;
		for (unsigned i = 0; i < SPACES; i++)
			write_cr3(cr3[i] |= i + 1);
	}
	for (unsigned i = 0; i < 1500 && !case_bad(); i++) {
		unsigned n = (i * 5 + i / 7) % SPACES;

		write_cr3(cr3[n] | keep);
		regs_user(&r, CODE, CODE + 2 * PAGE);
		r.rbx = CODE + PAGE + 8 * n;
		r.rcx = 10;
		run(&r);
		expect_eq(r.vector, VEC_SYSCALL, "vector");
		expect_eq((u32)r.rax, n, "space whose code ran");
	}
	for (unsigned i = 0, sum = 0; i < SPACES; i++) {
		write_cr3(cr3[i] | keep);
		sum += *(volatile u32 *)(CODE + PAGE + 8 * i);
		if (i == SPACES - 1)
			expect_eq(sum, 15000, "data of all spaces");
	}
}

/* A mapping of another PCID changes while that one is not in use. */
static void other_pcid(u64 how)
{
	u64 a = read_cr3() | 1, b = space_new() | 2, page[2];

	if (!HAS_PCID)
		skip("CPUID offers no PCID");
	if (how != BY_CR3 && !HAS_INVPCID)
		skip("CPUID offers no INVPCID");
	for (unsigned i = 0; i < 2; i++)
		put_const(page[i] = page_alloc(), i);
	write_cr4(read_cr4() | CR4_PCIDE);
	map(b, CODE, page_alloc(), KRWX);
	write_cr3(a);
	for (unsigned i = 0; i < 500 && !case_bad(); i++) {
		write_cr3(b | 1ull << 63);
		map(a, CODE, page[i & 1], KRWX);
		switch (how) {
		case BY_INVPCID_ADDR:
			invpcid(0, 1, CODE);
			break;
		case BY_INVPCID_ONE:
			invpcid(1, 1, 0);
			break;
		case BY_INVPCID_ALL_GLOBAL:
			invpcid(2, 0, 0);
			break;
		case BY_INVPCID_ALL:
			invpcid(3, 0, 0);
			break;
		}
		write_cr3(how == BY_CR3 ? a : a | 1ull << 63);
		expect_eq((u32)CALL(CODE), i & 1, "page that ran");
	}
}

/* Tables are given up and the same page becomes another space's root. */
static void root_reused(u64 arg)
{
	u64 here = read_cr3(), root = space_new(), code[8], pool;

	for (unsigned i = 0; i < 8; i++)
		put_const(code[i] = page_alloc(), i);
	pool = pages_alloc(3, PAGE);
	for (unsigned i = 0; i < 1000 && !case_bad(); i++) {
		u64 va = CODE + (i & 3) * PAGE, *t = phys(root);

		memset(phys(pool), 0, 3 * PAGE);
		t[va >> 39 & 511] = pool | URWX;
		((u64 *)phys(pool))[va >> 30 & 511] = (pool + PAGE) | URWX;
		((u64 *)phys(pool + PAGE))[va >> 21 & 511] = (pool + 2 * PAGE) | URWX;
		((u64 *)phys(pool + 2 * PAGE))[va >> 12 & 511] = code[i * 3 & 7] | KRWX;
		write_cr3(root);
		expect_eq((u32)CALL(va), i * 3 & 7, "page that ran");
		write_cr3(here);
	}
}

/* ---- rights ---- */

static void expect_fetch(u64 va, bool ok, u64 err)
{
	struct regs r;

	regs_kernel(&r, va, (u64)this_cpu() + CPU_STACK_TOP - 0x4000);
	run(&r);
	if (ok) {
		expect_trap(&r, V_END, 0, va + 2);
	} else {
		expect_trap(&r, V_PF, err, va);
		expect_eq(this_cpu()->cr2, va, "CR2");
	}
}

SNIPPET(end_only, END)

static void right_toggled(u64 level_bit)
{
	unsigned level = level_bit & 3, bit = level_bit >> 2;
	u64 flag = 1ull << bit, err = bit == 63 ? PF_P | PF_I : PF_I;

	map_new(CODE, KRWX);
	code_put(CODE, end_only);
	for (unsigned i = 0; i < 300 && !case_bad(); i++) {
		bool ok = i % 3 != 2;

		if ((bit == 63) != ok)
			*pte_of(0, CODE, level) |= flag;
		else
			*pte_of(0, CODE, level) &= ~flag;
		barrier();
		invlpg(CODE);
		for (unsigned k = 0; k < 3; k++)
			expect_fetch(CODE, ok, err);
	}
}

static void smep(u64 arg)
{
	struct regs r;

	if (!HAS_SMEP)
		skip("CPUID offers no SMEP");
	map_new(CODE, URWX);
	code_put(CODE, end_only);
	for (unsigned i = 0; i < 300 && !case_bad(); i++) {
		write_cr4(i & 1 ? read_cr4() | CR4_SMEP : read_cr4() & ~CR4_SMEP);
		expect_fetch(CODE, !(i & 1), PF_P | PF_I);
		regs_user(&r, CODE, VA + 64);
		run(&r);
		expect_trap(&r, V_END, 0, CODE + 2);
	}
}

/* The user's right to a page comes and goes; the kernel always may. */
static void user_bit(u64 level)
{
	struct regs r;

	map_new(CODE, URWX);
	code_put(CODE, end_only);
	for (unsigned i = 0; i < 300 && !case_bad(); i++) {
		if (i & 1)
			*pte_of(0, CODE, level) &= ~P_U;
		else
			*pte_of(0, CODE, level) |= P_U;
		barrier();
		invlpg(CODE);
		expect_fetch(CODE, true, 0);
		regs_user(&r, CODE, VA + 64);
		run(&r);
		if (i & 1)
			expect_trap(&r, V_PF, PF_P | PF_U | PF_I, CODE);
		else
			expect_trap(&r, V_END, 0, CODE + 2);
	}
}

/* With EFER.NXE off, bit 63 is reserved, and fetches are not told from reads. */
static void nxe_off(u64 arg)
{
	map_new(CODE, KRWX);
	code_put(CODE, end_only);
	for (unsigned i = 0; i < 50 && !case_bad(); i++) {
		wrmsr(MSR_EFER, rdmsr(MSR_EFER) & ~EFER_NXE);
		*pte_of(0, CODE, 0) |= P_NX;
		write_cr3(read_cr3());
		expect_fetch(CODE, false, PF_P | PF_RSVD);
		wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_NXE);
		write_cr3(read_cr3());
		expect_fetch(CODE, false, PF_P | PF_I);
		*pte_of(0, CODE, 0) &= ~P_NX;
		write_cr3(read_cr3());
		expect_fetch(CODE, true, 0);
	}
}

/* ---- large pages ---- */

/* A large page becomes a table of small ones, one of which is another page; and back. */
static void split(u64 arg)
{
	u64 big = pages_alloc(512, LARGE), va = VA + 64 * LARGE, table = page_alloc(),
	    other = page_alloc();

	put_const(big + 3 * PAGE, 1);
	put_const(big + 4 * PAGE, 2);
	put_const(other, 3);
	for (unsigned i = 0; i < 512; i++)
		((u64 *)phys(table))[i] = (i == 4 ? other : big + i * PAGE) | KRWX;
	for (unsigned i = 0; i < 300 && !case_bad(); i++) {
		if (i & 1)
			*pte_of(0, va, 1) = table | KRWX;
		else
			map_large(0, va, big, KRWX);
		barrier();
		invlpg(va + (i % 512) * PAGE); /* any address of the page will do */
		if (i & 1) /* ... of the large one; the small ones are to be flushed one by one */
			invlpg(va + 4 * PAGE), invlpg(va + 3 * PAGE);
		else
			write_cr3(read_cr3());
		expect_eq((u32)CALL(va + 3 * PAGE), 1, "page of both");
		expect_eq((u32)CALL(va + 4 * PAGE), i & 1 ? 3 : 2, "page that differs");
	}
}

/* ---- instructions on two pages ---- */

/* mov $0x44332211, %eax with its last `n` bytes on the second page, then END. */
static void put_split(u64 pa1, u64 pa2, unsigned n, u32 value)
{
	u8 b[7] = {0xb8, (u8)value, (u8)(value >> 8), (u8)(value >> 16), (u8)(value >> 24),
	           0xcd, 0x50};

	for (unsigned i = 0; i < 7; i++)
		*(u8 *)phys(i < 5 - n ? pa1 + PAGE - (5 - n) + i : pa2 + i - (5 - n)) = b[i];
}

static void expect_split(u64 at, bool ok, u64 err, u32 value)
{
	struct regs r;

	regs_kernel(&r, at, (u64)this_cpu() + CPU_STACK_TOP - 0x4000);
	run(&r);
	if (ok) {
		expect_trap(&r, V_END, 0, at + 7);
		expect_eq(r.rax, value, "immediate");
	} else {
		expect_trap(&r, V_PF, err, at);
		expect_eq(this_cpu()->cr2, CODE + PAGE, "CR2");
	}
}

enum { FIRST_WRITTEN, SECOND_WRITTEN, SECOND_REMAPPED, SECOND_ABSENT, SECOND_NX };

static void two_pages(u64 what)
{
	u64 first = map_new(CODE, KRWX), second = map_new(CODE + PAGE, KRWX), other = page_alloc();

	for (unsigned i = 0; i < 200 && !case_bad(); i++) {
		unsigned n = 1 + i % 4;
		u64 at = CODE + PAGE - (5 - n);

		map(0, CODE + PAGE, second, KRWX);
		invlpg(CODE + PAGE);
		put_split(first, second, n, 0x44332211);
		serialize();
		expect_split(at, true, 0, 0x44332211);
		expect_split(at, true, 0, 0x44332211);
		switch (what) {
		case FIRST_WRITTEN:
			if (n == 4)
				continue; /* only the opcode is there */
			*(u8 *)(at + 1) = 0x99;
			expect_split(at, true, 0, 0x44332299);
			break;
		case SECOND_WRITTEN:
			*(u8 *)(at + 4) = 0x99;
			expect_split(at, true, 0, 0x99332211);
			break;
		case SECOND_REMAPPED:
			memcpy(phys(other), phys(second), 64);
			*(u8 *)phys(other + n - 1) = 0x77;
			map(0, CODE + PAGE, other, KRWX);
			invlpg(CODE + PAGE);
			expect_split(at, true, 0, 0x77332211);
			break;
		default:
			*pte_of(0, CODE + PAGE, 0) = what == SECOND_NX ? second | KRWX | P_NX : 0;
			barrier();
			invlpg(CODE + PAGE);
			expect_split(at, false, what == SECOND_NX ? PF_P | PF_I : PF_I, 0);
		}
	}
}

#define RIGHT(bit, level) ((bit) << 2 | (level))
static const struct test_case cases[] = {
	{"remap, INVLPG", remap, BY_INVLPG},
	{"remap, INVLPG of a global page", remap, BY_INVLPG | 16},
	{"remap, CR3 reload", remap, BY_CR3},
	{"remap, CR4.PGE toggled, global page", remap, BY_PGE | 16},
	{"remap, INVPCID of an address", remap, BY_INVPCID_ADDR},
	{"remap, INVPCID of a context", remap, BY_INVPCID_ONE},
	{"remap, INVPCID of all, global page", remap, BY_INVPCID_ALL_GLOBAL | 16},
	{"remap, INVPCID of all but global", remap, BY_INVPCID_ALL},
	{"remap, CR3 reload with PCID", remap, BY_CR3_PCID},
	{"next page remapped by the code itself", remap_own_next, 0},
	{"MOV CR3 inside a block", switch_inside, 0},
	{"address spaces", processes, PLAIN},
	{"address spaces with PCID, not flushed", processes, WITH_PCID},
	{"address spaces and a global page", processes, WITH_GLOBAL},
	{"user processes", user_processes, 0},
	{"user processes with PCID, not flushed", user_processes, 1},
	{"other PCID changed, CR3 load with flush", other_pcid, BY_CR3},
	{"other PCID changed, INVPCID of the address", other_pcid, BY_INVPCID_ADDR},
	{"other PCID changed, INVPCID of the context", other_pcid, BY_INVPCID_ONE},
	{"other PCID changed, INVPCID of all", other_pcid, BY_INVPCID_ALL_GLOBAL},
	{"other PCID changed, INVPCID of all but global", other_pcid, BY_INVPCID_ALL},
	{"root table reused", root_reused, 0},
	{"NX toggled, 4 KiB entry", right_toggled, RIGHT(63, 0)},
	{"NX toggled, directory entry", right_toggled, RIGHT(63, 1)},
	{"NX toggled, PML4 entry", right_toggled, RIGHT(63, 3)},
	{"present toggled, 4 KiB entry", right_toggled, RIGHT(0, 0)},
	{"SMEP toggled", smep, 0},
	{"user bit toggled, 4 KiB entry", user_bit, 0},
	{"user bit toggled, directory entry", user_bit, 1},
	{"EFER.NXE off", nxe_off, 0},
	{"large page split", split, 0},
	{"instruction on two pages, first written", two_pages, FIRST_WRITTEN},
	{"instruction on two pages, second written", two_pages, SECOND_WRITTEN},
	{"instruction on two pages, second remapped", two_pages, SECOND_REMAPPED},
	{"instruction on two pages, second absent", two_pages, SECOND_ABSENT},
	{"instruction on two pages, second not executable", two_pages, SECOND_NX},
};
TOPIC(stale, 1, cases);
