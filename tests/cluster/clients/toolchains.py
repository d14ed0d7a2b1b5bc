"""Builds or installs each client program into a cache directory and says how to start it.

Versions are pinned (requirements.txt, package-lock.json, go.sum, pom.xml). A directory of the cache
is named by a hash of what went into it and is complete once it holds `.done`; then nothing is
fetched again.
"""
import hashlib
import os
import re
import shutil
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
INSTALL_SECONDS_MAX = 600


class Missing(Exception):
    """The toolchain of a client cannot be had; says why."""


def need(*tools):
    for tool in tools:
        if not shutil.which(tool):
            raise Missing(f"{tool} is not installed")


def run(argv, **options):
    try:
        done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              timeout=INSTALL_SECONDS_MAX, stdin=subprocess.DEVNULL, **options)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Missing(f"{argv[0]}: {error}") from error
    if done.returncode:
        raise Missing(f"`{' '.join(argv)}` failed:\n{done.stdout[-2000:]}")
    return done.stdout


class Cache:
    def __init__(self, root):
        self.root = root

    def directory(self, name, files, build, *salt):
        """The directory for what `build(directory)` makes of `files` (and words of `salt`)."""
        digest = hashlib.sha256(repr(salt).encode())
        for path in files:
            with open(os.path.join(HERE, path), "rb") as f:
                digest.update(f.read())
        directory = os.path.join(self.root, f"{name}-{digest.hexdigest()[:12]}")
        if not os.path.exists(os.path.join(directory, ".done")):
            shutil.rmtree(directory, ignore_errors=True)
            os.makedirs(directory)
            build(directory)
            open(os.path.join(directory, ".done"), "w").close()
        return directory


def librdkafka(cache):
    need("cc", "pkg-config", "kcat")
    source = "c/client.c"
    versions = run(["pkg-config", "--modversion", "rdkafka", "jansson"])
    flags = run(["pkg-config", "--cflags", "--libs", "rdkafka", "jansson"]).split()

    def build(directory):
        run(["cc", "-std=gnu17", "-O2", "-Wall", "-Wextra", "-o", f"{directory}/client",
             os.path.join(HERE, source), *flags])

    return [cache.directory("librdkafka", [source], build, versions) + "/client"]


def java(version):
    def prepare(cache):
        need("java", "javac", "mvn")
        source = os.path.join(HERE, "java/Client.java")

        def fetch(directory):
            run(["mvn", "-q", "-B", "-f", os.path.join(HERE, "java/pom.xml"),
                 f"-Dkafka.version={version}", f"-DoutputDirectory={directory}",
                 "-DincludeScope=runtime",
                 "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies"])

        jars = cache.directory(f"java-{version}-jars", ["java/pom.xml"], fetch)

        def build(directory):
            run(["javac", "-Xlint:all,-classfile", "-Werror", "-cp", f"{jars}/*", "-d", directory,
                 source])

        classes = cache.directory(f"java-{version}", ["java/Client.java", "java/pom.xml"], build)
        return ["java", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1",
                "-cp", f"{classes}:{jars}/*", "Client"]
    return prepare


def franz_go(cache):
    need("go")
    found = re.search(r"go(\d+)\.(\d+)", run(["go", "version"], cwd="/"))
    # go.mod pins the newest franz-go, which wants Go 1.26; older.mod the last one for Go 1.21.
    mod = "go.mod" if (int(found[1]), int(found[2])) >= (1, 26) else "older.mod"
    files = ["go/main.go", f"go/{mod}", f"go/{mod.replace('.mod', '.sum')}"]

    def build(directory):
        run(["go", "build", f"-modfile={mod}", "-o", f"{directory}/client", "."],
            cwd=os.path.join(HERE, "go"),
            env={**os.environ, "GOFLAGS": "-mod=readonly -buildvcs=false", "GOTOOLCHAIN": "local"})

    return [cache.directory("franz-go", files, build, found[0]) + "/client"]


def python(program):
    def prepare(cache):
        pins = "python/requirements.txt"

        def build(directory):
            run([sys.executable, "-m", "venv", directory])
            run([f"{directory}/bin/pip", "install", "--no-input", "--quiet",
                 "--requirement", os.path.join(HERE, pins)])

        venv = cache.directory("python", [pins], build, sys.version)
        return [f"{venv}/bin/python", os.path.join(HERE, "python", program)]
    return prepare


def kafkajs(cache):
    need("node", "npm")
    pins = ["node/package.json", "node/package-lock.json"]

    def build(directory):
        for path in pins:
            shutil.copy(os.path.join(HERE, path), directory)
        run(["npm", "ci", "--prefer-offline", "--ignore-scripts", "--no-audit", "--no-fund"],
            cwd=directory)

    modules = cache.directory("kafkajs", pins, build) + "/node_modules"
    return ["env", f"NODE_PATH={modules}", "node", os.path.join(HERE, "node/client.js")]
