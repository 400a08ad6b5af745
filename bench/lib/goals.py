# SPDX-License-Identifier: MIT
"""The goals that the project has set itself for the translator, beside what was measured."""
from . import workloads
from .results import NATIVE, TCG

MIB = 1 << 20


class Goal:
    """`value` None: not measured. `bad`: why it is missed whatever the value is."""

    def __init__(self, what, wanted, value, met, text, bad=None):
        self.what, self.wanted = what, wanted
        self.figure = text if value is not None else bad or "n/a"
        if bad and value is not None:
            self.figure += f" ({bad})"
        self.verdict = "missed" if bad else "n/a" if value is None else "met" if met else "missed"


def _bound(what, value, low=None, high=None, unit="", digits=2, bad=None, note=""):
    """A goal of the form value <= high or value >= low."""
    wanted = f"<= {high:.3g}{unit}" if high is not None else f">= {low:.3g}{unit}"
    met = value is not None and (value <= high if high is not None else value >= low)
    text = "" if value is None else f"{value:.{digits}f}{unit}{note}"
    return Goal(what, wanted, value, met, text, bad)


def _worst(found, pick):
    """(value, " (name)") of the workload that decides."""
    if not found:
        return None, ""
    name = pick(found, key=found.get)
    return found[name], f" ({name})"


class Evaluation:
    def __init__(self, r):
        self.r = r
        self.e = r.engine

    def failed(self, names, *targets):
        """Why an average is worth nothing: workloads that failed."""
        bad = [n for n in names for t in targets if (t, n) in self.r.failed]
        return f"{', '.join(dict.fromkeys(bad))} failed" if bad else None

    def over_native(self, what, names, high, worst=None):
        r, e = self.r, self.e
        bad = self.failed(names, e, NATIVE)
        yield _bound(f"{what}: geometric mean over native", r.geomean(names, e, NATIVE), high=high,
                     unit="x", bad=bad)
        if worst:
            v, who = _worst(r.ratios(names, e, NATIVE), max)
            yield _bound(f"{what}: worst over native", v, high=worst, unit="x", bad=bad, note=who)

    def over_tcg(self, what, names, mean, each):
        r, e = self.r, self.e
        bad = self.failed(names, e, TCG)
        yield _bound(f"{what}: geometric mean, times faster than TCG", r.geomean(names, TCG, e),
                     low=mean, unit="x", bad=bad)
        v, who = _worst(r.ratios(names, TCG, e), min)
        yield _bound(f"{what}: least, times faster than TCG", v, low=each, unit="x", bad=bad,
                     note=who)

    def one(self, what, name, a, b, **kw):
        return _bound(what, self.r.ratio(name, a, b), unit="x", bad=self.failed([name], a, b), **kw)

    def boot(self):
        r, e = self.r, self.e
        for proto in ("PVH", "bzImage"):
            mine, tcg = r.boot(e, proto), r.boot(TCG, proto)
            bad = self.failed([f"boot {proto}"], e, TCG)
            ratio = mine / tcg if mine and tcg else None
            yield _bound(f"boot ({proto}): times TCG's", ratio, high=1 / 3, bad=bad)
            yield _bound(f"boot ({proto}): where TCG takes 2.3 s", ratio and ratio * 2.3, high=1.2,
                         unit=" s", bad=bad)

    def nano(self):
        r, e = self.r, self.e
        for name in ("ptemod", "in", "cr8wr"):
            cycles = r.median(e, name)
            us = cycles / r.hz * 1e6 if cycles is not None and r.hz else None
            yield _bound(f"nano: {name}", us, high=1, unit=" us", digits=3,
                         bad=self.failed([name], e))

    def all(self):
        r, e = self.r, self.e
        out = list(self.over_native("compute", workloads.names(), 1.8, 3))
        out += self.over_tcg("compute, integer", workloads.names("int"), 3, 1.8)
        out.append(self.one("matmul (floating point): times faster than TCG", "matmul", TCG, e,
                            low=15))
        out.append(self.one("AVX2: times faster than TCG", "avx2", TCG, e, low=15))
        system = workloads.names(group="system")
        out += self.over_tcg("system", system, 5, 2.5)
        out += self.over_native("system", system, 3)
        ns = r.median(e, "getpid")
        out.append(_bound("getpid", ns / 1e3 if ns is not None else None, high=0.3, unit=" us",
                          digits=3, bad=self.failed(["getpid"], e)))
        out.append(self.one("fork+exec: over native", "fork+exec", e, NATIVE, high=2.5))
        out += self.boot()
        mem = r.memory.get(e)
        out.append(_bound("memory beyond the guest's RAM", mem[0] / MIB if mem else None, high=64,
                          unit=" MiB", digits=1, bad=self.failed(["memory"], e)))
        out += self.nano()
        return out
