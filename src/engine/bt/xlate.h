/* SPDX-License-Identifier: MIT */
/* Shared by the files that translate: decode_insn.c (what a guest instruction is), decode.c (flow,
 * liveness of flags), emit_mem.c (addresses and checks), emit_insn.c (an instruction), xlate.c (a
 * unit). */
#pragma once

#include "engine/bt/asm.h"
#include "engine/bt/bt.h"
#include "engine/bt/encode.h"
#include "engine/bt/helpers.h"

#define UNIT_MAX_INSNS 128
#define UNIT_MAX_BYTES (96 * 1024) /* host code of a unit, at most */

#define SFLAGS_DF     1 /* byte of sflags, and bit in it: RFLAGS.DF is bit 10 */
#define SFLAGS_DF_BIT 0x04
_Static_assert(X86_RFLAGS_DF == 1ull << (8 * SFLAGS_DF + 2), "byte and bit");

enum gi_kind {
	GI_NOP,
	GI_COPY, /* innocuous: itself, registers and memory operand replaced */
	GI_BITS, /* BT and the like with memory and a bit offset in a register */
	GI_MULX, /* with more registers without a home than there are scratch registers */
	GI_LEA,
	GI_PUSH,
	GI_POP,
	GI_LEAVE,
	GI_STRING, /* one element: MOVS, STOS or LODS without REP; arg: log2 of its size */
	GI_JMP,
	GI_JCC,   /* arg: condition */
	GI_JRCXZ, /* JRCXZ, JECXZ and LOOP (arg 1), of the code's own width */
	GI_CALL,
	GI_RET, /* arg: bytes released behind the address */
	GI_JMP_IND,
	GI_CALL_IND,
	GI_CLI, /* these have a helper too, for when flags are live */
	GI_STI,
	GI_SWAPGS,
	GI_PUSHF,     /* of the supervisor */
	GI_FROM_SREG, /* arg: register | enum x86_segreg << 4 */
	GI_BASE,      /* RDFSBASE and the like: harg as their helpers have it */
	GI_RDTSC,     /* RDTSCP too */
	GI_DF,        /* CLD; STD: arg 1 */
	GI_CLOSED,    /* CLAC where access should be closed already */
	GI_STAC,      /* harg 1 STAC, 0 CLAC: goes on in another mode */
	GI_HELPER,    /* helper, harg; ends: never goes on behind itself */
};

struct gi {
	ZydisDecodedInstruction i;
	ZydisDecodedOperand o[ZYDIS_MAX_OPERAND_COUNT];
	struct insn_info info;
	u16 off; /* in the page */
	u8 len;
	u8 kind;
	u8 helper;
	u32 harg;
	u32 arg;
	bool ends;                  /* control never goes on behind it */
	s32 target;                 /* of a direct branch: offset from the page's start */
	u8 use, kill;               /* arithmetic flags: read; surely written (BT_F_*) */
	u8 mod;                     /* perhaps written */
	u8 tested;                  /* read for what the instruction computes */
	u8 live, after;             /* needed before it, behind it */
	u8 reads;                   /* like live, but only what is seen to be read */
	u8 there_live, there_reads; /* at the target of a branch out of the unit */
	s8 mem;                     /* explicit memory operand's index, or -1 */
	u8 mem_size;
	bool mem_write;
	bool label; /* target of a branch inside the unit, or a landing: state is in its places */
	bool backward; /* target of a backward branch inside the unit */
	u16 nr_back;   /* by how many */
	int loop_end;  /* a loop of one stretch begins here and ends with that branch; or -1 */
	s8 loop_key;   /* register that its limit is for, or -1: nothing in it grows */
	s16 group_mem, group_stack; /* index of the access's group, or -1 */
	int inner; /* index of the instruction that a direct branch goes to, or -1 */
	u32 host;  /* offset of its code */
	u32 again; /* loop_end >= 0: where the next round begins */
	u32 setup; /* loop_end >= 0: where its checks are made */
	u32 start; /* behind the polls that it begins with: emit_body() makes all of them, so that a
	            * way in from the run loop always gets on */
};

/* What look-ahead wants to know of an instruction (decode.c). */
struct glance {
	u8 bytes[15];
	u8 len; /* 0: empty */
	u8 mode, kind, use, kill, reads;
	bool ends;
	s32 dist; /* of a direct branch's target */
};
#define GLANCES 4096u

struct fixup { /* a rel32 that jumps to an instruction of the unit */
	u32 at;
	u16 insn;
	bool again; /* to its `again` */
};

enum cold_kind {
	COLD_MISS,
	COLD_EXIT,
	COLD_GROUP,
	COLD_ROUND,
	COLD_RET_MISS,
	COLD_HELPER,
	COLD_STRING,
	COLD_STRADDLE
};

struct cold {
	u8 kind;
	u8 cls;
	u8 pool; /* of a supervisor's slot */
	bool form_b;
	bool saved; /* flags are in bt->flags */
	u8 size;
	u16 insn;
	u32 from; /* rel32 to patch to the cold code */
	u32 back; /* where to go on */
	u32 done; /* COLD_MISS: behind the use of the slot; 0: only the slot will do.
	           * COLD_STRING: behind the instruction */
	s32 site; /* %gs-offset of the slot */
	s32 rel;  /* COLD_MISS: still to be added to the address in BT_T0 */
	u16 span; /* COLD_GROUP, _STRING: bytes checked */
	/* COLD_MISS: what the code behind expects in the scratch registers */
	s8 held[2];
	s16 t1_group;
	u32 exit;
	u16 group;
};

enum loop_form { /* what a loop's pointer holds besides the addend */
	         LOOP_ADDEND,
	         LOOP_BASE,  /* the base, which the loop leaves alone */
	         LOOP_INDEX, /* the shifted index, likewise */
};

struct group {     /* accesses of a stretch whose addresses differ by constants: one check */
	u8 reg;    /* that the first access goes through */
	bool loop; /* checked in front of the loop, for as many rounds as stay on the page */
	u8 slot;   /* loop: of bt->loop_ptr[] */
	u8 form;   /* loop: enum loop_form */
	bool grows;
	s8 shift; /* grows: by 2^shift for each 1 of the loop's key */
	s32 site; /* otherwise: where the addend is */
	bool write;
	s8 index; /* register added to it, shifted by scale, or -1 */
	u8 scale;
	s32 lo, hi; /* the range, relative to the value */
	u16 first;
	/* The check: in front of this instruction, when at_reg holds the value plus at_delta. */
	u16 at;
	u8 at_reg;
	s32 at_delta; /* that of index included */
};

struct xlate {
	struct bt_vm *bt;
	struct x86_cpu *c;
	struct bt_asm a;
	u32 page, mode;
	gpa_t gpa;
	bool code64, user;
	const u8 *code;
	u32 page2;             /* page that the first instruction may reach into, or BT_NONE: */
	const u8 *next;        /* its bytes, or NULL */
	u8 bytes[4096 + 16];   /* a copy of what was decoded: guest memory changes */
	u64 wanted[4096 / 64]; /* offsets that forward jumps of the unit go to */
	unsigned nr;
	struct gi *gi; /* UNIT_MAX_INSNS + 1 */
	unsigned cls_r, cls_w;
	u8 last;                /* flags that a landing behind the last instruction keeps */
	struct bt_pools *pools; /* site.c */
	unsigned nr_stack[2];   /* [write] slots of the stack that the unit has */
	u64 feat;               /* insn_features() */
	struct fixup fix[UNIT_MAX_INSNS * 2];
	unsigned nr_fix;
	struct cold cold[UNIT_MAX_INSNS * 8];
	unsigned nr_cold;
	struct group groups[64];
	unsigned nr_groups;
	s8 pin[2];    /* group whose pointer BT_T0, BT_T1 hold as long as the loop runs, or -1 */
	int t1_group; /* whose addend BT_T1 holds just now, or -1 */
	s8 held[2];   /* register without a home whose value BT_T0, BT_T1 hold just now, or -1 */
	bool held_dirty[2]; /* and c->gpr[] doesn't */
	struct enc_verified *verified;
	struct glance *glances;    /* decode.c's, GLANCES */
	struct shapes *shapes;     /* shape.c's */
	struct grouping *grouping; /* group.c's scratch memory */
	u32 unit;
	bool full; /* ran out of room: give up */
};

/* ---- decode_insn.c ---- */
/* Decode at page offset `off`, the bytes copied to `buf` first, for they may change; 0: it reaches
 * into the next page, and `next` is NULL. A bad instruction is one that interp raises the exception
 * of. */
unsigned gi_decode(struct xlate *x, const u8 *code, const u8 *next, unsigned off, u8 *buf,
                   struct gi *g);
/* It is a call of that helper. */
void gi_set_helper(struct gi *g, unsigned helper, u32 arg);

/* ---- decode.c ---- */
/* Decode the unit that begins at `off` into x->gi: a sweep that follows branches inside the page
 * forward; then labels and liveness of flags. 0 instructions: the first one reaches into the next
 * page. */
void bt_decode(struct xlate *x, u16 off);
/* ---- shape.c ---- */
enum bt_shape_found {
	SHAPE_UNKNOWN,
	SHAPE_DECODED,    /* g->i, g->o */
	SHAPE_CLASSIFIED, /* and all else but where it is */
};
/* From the first `have` of 15 bytes. */
enum bt_shape_found bt_shape_find(struct xlate *x, const u8 *bytes, unsigned have, struct gi *g);
/* What was decoded and classified. */
void bt_shape_keep(struct xlate *x, const u8 *bytes, const struct gi *g);
size_t bt_shapes_size(void);

/* ---- group.c ---- */
/* Fill x->groups and each instruction's group_mem, group_stack. */
void bt_find_groups(struct xlate *x);
size_t bt_grouping_size(void);

/* ---- emit_mem.c ---- */
/* Check of group i, in front of instruction n. */
void emit_group_check(struct xlate *x, unsigned i, unsigned n);
void emit_cold_group(struct xlate *x, const struct cold *k);
/* The checks of the loop that begins at n, for the rounds to come. */
void emit_loop_setup(struct xlate *x, unsigned n);
void emit_pins(struct xlate *x); /* x->pin's pointers into the scratch registers */
struct mem_ref {                 /* where a checked operand is */
	u8 base, index;          /* host registers; index 0xff: none */
	u8 scale;                /* of index: shift */
	s32 disp;
	int spare; /* BT_T0 or BT_T1: free for a register without a home; -1: neither is */
};
/* Registers without a home live in c->gpr[]; the scratch registers hold copies while they are not
 * used otherwise. A copy that was written goes back to c->gpr[] (held_flush) before any place where
 * somebody may look: where an instruction can fault or miss, where control leaves, at labels. */
static inline int held_in(const struct xlate *x, unsigned r) /* BT_T0, BT_T1 or -1 */
{
	return x->held[0] == (int)r ? BT_T0 : x->held[1] == (int)r ? BT_T1 : -1;
}
static inline void held_flush(struct xlate *x)
{
	for (int t = 0; t < 2; t++) {
		if (x->held_dirty[t])
			as_st_gs(&x->a, BT_GS_GPR((unsigned)x->held[t]), BT_T0 + t);
		x->held_dirty[t] = false;
	}
}
/* The scratch register will be used for something else. */
static inline void held_evict(struct xlate *x, int host)
{
	int t = host - BT_T0;

	if (x->held_dirty[t])
		as_st_gs(&x->a, BT_GS_GPR((unsigned)x->held[t]), host);
	x->held_dirty[t] = false;
	x->held[t] = -1;
}
/* Likewise, and nothing is dirty. */
static inline void held_drop(struct xlate *x, int host)
{
	x->held[host - BT_T0] = -1;
}
static inline void held_clear(struct xlate *x)
{
	held_flush(x);
	x->held[0] = x->held[1] = -1;
}
/* From now on `host`, evicted or of r already, has the value of r, as no other does. */
static inline void held_set(struct xlate *x, int host, unsigned r, bool dirty)
{
	int t = host - BT_T0;

	if (x->held[!t] == (int)r) {
		x->held[!t] = -1;
		x->held_dirty[!t] = false; /* overwritten, or kept by x->held_dirty[t] */
	}
	x->held[t] = (s8)r;
	x->held_dirty[t] = dirty;
	if (t)
		x->t1_group = -1;
}
/* The value of register r, which has no home, in scratch register `host`. */
static inline void held_load(struct xlate *x, int host, unsigned r)
{
	if (held_in(x, r) == host)
		return;
	held_evict(x, host);
	if (held_in(x, r) >= 0) {
		held_flush(x);
		as_mov(&x->a, host, held_in(x, r));
	} else {
		as_ld_gs(&x->a, host, BT_GS_GPR(r));
	}
	held_set(x, host, r, false);
}
/* Code that checks `size` bytes at the virtual address in BT_T0, for instruction n. Whoever calls
 * has saved the flags if they are live. */
void emit_check_address(struct xlate *x, unsigned n, unsigned size, bool write,
                        struct mem_ref *out);
/* Code that checks the operand of instruction n (or the stack: push, pop) for `size` bytes and
 * leaves its host address in registers. */
void emit_check_operand(struct xlate *x, unsigned n, bool write, struct mem_ref *out);
void emit_check_stack(struct xlate *x, unsigned n, int reg, s32 disp, unsigned size, bool write,
                      struct mem_ref *out);
/* Virtual address of operand `o` into register dst (BT_T0); may use BT_T1; changes flags only if
 * there is a segment base. with_base: the segment's base added. */
void emit_address(struct xlate *x, const struct gi *g, const ZydisDecodedOperand *o, int dst,
                  bool with_base);
/* Host registers of base and index, -1: none; those without a home in scratch registers, dst rather
 * than the other. */
void emit_address_registers(struct xlate *x, const ZydisDecodedOperand *o, int dst, int *base,
                            int *index);
void emit_va(struct xlate *x, int reg, s32 rel); /* virtual address of page start + rel */
void emit_flags_save(struct xlate *x);
void emit_flags_restore(struct xlate *x, int tmp);
struct cold *cold_add(struct xlate *x, enum cold_kind kind);
/* A slot for operands, or a range, of `size` bytes; 0: at a constant place of its page, which is
 * compared for equality. `span`: what is checked, which is `size` or more. */
struct site {
	s32 at; /* %gs-offset */
	u8 cls, pool;
	u16 span;
};
struct site new_site(struct xlate *x, bool write, unsigned size);
/* One for what is accessed by RSP alone: a page's, whatever the class. */
struct site new_stack_site(struct xlate *x, bool write, unsigned size);
/* Compares the difference of address and slot in register `t` with the slot's limit: JA misses. */
void emit_bound(struct xlate *x, int t, const struct site *site);
void cold_site(struct cold *k, const struct site *site);
/* In cold code, with the address in BT_T0: fills the slot from the TLB and tries again at k->back,
 * or comes out behind, where the range crosses or isn't in the TLB. Clobbers BT_T1, flags. */
void emit_cold_range(struct xlate *x, const struct cold *k);

/* site.c: the pool whose slots serve operands, or a range, of `size` bytes (1 to 4096), which it
 * rounds up; a new slot of it: its %gs-offset. User classes have no pools. */
size_t bt_pools_size(void);
unsigned bt_pool(unsigned size);
unsigned bt_pool_span(unsigned pool);
u32 bt_site_new(struct bt_pools *s, unsigned cls, unsigned pool);
void emit_cold_miss(struct xlate *x, const struct cold *k);

/* ---- emit_insn.c ---- */
void emit_insn(struct xlate *x, unsigned n);
void emit_helper(struct xlate *x, const struct gi *g, unsigned helper, u32 arg);
/* ---- emit_str.c: string instructions without a call ---- */
void emit_string(struct xlate *x, unsigned n);
void emit_few(struct xlate *x, unsigned n); /* REP MOVS, REP STOS */
void emit_cold_string(struct xlate *x, const struct cold *k);
/* ---- emit_sys.c: system instructions without a call ---- */
void emit_system(struct xlate *x, unsigned n);
/* jcc to the helper's call, which comes back to `back` or leaves. */
struct cold *emit_to_helper(struct xlate *x, unsigned n, unsigned cc);
void emit_helped(struct xlate *x, unsigned n); /* a helper's instruction */
void emit_cold_helper(struct xlate *x, const struct cold *k);
/* ---- xlate.c: control flow ---- */
void emit_poll(struct xlate *x, u32 exit, bool live);
void emit_exit(struct xlate *x, unsigned n, s32 rel, int cc); /* cc < 0: jmp */
u32 new_exit(struct xlate *x, s32 rel);
void emit_exit_insn(struct xlate *x, u32 exit, int cc);
