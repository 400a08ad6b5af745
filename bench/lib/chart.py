# SPDX-License-Identifier: MIT
"""A bar chart as plain SVG: how many times native each workload takes, on a logarithmic scale."""
import math
from xml.sax.saxutils import escape

from . import workloads
from .results import NATIVE, TCG, label

LEFT, RIGHT, TOP, BAR, GAP = 130, 60, 62, 11, 9
WIDTH = 860
COLOURS = {"bt": "#1b6ca8", "interp": "#8fb8d8", "kvm": "#3a9d5d", TCG: "#c9722e"}
TICKS = (1, 2, 3, 5, 10, 20, 30, 50, 100, 200, 300, 500, 1000, 2000, 5000)


def _rows(r):
    """(name, target -> ratio or None), None between the groups."""
    others = r.targets[1:]
    for group in ("compute", "system"):
        names = workloads.names(group=group)
        rows = [(n, {t: r.ratio(n, t, NATIVE) for t in others}) for n in names]
        rows = [(n, v) for n, v in rows if any(x is not None for x in v.values())]
        if rows:
            yield from rows
            yield f"{group}: mean", {t: r.geomean(names, t, NATIVE) for t in others}
            yield None, {}


def draw(r):
    """The chart as text, or None when there is nothing in it."""
    rows = list(_rows(r))[:-1]
    values = [x for _, v in rows for x in v.values() if x is not None]
    if not values:
        return None
    others = r.targets[1:]
    low = min(0.9, min(values))
    high = max(max(values) * 1.1, 3)
    span = math.log(high / low)

    def x(v):
        return LEFT + (WIDTH - LEFT - RIGHT) * math.log(v / low) / span

    body = []
    y = TOP
    for name, by_target in rows:
        if name is None:
            y += GAP
            continue
        bold = ' font-weight="bold"' if name.endswith(": mean") else ""
        height = BAR * len(others)
        body.append(f'<text x="{LEFT - 8}" y="{y + height / 2 + 4:.1f}" text-anchor="end"{bold}>'
                    f"{escape(name)}</text>")
        for t in others:
            v = by_target.get(t)
            if v is None:
                body.append(f'<text x="{x(1) + 3:.1f}" y="{y + BAR - 2}" class="v">'
                            f"{escape(label(t))}: n/a</text>")
            else:
                x0, x1 = sorted((x(1), x(v)))
                body.append(f'<rect x="{x0:.1f}" y="{y}" width="{max(x1 - x0, 1):.1f}" '
                            f'height="{BAR - 1}" fill="{COLOURS.get(t, "#777")}"/>')
                body.append(f'<text x="{x1 + 4:.1f}" y="{y + BAR - 2}" class="v">{v:.3g}</text>')
            y += BAR
        y += GAP
    grid = []
    for t in TICKS:
        if low <= t <= high:
            grid.append(f'<line x1="{x(t):.1f}" y1="{TOP - 6}" x2="{x(t):.1f}" y2="{y}" '
                        f'stroke="{"#444" if t == 1 else "#ddd"}"/>')
            grid.append(f'<text x="{x(t):.1f}" y="{TOP - 10}" text-anchor="middle" class="v">'
                        f"{t}</text>")
    legend = []
    at = LEFT
    for t in others:
        legend.append(f'<rect x="{at}" y="28" width="12" height="10" '
                      f'fill="{COLOURS.get(t, "#777")}"/>')
        legend.append(f'<text x="{at + 17}" y="37">{escape(label(t))}</text>')
        at += 130
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y + 8}" '
        f'width="{WIDTH}" height="{y + 8}" font-family="sans-serif" font-size="12">',
        "<style>.v { font-size: 10px; fill: #444; }</style>",
        f'<rect width="{WIDTH}" height="{y + 8}" fill="#fff"/>',
        f'<text x="{LEFT}" y="18" font-weight="bold">Time as a multiple of native '
        "(logarithmic; shorter is better)</text>",
        *legend, *grid, *body, "</svg>"]) + "\n"
