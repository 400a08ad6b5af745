// SPDX-License-Identifier: MIT
/* Registers by the names that gdb's own target features have (org.gnu.gdb.i386.core, .sse, .avx,
 * .segments), then the system registers under a feature of ours. Vector and x87 state is in
 * c->xsave while the vCPU is parked (SDM 1, 13.4: standard format). */
#include "control/gdb_regs.h"

#include <stdio.h>
#include <string.h>

#include "cpu/x86/mmu.h"

enum kind { GPR, RIP, EFLAGS, SEG, ST, FCTRL, XMM, MXCSR, YMMH, BASE, CR, EFER };

struct reg {
	const char *name, *type, *feature;
	enum kind kind;
	u8 index, size;
};

#define CORE "org.gnu.gdb.i386.core"
#define SSE  "org.gnu.gdb.i386.sse"
#define AVX  "org.gnu.gdb.i386.avx"
#define SEGM "org.gnu.gdb.i386.segments"
#define SYSR "org.ringer.system"
#define G(n, i)                                                                                    \
	{                                                                                          \
		n, "int64", CORE, GPR, i, 8                                                        \
	}
#define S(n, i)                                                                                    \
	{                                                                                          \
		n, "int32", CORE, SEG, i, 4                                                        \
	}
#define F(n, i)                                                                                    \
	{                                                                                          \
		n, "int", CORE, FCTRL, i, 4                                                        \
	}

static const struct reg head[] = {
	G("rax", RAX),
	G("rbx", RBX),
	G("rcx", RCX),
	G("rdx", RDX),
	G("rsi", RSI),
	G("rdi", RDI),
	{"rbp", "data_ptr", CORE, GPR, RBP, 8},
	{"rsp", "data_ptr", CORE, GPR, RSP, 8},
	G("r8", R8),
	G("r9", R9),
	G("r10", R10),
	G("r11", R11),
	G("r12", R12),
	G("r13", R13),
	G("r14", R14),
	G("r15", R15),
	{"rip", "code_ptr", CORE, RIP, 0, 8},
	{"eflags", "int32", CORE, EFLAGS, 0, 4},
	S("cs", CS),
	S("ss", SS),
	S("ds", DS),
	S("es", ES),
	S("fs", FS),
	S("gs", GS),
};

static const struct reg fctrl[] = {F("fctrl", 0), F("fstat", 1), F("ftag", 2),  F("fiseg", 3),
                                   F("fioff", 4), F("foseg", 5), F("fooff", 6), F("fop", 7)};

static const struct reg tail[] = {
	{"fs_base", "int64", SEGM, BASE, FS, 8},
	{"gs_base", "int64", SEGM, BASE, GS, 8},
	{"k_gs_base", "int64", SYSR, BASE, NR_SEG, 8},
	{"cr0", "int64", SYSR, CR, 0, 8},
	{"cr2", "int64", SYSR, CR, 2, 8},
	{"cr3", "int64", SYSR, CR, 3, 8},
	{"cr4", "int64", SYSR, CR, 4, 8},
	{"cr8", "int64", SYSR, CR, 8, 8},
	{"efer", "int64", SYSR, EFER, 0, 8},
};

#define FIRST_ST    ((unsigned)ARRAY_SIZE(head))
#define FIRST_FCTRL (FIRST_ST + 8)
#define FIRST_XMM   (FIRST_FCTRL + 8)
#define REG_MXCSR   (FIRST_XMM + 16)
#define FIRST_YMMH  (REG_MXCSR + 1)
#define FIRST_TAIL  (FIRST_YMMH + 16)
#define NR_REGS     (FIRST_TAIL + (unsigned)ARRAY_SIZE(tail))

/* Register n's row; the names of numbered ones are made in `name`. */
static bool reg_at(unsigned n, struct reg *r, char name[16])
{
	if (n < FIRST_ST) {
		*r = head[n];
	} else if (n < FIRST_FCTRL) {
		*r = (struct reg){name, "i387_ext", CORE, ST, (u8)(n - FIRST_ST), 10};
		snprintf(name, 16, "st%u", n - FIRST_ST);
	} else if (n < FIRST_XMM) {
		*r = fctrl[n - FIRST_FCTRL];
	} else if (n < REG_MXCSR) {
		*r = (struct reg){name, "vec128", SSE, XMM, (u8)(n - FIRST_XMM), 16};
		snprintf(name, 16, "xmm%u", n - FIRST_XMM);
	} else if (n == REG_MXCSR) {
		*r = (struct reg){"mxcsr", "int", SSE, MXCSR, 0, 4};
	} else if (n < FIRST_TAIL) {
		*r = (struct reg){name, "uint128", AVX, YMMH, (u8)(n - FIRST_YMMH), 16};
		snprintf(name, 16, "ymm%uh", n - FIRST_YMMH);
	} else if (n < NR_REGS) {
		*r = tail[n - FIRST_TAIL];
	} else {
		return false;
	}
	return true;
}

unsigned gdb_nr_regs(void)
{
	return NR_REGS;
}

unsigned gdb_reg_size(unsigned n)
{
	struct reg r;
	char name[16];

	return reg_at(n, &r, name) ? r.size : 0;
}

/* ---- the XSAVE area ---- */

#define XSAVE_BV   512
#define XSAVE_YMMH 576

static u64 xsave_bv(const struct x86_cpu *c)
{
	return get_le64(c->xsave + XSAVE_BV);
}

/* A component that is marked as initial has stale bytes: write its initial values first. */
static void xsave_own(struct x86_cpu *c, u64 component)
{
	if (xsave_bv(c) & component)
		return;
	if (component == XCR0_X87) {
		memset(c->xsave, 0, 24);
		memset(c->xsave + 32, 0, 128);
		put_le16(c->xsave, 0x37f);
	} else if (component == XCR0_SSE) {
		memset(c->xsave + 160, 0, 256);
	} else {
		memset(c->xsave + XSAVE_YMMH, 0, 256);
	}
	put_le64(c->xsave + XSAVE_BV, xsave_bv(c) | component);
}

/* FXSAVE keeps one tag bit a register; gdb wants two (3: empty, 0: something else). */
static u16 ftag_full(u8 abridged)
{
	u16 full = 0;

	for (unsigned i = 0; i < 8; i++)
		if (!(abridged >> i & 1))
			full |= (u16)(3u << (2 * i));
	return full;
}

static u32 fctrl_get(const struct x86_cpu *c, unsigned i)
{
	const u8 *x = c->xsave;
	bool live = xsave_bv(c) & XCR0_X87;

	switch (i) {
	case 0:
		return live ? get_le16(x) : 0x37f;
	case 1:
		return live ? get_le16(x + 2) : 0;
	case 2:
		return ftag_full(live ? x[4] : 0);
	case 4:
		return (u32)c->fpu_ip;
	case 3:
		return (u32)(c->fpu_ip >> 32);
	case 6:
		return (u32)c->fpu_dp;
	case 5:
		return (u32)(c->fpu_dp >> 32);
	default:
		return c->fpu_op;
	}
}

static bool fctrl_set(struct x86_cpu *c, unsigned i, u32 v)
{
	u8 tag = 0;

	xsave_own(c, XCR0_X87);
	switch (i) {
	case 0:
		put_le16(c->xsave, (u16)v);
		return true;
	case 1:
		put_le16(c->xsave + 2, (u16)v);
		return true;
	case 2:
		for (unsigned k = 0; k < 8; k++)
			if ((v >> (2 * k) & 3) != 3)
				tag |= (u8)(1u << k);
		c->xsave[4] = tag;
		return true;
	default:
		return v == fctrl_get(c, i);
	}
}

/* ---- one register ---- */

static u64 *base_of(struct x86_cpu *c, unsigned i)
{
	return i == NR_SEG ? &c->kernel_gs_base : &c->seg[i].base;
}

static u64 cr_get(struct x86_cpu *c, unsigned i)
{
	struct vcpu *v = c->vcpu;

	switch (i) {
	case 0:
		return c->cr0;
	case 2:
		return c->cr2;
	case 3:
		return c->cr3;
	case 4:
		return c->cr4;
	default:
		return v->irqchip ? v->irqchip->get_cr8(v->irqchip_dev) : 0;
	}
}

bool gdb_reg_get(struct x86_cpu *c, unsigned n, u8 *buf)
{
	static const u8 zero[16];
	struct reg r;
	char name[16];
	u64 bv = xsave_bv(c);

	if (!reg_at(n, &r, name))
		return false;
	memset(buf, 0, 16);
	switch (r.kind) {
	case GPR:
		put_le64(buf, c->gpr[r.index]);
		break;
	case RIP:
		put_le64(buf, c->rip);
		break;
	case EFLAGS:
		put_le32(buf, (u32)x86_rflags(c));
		break;
	case SEG:
		put_le32(buf, c->seg[r.index].sel);
		break;
	case ST:
		memcpy(buf, bv & XCR0_X87 ? c->xsave + 32 + 16 * r.index : zero, 10);
		break;
	case FCTRL:
		put_le32(buf, fctrl_get(c, r.index));
		break;
	case XMM:
		memcpy(buf, bv & XCR0_SSE ? c->xsave + 160 + 16 * r.index : zero, 16);
		break;
	case MXCSR:
		put_le32(buf, get_le32(c->xsave + 24));
		break;
	case YMMH:
		memcpy(buf, bv & XCR0_AVX ? c->xsave + XSAVE_YMMH + 16 * r.index : zero, 16);
		break;
	case BASE:
		put_le64(buf, *base_of(c, r.index));
		break;
	case CR:
		put_le64(buf, cr_get(c, r.index));
		break;
	case EFER:
		put_le64(buf, c->efer);
		break;
	}
	return true;
}

bool gdb_reg_set(struct x86_cpu *c, unsigned n, const u8 *buf)
{
	struct reg r;
	char name[16];
	u8 now[16];

	if (!reg_at(n, &r, name))
		return false;
	switch (r.kind) {
	case GPR:
		c->gpr[r.index] = get_le64(buf);
		return true;
	case RIP:
		c->rip = get_le64(buf);
		return true;
	case EFLAGS:
		x86_set_rflags(c, (x86_rflags(c) & ~0xfdffdull) | (get_le32(buf) & 0x5dffdu));
		return true;
	case ST:
		xsave_own(c, XCR0_X87);
		memcpy(c->xsave + 32 + 16 * r.index, buf, 10);
		return true;
	case FCTRL:
		return fctrl_set(c, r.index, get_le32(buf));
	case XMM:
		xsave_own(c, XCR0_SSE);
		memcpy(c->xsave + 160 + 16 * r.index, buf, 16);
		return true;
	case MXCSR:
		if (get_le32(buf) & ~0xffffu)
			return false;
		put_le32(c->xsave + 24, get_le32(buf));
		return true;
	case YMMH:
		xsave_own(c, XCR0_AVX);
		memcpy(c->xsave + XSAVE_YMMH + 16 * r.index, buf, 16);
		return true;
	case BASE:
		if (!is_canonical(get_le64(buf)))
			return false;
		*base_of(c, r.index) = get_le64(buf);
		x86_update_mode(c);
		return true;
	case CR:
		if (r.index == 2) {
			c->cr2 = get_le64(buf);
			return true;
		}
		break;
	case SEG:
	case EFER:
		break;
	}
	/* The rest has side effects: accepted only when nothing would change ("G" writes all). */
	return gdb_reg_get(c, n, now) && !memcmp(now, buf, r.size);
}

/* ---- the description ---- */

static bool put(char *buf, size_t size, size_t *len, const char *text)
{
	size_t n = strlen(text);

	if (*len + n >= size)
		return false;
	memcpy(buf + *len, text, n + 1);
	*len += n;
	return true;
}

size_t gdb_target_xml(char *buf, size_t size)
{
	const char *feature = NULL;
	size_t len = 0;
	bool ok = put(buf, size, &len,
	              "<?xml version=\"1.0\"?><!DOCTYPE target SYSTEM \"gdb-target.dtd\"><target>"
	              "<architecture>i386:x86-64</architecture>");

	for (unsigned n = 0; n < NR_REGS && ok; n++) {
		struct reg r;
		char name[16], line[128];

		reg_at(n, &r, name);
		if (!feature || strcmp(feature, r.feature)) {
			if (feature)
				ok = put(buf, size, &len, "</feature>");
			snprintf(line, sizeof(line), "<feature name=\"%s\">", r.feature);
			ok = ok && put(buf, size, &len, line);
			if (!strcmp(r.feature, SSE))
				ok = ok &&
				     put(buf, size, &len,
				         "<vector id=\"v4f\" type=\"ieee_single\" count=\"4\"/>"
				         "<vector id=\"v2d\" type=\"ieee_double\" count=\"2\"/>"
				         "<vector id=\"v16i8\" type=\"int8\" count=\"16\"/>"
				         "<vector id=\"v8i16\" type=\"int16\" count=\"8\"/>"
				         "<vector id=\"v4i32\" type=\"int32\" count=\"4\"/>"
				         "<vector id=\"v2i64\" type=\"int64\" count=\"2\"/>"
				         "<union id=\"vec128\"><field name=\"v4_float\" "
				         "type=\"v4f\"/>"
				         "<field name=\"v2_double\" type=\"v2d\"/>"
				         "<field name=\"v16_int8\" type=\"v16i8\"/>"
				         "<field name=\"v8_int16\" type=\"v8i16\"/>"
				         "<field name=\"v4_int32\" type=\"v4i32\"/>"
				         "<field name=\"v2_int64\" type=\"v2i64\"/>"
				         "<field name=\"uint128\" type=\"uint128\"/></union>");
			feature = r.feature;
		}
		snprintf(line, sizeof(line),
		         "<reg name=\"%s\" bitsize=\"%u\" type=\"%s\" regnum=\"%u\"/>", r.name,
		         r.size * 8u, r.type, n);
		ok = ok && put(buf, size, &len, line);
	}
	ok = ok && put(buf, size, &len, "</feature></target>");
	return ok ? len : 0;
}
