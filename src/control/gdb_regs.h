/* SPDX-License-Identifier: MIT */
/* The registers that gdb sees, in its order, and the target description that names them.
 * Stateless; the vCPU must be parked. */
#pragma once

#include "cpu/x86/x86.h"

/* Number of registers; register n's size in bytes. */
unsigned gdb_nr_regs(void);
unsigned gdb_reg_size(unsigned n);
/* Copy register n out of, into the CPU. buf has room for 16 bytes. false: no such register, or it
 * can't be set (its value would not be one the CPU can hold). */
bool gdb_reg_get(struct x86_cpu *c, unsigned n, u8 *buf);
bool gdb_reg_set(struct x86_cpu *c, unsigned n, const u8 *buf);
/* target.xml, generated once into buf; length, or 0 when it does not fit. */
size_t gdb_target_xml(char *buf, size_t size);
