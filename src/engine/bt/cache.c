// SPDX-License-Identifier: MIT
/* The code cache and the tables beside it; who is inside; how everything is thrown away.
 *
 * Both aliases are mapped before the sandbox closes: no memory becomes executable later. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/large.h"
#include "base/log.h"
#include "engine/bt/runtime.h"

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ  22
#define MADV_POPULATE_WRITE 23
#endif
#ifndef MFD_EXEC
#define MFD_EXEC 0x10u
#endif

/* For BT_CACHE_MAX, and half as many again as gcc's code needs in it; reserved, not used. */
#define MAX_UNITS   (768u << 10)
#define MAX_INSNS   (14u << 20)
#define MAX_EXITS   (6u << 20)
#define MAX_ENTRIES (1536u << 10)
#define PAGE_HASH   (64u << 10)
#define ENTRY_HASH  (512u << 10)

/* ---- creation ---- */

static void *table(size_t n, size_t size)
{
	void *p = mmap(NULL, n * size, PROT_READ | PROT_WRITE,
	               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (p == MAP_FAILED)
		return NULL;
	madvise(p, n * size, MADV_NOHUGEPAGE); /* sparse */
	return p;
}

static void table_free(void *p, size_t n, size_t size)
{
	if (p)
		munmap(p, n * size);
}

/* What a guest executes again and again must fit, or it is translated again and again: one
 * compiler's code is 200 MiB here. The host's memory bounds it: a full cache is not given back. */
static u32 cache_size(void)
{
	u64 host = (u64)MAX(sysconf(_SC_PHYS_PAGES), 0L) * PAGE_SIZE;

	return (u32)ALIGN_UP(MIN(MAX(host / 32, (u64)BT_CACHE_MIN), (u64)BT_CACHE_MAX),
	                     (u64)LARGE_SIZE);
}

static int map_code(struct bt_vm *bt)
{
	u32 size = cache_size();
	struct bt_priv *pv = bt_priv_of(bt);
	int fd = memfd_create("ringer-bt", MFD_CLOEXEC | MFD_EXEC);
	u8 *area, *rw, *rx;
	int err = 0;

	if (fd < 0 && errno == EINVAL) /* Linux before 6.3 */
		fd = memfd_create("ringer-bt", MFD_CLOEXEC);
	if (fd < 0)
		return -errno;
	area = large_map(2 * (size_t)size, PROT_NONE);
	if (!area) {
		err = -errno;
		close(fd);
		return err;
	}
	pv->area = area;
	rw = rx = MAP_FAILED;
	if (!ftruncate(fd, size)) {
		rw = mmap(area, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0);
		rx = mmap(area + size, size, PROT_READ | PROT_EXEC, MAP_SHARED | MAP_FIXED, fd, 0);
	}
	if (rw == MAP_FAILED || rx == MAP_FAILED)
		err = -errno;
	close(fd);
	bt->cache.rw = rw;
	bt->cache.rx = rx;
	bt->cache.size = size;
	bt->cache.cold_low = bt->cache.cold = bt->cache.cold_end = size;
	return err;
}

/* A piece of the cache in one large page, which both mappings show as such: a host page fault for
 * each small one would cost three times as much, and translated code with a flat profile waits for
 * the instruction TLB. Where the kernel has no large page, small ones are asked for; where it
 * refuses that too, they come one by one. */
static void have_piece(struct bt_cache *k, u32 at)
{
	u32 i = at >> LARGE_SHIFT;
	u8 *rw = k->rw + ((size_t)i << LARGE_SHIFT), *rx = k->rx + ((size_t)i << LARGE_SHIFT);

	_Static_assert(sizeof(k->pieces) * 8 * LARGE_SIZE == BT_CACHE_MAX, "each has a bit");
	if (at >= k->size || (k->pieces[i / 64] >> i % 64 & 1))
		return;
	k->pieces[i / 64] |= BIT(i % 64);
	if (large_collapse(rw) && large_collapse(rx))
		return;
	madvise(rw, LARGE_SIZE, MADV_POPULATE_WRITE);
	madvise(rx, LARGE_SIZE, MADV_POPULATE_READ);
}

void bt_cache_populate(struct bt_vm *bt)
{
	struct bt_cache *k = &bt->cache;

	have_piece(k, k->used);
	have_piece(k, k->used + BT_COLD_CHUNK / 4);
	have_piece(k, k->cold);
}

bool bt_cache_room(struct bt_cache *k, u32 hot, u32 cold)
{
	if (k->cold_end - k->cold < cold) {
		if (k->cold_low - k->used < BT_COLD_CHUNK + hot)
			return false;
		k->cold_end = k->cold_low;
		k->cold_low -= BT_COLD_CHUNK;
		k->cold = k->cold_low;
	}
	return k->cold_low - k->used >= hot;
}

void bt_cache_empty(struct bt_cache *k)
{
	memset(k->rw + k->stubs_end, 0xcc, k->used - k->stubs_end);
	memset(k->rw + k->cold_low, 0xcc, k->size - k->cold_low);
	k->used = k->stubs_end;
	k->cold_low = k->cold = k->cold_end = k->size;
}

static void empty_tables(struct bt_vm *bt)
{
	memset(bt->page_hash, 0xff, (bt->page_hash_mask + 1) * sizeof(u32));
	memset(bt->entry_hash, 0xff, (bt->entry_hash_mask + 1) * sizeof(u32));
	bt->nr_pages = bt->nr_units = bt->nr_insns = bt->nr_entries = 0;
	bt->nr_exits = 1; /* 0 is none */
}

int bt_cache_create(struct bt_vm *bt, u64 ram_size)
{
	struct bt_priv *pv = calloc(1, sizeof(*pv));
	int err;

	if (!pv)
		return -ENOMEM;
	bt->priv = pv;
	pthread_mutex_init(&bt->lock, NULL);
	pthread_cond_init(&pv->cond, NULL);
	bt->max_units = MAX_UNITS;
	bt->max_insns = MAX_INSNS;
	bt->max_exits = MAX_EXITS;
	bt->max_entries = MAX_ENTRIES;
	bt->page_hash_mask = PAGE_HASH - 1;
	bt->entry_hash_mask = ENTRY_HASH - 1;
	pv->nr_ram = ram_size >> PAGE_SHIFT;
	bt->pages = table(BT_MAX_PAGES, sizeof(*bt->pages));
	bt->units = table(MAX_UNITS, sizeof(*bt->units));
	bt->insns = table(MAX_INSNS, sizeof(*bt->insns));
	bt->exits = table(MAX_EXITS, sizeof(*bt->exits));
	bt->entries = table(MAX_ENTRIES, sizeof(*bt->entries));
	bt->entry_hash = bt_map_large((ENTRY_HASH + PAGE_HASH) * sizeof(u32));
	bt->page_hash = bt->entry_hash ? bt->entry_hash + ENTRY_HASH : NULL;
	pv->links = table(MAX_EXITS, sizeof(*pv->links));
	pv->ram = table(pv->nr_ram, sizeof(*pv->ram));
	if (!bt->pages || !bt->units || !bt->insns || !bt->exits || !bt->entries ||
	    !bt->entry_hash || !pv->links || !pv->ram) {
		log_error("bt: cannot reserve memory for tables: %s; try a smaller -m",
		          strerror(errno));
		return -ENOMEM;
	}
	err = map_code(bt);
	if (err) {
		log_error("bt: cannot map memory for generated code: %s", strerror(-err));
		return err;
	}
	empty_tables(bt);
	bt_stubs_make(bt);
	return 0;
}

void bt_cache_destroy(struct bt_vm *bt)
{
	struct bt_priv *pv = bt_priv_of(bt);

	if (!pv)
		return;
	table_free(bt->pages, BT_MAX_PAGES, sizeof(*bt->pages));
	table_free(bt->units, MAX_UNITS, sizeof(*bt->units));
	table_free(bt->insns, MAX_INSNS, sizeof(*bt->insns));
	table_free(bt->exits, MAX_EXITS, sizeof(*bt->exits));
	table_free(bt->entries, MAX_ENTRIES, sizeof(*bt->entries));
	bt_unmap_large(bt->entry_hash, (ENTRY_HASH + PAGE_HASH) * sizeof(u32));
	table_free(pv->links, MAX_EXITS, sizeof(*pv->links));
	table_free(pv->ram, pv->nr_ram, sizeof(*pv->ram));
	if (pv->area)
		munmap(pv->area, 2 * (size_t)bt->cache.size);
	pthread_cond_destroy(&pv->cond);
	pthread_mutex_destroy(&bt->lock);
	free(pv);
	bt->priv = NULL;
}

static void cpu_reset(struct bt_cpu *b)
{
	b->ret_sp = b->ac_sp = b->ret_top;
	b->stack_sp[0] = b->stack_top[0];
	b->stack_sp[1] = b->stack_top[1];
	bt_jc_reset(b, false);
	bt_jc_reset(b, true);
	bt_pb_reset(b);
	b->home[0] = b->home[1] = b->mode = 0;
	b->inval_seen = bt_priv_of(b->vm)->ring_n;
}

/* One privilege level's: a guard page, the stack, what an underflow finds. */
static int make_stack(struct bt_cpu *b, unsigned user)
{
	u8 *base = b->rstack + user * BT_STACK_STRIDE;
	u64 *top = (u64 *)(void *)(base + BT_STACK_GUARD + BT_RSTACK);

	if (mprotect(base, BT_STACK_GUARD, PROT_NONE))
		return -errno;
	for (unsigned i = 0; i < BT_UNDERFLOWS; i++)
		top[i] = b->vm->stub[STUB_UNDERFLOW];
	b->stack_top[user] = (uintptr_t)top;
	return 0;
}

int bt_cpu_create(struct bt_vm *bt, struct x86_cpu *c)
{
	struct bt_cpu *b = bt_of(c);
	int err;

	_Static_assert(sizeof(struct bt_cpu) <= X86_ENGINE_AREA, "it lies behind struct x86_cpu");
	b->c = c;
	b->vm = bt;
	b->set[0] = c->tlbs[TLB_SUP];
	b->set[1] = c->tlbs[TLB_SUP_AC];
	b->rstack = mmap(NULL, 2 * BT_STACK_STRIDE, PROT_READ | PROT_WRITE,
	                 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (b->rstack == MAP_FAILED) {
		b->rstack = NULL;
		return -errno;
	}
	err = make_stack(b, 0);
	if (!err)
		err = make_stack(b, 1);
	if (err)
		return err;
	b->ret_top = b->stack_top[0];
	for (unsigned i = 0; i < BT_MAX_PAGES; i++)
		b->pb[i] = BT_PB_NONE;
	bt_sites_init(b);
	b->jc_log_n[0] = b->jc_log_n[1] = BT_JC_LOG + 1;
	cpu_reset(b);
	return 0;
}

void bt_cpu_destroy(struct bt_cpu *b)
{
	if (b->rstack)
		munmap(b->rstack, 2 * BT_STACK_STRIDE);
	b->rstack = NULL;
}

/* ---- everything goes ---- */

static bool somebody_inside(const struct bt_vm *bt)
{
	for (unsigned i = 0; i < bt->vm->nr_vcpus; i++) {
		const struct bt_cpu *b = bt->vm->vcpu[i]->engine_state;

		if (b && b->in_cache)
			return true;
	}
	return false;
}

void bt_flush_code(struct bt_cpu *b)
{
	struct bt_vm *bt = b->vm;
	struct bt_priv *pv = bt_priv_of(bt);

	pthread_mutex_lock(&bt->lock);
	b->in_cache = false;
	if (pv->flushing) { /* another one does it */
		pthread_cond_broadcast(&pv->cond);
		bt_wait_for_flush(b);
		b->in_cache = true;
		pthread_mutex_unlock(&bt->lock);
		return;
	}
	pv->flushing = true;
	bt_kick_all(bt);
	for (unsigned i = 0; i < bt->vm->nr_vcpus; i++) /* the interpreter looks at requests only */
		__atomic_fetch_or((u32 *)&bt->vm->vcpu[i]->req, VCPU_REQ_KICK, __ATOMIC_SEQ_CST);
	while (somebody_inside(bt))
		pthread_cond_wait(&pv->cond, &bt->lock);
	__atomic_store_n(&pv->want_flush, false, __ATOMIC_SEQ_CST);
	memset(pv->links, 0, bt->nr_exits * sizeof(*pv->links));
	bt_pages_reset(bt);
	empty_tables(bt);
	bt_cache_empty(&bt->cache);
	for (unsigned i = 0; i < bt->vm->nr_vcpus; i++)
		if (bt->vm->vcpu[i]->engine_state)
			cpu_reset(bt->vm->vcpu[i]->engine_state);
	b->stat[BT_STAT_FLUSHES]++;
	pv->flushing = false;
	pthread_cond_broadcast(&pv->cond);
	b->in_cache = true;
	pthread_mutex_unlock(&bt->lock);
}
