#!/usr/bin/env python3
"""kill -9 under load, again and again: nothing acknowledged may be lost, moved, doubled or changed.

Four idempotent producers keep up to five requests each in flight to 22 partitions in four topics,
whose segments are so small that every life of the broker rolls some and deletes some (retention by
size, DeleteRecords). The process is killed at a moment drawn uniformly from 0 to 3 s after its
start, so into recovery too; nobody waits for a good moment. After each restart a reader compares
all that is new with what was acknowledged, every tenth time and at the end all that there is. Then
the broker is stopped, and Apache Kafka's DumpLogSegments reads every file that is left (--kafka).

    crash.py --fluxmq build/release/fluxmq --kills 100 --kafka path/of/kafka/jars
    crash.py --kafka-broker path/of/kafka/jars --kills 5         # the control
    crash.py --fluxmq ... --kills 3 --plant                      # must fail: the notes are falsified

What must hold is listed in tests/support/checked_load.py (N1 to N5).
"""

import argparse
import os
import random
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import broker as brokers
import dump_log
import kafka_wire as wire
from checked_load import Load, Notes, Reader, TopicPlan

LIFE_S = 3.0
ACKS_PER_KILL = 1000
FULL_READ_EVERY = 10


def plans(segment):
    small = {**segment, "index.interval.bytes": "512"}
    return [
        TopicPlan("keep", 6, small, weight=4),
        TopicPlan("roll", 4, {**segment, "retention.bytes": "400000", "file.delete.delay.ms": "100"},
                  start="retention", shape="large", weight=2),
        TopicPlan("trim", 6, {**segment, "file.delete.delay.ms": "100"}, start="delete",
                  shape="mixed", weight=4),
        TopicPlan("mixed", 6, segment, shape="mixed", weight=1),
    ]


def create(broker):
    """The smallest segments that the broker allows: Kafka's internal key, else its minimum."""
    with broker.connect() as conn:
        for segment in ({"internal.segment.bytes": "65536"}, {"segment.bytes": "1048576"}):
            topics = plans(segment)
            answers = wire.create_topics(conn, [wire.Topic(t.name, t.partitions, t.configs)
                                                for t in topics], check=False)
            errors = {name: a for name, a in answers.items() if a[0]}
            if not errors:
                return topics, segment
            left = [name for name, a in answers.items() if not a[0]]
            if left:
                wire.delete_topics(conn, left)
                time.sleep(1)
    raise SystemExit("cannot create the topics: %s" % errors)


class Crash:
    def __init__(self, options):
        self.options = options
        self.rng = random.Random(options.seed)
        self.control = bool(options.kafka_broker)
        self.broker = brokers.Broker(**brokers.broker_choice(options), properties={
            "log.retention.check.interval.ms": 100,
            "log.initial.task.delay.ms": 100,  # Kafka's internal key: else 30 s before the first
            **({"broker.session.timeout.ms": 2000, "broker.heartbeat.interval.ms": 500}
               if self.control else {}),  # Kafka waits for its dead self to time out
        })
        self.in_recovery = self.cut_reads = self.full_reads = 0
        self.rolled, self.deleted = set(), set()
        self.ready_times = []

    def run(self):
        self.broker.start()
        topics, segment = create(self.broker)
        self.notes = Notes(topics, strict_log_start=not self.control)
        self.load = Load(self.notes, seed=self.options.seed)
        self.reader = Reader(self.notes)
        print("%s, seed %d, %d partitions, %s" % (
            self.broker.name, self.options.seed, len(self.notes.partitions), segment), flush=True)
        self.broker.kill()
        began = time.monotonic()
        kills = 0
        while kills < self.options.kills:
            if self.options.minutes and time.monotonic() - began > self.options.minutes * 60:
                break
            self.life(kills)
            kills += 1
            if kills % 10 == 0:
                print("%4d kills, %d acknowledged, %d read, %d violations" % (
                    kills, self.notes.acked_batches, self.notes.read_records,
                    len(self.notes.violations)), flush=True)
            if len(self.notes.violations) > 200:
                break
        self.kills = kills
        self.last_look()

    def kill_time(self):
        """Seconds after the start. The control takes seconds to start: there, three of four kills
        are counted from its first answer, so that it does some work between them; how much is then
        not held against it."""
        at = self.rng.uniform(0, LIFE_S)
        return at, self.control and self.rng.random() < 0.75

    def life(self, number):
        after, from_ready = self.kill_time()
        self.broker.start(wait=False)
        timer = threading.Timer(after, self.broker.process.kill)
        if not from_ready:
            timer.start()
        try:
            self.ready_times.append(self.broker.wait_ready())
            if from_ready:
                timer.start()
        except brokers.NotReady:
            if self.broker.ended() != -9:
                self.notes.violation("the broker did not come up:\n%s", self.broker.log_tail())
            self.in_recovery += 1
        else:
            self.look(full=number % FULL_READ_EVERY == FULL_READ_EVERY - 1)
            self.load.run(self.broker, until=lambda: self.broker.ended() is not None)
        timer.join()
        if self.broker.process.wait() != -9:
            self.notes.violation("the broker ended by itself with %d:\n%s", self.broker.ended(),
                                 self.broker.log_tail())
        self.broker.kill()
        self.note_segments()

    def look(self, full):
        try:
            self.reader.run(self.broker, full)
            self.full_reads += full
        except (OSError, wire.WireError) as e:
            if self.broker.process.wait(5) is None:
                self.notes.violation("reading failed: %s", e)
            self.cut_reads += 1

    def note_segments(self):
        now = {os.path.relpath(p, self.broker.log_dirs[0]) for p in self.broker.segments()}
        self.deleted |= self.rolled - now
        self.rolled |= now

    def last_look(self):
        notes = self.notes
        self.broker.start()
        deadline = time.monotonic() + 60
        self.load.run(self.broker, fresh=False, until=lambda: not self.load.unanswered()
                      or time.monotonic() > deadline)
        if self.load.unanswered():
            notes.violation("%d batches are still unanswered", self.load.unanswered())
        if self.options.plant:
            print("planted: " + notes.plant(self.rng))
        self.reader.run(self.broker, full=True)
        self.full_reads += 1
        code = self.broker.stop()
        if code not in (0, 143 if self.control else 0):
            notes.violation("SIGTERM: ended with %s\n%s", code, self.broker.log_tail())
        if self.options.kafka:
            self.dump()

    def dump(self):
        files = self.broker.segments(".log") + self.broker.segments(".index") + \
            self.broker.segments(".timeindex")
        text, code = dump_log.dump(self.options.kafka, files)
        count, records, complaints = dump_log.compare(text, self.reader.contents, {"roll"})
        print("DumpLogSegments: %d files, %d records, %d complaints" % (count, records,
                                                                        len(complaints)))
        for c in complaints:
            self.notes.violation("DumpLogSegments: %s", c)
        if code or count != len(files):
            self.notes.violation("DumpLogSegments ended with %d after %d of %d files:\n%s", code,
                                 count, len(files), text[-2000:])

    def report(self):
        n = self.notes
        ready = sorted(self.ready_times) or [0]
        print("%d kills, %d of them before the first answer; ready after %.0f ms (median), "
              "%.0f ms (longest)" % (self.kills, self.in_recovery, 1000 * ready[len(ready) // 2],
                                     1000 * ready[-1]))
        per_kill = n.acked_batches / max(self.kills, 1)
        print("acknowledged: %d batches, %d records, %d bytes; %.0f acknowledgements a kill" % (
            n.acked_batches, n.acked_records, n.acked_bytes, per_kill))
        print("repeated: %d batches; stored but not yet answered: %d; retriable errors: %s" % (
            n.retried, n.found_unanswered, {wire.error_name(k): v for k, v in n.errors.items()}
            or "none"))
        print("read and compared: %d batches, %d records in %d passes, %d over everything, %d cut "
              "short by a kill" % (n.read_batches, n.read_records, n.passes, self.full_reads,
                                   self.cut_reads))
        print("segments: %d rolled, %d deleted; DeleteRecords answered: %d" % (
            len(self.rolled), len(self.deleted), n.deletes))
        checks = [
            ("nothing acknowledged is lost, moved, doubled or changed", not n.violations),
            ("at least %d acknowledgements between kills on average" % ACKS_PER_KILL,
             per_kill >= ACKS_PER_KILL or self.control),
            ("segments were rolled and deleted in each life on average", self.control or
             len(self.rolled) >= self.kills and len(self.deleted) >= self.kills),
            ("batches were repeated after kills", n.retried > 0),
        ]
        for text, ok in checks:
            print("%s  %s" % ("ok  " if ok else "FAIL", text))
        failed = sum(not ok for _, ok in checks)
        print("%d passed, %d failed" % (len(checks) - failed, failed))
        return 1 if failed else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=brokers.help_formatter)
    brokers.add_broker_options(parser)
    parser.add_argument("--kills", type=int, default=100, help="how often (default 100)")
    parser.add_argument("--minutes", type=float, help="stop killing after that time")
    parser.add_argument("--seed", type=int, default=1, help="of kill times and load (default 1)")
    parser.add_argument("--kafka", metavar="LIBDIR",
                        help="Apache Kafka's jars, for DumpLogSegments at the end")
    parser.add_argument("--plant", action="store_true",
                        help="falsify one note before the last look: the run must fail")
    parser.add_argument("--keep", action="store_true", help="keep the data directory")
    options = parser.parse_args()
    test = Crash(options)
    try:
        test.run()
        status = test.report()
    finally:
        test.broker.kill()
        if options.keep:
            print("data: " + test.broker.dir)
        else:
            test.broker.remove()
    sys.exit(status)


if __name__ == "__main__":
    main()
