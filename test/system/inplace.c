// SPDX-License-Identifier: MIT
/* What a translator is tempted to do in place, or by the host's own instruction: REP strings, page
 * by page; bit strings; the state of the FPU; segment registers and flags. Each against what the
 * manual says, over page ends and through faults. */
#include "rt.h"

#define CODE  (VA + 0x10000)
#define STACK (VA + 0x21000)
#define SRC   (VA + 0x200000) /* three pages each */
#define DST   (VA + 0x400000)
#define SPAN  (3 * PAGE)

/* ---- REP MOVS, REP STOS ---- */

#define STRINGS(X) X(movsb) X(movsw) X(movsl) X(movsq) X(stosb) X(stosw) X(stosl) X(stosq)
#define X(n)                                                                                       \
	SNIPPET(up_##n, "cmpq %rax, %rbx; rep " #n "; " END)                                       \
	SNIPPET(down_##n, "std; cmpq %rax, %rbx; rep " #n "; cld; " END)                           \
	SNIPPET(dead_##n, "rep " #n "; cmpq %rax, %rbx; " END)
STRINGS(X)
#undef X
#define X(n) {{up_##n, down_##n, dead_##n}, {up_##n##_end, down_##n##_end, dead_##n##_end}},
/* With flags that matter behind it, going up and down; and with flags that don't. */
enum { UP, DOWN, DEAD };
static const struct {
	const u8 *code[3], *end[3];
} strings[] = {STRINGS(X)};
#undef X

static u8 model[2][SPAN]; /* what is to be in SRC, DST */

static u8 *at(u64 va) /* of the model */
{
	return va >= DST ? &model[1][va - DST] : &model[0][va - SRC];
}

/* The instruction by the book, until it touches page `hole` (0: none). */
static void by_the_book(struct regs *r, bool move, unsigned n, bool down, u64 hole)
{
	s64 step = down ? -(s64)n : (s64)n;

	for (; r->rcx; r->rcx--) {
		if (hole && ((move && r->rsi + n > hole && r->rsi < hole + PAGE) ||
		             (r->rdi + n > hole && r->rdi < hole + PAGE)))
			return;
		for (unsigned i = 0; i < n; i++)
			*at(r->rdi + i) = move ? *at(r->rsi + i) : (u8)(r->rax >> 8 * i);
		if (move)
			r->rsi += (u64)step;
		r->rdi += (u64)step;
	}
}

/* What is set and compared, bytes from the start of SRC and DST: all, or around the middle page's
 * start. */
struct window {
	unsigned from, to;
};
static const struct window whole = {0, SPAN}, near = {PAGE - 256, PAGE + 256};

static void set_memory(struct window w)
{
	for (unsigned i = 0; i < 2; i++)
		for (unsigned b = w.from; b < w.to; b++)
			*(u8 *)((i ? DST : SRC) + b) = model[i][b] =
				(u8)(b * 7 + (b >> 8) + i * 91);
}

static void same_memory(struct window w)
{
	for (unsigned i = 0; i < 2; i++)
		for (unsigned k = w.from; k < w.to; k++) {
			u64 va = (i ? DST : SRC) + k;

			if (*(volatile u8 *)va != model[i][k]) {
				fail("byte at %p is %x, not %x", va, *(volatile u8 *)va,
				     model[i][k]);
				return;
			}
		}
}

/* Distances from the middle page's start, elements; a hole there (1: SRC, 2: DST), or none. */
static void string_once(unsigned k, unsigned how, int so, int doff, u64 count, unsigned hole,
                        struct window w)
{
	bool down = how == DOWN;
	unsigned n = 1u << (k & 3);
	bool move = k < 4;
	u64 page = hole == 1 ? SRC + PAGE : hole == 2 ? DST + PAGE : 0, *pte = NULL, old = 0, v;
	struct regs r, want;

	code_copy(CODE, strings[k].code[how], strings[k].end[how]);
	set_memory(w);
	regs_kernel(&r, CODE, STACK);
	r.rsi = SRC + PAGE + (u64)(s64)so;
	r.rdi = DST + PAGE + (u64)(s64)doff;
	r.rcx = count;
	want = r;
	if (page) {
		pte = pte_of(0, page, 0);
		old = *pte;
		*pte = 0;
		invlpg(page);
	}
	by_the_book(&want, move, n, down, page);
	v = run(&r);
	if (want.rcx) {
		expect_eq(v, V_PF, "vector");
		expect_eq(this_cpu()->cr2 & ~(PAGE - 1), page, "page of CR2");
		expect_eq(r.rcx, want.rcx, "RCX at the fault");
		expect_eq(r.rsi, want.rsi, "RSI at the fault");
		expect_eq(r.rdi, want.rdi, "RDI at the fault");
		*pte = old;
		same_memory(w);
		by_the_book(&want, move, n, down, 0);
		r.rflags &= ~F_RF;
		v = run(&r);
	} else if (pte) {
		*pte = old;
	}
	expect_eq(v, V_END, "vector at the end");
	expect_eq(r.rcx, 0, "RCX");
	expect_eq(r.rsi, want.rsi, "RSI");
	expect_eq(r.rdi, want.rdi, "RDI");
	same_memory(w);
}

static void string_faults(u64 arg)
{
	static const int offs[] = {-61, -8, -1, 0, 40};
	bool down = arg & 16;
	unsigned k = arg & 15;

	map_range(CODE, 1, KRWX);
	map_range(STACK - PAGE, 1, KRWX);
	map_range(SRC, 3, KRWX);
	map_range(DST, 3, KRWX);
	set_memory(whole);
	for (unsigned i = 0; i < ARRAY_SIZE(offs) && !case_bad(); i++)
		for (unsigned j = 0; j < ARRAY_SIZE(offs) && !case_bad(); j++)
			for (unsigned hole = 0; hole < 3; hole++)
				string_once(k, down, offs[i], offs[j], 20, hole, near);
	string_once(k, down, down ? 4000 : -4000, down ? 3000 : -3000, 700, 0, whole);
	string_once(k, down, 5, 9, 0, 1, near);
	same_memory(whole);
}

/* Few elements, and one more than that; each time the second time with the pages known. */
static void string_few(u64 k)
{
	static const int offs[] = {-128, -9, -1, 0, 40};
	static const u8 counts[] = {0, 1, 5, 16, 17};

	map_range(CODE, 1, KRWX);
	map_range(STACK - PAGE, 1, KRWX);
	map_range(SRC, 3, KRWX);
	map_range(DST, 3, KRWX);
	set_memory(whole);
	for (unsigned i = 0; i < ARRAY_SIZE(offs); i++)
		for (unsigned j = 0; j < ARRAY_SIZE(offs) && !case_bad(); j++)
			for (unsigned n = 0; n < ARRAY_SIZE(counts); n++)
				for (unsigned hole = 0; hole < 3; hole++)
					string_once((unsigned)k, DEAD, offs[i], offs[j], counts[n],
					            hole, near);
	same_memory(whole);
}

/* Forward over itself: what was written is read again. */
static void string_overlap(u64 arg)
{
	static const u8 dist[] = {1, 2, 8, 9, 64};

	map_range(CODE, 1, KRWX);
	map_range(STACK - PAGE, 1, KRWX);
	map_range(SRC, 3, KRWX);
	for (unsigned i = 0; i < ARRAY_SIZE(dist) && !case_bad(); i++) {
		struct regs r;

		code_copy(CODE, strings[arg].code[0], strings[arg].end[0]);
		for (unsigned b = 0; b < SPAN; b++)
			*(u8 *)(SRC + b) = model[0][b] = (u8)(b * 7 + (b >> 8));
		regs_kernel(&r, CODE, STACK);
		r.rsi = SRC + PAGE - 200;
		r.rdi = r.rsi + dist[i];
		r.rcx = 100;
		for (u64 b = 0; b < r.rcx; b++) /* element by element */
			for (unsigned e = 0; e < 1u << arg; e++) {
				u64 o = PAGE - 200 + (b << arg) + e;
				static u8 one[8];

				if (!e)
					memcpy(one, &model[0][o], 8);
				model[0][o + dist[i]] = one[e];
			}
		expect_eq(run(&r), V_END, "vector");
		expect(!memcmp((void *)SRC, model[0], SPAN));
	}
}

SNIPPET(const_1, "movl $1, %eax; ret")
SNIPPET(const_2, "movl $2, %eax; ret")

/* Over a page that was executed: the new code runs. */
static void string_on_code(u64 arg)
{
	map_range(SRC, 3, KRWX);
	map_range(DST, 3, KRWX);
	for (unsigned i = 0; i < 200 && !case_bad(); i++) {
		u64 want = (i & 1) + 1, di = DST + PAGE - 100, si = SRC + PAGE - 300, n = 400;

		code_copy(si + 100, i & 1 ? const_2 : const_1, i & 1 ? const_2_end : const_1_end);
		if (arg)
			asm volatile("rep movsq" : "+D"(di), "+S"(si), "+c"(n)::"memory");
		else
			asm volatile("rep movsb" : "+D"(di), "+S"(si), "+c"(n)::"memory");
		serialize();
		for (unsigned k = 0; k < 3; k++)
			expect_eq(CALL(DST + PAGE), want, "code that was copied");
		di = DST + PAGE;
		n = 16;
		if (i % 5 == 0) { /* c3c3...: RET */
			asm volatile("rep stosb" : "+D"(di), "+c"(n) : "a"(0xc3) : "memory");
			serialize();
			CALL(DST + PAGE);
		}
	}
}

/* ---- bit strings ---- */

/* It would move the lines of this table about each time it runs. */
/* clang-format off */
#define BITS(X)                                                                                    \
	X(bt, 0, "btq %rcx, (%rdi)")                                                               \
	X(bts, 1, "btsq %rcx, (%rdi)")                                                             \
	X(btr, 2, "btrq %rcx, (%rdi)")                                                             \
	X(btc, 3, "btcq %rcx, (%rdi)")                                                             \
	X(lock_bts, 1, "lock btsq %rcx, (%rdi)")                                                   \
	X(bt32, 4, "btl %ecx, (%rdi)")                                                             \
	X(bts32, 5, "btsl %ecx, (%rdi)")                                                           \
	X(btr_r14, 2, "movq %rcx, %r14; btrq %r14, (%rdi)")                                        \
	X(bt_r15, 0, "movq %rcx, %r15; movq %rdi, %r13; btq %r15, (%r13)")                         \
	X(btc_live, 3, "cmpq %rax, %rdx; btcq %rcx, (%rdi); seto %r8b; setz %r9b; sets %r10b")     \
	X(bts_gs, 1, "btsq %rcx, %gs:8(%rsi)")
/* clang-format on */
#define X(n, what, body) SNIPPET(bit_##n, "clc; " body "; setc %bl; " END)
BITS(X)
#undef X
#define X(n, what, body) {bit_##n, bit_##n##_end, what, #n},
static const struct {
	const u8 *code, *end;
	unsigned what; /* 0 BT, 1 BTS, 2 BTR, 3 BTC; 4: of 32 bits */
	const char *name;
} bits[] = {BITS(X)};
#undef X

enum {
#define X(n, what, body) BIT_##n,
	BITS(X)
#undef X
};

static void bit_strings(u64 arg)
{
	static const s64 index[] = {0,   1,    31,   32,    63,    64,    65,    -1,     -32,  -64,
	                            -65, 4095, 4096, 16000, 16383, 16384, 20000, -16385, -8193};
	u64 pattern = 0xa5c3f00f96693c5aull;
	bool live = arg == BIT_btc_live;

	map_range(CODE, 1, KRWX);
	map_range(STACK - PAGE, 1, KRWX);
	map_range(SRC, 3, KRWX);
	code_copy(CODE, bits[arg].code, bits[arg].end);
	wrmsr(MSR_GS_BASE, 0x1000);
	for (unsigned i = 0; i < ARRAY_SIZE(index) && !case_bad(); i++)
		/* LOCK across cache lines costs a host that detects split locks up to a second. */
		for (unsigned o = 0; o < (arg == BIT_lock_bts ? 4 : 8); o += 4) {
			u64 base = SRC + PAGE + 2040 + o, byte;
			struct regs r;
			u8 *p, was, bit, now;

			for (u64 a = SRC; a < SRC + SPAN; a += 8)
				*(u64 *)a = pattern ^ a * 0x9e3779b97f4a7c15ull;
			regs_kernel(&r, CODE, STACK);
			r.rdi = base;
			r.rsi = base - 8 - 0x1000;
			r.rcx = (u64)index[i];
			r.rax = 5;
			r.rdx = 5;
			if (bits[arg].what & 4)
				r.rcx = (u32)r.rcx | 0xabcd00000000ull;
			byte = base + (u64)(index[i] >> 3);
			p = (u8 *)byte;
			bit = (u8)(1u << (index[i] & 7));
			was = *p;
			now = (u8)((bits[arg].what & 3) == 0   ? was
			           : (bits[arg].what & 3) == 1 ? was | bit
			           : (bits[arg].what & 3) == 2 ? was & ~bit
			                                       : was ^ bit);
			expect_eq(run(&r), V_END, bits[arg].name);
			expect_eq(r.rbx & 0xff, !!(was & bit), "CF");
			expect_eq(*p, now, "the byte");
			*p = was;
			for (u64 a = SRC; a < SRC + SPAN; a += 8)
				if (*(u64 *)a != (pattern ^ a * 0x9e3779b97f4a7c15ull)) {
					fail("%s changed what is at %p", bits[arg].name, a);
					break;
				}
			if (live) { /* ZF is not changed; the others are undefined */
				expect_eq(r.r9 & 0xff, 1, "ZF");
			}
		}
	wrmsr(MSR_GS_BASE, 0);
}

/* ---- the FPU's state ---- */

#define IMAGE (SRC + 64)

static void load_xmm(u64 seed)
{
	u64 v[4] = {seed, ~seed, seed * 3, seed * 5};

	asm volatile("vmovdqu (%0), %%ymm3; vmovdqu (%0), %%ymm15" ::"r"(v) : "memory");
}

static bool xmm_is(u64 seed, bool low, bool high)
{
	u64 v[4], w[4];

	asm volatile("vmovdqu %%ymm3, (%0); vmovdqu %%ymm15, (%1)" ::"r"(v), "r"(w) : "memory");
	return !memcmp(v, w, 32) && (v[0] == (low ? seed : 0)) && v[1] == (low ? ~seed : 0) &&
	       v[2] == (high ? seed * 3 : 0) && v[3] == (high ? seed * 5 : 0);
}

#define XOP(name, insn)                                                                            \
	static void name(u64 image, u32 mask)                                                      \
	{                                                                                          \
		asm volatile(insn " (%0)" ::"r"(image), "a"(mask), "d"(0) : "memory");             \
	}
XOP(xsave, "xsave64")
XOP(xsavec, "xsavec64")
XOP(xrstor, "xrstor64")

static void fpu_begin(bool compact)
{
	u32 r[4];

	if (!HAS_AVX)
		skip("CPUID offers no AVX");
	cpuid(0xd, 1, r);
	if (compact && !(r[0] & 2))
		skip("CPUID offers no XSAVEC");
	vector_on();
	map_range(SRC, 3, KRWX);
	asm volatile("fninit");
}

static void fpu_round(u64 compact)
{
	u64 *bv = (u64 *)(IMAGE + 512);

	fpu_begin(compact);
	for (u64 image = IMAGE; image < IMAGE + PAGE && !case_bad(); image += 320) {
		bv = (u64 *)(image + 512);
		memset((void *)image, 0, 1024);
		asm volatile("vzeroall");
		load_xmm(image);
		(compact ? xsavec : xsave)(image, 7);
		expect_eq(bv[0] & 6, 6, "XSTATE_BV");
		expect_eq(bv[1], compact ? 1ull << 63 | 7 : 0, "XCOMP_BV");
		load_xmm(1);
		xrstor(image, 7);
		expect(xmm_is(image, true, true));
		load_xmm(2);
		xrstor(image, 2); /* SSE alone */
		expect(!xmm_is(2, true, true) && !xmm_is(image, true, true));
		load_xmm(3);
		bv[0] &= ~4ull; /* AVX goes to where it begins */
		xrstor(image, 7);
		expect(xmm_is(image, true, false));
		bv[0] = 0;
		xrstor(image, 7);
		expect(xmm_is(image, false, false));
	}
}

/* x87 in use: the pointers are the guest's. */
static void fpu_x87(u64 compact)
{
	u64 ip;

	fpu_begin(compact);
	for (unsigned i = 0; i < 3; i++) {
		memset((void *)IMAGE, 0, 1024);
		*(u64 *)(IMAGE + 512) = 1ull << 40; /* stays, but for XSAVEC */
		asm volatile("fninit; leaq 1f(%%rip), %0; 1: fldpi" : "=r"(ip));
		(compact ? xsavec : xsave)(IMAGE, 7);
		expect_eq(*(u64 *)(IMAGE + 8), ip, "FIP");
		expect_eq(*(u64 *)(IMAGE + 512) & ~6ull, compact ? 1 : 1ull << 40 | 1, "XSTATE_BV");
		*(u64 *)(IMAGE + 512) &= 7;
		asm volatile("fninit");
		xrstor(IMAGE, 7);
		memset((void *)IMAGE, 0, 1024);
		(compact ? xsavec : xsave)(IMAGE, 7);
		expect_eq(*(u64 *)(IMAGE + 8), ip, "FIP, restored");
		expect_eq(*(u16 *)(IMAGE + 40), 0x4000, "exponent of pi");
		asm volatile("fninit");
	}
}

SNIPPET(do_xrstor, "xrstor64 (%rdi); " END)

/* An image that must not be loaded, in each way, leaves the registers alone. */
static void fpu_bad(u64 arg)
{
	static const struct {
		u16 off;
		u64 val;
	} bad[] = {{512, 1ull << 62}, {512, 8},
	           {520, 1},          {520, 1ull << 63 | 1ull << 62},
	           {528, 1},          {520, 1ull << 63 | 1},
	           {24, 0xffff0000}};

	fpu_begin(true);
	map_range(CODE, 1, KRWX);
	map_range(STACK - PAGE, 1, KRWX);
	code_put(CODE, do_xrstor);
	load_xmm(77);
	(arg ? xsavec : xsave)(IMAGE, 7);
	for (unsigned i = 0; i < ARRAY_SIZE(bad) && !case_bad(); i++) {
		u64 *p = (u64 *)(IMAGE + bad[i].off), old = *p;
		struct regs r;

		if (arg ? i == 2 : i == 5)
			continue; /* not bad there */
		*p = bad[i].val;
		regs_kernel(&r, CODE, STACK);
		r.rdi = IMAGE;
		r.rax = 7;
		r.rdx = 0;
		load_xmm(78);
		expect_eq(run(&r), V_GP, "vector");
		expect_eq(r.rip, CODE, "RIP");
		expect(xmm_is(78, true, true));
		*p = old;
	}
}

/* ---- an instruction over two pages ---- */

/* mov $5, %eax; ret, from the end of a page into the next one: another, or itself once more. */
static void straddling(u64 itself)
{
	u64 first = page_alloc(), second = itself ? first : page_alloc();
	static const u8 head[] = {0xb8, 5}, tail[] = {0, 0, 0, 0xc3};

	memcpy(phys(first + PAGE - 2), head, 2);
	memcpy(phys(second), tail, 4);
	map(0, CODE, first, KRWX);
	map(0, CODE + PAGE, second, KRWX);
	for (unsigned i = 0; i < 200 && !case_bad(); i++) {
		expect_eq(CALL(CODE + PAGE - 2), 5, "what the instruction loads");
		if (i % 3)
			write_cr3(read_cr3());
	}
	if (itself)
		return;
	for (unsigned i = 0; i < 50 && !case_bad(); i++) { /* another page behind it */
		u64 other = i & 1 ? second : page_alloc();

		memcpy(phys(other), tail, 4);
		*(u8 *)phys(other) = (u8)(i & 1 ? 0 : i);
		map(0, CODE + PAGE, other, KRWX);
		invlpg(CODE + PAGE);
		expect_eq(CALL(CODE + PAGE - 2), i & 1 ? 5 : 5 | i << 8, "after INVLPG");
	}
}

/* ---- registers of the system ---- */

SNIPPET(get_sreg,
        "movq $-1, %rax; movq %rax, %rbx; movq %rax, %r14; movq %rax, %r15; movq %rax, %rdx\n"
        "movl %cs, %eax; movw %ss, %bx; movq %cs, %r14; movw %cs, %r15w; movl %ss, %edx\n" END)

static void segment_registers(u64 arg)
{
	struct regs r;

	map_range(CODE, 1, arg ? URWX : KRWX);
	map_range(STACK - PAGE, 1, arg ? URWX : KRWX);
	code_put(CODE, get_sreg);
	if (arg) {
		idt_open(V_END);
		regs_user(&r, CODE, STACK);
	} else {
		regs_kernel(&r, CODE, STACK);
	}
	expect_eq(run(&r), V_END, "vector");
	expect_eq(r.rax, r.cs, "CS, 32 bits");
	expect_eq(r.rbx, ~0xffffull | r.ss, "SS, 16 bits");
	expect_eq(r.r14, r.cs, "CS, 64 bits");
	expect_eq(r.r15, ~0xffffull | r.cs, "CS, 16 bits");
	expect_eq(r.rdx, r.ss, "SS, 32 bits");
}

SNIPPET(bases, "rdfsbase %r14; wrfsbase %rbx; rdfsbase %rcx; rdfsbase %edx; movq %fs:(%rax), %r8\n"
               "bad_base: wrfsbase %rsi; " END)
extern u8 bad_base[];

static void segment_bases(u64 arg)
{
	u64 *data = (u64 *)SRC;
	struct regs r;

	if (!HAS_FSGSBASE)
		skip("CPUID offers no FSGSBASE");
	map_range(CODE, 1, KRWX);
	map_range(STACK - PAGE, 1, KRWX);
	map_range(SRC, 1, KRWX);
	code_put(CODE, bases);
	data[3] = 0x1234567887654321ull;
	wrmsr(MSR_FS_BASE, 0xffff800000123000ull);
	write_cr4(read_cr4() | CR4_FSGSBASE);
	for (unsigned i = 0; i < 3; i++) {
		regs_kernel(&r, CODE, STACK);
		wrmsr(MSR_FS_BASE, 0xffff800000123000ull);
		r.rbx = SRC + 16;
		r.rax = 8;
		r.rsi = 1ull << 47;
		expect_eq(run(&r), V_GP, "WRFSBASE of what is not canonical");
		expect_eq(r.rip, CODE + (u64)(bad_base - bases), "RIP");
		expect_eq(r.r14, 0xffff800000123000ull, "the base before");
		expect_eq(r.rcx, SRC + 16, "the base");
		expect_eq(r.rdx, (u32)(SRC + 16), "its lower half");
		expect_eq(r.r8, data[3], "what is there");
		expect_eq(rdmsr(MSR_FS_BASE), SRC + 16, "by MSR");
	}
	write_cr4(read_cr4() & ~CR4_FSGSBASE);
	regs_kernel(&r, CODE, STACK);
	expect_eq(run(&r), V_UD, "without CR4.FSGSBASE");
	wrmsr(MSR_FS_BASE, 0);
}

SNIPPET(images,
        "pushfq; popq %r14; std; pushfq; popq %r13; cld; cmpq %rbx, %rcx; pushfq; popq %rax\n"
        "addq %rdx, %rdx; pushfq; seto %sil; popq %r12\n" END)

static void flag_images(u64 arg)
{
	static const u64 in[] = {0, F_CF, F_OF | F_SF, F_ARITH, F_ZF | F_PF, F_AF};
	struct regs r;

	map_range(CODE, 1, KRWX);
	map_range(STACK - PAGE, 1, KRWX);
	code_put(CODE, images);
	for (unsigned i = 0; i < ARRAY_SIZE(in); i++) {
		regs_kernel(&r, CODE, STACK);
		r.rflags = (r.rflags & ~F_ARITH) | in[i];
		r.rbx = 1;
		r.rcx = 0;
		r.rdx = 1ull << 62;
		expect_eq(run(&r), V_END, "vector");
		expect_eq(r.r14 & (F_ARITH | F_DF | F_1), in[i] | F_1, "flags as they came");
		expect_eq(r.r13 & (F_ARITH | F_DF), in[i] | F_DF, "with DF");
		expect_eq(r.rax & (F_ARITH | F_DF), F_CF | F_PF | F_AF | F_SF, "of 0 - 1");
		expect_eq(r.r12 & F_ARITH, F_OF | F_SF | F_PF, "of 2^62 + 2^62");
		expect_eq(r.rsi & 0xff, 1, "OF behind PUSHF");
		expect_eq(r.rsp, STACK, "RSP");
	}
}

SNIPPET(two_times, "rdtsc; shlq $32, %rdx; leaq (%rax,%rdx), %r8; rdtscp; shlq $32, %rdx\n"
                   "leaq (%rax,%rdx), %r9; movq %rcx, %r10; " END)

static void time_stamps(u64 arg)
{
	u64 last = 0;
	struct regs r;

	if (!cpu_has(0x80000001, 3, 27))
		skip("CPUID offers no RDTSCP");
	map_range(CODE, 1, URWX);
	map_range(STACK - PAGE, 1, URWX);
	code_put(CODE, two_times);
	idt_open(V_END);
	wrmsr(0xc0000103, 0x1234);
	for (unsigned i = 0; i < 20; i++) {
		(i & 1 ? regs_user : regs_kernel)(&r, CODE, STACK);
		if (!(i & 1))
			map(0, CODE, *pte_of(0, CODE, 0) & P_ADDR, KRWX);
		else
			map(0, CODE, *pte_of(0, CODE, 0) & P_ADDR, URWX);
		invlpg(CODE);
		last = rdtsc();
		expect_eq(run(&r), V_END, "vector");
		expect(r.r8 >= last && r.r9 >= r.r8 && rdtsc() >= r.r9);
		expect(r.r9 - last < 1ull << 40);
		expect_eq(r.r10, 0x1234, "TSC_AUX");
	}
	map(0, CODE, *pte_of(0, CODE, 0) & P_ADDR, URWX);
	invlpg(CODE);
	write_cr4(read_cr4() | 4); /* TSD */
	regs_user(&r, CODE, STACK);
	expect_trap((run(&r), &r), V_GP, 0, CODE);
	write_cr4(read_cr4() & ~4ull);
}

#define S(n, k)                                                                                    \
	{"rep " #n ", faults", string_faults, k}, {"rep " #n ", few", string_few, k},              \
	{                                                                                          \
		"rep " #n " down", string_faults, (k) | 16                                         \
	}
static const struct test_case cases[] = {
	S(movsb, 0),
	S(movsw, 1),
	S(movsl, 2),
	S(movsq, 3),
	S(stosb, 4),
	S(stosw, 5),
	S(stosl, 6),
	S(stosq, 7),
	{"rep movsb over itself", string_overlap, 0},
	{"rep movsl over itself", string_overlap, 2},
	{"rep movsq over itself", string_overlap, 3},
	{"rep movsb over code", string_on_code, 0},
	{"rep movsq over code", string_on_code, 1},
#define X(n, what, body) {"bits, " #n, bit_strings, BIT_##n},
	BITS(X)
#undef X
		{"xsave, xrstor", fpu_round, 0},
	{"xsavec, xrstor", fpu_round, 1},
	{"xsave of x87", fpu_x87, 0},
	{"xsavec of x87", fpu_x87, 1},
	{"xrstor of a bad image", fpu_bad, 0},
	{"xrstor of a bad compacted image", fpu_bad, 1},
	{"straddling", straddling, 0},
	{"straddling into itself", straddling, 1},
	{"segment registers", segment_registers, 0},
	{"segment registers, CPL 3", segment_registers, 1},
	{"segment bases", segment_bases, 0},
	{"images of the flags", flag_images, 0},
	{"time stamps", time_stamps, 0},
};
TOPIC(inplace, 1, cases);
