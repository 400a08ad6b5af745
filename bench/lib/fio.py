# SPDX-License-Identifier: MIT
"""Debian's fio with the libraries that it loads, in a folder or a disk image of its own: the same program runs on
the host and in guests, and neither needs it installed."""
import glob
import json
import os
import re
import shutil
import subprocess
import tempfile

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
LIBS = ("lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu/ceph")
MOUNT = "/fio"  # where a guest mounts the image


class NoFio(Exception):
    pass


def _run(*cmd, timeout=600):
    try:
        p = subprocess.run([str(c) for c in cmd], capture_output=True, text=True, timeout=timeout, check=False)
    except (OSError, subprocess.TimeoutExpired) as e:
        raise NoFio(str(e)) from e
    if p.returncode:
        raise NoFio(f"{cmd[0]}: " + ((p.stderr or p.stdout).strip().splitlines() or ["failed"])[-1])
    return p.stdout


def _needed(path):
    return re.findall(r"\(NEEDED\).*\[(.*)\]", _run("readelf", "-d", path))


def make_tree(files, out):
    """fio, ld.so and lib/ in the folder `out`; what is there already stays. `files`: where packages are kept."""
    if os.path.exists(os.path.join(out, "done")):
        return out
    debs = _run(os.path.join(TOP, "tools/get-debs"), os.path.join(files, "debian"), "fio").split()
    shutil.rmtree(out, ignore_errors=True)
    os.makedirs(os.path.join(out, "lib"))
    with tempfile.TemporaryDirectory(dir=os.path.dirname(os.path.abspath(out))) as tmp:
        for deb in debs:
            _run("dpkg-deb", "-x", deb, tmp)
        shutil.copy(os.path.join(tmp, "usr/bin/fio"), os.path.join(out, "fio"))
        # A loader by its own name: the guest's busybox has none.
        loader = glob.glob(os.path.join(tmp, "lib*/x86_64-linux-gnu/ld-linux-x86-64.so.2"))[0]
        shutil.copy(loader, os.path.join(out, "ld.so"))
        todo, seen = _needed(os.path.join(out, "fio")), {os.path.basename(loader)}
        while todo:
            name = todo.pop()
            if name in seen:
                continue
            seen.add(name)
            found = [p for d in LIBS if os.path.exists(p := os.path.join(tmp, d, name))]
            if not found:
                raise NoFio(f"no package has {name}, which fio needs")
            shutil.copy(found[0], os.path.join(out, "lib", name))
            todo += _needed(found[0])
    with open(os.path.join(out, "done"), "w", encoding="ascii") as f:
        f.write("\n".join(debs))
    return out


def make_image(tree, image):
    """The folder as an ext4 file system, for a disk that the guest mounts at MOUNT."""
    size = sum(os.path.getsize(p) for p in glob.glob(os.path.join(tree, "**"), recursive=True))
    with open(image + ".new", "wb") as f:
        f.truncate((size * 5 // 4 >> 20) + 16 << 20)
    _run("mke2fs", "-q", "-F", "-t", "ext4", "-O", "^has_journal", "-d", tree, image + ".new")
    os.rename(image + ".new", image)
    return image


def command(where, *args):
    """How fio is run from such a tree."""
    return [f"{where}/ld.so", "--library-path", f"{where}/lib", f"{where}/fio", *args]


def parse(text):
    """The JSON in what fio printed, notes before and after it left out."""
    begin = text.find("{")
    if begin < 0:
        raise ValueError(f"fio printed no result: {text[-500:]}")
    return json.JSONDecoder().raw_decode(text[begin:])[0]
