// SPDX-License-Identifier: MIT
/* One physical page of code at several virtual addresses: whatever depends on RIP is that of the
 * address in use, and the page that follows is the one that follows there. */
#include "rt.h"

#define A1 (VA + 0x100000)
#define A2 (VA + 0x200000)
#define A3 (VA + 0x8000300000ull) /* far from the others */

#define OFF_PUSHED  0x40
#define OFF_DATA    0x80
#define OFF_JUMP    0xc0
#define OFF_CALL    0x100
#define OFF_CROSS   0x140
#define OFF_JCC     0x180
#define OFF_UD2     0x1c0
#define OFF_STORE   0x200
#define OFF_DEEP    0x240
#define OFF_MOVED   0x280
#define OFF_LOOP    0x300
#define OFF_SYSCALL 0x380
#define OFF_FALL    0xff8
#define OFF_NEXT    0x1000

/* Function at each offset; what lies on the next page is `next_page`. */
SNIPPET(page, "leaq page(%rip), %rax; ret\n"
              ".org page + 0x40; call 1f; 1: popq %rax; ret\n"
              ".org page + 0x80; movq page + 0x1800(%rip), %rax; ret\n"
              ".org page + 0xc0; jmp page + 0x1040\n"
              ".org page + 0x100; call page + 0x1080; ret\n"
              ".org page + 0x140; callq *%rdi; leaq page(%rip), %rdx; addq %rdx, %rax; ret\n"
              ".org page + 0x180; cmpl %eax, %eax; jz page + 0x1040; ud2\n"
              ".org page + 0x1c0; nop; ud2\n"
              ".org page + 0x200; movq %rdi, page + 0x1900(%rip); ret\n"
              ".org page + 0x240\n" /* RDI levels deep, summing up return addresses */
              "xorl %eax, %eax\n"
              "2: testq %rdi, %rdi; jz 3f; decq %rdi; call 2b; addq -8(%rsp), %rax; 3: ret\n"
              ".org page + 0x280\n" /* the callee moves the return address by RDI */
              "call 4f; leaq page(%rip), %rax; ret\n"
              "4: addq %rdi, (%rsp); ret\n"
              ".org page + 0x300\n"
              "movl $100, %ecx; xorl %eax, %eax\n"
              "5: leaq page(%rip), %rdx; addq %rdx, %rax; jmp page + 0x10c0; 6: ret\n"
              ".org page + 0x380; syscall; int $0x50\n"
              ".org page + 0xff8; xorl %eax, %eax; nop; nop; nop; nop; nop; nop\n")
SNIPPET(next_page,
        ".org next_page + 0x0; movl 9f(%rip), %eax; ret\n"
        ".org next_page + 0x40; movl 9f(%rip), %eax; ret\n"
        ".org next_page + 0x80; movq (%rsp), %rax; ret\n"
        ".org next_page + 0xc0; addl 9f(%rip), %eax; loop 8f; jmp next_page - 0x1000 + 0x316\n"
        "8: jmp next_page - 0x1000 + 0x307\n"
        ".org next_page + 0x700; 9: .long 0, 0\n")

static const u64 alias[] = {A1, A2, A3};

/* The same first page everywhere, behind it pages of their own. */
static void make(void)
{
	u64 pa = page_alloc();

	for (unsigned i = 0; i < ARRAY_SIZE(alias); i++) {
		map(0, alias[i], pa, KRWX);
		map_new(alias[i] + PAGE, KRWX);
		code_put(alias[i] + PAGE, next_page);
		*(u32 *)(alias[i] + PAGE + 0x700) = 0x1000 + i;
		*(u64 *)(alias[i] + 0x1800) = 0x2000 + i;
	}
	code_copy(A1, page, page_end);
}

static u64 call1(u64 va, u64 arg)
{
	return ((u64(*)(u64))va)(arg);
}

/* Alternating, with runs of the same alias between. */
static u64 pick(unsigned i)
{
	return (i / 7 + i) % 3;
}

static void values(u64 off)
{
	make();
	for (unsigned i = 0; i < 3000 && !case_bad(); i++) {
		u64 n = pick(i), va = alias[n], want = 0;

		switch (off) {
		case 0:
			want = va;
			break;
		case OFF_PUSHED:
		case OFF_CALL:
			want = va + off + 5;
			break;
		case OFF_DATA:
			want = 0x2000 + n;
			break;
		case OFF_JUMP:
		case OFF_JCC:
		case OFF_FALL:
			want = 0x1000 + n;
			break;
		case OFF_STORE:
			want = i + 1;
			break;
		}
		if (off == OFF_STORE)
			call1(va + off, want);
		expect_eq(off == OFF_STORE ? *(u64 *)(va + 0x1900) : call1(va + off, 0), want,
		          "value");
	}
}

/* From one alias a function at another. */
static void crossing_calls(u64 arg)
{
	make();
	for (unsigned i = 0; i < 3000 && !case_bad(); i++) {
		u64 from = alias[pick(i)], to = alias[i % 3];

		expect_eq(call1(from + OFF_CROSS, to), from + to, "sum of the two addresses");
	}
}

/* The callee returns to the same instruction at another address. */
static void moved_return(u64 arg)
{
	make();
	for (unsigned i = 0; i < 3000 && !case_bad(); i++) {
		u64 from = alias[pick(i)], to = alias[i % 3];

		expect_eq(call1(from + OFF_MOVED, to - from), to, "address after the return");
	}
}

static void recursion(u64 arg)
{
	make();
	for (unsigned i = 0; i < 300 && !case_bad(); i++) {
		u64 va = alias[pick(i)], depth = 1 + i % 50;

		/* The outermost CALL is ours. */
		expect_eq(call1(va + OFF_DEEP, depth), depth * (va + OFF_DEEP + 0xf),
		          "sum of addresses");
	}
}

static void loops(u64 arg)
{
	u32 want[3];

	make();
	for (unsigned i = 0; i < 300 && !case_bad(); i++) {
		u64 n = pick(i);

		want[n] = 0;
		for (unsigned k = 0; k < 100; k++)
			want[n] = (u32)(want[n] + alias[n]) + 0x1000 + (u32)n;
		expect_eq((u32)call1(alias[n] + OFF_LOOP, 0), want[n], "sum");
	}
}

static void exceptions(u64 arg)
{
	struct regs r, want;

	make();
	for (unsigned i = 0; i < 500 && !case_bad(); i++) {
		u64 va = alias[pick(i)];

		regs_kernel(&r, va + OFF_UD2, VA + 64);
		want = r;
		run(&r);
		expect_trap(&r, V_UD, 0, va + OFF_UD2 + 1);
		expect_regs(&r, &want, "at UD2");
	}
}

/* Ring 0 and ring 3 with the same page, at different addresses and at the same one. */
static void privilege(u64 arg)
{
	const u64 user = VA + 0x500000;
	struct regs r;

	make();
	map(0, user, *pte_of(0, A1, 0) & P_ADDR, P_P | P_U);
	for (unsigned i = 0; i < 500 && !case_bad(); i++) {
		u64 va = alias[pick(i)];

		expect_eq(call1(va, 0), va, "address in ring 0");
		expect_eq(call1(user, 0), user, "address in ring 0, the user's mapping");
		regs_user(&r, user + OFF_SYSCALL, VA + 64);
		run(&r);
		expect_eq(r.vector, VEC_SYSCALL, "vector");
		expect_eq(r.rcx, user + OFF_SYSCALL + 2, "RCX of SYSCALL");
	}
}

/* A new alias is made and an old one goes, all the time. */
static void moving(u64 arg)
{
	make();
	for (unsigned i = 0; i < 1000 && !case_bad(); i++) {
		u64 va = A1 + 0x1000000 + (i % 37) * 3 * PAGE;

		map(0, va, *pte_of(0, A1, 0) & P_ADDR, KRWX);
		map(0, va + PAGE, *pte_of(0, alias[i % 3] + PAGE, 0) & P_ADDR, KRWX);
		invlpg(va);
		invlpg(va + PAGE);
		expect_eq(call1(va, 0), va, "address");
		expect_eq(call1(va + OFF_PUSHED, 0), va + OFF_PUSHED + 5, "pushed address");
		expect_eq(call1(va + OFF_JUMP, 0), 0x1000 + i % 3, "jump to the next page");
		expect_eq(call1(va + OFF_FALL, 0), 0x1000 + i % 3, "on to the next page");
	}
}

static const struct test_case cases[] = {
	{"LEA of RIP", values, 0},
	{"call next, pop", values, OFF_PUSHED},
	{"RIP-relative load from the next page", values, OFF_DATA},
	{"RIP-relative store to the next page", values, OFF_STORE},
	{"direct jump to the next page", values, OFF_JUMP},
	{"conditional jump to the next page", values, OFF_JCC},
	{"running on to the next page", values, OFF_FALL},
	{"direct call of the next page", values, OFF_CALL},
	{"calls between aliases", crossing_calls, 0},
	{"return to the same page elsewhere", moved_return, 0},
	{"recursion", recursion, 0},
	{"loops over two pages", loops, 0},
	{"RIP of exceptions", exceptions, 0},
	{"ring 0 and ring 3", privilege, 0},
	{"aliases made and removed", moving, 0},
};
TOPIC(alias, 1, cases);
