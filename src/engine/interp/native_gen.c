// SPDX-License-Identifier: MIT
/* Which instructions may run natively, and the generator of their stubs.
 *
 * A stub is `int fn(struct x86_cpu *c, void *mem)`:
 *
 *	push	callee-saved registers that the instruction names
 *	mov	C, rdi			C, M: registers it doesn't name
 *	mov	M, rsi
 *	(c->aflags -> flags, by SAHF and an addition that sets OF)
 *	mov	r, [C + r]		for each register that it names
 *	instruction, memory operand [M], RSP replaced by a free register
 *	mov	[C + r], r		for each register that it writes
 *	pushfq; pop [C + aflags]
 *	xor	eax, eax
 * tail:	pop ...; ret
 *
 * All registers are loaded whole, even those only written, so that partial and conditional writes
 * come out as on the hardware. POPF is never used: TF, AC or DF of the guest can't leak.
 *
 * The guest may be in 16-, 32- or 64-bit code; stubs are 64-bit code. So prefixes are made anew:
 * address-size and segment prefixes fall off, 0x66 comes back as the operand size needs it.
 *
 * The arena is mapped twice, writable and executable (W^X). */
#include "engine/interp/native_gen.h"

#include <cpuid.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <stdlib.h>

#include "base/log.h"

#ifndef MFD_EXEC
#define MFD_EXEC 0x10u
#endif

enum native_feat {
	F_ALWAYS,
	F_X87,
	F_CX8,
	F_CMOV,
	F_CLFSH,
	F_MMX,
	F_FXSR,
	F_SSE,
	F_SSE2,
	F_SSE3,
	F_PCLMUL,
	F_SSSE3,
	F_FMA,
	F_CX16,
	F_SSE41,
	F_SSE42,
	F_MOVBE,
	F_POPCNT,
	F_AES,
	F_XSAVE,
	F_AVX,
	F_F16C,
	F_RDRAND,
	F_BMI1,
	F_AVX2,
	F_BMI2,
	F_RDSEED,
	F_ADX,
	F_CLFLUSHOPT,
	F_CLWB,
	F_SHA,
	F_XSAVEOPT,
	F_XSAVEC,
};

/* Where CPUID says so: leaf, register (EAX..EDX), bit. */
static const struct {
	u32 leaf, subleaf;
	u8 feat, reg, bit;
} feat_bits[] = {
	{1, 0, F_X87, 3, 0},         {1, 0, F_CX8, 3, 8},     {1, 0, F_CMOV, 3, 15},
	{1, 0, F_CLFSH, 3, 19},      {1, 0, F_MMX, 3, 23},    {1, 0, F_FXSR, 3, 24},
	{1, 0, F_SSE, 3, 25},        {1, 0, F_SSE2, 3, 26},   {1, 0, F_SSE3, 2, 0},
	{1, 0, F_PCLMUL, 2, 1},      {1, 0, F_SSSE3, 2, 9},   {1, 0, F_FMA, 2, 12},
	{1, 0, F_CX16, 2, 13},       {1, 0, F_SSE41, 2, 19},  {1, 0, F_SSE42, 2, 20},
	{1, 0, F_MOVBE, 2, 22},      {1, 0, F_POPCNT, 2, 23}, {1, 0, F_AES, 2, 25},
	{1, 0, F_XSAVE, 2, 26},      {1, 0, F_AVX, 2, 28},    {1, 0, F_F16C, 2, 29},
	{1, 0, F_RDRAND, 2, 30},     {7, 0, F_BMI1, 1, 3},    {7, 0, F_AVX2, 1, 5},
	{7, 0, F_BMI2, 1, 8},        {7, 0, F_RDSEED, 1, 18}, {7, 0, F_ADX, 1, 19},
	{7, 0, F_CLFLUSHOPT, 1, 23}, {7, 0, F_CLWB, 1, 24},   {7, 0, F_SHA, 1, 29},
	{13, 1, F_XSAVEOPT, 0, 0},   {13, 1, F_XSAVEC, 0, 1},
};

/* The allow-list, first half: whole instruction sets. Integer instructions stand in the second half
 * by name, as do the sets that mix innocuous with other instructions. */
static const struct {
	u16 isa_set;
	u8 feat;
	u8 cls; /* NATIVE_SSE: by its operands SSE, MMX or integer */
} isa_sets[] = {
	{ZYDIS_ISA_SET_X87, F_X87, NATIVE_X87},
	{ZYDIS_ISA_SET_FCMOV, F_CMOV, NATIVE_X87},
	{ZYDIS_ISA_SET_SSE3X87, F_SSE3, NATIVE_X87},
	{ZYDIS_ISA_SET_PENTIUMMMX, F_MMX, NATIVE_MMX},
	{ZYDIS_ISA_SET_SSE2MMX, F_SSE2, NATIVE_MMX},
	{ZYDIS_ISA_SET_SSSE3MMX, F_SSSE3, NATIVE_MMX},
	{ZYDIS_ISA_SET_SSE, F_SSE, NATIVE_SSE},
	{ZYDIS_ISA_SET_SSEMXCSR, F_SSE, NATIVE_SSE},
	{ZYDIS_ISA_SET_SSE2, F_SSE2, NATIVE_SSE},
	{ZYDIS_ISA_SET_SSE3, F_SSE3, NATIVE_SSE},
	{ZYDIS_ISA_SET_SSSE3, F_SSSE3, NATIVE_SSE},
	{ZYDIS_ISA_SET_SSE4, F_SSE41, NATIVE_SSE},
	{ZYDIS_ISA_SET_SSE42, F_SSE42, NATIVE_SSE},
	{ZYDIS_ISA_SET_AES, F_AES, NATIVE_SSE},
	{ZYDIS_ISA_SET_PCLMULQDQ, F_PCLMUL, NATIVE_SSE},
	{ZYDIS_ISA_SET_SHA, F_SHA, NATIVE_SSE},
	{ZYDIS_ISA_SET_AVX, F_AVX, NATIVE_AVX},
	{ZYDIS_ISA_SET_AVX2, F_AVX2, NATIVE_AVX},
	{ZYDIS_ISA_SET_AVX2GATHER, F_AVX2, NATIVE_AVX},
	{ZYDIS_ISA_SET_AVXAES, F_AES, NATIVE_AVX},
	{ZYDIS_ISA_SET_F16C, F_F16C, NATIVE_AVX},
	{ZYDIS_ISA_SET_FMA, F_FMA, NATIVE_AVX},
	{ZYDIS_ISA_SET_BMI1, F_BMI1, NATIVE_INT},
	{ZYDIS_ISA_SET_BMI2, F_BMI2, NATIVE_INT},
	{ZYDIS_ISA_SET_ADOX_ADCX, F_ADX, NATIVE_INT},
	{ZYDIS_ISA_SET_MOVBE, F_MOVBE, NATIVE_INT},
	{ZYDIS_ISA_SET_POPCNT, F_POPCNT, NATIVE_INT},
	/* Without the feature these are BSF and BSR with an idle prefix: so they are on the host.
         */
	{ZYDIS_ISA_SET_LZCNT, F_ALWAYS, NATIVE_INT},
	{ZYDIS_ISA_SET_CMPXCHG16B, F_CX16, NATIVE_INT},
	{ZYDIS_ISA_SET_RDRAND, F_RDRAND, NATIVE_INT},
	{ZYDIS_ISA_SET_RDSEED, F_RDSEED, NATIVE_INT},
	{ZYDIS_ISA_SET_CMOV, F_CMOV, NATIVE_INT},
	{ZYDIS_ISA_SET_CLFSH, F_CLFSH, NATIVE_INT},
	{ZYDIS_ISA_SET_CLFLUSHOPT, F_CLFLUSHOPT, NATIVE_INT},
	{ZYDIS_ISA_SET_CLWB, F_CLWB, NATIVE_INT},
	{ZYDIS_ISA_SET_LAHF, F_ALWAYS, NATIVE_INT},
	{ZYDIS_ISA_SET_FXSAVE, F_FXSR, NATIVE_XSAVE},
	{ZYDIS_ISA_SET_FXSAVE64, F_FXSR, NATIVE_XSAVE},
	{ZYDIS_ISA_SET_XSAVE, F_XSAVE, NATIVE_XSAVE},
	{ZYDIS_ISA_SET_XSAVEOPT, F_XSAVEOPT, NATIVE_XSAVE},
	{ZYDIS_ISA_SET_XSAVEC, F_XSAVEC, NATIVE_XSAVE},
};

/* Second half: by name, out of the sets I86 .. PENTIUMREAL, PPRO and LONGMODE. */
#define M(x) ZYDIS_MNEMONIC_##x
static const u16 int_mnemonics[] = {
	M(ADC),   M(ADD),     M(AND),       M(BSF),   M(BSR),    M(BSWAP),  M(BT),    M(BTC),
	M(BTR),   M(BTS),     M(CBW),       M(CDQ),   M(CDQE),   M(CMC),    M(CLC),   M(STC),
	M(CMP),   M(CMPXCHG), M(CMPXCHG8B), M(CQO),   M(CWD),    M(CWDE),   M(DEC),   M(DIV),
	M(IDIV),  M(IMUL),    M(INC),       M(MOVSX), M(MOVSXD), M(MOVZX),  M(MUL),   M(NEG),
	M(NOT),   M(OR),      M(RCL),       M(RCR),   M(ROL),    M(ROR),    M(SAR),   M(SBB),
	M(SETB),  M(SETBE),   M(SETL),      M(SETLE), M(SETNB),  M(SETNBE), M(SETNL), M(SETNLE),
	M(SETNO), M(SETNP),   M(SETNS),     M(SETNZ), M(SETO),   M(SETP),   M(SETS),  M(SETZ),
	M(SHL),   M(SHLD),    M(SHR),       M(SHRD),  M(SUB),    M(TEST),   M(XADD),  M(XCHG),
	M(XOR),
};
static const u16 fcomi_mnemonics[] = {M(FCOMI), M(FCOMIP), M(FUCOMI), M(FUCOMIP)};

/* Hints that are no-ops here; also those that processors without the feature run as NOP. */
static const u16 nop_mnemonics[] = {
	M(NOP),
	M(PREFETCH),
	M(PREFETCHW),
	M(PREFETCHNTA),
	M(PREFETCHT0),
	M(PREFETCHT1),
	M(PREFETCHT2),
	M(PREFETCHWT1),
	M(ENDBR32),
	M(ENDBR64),
	M(CLDEMOTE),
	M(RDSSPD),
	M(RDSSPQ),
	M(PAUSE),
	/* without MPX */
	M(BNDCL),
	M(BNDCN),
	M(BNDCU),
	M(BNDLDX),
	M(BNDMK),
	M(BNDMOV),
	M(BNDSTX),
};

/* x87 control instructions leave FIP, FDP and FOP alone (SDM 1 8.1.8). */
static const u16 x87_control[] = {
	M(FLDCW),         M(FNSTCW),       M(FNSTSW),        M(FWAIT),  M(FNINIT),
	M(FNCLEX),        M(FNSTENV),      M(FLDENV),        M(FNSAVE), M(FRSTOR),
	M(FSETPM287_NOP), M(FENI8087_NOP), M(FDISI8087_NOP),
};

/* Legacy SSE instructions with a 16-byte operand that may be at any address. */
static const u16 unaligned_ok[] = {
	M(MOVUPS),    M(MOVUPD),    M(MOVDQU),    M(LDDQU),
	M(PCMPESTRI), M(PCMPESTRM), M(PCMPISTRI), M(PCMPISTRM),
};
/* VEX instructions that insist on alignment. */
static const u16 vex_aligned[] = {
	M(VMOVAPS), M(VMOVAPD), M(VMOVDQA), M(VMOVNTPS), M(VMOVNTPD), M(VMOVNTDQ), M(VMOVNTDQA),
};

/* In the SSE sets, but neither reads nor writes vector state, nor is it tied to its availability.
 */
static const u16 sse_without_state[] = {
	M(SFENCE), M(LFENCE), M(MFENCE), M(MOVNTI), M(CRC32),
};

/* Non-waiting, or taken care of: a pending x87 exception doesn't stop them. */
static const u16 x87_no_wait[] = {
	M(FNSTCW), M(FNSTSW), M(FNINIT), M(FNCLEX), M(FNSTENV), M(FNSAVE),
};

/* VEX.W is ignored outside 64-bit code: it chooses the width of a general register. */
static const u16 vex_w_width[] = {
	M(VMOVD),     M(VMOVQ),      M(VPINSRD),    M(VPEXTRD),    M(VCVTSI2SS), M(VCVTSI2SD),
	M(VCVTSS2SI), M(VCVTSD2SI),  M(VCVTTSS2SI), M(VCVTTSD2SI), M(ANDN),      M(BEXTR),
	M(BLSI),      M(BLSMSK),     M(BLSR),       M(BZHI),       M(MULX),      M(PDEP),
	M(PEXT),      M(RORX),       M(SARX),       M(SHLX),       M(SHRX),      M(VPINSRQ),
	M(VPEXTRQ),   M(VPCMPESTRI), M(VPCMPESTRM),
};
#undef M

static bool in_list(const u16 *list, size_t nr, ZydisMnemonic m)
{
	for (size_t i = 0; i < nr; i++)
		if (list[i] == m)
			return true;
	return false;
}
#define IN(list, insn) in_list(list, ARRAY_SIZE(list), (insn)->mnemonic)

/* On the allow-list? Fills in the class. */
static bool allowed(const struct native *nat, const ZydisDecodedInstruction *insn,
                    struct native_insn *n)
{
	if (insn->encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY &&
	    insn->encoding != ZYDIS_INSTRUCTION_ENCODING_VEX)
		return false;
	for (size_t i = 0; i < ARRAY_SIZE(isa_sets); i++) {
		if (isa_sets[i].isa_set != insn->meta.isa_set)
			continue;
		n->cls = isa_sets[i].cls;
		return nat->feat & BIT(isa_sets[i].feat);
	}
	n->cls = NATIVE_INT;
	switch (insn->meta.isa_set) {
	case ZYDIS_ISA_SET_PPRO:
		n->cls = NATIVE_X87;
		return IN(fcomi_mnemonics, insn) && (nat->feat & BIT(F_CMOV));
	case ZYDIS_ISA_SET_I86:
	case ZYDIS_ISA_SET_I186:
	case ZYDIS_ISA_SET_I386:
	case ZYDIS_ISA_SET_I486REAL:
	case ZYDIS_ISA_SET_PENTIUMREAL:
	case ZYDIS_ISA_SET_LONGMODE:
		return IN(int_mnemonics, insn);
	default:
		return false;
	}
}

/* ---- emission ---- */

struct stub {
	u8 b[192];
	unsigned n;
	/* The re-encoded instruction, also the cache's key. */
	u8 insn[16];
	unsigned insn_len;
	u32 used, written; /* guest GPRs, as bits */
	u32 high8;         /* an AH..BH operand: no REX prefix possible */
	bool rex8;         /* an SPL..DIL operand: REX needed */
	bool flags_in, flags_out;
	u8 reg_c, reg_m, reg_sp; /* host registers for c, mem, and RSP as an operand */
};

static void put1(struct stub *s, u8 b)
{
	s->b[s->n++] = b;
}

static void put_bytes(struct stub *s, const void *p, unsigned len)
{
	memcpy(s->b + s->n, p, len);
	s->n += len;
}

/* mov r64, [base + disp] or the reverse */
static void put_mov_mem(struct stub *s, u8 opcode, u8 reg, u8 base, u32 disp)
{
	put1(s, 0x48 | (reg >= 8) << 2 | (base >= 8));
	put1(s, opcode);
	if (disp < 128) {
		put1(s, 0x40 | (reg & 7) << 3 | (base & 7));
		put1(s, (u8)disp);
	} else {
		put1(s, 0x80 | (reg & 7) << 3 | (base & 7));
		put_bytes(s, &disp, 4);
	}
}

static void put_mov_reg(struct stub *s, u8 dst, u8 src)
{
	put1(s, 0x48 | (src >= 8) << 2 | (dst >= 8));
	put1(s, 0x89);
	put1(s, 0xc0 | (src & 7) << 3 | (dst & 7));
}

static void put_push(struct stub *s, u8 reg, bool pop)
{
	if (reg >= 8)
		put1(s, 0x41);
	put1(s, (pop ? 0x58 : 0x50) | (reg & 7));
}

/* Host register of a guest register. */
static u8 host_reg(const struct stub *s, unsigned r)
{
	return r == RSP ? s->reg_sp : (u8)r;
}

static bool callee_saved(unsigned r)
{
	return r == RBX || r == RBP || r >= R12;
}

/* A register from `pool` that isn't in `taken` */
static u8 pick(const u8 *pool, u32 taken)
{
	while (taken & BIT(*pool))
		pool++;
	return *pool;
}

static void assign_regs(struct stub *s)
{
	/* RBP, R12, R13 need other addressing forms; RAX is used for the flags; RDI, RSI arrive
	 * with c and mem, so the one may not be overwritten before it is moved. */
	static const u8 pool_m[] = {RSI, R8, R9, R10, R11, RDX, RCX, R14, R15};
	static const u8 pool_c[] = {RDI, R11, R10, R9, R8, RCX, RDX, R14, R15};
	static const u8 pool_low[] = {RSI, RDX, RCX, RBX};
	static const u8 pool_sp[] = {R8, R9, R10, R11, RCX, RDX, R14, R15};
	u32 taken = s->used | BIT(RSP);

	s->reg_m = pick(s->high8 ? pool_low : pool_m, taken | BIT(RDI));
	taken |= BIT(s->reg_m);
	s->reg_c = pick(pool_c, taken | BIT(RSI));
	taken |= BIT(s->reg_c);
	s->reg_sp = pick(s->high8 ? pool_low : pool_sp, taken);
}

/* The general registers that an instruction names, and how. */
static bool scan_operands(struct stub *s, const ZydisDecodedInstruction *insn,
                          const ZydisDecodedOperand *ops)
{
	for (unsigned i = 0; i < insn->operand_count; i++) {
		const ZydisDecodedOperand *o = &ops[i];
		ZydisRegisterClass cls;
		ZydisRegister full;
		unsigned r;

		if (o->type != ZYDIS_OPERAND_TYPE_REGISTER)
			continue;
		cls = ZydisRegisterGetClass(o->reg.value);
		if (cls != ZYDIS_REGCLASS_GPR8 && cls != ZYDIS_REGCLASS_GPR16 &&
		    cls != ZYDIS_REGCLASS_GPR32 && cls != ZYDIS_REGCLASS_GPR64) {
			if (cls == ZYDIS_REGCLASS_SEGMENT || cls == ZYDIS_REGCLASS_IP ||
			    cls == ZYDIS_REGCLASS_CONTROL || cls == ZYDIS_REGCLASS_DEBUG)
				return false;
			continue;
		}
		full = ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, o->reg.value);
		r = (unsigned)ZydisRegisterGetId(full);
		if (r > 15)
			return false;
		s->used |= BIT(r);
		if (o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE)
			s->written |= BIT(r);
		if (cls != ZYDIS_REGCLASS_GPR8)
			continue;
		if (o->reg.value >= ZYDIS_REGISTER_AH && o->reg.value <= ZYDIS_REGISTER_BH)
			s->high8 = true;
		else if (r >= 4)
			s->rex8 = true;
	}
	return true;
}

/* Is this encoding field RSP as a general register? */
static bool field_is_sp(const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *ops,
                        ZydisOperandEncoding enc)
{
	for (unsigned i = 0; i < insn->operand_count; i++) {
		const ZydisDecodedOperand *o = &ops[i];

		if (o->type == ZYDIS_OPERAND_TYPE_REGISTER && o->encoding == enc &&
		    (o->reg.value == ZYDIS_REGISTER_SPL || o->reg.value == ZYDIS_REGISTER_SP ||
		     o->reg.value == ZYDIS_REGISTER_ESP || o->reg.value == ZYDIS_REGISTER_RSP))
			return true;
	}
	return false;
}

/* Is it a general or vector register in this field (whose extension bit counts)? */
static bool field_extends(const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *ops,
                          ZydisOperandEncoding enc)
{
	for (unsigned i = 0; i < insn->operand_count; i++) {
		const ZydisDecodedOperand *o = &ops[i];
		ZydisRegisterClass cls;

		if (o->type != ZYDIS_OPERAND_TYPE_REGISTER || o->encoding != enc)
			continue;
		cls = ZydisRegisterGetClass(o->reg.value);
		return cls != ZYDIS_REGCLASS_MMX && cls != ZYDIS_REGCLASS_X87;
	}
	return false;
}

static u8 escape_of(ZydisOpcodeMap map)
{
	return map == ZYDIS_OPCODE_MAP_0F38 ? 0x38 : 0x3a;
}

/* Length of what follows ModRM, SIB and displacement: immediates. */
static unsigned imm_bytes(const ZydisDecodedInstruction *insn)
{
	unsigned end;

	if (!(insn->attributes & ZYDIS_ATTRIB_HAS_MODRM))
		return (insn->raw.imm[0].size + insn->raw.imm[1].size) / 8u;
	end = insn->raw.modrm.offset + 1u;
	if (insn->attributes & ZYDIS_ATTRIB_HAS_SIB)
		end = insn->raw.sib.offset + 1u;
	end += insn->raw.disp.size / 8u;
	return insn->length - end;
}

/* Instructions without vector registers for which 0x66 would be another opcode. */
static bool no_opsize(const ZydisDecodedInstruction *insn)
{
	switch (insn->meta.isa_set) {
	case ZYDIS_ISA_SET_SSE:  /* SFENCE */
	case ZYDIS_ISA_SET_SSE2: /* LFENCE, MFENCE, MOVNTI */
	case ZYDIS_ISA_SET_CLFSH:
	case ZYDIS_ISA_SET_CLFLUSHOPT:
	case ZYDIS_ISA_SET_CLWB:
		return true;
	default:
		return false;
	}
}

static bool mandatory_prefix(const ZydisDecodedInstruction *insn, u8 value)
{
	for (unsigned i = 0; i < insn->raw.prefix_count; i++)
		if (insn->raw.prefixes[i].value == value &&
		    insn->raw.prefixes[i].type == ZYDIS_PREFIX_TYPE_MANDATORY)
			return true;
	return false;
}

/* Encode for 64-bit code with registers as assigned. */
static void encode(struct stub *s, const struct native_insn *n, const ZydisDecodedInstruction *insn,
                   const ZydisDecodedOperand *ops, const u8 *bytes)
{
	bool code64 = insn->machine_mode == ZYDIS_MACHINE_MODE_LONG_64;
	bool vex = insn->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX;
	bool has_modrm = insn->attributes & ZYDIS_ATTRIB_HAS_MODRM;
	bool is_mem = has_modrm && insn->raw.modrm.mod != 3;
	u8 *p = s->insn;
	u8 reg = insn->raw.modrm.reg, rm = insn->raw.modrm.rm;
	u8 vvvv = vex ? ~insn->raw.vex.vvvv & 15 : 0;
	u8 opcode = insn->opcode;
	u8 op_reg = opcode & 7; /* of opcodes that hold a register */
	bool op_holds_reg = false;
	unsigned imm = imm_bytes(insn);
	u8 w = 0;

	if (code64) {
		u8 ext_r = vex ? !insn->raw.vex.R : insn->raw.rex.R;
		u8 ext_b = vex ? !insn->raw.vex.B : insn->raw.rex.B;

		w = vex ? insn->raw.vex.W : insn->raw.rex.W;
		if (ext_r && field_extends(insn, ops, ZYDIS_OPERAND_ENCODING_MODRM_REG))
			reg |= 8;
		if (ext_b && field_extends(insn, ops, ZYDIS_OPERAND_ENCODING_MODRM_RM))
			rm |= 8;
		if (ext_b && field_extends(insn, ops, ZYDIS_OPERAND_ENCODING_OPCODE))
			op_reg |= 8;
	} else {
		if (vex && !IN(vex_w_width, insn))
			w = insn->raw.vex.W;
		if (field_extends(insn, ops, ZYDIS_OPERAND_ENCODING_NDSNDD))
			vvvv &= 7;
	}
	if (field_is_sp(insn, ops, ZYDIS_OPERAND_ENCODING_MODRM_REG))
		reg = s->reg_sp;
	if (field_is_sp(insn, ops, ZYDIS_OPERAND_ENCODING_MODRM_RM))
		rm = s->reg_sp;
	if (field_is_sp(insn, ops, ZYDIS_OPERAND_ENCODING_NDSNDD))
		vvvv = s->reg_sp;
	if (field_is_sp(insn, ops, ZYDIS_OPERAND_ENCODING_OPCODE))
		op_reg = s->reg_sp;
	for (unsigned i = 0; i < insn->operand_count; i++)
		op_holds_reg |= ops[i].encoding == ZYDIS_OPERAND_ENCODING_OPCODE &&
		                ops[i].type == ZYDIS_OPERAND_TYPE_REGISTER;
	if (is_mem)
		rm = s->reg_m;

	if (!code64 && insn->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT && !vex) {
		/* What 64-bit code lacks: INC and DEC by register (FF /0, /1), the alias of 80. */
		if (opcode >= 0x40 && opcode < 0x50) {
			reg = opcode >> 3 & 1;
			rm = op_reg;
			opcode = 0xff;
			has_modrm = true;
			op_holds_reg = false;
		} else if (opcode == 0x82) {
			opcode = 0x80;
		}
	}
	if (vex) {
		*p++ = 0xc4;
		*p++ = (u8)((reg < 8) << 7 | 1 << 6 | (rm < 8) << 5 | insn->raw.vex.m_mmmm);
		*p++ = (u8)(w << 7 | (~vvvv & 15) << 3 | insn->raw.vex.L << 2 | insn->raw.vex.pp);
	} else {
		bool need66 = mandatory_prefix(insn, 0x66);
		u8 b = op_holds_reg ? op_reg : has_modrm ? rm : 0;
		u8 rex = (u8)(w << 3 | (has_modrm && reg >= 8) << 2 | (b >= 8));

		if (n->cls == NATIVE_INT && insn->operand_width == 16 && !no_opsize(insn))
			need66 = true;
		if (insn->attributes & ZYDIS_ATTRIB_HAS_LOCK)
			*p++ = 0xf0;
		if (need66)
			*p++ = 0x66;
		if (mandatory_prefix(insn, 0xf2))
			*p++ = 0xf2;
		if (mandatory_prefix(insn, 0xf3))
			*p++ = 0xf3;
		if (rex || s->rex8)
			*p++ = 0x40 | rex;
		if (insn->opcode_map != ZYDIS_OPCODE_MAP_DEFAULT)
			*p++ = 0x0f;
		if (insn->opcode_map == ZYDIS_OPCODE_MAP_0F38 ||
		    insn->opcode_map == ZYDIS_OPCODE_MAP_0F3A)
			*p++ = escape_of(insn->opcode_map);
	}
	*p++ = op_holds_reg ? (opcode & 0xf8) | (op_reg & 7) : opcode;
	if (has_modrm) /* [M] without displacement: M isn't among RSP, RBP, R12, R13 */
		*p++ = (u8)((is_mem ? 0 : 0xc0) | (reg & 7) << 3 | (rm & 7));
	memcpy(p, bytes + insn->length - imm, imm);
	/* Bit 7 of a register in an immediate is ignored outside 64-bit code. */
	if (!code64 && imm)
		for (unsigned i = 0; i < insn->operand_count; i++)
			if (ops[i].encoding == ZYDIS_OPERAND_ENCODING_IS4)
				p[imm - 1] &= 0x7f;
	p += imm;
	s->insn_len = (unsigned)(p - s->insn);
}

static bool same_register(const struct stub *s, bool code64, ZydisRegister guest,
                          ZydisRegister host)
{
	ZydisRegisterClass cls = ZydisRegisterGetClass(guest);
	ZydisMachineMode m = ZYDIS_MACHINE_MODE_LONG_64;

	if (guest == host)
		return true;
	if (cls != ZydisRegisterGetClass(host)) {
		if (cls == ZYDIS_REGCLASS_FLAGS || cls == ZYDIS_REGCLASS_IP)
			return true;
		/* implicit ones whose width VEX.W would choose in 64-bit code */
		return !code64 && cls == ZYDIS_REGCLASS_GPR64 &&
		       ZydisRegisterGetLargestEnclosing(m, host) == guest;
	}
	if (cls != ZYDIS_REGCLASS_GPR8 && cls != ZYDIS_REGCLASS_GPR16 &&
	    cls != ZYDIS_REGCLASS_GPR32 && cls != ZYDIS_REGCLASS_GPR64)
		return cls == ZYDIS_REGCLASS_FLAGS || cls == ZYDIS_REGCLASS_IP;
	return ZydisRegisterGetLargestEnclosing(m, guest) == ZYDIS_REGISTER_RSP &&
	       ZydisRegisterGetId(ZydisRegisterGetLargestEnclosing(m, host)) == s->reg_sp;
}

/* The generator is not trusted: what it made must decode as the guest's instruction. */
static bool verify(const struct native *nat, const struct stub *s,
                   const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *ops)
{
	ZydisDecodedInstruction hi;
	ZydisDecodedOperand ho[ZYDIS_MAX_OPERAND_COUNT];

	if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&nat->decoder, s->insn, s->insn_len, &hi, ho)) ||
	    hi.length != s->insn_len || hi.mnemonic != insn->mnemonic ||
	    hi.operand_count != insn->operand_count)
		return false;
	for (unsigned i = 0; i < hi.operand_count; i++) {
		if (ho[i].type != ops[i].type || ho[i].actions != ops[i].actions)
			return false;
		switch (ho[i].type) {
		case ZYDIS_OPERAND_TYPE_REGISTER:
			if (!same_register(s, insn->machine_mode == ZYDIS_MACHINE_MODE_LONG_64,
			                   ops[i].reg.value, ho[i].reg.value))
				return false;
			break;
		case ZYDIS_OPERAND_TYPE_MEMORY:
			if (ho[i].size != ops[i].size || ho[i].mem.type != ZYDIS_MEMOP_TYPE_MEM ||
			    ZydisRegisterGetId(ho[i].mem.base) != s->reg_m ||
			    ho[i].mem.index != ZYDIS_REGISTER_NONE || ho[i].mem.disp.value)
				return false;
			break;
		case ZYDIS_OPERAND_TYPE_IMMEDIATE:
			if (ho[i].imm.value.u != ops[i].imm.value.u &&
			    (u32)ho[i].imm.value.u != (u32)ops[i].imm.value.u)
				return false;
			break;
		default:
			return false;
		}
	}
	return true;
}

static void generate(struct stub *s, struct native_insn *n)
{
	const u32 off_aflags = offsetof(struct x86_cpu, aflags);
	const u32 off_gpr = offsetof(struct x86_cpu, gpr);
	u32 host = BIT(s->reg_c);
	u32 saved = 0;

	if (n->size)
		host |= BIT(s->reg_m);
	for (unsigned r = 0; r < 16; r++)
		if (s->used & BIT(r))
			host |= BIT(host_reg(s, r));
	for (unsigned r = 0; r < 16; r++)
		if ((host & BIT(r)) && callee_saved(r)) {
			put_push(s, (u8)r, false);
			saved |= BIT(r);
		}
	if (s->reg_c != RDI)
		put_mov_reg(s, s->reg_c, RDI);
	if (n->size && s->reg_m != RSI)
		put_mov_reg(s, s->reg_m, RSI);
	if (s->flags_in) {
		static const u8 code[] = {
			0x66, 0xc1, 0xc0, 0x08, /* rol ax, 8: AH = bits 7:0, AL = bits 15:8 */
			0xc0, 0xe0, 0x04,       /* shl al, 4: OF to bit 7 */
			0x24, 0x80,             /* and al, 0x80 */
			0x00, 0xc0,             /* add al, al: overflows if it is set */
			0x9e,                   /* sahf */
		};

		put_mov_mem(s, 0x8b, RAX, s->reg_c, off_aflags);
		put_bytes(s, code, sizeof(code));
	}
	for (unsigned r = 0; r < 16; r++)
		if (s->used & BIT(r))
			put_mov_mem(s, 0x8b, host_reg(s, r), s->reg_c, off_gpr + r * 8);
	n->at_insn = (u8)s->n;
	put_bytes(s, s->insn, s->insn_len);
	for (unsigned r = 0; r < 16; r++)
		if (s->written & BIT(r))
			put_mov_mem(s, 0x89, host_reg(s, r), s->reg_c, off_gpr + r * 8);
	if (s->flags_out) {
		put1(s, 0x9c); /* pushfq */
		put1(s, 0x58); /* pop rax */
		put_mov_mem(s, 0x89, RAX, s->reg_c, off_aflags);
	}
	put1(s, 0x31); /* xor eax, eax */
	put1(s, 0xc0);
	n->at_tail = (u8)s->n;
	for (unsigned r = 16; r-- > 0;)
		if (saved & BIT(r))
			put_push(s, (u8)r, true);
	put1(s, 0xc3);
}

/* ---- description ---- */

static void find_flags(struct stub *s, const ZydisDecodedInstruction *insn)
{
	const ZydisAccessedFlags *f = insn->cpu_flags;
	u64 touched, defined;

	if (!f)
		return;
	touched = (f->modified | f->set_0 | f->set_1 | f->undefined) & AFLAGS;
	defined = (f->modified | f->set_0 | f->set_1) & ~f->undefined & AFLAGS;
	s->flags_out = touched;
	/* What it leaves alone, or leaves undefined, comes out as it went in. Shifts by zero and
	 * the like modify nothing though they are said to. */
	s->flags_in = (f->tested & AFLAGS) || (touched && defined != AFLAGS) ||
	              insn->meta.category == ZYDIS_CATEGORY_SHIFT ||
	              insn->meta.category == ZYDIS_CATEGORY_ROTATE;
}

/* Checks before execution, by class (SDM 3A tables 2-1, 13-1; SDM 2A 2.4, SDM 3B 23.25). */
static void set_checks(struct native_insn *n, const ZydisDecodedInstruction *insn,
                       const ZydisDecodedOperand *ops)
{
	if (n->cls == NATIVE_SSE && IN(sse_without_state, insn))
		n->cls = NATIVE_INT;
	if (insn->mnemonic == ZYDIS_MNEMONIC_FISTTP)
		n->cls = NATIVE_X87;
	switch (n->cls) {
	case NATIVE_INT:
		break;
	case NATIVE_X87:
		n->flags |= NATIVE_FPU;
		if (!IN(x87_no_wait, insn))
			n->flags |= NATIVE_WAITS;
		n->cr0_deny = CR0_EM | CR0_TS;
		if (insn->mnemonic == ZYDIS_MNEMONIC_FWAIT)
			n->flags |= NATIVE_FWAIT;
		if (!IN(x87_control, insn)) {
			n->flags |= NATIVE_X87_REC;
			n->fop = (u16)((insn->opcode & 7) << 8 | insn->raw.modrm.mod << 6 |
			               insn->raw.modrm.reg << 3 | insn->raw.modrm.rm);
		} else if (insn->mnemonic == ZYDIS_MNEMONIC_FLDCW) {
			n->flags |= NATIVE_X87_CTL;
		}
		break;
	case NATIVE_MMX:
		n->flags |= NATIVE_FPU | NATIVE_WAITS;
		n->cr0_deny = CR0_EM | CR0_TS;
		break;
	case NATIVE_SSE:
		n->flags |= NATIVE_FPU;
		for (unsigned i = 0; i < insn->operand_count; i++)
			if (ops[i].type == ZYDIS_OPERAND_TYPE_REGISTER &&
			    ZydisRegisterGetClass(ops[i].reg.value) == ZYDIS_REGCLASS_MMX)
				n->flags |= NATIVE_WAITS; /* CVTPS2PI, MOVQ2DQ, ... */
		n->cr0_deny = CR0_EM | CR0_TS;
		n->cr4_need = CR4_OSFXSR;
		break;
	case NATIVE_AVX:
		n->flags |= NATIVE_FPU;
		n->cr0_deny = CR0_TS;
		n->cr4_need = CR4_OSXSAVE;
		n->xcr0_need = XCR0_SSE | XCR0_AVX;
		break;
	case NATIVE_XSAVE:
		n->cr0_deny = CR0_TS;
		break;
	}
	if (insn->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX &&
	    insn->machine_mode != ZYDIS_MACHINE_MODE_LONG_64)
		n->flags |= NATIVE_VEX | NATIVE_SLOW;
}

static unsigned seg_number(ZydisRegister r)
{
	return r >= ZYDIS_REGISTER_ES && r <= ZYDIS_REGISTER_GS ? r - ZYDIS_REGISTER_ES : DS;
}

/* The memory operand; false: nothing that one redirection can do. */
static bool set_memory(struct native_insn *n, const ZydisDecodedInstruction *insn,
                       const ZydisDecodedOperand *ops)
{
	bool seen = false;

	for (unsigned i = 0; i < insn->operand_count; i++) {
		const ZydisDecodedOperand *o = &ops[i];

		if (o->type != ZYDIS_OPERAND_TYPE_MEMORY)
			continue;
		if (seen || o->mem.type != ZYDIS_MEMOP_TYPE_MEM || !o->size || o->size > 512 ||
		    o->visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN)
			return false;
		seen = true;
		n->size = o->size / 8;
		n->read = o->actions & ZYDIS_OPERAND_ACTION_MASK_READ;
		n->write = o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
		n->seg = (u8)seg_number(o->mem.segment);
		if (insn->meta.category == ZYDIS_CATEGORY_BITBYTE && i == 0 &&
		    ops[1].type == ZYDIS_OPERAND_TYPE_REGISTER)
			n->flags |= NATIVE_BITSTR | NATIVE_SLOW;
	}
	if (!seen)
		return true;
	if (insn->meta.isa_set == ZYDIS_ISA_SET_CLFSH ||
	    insn->meta.isa_set == ZYDIS_ISA_SET_CLFLUSHOPT ||
	    insn->meta.isa_set == ZYDIS_ISA_SET_CLWB) {
		n->size = 1;
		n->read = true;
		n->write = false;
	}
	if ((insn->attributes & ZYDIS_ATTRIB_HAS_LOCK) || insn->mnemonic == ZYDIS_MNEMONIC_XCHG)
		n->flags |= NATIVE_LOCKED;
	if (insn->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX
	            ? IN(vex_aligned, insn)
	            : n->size == 16 && !IN(unaligned_ok, insn))
		n->flags |= NATIVE_ALIGNED;
	return true;
}

/* What specials need to know of the encoding. */
static void set_fields(struct native_insn *n, const ZydisDecodedInstruction *insn,
                       const ZydisDecodedOperand *ops)
{
	bool code64 = insn->machine_mode == ZYDIS_MACHINE_MODE_LONG_64;
	bool vex = insn->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX;
	u8 ext = code64 ? 8 : 0;

	if (code64)
		n->flags |= NATIVE_CODE64;
	if (vex ? insn->raw.vex.W : insn->raw.rex.W)
		n->flags |= NATIVE_REX_W;
	if (insn->operand_width == 16)
		n->flags |= NATIVE_OPSIZE16;
	if (insn->avx.vector_length == 256)
		n->flags |= NATIVE_VLEN256;
	n->reg = insn->raw.modrm.reg | ((vex ? !insn->raw.vex.R : insn->raw.rex.R) ? ext : 0);
	n->rm = insn->raw.modrm.rm | ((vex ? !insn->raw.vex.B : insn->raw.rex.B) ? ext : 0);
	n->vvvv = vex ? ~insn->raw.vex.vvvv & (code64 ? 15 : 7) : 0;
	n->asize = insn->address_width / 8;
	n->base = n->index = NR_GPR;
	for (unsigned i = 0; i < insn->operand_count; i++) {
		const ZydisDecodedOperand *o = &ops[i];

		if (o->type != ZYDIS_OPERAND_TYPE_MEMORY)
			continue;
		if (o->mem.base != ZYDIS_REGISTER_NONE && o->mem.base != ZYDIS_REGISTER_RIP &&
		    o->mem.base != ZYDIS_REGISTER_EIP)
			n->base = (u8)ZydisRegisterGetId(o->mem.base);
		if (o->mem.index != ZYDIS_REGISTER_NONE)
			n->index = (u8)ZydisRegisterGetId(o->mem.index);
		n->scale = o->mem.scale;
		n->disp = (s32)o->mem.disp.value;
		/* SIB without base: REX.B and VEX.B don't count there (SDM 2A table 2-5). */
		if (insn->raw.modrm.mod == 0 && insn->raw.modrm.rm == 4 &&
		    insn->raw.sib.base == 5 && n->asize != 2) {
			n->base = NR_GPR;
			n->disp = (s32)insn->raw.disp.value;
		}
		n->seg = (u8)seg_number(o->mem.segment);
	}
}

/* ---- the cache ---- */

static u32 hash_key(const u8 *key, unsigned len)
{
	u64 h = 0xcbf29ce484222325ull;

	for (unsigned i = 0; i < len; i++)
		h = (h ^ key[i]) * 0x100000001b3ull;
	return (u32)(h ^ h >> 32) & (NATIVE_HASH_SIZE - 1);
}

static void flush(struct native *nat)
{
	nat->used = 0;
	nat->nr_insns = 0;
	nat->generation++;
	memset(nat->hash, 0, NATIVE_HASH_SIZE * sizeof(*nat->hash));
	/* Every stub of before is a breakpoint until it is overwritten. */
	memset(nat->rw, 0xcc, NATIVE_ARENA_SIZE);
	if (nat->flushed)
		nat->flushed(nat->arg);
}

static struct native_insn *lookup(struct native *nat, const struct native_insn *key, u32 *slot)
{
	u32 h = hash_key(key->key, key->key_len);

	for (; nat->hash[h]; h = (h + 1) & (NATIVE_HASH_SIZE - 1)) {
		struct native_insn *n = &nat->insns[nat->hash[h] - 1];

		if (n->key_len == key->key_len && !memcmp(n->key, key->key, key->key_len))
			return n;
	}
	*slot = h;
	return NULL;
}

/* After code was replaced through the other alias (SDM 3A 9.1.3: a serialising instruction). */
static void serialize(void)
{
	u32 a, b, c, d;

	__cpuid(0, a, b, c, d);
	(void)a, (void)b, (void)c, (void)d;
}

static struct native_insn *insert(struct native *nat, const struct native_insn *n,
                                  const struct stub *s, u32 slot)
{
	struct native_insn *out;
	unsigned len = s ? ALIGN_UP(s->n, 16u) : 0;

	if (nat->used + len > NATIVE_ARENA_SIZE || nat->nr_insns == NATIVE_MAX_INSNS) {
		flush(nat);
		slot = hash_key(n->key, n->key_len);
	}
	out = &nat->insns[nat->nr_insns];
	*out = *n;
	out->fn = (int (*)(struct x86_cpu *, void *))(void *)(nat->rx + nat->used);
	if (s) {
		memcpy(nat->rw + nat->used, s->b, s->n);
		nat->used += len;
		if (nat->generation)
			serialize();
	}
	nat->hash[slot] = ++nat->nr_insns;
	return out;
}

/* `sp`: what stands for RSP in `bytes`; 0: RSP is no operand. */
static void make_key(struct native_insn *n, const u8 *bytes, unsigned len, u8 sp)
{
	u8 *k = n->key;

	/* The bytes, and what of the description doesn't follow from them. */
	memcpy(k, bytes, len);
	k += len;
	*k++ = (u8)(n->seg | (n->flags & NATIVE_SLOW ? 8 : 0) |
	            (n->flags & NATIVE_CODE64 ? 16 : 0) | (n->special ? 32 : 0));
	*k++ = sp;
	*k++ = n->asize;
	put_le16(k, n->fop);
	k += 2;
	n->key_len = (u8)(k - n->key);
}

static void special_nop(struct x86_cpu *c, const struct native_insn *n, gva_t addr)
{
}

const struct native_insn *native_get(struct native *nat, const ZydisDecodedInstruction *insn,
                                     const ZydisDecodedOperand *ops, const u8 *bytes)
{
	struct native_insn n = {0}, *found;
	struct stub s = {0};
	enum native_how how;
	u32 slot;

	if (IN(nop_mnemonics, insn)) {
		n.special = special_nop;
		n.cr4_need = NATIVE_NEVER;
		make_key(&n, (const u8 *)"", 1, 0);
		found = lookup(nat, &n, &slot);
		return found ? found : insert(nat, &n, NULL, slot);
	}
	if (!allowed(nat, insn, &n))
		return NULL;
	set_checks(&n, insn, ops);
	set_fields(&n, insn, ops);
	how = native_special_get(&n, insn, ops);
	if (how == NATIVE_REFUSE)
		return NULL;
	if (how == NATIVE_SPECIAL) {
		n.cr4_need |= NATIVE_NEVER;
		make_key(&n, bytes, insn->length, 0);
		found = lookup(nat, &n, &slot);
		return found ? found : insert(nat, &n, NULL, slot);
	}
	if (n.cls == NATIVE_XSAVE || !set_memory(&n, insn, ops) || !scan_operands(&s, insn, ops))
		return NULL;
	find_flags(&s, insn);
	assign_regs(&s);
	encode(&s, &n, insn, ops, bytes);
	if (s.flags_in)
		n.flags |= NATIVE_FLAGS_IN;
	if (s.flags_out)
		n.flags |= NATIVE_FLAGS_OUT;
	if (n.special || (n.flags & (NATIVE_SLOW | NATIVE_FWAIT | NATIVE_X87_CTL)))
		n.cr4_need |= NATIVE_NEVER;
	make_key(&n, s.insn, s.insn_len, s.used & BIT(RSP) ? s.reg_sp : 0);
	found = lookup(nat, &n, &slot);
	if (found)
		return found;
	if (!verify(nat, &s, insn, ops))
		return NULL;
	generate(&s, &n);
	return insert(nat, &n, &s, slot);
}

/* ---- life ---- */

static u64 offered(const struct x86_cpu *c)
{
	u64 feat = BIT(F_ALWAYS);

	for (size_t i = 0; i < ARRAY_SIZE(feat_bits); i++) {
		u32 out[4];

		x86_cpuid_leaf(c, feat_bits[i].leaf, feat_bits[i].subleaf, out);
		if (out[feat_bits[i].reg] & BIT(feat_bits[i].bit))
			feat |= BIT(feat_bits[i].feat);
	}
	return feat;
}

static int map_arena(struct native *nat)
{
	int fd = memfd_create("ringer-native", MFD_CLOEXEC | MFD_EXEC);
	int err = 0;

	if (fd < 0 && errno == EINVAL) /* Linux before 6.3 */
		fd = memfd_create("ringer-native", MFD_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (ftruncate(fd, NATIVE_ARENA_SIZE)) {
		err = -errno;
		goto out;
	}
	nat->rw = mmap(NULL, NATIVE_ARENA_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	nat->rx = mmap(NULL, NATIVE_ARENA_SIZE, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
	if (nat->rw == MAP_FAILED || nat->rx == MAP_FAILED)
		err = -errno;
out:
	close(fd);
	return err;
}

static void *map_table(size_t size)
{
	return mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
	            -1, 0);
}

int native_create(struct native **out, const struct x86_cpu *c, void (*flushed)(void *arg),
                  void *arg)
{
	struct native *nat;
	u32 a, b, cx, d;
	int err;

	if (!__get_cpuid(1, &a, &b, &cx, &d) || !(cx & BIT(27)) || /* OSXSAVE */
	    !__get_cpuid(0x80000001, &a, &b, &cx, &d) || !(cx & BIT(0)) /* LAHF */) {
		log_error("this processor lacks XSAVE or LAHF in 64-bit code; "
		          "it can't run guests without KVM");
		return -ENOTSUP;
	}
	nat = calloc(1, sizeof(*nat));
	if (!nat)
		return -ENOMEM;
	nat->rw = nat->rx = MAP_FAILED;
	nat->insns = map_table(NATIVE_MAX_INSNS * sizeof(*nat->insns));
	nat->hash = map_table(NATIVE_HASH_SIZE * sizeof(*nat->hash));
	err = -ENOMEM;
	if (nat->insns == MAP_FAILED || nat->hash == MAP_FAILED)
		goto fail;
	err = map_arena(nat);
	if (err) {
		log_error("cannot map memory for generated code: %s", strerror(-err));
		goto fail;
	}
	nat->flushed = flushed;
	nat->arg = arg;
	nat->feat = offered(c);
	ZydisDecoderInit(&nat->decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	*out = nat;
	return 0;
fail:
	native_destroy(nat);
	return err;
}

void native_destroy(struct native *nat)
{
	if (!nat)
		return;
	if (nat->rw != MAP_FAILED)
		munmap(nat->rw, NATIVE_ARENA_SIZE);
	if (nat->rx != MAP_FAILED)
		munmap(nat->rx, NATIVE_ARENA_SIZE);
	if (nat->insns != MAP_FAILED)
		munmap(nat->insns, NATIVE_MAX_INSNS * sizeof(*nat->insns));
	if (nat->hash != MAP_FAILED)
		munmap(nat->hash, NATIVE_HASH_SIZE * sizeof(*nat->hash));
	free(nat);
}

u32 native_generation(const struct native *nat)
{
	return nat->generation;
}
