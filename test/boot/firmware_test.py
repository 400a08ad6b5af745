#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""SeaBIOS of Debian: it runs, in 16-bit and 32-bit code, counts the processors, finds the devices of
the PCI bus, and says on the serial line that there is nothing to start.

usage: firmware_test.py [ENGINE...]
"""
import os
import re
import subprocess
import sys
import tempfile
import time

import guest

IMAGES = ("bios.bin", "bios-256k.bin")


def run(engine, image, top, seconds):
    """What it wrote, and what ringer said."""
    out = os.path.join(top, "console")
    open(out, "w", encoding="ascii").close()
    proc = subprocess.Popen([guest.RINGER, "run", "--engine", engine, "-m", "64M", "-c", "2",
                             "--device", "rng", "--firmware", image, "--console", f"file:{out}"],
                            stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + seconds
    text = ""
    while time.monotonic() < end and proc.poll() is None and "No bootable device" not in text:
        time.sleep(0.2)
        with open(out, encoding="latin1") as f:
            text = f.read()
    proc.kill()
    return text, proc.communicate()[1]


def main():
    score = guest.Score()
    with tempfile.TemporaryDirectory() as top:
        why = guest.package("seabios", top)
        if why:
            guest.skip_all(f"no SeaBIOS: {why}")
        for engine in sys.argv[1:] or ["bt", "interp"]:
            for image in IMAGES:
                text, err = run(engine, guest.seabios(top, image), top, 20 * guest.slowness)
                what = f"{engine}, {image}"
                good = score.check(re.search(r"SeaBIOS \(version [0-9.]+", text), f"{what}: no banner")
                good &= score.check("Booting from Hard Disk" in text, f"{what}: does not try the disk")
                good &= score.check("No bootable device" in text, f"{what}: does not come to its end")
                good &= score.check("error" not in err and "warning" not in err, f"{what}: ringer: {err}")
                score.note(f"{what}: {'ok' if good else text}")
    score.end()


if __name__ == "__main__":
    main()
