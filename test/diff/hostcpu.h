/* SPDX-License-Identifier: MIT */
/* The host's own processor as the oracle: cases run in a child process that can do nothing but
 * compute (seccomp), with the case's pages at the case's addresses. Whatever the code does, the
 * parent survives: a child that dies or hangs is replaced.
 *
 * One thread. */
#pragma once

#include "case.h"

struct hostcpu;

#define HOSTCPU_BATCH 64
/* Linux reports accesses of programs from here on as protection violations, whether anything is
 * mapped or not: PF_P means nothing there. */
#define HOSTCPU_ADDR_MAX 0x7ffffffff000ull

/* 0 or -errno, with one line in `why`. */
int hostcpu_create(struct hostcpu **out, const u8 *images, char *why, size_t size);
void hostcpu_destroy(struct hostcpu *n);

/* The batch's cases and outcomes, to be filled and read in place. */
struct tcase *hostcpu_case(struct hostcpu *n, unsigned i);
struct outcome *hostcpu_outcome(struct hostcpu *n, unsigned i);
/* Run the first `count` cases of the batch. 0 or -errno: no child can be had. */
int hostcpu_run(struct hostcpu *n, unsigned count);
/* The bytes that follow a case's code, at `rip`, and leave to the executor; at most WAYOUT_MAX. */
#define WAYOUT_MAX 21
/* Where the way out leads: host code that guests do not have. */
extern const u8 hostcpu_left[];
unsigned hostcpu_wayout(u64 cs, u64 rip, u8 *out);
/* Contents of both code pages before a case's code is placed. */
void hostcpu_code_background(u8 *code);
u64 hostcpu_restarts(const struct hostcpu *n);
