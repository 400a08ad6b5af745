// SPDX-License-Identifier: MIT
/* Hand-made code at the start of the cache: the way in and out, and what translated code calls.
 *
 * Nothing here pushes on the return stack, whose last slot may be in use (a fault there would empty
 * it, bt.h): the stubs change to the C stack before they need one. While C code runs, ret_sp is the
 * return stack without the call into the stub, as it must be if the C code raises; the return
 * address stays below it, where nothing else writes. */
#include "engine/bt/asm.h"
#include "engine/bt/helpers.h"
#include "engine/bt/runtime.h"

/* condition codes */
enum { CC_B = 2, CC_AE = 3, CC_E = 4, CC_NE = 5, CC_A = 7, CC_G = 15 };

static const u8 callee_saved[] = {RBX, RBP, R12, R13, R14, R15};
static const u8 homes[] = {RAX, RCX, RDX, RBX, RBP, RSI, RDI, R8, R9, R10, R11, R12};

/* What is local to the making of the stubs. */
struct stubs {
	struct bt_asm a;
	struct bt_vm *bt;
	u32 leave; /* EAX: enum bt_leave; registers and flags are saved, RSP is the C stack */
};

static u32 begin(struct stubs *s, unsigned n)
{
	u32 at;

	as_align(&s->a, 16, 0);
	at = as_here(&s->a);
	s->bt->stub[n] = (uintptr_t)s->bt->cache.rx + at;
	return at;
}

static void push_pop(struct bt_asm *a, int reg, bool pop)
{
	as_rex(a, false, 0, 0, reg);
	as_1(a, (pop ? 0x58 : 0x50) | (reg & 7));
}

static void call_c(struct bt_asm *a, uintptr_t fn)
{
	as_mov_i64(a, RAX, fn);
	as_1(a, 0xff); /* call rax */
	as_1(a, 0xd0);
}

/* ---- guest state ---- */

static void save_regs(struct bt_asm *a)
{
	for (unsigned i = 0; i < sizeof(homes); i++)
		as_st_gs(a, BT_GS_GPR(homes[i]), homes[i]);
	as_st_gs(a, BT_GS_GPR(RSP), BT_SP);
}

/* To the C stack; flags into c->aflags. Above the return stack's top lie `skip` bytes of ours. */
static void to_c_stack(struct bt_asm *a, s32 skip)
{
	if (skip) {
		as_lea(a, true, RAX, RSP, -1, 0, skip); /* RAX is saved */
		as_st_gs(a, BT_GS(ret_sp), RAX);
	} else {
		as_st_gs(a, BT_GS(ret_sp), RSP);
	}
	as_ld_gs(a, RSP, BT_GS(host_sp));
	as_1(a, 0x9c);                             /* pushfq */
	as_gs(a, false, 0x8f, 0, BT_GS_C(aflags)); /* pop */
}

/* RAX: bits as in RFLAGS; is lost. */
static void flags_from_rax(struct bt_asm *a)
{
	static const u8 code[] = {
		0x66, 0xc1, 0xc0, 0x08, /* rol ax, 8: AH = bits 7:0, AL = bits 15:8 */
		0xc0, 0xe0, 0x04,       /* shl al, 4: OF to bit 7 */
		0x24, 0x80,             /* and al, 0x80 */
		0x00, 0xc0,             /* add al, al: overflows if it is set */
		0x9e,                   /* sahf */
	};

	as_bytes(a, code, sizeof(code));
}

static void load_flags(struct bt_asm *a)
{
	as_ld_gs(a, RAX, BT_GS_C(aflags));
	flags_from_rax(a);
}

static void load_regs(struct bt_asm *a)
{
	for (unsigned i = 0; i < sizeof(homes); i++)
		as_ld_gs(a, homes[i], BT_GS_GPR(homes[i]));
	as_ld_gs(a, BT_SP, BT_GS_GPR(RSP));
	as_ld_gs(a, RSP, BT_GS(ret_sp));
}

/* ---- in and out ---- */

/* int enter(struct x86_cpu *c, uintptr_t host) */
static u32 make_enter(struct stubs *s)
{
	struct bt_asm *a = &s->a;
	u32 at;

	as_align(a, 16, 0);
	at = as_here(a);
	for (unsigned i = 0; i < sizeof(callee_saved); i++)
		push_pop(a, callee_saved[i], false);
	as_lea(a, true, RSP, RSP, -1, 0, -8);
	as_st_gs(a, BT_GS(host_sp), RSP); /* a multiple of 16 */
	as_mov(a, BT_T1, RSI);
	load_flags(a);
	load_regs(a);
	as_1(a, 0x41); /* jmp r15 */
	as_1(a, 0xff);
	as_1(a, 0xe7);
	return at;
}

static void make_leave(struct stubs *s)
{
	struct bt_asm *a = &s->a;

	as_align(a, 16, 0);
	s->leave = as_here(a);
	as_lea(a, true, RSP, RSP, -1, 0, 8);
	for (unsigned i = sizeof(callee_saved); i-- > 0;)
		push_pop(a, callee_saved[i], true);
	as_1(a, 0xc3);
}

static void leave_with(struct stubs *s, enum bt_leave why)
{
	as_mov_i32(&s->a, RAX, why);
	as_jmp(&s->a, s->leave);
}

static void make_leaving(struct stubs *s)
{
	struct bt_asm *a = &s->a;

	begin(s, STUB_EXIT);
	as_st32_gs(a, BT_GS(exit), BT_T1);
	save_regs(a);
	to_c_stack(a, 0);
	leave_with(s, BT_LEAVE_EXIT);

	begin(s, STUB_LOOKUP);
	as_st_gs(a, BT_GS_C(rip), BT_T0);
	save_regs(a);
	to_c_stack(a, 0);
	leave_with(s, BT_LEAVE_LOOKUP);

	begin(s, STUB_FAULT);
	save_regs(a);
	to_c_stack(a, 0);
	leave_with(s, BT_LEAVE_FAULT);
}

static void through_jc(struct bt_asm *a, unsigned user)
{
	static const u8 index[] = BT_JC_CODE;

	as_bytes(a, index, sizeof(index));
	as_1(a, 0x65); /* jmp *%gs:jc(,%r15,8) */
	as_mem(a, false, 0xff, 4, -1, BT_T1, 3, BT_GS(jc) + (s32)(user * BT_JC_SIZE * 8));
}

static void make_indirect(struct stubs *s)
{
	struct bt_asm *a = &s->a;
	u32 sup;

	begin(s, STUB_INDIRECT_SUP);
	through_jc(a, 0);
	begin(s, STUB_INDIRECT_USER);
	through_jc(a, 1);

	/* Flags are kept: JRCXZ. CPL 1 and 2 aren't translated. */
	begin(s, STUB_UNDERFLOW);
	as_ld_gs(a, RSP, BT_GS(ret_top));
	as_mov(a, BT_T1, RCX);
	as_1(a, 0x65); /* movzx ecx, byte ptr gs:cpl */
	as_1(a, 0x0f);
	as_mem(a, false, 0xb6, RCX, -1, -1, 0, BT_GS_C(cpl));
	sup = as_jrcxz(a);
	as_mov(a, RCX, BT_T1);
	through_jc(a, 1);
	as_patch8(a, sup, as_here(a));
	as_mov(a, RCX, BT_T1);
	through_jc(a, 0);
}

/* ---- calls into C ---- */

/* Go on behind the call into the stub. */
static void return_to_code(struct bt_asm *a)
{
	as_lea(a, true, RSP, RSP, -1, 0, -8);
	as_1(a, 0xc3);
}

static void make_helper(struct stubs *s)
{
	struct bt_asm *a = &s->a;
	u32 stay, jump;

	begin(s, STUB_HELPER);
	save_regs(a);
	to_c_stack(a, 8);
	as_ld_gs(a, RDI, BT_GS(c)); /* the code is the same for all vCPUs */
	as_mov(a, RSI, BT_T0);
	as_mov(a, RDX, BT_T1);
	call_c(a, (uintptr_t)bt_helper_call);
	as_rr(a, false, 0x85, RAX, RAX); /* test eax, eax */
	stay = as_jcc(a, CC_E, 0);
	as_alu_i(a, false, 7, RAX, 1); /* cmp */
	jump = as_jcc(a, CC_A, 0);
	leave_with(s, BT_LEAVE_LOOKUP);
	as_patch(a, stay, as_here(a));
	load_flags(a);
	load_regs(a);
	return_to_code(a);

	as_patch(a, jump, as_here(a)); /* 2 */
	load_flags(a);
	load_regs(a);
	as_gs(a, false, 0xff, 4, BT_GS(target)); /* jmp */
}

/* ---- misses ---- */

#define SET_BYTES (TLB_SIZE * sizeof(struct tlb_entry))
_Static_assert(sizeof(struct tlb_entry) == 32, "a shift below");
_Static_assert(sizeof(struct tlb_run) == 32, "has the index of its tlb_entry");
_Static_assert(BT_GS_SITE(BT_CLASSES, 0) < 1 << BT_MISS_SIZE_SHIFT, "BT_MISS_SLOT() has room");
_Static_assert(!(BT_PB_NONE & ~0ull >> 8), "one byte is compared below");

/* RAX, RCX into the stub's own memory and back: save[] belongs to the instruction. */
static void keep_two(struct bt_asm *a)
{
	as_st_gs(a, BT_GS(stub_save[0]), RAX);
	as_st_gs(a, BT_GS(stub_save[1]), RCX);
}

static void load_two(struct bt_asm *a)
{
	as_ld_gs(a, RAX, BT_GS(stub_save[0]));
	as_ld_gs(a, RCX, BT_GS(stub_save[1]));
}

/* mov with %gs:disp(reg), 64 bits */
static void gs_reg(struct bt_asm *a, unsigned op, int reg, int base, s32 disp)
{
	as_1(a, 0x65);
	as_mem(a, true, op, reg, base, -1, 0, disp);
}

static void shift_i(struct bt_asm *a, bool w, int n, int reg, unsigned by)
{
	as_rr(a, w, 0xc1, n, reg); /* n: 4 shl, 5 shr */
	as_1(a, by);
}

/* The TLB's entry for the page of R14 in the set of class `cls`: its offset into RCX, the page into
 * RAX, RAX stored into the slot R15 with the addend. Falls through; the rel32 returned is taken
 * when it is not there. A slot that was empty is logged, at `log`, which is taken likewise and
 * comes back to `*back`. */
static u32 emit_tlb_fill(struct bt_asm *a, enum bt_class cls, u32 *log, u32 *back)
{
	s32 set = BT_GS_C(tlbs) + (s32)(cls / 2 * SET_BYTES);
	s32 tag = cls & 1 ? offsetof(struct tlb_entry, w) : offsetof(struct tlb_entry, r);
	u32 none;

	as_mov(a, RCX, BT_T0);
	shift_i(a, true, 5, RCX, PAGE_SHIFT - 5);
	as_alu_i(a, false, 4, RCX, (s32)((TLB_SIZE - 1) * 32));
	as_mov(a, RAX, BT_T0);
	as_alu_i(a, true, 4, RAX, -(s32)PAGE_SIZE);
	gs_reg(a, 0x3b, RAX, RCX, set + tag);
	none = as_jcc(a, CC_NE, 0);
	gs_reg(a, 0x8b, RCX, RCX, set + (s32)offsetof(struct tlb_entry, bt_addend));
	gs_reg(a, 0x89, RCX, BT_T1, offsetof(struct bt_site, addend));
	as_1(a, 0x65); /* cmp byte gs:page[7]: is it BT_PB_NONE? */
	as_mem(a, false, 0x80, 7, BT_T1, -1, 0, 7);
	as_1(a, BT_PB_NONE >> 56);
	*log = as_jcc(a, CC_E, 0);
	*back = as_here(a);
	gs_reg(a, 0x89, RAX, BT_T1, offsetof(struct bt_site, page));
	return none;
}

/* The log of slots that a flush must empty: a slot that is filled is in it already. */
static void emit_log(struct bt_asm *a, enum bt_class cls, u32 from, u32 back)
{
	unsigned l = cls >= BT_SUPAC_R;
	s32 n = BT_GS(site_log_n) + 4 * (s32)l;

	as_patch(a, from, as_here(a));
	as_ld32_gs(a, RCX, n);
	as_alu_i(a, false, 7, RCX, (s32)BT_SITE_LOG);
	as_jcc(a, CC_A, back);
	as_gs(a, false, 0xff, 0, n); /* inc: beyond the log means all */
	as_alu_i(a, false, 7, RCX, (s32)BT_SITE_LOG);
	as_jcc(a, CC_AE, back);
	as_1(a, 0x65);
	as_mem(a, false, 0x89, BT_T1, -1, RCX, 2, BT_GS(site_log) + (s32)(l * BT_SITE_LOG * 4));
	as_jmp(a, back);
}

/* From the TLB of pages, or of large pages' pieces: what the slot at R15 is to hold for RCX bytes
 * at R14, page in RDX, addend in RAX, limit in RCX. `*absent` is taken when it isn't there,
 * `*crosses` when the bytes reach beyond it. */
static void fill_from(struct bt_asm *a, enum bt_class cls, bool big, u32 *absent, u32 *crosses)
{
	unsigned entries = big ? TLB_BIG : TLB_SIZE, shift = big ? TLB_BIG_SHIFT : PAGE_SHIFT;
	s32 set = (s32)(cls / 2 * entries * 32) + (big ? BT_GS_C(tlb_big) : BT_GS_C(tlbs));
	s32 run = (s32)(cls / 2 * entries * 32) + BT_GS_C(tlb_run);
	s32 tag = set +
	          (s32)(cls & 1 ? offsetof(struct tlb_entry, w) : offsetof(struct tlb_entry, r));

	as_mov(a, RAX, BT_T0);
	shift_i(a, true, 5, RAX, shift - 5);
	as_alu_i(a, false, 4, RAX, (s32)((entries - 1) * 32));
	as_mov(a, RDX, BT_T0);
	as_alu_i(a, true, 4, RDX, -(s32)(1u << shift));
	gs_reg(a, 0x3b, RDX, RAX, tag);
	*absent = as_jcc(a, CC_NE, 0);
	as_rr(a, true, 0xf7, 3, RCX); /* neg */
	if (big) {
		gs_reg(a, 0x03, RCX, RAX,
		       run + (s32)(cls & 1 ? offsetof(struct tlb_run, w_size)
		                           : offsetof(struct tlb_run, r_size)));
		gs_reg(a, 0x8b, RDX, RAX,
		       run + (s32)(cls & 1 ? offsetof(struct tlb_run, w_base)
		                           : offsetof(struct tlb_run, r_base)));
	} else {
		as_alu_i(a, true, 0, RCX, (s32)PAGE_SIZE);
	}
	as_rr(a, true, 0x01, RCX, RDX); /* add */
	as_rr(a, true, 0x39, RDX, BT_T0);
	*crosses = as_jcc(a, CC_A, 0);
	as_rr(a, true, 0x29, RCX, RDX); /* sub */
	gs_reg(a, 0x8b, RAX, RAX, set + (s32)offsetof(struct tlb_entry, bt_addend));
}

static void load_three(struct bt_asm *a)
{
	load_two(a);
	as_ld_gs(a, RDX, BT_GS(stub_save[2]));
}

/* A supervisor's slot, R15 as BT_MISS_SLOT(): filled, it returns, with CF=0. Else it comes out
 * behind, with R15 the slot alone. RAX, RCX, RDX are kept. */
static void emit_range_fill(struct bt_asm *a, enum bt_class cls)
{
	u32 page_only, absent, out[3], log, back, tail;

	keep_two(a);
	as_st_gs(a, BT_GS(stub_save[2]), RDX);
	as_rr(a, false, 0x89, BT_T1, RCX);
	shift_i(a, false, 5, RCX, BT_MISS_SIZE_SHIFT);
	as_alu_i(a, false, 4, BT_T1, (s32)(BIT(BT_MISS_SIZE_SHIFT) - 1));
	as_alu_i(a, true, 5, RCX, BT_MISS_PAGE - 1); /* sub: size, or at most 0 */
	page_only = as_jcc(a, CC_G, 0);
	as_1(a, 0x65); /* mov ecx, gs:span(,rcx,4) */
	as_mem(a, false, 0x8b, RCX, -1, RCX, 2, BT_GS(span) + 4 * (s32)(BT_MISS_PAGE - 1));
	fill_from(a, cls, true, &absent, &out[0]);
	tail = as_here(a);
	gs_reg(a, 0x89, RCX, BT_T1, offsetof(struct bt_range, limit));
	gs_reg(a, 0x89, RAX, BT_T1, offsetof(struct bt_range, addend));
	as_1(a, 0x65); /* cmp byte gs:page[7]: is it BT_PB_NONE? */
	as_mem(a, false, 0x80, 7, BT_T1, -1, 0, 7);
	as_1(a, BT_PB_NONE >> 56);
	log = as_jcc(a, CC_E, 0);
	back = as_here(a);
	gs_reg(a, 0x89, RDX, BT_T1, offsetof(struct bt_range, page));
	load_three(a);
	as_1(a, 0xf8); /* clc */
	as_1(a, 0xc3);
	emit_log(a, cls, log, back);
	as_patch(a, absent, as_here(a));
	as_patch(a, page_only, as_here(a));
	fill_from(a, cls, false, &out[1], &out[2]);
	as_jmp(a, tail);
	for (unsigned i = 0; i < ARRAY_SIZE(out); i++)
		as_patch(a, out[i], as_here(a));
	load_three(a);
}

/* The same for a user's slot, of a page; CF is nothing. */
static void emit_page_fill(struct bt_asm *a, enum bt_class cls)
{
	u32 out[2], log, back;

	keep_two(a);
	/* size - 1 + offset in the page: ends it on the page? */
	as_rr(a, false, 0x89, BT_T1, RCX);
	shift_i(a, false, 5, RCX, BT_MISS_SIZE_SHIFT);
	as_alu_i(a, false, 4, BT_T1, (s32)(BIT(BT_MISS_SIZE_SHIFT) - 1));
	as_rr(a, false, 0x89, BT_T0, RAX);
	as_alu_i(a, false, 4, RAX, (s32)(PAGE_SIZE - 1));
	as_rr(a, false, 0x01, RAX, RCX);
	as_alu_i(a, false, 7, RCX, (s32)(PAGE_SIZE - 1));
	out[0] = as_jcc(a, CC_A, 0);
	out[1] = emit_tlb_fill(a, cls, &log, &back);
	load_two(a);
	as_1(a, 0xc3);
	emit_log(a, cls, log, back);
	for (unsigned i = 0; i < ARRAY_SIZE(out); i++)
		as_patch(a, out[i], as_here(a));
	load_two(a);
}

/* Flags are the guest's no more: where they matter they are in bt->flags. */
static void make_miss(struct stubs *s, enum bt_class cls)
{
	struct bt_asm *a = &s->a;
	u32 retry, skip, copied;

	begin(s, STUB_MISS + cls);
	if (cls < BT_USER_R)
		emit_range_fill(a, cls);
	else
		emit_page_fill(a, cls);
	save_regs(a);
	to_c_stack(a, 0);
	as_ld_gs(a, RDI, BT_GS(c));
	as_mov(a, RSI, BT_T0);
	as_mov(a, RDX, BT_T1);
	as_mov_i32(a, RCX, cls & 1);
	call_c(a, (uintptr_t)bt_miss_call); /* 0: again, 1: it is done, 2: leave, 3: copied */
	as_alu_i(a, false, 7, RAX, 1);
	retry = as_jcc(a, CC_B, 0);
	skip = as_jcc(a, CC_E, 0);
	as_alu_i(a, false, 7, RAX, 3);
	copied = as_jcc(a, CC_E, 0);
	leave_with(s, BT_LEAVE_LOOKUP);
	as_patch(a, retry, as_here(a));
	load_flags(a);
	load_regs(a);
	return_to_code(a);
	as_patch(a, skip, as_here(a));
	load_flags(a);
	load_regs(a);
	/* Behind the two words and the first jump. */
	as_mem(a, true, 0x8b, BT_T1, RSP, -1, 0, -8);
	as_lea(a, true, BT_T1, BT_T1, -1, 0, 15);
	as_mem(a, true, 0x89, BT_T1, RSP, -1, 0, -8);
	return_to_code(a);
	as_patch(a, copied, as_here(a));
	load_flags(a);
	load_regs(a);
	/* Behind the second jump. BT_T0 has the virtual address still: C keeps it. */
	as_mem(a, true, 0x8b, BT_T1, RSP, -1, 0, -8);
	as_lea(a, true, BT_T1, BT_T1, -1, 0, 20);
	as_mem(a, true, 0x89, BT_T1, RSP, -1, 0, -8);
	as_ld_gs(a, BT_T1, BT_GS(c));
	as_lea(a, true, BT_T1, BT_T1, -1, 0, BT_GS(bounce));
	as_rr(a, true, 0x29, BT_T0, BT_T1); /* sub */
	as_lea(a, true, BT_T0, BT_T0, BT_T1, 0, 0);
	return_to_code(a);
}

static void make_group(struct stubs *s, enum bt_class cls)
{
	struct bt_asm *a = &s->a;
	u32 none, log, back;

	begin(s, STUB_GROUP + cls);
	if (cls < BT_USER_R) {
		emit_range_fill(a, cls);
		as_1(a, 0xf9); /* stc */
		as_1(a, 0xc3);
		return;
	}
	keep_two(a);
	none = emit_tlb_fill(a, cls, &log, &back);
	load_two(a);
	as_1(a, 0xf8); /* clc */
	as_1(a, 0xc3);
	emit_log(a, cls, log, back);
	as_patch(a, none, as_here(a));
	load_two(a);
	as_1(a, 0xf9); /* stc */
	as_1(a, 0xc3);
}

/* ---- SYSCALL and SYSRET ----
 *
 * x86_syscall(), x86_sysret() and transfer() (run.c) for 64-bit code that enters the supervisor,
 * with access to user pages closed, or goes back, where nothing is to be looked at; else the site's
 * call of the helper. A jump, and no call: the host would predict the next returns wrongly. */

#define MAX_SLOW 12

struct transfer {
	u32 slow[MAX_SLOW];
	unsigned nr;
};

static void slow_if(struct stubs *s, struct transfer *t, unsigned cc)
{
	t->slow[t->nr++] = as_jcc(&s->a, cc, 0);
}

/* A byte of the state with an immediate: op 0xf6 /0 test, 0x80 /7 cmp, 0xc6 /0 mov */
static void byte_gs(struct bt_asm *a, unsigned op, int n, s32 disp, u8 imm)
{
	as_gs(a, false, op, n, disp);
	as_1(a, imm);
}

static void store16_gs(struct bt_asm *a, s32 disp, int reg)
{
	as_1(a, 0x66);
	as_st32_gs(a, disp, reg);
}

static void store_imm_gs(struct bt_asm *a, bool w, s32 disp, u32 imm)
{
	as_gs(a, w, 0xc7, 0, disp);
	as_4(a, imm);
}

/* What transfer() looks at, and EFER.SCE. RAX is free behind it. */
static void transfer_begin(struct stubs *s, struct transfer *t)
{
	const s32 none_of[] = {BT_GS_C(irq_shadow), BT_GS_C(code_written), BT_GS_C(step)};
	struct bt_asm *a = &s->a;

	as_st_gs(a, BT_GS(stub_save[0]), RAX);
	as_flags_to_ax(a);
	as_st_gs(a, BT_GS(stub_save[1]), RAX);
	as_cmp32_gs_i8(a, BT_GS(attn), 0);
	slow_if(s, t, CC_NE);
	as_gs(a, true, 0x83, 7, BT_GS_C(inputs)); /* cmp */
	as_1(a, 0);
	slow_if(s, t, CC_NE);
	for (unsigned i = 0; i < ARRAY_SIZE(none_of); i++) {
		byte_gs(a, 0x80, 7, none_of[i], 0);
		slow_if(s, t, CC_NE);
	}
	byte_gs(a, 0xf6, 0, BT_GS_C(efer), EFER_SCE);
	slow_if(s, t, CC_E);
	as_ld_gs(a, RAX, BT_GS_C(vcpu));
	as_mem(a, false, 0x83, 7, RAX, -1, 0, (s32)offsetof(struct vcpu, req));
	as_1(a, 0);
	slow_if(s, t, CC_NE);
	as_mem(a, false, 0x83, 7, RAX, -1, 0, (s32)offsetof(struct vcpu, state));
	as_1(a, VCPU_RUNNING);
	slow_if(s, t, CC_NE);
}

/* To the home mode of the other level, whose code the jump cache has, or not at all. */
static void transfer_mode(struct stubs *s, struct transfer *t, bool user)
{
	struct bt_asm *a = &s->a;
	u32 closed;

	as_ld32_gs(a, RAX, BT_GS(mode));
	byte_gs(a, 0xf6, 0, BT_GS_C(cr4) + 2, CR4_SMAP >> 16); /* test */
	if (user) {                                            /* while access is open: run.c */
		closed = as_jcc(a, CC_E, 0);
		as_rr(a, false, 0xf7, 0, RAX); /* test */
		as_4(a, BTM_AC);
		slow_if(s, t, CC_NE);
		as_patch(a, closed, as_here(a));
		as_alu_i(a, false, 4, RAX, ~BTM_AC);
		as_alu_i(a, false, 1, RAX, BTM_USER); /* or */
	} else {                                      /* always open */
		closed = as_jcc(a, CC_NE, 0);
		as_alu_i(a, false, 1, RAX, BTM_AC);
		as_patch(a, closed, as_here(a));
		as_alu_i(a, false, 4, RAX, ~BTM_USER);
	}
	as_gs(a, false, 0x3b, RAX, BT_GS(home[user])); /* cmp */
	slow_if(s, t, CC_NE);
	/* Nothing is changed before this. */
	as_st32_gs(a, BT_GS(mode), RAX);
	as_gs(a, true, 0xff, 0, BT_GS(helped[user ? BT_H_SYSRET : BT_H_SYSCALL])); /* inc */
	store_imm_gs(a, false, BT_GS(source), BT_NONE);
	byte_gs(a, 0xc6, 0, BT_GS_C(cpl), user ? 3 : 0);
	as_gs(a, false, 0x81, user ? 1 : 4, BT_GS_C(mode));
	as_4(a, user ? M_USER : ~(u32)M_USER);
}

/* sflags from the flags in RAX. */
static void transfer_sflags(struct bt_asm *a, int scratch)
{
	as_rr(a, false, 0x89, RAX, scratch);
	as_alu_i(a, false, 4, scratch, (s32)~AFLAGS);
	as_alu_i(a, false, 1, scratch, X86_RFLAGS_FIXED); /* or */
	as_st_gs(a, BT_GS_C(sflags), scratch);
}

/* As enter() does it in cpu/x86/syscall.c; `sel` is a scratch register with the selector. */
static void transfer_seg(struct bt_asm *a, enum x86_segreg seg, u32 ar, int sel)
{
	const s32 at = BT_GS_C(seg) + (s32)(seg * sizeof(struct x86_seg));

	store_imm_gs(a, true, at + (s32)offsetof(struct x86_seg, base), 0);
	store_imm_gs(a, false, at + (s32)offsetof(struct x86_seg, limit), ~0u);
	store_imm_gs(a, false, at + (s32)offsetof(struct x86_seg, ar), ar);
	store16_gs(a, at + (s32)offsetof(struct x86_seg, sel), sel);
}

/* change_stack() in run.c. */
static void transfer_stack(struct bt_asm *a, bool user)
{
	as_st_gs(a, BT_GS(stack_sp[!user]), RSP);
	as_ld_gs(a, BT_T1, BT_GS(stack_top[user]));
	as_st_gs(a, BT_GS(ret_top), BT_T1);
	as_st_gs(a, BT_GS(ac_sp), BT_T1);
	if (user)
		as_ld_gs(a, RSP, BT_GS(stack_sp[1]));
	else
		as_mov(a, RSP, BT_T1);
}

/* To BT_T0, with flags from RAX; and the way to the helper's call, whose address is in BT_T1. */
static void transfer_end(struct stubs *s, const struct transfer *t, bool user)
{
	struct bt_asm *a = &s->a;

	flags_from_rax(a);
	as_ld_gs(a, RAX, BT_GS(stub_save[0]));
	through_jc(a, user);
	for (unsigned i = 0; i < t->nr; i++)
		as_patch(a, t->slow[i], as_here(a));
	as_ld_gs(a, RAX, BT_GS(stub_save[1]));
	as_ax_to_flags(a);
	as_ld_gs(a, RAX, BT_GS(stub_save[0]));
	as_1(a, 0x41); /* jmp r15 */
	as_1(a, 0xff);
	as_1(a, 0xe7);
}

static void make_syscall(struct stubs *s)
{
	const u32 code = SEG_G | SEG_L | SEG_P | SEG_S | SEG_CODE | SEG_RW | SEG_A;
	const u32 data = SEG_G | SEG_DB | SEG_P | SEG_S | SEG_RW | SEG_A;
	struct bt_asm *a = &s->a;
	struct transfer t = {.nr = 0};
	u32 open;

	begin(s, STUB_SYSCALL);
	transfer_begin(s, &t);
	as_gs(a, false, 0xf7, 0, BT_GS_C(sflags)); /* test */
	as_4(a, X86_RFLAGS_TF | X86_RFLAGS_RF | X86_RFLAGS_AC);
	slow_if(s, &t, CC_NE);
	transfer_mode(s, &t, false);
	as_mov(a, RCX, BT_T0);
	/* R11: the flags, whose image is AH and bit 0 of AL. */
	as_ld32_gs(a, RAX, BT_GS(stub_save[1]));
	as_rr(a, false, 0x89, RAX, R11);
	as_alu_i(a, false, 4, RAX, 1);
	shift_i(a, false, 4, RAX, 11);
	shift_i(a, false, 5, R11, 8);
	as_alu_i(a, false, 4, R11, AFLAGS & 0xff);
	as_rr(a, false, 0x09, RAX, R11); /* or */
	as_ld32_gs(a, RAX, BT_GS_C(sflags));
	as_alu_i(a, false, 4, RAX, (s32)~AFLAGS);
	as_rr(a, false, 0x09, RAX, R11);
	as_alu_i(a, false, 1, R11, X86_RFLAGS_FIXED);
	as_ld32_gs(a, RAX, BT_GS_C(sfmask));
	as_rr(a, false, 0xf7, 2, RAX); /* not */
	as_rr(a, false, 0x21, R11, RAX);
	transfer_sflags(a, BT_T1);
	as_ld_gs(a, BT_T1, BT_GS_C(star));
	shift_i(a, true, 5, BT_T1, 32);
	as_alu_i(a, false, 4, BT_T1, 0xfffc);
	transfer_seg(a, CS, code, BT_T1);
	as_lea(a, false, BT_T1, BT_T1, -1, 0, 8);
	transfer_seg(a, SS, data, BT_T1);
	as_ld_gs(a, BT_T1, BT_GS(set[0]));
	byte_gs(a, 0xf6, 0, BT_GS(mode), BTM_AC); /* test; flags are in RAX */
	open = as_jcc(a, CC_E, 0);
	as_ld_gs(a, BT_T1, BT_GS(set[1]));
	as_patch(a, open, as_here(a));
	as_st_gs(a, BT_GS_C(tlb), BT_T1);
	transfer_stack(a, false);
	as_ld_gs(a, BT_T0, BT_GS_C(lstar));
	transfer_end(s, &t, false);
}

static void make_sysret(struct stubs *s)
{
	const u32 dpl = 3 << SEG_DPL_SHIFT;
	const u32 code = SEG_G | SEG_L | SEG_P | SEG_S | SEG_CODE | SEG_RW | SEG_A | dpl;
	const u32 data = SEG_G | SEG_DB | SEG_P | SEG_S | SEG_RW | SEG_A | dpl;
	struct bt_asm *a = &s->a;
	struct transfer t = {.nr = 0};

	begin(s, STUB_SYSRET);
	transfer_begin(s, &t);
	as_rr(a, false, 0xf7, 0, R11); /* test */
	as_4(a, X86_RFLAGS_TF | X86_RFLAGS_AC);
	slow_if(s, &t, CC_NE);
	as_mov(a, RAX, RCX);
	shift_i(a, true, 4, RAX, 16);
	shift_i(a, true, 7, RAX, 16); /* sar */
	as_rr(a, true, 0x39, RCX, RAX);
	slow_if(s, &t, CC_NE);
	transfer_mode(s, &t, true);
	as_rr(a, false, 0x89, R11, RAX);
	as_alu_i(a, false, 4, RAX, X86_SYSRET_FLAGS);
	transfer_sflags(a, BT_T1);
	as_ld_gs(a, BT_T0, BT_GS_C(star));
	shift_i(a, true, 5, BT_T0, 48);
	as_lea(a, false, BT_T1, BT_T0, -1, 0, 16);
	as_alu_i(a, false, 1, BT_T1, 3); /* or */
	transfer_seg(a, CS, code, BT_T1);
	as_lea(a, false, BT_T1, BT_T0, -1, 0, 8);
	as_alu_i(a, false, 1, BT_T1, 3);
	transfer_seg(a, SS, data, BT_T1);
	as_ld_gs(a, BT_T1, BT_GS(c));
	as_lea(a, true, BT_T1, BT_T1, -1, 0, BT_GS_C(tlbs[TLB_USER]));
	as_st_gs(a, BT_GS_C(tlb), BT_T1);
	transfer_stack(a, true);
	as_mov(a, BT_T0, RCX);
	transfer_end(s, &t, true);
}

void bt_stubs_make(struct bt_vm *bt)
{
	struct stubs s = {.bt = bt};
	u32 enter;

	s.a = (struct bt_asm){
		.base = bt->cache.rw, .p = bt->cache.rw, .end = bt->cache.rw + bt->cache.size};
	/* Offset 0 stands for "none". */
	for (unsigned i = 0; i < 16; i++)
		as_1(&s.a, 0xcc);
	enter = make_enter(&s);
	make_leave(&s);
	make_leaving(&s);
	make_indirect(&s);
	make_helper(&s);
	make_syscall(&s);
	make_sysret(&s);
	for (unsigned cls = 0; cls < BT_CLASSES; cls++) {
		make_miss(&s, cls);
		make_group(&s, cls);
	}
	as_align(&s.a, 64, 0);
	bt_priv_of(bt)->enter =
		(int (*)(struct x86_cpu *, uintptr_t))(void *)(bt->cache.rx + enter);
	bt->cache.used = bt->cache.stubs_end = as_here(&s.a);
}

/* ---- links ---- */

u32 bt_emit_link(struct bt_vm *bt, const struct bt_exit *e, const struct bt_entry *t, s32 dist)
{
	struct bt_asm a = {.base = bt->cache.rw,
	                   .p = bt->cache.rw + ALIGN_UP(bt->cache.used, 16u),
	                   .end = bt->cache.rw + bt->cache.size};
	u32 at = as_here(&a), good;

	if (bt->cache.used + 256 > bt->cache.cold_low)
		return 0;
	if (!t->live) {
		as_ld_gs(&a, BT_T0, BT_GS_PB(t->page));
		as_sub_gs(&a, BT_T0, BT_GS_PB(e->page));
		as_cmp_i(&a, BT_T0, dist);
		as_jcc(&a, CC_NE, e->stub);
	} else {
		/* pb[target] + (~pb[source] + 1) - dist, without touching flags. save[7] is free
		 * between instructions. */
		as_st_gs(&a, BT_GS(save[7]), RCX);
		as_ld_gs(&a, RCX, BT_GS_PB(e->page));
		as_rr(&a, true, 0xf7, 2, RCX); /* not */
		as_ld_gs(&a, BT_T0, BT_GS_PB(t->page));
		as_lea(&a, true, RCX, RCX, BT_T0, 0, 1 - dist);
		good = as_jrcxz(&a);
		as_ld_gs(&a, RCX, BT_GS(save[7]));
		as_jmp(&a, e->stub);
		as_patch8(&a, good, as_here(&a));
		as_ld_gs(&a, RCX, BT_GS(save[7]));
	}
	as_jmp(&a, t->body);
	bt->cache.used = as_here(&a);
	return at;
}
