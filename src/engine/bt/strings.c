// SPDX-License-Identifier: MIT
/* REP MOVS and REP STOS of 64-bit code and of flat 32-bit code, going up: page by page by the
 * host's own instruction. The kernel's clear_page(), copy_page(), copy_to_user() and memset() are
 * these.
 *
 * Registers are right after every piece, so a fault or an interrupt finds them as the processor
 * leaves them (SDM 2B, REP). What isn't plain memory - a device, a page with code, an element over
 * two pages, an address that is not canonical - and everything else is the interpreter's. */
#include "cpu/x86/mmu.h"
#include "engine/bt/helpers.h"

/* How many elements from `addr` lie on its page. */
static u64 on_page(gva_t addr, unsigned shift)
{
	return (PAGE_SIZE - (addr & ~PAGE_MASK)) >> shift;
}

/* The host's address by the TLB, which is filled; may raise #PF. NULL: the interpreter's. */
static u8 *host(struct x86_cpu *c, gva_t addr, bool write)
{
	const struct tlb_entry *e = &c->tlb[(addr >> PAGE_SHIFT) & (TLB_SIZE - 1)];

	if (unlikely((write ? e->w : e->r) != (addr & PAGE_MASK)) &&
	    (!is_canonical(addr) || !mmu_fill(c, addr, write)))
		return NULL;
	return (u8 *)(uintptr_t)(addr + e->addend);
}

static void movs(u8 *di, const u8 *si, u64 n, unsigned shift)
{
	switch (shift) {
	case 0:
		__asm__ volatile("rep movsb" : "+D"(di), "+S"(si), "+c"(n) : : "memory");
		break;
	case 1:
		__asm__ volatile("rep movsw" : "+D"(di), "+S"(si), "+c"(n) : : "memory");
		break;
	case 2:
		__asm__ volatile("rep movsl" : "+D"(di), "+S"(si), "+c"(n) : : "memory");
		break;
	default:
		__asm__ volatile("rep movsq" : "+D"(di), "+S"(si), "+c"(n) : : "memory");
	}
}

static void stos(u8 *di, u64 val, u64 n, unsigned shift)
{
	switch (shift) {
	case 0:
		__asm__ volatile("rep stosb" : "+D"(di), "+c"(n) : "a"(val) : "memory");
		break;
	case 1:
		__asm__ volatile("rep stosw" : "+D"(di), "+c"(n) : "a"(val) : "memory");
		break;
	case 2:
		__asm__ volatile("rep stosl" : "+D"(di), "+c"(n) : "a"(val) : "memory");
		break;
	default:
		__asm__ volatile("rep stosq" : "+D"(di), "+c"(n) : "a"(val) : "memory");
	}
}

/* A piece: elements done; 0: the interpreter's. */
static u64 piece(struct x86_cpu *c, u64 n, unsigned shift, bool move, u64 mask)
{
	u64 *g = c->gpr;
	const u8 *si = NULL;
	u8 *di;

	n = MIN(n, on_page(g[RDI], shift));
	if (move)
		n = MIN(n, on_page(g[RSI], shift));
	if (unlikely(!n))
		return 0;
	if (move) {
		si = host(c, g[RSI] & mask, false);
		if (unlikely(!si))
			return 0;
	}
	di = host(c, g[RDI] & mask, true);
	if (unlikely(!di))
		return 0;
	if (move)
		movs(di, si, n, shift);
	else
		stos(di, g[RAX], n, shift);
	mmu_stored(c, (uintptr_t)di, (unsigned)(n << shift));
	if (move)
		g[RSI] = (g[RSI] + (n << shift)) & mask;
	g[RDI] = (g[RDI] + (n << shift)) & mask;
	g[RCX] = (g[RCX] - n) & mask;
	return n;
}

static int string(struct x86_cpu *c, u32 arg, bool move)
{
	struct bt_cpu *b = bt_of(c);
	/* Registers of the address size; in 32-bit code an element does not wrap on one page. */
	const u64 mask = c->mode & M_CS64 ? ~0ull : ~0u;
	unsigned shift = arg & 3;

	if (unlikely(c->sflags & X86_RFLAGS_DF))
		return h_INTERP(c, arg >> 2);
	while (c->gpr[RCX] & mask) {
		if (unlikely(!piece(c, c->gpr[RCX] & mask, shift, move, mask)))
			return h_INTERP(c, arg >> 2);
		if (!(c->gpr[RCX] & mask))
			break;
		/* The instruction goes on after whatever it is. */
		if (unlikely(__atomic_load_n(&b->attn, __ATOMIC_RELAXED) || bt_pending(c) ||
		             c->code_written))
			return 1;
	}
	return 0;
}

int h_MOVS(struct x86_cpu *c, u32 arg)
{
	return string(c, arg, true);
}

int h_STOS(struct x86_cpu *c, u32 arg)
{
	return string(c, arg, false);
}
