// SPDX-License-Identifier: MIT
/* Control transfer and the stack. 64-bit forms are written out, since nearly all code uses them;
 * the generic ones go through cpu/x86's x86_push, x86_pop and x86_check_target. Handlers that leave
 * the straight line end in op_chain() (to the next block) or just return (to the loop in run.c). */
#include "engine/interp/op.h"

static void need_canonical(struct x86_cpu *c, const struct op *op, u64 target)
{
	if (unlikely(!is_canonical(target))) {
		OP_SYNC;
		x86_gp(c, 0);
	}
}

/* ---- near jumps, 64-bit: imm is relative to the block's start ---- */

void op_jmp(struct x86_cpu *c, const struct op *op)
{
	op_chain(c, interp_of(c), c->gpr[REG_IP] + op->imm, 1);
}

#define JCC_FN(CC)                                                                                 \
	static void op_jcc##CC(struct x86_cpu *c, const struct op *op)                             \
	{                                                                                          \
		if (cond(c->aflags, CC))                                                           \
			op_chain(c, interp_of(c), c->gpr[REG_IP] + op->imm, 1);                    \
		else                                                                               \
			op_chain(c, interp_of(c), c->gpr[REG_IP] + op->off + op->len, 0);          \
	}
/* clang-format off */
JCC_FN(0) JCC_FN(1) JCC_FN(2) JCC_FN(3) JCC_FN(4) JCC_FN(5) JCC_FN(6) JCC_FN(7)
JCC_FN(8) JCC_FN(9) JCC_FN(10) JCC_FN(11) JCC_FN(12) JCC_FN(13) JCC_FN(14) JCC_FN(15)

op_fn *const ops_jcc[16] = {
	op_jcc0, op_jcc1, op_jcc2,  op_jcc3,  op_jcc4,  op_jcc5,  op_jcc6,  op_jcc7,
	op_jcc8, op_jcc9, op_jcc10, op_jcc11, op_jcc12, op_jcc13, op_jcc14, op_jcc15,
};
/* clang-format on */

/* Indirect: dst is a register offset; size 0: memory operand of 8 bytes. */
static u64 ind_target(struct x86_cpu *c, const struct op *op)
{
	return op->size ? REG_AT(c, u64, op->dst) : op_ld8(c, op, ea(c, op, 8, false));
}

void op_jmp_ind(struct x86_cpu *c, const struct op *op)
{
	u64 target = ind_target(c, op);

	need_canonical(c, op, target);
	op_chain(c, interp_of(c), target, -1);
}

void op_call64(struct x86_cpu *c, const struct op *op)
{
	u64 sp = c->gpr[RSP] - 8;

	op_st8(c, op, sp, c->gpr[REG_IP] + op->off + op->len);
	c->gpr[RSP] = sp;
	op_chain(c, interp_of(c), c->gpr[REG_IP] + op->imm, 1);
}

void op_call_ind(struct x86_cpu *c, const struct op *op)
{
	u64 target = ind_target(c, op);
	u64 sp = c->gpr[RSP] - 8;

	if (unlikely(!is_canonical(sp) || !is_canonical(sp + 7))) {
		OP_SYNC;
		x86_raise_err(c, X86_SS, 0); /* op->seg is the target operand's */
	}
	if (unlikely(!is_canonical(target))) { /* the push's faults come first */
		OP_SYNC;
		mmu_probe_write(c, sp, 8);
		x86_gp(c, 0);
	}
	op_st8(c, op, sp, c->gpr[REG_IP] + op->off + op->len);
	c->gpr[RSP] = sp;
	op_chain(c, interp_of(c), target, -1);
}

void op_ret64(struct x86_cpu *c, const struct op *op)
{
	u64 target = op_ld8(c, op, c->gpr[RSP]);

	need_canonical(c, op, target);
	c->gpr[RSP] += 8 + op->imm;
	op_chain(c, interp_of(c), target, -1);
}

/* ---- near jumps of the other modes: size is the operand size ---- */

static u64 trunc_ip(u64 ip, unsigned size)
{
	return size == 2 ? (u16)ip : size == 4 ? (u32)ip : ip;
}

static void jump_gen(struct x86_cpu *c, u64 target)
{
	x86_check_target(c, target);
	op_chain(c, interp_of(c), target, -1);
}

void op_jmp_gen(struct x86_cpu *c, const struct op *op)
{
	OP_SYNC;
	if (op->aux == 0) /* direct */
		jump_gen(c, trunc_ip(c->gpr[REG_IP] + op->imm, op->size));
	else if (op->aux == 1)
		jump_gen(c, trunc_ip(REG_AT(c, u64, op->dst), op->size));
	else
		jump_gen(c, mmu_ld(c, ea_checked(c, op, op->size, false), op->size));
}

void op_call_gen(struct x86_cpu *c, const struct op *op)
{
	u64 target;

	OP_SYNC;
	if (op->aux == 0)
		target = trunc_ip(c->gpr[REG_IP] + op->imm, op->size);
	else if (op->aux == 1)
		target = trunc_ip(REG_AT(c, u64, op->dst), op->size);
	else
		target = mmu_ld(c, ea_checked(c, op, op->size, false), op->size);
	x86_check_target(c, target);
	x86_push(c, trunc_ip(c->next_rip, op->size), op->size);
	op_chain(c, interp_of(c), target, -1);
}

static void add_sp(struct x86_cpu *c, u64 n)
{
	if (c->mode & M_CS64)
		c->gpr[RSP] += n;
	else if (c->mode & M_SS32)
		c->gpr[RSP] = (u32)(c->gpr[RSP] + n);
	else
		REG_AT(c, u16, GPR_OFF(RSP)) += (u16)n;
}

void op_ret_gen(struct x86_cpu *c, const struct op *op)
{
	u64 sp = c->gpr[RSP], target;

	OP_SYNC;
	target = x86_pop(c, op->size);
	if (!(c->mode & M_CS64) && target > c->seg[CS].limit) {
		c->gpr[RSP] = sp;
		x86_gp(c, 0);
	}
	add_sp(c, op->imm);
	op_chain(c, interp_of(c), target, -1);
}

/* Jcc, LOOPcc and JCXZ outside 64-bit code; LOOPcc and JCXZ in all. aux: condition, or 16 LOOPNE,
 * 17 LOOPE, 18 LOOP, 19 JCXZ; scale: the count register's size. */
void op_jcc_gen(struct x86_cpu *c, const struct op *op)
{
	bool taken;

	OP_SYNC;
	if (op->aux < 16) {
		taken = cond(c->aflags, op->aux);
	} else {
		u64 n = op->scale == 8   ? c->gpr[RCX]
		        : op->scale == 4 ? (u32)c->gpr[RCX]
		                         : (u16)c->gpr[RCX];
		bool zf = c->aflags & X86_RFLAGS_ZF;

		if (op->aux == 19) {
			taken = n == 0;
		} else {
			n--;
			taken = op->scale == 8 ? n : op->scale == 4 ? (u32)n : (u16)n;
			if (op->aux == 16)
				taken = taken && !zf;
			else if (op->aux == 17)
				taken = taken && zf;
		}
		if (taken) /* the target is checked before the count changes */
			x86_check_target(c, trunc_ip(c->gpr[REG_IP] + op->imm, op->size));
		if (op->aux != 19) {
			if (op->scale == 8)
				c->gpr[RCX] = n;
			else if (op->scale == 4)
				c->gpr[RCX] = (u32)n;
			else
				REG_AT(c, u16, GPR_OFF(RCX)) = (u16)n;
		}
	}
	if (taken)
		jump_gen(c, trunc_ip(c->gpr[REG_IP] + op->imm, op->size));
	else
		op_chain(c, interp_of(c), c->next_rip, 0);
}

/* ---- far ---- */

static void far_operand(struct x86_cpu *c, const struct op *op, u16 *sel, u64 *off)
{
	if (op->aux) { /* memory: offset, then selector */
		gva_t a = ea_checked(c, op, op->size + 2u, false);
		u8 buf[10];

		mmu_read(c, a, buf, op->size + 2u);
		*off = 0;
		for (unsigned i = 0; i < op->size; i++)
			*off |= (u64)buf[i] << (8 * i);
		*sel = (u16)(buf[op->size] | buf[op->size + 1] << 8);
	} else {
		*sel = (u16)(op->imm >> 48);
		*off = op->imm & 0xffffffffffffull;
	}
}

void op_jmp_far(struct x86_cpu *c, const struct op *op)
{
	u16 sel;
	u64 off;

	OP_SYNC;
	far_operand(c, op, &sel, &off);
	x86_far_jmp(c, sel, off, op->size);
}

void op_call_far(struct x86_cpu *c, const struct op *op)
{
	u16 sel;
	u64 off;

	OP_SYNC;
	far_operand(c, op, &sel, &off);
	x86_far_call(c, sel, off, op->size);
}

void op_retf(struct x86_cpu *c, const struct op *op)
{
	OP_SYNC;
	x86_far_ret(c, op->size, (u16)op->imm);
	op_chain_any(c, interp_of(c));
}

void op_iret(struct x86_cpu *c, const struct op *op)
{
	OP_SYNC;
	x86_iret(c, op->size);
	op_chain_any(c, interp_of(c));
}

/* aux: 0 INT n, 1 INT3, 2 INTO, 3 INT1 */
void op_int(struct x86_cpu *c, const struct op *op)
{
	static const enum x86_ev_type type[] = {EV_SOFT, EV_SOFT_XCPT, EV_SOFT_XCPT, EV_ICEBP};

	OP_SYNC;
	c->vcpu->stats.count[EXIT_SOFT_INT]++;
	if (op->aux == 2 && !(c->aflags & X86_RFLAGS_OF)) {
		op_chain(c, interp_of(c), c->next_rip, 0);
		return;
	}
	x86_soft_int(c, (u8)op->imm, type[op->aux]);
}

/* ---- PUSH and POP ---- */

void op_push64_r(struct x86_cpu *c, const struct op *op)
{
	u64 sp = c->gpr[RSP] - 8;

	op_st8(c, op, sp, REG_AT(c, u64, op->src));
	c->gpr[RSP] = sp;
	NEXT_ST;
}

void op_push64_i(struct x86_cpu *c, const struct op *op)
{
	u64 sp = c->gpr[RSP] - 8;

	op_st8(c, op, sp, op->imm);
	c->gpr[RSP] = sp;
	NEXT_ST;
}

void op_pop64_r(struct x86_cpu *c, const struct op *op)
{
	u64 v = op_ld8(c, op, c->gpr[RSP]);

	c->gpr[RSP] += 8;
	REG_AT(c, u64, op->dst) = v;
	NEXT;
}

static void set_reg(struct x86_cpu *c, u8 off, u64 v, unsigned size)
{
	switch (size) {
	case 1:
		REG_AT(c, u8, off) = (u8)v;
		break;
	case 2:
		REG_AT(c, u16, off) = (u16)v;
		break;
	case 4:
		REG_AT(c, u64, off) = (u32)v;
		break;
	default:
		REG_AT(c, u64, off) = v;
	}
}

static u64 get_reg(struct x86_cpu *c, u8 off, unsigned size)
{
	return REG_AT(c, u64, off) & size_mask(size);
}

/* aux: 0 register, 1 immediate, 2 memory */
void op_push_gen(struct x86_cpu *c, const struct op *op)
{
	u64 v;

	OP_SYNC;
	if (op->aux == 0)
		v = get_reg(c, op->src, op->size);
	else if (op->aux == 1)
		v = op->imm & size_mask(op->size);
	else
		v = mmu_ld(c, ea_checked(c, op, op->size, false), op->size);
	x86_push(c, v, op->size);
	NEXT_ST;
}

void op_pop_gen(struct x86_cpu *c, const struct op *op)
{
	u64 sp = c->gpr[RSP], v;

	OP_SYNC;
	v = x86_pop(c, op->size);
	if (op->aux == 0) {
		set_reg(c, op->dst, v, op->size);
		NEXT;
	} else {
		/* The address is computed with the incremented stack pointer; a fault restores it.
		 */
		u64 after = c->gpr[RSP];
		u64 off = ea_offset(c, op);
		gva_t a;

		c->gpr[RSP] = sp;
		a = op->ea & EA_SEG ? x86_linear(c, op->seg, off, op->size, true)
		                    : off + c->segbase[op->seg];
		if ((c->mode & M_CS64) && (!is_canonical(a) || !is_canonical(a + op->size - 1)))
			x86_raise_err(c, op->seg == SS ? X86_SS : X86_GP, 0);
		mmu_st(c, a, v, op->size);
		c->gpr[RSP] = after;
		NEXT_ST;
	}
}

void op_pusha(struct x86_cpu *c, const struct op *op)
{
	u64 sp = c->gpr[RSP];
	unsigned n = op->size;

	OP_SYNC;
	/* Check the whole frame first, so that a fault leaves nothing changed. */
	{
		u64 lo = c->mode & M_SS32 ? (u32)(sp - 8 * n) : (u16)(sp - 8 * n);

		mmu_probe_write(c, x86_linear(c, SS, lo, 8 * n, true), 8 * n);
	}
	for (unsigned r = RAX; r <= RDI; r++)
		x86_push(c, (r == RSP ? sp : c->gpr[r]) & size_mask(n), n);
	NEXT_ST;
}

void op_popa(struct x86_cpu *c, const struct op *op)
{
	u64 sp = c->gpr[RSP];
	u64 v[8];
	unsigned n = op->size;

	OP_SYNC;
	for (unsigned i = 0; i < 8; i++) {
		u64 o = sp + i * n;

		o = c->mode & M_SS32 ? (u32)o : (u16)o;
		v[7 - i] = mmu_ld(c, x86_linear(c, SS, o, n, false), n);
	}
	for (unsigned r = RAX; r <= RDI; r++)
		if (r != RSP)
			set_reg(c, GPR_OFF(r), v[r], n);
	add_sp(c, 8 * n);
	NEXT;
}

/* imm: size | level << 16 */
void op_enter(struct x86_cpu *c, const struct op *op)
{
	u64 sp = c->gpr[RSP], bp = c->gpr[RBP], frame;
	unsigned level = (op->imm >> 16) & 31, n = op->size;
	unsigned alloc = op->imm & 0xffff;

	OP_SYNC;
	/* RSP must come back when a later push faults: probe the whole new frame below. */
	{
		u64 lo = sp - (u64)n * (level ? level + 1 : 1);
		u64 last = sp - (u64)n * (level ? level + 1 : 1) - alloc;
		u64 m = c->mode & M_CS64 ? ~0ull : c->mode & M_SS32 ? 0xffffffff : 0xffff;

		mmu_probe_write(c, x86_linear(c, SS, lo & m, (unsigned)(sp - lo), true),
		                (unsigned)(sp - lo));
		/* SDM: the final stack pointer must be writable too */
		mmu_probe_write(c, x86_linear(c, SS, last & m, n, true), 1);
	}
	if (level > 1) /* read the display before anything changes */
		for (unsigned i = 1; i < level; i++) {
			u64 o = bp - i * n;

			o = c->mode & M_CS64 ? o : c->mode & M_SS32 ? (u32)o : (u16)o;
			(void)mmu_ld(c, x86_linear(c, SS, o, n, false), n);
		}
	x86_push(c, bp & size_mask(n), n);
	frame = c->gpr[RSP];
	for (unsigned i = 1; i < level; i++) {
		u64 o = bp - i * n;

		o = c->mode & M_CS64 ? o : c->mode & M_SS32 ? (u32)o : (u16)o;
		x86_push(c, mmu_ld(c, x86_linear(c, SS, o, n, false), n), n);
	}
	if (level)
		x86_push(c, frame & size_mask(n), n);
	set_reg(c, GPR_OFF(RBP), frame, n);
	add_sp(c, 0 - (u64)alloc);
	NEXT_ST;
}

void op_leave64(struct x86_cpu *c, const struct op *op)
{
	u64 bp = c->gpr[RBP];
	u64 v = op_ld8(c, op, bp);

	c->gpr[RSP] = bp + 8;
	c->gpr[RBP] = v;
	NEXT;
}

void op_leave(struct x86_cpu *c, const struct op *op)
{
	u64 sp = c->mode & M_CS64   ? c->gpr[RBP]
	         : c->mode & M_SS32 ? (u32)c->gpr[RBP]
	                            : (u16)c->gpr[RBP];
	u64 v;

	OP_SYNC;
	v = mmu_ld(c, x86_linear(c, SS, sp, op->size, false), op->size);
	if (c->mode & (M_CS64 | M_SS32))
		c->gpr[RSP] = sp;
	else
		REG_AT(c, u16, GPR_OFF(RSP)) = (u16)sp;
	add_sp(c, op->size);
	set_reg(c, GPR_OFF(RBP), v, op->size);
	NEXT;
}
