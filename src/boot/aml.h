/* SPDX-License-Identifier: MIT */
/* A writer of ACPI machine language: ACPI 6.5, section 20 (AML) and 6.4 (resource descriptors).
 *
 * Terms are appended to a buffer. Those with a length (scopes, devices, packages, buffers) are
 * opened and closed; closing inserts the PkgLength. An overflow is sticky and seen in aml_ok(). Not
 * thread-safe; the buffer belongs to the caller. */
#pragma once

#include "base/types.h"

#define AML_MAX_DEPTH 8

struct aml {
	u8 *buf;
	size_t len, size;
	bool overflow;
	unsigned depth;
	size_t open[AML_MAX_DEPTH]; /* where the content of each open term starts */
};

void aml_init(struct aml *a, u8 *buf, size_t size);
/* All that was written fits, and every term is closed. */
bool aml_ok(const struct aml *a);

/* A name path as in ASL, of absolute or relative segments of up to four characters:
 * "\\_SB", "COM1", "\\_SB.COM1". */
void aml_scope(struct aml *a, const char *path);
void aml_device(struct aml *a, const char *name);
/* Name (`name`, ...): the object follows. */
void aml_name(struct aml *a, const char *name);
void aml_package(struct aml *a, u8 nr_elements);
void aml_close(struct aml *a);

void aml_integer(struct aml *a, u64 value);
void aml_string(struct aml *a, const char *s);
/* EISAID ("PNP0501"): three capital letters, four hexadecimal digits. */
void aml_eisaid(struct aml *a, const char *id);

/* Name (_CRS, ResourceTemplate () { ... }): open, the descriptors, close. */
void aml_crs_open(struct aml *a);
void aml_crs_io(struct aml *a, u16 port, u8 length);
void aml_crs_irq(struct aml *a, u8 irq);         /* ISA: edge, active high, exclusive */
void aml_crs_bus(struct aml *a, u8 min, u8 max); /* bus numbers that a bridge passes on */
/* What a bridge passes on (produces): ports and memory, not cacheable. */
void aml_crs_io_window(struct aml *a, u16 min, u16 max);
void aml_crs_memory_window(struct aml *a, u64 base, u64 length);
void aml_crs_memory(struct aml *a, u32 base, u32 length); /* that a device occupies */
void aml_crs_close(struct aml *a);

/* For terms that have no function here: an opcode with a PkgLength (aml_close() ends it), and
 * bytes. */
void aml_open(struct aml *a, u8 opcode);
void aml_bytes(struct aml *a, const void *bytes, size_t n);
void aml_method(struct aml *a, const char *name, u8 nr_args);
