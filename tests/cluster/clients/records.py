"""The records that are sent, and the comparison of what was read with what was noted.

A record is a dict: partition, timestamp, key and value (hex or None), headers ([name, hex or None]
in order). What a client has sent is the same with the offset and answered_timestamp that it was
told; what it has read has the offset and timestamp_type. Each is one JSON line in a file. The
numbers C1.. are explained in tests/cluster/README.md.
"""
import json
import random

PARTITIONS = 3
WORDS = b"the log is the truth and the offset is the name of each record in it ".split()


def plan(seed, count, start_ms, lacks=(), value_bytes=None):
    """Makes `count` records, the same for the same arguments. `lacks` names what a client's API
    cannot say, which is then left out."""
    rng = random.Random(seed)
    out = []
    for i in range(count):
        key = rng.choice((None, b"", b"key-%d" % rng.randrange(50), rng.randbytes(8), b"k" * 40))
        value = rng.choice((None, b"", rng.randbytes(24), text(rng), text(rng), text(rng)))
        if value_bytes:
            value = rng.randbytes(value_bytes)
        if key is None and value is None and "null key with null value" in lacks:
            key = b"only"
        out.append({"partition": rng.randrange(PARTITIONS) if i >= PARTITIONS else i,
                    # Nearly in order: a search by time must not assume order.
                    "timestamp": start_ms + 10 * i + rng.randrange(-15, 15),
                    "key": None if key is None else key.hex(),
                    "value": None if value is None else value.hex(),
                    "headers": headers(rng, lacks)})
    return out


def text(rng):
    return b" ".join(rng.choice(WORDS) for _ in range(rng.randrange(5, 40)))


def headers(rng, lacks):
    one, two = rng.randbytes(4).hex(), rng.randbytes(12).hex()
    shape = rng.randrange(6)
    if shape == 0:
        return [["trace", one], ["trace", two], ["trace", one]]
    if shape == 1:
        return [["Größe", one], ["", two]]
    if shape == 2:
        return [["none", "" if "null header value" in lacks else None], ["empty", ""]]
    if shape == 3:
        middle_last = [["a", one], ["a", two], ["b", one]]
        if "interleaved header names" not in lacks:
            middle_last[1:] = reversed(middle_last[1:])
        return middle_last
    return []


def save(path, records):
    with open(path, "w", encoding="utf-8") as f:
        f.writelines(json.dumps(r) + "\n" for r in records)


def load(path):
    with open(path, encoding="utf-8") as f:
        return [json.loads(line) for line in f]


def place(r):
    return r["partition"], r["offset"]


def check_notes(planned, noted, ordered=True):
    """C1 and C2: each planned record was answered, with the offsets of a fresh topic: each once
    and, for a client that keeps the order of its sends, in that order."""
    if len(noted) != len(planned):
        return f"C1: {len(planned)} records to send, {len(noted)} noted"
    for i, (p, n) in enumerate(zip(planned, noted)):
        for field in ("partition", "timestamp", "key", "value", "headers"):
            if p[field] != n[field]:
                return f"C1: record {i}: {field} to send {p[field]!r:.80}, noted {n[field]!r:.80}"
    following = {}
    for i, n in enumerate(noted if ordered else sorted(noted, key=lambda n: n["offset"])):
        expected = following.get(n["partition"], 0)
        if n["offset"] != expected:
            return (f"C2: record {i}, partition {n['partition']}: "
                    f"offset {n['offset']} was answered, expected {expected}")
        following[n["partition"]] = expected + 1
    return None


def compare(noted, read, timestamp_type="create"):
    """C3 to C6: what was read is exactly what was noted, or a sentence on the first difference."""
    expected = {place(r): r for r in noted}
    last = {}
    for r in read:
        at = place(r)
        name = f"{at[0]}@{at[1]}"
        if r["offset"] <= last.get(r["partition"], -1):
            return f"C4: {name} was read after {last[r['partition']]}"
        last[r["partition"]] = r["offset"]
        note = expected.pop(at, None)
        if note is None:
            return f"C3: {name} was read, but nothing was noted there"
        for field in ("key", "value", "headers"):
            if r[field] != note[field]:
                return f"C5: {name}: {field} noted {note[field]!r:.80}, read {r[field]!r:.80}"
        if r["timestamp"] != note["timestamp"]:
            return f"C6: {name}: timestamp noted {note['timestamp']}, read {r['timestamp']}"
        if r["timestamp_type"] != timestamp_type:
            return f"C6: {name}: timestamp type {timestamp_type}, read {r['timestamp_type']}"
    if expected:
        lost = min(expected)
        return f"C3: {len(expected)} noted records were not read, first {lost[0]}@{lost[1]}"
    return None


def from_offset(noted, starts):
    return [r for r in noted if r["offset"] >= starts[r["partition"]]]


def starts_at_time(noted, ms):
    """C8: in each partition the first offset whose timestamp is at or after `ms`, else -1."""
    out = [-1] * PARTITIONS
    for r in noted:
        if r["timestamp"] >= ms and out[r["partition"]] < 0:
            out[r["partition"]] = r["offset"]
    return out
