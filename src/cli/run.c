// SPDX-License-Identifier: MIT
/* The order matters: everything the user may have got wrong is looked at first, then files are
 * opened, then the machine is made, then the process gives up what it no longer needs, and
 * only then the guest runs.
 *
 * Process signals are blocked in every thread and read from a signalfd in the VM's
 * loop, so the end is orderly: vCPUs stop, output is flushed, the terminal is restored. When the
 * first one was seen the signals are unblocked, so that a second one ends a process that
 * hangs. */
#include "cli/run.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "cli/menu.h"
#include "cli/sandbox.h"
#include "control/gdb.h"
#include "control/lockstep.h"
#include "vcpu/vm.h"

#define PATH_LEN 4096

struct run {
	const struct options *o;
	struct vm_config cfg;
	struct vm *vm;
	struct menu menu;
	int signal_fd;
	struct net_config net[NET_MAX_NICS];
	struct vm_share share[VM_MAX_SHARES];
	unsigned nr_shares;                      /* open */
	char kernel[PATH_LEN], initrd[PATH_LEN]; /* of the guest found without --kernel */
	char firmware[PATH_LEN];                 /* found by its name */
};

/* ---- the guest that `make run` fetched ---- */

static bool guest_in(struct run *r, const char *dir)
{
	int n = snprintf(r->kernel, PATH_LEN, "%s/vmlinuz", dir);
	int m = snprintf(r->initrd, PATH_LEN, "%s/initramfs.cpio", dir);

	return n < PATH_LEN && m < PATH_LEN && !access(r->kernel, R_OK) && !access(r->initrd, R_OK);
}

/* A name without a slash that is no file here is one of SeaBIOS's. */
static void firmware_find(struct run *r, const char *name)
{
	r->cfg.firmware = name;
	if (!strchr(name, '/') && access(name, F_OK) &&
	    snprintf(r->firmware, PATH_LEN, "/usr/share/seabios/%s", name) < PATH_LEN &&
	    !access(r->firmware, F_OK))
		r->cfg.firmware = r->firmware;
}

/* A disk, and nothing said of a kernel. */
static bool boots_from_disk(const struct options *o)
{
	return o->nr_disks && !o->kernel && !o->initrd && !o->cmdline;
}

static int firmware_default(struct run *r)
{
	static const char name[] = "bios-256k.bin";

	firmware_find(r, name);
	if (!access(r->cfg.firmware, R_OK)) {
		log_info("starting from the disk, by %s", r->cfg.firmware);
		return 0;
	}
	log_error("--disk without --kernel starts by a BIOS, and there is no %s in "
	          "/usr/share/seabios; install Debian's package seabios, or name one with "
	          "--firmware FILE, or give a --kernel",
	          name);
	return VM_EXIT_USAGE;
}

/* Beside the program itself (build/ringer: build/guest), then where one stands. */
static int guest_find(struct run *r)
{
	char exe[PATH_LEN], beside[PATH_LEN + 8];
	ssize_t n = readlink("/proc/self/exe", exe, sizeof(exe) - 1);
	char *slash;

	if (n < 0)
		n = 0;
	exe[n] = '\0';
	slash = strrchr(exe, '/');
	if (slash)
		*slash = '\0';
	snprintf(beside, sizeof(beside), "%s/guest", exe);
	if (guest_in(r, beside) || guest_in(r, "build/guest")) {
		r->cfg.kernel = r->kernel;
		if (!r->cfg.initrd)
			r->cfg.initrd = r->initrd;
		log_info("guest %s", r->kernel);
		return 0;
	}
	log_error("no --kernel given, and no guest (vmlinuz, initramfs.cpio) in %s or build/guest; "
	          "\"make run\" in the source folder fetches one, or for example: ringer run "
	          "--kernel /boot/vmlinuz",
	          beside);
	return VM_EXIT_USAGE;
}

/* ---- files ---- */

/* For writing, made anew. Descriptor or -1 with the error logged. */
static int open_output(const char *option, const char *path, const char *example)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOCTTY, 0644);

	if (fd < 0)
		log_error("%s %s: cannot open for writing: %s; for example: %s %s", option, path,
		          strerror(errno), option, example);
	return fd;
}

static int open_outputs(struct run *r)
{
	const struct options *o = r->o;
	struct vm_config *c = &r->cfg;

	if (o->console == CONSOLE_FILE) {
		c->console_fd = open_output("--console", o->console_path, "file:console.log");
		if (c->console_fd < 0)
			return VM_EXIT_USAGE;
	}
	if (o->debugcon_path) {
		c->debugcon_fd = *o->debugcon_path ? open_output("--debugcon", o->debugcon_path,
		                                                 "file:debug.log")
		                                   : STDOUT_FILENO;
		if (c->debugcon_fd < 0)
			return VM_EXIT_USAGE;
	}
	if (o->trace_path) {
		int fd = open_output("-D", o->trace_path, "trace.log");

		if (fd < 0)
			return VM_EXIT_USAGE;
		c->trace.out = fdopen(fd, "w");
		if (!c->trace.out) {
			close(fd);
			log_error("out of memory");
			return VM_EXIT_HOST;
		}
	}
	return 0;
}

static int open_shares(struct run *r)
{
	const struct options *o = r->o;

	if (shares_open(r->share, o->share, o->nr_shares) < 0)
		return VM_EXIT_USAGE;
	r->nr_shares = o->nr_shares;
	r->cfg.share = r->share;
	r->cfg.nr_shares = r->nr_shares;
	return 0;
}

static void close_outputs(struct run *r)
{
	shares_close(r->share, r->nr_shares);
	if (r->cfg.console_fd >= 0)
		close(r->cfg.console_fd);
	if (r->cfg.debugcon_fd > STDERR_FILENO)
		close(r->cfg.debugcon_fd);
	if (r->cfg.trace.out && fclose(r->cfg.trace.out) == EOF)
		log_error("-D %s: %s", r->o->trace_path, strerror(errno));
}

/* ---- network cards ---- */

/* Each gets its address: from the machine's name, if it has one of its own. Machines without a name
 * must not have the same address on one network. */
static int name_nets(struct run *r)
{
	const struct options *o = r->o;

	for (unsigned i = 0; i < o->nr_nets; i++) {
		struct net_config *c = &r->net[i];

		*c = o->net[i];
		if (memcmp(c->mac, "\0\0\0\0\0", 6))
			continue;
		net_mac_from_name(c->mac, o->name, i);
		if (o->named || c->kind == NET_USER)
			continue;
		if (getrandom(c->mac + 1, 5, 0) != 5) {
			log_error("getrandom: %s", strerror(errno));
			return VM_EXIT_HOST;
		}
	}
	r->cfg.net = r->net;
	r->cfg.nr_nets = o->nr_nets;
	return 0;
}

static bool has_net(const struct run *r, enum net_kind kind)
{
	for (unsigned i = 0; i < r->o->nr_nets; i++)
		if (r->o->net[i].kind == kind)
			return true;
	return false;
}

/* ---- signals ---- */

static void ending_signals(sigset_t *set)
{
	sigemptyset(set);
	sigaddset(set, SIGTERM);
	sigaddset(set, SIGINT);
	sigaddset(set, SIGHUP);
	sigaddset(set, SIGQUIT);
}

static void signal_arrived(void *arg, short revents)
{
	struct run *r = arg;
	struct signalfd_siginfo si;
	sigset_t set;

	if (read(r->signal_fd, &si, sizeof(si)) != (ssize_t)sizeof(si))
		return;
	loop_del_fd(r->vm->loop, r->signal_fd);
	ending_signals(&set);
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
	vm_end(r->vm, 128 + (int)si.ssi_signo, "ended by signal %u (%s)", si.ssi_signo,
	       strsignal((int)si.ssi_signo));
}

static int signals_prepare(struct run *r)
{
	struct sigaction ign = {.sa_handler = SIG_IGN}, old;
	static const int sigs[] = {SIGTERM, SIGINT, SIGHUP, SIGQUIT};
	sigset_t set;

	/* A reader that went away, a file over its size limit: errors of write(2). */
	sigaction(SIGPIPE, &ign, NULL);
	sigaction(SIGXFSZ, &ign, NULL);
	ending_signals(&set);
	/* What was ignored stays so: nohup, and background jobs of a shell without job control. */
	for (size_t i = 0; i < ARRAY_SIZE(sigs); i++)
		if (!sigaction(sigs[i], NULL, &old) && old.sa_handler == SIG_IGN)
			sigdelset(&set, sigs[i]);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	r->signal_fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
	if (r->signal_fd < 0) {
		log_error("signalfd: %s", strerror(errno));
		return VM_EXIT_HOST;
	}
	return 0;
}

/* ---- the run ---- */

/* The counters live in the vCPUs, which go with the machine. NULL when there is no memory. */
static struct exit_stats *copy_exit_stats(const struct vm *vm)
{
	struct exit_stats *copy = calloc(vm->nr_vcpus, sizeof(*copy));

	for (unsigned i = 0; copy && i < vm->nr_vcpus; i++)
		copy[i] = vm->vcpu[i]->stats;
	return copy;
}

/* The engine's own, as text, for the same reason. NULL: none. */
static char *engine_stats(struct vm *vm)
{
	char *text = NULL;
	size_t size;
	FILE *out;

	if (!vm->engine->print_stats)
		return NULL;
	out = open_memstream(&text, &size);
	if (!out)
		return NULL;
	vm->engine->print_stats(vm, out);
	fclose(out);
	return text;
}

static void print_exit_stats(const struct exit_stats *copy, unsigned nr, const char *engine)
{
	const struct exit_stats *stats[VM_MAX_VCPUS];

	for (unsigned i = 0; i < nr; i++)
		stats[i] = &copy[i];
	exit_stats_print(stats, nr, stderr);
	if (engine)
		fputs(engine, stderr);
}

static void say_end(const struct run *r, int code)
{
	const char *why = r->vm->exit_why;

	if (code == VM_EXIT_POWEROFF || code & VM_EXIT_CHOSEN)
		log_info("%s: %s", r->cfg.name, why);
	else if (code == VM_EXIT_HOST)
		log_error("%s: %s", r->cfg.name, why);
	else
		log_warn("%s: %s (exit code %d)", r->cfg.name, why, code);
}

static int serve_gdb(struct run *r, struct gdb **out)
{
	const struct options *o = r->o;
	const struct gdb_config cfg = {
		.port = o->gdb_port, .path = o->gdb_path, .wait = o->gdb_wait};

	if (o->gdb_port < 0 && !o->gdb_path)
		return 0;
	return gdb_create(out, r->vm, &cfg);
}

static int start_lockstep(struct run *r, struct lockstep **out)
{
	const struct options *o = r->o;
	const struct lockstep_config cfg = {.insns = o->lockstep_insns,
	                                    .exact = o->lockstep_exact,
	                                    .break_at = o->lockstep_break};

	return o->lockstep ? lockstep_create(out, r->vm, &cfg) : 0;
}

/* The machine exists: run it to its end. What is said about the end comes after the machine and
 * with it the raw terminal are gone. */
static int vm_live(struct run *r)
{
	const struct sandbox_config box = {.internet = has_net(r, NET_USER),
	                                   .tap = has_net(r, NET_TAP),
	                                   .files = r->nr_shares > 0};
	struct exit_stats *stats = NULL;
	char *engine = NULL;
	unsigned nr = r->vm->nr_vcpus;
	struct gdb *gdb = NULL;
	struct lockstep *lockstep = NULL;
	bool ran = false;
	int code = VM_EXIT_HOST;

	if (serve_gdb(r, &gdb) < 0)
		code = VM_EXIT_USAGE;
	else if (start_lockstep(r, &lockstep) < 0)
		code = VM_EXIT_HOST;
	else if (loop_add_fd(r->vm->loop, r->signal_fd, POLLIN, signal_arrived, r) < 0)
		log_error("out of memory");
	else if (!r->o->sandbox || sandbox_enter(&box) == 0)
		ran = true;
	if (ran) {
		code = vm_run(r->vm);
		if (r->o->exit_stats) {
			stats = copy_exit_stats(r->vm);
			engine = engine_stats(r->vm);
		}
	}
	gdb_destroy(gdb);
	lockstep_destroy(lockstep);
	pc_destroy(r->vm);
	if (stats)
		print_exit_stats(stats, nr, engine);
	free(stats);
	free(engine);
	if (ran)
		say_end(r, code);
	return code & ~VM_EXIT_CHOSEN;
}

static void config_from_options(struct vm_config *c, const struct options *o)
{
	c->name = o->name;
	c->kernel = o->kernel;
	c->initrd = o->initrd;
	c->cmdline = o->cmdline ? o->cmdline : "console=ttyS0";
	c->ram_size = o->ram_size;
	c->nr_vcpus = o->nr_vcpus;
	c->console = o->console;
	c->console_fd = -1;
	c->debugcon_fd = -1;
	c->debug_exit_port = o->debug_exit_port;
	c->testdev = o->testdev;
	c->no_reboot = o->no_reboot || o->lockstep; /* the shadow has no devices to reset */
	c->timed_exits = o->exit_stats;
	c->vsock_cid = o->vsock_cid;
	c->vsock_path = o->vsock_path;
	c->trace.mask = o->trace_mask;
	c->disk = o->disk;
	c->nr_disks = o->nr_disks;
	c->device = o->device;
	c->nr_devices = o->nr_devices;
}

/* ps shows it; 15 characters are all there is room for. */
static void name_process(const char *name)
{
	char comm[16];

	snprintf(comm, sizeof(comm), "ringer:%s", name);
	prctl(PR_SET_NAME, comm);
}

static bool lockstep_possible(const struct options *o, const struct engine_ops *engine)
{
	const char *why = NULL;

	if (!o->lockstep)
		return true;
	if (o->nr_vcpus != 1)
		why = "one CPU at most can be followed; give -c 1";
	else if (strcmp(engine->name, "bt") && strcmp(engine->name, "interp"))
		why = "the engine must be bt or interp; give --engine bt";
	else if (o->gdb_path || o->gdb_port >= 0)
		why = "--gdb changes what is compared; leave out one of them";
	if (why)
		log_error("--lockstep: %s", why);
	return !why;
}

int run_vm(const struct options *o)
{
	struct run r = {.o = o, .signal_fd = -1};
	int code;

	log_set_level(o->quiet ? LOG_WARN : o->verbose ? LOG_DEBUG : LOG_INFO);
	config_from_options(&r.cfg, o);
	if (o->firmware) {
		firmware_find(&r, o->firmware);
	} else if (boots_from_disk(o)) {
		code = firmware_default(&r);
		if (code)
			return code;
	} else if (!r.cfg.kernel) {
		code = guest_find(&r);
		if (code)
			return code;
	}
	r.cfg.engine = engine_choose(o->engine);
	if (!r.cfg.engine || !lockstep_possible(o, r.cfg.engine))
		return VM_EXIT_USAGE;
	r.vm = calloc(1, sizeof(*r.vm));
	if (!r.vm) {
		log_error("out of memory");
		return VM_EXIT_HOST;
	}
	name_process(o->name);
	sandbox_prepare();
	code = open_outputs(&r);
	if (!code)
		code = name_nets(&r);
	if (!code)
		code = open_shares(&r);
	if (!code)
		code = signals_prepare(&r);
	menu_init(&r.menu, r.vm);
	r.cfg.escape = &r.menu.escape;
	if (!code)
		code = pc_create(r.vm, &r.cfg);
	if (!code)
		code = vm_live(&r);
	if (r.signal_fd >= 0)
		close(r.signal_fd);
	close_outputs(&r);
	free(r.vm);
	return code;
}
