#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Real programs in the guest: busybox's, and from Debian's packages perl, python3, gcc, openssl, node
and stress-ng, each checking its own results; and what the kernel logs meanwhile.

usage: progs_test.py [--engine E] [-c N] [--only PROGRAM,...] [--full | --quick] [-v] [--shell IMAGE]

The programs run in Debian's kernel from an initramfs that tools/get-debs and tools/mkinitramfs make,
once, in build/guest; the scripts themselves are an archive of their own behind it, so a
changed script needs no new image. What each machine printed is in build/progs-logs.
For one failure: --only node -c 1 -v shows the program's output as it comes; --shell node boots the
same image to a shell, with the programs in /progs.
"""
import argparse
import fcntl
import hashlib
import importlib.machinery
import importlib.util
import os
import re
import select
import signal
import subprocess
import sys
import time

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.abspath(__file__))
SOURCE = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, os.path.join(SOURCE, "test/boot"))
from guest import BASE_CMDLINE, BUILD, FILES, RINGER, TOOLS, Score, slowness  # noqa: E402

SETUP_FAILED = 77

# What an image holds: packages (none: busybox alone), and the guest's memory.
IMAGES = {
    "busybox": ([], "512M"),
    "perl": (["perl", "libc-bin"], "1G"),
    "python": (["python3", "libpython3.11-testsuite", "libc-bin"], "1G"),
    "gcc": (["gcc", "g++", "libc6-dev"], "2G"),
    "openssl": (["openssl"], "512M"),
    "node": (["nodejs"], "2G"),
    "stress": (["stress-ng"], "2G"),
}

# Of python's own tests, in two parts.
PYTHON_TESTS = (
    "test_long test_json test_re test_struct test_threading test_math test_float test_hashlib "
    "test_zlib test_mmap test_thread test_queue test_fork1 test_select test_ctypes test_generators "
    "test_exceptions test_gc test_array test_sort test_strtod test_time")
PYTHON_MORE = (
    "test_decimal test_fractions test_bz2 test_lzma test_signal test_subprocess test_poll test_pickle "
    "test_unicode test_bytes test_set test_dict test_list test_heapq test_bisect test_itertools "
    "test_functools test_coroutines test_weakref test_memoryview test_complex test_cmath "
    "test_random test_statistics test_ast test_compile test_grammar test_dis test_contextlib "
    "test_enum test_dataclasses test_io test_fileio test_os test_datetime test_faulthandler "
    "test_xml_etree test_binascii test_codecs test_collections")


class Prog:
    """A program: its image, its command in the guest, seconds that it may take on hardware."""

    def __init__(self, image, command, seconds, quick=False, log=""):
        self.image, self.command, self.seconds, self.quick = image, command, seconds, quick
        # Kernel messages that this program brings about, being what it does.
        self.log = re.compile(log) if log else None


def python_tests(names):
    # Without what needs a compiler (gcc is in another image).
    return ("python3 -m test -o -j$(nproc) --timeout 3600 -i test_find_library_with_gcc "
            f"-i test_find_library_with_ld {names}")


# test_faulthandler and others kill themselves in every way.
PYTHON_LOG = r".*python3.*(segfault|trap|general protection).*"
STRESS_LOG = (r".*stress-ng.*(segfault|trap|general protection|invalid opcode|divide error|"
              r"bad frame|memfd_create).*|process '.*' started with executable stack|"
              r".*uses deprecated.*|.*using mmap.*|.*stress-ng.*")
PROGS = {
    "busybox": Prog("busybox", "sh /progs/busybox.sh", 30, quick=True),
    "perl": Prog("perl", "perl /progs/perl/main.pl", 20, quick=True),
    "python": Prog("python", "python3 /progs/python/main.py", 30, quick=True),
    "python-tests": Prog("python", python_tests(PYTHON_TESTS), 200, log=PYTHON_LOG),
    "python-more": Prog("python", python_tests(PYTHON_MORE), 500, log=PYTHON_LOG),
    "gcc-O0": Prog("gcc", "sh /progs/gcc.sh 0", 60),
    "gcc-O2": Prog("gcc", "sh /progs/gcc.sh 2", 90),
    "gcc-O3": Prog("gcc", "sh /progs/gcc.sh 3", 90),
    "gcc-one": Prog("gcc", "sh /progs/gcc.sh one", 20, quick=True),
    "gcc-tools": Prog("gcc", "sh /progs/gcc.sh tools", 90),
    "openssl-digests": Prog("openssl", "sh /progs/openssl.sh digests", 20, quick=True),
    "openssl-ciphers": Prog("openssl", "sh /progs/openssl.sh ciphers", 30),
    "openssl-keys": Prog("openssl", "sh /progs/openssl.sh keys", 30),
    "openssl-speed": Prog("openssl", "sh /progs/openssl.sh speed", 60),
    "node": Prog("node", "node /progs/node/main.js", 20, quick=True),
    "stress-cpu": Prog("stress", "sh /progs/stress.sh cpu 5", 120, log=STRESS_LOG),
    "stress-vm": Prog("stress", "sh /progs/stress.sh vm 5", 240, log=STRESS_LOG),
    "stress-fork": Prog("stress", "sh /progs/stress.sh fork 5", 120, log=STRESS_LOG),
    "stress-others": Prog("stress", "sh /progs/stress.sh others 2", 500, log=STRESS_LOG),
}
# How much longer than on hardware a program may take.
PATIENCE = {"kvm": 4, "bt": 15, "interp": 90, "tcg": 30}

# Never right, whatever the level: signs of a processor that computes wrongly or of time that stands.
ALARMS = re.compile(
    r"BUG|WARNING|Oops|soft lockup|hard LOCKUP|rcu.*(stall|detected stall)|hung_task|"
    r"blocked for more than|Call Trace|general protection|traps:|segfault|invalid opcode|"
    r"trap divide|unstable|[Mm]achine [Cc]heck|Uhhuh|not responding|Out of memory|oom-kill|"
    r"[Pp]anic|nobody cared|stuck|[Cc]orrupt|Bad page|scheduling while atomic|double fault")
QUIET = re.compile(
    # test/boot/boot_test.py has the reasons.
    r"PCI: Fatal: No config space access function found|PCI: System does not support PCI|"
    r"clocksource: timekeeping watchdog on CPU\d+: .*|hrtimer: interrupt took \d+ ns|"
    r"sched: (RT|DL) (throttling|replenish).*|"
    # The command line has panic=-1.
    r"(Kernel c|C)ommand line: .*|.*oops=panic.*")

# What QEMU brings about by itself.
TCG_OWN = re.compile(r"tsc: Marking TSC unstable|pci=nocrs")

score = Score()


class Machine:
    """The program's end is bounded; what it prints is kept, and shown as it comes with -v."""

    def __init__(self, command, log, show):
        self.out = b""
        self.log = open(log, "wb")
        self.show = show
        self.proc = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                     stderr=subprocess.STDOUT, start_new_session=True)

    def lines(self, limit):
        """Lines without their ends as they come; None when `limit()` is over."""
        rest = b""
        while True:
            left = limit() - time.monotonic()
            if left <= 0:
                yield None
                return
            if not select.select([self.proc.stdout], [], [], min(left, 1.0))[0]:
                continue
            data = os.read(self.proc.stdout.fileno(), 65536)
            if not data:
                if rest:
                    yield rest.decode(errors="replace").rstrip("\r")
                return
            self.log.write(data)
            self.log.flush()
            if self.show:
                sys.stdout.write(data.decode(errors="replace"))
                sys.stdout.flush()
            *whole, rest = (rest + data).split(b"\n")
            for line in whole:
                yield line.decode(errors="replace").rstrip("\r")

    def cpu_seconds(self):
        """What it used of the host's processors: on a loaded host this says more than a clock."""
        try:
            with open(f"/proc/{self.proc.pid}/stat", encoding="utf-8") as f:
                fields = f.read().rpartition(")")[2].split()
        except OSError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def end(self):
        """Its exit code."""
        try:
            self.proc.wait(20 * slowness)
        except subprocess.TimeoutExpired:
            os.killpg(self.proc.pid, signal.SIGKILL)
            self.proc.wait()
            return None
        finally:
            self.log.close()
            self.proc.stdout.close()
        return self.proc.returncode


def load_mkinitramfs():
    loader = importlib.machinery.SourceFileLoader("mkinitramfs", os.path.join(TOOLS, "mkinitramfs"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("mkinitramfs", loader))
    loader.exec_module(module)
    return module


class Setup:
    """Kernel, images, and the archive of scripts that goes behind each."""

    def __init__(self):
        os.makedirs(FILES, exist_ok=True)
        self.kernel = os.path.join(FILES, "vmlinuz")
        self.made = {}

    def call(self, *command):
        """A tool's standard output; whatever it lacks skips the suite, with its own words."""
        got = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                             timeout=1800)
        if got.returncode:
            raise RuntimeError((got.stderr.strip().splitlines() or ["no message"])[-1])
        return got.stdout

    def image(self, name):
        if name not in self.made:
            with open(os.path.join(FILES, ".lock"), "w", encoding="ascii") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                self.call(os.path.join(TOOLS, "get-kernel"), FILES)
                self.made[name] = self._image(name)
        return self.made[name]

    def _image(self, name):
        """Made anew when the packages or the tool changed."""
        packages, _ = IMAGES[name]
        tool = os.path.join(TOOLS, "mkinitramfs")
        listed = ""
        if packages:
            listed = self.call(os.path.join(TOOLS, "get-debs"), os.path.join(FILES, "debian"), *packages)
        stamp = hashlib.sha256(listed.encode())
        for path in (tool, os.path.join(TOOLS, "guest-init")):
            with open(path, "rb") as f:
                stamp.update(f.read())
        out = os.path.join(FILES, f"progs-{name}.cpio")
        try:
            with open(out + ".stamp", encoding="ascii") as f:
                if f.read() == stamp.hexdigest() and os.path.exists(out):
                    return out
        except FileNotFoundError:
            pass
        score.note(f"making the image {name} of {len(listed.split()) or 'no'} packages")
        command = [tool]
        if packages:
            with open(out + ".debs", "w", encoding="utf-8") as f:
                f.write(listed)
            command += ["--debs", out + ".debs"]
        print(self.call(*command, out), end="", flush=True)
        with open(out + ".stamp", "w", encoding="ascii") as f:
            f.write(stamp.hexdigest())
        return out

    def initrd(self, name, jobs, path):
        """The image with the scripts behind it: the kernel unpacks one archive after another."""
        cpio = load_mkinitramfs().Cpio()
        for folder, _, files in os.walk(HERE):
            for each in sorted(files):
                if each.endswith((".sh", ".py", ".pl", ".js", ".c", ".cc", ".h")):
                    source = os.path.join(folder, each)
                    cpio.tree(source, "progs/" + os.path.relpath(source, HERE))
        cpio.file("progs/jobs", jobs.encode())
        with open(path, "wb") as out:
            with open(self.image(name), "rb") as f:
                while data := f.read(1 << 22):
                    out.write(data)
            out.write(cpio.bytes())
        return path


def command_line(opts, setup, image, initrd, script):
    memory = IMAGES[image][1]
    cmdline = f"{BASE_CMDLINE} quiet {script} {opts.append}".strip()
    if opts.engine == "tcg":
        return ["qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-nographic",
                "-no-reboot", "-nodefaults", "-serial", "stdio", "-m", memory, "-smp", str(opts.cpus),
                "-kernel", setup.kernel, "-initrd", initrd, "-append", cmdline]
    return [RINGER, "run", "--engine", opts.engine, "-q", "--no-reboot", "-m", memory, "-c",
            str(opts.cpus), "--kernel", setup.kernel, "--initrd", initrd, "--cmdline", cmdline,
            *opts.ringer]


class Run:
    """One machine with one image, and the programs that run in it."""

    def __init__(self, opts, image, names):
        self.opts, self.image, self.names = opts, image, names
        self.where = f"{opts.engine}-c{opts.cpus}"
        self.patience = PATIENCE[opts.engine] * slowness
        self.now = None  # the program that runs
        self.table = []  # (program, verdict, cases, seconds, seconds of the host's processors)
        self.deadline = 0

    def limit(self, name):
        return PROGS[name].seconds * self.patience

    def go(self, setup):
        jobs = "".join(f"{n} {self.limit(n):.0f} {PROGS[n].command}\n" for n in self.names)
        stem = os.path.join(BUILD, "progs-logs", f"{self.where}-{self.image}")
        os.makedirs(os.path.dirname(stem), exist_ok=True)
        initrd = setup.initrd(self.image, jobs, stem + ".cpio")
        command = command_line(self.opts, setup, self.image, initrd, "ringer.script=/progs/guest.sh")
        self.deadline = time.monotonic() + 60 * self.patience
        self.machine = machine = Machine(command, stem + ".log", self.opts.v)
        done = False
        try:
            for line in machine.lines(lambda: self.deadline):
                if line is None:
                    what = f"program {self.now}" if self.now else "the boot, or the way to the next program,"
                    score.check(False, f"{self.where} {self.image}: {what} took too long")
                    os.killpg(machine.proc.pid, signal.SIGKILL)
                    break
                done |= self.line(line)
        finally:
            if sys.exc_info()[0]:
                os.killpg(machine.proc.pid, signal.SIGKILL)
            code = machine.end()
            os.unlink(initrd)
        for name in self.names:
            if name not in [row[0] for row in self.table]:
                self.table.append((name, "FAIL", "did not end", 0, 0))
                score.check(False, f"{self.where} {name}: did not end; see {stem}.log")
        score.check(done and code == 0, f"{self.where} {self.image}: the machine ended with {code}")

    def line(self, line):
        """Takes a line of the console; whether it says that all programs are through."""
        word, _, rest = line.partition(" ")
        if word == "@begin":
            self.now, self.output, self.kernel = rest, [], []
            self.began, self.used = time.monotonic(), self.machine.cpu_seconds()
            self.deadline = self.began + self.limit(rest) + 30 * self.patience
        elif word == "@end":
            self.finished(*rest.split()[:2])
            self.now = None
            self.deadline = time.monotonic() + 30 * self.patience
        elif word == "@kernel":
            self.kernel_line(rest)
        elif word == "@start":
            score.note(f"{self.where}: image {self.image} is up after {rest.split()[2]} s of the guest's")
            score.check(rest.split()[1] == str(self.opts.cpus), f"{self.where}: nproc {rest}")
            self.deadline = time.monotonic() + 30 * self.patience
        elif self.now:
            self.output.append(line)
        return word == "@done"

    def kernel_line(self, line):
        m = re.match(r"<(\d+)>\[\s*[\d.]+\] (.*)", line)
        if not m:
            return
        level, message = int(m[1]) & 7, m[2]
        own = self.now and PROGS[self.now].log
        if QUIET.fullmatch(message) or (own and own.fullmatch(message)) or \
                (self.opts.engine == "tcg" and TCG_OWN.search(message)):
            return
        if level <= 3 or ALARMS.search(message):
            where = self.now or "boot"
            score.check(False, f"{self.where} {where}: the kernel says: {message}")
            self.kernel = getattr(self, "kernel", [])
            self.kernel.append(message)

    def finished(self, name, status):
        took = time.monotonic() - self.began
        used = self.machine.cpu_seconds() - self.used
        text = "\n".join(self.output)
        good, cases = verdict(name, int(status), text)
        if good:
            score.passed += max(cases, 1)
        else:
            late = " (stopped: over its time)" if status in ("124", "137") else ""
            score.check(False, f"{self.where} {name}: status {status}{late}")
            if not self.opts.v:
                print("\n".join("  | " + line for line in self.output[-40:]), flush=True)
        bad = not good or self.kernel
        self.table.append((name, "FAIL" if bad else "ok", str(cases), took, used))
        score.note(f"{self.where} {name}: {'FAIL' if bad else 'ok'}, {cases} cases, "
                   f"{took:.1f} s, of the host's processors {used:.1f} s")


def verdict(name, status, text):
    """Whether the program was right, and how many cases it says it checked."""
    if name in ("python-tests", "python-more"):
        count = re.findall(r"^(?:All )?(\d+) tests? OK\.", text, re.M)
        good = re.search(r"^(Tests result|Result): SUCCESS$", text, re.M)
        return bool(status == 0 and good and count), int(count[-1]) if count else 0
    found = re.findall(r"^(\d+) passed, (\d+) failed", text, re.M)
    if not found:
        return False, 0
    passed, failed = map(int, found[-1])
    return status == 0 and failed == 0 and passed > 0, passed


def shell(opts, setup):
    path = os.path.join(BUILD, f"progs-shell-{os.getpid()}.cpio")
    initrd = setup.initrd(opts.shell, "", path)
    try:
        command = command_line(opts, setup, opts.shell, initrd, "")
        print("+ " + " ".join(command), flush=True)
        return subprocess.run(command).returncode
    finally:
        os.unlink(path)


def options():
    ap = argparse.ArgumentParser(description="Run real programs in the guest.")
    ap.add_argument("--engine", default="auto", choices=["auto", *PATIENCE],
                    help="an engine of ringer, or tcg: QEMU's, to compare with")
    ap.add_argument("-c", dest="cpus", type=int, default=1, metavar="N", help="virtual processors")
    ap.add_argument("--only", default="", metavar="PROGRAM,...", help="of " + " ".join(PROGS) + "; gcc is all of gcc-*")
    ap.add_argument("--quick", action="store_true", help="one program of each kind")
    ap.add_argument("--full", action="store_true", help="all (also when RINGER_FULL is set)")
    ap.add_argument("--append", default="", metavar="TEXT", help="more for the kernel's command line")
    ap.add_argument("--shell", choices=list(IMAGES), metavar="IMAGE", help="boot IMAGE to a shell")
    ap.add_argument("-v", action="store_true", help="show the console as it comes")
    ap.add_argument("ringer", nargs="*", metavar="OPTION", help="after --: more options for ringer")
    return ap.parse_args()


def chosen(opts):
    names = []
    for each in [n for n in opts.only.split(",") if n]:
        found = [each] if each in PROGS else [p for p in PROGS if p.startswith(each + "-")]
        if not found:
            sys.exit(f"progs_test.py: no program {each}: there are {' '.join(PROGS)}")
        names += found
    if names:
        return names
    if opts.quick or not (opts.full or os.environ.get("RINGER_FULL")):
        return [p for p in PROGS if PROGS[p].quick]
    return [p for p in PROGS if p != "gcc-one"]  # O0 to O3 hold what it has


def pick_engine(opts):
    """What `auto` would take, but for interp, which no program here is for."""
    if opts.engine != "auto":
        return opts.engine
    out = subprocess.run([RINGER, "engines"], capture_output=True, text=True).stdout
    m = re.search(r"^(kvm|bt)\s+yes", out, re.M)
    return m[1] if m else None


def main():
    opts = options()
    setup = Setup()
    if opts.shell:
        opts.engine = pick_engine(opts) or "interp"
        return shell(opts, setup)
    opts.engine = pick_engine(opts)
    if not opts.engine:
        score.skip("no engine but the interpreter works here, which is too slow for these programs "
                   "(--engine interp runs them all the same)")
        print("0 passed, 0 failed, 1 skipped")
        return SETUP_FAILED
    table = []
    names = chosen(opts)
    for image in IMAGES:
        mine = [n for n in names if PROGS[n].image == image]
        if not mine:
            continue
        try:
            setup.image(image)
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            score.skip(f"no image {image}: {error}")
            continue
        run = Run(opts, image, mine)
        run.go(setup)
        table += run.table
    for name, good, cases, took, used in table:
        print(f"{name:16} {opts.engine} -c {opts.cpus}: {good:4} {cases:>6} cases {took:8.1f} s"
              f" {used:8.1f} s of the host's processors")
    return score.end()


if __name__ == "__main__":
    sys.exit(main())
