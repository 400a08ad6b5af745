// SPDX-License-Identifier: MIT
/* Options to data, by one table: the parser, the suggestions for misspelt words and the help
 * all read it. An error names the option, what was given and what is accepted, with an
 * example, because whoever typed it should not have to open the manual. */
#include "cli/options.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cli/diskopts.h"
#include "cli/keyval.h"
#include "cli/netopts.h"
#include "vcpu/vm.h"

struct option_def {
	struct option_help h;
	/* 0, or -1 with the error logged. `arg` is NULL for an option without argument. */
	int (*set)(struct options *o, const struct option_def *d, const char *arg);
	size_t offset; /* of the field that set_string and set_flag write */
	const char *example;
	bool may_lack; /* its argument, which then stands behind '=' only */
};

/* ---- values ---- */

static int bad_value(const struct option_def *d, const char *given, const char *accepted)
{
	const char *name = d->h.short_name ? d->h.short_name : d->h.name;

	log_error("%s %s: %s; for example: %s %s", name, *given ? given : "\"\"", accepted, name,
	          d->example);
	return -1;
}

int options_parse_size(const char *s, u64 *bytes)
{
	unsigned shift;
	char *end;
	u64 v;

	if (*s < '0' || *s > '9')
		return -1;
	errno = 0;
	v = strtoull(s, &end, 10);
	if (errno)
		return -1;
	switch (*end) {
	case '\0':
	case 'm':
	case 'M':
		shift = 20;
		break;
	case 'k':
	case 'K':
		shift = 10;
		break;
	case 'g':
	case 'G':
		shift = 30;
		break;
	case 't':
	case 'T':
		shift = 40;
		break;
	default:
		return -1;
	}
	if (*end && end[1] && strcmp(end + 1, "iB") && strcmp(end + 1, "B"))
		return -1;
	if (v > (1ull << 63) >> shift)
		return -1;
	*bytes = v << shift;
	return 0;
}

static int set_string(struct options *o, const struct option_def *d, const char *arg)
{
	*(const char **)((char *)o + d->offset) = arg;
	return 0;
}

static int set_path(struct options *o, const struct option_def *d, const char *arg)
{
	if (!*arg)
		return bad_value(d, arg, "the name of a file is wanted");
	return set_string(o, d, arg);
}

static int set_flag(struct options *o, const struct option_def *d, const char *arg)
{
	*(bool *)((char *)o + d->offset) = true;
	return 0;
}

static int set_no_sandbox(struct options *o, const struct option_def *d, const char *arg)
{
	o->sandbox = false;
	return 0;
}

static int set_memory(struct options *o, const struct option_def *d, const char *arg)
{
	if (options_parse_size(arg, &o->ram_size) < 0)
		return bad_value(d, arg, "not a size; give MiB, or a number with K, M, G or T");
	if (o->ram_size < VM_RAM_MIN || o->ram_size > VM_RAM_MAX) {
		char msg[64];

		snprintf(msg, sizeof(msg), "the size must be from %lluM to %lluG", VM_RAM_MIN / MiB,
		         VM_RAM_MAX / GiB);
		return bad_value(d, arg, msg);
	}
	if (o->ram_size % (2 * MiB))
		return bad_value(d, arg, "the size must be a multiple of 2M");
	return 0;
}

_Static_assert(VM_MAX_VCPUS == 64, "set_cpus' text");

static int set_cpus(struct options *o, const struct option_def *d, const char *arg)
{
	u64 n;

	if (keyval_number(arg, 1, VM_MAX_VCPUS, &n) < 0)
		return bad_value(d, arg, "the number of CPUs must be from 1 to 64");
	o->nr_vcpus = (unsigned)n;
	return 0;
}

static int set_engine(struct options *o, const struct option_def *d, const char *arg)
{
	bool known = !strcmp(arg, "auto");

	for (unsigned i = 0; options_engine(i); i++)
		known |= !strcmp(arg, options_engine(i)->name);
	if (!known)
		return bad_value(d, arg, "no such engine; there are auto, kvm, bt and interp");
	o->engine = arg;
	return 0;
}

static int set_console(struct options *o, const struct option_def *d, const char *arg)
{
	if (!strcmp(arg, "tty")) {
		o->console = CONSOLE_STDIO;
	} else if (!strcmp(arg, "none")) {
		o->console = CONSOLE_NONE;
	} else if (!strncmp(arg, "file:", 5) && arg[5]) {
		o->console = CONSOLE_FILE;
		o->console_path = arg + 5;
	} else {
		return bad_value(d, arg, "a console is tty, file:PATH or none");
	}
	return 0;
}

static int set_debugcon(struct options *o, const struct option_def *d, const char *arg)
{
	if (!strcmp(arg, "stdio"))
		o->debugcon_path = "";
	else if (!strncmp(arg, "file:", 5) && arg[5])
		o->debugcon_path = arg + 5;
	else
		return bad_value(d, arg, "the debug console is file:PATH or stdio");
	return 0;
}

static int set_debug_exit(struct options *o, const struct option_def *d, const char *arg)
{
	u64 port;

	/* It takes four ports. */
	if (keyval_number(arg, 1, 0xfffc, &port) < 0)
		return bad_value(d, arg, "the I/O port must be from 1 to 0xfffc");
	o->debug_exit_port = (int)port;
	return 0;
}

static int set_trace(struct options *o, const struct option_def *d, const char *arg)
{
	char bad[32], msg[160];
	u32 mask;

	if (trace_parse(arg, &mask, bad, sizeof(bad)) < 0) {
		snprintf(msg, sizeof(msg), "no trace category \"%s\"; there are %s", bad,
		         trace_names());
		return bad_value(d, arg, msg);
	}
	if (!mask)
		return bad_value(d, arg, "trace categories are wanted, with commas between them");
	o->trace_mask |= mask;
	return 0;
}

/* sun_path holds 108 bytes with the terminating zero. */
#define UNIX_PATH_LEN 107

static int set_gdb(struct options *o, const struct option_def *d, const char *arg)
{
	static const char wait_word[] = ",wait";
	size_t len = strlen(arg), n = sizeof(wait_word) - 1;
	char port_text[16];
	u64 port;

	o->gdb_port = -1;
	o->gdb_path = NULL;
	o->gdb_wait = len >= n && !strcmp(arg + len - n, wait_word);
	if (o->gdb_wait)
		len -= n;
	if (!strncmp(arg, "unix:", 5) && len > 5) {
		if (len - 5 > UNIX_PATH_LEN)
			return bad_value(d, arg, "a socket's path has at most 107 bytes");
		snprintf(o->gdb_path_buf, sizeof(o->gdb_path_buf), "%.*s", (int)(len - 5), arg + 5);
		o->gdb_path = o->gdb_path_buf;
		return 0;
	}
	snprintf(port_text, sizeof(port_text), "%.*s", (int)len, arg);
	if (len >= sizeof(port_text) || keyval_number(port_text, 1, 65535, &port) < 0)
		return bad_value(d, arg,
		                 "a TCP port from 1 to 65535 or unix:PATH is wanted, with or "
		                 "without ,wait after it");
	o->gdb_port = (int)port;
	return 0;
}

/* N, exact, break=K, with commas between them; all may be missing. */
static int set_lockstep(struct options *o, const struct option_def *d, const char *arg)
{
	char word[32];
	u64 n;

	o->lockstep = true;
	while (arg) {
		size_t len = strcspn(arg, ",");

		snprintf(word, sizeof(word), "%.*s", (int)MIN(len, sizeof(word) - 1), arg);
		if (!strcmp(word, "exact"))
			o->lockstep_exact = true;
		else if (!keyval_number(word, 1, 1000000000, &n))
			o->lockstep_insns = n * 1000000;
		else if (!strncmp(word, "break=", 6) && !keyval_number(word + 6, 1, ~0ull, &n))
			o->lockstep_break = n;
		else
			return bad_value(d, arg,
			                 "a number of millions of instructions is wanted, exact, "
			                 "break=K, or several of them with commas between");
		arg = arg[len] ? arg + len + 1 : NULL;
	}
	return 0;
}

struct device_arg {
	const char *kind;
	struct vm_device device;
	const char *name, *where; /* of a console port */
};

#define DEVICE_KEY(key, kind, field)                                                               \
	{                                                                                          \
		key, kind, offsetof(struct device_arg, device.field)                               \
	}

static const struct keyval_key rng_keys[] = {
	DEVICE_KEY("packed", KEYVAL_BOOL, packed),
};

static const struct keyval_key balloon_keys[] = {
	DEVICE_KEY("amount", KEYVAL_SIZE, amount),
	DEVICE_KEY("deflate-on-oom", KEYVAL_BOOL, deflate_on_oom),
	DEVICE_KEY("reporting", KEYVAL_BOOL, reporting),
	DEVICE_KEY("packed", KEYVAL_BOOL, packed),
};

#define PORT_KEY(key, field)                                                                       \
	{                                                                                          \
		key, KEYVAL_STRING, offsetof(struct device_arg, field)                             \
	}

static const struct keyval_key console_keys[] = {
	PORT_KEY("where", where),
	PORT_KEY("name", name),
	DEVICE_KEY("packed", KEYVAL_BOOL, packed),
};

#define DEVICE_DEF(n, k, ex)                                                                       \
	{                                                                                          \
		.option = "--device " n, .first = "a kind of device",                              \
		.first_offset = offsetof(struct device_arg, kind), .example = "--device " n ex,    \
		.keys = k, .nr_keys = ARRAY_SIZE(k)                                                \
	}

static const struct {
	const char *name;
	struct keyval_def def;
	struct vm_device defaults;
} device_table[NR_VM_DEVICES] = {
	[VM_DEVICE_RNG] = {"rng", DEVICE_DEF("rng", rng_keys, ""), {0}},
	[VM_DEVICE_BALLOON] = {"balloon",
                               DEVICE_DEF("balloon", balloon_keys, ",amount=128M"),
                               {.deflate_on_oom = true, .reporting = true}},
	[VM_DEVICE_CONSOLE] = {"console",
                               DEVICE_DEF("console", console_keys, ",where=file:hvc0.log"),
                               {0}},
	[VM_DEVICE_PORT] = {"port",
                            DEVICE_DEF("port", console_keys, ",name=agent,where=unix:agent.sock"),
                            {0}},
};

static int set_disk(struct options *o, const struct option_def *d, const char *arg)
{
	if (o->nr_disks == VM_MAX_DISKS)
		return bad_value(d, arg, "there are 24 disks already, which is all");
	_Static_assert(VM_MAX_DISKS == 24, "the text");
	if (disk_option_parse(&o->disk[o->nr_disks], arg, &o->disk_text[o->nr_disks]) < 0)
		return -1;
	o->nr_disks++;
	return 0;
}

void options_free(struct options *o)
{
	for (unsigned i = 0; i < VM_MAX_DISKS; i++) {
		free(o->disk_text[i]);
		o->disk_text[i] = NULL;
	}
}

/* tty, none, file:PATH or unix:PATH. */
static bool port_where(struct vm_device *v, const char *where)
{
	if (!strcmp(where, "tty"))
		v->where = CONSOLE_STDIO;
	else if (!strcmp(where, "none"))
		v->where = CONSOLE_NONE;
	else if (!strncmp(where, "file:", 5))
		v->where = CONSOLE_FILE;
	else if (!strncmp(where, "unix:", 5))
		v->where = CONSOLE_UNIX;
	else
		return false;
	if (v->where != CONSOLE_FILE && v->where != CONSOLE_UNIX)
		return true;
	if (!where[5] ||
	    strlen(where + 5) > (v->where == CONSOLE_UNIX ? UNIX_PATH_LEN : VM_PATH_MAX))
		return false;
	strcpy(v->path, where + 5);
	return true;
}

static int bad_port(const char *arg, bool port, const char *accepted)
{
	log_error("--device %s: %s; for example: %s", arg, accepted,
	          device_table[port ? VM_DEVICE_PORT : VM_DEVICE_CONSOLE].def.example);
	return -1;
}

static int set_port(const char *arg, struct device_arg *a, bool name_wanted)
{
	if (a->name && strlen(a->name) >= sizeof(a->device.name))
		return bad_port(arg, name_wanted, "a name has at most 31 bytes");
	if (a->name)
		strcpy(a->device.name, a->name);
	else if (name_wanted)
		return bad_port(arg, name_wanted, "a port needs a name: name=NAME");
	if (a->where && !port_where(&a->device, a->where))
		return bad_port(arg, name_wanted,
		                "where= is tty, none, file:PATH or unix:PATH, the path of at most "
		                "255 bytes, of a socket 107");
	return 0;
}

/* A kind of device, then its keys. */
static int set_device(struct options *o, const struct option_def *d, const char *arg)
{
	struct device_arg a = {0};
	size_t len = strcspn(arg, ",");
	unsigned kind = 0;
	char *copy;
	int err;

	while (kind < NR_VM_DEVICES && (strlen(device_table[kind].name) != len ||
	                                strncmp(arg, device_table[kind].name, len)))
		kind++;
	if (kind == NR_VM_DEVICES)
		return bad_value(d, arg,
		                 "no such device; there are rng, balloon, console and port");
	a.device = device_table[kind].defaults;
	if (keyval_parse(&device_table[kind].def, arg, &a, &copy) < 0)
		return -1;
	err = kind == VM_DEVICE_CONSOLE || kind == VM_DEVICE_PORT
	              ? set_port(arg, &a, kind == VM_DEVICE_PORT)
	              : 0;
	free(copy);
	if (err)
		return err;
	if (o->nr_devices == VM_MAX_DEVICES)
		return bad_value(d, arg, "that is one more device than there are PCI slots");
	a.device.kind = kind;
	o->device[o->nr_devices++] = a.device;
	return 0;
}

static int set_share(struct options *o, const struct option_def *d, const char *arg)
{
	if (o->nr_shares == VM_MAX_SHARES)
		return bad_value(d, arg, "at most 16 folders can be shared");
	if (share_parse(&o->share[o->nr_shares], arg, o->share, o->nr_shares) < 0)
		return -1;
	o->nr_shares++;
	return 0;
}

static int set_name(struct options *o, const struct option_def *d, const char *arg)
{
	size_t n = strspn(arg, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
	                       "0123456789._-");

	if (!n || arg[n] || n > 63)
		return bad_value(d, arg,
		                 "a name is 1 to 63 letters, digits, dots, dashes, underscores");
	o->name = arg;
	o->named = true;
	return 0;
}

static int set_net(struct options *o, const struct option_def *d, const char *arg)
{
	if (o->nr_nets == NET_MAX_NICS)
		return bad_value(d, arg, "there are 8 network cards already, which is all");
	_Static_assert(NET_MAX_NICS == 8, "the text above");
	if (net_option_parse(&o->net[o->nr_nets], arg) < 0)
		return -1;
	o->nr_nets++;
	return 0;
}

struct vsock_arg {
	u64 cid;
	const char *path;
};

static int set_vsock(struct options *o, const struct option_def *d, const char *arg)
{
	static const struct keyval_key keys[] = {
		{"cid", KEYVAL_NUMBER, offsetof(struct vsock_arg, cid), VSOCK_CID_MIN, 0xfffffffe},
		{"path", KEYVAL_STRING, offsetof(struct vsock_arg, path)},
	};
	static const struct keyval_def def = {
		.option = "--vsock",
		.example = "--vsock cid=3,path=/tmp/vm.sock",
		.keys = keys,
		.nr_keys = ARRAY_SIZE(keys),
	};
	struct vsock_arg a = {0};
	char *copy;
	int n;

	if (keyval_parse(&def, arg, &a, &copy) < 0)
		return -1;
	if (!a.cid || !a.path) {
		free(copy);
		return bad_value(d, arg,
		                 "cid= (a number from 3) and path= (of a socket) are wanted");
	}
	n = snprintf(o->vsock_path, sizeof(o->vsock_path), "%s", a.path);
	free(copy);
	if (n >= (int)sizeof(o->vsock_path))
		return bad_value(
			d, arg,
			"the path of a socket that ports are added to has at most 95 bytes");
	o->vsock_cid = (u32)a.cid;
	return 0;
}

static int set_help(struct options *o, const struct option_def *d, const char *arg)
{
	o->command = CMD_HELP;
	if (!o->help_topic)
		o->help_topic = "run";
	return 0;
}

/* ---- the table ---- */

#define OFF(field) offsetof(struct options, field)

/* name, short name, argument, help, setter, field, example */
#define OPTION(n, s, a, help, set, off, example)                                                   \
	{                                                                                          \
		{n, s, a, help}, set, off, example, false                                          \
	}

static const struct option_def option_table[] = {
	OPTION("--kernel", NULL, "FILE", "bzImage, ELF vmlinux (PVH) or multiboot kernel", set_path,
               OFF(kernel), "/boot/vmlinuz"),
	OPTION("--firmware", NULL, "FILE",
               "BIOS image in place of a kernel: a file, or a name in /usr/share/seabios", set_path,
               OFF(firmware), "bios-256k.bin"),
	OPTION("--initrd", NULL, "FILE", "initial RAM disk", set_path, OFF(initrd),
               "initramfs.cpio"),
	OPTION("--cmdline", NULL, "TEXT", "kernel command line (default: console=ttyS0)",
               set_string, OFF(cmdline), "\"console=ttyS0 panic=-1\""),
	OPTION("--memory", "-m", "SIZE", "RAM, in MiB or with K, M, G, T (default: 512M)",
               set_memory, 0, "512M"),
	OPTION("--cpus", "-c", "N", "virtual CPUs, 1 to 64 (default: 1)", set_cpus, 0, "2"),
	OPTION("--engine", NULL, "ENGINE", "auto, kvm, bt or interp (default: auto)", set_engine, 0,
               "interp"),
	OPTION("--console", NULL, "WHERE", "serial console: tty, file:PATH or none (default: tty)",
               set_console, 0, "file:console.log"),
	OPTION("--device", NULL, "KIND",
               "virtio device: rng, balloon, console or port; several times", set_device, 0, "rng"),
	OPTION("--disk", NULL, "DISK",
               "disk: file, device, nbd://HOST/NAME or ram:SIZE, with settings (ringer(1))",
               set_disk, 0, "disk.qcow2"),
	OPTION("--share", NULL, "TAG=DIR", "let the guest mount a folder (,ro: read-only)",
               set_share, 0, "src=/home/me/src,ro"),
	OPTION("--name", NULL, "NAME", "name of the virtual machine, in messages and in ps",
               set_name, 0, "web-1"),
	OPTION("--net", NULL, "NET",
               "network card: user, tap=NAME, fd=N or switch=NAME (ringer(1))", set_net, 0,
               "user,hostfwd=tcp:2222:22"),
	OPTION("--vsock", NULL, "cid=N,path=FILE",
               "virtio sockets, on the host as unix sockets at FILE", set_vsock, 0,
               "cid=3,path=/tmp/vm.sock"),
	OPTION("--no-reboot", NULL, NULL, "end with code 32 when the guest resets", set_flag,
               OFF(no_reboot), NULL),
	OPTION("--gdb", NULL, "WHERE", "serve gdb on a local TCP port or unix:PATH[,wait]", set_gdb,
               0, "1234"),
	{{"--lockstep", NULL, "[=N]", "hold each step of the engine against interp (N million)"},
         set_lockstep,
         0,
         "--lockstep=20",
         true},
	OPTION("--trace", "-d", "LIST", "trace in_asm,int,mmu,irq,io,exec,msr", set_trace, 0,
               "int,mmu"),
	OPTION("--trace-file", "-D", "FILE", "traces go there instead of stderr", set_path,
               OFF(trace_path), "trace.log"),
	OPTION("--exit-stats", NULL, NULL, "count and time exits by reason; printed at the end",
               set_flag, OFF(exit_stats), NULL),
	OPTION("--debugcon", NULL, "WHERE", "what is written to port 0xe9: file:PATH or stdio",
               set_debugcon, 0, "file:debug.log"),
	OPTION("--debug-exit", NULL, "PORT", "a write of V to this I/O port ends with code 2V+1",
               set_debug_exit, 0, "0xf4"),
	OPTION("--testdev", NULL, NULL, "the test device of kvm-unit-tests", set_flag, OFF(testdev),
               NULL),
	OPTION("--no-sandbox", NULL, NULL, "keep all system calls (to debug ringer itself)",
               set_no_sandbox, 0, NULL),
	OPTION("--quiet", "-q", NULL, "only warnings and errors", set_flag, OFF(quiet), NULL),
	OPTION("--verbose", "-v", NULL, "say more about what is done", set_flag, OFF(verbose),
               NULL),
	OPTION("--help", "-h", NULL, "this text", set_help, 0, NULL),
};

const struct option_help *options_help(unsigned i)
{
	return i < ARRAY_SIZE(option_table) ? &option_table[i].h : NULL;
}

static const struct engine_name engine_names[] = {
	{"kvm", "hardware virtualization by the host's KVM"},
	{"bt", "binary translation, for hosts without hardware virtualization"},
	{"interp", "reference interpreter: exact, slow"},
};

const struct engine_name *options_engine(unsigned i)
{
	return i < ARRAY_SIZE(engine_names) ? &engine_names[i] : NULL;
}

static const struct {
	const char *name;
	enum command command;
} command_table[] = {
	{"run", CMD_RUN},
	{"version", CMD_VERSION},
	{"help", CMD_HELP},
	{"engines", CMD_ENGINES},
};

/* ---- suggestions ---- */

#define WORD_MAX 24

/* Levenshtein's edit distance of two short words; a large number when one is too long. */
static unsigned edit_distance(const char *a, const char *b)
{
	unsigned row[WORD_MAX + 1];
	size_t n = strlen(a), m = strlen(b);

	if (n > WORD_MAX || m > WORD_MAX)
		return 1000;
	for (size_t j = 0; j <= m; j++)
		row[j] = (unsigned)j;
	for (size_t i = 1; i <= n; i++) {
		unsigned diag = row[0];

		row[0] = (unsigned)i;
		for (size_t j = 1; j <= m; j++) {
			unsigned up = row[j];
			unsigned best = diag + (a[i - 1] != b[j - 1]);

			best = MIN(best, up + 1);
			best = MIN(best, row[j - 1] + 1);
			row[j] = best;
			diag = up;
		}
	}
	return row[m];
}

/* Keep `candidate` if it is nearer to `word` than what is there. */
static void nearer(const char *word, const char *candidate, const char **best, unsigned *dist)
{
	unsigned d = edit_distance(word, candidate);

	if (d < *dist) {
		*dist = d;
		*best = candidate;
	}
}

/* What users of other programs type. */
static const struct {
	const char *theirs, *ours;
} foreign_options[] = {
	{"append", "--cmdline"},   {"params", "--cmdline"},
	{"smp", "--cpus"},         {"mem", "--memory"},
	{"initramfs", "--initrd"}, {"accel", "--engine"},
	{"serial", "--console"},   {"s", "--gdb"},
	{"drive", "--disk"},       {"hda", "--disk"},
	{"nic", "--net"},          {"netdev", "--net"},
};

static int unknown_option(const char *word)
{
	char name[64];
	const char *best = NULL;
	unsigned dist;

	snprintf(name, sizeof(name), "%.*s", (int)strcspn(word, "="), word);
	/* A third of the letters may be wrong. */
	dist = 2 + (unsigned)strlen(name) / 4;
	for (size_t i = 0; i < ARRAY_SIZE(option_table); i++)
		nearer(name, option_table[i].h.name, &best, &dist);
	for (size_t i = 0; i < ARRAY_SIZE(foreign_options); i++)
		if (!strcmp(name + strspn(name, "-"), foreign_options[i].theirs))
			best = foreign_options[i].ours;
	if (best)
		log_error("%s: unknown option; did you mean %s? \"ringer help run\" lists all",
		          name, best);
	else
		log_error("%s: unknown option; \"ringer help run\" lists all", name);
	return VM_EXIT_USAGE;
}

static int unknown_command(const char *word)
{
	const char *best = NULL;
	unsigned dist = 3;

	for (size_t i = 0; i < ARRAY_SIZE(command_table); i++)
		nearer(word, command_table[i].name, &best, &dist);
	if (best)
		log_error("%s: unknown command; did you mean \"ringer %s\"?", word, best);
	else
		log_error("%s: unknown command; there are run, engines, version and help", word);
	return VM_EXIT_USAGE;
}

/* ---- parsing ---- */

/* The option that `word` names, and its argument if it is part of the word ("--memory=1G", "-m1G"),
 * else *arg is NULL. */
static const struct option_def *find_option(const char *word, const char **arg)
{
	*arg = NULL;
	for (size_t i = 0; i < ARRAY_SIZE(option_table); i++) {
		const struct option_def *d = &option_table[i];
		size_t n = strlen(d->h.name);

		if (!strncmp(word, d->h.name, n) && (!word[n] || word[n] == '=')) {
			*arg = word[n] ? word + n + 1 : NULL;
			return d;
		}
		if (d->h.short_name && !strcmp(word, d->h.short_name))
			return d;
	}
	/* A short option with its number or size attached. */
	for (size_t i = 0; i < ARRAY_SIZE(option_table); i++) {
		const struct option_def *d = &option_table[i];

		if (d->h.short_name && d->h.arg && !strncmp(word, d->h.short_name, 2) &&
		    word[2] >= '0' && word[2] <= '9') {
			*arg = word + 2;
			return d;
		}
	}
	return NULL;
}

/* One at most is connected to the terminal. */
static bool terminals_ok(const struct options *o)
{
	unsigned n = o->console == CONSOLE_STDIO;

	for (unsigned i = 0; i < o->nr_devices; i++)
		n += o->device[i].where == CONSOLE_STDIO;
	if (n > 1)
		log_error("where=tty: the terminal belongs to one console; for example: --console "
		          "none "
		          "--device console,where=tty");
	return n <= 1;
}

static bool balloons_ok(const struct options *o)
{
	for (unsigned i = 0; i < o->nr_devices; i++)
		if (o->device[i].amount >= o->ram_size) {
			log_error("--device balloon,amount=%lluM: the guest has %lluM (-m), and "
			          "needs some of it; for example: --device balloon,amount=%lluM",
			          (unsigned long long)(o->device[i].amount / MiB),
			          (unsigned long long)(o->ram_size / MiB),
			          (unsigned long long)(o->ram_size / 2 / MiB));
			return false;
		}
	return true;
}

static int parse_run(struct options *o, int argc, char **argv)
{
	for (int i = 0; i < argc; i++) {
		const struct option_def *d;
		const char *arg;

		if (argv[i][0] != '-' || !argv[i][1]) {
			log_error("%s: \"ringer run\" takes options only; for example: ringer run "
			          "--kernel %s",
			          *argv[i] ? argv[i] : "\"\"", *argv[i] ? argv[i] : "FILE");
			return VM_EXIT_USAGE;
		}
		d = find_option(argv[i], &arg);
		if (!d)
			return unknown_option(argv[i]);
		if (!d->h.arg && arg) {
			log_error("%s: this option takes no argument; for example: ringer run %s",
			          argv[i], d->h.name);
			return VM_EXIT_USAGE;
		}
		if (d->h.arg && !arg && !d->may_lack) {
			if (i + 1 == argc) {
				log_error("%s: an argument is missing: %s; for example: %s %s",
				          argv[i], d->h.arg, argv[i], d->example);
				return VM_EXIT_USAGE;
			}
			arg = argv[++i];
		}
		if (d->set(o, d, arg) < 0)
			return VM_EXIT_USAGE;
		if (o->command != CMD_RUN)
			return 0;
	}
	if (o->firmware && (o->kernel || o->initrd || o->cmdline)) {
		log_error("--firmware starts what it finds on a disk: it takes no --kernel, "
		          "--initrd or "
		          "--cmdline; leave out one side");
		return VM_EXIT_USAGE;
	}
	if (o->quiet && o->verbose) {
		log_error("--quiet and --verbose exclude each other; give one of them");
		return VM_EXIT_USAGE;
	}
	if (!terminals_ok(o) || !balloons_ok(o))
		return VM_EXIT_USAGE;
	if (o->trace_path && !o->trace_mask) {
		log_error("-D %s: nothing is traced; add categories, for example: -d int -D %s",
		          o->trace_path, o->trace_path);
		return VM_EXIT_USAGE;
	}
	return 0;
}

int options_parse(struct options *o, int argc, char **argv)
{
	const char *word = argc > 1 ? argv[1] : NULL;

	memset(o, 0, sizeof(*o));
	o->name = "vm";
	o->ram_size = VM_RAM_DEFAULT;
	o->nr_vcpus = 1;
	o->engine = "auto";
	o->console = CONSOLE_STDIO;
	o->debug_exit_port = -1;
	o->gdb_port = -1;
	o->sandbox = true;

	if (!word) {
		log_error("a command is missing; for example: ringer run, or: ringer help");
		return VM_EXIT_USAGE;
	}
	if (!strcmp(word, "--help") || !strcmp(word, "-h"))
		word = "help";
	if (!strcmp(word, "--version") || !strcmp(word, "-V"))
		word = "version";
	for (size_t i = 0; i < ARRAY_SIZE(command_table); i++) {
		if (strcmp(word, command_table[i].name))
			continue;
		o->command = command_table[i].command;
		if (o->command == CMD_RUN)
			return parse_run(o, argc - 2, argv + 2);
		if (argc > 2 && (!strcmp(argv[2], "--help") || !strcmp(argv[2], "-h"))) {
			o->command = CMD_HELP;
			o->help_topic = word;
			return 0;
		}
		if (o->command == CMD_HELP && argc == 3) {
			o->help_topic = argv[2];
			return 0;
		}
		if (argc > 2) {
			log_error("%s: \"ringer %s\" takes no more arguments; just: ringer %s",
			          argv[o->command == CMD_HELP ? 3 : 2], word, word);
			return VM_EXIT_USAGE;
		}
		return 0;
	}
	if (word[0] == '-') {
		const char *arg;

		if (!find_option(word, &arg))
			return unknown_option(word);
		log_error("%s: the command is missing before it; for example: ringer run %s", word,
		          word);
		return VM_EXIT_USAGE;
	}
	return unknown_command(word);
}
