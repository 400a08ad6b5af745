// SPDX-License-Identifier: MIT
/* Data accesses and the page tables: accessed and dirty bits (SDM 3A 4.8), rights (4.6), what a
 * flush must do (4.10), at all sizes of pages. */
#include "rt.h"

#define DATA  (VA + 0x200000)
#define OTHER (VA + 0x400000)

/* What an access does to a page whose address is in RBX; registers as asm_access() gives them. */
#define READ    0
#define WRITE   1
#define NEITHER 2
#define ACCESSES(X)                                                                                \
	X(mov_load, READ, "movq (%rbx), %rax")                                                     \
	X(movb_load, READ, "movb 4095(%rbx), %al")                                                 \
	X(mov_store, WRITE, "movq %rax, (%rbx)")                                                   \
	X(movb_store, WRITE, "movb %al, 4095(%rbx)")                                               \
	X(add_load, READ, "addl 8(%rbx), %eax")                                                    \
	X(add_store, WRITE, "addl %eax, 8(%rbx)")                                                  \
	X(cmp, READ, "cmpb $1, (%rbx)")                                                            \
	X(test, READ, "testq %rax, (%rbx)")                                                        \
	X(bt, READ, "btl $3, (%rbx)")                                                              \
	X(bts, WRITE, "btsl $3, (%rbx)")                                                           \
	X(inc, WRITE, "incw (%rbx)")                                                               \
	X(not, WRITE, "notb (%rbx)")                                                               \
	X(shl0, WRITE, "shlb $1, (%rbx)")                                                          \
	X(xchg, WRITE, "xchgl %eax, (%rbx)")                                                       \
	X(xadd, WRITE, "lock xaddl %eax, (%rbx)")                                                  \
	X(cmpxchg_equal, WRITE, "xorl %eax, %eax; lock cmpxchgl %ecx, 64(%rbx)")                   \
	X(cmpxchg_unequal, WRITE, "movl $77, %eax; lock cmpxchgl %ecx, 64(%rbx)")                  \
	X(cmpxchg_plain, WRITE, "movl $77, %eax; cmpxchgl %ecx, 64(%rbx)")                         \
	X(cmpxchg16b, WRITE, "movl $77, %eax; lock cmpxchg16b 64(%rbx)")                           \
	X(push, WRITE, "movq %rsp, %rcx; leaq 512(%rbx), %rsp; pushq %rax; movq %rcx, %rsp")       \
	X(pop, READ, "movq %rsp, %rcx; movq %rbx, %rsp; popq %rax; movq %rcx, %rsp")               \
	X(call, WRITE, "movq %rsp, %rcx; leaq 512(%rbx), %rsp; call 1f; 1: movq %rcx, %rsp")       \
	X(push_mem, READ, "pushq (%rbx); popq %rax")                                               \
	X(pop_mem, WRITE, "pushq %rax; popq (%rbx)")                                               \
	X(lods, READ, "movq %rbx, %rsi; lodsl")                                                    \
	X(stos, WRITE, "movq %rbx, %rdi; stosl")                                                   \
	X(movs_from, READ, "movq %rbx, %rsi; movq %rdx, %rdi; movsq")                              \
	X(movs_to, WRITE, "movq %rdx, %rsi; movq %rbx, %rdi; movsq")                               \
	X(rep_movs_to, WRITE, "movq %rdx, %rsi; movq %rbx, %rdi; movl $64, %ecx; rep movsb")       \
	X(rep_movs_from, READ, "movq %rbx, %rsi; movq %rdx, %rdi; movl $64, %ecx; rep movsb")      \
	X(rep_none, NEITHER, "movq %rbx, %rdi; xorl %ecx, %ecx; rep stosb")                        \
	X(scas, READ, "movq %rbx, %rdi; scasb")                                                    \
	X(cmps, READ, "movq %rbx, %rdi; movq %rdx, %rsi; cmpsb")                                   \
	X(xlat, READ, "xorl %eax, %eax; xlatb")                                                    \
	X(lea, NEITHER, "leaq 8(%rbx), %rax")                                                      \
	X(nop, NEITHER, "nopl 8(%rbx)")                                                            \
	X(movups_load, READ, "movups (%rbx), %xmm0")                                               \
	X(movups_store, WRITE, "movups %xmm0, (%rbx)")                                             \
	X(fld, READ, "fldl (%rbx); fstp %st(0)")                                                   \
	X(fst, WRITE, "fldz; fstpl (%rbx)")                                                        \
	X(fxsave, WRITE, "fxsave (%rbx)")                                                          \
	X(stmxcsr, WRITE, "stmxcsr (%rbx)")                                                        \
	X(sgdt, WRITE, "sgdt (%rbx)")                                                              \
	X(setcc, WRITE, "setc (%rbx)")                                                             \
	X(cmov_false, READ, "testl %eax, %eax; stc; cmovncl (%rbx), %eax")                         \
	X(movnti, WRITE, "movnti %rax, (%rbx)")                                                    \
	X(jmp_mem, READ,                                                                           \
	  "leaq 1f(%rip), %rax; movq %rax, (%rdx); jmpq *(%rdx); 1: testb %al, (%rbx)")

#define X(n, kind, body) SNIPPET(ac_##n, body "\nret")
ACCESSES(X)
#undef X
#define X(n, kind, body) {ac_##n, kind},
static const struct {
	const u8 *code;
	u8 kind;
} access[] = {ACCESSES(X)};
#undef X

static void do_access(u64 which, u64 va)
{
	asm volatile("callq *%0" ::"r"(access[which].code), "b"(va), "d"(OTHER)
	             : "rax", "rcx", "rsi", "rdi", "memory", "cc");
}

static u64 ad(u64 va, unsigned level)
{
	return *pte_of(0, va, level) & (P_A | P_D);
}

static void ad_clear(u64 va, unsigned leaf)
{
	for (unsigned l = leaf; l < 4; l++)
		*pte_of(0, va, l) &= ~(P_A | P_D);
	barrier();
	invlpg(va);
}

static void expect_ad(u64 va, unsigned leaf, u64 want, const char *when)
{
	expect_eq(ad(va, leaf), want, when);
	for (unsigned l = leaf + 1; l < 4;
	     l++) /* D is ignored there, and the hardware leaves it alone */
		expect_eq(ad(va, l), want & P_A, "bits of an upper entry");
}

/* Cold; after a read has filled whatever is filled; cleared again after writes. */
static void ad_bits(u64 which)
{
	u64 want = access[which].kind == WRITE ? P_A | P_D : access[which].kind == READ ? P_A : 0;

	vector_on();
	map_new(DATA, KRWX);
	map_new(OTHER, KRWX);
	for (unsigned i = 0; i < 8 && !case_bad(); i++) {
		ad_clear(DATA, 0);
		do_access(which, DATA);
		expect_ad(DATA, 0, want, "bits after the access");
		do_access(which, DATA);
		expect_ad(DATA, 0, want, "bits after a second access");
		ad_clear(DATA, 0);
		(void)*(volatile u64 *)DATA;
		expect_ad(DATA, 0, P_A, "bits after a load");
		do_access(which, DATA);
		expect_ad(DATA, 0, want | P_A, "bits after a load and the access");
	}
}

static void ad_large(u64 level)
{
	u64 va = VA + (level == 2 ? 64ull << 30 : 0x40000000),
	    pa = level == 2 ? 0 : pages_alloc(512, LARGE);
	u64 at = va + (level == 2 ? page_alloc() : 5 * PAGE);

	if (level == 2 && !HAS_GBPAGES)
		skip("CPUID offers no pages of 1 GiB");
	*pte_of(0, va, (unsigned)level) = pa | KRWX | P_PS;
	for (unsigned i = 0; i < 8 && !case_bad(); i++) {
		ad_clear(va, (unsigned)level);
		(void)*(volatile u64 *)at;
		expect_ad(va, (unsigned)level, P_A, "bits after a load");
		*(volatile u64 *)(at + 8) = i;
		expect_ad(va, (unsigned)level, P_A | P_D, "bits after a store");
	}
}

static void ad_fetch(u64 arg)
{
	map_new(DATA, KRWX);
	*(u8 *)DATA = 0xc3;
	for (unsigned i = 0; i < 8; i++) {
		ad_clear(DATA, 0);
		CALL(DATA);
		expect_ad(DATA, 0, P_A, "bits after a fetch");
	}
}

/* Two pages by one access, and a fault on the second: the first is not dirty. */
static void ad_crossing(u64 arg)
{
	struct regs r;

	map_new(DATA, KRWX);
	map_new(DATA + PAGE, KRWX);
	ad_clear(DATA, 0);
	ad_clear(DATA + PAGE, 0);
	*(volatile u64 *)(DATA + PAGE - 4) = 1;
	expect_ad(DATA, 0, P_A | P_D, "first page");
	expect_ad(DATA + PAGE, 0, P_A | P_D, "second page");
	*pte_of(0, DATA + PAGE, 0) &= ~(P_W | P_D);
	ad_clear(DATA, 0);
	ad_clear(DATA + PAGE, 0);
	regs_kernel(&r, (u64)access[2].code, VA + 64); /* mov_store */
	r.rbx = DATA + PAGE - 4;
	run(&r);
	expect_trap(&r, V_PF, PF_P | PF_W, (u64)access[2].code);
	expect_eq(this_cpu()->cr2, DATA + PAGE, "CR2");
	expect_eq(ad(DATA + PAGE, 0) & P_D, 0, "D of the read-only page");
	expect_eq(*(u64 *)(DATA + PAGE - 4), 1, "data");
}

/* ---- rights ---- */

SNIPPET(load, "movq (%rbx), %rax\n" END)
SNIPPET(store, "movq %rdx, (%rbx)\n" END)
SNIPPET(modify, "lock addq %rdx, (%rbx)\n" END)

static bool user_access;
/* err: -1 none */
static void try_access(u8 *code, u64 va, s64 err)
{
	struct regs r;

	if (user_access)
		regs_user(&r, OTHER + (code == load ? 0 : code == store ? 64 : 128), VA + 64);
	else
		regs_kernel(&r, (u64)code, VA + 64);
	r.rbx = va;
	r.rdx = 3;
	run(&r);
	if (err < 0) {
		expect_eq(r.vector, V_END, "vector");
	} else {
		expect_eq(r.vector, V_PF, "vector");
		expect_eq(r.err, (u64)err, "error code");
		expect_eq(this_cpu()->cr2, va, "CR2");
	}
}

static void user_code(void)
{
	map_new(OTHER, P_P | P_W | P_U);
	code_put(OTHER, load);
	code_put(OTHER + 64, store);
	code_put(OTHER + 128, modify);
}

/* All combinations of W and U at two levels, both privileges, CR0.WP on and off. */
static void rights(u64 arg)
{
	user_code();
	map_new(DATA, URWX);
	for (unsigned n = 0; n < 64 && !case_bad(); n++) {
		bool w = (n & 1) && (n & 4), u = (n & 2) && (n & 8), wp = n & 16, ok;
		u64 page = *pte_of(0, DATA, 0), dir = *pte_of(0, DATA, 1);

		user_access = n & 32;
		*pte_of(0, DATA, 0) = (page & ~(P_W | P_U)) | (n & 1 ? P_W : 0) | (n & 2 ? P_U : 0);
		*pte_of(0, DATA, 1) = (dir & ~(P_W | P_U)) | (n & 4 ? P_W : 0) | (n & 8 ? P_U : 0);
		write_cr0(wp ? read_cr0() | CR0_WP : read_cr0() & ~CR0_WP);
		invlpg(DATA);
		for (unsigned k = 0; k < 2; k++) {
			ok = !user_access || u;
			try_access(load, DATA, ok ? -1 : PF_P | PF_U);
			ok = user_access ? u && w : w || !wp;
			try_access(store, DATA, ok ? -1 : PF_P | PF_W | (user_access ? PF_U : 0));
			try_access(modify, DATA, ok ? -1 : PF_P | PF_W | (user_access ? PF_U : 0));
		}
	}
	write_cr0(read_cr0() | CR0_WP);
}

/* CR0.WP changes what is allowed at once; no flush is needed by software. */
static void wp_toggled(u64 arg)
{
	map_new(DATA, P_P);
	user_access = false;
	for (unsigned i = 0; i < 100 && !case_bad(); i++) {
		write_cr0(read_cr0() & ~CR0_WP);
		try_access(store, DATA, -1);
		write_cr0(read_cr0() | CR0_WP);
		try_access(store, DATA, PF_P | PF_W);
		try_access(load, DATA, -1);
	}
}

SNIPPET(popf_ac, "pushfq; orl $0x40000, (%rsp); popfq; movq (%rbx), %rax\n"
                 "pushfq; andl $0xfffbffff, (%rsp); popfq; 1: movq (%rbx), %rax\n" END)
SNIPPET(stac_clac, "stac; movq (%rbx), %rax; movq %rax, (%rbx); clac; 1: movq (%rbx), %rax\n" END)
SNIPPET(smap_string, "stac; movl $16, %ecx; movq %rbx, %rsi; movq %rbx, %rdi; rep movsb\n"
                     "clac; movl $16, %ecx; 1: rep stosb\n" END)

static void smap(u64 arg)
{
	static const struct {
		const u8 *code;
		u64 err;
	} codes[] = {{popf_ac, PF_P}, {stac_clac, PF_P}, {smap_string, PF_P | PF_W}};
	struct regs r;

	if (!HAS_SMAP)
		skip("CPUID offers no SMAP");
	map_new(DATA, URWX);
	user_code();
	for (unsigned i = 0; i < 100 && !case_bad(); i++) {
		write_cr4(read_cr4() & ~CR4_SMAP);
		user_access = false;
		try_access(load, DATA, -1);
		write_cr4(read_cr4() | CR4_SMAP);
		try_access(load, DATA, PF_P);
		try_access(store, DATA, PF_P | PF_W);
		user_access = true;
		try_access(store, DATA, -1);
		for (unsigned k = 0; k < ARRAY_SIZE(codes); k++) {
			regs_kernel(&r, (u64)codes[k].code,
			            (u64)this_cpu() + CPU_STACK_TOP - 0x4000);
			r.rbx = DATA;
			run(&r);
			expect_eq(r.vector, V_PF, "vector");
			expect_eq(r.err, codes[k].err, "error code");
			expect_eq(r.rflags & F_AC, 0, "AC");
		}
		expect_eq(this_cpu()->cr2, DATA + 16, "CR2"); /* RDI of the string */
	}
	write_cr4(read_cr4() & ~CR4_SMAP);
}

static void reserved_bits(u64 level)
{
	user_access = false;
	map_new(DATA, KRWX);
	for (unsigned i = 0; i < 20 && !case_bad(); i++) {
		u64 *e = pte_of(0, DATA, (unsigned)level);

		*e |= 1ull << 51;
		barrier();
		invlpg(DATA);
		try_access(load, DATA, PF_P | PF_RSVD);
		try_access(store, DATA, PF_P | PF_RSVD | PF_W);
		*e &= ~(1ull << 51);
		barrier();
		invlpg(DATA);
		try_access(store, DATA, -1);
	}
}

/* ---- what is remembered ---- */

/* Many pages, more than any TLB holds, at strides that fall onto the same places in one. */
static void many_pages(u64 stride)
{
	enum { N = 700 };
	u64 at = VA + (1ull << 32);

	for (u64 i = 0; i < N; i++)
		map_new(at + i * stride, KRWX);
	for (u64 i = 0; i < N; i++)
		*(volatile u64 *)(at + i * stride) = i * 3;
	for (unsigned round = 0; round < 3; round++)
		for (u64 i = 0; i < N && !case_bad(); i++) {
			u64 k = (i * 263) % N;

			expect_eq(*(volatile u64 *)(at + k * stride), k * 3 + round, "data");
			++*(volatile u64 *)(at + k * stride);
		}
}

/* Loads and stores see the new page after the flush, whatever was cached for which of them. */
static void data_remapped(u64 by_cr3)
{
	u64 page[2] = {page_alloc(), page_alloc()};

	for (unsigned i = 0; i < 1000 && !case_bad(); i++) {
		*(u64 *)phys(page[0]) = 100 + i;
		*(u64 *)phys(page[1]) = 200 + i;
		map(0, DATA, page[i & 1], KRWX);
		if (by_cr3)
			write_cr3(read_cr3());
		else
			invlpg(DATA);
		if (i & 2)
			expect_eq(*(volatile u64 *)DATA, (i & 1 ? 200 : 100) + i, "load");
		*(volatile u64 *)DATA = 300 + i;
		expect_eq(*(u64 *)phys(page[i & 1]), 300 + i, "page that the store hit");
		expect_eq(*(u64 *)phys(page[~i & 1]), (i & 1 ? 100 : 200) + i, "other page");
	}
}

/* The registers of an address far from where they are at the access, where a check could be made
 * without saving the flags: constants whose sum has more than 32 bits must not become another
 * address, 4 GiB away. */
#define APART(disp, away)                                                                          \
	"leaq -" #away "(%rcx), %rcx; leaq -" #away "(%rax), %rax; cmpq %rdx, %rsi\n"              \
	"leaq " #away "(%rcx), %rcx; leaq " #away "(%rax), %rax\n"                                 \
	"movq %rdi, " #disp "(%rax,%rcx,8); setz %bl\n" END
SNIPPET(apart_up, APART(0x3ffffff0, 0x8000000))
SNIPPET(apart_down, APART(-0x40000000, -0x8000000))

static void far_apart(u64 down)
{
	const u8 *code = down ? apart_down : apart_up;
	u64 at = VA + (16ull << 30) + (down ? 0 : PAGE - 16);
	u64 other = down ? at + (1ull << 32) : at - (1ull << 32);
	struct regs r;

	map_new(other, KRWX);
	for (unsigned i = 0; i < 200 && !case_bad(); i++) {
		u64 there = i < 100 ? 0 : at;

		if (i == 100)
			map_new(at, KRWX);
		if (there)
			*(volatile u64 *)at = 0;
		*(volatile u64 *)other = 77;
		regs_kernel(&r, (u64)code, VA + 64);
		r.rcx = 0x100000;
		r.rax = at - (down ? -0x40000000ull : 0x3ffffff0ull) - 8 * r.rcx;
		r.rdi = i + 1;
		run(&r);
		expect_eq(r.vector, there ? V_END : V_PF, "vector");
		if (there)
			expect_eq(*(volatile u64 *)at, i + 1, "what was stored");
		else
			expect_eq(this_cpu()->cr2, at, "CR2");
		expect_eq(*(volatile u64 *)other, 77, "the page 4 GiB away");
	}
}

/* A push of memory that lies on two pages, which nothing has looked up yet, among other pushes:
 * what was known of the stack before it is known after it. */
SNIPPET(push_two_pages, "pushq %rax; pushq (%rbx); pushq %rcx; pushq %rdx\n" END)

static void pushes(u64 arg)
{
	u64 top = OTHER + 2048, *at = (u64 *)top;
	struct regs r;

	map_new(OTHER, KRWX);
	map_range(DATA, 2, KRWX);
	for (unsigned i = 0; i < 50 && !case_bad(); i++) {
		*(u64 *)(DATA + PAGE - 4) = 0x1122334455667788 + i;
		memset((void *)(top - 64), 0x55, 64);
		if (i & 1) {
			invlpg(DATA);
			invlpg(DATA + PAGE);
		}
		regs_kernel(&r, (u64)push_two_pages, top);
		r.rbx = DATA + PAGE - 4;
		run(&r);
		expect_eq(r.vector, V_END, "vector");
		expect_eq(r.rsp, top - 32, "RSP");
		expect_eq(at[-1], r.rax, "first");
		expect_eq(at[-2], 0x1122334455667788 + i, "from memory");
		expect_eq(at[-3], r.rcx, "third");
		expect_eq(at[-4], r.rdx, "fourth");
		expect_eq(at[-5], 0x5555555555555555, "below");
	}
}

/* As far from the code as a displacement goes, and from the start of its page farther. */
SNIPPET(lea_far, "leaq 0x7ffffff0(%rip), %rax; leaq -0x7ffffff0(%rip), %rcx\n" END)

static void lea_from_rip(u64 arg)
{
	struct regs r;

	map_new(OTHER, KRWX);
	for (u64 off = 0; off < PAGE - 32 && !case_bad(); off += 331) {
		code_put(OTHER + off, lea_far);
		regs_kernel(&r, OTHER + off, VA + 64);
		run(&r);
		expect_eq(r.vector, V_END, "vector");
		expect_eq(r.rax, OTHER + off + 7 + 0x7ffffff0, "upward");
		expect_eq(r.rcx, OTHER + off + 14 - 0x7ffffff0, "downward");
	}
}

/* A page in place of nothing needs no flush (SDM 3A 4.10.2.3: nothing is cached for it). */
static void became_present(u64 arg)
{
	user_access = false;
	for (unsigned i = 0; i < 300 && !case_bad(); i++) {
		u64 va = DATA + (i % 16) * PAGE;

		*pte_of(0, va, 0) = 0;
		barrier();
		invlpg(va);
		try_access(i & 1 ? load : store, va, i & 1 ? 0 : PF_W);
		map_new(va, KRWX);
		try_access(i & 2 ? load : store, va, -1);
		if (i == 200)
			memory_reset();
	}
}

/* A page table among its own pages. */
static void self_map(u64 arg)
{
	u64 table, va = VA + 0x600000;

	map_new(va, KRWX);
	table = *pte_of(0, va, 1) & P_ADDR;
	map(0, va + PAGE, table, KRWX); /* entry 1 of the table maps the table */
	for (unsigned i = 0; i < 200 && !case_bad(); i++) {
		u64 pa = page_alloc();

		*(u64 *)phys(pa) = i;
		((volatile u64 *)(va + PAGE))[2] = pa | KRWX;
		invlpg(va + 2 * PAGE);
		expect_eq(*(volatile u64 *)(va + 2 * PAGE), i, "data by the new entry");
		expect_eq(((volatile u64 *)(va + PAGE))[2] & P_A, P_A,
		          "A seen through the mapping");
	}
}

static void pcid_data(u64 arg)
{
	u64 a = read_cr3() | 1, b = space_new() | 2, keep = 1ull << 63, pa[2];

	if (!HAS_PCID)
		skip("CPUID offers no PCID");
	write_cr4(read_cr4() | CR4_PCIDE);
	map(a, DATA, pa[0] = page_alloc(), KRWX);
	map(b, DATA, pa[1] = page_alloc(), KRWX);
	write_cr3(b);
	write_cr3(a);
	for (unsigned i = 0; i < 2000 && !case_bad(); i++) {
		write_cr3((i & 1 ? b : a) | keep);
		expect_eq((*(volatile u64 *)DATA)++, i / 2, "counter of the space");
	}
	/* INVLPG is for the current PCID; the other's stale entry is dropped when it is flushed. */
	for (unsigned i = 0; i < 200 && !case_bad(); i++) {
		write_cr3(a | keep);
		*(u64 *)phys(pa[0]) = 1;
		*(u64 *)phys(pa[1]) = 2;
		map(a, DATA, pa[i & 1], KRWX);
		invlpg(DATA);
		expect_eq(*(volatile u64 *)DATA, 1 + (i & 1), "after INVLPG");
		write_cr3(b | keep);
		expect_eq(*(volatile u64 *)DATA, 2, "in the other space");
		map(a, DATA, pa[~i & 1], KRWX);
		write_cr3(a);
		expect_eq(*(volatile u64 *)DATA, 1 + (~i & 1), "after the load of CR3");
	}
}

#undef X
#define X(n, kind, body) {"A and D bits, " #n, ad_bits, __COUNTER__ - FIRST},
enum { FIRST = __COUNTER__ + 1 };
static const struct test_case cases[] = {
	ACCESSES(X){"A and D bits of a page of 2 MiB", ad_large, 1},
	{"A and D bits of a page of 1 GiB", ad_large, 2},
	{"A bit of a fetch", ad_fetch, 0},
	{"A and D bits, two pages", ad_crossing, 0},
	{"W, U and WP in all combinations", rights, 0},
	{"CR0.WP toggled", wp_toggled, 0},
	{"SMAP, STAC, CLAC, POPF", smap, 0},
	{"reserved bit in a 4 KiB entry", reserved_bits, 0},
	{"reserved bit in a PML4 entry", reserved_bits, 3},
	{"many pages in a row", many_pages, PAGE},
	{"many pages 4 MiB apart", many_pages, 4ull << 20},
	{"data remapped, INVLPG", data_remapped, 0},
	{"data remapped, CR3", data_remapped, 1},
	{"page in place of nothing", became_present, 0},
	{"page table that maps itself", self_map, 0},
	{"an address far above its registers", far_apart, 0},
	{"an address far below its registers", far_apart, 1},
	{"pushes, one of memory on two pages", pushes, 0},
	{"LEA of far from RIP", lea_from_rip, 0},
	{"PCID and data", pcid_data, 0},
};
TOPIC(dtlb, 1, cases);
