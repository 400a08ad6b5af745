# SPDX-License-Identifier: MIT
# For the test programs in sh: . /progs/check.sh; is WHAT WANTED GOT ...; finish
passed=0
failed=0

is()
{
	if [ "$2" = "$3" ]; then
		passed=$((passed + 1))
	else
		failed=$((failed + 1))
		echo "failed: $1: '$3', not '$2'"
	fi
}

# ok WHAT COMMAND...: its status is 0; its output is shown when it is not.
ok()
{
	what=$1
	shift
	if "$@" >/tmp/.ok 2>&1; then
		passed=$((passed + 1))
	else
		failed=$((failed + 1))
		echo "failed: $what: status $?"
		tail -n 20 /tmp/.ok
	fi
}

finish()
{
	echo "$passed passed, $failed failed"
	[ "$failed" = 0 ] && [ "$passed" -gt 0 ]
	exit
}
