# SPDX-License-Identifier: MIT
"""What is measured: the names that the guest programs print, in the order of the tables."""
import fnmatch

GROUPS = ("compute", "system", "nano", "boot")

# Kind decides which goal of the issue counts a workload in.
COMPUTE = {
    "sha256": ("int", "SHA-256 of 128 KiB"),
    "lz77": ("int", "LZ77 with a hash table, there and back, 128 KiB"),
    "tree+qsort": ("int", "binary tree and qsort, 4000 keys"),
    "bytecode": ("int", "loop of a bytecode interpreter"),
    "strings": ("int", "glibc's string functions, 64 KiB of text"),
    "recursion": ("int", "Fibonacci and Ackermann"),
    "core-mix": ("int", "lists, 16-bit matrices, state machine, CRC"),
    "matmul": ("fp", "product of 96x96 matrices of doubles"),
    "avx2": ("avx2", "saxpy, dot products of floats and bytes"),
}
SYSTEM = {
    "getpid": "system call that does nothing",
    "read+write": "1 byte from /dev/zero, 1 byte to /dev/null",
    "pipe": "1 byte to another process and back",
    "switch": "context switch, 8 processes in a ring of pipes",
    "fork+exit": "fork, exit, wait",
    "fork+exec": "fork, exec of a static busybox, wait",
    "mmap+touch": "map, touch and unmap 64 pages",
    "mprotect": "write fault, signal handler, two mprotect",
    "signal": "signal to oneself",
    "files": "create, stat, rename, unlink in a tmpfs",
}
NANO = {
    "syscall": "SYSCALL from ring 3 and SYSRET",
    "in": "read of port 0x80",
    "cr8wr": "write of CR8 (task priority)",
    "callret": "call and return",
    "pgfault": "page fault and IRET",
    "divzero": "divide error and IRET",
    "ptemod": "write of a page table entry, INVLPG, touch",
}
PROGRAM = {"compute": COMPUTE, "system": SYSTEM}
# These need a CPU model of QEMU that is slower for everything else.
NEEDS_AVX2 = ("avx2",)


def names(kind=None, group="compute"):
    if group != "compute":
        return list(SYSTEM if group == "system" else NANO)
    return [n for n, (k, _) in COMPUTE.items() if kind in (None, k)]


def group_of(name):
    return "compute" if name in COMPUTE else "system"


class Selection:
    """What --group and --only ask for. A pattern is a name or GROUP/NAME with * and ?."""

    def __init__(self, groups=None, only=None):
        patterns = [p for p in (only or "").split(",") if p]
        groups = [g for g in (groups or "").split(",") if g] or list(GROUPS)
        for g in groups:
            if g not in GROUPS:
                raise ValueError(f"no group {g}: there are {', '.join(GROUPS)}")

        def take(group, table):
            if group not in groups:
                return []
            return [n for n in table if not patterns or any(
                fnmatch.fnmatchcase(n, p) or fnmatch.fnmatchcase(f"{group}/{n}", p)
                for p in patterns)]

        self.program = [n for g, table in PROGRAM.items() for n in take(g, table)]
        self.nano = take("nano", NANO)
        self.boot = bool(take("boot", ["boot"]))
        self.all = not patterns and set(groups) == set(GROUPS)
        if not self.program and not self.nano and not self.boot:
            raise ValueError(f"nothing is called {only}: there are "
                             + ", ".join([*COMPUTE, *SYSTEM, *(f"nano/{n}" for n in NANO), "boot"]))
