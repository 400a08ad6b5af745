# SPDX-License-Identifier: MIT
"""Build and fetch what is run, and the command lines of the three ways to run it."""
import glob
import os
import re
import subprocess

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TOP = os.path.dirname(HERE)
CMDLINE = "console=ttyS0 panic=-1 mitigations=off"
MEMORY = "512M"
NANO_EXIT = 0x20  # nano.c writes it to port 0xf4
NANO_CODE = 2 * NANO_EXIT + 1

CFLAGS = ["-O2", "-std=gnu11", "-Wall", "-Wextra", "-Wno-missing-field-initializers"]
FREESTANDING = ["-ffreestanding", "-nostdlib", "-static", "-fno-pie", "-no-pie", "-mno-red-zone",
                "-mgeneral-regs-only", "-fno-stack-protector", "-fcf-protection=none",
                "-fno-asynchronous-unwind-tables", "-Wl,-Ttext-segment=0x200000,--build-id=none"]


class SetupError(Exception):
    pass


def sh(cmd, what, **kw):
    try:
        got = subprocess.run(cmd, capture_output=True, text=True, timeout=900, **kw)
    except (OSError, subprocess.TimeoutExpired) as e:
        raise SetupError(f"{what}: {e}") from e
    if got.returncode:
        raise SetupError(f"{what} failed: {(got.stderr or got.stdout).strip()[-1500:]}")
    return got.stdout


def compile_programs(work):
    """The workloads and the nanobenchmarks: paths of the program, the guest, its native part."""
    def src(folder, *names):
        return [os.path.join(HERE, folder, n) for n in names]

    os.makedirs(work, exist_ok=True)
    prog, guest, native = (os.path.join(work, n) for n in ("bench-guest", "nano", "nano-native"))
    sh(["gcc", *CFLAGS, "-static", "-o", prog, *sorted(glob.glob(os.path.join(HERE, "guest/*.c")))],
       "compiling bench/guest")
    sh(["gcc", *CFLAGS, *FREESTANDING, "-o", guest, *src("nano", "boot.S", "tests.S", "nano.c")],
       "compiling bench/nano")
    sh(["gcc", *CFLAGS, "-DNATIVE", "-o", native, *src("nano", "tests.S", "native.c")],
       "compiling bench/nano/native.c")
    return prog, guest, native


def from_cpio(path, name):
    """The contents of a file in an archive (newc)."""
    with open(path, "rb") as f:
        data = f.read()
    at = 0
    while data[at:at + 6] == b"070701":
        size, length = int(data[at + 54:at + 62], 16), int(data[at + 94:at + 102], 16)
        body = (at + 110 + length + 3) & ~3
        if data[at + 110:at + 110 + length - 1] == name.encode():
            return data[body:body + size]
        at = (body + size + 3) & ~3
    raise SetupError(f"{path} holds no {name}")


class Machines:
    """Where everything is, and how it is started."""

    def __init__(self, build, say=print, need_linux=True):
        build = os.path.abspath(build)
        self.work = os.path.join(build, "bench")
        self.ringer = os.path.join(build, "ringer")
        self.guest = os.path.abspath(os.environ.get("RINGER_GUEST") or
                                     os.path.join(build, "guest"))
        if not os.access(self.ringer, os.X_OK):
            raise SetupError(f"there is no {self.ringer}: run make first")
        self.prog, self.nano, self.nano_native = compile_programs(self.work)
        self.kernel = self.initrd = self.busybox = None
        if need_linux:
            self._linux(say)

    def _linux(self, say):
        vmlinuz = os.path.join(self.guest, "vmlinuz")
        if not os.path.exists(vmlinuz):
            say("bench: fetching the guest's kernel")
            os.makedirs(self.guest, exist_ok=True)
            sh([os.path.join(TOP, "tools/get-kernel"), self.guest], "tools/get-kernel")
        vmlinux = os.path.join(self.work, "vmlinux")
        if not os.path.exists(vmlinux) or \
                os.stat(vmlinux).st_mtime < os.stat(vmlinuz).st_mtime:
            sh([os.path.join(TOP, "tools/extract-vmlinux"), vmlinuz, vmlinux],
               "tools/extract-vmlinux")
        self.kernel = {"PVH": vmlinux, "bzImage": vmlinuz}
        self.initrd = os.path.join(self.work, "initramfs.cpio")
        sh([os.path.join(TOP, "tools/mkinitramfs"), "--init", os.path.join(HERE, "guest/init"),
            "--add", f"{self.prog}:/bench-guest", self.initrd], "tools/mkinitramfs")
        # The host runs the very same busybox.
        self.busybox = os.path.join(self.work, "busybox")
        with open(self.busybox + ".new", "wb") as f:
            f.write(from_cpio(self.initrd, "bin/busybox"))
        os.chmod(self.busybox + ".new", 0o755)
        os.rename(self.busybox + ".new", self.busybox)

    def engines(self):
        """Name -> whether it works here, as `ringer engines` says."""
        out = sh([self.ringer, "engines"], "ringer engines")
        return {m[1]: m[2] == "yes" for m in re.finditer(r"^(\w+)\s+(yes|no)\b", out, re.M)}

    def native(self, args):
        return [self.prog, *args, "--busybox", self.busybox]

    def ringer_linux(self, engine, args, proto="PVH", stats=False):
        return [self.ringer, "run", "-q", "--engine", engine, "-m", MEMORY, "--kernel",
                self.kernel[proto], "--initrd", self.initrd, "--no-reboot", "--cmdline",
                f"{CMDLINE} -- {' '.join(args)}", *(["--exit-stats"] if stats else [])]

    def tcg_linux(self, args, proto="PVH", avx2=False, shared=False):
        """`shared`: the guest's RAM in a memfd, to be told from QEMU's own memory."""
        ram = ["-object", f"memory-backend-memfd,id=ram,size={MEMORY}", "-machine",
               "memory-backend=ram"] if shared else []
        return [*tcg(avx2), "-m", MEMORY, *ram, "-kernel", self.kernel[proto], "-initrd",
                self.initrd, "-append", f"{CMDLINE} -- {' '.join(args)}"]

    def ringer_nano(self, engine):
        return [self.ringer, "run", "-q", "--engine", engine, "-m", "16M", "--kernel", self.nano,
                "--cmdline", "", "--debug-exit", "0xf4"]

    def tcg_nano(self):
        return [*tcg(), "-m", "16M", "-kernel", self.nano, "-device",
                "isa-debug-exit,iobase=0xf4,iosize=4"]


# Without AVX glibc takes its SSE2 functions, which TCG translates better. One thread: with one virtual CPU it
# uses a little less time than thread=multi.
CPU_FAST = "max,-avx,-avx2,-pcid,-x2apic,-la57"
CPU_AVX2 = "max,-pcid,-x2apic,-la57"


def tcg(avx2=False):
    return ["qemu-system-x86_64", "-accel", "tcg,tb-size=1024,thread=single", "-machine", "q35",
            "-cpu", CPU_AVX2 if avx2 else CPU_FAST, "-smp", "1", "-nodefaults", "-no-user-config",
            "-display", "none", "-serial", "stdio", "-no-reboot"]


def describe(m):
    """What the header of the results says about host and versions."""
    def out(*cmd):
        try:
            return subprocess.run(cmd, capture_output=True, text=True, timeout=20,
                                  cwd=TOP).stdout.strip()
        except (OSError, subprocess.TimeoutExpired):
            return ""

    with open("/proc/cpuinfo", encoding="utf-8") as f:
        cpu = next((line.split(":")[1].strip() for line in f if line.startswith("model name")), "?")
    commit = out("git", "rev-parse", "--short=10", "HEAD") or "unknown"
    if out("git", "status", "--porcelain", "--untracked-files=no", "--", ".", ":!bench/RESULTS.md",
           ":!bench/results.svg"):
        commit += " with changes"
    release = os.path.join(m.guest, "kernel-release")
    guest = "?"
    if os.path.exists(release):
        with open(release, encoding="ascii") as f:
            guest = f.read().strip()
    return {
        "cpu": f"{cpu}, {os.cpu_count()} CPUs",
        "host": f"Linux {os.uname().release}",
        "ringer": (out(m.ringer, "version").splitlines() or ["?"])[0],
        "qemu": (out("qemu-system-x86_64", "--version").splitlines() or ["none"])[0],
        "gcc": (out("gcc", "--version").splitlines() or ["?"])[0],
        "guest": f"Linux {guest}",
        "commit": commit,
    }
