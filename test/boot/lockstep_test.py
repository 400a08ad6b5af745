#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Debian's boot under lockstep: its first instructions by each engine and by the shadow, no
difference; and a spoilt register, which must be found.

usage: lockstep_test.py [ENGINE...]

RINGER_LOCKSTEP is the number of millions of instructions, 20 if it is not set.
"""
import os
import re
import subprocess
import sys

import guest

MILLIONS = int(os.environ.get("RINGER_LOCKSTEP", "20"))


def run(files, engine, lockstep):
    limit = (60 + 8 * MILLIONS) * guest.slowness
    cmd = [guest.RINGER, "run", "--engine", engine, f"--lockstep={lockstep}", "-m", "256M",
           "--kernel", files.vmlinuz, "--initrd", files.initrd, "--cmdline", guest.BASE_CMDLINE,
           "--console", "none"]
    try:
        p = subprocess.run(cmd, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                           errors="replace", timeout=limit)
    except subprocess.TimeoutExpired:
        return None, f"no end within {limit:.0f} s"
    return p.returncode, p.stderr


def engines():
    text = subprocess.run([guest.RINGER, "engines"], capture_output=True, text=True).stdout
    return [e for e in ("interp", "bt") if re.search(rf"^{e} +yes\b", text, re.M)]


def main():
    score = guest.Score()
    files = guest.Files()
    for engine in sys.argv[1:] or engines():
        code, err = run(files, engine, MILLIONS)
        m = re.search(r"lockstep: (\d+) instructions, no difference: (\d+) boundaries, (\d+) inputs", err)
        if not score.check(code == 0 and m, f"{engine}: {MILLIONS} million instructions: code {code}"):
            print(err[-4000:])
        if m:
            print(f"{engine}: {m.group(0)}")
            score.check(int(m.group(1)) >= MILLIONS * 1000000, f"{engine}: too few instructions")
            score.check(int(m.group(2)) > int(m.group(1)) / 200, f"{engine}: too few boundaries")
            score.check(int(m.group(3)) > 0, f"{engine}: no inputs")
        code, err = run(files, engine, f"{MILLIONS},break=100000")
        score.check(code == 1, f"{engine}: a spoilt register ends with code {code}, not 1")
        score.check(re.search(r"^  rbx +engine [0-9a-f]{16}  interp [0-9a-f]{16}$", err, re.M),
                    f"{engine}: the report does not name RBX")
        score.check(re.search(r"error: .*lockstep: .*differ", err), f"{engine}: no line says what differs")
    score.end()


if __name__ == "__main__":
    main()
