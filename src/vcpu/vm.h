/* SPDX-License-Identifier: MIT */
/* A virtual machine: memory, bus, event loop, vCPUs, and how it ends.
 *
 * Ending: the first reason wins (vm_end); the loop stops, the vCPUs leave their engines and
 * join, the machine is torn down by its creator. Pausing: vm_pause() parks every vCPU and stops the
 * virtual clock; it nests by count (console menu and debugger may both hold it). */
#pragma once

#include "bus/dev.h"
#include "vcpu/engine.h"

#define VM_MAX_VCPUS 64

/* Exit codes of the program, also what ended a VM (man page). */
enum vm_exit {
	VM_EXIT_POWEROFF = 0,
	VM_EXIT_HOST = 1,
	VM_EXIT_USAGE = 2,
	VM_EXIT_RESET = 32,
	VM_EXIT_TRIPLE_FAULT = 33,
	VM_EXIT_PANIC = 34,
};

/* Added to a code that the guest chose itself (debug exit): the low byte is the program's exit
 * code, and it means what the guest says, not what the list above says. */
#define VM_EXIT_CHOSEN 0x100

/* A debugger's breakpoints and watchpoints, the same for all vCPUs; changed only while paused. */
enum bp_kind { BP_SOFT, BP_HARD, BP_WRITE, BP_READ, BP_ACCESS };
struct breakpoint {
	enum bp_kind kind;
	gva_t addr;
	u32 len; /* bytes watched; 1 for code */
};
#define VM_MAX_BREAKPOINTS 64

struct vm {
	struct trace trace;
	struct pmap *pmap;
	struct bus *bus;
	struct loop *loop;
	struct irq_router irq;
	struct dev *devices;
	const struct engine_ops *engine;
	void *engine_vm; /* engine's private data */
	unsigned nr_vcpus;
	struct vcpu *vcpu[VM_MAX_VCPUS];
	u64 tsc_khz; /* guest's and host's */
	bool no_reboot;
	bool timed_exits;

	pthread_mutex_t split_lock; /* locked accesses that cross a page or hit a device */
	pthread_mutex_t lock;       /* ending, pausing */
	pthread_cond_t cond;
	bool ended;
	int exit_code;
	char exit_why[200];
	u64 held; /* vCPUs (bit i) that vm_resume() leaves parked: a debugger steps the others */
	unsigned pause_count;
	u64 pause_tsc; /* host TSC when the clock stopped */
	_Atomic bool reset_pending;

	unsigned nr_breakpoints;
	struct breakpoint breakpoint[VM_MAX_BREAKPOINTS];
	/* Some vCPU stopped with STOP_DEBUG and parked itself (vcpu->debug says why): called on the
	 * loop's thread. The debugger calls vm_pause() for the others. NULL: nobody debugs. */
	void (*debug_stop)(struct vm *vm, void *arg);
	void *debug_arg;
	/* The machine's part of a reset (devices, reloading the boot state), called on the loop
	 * thread with vCPUs parked and the machine lock held. 0 or -errno. */
	int (*machine_reset)(struct vm *vm);
	void *machine;
};

/* Set-up in this order by the machine: vm_init, then pmap, devices, then vm_add_vcpu for each. */
int vm_init(struct vm *vm);
void vm_destroy(
	struct vm *vm); /* vCPUs joined; frees vCPUs, devices, bus, loop, pmap, not vm itself */
struct vcpu *vm_add_vcpu(struct vm *vm);

/* End the VM: any thread, first reason wins. */
void vm_end(struct vm *vm, int exit_code, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
/* The guest is beyond recovery: dump the vCPU (may be NULL), then end. */
void vm_kill(struct vm *vm, struct vcpu *v, int exit_code, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));
/* The guest asked for a reset: done on the loop thread, or vm_end(32) with no_reboot. Any thread.
 */
void vm_request_reset(struct vm *vm, const char *by);

/* Park all vCPUs and stop the virtual clock / undo; nests. Only on the loop's thread, in a
 * callback: vm_pause drops the machine lock while it waits, so that a vCPU in a device can get out.
 * 0 or -ETIMEDOUT after 10 s (logged; the VM then is not paused). */
int vm_pause(struct vm *vm);
/* Before vm_run(): the vCPUs park before their first instruction; vm_resume() lets them go. */
void vm_hold(struct vm *vm);
void vm_resume(struct vm *vm);
bool vm_paused(const struct vm *vm);

/* Start all vCPU threads; run the loop on this thread until the VM ended; join. Returns the exit
 * code, with VM_EXIT_CHOSEN if the guest chose it. */
int vm_run(struct vm *vm);
