#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Disk images, by the block layer that a VM uses (disktool), against what qemu-img says of them.

usage: test_disk.py DISKTOOL [CASE...]
"""
import concurrent.futures
import functools
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

MB = 1 << 20
LIMIT = 120
LONG = ("powerloss", "qcow2_refused", "qcow2_compressed", "kill")  # these begin
FULL = bool(os.environ.get("RINGER_FULL"))


class Failed(Exception):
    pass


class Skipped(Exception):
    pass


def run(*cmd, ok=(0,), text=True):
    p = subprocess.run([str(c) for c in cmd], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=text,
                       timeout=LIMIT)
    if ok is not None and p.returncode not in ok:
        raise Failed(f"{' '.join(map(str, cmd))}: code {p.returncode}\n{p.stdout}{p.stderr}")
    return p


class Test:
    def __init__(self, tool, folder):
        self.tool = tool
        self.dir = folder
        self.rnd = random.Random(20)

    def path(self, name):
        return os.path.join(self.dir, name)

    def noise(self, name, parts):
        """A file of pieces: (bytes, incompressible?)."""
        with open(self.path(name), "wb") as f:
            for n, hard in parts:
                f.write(self.rnd.randbytes(n) if hard else (b"%d " % n * n)[:n])
        return self.path(name)

    def create(self, name, size="16M", options="", backing=None):
        cmd = ["qemu-img", "create", "-q", "-f", "qcow2"]
        if options:
            cmd += ["-o", options]
        if backing:
            cmd += ["-b", backing[0], "-F", backing[1]]
        run(*cmd, self.path(name), size)
        return self.path(name)

    def check(self, path, leaks=False):
        """No errors; without `leaks` no leaked clusters either."""
        p = run("qemu-img", "check", "-f", "qcow2", path, ok=None)
        if p.returncode not in ((0, 3) if leaks else (0,)):
            raise Failed(f"qemu-img check: code {p.returncode}\n{p.stdout[-2000:]}{p.stderr}")

    def same(self, image, fmt, model):
        p = run("qemu-img", "compare", "-f", fmt, "-F", "raw", image, model, ok=None)
        if p.returncode:
            raise Failed(f"{image} is not what was written: {p.stdout}{p.stderr}")

    def exercise(self, spec, model, ops=800, ok=(0,)):
        return run(self.tool, "exercise", spec, model, self.rnd.randrange(1 << 30), ops, ok=ok)

    def roundtrip(self, spec, image, fmt, model=None, ops=800):
        if model is None:
            model = self.path("model")
            open(model, "wb").close()
        for _ in range(2):  # what one leaves the next one finds
            self.exercise(spec, model, ops)
        if fmt == "qcow2":
            self.check(image)
        self.same(image, fmt, model)

    def refused(self, spec, *words):
        p = run(self.tool, "open", spec, ok=None)
        if p.returncode != 1:
            raise Failed(f"{spec} was opened, or ended with code {p.returncode}: {p.stderr}")
        for w in words:
            if w not in p.stderr:
                raise Failed(f'{spec}: "{w}" is not in what was said:\n{p.stderr}')

    # ---- raw ----

    def case_raw(self):
        for mode in ("", ",pool", ",direct", ",direct,pool", ",direct,one", ",one"):
            img = self.path("raw" + mode.replace(",", "-"))
            run("truncate", "-s", "16M", img)
            self.roundtrip(img + mode, img, "raw")

    def case_odd_sizes(self):
        """A size that is no multiple of a page, or of a sector."""
        for size in (16 * MB - 512, 5 * MB + 1536 + 77):
            for mode in ("", ",direct"):
                img = self.path(f"odd{size}{mode[1:]}")
                run("truncate", "-s", size, img)
                self.exercise(img + mode, self.noise("m", [(0, True)]), 500)
                if os.path.getsize(img) != size:
                    raise Failed(f"{img} is {os.path.getsize(img)} bytes now, was {size}")

    def case_minidisks(self):
        """Parts of one image, written at the same time, stay within their bounds."""
        img = self.noise("parts", [(24 * MB, True)])
        before = open(img, "rb").read()
        procs, models = [], []
        for i, off in enumerate((1 * MB, 9 * MB)):
            m = self.path(f"part{i}")
            with open(m, "wb") as f:
                f.write(before[off:off + 8 * MB])
            models.append(m)
            procs.append(subprocess.Popen([self.tool, "exercise", f"{img},offset={off},size={8 * MB}",
                                           m, str(i + 1), "1500"]))
        codes = [p.wait(LIMIT) for p in procs]
        if codes != [0, 0]:
            raise Failed(f"codes {codes}")
        after = open(img, "rb").read()
        want = before[:MB] + open(models[0], "rb").read() + open(models[1], "rb").read() + before[17 * MB:]
        if after != want:
            raise Failed("the parts are not what was written, or something outside changed")
        self.refused(f"{img},offset={20 * MB},size={8 * MB}", "beyond its end")

    def case_ram(self):
        self.exercise(f"ram,ram={16 * MB}", self.noise("ram", [(0, True)]))

    def case_snapshot(self):
        """Reads and writes work, the image stays as it was."""
        img = self.noise("snap", [(16 * MB, True)])
        before = open(img, "rb").read()
        model = self.path("snap-model")
        shutil.copy(img, model)
        self.exercise(img + ",snapshot", model)
        if open(img, "rb").read() != before:
            raise Failed("the image changed")
        if open(model, "rb").read() == before:
            raise Failed("nothing was written at all")
        q = self.create("snap.qcow2")
        digest = open(q, "rb").read()
        self.exercise(q + ",snapshot", self.noise("snap-model2", [(0, True)]))
        if open(q, "rb").read() != digest:
            raise Failed("the qcow2 image changed")

    def case_locks(self):
        img = self.path("lock")
        run("truncate", "-s", "64M", img)
        log = self.path("lock-log")
        p = subprocess.Popen([self.tool, "crash", img, log, "1"])
        try:
            self.wait_for(lambda: os.path.exists(log) and os.path.getsize(log))
            self.refused(img, "in use by another VM", ",ro")
            self.refused(img + ",ro", "in use")
            self.refused(img + ",snapshot", "in use")
        finally:
            p.kill()
            p.wait()
        run(self.tool, "open", img)
        run(self.tool, "open", img + ",ro")

    def case_refused(self):
        self.refused(self.path("nothing"), "cannot open")
        self.refused(self.dir, "cannot open")
        open(self.path("empty"), "wb").close()
        self.refused(self.path("empty"), "empty")
        self.refused("/dev/null", "regular file or a block device")
        q = self.create("plain.qcow2")
        shutil.copy(q, self.path("disguised.img"))
        self.refused(self.path("disguised.img"), "format=qcow2")
        run("truncate", "-s", "1M", self.path("raw.qcow2"))
        self.refused(self.path("raw.qcow2"), "format=raw")
        if os.getuid():
            os.chmod(q, 0o444)
            self.refused(q, ",ro")

    # ---- qcow2 ----

    def case_qcow2_kinds(self):
        kinds = ["", "compat=0.10", "cluster_size=512", "cluster_size=2M", "refcount_bits=1,cluster_size=4k",
                 "refcount_bits=64,cluster_size=1k", "refcount_bits=8", "lazy_refcounts=on",
                 "preallocation=metadata"]
        for i, k in enumerate(kinds):
            q = self.create(f"kind{i}.qcow2", options=k)
            self.roundtrip(q + (",pool" if i % 2 else ""), q, "qcow2")

    def case_qcow2_direct(self):
        q = self.create("direct.qcow2")
        self.roundtrip(q + ",direct", q, "qcow2")
        # clusters of less than the host's unit: where the unit is small they work
        q = self.create("small.qcow2", options="cluster_size=512")
        p = run(self.tool, "open", q + ",direct", ok=None)
        if p.returncode:
            self.refused(q + ",direct", "cache=none")
        else:
            self.roundtrip(q + ",direct", q, "qcow2", ops=400)

    def case_qcow2_backing(self):
        base = self.noise("base.raw", [(5 * MB, True), (3 * MB, False), (MB + 512, True)])
        run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", base, self.path("base.qcow2"))
        digest = open(self.path("base.qcow2"), "rb").read()
        for i, (fmt, opt) in enumerate((("raw", ""), ("qcow2", ""), ("raw", "compat=0.10"),
                                        ("qcow2", "cluster_size=4k"))):
            q = self.create(f"over{i}.qcow2", options=opt, backing=("base." + fmt, fmt))
            model = self.path("model")
            shutil.copy(base, model)
            run("truncate", "-s", "16M", model)
            self.roundtrip(q, q, "qcow2", model)
        if open(self.path("base.qcow2"), "rb").read() != digest:
            raise Failed("the backing file changed")
        # a chain, by relative names from another folder
        os.makedirs(self.path("sub"), exist_ok=True)
        mid = self.create("sub/mid.qcow2", backing=("../base.qcow2", "qcow2"))
        top = self.create("sub/top.qcow2", backing=("mid.qcow2", "qcow2"))
        shutil.copy(base, self.path("model"))
        run("truncate", "-s", "16M", self.path("model"))
        self.roundtrip(top, top, "qcow2", self.path("model"))
        self.check(mid)

    def case_qcow2_bad_backing(self):
        base = self.path("b.raw")
        run("truncate", "-s", "16M", base)
        a, b = self.path("a.qcow2"), self.path("b.qcow2")
        self.create("a.qcow2")
        self.create("b.qcow2", backing=("a.qcow2", "qcow2"))
        run("qemu-img", "rebase", "-u", "-b", "b.qcow2", "-F", "qcow2", a)
        self.refused(a, "its own backing file")
        run("qemu-img", "rebase", "-u", "-b", "gone.raw", "-F", "raw", a)
        self.refused(a, "gone.raw", "No such file")
        run("qemu-img", "rebase", "-u", "-b", "nbd://localhost/", "-F", "raw", a)
        self.refused(a, "not a plain file")
        # an image made by an old qemu-img states no format: found out by whoever looks into it
        self.create("c.qcow2", backing=("b.raw", "raw"))
        c = self.path("c.qcow2")
        data = bytearray(open(c, "rb").read())
        at = data.index(bytes.fromhex("e2792aca"))
        data[at:at + 4] = b"\x12\x34\x56\x78"
        open(c, "wb").write(data)
        self.refused(c, "not stated", "rebase")
        # a chain that is too long
        prev = "b.raw"
        for i in range(35):
            name = f"chain{i}.qcow2"
            run("qemu-img", "create", "-q", "-u", "-f", "qcow2", "-b", prev, "-F",
                "raw" if i == 0 else "qcow2", self.path(name), "16M")
            prev = name
        self.refused(self.path("chain34.qcow2"), "more than")
        run(self.tool, "open", self.path("chain25.qcow2"))

    def case_qcow2_compressed(self):
        for kind in ("zlib", "zstd"):
            for cluster in ("64k", "4k"):
                src = self.noise("c.raw", [(MB, False), (2 * MB + 4096, True), (9 * MB, False), (4 * MB - 4096, True)])
                q = self.path(f"c-{kind}-{cluster}.qcow2")
                run("qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", "-o",
                    f"compression_type={kind},cluster_size={cluster}", src, q)
                self.same_dump(q, src)
                self.roundtrip(q, q, "qcow2", src)

    def same_dump(self, spec, model):
        out = self.path("dump")
        run(self.tool, "dump", spec, out)
        run("cmp", out, model)

    def case_qcow2_refused(self):
        q = self.create("snapped.qcow2")
        run("qemu-img", "snapshot", "-c", "one", q)
        self.refused(q, "internal snapshots")
        run("qemu-img", "snapshot", "-d", "one", q)
        self.roundtrip(q, q, "qcow2")
        self.refused(self.create("ext.qcow2", options="extended_l2=on"), "subclusters")
        self.refused(self.create("df.qcow2", options=f"data_file={self.path('df.raw')}"), "another file")
        run("qemu-img", "create", "-q", "-f", "qcow2", "--object", "secret,id=s,data=abc", "-o",
            "encrypt.format=aes,encrypt.key-secret=s", self.path("enc.qcow2"), "1M")
        self.refused(self.path("enc.qcow2"), "encrypted")
        # LUKS has another number there; qemu-img takes seconds to make its keys.
        with open(self.path("enc.qcow2"), "r+b") as f:
            f.seek(32)
            f.write((2).to_bytes(4, "big"))
        self.refused(self.path("enc.qcow2"), "encrypted")
        for bit, word in ((0, "dirty"), (1, "corrupt"), (40, "does not know")):
            q = self.create(f"bit{bit}.qcow2")
            data = bytearray(open(q, "rb").read())
            value = int.from_bytes(data[72:80], "big") | 1 << bit
            data[72:80] = value.to_bytes(8, "big")
            open(q, "wb").write(data)
            self.refused(q, word)
            if bit < 2:
                run(self.tool, "open", q + ",ro")
            else:
                self.refused(q + ",ro", word)
            if open(q, "rb").read() != data:
                raise Failed(f"{q} was written")

    def case_qcow2_overlap(self):
        """Tables that share clusters are refused; data that lies in tables is never written."""
        q = self.create("overlap.qcow2")
        run("qemu-io", "-f", "qcow2", "-c", "write -P 7 0 1M", q)
        good = bytearray(open(q, "rb").read())
        l1 = int.from_bytes(good[40:48], "big")
        l2 = int.from_bytes(good[l1:l1 + 8], "big") & 0x00fffffffffffe00
        bad = bytearray(good)  # the L1 entry names the L1 table
        bad[l1:l1 + 8] = (l1 | 1 << 63).to_bytes(8, "big")
        open(q, "wb").write(bad)
        self.refused(q, "overlap")
        for where in (l1, l2, 0x10000, 1 << 50):  # an L2 entry names a table, or nothing
            bad = bytearray(good)
            bad[l2:l2 + 8] = (where | 1 << 63).to_bytes(8, "big")
            open(q, "wb").write(bad)
            p = self.exercise(q, self.noise("m", [(0, True)]), 300, ok=(1,))
            if "corrupt" not in p.stderr:
                raise Failed(f"not seen as corrupt: {p.stderr[-500:]}")
            now = open(q, "rb").read()
            if now[l1:l1 + 0x10000] != bad[l1:l1 + 0x10000] or now[:0x10000] != bad[:0x10000]:
                raise Failed("a table was overwritten")

    def case_qcow2_grow(self):
        """More refcount blocks than the table has room for: the table moves."""
        q = self.create("grow.qcow2", size="64M", options="cluster_size=512")
        model = self.noise("m", [(0, True)])
        run("truncate", "-s", "64M", model)
        self.exercise(q, model, 12000)
        self.check(q)
        self.same(q, "qcow2", model)
        with open(q, "rb") as f:
            f.seek(56)
            clusters = int.from_bytes(f.read(4), "big")
        if clusters < 2:
            raise Failed(f"the table did not grow: {os.path.getsize(q)} bytes, {clusters} cluster")

    # ---- crashes ----

    @staticmethod
    def wait_for(cond, seconds=60):
        end = time.monotonic() + seconds
        while not cond():
            if time.monotonic() > end:
                raise Failed("nothing happened")
            time.sleep(0.01)

    def kill_rounds(self, spec, image, fmt, rounds):
        log = self.path("crash-log")
        if os.path.exists(log):
            os.unlink(log)
        flushed = 0
        for i in range(rounds):
            if os.path.exists(log):
                os.unlink(log)
            seed = str(1000 + i)
            p = subprocess.Popen([self.tool, "crash", spec, log, seed])
            self.wait_for(lambda: os.path.exists(log) and os.path.getsize(log))
            time.sleep(self.rnd.random() * 0.25)
            p.send_signal(signal.SIGKILL)
            p.wait()
            for _ in range(10):  # the kernel still flushes for the dead process, and has its lock
                out = run(self.tool, "verify", spec, log, seed, ok=None)
                if "in use" not in out.stderr:
                    break
            if out.returncode:
                raise Failed(f"round {i}: {out.stderr}")
            flushed += int(out.stdout)
            if fmt == "qcow2":
                self.check(image, leaks=True)
            # the next round starts with an empty disk: blocks have no history
            os.unlink(image)
            if fmt == "qcow2":
                self.create(os.path.basename(image), size="64M")
            else:
                run("truncate", "-s", "64M", image)
        if flushed < rounds * 96:
            raise Failed(f"only {flushed} writes were flushed in {rounds} rounds")

    def case_kill(self):
        rounds = 50 if FULL else 6
        q = self.create("kill.qcow2", size="64M")
        self.kill_rounds(q, q, "qcow2", rounds)
        raw = self.path("kill.raw")
        run("truncate", "-s", "64M", raw)
        self.kill_rounds(raw, raw, "raw", 2)

    def case_powerloss(self):
        """After any part of what was not flushed is lost: no errors, and all that was flushed."""
        cuts = 0
        kinds = ("cluster_size=4k", "cluster_size=512,refcount_bits=1", "cluster_size=64k", "compat=0.10,cluster_size=1k")
        for n, opt in enumerate(kinds * (10 if FULL else 1)):
            base = self.create("pl-base.qcow2", size="6M", options=opt)
            out = run(self.tool, "powerloss", self.path("pl.qcow2"), base, n + 1, 2000 if FULL else 300)
            cuts += int(out.stdout)
        src = self.noise("pl.raw", [(2 * MB, False), (4 * MB, False)])
        base = self.path("pl-comp.qcow2")
        run("qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", "-o", "cluster_size=4k", src, base)
        cuts += int(run(self.tool, "powerloss", self.path("pl.qcow2"), base, 77, 300).stdout)
        if cuts < 15:
            raise Failed(f"only {cuts} power failures")

    # ---- nbd ----

    def serve(self, *args):
        sock = self.path("nbd.sock")
        if os.path.exists(sock):
            os.unlink(sock)
        p = subprocess.Popen(["qemu-nbd", "-k", sock, "-e", "4", "-t", *args])
        self.wait_for(lambda: os.path.exists(sock))
        return p, "nbd+unix:///?socket=" + sock

    def case_nbd(self):
        if not shutil.which("qemu-nbd"):
            raise Skipped("no qemu-nbd; tools/setup-packages installs it")
        img = self.path("nbd.raw")
        run("truncate", "-s", "16M", img)
        p, uri = self.serve("-f", "raw", "--discard=unmap", img)
        try:
            model = self.noise("model", [(0, True)])
            for _ in range(2):
                self.exercise(uri, model)
        finally:
            p.terminate()
            p.wait()
        self.same(img, "raw", self.path("model"))
        q = self.create("nbd.qcow2", size="16M")
        run("truncate", "-s", "20M", q)
        p, uri = self.serve("-f", "raw", q)
        try:
            model = self.noise("m", [(0, True)])
            self.exercise(uri + ",qcow2", model)
        finally:
            p.terminate()
            p.wait()
        self.check(q)
        self.same(q, "qcow2", model)

    def lost_for_long(self, img):
        """It is waited for, but not for ever."""
        p, uri = self.serve("-f", "raw", img)
        log = self.path("long-log")
        t = subprocess.Popen([self.tool, "crash", uri + ",reconnect=1", log, "5"], stderr=subprocess.PIPE, text=True)
        try:
            self.wait_for(lambda: os.path.exists(log) and os.path.getsize(log))
        finally:
            p.kill()
            p.wait()
        err = t.communicate(timeout=60)[1]
        if t.returncode != 1 or "requests wait for it, up to 1 s" not in err:
            raise Failed(f"code {t.returncode}: {err}")

    def case_nbd_again(self):
        """The server ends and comes back, again and again: nothing is lost, and nobody sees an error."""
        if not shutil.which("qemu-nbd"):
            raise Skipped("no qemu-nbd; tools/setup-packages installs it")
        img, model = self.path("again.raw"), self.path("model")
        run("truncate", "-s", "16M", img)
        open(model, "wb").close()
        p, uri = self.serve("-f", "raw", "--discard=unmap", img)
        with open(self.path("err"), "w+", encoding="utf-8") as err:
            t = subprocess.Popen([self.tool, "exercise", uri + ",reconnect=60", model, "3", "12000"], stderr=err)
            try:
                for n in range(8 if FULL else 3):
                    time.sleep(0.2 + self.rnd.random() * 0.3)
                    p.kill()
                    p.wait()
                    if n == 1:  # what comes back first is another disk
                        run("truncate", "-s", "8M", self.path("other"))
                        p, _ = self.serve("-f", "raw", self.path("other"))
                        self.wait_for(lambda: "its disk has another size" in open(err.name, encoding="utf-8").read())
                        p.kill()
                        p.wait()
                    p, _ = self.serve("-f", "raw", "--discard=unmap", img)
                    self.wait_for(lambda n=n: open(err.name, encoding="utf-8").read().count(" again after ") > n)
                code = t.wait(LIMIT)
            finally:
                t.kill()
                t.wait()
                p.terminate()
                p.wait()
            err.seek(0)
            said = err.read()
        if code or "requests wait for it" not in said:
            raise Failed(f"code {code}: {said}")
        self.same(img, "raw", model)

    def case_nbd_lost(self):
        """The server goes away: errors and a message, no hang."""
        if not shutil.which("qemu-nbd"):
            raise Skipped("no qemu-nbd; tools/setup-packages installs it")
        self.refused("nbd+unix:///?socket=" + self.path("nobody.sock"), "cannot connect")
        img = self.path("lost.raw")
        run("truncate", "-s", "64M", img)
        p, uri = self.serve("-f", "raw", img)
        log = self.path("lost-log")
        t = subprocess.Popen([self.tool, "crash", uri, log, "5"], stderr=subprocess.PIPE, text=True)
        try:
            self.wait_for(lambda: os.path.exists(log) and os.path.getsize(log))
        finally:
            p.kill()
            p.wait()
        err = t.communicate(timeout=30)[1]
        if t.returncode != 1 or "connection to the server lost" not in err:
            raise Failed(f"code {t.returncode}: {err}")
        self.lost_for_long(img)
        p, uri = self.serve("-r", "-f", "raw", img)
        try:
            self.refused(uri, "for reading only")
            run(self.tool, "open", uri + ",ro")
        finally:
            p.terminate()
            p.wait()


def run_case(tool, name):
    """Its verdict, and the line that says it."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="ringer-disk-", dir="/var/tmp") as folder:
        try:
            getattr(Test(tool, folder), "case_" + name)()
            return "ok", f"{name} {time.monotonic() - start:.1f} s"
        except Skipped as e:
            return "skip:", f"{name}: {e}"
        except (Failed, subprocess.TimeoutExpired, OSError) as e:
            return "FAILED", f"{name}: {e}"


def main():
    if len(sys.argv) < 2:
        print(__doc__, file=sys.stderr)
        return 2
    if not shutil.which("qemu-img"):
        print("skip: no qemu-img; tools/setup-packages installs it\n0 passed, 0 failed, 1 skipped")
        return 0
    names = sys.argv[2:] or [n[5:] for n in dir(Test) if n.startswith("case_")]
    names.sort(key=lambda n: n not in LONG)
    passed = failed = skipped = 0
    # They wait for the disk more than they compute.
    with concurrent.futures.ThreadPoolExecutor(min(os.cpu_count() or 1, 4) + 1) as pool:
        for verdict, text in pool.map(functools.partial(run_case, os.path.abspath(sys.argv[1])), names):
            passed += verdict == "ok"
            failed += verdict == "FAILED"
            skipped += verdict == "skip:"
            print(verdict, text, flush=True)
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return failed != 0


if __name__ == "__main__":
    sys.exit(main())
