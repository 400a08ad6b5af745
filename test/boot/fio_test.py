#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""fio in a Linux guest writes to every kind of disk, and finds what it wrote (verify=crc32c): random and
sequential, many sizes, many requests at a time, libaio and io_uring, with flushes between.

usage: fio_test.py [--debian IMAGE] [ENGINE]

Two jobs on each disk take seconds; RINGER_FULL=1 runs all of them, and larger. --debian: in a whole Debian with systemd
(tools/make-image), with its own fio, in place of a busybox.
"""
import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time

import guest
from disk_test import host
from guest import Files, Guest, Score, stage

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(guest.SOURCE, "bench"))
from lib import fio  # noqa: E402

MB = 1 << 20
FULL = bool(os.environ.get("RINGER_FULL"))
SIZE = 96 if FULL else 8  # MiB of each disk
MIXED_SIZES = "512/10:4k/50:8k/10:32k/10:60k/10:128k/10"
COMMON = ["--direct=1", "--verify=crc32c", "--do_verify=1", "--verify_fatal=1", "--output-format=json", "--randrepeat=0"]
# Name -> options. Every job writes its whole size once and then reads it back; the mixed ones read meanwhile, too.
JOBS = {
    "mixed sizes, io_uring": ["--rw=randrw", "--rwmixread=30", f"--bssplit={MIXED_SIZES}", "--ioengine=io_uring",
                              "--iodepth=32", "--fsync=64"],
    "sequential 256k, libaio": ["--rw=write", "--bs=256k", "--ioengine=libaio", "--iodepth=16", "--fdatasync=16"],
    "random 4k, libaio": ["--rw=randwrite", "--bs=4k", "--ioengine=libaio", "--iodepth=64", "--fsync=200"],
    "random 64k, io_uring": ["--rw=randwrite", "--bs=64k", "--ioengine=io_uring", "--iodepth=16", "--fsync=8"],
    "sequential 1M, io_uring": ["--rw=write", "--bs=1M", "--ioengine=io_uring", "--iodepth=16"],
    "sequential mixed 16k, libaio": ["--rw=rw", "--bs=16k", "--ioengine=libaio", "--iodepth=32", "--fsync=32"],
    "read back while writing, 8k": ["--rw=randwrite", "--bs=8k", "--ioengine=libaio", "--iodepth=32",
                                    "--verify_backlog=256", "--verify_async=1", "--fdatasync=50"],
    "4 jobs, random 4k to 64k": ["--rw=randrw", "--bsrange=4k-64k", "--ioengine=io_uring", "--iodepth=16", "--fsync=32",
                                 "--numjobs=4", f"--size={SIZE // 4}M", f"--offset_increment={SIZE // 4}M"],
}
QUICK = list(JOBS)[:2]


class Servers:
    """Of network block devices; they end with the block."""

    def __init__(self, folder):
        self.dir, self.running = folder, []

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        for p in self.running:
            p.terminate()
            p.wait(20)

    def start(self, name, *cmd):
        sock = os.path.join(self.dir, name + ".sock")
        self.running.append(subprocess.Popen([c.replace("SOCK", sock) for c in cmd]))
        end = time.monotonic() + 20 * guest.slowness
        while not os.path.exists(sock):
            if time.monotonic() > end or self.running[-1].poll() is not None:
                raise guest.GuestError(f"{cmd[0]} does not start")
            time.sleep(0.02)
        return "nbd+unix:///?socket=" + sock


def make_disks(folder, servers):
    """Name -> what --disk is given."""
    def path(name):
        return os.path.join(folder, name)

    for name in ("raw", "direct", "nbd", "nbdkit"):
        host("truncate", "-s", f"{SIZE}M", path(name))
    host("truncate", "-s", f"{SIZE * 3}M", path("parts"))
    for name in ("q", "qdirect"):
        host("qemu-img", "create", "-q", "-f", "qcow2", path(name + ".qcow2"), f"{SIZE}M")
    disks = {"raw": path("raw"), "qcow2": path("q.qcow2"), "minidisk": f"{path('parts')},offset={SIZE}M,size={SIZE}M",
             "nbd (qemu-nbd)": servers.start("q", "qemu-nbd", "-k", "SOCK", "-e", "8", "-t", "-f", "raw", path("nbd"))}
    if FULL:
        disks["raw, cache=none, 2 queues"] = path("direct") + ",cache=none,queues=2"
        disks["qcow2, cache=none, packed"] = path("qdirect.qcow2") + ",cache=none,packed"
        if shutil.which("nbdkit"):
            disks["nbd (nbdkit)"] = servers.start("k", "nbdkit", "-f", "-U", "SOCK", "file", path("nbdkit"))
    return disks


def run_job(score, g, what, job, command, device):
    size = [] if any(o.startswith("--size") for o in JOBS[job]) else [f"--size={SIZE}M"]
    line = " ".join([*command, "--name=j", f"--filename={device}", *COMMON, *JOBS[job], *size])
    begin = time.monotonic()
    text = g.sh(line, 300, code=None)
    try:
        jobs = fio.parse(text)["jobs"]
    except ValueError as e:
        score.check(False, f"{what}: {job}: {e}")
        return
    errors = [j["error"] for j in jobs if j["error"]]
    wrote, read = (sum(j[k]["io_bytes"] for j in jobs) for k in ("write", "read"))
    ok = score.check(not errors and "verify:" not in text, f"{what}: {job}: errors {errors}: {text[:1500]}")
    ok &= score.check(wrote > 0 and wrote + read >= SIZE * MB and read >= wrote, f"{what}: {job}: {wrote} written, {read} read")
    if ok:
        score.note(f"{what}: {job}: {wrote / MB:.0f} MiB written, {read / MB:.0f} read, {time.monotonic() - begin:.1f} s")


def check_images(score, folder):
    for name in ("q", "qdirect"):
        host("qemu-img", "check", "-f", "qcow2", os.path.join(folder, name + ".qcow2"))
    with open(os.path.join(folder, "parts"), "rb") as f:
        before, part, after = (f.read(SIZE * MB) for _ in range(3))
    score.check(not any(before) and not any(after) and any(part), "the minidisk: written inside, not outside")


def start(args, disks, top, files):
    """The machine, with its own disk before or behind those under test: machine, fio's command, first letter."""
    cmd = ["--engine", args.engine]
    listed = [x for d in disks for x in ("--disk", d)]
    if args.debian:
        why = guest.package("seabios", top)
        if why:
            guest.skip_all(f"no SeaBIOS: {why}")
        return Guest(None, command=[guest.RINGER, "run", *cmd, "-m", "1G", "-c", "2", "--firmware", guest.seabios(top),
                                    "--disk", args.debian + ",snapshot", *listed]), ["fio"], "b"
    image = fio.make_image(fio.make_tree(guest.FILES, os.path.join(guest.FILES, "fio")), os.path.join(top, "fio.img"))
    initrd = os.path.join(top, "init.cpio")
    host(os.path.join(guest.TOOLS, "mkinitramfs"), *guest.busybox(), "--modules", "virtio_pci,virtio_blk", "--tree",
         os.path.join(guest.FILES, "tree"), initrd)
    return (Guest(files, *cmd, *listed, "--disk", image + ",ro", initrd=initrd, cpus=2, cmdline="quiet"),
            fio.command(fio.MOUNT), "a")


def options():
    ap = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    ap.add_argument("--debian", metavar="IMAGE", help="of tools/make-image; it is not written to")
    ap.add_argument("engine", nargs="?", default="bt")
    return ap.parse_args()


def main():
    args = options()
    for tool in ("qemu-img", "qemu-nbd"):
        if not shutil.which(tool):
            guest.skip_all(f"no {tool}; tools/setup-packages installs it")
    score = Score()
    with tempfile.TemporaryDirectory(prefix="ringer-fio-", dir="/var/tmp") as top, Servers(top) as servers:
        disks = make_disks(top, servers)
        try:
            g, command, first = start(args, disks.values(), top, None if args.debian else Files())
        except fio.NoFio as e:
            guest.skip_all(f"no fio: {e}")
        with g:
            if args.debian:
                g.login(400)
            else:
                g.boot(120)
                g.script()
                g.sh(f"mkdir -p {fio.MOUNT} && mount -t ext4 -o ro /dev/vd{chr(ord(first) + len(disks))} {fio.MOUNT}")
            score.note(g.sh(" ".join([*command, "--version"]), 60))
            for i, what in enumerate(disks):
                for job in JOBS if FULL else QUICK:
                    with stage(score, f"{what}: {job}"):
                        run_job(score, g, what, job, command, f"/dev/vd{chr(ord(first) + i)}")
            log = g.sh("dmesg | grep -E 'I/O error|blk_update|timed out|WARNING|BUG'", 60, code=None)
            score.check(not log, f"the kernel complains: {log}")
            g.send("systemctl poweroff\n" if args.debian else "poweroff -f\n")
            score.check(g.wait(120) == 0, f"power off: {g.tail()}")
            said = re.findall(r"^ringer: .*(?:error|lost|failed|cannot).*", g.text(), re.M)
            score.check(not said, f"the monitor complains: {said[:5]}")
        with stage(score, "what is in the images"):
            check_images(score, top)
    score.end()


if __name__ == "__main__":
    main()
