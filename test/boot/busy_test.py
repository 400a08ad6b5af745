#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""A guest that never rests stays in the user's hands: menu, pause, registers, power button, signals,
quit, and after each the guest goes on as if nothing had been.

usage: busy_test.py
"""
import signal
import sys
import time

from guest import MENU, PROMPT, Files, Guest, GuestError, Score, slowness, stage

score = Score()
check = score.check
files = Files()

# Loops of different kinds: the shell's own, a program that makes no system call, more of them than
# there are CPUs, system calls without end, new processes without end.
LOOPS = {
    "while true": "while true; do :; done",
    "spin": "probe spin 1",
    "spin on all CPUs": "probe spin 5",
    "system calls": "dd if=/dev/zero of=/dev/null bs=1",
    "processes": "while true; do /bin/true; done",
}


def quickly(seconds, begin, what):
    took = time.monotonic() - begin
    check(took < seconds * slowness, f"{what}: took {took:.2f} s")
    return took


def menu(g, what):
    begin = time.monotonic()
    g.send(MENU + b"h")
    g.expect("q +quit", 10)
    worst = quickly(1, begin, f"{what}: help")
    begin = time.monotonic()
    g.send(MENU + b"r")
    m = g.expect(rb"(?s)vCPU 0: .*?rip ([0-9a-f]{16}).*?rflags ([0-9a-f]+)", 10)
    worst = max(worst, quickly(1, begin, f"{what}: registers"))
    check(int(m[2], 16) & 2, f"{what}: RFLAGS {m[2]}")
    begin = time.monotonic()
    g.send(MENU + b"i")
    g.expect("(?s)exit reason.*lapic 0", 10)
    worst = max(worst, quickly(1, begin, f"{what}: info"))
    begin = time.monotonic()
    g.send(MENU + b"s")
    g.expect("paused", 10)
    worst = max(worst, quickly(1, begin, f"{what}: pause"))
    used = g.cpu_seconds()
    g.pump(1)
    check(g.cpu_seconds() - used < 0.2, f"{what}: {g.cpu_seconds() - used:.2f} s of work in a pause")
    g.send(MENU + b"r")
    one = g.expect(rb"(?s)vCPU 0: .*?rip ([0-9a-f]{16})", 10)[1]
    g.send(MENU + b"r")
    check(g.expect(rb"(?s)vCPU 0: .*?rip ([0-9a-f]{16})", 10)[1] == one, f"{what}: it moves in a pause")
    g.send(MENU + b"s")
    g.expect("going on", 10)
    used = g.cpu_seconds()
    g.pump(1)
    check(g.cpu_seconds() - used > 0.5 / slowness, f"{what}: it does not go on after a pause")
    return worst


def interrupt(g):
    """Ctrl-C in the guest until its shell has it: a loop of new processes goes on when the signal comes to one
    that has ended already, with busybox's shell one in three."""
    for _ in range(20):
        g.send("\x03")
        try:
            g.expect(PROMPT, 5)
            return
        except GuestError:
            pass
    g.expect(PROMPT)


def case_loops(cpus):
    with Guest(files, cpus=cpus, cmdline="quiet") as g:
        g.boot()
        for name, command in list(LOOPS.items())[:2 if cpus == 1 else None]:
            what = f"{name}, {cpus} CPUs"
            g.send(command + "\r")
            g.pump(0.7)
            worst = menu(g, what)
            interrupt(g)
            g.send("echo $((9 * 11))\r")
            g.expect(rb"\n99\r\n")
            score.note(f"{what}: the menu took {worst * 1000:.0f} ms at most")
        # Output without end, and nobody reads it for a while.
        g.send("yes all work and no play\r")
        g.pump(0.5)
        time.sleep(2)
        begin = time.monotonic()
        g.send(MENU + b"s")
        g.expect("paused", 20)
        quickly(3, begin, "output without end: pause")
        g.pump(0.3)
        mark = len(g.out)
        g.pump(0.7)
        check(len(g.out) == mark, f"output without end goes on in a pause: {g.out[mark:][:100]!r}")
        g.send(MENU + b"s")
        g.pump(0.5)
        g.send("\x03")
        g.expect(PROMPT, 60)
        g.send("probe spin 3\r")
        g.pump(0.5)
        begin = time.monotonic()
        g.send(MENU + b"q")
        check(g.wait(20) == 130, f"quit: code {g.proc.returncode}")
        quickly(2, begin, "quit")
        check(g.restored(), "quit: the terminal is not restored")


def case_ends():
    """SIGTERM and the power button, with the guest at work."""
    with Guest(files, cpus=2, cmdline="quiet") as g:
        g.boot()
        g.send("(probe spin 3 &)\r")
        g.expect(PROMPT)
        g.send(MENU + b"p")
        check(g.wait(60) == 0, f"power button: code {g.proc.returncode}; {g.tail(300)}")
    with Guest(files, cpus=2, cmdline="quiet") as g:
        # While it boots: interrupts off, real mode, whatever it is.
        for delay in [0.05, 0.3, 0.3, 0.3, 0.5, 1]:
            g.pump(delay)
            g.send(MENU + b"r")
            g.expect("vCPU 1: ", 20)
        g.proc.send_signal(signal.SIGTERM)
        check(g.wait(20) == 143, f"SIGTERM: code {g.proc.returncode}")
        check(g.restored(), "SIGTERM: the terminal is not restored")
    # Interrupts are off for good, as in a hung kernel.
    with Guest(files, cpus=1, cmdline="quiet panic=0") as g:
        g.boot()
        g.send("rmmod pvpanic_mmio; rmmod pvpanic; echo c > /proc/sysrq-trigger\r")
        g.pump(3)
        g.send(MENU + b"r")
        m = g.expect(rb"(?s)vCPU 0: .*?rflags ([0-9a-f]+)", 20)
        score.note(f"after a panic without pvpanic: RFLAGS {m[1].decode()}")
        check(g.proc.poll() is None, f"it ended: {g.proc.returncode}")
        check(g.quit() == 130, f"quit from a hung kernel: {g.proc.returncode}")


def main():
    score.note(f"this machine is slow by {slowness:.1f}")
    for name, run, args in [("1 CPU", case_loops, [1]), ("2 CPUs", case_loops, [2]),
                            ("ends", case_ends, [])]:
        with stage(score, name):
            run(*args)
    score.end()


if __name__ == "__main__":
    try:
        main()
    except GuestError as error:
        sys.exit(str(error))
