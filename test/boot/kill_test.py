#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The monitor is killed (SIGKILL) while Linux writes to a raw and a qcow2 disk. What the guest had
reported as stable must be there, the file systems must recover, the image must be sound.

usage: kill_test.py [ROUNDS [ENGINE]]	2 with bt; 50 where RINGER_FULL is set

The disks live through all rounds: each machine mounts what the kill before has left. After each kill the
host looks at copies (qemu-img check, e2fsck, and guest-scribe, which wrote the records, on what debugfs
takes out); after the last one a machine mounts, unmounts and powers off, and the file systems are clean.
"""
import fcntl
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time

import guest
from disk_test import host
from guest import BUILD, Files, Guest, Score, stage

SCRIBE = os.path.join(BUILD, "test/boot/guest-scribe")
KINDS = ("log", "file", "slot")
# A name that is not the disk's would not match; a cut line has no end.
STABLE = re.compile(rb"^stable ([ab]) (log|file|slot) (\d+)\r?\n", re.M)
BAD = re.compile(rb"scribe failed:.*|mount failed.*|EXT4-fs error.*|I/O error.*|JBD2: (?!recovery).*rror.*")
KEPT = 2  # rounds whose records stay on the disks
SCRIPT = """\
dmesg -n 4
mkdir -p /a /b
for d in a:vda b:vdb; do
	mount -t ext4 -o discard /dev/${d#*:} /${d%:*} || echo "mount failed: $d"
done
round=$(sed -n 's/.*kill.round=\\([0-9]*\\).*/\\1/p' /proc/cmdline)
rm -rf /a/r$((round - KEPT)) /b/r$((round - KEPT))
if [ $round -ge 0 ] && ! grep -q kill.last /proc/cmdline; then
	/bin/scribe write /a/r$round a &
	/bin/scribe write /b/r$round b
	wait
fi
umount /a /b && echo unmounted
""".replace("KEPT", str(KEPT))
# What a mount mends silently, and e2fsck says: the journal, files that were open and had no name, and the sums
# in the superblock, which a mounted ext4 does not keep up to date. A tree that it would make smaller is no error.
HARMLESS = re.compile(r"^(e2fsck .*|Pass \d.*|.*: recovering journal|.*orphaned inode .*|.*\d+/\d+ blocks|"
                      r"Setting free (inodes|blocks) count .*|Free (inodes|blocks) count wrong \(.*|Fix\? yes|"
                      r"Inode \d+ extent tree .*could be .*Optimize\? yes|.*FILE SYSTEM WAS MODIFIED.*|)$")
# How the machine and its disks are made, in turn.
SETUPS = (("1", "", ""), ("2", "", ",queues=2"), ("2", ",cache=none", ",cache=none"), ("1", ",packed", ",packed"))


class Kills:
    def __init__(self, folder, files, engine, score):
        self.dir, self.files, self.engine, self.score = folder, files, engine, score
        self.promised = {}  # (round, disk) -> kind -> last number
        self.records = self.leaks = 0
        script = self.path("kill.sh")
        with open(script, "w", encoding="ascii") as f:
            f.write(SCRIPT)
        self.initrd = self.path("init.cpio")
        host(os.path.join(guest.TOOLS, "mkinitramfs"), *guest.busybox(), "--modules", "virtio_pci,virtio_blk", "--tree",
             os.path.join(guest.FILES, "tree"), "--add", f"{SCRIBE}:/bin/scribe", "--add", f"{script}:/kill.sh",
             self.initrd)
        self.raw, self.qcow2 = self.path("a.raw"), self.path("b.qcow2")
        host("truncate", "-s", "192M", self.raw)
        host("mkfs.ext4", "-q", "-F", self.raw)
        host("qemu-img", "convert", "-f", "raw", "-O", "qcow2", self.raw, self.qcow2)

    def path(self, name):
        return os.path.join(self.dir, name)

    def boot(self, n, last=False):
        cpus, raw, qcow2 = SETUPS[n % len(SETUPS)]
        return Guest(self.files, "--engine", self.engine, "--disk", self.raw + raw, "--disk", self.qcow2 + qcow2,
                     initrd=self.initrd, memory="256M", cpus=cpus,
                     cmdline=f"quiet ringer.script=/kill.sh kill.round={n}" + (" kill.last" if last else ""))

    # ---- in the guest ----

    def write_and_kill(self, n, moment):
        with self.boot(n) as g:
            for disk in "ab":  # all kinds are at work before the moment is drawn
                for kind in KINDS:
                    g.mark = 0
                    g.expect(rf"stable {disk} {kind} \d+\r?\n|failed.*\n".encode(), 240)
            g.pump(moment)
            g.proc.kill()
            g.proc.wait()
            while g.read(0.1):
                pass
            # The kernel may still be busy with I/O of the dead, and so long it has the locks.
            for image in (self.raw, self.qcow2):
                self.wait_unlocked(image)
        bad = BAD.search(g.out)
        self.score.check(not bad, f"round {n}: the guest: {bad and bad[0]}")
        for m in STABLE.finditer(g.out):
            self.promised.setdefault((n, m[1].decode()), {})[m[2].decode()] = int(m[3])

    @staticmethod
    def wait_unlocked(image):
        end = time.monotonic() + 20 * guest.slowness
        with open(image, "r+b") as f:
            while True:
                try:
                    fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return
                except OSError:
                    if time.monotonic() > end:
                        raise
                time.sleep(0.01)

    # ---- on the host ----

    def check(self, n):
        p = subprocess.run(["qemu-img", "check", "-f", "qcow2", self.qcow2], capture_output=True, text=True, timeout=120)
        self.score.check(p.returncode in (0, 3), f"round {n}: qemu-img check: {p.stdout[-1500:]}{p.stderr}")
        if p.returncode == 3:  # clusters that were counted and not yet used: doc/block.md
            self.leaks += 1
            host("qemu-img", "check", "-q", "-r", "leaks", "-f", "qcow2", self.qcow2)
        copy = self.path("copy")
        host("cp", "--sparse=always", "--reflink=auto", self.raw, copy)
        self.check_fs(n, "a", copy)
        host("qemu-img", "convert", "-f", "qcow2", "-O", "raw", self.qcow2, copy)
        self.check_fs(n, "b", copy)

    def check_fs(self, n, disk, copy):
        p = subprocess.run(["e2fsck", "-fy", copy], capture_output=True, text=True, timeout=120)
        odd = [line for line in (p.stdout + p.stderr).splitlines() if not HARMLESS.match(line.strip())]
        self.score.check(p.returncode in (0, 1) and not odd, f"round {n}, disk {disk}: e2fsck: code {p.returncode}, {odd[:10]}")
        p = subprocess.run(["e2fsck", "-fn", copy], capture_output=True, text=True, timeout=120)
        self.score.check(p.returncode == 0, f"round {n}, disk {disk}: e2fsck after recovery: {p.stdout[-1000:]}")
        out = self.path("out")
        for r in range(max(n - KEPT + 1, 0), n + 1):
            os.mkdir(out)
            subprocess.run(["debugfs", "-R", f"rdump /r{r} {out}", copy], capture_output=True, timeout=120, check=False)
            last = self.promised.get((r, disk), {})
            p = subprocess.run([SCRIBE, "check", f"{out}/r{r}", *(str(last.get(k, 0)) for k in KINDS)],
                               capture_output=True, text=True, timeout=120)
            m = re.search(r"^(\d+) looked at", p.stdout, re.M)
            self.records += int(m[1]) if m else 0
            self.score.check(p.returncode == 0 and m, f"round {n}, disk {disk}, records of round {r}, {last}: "
                             f"{p.stdout[-1000:]}{p.stderr}")
            shutil.rmtree(out)

    def finish(self, n):
        """A machine that ends in order: now nothing at all may be left to mend."""
        with self.boot(n, last=True) as g:
            g.expect(b"^unmounted", 120)
            self.score.check(g.wait(60) == 0, f"power off: {g.tail()}")
            self.score.check(not BAD.search(g.out), g.tail())
        copy = self.path("copy")
        host("qemu-img", "check", "-f", "qcow2", self.qcow2)
        host("qemu-img", "convert", "-f", "qcow2", "-O", "raw", self.qcow2, copy)
        for image in (self.raw, copy):
            p = subprocess.run(["e2fsck", "-fn", image], capture_output=True, text=True, timeout=120)
            self.score.check(p.returncode == 0, f"at the end: e2fsck {image}: {p.stdout}{p.stderr}")


def main():
    for tool in ("qemu-img", "mkfs.ext4", "debugfs"):
        if not shutil.which(tool):
            guest.skip_all(f"no {tool}; tools/setup-packages installs it")
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 50 if os.environ.get("RINGER_FULL") else 2
    built = subprocess.run([guest.RINGER, "version"], capture_output=True, text=True, check=True).stdout
    engine = sys.argv[2] if len(sys.argv) > 2 else "bt" if re.search(r"engines:.*\bbt\b", built) else "interp"
    score = Score()
    seed = int(os.environ.get("RINGER_TEST_SEED") or time.time())
    rnd = random.Random(seed)
    score.note(f"{rounds} kills, RINGER_TEST_SEED={seed}")
    with tempfile.TemporaryDirectory(prefix="ringer-kill-", dir="/var/tmp") as folder:
        k = Kills(folder, Files(), engine, score)
        for n in range(rounds):
            with stage(score, f"kill {n + 1}"):
                k.write_and_kill(n, rnd.random() * 1.2)
                k.check(n)
        with stage(score, "the end"):
            k.finish(rounds)
    score.note(f"{k.records} records looked at, {k.leaks} images with leaked clusters, {score.failed} failures")
    score.check(k.records >= 12 * rounds, f"only {k.records} records in {rounds} rounds")
    score.end()


if __name__ == "__main__":
    main()
