// SPDX-License-Identifier: MIT
/* Self-modifying code on one CPU: every store must be seen by the next instruction that is fetched
 * from there, without any serialization when the store used the same linear address (SDM 3A 9.1.3),
 * and after a serializing instruction or a jump otherwise. */
#include "rt.h"

#define CODE (VA + 0x10000)

/* What another linear address or a device of the pipeline may need. */
static void sync_code(void)
{
	serialize();
}

static u64 code_page(void)
{
	return map_new(CODE, KRWX);
}

/* ---- stores by the code itself ---- */

SNIPPET(next_insn, "movl $0x22222222, 1f+1(%rip)\n"
                   "1: movl $0x11111111, %eax\n"
                   "ret")
SNIPPET(this_block, "movl $0x22222222, 1f+1(%rip)\n"
                    "movl %eax, %ecx; addl $5, %ecx; nop; leal 1(%rcx), %edx; nop; nop\n"
                    "1: movl $0x11111111, %eax\n"
                    "ret")
SNIPPET(later_block, "movl $0x22222222, 1f+1(%rip)\n"
                     "jmp 2f\n"
                     "3: ret\n"
                     "2: testl %eax, %eax; jz 1f\n"
                     "nop\n"
                     "1: movl $0x11111111, %eax\n"
                     "jmp 3b")
SNIPPET(by_register, "leaq 1f(%rip), %rdx; movl $0x22222222, %ecx\n"
                     "movl %ecx, 1(%rdx)\n"
                     "1: movl $0x11111111, %eax\n"
                     "ret")
SNIPPET(by_push, "movq %rsp, %rdx; leaq 1f+8(%rip), %rsp\n"
                 "movabsq $0x90909022222222b8, %rcx\n" /* mov $0x222222, %eax; nop; .. */
                 "pushq %rcx; movq %rdx, %rsp\n"
                 ".balign 8\n"
                 "1: movl $0x11111111, %eax; nop; nop; nop\n"
                 "ret")
static const struct {
	const u8 *start, *end;
} self_stores[] = {
	{next_insn, next_insn_end},     {this_block, this_block_end},
	{later_block, later_block_end}, {by_register, by_register_end},
	{by_push, by_push_end},
};

/* Cold, then again and again with the old bytes put back. */
static void self_store(u64 which)
{
	code_page();
	for (unsigned i = 0; i < 300 && !case_bad(); i++) {
		code_copy(CODE, self_stores[which].start, self_stores[which].end);
		sync_code();
		expect_eq(CALL(CODE) & 0xffffffff, 0x22222222, "result");
	}
}

/* The loop's head gets a new immediate from its body each time round. */
SNIPPET(loop_head, "xorl %eax, %eax; movl $1000, %ecx\n"
                   "1: addl $1, %eax; nop\n" /* 83 c0 ib */
                   "jmp 2f\n"
                   "2: xorb $3, 1b+2(%rip)\n" /* 1, 2, 1, 2 */
                   "decl %ecx; jnz 1b\n"
                   "ret")
SNIPPET(hot_imm, "xorl %eax, %eax; movl $2000, %ecx\n"
                 "1: addl $0x10000000, %eax\n" /* 05 id */
                 "incl 1b+1(%rip)\n"
                 "decl %ecx; jnz 1b\n"
                 "ret")

static void earlier_block(u64 arg)
{
	code_page();
	code_put(CODE, loop_head);
	expect_eq(CALL(CODE) & 0xffffffff, 1500, "sum");
}

static void hot_immediate(u64 arg)
{
	u32 want = 0;

	code_page();
	code_put(CODE, hot_imm);
	for (u32 i = 0; i < 2000; i++)
		want += 0x10000000 + i;
	expect_eq(CALL(CODE) & 0xffffffff, want, "sum");
}

/* ---- stores of every kind and size over a sled ---- */

/* A sled of ADD imm8, %al (04 ib) whose sum tells which bytes the CPU saw. A store writes 04 ib
 * pairs. */
#define SLED 64

static void sled_make(u8 *p)
{
	*p++ = 0x31, *p++ = 0xc0; /* xor %eax, %eax */
	for (unsigned i = 0; i < SLED; i++)
		*p++ = 0x04, *p++ = 1;
	*p = 0xc3;
}

static u8 sled_sum(const u8 *p)
{
	u8 sum = 0;

	for (unsigned i = 0; i < SLED; i++)
		sum = (u8)(sum + p[3 + 2 * i]);
	return sum;
}

static void store(u8 *at, const u8 *src, unsigned size)
{
	switch (size) {
	case 1:
		asm volatile("movb (%1), %%al; movb %%al, (%0)" ::"r"(at), "r"(src)
		             : "rax", "memory");
		break;
	case 2:
		asm volatile("movw (%1), %%ax; movw %%ax, (%0)" ::"r"(at), "r"(src)
		             : "rax", "memory");
		break;
	case 4:
		asm volatile("movl (%1), %%eax; movl %%eax, (%0)" ::"r"(at), "r"(src)
		             : "rax", "memory");
		break;
	case 8:
		asm volatile("movq (%1), %%rax; movq %%rax, (%0)" ::"r"(at), "r"(src)
		             : "rax", "memory");
		break;
	case 16:
		asm volatile("movups (%1), %%xmm0; movups %%xmm0, (%0)" ::"r"(at), "r"(src)
		             : "memory");
		break;
	default:
		asm volatile("vmovups (%1), %%ymm0; vmovups %%ymm0, (%0)" ::"r"(at), "r"(src)
		             : "memory");
	}
}

static void store_size(u64 size)
{
	static u8 bytes[64];
	u8 *code = (u8 *)CODE;

	if (size == 32 && !HAS_AVX)
		skip("CPUID offers no AVX");
	vector_on();
	code_page();
	map_new(CODE + PAGE, KRWX);
	for (unsigned round = 0; round < 48 && !case_bad(); round++) {
		/* The last rounds lie across the border of two pages. */
		u8 *sled = round < 32 ? code : code + PAGE - 80;
		unsigned off = round < 32 ? 2 + round : 30 + round;

		sled_make(sled);
		sync_code();
		expect_eq(CALL((u64)sled) & 0xff, SLED, "sum of the sled as made");
		for (unsigned i = 0; i < sizeof(bytes); i++)
			bytes[i] = (off + i) & 1 ? (u8)(3 + round + i) : 4;
		store(sled + off, bytes, (unsigned)size);
		expect_eq(CALL((u64)sled) & 0xff, sled_sum(sled), "sum of the changed sled");
	}
}

/* Each is given in RBX the address of 16 aligned bytes of the sled, which begin with an opcode, and
 * pairs of a sled in RAX and at (RSI), 2s for every second byte in RDX; it leaves a sled. */
#define STORES(X)                                                                                  \
	X(xchg, "xchgq %rax, (%rbx)")                                                              \
	X(lock_add, "lock addq %rdx, (%rbx)")                                                      \
	X(add, "addb $2, 1(%rbx)")                                                                 \
	X(inc, "incb 3(%rbx)")                                                                     \
	X(neg, "negb 3(%rbx)")                                                                     \
	X(shl, "shlb $2, 5(%rbx)")                                                                 \
	X(xadd, "lock xaddb %dh, 1(%rbx)")                                                         \
	X(bts, "btsl $13, (%rbx)")                                                                 \
	X(btc_far, "movl $77, %ecx; lock btcq %rcx, (%rbx)")                                       \
	X(setcc, "cmpl %eax, %eax; setne 1(%rbx)")                                                 \
	X(cmpxchg, "movq %rax, %rcx; movq (%rbx), %rax; lock cmpxchgq %rcx, (%rbx)")               \
	X(cmpxchg16b, "movq %rbx, %r8; movq %rax, %rbx; movq %rax, %rcx; movq (%r8), %rax\n"       \
	              "movq 8(%r8), %rdx; lock cmpxchg16b (%r8); movq %r8, %rbx")                  \
	X(movnti, "movnti %rax, (%rbx)")                                                           \
	X(movq_mmx, "movq %rax, %mm0; movq %mm0, (%rbx); emms")                                    \
	X(movlps, "movups (%rsi), %xmm1; movlps %xmm1, (%rbx)")                                    \
	X(movntdq, "movups (%rsi), %xmm1; movntdq %xmm1, (%rbx)")                                  \
	X(maskmovdqu, "movups (%rsi), %xmm1; pcmpeqd %xmm2, %xmm2; movq %rbx, %rdi\n"              \
	              "maskmovdqu %xmm2, %xmm1")                                                   \
	X(pextrb, "movl $0x09, %eax; movd %eax, %xmm1; pextrb $0, %xmm1, 1(%rbx)")                 \
	X(fistp, "fildq (%rsi); fistpq (%rbx)")                                                    \
	X(movsq, "movq %rbx, %rdi; movsq")                                                         \
	X(rep_movsb, "movq %rbx, %rdi; movl $12, %ecx; rep movsb")                                 \
	X(rep_movsq, "movq %rbx, %rdi; movl $2, %ecx; rep movsq")                                  \
	X(std_movsb, "std; leaq 7(%rbx), %rdi; addq $7, %rsi; movl $8, %ecx; rep movsb; cld")      \
	X(stosw, "movq %rbx, %rdi; movl $0x0904, %eax; stosw")                                     \
	X(rep_stosw, "movq %rbx, %rdi; movl $0x0904, %eax; movl $6, %ecx; rep stosw")              \
	X(push, "movq %rsp, %rcx; leaq 8(%rbx), %rsp; pushq %rax; movq %rcx, %rsp")                \
	X(pop_mem, "pushq %rax; popq (%rbx)")                                                      \
	X(movbe, "bswapq %rax; movbeq %rax, (%rbx)")

#define X(n, body) SNIPPET(st_##n, body "\nret")
STORES(X)
#undef X
#define X(n, body) st_##n,
static const u8 *const store_code[] = {STORES(X)};
#undef X

static void store_kind(u64 which)
{
	static const u8 pairs[16]
		__attribute__((aligned(16))) = {4, 7, 4, 6, 4, 5, 4, 9, 4, 8, 4, 2, 4, 3, 4, 1};
	u8 *code = (u8 *)CODE, before[16];

	if (store_code[which] == st_movbe && !cpu_has(1, 2, 22))
		skip("CPUID offers no MOVBE");
	vector_on();
	code_page();
	for (unsigned i = 0; i < 50 && !case_bad(); i++) {
		u8 *at = code + 16 + 16 * (i % 4);
		u64 data = *(const u64 *)pairs, add = 0x0200020002000200;

		sled_make(code);
		sync_code();
		expect_eq(CALL(CODE) & 0xff, SLED, "sum of the sled as made");
		memcpy(before, at, sizeof(before));
		asm volatile("callq *%2"
		             : "+a"(data), "+d"(add)
		             : "r"(store_code[which]), "b"(at), "S"(pairs)
		             : "rcx", "rdi", "r8", "memory", "cc");
		expect(memcmp(before, at, sizeof(before)) != 0);
		expect_eq(CALL(CODE) & 0xff, sled_sum(code), "sum of the changed sled");
	}
}

/* The processor's own stores: an interrupt's frame lands on a page whose code is hot. The immediate
 * of MOVABS is the slot of the pushed RIP; behind it comes the pushed CS, OR %al, (%rax), which
 * faults because RAX is an address in a read-only page. */
SNIPPET(int_51, "int $0x51\n" END)
SNIPPET(plain_iret, "iretq")

static void store_frame(u64 arg)
{
	const u64 ro = CODE + PAGE, slot = CODE + 2048 - 40;
	u64 ro_pa = page_alloc();
	struct regs r;

	code_page();
	map(0, ro, ro_pa, P_P);
	idt_set(0x51, (u64)plain_iret, 0, 0);
	for (unsigned i = 0; i < 50 && !case_bad(); i++) {
		u8 *code = (u8 *)slot - 2;

		code[0] = 0x48, code[1] = 0xb8;
		*(u64 *)slot = 0x1111111111111111;
		memcpy((void *)(slot + 8), "\xcd\x50", 2);
		code_copy((u64)phys(ro_pa + 16 * i), int_51, int_51_end);
		sync_code();
		regs_kernel(&r, slot - 2, VA + 64);
		run(&r);
		expect_trap(&r, V_END, 0, slot + 10);
		regs_kernel(&r, ro + 16 * i, CODE + 2048);
		run(&r);
		expect_trap(&r, V_END, 0, ro + 16 * i + 4);
		regs_kernel(&r, slot - 2, VA + 64);
		run(&r);
		expect_trap(&r, V_PF, PF_P | PF_W, slot + 8);
		expect_eq(r.rax, ro + 16 * i + 2, "immediate that is the pushed RIP");
	}
}

/* ---- other addresses of the same page ---- */

/* mov $n, %eax; ret */
static void put_const(u64 at, u32 n)
{
	u8 *p = (u8 *)at;

	p[0] = 0xb8;
	memcpy(p + 1, &n, 4);
	p[5] = 0xc3;
}

enum { ALIAS_SMALL, ALIAS_LARGE, ALIAS_LARGE_CODE, ALIAS_USER };

static void store_alias(u64 kind)
{
	u64 pa = pages_alloc(512, LARGE), data = CODE + 64 * PAGE, code = CODE + 5 * PAGE;

	map(0, code, pa + 5 * PAGE, KRWX);
	if (kind == ALIAS_SMALL)
		map(0, data, pa + 5 * PAGE, KRWX);
	else if (kind == ALIAS_USER)
		map(0, data, pa + 5 * PAGE, URWX | P_NX);
	else
		data = pa + 5 * PAGE; /* the first GiB is mapped by large pages */
	if (kind == ALIAS_LARGE_CODE) {
		u64 t = code;

		code = data, data = t;
	}
	for (u32 i = 0; i < 500 && !case_bad(); i++) {
		put_const(data + 40, i);
		sync_code();
		expect_eq(CALL(code + 40), i, "result");
		expect_eq(CALL(code + 40), i, "result again");
		*(u32 *)(data + 41) = ~i;
		sync_code();
		expect_eq((u32)CALL(code + 40), (u32)~i, "result of the patched code");
	}
}

/* ---- whole functions ---- */

/* A function like a compiler's: adds, loops, a call within the page, stores into its own page's
 * data. */
static u32 emit_function(u8 *p, u32 seed)
{
	u32 want = seed, n = 3 + seed % 20;
	u8 *start = p;

	*p++ = 0xb8, *(u32 *)p = seed, p += 4; /* mov $seed, %eax */
	for (u32 i = 0; i < n; i++) {
		u32 k = seed * 2654435761u + i * 40503u;

		switch (k >> 8 & 3) {
		case 0:
			*p++ = 0x05, *(u32 *)p = k, p += 4, want += k; /* add */
			break;
		case 1:
			*p++ = 0x35, *(u32 *)p = k, p += 4, want ^= k; /* xor */
			break;
		case 2: /* rol, over a jump */
			*p++ = 0xeb, *p++ = 3, p += 3;
			*p++ = 0xc1, *p++ = 0xc0, *p++ = 7, want = want << 7 | want >> 25;
			break;
		default: /* mov %eax, 0xf00(page); add it */
			*p++ = 0x89, *p++ = 0x05, *(u32 *)p = (u32)(start + 0xf00 - (p + 4)),
			p += 4;
			*p++ = 0x03, *p++ = 0x05, *(u32 *)p = (u32)(start + 0xf00 - (p + 4)),
			p += 4;
			want += want;
		}
	}
	*p = 0xc3;
	return want;
}

static void jit(u64 arg)
{
	code_page();
	for (u32 i = 0; i < 1500 && !case_bad(); i++) {
		u32 want = emit_function((u8 *)CODE, i * 7919 + 1);

		for (unsigned k = 0; k < 1 + i % 8; k++)
			expect_eq((u32)CALL(CODE), want, "result of the generated function");
	}
}

/* Pages are freed, written and executed again, at changing addresses. */
static void recycled(u64 arg)
{
	u64 pool = pages_alloc(32, PAGE);
	u32 rnd = 12345;

	for (u32 i = 0; i < 3000 && !case_bad(); i++) {
		u64 va, pa;

		rnd = rnd * 1664525 + 1013904223;
		va = CODE + (rnd >> 8 & 15) * PAGE;
		pa = pool + (rnd >> 16 & 31) * PAGE;
		map(0, va, pa, KRWX);
		invlpg(va);
		put_const(va + (i & 7) * 64, i);
		expect_eq((u32)CALL(va + (i & 7) * 64), i, "result");
	}
}

/* Data beside code: stores must change nothing, and must not cost much. */
SNIPPET(store_loop, "1: movq %rdx, (%rbx); addq $1, %rdx; movl %edx, 8(%rbx)\n"
                    "decq %rcx; jnz 1b\n"
                    "ret")

static u64 time_stores(u64 code, u64 data, u64 n)
{
	u64 t = rdtsc(), count = n, first = 0;

	asm volatile("callq *%2"
	             : "+c"(count), "+d"(first)
	             : "r"(code), "b"(data)
	             : "memory", "cc");
	expect_eq(first, n, "stores done");
	expect_eq(*(u64 *)data & 0xffffffff, n - 1, "value stored last");
	return (rdtsc() - t) / n;
}

static void data_beside(u64 arg)
{
	u64 apart, beside;

	code_page();
	map_new(CODE + PAGE, KRWX);
	code_put(CODE, store_loop);
	put_const(CODE + 1024, 7);
	apart = time_stores(CODE, CODE + PAGE, 20000);
	beside = time_stores(CODE, CODE + 2048, 20000);
	expect_eq(CALL(CODE + 1024), 7, "other function of the page");
	note(" (TSC ticks a round: data on another page %u, on the code's page %u)", apart, beside);
}

/* ---- patching as kernels do ---- */

SNIPPET(toggled, "xorl %eax, %eax; movl $200, %ecx\n"
                 "1: .byte 0x0f, 0x1f, 0x44, 0, 0\n" /* nop, later jmp 2f */
                 "addl $1, %eax\n"
                 "2: addl $0x10000, %eax\n"
                 "decl %ecx; jnz 1b\n"
                 "ret")

static void static_key(u64 arg)
{
	static const u8 nop[5] = {0x0f, 0x1f, 0x44, 0, 0}, jmp[5] = {0xe9, 3, 0, 0, 0};

	code_page();
	code_put(CODE, toggled);
	for (unsigned i = 0; i < 100 && !case_bad(); i++) {
		memcpy((void *)(CODE + 7), i & 1 ? jmp : nop, 5);
		sync_code();
		expect_eq(CALL(CODE), i & 1 ? 200 << 16 : 200 << 16 | 200, "result");
	}
}

static unsigned breaks;
static bool on_break(struct regs *r)
{
	breaks++;
	*(u8 *)(r->rip - 1) = 0x83; /* the ADD's first byte again, and once more from there */
	r->rip--;
	return true;
}

static void breakpoint(u64 arg)
{
	code_page();
	code_put(CODE, toggled);
	set_handler(V_BP, on_break);
	breaks = 0;
	for (unsigned i = 0; i < 200 && !case_bad(); i++) {
		expect_eq(CALL(CODE), 200 << 16 | 200, "result");
		*(u8 *)(CODE + 12) = 0xcc;
		expect_eq(CALL(CODE), 200 << 16 | 200, "result with INT3 inserted");
		expect_eq(breaks, i + 1, "breakpoints hit");
	}
}

/* A string instruction that writes what follows it, and whole loops that are overwritten while they
 * run. */
SNIPPET(rep_next, "leaq 1f(%rip), %rdi; leaq 2f(%rip), %rsi; movl $5, %ecx; rep movsb\n"
                  "1: movl $0x11111111, %eax\n"
                  "ret\n"
                  "2: movl $0x22222222, %eax\n")
SNIPPET(rep_fill, "leaq 1f(%rip), %rdi; movl $0x90, %eax; movl $2f - 1f, %ecx; rep stosb\n"
                  "movl $0x22222222, %eax\n"
                  "1: .fill 30, 5, 0x11111105\n" /* add $0x111111, %eax */
                  "2: ret")
static const struct {
	const u8 *start, *end;
} rep_stores[] = {{rep_next, rep_next_end}, {rep_fill, rep_fill_end}};

static void rep_over(u64 which)
{
	code_page();
	for (unsigned i = 0; i < 100 && !case_bad(); i++) {
		code_copy(CODE, rep_stores[which].start, rep_stores[which].end);
		sync_code();
		expect_eq((u32)CALL(CODE), 0x22222222, "result");
	}
}

#define X(n, body) {"store of kind " #n, store_kind, __COUNTER__ - FIRST_KIND},
enum { FIRST_KIND = __COUNTER__ + 1 };
static const struct test_case cases[] = {
	{"store to the next instruction", self_store, 0},
	{"store to the current block", self_store, 1},
	{"store to a later block", self_store, 2},
	{"store by register", self_store, 3},
	{"push onto the next instruction", self_store, 4},
	{"store to an earlier block of a loop", earlier_block, 0},
	{"immediate in a hot loop", hot_immediate, 0},
	{"stores of 1 byte", store_size, 1},
	{"stores of 2 bytes", store_size, 2},
	{"stores of 4 bytes", store_size, 4},
	{"stores of 8 bytes", store_size, 8},
	{"stores of 16 bytes", store_size, 16},
	{"stores of 32 bytes", store_size, 32},
	STORES(X){"rep movsb over what follows it", rep_over, 0},
	{"rep stosb over what follows it", rep_over, 1},
	{"interrupt frame onto code", store_frame, 0},
	{"second virtual address", store_alias, ALIAS_SMALL},
	{"alias by a large page", store_alias, ALIAS_LARGE},
	{"code in a large page, alias by a small one", store_alias, ALIAS_LARGE_CODE},
	{"alias that is a user's data page", store_alias, ALIAS_USER},
	{"generate, run, generate again", jit, 0},
	{"pages freed, rewritten, executed", recycled, 0},
	{"data on the page of its code", data_beside, 0},
	{"nop and jmp toggled", static_key, 0},
	{"breakpoint inserted and removed", breakpoint, 0},
};
TOPIC(smc, 1, cases);
