/* SPDX-License-Identifier: MIT */
/* A 16550A UART (National Semiconductor PC16550D), as COM1..COM4 of a PC.
 * Threading: the machine lock. The chardev is borrowed and must outlive the device. */
#pragma once

#include "bus/dev.h"
#include "dev/chardev.h"

struct serial;

struct serial_config {
	u16 iobase;           /* 0: COM1's 0x3f8; occupies 8 ports */
	u8 irq;               /* 0: COM1's 4 */
	struct chardev *back; /* NULL: nothing connected, output swallowed */
};

#define SERIAL_COM1_PORT 0x3f8
#define SERIAL_COM1_IRQ  4
#define SERIAL_COM2_PORT 0x2f8
#define SERIAL_COM2_IRQ  3

/* 0 or -errno (logged). */
int serial_create(struct serial **out, const struct dev_env *env, const struct serial_config *cfg);
