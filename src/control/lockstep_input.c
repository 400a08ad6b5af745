// SPDX-License-Identifier: MIT
/* What the vCPU learnt from outside, in order, and the shadow's turn to learn it.
 *
 * Writes to RAM that a device makes while the vCPU's instruction waits for it stand in the same
 * queue. Those of other threads are held back until a boundary, where both have them at the
 * same instruction. */
#include "control/lockstep_priv.h"

#include <stdlib.h>
#include <string.h>

static const char *const kind_name[NR_X86_IN] = {
	[X86_IN_TSC] = "TSC",
	[X86_IN_PIO_READ] = "port read",
	[X86_IN_PIO_WRITE] = "port write",
	[X86_IN_MMIO_READ] = "MMIO read",
	[X86_IN_MMIO_WRITE] = "MMIO write",
	[X86_IN_MSR_READ] = "APIC MSR read",
	[X86_IN_MSR_WRITE] = "APIC MSR write",
	[X86_IN_CR8_READ] = "CR8 read",
	[X86_IN_CR8_WRITE] = "CR8 write",
	[X86_IN_APIC_PAGE] = "APIC page",
	[X86_IN_IPIS] = "IPIs by hypercall",
	[X86_IN_RAM] = "RAM written",
	[X86_IN_RANDOM] = "random number",
	[X86_IN_XINUSE] = "XINUSE",
};

static bool is_write(enum x86_input_kind kind)
{
	return kind == X86_IN_PIO_WRITE || kind == X86_IN_MMIO_WRITE || kind == X86_IN_MSR_WRITE ||
	       kind == X86_IN_CR8_WRITE;
}

/* ---- the queue ---- */

static struct ls_input *queue_add(struct ls_queue *q)
{
	if (q->head == q->nr)
		q->head = q->nr = 0;
	if (q->nr == q->max) {
		size_t max = q->max ? 2 * q->max : 256;
		struct ls_input *e = realloc(q->e, max * sizeof(*e));

		if (!e)
			bug("lockstep: out of memory for inputs");
		q->e = e;
		q->max = max;
	}
	memset(&q->e[q->nr], 0, sizeof(*q->e));
	return &q->e[q->nr++];
}

void ls_queue_free(struct ls_queue *q)
{
	for (size_t i = q->head; i < q->nr; i++)
		free(q->e[i].data);
	free(q->e);
}

static void add_write(struct ls_queue *q, gpa_t gpa, const void *buf, u64 len)
{
	struct ls_input *e = queue_add(q);

	e->dma = true;
	e->in.addr = gpa;
	e->len = len;
	if (!buf)
		return;
	e->data = malloc(len);
	if (!e->data)
		bug("lockstep: out of memory for a write to RAM");
	memcpy(e->data, buf, len);
}

static void write_ram(struct pmap *p, const struct ls_input *e)
{
	if (e->data)
		pmap_write(p, e->in.addr, e->data, e->len);
	else
		pmap_zero(p, e->in.addr, e->len);
}

/* ---- the vCPU's side ---- */

void ls_input_made(void *arg, const struct x86_input *in)
{
	struct lockstep *ls = arg;

	if (ls->over)
		return;
	queue_add(&ls->queue)->in = *in;
}

bool ls_ram_write(void *arg, gpa_t gpa, const void *buf, u64 len)
{
	struct lockstep *ls = arg;
	bool own = pthread_equal(pthread_self(), ls->vm->vcpu[0]->thread);

	if (ls->over)
		return false;
	if (own) {
		add_write(&ls->queue, gpa, buf, len);
		return false;
	}
	pthread_mutex_lock(&ls->late_lock);
	add_write(&ls->late, gpa, buf, len);
	pthread_mutex_unlock(&ls->late_lock);
	vcpu_kick(ls->vm->vcpu[0], VCPU_REQ_KICK);
	return true;
}

void ls_late_writes(struct lockstep *ls)
{
	if (likely(ls_queue_empty(&ls->late))) /* what is missed now is seen at the next */
		return;
	pthread_mutex_lock(&ls->late_lock);
	ls->vm->pmap->write_hook = NULL;
	for (; !ls_queue_empty(&ls->late); ls->late.head++) {
		struct ls_input *e = &ls->late.e[ls->late.head];

		write_ram(ls->vm->pmap, e);
		write_ram(ls->svm->pmap, e);
		free(e->data);
		e->data = NULL;
	}
	ls->vm->pmap->write_hook = &ls->write_hook;
	pthread_mutex_unlock(&ls->late_lock);
}

/* ---- the shadow's side ---- */

static void remember(struct lockstep *ls, const struct ls_input *e)
{
	struct ls_input *l = &ls->last[ls->nr_last++ % ARRAY_SIZE(ls->last)];

	*l = *e;
	l->data = NULL;
	ls->inputs++;
}

void ls_input_settle(struct lockstep *ls)
{
	while (!ls_queue_empty(&ls->queue) && ls->queue.e[ls->queue.head].dma) {
		struct ls_input *e = &ls->queue.e[ls->queue.head++];

		write_ram(ls->svm->pmap, e);
		remember(ls, e);
		free(e->data);
		e->data = NULL;
	}
}

static void describe(const struct x86_input *in, char *buf, size_t size)
{
	if (is_write(in->kind))
		snprintf(buf, size, "%s of %#llx to %#llx, %u bytes", kind_name[in->kind],
		         (unsigned long long)in->val, (unsigned long long)in->addr, in->size);
	else
		snprintf(buf, size, "%s at %#llx, %u bytes", kind_name[in->kind],
		         (unsigned long long)in->addr, in->size);
}

void ls_input_print(const struct ls_input *e, FILE *out)
{
	if (e->dma)
		fprintf(out, "  RAM %#llx, %llu bytes written by a device\n",
		        (unsigned long long)e->in.addr, (unsigned long long)e->len);
	else
		fprintf(out, "  %-17s addr %#llx size %u value %#llx\n", kind_name[e->in.kind],
		        (unsigned long long)e->in.addr, e->in.size, (unsigned long long)e->in.val);
}

static void take(void *arg, struct x86_input *in)
{
	struct lockstep *ls = arg;
	const struct ls_input *e;
	char mine[80], theirs[80];

	ls_input_settle(ls);
	if (ls->input_failed)
		return;
	describe(in, mine, sizeof(mine));
	if (ls_queue_empty(&ls->queue)) {
		ls->input_failed = true;
		snprintf(ls->input_why, sizeof(ls->input_why),
		         "interp makes an access that the engine did not make: %s", mine);
		return;
	}
	e = &ls->queue.e[ls->queue.head];
	if (e->in.kind != in->kind || e->in.addr != in->addr || e->in.size != in->size ||
	    (is_write(in->kind) && e->in.val != in->val)) {
		ls->input_failed = true;
		describe(&e->in, theirs, sizeof(theirs));
		snprintf(ls->input_why, sizeof(ls->input_why),
		         "the engine made %s, interp makes %s", theirs, mine);
		return;
	}
	in->val = e->in.val;
	in->ok = e->in.ok;
	remember(ls, e);
	ls->queue.head++;
}

static void no_made(void *arg, const struct x86_input *in)
{
	bug("lockstep: the shadow has an input of its own");
}

static void no_boundary(void *arg, u64 progress)
{
	bug("lockstep: the shadow is run");
}

static void no_event(void *arg, const struct x86_event *ev)
{
	bug("lockstep: the shadow is run");
}

static void no_init(void *arg)
{
}

const struct x86_inputs_ops ls_shadow_ops = {
	.take = take,
	.made = no_made,
	.boundary = no_boundary,
	.event = no_event,
	.init = no_init,
	.writable = ls_mem_writable,
	.table = ls_mem_table,
};
