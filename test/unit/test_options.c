// SPDX-License-Identifier: MIT
/* The command line: values and bounds. The messages are checked on the real binary
 * (test/cli). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <fcntl.h>
#include <cmocka.h>

#include "cli/help.h"
#include "cli/options.h"
#include "vcpu/vm.h"

#define ARGS_MAX 32

/* Parse "run" and the words. */
static int parse(struct options *o, ...)
{
	char *argv[ARGS_MAX] = {"ringer", "run"};
	int argc = 2;
	va_list ap;
	char *s;

	va_start(ap, o);
	while ((s = va_arg(ap, char *)) && argc < ARGS_MAX)
		argv[argc++] = s;
	va_end(ap);
	return options_parse(o, argc, argv);
}

/* The same, with the error message thrown away. */
static int parse_quiet(struct options *o, const char *a, const char *b, const char *c)
{
	int saved = dup(STDERR_FILENO), null = open("/dev/null", O_WRONLY);
	int ret;

	assert_true(saved >= 0 && null >= 0);
	dup2(null, STDERR_FILENO);
	ret = parse(o, a, b, c, NULL);
	dup2(saved, STDERR_FILENO);
	close(saved);
	close(null);
	return ret;
}

static void defaults(void **state)
{
	struct options o;

	assert_int_equal(parse(&o, NULL), 0);
	assert_int_equal(o.command, CMD_RUN);
	assert_int_equal(o.ram_size, 512 * MiB);
	assert_int_equal(o.nr_vcpus, 1);
	assert_string_equal(o.engine, "auto");
	assert_int_equal(o.console, CONSOLE_STDIO);
	assert_null(o.kernel);
	assert_int_equal(o.debug_exit_port, -1);
	assert_int_equal(o.gdb_port, -1);
	assert_true(o.sandbox);
	assert_false(o.no_reboot);
}

static void sizes(void **state)
{
	static const struct {
		const char *text;
		int ret;
		u64 bytes;
	} table[] = {
		{"512", 0, 512 * MiB},
		{"512M", 0, 512 * MiB},
		{"512m", 0, 512 * MiB},
		{"2G", 0, 2 * GiB},
		{"2GiB", 0, 2 * GiB},
		{"2GB", 0, 2 * GiB},
		{"4096k", 0, 4 * MiB},
		{"1T", 0, 1024 * GiB},
		{"0", 0, 0},
		{"8796093022208", 0, 1ull << 63},
		{"8796093022209", -1, 0},
		{"18446744073709551616", -1, 0},
		{"", -1, 0},
		{"M", -1, 0},
		{"-1", -1, 0},
		{"+1", -1, 0},
		{" 1", -1, 0},
		{"1 M", -1, 0},
		{"1.5G", -1, 0},
		{"1Q", -1, 0},
		{"1Mx", -1, 0},
		{"0x10", -1, 0},
	};

	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		u64 v = 0;

		if (options_parse_size(table[i].text, &v) != table[i].ret || v != table[i].bytes)
			fail_msg("size \"%s\"", table[i].text);
	}
}

static void all_options(void **state)
{
	struct options o;

	assert_int_equal(parse(&o, "--kernel", "k", "--initrd=i", "--cmdline", "", "-m", "64",
	                       "-c4", "--engine", "interp", "--console=none", "--no-reboot", NULL),
	                 0);
	assert_string_equal(o.kernel, "k");
	assert_string_equal(o.initrd, "i");
	assert_string_equal(o.cmdline, "");
	assert_int_equal(o.ram_size, 64 * MiB);
	assert_int_equal(o.nr_vcpus, 4);
	assert_string_equal(o.engine, "interp");
	assert_int_equal(o.console, CONSOLE_NONE);
	assert_true(o.no_reboot);

	assert_int_equal(parse(&o, "-d", "int,mmu", "-d", "io", "-D", "t", "--gdb", "unix:/s",
	                       "--debug-exit", "0xf4", "--debugcon", "stdio", "--testdev",
	                       "--exit-stats", "--no-sandbox", NULL),
	                 0);
	assert_int_equal(o.trace_mask, TRACE_INT | TRACE_MMU | TRACE_IO);
	assert_string_equal(o.trace_path, "t");
	assert_string_equal(o.gdb_path, "/s");
	assert_int_equal(o.debug_exit_port, 0xf4);
	assert_string_equal(o.debugcon_path, "");
	assert_true(o.testdev);
	assert_true(o.exit_stats);
	assert_false(o.sandbox);

	assert_int_equal(parse(&o, "--gdb", "1234", "--console", "file:log", "--name", "a-1", "-q",
	                       "-m2G", NULL),
	                 0);
	assert_int_equal(o.gdb_port, 1234);
	assert_null(o.gdb_path);
	assert_int_equal(o.console, CONSOLE_FILE);
	assert_string_equal(o.console_path, "log");
	assert_string_equal(o.name, "a-1");
	assert_true(o.quiet);
	assert_int_equal(o.ram_size, 2 * GiB);

	assert_false(o.lockstep);
	assert_int_equal(parse(&o, "--lockstep", "-q", NULL), 0);
	assert_true(o.lockstep && o.quiet);
	assert_int_equal(o.lockstep_insns, 0);
	assert_int_equal(parse(&o, "--lockstep=20,exact,break=7", NULL), 0);
	assert_int_equal(o.lockstep_insns, 20000000);
	assert_int_equal(o.lockstep_break, 7);
	assert_true(o.lockstep_exact);

	/* The last one counts. */
	assert_int_equal(parse(&o, "-m", "1G", "-m", "2G", "--gdb", "unix:/s", "--gdb", "1", NULL),
	                 0);
	assert_int_equal(o.ram_size, 2 * GiB);
	assert_null(o.gdb_path);
}

static void refused(void **state)
{
	static char *const table[][3] = {
		{"-m", "1"},
		{"-m", "3M"},
		{"-m", "2T"},
		{"-m", "x"},
		{"-m", ""},
		{"-m"},
		{"-c", "0"},
		{"-c", "65"},
		{"-c", "-1"},
		{"-c", "2x"},
		{"-c", "18446744073709551617"},
		{"--engine", "turbo"},
		{"--engine", ""},
		{"--console", "file:"},
		{"--console", "pty"},
		{"--debugcon", "file:"},
		{"--debug-exit", "0x10000"},
		{"--debug-exit", "0x"},
		{"--gdb", "0"},
		{"--gdb", "65536"},
		{"--gdb", "unix:"},
		{"--name", "a b"},
		{"--name", ""},
		{"-d", "int,foo"},
		{"-d", ""},
		{"-D", "file"},
		{"--kernel", ""},
		{"--kernal", "x"},
		{"--no-reboot=yes"},
		{"kernel"},
		{"-"},
		{""},
		{"-q", "-v"},
		{"--lockstep=0"},
		{"--lockstep", "20"},
	};
	struct options o;

	for (size_t i = 0; i < ARRAY_SIZE(table); i++)
		if (parse_quiet(&o, table[i][0], table[i][1], table[i][2]) != VM_EXIT_USAGE)
			fail_msg("%s %s was taken", table[i][0], table[i][1] ? table[i][1] : "");
}

static void long_unix_path(void **state)
{
	char path[128] = "unix:/";
	struct options o;

	memset(path + 6, 'a', 106);
	path[5 + 107] = '\0';
	assert_int_equal(parse(&o, "--gdb", path, NULL), 0);
	strcat(path, "a");
	assert_int_equal(parse_quiet(&o, "--gdb", path, NULL), VM_EXIT_USAGE);
}

static void commands(void **state)
{
	struct options o;

	assert_int_equal(options_parse(&o, 2, (char *[]){"ringer", "version"}), 0);
	assert_int_equal(o.command, CMD_VERSION);
	assert_int_equal(options_parse(&o, 2, (char *[]){"ringer", "--help"}), 0);
	assert_int_equal(o.command, CMD_HELP);
	assert_null(o.help_topic);
	assert_int_equal(options_parse(&o, 3, (char *[]){"ringer", "help", "exit"}), 0);
	assert_string_equal(o.help_topic, "exit");
	assert_int_equal(options_parse(&o, 3, (char *[]){"ringer", "run", "-h"}), 0);
	assert_int_equal(o.command, CMD_HELP);
	assert_string_equal(o.help_topic, "run");
}

/* Every option is in the help, and every topic prints something. */
static void help(void **state)
{
	static const char *const topics[] = {NULL, "run", "console", "exit", "trace"};

	for (size_t i = 0; i < ARRAY_SIZE(topics); i++) {
		char *text = NULL;
		size_t size = 0;
		FILE *f = open_memstream(&text, &size);

		assert_non_null(f);
		assert_int_equal(help_print(topics[i], f), 0);
		fclose(f);
		assert_true(size > 200);
		for (unsigned j = 0; i == 1 && options_help(j); j++)
			if (!strstr(text, options_help(j)->name))
				fail_msg("%s is not in the help", options_help(j)->name);
		free(text);
	}
}

static void shares(void **state)
{
	static const char long_tag[] = "a-tag-of-37-bytes-is-one-byte-too-lon=/tmp";
	static const char *const bad[] = {"",
	                                  "src",
	                                  "src=",
	                                  "=/tmp",
	                                  "src=/tmp,rw",
	                                  "src=/tmp,locks=no",
	                                  "src=/tmp,ro,ro",
	                                  "src=/tmp,ro=2",
	                                  long_tag};
	struct options o;

	assert_int_equal(
		parse(&o, "--share", "src=/home/a,,b,ro", "--share", "x=y=z,locks=host", NULL), 0);
	assert_int_equal(o.nr_shares, 2);
	assert_string_equal(o.share[0].tag, "src");
	assert_string_equal(o.share[0].path, "/home/a,b");
	assert_true(o.share[0].read_only);
	assert_int_equal(o.share[0].locks, SHARE_LOCKS_GUEST);
	assert_string_equal(o.share[1].path, "y=z");
	assert_false(o.share[1].read_only);
	assert_int_equal(o.share[1].locks, SHARE_LOCKS_HOST);
	free(o.share[0].copy);
	free(o.share[1].copy);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(parse_quiet(&o, "--share", bad[i], NULL), VM_EXIT_USAGE);
	/* a tag that is taken */
	assert_int_equal(parse_quiet(&o, "--share=a=/x", "--share=a=/y", NULL), VM_EXIT_USAGE);
	free(o.share[0].copy);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(shares),   cmocka_unit_test(defaults),
		cmocka_unit_test(sizes),    cmocka_unit_test(all_options),
		cmocka_unit_test(refused),  cmocka_unit_test(long_unix_path),
		cmocka_unit_test(commands), cmocka_unit_test(help),
	};

	return cmocka_run_group_tests_name("options", tests, NULL, NULL);
}
