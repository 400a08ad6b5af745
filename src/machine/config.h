/* SPDX-License-Identifier: MIT */
/* What a virtual machine is made of, as the command line (later the control socket) asks
 * for it. The strings and descriptors belong to the caller and outlive the machine. Only
 * set-up reads it. */
#pragma once

#include "base/log.h"
#include "base/types.h"
#include "io/disk.h"

struct vm;
struct engine_ops;
struct console_escape;
struct chardev;
struct net_config;

enum console_kind {
	CONSOLE_NONE,  /* output thrown away, no input */
	CONSOLE_STDIO, /* stdin and stdout; raw mode and the escape menu when they are terminals */
	CONSOLE_FILE,  /* output to a file, no input */
	CONSOLE_UNIX,  /* a Unix socket that clients connect to; not for COM1 */
};

/* Devices without a back end on the host (--device). */
enum vm_device_kind {
	VM_DEVICE_RNG,
	VM_DEVICE_BALLOON,
	VM_DEVICE_CONSOLE, /* a console port; all ports are of one virtio console device */
	VM_DEVICE_PORT,    /* a named port */
	NR_VM_DEVICES
};

#define VM_PATH_MAX 255

struct vm_device {
	enum vm_device_kind kind;
	bool packed; /* offer packed rings */

	/* balloon */
	u64 amount; /* bytes to take at first */
	bool deflate_on_oom, reporting;

	/* console, port */
	char name[32];
	enum console_kind where;
	char path[VM_PATH_MAX + 1]; /* CONSOLE_FILE, CONSOLE_UNIX */
};

/* A virtual disk (--disk). */
struct vm_disk {
	struct disk_config image;
	const char *serial; /* NULL: "diskN" */
	unsigned queues;
	bool packed;
	bool stop_on_error; /* pause the VM when the host fails; else the guest gets the error */
};

#define VM_MAX_DISKS   24
#define VM_MAX_DEVICES 31 /* PCI slots */

/* A folder of the host that the guest may mount. */
struct vm_share {
	const char *tag; /* 1 to 36 bytes */
	int dir_fd;
	bool read_only;
	bool host_locks; /* locks are the host's, seen by others */
};

#define VM_MAX_SHARES 16

struct vm_config {
	const char *name;     /* for messages; never NULL */
	const char *kernel;   /* path; NULL with firmware */
	const char *firmware; /* path of a BIOS image, or NULL */
	const char *initrd;   /* path or NULL */
	const char *cmdline;  /* never NULL, may be "" */
	u64 ram_size;         /* bytes, a multiple of 2 MiB */
	unsigned nr_vcpus;    /* 1 .. VM_MAX_VCPUS */
	const struct engine_ops *engine;

	enum console_kind console;           /* what COM1 is connected to */
	int console_fd;                      /* CONSOLE_FILE: open for writing; else -1 */
	const struct console_escape *escape; /* the console's menu (io/console.h), or NULL */
	int debugcon_fd;                     /* port 0xe9's output; -1: no such port */
	int debug_exit_port; /* -1: none; a write of v ends the VM with code (v << 1) | 1 */
	bool testdev;        /* kvm-unit-tests' device */
	bool no_reboot;      /* a reset ends the VM with code 32 */
	bool timed_exits;    /* time every exit, not only count it */
	unsigned nr_nets;    /* network cards (io/net.h), each with its MAC address */
	const struct net_config *net;
	u32 vsock_cid;          /* 0: no vsock device */
	const char *vsock_path; /* io/vsock.h */
	struct trace trace;

	const struct vm_disk *disk;
	unsigned nr_disks;
	const struct vm_device *device;
	unsigned nr_devices;
	const struct vm_share *share;
	unsigned nr_shares;
};

#define VM_RAM_MIN     (2 * MiB)
#define VM_RAM_MAX     (1024 * GiB)
#define VM_RAM_DEFAULT (512 * MiB)

/* Make the machine: `vm` is zeroed; on success it is ready for vm_run(). 0, or the exit code of the
 * program (VM_EXIT_USAGE when the files or the configuration are at fault, VM_EXIT_HOST) with
 * the reason logged; then nothing is left to undo. */
int pc_create(struct vm *vm, const struct vm_config *cfg);
void pc_destroy(struct vm *vm);

/* For the menu; with the machine lock held. The console is never NULL. */
struct chardev *pc_console(const struct vm *vm);
/* False: the guest does not listen to its power button. */
bool pc_power_button(struct vm *vm);
/* Change the balloon's size by `bytes`; *now is what it is to be. False: there is no balloon. */
bool pc_balloon(struct vm *vm, s64 bytes, u64 *now);

/* The engines in this build, NULL-terminated, best first (machine/engines.c). */
extern const struct engine_ops *const engines[];
