#!/usr/bin/env python3
"""Holds our codec against the official Java client's message classes, both ways.

    python3 tests/wire/run.py [--jar kafka-clients-4.4.0.jar] [--program build/dev/.../conformance]
                              [--rounds N] [--seed N] [--sample FILE]

Java writes random messages, C decodes and encodes them to the same bytes; then the other way round.
Without --jar the client comes from Maven Central, once, into $FLUXMQ_CACHE (~/.cache/fluxmq).
With --sample FILE nothing is compared: Java's text is stored there, for runs without Java.
"""

import argparse
import gzip
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent
CLIENT = "org.apache.kafka:kafka-clients:4.4.0"
SLF4J = "org.slf4j:slf4j-api:1.7.36"


def artifact(name):
    """The jar of a Maven artifact, from our cache or else from Maven Central."""
    cache = pathlib.Path(os.environ.get("FLUXMQ_CACHE", pathlib.Path.home() / ".cache/fluxmq"))
    _, base, version = name.split(":")
    jar = cache / f"{base}-{version}.jar"
    if not jar.exists():
        cache.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            ["mvn", "-q", "-B", "--no-transfer-progress", "dependency:copy", f"-Dartifact={name}", f"-DoutputDirectory={cache}"],
            check=True,
            cwd=cache,
        )
    return jar


def find_program():
    built = sorted(REPOSITORY.glob("build/**/conformance"), key=lambda p: p.stat().st_mtime)
    if not built:
        sys.exit("no conformance program under build/: build first, or say --program PATH")
    return built[-1]


def tally(output):
    passed, failed = re.findall(r"(\d+) passed, (\d+) failed", output)[-1]
    return int(passed), int(failed)


def main():
    args = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    args.add_argument("--jar", type=pathlib.Path)
    args.add_argument("--program", type=pathlib.Path)
    args.add_argument("--rounds", type=int, default=100)
    args.add_argument("--seed", type=int, default=int(time.time()))
    args.add_argument("--sample", type=pathlib.Path)
    args = args.parse_args()

    jar = args.jar or artifact(CLIENT)
    class_path = f"{jar}:{artifact(SLF4J)}"
    with tempfile.TemporaryDirectory() as work:
        subprocess.run(["javac", "-cp", class_path, "-d", work, HERE / "Conformance.java"], check=True)
        java = ["java", "-cp", f"{work}:{class_path}", "Conformance"]
        write = [str(args.seed), str(args.rounds)]

        if args.sample:
            text = subprocess.run([*java, "write", *write], check=True, stdout=subprocess.PIPE).stdout
            args.sample.write_bytes(gzip.compress(text, mtime=0))
            print(f"{args.sample}: {len(text)} bytes of text in {args.sample.stat().st_size}")
            return 0

        program = (args.program or find_program()).resolve()
        print(f"wire: seed {args.seed}, {args.rounds} messages of each schema and version, each way")
        passed = failed = 0
        for writer, reader in (
            ([*java, "write", *write], [program, "check", "-"]),
            ([program, "write", *write], [*java, "check"]),
        ):
            with subprocess.Popen(writer, stdout=subprocess.PIPE) as w:
                r = subprocess.run(reader, stdin=w.stdout, stdout=subprocess.PIPE, text=True)
                w.stdout.close()
                print(r.stdout, end="")
            if w.wait() != 0 or not re.search(r"\d+ passed", r.stdout):
                print(f"FAILED {writer[0]} ended with {w.returncode}, {reader[0]} with {r.returncode}")
                failed += 1
                continue
            p, f = tally(r.stdout)
            passed, failed = passed + p, failed + f
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


sys.exit(main())
