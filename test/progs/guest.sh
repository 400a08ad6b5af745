# SPDX-License-Identifier: MIT
# Runs in the guest: the programs of /progs/jobs, one after another, each line "NAME SECONDS
# COMMAND". What the host reads on the console:
#
#	@begin NAME
#	what the program prints
#	@kernel <LEVEL>[TIME] MESSAGE	what the kernel logged meanwhile
#	@end NAME STATUS SECONDS	124 or 137: over its time
#
# progs_test.py writes the jobs and judges the answers.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export HOME=/root LC_ALL=C TERM=dumb TMPDIR=/tmp TZ=UTC0
[ ! -d /usr/lib/locale/C.utf8 ] || export LC_ALL=C.UTF-8
cd /tmp
ulimit -c 0
# Firmware and the kernel may have left the cursor anywhere.
printf '\n@start %s %s %s\n' "$(uname -r)" "$(nproc)" "$(cut -d. -f1 /proc/uptime)"
dmesg -r -c | sed 's/^/@kernel /'
while read -r name seconds command; do
	# A line of its own, whatever the program before left unfinished.
	printf '\n@begin %s\n' "$name"
	begin=$(cut -d' ' -f1 /proc/uptime)
	timeout -s KILL "$seconds" sh -c "$command" </dev/null 2>&1
	status=$?
	now=$(cut -d' ' -f1 /proc/uptime)
	printf '\n'
	dmesg -r -c | sed 's/^/@kernel /'
	echo "@end $name $status $(awk "BEGIN { print $now - $begin }")"
	rm -rf /tmp/* /dev/shm/*
done </progs/jobs
echo "@done"
# The end of the session hangs the terminal up, and what was not sent yet is lost.
sleep 1
