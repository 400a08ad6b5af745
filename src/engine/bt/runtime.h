/* SPDX-License-Identifier: MIT */
/* What the files of the runtime share: stub.c, cache.c, page.c, flush.c, link.c, signal.c, run.c.
 *
 * Safe points. A vCPU is "inside" (bt_cpu.in_cache) from its entry into run() until it leaves
 * it, but for the time in which it waits for a flush. While any vCPU is inside, tables and code
 * only grow: so who is inside may read pages and entries without the lock. Who needs everybody out
 * sets `flushing`, then attn of all, and waits until they have come to the top of their run loops.
 *
 * Lock order: bt_vm.lock is the last; nothing that raises or waits is called with it held. */
#pragma once

#include <signal.h>
#include <ucontext.h>

#include "engine/bt/bt.h"

#define BT_CACHE_MIN     (64 * MiB)
#define BT_CACHE_MAX     (512 * MiB)
#define BT_COLD_CHUNK    (1 * MiB) /* several times what a unit may need */
#define BT_RING          1024u
#define BT_MAX_PROTECTED 30000u /* pages: each may cost two of the process's 65530 mappings */
#define BT_MODIFIED      4      /* such that its units are kept short (decode.c, sweep) */
#define BT_HOT_WRITES    64     /* invalidations of a page in a row, then interp runs it */

struct bt_link {
	u32 entry; /* the exit is linked to, + 1 */
	u32 times;
};

struct bt_ram {          /* a page of RAM */
	u32 first;       /* code page + 1 of those that live on it, linked by ram_next */
	u8 writes;       /* invalidations, not long ago */
	u8 cool;         /* blocks to run by interp before it is translated again */
	bool protected;  /* not writable in bt_hva */
	u64 covered[64]; /* bytes that are translated */
};

struct bt_priv {
	u8 *area; /* both aliases of the cache */
	size_t table_bytes;
	struct bt_ram *ram;
	u64 nr_ram;
	u32 nr_protected;
	pthread_cond_t cond; /* a vCPU came out; a flush is over */
	bool flushing;       /* under the lock */
	bool want_flush;
	bool never_hot;    /* translate whatever comes: tests */
	u32 ring[BT_RING]; /* ids of dead pages; written under the lock */
	u32 ring_n;
	u64 invalidated;
	struct bt_link *links; /* by exit */
	struct pmap_code_hook hook;
	int (*enter)(struct x86_cpu *c, uintptr_t host);
};

/* A return stack: a guard page, the stack, what an underflow finds. */
#define BT_UNDERFLOWS   512u
#define BT_STACK_GUARD  PAGE_SIZE
#define BT_STACK_STRIDE (BT_STACK_GUARD + BT_RSTACK + BT_UNDERFLOWS * sizeof(u64))

static inline bool bt_rstack_guard(const struct bt_cpu *b, uintptr_t addr)
{
	uintptr_t off = addr - (uintptr_t)b->rstack;

	return off < 2 * BT_STACK_STRIDE && off % BT_STACK_STRIDE < BT_STACK_GUARD;
}

static inline struct bt_priv *bt_priv_of(struct bt_vm *bt)
{
	return bt->priv;
}

/* ---- stub.c ---- */
void bt_stubs_make(struct bt_vm *bt);
/* A jump from the exit's page to the body of an entry on another page, whose virtual address is
 * `dist` from the exit's: its offset in the cache, or 0: no room. Under the lock. */
u32 bt_emit_link(struct bt_vm *bt, const struct bt_exit *e, const struct bt_entry *t, s32 dist);

/* ---- cache.c ---- */
int bt_cache_create(struct bt_vm *bt, u64 ram_size);
void bt_cache_destroy(struct bt_vm *bt);
int bt_cpu_create(struct bt_vm *bt, struct x86_cpu *c);
void bt_cpu_destroy(struct bt_cpu *b);
/* Throw all code away; the caller is inside, the lock is not held, vector state is put away. */
void bt_flush_code(struct bt_cpu *b);

/* ---- safe.c ---- */
void bt_kick(struct bt_cpu *b);
void bt_kick_all(struct bt_vm *bt);
void bt_enter_inside(struct bt_cpu *b);
void bt_leave_inside(struct bt_cpu *b);
/* Under the lock, outside: until no flush is under way. */
void bt_wait_for_flush(struct bt_cpu *b);
/* At the top of the run loop, when attn was set. */
void bt_safe_point(struct bt_cpu *b);

/* ---- page.c ---- */
/* The code page for this mode, made if there is none; BT_NONE: no more numbers, flush. The caller
 * is inside. */
u32 bt_page_get(struct bt_vm *bt, gpa_t gpa, u64 ram_page, u32 mode);
/* Under the lock: is the RAM page of `id` still protected, the page alive? Then it may be read
 * for translation. */
bool bt_page_ready(struct bt_vm *bt, u32 id);
/* Is the RAM page written so often that the interpreter should run it? Counts. */
bool bt_page_hot(struct bt_vm *bt, u64 ram_page);
void bt_code_marked(void *arg, u64 page);
void bt_code_written(void *arg, u64 page, u32 off, u32 len);
/* Everybody is out: forget all pages, unprotect. Under the lock. */
void bt_pages_reset(struct bt_vm *bt);

/* ---- flush.c: one vCPU's view of virtual addresses; its own thread, or it is outside ---- */
void bt_pb_set(struct bt_cpu *b, u32 id, u64 va, bool global);
void bt_pb_drop(struct bt_cpu *b, u32 id);
void bt_pb_reset(struct bt_cpu *b);
void bt_jc_set(struct bt_cpu *b, bool user, u64 target, u32 entry);
void bt_jc_reset(struct bt_cpu *b, bool user);
void bt_tlb_flushed(struct x86_cpu *c, bool global_too);
void bt_tlb_page_flushed(struct x86_cpu *c, gva_t page);

/* ---- site.c: what site slots hold; as flush.c ---- */
void bt_sites_init(struct bt_cpu *b);
/* The slot's class; its operands' size, rounded up (BT_POOL_PAGE's: 0). */
enum bt_class bt_site_class(u32 slot);
u32 bt_site_span(const struct bt_vm *bt, u32 slot);
/* From the TLB, where `addr` is valid. */
void bt_site_fill(struct bt_cpu *b, u32 slot, gva_t addr);
/* Log 0: the supervisor's; 1: the user's, and the supervisor's while it may access user pages. */
void bt_sites_drop(struct bt_cpu *b, unsigned log);
/* No site may write to this RAM page. */
void bt_sites_drop_write(struct bt_cpu *b, u64 ram_page);

/* ---- signal.c ---- */
bool bt_host_fault(void *arg, const siginfo_t *info, ucontext_t *uc);

/* ---- engine.c ---- */
/* On the vCPU's thread, whenever it enters run(): segment base, signals. 0 or -errno. */
int bt_thread_init(struct bt_cpu *b);

/* ---- run.c ---- */
#define BT_AGAIN (BT_NONE - 1) /* in place of an entry: look at what has happened first */
enum vcpu_stop bt_run(struct vcpu *v);
/* The mode in which the vCPU would run translated code now; 0: interp runs it. */
u32 bt_mode(const struct x86_cpu *c);
/* One instruction by interp; may raise. */
void bt_interp_one(struct bt_cpu *b);
/* ---- what stubs call ---- */
/* 0: go on, 1: leave with BT_LEAVE_LOOKUP. */
int bt_helper_call(struct x86_cpu *c, u64 rip, u32 arg);
/* 0: again, 1: the instruction was executed, 2: leave with BT_LEAVE_LOOKUP, 3: its operand is in
 * b->bounce. */
int bt_miss_call(struct x86_cpu *c, u64 addr, u32 slot, u32 write);

/* ---- link.c ---- */
void bt_link(struct bt_cpu *b, u32 exit, u32 entry);
/* With the lock: exits that go to the entry are as before they were linked. */
void bt_unlink(struct bt_vm *bt, u32 entry);
/* Host offset in the cache -> unit and instruction; false: none. Takes the lock. */
bool bt_find_insn(struct bt_vm *bt, u32 host, struct bt_unit *unit, struct bt_insn *insn);
