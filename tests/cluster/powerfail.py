#!/usr/bin/env python3
"""Power failure under load: what flush.messages=1 topics have acknowledged is there.

The data lie on an ext4 file system in a file (tests/support/loop_fs.py). At a random moment the
broker is stopped, a random part of the dirty pages of logs, indexes, checkpoints and raft files is
written back, and the image as it then stands is what the next life finds: all else is gone. That
life runs with another boot id, bound over the kernel's in a mount namespace of its own.

Four idempotent producers write to topics with flush.messages=1, as in crash.py; beside them goes
unchecked traffic to topics without, whose pages are torn: of these the log must be readable,
without gaps, and hold nothing that was not sent.

    powerfail.py --fluxmq build/release/fluxmq --times 30      # as root
    powerfail.py --kafka-broker LIBDIR --times 3               # the control
    powerfail.py --fluxmq ... --times 3 --no-flush             # must fail
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import threading
import time
import uuid

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import broker as brokers
import dump_log
import kafka_wire as wire
import loop_fs
from checked_load import Load, Notes, Reader, TopicPlan

LIFE_S = 2.5
LOOSE = "loose"
LOOSE_PARTITIONS = 6


def plans(segment, flush):
    durable = {**segment, **({"flush.messages": "1"} if flush else {})}
    return [
        TopicPlan("keep", 4, durable, weight=3),
        TopicPlan("roll", 3, {**durable, "retention.bytes": "400000", "file.delete.delay.ms": "100"},
                  start="retention", shape="large"),
        TopicPlan("trim", 4, {**durable, "file.delete.delay.ms": "100"}, start="delete",
                  shape="mixed", weight=2),
    ]


class Loose(threading.Thread):
    """Writes to the topic without flush.messages, and remembers only which values it has sent."""

    def __init__(self, broker, first):
        super().__init__(daemon=True)
        self.broker, self.number = broker, first

    def run(self):
        rng = random.Random(self.number)
        filler = rng.randbytes(3000)
        try:
            with self.broker.connect("loose", timeout=5) as conn:
                while True:
                    batch = wire.encode_batch([(b"loose", b"%d " % self.number + filler, [])
                                               for _ in range(rng.randrange(1, 4))])
                    self.number += 1
                    wire.produce(conn, LOOSE, rng.randrange(LOOSE_PARTITIONS), batch, check=False)
                    time.sleep(0.002)
        except (OSError, wire.WireError):
            pass


class PowerFail:
    def __init__(self, options):
        self.options = options
        self.rng = random.Random(options.seed)
        self.control = bool(options.kafka_broker)
        self.fs = loop_fs.LoopFs(1024)
        self.boot_id = os.path.join(self.fs.dir, "boot-id")
        wrapper = ["unshare", "-m", "--propagation", "private", "sh", "-c",
                   'mount --bind "$0" /proc/sys/kernel/random/boot_id && exec "$@"', self.boot_id]
        self.broker = brokers.Broker(
            **brokers.broker_choice(options), wrapper=wrapper,
            log_dirs=[os.path.join(self.fs.mount_point, "data")],
            properties={"log.retention.check.interval.ms": 100, "log.initial.task.delay.ms": 100,
                        **({"broker.session.timeout.ms": 2000, "broker.heartbeat.interval.ms": 500}
                           if self.control else {})})
        self.failures = self.ranges = self.loose_read = self.loose_sent = self.in_recovery = 0

    def start(self, wait=True):
        with open(self.boot_id, "w") as f:
            f.write("%s\n" % uuid.UUID(int=self.rng.getrandbits(128), version=4))
        self.broker.start(wait=wait, timeout=120)

    def run(self):
        self.start()
        with self.broker.connect() as conn:
            segment = {"internal.segment.bytes": "131072"}
            loose = wire.Topic(LOOSE, LOOSE_PARTITIONS)
            if wire.create_topics(conn, [loose._replace(configs=segment)], check=False)[LOOSE][0]:
                segment = {"segment.bytes": "1048576"}
                wire.create_topics(conn, [loose._replace(configs=segment)])
            topics = plans(segment, flush=not self.options.no_flush)
            wire.create_topics(conn, [wire.Topic(t.name, t.partitions, t.configs) for t in topics])
        self.notes = Notes(topics, strict_log_start=not self.control)
        self.load = Load(self.notes, seed=self.options.seed)
        self.reader = Reader(self.notes)
        print("%s, seed %d, %s" % (self.broker.name, self.options.seed, segment), flush=True)
        if self.control:  # its storage tool does not fsync what it writes
            subprocess.run(["sync", "-f", self.fs.mount_point], check=True)
        try:
            for number in range(self.options.times):
                self.life(number)
                if len(self.notes.violations) > 100:
                    break
            self.last_look()
        except (brokers.NotReady, OSError, wire.WireError) as e:
            self.notes.violation("after %d power failures: %s", self.failures, e)

    def life(self, number):
        """Load for a random time, then the failure; one in six falls into the start itself."""
        if number and self.rng.random() < 1 / 6:
            time.sleep(self.rng.uniform(0, 0.3))
            self.in_recovery += 1
        else:
            if number:
                self.broker.wait_ready(120)
                self.look(number)
            loose = Loose(self.broker, self.loose_sent)
            loose.start()
            timer = threading.Timer(self.rng.uniform(0.1, LIFE_S), self.fail)
            timer.start()
            self.load.run(self.broker, until=lambda: self.broker.ended() is not None)
            timer.join()
            loose.join()
            self.loose_sent = loose.number
        if self.broker.ended() is None:
            self.fail()
        self.broker.kill()
        self.fs.power_failure()
        self.failures += 1
        if number % 10 == 9:
            print("%4d power failures, %d acknowledged, %d violations" % (
                self.failures, self.notes.acked_batches, len(self.notes.violations)), flush=True)
        self.start(wait=False)

    def fail(self):
        """No answer leaves after the stop; so what was acknowledged was acknowledged before."""
        process = self.broker.process
        if process.poll() is None:
            process.send_signal(signal.SIGSTOP)
            self.ranges += loop_fs.write_back_some(self.fs.mount_point, self.rng,
                                                   self.rng.choice([0, 0.2, 0.7, 1]))
        self.fs.set_aside()
        process.kill()

    def look(self, number):
        self.reader.run(self.broker, full=number % 5 == 4, settle_s=20)
        self.look_at_loose()

    def look_at_loose(self):
        """Any tail may be gone, but what is there is whole."""
        with self.broker.connect("reader") as conn:
            ends = wire.list_offsets(conn, [(LOOSE, [(p, wire.LATEST)
                                                     for p in range(LOOSE_PARTITIONS)])])
            for p in range(LOOSE_PARTITIONS):
                error, _, end = ends[LOOSE, p]
                if error:
                    self.notes.violation("loose-%d: %s", p, wire.error_name(error))
                position = 0
                while not error and position < end:
                    position = self.read_loose(conn, p, position, end)

    def read_loose(self, conn, p, position, end):
        (part,) = wire.fetch(conn, [(LOOSE, [(p, position)])], max_wait_ms=100, min_bytes=1)
        batches = wire.split_batches(part.records)
        if part.error or not batches:
            self.notes.violation("loose-%d: %s at %d, the log ends at %d", p,
                                 wire.error_name(part.error), position, end)
            return end
        for b in batches:
            number, _, _ = b.data[wire.BATCH_HEADER:wire.BATCH_HEADER + 40].partition(b"loose")
            if b.base_offset != position:
                self.notes.violation("loose-%d: batch at %d, expected %d", p, b.base_offset, position)
            if b.base_offset % 7 == 0 and wire.crc32c(b.data[21:]) != b.crc:
                self.notes.violation("loose-%d: bad CRC at %d", p, b.base_offset)
            position = b.last_offset + 1
            self.loose_read += b.count
        return position

    def last_look(self):
        self.broker.wait_ready(120)
        deadline = time.monotonic() + 60
        self.load.run(self.broker, fresh=False, until=lambda: not self.load.unanswered()
                      or time.monotonic() > deadline)
        if self.load.unanswered():
            self.notes.violation("%d batches are still unanswered", self.load.unanswered())
        if self.options.plant:
            print("planted: " + self.notes.plant(self.rng))
        self.reader.run(self.broker, full=True)
        self.look_at_loose()
        self.broker.stop()
        if self.options.kafka:
            files = self.broker.segments(".log")
            text, code = dump_log.dump(self.options.kafka, files)
            count, records, complaints = dump_log.compare(text, self.reader.contents, {"roll"})
            print("DumpLogSegments: %d files, %d records, %d complaints" % (count, records,
                                                                            len(complaints)))
            for c in complaints:
                self.notes.violation("DumpLogSegments: %s", c)
            if code or count != len(files):
                self.notes.violation("DumpLogSegments ended with %d", code)

    def report(self):
        n = self.notes
        print("%d power failures (%d during a start), %d ranges of pages written back before them" % (
            self.failures, self.in_recovery, self.ranges))
        print("flush.messages=1: %d batches, %d records acknowledged; %d batches repeated; %d read" % (
            n.acked_batches, n.acked_records, n.retried, n.read_batches))
        print("without: %d requests sent, %d records read; retriable errors: %s" % (
            self.loose_sent, self.loose_read,
            {wire.error_name(k): v for k, v in n.errors.items()} or "none"))
        checks = [("what flush.messages=1 topics acknowledged is there, once, in order",
                   not n.violations),
                  ("something was acknowledged in each life", n.acked_batches > 20 * self.failures)]
        for text, ok in checks:
            print("%s  %s" % ("ok  " if ok else "FAIL", text))
        failed = sum(not ok for _, ok in checks)
        print("%d passed, %d failed" % (len(checks) - failed, failed))
        return 1 if failed else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=brokers.help_formatter)
    brokers.add_broker_options(parser)
    parser.add_argument("--times", type=int, default=30, help="power failures (default 30)")
    parser.add_argument("--seed", type=int, default=1, help="of moments, pages and load (default 1)")
    parser.add_argument("--kafka", metavar="LIBDIR",
                        help="Apache Kafka's jars, for DumpLogSegments at the end")
    parser.add_argument("--plant", action="store_true",
                        help="falsify one note before the last look: the run must fail")
    parser.add_argument("--no-flush", action="store_true",
                        help="leave out flush.messages=1: the run must find losses and fail")
    options = parser.parse_args()
    reason = loop_fs.why_not()
    if reason:
        print("skipped: %s\n0 passed, %d failed" % (reason, bool(os.environ.get("CI"))))
        sys.exit(1 if os.environ.get("CI") else 0)
    test = PowerFail(options)
    try:
        test.run()
        status = test.report()
    finally:
        test.broker.remove()
        if os.path.exists(test.boot_id):
            os.unlink(test.boot_id)
        test.fs.remove()
    sys.exit(status)


if __name__ == "__main__":
    main()
