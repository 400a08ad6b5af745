#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The test runner counts right and can fail; the package tool asks, installs and refuses as
it should (with stand-ins for dpkg-query, apt-get, sudo and id)."""
import importlib.machinery
import importlib.util
import os
import subprocess
import sys
import tempfile

source = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
passed = failed = 0


def check(ok, what):
    global passed, failed
    if ok:
        passed += 1
    else:
        failed += 1
        print("failed: " + what)


def load(path):
    loader = importlib.machinery.SourceFileLoader("run_tests", path)
    sys.dont_write_bytecode = True
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("run_tests", loader))
    loader.exec_module(module)
    return module


def runner_counts():
    runner = load(os.path.join(source, "tools/run-tests"))
    cases = [
        # output, exit code -> passed, failed, skipped
        (b"7 passed, 0 failed\n", 0, (7, 0, 0)),
        (b"noise\n1 passed, 0 failed\n5 passed, 0 failed, 0 skipped\n", 0, (5, 0, 0)),
        (b"skip: no such CPU\n5 passed, 0 failed, 2 skipped\n", 0, (5, 0, 2)),
        (b"5 passed, 0 failed, 2 skipped\n", 0, (5, 1, 2)),  # without a reason
        (b"3 passed, 2 failed\n", 1, (3, 2, 0)),
        (b"3 passed, 2 failed\n", 0, (3, 2, 0)),
        (b"3 passed, 0 failed\n", 1, (3, 1, 0)),
        (b"3 passed, 0 failed\n", -11, (3, 1, 0)),
        (b"", 0, (0, 1, 0)),
        (b"all is well\n", 0, (0, 1, 0)),
        (b"", 127, (0, 1, 0)),
        (b"skip: not here\n", 77, (0, 0, 1)),
        (b"", 77, (0, 1, 1)),
        (b"1..3\nok 1 - a\nok 2 - b\nok 3 - c\n", 0, (3, 0, 0)),
        (b"1..3\nok 1 - a\nnot ok 2 - b\nok 3 - c\n", 1, (2, 1, 0)),
        (b"1..3\nok 1 - a\nok 2 - b\n", 0, (2, 1, 0)),
        (b"1..3\nok 1 - a\nok 2 - b\n", -6, (2, 1, 0)),
        (b"1..2\nok 1 - a\nnot ok 2 # SKIP no seccomp\n", 0, (1, 0, 1)),
        (b"1..1\nok 1 - a\n1..2\nok 1 - a\nok 2 - b\n", 0, (3, 0, 0)),
    ]
    for out, rc, want in cases:
        res = runner.Result()
        runner.count(res, out, rc, False, 0)
        got = (res.passed, res.failed, res.skipped)
        check(got == want, f"the runner on {out!r}, code {rc}: {got}, not {want}")
    res = runner.Result()
    runner.count(res, b"3 passed, 0 failed\n", -9, True, 5)
    check(res.failed == 1, "the runner on a suite over its time limit")


PACKAGES = """\
build  alpha  is needed to build
test   beta   is needed to test
test   gamma  too
"""


class World:
    """A copy of the tool among stand-ins that log what they are asked."""

    def __init__(self, tmp, installed, uid, sudo):
        self.tmp = tmp
        self.log = os.path.join(tmp, "log")
        bin_dir = os.path.join(tmp, "bin")
        for d in ["bin", "tools"]:
            os.makedirs(os.path.join(tmp, d), exist_ok=True)
        with open(os.path.join(tmp, "packages.txt"), "w", encoding="ascii") as f:
            f.write(PACKAGES)
        with open(os.path.join(source, "tools/setup-packages"), encoding="utf-8") as f:
            self.put("tools/setup-packages", f.read())
        self.put("bin/id", f"#!/bin/sh\necho {uid}\n")
        names = " ".join(installed) or "-"
        self.put("bin/dpkg-query", '#!/bin/sh\nfor p in "$@"; do case $p in -*) continue;; esac\n'
                 f'for i in {names}; do [ "$i" = "$p" ] && echo "install ok installed"; done; done\n'
                 "exit 0\n")
        self.put("bin/apt-get", '#!/bin/sh\necho "apt-get $DEBIAN_FRONTEND $*" >>"$LOG"\n'
                 'case "$*" in *install*) [ -f "$LOG.broken" ] && exit 100;; esac\nexit 0\n')
        self.put("bin/apt-cache", '#!/bin/sh\n[ -f "$LOG.known" ] && exit 0\nexit 100\n')
        if sudo == "free":
            self.put("bin/sudo", '#!/bin/sh\n[ "$1" = -n ] && shift\necho "sudo $1" >>"$LOG"\n'
                     'exec "$@"\n')
        elif sudo == "asks":
            self.put("bin/sudo", '#!/bin/sh\n[ "$1" = -n ] && exit 1\nexec "$@"\n')
        for tool in ["sh", "dirname", "awk", "sed", "mktemp", "rm", "env", "true", "cat"]:
            path = next(p for p in (f"/usr/bin/{tool}", f"/bin/{tool}") if os.path.exists(p))
            os.symlink(path, os.path.join(bin_dir, tool))

    def put(self, name, text):
        path = os.path.join(self.tmp, name)
        with open(path, "w", encoding="utf-8") as f:
            f.write(text)
        os.chmod(path, 0o755)

    def run(self, *groups):
        env = {"PATH": os.path.join(self.tmp, "bin"), "LOG": self.log}
        r = subprocess.run([os.path.join(self.tmp, "tools/setup-packages"), *groups], env=env,
                           stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20)
        try:
            with open(self.log, encoding="utf-8") as f:
                log = f.read()
        except FileNotFoundError:
            log = ""
        return r, log


def package_tool():
    def world(**kw):
        return World(tempfile.mkdtemp(dir=top), **{"installed": [], "uid": 0, "sudo": None, **kw})

    with tempfile.TemporaryDirectory() as top:
        r, log = world(installed=["alpha", "beta", "gamma"]).run("build", "test")
        check(r.returncode == 0 and not r.stdout and not r.stderr and not log,
              f"nothing missing: {r} {log}")
        r, log = world(installed=["beta"]).run("build", "test")
        check(r.returncode == 0 and "alpha" in r.stdout and "is needed to build" in r.stdout and
              "beta" not in r.stdout.split("apt-get")[0] and
              "noninteractive" in log and "--no-install-recommends alpha gamma" in log and
              log.index("update") < log.index("install"), f"as root: {r} {log}")
        w = world()
        with open(w.log + ".known", "w", encoding="ascii"):
            pass
        r, log = w.run("build")
        check(r.returncode == 0 and "update" not in log and "install" in log,
              f"lists are there: {r} {log}")
        w = world()
        for flag in [".known", ".broken"]:
            with open(w.log + flag, "w", encoding="ascii"):
                pass
        r, log = w.run("build")
        check(r.returncode == 1 and log.count("install --no") == 2 and "update" in log and
              "failed" in r.stderr, f"apt-get fails: {r} {log}")
        r, log = world(uid=1000, sudo="free").run("build")
        check(r.returncode == 0 and "sudo env" in log and "install" in log, f"sudo: {r} {log}")
        for sudo in [None, "asks"]:
            r, log = world(uid=1000, sudo=sudo).run("build", "test")
            check(r.returncode == 1 and not log and
                  "apt-get update && apt-get install -y --no-install-recommends alpha beta gamma"
                  in r.stdout, f"without rights: {r} {log}")
        r, log = world(uid=1000).run("nosuch")
        check(r.returncode == 2 and "no group" in r.stderr, f"a wrong group: {r}")
        r, log = world(uid=1000).run("--list", "test")
        check(r.returncode == 0 and r.stdout.split("\n")[0] == "beta\tis needed to test",
              f"--list: {r}")


runner_counts()
package_tool()
print(f"{passed} passed, {failed} failed")
sys.exit(1 if failed else 0)
