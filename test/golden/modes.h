/* SPDX-License-Identifier: MIT */
/* The machine of the golden tests: one processor put straight into a mode, tables for it, and what
 * is left when it halts. One thread. */
#pragma once

#include "cpu/x86/x86.h"
#include "golden.h"

struct machine {
	struct vm vm;
	struct vcpu *v;
	struct x86_cpu *c;
	u32 mode; /* one of M_* */
};

/* How a test ended. vector -1: in its own HLT; else state is the interrupted one, taken from the
 * exception's frame. */
struct final {
	int vector;
	u32 err;
	u64 gpr[8], rip, rflags;
	u16 sel[NR_SEG];
};

extern const char *const mode_name[NR_MODES];

int machine_create(struct machine *m, const struct engine_ops *engine);
void machine_destroy(struct machine *m);
/* Fresh memory with the image, tables, registers. */
void machine_reset(struct machine *m, u32 mode, const u8 *image, u32 size, u32 entry);
/* IDT or IVT entry; access: the descriptor's byte 5 (0x8e: 32-bit interrupt gate). */
void machine_gate(struct machine *m, u8 vector, u16 sel, u32 offset, u8 access);
void machine_load_seg(struct machine *m, u32 seg, u16 sel);
void machine_pte_change(struct machine *m, u32 addr, u32 set, u32 clear);
u32 machine_pte(struct machine *m, u32 addr);
void machine_final(struct machine *m, u32 mode, struct final *f);
