#!/usr/bin/env python3
"""Checks what the compiler cannot: who includes whom, who calls the system, what is mutable.

  * A folder includes only folders to its left (docs/DESIGN.md section 3).
  * Only the files named here call the system or include its headers.
  * No mutable file-scope or function-static data but in main.c: several nodes live in one process.
  * Layout: 100 columns, no tabs, no trailing space; clang-format decides the rest.
  * TODO needs an issue number.

Prints what it counted; exits 1 when something is found.
"""
import os
import re
import shutil
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

# folder -> folders it may include (itself always)
HOUSE = {
    "protocol": [],
    "storage": ["protocol"],
    "replication": ["protocol", "storage"],
    "raft-meta": ["protocol"],
    "broker": ["protocol", "storage", "replication", "raft-meta"],
}
GENERATED = {"messages.h", "meta_command.pb-c.h", "meta_snapshot.pb-c.h"}
PROTO_ROOMS = {"raft-meta", "broker"}

# The doors to the system. Everything else goes through protocol/base/env.h.
SYSTEM_FILES = {
    "broker/env_uv.c", "broker/env_uv.h", "broker/main.c", "broker/http/http.c",
    "storage/disk_posix.c", "storage/disk_posix.h",
    "raft-meta/raft_disk_uv.c", "raft-meta/raft_disk_uv.h",
}
SYSTEM_FILES_GLOB = re.compile(r"broker/cli_\w+\.c$")
SYSTEM_HEADERS = re.compile(
    r"#include <(unistd|fcntl|pthread|uv|time|netdb|signal|semaphore|dirent|poll|threads|"
    r"sys/(socket|mman|stat|uio|types|time|random|file|vfs|statvfs|resource|sendfile)|"
    r"arpa/\w+|netinet/\w+)\.h>")
SYSTEM_CALLS = re.compile(
    r"(?<![\w.>])(open|close|pread|pwrite|mmap|munmap|fsync|fdatasync|socket|recv|sendmsg|time|"
    r"gettimeofday|clock_gettime|rand|random|srand|getpid|usleep|nanosleep|sleep|getenv|fopen)\(")
# Includes of <raft.h> stay in these, so that the library can be exchanged.
RAFT_FILES = re.compile(r"raft-meta/raft_(node_internal|io_guard|transport|wire|disk_uv)\.[ch]$")

STATIC_DATA = re.compile(r"^\s*(?:static\s+)(?!.*\bconst\b)(?!inline)[\w\s\*]+\b\w+(\[[^\]]*\])*\s*(=|;)")

findings = []


def found(path, line, text):
    findings.append("%s:%d: %s" % (os.path.relpath(path, ROOT), line, text))


def sources():
    for room in list(HOUSE) + ["tests"]:
        for folder, dirs, names in os.walk(os.path.join(ROOT, room)):
            dirs[:] = [d for d in dirs if d not in ("__pycache__", "node_modules")]
            for name in sorted(names):
                if name.endswith((".c", ".h", ".cc")):
                    yield room, os.path.join(folder, name)


def check_includes(room, path, number, line):
    m = re.match(r'\s*#include "([^"]+)"', line)
    if not m or room == "tests":
        return
    target = m.group(1)
    if target in GENERATED:
        if target.startswith("meta_") and room not in PROTO_ROOMS:
            found(path, number, "%s is raft-meta's" % target)
        return
    other = target.split("/")[0]
    if other != room and other not in HOUSE[room]:
        found(path, number, "%s may not include %s (%s)" % (room, other, target))


def check_system(room, path, number, line):
    rel = os.path.relpath(path, ROOT)
    if room == "tests" or rel in SYSTEM_FILES or SYSTEM_FILES_GLOB.search(rel):
        return
    if SYSTEM_HEADERS.search(line):
        found(path, number, "includes a system header: go through protocol/base/env.h")
    code = re.sub(r'"(\\.|[^"\\])*"', '""', line)
    m = SYSTEM_CALLS.search(code)
    if m:
        found(path, number, "calls %s(): go through protocol/base/env.h" % m.group(1))
    if re.search(r'#include <raft\.h>|#include <raft/', line) and not RAFT_FILES.search(rel):
        found(path, number, "includes <raft.h>")


def strip_comments(text):
    def blank(m):
        return re.sub(r"[^\n]", " ", m.group(0))
    return re.sub(r"/\*.*?\*/|//[^\n]*", blank, text, flags=re.S)


def check_file(room, path):
    with open(path, encoding="utf-8") as f:
        text = f.read()
    for number, line in enumerate(text.split("\n"), 1):
        if "\t" in line:
            found(path, number, "a tab")
        if line != line.rstrip():
            found(path, number, "trailing space")
        if len(line) > 100:
            found(path, number, "%d columns" % len(line))
        if re.search(r"\bTODO\b(?!\(#\d+\))", line):
            found(path, number, "TODO without an issue number: TODO(#12)")
    for number, line in enumerate(strip_comments(text).split("\n"), 1):
        check_includes(room, path, number, line)
        check_system(room, path, number, line)
        if room != "tests" and not path.endswith("broker/main.c") and STATIC_DATA.match(line):
            found(path, number, "mutable static data: several nodes live in one process")


def check_format(paths):
    tool = shutil.which("clang-format-14")
    if not tool:
        print("tidy: clang-format-14 is not installed: layout not checked")
        return
    for start in range(0, len(paths), 40):
        run = subprocess.run([tool, "--dry-run", "--Werror"] + paths[start:start + 40],
                             stderr=subprocess.PIPE, text=True, cwd=ROOT)
        for line in run.stderr.split("\n"):
            m = re.match(r"(.+?):(\d+):\d+: error: code should be clang-formatted", line)
            if m:
                found(os.path.join(ROOT, m.group(1)), int(m.group(2)), "clang-format")


def main():
    paths = []
    for room, path in sources():
        paths.append(path)
        check_file(room, path)
    check_format(paths)
    for line in sorted(set(findings)):
        print(line)
    print("tidy: %d files, %d findings" % (len(paths), len(set(findings))))
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
