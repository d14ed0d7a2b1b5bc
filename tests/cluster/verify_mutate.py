#!/usr/bin/env python3
"""Changes a data directory thousands of times and asks `fluxmq verify` each time.

    verify_mutate.py [--fluxmq BIN] [--kafka-broker JARS] [--data DIR] [--count N] [--seed S]

One change at a time: a bit, a byte, or the end of a file cut off; then verify must find it, and the
file is put back. The data is written and cleanly stopped by fluxmq, or by Apache Kafka with
--kafka-broker, or is a copy of DIR (which must be clean, too).

Half of the changes go to a file drawn by its size, half to any file. A change that is not found is
harmless when it is one of the cases named in HARMLESS, each with its reason; any other is a miss.
Prints the table; exits 1 when something was missed.
"""

import argparse
import collections
import glob
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
SUPPORT = os.path.join(HERE, "..", "support")
sys.path.insert(0, SUPPORT)
from broker import Broker, add_broker_options, broker_choice  # noqa: E402

# Files whose bytes nobody reads: deleted ones that wait to go, the lock, which is only held, and the
# room that is kept for the quorum.
NOT_DATA = (".deleted", ".cut", ".lock", ".ballast")
RAFT = "fluxmq-raft"
# KRaft's own state: fluxmq never reads it.
NOT_OURS = ("__cluster_metadata-0", "bootstrap.checkpoint")

HARMLESS = {
    "index cut between entries":
        "what is left of it is true: a lookup begins further in front, and recovery writes the rest",
    "time index of the active segment cut between entries":
        "what is left of it is true: recovery reads the batches behind its last entry",
    "high watermark lowered":
        "a hint: a leader finds it anew from its replicas, and it may only be too low",
    "comment":
        "a comment line, which nobody reads",
    "marker's broker epoch":
        "another number in a well-formed marker: compared with the quorum's at start",
    "empty marker":
        "the marker counts by being there",
    "directory's identity":
        "another legal id: a start compares it with configuration and quorum, no other file has it",
    "topic id in a Kafka directory":
        "another legal id: in Kafka's directories only the metadata log has it as well",
    "epoch that has no records":
        "a number that no batch carries: the leader's next epoch replaces it",
    "first dirty offset moved":
        "where the cleaner goes on: at worst it cleans again what is clean",
    "the quorum's term or vote":
        "another legal number, which libraft keeps without a checksum, in the only file that has it; of "
        "one voter it does not count, for in any term it votes for itself",
    "below the log start":
        "deleted on request: no reader gets there",
}


class Change:
    """One change of one file, which can be undone."""

    def __init__(self, rng, path):
        self.path = path
        self.size = os.path.getsize(path)
        self.kind = rng.choice(("bit", "byte", "cut"))
        self.at = rng.randrange(self.size)
        with open(path, "rb") as f:
            f.seek(self.at)
            self.old = f.read() if self.kind == "cut" else f.read(1)
        if self.kind == "bit":
            self.new = bytes([self.old[0] ^ (1 << rng.randrange(8))])
        elif self.kind == "byte":
            self.new = bytes([rng.choice([b for b in range(256) if b != self.old[0]])])

    def apply(self):
        if self.kind == "cut":
            os.truncate(self.path, self.at)
        else:
            with open(self.path, "r+b") as f:
                f.seek(self.at)
                f.write(self.new)

    def undo(self):
        with open(self.path, "r+b") as f:
            f.seek(self.at)
            f.write(self.old)

    def __str__(self):
        what = "cut at" if self.kind == "cut" else "%s %s -> %s at" % (self.kind, self.old.hex(),
                                                                      self.new.hex())
        return "%s: %s %d of %d" % (self.path, what, self.at, self.size)


def verify(binary, path):
    return subprocess.run([binary, "verify", "--strict", "--jobs", "1", path],
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def read_lines(path):
    with open(path, "rb") as f:
        return f.read().split(b"\n")


def is_active(path):
    base = os.path.basename(path).split(".")[0]
    logs = [n for n in os.listdir(os.path.dirname(path)) if n.endswith(".log")]
    return base + ".log" == max(logs)


def other_number(change, column):
    """The line that was changed differs in this column alone, a number, in an offset checkpoint."""
    new = read_lines(change.path)
    change.undo()
    old = read_lines(change.path)
    change.apply()
    differing = [(a.split(), b.split()) for a, b in zip(old, new) if a != b]
    if len(old) != len(new) or len(differing) != 1:
        return None
    a, b = differing[0]
    if len(a) != len(b) or [x for i, x in enumerate(a) if i != column] != \
            [x for i, x in enumerate(b) if i != column] or not b[column].isdigit():
        return None
    return int(a[column]), int(b[column])


def harmless(change, data):
    """-> the case in HARMLESS that the change, which is applied, belongs to; or None"""
    name = os.path.basename(change.path)
    if name.endswith(".index") and change.kind == "cut" and change.at % 8 == 0:
        return "index cut between entries"
    if name.endswith(".timeindex") and change.kind == "cut" and change.at % 12 == 0 and \
            is_active(change.path):
        return "time index of the active segment cut between entries"
    if name == "replication-offset-checkpoint":
        numbers = other_number(change, 2)
        if numbers and numbers[1] < numbers[0]:
            return "high watermark lowered"
    if name == "cleaner-offset-checkpoint" and other_number(change, 2):
        return "first dirty offset moved"
    if name == "leader-epoch-checkpoint":
        numbers = other_number(change, 0)
        last = [x for x in read_lines(change.path) if x][-1].split()
        if numbers and last[0] == b"%d" % numbers[1] and len(last) == 2:
            return "epoch that has no records" if ends_at(change.path, int(last[1])) else None
    if name == ".kafka_cleanshutdown":
        return "empty marker" if change.kind == "cut" and change.at == 0 else "marker's broker epoch"
    if name == "meta.properties":
        before = read_lines(change.path)
        change.undo()
        line = [a for a, b in zip(read_lines(change.path), before) if a != b]
        change.apply()
        if line and line[0].startswith(b"#"):
            return "comment"
        if line and line[0].startswith((b"node.id=", b"cluster.id=", b"directory.id=")):
            return "directory's identity"
    if kind_of(change.path) == RAFT and name in ("metadata1", "metadata2") and change.kind != "cut" and \
            change.at >= 8 and len(glob.glob(os.path.join(data, RAFT, "metadata*"))) == 1:
        return "the quorum's term or vote"  # or the number of this version of them
    if name == "partition.metadata" and not os.path.exists(os.path.join(data, "fluxmq-clean-state")):
        return "topic id in a Kafka directory"
    return None


def ends_at(path, offset):
    """No batch begins at or behind the offset."""
    folder = os.path.dirname(path)
    end = 0
    for name in sorted(n for n in os.listdir(folder) if n.endswith(".log")):
        end = int(name.split(".")[0])
        with open(os.path.join(folder, name), "rb") as f:
            bytes_ = f.read()
        at = 0
        while at + 61 <= len(bytes_):
            end = int.from_bytes(bytes_[at:at + 8], "big") + \
                int.from_bytes(bytes_[at + 23:at + 27], "big") + 1
            at += 12 + int.from_bytes(bytes_[at + 8:at + 12], "big")
    return offset >= end


def files_of(data):
    out = []
    for folder, dirs, names in os.walk(data):
        dirs[:] = sorted(d for d in dirs if d not in NOT_OURS)
        for name in sorted(names):
            path = os.path.join(folder, name)
            if not name.endswith(NOT_DATA) and name not in NOT_OURS and os.path.getsize(path) > 0:
                out.append(path)
    return out


def make_data(options):
    broker = Broker(**broker_choice(options), properties={"log.retention.ms": -1})
    try:
        broker.start(timeout=240)
        run = subprocess.run(["java", "-Xmx256m", "-cp", os.path.abspath(options.jars) + "/*",
                              os.path.join(SUPPORT, "SampleWriter.java"), broker.bootstrap,
                              str(options.records)],
                             stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                             env={**os.environ, "TRANSACTIONS": options.transactions})
        if run.returncode:
            raise SystemExit("the sample cannot be written:\n" + run.stderr[-3000:])
        if options.kafka_broker:
            time.sleep(10)  # the cleaner's own time
        broker.stop(120)
        data = tempfile.mkdtemp(prefix="verify-mutate-")
        shutil.copytree(broker.log_dirs[0], data, dirs_exist_ok=True)
        return data
    finally:
        broker.remove()


def kind_of(path):
    name = os.path.basename(path)
    if os.path.basename(os.path.dirname(path)) == RAFT:
        return RAFT
    return name if "." not in name[1:] or not name[0].isdigit() else os.path.splitext(name)[1]


def found(binary, change, data):
    """A partition is asked alone first, which is quicker; the whole directory has the last word."""
    folder = os.path.dirname(change.path)
    for path in ([folder] if folder != data and kind_of(change.path) != RAFT else []) + [data]:
        run = verify(binary, path)
        if run.returncode not in (0, 1):
            raise SystemExit("verify ended with %d over %s:\n%s" % (run.returncode, change,
                                                                    run.stdout[-2000:]))
        if run.returncode == 1:
            return True
    return False


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add_broker_options(parser)
    parser.add_argument("--jars", help="official client's jars, to write the sample with")
    parser.add_argument("--data", help="a clean data directory to copy, instead of making one")
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--records", type=int, default=4000, help="size of the sample")
    parser.add_argument("--plant", action="store_true",
                        help="ask only after each change is undone: the run must fail")
    parser.add_argument("--transactions", choices=("yes", "no"), default="no")
    o = parser.parse_args()
    o.jars = o.jars or o.kafka_broker
    binary = o.fluxmq or os.path.join(HERE, "..", "..", "build", "release", "fluxmq")
    if o.data:
        data = tempfile.mkdtemp(prefix="verify-mutate-")
        shutil.copytree(o.data, data, dirs_exist_ok=True)
    else:
        data = make_data(o)

    clean = verify(binary, data)
    print(clean.stdout[-400:] if clean.returncode == 0 else clean.stdout)
    if clean.returncode != 0:
        raise SystemExit("the directory is not clean to begin with")

    rng = random.Random(o.seed)
    files = files_of(data)
    sizes = [os.path.getsize(f) for f in files]
    table = collections.defaultdict(collections.Counter)
    cases, misses = collections.Counter(), []
    for i in range(o.count):
        path = rng.choices(files, sizes)[0] if i % 2 else rng.choice(files)
        change = Change(rng, path)
        change.apply()
        if o.plant:
            change.undo()
        try:
            row = table[kind_of(path), change.kind]
            if found(binary, change, data):
                row["found"] += 1
            else:
                case = harmless(change, data)
                row["harmless" if case else "missed"] += 1
                if case:
                    cases[case] += 1
                else:
                    misses.append(str(change))
        finally:
            change.undo()
    last = verify(binary, data)

    print("%-36s %-5s %8s %9s %7s" % ("file", "what", "found", "harmless", "missed"))
    for (name, kind), row in sorted(table.items()):
        print("%-36s %-5s %8d %9d %7d" % (name, kind, row["found"], row["harmless"], row["missed"]))
    for case, n in cases.most_common():
        print("harmless, %d times: %s: %s" % (n, case, HARMLESS[case]))
    for miss in misses[:50]:
        print("missed: " + miss)
    total = collections.Counter()
    for row in table.values():
        total += row
    print("verify_mutate: %d changes of %d files (%d bytes), seed %d: %d found, %d harmless, %d missed"
          % (o.count, len(files), sum(sizes), o.seed, total["found"], total["harmless"],
             total["missed"]))
    shutil.rmtree(data, ignore_errors=True)
    if last.returncode != 0:
        raise SystemExit("the directory was not put back as it was:\n" + last.stdout[-2000:])
    return 1 if misses else 0


if __name__ == "__main__":
    sys.exit(main())
