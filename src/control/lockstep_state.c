// SPDX-License-Identifier: MIT
/* Registers: what is compared, by one table. */
#include "control/lockstep_priv.h"

#include <string.h>
#include <Zydis/Zydis.h>

struct field {
	const char *name;
	u16 off;
	u8 size;
};

#define F(name, member)                                                                            \
	{                                                                                          \
		name, offsetof(struct x86_cpu, member), sizeof(((struct x86_cpu *)0)->member)      \
	}
#define SEGMENT(name, s)                                                                           \
	F(name " selector", s.sel), F(name " base", s.base), F(name " limit", s.limit),            \
		F(name " rights", s.ar)

/* Not here: what only the monitor's side has (TSC offset, the clock's reference), arithmetic
 * flags (lockstep.c), vector state (below). */
static const struct field fields[] = {
	F("rax", gpr[RAX]),
	F("rcx", gpr[RCX]),
	F("rdx", gpr[RDX]),
	F("rbx", gpr[RBX]),
	F("rsp", gpr[RSP]),
	F("rbp", gpr[RBP]),
	F("rsi", gpr[RSI]),
	F("rdi", gpr[RDI]),
	F("r8", gpr[R8]),
	F("r9", gpr[R9]),
	F("r10", gpr[R10]),
	F("r11", gpr[R11]),
	F("r12", gpr[R12]),
	F("r13", gpr[R13]),
	F("r14", gpr[R14]),
	F("r15", gpr[R15]),
	F("rip", rip),
	F("mode", mode),
	F("cpl", cpl),
	F("nmi blocked", nmi_blocked),
	SEGMENT("es", seg[ES]),
	SEGMENT("cs", seg[CS]),
	SEGMENT("ss", seg[SS]),
	SEGMENT("ds", seg[DS]),
	SEGMENT("fs", seg[FS]),
	SEGMENT("gs", seg[GS]),
	SEGMENT("ldtr", ldtr),
	SEGMENT("tr", tr),
	F("gdtr base", gdtr.base),
	F("gdtr limit", gdtr.limit),
	F("idtr base", idtr.base),
	F("idtr limit", idtr.limit),
	F("cr0", cr0),
	F("cr2", cr2),
	F("cr3", cr3),
	F("cr4", cr4),
	F("pdpte0", pdpte[0]),
	F("pdpte1", pdpte[1]),
	F("pdpte2", pdpte[2]),
	F("pdpte3", pdpte[3]),
	F("dr0", dr[0]),
	F("dr1", dr[1]),
	F("dr2", dr[2]),
	F("dr3", dr[3]),
	F("dr6", dr[6]),
	F("dr7", dr[7]),
	F("efer", efer),
	F("xcr0", xcr0),
	F("xss", xss),
	F("star", star),
	F("lstar", lstar),
	F("cstar", cstar),
	F("fmask", sfmask),
	F("kernel gs base", kernel_gs_base),
	F("sysenter cs", sysenter_cs),
	F("sysenter esp", sysenter_esp),
	F("sysenter eip", sysenter_eip),
	F("tsc adjust", tsc_adjust),
	F("tsc aux", tsc_aux),
	F("pat", pat),
	F("misc enable", misc_enable),
	F("spec ctrl", spec_ctrl),
	F("bios sign id", bios_sign_id),
	F("mcg status", mcg_status),
	F("mcg ctl", mcg_ctl),
	F("kvm wall clock", kvm.wall_clock),
	F("kvm system time", kvm.system_time),
	F("kvm poll control", kvm.poll_control),
	F("apic page", apic_page),
};

/* Compared as blocks of bytes; none has padding. */
static const struct {
	const char *name;
	u16 off, size;
} blocks[] = {
	{"machine check banks", offsetof(struct x86_cpu, mc), sizeof(((struct x86_cpu *)0)->mc)},
	{"mtrrs", offsetof(struct x86_cpu, mtrr), sizeof(struct x86_mtrr)},
};

static u64 get(const struct x86_cpu *c, const struct field *f)
{
	u64 v = 0;

	memcpy(&v, (const u8 *)c + f->off, f->size);
	return v;
}

/* ---- vector state ---- */

static const struct {
	const char *name;
	u16 off, size;
} vector[] = {
	{"fcw", 0, 2},           {"fsw", 2, 2},           {"ftw", 4, 1},
	{"fop", 6, 2},           {"fip", 8, 8},           {"fdp", 16, 8},
	{"mxcsr", 24, 4},        {"st0", 32, 10},         {"st1", 48, 10},
	{"st2", 64, 10},         {"st3", 80, 10},         {"st4", 96, 10},
	{"st5", 112, 10},        {"st6", 128, 10},        {"st7", 144, 10},
	{"xmm0", 160, 16},       {"xmm1", 176, 16},       {"xmm2", 192, 16},
	{"xmm3", 208, 16},       {"xmm4", 224, 16},       {"xmm5", 240, 16},
	{"xmm6", 256, 16},       {"xmm7", 272, 16},       {"xmm8", 288, 16},
	{"xmm9", 304, 16},       {"xmm10", 320, 16},      {"xmm11", 336, 16},
	{"xmm12", 352, 16},      {"xmm13", 368, 16},      {"xmm14", 384, 16},
	{"xmm15", 400, 16},      {"ymm0 high", 576, 16},  {"ymm1 high", 592, 16},
	{"ymm2 high", 608, 16},  {"ymm3 high", 624, 16},  {"ymm4 high", 640, 16},
	{"ymm5 high", 656, 16},  {"ymm6 high", 672, 16},  {"ymm7 high", 688, 16},
	{"ymm8 high", 704, 16},  {"ymm9 high", 720, 16},  {"ymm10 high", 736, 16},
	{"ymm11 high", 752, 16}, {"ymm12 high", 768, 16}, {"ymm13 high", 784, 16},
	{"ymm14 high", 800, 16}, {"ymm15 high", 816, 16},
};

static bool vector_equal(const struct x86_cpu *p, const struct x86_cpu *s)
{
	if (likely(!memcmp(p->xsave, s->xsave, 416) &&
	           !memcmp(p->xsave + 576, s->xsave + 576, 256)))
		return true;
	for (size_t i = 0; i < ARRAY_SIZE(vector); i++)
		if (memcmp(p->xsave + vector[i].off, s->xsave + vector[i].off, vector[i].size))
			return false;
	return true;
}

static void vector_print(const struct x86_cpu *c, size_t i, FILE *out)
{
	for (unsigned k = vector[i].size; k--;)
		fprintf(out, "%02x", c->xsave[vector[i].off + k]);
}

/* ---- all ---- */

void ls_state_copy(struct x86_cpu *to, const struct x86_cpu *from)
{
	for (size_t i = 0; i < ARRAY_SIZE(fields); i++)
		memcpy((u8 *)to + fields[i].off, (const u8 *)from + fields[i].off, fields[i].size);
	for (size_t i = 0; i < ARRAY_SIZE(blocks); i++)
		memcpy((u8 *)to + blocks[i].off, (const u8 *)from + blocks[i].off, blocks[i].size);
	memcpy(to->xsave, from->xsave, sizeof(to->xsave));
	to->next_rip = from->next_rip;
	to->fpu_ip = from->fpu_ip;
	to->fpu_dp = from->fpu_dp;
	to->fpu_last_dp = from->fpu_last_dp;
	to->fpu_op = from->fpu_op;
	to->fpu_last_op = from->fpu_last_op;
	to->phys_bits = from->phys_bits;
	to->feat = from->feat;
	to->nr_cpuid = from->nr_cpuid;
	memcpy(to->cpuid, from->cpuid, sizeof(to->cpuid));
	x86_set_rflags(to, x86_rflags(from));
	x86_update_mode(to);
	x86_update_step(to);
	mmu_flush_all(to);
}

static u64 sys_flags(const struct x86_cpu *c)
{
	return c->sflags & ~(AFLAGS | X86_RFLAGS_RF);
}

bool ls_state_equal(const struct x86_cpu *p, struct x86_cpu *s, bool all)
{
	const size_t first = offsetof(struct x86_cpu, seg),
		     end = offsetof(struct x86_cpu, tsc_offset);

	if (memcmp(p->gpr, s->gpr, 16 * sizeof(u64)) || sys_flags(p) != sys_flags(s) ||
	    p->mode != s->mode || p->cpl != s->cpl || !vector_equal(p, s))
		return false;
	if (likely(!all && !memcmp((const u8 *)p + first, (const u8 *)s + first, end - first)))
		return true;
	for (size_t i = 0; i < ARRAY_SIZE(fields); i++)
		if (memcmp((const u8 *)p + fields[i].off, (const u8 *)s + fields[i].off,
		           fields[i].size))
			return false;
	for (size_t i = 0; i < ARRAY_SIZE(blocks); i++)
		if (memcmp((const u8 *)p + blocks[i].off, (const u8 *)s + blocks[i].off,
		           blocks[i].size))
			return false;
	/* Only padding: the quick way next time. */
	memcpy((u8 *)s + first, (const u8 *)p + first, end - first);
	return true;
}

unsigned ls_state_print(const struct x86_cpu *p, const struct x86_cpu *s, FILE *out)
{
	unsigned n = 0;

	for (size_t i = 0; i < ARRAY_SIZE(fields); i++) {
		u64 a = get(p, &fields[i]), b = get(s, &fields[i]);

		if (a == b)
			continue;
		n++;
		fprintf(out, "  %-16s engine %016llx  interp %016llx\n", fields[i].name,
		        (unsigned long long)a, (unsigned long long)b);
	}
	if (sys_flags(p) != sys_flags(s) && ++n)
		fprintf(out, "  %-16s engine %016llx  interp %016llx\n", "rflags",
		        (unsigned long long)x86_rflags(p), (unsigned long long)x86_rflags(s));
	for (size_t i = 0; i < ARRAY_SIZE(blocks); i++)
		if (memcmp((const u8 *)p + blocks[i].off, (const u8 *)s + blocks[i].off,
		           blocks[i].size) &&
		    ++n)
			fprintf(out, "  %s\n", blocks[i].name);
	for (size_t i = 0; i < ARRAY_SIZE(vector); i++) {
		if (!memcmp(p->xsave + vector[i].off, s->xsave + vector[i].off, vector[i].size))
			continue;
		n++;
		fprintf(out, "  %-16s engine ", vector[i].name);
		vector_print(p, i, out);
		fputs("  interp ", out);
		vector_print(s, i, out);
		fputc('\n', out);
	}
	if ((p->aflags ^ s->aflags) & AFLAGS)
		fprintf(out, "  %-16s engine %016llx  interp %016llx (may be dead)\n",
		        "arithm. flags", (unsigned long long)(p->aflags & AFLAGS),
		        (unsigned long long)(s->aflags & AFLAGS));
	return n;
}

/* ---- arithmetic flags ---- */

#define READ_INSNS 32

/* Shifts by a count that may be 0, repeated comparisons: flags may stay as they were, or not. */
static bool unsure(const ZydisDecodedInstruction *i, const ZydisDecodedOperand *o)
{
	if (i->attributes & (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE))
		return true;
	switch (i->mnemonic) {
	case ZYDIS_MNEMONIC_SHL:
	case ZYDIS_MNEMONIC_SHR:
	case ZYDIS_MNEMONIC_SAR:
	case ZYDIS_MNEMONIC_ROL:
	case ZYDIS_MNEMONIC_ROR:
	case ZYDIS_MNEMONIC_RCL:
	case ZYDIS_MNEMONIC_RCR:
	case ZYDIS_MNEMONIC_SHLD:
	case ZYDIS_MNEMONIC_SHRD:
		return o[i->operand_count_visible - 1].type != ZYDIS_OPERAND_TYPE_IMMEDIATE;
	default:
		return false;
	}
}

/* Zydis' masks have the bits of EFLAGS. */
static u64 scan_flags(struct x86_cpu *s, u64 rip)
{
	u64 read = 0, gone = 0;
	ZydisDecoder d;

	if (s->mode & M_CS64)
		ZydisDecoderInit(&d, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	else if (s->mode & M_CS32)
		ZydisDecoderInit(&d, ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32);
	else
		ZydisDecoderInit(&d, ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_STACK_WIDTH_16);
	for (unsigned n = 0; n < READ_INSNS && gone != AFLAGS; n++) {
		ZydisDecodedInstruction i;
		ZydisDecodedOperand o[ZYDIS_MAX_OPERAND_COUNT];
		u64 lin = rip + s->segbase[CS];
		unsigned len = 15;
		u8 buf[15];

		if (!(s->mode & M_CS64))
			lin = (u32)lin;
		/* The next page may not be there. */
		if (mmu_debug_rw(s, lin, buf, len, false) < 0) {
			len = MIN(len, (unsigned)(PAGE_SIZE - (lin & ~PAGE_MASK)));
			if (mmu_debug_rw(s, lin, buf, len, false) < 0)
				break;
		}
		if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&d, buf, len, &i, o)))
			break;
		/* Images of flags: take_image() in lockstep.c. */
		if (i.cpu_flags && i.meta.category != ZYDIS_CATEGORY_SYSCALL &&
		    !(i.mnemonic >= ZYDIS_MNEMONIC_PUSHF && i.mnemonic <= ZYDIS_MNEMONIC_PUSHFQ &&
		      s->cpl < 3)) {
			const ZydisAccessedFlags *f = i.cpu_flags;

			read |= f->tested & AFLAGS & ~gone;
			gone |= (f->modified | f->set_0 | f->set_1 | f->undefined) & AFLAGS;
			if (unsure(&i, o))
				gone |= (f->modified | f->undefined) & AFLAGS;
		}
		rip += i.length;
		if (i.mnemonic == ZYDIS_MNEMONIC_JMP && o[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE &&
		    o[0].imm.is_relative && i.operand_width != 16)
			rip += (u64)o[0].imm.value.s;
		else if (i.meta.category == ZYDIS_CATEGORY_CALL ||
		         i.meta.category == ZYDIS_CATEGORY_RET ||
		         i.meta.category == ZYDIS_CATEGORY_UNCOND_BR ||
		         i.meta.category == ZYDIS_CATEGORY_INTERRUPT ||
		         i.meta.category == ZYDIS_CATEGORY_SYSCALL ||
		         i.meta.category == ZYDIS_CATEGORY_SYSRET)
			break;
	}
	return read;
}

u64 ls_flags_read(struct lockstep *ls, u64 rip, u64 differ)
{
	struct ls_flag_entry *e = &ls->flags[(rip ^ rip >> 12) % LS_FLAGS];

	/* The code may have changed since: what counts is looked at again. */
	if (!e->valid || e->rip != rip || e->mode != ls->s->mode || (e->read & differ))
		*e = (struct ls_flag_entry){.rip = rip,
		                            .mode = ls->s->mode,
		                            .read = (u16)scan_flags(ls->s, rip),
		                            .valid = true};
	return e->read & differ;
}
