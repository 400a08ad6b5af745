/* SPDX-License-Identifier: MIT */
/* Vector instructions by intrinsics, each held against the same computation in scalar code. The
 * target is x86-64-v3 with AES, PCLMULQDQ and SHA where the processor says it has them. */
#include "check.h"
#include <cpuid.h>
#include <immintrin.h>
#include <math.h>

#define N      256
#define ROUNDS 40

static _Alignas(64) uint8_t a[N + 64], b[N + 64], r[N + 64], s[N + 64];

static void fill(uint64_t *seed)
{
	for (int i = 0; i < N + 64; i++) {
		a[i] = check_random(seed) >> 11;
		b[i] = check_random(seed) >> 17;
	}
	memset(r, 0, sizeof(r));
	memset(s, 0, sizeof(s));
}

/* OP on vectors of unaligned bytes of a and b; WANT on elements of type T. */
#define EACH(name, T, op, want)                                                                    \
	do {                                                                                       \
		for (int off = 0; off < 33; off += 11) {                                           \
			for (int i = 0; i < N; i += 32) {                                          \
				__m256i x = _mm256_loadu_si256((void *)(a + off + i));             \
				__m256i y = _mm256_loadu_si256((void *)(b + i));                   \
				(void)y;                                                           \
				_mm256_storeu_si256((void *)(r + i), op);                          \
			}                                                                          \
			for (int i = 0; i < N; i += sizeof(T)) {                                   \
				T x, y, z;                                                         \
				memcpy(&x, a + off + i, sizeof(T));                                \
				memcpy(&y, b + i, sizeof(T));                                      \
				(void)y;                                                           \
				z = (T)(want);                                                     \
				memcpy(s + i, &z, sizeof(T));                                      \
			}                                                                          \
			CHECK(!memcmp(r, s, N), name);                                             \
		}                                                                                  \
	} while (0)

#define SAT(v, lo, hi) ((v) < (lo) ? (lo) : (v) > (hi) ? (hi) : (v))

static void integers(void)
{
	EACH("paddb", uint8_t, _mm256_add_epi8(x, y), x + y);
	EACH("psubd", uint32_t, _mm256_sub_epi32(x, y), x - y);
	EACH("paddq", uint64_t, _mm256_add_epi64(x, y), x + y);
	EACH("paddusb", uint8_t, _mm256_adds_epu8(x, y), SAT(x + y, 0, 255));
	EACH("psubsw", int16_t, _mm256_subs_epi16(x, y), SAT(x - y, -32768, 32767));
	EACH("pmullw", int16_t, _mm256_mullo_epi16(x, y), x * y);
	EACH("pmulhuw", uint16_t, _mm256_mulhi_epu16(x, y), ((uint32_t)x * y) >> 16);
	EACH("pmulld", uint32_t, _mm256_mullo_epi32(x, y), x * y);
	EACH("pmuludq", uint64_t, _mm256_mul_epu32(x, y), (x & 0xffffffff) * (y & 0xffffffff));
	EACH("pcmpgtb", int8_t, _mm256_cmpgt_epi8(x, y), -(x > y));
	EACH("pcmpeqw", uint16_t, _mm256_cmpeq_epi16(x, y), -(x == y));
	EACH("pcmpgtq", int64_t, _mm256_cmpgt_epi64(x, y), -(int64_t)(x > y));
	EACH("pmaxsd", int32_t, _mm256_max_epi32(x, y), x > y ? x : y);
	EACH("pminub", uint8_t, _mm256_min_epu8(x, y), x < y ? x : y);
	EACH("pavgb", uint8_t, _mm256_avg_epu8(x, y), (x + y + 1) >> 1);
	EACH("pabsw", int16_t, _mm256_abs_epi16(x), x < 0 ? -x : x);
	EACH("psignd", int32_t, _mm256_sign_epi32(x, y),
	     y < 0 ? 0u - (uint32_t)x
	     : y   ? (uint32_t)x
	           : 0);
	EACH("pand, pandn, por, pxor", uint64_t,
	     _mm256_or_si256(_mm256_andnot_si256(x, y),
	                     _mm256_xor_si256(_mm256_and_si256(x, y), y)),
	     (~x & y) | ((x & y) ^ y));
	EACH("pslld", uint32_t, _mm256_slli_epi32(_mm256_xor_si256(x, y), 7), (x ^ y) << 7);
	EACH("psraw", int16_t, _mm256_srai_epi16(_mm256_xor_si256(x, y), 3), (int16_t)(x ^ y) >> 3);
	EACH("psrlvq", uint64_t, _mm256_srlv_epi64(x, _mm256_and_si256(y, _mm256_set1_epi64x(63))),
	     x >> (y & 63));
	EACH("psllvd", uint32_t, _mm256_sllv_epi32(x, _mm256_and_si256(y, _mm256_set1_epi32(31))),
	     x << (y & 31));
	EACH("psravd", int32_t, _mm256_srav_epi32(x, _mm256_and_si256(y, _mm256_set1_epi32(31))),
	     x >> (y & 31));
	EACH("pblendvb", uint8_t, _mm256_blendv_epi8(x, y, x), x & 0x80 ? y : x);
}

static void shuffles(void)
{
	uint8_t want[32];
	for (int i = 0; i < N; i += 32) {
		__m256i x = _mm256_loadu_si256((void *)(a + i)),
			y = _mm256_loadu_si256((void *)(b + i));
		_mm256_storeu_si256((void *)r, _mm256_shuffle_epi8(x, y));
		for (int k = 0; k < 32; k++) {
			want[k] = b[i + k] & 0x80 ? 0 : a[i + (k & 16) + (b[i + k] & 15)];
		}
		CHECK(!memcmp(r, want, 32), "pshufb");
		_mm256_storeu_si256((void *)r, _mm256_permutevar8x32_epi32(x, y));
		for (int k = 0; k < 8; k++) {
			memcpy(want + 4 * k, a + i + 4 * (b[i + 4 * k] & 7), 4);
		}
		CHECK(!memcmp(r, want, 32), "vpermd");
		_mm256_storeu_si256((void *)r, _mm256_alignr_epi8(x, y, 5));
		for (int k = 0; k < 32; k++) {
			int from = (k & 15) + 5;
			want[k] = from < 16 ? b[i + (k & 16) + from] : a[i + (k & 16) + from - 16];
		}
		CHECK(!memcmp(r, want, 32), "palignr");
		_mm256_storeu_si256((void *)r, _mm256_sad_epu8(x, y));
		for (int k = 0; k < 4; k++) {
			uint64_t sum = 0;
			for (int j = 0; j < 8; j++) {
				sum += abs(a[i + 8 * k + j] - b[i + 8 * k + j]);
			}
			memcpy(want + 8 * k, &sum, 8);
		}
		CHECK(!memcmp(r, want, 32), "psadbw");
		uint32_t mask = _mm256_movemask_epi8(x), by_hand = 0;
		for (int k = 0; k < 32; k++) {
			by_hand |= (uint32_t)(a[i + k] >> 7) << k;
		}
		CHECK(mask == by_hand, "pmovmskb");
		__m256i idx = _mm256_and_si256(x, _mm256_set1_epi32(0x3f));
		_mm256_storeu_si256((void *)r, _mm256_i32gather_epi32((void *)b, idx, 4));
		uint32_t at[8];
		_mm256_storeu_si256((void *)at, idx);
		for (int k = 0; k < 8; k++) {
			memcpy(want + 4 * k, b + 4 * at[k], 4);
		}
		CHECK(!memcmp(r, want, 32), "vpgatherdd");
		memset(r, 0x55, 32);
		memset(want, 0x55, 32);
		_mm256_maskstore_epi32((void *)r, x, y);
		for (int k = 0; k < 8; k++) {
			if (a[i + 4 * k + 3] & 0x80) {
				memcpy(want + 4 * k, b + i + 4 * k, 4);
			}
		}
		CHECK(!memcmp(r, want, 32), "vpmaskmovd");
	}
}

static void floats(uint64_t *seed)
{
	double x[32], y[32], z[32], out[4];
	float fx[32], fout[8];
	for (int i = 0; i < 32; i++) {
		x[i] = (int32_t)check_random(seed) / 1024.0;
		y[i] = (int32_t)check_random(seed) / 65536.0 + 0.125;
		z[i] = (int32_t)check_random(seed) / 7.0;
		fx[i] = (float)x[i];
	}
	for (int i = 0; i < 32; i += 4) {
		__m256d p = _mm256_loadu_pd(x + i), q = _mm256_loadu_pd(y + i),
			t = _mm256_loadu_pd(z + i);
		_mm256_storeu_pd(out, _mm256_fmadd_pd(p, q, t));
		for (int k = 0; k < 4; k++) {
			CHECK(out[k] == fma(x[i + k], y[i + k], z[i + k]), "vfmaddpd");
		}
		_mm256_storeu_pd(out, _mm256_div_pd(_mm256_sqrt_pd(_mm256_mul_pd(p, p)), q));
		for (int k = 0; k < 4; k++) {
			CHECK(out[k] == fabs(x[i + k]) / y[i + k], "vdivpd, vsqrtpd");
		}
		_mm256_storeu_pd(out,
		                 _mm256_round_pd(p, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC));
		for (int k = 0; k < 4; k++) {
			CHECK(out[k] == floor(x[i + k]), "vroundpd");
		}
		_mm256_storeu_pd(out, _mm256_hadd_pd(p, q));
		CHECK(out[0] == x[i] + x[i + 1] && out[3] == y[i + 2] + y[i + 3], "vhaddpd");
		CHECK(_mm256_movemask_pd(_mm256_cmp_pd(p, q, _CMP_LT_OQ)) ==
		              ((x[i] < y[i]) | (x[i + 1] < y[i + 1]) << 1 |
		               (x[i + 2] < y[i + 2]) << 2 | (x[i + 3] < y[i + 3]) << 3),
		      "vcmppd");
		__m128 half = _mm256_cvtpd_ps(p);
		_mm_storeu_ps(fout, half);
		CHECK(fout[1] == (float)x[i + 1], "vcvtpd2ps");
		__m128i h = _mm256_cvtps_ph(_mm256_loadu_ps(fx + (i & 24)), 0);
		_mm256_storeu_ps(fout, _mm256_cvtph_ps(h));
		CHECK(isinf(fout[0]) || fabsf(fout[0] - fx[i & 24]) <= fabsf(fx[i & 24]) / 1024,
		      "f16c");
		CHECK(_mm_cvttsd_si64(_mm_load_sd(x + i)) == (int64_t)x[i], "cvttsd2si");
	}
}

static void bmi(uint64_t *seed)
{
	for (int i = 0; i < 300; i++) {
		uint64_t v = check_random(seed), m = check_random(seed), dep = 0, ext = 0;
		int n = 0;
		for (int k = 0; k < 64; k++) {
			if (m >> k & 1) {
				dep |= (v >> n & 1) << k;
				ext |= (v >> k & 1) << n++;
			}
		}
		CHECK(_pdep_u64(v, m) == dep && _pext_u64(v, m) == ext, "pdep, pext");
		CHECK(_andn_u64(v, m) == (~v & m) && _blsr_u64(v) == (v & (v - 1)) &&
		              _blsi_u64(v) == (v & -v) && _blsmsk_u64(v) == (v ^ (v - 1)),
		      "bmi1");
		CHECK(_bextr_u64(v, 5, 20) == (v >> 5 & 0xfffff) &&
		              _bzhi_u64(v, i % 64) == (v & ((1ull << i % 64) - 1)),
		      "bextr, bzhi");
		CHECK(_lzcnt_u64(v >> 1) == (unsigned)__builtin_clzll(v >> 1 | 1) || v < 2,
		      "lzcnt");
		uint32_t crc = 0xffffffff, soft = crc;
		for (int k = 0; k < 8; k++) {
			soft ^= (uint8_t)(v >> 8 * k);
			for (int j = 0; j < 8; j++) {
				soft = soft >> 1 ^ (soft & 1 ? 0x82f63b78 : 0);
			}
		}
		CHECK((uint32_t)_mm_crc32_u64(crc, v) == soft, "crc32");
		unsigned char big[8];
		asm("movbe %1, %0" : "=m"(big) : "r"(v));
		CHECK(big[0] == v >> 56 && big[7] == (uint8_t)v, "movbe");
	}
}

/* FIPS 197 appendix B; carry-less multiplication by hand. */
__attribute__((target("aes,pclmul"))) static void crypto(uint64_t *seed)
{
	static const uint8_t state[16] = {0x32, 0x43, 0xf6, 0xa8, 0x88, 0x5a, 0x30, 0x8d,
	                                  0x31, 0x31, 0x98, 0xa2, 0xe0, 0x37, 0x07, 0x34},
			     key[16] = {0x2b, 0x7e, 0x15, 0x16, 0x28, 0xae, 0xd2, 0xa6,
	                                0xab, 0xf7, 0x15, 0x88, 0x09, 0xcf, 0x4f, 0x3c},
			     want[16] = {0x39, 0x25, 0x84, 0x1d, 0x02, 0xdc, 0x09, 0xfb,
	                                 0xdc, 0x11, 0x85, 0x97, 0x19, 0x6a, 0x0b, 0x32};
	__m128i k = _mm_loadu_si128((void *)key),
		v = _mm_xor_si128(_mm_loadu_si128((void *)state), k);
#define ROUND(rcon, enc)                                                                           \
	do {                                                                                       \
		__m128i g = _mm_shuffle_epi32(_mm_aeskeygenassist_si128(k, rcon), 0xff);           \
		k = _mm_xor_si128(k, _mm_slli_si128(k, 4));                                        \
		k = _mm_xor_si128(k, _mm_slli_si128(k, 8));                                        \
		k = _mm_xor_si128(k, g);                                                           \
		v = enc(v, k);                                                                     \
	} while (0)
	ROUND(0x01, _mm_aesenc_si128);
	ROUND(0x02, _mm_aesenc_si128);
	ROUND(0x04, _mm_aesenc_si128);
	ROUND(0x08, _mm_aesenc_si128);
	ROUND(0x10, _mm_aesenc_si128);
	ROUND(0x20, _mm_aesenc_si128);
	ROUND(0x40, _mm_aesenc_si128);
	ROUND(0x80, _mm_aesenc_si128);
	ROUND(0x1b, _mm_aesenc_si128);
	ROUND(0x36, _mm_aesenclast_si128);
	CHECK(!memcmp(&v, want, 16), "AES");
	for (int i = 0; i < 100; i++) {
		uint64_t p = check_random(seed), q = check_random(seed), out[2];
		unsigned __int128 soft = 0;
		for (int n = 0; n < 64; n++) {
			soft ^= q >> n & 1 ? (unsigned __int128)p << n : 0;
		}
		_mm_storeu_si128((void *)out,
		                 _mm_clmulepi64_si128(_mm_set1_epi64x(p), _mm_set1_epi64x(q), 0));
		CHECK(out[0] == (uint64_t)soft && out[1] == (uint64_t)(soft >> 64), "pclmulqdq");
	}
}

/* The upper halves survive system calls, faults and other programs; MXCSR too. */
static void state(void)
{
	__m256i before = _mm256_set_epi64x(0x1111222233334444, 0x5555666677778888,
	                                   0x9999aaaabbbbcccc, 0xddddeeeeffff0000);
	asm volatile("vmovdqu %0, %%ymm9\n vmovdqu %0, %%ymm15" ::"m"(before) : "xmm9", "xmm15");
	unsigned csr = 0x7fc0, got;
	asm volatile("ldmxcsr %0" ::"m"(csr));
	for (int i = 0; i < 50; i++) {
		long rc;
		asm volatile("syscall" : "=a"(rc) : "0"(24L) : "rcx", "r11", "memory");
	}
	static char page[1 << 20];
	for (unsigned i = 0; i < sizeof(page); i += 4096) {
		((volatile char *)page)[i] = 1;
	}
	__m256i nine, fifteen;
	asm volatile("vmovdqu %%ymm9, %0\n vmovdqu %%ymm15, %1\n stmxcsr %2"
	             : "=m"(nine), "=m"(fifteen), "=m"(got));
	CHECK(!memcmp(&nine, &before, 32) && !memcmp(&fifteen, &before, 32),
	      "ymm over system calls");
	CHECK((got & ~0x3f) == (csr & ~0x3f), "mxcsr %x", got);
	csr = 0x1f80;
	asm volatile("ldmxcsr %0" ::"m"(csr));
}

int main(void)
{
	uint64_t seed = 0x123456789abcdef;
	unsigned eax, ebx, ecx, edx;
	__cpuid(1, eax, ebx, ecx, edx);
	if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("bmi2")) {
		printf("this processor has no AVX2\n0 passed, 1 failed\n");
		return 1;
	}
	for (int i = 0; i < ROUNDS; i++) {
		fill(&seed);
		integers();
		shuffles();
		floats(&seed);
	}
	bmi(&seed);
	if (ecx & bit_AES && ecx & bit_PCLMUL) {
		crypto(&seed);
	}
	state();
	return check_end();
}
