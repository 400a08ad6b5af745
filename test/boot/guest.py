# SPDX-License-Identifier: MIT
"""A Debian guest for the end-to-end tests: gets the kernel, makes the initramfs, runs ringer on a
terminal of its own, talks to the guest's shell.

Every wait is bounded, and the bound grows with what this machine is slow by: `slowness` is measured
once, as the wall time of a fixed piece of work, so both a slow processor and a loaded one count.
"""
import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time

HERE = os.path.dirname(os.path.abspath(__file__))
SOURCE = os.path.dirname(os.path.dirname(HERE))
TOOLS = os.path.join(SOURCE, "tools")
RINGER = os.environ.get("RINGER") or os.path.join(SOURCE, "build/ringer")
BUILD = os.environ.get("RINGER_BUILD") or os.path.dirname(os.path.abspath(RINGER))
FILES = os.environ.get("RINGER_GUEST") or os.path.join(BUILD, "guest")
MENU = b"\x1d"
# The shell asks the terminal where its cursor is.
PROMPT = rb"ringer:[^\n]*# (\x1b\[6n)?$"
BASE_CMDLINE = "console=ttyS0 panic=-1"
MODULES = "pvpanic-mmio,button,evdev"


def _slowness():
    begin = time.monotonic()
    x = 0
    for i in range(2_000_000):
        x += i & 3
    return min(max((time.monotonic() - begin) / 0.15, 1.0), 20.0)


slowness = _slowness()


def stolen():
    """Seconds that the hypervisor below took from each of this machine's CPUs since it started."""
    with open("/proc/stat", encoding="ascii") as f:
        return [int(line.split()[8]) / os.sysconf("SC_CLK_TCK") for line in f
                if re.match(r"cpu\d", line)]


class Score:
    """Counts cases; the last line is for tools/run-tests."""

    def __init__(self):
        self.passed = self.failed = self.skipped = 0
        self.begin = time.monotonic()

    def check(self, ok, what):
        if ok:
            self.passed += 1
        else:
            self.failed += 1
            print(f"failed: {what}", flush=True)
        return bool(ok)

    def skip(self, why):
        self.skipped += 1
        print(f"skip: {why}", flush=True)

    def note(self, text):
        print(f"[{time.monotonic() - self.begin:6.1f} s] {text}", flush=True)

    def end(self):
        print(f"{self.passed} passed, {self.failed} failed"
              + (f", {self.skipped} skipped" if self.skipped else ""))
        sys.exit(1 if self.failed or not self.passed else 0)


class Files:
    """vmlinuz, vmlinux, System.map and an initramfs with the test program in it."""

    def __init__(self):
        os.makedirs(FILES, exist_ok=True)
        self.vmlinuz = os.path.join(FILES, "vmlinuz")
        self.vmlinux = os.path.join(FILES, "vmlinux")
        self.map = os.path.join(FILES, "System.map")
        self.initrd = os.path.join(FILES, "initramfs-test.cpio")
        self.probe = os.path.join(BUILD, "test/boot/guest-probe")
        with open(os.path.join(FILES, ".lock"), "w", encoding="ascii") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._make()

    def _make(self):
        got = subprocess.run([os.path.join(TOOLS, "get-kernel"), FILES], capture_output=True,
                             text=True, timeout=900)
        if got.returncode:
            skip_all(f"no guest kernel: {got.stderr.strip().splitlines()[-1:]}")
        if not os.path.exists(self.vmlinux) or \
                os.stat(self.vmlinux).st_mtime < os.stat(self.vmlinuz).st_mtime:
            subprocess.run([os.path.join(TOOLS, "extract-vmlinux"), self.vmlinuz, self.vmlinux],
                           check=True, timeout=300)
        subprocess.run([os.path.join(TOOLS, "mkinitramfs"), "--modules", MODULES, "--tree",
                        os.path.join(FILES, "tree"), "--add", f"{self.probe}:/bin/probe",
                        self.initrd], check=True, stdout=subprocess.DEVNULL, timeout=300)

    def symbol(self, name):
        with open(self.map, encoding="ascii") as f:
            for line in f:
                addr, _, sym = line.split()
                if sym == name:
                    return int(addr, 16)
        raise KeyError(name)

    def probe_symbol(self, name):
        out = subprocess.run(["nm", self.probe], capture_output=True, text=True, check=True).stdout
        for line in out.splitlines():
            if line.split()[-1] == name:
                return int(line.split()[0], 16)
        raise KeyError(name)


def package(name, top):
    """Unpack a Debian package below `top`; None, or why there is none."""
    got = subprocess.run([os.path.join(TOOLS, "get-debs"), os.path.join(FILES, "debian"), name],
                         capture_output=True, text=True, timeout=600)
    debs = [d for d in got.stdout.split() if os.path.basename(d).startswith(name + "_")]
    if got.returncode or not debs:
        return (got.stderr.strip().splitlines() or ["no package"])[-1]
    subprocess.run(["dpkg-deb", "-x", debs[0], top], check=True, timeout=60)
    return None


def make_image(path, *arguments):
    """A disk with Debian, by tools/make-image; without one all tests are skipped."""
    made = subprocess.run([os.path.join(TOOLS, "make-image"), "--quiet", *arguments, path], capture_output=True,
                          text=True, timeout=3600)
    if made.returncode:
        print(made.stderr)
        skip_all("no disk image: " + (made.stderr.strip().splitlines() or ["?"])[-1])


def busybox():
    """Arguments of mkinitramfs, which fetches a busybox for each folder otherwise: the one that Files has."""
    path = os.path.join(FILES, "cache/busybox")
    return ["--busybox", path] if os.access(path, os.X_OK) else []


def seabios(top, image="bios-256k.bin"):
    """Where that package's images lie once it is unpacked below `top`."""
    return os.path.join(top, "usr/share/seabios", image)


def console_until(done, args, top, seconds):
    """Run ringer, its console in a file below `top`, until done(text of it), or it ends, or the time is
    over; that text, and what ringer itself said."""
    out = os.path.join(top, "console")
    open(out, "w", encoding="ascii").close()
    proc = subprocess.Popen([RINGER, "run", *args, "--console", f"file:{out}"],
                            stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + seconds
    text = ""
    while time.monotonic() < end and proc.poll() is None and not done(text):
        time.sleep(0.2)
        with open(out, encoding="latin1") as f:
            text = f.read()
    proc.kill()
    return text, proc.communicate()[1]


def skip_all(why):
    print(f"skip: {why}\n0 passed, 0 failed, 1 skipped")
    sys.exit(77)


class GuestError(Exception):
    pass


class Guest:
    """ringer on a new terminal. Use as a context manager: it never outlives its block."""

    def __init__(self, files, *args, kernel=None, initrd=None, cpus=1, memory="512M", cmdline="",
                 command=None):
        self.master, self.slave = pty.openpty()
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.before = termios.tcgetattr(self.slave)
        self.out = b""  # everything since the start
        self.mark = 0  # expect() looks behind this
        self.begin = time.monotonic()
        self.serial = 0
        self.command = command or [RINGER, "run", "--kernel",
                                   kernel or files.vmlinuz, "--initrd", initrd or files.initrd,
                                   "-c", str(cpus), "-m", memory, "--cmdline",
                                   f"{BASE_CMDLINE} {cmdline}".strip(), *args]
        self.proc = subprocess.Popen(self.command, stdin=self.slave, stdout=self.slave,
                                     stderr=self.slave, start_new_session=True)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        if self.proc.poll() is None:
            self.proc.kill()
        self.proc.wait()
        os.close(self.master)
        os.close(self.slave)

    # ---- bytes ----

    def read(self, seconds=0.0):
        """What came, waiting for something to come for up to that long."""
        ready, _, _ = select.select([self.master], [], [], max(seconds, 0))
        if not ready:
            return b""
        got = os.read(self.master, 65536)
        self.out += got
        return got

    def pump(self, seconds):
        """Read for that long, whatever comes."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.read(left)

    def send(self, data):
        """Type; a terminal takes only so much, so read in between."""
        data = data.encode() if isinstance(data, str) else data
        end = time.monotonic() + 60 * slowness
        while data:
            _, ready, _ = select.select([], [self.master], [], 0.05)
            if ready:
                data = data[os.write(self.master, data[:256]):]
            self.read()
            if time.monotonic() > end:
                raise GuestError("the terminal takes no input")

    def expect(self, pattern, seconds=30.0, exact=False):
        """Wait for a pattern in new output; the match. `exact`: seconds are not scaled."""
        end = time.monotonic() + seconds * (1 if exact else slowness)
        regex = re.compile(pattern.encode() if isinstance(pattern, str) else pattern, re.M)
        while True:
            m = regex.search(self.out, self.mark)
            if m:
                self.mark = m.end()
                return m
            if self.proc.poll() is not None and not self.read():
                if not regex.search(self.out, self.mark):
                    raise GuestError(f"no {pattern!r}: ringer ended with {self.proc.returncode}; "
                                     + self.tail())
                continue
            if time.monotonic() > end:
                raise GuestError(f"no {pattern!r} within {seconds:.0f} s; " + self.tail())
            self.read(0.2)

    def tail(self, n=1500):
        return "last output: " + self.out[-n:].decode(errors="replace")

    # ---- the guest's shell ----

    def boot(self, seconds=90):
        """Wait for the shell's prompt; seconds it took."""
        self.expect(PROMPT, seconds)
        return time.monotonic() - self.begin

    def script(self):
        """Take line editing and kernel messages out of the way, for sh()."""
        self.send("dmesg -n 1; stty -echo; echo in a scr''ipt; while IFS= read -r l; do eval \"$l\"; done\n")
        # What comes before that the shell's line editor would read ahead, and lose.
        self.expect("^in a script")
        self.sh("true")

    def sh(self, command, seconds=60.0, code=0):
        """Run a command of one line; its output as text. Its exit code must be `code` (None: any)."""
        self.serial += 1
        tag = f"{os.getpid()}-{self.serial}"
        self.send(f"({command}) </dev/null 2>&1; echo \"<END ${{?}} \"{tag}'>'\n")
        start = self.mark
        m = self.expect(rf"<END (\d+) {tag}>\r?\n".encode(), seconds)
        text = self.out[start:m.start()].replace(b"\r\n", b"\n").decode(errors="replace")
        if code is not None and int(m[1]) != code:
            raise GuestError(f"{command!r}: exit code {int(m[1])}: {text[-800:]!r}")
        return text.strip("\n")

    def login(self, seconds):
        """To the shell of a Debian that tools/make-image made, whose prompt comes by then."""
        self.expect("ringer login: ", seconds)
        self.send("root\n")
        self.expect(r"root@ringer:~# ", 60)
        self.send("exec sh\n")
        self.expect("# ", 30)
        self.script()

    # ---- its end ----

    def wait(self, seconds=60.0):
        """Wait for ringer to end; its exit code (None: it does not)."""
        end = time.monotonic() + seconds * slowness
        while self.proc.poll() is None and time.monotonic() < end:
            self.read(0.1)
        while self.read():
            pass
        return self.proc.poll()

    def cpu_seconds(self):
        """What ringer used of the host's processors."""
        with open(f"/proc/{self.proc.pid}/stat", encoding="utf-8") as f:
            fields = f.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def raw(self):
        return not termios.tcgetattr(self.slave)[3] & termios.ICANON

    def restored(self):
        return termios.tcgetattr(self.slave) == self.before

    def quit(self):
        self.send(MENU + b"q")
        return self.wait(20)

    def text(self):
        return self.out.replace(b"\r\n", b"\n").decode(errors="replace")


@contextlib.contextmanager
def stage(score, name):
    """Whatever goes wrong inside is one failed case, and the next stage goes on."""
    score.note(name)
    try:
        yield
    except (GuestError, OSError, subprocess.SubprocessError, ValueError, KeyError, IndexError,
            AttributeError) as error:
        score.check(False, f"{name}: {type(error).__name__}: {error}")


def interrupted(*_):
    sys.exit(143)


signal.signal(signal.SIGTERM, interrupted)
