# SPDX-License-Identifier: MIT
"""Python at work: json, hashlib, re, decimal, fractions, threads, processes, ctypes, subprocess, asyncio,
compression, sqlite where it is there; results that are known or found in another way."""
import array
import asyncio
import bisect
import collections
import ctypes
import dataclasses
import decimal
import fractions
import functools
import hashlib
import heapq
import hmac
import itertools
import json
import lzma
import math
import mmap
import multiprocessing
import os
import pickle
import queue
import random
import re
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
import unicodedata
import zlib

passed = failed = 0


def check(got, want, what):
    global passed, failed
    if got == want:
        passed += 1
    else:
        failed += 1
        print(f"failed: {what}: {got!r}, not {want!r}", flush=True)


def numbers():
    check(sum(map(int, str(2**1000))), 1366, "digits of 2**1000")
    check(math.factorial(500) // math.factorial(498), 500 * 499, "factorial")
    check(pow(3, 10**18, 10**9 + 7), pow(pow(3, 10**9, 10**9 + 7), 10**9, 10**9 + 7), "pow mod")
    check(math.isqrt(10**200) , 10**100, "isqrt")
    a, b = 3**2000, 7**1500
    check((a * b) // b, a, "long division")
    check(divmod(a, b)[0] * b + divmod(a, b)[1], a, "divmod")
    check(int(hex(a), 16), a, "hex")
    decimal.getcontext().prec = 60
    check(str(decimal.Decimal(2).sqrt()),
          "1.41421356237309504880168872420969807856967187537694807317668", "Decimal sqrt")
    check(str(decimal.Decimal(1).exp()),
          "2.71828182845904523536028747135266249775724709369995957496697", "Decimal exp")
    check(sum(fractions.Fraction(1, n) for n in range(1, 30)),
          fractions.Fraction(9227046511387, 2329089562800), "harmonic number")
    check([repr(x) for x in (0.1 + 0.2, 1e23, 5e-324, 2**0.5, math.pi)],
          ["0.30000000000000004", "1e+23", "5e-324", "1.4142135623730951", "3.141592653589793"],
          "repr of floats")
    check(float.fromhex("0x1.999999999999ap-4"), 0.1, "fromhex")
    check(math.fsum([0.1] * 10), 1.0, "fsum")
    check(round(statistics.stdev([1, 2, 3, 4, 5, 9]), 12), 2.828427124746, "stdev")
    r = random.Random(42)
    check([r.randrange(1000) for _ in range(5)], [654, 114, 25, 759, 281], "Mersenne twister")
    check(r.gauss(0, 1) != r.gauss(0, 1), True, "gauss")
    digits = []
    q, r_, t, k, n, l = 1, 0, 1, 1, 3, 3
    while len(digits) < 100:  # pi by Gibbons' spigot
        if 4 * q + r_ - t < n * t:
            digits.append(n)
            q, r_, n = 10 * q, 10 * (r_ - n * t), 10 * (3 * q + r_) // t - 10 * n
        else:
            q, r_, t, k, n, l = (q * k, (2 * q + r_) * l, t * l, k + 1,
                                 (q * (7 * k + 2) + r_ * l) // (t * l), l + 2)
    check("".join(map(str, digits[-10:])), "5342117067", "the last of 100 digits of pi")
    check("".join(map(str, digits))[:20], "31415926535897932384", "pi")


def text():
    words = re.findall(r"\b\w+\b", "the quick brown fox jumps over the lazy dog the end")
    check(collections.Counter(words).most_common(1), [("the", 3)], "Counter")
    source = " ".join(f"key{i}=val{i * i};" for i in range(3000))
    found = dict(re.findall(r"key(\d+)=val(\d+);", source))
    check(all(int(v) == int(k) ** 2 for k, v in found.items()) and len(found), 3000, "findall")
    check(re.sub(r"(?P<a>\d+)-(?P<b>\d+)", r"\g<b>-\g<a>", "12-34 56-78"), "34-12 78-56", "sub")
    check(re.fullmatch(r"(?:a|ab)(?:c|bcd)(?:d*)", "abcd") is not None, True, "backtracking")
    check(unicodedata.normalize("NFD", "é") == "e\u0301", True, "normalize")
    check("straße".upper().casefold(), "strasse", "casefold")
    check("naïve 日本語 \U0001f600".encode("utf-8").decode("utf-8"), "naïve 日本語 \U0001f600", "utf-8")
    check("日本語".encode("utf-16-le").hex(), "e5652c679e8a", "utf-16")
    data = {"n": list(range(1000)), "f": [i / 7 for i in range(500)], "s": "é\n\"\\" * 100,
            "deep": functools.reduce(lambda a, _: {"x": a}, range(100), None), "t": [True, None]}
    check(json.loads(json.dumps(data)), data, "json")
    check(pickle.loads(pickle.dumps(data)), data, "pickle")
    check(f"{1234567.891:,.2f}|{255:#06x}|{'x':^5}|{3.14159:8.3f}", "1,234,567.89|0x00ff|  x  |   3.142",
          "format")


def digests():
    for name, want in [("md5", "900150983cd24fb0d6963f7d28e17f72"),
                       ("sha1", "a9993e364706816aba3e25717850c26c9cd0d89d"),
                       ("sha256", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
                       ("sha3_256", "3a985da74fe225b2045c172d6bd390bd855f086e3e9d525b46bfe24511431532"),
                       ("blake2s", "508c5e8c327c14e2e1a72ba34eeb452f37458b209ed63a294d999b4c86675982")]:
        check(hashlib.new(name, b"abc").hexdigest(), want, name)
    check(hashlib.sha512(b"a" * 1000000).hexdigest()[:32], "e718483d0ce769644e2e42c7bc15b463", "sha512")
    check(hmac.new(b"key", b"The quick brown fox jumps over the lazy dog", "sha256").hexdigest(),
          "f7bc83f430538424b13298e6aa6fb143ef4d59a14946175997479dbc2d1a3cd8", "hmac")
    check(hashlib.pbkdf2_hmac("sha1", b"password", b"salt", 4096).hex(),
          "4b007901b765489abead49d926f721d065a429c1", "pbkdf2")
    check(zlib.crc32(b"123456789"), 0xCBF43926, "crc32")
    r = random.Random(7)
    raw = bytes(r.choice(b"abcdefgh \n") for _ in range(100000))
    for name, there, back in [("zlib", zlib.compress, zlib.decompress),
                              ("lzma", lzma.compress, lzma.decompress)]:
        small = there(raw)
        check(back(small) == raw and len(small) < 60000, True, name)


def algorithms():
    r = random.Random(3)
    v = [r.random() for _ in range(30000)]
    s = sorted(v)
    check(all(s[i] <= s[i + 1] for i in range(len(s) - 1)), True, "sorted")
    heapq.heapify(v)
    check([heapq.heappop(v) for _ in range(1000)], s[:1000], "heap")
    check(all(s[bisect.bisect_left(s, x)] == x for x in s[::100]), True, "bisect")
    check(len(list(itertools.permutations(range(7)))), 5040, "permutations")
    n = 50000
    sieve = bytearray([1]) * (n + 1)
    for i in range(2, int(n**0.5) + 1):
        if sieve[i]:
            sieve[i * i::i] = bytes(len(range(i * i, n + 1, i)))
    check(sum(sieve) - 2, 5133, "primes")

    @functools.lru_cache(None)
    def edit(a, b):
        if not a or not b:
            return len(a) + len(b)
        return min(edit(a[1:], b) + 1, edit(a, b[1:]) + 1, edit(a[1:], b[1:]) + (a[0] != b[0]))
    check(edit("kitten sitting on", "sitting kitten off"), 8, "edit distance")

    def queens(n, row=0, cols=0, d1=0, d2=0):
        if row == n:
            return 1
        count, free = 0, ~(cols | d1 | d2) & ((1 << n) - 1)
        while free:
            bit = free & -free
            free ^= bit
            count += queens(n, row + 1, cols | bit, (d1 | bit) << 1, (d2 | bit) >> 1)
        return count
    check(queens(8), 92, "queens")
    size = 24
    m = [[(i * j + i) % 7 for j in range(size)] for i in range(size)]
    identity = [[int(i == j) for j in range(size)] for i in range(size)]
    product = [[sum(a * b for a, b in zip(row, col)) for col in zip(*identity)] for row in m]
    check(product, m, "matrix")

    @dataclasses.dataclass(order=True, frozen=True)
    class Point:
        x: int
        y: int = 0
    check(sorted({Point(3), Point(1, 2), Point(1)}), [Point(1), Point(1, 2), Point(3)], "dataclass")

    def generator(n):
        got = 0
        for i in range(n):
            got += yield i
        return got
    g, total = generator(1000), 0
    next(g)
    try:
        while True:
            total += g.send(2)
    except StopIteration as stop:
        check((total, stop.value), (499500, 2000), "generators")

    def deep(n):
        return 0 if n == 0 else 1 + deep(n - 1)
    check(deep(900), 900, "recursion")
    try:
        sys.setrecursionlimit(300)
        deep(1000)
        check(True, False, "RecursionError")
    except RecursionError:
        check(True, True, "RecursionError")
    finally:
        sys.setrecursionlimit(1000)


def threads():
    lock, total, q = threading.Lock(), [0], queue.Queue(8)

    def add():
        for _ in range(2000):
            with lock:
                total[0] += 1
    ts = [threading.Thread(target=add) for _ in range(6)]
    for t in ts:
        t.start()
    for t in ts:
        t.join()
    check(total[0], 12000, "lock")
    got = []

    def consume():
        while (item := q.get()) is not None:
            got.append(item)
    t = threading.Thread(target=consume)
    t.start()
    for i in range(2000):
        q.put(i)
    q.put(None)
    t.join()
    check(got, list(range(2000)), "queue")
    event, barrier, order = threading.Event(), threading.Barrier(4), []

    def wait(i):
        event.wait()
        barrier.wait()
        order.append(i)
    ts = [threading.Thread(target=wait, args=(i,)) for i in range(4)]
    for t in ts:
        t.start()
    event.set()
    for t in ts:
        t.join()
    check(sorted(order), [0, 1, 2, 3], "event and barrier")


def square(x):
    return x * x


def child(conn, value, array_):
    conn.send(conn.recv()[::-1])
    with value.get_lock():
        value.value += 5
    for i in range(len(array_)):
        array_[i] *= 2


def processes():
    with multiprocessing.Pool(3) as pool:
        check(pool.map(square, range(200)), [i * i for i in range(200)], "Pool.map")
        check(sorted(pool.imap_unordered(square, range(50), 5)), [i * i for i in range(50)], "imap")
    a, b = multiprocessing.Pipe()
    value, values = multiprocessing.Value("i", 37), multiprocessing.Array("d", [1.5, 2.5])
    p = multiprocessing.Process(target=child, args=(b, value, values))
    p.start()
    a.send("abc")
    check(a.recv(), "cba", "Pipe")
    p.join()
    check((p.exitcode, value.value, list(values)), (0, 42, [3.0, 5.0]), "shared values")
    check(subprocess.run(["sort", "-r"], input="a\nc\nb\n", capture_output=True, text=True).stdout,
          "c\nb\na\n", "subprocess")
    check(subprocess.run([sys.executable, "-c", "import sys; sys.exit(7)"]).returncode, 7, "exit code")
    one = subprocess.Popen(["seq", "1000"], stdout=subprocess.PIPE)
    two = subprocess.run(["wc", "-l"], stdin=one.stdout, capture_output=True, text=True)
    one.stdout.close()
    one.wait()
    check(two.stdout.strip(), "1000", "pipeline")
    try:
        subprocess.run(["sleep", "100"], timeout=0.2)
        check(True, False, "timeout")
    except subprocess.TimeoutExpired:
        check(True, True, "timeout")
    p = subprocess.Popen(["sleep", "100"])
    p.terminate()
    check(p.wait(), -signal.SIGTERM, "terminate")
    hits = []
    signal.signal(signal.SIGUSR1, lambda *_: hits.append(1))
    for _ in range(100):
        os.kill(os.getpid(), signal.SIGUSR1)
    check(len(hits), 100, "signals")
    signal.signal(signal.SIGALRM, lambda *_: hits.append(2))
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    time.sleep(0.3)
    check(hits[-1], 2, "timer")


def native():
    libc = ctypes.CDLL(None)
    check(libc.strlen(b"ringer"), 6, "strlen")
    libm = ctypes.CDLL("libm.so.6")
    libm.cos.restype, libm.cos.argtypes = ctypes.c_double, [ctypes.c_double]
    check(libm.cos(1.0), math.cos(1.0), "cos")
    kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_int), ctypes.POINTER(ctypes.c_int))
    values = (ctypes.c_int * 500)(*[(i * 7919) % 1009 for i in range(500)])
    calls = []

    def compare(a, b):
        calls.append(1)
        return a[0] - b[0]
    libc.qsort(values, len(values), ctypes.sizeof(ctypes.c_int), kind(compare))
    check(list(values), sorted((i * 7919) % 1009 for i in range(500)), "qsort with a callback")
    check(len(calls) > 2000, True, "callbacks")

    class Pair(ctypes.Structure):
        _fields_ = [("a", ctypes.c_int8), ("b", ctypes.c_int64), ("c", ctypes.c_uint, 3),
                    ("d", ctypes.c_uint, 29)]
    p = Pair(-1, 2**40, 5, 123456)
    check((ctypes.sizeof(p), p.a, p.b, p.c, p.d), (24, -1, 2**40, 5, 123456), "structures")
    libc.snprintf.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p]
    buf = ctypes.create_string_buffer(64)
    libc.snprintf(buf, 64, b"%d %s %.3f", ctypes.c_int(42), b"x", ctypes.c_double(2.5))
    check(buf.value, b"42 x 2.500", "variable arguments")
    check(struct.unpack("<hIqd", struct.pack("<hIqd", -2, 3, -4, 0.5)), (-2, 3, -4, 0.5), "struct")
    a = array.array("d", range(1000))
    check(sum(a), 499500.0, "array")
    with tempfile.TemporaryFile() as f:
        f.truncate(65536)
        with mmap.mmap(f.fileno(), 65536) as m:
            m[1000:1005] = b"hello"
            check(m.find(b"hello"), 1000, "mmap")
        f.seek(1000)
        check(f.read(5), b"hello", "file behind mmap")


def network():
    async def handle(reader, writer):
        while line := await reader.readline():
            writer.write(line.upper())
        writer.close()

    async def client(port, n):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        good = 0
        for i in range(20):
            writer.write(f"line {n} {i}\n".encode())
            good += await reader.readline() == f"LINE {n} {i}\n".encode()
        writer.close()
        return good

    async def main():
        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        got = await asyncio.gather(*[client(port, n) for n in range(10)])
        server.close()
        return got
    check(sum(asyncio.run(main())), 200, "asyncio")
    a, b = socket.socketpair()
    t = threading.Thread(target=lambda: (a.sendall(b"x" * 1000000), a.close()))
    t.start()
    got = 0
    while data := b.recv(65536):
        got += len(data)
    t.join()
    check(got, 1000000, "socketpair")


def database():
    try:
        import sqlite3
    except ImportError:
        return
    db = sqlite3.connect(":memory:")
    db.execute("create table t (id integer primary key, name text, n real)")
    db.executemany("insert into t values (?, ?, ?)", [(i, f"name{i % 50}", i / 3) for i in range(3000)])
    check(db.execute("select count(*), sum(id) from t where name = 'name7'").fetchone(),
          (60, sum(range(7, 3000, 50))), "sqlite")
    rows = db.execute("select name, avg(n) a from t group by name order by a desc limit 1").fetchall()
    check(rows[0][0], "name49", "sqlite, group by")


if __name__ == "__main__":
    for part in (numbers, text, digests, algorithms, threads, processes, native, network, database):
        part()
    print(f"{passed} passed, {failed} failed")
    sys.exit(1 if failed else 0)
