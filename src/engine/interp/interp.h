/* SPDX-License-Identifier: MIT */
/* The reference interpreter: every mode, one instruction at a time, the oracle for the translator.
 *
 * Guest code is decoded once into blocks of `struct op`, cached per vCPU by guest-physical
 * address and mode; an op's handler does the work and jumps to the next op's handler (a tail call),
 * so the dispatch is threaded code. Innocuous instructions without a handler of their own
 * run natively (native.h); sensitive ones call cpu/x86. */
#pragma once

#include "cpu/x86/x86.h"
#include "vcpu/engine.h"

extern const struct engine_ops interp_engine;

/* Execute exactly one instruction at c->rip on the calling thread, without events, single-step or
 * breakpoint checks: what another engine calls for an instruction that it doesn't have, and what
 * the instruction tests call. 0: retired, c->rip is the next one; 1: an exception is recorded in
 * c->ev, not delivered, c->rip is the instruction. A REP string instruction runs to its end or to
 * its fault. HLT: sets v->state = VCPU_HALTED and retires. */
int interp_step(struct x86_cpu *c);
/* The same for a whole block and, where the build has tail calls, those it is linked to, until a
 * request is pending: what lockstep tests compare with single instructions. */
int interp_step_block(struct x86_cpu *c);

/* Once per thread that calls interp_step or run (signal stack for natively run instructions). 0 or
 * -errno. */
int interp_thread_init(struct x86_cpu *c);
