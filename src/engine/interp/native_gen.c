// SPDX-License-Identifier: MIT
/* The generator of natively run instructions' stubs. Which ones there are: engine/insn/insn.c.
 *
 * A stub is `int fn(struct x86_cpu *c, void *mem)`:
 *
 *	push	callee-saved registers that the instruction names
 *	mov	C, rdi			C, M: registers it doesn't name
 *	mov	M, rsi
 *	(c->aflags -> flags, by SAHF and an addition that sets OF)
 *	mov	r, [C + r]		for each register that it names
 *	instruction, memory operand [M], RSP replaced by a free register
 *	mov	[C + r], r		for each register that it writes
 *	pushfq; pop [C + aflags]
 *	xor	eax, eax
 * tail:	pop ...; ret
 *
 * All registers are loaded whole, even those only written, so that partial and conditional writes
 * come out as on the hardware. POPF is never used: TF, AC or DF of the guest can't leak.
 *
 * The guest may be in 16-, 32- or 64-bit code; stubs are 64-bit code: engine/insn/encode.c.
 *
 * The arena is mapped twice, writable and executable (W^X). */
#include "engine/interp/native_gen.h"

#include <cpuid.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <stdlib.h>

#include "base/log.h"
#include "cpu/x86/inputs.h"
#include "engine/insn/encode.h"
#include "engine/insn/insn.h"

#ifndef MFD_EXEC
#define MFD_EXEC 0x10u
#endif

/* ---- emission ---- */

struct stub {
	u8 b[192];
	unsigned n;
	/* The re-encoded instruction, also the cache's key. */
	u8 insn[ENC_MAX];
	unsigned insn_len;
	u32 used, written; /* guest GPRs, as bits */
	u32 high8;         /* an AH..BH operand: no REX prefix possible */
	bool flags_in, flags_out;
	u8 reg_c, reg_m, reg_sp; /* host registers for c, mem, and RSP as an operand */
};

static void put1(struct stub *s, u8 b)
{
	s->b[s->n++] = b;
}

static void put_bytes(struct stub *s, const void *p, unsigned len)
{
	memcpy(s->b + s->n, p, len);
	s->n += len;
}

/* mov r64, [base + disp] or the reverse */
static void put_mov_mem(struct stub *s, u8 opcode, u8 reg, u8 base, u32 disp)
{
	put1(s, 0x48 | (reg >= 8) << 2 | (base >= 8));
	put1(s, opcode);
	if (disp < 128) {
		put1(s, 0x40 | (reg & 7) << 3 | (base & 7));
		put1(s, (u8)disp);
	} else {
		put1(s, 0x80 | (reg & 7) << 3 | (base & 7));
		put_bytes(s, &disp, 4);
	}
}

static void put_mov_reg(struct stub *s, u8 dst, u8 src)
{
	put1(s, 0x48 | (src >= 8) << 2 | (dst >= 8));
	put1(s, 0x89);
	put1(s, 0xc0 | (src & 7) << 3 | (dst & 7));
}

static void put_push(struct stub *s, u8 reg, bool pop)
{
	if (reg >= 8)
		put1(s, 0x41);
	put1(s, (pop ? 0x58 : 0x50) | (reg & 7));
}

/* Host register of a guest register. */
static u8 host_reg(const struct stub *s, unsigned r)
{
	return r == RSP ? s->reg_sp : (u8)r;
}

static bool callee_saved(unsigned r)
{
	return r == RBX || r == RBP || r >= R12;
}

/* A register from `pool` that isn't in `taken` */
static u8 pick(const u8 *pool, u32 taken)
{
	while (taken & BIT(*pool))
		pool++;
	return *pool;
}

static void assign_regs(struct stub *s)
{
	/* RBP, R12, R13 need other addressing forms; RAX is used for the flags; RDI, RSI arrive
	 * with c and mem, so the one may not be overwritten before it is moved. */
	static const u8 pool_m[] = {RSI, R8, R9, R10, R11, RDX, RCX, R14, R15};
	static const u8 pool_c[] = {RDI, R11, R10, R9, R8, RCX, RDX, R14, R15};
	static const u8 pool_low[] = {RSI, RDX, RCX, RBX};
	static const u8 pool_sp[] = {R8, R9, R10, R11, RCX, RDX, R14, R15};
	u32 taken = s->used | BIT(RSP);

	s->reg_m = pick(s->high8 ? pool_low : pool_m, taken | BIT(RDI));
	taken |= BIT(s->reg_m);
	s->reg_c = pick(pool_c, taken | BIT(RSI));
	taken |= BIT(s->reg_c);
	s->reg_sp = pick(s->high8 ? pool_low : pool_sp, taken);
}

/* The general registers that an instruction names, and how. */
static void scan_operands(struct stub *s, const ZydisDecodedInstruction *insn,
                          const ZydisDecodedOperand *ops)
{
	for (unsigned i = 0; i < insn->operand_count; i++) {
		const ZydisDecodedOperand *o = &ops[i];
		ZydisRegisterClass cls;
		ZydisRegister full;
		unsigned r;

		if (o->type != ZYDIS_OPERAND_TYPE_REGISTER)
			continue;
		cls = ZydisRegisterGetClass(o->reg.value);
		if (cls != ZYDIS_REGCLASS_GPR8 && cls != ZYDIS_REGCLASS_GPR16 &&
		    cls != ZYDIS_REGCLASS_GPR32 && cls != ZYDIS_REGCLASS_GPR64)
			continue;
		full = ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, o->reg.value);
		r = (unsigned)ZydisRegisterGetId(full) & 15;
		s->used |= BIT(r);
		if (o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE)
			s->written |= BIT(r);
		if (o->reg.value >= ZYDIS_REGISTER_AH && o->reg.value <= ZYDIS_REGISTER_BH)
			s->high8 = true;
	}
}

/* Encode for 64-bit code with registers as assigned. */
static bool encode(struct stub *s, const ZydisDecodedInstruction *insn,
                   const ZydisDecodedOperand *ops, const u8 *bytes)
{
	struct enc_map map = {.mem = ENC_MEM_BASE, .base = s->reg_m, .index = ENC_NO_INDEX};

	for (unsigned r = 0; r < 16; r++)
		map.reg[r] = (s8)host_reg(s, r);
	s->insn_len = insn_encode(s->insn, insn, ops, bytes, &map, NULL);
	return s->insn_len;
}

static void generate(struct stub *s, struct native_insn *n)
{
	const u32 off_aflags = offsetof(struct x86_cpu, aflags);
	const u32 off_gpr = offsetof(struct x86_cpu, gpr);
	u32 host = BIT(s->reg_c);
	u32 saved = 0;

	if (n->size)
		host |= BIT(s->reg_m);
	for (unsigned r = 0; r < 16; r++)
		if (s->used & BIT(r))
			host |= BIT(host_reg(s, r));
	for (unsigned r = 0; r < 16; r++)
		if ((host & BIT(r)) && callee_saved(r)) {
			put_push(s, (u8)r, false);
			saved |= BIT(r);
		}
	if (s->reg_c != RDI)
		put_mov_reg(s, s->reg_c, RDI);
	if (n->size && s->reg_m != RSI)
		put_mov_reg(s, s->reg_m, RSI);
	if (s->flags_in) {
		static const u8 code[] = {
			0x66, 0xc1, 0xc0, 0x08, /* rol ax, 8: AH = bits 7:0, AL = bits 15:8 */
			0xc0, 0xe0, 0x04,       /* shl al, 4: OF to bit 7 */
			0x24, 0x80,             /* and al, 0x80 */
			0x00, 0xc0,             /* add al, al: overflows if it is set */
			0x9e,                   /* sahf */
		};

		put_mov_mem(s, 0x8b, RAX, s->reg_c, off_aflags);
		put_bytes(s, code, sizeof(code));
	}
	for (unsigned r = 0; r < 16; r++)
		if (s->used & BIT(r))
			put_mov_mem(s, 0x8b, host_reg(s, r), s->reg_c, off_gpr + r * 8);
	n->at_insn = (u8)s->n;
	put_bytes(s, s->insn, s->insn_len);
	for (unsigned r = 0; r < 16; r++)
		if (s->written & BIT(r))
			put_mov_mem(s, 0x89, host_reg(s, r), s->reg_c, off_gpr + r * 8);
	if (s->flags_out) {
		put1(s, 0x9c); /* pushfq */
		put1(s, 0x58); /* pop rax */
		put_mov_mem(s, 0x89, RAX, s->reg_c, off_aflags);
	}
	put1(s, 0x31); /* xor eax, eax */
	put1(s, 0xc0);
	n->at_tail = (u8)s->n;
	for (unsigned r = 16; r-- > 0;)
		if (saved & BIT(r))
			put_push(s, (u8)r, true);
	put1(s, 0xc3);
}

/* ---- description ---- */

static void find_flags(struct stub *s, const ZydisDecodedInstruction *insn)
{
	const ZydisAccessedFlags *f = insn->cpu_flags;
	u64 touched, defined;

	if (!f)
		return;
	touched = (f->modified | f->set_0 | f->set_1 | f->undefined) & AFLAGS;
	defined = (f->modified | f->set_0 | f->set_1) & ~f->undefined & AFLAGS;
	s->flags_out = touched;
	/* What it leaves alone, or leaves undefined, comes out as it went in. Shifts by zero and
	 * the like modify nothing though they are said to. */
	s->flags_in = (f->tested & AFLAGS) || (touched && defined != AFLAGS) ||
	              insn->meta.category == ZYDIS_CATEGORY_SHIFT ||
	              insn->meta.category == ZYDIS_CATEGORY_ROTATE;
}

/* Checks before execution. */
static void set_checks(struct native_insn *n, const struct insn_info *info)
{
	n->cls = info->cls;
	n->fop = info->fop;
	n->cr0_deny = info->cr0_deny;
	n->cr4_need = info->cr4_need;
	n->xcr0_need = info->xcr0_need;
	n->flags |= (info->fpu ? NATIVE_FPU : 0) | (info->x87_record ? NATIVE_X87_REC : 0) |
	            (info->x87_ldcw ? NATIVE_X87_CTL : 0) | (info->x87_wait ? NATIVE_WAITS : 0) |
	            (info->fwait ? NATIVE_FWAIT : 0) |
	            (info->vex_legacy ? NATIVE_VEX | NATIVE_SLOW : 0);
}

static unsigned seg_number(ZydisRegister r)
{
	return r >= ZYDIS_REGISTER_ES && r <= ZYDIS_REGISTER_GS ? r - ZYDIS_REGISTER_ES : DS;
}

static void set_memory(struct native_insn *n, const struct insn_info *info)
{
	n->size = info->size;
	n->read = info->read;
	n->write = info->write;
	if (info->size)
		n->seg = info->seg;
	n->flags |= (info->locked ? NATIVE_LOCKED : 0) | (info->aligned ? NATIVE_ALIGNED : 0) |
	            (info->bitstr ? NATIVE_BITSTR | NATIVE_SLOW : 0);
}

/* What specials need to know of the encoding. */
static void set_fields(struct native_insn *n, const ZydisDecodedInstruction *insn,
                       const ZydisDecodedOperand *ops)
{
	bool code64 = insn->machine_mode == ZYDIS_MACHINE_MODE_LONG_64;
	bool vex = insn->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX;
	u8 ext = code64 ? 8 : 0;

	if (code64)
		n->flags |= NATIVE_CODE64;
	if (vex ? insn->raw.vex.W : insn->raw.rex.W)
		n->flags |= NATIVE_REX_W;
	if (insn->operand_width == 16)
		n->flags |= NATIVE_OPSIZE16;
	if (insn->avx.vector_length == 256)
		n->flags |= NATIVE_VLEN256;
	n->reg = insn->raw.modrm.reg | ((vex ? !insn->raw.vex.R : insn->raw.rex.R) ? ext : 0);
	n->rm = insn->raw.modrm.rm | ((vex ? !insn->raw.vex.B : insn->raw.rex.B) ? ext : 0);
	n->vvvv = vex ? ~insn->raw.vex.vvvv & (code64 ? 15 : 7) : 0;
	n->asize = insn->address_width / 8;
	n->base = n->index = NR_GPR;
	for (unsigned i = 0; i < insn->operand_count; i++) {
		const ZydisDecodedOperand *o = &ops[i];

		if (o->type != ZYDIS_OPERAND_TYPE_MEMORY)
			continue;
		if (o->mem.base != ZYDIS_REGISTER_NONE && o->mem.base != ZYDIS_REGISTER_RIP &&
		    o->mem.base != ZYDIS_REGISTER_EIP)
			n->base = (u8)ZydisRegisterGetId(o->mem.base);
		if (o->mem.index != ZYDIS_REGISTER_NONE)
			n->index = (u8)ZydisRegisterGetId(o->mem.index);
		n->scale = o->mem.scale;
		n->disp = (s32)o->mem.disp.value;
		/* SIB without base: REX.B and VEX.B don't count there (SDM 2A table 2-5). */
		if (insn->raw.modrm.mod == 0 && insn->raw.modrm.rm == 4 &&
		    insn->raw.sib.base == 5 && n->asize != 2) {
			n->base = NR_GPR;
			n->disp = (s32)insn->raw.disp.value;
		}
		n->seg = (u8)seg_number(o->mem.segment);
	}
}

/* ---- the cache ---- */

static u32 hash_key(const u8 *key, unsigned len)
{
	u64 h = 0xcbf29ce484222325ull;

	for (unsigned i = 0; i < len; i++)
		h = (h ^ key[i]) * 0x100000001b3ull;
	return (u32)(h ^ h >> 32) & (NATIVE_HASH_SIZE - 1);
}

static void flush(struct native *nat)
{
	nat->used = 0;
	nat->nr_insns = 0;
	nat->generation++;
	memset(nat->hash, 0, NATIVE_HASH_SIZE * sizeof(*nat->hash));
	/* Every stub of before is a breakpoint until it is overwritten. */
	memset(nat->rw, 0xcc, NATIVE_ARENA_SIZE);
	if (nat->flushed)
		nat->flushed(nat->arg);
}

static struct native_insn *lookup(struct native *nat, const struct native_insn *key, u32 *slot)
{
	u32 h = hash_key(key->key, key->key_len);

	for (; nat->hash[h]; h = (h + 1) & (NATIVE_HASH_SIZE - 1)) {
		struct native_insn *n = &nat->insns[nat->hash[h] - 1];

		if (n->key_len == key->key_len && !memcmp(n->key, key->key, key->key_len))
			return n;
	}
	*slot = h;
	return NULL;
}

/* After code was replaced through the other alias (SDM 3A 9.1.3: a serialising instruction). */
static void serialize(void)
{
	u32 a, b, c, d;

	__cpuid(0, a, b, c, d);
	(void)a, (void)b, (void)c, (void)d;
}

static struct native_insn *insert(struct native *nat, const struct native_insn *n,
                                  const struct stub *s, u32 slot)
{
	struct native_insn *out;
	unsigned len = s ? ALIGN_UP(s->n, 16u) : 0;

	if (nat->used + len > NATIVE_ARENA_SIZE || nat->nr_insns == NATIVE_MAX_INSNS) {
		flush(nat);
		slot = hash_key(n->key, n->key_len);
	}
	out = &nat->insns[nat->nr_insns];
	*out = *n;
	out->fn = (int (*)(struct x86_cpu *, void *))(void *)(nat->rx + nat->used);
	if (s) {
		memcpy(nat->rw + nat->used, s->b, s->n);
		nat->used += len;
		if (nat->generation)
			serialize();
	}
	nat->hash[slot] = ++nat->nr_insns;
	return out;
}

/* `sp`: what stands for RSP in `bytes`; 0: RSP is no operand. */
static void make_key(struct native_insn *n, const u8 *bytes, unsigned len, u8 sp)
{
	u8 *k = n->key;

	/* The bytes, and what of the description doesn't follow from them. */
	memcpy(k, bytes, len);
	k += len;
	*k++ = (u8)(n->seg | (n->flags & NATIVE_SLOW ? 8 : 0) |
	            (n->flags & NATIVE_CODE64 ? 16 : 0) | (n->special ? 32 : 0));
	*k++ = sp;
	*k++ = n->asize;
	put_le16(k, n->fop);
	k += 2;
	n->key_len = (u8)(k - n->key);
}

static void special_nop(struct x86_cpu *c, const struct native_insn *n, gva_t addr)
{
}

const struct native_insn *native_get(struct native *nat, const ZydisDecodedInstruction *insn,
                                     const ZydisDecodedOperand *ops, const u8 *bytes)
{
	struct native_insn n = {0}, *found;
	struct stub s = {0};
	struct insn_info info;
	enum native_how how;
	u32 slot;

	insn_info_get(&info, nat->feat, insn, ops);
	if (info.nop) {
		n.special = special_nop;
		n.cr4_need = NATIVE_NEVER;
		make_key(&n, (const u8 *)"", 1, 0);
		found = lookup(nat, &n, &slot);
		return found ? found : insert(nat, &n, NULL, slot);
	}
	if (!info.allowed && !info.special)
		return NULL;
	set_checks(&n, &info);
	set_fields(&n, insn, ops);
	how = info.special ? native_special_get(&n, insn, ops) : NATIVE_STUB;
	if (how == NATIVE_REFUSE)
		return NULL;
	if (how == NATIVE_SPECIAL) {
		n.cr4_need |= NATIVE_NEVER;
		make_key(&n, bytes, insn->length, 0);
		found = lookup(nat, &n, &slot);
		return found ? found : insert(nat, &n, NULL, slot);
	}
	set_memory(&n, &info);
	scan_operands(&s, insn, ops);
	find_flags(&s, insn);
	assign_regs(&s);
	if (!encode(&s, insn, ops, bytes))
		return NULL;
	if (s.flags_in)
		n.flags |= NATIVE_FLAGS_IN;
	if (s.flags_out)
		n.flags |= NATIVE_FLAGS_OUT;
	if (n.special || (n.flags & (NATIVE_SLOW | NATIVE_FWAIT | NATIVE_X87_CTL)))
		n.cr4_need |= NATIVE_NEVER;
	make_key(&n, s.insn, s.insn_len, s.used & BIT(RSP) ? s.reg_sp : 0);
	found = lookup(nat, &n, &slot);
	if (found)
		return found;
	generate(&s, &n);
	return insert(nat, &n, &s, slot);
}

/* ---- life ---- */

static int map_arena(struct native *nat)
{
	int fd = memfd_create("ringer-native", MFD_CLOEXEC | MFD_EXEC);
	int err = 0;

	if (fd < 0 && errno == EINVAL) /* Linux before 6.3 */
		fd = memfd_create("ringer-native", MFD_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (ftruncate(fd, NATIVE_ARENA_SIZE)) {
		err = -errno;
		goto out;
	}
	nat->rw = mmap(NULL, NATIVE_ARENA_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	nat->rx = mmap(NULL, NATIVE_ARENA_SIZE, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
	if (nat->rw == MAP_FAILED || nat->rx == MAP_FAILED)
		err = -errno;
out:
	close(fd);
	return err;
}

static void *map_table(size_t size)
{
	return mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
	            -1, 0);
}

int native_create(struct native **out, const struct x86_cpu *c, void (*flushed)(void *arg),
                  void *arg)
{
	struct native *nat;
	u32 a, b, cx, d;
	int err;

	if (!__get_cpuid(1, &a, &b, &cx, &d) || !(cx & BIT(27)) || /* OSXSAVE */
	    !__get_cpuid(0x80000001, &a, &b, &cx, &d) || !(cx & BIT(0)) /* LAHF */) {
		log_error("this processor lacks XSAVE or LAHF in 64-bit code; "
		          "it can't run guests without KVM");
		return -ENOTSUP;
	}
	nat = calloc(1, sizeof(*nat));
	if (!nat)
		return -ENOMEM;
	nat->rw = nat->rx = MAP_FAILED;
	nat->second = c->inputs && c->inputs->shadow;
	nat->insns = map_table(NATIVE_MAX_INSNS * sizeof(*nat->insns));
	nat->hash = map_table(NATIVE_HASH_SIZE * sizeof(*nat->hash));
	err = -ENOMEM;
	if (nat->insns == MAP_FAILED || nat->hash == MAP_FAILED)
		goto fail;
	err = map_arena(nat);
	if (err) {
		log_error("cannot map memory for generated code: %s", strerror(-err));
		goto fail;
	}
	nat->flushed = flushed;
	nat->arg = arg;
	nat->feat = insn_features(c);
	*out = nat;
	return 0;
fail:
	native_destroy(nat);
	return err;
}

void native_destroy(struct native *nat)
{
	if (!nat)
		return;
	if (nat->rw != MAP_FAILED)
		munmap(nat->rw, NATIVE_ARENA_SIZE);
	if (nat->rx != MAP_FAILED)
		munmap(nat->rx, NATIVE_ARENA_SIZE);
	if (nat->insns != MAP_FAILED)
		munmap(nat->insns, NATIVE_MAX_INSNS * sizeof(*nat->insns));
	if (nat->hash != MAP_FAILED)
		munmap(nat->hash, NATIVE_HASH_SIZE * sizeof(*nat->hash));
	free(nat);
}

u32 native_generation(const struct native *nat)
{
	return nat->generation;
}
