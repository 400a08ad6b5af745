// SPDX-License-Identifier: MIT
/* Which instructions may run natively, by instruction set and by name, and what each needs. */
#include "engine/insn/insn.h"

enum insn_feat {
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
static const struct isa_set {
	bool listed;
	u8 feat;
	u8 cls; /* INSN_SSE: by its operands SSE, MMX or integer */
} isa_sets[ZYDIS_ISA_SET_MAX_VALUE + 1] = {
	[ZYDIS_ISA_SET_X87] = {true, F_X87, INSN_X87},
	[ZYDIS_ISA_SET_FCMOV] = {true, F_CMOV, INSN_X87},
	[ZYDIS_ISA_SET_SSE3X87] = {true, F_SSE3, INSN_X87},
	[ZYDIS_ISA_SET_PENTIUMMMX] = {true, F_MMX, INSN_MMX},
	[ZYDIS_ISA_SET_SSE2MMX] = {true, F_SSE2, INSN_MMX},
	[ZYDIS_ISA_SET_SSSE3MMX] = {true, F_SSSE3, INSN_MMX},
	[ZYDIS_ISA_SET_SSE] = {true, F_SSE, INSN_SSE},
	[ZYDIS_ISA_SET_SSEMXCSR] = {true, F_SSE, INSN_SSE},
	[ZYDIS_ISA_SET_SSE2] = {true, F_SSE2, INSN_SSE},
	[ZYDIS_ISA_SET_SSE3] = {true, F_SSE3, INSN_SSE},
	[ZYDIS_ISA_SET_SSSE3] = {true, F_SSSE3, INSN_SSE},
	[ZYDIS_ISA_SET_SSE4] = {true, F_SSE41, INSN_SSE},
	[ZYDIS_ISA_SET_SSE42] = {true, F_SSE42, INSN_SSE},
	[ZYDIS_ISA_SET_AES] = {true, F_AES, INSN_SSE},
	[ZYDIS_ISA_SET_PCLMULQDQ] = {true, F_PCLMUL, INSN_SSE},
	[ZYDIS_ISA_SET_SHA] = {true, F_SHA, INSN_SSE},
	[ZYDIS_ISA_SET_AVX] = {true, F_AVX, INSN_AVX},
	[ZYDIS_ISA_SET_AVX2] = {true, F_AVX2, INSN_AVX},
	[ZYDIS_ISA_SET_AVX2GATHER] = {true, F_AVX2, INSN_AVX},
	[ZYDIS_ISA_SET_AVXAES] = {true, F_AES, INSN_AVX},
	[ZYDIS_ISA_SET_F16C] = {true, F_F16C, INSN_AVX},
	[ZYDIS_ISA_SET_FMA] = {true, F_FMA, INSN_AVX},
	[ZYDIS_ISA_SET_BMI1] = {true, F_BMI1, INSN_INT},
	[ZYDIS_ISA_SET_BMI2] = {true, F_BMI2, INSN_INT},
	[ZYDIS_ISA_SET_ADOX_ADCX] = {true, F_ADX, INSN_INT},
	[ZYDIS_ISA_SET_MOVBE] = {true, F_MOVBE, INSN_INT},
	[ZYDIS_ISA_SET_POPCNT] = {true, F_POPCNT, INSN_INT},
	/* Without the feature these are BSF and BSR with an idle prefix: so they are on the host.
         */
	[ZYDIS_ISA_SET_LZCNT] = {true, F_ALWAYS, INSN_INT},
	[ZYDIS_ISA_SET_CMPXCHG16B] = {true, F_CX16, INSN_INT},
	[ZYDIS_ISA_SET_RDRAND] = {true, F_RDRAND, INSN_INT},
	[ZYDIS_ISA_SET_RDSEED] = {true, F_RDSEED, INSN_INT},
	[ZYDIS_ISA_SET_CMOV] = {true, F_CMOV, INSN_INT},
	[ZYDIS_ISA_SET_CLFSH] = {true, F_CLFSH, INSN_INT},
	[ZYDIS_ISA_SET_CLFLUSHOPT] = {true, F_CLFLUSHOPT, INSN_INT},
	[ZYDIS_ISA_SET_CLWB] = {true, F_CLWB, INSN_INT},
	[ZYDIS_ISA_SET_LAHF] = {true, F_ALWAYS, INSN_INT},
	[ZYDIS_ISA_SET_FXSAVE] = {true, F_FXSR, INSN_XSAVE},
	[ZYDIS_ISA_SET_FXSAVE64] = {true, F_FXSR, INSN_XSAVE},
	[ZYDIS_ISA_SET_XSAVE] = {true, F_XSAVE, INSN_XSAVE},
	[ZYDIS_ISA_SET_XSAVEOPT] = {true, F_XSAVEOPT, INSN_XSAVE},
	[ZYDIS_ISA_SET_XSAVEC] = {true, F_XSAVEC, INSN_XSAVE},
};

/* Second half, and what else hangs on the name. */
enum {
	P_INT = 1 << 0,   /* out of the sets I86 .. PENTIUMREAL and LONGMODE */
	P_FCOMI = 1 << 1, /* out of PPRO */
	/* Hints that are no-ops here; also those that processors without the feature run as NOP. */
	P_NOP = 1 << 2,
	P_CTL = 1 << 3, /* x87 control instructions leave FIP, FDP and FOP alone (SDM 1 8.1.8) */
	/* Non-waiting, or taken care of: a pending x87 exception doesn't stop them. */
	P_NO_WAIT = 1 << 4,
	P_ANY_ADDR = 1 << 5, /* legacy SSE with a 16-byte operand that may be at any address */
	P_ALIGNED = 1 << 6,  /* VEX, but insists on alignment */
	/* In the SSE sets, but neither reads nor writes vector state, nor is it tied to its
	 * availability. */
	P_STATELESS = 1 << 7,
	/* VEX.W is ignored outside 64-bit code: it chooses the width of a general register. */
	P_W_WIDTH = 1 << 8,
	/* State saving and restoring (no address of the host's may show in it), gathers (as many
	 * addresses as elements), masked moves (elements that are masked out must not fault). */
	P_SPECIAL = 1 << 9,
	P_SPECIAL_32 = 1 << 10, /* likewise outside 64-bit code: fewer registers exist there */
};

#define M(x) ZYDIS_MNEMONIC_##x
static const u16 props[ZYDIS_MNEMONIC_MAX_VALUE + 1] = {
	[M(ADC)] = P_INT,
	[M(ADD)] = P_INT,
	[M(AND)] = P_INT,
	[M(BSF)] = P_INT,
	[M(BSR)] = P_INT,
	[M(BSWAP)] = P_INT,
	[M(BT)] = P_INT,
	[M(BTC)] = P_INT,
	[M(BTR)] = P_INT,
	[M(BTS)] = P_INT,
	[M(CBW)] = P_INT,
	[M(CDQ)] = P_INT,
	[M(CDQE)] = P_INT,
	[M(CMC)] = P_INT,
	[M(CLC)] = P_INT,
	[M(STC)] = P_INT,
	[M(CMP)] = P_INT,
	[M(CMPXCHG)] = P_INT,
	[M(CMPXCHG8B)] = P_INT,
	[M(CQO)] = P_INT,
	[M(CWD)] = P_INT,
	[M(CWDE)] = P_INT,
	[M(DEC)] = P_INT,
	[M(DIV)] = P_INT,
	[M(IDIV)] = P_INT,
	[M(IMUL)] = P_INT,
	[M(INC)] = P_INT,
	[M(MOVSX)] = P_INT,
	[M(MOVSXD)] = P_INT,
	[M(MOVZX)] = P_INT,
	[M(MUL)] = P_INT,
	[M(NEG)] = P_INT,
	[M(MOV)] = P_INT,
	[M(NOT)] = P_INT,
	[M(OR)] = P_INT,
	[M(RCL)] = P_INT,
	[M(RCR)] = P_INT,
	[M(ROL)] = P_INT,
	[M(ROR)] = P_INT,
	[M(SAR)] = P_INT,
	[M(SBB)] = P_INT,
	[M(SETB)] = P_INT,
	[M(SETBE)] = P_INT,
	[M(SETL)] = P_INT,
	[M(SETLE)] = P_INT,
	[M(SETNB)] = P_INT,
	[M(SETNBE)] = P_INT,
	[M(SETNL)] = P_INT,
	[M(SETNLE)] = P_INT,
	[M(SETNO)] = P_INT,
	[M(SETNP)] = P_INT,
	[M(SETNS)] = P_INT,
	[M(SETNZ)] = P_INT,
	[M(SETO)] = P_INT,
	[M(SETP)] = P_INT,
	[M(SETS)] = P_INT,
	[M(SETZ)] = P_INT,
	[M(SHL)] = P_INT,
	[M(SHLD)] = P_INT,
	[M(SHR)] = P_INT,
	[M(SHRD)] = P_INT,
	[M(SUB)] = P_INT,
	[M(TEST)] = P_INT,
	[M(XADD)] = P_INT,
	[M(XCHG)] = P_INT,
	[M(XOR)] = P_INT,
	[M(FCOMI)] = P_FCOMI,
	[M(FCOMIP)] = P_FCOMI,
	[M(FUCOMI)] = P_FCOMI,
	[M(FUCOMIP)] = P_FCOMI,
	[M(NOP)] = P_NOP,
	[M(PREFETCH)] = P_NOP,
	[M(PREFETCHW)] = P_NOP,
	[M(PREFETCHNTA)] = P_NOP,
	[M(PREFETCHT0)] = P_NOP,
	[M(PREFETCHT1)] = P_NOP,
	[M(PREFETCHT2)] = P_NOP,
	[M(PREFETCHWT1)] = P_NOP,
	[M(ENDBR32)] = P_NOP,
	[M(ENDBR64)] = P_NOP,
	[M(CLDEMOTE)] = P_NOP,
	[M(RDSSPD)] = P_NOP,
	[M(RDSSPQ)] = P_NOP,
	[M(PAUSE)] = P_NOP,
	/* without MPX */
	[M(BNDCL)] = P_NOP,
	[M(BNDCN)] = P_NOP,
	[M(BNDCU)] = P_NOP,
	[M(BNDLDX)] = P_NOP,
	[M(BNDMK)] = P_NOP,
	[M(BNDMOV)] = P_NOP,
	[M(BNDSTX)] = P_NOP,
	[M(FLDCW)] = P_CTL,
	[M(FWAIT)] = P_CTL,
	[M(FSETPM287_NOP)] = P_CTL,
	[M(FENI8087_NOP)] = P_CTL,
	[M(FDISI8087_NOP)] = P_CTL,
	[M(FNSTCW)] = P_CTL | P_NO_WAIT,
	[M(FNSTSW)] = P_CTL | P_NO_WAIT,
	[M(FNINIT)] = P_CTL | P_NO_WAIT | P_SPECIAL,
	[M(FNCLEX)] = P_CTL | P_NO_WAIT | P_SPECIAL,
	[M(FNSTENV)] = P_CTL | P_NO_WAIT | P_SPECIAL,
	[M(FNSAVE)] = P_CTL | P_NO_WAIT | P_SPECIAL,
	[M(FLDENV)] = P_CTL | P_SPECIAL,
	[M(FRSTOR)] = P_CTL | P_SPECIAL,
	[M(MOVUPS)] = P_ANY_ADDR,
	[M(MOVUPD)] = P_ANY_ADDR,
	[M(MOVDQU)] = P_ANY_ADDR,
	[M(LDDQU)] = P_ANY_ADDR,
	[M(PCMPESTRI)] = P_ANY_ADDR,
	[M(PCMPESTRM)] = P_ANY_ADDR,
	[M(PCMPISTRI)] = P_ANY_ADDR,
	[M(PCMPISTRM)] = P_ANY_ADDR,
	[M(VMOVAPS)] = P_ALIGNED,
	[M(VMOVAPD)] = P_ALIGNED,
	[M(VMOVDQA)] = P_ALIGNED,
	[M(VMOVNTPS)] = P_ALIGNED,
	[M(VMOVNTPD)] = P_ALIGNED,
	[M(VMOVNTDQ)] = P_ALIGNED,
	[M(VMOVNTDQA)] = P_ALIGNED,
	[M(SFENCE)] = P_STATELESS,
	[M(LFENCE)] = P_STATELESS,
	[M(MFENCE)] = P_STATELESS,
	[M(MOVNTI)] = P_STATELESS,
	[M(CRC32)] = P_STATELESS,
	[M(VMOVD)] = P_W_WIDTH,
	[M(VMOVQ)] = P_W_WIDTH,
	[M(VPINSRD)] = P_W_WIDTH,
	[M(VPEXTRD)] = P_W_WIDTH,
	[M(VCVTSI2SS)] = P_W_WIDTH,
	[M(VCVTSI2SD)] = P_W_WIDTH,
	[M(VCVTSS2SI)] = P_W_WIDTH,
	[M(VCVTSD2SI)] = P_W_WIDTH,
	[M(VCVTTSS2SI)] = P_W_WIDTH,
	[M(VCVTTSD2SI)] = P_W_WIDTH,
	[M(ANDN)] = P_W_WIDTH,
	[M(BEXTR)] = P_W_WIDTH,
	[M(BLSI)] = P_W_WIDTH,
	[M(BLSMSK)] = P_W_WIDTH,
	[M(BLSR)] = P_W_WIDTH,
	[M(BZHI)] = P_W_WIDTH,
	[M(MULX)] = P_W_WIDTH,
	[M(PDEP)] = P_W_WIDTH,
	[M(PEXT)] = P_W_WIDTH,
	[M(RORX)] = P_W_WIDTH,
	[M(SARX)] = P_W_WIDTH,
	[M(SHLX)] = P_W_WIDTH,
	[M(SHRX)] = P_W_WIDTH,
	[M(VPINSRQ)] = P_W_WIDTH,
	[M(VPEXTRQ)] = P_W_WIDTH,
	[M(VPCMPESTRI)] = P_W_WIDTH,
	[M(VPCMPESTRM)] = P_W_WIDTH,
	[M(FXSAVE)] = P_SPECIAL,
	[M(FXSAVE64)] = P_SPECIAL,
	[M(FXRSTOR)] = P_SPECIAL,
	[M(FXRSTOR64)] = P_SPECIAL,
	[M(XSAVE)] = P_SPECIAL,
	[M(XSAVE64)] = P_SPECIAL,
	[M(XSAVEOPT)] = P_SPECIAL,
	[M(XSAVEOPT64)] = P_SPECIAL,
	[M(XSAVEC)] = P_SPECIAL,
	[M(XSAVEC64)] = P_SPECIAL,
	[M(XRSTOR)] = P_SPECIAL,
	[M(XRSTOR64)] = P_SPECIAL,
	[M(MASKMOVQ)] = P_SPECIAL,
	[M(MASKMOVDQU)] = P_SPECIAL,
	[M(VMASKMOVDQU)] = P_SPECIAL,
	[M(VMASKMOVPS)] = P_SPECIAL,
	[M(VMASKMOVPD)] = P_SPECIAL,
	[M(VPMASKMOVD)] = P_SPECIAL,
	[M(VPMASKMOVQ)] = P_SPECIAL,
	[M(VGATHERDPS)] = P_SPECIAL,
	[M(VGATHERDPD)] = P_SPECIAL,
	[M(VGATHERQPS)] = P_SPECIAL,
	[M(VGATHERQPD)] = P_SPECIAL,
	[M(VPGATHERDD)] = P_SPECIAL,
	[M(VPGATHERDQ)] = P_SPECIAL,
	[M(VPGATHERQD)] = P_SPECIAL,
	[M(VPGATHERQQ)] = P_SPECIAL,
	[M(VZEROUPPER)] = P_SPECIAL_32,
	[M(VZEROALL)] = P_SPECIAL_32,
};
#undef M

static unsigned props_of(const ZydisDecodedInstruction *insn)
{
	return insn->mnemonic <= ZYDIS_MNEMONIC_MAX_VALUE ? props[insn->mnemonic] : 0;
}

static const struct isa_set *isa_set_of(const ZydisDecodedInstruction *insn)
{
	static const struct isa_set none;

	return insn->meta.isa_set <= ZYDIS_ISA_SET_MAX_VALUE ? &isa_sets[insn->meta.isa_set]
	                                                     : &none;
}

enum insn_kind insn_kind_of(const ZydisDecodedInstruction *insn)
{
	const struct isa_set *set = isa_set_of(insn);
	unsigned p = props_of(insn);

	if (!set->listed)
		return p & P_FCOMI ? INSN_X87 : INSN_INT;
	if (set->cls == INSN_SSE && (p & P_STATELESS))
		return INSN_INT;
	return insn->mnemonic == ZYDIS_MNEMONIC_FISTTP ? INSN_X87 : set->cls;
}

bool insn_vex_w_is_width(const ZydisDecodedInstruction *insn)
{
	return props_of(insn) & P_W_WIDTH;
}

bool insn_no_opsize(const ZydisDecodedInstruction *insn)
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

static bool on_list(const ZydisDecodedInstruction *insn, u64 feat)
{
	const struct isa_set *set = isa_set_of(insn);

	if (insn->encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY &&
	    insn->encoding != ZYDIS_INSTRUCTION_ENCODING_VEX)
		return false;
	if (set->listed)
		return feat & BIT(set->feat);
	switch (insn->meta.isa_set) {
	case ZYDIS_ISA_SET_PPRO:
		return (props_of(insn) & P_FCOMI) && (feat & BIT(F_CMOV));
	case ZYDIS_ISA_SET_I86:
	case ZYDIS_ISA_SET_I186:
	case ZYDIS_ISA_SET_I386:
	case ZYDIS_ISA_SET_I486REAL:
	case ZYDIS_ISA_SET_PENTIUMREAL:
	case ZYDIS_ISA_SET_LONGMODE:
		return (props_of(insn) & P_INT);
	default:
		return false;
	}
}

/* No operand that only the system may have. */
static bool registers_ok(const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *ops)
{
	for (unsigned i = 0; i < insn->operand_count; i++) {
		if (ops[i].type != ZYDIS_OPERAND_TYPE_REGISTER ||
		    ops[i].reg.value <= ZYDIS_REGISTER_R15) /* general ones come first */
			continue;
		switch (ZydisRegisterGetClass(ops[i].reg.value)) {
		case ZYDIS_REGCLASS_SEGMENT:
		case ZYDIS_REGCLASS_IP:
		case ZYDIS_REGCLASS_CONTROL:
		case ZYDIS_REGCLASS_DEBUG:
		case ZYDIS_REGCLASS_TEST:
		case ZYDIS_REGCLASS_TABLE:
			return false;
		default:
			break;
		}
	}
	return true;
}

static void set_x87(struct insn_info *n, const ZydisDecodedInstruction *insn)
{
	n->x87_wait = !(props_of(insn) & P_NO_WAIT);
	n->fwait = insn->mnemonic == ZYDIS_MNEMONIC_FWAIT;
	n->x87_ldcw = insn->mnemonic == ZYDIS_MNEMONIC_FLDCW;
	if (props_of(insn) & P_CTL)
		return;
	n->x87_record = true;
	n->fop = (u16)((insn->opcode & 7) << 8 | insn->raw.modrm.mod << 6 |
	               insn->raw.modrm.reg << 3 | insn->raw.modrm.rm);
}

/* Checks before execution, by class (SDM 3A tables 2-1, 13-1; SDM 2A 2.4, SDM 3B 23.25). */
static void set_checks(struct insn_info *n, const ZydisDecodedInstruction *insn,
                       const ZydisDecodedOperand *ops)
{
	n->fpu = n->cls != INSN_INT && n->cls != INSN_XSAVE;
	switch (n->cls) {
	case INSN_INT:
		break;
	case INSN_X87:
		set_x87(n, insn);
		n->cr0_deny = CR0_EM | CR0_TS;
		break;
	case INSN_MMX:
		n->x87_wait = true;
		n->cr0_deny = CR0_EM | CR0_TS;
		break;
	case INSN_SSE:
		for (unsigned i = 0; i < insn->operand_count; i++)
			if (ops[i].type == ZYDIS_OPERAND_TYPE_REGISTER &&
			    ZydisRegisterGetClass(ops[i].reg.value) == ZYDIS_REGCLASS_MMX)
				n->x87_wait = true; /* CVTPS2PI, MOVQ2DQ, ... */
		n->cr0_deny = CR0_EM | CR0_TS;
		n->cr4_need = CR4_OSFXSR;
		break;
	case INSN_AVX:
		n->cr0_deny = CR0_TS;
		n->cr4_need = CR4_OSXSAVE;
		n->xcr0_need = XCR0_SSE | XCR0_AVX;
		break;
	case INSN_XSAVE:
		n->cr0_deny = CR0_TS;
		break;
	}
	n->vex_legacy = insn->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX &&
	                insn->machine_mode != ZYDIS_MACHINE_MODE_LONG_64;
}

static unsigned seg_number(ZydisRegister r)
{
	return r >= ZYDIS_REGISTER_ES && r <= ZYDIS_REGISTER_GS ? r - ZYDIS_REGISTER_ES : DS;
}

/* The memory operand; false: nothing that one redirection can do. */
static bool set_memory(struct insn_info *n, const ZydisDecodedInstruction *insn,
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
		n->bitstr = insn->meta.category == ZYDIS_CATEGORY_BITBYTE && i == 0 &&
		            ops[1].type == ZYDIS_OPERAND_TYPE_REGISTER;
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
	n->locked =
		(insn->attributes & ZYDIS_ATTRIB_HAS_LOCK) || insn->mnemonic == ZYDIS_MNEMONIC_XCHG;
	n->aligned = insn->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX
	                     ? (props_of(insn) & P_ALIGNED)
	                     : n->size == 16 && !(props_of(insn) & P_ANY_ADDR);
	return true;
}

bool insn_info_get(struct insn_info *out, u64 feat, const ZydisDecodedInstruction *insn,
                   const ZydisDecodedOperand *ops)
{
	*out = (struct insn_info){.cls = (u8)insn_kind_of(insn)};
	out->nop = (props_of(insn) & P_NOP);
	if (out->nop || !on_list(insn, feat))
		return false;
	set_checks(out, insn, ops);
	out->special =
		(props_of(insn) & P_SPECIAL) || ((props_of(insn) & P_SPECIAL_32) &&
	                                         insn->machine_mode != ZYDIS_MACHINE_MODE_LONG_64);
	out->allowed = set_memory(out, insn, ops) && registers_ok(insn, ops) && !out->special &&
	               out->cls != INSN_XSAVE;
	return out->allowed;
}

u64 insn_features(const struct x86_cpu *c)
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

void insn_sib_without_base(const ZydisDecodedInstruction *insn, ZydisDecodedOperand *ops)
{
	const ZydisDecodedInstructionRaw *r = &insn->raw;

	if (!(insn->attributes & ZYDIS_ATTRIB_HAS_SIB) || r->modrm.mod || r->sib.base != 5)
		return;
	for (unsigned k = 0; k < insn->operand_count; k++) {
		ZydisDecodedOperandMem *m = &ops[k].mem;

		if (ops[k].type != ZYDIS_OPERAND_TYPE_MEMORY ||
		    ops[k].encoding != ZYDIS_OPERAND_ENCODING_MODRM_RM || !m->base)
			continue;
		m->base = ZYDIS_REGISTER_NONE;
		m->disp.has_displacement = ZYAN_TRUE;
		m->disp.value = r->disp.value;
	}
}
