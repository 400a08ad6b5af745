#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Networks under load, in a Debian from its disk, unattended, in some 10 minutes. By `--net user`: ssh with its
exit codes, scp of 200 MiB both ways, a download of 500 MB from the host's loopback, datagrams in
pieces. By `--net switch`: two machines that ping each other and move 1 GiB, and what iperf3
measures. By `--net tap`: two queues in a network namespace of their own, eight transfers at once, and the two
machines on a bridge; skipped without the right to make an interface. All with checksums; afterwards the kernels must not have complained.

usage: net.py [--engine E] [--cpus N] [--parts user,switch,tap] [--small] [--image FILE --key FILE]

--image: a disk that tools/make-image made with --ssh-key, which isn't changed, and --key: the other half
of that key; without them one is made, which takes its time. --small: a tenth of the bytes. What
each machine printed is in build/soak-logs.
"""
import argparse
import contextlib
import hashlib
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "boot"))
import guest  # noqa: E402
from loopback import free_port, web_server  # noqa: E402

PARTS = ("user", "switch", "tap")
MIB = 1 << 20
PING = re.compile(r"= ([\d.]+)/([\d.]+)/([\d.]+)/[\d.]+ ms")
CODE = 7
TAP = "tuntap add dev tap0 mode tap multi_queue vnet_hdr".split()


# ---- the host's side ----

class Pattern(http.server.BaseHTTPRequestHandler):
    """GET /N: N bytes that differ from block to block. PUT: the checksum of what came."""
    block = os.urandom(MIB)

    @classmethod
    def parts(cls, size):
        for i in range(0, size, MIB):
            yield (i.to_bytes(8, "little") + cls.block[8:])[:size - i]

    @classmethod
    def digest(cls, size):
        h = hashlib.sha256()
        for part in cls.parts(size):
            h.update(part)
        return h.hexdigest()

    def do_GET(self):
        size = int(self.path.strip("/"))
        self.send_response(200)
        self.send_header("Content-Length", str(size))
        self.end_headers()
        with contextlib.suppress(OSError):  # the guest's end shows it
            for part in self.parts(size):
                self.wfile.write(part)

    def do_PUT(self):
        left, h = int(self.headers["Content-Length"]), hashlib.sha256()
        self.send_response_only(100)
        self.end_headers()
        while left and (got := self.rfile.read(min(left, MIB))):
            h.update(got)
            left -= len(got)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(h.hexdigest().encode() + b"\n")

    def log_message(self, *args):
        pass


def digest(path):
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


class Ssh:
    """OpenSSH's own programs, towards a forwarded port."""

    def __init__(self, port, key):
        self.port = str(port)
        self.options = ["-F", "none", "-i", key, "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
                        "-o", "LogLevel=ERROR", "-o", "BatchMode=yes", "-o", f"ConnectTimeout={60 * guest.slowness:.0f}"]

    def run(self, command, given="", seconds=120.0):
        return subprocess.run(["ssh", *self.options, "-p", self.port, "root@127.0.0.1", command], input=given,
                              capture_output=True, text=True, check=False, timeout=seconds * guest.slowness)

    def copy(self, source, to, seconds=600.0):
        """None, or what scp says."""
        got = subprocess.run(["scp", *self.options, "-P", self.port, source, to], capture_output=True, text=True,
                             check=False, timeout=seconds * guest.slowness)
        return None if got.returncode == 0 else got.stderr or f"code {got.returncode}"


# ---- machines ----

class Soak:
    def __init__(self, opts, score, image, firmware, top):
        self.opts, self.score, self.image, self.firmware, self.top = opts, score, image, firmware, top
        self.unit = 10 if opts.small else 1

    @contextlib.contextmanager
    def machine(self, name, *more, cpus=None):
        g = guest.Guest(None, command=[guest.RINGER, "run", "--engine", self.opts.engine, "-m", "1G", "-c",
                                       str(cpus or self.opts.cpus), "--name", name, "--firmware", self.firmware, "--disk",
                                       self.image + ",snapshot=on", *more])
        try:
            with g:
                yield g
        finally:
            logs = os.path.join(guest.BUILD, "soak-logs")
            os.makedirs(logs, exist_ok=True)
            with open(os.path.join(logs, f"net-{name}"), "w", encoding="ascii", errors="replace") as f:
                f.write(g.text())

    def login(self, g, name):
        g.login(600)
        self.score.note(f"{name}: logged in")

    def address(self, g, address):
        g.sh("systemctl stop systemd-networkd.socket systemd-networkd")  # it would look for DHCP
        g.sh("i=$(ls /sys/class/net | grep -v lo) && ip link set $i up && ip addr flush dev $i && "
             f"ip addr add {address}/24 dev $i")

    def end(self, g, name):
        bad = g.sh("dmesg -l emerg,alert,crit,err", 60)
        self.score.check(not bad, f"{name}: the kernel says: {bad}")
        errors = g.sh("cat /sys/class/net/e*/statistics/[rt]x_errors").split()
        self.score.check(set(errors) == {"0"}, f"{name}: errors of its cards: {errors}")
        g.send("systemctl poweroff\n")
        self.score.check(g.wait(180) == 0, f"{name}: does not power off: {g.tail()}")
        self.score.check(b"ringer: warning" not in g.out, f"{name}: warnings of the monitor: {g.tail()}")

    def rate(self, what, size, seconds):
        self.score.note(f"{what}: {size / 1e6:.0f} MB in {seconds:.1f} s, {size / 1e6 / seconds:.0f} MB/s")

    def ping(self, g, what, arguments):
        out = g.sh(f"ping -q {arguments}", 120, code=None)
        m = PING.search(out)
        self.score.check(" 0% packet loss" in out and m, f"{what}: {out[-400:]}")
        if m:
            self.score.note(f"{what}: {m[1]} ms at least, {m[2]} on average")

    # ---- user ----

    def user(self):
        port = free_port()
        with self.machine("net-user", "--net", f"user,hostfwd=tcp::{port}:22") as g, web_server(Pattern) as web:
            self.login(g, "user")
            g.sh("for i in $(seq 100); do ip -4 addr | grep -q 10.0.2.15/24 && break; sleep 1; done", 150)
            self.commands(Ssh(port, self.opts.key))
            self.copies(g, Ssh(port, self.opts.key))
            self.ping(g, "user: ping of the host", "-c 20 -i 0.2 10.0.2.2")
            self.ping(g, "user: ping in three pieces", "-c 5 -i 0.2 -s 4000 10.0.2.2")
            size = 500_000_000 // self.unit
            begin = time.monotonic()
            got = g.sh(f"curl -sS http://10.0.2.2:{web}/{size} | sha256sum", 900, code=None)
            self.score.check(got.split()[:1] == [Pattern.digest(size)], f"user: a download of {size} bytes: {got}")
            self.rate("user: download by HTTP, with sha256sum", size, time.monotonic() - begin)
            self.ipv6(g, size // 10)
            self.end(g, "user")

    def ipv6(self, g, size):
        try:
            with web_server(Pattern, "::1") as web:
                self.ping(g, "user: ping of the host by IPv6", "-c 20 -i 0.2 fec0::2")
                begin = time.monotonic()
                got = g.sh(f"curl -sS 'http://[fec0::2]:{web}/{size}' | sha256sum", 300, code=None)
        except OSError as error:
            self.score.skip(f"no IPv6 on this host: {error}")
            return
        self.score.check(got.split()[:1] == [Pattern.digest(size)], f"user: a download by IPv6 of {size} bytes: {got}")
        self.rate("user: download by HTTP and IPv6", size, time.monotonic() - begin)

    def commands(self, ssh):
        for _ in range(60):  # sshd makes its keys at the first start
            got = ssh.run(f"uname -n; echo here >&2; exit {CODE}")
            if got.returncode != 255:
                break
            time.sleep(2)
        self.score.check((got.returncode, got.stdout, got.stderr) == (CODE, "ringer\n", "here\n"),
                         f"user: ssh: code {got.returncode}, {got.stdout!r}, {got.stderr!r}")
        text = "".join(f"line {i}\n" for i in range(20_000))
        got = ssh.run("cat", text)
        self.score.check(got.returncode == 0 and got.stdout == text, f"user: {len(text)} bytes there and back: {got.stderr}")
        begin, ok = time.monotonic(), 0
        for i in range(10):
            ok += ssh.run(f"exit {i}").returncode == i
        self.score.check(ok == 10, f"user: {ok} of 10 exit codes by ssh")
        self.score.note(f"user: a login by ssh: {(time.monotonic() - begin) / 10:.1f} s")
        begin = time.monotonic()
        many = [subprocess.Popen(["ssh", *ssh.options, "-p", ssh.port, "root@127.0.0.1", f"sleep 1; exit {i + 1}"],
                                 stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                for i in range(6)]
        codes = [p.wait(300 * guest.slowness) for p in many]
        self.score.check(codes == [1, 2, 3, 4, 5, 6], f"user: six at once: {codes}")

    def copies(self, g, ssh):
        size = 200 * MIB // self.unit
        here, back = (os.path.join(self.top, n) for n in ("here", "back"))
        with open(here, "wb") as f:
            for part in Pattern.parts(size):
                f.write(part)
        want = digest(here)
        # A file system in memory: disks have tests of their own.
        for what, source, to in (("to the guest", here, "root@127.0.0.1:/dev/shm/there"),
                                 ("from the guest", "root@127.0.0.1:/dev/shm/there", back)):
            begin = time.monotonic()
            failed = ssh.copy(source, to)
            self.score.check(not failed, f"user: scp {what}: {failed}")
            self.rate(f"user: scp {what}", size, time.monotonic() - begin)
        self.score.check(g.sh("sha256sum < /dev/shm/there", 300).split()[0] == want, "user: scp: checksum in the guest")
        self.score.check(os.path.exists(back) and digest(back) == want, "user: scp: checksum of what came back")
        g.sh("rm -f /dev/shm/there")

    # ---- two machines ----

    def switch(self):
        lan = ["--net", f"switch=soak-{os.getpid()}"]
        with self.pair("switch", lan, lan) as machines:
            for n, g in enumerate(machines, 1):
                self.monitor(g, n)

    @contextlib.contextmanager
    def pair(self, name, net_a, net_b, cpus=None):
        """Both are left running for the block."""
        with self.machine(f"net-{name}-1", *net_a, cpus=cpus) as a, self.machine(f"net-{name}-2", *net_b, cpus=cpus) as b:
            for n, g in enumerate((a, b), 1):
                self.login(g, f"{name}: {n}")
                self.address(g, f"192.168.77.{n}")
            for g, n in ((a, 2), (b, 1)):
                self.ping(g, f"{name}: ping of {n}", f"-c 50 -i 0.1 192.168.77.{n}")
                self.ping(g, f"{name}: ping of {n} in pieces", f"-c 5 -i 0.1 -s 30000 192.168.77.{n}")
            self.stream(name, a, b, 2, (1 << 30) // self.unit)
            self.stream(name, b, a, 1, (1 << 30) // self.unit)
            self.iperf(name, a, b)
            yield a, b
            for n, g in enumerate((a, b), 1):
                self.end(g, f"{name}: {n}")

    def stream(self, name, src, dst, n, size):
        """Blocks of random bytes, each with its number before it."""
        blocks = 16
        src.sh(f"head -c {size // blocks} /dev/urandom > /dev/shm/block", 300)
        dst.send("nc -d -l 7000 | sha256sum > /dev/shm/got & echo list''ens\n")
        dst.expect("listens", 30)
        for _ in range(50):
            if ":7000 " in dst.sh("ss -ltn"):
                break
        begin = time.monotonic()
        sent = src.sh(f"mkfifo /dev/shm/p; sha256sum < /dev/shm/p > /dev/shm/sent & for i in $(seq {blocks}); do echo $i; "
                      f"cat /dev/shm/block; done | tee /dev/shm/p | nc -N 192.168.77.{n} 7000; wait; cat /dev/shm/sent; "
                      "rm /dev/shm/p", 900).split()[:1]
        got = dst.sh("for i in $(seq 100); do [ -s /dev/shm/got ] && break; sleep 0.2; done; cat /dev/shm/got; rm /dev/shm/got",
                     120).split()[:1]
        self.score.check(sent and sent == got, f"{name}: checksums of {size} bytes to {n}: {sent} {got}")
        self.rate(f"{name}: to {n} by nc, with sha256sum on both sides", size, time.monotonic() - begin)

    def counts(self, g):
        """What the monitor prints of its devices."""
        at = len(g.out)
        g.send(guest.MENU + b"i")
        for _ in range(20):
            g.pump(0.5)
            if b"\nlapic:" in g.out[at:]:
                break
        g.pump(0.5)
        g.mark = len(g.out)
        return g.out[at:].replace(b"\r\n", b"\n").decode(errors="replace")

    def monitor(self, g, n):
        """Frames that the other machine had no time for are lost."""
        m = re.search(r"(\d+) frames from the guest, (\d+) to it.*?(\d+) frames lost to it", self.counts(g), re.S)
        if self.score.check(m, f"switch: no counts of {n}: {g.tail()}"):
            self.score.note(f"switch: {n}: {int(m[1])} frames sent, {int(m[2])} received, {int(m[3])} lost on the way")

    def iperf(self, name, a, b):
        if "iperf3" not in a.sh("command -v iperf3", code=None):
            self.score.skip("iperf3 is not in the image")
            return
        b.send("iperf3 -s -D\n")
        b.sh("for i in $(seq 50); do ss -ltn | grep -q :5201 && break; sleep 0.2; done", 60)
        for what, more in (("from 1 to 2", ""), ("from 2 to 1", "-R"), ("both, four streams", "--bidir -P 4")):
            end = json.loads(a.sh(f"iperf3 -J -t {max(10 // self.unit, 2)} -c 192.168.77.2 {more}", 300))["end"]
            rates = [s["bits_per_second"] / 8e6 for k, s in end.items() if k.startswith("sum_received")]
            self.score.check(all(r > 0.1 for r in rates) and rates, f"{name}: iperf3 {what}: {rates}")
            self.score.note(f"{name}: iperf3 {what}: {', '.join(f'{r:.0f}' for r in rates)} MB/s, "
                            f"{end['sum_sent'].get('retransmits', 0)} sent again")


    # ---- tap ----

    def tap(self):
        """In a network namespace of its own, which ends with it."""
        if not self.opts.inside:
            space = ["unshare", "-n"] if os.geteuid() == 0 else ["unshare", "-rn"]
            got = subprocess.run([*space, "ip", *TAP], capture_output=True, text=True, check=False, timeout=60)
            if got.returncode:
                self.score.skip(f"no tap can be made here: {got.stderr.strip()}")
                return
            got = subprocess.run([*space, sys.executable, os.path.abspath(__file__), "--inside", "--parts", "tap", "--engine",
                                  self.opts.engine, "--image", self.image, "--key", self.opts.key, *["--small"] * self.opts.small],
                                 stdout=subprocess.PIPE, text=True, check=False, timeout=1800)
            print(got.stdout.rpartition("\n")[0].rpartition("\n")[0])
            if m := re.search(r"^(\d+) passed, (\d+) failed", got.stdout, re.M):
                self.score.passed += int(m[1])
                self.score.failed += int(m[2])
            else:
                self.score.check(False, f"tap: no end, code {got.returncode}")
            return
        for command in ("link set lo up", " ".join(TAP), "addr add 192.168.78.1/24 dev tap0", "link set tap0 up",
                        "link add br0 type bridge", "link set br0 up"):
            subprocess.run(["ip", *command.split()], check=True, timeout=60)
        with self.machine("net-tap", "--net", "tap=tap0,queues=2", cpus=2) as g, web_server(Pattern, "192.168.78.1") as web:
            self.login(g, "tap")
            self.address(g, "192.168.78.2")
            queues = g.sh("ls -d /sys/class/net/e*/queues/rx-* | wc -l")
            self.score.check(queues == "2", f"tap: the guest has {queues} queues")
            self.ping(g, "tap: ping of the host", "-c 50 -i 0.1 192.168.78.1")
            self.many(g, f"http://192.168.78.1:{web}", 32 * MIB // self.unit)
            pairs = re.findall(r"pair (\d): (\d+) sent, (\d+) received", self.counts(g))
            self.score.note("tap: " + "; ".join(f"queue {n}: {sent} sent, {received} received" for n, sent, received in pairs))
            self.score.check(len(pairs) == 2 and all(int(n) > 50 for p in pairs for n in p[1:]), f"tap: queues in use: {pairs}")
            self.end(g, "tap")
        for i in (1, 2):
            for command in (" ".join(TAP).replace("tap0", f"tap{i}"), f"link set tap{i} master br0", f"link set tap{i} up"):
                subprocess.run(["ip", *command.split()], check=True, timeout=60)
        with self.pair("bridge", *(["--net", f"tap=tap{i},queues=2"] for i in (1, 2)), cpus=2):
            pass

    def many(self, g, url, size):
        """Eight at once, so that there are flows for each queue."""
        begin = time.monotonic()
        got = g.sh(f"for i in $(seq 8); do curl -sS {url}/{size} | sha256sum & done; wait", 900).replace(" -", "").split()
        self.score.check(got == [Pattern.digest(size)] * 8, f"tap: eight downloads of {size} bytes: {got}")
        self.rate("tap: eight downloads", 8 * size, time.monotonic() - begin)
        want = g.sh(f"head -c {size} /dev/urandom > /dev/shm/up; sha256sum < /dev/shm/up", 120).split()[0]
        begin = time.monotonic()
        got = g.sh(f"for i in $(seq 8); do curl -sS -T /dev/shm/up {url}/$i & done; wait", 900).split()
        self.score.check(got == [want] * 8, f"tap: eight uploads of {size} bytes: {got}")
        self.rate("tap: eight uploads", 8 * size, time.monotonic() - begin)


def options():
    ap = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    ap.add_argument("--engine", default="bt")
    ap.add_argument("--cpus", type=int, default=1, metavar="N", help="of each machine")
    ap.add_argument("--parts", default=",".join(PARTS), metavar="PART,...", help="of " + " ".join(PARTS))
    ap.add_argument("--small", action="store_true", help="a tenth of the bytes")
    ap.add_argument("--image", metavar="FILE", help="made by tools/make-image --ssh-key")
    ap.add_argument("--key", metavar="FILE", help="the secret half of that key")
    ap.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)  # the namespace of `tap`
    opts = ap.parse_args()
    opts.parts = opts.parts.split(",")
    for part in opts.parts:
        if part not in PARTS:
            ap.error(f"no part {part}: there are {' '.join(PARTS)}")
    if bool(opts.image) != bool(opts.key):
        ap.error("--image and --key belong together")
    return opts


def disk_image(opts):
    """Sets opts.key when it makes one."""
    if opts.image:
        for path in (opts.image, opts.key):
            if not os.access(path, os.R_OK):
                guest.skip_all(f"{path} cannot be read")
        return opts.image
    opts.key = os.path.join(guest.FILES, "ssh-key")
    if not os.path.exists(opts.key):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "ringer-test", "-f", opts.key], check=True,
                       timeout=60)
    image = os.path.join(guest.FILES, "soak-net.raw")
    guest.make_image(image, "--minimal", "--size", "2G", "--packages", "openssh-server,netcat-openbsd,iperf3,curl",
                     "--ssh-key", opts.key + ".pub")
    return image


def main():
    opts = options()
    score = guest.Score()
    if not shutil.which("ssh") or not shutil.which("ssh-keygen"):
        guest.skip_all("no ssh: run tools/setup-packages")
    os.makedirs(guest.FILES, exist_ok=True)
    image = disk_image(opts)
    with tempfile.TemporaryDirectory() as top:
        os.environ["XDG_RUNTIME_DIR"] = top  # where the switch's members meet
        why = guest.package("seabios", top)
        if why:
            guest.skip_all(f"no SeaBIOS: {why}")
        soak = Soak(opts, score, image, guest.seabios(top), top)
        for part in opts.parts:
            with guest.stage(score, part):
                getattr(soak, part)()
    score.end()


if __name__ == "__main__":
    main()
