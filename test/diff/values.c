// SPDX-License-Identifier: MIT
/* Values that find mistakes: boundaries of integers, every kind of floating-point number. */
#include "gen.h"

#include "cpu/x86/defs.h"

u64 value_int(struct rng *r, unsigned bits)
{
	u64 mask = bits >= 64 ? ~0ull : (1ull << bits) - 1, v = rng_u64(r);

	switch (rng_below(r, 12)) {
	case 0:
		v = 0;
		break;
	case 1:
		v = 1;
		break;
	case 2:
		v = ~0ull;
		break;
	case 3:
		v = 1ull << (bits - 1);
		break;
	case 4:
		v = (1ull << (bits - 1)) - 1;
		break;
	case 5:
		v = 1ull << rng_below(r, bits);
		break;
	case 6:
		v = (1ull << rng_below(r, bits)) - 1;
		break;
	case 7:
		v &= 0xff;
		break;
	case 8:
		v = (u64)(s64)(s8)v;
		break;
	case 9:
		v = (u64)(s64)(s32)v;
		break;
	default:
		break;
	}
	return v & mask;
}

u32 value_f32(struct rng *r)
{
	static const u32 some[] = {
		0x00000000, 0x3f800000, 0x40000000, 0x3f000000, 0x7f800000, 0x7fc00000, 0x7f800001,
		0x7fffffff, 0x00000001, 0x007fffff, 0x00800000, 0x7f7fffff, 0x4f000000, 0x4effffff,
		0x5f000000, 0x3effffff, 0x3f7fffff, 0x33800000, 0x4b000000, 0x40490fdb,
	};
	u32 x = (u32)rng_u64(r), sign = x & 0x80000000;

	switch (rng_below(r, 4)) {
	case 0:
		return x;
	case 1: /* of moderate size, so that sums and products stay finite */
		return sign | (118 + rng_below(r, 20)) << 23 | (x & 0x7fffff);
	case 2: /* a small integer */
		return sign | (127 + rng_below(r, 6)) << 23 | (x & 0x700000);
	default:
		return sign | some[rng_below(r, ARRAY_SIZE(some))];
	}
}

u64 value_f64(struct rng *r)
{
	static const u64 some[] = {
		0x0000000000000000, 0x3ff0000000000000, 0x4000000000000000, 0x3fe0000000000000,
		0x7ff0000000000000, 0x7ff8000000000000, 0x7ff0000000000001, 0x7fffffffffffffff,
		0x0000000000000001, 0x000fffffffffffff, 0x0010000000000000, 0x7fefffffffffffff,
		0x41e0000000000000, 0x41dfffffffc00000, 0x43e0000000000000, 0x3fdfffffffffffff,
		0x47efffffe0000000, 0x380fffffffffffff, 0x36a0000000000000, 0x400921fb54442d18,
	};
	u64 x = rng_u64(r), sign = x & (1ull << 63);

	switch (rng_below(r, 4)) {
	case 0:
		return x;
	case 1:
		return sign | (u64)(1010 + rng_below(r, 30)) << 52 | (x & 0xfffffffffffff);
	case 2:
		return sign | (u64)(1023 + rng_below(r, 6)) << 52 | (x & 0xe000000000000);
	default:
		return sign | some[rng_below(r, ARRAY_SIZE(some))];
	}
}

void value_f80(struct rng *r, u8 out[10])
{
	u64 x = rng_u64(r), man = x;
	u16 sign = (u16)(rng_u64(r) & 0x8000), exp = 0;

	switch (rng_below(r, 14)) {
	case 0: /* zero */
		man = 0;
		break;
	case 1: /* infinity */
		exp = 0x7fff;
		man = 1ull << 63;
		break;
	case 2: /* quiet NaN */
		exp = 0x7fff;
		man |= 3ull << 62;
		break;
	case 3: /* signalling NaN */
		exp = 0x7fff;
		man = (man & ~(3ull << 62)) | 1ull << 63 | 1;
		break;
	case 4: /* denormal */
		man &= ~(1ull << 63);
		break;
	case 5: /* pseudo-denormal */
		man |= 1ull << 63;
		break;
	case 6: /* unnormal, pseudo-NaN, pseudo-infinity: invalid operands */
		exp = rng_pct(r, 50) ? 0x7fff : (u16)(1 + rng_below(r, 0x7ffe));
		man &= rng_pct(r, 50) ? 0 : ~(1ull << 63);
		break;
	case 7: /* anything */
		exp = (u16)rng_below(r, 0x8000);
		break;
	case 8: /* the ends */
		exp = rng_pct(r, 50) ? 0x7ffe : 1;
		man |= 1ull << 63;
		break;
	case 9: /* small integers */
		exp = (u16)(0x3fff + rng_below(r, 6));
		man = (man | 1ull << 63) & (0xfeull << 56);
		break;
	case 10: /* as large as the integer formats end */
		exp = (u16)(0x3fff + rng_below(r, 66));
		man |= 1ull << 63;
		break;
	case 11: /* multiples of pi/4, for the trigonometric ones */
		exp = (u16)(0x3ffe + rng_below(r, 3));
		man = 0xc90fdaa22168c235 + rng_below(r, 3) - 1;
		break;
	default:
		exp = (u16)(0x3fff - 20 + rng_below(r, 40));
		man |= 1ull << 63;
		break;
	}
	exp |= sign;
	put_le64(out, man);
	put_le16(out + 8, exp);
}

void value_fill(struct rng *r, enum lane lane, u8 *p, unsigned bytes)
{
	static const u8 size[NR_LANE] = {1, 2, 4, 8, 4, 8, 10, 2};
	unsigned step = size[lane];
	u8 buf[16];

	while (bytes) {
		unsigned n = MIN(bytes, step);

		switch (lane) {
		case LANE_F32:
			put_le32(buf, value_f32(r));
			break;
		case LANE_F64:
			put_le64(buf, value_f64(r));
			break;
		case LANE_F80:
			value_f80(r, buf);
			break;
		case LANE_I8: { /* eight at a time: mostly noise */
			u64 v = rng_pct(r, 60) ? rng_u64(r)
			                       : value_int(r, 8) * 0x0101010101010101ull;

			step = 8;
			n = MIN(bytes, step);
			put_le64(buf, v);
			break;
		}
		default:
			put_le64(buf, value_int(r, step * 8));
			break;
		}
		memcpy(p, buf, n);
		p += n;
		bytes -= n;
	}
}

static void x87_random(struct rng *r, u8 *x)
{
	u16 fcw = 0x37f, fsw = 0;
	u8 ftw = 0xff;

	if (rng_pct(r, 30))
		fcw = (u16)(0x7f | rng_below(r, 16) << 8);
	if (rng_pct(r, 12))
		fcw &= (u16)~rng_below(r, 0x40);
	if (rng_pct(r, 50))
		fsw |= (u16)(rng_below(r, 8) << 11);
	if (rng_pct(r, 30))
		fsw |= (u16)(rng_u64(r) & 0x4700);
	if (rng_pct(r, 20))
		fsw |= (u16)rng_below(r, 0x80);
	if (fsw & ~fcw & 0x3f)
		fsw |= 0x8080; /* ES, B */
	switch (rng_below(r, 4)) {
	case 0:
		ftw = (u8)rng_u64(r);
		break;
	case 1:
		ftw = rng_pct(r, 30) ? 0 : (u8)(0xff << rng_below(r, 8));
		break;
	default:
		break;
	}
	put_le16(x + XS_FCW, fcw);
	put_le16(x + XS_FSW, fsw);
	x[XS_FTW] = ftw;
	for (int i = 0; i < 8; i++) {
		if (rng_pct(r, 20)) { /* as MMX leaves it */
			put_le64(x + XS_ST(i), value_int(r, 64));
			put_le16(x + XS_ST(i) + 8, 0xffff);
		} else {
			value_f80(r, x + XS_ST(i));
		}
	}
}

void state_random(struct rng *r, struct cpu_state *st, enum lane lane)
{
	static const enum lane lanes[] = {LANE_I8,  LANE_I16, LANE_I32,
	                                  LANE_I64, LANE_F32, LANE_F64};
	u32 mxcsr = 0x1f80;

	memset(st->xsave, 0, sizeof(st->xsave));
	for (int i = 0; i < 16; i++)
		st->gpr[i] = value_int(r, rng_pct(r, 70) ? 64 : 32);
	st->rflags = X86_RFLAGS_FIXED | X86_RFLAGS_IF | (rng_u64(r) & 0x8d5);
	if (rng_pct(r, 15))
		st->rflags |= X86_RFLAGS_DF;
	if (rng_pct(r, 2))
		st->rflags |= X86_RFLAGS_AC;
	if (rng_pct(r, 5))
		st->rflags |= X86_RFLAGS_ID;
	if (rng_pct(r, 1))
		st->rflags |= X86_RFLAGS_NT;
	x87_random(r, st->xsave);
	if (rng_pct(r, 30))
		mxcsr = 0x1f80 | (u32)(rng_u64(r) & 0xe07f);
	if (rng_pct(r, 10))
		mxcsr &= (u32)rng_u64(r) | 0xe07f;
	put_le32(st->xsave + XS_MXCSR, mxcsr);
	for (int i = 0; i < 16; i++) {
		enum lane l = rng_pct(r, 70) ? lane : lanes[rng_below(r, ARRAY_SIZE(lanes))];

		value_fill(r, l, st->xsave + XS_XMM(i), 16);
		value_fill(r, l, st->xsave + XS_YMMHI(i), 16);
	}
	put_le64(st->xsave + XS_BV, 7);
}

void images_make(u8 *images, u64 seed)
{
	struct rng r;

	rng_seed(&r, seed, ~0ull);
	for (u32 at = 0; at < DATA_IMAGES * DATA_SIZE; at += 64)
		value_fill(&r, rng_below(&r, NR_LANE), images + at, 64);
}
