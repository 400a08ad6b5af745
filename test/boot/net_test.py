#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Networks with Debian's kernel and its virtio_net: DHCP, a download from the host's loopback, a
forwarded port, two machines on a switch.

usage: net_test.py            the tests
       net_test.py figures    throughput beside QEMU's TCG, for doc/net.md
"""
import hashlib
import http.server
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import termios
import threading
import time

import guest
from guest import Guest, GuestError
from loopback import free_port, web_server

MIB = 1 << 20
KEYS = "virtio_pci,virtio_net,pvpanic-mmio,button,evdev"
DHCP = r"""#!/bin/sh
case $1 in
bound)
	ip addr add $ip/24 dev $interface
	ip route add default via $router
	echo "nameserver $dns" > /etc/resolv.conf
esac
"""

score = guest.Score()
check = score.check


class Blob(http.server.BaseHTTPRequestHandler):
    data = b""

    def do_GET(self):
        size = int(self.path.strip("/"))
        self.send_response(200)
        self.send_header("Content-Length", str(size))
        self.end_headers()
        self.wfile.write(memoryview(self.data)[:size])

    def log_message(self, *args):
        pass


class Setup:
    def __init__(self, tmp):
        self.files = guest.Files()
        self.initrd = os.path.join(tmp, "net.cpio")
        script = os.path.join(tmp, "dhcp.sh")
        with open(script, "w", encoding="ascii") as f:
            f.write(DHCP)
        os.chmod(script, 0o755)
        subprocess.run([os.path.join(guest.TOOLS, "mkinitramfs"), "--modules", KEYS, "--tree",
                        os.path.join(guest.FILES, "tree"), "--add", f"{script}:/bin/dhcp",
                        self.initrd], check=True, stdout=subprocess.DEVNULL, timeout=300)

    def ringer(self, engine, *args, **more):
        return Guest(self.files, "--engine", engine, *args, initrd=self.initrd,
                     cmdline="quiet", **more)

    def qemu(self, *args):
        g = Guest(self.files, command=[
            "qemu-system-x86_64", "-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max",
            "-m", "512M", "-nographic", "-no-reboot", "-kernel", self.files.vmlinuz, "-initrd",
            self.initrd, "-append", f"{guest.BASE_CMDLINE} quiet", "-nic", "none", *args])
        mode = termios.tcgetattr(g.slave)
        mode[1] &= ~termios.ONLCR  # QEMU leaves it on, ringer does not
        termios.tcsetattr(g.slave, termios.TCSANOW, mode)
        return g


def up(g, address=None):
    """To a shell with a network."""
    g.boot(180)
    g.script()
    g.sh("mkfifo /tmp/never")  # an input that has no end
    g.sh("ip link set eth0 up")
    if address:
        g.sh(f"ip addr add {address}/24 dev eth0")
    else:
        g.sh("udhcpc -i eth0 -n -q -t 10 -s /bin/dhcp")


def download(g, port, size, name):
    begin = time.monotonic()
    out = g.sh(f"wget -q -O - http://10.0.2.2:{port}/{size} | sha256sum", 120)
    check(out.split()[0] == hashlib.sha256(Blob.data[:size]).hexdigest(),
          f"{name}: checksum of {size} bytes: {out}")
    return time.monotonic() - begin


def upload(g, path, listener, name):
    """A file of the guest's to a listening socket of the host's."""
    digest = hashlib.sha256()
    total = 0

    def serve():
        nonlocal total
        c, _ = listener.accept()
        with c:
            while data := c.recv(MIB):
                digest.update(data)
                total += len(data)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    want = g.sh(f"sha256sum {path}").split()[0]
    g.sh(f"nc 10.0.2.2 {listener.getsockname()[1]} < {path}", 120)
    thread.join(60 * guest.slowness)
    check(digest.hexdigest() == want, f"{name}: checksum of an upload of {total} bytes")


def forwarded(g, tcp, name):
    g.send("(echo from the guest | nc -l -p 22 > /tmp/in; echo <GOT> $(cat /tmp/in)'.') </dev/null 2>&1 &\n"
           .replace("<GOT>", "got''it"))
    answer = b""
    for _ in range(50):
        try:
            with socket.create_connection(("127.0.0.1", tcp), 5) as s:
                s.sendall(b"from the host\n")
                s.shutdown(socket.SHUT_WR)
                s.settimeout(20 * guest.slowness)
                while data := s.recv(1000):
                    answer += data
            if answer:
                break
        except OSError:
            pass
        time.sleep(0.2)
    check(answer == b"from the guest\n", f"{name}: a forwarded TCP port answers {answer!r}")
    g.expect("gotit from the host", 30)


def case_user(s, engine, size):
    name = f"{engine}, user"
    tcp = free_port()
    with web_server(Blob) as port, socket.create_server(("127.0.0.1", 0)) as listener, \
            s.ringer(engine, "--name", "a", "--net",
                     f"user,hostfwd=tcp:{tcp}:22", "--net",
                     "user,net=10.9.0.0/24,restrict=on,mac=52:54:00:aa:bb:cc") as g:
        up(g)
        check("inet 10.0.2.15/24" in g.sh("ip addr show eth0"), f"{name}: DHCP's address")
        check(g.sh("cat /sys/class/net/eth0/address") == "02:6d:ff:77:24:1f",
              f"{name}: the MAC address of a machine named a")
        check(g.sh("cat /sys/class/net/eth1/address") == "52:54:00:aa:bb:cc", f"{name}: mac=")
        check(" 0% packet loss" in g.sh("ping -c 3 10.0.2.2"), f"{name}: ping")
        seconds = download(g, port, size, name)
        score.note(f"{name}: {size / MIB:.1f} MiB in {seconds:.1f} s")
        g.sh(f"head -c {size} /dev/urandom > /tmp/up")
        upload(g, "/tmp/up", listener, name)
        # A slow reader: the host's side waits, and nothing is lost.
        out = g.sh(f"wget -q -O - http://10.0.2.2:{port}/{size} | (sleep 2; sha256sum)", 120)
        check(out.split()[0] == hashlib.sha256(Blob.data[:size]).hexdigest(),
              f"{name}: checksum with a slow reader")
        forwarded(g, tcp, name)
        # The restricted card leads nowhere.
        g.sh("ip link set eth1 up; ip link set eth0 down; udhcpc -i eth1 -n -q -t 10 -s /bin/dhcp")
        check("inet 10.9.0.15/24" in g.sh("ip addr show eth1"), f"{name}: net=")
        out = g.sh(f"wget -T 5 -q -O - http://10.9.0.2:{port}/100 || echo refused", 60)
        check("refused" in out, f"{name}: restrict=on")
        # Down and up again: the driver resets the device.
        g.sh("ip link set eth1 down; rmmod virtio_net; modprobe virtio_net; ip link set eth0 up")
        g.sh("udhcpc -i eth0 -n -q -t 10 -s /bin/dhcp")
        download(g, port, min(size, MIB), f"{name}, after a reset")
        bad = [line for line in g.sh("dmesg").splitlines()
               if re.search(r"virtio.*(error|fail|warn)|eth\d.*(bad|timed out)|BUG|WARNING", line)]
        check(not bad, f"{name}: dmesg: {bad}")
        check(b"ringer: warning" not in g.out, f"{name}: warnings of the monitor: {g.tail()}")


def case_switch(s, engine, size):
    """Two machines; then one is killed, and a third takes its place."""
    name = f"{engine}, switch"
    lan = f"test-{os.getpid()}"

    def start(vm):
        return s.ringer(engine, "--name", vm, "--net", f"switch={lan}")

    with start("b") as b:
        with start("a") as a:
            up(a, "192.168.7.1")
            up(b, "192.168.7.2")
            check(" 0% packet loss" in a.sh("ping -c 3 192.168.7.2"), f"{name}: ping")
            seconds = transfer(a, b, size, name)
            score.note(f"{name}: {size / MIB:.0f} MiB in {seconds:.1f} s")
            a.proc.kill()
        with start("c") as c:
            up(c, "192.168.7.1")
            check(" 0% packet loss" in b.sh("ip neigh flush dev eth0; ping -c 3 192.168.7.1"),
                  f"{name}: ping after a member was killed")
            transfer(c, b, MIB, f"{name}, the new member")
    shutil.rmtree(os.path.join(os.environ["XDG_RUNTIME_DIR"], "ringer", lan), ignore_errors=True)


def transfer(a, b, size, name):
    a.sh(f"head -c {size} /dev/urandom > /tmp/data", 60)
    want = a.sh("sha256sum /tmp/data", 60).split()[0]
    b.send("nc -l -p 7000 <>/tmp/never | sha256sum > /tmp/sum & echo list''ens\n")
    b.expect("listens", 30)
    for _ in range(50):
        if ":7000 " in b.sh("netstat -ltn"):
            break
    begin = time.monotonic()
    a.sh("nc 192.168.7.2 7000 < /tmp/data", 180)
    b.sh("wait", 120)
    seconds = time.monotonic() - begin
    for _ in range(50):
        got = b.sh("cat /tmp/sum; : > /dev/null")
        if got:
            break
        time.sleep(0.2)
    check(got and got.split()[0] == want, f"{name}: checksum of {size} bytes between machines: {got}")
    b.sh("rm -f /tmp/sum")
    return seconds


# ---- figures ----

def rate(g, command, size):
    """MiB/s, the best of 3."""
    best = 0.0
    for _ in range(3):
        begin = time.monotonic()
        g.sh(command, 300)
        best = max(best, size / MIB / (time.monotonic() - begin))
    return best


def pair_figures(a, b, size):
    for g, n in ((a, 1), (b, 2)):
        up(g, f"192.168.7.{n}")
    a.sh(f"head -c {size} /dev/zero > /tmp/data", 120)
    best = 0.0
    for _ in range(3):
        b.send("nc -l -p 7000 <>/tmp/never > /dev/null & echo list''ens\n")
        b.expect("listens", 60)
        time.sleep(1)
        begin = time.monotonic()
        a.sh("nc 192.168.7.2 7000 < /tmp/data", 300)
        best = max(best, size / MIB / (time.monotonic() - begin))
        b.sh("wait", 60)
    latency = a.sh("ping -q -c 10 192.168.7.2", 60).splitlines()[-1]
    return best, latency


def figures(s):
    size = 32 * MIB
    Blob.data = bytes(size)

    def row(*columns):
        print("| {} | {} | {} |".format(*columns), flush=True)

    sink = socket.create_server(("127.0.0.1", 0))

    def drain():
        while True:
            c, _ = sink.accept()
            with c:
                while c.recv(MIB):
                    pass

    threading.Thread(target=drain, daemon=True).start()
    user = ("-device", "virtio-net-pci,netdev=n", "-netdev", "user,id=n")
    with web_server(Blob) as port:
        for name, make in (("ringer bt", lambda: s.ringer("bt", "--net", "user")),
                           ("QEMU TCG", lambda: s.qemu(*user))):
            with make() as g:
                up(g)
                down = rate(g, f"wget -q -O /dev/null http://10.0.2.2:{port}/{size}", size)
                g.sh(f"head -c {size} /dev/zero > /tmp/data", 120)
                out = rate(g, f"nc 10.0.2.2 {sink.getsockname()[1]} < /tmp/data", size)
                row(name, "user: to the guest, from it", f"{down:.0f}, {out:.0f} MiB/s")
    lan = f"bench-{os.getpid()}"
    with s.ringer("bt", "--name", "a", "--net", f"switch={lan}") as a, \
            s.ringer("bt", "--name", "b", "--net", f"switch={lan}") as b:
        row("ringer bt", "switch, two machines",
            "{:.0f} MiB/s; {}".format(*pair_figures(a, b, size)))
    port = free_port()
    nets = [("-device", f"virtio-net-pci,netdev=n,mac=52:54:00:00:00:0{i}", "-netdev",
             f"socket,id=n,{how}=127.0.0.1:{port}") for i, how in ((1, "listen"), (2, "connect"))]
    with s.qemu(*nets[0]) as a:
        time.sleep(1)
        with s.qemu(*nets[1]) as b:
            row("QEMU TCG", "socket, two machines",
                "{:.0f} MiB/s; {}".format(*pair_figures(a, b, size)))


def main():
    if "XDG_RUNTIME_DIR" not in os.environ:
        os.environ["XDG_RUNTIME_DIR"] = tempfile.gettempdir()
    Blob.data = os.urandom(8 * MIB)
    with tempfile.TemporaryDirectory() as tmp:
        s = Setup(tmp)
        if sys.argv[1:] == ["figures"]:
            figures(s)
            return
        for what in (lambda: case_user(s, "bt", 8 * MIB), lambda: case_switch(s, "bt", 50 * MIB),
                     lambda: case_user(s, "interp", 256 << 10)):
            try:
                what()
            except GuestError as error:
                check(False, str(error))
    score.end()


if __name__ == "__main__":
    main()
