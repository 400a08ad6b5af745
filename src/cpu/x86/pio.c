// SPDX-License-Identifier: MIT
/* Port I/O: permission (SDM 1 19.5) and the access. */
#include "cpu/x86/inputs.h"
#include "cpu/x86/mmu.h"
#include "cpu/x86/x86.h"

#define TSS_IO_MAP_BASE 0x66 /* offset of the map's 16-bit offset in a 32- or 64-bit TSS */
#define TSS_MIN_LIMIT   0x67

/* Allowed by the I/O map of the task? Two bytes are always read, so both must be in the TSS. */
static bool io_map_allows(struct x86_cpu *c, u16 port, unsigned size)
{
	const struct x86_seg *tr = &c->tr;
	u32 type = tr->ar & (SEG_TYPE | SEG_S);
	u32 off, bits;

	if ((type != 9 && type != 11) || !(tr->ar & SEG_P) || (tr->ar & SEG_UNUSABLE) ||
	    tr->limit < TSS_MIN_LIMIT)
		return false;
	off = (u32)mmu_ld_sys(c, tr->base + TSS_IO_MAP_BASE, 2) + port / 8;
	if (off + 1 > tr->limit)
		return false;
	bits = (u32)mmu_ld_sys(c, tr->base + off, 2) >> (port & 7);
	return !(bits & ((1u << size) - 1));
}

void x86_io_check(struct x86_cpu *c, u16 port, unsigned size)
{
	unsigned iopl = (unsigned)(c->sflags & X86_RFLAGS_IOPL) >> 12;

	if (!(c->mode & M_PE) || (!(c->mode & M_VM) && c->cpl <= iopl))
		return;
	if (!io_map_allows(c, port, size))
		x86_gp(c, 0);
}

/* Bytes of the access that are ports: there is nothing behind port 0xffff. */
static unsigned io_room(u16 port, unsigned size)
{
	return MIN(size, 0x10000u - port);
}

u32 x86_in(struct x86_cpu *c, u16 port, unsigned size)
{
	struct vcpu *v = c->vcpu;
	u64 begin = exit_begin(&v->stats);
	unsigned room = io_room(port, size);
	struct x86_input in = {.kind = X86_IN_PIO_READ, .addr = port, .size = size};
	u32 val;

	x86_fpu_put(c);
	x86_check_io_bp(c, port, size);
	if (x86_input_take(c, &in)) {
		val = (u32)in.val;
	} else if (likely(room == size)) {
		val = (u32)bus_read(v->vm->bus, BUS_PIO, port, size);
	} else {
		val = ~0u;
		for (unsigned i = room; i--;)
			val = val << 8 | (u8)bus_read(v->vm->bus, BUS_PIO, port + i, 1);
	}
	val &= (u32)size_mask(size);
	in.val = val;
	x86_input_made(c, &in);
	exit_end(&v->stats, EXIT_PIO_IN, begin);
	return val;
}

void x86_out(struct x86_cpu *c, u16 port, u32 val, unsigned size)
{
	struct vcpu *v = c->vcpu;
	u64 begin = exit_begin(&v->stats);
	unsigned room = io_room(port, size);
	struct x86_input in = {.kind = X86_IN_PIO_WRITE, .addr = port, .size = size, .val = val};

	x86_fpu_put(c);
	x86_check_io_bp(c, port, size);
	if (x86_input_take(c, &in))
		goto out;
	if (likely(room == size)) {
		bus_write(v->vm->bus, BUS_PIO, port, val, size);
	} else {
		for (unsigned i = 0; i < room; i++)
			bus_write(v->vm->bus, BUS_PIO, port + i, (val >> (8 * i)) & 0xff, 1);
	}
	x86_input_made(c, &in);
out:
	exit_end(&v->stats, EXIT_PIO_OUT, begin);
}
