// SPDX-License-Identifier: MIT
/* Integer instructions. The host computes results and flags itself: each handler runs the same
 * instruction on the operands and keeps the EFLAGS image that PUSHFQ gives (SDM 2). */
#include "engine/interp/op.h"

#define FLAGS_OUT "pushfq; popq %[f]"

/* d = d OP s with flags; CF in where it is read. */
#define ALU_CALC(insn, T)                                                                          \
	__asm__ volatile(insn " %[s], %[d]; " FLAGS_OUT                                            \
	                 : [d] "+r"(d), [f] "=r"(f)                                                \
	                 : [s] "r"(s)                                                              \
	                 : "cc")
#define ALU_CALC_C(insn, T)                                                                        \
	__asm__ volatile("btq $0, %[fi]; " insn " %[s], %[d]; " FLAGS_OUT                          \
	                 : [d] "+r"(d), [f] "=&r"(f)                                               \
	                 : [s] "r"(s), [fi] "r"(c->aflags)                                         \
	                 : "cc")

/* 32-bit results zero the upper half; 8 and 16-bit ones leave the rest. */
#define SET_1(c, off, v) (REG_AT(c, u8, off) = (v))
#define SET_2(c, off, v) (REG_AT(c, u16, off) = (v))
#define SET_4(c, off, v) (REG_AT(c, u64, off) = (u32)(v))
#define SET_8(c, off, v) (REG_AT(c, u64, off) = (v))

#define ALU_FN(name, insn, CALC, N, T, WB)                                                         \
	static void op_##name##_rr##N(struct x86_cpu *c, const struct op *op)                      \
	{                                                                                          \
		T d = REG_AT(c, T, op->dst), s = REG_AT(c, T, op->src);                            \
		u64 f;                                                                             \
		CALC(insn, T);                                                                     \
		if (WB)                                                                            \
			SET_##N(c, op->dst, d);                                                    \
		c->aflags = f;                                                                     \
		NEXT;                                                                              \
	}                                                                                          \
	static void op_##name##_ri##N(struct x86_cpu *c, const struct op *op)                      \
	{                                                                                          \
		T d = REG_AT(c, T, op->dst), s = (T)op->imm;                                       \
		u64 f;                                                                             \
		CALC(insn, T);                                                                     \
		if (WB)                                                                            \
			SET_##N(c, op->dst, d);                                                    \
		c->aflags = f;                                                                     \
		NEXT;                                                                              \
	}                                                                                          \
	static void op_##name##_rm##N(struct x86_cpu *c, const struct op *op)                      \
	{                                                                                          \
		T s = op_ld##N(c, op, ea(c, op, N, false));                                        \
		T d = REG_AT(c, T, op->dst);                                                       \
		u64 f;                                                                             \
		CALC(insn, T);                                                                     \
		if (WB)                                                                            \
			SET_##N(c, op->dst, d);                                                    \
		c->aflags = f;                                                                     \
		NEXT;                                                                              \
	}                                                                                          \
	ALU_MEM_FN(name##_mr##N, insn, CALC, N, T, WB, REG_AT(c, T, op->src))                      \
	ALU_MEM_FN(name##_mi##N, insn, CALC, N, T, WB, (T)op->imm)

#define ALU_MEM_FN(name, insn, CALC, N, T, WB, SRC)                                                \
	static void op_##name(struct x86_cpu *c, const struct op *op)                              \
	{                                                                                          \
		gva_t a = ea(c, op, N, WB);                                                        \
		T d, s = SRC;                                                                      \
		u64 f;                                                                             \
		if (WB) {                                                                          \
			RMW(N, T, CALC(insn, T));                                                  \
			c->aflags = f;                                                             \
			NEXT_ST;                                                                   \
		} else {                                                                           \
			d = op_ld##N(c, op, a);                                                    \
			CALC(insn, T);                                                             \
			c->aflags = f;                                                             \
			NEXT;                                                                      \
		}                                                                                  \
	}

#define ALU_SIZES(name, insn, CALC, WB)                                                            \
	ALU_FN(name, insn, CALC, 1, u8, WB)                                                        \
	ALU_FN(name, insn, CALC, 2, u16, WB)                                                       \
	ALU_FN(name, insn, CALC, 4, u32, WB)                                                       \
	ALU_FN(name, insn, CALC, 8, u64, WB)

ALU_SIZES(add, "add", ALU_CALC, true)
ALU_SIZES(or, "or", ALU_CALC, true)
ALU_SIZES(adc, "adc", ALU_CALC_C, true)
ALU_SIZES(sbb, "sbb", ALU_CALC_C, true)
ALU_SIZES(and, "and", ALU_CALC, true)
ALU_SIZES(sub, "sub", ALU_CALC, true)
ALU_SIZES(xor, "xor", ALU_CALC, true)
ALU_SIZES(cmp, "cmp", ALU_CALC, false)
ALU_SIZES(test, "test", ALU_CALC, false)

#define ALU_ROW(name, form)                                                                        \
	{                                                                                          \
		op_##name##_##form##1, op_##name##_##form##2, op_##name##_##form##4,               \
			op_##name##_##form##8                                                      \
	}
#define ALU_TAB(name)                                                                              \
	{                                                                                          \
		ALU_ROW(name, rr), ALU_ROW(name, ri), ALU_ROW(name, rm), ALU_ROW(name, mr),        \
			ALU_ROW(name, mi)                                                          \
	}
op_fn *const ops_alu[NR_ALU][NR_FORM][4] = {
	[ALU_ADD] = ALU_TAB(add), [ALU_OR] = ALU_TAB(or),   [ALU_ADC] = ALU_TAB(adc),
	[ALU_SBB] = ALU_TAB(sbb), [ALU_AND] = ALU_TAB(and), [ALU_SUB] = ALU_TAB(sub),
	[ALU_XOR] = ALU_TAB(xor), [ALU_CMP] = ALU_TAB(cmp), [ALU_TEST] = ALU_TAB(test),
};

/* ---- one operand: INC, DEC (CF kept), NEG, NOT (no flags) ---- */

#define UN_CALC_C(insn)                                                                            \
	__asm__ volatile("btq $0, %[fi]; " insn " %[d]; " FLAGS_OUT                                \
	                 : [d] "+r"(d), [f] "=&r"(f)                                               \
	                 : [fi] "r"(c->aflags)                                                     \
	                 : "cc")
#define UN_CALC(insn) __asm__ volatile(insn " %[d]; " FLAGS_OUT : [d] "+r"(d), [f] "=r"(f) : : "cc")
#define UN_NOFLAGS(insn)                                                                           \
	do {                                                                                       \
		d = (__typeof__(d))~d;                                                             \
		f = c->aflags;                                                                     \
	} while (0)

#define UN_FN(name, insn, CALC, N, T)                                                              \
	static void op_##name##_r##N(struct x86_cpu *c, const struct op *op)                       \
	{                                                                                          \
		T d = REG_AT(c, T, op->dst);                                                       \
		u64 f;                                                                             \
		CALC(insn);                                                                        \
		SET_##N(c, op->dst, d);                                                            \
		c->aflags = f;                                                                     \
		NEXT;                                                                              \
	}                                                                                          \
	static void op_##name##_m##N(struct x86_cpu *c, const struct op *op)                       \
	{                                                                                          \
		gva_t a = ea(c, op, N, true);                                                      \
		T d;                                                                               \
		u64 f;                                                                             \
		RMW(N, T, CALC(insn));                                                             \
		c->aflags = f;                                                                     \
		NEXT_ST;                                                                           \
	}
#define UN_SIZES(name, insn, CALC)                                                                 \
	UN_FN(name, insn, CALC, 1, u8)                                                             \
	UN_FN(name, insn, CALC, 2, u16)                                                            \
	UN_FN(name, insn, CALC, 4, u32)                                                            \
	UN_FN(name, insn, CALC, 8, u64)
UN_SIZES(inc, "inc", UN_CALC_C)
UN_SIZES(dec, "dec", UN_CALC_C)
UN_SIZES(neg, "neg", UN_CALC)
UN_SIZES(not, "", UN_NOFLAGS)

#define UN_TAB(name)                                                                               \
	{                                                                                          \
		ALU_ROW(name, r), ALU_ROW(name, m)                                                 \
	}
op_fn *const ops_un[NR_UN][2][4] = {
	[UN_INC] = UN_TAB(inc),
	[UN_DEC] = UN_TAB(dec),
	[UN_NOT] = UN_TAB(not ),
	[UN_NEG] = UN_TAB(neg),
};

/* ---- shifts and rotates: a masked count of 0 changes neither flags nor (but for zero extension)
 * the result. Shifts define all flags but AF (undefined); rotates leave SF, ZF, AF, PF, and OF is
 * what the host makes of it: RCL and RCR by a multiple of the width and 1 leave that too. ---- */

#define CALC_SHIFT(insn)                                                                           \
	__asm__ volatile(insn " %%cl, %[d]; " FLAGS_OUT                                            \
	                 : [d] "+r"(d), [f] "=r"(f)                                                \
	                 : "c"(n)                                                                  \
	                 : "c"                                                                     \
	                   "c")
#define CALC_ROTATE(insn)                                                                          \
	do {                                                                                       \
		u8 cf, of = c->aflags >> 11 & 1;                                                   \
		__asm__ volatile("addb $0x7f, %[of]; sahf; " insn                                  \
		                 " %%cl, %[d]; setc %[cf]; seto %[of]"                             \
		                 : [d] "+r"(d), [cf] "=&q"(cf), [of] "+&q"(of)                     \
		                 : "a"((c->aflags & 0xff) << 8), "c"(n)                            \
		                 : "cc");                                                          \
		f = (f & ~(X86_RFLAGS_CF | X86_RFLAGS_OF)) | cf | (u64)of << 11;                   \
	} while (0)

#define SH_FN(name, insn, CALC, N, T, suffix, CNT)                                                 \
	static void op_##name##_r##suffix##N(struct x86_cpu *c, const struct op *op)               \
	{                                                                                          \
		T d = REG_AT(c, T, op->dst);                                                       \
		u8 n = (CNT) & (N == 8 ? 63 : 31);                                                 \
		u64 f = c->aflags;                                                                 \
		if (n)                                                                             \
			CALC(insn);                                                                \
		SET_##N(c, op->dst, d);                                                            \
		c->aflags = f;                                                                     \
		NEXT;                                                                              \
	}                                                                                          \
	static void op_##name##_m##suffix##N(struct x86_cpu *c, const struct op *op)               \
	{                                                                                          \
		gva_t a = ea(c, op, N, true);                                                      \
		u8 n = (CNT) & (N == 8 ? 63 : 31);                                                 \
		u64 f = c->aflags;                                                                 \
		T d;                                                                               \
		RMW(N, T, if (n) CALC(insn));                                                      \
		c->aflags = f;                                                                     \
		NEXT_ST;                                                                           \
	}
#define SH_BOTH(name, insn, CALC, N, T)                                                            \
	SH_FN(name, insn, CALC, N, T, i, (u8)op->imm)                                              \
	SH_FN(name, insn, CALC, N, T, c, (u8)c->gpr[RCX])
#define SH_SIZES(name, CALC)                                                                       \
	SH_BOTH(name, #name, CALC, 1, u8)                                                          \
	SH_BOTH(name, #name, CALC, 2, u16)                                                         \
	SH_BOTH(name, #name, CALC, 4, u32)                                                         \
	SH_BOTH(name, #name, CALC, 8, u64)
SH_SIZES(rol, CALC_ROTATE)
SH_SIZES(ror, CALC_ROTATE)
SH_SIZES(rcl, CALC_ROTATE)
SH_SIZES(rcr, CALC_ROTATE)
SH_SIZES(shl, CALC_SHIFT)
SH_SIZES(shr, CALC_SHIFT)
SH_SIZES(sar, CALC_SHIFT)
#define SH_TAB(name)                                                                               \
	{                                                                                          \
		{ALU_ROW(name, ri), ALU_ROW(name, rc)},                                            \
		{                                                                                  \
			ALU_ROW(name, mi), ALU_ROW(name, mc)                                       \
		}                                                                                  \
	}
op_fn *const ops_sh[NR_SH][2][2][4] = {
	[SH_ROL] = SH_TAB(rol), [SH_ROR] = SH_TAB(ror), [SH_RCL] = SH_TAB(rcl),
	[SH_RCR] = SH_TAB(rcr), [SH_SHL] = SH_TAB(shl), [SH_SHR] = SH_TAB(shr),
	[SH_SAR] = SH_TAB(sar),
};

/* ---- moves ---- */

#define MOV_FN(N, T)                                                                               \
	static void op_mov_rr##N(struct x86_cpu *c, const struct op *op)                           \
	{                                                                                          \
		SET_##N(c, op->dst, REG_AT(c, T, op->src));                                        \
		NEXT;                                                                              \
	}                                                                                          \
	static void op_mov_ri##N(struct x86_cpu *c, const struct op *op)                           \
	{                                                                                          \
		SET_##N(c, op->dst, (T)op->imm);                                                   \
		NEXT;                                                                              \
	}                                                                                          \
	static void op_mov_rm##N(struct x86_cpu *c, const struct op *op)                           \
	{                                                                                          \
		T v = op_ld##N(c, op, ea(c, op, N, false));                                        \
		SET_##N(c, op->dst, v);                                                            \
		NEXT;                                                                              \
	}                                                                                          \
	static void op_mov_mr##N(struct x86_cpu *c, const struct op *op)                           \
	{                                                                                          \
		op_st##N(c, op, ea(c, op, N, true), REG_AT(c, T, op->src));                        \
		NEXT_ST;                                                                           \
	}                                                                                          \
	static void op_mov_mi##N(struct x86_cpu *c, const struct op *op)                           \
	{                                                                                          \
		op_st##N(c, op, ea(c, op, N, true), (T)op->imm);                                   \
		NEXT_ST;                                                                           \
	}
MOV_FN(1, u8)
MOV_FN(2, u16)
MOV_FN(4, u32)
MOV_FN(8, u64)
op_fn *const ops_mov[NR_FORM][4] = ALU_TAB(mov);

#define MOVX_FN(name, DN, DT, SN, ST)                                                              \
	static void op_##name##_r##DN##SN(struct x86_cpu *c, const struct op *op)                  \
	{                                                                                          \
		SET_##DN(c, op->dst, (DT)REG_AT(c, ST, op->src));                                  \
		NEXT;                                                                              \
	}                                                                                          \
	static void op_##name##_m##DN##SN(struct x86_cpu *c, const struct op *op)                  \
	{                                                                                          \
		ST v = (ST)op_ld##SN(c, op, ea(c, op, SN, false));                                 \
		SET_##DN(c, op->dst, (DT)v);                                                       \
		NEXT;                                                                              \
	}
MOVX_FN(movzx, 2, u16, 1, u8)
MOVX_FN(movzx, 4, u32, 1, u8)
MOVX_FN(movzx, 8, u64, 1, u8)
MOVX_FN(movzx, 2, u16, 2, u16)
MOVX_FN(movzx, 4, u32, 2, u16)
MOVX_FN(movzx, 8, u64, 2, u16)
MOVX_FN(movsx, 2, u16, 1, s8)
MOVX_FN(movsx, 4, u32, 1, s8)
MOVX_FN(movsx, 8, u64, 1, s8)
MOVX_FN(movsx, 2, u16, 2, s16)
MOVX_FN(movsx, 4, u32, 2, s16)
MOVX_FN(movsx, 8, u64, 2, s16)
MOVX_FN(movsx, 2, u16, 4, s32)
MOVX_FN(movsx, 4, u32, 4, s32)
MOVX_FN(movsx, 8, u64, 4, s32)
#define MOVX_ROWS(name, k, last)                                                                   \
	{                                                                                          \
		{op_##name##_##k##21, op_##name##_##k##22, last(name, k, 2)},                      \
			{op_##name##_##k##41, op_##name##_##k##42, last(name, k, 4)},              \
			{op_##name##_##k##81, op_##name##_##k##82, last(name, k, 8)},              \
	}
#define MOVX_NONE(name, k, n) NULL
#define MOVX_SXD(name, k, n)  op_##name##_##k##n##4
op_fn *const ops_movzx[2][2][3][3] = {
	{MOVX_ROWS(movzx, r, MOVX_NONE), MOVX_ROWS(movzx, m, MOVX_NONE)},
	{MOVX_ROWS(movsx, r, MOVX_SXD), MOVX_ROWS(movsx, m, MOVX_SXD)},
};

static void op_lea2(struct x86_cpu *c, const struct op *op)
{
	SET_2(c, op->dst, (u16)ea_offset(c, op));
	NEXT;
}
static void op_lea4(struct x86_cpu *c, const struct op *op)
{
	SET_4(c, op->dst, ea_offset(c, op));
	NEXT;
}
static void op_lea8(struct x86_cpu *c, const struct op *op)
{
	SET_8(c, op->dst, ea_offset(c, op));
	NEXT;
}
op_fn *const ops_lea[3] = {op_lea2, op_lea4, op_lea8};

#define XCHG_FN(N, T)                                                                              \
	static void op_xchg_rr##N(struct x86_cpu *c, const struct op *op)                          \
	{                                                                                          \
		T a = REG_AT(c, T, op->dst), b = REG_AT(c, T, op->src);                            \
		SET_##N(c, op->dst, b);                                                            \
		SET_##N(c, op->src, a);                                                            \
		NEXT;                                                                              \
	}
XCHG_FN(1, u8)
XCHG_FN(2, u16)
XCHG_FN(4, u32)
XCHG_FN(8, u64)
op_fn *const ops_xchg_rr[4] = {op_xchg_rr1, op_xchg_rr2, op_xchg_rr4, op_xchg_rr8};

/* ---- IMUL with two and three operands ---- */

#define IMUL_FN(N, T)                                                                              \
	static void op_imul_r##N(struct x86_cpu *c, const struct op *op)                           \
	{                                                                                          \
		T d = REG_AT(c, T, op->dst), s = REG_AT(c, T, op->src);                            \
		u64 f;                                                                             \
		ALU_CALC("imul", T);                                                               \
		SET_##N(c, op->dst, d);                                                            \
		c->aflags = f;                                                                     \
		NEXT;                                                                              \
	}                                                                                          \
	static void op_imul_m##N(struct x86_cpu *c, const struct op *op)                           \
	{                                                                                          \
		T s = op_ld##N(c, op, ea(c, op, N, false)), d = REG_AT(c, T, op->dst);             \
		u64 f;                                                                             \
		ALU_CALC("imul", T);                                                               \
		SET_##N(c, op->dst, d);                                                            \
		c->aflags = f;                                                                     \
		NEXT;                                                                              \
	}                                                                                          \
	static void op_imul3_r##N(struct x86_cpu *c, const struct op *op)                          \
	{                                                                                          \
		T d = (T)op->imm, s = REG_AT(c, T, op->src);                                       \
		u64 f;                                                                             \
		ALU_CALC("imul", T);                                                               \
		SET_##N(c, op->dst, d);                                                            \
		c->aflags = f;                                                                     \
		NEXT;                                                                              \
	}                                                                                          \
	static void op_imul3_m##N(struct x86_cpu *c, const struct op *op)                          \
	{                                                                                          \
		T d = (T)op->imm, s = op_ld##N(c, op, ea(c, op, N, false));                        \
		u64 f;                                                                             \
		ALU_CALC("imul", T);                                                               \
		SET_##N(c, op->dst, d);                                                            \
		c->aflags = f;                                                                     \
		NEXT;                                                                              \
	}
IMUL_FN(2, u16)
IMUL_FN(4, u32)
IMUL_FN(8, u64)
op_fn *const ops_imul[2][3] = {{op_imul_r2, op_imul_r4, op_imul_r8},
                               {op_imul_m2, op_imul_m4, op_imul_m8}};
op_fn *const ops_imul3[2][3] = {{op_imul3_r2, op_imul3_r4, op_imul3_r8},
                                {op_imul3_m2, op_imul3_m4, op_imul3_m8}};

/* ---- conditional moves, sets ---- */

#define CC_FN(CC)                                                                                  \
	static void op_cmov##CC##_r2(struct x86_cpu *c, const struct op *op)                       \
	{                                                                                          \
		if (cond(c->aflags, CC))                                                           \
			SET_2(c, op->dst, REG_AT(c, u16, op->src));                                \
		NEXT;                                                                              \
	}                                                                                          \
	static void op_cmov##CC##_r4(struct x86_cpu *c, const struct op *op)                       \
	{                                                                                          \
		u8 from = cond(c->aflags, CC) ? op->src : op->dst;                                 \
		SET_4(c, op->dst, REG_AT(c, u32, from));                                           \
		NEXT;                                                                              \
	}                                                                                          \
	static void op_cmov##CC##_r8(struct x86_cpu *c, const struct op *op)                       \
	{                                                                                          \
		u8 from = cond(c->aflags, CC) ? op->src : op->dst;                                 \
		SET_8(c, op->dst, REG_AT(c, u64, from));                                           \
		NEXT;                                                                              \
	}                                                                                          \
	static void op_cmov##CC##_m2(struct x86_cpu *c, const struct op *op)                       \
	{                                                                                          \
		u16 v = op_ld2(c, op, ea(c, op, 2, false));                                        \
		if (cond(c->aflags, CC))                                                           \
			SET_2(c, op->dst, v);                                                      \
		NEXT;                                                                              \
	}                                                                                          \
	static void op_cmov##CC##_m4(struct x86_cpu *c, const struct op *op)                       \
	{                                                                                          \
		u32 v = op_ld4(c, op, ea(c, op, 4, false));                                        \
		SET_4(c, op->dst, cond(c->aflags, CC) ? v : REG_AT(c, u32, op->dst));              \
		NEXT;                                                                              \
	}                                                                                          \
	static void op_cmov##CC##_m8(struct x86_cpu *c, const struct op *op)                       \
	{                                                                                          \
		u64 v = op_ld8(c, op, ea(c, op, 8, false));                                        \
		if (cond(c->aflags, CC))                                                           \
			SET_8(c, op->dst, v);                                                      \
		NEXT;                                                                              \
	}                                                                                          \
	static void op_set##CC##_r(struct x86_cpu *c, const struct op *op)                         \
	{                                                                                          \
		SET_1(c, op->dst, cond(c->aflags, CC));                                            \
		NEXT;                                                                              \
	}                                                                                          \
	static void op_set##CC##_m(struct x86_cpu *c, const struct op *op)                         \
	{                                                                                          \
		op_st1(c, op, ea(c, op, 1, true), cond(c->aflags, CC));                            \
		NEXT_ST;                                                                           \
	}
#define ALL_CC(X)                                                                                  \
	X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15)
ALL_CC(CC_FN)
#define CMOV_ROW(CC)                                                                               \
	{{op_cmov##CC##_r2, op_cmov##CC##_r4, op_cmov##CC##_r8},                                   \
	 {op_cmov##CC##_m2, op_cmov##CC##_m4, op_cmov##CC##_m8}},
#define SETCC_ROW(CC) {op_set##CC##_r, op_set##CC##_m},
op_fn *const ops_cmov[16][2][3] = {ALL_CC(CMOV_ROW)};
op_fn *const ops_setcc[16][2] = {ALL_CC(SETCC_ROW)};

/* ---- bit tests on a register operand; memory ones in ops_misc.c ---- */

#define BT_FN(name, insn, N, T)                                                                    \
	static void op_##name##_r##N(struct x86_cpu *c, const struct op *op)                       \
	{                                                                                          \
		T d = REG_AT(c, T, op->dst), s = REG_AT(c, T, op->src);                            \
		u64 f;                                                                             \
		BT_CALC(insn);                                                                     \
		if (BT_WB_##name)                                                                  \
			SET_##N(c, op->dst, d);                                                    \
		c->aflags = f;                                                                     \
		NEXT;                                                                              \
	}                                                                                          \
	static void op_##name##_i##N(struct x86_cpu *c, const struct op *op)                       \
	{                                                                                          \
		T d = REG_AT(c, T, op->dst), s = (T)op->imm;                                       \
		u64 f;                                                                             \
		BT_CALC(insn);                                                                     \
		if (BT_WB_##name)                                                                  \
			SET_##N(c, op->dst, d);                                                    \
		c->aflags = f;                                                                     \
		NEXT;                                                                              \
	}
/* Only CF changes. */
#define BT_CALC(insn)                                                                              \
	do {                                                                                       \
		u8 cf;                                                                             \
		__asm__ volatile(insn " %[s], %[d]; setc %[f]"                                     \
		                 : [d] "+r"(d), [f] "=q"(cf)                                       \
		                 : [s] "r"(s)                                                      \
		                 : "cc");                                                          \
		f = (c->aflags & ~X86_RFLAGS_CF) | cf;                                             \
	} while (0)
#define BT_WB_bt  0
#define BT_WB_bts 1
#define BT_WB_btr 1
#define BT_WB_btc 1
#define BT_SIZES(name)                                                                             \
	BT_FN(name, #name, 2, u16) BT_FN(name, #name, 4, u32) BT_FN(name, #name, 8, u64)
BT_SIZES(bt)
BT_SIZES(bts)
BT_SIZES(btr)
BT_SIZES(btc)
#define BT_ROW(name)                                                                               \
	{                                                                                          \
		{op_##name##_r2, op_##name##_r4, op_##name##_r8},                                  \
		{                                                                                  \
			op_##name##_i2, op_##name##_i4, op_##name##_i8                             \
		}                                                                                  \
	}
op_fn *const ops_bt_r[4][2][3] = {BT_ROW(bt), BT_ROW(bts), BT_ROW(btr), BT_ROW(btc)};

/* ---- small ones ---- */

void op_nop(struct x86_cpu *c, const struct op *op)
{
	NEXT;
}

void op_bswap2(struct x86_cpu *c, const struct op *op)
{
	/* Undefined by the SDM; processors clear the low half. */
	SET_2(c, op->dst, 0);
	NEXT;
}

void op_bswap4(struct x86_cpu *c, const struct op *op)
{
	SET_4(c, op->dst, __builtin_bswap32(REG_AT(c, u32, op->dst)));
	NEXT;
}

void op_bswap8(struct x86_cpu *c, const struct op *op)
{
	SET_8(c, op->dst, __builtin_bswap64(REG_AT(c, u64, op->dst)));
	NEXT;
}

void op_convert(struct x86_cpu *c, const struct op *op)
{
	u64 a = c->gpr[RAX];

	if (!op->aux) {
		if (op->size == 2)
			SET_2(c, GPR_OFF(RAX), (u16)(s8)a);
		else if (op->size == 4)
			SET_4(c, GPR_OFF(RAX), (u32)(s16)a);
		else
			c->gpr[RAX] = (u64)(s32)a;
	} else {
		if (op->size == 2)
			SET_2(c, GPR_OFF(RDX), (u16) - ((s16)a < 0));
		else if (op->size == 4)
			SET_4(c, GPR_OFF(RDX), -(u32)((s32)a < 0));
		else
			c->gpr[RDX] = -(u64)((s64)a < 0);
	}
	NEXT;
}

/* CLC F8, STC F9, CMC F5, CLD FC, STD FD: aux is the opcode. */
void op_flag(struct x86_cpu *c, const struct op *op)
{
	switch (op->aux) {
	case 0xf8:
		c->aflags &= ~X86_RFLAGS_CF;
		break;
	case 0xf9:
		c->aflags |= X86_RFLAGS_CF;
		break;
	case 0xf5:
		c->aflags ^= X86_RFLAGS_CF;
		break;
	case 0xfc:
		c->sflags &= ~X86_RFLAGS_DF;
		break;
	default:
		c->sflags |= X86_RFLAGS_DF;
	}
	NEXT;
}

#define AH_FLAGS 0xd5ull
void op_lahf(struct x86_cpu *c, const struct op *op)
{
	REG_AT(c, u8, 1) = (u8)((c->aflags & AH_FLAGS) | 2);
	NEXT;
}

void op_sahf(struct x86_cpu *c, const struct op *op)
{
	c->aflags = (c->aflags & ~AH_FLAGS) | (REG_AT(c, u8, 1) & AH_FLAGS);
	NEXT;
}

void op_salc(struct x86_cpu *c, const struct op *op)
{
	REG_AT(c, u8, 0) = c->aflags & X86_RFLAGS_CF ? 0xff : 0;
	NEXT;
}
