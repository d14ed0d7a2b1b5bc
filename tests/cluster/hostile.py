#!/usr/bin/env python3
"""Hostile traffic beside a client that is checked: it must notice nothing.

Another process sends malformed, truncated, oversized, mutated and slow requests of every advertised
API and version, TLS and garbage, batches with a bad CRC, wrong counts, unsorted offsets, wrong magic,
decompression bombs, invalid and duplicate names (tests/support/hostile_traffic.py). In turn with that,
in phases of the same length, it sends what is in order at the same rate: as many connections, requests
and bytes. Meanwhile a client writes and reads at a steady rate.

What must hold: the broker does not end; its RSS grows by less than 64 MB; the client's 99th
percentile under hostile traffic is at most twice that under well-formed traffic of the same rate;
each of its records is there, once, in order. Before that, what has one right answer is asked once
(EXACT), with the answers that Apache Kafka gives.

    hostile.py --fluxmq build/release/fluxmq --minutes 10
    hostile.py --kafka-broker LIBDIR --minutes 1        # the control; its heap is not held to 64 MB
"""

import argparse
import gzip
import multiprocessing
import os
import random
import signal
import socket
import struct
import sys
import threading
import time
from collections import Counter

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import broker as brokers
import hostile_traffic as hostile
import kafka_wire as wire

TOPIC = "the-checked-clients-own-topic"
RSS_GROWTH_MB = 64
P99_FACTOR = 2.0
RATE_DIFFERENCE = 0.1  # at most between the two kinds of traffic, in connections, requests and bytes
PHASE_S = 10
CLIENT_RATE = 100
ATTACK_RATE = 100
ATTACKERS = 8


# ---------------------------------------------------------------- what has one right answer


def outcome(broker, data, api, version, read):
    """Sends bytes. -> what `read` makes of the answer, "closed" or "silent" """
    with broker.connect(timeout=3) as conn:
        conn.pending[1] = (api, version)
        try:
            conn.sock.sendall(data)
            return read(conn.receive()[3])
        except socket.timeout:
            return "silent"
        except (OSError, wire.WireError):
            return "closed"


def produce_outcome(broker, batch, topic=hostile.TOPICS[0], version=9):
    body = wire.produce_body([(topic, [(0, batch)])], version=version)
    data = wire.encode_request(wire.PRODUCE, version, 1, body)
    return outcome(broker, data, wire.PRODUCE, version,
                   lambda r: wire.error_name(wire.read_produce(r, version)[0].error))


def raw_outcome(broker, data):
    with broker.connect(timeout=3) as conn:
        try:
            conn.sock.sendall(data)
            return "answered" if conn.sock.recv(1000) else "closed"
        except socket.timeout:
            return "silent"
        except OSError:
            return "closed"


def metadata_by_id_outcome(broker, version):
    """Versions 10 and 11 have the field for a topic id, but cannot answer one that is not known,
    for there the name in the answer may not be null."""
    body = wire.uvarint(2) + b"\x11" * 16 + wire.Writer(True).string(None).bytes() + b"\0"
    body += b"\0\0\0\0" if version == 10 else b"\0\0\0"
    return outcome(broker, wire.encode_request(wire.METADATA, version, 1, body), wire.METADATA,
                   version, lambda r: wire.error_name(wire.read_metadata(r, version).topics[0].error))


def served_beside(broker, end):
    """Peers ask for much, read nothing and then end their side of the connection, or send garbage:
    so that answers are left over which no socket takes. How much that is, is for the kernel to say;
    so each asks for somewhat more. -> whether others, on each worker, are answered meanwhile"""
    body = wire.Writer(True).count(1).i8(4).string("1").count(None).tags()
    request = wire.encode_request(wire.DESCRIBE_CONFIGS, 4, 1,
                                  body.boolean(True).boolean(True).tags().bytes())
    rude, served = [], True
    for count in range(4, 100, 4):
        s = socket.socket()
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        s.settimeout(1)
        s.connect((broker.host, broker.port))
        rude.append(s)
        try:
            s.sendall(request * count)
            time.sleep(0.05)
            end(s)
        except OSError:
            pass  # it reads no more of us
        served = served and broker.answers() and broker.answers()
    for s in rude:
        s.close()
    return "served" if served else "others wait"


def create_outcome(broker, names):
    with broker.connect() as conn:
        answers = wire.create_topics(conn, [wire.Topic(n) for n in names], check=False)
        return wire.error_name(answers[names[0]][0])


def exact_cases(broker, deleted_id):
    """-> [(what, answers that are right, function)]"""
    rng = random.Random(3)
    def batch(kind):
        return hostile.bad_batch(rng, kind)[1]

    invalid = ("INVALID_RECORD", "CORRUPT_MESSAGE")
    records = [(b"a", b"b", [])] * 3
    good = wire.encode_batch(records)
    request = wire.encode_request(wire.METADATA, 12, 1, b"\0\0\0\0")
    unsorted = b"".join(wire.encode_record(d, 0, b"k", b"v") for d in (2, 1, 0))
    v99 = struct.pack(">ihhih", 8 + 2 + 6, wire.API_VERSIONS, 99, 1, 5) + b"guest\0"
    return [
        ("a good batch", ("NONE",), lambda: produce_outcome(broker, good)),
        ("bad CRC", ("CORRUPT_MESSAGE",), lambda: produce_outcome(broker, batch("crc"))),
        ("count too small", invalid, lambda: produce_outcome(broker, wire.encode_batch(records,
                                                                                      count=2))),
        ("count too large", invalid, lambda: produce_outcome(broker, wire.encode_batch(records,
                                                                                      count=4))),
        # Kafka looks at the offsets inside a batch only when it is compressed.
        ("unsorted offsets", invalid if broker.binary else ("NONE",),
         lambda: produce_outcome(broker, batch("unsorted"))),
        ("unsorted offsets, compressed", invalid if broker.binary else ("UNKNOWN_SERVER_ERROR",),
         lambda: produce_outcome(
            broker, wire.encode_batch(records, attributes=wire.GZIP,
                                      payload=gzip.compress(unsorted)))),
        ("magic 3", invalid + ("UNSUPPORTED_FOR_MESSAGE_FORMAT",),
         lambda: produce_outcome(broker, wire.encode_batch(records, magic=3))),
        ("magic 1", invalid + ("UNSUPPORTED_FOR_MESSAGE_FORMAT",),
         lambda: produce_outcome(broker, wire.encode_batch(records, magic=1))),
        ("control batch of a client", invalid, lambda: produce_outcome(broker, batch("control"))),
        ("garbage for gzip", invalid + ("UNKNOWN_SERVER_ERROR",), lambda: produce_outcome(
            broker, wire.encode_batch(records, attributes=1, payload=b"garbage" * 9))),
        ("two batches in one partition", invalid, lambda: produce_outcome(broker, good + good)),
        ("no batch", invalid, lambda: produce_outcome(broker, b"")),
        ("unknown topic", ("UNKNOWN_TOPIC_OR_PARTITION",),
         lambda: produce_outcome(broker, good, "nobody-made-this")),
        ("the id of a deleted topic", ("UNKNOWN_TOPIC_ID",),
         lambda: produce_outcome(broker, good, deleted_id, 13)),
        ("record larger than max.message.bytes", ("MESSAGE_TOO_LARGE",), lambda: produce_outcome(
            broker, wire.encode_batch([(None, bytes(1100000), [])]))),
        ("invalid topic name", ("INVALID_TOPIC_EXCEPTION",), lambda: create_outcome(broker, ["a/b"])),
        ("empty topic name", ("INVALID_TOPIC_EXCEPTION",), lambda: create_outcome(broker, [""])),
        ("topic twice in one request", ("INVALID_REQUEST",),
         lambda: create_outcome(broker, ["twice", "twice"])),
        ("ApiVersions of the future", ("UNSUPPORTED_VERSION",), lambda: outcome(
            broker, v99, wire.API_VERSIONS, 0, lambda r: wire.error_name(r.i16()))),
        ("unknown API", ("closed",),
         lambda: raw_outcome(broker, wire.encode_request(999, 0, 1, b""))),
        ("unknown version", ("closed",),
         lambda: raw_outcome(broker, wire.encode_request(wire.METADATA, 99, 1, b"\0" * 9))),
        ("frame larger than socket.request.max.bytes", ("closed",),
         lambda: raw_outcome(broker, struct.pack(">i", 104857601) + bytes(100))),
        ("negative length", ("closed",), lambda: raw_outcome(broker, b"\xff\xff\xff\xff" + request)),
        ("frame that ends in its header", ("closed",),
         lambda: raw_outcome(broker, struct.pack(">i", 3) + bytes(3))),
        ("TLS hello", ("closed",),
         lambda: raw_outcome(broker, bytes.fromhex("1603010200010001fc0303") + bytes(500))),
        ("HTTP", ("closed",), lambda: raw_outcome(broker, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")),
        ("array longer than its frame", ("closed",), lambda: raw_outcome(
            broker, wire.encode_request(wire.METADATA, 12, 1, b"\xff\xff\xff\xff\x0f"))),
        ("Metadata v10 by topic id", ("INVALID_REQUEST",),
         lambda: metadata_by_id_outcome(broker, 10)),
        ("Metadata v11 by topic id", ("INVALID_REQUEST",),
         lambda: metadata_by_id_outcome(broker, 11)),
        ("a peer that reads nothing and ends its side", ("served",),
         lambda: served_beside(broker, lambda s: s.shutdown(socket.SHUT_WR))),
        ("a peer that reads nothing and sends garbage", ("served",),
         lambda: served_beside(broker, lambda s: s.sendall(b"\xff" * 64))),
        ("half a request, then silence", ("silent",),
         lambda: raw_outcome(broker, request[:len(request) // 2])),
    ]


# ---------------------------------------------------------------- the checked client


class Client:
    """Writes numbered records at a steady rate, reads them back, notes how long each took."""

    def __init__(self, broker):
        self.writer, self.reader = broker.connect(), broker.connect()
        self.written = 0
        self.read = 0
        self.errors = []

    def run(self, seconds, rate, latencies):
        begin = time.monotonic()
        n = 0
        while time.monotonic() - begin < seconds:
            due = begin + n / rate
            now = time.monotonic()
            if now < due:
                time.sleep(due - now)
            n += 1
            self.step(latencies, due)

    def step(self, latencies, due):
        """Latency counts from when the record was due: a stall is seen by all who waited in it."""
        value = b"record %d" % self.written
        answer = wire.produce(self.writer, TOPIC, 0, wire.encode_batch([(None, value, [])]))
        latencies.append(1000 * (time.monotonic() - due))
        if answer.base_offset != self.written:
            self.errors.append("record %d answered at %d" % (self.written, answer.base_offset))
        self.written += 1
        (part,) = wire.fetch(self.reader, [(TOPIC, [(0, self.read)])])
        self.take(part)

    def take(self, part):
        if part.error:
            self.errors.append("fetch at %d: %s" % (self.read, wire.error_name(part.error)))
        for b in wire.split_batches(part.records):
            for offset, _, _, value, _ in wire.decode_records(b):
                if offset < self.read:
                    continue
                if offset != self.read or value != b"record %d" % offset:
                    self.errors.append("offset %d holds %r, expected record %d" % (offset, value,
                                                                                  self.read))
                self.read = offset + 1

    def read_all(self):
        self.read = 0
        while self.read < self.written:
            before = self.read
            (part,) = wire.fetch(self.reader, [(TOPIC, [(0, self.read)])], max_wait_ms=500,
                                 min_bytes=1)
            self.take(part)
            if self.read == before:
                self.errors.append("nothing to read at %d of %d" % (self.read, self.written))
                return


def attack_process(address, seed, versions, topic_ids, seconds, is_hostile, queue):
    """Several attackers side by side, so that one that waits for an answer holds up no other."""
    attackers = [hostile.Attacker(*address, seed * ATTACKERS + i, versions, topic_ids, is_hostile)
                 for i in range(ATTACKERS)]
    threads = [threading.Thread(target=a.run, args=(seconds, ATTACK_RATE / ATTACKERS))
               for a in attackers]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    counts, outcomes, sent, apis = Counter(), Counter(), Counter(), set()
    for a in attackers:
        apis |= a.apis_sent
        for total, new in ((counts, a.counts), (outcomes, a.outcomes), (sent, a.sent)):
            total.update(new)
    queue.put((counts, outcomes, sent, apis))


def janitor(broker):
    """Topics that spoilt requests made go; those they deleted come back. -> ids of the latter"""
    with broker.connect() as conn:
        there = {t.name: t for t in wire.metadata(conn).topics if not t.name.startswith("__")}
        extra = [n for n in there if n != TOPIC and n not in hostile.TOPICS]
        if extra:
            wire.delete_topics(conn, extra)
        missing = [n for n in hostile.TOPICS if n not in there]
        if missing:
            wire.create_topics(conn, [wire.Topic(n, 3, {"retention.bytes": "1000000"})
                                      for n in missing], check=False)
        return [t.topic_id for t in wire.metadata(conn, hostile.TOPICS).topics], len(extra)


def percentile(values, q):
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * q))] if values else 0.0


class Hostile:
    def __init__(self, options):
        self.options = options
        self.checks = []
        self.broker = brokers.Broker(**brokers.broker_choice(options), properties={
            "log.retention.check.interval.ms": 1000})
        self.latencies = {True: [], False: []}
        self.counts, self.outcomes, self.apis = Counter(), Counter(), set()
        self.sent = {True: Counter(), False: Counter()}
        self.extra_topics = 0

    def check(self, ok, text):
        self.checks.append(ok)
        print("%s  %s" % ("ok  " if ok else "FAIL", text), flush=True)

    def run(self):
        self.broker.start()
        with self.broker.connect() as conn:
            versions = wire.api_versions(conn)
            wire.create_topics(conn, [wire.Topic(TOPIC)] + [
                wire.Topic(n, 3, {"retention.bytes": "1000000"}) for n in hostile.TOPICS])
            deleted = wire.create_topics(conn, [wire.Topic("deleted")])["deleted"][2]
            wire.delete_topics(conn, ["deleted"])
        time.sleep(0.5)
        self.exact(deleted)
        if self.broker.ended() is not None:
            print(self.broker.log_tail())
            return self.total()
        self.phases(versions)
        self.last_look()
        return self.report()

    def exact(self, deleted_id):
        for what, right, ask in exact_cases(self.broker, deleted_id):
            try:
                got = ask()
            except OSError as e:
                got = str(e)
            if self.broker.ended() is not None:
                got = "the broker ended with %d" % self.broker.ended()
            self.check(got in right, "%s: %s%s" % (what, got, "" if got in right else
                                                   ", expected " + " or ".join(right)))
            if self.broker.ended() is not None:
                return

    def phases(self, versions):
        client = self.client = Client(self.broker)
        client.run(3, CLIENT_RATE, [])
        # Two phases make a pair, with one seed: the same things, in order and not; and who begins
        # changes from pair to pair, so that what drifts with time drifts for both.
        pairs = max(1, round(self.options.minutes * 60 / 2 / PHASE_S))
        seconds = self.options.minutes * 60 / 2 / pairs
        queue, rss_first, rss_max = multiprocessing.Queue(), None, 0
        for phase in range(2 * pairs):
            is_hostile = phase % 4 in (1, 2)
            self.phase(queue, versions, phase // 2, seconds, is_hostile)
            if client.errors or self.broker.ended() is not None:
                break
            rss = self.broker.rss_kb()
            rss_first = rss_first or rss  # after the first phase, which is in order
            rss_max = max(rss_max, rss)
        self.rss_first, self.rss_max = rss_first or 0, rss_max

    def hold_up(self, seconds):
        """--plant: a broker that such traffic stops for a moment, again and again."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.broker.process.send_signal(signal.SIGSTOP)
            time.sleep(0.1)
            self.broker.process.send_signal(signal.SIGCONT)
            time.sleep(0.4)

    def phase(self, queue, versions, pair, seconds, is_hostile):
        topic_ids, extra = janitor(self.broker)
        self.extra_topics += extra
        attack = multiprocessing.Process(target=attack_process, args=(
            (self.broker.host, self.broker.port), self.options.seed * 1000 + pair, versions,
            topic_ids, seconds, is_hostile, queue))
        attack.start()
        if self.options.plant and is_hostile:
            threading.Thread(target=self.hold_up, args=(seconds,), daemon=True).start()
        try:
            self.client.run(seconds, CLIENT_RATE, self.latencies[is_hostile])
        except (OSError, wire.WireError, wire.KafkaError) as e:
            self.client.errors.append("in pair %d: %r" % (pair, e))
        finally:
            self.collect(queue, attack, is_hostile)

    def collect(self, queue, attack, is_hostile):
        try:
            counts, outcomes, sent, apis = queue.get(timeout=60)
        except Exception:
            self.client.errors.append("the attacking process did not end well")
            attack.kill()
            return
        attack.join()
        self.apis |= apis
        self.sent[is_hostile].update(sent)
        if is_hostile:
            self.counts.update(counts)
            self.outcomes.update(outcomes)

    def last_look(self):
        client = self.client
        self.check(self.broker.ended() is None, "the broker is still there%s" % (
            "" if self.broker.ended() is None else ": ended with %s\n%s" % (
                self.broker.ended(), self.broker.log_tail())))
        if self.broker.ended() is None and not client.errors:
            client.read_all()
        for e in client.errors[:20]:
            print("      " + e)
        self.check(not client.errors, "the checked client's %d records are there, in order, and it "
                   "saw no error" % client.written)

    def report(self):
        control = bool(self.options.kafka_broker)
        grown = (self.rss_max - self.rss_first) / 1024
        self.check(grown < RSS_GROWTH_MB or control, "RSS %.0f MB, grew by %.1f MB (limit %d)" % (
            self.rss_first / 1024, grown, RSS_GROWTH_MB))
        p = {h: [percentile(self.latencies[h], q) for q in (0.5, 0.99, 0.999)]
             for h in (False, True)}
        for h, name in ((False, "well-formed"), (True, "hostile")):
            print("      beside %s traffic (%s): p50 %.2f, p99 %.2f, p99.9 %.2f ms (%d records)" % (
                name, ", ".join("%d %s" % (n, k) for k, n in self.sent[h].items()), *p[h],
                len(self.latencies[h])))
        apart = max(abs(self.sent[True][k] / max(n, 1) - 1) for k, n in self.sent[False].items())
        self.check(apart <= RATE_DIFFERENCE, "the two kinds differ by at most %.0f %% in what they send" % (
            100 * apart))
        limit = P99_FACTOR * p[False][1]
        self.check(p[True][1] <= limit and len(self.latencies[True]) > 0,
                   "p99 %.2f ms, limit %.2f ms" % (p[True][1], limit))
        print("      attacks: " + ", ".join("%s %d" % i for i in sorted(self.counts.items())))
        print("      they were " + ", ".join("%s %d" % i for i in sorted(self.outcomes.items())) +
              "; %d topics made by spoilt requests; %d API versions used" % (
                  self.extra_topics, len(self.apis)))
        return self.total()

    def total(self):
        failed = self.checks.count(False)
        print("%d passed, %d failed" % (len(self.checks) - failed, failed))
        return 1 if failed else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=brokers.help_formatter)
    brokers.add_broker_options(parser)
    parser.add_argument("--minutes", type=float, default=10, help="of traffic, half of it hostile "
                        "(default 10)")
    parser.add_argument("--seed", type=int, default=1, help="of the traffic (default 1)")
    parser.add_argument("--plant", action="store_true",
                        help="stop the broker now and then beside hostile traffic: the run must fail")
    test = Hostile(parser.parse_args())
    try:
        status = test.run()
    finally:
        test.broker.remove()
    sys.exit(status)


if __name__ == "__main__":
    main()
