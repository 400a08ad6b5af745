#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""iPXE of Debian, from its CD image by SeaBIOS: ISOLINUX loads it in real mode, it finds virtio-net on
the PCI bus, drives it, and gets an address of libslirp's DHCP server.

usage: ipxe_test.py [ENGINE...]
"""
import os
import re
import sys
import tempfile

import guest

LEASE = "net0: 10.0.2.15/255.255.255.0 gw 10.0.2.2"


def run(engine, top, seconds):
    """What it wrote until it had its lease, and what ringer said."""
    image = os.path.join(top, "usr/lib/ipxe/ipxe.iso")
    return guest.console_until(lambda text: LEASE in text,
                               ["--engine", engine, "-m", "64M", "--net", "user", "--firmware",
                                guest.seabios(top), "--disk", f"{image},ro"], top, seconds)


def main():
    score = guest.Score()
    with tempfile.TemporaryDirectory() as top:
        for name in ("seabios", "ipxe"):
            why = guest.package(name, top)
            if why:
                guest.skip_all(f"no {name}: {why}")
        for engine in sys.argv[1:] or ["bt", "interp"]:
            text, err = run(engine, top, 40 * guest.slowness)
            good = score.check(re.search(r"iPXE [0-9.]+\S* *\x1b?\S* -- Open Source", text), f"{engine}: no banner")
            good &= score.check("using virtio-net on 0000:00:" in text, f"{engine}: does not find virtio-net")
            good &= score.check(re.search(r"^Configuring \(net0 [0-9a-f:]{17}\)\.+ ok\r?$", text, re.M),
                                f"{engine}: does not configure it")
            good &= score.check(LEASE in text, f"{engine}: gets no lease")
            good &= score.check("error" not in err and "warning" not in err, f"{engine}: ringer: {err}")
            score.note(f"{engine}: {'ok' if good else text}")
    score.end()


if __name__ == "__main__":
    main()
