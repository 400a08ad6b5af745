#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""`ringer run` with guests of a few instructions: how it ends and with which code, where the
console goes, signals, the menu, and that the terminal is always restored.

usage: test_vm.py RINGER [ENGINE...]	(default: every engine that works here)
"""
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import tempfile
import termios
import time

ringer = os.path.abspath(sys.argv[1])
here = os.path.dirname(os.path.abspath(__file__))
passed = failed = 0
LIMIT = 30  # seconds for anything
engine = "interp"


def check(ok, what):
    global passed, failed
    if ok:
        passed += 1
    else:
        failed += 1
        print(f"failed: [{engine}] {what}")


class Guests:
    """Assembles guests on demand."""

    def __init__(self, folder):
        self.folder = folder

    def __call__(self, name, **defines):
        tag = "-".join([name, *(f"{k}{v}" for k, v in defines.items())])
        out = os.path.join(self.folder, tag)
        if not os.path.exists(out):
            flags = [f"-DGUEST_{name}", *(f"-D{k}={v}" for k, v in defines.items())]
            subprocess.run(["gcc", "-m32", "-c", "-o", out + ".o", *flags,
                            os.path.join(here, "guest.S")], check=True)
            subprocess.run(["ld", "-m", "elf_i386", "-n", "-Ttext=0x100000", "-z", "noexecstack",
                            "--no-warn-rwx-segments", "-o", out, out + ".o"], check=True)
        return out


def command(kernel, *args):
    return [ringer, "run", "--engine", engine, "-m", "16M", "--cmdline", "", "--kernel", kernel,
            *args]


def run(kernel, *args, stdin=b"", **kw):
    r = subprocess.run(command(kernel, *args), input=stdin, capture_output=True, timeout=LIMIT,
                       **kw)
    check(b"seccomp" not in r.stderr, f"{os.path.basename(kernel)}: {r.stderr!r}")
    return r


def ends(code, kernel, *args, says=None, **kw):
    r = run(kernel, *args, **kw)
    what = f"{os.path.basename(kernel)} {' '.join(args)}"
    check(r.returncode == code, f"{what}: code {r.returncode}, not {code}; {r.stderr!r}")
    if says:
        check(re.search(says, r.stderr.decode()), f"{what}: no {says!r} in {r.stderr!r}")
    return r


def wait_for(condition, seconds=LIMIT):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.01)
    return False


def exit_codes(guest):
    ends(0, guest("poweroff"), says="powered off")
    ends(0, guest("poweroff"), "--no-reboot")
    ends(32, guest("reset_cf9"), "--no-reboot", says=r"reset .*\(exit code 32\)")
    ends(32, guest("reset_i8042"), "--no-reboot", says="reset")
    r = ends(0, guest("reset_thrice"))
    check(r.stdout == b"123", f"three boots: {r.stdout!r}")
    r = ends(33, guest("triple"), says="triple fault")
    check(re.search(rb"rip", r.stderr, re.I), f"triple fault: no registers in {r.stderr!r}")
    ends(34, guest("panic"), says="panic")
    for port, value, code in [(0xf4, 0, 1), (0xf4, 3, 7), (0x501, 127, 255), (0xf4, 128, 1)]:
        k = guest("debug_exit", EXIT_PORT=port, EXIT_VALUE=value)
        r = ends(code, k, "--debug-exit", hex(port), says=f"debug exit, code {code}")
        check(not re.search(rb"error|warning", r.stderr), f"debug exit: no error: {r.stderr!r}")
    # Without the option there is no such port.
    stays(guest("debug_exit", EXIT_PORT=0xf4, EXIT_VALUE=3))


def stays(kernel, *args):
    """It goes on until it is told to end."""
    p = subprocess.Popen(command(kernel, *args), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                         stderr=subprocess.PIPE)
    time.sleep(0.5)
    check(p.poll() is None, f"{kernel}: ended with {p.returncode}")
    p.terminate()
    p.communicate(timeout=LIMIT)


def signals(guest):
    for name in ["spin", "halt", "chatter"]:
        for sig in [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT]:
            p = subprocess.Popen(command(guest(name), "-c", "2"), stdin=subprocess.PIPE,
                                 stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            # The filter is the last thing before the guest runs.
            up = wait_for(lambda: p.poll() is not None or "Seccomp:\t2" in status(p.pid))
            time.sleep(0.1)
            p.send_signal(sig)
            begin = time.monotonic()
            _, err = p.communicate(timeout=LIMIT)
            took = time.monotonic() - begin
            check(up and p.returncode == 128 + sig and took < 2 and b"ended by signal" in err,
                  f"{name} and {sig.name}: code {p.returncode} after {took:.1f} s, {err!r}")
    # Guests that keep the machine's lock busy: whoever else wants it gets it.
    for kernel, args in [(guest("ports"), []), (guest("dma", DMA_LEN="0x10000"), []),
                         (guest("dma", DMA_LEN="0x30000000"), ["-m", "1G"])]:
        p = subprocess.Popen(command(kernel, *args), stdin=subprocess.DEVNULL,
                             stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        up = wait_for(lambda: p.poll() is not None or "Seccomp:\t2" in status(p.pid))
        time.sleep(0.3)
        begin = time.monotonic()
        p.terminate()
        _, err = p.communicate(timeout=60)
        took = time.monotonic() - begin
        check(up and p.returncode == 143 and took < 2,
              f"{os.path.basename(kernel)}: code {p.returncode} after {took:.1f} s, {err!r}")
    # A full pipe that nobody reads: it must still end.
    p = subprocess.Popen(command(guest("chatter")), stdin=subprocess.DEVNULL,
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    time.sleep(1)
    p.terminate()
    try:
        p.wait(timeout=10)
    except subprocess.TimeoutExpired:
        p.kill()
    check(p.returncode == 143, f"nobody reads its console: code {p.returncode}")
    p.stdout.close()
    p.stderr.close()
    # A reader that went away is no reason to end.
    p = subprocess.Popen(command(guest("chatter")), stdin=subprocess.DEVNULL,
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    p.stdout.read(10)
    p.stdout.close()
    time.sleep(0.5)
    check(p.poll() is None, f"ended with {p.returncode} when its reader went away")
    p.terminate()
    p.wait(timeout=LIMIT)
    p.stderr.close()
    # nohup
    p = subprocess.Popen(command(guest("spin")), stdin=subprocess.DEVNULL,
                         stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                         preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    wait_for(lambda: "Seccomp:\t2" in status(p.pid))
    p.send_signal(signal.SIGHUP)
    time.sleep(0.3)
    check(p.poll() is None, "an ignored SIGHUP ended it")
    p.terminate()
    p.wait(timeout=LIMIT)


def status(pid):
    try:
        with open(f"/proc/{pid}/status", encoding="ascii") as f:
            return f.read()
    except OSError:
        return ""


def consoles(guest, tmp):
    text = b"hello from the guest\r\n"
    hello = guest("hello")
    r = ends(0, hello)
    check(r.stdout == text, f"stdout: {r.stdout!r}")
    log = os.path.join(tmp, "console.log")
    with open(log, "w", encoding="ascii") as f:
        f.write("x" * 100)  # it is made anew
    r = ends(0, hello, "--console", f"file:{log}")
    with open(log, "rb") as f:
        check(f.read() == text and r.stdout == b"", f"console file; stdout {r.stdout!r}")
    r = ends(0, hello, "--console", "none")
    check(r.stdout == b"", f"no console: {r.stdout!r}")
    r = ends(0, guest("echo"), stdin=b"HAL" * 20 + b"q")
    check(r.stdout == b"IBM" * 20, f"echo: {r.stdout!r}")
    log = os.path.join(tmp, "debugcon.log")
    ends(0, guest("debugcon"), "--debugcon", f"file:{log}")
    with open(log, "rb") as f:
        check(f.read() == b"dbg", "debug console in a file")
    r = ends(0, guest("debugcon"), "--debugcon", "stdio")
    check(r.stdout == b"dbg", f"debug console: {r.stdout!r}")
    r = ends(0, guest("debugcon"))
    check(r.stdout == b"", f"no debug console: {r.stdout!r}")
    # Full disks: said once, the guest goes on.
    ends(0, hello, "--console", "file:/dev/full", says="console output lost: No space")
    ends(0, hello, "-d", "io", "-D", "/dev/full", says="-D /dev/full: No space")
    # Closed descriptors.
    p = subprocess.Popen(command(guest("poweroff")), close_fds=False,
                         preexec_fn=lambda: os.closerange(0, 3))
    check(p.wait(timeout=LIMIT) == 0, f"without stdin, stdout and stderr: {p.returncode}")


def looking_inside(guest, tmp):
    r = ends(0, guest("hello"), "--exit-stats")
    check(b"pio-out" in r.stderr and b"pio-in" in r.stderr, f"--exit-stats: {r.stderr!r}")
    log = os.path.join(tmp, "trace.log")
    r = ends(0, guest("hello"), "-q", "-d", "io", "-D", log)
    with open(log, encoding="utf-8") as f:
        lines = f.read().splitlines()
    check(len(lines) > 20 and any("3f8" in line for line in lines), f"-d io -D: {lines[:3]}")
    check(r.stderr == b"", f"-q: {r.stderr!r}")
    r = ends(0, guest("hello"), "-d", "in_asm,io")
    check(r.stderr.count(b"\n") > 20, f"-d in_asm,io: {r.stderr[:200]!r}")
    for category in ["exec", "int", "mmu", "irq", "msr"]:
        ends(33 if category == "int" else 0, guest("triple" if category == "int" else "poweroff"),
             "-d", category)
    p = subprocess.Popen(command(guest("spin"), "--name", "my-vm"), stdin=subprocess.DEVNULL,
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_for(lambda: "Name:\tringer:my-vm" in status(p.pid), 5)
    check("Name:\tringer:my-vm" in status(p.pid), "its name in ps")
    p.terminate()
    _, err = p.communicate(timeout=LIMIT)
    check(b"my-vm: ended by signal" in err, f"its name in messages: {err!r}")
    r = ends(0, guest("poweroff"), "--no-sandbox")
    sock = os.path.join(tmp, "gdb.sock")
    for _ in range(2):  # the second one finds the socket of the first
        ends(0, guest("poweroff"), "--gdb", f"unix:{sock}", says="listening")
    p = subprocess.Popen(command(guest("poweroff"), "--gdb", f"unix:{sock},wait"),
                         stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    wait_for(lambda: "Seccomp:\t2" in status(p.pid), 5)
    ends(2, guest("poweroff"), "--gdb", f"unix:{sock}", says="in use")
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(sock)
        s.settimeout(LIMIT)
        check(p.poll() is None, ",wait: it did not wait")
        s.sendall(b"$?#3f")
        answer = b""
        while not re.search(rb"#..", answer):
            answer += s.recv(4096)
        check(re.match(rb"\+\$[ST]05", answer), f"gdb: {answer!r}")
        s.sendall(b"+$c#63")
        answer = b""
        while b"$W00#b7" not in answer:
            more = s.recv(4096)
            answer += more
            if not more:
                break
        check(b"$W00#b7" in answer, f"gdb: the end: {answer!r}")
    _, err = p.communicate(timeout=LIMIT)
    check(p.returncode == 0, f"gdb, c: code {p.returncode}, {err!r}")
    path = os.path.join(tmp, "file")
    with open(path, "w", encoding="ascii") as f:
        f.write("mine")
    ends(2, guest("poweroff"), "--gdb", f"unix:{path}", says="in use")
    with open(path, encoding="ascii") as f:
        check(f.read() == "mine", "--gdb unix: a file of the user's was removed")
    p = subprocess.Popen(command(guest("spin")), stdin=subprocess.DEVNULL,
                         stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(lambda: "Seccomp:\t2" in status(p.pid), 5)
    s = status(p.pid)
    check("Seccomp:\t2" in s and "NoNewPrivs:\t1" in s and "CapEff:\t0000000000000000" in s,
          f"sandbox: {s}")
    wait_for(lambda: len(os.listdir(f"/proc/{p.pid}/task")) > 1, 5)  # made behind the sandbox
    tasks = os.listdir(f"/proc/{p.pid}/task")
    check(len(tasks) > 1 and all("Seccomp:\t2" in status(f"{p.pid}/task/{t}") for t in tasks),
          f"sandbox of all threads: {tasks}")
    p.terminate()
    p.wait(timeout=LIMIT)


def ask_gdb(sock, command):
    """One exchange of the remote protocol; the answer without its frame."""
    body = command.encode()
    sock.sendall(b"$" + body + b"#%02x" % (sum(body) & 0xff))
    data = b""
    while not re.search(rb"\$([^#]*)#..", data):
        more = sock.recv(65536)
        if not more:
            return None
        data += more
    sock.sendall(b"+")
    return re.search(rb"\$([^#]*)#..", data)[1].decode()


def connect(address):
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    end = time.monotonic() + 10
    while True:
        sock = socket.socket(family)
        sock.settimeout(10)
        try:
            sock.connect(address)
            return sock
        except OSError:
            sock.close()
            if time.monotonic() > end:
                raise
            time.sleep(0.05)


def debugger(guest, tmp):
    """That the stub is there, in the sandbox, by both kinds of socket; its work is tested with
    a kernel in test/boot."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    path = os.path.join(tmp, "gdb.sock")
    for where, address in [(str(port), ("127.0.0.1", port)), (f"unix:{path}", path),
                           (f"unix:{path},wait", path)]:  # the second finds the first's socket
        p = subprocess.Popen(command(guest("spin"), "-c", "2", "--gdb", where),
                             stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                             stderr=subprocess.PIPE)
        try:
            with connect(address) as sock:
                why = ask_gdb(sock, "?")
                check(why and why[0] in "ST", f"gdb {where}: ? gives {why!r}")
                code = ask_gdb(sock, "m100000,4")
                check(code and re.fullmatch("[0-9a-f]{8}", code), f"gdb {where}: memory {code!r}")
                check(ask_gdb(sock, "D") == "OK", f"gdb {where}: detach")
        except OSError as e:
            check(False, f"gdb {where}: {e}")
        time.sleep(0.2)
        check(p.poll() is None, f"gdb {where}: ended with {p.returncode}")
        p.terminate()
        _, err = p.communicate(timeout=LIMIT)
        check(p.returncode == 143 and b"seccomp" not in err, f"gdb {where}: {p.returncode} {err!r}")
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen(1)
        ends(2, guest("spin"), "--gdb", str(busy.getsockname()[1]), says="--gdb .*in use")
    ends(2, guest("spin"), "--gdb", "unix:/nonexistent/s", says="--gdb .*No such file")
    plain = os.path.join(tmp, "plain")
    with open(plain, "w", encoding="ascii") as f:
        f.write("precious")
    ends(2, guest("spin"), "--gdb", f"unix:{plain}", says="--gdb .*in use")
    with open(plain, encoding="ascii") as f:
        check(f.read() == "precious", "--gdb unix:PATH removed a file")


class Terminal:
    """ringer on a terminal of its own."""

    def __init__(self, kernel, *args):
        self.master, slave = pty.openpty()
        self.slave = slave
        self.before = termios.tcgetattr(slave)
        self.out = b""
        self.proc = subprocess.Popen(command(kernel, *args), stdin=slave, stdout=slave,
                                     stderr=slave, start_new_session=True)

    def read(self, seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            ready, _, _ = select.select([self.master], [], [], 0.05)
            if ready:
                self.out += os.read(self.master, 65536)
            elif self.proc.poll() is not None:
                break

    def expect(self, pattern, what, seconds=10):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if re.search(pattern, self.out):
                break
            self.read(0.1)
        check(re.search(pattern, self.out), f"{what}: no {pattern!r} in {self.out[-600:]!r}")

    def keys(self, data):
        self.out = b""
        os.write(self.master, data)

    def raw(self):
        return not termios.tcgetattr(self.slave)[3] & termios.ICANON

    def ends(self, code, what, seconds=10):
        end = time.monotonic() + seconds
        while self.proc.poll() is None and time.monotonic() < end:
            self.read(0.1)
        if self.proc.poll() is None:
            self.proc.kill()
        self.proc.wait()
        self.read(0.1)
        codes = code if isinstance(code, list) else [code]
        check(self.proc.returncode in codes, f"{what}: {self.proc.returncode}, not {code}; "
              f"{self.out[-300:]!r}")
        check(termios.tcgetattr(self.slave) == self.before, f"{what}: the terminal is not restored")
        os.close(self.master)
        os.close(self.slave)


MENU = b"\x1d"


def terminals(guest):
    for name in ["spin", "halt", "echo"]:
        t = Terminal(guest(name), "-c", "2")
        check(wait_for(t.raw, 10), f"{name}: not raw")
        time.sleep(0.2)
        t.keys(MENU + b"h")
        t.expect(rb"q\s.*quit", f"{name}: help")
        t.keys(MENU + b"r")
        t.expect(rb"(?is)vCPU 0.*rip.*vCPU 1", f"{name}: registers")
        t.keys(MENU + b"i")
        t.expect(rb"interrupt lines", f"{name}: statistics")
        check(b"\n" not in t.out.replace(b"\r\n", b""), f"{name}: lines of a raw terminal: {t.out!r}")
        t.keys(MENU + b"s")
        t.expect(rb"paused", f"{name}: pause")
        t.keys(MENU + b"s")
        t.expect(rb"going on", f"{name}: going on")
        t.keys(MENU + b"q")
        t.ends(130, f"{name}: quit")

    t = Terminal(guest("echo"))
    check(wait_for(t.raw, 10), "echo: not raw")
    t.keys(b"abc")
    t.expect(rb"bcd", "echo on a terminal")
    t.keys(b"\x03\x1a")  # Ctrl-C and Ctrl-Z are the guest's
    t.expect(rb"\x04\x1b", "Ctrl-C and Ctrl-Z")
    t.keys(MENU + MENU)
    t.expect(rb"\x1e", "Ctrl-] twice")
    t.keys(MENU + b"s")
    t.expect(rb"paused", "pause")
    t.keys(b"xyz")
    t.read(0.5)
    check(b"yz{" not in t.out, f"it is paused: {t.out!r}")
    t.keys(MENU + b"s")
    t.expect(rb"yz\{", "what was typed in a pause")
    t.keys(b"q")
    t.ends(0, "echo")

    t = Terminal(guest("button"))
    t.expect(rb">", "power button: start")
    time.sleep(0.2)
    t.keys(MENU + b"p")
    t.ends(0, "power button")

    t = Terminal(guest("triple"))
    t.ends(33, "triple fault on a terminal")
    check(re.search(rb"(?i)rip", t.out) and b"\n" not in t.out.replace(b"\r\n", b""),
          f"triple fault: lines of a raw terminal: {t.out!r}")

    for sig, code in [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129),
                      (signal.SIGSEGV, -11), (signal.SIGABRT, -6), (signal.SIGSYS, -31),
                      (signal.SIGALRM, -14), (signal.SIGXCPU, -24)]:
        t = Terminal(guest("spin"))
        check(wait_for(t.raw, 10), f"{sig.name}: not raw")
        time.sleep(0.2)
        t.proc.send_signal(sig)
        t.ends(code, sig.name)

    # Errors before the machine exists leave the terminal alone.
    t = Terminal("/nonexistent")
    t.ends(2, "no kernel")


def machines(guest):
    ends(0, guest("poweroff"), "-m", "2M")
    ends(0, guest("poweroff"), "-m", "64G")
    ends(0, guest("hello"), "-c", "64")
    ends(0, guest("poweroff"), "--testdev")
    ends(0, guest("poweroff"), "-v")


def bad_files(guest, tmp):
    def path(name, data):
        p = os.path.join(tmp, name)
        with open(p, "wb") as f:
            f.write(data)
        return p

    with open(guest("poweroff"), "rb") as f:
        elf = f.read()
    foreign = bytearray(elf)
    foreign[18:20] = b"\xb7\x00"  # EM_AARCH64
    cases = {
        "nothing there": (os.path.join(tmp, "none"), []),
        "a folder": (tmp, []),
        "an empty file": (path("empty", b""), []),
        "a text": (path("text", b"hello\n" * 1000), []),
        "zeros": (path("zeros", bytes(100000)), []),
        "a cut off ELF header": (path("cut", elf[:30]), []),
        "a foreign ELF": (path("foreign", bytes(foreign)), []),
        "no initrd": (guest("poweroff"), ["--initrd", os.path.join(tmp, "none")]),
        "an initrd that is a folder": (guest("poweroff"), ["--initrd", tmp]),
        "an initrd that does not fit": (guest("poweroff"),
                                        ["--initrd", path("big", bytes(20 << 20))]),
    }
    if os.getuid() != 0:
        p = path("secret", elf)
        os.chmod(p, 0)
        cases["an unreadable file"] = (p, [])
    for what, (kernel, args) in cases.items():
        r = run(kernel, *args)
        err = r.stderr.decode()
        lines = [x for x in err.splitlines() if "error:" in x]
        culprit = args[1] if args else kernel
        check(r.returncode == 2 and len(lines) == 1 and culprit in lines[0] and
              len(err.splitlines()) == 1, f"{what}: code {r.returncode}, {err!r}")


def refuses(kernel, *args, says):
    """Code 2 and one line, which says that; nothing was started."""
    r = run(kernel, *args)
    err = r.stderr.decode()
    check(r.returncode == 2 and r.stdout == b"" and err.count("\n") == 1 and
          err.startswith("ringer: error: ") and re.search(says, err),
          f"{' '.join(args)}: code {r.returncode}, {err!r}")


def bad_devices(guest, tmp):
    """What is wrong with an option shows only when the machine is made."""
    def path(name, size=0):
        p = os.path.join(tmp, name)
        with open(p, "wb") as f:
            f.truncate(size)
        return p

    kernel = guest("poweroff")
    image, folder = path("d.img", 1 << 20), os.path.join(tmp, "folder")
    fifo, loop = os.path.join(tmp, "fifo"), os.path.join(tmp, "loop")
    if not os.path.exists(folder):
        os.mkdir(folder)
        os.mkfifo(fifo)
        os.symlink("loop", loop)
    for disk, says in [(folder, "disk image .*Is a directory; .*--share"),
                       (os.path.join(tmp, "none"), "No such file.*truncate"), (loop, "symbolic"),
                       (fifo, "regular file or a block device"),
                       ("/dev/null", "regular file or a block device"),
                       (path("odd.img", 100), "512 bytes at least"),
                       (path("bad.qcow2", 4096), "not a qcow2 image.*format=raw"),
                       (image + ",offset=2M", "reaches beyond its end"),
                       (image + ",offset=512,size=1M", "reaches beyond its end"),
                       (image + ",offset=9223372036854775296,size=512", "reaches beyond its end"),
                       ("nbd://localhost:1/x", "cannot connect.*nbdkit"),
                       (f"nbd+unix:///x?socket={tmp}/none", "cannot connect.*nbdkit")]:
        refuses(kernel, "--disk", disk, says=says)
    for second in [image, image + ",ro", os.path.join(folder, "..", "d.img")]:
        refuses(kernel, "--disk", image, "--disk", second, says="in use by another|in use: another")
    os.link(image, os.path.join(tmp, "same.img"))
    refuses(kernel, "--disk", image, "--disk", os.path.join(tmp, "same.img"), says="in use")
    os.unlink(os.path.join(tmp, "same.img"))
    for port in ["0x3f8", "0x3f6", "0xcf8", "0x510", "0x60"]:
        refuses(kernel, "--debug-exit", port, says=f"--debug-exit {port}: .*for example: --debug-exit")
    for option, says in [("--console", "--console .*Is a directory.*for example"),
                         ("--debugcon", "--debugcon .*Is a directory.*for example")]:
        refuses(kernel, option, f"file:{folder}", says=says)
    refuses(kernel, "-d", "int", "-D", folder, says="-D .*Is a directory.*for example")
    for share, says in [(f"x={tmp}/none", "--share x=.*No such file.*for example"),
                        (f"x={image}", "--share x=.*Not a directory.*for example")]:
        refuses(kernel, "--share", share, says=says)
    quiet = ["--console", "none", "--device"]
    for device, says in [(f"console,where=file:{folder}", "--device where=file.*Is a directory.*for example"),
                         ("console,where=file:/nonexistent/x", "No such file.*for example"),
                         ("port,name=a,where=unix:/nonexistent/x", "cannot listen there"),
                         (f"port,name=a,where=unix:{folder}", "cannot listen there")]:
        refuses(kernel, *quiet, device, says=says)
    for path_ in ["/nonexistent/s", folder]:
        refuses(kernel, "--vsock", f"cid=3,path={path_}", says="--vsock path=.*cannot listen.*for example")
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen(1)
        port = busy.getsockname()[1]
        refuses(kernel, "--net", f"user,hostfwd=tcp:{port}:22", says="hostfwd=.*in use.*for example")
    refuses(kernel, "--net", "user,hostfwd=tcp:192.0.2.1:2222:22", says="hostfwd=.*for example")
    refuses(kernel, "--net", "fd=77", says="--net fd=77: .*no tap device")
    for size, says in [(100, "64, 128, 192 or 256 KiB"), (65536, "no jump")]:
        r = subprocess.run([ringer, "run", "--engine", engine, "--firmware", path("bios", size)],
                           stdin=subprocess.DEVNULL, capture_output=True, timeout=LIMIT, text=True)
        check(r.returncode == 2 and r.stderr.count("\n") == 1 and re.search(says, r.stderr),
              f"a BIOS of {size} bytes: {r.returncode} {r.stderr!r}")


def left_of(session):
    """Processes of a session, but for those that are over."""
    left = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as f:
                fields = f.read().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] not in "ZX":
            left.append(int(pid))
    return left


def stages(guest, tmp):
    """Signals while the machine is made, while it is paused, while gdb is waited for: the code is
    128 and the signal's number (the signal itself, before ringer looks after signals), the terminal
    as it was, no process left."""
    big, sock = os.path.join(tmp, "big"), os.path.join(tmp, "v.sock")
    with open(big, "wb") as f:
        f.truncate(600 << 20)
    vsock = ["--vsock", f"cid=3,path={sock}"]  # which has a second process
    loading = ["-m", "1G", "--initrd", big]
    gdb = ["--gdb", f"unix:{tmp}/stage.sock,wait"]
    silent = socket.socket()
    silent.bind(("127.0.0.1", 0))
    silent.listen(5)
    nbd = ["--disk", f"nbd://127.0.0.1:{silent.getsockname()[1]}/x"]
    for sig in [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT]:
        for what, args, wait in [("loading", loading, 0.05), ("loading on", loading, 0.2),
                                 ("a silent NBD server", nbd, 0.3), ("waiting for gdb", gdb, 0.3),
                                 ("paused", [], 0.3)]:
            t = Terminal(guest("spin"), *vsock, *args)
            if what == "paused":
                check(wait_for(t.raw, 10), "paused: not raw")
                t.keys(MENU + b"s")
                t.expect(rb"paused", "pause")
            time.sleep(wait)
            t.proc.send_signal(sig)
            begin = time.monotonic()
            early = what.startswith("loading") or what.startswith("a silent")
            t.ends([128 + sig] + [-sig] * early, f"{what}, {sig.name}", 5)
            took = time.monotonic() - begin
            check(took < 3, f"{what}, {sig.name}: after {took:.1f} s")
            check(wait_for(lambda: not left_of(t.proc.pid), 3),
                  f"{what}, {sig.name}: processes left: {left_of(t.proc.pid)}")
    t = Terminal(guest("spin"), *vsock)
    check(wait_for(t.raw, 10), "kill: not raw")
    t.proc.kill()
    t.proc.wait()
    check(wait_for(lambda: not left_of(t.proc.pid), 3), "SIGKILL: processes left")
    os.close(t.master)
    os.close(t.slave)
    # What a machine left behind is replaced by the next.
    ends(0, guest("poweroff"), *vsock, "--device", f"port,name=a,where=unix:{tmp}/port.sock")
    ends(0, guest("poweroff"), *vsock, "--device", f"port,name=a,where=unix:{tmp}/port.sock")
    silent.close()


def main():
    global engine
    listing = subprocess.run([ringer, "engines"], capture_output=True, text=True).stdout
    names = sys.argv[2:] or [x.split()[0] for x in listing.splitlines() if x.split()[1] == "yes"]
    with tempfile.TemporaryDirectory() as tmp:
        guest = Guests(tmp)
        for engine in names:
            exit_codes(guest)
            consoles(guest, tmp)
            looking_inside(guest, tmp)
            debugger(guest, tmp)
            machines(guest)
            bad_files(guest, tmp)
            signals(guest)
            terminals(guest)
        for engine in names[:1]:  # before the guest runs all are the same
            bad_devices(guest, tmp)
            stages(guest, tmp)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not names else 0


if __name__ == "__main__":
    sys.exit(main())
