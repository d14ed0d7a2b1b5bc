#!/usr/bin/env python3
"""The client matrix: the same scenarios with every Kafka client that we know, on one broker.

    run.py --bootstrap HOST:PORT        a broker that is already running
    run.py --fluxmq build/release/fluxmq        starts a node for the run
    run.py --kafka "$(tests/support/kafka-control/setup)"       starts Apache Kafka, the control

Each client produces and notes what it sent and which offset was answered, reads it back, and reads
what others produced; this program compares. With --tamper the reading goes through a proxy that
changes one byte of a record, and every reader must fail: the proof that the comparison sees.
tests/cluster/README.md explains the commands and the rules C1.. that are checked.
"""
import argparse
import concurrent.futures
import contextlib
import dataclasses
import os
import subprocess
import sys
import tempfile
import time
import traceback

import broker
import records
import toolchains
from driver import ClientError, Driver
from proxy import Cut, Hold, Proxy, Tamper, Watch
from records import PARTITIONS, place

CLIENT_SECONDS_MAX = 90  # for its own scenarios, and again for reading what others wrote
CODECS = ("none", "gzip", "snappy", "lz4", "zstd")
RECORDS_PER_CODEC = 1800  # with the other scenarios more than 10,000 of each client
LARGE_BYTES = 900 * 1024

# What a client cannot do, and why. A scenario of that name is left out; any other name changes what
# is asked or expected, and is looked up where that is decided.
OLD_ALTER = "knows only AlterConfigs, which resets what it does not name"
CANNOT = {
    "librdkafka": {
        "incremental alter": OLD_ALTER + " (librdkafka before 2.2)",
    },
    "franz-go": {
        "answered append time": "does not tell it: what it reads is checked instead",
    },
    "kafka-python": {
        "null key with null value": "its send() refuses them together",
        "null header value": "its send() takes only bytes",
        "idempotent pipelining": "when idempotent it has one request per partition in flight",
    },
    "aiokafka": {
        "incremental alter": OLD_ALTER,
        "null key with null value": "its send() refuses them together",
        "pipelining": "sends one request to a broker at a time",
    },
    "kafkajs": {
        "read": "reads only as a member of a group",
        "incremental alter": OLD_ALTER,
        "interleaved header names": "its headers are an object: values of one name stay together",
        "null header value": "its types allow only strings and buffers",
        "idempotent pipelining": "when idempotent it has one request in flight",
        "ordered pipelining": "sends that run at the same time overtake each other",
    },
}

CLIENTS = {
    "librdkafka": toolchains.librdkafka,
    "java-4.1.1": toolchains.java("4.1.1"),
    "java-4.4.0": toolchains.java("4.4.0"),
    "franz-go": toolchains.franz_go,
    "confluent-kafka": toolchains.python("confluent_client.py"),
    "kafka-python": toolchains.python("kafka_python_client.py"),
    "aiokafka": toolchains.python("aiokafka_client.py"),
    "kafkajs": toolchains.kafkajs,
}


class Failure(Exception):
    """Something that must hold did not; says what."""


def must(holds, text):
    if not holds:
        raise Failure(text)


def refuse(difference):
    """Fails with the sentence of a comparison that found a difference."""
    if difference:
        raise Failure(difference)


@dataclasses.dataclass
class Written:
    """A topic that a client has written, with the notes to compare with."""
    topic: str
    notes: list
    timestamp_type: str = "create"


class Client:
    """One client program, and the steps that scenarios are made of."""

    def __init__(self, name, run, argv):
        self.name, self.run, self.cannot = name, run, CANNOT.get(name, {})
        self.work = os.path.join(run.work, name)
        os.makedirs(self.work, exist_ok=True)
        self.driver = Driver(argv, run.bootstrap, os.path.join(self.work, "stderr.log"))
        self.call = self.driver.call
        self.version, self.written = "unknown", []
        self.passed, self.failures, self.compared, self.files = 0, [], 0, 0

    def path(self, kind):
        self.files += 1
        return os.path.join(self.work, f"{self.files:03}-{kind}.jsonl")

    def call_refused(self, errors, do, **arguments):
        """The broker must refuse this with one of `errors` (clients differ in their spelling)."""
        try:
            answer = self.call(do, **arguments)
        except ClientError as error:
            must(str(error).startswith(errors), f"C13: {do}: {error}, expected {errors}")
        else:
            raise Failure(f"C13: {do}: {answer}, expected {errors}")

    def eventually(self, expected, do, key, **arguments):
        """A change of metadata may take a moment to be seen."""
        deadline = time.monotonic() + 5
        while True:
            try:
                found = self.call(do, **arguments)[key]
            except ClientError as error:
                found = str(error)
            if found == expected or isinstance(expected, str) and str(found).startswith(expected):
                return
            must(time.monotonic() < deadline, f"C13: {do}: {found}, expected {expected}")
            time.sleep(0.05)

    def create(self, name, config=None):
        topic = f"{self.run.prefix}-{self.name}-{name}"
        self.call("create", topic=topic, partitions=PARTITIONS, config=config or {})
        self.eventually(PARTITIONS, "describe", "partitions", topic=topic)
        return topic

    def plan(self, topic, count, value_bytes=None):
        """The first record is an hour old, so that the newest is never in the future."""
        return records.plan(topic, count, self.run.start_ms - 3600_000, self.cannot, value_bytes)

    def produce(self, topic, planned, bootstrap=None, ordered=True, **options):
        plan, out = self.path("plan"), self.path("note")
        records.save(plan, planned)
        self.call("produce", bootstrap=bootstrap or self.run.bootstrap, topic=topic, plan=plan,
                  out=out, **options)
        notes = records.load(out)
        refuse(records.check_notes(planned, notes, ordered))
        return notes

    def read(self, topic, bootstrap=None, **where):
        out = self.path("read")
        self.call("read", bootstrap=bootstrap or self.run.bootstrap, topic=topic,
                  partitions=PARTITIONS, out=out, **where)
        return records.load(out)

    def read_back(self, written, notes=None, **where):
        """Reads and compares with all notes, or with those given."""
        notes = written.notes if notes is None else notes
        read = self.read(written.topic, **where)
        refuse(records.compare(notes, read, written.timestamp_type))
        self.compared += len(read)

    def keep(self, topic, notes, timestamp_type="create"):
        """Reads it back if this client can, and leaves it for the others to read."""
        written = Written(topic, notes, timestamp_type)
        self.written.append(written)
        if "read" not in self.cannot:
            self.read_back(written)
        return written

    def scenario(self, name, body, *arguments):
        if name in self.cannot:
            return
        try:
            body(self, *arguments)
            self.passed += 1
        except (Failure, ClientError) as error:
            self.failures.append(f"{name}: {error}")
        except Exception as error:  # a fault of this program must not hide the other results
            traceback.print_exc()
            self.failures.append(f"{name}: {type(error).__name__}: {error}")


# --- The scenarios ---------------------------------------------------------------------------


def administration(c):
    topic = c.create("admin", {"retention.ms": "3600000", "max.message.bytes": "500000"})
    c.call_refused("TOPIC_ALREADY_EXISTS", "create", topic=topic, partitions=3, config={})

    names = ["retention.ms", "max.message.bytes"]
    c.eventually({names[0]: "3600000", names[1]: "500000"}, "config", "config",
                 topic=topic, names=names)
    c.call("alter", topic=topic, config={"retention.ms": "7200000"})
    kept = "1048588" if "incremental alter" in c.cannot else "500000"
    c.eventually({names[0]: "7200000", names[1]: kept}, "config", "config",
                 topic=topic, names=names)
    c.call_refused(("INVALID_CONFIG", "INVALID_REQUEST"), "alter", topic=topic,
                   config={"retention.ms": "long"})

    c.call("grow", topic=topic, partitions=5)
    c.eventually(5, "describe", "partitions", topic=topic)
    c.call_refused("INVALID_PARTITIONS", "grow", topic=topic, partitions=2)

    notes = c.produce(topic, c.plan(topic, 120))
    ends = [sum(n["partition"] == p for n in notes) for p in range(5)]
    c.eventually(ends, "offsets", "offsets", topic=topic, partitions=5, at="latest")
    starts = [end // 2 for end in ends]
    c.call("delete_records", topic=topic, before=starts)
    c.eventually(starts, "offsets", "offsets", topic=topic, partitions=5, at="earliest")
    if "read" not in c.cannot:
        c.read_back(Written(topic, records.from_offset(notes, starts)))
    c.call_refused("OFFSET_OUT_OF_RANGE", "delete_records", topic=topic,
                   before=[end + 1 for end in ends])

    c.call("delete", topic=topic)
    c.eventually("UNKNOWN_TOPIC_OR_PART", "describe", "partitions", topic=topic)


def compression(c, codec):
    topic = c.create(codec)
    notes = c.produce(topic, c.plan(topic, RECORDS_PER_CODEC), compression=codec)
    written = c.keep(topic, notes)

    middle = notes[len(notes) // 2]["timestamp"]
    for ms in (0, middle, notes[-1]["timestamp"] + 60_000):
        expected = records.starts_at_time(notes, ms)
        found = c.call("offsets", topic=topic, partitions=PARTITIONS, at=ms)["offsets"]
        must(found == expected, f"C8: offsets at {ms}: {found}, expected {expected}")
    if "read" in c.cannot:
        return

    starts = records.starts_at_time(notes, middle)
    c.read_back(written, records.from_offset(notes, starts), time=middle)
    c.read_back(written, [], time=notes[-1]["timestamp"] + 60_000)
    # Into the middle of a batch, and at the end of a partition.
    starts = [7, 333, sum(n["partition"] == 2 for n in notes)]
    watch = Watch()
    with Proxy(c.run.bootstrap, watch) as through:
        c.read_back(written, records.from_offset(notes, starts), bootstrap=through, offsets=starts)
    # Clients may leave a batch as it is where compression would not make it smaller.
    must(codec in watch.codecs and watch.codecs <= {codec, "none"},
         f"C9: batches are stored as {sorted(watch.codecs)}")


def large(c):
    topic = c.create("large")
    planned = c.plan(topic, 5) + c.plan(topic, 4, LARGE_BYTES) + c.plan(topic, 5)
    c.keep(topic, c.produce(topic, planned))

    small = c.create("small", {"max.message.bytes": "100000"})
    plan = c.path("plan")
    records.save(plan, c.plan(small, 1, 200_000))
    c.call_refused(("MESSAGE_TOO_LARGE", "MSG_SIZE_TOO_LARGE", "MESSAGE_SIZE_TOO_LARGE"), "produce",
                   bootstrap=c.run.bootstrap, topic=small, plan=plan, out=c.path("note"))


def retries(c):
    topic = c.create("retries")
    cut = Cut([(3, "answer"), (6, "request"), (9, "answer"), (12, "request")])
    with Proxy(c.run.bootstrap, cut) as through:
        notes = c.produce(topic, c.plan(topic, 900), bootstrap=through, idempotent=True,
                          in_flight=5, batch_bytes=2000)
    must(not cut.moments, f"C10: not cut in {cut.seen} requests: {cut.moments}")
    c.keep(topic, notes)


def pipelining(c):
    topic = c.create("pipelining")
    hold = Hold(0.02)
    idempotent = "idempotent pipelining" not in c.cannot
    with Proxy(c.run.bootstrap, hold) as through:
        notes = c.produce(topic, c.plan(topic, 1500), bootstrap=through, in_flight=5,
                          batch_bytes=2000, idempotent=idempotent,
                          ordered="ordered pipelining" not in c.cannot)
    must(hold.peak >= 2, f"C11: never more than {hold.peak} Produce in flight")
    c.keep(topic, notes)


def append_time(c):
    topic = c.create("append", {"message.timestamp.type": "LogAppendTime"})
    before = int(time.time() * 1000)
    notes = c.produce(topic, c.plan(topic, 300))
    after = int(time.time() * 1000)
    told = {place(n): n["answered_timestamp"] for n in notes}
    if "answered append time" in c.cannot:
        told = {place(r): r["timestamp"] for r in c.read(topic)}
    for n in notes:
        n["timestamp"] = told.get(place(n), 0)
        must(before - 5 <= n["timestamp"] <= after + 5,
             f"C6: append time {n['timestamp']} is not within {before}..{after}")
    c.keep(topic, notes, "append")


def kcat(c):
    """The command-line tool on librdkafka. It prints bytes as they are, so it is asked for their
    lengths (-1 is null); what it produces is read by the library."""
    common = ["kcat", "-q", "-b", c.run.bootstrap, "-t"]
    for written in c.written[:len(CODECS)]:
        middle = written.notes[len(written.notes) // 2]["timestamp"]
        starts = records.starts_at_time(written.notes, middle)
        for where, notes in (("beginning", written.notes),
                             (f"s@{middle}", records.from_offset(written.notes, starts))):
            out = output(common + [written.topic, "-C", "-e", "-o", where,
                                   "-f", "%p %o %T %K %S\\n"])
            read = sorted(tuple(map(int, line.split())) for line in out.splitlines())
            must(read == sorted((*place(n), n["timestamp"], length(n["key"]), length(n["value"]))
                                for n in notes), f"C3: kcat -o {where} reads {written.topic}")
            c.compared += len(read)

    topic = c.create("kcat")
    lines = [(f"key {i}", f"value {i}") for i in range(500)]
    output(common + [topic, "-P", "-p", "1", "-z", "lz4", "-K", ":", "-H", "h=1", "-H", "h=2"],
           input="".join(f"{k}:{v}\n" for k, v in lines))
    read = [(unhex(r["key"]), unhex(r["value"]), r["headers"]) for r in c.read(topic)]
    must(read == [(k, v, [["h", "31"], ["h", "32"]]) for k, v in lines], "C5: kcat -P")
    c.compared += len(read)


def output(argv, **options):
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          timeout=Driver.CALL_SECONDS_MAX, check=False, **options)
    must(done.returncode == 0, f"{argv}: {done.stderr}")
    return done.stdout


def length(text):
    return -1 if text is None else len(text) // 2


def unhex(text):
    return bytes.fromhex(text).decode()


def matrix(c):
    c.version = c.call("version")["version"]
    c.scenario("administration", administration)
    for codec in CODECS:
        c.scenario(f"compression {codec}", compression, codec)
    c.scenario("large", large)
    c.scenario("retries", retries)
    c.scenario("pipelining", pipelining)
    c.scenario("append time", append_time)
    if c.name == "librdkafka":
        c.scenario("kcat", kcat)


def cross(clients):
    """C12: every topic is read by another client too; over its topics a client meets them all.
    What a client wrote that cannot read is read by all. One reader serves one pair at a time."""
    readers = [c for c in clients if "read" not in c.cannot]
    pairs = {reader: [] for reader in readers}
    for writer in clients:
        others = [r for r in readers if r is not writer]
        for i, written in enumerate(writer.written):
            first = i % len(others) if others else 0
            for reader in others if "read" in writer.cannot else others[first:first + 1]:
                pairs[reader].append((writer, written))

    def read_all(reader):
        reader.driver.allow(CLIENT_SECONDS_MAX)
        for writer, written in pairs[reader]:
            reader.scenario(f"reads {written.topic}",
                            lambda c, written=written: c.read_back(written))

    return readers, read_all


def tampered(c):
    """Each reader reads one topic as it is, then through a proxy that changes one byte of a record,
    in one way after the other: each time it must fail."""
    c.version = c.call("version")["version"]
    topic = c.create("tamper")
    written = c.keep(topic, c.produce(topic, c.plan(topic, 400)))
    for kind in Tamper.KINDS:
        c.scenario(f"tampered {kind}", reads_tampered, written, kind)


def reads_tampered(c, written, kind):
    tamper = Tamper(kind)
    with Proxy(c.run.bootstrap, tamper) as through:
        try:
            c.read_back(written, bootstrap=through)
        except Failure as error:
            must(tamper.flipped, f"no byte was changed, yet: {error}")
            print(f"  {c.name}: {kind} changed: FAILS as it must: {error}")
        else:
            raise Failure(f"{tamper.flipped} bytes were changed and the comparison saw nothing")


# --- The run ---------------------------------------------------------------------------------


class Run:
    def __init__(self, options, work):
        self.work, self.bootstrap = work, options.bootstrap
        self.start_ms = int(time.time() * 1000)
        self.prefix = f"matrix-{self.start_ms}"


def prepare(names, cache_root):
    """Installs and builds; returns the command of each client, and why others are missing."""
    cache, ready, missing = toolchains.Cache(cache_root), {}, {}
    for name in names:
        try:
            ready[name] = CLIENTS[name](cache)
        except toolchains.Missing as error:
            missing[name] = str(error)
    return ready, missing


def run_all(options, run, ready):
    clients = [Client(name, run, argv) for name, argv in ready.items()]
    if options.tamper:
        clients = [c for c in clients if "read" not in c.cannot]

    def whole(c):
        c.driver.allow(CLIENT_SECONDS_MAX)
        try:
            (tampered if options.tamper else matrix)(c)
        except (Failure, ClientError) as error:
            c.failures.append(f"start: {error}")

    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(whole, clients))
        if not options.tamper:
            readers, read_all = cross(clients)
            list(pool.map(read_all, readers))
    for c in clients:
        c.driver.stop()
    return clients


def report(clients, missing):
    for c in clients:
        sent = sum(len(w.notes) for w in c.written)
        print(f"{c.name:16} {c.version:28} {c.passed:3} passed, {len(c.failures)} failed, "
              f"{sent:,} records sent, {c.compared:,} compared")
        for failure in c.failures:
            print(f"    FAILED {failure}")
        for what, why in c.cannot.items():
            print(f"    cannot: {what}: {why}")
    for name, why in missing.items():
        print(f"{name:16} SKIPPED: {why}")
    passed, failed = sum(c.passed for c in clients), sum(len(c.failures) for c in clients)
    if missing and os.environ.get("CI") == "true":
        failed += len(missing)
        print("CI=true: a client that is skipped is a failure")
    print(f"{passed} passed, {failed} failed, {len(missing)} skipped")
    return failed or not passed


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--bootstrap", metavar="HOST:PORT", help="a broker that is running")
    where.add_argument("--fluxmq", metavar="BINARY", help="start this fluxmq")
    where.add_argument("--kafka", metavar="LIBDIR", help="start Apache Kafka from these jars")
    where.add_argument("--install-only", action="store_true", help="only fill the cache")
    parser.add_argument("--clients", default=",".join(CLIENTS), help="names, separated by commas")
    parser.add_argument("--work", metavar="DIR", help="keep plans, notes, reads and logs here")
    parser.add_argument("--jobs", type=int, default=2, help="clients at the same time (2)")
    parser.add_argument("--tamper", action="store_true", help="prove that the comparison sees")
    options = parser.parse_args()
    options.clients = options.clients.split(",")
    unknown = set(options.clients) - set(CLIENTS)
    if unknown:
        parser.error(f"unknown clients {', '.join(sorted(unknown))}; known: {', '.join(CLIENTS)}")
    return options


def main():
    options = arguments()
    cache = os.environ.get("FLUXMQ_CACHE") or os.path.expanduser("~/.cache/fluxmq")
    ready, missing = prepare(options.clients, os.path.join(cache, "clients"))
    if options.install_only:
        for name, why in missing.items():
            print(f"{name}: {why}")
        return bool(missing)
    with contextlib.ExitStack() as stack:
        work = options.work or stack.enter_context(tempfile.TemporaryDirectory(prefix="clients-"))
        work = os.path.abspath(work)
        os.makedirs(work, exist_ok=True)
        if options.fluxmq:
            options.bootstrap = stack.enter_context(broker.fluxmq(options.fluxmq, work))
        elif options.kafka:
            options.bootstrap = stack.enter_context(broker.kafka(options.kafka, work))
        began = time.monotonic()
        clients = run_all(options, Run(options, work), ready)
        print(f"{time.monotonic() - began:.0f} s on {options.bootstrap}")
        return report(clients, missing)


if __name__ == "__main__":
    sys.exit(1 if main() else 0)
