/* SPDX-License-Identifier: MIT */
/* Binary translation: what the parts of this engine share. doc/bt.md tells the whole story.
 *
 * A *unit* is the translation of a stretch of guest code that begins at some instruction and stays
 * on one guest-physical page. It is host code in the code cache, the same for every virtual address
 * at which the page is mapped, and consists of the guest's own instructions with memory operands
 * redirected, checks in front of them, and exits.
 *
 * Host registers in translated code:
 *
 *	rax rcx rdx rbx rbp rsi rdi r8..r12	the guest's registers of that name
 *	r13					the guest's RSP
 *	r14, r15				BT_T0, BT_T1: scratch between guest instructions
 *	rsp					the return stack (host addresses only; see below)
 *	%gs					struct x86_cpu of the vCPU; struct bt_cpu lies at
 *						BT_CPU_OFF behind it
 *	EFLAGS, x87, vector registers		the guest's (arithmetic flags where they are live)
 *
 * The guest's r13, r14, r15 live in c->gpr[]. Everything else of the guest's state is in struct
 * x86_cpu at all times. At every boundary between guest instructions all of this is so, which
 * makes exceptions precise: a host instruction that can fault comes before anything of its guest
 * instruction has changed.
 *
 * Virtual addresses: `pb[id]` of a vCPU is the virtual address at which it is running code page
 * `id`, or BT_PB_NONE. The invariant on which everything rests:
 *
 *	while a vCPU executes a unit of page P, pb[P] is the virtual address of that page, and
 *	whenever pb[P] is not BT_PB_NONE, the vCPU may execute P there (TLB semantics: rights and
 *	mapping were checked, and nothing has been flushed since).
 *
 * Ways into a unit: the run loop (which looks up, fetches, sets pb); a direct jump within the page;
 * a link to another page, which compares pb[target] - pb[source] with the distance; an indirect
 * jump, a return, and a return landing, which compare the target address with pb[P] + offset. Each
 * needs pb[P] valid, so that setting pb[P] to BT_PB_NONE closes the page for this vCPU: that is how
 * TLB flushes and modified code work.
 *
 * Returns: a guest CALL pushes the guest's return address on the guest's stack and is a host CALL;
 * a guest RET loads the guest's return address into BT_T0 and is a host RET. The landing behind the
 * host CALL compares BT_T0 with its own address; if they differ (or the return stack has run
 * empty, where it holds STUB_UNDERFLOW), the jump cache finds the target. The return stack's lower
 * end is a guard page: a host fault there empties it.
 *
 * Threads: vCPUs run translated code concurrently. bt_vm.lock covers units, pages, hash, cache
 * space and links. Code is never reused before a full flush, which happens with all vCPUs out of
 * translated code. */
#pragma once

#include <pthread.h>
#include <Zydis/Zydis.h>

#include "cpu/x86/mmu.h"
#include "cpu/x86/x86.h"
#include "vcpu/engine.h"

extern const struct engine_ops bt_engine;

/* For tests, on a thread made ready by interp_thread_init(): run from c->rip until an exception is
 * raised, which is recorded in c->ev and not delivered: 1. 0: it stopped for another reason. */
int bt_step(struct x86_cpu *c);

/* ---- host registers ---- */
#define BT_T0 14
#define BT_T1 15
#define BT_SP 13
/* Where guest register r lives: a host register, or -1: c->gpr[r]. */
static inline int bt_home(unsigned r)
{
	return r == RSP ? BT_SP : r >= 13 ? -1 : (int)r;
}

/* ---- modes: what a translation depends on ---- */
enum {
	BTM_CODE64 = 1 << 0, /* else 32-bit code, flat segments */
	BTM_USER = 1 << 1,   /* CPL 3 */
	BTM_AC = 1 << 2,     /* supervisor that may access user pages: CR4.SMAP off or EFLAGS.AC */
	BTM_FPU = 1 << 3,    /* CR0.TS and EM clear, CR4.OSFXSR set: x87, MMX, SSE run */
	BTM_AVX = 1 << 4,    /* BTM_FPU, CR4.OSXSAVE, XCR0 has SSE and AVX */
	BTM_SINGLE = 1 << 5, /* variant: no merged checks (entered when one failed) */
	BTM_VALID = 1 << 7,  /* set in every mode that can be translated; 0: interp runs it */
};
#define BTM_PAGE_MASK (~(u32)BTM_SINGLE) /* a code page is of a mode without the variant */

/* ---- per-vCPU state, behind struct x86_cpu ---- */
#define BT_MAX_PAGES   (1u << 17)
#define BT_PB_NONE     (1ull << 62)
#define BT_JC_SIZE     (1u << 16)
#define BT_SITES       32768u /* of each class */
#define BT_SITE_LOG    8192u
#define BT_NR_SAVE     8
#define BT_LOOP_PTRS   16
#define BT_MAX_HELPERS 64u
#define BT_JC_LOG      2048u
#define BT_VHASH       4096u
#define BT_RSTACK      (256 * KiB)

/* A site slot is a one-entry TLB for an access in the code: the page's virtual address (or
 * BT_PB_NONE) and host address = virtual address + addend (in the protected mapping). Sites of one
 * class share BT_SITES slots; a slot holds pages that the class's access may use. */
struct bt_site {
	u64 page;
	uintptr_t addend;
};
/* The supervisor's slots hold a page, or a range of large ones (x86.h, tlb_big, tlb_run): operands
 * may begin up to `limit` bytes behind `page`. The limit counts with the size of the operand, so
 * who shares a slot has operands of the same size: site.c. */
struct bt_range {
	u64 page;
	uintptr_t addend;
	u64 limit;
};
#define BT_POOLS     19 /* sizes, and BT_POOL_PAGE */
#define BT_POOL_PAGE 0  /* of slots of one page whose limit nobody looks at */
/* What is accessed by RSP alone shares slots with other units, so that a change of stacks fills few
 * of them: a unit's first, second, ... place has the first, second, ... slot of the group that its
 * page number chooses. So no two of one unit share, as merged checks require. */
#define BT_STACK_SITES  64u
#define BT_STACK_GROUPS 8u
#define BT_STACK_SLOTS  (BT_STACK_SITES * BT_STACK_GROUPS)
enum bt_class { /* index = TLB set * 2 + write; TLB_USER_AC is not translated */
	        BT_SUP_R,
	        BT_SUP_W,
	        BT_SUPAC_R,
	        BT_SUPAC_W,
	        BT_USER_R,
	        BT_USER_W,
	        BT_CLASSES
};

enum bt_leave {                  /* why translated code came back to the run loop */
	        BT_LEAVE_EXIT,   /* direct exit number bt->exit, not linked (or attention) */
	        BT_LEAVE_LOOKUP, /* go on at c->rip */
	        BT_LEAVE_FAULT,  /* host fault at bt->fault_pc: bt->fault_vector, or SMC */
};

#define BT_ATTN_STEP 2u

struct bt_cpu {
	/* Translated code and stubs use these by offset. */
	u32 attn; /* not 0: come out at the next poll. Set by anyone, cleared by the run loop .
	             BT_ATTN_STEP: the run loop wants every poll to come out */
	u32 exit; /* BT_LEAVE_EXIT */
	u64 save[BT_NR_SAVE]; /* scratch of one guest instruction's code */
	u32 source;           /* the latest indirect branch or return: BT_SOURCE(), or BT_NONE */
	u64 overwritten;      /* what lay where the latest indirect CALL pushed */
	u64 flags;            /* flags kept over a check: LAHF/SETO image in AX */
	s64 loop_limit;       /* of the running loop (group.c): its key is below: its checks hold */
	u8 bounce[64] __attribute__((aligned(64))); /* a loaded operand that lies on two pages */
	u64 loop_ptr[BT_LOOP_PTRS];                 /* host pointers of its checks */
	u64 host_sp;                                /* C stack while translated code runs */
	u64 ret_sp;                                 /* return stack while C code runs */
	u64 ret_top;                                /* its empty position */
	uintptr_t target;                           /* where STUB_HELPER goes on after a transfer */
	/* The stubs' and run loop's. */
	struct x86_cpu *c;
	struct bt_vm *vm;
	uintptr_t fault_pc; /* BT_LEAVE_FAULT */
	int fault_vector;   /* -1: a store to a protected page */
	uintptr_t fault_addr;
	u8 *rstack;        /* mapping: guard page, stack */
	bool in_cache;     /* under bt_vm.lock's protocol: executes translated code */
	u32 inval_seen;    /* invalidations served */
	u32 site_log_n[2]; /* [0] supervisor, [1] user and SMAP-open classes; > BT_SITE_LOG: all */
	u32 site_log[2][BT_SITE_LOG]; /* byte offsets of slots from struct x86_cpu */
	u64 pauses;
	u64 progress;               /* with c->inputs: moves when instructions were executed */
	u64 straddled;              /* RIP where BT_H_STRADDLE has just let it be tried again */
	u64 shadow_rip;             /* c->irq_shadow counts only here (helpers.h) */
	u64 stat[16];               /* enum bt_stat */
	u64 helped[BT_MAX_HELPERS]; /* calls of each helper */
	u32 interpreted[ZYDIS_MNEMONIC_MAX_VALUE + 1]; /* calls of BT_H_INTERP for each mnemonic */
	/* The runtime's. */
	struct tlb_entry *set[2]; /* the supervisor's TLB sets: closed, open to user pages */
	u64 stub_save[3];         /* guest RAX, RCX, RDX in the stubs */
	u32 flushes; /* moves when translations of addresses are dropped: what runs must come out */
	u32 mode;    /* of the code that runs */
	u32 home[2]; /* [CPL 3] mode that jc and the return stack belong to */
	u64 stack_top[2];  /* each privilege level has a return stack of its own: */
	u64 stack_sp[2];   /* ret_top and ret_sp while it is not the one in use */
	u64 ac_sp;         /* ret_sp when supervisor code opened access to user pages (run.c) */
	unsigned failures; /* translations in a row that had no room */
	u32 jc_log_n[2];   /* slots of jc filled since it was empty; > BT_JC_LOG: all */
	u16 jc_log[2][BT_JC_LOG];
	/* Code pages entered since the last flush, so that flushes are short: those entered through
	 * a global mapping of the supervisor are at the list's end. */
	u32 nr_entered, nr_global;
	u32 span[BT_POOLS]; /* the pools' sizes, for the stubs */
	struct bt_range range[BT_USER_R][BT_SITES] __attribute__((aligned(64)));
	struct bt_site site[BT_CLASSES - BT_USER_R][BT_SITES];
	uintptr_t jc[2][BT_JC_SIZE]; /* [CPL 3] host address of an indirect entry, or STUB_LOOKUP */
	u32 jc_entry[2]
		    [BT_JC_SIZE]; /* the entry in jc, + 1: for C code, which can check it first */
	u64 pb[BT_MAX_PAGES];
	u32 entered[2 * BT_MAX_PAGES]; /* two lists, from both ends: ids with pb valid, in either
	                                * or in both */
	u8 listed[BT_MAX_PAGES];       /* bit 0: in the list, bit 1: in that of global ones */
	/* By virtual page: which ids are executed there (0: none, else id + 1). */
	u32 vhash[BT_VHASH], vnext[BT_MAX_PAGES];
	u16 vbucket[BT_MAX_PAGES]; /* + 1; 0: in none */
};
#define BT_CPU_OFF ALIGN_UP(sizeof(struct x86_cpu), (size_t)4096)
/* Where the jump cache has a target, computed without touching flags: as BT_JC_CODE does. */
static inline u16 bt_jc_index(u64 target)
{
	return (u16)((u32)target + __builtin_bswap32((u32)target));
}
#define BT_JC_CODE                                                                                 \
	{                                                                                          \
		0x45, 0x89, 0xf7,               /* mov r15d, r14d */                               \
			0x41, 0x0f, 0xcf,       /* bswap r15d */                                   \
			0x47, 0x8d, 0x3c, 0x37, /* lea r15d, [r15 + r14] */                        \
			0x45, 0x0f, 0xb7, 0xff, /* movzx r15d, r15w */                             \
	}
static inline struct bt_cpu *bt_of(struct x86_cpu *c)
{
	return (struct bt_cpu *)(void *)((u8 *)c + BT_CPU_OFF);
}
/* %gs-relative displacements */
#define BT_GS(field)   ((s32)(BT_CPU_OFF + offsetof(struct bt_cpu, field)))
#define BT_GS_C(field) ((s32)offsetof(struct x86_cpu, field))
#define BT_GS_GPR(r)   ((s32)(offsetof(struct x86_cpu, gpr) + 8 * (r)))
#define BT_GS_PB(id)   ((s32)(BT_GS(pb) + 8 * (s32)(id)))
#define BT_GS_SITE(cl, i)                                                                          \
	((s32)((cl) < BT_USER_R                                                                    \
	               ? BT_GS(range) + (s32)(((cl)*BT_SITES + (i)) * sizeof(struct bt_range))     \
	               : BT_GS(site) + (s32)((((cl)-BT_USER_R) * BT_SITES + (i)) *                 \
	                                     sizeof(struct bt_site))))

/* ---- the code cache (cache.c) ----
 * One memfd mapped twice, writable and executable; the offset is the same in both. All code lies
 * within 2 GiB, so calls and jumps are rel32. Filled from the bottom; when full, everything goes.
 */
struct bt_cache {
	u8 *rw, *rx;
	u32 size, used;
	u32 stubs_end;
	u64 pieces[4]; /* bit: LARGE_SIZE bytes that were asked for */
	/* Code that is rarely executed lies in chunks of its own, from the top down, so that what
	 * is executed lies close together: offsets of the lowest chunk, and of the room left in it.
	 */
	u32 cold_low, cold, cold_end;
};

/* ---- pages, units, entries, exits ---- */
struct bt_insn {   /* from host code to guest instruction; ascending in `host` */
	u32 host;  /* offset in the cache of its first byte */
	u16 guest; /* offset in the guest page */
	u8 len;    /* bytes of guest code */
	u8 flags;
};

struct bt_unit {
	u32 page, page2; /* ids; page2: of an instruction that straddles, or ~0 */
	u32 mode;
	u32 host, host_end;  /* offsets in the cache: hot code, then cold code */
	u32 insns, nr_insns; /* index into bt_vm.insns */
	u32 next;            /* unit of the same page, or ~0 */
	bool dead;
};

struct bt_page {
	gpa_t gpa;
	u64 ram_page; /* index: offset in RAM's memfd >> 12 */
	u32 mode;     /* BTM_*, without BTM_SINGLE */
	u32 units;    /* list, ~0: none */
	u32 hash_next;
	u32 ram_next; /* page of the same RAM page in another mode, or ~0 */
	bool dead;    /* its code was modified: never entered again, its id is not reused */
};

struct bt_entry { /* a guest instruction at which a unit can be entered */
	u32 page;
	u16 off;
	bool single; /* of the BTM_SINGLE variant */
	u8 live;     /* arithmetic flags (as BT_F_*) that the code reads before it writes them */
	u8 reads;    /* the same, without what cannot be seen */
	u32 unit;
	u32 body;     /* cache offset: pb[page] is right, flags in EFLAGS */
	u32 start;    /* likewise, behind its poll: the run loop's way in, which has just looked */
	u32 indirect; /* cache offset: BT_T0 is the target's virtual address; checks it */
	u32 hash_next;
};

/* A direct exit: a jump or call (rel32 at `patch`) that goes to its cold stub until it is linked.
 * Target: virtual address pb[page] + delta, in `mode`. */
struct bt_exit {
	u32 patch; /* cache offset of the rel32; 0: never linked */
	u32 stub;  /* cache offset of the cold stub */
	u32 page;  /* source */
	u32 mode;  /* of the target, BTM_SINGLE included */
	s64 delta;
};

#define BT_NONE (~0u)

/* Where an indirect branch or a return is: a target that is not canonical faults there. */
enum bt_source_kind { BT_SOURCE_JMP, BT_SOURCE_CALL, BT_SOURCE_RET };
#define BT_SOURCE(page_id, off, kind) ((u32)(page_id) | (u32)(off) << 17 | (u32)(kind) << 29)

/* ---- stubs (stub.c), generated at the start of the cache; addresses in the executable alias ----
 *
 * STUB_EXIT: jmp. r15d = exit number. Leaves with BT_LEAVE_EXIT.
 *
 * STUB_LOOKUP: jmp. r14 = target's virtual address. Leaves with BT_LEAVE_LOOKUP, c->rip = r14.
 *
 * STUB_INDIRECT_SUP, _USER: jmp. r14 = target: through jc. Keeps flags.
 *
 * STUB_UNDERFLOW: where a RET on the empty return stack lands: an indirect jump to r14 through the
 * jc that c->cpl chooses.
 *
 * STUB_HELPER: call. r14 = virtual address of the guest instruction, r15d = BT_HARG(...). Saves all
 * guest registers and EFLAGS into c, sets c->rip = r14 and c->next_rip (32 bits in 32-bit code),
 * calls the helper on the C stack. It returns 0: registers and EFLAGS are loaded again and the stub
 * returns, unless attn is set: then it leaves with BT_LEAVE_LOOKUP, c->rip = c->next_rip. It
 * returns 1: control goes to c->rip, through bt->target where bt_helper_call() could tell it,
 * else by BT_LEAVE_LOOKUP.
 *
 * STUB_SYSCALL, STUB_SYSRET: jmp. The instruction, of 64-bit code at CPL 3 or of 64-bit operand
 * size at CPL 0, when nothing stands against it; else a jump to r15, where the helper is called,
 * with all but r14 unchanged. SYSCALL: r14 = what goes to RCX.
 *
 * STUB_MISS + class: call, from cold code. r14 = virtual address, r15d = BT_MISS_SLOT(): the
 * %gs-offset of the site slot, and the bytes accessed. Behind the call stand two words in `test
 * eax, imm32` (a9) instructions, BT_MISS1 and BT_MISS2, then two 5-byte jumps (e9): the first
 * retries, the second goes to the next guest instruction. If the TLB set of the slot's class has
 * the page, or for a supervisor's slot a range around it, and the access does not cross its end,
 * the slot is filled and logged, and the stub returns to the words. Else registers are saved,
 * c->rip and next_rip set, mmu_fill() called; on success as before; if the access cannot be cached,
 * interp executes the instruction and the stub goes on at the second jump with registers and EFLAGS
 * from c, or leaves with BT_LEAVE_LOOKUP when rip isn't the next instruction, the mode changed,
 * code was written, or attn is set. Flags before the instruction are in bt->flags if BT_MISS_FLAGS
 * is set, else dead. Clobbers r14, r15, EFLAGS. With BT_MISS_BOUNCE a load over two pages that are
 * both in the TLB goes on behind the second jump, its operand copied: r14 is its host address, r15
 * that minus the virtual address.
 *
 * STUB_GROUP + class: call, as STUB_MISS, but only the TLB is asked, and no words follow. For a
 * user's slot r15d is the offset alone, and the range does not cross its page. CF=0: slot filled;
 * CF=1: not there, or it crosses. Clobbers r14, r15, EFLAGS.
 *
 * STUB_FAULT: where the signal handler continues after a host fault in translated code.
 */
enum bt_stub {
	STUB_EXIT,
	STUB_LOOKUP,
	STUB_INDIRECT_SUP,
	STUB_INDIRECT_USER,
	STUB_UNDERFLOW,
	STUB_HELPER,
	STUB_SYSCALL,
	STUB_SYSRET,
	STUB_FAULT,
	STUB_MISS, /* + enum bt_class */
	STUB_GROUP = STUB_MISS + BT_CLASSES,
	NR_STUBS = STUB_GROUP + BT_CLASSES
};

/* arg: up to 20 bits for the helper */
#define BT_HARG(helper, len, arg) ((u32)(helper) | (u32)(len) << 8 | (u32)(arg) << 12)
#define BT_MISS1(page_id, flags)  ((u32)(page_id) | (u32)(flags))
#define BT_MISS_FLAGS             (1u << 30)
#define BT_MISS_ALIGNED           (1u << 28) /* #GP(0) unless aligned to its size comes first */
/* x87: a pending exception comes first (#MF) */
#define BT_MISS_WAITS (1u << 27)
/* It transfers control: what lies behind it in the code is no place to go on, even when the guest
 * goes to the instruction that follows. */
#define BT_MISS_JUMPS (1u << 26)
/* A load that may be made from another place: behind the second jump is code for that. */
#define BT_MISS_BOUNCE (1u << 25)
/* r15d for STUB_MISS: with the operand's size - 1 for a user's slot, with the slot's pool for a
 * supervisor's, or BT_MISS_PAGE. */
#define BT_MISS_SIZE_SHIFT       24
#define BT_MISS_PAGE             0x80u /* a supervisor's slot of one page: size - 1 */
#define BT_MISS_STACK_MAX        64u
#define BT_MISS_SLOT(site, more) ((u32)(site) | ((more)&0xffu) << BT_MISS_SIZE_SHIFT)
/* off: guest offset in page; len: of the instruction; size: bytes accessed, 1..64 (wider: 0) */
#define BT_MISS2(off, len, size) ((u32)(off) | (u32)(len) << 12 | (u32)(size) << 16)

/* Helpers: c->rip, c->next_rip are set; may raise. 0: go on with the next instruction; 1: go on
 * at c->rip. The list is in helpers.h. */
typedef int bt_helper_fn(struct x86_cpu *c, u32 arg);
extern bt_helper_fn *const bt_helpers[];

enum bt_stat {
	BT_STAT_TRANSLATED, /* units */
	BT_STAT_GUEST_INSNS,
	BT_STAT_HOST_BYTES,
	BT_STAT_LOOKUPS, /* BT_LEAVE_LOOKUP */
	BT_STAT_EXITS,   /* BT_LEAVE_EXIT */
	BT_STAT_LINKS,
	BT_STAT_FAULTS,
	BT_STAT_MISSES, /* in C */
	BT_STAT_INTERP, /* instructions by interp_step */
	BT_STAT_FLUSHES,
	BT_STAT_SMC,
	BT_STAT_SUP_DROPS, /* the supervisor's sites emptied */
};

struct bt_vm {
	struct vm *vm;
	pthread_mutex_t lock;
	struct bt_cache cache;
	uintptr_t stub[NR_STUBS];
	struct bt_page *pages; /* reserved, BT_MAX_PAGES */
	struct bt_unit *units; /* reserved; ascending in host */
	struct bt_insn *insns;
	struct bt_exit *exits; /* number 0 unused */
	struct bt_entry *entries;
	u32 nr_pages, nr_units, nr_insns, nr_exits, nr_entries;
	u32 max_units, max_insns, max_exits, max_entries;
	u32 *page_hash, *entry_hash;
	u32 page_hash_mask, entry_hash_mask;
	bool strict_flags[2];    /* [user]: arithmetic flags are live across RET (bt_set_strict) */
	bool exact_flags;        /* tests: they are live everywhere */
	ZydisDecoder decoder[2]; /* [0] 32-bit, [1] 64-bit code, features as the guest's CPUID */
	struct xlate *xlate;     /* the translator's scratch memory */
	void *priv;              /* page.c's, cache.c's own */
};
static inline struct bt_vm *bt_vm_of(struct x86_cpu *c)
{
	return bt_of(c)->vm;
}

/* ---- xlate.c: translation ----
 * Under the lock, in plain C (x86_fpu_put was called). `code` is the page's 4096 bytes (guest
 * memory: changing), `next` those of the virtually next page, code page `page2`, or NULL (then a
 * straddling instruction is left to interp). Makes unit, entries and exits for guest offset `off`.
 * Returns the entry's index, or BT_NONE: out of cache or table space: flush everything, try
 * again. There is always at least room after a flush. */
u32 bt_translate(struct bt_vm *bt, struct x86_cpu *c, u32 page, u32 mode, u16 off, const u8 *code,
                 u32 page2, const u8 *next);

/* cache.c: room for code to come. */
void bt_cache_populate(struct bt_vm *bt);
/* Room for `hot` bytes at cache.used and `cold` bytes at cache.cold? */
bool bt_cache_room(struct bt_cache *k, u32 hot, u32 cold);
void bt_cache_empty(struct bt_cache *k); /* but for the stubs */

/* Does the instruction at `off` of `code` reach into the next page? In plain C. */
bool bt_straddles(const struct bt_vm *bt, u32 mode, u16 off, const u8 *code);

/* The translator's scratch memory: 0 or -1. */
int bt_xlate_create(struct bt_vm *bt);
void bt_xlate_destroy(struct bt_vm *bt);
/* Zeroed memory, in large pages where the host has them; NULL: none. */
void *bt_map_large(size_t size);
void bt_unmap_large(void *p, size_t size);

/* ---- page.c: pages, entries, invalidation ---- */
u32 bt_entry_find(struct bt_vm *bt, u32 page, u16 off, bool single); /* index or BT_NONE */
/* It is of an instruction that reaches into a page which was modified: to be translated again. */
bool bt_entry_stale(const struct bt_vm *bt, u32 entry);
/* Adds a filled entry (all but hash_next); index, or BT_NONE when the table is full. */
u32 bt_entry_add(struct bt_vm *bt, const struct bt_entry *e);
/* These bytes of the RAM page of code page `page` are translated: stores to others need not
 * invalidate anything. */
void bt_page_cover(struct bt_vm *bt, u32 page, unsigned off, unsigned len);
/* Was the page's code modified a few times, not long ago? */
bool bt_page_modified(const struct bt_vm *bt, u32 page);
/* May there be an entry at this offset? */
bool bt_page_covered(const struct bt_vm *bt, u32 page, unsigned off);
/* Arithmetic flags turned out to be live across a RET at this privilege: everything is flushed
 * before the next unit runs. */
void bt_set_strict(struct bt_vm *bt, bool user);

/* ---- arithmetic flags as a mask ---- */
enum { BT_F_C = 1, BT_F_P = 2, BT_F_A = 4, BT_F_Z = 8, BT_F_S = 16, BT_F_O = 32, BT_F_ALL = 63 };
