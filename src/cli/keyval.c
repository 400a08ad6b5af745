// SPDX-License-Identifier: MIT
/* The argument is copied and taken apart in place. */
#include "cli/keyval.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"

int keyval_number(const char *s, u64 min, u64 max, u64 *out)
{
	char *end;
	u64 v;

	if (*s < '0' || *s > '9') /* strtoull takes signs and spaces */
		return -1;
	errno = 0;
	v = strtoull(s, &end, s[0] == '0' && (s[1] == 'x' || s[1] == 'X') ? 16 : 10);
	if (errno || *end || v < min || v > max)
		return -1;
	*out = v;
	return 0;
}

/* Bytes, with or without a unit. */
static int parse_bytes(const char *s, u64 *out)
{
	static const char units[] = "KMGT";
	const char *unit;
	char digits[24];
	size_t n = strspn(s, "0123456789");

	if (!n || n >= sizeof(digits))
		return -1;
	memcpy(digits, s, n);
	digits[n] = '\0';
	if (keyval_number(digits, 0, ~0ull, out) < 0)
		return -1;
	if (!s[n])
		return 0;
	unit = strchr(units, s[n] & ~0x20);
	if (!unit || !*unit || (s[n + 1] && strcmp(s + n + 1, "iB") && strcmp(s + n + 1, "B")))
		return -1;
	n = 10 * (size_t)(unit - units + 1);
	if (*out > ~0ull >> n)
		return -1;
	*out <<= n;
	return 0;
}

/* What a value of this key is, for people. */
static void accepted(const struct keyval_key *k, char *buf, size_t size)
{
	size_t n = 0;

	switch (k->kind) {
	case KEYVAL_STRING:
		snprintf(buf, size, "some text");
		break;
	case KEYVAL_BOOL:
		snprintf(buf, size, "on or off");
		break;
	case KEYVAL_NUMBER:
		if (k->max)
			snprintf(buf, size, "a number from %llu to %llu",
			         (unsigned long long)k->min, (unsigned long long)k->max);
		else
			snprintf(buf, size, "a number from %llu on", (unsigned long long)k->min);
		break;
	case KEYVAL_SIZE:
		if (k->min)
			snprintf(buf, size,
			         "a number of bytes from %llu on, or one with K, M, G or T",
			         (unsigned long long)k->min);
		else
			snprintf(buf, size, "a number of bytes, or one with K, M, G or T");
		break;
	case KEYVAL_WORD:
		for (unsigned i = 0; k->words[i] && n < size; i++)
			n += (size_t)snprintf(buf + n, size - n, "%s%s",
			                      !i                ? ""
			                      : k->words[i + 1] ? ", "
			                                        : " or ",
			                      k->words[i]);
		break;
	}
}

static int bad_value(const struct keyval_def *d, const struct keyval_key *k, const char *value)
{
	char what[160];

	accepted(k, what, sizeof(what));
	log_error("%s: %s=%s: %s is wanted; for example: %s", d->option, k->key, value, what,
	          d->example);
	return -1;
}

static int set_value(const struct keyval_def *d, const struct keyval_key *k, const char *value,
                     void *out)
{
	void *field = (u8 *)out + k->offset;
	u64 max = k->max ? k->max : ~0ull;
	u64 v;

	switch (k->kind) {
	case KEYVAL_STRING:
		if (!*value)
			break;
		memcpy(field, &value, sizeof(value));
		return 0;
	case KEYVAL_BOOL:
		if (strcmp(value, "on") && strcmp(value, "off"))
			break;
		*(bool *)field = !strcmp(value, "on");
		return 0;
	case KEYVAL_NUMBER:
		if (keyval_number(value, k->min, max, &v) < 0)
			break;
		memcpy(field, &v, sizeof(v));
		return 0;
	case KEYVAL_SIZE:
		if (parse_bytes(value, &v) < 0 || v < k->min || v > max)
			break;
		memcpy(field, &v, sizeof(v));
		return 0;
	case KEYVAL_WORD:
		for (unsigned i = 0; k->words[i]; i++) {
			if (strcmp(value, k->words[i]))
				continue;
			memcpy(field, &i, sizeof(i));
			return 0;
		}
		break;
	}
	return bad_value(d, k, value);
}

static int unknown_key(const struct keyval_def *d, const char *word)
{
	char list[256] = "none";
	size_t n = 0;

	for (unsigned i = 0; i < d->nr_keys && n < sizeof(list); i++)
		n += (size_t)snprintf(list + n, sizeof(list) - n, "%s%s", i ? ", " : "",
		                      d->keys[i].key);
	log_error("%s: no such key: \"%s\"; there are: %s; for example: %s", d->option, word, list,
	          d->example);
	return -1;
}

static int set_word(const struct keyval_def *d, char *word, void *out, u64 *given)
{
	char *value = strchr(word, '=');

	if (value)
		*value++ = '\0';
	for (unsigned i = 0; i < d->nr_keys; i++) {
		const struct keyval_key *k = &d->keys[i];

		if (strcmp(word, k->key))
			continue;
		if (*given & BIT(i)) {
			log_error("%s: %s is given twice; for example: %s", d->option, word,
			          d->example);
			return -1;
		}
		*given |= BIT(i);
		if (!value && k->kind != KEYVAL_BOOL)
			return bad_value(d, k, "");
		return set_value(d, k, value ? value : "on", out);
	}
	return unknown_key(d, word);
}

/* Ends the word at `*at` where its comma is, makes one comma of two, and moves on; NULL: no more.
 */
static char *next_word(char **at)
{
	char *word = *at, *to = word, *from = word;

	if (!word)
		return NULL;
	*at = NULL;
	for (; *from; *to++ = *from++) {
		if (*from != ',')
			continue;
		if (from[1] == ',') {
			from++;
			continue;
		}
		*at = from + 1;
		break;
	}
	*to = '\0';
	return word;
}

int keyval_parse(const struct keyval_def *d, const char *arg, void *out, char **copy)
{
	char *all = strdup(arg), *at = all, *word;
	u64 given = 0;

	if (!all) {
		log_error("out of memory");
		return -1;
	}
	if (d->first) {
		word = next_word(&at);
		if (!*word) {
			log_error("%s %s: %s is wanted first; for example: %s", d->option,
			          *arg ? arg : "\"\"", d->first, d->example);
			goto fail;
		}
		memcpy((u8 *)out + d->first_offset, &word, sizeof(word));
	}
	while ((word = next_word(&at)))
		if (set_word(d, word, out, &given) < 0)
			goto fail;
	*copy = all;
	return 0;
fail:
	free(all);
	return -1;
}
