// SPDX-License-Identifier: MIT
/* The panic port: what it reads as, and which writes are a panic. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "dev/pvpanic.h"

static void count(void *arg)
{
	(*(unsigned *)arg)++;
}

static void events(void **state)
{
	struct trace trace = {0};
	struct dev *devices = NULL;
	struct dev_env env = {.trace = &trace, .devices = &devices};
	unsigned panics = 0;
	struct pvpanic_config cfg = {.panicked = count, .arg = &panics};

	assert_int_equal(bus_create(&env.bus, &trace), 0);
	assert_int_equal(pvpanic_create(&env, &cfg), 0);
	assert_int_equal(bus_read(env.bus, BUS_PIO, 0x505, 1), 3);
	bus_write(env.bus, BUS_PIO, 0x505, 0, 1);
	bus_write(env.bus, BUS_PIO, 0x505, PVPANIC_CRASHLOADED, 1);
	bus_write(env.bus, BUS_PIO, 0x505, 0x80, 1);
	assert_int_equal(panics, 0);
	bus_write(env.bus, BUS_PIO, 0x505, PVPANIC_PANICKED, 1);
	assert_int_equal(panics, 1);
	/* Its neighbour is nobody. */
	assert_int_equal(bus_read(env.bus, BUS_PIO, 0x506, 1), 0xff);
	/* A second one does not fit. */
	assert_int_not_equal(pvpanic_create(&env, &cfg), 0);
	dev_destroy_all(&devices);
	bus_destroy(env.bus);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(events)};

	return cmocka_run_group_tests_name("pvpanic", tests, NULL, NULL);
}
