# SPDX-License-Identifier: MIT
"""Read what guests, Ringer's --exit-stats and /proc/PID/smaps say."""
import re

INIT = "bench-init"
LAST = "bench-exit"
NANO_LAST = "nano-end"


class GuestOutput:
    """The lines of bench-guest. times: name -> (nanoseconds, iterations, operations, checksum)."""

    def __init__(self, lines):
        self.init = None  # seconds to the first line of the first process
        self.times = {}
        self.skipped = {}
        self.failed = {}
        self.running = None  # began and did not end
        self.complete = False
        self.guest_seconds = self.host_seconds = None
        begin = None
        for at, line in lines:
            word, _, rest = line.partition(" ")
            if word == INIT:
                self.init = at
            elif word == "bench-begin" and rest.isdigit():
                begin = at, int(rest)
            elif word == "bench-end" and rest.isdigit():
                self.complete = True
                if begin:
                    self.host_seconds = at - begin[0]
                    self.guest_seconds = (int(rest) - begin[1]) / 1e9
            elif word == "bench-start":
                self.running = rest
            elif word == "bench":
                self._time(rest)
            elif word in ("bench-skip", "bench-fail"):
                name, _, why = rest.partition(" ")
                (self.skipped if word == "bench-skip" else self.failed)[name] = why
                self.running = None

    def _time(self, rest):
        m = re.fullmatch(r"(\S+) (\d+) (\d+) (\d+) ([0-9a-f]+)", rest)
        if not m:
            return
        self.running = None
        if int(m[3]) and int(m[4]):
            self.times[m[1]] = int(m[2]), int(m[3]), int(m[4]), m[5]

    def clock_off(self):
        """How the guest's clock disagrees with the host's, or None. The host's includes delays of
        the lines that it is read by."""
        if self.guest_seconds is None:
            return None
        if abs(self.guest_seconds - self.host_seconds) <= 0.3 + 0.1 * self.host_seconds:
            return None
        return (f"the guest's clock counted {self.guest_seconds:.2f} s where the host's counted "
                f"{self.host_seconds:.2f} s")


def nano(lines):
    """(name -> cycles per operation, name -> what went wrong, whether it came to the end)."""
    cycles, failed, end = {}, {}, False
    for _, line in lines:
        w = line.split()
        if len(w) == 4 and w[0] == "nano" and w[2].isdigit() and w[3].isdigit() and int(w[3]):
            cycles[w[1]] = int(w[2]) / int(w[3])
        elif len(w) == 4 and w[0] == "nano-fail":
            failed[w[1]] = f"returned {w[3]} after {w[2]} turns"
        elif w and w[0] == NANO_LAST:
            end = True
    return cycles, failed, end


def nano_hz(lines):
    for _, line in lines:
        m = re.fullmatch(r"nano-hz (\d+)", line)
        if m:
            return int(m[1])
    return None


def exit_stats(text):
    """Name -> (number, unit) from lines of the form "name with blanks   NUMBER UNIT ...", in their order; of
    "code cache: N of M KiB, ..." both."""
    out = {}
    for line in text.splitlines():
        m = re.match(r"code cache: (\d+) of (\d+) (\w+)", line)
        if m:
            out["code cache used"] = float(m[1]), m[3]
            out["code cache size"] = float(m[2]), m[3]
            continue
        m = re.match(r"\s*([A-Za-z#][\w#+,/() -]*?):?\s+(\d+(?:\.\d+)?)(?![\w.])\s*(%|[A-Za-z]+)?", line)
        if m:
            out[m[1].strip()] = (float(m[2]), m[3] or "")
    return out


# What guest RAM is called: Ringer's memfd, and QEMU's for a backend of its class.
RAM = ("memfd:ringer-ram", "memfd:memory-backend-memfd")


def translator(counters):
    """What is about translations: the code cache, what stands behind it, and the cache's hit rate; empty when
    the engine has no code cache."""
    names = list(counters)
    if "code cache used" not in counters:
        return {}
    out = {n: counters[n] for n in names[names.index("code cache used"):]}
    asked = sum(counters.get(n, (0, ""))[0] for n in ("direct exits taken", "indirect look-ups"))
    made = counters.get("units translated", (0, ""))[0]
    if asked:
        out["found in the cache, of exits and look-ups"] = (max(0.0, 100 * (1 - made / asked)), "%")
    return out


def smaps(text):
    """(bytes of guest RAM, bytes of everything else) resident in a process.

    Guest RAM is one of the memfds of RAM, however often it is mapped. A page that a process maps twice
    counts twice in Rss and once in Pss, so Pss is taken for memory that is shared by nature (memfds:
    the translator's code), and Rss for the rest (Pss would give away a part of the C library)."""
    guest = other = 0
    name = ""
    pss = rss = 0

    def add():
        nonlocal guest, other
        if "memfd:" in name:
            if any(ram in name for ram in RAM):
                guest += pss
            else:
                other += pss
        else:
            other += rss

    for line in text.splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            add()
            name = " ".join(line.split()[5:])
            pss = rss = 0
        elif line.startswith("Rss:"):
            rss = int(line.split()[1]) * 1024
        elif line.startswith("Pss:"):
            pss = int(line.split()[1]) * 1024
    add()
    return guest, other
