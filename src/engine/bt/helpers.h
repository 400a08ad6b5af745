/* SPDX-License-Identifier: MIT */
/* Helpers: C functions that STUB_HELPER calls for instructions that translated code does not
 * execute itself. The state is in struct x86_cpu, c->rip is the instruction, c->next_rip the one
 * behind it; c->unwind is the run loop's, and a helper may raise (state as before the
 * instruction).
 *
 * A helper returns 0: go on behind the instruction. Then nothing that translated code
 * depends on has changed: mode, privilege, TLB, what the FPU needs, c->step; no code was written,
 * and no interrupt can be taken that could not be taken before. Vector state is live if it was. It
 * returns 1: control goes on at c->rip, after the run loop has looked at everything.
 *
 * The interrupt shadow of STI is kept lazily: c->irq_shadow stays set while translated code goes
 * on, and counts only while c->rip is bt_cpu.shadow_rip. So the run loop calls bt_shadow_settle()
 * whenever translated code has come back; what interp does sets and clears it by itself. */
#pragma once

#include "engine/bt/bt.h"

/* X(name, what the 20 bits of `arg` are). Registers are general register numbers; `size` is the
 * operand size in bytes: 2, 4 or 8. INTERP must be first. */
/* clang-format off */
#define BT_HELPERS(X) \
	X(INTERP)      /* its mnemonic: any instruction, by the interpreter, which finds its length anew */ \
	X(SYSCALL) \
	X(SYSRET)      /* size: 4 or 8 */ \
	X(SYSENTER) \
	X(SYSEXIT)     /* size: 4 or 8 */ \
	X(IRET)        /* size */ \
	X(INT)         /* vector | kind << 8; kind: 0 INT n, 1 INT3, 2 INTO, 3 INT1 */ \
	X(DE)          /* no instruction: a division that is known to fault */ \
	X(UD) \
	X(CLI) \
	X(STI) \
	X(HLT) \
	X(PUSHF)       /* size */ \
	X(POPF)        /* size */ \
	X(STAC)        /* 1 STAC, 0 CLAC */ \
	X(SWAPGS) \
	X(RDFSGSBASE)  /* register | (0 FS, 1 GS) << 4 | (1: 64 bits) << 5 */ \
	X(WRFSGSBASE)  /* the same */ \
	X(MOV_FROM_CR) /* register | CR number << 4 */ \
	X(MOV_TO_CR)   /* the same */ \
	X(MOV_FROM_DR) /* register | DR number << 4 */ \
	X(MOV_TO_DR)   /* the same */ \
	X(CLTS) \
	X(SMSW)        /* register | size << 4 */ \
	X(LMSW)        /* register */ \
	X(INVLPG)      /* bt->save[0]: linear address */ \
	X(INVPCID)     /* register | (1: by SS) << 4; bt->save[0]: linear address of the descriptor */ \
	X(RDMSR) \
	X(WRMSR) \
	X(CPUID) \
	X(RDTSC) \
	X(RDTSCP) \
	X(RDPID)       /* register */ \
	X(RDPMC) \
	X(XGETBV) \
	X(IN)          /* bytes (1, 2, 4) | (1: port in DX) << 3 | port << 4 */ \
	X(OUT)         /* the same */ \
	X(HYPERCALL)   /* VMCALL, VMMCALL */ \
	X(PAUSE) \
	X(MOVS)        /* log2 of the element's size | mnemonic << 2 */ \
	X(STOS)        /* the same */ \
	X(XSAVE)       /* (1: XSAVEC) | mnemonic << 1; bt->save[0]: linear address */ \
	X(XRSTOR)      /* mnemonic; bt->save[0]: linear address */ \
	X(STRICT)      /* no instruction: a CALL that bt_set_strict() has to precede */ \
	X(STRADDLE)    /* code page that the instruction reaches into; after INTERP, to the run loop */
/* clang-format on */

enum bt_helper {
#define X(name) BT_H_##name,
	BT_HELPERS(X)
#undef X
		BT_NR_HELPERS
};
_Static_assert(BT_NR_HELPERS <= BT_MAX_HELPERS, "each has a counter");
extern const char *const bt_helper_names[];
bt_helper_fn h_INTERP;
/* strings.c */
bt_helper_fn h_MOVS, h_STOS;
/* xstate.c */
bt_helper_fn h_XSAVE, h_XRSTOR;

/* Translated code came back, c->rip is set: forget a shadow that is over. */
static inline void bt_shadow_settle(struct x86_cpu *c)
{
	if (unlikely(c->irq_shadow) && c->rip != bt_of(c)->shadow_rip)
		c->irq_shadow = c->shadow_db = false;
}

/* Is there a request that can be served now? An interrupt that is shut out is none: firmware, boot
 * loaders and decompressors run for seconds while one waits. c->irq_shadow is settled. */
static inline bool bt_pending(const struct x86_cpu *c)
{
	u32 req = __atomic_load_n((const u32 *)&c->vcpu->req, __ATOMIC_SEQ_CST);

	return unlikely(req) && ((req & ~(u32)VCPU_REQ_IRQ) || x86_intr_open(c));
}
