# SPDX-License-Identifier: MIT
"""Run one process, a virtual machine or the native program, and stamp the lines that it prints. Every
wait is bounded, and the process never outlives the call."""
import os
import select
import subprocess
import tempfile
import time


class Session:
    """`lines` are (seconds since the start, text); `why` is None after a proper end."""

    def __init__(self):
        self.lines = []
        self.errors = ""
        self.code = None
        self.why = None
        self.seconds = 0.0

    def tail(self, n=3):
        """The last words, for a message."""
        text = [t for t in self.errors.splitlines() if t.strip()] or \
            [t for _, t in self.lines if t.strip()]
        return " | ".join(t.strip() for t in text[-n:])[-400:]


def prepare(pin):
    """In the child, before it becomes the program. A session is a scheduling group of its own (autogroup, sched(7)), which does not
    know the priority that bench/run was started with."""
    if pin is not None:
        os.sched_setaffinity(0, {pin})
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    if nice:
        try:
            with open("/proc/self/autogroup", "w", encoding="ascii") as f:
                f.write(str(nice))
        except OSError:
            pass


def run(cmd, limit, stall, last=None, grace=15, pin=None, sample=None, every=0.25):
    """Run to its end. `limit`: seconds in all; `stall`: seconds without a line; after a line that begins
    with `last` it has `grace` seconds to end by itself. `pin`: a CPU to stay on. `sample(pid)` is
    called now and then."""
    s = Session()
    with tempfile.TemporaryFile() as err:
        start = time.monotonic()
        try:
            p = subprocess.Popen(cmd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=err,
                                 preexec_fn=lambda: prepare(pin), start_new_session=True)
        except OSError as e:
            s.why = f"{cmd[0]}: {e.strerror}"
            return s
        try:
            _read(s, p, start, limit, stall, last, grace, sample, every)
        finally:
            _end(p)
            p.stdout.close()
        s.seconds = time.monotonic() - start
        s.code = p.returncode
        err.seek(0)
        s.errors = err.read()[-200000:].decode(errors="replace")
    return s


def _read(s, p, start, limit, stall, last, grace, sample, every):
    fd = p.stdout.fileno()
    rest = b""
    now = seen = start
    end = start + limit
    next_sample = start
    while True:
        if now >= end:
            if s.why is None:
                s.why = f"took more than {end - start:.0f} s"
            return
        if now - seen >= stall:
            s.why = f"printed nothing for {stall:.0f} s"
            return
        wait = min(end - now, seen + stall - now, max(next_sample - now, 0) if sample else 60)
        ready, _, _ = select.select([fd], [], [], wait)
        now = time.monotonic()
        if sample and now >= next_sample:
            sample(p.pid)
            next_sample = time.monotonic() + every
        if not ready:
            continue
        chunk = os.read(fd, 65536)
        if not chunk:
            break
        seen = now
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            text = line.decode(errors="replace").strip("\r")
            s.lines.append((now - start, text))
            if last and text.startswith(last):
                end = min(end, now + grace)
                s.why = f"did not end within {grace} s after its work"
                last = None
    if rest:
        s.lines.append((now - start, rest.decode(errors="replace").strip("\r")))
    s.why = None
    try:
        p.wait(timeout=10)
    except subprocess.TimeoutExpired:
        s.why = "closed its output and did not end"


def _end(p):
    if p.poll() is None:
        p.terminate()
        try:
            p.wait(timeout=3)
        except subprocess.TimeoutExpired:
            p.kill()
            p.wait()
