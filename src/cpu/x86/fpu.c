// SPDX-License-Identifier: MIT
/* Where the guest's x87, MMX, SSE and AVX state is (SDM 1 chapter 13).
 *
 * It is either in c->xsave, in XSAVE's standard format, or in the host's own registers
 * (c->fpu_live). Code that runs while it may be live is compiled without vector registers; at the
 * border to all other code x86_fpu_put() takes it out. Loading is lazy: the first vector
 * instruction after a put pays for it, a run of them does not.
 *
 * The kernel saves the registers around signal handlers and context switches, so neither can see or
 * harm them. Components above AVX (AVX-512, PKRU, AMX) are never touched: the masks leave them out.
 */
#include "cpu/x86/x86.h"

#include <cpuid.h>

#define FPU_MASK 7u /* x87, SSE, AVX: what the host's XCR0 lacks is ignored (SDM 1 13.7, 13.8) */

/* Offsets in the XSAVE area (SDM 1 13.4.1, 13.4.2). */
enum {
	XS_FCW = 0,
	XS_FSW = 2,
	XS_FTW = 4,
	XS_FOP = 6,
	XS_FIP = 8,
	XS_FDP = 16,
	XS_MXCSR = 24,
	XS_MXCSR_MASK = 28,
	XS_BV = 512,
};

/* Sanitizers' run-times use vector registers: their calls may not come after the guest's are
 * loaded. */
#define NO_SANITIZE __attribute__((no_sanitize("address", "thread", "undefined")))

#define FSW_ES        0x80
#define MXCSR_DEFAULT 0x1f80u

NO_SANITIZE void x86_fpu_get(struct x86_cpu *c)
{
	if (c->fpu_live)
		return;
	c->fpu_live = true;
	__asm__ volatile("xrstor64 %0" ::"m"(*(u8(*)[XSAVE_AREA_SIZE])c->xsave), "a"(FPU_MASK),
	                 "d"(0)
	                 : "memory");
}

NO_SANITIZE static void save(struct x86_cpu *c)
{
	__asm__ volatile("xsave64 %0"
	                 : "+m"(*(u8(*)[XSAVE_AREA_SIZE])c->xsave)
	                 : "a"(FPU_MASK), "d"(0)
	                 : "memory");
	x86_fpu_pointers(c);
}

void x86_fpu_pointers(struct x86_cpu *c)
{
	u16 fsw = get_le16(c->xsave + XS_FSW);

	if (c->fpu_excp_only && (fsw & FSW_ES)) {
		c->fpu_op = c->fpu_last_op;
		c->fpu_dp = c->fpu_last_dp;
	}
	put_le16(c->xsave + XS_FOP, c->fpu_op);
	put_le64(c->xsave + XS_FIP, c->fpu_ip);
	put_le64(c->xsave + XS_FDP, c->fpu_dp);
	put_le32(c->xsave + XS_MXCSR_MASK, c->fpu_mxcsr_mask);
}

void x86_fpu_sync(struct x86_cpu *c)
{
	if (c->fpu_live)
		save(c);
}

NO_SANITIZE void x86_fpu_put(struct x86_cpu *c)
{
	u64 in_use;
	u32 mxcsr = MXCSR_DEFAULT;

	if (!c->fpu_live)
		return;
	save(c);
	/* The C ABI wants: x87 stack empty, default control words, upper halves clean. */
	in_use = get_le64(c->xsave + XS_BV);
	if (in_use & XCR0_X87)
		__asm__ volatile("fninit");
	if (get_le32(c->xsave + XS_MXCSR) != MXCSR_DEFAULT)
		__asm__ volatile("ldmxcsr %0" ::"m"(mxcsr));
	if (in_use & XCR0_AVX)
		__asm__ volatile("vzeroupper");
	c->fpu_live = false;
}

void x86_fpu_init(struct x86_cpu *c)
{
	u8 area[512] __attribute__((aligned(16)));
	u32 a, b = 0, cx, d;

	if (c->fpu_live) {
		/* What is in the registers is given up: leave them as the ABI wants them. */
		x86_fpu_put(c);
	}
	for (unsigned i = 0; i < XSAVE_AREA_SIZE; i += 8)
		put_le64(c->xsave + i, 0);
	/* Table 9-1 of SDM 3A: FCW 0040H, tags 5555H (all zero, none empty). */
	put_le16(c->xsave + XS_FCW, 0x40);
	c->xsave[XS_FTW] = 0xff;
	put_le32(c->xsave + XS_MXCSR, MXCSR_DEFAULT);
	put_le64(c->xsave + XS_BV, XCR0_X87 | XCR0_SSE);
	__asm__ volatile("fxsave64 %0" : "=m"(area));
	c->fpu_mxcsr_mask = get_le32(area + XS_MXCSR_MASK);
	if (!c->fpu_mxcsr_mask)
		c->fpu_mxcsr_mask = 0xffbf; /* SDM 1 11.6.6 */
	put_le32(c->xsave + XS_MXCSR_MASK, c->fpu_mxcsr_mask);
	c->fpu_ip = c->fpu_dp = c->fpu_last_dp = 0;
	c->fpu_op = c->fpu_last_op = 0;
	if (__get_cpuid_count(7, 0, &a, &b, &cx, &d))
		c->fpu_excp_only = b & BIT(6); /* FDP_EXCPTN_ONLY */
}

bool x86_fpu_pending(const struct x86_cpu *c)
{
	u16 fsw;

	if (c->fpu_live)
		__asm__ volatile("fnstsw %0" : "=m"(fsw));
	else
		fsw = get_le16(c->xsave + XS_FSW);
	return fsw & FSW_ES;
}
