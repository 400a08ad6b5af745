/* SPDX-License-Identifier: MIT */
/* Decoded instructions and blocks, and what handlers are made of. Private to the interpreter.
 *
 * Rules for a handler: read operands, do whatever may fault, only then change
 * registers and flags. Before it calls anything that may raise it sets c->rip (OP_SYNC, done by the
 * slow paths of loads and stores themselves). */
#pragma once

#include "cpu/x86/mmu.h"
#include "engine/interp/interp.h"

struct op;
typedef void op_fn(struct x86_cpu *c, const struct op *op);

/* 32 bytes: two to a cache line. dst, src: byte offsets into c->gpr (AH is RAX's offset + 1);
 * base, index: likewise, REG_IP and REG_ZERO included. */
struct op {
	op_fn *fn;
	union {
		u64 imm;
		const struct native_insn *native;
	};
	s32 disp;
	u8 dst, src;
	u8 base, index;
	u8 scale;
	u8 seg; /* enum x86_segreg */
	u8 len;
	u8 ea;   /* EA_*: 0 is plain 64-bit */
	u16 off; /* from the block's first byte */
	u8 size; /* operand size in bytes, where the handler is generic */
	u8 aux;
};
_Static_assert(sizeof(struct op) == 32, "two ops a cache line");

enum {
	EA_ADDR32 = 1, /* offset is truncated to 32 bits */
	EA_ADDR16 = 2,
	EA_SEG = 4,     /* full segment checks (not M_FLAT, not 64-bit) */
	EA_BASE = 8,    /* not 64-bit, flat or FS/GS: add the base, truncate to 32 bits */
	EA_FAR_IP = 16, /* `disp` is relative to the next instruction, not to the block */
	EA_MOFFS = 32,  /* the offset has 64 bits: it is in imm */
};

#define BLOCK_MAX_OPS   64
#define BLOCK_MAX_BYTES 512
#define BLOCK_DEAD      PMAP_CODE_SETTLED /* no page has it without MARKED */
#define MODE_ONE        (1u << 31)        /* key bit: a block of one instruction */

struct block {
	struct block *hash_next;
	gpa_t gpa;
	u32 mode; /* c->mode at decoding | MODE_ONE */
	u32 ver;  /* of the page, marked and settled; BLOCK_DEAD */
	_Atomic u32 *page_ver;
	/* Second page, when the only instruction straddles; else NULL. */
	_Atomic u32 *page2_ver;
	u32 ver2;
	u16 nr_ops; /* without the closing op */
	u16 len;    /* bytes */
	u16 seen;   /* bytes that it depends on: a bad instruction's are more than its 1 */
	gpa_t gpa2; /* page */
	struct block *link[2]; /* successors on the same page: [0] fall through, [1] taken */
	const u8 *code;        /* copy of `seen` bytes */
	struct op ops[];
};

#define BLOCK_HASH_BITS 14
#define JC_BITS         12

struct jc_entry { /* by virtual address, valid for one tlb_gen */
	u64 lin;
	u32 gen, mode;
	struct block *b;
};

struct interp {
	struct x86_cpu *c;
	struct native *native;
	struct block *cur; /* the running block */
	struct jc_entry jc[1 << JC_BITS];
	struct block *hash[1 << BLOCK_HASH_BITS];
	u8 *arena;
	size_t arena_used, arena_size;
	bool stop_hlt; /* HLT was executed */
	bool shutdown; /* triple fault */
	bool stepping; /* inside run_one's instruction */
	bool thread_ready;
	u32 pauses; /* PAUSE instructions executed */
	u64 insns;  /* retired */
};

static inline struct interp *interp_of(struct x86_cpu *c)
{
	return c->interp;
}

/* decode.c: decode at linear address `lin` on the page `e`. May raise (the fetch of a second page).
 */
struct block *block_decode(struct interp *in, struct x86_cpu *c, u32 mode,
                           const struct itlb_entry *e, u64 lin);
void interp_flush_blocks(struct interp *in);
/* run.c */
void op_chain(struct x86_cpu *c, struct interp *in, u64 target, int which);
void op_chain_any(struct x86_cpu *c, struct interp *in);

/* Is there something that the loop must look at before the next instruction? */
static inline bool interp_attention(const struct x86_cpu *c)
{
	u32 req = __atomic_load_n((const u32 *)&c->vcpu->req, __ATOMIC_RELAXED);

	return unlikely(req) && ((req & ~(u32)VCPU_REQ_IRQ) || x86_intr_open(c));
}

/* ---- registers ---- */
#define REG_AT(c, T, off) (*(T *)((u8 *)(c)->gpr + (off)))
#define GPR_OFF(r)        ((u8)((r)*8))

/* ---- dispatch ---- */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || !defined(__OPTIMIZE__)
#define INTERP_NO_TAIL_CALLS 1
#elif defined(__has_feature) /* clang */
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define INTERP_NO_TAIL_CALLS 1
#endif
#endif

#define NEXT                                                                                       \
	do {                                                                                       \
		const struct op *next_op = op + 1;                                                 \
		next_op->fn(c, next_op);                                                           \
		return;                                                                            \
	} while (0)

/* After anything that may have stored: code of this very block may have changed. */
#define NEXT_ST                                                                                    \
	do {                                                                                       \
		if (unlikely(c->code_written)) {                                                   \
			op_end_early(c, op);                                                       \
			return;                                                                    \
		}                                                                                  \
		NEXT;                                                                              \
	} while (0)

void op_end_early(struct x86_cpu *c, const struct op *op);

static inline u64 op_rip(const struct x86_cpu *c, const struct op *op)
{
	u64 ip = c->gpr[REG_IP] + op->off;

	return ip;
}

static inline u64 ip_mask(const struct x86_cpu *c, u64 ip)
{
	return c->mode & M_CS64 ? ip : (u32)ip;
}

static inline void op_sync(struct x86_cpu *c, const struct op *op)
{
	c->rip = c->gpr[REG_IP] + op->off;
	c->next_rip = ip_mask(c, c->rip + op->len);
}
#define OP_SYNC op_sync(c, op)

/* Slow paths keep every register but RAX, and the compiler is told so: it takes them for an
 * instruction, not for a call, and the fast paths of handlers need no frame. The functions proper
 * (_c) are entered through stubs in ops_misc.c that save the registers and align the stack. The
 * files are compiled without a red zone. */
#define SLOW_CALL(name, ret, ...)                                                                  \
	__asm__ volatile("call " #name "_keep" : "=a"(ret) : __VA_ARGS__ : "memory", "cc")

gva_t ea_special_c(struct x86_cpu *c, const struct op *op, unsigned size, bool write);
u64 op_ld_slow_c(struct x86_cpu *c, const struct op *op, gva_t a, unsigned size);
u64 op_st_slow_c(struct x86_cpu *c, const struct op *op, gva_t a, unsigned size, u64 val);
u64 op_rmw_ld_c(struct x86_cpu *c, const struct op *op, gva_t a, unsigned size);
u64 op_rmw_st_c(struct x86_cpu *c, gva_t a, u64 val, unsigned size);
u64 op_smc_c(struct x86_cpu *c, uintptr_t host, unsigned size);

/* ---- effective addresses ---- */
static inline gva_t ea_special(struct x86_cpu *c, const struct op *op, unsigned size, bool write)
{
	gva_t a;

	SLOW_CALL(ea_special, a, "D"(c), "S"(op), "d"(size), "c"((unsigned)write));
	return a;
}

/* Offset within the segment, truncated to the address size: LEA, and string or table look-ups. */
static inline u64 ea_offset(const struct x86_cpu *c, const struct op *op)
{
	u64 a = REG_AT(c, u64, op->base) + (REG_AT(c, u64, op->index) << op->scale) +
	        (u64)(s64)op->disp;

	if (unlikely(op->ea & (EA_ADDR32 | EA_ADDR16 | EA_FAR_IP | EA_MOFFS))) {
		if (op->ea & EA_FAR_IP)
			a += op->off + op->len;
		if (op->ea & EA_MOFFS)
			a += op->imm;
		if (op->ea & EA_ADDR32)
			a = (u32)a;
		if (op->ea & EA_ADDR16)
			a = (u16)a;
	}
	return a;
}

static inline __attribute__((always_inline)) gva_t ea(struct x86_cpu *c, const struct op *op,
                                                      unsigned size, bool write)
{
	if (unlikely(op->ea))
		return ea_special(c, op, size, write);
	return REG_AT(c, u64, op->base) + (REG_AT(c, u64, op->index) << op->scale) +
	       (u64)(s64)op->disp + c->segbase[op->seg];
}

/* ea() with the check that the slow paths of loads and stores make: for mmu_ld() and its kin. */
gva_t ea_checked(struct x86_cpu *c, const struct op *op, unsigned size, bool write);

/* ---- memory ---- */
static inline u64 op_ld_slow(struct x86_cpu *c, const struct op *op, gva_t a, unsigned size)
{
	u64 v;

	SLOW_CALL(op_ld_slow, v, "D"(c), "S"(op), "d"(a), "c"(size));
	return v;
}

static inline void op_st_slow(struct x86_cpu *c, const struct op *op, gva_t a, u64 val,
                              unsigned size)
{
	register u64 r8 __asm__("r8") = val;
	u64 none;

	SLOW_CALL(op_st_slow, none, "D"(c), "S"(op), "d"(a), "c"(size), "r"(r8));
}

/* Read-modify-write through the mmu: write rights checked first, then the load; then the store. */
static inline u64 op_rmw_ld(struct x86_cpu *c, const struct op *op, gva_t a, unsigned size)
{
	u64 v;

	SLOW_CALL(op_rmw_ld, v, "D"(c), "S"(op), "d"(a), "c"(size));
	return v;
}

static inline void op_rmw_st(struct x86_cpu *c, gva_t a, u64 val, unsigned size)
{
	u64 none;

	SLOW_CALL(op_rmw_st, none, "D"(c), "S"(a), "d"(val), "c"(size));
}

static inline void op_smc(struct x86_cpu *c, uintptr_t host, unsigned size)
{
	u64 none;

	SLOW_CALL(op_smc, none, "D"(c), "S"(host), "d"(size));
}

static inline struct tlb_entry *tlb_slot(struct x86_cpu *c, gva_t a)
{
	return &c->tlb[(a >> PAGE_SHIFT) & (TLB_SIZE - 1)];
}

#define DEF_MEM(N, T)                                                                              \
	static inline __attribute__((always_inline))                                               \
	T op_ld##N(struct x86_cpu *c, const struct op *op, gva_t a)                                \
	{                                                                                          \
		struct tlb_entry *e = tlb_slot(c, a);                                              \
		if (likely(a - e->r <= PAGE_SIZE - sizeof(T)))                                     \
			return *(volatile T *)(uintptr_t)(a + e->addend);                          \
		return (T)op_ld_slow(c, op, a, sizeof(T));                                         \
	}                                                                                          \
	static inline __attribute__((always_inline)) void op_st##N(                                \
		struct x86_cpu *c, const struct op *op, gva_t a, T v)                              \
	{                                                                                          \
		struct tlb_entry *e = tlb_slot(c, a);                                              \
		if (likely(a - e->w <= PAGE_SIZE - sizeof(T))) {                                   \
			uintptr_t host = a + e->addend;                                            \
			*(volatile T *)host = v;                                                   \
			if (mmu_code_marked(c, host))                                              \
				op_smc(c, host, sizeof(T));                                        \
			return;                                                                    \
		}                                                                                  \
		op_st_slow(c, op, a, v, sizeof(T));                                                \
	}
DEF_MEM(1, u8)
DEF_MEM(2, u16)
DEF_MEM(4, u32)
DEF_MEM(8, u64)

/* d = *a; CALC; *a = d. Not atomic: LOCKed forms run natively. `a`, `d`, `op` are the handler's. */
#define RMW(N, T, ...)                                                                             \
	do {                                                                                       \
		struct tlb_entry *rmw_e = tlb_slot(c, a);                                          \
		if (likely(a - rmw_e->w <= PAGE_SIZE - (N))) {                                     \
			volatile T *rmw_p = (T *)(uintptr_t)(a + rmw_e->addend);                   \
			d = *rmw_p;                                                                \
			__VA_ARGS__;                                                               \
			*rmw_p = d;                                                                \
			if (mmu_code_marked(c, (uintptr_t)rmw_p))                                  \
				op_smc(c, (uintptr_t)rmw_p, N);                                    \
		} else {                                                                           \
			d = (T)op_rmw_ld(c, op, a, N);                                             \
			__VA_ARGS__;                                                               \
			op_rmw_st(c, a, d, N);                                                     \
		}                                                                                  \
	} while (0)

/* ---- conditions ---- */
static inline __attribute__((always_inline)) bool cond(u64 f, unsigned cc)
{
	bool r;

	switch (cc >> 1) {
	case 0:
		r = f & X86_RFLAGS_OF;
		break;
	case 1:
		r = f & X86_RFLAGS_CF;
		break;
	case 2:
		r = f & X86_RFLAGS_ZF;
		break;
	case 3:
		r = f & (X86_RFLAGS_CF | X86_RFLAGS_ZF);
		break;
	case 4:
		r = f & X86_RFLAGS_SF;
		break;
	case 5:
		r = f & X86_RFLAGS_PF;
		break;
	case 6:
		r = ((f >> 7) ^ (f >> 11)) & 1;
		break;
	default:
		r = (((f >> 7) ^ (f >> 11)) & 1) | (f >> 6 & 1);
		break;
	}
	return r ^ (cc & 1);
}

/* ---- tables the decoder picks from; index [log2 size] unless said otherwise ---- */
enum alu_op {
	ALU_ADD,
	ALU_OR,
	ALU_ADC,
	ALU_SBB,
	ALU_AND,
	ALU_SUB,
	ALU_XOR,
	ALU_CMP,
	ALU_TEST,
	NR_ALU
};
enum alu_form { F_RR, F_RI, F_RM, F_MR, F_MI, NR_FORM };
enum un_op { UN_INC, UN_DEC, UN_NOT, UN_NEG, NR_UN };
enum sh_op { SH_ROL, SH_ROR, SH_RCL, SH_RCR, SH_SHL, SH_SHR, SH_SAR, NR_SH };
extern op_fn *const ops_alu[NR_ALU][NR_FORM][4];
extern op_fn *const ops_un[NR_UN][2][4];    /* [1]: memory */
extern op_fn *const ops_sh[NR_SH][2][2][4]; /* [memory][by CL] */
extern op_fn *const ops_mov[NR_FORM][4];
extern op_fn *const ops_movzx[2][2][3][3]; /* [sign][memory][dst 2 4 8][src 1 2 4] */
extern op_fn *const ops_imul[2][3]; /* [memory], reg *= src, sizes 2 4 8; imm form: ops_imul3 */
extern op_fn *const ops_imul3[2][3];
extern op_fn *const ops_lea[3];
extern op_fn *const ops_xchg_rr[4];
extern op_fn *const ops_cmov[16][2][3];
extern op_fn *const ops_setcc[16][2];
extern op_fn *const ops_jcc[16];
enum bt_op { BT_BT, BT_BTS, BT_BTR, BT_BTC };
extern op_fn *const ops_bt_r[4][2][3]; /* [op][imm][size]: register operand */
op_fn op_bt_mem;                       /* aux: bt_op | 4 imm | 8 lock; size */
extern op_fn *const ops_str[5][4];     /* MOVS STOS LODS SCAS CMPS */
enum str_op { STR_MOVS, STR_STOS, STR_LODS, STR_SCAS, STR_CMPS };
enum { STR_REP = 1, STR_REPNE = 2, STR_A32 = 4, STR_A16 = 8 }; /* aux */

/* others, by what they do */
op_fn op_nop, op_native, op_native_random, op_native_mem, op_native_masked, op_ud, op_gp0, op_end,
	op_bswap4, op_bswap8, op_bswap2;
op_fn op_push64_r, op_push64_i, op_pop64_r, op_push_gen, op_pop_gen, op_pusha, op_popa, op_enter,
	op_leave, op_leave64;
op_fn op_jmp, op_jmp_gen, op_call64, op_call_gen, op_ret64, op_ret_gen, op_jmp_ind, op_call_ind,
	op_jcc_gen, op_loop, op_jcxz, op_jmp_far, op_call_far, op_retf, op_iret, op_int;
op_fn op_convert; /* CBW CWDE CDQE: size = result; aux 1: CWD CDQ CQO */
op_fn op_flag;    /* CLC STC CMC CLD STD: aux */
op_fn op_lahf, op_sahf, op_pushf, op_popf, op_xlat, op_bcd, op_bound, op_salc;
op_fn op_ins, op_outs, op_in, op_out;
op_fn op_sys; /* aux: enum sys_op */
op_fn op_mov_sreg, op_mov_from_sreg, op_push_sreg, op_pop_sreg, op_load_far;

enum sys_op {
	SYS_CLI,
	SYS_STI,
	SYS_HLT,
	SYS_SYSCALL,
	SYS_SYSRET,
	SYS_SYSENTER,
	SYS_SYSEXIT,
	SYS_CPUID,
	SYS_RDTSC,
	SYS_RDTSCP,
	SYS_RDPMC,
	SYS_RDMSR,
	SYS_WRMSR,
	SYS_INVD,
	SYS_WBINVD,
	SYS_INVLPG,
	SYS_INVPCID,
	SYS_LGDT,
	SYS_LIDT,
	SYS_SGDT,
	SYS_SIDT,
	SYS_LLDT,
	SYS_LTR,
	SYS_SLDT,
	SYS_STR,
	SYS_LMSW,
	SYS_SMSW,
	SYS_CLTS,
	SYS_MOV_FROM_CR,
	SYS_MOV_TO_CR,
	SYS_MOV_FROM_DR,
	SYS_MOV_TO_DR,
	SYS_SWAPGS,
	SYS_LAR,
	SYS_LSL,
	SYS_VERR,
	SYS_VERW,
	SYS_ARPL,
	SYS_XGETBV,
	SYS_XSETBV,
	SYS_STAC,
	SYS_CLAC,
	SYS_RDFSBASE,
	SYS_WRFSBASE,
	SYS_HYPERCALL,
	SYS_PAUSE,
	SYS_CLFLUSH,
	SYS_FENCE,
	SYS_RDPID,
};
