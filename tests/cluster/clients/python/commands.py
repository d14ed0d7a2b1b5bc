"""What the Python clients share: the loop over commands, and record lines.

A command is one JSON line on stdin, {"do": NAME, ...arguments}; the answer is one JSON line on
stdout, with "error" when it failed. tests/cluster/README.md lists the commands.
"""
import json
import sys
import time
import traceback

READ_SECONDS_MAX = 20


def unhex(text):
    return None if text is None else bytes.fromhex(text)


def load(path):
    """Yields (line, key, value, headers) of each record to send; `line` becomes its note."""
    with open(path, encoding="utf-8") as f:
        for text in f:
            line = json.loads(text)
            yield (line, unhex(line["key"]), unhex(line["value"]),
                   [(name, unhex(value)) for name, value in line["headers"]])


def save(path, lines):
    with open(path, "w", encoding="utf-8") as f:
        f.writelines(json.dumps(line) + "\n" for line in lines)


def record_line(partition, offset, timestamp, append_time, key, value, headers):
    def tohex(b):
        return None if b is None else bytes(b).hex()
    return {"partition": partition, "offset": offset, "timestamp": timestamp,
            "timestamp_type": "append" if append_time else "create",
            "key": tohex(key), "value": tohex(value),
            "headers": [[name, tohex(v)] for name, v in headers or ()]}


class Progress:
    """Follows a read from `starts` to `ends` (lists by partition) and says when it is over."""

    def __init__(self, starts, ends):
        self.lines, self.ends = [], ends
        self.missing = {p for p, (start, end) in enumerate(zip(starts, ends)) if start < end}
        self.deadline = time.monotonic() + READ_SECONDS_MAX

    def more(self):
        if self.missing and time.monotonic() > self.deadline:
            raise TimeoutError(f"partitions {self.missing} are not at their end after "
                               f"{READ_SECONDS_MAX} s and {len(self.lines)} records")
        return bool(self.missing)

    def add(self, line):
        self.lines.append(line)
        if line["offset"] + 1 >= self.ends[line["partition"]]:
            self.missing.discard(line["partition"])


def serve(client, error_name, run=lambda answer: answer):
    """Answers commands by the client's methods of their names; `run` awaits what they return."""
    for text in sys.stdin:
        command = json.loads(text)
        try:
            answer = run(getattr(client, command.pop("do"))(**command)) or {}
        except Exception as error:  # whatever a client raises is an answer, not our end
            traceback.print_exc()
            answer = {"error": error_name(error) or f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)
