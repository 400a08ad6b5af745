/* SPDX-License-Identifier: MIT */
/* The outside end of a character device: a terminal or pipe (two descriptors), a file (output
 * only), or nothing.
 *
 * Output never blocks a vCPU: it is written at once as long as the descriptor takes it; after that
 * up to CONSOLE_OUT_SIZE bytes wait here for POLLOUT; after that the device keeps what it has (a
 * UART's transmitter stays full), and the guest waits as it would for a slow line. An output that
 * is gone (EPIPE) or full (ENOSPC) is reported once and then swallowed.
 *
 * Input waits here, up to CONSOLE_IN_SIZE bytes, until the device takes it. Beyond that a pipe is
 * not read; a terminal is, because the escape key must always work, and what does not fit is lost.
 * At its end (EOF) the input is no longer watched; the guest goes on.
 *
 * Escape: on a terminal in raw mode Ctrl-] and a key is a command to the VMM: see console.c's
 * help text. `h`, `?` and Ctrl-] are served here, all others by `command`.
 *
 * Threading: with the machine lock held (loop callbacks are). `command` runs on the loop's thread.
 */
#pragma once

#include <stdio.h>

#include "bus/loop.h"
#include "dev/chardev.h"

#define CONSOLE_OUT_SIZE   (64 * 1024)
#define CONSOLE_IN_SIZE    (16 * 1024)
#define CONSOLE_ESCAPE_KEY 0x1d /* Ctrl-] */

struct console_escape {
	/* q quit, p power button, s pause or resume, r registers, i statistics and devices.
	 * false: no such command. */
	bool (*command)(void *arg, char key);
	void *arg;
};

struct console_config {
	int in_fd, out_fd;                   /* duplicated; -1: none */
	const struct console_escape *escape; /* NULL: every byte goes to the guest */
};

/* A file: in_fd = -1. Output to nowhere and no input: both -1. 0 or -errno (logged). */
int console_create(struct chardev **out, struct loop *loop, const struct console_config *cfg);
/* stdin and stdout. When stdin is a terminal it is set raw (io/tty.h), and `escape`, which may be
 * NULL, is in force; else every byte of it goes to the guest. */
int console_create_stdio(struct chardev **out, struct loop *loop,
                         const struct console_escape *escape);
/* Text for the user (menu, registers): between the guest's output when that goes to a terminal,
 * else on stderr; line ends become right for a raw terminal. `c` must come from console_create*().
 */
void console_print(struct chardev *c, const char *text);
