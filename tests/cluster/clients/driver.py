"""Speaks with one client program: a JSON command a line, a JSON answer a line, each in time."""
import json
import os
import select
import subprocess
import time


class ClientError(Exception):
    """The client answered a command with an error, or not at all."""


class Driver:
    CALL_SECONDS_MAX = 40

    def __init__(self, argv, bootstrap, log_path):
        self.argv, self.bootstrap, self.log_path = argv, bootstrap, log_path
        self.deadline, self.process, self.buffer = 0, None, b""

    def allow(self, seconds):
        """From now on all calls together have this long; must be called before the first."""
        self.deadline = time.monotonic() + seconds

    def call(self, do, **arguments):
        """Returns the answer; raises ClientError with the client's name for the error."""
        if self.process is None:
            self.start()
        line = json.dumps({"do": do, **arguments}) + "\n"
        try:
            self.process.stdin.write(line.encode())
            self.process.stdin.flush()
            answer = json.loads(self.read_line())
        except (OSError, EOFError, ValueError) as error:
            self.stop()
            raise ClientError(f"{do}: {error}") from error
        if "error" in answer:
            raise ClientError(answer["error"])
        return answer

    def start(self):
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(self.argv + [self.bootstrap], stdin=subprocess.PIPE,
                                            stdout=subprocess.PIPE, stderr=log)
        self.buffer = b""

    def read_line(self):
        end = min(time.monotonic() + self.CALL_SECONDS_MAX, self.deadline)
        out = self.process.stdout.fileno()
        while b"\n" not in self.buffer:
            left = end - time.monotonic()
            if left <= 0 or not select.select([out], [], [], left)[0]:
                raise EOFError("no answer in time; the client was ended")
            chunk = os.read(out, 65536)
            if not chunk:
                raise EOFError("the client ended")
            self.buffer += chunk
        line, _, self.buffer = self.buffer.partition(b"\n")
        return line

    def stop(self):
        if self.process is None:
            return
        process, self.process = self.process, None
        process.stdin.close()  # the end of its commands is its order to leave
        try:
            process.wait(2)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
