#!/usr/bin/env python3
"""Takes over a data directory that Apache Kafka wrote: every record must be served as before.

    adopt.py --fluxmq build/release/fluxmq --kafka path/of/kafka/jars

Kafka writes topics in every codec, idempotently, with keys, one with deleted records, one with
settings of its own, and stops cleanly. fluxmq starts on the same directory with --adopt-log-dirs.
What kcat reads (partition, offset, timestamp, key, value) must be the same lines, topic ids and
settings too; then more is written, and a plain restart keeps it all. A directory that was not
stopped cleanly, or without the flag, is refused.
"""
import argparse
import os
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import kafka_wire as wire  # noqa: E402
from broker import Broker, NotReady  # noqa: E402

CODECS = ("none", "gzip", "snappy", "lz4", "zstd")
PARTITIONS = 3
RECORDS = 3000

passed = failed = 0


def check(ok, what, detail=""):
    global passed, failed
    passed, failed = passed + bool(ok), failed + (not ok)
    print("%-5s %s%s" % ("ok" if ok else "FAIL", what, "" if ok else ": " + detail[-600:]), flush=True)


def kcat(bootstrap, *args, given=None):
    p = subprocess.run(["kcat", "-q", "-b", bootstrap, *args], input=given, stdout=subprocess.PIPE,
                       stderr=subprocess.PIPE, timeout=120)
    if p.returncode != 0:
        raise SystemExit("kcat %s: %s" % (" ".join(args), p.stderr.decode()))
    return p.stdout


def read_all(bootstrap, topic):
    out = kcat(bootstrap, "-C", "-t", topic, "-o", "beginning", "-e", "-f", "%p %o %T %K %k %S %s\n")
    return sorted(out.split(b"\n"))


def write(bootstrap, topic, codec, first, count):
    lines = "".join("key-%d:value %d of %s\n" % (i % 97, i, topic) for i in range(first, first + count))
    kcat(bootstrap, "-P", "-t", topic, "-K:", "-z", codec, "-X", "enable.idempotence=true", given=lines.encode())


def tool(jars, cls, *args):
    p = subprocess.run(["java", "-cp", jars + "/*", cls, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                       text=True, timeout=120)
    if p.returncode != 0:
        raise SystemExit("%s: %s%s" % (cls, p.stdout, p.stderr))
    return p.stdout


def describe(jars, bootstrap):
    """Topic, id, partition count and settings, as kafka-topics prints them."""
    out = tool(jars, "org.apache.kafka.tools.TopicCommand", "--bootstrap-server", bootstrap, "--describe")
    return sorted(line.split("\tReplicationFactor")[0] + "|" + ",".join(sorted(
        c for c in line.split("Configs: ")[1].split(",") if c and not c.startswith("min.insync")))
        for line in out.split("\n") if line.startswith("Topic: ") and "Configs:" in line)


def fill(b, jars):
    topics = ["t-" + c for c in CODECS] + ["deleted", "settings"]
    for t in topics:
        settings = ["--config", "cleanup.policy=compact,delete", "--config", "retention.ms=86400000",
                    "--config", "segment.bytes=1048576"] if t == "settings" else []
        tool(jars, "org.apache.kafka.tools.TopicCommand", "--bootstrap-server", b.bootstrap, "--create", "--topic", t,
             "--partitions", str(PARTITIONS), *settings)
        write(b.bootstrap, t, t[2:] if t.startswith("t-") else "lz4", 0, RECORDS)
    with b.connect() as c:
        wire.delete_records(c, [("deleted", [(0, 100), (1, 333)])])
    return topics


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--fluxmq", default="build/release/fluxmq")
    p.add_argument("--kafka", required=True, help="Apache Kafka's jars")
    p.add_argument("--plant", action="store_true", help="lose a record before comparing: must fail")
    o = p.parse_args()
    with Broker(kafka=o.kafka) as k:
        k.start()
        topics = fill(k, o.kafka)
        before = {t: read_all(k.bootstrap, t) for t in topics}
        described = describe(o.kafka, k.bootstrap)
        k.stop()
        if o.plant:
            before["t-gzip"].pop()
        with Broker(fluxmq=o.fluxmq, log_dirs=k.log_dirs) as f:
            try:
                f.start(timeout=5)
                check(False, "without --adopt-log-dirs it is refused", "it started")
            except NotReady:
                check(True, "without --adopt-log-dirs it is refused")
            f.process = None
            f.properties["adopt.log.dirs"] = "true"
            f.start()
            for t in topics:
                after = read_all(f.bootstrap, t)
                check(after == before[t], "%s: %d records as before" % (t, len(before[t]) - 1),
                      "%d lines instead of %d" % (len(after), len(before[t])))
            now = describe(o.kafka, f.bootstrap)
            check(now == described, "topic ids, partitions and settings", "%s\n%s" % (described, now))
            for t in topics:
                write(f.bootstrap, t, "zstd", RECORDS, 500)
            more = {t: read_all(f.bootstrap, t) for t in topics}
            check(all(set(before[t]) <= set(more[t]) and len(more[t]) == len(before[t]) + 500 for t in topics),
                  "500 more written to each", str({t: (len(before[t]), len(more[t])) for t in topics}))
            f.stop()
            del f.properties["adopt.log.dirs"]
            f.start()
            check(all(read_all(f.bootstrap, t) == more[t] for t in topics), "a plain restart keeps it all")
            told = f.log_tail(200) if hasattr(f, "log_tail") else ""
            check("__cluster_metadata" in open(f.log_path).read(), "internal folders are named and left alone", str(told))
    print("%d passed, %d failed" % (passed, failed))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
