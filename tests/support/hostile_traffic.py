"""Traffic that no client sends on purpose, and the same amount of traffic that is in order.

RequestMaker makes random valid requests of every API that the broker advertises, from the project's
own schemas (protocol/schema); Attacker sends them, well-formed or spoilt in one of many ways, over
connections of its own. Loopback only, bounded in connections, bytes and time.
"""

import itertools
import os
import pathlib
import random
import select
import socket
import struct
import sys
import time
import zlib

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = pathlib.Path(HERE).parent.parent
sys.path[:0] = [HERE, str(ROOT / "protocol" / "gen")]
import kafka_wire as wire
import msgc

TOPICS = ["hostile-0", "hostile-1", "hostile-2"]
BAD_NAMES = ["", ".", "..", "a/b", "n" * 250, "sp ace", "\u00e9t\u00e9", "nul\0", "a\nb", "x" * 4000]
ABSURD = [b"\xff\xff\xff\xff", b"\x80\0\0\0", b"\x7f\xff\xff\xff", b"\0\0\0\0", b"\xff\xff\xff\xfe",
          b"\xff\xff\xff\xff\x0f", b"\xff" * 10, b"\x80" * 9 + b"\x01"]

# In order, but they take the broker or its partitions away from everybody, as they are meant to:
# WriteTxnMarkers, AlterPartitionReassignments, UnregisterBroker, Add/RemoveRaftVoter,
# UnregisterController.
LEFT_OUT = {27, 45, 64, 80, 81, 94}


# ---------------------------------------------------------------- compressed bombs


# Each bomb is `prefix` and then many zero bytes; -> (compressed bytes, number of zero bytes)


def zstd_bomb(size, prefix=b""):
    """One frame of run-length blocks: 4 bytes stand for 128 KiB."""
    blocks = max(1, size >> 17)
    out = b"\x28\xb5\x2f\xfd" + b"\x00" + b"\x58"  # no checksum, no content size; window 2 MiB
    out += struct.pack("<I", len(prefix) << 3)[:3] + prefix  # a raw block
    for i in range(blocks):
        header = (1 << 17) << 3 | 1 << 1 | (i == blocks - 1)
        out += struct.pack("<I", header)[:3] + b"\0"
    return out, blocks << 17


def _xxh32(data):
    """XXH32 of less than 16 bytes, seed 0: LZ4's header checksum."""
    mask, p1, p2, p3, p4, p5 = 0xFFFFFFFF, 2654435761, 2246822519, 3266489917, 668265263, 374761393
    h = (p5 + len(data)) & mask
    while len(data) >= 4:
        h = h + struct.unpack("<I", data[:4])[0] * p3 & mask
        h = (h << 17 | h >> 15) * p4 & mask
        data = data[4:]
    for b in data:
        h = h + b * p5 & mask
        h = (h << 11 | h >> 21) * p1 & mask
    h = (h ^ h >> 15) * p2 & mask
    h = (h ^ h >> 13) * p3 & mask
    return h ^ h >> 16


def lz4_bomb(size, prefix=b""):
    """Frames of 4 MiB blocks, each one long match: 1 byte stands for 255."""
    descriptor = b"\x60\x70"
    out = b"\x04\x22\x4d\x18" + descriptor + bytes([_xxh32(descriptor) >> 8 & 0xFF])
    if prefix:
        out += struct.pack("<I", len(prefix) | 1 << 31) + prefix  # a block stored as it is
    length = (4 << 20) - 64
    match = length - 4 - 15
    block = b"\x1f\0\1\0" + b"\xff" * (match // 255) + bytes([match % 255]) + b"\x50\0\0\0\0\0"
    blocks = max(1, size >> 22)
    return out + (struct.pack("<I", len(block)) + block) * blocks + b"\0\0\0\0", blocks * (length + 6)


def snappy_bomb(size, prefix=b""):
    """A raw block: 3 bytes stand for 64."""
    copies, literal = size // 64, prefix + b"\0"
    zeros = 1 + copies * 64
    return (wire.uvarint(len(prefix) + zeros) + bytes([(len(literal) - 1) << 2]) + literal +
            b"\xfe\1\0" * copies), zeros


def gzip_bomb(size, prefix=b""):
    c = zlib.compressobj(9, zlib.DEFLATED, 31)
    blocks = max(1, size >> 20)
    out = c.compress(prefix) + b"".join(c.compress(bytes(1 << 20)) for _ in range(blocks))
    return out + c.flush(), blocks << 20


BOMBS = {wire.GZIP: gzip_bomb, wire.SNAPPY: snappy_bomb, wire.LZ4: lz4_bomb, wire.ZSTD: zstd_bomb}


def good_batch(rng):
    return wire.encode_batch([(b"k", rng.randbytes(rng.randrange(100)), [])
                              for _ in range(rng.randrange(1, 4))])


def bad_batch(rng, kind=None):
    """A record batch that must be refused. -> (kind, bytes)"""
    records = [(b"k%d" % i, b"value", []) for i in range(3)]
    good = wire.encode_batch(records)
    kinds = {
        "crc": lambda: wire.encode_batch(records, crc=12345),
        "count": lambda: wire.encode_batch(records, count=rng.choice([2, 4, 0, -1, 2**31 - 1])),
        "unsorted": lambda: wire.encode_batch(records, payload=b"".join(
            wire.encode_record(d, 0, b"k", b"v") for d in (2, 1, 0))),
        "magic": lambda: wire.encode_batch(records, magic=rng.choice([0, 1, 3, 127, -1])),
        "last offset": lambda: wire.encode_batch(records, last_offset_delta=rng.choice(
            [1, 3, -1, 2**31 - 1])),
        "control": lambda: wire.encode_batch(records, attributes=0x20),
        "truncated": lambda: good[:rng.randrange(1, len(good))],
        "trailing": lambda: good + rng.randbytes(rng.randrange(1, 80)),
        "length": lambda: good[:8] + rng.choice(ABSURD)[:4] + good[12:],
        "record length": lambda: wire.encode_batch(
            records, payload=b"\xff\xff\xff\xff\x0f" + b"x" * 50),
        "header count": lambda: wire.encode_batch(records[:1], payload=wire.varint(20) +
                                                  b"\0\0\0\1\1" + b"\xfe\xff\xff\xff\x0f" + bytes(9)),
        "codec": lambda: wire.encode_batch(records, attributes=rng.choice([5, 6, 7])),
        "garbage compressed": lambda: wire.encode_batch(records, attributes=rng.randrange(1, 5),
                                                        payload=rng.randbytes(200)),
        "empty": lambda: wire.encode_batch([], payload=b""),
        "bomb": lambda: make_bomb(rng, rng.randrange(1, 5)),
    }
    kind = kind or rng.choice(list(kinds))
    return kind, kinds[kind]()


_bombs = {}  # (codec, whole) -> batch


def make_bomb(rng, codec, size=64 << 20):
    """A batch of under 1 MB that unpacks to far more. Either it is one whole record, whose value is
    zero bytes, and a broker may take it; or what it unpacks to is nonsense from the first byte."""
    whole = rng.random() < 0.5
    if (codec, whole) not in _bombs:
        make = BOMBS[codec]
        size = size if codec != wire.SNAPPY else 12 << 20
        payload, zeros = make(size)
        if whole:
            # Attributes, timestamp and offset 0, no key, the value; the last zero: no headers.
            body = b"\0\0\0" + wire.varint(-1) + wire.varint(zeros - 1)
            payload, _ = make(size, wire.varint(len(body) + zeros) + body)
        _bombs[codec, whole] = wire.encode_batch([(None, None, [])], attributes=codec,
                                                 payload=payload, count=1 if whole else 1000)
    return _bombs[codec, whole]


# ---------------------------------------------------------------- valid requests of all APIs


class RequestMaker:
    """Random requests that decode, of each API and version that was advertised."""

    def __init__(self, rng, versions, topic_ids):
        self.rng, self.topic_ids = rng, topic_ids
        self.apis = {}
        for path in sorted((ROOT / "protocol" / "schema").glob("*.msg")):
            reader = msgc.Reader(path)
            reader.read()
            if reader.api and reader.api.request and reader.api.key in set(versions) - LEFT_OUT:
                low, high = versions[reader.api.key]
                low = max(low, reader.api.request.versions.low)
                self.apis[reader.api.key] = (reader.api.request, low, high)
        missing = set(versions) - set(self.apis) - LEFT_OUT
        if missing:
            raise SystemExit("no schema for API keys %s" % sorted(missing))

    def make(self):
        """-> (api key, version, body)"""
        key = self.rng.choice(list(self.apis))
        message, low, high = self.apis[key]
        version = self.rng.randint(low, high)
        return key, version, self._struct(message, message.root, version)

    def _struct(self, m, s, version):
        flexible = version in m.flexible
        w, tagged = wire.Writer(flexible), []
        for f in s.fields:
            if version not in f.versions:
                continue
            if f.tag < 0:
                self._field(w, m, f, version)
            elif self.rng.random() < 0.2:
                inner = wire.Writer(True)
                self._field(inner, m, f, version)
                tagged.append((f.tag, inner.bytes()))
        if flexible:
            w.raw(wire.uvarint(len(tagged)))
            for tag, data in sorted(tagged):
                w.raw(wire.uvarint(tag) + wire.uvarint(len(data)) + data)
        return w.bytes()

    def _field(self, w, m, f, version):
        rng = self.rng
        null = version in f.null and rng.random() < 0.15
        if f.is_array:
            n = None if null else rng.choice([0, 1, 1, 1, 2, 3])
            w.count(n)
            for _ in range(n or 0):
                self._value(w, m, f, version)
        elif f.is_struct:
            if f.is_pointer:
                w.i8(-1 if null else 1)
                if null:
                    return
            w.raw(self._struct(m, m.structs[f.type], version))
        elif null and f.type in ("string", "bytes", "records"):
            w.string(None) if f.type == "string" else w.blob(None)
        else:
            self._value(w, m, f, version)

    def _value(self, w, m, f, version):
        rng, t = self.rng, f.type
        if f.is_struct:
            w.raw(self._struct(m, m.structs[t], version))
        elif t == "bool":
            w.boolean(f.name == "ValidateOnly" or rng.random() < 0.5)
        elif t in ("int8", "int16", "uint16", "int32", "uint32", "int64", "float64"):
            self._number(w, f)
        elif t == "uuid":
            w.raw(rng.choice(self.topic_ids + [bytes(16), rng.randbytes(16)]))
        elif t == "string":
            w.string(rng.choice(TOPICS * 3 + ["retention.ms", "1000", "1", "", "x"]))
        elif t == "records":
            w.blob(good_batch(rng))
        else:
            w.blob(rng.randbytes(rng.randrange(20)))

    def _number(self, w, f):
        rng = self.rng
        bits = {"int8": 8, "int16": 16, "uint16": 16, "int32": 32, "uint32": 32}.get(f.type, 64)
        if f.name in ("MaxWaitMs", "TimeoutMs", "timeoutMs"):
            v = rng.randrange(50)
        elif f.name in ("NumPartitions", "Count"):
            v = rng.randrange(1, 4)
        elif f.name == "ResourceType":
            v = 2  # a topic: what it changes must not concern the checked client
        elif f.name == "ReplicaId" or f.name == "ProducerId":
            v = -1
        else:
            v = rng.choice([0, 0, 1, 2, -1, rng.randrange(100), rng.getrandbits(bits - 1)])
        fmt = {"int8": ">b", "int16": ">h", "uint16": ">H", "int32": ">i", "uint32": ">I",
               "int64": ">q", "float64": ">d"}[f.type]
        if f.type[0] == "u":
            v = abs(v)
        w.raw(struct.pack(fmt, v))


# ---------------------------------------------------------------- sending


class Attacker:
    """Does one thing after the other at a given rate. hostile=False: what is in order instead, over as
    many connections, in as many requests, of as many bytes: what hostile traffic is compared with."""

    def __init__(self, host, port, seed, versions, topic_ids, hostile, request_max=104857600):
        self.host, self.port, self.seed, self.rng = host, port, seed, random.Random(seed)
        self.maker = RequestMaker(self.rng, versions, topic_ids)
        self.hostile, self.request_max = hostile, request_max
        self.counts = {}
        self.outcomes = {}
        self.sent = {"connections": 0, "requests": 0, "bytes": 0}
        self.apis_sent = set()
        self.slow = []
        self.hold = []
        self.batches = {}  # size -> a batch in order
        self.attacks = [
            (30, self.mutated), (8, self.bad_batches), (4, self.sizes), (4, self.cut_off),
            (4, self.garbage), (3, self.unknown), (3, self.names), (2, self.not_reading),
            (3, self.slowly), (1, self.idle), (2, self.reset),
        ]

    def run(self, seconds, rate):
        end = time.monotonic() + seconds
        due = time.monotonic()
        weights = [w for w, _ in self.attacks]
        for number in itertools.count():
            if time.monotonic() >= end:
                break
            self.rng.seed("%d/%d" % (self.seed, number))  # so that both kinds decide the same
            attack = self.rng.choices(self.attacks, weights)[0][1]
            name = attack.__name__
            self.counts[name] = self.counts.get(name, 0) + 1
            try:
                attack()
            except OSError:  # reset while we were still sending: that is an answer too
                self.note("closed")
            self.feed_slow()
            due += 1 / rate
            time.sleep(max(0, min(due - time.monotonic(), 0.5)))
            due = max(due, time.monotonic() - 0.5)
        for s in self.slow + self.hold:
            (s[0] if isinstance(s, list) else s).close()
        self.slow, self.hold = [], []

    def note(self, outcome):
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1

    def connect(self):
        s = socket.create_connection((self.host, self.port), timeout=5)
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sent["connections"] += 1
        return s

    def count(self, requests, size):
        self.sent["requests"] += requests
        self.sent["bytes"] += size

    def exchange(self, data, requests=1, wait=0.2, half_close=False, in_order=False):
        """Sends, reads until an answer, the end, or for `wait` seconds; what is in order waits for an
        answer to each request."""
        if not self.hostile and not in_order:
            data, half_close = self.in_order(requests, len(data)), False
        self.count(requests, len(data))
        with self.connect() as s:
            s.sendall(data)
            if half_close:
                s.shutdown(socket.SHUT_WR)
            s.settimeout(wait)
            try:
                got = s.recv(65536) if self.hostile else read_answers(s, requests)
                self.note("answered" if got else "closed")
                return got
            except socket.timeout:
                self.note("silent")
            except OSError:
                self.note("closed")
        return None

    def frame(self, client_id="guest"):
        key, version, body = self.maker.make()
        self.apis_sent.add((key, version))
        return bytearray(wire.encode_request(key, version, self.rng.getrandbits(31), body, client_id))

    def in_order(self, requests, size):
        """As many requests, of about that size together."""
        frames = [min((self.frame() for _ in range(3)), key=len) for _ in range(requests)]
        missing = size - sum(map(len, frames))
        if missing > 20000:
            frames[0] = wire.encode_request(wire.PRODUCE, 9, 1, wire.produce_body(
                [(self.rng.choice(TOPICS), [(0, self.batch_of(missing))])]))
        elif missing > 0:
            frames[0] = self.frame("guest".ljust(5 + missing, "."))
        return b"".join(frames)

    def batch_of(self, size):
        size = min(size, 1000000) // 10000 * 10000
        if size not in self.batches:
            self.batches[size] = wire.encode_batch([(None, bytes(size), [])])
        return self.batches[size]

    def mutate(self, frame):
        rng = self.rng
        how = rng.randrange(8)
        if how == 0:
            for _ in range(rng.randrange(1, 9)):
                frame[rng.randrange(4, len(frame))] ^= 1 << rng.randrange(8)
        elif how == 1:
            del frame[rng.randrange(5, len(frame)):]
            frame[:4] = struct.pack(">i", len(frame) - 4)
        elif how == 2:
            frame += rng.randbytes(rng.randrange(1, 64))
            frame[:4] = struct.pack(">i", len(frame) - 4)
        elif how == 3:
            at = rng.randrange(8, len(frame))
            frame[at:at + 4] = rng.choice(ABSURD)
            frame[:4] = struct.pack(">i", len(frame) - 4)
        elif how == 4:
            at = rng.randrange(8, len(frame))
            frame[at:at] = rng.randbytes(rng.randrange(1, 6))
            frame[:4] = struct.pack(">i", len(frame) - 4)
        elif how == 5:
            frame[:4] = struct.pack(">i", len(frame) - 4 + rng.choice([-3, -1, 1, 7, 100]))
        elif how == 6:
            at = rng.randrange(8, len(frame))
            frame[at] = rng.choice([0, 0x7F, 0x80, 0xFF])
        else:
            a, b = sorted((rng.randrange(8, len(frame)), rng.randrange(8, len(frame))))
            frame[a:b] = frame[a:b][::-1]
        return frame

    def mutated(self):
        frames = [self.frame() for _ in range(self.rng.randrange(1, 6))]
        if self.hostile:
            frames = [self.mutate(f) for f in frames]
        self.exchange(b"".join(frames), len(frames), in_order=True)

    def bad_batches(self):
        kind, batch = bad_batch(self.rng)
        topic = self.rng.choice(TOPICS)
        body = wire.produce_body([(topic, [(0, batch)])])
        self.exchange(wire.encode_request(wire.PRODUCE, 9, 1, body), wait=1.0)

    def sizes(self):
        size = self.rng.choice([self.request_max + 1, 2**31 - 1, -1, -2**31, 0, 1, 3, 7,
                                self.request_max])
        self.exchange(struct.pack(">i", size) + self.rng.randbytes(self.rng.randrange(200)))

    def cut_off(self):
        frame = self.frame()
        self.exchange(bytes(frame[:self.rng.randrange(len(frame))]),
                      half_close=self.rng.random() < 0.5)

    def garbage(self):
        tls = bytes.fromhex("1603010200010001fc0303") + self.rng.randbytes(500)
        self.exchange(self.rng.choice([
            tls, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"SSH-2.0-OpenSSH_9.2\r\n", bytes(100),
            self.rng.randbytes(self.rng.randrange(1, 3000)), b"\xff" * 64]))

    def unknown(self):
        frame = self.frame()
        struct.pack_into(">h", frame, self.rng.choice([4, 6]),
                         self.rng.choice([-1, 95, 999, 32767, -32768, 52, 67]))
        self.exchange(bytes(frame))

    def names(self):
        name = self.rng.choice(BAD_NAMES)
        w = wire.Writer(True).count(3)
        for n in (name, TOPICS[0], TOPICS[0]):
            w.string(n).i32(1).i16(1).count(0).count(0).tags()
        create = w.i32(10).boolean(True).tags().bytes()
        batch = good_batch(self.rng)
        produce = wire.produce_body([(TOPICS[0], [(0, batch), (0, batch)]), (name, [(0, batch)]),
                                     (TOPICS[0], [(0, batch)])])
        api, version, body = self.rng.choice([(wire.CREATE_TOPICS, 7, create),
                                              (wire.PRODUCE, 9, produce)])
        self.exchange(wire.encode_request(api, version, 1, body))

    def not_reading(self):
        """Asks for much, reads nothing, and stays for a while. In order: reads it."""
        requests = [wire.encode_request(wire.METADATA, 12, 1, b"\0\0\0\0")] * 500
        if not self.hostile:
            self.exchange(b"".join(requests), len(requests), wait=2.0, in_order=True)
            return
        if len(self.hold) > 4:
            self.hold.pop(0).close()
        s = self.connect()
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.hold.append(s)
        end = self.rng.choice([b"", b"garbage", None])
        s.setblocking(False)
        self.count(len(requests), s.send(b"".join(requests) + (end or b"")))
        if end is None:
            s.shutdown(socket.SHUT_WR)

    def slowly(self):
        """A request of which a byte arrives now and then. In order: it comes whole, and the connection
        stays as long."""
        if len(self.slow) < 8:
            self.slow.append([self.connect(), bytes(self.frame()), 0])
            if not self.hostile:
                self.slow[-1][0].sendall(self.slow[-1][1])
            self.count(1, len(self.slow[-1][1]))

    def feed_slow(self):
        for entry in self.rng.sample(self.slow, min(3, len(self.slow))):
            s, data, at = entry
            try:
                if at >= len(data):
                    raise OSError
                if self.hostile:
                    s.send(data[at:at + 1])
                entry[2] += 1
            except OSError:
                s.close()
                self.slow.remove(entry)

    def idle(self):
        if len(self.hold) < 16:
            self.hold.append(self.connect())

    def reset(self):
        """Goes away in the middle, with a reset. In order: waits for its answers."""
        n = self.rng.randrange(1, 20)
        frames = bytes(self.frame()) * n
        if not self.hostile:
            self.exchange(frames, n, in_order=True)
            return
        s = self.connect()
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.count(n, len(frames))
        s.sendall(frames)
        s.close()


def read_answers(s, count):
    """Until so many have come, or the end. -> bytes of the last piece"""
    data, need = bytearray(), 0
    while count > 0:
        piece = s.recv(1 << 20)
        if not piece:
            return piece
        data += piece
        while count > 0 and len(data) >= 4:
            need = 4 + int.from_bytes(data[:4], "big")
            if len(data) < need:
                break
            del data[:need]
            count -= 1
    return piece
