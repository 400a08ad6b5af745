/* SPDX-License-Identifier: MIT */
/* Innocuous instructions run on the host's processor, one at a time.
 *
 * For each distinct encoding a stub is generated once: it loads the guest's general registers and
 * flags that the instruction uses, runs it with its memory operand redirected to a host pointer,
 * and stores what it wrote. x87, MMX and vector registers are the host's own while c->fpu_live
 * (cpu/x86/fpu.c), so no stub touches them.
 *
 * Nothing runs here by default: an instruction must be on the allow-list (engine/insn) and, its
 * re-encoded form decoded again, must be the same instruction, else native_get() says NULL and the
 * caller raises #UD.
 *
 * A stub faults only at the guest's instruction itself. The signal handler (native.c) then turns
 * the host's exception into the stub's return value; guest state is unchanged.
 *
 * Threading: one struct native per vCPU, used by that vCPU's thread only. */
#pragma once

#include <Zydis/Zydis.h>

#include "cpu/x86/mmu.h"
#include "cpu/x86/x86.h"
#include "engine/insn/insn.h"

struct native;
struct native_insn;

typedef void native_special_fn(struct x86_cpu *c, const struct native_insn *n, gva_t addr);

enum native_flags {
	NATIVE_FPU = 1 << 0,       /* needs the guest's x87/vector state in the host's registers */
	NATIVE_X87_REC = 1 << 1,   /* non-control x87 instruction: FIP, FDP, FOP are recorded */
	NATIVE_X87_CTL = 1 << 2,   /* FLDCW: ends the life of what was recorded */
	NATIVE_LOCKED = 1 << 3,    /* LOCK, or XCHG with memory */
	NATIVE_BITSTR = 1 << 4,    /* BT family, bit offset in a register: reaches beyond `addr` */
	NATIVE_ALIGNED = 1 << 5,   /* #GP(0) unless aligned to its size */
	NATIVE_VEX = 1 << 6,       /* #UD in real-address and virtual-8086 mode */
	NATIVE_FWAIT = 1 << 7,     /* #NM by TS only with MP */
	NATIVE_SLOW = 1 << 8,      /* always through native_exec_slow() */
	NATIVE_REX_W = 1 << 9,     /* as encoded: FXSAVE64, XSAVE64, ... */
	NATIVE_OPSIZE16 = 1 << 10, /* effective operand size 16: FNSTENV, FLDENV, FNSAVE, FRSTOR */
	NATIVE_CODE64 = 1 << 11,   /* decoded as 64-bit code */
	NATIVE_VLEN256 = 1 << 12,
	NATIVE_FLAGS_IN = 1 << 13,  /* the stub loads c->aflags */
	NATIVE_FLAGS_OUT = 1 << 14, /* the stub stores c->aflags */
	NATIVE_WAITS = 1 << 15,     /* #MF first when an x87 exception is pending */
};

/* CR4 has no such bit: as `cr4_need`, sends every execution to native_exec_slow(). */
#define NATIVE_NEVER  (1u << 31)
#define NATIVE_RAISED 0x100 /* #DE is vector 0 */

struct native_insn {
	int (*fn)(struct x86_cpu *c, void *mem); /* the stub: 0, or NATIVE_RAISED | vector */
	u32 cr0_deny, cr4_need;                  /* bits that must be clear, set */
	u16 size;                                /* of the memory operand in bytes; 0: none */
	u16 flags;                               /* NATIVE_* */
	u8 xcr0_need;
	bool read, write;           /* the memory operand */
	u8 cls;                     /* enum insn_kind */
	u8 seg;                     /* enum x86_segreg of the memory operand */
	u8 asize;                   /* address size in bytes */
	u16 fop;                    /* x87: the 11 bits of FOP */
	native_special_fn *special; /* NULL: the stub does it */

	/* For specials that make their own addresses or touch registers. */
	u8 base, index, scale; /* GPR numbers, NR_GPR: none; index of a gather: vector register */
	u8 reg, vvvv, rm;      /* register numbers as encoded */
	u8 elem;               /* size of an element in bytes */
	s32 disp;

	/* Generator's. */
	u8 at_insn, at_tail; /* offsets in the stub: the guest's instruction, the way out */
	u8 key_len;
	u8 key[24];
};

/* `flushed(arg)`: the arena was full and has been emptied: every native_insn obtained before is
 * invalid. Called inside native_get(). Guest CPUID (x86_cpuid_build) must be known. Installs
 * the process's handlers of SIGFPE, SIGSEGV, SIGBUS and SIGILL in front of those that exist: what
 * is not ours is passed on to them. 0, -ENOMEM, or -ENOTSUP (host without XSAVE or LAHF). */
int native_create(struct native **out, const struct x86_cpu *c, void (*flushed)(void *arg),
                  void *arg);
void native_destroy(struct native *nat);
/* Counts the flushes: a block under construction during which it changed must be redone. */
u32 native_generation(const struct native *nat);

/* On the vCPU's thread before its first guest instruction: alternate signal stack. 0 or -errno. */
int native_thread_init(struct native *nat);
void native_thread_exit(struct native *nat);

/* The runner of a decoded instruction, or NULL: not on the list, raise #UD. `bytes` are
 * insn->length bytes of guest code. Any machine mode. c->fpu_live must be false (this calls
 * ordinary code). */
const struct native_insn *native_get(struct native *nat, const ZydisDecodedInstruction *insn,
                                     const ZydisDecodedOperand *ops, const u8 *bytes);

void native_exec_slow(struct x86_cpu *c, const struct native_insn *n, gva_t addr);

/* What an instruction with an 80-bit operand does before it comes to the operand's last 2 bytes:
 * raises what it is not allowed for, what is pending, and the faults of the first 8 bytes. */
void native_first_8(struct x86_cpu *c, const struct native_insn *n, gva_t addr);
void native_raise(struct x86_cpu *c, const struct native_insn *n, int raised)
	__attribute__((noreturn));

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define NATIVE_EAGER 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) ||                         \
	__has_feature(memory_sanitizer)
#define NATIVE_EAGER 1
#endif
#endif
#ifndef NATIVE_EAGER
#define NATIVE_EAGER 0
#endif

int native_run_eager(struct x86_cpu *c, const struct native_insn *n, void *mem);

/* Run the stub on a host pointer: 0, or NATIVE_RAISED | vector with guest state unchanged. */
static inline int native_run(struct x86_cpu *c, const struct native_insn *n, void *mem)
{
	if (n->flags & NATIVE_FPU) {
		/* The sanitizers' run-times use vector registers: state is put back at once. */
		if (NATIVE_EAGER)
			return native_run_eager(c, n, mem);
		if (unlikely(!c->fpu_live))
			x86_fpu_get(c);
	}
	return n->fn(c, mem);
}

/* Does what SDM 1 8.1.8 says of the x87 pointers, after a non-control instruction. */
static inline void native_x87_record(struct x86_cpu *c, const struct native_insn *n, gva_t addr)
{
	c->fpu_ip = c->rip;
	c->fpu_last_op = n->fop;
	/* Without a memory operand FDP stays as it is, with an exception too (measured). */
	if (n->size) {
		u64 off = addr - c->segbase[n->seg];

		c->fpu_last_dp = c->mode & M_CS64 ? off : (u32)off;
	} else {
		c->fpu_last_dp = c->fpu_dp;
	}
	if (unlikely(!c->fpu_excp_only)) {
		c->fpu_op = c->fpu_last_op;
		if (n->size)
			c->fpu_dp = c->fpu_last_dp;
	}
}

/* Execute one instruction. `addr`: linear address of its memory operand (with the checks of the
 * mode done for n->size bytes), whatever if it has none. May raise. */
static inline void native_exec(struct x86_cpu *c, const struct native_insn *n, gva_t addr)
{
	void *mem = NULL;
	int raised;

	if (unlikely((c->cr0 & n->cr0_deny) | (~c->cr4 & n->cr4_need) |
	             (~c->xcr0 & n->xcr0_need))) {
		native_exec_slow(c, n, addr);
		return;
	}
	if (n->size) {
		const struct tlb_entry *e = &c->tlb[(addr >> PAGE_SHIFT) & (TLB_SIZE - 1)];
		if (unlikely(addr - (n->write ? e->w : e->r) > PAGE_SIZE - n->size)) {
			native_exec_slow(c, n, addr);
			return;
		}
		mem = (void *)(uintptr_t)(addr + e->addend);
	}
	raised = native_run(c, n, mem);
	if (unlikely(raised))
		native_raise(c, n, raised);
	if (unlikely(n->flags & NATIVE_X87_REC))
		native_x87_record(c, n, addr);
	if (n->write)
		mmu_stored(c, (uintptr_t)mem, n->size);
}
