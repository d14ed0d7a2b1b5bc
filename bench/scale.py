#!/usr/bin/env python3
"""bench scale: how soon one node serves, and what idle clients and many partitions cost it.

Each figure stands beside its target; exit 1 when one is missed.

  start        from before the fork that execs the broker until Metadata names the leader of an
               existing topic, and until a Produce (acks=all) to it is acknowledged. The client is
               a raw socket that connects every 0.2 ms, so that its own start does not count.
               Median of --rounds, after kill -9 and after a clean stop.
  idle         resident memory, with one topic and no client, after a rest.
  connections  resident memory with 10,000 open connections, each of which has done ApiVersions and
               Metadata. Local addresses 127.0.0.N, so that ports do not run out.
  partitions   10,000 of them over 20 topics, one record in each: time to create and to write them;
               the start after a clean stop (as above, so until it serves; median of 3), resident
               memory against the same node without them, descriptors and maps.
"""
import argparse
import os
import resource
import socket
import statistics
import struct
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, "tests", "support"))
import kafka_wire as wire  # noqa: E402
from broker import Broker  # noqa: E402

START_MS = 50
IDLE_MB = 20
CONNECTIONS_MB = 100
PARTITIONS_START_S = 2
PARTITIONS_MORE_MB = 40
TOPICS = 20
REST_S = 3  # until what a start or a load leaves to do is done
GIVE_UP_S = 60
POLL_S = 0.0002  # between two connects: without it the client would take a core from the broker


class Report:
    def __init__(self):
        self.missed = 0

    def target(self, what, value, unit, below):
        ok = value < below
        self.missed += not ok
        print("%-52s %9.1f %-3s  target < %g %s  %s" %
              (what, value, unit, below, unit, "ok" if ok else "MISSED"), flush=True)

    @staticmethod
    def say(what, text):
        print("%-52s %s" % (what, text), flush=True)


# ---------------------------------------------------------------- starting


def metadata_frame(topic, correlation_id):
    w = wire.Writer(True).count(1).raw(bytes(16)).string(topic).tags()
    body = w.boolean(False).boolean(False).tags().bytes()
    return wire.encode_request(wire.METADATA, 12, correlation_id, body)


def produce_frame(topic, correlation_id):
    batch = wire.encode_batch([(b"key", b"value", [])])
    body = wire.produce_body([(topic, [(0, batch)])])
    return wire.encode_request(wire.PRODUCE, 9, correlation_id, body)


def names_leader(frame):
    r = wire.Reader(frame, True, 4)
    r.tags()
    topics = wire.read_metadata(r, 12).topics
    return not topics[0].error and topics[0].partitions[0].leader >= 0


def is_acknowledged(frame):
    r = wire.Reader(frame, True, 4)
    r.tags()
    return wire.read_produce(r, 9)[0].error == 0


def receive_frame(s):
    data = b""
    while len(data) < 4 or len(data) < 4 + struct.unpack_from(">i", data)[0]:
        more = s.recv(65536)
        if not more:
            raise ConnectionError("closed")
        data += more
    return data[4:]


def connect_at_once(b, deadline):
    while True:
        s = socket.socket()
        try:
            s.connect((b.host, b.port))
            s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            s.settimeout(GIVE_UP_S)
            return s
        except ConnectionRefusedError:
            s.close()
            time.sleep(POLL_S)
        if b.ended() is not None or time.monotonic() > deadline:
            raise SystemExit("the broker did not start:\n" + b.log_tail())


def until(s, request, good):
    while True:
        s.sendall(request)
        if good(receive_frame(s)):
            return time.monotonic()


def timed_start(b, topic):
    """-> milliseconds until a leader is named, and until a record is acknowledged"""
    metadata, produce = metadata_frame(topic, 1), produce_frame(topic, 2)
    b.start(wait=False)  # b.started is the moment before the fork
    with connect_at_once(b, b.started + GIVE_UP_S) as s:
        named = until(s, metadata, names_leader)
        acknowledged = until(s, produce, is_acknowledged)
    return (named - b.started) * 1e3, (acknowledged - b.started) * 1e3


def measure_start(report, binary, rounds):
    for how, end in (("kill -9", Broker.kill), ("clean stop", Broker.stop)):
        with Broker(fluxmq=binary) as b:
            b.start()
            with b.connect() as conn:
                wire.create_topics(conn, [wire.Topic("existing", 1)])
                wire.produce(conn, "existing", 0, wire.encode_batch([(b"k", b"v", [])]))
            times = []
            for _ in range(rounds):
                end(b)
                times.append(timed_start(b, "existing"))
            for i, what in enumerate(("Metadata names the leader", "Produce is acknowledged")):
                column = sorted(t[i] for t in times)
                report.target("after %s: %s" % (how, what), statistics.median(column), "ms", START_MS)
                report.say("", "(least %.1f, greatest %.1f)" % (column[0], column[-1]))


# ---------------------------------------------------------------- memory


def rss_mb(b):
    return b.rss_kb() / 1024


def descriptors(b):
    return len(os.listdir("/proc/%d/fd" % b.pid))


def maps(b):
    with open("/proc/%d/maps" % b.pid) as f:
        return sum(1 for _ in f)


def measure_idle(report, binary):
    with Broker(fluxmq=binary) as b:
        b.start()
        with b.connect() as conn:
            wire.create_topics(conn, [wire.Topic("idle", 1)])
            wire.produce(conn, "idle", 0, wire.encode_batch([(b"k", b"v", [])]))
        time.sleep(REST_S)
        report.target("resident memory, idle", rss_mb(b), "MB", IDLE_MB)
        report.say("idle: descriptors, maps", "%d, %d" % (descriptors(b), maps(b)))


def open_idle_connection(b, number, requests):
    s = socket.socket()
    s.bind(("127.0.0.%d" % (2 + number // 2000), 0))
    s.connect((b.host, b.port))
    for request in requests:
        s.sendall(request)
        receive_frame(s)
    return s


def measure_connections(report, binary, count):
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    if limit < count + 100:
        raise SystemExit("a descriptor limit of %d is too low for %d connections" % (limit, count))
    body = wire.Writer(True).string("scale").string("1").tags().bytes()
    requests = (wire.encode_request(wire.API_VERSIONS, 3, 1, body), metadata_frame("idle", 2))
    with Broker(fluxmq=binary) as b:
        b.start()
        with b.connect() as conn:
            wire.create_topics(conn, [wire.Topic("idle", 1)])
        began, before = time.monotonic(), rss_mb(b)
        connections = [open_idle_connection(b, i, requests) for i in range(count)]
        report.say("%d connections, each with two requests" % count,
                   "opened in %.1f s" % (time.monotonic() - began))
        time.sleep(REST_S)
        report.target("resident memory, %d idle connections" % count, rss_mb(b), "MB",
                      CONNECTIONS_MB)
        report.say("", "(%.1f MB before them; %d descriptors)" % (before, descriptors(b)))
        for s in (connections[0], connections[-1]):  # they still work
            s.sendall(requests[1])
            receive_frame(s)
        for s in connections:
            s.close()
        time.sleep(REST_S)
        report.say("resident memory, when they have gone", "%.1f MB" % rss_mb(b))


# ---------------------------------------------------------------- partitions


def write_all(conn, topics, per_topic):
    batch = wire.encode_batch([(b"key", b"value", [])])
    for topic in topics:
        body = wire.produce_body([(topic, [(p, batch) for p in range(per_topic)])])
        failed = [a for a in wire.read_produce(conn.call(wire.PRODUCE, 9, body), 9) if a.error]
        if failed:
            raise SystemExit("%s-%d: %s" % (topic, failed[0].index,
                                            wire.error_name(failed[0].error)))


def count_readable(conn, topics, per_topic):
    """Partitions whose one record can be fetched."""
    found = 0
    for topic in topics:
        answers = wire.fetch(conn, [(topic, [(p, 0) for p in range(per_topic)])])
        found += sum(len(wire.split_batches(a.records)) == 1 for a in answers if not a.error)
    return found


def restarted_without(binary):
    """Resident memory after a clean stop and a start, with one topic."""
    with Broker(fluxmq=binary) as b:
        b.start()
        with b.connect() as conn:
            wire.create_topics(conn, [wire.Topic("first", 1)])
        b.stop()
        timed_start(b, "first")
        time.sleep(REST_S)
        return rss_mb(b)


def measure_partitions(report, binary, count):
    none_mb = restarted_without(binary)
    per_topic = count // TOPICS
    topics = ["many-%02d" % i for i in range(TOPICS)]
    with Broker(fluxmq=binary) as b:
        b.start()
        with b.connect(timeout=GIVE_UP_S) as conn:
            wire.create_topics(conn, [wire.Topic("first", 1)])
            began = time.monotonic()
            for topic in topics:
                wire.create_topics(conn, [wire.Topic(topic, per_topic)])
            report.say("%d partitions in %d topics" % (count, TOPICS),
                       "created in %.2f s" % (time.monotonic() - began))
            began = time.monotonic()
            write_all(conn, topics, per_topic)
            report.say("one record in each", "written in %.2f s" % (time.monotonic() - began))
        report.say("after writing: memory, descriptors, maps",
                   "%.1f MB, %d, %d" % (rss_mb(b), descriptors(b), maps(b)))
        named, acknowledged, stops = [], [], []
        for _ in range(3):
            began = time.monotonic()
            if b.stop() != 0:
                raise SystemExit("the clean stop failed:\n" + b.log_tail())
            stops.append(time.monotonic() - began)
            a, p = timed_start(b, topics[-1])
            named.append(a / 1e3), acknowledged.append(p / 1e3)
        report.say("clean stop, each", ", ".join("%.2f s" % s for s in stops))
        report.target("start with %d partitions: Metadata" % count, statistics.median(named), "s",
                      PARTITIONS_START_S)
        report.target("start with %d partitions: Produce" % count,
                      statistics.median(acknowledged), "s", PARTITIONS_START_S)
        time.sleep(REST_S)
        report.target("resident memory more than with none (%.1f MB)" % none_mb,
                      rss_mb(b) - none_mb, "MB", PARTITIONS_MORE_MB)
        report.say("after the start: descriptors, maps", "%d, %d" % (descriptors(b), maps(b)))
        with b.connect(timeout=GIVE_UP_S) as conn:
            found = count_readable(conn, topics[:-1], per_topic)
        if found != per_topic * (TOPICS - 1):
            raise SystemExit("%d of %d partitions have their record" %
                             (found, per_topic * (TOPICS - 1)))
        report.say("partitions read back", "%d" % found)
        report.say("after reading: memory, descriptors, maps",
                   "%.1f MB, %d, %d" % (rss_mb(b), descriptors(b), maps(b)))
        b.kill()
        _, p = timed_start(b, topics[-1])
        report.say("start after kill -9", "%.2f s" % (p / 1e3))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--fluxmq", default=os.path.join(ROOT, "build", "release", "fluxmq"))
    p.add_argument("--rounds", type=int, default=20, help="starts of each kind")
    p.add_argument("--connections", type=int, default=10000)
    p.add_argument("--partitions", type=int, default=10000)
    p.add_argument("--only", choices=("start", "idle", "connections", "partitions"))
    o = p.parse_args()
    report = Report()
    if o.only in (None, "start"):
        measure_start(report, o.fluxmq, o.rounds)
    if o.only in (None, "idle"):
        measure_idle(report, o.fluxmq)
    if o.only in (None, "connections"):
        measure_connections(report, o.fluxmq, o.connections)
    if o.only in (None, "partitions"):
        measure_partitions(report, o.fluxmq, o.partitions)
    print("%d targets missed" % report.missed)
    return 1 if report.missed else 0


if __name__ == "__main__":
    sys.exit(main())
