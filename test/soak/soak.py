#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""A Debian with systemd under load on 1, 2 and 4 processors, unattended, in some 20 minutes: a C project is made with
make -j and must come out the same, bit by bit, every time; stress-ng with --verify; hackbench; mounts and names
that come and go. Then on shared folders: git clone and its kin, the same make, permissions, fsprobe.
Afterwards the kernel must not have complained.

usage: soak.py [--engine E] [--cpus 1,2,4] [--parts build,stress,...] [--seconds N] [--image FILE]
               [--source DIR [--check COMMAND]] [--seed N]

--source: a C project of one's own, a folder with a Makefile, made in the guest on its disk and on the share;
--check: a command that tests it there. --image: a disk that tools/make-image made, which isn't changed.
A stall that the kernel tells of is the guest's fault only where the host had time for it: beside each
part stands how much of the host's processors it got. What each machine printed is in build/soak-logs.
"""
import argparse
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.abspath(__file__))
for folder in ("boot", "progs"):
    sys.path.insert(0, os.path.join(os.path.dirname(HERE), folder))
import guest  # noqa: E402
from progs_test import ALARMS, QUIET, STRESS_LOG  # noqa: E402

PARTS = ("build", "hackbench", "stress", "files", "share")
OURS = re.compile(STRESS_LOG + r"|.*cgroup: fork rejected.*|.*systemd.*Installed.*")
NR_FILES = 40
MAKEFILE = """\
CFLAGS = -O2 -Wall
objs = $(patsubst %.c,%.o,$(wildcard *.c))
project: $(objs)
\t$(CC) -o $@ $(objs)
$(objs): project.h
"""


def write(path, text):
    with open(path, "w", encoding="ascii") as f:
        f.write(text)


def function(rnd, name):
    """A C function of one u64 and what it is in Python, of the same random operations."""
    lines, steps = [], []
    for _ in range(60):
        k, s = rnd.getrandbits(64) | 1, rnd.randrange(1, 64)
        op = rnd.randrange(5)
        steps.append((op, k, s))
        lines.append("\t" + ("x += %dull;", "x ^= %dull;", "x *= %dull;")[op] % k if op < 3 else
                     f"\tx = x << {s} | x >> {64 - s};" if op == 3 else
                     f"\tfor (int i = 0; i < {s}; i++)\n\t\tx = (x ^ x >> 29) + t[(x ^ i) & 15];")
    table = [rnd.getrandbits(64) for _ in range(16)]
    text = ('#include "project.h"\n' f"static const u64 t[16] = {{{', '.join(f'{v}ull' for v in table)}}};\n"
            f"u64 {name}(u64 x)\n{{\n" + "\n".join(lines) + "\n\treturn x + t[0];\n}\n")

    def value(x):
        m = (1 << 64) - 1
        for op, k, s in steps:
            if op == 0:
                x = x + k & m
            elif op == 1:
                x ^= k
            elif op == 2:
                x = x * k & m
            elif op == 3:
                x = (x << s | x >> 64 - s) & m
            else:
                for i in range(s):
                    x = (x ^ x >> 29) + table[(x ^ i) & 15] & m
        return x + table[0] & m
    return text, value


def make_project(folder, rnd):
    os.mkdir(folder)
    names, x = [f"f{i}" for i in range(NR_FILES)], 1
    write(os.path.join(folder, "Makefile"), MAKEFILE)
    write(os.path.join(folder, "project.h"), "typedef unsigned long long u64;\n" +
          "".join(f"u64 {name}(u64 x);\n" for name in names))
    for name in names:
        text, value = function(rnd, name)
        write(os.path.join(folder, name + ".c"), text)
        for _ in range(100):
            x = value(x)
    calls = "".join(f"\tfor (int i = 0; i < 100; i++)\n\t\tx = {name}(x);\n" for name in names)
    write(os.path.join(folder, "main.c"), '#include <stdio.h>\n#include "project.h"\nint main(void)\n{\n\tu64 x = 1;\n' +
          calls + '\tprintf("%llx\\n", x);\n\treturn 0;\n}\n')
    write(os.path.join(folder, "expected"), f"{x:x}\n")


def git(*args):
    env = dict(os.environ, GIT_AUTHOR_NAME="soak", GIT_AUTHOR_EMAIL="soak@localhost", GIT_COMMITTER_NAME="soak",
               GIT_COMMITTER_EMAIL="soak@localhost", GIT_CONFIG_NOSYSTEM="1")
    return subprocess.run(["git", *args], env=env, check=True, capture_output=True, text=True, timeout=120).stdout


def make_repo(top, work, rnd):
    """A bare repository with a few hundred files and some history; its last commit."""
    git("init", "-q", work)
    for turn in range(3):
        for i in range(120):
            path = os.path.join(work, f"d{i % 12}/e{i % 5}/f{i}")
            os.makedirs(os.path.dirname(path), exist_ok=True)
            write(path, f"{turn}\n" + "".join(f"{rnd.getrandbits(256):x}\n" for _ in range(rnd.randrange(1, 80))))
        git("-C", work, "add", "-A")
        git("-C", work, "commit", "-q", "-m", f"turn {turn}")
    git("clone", "-q", "--bare", work, os.path.join(top, "repo.git"))
    return git("-C", work, "rev-parse", "HEAD").strip()


def prepare(opts, top):
    """What the guest gets: /mnt/in (with repo.git, which it pushes to) and /mnt/out, empty."""
    rnd = random.Random(opts.seed)
    inside = os.path.join(top, "in")
    os.makedirs(os.path.join(inside, "progs"))
    os.makedirs(os.path.join(top, "out"))
    for name in ("check.sh", "stress.sh"):
        shutil.copy(os.path.join(os.path.dirname(HERE), "progs", name), os.path.join(inside, "progs"))
    shutil.copy(os.path.join(HERE, "guest.sh"), inside)
    shutil.copy(os.path.join(guest.BUILD, "test/boot/fsprobe"), inside)
    make_project(os.path.join(inside, "project"), rnd)
    write(os.path.join(inside, "commit"), make_repo(inside, os.path.join(top, "work"), rnd))
    if opts.source:
        shutil.copytree(opts.source, os.path.join(inside, "source"), symlinks=True)
    write(os.path.join(inside, "check"), opts.check and opts.check + "\n")
    os.chmod(top, 0o755)


class Soak:
    def __init__(self, opts, score, image, firmware, top):
        self.opts, self.score, self.image, self.firmware, self.top = opts, score, image, firmware, top
        self.bits = set()

    def start(self, cpus):
        shares = [f"--share={tag}={os.path.join(self.top, tag)}" for tag in ("in", "out")]
        return guest.Guest(None, command=[guest.RINGER, "run", "--engine", self.opts.engine, "-m", "2G", "-c", str(cpus),
                                          "--firmware", self.firmware, "--disk", self.image + ",snapshot=on", *shares])

    def part(self, g, cpus, part):
        seconds, name = self.opts.seconds, f"{cpus} CPUs, {part}"
        used, begin = g.cpu_seconds(), time.monotonic()
        user = "" if os.geteuid() == 0 else "squash"
        out = g.sh(f"sh /mnt/in/guest.sh {part} {seconds} {user}", 1800, code=None)
        found = re.findall(r"^(\d+) passed, (\d+) failed$", out, re.M)
        if self.score.check(found, f"{name}: no end: {out[-2000:]}"):
            for passed, failed in found:
                self.score.passed += int(passed)
                self.score.failed += int(failed)
            if any(int(failed) for _, failed in found):
                print(f"failed: {name}:\n{out}", flush=True)
        for line in re.findall(r"^(?:time|Time|no hackbench)\b.*$", out, re.M):
            self.score.note(f"{name}: {line}")
        self.bits.update(re.findall(r"^bits: (\w+)$", out, re.M))
        took = time.monotonic() - begin
        self.score.note(f"{name}: {took:.0f} s, of the host's processors {g.cpu_seconds() - used:.0f} s")
        self.kernel(g, name)

    def kernel(self, g, name):
        bad = []
        for line in g.sh("dmesg -x -c", 120).splitlines():
            m = re.match(r"\w+ *: *(\w+) *: \[\s*[\d.]+\] (.*)", line)
            if not m or QUIET.fullmatch(m[2]) or OURS.fullmatch(m[2]):
                continue
            if m[1] in ("emerg", "alert", "crit", "err") or ALARMS.search(m[2]):
                bad.append(m[2])
        self.score.check(not bad, f"{name}: the kernel says: " + "; ".join(bad[:5]))

    def run(self, cpus):
        g = self.start(cpus)
        try:
            self.machine(g, cpus)
        finally:
            logs = os.path.join(guest.BUILD, "soak-logs")
            os.makedirs(logs, exist_ok=True)
            write(os.path.join(logs, f"{self.opts.engine}-{cpus}"), g.text().encode("ascii", "replace").decode())

    def machine(self, g, cpus):
        with g:
            g.login(600)
            g.sh("mkdir -p /mnt/in /mnt/out; mount -t virtiofs in /mnt/in && mount -t virtiofs out /mnt/out")
            g.sh("git config --system --add safe.directory '*'")
            self.kernel(g, f"{cpus} CPUs, boot")
            for part in self.opts.parts:
                self.part(g, cpus, part)
            g.send("systemctl poweroff\n")
            self.score.check(g.wait(180) == 0, f"{cpus} CPUs: does not power off: {g.tail()}")


def options():
    ap = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    ap.add_argument("--engine", default="bt")
    ap.add_argument("--cpus", default="1,2,4", metavar="N,...")
    ap.add_argument("--parts", default=",".join(PARTS), metavar="PART,...", help="of " + " ".join(PARTS))
    ap.add_argument("--seconds", type=int, default=5, help="for each stressor (default: 5)")
    ap.add_argument("--image", metavar="FILE", help="made by tools/make-image, not --minimal")
    ap.add_argument("--source", metavar="DIR", help="a C project of one's own, with a Makefile")
    ap.add_argument("--check", metavar="COMMAND", default="", help="its test, run where it was made")
    ap.add_argument("--seed", type=int, default=int(time.time()))
    opts = ap.parse_args()
    opts.cpus = [int(n) for n in opts.cpus.split(",")]
    opts.parts = opts.parts.split(",")
    for part in opts.parts:
        if part not in PARTS:
            ap.error(f"no part {part}: there are {' '.join(PARTS)}")
    return opts


def disk_image(opts):
    if opts.image:
        return opts.image
    image = os.path.join(guest.FILES, "soak.raw")
    guest.make_image(image, "--packages", "rt-tests")
    return image


def main():
    opts = options()
    score = guest.Score()
    if not shutil.which("git"):
        guest.skip_all("git is not installed here: apt install git")
    os.makedirs(guest.FILES, exist_ok=True)
    image = disk_image(opts)
    with tempfile.TemporaryDirectory() as top:
        why = guest.package("seabios", top)
        if why:
            guest.skip_all(f"no SeaBIOS: {why}")
        prepare(opts, os.path.join(top, "share"))
        score.note(f"seed {opts.seed}")
        soak = Soak(opts, score, image, guest.seabios(top), os.path.join(top, "share"))
        for cpus in opts.cpus:
            with guest.stage(score, f"{opts.engine}, {cpus} CPUs"):
                soak.run(cpus)
        score.check(len(soak.bits) < 2, f"compilations of the same source differ: {sorted(soak.bits)}")
    score.end()


if __name__ == "__main__":
    main()
