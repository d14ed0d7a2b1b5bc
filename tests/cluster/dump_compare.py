#!/usr/bin/env python3
"""Holds `fluxmq dump` to Apache Kafka's DumpLogSegments, line by line, over files that Kafka wrote.

    dump_compare.py JARS [--fluxmq BIN] [--data DIR]

JARS is a directory with Apache Kafka's jars. Without --data a Kafka broker writes a sample (each
codec, idempotent, transactional, null and binary keys and values, headers, deleted records,
compacted) and is stopped; with it, the files below DIR are compared, which may be fluxmq's own.

Standard output must be the same, line by line. Of standard error the blocks are compared without
regard to their order, which in Kafka's tool is that of a hash map. Exits 1 on any difference.
"""

import argparse
import collections
import os
import shutil
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
SUPPORT = os.path.join(HERE, "..", "support")
sys.path.insert(0, SUPPORT)
from broker import Broker  # noqa: E402

SUFFIXES = (".log", ".index", ".timeindex", ".txnindex", ".snapshot")
OPTIONS = (
    [],
    ["--deep-iteration"],
    ["--print-data-log"],
    ["--print-data-log", "--skip-record-metadata"],
    ["--index-sanity-check"],
    ["--verify-index-only"],
    ["--max-bytes", "10000", "--deep-iteration"],
)
# KRaft's own records: fluxmq names a control record there without its fields.
LEFT_OUT = ("__cluster_metadata-0",)
CHUNK = 400  # files in one run of a tool


def make_sample(jars, count):
    """-> a directory with the data of a Kafka broker that was stopped cleanly"""
    broker = Broker(kafka=jars, heap="400m", properties={
        "transaction.state.log.num.partitions": 2, "log.cleaner.backoff.ms": 500,
        "log.initial.task.delay.ms": 500, "log.retention.ms": -1})
    try:
        broker.start(timeout=240)
        subprocess.run(["java", "-Xmx256m", "-cp", jars + "/*",
                        os.path.join(SUPPORT, "SampleWriter.java"), broker.bootstrap, str(count)],
                       check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        time.sleep(10)  # the cleaner's own time
        broker.stop(120)
        data = tempfile.mkdtemp(prefix="dump-sample-")
        shutil.copytree(broker.log_dirs[0], data, dirs_exist_ok=True)
        return data
    finally:
        broker.remove()


def files_of(data):
    out = []
    for folder, dirs, names in os.walk(data):
        dirs[:] = sorted(d for d in dirs if d not in LEFT_OUT)
        out += [os.path.join(folder, n) for n in sorted(names) if n.endswith(SUFFIXES)]
    return out


def run(command):
    # Bytes, and UTF-8 out of the JVM whatever the locale is.
    p = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                       env={**os.environ, "LC_ALL": "C.UTF-8"})
    noise = (b"SLF4J", b"StatusLogger", b"WARNING:", b"WARN ")
    return (p.stdout.split(b"\n"),
            [x for x in p.stderr.split(b"\n") if x and not any(n in x for n in noise)])


def kafka(jars, options, files):
    return run(["java", "-Xmx512m", "-XX:+UseSerialGC", "-Dsun.stdout.encoding=UTF-8",
                "-Dfile.encoding=UTF-8", "-cp", jars + "/*",
                "org.apache.kafka.tools.DumpLogSegments"] + options + ["--files", ",".join(files)])


def blocks(lines):
    """Standard error as a bag of (head, lines below it)."""
    out, current = [], []
    for line in lines:
        if current and not line.startswith((b"  ", b"Indexed offset")):
            out.append(tuple(current))
            current = []
        current.append(line)
    return collections.Counter(out + [tuple(current)])


def flip(path):
    with open(path, "r+b") as f:
        f.seek(os.path.getsize(path) // 2)
        byte = f.read(1)
        f.seek(-1, os.SEEK_CUR)
        f.write(bytes([byte[0] ^ 1]))


def compare(jars, binary, options, files, plant):
    """-> (lines compared, differences)"""
    theirs, their_errors = kafka(jars, options, files)
    if plant:
        flip(max(files, key=os.path.getsize))
    ours, our_errors = run([binary, "dump"] + options + files)
    differences = 0
    for i in range(max(len(theirs), len(ours))):
        a = theirs[i] if i < len(theirs) else None
        b = ours[i] if i < len(ours) else None
        if a != b:
            differences += 1
            if differences <= 5:
                print("line %d with %s\n  Kafka:  %r\n  fluxmq: %r" % (i + 1, options, a, b))
    a, b = blocks(their_errors), blocks(our_errors)
    for block in list((a - b).elements())[:5]:
        print("only Kafka says, with %s: %r" % (options, block[:6]))
    for block in list((b - a).elements())[:5]:
        print("only fluxmq says, with %s: %r" % (options, block[:6]))
    differences += sum((a - b).values()) + sum((b - a).values())
    return len(theirs) + len(their_errors), differences


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("jars")
    parser.add_argument("--fluxmq", default=os.path.join(HERE, "..", "..", "build", "release", "fluxmq"))
    parser.add_argument("--data", help="compare the files below this directory")
    parser.add_argument("--plant", action="store_true",
                        help="change a bit of the sample between the two tools: the run must fail")
    parser.add_argument("--records", type=int, default=4000, help="size of the sample")
    o = parser.parse_args()
    if o.data and o.plant:
        parser.error("--plant changes files: only of a sample")

    data = o.data or make_sample(os.path.abspath(o.jars), o.records)
    files = files_of(data)
    lines = differences = 0
    by_suffix = collections.Counter(os.path.splitext(f)[1] for f in files)
    for options in OPTIONS:
        for i in range(0, len(files), CHUNK):
            n, d = compare(os.path.abspath(o.jars), o.fluxmq, options, files[i:i + CHUNK], o.plant)
            lines += n
            differences += d
    if not o.data:
        shutil.rmtree(data, ignore_errors=True)
    print("dump_compare: %d files (%s), %d sets of options, %d lines compared, %d differences" % (
        len(files), ", ".join("%d %s" % (by_suffix[s], s) for s in SUFFIXES), len(OPTIONS), lines,
        differences))
    return 1 if differences or not files else 0


if __name__ == "__main__":
    sys.exit(main())
