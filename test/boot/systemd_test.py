#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""A Debian with systemd, from its disk: SeaBIOS, GRUB, an unmodified kernel, the login prompt. All units
run, none failed; what is written is there after a restart; the machine powers off by systemctl. Then
the same disk's GRUB starts memtest86+.

usage: systemd_test.py [ENGINE...]
"""
import os
import subprocess
import sys
import tempfile

import guest
import memtest_test

IMAGE = os.path.join(guest.FILES, "debian.raw")


# GRUB takes the latest default that it reads.
MEMTEST = r"""
menuentry memtest {
	search --file /boot/memtest86+x64.bin --set=root
	linux /boot/memtest86+x64.bin console=ttyS0,115200
}
set default=memtest
"""


def start(engine, firmware, disk, cpus, *more):
    return guest.Guest(None, command=[guest.RINGER, "run", "--engine", engine, "-m", "1G", "-c", str(cpus),
                                      "--firmware", firmware, "--disk", disk, *more])


def login(g, score, what):
    g.expect("SeaBIOS", 30)
    g.expect("GRUB", 60)
    g.login(300)
    score.note(f"{what}: logged in")


def power_off(g, score, what):
    g.send("systemctl poweroff\n")
    score.check(g.wait(120) == 0, f"{what}: does not power off")


def check(score, engine, firmware, disk, cpus):
    what = f"{engine}, {cpus} CPUs"
    with start(engine, firmware, disk, cpus) as g:
        login(g, score, what)
        state = g.sh("systemctl is-system-running --wait", 300, code=None)
        score.check(state == "running", f"{what}: systemd says {state}")
        failed = g.sh("systemctl --failed --no-legend --plain", 60)
        score.check(not failed, f"{what}: failed units: {failed}")
        score.check(g.sh("nproc") == str(cpus), f"{what}: nproc")
        log = g.sh("dmesg -l emerg,alert,crit,err", 60)
        score.check(not log, f"{what}: the kernel complains: {log}")
        score.check("ext4" in g.sh("findmnt -no FSTYPE,SOURCE /"), f"{what}: root")
        g.sh("dd if=/dev/urandom of=/root/block bs=1M count=16 2>/dev/null && md5sum /root/block >/root/sum && sync")
        power_off(g, score, what)


def check_again(score, engine, firmware, disk, cpus, boot=None):
    """What check() left is there; memtest86+ of the folder `boot` comes into the disk's GRUB."""
    what = f"{engine}, {cpus} CPUs, again"
    with start(engine, firmware, disk, cpus, *(["--share", f"boot={boot}"] if boot else [])) as g:
        login(g, score, what)
        score.check("OK" in g.sh("md5sum -c /root/sum"), f"{what}: what was written is not there")
        if boot:
            g.sh("mount -t virtiofs boot /mnt && cp /mnt/memtest86+x64.bin /boot/ && "
                 "cat /mnt/entry >>/boot/grub/grub.cfg")
            power_off(g, score, what)


def memtest_folder(score, top):
    """memtest86+ and GRUB's entry for it, or None."""
    why = guest.package("memtest86+", top)
    if why:
        score.skip(f"no memtest86+: {why}")
        return None
    boot = os.path.join(top, "boot")
    with open(os.path.join(boot, "entry"), "w", encoding="ascii") as f:
        f.write(MEMTEST)
    return boot


def main():
    score = guest.Score()
    os.makedirs(guest.FILES, exist_ok=True)
    if os.geteuid() and subprocess.run(["unshare", "-r", "true"], check=False).returncode:
        guest.skip_all("neither root nor user namespaces: no disk image can be made")
    guest.make_image(IMAGE, "--minimal", "--size", "1G")
    score.note("image")
    with tempfile.TemporaryDirectory(dir=guest.FILES) as top:
        why = guest.package("seabios", top)
        if why:
            guest.skip_all(f"no SeaBIOS: {why}")
        firmware = guest.seabios(top)
        disk = os.path.join(top, "disk")
        boot = memtest_folder(score, top)
        for engine in sys.argv[1:] or ["bt"]:
            for cpus in (1, 4):
                with guest.stage(score, f"{engine}, {cpus} CPUs"):
                    subprocess.run(["cp", "--sparse=always", IMAGE, disk], check=True)
                    check(score, engine, firmware, disk, cpus)
                    check_again(score, engine, firmware, disk, cpus, boot if cpus == 1 else None)
                if boot and cpus == 1:
                    with guest.stage(score, f"{engine}, memtest86+"):
                        shown = memtest_test.run(engine, ["--firmware", firmware, "--disk", disk], top, "24M")
                        memtest_test.judge(score, f"{engine}, by GRUB", shown)
    score.end()


if __name__ == "__main__":
    main()
