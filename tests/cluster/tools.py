#!/usr/bin/env python3
"""The stock Kafka tools against fluxmq: what they print must be what they print against Apache Kafka.

One script of invocations (CASES) is run against a fresh broker. The output of Apache Kafka stands
in tools_golden.txt, recorded by --record; so the comparison needs the tools' jars, but no control
broker. Before comparing, only ports, random ids, times and durations are replaced (NORMAL). Every
other difference must be told by an entry of tools_differences.txt, with its reason; an entry that
explains nothing is a failure too, so the list cannot rot.

API version ranges and features are compared with kafka-4.4.0-apis.txt instead: fluxmq follows 4.4,
the tools are of 4.3.1, the last version for which they are published.

    tools.py --fluxmq build/release/fluxmq --kafka path/of/kafka/jars
    tools.py --kafka LIBDIR --kafka-broker LIBDIR            # the control: no difference is allowed
    tools.py --kafka LIBDIR --kafka-broker LIBDIR --record   # write tools_golden.txt anew
"""

import argparse
import base64
import difflib
import fnmatch
import json
import os
import re
import subprocess
import sys
import time
from collections import namedtuple

HERE = os.path.dirname(os.path.abspath(__file__))
SUPPORT = os.path.join(HERE, "..", "support")
sys.path.insert(0, SUPPORT)
import broker as brokers
import kafka_wire as wire

GOLDEN = os.path.join(HERE, "tools_golden.txt")
DIFFERENCES = os.path.join(HERE, "tools_differences.txt")
APIS = os.path.join(HERE, "kafka-4.4.0-apis.txt")

TOOLS = {
    "topics": ("org.apache.kafka.tools.TopicCommand", "--bootstrap-server"),
    "configs": ("kafka.admin.ConfigCommand", "--bootstrap-server"),
    "get-offsets": ("org.apache.kafka.tools.GetOffsetShell", "--bootstrap-server"),
    "delete-records": ("org.apache.kafka.tools.DeleteRecordsCommand", "--bootstrap-server"),
    "log-dirs": ("org.apache.kafka.tools.LogDirsCommand", "--bootstrap-server"),
    "broker-api-versions": ("org.apache.kafka.tools.BrokerApiVersionsCommand", "--bootstrap-server"),
    "features": ("org.apache.kafka.tools.FeatureCommand", "--bootstrap-server"),
    "metadata-quorum": ("org.apache.kafka.tools.MetadataQuorumCommand", "--bootstrap-server"),
    "cluster": ("org.apache.kafka.tools.ClusterTool", None),
    "console-producer": ("org.apache.kafka.tools.ConsoleProducer", "--bootstrap-server"),
    "console-consumer": ("org.apache.kafka.tools.consumer.ConsoleConsumer", "--bootstrap-server"),
    "producer-perf": ("org.apache.kafka.tools.ProducerPerformance", None),
    "verifiable-producer": ("org.apache.kafka.tools.VerifiableProducer", "--bootstrap-server"),
}

# name: unique, names the golden section. args: {bs} is the bootstrap server, {dir} a directory.
# compare False: its output is looked at in another way (check_apis), or differs by its nature.
# eventually: Kafka lets a changed broker configuration be seen a moment later: asked again for 2 s.
Case = namedtuple("Case", "name tool args stdin compare eventually")


def case(name, tool, args, stdin="", compare=True, eventually=False):
    return Case(name, tool, args.split() if isinstance(args, str) else args, stdin, compare,
                eventually)


READ = "--timeout-ms 20000 "
ALL_FIELDS = ("--formatter-property print.key=true --formatter-property print.offset=true "
              "--formatter-property print.partition=true --formatter-property print.headers=true "
              "--formatter-property print.timestamp=true ")

CASES = [
    # topics
    case("topics list none", "topics", "--list"),
    case("topics create", "topics", "--create --topic alpha --partitions 3 --replication-factor 1 "
         "--config retention.ms=3600000 --config segment.bytes=2097152"),
    case("topics create defaults", "topics", "--create --topic plain"),
    case("topics create exists", "topics", "--create --topic alpha --partitions 3"),
    case("topics create if-not-exists", "topics", "--create --if-not-exists --topic alpha"),
    case("topics create bad name", "topics", "--create --topic bad/name"),
    case("topics create dot name", "topics", "--create --topic .."),
    case("topics create long name", "topics", "--create --topic " + "n" * 250),
    case("topics create collision", "topics", "--create --topic with.dot_under --partitions 1"),
    case("topics create collides", "topics", "--create --topic with_dot.under --partitions 1"),
    case("topics create zero partitions", "topics", "--create --topic zero --partitions 0"),
    case("topics create rf too large", "topics", "--create --topic rf --replication-factor 2"),
    case("topics create unknown config", "topics", "--create --topic c --config no.such.key=1"),
    case("topics create bad config", "topics", "--create --topic c --config retention.ms=abc"),
    case("topics create config out of range", "topics", "--create --topic c --config "
         "min.cleanable.dirty.ratio=2"),
    case("topics create small segment", "topics", "--create --topic c --config segment.bytes=10"),
    case("topics create assignment", "topics", "--create --topic assigned --replica-assignment 1,1"),
    case("topics create assignment unknown broker", "topics",
         "--create --topic c --replica-assignment 7"),
    case("topics create compacted", "topics", "--create --topic compacted --config "
         "cleanup.policy=compact"),
    case("topics create internal", "topics", "--create --topic __share_group_state"),
    case("topics create metadata", "topics", "--create --topic __cluster_metadata"),
    case("topics list", "topics", "--list"),
    case("topics list exclude-internal", "topics", "--list --exclude-internal"),
    case("topics list pattern", "topics", "--list --topic al.*"),
    case("topics describe", "topics", "--describe"),
    case("topics describe one", "topics", "--describe --topic alpha"),
    case("topics describe unknown", "topics", "--describe --topic nothing"),
    case("topics describe overrides", "topics", "--describe --topics-with-overrides"),
    case("topics describe under-replicated", "topics", "--describe --under-replicated-partitions"),
    case("topics describe unavailable", "topics", "--describe --unavailable-partitions"),
    case("topics describe under-min-isr", "topics", "--describe --under-min-isr-partitions"),
    case("topics describe at-min-isr", "topics", "--describe --at-min-isr-partitions --topic alpha"),
    case("topics alter", "topics", "--alter --topic plain --partitions 4"),
    case("topics alter fewer", "topics", "--alter --topic plain --partitions 2"),
    case("topics alter same", "topics", "--alter --topic plain --partitions 4"),
    case("topics alter unknown", "topics", "--alter --topic nothing --partitions 4"),
    case("topics describe altered", "topics", "--describe --topic plain"),
    case("topics delete", "topics", "--delete --topic assigned"),
    case("topics delete unknown", "topics", "--delete --topic nothing"),
    case("topics delete if-exists", "topics", "--delete --if-exists --topic nothing"),
    # configs
    case("configs topic", "configs", "--describe --entity-type topics --entity-name alpha"),
    case("configs topic all", "configs", "--describe --all --entity-type topics --entity-name alpha"),
    case("configs topics", "configs", "--describe --entity-type topics"),
    case("configs topic unknown", "configs", "--describe --entity-type topics --entity-name nothing"),
    case("configs alter", "configs", "--alter --entity-type topics --entity-name alpha --add-config "
         "max.message.bytes=100000,cleanup.policy=[compact,delete]"),
    case("configs altered", "configs", "--describe --entity-type topics --entity-name alpha"),
    case("configs alter delete", "configs", "--alter --entity-type topics --entity-name alpha "
         "--delete-config cleanup.policy,max.message.bytes"),
    case("configs altered back", "configs", "--describe --entity-type topics --entity-name alpha"),
    case("configs alter unknown key", "configs", "--alter --entity-type topics --entity-name alpha "
         "--add-config no.such.key=1"),
    case("configs alter bad value", "configs", "--alter --entity-type topics --entity-name alpha "
         "--add-config retention.ms=abc"),
    case("configs alter bad enum", "configs", "--alter --entity-type topics --entity-name alpha "
         "--add-config compression.type=rar"),
    case("configs alter delete absent", "configs", "--alter --entity-type topics --entity-name alpha "
         "--delete-config flush.ms"),
    case("configs alter unknown topic", "configs", "--alter --entity-type topics --entity-name nothing "
         "--add-config retention.ms=1000"),
    case("configs broker", "configs", "--describe --entity-type brokers --entity-name 1"),
    case("configs broker all", "configs", "--describe --all --entity-type brokers --entity-name 1"),
    case("configs broker default", "configs", "--describe --entity-type brokers --entity-default"),
    case("configs broker alter", "configs", "--alter --entity-type brokers --entity-name 1 "
         "--add-config log.retention.ms=500000000"),
    case("configs broker altered", "configs", "--describe --entity-type brokers --entity-name 1",
         eventually=True),
    case("configs broker seen by topic", "configs",
         "--describe --all --entity-type topics --entity-name plain", eventually=True),
    case("configs broker alter back", "configs", "--alter --entity-type brokers --entity-name 1 "
         "--delete-config log.retention.ms"),
    case("configs broker default alter", "configs", "--alter --entity-type brokers --entity-default "
         "--add-config message.max.bytes=2000000"),
    case("configs broker default altered", "configs",
         "--describe --entity-type brokers --entity-default", eventually=True),
    case("configs broker default alter back", "configs", "--alter --entity-type brokers "
         "--entity-default --delete-config message.max.bytes"),
    case("configs broker read-only", "configs", "--alter --entity-type brokers --entity-name 1 "
         "--add-config node.id=7"),
    # producing and consuming
    case("console-producer", "console-producer", "--topic alpha --sync --timeout 0 --reader-property "
         "parse.key=true --reader-property key.separator=:", "".join("k%d:value %d\n" % (i, i)
                                                                     for i in range(60))),
    case("console-producer headers", "console-producer", "--topic headers --sync --timeout 0 "
         "--reader-property parse.headers=true --reader-property headers.delimiter=|", "a:1,b:2|one\nc:|two\n"),
    *[case("console-producer " + c, "console-producer", "--topic compressed-%s --sync --timeout 0 "
           "--compression-codec %s" % (c, c), "x" * 64 + "\n" + "second\n")
      for c in ("gzip", "snappy", "lz4", "zstd")],
    case("console-producer unknown topic", "console-producer", "--topic nothing --sync --timeout 0 "
         "--max-block-ms 1500", "lost\n"),
    case("console-producer null key to compacted", "console-producer", "--topic compacted --sync "
         "--timeout 0", "without a key\n"),
    *[case("console-consumer partition %d" % p, "console-consumer", READ + ALL_FIELDS + "--topic alpha "
           "--partition %d --offset earliest --max-messages %d" % (p, n))
      for p, n in ((0, 15), (1, 10), (2, 12))],
    case("console-consumer headers", "console-consumer", READ + ALL_FIELDS + "--topic headers "
         "--partition 0 --offset earliest --max-messages 2"),
    case("console-consumer from offset", "console-consumer", READ + "--topic alpha --partition 1 "
         "--offset 3 --max-messages 4"),
    case("console-consumer unknown partition", "console-consumer", "--timeout-ms 3000 --topic alpha "
         "--partition 9 --offset 0"),
    case("console-consumer read committed", "console-consumer", READ + "--topic alpha --partition 0 "
         "--offset 5 --max-messages 2 --isolation-level read_committed"),
    *[case("console-consumer " + c, "console-consumer", READ + "--topic compressed-%s --partition 0 "
           "--offset earliest --max-messages 2" % c) for c in ("gzip", "snappy", "lz4", "zstd")],
    # offsets
    case("get-offsets", "get-offsets", "--topic alpha"),
    case("get-offsets earliest", "get-offsets", "--topic alpha --time -2"),
    case("get-offsets max timestamp", "get-offsets", "--topic compressed-gzip --time -3"),
    case("get-offsets earliest local", "get-offsets", "--topic alpha --time -4"),
    case("get-offsets tiered", "get-offsets", "--topic alpha --time -5"),
    case("get-offsets pending upload", "get-offsets", "--topic alpha --time -6"),
    case("get-offsets timestamp 0", "get-offsets", "--topic alpha --time 0"),
    case("get-offsets far timestamp", "get-offsets", "--topic alpha --time 99999999999999"),
    case("get-offsets partitions", "get-offsets", "--topic alpha --partitions 0,2"),
    case("get-offsets topic-partitions", "get-offsets", "--topic-partitions alpha:1,plain:0-2"),
    case("get-offsets all", "get-offsets", ""),
    case("get-offsets unknown", "get-offsets", "--topic nothing"),
    # delete-records
    # One partition at a time: what Kafka's tool prints of several is in no order.
    case("delete-records", "delete-records", "--offset-json-file {dir}/delete.json"),
    case("delete-records another", "delete-records", "--offset-json-file {dir}/delete-another.json"),
    case("delete-records beyond", "delete-records", "--offset-json-file {dir}/delete-beyond.json"),
    case("delete-records unknown", "delete-records", "--offset-json-file {dir}/delete-unknown.json "
         "--command-config {dir}/impatient.properties"),
    case("delete-records all", "delete-records", "--offset-json-file {dir}/delete-all.json"),
    case("get-offsets after delete", "get-offsets", "--topic alpha --time -2"),
    case("console-consumer deleted offset", "console-consumer", "--timeout-ms 2500 --topic alpha "
         "--partition 0 --offset 0 --max-messages 1 --command-property auto.offset.reset=earliest"),
    # log dirs, quorum, cluster
    case("log-dirs", "log-dirs", "--describe"),
    case("log-dirs topic", "log-dirs", "--describe --topic-list alpha --broker-list 1"),
    case("log-dirs unknown broker", "log-dirs", "--describe --broker-list 9"),
    case("metadata-quorum status", "metadata-quorum", "describe --status"),
    case("metadata-quorum replication", "metadata-quorum", "describe --replication"),
    case("metadata-quorum human", "metadata-quorum", "describe --replication --human-readable"),
    case("cluster id", "cluster", "cluster-id --bootstrap-server {bs}"),
    case("cluster endpoints", "cluster", "list-endpoints --bootstrap-server {bs}"),
    case("broker-api-versions", "broker-api-versions", "", compare=False),
    case("features", "features", "describe", compare=False),
    case("features unknown", "features", "upgrade --feature no.such.feature=1"),
    case("features downgrade dry run", "features", "downgrade --dry-run --feature no.such.feature=0"),
    # load tools: their batches depend on time, so on topics of their own
    case("producer-perf", "producer-perf", "--topic perf --num-records 5000 --record-size 100 "
         "--throughput -1 --producer-props bootstrap.servers={bs} acks=all"),
    case("producer-perf acks 1", "producer-perf", "--topic perf --num-records 1000 --record-size 1000 "
         "--throughput 20000 --producer-props bootstrap.servers={bs} acks=1 compression.type=lz4"),
    case("verifiable-producer", "verifiable-producer", "--topic verified --max-messages 20 "
         "--acks -1"),
    case("get-offsets perf", "get-offsets", "--topic-partitions perf:0,verified:0"),
    case("topics delete all", "topics", "--delete --topic .*"),
    case("topics list after delete", "topics", "--list"),
]

PREPARED = ["headers", "compressed-gzip", "compressed-snappy", "compressed-lz4", "compressed-zstd",
            "perf", "verified"]

DELETE_FILES = {
    "delete.json": [("alpha", 0, 3)],
    "delete-another.json": [("alpha", 1, 2)],
    "delete-beyond.json": [("alpha", 0, 1000000)],
    "delete-unknown.json": [("nothing", 0, 1)],
    "delete-all.json": [("alpha", 2, -1)],
}

# Ports, random ids (the name of the broker's own directory is one), times and durations: nothing else
# may be replaced.
NORMAL = [
    (r"((?:Topic|Cluster|Directory)\s?(?:Id|ID)[\"]?:\s*\"?)[A-Za-z0-9_-]{22}\b", r"\1ID"),
    (r"(?m)^(\d+ *\t)[A-Za-z0-9_-]{22}\t", r"\1ID\t"),     # metadata-quorum's column DirectoryId
    (r"\"directoryId\": \"[A-Za-z0-9_-]{22}\"", '"directoryId": "ID"'),
    (r"\b20\d\d-\d\d-\d\d[T ]\d\d:\d\d:\d\d[.,\d]*Z?", "TIME"),
    (r"\b\d+ ?ms ago *", lambda m: "N ms ago".ljust(len(m.group()))),
    (r"\b[\d.]+ (records/sec|ms|MB/sec)\b", r"N \1"),
    (r"(\"avg_throughput\":)[-\d.]+", r"\1N"),
    (r"\b1[6-9]\d{11}\b", "TIME"),
    (r"(MaxFollowerLagTimeMs:\s+)\d+", r"\1N"),
]

Difference = namedtuple("Difference", "cases side pattern reason line")


class ToolRunner:
    """The tools, all in one JVM (tests/support/ToolRunner.java)."""

    def __init__(self, jars):
        self.process = subprocess.Popen(
            ["java", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1",
             "--add-opens", "java.base/java.lang=ALL-UNNAMED",
             "-Dorg.apache.logging.log4j.simplelog.StatusLogger.level=OFF",
             "-Dlog4j2.level=OFF", "-cp", jars + "/*", os.path.join(SUPPORT, "ToolRunner.java")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, class_name, stdin, args):
        """-> (exit code, standard output, standard error)"""
        fields = ["=" + base64.b64encode(f.encode()).decode() for f in [class_name, stdin] + args]
        self.process.stdin.write(" ".join(fields) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("the JVM with the tools has ended")
        code, out, err = line.split()
        decode = lambda f: base64.b64decode(f[1:]).decode(errors="replace")
        return int(code), decode(out), decode(err)

    def close(self):
        self.process.stdin.close()
        self.process.wait(20)


def normalise(text, broker):
    text = text.replace(broker.dir, "DIR")
    for port, name in ((broker.port, "PORT"), (broker.controller_port, "CONTROLLER_PORT"),
                       (broker.metrics_port, "METRICS_PORT")):
        text = re.sub(r"\b%d\b" % port, name, text)
    for pattern, replacement in NORMAL:
        text = re.sub(pattern, replacement, text)
    return text


def split_json(text):
    """log-dirs prints all partitions in one line: here each gets a line of its own, in the same order."""
    out = []
    for line in text.splitlines():
        if line.startswith('{"brokers":'):
            line = line.replace('{"partition":', '\n{"partition":')
        out += line.split("\n")
    return out


def run_cases(broker, jars, only, golden, seconds):
    """-> {case name: [lines]}; seconds: {case name: how long it took}, filled here"""
    with broker.connect() as conn:
        wire.create_topics(conn, [wire.Topic(name) for name in PREPARED])
    for name, content in DELETE_FILES.items():
        with open(os.path.join(broker.dir, name), "w") as f:
            json.dump({"version": 1, "partitions": [{"topic": t, "partition": p, "offset": o}
                                                    for t, p, o in content]}, f)
    with open(os.path.join(broker.dir, "impatient.properties"), "w") as f:
        f.write("default.api.timeout.ms=20000\nrequest.timeout.ms=10000\nretries=2\n")
    runner, out = ToolRunner(jars), {}
    for c in CASES:
        if only and not fnmatch.fnmatch(c.name, only):
            continue
        class_name, bootstrap = TOOLS[c.tool]
        args = [a.format(bs=broker.bootstrap, dir=broker.dir) for a in c.args]
        if bootstrap:
            args = [bootstrap, broker.bootstrap] + args
        began = time.monotonic()
        if c.eventually and golden is None:
            time.sleep(1)
        while True:
            code, stdout, stderr = runner.run(class_name, c.stdin, args)
            out[c.name] = ["exit %d" % code] + split_json(normalise(stdout, broker)) + [
                "! " + line for line in normalise(stderr, broker).splitlines()]
            if (not c.eventually or golden is None or out[c.name] == golden.get(c.name)
                    or time.monotonic() > began + 2):
                break
        seconds[c.name] = time.monotonic() - began
    runner.close()
    return out


def write_golden(results):
    with open(GOLDEN, "w") as f:
        f.write("# What the stock tools print against Apache Kafka 4.3.1, normalised.\n"
                "# Written by tools.py --record; \"! \" marks standard error.\n")
        for c in CASES:
            if c.compare:
                f.write("\n### %s\n" % c.name)
                f.writelines("|%s\n" % line for line in results[c.name])


def read_golden():
    golden, lines = {}, None
    with open(GOLDEN) as f:
        for line in f.read().splitlines():
            if line.startswith("### "):
                lines = golden.setdefault(line[4:], [])
            elif line.startswith("|"):
                lines.append(line[1:])
    return golden


def read_differences():
    """Entries of three lines: cases, "-" or "+" and a pattern for whole lines, "why" and a reason."""
    entries, cases, lines = [], None, []
    with open(DIFFERENCES) as f:
        for number, line in enumerate(f.read().splitlines(), 1):
            word, _, rest = line.partition(" ")
            if not line or line.startswith("#"):
                continue
            if word == "case":
                cases, lines = rest, []
            elif word in "-+":
                lines.append((word, re.compile(rest), number))
            elif word == "why" and cases and lines:
                entries += [Difference(cases, side, p, rest, n) for side, p, n in lines]
                cases = None
            else:
                raise SystemExit("%s:%d: not understood: %s" % (DIFFERENCES, number, line))
    return entries


def compare(results, golden, differences):
    """-> (passed cases, [complaint])"""
    used, passed, complaints = set(), 0, []
    for name, lines in results.items():
        if name not in golden:
            complaints.append("%s: not in the golden file (--record)" % name)
            continue
        bad = []
        delta = difflib.ndiff(golden[name], lines)
        for line in delta:
            side, text = line[0], line[2:]
            if side not in "-+":
                continue
            match = [d for d in differences if d.side == side and d.pattern.fullmatch(text)
                     and fnmatch.fnmatch(name, d.cases)]
            used.update(d.line for d in match)
            if not match:
                bad.append("  %s %s" % (side, text))
        if bad:
            complaints.append("%s\n%s" % (name, "\n".join(bad)))
        passed += not bad
    stale = [d for d in differences if d.line not in used]
    return passed, complaints, stale


def check_apis(broker, results):
    """What is advertised against kafka-4.4.0-apis.txt. -> (checks passed, [complaint])"""
    with broker.connect() as conn:
        keys, supported, finalized = wire.api_versions_full(conn)
    passed, complaints, seen = 0, [], set()
    with open(APIS) as f:
        entries = [line.split() for line in f if line.strip() and not line.startswith("#")]

    def check(ok, text):
        nonlocal passed
        passed += bool(ok)
        if not ok:
            complaints.append(text)

    printed = "\n".join(results.get("broker-api-versions", []))
    features = "\n".join(results.get("features", []))
    for kind, name, key, versions, state in entries:
        low, high = (int(v) for v in versions.split("-"))
        if kind == "api":
            there = keys.get(int(key))
            seen.add(int(key))
        else:
            there = (supported if kind == "supported" else finalized).get(name)
            seen.add((kind, name))
        if state == "later":
            check(there is None, "%s %s is advertised, %s says it is not built" % (
                kind, name, os.path.basename(APIS)))
            continue
        check(there == (low, high), "%s %s: %s, expected %d-%d" % (
            kind, name, there, low, high))
        if kind == "api" and printed:
            check("%s(%s): %s" % (name, key, low if low == high else "%d to %d" % (low, high))
                  in printed, "broker-api-versions does not print %s %d to %d" % (name, low, high))
        elif kind != "api" and features:
            check(re.search(r"(?m)^Feature: %s\b" % re.escape(name), features),
                  "features does not print " + name)
    for key in set(keys) - seen:
        check(False, "API key %d is advertised, Kafka 4.4 does not have it" % key)
    for kind, there in (("supported", supported), ("finalized", finalized)):
        for name in there:
            check((kind, name) in seen, "%s feature %s is not in the list" % (kind, name))
    return passed, complaints


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=brokers.help_formatter)
    brokers.add_broker_options(parser)
    parser.add_argument("--kafka", metavar="LIBDIR", required=True,
                        help="Apache Kafka's jars: where the tools come from")
    parser.add_argument("--record", action="store_true",
                        help="write the golden file from what the control printed")
    parser.add_argument("--only", metavar="GLOB", help="only cases with such names (for debugging: "
                        "later cases need earlier ones)")
    parser.add_argument("--plant", action="store_true",
                        help="expect one other character: the run must fail")
    parser.add_argument("--show", action="store_true", help="print every output")
    options = parser.parse_args()
    control = bool(options.kafka_broker)
    if options.record and not control:
        parser.error("--record needs --kafka-broker")

    began = time.monotonic()
    # Kafka then writes no no-op records, whose number depends on the time, into its metadata log.
    with brokers.Broker(**brokers.broker_choice(options),
                        properties={"metadata.max.idle.interval.ms": 0}) as broker:
        broker.start()
        seconds = {}
        results = run_cases(broker, options.kafka, options.only,
                            None if options.record else read_golden(), seconds)
        api_passed, complaints = (0, []) if control else check_apis(broker, results)
        code = broker.ended()
        if code is not None:
            complaints.append("the broker ended with %d:\n%s" % (code, broker.log_tail()))
    if options.show:
        for name, lines in results.items():
            print("### %s (%.1f s)\n%s\n" % (name, seconds[name], "\n".join(lines)))
    if options.record:
        write_golden(results)
        print("wrote %s: %d cases" % (GOLDEN, len(results)))
        return 0

    results = {c.name: results[c.name] for c in CASES if c.compare and c.name in results}
    differences = [] if control else read_differences()
    golden = read_golden()
    if options.plant:
        golden["topics describe one"][-1] += "?"
    passed, wrong, stale = compare(results, golden, differences)
    for text in complaints + wrong:
        print("FAIL  " + text)
    if not options.only:
        for d in stale:
            print("FAIL  %s:%d explains no difference: %s %s" % (os.path.basename(DIFFERENCES),
                                                                 d.line, d.side, d.pattern.pattern))
    else:
        stale = []
    print("%d tool runs against %s compared in %.0f s: %d as Apache Kafka prints, %d known lines of "
          "difference in the list; %d version ranges and features" % (
              len(results), broker.name, time.monotonic() - began, passed, len(differences),
              api_passed))
    failed = len(complaints) + len(wrong) + len(stale)
    print("%d passed, %d failed" % (passed + api_passed, failed))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
