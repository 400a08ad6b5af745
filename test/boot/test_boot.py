#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Boot Debian's stock kernel, by each way in, to a shell, and out again.

usage: test_boot.py RINGER BUILD [--engine E] [CASE...]

The guest (kernel package, initramfs) is made in BUILD/guest as `make run` makes it; what each
machine printed is in BUILD/boot-logs.
"""
import hashlib
import argparse
import os
import pty
import re
import select
import signal
import subprocess
import sys
import tempfile
import time

here = os.path.dirname(os.path.abspath(__file__))
tools = os.path.join(os.path.dirname(os.path.dirname(here)), "tools")
MODULES = "pvpanic-mmio,button,evdev"
MENU = b"\x1d"
BOOT_LIMIT = 120  # seconds to the shell, on a loaded machine
passed = failed = 0


def check(ok, what):
    global passed, failed
    if ok:
        passed += 1
    else:
        failed += 1
        print("failed: " + what, flush=True)


class Vm:
    """ringer on a terminal of its own; what it prints comes with the time."""

    log_dir = "."

    def __init__(self, ringer, args):
        self.out = b""
        self.times = []  # (offset in out, host time)
        self.master, slave = pty.openpty()
        self.begin = time.monotonic()
        self.proc = subprocess.Popen([ringer, "run", *args], stdin=slave, stdout=slave,
                                     stderr=slave, start_new_session=True)
        os.close(slave)

    def read(self, seconds):
        ready, _, _ = select.select([self.master], [], [], seconds)
        if ready:
            try:
                data = os.read(self.master, 65536)
            except OSError:  # the other side is gone
                return False
            self.times.append((len(self.out), time.monotonic()))
            self.out += data
        return True

    def expect(self, pattern, seconds, since=0):
        """The match in what came after `since`, or None when the time is over or the VM ended."""
        end = time.monotonic() + seconds
        while True:
            m = re.compile(pattern, re.M).search(self.out, since)
            if m or time.monotonic() > end:
                return m
            if not self.read(0.2):
                return re.compile(pattern, re.M).search(self.out, since)

    def type(self, text):
        mark = len(self.out)
        os.write(self.master, text)
        return mark

    def time_of(self, offset):
        return max((t for o, t in self.times if o <= offset), default=self.begin)

    def end(self, code, what, seconds=60):
        end = time.monotonic() + seconds
        while self.proc.poll() is None and time.monotonic() < end:
            if not self.read(0.2):
                time.sleep(0.05)
        if self.proc.poll() is None:
            self.proc.kill()
        self.proc.wait()
        while self.read(0.1) and select.select([self.master], [], [], 0)[0]:
            pass
        os.close(self.master)
        with open(os.path.join(self.log_dir, re.sub(r"\W+", "-", what) + ".log"), "wb") as f:
            f.write(self.out)
        tail = self.out[-1500:].decode(errors="replace") if self.proc.returncode != code else ""
        check(self.proc.returncode == code, f"{what}: code {self.proc.returncode}, not {code}\n{tail}")


class Setup:
    def __init__(self, opts, tmp):
        self.ringer = os.path.abspath(opts.ringer)
        self.engine = opts.engine
        self.guest = os.path.join(os.path.abspath(opts.build), "guest")
        Vm.log_dir = os.path.join(os.path.abspath(opts.build), "boot-logs")
        os.makedirs(Vm.log_dir, exist_ok=True)
        self.tmp = tmp
        os.makedirs(self.guest, exist_ok=True)
        subprocess.run([os.path.join(tools, "get-kernel"), self.guest], check=True)
        self.kernel = os.path.join(self.guest, "vmlinuz")
        self.shell = os.path.join(tmp, "shell.cpio")
        self.script = os.path.join(tmp, "script.cpio")
        self.initramfs(self.shell)
        script = os.path.join(here, "guest-script.sh")
        self.initramfs(self.script, "--add", f"{script}:/ringer-test.sh")

    def initramfs(self, out, *args):
        subprocess.run([os.path.join(tools, "mkinitramfs"), "--modules", MODULES, "--tree",
                        os.path.join(self.guest, "tree"), *args, out], check=True)

    def start(self, *args, kernel=None, initrd=None, cmdline="console=ttyS0 panic=-1"):
        return Vm(self.ringer, ["--engine", self.engine, "--kernel", kernel or self.kernel,
                                "--initrd", initrd or self.shell, "--cmdline", cmdline, *args])

    def to_shell(self, vm, what):
        m = vm.expect(rb"^ringer:.*# ", BOOT_LIMIT)
        check(m, f"{what}: no shell\n{vm.out[-2000:].decode(errors='replace')}")
        if m:
            print(f"{what}: shell after {time.monotonic() - vm.begin:.1f} s", flush=True)
        return m


def answers(vm):
    """The guest script's questions: {question: [(text, status, seconds it took)]}."""
    found = {}
    text = vm.out.replace(b"\r\n", b"\n")  # offsets change: times are taken from vm.out
    times = [vm.time_of(m.start()) for m in re.finditer(rb"^(ask|status): ", vm.out, re.M)]
    parts = re.findall(rb"^ask: (.*)\n((?:.*\n)*?)status: (\d+)$", text, re.M)
    for i, (question, answer, status) in enumerate(parts):
        took = times[2 * i + 1] - times[2 * i] if 2 * i + 1 < len(times) else 0
        found.setdefault(question.decode(), []).append(
            (answer.decode(errors="replace"), int(status), took))
    return found


def check_answers(vm, cpus, what):
    found = answers(vm)

    def answer(question, index=0):
        for q, a in found.items():
            if q.startswith(question) and index < len(a):
                return a[index]
        return ("", -1, 0.0)

    for q, a in found.items():
        check(all(status == 0 for _, status, _ in a), f"{what}: {q}: {a}")
    check(re.search(r"^Linux ringer \S+-cloud-amd64 .* x86_64", answer("uname")[0]),
          f"{what}: uname: {answer('uname')}")
    info = answer("cat /proc/cpuinfo")[0]
    check(info.count("processor\t:") == cpus, f"{what}: CPUs: {info}")
    flags = re.search(r"^flags\s*: (.*)$", info, re.M)
    for flag in ["lm", "nx", "sse2", "avx2", "smep", "smap", "x2apic", "tsc_deadline_timer", "pcid",
                 "hypervisor"]:
        check(flags and flag in flags[1].split(), f"{what}: no {flag} in /proc/cpuinfo")
    irqs = answer("cat /proc/interrupts", 1)[0]
    for line in [r"^ *4: .*ttyS0", r"^ *8: .*rtc0", r"^ *9: .*acpi", r"^ *LOC: +[1-9]"]:
        check(re.search(line, irqs, re.M), f"{what}: {line} not in {irqs}")
    check(re.search(r"^ *ERR: +0$", irqs, re.M) and re.search(r"^ *MIS: +0$", irqs, re.M),
          f"{what}: interrupt errors: {irqs}")
    tables = answer("ls /sys/firmware/acpi")[0].split()
    check({"APIC", "DSDT", "FACP"} <= set(tables), f"{what}: ACPI tables {tables}")
    check(answer("cat /sys/devices/system/clocksource")[0].strip() in ("tsc", "kvm-clock"),
          f"{what}: clock source {answer('cat /sys/devices/system/clocksource')}")
    check(answer("nproc")[0].strip() == str(cpus), f"{what}: nproc {answer('nproc')}")
    total = re.search(r"MemTotal: +(\d+) kB", answer("cat /proc/meminfo")[0])
    check(total and 400_000 < int(total[1]) < 524_288, f"{what}: memory {total and total[1]} kB")
    now = answer("date")[0].strip()
    check(now.isdigit() and abs(int(now) - time.time()) < 60, f"{what}: date {now}")
    took = answer("sleep 10")[2]
    check(9.9 <= took <= 10.1, f"{what}: sleep 10 took {took:.3f} s")
    check(answer("sh -c i=0; s=0")[0].strip() == str(sum(i * i for i in range(20001))),
          f"{what}: arithmetic {answer('sh -c i=0; s=0')}")
    text = "".join(f"{i}\n" for i in range(1, 20001)).encode()
    check(hashlib.md5(text).hexdigest() in answer("sh -c seq 1 20000")[0], f"{what}: md5sum")
    both = re.findall(r"[0-9a-f]{32}", answer("sh -c seq 5000")[0])
    text = "".join(f"{i}\n" for i in range(1, 5001)).encode()
    check(both == [hashlib.md5(text).hexdigest()] * 2, f"{what}: sort {both}")
    check(hashlib.sha256(bytes(6553600)).hexdigest() in answer("sh -c dd")[0], f"{what}: gzip")
    check("forked" in answer("sh -c i=0; while")[0], f"{what}: fork")
    roots = " ".join(f"{i * 3.25 / 7:.6f}" for i in range(1, 11))
    check(answer("sh -c awk")[0].strip() == roots, f"{what}: floating point {answer('sh -c awk')}")
    check(len(found) == 16, f"{what}: {len(found)} questions answered, not 16")
    check_dmesg(answer("dmesg")[0], what)


def check_dmesg(text, what):
    lines = re.findall(r"^<([0-4])>\[[^]]*\] (.*)$", text, re.M)
    bad = [message for _, message in lines]
    check("Linux version" in text and not bad, f"{what}: warnings in dmesg: {bad}")


# ---- cases ----

def case_bzimage(s):
    vm = s.start("-c", "2", initrd=s.script, cmdline="console=ttyS0 quiet panic=-1")
    check(vm.expect(rb"ringer-script: exit status 0", 300), "bzImage: the script does not end")
    vm.end(0, "bzImage")
    check_answers(vm, 2, "bzImage")


def case_pvh(s):
    vmlinux = os.path.join(s.tmp, "vmlinux")
    subprocess.run([os.path.join(tools, "extract-vmlinux"), s.kernel, vmlinux], check=True)
    vm = s.start(kernel=vmlinux, initrd=s.script, cmdline="console=ttyS0 quiet panic=-1")
    check(vm.expect(rb"ringer-script: exit status 0", 300), "PVH: the script does not end")
    vm.end(0, "PVH")
    check_answers(vm, 1, "PVH")


def case_shell(s):
    vm = s.start("-m", "1G", cmdline="console=ttyS0 quiet panic=-1")
    if s.to_shell(vm, "shell"):
        mark = vm.type(b"echo $((6 * 7))\r")
        check(vm.expect(rb"^42\r", 20, mark), "shell: 6 * 7")
        mark = vm.type(b"sleep 1000; echo $((100 + 11))\r")
        time.sleep(1)
        vm.type(b"\x03")  # ends sleep, and the whole line with it
        mark = vm.type(b"\recho $((7 * 11))\r")
        check(vm.expect(rb"^77\r", 20, mark), "shell: Ctrl-C")
        # A guest that never rests: the menu still works, and the guest still gets keys.
        vm.type(b"while true; do :; done\r")
        time.sleep(1)
        mark = vm.type(MENU + b"r")
        check(vm.expect(rb"(?i)rip ", 20, mark), "busy guest: registers")
        mark = vm.type(MENU + b"s")
        check(vm.expect(rb"paused", 20, mark), "busy guest: pause")
        mark = vm.type(MENU + b"s")
        check(vm.expect(rb"going on", 20, mark), "busy guest: going on")
        mark = vm.type(b"\x03echo $((9 * 11))\r")
        check(vm.expect(rb"^99\r", 20, mark), "busy guest: Ctrl-C")
        vm.type(b"poweroff\r")
    vm.end(0, "shell: poweroff")


def case_button(s):
    vm = s.start(cmdline="console=ttyS0 quiet panic=-1")
    if s.to_shell(vm, "power button"):
        mark = vm.type(MENU + b"p")
        check(vm.expect(rb"power button is pressed", 10, mark), "power button: the menu")
    vm.end(0, "power button")


def case_panic(s):
    vm = s.start(cmdline="console=ttyS0 quiet panic=-1")
    if s.to_shell(vm, "panic"):
        vm.type(b"echo c > /proc/sysrq-trigger\r")
    vm.end(34, "panic")


def case_reboot(s):
    vm = s.start("-c", "2", cmdline="console=ttyS0 panic=-1")
    if s.to_shell(vm, "reboot"):
        mark = vm.type(b"reboot\r")
        check(vm.expect(rb"Linux version", 30, mark), "reboot: no second boot")
        check(vm.expect(rb"^ringer:.*# ", BOOT_LIMIT, mark + 100), "reboot: no second shell")
        vm.type(b"poweroff\r")
    vm.end(0, "reboot")
    vm = s.start("--no-reboot", cmdline="console=ttyS0 quiet")
    if s.to_shell(vm, "--no-reboot"):
        vm.type(b"reboot\r")
    vm.end(32, "--no-reboot")


def case_default(s):
    """Without --kernel and as `make run` leaves it: the guest beside the program."""
    beside = os.path.join(os.path.dirname(s.ringer), "guest")
    initramfs = os.path.join(beside, "initramfs.cpio")
    if beside != s.guest:
        check(False, f"the program is not in the build folder: {s.ringer}")
        return
    s.initramfs(initramfs)
    vm = Vm(s.ringer, ["--engine", s.engine])
    if s.to_shell(vm, "no options"):
        vm.proc.send_signal(signal.SIGTERM)
    vm.end(143, "no options, SIGTERM")


def case_gdb(s):
    """A real gdb on the kernel: before it starts, at run time, and on a guest that never rests."""
    def symbols(names):
        """Debian ships no System.map: the kernel itself says where it lies."""
        vm = s.start(cmdline="console=ttyS0 quiet panic=-1 nokaslr")
        found = {}
        if s.to_shell(vm, "gdb, symbols"):
            mark = vm.type(f"grep -E ' ({'|'.join(names)})$' /proc/kallsyms; poweroff\r".encode())
            vm.expect(rb"System|System is going down|Power down", 60, mark)
            found = {n.decode(): int(a, 16) for a, n in
                     re.findall(rb"^([0-9a-f]{16}) \w (\w+)\r", vm.out, re.M)}
        vm.end(0, "gdb, symbols")
        return [found.get(n, 0) for n in names]

    def gdb(*commands, limit=120):
        args = [x for c in [f"target remote {path}", *commands] for x in ("-ex", c)]
        with open(os.path.join(s.tmp, "gdb.log"), "w+", encoding="utf-8") as log:
            try:
                subprocess.run(["gdb", "-q", "-nx", "-batch", "-ex", "set confirm off", *args],
                               stdout=log, stderr=log, timeout=limit, stdin=subprocess.DEVNULL)
            except subprocess.TimeoutExpired:
                log.write("(gdb did not end)")
            log.seek(0)
            return log.read()

    path = os.path.join(s.tmp, "gdb.sock")
    init, sched, jiffies = symbols(["kernel_init", "schedule", "jiffies_64"])
    check(init and sched and jiffies, f"gdb: symbols {init:#x} {sched:#x} {jiffies:#x}")
    vm = s.start("-c", "2", "--gdb", f"unix:{path},wait",
                 cmdline="console=ttyS0 quiet panic=-1 nokaslr")
    check(vm.expect(rb"gdb: listening", 20), "gdb: not listening")
    out = gdb(f"hbreak *{init:#x}", "continue", "p/x $rip", "delete", f"break *{sched:#x}", "continue",
              "p/x $rip", "p/x $cs", "p/x $cr0", "delete", "stepi", "stepi", "x/2i $rip",
              f"watch *(unsigned long *){jiffies:#x}", "continue", "info threads", "delete",
              f"p *(unsigned long *){jiffies:#x}", "detach")
    for pattern, what in [(f"= {init:#x}", "a hardware breakpoint"), (f"= {sched:#x}", "a breakpoint"),
                          (r"= 0x10\b", "CS"), (r"= 0x8005003[13]", "CR0"),
                          (r"Old value = \d+", "a watchpoint"), (r"New value = \d+", "a watchpoint"),
                          (r"Thread 1", "threads"), (r"Thread 2", "threads"),
                          (r"=> 0x\w+:\s+\w+", "disassembly"), (r"detached", "detach")]:
        check(re.search(pattern, out), f"gdb: {what}: no {pattern} in\n{out}")
    if s.to_shell(vm, "gdb"):
        vm.type(b"while true; do :; done\r")
        time.sleep(1)
        out = gdb("info registers rip", "p/x $cr3", "detach", limit=20)
        check(re.search(r"rip +0x[0-9a-f]+", out), f"gdb: a busy guest\n{out}")
        mark = vm.type(b"\x03echo $((13 * 11))\r")
        check(vm.expect(rb"^143\r", 20, mark), "gdb: the guest after gdb")
        vm.type(b"poweroff\r")
    vm.end(0, "gdb")


CASES = {"bzimage": case_bzimage, "pvh": case_pvh, "shell": case_shell, "button": case_button,
         "panic": case_panic, "reboot": case_reboot, "gdb": case_gdb,
         "default": case_default}


def main():
    ap = argparse.ArgumentParser(description="Boot Debian's stock kernel.")
    ap.add_argument("ringer")
    ap.add_argument("build")
    ap.add_argument("--engine", default="interp")
    ap.add_argument("cases", nargs="*", choices=[*CASES, []], metavar="CASE",
                    help="of " + " ".join(CASES))
    opts = ap.parse_args()
    with tempfile.TemporaryDirectory() as tmp:
        setup = Setup(opts, tmp)
        for name in opts.cases or CASES:
            begin = time.monotonic()
            CASES[name](setup)
            print(f"{name}: {time.monotonic() - begin:.0f} s", flush=True)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
