#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The command line of the real program: every option's errors, the one line each prints, the
exit codes. Nothing here starts a guest.

usage: test_options.py RINGER
"""
import os
import re
import subprocess
import sys
import tempfile

ringer = os.path.abspath(sys.argv[1])
passed = failed = 0


def check(ok, what):
    global passed, failed
    if ok:
        passed += 1
    else:
        failed += 1
        print("failed: " + what)


def call(*args, cwd=None, stdout=subprocess.PIPE):
    return subprocess.run([ringer, *args], stdin=subprocess.DEVNULL, stdout=stdout,
                          stderr=subprocess.PIPE, timeout=20, cwd=cwd)


def refuses(args, *patterns, code=2):
    """One line on stderr that matches all patterns, nothing on stdout."""
    r = call(*args)
    err = r.stderr.decode()
    shown = f"ringer {' '.join(map(repr, args))}: code {r.returncode}, {err!r}"
    check(r.returncode == code and r.stdout == b"" and err.count("\n") == 1 and
          err.startswith("ringer: error: ") and len(err) < 500 and
          all(re.search(p, err) for p in patterns), shown)


def prints(args, *patterns):
    r = call(*args)
    out = r.stdout.decode()
    check(r.returncode == 0 and r.stderr == b"" and all(re.search(p, out, re.M) for p in patterns),
          f"ringer {' '.join(args)}: code {r.returncode}, {out!r} {r.stderr!r}")


# Commands.
refuses([], "command is missing", "for example")
refuses(["rum"], "rum", 'did you mean "ringer run"')
refuses(["frobnicate"], "frobnicate", "run, engines, version and help")
refuses([""], "unknown command")
refuses(["--kernel", "x"], "command is missing", "ringer run --kernel")
refuses(["--frob"], "--frob: unknown option")
refuses(["version", "x"], "x: ", "takes no more arguments")
refuses(["engines", "x"], "takes no more arguments")
refuses(["help", "nosuch"], "nosuch", "console, exit and trace")
refuses(["help", "run", "x"], "takes no more arguments")
prints(["version"], r"^ringer \d+\.\d+", "^engines:")
prints(["--version"], r"^ringer \d+\.\d+")
prints(["engines"], "^kvm ", "^bt ", "^interp ")
prints(["help"], "ringer run", "ringer engines")
prints(["--help"], "ringer run")
prints(["-h"], "ringer run")
prints(["help", "run"], "--kernel FILE", "-m, --memory SIZE", "--no-reboot")
prints(["run", "--help"], "--kernel FILE")
prints(["run", "-m", "1G", "-h"], "--kernel FILE")
prints(["help", "exit"], r"^  0 ", r"^  32 ", r"^  33 ", r"^  34 ")
prints(["help", "console"], r"Ctrl-\]", "^  q ")
prints(["help", "trace"], "-d in_asm", "--gdb")
with open("/dev/full", "wb") as full:
    r = call("help", stdout=full)
    check(r.returncode == 1 and b"cannot write" in r.stderr, f"help to a full disk: {r}")

# Each option: a bad value names the option, the value, what is accepted, and an example.
EXAMPLE = "for example: "
for size in ["", "x", "-5", "1.5G", "12Q", "1 G", "99999999999999999999", "0x100"]:
    refuses(["run", "-m", size], "^ringer: error: -m ", "not a size", EXAMPLE + "-m 512M")
for size in ["0", "1", "1M", "1025G", "2T", "1024k"]:
    refuses(["run", "-m", size], f"-m {size}: ", "from 2M to 1024G", EXAMPLE)
refuses(["run", "-m", "3M"], "-m 3M", "multiple of 2M", EXAMPLE)
refuses(["run", "--memory=7Q"], "-m 7Q", "not a size")
for n in ["0", "65", "-1", "two", "1.5", "", "4294967297", "18446744073709551617"]:
    refuses(["run", "-c", n], "^ringer: error: -c ", "from 1 to 64", EXAMPLE + "-c 2")
for e in ["", "qemu", "KVM"]:
    refuses(["run", "--engine", e], "--engine", "auto, kvm, bt and interp", EXAMPLE)
for c in ["", "pty", "file:", "tty1"]:
    refuses(["run", "--console", c], "--console", "tty, file:PATH or none", EXAMPLE)
for c in ["", "tty", "file:"]:
    refuses(["run", "--debugcon", c], "--debugcon", "file:PATH or stdio", EXAMPLE)
for p in ["", "x", "65536", "0x10000", "-1", "0x", "0", "0xfffd", "0xf4x"]:
    refuses(["run", "--debug-exit", p], "--debug-exit", "from 1 to 0xfffc", EXAMPLE)
for g in ["", "0", "65536", "unix:", "localhost:1"]:
    refuses(["run", "--gdb", g], "--gdb", "1 to 65535 or unix:PATH", EXAMPLE)
refuses(["run", "--gdb", "unix:/" + "x" * 107], "at most 107 bytes")
for n in ["", "a b", "a/b", "x" * 64]:
    refuses(["run", "--name", n], "--name", "1 to 63", EXAMPLE)
for n in ["", "users", "bridge", "user=1", "tap", "switch"]:
    refuses(["run", "--net", n], "--net", "user, tap=NAME, fd=N or switch=NAME", EXAMPLE)
for n, accepted in [("tap=", "1 to 15 characters"), ("tap=" + "x" * 16, "1 to 15 characters"),
                    ("tap=a/b", "1 to 15 characters"), ("fd=2", "open descriptor"),
                    ("fd=3:x", "open descriptor"), ("switch=", "1 to 31 letters"),
                    ("switch=../x", "1 to 31 letters"), ("switch=" + "x" * 32, "1 to 31 letters"),
                    ("user,mac=1", "six bytes"), ("user,mac=01:00:00:00:00:00", "six bytes"),
                    ("user,mac=00:00:00:00:00:00", "six bytes"),
                    ("user,mtu=67", "from 68 to 65520"), ("user,mtu=65521", "from 68 to 65520"),
                    ("user,net=10.0.2.1/24", "8 to 27 bits"), ("user,net=10.0.0.0/7", "8 to 27 bits"),
                    ("user,net=x", "8 to 27 bits"), ("user,dns=x", "names are looked up"),
                    ("user,hostname=a b", "letters, digits"), ("user,restrict=yes", "on or off"),
                    ("user,ipv6=", "on or off"), ("tap=t,queues=9", "from 1 to 8"),
                    ("tap=t,queues=0", "from 1 to 8")]:
    refuses(["run", "--net", n], "--net", accepted, EXAMPLE)
for f in ["", "22", "tcp:22", "tcp:0:22", "tcp:2222:65536", "icmp:1:2", "tcp:host:1:2", "tcp:1-2-3",
          "udp:1.2.3:4:5"]:
    refuses(["run", "--net", "user,hostfwd=" + f], "--net", "PORT:GUESTPORT", EXAMPLE)
refuses(["run", "--net", "user,hostfwd=tcp:1:2" + ",hostfwd=tcp:1:2" * 32], "32 times")
for n, key in [("user,queues=2", "queues"), ("tap=t,hostfwd=tcp:1:2", "hostfwd"),
               ("switch=s,dns=10.0.2.3", "dns"), ("user,x=1", "x"), ("user,,", "")]:
    refuses(["run", "--net", n], "--net", f'no setting "{key}"; there are', EXAMPLE)
refuses(["run", "--net", "user,dns=10.9.9.9"], "--net", "inside the network", EXAMPLE)
refuses(["run", "--net", "fd=3,queues=2"], "--net", "as many descriptors", EXAMPLE)
refuses(["run", *["--net", "user"] * 9], "--net", "8 network cards", EXAMPLE)
for v in ["cid=3", "path=/x", "cid=2,path=/x", "cid=x,path=/x", "cid=3,path=/" + "x" * 96, "cid=3,port=1"]:
    refuses(["run", "--vsock", v], "--vsock", EXAMPLE)
refuses(["run", "-d", "int,foo"], "-d int,foo", 'no trace category "foo"', "in_asm int mmu", EXAMPLE)
refuses(["run", "-d", ""], "-d", "trace categories are wanted")
refuses(["run", "-D", "f"], "-D f", "nothing is traced", EXAMPLE)
for o in ["--kernel", "--initrd", "-D"]:
    refuses(["run", o, ""], "name of a file is wanted", EXAMPLE)
for o in ["--kernel", "--initrd", "--cmdline", "-m", "-c", "--engine", "--console", "--name", "-d",
          "-D", "--gdb", "--debugcon", "--debug-exit", "--memory", "--cpus", "--trace"]:
    refuses(["run", o], f"{o}: an argument is missing", EXAMPLE)
for o in ["--no-reboot", "--exit-stats", "--testdev", "--no-sandbox", "--quiet", "--verbose"]:
    refuses(["run", o + "=1"], "takes no argument", EXAMPLE)
refuses(["run", "-q", "-v"], "exclude each other")
for n in ["", "0", "x", "20,", "20,x", "break=0", "-1", "20,exactly"]:
    refuses(["run", "--lockstep=" + n], "--lockstep", "millions of instructions", EXAMPLE)
LOCKSTEP = ["run", "--kernel", "/dev/null", "--lockstep=1", "--engine", "interp"]
refuses([*LOCKSTEP, "-c", "2"], "--lockstep", "one CPU", "-c 1")
refuses([*LOCKSTEP, "--gdb", "1234"], "--lockstep", "--gdb")

# Disks.
refuses(["run", "--disk", "x,format=vmdk"], "--disk", "format=vmdk", "raw or qcow2", "for example")
refuses(["run", "--disk", "x,colour=red"], "--disk", "no such key", "snapshot")
refuses(["run", "--disk", "x,offset=100"], "multiples of 512", "for example")
refuses(["run", "--disk", "x,reconnect=5"], "reconnect is for servers", "for example")
refuses(["run", "--disk", "ram:0"], "RAM disk", "for example")
refuses(["run", "--disk", "ram:8M,snapshot"], "RAM disk", "for example")
refuses(["run", "--disk", "x,queues=0"], "queues=0", "1 to 16")
refuses(["run", "--disk", "x,serial=123456789012345678901"], "20 characters", "for example")
refuses(["run", "--disk", "x,ro,snapshot"], "snapshot", "for example")

for d, says in [("x,size=0", "from 512 on"), ("x,size=-1", "from 512 on"), ("x,size=1Mx", "from 512 on"),
                ("x,size=16777216T", "K, M, G or T"), ("x,offset=1 M", "K, M, G or T"), ("", "wanted first"),
                ("x,queues=1x", "from 1 to 16"), ("x,queues=", "from 1 to 16"), ("x,queues", "from 1 to 16"),
                ("x,queues=18446744073709551617", "from 1 to 16"), ("x,ro=maybe", "on or off"),
                ("x,ro,ro", "given twice"), ("x,cache=writethrough", "writeback or none"),
                ("x,werror=retry", "report or stop"), ("x,serial=", "some text"),
                ("nbd://localhost/x,reconnect=3601", "from 0 to 3600"), ("ram:", "RAM disk"),
                ("ram:-5", "RAM disk"), ("ram:0x10", "RAM disk"), ("ram:99999999T", "RAM disk"),
                ("ram:8Mx", "RAM disk")]:
    refuses(["run", "--disk", d], "--disk", says, EXAMPLE)
refuses(["run", *["--disk", "x"] * 25], "--disk", "24 disks", EXAMPLE)

# Devices, shared folders, virtio sockets.
for d, says in [("", "rng, balloon, console and port"), ("rngx", "rng, balloon, console and port"),
                ("rng,foo", 'no such key: "foo"; there are: packed'), ("rng,packed=1", "on or off"),
                ("balloon,foo=1", "there are: amount, deflate-on-oom"), ("balloon,amount", "K, M, G or T"),
                ("balloon,amount=-1", "K, M, G or T"), ("balloon,amount=1x", "K, M, G or T"),
                ("balloon,amount=99999999999T", "K, M, G or T"), ("balloon,reporting=2", "on or off"),
                ("console,where=pipe:x", "unix:PATH"), ("console,where=", "some text"),
                ("console,where=file:", "unix:PATH"), ("console,where=file:" + "x" * 256, "255 bytes"),
                ("console,where=unix:" + "x" * 108, "of a socket 107"), ("console,foo=1", "no such key"),
                ("port,where=none", "needs a name"), ("port,name=" + "x" * 32, "at most 31 bytes"),
                ("port,name=a,name=b", "given twice")]:
    refuses(["run", "--device", d], "--device", says, EXAMPLE)
for amount in ["512M", "1G", "16777215T"]:
    refuses(["run", "--device", "balloon,amount=" + amount], "--device balloon,amount=",
            r"has 512M \(-m\)", EXAMPLE)
refuses(["run", "-m", "64M", "--device", "balloon,amount=64M"], r"has 64M \(-m\)", "amount=32M")
refuses(["run", *["--device", "rng"] * 40], "--device", "PCI slots", EXAMPLE)
refuses(["run", "--device", "console,where=tty"], "one console", "--console none")
for x, says in [("", "wanted first"), ("x", "a folder"), ("x=", "a folder"), ("=x", "a folder"),
                ("x" * 37 + "=/", "36 bytes"), ("x=/,rw", 'no such key: "rw"; there are: ro, locks'),
                ("x=/,ro=1", "on or off"), ("x=/,locks=maybe", "guest or host"),
                ("x=/,locks", "guest or host")]:
    refuses(["run", "--share", x], "--share", says, EXAMPLE)
refuses(["run", "--share", "x=/", "--share", "x=/tmp"], "--share", "another share has that tag", EXAMPLE)
for v, says in [("cid=3", "path="), ("path=/x", "cid="), ("cid=3x,path=/x", "from 3 to 4294967294"),
                ("cid=4294967295,path=/x", "from 3 to"), ("cid=3,path=/x,foo=1", 'no such key: "foo"'),
                ("cid=3,cid=4,path=/x", "given twice")]:
    refuses(["run", "--vsock", v], "--vsock", says, EXAMPLE)
for g in ["12x", "1234,wait,wait", "1234,nowait", "-1", "65536,wait"]:
    refuses(["run", "--gdb", g], "--gdb", "1 to 65535 or unix:PATH", EXAMPLE)
for n in ["64x", "1 ", " 1", "+1"]:
    refuses(["run", "-c", n], "-c ", "from 1 to 64", EXAMPLE)
for f in ["nosuch.bin", "/nonexistent/bios", "./nosuch"]:
    refuses(["run", "-q", "--firmware", f], f"firmware {f}: No such file", "check the path")
for extra in [["--kernel", "x"], ["--initrd", "x"], ["--cmdline", "x"]]:
    refuses(["run", "--firmware", "x", *extra], "--firmware", "leave out one side")

# Help and man page know the same options.
source = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
with open(os.path.join(source, "doc/ringer.1"), encoding="utf-8") as page:
    in_man = set(re.findall(r"Fl -([a-z][a-z-]+)", page.read()))
in_help = set(re.findall(r"--([a-z-]+)", call("help", "run").stdout.decode().split("Without")[0]))
check(len(in_help) > 15 and in_man == in_help,
      f"help and man page differ: {sorted(in_man ^ in_help)}")

# Misspelt and foreign options.
for given, meant in [("--kernal", "--kernel"), ("--initramfs", "--initrd"), ("-kernel", "--kernel"),
                     ("--mem", "--memory"), ("-smp", "--cpus"), ("-append", "--cmdline"),
                     ("--cmd-line=x", "--cmdline"), ("--noreboot", "--no-reboot"),
                     ("--exitstats", "--exit-stats"), ("--debug-con", "--debugcon")]:
    refuses(["run", given, "x"], f"{given.split('=')[0]}: unknown option", f"mean {meant}\\?")
refuses(["run", "--zzzzzzzz"], "--zzzzzzzz: unknown option; \"ringer help run\"")
refuses(["run", "vmlinuz"], "vmlinuz: ", "options only", "--kernel vmlinuz")
refuses(["run", "-"], "options only")

# An engine that this ringer does not have is named as such.
listing = call("engines").stdout.decode().splitlines()
for line in listing:
    if "not built" in line:
        refuses(["run", "--kernel", "x", "--engine", line.split()[0]], "not built into this ringer",
                "--engine auto")

# Without --kernel, where there is no guest: where it looked. A copy, for it looks beside itself.
with tempfile.TemporaryDirectory() as tmp:
    copy = os.path.join(tmp, "ringer")
    os.link(ringer, copy) if os.stat(ringer).st_dev == os.stat(tmp).st_dev else \
        subprocess.run(["cp", ringer, copy], check=True)
    r = subprocess.run([copy, "run"], cwd=tmp, stdin=subprocess.DEVNULL, capture_output=True)
    err = r.stderr.decode()
    check(r.returncode == 2 and f"{tmp}/guest" in err and "build/guest" in err and
          "make run" in err and err.count("\n") == 1, f"no guest: {r.returncode} {err!r}")

    # Files that cannot be made: exit code 2, before anything runs.
    if any(" yes " in line for line in listing):
        for opt, val in [("--console", "file:/nonexistent/x"), ("--debugcon", "file:/nonexistent/x"),
                         ("-D", "/nonexistent/x")]:
            refuses(["run", "-q", "--kernel", ringer, "-d", "int", opt, val],
                    f"{opt} /nonexistent/x: cannot open for writing: No such file")

print(f"{passed} passed, {failed} failed")
sys.exit(1 if failed else 0)
