#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""PCI and the small virtio devices with Debian's kernel: what it enumerates, MSI-X and pin interrupts,
random numbers, the balloon and what the host gets back, console ports in both directions. With split and
packed rings, by the translator and by the interpreter.

usage: virtio_test.py [CASE...]
"""
import hashlib
import os
import re
import socket
import subprocess
import sys
import tempfile
import time

from guest import FILES, SOURCE, Files, Guest, Score, slowness, stage

score = Score()
check = score.check
files = Files()
MODULES = "virtio_pci,virtio_rng,virtio_balloon,virtio_console"


def make_initrd():
    path = os.path.join(FILES, f"initramfs-virtio-{os.getpid()}.cpio")
    subprocess.run([os.path.join(SOURCE, "tools/mkinitramfs"), "--modules", MODULES, "--tree",
                    os.path.join(FILES, "tree"), path], check=True, timeout=300,
                   stdout=subprocess.DEVNULL)
    return path


def host_memory(g):
    """Bytes that the host keeps for the machine. Pss: RAM may be mapped twice."""
    with open(f"/proc/{g.proc.pid}/smaps_rollup", encoding="ascii") as f:
        return int(re.search(r"^Pss:\s+(\d+) kB", f.read(), re.M)[1]) << 10


def wait_for(what, ready, seconds=20):
    end = time.monotonic() + seconds * slowness
    while time.monotonic() < end:
        if ready():
            return check(True, what)
        time.sleep(0.3)
    return check(False, what)


def look_at_pci(g, what, devices):
    """As lspci would: from sysfs."""
    found = g.sh("cd /sys/bus/pci/devices; for d in *; do echo $d $(cat $d/vendor $d/device $d/class) "
                 "$(basename $(readlink $d/driver) 2>/dev/null); done").splitlines()
    check(found[0].startswith("0000:00:00.0 ") and found[0].split()[3] == "0x060000",
          f"{what}: no host bridge first: {found}")
    virtio = [line.split() for line in found[1:]]
    check([f[2] for f in virtio] == devices, f"{what}: {virtio}, not {devices}")
    for fields in virtio:
        check(fields[1] == "0x1af4" and fields[4:] == ["virtio-pci"], f"{what}: {fields}")
    memory = g.sh("cat /proc/iomem")
    check(re.search(r"e0000000-efffffff : PCI MMCONFIG 0000 \[bus 00-ff\]", memory) and
          "PCI Bus 0000:00" in memory, f"{what}: {memory}")
    size = g.sh("wc -c < /sys/bus/pci/devices/0000:00:01.0/config")
    check(size == "256", f"{what}: configuration space of {size} bytes")
    bad = [line for line in g.sh("dmesg -r").splitlines() if re.match("<[0-4]>", line) and
           re.search("pci|virtio|acpi|mmconf|BAR", line, re.I)]
    check(not bad, f"{what}: warnings in dmesg: {bad}")


def interrupts(g, name):
    lines = re.findall(rf"^ *\d+:((?: +\d+)+) +(\S+) .*{name}$", g.sh("cat /proc/interrupts"), re.M)
    return sum(int(n) for counts, _ in lines for n in counts.split()), {chip for _, chip in lines}


def random_numbers(g, what, chip):
    check(g.sh("cat /sys/class/misc/hw_random/rng_current").startswith("virtio_rng"),
          f"{what}: hwrng")
    before, chips = interrupts(g, "virtio0(?:-input)?")
    sums = g.sh("for i in 1 2 3; do dd if=/dev/hwrng bs=4096 count=2 2>/dev/null | md5sum; done")
    after, _ = interrupts(g, "virtio0(?:-input)?")
    check(len(set(sums.splitlines())) == 3 and hashlib.md5(bytes(8192)).hexdigest() not in sums,
          f"{what}: hwrng gives {sums}")
    check(after > before + 10 and chips == {chip}, f"{what}: interrupts {before}, {after}, {chips}")


def balloon(g, what, monitor):
    g.sh("dd if=/dev/zero of=/tmp/big bs=1M count=120 2>/dev/null")
    used = host_memory(g)
    g.sh("rm /tmp/big")
    # Free page reporting: the host gets the file's pages back by itself.
    wait_for(f"{what}: free pages are not reported: {used >> 20} MiB",
             lambda: host_memory(g) < used - (90 << 20))
    g.sh("dd if=/dev/zero of=/tmp/big bs=1M count=20 2>/dev/null; md5sum < /tmp/big | grep -q "
         + hashlib.md5(bytes(20 << 20)).hexdigest())
    if monitor:
        before = int(g.sh("awk '/MemFree/ { print $2 }' /proc/meminfo"))
        g.send(b"\x1d+")
        g.expect(r"the balloon is to take 64 MiB from the guest\r?\n")
        wait_for(f"{what}: the guest gives nothing",
                 lambda: int(g.sh("awk '/MemFree/ { print $2 }' /proc/meminfo")) < before - 50_000)
        g.send(b"\x1d-")
        g.expect(r"the balloon is to take 0 MiB from the guest\r?\n")
        wait_for(f"{what}: the guest takes nothing back",
                 lambda: int(g.sh("awk '/MemFree/ { print $2 }' /proc/meminfo")) > before - 10_000)


def console_ports(g, what, tmp):
    names = g.sh("cat /sys/class/virtio-ports/*/name").splitlines()
    check(names == ["log", "agent"], f"{what}: ports {names}")
    g.sh("echo to the console > /dev/hvc0; seq 1 20000 > /dev/vport2p1")
    lines = "".join(f"{i}\n" for i in range(1, 20001)).encode()

    def same(name, wanted):
        with open(os.path.join(tmp, name), "rb") as f:
            return f.read() == wanted

    wait_for(f"{what}: hvc0", lambda: same("hvc0", b"to the console\r\n") or
             same("hvc0", b"to the console\n"))
    wait_for(f"{what}: port log", lambda: same("log", lines))
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(30 * slowness)
        s.connect(os.path.join(tmp, "agent"))
        data = bytes(i * 7 % 251 for i in range(50000))
        s.sendall(data)
        check(g.sh("head -c 50000 /dev/vport2p2 | md5sum").split()[0] == hashlib.md5(data).hexdigest(),
              f"{what}: input of a port")
        g.sh("(cat /tmp/big | head -c 300000; echo end) > /dev/vport2p2 &")
        got = b""
        while not got.endswith(b"end\n"):
            piece = s.recv(65536)
            if not piece:
                break
            got += piece
        check(got == bytes(300000) + b"end\n", f"{what}: output of a port: {len(got)} bytes")


def visit(engine, packed, cmdline="", cpus=1, again=False):
    what = f"{engine}, {'packed' if packed else 'split'} rings{', ' + cmdline if cmdline else ''}"
    option = ",packed=on" if packed else ""
    with tempfile.TemporaryDirectory() as tmp:
        with Guest(files, "--engine", engine, "--device", "rng" + option, "--device",
                   "balloon" + option, "--device", f"console,where=file:{tmp}/hvc0" + option,
                   "--device", f"port,name=log,where=file:{tmp}/log", "--device",
                   f"port,name=agent,where=unix:{tmp}/agent", initrd=make_initrd(),
                   cmdline=cmdline, cpus=cpus) as g:
            score.note(f"{what}: shell after {g.boot(120):.1f} s")
            g.script()
            bits = g.sh("cat /sys/bus/virtio/devices/virtio0/features")
            check(bits[34] == str(int(packed)) and bits[32] == bits[28] == bits[29] == "1",
                  f"{what}: features {bits}")
            look_at_pci(g, what, ["0x1044", "0x1045", "0x1043"])
            random_numbers(g, what, "IO-APIC" if "nomsi" in cmdline else "PCI-MSI")
            balloon(g, what, monitor=True)
            console_ports(g, what, tmp)
            # Drivers let go and come back: reset, and negotiation again.
            g.sh("cd /sys/bus/pci/drivers/virtio-pci; echo 0000:00:01.0 > unbind; "
                 "echo 0000:00:01.0 > bind; dd if=/dev/hwrng bs=512 count=1 2>/dev/null | md5sum")
            if again:
                g.send("reboot\n")
                g.expect("Linux version", 60)
                g.boot(120)
                g.script()
                random_numbers(g, f"{what}, again", "PCI-MSI")
            g.send("poweroff\n")
            check(g.wait() == 0, f"{what}: code {g.proc.returncode}; {g.tail(300)}")


def case_bt_split():
    visit("bt", False)


def case_bt_packed():
    visit("bt", True, cpus=2, again=True)


def case_bt_pins():
    visit("bt", False, "pci=nomsi")


def case_interp():
    visit("interp", True)


CASES = {name[5:]: f for name, f in list(globals().items()) if name.startswith("case_")}


def main():
    for name in sys.argv[1:] or list(CASES):
        with stage(score, name):
            CASES[name]()
    for name in os.listdir(FILES):
        if name == f"initramfs-virtio-{os.getpid()}.cpio":
            os.unlink(os.path.join(FILES, name))
    score.end()


if __name__ == "__main__":
    main()
