// SPDX-License-Identifier: MIT
/* Inside and outside of translated code (runtime.h), and what a vCPU does where it may. */
#include "engine/bt/runtime.h"

void bt_kick(struct bt_cpu *b)
{
	__atomic_store_n(&b->attn, 1, __ATOMIC_SEQ_CST);
}

void bt_kick_all(struct bt_vm *bt)
{
	for (unsigned i = 0; i < bt->vm->nr_vcpus; i++)
		if (bt->vm->vcpu[i]->engine_state)
			bt_kick(bt->vm->vcpu[i]->engine_state);
}

void bt_wait_for_flush(struct bt_cpu *b)
{
	struct bt_priv *pv = bt_priv_of(b->vm);

	while (pv->flushing)
		pthread_cond_wait(&pv->cond, &b->vm->lock);
}

void bt_enter_inside(struct bt_cpu *b)
{
	pthread_mutex_lock(&b->vm->lock);
	bt_wait_for_flush(b);
	b->in_cache = true;
	pthread_mutex_unlock(&b->vm->lock);
}

void bt_leave_inside(struct bt_cpu *b)
{
	pthread_mutex_lock(&b->vm->lock);
	b->in_cache = false;
	pthread_cond_broadcast(&bt_priv_of(b->vm)->cond);
	pthread_mutex_unlock(&b->vm->lock);
}

/* Attention was cleared before: what is set from now on raises it again. */
void bt_safe_point(struct bt_cpu *b)
{
	struct bt_priv *pv = bt_priv_of(b->vm);
	u32 n;

	if (unlikely(__atomic_load_n(&pv->want_flush, __ATOMIC_SEQ_CST))) {
		x86_fpu_put(b->c);
		bt_flush_code(b);
	}
	if (unlikely(__atomic_load_n(&pv->flushing, __ATOMIC_SEQ_CST))) {
		x86_fpu_put(b->c);
		pthread_mutex_lock(&b->vm->lock);
		b->in_cache = false;
		pthread_cond_broadcast(&pv->cond);
		bt_wait_for_flush(b);
		b->in_cache = true;
		pthread_mutex_unlock(&b->vm->lock);
	}
	n = __atomic_load_n(&pv->ring_n, __ATOMIC_ACQUIRE);
	if (likely(b->inval_seen == n))
		return;
	pthread_mutex_lock(&b->vm->lock); /* the ring must not run away while it is read */
	n = pv->ring_n;
	if (n - b->inval_seen > BT_RING)
		bt_pb_reset(b);
	else
		for (; b->inval_seen != n; b->inval_seen++)
			bt_pb_drop(b, pv->ring[b->inval_seen % BT_RING]);
	b->inval_seen = n;
	pthread_mutex_unlock(&b->vm->lock);
}
