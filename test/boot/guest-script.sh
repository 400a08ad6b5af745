#!/bin/sh
# SPDX-License-Identifier: MIT
# What the boot test asks of a guest; test_boot.py reads the answers.
ask() {
	echo "ask: $*"
	"$@"
	echo "status: $?"
}
ask uname -a
ask cat /proc/cpuinfo
ask cat /proc/interrupts
ask ls /sys/firmware/acpi/tables
ask cat /sys/devices/system/clocksource/clocksource0/current_clocksource
ask cat /proc/meminfo
ask nproc
ask date -u +%s
ask date -u +%s
ask sleep 10
# Work for the processor, the memory and the scheduler, with results that are known.
ask sh -c 'i=0; s=0; while [ $i -lt 20000 ]; do i=$((i + 1)); s=$((s + i * i)); done; echo $s'
ask sh -c 'seq 1 20000 | md5sum'
ask sh -c 'seq 5000 -1 1 | sort -n | md5sum; seq 1 5000 | md5sum'
ask sh -c 'dd if=/dev/zero bs=64k count=100 2>/dev/null | gzip -c | gunzip -c | sha256sum'
ask sh -c 'i=0; while [ $i -lt 50 ]; do /bin/true & i=$((i + 1)); done; wait; echo forked'
ask sh -c 'awk "BEGIN { for (i = 1; i <= 10; i++) printf \"%.6f \", i * 3.25 / 7 }"; echo'
ask cat /proc/interrupts
ask dmesg -r
