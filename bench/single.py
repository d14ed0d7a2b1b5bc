#!/usr/bin/env python3
"""bench single: one fluxmq node beside one Apache Kafka 4.3.1, on this machine, in one run.

Same durability on both sides (acks=all, one replica, no fsync: Kafka's default), same topics, same
clients: Kafka's own perf producer, librdkafka, a Java program that assigns partitions. The brokers
take turns within each round; medians over the rounds are compared. What counts on a machine whose
cores client and broker share is the broker's CPU: seconds of all its threads (schedstat), per GB of
values and per million records.

A line is ahead when fluxmq's figure is better than Kafka's; where the wall clock is within 10 %
both are bound by the client, and then the CPU per record must be at most half. Exit 1 when not.
"""
import argparse
import glob
import json
import os
import re
import statistics
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, "tests", "support"))
from broker import Broker  # noqa: E402

PARTITIONS = 4
# The log stays bounded: touching memory that was free is slow, and neither side should pay for it.
TOPIC = ["--partitions", str(PARTITIONS), "--replication-factor", "1", "--config", "segment.bytes=134217728"]


class Side:
    def __init__(self, name, broker, jars):
        self.name, self.broker, self.jars = name, broker, jars

    def cpu_s(self):
        total = 0
        for path in glob.glob("/proc/%d/task/*/schedstat" % self.broker.pid):
            try:
                with open(path) as f:
                    total += int(f.read().split()[0])
            except OSError:
                pass
        return total / 1e9

    def tool(self, cls, *args):
        return java(self.jars, cls, *args)

    def fresh_topic(self, name):
        self.tool("org.apache.kafka.tools.TopicCommand", "--bootstrap-server", self.broker.bootstrap,
                  "--create", "--topic", name, *TOPIC)

    def delete_topic(self, name):
        self.tool("org.apache.kafka.tools.TopicCommand", "--bootstrap-server", self.broker.bootstrap,
                  "--delete", "--topic", name)


def java(jars, cls, *args, classpath=""):
    cp = os.path.join(jars, "*") + (":" + classpath if classpath else "")
    run = subprocess.run(["java", "-Xmx512m", "-cp", cp, cls, *args], stdout=subprocess.PIPE,
                         stderr=subprocess.PIPE, text=True, timeout=600)
    if run.returncode != 0:
        raise SystemExit("%s failed:\n%s%s" % (cls, run.stdout[-2000:], run.stderr[-2000:]))
    return run.stdout


def build_load(work):
    exe = os.path.join(work, "rdkafka_load")
    subprocess.run(["cc", "-O2", "-o", exe, os.path.join(ROOT, "bench", "rdkafka_load.c"), "-lrdkafka"], check=True)
    return exe


def build_consumer(work, jars):
    subprocess.run(["javac", "-cp", os.path.join(jars, "*"), "-d", work,
                    os.path.join(ROOT, "bench", "AssignedConsumer.java")], check=True)


def load(exe, *args):
    run = subprocess.run([exe, *map(str, args)], stdout=subprocess.PIPE, text=True, check=True, timeout=600)
    return json.loads(run.stdout)


def perf_producer(side, topic, records, size):
    out = side.tool("org.apache.kafka.tools.ProducerPerformance", "--topic", topic, "--num-records", str(records),
                    "--record-size", str(size), "--throughput", "-1", "--producer-props",
                    "bootstrap.servers=" + side.broker.bootstrap, "acks=all")
    rate = float(re.findall(r"([\d.]+) records/sec", out)[-1])
    return {"records": records, "bytes": records * size, "seconds": records / rate}


def measured(side, what):
    before = side.cpu_s()
    result = what()
    cpu = side.cpu_s() - before
    return {"seconds": result["seconds"], "rate": result["records"] / result["seconds"],
            "cpu_per_gb": cpu / (result["bytes"] / 1e9), "cpu_per_million": cpu / (result["records"] / 1e6)}


def one_round(side, number, o, exe, work):
    figures = {}
    b = side.broker.bootstrap
    for size, records in ((100, o.records), (1024, o.records // 4)):
        for client in ("librdkafka", "java"):
            topic = "bench-%d-%s-%d" % (number, client, size)
            side.fresh_topic(topic)
            if client == "librdkafka":
                produce = measured(side, lambda: load(exe, "produce", b, topic, PARTITIONS, records, size))
                consume = measured(side, lambda: load(exe, "consume", b, topic, PARTITIONS, records))
            else:
                produce = measured(side, lambda: perf_producer(side, topic, records, size))
                consume = measured(side, lambda: json.loads(java(side.jars, "AssignedConsumer", b, topic,
                                                                 str(PARTITIONS), str(records), classpath=work)))
            figures["produce %s %d B" % (client, size)] = produce
            figures["consume %s %d B" % (client, size)] = consume
            if size == 1024:
                figures.setdefault("RSS under load", {})["rss_mb"] = side.broker.rss_kb() / 1024
            side.delete_topic(topic)
    topic = "bench-%d-paced" % number
    side.fresh_topic(topic)
    figures["latency 1,000/s 100 B acks=all"] = load(exe, "paced", b, topic, PARTITIONS, o.paced, 100, 1000)
    side.delete_topic(topic)
    return figures


def warm(side, seconds, exe):
    side.fresh_topic("warm-up")
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        load(exe, "produce", side.broker.bootstrap, "warm-up", PARTITIONS, 500000, 100)
        load(exe, "consume", side.broker.bootstrap, "warm-up", PARTITIONS, 500000)
    side.delete_topic("warm-up")


def median(rounds, line, key):
    return statistics.median(r[line][key] for r in rounds if key in r[line])


def compare(results):
    ours, theirs = results["fluxmq"], results["kafka"]
    behind = 0
    print("\n%-34s %-16s %12s %12s %8s" % ("median of %d rounds" % len(ours), "", "fluxmq", "kafka", "ratio"))
    for line in ours[0]:
        for key, text, more_is_better in (("rate", "records/s", True), ("cpu_per_gb", "CPU-s/GB", False),
                                          ("cpu_per_million", "CPU-s/M records", False), ("rss_mb", "RSS MB", False),
                                          ("p50", "p50 us", False), ("p99", "p99 us", False),
                                          ("p99.9", "p99.9 us", False)):
            if key not in ours[0][line]:
                continue
            a, b = median(ours, line, key), median(theirs, line, key)
            if key == "rate":
                bound = abs(a - b) <= 0.1 * b  # by the client: then the CPU line decides
                half = median(ours, line, "cpu_per_million") <= 0.5 * median(theirs, line, "cpu_per_million")
                ahead = a > b or (bound and half)
            else:
                ahead = a < b if not more_is_better else a > b
            behind += not ahead
            print("%-34s %-16s %12.3f %12.3f %8.3f  %s" % (line, text, a, b, a / b if b else 0,
                                                          "ahead" if ahead else "BEHIND"))
    return behind


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--fluxmq", default=os.path.join(ROOT, "build", "release", "fluxmq"))
    p.add_argument("--kafka", required=True, help="directory of Apache Kafka's jars (tests/support/kafka-control/setup)")
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--warm", type=int, default=60, help="seconds of load before the first round")
    p.add_argument("--records", type=int, default=4000000, help="of 100 B; a quarter as many of 1 KB")
    p.add_argument("--paced", type=int, default=20000, help="records at 1,000/s")
    p.add_argument("--out", help="raw results as JSON")
    o = p.parse_args()
    results = {"fluxmq": [], "kafka": []}
    with Broker(fluxmq=o.fluxmq) as a, Broker(kafka=o.kafka, heap="1g") as b:
        work = a.dir
        exe = build_load(work)
        build_consumer(work, o.kafka)
        sides = [Side("fluxmq", a, o.kafka), Side("kafka", b, o.kafka)]
        for s in sides:
            s.broker.start()
        for s in sides:
            warm(s, o.warm if s.name == "kafka" else 5, exe)
        for number in range(o.rounds):
            for s in sides if number % 2 == 0 else reversed(sides):
                results[s.name].append(one_round(s, number, o, exe, work))
                print("round %d %s done" % (number + 1, s.name), flush=True)
    if o.out:
        with open(o.out, "w") as f:
            json.dump(results, f, indent=1)
    behind = compare(results)
    print("%d lines behind" % behind)
    return 1 if behind else 0


if __name__ == "__main__":
    sys.exit(main())
