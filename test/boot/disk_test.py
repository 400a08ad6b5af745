#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Linux on virtual disks: the settings of --disk as the guest sees them, a host that is full; with interp,
the monitor killed in the middle of writes (bt: kill_test.py, which kills more).

usage: disk_test.py [ENGINE...]		bt and interp, as far as they are built
"""
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import guest  # noqa: E402
from guest import Files, Guest, Score, stage  # noqa: E402

MB = 1 << 20
os.environ["PATH"] += ":/usr/sbin:/sbin"


def host(*cmd, ok=(0,)):
    p = subprocess.run([str(c) for c in cmd], capture_output=True, text=True, timeout=120)
    if p.returncode not in ok:
        raise guest.GuestError(f"{cmd}: code {p.returncode}: {p.stdout}{p.stderr}")
    return p.stdout


class Disks:
    def __init__(self, folder, files):
        self.dir = folder
        self.initrd = self.path("init.cpio")
        host(os.path.join(guest.TOOLS, "mkinitramfs"), *guest.busybox(), "--modules", "virtio_pci,virtio_blk,button,evdev",
             "--tree", os.path.join(guest.FILES, "tree"), self.initrd)
        self.raw, self.qcow2 = self.path("a.raw"), self.path("b.qcow2")
        host("truncate", "-s", "128M", self.raw)
        host("mkfs.ext4", "-q", "-F", self.raw)
        host("qemu-img", "convert", "-f", "raw", "-O", "qcow2", self.raw, self.qcow2)
        self.files = files

    def path(self, name):
        return os.path.join(self.dir, name)

    def boot(self, engine, *disks, cmdline="quiet"):
        args = ["--engine", engine]
        for d in disks:
            args += ["--disk", d]
        return Guest(self.files, *args, initrd=self.initrd, memory="256M", cmdline=cmdline)


def write_and_kill(score, d, engine, rnd, rounds):
    """The sums of the files that were synced on both disks."""
    sums = {}
    with d.boot(engine, d.raw, d.qcow2 + ",queues=2") as g:
        g.boot(240)
        g.script()
        g.sh("mkdir -p /a /b; mount -t ext4 /dev/vda /a && mount -t ext4 /dev/vdb /b")
        g.send("i=0; while :; do i=$((i+1)); dd if=/dev/urandom of=/a/f$i bs=32k count=10 2>/dev/null; "
               "cp /a/f$i /b/f$i; sync; echo SYNCED $i $(md5sum </a/f$i); done\n")
        for _ in range(rounds):
            m = g.expect(rb"SYNCED (\d+) ([0-9a-f]{32})", 60)
            sums[int(m[1])] = m[2].decode()
        g.pump(rnd.random())
        g.proc.kill()
        g.proc.wait()
        g.pump(0.2)
        for m in re.finditer(rb"SYNCED (\d+) ([0-9a-f]{32})", g.out):
            sums[int(m[1])] = m[2].decode()
    score.note(f"{engine}: killed after {len(sums)} files")
    return sums


def check_after_kill(score, d, engine, sums):
    out = subprocess.run(["qemu-img", "check", "-f", "qcow2", d.qcow2], capture_output=True, text=True, timeout=60)
    score.check(out.returncode in (0, 3), f"{engine}: qemu-img check after the kill: {out.stdout}{out.stderr}")
    with d.boot(engine, d.raw, d.qcow2) as g:
        g.boot(240)
        g.script()
        g.sh("mkdir -p /a /b; mount -t ext4 /dev/vda /a && mount -t ext4 /dev/vdb /b")
        for disk in "ab":
            text = g.sh(f"cd /{disk}; md5sum f*", 120)
            there = {int(m[2]): m[1] for m in re.finditer(r"([0-9a-f]{32})  f(\d+)", text)}
            lost = [i for i in sums if there.get(i) != sums[i]]
            score.check(sums and not lost, f"{engine}: /{disk}: synced files lost or changed: {lost} of {len(sums)}")
        g.sh("umount /a /b")
        g.send("poweroff -f\n")
        score.check(g.wait(60) == 0, f"{engine}: power off: {g.tail()}")
    flat = d.path("flat")
    host("qemu-img", "convert", "-f", "qcow2", "-O", "raw", d.qcow2, flat)
    for image in (d.raw, flat):
        p = subprocess.run(["e2fsck", "-fn", image], capture_output=True, text=True, timeout=120)
        score.check(p.returncode == 0, f"{engine}: e2fsck {image}: {p.stdout}{p.stderr}")
    p = subprocess.run(["qemu-img", "check", "-f", "qcow2", d.qcow2], capture_output=True, text=True, timeout=60)
    score.check(p.returncode in (0, 3), f"{engine}: qemu-img check at the end: {p.stdout}")


def settings(score, d, engine):
    base = d.path("base.raw")
    with open(base, "wb") as f:
        f.write(b"base" * (MB * 4))
    digest = open(base, "rb").read()
    parts = d.path("parts")
    host("truncate", "-s", "16M", parts)
    hole = d.path("hole.raw")
    with open(hole, "wb") as f:
        f.write(b"x" * (8 * MB))
    with d.boot(engine, base + ",snapshot,serial=S-1", base + ",ro", f"{parts},offset=4M,size=2M",
                "ram:8M", hole + ",packed,cache=none") as g:
        g.boot(240)
        g.script()
        sizes = g.sh("cat /sys/block/vd?/size").split()
        score.check(sizes == [str(n * 2048) for n in (16, 16, 2, 8, 8)], f"sizes {sizes}")
        score.check(g.sh("cat /sys/block/vda/serial; echo; cat /sys/block/vdc/serial").split() == ["S-1", "disk2"],
                    "serial numbers")
        score.check(g.sh("cat /sys/block/vd?/ro").split() == ["0", "1", "0", "0", "0"], "read-only")
        for disk in "acde":
            text = g.sh(f"dd if=/dev/urandom of=/tmp/r bs=1M count=2 2>/dev/null; dd if=/tmp/r of=/dev/vd{disk} bs=64k "
                        f"conv=fsync 2>/dev/null; echo 3 >/proc/sys/vm/drop_caches; head -c 2097152 /dev/vd{disk} | cmp - /tmp/r "
                        "&& echo same", 90)
            score.check("same" in text, f"vd{disk}: {text}")
        text = g.sh("dd if=/dev/zero of=/dev/vdb bs=4k count=1 conv=fsync 2>&1; head -c 4 /dev/vdb", code=None)
        score.check("base" in text and "not permitted" in text, f"read-only disk: {text}")
        before = os.stat(hole).st_blocks
        g.sh("blkdiscard /dev/vde && sync")
        score.check(os.stat(hole).st_blocks < before // 2, "blkdiscard gives space back to the host")
        g.send("poweroff -f\n")
        score.check(g.wait(60) == 0, f"power off: {g.tail()}")
    score.check(open(base, "rb").read() == digest, "snapshot, ro: the image stays as it was")
    now = open(parts, "rb").read()
    score.check(not any(now[:4 * MB]) and not any(now[6 * MB:]) and any(now[4 * MB:6 * MB]),
                "a part: written inside, not outside")


def host_full(score, d, engine):
    """A qcow2 image in a part of a file that is too small for it: the host is full."""
    full = d.path("full")
    host("qemu-img", "create", "-q", "-f", "qcow2", full, "16M")
    host("truncate", "-s", "2M", full)
    for mode in ("report", "stop"):
        with d.boot(engine, f"{full},format=qcow2,size=2M,werror={mode}") as g:
            g.boot(240)
            g.script()
            if mode == "report":
                text = g.sh("dd if=/dev/urandom of=/dev/vda bs=64k count=128 conv=fsync 2>&1", 90, code=None)
                score.check("rror" in text, f"the guest gets an error: {text}")
                score.check(b"No space left on device" in g.out, "the host says why")
            else:
                g.send("dd if=/dev/urandom of=/dev/vda bs=64k count=128 conv=fsync\n")
                g.expect("paused, because the host failed", 60)
                score.check(True, "")
                mark = len(g.out)
                g.pump(1.5)
                score.check(b"I/O error" not in g.out[mark:], "the guest knows nothing while it is paused")
            score.check(g.quit() is not None, "Ctrl-] q ends it")


def serve(image, sock):
    if os.path.exists(sock):
        os.unlink(sock)
    p = subprocess.Popen(["qemu-nbd", "-k", sock, "-e", "4", "-t", "-f", "raw", image])
    end = time.monotonic() + 20 * guest.slowness
    while not os.path.exists(sock):
        if time.monotonic() > end:
            raise guest.GuestError("qemu-nbd does not start")
        time.sleep(0.02)
    return p


def server_lost(score, d, engine):
    """NBD: the server ends while the guest writes, and comes back (in time: the guest knows nothing) or not."""
    image, sock = d.path("nbd.raw"), d.path("nbd.sock")
    host("truncate", "-s", "32M", image)
    p = serve(image, sock)
    try:
        with d.boot(engine, f"nbd+unix:///?socket={sock},reconnect=60") as g:
            g.boot(240)
            g.script()
            g.sh("dd if=/dev/urandom of=/tmp/r bs=1M count=16 2>/dev/null")
            g.send("for i in 0 1; do for j in $(seq 0 63); do dd if=/tmp/r of=/dev/vda bs=256k skip=$j seek=$((i*64+j)) count=1 "
                   "conv=fsync 2>&1 | grep rror; echo wrote $i $j; done; done\n")
            g.expect(r"wrote 0 \d", 60)
            p.kill()
            p.wait()
            g.expect("connection to the server lost.*requests wait", 60)
            p = serve(image, sock)
            g.expect("connected to the server again", 60)
            g.expect("wrote 1 63", 120)
            text = g.sh("echo 3 >/proc/sys/vm/drop_caches; for i in 0 1; do dd if=/dev/vda bs=1M skip=$((i*16)) count=16 "
                        "2>/dev/null | cmp - /tmp/r && echo same; done; dmesg | grep 'I/O error'", 120, code=None)
            score.check(text.split() == ["same", "same"] and b"dd: " not in g.out.split(b"wrote 0 0")[1].split(b"wrote 1 63")[0],
                        f"after the server came back: {text}")
            g.send("poweroff -f\n")
            score.check(g.wait(60) == 0, f"power off: {g.tail()}")
        with d.boot(engine, f"nbd+unix:///?socket={sock},reconnect=1") as g:
            g.boot(240)
            g.script()
            p.kill()
            p.wait()
            text = g.sh("dd if=/dev/vda of=/dev/null bs=64k count=1 iflag=direct 2>&1", 90, code=None)
            score.check("rror" in text, f"a server that stays away is an error: {text}")
            p = serve(image, sock)
            g.expect("connected to the server again", 60)
            g.sh("dd if=/dev/vda of=/dev/null bs=64k count=1 iflag=direct", 60)
            score.check(g.quit() is not None, "Ctrl-] q ends it")
    finally:
        p.kill()
        p.wait()


def main():
    for tool in ("qemu-img", "mkfs.ext4"):
        if not shutil.which(tool):
            print(f"skip: no {tool}; tools/setup-packages installs it\n0 passed, 0 failed, 1 skipped")
            return
    score = Score()
    built = subprocess.run([guest.RINGER, "version"], capture_output=True, text=True, check=True).stdout
    engines = sys.argv[1:] or [e for e in ("bt", "interp") if re.search(rf"engines:.*\b{e}\b", built)]
    files = Files()
    rnd = random.Random(int(time.time()))
    for engine in engines:
        with tempfile.TemporaryDirectory(prefix="ringer-disk-", dir="/var/tmp") as folder:
            d = Disks(folder, files)
            if engine == "interp":
                sums = {}
                with stage(score, f"{engine}: write and kill"):
                    sums = write_and_kill(score, d, engine, rnd, 2)
                with stage(score, f"{engine}: after the kill"):
                    check_after_kill(score, d, engine, sums)
                continue
            with stage(score, f"{engine}: settings"):
                settings(score, d, engine)
            with stage(score, f"{engine}: the host is full"):
                host_full(score, d, engine)
            if shutil.which("qemu-nbd"):
                with stage(score, f"{engine}: the server is lost"):
                    server_lost(score, d, engine)
            else:
                score.skip("no qemu-nbd; tools/setup-packages installs it")
    score.end()


if __name__ == "__main__":
    main()
