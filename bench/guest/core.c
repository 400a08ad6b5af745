// SPDX-License-Identifier: MIT
/* A mix as small controllers' programs have it: linked lists, a matrix of 16-bit integers, a state
 * machine that reads numbers, and a CRC over the results of each. */
#include <string.h>

#include "bench.h"

static u16 crc16(u16 crc, u32 v)
{
	for (int i = 0; i < 32; i++, v >>= 1)
		crc = (u16)((crc ^ v) & 1 ? crc >> 1 ^ 0xa001 : crc >> 1);
	return crc;
}

/* ---- lists ---- */

enum { ITEMS = 200 };
struct item {
	struct item *next;
	uint16_t key, value;
};
static struct item items[ITEMS];

static struct item *list_make(u64 seed)
{
	for (unsigned i = 0; i < ITEMS; i++)
		items[i] = (struct item){i + 1 < ITEMS ? &items[i + 1] : NULL,
		                         (u16)(bench_random(&seed) & 0x3ff), (u16)i};
	return items;
}

static struct item *list_reverse(struct item *l)
{
	struct item *done = NULL;

	while (l) {
		struct item *next = l->next;

		l->next = done;
		done = l;
		l = next;
	}
	return done;
}

static struct item *list_merge(struct item *a, struct item *b)
{
	struct item *head = NULL, **tail = &head;

	while (a && b) {
		struct item **from = a->key <= b->key ? &a : &b;

		*tail = *from;
		*from = (*from)->next;
		tail = &(*tail)->next;
	}
	*tail = a ? a : b;
	return head;
}

static struct item *list_sort(struct item *l)
{
	struct item *half = l, *end, *rest;

	if (!l || !l->next)
		return l;
	for (end = l->next; end && end->next; end = end->next->next)
		half = half->next;
	rest = half->next;
	half->next = NULL;
	return list_merge(list_sort(l), list_sort(rest));
}

static u16 list_run(u16 crc, u32 round)
{
	struct item *l = list_sort(list_reverse(list_make(round)));
	unsigned found = 0;

	for (u16 key = 0; key < 40; key++)
		for (const struct item *i = l; i && i->key <= key * 25; i = i->next)
			found += i->key == key * 25 - 3;
	for (const struct item *i = l; i; i = i->next)
		crc = crc16(crc, (u32)i->key << 16 | i->value);
	return crc16(crc, found);
}

/* ---- matrices ---- */

enum { M = 20 };
static int16_t ma[M][M], mb[M][M];
static int32_t mc[M][M];

static u16 matrix_run(u16 crc, u32 round)
{
	for (int i = 0; i < M; i++)
		for (int j = 0; j < M; j++) {
			ma[i][j] = (int16_t)(i * 7 + j * 3 + (int)round);
			mb[i][j] = (int16_t)(i - j * 5 - (int)round);
		}
	for (int i = 0; i < M; i++)
		for (int j = 0; j < M; j++) {
			int32_t s = 0;

			for (int k = 0; k < M; k++) {
				int32_t p = ma[i][k] * mb[k][j];

				s += (p >> 2 & 15) * (p >> 5 & 127);
			}
			mc[i][j] = s;
		}
	for (int i = 0; i < M; i++)
		crc = crc16(crc, (u32)mc[i][(i * 7) % M]);
	return crc;
}

/* ---- a state machine that tells integers, fractions and nonsense apart ---- */

enum state { START, SIGN, INT, POINT, FRACTION, EXP, EXPSIGN, EXPONENT, BAD, STATES };

static enum state step(enum state s, char c)
{
	int digit = c >= '0' && c <= '9';

	switch (s) {
	case START:
		return digit ? INT : c == '+' || c == '-' ? SIGN : c == '.' ? POINT : BAD;
	case SIGN:
		return digit ? INT : c == '.' ? POINT : BAD;
	case INT:
		return digit ? INT : c == '.' ? FRACTION : c == 'e' ? EXP : BAD;
	case POINT:
	case FRACTION:
		return digit ? FRACTION : c == 'e' && s == FRACTION ? EXP : BAD;
	case EXP:
		return digit ? EXPONENT : c == '+' || c == '-' ? EXPSIGN : BAD;
	case EXPSIGN:
	case EXPONENT:
		return digit ? EXPONENT : BAD;
	default:
		return BAD;
	}
}

static u16 state_run(u16 crc, u32 round)
{
	static const char input[] =
		"5012,+874,-.5e10,.875,7.4e-9,1e+,T0.3e-1F,-110.700,5e5,+0.64400,1..2,33,";
	char text[sizeof(input)];
	u32 seen[STATES] = {0}, moves[STATES] = {0};
	enum state s = START;

	memcpy(text, input, sizeof(text));
	text[round * 7 % (sizeof(text) - 1)] ^= 1;
	for (const char *p = text; *p; p++) {
		enum state next = *p == ',' ? START : step(s, *p);

		if (*p == ',')
			seen[s]++;
		moves[s] += next != s;
		s = next;
	}
	for (int i = 0; i < STATES; i++)
		crc = crc16(crc, seen[i] << 16 | moves[i]);
	return crc;
}

static u64 core_mix(void)
{
	u16 crc = 0xffff;

	for (u32 round = 0; round < 15; round++) {
		crc = list_run(crc, round);
		crc = matrix_run(crc, round);
		for (u32 k = 0; k < 20; k++)
			crc = state_run(crc, round + k);
	}
	return crc;
}

const struct workload core_work[] = {
	{"core-mix", NULL, core_mix, 300, 1},
	{0},
};
