/* SPDX-License-Identifier: MIT */
/* The command line as data. Parsing opens nothing and changes nothing: whatever is wrong is
 * said in one line on stderr before anything exists. Main thread, at start. */
#pragma once

#include "cli/share.h"
#include "io/net.h"
#include "io/vsock.h"
#include "machine/config.h"

enum command {
	CMD_RUN,
	CMD_VERSION,
	CMD_HELP,
	CMD_ENGINES,
};

struct options {
	enum command command;
	const char *help_topic; /* CMD_HELP: NULL is the overview */

	const char *name;
	bool named;                                       /* by the user */
	const char *kernel, *initrd, *cmdline, *firmware; /* NULL: not given */
	u64 ram_size;
	unsigned nr_vcpus;
	const char *engine; /* "auto" or an engine's name, known but perhaps not built */
	enum console_kind console;
	const char *console_path;  /* CONSOLE_FILE */
	const char *debugcon_path; /* "" is stdout, NULL none */
	int debug_exit_port;       /* -1: none */
	bool testdev;
	bool no_reboot;
	bool exit_stats;
	bool sandbox;
	bool quiet, verbose;
	u32 trace_mask;
	const char *trace_path; /* NULL: stderr */
	int gdb_port;           /* TCP on the loopback address; -1: none */
	const char *gdb_path;   /* Unix socket, in gdb_path_buf; NULL: none */
	char gdb_path_buf[108];
	bool gdb_wait; /* the guest starts when gdb says so */
	bool lockstep; /* control/lockstep.h */
	u64 lockstep_insns, lockstep_break;
	bool lockstep_exact;

	struct vm_disk disk[VM_MAX_DISKS];
	unsigned nr_disks;
	char *disk_text[VM_MAX_DISKS]; /* what their strings point into */
	struct vm_device device[VM_MAX_DEVICES];
	unsigned nr_devices;
	unsigned nr_nets; /* network cards */
	struct net_config net[NET_MAX_NICS];
	struct share_option share[VM_MAX_SHARES];
	unsigned nr_shares;
	u32 vsock_cid; /* 0: no vsock device */
	char vsock_path[VSOCK_PATH_LEN];
};

/* 0, or VM_EXIT_USAGE with one line logged. The strings point into argv. */
int options_parse(struct options *o, int argc, char **argv);
void options_free(struct options *o); /* parsed or not */

/* "512M", "2G", "64" (MiB): bytes. 0, or -1: not a size. Values over 2^63 are not sizes. */
int options_parse_size(const char *s, u64 *bytes);

/* One option as the help shows it; NULL past the last. */
struct option_help {
	const char *name;       /* "--kernel" */
	const char *short_name; /* "-m" or NULL */
	const char *arg;        /* "FILE" or NULL */
	const char *help;
};
const struct option_help *options_help(unsigned i);

/* The engines that any ringer has, built into this one or not. */
struct engine_name {
	const char *name;
	const char *summary;
};
const struct engine_name *options_engine(unsigned i); /* NULL past the last */
