/* SPDX-License-Identifier: MIT */
/* Shared by the files of lockstep: lockstep.c (the shadow and its steps), lockstep_input.c (what it
 * is told), lockstep_state.c (registers), lockstep_mem.c (memory), lockstep_report.c. */
#pragma once

#include "control/lockstep.h"
#include "cpu/x86/inputs.h"
#include "cpu/x86/mmu.h"

#define LS_TRAIL  1024u /* instructions that a report can tell of */
#define LS_PASSES 8u
#define LS_FLAGS  4096u

/* The shadow before an instruction. */
struct ls_step {
	u64 gpr[16];
	u64 rip, aflags;
};

/* From one boundary to the next. */
struct ls_pass {
	u64 from, to, insns; /* insns: executed before it */
	u32 steps;
};

struct ls_input {
	struct x86_input in;
	bool dma; /* in.addr, len bytes of `data`: written by a device or the monitor */
	u64 len;
	u8 *data; /* NULL: zeros */
};

struct ls_queue { /* of inputs, in order; taken from the front */
	struct ls_input *e;
	size_t head, nr, max;
};

struct ls_flag_entry {
	u64 rip;
	u32 mode;
	u16 read; /* arithmetic flags that the code reads before it writes them */
	bool valid;
};

struct lockstep {
	struct lockstep_config cfg;
	struct vm *vm;
	struct x86_cpu *p, *s; /* the vCPU's and the shadow */
	struct vm *svm;
	struct x86_inputs p_inputs, s_inputs;
	struct pmap_write_hook write_hook;
	bool thread_ready;
	bool over; /* a difference was found, or the limit reached: nothing is looked at any more */
	bool failed;
	bool at_rest; /* an exception was delivered: the next boundary is where we are */
	u64 progress;
	u64 insns, boundaries, inputs, events, flags_taken, entries_taken;
	u64 next_full;

	struct ls_queue queue;
	bool input_failed;
	char input_why[200];
	struct ls_input last[16]; /* inputs served, for the report */
	unsigned nr_last;

	pthread_mutex_t late_lock;
	struct ls_queue late; /* writes by other threads, to be made at a boundary */

	u64 *writable, *table; /* bitmaps by page of RAM */
	u64 *dirty;
	u32 nr_dirty, max_dirty;
	u32 until_mem; /* boundaries before the next look at memory */

	struct ls_step trail[LS_TRAIL];
	u64 nr_trail;
	struct ls_pass pass[LS_PASSES];
	u64 nr_pass;
	u64 at; /* the vCPU's RIP at the last boundary */

	struct ls_flag_entry flags[LS_FLAGS];
	struct x86_cpu *near; /* the shadow where it first was at the vCPU's RIP, fields only */
	u64 near_trail;       /* 0: there was none */
	struct ls_step near_steps[LS_TRAIL];
};

/* ---- lockstep_state.c ---- */
/* Registers of `from` into `to`: all that is compared, and what follows from it. */
void ls_state_copy(struct x86_cpu *to, const struct x86_cpu *from);
/* `all`: also what hardly ever changes. */
bool ls_state_equal(const struct x86_cpu *p, struct x86_cpu *s, bool all);
/* One line for each register that differs; how many there were. */
unsigned ls_state_print(const struct x86_cpu *p, const struct x86_cpu *s, FILE *out);
/* Those of the arithmetic flags `differ` that the code at `rip` reads before it writes them, as far
 * as one can see in a straight line. */
u64 ls_flags_read(struct lockstep *ls, u64 rip, u64 differ);

/* ---- lockstep_input.c ---- */
extern const struct x86_inputs_ops ls_shadow_ops;
void ls_input_made(void *arg, const struct x86_input *in);
bool ls_ram_write(void *arg, gpa_t gpa, const void *buf, u64 len);
void ls_late_writes(struct lockstep *ls);
void ls_queue_free(struct ls_queue *q);
static inline bool ls_queue_empty(const struct ls_queue *q)
{
	return q->head == q->nr;
}
/* All that is left in front is writes to RAM: make them. */
void ls_input_settle(struct lockstep *ls);
void ls_input_print(const struct ls_input *e, FILE *out);

/* ---- lockstep_mem.c ---- */
int ls_mem_create(struct lockstep *ls);
void ls_mem_destroy(struct lockstep *ls);
int ls_mem_copy(struct lockstep *ls); /* the whole RAM; 0 or -errno */
void ls_mem_writable(void *arg, u64 page);
void ls_mem_table(void *arg, u64 page);
/* Compare what the shadow may have written (true: no difference), or everything; differences are
 * printed to `out` unless that is NULL. */
bool ls_mem_check(struct lockstep *ls, FILE *out);
bool ls_mem_check_all(struct lockstep *ls, FILE *out);

/* ---- lockstep_report.c ---- */
/* Ends the VM: `fmt` is the line that says what is wrong. */
void ls_differ(struct lockstep *ls, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
