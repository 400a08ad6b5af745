// SPDX-License-Identifier: MIT
/* Which instructions are tested. By instruction set extension: an allow list of what the guest's
 * CPU model offers (x86-64-v3 and a few more), as far as the host has it. By mnemonic: a list of
 * what reads something that guest and host legitimately differ in (CPUID, time, random
 * numbers), or what Linux emulates for programs (UMIP), or enters a kernel. */
#include "forms.h"

#include <cpuid.h>
#include <errno.h>
#include <stdlib.h>

const char *const class_name[NR_CLASS] = {
	"alu",  "shift", "muldiv", "bit", "atomic", "bcd",    "string", "stack", "branch", "seg",
	"fsgs", "x87",   "mmx",    "sse", "avx",    "gather", "xsave",  "hint",  "priv",
};

static bool host_has(u32 leaf, char reg, unsigned bit)
{
	unsigned r[4] = {0};

	__get_cpuid_count(leaf, 0, &r[0], &r[1], &r[2], &r[3]);
	return r[reg - 'a'] >> bit & 1;
}

/* -1: not in the guest's CPU model, or not on this host. */
static int isa_class(ZydisISASet set)
{
	switch (set) {
	case ZYDIS_ISA_SET_I86:
	case ZYDIS_ISA_SET_I186:
	case ZYDIS_ISA_SET_I386:
	case ZYDIS_ISA_SET_I486:
	case ZYDIS_ISA_SET_I486REAL:
	case ZYDIS_ISA_SET_I286REAL:
	case ZYDIS_ISA_SET_PENTIUMREAL:
	case ZYDIS_ISA_SET_PPRO:
	case ZYDIS_ISA_SET_LONGMODE:
	case ZYDIS_ISA_SET_CMOV:
	case ZYDIS_ISA_SET_LAHF:
		return CL_ALU;
	case ZYDIS_ISA_SET_I286PROTECTED:
		return CL_SEG;
	case ZYDIS_ISA_SET_CMPXCHG16B:
		return CL_ATOMIC;
	case ZYDIS_ISA_SET_MOVBE:
		return host_has(1, 'c', 22) ? CL_ALU : -1;
	case ZYDIS_ISA_SET_ADOX_ADCX:
		return host_has(7, 'b', 19) ? CL_ALU : -1;
	case ZYDIS_ISA_SET_POPCNT:
		return host_has(1, 'c', 23) ? CL_BIT : -1;
	case ZYDIS_ISA_SET_LZCNT:
		return host_has(0x80000001, 'c', 5) ? CL_BIT : -1;
	case ZYDIS_ISA_SET_BMI1:
		return host_has(7, 'b', 3) ? CL_BIT : -1;
	case ZYDIS_ISA_SET_BMI2:
		return host_has(7, 'b', 8) ? CL_BIT : -1;
	case ZYDIS_ISA_SET_FAT_NOP:
	case ZYDIS_ISA_SET_PAUSE:
	case ZYDIS_ISA_SET_PREFETCH_NOP:
	case ZYDIS_ISA_SET_SSE_PREFETCH:
	case ZYDIS_ISA_SET_CLFSH:
		return CL_HINT;
	case ZYDIS_ISA_SET_CLFLUSHOPT:
		return host_has(7, 'b', 23) ? CL_HINT : -1;
	case ZYDIS_ISA_SET_CET:
		return CL_HINT; /* ENDBR: see excluded() */
	case ZYDIS_ISA_SET_RDWRFSGS:
		return CL_FSGS;
	case ZYDIS_ISA_SET_X87:
	case ZYDIS_ISA_SET_FCMOV:
	case ZYDIS_ISA_SET_SSE3X87:
		return CL_X87;
	case ZYDIS_ISA_SET_PENTIUMMMX:
	case ZYDIS_ISA_SET_SSE2MMX:
	case ZYDIS_ISA_SET_SSSE3MMX:
		return CL_MMX;
	case ZYDIS_ISA_SET_SSE:
	case ZYDIS_ISA_SET_SSE2:
	case ZYDIS_ISA_SET_SSE3:
	case ZYDIS_ISA_SET_SSSE3:
	case ZYDIS_ISA_SET_SSEMXCSR:
	case ZYDIS_ISA_SET_SSE4:
		return CL_SSE;
	case ZYDIS_ISA_SET_SSE42:
		return host_has(1, 'c', 20) ? CL_SSE : -1;
	case ZYDIS_ISA_SET_AES:
		return host_has(1, 'c', 25) ? CL_SSE : -1;
	case ZYDIS_ISA_SET_PCLMULQDQ:
		return host_has(1, 'c', 1) ? CL_SSE : -1;
	case ZYDIS_ISA_SET_SHA:
		return host_has(7, 'b', 29) ? CL_SSE : -1;
	case ZYDIS_ISA_SET_AVX:
		return host_has(1, 'c', 28) ? CL_AVX : -1;
	case ZYDIS_ISA_SET_AVX2:
		return host_has(7, 'b', 5) ? CL_AVX : -1;
	case ZYDIS_ISA_SET_AVX2GATHER:
		return host_has(7, 'b', 5) ? CL_GATHER : -1;
	case ZYDIS_ISA_SET_FMA:
		return host_has(1, 'c', 12) ? CL_AVX : -1;
	case ZYDIS_ISA_SET_F16C:
		return host_has(1, 'c', 29) ? CL_AVX : -1;
	case ZYDIS_ISA_SET_AVXAES:
		return host_has(1, 'c', 25) ? CL_AVX : -1;
	case ZYDIS_ISA_SET_FXSAVE:
	case ZYDIS_ISA_SET_FXSAVE64:
	case ZYDIS_ISA_SET_XSAVE:
		return CL_XSAVE;
	case ZYDIS_ISA_SET_INVPCID:
		return host_has(7, 'b', 10) ? CL_PRIV : -1;
	default:
		return -1;
	}
}

static bool excluded(ZydisMnemonic m, ZydisISASet set)
{
	switch (m) {
	case ZYDIS_MNEMONIC_CPUID:
	case ZYDIS_MNEMONIC_RDTSC:
	case ZYDIS_MNEMONIC_XGETBV: /* XCR0 is the guest's own */
	case ZYDIS_MNEMONIC_INT:
	case ZYDIS_MNEMONIC_INT1:
	case ZYDIS_MNEMONIC_INT3:
	case ZYDIS_MNEMONIC_SYSCALL:
	case ZYDIS_MNEMONIC_SYSENTER:
	case ZYDIS_MNEMONIC_SYSRET: /* INTEL: #GP; but #UD for SYSEXIT outside its modes */
	case ZYDIS_MNEMONIC_SYSEXIT:
	case ZYDIS_MNEMONIC_SGDT: /* UMIP: Linux emulates them for programs */
	case ZYDIS_MNEMONIC_SIDT:
	case ZYDIS_MNEMONIC_SLDT:
	case ZYDIS_MNEMONIC_STR:
	case ZYDIS_MNEMONIC_SMSW:
	case ZYDIS_MNEMONIC_LAR: /* the tables' contents: golden tests */
	case ZYDIS_MNEMONIC_LSL:
	case ZYDIS_MNEMONIC_VERR:
	case ZYDIS_MNEMONIC_VERW:
	case ZYDIS_MNEMONIC_RSM:
		return true;
	case ZYDIS_MNEMONIC_ENDBR32:
	case ZYDIS_MNEMONIC_ENDBR64:
		return false;
	default:
		return set == ZYDIS_ISA_SET_CET;
	}
}

static bool privileged(const ZydisDecodedInstruction *insn)
{
	switch (insn->mnemonic) {
	case ZYDIS_MNEMONIC_UD0:
	case ZYDIS_MNEMONIC_UD1:
	case ZYDIS_MNEMONIC_UD2:
	case ZYDIS_MNEMONIC_CLI:
	case ZYDIS_MNEMONIC_STI:
	case ZYDIS_MNEMONIC_IN:
	case ZYDIS_MNEMONIC_OUT:
	case ZYDIS_MNEMONIC_XSETBV:
	case ZYDIS_MNEMONIC_LGDT:
		return true;
	default:
		return insn->attributes & ZYDIS_ATTRIB_IS_PRIVILEGED;
	}
}

static int integer_class(const ZydisDecodedInstruction *insn)
{
	switch (insn->mnemonic) {
	case ZYDIS_MNEMONIC_MUL:
	case ZYDIS_MNEMONIC_IMUL:
	case ZYDIS_MNEMONIC_DIV:
	case ZYDIS_MNEMONIC_IDIV:
		return CL_MULDIV;
	case ZYDIS_MNEMONIC_CMPXCHG:
	case ZYDIS_MNEMONIC_CMPXCHG8B:
	case ZYDIS_MNEMONIC_CMPXCHG16B:
	case ZYDIS_MNEMONIC_XADD:
	case ZYDIS_MNEMONIC_XCHG:
		return CL_ATOMIC;
	case ZYDIS_MNEMONIC_ENTER:
	case ZYDIS_MNEMONIC_LEAVE:
		return CL_STACK;
	case ZYDIS_MNEMONIC_MOV:
		return insn->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT &&
		                       (insn->opcode == 0x8c || insn->opcode == 0x8e)
		               ? CL_SEG
		               : CL_ALU;
	case ZYDIS_MNEMONIC_BSWAP: /* of 16 bits: undefined (SDM 2A) */
		return insn->operand_width == 16 ? -1 : CL_ALU;
	default:
		break;
	}
	switch (insn->meta.category) {
	case ZYDIS_CATEGORY_SHIFT:
	case ZYDIS_CATEGORY_ROTATE:
		return CL_SHIFT;
	case ZYDIS_CATEGORY_BITBYTE:
		return CL_BIT;
	case ZYDIS_CATEGORY_DECIMAL:
		return CL_BCD;
	case ZYDIS_CATEGORY_STRINGOP:
		return CL_STRING;
	case ZYDIS_CATEGORY_IOSTRINGOP:
	case ZYDIS_CATEGORY_IO:
		return CL_PRIV;
	case ZYDIS_CATEGORY_PUSH:
	case ZYDIS_CATEGORY_POP:
		return CL_STACK;
	case ZYDIS_CATEGORY_CALL:
	case ZYDIS_CATEGORY_RET:
	case ZYDIS_CATEGORY_UNCOND_BR:
	case ZYDIS_CATEGORY_COND_BR:
		return insn->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR ||
		                       insn->mnemonic == ZYDIS_MNEMONIC_IRET ||
		                       insn->mnemonic == ZYDIS_MNEMONIC_IRETD ||
		                       insn->mnemonic == ZYDIS_MNEMONIC_IRETQ
		               ? CL_SEG
		               : CL_BRANCH;
	case ZYDIS_CATEGORY_SEGOP:
		return CL_SEG;
	case ZYDIS_CATEGORY_NOP:
	case ZYDIS_CATEGORY_WIDENOP:
		return CL_HINT;
	case ZYDIS_CATEGORY_INTERRUPT: /* BOUND, INTO */
	default:
		return CL_ALU;
	}
}

int insn_class(const ZydisDecodedInstruction *insn)
{
	int cls = isa_class(insn->meta.isa_set);

	if (cls < 0 || excluded(insn->mnemonic, insn->meta.isa_set))
		return -1;
	if (insn->encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX ||
	    insn->encoding == ZYDIS_INSTRUCTION_ENCODING_MVEX ||
	    insn->encoding == ZYDIS_INSTRUCTION_ENCODING_XOP ||
	    insn->encoding == ZYDIS_INSTRUCTION_ENCODING_3DNOW)
		return -1;
	if (privileged(insn))
		return CL_PRIV;
	if (insn->mnemonic >= ZYDIS_MNEMONIC_PREFETCH &&
	    insn->mnemonic <= ZYDIS_MNEMONIC_PREFETCHWT1)
		return CL_HINT;
	if (insn->meta.category == ZYDIS_CATEGORY_X87_ALU ||
	    insn->meta.category == ZYDIS_CATEGORY_FCMOV)
		return CL_X87;
	if (cls == CL_ALU)
		return integer_class(insn);
	if (insn->mnemonic == ZYDIS_MNEMONIC_CRC32)
		return CL_BIT;
	return cls;
}

static const u8 prefix_of[4] = {0, 0x66, 0xf3, 0xf2};

static bool is_prefix(u8 op, ZydisMachineMode mode)
{
	switch (op) {
	case 0x26:
	case 0x2e:
	case 0x36:
	case 0x3e:
	case 0x64:
	case 0x65:
	case 0x66:
	case 0x67:
	case 0xf0:
	case 0xf2:
	case 0xf3:
		return true;
	default:
		return mode == ZYDIS_MACHINE_MODE_LONG_64 && (op & 0xf0) == 0x40;
	}
}

static unsigned form_bytes(const struct form *f, u8 modrm, ZydisMachineMode mode, u8 *b)
{
	unsigned n = 0;

	memset(b, 0, 16);
	if (f->vex) {
		b[n++] = 0xc4;
		b[n++] = 0xe0 | f->map;
		for (unsigned pp = 0; pp < 4; pp++)
			if (prefix_of[pp] == f->prefix)
				b[n++] = (u8)(f->w << 7 | 0x78 | f->l << 2 | pp);
	} else {
		if (f->prefix)
			b[n++] = f->prefix;
		if (mode == ZYDIS_MACHINE_MODE_LONG_64)
			b[n++] = (u8)(0x40 | f->w << 3);
		if (f->map >= 1)
			b[n++] = 0x0f;
		if (f->map >= 2)
			b[n++] = f->map == 2 ? 0x38 : 0x3a;
	}
	b[n++] = f->opcode;
	b[n++] = modrm;
	if ((modrm & 0xc7) == 4)
		b[n++] = 0x20;
	return n;
}

struct probe {
	const void *def;
	ZydisDecodedInstruction insn;
};

static bool probe(struct forms *fs, const struct form *f, u8 modrm, struct probe *p)
{
	u8 b[16];
	ZydisDecoderContext ctx;

	form_bytes(f, modrm, fs->mode, b);
	/* A vector index needs a SIB byte: try that where the plain operand is refused. */
	if (ZYAN_FAILED(ZydisDecoderDecodeInstruction(&fs->decoder, &ctx, b, 15, &p->insn)))
		return false;
	p->def = ctx.definition;
	return true;
}

static int add(struct forms *fs, const struct form *f, const struct probe *p)
{
	int cls = insn_class(&p->insn);
	struct form *n;

	if (cls < 0)
		return 0;
	if (fs->count == fs->room) {
		u32 room = fs->room ? fs->room * 2 : 4096;

		n = realloc(fs->form, room * sizeof(*n));
		if (!n)
			return -ENOMEM;
		fs->form = n;
		fs->room = room;
	}
	n = &fs->form[fs->count++];
	*n = *f;
	n->cls = (u8)cls;
	n->mnemonic = (u16)p->insn.mnemonic;
	return 0;
}

/* F2 and F3 before an instruction that gives them no meaning: no form of its own. */
static bool prefix_idle(struct forms *fs, const struct form *f, u8 modrm, const struct probe *p)
{
	struct form plain = *f;
	struct probe q;

	if (f->vex || f->prefix == 0 || f->prefix == 0x66)
		return false;
	if (p->insn.attributes &
	    (ZYDIS_ATTRIB_ACCEPTS_REP | ZYDIS_ATTRIB_ACCEPTS_REPE | ZYDIS_ATTRIB_ACCEPTS_REPNE))
		return false;
	plain.prefix = 0;
	return probe(fs, &plain, modrm, &q) && q.def == p->def;
}

static int add_modrm(struct forms *fs, struct form *f)
{
	struct probe p[8][8];
	bool ok[8][8];
	int ret = 0;

	for (f->rm_kind = RM_MEM; f->rm_kind <= RM_REG; f->rm_kind++) {
		u8 mod = f->rm_kind == RM_REG ? 0xc0 : 0;
		bool same_rm = true, same_reg = true;

		for (unsigned reg = 0; reg < 8; reg++) {
			for (unsigned rm = 0; rm < 8; rm++) {
				u8 modrm = (u8)(mod | reg << 3 | (mod ? rm : f->vsib ? 4 : 1));
				struct probe *x = &p[reg][rm];

				ok[reg][rm] =
					probe(fs, f, modrm, x) && !prefix_idle(fs, f, modrm, x);
				if (!ok[reg][rm])
					x->def = NULL;
				same_rm &= x->def == p[reg][0].def;
				same_reg &= x->def == p[0][rm].def;
			}
		}
		for (unsigned reg = 0; reg < (same_reg ? 1 : 8); reg++) {
			for (unsigned rm = 0; rm < (same_rm ? 1 : 8); rm++) {
				if (!ok[reg][rm])
					continue;
				f->reg = same_reg ? -1 : (s8)reg;
				f->rm = same_rm ? -1 : (s8)rm;
				ret = add(fs, f, &p[reg][rm]);
				if (ret)
					return ret;
			}
		}
	}
	return 0;
}

static int add_opcode(struct forms *fs, struct form *f)
{
	static const u8 try[] = {1, 0xc1, 4};
	struct probe p;

	f->vsib = false;
	for (size_t i = 0; i < ARRAY_SIZE(try); i++) {
		for (unsigned reg = 0; reg < 8; reg++) {
			if (!probe(fs, f, (u8)(try[i] | reg << 3), &p))
				continue;
			if (!(p.insn.attributes & ZYDIS_ATTRIB_HAS_MODRM)) {
				f->rm_kind = RM_NONE;
				f->reg = f->rm = -1;
				return prefix_idle(fs, f, try[i], &p) ? 0 : add(fs, f, &p);
			}
			f->vsib = try[i] == 4;
			return add_modrm(fs, f);
		}
	}
	return 0;
}

static int by_group(const void *a, const void *b)
{
	const struct form *x = a, *y = b;

	if (x->cls != y->cls)
		return x->cls < y->cls ? -1 : 1;
	return x->mnemonic < y->mnemonic ? -1 : x->mnemonic > y->mnemonic;
}

static int make_groups(struct forms *fs)
{
	qsort(fs->form, fs->count, sizeof(*fs->form), by_group);
	fs->group = calloc(fs->count + 1, sizeof(*fs->group));
	if (!fs->group)
		return -ENOMEM;
	for (u32 i = 0; i < fs->count; i++) {
		if (i == 0 || by_group(&fs->form[i - 1], &fs->form[i])) {
			fs->group[fs->nr_groups++] = (struct form_group){i, 0};
			for (unsigned c = fs->form[i].cls + 1; c <= NR_CLASS; c++)
				fs->class_first[c] = fs->nr_groups;
		}
		fs->group[fs->nr_groups - 1].count++;
	}
	return 0;
}

int forms_create(struct forms *fs, unsigned mode)
{
	int ret = 0;

	memset(fs, 0, sizeof(*fs));
	fs->mode = mode == 64 ? ZYDIS_MACHINE_MODE_LONG_64 : ZYDIS_MACHINE_MODE_LONG_COMPAT_32;
	ZydisDecoderInit(&fs->decoder, fs->mode,
	                 mode == 64 ? ZYDIS_STACK_WIDTH_64 : ZYDIS_STACK_WIDTH_32);
	for (unsigned map = 0; map < 4 && !ret; map++) {
		for (unsigned op = 0; op < 256 && !ret; op++) {
			struct form f = {.map = (u8)map, .opcode = (u8)op};

			if (map == 0 && (is_prefix(f.opcode, fs->mode) || op == 0x0f))
				continue;
			if (map == 1 && (op == 0x38 || op == 0x3a || op == 0x0f))
				continue;
			if (map == 0 && (op == 0xc4 || op == 0xc5 || op == 0x62) && mode == 64)
				continue;
			for (unsigned p = 0; p < 4 && !ret; p++) {
				f.prefix = prefix_of[p];
				for (f.w = 0; f.w < (mode == 64 ? 2 : 1) && !ret; f.w++)
					ret = add_opcode(fs, &f);
			}
		}
	}
	for (unsigned map = 1; map < 4 && !ret; map++) {
		for (unsigned op = 0; op < 256 && !ret; op++) {
			struct form f = {.vex = true, .map = (u8)map, .opcode = (u8)op};

			for (unsigned p = 0; p < 16 && !ret; p++) {
				f.prefix = prefix_of[p & 3];
				f.w = p >> 2 & 1;
				f.l = p >> 3;
				/* W is ignored in the upper bit of a three-byte VEX outside 64-bit
				 * code only for some; Zydis knows. */
				ret = add_opcode(fs, &f);
			}
		}
	}
	if (!ret)
		ret = make_groups(fs);
	if (ret)
		forms_destroy(fs);
	return ret;
}

void forms_destroy(struct forms *fs)
{
	free(fs->form);
	free(fs->group);
	memset(fs, 0, sizeof(*fs));
}
