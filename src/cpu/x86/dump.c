// SPDX-License-Identifier: MIT
/* A processor's state for people: when the guest is beyond recovery, in the monitor, in bug(). */
#include <Zydis/Zydis.h>
#include <inttypes.h>
#include <string.h>

#include "cpu/x86/mmu.h"
#include "cpu/x86/x86.h"

#define CODE_BEFORE 3  /* instructions shown before the current one */
#define CODE_AFTER  6  /* and after */
#define CODE_BACK   64 /* bytes looked at for those before */
#define STACK_WORDS 16
#define MAX_INSN    15

static const char *const gpr_names[16] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                          "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};
static const char *const seg_names[NR_SEG] = {"es", "cs", "ss", "ds", "fs", "gs"};
static const char *const event_names[] = {"none", "fault", "trap",      "interrupt",
                                          "nmi",  "int n", "int3/into", "icebp"};

struct bit_name {
	u64 bit;
	const char *name;
};

static const struct bit_name rflags_names[] = {
	{X86_RFLAGS_CF, "CF"},
	{X86_RFLAGS_PF, "PF"},
	{X86_RFLAGS_AF, "AF"},
	{X86_RFLAGS_ZF, "ZF"},
	{X86_RFLAGS_SF, "SF"},
	{X86_RFLAGS_TF, "TF"},
	{X86_RFLAGS_IF, "IF"},
	{X86_RFLAGS_DF, "DF"},
	{X86_RFLAGS_OF, "OF"},
	{X86_RFLAGS_NT, "NT"},
	{X86_RFLAGS_RF, "RF"},
	{X86_RFLAGS_VM, "VM"},
	{X86_RFLAGS_AC, "AC"},
	{X86_RFLAGS_VIF, "VIF"},
	{X86_RFLAGS_VIP, "VIP"},
	{X86_RFLAGS_ID, "ID"},
	{0, NULL},
};
static const struct bit_name cr0_names[] = {
	{CR0_PE, "PE"}, {CR0_MP, "MP"}, {CR0_EM, "EM"}, {CR0_TS, "TS"},
	{CR0_ET, "ET"}, {CR0_NE, "NE"}, {CR0_WP, "WP"}, {CR0_AM, "AM"},
	{CR0_NW, "NW"}, {CR0_CD, "CD"}, {CR0_PG, "PG"}, {0, NULL},
};
static const struct bit_name cr4_names[] = {
	{CR4_VME, "VME"},
	{CR4_PVI, "PVI"},
	{CR4_TSD, "TSD"},
	{CR4_DE, "DE"},
	{CR4_PSE, "PSE"},
	{CR4_PAE, "PAE"},
	{CR4_MCE, "MCE"},
	{CR4_PGE, "PGE"},
	{CR4_PCE, "PCE"},
	{CR4_OSFXSR, "OSFXSR"},
	{CR4_OSXMMEXCPT, "OSXMMEXCPT"},
	{CR4_UMIP, "UMIP"},
	{CR4_FSGSBASE, "FSGSBASE"},
	{CR4_PCIDE, "PCIDE"},
	{CR4_OSXSAVE, "OSXSAVE"},
	{CR4_SMEP, "SMEP"},
	{CR4_SMAP, "SMAP"},
	{0, NULL},
};
static const struct bit_name efer_names[] = {
	{EFER_SCE, "SCE"}, {EFER_LME, "LME"}, {EFER_LMA, "LMA"}, {EFER_NXE, "NXE"}, {0, NULL},
};

static void put_bits(FILE *out, u64 val, const struct bit_name *names)
{
	for (; names->name; names++)
		if (val & names->bit)
			fprintf(out, " %s", names->name);
}

static const char *mode_name(const struct x86_cpu *c)
{
	if (c->mode & M_CS64)
		return "64-bit";
	if (c->mode & M_VM)
		return "virtual-8086";
	if (!(c->mode & M_PE))
		return "real";
	if (c->mode & M_LMA)
		return c->mode & M_CS32 ? "compatibility, 32-bit" : "compatibility, 16-bit";
	return c->mode & M_CS32 ? "protected, 32-bit" : "protected, 16-bit";
}

static const char *paging_name(const struct x86_cpu *c)
{
	if (!(c->cr0 & CR0_PG))
		return "off";
	if (c->efer & EFER_LMA)
		return "4-level";
	return c->cr4 & CR4_PAE ? "PAE" : "32-bit";
}

static void dump_gprs(const struct x86_cpu *c, FILE *out)
{
	u64 rflags = x86_rflags(c);

	for (unsigned i = 0; i < 16; i++)
		fprintf(out, "%-3s %016" PRIx64 "%s", gpr_names[i], c->gpr[i],
		        i % 4 == 3 ? "\n" : "  ");
	fprintf(out, "rip %016" PRIx64 "  rflags %08" PRIx64 " iopl %u", c->rip, rflags,
	        (unsigned)(rflags >> 12) & 3);
	put_bits(out, rflags, rflags_names);
	fputc('\n', out);
}

static void dump_seg(FILE *out, const char *name, const struct x86_seg *s)
{
	fprintf(out, "%-4s %04x base %016" PRIx64 " limit %08x ar %05x dpl %u%s%s%s%s\n", name,
	        s->sel, s->base, s->limit, s->ar, (s->ar & SEG_DPL) >> SEG_DPL_SHIFT,
	        s->ar & SEG_UNUSABLE ? " unusable" : "", s->ar & SEG_P ? "" : " not-present",
	        s->ar & SEG_L ? " L" : "", s->ar & SEG_DB ? " D/B" : "");
}

static void dump_system(const struct x86_cpu *c, FILE *out)
{
	for (unsigned i = 0; i < NR_SEG; i++)
		dump_seg(out, seg_names[i], &c->seg[i]);
	dump_seg(out, "ldtr", &c->ldtr);
	dump_seg(out, "tr", &c->tr);
	fprintf(out, "gdtr base %016" PRIx64 " limit %04x  idtr base %016" PRIx64 " limit %04x\n",
	        c->gdtr.base, c->gdtr.limit, c->idtr.base, c->idtr.limit);
	fprintf(out, "cr0 %08" PRIx64, c->cr0);
	put_bits(out, c->cr0, cr0_names);
	fprintf(out, "\ncr4 %08" PRIx64, c->cr4);
	put_bits(out, c->cr4, cr4_names);
	fprintf(out, "\nefer %04" PRIx64, c->efer);
	put_bits(out, c->efer, efer_names);
	fprintf(out, "\ncr2 %016" PRIx64 "  cr3 %016" PRIx64 "  xcr0 %" PRIx64 "  paging %s\n",
	        c->cr2, c->cr3, c->xcr0, paging_name(c));
	if ((c->cr0 & CR0_PG) && (c->cr4 & CR4_PAE) && !(c->efer & EFER_LMA))
		fprintf(out, "pdptes %016" PRIx64 " %016" PRIx64 " %016" PRIx64 " %016" PRIx64 "\n",
		        c->pdpte[0], c->pdpte[1], c->pdpte[2], c->pdpte[3]);
	fprintf(out,
	        "dr0 %" PRIx64 " dr1 %" PRIx64 " dr2 %" PRIx64 " dr3 %" PRIx64 " dr6 %" PRIx64
	        " dr7 %" PRIx64 "\n",
	        c->dr[0], c->dr[1], c->dr[2], c->dr[3], c->dr[6], c->dr[7]);
	fprintf(out, "kernel_gs_base %016" PRIx64 "  star %016" PRIx64 "  lstar %016" PRIx64 "\n",
	        c->kernel_gs_base, c->star, c->lstar);
}

static void dump_event(const struct x86_cpu *c, FILE *out)
{
	const struct x86_event *ev = &c->ev;

	if (ev->type == EV_NONE || ev->type >= ARRAY_SIZE(event_names))
		return;
	fprintf(out, "last event: %s, vector %u", event_names[ev->type], ev->vector);
	if (ev->has_err)
		fprintf(out, ", error code %#x", ev->err);
	if (ev->vector == X86_PF && ev->type == EV_FAULT)
		fprintf(out, ", address %#" PRIx64, ev->cr2);
	fputc('\n', out);
}

/* ---- code ---- */

struct disasm {
	ZydisDecoder dec;
	ZydisFormatter fmt;
	u8 buf[CODE_BACK + MAX_INSN * (CODE_AFTER + 1)];
	bool have[CODE_BACK + MAX_INSN * (CODE_AFTER + 1)];
	gva_t base; /* linear address of buf[0] */
	u64 rip;    /* what the guest calls the byte at buf[CODE_BACK] */
};

static bool disasm_init(struct disasm *d, struct x86_cpu *c)
{
	ZydisMachineMode mode = ZYDIS_MACHINE_MODE_LEGACY_16;
	ZydisStackWidth width = ZYDIS_STACK_WIDTH_16;

	if (c->mode & M_CS64) {
		mode = ZYDIS_MACHINE_MODE_LONG_64;
		width = ZYDIS_STACK_WIDTH_64;
	} else if (c->mode & M_CS32) {
		mode = ZYDIS_MACHINE_MODE_LEGACY_32;
		width = ZYDIS_STACK_WIDTH_32;
	}
	if (!ZYAN_SUCCESS(ZydisDecoderInit(&d->dec, mode, width)) ||
	    !ZYAN_SUCCESS(ZydisFormatterInit(&d->fmt, ZYDIS_FORMATTER_STYLE_INTEL)))
		return false;
	d->rip = c->rip;
	d->base = (c->mode & M_CS64 ? c->rip : (u32)(c->seg[CS].base + c->rip)) - CODE_BACK;
	memset(d->buf, 0, sizeof(d->buf));
	/* Byte by byte: the neighbouring page may not be there. */
	for (unsigned i = 0; i < sizeof(d->buf); i++)
		d->have[i] = mmu_debug_rw(c, d->base + i, &d->buf[i], 1, false) == 0;
	return d->have[CODE_BACK];
}

/* Length of the instruction at buf[i]; 0: none that is wholly there. */
static unsigned disasm_one(const struct disasm *d, unsigned i, char *text, size_t size)
{
	ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
	ZydisDecodedInstruction insn;

	if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(
		    &d->dec, &d->buf[i], MIN(sizeof(d->buf) - i, (size_t)MAX_INSN), &insn, ops)))
		return 0;
	for (unsigned j = 0; j < insn.length; j++)
		if (!d->have[i + j])
			return 0;
	if (text && !ZYAN_SUCCESS(ZydisFormatterFormatInstruction(
			    &d->fmt, &insn, ops, insn.operand_count_visible, text, size,
			    d->rip - CODE_BACK + i, NULL)))
		text[0] = '\0';
	return insn.length;
}

/* Where instructions may begin so that one ends where the current one begins: x86 code cannot be
 * read backwards, but from a start some way before it the decoding soon falls into step. */
static unsigned find_starts(const struct disasm *d, unsigned starts[CODE_BEFORE])
{
	for (unsigned from = 0; from < CODE_BACK; from++) {
		unsigned seen[CODE_BACK], n = 0, at = from, len;

		while (at < CODE_BACK && (len = disasm_one(d, at, NULL, 0))) {
			seen[n++] = at;
			at += len;
		}
		if (at != CODE_BACK || n < CODE_BEFORE)
			continue;
		for (unsigned i = 0; i < CODE_BEFORE; i++)
			starts[i] = seen[n - CODE_BEFORE + i];
		return CODE_BEFORE;
	}
	return 0;
}

static unsigned dump_insn(const struct disasm *d, unsigned i, FILE *out)
{
	char text[128] = "(bad)";
	unsigned len = disasm_one(d, i, text, sizeof(text));
	unsigned n = len ? len : 1;

	fprintf(out, "%s %016" PRIx64 ":", i == CODE_BACK ? "=>" : "  ", d->rip - CODE_BACK + i);
	for (unsigned j = 0; j < MAX_INSN - 3; j++) {
		if (j < n && d->have[i + j])
			fprintf(out, " %02x", d->buf[i + j]);
		else
			fputs("   ", out);
	}
	for (unsigned j = MAX_INSN - 3; j < n; j++)
		fprintf(out, " %02x", d->buf[i + j]);
	fprintf(out, "  %s\n", text);
	return n;
}

static void dump_code(struct x86_cpu *c, FILE *out)
{
	unsigned starts[CODE_BEFORE];
	struct disasm d;
	unsigned n, i;

	if (!disasm_init(&d, c)) {
		fputs("code: not readable\n", out);
		return;
	}
	fputs("code:\n", out);
	n = find_starts(&d, starts);
	for (i = 0; i < n; i++)
		dump_insn(&d, starts[i], out);
	i = CODE_BACK;
	for (n = 0; n <= CODE_AFTER && i < sizeof(d.buf) && d.have[i]; n++)
		i += dump_insn(&d, i, out);
}

static void dump_stack(struct x86_cpu *c, FILE *out)
{
	unsigned size = c->mode & M_CS64 ? 8 : c->mode & M_SS32 ? 4 : 2;
	u64 sp = c->gpr[RSP] & size_mask(size);
	gva_t addr = c->mode & M_CS64 ? sp : (u32)(c->seg[SS].base + sp);

	fputs("stack:", out);
	for (unsigned i = 0; i < STACK_WORDS; i++, addr += size) {
		u64 word = 0;

		if (mmu_debug_rw(c, addr, &word, size, false) < 0) {
			fputs(i ? " ..." : " not readable", out);
			break;
		}
		if (i % 4 == 0)
			fprintf(out, "\n   %016" PRIx64 ":", sp + (u64)i * size);
		fprintf(out, " %0*" PRIx64, (int)size * 2, word);
	}
	fputc('\n', out);
}

void x86_dump(struct vcpu *v, FILE *out)
{
	struct x86_cpu *c = vcpu_x86(v);

	x86_fpu_put(c);
	fprintf(out, "vCPU %u: %s mode, CPL %u%s%s%s\n", v->index, mode_name(c), c->cpl,
	        v->state == VCPU_HALTED ? ", halted" : "",
	        c->irq_shadow ? ", interrupt shadow" : "", c->nmi_blocked ? ", NMI blocked" : "");
	dump_gprs(c, out);
	dump_system(c, out);
	dump_event(c, out);
	dump_code(c, out);
	dump_stack(c, out);
	fflush(out);
}
