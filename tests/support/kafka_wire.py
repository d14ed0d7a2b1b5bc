"""A small Kafka client that does exactly what it is told.

The tests need a client that pipelines, repeats a batch byte for byte, keeps its own sequence
numbers and sends what no library would send. It shares no code and no schema file with fluxmq, so
that a mistake in one is not repeated in the other. Plain python3, nothing to install.

    conn = Connection("127.0.0.1", 9092)
    versions = api_versions(conn)                       # {api key: (min, max)}
    create_topics(conn, [Topic("t", 3)])
    batch = encode_batch([(b"key", b"value", [])], timestamp_ms=1)
    print(produce(conn, "t", 0, batch).base_offset)

Layers: Writer/Reader (primitive types of the protocol guide), Connection (frames, headers,
correlation ids, pipelining), one function per API, record batches (magic 2).
"""

import gzip
import socket
import struct
import time
from collections import namedtuple

PRODUCE, FETCH, LIST_OFFSETS, METADATA = 0, 1, 2, 3
API_VERSIONS, CREATE_TOPICS, DELETE_TOPICS, DELETE_RECORDS, INIT_PRODUCER_ID = 18, 19, 20, 21, 22
DESCRIBE_CONFIGS, DESCRIBE_LOG_DIRS, INCREMENTAL_ALTER_CONFIGS = 32, 35, 44

COORDINATOR_LOAD_IN_PROGRESS = 14

# The first version of each API with compact types and tagged fields (KIP-482); None: never.
FIRST_FLEXIBLE = {
    0: 9, 1: 12, 2: 6, 3: 9, 8: 8, 9: 6, 10: 3, 11: 6, 12: 4, 13: 4, 14: 4, 15: 5, 16: 3, 17: None,
    18: 3, 19: 5, 20: 4, 21: 2, 22: 2, 23: 4, 24: 3, 25: 3, 26: 3, 27: 1, 28: 3, 29: 2, 30: 2,
    31: 2, 32: 4, 33: 2, 34: 2, 35: 2, 36: 2, 37: 2, 38: 2, 39: 2, 40: 2, 41: 2, 42: 2, 43: 2,
    44: 1, 45: 0, 46: 0, 47: None, 48: 1, 49: 1, 50: 0, 51: 0, 55: 0, 57: 0, 60: 0, 61: 0, 64: 0,
    65: 0, 66: 0, 68: 0, 69: 0, 74: 0, 75: 0, 76: 0, 77: 0, 78: 0, 79: 0, 80: 0, 81: 0, 83: 0,
    84: 0, 85: 0, 86: 0, 87: 0, 88: 0, 89: 0, 90: 0, 91: 0, 92: 0, 93: 0, 94: 0,
}

ERRORS = {
    -1: "UNKNOWN_SERVER_ERROR", 0: "NONE", 1: "OFFSET_OUT_OF_RANGE", 2: "CORRUPT_MESSAGE",
    3: "UNKNOWN_TOPIC_OR_PARTITION", 5: "LEADER_NOT_AVAILABLE", 6: "NOT_LEADER_OR_FOLLOWER",
    7: "REQUEST_TIMED_OUT", 10: "MESSAGE_TOO_LARGE", 14: "COORDINATOR_LOAD_IN_PROGRESS",
    17: "INVALID_TOPIC_EXCEPTION",
    18: "RECORD_LIST_TOO_LARGE", 19: "NOT_ENOUGH_REPLICAS",
    20: "NOT_ENOUGH_REPLICAS_AFTER_APPEND", 35: "UNSUPPORTED_VERSION",
    36: "TOPIC_ALREADY_EXISTS", 40: "INVALID_CONFIG", 41: "NOT_CONTROLLER", 42: "INVALID_REQUEST",
    45: "OUT_OF_ORDER_SEQUENCE_NUMBER", 46: "DUPLICATE_SEQUENCE_NUMBER",
    47: "INVALID_PRODUCER_EPOCH", 56: "KAFKA_STORAGE_ERROR", 57: "LOG_DIR_NOT_FOUND",
    59: "UNKNOWN_PRODUCER_ID", 74: "FENCED_LEADER_EPOCH", 75: "UNKNOWN_LEADER_EPOCH",
    76: "UNSUPPORTED_COMPRESSION_TYPE", 78: "OFFSET_NOT_AVAILABLE", 87: "INVALID_RECORD",
    100: "UNKNOWN_TOPIC_ID",
}


def error_name(code):
    return ERRORS.get(code, "error %d" % code)


class WireError(Exception):
    """The peer broke the protocol, or closed the connection."""


class KafkaError(Exception):
    """The peer answered with an error code."""

    def __init__(self, code, what=""):
        super().__init__("%s%s%s" % (what, ": " if what else "", error_name(code)))
        self.code = code


# ---------------------------------------------------------------- primitive types


def uvarint(value):
    """Unsigned LEB128, as the lengths and tags of flexible versions are written."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def varint(value):
    """Zigzag varint, as used inside records."""
    return uvarint((value << 1) ^ (value >> 63) if value < 0 else value << 1)


class Writer:
    """Writes one message; `flexible` selects compact lengths and tag buffers."""

    def __init__(self, flexible):
        self.flexible = flexible
        self.parts = []

    def raw(self, data):
        self.parts.append(data)
        return self

    def i8(self, v):
        return self.raw(struct.pack(">b", v))

    def i16(self, v):
        return self.raw(struct.pack(">h", v))

    def i32(self, v):
        return self.raw(struct.pack(">i", v))

    def i64(self, v):
        return self.raw(struct.pack(">q", v))

    def boolean(self, v):
        return self.i8(1 if v else 0)

    def string(self, s):
        data = None if s is None else s.encode() if isinstance(s, str) else s
        if self.flexible:
            return self.raw(uvarint(0)) if data is None else self.raw(uvarint(len(data) + 1) + data)
        return self.i16(-1) if data is None else self.i16(len(data)).raw(data)

    def blob(self, data):
        """Bytes and records: like a string, but with a 32 bit length."""
        if self.flexible:
            return self.raw(uvarint(0)) if data is None else self.raw(uvarint(len(data) + 1)).raw(data)
        return self.i32(-1) if data is None else self.i32(len(data)).raw(data)

    def count(self, n):
        """The length of an array; None is the null array."""
        if self.flexible:
            return self.raw(uvarint(0 if n is None else n + 1))
        return self.i32(-1 if n is None else n)

    def i32s(self, values):
        self.count(len(values))
        for v in values:
            self.i32(v)
        return self

    def tags(self):
        """An empty tag buffer, where the version has them."""
        return self.raw(b"\0") if self.flexible else self

    def bytes(self):
        return b"".join(self.parts)


class Reader:
    def __init__(self, data, flexible=False, pos=0):
        self.data, self.pos, self.flexible = data, pos, flexible

    def _take(self, fmt, size):
        try:
            (v,) = struct.unpack_from(fmt, self.data, self.pos)
        except struct.error:
            raise WireError("answer ends early at byte %d of %d" % (self.pos, len(self.data)))
        self.pos += size
        return v

    def i8(self):
        return self._take(">b", 1)

    def i16(self):
        return self._take(">h", 2)

    def i32(self):
        return self._take(">i", 4)

    def i64(self):
        return self._take(">q", 8)

    def boolean(self):
        return self.i8() != 0

    def raw(self, n):
        if n < 0 or self.pos + n > len(self.data):
            raise WireError("length %d at byte %d of %d" % (n, self.pos, len(self.data)))
        self.pos += n
        return self.data[self.pos - n:self.pos]

    def uvarint(self):
        value = shift = 0
        while True:
            b = self._take(">B", 1)
            value |= (b & 0x7F) << shift
            if b < 0x80:
                return value
            shift += 7

    def blob(self):
        n = self.uvarint() - 1 if self.flexible else self.i32()
        return None if n < 0 else self.raw(n)

    def string(self):
        n = self.uvarint() - 1 if self.flexible else self.i16()
        return None if n < 0 else bytes(self.raw(n)).decode()

    def count(self):
        n = self.uvarint() - 1 if self.flexible else self.i32()
        if n > len(self.data):
            raise WireError("array of %d in an answer of %d bytes" % (n, len(self.data)))
        return n

    def array(self, item):
        return [item() for _ in range(max(self.count(), 0))]

    def i32s(self):
        return self.array(self.i32)

    def tags(self):
        """Reads a tag buffer: {tag: bytes}."""
        out = {}
        if self.flexible:
            for _ in range(self.uvarint()):
                tag = self.uvarint()
                out[tag] = self.raw(self.uvarint())
        return out

    def end(self):
        if self.pos != len(self.data):
            raise WireError("%d bytes left over in an answer" % (len(self.data) - self.pos))


# ---------------------------------------------------------------- connection


def is_flexible(api, version):
    first = FIRST_FLEXIBLE.get(api)
    return first is not None and version >= first


def encode_request(api, version, correlation_id, body, client_id="checked-client"):
    """Frame, request header v1 or v2, body."""
    client = client_id.encode()
    head = struct.pack(">hhih", api, version, correlation_id, len(client)) + client
    if is_flexible(api, version):
        head += b"\0"
    return struct.pack(">i", len(head) + len(body)) + head + body


class Connection:
    """One socket. call() waits for its answer; send() and receive() pipeline."""

    def __init__(self, host, port, client_id="checked-client", timeout=30.0):
        self.client_id = client_id
        self.sock = socket.create_connection((host, port), timeout=timeout)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.sock.getsockname() == self.sock.getpeername():  # TCP's self-connect on loopback
            self.sock.close()
            raise ConnectionRefusedError("connected to itself")
        self.buffer = bytearray()
        self.correlation_id = 0
        self.pending = {}  # correlation id -> (api, version), in the order of sending

    def close(self):
        self.sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def encode(self, api, version, body):
        self.correlation_id += 1
        self.pending[self.correlation_id] = (api, version)
        return self.correlation_id, encode_request(api, version, self.correlation_id, body,
                                                   self.client_id)

    def send(self, api, version, body):
        correlation_id, frame = self.encode(api, version, body)
        self.sock.sendall(frame)
        return correlation_id

    def forget(self, correlation_id):
        """No answer will come (acks=0)."""
        del self.pending[correlation_id]

    def feed(self, data):
        """Bytes from the socket -> list of (correlation id, api, version, Reader)."""
        self.buffer += data
        out = []
        while True:
            answer = self._next_answer()
            if answer is None:
                return out
            out.append(answer)

    def _next_answer(self):
        if len(self.buffer) < 4:
            return None
        (size,) = struct.unpack_from(">i", self.buffer)
        if size < 4:
            raise WireError("answer of %d bytes" % size)
        if len(self.buffer) < 4 + size:
            return None
        frame = bytes(self.buffer[4:4 + size])
        del self.buffer[:4 + size]
        (correlation_id,) = struct.unpack_from(">i", frame)
        expected = next(iter(self.pending), None)
        if correlation_id != expected:
            raise WireError("answer to request %s, expected %s" % (correlation_id, expected))
        api, version = self.pending.pop(correlation_id)
        reader = Reader(frame, is_flexible(api, version), 4)
        if api != API_VERSIONS:  # its answer always has header version 0 (KIP-511)
            reader.tags()
        return correlation_id, api, version, reader

    def receive(self):
        """The next answer, in the order of the requests."""
        while True:
            answer = self._next_answer()
            if answer is not None:
                return answer
            data = self.sock.recv(1 << 20)
            if not data:
                raise WireError("connection closed by the peer")
            self.buffer += data

    def call(self, api, version, body):
        if self.pending:
            raise AssertionError("call() while answers are outstanding")
        self.send(api, version, body)
        return self.receive()[3]


# ---------------------------------------------------------------- one function per API


def api_versions(conn, version=3, software="checked-client"):
    """{api key: (min, max)}; see api_versions_full for the features."""
    return api_versions_full(conn, version, software)[0]


def api_versions_full(conn, version=3, software="checked-client"):
    w = Writer(is_flexible(API_VERSIONS, version))
    if version >= 3:
        w.string(software).string("1").tags()
    r = conn.call(API_VERSIONS, version, w.bytes())
    error = r.i16()
    if error:
        raise KafkaError(error, "ApiVersions")
    keys = {}
    for _ in range(r.count()):
        key, low, high = r.i16(), r.i16(), r.i16()
        r.tags()
        keys[key] = (low, high)
    if version >= 1:
        r.i32()
    supported, finalized = {}, {}
    tags = r.tags()
    for tag, into in ((0, supported), (2, finalized)):
        if tag in tags:
            f = Reader(tags[tag], True)
            for _ in range(f.count()):
                name, a, b = f.string(), f.i16(), f.i16()
                f.tags()
                into[name] = (a, b) if tag == 0 else (b, a)  # finalized: maximum comes first
    r.end()
    return keys, supported, finalized


Broker = namedtuple("Broker", "node_id host port rack")
TopicInfo = namedtuple("TopicInfo", "error name topic_id partitions")
PartitionInfo = namedtuple("PartitionInfo", "error index leader leader_epoch replicas isr offline")
MetadataAnswer = namedtuple("MetadataAnswer", "brokers cluster_id controller topics")


def metadata(conn, names=None, version=12, auto_create=False):
    """names None: all topics."""
    w = Writer(is_flexible(METADATA, version))
    w.count(None if names is None else len(names))
    for name in names or ():
        if version >= 10:
            w.raw(bytes(16))
        w.string(name).tags()
    w.boolean(auto_create)
    if 8 <= version <= 10:
        w.boolean(False)
    if version >= 8:
        w.boolean(False)
    w.tags()
    return read_metadata(conn.call(METADATA, version, w.bytes()), version)


def read_metadata(r, version):
    r.i32()
    brokers = []
    for _ in range(r.count()):
        brokers.append(Broker(r.i32(), r.string(), r.i32(), r.string()))
        r.tags()
    cluster_id, controller = r.string(), r.i32()
    topics = []
    for _ in range(r.count()):
        error, name = r.i16(), r.string()
        topic_id = bytes(r.raw(16)) if version >= 10 else bytes(16)
        r.boolean()
        partitions = []
        for _ in range(r.count()):
            partitions.append(PartitionInfo(r.i16(), r.i32(), r.i32(),
                                            r.i32() if version >= 7 else -1,
                                            r.i32s(), r.i32s(), r.i32s() if version >= 5 else []))
            r.tags()
        if version >= 8:
            r.i32()
        r.tags()
        topics.append(TopicInfo(error, name, topic_id, partitions))
    if 8 <= version <= 10:
        r.i32()
    if version >= 13:
        r.i16()
    r.tags()
    r.end()
    return MetadataAnswer(brokers, cluster_id, controller, topics)


class Topic(namedtuple("Topic", "name partitions configs replication_factor")):
    def __new__(cls, name, partitions=1, configs=None, replication_factor=1):
        return super().__new__(cls, name, partitions, configs or {}, replication_factor)


def create_topics(conn, topics, timeout_ms=30000, version=7, check=True):
    """-> {name: (error, message, topic id)}; with check an error raises."""
    w = Writer(is_flexible(CREATE_TOPICS, version)).count(len(topics))
    for t in topics:
        w.string(t.name).i32(t.partitions).i16(t.replication_factor).count(0)
        w.count(len(t.configs))
        for k, v in t.configs.items():
            w.string(k).string(str(v)).tags()
        w.tags()
    w.i32(timeout_ms).boolean(False).tags()
    r = conn.call(CREATE_TOPICS, version, w.bytes())
    r.i32()
    out = {}
    for _ in range(r.count()):
        name = r.string()
        topic_id = bytes(r.raw(16)) if version >= 7 else bytes(16)
        error, message = r.i16(), r.string()
        if version >= 5:
            r.i32(), r.i16()
            for _ in range(max(r.count(), 0)):
                r.string(), r.string(), r.boolean(), r.i8(), r.boolean(), r.tags()
        r.tags()
        out[name] = (error, message, topic_id)
        if check and error:
            raise KafkaError(error, "CreateTopics %s: %s" % (name, message))
    r.tags()
    r.end()
    return out


def delete_topics(conn, names, timeout_ms=30000, version=5):
    """-> {name: error}"""
    w = Writer(True).count(len(names))
    for name in names:
        w.string(name)
    w.i32(timeout_ms).tags()
    r = conn.call(DELETE_TOPICS, version, w.bytes())
    r.i32()
    out = {}
    for _ in range(r.count()):
        name, error = r.string(), r.i16()
        r.string(), r.tags()
        out[name] = error
    r.tags()
    r.end()
    return out


def init_producer_id(conn, version=4, transactional_id=None, patience_s=10):
    """-> (producer id, epoch); asks again while the block of ids is being fetched."""
    w = Writer(True).string(transactional_id).i32(60000).i64(-1).i16(-1).tags()
    deadline = time.monotonic() + patience_s
    while True:
        r = conn.call(INIT_PRODUCER_ID, version, w.bytes())
        r.i32()
        error, producer_id, epoch = r.i16(), r.i64(), r.i16()
        if not error:
            return producer_id, epoch
        if error != COORDINATOR_LOAD_IN_PROGRESS or time.monotonic() > deadline:
            raise KafkaError(error, "InitProducerId")
        time.sleep(0.05)


ProduceAnswer = namedtuple("ProduceAnswer", "topic index error base_offset log_start_offset message")


def produce_body(topics, acks=-1, timeout_ms=30000, version=9):
    """topics: [(name, or 16 byte topic id from version 13 on, [(partition, batch)])]"""
    w = Writer(is_flexible(PRODUCE, version))
    w.string(None).i16(acks).i32(timeout_ms).count(len(topics))
    for topic, partitions in topics:
        if version >= 13:
            w.raw(topic)
        else:
            w.string(topic)
        w.count(len(partitions))
        for index, records in partitions:
            w.i32(index).blob(records).tags()
        w.tags()
    return w.tags().bytes()


def read_produce(r, version):
    """-> [ProduceAnswer]"""
    out = []
    for _ in range(r.count()):
        topic = bytes(r.raw(16)) if version >= 13 else r.string()
        for _ in range(r.count()):
            index, error, base = r.i32(), r.i16(), r.i64()
            r.i64()
            start = r.i64() if version >= 5 else -1
            message = None
            if version >= 8:
                for _ in range(max(r.count(), 0)):
                    r.i32(), r.string(), r.tags()
                message = r.string()
            r.tags()
            out.append(ProduceAnswer(topic, index, error, base, start, message))
        r.tags()
    r.i32()
    r.tags()
    r.end()
    return out


def produce(conn, topic, partition, batch, acks=-1, version=9, check=True):
    r = conn.call(PRODUCE, version, produce_body([(topic, [(partition, batch)])], acks, 30000,
                                                 version))
    (answer,) = read_produce(r, version)
    if check and answer.error:
        raise KafkaError(answer.error, "Produce %s-%d" % (topic, partition))
    return answer


FetchPartition = namedtuple("FetchPartition",
                            "topic index error high_watermark log_start_offset records")


def fetch_body(topics, max_wait_ms=0, min_bytes=0, max_bytes=64 << 20, partition_bytes=8 << 20,
               version=12, session_id=0, session_epoch=-1, isolation=0):
    """topics: [(name, or topic id from version 13 on, [(partition, offset)])]"""
    w = Writer(is_flexible(FETCH, version))
    if version <= 14:
        w.i32(-1)
    w.i32(max_wait_ms).i32(min_bytes).i32(max_bytes).i8(isolation)
    if version >= 7:
        w.i32(session_id).i32(session_epoch)
    w.count(len(topics))
    for topic, partitions in topics:
        if version >= 13:
            w.raw(topic)
        else:
            w.string(topic)
        w.count(len(partitions))
        for index, offset in partitions:
            w.i32(index)
            if version >= 9:
                w.i32(-1)
            w.i64(offset)
            if version >= 12:
                w.i32(-1)
            if version >= 5:
                w.i64(-1)
            w.i32(partition_bytes).tags()
        w.tags()
    if version >= 7:
        w.count(0)
    if version >= 11:
        w.string("")
    return w.tags().bytes()


def read_fetch(r, version):
    """-> (error, session id, [FetchPartition])"""
    r.i32()
    error, session_id = (r.i16(), r.i32()) if version >= 7 else (0, 0)
    out = []
    for _ in range(r.count()):
        topic = bytes(r.raw(16)) if version >= 13 else r.string()
        for _ in range(r.count()):
            index, perror, high_watermark = r.i32(), r.i16(), r.i64()
            r.i64()
            start = r.i64() if version >= 5 else -1
            for _ in range(max(r.count(), 0)):
                r.i64(), r.i64(), r.tags()
            if version >= 11:
                r.i32()
            records = r.blob() or b""
            r.tags()
            out.append(FetchPartition(topic, index, perror, high_watermark, start, records))
        r.tags()
    r.tags()
    r.end()
    return error, session_id, out


def fetch(conn, topics, version=12, **options):
    """-> [FetchPartition]"""
    error, _, out = read_fetch(conn.call(FETCH, version,
                                         fetch_body(topics, version=version, **options)), version)
    if error:
        raise KafkaError(error, "Fetch")
    return out


LATEST, EARLIEST = -1, -2


def list_offsets(conn, topics, version=7):
    """topics: [(name, [(partition, timestamp)])] -> {(name, partition): (error, timestamp, offset)}"""
    w = Writer(is_flexible(LIST_OFFSETS, version)).i32(-1).i8(0).count(len(topics))
    for name, partitions in topics:
        w.string(name).count(len(partitions))
        for index, timestamp in partitions:
            w.i32(index).i32(-1).i64(timestamp).tags()
        w.tags()
    if version >= 10:
        w.i32(30000)
    r = conn.call(LIST_OFFSETS, version, w.tags().bytes())
    r.i32()
    out = {}
    for _ in range(r.count()):
        name = r.string()
        for _ in range(r.count()):
            index, error, timestamp, offset = r.i32(), r.i16(), r.i64(), r.i64()
            r.i32(), r.tags()
            out[name, index] = (error, timestamp, offset)
        r.tags()
    r.tags()
    r.end()
    return out


def delete_records_body(topics, timeout_ms=30000):
    """topics: [(name, [(partition, offset)])]"""
    w = Writer(True).count(len(topics))
    for name, partitions in topics:
        w.string(name).count(len(partitions))
        for index, offset in partitions:
            w.i32(index).i64(offset).tags()
        w.tags()
    return w.i32(timeout_ms).tags().bytes()


def read_delete_records(r):
    """-> {(name, partition): (error, low watermark)}"""
    r.i32()
    out = {}
    for _ in range(r.count()):
        name = r.string()
        for _ in range(r.count()):
            index, low, error = r.i32(), r.i64(), r.i16()
            r.tags()
            out[name, index] = (error, low)
        r.tags()
    r.tags()
    r.end()
    return out


def delete_records(conn, topics, version=2):
    return read_delete_records(conn.call(DELETE_RECORDS, version, delete_records_body(topics)))


def describe_log_dirs(conn, version=4):
    """-> [(error, path, {(topic, partition): (size, offset lag)})]"""
    r = conn.call(DESCRIBE_LOG_DIRS, version, Writer(True).count(None).tags().bytes())
    r.i32()
    if version >= 3:
        r.i16()
    out = []
    for _ in range(r.count()):
        error, path = r.i16(), r.string()
        replicas = {}
        for _ in range(r.count()):
            topic = r.string()
            for _ in range(r.count()):
                index, size, lag = r.i32(), r.i64(), r.i64()
                r.boolean(), r.tags()
                replicas[topic, index] = (size, lag)
            r.tags()
        if version >= 4:
            r.i64(), r.i64()
        r.tags()
        out.append((error, path, replicas))
    r.tags()
    return out


# ---------------------------------------------------------------- record batches

NONE, GZIP, SNAPPY, LZ4, ZSTD = range(5)
BATCH_HEADER = 61


def _crc_table():
    table = []
    for n in range(256):
        for _ in range(8):
            n = n >> 1 ^ 0x82F63B78 if n & 1 else n >> 1
        table.append(n)
    return tuple(table)


_CRC = _crc_table()


def crc32c(data, crc=0):
    """CRC-32C (Castagnoli), one table step a byte: about 10 MB/s."""
    table = _CRC
    crc ^= 0xFFFFFFFF
    for b in data:
        crc = table[(crc ^ b) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


class Filler:
    """Constant bytes at the end of a batch, whose part of the CRC is worked out once.

    The register after the filler is linear in the register before it, so four table look-ups
    stand for any length; without this a test in Python could not write megabytes a second.
    """

    def __init__(self, data):
        self.data = data
        zero = self._run(0)
        basis = [self._run(1 << bit) ^ zero for bit in range(32)]
        self.zero = zero
        self.tables = []
        for byte in range(4):
            table = [0] * 256
            for value in range(256):
                for bit in range(8):
                    if value >> bit & 1:
                        table[value] ^= basis[byte * 8 + bit]
            self.tables.append(table)

    def _run(self, register):
        table = _CRC
        for b in self.data:
            register = table[(register ^ b) & 0xFF] ^ register >> 8
        return register

    def extend(self, crc):
        """The CRC of (what `crc` covers) + the filler."""
        r, t = crc ^ 0xFFFFFFFF, self.tables
        r = self.zero ^ t[0][r & 255] ^ t[1][r >> 8 & 255] ^ t[2][r >> 16 & 255] ^ t[3][r >> 24]
        return r ^ 0xFFFFFFFF


def encode_record(offset_delta, timestamp_delta, key, value, headers=()):
    body = bytearray(b"\0")
    body += varint(timestamp_delta) + varint(offset_delta)
    body += varint(-1) if key is None else varint(len(key)) + key
    body += varint(-1) if value is None else varint(len(value)) + value
    body += varint(len(headers))
    for name, data in headers:
        body += varint(len(name)) + name
        body += varint(-1) if data is None else varint(len(data)) + data
    return varint(len(body)) + bytes(body)


COMPRESSORS = {NONE: lambda b: b, GZIP: lambda b: gzip.compress(b, 1, mtime=0)}


def encode_batch(records, timestamp_ms=None, producer_id=-1, epoch=-1, sequence=-1,
                 compression=NONE, base_offset=0, leader_epoch=-1, count=None, magic=2,
                 attributes=0, crc=None, last_offset_delta=None, payload=None):
    """records: [(key, value, headers)]. The last arguments exist to tell lies."""
    if timestamp_ms is None:
        timestamp_ms = int(time.time() * 1000)
    if payload is None:
        payload = b"".join(encode_record(i, 0, k, v, h) for i, (k, v, h) in enumerate(records))
        payload = COMPRESSORS[compression](payload)
    n = len(records) if count is None else count
    last = len(records) - 1 if last_offset_delta is None else last_offset_delta
    tail = struct.pack(">hiqqqhii", attributes | compression, last, timestamp_ms, timestamp_ms,
                       producer_id, epoch, sequence, n) + payload
    if crc is None:
        crc = crc32c(tail)
    return struct.pack(">qiibI", base_offset, 9 + len(tail), leader_epoch, magic, crc) + tail


def encode_filled_batch(first_record, filler, count, timestamp_ms, producer_id, epoch, sequence):
    """An uncompressed batch of `count` records: `first_record` as encode_record() gives it, and
    the others, already encoded, in `filler`."""
    tail = struct.pack(">hiqqqhii", 0, count - 1, timestamp_ms, timestamp_ms, producer_id, epoch,
                       sequence, count) + first_record
    crc = filler.extend(crc32c(tail))
    return (struct.pack(">qiibI", 0, 9 + len(tail) + len(filler.data), -1, 2, crc) + tail +
            filler.data)


Batch = namedtuple("Batch", "base_offset last_offset count compression attributes first_timestamp "
                            "max_timestamp producer_id epoch sequence magic leader_epoch crc data")


def split_batches(records):
    """The batches of a Fetch answer; one that was cut off at its end is left out."""
    out, pos = [], 0
    while len(records) - pos >= BATCH_HEADER:
        base, size, leader_epoch, magic, crc = struct.unpack_from(">qiibI", records, pos)
        if size < BATCH_HEADER - 12:
            raise WireError("batch of %d bytes at %d" % (size, pos))
        if len(records) - pos < 12 + size:
            break
        attributes, last, first_ts, max_ts, pid, epoch, seq, n = struct.unpack_from(
            ">hiqqqhii", records, pos + 21)
        out.append(Batch(base, base + last, n, attributes & 7, attributes, first_ts, max_ts, pid,
                         epoch, seq, magic, leader_epoch, crc, records[pos:pos + 12 + size]))
        pos += 12 + size
    return out


def decode_records(batch):
    """-> [(offset, timestamp, key, value, headers)] of an uncompressed or gzip batch."""
    payload = batch.data[BATCH_HEADER:]
    if batch.compression == GZIP:
        payload = gzip.decompress(payload)
    elif batch.compression != NONE:
        raise WireError("compression %d is not for this reader" % batch.compression)
    r, out = Reader(payload), []

    def signed():
        v = r.uvarint()
        return v >> 1 ^ -(v & 1)

    def data():
        n = signed()
        return None if n < 0 else bytes(r.raw(n))

    for _ in range(batch.count):
        end = signed() + r.pos
        r.i8()
        ts, delta, key, value = signed(), signed(), data(), data()
        headers = [(data(), data()) for _ in range(signed())]
        if r.pos != end:
            raise WireError("record length is wrong at offset %d" % (batch.base_offset + delta))
        out.append((batch.base_offset + delta, batch.first_timestamp + ts, key, value, headers))
    r.end()
    return out
