#!/usr/bin/env python3
"""Full and failing disks under load: they arrive, and go.

The broker has two log dirs: one on the ordinary disk (its metadata too), one on a small ext4 file
system of our own (tests/support/loop_fs.py) that gets into trouble while four idempotent producers
write to partitions in both:

    full        the file system has no block left
    eio-write   writing and allocating fail with EIO   (tests/support/faultio.c)
    eio-sync    fsync fails with EIO                   (the topics have flush.messages=1)
    read-only   the file system has stopped itself after an error, as ext4 does

What must hold: the process lives; partitions on the other dir are written and read throughout, on
a full disk all partitions are read; nothing that was acknowledged is lost, moved or doubled;
writing resumes by itself after "full", after a restart (with a sound file system) in the others.
Apache Kafka, the control, needs the restart in each case.

    disk.py --fluxmq build/release/fluxmq            # all four; as root
    disk.py --kafka-broker LIBDIR --only full
"""

import argparse
import errno
import os
import random
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import broker as brokers
import kafka_wire as wire
import loop_fs
from checked_load import Load, Notes, Reader, TopicPlan

SUPPORT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support")
RATE = 150  # requests a second: enough to fill what is left of the small disk, and no more
DISK_MB = 192


class Scenario:
    """One broker, its two dirs, its load."""

    def __init__(self, options, name, faultio):
        self.name, self.options = name, options
        self.control = bool(options.kafka_broker)
        self.checks = []
        print("--- %s" % name, flush=True)
        self.fs = loop_fs.LoopFs(DISK_MB)
        self.bad_dir = os.path.join(self.fs.mount_point, "data")
        self.fault_file = os.path.join(self.fs.dir, "fault")
        environment = {"FAULTIO": self.fault_file, "LD_PRELOAD": faultio} if "eio" in name else {}
        self.broker = brokers.Broker(
            **brokers.broker_choice(options), environment=environment, properties={
                **({"broker.session.timeout.ms": 2000, "broker.heartbeat.interval.ms": 500}
                   if self.control else {})})
        self.good_dir = self.broker.log_dirs[0]
        self.broker.log_dirs = [self.good_dir, self.bad_dir]
        self.broker.properties["metadata.log.dir"] = self.good_dir

    def check(self, ok, text):
        self.checks.append(bool(ok))
        print("%s  %s: %s" % ("ok  " if ok else "FAIL", self.name, text), flush=True)

    def prepare(self):
        self.broker.start()
        flush = {"flush.messages": "1"} if self.name != "full" else {}
        plans = [TopicPlan("a", 6, {"segment.bytes": "1048576", **flush}, shape="mixed"),
                 TopicPlan("b", 6, flush, shape="small")]
        with self.broker.connect() as conn:
            wire.create_topics(conn, [wire.Topic(p.name, p.partitions, p.configs) for p in plans])
        self.notes = Notes(plans)
        self.load = Load(self.notes, seed=self.options.seed)
        self.reader = Reader(self.notes)
        self.write(2)
        self.bad = [p for p in self.notes.partitions if os.path.isdir(
            os.path.join(self.bad_dir, str(p)))]
        self.good = [p for p in self.notes.partitions if p not in self.bad]
        self.check(self.bad and self.good, "%d partitions on the small disk, %d on the other" % (
            len(self.bad), len(self.good)))

    def write(self, seconds, fresh=True, until=None):
        end = time.monotonic() + seconds
        self.load.run(self.broker, fresh=fresh, rate=RATE, until=lambda: time.monotonic() > end or (
            until is not None and until()))

    @staticmethod
    def written(partitions):
        return sum(p.highest_acked for p in partitions)

    def troubled(self):
        return any(p.storage_errors for p in self.bad)

    def in_trouble(self, read_all):
        """The trouble has begun: the bad dir is not written, all else goes on."""
        self.write(3)
        # A batch that still fits into blocks which are there and mapped needs no call that fails.
        stopped = [p for p in self.bad if p.storage_errors]
        stalled, good = self.written(stopped), self.written(self.good)
        self.write(3)
        self.check(stopped and self.written(stopped) == stalled, "%d of %d troubled partitions "
                   "refuse to write (%d records before), and stay so" % (
                       len(stopped), len(self.bad), stalled))
        self.check(self.written(self.good) > good, "the other dir is written: %d records meanwhile" % (
            self.written(self.good) - good))
        self.check(self.broker.ended() is None, "the process lives")
        before = len(self.notes.violations)
        self.reader.run(self.broker, full=True,
                        partitions=self.notes.partitions if read_all else self.good)
        self.check(len(self.notes.violations) == before, "%s reads as acknowledged" % (
            "all" if read_all else "the other dir"))
        errors = {wire.error_name(k): v for k, v in self.notes.errors.items()}
        print("      answers meanwhile: %s" % (errors or "none"))

    def resumed(self, how):
        """The trouble is over: what is unanswered gets its answer, and new records too."""
        began = time.monotonic()
        self.write(20, fresh=False, until=lambda: not self.load.unanswered())
        self.check(not self.load.unanswered(), "writing resumes %s, after %.1f s" % (
            how, time.monotonic() - began))
        before = self.written(self.bad)
        self.write(2)
        self.check(self.written(self.bad) > before, "new records: %d" % (
            self.written(self.bad) - before))

    def restart(self):
        self.broker.kill()
        self.broker.start(timeout=120)

    def finish(self):
        self.write(20, fresh=False, until=lambda: not self.load.unanswered())
        if self.options.plant:
            print("planted: " + self.notes.plant(random.Random(self.options.seed)))
        self.reader.run(self.broker, full=True)
        self.restart()
        self.reader.run(self.broker, full=True)
        self.check(not self.notes.violations, "all %d acknowledged batches are there, once, in "
                   "order; also after kill -9" % self.notes.acked_batches)

    def set_fault(self, line):
        with open(self.fault_file + ".new", "w") as f:
            f.write(line)
        os.replace(self.fault_file + ".new", self.fault_file)

    def clean(self):
        self.broker.remove()
        for name in (self.fault_file, self.fault_file + ".new"):
            if os.path.exists(name):
                os.unlink(name)
        self.fs.remove()

    # ------------------------------------------------------------ the four

    def full(self):
        ballast = os.path.join(self.fs.mount_point, "ballast")
        with open(ballast, "wb") as f:
            step = 16 << 20
            while step >= 4096:
                try:
                    os.posix_fallocate(f.fileno(), f.seek(0, os.SEEK_END), step)
                except OSError as e:
                    if e.errno != errno.ENOSPC:
                        raise
                    step //= 2
        # Blocks that the logs had allocated ahead take some more records.
        self.write(10, until=self.troubled)
        self.in_trouble(read_all=not self.control)
        os.unlink(ballast)
        if self.control:
            self.restart()
        self.resumed("after a restart" if self.control else "by itself")

    def eio(self, kind):
        self.set_fault("%s %d %s" % (kind, errno.EIO, self.bad_dir))
        self.write(10, until=self.troubled)
        self.in_trouble(read_all=False)
        self.set_fault("")
        self.restart()
        self.resumed("after a restart")

    def read_only(self):
        self.fs.break_it()
        self.write(10, until=self.troubled)
        self.in_trouble(read_all=False)
        self.broker.kill()
        self.fs.unmount()
        self.fs.repair()
        self.fs.mount()
        self.broker.start(timeout=120)
        self.resumed("after a restart")

    def run(self):
        try:
            self.prepare()
            {"full": self.full, "eio-write": lambda: self.eio("write"),
             "eio-sync": lambda: self.eio("sync"), "read-only": self.read_only}[self.name]()
            self.finish()
        except (brokers.NotReady, OSError, wire.WireError, wire.KafkaError) as e:
            self.check(False, "%s: %s" % (type(e).__name__, e))
            if self.broker.ended() is not None:
                print(self.broker.log_tail())
        finally:
            self.clean()
        return self.checks


def build_faultio(directory):
    out = os.path.join(directory, "faultio.so")
    subprocess.run([os.environ.get("CC", "cc"), "-shared", "-fPIC", "-O2", "-o", out,
                    os.path.join(SUPPORT, "faultio.c"), "-ldl"], check=True)
    return out


def main():
    names = ["full", "eio-write", "eio-sync", "read-only"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=brokers.help_formatter)
    brokers.add_broker_options(parser)
    parser.add_argument("--only", choices=names, help="one of the four")
    parser.add_argument("--seed", type=int, default=1, help="of the load (default 1)")
    parser.add_argument("--plant", action="store_true",
                        help="falsify one note before the last look: the run must fail")
    options = parser.parse_args()
    reason = loop_fs.why_not()
    if reason:
        print("skipped: %s\n0 passed, %d failed" % (reason, bool(os.environ.get("CI"))))
        sys.exit(1 if os.environ.get("CI") else 0)
    checks = []
    with tempfile.TemporaryDirectory(prefix="faultio-") as directory:
        faultio = build_faultio(directory)
        for name in [options.only] if options.only else names:
            checks += Scenario(options, name, faultio).run()
    print("%d passed, %d failed" % (checks.count(True), checks.count(False)))
    sys.exit(1 if False in checks else 0)


if __name__ == "__main__":
    main()
