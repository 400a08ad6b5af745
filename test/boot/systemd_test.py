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
    g.expect("ringer login: ", 300)
    score.note(f"{what}: login prompt")
    g.send("root\n")
    g.expect(r"root@ringer:~# ", 60)
    g.send("exec sh\n")
    g.expect("# ", 30)
    g.script()


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
        g.send("systemctl poweroff\n")
        score.check(g.wait(120) == 0, f"{what}: does not power off")
    with start(engine, firmware, disk, cpus) as g:
        login(g, score, f"{what}, again")
        score.check("OK" in g.sh("md5sum -c /root/sum"), f"{what}: what was written is not there")


def memtest(score, engine, firmware, disk, top):
    why = guest.package("memtest86+", top)
    if why:
        score.skip(f"no memtest86+: {why}")
        return
    with open(os.path.join(top, "boot", "entry"), "w", encoding="ascii") as f:
        f.write(MEMTEST)
    with start(engine, firmware, disk, 1, "--share", f"boot={os.path.join(top, 'boot')}") as g:
        login(g, score, "for memtest86+")
        g.sh("mount -t virtiofs boot /mnt && cp /mnt/memtest86+x64.bin /boot/ && cat /mnt/entry >>/boot/grub/grub.cfg")
        g.send("systemctl poweroff\n")
        score.check(g.wait(120) == 0, "memtest86+: does not power off before")
    shown = memtest_test.run(engine, ["--firmware", firmware, "--disk", disk], top, "24M")
    memtest_test.judge(score, f"{engine}, by GRUB", shown)


def main():
    score = guest.Score()
    os.makedirs(guest.FILES, exist_ok=True)
    if os.geteuid() and subprocess.run(["unshare", "-r", "true"], check=False).returncode:
        guest.skip_all("neither root nor user namespaces: no disk image can be made")
    made = subprocess.run([os.path.join(guest.TOOLS, "make-image"), "--minimal", "--quiet", "--size", "1G", IMAGE],
                          capture_output=True, text=True, timeout=1500)
    if made.returncode:
        print(made.stderr)
        guest.skip_all("no disk image: " + (made.stderr.strip().splitlines() or ["?"])[-1])
    score.note("image")
    with tempfile.TemporaryDirectory(dir=guest.FILES) as top:
        why = guest.package("seabios", top)
        if why:
            guest.skip_all(f"no SeaBIOS: {why}")
        firmware = guest.seabios(top)
        disk = os.path.join(top, "disk")
        for engine in sys.argv[1:] or ["bt"]:
            for cpus in (1, 4):
                with guest.stage(score, f"{engine}, {cpus} CPUs"):
                    subprocess.run(["cp", "--sparse=always", IMAGE, disk], check=True)
                    check(score, engine, firmware, disk, cpus)
            with guest.stage(score, f"{engine}, memtest86+"):
                memtest(score, engine, firmware, disk, top)
    score.end()


if __name__ == "__main__":
    main()
