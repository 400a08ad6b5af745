// SPDX-License-Identifier: MIT
/* Page faults and address checks by every kind of instruction with a memory operand.
 *
 * Each instruction stands in the middle of a block, behind others that have changed registers and
 * flags. It runs three times: stopped before it (what the fault must show), undisturbed (what a
 * restart must reach), and into each way that the operand can be wrong; then that is repaired and
 * it goes on. All general registers, the arithmetic flags and two pages of memory are compared each
 * time, in ring 0 and ring 3. */
#include "rt.h"

#define CODE  0x8000010000ull
#define STACK 0x8000020000ull
#define DATA  0x8000200000ull /* two pages */
#define OTHER 0x8000600000ull
#define EDGE  0x00007ffffffff000ull /* the last page below the hole of addresses */
#define HOLE  0x0000800000001000ull

#define DATA_TEXT  "0x8000200000"
#define OTHER_TEXT "0x8000600000"

enum { READ, WRITE };
enum fill {
	PATTERN,
	CODE_PTR,
	FLAGS,
	IRET_FRAME,
	FAR_PTR,
	GDT_IMAGE,
	IDT_IMAGE,
	FPU_IMAGE,
	FPU_ENV,
	MXCSR,
	ZERO
};
enum {
	STK = 1,   /* a stack access: #SS where others are #GP */
	ALIGN = 2, /* the operand is to be aligned; LOCK too, which across cache lines costs a host
	              that detects split locks up to a second */
	CPL0 = 4,
	ABS = 8, /* the address is in the instruction */
	AVX = 16,
	BIG = 32, /* CR2 may be any byte of the operand */
	AVX2 = 64,
	DEAD = 256,  /* overwrites flags, so that those in front of it may be anything */
	MIXED = 128, /* reads and writes: the fault may be either's */
};

/* name, bytes, read or write, what is in memory, flags, code before it, the instruction */
#define OPS(X)                                                                                     \
	X(mov_load8, 1, READ, PATTERN, 0, "", "movb (%rbx), %al")                                  \
	X(mov_load16, 2, READ, PATTERN, 0, "", "movw (%rbx), %ax")                                 \
	X(mov_load32, 4, READ, PATTERN, 0, "", "movl (%rbx), %eax")                                \
	X(mov_load64, 8, READ, PATTERN, 0, "", "movq (%rbx), %rax")                                \
	X(mov_load_r13, 8, READ, PATTERN, 0, "movq %rbx, %r13", "movq (%r13), %r14")               \
	X(mov_load_r15, 8, READ, PATTERN, 0, "movq %rbx, %r15", "movq (%r15), %r15")               \
	X(mov_load_rsp, 8, READ, PATTERN, STK, "movq %rbx, %rsp", "movq (%rsp), %r15")             \
	X(mov_load_rbp, 4, READ, PATTERN, STK, "movq %rbx, %rbp", "movl (%rbp), %ebp")             \
	X(mov_load_sib, 8, READ, PATTERN, 0, "movl $5, %ecx; leaq -0x2d(%rbx), %rdx",              \
	  "movq 5(%rdx,%rcx,8), %rax")                                                             \
	X(mov_load_far_index, 4, READ, PATTERN, 0,                                                 \
	  "movq $-0x100000, %r14; leaq 0x400010(%rbx), %r13", "movl -16(%r13,%r14,4), %r12d")      \
	X(mov_load_fs, 8, READ, PATTERN, 0, "leaq -0x1000(%rbx), %rdx", "movq %fs:(%rdx), %rax")   \
	X(mov_load_moffs, 8, READ, PATTERN, ABS, "", "movabsq " DATA_TEXT " + 256, %rax")          \
	X(movzx, 1, READ, PATTERN, 0, "", "movzbl (%rbx), %ebx")                                   \
	X(movsx, 4, READ, PATTERN, 0, "", "movslq (%rbx), %rbx")                                   \
	X(mov_store8, 1, WRITE, PATTERN, 0, "", "movb %ah, (%rbx)")                                \
	X(mov_store16, 2, WRITE, PATTERN, 0, "", "movw %r15w, (%rbx)")                             \
	X(mov_store32, 4, WRITE, PATTERN, 0, "", "movl %r14d, (%rbx)")                             \
	X(mov_store64, 8, WRITE, PATTERN, 0, "", "movq %r13, (%rbx)")                              \
	X(mov_store_r14, 8, WRITE, PATTERN, 0, "movq %rbx, %r14", "movq %r15, (%r14)")             \
	X(mov_store_imm, 8, WRITE, PATTERN, 0, "", "movq $-5, (%rbx)")                             \
	X(mov_store_moffs, 4, WRITE, PATTERN, ABS, "", "movabsl %eax, " DATA_TEXT " + 256")        \
	X(mov_store_gs, 4, WRITE, PATTERN, 0, "leaq -0x2000(%rbx), %rdx", "movl %esi, %gs:(%rdx)") \
	X(high_regs_load, 8, READ, PATTERN, DEAD,                                                  \
	  "movl %ecx, %r14d; rorl $7, %r14d; movq %rdx, %r15; xorq %r14, %r15; "                   \
	  "leaq 5(%r15,%rcx), %r13; movb $3, %r14b; bswapq %r15",                                  \
	  "addq (%rbx), %r14; addq %r14, %r15; rorq $3, %r14; subq %r15, %r13; notq %r15")         \
	X(high_regs_store, 8, WRITE, PATTERN, DEAD,                                                \
	  "movl $5, %r13d; leaq 7(%r13,%rcx), %r14; addq %r13, %r14; xchgq %r14, %r15",            \
	  "movq %r15, (%rbx); leaq (%r15,%r14,2), %r13; movl %r13d, %r14d; negq %r14")             \
	X(high_regs_base, 4, READ, PATTERN, DEAD,                                                  \
	  "leaq -8(%rbx), %r14; addq $8, %r14; xorl %r15d, %r15d; incq %r15; decq %r15",           \
	  "movl (%r14,%r15), %r13d; addq %r14, %r13; leaq 1(%r14), %r14; subq %r14, %r15")         \
	X(high_regs_branch, 4, READ, PATTERN, DEAD,                                                \
	  "movq %rbx, %r13; incq %r13; cmpq %r8, %r8; jne 9f; decq %r13; movl $9, %r15d",          \
	  "addl (%r13), %r15d; jmp 8f; 9: ud2; 8: incq %r15; addq %r15, %r13")                     \
	X(add_load, 8, READ, PATTERN, DEAD, "", "addq (%rbx), %r15")                               \
	X(sbb_load, 4, READ, PATTERN, DEAD, "", "sbbl (%rbx), %eax")                               \
	X(cmp_imm, 1, READ, PATTERN, DEAD, "", "cmpb $7, (%rbx)")                                  \
	X(test_reg, 2, READ, PATTERN, DEAD, "", "testw %ax, (%rbx)")                               \
	X(imul_load, 8, READ, PATTERN, DEAD, "", "imulq (%rbx), %r14")                             \
	X(mul_load, 4, READ, PATTERN, DEAD, "", "mull (%rbx)")                                     \
	X(div_load, 4, READ, PATTERN, DEAD, "xorl %edx, %edx; cmpl %r8d, %r9d",                    \
	  "divl (%rbx); cmpl %r8d, %r9d")                                                          \
	X(adc_rmw, 8, WRITE, PATTERN, DEAD, "", "adcq %r13, (%rbx)")                               \
	X(sub_rmw, 2, WRITE, PATTERN, DEAD, "", "subw $0x1234, (%rbx)")                            \
	X(inc_rmw, 4, WRITE, PATTERN, DEAD, "", "incl (%rbx)")                                     \
	X(neg_rmw, 1, WRITE, PATTERN, DEAD, "", "negb (%rbx)")                                     \
	X(not_rmw, 8, WRITE, PATTERN, 0, "", "notq (%rbx)")                                        \
	X(shl_rmw, 4, WRITE, PATTERN, DEAD, "movl $3, %ecx", "shll %cl, (%rbx)")                   \
	X(rcr_rmw, 8, WRITE, PATTERN, DEAD, "", "rcrq $1, (%rbx)")                                 \
	X(shld_rmw, 8, WRITE, PATTERN, DEAD, "", "shldq $5, %r14, (%rbx)")                         \
	X(bt_load, 4, READ, PATTERN, DEAD, "", "btl $9, (%rbx)")                                   \
	X(bts_far, 8, WRITE, PATTERN, DEAD, "movl $1029, %ecx; leaq -128(%rbx), %rdx",             \
	  "btsq %rcx, (%rdx)")                                                                     \
	X(btr_back, 4, WRITE, PATTERN, DEAD | ALIGN, "movl $-40, %ecx; leaq 8(%rbx), %rdx",        \
	  "lock btrl %ecx, (%rdx)")                                                                \
	X(xchg, 4, WRITE, PATTERN, ALIGN, "", "xchgl %r15d, (%rbx)")                               \
	X(cmpxchg, 8, WRITE, PATTERN, DEAD, "", "cmpxchgq %rcx, (%rbx)")                           \
	X(xadd, 8, WRITE, PATTERN, DEAD, "", "xaddq %r13, (%rbx)")                                 \
	X(lock_add, 8, WRITE, PATTERN, DEAD | ALIGN, "", "lock addq %r15, (%rbx)")                 \
	X(lock_dec, 2, WRITE, PATTERN, DEAD | ALIGN, "", "lock decw (%rbx)")                       \
	X(lock_xadd, 4, WRITE, PATTERN, DEAD | ALIGN, "", "lock xaddl %edx, (%rbx)")               \
	X(lock_cmpxchg, 4, WRITE, PATTERN, DEAD | ALIGN, "", "lock cmpxchgl %ecx, (%rbx)")         \
	X(lock_cmpxchg8b, 8, WRITE, PATTERN, DEAD | ALIGN, "movq %rbx, %rdi",                      \
	  "lock cmpxchg8b (%rdi)")                                                                 \
	X(lock_cmpxchg16b, 16, WRITE, PATTERN, ALIGN | DEAD, "movq %rbx, %rdi",                    \
	  "lock cmpxchg16b (%rdi)")                                                                \
	X(push, 8, WRITE, PATTERN, STK, "leaq 8(%rbx), %rsp", "pushq %r15")                        \
	X(push16, 2, WRITE, PATTERN, STK, "leaq 2(%rbx), %rsp", "pushw %ax")                       \
	X(push_imm, 8, WRITE, PATTERN, STK, "leaq 8(%rbx), %rsp", "pushq $-3")                     \
	X(push_mem, 8, READ, PATTERN, 0, "", "pushq (%rbx)")                                       \
	X(push_mem_stack, 8, WRITE, PATTERN, STK,                                                  \
	  "movabsq $" OTHER_TEXT ", %rdx; leaq 8(%rbx), %rsp", "pushq (%rdx)")                     \
	X(pushf, 8, WRITE, PATTERN, STK, "leaq 8(%rbx), %rsp; cmpq %r8, %r9", "pushfq")            \
	X(pop, 8, READ, PATTERN, STK, "movq %rbx, %rsp", "popq %r13")                              \
	X(pop_mem, 8, WRITE, PATTERN, 0, "", "popq (%rbx)")                                        \
	X(pop_mem_stack, 8, READ, PATTERN, STK, "movabsq $" OTHER_TEXT ", %rdx; movq %rbx, %rsp",  \
	  "popq (%rdx)")                                                                           \
	X(popf, 8, READ, FLAGS, STK | DEAD, "movq %rbx, %rsp", "popfq")                            \
	X(call, 8, WRITE, PATTERN, STK, "leaq 8(%rbx), %rsp", "call 1f; 1:")                       \
	X(call_reg, 8, WRITE, PATTERN, STK, "leaq 1f(%rip), %r15; leaq 8(%rbx), %rsp",             \
	  "callq *%r15; 1:")                                                                       \
	X(call_mem, 8, READ, CODE_PTR, 0, "", "callq *(%rbx)")                                     \
	X(call_mem_stack, 8, WRITE, PATTERN, STK,                                                  \
	  "movabsq $" OTHER_TEXT                                                                   \
	  ", %rdx; leaq 1f(%rip), %rcx; movq %rcx, (%rdx); leaq 8(%rbx), %rsp",                    \
	  "callq *(%rdx); 1:")                                                                     \
	X(jmp_mem, 8, READ, CODE_PTR, 0, "", "jmpq *(%rbx)")                                       \
	X(ret, 8, READ, CODE_PTR, STK, "movq %rbx, %rsp", "ret")                                   \
	X(ret_imm, 8, READ, CODE_PTR, STK, "movq %rbx, %rsp", "ret $24")                           \
	X(lret, 16, READ, FAR_PTR, STK | BIG, "movq %rbx, %rsp", "lretq")                          \
	X(iret, 40, READ, IRET_FRAME, STK | BIG | DEAD, "movq %rbx, %rsp", "iretq")                \
	X(leave, 8, READ, PATTERN, STK, "movq %rbx, %rbp", "leaveq")                               \
	X(enter, 8, WRITE, PATTERN, STK, "leaq 8(%rbx), %rsp", "enterq $0, $0")                    \
	X(movs_from, 8, READ, PATTERN, 0, "movq %rbx, %rsi; movabsq $" OTHER_TEXT ", %rdi",        \
	  "movsq")                                                                                 \
	X(movs_to, 4, WRITE, PATTERN, 0, "movq %rbx, %rdi; movabsq $" OTHER_TEXT ", %rsi",         \
	  "movsl")                                                                                 \
	X(stos, 8, WRITE, PATTERN, 0, "movq %rbx, %rdi", "stosq")                                  \
	X(lods, 2, READ, PATTERN, 0, "movq %rbx, %rsi", "lodsw")                                   \
	X(scas, 4, READ, PATTERN, DEAD, "movq %rbx, %rdi", "scasl")                                \
	X(cmps, 8, READ, PATTERN, DEAD, "movq %rbx, %rdi; movabsq $" OTHER_TEXT ", %rsi", "cmpsq") \
	X(xlat, 1, READ, PATTERN, 0, "movl $0, %eax", "xlatb")                                     \
	X(setcc, 1, WRITE, PATTERN, 0, "", "setb (%rbx)")                                          \
	X(cmov_taken, 8, READ, PATTERN, 0, "", "cmovbq (%rbx), %r15")                              \
	X(cmov_not, 8, READ, PATTERN, 0, "", "cmovaeq (%rbx), %r15")                               \
	X(movnti, 8, WRITE, PATTERN, 0, "", "movnti %r14, (%rbx)")                                 \
	X(movbe_load, 8, READ, PATTERN, AVX2, "", "movbeq (%rbx), %r15")                           \
	X(popcnt, 8, READ, PATTERN, DEAD, "", "popcntq (%rbx), %rdx")                              \
	X(crc32, 8, READ, PATTERN, 0, "", "crc32q (%rbx), %rdx")                                   \
	X(mulx, 8, READ, PATTERN, AVX2, "", "mulxq (%rbx), %r14, %r15")                            \
	X(shlx, 8, READ, PATTERN, AVX2, "", "shlxq %rcx, (%rbx), %r15")                            \
	X(movups_load, 16, READ, PATTERN, 0, "", "movups (%rbx), %xmm3")                           \
	X(movups_store, 16, WRITE, PATTERN, 0, "", "movups %xmm1, (%rbx)")                         \
	X(movaps_store, 16, WRITE, PATTERN, ALIGN, "", "movaps %xmm1, (%rbx)")                     \
	X(paddd, 16, READ, PATTERN, ALIGN, "", "paddd (%rbx), %xmm2")                              \
	X(movss, 4, READ, PATTERN, 0, "", "movss (%rbx), %xmm2")                                   \
	X(movsd_store, 8, WRITE, PATTERN, 0, "", "movsd %xmm1, (%rbx)")                            \
	X(movd, 4, READ, PATTERN, 0, "", "movd (%rbx), %xmm2")                                     \
	X(cvtsi2sd, 8, READ, PATTERN, 0, "", "cvtsi2sdq (%rbx), %xmm2")                            \
	X(ucomisd, 8, READ, PATTERN, DEAD, "", "ucomisd (%rbx), %xmm1")                            \
	X(pextrb, 1, WRITE, PATTERN, 0, "", "pextrb $3, %xmm1, (%rbx)")                            \
	X(maskmovdqu, 16, WRITE, PATTERN, BIG, "movq %rbx, %rdi; pcmpeqd %xmm2, %xmm2",            \
	  "maskmovdqu %xmm2, %xmm1")                                                               \
	X(vmovups_load, 32, READ, PATTERN, AVX, "", "vmovups (%rbx), %ymm3")                       \
	X(vmovups_store, 32, WRITE, PATTERN, AVX, "", "vmovups %ymm1, (%rbx)")                     \
	X(vmaskmov, 32, WRITE, PATTERN, AVX | BIG,                                                 \
	  "pcmpeqd %xmm2, %xmm2; vinsertf128 $1, %xmm2, %ymm2, %ymm2",                             \
	  "vmaskmovps %ymm1, %ymm2, (%rbx)")                                                       \
	X(vpgather, 4, READ, PATTERN, AVX2 | BIG,                                                  \
	  "vpxor %xmm2, %xmm2, %xmm2; vpcmpeqd %xmm4, %xmm4, %xmm4",                               \
	  "vpgatherdd %xmm4, (%rbx,%xmm2,4), %xmm3")                                               \
	X(fld64, 8, READ, ZERO, 0, "", "fldl (%rbx); fstp %st(0)")                                 \
	X(fld80, 10, READ, ZERO, BIG, "", "fldt (%rbx); fstp %st(0)")                              \
	X(fst64, 8, WRITE, PATTERN, 0, "", "fstl (%rbx)")                                          \
	X(fstp80, 10, WRITE, PATTERN, BIG, "fldz", "fstpt (%rbx)")                                 \
	X(fist, 4, WRITE, PATTERN, 0, "", "fistl (%rbx)")                                          \
	X(fnstcw, 2, WRITE, PATTERN, 0, "", "fnstcw (%rbx)")                                       \
	X(fldcw, 2, READ, FPU_IMAGE, 0, "", "fldcw (%rbx)")                                        \
	X(fnstenv, 28, WRITE, PATTERN, BIG, "", "fnstenv (%rbx)")                                  \
	X(fldenv, 28, READ, FPU_ENV, BIG, "", "fldenv (%rbx)")                                     \
	X(fxsave, 512, WRITE, PATTERN, ALIGN | BIG, "", "fxsave64 (%rbx)")                         \
	X(fxrstor, 512, READ, FPU_IMAGE, ALIGN | BIG, "", "fxrstor64 (%rbx)")                      \
	X(xsave, 576, WRITE, ZERO, ALIGN | BIG | AVX | MIXED,                                      \
	  "movl $3, %eax; xorl %edx, %edx; cmpq %r8, %r9", "xsave64 (%rbx)")                       \
	X(xrstor, 576, READ, FPU_IMAGE, ALIGN | BIG | AVX,                                         \
	  "movl $3, %eax; xorl %edx, %edx; cmpq %r8, %r9", "xrstor64 (%rbx)")                      \
	X(stmxcsr, 4, WRITE, PATTERN, 0, "", "stmxcsr (%rbx)")                                     \
	X(ldmxcsr, 4, READ, MXCSR, 0, "", "ldmxcsr (%rbx)")                                        \
	X(sgdt, 10, WRITE, PATTERN, BIG | CPL0, "", "sgdt (%rbx)")                                 \
	X(lgdt, 10, READ, GDT_IMAGE, BIG | CPL0, "", "lgdt (%rbx)")                                \
	X(lidt, 10, READ, IDT_IMAGE, BIG | CPL0, "", "lidt (%rbx)")                                \
	X(str, 2, WRITE, PATTERN, CPL0, "", "strw (%rbx)")                                         \
	X(lar, 2, READ, PATTERN, DEAD, "", "larw (%rbx), %ax")                                     \
	X(mov_from_sreg, 2, WRITE, PATTERN, 0, "", "movw %ss, (%rbx)")                             \
	X(mov_to_sreg, 2, READ, ZERO, 0, "", "movw (%rbx), %es")

/* Registers, flags and those that a translator would rather keep elsewhere. */
#define PROLOGUE                                                                                   \
	"leaq 0x111(%r13), %r13; addq %r14, %r15; xorq %r12, %r11; notq %rbp; incl %r8d\n"         \
	"subq $3, %r14; addl %r9d, %r10d; rolq $7, %rsi; cmpq %r8, %r9\n"

/* Instructions look at the flags that are left. */
#define LOOK "movq %rax, %r8; lahf; seto %al\n" END

#define X(n, size, kind, fill, flags, setup, insn)                                                 \
	SNIPPET(op_##n, PROLOGUE setup "\nop_" #n "_at: " insn "\nop_" #n "_last:" LOOK)           \
	extern u8 op_##n##_at[], op_##n##_last[];
OPS(X)
#undef X

struct op {
	const u8 *code, *at, *last, *end;
	u16 size;
	u8 write, fill;
	u16 flags;
};
#define X(n, size, kind, fill, flags, setup, insn)                                                 \
	{op_##n, op_##n##_at, op_##n##_last, op_##n##_end, size, kind, fill, flags},
static const struct op ops[] = {OPS(X)};
#undef X

/* ---- one operand ---- */

static struct {
	const struct op *op;
	bool user;
	u64 pa; /* of the two pages */
	u64 addr;
	struct regs before, after;
	u8 *start_memory, *end_memory; /* two pages, then the first bytes of OTHER */
} t;

#define MEMORY (2 * PAGE)
#define AT     (CODE + (u64)(t.op->at - t.op->code))
#define END_AT (CODE + (u64)(t.op->end - t.op->code))
#define LAST   (CODE + (u64)(t.op->last - t.op->code))

static void fill_memory(void)
{
	u64 *p = phys(t.pa), rsp = STACK + 2048;
	u8 *at = phys(t.pa + (t.addr - DATA));

	/* Both ends of a division's operands, and no selector, are like this. */
	for (unsigned i = 0; i < MEMORY / 8; i++)
		p[i] = 0x4b5a69788796a5b4ull + i * 0x0101010101010100ull;
	memset((void *)OTHER, 0x5a, 64);
	switch (t.op->fill) {
	case ZERO:
		memset(at, 0, t.op->size);
		break;
	case CODE_PTR:
		*(u64 *)at = LAST;
		break;
	case FLAGS:
		*(u64 *)at = 0x8d7;
		break;
	case FAR_PTR:
		((u64 *)at)[0] = LAST;
		((u64 *)at)[1] = t.user ? UCODE64 : KCODE64;
		break;
	case IRET_FRAME: {
		u64 frame[5] = {LAST, t.user ? UCODE64 : KCODE64, 0x46, rsp,
		                t.user ? UDATA : KDATA};

		memcpy(at, frame, sizeof(frame));
		break;
	}
	case GDT_IMAGE:
		asm volatile("sgdt (%0)" ::"r"(at) : "memory");
		break;
	case IDT_IMAGE:
		asm volatile("sidt (%0)" ::"r"(at) : "memory");
		break;
	case FPU_IMAGE: /* FCW at offset 0 */
		memset(at, 0, t.op->size);
		*(u16 *)at = 0x37f;
		if (t.op->size >= 512)
			*(u32 *)(at + 24) = 0x1f80;
		break;
	case FPU_ENV:
		memset(at, 0, t.op->size);
		*(u16 *)at = 0x37f;
		*(u16 *)(at + 8) = 0xffff;
		break;
	case MXCSR:
		*(u32 *)at = 0x1f80;
		break;
	}
}

static void set_regs(struct regs *r)
{
	if (t.user)
		regs_user(r, CODE, STACK + 2048);
	else
		regs_kernel(r, CODE, STACK + 2048);
	r->rbx = t.addr;
	asm volatile("fninit");
	asm volatile("movq %0, %%xmm1; pcmpeqd %%xmm3, %%xmm3" ::"r"(0x40091eb851eb851full));
}

static void code_plain(void)
{
	code_copy(CODE, t.op->code, t.op->end);
	serialize();
}

static void save_memory(u8 *to)
{
	memcpy(to, phys(t.pa), MEMORY);
	memcpy(to + MEMORY, (void *)OTHER, 64);
}

static void expect_memory(const u8 *want, const char *what)
{
	if (memcmp(phys(t.pa), want, MEMORY)) {
		const u8 *p = phys(t.pa);
		unsigned i = 0;

		while (p[i] == want[i])
			i++;
		fail("%s: byte 0x%x of memory is 0x%x, should be 0x%x", what, (u64)i, (u64)p[i],
		     (u64)want[i]);
	}
	if (memcmp((void *)OTHER, want + MEMORY, 64))
		fail("%s: the other page differs", what);
}

/* Stop in front of the instruction: registers into `before`, memory into `start_memory`. */
static void stop_before(u64 rbx)
{
	fill_memory();
	code_plain();
	memcpy((void *)AT, "\xcd\x50", 2);
	serialize();
	set_regs(&t.before);
	t.before.rbx = rbx;
	run(&t.before);
	expect_trap(&t.before, V_END, 0, AT + 2);
	t.before.rip = AT;
	save_memory(t.start_memory);
}

/* The state in front of the instruction, and where it leads. */
static void measure(void)
{
	map(0, DATA, t.pa, URWX);
	map(0, DATA + PAGE, t.pa + PAGE, URWX);
	invlpg(DATA);
	invlpg(DATA + PAGE);
	stop_before(t.addr);
	code_plain();
	fill_memory();
	set_regs(&t.after);
	run(&t.after);
	expect_trap(&t.after, V_END, 0, END_AT);
	save_memory(t.end_memory);
}

static void expect_before(const struct regs *r, const char *what)
{
	struct regs want = t.before;

	if (t.op->flags & DEAD)
		want.rflags = r->rflags;
	expect_regs(r, &want, what);
}

/* Into the fault; `repair` the mapping; on to the end. */
static void fault(const char *what, u64 vector, u64 err, u64 cr2, bool restart)
{
	struct regs r;

	if (case_bad())
		return;
	fill_memory();
	code_plain();
	set_regs(&r);
	run(&r);
	if (t.op->flags & MIXED)
		err = (err & ~(u64)PF_W) | (r.err & PF_W);
	if (!expect_trap(&r, vector, err, AT)) {
		fail("  in: %s, ring %d", what, t.user ? 3 : 0);
		return;
	}
	if (vector == V_PF &&
	    (t.op->flags & BIG ? this_cpu()->cr2 - cr2 >= t.op->size : this_cpu()->cr2 != cr2))
		fail("%s: CR2 is 0x%x, should be 0x%x", what, this_cpu()->cr2, cr2);
	expect_before(&r, what);
	expect_memory(t.start_memory, what);
	if (!restart)
		return;
	map(0, DATA, t.pa, URWX);
	map(0, DATA + PAGE, t.pa + PAGE, URWX);
	invlpg(DATA);
	invlpg(DATA + PAGE);
	run(&r);
	if (!expect_trap(&r, V_END, 0, END_AT))
		fail("  in: %s, restarted", what);
	r.rflags = t.after.rflags; /* they are in RAX */
	expect_regs(&r, &t.after, "restarted");
	expect_memory(t.end_memory, "restarted");
}

static void protect(u64 page, u64 flags)
{
	map(0, DATA + page * PAGE, t.pa + page * PAGE, flags);
	invlpg(DATA + page * PAGE);
}

static void within_page(void)
{
	u64 err = (t.op->write ? PF_W : 0) | (t.user ? PF_U : 0);

	t.addr = DATA + 256;
	measure();
	protect(0, 0);
	fault("absent", V_PF, err, t.addr, true);
	if (t.op->write) {
		protect(0, P_P | P_U);
		fault("read-only", V_PF, err | PF_P, t.addr, true);
	}
	if (t.user) {
		protect(0, KRWX);
		fault("supervisor's", V_PF, err | PF_P, t.addr, true);
	}
	protect(0, 0);
	fault("absent again", V_PF, err, t.addr, true);
}

static void across_pages(void)
{
	u64 err = (t.op->write ? PF_W : 0) | (t.user ? PF_U : 0);
	u64 first;

	if (t.op->size < 2 || (t.op->flags & (ALIGN | ABS)))
		return;
	t.addr = DATA + PAGE - t.op->size / 2;
	first = t.op->flags & BIG ? t.addr : DATA + PAGE;
	measure();
	protect(1, 0);
	fault("second page absent", V_PF, err, first, true);
	if (t.op->write) {
		protect(1, P_P | P_U);
		fault("second page read-only", V_PF, err | PF_P, first, true);
	}
	protect(0, 0);
	fault("first page absent", V_PF, err, t.addr, true);
}

static void not_canonical(void)
{
	struct regs r;

	if (t.op->flags & ABS)
		return;
	t.addr = DATA + 256;
	stop_before(HOLE);
	fill_memory();
	code_plain();
	set_regs(&r);
	r.rbx = HOLE;
	run(&r);
	if (!expect_trap(&r, t.op->flags & STK ? V_SS : V_GP, 0, AT))
		fail("  in: not canonical, ring %d", t.user ? 3 : 0);
	expect_before(&r, "not canonical");
	expect_memory(t.start_memory, "not canonical");
}

static void operand(u64 which)
{
	t.op = &ops[which];
	if ((t.op->flags & AVX) && !HAS_AVX)
		skip("CPUID offers no AVX");
	if ((t.op->flags & AVX2) && !HAS_AVX2)
		skip("CPUID offers no AVX2");
	vector_on();
	wrmsr(MSR_FS_BASE, 0x1000);
	wrmsr(MSR_GS_BASE, 0x2000);
	t.pa = pages_alloc(2, PAGE);
	t.start_memory = phys(pages_alloc(3, PAGE));
	t.end_memory = phys(pages_alloc(3, PAGE));
	map_new(CODE, URWX);
	map_new(STACK, URWX);
	map_new(OTHER, URWX);
	for (unsigned ring = 0; ring < 2; ring++) {
		t.user = ring;
		if (t.user && (t.op->flags & CPL0))
			break;
		if (!case_bad())
			within_page();
		if (!case_bad())
			across_pages();
		if (!case_bad())
			not_canonical();
	}
}

#define X(n, size, kind, fill, flags, setup, insn) {#n, operand, __COUNTER__ - FIRST},
enum { FIRST = __COUNTER__ + 1 };
static const struct test_case cases[] = {OPS(X)};
TOPIC(faults, 1, cases);
