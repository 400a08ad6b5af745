// SPDX-License-Identifier: MIT
/* Natively run instructions (engine/interp/native.h): every class, register and memory forms, all
 * code sizes, operands over two pages and on devices, faults, lazy vector state, a full arena. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <cpuid.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/log.h"
#include "bus/bus.h"
#include "engine/interp/native.h"
#include "mem/pmap.h"

/* Guest-virtual layout: 4-level tables at 0x1000.., the rest identity but for these. */
#define VA_RW   0x10000ull /* physical 0x10000 */
#define VA_NEXT 0x11000ull /* physical 0x30000: not adjacent */
#define VA_NONE 0x12000ull /* not present */
#define VA_RO   0x13000ull /* read only (WP on) */
#define VA_MMIO 0x14000ull /* nothing there: all ones, writes dropped */
#define PA_NEXT 0x30000ull

struct fix {
	struct vm vm;
	struct vcpu v;
	struct pmap *pmap;
	struct x86_cpu *c;
	struct native *nat;
	ZydisDecoder d64, d32, d16;
	unsigned flushes;
};

static void on_flush(void *arg)
{
	((struct fix *)arg)->flushes++;
}

static u8 *ram(struct fix *f, gpa_t gpa)
{
	return f->pmap->hva + gpa;
}

static void map(struct fix *f, gva_t va, u64 pte)
{
	put_le64(ram(f, 0x4000 + (va >> 12) * 8), pte);
}

/* cmocka puts its own signal handlers up before each test, so this comes after: in the test. */
static struct fix *setup(void)
{
	struct fix *f = calloc(1, sizeof(*f));
	struct x86_cpu *c = aligned_alloc(64, ALIGN_UP(sizeof(*c), 64));

	memset(c, 0, sizeof(*c));
	assert_int_equal(pmap_create(&f->pmap, 4 * MiB), 0);
	assert_int_equal(bus_create(&f->vm.bus, NULL), 0);
	pthread_mutex_init(&f->vm.split_lock, NULL);
	f->c = c;
	f->v.vm = &f->vm;
	f->v.arch_state = c;
	f->vm.pmap = f->pmap;
	c->vcpu = &f->v;
	c->pmap = f->pmap;
	x86_cpuid_build(c);
	c->phys_bits = 39;

	put_le64(ram(f, 0x1000), 0x2003);
	put_le64(ram(f, 0x2000), 0x3003);
	put_le64(ram(f, 0x3000), 0x4003);
	for (gva_t a = 0; a < 2 * MiB; a += PAGE_SIZE)
		map(f, a, a | PTE_P | PTE_W);
	map(f, VA_NEXT, PA_NEXT | PTE_P | PTE_W);
	map(f, VA_NONE, 0);
	map(f, VA_RO, VA_RO | PTE_P);
	map(f, VA_MMIO, 0xd0000000ull | PTE_P | PTE_W);
	c->cr3 = 0x1000;
	c->cr0 = CR0_PE | CR0_PG | CR0_WP | CR0_NE | CR0_MP | CR0_ET;
	c->cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE;
	c->efer = EFER_LME | EFER_LMA;
	c->xcr0 = 7;
	for (unsigned i = 0; i < NR_SEG; i++)
		c->seg[i] = (struct x86_seg){.limit = ~0u,
		                             .ar = SEG_P | SEG_S | SEG_RW | SEG_DB | SEG_G};
	c->seg[CS].ar = SEG_P | SEG_S | SEG_RW | SEG_CODE | SEG_L | SEG_G;
	mmu_init(c);
	x86_update_mode(c);
	x86_fpu_init(c);
	/* Software's usual start instead of power-on's. */
	put_le16(c->xsave, 0x37f);
	c->xsave[4] = 0;
	assert_int_equal(native_create(&f->nat, c, on_flush, f), 0);
	assert_int_equal(native_thread_init(f->nat), 0);
	ZydisDecoderInit(&f->d64, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	ZydisDecoderInit(&f->d32, ZYDIS_MACHINE_MODE_LONG_COMPAT_32, ZYDIS_STACK_WIDTH_32);
	ZydisDecoderInit(&f->d16, ZYDIS_MACHINE_MODE_LONG_COMPAT_16, ZYDIS_STACK_WIDTH_16);
	return f;
}

static void teardown(struct fix *f)
{
	x86_fpu_put(f->c);
	native_thread_exit(f->nat);
	native_destroy(f->nat);
	bus_destroy(f->vm.bus);
	pmap_destroy(f->pmap);
	free(f->c);
	free(f);
}

static const struct native_insn *get(struct fix *f, const ZydisDecoder *d, const void *code,
                                     unsigned len)
{
	ZydisDecodedInstruction insn;
	ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];

	x86_fpu_put(f->c);
	if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(d, code, len, &insn, ops)))
		return NULL;
	assert_int_equal(insn.length, len);
	return native_get(f->nat, &insn, ops, code);
}

/* Run; -1, or the vector that it raised. State is put back into memory for the test to look at. */
static int run(struct fix *f, const struct native_insn *n, gva_t addr)
{
	struct x86_cpu *c = f->c;

	assert_non_null(n);
	c->ev.type = EV_NONE;
	c->unwind_valid = true;
	if (!setjmp(c->unwind))
		native_exec(c, n, addr);
	c->unwind_valid = false;
	x86_fpu_put(c);
	return c->ev.type == EV_NONE ? -1 : c->ev.vector;
}

#define RUN64(code, addr) run(f, get(f, &f->d64, code, sizeof(code) - 1), addr)
#define RUN32(code, addr) run(f, get(f, &f->d32, code, sizeof(code) - 1), addr)
#define RUN16(code, addr) run(f, get(f, &f->d16, code, sizeof(code) - 1), addr)

static u8 *xmm(struct fix *f, unsigned i)
{
	return f->c->xsave + 160 + i * 16;
}

static u8 *ymmh(struct fix *f, unsigned i)
{
	return f->c->xsave + 576 + i * 16;
}

static void set_xmm(struct fix *f, unsigned i, u64 lo, u64 hi)
{
	put_le64(xmm(f, i), lo);
	put_le64(xmm(f, i) + 8, hi);
	put_le64(f->c->xsave + 512, get_le64(f->c->xsave + 512) | XCR0_SSE);
}

static u64 dbl(double d)
{
	u64 v;

	memcpy(&v, &d, 8);
	return v;
}

/* CRC-32C by its definition (SDM 2A CRC32), from 0. */
static u64 crc32(u64 data, unsigned bytes)
{
	u32 crc = 0;

	for (unsigned i = 0; i < bytes; i++) {
		crc ^= (u8)(data >> (i * 8));
		for (unsigned b = 0; b < 8; b++)
			crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78u : 0);
	}
	return crc;
}

/* ---- integer ---- */

static void test_int(void **state)
{
	struct fix *f = setup();
	struct x86_cpu *c = f->c;

	c->gpr[RAX] = 0x1234567890abcdef;
	c->gpr[RCX] = 0xfedcba0987654321;
	c->gpr[RDX] = 0;
	assert_int_equal(RUN64("\x48\xf7\xe1", 0), -1); /* mul rcx */
	unsigned __int128 p = (unsigned __int128)0x1234567890abcdef * 0xfedcba0987654321;
	assert_true(c->gpr[RAX] == (u64)p && c->gpr[RDX] == (u64)(p >> 64));
	assert_true(c->aflags & X86_RFLAGS_CF);

	/* div ebx: quotient and remainder zero-extended */
	c->gpr[RAX] = 0xffffffff00000064;
	c->gpr[RDX] = 0xffffffff00000000;
	c->gpr[RBX] = 7;
	assert_int_equal(RUN64("\xf7\xf3", 0), -1);
	assert_true(c->gpr[RAX] == 14 && c->gpr[RDX] == 2);

	/* div by zero: nothing changed */
	c->gpr[RBX] = 0;
	c->aflags = X86_RFLAGS_CF | X86_RFLAGS_OF;
	assert_int_equal(RUN64("\xf7\xf3", 0), X86_DE);
	assert_true(c->gpr[RAX] == 14 && c->gpr[RDX] == 2 && c->gpr[RBX] == 0);
	assert_true((c->aflags & AFLAGS) == (X86_RFLAGS_CF | X86_RFLAGS_OF));

	/* mul ah; high bytes */
	c->gpr[RAX] = 0xaaaaaaaaaaaa0503;
	assert_int_equal(RUN64("\xf6\xe4", 0), -1);
	assert_true(c->gpr[RAX] == 0xaaaaaaaaaaaa000f);
	/* xadd [mem], bh */
	c->gpr[RBX] = 0x1100;
	ram(f, VA_RW)[5] = 0x22;
	assert_int_equal(RUN64("\x0f\xc0\x38", VA_RW + 5), -1);
	assert_true(c->gpr[RBX] == 0x2200 && ram(f, VA_RW)[5] == 0x33);

	/* RSP as an operand: imul rsp, rsp, 3; xadd rsp, rax; lock xadd [rsi], rsp; bswap esp */
	c->gpr[RSP] = 7;
	assert_int_equal(RUN64("\x48\x6b\xe4\x03", 0), -1);
	assert_true(c->gpr[RSP] == 21);
	c->gpr[RAX] = 100;
	assert_int_equal(RUN64("\x48\x0f\xc1\xc4", 0), -1);
	assert_true(c->gpr[RSP] == 121 && c->gpr[RAX] == 21);
	put_le64(ram(f, VA_RW), 1000);
	assert_int_equal(RUN64("\xf0\x48\x0f\xc1\x26", VA_RW), -1);
	assert_true(c->gpr[RSP] == 1000 && get_le64(ram(f, VA_RW)) == 1121);
	c->gpr[RSP] = 0xffffffff12345678;
	assert_int_equal(RUN64("\x0f\xcc", 0), -1);
	assert_true(c->gpr[RSP] == 0x78563412);
	/* spl: neg spl; andn rsp, rsp, r12 (all three fields) */
	c->gpr[RSP] = 0x1101;
	assert_int_equal(RUN64("\x40\xf6\xdc", 0), -1);
	assert_true(c->gpr[RSP] == 0x11ff);
	c->gpr[R12] = 0xf0f0;
	assert_int_equal(RUN64("\xc4\xc2\xd8\xf2\xe4", 0), -1);
	assert_true(c->gpr[RSP] == (~0x11ffull & 0xf0f0));

	/* shld, flags; unchanged ones survive: bt leaves ZF */
	c->gpr[RAX] = 0x8000000000000000;
	c->gpr[RBX] = 0xf000000000000000;
	assert_int_equal(RUN64("\x48\x0f\xa4\xd8\x04", 0), -1);
	assert_true(c->gpr[RAX] == 0xf && !(c->aflags & X86_RFLAGS_ZF));
	c->aflags = X86_RFLAGS_ZF | 0x400 /* DF: must not reach the host */;
	c->gpr[RAX] = 4;
	assert_int_equal(RUN64("\x0f\xba\xe0\x02", 0), -1); /* bt eax, 2 */
	assert_true((c->aflags & (X86_RFLAGS_ZF | X86_RFLAGS_CF)) ==
	            (X86_RFLAGS_ZF | X86_RFLAGS_CF));
	for (unsigned i = 0; i < 64; i++) { /* rcl rax, 1 needs CF in, adc each flag out */
		u64 in = (i & 1) | (i & 2) << 1 | (i & 4) << 2 | (i & 8) << 3 | (i & 16) << 3 |
		         (u64)(i & 32) << 6;

		c->aflags = in | ~AFLAGS;
		c->gpr[RAX] = 1;
		assert_int_equal(RUN64("\x48\xd1\xd0", 0), -1);
		assert_true(c->gpr[RAX] == 2 + (in & 1));
		assert_true((c->aflags & AFLAGS & ~(X86_RFLAGS_CF | X86_RFLAGS_OF)) ==
		            (in & ~(X86_RFLAGS_CF | X86_RFLAGS_OF)));
		c->aflags = in;
		assert_int_equal(RUN64("\xf5", 0), -1); /* cmc */
		assert_true((c->aflags & AFLAGS) == (in ^ 1));
	}
	/* adcx/adox carry through their own flags */
	c->aflags = X86_RFLAGS_OF;
	c->gpr[RAX] = 1;
	c->gpr[RDX] = 2;
	assert_int_equal(RUN64("\x66\x48\x0f\x38\xf6\xc2", 0), -1); /* adcx rax, rdx */
	assert_true(c->gpr[RAX] == 3 && (c->aflags & X86_RFLAGS_OF));
	assert_int_equal(RUN64("\xf3\x48\x0f\x38\xf6\xc2", 0), -1); /* adox rax, rdx */
	assert_true(c->gpr[RAX] == 6 && !(c->aflags & X86_RFLAGS_OF));

	/* cmpxchg16b: all four registers */
	put_le64(ram(f, VA_RW + 0x100), 1);
	put_le64(ram(f, VA_RW + 0x108), 2);
	c->gpr[RAX] = 1;
	c->gpr[RDX] = 2;
	c->gpr[RBX] = 3;
	c->gpr[RCX] = 4;
	assert_int_equal(RUN64("\xf0\x48\x0f\xc7\x0e", VA_RW + 0x100), -1);
	assert_true(c->aflags & X86_RFLAGS_ZF);
	assert_true(get_le64(ram(f, VA_RW + 0x100)) == 3 && get_le64(ram(f, VA_RW + 0x108)) == 4);
	assert_int_equal(RUN64("\xf0\x48\x0f\xc7\x0e", VA_RW + 0x100), -1);
	assert_true(!(c->aflags & X86_RFLAGS_ZF) && c->gpr[RAX] == 3 && c->gpr[RDX] == 4);
	assert_int_equal(RUN64("\xf0\x48\x0f\xc7\x0e", VA_RW + 0x108), X86_GP);
	assert_int_equal(c->ev.err, 0);

	/* movbe, crc32, popcnt, pext, mulx, rdrand */
	put_le64(ram(f, VA_RW), 0x0102030405060708);
	assert_int_equal(RUN64("\x48\x0f\x38\xf0\x06", VA_RW), -1);
	assert_true(c->gpr[RAX] == 0x0807060504030201);
	c->gpr[RAX] = 0;
	assert_int_equal(RUN64("\xf2\x48\x0f\x38\xf1\x06", VA_RW), -1); /* crc32 rax, [rsi] */
	assert_true(c->gpr[RAX] == crc32(0x0102030405060708, 8));
	c->gpr[RAX] = 0;
	assert_int_equal(RUN64("\x66\xf2\x0f\x38\xf1\x06", VA_RW), -1); /* crc32 eax, word [rsi] */
	assert_true(c->gpr[RAX] == crc32(0x0708, 2));
	c->gpr[RCX] = ~0ull;
	assert_int_equal(RUN64("\x66\xf3\x0f\xb8\xc1", 0), -1); /* popcnt ax, cx */
	assert_true((c->gpr[RAX] & 0xffff) == 16);
	c->gpr[RDX] = 1ull << 63;
	c->gpr[R13] = 4;
	assert_int_equal(RUN64("\xc4\x42\xa3\xf6\xe5", 0), -1); /* mulx r12, r11, r13 */
	assert_true(c->gpr[R12] == 2 && c->gpr[R11] == 0);
	assert_int_equal(RUN64("\x48\x0f\xc7\xf0", 0), -1); /* rdrand rax */
	teardown(f);
}

static void test_bitstring(void **state)
{
	struct fix *f = setup();
	struct x86_cpu *c = f->c;

	memset(ram(f, VA_RW), 0, PAGE_SIZE);
	c->gpr[RAX] = 64 * 8 + 3;
	assert_int_equal(RUN64("\xf0\x48\x0f\xab\x06", VA_RW + 0x80), -1); /* lock bts [rsi], rax */
	assert_int_equal(get_le64(ram(f, VA_RW + 0x80 + 64)), 8);
	assert_false(c->aflags & X86_RFLAGS_CF);
	c->gpr[RAX] = (u64)-61;
	put_le64(ram(f, VA_RW + 0x78), 8);
	assert_int_equal(RUN64("\x48\x0f\xb3\x06", VA_RW + 0x80), -1); /* btr [rsi], rax */
	assert_int_equal(get_le64(ram(f, VA_RW + 0x78)), 0);
	assert_true(c->aflags & X86_RFLAGS_CF);
	/* 32-bit offset is signed too; into the unmapped page */
	c->gpr[RAX] = 0xffffffe0;
	assert_int_equal(RUN64("\x0f\xa3\x06", VA_RW + 0x80), -1);
	c->gpr[RAX] = 0x1000 * 8;
	assert_int_equal(RUN64("\x0f\xa3\x06", VA_NEXT + 0x80), X86_PF);
	assert_true(c->ev.cr2 == VA_NONE + 0x80);
	/* over the page's end, locked */
	put_le64(ram(f, VA_RW + 0xff8), 0);
	put_le64(ram(f, PA_NEXT), 0);
	c->gpr[RAX] = 63;
	assert_int_equal(RUN64("\xf0\x48\x0f\xab\x06", VA_RW + 0xffc), -1);
	assert_int_equal(ram(f, PA_NEXT)[3], 0x80);
	teardown(f);
}

/* ---- other code sizes ---- */

static void test_16_32(void **state)
{
	struct fix *f = setup();
	struct x86_cpu *c = f->c;

	c->gpr[RAX] = 0xdead0003;
	c->gpr[RDX] = 0xbeef0000;
	c->gpr[RCX] = 5;
	assert_int_equal(RUN16("\xf7\xe1", 0), -1); /* mul cx */
	assert_true(c->gpr[RAX] == 0xdead000f && c->gpr[RDX] == 0xbeef0000);
	assert_int_equal(RUN32("\x66\xf7\xe1", 0), -1); /* mul cx */
	assert_true(c->gpr[RAX] == 0xdead004b);
	c->gpr[RAX] = 3;
	assert_int_equal(RUN16("\x66\xf7\xe1", 0), -1); /* mul ecx */
	assert_true(c->gpr[RAX] == 15 && c->gpr[RDX] == 0);
	c->gpr[RBX] = 0x7fffffff;
	assert_int_equal(RUN32("\x43", 0), -1); /* inc ebx */
	assert_true(c->gpr[RBX] == 0x80000000 && (c->aflags & X86_RFLAGS_OF));
	assert_int_equal(RUN16("\x4b", 0), -1); /* dec bx */
	assert_true(c->gpr[RBX] == 0x8000ffff);
	c->gpr[RAX] = 0x10;
	assert_int_equal(RUN32("\x82\xc0\x05", 0), -1); /* add al, 5: the alias of 80 */
	assert_true(c->gpr[RAX] == 0x15);
	/* imul ax, [bx+si], imm16 and its 32-bit twin; prefixes 67, 2e fall off */
	put_le32(ram(f, VA_RW), 0x00010003);
	assert_int_equal(RUN16("\x69\x00\x34\x12", VA_RW), -1);
	assert_true((u16)c->gpr[RAX] == 0x369c);
	assert_int_equal(RUN32("\x2e\x67\x69\x00\x34\x12\x00\x00", VA_RW), -1);
	assert_true(c->gpr[RAX] == 0x1234369cull);
	/* SSE in 16-bit code keeps its prefixes, gains none: paddd xmm1, xmm2 and paddd mm1, mm2 */
	set_xmm(f, 1, 1, 2);
	set_xmm(f, 2, 10, 20);
	assert_int_equal(RUN16("\x66\x0f\xfe\xca", 0), -1);
	assert_true(get_le64(xmm(f, 1)) == 11 && get_le64(xmm(f, 1) + 8) == 22);
	assert_int_equal(RUN16("\x0f\xfe\xca", 0), -1);
	assert_true(get_le64(xmm(f, 1)) == 11);
	assert_int_equal(RUN16("\x0f\x77", 0), -1); /* emms */
	/* VEX.W is idle in 32-bit code: vmovd xmm1, [eax]; vpinsrd */
	put_le64(ram(f, VA_RW), 0x1111111122222222);
	assert_int_equal(RUN32("\xc4\xe1\xf9\x6e\x08", VA_RW), -1);
	assert_true(get_le64(xmm(f, 1)) == 0x22222222);
	/* and no VEX in real-address mode */
	c->cr0 &= ~(CR0_PE | CR0_PG);
	c->efer = 0;
	x86_update_mode(c);
	assert_int_equal(RUN16("\xc5\xf9\xfe\xca", 0), X86_UD);
	teardown(f);
}

/* ---- SSE, AVX ---- */

static void test_sse(void **state)
{
	struct fix *f = setup();
	struct x86_cpu *c = f->c;

	set_xmm(f, 0, dbl(1.5), 77);
	put_le64(ram(f, VA_RW + 8), dbl(2.25));
	assert_int_equal(RUN64("\xf2\x0f\x58\x06", VA_RW + 8), -1); /* addsd xmm0, [rsi] */
	assert_true(get_le64(xmm(f, 0)) == dbl(3.75) && get_le64(xmm(f, 0) + 8) == 77);
	/* high registers, RSP-based guest form, register form */
	set_xmm(f, 9, 0, 0);
	set_xmm(f, 15, 5, 6);
	assert_int_equal(RUN64("\x66\x45\x0f\xd4\xcf", 0), -1); /* paddq xmm9, xmm15 */
	assert_true(get_le64(xmm(f, 9)) == 5 && get_le64(xmm(f, 9) + 8) == 6);
	put_le64(ram(f, VA_RW + 0x10), 0x1111);
	put_le64(ram(f, VA_RW + 0x18), 0x2222);
	assert_int_equal(RUN64("\x66\x44\x0f\xd4\x4c\x24\x10", VA_RW + 0x10), -1);
	assert_true(get_le64(xmm(f, 9)) == 0x1116 && get_le64(xmm(f, 9) + 8) == 0x2228);
	/* blendvps: implicit xmm0; cvtsd2si r9; movmskpd; pinsrw; pcmpestri (rax, rdx in, rcx out)
	 */
	set_xmm(f, 0, 0x8000000000000000, 0);
	set_xmm(f, 1, 1, 2);
	set_xmm(f, 2, 3, 4);
	assert_int_equal(RUN64("\x66\x0f\x38\x15\xca", 0), -1); /* blendvpd xmm1, xmm2, xmm0 */
	assert_true(get_le64(xmm(f, 1)) == 3 && get_le64(xmm(f, 1) + 8) == 2);
	set_xmm(f, 3, dbl(-7.0), 0);
	assert_int_equal(RUN64("\xf2\x4c\x0f\x2d\xcb", 0), -1);
	assert_true(c->gpr[R9] == (u64)-7);
	c->gpr[RAX] = c->gpr[RDX] = 16;
	memcpy(xmm(f, 4), "hello world.....", 16);
	memcpy(xmm(f, 5), "wxyzwxyzwxyzwxyz", 16);
	/* pcmpestri xmm5, xmm4, 0: equal any */
	assert_int_equal(RUN64("\x66\x0f\x3a\x61\xec\x00", 0), -1);
	assert_true(c->gpr[RCX] == 6 + 10 || c->gpr[RCX] == 6); /* position of w, or none */
	assert_true(c->aflags & X86_RFLAGS_CF ? c->gpr[RCX] == 6 : c->gpr[RCX] == 16);
	/* ptest, comisd set all flags */
	c->aflags = AFLAGS;
	assert_int_equal(RUN64("\x66\x0f\x2f\xc1", 0), -1); /* comisd xmm0, xmm1 */
	assert_false(c->aflags & (X86_RFLAGS_OF | X86_RFLAGS_AF | X86_RFLAGS_SF));

	/* store over two pages that aren't adjacent in memory; load back */
	set_xmm(f, 6, 0x8877665544332211, 0xffeeddccbbaa9988);
	assert_int_equal(RUN64("\x0f\x11\x36", VA_RW + 0xff9), -1); /* movups [rsi], xmm6 */
	assert_true(get_le32(ram(f, VA_RW + 0xff9)) == 0x44332211);
	assert_true(ram(f, PA_NEXT)[0] == 0x88 && ram(f, PA_NEXT)[8] == 0xff);
	assert_int_equal(RUN64("\x0f\x10\x3e", VA_RW + 0xff9), -1); /* movups xmm7, [rsi] */
	assert_memory_equal(xmm(f, 7), xmm(f, 6), 16);
	/* second page missing or read only: nothing written */
	memset(ram(f, PA_NEXT + 0xff0), 0x5a, 16);
	assert_int_equal(RUN64("\x0f\x11\x36", VA_NEXT + 0xff9), X86_PF);
	assert_true(c->ev.cr2 == VA_NONE && c->ev.err == PF_W);
	for (unsigned i = 0; i < 16; i++)
		assert_int_equal(ram(f, PA_NEXT + 0xff0)[i], 0x5a);
	assert_int_equal(RUN64("\x0f\x11\x36", VA_RO), X86_PF);
	assert_true(c->ev.err == (PF_P | PF_W));
	/* read-modify-write of a read-only page: a write fault, also over a page's end */
	assert_int_equal(RUN64("\x48\x0f\xc1\x06", VA_RO), X86_PF);
	assert_true(c->ev.err == (PF_P | PF_W));
	/* nothing there (a device that nobody has): all ones */
	assert_int_equal(RUN64("\x0f\x10\x3e", VA_MMIO + 4), -1);
	assert_true(get_le64(xmm(f, 7)) == ~0ull && get_le64(xmm(f, 7) + 8) == ~0ull);
	assert_memory_equal(xmm(f, 6), "\x11\x22\x33\x44", 4); /* the access left the rest alone */

	/* alignment: #GP before #PF, on both paths */
	assert_int_equal(RUN64("\x0f\x28\x3e", VA_RW + 0x10), -1); /* movaps */
	assert_int_equal(RUN64("\x0f\x28\x3e", VA_RW + 0x18), X86_GP);
	assert_true(c->ev.has_err && c->ev.err == 0);
	assert_int_equal(RUN64("\x0f\x28\x3e", VA_NONE + 8), X86_GP);
	assert_int_equal(RUN64("\x66\x0f\xd4\x3e", VA_RW + 8), X86_GP);    /* paddq */
	assert_int_equal(RUN64("\xc5\xc1\xd4\x3e", VA_RW + 8), -1);        /* vpaddq: any address */
	assert_int_equal(RUN64("\xc5\xfd\x6f\x3e", VA_RW + 0x10), X86_GP); /* vmovdqa ymm */

	/* #XM, and #UD without OSXMMEXCPT; the flag stays in MXCSR */
	put_le32(c->xsave + 24, 0x1f80 & ~0x200u); /* unmask ZE */
	set_xmm(f, 0, dbl(1.0), 0);
	set_xmm(f, 1, 0, 0);
	assert_int_equal(RUN64("\xf2\x0f\x5e\xc1", 0), X86_XM);
	assert_true(get_le64(xmm(f, 0)) == dbl(1.0));
	assert_true(get_le32(c->xsave + 24) & 4);
	c->cr4 &= ~CR4_OSXMMEXCPT;
	assert_int_equal(RUN64("\xf2\x0f\x5e\xc1", 0), X86_UD);
	c->cr4 |= CR4_OSXMMEXCPT;
	/* ldmxcsr with reserved bits; stmxcsr */
	put_le32(ram(f, VA_RW), 0xffff0000);
	assert_int_equal(RUN64("\x0f\xae\x16", VA_RW), X86_GP);
	put_le32(ram(f, VA_RW), 0x9fc0);
	assert_int_equal(RUN64("\x0f\xae\x16", VA_RW), -1);
	assert_int_equal(RUN64("\x0f\xae\x1e", VA_RW + 4), -1);
	assert_int_equal(get_le32(ram(f, VA_RW + 4)), 0x9fc0);
	/* the VMM has its own meanwhile */
	assert_int_equal(__builtin_ia32_stmxcsr() & ~0x3fu, 0x1f80);
	teardown(f);
}

static void test_avx(void **state)
{
	struct fix *f = setup();
	struct x86_cpu *c = f->c;
	u8 src[32];

	for (unsigned i = 0; i < 32; i++)
		src[i] = (u8)(i * 3 + 1);
	memcpy(ram(f, VA_RW + 0x203), src, 32);
	assert_int_equal(RUN64("\xc4\xc1\x7e\x6f\x1a", VA_RW + 0x203),
	                 -1); /* vmovdqu ymm3, [r10] */
	assert_memory_equal(xmm(f, 3), src, 16);
	assert_memory_equal(ymmh(f, 3), src + 16, 16);
	assert_int_equal(RUN64("\xc5\x65\xfe\xc3", 0), -1); /* vpaddd ymm8, ymm3, ymm3 */
	assert_int_equal(get_le32(ymmh(f, 8)), get_le32(src + 16) * 2);
	assert_int_equal(RUN64("\xc5\x61\xfe\xc3", 0),
	                 -1); /* vpaddd xmm8, ..: upper half cleared */
	assert_int_equal(get_le64(ymmh(f, 8)), 0);
	/* legacy SSE keeps the upper half */
	assert_int_equal(RUN64("\x66\x0f\xef\xdb", 0), -1); /* pxor xmm3, xmm3 */
	assert_int_equal(get_le64(xmm(f, 3)), 0);
	assert_memory_equal(ymmh(f, 3), src + 16, 16);
	/* page-crossing 32-byte store */
	assert_int_equal(RUN64("\xc5\xfe\x7f\x1e", VA_RW + 0xff1), -1);
	assert_memory_equal(ram(f, PA_NEXT + 1), src + 16, 16);
	/* fma, f16c, vblendvpd (register in an immediate), vpermq, vzeroupper, vextracti128 to mem
	 */
	set_xmm(f, 1, dbl(2), 0);
	set_xmm(f, 2, dbl(3), 0);
	put_le64(ram(f, VA_RW), dbl(10));
	assert_int_equal(RUN64("\xc4\xe2\xe9\xa9\x0e", VA_RW),
	                 -1); /* vfmadd213sd xmm1, xmm2, [rsi] */
	assert_true(get_le64(xmm(f, 1)) == dbl(16));
	put_le64(ram(f, VA_RW), 0x3c00);
	assert_int_equal(RUN64("\xc4\xe2\x79\x13\x0e", VA_RW), -1); /* vcvtph2ps xmm1, [rsi] */
	assert_int_equal(get_le32(xmm(f, 1)), 0x3f800000);
	set_xmm(f, 4, 0x8000000000000000, 0);
	set_xmm(f, 5, 55, 56);
	set_xmm(f, 6, 66, 67);
	assert_int_equal(RUN64("\xc4\xe3\x51\x4b\xfe\x40", 0),
	                 -1); /* vblendvpd xmm7,xmm5,xmm6,xmm4 */
	assert_true(get_le64(xmm(f, 7)) == 66 && get_le64(xmm(f, 7) + 8) == 56);
	assert_int_equal(RUN64("\xc4\xe3\x7d\x39\x1e\x01", VA_RW + 0x40), -1);
	assert_memory_equal(ram(f, VA_RW + 0x40), src + 16, 16);
	assert_int_equal(RUN64("\xc5\xf8\x77", 0), -1); /* vzeroupper */
	assert_true(!(get_le64(c->xsave + 512) & XCR0_AVX) || get_le64(ymmh(f, 3)) == 0);
	/* vaesenc, vpclmulqdq, sha where the host has it */
	assert_int_equal(RUN64("\xc4\xe2\x71\xdc\xc2", 0), -1);
	assert_int_equal(RUN64("\xc4\xe3\x71\x44\xc2\x00", 0), -1);

	c->xcr0 = 3;
	assert_int_equal(RUN64("\xc5\x65\xfe\xc3", 0), X86_UD);
	c->xcr0 = 7;
	c->cr4 &= ~CR4_OSXSAVE;
	assert_int_equal(RUN64("\xc5\x65\xfe\xc3", 0), X86_UD);
	assert_int_equal(RUN64("\xc4\xe2\x70\xf2\xc2", 0), -1); /* andn: no vector state */
	teardown(f);
}

/* ---- x87, MMX ---- */

static void test_x87(void **state)
{
	struct fix *f = setup();
	struct x86_cpu *c = f->c;

	put_le64(ram(f, VA_RW), dbl(2.0));
	c->rip = 0x401000;
	assert_int_equal(RUN64("\xdd\x06", VA_RW), -1); /* fld qword [rsi] */
	assert_true(c->fpu_ip == 0x401000);
	assert_int_equal(RUN64("\xd9\xfa", 0), -1);         /* fsqrt */
	assert_int_equal(RUN64("\xdd\x1e", VA_RW + 8), -1); /* fstp qword [rsi] */
	assert_true(get_le64(ram(f, VA_RW + 8)) == dbl(sqrt(2.0)));
	/* 80-bit operand over a page's end */
	assert_int_equal(RUN64("\xd9\xeb", 0), -1);              /* fldpi */
	assert_int_equal(RUN64("\xdb\x3e", VA_RW + 0xffa), -1);  /* fstp tbyte */
	assert_int_equal(RUN64("\xdb\x2e", VA_RW + 0xffa), -1);  /* fld tbyte */
	assert_int_equal(RUN64("\xdd\xd8", 0), -1);              /* fstp st0 */
	assert_int_equal(get_le16(ram(f, PA_NEXT + 2)), 0x4000); /* pi's exponent */

	/* fnstsw ax keeps the rest of rax */
	c->gpr[RAX] = ~0ull;
	assert_int_equal(RUN64("\xdf\xe0", 0), -1);
	assert_true(c->gpr[RAX] >> 16 == 0xffffffffffffull && !(c->gpr[RAX] & 0x8000));
	/* fcomi sets flags, fcmov reads them */
	assert_int_equal(RUN64("\xd9\xe8", 0), -1); /* fld1; fldz; fcomi st0, st1: below */
	assert_int_equal(RUN64("\xd9\xee", 0), -1);
	c->aflags = X86_RFLAGS_OF | X86_RFLAGS_ZF;
	assert_int_equal(RUN64("\xdb\xf1", 0), -1);
	assert_int_equal(c->aflags & (X86_RFLAGS_CF | X86_RFLAGS_ZF), X86_RFLAGS_CF);
	assert_int_equal(RUN64("\xda\xc1", 0), -1); /* fcmovb st0, st1: 1 */
	assert_int_equal(RUN64("\xdf\xf1", 0), -1); /* fcomip */
	assert_int_equal(c->aflags & (X86_RFLAGS_CF | X86_RFLAGS_ZF), X86_RFLAGS_ZF);
	assert_int_equal(RUN64("\xdd\xd8", 0), -1);

	/* #MF: 1/0 unmasked is pending until the next waiting instruction */
	put_le16(ram(f, VA_RW), 0x37b);
	assert_int_equal(RUN64("\xd9\x2e", VA_RW), -1); /* fldcw */
	assert_int_equal(RUN64("\xd9\xe8", 0), -1);     /* fld1 */
	put_le64(ram(f, VA_RW + 0x20), 0);
	c->rip = 0x402000;
	assert_int_equal(RUN64("\xdc\x36", VA_RW + 0x20), -1); /* fdiv qword [rsi]: by zero */
	assert_true(get_le16(c->xsave + 2) & 0x80);
	c->rip = 0x402002;
	assert_int_equal(RUN64("\xd9\xe8", 0), X86_MF);
	assert_int_equal(RUN64("\x9b", 0), X86_MF);
	assert_int_equal(RUN64("\x0f\x77", 0), X86_MF); /* emms waits too */
	assert_true(c->fpu_ip == 0x402000 && c->fpu_dp == VA_RW + 0x20);
	assert_int_equal(c->fpu_op, 0x436);
	assert_true(get_le64(c->xsave + 8) == 0x402000 && get_le64(c->xsave + 16) == VA_RW + 0x20);
	assert_int_equal(RUN64("\xdf\xe0", 0), -1); /* fnstsw doesn't */

	/* FDP stays when what is pending has no memory operand; FOP and FIP are its own */
	assert_int_equal(RUN64("\xdb\xe2", 0), -1); /* fnclex */
	assert_int_equal(RUN64("\xd9\xee", 0), -1); /* fldz */
	assert_int_equal(RUN64("\xd9\xe8", 0), -1); /* fld1 */
	c->rip = 0x402010;
	assert_int_equal(RUN64("\xd8\xf1", 0), -1); /* fdiv st0, st1: by zero */
	assert_int_equal(RUN64("\x9b", 0), X86_MF);
	assert_true(c->fpu_ip == 0x402010 && c->fpu_dp == VA_RW + 0x20);
	assert_int_equal(c->fpu_op, 0x0f1);

	/* #NM, #UD by CR0 */
	c->cr0 |= CR0_TS;
	assert_int_equal(RUN64("\xd9\xe8", 0), X86_NM);
	assert_int_equal(RUN64("\x0f\x58\xc1", 0), X86_NM);
	assert_int_equal(RUN64("\x0f\xfe\xca", 0), X86_NM);
	assert_int_equal(RUN64("\xc5\x65\xfe\xc3", 0), X86_NM);
	assert_int_equal(RUN64("\x9b", 0), X86_NM);
	assert_int_equal(RUN64("\x0f\xae\xe8", 0), -1);     /* lfence */
	assert_int_equal(RUN64("\x0f\xc3\x06", VA_RW), -1); /* movnti */
	c->cr0 &= ~(CR0_TS | CR0_MP);
	c->cr0 |= CR0_EM;
	assert_int_equal(RUN64("\xd9\xe8", 0), X86_NM);
	assert_int_equal(RUN64("\x0f\x58\xc1", 0), X86_UD);
	assert_int_equal(RUN64("\x0f\xfe\xca", 0), X86_UD);
	c->cr0 &= ~CR0_EM;
	c->cr4 &= ~CR4_OSFXSR;
	assert_int_equal(RUN64("\x0f\x58\xc1", 0), X86_UD);
	teardown(f);
}

/* ---- specials: state saving ---- */

static void fill_state(struct fix *f)
{
	struct x86_cpu *c = f->c;

	for (unsigned i = 0; i < 16; i++) {
		set_xmm(f, i, 0x0101010101010101 * (i + 1), i);
		put_le64(ymmh(f, i), 0x1000 + i);
	}
	put_le64(c->xsave + 512, 7);
	put_le64(ram(f, VA_RW), dbl(2.0));
	c->rip = 0x1234567890;
	assert_int_equal(RUN64("\xdd\x06", VA_RW), -1); /* fld qword [rsi] */
}

/* Does any aligned or unaligned 8-byte value in an image point into this process's mappings? */
static void no_host_address(struct fix *f, const u8 *p, unsigned len)
{
	for (unsigned i = 0; i + 8 <= len; i++) {
		u64 v = get_le64(p + i);

		assert_false(v >> 40 == (uintptr_t)f->c >> 40 && v >> 40);
		assert_false(v >> 40 == (uintptr_t)ram(f, 0) >> 40 && v >> 40);
	}
}

static void test_fxsave(void **state)
{
	struct fix *f = setup();
	struct x86_cpu *c = f->c;
	u8 *m = ram(f, VA_RW + 0x200), before[1088];

	fill_state(f);
	memset(m, 0xcc, 512);
	assert_int_equal(RUN64("\x0f\xae\x06", VA_RW + 0x208), X86_GP);
	assert_int_equal(RUN64("\x48\x0f\xae\x06", VA_RW + 0x200), -1); /* fxsave64 */
	assert_int_equal(get_le64(m + 8), 0x1234567890);
	assert_int_equal(get_le16(m), 0x37f);
	assert_int_equal(m[4], 0x80);
	assert_int_equal(get_le32(m + 24), 0x1f80);
	assert_memory_equal(m + 160, xmm(f, 0), 256);
	assert_int_equal(m[416], 0xcc);
	no_host_address(f, m, 416);
	assert_int_equal(RUN64("\x0f\xae\x06", VA_RW + 0x200), -1); /* fxsave: 32-bit pointers */
	assert_int_equal(get_le64(m + 8), 0x34567890);
	memset(m + 288, 0xcc, 128);
	assert_int_equal(RUN32("\x0f\xae\x06", VA_RW + 0x200), -1);
	assert_int_equal(m[288], 0xcc); /* 32-bit code: XMM0..7 */

	/* restore into another state: AVX stays, XMM and x87 come back */
	memcpy(before, c->xsave, sizeof(before));
	assert_int_equal(RUN64("\x0f\x57\xc0", 0), -1); /* xorps xmm0, xmm0 */
	assert_int_equal(RUN64("\xdb\xe3", 0), -1);     /* fninit */
	assert_true(c->fpu_ip == 0 && c->fpu_dp == 0 && c->fpu_op == 0);
	assert_int_equal(RUN64("\x48\x0f\xae\x06", VA_RW + 0x600), -1);
	assert_int_equal(get_le64(ram(f, VA_RW + 0x608)), 0);
	put_le32(m + 24, 0xffff0000);
	assert_int_equal(RUN64("\x0f\xae\x0e", VA_RW + 0x200), X86_GP);
	put_le32(m + 24, 0x1fa0);
	assert_int_equal(RUN64("\x0f\xae\x0e", VA_RW + 0x200), -1); /* fxrstor */
	assert_memory_equal(xmm(f, 0), before + 160, 128);
	assert_memory_equal(ymmh(f, 0), before + 576, 256);
	assert_memory_equal(c->xsave + 32, before + 32, 10);
	assert_int_equal(get_le32(c->xsave + 24), 0x1fa0);
	assert_int_equal(c->fpu_ip, 0x34567890);
	/* over a page's end, next page missing */
	assert_int_equal(RUN64("\x0f\xae\x06", VA_NEXT + 0xf00), X86_PF);
	assert_int_equal(RUN64("\x0f\xae\x06", VA_RW + 0xf00), -1);
	assert_memory_equal(ram(f, PA_NEXT), before + 256, 32);
	c->cr0 |= CR0_EM;
	assert_int_equal(RUN64("\x0f\xae\x06", VA_RW), X86_NM);
	teardown(f);
}

static void test_xsave(void **state)
{
	struct fix *f = setup();
	struct x86_cpu *c = f->c;
	u8 *m = ram(f, VA_RW + 0x400), before[1088];

	fill_state(f);
	memcpy(before, c->xsave, sizeof(before));
	c->gpr[RAX] = ~0ull;
	c->gpr[RDX] = ~0ull;
	memset(m, 0, 1088);
	put_le64(m + 512, 1ull << 62);
	assert_int_equal(RUN64("\x0f\xae\x26", VA_RW + 0x410), X86_GP);
	assert_int_equal(RUN64("\x48\x0f\xae\x26", VA_RW + 0x400), -1); /* xsave64 */
	assert_true(get_le64(m + 512) == (1ull << 62 | 7));             /* others' bits stay */
	assert_int_equal(get_le64(m + 520), 0);
	assert_memory_equal(m + 160, before + 160, 256);
	assert_memory_equal(m + 576, before + 576, 256);
	no_host_address(f, m, 832);

	/* restore: bits not in XCR0, bytes that must be zero, MXCSR */
	assert_int_equal(RUN64("\x48\x0f\xae\x2e", VA_RW + 0x400), X86_GP);
	put_le64(m + 512, 7);
	m[530] = 1;
	assert_int_equal(RUN64("\x48\x0f\xae\x2e", VA_RW + 0x400), X86_GP);
	m[530] = 0;
	m[540] = 1; /* only 8..23 are looked at */
	assert_int_equal(RUN64("\x48\x0f\xae\x2e", VA_RW + 0x400), -1);
	m[540] = 0;
	put_le32(m + 24, 1u << 31);
	assert_int_equal(RUN64("\x48\x0f\xae\x2e", VA_RW + 0x400), X86_GP);
	put_le32(m + 24, 0x1f80);
	c->xcr0 = 3;
	assert_int_equal(RUN64("\x48\x0f\xae\x2e", VA_RW + 0x400), X86_GP); /* AVX bit */
	c->xcr0 = 7;
	assert_memory_equal(xmm(f, 0), before + 160, 256);

	/* AVX initialised, SSE loaded, x87 not asked for */
	c->gpr[RAX] = 6;
	c->gpr[RDX] = 0;
	put_le64(m + 512, 2);
	memset(m + 160, 0x77, 256);
	assert_int_equal(RUN64("\x48\x0f\xae\x2e", VA_RW + 0x400), -1);
	assert_memory_equal(xmm(f, 3), m + 160, 16);
	assert_int_equal(get_le64(ymmh(f, 3)), 0);
	assert_memory_equal(c->xsave + 32, before + 32, 10);
	assert_int_equal(c->fpu_ip, 0x1234567890);
	/* x87 initialised */
	c->gpr[RAX] = 1;
	put_le64(m + 512, 0);
	assert_int_equal(RUN64("\x48\x0f\xae\x2e", VA_RW + 0x400), -1);
	assert_int_equal(c->xsave[4], 0);
	assert_int_equal(c->fpu_ip, 0);

	/* compacted, where the guest has it; then back */
	memcpy(c->xsave, before, sizeof(before));
	memset(m, 0xcc, 1088);
	c->gpr[RAX] = 7;
	if (get(f, &f->d64, "\x48\x0f\xc7\x26", 4)) {
		assert_int_equal(RUN64("\x48\x0f\xc7\x26", VA_RW + 0x400), -1); /* xsavec64 */
		assert_true(get_le64(m + 520) == (1ull << 63 | 7));
		assert_int_equal(m[530], 0xcc); /* the rest of the header isn't written */
		memset(m + 528, 0, 48);
		assert_int_equal(RUN64("\x0f\x57\xc0", 0), -1);
		assert_int_equal(RUN64("\x48\x0f\xae\x2e", VA_RW + 0x400), -1);
		assert_memory_equal(xmm(f, 0), before + 160, 256);
		assert_memory_equal(ymmh(f, 0), before + 576, 256);
		put_le64(m + 520, 1ull << 63 | 3); /* XSTATE_BV beyond XCOMP_BV */
		assert_int_equal(RUN64("\x48\x0f\xae\x2e", VA_RW + 0x400), X86_GP);
	}
	/* only what is written is touched: header alone, image before it unmapped */
	c->gpr[RAX] = 0;
	assert_int_equal(RUN64("\x0f\xae\x26", VA_RO - 0x200), X86_PF);
	assert_int_equal(RUN64("\x0f\xae\x26", VA_NONE + 0x1e00), -1);
	c->cr4 &= ~CR4_OSXSAVE;
	assert_int_equal(RUN64("\x0f\xae\x26", VA_RW + 0x400), X86_UD);
	c->cr4 |= CR4_OSXSAVE;
	c->cr0 |= CR0_TS;
	assert_int_equal(RUN64("\x0f\xae\x26", VA_RW + 0x400), X86_NM);
	teardown(f);
}

static void test_fpu_env(void **state)
{
	struct fix *f = setup();
	struct x86_cpu *c = f->c;
	u8 *m = ram(f, VA_RW + 0x100);

	c->seg[FS].base = c->segbase[FS] = 0x100;
	put_le64(ram(f, VA_RW), dbl(2.0));
	put_le16(ram(f, VA_RW + 0x20), 0x37e); /* unmask invalid */
	assert_int_equal(RUN64("\xd9\x2e", VA_RW + 0x20), -1);
	c->rip = 0x8765432101;
	/* fadd qword fs:[rsi] with an empty stack: pending exception; FDP without the base */
	assert_int_equal(RUN64("\x64\xdc\x06", VA_RW), -1);
	assert_int_equal(RUN64("\xd9\x36", VA_RW + 0x100), -1); /* fnstenv [rsi] */
	assert_int_equal(get_le32(m), 0xffff037e);
	assert_int_equal(get_le32(m + 8), 0xffffffff);
	assert_int_equal(get_le32(m + 12), 0x65432101);
	assert_int_equal(get_le32(m + 16), 0x406 << 16);
	assert_int_equal(get_le32(m + 20), VA_RW - 0x100);
	assert_int_equal(get_le32(m + 24), 0xffff0000);
	assert_int_equal(get_le16(c->xsave) & 0x3f, 0x3f); /* now all masked */
	/* 16-bit format */
	memset(m, 0xcc, 32);
	assert_int_equal(RUN64("\x66\xd9\x36", VA_RW + 0x100), -1);
	assert_int_equal(get_le16(m + 6), 0x2101);
	assert_int_equal(get_le16(m + 10), (VA_RW - 0x100) & 0xffff);
	assert_int_equal(m[14], 0xcc);
	/* in real-address mode the opcode is there */
	c->mode &= ~(u32)M_PE;
	assert_int_equal(RUN16("\xd9\x34", VA_RW + 0x100), -1);
	assert_int_equal(get_le16(m + 8), 0x3000 | 0x406); /* FIP 19:16, FOP */
	c->mode |= M_PE;

	/* fldenv brings the exception back: the next waiting instruction raises it */
	assert_int_equal(RUN64("\xdb\xe2", 0), -1); /* fnclex */
	put_le32(m, 0x37e);
	put_le32(m + 4, 0x81);
	put_le32(m + 8, 0xffff);
	put_le32(m + 12, 0x1111);
	put_le32(m + 16, 0x123 << 16);
	put_le32(m + 20, 0x2222);
	assert_int_equal(RUN64("\xd9\x26", VA_RW + 0x100), -1);
	assert_true(c->fpu_ip == 0x1111 && c->fpu_dp == 0x2222 && c->fpu_op == 0x123);
	assert_int_equal(RUN64("\xd9\x26", VA_RW + 0x100), X86_MF);
	assert_int_equal(RUN64("\xd9\xe8", 0), X86_MF);
	/* fnsave doesn't wait, and initialises; frstor undoes it; both over a page's end */
	assert_int_equal(RUN64("\xdb\xe2", 0), -1);
	assert_int_equal(RUN64("\xd9\xeb", 0), -1); /* fldpi */
	c->rip = 0x5555;
	assert_int_equal(RUN64("\xd9\xe8", 0), -1); /* fld1 */
	assert_int_equal(RUN64("\xdd\x36", VA_RW + 0xfc0), -1);
	assert_int_equal(get_le16(c->xsave), 0x37f);
	assert_true(c->xsave[4] == 0 && c->fpu_ip == 0);
	assert_int_equal(get_le32(ram(f, VA_RW + 0xfcc)), 0x5555);
	assert_int_equal(RUN64("\xdd\x26", VA_RW + 0xfc0), -1);
	assert_int_equal(c->xsave[4], 0xc0);
	assert_int_equal(get_le16(c->xsave + 32 + 8), 0x3fff);      /* 1.0 */
	assert_int_equal(get_le16(c->xsave + 32 + 16 + 8), 0x4000); /* pi */
	assert_int_equal(c->fpu_ip, 0x5555);
	/* a fault leaves everything */
	assert_int_equal(RUN64("\xdd\x36", VA_NEXT + 0xfc0), X86_PF);
	assert_int_equal(c->xsave[4], 0xc0);
	teardown(f);
}

/* ---- specials: many addresses, masked elements ---- */

static void test_masked(void **state)
{
	struct fix *f = setup();
	struct x86_cpu *c = f->c;
	u8 *m = ram(f, VA_RW);

	/* maskmovdqu xmm1, xmm2 at [rdi] */
	memset(m, 0, 64);
	set_xmm(f, 1, 0x0807060504030201, 0x100f0e0d0c0b0a09);
	set_xmm(f, 2, 0x0000000000008080, 0x8000000000000000);
	c->gpr[RDI] = VA_RW + 3;
	assert_int_equal(RUN64("\x66\x0f\xf7\xca", 0), -1);
	assert_true(m[3] == 1 && m[4] == 2 && m[5] == 0 && m[18] == 0x10);
	c->gpr[RDI] = VA_RO;
	assert_int_equal(RUN64("\x66\x0f\xf7\xca", 0), X86_PF);
	/* maskmovq with TOP not 0: registers are physical */
	assert_int_equal(RUN64("\xd9\xf6", 0), -1);         /* fdecstp */
	assert_int_equal(RUN64("\x0f\x6f\x0e", VA_RW), -1); /* movq mm1, [rsi] */
	put_le64(m + 8, 0x8080808080808080);
	assert_int_equal(RUN64("\x0f\x6f\x16", VA_RW + 8), -1); /* movq mm2, [rsi] */
	c->gpr[RDI] = VA_RW + 0x20;
	assert_int_equal(RUN64("\x0f\xf7\xca", 0), -1);
	assert_memory_equal(m + 0x20, m, 8);

	/* vmaskmovps ymm3, ymm2, [rsi]: the upper half lies in a missing page but is masked out */
	set_xmm(f, 2, 0x8000000000000000, 0x8000000080000000);
	put_le64(ymmh(f, 2), 0);
	put_le64(ymmh(f, 2) + 8, 0);
	put_le64(c->xsave + 512, 7);
	for (unsigned i = 0; i < 16; i++)
		ram(f, PA_NEXT + 0xff0)[i] = (u8)(i + 1);
	assert_int_equal(RUN64("\xc4\xe2\x6d\x2c\x1e", VA_NEXT + 0xff0), -1);
	assert_int_equal(get_le32(xmm(f, 3)), 0);
	assert_memory_equal(xmm(f, 3) + 4, ram(f, PA_NEXT + 0xff4), 12);
	/* ... and chosen */
	put_le64(ymmh(f, 2), 0x80000000);
	assert_int_equal(RUN64("\xc4\xe2\x6d\x2c\x1e", VA_NEXT + 0xff0), X86_PF);
	assert_int_equal(c->ev.cr2, VA_NONE);
	/* the store: nothing written when an element faults; neighbours untouched */
	memset(ram(f, PA_NEXT + 0xff0), 0x5a, 16);
	assert_int_equal(RUN64("\xc4\xe2\x6d\x2e\x1e", VA_NEXT + 0xff0), X86_PF);
	assert_int_equal(get_le32(ram(f, PA_NEXT + 0xff4)), 0x5a5a5a5a);
	put_le64(ymmh(f, 2), 0);
	assert_int_equal(RUN64("\xc4\xe2\x6d\x2e\x1e", VA_NEXT + 0xff0), -1);
	assert_int_equal(get_le32(ram(f, PA_NEXT + 0xff0)), 0x5a5a5a5a);
	assert_int_equal(get_le32(ram(f, PA_NEXT + 0xff4)), 0x08070605);
	/* vpmaskmovq xmm, inside a page */
	put_le64(m + 0x40, 7);
	put_le64(m + 0x48, 8);
	assert_int_equal(RUN64("\xc4\xe2\xe9\x8c\x1e", VA_RW + 0x40), -1);
	assert_true(get_le64(xmm(f, 3)) == 7 && get_le64(xmm(f, 3) + 8) == 8);
	teardown(f);
}

static void test_gather(void **state)
{
	struct fix *f = setup();
	struct x86_cpu *c = f->c;
	static const s32 index[8] = {0, 1, -1, 3, 0x400, 5, 6, 7};

	for (unsigned i = 0; i < 1024; i++)
		put_le32(ram(f, VA_RW) + i * 4, i);
	put_le32(ram(f, PA_NEXT), 4444);
	memcpy(xmm(f, 2), index, 16);
	memcpy(ymmh(f, 2), index + 4, 16);
	for (unsigned i = 0; i < 4; i++) {
		put_le32(xmm(f, 3) + i * 4, i == 1 ? 0 : 0x80000000);
		put_le32(ymmh(f, 3) + i * 4, 0x80000000);
		put_le32(xmm(f, 1) + i * 4, 0xaaaaaaaa);
		put_le32(ymmh(f, 1) + i * 4, 0xbbbbbbbb);
	}
	put_le64(c->xsave + 512, 7);
	c->gpr[RSI] = VA_RW + 0x10;
	/* vpgatherdd ymm1, [rsi + ymm2*4], ymm3 */
	assert_int_equal(RUN64("\xc4\xe2\x65\x90\x0c\x96", 0), -1);
	assert_int_equal(get_le32(xmm(f, 1)), 4);
	assert_int_equal(get_le32(xmm(f, 1) + 4), 0xaaaaaaaa);
	assert_int_equal(get_le32(xmm(f, 1) + 8), 3);
	assert_int_equal(get_le32(ymmh(f, 1) + 12), 11);
	for (unsigned i = 0; i < 16; i++)
		assert_true(!xmm(f, 3)[i] && !ymmh(f, 3)[i]);

	/* the fifth element faults: the first four are done, the mask says so; then go on */
	c->gpr[RSI] = VA_NEXT + 0x10;
	for (unsigned i = 0; i < 4; i++) {
		put_le32(ram(f, PA_NEXT + 0x10) + i * 4, 100 + i);
		put_le32(xmm(f, 3) + i * 4, 0x80000000);
		put_le32(ymmh(f, 3) + i * 4, 0x80000000);
	}
	put_le64(c->xsave + 512, 7);
	put_le32(xmm(f, 2) + 8, 2);
	assert_int_equal(RUN64("\xc4\xe2\x65\x90\x0c\x96", 0), X86_PF);
	assert_int_equal(c->ev.cr2, VA_NONE + 0x10);
	assert_int_equal(get_le32(xmm(f, 1) + 12), 103);
	assert_int_equal(get_le32(xmm(f, 3) + 12), 0);
	assert_int_equal(get_le32(ymmh(f, 3)), 0xffffffff);
	map(f, VA_NONE, VA_NONE | PTE_P | PTE_W);
	put_le32(ram(f, VA_NONE + 0x10), 777);
	assert_int_equal(RUN64("\xc4\xe2\x65\x90\x0c\x96", 0), -1);
	assert_int_equal(get_le32(ymmh(f, 1)), 777);
	assert_int_equal(get_le32(ymmh(f, 3)), 0);

	/* vgatherqpd xmm1, [rsi + xmm2*8], xmm3 clears the upper half; 32-bit addresses wrap */
	put_le64(xmm(f, 2), (u64)-2);
	put_le64(xmm(f, 2) + 8, 1);
	put_le64(xmm(f, 3), ~0ull);
	put_le64(xmm(f, 3) + 8, ~0ull);
	c->gpr[RSI] = 0x500000000 + VA_RW + 0x10;
	assert_int_equal(RUN64("\x67\xc4\xe2\xe1\x93\x0c\xd6", 0), -1);
	assert_int_equal(get_le64(xmm(f, 1)), 1ull << 32);
	assert_int_equal(get_le64(xmm(f, 1) + 8), 7ull << 32 | 6);
	assert_int_equal(get_le64(ymmh(f, 1)), 0);
	/* registers that coincide: #UD */
	assert_null(get(f, &f->d64, "\xc4\xe2\x61\x90\x1c\x96", 6));
	teardown(f);
}

/* ---- state in the registers ---- */

static void test_state(void **state)
{
	struct fix *f = setup();
	struct x86_cpu *c = f->c;
	const struct native_insn *add = get(f, &f->d64, "\x0f\xfe\xca", 3); /* paddd mm1, mm2 */
	const struct native_insn *fld1 = get(f, &f->d64, "\xd9\xe8", 2);
	u16 fcw, tag[14];

	/* The VMM's x87 is usable, its MXCSR untouched whatever the guest does. */
	assert_int_equal(run(f, add, 0), -1);
	for (unsigned i = 0; i < 8; i++)
		assert_int_equal(run(f, fld1, 0), -1);
	__asm__ volatile("fnstcw %0" : "=m"(fcw));
	__asm__ volatile("fnstenv %0\n\tfldenv %0" : "+m"(tag));
	assert_int_equal(fcw, 0x37f);
	assert_int_equal(tag[4], 0xffff);
	assert_int_equal(c->xsave[4], 0xff); /* the guest's stack is full */
	/* put and get are idempotent, sync keeps it live */
	x86_fpu_get(c);
	x86_fpu_get(c);
	x86_fpu_sync(c);
	assert_true(c->fpu_live);
	x86_fpu_put(c);
	x86_fpu_put(c);
	assert_false(c->fpu_live);
	assert_int_equal(c->xsave[4], 0xff);
	/* power-on state */
	x86_fpu_init(c);
	x86_fpu_get(c);
	x86_fpu_put(c);
	assert_int_equal(get_le16(c->xsave), 0x40);
	assert_int_equal(c->xsave[4], 0xff);
	teardown(f);
}

/* ---- no stub reaches beyond its operand ---- */

/* Every opcode with the memory form [rsi], on a page between two that can't be touched: the
 * operand at its end, then at its start. A stub that reads or writes one byte more than
 * n->size is a hole in the isolation, and a SIGSEGV here. */
struct sweep {
	struct fix *f;
	u8 *page;
	unsigned tried, run[INSN_XSAVE + 1];
};

static void sweep_one(struct sweep *s, const u8 *code)
{
	ZydisDecodedInstruction insn;
	ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
	struct x86_cpu *c = s->f->c;
	const struct native_insn *n;

	if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&s->f->d64, code, 15, &insn, ops)))
		return;
	s->tried++;
	x86_fpu_put(c);
	n = native_get(s->f->nat, &insn, ops, code);
	if (!n || !n->size || (n->special && !n->elem) || n->index != NR_GPR)
		return;
	s->run[n->cls]++;
	for (unsigned end = 0; end < 2; end++) {
		int raised;

		memset(s->page, 0x3c, PAGE_SIZE); /* no denormals, no reserved bits of MXCSR */
		memset(c->gpr, 0, sizeof(c->gpr));
		x86_fpu_put(c);
		c->xsave[4] = 0; /* x87 stack empty: loads do load */
		put_le16(c->xsave + 2, 0);
		raised = native_run(c, n, end ? s->page + PAGE_SIZE - n->size : s->page);
		assert_true(!raised || raised == (NATIVE_RAISED | X86_DE) ||
		            raised == (NATIVE_RAISED | X86_GP) ||
		            raised == (NATIVE_RAISED | X86_MF));
		if (insn.mnemonic == ZYDIS_MNEMONIC_FLDCW ||
		    insn.mnemonic == ZYDIS_MNEMONIC_LDMXCSR ||
		    insn.mnemonic == ZYDIS_MNEMONIC_VLDMXCSR) {
			x86_fpu_init(c);
			put_le16(c->xsave, 0x37f);
		}
	}
}

static void test_bounds(void **state)
{
	struct fix *f = setup();
	struct sweep s = {.f = f};
	u8 *m = mmap(NULL, 3 * PAGE_SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	static const u8 prefix[] = {0, 0x66, 0xf2, 0xf3};

	assert_true(m != MAP_FAILED);
	s.page = m + PAGE_SIZE;
	assert_int_equal(mprotect(s.page, PAGE_SIZE, PROT_READ | PROT_WRITE), 0);
	for (unsigned map_nr = 0; map_nr < 4; map_nr++)
		for (unsigned k = 0; k < 4 * 2 * 2 * 8 * 256; k++) {
			u8 code[16] = {0}, *p = code;

			if (k & 1)
				*p++ = 0xf0;
			if (prefix[k >> 1 & 3])
				*p++ = prefix[k >> 1 & 3];
			if (k & 8)
				*p++ = 0x48;
			if (map_nr)
				*p++ = 0x0f;
			if (map_nr >= 2)
				*p++ = map_nr == 2 ? 0x38 : 0x3a;
			*p++ = (u8)(k >> 7);
			*p++ = (u8)((k >> 4 & 7) << 3 | RSI);
			sweep_one(&s, code);
		}
	for (unsigned map_nr = 1; map_nr < 4; map_nr++)
		for (unsigned k = 0; k < 4 * 2 * 2 * 2 * 8 * 256; k++) {
			u8 code[16] = {0xc4, (u8)(0xe0 | map_nr),
			               (u8)((k & 1) << 7 | (k & 2 ? 0xf : 0xd) << 3 | (k & 4) |
			                    (k >> 3 & 3)),
			               (u8)(k >> 8), (u8)((k >> 5 & 7) << 3 | RSI)};

			sweep_one(&s, code);
		}
	assert_true(s.tried > 10000);
	assert_true(s.run[INSN_INT] > 500 && s.run[INSN_X87] > 100 && s.run[INSN_MMX] > 400 &&
	            s.run[INSN_SSE] > 1500);
	if (f->c->feat.xcr0 & XCR0_AVX)
		assert_true(s.run[INSN_AVX] > 3000);
	munmap(m, 3 * PAGE_SIZE);
	teardown(f);
}

static void test_refused(void **state)
{
	struct fix *f = setup();
	static const struct {
		const char *code;
		unsigned len;
	} no[] = {
		{"\x62\xf1\x7c\x48\x58\xc1", 6}, /* vaddps zmm */
		{"\x0f\x0f\xc1\x9e", 4},         /* 3DNow! */
		{"\x8f\xe9\x78\x01\xc9", 5},     /* TBM */
		{"\xf2\x0f\x79\xc1", 4},         /* SSE4A extrq */
		{"\x0f\x01\xee", 3},             /* rdpkru */
		{"\x0f\x05", 2},                 /* syscall */
		{"\xf4", 1},                     /* hlt */
		{"\x0f\xa2", 2},                 /* cpuid */
		{"\x0f\x31", 2},                 /* rdtsc */
		{"\x0f\x01\xd0", 3},             /* xgetbv */
		{"\x8e\xd8", 2},                 /* mov ds, eax */
		{"\xf3\x0f\xc7\xf8", 4},         /* rdpid */
		{"\x9d", 1},                     /* popf */
		{"\xf3\x0f\xae\xc0", 4},         /* rdfsbase */
		{"\x0f\x20\xc0", 3},             /* mov eax, cr0 */
		{"\x0f\xc7\x2e", 3},             /* xsaves */
		{"\xa4", 1},                     /* movsb */
		{"\xff\xd0", 2},                 /* call rax */
	};

	for (size_t i = 0; i < ARRAY_SIZE(no); i++)
		assert_null(get(f, &f->d64, no[i].code, no[i].len));
	assert_non_null(get(f, &f->d64, "\xf3\x90", 2));
	/* what CPUID doesn't offer */
	native_thread_exit(f->nat);
	native_destroy(f->nat);
	for (unsigned i = 0; i < f->c->nr_cpuid; i++)
		if (f->c->cpuid[i].leaf == 1)
			f->c->cpuid[i].out[2] &= ~(u32)BIT(28);
	assert_int_equal(native_create(&f->nat, f->c, on_flush, f), 0);
	assert_int_equal(native_thread_init(f->nat), 0);
	assert_null(get(f, &f->d64, "\xc5\xf4\x58\xc2", 4)); /* vaddps */
	assert_non_null(get(f, &f->d64, "\x0f\x58\xc1", 3));
	teardown(f);
}

static void test_flush(void **state)
{
	struct fix *f = setup();
	u32 gen = native_generation(f->nat);
	const struct native_insn *a, *b;
	unsigned made = 0;

	a = get(f, &f->d64, "\x48\x0f\xba\xe0\x02", 5);
	b = get(f, &f->d64, "\x48\x0f\xba\xe0\x02", 5);
	assert_ptr_equal(a, b); /* cached */
	/* vpinsrw/vpshufd and so on with every register and immediate: more than the arena holds */
	for (unsigned x = 0; !f->flushes && x < 16; x++)
		for (unsigned y = 0; !f->flushes && y < 16; y++)
			for (unsigned z = 0; !f->flushes && z < 16; z++)
				for (unsigned imm = 0; imm < 256; imm++) {
					u8 code[6] = {0xc4,
					              (u8)(0x63 | (x < 8) << 7 | (z < 8) << 5),
					              (u8)((~y & 15) << 3 | 1),
					              0x0f,
					              (u8)(0xc0 | (x & 7) << 3 | (z & 7)),
					              (u8)imm};

					assert_non_null(get(f, &f->d64, code, 6));
					made++;
				}
	assert_int_equal(f->flushes, 1);
	assert_int_equal(native_generation(f->nat), gen + 1);
	assert_true(made > 100000);
	f->c->gpr[RAX] = 7;
	assert_int_equal(RUN64("\x48\x6b\xc0\x03", 0), -1);
	assert_int_equal(f->c->gpr[RAX], 21);
	assert_int_equal(RUN64("\xf7\xf3", 0), X86_DE);
	teardown(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_int),     cmocka_unit_test(test_bitstring),
		cmocka_unit_test(test_16_32),   cmocka_unit_test(test_sse),
		cmocka_unit_test(test_avx),     cmocka_unit_test(test_x87),
		cmocka_unit_test(test_fxsave),  cmocka_unit_test(test_xsave),
		cmocka_unit_test(test_fpu_env), cmocka_unit_test(test_masked),
		cmocka_unit_test(test_gather),  cmocka_unit_test(test_state),
		cmocka_unit_test(test_bounds),  cmocka_unit_test(test_refused),
		cmocka_unit_test(test_flush),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
