// SPDX-License-Identifier: MIT
/* The console's menu works whatever the guest does: it runs on the loop's thread, and a pause takes
 * every vCPU out of guest code within a bounded time. */
#include "cli/menu.h"

#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>

#include "machine/config.h"

static void __attribute__((format(printf, 2, 3))) say(struct menu *m, const char *fmt, ...)
{
	char line[160];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	console_print(pc_console(m->vm), line);
}

/* Collect what `fill` writes and show it. */
static void show(struct menu *m, void (*fill)(struct vm *vm, FILE *out))
{
	char *text = NULL;
	size_t size;
	FILE *out = open_memstream(&text, &size);

	if (out) {
		fill(m->vm, out);
		if (fclose(out) == 0)
			console_print(pc_console(m->vm), text);
	}
	if (!text)
		say(m, "out of memory\n");
	free(text);
}

static void registers(struct vm *vm, FILE *out)
{
	for (unsigned i = 0; i < vm->nr_vcpus; i++) {
		struct vcpu *v = vm->vcpu[i];
		static const char *const state[] = {
			[VCPU_WAIT_SIPI] = "waits for its start",
			[VCPU_RUNNING] = "runs",
			[VCPU_HALTED] = "halted",
			[VCPU_SHUTDOWN] = "shut down",
		};

		fprintf(out, "vCPU %u: %s\n", i, state[v->state]);
		if (v->arch->dump)
			v->arch->dump(v, out);
	}
}

static void statistics(struct vm *vm, FILE *out)
{
	const struct exit_stats *stats[VM_MAX_VCPUS];

	for (unsigned i = 0; i < vm->nr_vcpus; i++)
		stats[i] = &vm->vcpu[i]->stats;
	exit_stats_print(stats, vm->nr_vcpus, out);
	if (vm->engine->print_stats)
		vm->engine->print_stats(vm, out);
	fputs("interrupt lines:", out);
	for (unsigned i = 0; i < IRQ_LINES; i++)
		if (vm->irq.count[i])
			fprintf(out, " %u:%llu", i, (unsigned long long)vm->irq.count[i]);
	fputc('\n', out);
	for (struct dev *d = vm->devices; d; d = d->next) {
		if (!d->ops->dump)
			continue;
		fprintf(out, "%s:\n", d->name);
		d->ops->dump(d, out);
	}
}

/* `fill` needs the vCPUs to stand still. */
static void show_paused(struct menu *m, void (*fill)(struct vm *vm, FILE *out))
{
	if (vm_pause(m->vm) < 0) {
		say(m, "a vCPU does not stop; try again\n");
		return;
	}
	show(m, fill);
	vm_resume(m->vm);
}

static void toggle_pause(struct menu *m)
{
	if (m->paused) {
		m->paused = false;
		vm_resume(m->vm);
		say(m, vm_paused(m->vm) ? "the debugger still holds the virtual machine\n"
		                        : "going on\n");
	} else if (vm_pause(m->vm) < 0) {
		say(m, "a vCPU does not stop; try again\n");
	} else {
		m->paused = true;
		say(m, "paused; Ctrl-] s goes on\n");
	}
}

#define BALLOON_STEP (64 * MiB)

static void resize_balloon(struct menu *m, s64 bytes)
{
	char line[80];
	u64 now;

	if (!pc_balloon(m->vm, bytes, &now)) {
		say(m, "there is no balloon; give --device balloon\n");
		return;
	}
	snprintf(line, sizeof(line), "the balloon is to take %llu MiB from the guest\n",
	         (unsigned long long)(now / MiB));
	say(m, line);
}

static bool command(void *arg, char key)
{
	struct menu *m = arg;

	switch (key) {
	case 'q':
		vm_end(m->vm, 128 + SIGINT, "quit from the console's menu");
		return true;
	case 'p':
		if (!pc_power_button(m->vm))
			say(m, "the guest does not listen to its power button\n");
		else
			say(m, m->paused ? "the power button is pressed; paused: Ctrl-] s goes on\n"
			                 : "the power button is pressed\n");
		return true;
	case 's':
		toggle_pause(m);
		return true;
	case 'r':
		show_paused(m, registers);
		return true;
	case 'i':
		show_paused(m, statistics);
		return true;
	case '+':
		resize_balloon(m, (s64)BALLOON_STEP);
		return true;
	case '-':
		resize_balloon(m, -(s64)BALLOON_STEP);
		return true;
	default:
		return false;
	}
}

void menu_init(struct menu *m, struct vm *vm)
{
	m->vm = vm;
	m->paused = false;
	m->escape.command = command;
	m->escape.arg = m;
}
