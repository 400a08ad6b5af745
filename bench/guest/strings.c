// SPDX-License-Identifier: MIT
/* glibc's string functions on text as programs have it: lines of a log, short words, paths. Which
 * of glibc's variants run (SSE2, AVX2) depends on the CPU that the guest sees; the results don't.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench.h"

enum { TEXT = 64 << 10, LINES = 2048 };
static char text[TEXT], copy[TEXT];
static char *line[LINES];
static unsigned lines;

static void strings_setup(void)
{
	bench_text(text, TEXT, 7);
}

/* An order by sign only: how far bytes differ is up to the variant. */
static int sign(int v)
{
	return v < 0 ? -1 : v > 0;
}

static int by_text(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static void split(void)
{
	char *p = copy, *end = copy + TEXT - 1, *nl;

	memcpy(copy, text, TEXT);
	for (lines = 0; p < end && lines < LINES; p = nl + 1) {
		line[lines++] = p;
		nl = memchr(p, '\n', (size_t)(end - p));
		if (!nl)
			break;
		*nl = 0;
	}
}

static u64 strings(void)
{
	static const char *const needles[] = {"interrupt", "10.0.0.1", "cache translate", "absent"};
	char name[160];
	u64 sum = 0;

	split();
	for (unsigned i = 0; i < lines; i++) {
		const char *p = line[i], *hit;
		char *num, *end;
		size_t n = strlen(p);

		sum = bench_mix(sum, n);
		hit = strstr(p, needles[i & 3]);
		sum += hit ? (u64)(hit - p) : 1000;
		hit = strrchr(p, ' ');
		sum += hit ? strlen(hit + 1) : 0;
		if (i)
			sum += (u64)(sign(strcmp(p, line[i - 1])) +
			             sign(strncmp(p, line[i / 2], 8)) + 2);
		num = strpbrk(line[i], "0123456789");
		sum += num ? (u64)strtol(num, &end, 0) : 0;
		snprintf(name, sizeof(name), "/srv/%u/%.*s", i, (int)(n < 40 ? n : 40), p);
		for (char *s = name; (s = strchr(s, '/')); s++)
			sum++;
		strcpy(name + strlen(name), ".log");
		sum += strspn(p, "abcdefghijklmnopqrstuvwxyz") + (u64)!memcmp(p, name, 4);
	}
	qsort(line, lines, sizeof(line[0]), by_text);
	for (unsigned i = 0; i < lines; i += 8)
		sum = bench_mix(sum, (u64)(line[i] - copy));
	/* Whole buffers, in place and out of place. */
	memmove(copy + 13, copy, TEXT - 64);
	sum += (u64)sign(memcmp(copy, text, TEXT)) + 2;
	memset(copy, 'z', TEXT / 2);
	return sum + (u64)(char *)memchr(copy, 0, TEXT) - (u64)copy;
}

const struct workload string_work[] = {
	{"strings", strings_setup, strings, 450, 1},
	{0},
};
