// SPDX-License-Identifier: MIT
/* The loop: events, look-up, enter; and the chain from block to block that keeps out of it.
 *
 * Between blocks c->rip is always right. A block's successor on the same page is found
 * through a link, anything else through a small cache by virtual address, which is valid for one
 * tlb_gen. Every entry compares the page's code version, so no block runs after its bytes changed.
 *
 * Whatever needs to happen after every single instruction (TF, breakpoints, interrupt shadow, RF,
 * tracing) runs blocks of one instruction through run_one(). */
#include "cpu/x86/inputs.h"
#include "cpu/x86/kvmpv.h"
#include "engine/interp/native.h"
#include "engine/interp/op.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <Zydis/Zydis.h>

#define ARENA_SIZE (48 * MiB)

static bool block_fresh(const struct block *b)
{
	return b->ver == *(volatile u32 *)b->page_ver;
}

static u64 linear_ip(const struct x86_cpu *c, u64 ip)
{
	u64 lin = ip + c->segbase[CS];

	return c->mode & M_CS64 ? lin : (u32)lin;
}

static struct jc_entry *jc_slot(struct interp *in, u64 lin)
{
	return &in->jc[(lin ^ (lin >> JC_BITS)) & ((1u << JC_BITS) - 1)];
}

/* ---- from block to block ---- */

#ifdef INTERP_NO_TAIL_CALLS /* the loop enters it, or the stack would grow */
#define ENTER_BLOCK(c, in, b, ip) ((void)0)
#else
#define ENTER_BLOCK(c, in, b, ip)                                                                  \
	do {                                                                                       \
		(in)->insns += (b)->nr_ops;                                                        \
		(in)->cur = (b);                                                                   \
		(c)->gpr[REG_IP] = (ip);                                                           \
		(b)->ops[0].fn(c, (b)->ops);                                                       \
	} while (0)
#endif

/* The end of a block: `target` is the next instruction's address (as RIP). which: 0 not taken, 1
 * taken, -1 not a fixed target. Returns to the loop when anything is to be looked at. */
void op_chain(struct x86_cpu *c, struct interp *in, u64 target, int which)
{
	struct block *b = in->cur, *n;
	struct jc_entry *je;
	u64 lin, from;

	from = c->gpr[REG_IP];
	c->rip = target;
	if (unlikely((b->mode & MODE_ONE) || c->code_written || interp_attention(c) ||
	             !(c->mode & (M_CS64 | M_FLAT))))
		return;
	lin = linear_ip(c, target);
	if (which >= 0 && !((target ^ from) & PAGE_MASK)) {
		n = b->link[which];
		if (likely(n && block_fresh(n)))
			goto enter;
	} else {
		which = -1;
	}
	je = jc_slot(in, lin);
	if (je->lin != lin || je->gen != c->tlb_gen || je->mode != c->mode || !block_fresh(je->b))
		return;
	n = je->b;
	if (which >= 0 && block_fresh(b))
		b->link[which] = n;
enter:
	ENTER_BLOCK(c, in, n, target);
}

/* After an instruction that may have changed the mode, privilege, tables or flags that ask for more
 * than the next block; c->rip is the next instruction. */
void op_chain_any(struct x86_cpu *c, struct interp *in)
{
	if (unlikely(c->step || c->irq_shadow || in->stop_hlt || (c->sflags & X86_RFLAGS_RF)))
		return;
	op_chain(c, in, c->rip, -1);
}

void op_end(struct x86_cpu *c, const struct op *op)
{
	op_chain(c, interp_of(c), ip_mask(c, c->gpr[REG_IP] + op->off), 0);
}

/* After `op`, when code was written: it may be this block's. */
void op_end_early(struct x86_cpu *c, const struct op *op)
{
	struct interp *in = interp_of(c);

	in->insns -= in->cur->nr_ops - (u64)(op - in->cur->ops) - 1;
	c->rip = ip_mask(c, c->gpr[REG_IP] + op->off + op->len);
}

/* ---- look-up ---- */

static unsigned hash_of(gpa_t gpa, u32 mode)
{
	u64 h = (gpa ^ ((u64)mode << 40)) * 0x9e3779b97f4a7c15ull;

	return (unsigned)(h >> (64 - BLOCK_HASH_BITS));
}

/* The block's bytes on its first page, or on its second one, are what they were? */
static bool same_bytes(const struct block *b, const u8 *page, unsigned from, unsigned end)
{
	unsigned off = (unsigned)(b->gpa & ~PAGE_MASK);

	for (unsigned i = from; i < end; i++)
		if (((const volatile u8 *)page)[(off + i) % PAGE_SIZE] != b->code[i])
			return false;
	return true;
}

/* Of the `seen` bytes, how many are on the first page? */
static unsigned on_first(const struct block *b)
{
	return MIN((unsigned)b->seen, (unsigned)PAGE_SIZE - (unsigned)(b->gpa & ~PAGE_MASK));
}

/* The page was written since: are the block's own bytes the same? Then it lives on. */
static bool revalidate(struct x86_cpu *c, struct block *b, const struct itlb_entry *e,
                       const struct itlb_entry *e2)
{
	u32 ver = pmap_code_mark(c->pmap, b->page_ver);
	u32 ver2 = e2 ? pmap_code_mark(c->pmap, b->page2_ver) : 0;

	if (!same_bytes(b, e->hva, 0, on_first(b)) ||
	    (e2 && !same_bytes(b, e2->hva, on_first(b), b->seen)))
		return false;
	b->ver = ver;
	b->ver2 = ver2;
	return true;
}

static struct block *find(struct interp *in, struct x86_cpu *c, u32 mode, u64 lin)
{
	const struct itlb_entry *e = mmu_fetch(c, lin);
	struct itlb_entry at, at2;
	struct block **pp, *b;
	gpa_t gpa;

	if (!e) {
		x86_fpu_put(c);
		vm_kill(c->vcpu->vm, c->vcpu, VM_EXIT_TRIPLE_FAULT,
		        "vCPU %u fetches instructions from device memory at %#llx", c->vcpu->index,
		        (unsigned long long)lin);
		return NULL;
	}
	at = *e;
	gpa = at.gpa | (lin & ~PAGE_MASK);
	for (pp = &in->hash[hash_of(gpa, mode)]; (b = *pp); pp = &b->hash_next) {
		const struct itlb_entry *e2 = NULL;

		if (b->gpa != gpa || b->mode != mode || b->ver == BLOCK_DEAD)
			continue;
		/* What is there now need not reach into the next page, which must not be fetched
		 * then. */
		if (block_fresh(b) || same_bytes(b, at.hva, 0, on_first(b))) {
			if (b->page2_ver) {
				e2 = mmu_fetch(c, (lin & PAGE_MASK) + PAGE_SIZE);
				if (!e2 || e2->gpa != b->gpa2)
					continue;
				at2 = *e2;
				e2 = &at2;
			}
			if ((block_fresh(b) && (!e2 || b->ver2 == *(volatile u32 *)b->page2_ver)) ||
			    revalidate(c, b, &at, e2))
				return b;
		}
		b->ver = BLOCK_DEAD; /* links to it die with it */
		*pp = b->hash_next;
		break;
	}
	b = block_decode(in, c, mode, &at, lin);
	if (b->ver == BLOCK_DEAD) /* for once only */
		return b;
	pp = &in->hash[hash_of(gpa, mode)];
	b->hash_next = *pp;
	*pp = b;
	return b;
}

/* An instruction of the block faulted: it and those behind it were not retired. */
static void count_partial(struct interp *in, struct x86_cpu *c)
{
	struct block *b = in->cur;

	if (!b || c->rip < c->gpr[REG_IP])
		return;
	for (unsigned i = 0; i < b->nr_ops; i++)
		if (c->gpr[REG_IP] + b->ops[i].off == c->rip) {
			in->insns -= b->nr_ops - i;
			return;
		}
}

/* The block at c->rip; may raise; NULL: the VM was killed. */
static struct block *lookup(struct interp *in, struct x86_cpu *c, bool one)
{
	u32 mode = c->mode | (one ? MODE_ONE : 0);
	u64 lin = linear_ip(c, c->rip);
	struct jc_entry *je = jc_slot(in, lin);
	struct block *b;

	c->next_rip = c->rip;
	in->cur = NULL; /* a fault from here on is of the fetch */
	if (!(c->mode & M_CS64)) {
		if (unlikely(c->rip > c->seg[CS].limit))
			x86_gp(c, 0);
	} else if (unlikely(!is_canonical(c->rip))) {
		x86_gp(c, 0);
	}
	if (je->lin == lin && je->gen == c->tlb_gen && je->mode == mode && block_fresh(je->b)) {
		b = je->b;
	} else {
		b = find(in, c, mode, lin);
		if (!b)
			return NULL;
		if (!b->page2_ver)
			*je = (struct jc_entry){
				.lin = lin, .gen = c->tlb_gen, .mode = mode, .b = b};
	}
	if (!(c->mode & (M_CS64 | M_FLAT)) && unlikely(c->rip + b->len - 1 > c->seg[CS].limit)) {
		if (one || b->nr_ops == 1)
			x86_gp(c, 0);
		return lookup(in, c, true);
	}
	return b;
}

static void enter(struct interp *in, struct x86_cpu *c, struct block *b)
{
	in->insns += b->nr_ops; /* counted on entry; what isn't reached is taken back */
	in->cur = b;
	c->gpr[REG_IP] = c->rip;
	b->ops[0].fn(c, b->ops);
}

/* ---- one instruction, with all that may surround it ---- */

static void trace_exec(struct x86_cpu *c)
{
	const struct trace *t = &c->vcpu->vm->trace;
	const u64 *g = c->gpr;
	u8 buf[15];
	char text[128] = "(unreadable)";
	u64 lin = linear_ip(c, c->rip);
	unsigned n = 0;

	x86_fpu_put(c);
	while (n < sizeof(buf) && !mmu_debug_rw(c, lin + n, buf + n, 1, false))
		n++;
	if (n) {
		ZydisDisassembledInstruction ins;
		ZydisMachineMode m = c->mode & M_CS64   ? ZYDIS_MACHINE_MODE_LONG_64
		                     : c->mode & M_CS32 ? ZYDIS_MACHINE_MODE_LEGACY_32
		                                        : ZYDIS_MACHINE_MODE_LEGACY_16;

		if (ZYAN_SUCCESS(ZydisDisassembleIntel(m, lin, buf, n, &ins)))
			snprintf(text, sizeof(text), "%s", ins.text);
		else
			snprintf(text, sizeof(text), "(bad)");
	}
	trace_msg(t,
	          "exec vcpu%u %04x:%016llx %-36s ax=%llx cx=%llx dx=%llx bx=%llx sp=%llx bp=%llx "
	          "si=%llx di=%llx "
	          "r8=%llx r9=%llx r10=%llx r11=%llx r12=%llx r13=%llx r14=%llx r15=%llx fl=%llx",
	          c->vcpu->index, c->seg[CS].sel, (unsigned long long)c->rip, text,
	          (unsigned long long)g[0], (unsigned long long)g[1], (unsigned long long)g[2],
	          (unsigned long long)g[3], (unsigned long long)g[4], (unsigned long long)g[5],
	          (unsigned long long)g[6], (unsigned long long)g[7], (unsigned long long)g[8],
	          (unsigned long long)g[9], (unsigned long long)g[10], (unsigned long long)g[11],
	          (unsigned long long)g[12], (unsigned long long)g[13], (unsigned long long)g[14],
	          (unsigned long long)g[15], (unsigned long long)x86_rflags(c));
}

/* The debugger's stop: STOP_DEBUG is returned by the caller. */
static bool debug_stop(struct x86_cpu *c, enum debug_reason why, gva_t addr)
{
	c->vcpu->debug = (struct debug_info){why, addr};
	return true;
}

static void deliver(struct interp *in, struct x86_cpu *c, const struct x86_event *ev)
{
	if (unlikely(c->inputs))
		x86_inputs_event(c, ev);
	if (x86_deliver(c, ev) < 0)
		in->shutdown = true;
}

bool interp_run_one(struct x86_cpu *c)
{
	struct interp *in = interp_of(c);
	struct vcpu *v = c->vcpu;
	bool tf = c->sflags & X86_RFLAGS_TF;
	u8 cpl = c->cpl;
	struct block *b;
	u64 pending;

	if (c->step) {
		if (v->vm->nr_breakpoints && x86_debugger_bp(c))
			return debug_stop(c, DEBUG_BREAK, linear_ip(c, c->rip));
		if (!c->shadow_db)
			x86_check_code_bp(c);
		if (trace_on(&v->vm->trace, TRACE_EXEC))
			trace_exec(c);
	}
	if (!c->shadow_db) /* else what MOV SS hit is still to come */
		c->dr6_pending = 0;
	c->sflags &= ~X86_RFLAGS_RF;
	b = lookup(in, c, true);
	if (!b)
		return false;
	c->irq_shadow = c->shadow_db = false;
	in->stepping = true;
	enter(in, c, b);
	in->stepping = false;
	c->code_written = false;
	/* SYSCALL into an RFLAGS mask that clears TF ends single-stepping before the trap. */
	if (tf && !(c->cpl < cpl && !(c->sflags & X86_RFLAGS_TF)))
		c->dr6_pending |= BIT(14); /* BS */
	pending = c->dr6_pending;
	if (unlikely(pending) && !c->shadow_db) {
		struct x86_event ev = {.type = EV_TRAP, .vector = X86_DB, .dr6 = pending};

		c->dr6_pending = 0;
		in->stop_hlt = false; /* a debug exception ends HLT */
		deliver(in, c, &ev);
	}
	if (unlikely(v->debug.reason == DEBUG_WATCH))
		return true;
	if (unlikely(v->single_step))
		return debug_stop(c, DEBUG_STEP, c->rip);
	return false;
}

/* ---- events ---- */

/* What the instruction raised. Data breakpoints hit by a MOV SS before an INT, or by the INT
 * itself, trap at the handler's first instruction; any other event loses them. */
void interp_deliver_raised(struct x86_cpu *c)
{
	struct interp *in = interp_of(c);
	struct vcpu *v = c->vcpu;
	bool soft = c->ev.type == EV_SOFT || c->ev.type == EV_SOFT_XCPT;
	struct x86_event db = {.type = EV_TRAP, .vector = X86_DB, .dr6 = c->dr6_pending};

	in->stepping = false;
	count_partial(in, c);
	if (c->ev.vector < 32)
		v->stats.exception[c->ev.vector]++;
	v->stats.count[c->ev.vector == X86_PF ? EXIT_PAGE_FAULT : EXIT_EXCEPTION]++;
	c->code_written = false;
	c->irq_shadow = c->shadow_db = false;
	c->dr6_pending = 0;
	deliver(in, c, &c->ev);
	if (unlikely(db.dr6) && soft && !in->shutdown)
		deliver(in, c, &db);
}

bool interp_serve_requests(struct x86_cpu *c)
{
	struct interp *in = interp_of(c);
	struct vcpu *v = c->vcpu;
	u32 req = __atomic_load_n((u32 *)&v->req, __ATOMIC_SEQ_CST);

	if (req & (VCPU_REQ_PAUSE | VCPU_REQ_EXIT | VCPU_REQ_RESET | VCPU_REQ_INIT))
		return true;
	if (req & (VCPU_REQ_KICK | VCPU_REQ_SIPI)) /* a SIPI means nothing to a running CPU */
		vcpu_clear(v, VCPU_REQ_KICK | VCPU_REQ_SIPI);
	if (req & VCPU_REQ_TLB_FLUSH) {
		vcpu_clear(v, VCPU_REQ_TLB_FLUSH);
		mmu_flush_all(c);
	}
	if ((req & VCPU_REQ_NMI) && !c->nmi_blocked && !c->irq_shadow) {
		struct x86_event ev = {.type = EV_NMI, .vector = X86_NMI};

		vcpu_take_nmi(v);
		v->stats.count[EXIT_NMI]++;
		deliver(in, c, &ev);
	} else if ((req & VCPU_REQ_IRQ) && x86_intr_open(c)) {
		u64 begin = exit_begin(&v->stats);
		int vec;

		x86_fpu_put(c);
		x86_steal_update(c);
		vec = v->irqchip->ack(v->irqchip_dev);
		if (vec >= 0) {
			struct x86_event ev = {.type = EV_INTR, .vector = (u8)vec};

			deliver(in, c, &ev);
		}
		exit_end(&v->stats, EXIT_INTERRUPT, begin);
	}
	return false;
}

static enum vcpu_stop loop(struct interp *in, struct x86_cpu *c)
{
	struct vcpu *v = c->vcpu;
	/* Recorded inputs: every block comes back here; a store that seems to hit code ends it. */
	const bool each = c->inputs;

	for (;;) {
		struct block *b;

		if (unlikely(each))
			x86_inputs_boundary(c, in->insns);
		if (unlikely(v->req) && interp_serve_requests(c))
			return STOP_REQUEST;
		if (unlikely(in->shutdown))
			return STOP_SHUTDOWN;
		if (unlikely(c->step || c->irq_shadow || (c->sflags & X86_RFLAGS_RF))) {
			if (interp_run_one(c))
				return STOP_DEBUG;
		} else {
			b = lookup(in, c, false);
			if (unlikely(!b))
				return STOP_REQUEST;
			c->code_written = each;
			enter(in, c, b);
			c->code_written = false;
		}
		if (unlikely(in->stop_hlt)) {
			in->stop_hlt = false;
			return STOP_HLT;
		}
	}
}

int interp_enter(struct x86_cpu *c)
{
	struct interp *in = interp_of(c);

	if (!in->thread_ready) {
		int err = interp_thread_init(c);

		if (err < 0)
			return err;
		in->thread_ready = true;
	}
	/* Registers may have been changed while parked: by the debugger, a reset, SIPI. */
	x86_update_mode(c);
	x86_update_step(c);
	c->tlb_gen++;
	in->shutdown = false;
	return 0;
}

static enum vcpu_stop interp_run(struct vcpu *v)
{
	struct x86_cpu *c = vcpu_x86(v);
	struct interp *in = interp_of(c);
	enum vcpu_stop stop;

	if (interp_enter(c) < 0)
		return STOP_ERROR;
	for (;;) {
		if (!_setjmp(c->unwind)) {
			c->unwind_valid = true;
			stop = loop(in, c);
			break;
		}
		interp_deliver_raised(c);
	}
	c->unwind_valid = false;
	x86_fpu_put(c);
	v->stats.insns = in->insns;
	return stop;
}

void interp_exec(struct x86_cpu *c, bool one)
{
	struct interp *in = interp_of(c);
	struct block *b = lookup(in, c, one);

	if (b)
		enter(in, c, b);
}

bool interp_hlt_seen(const struct x86_cpu *c)
{
	return c->interp->stop_hlt;
}

bool interp_take_hlt(struct x86_cpu *c)
{
	struct interp *in = interp_of(c);
	bool hlt = in->stop_hlt;

	in->stop_hlt = false;
	return hlt;
}

bool interp_shut_down(const struct x86_cpu *c)
{
	return c->interp->shutdown;
}

static int step(struct x86_cpu *c, bool one)
{
	struct interp *in = interp_of(c);
	struct block *b;

	if (_setjmp(c->unwind)) {
		count_partial(in, c);
		c->unwind_valid = false;
		return 1;
	}
	c->unwind_valid = true;
	b = lookup(in, c, one);
	if (b)
		enter(in, c, b);
	c->code_written = false;
	c->unwind_valid = false;
	if (in->stop_hlt) {
		in->stop_hlt = false;
		c->vcpu->state = VCPU_HALTED;
	}
	return 0;
}

int interp_step(struct x86_cpu *c)
{
	return step(c, true);
}

int interp_step_block(struct x86_cpu *c)
{
	return step(c, false);
}

/* ---- life ---- */

static void native_flushed(void *arg)
{
	interp_flush_blocks(arg);
}

int interp_thread_init(struct x86_cpu *c)
{
	return native_thread_init(interp_of(c)->native);
}

static int interp_probe(char *why, size_t size)
{
	snprintf(why, size, "always available");
	return 0;
}

int interp_attach(struct x86_cpu *c)
{
	struct interp *in = calloc(1, sizeof(*in));
	int err = -ENOMEM;

	if (!in)
		return -ENOMEM;
	in->c = c;
	in->arena_size = ARENA_SIZE;
	in->arena = mmap(NULL, ARENA_SIZE, PROT_READ | PROT_WRITE,
	                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (in->arena == MAP_FAILED)
		goto fail;
	err = native_create(&in->native, c, native_flushed, in);
	if (err)
		goto fail_arena;
	interp_flush_blocks(in);
	c->interp = in;
	return 0;

fail_arena:
	munmap(in->arena, ARENA_SIZE);
fail:
	free(in);
	log_error("interp: cannot set up vCPU %u: %s", c->vcpu->index, strerror(-err));
	return err;
}

void interp_detach(struct x86_cpu *c)
{
	struct interp *in = c->interp;

	if (!in)
		return;
	native_thread_exit(in->native); /* tests run on this thread */
	native_destroy(in->native);
	munmap(in->arena, in->arena_size);
	free(in);
	c->interp = NULL;
}

static int interp_vcpu_create(struct vcpu *v)
{
	struct x86_cpu *c = vcpu_x86(v);
	int err = interp_attach(c);

	v->engine_state = c->interp;
	return err;
}

static void interp_vcpu_destroy(struct vcpu *v)
{
	interp_detach(vcpu_x86(v));
	v->engine_state = NULL;
}

static void interp_debug_changed(struct vcpu *v)
{
	x86_update_step(vcpu_x86(v));
	mmu_flush_all(vcpu_x86(v)); /* watched pages must come to the slow path */
}

const struct engine_ops interp_engine = {
	.name = "interp",
	.summary = "reference interpreter: every mode, every instruction, any host",
	.probe = interp_probe,
	.vcpu_create = interp_vcpu_create,
	.vcpu_destroy = interp_vcpu_destroy,
	.run = interp_run,
	.debug_changed = interp_debug_changed,
};
