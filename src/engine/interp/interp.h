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

/* ---- for an engine that falls back on the interpreter (HACKING.md, layout) ----
 * It attaches one to each of its vCPUs, and its run() begins with interp_enter() on the vCPU's
 * thread. What says "may raise" needs c->unwind armed by the caller. */
int interp_attach(struct x86_cpu *c); /* 0 or -errno (logged) */
void interp_detach(struct x86_cpu *c);
int interp_enter(struct x86_cpu *c); /* 0 or -errno */
/* Requests of the vCPU at an instruction boundary; delivers interrupts. true: leave run(). */
bool interp_serve_requests(struct x86_cpu *c);
/* Execute one instruction with all that may surround it: single-step, breakpoints, shadows, RF. May
 * raise. true: STOP_DEBUG, the debugger wants to be told. */
bool interp_run_one(struct x86_cpu *c);
/* One instruction, or blocks until a request or something new comes up; without what
 * interp_run_one() has around it. c->code_written says afterwards whether code was written, and is
 * the caller's to clear. May raise. */
void interp_exec(struct x86_cpu *c, bool one);
/* Behind the jump to c->unwind: count c->ev and deliver it. */
void interp_deliver_raised(struct x86_cpu *c);
/* HLT was executed since the last call. */
bool interp_take_hlt(struct x86_cpu *c);
bool interp_hlt_seen(const struct x86_cpu *c);
/* A triple fault happened since interp_enter(). */
bool interp_shut_down(const struct x86_cpu *c);
