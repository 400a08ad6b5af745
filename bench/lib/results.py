# SPDX-License-Identifier: MIT
"""What was measured: samples by target and workload, and the ratios of their medians."""
import statistics

from . import workloads

TCG = "tcg"
NATIVE = "native"


def label(target):
    return {NATIVE: "native", TCG: "QEMU TCG"}.get(target, f"Ringer {target}")


class Results:
    """A workload's samples are nanoseconds per operation (nano: cycles). Nothing here measures."""

    def __init__(self, engines, tcg=True):
        self.engines = list(engines)
        self.targets = [NATIVE, *self.engines, *([TCG] if tcg else [])]
        self.samples = {}   # (target, name) -> [value]
        self.skipped = {}   # (target, name) -> why
        self.failed = {}    # (target, name) -> why
        self.sums = {}      # name -> (checksum, target that gave it)
        self.boots = {}     # (target, protocol) -> [seconds]
        self.memory = {}    # target -> (bytes beyond guest RAM, bytes of guest RAM)
        self.counters = {}  # engine -> name -> (number, unit)
        self.hz = None      # of the TSC

    @property
    def engine(self):
        """The one that the goals are about."""
        return "bt" if "bt" in self.engines else self.engines[0]

    @property
    def problems(self):
        return [f"{label(t)}: {n}: {why}" for (t, n), why in self.failed.items()]

    def fail(self, target, name, why):
        self.failed.setdefault((target, name), why)

    def add(self, target, name, ns, ops, checksum):
        want, who = self.sums.setdefault(name, (checksum, target))
        if checksum != want:
            self.fail(target, name, f"checksum {checksum}, {label(who)} has {want}")
        else:
            self.samples.setdefault((target, name), []).append(ns / ops)

    def median(self, target, name):
        """None when it failed, was skipped, or was not run."""
        v = self.samples.get((target, name))
        return statistics.median(v) if v and (target, name) not in self.failed else None

    def boot(self, target, proto):
        v = self.boots.get((target, proto))
        return statistics.median(v) if v else None

    def ratio(self, name, a, b):
        """a's time over b's."""
        x, y = self.median(a, name), self.median(b, name)
        return x / y if x is not None and y else None

    def ratios(self, names, a, b):
        found = {n: self.ratio(n, a, b) for n in names}
        return {n: r for n, r in found.items() if r is not None}

    def geomean(self, names, a, b):
        r = self.ratios(names, a, b)
        return statistics.geometric_mean(r.values()) if r else None

    def spread(self, target):
        """Median over the workloads of (slowest - fastest round) / median; None with one round."""
        v = [(max(s) - min(s)) / statistics.median(s) for (t, n), s in self.samples.items()
             if t == target and len(s) > 1 and n not in workloads.NANO]
        return statistics.median(v) if v else None
