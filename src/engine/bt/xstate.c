// SPDX-License-Identifier: MIT
/* XSAVE64, XSAVEC64 and XRSTOR64 as kernels switch contexts by them: on the host's registers, where
 * the guest's state is. While x87 is in use an image would hold the host's instruction pointer
 * until it is corrected, for other vCPUs to see: then it goes by way of c->xsave. What is unusual
 * is the interpreter's: an image over two pages, a header or an MXCSR that faults.
 *
 * An image is copied before it is looked at: guest memory changes. */
#include "cpu/x86/mmu.h"
#include "engine/bt/helpers.h"

/* Offsets in the image (SDM 1 10.5.1, 13.4). With the guest's components the standard and the
 * compacted format have them at the same places. */
enum {
	XS_FOP = 6,
	XS_FIP = 8,
	XS_FDP = 16,
	XS_MXCSR = 24,
	XS_ST = 32,
	XS_XMM = 160,
	XS_BV = 512,
	XS_COMP_BV = 520,
	XS_YMMH = 576,
	XS_SIZE = 832
};
#define XCOMP_COMPACT (1ull << 63)
#define MXCSR_INIT    0x1f80u
#define ALL           (XCR0_X87 | XCR0_SSE | XCR0_AVX)

/* Host address of the image at bt->save[0], or NULL. May raise #PF, at the offset `first`. */
static u8 *image(struct x86_cpu *c, unsigned first, bool write)
{
	gva_t addr = bt_of(c)->save[0];
	const struct tlb_entry *e = &c->tlb[(addr >> PAGE_SHIFT) & (TLB_SIZE - 1)];

	if (unlikely((addr & 63) || (addr & ~PAGE_MASK) > PAGE_SIZE - XS_SIZE || c->inputs))
		return NULL;
	if (unlikely((write ? e->w : e->r) != (addr & PAGE_MASK)) &&
	    (!is_canonical(addr) || !mmu_fill(c, addr + first, write)))
		return NULL;
	return (u8 *)(uintptr_t)(addr + e->addend);
}

static u64 requested(const struct x86_cpu *c)
{
	return ((u64)(u32)c->gpr[RDX] << 32 | (u32)c->gpr[RAX]) & c->xcr0;
}

static u64 in_use(void)
{
	u32 a, d;

	__asm__ volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(1));
	return (u64)d << 32 | a;
}

static void copy_words(u8 *to, const u8 *from, u64 bytes)
{
	bytes /= 8;
	__asm__ volatile("rep movsq" : "+S"(from), "+D"(to), "+c"(bytes) : : "memory");
}

/* All components from an image of our own, the pointers in it being the guest's. XSAVEC leaves out
 * what is in its initial configuration, for which SSE's is judged by MXCSR too (SDM 1 13.10). */
static void save_all(struct x86_cpu *c, u8 *p, bool compact)
{
	u64 bv, save;

	x86_fpu_sync(c);
	bv = get_le64(c->xsave + XS_BV) & ALL;
	if (compact && get_le32(c->xsave + XS_MXCSR) != MXCSR_INIT)
		bv |= XCR0_SSE;
	save = compact ? bv : ALL;
	if (save & XCR0_X87) {
		copy_words(p, c->xsave, XS_MXCSR);
		copy_words(p + XS_ST, c->xsave + XS_ST, XS_XMM - XS_ST);
	}
	if (save & XCR0_SSE) {
		copy_words(p + XS_MXCSR, c->xsave + XS_MXCSR, 8);
		copy_words(p + XS_XMM, c->xsave + XS_XMM, 256);
	}
	if (save & XCR0_AVX)
		copy_words(p + XS_YMMH, c->xsave + XS_YMMH, 256);
	/* XSAVE leaves the bits of what it was not asked for as they are in memory (SDM 1 13.7). */
	put_le64(p + XS_BV, compact ? bv : (get_le64(p + XS_BV) & ~(u64)ALL) | bv);
	if (compact)
		put_le64(p + XS_COMP_BV, XCOMP_COMPACT | ALL);
}

int h_XSAVE(struct x86_cpu *c, u32 arg)
{
	bool compact = arg & 1;
	u64 rfbm = requested(c);
	u8 *p = image(c, (rfbm & XCR0_AVX ? XS_SIZE : XS_YMMH) - 1, true);

	if (unlikely(!p || !c->feat.xgetbv1))
		return h_INTERP(c, arg >> 1);
	x86_fpu_get(c);
	if (in_use() & XCR0_X87) {
		if (unlikely(rfbm != ALL))
			return h_INTERP(c, arg >> 1);
		save_all(c, p, compact);
	} else if (compact)
		__asm__ volatile("xsavec64 %0"
		                 : "+m"(*(u8(*)[XS_SIZE])p)
		                 : "a"((u32)rfbm), "d"((u32)(rfbm >> 32)));
	else
		__asm__ volatile("xsave64 %0"
		                 : "+m"(*(u8(*)[XS_SIZE])p)
		                 : "a"((u32)rfbm), "d"((u32)(rfbm >> 32)));
	mmu_stored(c, (uintptr_t)p, XS_SIZE);
	if (unlikely(c->code_written)) {
		c->rip = c->next_rip;
		return 1;
	}
	return 0;
}

/* Would the processor load it without a fault? (SDM 1 13.8) */
static bool image_ok(const struct x86_cpu *c, const u8 *p)
{
	u64 bv = get_le64(p + XS_BV), comp = get_le64(p + XS_COMP_BV), rest = 0;
	unsigned from = 8;

	if (comp & XCOMP_COMPACT) {
		comp &= ~XCOMP_COMPACT;
		if (!c->feat.xsavec || (comp & ~c->xcr0) || (bv & ~comp))
			return false;
		from = 16;
	} else if (comp || (bv & ~c->xcr0)) {
		return false;
	}
	for (unsigned i = from; i < (from == 8 ? 24 : 64); i += 8)
		rest |= get_le64(p + XS_BV + i);
	return !rest && !(get_le32(p + XS_MXCSR) & ~c->fpu_mxcsr_mask);
}

int h_XRSTOR(struct x86_cpu *c, u32 arg)
{
	u8 copy[XS_SIZE] __attribute__((aligned(64)));
	u64 rfbm = requested(c), bv, n = XS_SIZE / 8;
	const u8 *p = image(c, rfbm & XCR0_AVX ? XS_SIZE - 1 : XS_COMP_BV, false);
	void *to = copy;

	if (unlikely(!p))
		return h_INTERP(c, arg);
	__asm__ volatile("rep movsq" : "+S"(p), "+D"(to), "+c"(n) : : "memory");
	if (unlikely(!image_ok(c, copy)))
		return h_INTERP(c, arg);
	x86_fpu_get(c);
	__asm__ volatile("xrstor64 %0"
	                 :
	                 : "m"(copy), "a"((u32)rfbm), "d"((u32)(rfbm >> 32))
	                 : "memory");
	if (rfbm & XCR0_X87) {
		bv = get_le64(copy + XS_BV) & XCR0_X87;
		c->fpu_ip = bv ? get_le64(copy + XS_FIP) : 0;
		c->fpu_dp = c->fpu_last_dp = bv ? get_le64(copy + XS_FDP) : 0;
		c->fpu_op = c->fpu_last_op = bv ? get_le16(copy + XS_FOP) & 0x7ff : 0;
	}
	return 0;
}
