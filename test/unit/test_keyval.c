// SPDX-License-Identifier: MIT
/* WORD,key=value: what is taken, and that whatever else is refused leaves nothing behind. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/log.h"
#include "cli/keyval.h"

struct conf {
	const char *path, *name;
	bool ro;
	u64 n, size;
	unsigned word;
};

static const char *const words[] = {"red", "green", "blue", NULL};

static const struct keyval_key keys[] = {
	{"name", KEYVAL_STRING, offsetof(struct conf, name)},
	{"ro", KEYVAL_BOOL, offsetof(struct conf, ro)},
	{"n", KEYVAL_NUMBER, offsetof(struct conf, n), .min = 2, .max = 40},
	{"size", KEYVAL_SIZE, offsetof(struct conf, size), .min = 512},
	{"color", KEYVAL_WORD, offsetof(struct conf, word), .words = words},
};

static const struct keyval_def def = {
	.option = "--thing",
	.first = "a path",
	.first_offset = offsetof(struct conf, path),
	.example = "--thing a,ro",
	.keys = keys,
	.nr_keys = ARRAY_SIZE(keys),
};

static void test_good(void **state)
{
	struct conf c = {0};
	char *copy;

	assert_int_equal(
		keyval_parse(&def, "/a=b/c,,d,ro,n=0x10,size=3K,color=blue,name=x=,,y", &c, &copy),
		0);
	assert_string_equal(c.path, "/a=b/c,d");
	assert_string_equal(c.name, "x=,y");
	assert_true(c.ro);
	assert_true(c.n == 16 && c.size == 3072 && c.word == 2);
	free(copy);
	assert_int_equal(keyval_parse(&def, "p,ro=off,size=512", &c, &copy), 0);
	assert_false(c.ro);
	assert_true(c.size == 512);
	free(copy);
	assert_int_equal(keyval_parse(&def, "p,size=2GiB", &c, &copy), 0);
	assert_true(c.size == 2 * GiB && c.n == 16);
	free(copy);
}

static void test_bad(void **state)
{
	static const char *const bad[] = {
		"",
		",ro",
		"p,",
		"p,,",
		"p,what",
		"p,what=1",
		"p,ro=1",
		"p,ro=",
		"p,n",
		"p,n=",
		"p,n=1",
		"p,n=41",
		"p,n= 3",
		"p,n=-3",
		"p,n=3x",
		"p,size=511",
		"p,size=1X",
		"p,size=K",
		"p,size=-1K",
		"p,size=1Kx",
		"p,color=bl",
		"p,color",
		"p,name=",
		"p,name",
		"p,ro,ro",
		"p,n=3,n=3",
		"p,=3",
		"p,ro,,n=3",
		"p,size=99999999999999999999",
		"p,size=17179869184G",
	};

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct conf c = {0};
		char *copy = NULL;

		/* "p,," is the path "p,": the only one of them that is right */
		if ((keyval_parse(&def, bad[i], &c, &copy) == 0) != !strcmp(bad[i], "p,,"))
			fail_msg("\"%s\" is judged wrongly", bad[i]);
		free(copy);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_good),
		cmocka_unit_test(test_bad),
	};

	log_set_level(LOG_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
