"""Reads segment files with Apache Kafka's own DumpLogSegments and compares with what was served."""

import os
import re
import subprocess

_HEAD = re.compile(r"^Dumping (\S+)$")
_BATCH = re.compile(r"^baseOffset: (\d+) lastOffset: (\d+) count: (\d+) ")
_RECORD = re.compile(r"^\| offset: (\d+) ")
# What 4.3.1 prints about any file that is in order: an index without entries, and for each log that
# does not begin at offset 0 that its first record does not follow "-1".
_HARMLESS = re.compile(r"^(\S+index is empty\.|Non-consecutive offsets in \S+|"
                       r"\s+-1 is followed by \d+)$")
_KNOWN = re.compile(r"^(Log starting offset: \d+|Starting offset: \d+|offset: \d+ position: \d+|"
                    r"timestamp: -?\d+ offset: \d+|producerId: .*|Snapshot end offset: .*|"
                    r"Dumping .*|\s*)$")
_LOGGER = re.compile(r".*(SLF4J|StatusLogger)")


def dump(jars, files, chunk=200):
    """-> (text, exit code) of DumpLogSegments --deep-iteration over all the files."""
    text, code = [], 0
    for i in range(0, len(files), chunk):
        run = subprocess.run(["java", "-Xmx512m", "-XX:+UseSerialGC", "-cp", jars + "/*",
                              "org.apache.kafka.tools.DumpLogSegments", "--deep-iteration", "--files",
                              ",".join(files[i:i + chunk])],
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        text.append(run.stdout)
        code = code or run.returncode
    return "".join(text), code


def compare(text, contents, shrinking=()):
    """text: what dump() printed. contents: {partition: [(base offset, count)]} as a consumer read.
    shrinking: topics of which retention may have deleted more since.

    -> (files, records, [complaint])"""
    dumped, complaints, files, partition = {}, [], 0, None
    deep = {}
    for line in text.splitlines():
        head, batch, record = _HEAD.match(line), _BATCH.match(line), _RECORD.match(line)
        if head:
            files += 1
            partition = os.path.basename(os.path.dirname(head.group(1)))
            dumped.setdefault(partition, [])
        elif batch:
            base, last, count = (int(g) for g in batch.groups())
            dumped[partition].append((base, count))
            if "isvalid: true" not in line:
                complaints.append("%s: %s" % (partition, line))
            if last - base + 1 != count:
                complaints.append("%s: count: %s" % (partition, line))
        elif record:
            deep.setdefault(partition, set()).add(int(record.group(1)))
        elif not any(known.match(line) for known in (_KNOWN, _HARMLESS, _LOGGER)):
            complaints.append("%s: %s" % (partition, line[:300]))
    for partition, read in contents.items():
        there = sorted(dumped.get(partition, []))
        if partition.rpartition("-")[0] in shrinking and 0 < len(there) < len(read):
            read = read[len(read) - len(there):]
        # The log start may lie inside a segment: a dump shows more in front, never less behind.
        if read and there[len(there) - len(read):] != read:
            complaints.append("%s: the files hold %d batches (%s), a consumer read %d (%s)" % (
                partition, len(there), there[-1:], len(read), read[-1:]))
        offsets = deep.get(partition, set())
        missing = [o for base, count in read for o in range(base, base + count) if o not in offsets]
        if missing:
            complaints.append("%s: %d records read are not in the files, the first at %d" % (
                partition, len(missing), missing[0]))
    return files, sum(len(v) for v in deep.values()), complaints
