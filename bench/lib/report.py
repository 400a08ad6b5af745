# SPDX-License-Identifier: MIT
"""bench/RESULTS.md: goals beside figures, and the tables."""
from . import parse, workloads
from .goals import MIB, Evaluation
from .results import NATIVE, TCG, label


def table(head, rows, right=1):
    """Markdown; columns from `right` on are aligned to the right."""
    lines = ["| " + " | ".join(head) + " |",
             "|" + "|".join("---" if i < right else "---:" for i in range(len(head))) + "|"]
    lines += ["| " + " | ".join(str(c).replace("|", "\\|") for c in row) + " |" for row in rows]
    return "\n".join(lines)


def duration(ns):
    for limit, unit, by in ((1e3, "ns", 1), (1e6, "us", 1e3), (1e9, "ms", 1e6)):
        if ns < limit:
            return f"{ns / by:.3g} {unit}"
    return f"{ns / 1e9:.3g} s"


def cell(r, target, name, text):
    if (target, name) in r.failed:
        return "failed"
    v = r.median(target, name)
    if v is not None:
        return text(v)
    return "skipped" if (target, name) in r.skipped else "n/a"


def times(v):
    return "" if v is None else f"{v:.2f}" if v < 10 else f"{v:.1f}" if v < 100 else f"{v:.0f}"


def work_table(r, names, about):
    """Time per operation, times native for all, and how many times faster than TCG Ringer is."""
    others = r.targets[1:]
    against = r.engines if TCG in r.targets else []
    head = ["work", "native"]
    for t in others:
        head += [label(t), "x native"]
    head += [f"{label(t)}: times faster than TCG" for t in against]
    rows = []
    for n in names:
        if not any((t, n) in d for t in r.targets for d in (r.samples, r.failed, r.skipped)):
            continue
        row = [f"{n}: {about(n)}", cell(r, NATIVE, n, duration)]
        for t in others:
            row += [cell(r, t, n, duration), times(r.ratio(n, t, NATIVE))]
        rows.append(row + [times(r.ratio(n, TCG, t)) for t in against])
    if not rows:
        return None
    mean = ["**geometric mean**", ""]
    for t in others:
        mean += ["", times(r.geomean(names, t, NATIVE))]
    rows.append(mean + [times(r.geomean(names, TCG, t)) for t in against])
    return table(head, rows)


def nano_table(r):
    rows = []
    for n, about in workloads.NANO.items():
        if not any((t, n) in d for t in r.targets for d in (r.samples, r.failed)):
            continue
        row = [f"{n}: {about}"]
        for t in r.targets:
            row.append(cell(r, t, n, lambda v: f"{v:.0f}" if v >= 100 else f"{v:.1f}"))
        rows.append(row)
    return table(["cycles an operation", *map(label, r.targets)], rows) if rows else None


def boot_table(r):
    rows = []
    for t in r.targets[1:]:
        row = [label(t)]
        for proto in ("PVH", "bzImage"):
            v = r.boot(t, proto)
            row.append("failed" if (t, f"boot {proto}") in r.failed else f"{v:.2f}" if v else "n/a")
        mem = r.memory.get(t)
        row += [f"{mem[0] / MIB:.1f}", f"{mem[1] / MIB:.0f}"] if mem else ["n/a"] * 2
        rows.append(row)
    return table(["", "PVH (vmlinux), s", "bzImage, s", "memory beyond guest RAM, MiB",
                  "guest RAM resident, MiB"], rows)


def counter_table(r):
    """What of --exit-stats is about translations."""
    rows = []
    for e, counters in r.counters.items():
        found = parse.translator(counters)
        rows += [(f"{label(e)}: {k}", f"{v:,.6g} {u}".strip() if u else f"{v:,.0f}")
                 for k, (v, u) in found.items()] or [(f"{label(e)}: code cache", "n/a")]
    return table(["counter", "value"], rows) if rows else None


HOW = """\
* The same static program (`bench/guest`) runs on the host, in Ringer and in QEMU TCG; both guests have the same kernel
  and initramfs, PVH boot, `mitigations=off`, 1 virtual CPU, 512 MiB. The host keeps its own kernel and mitigations;
  the native program stays on one CPU.
* Each round runs every target once, in turn; a figure is the median of the rounds. One iteration of a
  workload warms up and is not timed; then it is repeated for {limit:g} s (interp: half) or {scale:g} times its
  scale, whichever ends first, and the lower quartile of the iterations counts. Checksums have to be equal everywhere,
  and the guests' clocks have to agree with the host's.
* QEMU runs at its fastest: a CPU model without AVX and PCID (with AVX2 for the workload that needs it, in a machine of
  its own), 1 GiB of translation buffer, one thread. The command is `{tcg}`.
* Boot: from the start of the process to the first line of the guest's first process.
* Nanobenchmarks: a ring-0 guest (`bench/nano`) counts cycles of the TSC; a user program can't do most of
  them, so native has calls only. The TSC runs at {mhz}.
* Memory beyond the guest's RAM: the largest sum, over a run of all workloads, of what /proc/PID/smaps reports as resident, without the
  memfd that is the guest's RAM (`ringer-ram`). Memfds mapped twice, as the translator's code is, count once (Pss); the
  rest counts in full (Rss)."""


def make(r, info, opt, tcg_command):
    ev = Evaluation(r)
    goals = ev.all()
    if not opt.full:  # averages are over what was run
        goals = [g for g in goals if g.verdict != "n/a"]
    met = sum(g.verdict == "met" for g in goals)
    spread = ", ".join(f"{label(t)} {100 * s:.0f}%" for t in r.targets
                       if (s := r.spread(t)) is not None)
    noise = f"load average {info['load']}"
    if spread:
        noise += f"; from the fastest to the slowest of {opt.rounds} rounds, median workload: {spread}"
    out = ["# Benchmarks", "",
           table(["", ""], [("host", f"{info['cpu']}; {info['host']}"),
                            ("versions", f"{info['ringer']}, {info['qemu']}, {info['gcc']}"),
                            ("guest", info["guest"]), ("date", info["date"]),
                            ("command", f"`{info['command']}`"), ("commit", info["commit"]),
                            ("noise", noise)],
                 right=2), "",
           f"## Goals: {met} of {len(goals)} met ({label(r.engine)}"
           f"{'' if opt.full else '; a partial run: averages are over what was run'})", "",
           table(["goal", "wanted", "measured", ""],
                 [(g.what, g.wanted, g.figure, g.verdict) for g in goals], right=4), ""]
    if info.get("chart"):
        out += [f"![Time as a multiple of native]({info['chart']})", ""]
    for title, text in (
            ("Computing", work_table(r, workloads.COMPUTE, lambda n: workloads.COMPUTE[n][1])),
            ("System", work_table(r, workloads.SYSTEM, lambda n: workloads.SYSTEM[n])),
            ("Nanobenchmarks", nano_table(r)),
            ("Boot and memory", boot_table(r) if r.boots or r.memory else None),
            ("Translations, in the run that measured memory", counter_table(r))):
        if text:
            out += [f"## {title}", "", text, ""]
    skipped = {}
    for (t, n), why in r.skipped.items():
        skipped.setdefault((n, why), []).append(label(t))
    for title, lines in (("Failed", r.problems),
                         ("Skipped", [f"{n} ({', '.join(t)}): {why}"
                                      for (n, why), t in skipped.items()])):
        if lines:
            out += [f"## {title}", "", *("* " + text.replace("\n", " ") for text in lines), ""]
    mhz = f"{r.hz / 1e6:.0f} MHz" if r.hz else "an unknown rate"
    out += ["## How", "", HOW.format(limit=opt.limit, scale=opt.scale, tcg=tcg_command, mhz=mhz)]
    return "\n".join(out) + "\n"
