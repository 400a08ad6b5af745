#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Debian's stock kernel from its first instruction to its last: by bzImage and by PVH, with 1, 2 and
4 processors, from 256 MiB to 8 GiB; what it says about the machine, what runs in it, and every way
in which it can end.

usage: boot_test.py [CASE...]
"""
import hashlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time

from guest import BASE_CMDLINE, BUILD, MENU, PROMPT, RINGER, SOURCE, Files, Guest, Score, slowness, stage

score = Score()
check = score.check
files = Files()

# Kernel messages of level warning and worse that may come: only where the host is the cause. vCPUs are
# threads, and a loaded host lets them wait.
LATE_HOST = [
    r"clocksource: timekeeping watchdog on CPU\d+: .*",
    r"hrtimer: interrupt took \d+ ns",
    r"sched: (RT|DL) (throttling|replenish).*",
]
# Flags of the guest model that need nothing of the host.
FLAGS = "fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat fxsr sse sse2 syscall nx " \
        "pdpe1gb rdtscp lm pcid x2apic tsc_deadline_timer hypervisor invpcid fsgsbase tsc_adjust " \
        "smep smap umip arat arch_capabilities".split()
HOST_FLAGS = "avx avx2 fma bmi1 bmi2 aes pclmulqdq sse4_2 popcnt movbe f16c rdrand rdseed adx " \
             "xsave xsaveopt erms sha_ni constant_tsc nonstop_tsc".split()
NEVER = "mpx pku ospke vmx svm amx_tile la57 rtm hle cet_ss vme monitor".split()


def host_flags():
    with open("/proc/cpuinfo", encoding="utf-8") as f:
        return re.search(r"^flags\s*: (.*)$", f.read(), re.M)[1].split()


def dmesg_gate(text, what):
    """No line of level warning or worse, and no sign of a stall."""
    lines = re.findall(r"^<([0-4])>\[[^]]*\] (.*)$", text, re.M)
    bad = [message for _, message in lines
           if not any(re.fullmatch(e, message) for e in LATE_HOST)]
    check("Linux version" in text and not bad, f"{what}: warnings in dmesg: {bad}")
    stalls = re.findall(r".*(?:soft lockup|rcu.*stall|hung task|Call Trace|unstable|"
                        r"not responding|BUG:|WARNING:|Oops).*", text)
    check(not stalls, f"{what}: in dmesg: {stalls[:5]}")


def look_at_cpus(g, cpus, what):
    info = g.sh("cat /proc/cpuinfo")
    check(info.count("processor\t:") == cpus, f"{what}: {info.count('processor')} CPUs")
    check(g.sh("nproc") == str(cpus), f"{what}: nproc")
    flags = re.search(r"^flags\s*: (.*)$", info, re.M)[1].split()
    missing = [f for f in FLAGS + [f for f in HOST_FLAGS if f in host_flags()] if f not in flags]
    check(not missing, f"{what}: CPU flags {missing} are missing")
    extra = [f for f in flags if f in NEVER or f.startswith("avx512") or
             f in HOST_FLAGS and f not in host_flags()]
    check(not extra, f"{what}: CPU flags {extra} must not be there")
    with open("/proc/cpuinfo", encoding="utf-8") as f:
        host = f.read()
    for field in ["model name", "cpu family", "model"]:
        here = re.search(rf"^{field}\s*: (.*)$", host, re.M)[1].strip()
        there = re.search(rf"^{field}\s*: (.*)$", info, re.M)[1].strip()
        if field == "model" and "avx512f" in host_flags():
            here = "79"  # doc/cpu-model.md: what promises AVX-512 is not shown
        check(here == there, f"{what}: {field} {there}, not {here}")
    # What mitigations cost is paid for nothing: the host has its own.
    for line in g.sh("cd /sys/devices/system/cpu/vulnerabilities; grep . *").splitlines():
        name, state = line.split(":", 1)
        cheap = {"spectre_v1": "Mitigation: usercopy/swapgs barriers",
                 "spectre_v2": "Mitigation: Enhanced / Automatic IBRS",
                 "retbleed": "Mitigation: Enhanced IBRS",
                 "spec_rstack_overflow": "Mitigation: SMT disabled"}
        check(state == "Not affected" or state.startswith(cheap.get(name, "?")),
              f"{what}: mitigation of {line}")
        check("Retpoline" not in state and "SW loop" not in state and "SW BHB" not in state,
              f"{what}: mitigation of {line}")


def look_at_devices(g, what):
    tables = set(g.sh("ls /sys/firmware/acpi/tables").split())
    check({"APIC", "DSDT", "FACP", "FACS"} <= tables, f"{what}: ACPI tables {tables}")
    irqs = g.sh("cat /proc/interrupts")
    for line in [r"^ *4: .*IO-APIC +4-edge +ttyS0", r"^ *8: .*IO-APIC +8-edge +rtc0",
                 r"^ *9: .*IO-APIC +9-fasteoi +acpi"]:
        check(re.search(line, irqs, re.M), f"{what}: {line} not in {irqs}")
    for cpu, count in enumerate(re.search(r"^ *LOC:((?: +\d+)+)", irqs, re.M)[1].split()):
        check(int(count) > 20, f"{what}: {count} timer interrupts on CPU {cpu}")
    for name in ["SPU", "ERR", "MIS"]:
        check(re.search(rf"^ *{name}:(?: +0)+\b", irqs, re.M), f"{what}: {name}: {irqs}")
    clocks = g.sh("cd /sys/devices/system/clocksource/clocksource0; cat available_clocksource "
                  "current_clocksource").splitlines()
    check("tsc" in clocks[0] and "kvm-clock" in clocks[0] and "acpi_pm" in clocks[0] and
          clocks[1] in ("tsc", "kvm-clock"), f"{what}: clock sources {clocks}")
    check("rtc_cmos" in g.sh("cat /sys/class/rtc/rtc0/name"), f"{what}: rtc0")
    check(g.sh("cat /sys/class/tty/ttyS0/type") == "4", f"{what}: ttyS0 is no 16550A")
    check(g.sh("cat /sys/class/tty/ttyS0/irq") == "4", f"{what}: ttyS0's interrupt")
    for module in ["pvpanic", "button", "evdev"]:
        check(g.sh(f"test -d /sys/module/{module} && echo yes") == "yes", f"{what}: {module}")


def look_at_memory(g, memory, cpus, what):
    size = int(memory[:-1]) * (1024 if memory[-1] == "M" else 1 << 20)  # KiB
    meminfo = g.sh("cat /proc/meminfo")
    total = int(re.search(r"MemTotal: +(\d+) kB", meminfo)[1])
    # The kernel keeps its own text and a struct page for each page.
    check(size - size // 60 - 140_000 < total < size, f"{what}: {total} kB of {memory}")
    if size > 3 << 20:
        check("100000000-" in g.sh("cat /proc/iomem"), f"{what}: no RAM above 4 GiB")
    # Memory that the guest never touched costs the host nothing; a processor has 9 MiB in large pages.
    # Pss: the translator has RAM and its code mapped twice.
    with open(f"/proc/{g.proc.pid}/smaps_rollup", encoding="ascii") as f:
        pss = int(re.search(r"^Pss:\s+(\d+) kB", f.read(), re.M)[1])
    check(pss < 250_000 + 10_000 * cpus + size // 30, f"{what}: {pss} kB in use for {memory}")
    score.note(f"{what}: guest has {total >> 10} MiB of {memory}, host pays {pss >> 10} MiB")


def look_at_time(g, what):
    before = time.time()
    now = int(g.sh("date -u +%s"))
    check(before - 2 <= now <= time.time() + 2, f"{what}: date is off by {now - before:.1f} s")
    hw = g.sh("hwclock -ur 2>/dev/null || hwclock -u")
    check(time.strftime("%Y", time.gmtime()) in hw, f"{what}: hwclock says {hw!r}")


def processors_talk(g, cpus, what):
    """Work that moves between processors; their interrupts go up."""
    def count(name):
        text = g.sh("cat /proc/interrupts")
        return [int(n) for n in re.search(rf"^ *{name}:((?: +\d+)+)", text, re.M)[1].split()]

    before = [count(n) for n in ("RES", "CAL")]
    for _ in range(3):
        for cpu in range(cpus):
            where = g.sh(f"taskset -c {cpu} sh -c 'cut -d\" \" -f39 /proc/self/stat'")
            check(where == str(cpu), f"{what}: on CPU {where}, not {cpu}")
    g.sh(f"probe self shootdown; for i in $(seq {4 * cpus}); do /bin/true & done; wait", 120)
    after = [count(n) for n in ("RES", "CAL")]
    rose = sum(map(sum, after)) - sum(map(sum, before))
    check(rose > 0 if cpus > 1 else rose >= 0, f"{what}: interprocessor interrupts {before} {after}")
    check(len(after[0]) == cpus, f"{what}: {len(after[0])} columns in /proc/interrupts")
    if cpus > 1:
        g.sh("echo 0 > /sys/devices/system/cpu/cpu1/online")
        check(g.sh("nproc") == str(cpus - 1), f"{what}: CPU 1 stays")
        g.sh("echo 1 > /sys/devices/system/cpu/cpu1/online")
        check(g.sh("nproc") == str(cpus) and g.sh("taskset -c 1 echo here") == "here",
              f"{what}: CPU 1 does not come back")


def work(g, what):
    """Commands whose results are known."""
    def same(command, wanted, seconds=90):
        got = g.sh(command, seconds)
        check(got == wanted, f"{what}: {command}: {got!r}, not {wanted!r}")

    same("echo $((6 * 7))", "42")
    same("cat /proc/sys/kernel/ostype /proc/sys/kernel/hostname", "Linux\nringer")
    same("cat /proc/sys/kernel/tainted", "0")
    same("echo 17 > /proc/sys/vm/swappiness; cat /proc/sys/vm/swappiness", "17")
    same("i=0; s=0; while [ $i -lt 6000 ]; do i=$((i + 1)); s=$((s + i * i)); done; echo $s",
         str(sum(i * i for i in range(6001))))
    lines = "".join(f"{i}\n" for i in range(1, 20001)).encode()
    same("seq 1 20000 > /tmp/seq; sha256sum < /tmp/seq | cut -c1-64",
         hashlib.sha256(lines).hexdigest())
    same("md5sum < /tmp/seq | cut -c1-32", hashlib.md5(lines).hexdigest())
    same("gzip -c /tmp/seq > /tmp/seq.gz; gunzip -c /tmp/seq.gz | cmp - /tmp/seq && echo same", "same")
    same("bzip2 -c /tmp/seq | bunzip2 -c | cmp - /tmp/seq && echo same", "same")
    same("head -n 5000 /tmp/seq > /tmp/s5; tac /tmp/s5 | sort -n | cmp - /tmp/s5 && echo same", "same")
    same("tar cf - -C /tmp seq seq.gz | tar tf - | sort | tr '\\n' ' '", "seq seq.gz ")
    same("dd if=/dev/zero bs=64k count=100 2>/dev/null | sha256sum | cut -c1-64",
         hashlib.sha256(bytes(6553600)).hexdigest())
    same("dd if=/dev/urandom of=/tmp/r bs=64k count=20 2>/dev/null; cp /tmp/r /tmp/r2; "
         "cmp /tmp/r /tmp/r2 && wc -c < /tmp/r", str(20 * 65536))
    same("i=0; n=0; while [ $i -lt 100 ]; do /bin/true && n=$((n + 1)); i=$((i + 1)); done; echo $n",
         "100", 180)
    same("for i in $(seq 30); do (echo $i) & done | sort -n | tr '\\n' ' '",
         "".join(f"{i} " for i in range(1, 31)))
    same("awk 'BEGIN { for (i = 1; i <= 10; i++) printf \"%.6f \", i * 3.25 / 7 }'",
         "".join(f"{i * 3.25 / 7:.6f} " for i in range(1, 11)))
    same("echo '2^200' | bc", str(2 ** 200))
    same("ping -c 2 127.0.0.1 | grep -c 'bytes from'", "2")
    same("echo hello | nc -l -p 99 > /tmp/got & sleep 1; echo to you | nc 127.0.0.1 99; wait; "
         "cat /tmp/got", "hello\nto you")
    same("mkdir /tmp/m; mount -t tmpfs none /tmp/m; echo x > /tmp/m/f; umount /tmp/m; ls /tmp/m", "")
    same("sh -c 'kill -SEGV $$' ; echo $?", "Segmentation fault\n139")
    same("grep -c . /proc/kallsyms | sed 's/...$//' | grep -c .", "1")
    long = "x" * 3000
    same(f"echo {long} | wc -c", "3001")  # faster than the UART's FIFO can take it


def self_test(g, what):
    """The probe's own checks, and that they leave the terminal alone."""
    text = g.sh("probe self", 300, code=None)
    results = re.findall(r"^(ok|FAILED) (\S+?):? (.*)$", text, re.M)
    for verdict, name, rest in results:
        check(verdict == "ok", f"{what}: {name}: {rest}")
    check(len(results) == 13, f"{what}: {len(results)} of 13 checks: {text}")
    check(g.raw(), f"{what}: the terminal is not raw any more")


def boot(g, what):
    seconds = g.boot(90)
    score.note(f"{what}: shell after {seconds:.1f} s")
    g.script()


def visit(g, cpus, memory, what):
    """Everything that a booted guest is asked."""
    uname = g.sh("uname -a")
    check(re.match(r"Linux ringer \S+-cloud-amd64 #1 SMP .* x86_64", uname), f"{what}: {uname}")
    look_at_cpus(g, cpus, what)
    look_at_devices(g, what)
    look_at_memory(g, memory, cpus, what)
    look_at_time(g, what)
    processors_talk(g, cpus, what)
    dmesg_gate(g.sh("dmesg -r"), what)


# ---- the cases: each a boot, and each another way to end ----

def case_bzimage_1():
    what = "bzImage, 1 CPU"
    with Guest(files, memory="256M") as g:
        boot(g, what)
        visit(g, 1, "256M", what)
        work(g, what)
        self_test(g, what)
        dmesg = g.sh("dmesg")
        for line in [r"Command line: " + re.escape(BASE_CMDLINE), "BIOS-provided physical RAM map",
                     "Hypervisor detected: KVM", "ACPI: RSDP", "IOAPIC\\[0\\]: apic_id",
                     "TSC deadline timer available", "x2apic enabled", "16550A", "rtc_cmos",
                     r"tsc: Detected \d+\.\d+ MHz processor", "NX .* protection: active"]:
            check(re.search(line, dmesg), f"{what}: no {line!r} in dmesg")
        begin = time.monotonic()
        g.sh("sleep 2")
        check(1.9 < time.monotonic() - begin < 2 + 1 * slowness, f"{what}: sleep 2 took "
              f"{time.monotonic() - begin:.2f} s")
        g.send("poweroff\n")
        check(g.wait() == 0, f"{what}: poweroff: code {g.proc.returncode}; {g.tail(300)}")
        check(g.restored(), f"{what}: the terminal is not restored")
        check("the guest powered off" in g.text(), f"{what}: no word of the end")


def case_bzimage_2():
    what = "bzImage, 2 CPUs"
    with Guest(files, cpus=2, memory="4G") as g:
        boot(g, what)
        visit(g, 2, "4G", what)
        self_test(g, what)
        g.send("reboot\n")
        g.expect("Linux version", 60)
        boot(g, f"{what}, again")
        check(g.sh("cat /proc/sys/kernel/tainted") == "0" and g.sh("nproc") == "2",
              f"{what}: after the reboot")
        look_at_time(g, f"{what}, again")
        dmesg_gate(g.sh("dmesg -r"), f"{what}, again")
        g.send("poweroff\n")
        check(g.wait() == 0, f"{what}: poweroff: code {g.proc.returncode}; {g.tail(300)}")


def case_bzimage_4():
    what = "bzImage, 4 CPUs"
    with Guest(files, "--no-reboot", cpus=4, memory="8G") as g:
        boot(g, what)
        visit(g, 4, "8G", what)
        self_test(g, what)
        g.send("reboot\n")
        check(g.wait() == 32, f"{what}: --no-reboot: code {g.proc.returncode}; {g.tail(300)}")
        check(g.restored(), f"{what}: the terminal is not restored")


def case_pvh_1():
    what = "PVH, 1 CPU"
    with Guest(files, kernel=files.vmlinux, memory="512M") as g:
        boot(g, what)
        visit(g, 1, "512M", what)
        check("Booting paravirtualized kernel" in g.text(), f"{what}: no PVH")
        g.send("sync; echo c > /proc/sysrq-trigger\n")
        check(g.wait() == 34, f"{what}: panic: code {g.proc.returncode}; {g.tail(300)}")
        check("sysrq triggered crash" in g.text().lower() or "sysrq" in g.text().lower(),
              f"{what}: no word of the panic; {g.tail(500)}")


def case_pvh_2():
    what = "PVH, 2 CPUs"
    with Guest(files, kernel=files.vmlinux, cpus=2, memory="4G", cmdline="reboot=t") as g:
        boot(g, what)
        visit(g, 2, "4G", what)
        g.send("reboot -f\n")
        check(g.wait() == 33, f"{what}: triple fault: code {g.proc.returncode}; {g.tail(600)}")
        check(re.search(r"rip +[0-9a-f]{16}", g.text()), f"{what}: no registers; {g.tail(600)}")


def case_pvh_4():
    what = "PVH, 4 CPUs"
    with Guest(files, "--exit-stats", kernel=files.vmlinux, cpus=4, memory="512M") as g:
        boot(g, what)
        visit(g, 4, "512M", what)
        g.send(MENU + b"p")
        check(g.wait() == 0, f"{what}: power button: code {g.proc.returncode}; {g.tail(600)}")
        check(re.search(r"^pio-out +\d+ +[\d.]+", g.text(), re.M),
              f"{what}: no --exit-stats; {g.tail(600)}")


def case_shell():
    """The shell as a user has it: line editing, job control, Ctrl-C; and SIGTERM at the end. The
    guest is the one that `ringer run` finds by itself."""
    what = "shell"
    subprocess.run(["make", "--no-print-directory", "-C", SOURCE, "guest", f"BUILD={BUILD}"],
                   check=True, timeout=900, stdout=subprocess.DEVNULL)
    with Guest(files, command=[RINGER, "run"]) as g:
        score.note(f"{what}: after {g.boot():.1f} s")
        g.send("echo $((6 * 8\x7f7))\r")  # a key is taken back
        g.expect(rb"\n42\r\n")
        g.send("sleep 1000; echo $((100 + 11))\r")
        g.pump(1)
        g.send("\x03")
        g.expect(PROMPT)
        g.send("echo $((7 * 11))\r")
        g.expect(rb"\n77\r\n")
        check(b"\n111\r\n" not in g.out, f"{what}: Ctrl-C ended sleep only")
        g.send("sleep 1001 &\r")
        g.expect(PROMPT)
        g.send("jobs\r")
        g.expect(rb"Running +sleep 1001")
        g.send("kill %1; cat\r")
        g.pump(1)
        g.send("text\r\x1a")
        g.expect(rb"Stopped +cat")
        g.proc.send_signal(signal.SIGTERM)
        check(g.wait() == 143, f"{what}: SIGTERM: code {g.proc.returncode}; {g.tail(300)}")
        check(g.restored(), f"{what}: the terminal is not restored")


def case_script():
    """The initramfs's way to run a script instead of the shell, console in a file."""
    what = "script"
    with tempfile.TemporaryDirectory() as tmp:
        script, initrd = os.path.join(tmp, "script"), os.path.join(tmp, "initramfs.cpio")
        log = os.path.join(tmp, "console.log")
        with open(script, "w", encoding="ascii") as f:
            f.write("echo $((6 * 7)); probe self cpuid; exit 3\n")
        subprocess.run([os.path.join(SOURCE, "tools/mkinitramfs"), "--add",
                        f"{script}:/ringer-test.sh", "--add", f"{files.probe}:/bin/probe", initrd],
                       check=True, timeout=300, stdout=subprocess.DEVNULL)
        with Guest(files, "--console", f"file:{log}", initrd=initrd, cmdline="quiet") as g:
            check(g.wait(90) == 0, f"{what}: code {g.proc.returncode}; {g.tail(300)}")
        with open(log, encoding="utf-8", errors="replace") as f:
            text = f.read()
        check(re.search(r"^42$", text, re.M) and "ok cpuid" in text and "exit status 3" in text,
              f"{what}: {text[-600:]!r}")


CASES = {name[5:]: f for name, f in list(globals().items()) if name.startswith("case_")}


def main():
    names = sys.argv[1:] or list(CASES)
    score.note(f"this machine is slow by {slowness:.1f}")
    for name in names:
        with stage(score, name):
            CASES[name]()
    score.end()


if __name__ == "__main__":
    main()
