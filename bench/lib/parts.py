# SPDX-License-Identifier: MIT
"""Parts of bench/RESULTS.md that other scripts than bench/run measure: disks, networks, logins.

A part is all between two comments that bear its name, so that each script replaces its own, and
bench/run, which writes the rest anew, takes over those that it finds.
"""
import os
import re

RESULTS = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "RESULTS.md")
PART = re.compile(r"^<!-- part: ([a-z-]+) -->\n.*?^<!-- end of \1 -->\n", re.M | re.S)


def find(text):
    """Name -> part, comments included, in the order in which they stand."""
    return {m[1]: m[0] for m in PART.finditer(text)}


def put(text, name, body):
    """The text with that part replaced, or added at its end. The body is markdown, from its title on."""
    part = f"<!-- part: {name} -->\n{body.strip()}\n<!-- end of {name} -->\n"
    if name not in find(text):
        return text.rstrip("\n") + "\n\n" + part
    return PART.sub(lambda m: part if m[1] == name else m[0], text)


def carry(old, new):
    """A new text of bench/run's, with the parts of the old one."""
    return "\n".join([new.rstrip("\n") + "\n", *find(old).values()])


def read(path=RESULTS):
    try:
        with open(path, encoding="utf-8") as f:
            return f.read()
    except FileNotFoundError:
        return ""


def write(path, text):
    with open(path + ".new", "w", encoding="utf-8") as f:
        f.write(text)
    os.rename(path + ".new", path)


def publish(name, body, path=RESULTS):
    """What a script calls when it has measured."""
    write(path, put(read(path), name, body))
