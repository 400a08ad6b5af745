# SPDX-License-Identifier: MIT
"""The rounds: each runs every target once, in turn, so that a slow minute of the machine hits all."""
import os
import time

from . import machines, parse, session, workloads
from .results import NATIVE, TCG, label

BOOT_LIMIT = 120  # seconds without a line while a guest boots or works
RESTARTS = 4      # of a guest in which workloads die


class Bench:
    def __init__(self, m, results, selection, opt, say):
        self.m, self.r, self.sel, self.opt, self.say = m, results, selection, opt, say
        # Native work stays on one CPU, as a guest with one virtual CPU does.
        self.cpu = max(os.sched_getaffinity(0))
        self.begin = time.monotonic()

    def note(self, text):
        self.say(f"bench: [{time.monotonic() - self.begin:5.0f} s] {text}")

    def run(self):
        for n in range(1, self.opt.rounds + 1):
            for t in self.r.targets:
                self.work(t, f"round {n} of {self.opt.rounds}, {label(t)}")
            for t in self.r.targets[1:]:
                if self.sel.boot:
                    if not self.sel.program:
                        self.boot(t, "PVH", n)
                    self.boot(t, "bzImage", n)
            for t in self.r.targets:
                if self.sel.nano:
                    self.nano(t)
        for t in self.r.targets[1:]:
            if self.sel.boot:
                self.memory(t)

    # ---- workloads ----

    def limit(self, target):
        """Seconds for each workload; the interpreter's iterations are long, so fewer will do."""
        return self.opt.limit / 2 if target == "interp" else self.opt.limit

    def args(self, names, target):
        return ["--only", ",".join(names), "--scale", f"{self.opt.scale:g}", "--limit",
                f"{self.limit(target):g}", "--timeout", "60"]

    def open(self, target):
        return [n for n in self.sel.program if (target, n) not in self.r.failed
                and (target, n) not in self.r.skipped]

    def work(self, target, what):
        names = self.open(target)
        if target != TCG:
            return self.sessions(target, names, what)
        apart = [n for n in names if n in workloads.NEEDS_AVX2]
        self.sessions(target, [n for n in names if n not in apart], what)
        return self.sessions(target, apart, what + " with AVX2", avx2=True)

    def sessions(self, target, names, what, avx2=False):
        """Run these workloads; when the guest dies in one, the others in a new guest."""
        for _ in range(RESTARTS):
            if not names:
                return
            self.note(f"{what}: {len(names)} workload{'s' * (len(names) > 1)}")
            out = self.one_session(target, names, avx2)
            names = [n for n in names if n not in out.times and n not in out.skipped
                     and n not in out.failed and n != out.running] if not out.complete else []
        for n in names:
            self.r.fail(target, n, f"the guest died {RESTARTS} times")

    def one_session(self, target, names, avx2):
        args = self.args(names, target)
        if target == NATIVE:
            cmd, last = self.m.native(args), "bench-end"
        elif target == TCG:
            cmd, last = self.m.tcg_linux(args, avx2=avx2), parse.LAST
        else:
            cmd, last = self.m.ringer_linux(target, args), parse.LAST
        s = session.run(cmd, 120 + 90 * len(names), BOOT_LIMIT, last=last,
                        pin=self.cpu if target == NATIVE else None)
        out = parse.GuestOutput(s.lines)
        self.record(target, names, out, s)
        if out.init is not None and not avx2:
            self.r.boots.setdefault((target, "PVH"), []).append(out.init)
        return out

    def record(self, target, names, out, s):
        end = s.why or f"ended with code {s.code}"
        for name, (ns, _, ops, sum_) in out.times.items():
            self.r.add(target, name, ns, ops, sum_)
        for name, why in out.skipped.items():
            self.r.skipped[(target, name)] = why
        for name, why in out.failed.items():
            self.r.fail(target, name, why)
        if out.running:
            self.r.fail(target, out.running, f"{end}: {s.tail()}")
        elif not out.complete and not out.times and not out.failed:
            # It did not come to the first workload; no use in trying again.
            for name in names:
                self.r.fail(target, name, f"no workload began, {end}: {s.tail()}")
            out.complete = True
        elif out.complete and (s.why or s.code not in (0, 1)):
            self.r.fail(target, "end of the session", f"{end}: {s.tail()}")
        wrong = out.clock_off()
        if wrong:
            self.r.fail(target, "clock", wrong)

    # ---- boot and memory ----

    def boot(self, target, proto, n):
        what = f"boot {proto}"
        if (target, what) in self.r.failed:
            return
        self.note(f"round {n} of {self.opt.rounds}, {label(target)}: {what}")
        linux = self.m.tcg_linux if target == TCG else \
            lambda *a, **kw: self.m.ringer_linux(target, *a, **kw)
        s = session.run(linux(["none"], proto=proto), 180, BOOT_LIMIT, last=parse.INIT)
        out = parse.GuestOutput(s.lines)
        if out.init is None:
            self.r.fail(target, what, f"{s.why or f'ended with code {s.code}'}: {s.tail()}")
        else:
            self.r.boots.setdefault((target, proto), []).append(out.init)

    def memory(self, target):
        """A run of its own, because looking disturbs: all workloads, shortly."""
        names = self.sel.program or [*workloads.COMPUTE, *workloads.SYSTEM]
        names = [n for n in names if (target, n) not in self.r.failed]
        peak = [0, 0]

        def sample(pid):
            try:
                with open(f"/proc/{pid}/smaps", encoding="utf-8", errors="replace") as f:
                    ram, other = parse.smaps(f.read())
            except OSError:
                return
            if ram:  # before there is guest RAM it is the loader's memory that counts
                peak[:] = max(peak[0], other), max(peak[1], ram)

        self.note(f"{label(target)}: memory and counters")
        args = ["--only", ",".join(names), "--scale", "0.2", "--limit", "0.1", "--timeout", "60"]
        if target == TCG:
            cmd = self.m.tcg_linux(args, shared=True, avx2="avx2" in names)
        else:
            cmd = self.m.ringer_linux(target, args, stats=True)
        s = session.run(cmd, 300, BOOT_LIMIT, last=parse.LAST, sample=sample)
        if s.why or not peak[1]:
            why = s.why or "no guest RAM in /proc/PID/smaps"
            self.r.fail(target, "memory", f"{why}: {s.tail()}")
            return
        self.r.memory[target] = tuple(peak)
        if target != TCG:
            self.r.counters[target] = parse.exit_stats(s.errors)

    # ---- nanobenchmarks ----

    def nano(self, target):
        names = [n for n in self.sel.nano if (target, n) not in self.r.failed]
        if not names:
            return
        if target == NATIVE:
            s = session.run([self.m.nano_native], 30, 30, pin=self.cpu)
            self.r.hz = parse.nano_hz(s.lines) or self.r.hz
        else:
            cmd = self.m.tcg_nano() if target == TCG else self.m.ringer_nano(target)
            s = session.run(cmd, 90, 60, last=parse.NANO_LAST)
        cycles, failed, end = parse.nano(s.lines)
        for name in names:
            if name in failed:
                self.r.fail(target, name, failed[name])
            elif name in cycles:
                self.r.samples.setdefault((target, name), []).append(cycles[name])
            elif target != NATIVE:
                self.r.fail(target, name, f"{s.why or f'ended with code {s.code}'}: {s.tail()}")
        if target != NATIVE and end and (s.why or s.code != machines.NANO_CODE):
            self.r.fail(target, "nano's end", s.why or f"code {s.code}: {s.tail()}")
