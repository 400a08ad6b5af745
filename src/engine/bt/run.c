// SPDX-License-Identifier: MIT
/* The run loop: look at what has happened, find or make the unit at c->rip, enter it; and what the
 * stubs call.
 *
 * Whatever translated code can't do, the interpreter does: other modes, single steps, breakpoints,
 * interrupt shadows, pages that are written all the time. It is always right to execute the next
 * instruction by interp instead.
 *
 * One code page, several modes. Direct branches and links stay in their mode. The jump cache and
 * the return stack are kept for one mode of each privilege level, `home`, and emptied when it
 * changes (CR0.TS, CR4). One change is frequent: supervisor code with SMAP opens access to user
 * pages (STAC) for a few instructions. Units of that mode never get into the jump cache, and what
 * was pushed on the return stack meanwhile is dropped when it closes. The other way round, a jump
 * or return from there may lead into a unit of the home mode: its first access to a user page is a
 * miss, and bt_miss_call() sees that the modes differ. */
#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "cpu/x86/desc.h"
#include "cpu/x86/inputs.h"
#include "engine/bt/helpers.h"
#include "engine/bt/runtime.h"
#include "engine/interp/interp.h"

/* ---- modes ---- */

u32 bt_mode(const struct x86_cpu *c)
{
	const u32 flat32 = M_CS32 | M_SS32 | M_FLAT | M_PE;
	u32 m = BTM_VALID;

	if (c->mode & M_CS64)
		m |= BTM_CODE64;
	else if ((c->mode & (flat32 | M_VM)) != flat32)
		return 0;
	if (c->cpl == 3)
		m |= BTM_USER;
	else if (c->cpl)
		return 0;
	if (c->tlb == c->tlbs[TLB_SUP_AC])
		m |= BTM_AC;
	else if (c->tlb == c->tlbs[TLB_USER_AC])
		return 0;
	if (!(c->cr0 & (CR0_TS | CR0_EM)) && (c->cr4 & CR4_OSFXSR)) {
		m |= BTM_FPU;
		if ((c->cr4 & CR4_OSXSAVE) && (~c->xcr0 & (XCR0_SSE | XCR0_AVX)) == 0)
			m |= BTM_AVX;
	}
	return m;
}

/* Supervisor code between STAC and CLAC. */
static bool is_open(const struct x86_cpu *c, u32 mode)
{
	return (mode & BTM_AC) && (c->cr4 & CR4_SMAP);
}

static void change_stack(struct bt_cpu *b, unsigned user)
{
	b->stack_sp[!user] = b->ret_sp;
	b->ret_top = b->stack_top[user];
	/* The supervisor begins with an empty one: it enters anew each time. */
	b->ret_sp = user ? b->stack_sp[1] : b->ret_top;
	b->ac_sp = b->ret_top;
}

/* The code about to run is of another mode than what ran last. */
static void change_mode(struct bt_cpu *b, u32 mode)
{
	bool user = mode & BTM_USER;

	if (b->ret_top != b->stack_top[user])
		change_stack(b, user);
	if (is_open(b->c, mode)) {
		if (!is_open(b->c, b->mode))
			b->ac_sp = b->ret_sp;
	} else {
		if (b->home[user] != mode) {
			b->home[user] = mode;
			bt_jc_reset(b, user);
			b->ret_sp = b->ac_sp = b->ret_top;
		}
		if (is_open(b->c, b->mode))
			b->ret_sp = MAX(b->ret_sp, b->ac_sp);
	}
	b->mode = mode;
}

/* ---- by interp ---- */

void bt_interp_one(struct bt_cpu *b)
{
	struct x86_cpu *c = b->c;

	b->stat[BT_STAT_INTERP]++;
	b->progress++;
	c->code_written = false;
	c->irq_shadow = c->shadow_db = false;
	interp_exec(c, true);
}

static u64 ip_mask(u32 mode, u64 ip)
{
	return mode & BTM_CODE64 ? ip : (u32)ip;
}

static bool attention(const struct bt_cpu *b)
{
	return unlikely(__atomic_load_n(&b->attn, __ATOMIC_RELAXED));
}

/* ---- what stubs call ---- */

/* Control goes on at c->rip, perhaps in another mode. Where nothing else is to be looked at, what
 * is in the jump cache is checked here, where flags are safe, and entered without the run loop: 2.
 */
static int transfer(struct bt_cpu *b, unsigned helper)
{
	const u64 may = BIT(BT_H_SYSCALL) | BIT(BT_H_SYSRET) | BIT(BT_H_IRET) | BIT(BT_H_POPF) |
	                BIT(BT_H_WRMSR) | BIT(BT_H_MOV_TO_CR) | BIT(BT_H_INVLPG) | BIT(BT_H_STI) |
	                BIT(BT_H_INTERP);
	struct x86_cpu *c = b->c;
	struct vcpu *v = c->vcpu;
	const struct bt_entry *t;
	u32 mode, e;

	bt_shadow_settle(c);
	if (!(may >> helper & 1) || attention(b) || bt_pending(c) || c->step || c->irq_shadow ||
	    c->code_written || (c->sflags & X86_RFLAGS_RF) || v->state != VCPU_RUNNING ||
	    interp_hlt_seen(c))
		return 1;
	mode = bt_mode(c);
	if (!mode || is_open(c, mode))
		return 1;
	if (mode != b->mode)
		change_mode(b, mode);
	if (unlikely(!c->fpu_live))
		x86_fpu_get(c);
	e = b->jc_entry[!!(mode & BTM_USER)][bt_jc_index(c->rip)];
	if (!e)
		return 1;
	t = &b->vm->entries[e - 1];
	if (b->pb[t->page] + t->off != c->rip)
		return 1;
	b->target = (uintptr_t)b->vm->cache.rx + t->body;
	return 2;
}

int bt_helper_call(struct x86_cpu *c, u64 rip, u32 arg)
{
	struct bt_cpu *b = bt_of(c);
	u32 seen = b->flushes;

	b->helped[arg & 0xff]++;
	c->rip = rip;
	c->next_rip = rip + (arg >> 8 & 15);
	if (!(c->mode & M_CS64))
		c->next_rip = (u32)c->next_rip;
	if (bt_helpers[arg & 0xff](c, arg >> 12)) {
		b->source = BT_NONE;
		return transfer(b, arg & 0xff);
	}
	if (attention(b) || b->flushes != seen || unlikely(c->code_written)) {
		b->source = BT_NONE;
		c->rip = c->next_rip;
		return 1;
	}
	if (unlikely(!c->fpu_live))
		x86_fpu_get(c);
	return 0;
}

/* The slot from the TLB, where `addr` is now valid. false: the slot is of another set. */
static bool fill_slot(struct bt_cpu *b, gva_t addr, u32 slot)
{
	struct x86_cpu *c = b->c;

	if (bt_site_class(slot) / 2 != (unsigned)((c->tlb - c->tlbs[0]) / TLB_SIZE))
		return false;
	bt_site_fill(b, slot, addr);
	return true;
}

/* Would the slot serve an operand of `size` bytes here? */
static bool slot_serves(const struct bt_cpu *b, gva_t addr, u32 size, u32 slot)
{
	if (bt_site_class(slot) < BT_USER_R)
		size = MAX(size, bt_site_span(b->vm, slot));
	return (addr & ~PAGE_MASK) + size <= PAGE_SIZE;
}

/* One instruction by interp in the middle of a unit: 1 or 2. */
static int step_over(struct bt_cpu *b, u32 mode, u64 next, u32 seen)
{
	struct x86_cpu *c = b->c;

	bt_interp_one(b);
	if (c->rip != next || attention(b) || b->flushes != seen || c->code_written ||
	    bt_mode(c) != mode || c->irq_shadow || c->step || (c->sflags & X86_RFLAGS_RF))
		return 2;
	if (unlikely(!c->fpu_live))
		x86_fpu_get(c);
	return 1;
}

/* An operand over two pages, both in the TLB, copied to where the code may load it from. */
static bool bounce(struct bt_cpu *b, u64 addr, u32 size)
{
	const struct tlb_entry *set = b->c->tlb;
	u32 first = (u32)(PAGE_SIZE - (addr & ~PAGE_MASK));
	const u8 *part[2];
	u8 *to = b->bounce;

	if (first >= size || size > sizeof(b->bounce))
		return false;
	part[0] = tlb_read_span(set, addr, first);
	part[1] = tlb_read_span(set, addr + first, size - first);
	if (!part[0] || !part[1])
		return false;
	for (unsigned i = 0; i < 2; i++) { /* not memcpy(), which uses vector registers */
		u64 n = i ? size - first : first;

		__asm__ volatile("rep movsb" : "+D"(to), "+S"(part[i]), "+c"(n)::"memory");
	}
	return true;
}

int bt_miss_call(struct x86_cpu *c, u64 addr, u32 slot, u32 write)
{
	struct bt_cpu *b = bt_of(c);
	const u8 *ret = *(const u8 *const *)(uintptr_t)b->ret_sp;
	u32 one = get_le32(ret + 1), two = get_le32(ret + 6);
	u32 page = one & (BT_MAX_PAGES - 1), size = two >> 16, seen = b->flushes;
	u32 mode = b->vm->pages[page].mode;

	b->ret_sp += 8;
	b->source = BT_NONE;
	b->stat[BT_STAT_MISSES]++;
	c->rip = ip_mask(mode, b->pb[page] + (two & 0xfff));
	c->next_rip = ip_mask(mode, c->rip + (two >> 12 & 15));
	if (one & BT_MISS_FLAGS) /* LAHF and SETO */
		c->aflags = (b->flags >> 8 & 0xd5) | (b->flags & 1) << 11;
	if (unlikely(bt_mode(c) != mode))
		return 2;
	/* In 32-bit code what lies higher is barred: X86_SEG_BAR. No page of the TLB is there. */
	if (size && slot_serves(b, addr, size, slot) &&
	    (!(one & BT_MISS_ALIGNED) || !(addr & (size - 1))) &&
	    (!(one & BT_MISS_WAITS) || !x86_fpu_pending(c)) &&
	    (mode & BTM_CODE64 ? is_canonical(addr) : addr <= ~0u) && mmu_fill(c, addr, write) &&
	    fill_slot(b, addr, slot)) {
		if (unlikely(b->flushes != seen))
			return 2;
		if (unlikely(!c->fpu_live))
			x86_fpu_get(c);
		return 0;
	}
	if ((one & BT_MISS_BOUNCE) && !(one & BT_MISS_WAITS && x86_fpu_pending(c)) &&
	    b->flushes == seen && bounce(b, addr, size)) {
		if (unlikely(!c->fpu_live))
			x86_fpu_get(c);
		return 3;
	}
	if (one & BT_MISS_JUMPS) {
		bt_interp_one(b);
		return 2;
	}
	return step_over(b, mode, c->next_rip, seen);
}

/* ---- look-up ---- */

/* A page of code where the vCPU is about to execute, and pb set. */
struct place {
	struct itlb_entry f;
	u32 page;
};

/* May raise. False: not RAM, or it is written all the time. page BT_NONE: no more numbers. */
static bool enter_page(struct bt_cpu *b, u64 va, u32 mode, struct place *at)
{
	struct x86_cpu *c = b->c;
	const struct itlb_entry *e = mmu_fetch(c, va);
	u64 ram_page;
	bool global;
	unsigned n;

	if (unlikely(!e))
		return false;
	at->f = *e;
	n = (unsigned)(e - c->itlb);
	global = c->itlb_global[n / 64] >> n % 64 & 1;
	ram_page = pmap_page(c->pmap, at->f.hva);
	if (unlikely(bt_page_hot(b->vm, ram_page)))
		return false;
	at->page = bt_page_get(b->vm, at->f.gpa, ram_page, mode & BTM_PAGE_MASK);
	if (likely(at->page != BT_NONE))
		bt_pb_set(b, at->page, va & PAGE_MASK, global);
	return true;
}

/* The page that the instruction at c->rip reaches into. It is about to be executed: so this may
 * raise. */
static bool page_behind(struct bt_cpu *b, u32 mode, const struct itlb_entry *f, struct place *at)
{
	u64 rip = b->c->rip, va = (rip & PAGE_MASK) + PAGE_SIZE;

	return bt_straddles(b->vm, mode, (u16)(rip & ~PAGE_MASK), f->hva) &&
	       (mode & BTM_CODE64 ? is_canonical(va) : va <= ~0u) && enter_page(b, va, mode, at) &&
	       at->page != BT_NONE;
}

/* The entry there that may be run, or BT_NONE; one that may not, or BT_NONE. */
static u32 entry_find(struct bt_vm *bt, u32 page, u16 off, u32 mode, u32 *stale)
{
	u32 n = bt_entry_find(bt, page, off, mode & BTM_SINGLE);

	*stale = BT_NONE;
	if (unlikely(off > PAGE_SIZE - 15) && n != BT_NONE && bt_entry_stale(bt, n)) {
		*stale = n;
		return BT_NONE;
	}
	return n;
}

/* The entry at offset `off` of a page that has none there, or BT_NONE: try otherwise. */
static u32 translate(struct bt_cpu *b, u32 page, u32 mode, u16 off, const struct itlb_entry *f)
{
	struct bt_vm *bt = b->vm;
	struct bt_priv *pv = bt_priv_of(bt);
	u32 n = BT_NONE, stale;
	struct place next = {.page = BT_NONE};
	bool tried = false;

	x86_fpu_put(b->c);
	if (unlikely(off > PAGE_SIZE - 15) && !page_behind(b, mode, f, &next))
		next = (struct place){.page = BT_NONE};
	if (unlikely(next.page == page)) { /* itself once more: it has one address at a time */
		bt_pb_set(b, page, b->c->rip & PAGE_MASK, false);
		next = (struct place){.page = BT_NONE};
	}
	do {
		pmap_code_mark(b->c->pmap, f->code_ver);
		if (next.page != BT_NONE)
			pmap_code_mark(b->c->pmap, next.f.code_ver);
		pthread_mutex_lock(&bt->lock);
		/* Not ready: a store took the mark off in this moment; mark it again. */
		if (bt_page_ready(bt, page) &&
		    (next.page == BT_NONE || bt_page_ready(bt, next.page))) {
			n = entry_find(bt, page, off, mode, &stale);
			if (n == BT_NONE)
				n = bt_translate(bt, b->c, page, mode, off, f->hva, next.page,
				                 next.f.hva);
			if (n != BT_NONE && stale != BT_NONE)
				bt_unlink(bt, stale);
			tried = true;
		}
		pthread_mutex_unlock(&bt->lock);
	} while (!tried && !bt->pages[page].dead &&
	         (next.page == BT_NONE || !bt->pages[next.page].dead) &&
	         !__atomic_load_n(&pv->want_flush, __ATOMIC_RELAXED));
	if (n != BT_NONE) {
		b->failures = 0;
	} else if (tried && ++b->failures == 1) {
		bt_flush_code(b);
	}
	return n;
}

/* A near branch to an address that is not canonical faults itself, before it has done anything
 * (SDM 2A JMP, CALL; 2B RET). True: c->rip is the branch again. */
static bool back_to_source(struct bt_cpu *b)
{
	u32 page = b->source & (BT_MAX_PAGES - 1);
	struct x86_cpu *c = b->c;

	if (b->source == BT_NONE || b->pb[page] == BT_PB_NONE)
		return false;
	c->rip = b->pb[page] + (b->source >> 17 & 0xfff);
	switch ((enum bt_source_kind)(b->source >> 29)) {
	case BT_SOURCE_CALL:
		c->next_rip = c->rip;
		mmu_st(c, c->gpr[RSP], b->overwritten, 8);
		c->gpr[RSP] += 8;
		break;
	case BT_SOURCE_RET:
		c->gpr[RSP] -= 8;
		break;
	case BT_SOURCE_JMP:
		break;
	}
	b->source = BT_NONE;
	return true;
}

/* The entry at c->rip, with pb set; BT_NONE: the interpreter executes what is there. May raise. */
static u32 lookup(struct bt_cpu *b, u32 mode)
{
	struct x86_cpu *c = b->c;
	struct place at;
	u32 n, stale;

	c->next_rip = c->rip;
	if ((mode & BTM_CODE64) && unlikely(!is_canonical(c->rip))) {
		if (back_to_source(b))
			return BT_NONE;
		x86_gp(c, 0);
	}
	if (!enter_page(b, c->rip, mode, &at))
		return BT_NONE;
	if (unlikely(at.page == BT_NONE)) {
		x86_fpu_put(c);
		bt_flush_code(b);
		return BT_NONE;
	}
	n = entry_find(b->vm, at.page, (u16)(c->rip & ~PAGE_MASK), mode, &stale);
	if (unlikely(n == BT_NONE))
		n = translate(b, at.page, mode, (u16)(c->rip & ~PAGE_MASK), &at.f);
	/* The translation may have asked for a flush, or the page died. */
	if (unlikely(attention(b)))
		return n == BT_NONE ? BT_NONE : BT_AGAIN;
	return n;
}

/* ---- out of translated code ---- */

static void raise_host(struct x86_cpu *c, int vector)
{
	switch (vector) {
	case X86_GP:
	case X86_AC:
		x86_raise_err(c, (u8)vector, 0);
	case X86_XM:
		x86_raise(c, c->cr4 & CR4_OSXMMEXCPT ? X86_XM : X86_UD);
	default:
		x86_raise(c, (u8)vector);
	}
}

static void host_fault(struct bt_cpu *b)
{
	struct bt_vm *bt = b->vm;
	struct x86_cpu *c = b->c;
	struct bt_unit u;
	struct bt_insn i;
	u64 page;

	b->stat[BT_STAT_FAULTS]++;
	if (!bt_find_insn(bt, (u32)(b->fault_pc - (uintptr_t)bt->cache.rx), &u, &i)) {
		x86_fpu_put(c);
		bug("bt: host exception %d at offset %#llx of the cache, where no instruction is",
		    b->fault_vector, (unsigned long long)(b->fault_pc - (uintptr_t)bt->cache.rx));
	}
	c->rip = ip_mask(u.mode, b->pb[u.page] + i.guest);
	c->next_rip = ip_mask(u.mode, c->rip + i.len);
	if (b->fault_vector >= 0)
		raise_host(c, b->fault_vector);
	/* A store to a page with code. */
	b->stat[BT_STAT_SMC]++;
	page = (b->fault_addr - (uintptr_t)c->pmap->bt_hva) >> PAGE_SHIFT;
	mmu_drop_write(c, page);
	bt_sites_drop_write(b, page);
	bt_interp_one(b);
}

/* What the last round has left for the next one. */
struct way {
	u32 exit;    /* came by this exit: link it */
	bool lookup; /* came by an indirect jump: remember it */
	bool single; /* a merged check failed: at `rip` its variant runs, whatever comes between */
	u64 rip;
};

/* Something was looked at: neither link nor remember. */
static void way_forget(struct way *way)
{
	way->exit = 0;
	way->lookup = false;
}

static void run_unit(struct bt_cpu *b, u32 mode, u32 entry, struct way *way)
{
	struct bt_vm *bt = b->vm;
	struct x86_cpu *c = b->c;
	const struct bt_entry *t = &bt->entries[entry];
	enum bt_leave why;
	u64 from;

	if (mode != b->mode)
		change_mode(b, mode);
	if (way->exit && (bt->exits[way->exit].mode & BTM_PAGE_MASK) == mode)
		bt_link(b, way->exit, entry);
	else if (way->lookup && !is_open(c, mode))
		bt_jc_set(b, mode & BTM_USER, c->rip, entry);
	*way = (struct way){0};
	if (!c->fpu_live)
		x86_fpu_get(c);
	if (unlikely(c->inputs))
		__atomic_fetch_or(&b->attn, BT_ATTN_STEP, __ATOMIC_SEQ_CST);
	from = c->rip;
	why = (enum bt_leave)bt_priv_of(bt)->enter(c, (uintptr_t)bt->cache.rx + t->start);
	switch (why) {
	case BT_LEAVE_EXIT:
		b->stat[BT_STAT_EXITS]++;
		c->rip = ip_mask(mode,
		                 b->pb[bt->exits[b->exit].page] + (u64)bt->exits[b->exit].delta);
		way->exit = b->exit;
		way->single = bt->exits[b->exit].mode & BTM_SINGLE;
		way->rip = c->rip;
		break;
	case BT_LEAVE_LOOKUP:
		b->stat[BT_STAT_LOOKUPS]++;
		way->lookup = true;
		break;
	case BT_LEAVE_FAULT:
		host_fault(b);
		break;
	}
	/* A merged check at the first instruction failed: nothing was executed. */
	b->progress += !(way->single && c->rip == from);
	c->code_written = false;
	bt_shadow_settle(c);
}

/* ---- the loop ---- */

/* One round at an instruction boundary that needs nothing special. */
static void run_code(struct bt_cpu *b, struct way *way)
{
	struct x86_cpu *c = b->c;
	u32 mode = bt_mode(c), n;

	if (unlikely(!mode)) {
		c->code_written = c->inputs; /* then it comes back after each block */
		interp_exec(c, false);
		b->progress++;
		c->code_written = false;
		return;
	}
	if (way->single && way->rip == c->rip)
		mode |= BTM_SINGLE;
	n = lookup(b, mode);
	if (likely(n < BT_AGAIN)) {
		run_unit(b, mode & BTM_PAGE_MASK, n, way);
	} else {
		if (n == BT_NONE)
			bt_interp_one(b);
		c->code_written = false;
		*way = (struct way){0};
	}
}

static enum vcpu_stop loop(struct bt_cpu *b)
{
	struct x86_cpu *c = b->c;
	struct vcpu *v = c->vcpu;
	struct way way = {0};

	for (;;) {
		if (unlikely(c->inputs)) {
			__atomic_fetch_and(&b->attn, ~BT_ATTN_STEP, __ATOMIC_SEQ_CST);
			x86_inputs_boundary(c, b->progress);
		}
		if (attention(b)) {
			__atomic_exchange_n(&b->attn, 0, __ATOMIC_SEQ_CST);
			bt_safe_point(b);
			way_forget(&way);
		}
		if (unlikely(bt_pending(c))) {
			if (interp_serve_requests(c))
				return STOP_REQUEST;
			way_forget(&way);
		}
		if (unlikely(interp_shut_down(c)))
			return STOP_SHUTDOWN;
		if (unlikely(c->step || c->irq_shadow || (c->sflags & X86_RFLAGS_RF))) {
			way_forget(&way);
			b->progress++;
			if (interp_run_one(c))
				return STOP_DEBUG;
		} else {
			run_code(b, &way);
		}
		if (unlikely(v->state == VCPU_HALTED) | interp_take_hlt(c))
			return STOP_HLT;
	}
}

/* The calling thread is the vCPU's from here on, which is inside. 0 or -errno (logged). */
static int begin(struct bt_cpu *b)
{
	int err = interp_enter(b->c);

	if (!err)
		err = bt_thread_init(b);
	if (err) {
		log_error("bt: cannot set up the thread of vCPU %u: %s", b->c->vcpu->index,
		          strerror(-err));
		return err;
	}
	bt_enter_inside(b);
	bt_kick(b);
	return 0;
}

static void end(struct bt_cpu *b)
{
	b->c->unwind_valid = false;
	x86_fpu_put(b->c);
	bt_leave_inside(b);
}

enum vcpu_stop bt_run(struct vcpu *v)
{
	struct x86_cpu *c = vcpu_x86(v);
	struct bt_cpu *b = bt_of(c);
	enum vcpu_stop stop;

	if (begin(b))
		return STOP_ERROR;
	for (;;) {
		if (!_setjmp(c->unwind)) {
			c->unwind_valid = true;
			stop = loop(b);
			break;
		}
		interp_deliver_raised(c);
	}
	end(b);
	return stop;
}

int bt_step(struct x86_cpu *c)
{
	struct bt_cpu *b = bt_of(c);

	bt_priv_of(b->vm)->never_hot = true;
	if (begin(b))
		return 0;
	if (_setjmp(c->unwind)) {
		end(b);
		return 1;
	}
	c->unwind_valid = true;
	loop(b);
	end(b);
	return 0;
}
