// SPDX-License-Identifier: MIT
/* Loads and stores of guest memory by linear address, when an engine's inline code can't make them:
 * a miss, a device, two pages, a store to a page with code. Whatever may raise is done before
 * anything is changed. */
#include "cpu/x86/mmu_priv.h"

#include <errno.h>

#include "cpu/x86/inputs.h"

static void alignment_check(struct x86_cpu *c, gva_t addr, unsigned size)
{
	if (unlikely(c->tlb == c->tlbs[TLB_USER_AC]) && (addr & (size - 1)))
		x86_raise_err(c, X86_AC, 0);
}

/* ---- stores to pages with code ---- */

void mmu_code_written(struct x86_cpu *c, uintptr_t host, unsigned len)
{
	struct pmap *p = c->pmap;

	if (p->code_hook)
		x86_fpu_put(c); /* it may be ordinary code */
	pmap_code_written(p, pmap_page(p, (const u8 *)host), (u32)(host & ~PAGE_MASK), len);
	c->code_written = true;
	c->vcpu->stats.count[EXIT_SMC]++;
}

static inline void wrote(struct x86_cpu *c, const u8 *host, unsigned len)
{
	mmu_stored(c, (uintptr_t)host, len);
}

/* ---- devices ---- */

static u64 mmio_read(struct x86_cpu *c, gpa_t gpa, unsigned size)
{
	struct vcpu *v = c->vcpu;
	u64 begin = exit_begin(&v->stats);
	struct x86_input in = {.kind = X86_IN_MMIO_READ, .addr = gpa, .size = size};
	u64 val;

	x86_fpu_put(c);
	if (x86_input_take(c, &in))
		val = in.val;
	else if (!v->irqchip || !v->irqchip->mmio ||
	         !v->irqchip->mmio(v->irqchip_dev, gpa, false, &val, size))
		val = bus_read(v->vm->bus, BUS_MMIO, gpa, size);
	val &= size_mask(size);
	in.val = val;
	x86_input_made(c, &in);
	exit_end(&v->stats, EXIT_MMIO_READ, begin);
	return val;
}

static void mmio_write(struct x86_cpu *c, gpa_t gpa, u64 val, unsigned size)
{
	struct vcpu *v = c->vcpu;
	u64 begin = exit_begin(&v->stats);
	struct x86_input in = {
		.kind = X86_IN_MMIO_WRITE, .addr = gpa, .size = size, .val = val & size_mask(size)};

	x86_fpu_put(c);
	if (!x86_input_take(c, &in)) {
		if (!v->irqchip || !v->irqchip->mmio ||
		    !v->irqchip->mmio(v->irqchip_dev, gpa, true, &val, size))
			bus_write(v->vm->bus, BUS_MMIO, gpa, val, size);
		x86_input_made(c, &in);
	}
	exit_end(&v->stats, EXIT_MMIO_WRITE, begin);
}

/* ---- loads and stores ---- */

static u64 load_host(const void *p, unsigned size)
{
	switch (size) {
	case 1:
		return *(const volatile u8 *)p;
	case 2:
		return *(const volatile u16 *)p;
	case 4:
		return *(const volatile u32 *)p;
	}
	return *(const volatile u64 *)p;
}

static void store_host(void *p, u64 val, unsigned size)
{
	switch (size) {
	case 1:
		*(volatile u8 *)p = (u8)val;
		break;
	case 2:
		*(volatile u16 *)p = (u16)val;
		break;
	case 4:
		*(volatile u32 *)p = (u32)val;
		break;
	default:
		*(volatile u64 *)p = val;
	}
}

static unsigned room(gva_t addr)
{
	return (unsigned)(PAGE_SIZE - (addr & ~PAGE_MASK));
}

static gva_t next_page(gva_t addr)
{
	return (addr & PAGE_MASK) + PAGE_SIZE;
}

/* An operand of up to 8 bytes: `n` of them on the page `s`, the others on `t`. */
struct operand {
	struct mmu_span s, t;
	unsigned n, size;
};

/* All that may raise. */
static inline void operand_resolve(struct x86_cpu *c, gva_t addr, unsigned size, u32 access,
                                   struct operand *o)
{
	if (!(access & MMU_SYS))
		alignment_check(c, addr, size);
	o->size = size;
	o->n = MIN(room(addr), size);
	mmu_resolve(c, addr, o->n, access, &o->s);
	if (unlikely(o->n < size))
		mmu_resolve(c, next_page(addr), size - o->n, access, &o->t);
}

static inline u64 operand_ld(struct x86_cpu *c, const struct operand *o)
{
	u64 val = 0;

	if (likely(o->n == o->size))
		return o->s.hva ? load_host(o->s.hva, o->size) : mmio_read(c, o->s.gpa, o->size);
	for (unsigned i = 0; i < o->size; i++) {
		const struct mmu_span *p = i < o->n ? &o->s : &o->t;
		unsigned off = i < o->n ? i : i - o->n;
		u64 b = p->hva ? load_host(p->hva + off, 1) : mmio_read(c, p->gpa + off, 1);

		val |= b << (i * 8);
	}
	return val;
}

/* A store to a page with code of what is there already: boot loaders set the operand of their INT
 * before each call of the firmware. It is done when it was seen to be done, behind all stores
 * before it, and nothing need be translated anew. */
static bool changes_nothing(const struct x86_cpu *c, const u8 *host, u64 val, unsigned size)
{
	if (likely(!mmu_code_marked(c, (uintptr_t)host)))
		return false;
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	return load_host(host, size) == (val & size_mask(size));
}

static inline void operand_st(struct x86_cpu *c, const struct operand *o, u64 val)
{
	if (likely(o->n == o->size)) {
		if (o->s.hva) {
			if (changes_nothing(c, o->s.hva, val, o->size))
				return;
			/* What was made of the old bytes goes first, and once more after the store
			 * if somebody was quick. Else, should this thread be held up between store
			 * and invalidation, one vCPU could run the new code while another still
			 * runs the old, which processors with coherent caches never do. */
			wrote(c, o->s.hva, o->size);
			store_host(o->s.hva, val, o->size);
			wrote(c, o->s.hva, o->size);
		} else {
			mmio_write(c, o->s.gpa, val, o->size);
		}
		return;
	}
	for (unsigned i = 0; i < o->size; i++) {
		const struct mmu_span *p = i < o->n ? &o->s : &o->t;
		unsigned off = i < o->n ? i : i - o->n;

		if (p->hva)
			store_host(p->hva + off, val >> (i * 8), 1);
		else
			mmio_write(c, p->gpa + off, (val >> (i * 8)) & 0xff, 1);
	}
	if (o->s.hva)
		wrote(c, o->s.hva, o->n);
	if (o->t.hva)
		wrote(c, o->t.hva, o->size - o->n);
}

static u64 ld(struct x86_cpu *c, gva_t addr, unsigned size, u32 access)
{
	struct operand o;

	operand_resolve(c, addr, size, access, &o);
	return operand_ld(c, &o);
}

static void st(struct x86_cpu *c, gva_t addr, u64 val, unsigned size, u32 access)
{
	struct operand o;

	operand_resolve(c, addr, size, access | MMU_WRITE, &o);
	operand_st(c, &o, val);
}

u64 mmu_rmw_locked(struct x86_cpu *c, gva_t addr, unsigned size,
                   u64 (*fn)(u64 old, const void *arg), const void *arg)
{
	struct operand o;
	u64 old;

	operand_resolve(c, addr, size, MMU_WRITE, &o);
	mmu_split_lock(c);
	old = operand_ld(c, &o);
	operand_st(c, &o, fn(old, arg));
	mmu_split_unlock(c);
	return old;
}

u64 mmu_ld(struct x86_cpu *c, gva_t addr, unsigned size)
{
	return ld(c, addr, size, MMU_READ);
}

void mmu_st(struct x86_cpu *c, gva_t addr, u64 val, unsigned size)
{
	st(c, addr, val, size, MMU_WRITE);
}

u64 mmu_ld_sys(struct x86_cpu *c, gva_t addr, unsigned size)
{
	return ld(c, addr, size, MMU_READ | MMU_SYS);
}

void mmu_st_sys(struct x86_cpu *c, gva_t addr, u64 val, unsigned size)
{
	st(c, addr, val, size, MMU_WRITE | MMU_SYS);
}

static void copy_piece(struct x86_cpu *c, const struct mmu_span *s, u8 *buf, unsigned n, bool write)
{
	for (unsigned i = 0; i < n;) {
		/* Naturally aligned pieces keep their atomicity; devices see the widest accesses.
		 */
		uintptr_t at = s->hva ? (uintptr_t)s->hva + i : (uintptr_t)(s->gpa + i);
		unsigned k = 8;

		while (k > n - i || (at & (k - 1)))
			k /= 2;
		if (!write) {
			u64 v = s->hva ? load_host(s->hva + i, k) : mmio_read(c, s->gpa + i, k);

			for (unsigned b = 0; b < k; b++)
				buf[i + b] = (u8)(v >> (b * 8));
		} else {
			u64 v = 0;

			for (unsigned b = 0; b < k; b++)
				v |= (u64)buf[i + b] << (b * 8);
			if (s->hva)
				store_host(s->hva + i, v, k);
			else
				mmio_write(c, s->gpa + i, v, k);
		}
		i += k;
	}
	if (write && s->hva)
		wrote(c, s->hva, n);
}

static void rw(struct x86_cpu *c, gva_t addr, u8 *buf, unsigned len, u32 access)
{
	struct mmu_span s, t = {0};
	unsigned n = MIN(room(addr), len);

	mmu_resolve(c, addr, n, access, &s);
	if (n < len)
		mmu_resolve(c, next_page(addr), len - n, access, &t);
	copy_piece(c, &s, buf, n, access & MMU_WRITE);
	if (n < len)
		copy_piece(c, &t, buf + n, len - n, access & MMU_WRITE);
}

void mmu_read(struct x86_cpu *c, gva_t addr, void *buf, unsigned len)
{
	rw(c, addr, buf, len, MMU_READ);
}

void mmu_write(struct x86_cpu *c, gva_t addr, const void *buf, unsigned len)
{
	rw(c, addr, (u8 *)buf, len, MMU_WRITE);
}

void mmu_probe_write(struct x86_cpu *c, gva_t addr, unsigned len)
{
	struct mmu_span s;
	unsigned n = MIN(room(addr), len);

	mmu_resolve(c, addr, n, MMU_WRITE, &s);
	if (n < len)
		mmu_resolve(c, next_page(addr), len - n, MMU_WRITE, &s);
}

void *mmu_host(struct x86_cpu *c, gva_t addr, unsigned len, bool write)
{
	struct mmu_span s;

	if (len > room(addr))
		return NULL;
	mmu_resolve(c, addr, len, write ? MMU_WRITE : MMU_READ, &s);
	return s.hva;
}

void mmu_wrote(struct x86_cpu *c, gva_t addr, unsigned len)
{
	unsigned n = MIN(room(addr), len);
	struct mmu_span s;

	mmu_resolve(c, addr, n, MMU_WRITE, &s);
	if (s.hva)
		wrote(c, s.hva, n);
	if (n < len) {
		mmu_resolve(c, next_page(addr), len - n, MMU_WRITE, &s);
		if (s.hva)
			wrote(c, s.hva, len - n);
	}
}

void mmu_split_lock(struct x86_cpu *c)
{
	x86_fpu_put(c);
	pthread_mutex_lock(&c->vcpu->vm->split_lock);
}

void mmu_split_unlock(struct x86_cpu *c)
{
	pthread_mutex_unlock(&c->vcpu->vm->split_lock);
}

/* ---- the debugger ---- */

int mmu_debug_rw(struct x86_cpu *c, gva_t addr, void *buf, u64 len, bool write)
{
	u8 *p = buf;

	while (len) {
		u64 n = MIN(len, PAGE_SIZE - (addr & ~PAGE_MASK));
		gpa_t gpa;
		int err;

		if (!mmu_probe(c, addr, &gpa))
			return -EFAULT;
		err = write ? pmap_write(c->pmap, gpa, p, n) : pmap_read(c->pmap, gpa, p, n);
		if (err)
			return err;
		p += n;
		addr += n;
		len -= n;
	}
	return 0;
}
