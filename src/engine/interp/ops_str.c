// SPDX-License-Identifier: MIT
/* String instructions. With REP they work page by page with the host's own REP instruction, up or
 * down, where both operands are plain memory; else element by element. Registers are right after
 * every piece, so faults and interrupts find an exact state; between pieces a pending request ends
 * the instruction with RIP still on it (SDM 2B, REP). */
#include "cpu/x86/desc.h"
#include "engine/interp/op.h"

struct str {
	struct x86_cpu *c;
	const struct op *op;
	unsigned n;   /* element size */
	u64 mask;     /* address size */
	unsigned seg; /* source */
	u64 flags; /* of the last comparison; c->aflags once the instruction ends or is interrupted,
	            * not when it faults */
	s64 step;
};

static u64 get_cx(const struct str *s)
{
	return s->c->gpr[RCX] & s->mask;
}

/* Address-size writes: 32-bit ones zero the upper half, 16-bit ones leave it. */
static void set_addr_reg(const struct str *s, unsigned r, u64 v)
{
	if (s->mask == 0xffff)
		*(u16 *)&s->c->gpr[r] = (u16)v;
	else
		s->c->gpr[r] = v & s->mask;
}

static gva_t str_addr(const struct str *s, unsigned seg, u64 off, bool write)
{
	struct x86_cpu *c = s->c;
	gva_t a;

	off &= s->mask;
	if (!(c->mode & M_CS64))
		return x86_linear(c, seg, off, s->n, write);
	a = off + c->segbase[seg];
	if (unlikely(!is_canonical(a) || !is_canonical(a + s->n - 1)))
		x86_raise_err(c, seg == SS ? X86_SS : X86_GP, 0);
	return a;
}

static gva_t src(const struct str *s)
{
	return str_addr(s, s->seg, s->c->gpr[RSI], false);
}

static gva_t dst(const struct str *s, bool write)
{
	return str_addr(s, ES, s->c->gpr[RDI], write);
}

static void advance(const struct str *s, bool si, bool di, u64 count)
{
	if (si)
		set_addr_reg(s, RSI, s->c->gpr[RSI] + (u64)s->step * count);
	if (di)
		set_addr_reg(s, RDI, s->c->gpr[RDI] + (u64)s->step * count);
}

static u64 cmp_flags(u64 a, u64 b, unsigned n)
{
	unsigned sh = 64 - 8 * n;
	u64 f, x = a << sh, y = b << sh;

	/* AF is that of the low nibble: compute it by hand, the others from the shifted operands.
	 */
	__asm__ volatile("cmpq %[y], %[x]; pushfq; popq %[f]"
	                 : [f] "=r"(f)
	                 : [x] "r"(x), [y] "r"(y)
	                 : "cc");
	if (sh) {
		f &= ~(X86_RFLAGS_AF | X86_RFLAGS_PF);
		f |= ((a & 15) < (b & 15) ? X86_RFLAGS_AF : 0);
		f |= __builtin_parity((unsigned)((a - b) & 0xff)) ? 0 : X86_RFLAGS_PF;
	}
	return f;
}

/* How many elements from that at `a` on lie on its page, of `count`. */
static u64 in_page(const struct str *s, gva_t a, u64 count)
{
	u64 room = PAGE_SIZE - (a & ~PAGE_MASK);

	if (s->step < 0)
		return room < s->n ? 0 : MIN(count, (a & ~PAGE_MASK) / s->n + 1);
	return MIN(count, room / s->n);
}

/* The lowest of k elements from `at` on. */
static u64 lowest(const struct str *s, u64 at, u64 k)
{
	return s->step < 0 ? at - (k - 1) * s->n : at;
}

static bool bulk_ok(const struct str *s)
{
	const struct x86_cpu *c = s->c;

	return !c->step && c->tlb != c->tlbs[TLB_USER_AC];
}

/* k elements, which lie on one page, from an offset on: it does not wrap in the address size, and
 * all are inside the segment. */
static bool piece_fits(const struct str *s, unsigned seg, u64 off, u64 k)
{
	const struct x86_seg *d = &s->c->seg[seg];
	unsigned size = (unsigned)(k * s->n);

	off = lowest(s, off & s->mask, k) & s->mask;
	return size - 1 <= s->mask - off &&
	       ((s->c->mode & M_CS64) || !seg_outside(d->ar, d->limit, off, size));
}

static void one(struct str *s, enum str_op what)
{
	struct x86_cpu *c = s->c;
	unsigned n = s->n;

	switch (what) {
	case STR_MOVS: {
		u64 v = mmu_ld(c, src(s), n);

		mmu_st(c, dst(s, true), v, n);
		advance(s, true, true, 1);
		break;
	}
	case STR_STOS:
		mmu_st(c, dst(s, true), c->gpr[RAX] & size_mask(n), n);
		advance(s, false, true, 1);
		break;
	case STR_LODS: {
		u64 v = mmu_ld(c, src(s), n);

		if (n == 1)
			*(u8 *)&c->gpr[RAX] = (u8)v;
		else if (n == 2)
			*(u16 *)&c->gpr[RAX] = (u16)v;
		else
			c->gpr[RAX] = v;
		advance(s, true, false, 1);
		break;
	}
	case STR_SCAS:
		s->flags = cmp_flags(c->gpr[RAX] & size_mask(n), mmu_ld(c, dst(s, false), n), n);
		advance(s, false, true, 1);
		break;
	case STR_CMPS: {
		u64 v = mmu_ld(c, src(s), n);

		s->flags = cmp_flags(v, mmu_ld(c, dst(s, false), n), n);
		advance(s, true, true, 1);
		break;
	}
	}
}

/* Of k elements the bytes to be asked for from the first one's address on, which is the one that
 * faults: what lies below it is on its page. */
static unsigned first_span(const struct str *s, u64 k)
{
	return (unsigned)(s->step < 0 ? s->n : k * s->n);
}

/* `op` with each size's suffix, going as the guest's does. */
#define REP_INSN(op)                                                                               \
	switch (s->n | (s->step < 0 ? 16 : 0)) {                                                   \
	case 1:                                                                                    \
		op("", "b", "");                                                                   \
		break;                                                                             \
	case 2:                                                                                    \
		op("", "w", "");                                                                   \
		break;                                                                             \
	case 4:                                                                                    \
		op("", "l", "");                                                                   \
		break;                                                                             \
	case 8:                                                                                    \
		op("", "q", "");                                                                   \
		break;                                                                             \
	case 17:                                                                                   \
		op("std; ", "b", "; cld");                                                         \
		break;                                                                             \
	case 18:                                                                                   \
		op("std; ", "w", "; cld");                                                         \
		break;                                                                             \
	case 20:                                                                                   \
		op("std; ", "l", "; cld");                                                         \
		break;                                                                             \
	default:                                                                                   \
		op("std; ", "q", "; cld");                                                         \
	}

#define MOVS(before, x, after)                                                                     \
	__asm__ volatile(before "rep movs" x after                                                 \
	                 : "+S"(si), "+D"(di), "+c"(left)                                          \
	                 :                                                                         \
	                 : "memory", "cc")
#define STOS(before, x, after)                                                                     \
	__asm__ volatile(before "rep stos" x after                                                 \
	                 : "+D"(di), "+c"(left)                                                    \
	                 : "a"(c->gpr[RAX])                                                        \
	                 : "memory", "cc")
#define SCAS(before, x, after)                                                                     \
	do {                                                                                       \
		if (s->op->aux & STR_REPNE)                                                        \
			__asm__ volatile(before "repne scas" x "; pushfq; popq %[f]" after         \
			                 : "+D"(di), "+c"(left), [f] "=r"(s->flags)                \
			                 : "a"(c->gpr[RAX])                                        \
			                 : "memory", "cc");                                        \
		else                                                                               \
			__asm__ volatile(before "repe scas" x "; pushfq; popq %[f]" after          \
			                 : "+D"(di), "+c"(left), [f] "=r"(s->flags)                \
			                 : "a"(c->gpr[RAX])                                        \
			                 : "memory", "cc");                                        \
	} while (0)
#define CMPS(before, x, after)                                                                     \
	do {                                                                                       \
		if (s->op->aux & STR_REPNE)                                                        \
			__asm__ volatile(before "repne cmps" x "; pushfq; popq %[f]" after         \
			                 : "+S"(si), "+D"(di), "+c"(left), [f] "=r"(s->flags)      \
			                 :                                                         \
			                 : "memory", "cc");                                        \
		else                                                                               \
			__asm__ volatile(before "repe cmps" x "; pushfq; popq %[f]" after          \
			                 : "+S"(si), "+D"(di), "+c"(left), [f] "=r"(s->flags)      \
			                 :                                                         \
			                 : "memory", "cc");                                        \
	} while (0)

/* A piece of up to `count` elements with the host's own instruction. Elements done; 0: do one by
 * one. */
static u64 bulk(struct str *s, enum str_op what, u64 count, bool *stop)
{
	struct x86_cpu *c = s->c;
	void *di = NULL;
	const void *si = NULL;
	gva_t da = 0;
	u64 k = count, left;

	if (what != STR_STOS && what != STR_SCAS) {
		gva_t sa = src(s);

		k = in_page(s, sa, k);
		if (!k || !piece_fits(s, s->seg, c->gpr[RSI], k))
			return 0;
		si = mmu_host(c, sa, first_span(s, k), false);
		if (!si)
			return 0;
	}
	if (what != STR_LODS) {
		bool write = what == STR_MOVS || what == STR_STOS;

		da = dst(s, write);
		k = in_page(s, da, k);
		if (!k || !piece_fits(s, ES, c->gpr[RDI], k))
			return 0;
		di = mmu_host(c, da, first_span(s, k), write);
		if (!di)
			return 0;
	}
	left = k;
	switch (what) {
	case STR_MOVS:
		REP_INSN(MOVS)
		break;
	case STR_STOS:
		REP_INSN(STOS)
		break;
	case STR_LODS:
		/* Only the last element matters. */
		set_addr_reg(s, RSI, c->gpr[RSI] + (k - 1) * (u64)s->step);
		one(s, STR_LODS);
		return k;
	case STR_SCAS:
		REP_INSN(SCAS)
		break;
	case STR_CMPS:
		REP_INSN(CMPS)
		break;
	}
	s->flags &= ~(u64)X86_RFLAGS_DF; /* the host's just now */
	k -= left;
	if (what == STR_MOVS || what == STR_STOS)
		mmu_wrote(c, lowest(s, da, k), (unsigned)(k * s->n));
	advance(s, what == STR_MOVS || what == STR_CMPS, true, k);
	if (what == STR_SCAS || what == STR_CMPS)
		*stop = !!(s->flags & X86_RFLAGS_ZF) == !!(s->op->aux & STR_REPNE);
	return k;
}

static void str_op(struct x86_cpu *c, const struct op *op, enum str_op what, unsigned n)
{
	struct str s = {.c = c, .op = op, .n = n, .seg = op->seg, .flags = c->aflags};
	u64 cx;

	OP_SYNC;
	s.mask = op->aux & STR_A16 ? 0xffff : op->aux & STR_A32 ? 0xffffffff : ~0ull;
	s.step = c->sflags & X86_RFLAGS_DF ? -(s64)n : (s64)n;
	if (!(op->aux & (STR_REP | STR_REPNE))) {
		one(&s, what);
		c->aflags = s.flags;
		NEXT_ST;
	}
	while ((cx = get_cx(&s))) {
		bool stop = false;
		u64 k = bulk_ok(&s) ? bulk(&s, what, cx, &stop) : 0;

		if (!k) {
			one(&s, what);
			k = 1;
			if (what == STR_SCAS || what == STR_CMPS)
				stop = !!(s.flags & X86_RFLAGS_ZF) == !!(op->aux & STR_REPNE);
		}
		set_addr_reg(&s, RCX, cx - k);
		if (stop || cx == k)
			break;
		if (unlikely(interp_attention(c) || c->step || c->code_written)) {
			c->aflags = s.flags;
			return; /* RIP is still here: go on after the event */
		}
	}
	c->aflags = s.flags;
	NEXT_ST;
}

#define STR_FN(name, what)                                                                         \
	static void op_##name##1(struct x86_cpu * c, const struct op *op)                          \
	{                                                                                          \
		str_op(c, op, what, 1);                                                            \
	}                                                                                          \
	static void op_##name##2(struct x86_cpu * c, const struct op *op)                          \
	{                                                                                          \
		str_op(c, op, what, 2);                                                            \
	}                                                                                          \
	static void op_##name##4(struct x86_cpu * c, const struct op *op)                          \
	{                                                                                          \
		str_op(c, op, what, 4);                                                            \
	}                                                                                          \
	static void op_##name##8(struct x86_cpu * c, const struct op *op)                          \
	{                                                                                          \
		str_op(c, op, what, 8);                                                            \
	}
STR_FN(movs, STR_MOVS)
STR_FN(stos, STR_STOS)
STR_FN(lods, STR_LODS)
STR_FN(scas, STR_SCAS)
STR_FN(cmps, STR_CMPS)
#define STR_ROW(name)                                                                              \
	{                                                                                          \
		op_##name##1, op_##name##2, op_##name##4, op_##name##8                             \
	}
op_fn *const ops_str[5][4] = {STR_ROW(movs), STR_ROW(stos), STR_ROW(lods), STR_ROW(scas),
                              STR_ROW(cmps)};

/* ---- INS, OUTS: one element at a time, permission checked once ---- */

static void io_str(struct x86_cpu *c, const struct op *op, bool in)
{
	struct str s = {.c = c, .op = op, .n = op->size, .seg = op->seg};
	u16 port = (u16)c->gpr[RDX];
	bool rep = op->aux & (STR_REP | STR_REPNE);

	OP_SYNC;
	s.mask = op->aux & STR_A16 ? 0xffff : op->aux & STR_A32 ? 0xffffffff : ~0ull;
	s.step = c->sflags & X86_RFLAGS_DF ? -(s64)s.n : (s64)s.n;
	x86_io_check(c, port, s.n);
	while (!rep || get_cx(&s)) {
		if (in) {
			gva_t a = dst(&s, true);

			mmu_probe_write(c, a, s.n); /* before the device is touched */
			mmu_st(c, a, x86_in(c, port, s.n), s.n);
			advance(&s, false, true, 1);
		} else {
			x86_out(c, port, (u32)mmu_ld(c, src(&s), s.n), s.n);
			advance(&s, true, false, 1);
		}
		if (!rep)
			break;
		set_addr_reg(&s, RCX, get_cx(&s) - 1);
		if (get_cx(&s) && unlikely(interp_attention(c) || c->step || c->code_written))
			return;
	}
	NEXT_ST;
}

void op_ins(struct x86_cpu *c, const struct op *op)
{
	io_str(c, op, true);
}

void op_outs(struct x86_cpu *c, const struct op *op)
{
	io_str(c, op, false);
}
