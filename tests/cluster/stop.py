#!/usr/bin/env python3
"""A stop that was asked for: quick, with exit code 0, and the next start finds it clean.

    busy      SIGTERM, SIGINT or several signals while more than 50 connections are at work:
              checked producers, fetches parked for 30 s, topics being made and deleted, requests
              that began and do not go on, peers that ask for much and read nothing, a metrics
              scrape that never ends its request
    topics    SIGTERM while topics of many partitions are being made and deleted
    idle      the same with connections that do nothing, and with none
    starting  the signal comes at any moment of a start after kill -9, recovery included
    SIGHUP    log.level is read again, and nothing else happens; a file that is wrong changes nothing

What must hold: the process ends within 2 s (--seconds) with exit code 0; all that was acknowledged
is there (N1 to N5 in tests/support/checked_load.py); after a stop of a node that was ready, the next
start says so and looks at no partition. A signal before the first log line may end the process as
it ends any program.

    stop.py --fluxmq build/release/fluxmq
    stop.py --fluxmq ... --plant            # must fail: kill -9 instead of the signal
"""

import argparse
import os
import random
import signal
import socket
import struct
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import broker as brokers
import kafka_wire as wire
from checked_load import Load, Notes, Reader, TopicPlan

PRODUCERS, PARKED, HALF_OPEN, DEAF = 20, 20, 12, 4
RATE = 400  # Produce requests a second of all producers
PARKED_MS = 30000
MANY = 100  # partitions of a topic; each new one costs a stop two fsyncs
CLEAN = "stopped cleanly, "
LOOKED_AT_NONE = ", 0 to look at"

passed = failed = 0


def check(ok, what, detail=""):
    global passed, failed
    passed, failed = passed + bool(ok), failed + (not ok)
    print("%-5s %s%s" % ("ok" if ok else "FAIL", what, "" if ok else ": " + detail), flush=True)


class Crowd:
    """Connections beside the checked producers, none of which will ever leave by itself."""

    def __init__(self, broker):
        self.broker, self.open, self.made = broker, [], 0
        self.parked()
        self.half_open()
        self.deaf()
        self.scrape()
        self.admin = threading.Thread(target=self.administer, daemon=True)
        self.admin.start()

    def parked(self):
        for i in range(PARKED):
            conn = self.broker.connect("parked-%d" % i)
            for _ in range(2 if i % 4 == 0 else 1):  # some with another one behind it
                conn.send(wire.FETCH, 12, wire.fetch_body([("quiet", [(i % 4, 0)])],
                                                          max_wait_ms=PARKED_MS, min_bytes=1 << 20))
            self.open.append(conn)

    def half_open(self):
        body = wire.produce_body([("quiet", [(0, b"x" * 5000)])])
        frame = wire.encode_request(wire.PRODUCE, 9, 1, body)
        for i in range(HALF_OPEN):
            s = socket.create_connection((self.broker.host, self.broker.port), timeout=10)
            s.sendall((b"", frame[:2], frame[:len(frame) // 2], struct.pack(">i", 90_000_000) + b"x" * 3_000_000)[i % 4])
            if i % 8 == 1:
                s.shutdown(socket.SHUT_WR)
            self.open.append(s)

    def deaf(self):
        request = wire.encode_request(wire.FETCH, 12, 1, wire.fetch_body(
            [("busy", [(i, 0) for i in range(8)])], max_wait_ms=0))
        for _ in range(DEAF):
            s = socket.socket()
            s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            s.settimeout(10)
            s.connect((self.broker.host, self.broker.port))
            s.sendall(request * 50)
            self.open.append(s)

    def scrape(self):
        s = socket.create_connection((self.broker.host, self.broker.metrics_port), timeout=10)
        s.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n")
        self.open.append(s)

    def administer(self):
        try:
            with self.broker.connect("administrator") as conn:
                while True:
                    name = "short-lived-%d" % self.made
                    wire.create_topics(conn, [wire.Topic(name, 3)], check=False)
                    self.made += 1
                    if self.made % 4:
                        wire.delete_topics(conn, [name])
                    elif self.made > 8:  # one that has rested a while
                        wire.delete_topics(conn, ["short-lived-%d" % (self.made - 9)])
        except (OSError, wire.WireError, wire.KafkaError):
            pass

    def close(self):
        for c in self.open:
            c.close()
        self.admin.join()


class Stop:
    def __init__(self, options):
        self.options = options
        self.rng = random.Random(options.seed)
        self.broker = brokers.Broker(fluxmq=options.fluxmq, workers=options.workers)
        self.plans = [TopicPlan("busy", 8, {"segment.bytes": "1048576"}, shape="mixed", weight=3),
                      TopicPlan("flushed", 4, {"flush.messages": "1"}, shape="small")]
        self.notes = Notes(self.plans)
        self.load = Load(self.notes, producers=PRODUCERS, seed=options.seed)
        self.reader = Reader(self.notes)
        self.slowest = 0.0

    def prepare(self):
        self.broker.start()
        with self.broker.connect() as conn:
            wire.create_topics(conn, [wire.Topic(p.name, p.partitions, p.configs) for p in self.plans])
            wire.create_topics(conn, [wire.Topic("quiet", 4)])
        self.write(1.0)

    def write(self, seconds, fresh=True, until=None):
        end = time.monotonic() + seconds
        self.load.run(self.broker, fresh=fresh, rate=RATE, until=lambda: time.monotonic() > end or (
            until is not None and until()))

    # ------------------------------------------------------------ one stop

    def send(self, signals):
        """Those signals, a moment apart, to a process that may end in between."""
        for i, s in enumerate(signals):
            if i:
                time.sleep(0.02)
            if self.broker.ended() is not None:
                return
            self.broker.process.send_signal(signal.SIGKILL if self.options.plant else s)

    def end(self, asked):
        """Waits for the process. -> (exit code or None, seconds since it was asked to end)"""
        try:
            code = self.broker.process.wait(max(self.options.seconds * 5, 10))
        except Exception:
            code = None
        took = time.monotonic() - asked
        self.slowest = max(self.slowest, took)
        self.broker.kill()
        return code, took

    def check_end(self, what, code, took):
        check(code == 0 and took <= self.options.seconds, "%s: exit code 0 within %g s" % (
            what, self.options.seconds), "%s after %.2f s\n%s" % (code, took, self.broker.log_tail(12)))

    def check_next_start(self, what):
        self.broker.start()
        log = self.broker.log_since_start()
        check("not " + CLEAN not in log and CLEAN in log and LOOKED_AT_NONE in log,
              what + ": the next start finds it clean", log)
        errors = [line for line in log.splitlines() if " ERROR " in line]
        check(not errors, what + ": and without an error", "\n".join(errors))

    def check_data(self, what, full=True):
        before = len(self.notes.violations)
        self.write(20, fresh=False, until=lambda: not self.load.unanswered())
        check(not self.load.unanswered(), what + ": what was unanswered is answered now",
              "%d batches are not" % self.load.unanswered())
        self.reader.run(self.broker, full)
        check(len(self.notes.violations) == before, what + ": all that was acknowledged is there",
              "\n".join(self.notes.violations[before:]))

    # ------------------------------------------------------------ the scenarios

    def busy(self, signals):
        what = "busy, " + " ".join(s.name for s in signals)
        crowd = Crowd(self.broker)
        asked = []

        def ask():
            asked.append(time.monotonic())
            self.send(signals)

        timer = threading.Timer(self.rng.uniform(0.3, 1.0), ask)
        acked = self.notes.acked_batches
        timer.start()
        self.write(30, until=lambda: self.broker.ended() is not None)
        timer.join()
        code, took = self.end(asked[0])
        crowd.close()
        print("      %d connections, %d batches acknowledged, %d topics made, ended after %.2f s" % (
            PRODUCERS + PARKED + HALF_OPEN + DEAF + 2, self.notes.acked_batches - acked, crowd.made, took))
        self.check_end(what, code, took)
        self.check_next_start(what)
        self.check_data(what)

    def ask(self, function, argument):
        """On a connection of its own, which may be cut before the answer."""
        try:
            with self.broker.connect() as conn:
                function(conn, argument)
        except (OSError, wire.WireError):
            pass

    def topics(self):
        """Folders are made and renamed at that moment; whatever was not carried out, the next start does."""
        for i in range(self.options.stops):
            what = "topics, %d of %d" % (i + 1, self.options.stops)
            with self.broker.connect() as conn:
                wire.create_topics(conn, [wire.Topic("many-%d" % i, MANY)], check=False)
            threads = [threading.Thread(target=self.ask, args=question) for question in (
                (wire.create_topics, [wire.Topic("many-%d" % (i + 1), MANY)]),
                (wire.delete_topics, ["many-%d" % i]))]
            for t in threads:
                t.start()
            time.sleep(self.rng.uniform(0, 0.1))
            asked = time.monotonic()
            self.send([signal.SIGTERM])
            code, took = self.end(asked)
            for t in threads:
                t.join()
            self.check_end(what, code, took)
            self.check_next_start(what)

    def idle(self, connections):
        what = "idle, %d connections" % connections
        held = [self.broker.connect("idle-%d" % i) for i in range(connections)]
        for conn in held:
            wire.api_versions(conn)
        asked = time.monotonic()
        self.send([signal.SIGTERM])
        code, took = self.end(asked)
        for conn in held:
            conn.close()
        self.check_end(what, code, took)
        self.check_next_start(what)

    def starting(self):
        self.broker.kill()
        self.broker.start(wait=False)
        ready = self.broker.wait_ready()
        early = late = starting = 0
        for _ in range(self.options.starts):
            if "main: SIG" in self.broker.log_since_start():  # stopped cleanly: there would be nothing to recover
                self.broker.start()
            self.broker.kill()
            self.broker.start(wait=False)
            at = self.rng.uniform(0, ready * 1.2)
            time.sleep(at)
            asked = time.monotonic()
            self.send([self.rng.choice([signal.SIGTERM, signal.SIGINT])])
            code, took = self.end(asked)
            log = self.broker.log_since_start()
            silent = "main: fluxmq" not in log
            early, late = early + silent, late + ("ready after" in log)
            starting += not silent and "ready after" not in log
            if code != 0 and not (silent and code in (-signal.SIGTERM, -signal.SIGINT)) or \
                    took > self.options.seconds or " ERROR " in log:
                check(False, "starting: %.0f ms after the start" % (at * 1000), "%s after %.2f s\n%s" % (
                    code, took, log))
        check(starting >= self.options.starts // 4, "starting: %d signals in the first %.0f ms: %d before the first "
              "line, %d before it was ready, %d after" % (self.options.starts, ready * 1200, early, starting, late))
        self.broker.start()
        self.check_data("starting")

    def hang_up(self):
        def told():
            return self.broker.log_since_start().count("log.level read again")

        def level(name, expected):
            self.broker.properties["log.level"] = name
            self.broker.write_config()
            self.broker.process.send_signal(signal.SIGHUP)
            deadline = time.monotonic() + 5
            while told() < expected and time.monotonic() < deadline:
                time.sleep(0.01)
            if expected == told():
                time.sleep(0.2)
            check(told() == expected and self.broker.answers(), "SIGHUP: log.level=" + name, self.broker.log_tail(5))

        level("info", 1)
        level("error", 1)  # from now on the line itself is not told
        level("info", 2)
        level("loud", 2)  # no such level
        check("SIGHUP: configuration not read" in self.broker.log_since_start(), "SIGHUP: a file that is wrong is told")
        del self.broker.properties["log.level"]
        self.write(0.5)
        self.check_data("SIGHUP", full=False)

    def run(self):
        self.prepare()
        for _ in range(self.options.rounds):
            for signals in ([signal.SIGTERM], [signal.SIGINT], [signal.SIGTERM, signal.SIGTERM],
                            [signal.SIGHUP, signal.SIGTERM, signal.SIGINT]):
                self.busy(signals)
        self.topics()
        self.idle(0)
        self.idle(50)
        self.starting()
        self.hang_up()
        asked = time.monotonic()
        self.send([signal.SIGTERM])
        self.check_end("at the end", *self.end(asked))

    def report(self):
        n = self.notes
        print("acknowledged: %d batches, %d records; repeated: %d; read and compared: %d batches; slowest stop %.2f s" % (
            n.acked_batches, n.acked_records, n.retried, n.read_batches, self.slowest))
        print("%d passed, %d failed" % (passed, failed))
        return 1 if failed else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=brokers.help_formatter)
    parser.add_argument("--fluxmq", metavar="BIN", default=os.environ.get("FLUXMQ"), required="FLUXMQ" not in os.environ)
    parser.add_argument("--rounds", type=int, default=1, help="of the busy stops (default 1)")
    parser.add_argument("--starts", type=int, default=40, help="signals during starts (default 40)")
    parser.add_argument("--stops", type=int, default=6, help="while topics come and go (default 6)")
    parser.add_argument("--seconds", type=float, default=2.0, help="longest stop (default 2)")
    parser.add_argument("--workers", type=int, default=4, help="(default 4)")
    parser.add_argument("--seed", type=int, default=1, help="of load and moments (default 1)")
    parser.add_argument("--plant", action="store_true", help="kill -9 instead: the run must fail")
    options = parser.parse_args()
    test = Stop(options)
    try:
        test.run()
        status = test.report()
    finally:
        test.broker.remove()
    sys.exit(status)


if __name__ == "__main__":
    main()
