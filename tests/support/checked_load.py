"""Idempotent producers that note every acknowledgement, and a reader that holds a broker to them.

What must hold, whatever happened to the broker in between (crash, power failure, full disk):

  N1  an acknowledged batch is at the offset that was answered, once, byte for byte
      (base offset and leader epoch apart, which a broker writes);
  N2  offsets have no gap, and a producer's sequence numbers none either, from the log start up;
  N3  nothing is there that was not sent, and what was sent and not answered is there at most once:
      a producer repeats it with the same sequence number until it is answered;
  N4  what a reader has seen below the high watermark stays where it was seen;
  N5  only retention or DeleteRecords moves a log's start: never beyond what was asked for, and
      never back below what a DeleteRecords was answered with; retention by size leaves as much
      as it was told to.

One process, one thread: a selector loop drives all producers, so that a test can stop at any point
and look.
"""

import os
import random
import selectors
import socket
import sys
import time
import zlib
from collections import deque

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import kafka_wire as wire

IN_FLIGHT = 5  # requests per connection, and so at most batches per producer and partition

RETRIABLE = {3, 5, 6, 7, 14, 19, 20, 56, 78, 100}
OUT_OF_ORDER_SEQUENCE_NUMBER = 45
OFFSET_OUT_OF_RANGE = 1
KAFKA_STORAGE_ERROR = 56


class TopicPlan:
    """A topic of the load. `start`: what may move the log start: None, "retention" or "delete".

    durable: what is acknowledged must survive a power failure (flush.messages=1)."""

    def __init__(self, name, partitions, configs=None, start=None, shape="small", weight=1,
                 durable=True):
        self.name, self.partitions, self.configs = name, partitions, dict(configs or {})
        self.start, self.shape, self.weight, self.durable = start, shape, weight, durable


class Entry:
    """One batch: what was sent, and where it is known to be."""

    __slots__ = ("key", "count", "digest", "size", "base", "acked", "seen", "in_flight", "data")

    def __init__(self, key, count, data):
        self.key, self.count, self.size = key, count, len(data)
        self.digest = zlib.crc32(data[16:])
        self.base = -1          # answered or read
        self.acked = False
        self.seen = 0           # the last pass of the reader that met it
        self.in_flight = False
        self.data = data        # kept until it is answered


class Partition:
    def __init__(self, plan, index):
        self.plan, self.topic, self.index = plan, plan.name, index
        self.sent = {}              # (producer id, epoch, sequence) -> Entry
        self.deletes_asked = 0      # DeleteRecords: highest offset asked for
        self.deletes_done = 0       # ... and answered
        self.verified = 0           # a reader has been here
        self.highest_acked = 0      # the offset behind the highest acknowledged record
        self.storage_errors = 0     # answers KAFKA_STORAGE_ERROR

    def __str__(self):
        return "%s-%d" % (self.topic, self.index)


class Notes:
    """All that was sent and answered, and what was found wrong."""

    def __init__(self, plans, strict_log_start=True):
        self.plans = plans
        self.partitions = [Partition(p, i) for p in plans for i in range(p.partitions)]
        self.by_name = {(p.topic, p.index): p for p in self.partitions}
        self.strict_log_start = strict_log_start
        self.violations = []
        self.passes = 0
        self.acked_batches = self.acked_records = self.acked_bytes = 0
        self.retried = self.deletes = self.read_records = self.read_batches = 0
        self.found_unanswered = 0
        self.errors = {}            # retriable error -> how often

    def violation(self, text, *values):
        text = text % values
        if len(self.violations) < 50:
            print("VIOLATION: " + text, flush=True)
        self.violations.append(text)

    def plant(self, rng):
        """Self-test: falsifies one note, so that a checker that works must complain. Of a topic whose
        start nothing moves: what is deleted there by now, no reader would miss."""
        acked = [(p, e) for p in self.partitions for e in p.sent.values()
                 if e.acked and p.plan.start is None]
        partition, entry = rng.choice(acked)
        lie = rng.choice(["offset", "content", "lost", "duplicate"])
        if lie == "offset":
            entry.base += 1
        elif lie == "content":
            entry.digest ^= 1
        elif lie == "lost":
            ghost = Entry((entry.key[0], entry.key[1], entry.key[2] + 1_000_000_000), 1, entry.data
                          or b"")
            ghost.base, ghost.acked = entry.base, True
            partition.sent[ghost.key] = ghost
        else:
            del partition.sent[entry.key]  # what is there twice looks like something never sent
        return "%s of %s at offset %d" % (lie, partition, entry.base)


# ---------------------------------------------------------------- writing


def _shapes():
    """Records behind the first of a batch, encoded once: {shape: [(count, Filler)]}"""
    rng = random.Random(1)
    small = []
    for count in (1, 2, 3, 5, 8):
        data = b"".join(wire.encode_record(i, 0, b"k%d" % i, rng.randbytes(rng.randrange(20, 200)),
                                           [(b"h", b"1")] if i % 2 else []) for i in range(1, count))
        small.append((count, wire.Filler(data)))
    large = [(2, wire.Filler(wire.encode_record(1, 0, None, rng.randbytes(n))))
             for n in (20_000, 40_000, 60_000)]
    return {"small": small, "large": large, "mixed": small + small + large[:1]}


class Lane:
    """One producer's way into one partition: its sequence numbers and what is not yet answered."""

    __slots__ = ("partition", "sequence", "unanswered", "not_before")

    def __init__(self, partition):
        self.partition = partition
        self.sequence = 0
        self.unanswered = deque()
        self.not_before = 0.0

    def next_to_send(self):
        """The first batch that is not under way; earlier ones always go first."""
        for entry in self.unanswered:
            if not entry.in_flight:
                return entry
        return None


class Producer:
    """An idempotent producer on a connection of its own; it survives the broker's restarts."""

    def __init__(self, notes, number, rng, shapes):
        self.notes, self.number, self.rng, self.shapes = notes, number, rng, shapes
        self.producer_id = self.epoch = -1
        self.lanes = [Lane(p) for p in notes.partitions]
        self.weights = [p.plan.weight for p in notes.partitions]
        self.conn = None
        self.requests = {}  # correlation id -> [(lane, entry)]
        self.out = bytearray()
        self.acks = 0

    def open(self, broker):
        self.conn = broker.connect("producer-%d" % self.number, timeout=5)
        if self.producer_id < 0:
            self.producer_id, self.epoch = wire.init_producer_id(self.conn)
        self.conn.sock.setblocking(False)

    def lost_connection(self):
        """All that is unanswered is sent again, in order, under the same sequence numbers."""
        if self.conn:
            self.conn.close()
        self.conn, self.out = None, bytearray()
        for batches in self.requests.values():
            for _, entry in batches:
                entry.in_flight = False
        self.requests.clear()

    def unanswered(self):
        return sum(len(lane.unanswered) for lane in self.lanes)

    def _new_entry(self, lane, now_ms):
        count, filler = self.rng.choice(self.shapes[lane.partition.plan.shape])
        head = b"%d/%d/%s/%d" % (self.number, lane.sequence, lane.partition.topic.encode(),
                                 lane.partition.index)
        ids = (self.producer_id, self.epoch, lane.sequence)
        if lane.partition.plan.shape == "small" and self.rng.random() < 0.05:
            records = [(b"gzip%d" % i, head * 10, []) for i in range(10)]
            data = wire.encode_batch(records, now_ms, *ids, compression=wire.GZIP)
            count = len(records)
        else:
            data = wire.encode_filled_batch(wire.encode_record(0, 0, b"k", head), filler, count,
                                            now_ms, *ids)
        entry = Entry(ids, count, data)
        lane.sequence += count
        lane.unanswered.append(entry)
        lane.partition.sent[ids] = entry
        return entry

    def fill(self, fresh, now):
        """Queues requests until IN_FLIGHT are out. fresh: may new batches be made?"""
        while len(self.requests) < IN_FLIGHT:
            batches = self._pick(fresh, now)
            if not batches:
                break
            topics = {}
            for lane, entry in batches:
                entry.in_flight = True
                topics.setdefault(lane.partition.topic, []).append(
                    (lane.partition.index, entry.data))
            body = wire.produce_body(list(topics.items()), timeout_ms=10000)
            correlation_id, frame = self.conn.encode(wire.PRODUCE, 9, body)
            self.requests[correlation_id] = batches
            self.out += frame
        return bool(self.out)

    def _pick(self, fresh, now):
        batches = []
        for lane in self.lanes:
            if lane.unanswered and lane.not_before <= now:
                entry = lane.next_to_send()
                if entry is not None:
                    batches.append((lane, entry))
                    self.notes.retried += 1
                    if len(batches) == 4:
                        return batches
        if not fresh:
            return batches
        taken = {id(lane) for lane, _ in batches}
        now_ms = int(time.time() * 1000)
        for lane in self.rng.choices(self.lanes, self.weights, k=self.rng.randrange(1, 4)):
            if id(lane) in taken or len(lane.unanswered) >= IN_FLIGHT or lane.not_before > now:
                continue
            if lane.next_to_send() is not None:
                continue
            taken.add(id(lane))
            batches.append((lane, self._new_entry(lane, now_ms)))
        return batches

    def on_writable(self):
        sent = self.conn.sock.send(self.out)
        del self.out[:sent]

    def on_readable(self, now):
        data = self.conn.sock.recv(1 << 18)
        if not data:
            raise ConnectionResetError("closed")
        for correlation_id, _, version, reader in self.conn.feed(data):
            batches = {(lane.partition.topic, lane.partition.index): (lane, entry)
                       for lane, entry in self.requests.pop(correlation_id)}
            for answer in wire.read_produce(reader, version):
                lane, entry = batches.pop((answer.topic, answer.index))
                entry.in_flight = False
                self._on_answer(lane, entry, answer, now)
            for lane, entry in batches.values():
                self.notes.violation("no answer for %s in a Produce answer", lane.partition)

    def _on_answer(self, lane, entry, answer, now):
        notes, p = self.notes, lane.partition
        if answer.error in RETRIABLE or (answer.error == OUT_OF_ORDER_SEQUENCE_NUMBER
                                         and entry is not lane.unanswered[0]):
            notes.errors[answer.error] = notes.errors.get(answer.error, 0) + 1
            p.storage_errors += answer.error == KAFKA_STORAGE_ERROR
            lane.not_before = now + 0.05
            return
        if answer.error:
            notes.violation("%s: batch %s answered with %s (%s)", p, entry.key,
                            wire.error_name(answer.error), answer.message)
            lane.not_before = now + 1.0
            return
        # A later batch may be answered first: both were stored, and only the earlier one's repeat
        # came before the partition was ready. The reader sees to the order of what is stored.
        lane.unanswered.remove(entry)
        if entry.base >= 0 and entry.base != answer.base_offset:
            notes.violation("%s: batch %s acknowledged at %d, but read at %d", p, entry.key,
                            answer.base_offset, entry.base)
        entry.base, entry.acked, entry.data = answer.base_offset, True, None
        p.highest_acked = max(p.highest_acked, entry.base + entry.count)
        self.acks += 1
        notes.acked_batches += 1
        notes.acked_records += entry.count
        notes.acked_bytes += entry.size


class Load:
    """Several producers, and DeleteRecords on the topics that plan it."""

    def __init__(self, notes, producers=4, seed=1, delete_every_s=0.03):
        self.notes = notes
        self.rng = random.Random(seed)
        shapes = _shapes()
        self.producers = [Producer(notes, i, random.Random(seed * 1000 + i), shapes)
                          for i in range(producers)]
        self.deletable = [p for p in notes.partitions if p.plan.start == "delete"]
        self.delete_every_s = delete_every_s
        self.deleter = None
        self.deleting = None

    def unanswered(self):
        return sum(p.unanswered() for p in self.producers)

    def run(self, broker, until, fresh=True, rate=None):
        """Until until() is true, or all connections are gone. -> acknowledgements in this run

        fresh=False: only repeats what is unanswered. rate: new requests a second in all."""
        before = self.notes.acked_batches
        selector = selectors.DefaultSelector()
        try:
            self._open(broker, selector)
            self._loop(selector, until, fresh, rate)
        except (OSError, wire.WireError):
            pass
        finally:
            for p in self.producers:
                p.lost_connection()
            if self.deleter:
                self.deleter.close()
            self.deleter = self.deleting = None
            selector.close()
        return self.notes.acked_batches - before

    def _open(self, broker, selector):
        for p in self.producers:
            p.open(broker)
            selector.register(p.conn.sock, selectors.EVENT_READ, p)
        if self.deletable:
            self.deleter = broker.connect("deleter", timeout=5)
            selector.register(self.deleter.sock, selectors.EVENT_READ, None)

    def _loop(self, selector, until, fresh, rate):
        alive = set(self.producers)
        next_delete = time.monotonic() + self.delete_every_s
        next_fresh = 0.0
        while alive and not until():
            now = time.monotonic()
            for p in alive:
                may = fresh and (rate is None or now >= next_fresh)
                want = p.fill(may, now)
                if may and rate:
                    next_fresh = max(next_fresh + 1 / rate, now - 0.1)
                selector.modify(p.conn.sock, selectors.EVENT_READ | (selectors.EVENT_WRITE if want
                                                                     else 0), p)
            if fresh and self.deleter and not self.deleting and now >= next_delete:
                self._delete_some()
                next_delete = now + self.delete_every_s
            for key, events in selector.select(0.005):
                try:
                    if key.data is None:
                        self._on_deleted()
                        continue
                    if events & selectors.EVENT_READ:
                        key.data.on_readable(now)
                    if events & selectors.EVENT_WRITE and key.data.out:
                        key.data.on_writable()
                except (BlockingIOError, InterruptedError):
                    pass
                except (OSError, wire.WireError):
                    selector.unregister(key.fileobj)
                    if key.data is None:
                        self.deleter.close()
                        self.deleter = None
                    else:
                        key.data.lost_connection()
                        alive.discard(key.data)

    def _delete_some(self):
        p = self.rng.choice(self.deletable)
        low = max(p.deletes_asked, p.highest_acked - 400)
        if p.highest_acked <= low:
            return
        offset = self.rng.randrange(low, p.highest_acked + 1)
        p.deletes_asked = max(p.deletes_asked, offset)
        self.deleting = p
        self.deleter.send(wire.DELETE_RECORDS, 2,
                          wire.delete_records_body([(p.topic, [(p.index, offset)])]))

    def _on_deleted(self):
        data = self.deleter.sock.recv(65536)
        if not data:
            raise ConnectionResetError("closed")
        for _, _, _, reader in self.deleter.feed(data):
            ((name, (error, low)),) = wire.read_delete_records(reader).items()
            p, self.deleting = self.notes.by_name[name], None
            if error and error not in RETRIABLE:
                self.notes.violation("%s: DeleteRecords answered with %s", p,
                                     wire.error_name(error))
            elif not error:
                p.deletes_done = max(p.deletes_done, low)
                self.notes.deletes += 1


# ---------------------------------------------------------------- reading


class _Cursor:
    """How far the reader is in one partition, and what it must meet next."""

    def __init__(self, partition, start, end, full):
        self.p, self.end, self.full, self.stalled = partition, end, full, 0
        self.begin(start if full else min(max(start, partition.verified), end))

    def begin(self, offset):
        self.position = self.first = offset
        self.expected = None
        self.sequences = {}
        self.bytes = 0


class Reader:
    """Reads partitions through and compares them with the notes."""

    def __init__(self, notes):
        self.notes = notes
        self.contents = {}  # partition name -> [(base, count)] of the last full pass

    def run(self, broker, full, partitions=None, settle_s=10.0):
        """-> records read. Raises OSError or WireError when the broker goes away."""
        notes = self.notes
        notes.passes += 1
        partitions = notes.partitions if partitions is None else partitions
        with broker.connect("reader", timeout=20) as conn:
            cursors = self._cursors(conn, partitions, full, settle_s)
            read = 0
            active = list(cursors)
            while active:
                read += self._fetch(conn, active[:12])
                active = [c for c in active if c.position < c.end]
            starts = self._offsets(conn, partitions, wire.EARLIEST, settle_s)
            for c in cursors:
                self._finish(c, starts[c.p.topic, c.p.index], full)
        notes.read_records += read
        return read

    def _offsets(self, conn, partitions, timestamp, settle_s):
        topics = {}
        for p in partitions:
            topics.setdefault(p.topic, []).append((p.index, timestamp))
        deadline = time.monotonic() + settle_s
        while True:
            answers = wire.list_offsets(conn, list(topics.items()))
            bad = {k: v[0] for k, v in answers.items() if v[0]}
            if not bad:
                return {k: v[2] for k, v in answers.items()}
            if time.monotonic() > deadline:
                for (topic, index), error in bad.items():
                    self.notes.violation("%s-%d: ListOffsets answers %s", topic, index,
                                         wire.error_name(error))
                return {k: max(v[2], 0) for k, v in answers.items()}
            time.sleep(0.02)

    def _cursors(self, conn, partitions, full, settle_s):
        ends = self._offsets(conn, partitions, wire.LATEST, settle_s)
        starts = self._offsets(conn, partitions, wire.EARLIEST, settle_s)
        if full:
            for p in partitions:
                self.contents[str(p)] = []
        return [_Cursor(p, starts[p.topic, p.index], ends[p.topic, p.index], full)
                for p in partitions]

    def _fetch(self, conn, cursors):
        topics = {}
        for c in cursors:
            topics.setdefault(c.p.topic, []).append((c.p.index, c.position))
        by_name = {(c.p.topic, c.p.index): c for c in cursors}
        records = 0
        for part in wire.fetch(conn, list(topics.items()), max_wait_ms=100, min_bytes=1):
            c = by_name[part.topic, part.index]
            before = c.position
            if part.error == OFFSET_OUT_OF_RANGE:
                start = self._offsets(conn, [c.p], wire.EARLIEST, 10.0)[c.p.topic, c.p.index]
                if start > c.position:  # retention was quicker than we
                    c.begin(start)
                    if c.full:
                        self.contents[str(c.p)] = []
                    continue
            if part.error:
                self.notes.violation("%s: Fetch at %d answers %s", c.p, c.position,
                                     wire.error_name(part.error))
                c.position = c.end
                continue
            for batch in wire.split_batches(part.records):
                if batch.last_offset >= c.position:
                    records += batch.count
                    self._meet(c, batch)
            if part.high_watermark < c.end:
                self.notes.violation("%s: high watermark %d, but the log's end was %d", c.p,
                                     part.high_watermark, c.end)
                c.position = c.end
            c.stalled = c.stalled + 1 if c.position == before else 0
            if c.stalled > 200:
                self.notes.violation("%s: nothing to read at %d, though the log ends at %d", c.p,
                                     c.position, c.end)
                c.position = c.end
        return records

    def _meet(self, c, b):
        notes, p = self.notes, c.p
        if c.expected is None:
            if not b.base_offset <= c.position <= b.last_offset:
                notes.violation("%s: fetch at %d answers a batch %d..%d", p, c.position,
                                b.base_offset, b.last_offset)
        elif b.base_offset != c.expected:
            notes.violation("%s: batch at %d, expected offset %d", p, b.base_offset, c.expected)
        c.expected = c.position = b.last_offset + 1
        c.bytes += len(b.data)
        notes.read_batches += 1
        if c.full:
            self.contents[str(p)].append((b.base_offset, b.count))
        key = (b.producer_id, b.epoch, b.sequence)
        entry = p.sent.get(key)
        if entry is None:
            notes.violation("%s: batch %s at %d was never sent, or is there twice", p, key,
                            b.base_offset)
            return
        if entry.seen == notes.passes:
            notes.violation("%s: batch %s is there twice, at %d and %d", p, key, entry.base,
                            b.base_offset)
        entry.seen = notes.passes
        if zlib.crc32(b.data[16:]) != entry.digest or b.count != entry.count:
            notes.violation("%s: batch %s at %d is not what was sent", p, key, b.base_offset)
        if entry.base >= 0 and entry.base != b.base_offset:
            notes.violation("%s: batch %s is at %d, was %s at %d", p, key, b.base_offset,
                            "acknowledged" if entry.acked else "read", entry.base)
        elif entry.base < 0:
            entry.base = b.base_offset  # N4: from now on it must stay
            notes.found_unanswered += 1
        expected = c.sequences.get(key[:2])
        if expected is not None and b.sequence != expected:
            notes.violation("%s: producer %d jumps to sequence %d at offset %d, expected %d", p,
                            b.producer_id, b.sequence, b.base_offset, expected)
        c.sequences[key[:2]] = b.sequence + b.count

    def _finish(self, c, start, full):
        """What should have been met and was not; the log's start; forget what is deleted."""
        notes, p = self.notes, c.p
        for key in [k for k, e in p.sent.items() if e.acked and e.base + e.count <= start]:
            del p.sent[key]  # deleted on request; whether that was right, _check_start says
        for entry in p.sent.values():
            if entry.base >= 0 and entry.seen != notes.passes and (
                    entry.base >= max(c.first, start)):
                notes.violation("%s: LOST batch %s of %d records, %s at %d (log is %d..%d)", p,
                                entry.key, entry.count,
                                "acknowledged" if entry.acked else "read", entry.base, start,
                                c.end)
        self._check_start(c, start, full)
        p.verified = max(c.position, start)

    def _check_start(self, c, start, full):
        notes, p = self.notes, c.p
        if p.plan.start is None and start != 0:
            notes.violation("%s: log starts at %d and nothing was to be deleted", p, start)
        if p.plan.start == "delete":
            if start > p.deletes_asked:
                notes.violation("%s: log starts at %d, DeleteRecords asked for %d", p, start,
                                p.deletes_asked)
            if start < p.deletes_done and notes.strict_log_start:
                notes.violation("%s: log starts at %d again, DeleteRecords was answered %d", p,
                                start, p.deletes_done)
        keep = int(p.plan.configs.get("retention.bytes", -1))
        if p.plan.start == "retention" and full and 0 < start == c.first and c.bytes < keep:
            notes.violation("%s: retention left %d bytes from offset %d on, was told %d", p,
                            c.bytes, start, keep)
