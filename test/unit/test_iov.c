// SPDX-License-Identifier: MIT
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "base/iov.h"

static void test_slices(void **state)
{
	u8 a[10], b[5];
	struct iovec v[2] = {{a, 10}, {b, 5}}, out[2];

	assert_int_equal(iov_slice(v, 2, 3, 4, out, 2), 1);
	assert_true(out[0].iov_base == a + 3 && out[0].iov_len == 4);
	assert_int_equal(iov_slice(v, 2, 8, 4, out, 2), 2);
	assert_true(out[0].iov_len == 2 && out[1].iov_base == b && out[1].iov_len == 2);
	assert_int_equal(iov_slice(v, 2, 8, 4, out, 1), 1);
	assert_int_equal(iov_slice(v, 2, 14, 100, out, 2), 1);
	assert_true(out[0].iov_base == b + 4 && out[0].iov_len == 1);
	assert_int_equal(iov_slice(v, 2, 15, 1, out, 2), 0);
	assert_int_equal(iov_slice(v, 2, 0, 0, out, 2), 0);
}

/* Over the ends of buffers, an empty one among them, and over the end of all. */
static void test_copies(void **state)
{
	char a[4] = "abc", b[3] = "de", none, out[8] = {0};
	struct iovec v[3] = {{a, 3}, {&none, 0}, {b, 2}};

	assert_int_equal(iov_total(v, 3), 5);
	assert_int_equal(iov_read(v, 3, 1, out, 3), 3);
	assert_string_equal(out, "bcd");
	memset(out, 0, sizeof(out));
	assert_int_equal(iov_read(v, 3, 4, out, 8), 1);
	assert_string_equal(out, "e");
	assert_int_equal(iov_read(v, 3, 5, out, 8), 0);
	assert_int_equal(iov_write(v, 3, 2, "XYZW", 4), 3);
	assert_string_equal(a, "abX");
	assert_string_equal(b, "YZ");
	assert_int_equal(iov_fill(v, 3, 1, '-', 3), 3);
	assert_string_equal(a, "a--");
	assert_string_equal(b, "-Z");
	assert_int_equal(iov_fill(v, 3, ~0ull, '!', ~(size_t)0), 0);
}

static void test_total_saturates(void **state)
{
	struct iovec v[2] = {{NULL, ~(size_t)0}, {NULL, 2}};

	assert_true(iov_total(v, 2) == ~0ull);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_slices),
		cmocka_unit_test(test_copies),
		cmocka_unit_test(test_total_saturates),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
