// SPDX-License-Identifier: MIT
/* AVX2 by intrinsics: y += a * x and a dot product in floats, a dot product of bytes. Multiplies
 * and adds are separate instructions, so that sums are the same everywhere. */
#include <immintrin.h>
#include <string.h>

#include "bench.h"

#define AVX2 __attribute__((target("avx2"), noinline))

enum { FLOATS = 4096, BYTES = 16384 };
static float vx[FLOATS] __attribute__((aligned(32))), vy[FLOATS] __attribute__((aligned(32)));
static u8 qa[BYTES] __attribute__((aligned(32)));
static int8_t qb[BYTES] __attribute__((aligned(32)));

static const char *no_avx2(void)
{
	__builtin_cpu_init();
	return __builtin_cpu_supports("avx2") ? NULL : "this CPU has no AVX2";
}

static void vector_setup(void)
{
	u64 seed = 11;

	for (int i = 0; i < FLOATS; i++)
		vx[i] = (float)(int)(bench_random(&seed) % 2000 - 1000) / 1024.0f;
	for (int i = 0; i < BYTES; i++) {
		qa[i] = (u8)(bench_random(&seed) & 0x7f);
		qb[i] = (int8_t)bench_random(&seed);
	}
}

AVX2 static void saxpy(float a)
{
	__m256 va = _mm256_set1_ps(a);

	for (int i = 0; i < FLOATS; i += 8) {
		__m256 p = _mm256_mul_ps(va, _mm256_load_ps(vx + i));

		_mm256_store_ps(vy + i, _mm256_add_ps(_mm256_load_ps(vy + i), p));
	}
}

AVX2 static float dot(void)
{
	__m256 s[4];
	float lane[8], sum = 0;

	for (int k = 0; k < 4; k++)
		s[k] = _mm256_setzero_ps();
	for (int i = 0; i < FLOATS; i += 32)
		for (int k = 0; k < 4; k++) {
			__m256 x = _mm256_load_ps(vx + i + 8 * k);

			s[k] = _mm256_add_ps(s[k],
			                     _mm256_mul_ps(x, _mm256_load_ps(vy + i + 8 * k)));
		}
	_mm256_storeu_ps(lane, _mm256_add_ps(_mm256_add_ps(s[0], s[1]), _mm256_add_ps(s[2], s[3])));
	for (int i = 0; i < 8; i++)
		sum += lane[i];
	return sum;
}

AVX2 static int dot_bytes(void)
{
	__m256i ones = _mm256_set1_epi16(1), s = _mm256_setzero_si256();
	int lane[8], sum = 0;

	for (int i = 0; i < BYTES; i += 32) {
		__m256i p = _mm256_maddubs_epi16(_mm256_load_si256((const __m256i *)(qa + i)),
		                                 _mm256_load_si256((const __m256i *)(qb + i)));

		s = _mm256_add_epi32(s, _mm256_madd_epi16(p, ones));
	}
	_mm256_storeu_si256((__m256i *)lane, s);
	for (int i = 0; i < 8; i++)
		sum += lane[i];
	return sum;
}

static u64 vector(void)
{
	u64 sum = 0;
	u32 bits;

	memset(vy, 0, sizeof(vy));
	for (int round = 0; round < 100; round++) {
		float f;

		saxpy((float)(round - 50) / 64.0f);
		f = dot();
		memcpy(&bits, &f, 4);
		sum = bench_mix(sum, bits);
		qa[round] ^= 1;
		sum = bench_mix(sum, (u32)dot_bytes());
		qa[round] ^= 1;
	}
	return sum;
}

const struct workload vector_work[] = {
	{"avx2", vector_setup, vector, 2000, 1, no_avx2},
	{0},
};
