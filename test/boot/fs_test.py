#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Folders of the host, mounted by Debian's kernel: fsprobe's POSIX checks, what the host sees of
them and the guest of the host's doing, a read-only share, locks among both, and links that would
lead out of the folder.

usage: fs_test.py [ENGINE...]
"""
import fcntl
import os
import re
import subprocess
import sys
import tempfile

import guest

MODULES = "virtio_ring,virtio,virtio_pci,virtiofs"

SCRIPT = """\
mkdir -p /mnt/a /mnt/b
mount -t virtiofs a /mnt/a || exit 1
mount -t virtiofs b /mnt/b || exit 1
mount -t virtiofs none /mnt/b 2>/dev/null && echo "BAD: a tag that is not there"
echo "text: $(cat /mnt/a/from-host)"
echo hello > /mnt/a/from-guest
# Links are the guest's to follow, in its own files.
echo "link: $(cat /mnt/a/link)"
ls /mnt/a/up | grep -q secret && echo "BAD: up leads out"
cat /mnt/a/../secret 2>/dev/null && echo "BAD: .. leads out"
# Special files of the folder are the guest's own.
timeout 5 sh -c 'cat < /mnt/a/fifo' && echo "BAD: the FIFO is the host's"
# Read-only.
echo "read: $(cat /mnt/b/file)"
echo x 2>/dev/null > /mnt/b/file && echo "BAD: written"
mkdir /mnt/b/d 2>/dev/null && echo "BAD: made a folder"
rm /mnt/b/file 2>/dev/null && echo "BAD: removed"
# The host holds a lock on it.
/bin/fsprobe --flock /mnt/a/locked && echo "BAD: locked twice"
/bin/fsprobe --flock /mnt/a/free && echo "lock: taken"
/bin/fsprobe /mnt/a PROBE_ARGS
umount /mnt/a /mnt/b && echo unmounted
# Once more: everything was forgotten.
mount -t virtiofs a /mnt/a && echo "again: $(cat /mnt/a/from-host)"
dmesg | grep -E 'WARNING|BUG|Oops'
echo the end
"""


def initramfs(files, top, squash):
    script = os.path.join(top, "script")
    with open(script, "w", encoding="utf-8") as f:
        f.write(SCRIPT.replace("PROBE_ARGS", "squash" if squash else ""))
    out = os.path.join(top, "initramfs.cpio")
    subprocess.run([os.path.join(guest.TOOLS, "mkinitramfs"), "--modules", MODULES, "--tree",
                    os.path.join(guest.FILES, "tree"), "--add",
                    os.path.join(guest.BUILD, "test/boot/fsprobe") + ":/bin/fsprobe", "--add",
                    script + ":/ringer-test.sh", out],
                   check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=300)
    return out


def write(path, text):
    with open(path, "w", encoding="ascii") as f:
        f.write(text)


def folders(top):
    a, b = os.path.join(top, "a"), os.path.join(top, "b")
    os.mkdir(a)
    os.mkdir(b)
    write(os.path.join(top, "secret"), "the host's secret")
    write(os.path.join(a, "from-host"), "made on the host")
    write(os.path.join(b, "file"), "cannot be changed")
    write(os.path.join(a, "locked"), "")
    write(os.path.join(a, "free"), "")
    os.symlink("..", os.path.join(a, "up"))
    os.symlink("/proc/sys/kernel/ostype", os.path.join(a, "link"))
    os.mkfifo(os.path.join(a, "fifo"))
    return a, b


def run(score, engine, files, seconds):
    with tempfile.TemporaryDirectory() as top:
        a, b = folders(top)
        log = os.path.join(top, "console")
        lock = open(os.path.join(a, "locked"), "w", encoding="ascii")
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            got = subprocess.run(
                [guest.RINGER, "run", "--engine", engine, "--kernel", files.vmlinuz, "--initrd",
                 initramfs(files, top, os.geteuid() != 0), "--cmdline", "console=ttyS0 panic=-1 quiet",
                 "--console", "file:" + log, "--share", f"a={a},locks=host", "--share", f"b={b},ro"],
                stdin=subprocess.DEVNULL, capture_output=True, text=True,
                timeout=seconds * guest.slowness)
            said, code = got.stderr, got.returncode
        except subprocess.TimeoutExpired:
            said, code = "not at its end in time", -1
        lock.close()
        with open(log, encoding="utf-8", errors="replace") as f:
            text = f.read().replace("\r", "")
        check = lambda ok, what: score.check(ok, f"{engine}: {what}")
        good = check(code == 0, f"ends with {code}: {said}")
        for line in re.findall(r"^failed: .*$", text, re.M):
            print(f"{engine}: {line}")
        m = re.search(r"^(\d+) passed, (\d+) failed$", text, re.M)
        good &= check(m, "fsprobe does not come to its end")
        if m:
            score.passed += int(m[1])
            score.failed += int(m[2])
            good &= m[2] == "0"
        for line in ("text: made on the host", "link: Linux", "read: cannot be changed", "lock: taken",
                     "unmounted", "again: made on the host", "the end"):
            good &= check(re.search("^" + re.escape(line) + "$", text, re.M), f"no line \"{line}\"")
        good &= check("BAD" not in text, "something is wrong")
        good &= check(not re.search("^.*(WARNING|BUG|Oops).*$", text, re.M), "the kernel complains")
        with open(os.path.join(a, "from-guest"), encoding="ascii") as f:
            good &= check(f.read() == "hello\n", "what the guest wrote is not there")
        with open(os.path.join(b, "file"), encoding="ascii") as f:
            good &= check(f.read() == "cannot be changed", "the read-only folder was changed")
        if not good:
            print(text[-6000:])
        score.note(f"{engine}: {'ok' if good else 'FAILED'}")


def main():
    score = guest.Score()
    files = guest.Files()
    for engine in sys.argv[1:] or ["bt", "interp"]:
        run(score, engine, files, 240 if engine == "interp" else 60)
    score.end()


if __name__ == "__main__":
    main()
