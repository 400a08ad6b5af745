// SPDX-License-Identifier: MIT
/* See compare.h. */
#include "compare.h"

#include "cpu/x86/defs.h"

static const char *const gpr_name[16] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                         "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};
static const char *const sel_name[6] = {"es", "cs", "ss", "ds", "fs", "gs"};

static u64 gpr_mask(const struct dont_care *d, int i)
{
	if (d->gpr >> i & 1)
		return 0;
	if (d->mode32)
		return i < 8 ? 0xffffffff : 0;
	return d->gpr_high >> i & 1 ? 0xffffffff : ~0ull;
}

static bool mem_ignored(const struct dont_care *d, u32 off)
{
	for (u32 i = 0; i < d->nr_mem; i++)
		if (DATA_BASE + (u64)off - d->mem[i].addr < d->mem[i].len)
			return true;
	return false;
}

/* Number of differing bytes; *first: where. */
static u32 mem_compare(const u8 *a, const u8 *b, const struct dont_care *d, u32 *first)
{
	u32 n = 0;

	if (!memcmp(a, b, DATA_RW_SIZE))
		return 0;
	for (u32 i = 0; i < DATA_RW_SIZE; i++)
		if (a[i] != b[i] && !mem_ignored(d, i) && n++ == 0)
			*first = i;
	return n;
}

static bool x87_differs(const u8 *a, const u8 *b, const struct dont_care *d)
{
	if (memcmp(a, b, XS_FOP))
		return true;
	if (!d->fpu_pointers && memcmp(a + XS_FOP, b + XS_FOP, XS_MXCSR - XS_FOP))
		return true;
	for (int i = 0; i < 8; i++)
		if (memcmp(a + XS_ST(i), b + XS_ST(i), 10))
			return true;
	return false;
}

/* Several accesses would fail, or one in several ways: which is first may differ. */
static bool same_fault(const struct outcome *a, const struct outcome *b, const struct dont_care *d)
{
	return a->status == OUT_FAULT && b->status == OUT_FAULT && a->vector < 32 &&
	       b->vector < 32 && (d->fault_same >> a->vector & 1) &&
	       (d->fault_same >> b->vector & 1);
}

static u32 compare_fault(const struct outcome *want, const struct outcome *got,
                         const struct dont_care *d)
{
	u32 diff = 0;

	if (same_fault(want, got, d))
		return 0;
	if (want->status != got->status || want->vector != got->vector)
		diff |= DIFF_STATUS;
	if (want->err != got->err)
		diff |= DIFF_ERR;
	if (want->cr2 != got->cr2 && !(d->fault_place && want->cr2 - got->cr2 + 64 < 128))
		diff |= DIFF_CR2;
	return diff;
}

/* A null selector's RPL does not outlive a return from the host's kernel (SDM 2A, IRET). */
static bool sel_differs(u16 a, u16 b)
{
	return a != b && (a > 3 || b > 3);
}

u32 outcome_compare(const struct outcome *want, const struct outcome *got,
                    const struct dont_care *d)
{
	const struct cpu_state *a = &want->st, *b = &got->st;
	bool fault = want->status == OUT_FAULT;
	u32 diff, first;

	if (d->fault_or_not && want->status != got->status)
		return 0;
	diff = compare_fault(want, got, d);
	for (int i = 0; i < 16; i++) {
		u64 mask = gpr_mask(d, i);

		if (a->cs == SEL_USER_CS32 && i == 4) /* gone on to compatibility mode */
			mask &= 0xffffffff;
		if (fault && d->fault_gpr && i != 4)
			mask = 0;
		if ((a->gpr[i] ^ b->gpr[i]) & mask)
			diff |= DIFF_GPR;
	}
	if (a->rip != b->rip)
		diff |= DIFF_RIP;
	if ((a->rflags ^ b->rflags) & ~d->rflags & ~(got->flags_unknown ? 0x8d5ull : 0))
		diff |= DIFF_FLAGS;
	for (int i = 0; i < 6; i++)
		if (sel_differs(a->sel[i], b->sel[i]))
			diff |= DIFF_SEG;
	if (a->fs_base != b->fs_base || a->gs_base != b->gs_base)
		diff |= DIFF_SEG;
	if (!(fault && d->fault_fpu)) {
		if (x87_differs(a->xsave, b->xsave, d))
			diff |= DIFF_X87;
		if (get_le32(a->xsave + XS_MXCSR) != get_le32(b->xsave + XS_MXCSR))
			diff |= DIFF_MXCSR;
		if (memcmp(a->xsave + XS_XMM(0), b->xsave + XS_XMM(0), 256) ||
		    memcmp(a->xsave + XS_YMMHI(0), b->xsave + XS_YMMHI(0), 256))
			diff |= DIFF_VEC;
	}
	if (!(fault && d->fault_place) && mem_compare(want->mem, got->mem, d, &first))
		diff |= DIFF_MEM;
	return diff;
}

static const char *status_text(const struct outcome *o, char *buf, size_t size)
{
	static const char *const vec[32] = {
		[X86_DE] = "#DE", [X86_DB] = "#DB", [X86_BP] = "#BP", [X86_OF] = "#OF",
		[X86_BR] = "#BR", [X86_UD] = "#UD", [X86_NM] = "#NM", [X86_SS] = "#SS",
		[X86_GP] = "#GP", [X86_PF] = "#PF", [X86_MF] = "#MF", [X86_AC] = "#AC",
		[X86_XM] = "#XM", [X86_NP] = "#NP", [X86_TS] = "#TS", [X86_DF] = "#DF",
	};

	switch (o->status) {
	case OUT_OK:
		return "retired";
	case OUT_TIMEOUT:
		return "never ended";
	case OUT_DIED:
		return "process died";
	case OUT_REFUSED:
		return "not possible";
	default:
		break;
	}
	if (o->vector < 32 && vec[o->vector])
		snprintf(buf, size, "%s err %x cr2 %llx", vec[o->vector], o->err,
		         (unsigned long long)o->cr2);
	else
		snprintf(buf, size, "vector %u err %x", o->vector, o->err);
	return buf;
}

static void print_u64(FILE *out, const char *name, u64 in, u64 a, u64 b, u64 mask)
{
	bool diff = (a ^ b) & mask;

	if (!diff && in == a)
		return;
	fprintf(out, "  %c %-8s %016llx -> %016llx", diff ? '*' : ' ', name, (unsigned long long)in,
	        (unsigned long long)a);
	if (diff)
		fprintf(out, " | %016llx", (unsigned long long)b);
	fputc('\n', out);
}

static void print_bytes(FILE *out, const u8 *p, unsigned n)
{
	while (n--)
		fprintf(out, "%02x", p[n]);
}

/* A register of bytes, most significant first. */
static void print_vec(FILE *out, const char *name, int i, const u8 *in, const u8 *a, const u8 *b,
                      unsigned n)
{
	bool diff = memcmp(a, b, n);

	if (!diff && !memcmp(in, a, n))
		return;
	fprintf(out, "  %c %s%-5d ", diff ? '*' : ' ', name, i);
	print_bytes(out, in, n);
	fprintf(out, " -> ");
	print_bytes(out, a, n);
	if (diff) {
		fprintf(out, " | ");
		print_bytes(out, b, n);
	}
	fputc('\n', out);
}

static void print_mem(FILE *out, const struct tcase *t, const u8 *images,
                      const struct outcome *want, const struct outcome *got,
                      const struct dont_care *d)
{
	static _Thread_local u8 in[DATA_SIZE];
	u32 shown = 0;

	case_memory(t, images, in);
	for (u32 at = 0; at < DATA_RW_SIZE && shown < 12; at += 16) {
		bool diff = memcmp(want->mem + at, got->mem + at, 16);

		if (!diff && !memcmp(in + at, want->mem + at, 16))
			continue;
		if (diff) {
			diff = false;
			for (u32 i = at; i < at + 16; i++)
				diff |= want->mem[i] != got->mem[i] && !mem_ignored(d, i);
		}
		shown++;
		fprintf(out, "  %c %08x ", diff ? '*' : ' ', DATA_BASE + at);
		for (int k = 0; k < (diff ? 3 : 2); k++) {
			const u8 *p = k == 0 ? in : k == 1 ? want->mem : got->mem;

			fprintf(out, "%s", k == 0 ? " " : k == 1 ? " -> " : " | ");
			for (int i = 0; i < 16; i++)
				fprintf(out, "%02x", p[at + i]);
		}
		fputc('\n', out);
	}
}

void outcome_print(FILE *out, const struct tcase *t, const u8 *images, const struct outcome *want,
                   const struct outcome *got, const struct dont_care *d, const char *subject)
{
	const struct cpu_state *in = &t->st, *a = &want->st, *b = &got->st;
	char x[80], y[80];

	fprintf(out, "  state before:\n");
	for (int i = 0; i < 16; i++)
		fprintf(out, "%s%-3s %016llx%s", i % 4 ? "  " : "    ", gpr_name[i],
		        (unsigned long long)in->gpr[i], i % 4 == 3 ? "\n" : "");
	fprintf(out,
	        "    rip %016llx  flags %llx  fs %llx  gs %llx  mxcsr %x  fcw %x  fsw %x  ftw %x\n",
	        (unsigned long long)in->rip, (unsigned long long)in->rflags,
	        (unsigned long long)in->fs_base, (unsigned long long)in->gs_base,
	        get_le32(in->xsave + XS_MXCSR), get_le16(in->xsave + XS_FCW),
	        get_le16(in->xsave + XS_FSW), in->xsave[XS_FTW]);
	for (u32 i = 0; i < t->nr_patches; i++) {
		fprintf(out, "    memory %08x:", DATA_BASE + t->patch[i].offset);
		for (u32 k = 0; k < t->patch[i].len; k++)
			fprintf(out, "%s%02x", k % 8 ? "" : " ", t->patch[i].bytes[k]);
		fputc('\n', out);
	}
	fprintf(out, "  what changed (before -> host | %s where it differs, marked *):\n", subject);
	status_text(want, x, sizeof(x));
	fprintf(out, "  %c outcome  %s",
	        want->status != got->status || want->vector != got->vector ||
	                        want->err != got->err || want->cr2 != got->cr2
	                ? '*'
	                : ' ',
	        status_text(want, x, sizeof(x)));
	if (want->status != got->status || want->vector != got->vector || want->err != got->err ||
	    want->cr2 != got->cr2)
		fprintf(out, " | %s", status_text(got, y, sizeof(y)));
	fputc('\n', out);
	for (int i = 0; i < 16; i++)
		print_u64(out, gpr_name[i], in->gpr[i], a->gpr[i], b->gpr[i], gpr_mask(d, i));
	print_u64(out, "rip", in->rip, a->rip, b->rip, ~0ull);
	print_u64(out, "rflags", in->rflags, a->rflags, b->rflags, ~d->rflags);
	print_u64(out, "fs_base", in->fs_base, a->fs_base, b->fs_base, ~0ull);
	print_u64(out, "gs_base", in->gs_base, a->gs_base, b->gs_base, ~0ull);
	for (int i = 0; i < 6; i++)
		print_u64(out, sel_name[i], in->sel[i], a->sel[i], b->sel[i], 0xffff);
	print_u64(out, "fcw", get_le16(in->xsave + XS_FCW), get_le16(a->xsave + XS_FCW),
	          get_le16(b->xsave + XS_FCW), 0xffff);
	print_u64(out, "fsw", get_le16(in->xsave + XS_FSW), get_le16(a->xsave + XS_FSW),
	          get_le16(b->xsave + XS_FSW), 0xffff);
	print_u64(out, "ftw", in->xsave[XS_FTW], a->xsave[XS_FTW], b->xsave[XS_FTW], 0xff);
	if (!d->fpu_pointers) {
		print_u64(out, "fop", get_le16(in->xsave + XS_FOP), get_le16(a->xsave + XS_FOP),
		          get_le16(b->xsave + XS_FOP), 0xffff);
		print_u64(out, "fip", get_le64(in->xsave + XS_FIP), get_le64(a->xsave + XS_FIP),
		          get_le64(b->xsave + XS_FIP), ~0ull);
		print_u64(out, "fdp", get_le64(in->xsave + XS_FDP), get_le64(a->xsave + XS_FDP),
		          get_le64(b->xsave + XS_FDP), ~0ull);
	}
	for (int i = 0; i < 8; i++)
		print_vec(out, "st", i, in->xsave + XS_ST(i), a->xsave + XS_ST(i),
		          b->xsave + XS_ST(i), 10);
	print_u64(out, "mxcsr", get_le32(in->xsave + XS_MXCSR), get_le32(a->xsave + XS_MXCSR),
	          get_le32(b->xsave + XS_MXCSR), 0xffffffff);
	for (int i = 0; i < 16; i++) {
		print_vec(out, "xmm", i, in->xsave + XS_XMM(i), a->xsave + XS_XMM(i),
		          b->xsave + XS_XMM(i), 16);
		print_vec(out, "ymmh", i, in->xsave + XS_YMMHI(i), a->xsave + XS_YMMHI(i),
		          b->xsave + XS_YMMHI(i), 16);
	}
	print_mem(out, t, images, want, got, d);
}

void code_print(FILE *out, const struct gen *g, const struct tcase *t)
{
	ZydisFormatter fmt;
	u32 at = 0;

	ZydisFormatterInit(&fmt, ZYDIS_FORMATTER_STYLE_INTEL);
	while (at < t->code_len) {
		ZydisDecodedInstruction insn;
		ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
		char text[128];
		u32 len = 1;

		if (ZYAN_SUCCESS(ZydisDecoderDecodeFull(&g->forms.decoder, t->code + at,
		                                        t->code_len - at, &insn, ops))) {
			len = insn.length;
			ZydisFormatterFormatInstruction(&fmt, &insn, ops,
			                                insn.operand_count_visible, text,
			                                sizeof(text), t->st.rip + at, NULL);
		} else {
			len = t->code_len - at;
			snprintf(text, sizeof(text), "(cut off by the end of the page)");
		}
		fprintf(out, "  %08llx ", (unsigned long long)(t->st.rip + at));
		for (u32 i = 0; i < len; i++)
			fprintf(out, " %02x", t->code[at + i]);
		fprintf(out, "   %s\n", text);
		at += len;
	}
}
