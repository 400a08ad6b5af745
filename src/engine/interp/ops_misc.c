// SPDX-License-Identifier: MIT
/* Slow paths of memory operands, and the instructions that fit nowhere else: natively run ones, bit
 * tests with a memory operand, BCD, segment registers, flags image, port I/O. */
#include "cpu/x86/inputs.h"
#include "engine/interp/native.h"
#include "engine/interp/op.h"

/* ---- slow paths ---- */

static void check_canonical(struct x86_cpu *c, const struct op *op, gva_t a, unsigned size)
{
	if ((c->mode & M_CS64) && unlikely(!is_canonical(a) || !is_canonical(a + size - 1)))
		x86_raise_err(c, op->seg == SS ? X86_SS : X86_GP, 0);
}

/* NAME_keep: call NAME_c on an aligned stack and keep all registers that a call may change but RAX.
 * Where handlers call from, the stack may be 8 bytes off. */
#define KEEP_STUB(name)                                                                            \
	__asm__(".pushsection .text.unlikely, \"ax\", @progbits\n"                                 \
	        ".hidden " #name "_keep\n"                                                         \
	        ".globl " #name "_keep\n"                                                          \
	        ".type " #name "_keep, @function\n" #name "_keep:\n"                               \
	        ".cfi_startproc\n"                                                                 \
	        "push %rbp\n"                                                                      \
	        ".cfi_def_cfa_offset 16\n"                                                         \
	        ".cfi_offset %rbp, -16\n"                                                          \
	        "mov %rsp, %rbp\n"                                                                 \
	        ".cfi_def_cfa_register %rbp\n"                                                     \
	        "and $-16, %rsp\n"                                                                 \
	        "push %rcx\n"                                                                      \
	        "push %rdx\n"                                                                      \
	        "push %rsi\n"                                                                      \
	        "push %rdi\n"                                                                      \
	        "push %r8\n"                                                                       \
	        "push %r9\n"                                                                       \
	        "push %r10\n"                                                                      \
	        "push %r11\n"                                                                      \
	        "call " #name "_c\n"                                                               \
	        "pop %r11\n"                                                                       \
	        "pop %r10\n"                                                                       \
	        "pop %r9\n"                                                                        \
	        "pop %r8\n"                                                                        \
	        "pop %rdi\n"                                                                       \
	        "pop %rsi\n"                                                                       \
	        "pop %rdx\n"                                                                       \
	        "pop %rcx\n"                                                                       \
	        "leave\n"                                                                          \
	        ".cfi_def_cfa %rsp, 8\n"                                                           \
	        "ret\n"                                                                            \
	        ".cfi_endproc\n"                                                                   \
	        ".size " #name "_keep, . - " #name "_keep\n"                                       \
	        ".popsection")
KEEP_STUB(ea_special);
KEEP_STUB(op_ld_slow);
KEEP_STUB(op_st_slow);
KEEP_STUB(op_rmw_ld);
KEEP_STUB(op_rmw_st);
KEEP_STUB(op_smc);

gva_t ea_special_c(struct x86_cpu *c, const struct op *op, unsigned size, bool write)
{
	u64 off = ea_offset(c, op);

	if (op->ea & EA_SEG) {
		OP_SYNC;
		return x86_linear(c, op->seg, off, size, write);
	}
	return off + c->segbase[op->seg];
}

gva_t ea_checked(struct x86_cpu *c, const struct op *op, unsigned size, bool write)
{
	gva_t a = ea(c, op, size, write);

	OP_SYNC;
	check_canonical(c, op, a, size);
	return a;
}

u64 op_ld_slow_c(struct x86_cpu *c, const struct op *op, gva_t a, unsigned size)
{
	OP_SYNC;
	check_canonical(c, op, a, size);
	return mmu_ld(c, a, size);
}

u64 op_st_slow_c(struct x86_cpu *c, const struct op *op, gva_t a, unsigned size, u64 val)
{
	OP_SYNC;
	check_canonical(c, op, a, size);
	mmu_st(c, a, val, size);
	return 0;
}

u64 op_rmw_ld_c(struct x86_cpu *c, const struct op *op, gva_t a, unsigned size)
{
	OP_SYNC;
	check_canonical(c, op, a, size);
	if (c->tlb == c->tlbs[TLB_USER_AC] && (a & (size - 1)))
		x86_raise_err(c, X86_AC, 0);
	mmu_probe_write(c, a, size);
	return mmu_ld(c, a, size);
}

u64 op_rmw_st_c(struct x86_cpu *c, gva_t a, u64 val, unsigned size)
{
	mmu_st(c, a, val, size);
	return 0;
}

u64 op_smc_c(struct x86_cpu *c, uintptr_t host, unsigned size)
{
	mmu_code_written(c, host, size);
	return 0;
}

/* ---- natively run ---- */

void op_native(struct x86_cpu *c, const struct op *op)
{
	OP_SYNC;
	native_exec(c, op->native, 0);
	NEXT;
}

/* RDRAND and RDSEED where inputs are recorded. Its local would keep the handler from ending in a
 * jump. */
static __attribute__((noinline)) void native_random(struct x86_cpu *c, const struct op *op)
{
	struct x86_input in = {.kind = X86_IN_RANDOM, .addr = op->dst};

	if (x86_input_take(c, &in)) {
		REG_AT(c, u64, op->dst) = in.val;
		c->aflags = in.ok ? X86_RFLAGS_CF : 0;
	} else {
		native_exec(c, op->native, 0);
		in.val = REG_AT(c, u64, op->dst);
		in.ok = c->aflags & X86_RFLAGS_CF;
		x86_input_made(c, &in);
	}
}

void op_native_random(struct x86_cpu *c, const struct op *op)
{
	OP_SYNC;
	native_random(c, op);
	NEXT;
}

void op_native_mem(struct x86_cpu *c, const struct op *op)
{
	gva_t a;

	OP_SYNC;
	a = ea(c, op, op->native->size, op->native->write);
	/* 80 bits are accessed as 64 and 16: where these alone are out, those fault first. */
	if (unlikely(op->native->size == 10 && (c->mode & M_CS64) && is_canonical(a) &&
	             is_canonical(a + 7) && !is_canonical(a + 9)))
		native_first_8(c, op->native, a);
	check_canonical(c, op, a, op->native->size);
	native_exec(c, op->native, a);
	NEXT_ST;
}

/* Masked moves check the elements that count, each for itself. */
void op_native_masked(struct x86_cpu *c, const struct op *op)
{
	OP_SYNC;
	native_exec(c, op->native, ea_offset(c, op) + c->segbase[op->seg]);
	NEXT_ST;
}

/* ---- faults ---- */

void op_ud(struct x86_cpu *c, const struct op *op)
{
	OP_SYNC;
	x86_ud(c);
}

void op_gp0(struct x86_cpu *c, const struct op *op)
{
	OP_SYNC;
	x86_gp(c, 0);
}

/* ---- BT, BTS, BTR, BTC with a memory operand: a register offset reaches beyond the operand (SDM
 * 2A, BT) ---- */

static u64 bit_atomic(void *p, unsigned bt, unsigned size, unsigned bit)
{
	u64 m = 1ull << bit, old;

	/* The value before; fetch_* compile to LOCKed instructions. */
	if (size == 2)
		old = bt == BT_BTS   ? __atomic_fetch_or((u16 *)p, (u16)m, __ATOMIC_SEQ_CST)
		      : bt == BT_BTR ? __atomic_fetch_and((u16 *)p, (u16)~m, __ATOMIC_SEQ_CST)
		                     : __atomic_fetch_xor((u16 *)p, (u16)m, __ATOMIC_SEQ_CST);
	else if (size == 4)
		old = bt == BT_BTS   ? __atomic_fetch_or((u32 *)p, (u32)m, __ATOMIC_SEQ_CST)
		      : bt == BT_BTR ? __atomic_fetch_and((u32 *)p, (u32)~m, __ATOMIC_SEQ_CST)
		                     : __atomic_fetch_xor((u32 *)p, (u32)m, __ATOMIC_SEQ_CST);
	else
		old = bt == BT_BTS   ? __atomic_fetch_or((u64 *)p, m, __ATOMIC_SEQ_CST)
		      : bt == BT_BTR ? __atomic_fetch_and((u64 *)p, ~m, __ATOMIC_SEQ_CST)
		                     : __atomic_fetch_xor((u64 *)p, m, __ATOMIC_SEQ_CST);
	return old;
}

struct bit_op {
	unsigned bt, bit;
};

static u64 bit_changed(u64 old, const void *arg)
{
	const struct bit_op *b = arg;
	u64 m = 1ull << b->bit;

	return b->bt == BT_BTS ? old | m : b->bt == BT_BTR ? old & ~m : old ^ m;
}

/* The old value. Not inline: a handler with the address of one of its variables abroad can't end in
 * a jump to the next one, and would pile up stack. */
static __attribute__((noinline)) u64 bit_rmw(struct x86_cpu *c, const struct op *op, gva_t a,
                                             unsigned bt, unsigned bit)
{
	const struct bit_op b = {bt, bit};
	unsigned n = op->size;
	u64 old;
	void *p;

	if (!(op->aux & 8)) {
		old = op_rmw_ld(c, op, a, n);
		op_rmw_st(c, a, bit_changed(old, &b), n);
		return old;
	}
	if (c->tlb == c->tlbs[TLB_USER_AC] && (a & (n - 1)))
		x86_raise_err(c, X86_AC, 0);
	p = mmu_host(c, a, n, true);
	if (!p)
		return mmu_rmw_locked(c, a, n, bit_changed, &b);
	old = bit_atomic(p, bt, n, bit);
	mmu_wrote(c, a, n);
	return old;
}

void op_bt_mem(struct x86_cpu *c, const struct op *op)
{
	unsigned n = op->size, bits = n * 8, bt = op->aux & 3, bit;
	u64 off = ea_offset(c, op), old;
	bool write = bt != BT_BT;
	gva_t a;

	OP_SYNC;
	if (op->aux & 4) {
		bit = (unsigned)op->imm & (bits - 1);
	} else {
		s64 r = n == 2   ? (s64)REG_AT(c, s16, op->src)
		        : n == 4 ? (s64)REG_AT(c, s32, op->src)
		                 : REG_AT(c, s64, op->src);

		bit = (unsigned)r & (bits - 1);
		off += (u64)((r >> (n == 2 ? 4 : n == 4 ? 5 : 6)) * (s64)n);
		if (op->ea & EA_ADDR32)
			off = (u32)off;
		if (op->ea & EA_ADDR16)
			off = (u16)off;
	}
	a = op->ea & EA_SEG ? x86_linear(c, op->seg, off, n, write) : off + c->segbase[op->seg];
	check_canonical(c, op, a, n);
	old = write ? bit_rmw(c, op, a, bt, bit) : mmu_ld(c, a, n);
	c->aflags = (c->aflags & ~X86_RFLAGS_CF) | (old >> bit & 1);
	NEXT_ST;
}

/* ---- decimal adjust: gone in 64-bit code, so the host can't run them (SDM 2A) ---- */

static u64 szp(u8 v)
{
	return (v ? 0 : X86_RFLAGS_ZF) | (v & 0x80 ? X86_RFLAGS_SF : 0) |
	       (__builtin_parity(v) ? 0 : X86_RFLAGS_PF);
}

static void das_daa(struct x86_cpu *c, bool add)
{
	u8 al = (u8)c->gpr[RAX], old = al;
	bool cf = c->aflags & X86_RFLAGS_CF, af = c->aflags & X86_RFLAGS_AF, ncf = false;

	if ((al & 15) > 9 || af) {
		ncf = cf || (add ? al > 0xf9 : al < 6);
		al = (u8)(add ? al + 6 : al - 6);
		af = true;
	} else {
		af = false;
	}
	if (old > 0x99 || cf) {
		al = (u8)(add ? al + 0x60 : al - 0x60);
		ncf = true;
	}
	REG_AT(c, u8, 0) = al;
	c->aflags = szp(al) | (ncf ? X86_RFLAGS_CF : 0) | (af ? X86_RFLAGS_AF : 0);
}

static void aaa_aas(struct x86_cpu *c, bool add)
{
	u16 ax = (u16)c->gpr[RAX];
	bool adj = (ax & 15) > 9 || (c->aflags & X86_RFLAGS_AF);

	if (adj)
		ax = (u16)(add ? ax + 0x106 : ax - 0x106);
	ax &= 0xff0f;
	REG_AT(c, u16, 0) = ax;
	c->aflags = szp((u8)ax) | (adj ? X86_RFLAGS_CF | X86_RFLAGS_AF : 0);
}

/* aux: opcode (27 DAA, 2F DAS, 37 AAA, 3F AAS, D4 AAM, D5 AAD) */
void op_bcd(struct x86_cpu *c, const struct op *op)
{
	u8 al = (u8)c->gpr[RAX], ah = (u8)(c->gpr[RAX] >> 8), k = (u8)op->imm;

	switch (op->aux) {
	case 0x27:
	case 0x2f:
		das_daa(c, op->aux == 0x27);
		break;
	case 0x37:
	case 0x3f:
		aaa_aas(c, op->aux == 0x37);
		break;
	case 0xd4:
		if (!k) {
			OP_SYNC;
			x86_raise(c, X86_DE);
		}
		REG_AT(c, u16, 0) = (u16)((al / k) << 8 | al % k);
		c->aflags = szp(al % k);
		break;
	default:
		al = (u8)(al + ah * k);
		REG_AT(c, u16, 0) = al;
		c->aflags = szp(al);
	}
	NEXT;
}

void op_bound(struct x86_cpu *c, const struct op *op)
{
	gva_t a;
	s64 idx, lo, hi;

	OP_SYNC;
	a = ea(c, op, op->size * 2u, false);
	if (op->size == 2) {
		idx = REG_AT(c, s16, op->dst);
		lo = (s16)mmu_ld(c, a, 2);
		hi = (s16)mmu_ld(c, a + 2, 2);
	} else {
		idx = REG_AT(c, s32, op->dst);
		lo = (s32)mmu_ld(c, a, 4);
		hi = (s32)mmu_ld(c, a + 4, 4);
	}
	if (idx < lo || idx > hi)
		x86_raise(c, X86_BR);
	NEXT;
}

/* base is rBX; the index AL is added here. */
void op_xlat(struct x86_cpu *c, const struct op *op)
{
	u64 off = c->gpr[RBX] + (u8)c->gpr[RAX];
	gva_t a;

	OP_SYNC;
	if (op->ea & EA_ADDR32)
		off = (u32)off;
	if (op->ea & EA_ADDR16)
		off = (u16)off;
	a = op->ea & EA_SEG ? x86_linear(c, op->seg, off, 1, false) : off + c->segbase[op->seg];
	check_canonical(c, op, a, 1);
	REG_AT(c, u8, 0) = (u8)mmu_ld(c, a, 1);
	NEXT;
}

/* ---- flags image ---- */

void op_pushf(struct x86_cpu *c, const struct op *op)
{
	OP_SYNC;
	x86_push(c, x86_pushf_image(c, op->size), op->size);
	NEXT_ST;
}

void op_popf(struct x86_cpu *c, const struct op *op)
{
	u64 sp = c->gpr[RSP], v;

	OP_SYNC;
	v = x86_pop(c, op->size);
	if (c->mode & M_VM) { /* may raise: the stack pointer must not move then */
		u64 after = c->gpr[RSP];

		c->gpr[RSP] = sp;
		x86_popf(c, v, op->size);
		c->gpr[RSP] = after;
	} else {
		x86_popf(c, v, op->size);
	}
	c->rip = c->next_rip;
	op_chain_any(c, interp_of(c));
}

/* ---- segment registers: dst or src is the enum x86_segreg in aux ---- */

static u16 rm16(struct x86_cpu *c, const struct op *op, bool mem)
{
	return mem ? (u16)mmu_ld(c, ea(c, op, 2, false), 2) : REG_AT(c, u16, op->src);
}

static void after_ss(struct x86_cpu *c)
{
	c->irq_shadow = true;
	c->shadow_db = true;
}

/* MOV Sreg, r/m16. size 0: memory */
void op_mov_sreg(struct x86_cpu *c, const struct op *op)
{
	gva_t a;
	u16 sel;

	OP_SYNC;
	if (!op->size) {
		a = ea(c, op, 2, false);
		check_canonical(c, op, a, 2);
		sel = (u16)mmu_ld(c, a, 2);
	} else {
		sel = rm16(c, op, false);
	}
	x86_load_seg(c, op->aux, sel);
	if (op->aux == SS)
		after_ss(c);
	c->rip = c->next_rip;
	op_chain_any(c, interp_of(c));
}

/* MOV r/m, Sreg. size 0: memory (16 bits) */
void op_mov_from_sreg(struct x86_cpu *c, const struct op *op)
{
	u16 sel = c->seg[op->aux].sel;

	if (!op->size) {
		op_st2(c, op, ea(c, op, 2, true), sel);
		NEXT_ST;
	}
	if (op->size == 2)
		REG_AT(c, u16, op->dst) = sel;
	else
		REG_AT(c, u64, op->dst) = sel;
	NEXT;
}

void op_push_sreg(struct x86_cpu *c, const struct op *op)
{
	OP_SYNC;
	if (op->size == 4) {
		/* Of the 4 bytes processors write the low half only (SDM 2B, PUSH). */
		bool wide = c->mode & M_SS32;
		u64 sp = wide ? (u32)(c->gpr[RSP] - 4) : (u16)(c->gpr[RSP] - 4);

		mmu_st(c, x86_linear(c, SS, sp, 2, true), c->seg[op->aux].sel, 2);
		if (wide)
			c->gpr[RSP] = sp;
		else
			REG_AT(c, u16, GPR_OFF(RSP)) = (u16)sp;
	} else {
		x86_push(c, c->seg[op->aux].sel, op->size);
	}
	NEXT_ST;
}

void op_pop_sreg(struct x86_cpu *c, const struct op *op)
{
	u64 sp = c->gpr[RSP], after;
	u16 sel;

	OP_SYNC;
	sel = (u16)x86_pop(c, op->size);
	after = c->gpr[RSP];
	c->gpr[RSP] = sp;
	if (op->aux == SS) {
		/* The new SS must not change the width of the increment. */
		u64 keep = c->mode;

		x86_load_seg(c, SS, sel);
		if (keep & (M_CS64 | M_SS32))
			c->gpr[RSP] = after;
		else
			REG_AT(c, u16, GPR_OFF(RSP)) = (u16)after;
		after_ss(c);
	} else {
		x86_load_seg(c, op->aux, sel);
		c->gpr[RSP] = after;
	}
	c->rip = c->next_rip;
	op_chain_any(c, interp_of(c));
}

/* LDS LES LSS LFS LGS: offset, then selector */
void op_load_far(struct x86_cpu *c, const struct op *op)
{
	gva_t a;
	u64 off;
	u16 sel;

	OP_SYNC;
	a = ea(c, op, op->size + 2u, false);
	check_canonical(c, op, a, op->size + 2u);
	off = mmu_ld(c, a, op->size);
	sel = (u16)mmu_ld(c, a + op->size, 2);
	x86_load_seg(c, op->aux, sel);
	if (op->size == 2)
		REG_AT(c, u16, op->dst) = (u16)off;
	else
		REG_AT(c, u64, op->dst) = off;
	c->rip = c->next_rip;
	op_chain_any(c, interp_of(c));
}

/* ---- port I/O: aux 1: port in DX ---- */

void op_in(struct x86_cpu *c, const struct op *op)
{
	u16 port = op->aux ? (u16)c->gpr[RDX] : (u8)op->imm;
	u32 v;

	OP_SYNC;
	x86_io_check(c, port, op->size);
	v = x86_in(c, port, op->size);
	if (op->size == 1)
		REG_AT(c, u8, 0) = (u8)v;
	else if (op->size == 2)
		REG_AT(c, u16, 0) = (u16)v;
	else
		c->gpr[RAX] = v;
	NEXT;
}

void op_out(struct x86_cpu *c, const struct op *op)
{
	u16 port = op->aux ? (u16)c->gpr[RDX] : (u8)op->imm;

	OP_SYNC;
	x86_io_check(c, port, op->size);
	x86_out(c, port, (u32)(c->gpr[RAX] & size_mask(op->size)), op->size);
	NEXT;
}
