// SPDX-License-Identifier: MIT
/* Lengths come before the content in AML and are themselves of 1 to 4 bytes, so a term is written
 * without one and moved up by as many bytes as its PkgLength needs when it is closed. */
#include "boot/aml.h"

#include <string.h>

enum {
	ZERO_OP = 0x00,
	ONE_OP = 0x01,
	NAME_OP = 0x08,
	BYTE_PREFIX = 0x0a,
	WORD_PREFIX = 0x0b,
	DWORD_PREFIX = 0x0c,
	STRING_PREFIX = 0x0d,
	QWORD_PREFIX = 0x0e,
	SCOPE_OP = 0x10,
	BUFFER_OP = 0x11,
	PACKAGE_OP = 0x12,
	METHOD_OP = 0x14,
	DUAL_NAME_PREFIX = 0x2e,
	MULTI_NAME_PREFIX = 0x2f,
	EXT_OP_PREFIX = 0x5b,
	DEVICE_OP = 0x82, /* behind EXT_OP_PREFIX */
};

/* Small resource items: tag << 3 | length. */
enum { IRQ_ITEM = 0x22, IO_ITEM = 0x47, END_ITEM = 0x79 };
#define IO_DECODE16 1

/* 6.4.3.5: address space descriptors. */
enum { MEMORY32_FIXED = 0x86, DWORD_SPACE = 0x87, WORD_SPACE = 0x88, QWORD_SPACE = 0x8a };
enum { SPACE_MEMORY, SPACE_IO, SPACE_BUS };
#define SPACE_FIXED 0x0c /* the bridge decodes from min to max, and nothing moves them */
#define MEMORY_RW   0x01
#define IO_ALL      0x03 /* ISA and other ports */

void aml_init(struct aml *a, u8 *buf, size_t size)
{
	memset(a, 0, sizeof(*a));
	a->buf = buf;
	a->size = size;
}

bool aml_ok(const struct aml *a)
{
	return !a->overflow && !a->depth;
}

static void put(struct aml *a, const void *bytes, size_t n)
{
	if (a->overflow || n > a->size - a->len) {
		a->overflow = true;
		return;
	}
	memcpy(a->buf + a->len, bytes, n);
	a->len += n;
}

static void put_byte(struct aml *a, u8 b)
{
	put(a, &b, 1);
}

static void open_term(struct aml *a)
{
	if (a->depth == AML_MAX_DEPTH) {
		a->overflow = true;
		return;
	}
	a->open[a->depth++] = a->len;
}

/* 20.2.4: PkgLength counts itself. One byte holds 6 bits; of several, the first holds the number of
 * bytes that follow and 4 bits. */
void aml_close(struct aml *a)
{
	u8 bytes[4];
	size_t start, content, n = 1, total;

	if (a->overflow || !a->depth) {
		a->overflow = true;
		return;
	}
	start = a->open[--a->depth];
	content = a->len - start;
	if (content + 1 >= 1u << 6)
		n = content + 2 < 1u << 12 ? 2 : content + 3 < 1u << 20 ? 3 : 4;
	total = content + n;
	if (n == 1) {
		bytes[0] = (u8)total;
	} else {
		bytes[0] = (u8)((n - 1) << 6 | (total & 0xf));
		for (size_t i = 1; i < n; i++)
			bytes[i] = (u8)(total >> (4 + 8 * (i - 1)));
	}
	put(a, bytes, n); /* makes room, or overflows */
	if (a->overflow)
		return;
	memmove(a->buf + start + n, a->buf + start, content);
	memcpy(a->buf + start, bytes, n);
}

/* 20.2.2: segments are padded to four characters with '_'. */
static void put_path(struct aml *a, const char *path)
{
	unsigned segments = 1;

	if (*path == '\\')
		put_byte(a, (u8)*path++);
	if (!*path) {
		put_byte(a, 0); /* NullName: the root itself */
		return;
	}
	for (const char *p = path; *p; p++)
		segments += *p == '.';
	if (segments == 2) {
		put_byte(a, DUAL_NAME_PREFIX);
	} else if (segments > 2) {
		put_byte(a, MULTI_NAME_PREFIX);
		put_byte(a, (u8)segments);
	}
	while (*path) {
		char seg[4] = {'_', '_', '_', '_'};

		for (unsigned i = 0; *path && *path != '.'; path++, i++)
			if (i < 4)
				seg[i] = *path;
		put(a, seg, 4);
		if (*path == '.')
			path++;
	}
}

void aml_scope(struct aml *a, const char *path)
{
	put_byte(a, SCOPE_OP);
	open_term(a);
	put_path(a, path);
}

void aml_device(struct aml *a, const char *name)
{
	put_byte(a, EXT_OP_PREFIX);
	put_byte(a, DEVICE_OP);
	open_term(a);
	put_path(a, name);
}

void aml_name(struct aml *a, const char *name)
{
	put_byte(a, NAME_OP);
	put_path(a, name);
}

void aml_package(struct aml *a, u8 nr_elements)
{
	put_byte(a, PACKAGE_OP);
	open_term(a);
	put_byte(a, nr_elements);
}

void aml_integer(struct aml *a, u64 value)
{
	if (value <= 1) {
		put_byte(a, value ? ONE_OP : ZERO_OP);
	} else if (value <= 0xff) {
		put_byte(a, BYTE_PREFIX);
		put(a, &value, 1);
	} else if (value <= 0xffff) {
		put_byte(a, WORD_PREFIX);
		put(a, &value, 2);
	} else if (value <= 0xffffffff) {
		put_byte(a, DWORD_PREFIX);
		put(a, &value, 4);
	} else {
		put_byte(a, QWORD_PREFIX);
		put(a, &value, 8);
	}
}

void aml_string(struct aml *a, const char *s)
{
	put_byte(a, STRING_PREFIX);
	put(a, s, strlen(s) + 1);
}

static u32 hex(char c)
{
	return (u32)(c <= '9' ? c - '0' : c - 'A' + 10);
}

/* 19.3.4: five bits a letter, four a digit, the bytes swapped. */
void aml_eisaid(struct aml *a, const char *id)
{
	u32 v = (u32)(id[0] - 0x40) << 26 | (u32)(id[1] - 0x40) << 21 | (u32)(id[2] - 0x40) << 16 |
	        hex(id[3]) << 12 | hex(id[4]) << 8 | hex(id[5]) << 4 | hex(id[6]);

	v = __builtin_bswap32(v);
	put_byte(a, DWORD_PREFIX);
	put(a, &v, 4);
}

/* The buffer's length comes behind PkgLength and before the bytes: one byte is kept for it. */
void aml_crs_open(struct aml *a)
{
	aml_name(a, "_CRS");
	put_byte(a, BUFFER_OP);
	open_term(a);
	put_byte(a, BYTE_PREFIX);
	put_byte(a, 0);
}

void aml_crs_io(struct aml *a, u16 port, u8 length)
{
	u8 item[8] = {IO_ITEM, IO_DECODE16, [6] = 1 /* alignment */, [7] = length};

	put_le16(item + 2, port); /* lowest and highest base */
	put_le16(item + 4, port);
	put(a, item, sizeof(item));
}

void aml_crs_irq(struct aml *a, u8 irq)
{
	u8 item[3] = {IRQ_ITEM};

	put_le16(item + 1, (u16)(1u << irq));
	put(a, item, sizeof(item));
}

/* `width` bytes for each of granularity, minimum, maximum, translation, length. */
static void put_space(struct aml *a, u8 tag, u8 kind, u8 flags, unsigned width, u64 min, u64 max)
{
	const u64 field[5] = {0, min, max, 0, max - min + 1};
	const u8 head[6] = {tag, (u8)(3 + 5 * width), 0, kind, SPACE_FIXED, flags};

	put(a, head, sizeof(head));
	for (unsigned i = 0; i < ARRAY_SIZE(field); i++)
		put(a, &field[i], width);
}

void aml_crs_bus(struct aml *a, u8 min, u8 max)
{
	put_space(a, WORD_SPACE, SPACE_BUS, 0, 2, min, max);
}

void aml_crs_io_window(struct aml *a, u16 min, u16 max)
{
	put_space(a, WORD_SPACE, SPACE_IO, IO_ALL, 2, min, max);
}

void aml_crs_memory_window(struct aml *a, u64 base, u64 length)
{
	bool wide = base + length > 4 * GiB;

	put_space(a, wide ? QWORD_SPACE : DWORD_SPACE, SPACE_MEMORY, MEMORY_RW, wide ? 8 : 4, base,
	          base + length - 1);
}

void aml_crs_memory(struct aml *a, u32 base, u32 length)
{
	u8 item[12] = {MEMORY32_FIXED, 9, 0, MEMORY_RW};

	put_le32(item + 4, base);
	put_le32(item + 8, length);
	put(a, item, sizeof(item));
}

void aml_open(struct aml *a, u8 opcode)
{
	put_byte(a, opcode);
	open_term(a);
}

void aml_bytes(struct aml *a, const void *bytes, size_t n)
{
	put(a, bytes, n);
}

void aml_method(struct aml *a, const char *name, u8 nr_args)
{
	aml_open(a, METHOD_OP);
	put_path(a, name);
	put_byte(a, nr_args);
}

void aml_crs_close(struct aml *a)
{
	u8 end[2] = {END_ITEM, 0}; /* checksum 0: not checked */
	size_t start;

	put(a, end, sizeof(end));
	if (a->overflow || !a->depth)
		return;
	start = a->open[a->depth - 1];
	if (a->len - start - 2 > 0xff)
		a->overflow = true;
	else
		a->buf[start + 1] = (u8)(a->len - start - 2);
	aml_close(a);
}
