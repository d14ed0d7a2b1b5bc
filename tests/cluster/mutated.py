#!/usr/bin/env python3
"""A server that starts on damaged files: it never dies of them, never serves bytes that were not
written, and never loses in silence.

Two data directories are made under a checked load (several segments, idempotent producers, gzip,
lz4, zstd, deleted records): one of a node that was stopped cleanly, one of a node that was killed.
What an undamaged copy of each serves is the truth. Then, again and again: a copy is changed in one
place or several (bits, zeroed pages, cuts, garbage, exchanged blocks, missing files), the server is
started on it, everything that it serves is read and compared with the truth, a record is written to
each partition that takes one, and it is stopped.

  M1  the server does not die of a signal and does not hang: it becomes ready, or it ends with 1 or 2
      and names the file, which then is the quorum's or the directory's own (for a raft file: with
      an offset);
  M2  what is served at an offset are the bytes that were written there: a batch with a wrong CRC,
      another batch, or another offset is never served;
  M3  a partition serves all that it held; or it is offline, which DescribeLogDirs and the log say;
      or records are missing that lay above its recovery point, and a line of the log names it;
  M4  a partition none of whose files were changed serves all that it held;
  M5  who asks for an offset or a time is answered as before the damage (a damaged log-start-offset-checkpoint
      may bring deleted records back: it must hide none);
  M6  what is written to a partition afterwards is there;
  M7  the stop after it ends with 0.

    mutated.py --fluxmq build/release/fluxmq                  # 200 damaged directories
    mutated.py --fluxmq ... --keep DIR --only 17              # one of them again
    mutated.py --fluxmq ... --count 5 --plant                 # must fail: a changed truth
"""

import argparse
import collections
import fnmatch
import os
import random
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import broker as brokers
import kafka_wire as wire
from checked_load import Load, Notes, Reader, TopicPlan

START_S = 20
STOP_S = 10
SETTLE_S = 10
STORAGE_ERROR = 56
NOT_YET = {3, 5, 6, 78, 100}  # a start in progress answers so
BLOCKS = (512, 4096)

# kind of file -> (its weight, names): in this order, the first that fits.
FILES = [
    ("log", 32, "*.log"), ("index", 9, "*.index"), ("timeindex", 9, "*.timeindex"),
    ("snapshot", 9, "*.snapshot"), ("epochs", 5, "leader-epoch-checkpoint"),
    ("partition.metadata", 6, "partition.metadata"), ("checkpoint", 9, "*-checkpoint"),
    ("clean marker", 6, ".kafka_cleanshutdown"), ("clean state", 6, "fluxmq-clean-state"),
    ("directory", 5, "meta.properties"), ("directory", 5, "fluxmq-format"),
]
RAFT_WEIGHT = 8


def kind_of(path):
    """path: below the data directory"""
    if path.startswith("fluxmq-raft/"):
        return "raft"
    for kind, _, pattern in FILES:
        if fnmatch.fnmatch(os.path.basename(path), pattern):
            return kind
    return None


WEIGHTS = {**{kind: weight for kind, weight, _ in FILES}, "raft": RAFT_WEIGHT}


# ---------------------------------------------------------------- damage


def flip_bits(rng, data, _):
    for _ in range(rng.choice((1, 1, 1, 8))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def zero_page(rng, data, _):
    at = rng.randrange(len(data)) // 4096 * 4096
    data[at:at + 4096] = bytes(len(data[at:at + 4096]))


def cut(rng, data, _):
    del data[rng.randrange(len(data)):]


def empty(_, data, __):
    data.clear()


def garbage_behind(rng, data, _):
    data += rng.randbytes(rng.randrange(1, 5000))


def zeros_behind(rng, data, _):
    data += bytes(rng.randrange(1, 200000))


def exchange_blocks(rng, data, _):
    size = rng.choice([b for b in BLOCKS if 2 * b <= len(data)] or [max(1, len(data) // 2)])
    a, b = (rng.randrange(max(1, len(data) // size)) * size for _ in range(2))
    data[a:a + size], data[b:b + size] = data[b:b + size], data[a:a + size]


def repeat_block(rng, data, _):
    size = rng.choice([b for b in BLOCKS if 2 * b <= len(data)] or [max(1, len(data) // 2)])
    a, b = (rng.randrange(max(1, len(data) // size)) * size for _ in range(2))
    data[b:b + size] = data[a:a + size]


def insert_block(rng, data, _):
    at, size = rng.randrange(len(data)), rng.choice((1, 7, 61, 512))
    data[at:at] = data[:size]


def other_file(rng, data, others):
    """The content of another file of its kind."""
    if others:
        with open(rng.choice(others), "rb") as f:
            data[:] = f.read()


DAMAGE = [flip_bits] * 6 + [zero_page] * 2 + [cut] * 3 + [empty, garbage_behind, garbage_behind,
          zeros_behind, exchange_blocks, repeat_block, insert_block, other_file]


def files_by_kind(data):
    out = {}
    for folder, dirs, names in os.walk(data):
        dirs.sort()
        for name in sorted(names):
            path = os.path.join(folder, name)
            kind = kind_of(os.path.relpath(path, data))
            if kind and not name.endswith((".deleted", ".cut", ".lock")):
                out.setdefault(kind, []).append(path)
    return out


class Damage(collections.namedtuple("Damage", "kind what path")):
    def __str__(self):
        return "%s: %s" % (self.path, self.what)


def damage(rng, data):
    """Changes one place, or several. -> [Damage]"""
    out = []
    for _ in range(1 if rng.random() < 0.7 else rng.randrange(2, 7)):
        files = files_by_kind(data)
        kinds = sorted(files)
        kind = rng.choices(kinds, [WEIGHTS[k] for k in kinds])[0]
        path = rng.choice(files[kind])
        before = os.stat(path)
        change = rng.choice(DAMAGE)
        if rng.random() < 0.07 or not before.st_size:
            os.unlink(path)
            what = "removed"
        else:
            with open(path, "rb") as f:
                content = bytearray(f.read())
            # Nothing in Kafka's format tells one partition's log from another's of the same offsets.
            change(rng, content, [p for p in files[kind] if p != path and not (
                kind == "log" and os.path.basename(p) == os.path.basename(path))])
            with open(path, "r+b") as f:
                f.write(content)
                f.truncate()
            what = change.__name__.replace("_", " ")
            if rng.random() < 0.5:  # rot leaves the time as it was
                os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        out.append(Damage(kind, what, os.path.relpath(path, data)))
    return out


# ---------------------------------------------------------------- what is served


class Truth:
    """What one partition served before any damage."""

    def __init__(self, start, recovery_point):
        self.start, self.end, self.recovery_point = start, start, recovery_point
        self.batches = {}  # base offset -> bytes
        self.next = {}     # base offset -> offset behind the batch
        self.times = {}    # timestamp asked for -> offset answered

    def add(self, b):
        self.batches[b.base_offset] = b.data
        self.end = self.next[b.base_offset] = b.last_offset + 1

    def holder(self, offset):
        """The base offset of the batch that has it."""
        return next((base for base, after in self.next.items() if base <= offset < after), None)


def whole_batches(records):
    """-> (base offset, bytes) of what a client would take for batches; the last one, cut off by the
    limit of the answer, is left out, unless there is no other."""
    at = 0
    while at < len(records):
        base, size = struct.unpack_from(">qi", records[at:at + 12].ljust(12, b"\0"))
        if at and at + 12 + size > len(records):
            return
        yield base, records[at:at + 12 + max(size, 0)]
        at += 12 + max(size, wire.BATCH_HEADER - 12)


def what_it_is(data):
    try:
        b = wire.split_batches(data)[0]
    except (wire.WireError, IndexError):
        return "%d bytes that are no batch" % len(data)
    return "another batch than was written: base %d, last %d, epoch %d, CRC %s" % (
        b.base_offset, b.last_offset, b.leader_epoch,
        "right" if wire.crc32c(b.data[21:]) == b.crc else "WRONG")


Served = collections.namedtuple("Served", "state end")  # state: all, short, offline


class Survey:
    """Reads all partitions of one running server and compares them with the truth."""

    def __init__(self, broker, conn, complain, rng):
        self.broker, self.conn, self.complain, self.rng = broker, conn, complain, rng
        self.batches = self.lookups = 0
        self.start_damaged = False  # then deleted records may come back

    def offset(self, partition, time_):
        """-> (error, offset); waits while the start is in progress."""
        deadline = time.monotonic() + SETTLE_S
        while True:
            error, _, offset = wire.list_offsets(
                self.conn, [(partition[0], [(partition[1], time_)])])[partition]
            if error not in NOT_YET or time.monotonic() > deadline:
                return error, offset
            time.sleep(0.05)

    def fetch(self, partition, offset, size=1 << 20):
        (part,) = wire.fetch(self.conn, [(partition[0], [(partition[1], offset)])],
                             partition_bytes=size)
        return part

    def read(self, partition, truth):
        name = "%s-%d" % partition
        error, end = self.offset(partition, wire.LATEST)
        if error:
            if error != STORAGE_ERROR:
                self.complain("M3", "%s: ListOffsets answers %s" % (name, wire.error_name(error)))
            return Served("offline", -1)
        error, start = self.offset(partition, wire.EARLIEST)
        if error == STORAGE_ERROR:
            return Served("offline", -1)
        if start > truth.start or end > truth.end:
            self.complain("M3", "%s: is %d..%d, was %d..%d" % (name, start, end, truth.start, truth.end))
        position = truth.start
        while position < end:
            part = self.fetch(partition, position)
            if part.error == STORAGE_ERROR:
                return Served("offline", -1)
            after = self.compare(name, truth, position, part)
            if after == position:
                self.complain("M3", "%s: nothing served at %d, though it ends at %d" % (name, position, end))
                break
            position = after
        served = Served("all" if end == truth.end else "short", end)
        return self.look_up(partition, truth, end) or served

    def compare(self, name, truth, position, part):
        """-> the offset behind what was served; behind the batch there when that was wrong."""
        if part.error:
            self.complain("M3", "%s: Fetch at %d answers %s" % (name, position, wire.error_name(part.error)))
            return position
        for number, (base, data) in enumerate(whole_batches(part.records)):
            self.batches += 1
            if data != truth.batches.get(base) or (
                    not base <= position < truth.next[base] if number == 0 else base != position):
                self.complain("M2", "%s: at %d %s" % (name, position, what_it_is(data)))
                return truth.next.get(truth.holder(position), position)
            position = truth.next[base]
        return position

    def look_up(self, partition, truth, end):
        """Offsets in no order, and times. -> Served when that took it offline"""
        name = "%s-%d" % partition
        for _ in range(12):
            if end <= truth.start:
                break
            at = self.rng.randrange(truth.start, end)
            part = self.fetch(partition, at, 1)
            if part.error == STORAGE_ERROR:
                return Served("offline", -1)
            self.lookups += 1
            if not part.records and not part.error:
                again = self.fetch(partition, at, 1)
                self.complain("M5", "%s: nothing served at %d, asked again: %s" % (name, at, "%d bytes" % len(
                    again.records) if again.records else wire.error_name(again.error)))
            self.compare(name, truth, at, part)
        for time_, right in truth.times.items():
            error, offset = self.offset(partition, time_)
            if error == STORAGE_ERROR:
                return Served("offline", -1)
            self.lookups += 1
            if not error and self.start_damaged and 0 <= offset < truth.start:
                continue
            if error or (offset != right and (end == truth.end or 0 <= right < end)):
                self.complain("M5", "%s: time %d is at %d (%s), was at %d" % (
                    name, time_, offset, wire.error_name(error), right))
        return None


def read_recovery_points(data):
    with open(os.path.join(data, "recovery-point-offset-checkpoint")) as f:
        lines = [line.split() for line in f.read().splitlines()[2:]]
    return {(topic, int(index)): int(offset) for topic, index, offset in lines}


def read_truth(broker, partitions, points, rng):
    """-> {partition: Truth} of a server that runs on undamaged files"""
    out = {}
    with broker.connect() as conn:
        survey = Survey(broker, conn, None, rng)
        for p in partitions:
            t = out[p] = Truth(survey.offset(p, wire.EARLIEST)[1], points.get(p, 0))
            end = survey.offset(p, wire.LATEST)[1]
            times = set()
            while t.end < end:
                for b in wire.split_batches(survey.fetch(p, t.end).records):
                    t.add(b)
                    times |= {b.first_timestamp, b.max_timestamp + 1}
            for time_ in rng.sample(sorted(times), min(6, len(times))):
                t.times[time_] = survey.offset(p, time_)[1]
    return out


# ---------------------------------------------------------------- the two directories


def plans():
    rolling = {"segment.ms": "250"}
    return [TopicPlan("rolls", 3, rolling, shape="mixed", weight=2),
            TopicPlan("single", 2, {}, shape="small"),
            TopicPlan("flushed", 2, {**rolling, "flush.messages": "1"}, shape="small"),
            TopicPlan("trim", 2, {**rolling, "file.delete.delay.ms": "100"}, start="delete", shape="small")]


OTHER_CODECS = ("snappy", "lz4", "zstd")


class Originals:
    """DIR/clean and DIR/killed, and the truth about each."""

    def __init__(self, test, folder):
        self.test, self.folder = test, folder
        self.partitions = [(p.name, i) for p in plans() for i in range(p.partitions)]
        self.partitions += [("codec-" + c, 0) for c in OTHER_CODECS]
        self.truth = {}

    def make(self):
        broker, notes = self.test.broker, Notes(plans())
        load = Load(notes, seed=self.test.options.seed)
        broker.start()
        with broker.connect() as conn:
            wire.create_topics(conn, [wire.Topic(p.name, p.partitions, p.configs) for p in notes.plans])
            wire.create_topics(conn, [wire.Topic("codec-" + c) for c in OTHER_CODECS])
        self.write(load, 2.0)
        for codec in OTHER_CODECS:
            lines = "".join("%s %d %s\n" % (codec, i, "text " * (i % 40)) for i in range(2000))
            subprocess.run(["kcat", "-P", "-b", broker.bootstrap, "-t", "codec-" + codec, "-z", codec],
                           input=lines, text=True, check=True)
        self.write(load, 60, fresh=False, until=lambda: not load.unanswered())
        broker.stop()
        self.keep("clean")
        self.check(broker, notes, load)
        self.write(load, 1.0, then=broker.kill)
        self.keep("killed")
        self.check(broker, notes, load)
        broker.stop()
        if notes.violations:
            raise SystemExit("the original is not what was written: no damage was needed for that")
        return notes

    def write(self, load, seconds, fresh=True, until=None, then=None):
        end = time.monotonic() + seconds
        def over():
            if time.monotonic() < end and not (until and until()):
                return False
            if then:
                then()
            return True
        load.run(self.test.broker, until=over, fresh=fresh, rate=250)

    def check(self, broker, notes, load):
        broker.start()
        self.write(load, 20, fresh=False, until=lambda: not load.unanswered())
        Reader(notes).run(broker, full=True)

    def keep(self, name):
        copy_tree(self.test.broker.log_dirs[0], os.path.join(self.folder, name))

    def read(self):
        for name in ("clean", "killed"):
            points = read_recovery_points(os.path.join(self.folder, name))
            self.test.place(os.path.join(self.folder, name))
            self.test.broker.start()
            self.truth[name] = read_truth(self.test.broker, self.partitions, points, random.Random(1))
            self.test.broker.kill()


def copy_tree(source, target):
    shutil.rmtree(target, ignore_errors=True)
    os.makedirs(os.path.dirname(target), exist_ok=True)
    subprocess.run(["cp", "-a", "--reflink=auto", source, target], check=True)


# ---------------------------------------------------------------- one damaged directory after another


class Mutated:
    def __init__(self, options):
        self.options = options
        self.broker = brokers.Broker(fluxmq=options.fluxmq, properties={
            "log.retention.ms": "-1", "log.initial.task.delay.ms": "600000"})
        self.folder = options.keep or tempfile.mkdtemp(prefix="mutated-")
        self.violations = []
        self.table = collections.defaultdict(collections.Counter)
        self.totals = collections.Counter()

    def place(self, original):
        copy_tree(original, self.broker.log_dirs[0])

    def complain(self, rule, text):
        self.found.append((rule, text))

    def run(self):
        originals = Originals(self, self.folder)
        if not os.path.isdir(os.path.join(self.folder, "killed")):
            notes = originals.make()
            print("written and checked: %d batches, %d records" % (notes.read_batches, notes.read_records))
        originals.read()
        for name, truth in originals.truth.items():
            logs = files_by_kind(os.path.join(self.folder, name))
            print("%s: %d partitions, %d segments, %d batches, %.1f MB" % (
                name, len(truth), len(logs["log"]), sum(len(t.batches) for t in truth.values()),
                sum(len(b) for t in truth.values() for b in t.batches.values()) / 1e6), flush=True)
        if self.options.plant:
            for truth in originals.truth.values():
                t = truth["rolls", 0]
                base = sorted(t.batches)[len(t.batches) // 2]
                t.batches[base] = t.batches[base][:-1] + b"?"
        numbers = range(self.options.count) if self.options.only is None else [self.options.only]
        for number in numbers:
            self.one(number, originals)

    def one(self, number, originals):
        rng = random.Random(self.options.seed * 1000003 + number)
        name = ("clean", "killed")[number % 2]
        self.found = []
        self.place(os.path.join(self.folder, name))
        done = damage(rng, self.broker.log_dirs[0])
        try:
            outcome = self.start(done)
            if outcome == "served":
                outcome = self.look(rng, done, originals.truth[name])
        except (OSError, wire.WireError, wire.KafkaError) as e:
            self.complain("M1", "%r; the server %s" % (e, "runs" if self.broker.ended() is None else
                                                       "ended with %d" % self.broker.ended()))
            outcome = "lost contact"
        log = self.broker.log_since_start()
        if self.broker.process:
            self.stop()
        self.verify()
        for d in done:
            self.table[d.kind, d.what][outcome] += 1
        self.totals[outcome] += 1
        if self.options.only is not None:
            print(log)
        for rule, text in self.found:
            self.violations.append((number, rule, text))
        if self.found or self.options.only is not None:
            print("%s %d of %s: %s -> %s" % ("VIOLATION in" if self.found else "", number, name,
                                             "; ".join(map(str, done)), outcome))
            for rule in sorted({rule for rule, _ in self.found}):
                for text in [text for r, text in self.found if r == rule][:3]:
                    print("    %s %s" % (rule, text), flush=True)

    def start(self, done):
        """-> "served", or "refused" """
        self.broker.start(wait=False)
        deadline = time.monotonic() + START_S
        while not self.broker.answers():
            code = self.broker.ended()
            if code is not None:
                self.check_refusal(code, done)
                self.broker.kill()
                return "refused"
            if time.monotonic() > deadline:
                self.complain("M1", "not ready after %d s:\n%s" % (START_S, self.broker.log_tail(8)))
                self.broker.kill()
                return "hung"
            time.sleep(0.005)
        return "served"

    def check_refusal(self, code, done):
        log = self.broker.log_since_start()
        if code not in (1, 2):
            self.complain("M1", "ended with %d:\n%s" % (code, log[-1500:]))
            return
        guilty = [d for d in done if d.kind in ("raft", "directory")]
        named = [d for d in guilty if os.path.basename(d.path) in log]
        if not guilty:
            self.complain("M1", "refuses to start, with %d:\n%s" % (code, log[-1500:]))
        elif not named and not any(d.what == "removed" for d in guilty):
            self.complain("M1", "refuses to start and does not name %s:\n%s" % (guilty[0].path, log[-1500:]))
        elif named and all(d.kind == "raft" and d.what != "removed" for d in guilty) and \
                not re.search(r"\b(at|offset)\D{0,12}\d+", log):
            self.complain("M1", "names no offset in %s:\n%s" % (named[0].path, log[-1500:]))

    def look(self, rng, done, truth):
        served = {}
        with self.broker.connect() as conn:
            survey = Survey(self.broker, conn, self.complain, rng)
            survey.start_damaged = any(os.path.basename(d.path) == "log-start-offset-checkpoint" for d in done)
            for partition, t in truth.items():
                served[partition] = survey.read(partition, t)
            self.totals["batches"] += survey.batches
            self.totals["lookups"] += survey.lookups
            dirs = wire.describe_log_dirs(conn)
            self.check_said(done, served, truth, dirs)
            for partition, s in served.items():
                if s.state != "offline":
                    self.write(conn, survey, partition, s, truth[partition])
        states = {s.state for s in served.values()}
        return "offline" if "offline" in states else "named loss" if "short" in states else "all served"

    def check_said(self, done, served, truth, dirs):
        log = self.broker.log_since_start()
        touched = {os.path.dirname(d.path) for d in done}
        lags = {p: lag for _, _, replicas in dirs for p, (_, lag) in replicas.items()}
        dir_offline = any(error for error, _, _ in dirs)
        for partition, s in served.items():
            name = "%s-%d" % partition
            said = [line for line in log.splitlines()
                    if re.search(r"\b%s\b" % name, line) and re.search(r" (WARN|ERROR) ", line)]
            if s.state == "offline" and not dir_offline and lags.get(partition, -1) != -1:
                self.complain("M3", "%s: offline, which DescribeLogDirs does not say" % name)
            if s.state != "all" and not said:
                self.complain("M3", "%s: is %s (ends at %d, was %d), and the log does not say it" % (
                    name, s.state, s.end, truth[partition].end))
            if s.state == "short" and s.end < truth[partition].recovery_point and not any(
                    os.path.basename(d.path) == "recovery-point-offset-checkpoint" for d in done):
                self.complain("M3", "%s: ends at %d, below its recovery point %d, and is not offline: %s" % (
                    name, s.end, truth[partition].recovery_point, "; ".join(said)[:400]))
            # A recovery point beyond the records says that some are missing.
            whole = name not in touched and not any(
                d.kind == "raft" or os.path.basename(d.path) == "recovery-point-offset-checkpoint" for d in done)
            if s.state != "all" and whole:
                self.complain("M4", "%s: is %s (ends at %d, was %d), and its files are whole: %s" % (
                    name, s.state, s.end, truth[partition].end, "; ".join(said)[:300]))
            self.totals["partitions " + s.state] += 1

    def write(self, conn, survey, partition, served, truth):
        name = "%s-%d" % partition
        batch = wire.encode_batch([(b"after", b"the damage", [])])
        answer = wire.produce(conn, *partition, batch, check=False)
        self.totals["written"] += 1
        if answer.error or answer.base_offset != served.end:
            said = re.search(r"\b%s\b.*" % name, self.broker.log_since_start())
            if answer.error != STORAGE_ERROR or not said:
                self.complain("M6", "%s: Produce answers %s at %d, the log ended at %d" % (
                    name, wire.error_name(answer.error), answer.base_offset, served.end))
            return
        part = survey.fetch(partition, answer.base_offset)
        if not part.records or part.records[16:] != batch[16:]:
            self.complain("M6", "%s: what was written at %d is not there" % (name, answer.base_offset))

    def stop(self):
        code = self.broker.ended()
        if code is not None:
            self.complain("M1", "ended with %d while serving:\n%s" % (code, self.broker.log_tail(12)))
            self.broker.kill()
            return
        code = self.broker.stop(STOP_S)
        if code != 0:
            self.complain("M7", "the stop ended with %s:\n%s" % (code, self.broker.log_tail(12)))

    def verify(self):
        run = subprocess.run([self.broker.binary, "verify", self.broker.log_dirs[0]],
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60)
        if run.returncode not in (0, 1):
            self.complain("M1", "fluxmq verify ended with %d" % run.returncode)
        self.totals["verify: " + ("clean", "findings")[min(run.returncode, 1)]] += 1

    def report(self):
        outcomes = ("all served", "named loss", "offline", "refused")
        print("%-20s %-16s" % ("file", "damage") + "".join("%12s" % o for o in outcomes + ("other",)))
        for (kind, what), row in sorted(self.table.items()):
            other = sum(row.values()) - sum(row[o] for o in outcomes)
            print("%-20s %-16s" % (kind, what) + "".join("%12d" % n for n in [row[o] for o in outcomes] + [other]))
        print("directories: " + ", ".join("%s %d" % (o, self.totals[o]) for o in outcomes) +
              "; after it, verify finds something in %d" % self.totals["verify: findings"])
        print("partitions: %d all there, %d shorter, %d offline; %d batches and %d lookups compared, %d records "
              "written after it" % (self.totals["partitions all"], self.totals["partitions short"],
                                    self.totals["partitions offline"], self.totals["batches"],
                                    self.totals["lookups"], self.totals["written"]))
        rules = collections.Counter(rule for _, rule, _ in self.violations)
        for rule, what in (("M1", "it starts, or says which file it cannot do without"),
                           ("M2", "only bytes that were written are served"),
                           ("M3", "nothing is lost in silence"), ("M4", "whole partitions are whole"),
                           ("M5", "lookups find what they found"), ("M6", "what is written after it is there"),
                           ("M7", "stops end with 0")):
            print("%s  %s %s%s" % ("FAIL" if rules[rule] else "ok  ", rule, what,
                                   ": %d violations" % rules[rule] if rules[rule] else ""))
        bad = sorted({number for number, _, _ in self.violations})
        ran = sum(self.totals[o] for o in outcomes + ("hung", "lost contact"))
        if bad:
            print("again: mutated.py --keep %s --seed %d --only N, N of %s" % (
                self.folder, self.options.seed, ", ".join(map(str, bad))))
        print("%d passed, %d failed" % (ran - len(bad), len(bad)))
        return 1 if bad or not ran else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=brokers.help_formatter)
    parser.add_argument("--fluxmq", metavar="BIN", default=os.environ.get("FLUXMQ"), required="FLUXMQ" not in os.environ)
    parser.add_argument("--count", type=int, default=200, help="damaged directories (default 200)")
    parser.add_argument("--seed", type=int, default=1, help="of load and damage (default 1)")
    parser.add_argument("--only", type=int, metavar="N", help="only the Nth of them, with the server's log")
    parser.add_argument("--keep", metavar="DIR", help="the two originals are made there, or are there already")
    parser.add_argument("--plant", action="store_true", help="falsify one batch of the truth: the run must fail")
    test = Mutated(parser.parse_args())
    status = 1
    try:
        test.run()
        status = test.report()
    finally:
        test.broker.remove()
        if status == 0 and not test.options.keep:
            shutil.rmtree(test.folder, ignore_errors=True)
    sys.exit(status)


if __name__ == "__main__":
    main()
