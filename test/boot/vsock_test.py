#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""vsock with Debian's kernel: connections in both directions, with checksums, half-closed ones,
slow readers, refused ones, many at once."""
import hashlib
import os
import socket
import subprocess
import tempfile
import threading
import time

import guest
from guest import Guest, GuestError

MIB = 1 << 20
score = guest.Score()
check = score.check


def connect(path, port):
    """As Firecracker's users do: the connected socket, or None."""
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(30 * guest.slowness)
    s.connect(path)
    s.sendall(f"CONNECT {port}\n".encode())
    line = b""
    while not line.endswith(b"\n"):
        byte = s.recv(1)
        if not byte:
            s.close()
            return None
        line += byte
    return s if line.startswith(b"OK ") else None


def receive(s, digest=None, pause=0.0):
    total = 0
    while data := s.recv(65536):
        total += len(data)
        if digest:
            digest.update(data)
        if pause:
            time.sleep(pause)
            pause = 0
    return total


def echo(path, port, data, failures):
    """Send all, read all back at the same time, compare."""
    try:
        s = connect(path, port)
        if not s:
            raise OSError("refused")
        with s:
            thread = threading.Thread(target=lambda: (s.sendall(data), s.shutdown(socket.SHUT_WR)))
            thread.start()
            digest = hashlib.sha256()
            total = receive(s, digest, pause=0.5)
            thread.join(60)
            if digest.digest() != hashlib.sha256(data).digest():
                raise OSError(f"{total} bytes of {len(data)} came back, or others")
    except OSError as error:
        failures.append(str(error))


def wait_for(path, port):
    """The first connection that the guest takes."""
    for _ in range(50):
        if s := connect(path, port):
            return s
        time.sleep(0.2)
    return None


def from_host(g, path, size):
    g.send("guest-vsock echo 1000 100 </dev/null &\n")
    s = wait_for(path, 1000)
    if not check(s, "the guest's port takes a connection"):
        return
    s.close()
    begin, failures = time.monotonic(), []
    echo(path, 1000, os.urandom(size), failures)
    check(not failures, f"echo of {size} bytes: {failures}")
    score.note(f"echo of {size / MIB:.1f} MiB: {time.monotonic() - begin:.1f} s")
    threads = [threading.Thread(target=echo, args=(path, 1000, os.urandom(100_000 + i), failures))
               for i in range(40)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(120 * guest.slowness)
    check(not failures, f"40 connections at once: {failures}")
    check(connect(path, 9) is None, "a port of the guest's where nobody listens")
    for bad in (b"HELLO\n", b"CONNECT x\n", b"CONNECT 99999999999\n", b"CONNECT 1" + b"0" * 100):
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(30 * guest.slowness)
            s.connect(path)
            s.sendall(bad)
            try:
                check(s.recv(100) == b"", f"the greeting {bad[:20]}")
            except ConnectionResetError:
                check(True, "reset")
    # Ended by the host in the middle of a transfer: the guest's program is not left hanging.
    s = connect(path, 1000)
    s.sendall(bytes(100_000))
    s.close()
    failures.clear()
    echo(path, 1000, b"after a connection that was cut", failures)
    check(not failures, f"after a connection that was cut: {failures}")


def from_guest(g, path, size):
    data = os.urandom(size)
    got = hashlib.sha256()

    def serve(listener):
        c, _ = listener.accept()
        with c:
            time.sleep(1)  # the guest has to wait for us
            receive(c, got)
            c.sendall(data)  # half-closed: this way is still open

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{path}_5000")
        listener.listen(1)
        thread = threading.Thread(target=serve, args=(listener,), daemon=True)
        thread.start()
        g.sh(f"head -c {size} /dev/urandom > /tmp/data")
        want = g.sh("sha256sum < /tmp/data").split()[0]
        out = g.sh("guest-vsock connect 5000 < /tmp/data | sha256sum", 120)
        thread.join(30)
    check(got.hexdigest() == want, f"{size} bytes of the guest's")
    check(out.split()[0] == hashlib.sha256(data).hexdigest(), f"{size} bytes for the guest: {out}")
    out = g.sh("guest-vsock connect 5001 </dev/null", code=1)
    check("reset" in out, f"a port of the host's where nobody listens: {out}")


def case(files, engine, size, tmp):
    initrd = os.path.join(tmp, "vsock.cpio")
    path = os.path.join(tmp, f"{engine}.sock")
    subprocess.run([os.path.join(guest.TOOLS, "mkinitramfs"), "--modules",
                    "virtio_pci,vmw_vsock_virtio_transport,pvpanic-mmio,button,evdev", "--tree",
                    os.path.join(guest.FILES, "tree"), "--add",
                    os.path.join(guest.BUILD, "test/boot/guest-vsock") + ":/bin/guest-vsock",
                    initrd], check=True, stdout=subprocess.DEVNULL, timeout=300)
    with Guest(files, "--engine", engine, "--vsock", f"cid=42,path={path}", initrd=initrd,
               cmdline="quiet") as g:
        g.boot(180)
        check(os.stat(path).st_mode & 0o077 == 0, "the socket is the user's alone")
        g.script()
        from_guest(g, path, size)
        from_host(g, path, size)
        check(b"ringer: w" not in g.out and b"ringer: e" not in g.out, f"messages: {g.tail()}")
        g.send("poweroff -f\n")
        check(g.wait(60) == 0, "poweroff")


def main():
    files = guest.Files()
    with tempfile.TemporaryDirectory() as tmp:
        for engine, size in (("bt", 4 * MIB), ("interp", 200_000)):
            try:
                case(files, engine, size, tmp)
            except GuestError as error:
                check(False, str(error))
            score.note(engine)
    score.end()


main()
