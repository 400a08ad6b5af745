// SPDX-License-Identifier: MIT
/* What `ringer help` says. Short on purpose: the man page has the rest. The options are
 * listed from the parser's own table, so that help and parser can't disagree. */
#include "cli/help.h"

#include <string.h>

#include "cli/options.h"
#include "vcpu/vm.h"

static void print_overview(FILE *out)
{
	fputs("ringer runs operating systems in virtual machines, with or without hardware "
	      "virtualization.\n"
	      "\n"
	      "  ringer run [OPTIONS]   run a virtual machine\n"
	      "  ringer engines         ways to run a virtual CPU, and which of them work here\n"
	      "  ringer version         version and build\n"
	      "  ringer help [TOPIC]    topics: run, console, exit, trace\n"
	      "\n"
	      "A first try: ringer run --kernel bzImage --initrd initramfs.cpio -m 512M\n",
	      out);
}

static void print_run(FILE *out)
{
	const struct option_help *h;

	fputs("usage: ringer run [OPTIONS]\n\n", out);
	for (unsigned i = 0; (h = options_help(i)); i++) {
		char left[48];

		snprintf(left, sizeof(left), "%s%s%s%s%s", h->short_name ? h->short_name : "",
		         h->short_name ? ", " : "", h->name, h->arg ? " " : "",
		         h->arg ? h->arg : "");
		fprintf(out, "  %-24s %s\n", left, h->help);
	}
	fputs("\nWithout --kernel, a --disk is started by SeaBIOS; without both, the guest that "
	      "\"make run\"\n"
	      "fetched is used.\n",
	      out);
}

static void print_console(FILE *out)
{
	fputs("The guest's first serial port is connected to the terminal. Every key goes to the\n"
	      "guest, Ctrl-C too, except Ctrl-], which opens a menu:\n"
	      "\n"
	      "  q  quit: the virtual machine ends at once\n"
	      "  p  press the power button: the guest shuts down by itself\n"
	      "  s  stop and go on (pause)\n"
	      "  r  registers of all CPUs\n"
	      "  i  interrupts, devices and exits so far\n"
	      "  +  let the balloon take 64 MiB more from the guest; - gives 64 MiB back\n"
	      "  h  this list\n"
	      "  Ctrl-] again sends a Ctrl-] to the guest\n"
	      "\n"
	      "Signals: SIGTERM, SIGINT, SIGHUP and SIGQUIT end the virtual machine and restore "
	      "the\n"
	      "terminal; a second one does not wait for an orderly end.\n",
	      out);
}

static void print_exit(FILE *out)
{
	fputs("Exit codes of \"ringer run\":\n"
	      "\n"
	      "  0      the guest powered off\n"
	      "  1      the host failed (memory, threads), or ringer itself\n"
	      "  2      a wrong option, or a kernel or other file that cannot be used\n"
	      "  32     the guest reset the machine and --no-reboot was given\n"
	      "  33     triple fault: the guest cannot go on\n"
	      "  34     the guest's kernel panicked and told so through the pvpanic device\n"
	      "  128+N  ended by signal N; quitting from the menu counts as SIGINT, 130\n"
	      "  2V+1   the guest wrote V to the port of --debug-exit\n",
	      out);
}

static void print_trace(FILE *out)
{
	fputs("Looking inside a guest:\n"
	      "\n"
	      "  -d in_asm    each block of guest code when it is first decoded\n"
	      "  -d int       exceptions and interrupts delivered\n"
	      "  -d mmu       page walks, page faults, TLB flushes\n"
	      "  -d irq       interrupt lines, controllers, IPIs\n"
	      "  -d io        port and MMIO accesses\n"
	      "  -d exec      every instruction, with registers\n"
	      "  -d msr       RDMSR, WRMSR, CPUID\n"
	      "  -D FILE      the traces go there instead of stderr\n"
	      "  --exit-stats a table of exits by reason at the end\n"
	      "  --gdb 1234   then: gdb vmlinux -ex 'target remote :1234'\n"
	      "               (--gdb 1234,wait: before the guest's first instruction)\n"
	      "  --lockstep   execute everything twice, by the engine and by the interpreter, and\n"
	      "               stop at the first difference (--lockstep=20: after 20 million\n"
	      "               instructions without one)\n",
	      out);
}

static const struct {
	const char *topic;
	void (*print)(FILE *out);
} topic_table[] = {
	{"run", print_run},       {"console", print_console},  {"exit", print_exit},
	{"trace", print_trace},   {"engines", print_overview}, {"version", print_overview},
	{"help", print_overview},
};

int help_print(const char *topic, FILE *out)
{
	if (!topic) {
		print_overview(out);
		return 0;
	}
	for (size_t i = 0; i < ARRAY_SIZE(topic_table); i++) {
		if (!strcmp(topic, topic_table[i].topic)) {
			topic_table[i].print(out);
			return 0;
		}
	}
	log_error("%s: no such help topic; there are run, console, exit and trace", topic);
	return VM_EXIT_USAGE;
}
