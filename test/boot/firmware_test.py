#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""SeaBIOS of Debian: it runs, in 16-bit and 32-bit code, counts the processors, finds the devices of
the PCI bus, and says on the serial line that there is nothing to start.

usage: firmware_test.py [ENGINE...]
"""
import re
import sys
import tempfile

import guest

IMAGES = ("bios.bin", "bios-256k.bin")


def run(engine, image, top, seconds):
    """What it wrote, and what ringer said."""
    return guest.console_until(lambda text: "No bootable device" in text,
                               ["--engine", engine, "-m", "64M", "-c", "2", "--device", "rng",
                                "--firmware", image], top, seconds)


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
