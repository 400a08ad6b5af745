#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The benchmark harness: it reads right, judges right, survives what guests do, and its programs
do what they say natively and, the nanobenchmarks, in every engine.

usage: test_harness.py RINGER FOLDER	(FOLDER: for compiled programs)
"""
import argparse
import importlib.machinery
import importlib.util
import os
import re
import socket
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree

sys.dont_write_bytecode = True
SOURCE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(SOURCE, "bench"))
from lib import chart, goals, machines, parse, parts, report, rounds, session, workloads  # noqa: E402
from lib.results import NATIVE, TCG, Results  # noqa: E402

passed = failed = 0
INFO = {"cpu": "c", "host": "h", "ringer": "r", "qemu": "q", "gcc": "g", "guest": "l", "date": "d",
        "command": "x", "commit": "y", "load": "0", "chart": "results.svg"}
OPT = argparse.Namespace(limit=0.1, scale=1.0, rounds=2, full=True)
ALL = [*workloads.COMPUTE, *workloads.SYSTEM]


def check(ok, what):
    global passed, failed
    if ok:
        passed += 1
    else:
        failed += 1
        print(f"failed: {what}", flush=True)


def equal(got, want, what):
    check(got == want, f"{what}: {got!r}, not {want!r}")


def load_run():
    loader = importlib.machinery.SourceFileLoader("bench_run", os.path.join(SOURCE, "bench/run"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("bench_run", loader))
    loader.exec_module(module)
    return module


# ---- reading ----

def lines(text, step=1.0):
    return [(i * step, t) for i, t in enumerate(text.split("\n"))]


def guest_output():
    out = parse.GuestOutput(lines("[ 0.1] Run /init\nbench-init\nbench-begin 5000000000\n"
                                  "bench-start sha256\nbench sha256 1500 7 1 ab\n"
                                  "bench-skip avx2 this CPU has no AVX2\nbench-start pipe\n"
                                  "bench-fail pipe broken: no pipe\nbench-start lz77\n"
                                  "bench lz77 5 0 1 0\nbench-end 11000000000\nbench-exit 1"))
    equal(out.init, 1.0, "first line of init")
    equal(out.times, {"sha256": (1500, 7, 1, "ab")}, "times (without one of no iterations)")
    equal(out.skipped, {"avx2": "this CPU has no AVX2"}, "skipped")
    equal(out.failed, {"pipe": "broken: no pipe"}, "failed")
    equal((out.complete, out.running), (True, None), "the end")
    equal(out.clock_off() is not None, True, "6 s in 8: the clock is off")
    out = parse.GuestOutput(lines("bench-begin 0\nbench-end 1000000000"))
    equal(out.clock_off(), None, "1 s in 1: the clock is right")
    out = parse.GuestOutput(lines("bench-init\nbench-begin 1\nbench-start files\nKernel panic"))
    equal((out.running, out.complete, out.clock_off()), ("files", False, None), "death in files")


def other_output():
    cycles, bad, end = parse.nano(lines("nano-begin 1\nnano in 1000 10\nnano-fail cr8wr 500 7\n"
                                        "nano x y z\nnano-end 9"))
    equal(cycles, {"in": 100.0}, "nano")
    equal((list(bad), end), (["cr8wr"], True), "nano's failures")
    equal(parse.nano(lines("nano in 1 0\nnano-trap 13 0")), ({}, {}, False), "nano's death")
    equal(parse.nano_hz(lines("nano callret 1 1\nnano-hz 2000")), 2000, "rate of the TSC")
    got = parse.exit_stats("exit reason   count  time ms\npio-in   44   0.5  11\n"
                           "  exception #PF    7\nringer: error 7x: bad\n"
                           "code cache: 22 of 49152 KiB, 3 pages, 35 units\n"
                           "  units translated       10\n  direct exits taken   200\n"
                           "  indirect look-ups   300\nhit rate      99.5 %\n")
    equal(got.get("pio-in"), (44.0, ""), "exit count")
    equal((got.get("code cache used"), got.get("code cache size")),
          ((22.0, "KiB"), (49152.0, "KiB")), "the code cache")
    about = parse.translator(got)
    check("pio-in" not in about and about["indirect look-ups"][0] == 300, f"translations: {about}")
    equal(about["found in the cache, of exits and look-ups"], (98.0, "%"), "hit rate")
    equal(parse.translator({"pio-in": (4.0, "")}), {}, "no code cache")
    equal(got.get("hit rate"), (99.5, "%"), "a counter in percent")
    equal(got.get("exception #PF"), (7.0, ""), "an exception's count")
    text = """\
7f0000000000-7f0020000000 rw-s 00000000 00:01 1234  /memfd:ringer-ram (deleted)
Rss:                1000 kB
Pss:                 500 kB
7f0030000000-7f0050000000 rw-s 00000000 00:01 1234  /memfd:ringer-ram (deleted)
Rss:                1000 kB
Pss:                 500 kB
7f0060000000-7f0070000000 r-xs 00000000 00:01 1235  /memfd:ringer-code (deleted)
Rss:                 200 kB
Pss:                 100 kB
7f0080000000-7f0090000000 rw-s 00000000 00:01 1235  /memfd:ringer-code (deleted)
Rss:                 200 kB
Pss:                 100 kB
7f00a0000000-7f00b0000000 r-xp 00000000 00:01 77  /usr/lib/libc.so.6
Rss:                 40 kB
Pss:                 1 kB
7f00c0000000-7f00d0000000 rw-p 00000000 00:00 0
Rss:                 10 kB
Pss:                 10 kB
"""
    equal(parse.smaps(text), (1000 << 10, 250 << 10), "memory of a process")
    with open("/proc/self/smaps", encoding="utf-8") as f:
        ram, other = parse.smaps(f.read())
    check(ram == 0 and 2 << 20 < other < 1 << 30, f"memory of this process: {ram}, {other}")


# ---- judging ----

def invented(engine=1.5, tcg=10.0, rounds_=2):
    """Every workload takes that many times native; getpid 0.2 us."""
    r = Results(["bt", "interp"])
    for t, x in ((NATIVE, 1.0), ("bt", engine), ("interp", 30.0), (TCG, tcg)):
        for n in ALL:
            for k in range(rounds_):
                slow = 20 if t == TCG and n in ("matmul", "avx2") else x
                r.add(t, n, 133.0 * slow * (1 + k / 100), 1, "ab")
        for n in workloads.NANO:
            r.samples[(t, n)] = [1500.0 * x]
        if t != NATIVE:
            r.boots[(t, "PVH")] = [0.1 * x]
            r.boots[(t, "bzImage")] = [0.1 * x]
            r.memory[t] = (int(20 * x) << 20, 90 << 20)
    r.samples = {k: v for k, v in r.samples.items() if k[0] != NATIVE or k[1] != "in"}
    r.counters = {"bt": {"code cache used": (12.0, "MiB")}, "interp": {"decode": (3.0, "")}}
    r.hz = 2_000_000_000
    return r


def verdicts(r):
    return {g.what: g.verdict for g in goals.Evaluation(r).all()}


def judging():
    got = verdicts(invented())
    wrong = [w for w, v in got.items() if v != "met" and "TCG takes" not in w]
    # 20 times native over 1.5: matmul and AVX2 are 13 times faster than TCG; 1.1 us for nano.
    equal(sorted(wrong), ["AVX2: times faster than TCG", "matmul (floating point): times faster "
                          "than TCG", "nano: cr8wr", "nano: in", "nano: ptemod"], "what is missed")
    equal(len(got), 19, "number of goals")
    equal(sorted(w for w, v in verdicts(invented(engine=4.2)).items() if v == "met"),
          ["boot (PVH): where TCG takes 2.3 s", "boot (bzImage): where TCG takes 2.3 s",
           "compute, integer: least, times faster than TCG"], "what a slow engine meets")
    r = invented()
    r.fail("bt", "lz77", "wrong")
    got = verdicts(r)
    for what in ("compute: geometric mean over native", "compute: worst over native",
                 "compute, integer: geometric mean, times faster than TCG"):
        equal(got[what], "missed", f"{what} when a workload failed")
    equal(got["system: geometric mean over native"], "met", "another group when one failed")
    r = invented()
    r.skipped[("bt", "avx2")] = "no AVX2"
    del r.samples[("bt", "avx2")]
    equal(verdicts(r)["AVX2: times faster than TCG"], "n/a", "the goal of a skipped workload")
    r = invented()
    r.add("interp", "lz77", 1, 1, "cd")
    equal((r.median("interp", "lz77"), len(r.problems)), (None, 1), "a wrong checksum")
    equal(r.median("bt", "lz77") is not None, True, "the checksum of others")
    equal(round(r.spread("bt"), 3), 0.01, "spread of two rounds")
    equal(Results(["bt"]).geomean(["sha256"], "bt", NATIVE), None, "a mean of nothing")


def reporting():
    r = invented()
    r.fail("bt", "files", "it | broke")
    r.skipped[(TCG, "avx2")] = "no AVX2"
    text = report.make(r, INFO, OPT, "qemu")
    tables = re.findall(r"(?:^\|.*\n)+", text, re.M)
    check(len(tables) >= 7, f"{len(tables)} tables")
    for t in tables:
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in t.splitlines()}
        equal(len(widths), 1, f"columns of {t.splitlines()[0]}")
    for want in ("| failed |", "## Failed", "it | broke", "## Skipped", "results.svg", "12 MiB"):
        check(want in text, f"no {want!r} in the report")
    empty = report.make(Results(["interp"], tcg=False), INFO, OPT, "qemu")
    check("## Goals: 0 of 19 met" in empty and "n/a" in empty, "the report of nothing")
    root = ElementTree.fromstring(chart.draw(r))
    bars = [e for e in root.iter("{http://www.w3.org/2000/svg}rect") if e.get("height") == "10"
            and e.get("y") != "28"]
    # 19 workloads and 2 means for 3 targets, one of them failed.
    equal(len(bars), 21 * 3 - 1, "bars of the chart")
    check(all(float(e.get("width")) > 0 and float(e.get("x")) >= 0 and
              float(e.get("x")) + float(e.get("width")) < chart.WIDTH for e in bars),
          "bars within the chart")
    equal(chart.draw(Results(["interp"])), None, "a chart of nothing")


def load_script(name):
    loader = importlib.machinery.SourceFileLoader("bench_" + name, os.path.join(SOURCE, "bench", name))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("bench_" + name, loader))
    loader.exec_module(module)
    return module


def nets():
    """bench/net: what guests say, and the host's side of a transfer."""
    net = load_script("net")
    said = lines("[ 1.0] Run /init\nnet-listens\n"
                 "net-ping round-trip min/avg/max = 0.371/0.520/1.017 ms\nnet-first\nnet-pair-end 12345\nnet-first\n")
    equal(net.marks(said)["net-pair-end"], (4.0, "12345"), "a mark and what stands behind it")
    equal(net.marks(said)["net-first"][0], 3.0, "of two marks the first counts")
    equal(net.ping(said), 520.0, "average of ping, in microseconds")
    equal(net.ping(lines("net-ping \n")), None, "a ping without an answer")
    equal((net.times("pair", 50, 10), net.times("pair-ping", 50, 100)), ("5.00", "2.00"), "times faster")
    equal((net.figure("up", 2.5e9), net.figure("user-ping", 500), net.figure("up", None)), ("2,500 MB/s", "500 us", ""),
          "figures")
    host = net.Host(0.05)
    source, sink = (int(p) for p in host.ports)
    got = put = 0
    with socket.create_connection(("127.0.0.1", source), 10) as s:
        while more := s.recv(1 << 16):
            got += len(more)
    with socket.create_connection(("127.0.0.1", sink), 10) as s:
        end = time.monotonic() + 0.1
        while time.monotonic() < end:
            put += s.send(bytes(1 << 16))
    for _ in range(200):  # the other threads' last word
        if host.sent and host.taken:
            break
        time.sleep(0.05)
    equal((host.sent or (0,))[0], got, "bytes sent are bytes that came")
    check(host.sent and host.sent[1] >= 0.05, "bytes sent for some time")
    equal((host.taken or (0,))[0], put, "bytes taken are bytes that were sent")


def disks():
    """bench/disk: fio's jobs, and the places of its figures."""
    disk = load_script("disk")
    text = disk.jobs({"direct": "/dev/vda", "cached": "/dev/vdb"}, 2, {"direct": 1, "cached": 0})
    equal(text.count("filename=/dev/vda\ndirect=1\n"), len(disk.CASES), "jobs of a disk")
    equal(text.count("rw="), len(disk.CASES) * len(disk.MODES), "jobs")

    def line(name, error="0"):
        f = ["3", "fio-3.33", name, "0", error, *(["0"] * 120)]
        f[6], f[7], f[47], f[48] = "1024", "256", "2048", "512"
        return ";".join(f)
    got = disk.parse(["fio: noise", line("direct-0"), line("cached-3"), line("direct-1", "5"), "3;fio-3.33;cut",
                      line("other-1"), line("direct-9x")])
    names = list(disk.CASES)
    equal(got, {("direct", names[0]): (256.0, 1024 * 1024.0), ("cached", names[3]): (512.0, 2048 * 1024.0)},
          "fio's terse output")
    equal(disk.figure(names[4], 2.5e9), "2,500 MB/s", "a figure of a sequential access")
    equal(disk.figure(names[0], None), "failed", "no figure")


def keeping():
    """Parts of the results that other scripts made outlive a run, and each other."""
    run = report.make(invented(), INFO, OPT, "qemu")
    equal(parts.find(run), {}, "a run by itself has no parts")
    old = parts.put(parts.put(run, "net", "## Networks\n\nold"), "disk", "## Disks\n\n| a |\n")
    equal(list(parts.find(old)), ["net", "disk"], "two parts")
    old = parts.put(old, "net", "## Networks\n\nnew \\1")
    check("old" not in old and "new \\1" in old and "| a |" in old, "one part replaced")
    equal(old.count("<!--"), 4, "comments")
    check(old.startswith(run), "what was there stays")
    later = parts.carry(old, "# Benchmarks\n\nlater\n")
    equal(list(parts.find(later).items()), list(parts.find(old).items()), "parts kept by a run")
    check(later.startswith("# Benchmarks\n\nlater\n\n<!-- part: net -->\n"), "the run's text comes first")
    equal(parts.carry("", run), run, "no old results")


def choosing():
    s = workloads.Selection
    equal((s().program, s().boot, s().all), (ALL, True, True), "everything")
    equal((s(only="sha256").program, s(only="sha256").boot), (["sha256"], False), "one")
    equal(s(only="nano/*,fork*").nano, list(workloads.NANO), "a group by pattern")
    equal(s("system", "*+*").program, ["read+write", "fork+exit", "fork+exec", "mmap+touch"],
          "a pattern in a group")
    for bad in (("computing", None), (None, "sha257"), ("nano", "sha256")):
        try:
            s(*bad)
            check(False, f"{bad} was taken")
        except ValueError:
            check(True, "")
    run = load_run()
    there = {"kvm": False, "bt": True, "interp": True}
    equal(run.pick_engines(None, there), ["bt", "interp"], "default engines")
    equal(run.pick_engines("interp,bt,interp", there), ["interp", "bt"], "engines asked for")
    for bad in ("kvm", "nosuch", ","):
        try:
            run.pick_engines(bad, there)
            check(False, f"--engine {bad} was taken")
        except machines.SetupError as e:
            check("bt, interp" in str(e) or bad == ",", f"--engine {bad}: {e}")
    check(run.options(["--quick"]).rounds == 1 and not run.options(["--quick"]).full, "--quick")
    check(run.options([]).full and not run.options(["--no-tcg"]).full, "a full run")
    for bad in (["--rounds", "0"], ["--only", "nosuch"], ["--scale", "x"], ["--nosuch"]):
        got = subprocess.run([os.path.join(SOURCE, "bench/run"), *bad], capture_output=True,
                             timeout=60)
        check(got.returncode == 2 and got.stderr, f"bench/run {bad}: {got}")


# ---- running ----

def sh(script):
    return ["sh", "-c", script]


def sessions():
    s = session.run(sh("echo a; echo b >&2; printf c; exit 3"), 20, 20)
    equal(([t for _, t in s.lines], s.code, s.why), (["a", "c"], 3, None), "a session")
    equal(s.tail(), "b", "its last words")
    begin = time.monotonic()
    s = session.run(sh("echo a; sleep 60"), 20, 0.4)
    check(s.why and "nothing" in s.why, f"a silent session: {s.why}")
    s = session.run(sh("while echo a; do sleep 0.1; done"), 0.6, 20)
    check(s.why and "more than" in s.why, f"an endless session: {s.why}")
    s = session.run(sh("trap '' TERM; echo end 1; while :; do sleep 0.2; done"), 30, 30, last="end",
                    grace=0.3)
    check(s.why and "after its work" in s.why, f"a session that stays: {s.why}")
    s = session.run(["/nonexistent/program"], 5, 5)
    check(s.why and "nonexistent" in s.why, f"no program: {s.why}")
    check(time.monotonic() - begin < 20, "sessions end in time")
    pids = []
    s = session.run(sh("sleep 0.3; taskset -cp $$ 2>/dev/null || true; echo $$"), 20, 20, every=0.05,
                    pin=max(os.sched_getaffinity(0)), sample=pids.append)
    check(len(pids) > 1 and str(pids[0]) == s.lines[-1][1], f"samples: {pids}, {s.lines}")


class FakeMachines:
    """bt dies in one workload, then lies in another; TCG does not boot."""

    def __init__(self):
        self.nano_native = "/bin/false"

    @staticmethod
    def program(args, broken=()):
        names = args[args.index("--only") + 1].split(",")
        out = ["echo bench-init", "echo bench-begin 0"]
        for n in names:
            out.append(f"echo bench-start {n}")
            out.append(broken[n] if n in broken else f"echo bench {n} 100 1 1 ab")
        return sh("; ".join([*out, "echo bench-end 1000", "echo bench-exit 0"]))

    def native(self, args):
        return self.program(args)

    def ringer_linux(self, engine, args, proto="PVH", stats=False):
        return self.program(args, {"lz77": "echo dead >&2; exit 9", "pipe": "kill -9 $$",
                                   "files": "echo bench files 1 1 1 bad"})

    def tcg_linux(self, args, proto="PVH", avx2=False, shared=False):
        return sh("echo no such kernel >&2; exit 1")


def dying_guests():
    r = Results(["bt"])
    opt = argparse.Namespace(rounds=2, limit=0.1, scale=1.0)
    rounds.Bench(FakeMachines(), r, workloads.Selection("compute,system"), opt, lambda _: None).run()
    equal(r.failed.get(("bt", "lz77")), "ended with code 9: dead", "death in lz77")
    check("code -9" in r.failed.get(("bt", "pipe"), ""), "death in pipe")
    check("checksum" in r.failed.get(("bt", "files"), ""), "a wrong checksum in files")
    good = [n for n in ALL if ("bt", n) not in r.failed]
    equal(len(good), len(ALL) - 3, "workloads that survive")
    check(all(len(r.samples[("bt", n)]) == 2 for n in good), "both rounds of the survivors")
    check(all("no such kernel" in r.failed[(TCG, n)] for n in ALL), "TCG, which does not boot")
    check(not any(t == NATIVE for t, _ in r.failed), "native is well")
    text = report.make(r, INFO, OPT, "qemu")
    check(text.count("| failed |") >= len(ALL), "failures are shown")


def programs(ringer, folder):
    try:
        prog, nano, native = machines.compile_programs(folder)
    except machines.SetupError as e:
        check(False, str(e))
        return
    listed = subprocess.run([prog, "--list"], capture_output=True, text=True, timeout=30).stdout
    equal(sorted(listed.split()), sorted(ALL), "the program's list and the harness's")
    busybox = next((b for b in ("/bin/true", "/usr/bin/true") if os.path.exists(b)), "/bin/busybox")
    args = ["--scale", "0.0001", "--limit", "0.01", "--busybox"]
    outs = []
    for _ in range(2):
        s = session.run([prog, *args, busybox], 200, 100)
        out = parse.GuestOutput(s.lines)
        equal((s.code, out.failed, out.complete), (0, {}, True), "the program, natively")
        equal(len(out.times) + len(out.skipped), len(ALL), "its workloads")
        outs.append({n: v[3] for n, v in out.times.items()})
    equal(outs[0], outs[1], "checksums of two runs")
    equal(len(set(outs[0][n] for n in workloads.COMPUTE if n in outs[0])), len(
        [n for n in workloads.COMPUTE if n in outs[0]]), "different checksums")
    s = session.run([prog, *args, "/nonexistent", "--only", "fork+exec,getpid"], 60, 60)
    out = parse.GuestOutput(s.lines)
    equal((s.code, list(out.failed), list(out.times)), (1, ["fork+exec"], ["getpid"]),
          "without busybox")
    s = session.run([native], 60, 60)
    check("callret" in parse.nano(s.lines)[0] and 1e8 < (parse.nano_hz(s.lines) or 0) < 1e10,
          f"native part of the nanobenchmarks: {s.lines}")
    engines = subprocess.run([ringer, "engines"], capture_output=True, text=True, timeout=30).stdout
    for engine in re.findall(r"^(\w+)\s+yes\b", engines, re.M):
        s = session.run([ringer, "run", "-q", "--engine", engine, "-m", "16M", "--kernel", nano,
                         "--cmdline", "", "--debug-exit", "0xf4"], 120, 60, last=parse.NANO_LAST)
        cycles, bad, end = parse.nano(s.lines)
        equal((sorted(cycles), bad, end, s.code),
              (sorted(workloads.NANO), {}, True, machines.NANO_CODE),
              f"nanobenchmarks in {engine}: {s.why} {s.tail()}")


guest_output()
other_output()
judging()
reporting()
keeping()
disks()
nets()
choosing()
sessions()
dying_guests()
programs(os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2]))
print(f"{passed} passed, {failed} failed")
sys.exit(1 if failed else 0)
