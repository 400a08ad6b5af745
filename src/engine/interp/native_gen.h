/* SPDX-License-Identifier: MIT */
/* Shared by the files native*.c only: the arena and the special handlers. */
#pragma once

#include "engine/interp/native.h"

#define NATIVE_ARENA_SIZE (16 * MiB)
#define NATIVE_MAX_INSNS  (128u << 10)
#define NATIVE_HASH_SIZE  (4 * NATIVE_MAX_INSNS)

struct native {
	u8 *rw, *rx; /* the same memory: one alias to write, one to execute */
	u32 used;
	u32 nr_insns;
	u32 generation;
	struct native_insn *insns; /* in ascending order of their stubs */
	u32 *hash;                 /* index into insns + 1; 0: empty */
	void (*flushed)(void *arg);
	void *arg;
	u64 feat;    /* insn_features() */
	bool second; /* a shadow's: another one runs on the same thread */
};

/* How an instruction that one redirected operand doesn't do is run (native_special.c). */
enum native_how {
	NATIVE_STUB,         /* it is none */
	NATIVE_SPECIAL,      /* n->special does everything */
	NATIVE_SPECIAL_STUB, /* n->special uses the stub */
	NATIVE_REFUSE,       /* #UD */
};
/* Sets n->special and what it needs (size, read, write, checks). */
enum native_how native_special_get(struct native_insn *n, const ZydisDecodedInstruction *insn,
                                   const ZydisDecodedOperand *ops);
