#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""memtest86+ of Debian, its 64-bit and its 32-bit build, over a small memory: a guest that is no
Linux, moves itself about and writes all of memory. It has to come to its last test, of fading bits,
without an error.

usage: memtest_test.py [ENGINE...]
"""
import os
import re
import sys
import tempfile

import guest

LAST = "Bit fade"
BUILDS = ("x64", "ia32")


def screen(raw):
    """What a terminal of 80 columns and 30 lines shows after these bytes."""
    cell = [[" "] * 80 for _ in range(30)]
    row = col = 0
    for m in re.finditer(r"\x1b\[([0-9;?]*)([A-Za-z])|([^\x1b])", raw):
        number, final, char = m.groups()
        if char == "\n":
            row += 1
        elif char == "\r":
            col = 0
        elif char:
            if row < 30 and col < 80:
                cell[row][col] = char
            col += 1
        elif final in "Hf":
            row, col = (int(n or 1) - 1 for n in (number + ";").split(";")[:2])
    return "\n".join("".join(line).rstrip() for line in cell)


def run(engine, source, top, memory="8M"):
    """The screen at the last test, or when the time was over or ringer ended; what ringer said."""
    seconds = 40 * guest.slowness * (4 if engine == "interp" else 1)
    raw, err = guest.console_until(lambda text: LAST in screen(text),
                                   ["--engine", engine, "-m", memory, *source], top, seconds)
    return screen(raw) + err


def judge(score, what, shown):
    good = score.check(LAST in shown, f"{what}: does not come to its last test")
    good &= score.check(re.search(r"Errors: 0\s*$", shown, re.M), f"{what}: errors")
    score.note(f"{what}: {'ok' if good else shown}")


def main():
    score = guest.Score()
    with tempfile.TemporaryDirectory() as top:
        why = guest.package("memtest86+", top)
        if why:
            guest.skip_all(f"no memtest86+: {why}")
        for engine in sys.argv[1:] or ["bt", "interp"]:
            for build in BUILDS if engine != "interp" else BUILDS[:1]:
                kernel = os.path.join(top, "boot", f"memtest86+{build}.bin")
                judge(score, f"{engine}, {build}",
                      run(engine, ["--kernel", kernel, "--cmdline", "console=ttyS0,115200"], top))
    score.end()


if __name__ == "__main__":
    main()
