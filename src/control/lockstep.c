// SPDX-License-Identifier: MIT
/* The shadow follows: at each boundary of the engine it steps until it is where the vCPU is.
 *
 * Where is that? The vCPU's RIP is known, not how often it has passed there. Passes of the
 * translator go forward, so mostly the first time is the right one; where registers differ then,
 * the shadow goes on for a while, and the first meeting is what a report tells of. */
#include "control/lockstep_priv.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/interp/interp.h"

#define MAX_STEPS  2000000u
#define MAX_PIECES 10000000u /* of repeated string instructions, besides */
#define MAX_AFTER  1000000u  /* a first meeting where registers differ: a recursion may return */
#define MEM_EVERY  1024u     /* boundaries */
#define FULL_EVERY (10ull * 1000 * 1000)

enum follow { FOLLOW_SAME, FOLLOW_LOST, FOLLOW_RAISED, FOLLOW_INPUT };

/* PUSHF of a supervisor, and SYSCALL, put flags into an image that hardly anybody looks at for a
 * result; the translator does not keep dead ones for that. What it has put there is an input.
 * Should they be read otherwise, that is seen behind the instruction. */
static void take_image(struct lockstep *ls)
{
	const struct x86_cpu *p = ls->p;
	struct x86_cpu *s = ls->s;
	u64 flags = p->aflags & AFLAGS;
	bool pushf = s->cpl < 3 && p->rip - s->rip - 1 < 2;
	u8 b[2];

	if (!pushf && !(s->cpl == 3 && p->rip == p->lstar))
		return;
	if (mmu_debug_rw(s, s->rip + s->segbase[CS], b, sizeof(b), false) < 0)
		return;
	if (!pushf && b[0] == 0x0f && b[1] == 0x05)
		flags = p->gpr[R11] & AFLAGS;
	else if (!pushf || b[p->rip - s->rip - 1] != 0x9c)
		return;
	ls->flags_taken += (s->aflags & AFLAGS) != flags;
	s->aflags = flags;
}

/* One instruction of the shadow, or a piece of a repeated one. true: it raised. */
static bool step(struct lockstep *ls, bool pieces)
{
	struct x86_cpu *s = ls->s;
	struct ls_step *t = &ls->trail[ls->nr_trail++ % LS_TRAIL];
	int raised;

	take_image(ls);
	memcpy(t->gpr, s->gpr, sizeof(t->gpr));
	t->rip = s->rip;
	t->aflags = s->aflags;
	s->irq_shadow = s->shadow_db = false;
	s->sflags &= ~X86_RFLAGS_RF;
	/* Repeated string instructions then come back after each piece. */
	s->code_written = pieces;
	raised = interp_step(s);
	x86_fpu_put(s); /* what is here may use vector registers */
	s->vcpu->state = VCPU_RUNNING;
	ls->insns += !raised;
	return raised;
}

/* The first time that the shadow is at the vCPU's RIP is what a report tells of. */
static void note_near(struct lockstep *ls)
{
	if (ls->near_trail)
		return;
	memcpy(ls->near, ls->s, offsetof(struct x86_cpu, tlbs));
	memcpy(ls->near->xsave, ls->s->xsave, sizeof(ls->near->xsave));
	memcpy(ls->near_steps, ls->trail, sizeof(ls->near_steps));
	ls->near_trail = ls->nr_trail;
}

/* Same place, all inputs used, same registers? Notes the first time that it is not so. */
static bool met(struct lockstep *ls)
{
	if (likely(ls->s->rip != ls->p->rip))
		return false;
	ls_input_settle(ls);
	x86_fpu_pointers(ls->s);
	if (likely(ls_queue_empty(&ls->queue) &&
	           ls_state_equal(ls->p, ls->s, !(ls->boundaries % 64))))
		return true;
	note_near(ls);
	return false;
}

/* Step until both are the same: at least once if `must`. */
static enum follow follow(struct lockstep *ls, bool must, u32 *steps)
{
	u32 pieces = 0;

	ls->near_trail = 0;
	for (*steps = 0; *steps < (ls->near_trail ? MAX_AFTER : MAX_STEPS);) {
		u64 rip = ls->s->rip;

		if ((*steps || pieces || !must) && met(ls))
			return FOLLOW_SAME;
		/* The vCPU may be between two pieces. */
		if (step(ls, rip == ls->p->rip))
			return FOLLOW_RAISED;
		if (rip == ls->s->rip && pieces < MAX_PIECES)
			pieces++;
		else
			++*steps;
		if (unlikely(ls->input_failed))
			return FOLLOW_INPUT;
	}
	return FOLLOW_LOST;
}

static void note_pass(struct lockstep *ls, u64 before, u32 steps)
{
	ls->pass[ls->nr_pass++ % LS_PASSES] =
		(struct ls_pass){.from = ls->at, .to = ls->p->rip, .insns = before, .steps = steps};
	ls->at = ls->p->rip;
}

/* What follow() did not like. */
static void complain(struct lockstep *ls, enum follow how, const char *where)
{
	const struct x86_event *ev = &ls->s->ev;

	if (ls->near_trail)
		ls_differ(ls, "registers differ at %#llx, %s", (unsigned long long)ls->p->rip,
		          where);
	else if (how == FOLLOW_INPUT)
		ls_differ(ls, "%s", ls->input_why);
	else if (how == FOLLOW_RAISED)
		ls_differ(ls,
		          "interp raises exception %u (error %#x, address %#llx) at %#llx, the "
		          "engine went on to %#llx, %s",
		          ev->vector, ev->err, (unsigned long long)ev->cr2,
		          (unsigned long long)ls->s->rip, (unsigned long long)ls->p->rip, where);
	else
		ls_differ(ls, "interp does not come to %#llx, where the engine is, %s",
		          (unsigned long long)ls->p->rip, where);
}

/* The translator lets nobody pass flags to a function by an indirect call. */
static bool came_by_indirect_call(struct lockstep *ls)
{
	u64 rip = ls->trail[(ls->nr_trail - 1) % LS_TRAIL].rip;
	u8 b[3];

	if (!ls->nr_trail || mmu_debug_rw(ls->s, rip + ls->s->segbase[CS], b, sizeof(b), false) < 0)
		return false;
	if ((b[0] & 0xf0) == 0x40 && (ls->s->mode & M_CS64)) /* REX */
		memmove(b, b + 1, 2);
	return b[0] == 0xff && (b[1] >> 3 & 7) == 2;
}

/* Arithmetic flags may differ where they are dead. Where the code that comes reads them, they must
 * not. */
static bool flags_ok(struct lockstep *ls, u64 differ)
{
	u64 read = ls_flags_read(ls, ls->p->rip, differ);

	if (likely(!read))
		return true;
	if (came_by_indirect_call(ls)) {
		ls->s->aflags = ls->p->aflags;
		ls->flags_taken++;
		return true;
	}
	ls->near_trail = 0;
	ls_differ(ls, "arithmetic flags %#llx differ at %#llx and are read there",
	          (unsigned long long)read, (unsigned long long)ls->p->rip);
	return false;
}

static void check_memory(struct lockstep *ls)
{
	bool full = ls->insns >= ls->next_full;

	if (full)
		ls->next_full = ls->insns + FULL_EVERY;
	ls->until_mem = ls->cfg.exact ? 1 : MEM_EVERY;
	if (!(full ? ls_mem_check_all(ls, NULL) : ls_mem_check(ls, NULL))) {
		ls->near_trail = 0;
		ls_differ(ls,
		          "memory differs; the store was made since the last look at memory, %u "
		          "boundaries or fewer ago",
		          ls->cfg.exact ? 1 : MEM_EVERY);
	}
}

static void reached(struct lockstep *ls)
{
	if (!ls_mem_check_all(ls, NULL)) {
		ls->near_trail = 0;
		ls_differ(ls, "memory differs");
		return;
	}
	ls->over = true;
	vm_end(ls->vm, VM_EXIT_POWEROFF, "lockstep: %llu instructions, no difference",
	       (unsigned long long)ls->insns);
}

static bool ready(struct lockstep *ls)
{
	if (likely(ls->thread_ready))
		return true;
	if (interp_enter(ls->s) < 0) {
		ls->over = true;
		vm_end(ls->vm, VM_EXIT_HOST, "lockstep: no signal stack for the shadow");
		return false;
	}
	ls->at = ls->p->rip;
	ls->thread_ready = true;
	return true;
}

static void boundary(void *arg, u64 progress)
{
	struct lockstep *ls = arg;
	struct x86_cpu *p = ls->p, *s = ls->s;
	bool must = progress != ls->progress && !ls->at_rest;
	u64 before = ls->insns, differ;
	enum follow how;
	u32 steps;

	if (unlikely(ls->over) || unlikely(!ready(ls)))
		return;
	x86_fpu_put(p);
	x86_fpu_pointers(p); /* those in the image may be older than the state in it */
	ls->boundaries++;
	if (unlikely(ls->boundaries == ls->cfg.break_at))
		p->gpr[RBX] ^= 1u << 20;
	ls->progress = progress;
	ls->at_rest = false;
	how = follow(ls, must, &steps);
	note_pass(ls, before, steps);
	if (unlikely(how != FOLLOW_SAME)) {
		complain(ls, how, "after translated code");
		return;
	}
	differ = (p->aflags ^ s->aflags) & AFLAGS;
	if (differ && !flags_ok(ls, differ))
		return;
	ls_late_writes(ls);
	if (unlikely(--ls->until_mem == 0) || unlikely(ls->insns >= ls->next_full))
		check_memory(ls);
	if (unlikely(ls->cfg.insns && ls->insns >= ls->cfg.insns) && !ls->over)
		reached(ls);
}

/* ---- events ---- */

/* Not raised by the instruction at RIP: the shadow is told. */
static bool from_outside(const struct x86_event *ev)
{
	return ev->type == EV_INTR || ev->type == EV_NMI || ev->vector == X86_DB;
}

static bool same_event(const struct x86_event *a, const struct x86_event *b)
{
	return a->type == b->type && a->vector == b->vector && a->has_err == b->has_err &&
	       (!a->has_err || a->err == b->err) && (a->vector != X86_PF || a->cr2 == b->cr2);
}

/* Step until the shadow raises the same, or is where the event from outside came. */
static enum follow follow_event(struct lockstep *ls, const struct x86_event *ev)
{
	const bool outside = from_outside(ev);
	u32 pieces = 0;

	ls->near_trail = 0;
	for (u32 n = 0; n < (ls->near_trail ? MAX_AFTER : MAX_STEPS);) {
		u64 rip = ls->s->rip;

		if (outside && met(ls))
			return FOLLOW_SAME;
		if (rip == ls->p->rip && n)
			note_near(ls);
		if (step(ls, outside && rip == ls->p->rip)) {
			ls_input_settle(ls);
			if (ls->s->rip == ls->p->rip && same_event(ev, &ls->s->ev) && met(ls))
				return FOLLOW_SAME;
			return FOLLOW_RAISED;
		}
		if (unlikely(ls->input_failed))
			return FOLLOW_INPUT;
		n += rip != ls->s->rip || pieces++ >= MAX_PIECES;
	}
	return FOLLOW_LOST;
}

static void complain_event(struct lockstep *ls, const struct x86_event *ev, enum follow how)
{
	const struct x86_event *sev = &ls->s->ev;
	char text[100];

	snprintf(text, sizeof(text),
	         "the engine delivers event %u (type %u, error %#x, address %#llx)",
	         (unsigned)ev->vector, (unsigned)ev->type, ev->err, (unsigned long long)ev->cr2);
	if (how == FOLLOW_RAISED && (ls->s->rip != ls->p->rip || !same_event(ev, sev))) {
		ls_differ(ls,
		          "%s at %#llx; interp raises %u (type %u, error %#x, address %#llx) at "
		          "%#llx",
		          text, (unsigned long long)ls->p->rip, sev->vector, sev->type, sev->err,
		          (unsigned long long)sev->cr2, (unsigned long long)ls->s->rip);
	} else if (!from_outside(ev) && (how == FOLLOW_LOST || ls->near_trail)) {
		ls_differ(ls, "%s at %#llx; interp does not", text, (unsigned long long)ls->p->rip);
	} else {
		complain(ls, how, text);
	}
}

static void event(void *arg, const struct x86_event *ev)
{
	struct lockstep *ls = arg;
	struct x86_cpu *p = ls->p, *s = ls->s;
	bool open = ev->type != EV_INTR || x86_intr_open(s);
	enum follow how;
	u64 differ;

	if (unlikely(ls->over) || unlikely(!ready(ls)))
		return;
	ls->events++;
	x86_fpu_pointers(p);
	how = follow_event(ls, ev);
	if (how != FOLLOW_SAME) {
		complain_event(ls, ev, how);
		return;
	}
	if (!open) {
		ls_differ(ls, "interrupt %u delivered at %#llx, where interp would not take one",
		          ev->vector, (unsigned long long)p->rip);
		return;
	}
	differ = (p->aflags ^ s->aflags) & AFLAGS;
	if (differ) {
		if (!flags_ok(ls, differ))
			return;
		/* They go into the frame: whatever the engine left in dead flags is an input. */
		s->aflags = p->aflags;
		ls->flags_taken++;
	}
	s->dr6_pending = 0;
	s->irq_shadow = s->shadow_db = false;
	if (ev->type == EV_SOFT || ev->type == EV_SOFT_XCPT || ev->type == EV_ICEBP)
		s->next_rip = p->next_rip;
	x86_deliver(s, ev);
	x86_fpu_put(s);
	ls->at_rest = ev->type != EV_INTR && ev->type != EV_NMI;
}

static void init(void *arg)
{
	struct lockstep *ls = arg;

	if (!ls->over)
		x86_arch_ops.init(ls->s->vcpu);
}

static void no_take(void *arg, struct x86_input *in)
{
	bug("lockstep: the vCPU asks for the input of a shadow");
}

/* Pages that only the vCPU writes are found when all of RAM is compared. */
static void nothing(void *arg, u64 page)
{
}

static const struct x86_inputs_ops vcpu_ops = {
	.take = no_take,
	.made = ls_input_made,
	.boundary = boundary,
	.event = event,
	.init = init,
	.writable = nothing,
	.table = ls_mem_table,
};

/* ---- life ---- */

static int shadow_create(struct lockstep *ls)
{
	struct vm *svm = ls->svm, *vm = ls->vm;
	struct vcpu *v;
	int err = vm_init(svm);

	svm->engine = &interp_engine;
	svm->tsc_khz = vm->tsc_khz;
	if (!err)
		err = pmap_create(&svm->pmap, vm->pmap->ram_size);
	if (err)
		return err;
	svm->pmap->single = true;
	v = vm_add_vcpu(svm);
	if (!v)
		return -ENOMEM;
	err = x86_cpu_create(v);
	if (err)
		return err;
	ls->s = vcpu_x86(v);
	ls->s_inputs = (struct x86_inputs){.shadow = true, .ops = &ls_shadow_ops, .arg = ls};
	ls->s->inputs = &ls->s_inputs;
	return interp_engine.vcpu_create(v);
}

int lockstep_create(struct lockstep **out, struct vm *vm, const struct lockstep_config *cfg)
{
	struct lockstep *ls = calloc(1, sizeof(*ls));
	int err = -ENOMEM;

	if (!ls)
		goto fail;
	ls->cfg = *cfg;
	ls->vm = vm;
	ls->p = vcpu_x86(vm->vcpu[0]);
	ls->until_mem = 1;
	ls->next_full = FULL_EVERY;
	pthread_mutex_init(&ls->late_lock, NULL);
	ls->svm = calloc(1, sizeof(*ls->svm));
	ls->near = aligned_alloc(64, ALIGN_UP(sizeof(*ls->near), (size_t)64));
	if (!ls->svm || !ls->near)
		goto fail;
	memset(ls->near, 0, sizeof(*ls->near));
	err = shadow_create(ls);
	if (!err)
		err = ls_mem_create(ls);
	if (!err)
		err = ls_mem_copy(ls);
	if (err)
		goto fail;
	x86_fpu_put(ls->p);
	ls_state_copy(ls->s, ls->p);
	ls->p_inputs = (struct x86_inputs){.ops = &vcpu_ops, .arg = ls};
	ls->p->inputs = &ls->p_inputs;
	ls->write_hook = (struct pmap_write_hook){.write = ls_ram_write, .arg = ls};
	vm->pmap->write_hook = &ls->write_hook;
	*out = ls;
	return 0;

fail:
	log_error("lockstep: cannot make the second processor: %s; try a smaller -m",
	          strerror(-err));
	lockstep_destroy(ls);
	return err;
}

static void summary(const struct lockstep *ls)
{
	if (!ls->thread_ready || ls->failed || ls->cfg.quiet)
		return;
	log_info("lockstep: %llu instructions, no difference: %llu boundaries, %llu inputs, %llu "
	         "events; dead flags taken over %llu times, accessed bits %llu times",
	         (unsigned long long)ls->insns, (unsigned long long)ls->boundaries,
	         (unsigned long long)ls->inputs, (unsigned long long)ls->events,
	         (unsigned long long)ls->flags_taken, (unsigned long long)ls->entries_taken);
}

void lockstep_destroy(struct lockstep *ls)
{
	if (!ls)
		return;
	summary(ls);
	if (ls->p)
		ls->p->inputs = NULL;
	if (ls->vm && ls->vm->pmap)
		ls->vm->pmap->write_hook = NULL;
	ls_mem_destroy(ls);
	if (ls->svm && ls->svm->loop)
		vm_destroy(ls->svm);
	ls_queue_free(&ls->queue);
	ls_queue_free(&ls->late);
	free(ls->svm);
	free(ls->near);
	free(ls);
}

bool lockstep_failed(const struct lockstep *ls)
{
	return ls && ls->failed;
}
