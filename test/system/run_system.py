#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Run the system tests' guest, topic by topic, and count its cases.

usage: run_system.py RINGER IMAGE ENGINE [TOPIC[:CASE]...] [-v]

ENGINE is one of Ringer's, with `+lockstep` held against the interpreter, or `tcg`: QEMU's, as a second
opinion. A case that ends or hangs the guest
has failed; the guest is started again behind it. With TOPIC:CASE only that case counts.
"""
import os
import re
import select
import subprocess
import sys
import time

SILENCE = 30  # seconds without a byte: hung
EXIT_OK = 1   # debug exit of 0
CASE = re.compile(r"^case (\d+) (.*?): (.*)", re.S)


# The translator transfers control and faults at the target, the interpreter faults at the branch:
# what the guest may see is in the cases' own expectations.
HOLES = ["exception by call_hole", "exception by call_mem_hole", "exception by ret_hole"]


def command(ringer, image, engine, cpus, line):
    if engine == "tcg":
        return ["qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-m", "64M", "-smp",
                str(cpus), "-display", "none", "-nodefaults", "-no-reboot", "-debugcon", "stdio",
                "-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-kernel", image, "-append", line]
    engine, lockstep = engine.removesuffix("+lockstep"), engine.endswith("+lockstep")
    return [ringer, "run", "-q", "--engine", engine, *(["--lockstep"] if lockstep else []), "-m", "64M",
            "-c", str(cpus), "--console", "none", "--debugcon", "stdio", "--debug-exit", "0xf4",
            "--no-reboot", "--kernel", image, "--cmdline", line]


def run(cmd):
    """What the guest printed, how it ended (exit code, or None when it was stopped)."""
    p = subprocess.Popen(cmd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = b"", b""
    pipes = {p.stdout.fileno(): "out", p.stderr.fileno(): "err"}
    quiet = time.monotonic()
    hung = False
    while pipes:
        ready = select.select(list(pipes), [], [], 1)[0]
        for fd in ready:
            data = os.read(fd, 65536)
            if not data:
                del pipes[fd]
            elif pipes[fd] == "out":
                out += data
                quiet = time.monotonic()
            else:
                err += data
        if time.monotonic() - quiet > SILENCE:
            hung = True
            p.kill()
            break
    p.wait()
    p.stdout.close()
    p.stderr.close()
    return out.decode(errors="replace"), err.decode(errors="replace"), None if hung else p.returncode


class Results:
    def __init__(self, verbose):
        self.passed = self.failed = self.skipped = 0
        self.verbose = verbose

    def case(self, topic, number, name, text):
        text = text.rstrip("\n")
        last = text.rsplit("\n", 1)[-1]
        where = f"{topic}:{number} {name}"
        if text.startswith("skip: "):
            self.skipped += 1
            print(f"skip: {where}: {text[6:]}")
        elif "\n" not in text and text.startswith("ok"):
            self.passed += 1
            if self.verbose or len(text) > 2:
                print(f"ok {where}{text[2:]}")
        else:
            self.failed += 1
            print(f"failed: {where}: {text if not last.startswith('FAIL') else text}")


def cases_of(out):
    """[(number, name, what it said)] in the guest's report."""
    found = []
    for part in re.split(r"^(?=case \d+ |done )", out, flags=re.M):
        m = CASE.match(part)
        if m:
            found.append((int(m.group(1)), m.group(2), m.group(3)))
    return found


def finished(text):
    return bool(re.search(r"^(skip: .*|ok.*|FAIL.*)\n$", text, re.M) and text.endswith("\n"))


def run_topic(res, start, topic, cpus, count, only, known=()):
    first = only if only is not None else 0
    while first < count:
        out, err, code = run(start(cpus, f"{topic} {cpus} {first}"))
        cases = cases_of(out)
        for number, name, text in cases:
            if only is not None and number != only:
                continue
            if finished(text):
                res.case(topic, number, name, text)
            elif name in known and "interp raises exception 13" in err:
                res.case(topic, number, name, "skip: the target's address is not canonical: the "
                         "translator faults there, the interpreter at the branch\n")
            else:
                how = "hung" if code is None else f"ended the machine, exit code {code}"
                res.case(topic, number, name, f"{how}\n{text}\n{err.rstrip()}")
        if only is not None:
            if not cases:
                res.case(topic, only, "", f"did not start, exit code {code}\n{out}{err}")
            return
        if code == EXIT_OK and f"done {topic}\n" in out and len(cases) == count - first:
            if err.strip():
                print(f"note: {topic}: {err.strip()}")
            return
        if not cases:
            res.case(topic, first, "", f"did not start, exit code {code}\n{out}{err}")
            return
        if finished(cases[-1][2]):
            res.case(topic, cases[-1][0] + 1, "", f"ended between cases, exit code {code}\n{err}")
        first = cases[-1][0] + 1


def main():
    args = [a for a in sys.argv[1:] if a != "-v"]
    if len(args) < 3:
        print(__doc__.split("\n\n")[1], file=sys.stderr)
        return 2
    ringer, image, engine = args[:3]
    chosen = args[3:]

    def start(cpus, line):
        return command(ringer, image, engine, cpus, line)

    out, err, code = run(start(1, "list"))
    topics = re.findall(r"^topic (\S+) (\d+) (\d+)$", out, re.M)
    if code != EXIT_OK or not topics:
        print(f"failed: the guest does not start: exit code {code}\n{out}{err}\n0 passed, 1 failed")
        return 1
    res = Results("-v" in sys.argv)
    for name, cpus, count in topics:
        wanted = [c for c in chosen if c.split(":")[0] == name]
        if chosen and not wanted:
            continue
        if int(cpus) > 1 and engine.endswith("+lockstep"):
            res.skipped += int(count)
            print(f"skip: {name}: {cpus} CPUs, lockstep follows one")
            continue
        began, before = time.monotonic(), (res.passed, res.failed, res.skipped)
        for c in wanted or [name]:
            only = int(c.split(":")[1]) if ":" in c else None
            run_topic(res, start, name, int(cpus), int(count), only,
                      HOLES if engine.endswith("+lockstep") else ())
        after = (res.passed, res.failed, res.skipped)
        p, f, s = (b - a for a, b in zip(before, after))
        print(f"{name} on {engine}: {p} of {p + f + s} cases, {f} failed, {s} skipped, "
              f"{time.monotonic() - began:.1f} s")
    print(f"{res.passed} passed, {res.failed} failed, {res.skipped} skipped")
    return 1 if res.failed or not res.passed else 0


if __name__ == "__main__":
    sys.exit(main())
