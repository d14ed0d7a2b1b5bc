"""A TCP proxy that understands just enough of the Kafka protocol to make trouble.

It listens once per broker and changes the ports in answers that name brokers, so that clients
stay on it.
What it does with a frame is decided by a policy: cut a connection, hold an answer, watch or change
record batches. Everything runs on one asyncio loop in one thread per proxy.
"""
import asyncio
import socket
import struct
import threading

PRODUCE, FETCH, METADATA, FIND_COORDINATOR = 0, 1, 3, 10
FLEXIBLE_FROM = {FETCH: 12, METADATA: 9, FIND_COORDINATOR: 3}  # compact fields and tags (KIP-482)
FRAME_BYTES_MAX = 128 << 20


class Cursor:
    """Walks over the fields of one frame, in place."""

    def __init__(self, frame, flexible):
        self.frame, self.flexible, self.at = frame, flexible, 0

    def number(self, form):
        (value,) = struct.unpack_from(">" + form, self.frame, self.at)
        self.at += struct.calcsize(form)
        return value

    def skip(self, length):
        self.at += max(length, 0)

    def uvarint(self):
        value = shift = 0
        while True:
            byte = self.frame[self.at]
            self.at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7

    def varint(self):
        raw = self.uvarint()
        return (raw >> 1) ^ -(raw & 1)

    def count(self):
        return self.uvarint() - 1 if self.flexible else self.number("i")

    def span(self, form):
        """A string or bytes field: its (start, end); an absent one is empty."""
        length = self.uvarint() - 1 if self.flexible else self.number(form)
        start = self.at
        self.skip(length)
        return start, self.at

    def broker(self):
        """(host, port, where the port stands) of node id, host, port."""
        self.number("i")
        start, end = self.span("h")
        where = self.at
        return bytes(self.frame[start:end]).decode(), self.number("i"), where

    def tags(self):
        if self.flexible:
            for _ in range(self.uvarint()):
                self.uvarint()
                self.skip(self.uvarint())


def brokers_in_metadata(frame, version):
    """Yields (host, port, where the port stands) of each broker in a Metadata answer."""
    c = Cursor(frame, version >= FLEXIBLE_FROM[METADATA])
    c.number("i")  # correlation id
    c.tags()
    if version >= 3:
        c.number("i")  # throttle time
    for _ in range(c.count()):
        yield c.broker()
        if version >= 1:
            c.span("h")  # rack
        c.tags()


def brokers_in_find_coordinator(frame, version):
    """The same for a FindCoordinator answer, which consumers with a group id ask for."""
    c = Cursor(frame, version >= FLEXIBLE_FROM[FIND_COORDINATOR])
    c.number("i")
    c.tags()
    if version >= 1:
        c.number("i")  # throttle time
    for _ in range(c.count() if version >= 4 else 1):
        if version >= 4:
            c.span("h")  # group id
            yield c.broker()
        c.number("h")  # error
        if version >= 1:
            c.span("h")  # its text
        if version >= 4:
            c.tags()
        else:
            yield c.broker()


NAMES_BROKERS = {METADATA: brokers_in_metadata, FIND_COORDINATOR: brokers_in_find_coordinator}


def batches_in_fetch(frame, version):
    """Yields (start, end) of each whole record batch in a Fetch answer."""
    c = Cursor(frame, version >= FLEXIBLE_FROM[FETCH])
    c.number("i")
    c.tags()
    c.number("i")
    if version >= 7:
        c.number("h")  # error
        c.number("i")  # session id
    for _ in range(c.count()):
        if version >= 13:
            c.skip(16)  # topic id
        else:
            c.span("h")
        for _ in range(c.count()):
            c.skip(4 + 2 + 8 + 8)  # partition, error, high watermark, last stable offset
            if version >= 5:
                c.skip(8)  # log start offset
            for _ in range(c.count()):  # aborted transactions
                c.skip(16)
                c.tags()
            if version >= 11:
                c.skip(4)  # preferred read replica
            at, end = c.span("i")
            while at + 61 <= end:
                batch_end = at + 12 + struct.unpack_from(">i", frame, at + 8)[0]
                if batch_end > end:
                    break  # Kafka may end an answer within a batch
                yield at, batch_end
                at = batch_end
            c.tags()
        c.tags()


def _crc32c_table():
    table = []
    for n in range(256):
        for _ in range(8):
            n = n >> 1 ^ (0x82F63B78 if n & 1 else 0)
        table.append(n)
    return table


CRC32C_TABLE = _crc32c_table()


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = CRC32C_TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


class Policy:
    """Lets everything through. on_request answers False, on_answer None, to cut the connection."""

    async def on_request(self, _api, _connection):
        return True

    async def on_answer(self, _api, _version, frame, _connection):
        return frame


class Cut(Policy):
    """Cuts connections at moments (N, what), in order: at the first Produce request from the Nth
    on, counted over all connections. "request": before the broker has seen it. "answer": when the
    broker has appended a request in flight and the client does not know."""

    def __init__(self, moments):
        self.moments, self.seen = list(moments), 0
        self.losing = None  # the connection whose next Produce answer is to be lost

    async def on_request(self, api, connection):
        if api != PRODUCE:
            return True
        self.seen += 1
        if self.losing or not self.moments or self.seen < self.moments[0][0]:
            return True
        if self.moments[0][1] == "answer":
            self.losing = connection
            return True
        self.moments.pop(0)
        return False

    async def on_answer(self, api, version, frame, connection):
        if api != PRODUCE or connection is not self.losing:
            return frame
        self.losing = None
        self.moments.pop(0)
        return None


class Hold(Policy):
    """Holds each Produce answer a while and notes how many requests a connection had in flight."""

    def __init__(self, seconds):
        self.seconds, self.in_flight, self.peak = seconds, {}, 0

    async def on_request(self, api, connection):
        if api == PRODUCE:
            self.in_flight[connection] = self.in_flight.get(connection, 0) + 1
            self.peak = max(self.peak, self.in_flight[connection])
        return True

    async def on_answer(self, api, version, frame, connection):
        if api == PRODUCE:
            await asyncio.sleep(self.seconds)
            self.in_flight[connection] -= 1
        return frame


class Watch(Policy):
    """Notes the compression of each batch that passes."""

    CODECS = ("none", "gzip", "snappy", "lz4", "zstd")

    def __init__(self):
        self.codecs = set()

    async def on_answer(self, api, version, frame, connection):
        if api == FETCH:
            for start, _ in batches_in_fetch(frame, version):
                self.codecs.add(self.CODECS[frame[start + 22] & 7])
        return frame


class Tamper(Policy):
    """Changes one byte in each Fetch answer that carries records and repairs the CRC, so that
    only a comparison of what was read with what was sent can see it."""

    KINDS = ("key", "value", "header", "timestamp", "timestamp type")

    def __init__(self, kind):
        self.kind, self.flipped = kind, 0

    async def on_answer(self, api, version, frame, connection):
        if api != FETCH:
            return frame
        frame = bytearray(frame)
        for start, end in batches_in_fetch(frame, version):
            where = self.find(frame, start)
            if where is None:
                continue
            frame[where] ^= 8 if self.kind == "timestamp type" else 1
            struct.pack_into(">I", frame, start + 17, crc32c(memoryview(frame)[start + 21:end]))
            self.flipped += 1
            break
        return frame

    def find(self, frame, start):
        if self.kind == "timestamp type":
            return start + 22
        if self.kind == "timestamp":
            return start + 34  # the lowest byte of the batch's base timestamp
        if frame[start + 22] & 7:
            return None  # compressed
        c = Cursor(frame, True)
        c.at = start + 61
        for _ in range(struct.unpack_from(">i", frame, start + 57)[0]):
            where = self.find_in_record(c)
            if where is not None:
                return where
        return None

    def find_in_record(self, c):
        end = c.varint()
        end += c.at
        c.skip(1)  # attributes
        c.varint(), c.varint()  # timestamp and offset deltas
        found = None
        for part in ("key", "value"):
            length = c.varint()
            if part == self.kind and length > 0:
                found = c.at
            c.skip(length)
        if self.kind == "header":
            for _ in range(c.varint()):
                c.skip(c.varint())
                length = c.varint()
                if length > 0:
                    found = c.at
                c.skip(length)
        c.at = end
        return found


class Proxy:
    """`with Proxy(bootstrap, policy) as address:` serves at address until the block ends."""

    def __init__(self, bootstrap, policy):
        self.policy = policy
        host, port = bootstrap.rsplit(":", 1)
        self.first = host, int(port)
        self.listeners = {}  # (host, port) of a broker -> our server in front of it
        self.loop = asyncio.new_event_loop()

    def __enter__(self):
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        port = asyncio.run_coroutine_threadsafe(self._listen(self.first), self.loop).result(10)
        return f"{self.first[0]}:{port}"

    def __exit__(self, *_):
        asyncio.run_coroutine_threadsafe(self._stop(), self.loop).result(10)
        self.loop.call_soon_threadsafe(self.loop.stop)

    async def _stop(self):
        for server in self.listeners.values():
            server.close()
        tasks = [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _listen(self, broker):
        if broker not in self.listeners:
            self.listeners[broker] = await asyncio.start_server(
                lambda r, w: self._serve(broker, r, w), broker[0], 0, family=socket.AF_INET)
        return self.listeners[broker].sockets[0].getsockname()[1]

    async def _serve(self, broker, reader, writer):
        writers = [writer]
        pumps = []
        try:
            up_reader, up_writer = await asyncio.open_connection(*broker)
            writers.append(up_writer)
            asked = {}  # correlation id -> (api, version)
            pumps = [asyncio.ensure_future(self._requests(reader, up_writer, asked, writer)),
                     asyncio.ensure_future(self._answers(up_reader, writer, asked))]
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        except (OSError, asyncio.CancelledError):
            pass
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
        for w in writers:
            w.transport.abort()

    async def _requests(self, reader, up_writer, asked, connection):
        while True:
            frame = await read_frame(reader)
            api, version, correlation = struct.unpack_from(">hhi", frame)
            asked[correlation] = api, version
            if not await self.policy.on_request(api, connection):
                return
            await write_frame(up_writer, frame)

    async def _answers(self, up_reader, writer, asked):
        while True:
            frame = await read_frame(up_reader)
            api, version = asked.pop(struct.unpack_from(">i", frame)[0])
            if api in NAMES_BROKERS:
                frame = bytearray(frame)
                for host, port, where in list(NAMES_BROKERS[api](frame, version)):
                    if port > 0:  # else there is no coordinator
                        struct.pack_into(">i", frame, where, await self._listen((host, port)))
            frame = await self.policy.on_answer(api, version, frame, writer)
            if frame is None:
                return
            await write_frame(writer, frame)


async def read_frame(reader):
    (size,) = struct.unpack(">i", await reader.readexactly(4))
    if not 8 <= size <= FRAME_BYTES_MAX and size != 4:
        raise OSError(f"a frame of {size} bytes")
    return await reader.readexactly(size)


async def write_frame(writer, frame):
    writer.write(struct.pack(">i", len(frame)))
    writer.write(frame)
    await writer.drain()
