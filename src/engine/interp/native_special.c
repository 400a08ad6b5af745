// SPDX-License-Identifier: MIT
/* Instructions that one redirected operand doesn't do: state saving and restoring (no address of
 * the host's may show in it), gathers (as many addresses as elements), masked moves (elements
 * that are masked out must not fault).
 *
 * Most work on c->xsave, XSAVE's standard image of the guest's state: x86_fpu_sync() brings it up
 * to date for reading; x86_fpu_put() takes the state out of the registers, so that what is changed
 * in the image is loaded at the next use. The image's bytes are right for components in their
 * initial configuration too.
 *
 * Order: all that can raise comes before the first change, but for gathers, which make progress
 * element by element (SDM 2C VPGATHERDD). */
#include "cpu/x86/inputs.h"
#include "engine/interp/native_gen.h"

/* Offsets in XSAVE's and FXSAVE's image (SDM 1 10.5.1, 13.4). */
enum {
	XS_FCW = 0,
	XS_FSW = 2,
	XS_FTW = 4,
	XS_FOP = 6,
	XS_FIP = 8,
	XS_FDP = 16,
	XS_MXCSR = 24,
	XS_MXCSR_MASK = 28,
	XS_ST = 32,
	XS_XMM = 160,
	XS_LEGACY_END = 416,
	XS_BV = 512,
	XS_COMP_BV = 520,
	XS_HEADER_END = 576,
	XS_YMMH = 576,
};

#define XCOMP_COMPACT (1ull << 63)
#define FSW_ES        0x80
#define MXCSR_INIT    0x1f80u

static void copy(void *dst, const void *src, size_t len)
{
#ifdef __clang_analyzer__ /* it does not look into assembly */
	__builtin_memcpy(dst, src, len);
#else
	__asm__ volatile("rep movsb" : "+D"(dst), "+S"(src), "+c"(len)::"memory");
#endif
}

static void zero(void *dst, size_t len)
{
	__asm__ volatile("rep stosb" : "+D"(dst), "+c"(len) : "a"(0) : "memory");
}

/* mmu_read and mmu_write for long pieces: straight from and to RAM where it is in one page. */
static void guest_read(struct x86_cpu *c, gva_t addr, void *buf, unsigned len)
{
	const void *p = mmu_host(c, addr, len, false);

	if (p)
		copy(buf, p, len);
	else
		mmu_read(c, addr, buf, len);
}

static void guest_write(struct x86_cpu *c, gva_t addr, const void *buf, unsigned len)
{
	void *p = mmu_host(c, addr, len, true);

	if (p) {
		copy(p, buf, len);
		mmu_wrote(c, addr, len);
	} else {
		mmu_write(c, addr, buf, len);
	}
}

static bool code64(const struct native_insn *n)
{
	return n->flags & NATIVE_CODE64;
}

/* Vector registers that exist in this mode. */
static unsigned nr_vec(const struct native_insn *n)
{
	return code64(n) ? 16 : 8;
}

static u8 *xmm(struct x86_cpu *c, unsigned i)
{
	return c->xsave + XS_XMM + i * 16;
}

static u8 *ymmh(struct x86_cpu *c, unsigned i)
{
	return c->xsave + XS_YMMH + i * 16;
}

/* ---- x87 environment (SDM 1 8.1.10) ---- */

/* c->xsave up to date, pointers settled. */
static void sync(struct x86_cpu *c)
{
	x86_fpu_sync(c);
	x86_fpu_pointers(c);
}

/* Is an unmasked exception pending? After sync(). */
static bool pending(const struct x86_cpu *c)
{
	return get_le16(c->xsave + XS_FSW) & FSW_ES;
}

/* Pointers come from an image: what the latest instruction left behind counts no more. */
static void set_pointers(struct x86_cpu *c, u64 ip, u64 dp, u16 op)
{
	c->fpu_ip = ip;
	c->fpu_dp = c->fpu_last_dp = dp;
	c->fpu_op = c->fpu_last_op = op & 0x7ff;
}

/* One instruction on the guest's state; none of these waits. Sanitizers' run-times use vector
 * registers, so nothing of theirs may come between. */
#define NO_SANITIZE __attribute__((no_sanitize("address", "thread", "undefined")))
#define ON_STATE(name, text, ...)                                                                  \
	NO_SANITIZE static void name(struct x86_cpu *c, struct fpu_env *e)                         \
	{                                                                                          \
		x86_fpu_get(c);                                                                    \
		__asm__ volatile(text : "+m"(*e)::"memory", "eax");                                \
		if (NATIVE_EAGER)                                                                  \
			x86_fpu_put(c);                                                            \
	}

/* The 28-byte protected-mode format, as the host's FNSTENV makes it. */
struct fpu_env {
	u32 fcw, fsw, ftw, fip, fcs_fop, fdp, fds;
	u8 st[80];
};

ON_STATE(run_fninit, "fninit")
ON_STATE(run_fnclex, "fnclex")
ON_STATE(run_fnstenv, "fnstenv %0")
ON_STATE(run_fnsave, "fnsave %0")
ON_STATE(run_fldenv, "fldenv %0")
ON_STATE(run_frstor, "frstor %0")
ON_STATE(run_mmx, "movd %%mm0, %%eax\n\tmovl %%eax, %0")

static void special_fninit(struct x86_cpu *c, const struct native_insn *n, gva_t addr)
{
	struct fpu_env unused;

	run_fninit(c, &unused);
	set_pointers(c, 0, 0, 0);
}

static void special_fnclex(struct x86_cpu *c, const struct native_insn *n, gva_t addr)
{
	struct fpu_env unused;

	sync(c);
	run_fnclex(c, &unused);
}

static bool real_format(const struct x86_cpu *c)
{
	return (c->mode & (M_PE | M_VM)) != M_PE;
}

/* #AC, where it is on (CPL 3): these are sequences of words of the operand size. */
static void env_alignment(struct x86_cpu *c, const struct native_insn *n, gva_t addr)
{
	if (c->tlb == c->tlbs[TLB_USER_AC] && (addr & (n->flags & NATIVE_OPSIZE16 ? 1 : 3)))
		x86_raise_err(c, X86_AC, 0);
}

static unsigned env_size(const struct native_insn *n)
{
	return n->flags & NATIVE_OPSIZE16 ? 14 : 28;
}

/* The guest's environment in the format of its mode and operand size. FCS and FDS are reported as
 * deprecated: zero (SDM 1 8.1.8). */
static void env_pack(const struct x86_cpu *c, const struct native_insn *n, const struct fpu_env *e,
                     u8 *out)
{
	u32 ip = (u32)c->fpu_ip, dp = (u32)c->fpu_dp;
	bool real = real_format(c);

	if (n->flags & NATIVE_OPSIZE16) {
		put_le16(out, (u16)e->fcw);
		put_le16(out + 2, (u16)e->fsw);
		put_le16(out + 4, (u16)e->ftw);
		put_le16(out + 6, (u16)ip);
		put_le16(out + 8, real ? (u16)((ip >> 16 & 15) << 12 | c->fpu_op) : 0);
		put_le16(out + 10, (u16)dp);
		put_le16(out + 12, real ? (u16)((dp >> 16 & 15) << 12) : 0);
		return;
	}
	put_le32(out, e->fcw | 0xffff0000);
	put_le32(out + 4, e->fsw | 0xffff0000);
	put_le32(out + 8, e->ftw | 0xffff0000);
	if (real) {
		put_le32(out + 12, (ip & 0xffff) | 0xffff0000);
		put_le32(out + 16, ip >> 16 << 12 | c->fpu_op);
		put_le32(out + 20, (dp & 0xffff) | 0xffff0000);
		put_le32(out + 24, dp >> 16 << 12);
	} else {
		put_le32(out + 12, ip);
		put_le32(out + 16, (u32)c->fpu_op << 16);
		put_le32(out + 20, dp);
		put_le32(out + 24, 0xffff0000);
	}
}

static void env_unpack(struct x86_cpu *c, const struct native_insn *n, const u8 *in,
                       struct fpu_env *e)
{
	bool real = real_format(c);

	zero(e, offsetof(struct fpu_env, st));
	if (n->flags & NATIVE_OPSIZE16) {
		u16 hi_ip = get_le16(in + 8), hi_dp = get_le16(in + 12);

		e->fcw = get_le16(in);
		e->fsw = get_le16(in + 2);
		e->ftw = get_le16(in + 4);
		set_pointers(c, get_le16(in + 6) | (real ? (u64)(hi_ip >> 12) << 16 : 0),
		             get_le16(in + 10) | (real ? (u64)(hi_dp >> 12) << 16 : 0),
		             real ? hi_ip : c->fpu_op);
		return;
	}
	e->fcw = get_le16(in);
	e->fsw = get_le16(in + 4);
	e->ftw = get_le16(in + 8);
	if (real) {
		u32 hi_ip = get_le32(in + 16), hi_dp = get_le32(in + 24);

		set_pointers(c, get_le16(in + 12) | (hi_ip >> 12 & 0xffff) << 16,
		             get_le16(in + 20) | (hi_dp >> 12 & 0xffff) << 16, (u16)hi_ip);
	} else {
		set_pointers(c, get_le32(in + 12), get_le32(in + 20), get_le16(in + 18));
	}
}

static void special_fnstenv(struct x86_cpu *c, const struct native_insn *n, gva_t addr)
{
	struct fpu_env e;
	u8 out[28];

	env_alignment(c, n, addr);
	mmu_probe_write(c, addr, n->size);
	sync(c);
	run_fnstenv(c, &e);
	env_pack(c, n, &e, out);
	guest_write(c, addr, out, n->size);
}

static void special_fnsave(struct x86_cpu *c, const struct native_insn *n, gva_t addr)
{
	unsigned len = env_size(n);
	struct fpu_env e;
	u8 out[28 + 80];

	env_alignment(c, n, addr);
	mmu_probe_write(c, addr, n->size);
	sync(c);
	run_fnsave(c, &e);
	env_pack(c, n, &e, out);
	copy(out + len, e.st, sizeof(e.st));
	set_pointers(c, 0, 0, 0);
	guest_write(c, addr, out, n->size);
}

/* FLDENV and FRSTOR wait: an exception pending from before comes first. */
static void special_fldenv(struct x86_cpu *c, const struct native_insn *n, gva_t addr)
{
	struct fpu_env e;
	u8 in[28];

	sync(c);
	if (pending(c))
		x86_raise(c, X86_MF);
	env_alignment(c, n, addr);
	guest_read(c, addr, in, n->size);
	env_unpack(c, n, in, &e);
	run_fldenv(c, &e);
}

static void special_frstor(struct x86_cpu *c, const struct native_insn *n, gva_t addr)
{
	unsigned len = env_size(n);
	struct fpu_env e;
	u8 in[28 + 80];

	sync(c);
	if (pending(c))
		x86_raise(c, X86_MF);
	env_alignment(c, n, addr);
	guest_read(c, addr, in, n->size);
	env_unpack(c, n, in, &e);
	copy(e.st, in + len, sizeof(e.st));
	run_frstor(c, &e);
}

/* ---- the FXSAVE area ---- */

/* The 32 bytes in front, pointers in the form that REX.W asks for. c->xsave is up to date. */
static void put_header(struct x86_cpu *c, const struct native_insn *n, u8 *out)
{
	copy(out, c->xsave, 32);
	if (!(n->flags & NATIVE_REX_W)) {
		put_le64(out + XS_FIP, (u32)c->fpu_ip);
		put_le64(out + XS_FDP, (u32)c->fpu_dp);
	}
	out[XS_FTW + 1] = 0;
}

/* x87 from an image: into c->xsave, which holds the state. */
static void get_x87(struct x86_cpu *c, const struct native_insn *n, const u8 *in)
{
	bool w = n->flags & NATIVE_REX_W;

	copy(c->xsave, in, XS_MXCSR);
	c->xsave[XS_FTW + 1] = 0;
	for (unsigned i = 0; i < 8; i++) {
		copy(c->xsave + XS_ST + i * 16, in + XS_ST + i * 16, 10);
		zero(c->xsave + XS_ST + i * 16 + 10, 6);
	}
	set_pointers(c, w ? get_le64(in + XS_FIP) : get_le32(in + XS_FIP),
	             w ? get_le64(in + XS_FDP) : get_le32(in + XS_FDP), get_le16(in + XS_FOP));
	x86_fpu_pointers(c);
}

/* What came from the guest goes through the registers: they have their own idea of reserved bits
 * and of FSW.ES. */
static void load(struct x86_cpu *c)
{
	x86_fpu_get(c);
	if (NATIVE_EAGER)
		x86_fpu_put(c);
}

static bool mxcsr_bad(const struct x86_cpu *c, u32 mxcsr)
{
	return mxcsr & ~c->fpu_mxcsr_mask;
}

static void special_fxsave(struct x86_cpu *c, const struct native_insn *n, gva_t addr)
{
	u8 head[32];

	if (addr & 15)
		x86_gp(c, 0);
	mmu_probe_write(c, addr + 511, 1);
	mmu_probe_write(c, addr, 511);
	sync(c);
	put_header(c, n, head);
	guest_write(c, addr, head, 32);
	guest_write(c, addr + XS_ST, c->xsave + XS_ST, 128 + nr_vec(n) * 16);
}

static void special_fxrstor(struct x86_cpu *c, const struct native_insn *n, gva_t addr)
{
	u8 in[XS_LEGACY_END];
	u64 bv;

	if (addr & 15)
		x86_gp(c, 0);
	x86_fpu_put(c);
	mmu_read(c, addr + 511, in, 1); /* the whole area must be there */
	guest_read(c, addr, in, sizeof(in));
	if (mxcsr_bad(c, get_le32(in + XS_MXCSR)))
		x86_gp(c, 0);
	get_x87(c, n, in);
	put_le32(c->xsave + XS_MXCSR, get_le32(in + XS_MXCSR));
	copy(c->xsave + XS_XMM, in + XS_XMM, nr_vec(n) * 16);
	bv = get_le64(c->xsave + XS_BV);
	put_le64(c->xsave + XS_BV, bv | XCR0_X87 | XCR0_SSE);
	load(c);
}

/* ---- the XSAVE family (SDM 1 13.7 to 13.10) ---- */

static u64 requested(const struct x86_cpu *c)
{
	return ((u64)(u32)c->gpr[RDX] << 32 | (u32)c->gpr[RAX]) & c->xcr0;
}

struct piece {
	u16 off, len;
	const void *from;
};

enum xsave_kind { XSAVE_PLAIN, XSAVE_OPT, XSAVE_COMPACT };

static void xsave(struct x86_cpu *c, const struct native_insn *n, gva_t addr, enum xsave_kind kind)
{
	u64 rfbm = requested(c), in_use, save, head[2];
	struct piece piece[6];
	unsigned nr = 0;
	u8 legacy[32];
	bool mxcsr;

	if (addr & 63)
		x86_gp(c, 0);
	/* The hardware begins with the last byte. */
	mmu_probe_write(c, addr + (rfbm & XCR0_AVX ? XS_YMMH + 16 * 16 : XS_HEADER_END) - 1, 1);
	sync(c);
	in_use = x86_input_value(c, X86_IN_XINUSE, get_le64(c->xsave + XS_BV));
	if (kind == XSAVE_COMPACT && get_le32(c->xsave + XS_MXCSR) != MXCSR_INIT)
		in_use |= XCR0_SSE;
	save = kind == XSAVE_PLAIN ? rfbm : rfbm & in_use;
	mxcsr = kind == XSAVE_COMPACT ? save & XCR0_SSE : rfbm & (XCR0_SSE | XCR0_AVX);
	head[0] = rfbm & in_use;
	if (kind != XSAVE_COMPACT)
		head[0] |= mmu_ld(c, addr + XS_BV, 8) & ~rfbm;
	head[1] = rfbm | XCOMP_COMPACT;
	put_header(c, n, legacy);

	if (save & XCR0_X87) {
		piece[nr++] = (struct piece){0, XS_MXCSR, legacy};
		piece[nr++] = (struct piece){XS_ST, 128, c->xsave + XS_ST};
	}
	if (mxcsr)
		piece[nr++] = (struct piece){XS_MXCSR, 8, c->xsave + XS_MXCSR};
	if (save & XCR0_SSE)
		piece[nr++] = (struct piece){XS_XMM, nr_vec(n) * 16, xmm(c, 0)};
	if (save & XCR0_AVX)
		piece[nr++] = (struct piece){XS_YMMH, nr_vec(n) * 16, ymmh(c, 0)};
	piece[nr++] = (struct piece){XS_BV, kind == XSAVE_COMPACT ? 16 : 8, head};
	/* Only what is written need be writable, and all of it before the first byte changes. */
	for (unsigned i = 0; i < nr; i++)
		mmu_probe_write(c, addr + piece[i].off, piece[i].len);
	for (unsigned i = 0; i < nr; i++)
		guest_write(c, addr + piece[i].off, piece[i].from, piece[i].len);
}

static void special_xsave(struct x86_cpu *c, const struct native_insn *n, gva_t addr)
{
	xsave(c, n, addr, XSAVE_PLAIN);
}

static void special_xsaveopt(struct x86_cpu *c, const struct native_insn *n, gva_t addr)
{
	xsave(c, n, addr, XSAVE_OPT);
}

static void special_xsavec(struct x86_cpu *c, const struct native_insn *n, gva_t addr)
{
	xsave(c, n, addr, XSAVE_COMPACT);
}

/* Header of an image to be restored: true if it is good (SDM 1 13.8). */
static bool header_ok(const struct x86_cpu *c, const u8 *head)
{
	u64 bv = get_le64(head), comp = get_le64(head + 8);
	unsigned zero_from = 8;
	u32 out[4];

	if (comp & XCOMP_COMPACT) {
		x86_cpuid_leaf(c, 13, 1, out);
		if (!(out[0] & BIT(1))) /* XSAVEC */
			return false;
		comp &= ~XCOMP_COMPACT;
		if ((comp & ~c->xcr0) || (bv & ~comp))
			return false;
		zero_from = 16;
	} else if (bv & ~c->xcr0) {
		return false;
	}
	for (unsigned i = zero_from; i < (zero_from == 8 ? 24 : 64); i++)
		if (head[i])
			return false;
	return true;
}

static void init_x87(struct x86_cpu *c)
{
	u32 mxcsr = get_le32(c->xsave + XS_MXCSR), mask = get_le32(c->xsave + XS_MXCSR_MASK);

	zero(c->xsave, XS_XMM);
	put_le16(c->xsave + XS_FCW, 0x37f);
	put_le32(c->xsave + XS_MXCSR, mxcsr);
	put_le32(c->xsave + XS_MXCSR_MASK, mask);
	set_pointers(c, 0, 0, 0);
}

static void special_xrstor(struct x86_cpu *c, const struct native_insn *n, gva_t addr)
{
	u64 rfbm = requested(c), bv, inuse;
	u8 in[XS_YMMH + 16 * 16];
	bool compact, load_mxcsr;
	unsigned nr = nr_vec(n);
	u32 mxcsr = MXCSR_INIT;

	if (addr & 63)
		x86_gp(c, 0);
	x86_fpu_put(c);
	/* In this order a missing page is noticed by the hardware. */
	if (rfbm & XCR0_AVX)
		mmu_read(c, addr + XS_YMMH + 16 * 16 - 1, in, 1);
	mmu_read(c, addr + XS_COMP_BV, in + XS_COMP_BV, 8);
	guest_read(c, addr, in, XS_HEADER_END);
	if (!header_ok(c, in + XS_BV))
		x86_gp(c, 0);
	bv = get_le64(in + XS_BV);
	compact = get_le64(in + XS_COMP_BV) & XCOMP_COMPACT;
	if (compact) { /* what the image leaves out is initialised */
		load_mxcsr = rfbm & XCR0_SSE;
		if (bv & XCR0_SSE)
			mxcsr = get_le32(in + XS_MXCSR);
	} else {
		load_mxcsr = rfbm & (XCR0_SSE | XCR0_AVX);
		mxcsr = get_le32(in + XS_MXCSR);
	}
	/* x87 is loaded before anything is said against MXCSR. */
	inuse = get_le64(c->xsave + XS_BV) | (rfbm & bv);
	if (rfbm & XCR0_X87) {
		if (bv & XCR0_X87) {
			get_x87(c, n, in);
		} else {
			init_x87(c);
			inuse &= ~XCR0_X87;
		}
	}
	put_le64(c->xsave + XS_BV, inuse);
	if (load_mxcsr && mxcsr_bad(c, mxcsr)) {
		load(c);
		x86_gp(c, 0);
	}
	if (rfbm & bv & XCR0_AVX)
		guest_read(c, addr + XS_YMMH, in + XS_YMMH, nr * 16);
	if (load_mxcsr)
		put_le32(c->xsave + XS_MXCSR, mxcsr);
	if (rfbm & XCR0_SSE) {
		if (bv & XCR0_SSE)
			copy(xmm(c, 0), in + XS_XMM, nr * 16);
		else
			zero(xmm(c, 0), nr * 16);
		if (!(bv & XCR0_SSE) && nr == 16)
			inuse &= ~XCR0_SSE;
	}
	if (rfbm & XCR0_AVX) {
		if (bv & XCR0_AVX)
			copy(ymmh(c, 0), in + XS_YMMH, nr * 16);
		else
			zero(ymmh(c, 0), nr * 16);
		if (!(bv & XCR0_AVX) && nr == 16)
			inuse &= ~XCR0_AVX;
	}
	put_le64(c->xsave + XS_BV, inuse);
	load(c);
}

/* ---- masked moves ---- */

static u64 implicit_rdi(const struct x86_cpu *c, const struct native_insn *n)
{
	return c->gpr[RDI] & size_mask(n->asize);
}

/* Bytes of `data` chosen by the top bits of `mask` to [rDI]. */
static void masked_bytes(struct x86_cpu *c, const struct native_insn *n, const u8 *data,
                         const u8 *mask, unsigned len)
{
	gva_t addr = x86_linear(c, n->seg, implicit_rdi(c, n), len, true);
	u8 buf[16];
	u32 chosen = 0;

	for (unsigned i = 0; i < len; i++) {
		buf[i] = data[i];
		chosen |= (u32)(mask[i] >> 7) << i;
	}
	if (c->tlb == c->tlbs[TLB_USER_AC] && (addr & 7))
		x86_raise_err(c, X86_AC, 0);
	/* Processors check both halves, the upper first, whatever the mask says. */
	if (len == 16)
		mmu_probe_write(c, addr + 8, 8);
	mmu_probe_write(c, addr, 8);
	for (unsigned i = 0; i < len; i++)
		if (chosen & BIT(i))
			mmu_st(c, addr + i, buf[i], 1);
}

static void special_maskmovdqu(struct x86_cpu *c, const struct native_insn *n, gva_t addr)
{
	x86_fpu_sync(c);
	masked_bytes(c, n, xmm(c, n->reg), xmm(c, n->rm), 16);
}

static void special_maskmovq(struct x86_cpu *c, const struct native_insn *n, gva_t addr)
{
	struct fpu_env unused;
	u8 data[8], mask[8];
	unsigned top;

	sync(c);
	if (pending(c))
		x86_raise(c, X86_MF);
	/* MMX registers are physical, the image is in stack order. */
	top = get_le16(c->xsave + XS_FSW) >> 11 & 7;
	copy(data, c->xsave + XS_ST + ((n->reg - top) & 7) * 16, 8);
	copy(mask, c->xsave + XS_ST + ((n->rm - top) & 7) * 16, 8);
	/* Like every MMX instruction it sets TOP to 0 and all tags to valid, even if it faults. */
	run_mmx(c, &unused);
	masked_bytes(c, n, data, mask, 8);
}

/* Elements that are masked out must not fault, so each chosen one is checked here, not by the
 * caller. */
static gva_t element(struct x86_cpu *c, const struct native_insn *n, gva_t a)
{
	if (!(c->mode & M_CS64))
		return x86_linear(c, n->seg, (u32)(a - c->segbase[n->seg]), n->elem, n->write);
	if (!is_canonical(a) || !is_canonical(a + n->elem - 1))
		x86_raise_err(c, n->seg == SS ? X86_SS : X86_GP, 0);
	return a;
}

/* VMASKMOVPS/PD, VPMASKMOVD/Q: the stub, on the operand itself when all of it is there, else on a
 * copy of the elements that count. */
static void special_vmaskmov(struct x86_cpu *c, const struct native_insn *n, gva_t addr)
{
	const struct tlb_entry *e = &c->tlb[(addr >> PAGE_SHIFT) & (TLB_SIZE - 1)];
	u8 buf[32 + 64] __attribute__((aligned(64)));
	u8 *p = buf + (addr & 63);
	unsigned nr = n->size / n->elem;
	u32 chosen = 0;
	int raised;

	if (likely((c->mode & M_CS64) && addr - (n->write ? e->w : e->r) <= PAGE_SIZE - n->size)) {
		raised = native_run(c, n, (void *)(uintptr_t)(addr + e->addend));
		if (raised)
			native_raise(c, n, raised);
		if (n->write)
			mmu_wrote(c, addr, n->size);
		return;
	}
	x86_fpu_sync(c);
	for (unsigned i = 0; i < nr; i++) {
		unsigned off = i * n->elem + n->elem - 1;
		u8 top = off < 16 ? xmm(c, n->vvvv)[off] : ymmh(c, n->vvvv)[off - 16];

		chosen |= (u32)(top >> 7) << i;
	}
	for (unsigned i = 0; i < nr; i++) {
		zero(p + i * n->elem, n->elem);
		if (!(chosen & BIT(i)))
			continue;
		if (n->write)
			mmu_probe_write(c, element(c, n, addr + i * n->elem), n->elem);
		else
			mmu_read(c, element(c, n, addr + i * n->elem), p + i * n->elem, n->elem);
	}
	raised = native_run(c, n, p);
	if (raised)
		native_raise(c, n, raised);
	for (unsigned i = 0; n->write && i < nr; i++)
		if (chosen & BIT(i))
			mmu_write(c, element(c, n, addr + i * n->elem), p + i * n->elem, n->elem);
}

/* VZEROUPPER, VZEROALL outside 64-bit code: only the registers that exist there. */
static void special_vzero(struct x86_cpu *c, const struct native_insn *n, gva_t addr)
{
	x86_fpu_put(c);
	zero(ymmh(c, 0), 8 * 16);
	if (n->flags & NATIVE_VLEN256)
		zero(xmm(c, 0), 8 * 16);
}

/* ---- gathers ---- */

/* Index register's bytes, both halves. */
static void get_ymm(struct x86_cpu *c, unsigned i, u8 *out)
{
	copy(out, xmm(c, i), 16);
	copy(out + 16, ymmh(c, i), 16);
}

static u8 *vec_byte(struct x86_cpu *c, unsigned reg, unsigned off)
{
	return off < 16 ? xmm(c, reg) + off : ymmh(c, reg) + off - 16;
}

/* n->elem: bytes of an element; n->rm: bytes of an index (the field has no other use here). */
static void special_gather(struct x86_cpu *c, const struct native_insn *n, gva_t addr)
{
	unsigned vlen = n->flags & NATIVE_VLEN256 ? 32 : 16;
	unsigned nr = vlen / MAX(n->elem, n->rm);
	u8 index[32];
	u64 base = n->base < NR_GPR ? c->gpr[n->base] : 0;

	x86_fpu_put(c);
	get_ymm(c, n->index, index);
	put_le64(c->xsave + XS_BV, get_le64(c->xsave + XS_BV) | XCR0_SSE | XCR0_AVX);
	/* First the mask is made of whole elements, whatever follows. */
	if (vlen == 16)
		zero(ymmh(c, n->vvvv), 16);
	for (unsigned i = 0; i < vlen / n->elem; i++) {
		u8 *mask = vec_byte(c, n->vvvv, i * n->elem);
		u8 fill = mask[n->elem - 1] & 0x80 ? 0xff : 0;

		for (unsigned b = 0; b < n->elem; b++)
			mask[b] = fill;
	}
	for (unsigned i = 0; i < nr; i++) {
		u8 *mask = vec_byte(c, n->vvvv, i * n->elem);
		u64 off, val;
		s64 idx;

		if (!(mask[n->elem - 1] & 0x80))
			continue;
		idx = n->rm == 8 ? (s64)get_le64(index + i * 8) : (s32)get_le32(index + i * 4);
		off = (base + (u64)idx * n->scale + (u64)(s64)n->disp) & size_mask(n->asize);
		mmu_read(c, x86_linear(c, n->seg, off, n->elem, false), &val, n->elem);
		/* Done for good, should a later one fault. */
		if (vlen == 16)
			zero(ymmh(c, n->reg), 16);
		copy(vec_byte(c, n->reg, i * n->elem), &val, n->elem);
		zero(mask, n->elem);
	}
	/* The rest of both registers is cleared. */
	zero(xmm(c, n->vvvv), 16);
	zero(ymmh(c, n->vvvv), 16);
	for (unsigned off = nr * n->elem; off < 32; off++)
		*vec_byte(c, n->reg, off) = 0;
}

/* ---- the table ---- */

static const struct special {
	u16 mnemonic;
	u16 size; /* of the memory operand at `addr`; 0: none there */
	u16 cr4_need;
	native_special_fn *fn;
	u8 elem, index;
	bool stub, read, write, em, not64;
} specials[] = {
#define S(m, ...)                                                                                  \
	{                                                                                          \
		.mnemonic = ZYDIS_MNEMONIC_##m, __VA_ARGS__                                        \
	}
	S(FNINIT, .fn = special_fninit),
	S(FNCLEX, .fn = special_fnclex),
	S(FNSTENV, .fn = special_fnstenv, .size = 28, .write = true),
	S(FNSAVE, .fn = special_fnsave, .size = 28 + 80, .write = true),
	S(FLDENV, .fn = special_fldenv, .size = 28, .read = true),
	S(FRSTOR, .fn = special_frstor, .size = 28 + 80, .read = true),
	S(FXSAVE, .fn = special_fxsave, .size = 512, .write = true, .em = true),
	S(FXSAVE64, .fn = special_fxsave, .size = 512, .write = true, .em = true),
	S(FXRSTOR, .fn = special_fxrstor, .size = 512, .read = true, .em = true),
	S(FXRSTOR64, .fn = special_fxrstor, .size = 512, .read = true, .em = true),
#define X(m, f, rw) S(m, .fn = f, .size = XS_HEADER_END, .rw = true, .cr4_need = 1)
	X(XSAVE, special_xsave, write),
	X(XSAVE64, special_xsave, write),
	X(XSAVEOPT, special_xsaveopt, write),
	X(XSAVEOPT64, special_xsaveopt, write),
	X(XSAVEC, special_xsavec, write),
	X(XSAVEC64, special_xsavec, write),
	X(XRSTOR, special_xrstor, read),
	X(XRSTOR64, special_xrstor, read),
#undef X
	S(MASKMOVQ, .fn = special_maskmovq),
	S(MASKMOVDQU, .fn = special_maskmovdqu),
	S(VMASKMOVDQU, .fn = special_maskmovdqu),
	S(VZEROUPPER, .fn = special_vzero, .not64 = true),
	S(VZEROALL, .fn = special_vzero, .not64 = true),
	S(VMASKMOVPS, .fn = special_vmaskmov, .elem = 4, .stub = true),
	S(VMASKMOVPD, .fn = special_vmaskmov, .elem = 8, .stub = true),
	S(VPMASKMOVD, .fn = special_vmaskmov, .elem = 4, .stub = true),
	S(VPMASKMOVQ, .fn = special_vmaskmov, .elem = 8, .stub = true),
	S(VGATHERDPS, .fn = special_gather, .elem = 4, .index = 4),
	S(VGATHERDPD, .fn = special_gather, .elem = 8, .index = 4),
	S(VGATHERQPS, .fn = special_gather, .elem = 4, .index = 8),
	S(VGATHERQPD, .fn = special_gather, .elem = 8, .index = 8),
	S(VPGATHERDD, .fn = special_gather, .elem = 4, .index = 4),
	S(VPGATHERDQ, .fn = special_gather, .elem = 8, .index = 4),
	S(VPGATHERQD, .fn = special_gather, .elem = 4, .index = 8),
	S(VPGATHERQQ, .fn = special_gather, .elem = 8, .index = 8),
#undef S
};

enum native_how native_special_get(struct native_insn *n, const ZydisDecodedInstruction *insn,
                                   const ZydisDecodedOperand *ops)
{
	for (size_t i = 0; i < ARRAY_SIZE(specials); i++) {
		const struct special *s = &specials[i];

		if (s->mnemonic != insn->mnemonic || (s->not64 && code64(n)))
			continue;
		n->special = s->fn;
		n->elem = s->elem;
		if (s->stub)
			return NATIVE_SPECIAL_STUB;
		n->size = s->size;
		if (n->size && n->size < 512 && (n->flags & NATIVE_OPSIZE16))
			n->size -= 14; /* x87 environments */
		n->read = s->read;
		n->write = s->write;
		if (s->cr4_need)
			n->cr4_need |= CR4_OSXSAVE;
		if (s->em)
			n->cr0_deny |= CR0_EM;
		if (s->index) {
			n->rm = s->index;
			if (n->reg == n->vvvv || n->reg == n->index || n->vvvv == n->index)
				return NATIVE_REFUSE;
		}
		return NATIVE_SPECIAL;
	}
	return NATIVE_STUB;
}
