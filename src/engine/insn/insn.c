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
static const struct {
	u16 isa_set;
	u8 feat;
	u8 cls; /* INSN_SSE: by its operands SSE, MMX or integer */
} isa_sets[] = {
	{ZYDIS_ISA_SET_X87, F_X87, INSN_X87},
	{ZYDIS_ISA_SET_FCMOV, F_CMOV, INSN_X87},
	{ZYDIS_ISA_SET_SSE3X87, F_SSE3, INSN_X87},
	{ZYDIS_ISA_SET_PENTIUMMMX, F_MMX, INSN_MMX},
	{ZYDIS_ISA_SET_SSE2MMX, F_SSE2, INSN_MMX},
	{ZYDIS_ISA_SET_SSSE3MMX, F_SSSE3, INSN_MMX},
	{ZYDIS_ISA_SET_SSE, F_SSE, INSN_SSE},
	{ZYDIS_ISA_SET_SSEMXCSR, F_SSE, INSN_SSE},
	{ZYDIS_ISA_SET_SSE2, F_SSE2, INSN_SSE},
	{ZYDIS_ISA_SET_SSE3, F_SSE3, INSN_SSE},
	{ZYDIS_ISA_SET_SSSE3, F_SSSE3, INSN_SSE},
	{ZYDIS_ISA_SET_SSE4, F_SSE41, INSN_SSE},
	{ZYDIS_ISA_SET_SSE42, F_SSE42, INSN_SSE},
	{ZYDIS_ISA_SET_AES, F_AES, INSN_SSE},
	{ZYDIS_ISA_SET_PCLMULQDQ, F_PCLMUL, INSN_SSE},
	{ZYDIS_ISA_SET_SHA, F_SHA, INSN_SSE},
	{ZYDIS_ISA_SET_AVX, F_AVX, INSN_AVX},
	{ZYDIS_ISA_SET_AVX2, F_AVX2, INSN_AVX},
	{ZYDIS_ISA_SET_AVX2GATHER, F_AVX2, INSN_AVX},
	{ZYDIS_ISA_SET_AVXAES, F_AES, INSN_AVX},
	{ZYDIS_ISA_SET_F16C, F_F16C, INSN_AVX},
	{ZYDIS_ISA_SET_FMA, F_FMA, INSN_AVX},
	{ZYDIS_ISA_SET_BMI1, F_BMI1, INSN_INT},
	{ZYDIS_ISA_SET_BMI2, F_BMI2, INSN_INT},
	{ZYDIS_ISA_SET_ADOX_ADCX, F_ADX, INSN_INT},
	{ZYDIS_ISA_SET_MOVBE, F_MOVBE, INSN_INT},
	{ZYDIS_ISA_SET_POPCNT, F_POPCNT, INSN_INT},
	/* Without the feature these are BSF and BSR with an idle prefix: so they are on the host.
         */
	{ZYDIS_ISA_SET_LZCNT, F_ALWAYS, INSN_INT},
	{ZYDIS_ISA_SET_CMPXCHG16B, F_CX16, INSN_INT},
	{ZYDIS_ISA_SET_RDRAND, F_RDRAND, INSN_INT},
	{ZYDIS_ISA_SET_RDSEED, F_RDSEED, INSN_INT},
	{ZYDIS_ISA_SET_CMOV, F_CMOV, INSN_INT},
	{ZYDIS_ISA_SET_CLFSH, F_CLFSH, INSN_INT},
	{ZYDIS_ISA_SET_CLFLUSHOPT, F_CLFLUSHOPT, INSN_INT},
	{ZYDIS_ISA_SET_CLWB, F_CLWB, INSN_INT},
	{ZYDIS_ISA_SET_LAHF, F_ALWAYS, INSN_INT},
	{ZYDIS_ISA_SET_FXSAVE, F_FXSR, INSN_XSAVE},
	{ZYDIS_ISA_SET_FXSAVE64, F_FXSR, INSN_XSAVE},
	{ZYDIS_ISA_SET_XSAVE, F_XSAVE, INSN_XSAVE},
	{ZYDIS_ISA_SET_XSAVEOPT, F_XSAVEOPT, INSN_XSAVE},
	{ZYDIS_ISA_SET_XSAVEC, F_XSAVEC, INSN_XSAVE},
};

/* Second half: by name, out of the sets I86 .. PENTIUMREAL, PPRO and LONGMODE. */
#define M(x) ZYDIS_MNEMONIC_##x
static const u16 int_mnemonics[] = {
	M(ADC),    M(ADD),     M(AND),       M(BSF),   M(BSR),    M(BSWAP), M(BT),     M(BTC),
	M(BTR),    M(BTS),     M(CBW),       M(CDQ),   M(CDQE),   M(CMC),   M(CLC),    M(STC),
	M(CMP),    M(CMPXCHG), M(CMPXCHG8B), M(CQO),   M(CWD),    M(CWDE),  M(DEC),    M(DIV),
	M(IDIV),   M(IMUL),    M(INC),       M(MOVSX), M(MOVSXD), M(MOVZX), M(MUL),    M(NEG),
	M(MOV),    M(NOT),     M(OR),        M(RCL),   M(RCR),    M(ROL),   M(ROR),    M(SAR),
	M(SBB),    M(SETB),    M(SETBE),     M(SETL),  M(SETLE),  M(SETNB), M(SETNBE), M(SETNL),
	M(SETNLE), M(SETNO),   M(SETNP),     M(SETNS), M(SETNZ),  M(SETO),  M(SETP),   M(SETS),
	M(SETZ),   M(SHL),     M(SHLD),      M(SHR),   M(SHRD),   M(SUB),   M(TEST),   M(XADD),
	M(XCHG),   M(XOR),
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

/* State saving and restoring (no address of the host's may show in it), gathers (as many addresses
 * as elements), masked moves (elements that are masked out must not fault). */
static const u16 special_mnemonics[] = {
	M(FNINIT),     M(FNCLEX),     M(FNSTENV),     M(FNSAVE),     M(FLDENV),     M(FRSTOR),
	M(FXSAVE),     M(FXSAVE64),   M(FXRSTOR),     M(FXRSTOR64),  M(XSAVE),      M(XSAVE64),
	M(XSAVEOPT),   M(XSAVEOPT64), M(XSAVEC),      M(XSAVEC64),   M(XRSTOR),     M(XRSTOR64),
	M(MASKMOVQ),   M(MASKMOVDQU), M(VMASKMOVDQU), M(VMASKMOVPS), M(VMASKMOVPD), M(VPMASKMOVD),
	M(VPMASKMOVQ), M(VGATHERDPS), M(VGATHERDPD),  M(VGATHERQPS), M(VGATHERQPD), M(VPGATHERDD),
	M(VPGATHERDQ), M(VPGATHERQD), M(VPGATHERQQ),
};
/* ... outside 64-bit code: only the registers that exist there. */
static const u16 special_not64[] = {M(VZEROUPPER), M(VZEROALL)};
#undef M

static bool in_list(const u16 *list, size_t nr, ZydisMnemonic m)
{
	for (size_t i = 0; i < nr; i++)
		if (list[i] == m)
			return true;
	return false;
}
#define IN(list, insn) in_list(list, ARRAY_SIZE(list), (insn)->mnemonic)

/* By instruction set; false: not in the table. */
static bool find_isa_set(const ZydisDecodedInstruction *insn, u8 *cls, u8 *feat)
{
	for (size_t i = 0; i < ARRAY_SIZE(isa_sets); i++) {
		if (isa_sets[i].isa_set != insn->meta.isa_set)
			continue;
		*cls = isa_sets[i].cls;
		*feat = isa_sets[i].feat;
		return true;
	}
	return false;
}

enum insn_kind insn_kind_of(const ZydisDecodedInstruction *insn)
{
	u8 cls = INSN_INT, feat;

	if (!find_isa_set(insn, &cls, &feat))
		return IN(fcomi_mnemonics, insn) ? INSN_X87 : INSN_INT;
	if (cls == INSN_SSE && IN(sse_without_state, insn))
		return INSN_INT;
	return insn->mnemonic == ZYDIS_MNEMONIC_FISTTP ? INSN_X87 : cls;
}

bool insn_vex_w_is_width(const ZydisDecodedInstruction *insn)
{
	return IN(vex_w_width, insn);
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
	u8 cls, need;

	if (insn->encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY &&
	    insn->encoding != ZYDIS_INSTRUCTION_ENCODING_VEX)
		return false;
	if (find_isa_set(insn, &cls, &need))
		return feat & BIT(need);
	switch (insn->meta.isa_set) {
	case ZYDIS_ISA_SET_PPRO:
		return IN(fcomi_mnemonics, insn) && (feat & BIT(F_CMOV));
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

/* No operand that only the system may have. */
static bool registers_ok(const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *ops)
{
	for (unsigned i = 0; i < insn->operand_count; i++) {
		if (ops[i].type != ZYDIS_OPERAND_TYPE_REGISTER)
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
	n->x87_wait = !IN(x87_no_wait, insn);
	n->fwait = insn->mnemonic == ZYDIS_MNEMONIC_FWAIT;
	n->x87_ldcw = insn->mnemonic == ZYDIS_MNEMONIC_FLDCW;
	if (IN(x87_control, insn))
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
	                     ? IN(vex_aligned, insn)
	                     : n->size == 16 && !IN(unaligned_ok, insn);
	return true;
}

bool insn_info_get(struct insn_info *out, u64 feat, const ZydisDecodedInstruction *insn,
                   const ZydisDecodedOperand *ops)
{
	*out = (struct insn_info){.cls = (u8)insn_kind_of(insn)};
	out->nop = IN(nop_mnemonics, insn);
	if (out->nop || !on_list(insn, feat))
		return false;
	set_checks(out, insn, ops);
	out->special =
		IN(special_mnemonics, insn) ||
		(IN(special_not64, insn) && insn->machine_mode != ZYDIS_MACHINE_MODE_LONG_64);
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
