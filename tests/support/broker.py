"""One broker process on loopback, fluxmq or Apache Kafka, for tests that start and kill it.

    broker = Broker(fluxmq="build/release/fluxmq")      # or Broker(kafka="path/of/the/jars")
    broker.start()                                      # returns when it answers ApiVersions
    ...
    broker.kill(); broker.start(); broker.stop(); broker.remove()

The configuration is a stock KRaft server.properties in a directory of its own under $TMPDIR; what
a test adds goes to `properties`. It ends only processes that it has started, by their pid.
"""

import argparse
import atexit
import glob
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import kafka_wire as wire

CLUSTER_ID = "dGVzdC1jbHVzdGVyLTAwMA"

LOG4J = """Configuration:
  Appenders:
    Console: {name: STDOUT, PatternLayout: {pattern: "[%%d] %%p %%m (%%c)%%n"}}
  Loggers:
    Root: {level: "%s", AppenderRef: [{ref: STDOUT}]}
"""


class NotReady(Exception):
    """The broker ended, or did not answer in time."""


def free_ports(count):
    """Ports below the range of ephemeral ones: while a broker is down, no client's own end can
    take its port, and no client can connect to itself."""
    with open("/proc/sys/net/ipv4/ip_local_port_range") as f:
        low = int(f.read().split()[0])
    ports = []
    rng = random.SystemRandom()
    while len(ports) < count:
        port = rng.randrange(10240, max(low, 10500))
        with socket.socket() as s:
            try:
                s.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in ports:
            ports.append(port)
    return ports


class Broker:
    """fluxmq: path of the binary. kafka: directory with Apache Kafka's jars.

    log_dirs: directories for the data (default: one under the broker's own directory).
    wrapper:  command words before the broker's, e.g. ["unshare", "-m", ...]; must exec it.
    """

    def __init__(self, fluxmq=None, kafka=None, properties=None, log_dirs=None, workers=2,
                 wrapper=None, environment=None, heap="512m", log_level="WARN"):
        if bool(fluxmq) == bool(kafka):
            raise ValueError("one of fluxmq and kafka")
        self.binary = os.path.abspath(fluxmq) if fluxmq else None
        self.jars = os.path.abspath(kafka) if kafka else None
        self.dir = tempfile.mkdtemp(prefix="broker-")
        self.host = "127.0.0.1"
        self.port, self.controller_port, self.metrics_port = free_ports(3)
        self.log_dirs = log_dirs or [os.path.join(self.dir, "data")]
        self.properties = properties or {}
        self.workers = workers
        self.wrapper = wrapper or []
        self.environment = environment or {}
        self.heap, self.log_level = heap, log_level
        self.process = None
        self.starts = 0
        self.config = os.path.join(self.dir, "server.properties")
        self.log_path = os.path.join(self.dir, "broker.log")
        atexit.register(self.kill)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.remove()

    @property
    def name(self):
        return "fluxmq" if self.binary else "Apache Kafka"

    @property
    def bootstrap(self):
        return "%s:%d" % (self.host, self.port)

    @property
    def pid(self):
        return self.process.pid if self.process else None

    def write_config(self):
        p = {
            "process.roles": "broker,controller",
            "node.id": 1,
            "controller.quorum.voters": "1@%s:%d" % (self.host, self.controller_port),
            "listeners": "PLAINTEXT://%s,CONTROLLER://%s:%d" % (self.bootstrap, self.host,
                                                                self.controller_port),
            "advertised.listeners": "PLAINTEXT://" + self.bootstrap,
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "PLAINTEXT",
            "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
            "log.dirs": ",".join(self.log_dirs),
            "offsets.topic.replication.factor": 1,
            "transaction.state.log.replication.factor": 1,
            "transaction.state.log.min.isr": 1,
            "auto.create.topics.enable": "false",
        }
        if self.binary:
            p["workers"] = self.workers
        p.update(self.properties)
        for d in self.log_dirs:
            os.makedirs(d, exist_ok=True)
        with open(self.config, "w") as f:
            f.writelines("%s=%s\n" % item for item in p.items())

    def _command(self):
        if self.binary:
            return [self.binary, "server", "--config", self.config, "--metrics-port",
                    str(self.metrics_port)]
        log4j = os.path.join(self.dir, "log4j2.yaml")
        with open(log4j, "w") as f:
            f.write(LOG4J % self.log_level)
        java = ["java", "-Dlog4j2.configurationFile=" + log4j, "-cp", self.jars + "/*"]
        if not os.path.exists(os.path.join(self.log_dirs[0], "meta.properties")):
            subprocess.run(java + ["-Xmx256m", "kafka.tools.StorageTool", "format", "-t", CLUSTER_ID,
                                   "-c", self.config, "--ignore-formatted"],
                           check=True, stdout=subprocess.DEVNULL)
        return java + ["-Xms" + self.heap, "-Xmx" + self.heap, "-XX:+UseG1GC", "kafka.Kafka",
                       self.config]

    def start(self, wait=True, timeout=60.0):
        if self.process:
            raise AssertionError("is running")
        self.write_config()
        command = self.wrapper + self._command()
        with open(self.log_path, "ab") as log:
            log.write(b"--- start %d\n" % self.starts)
            log.flush()
            self.log_mark = log.tell()
            self.started = time.monotonic()
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log,
                                            stderr=log, env={**os.environ, **self.environment})
        self.starts += 1
        if wait:
            self.wait_ready(timeout)
        return self

    def ended(self):
        """None while it runs, else what it ended with (negative: the signal)."""
        return self.process.poll() if self.process else None

    def answers(self, timeout=2.0):
        try:
            with self.connect(timeout=timeout) as conn:
                wire.api_versions(conn)
                return bool(wire.metadata(conn, []).brokers)
        except (OSError, wire.WireError, wire.KafkaError):
            return False

    def wait_ready(self, timeout=60.0):
        """Until it answers ApiVersions and Metadata names a broker. -> seconds since the start"""
        deadline = time.monotonic() + timeout
        while not self.answers():
            if self.ended() is not None:
                raise NotReady("%s ended with %s:\n%s" % (self.name, self.ended(), self.log_tail()))
            if time.monotonic() > deadline:
                raise NotReady("%s does not answer after %.0f s:\n%s" % (self.name, timeout,
                                                                         self.log_tail()))
            time.sleep(0.005)
        return time.monotonic() - self.started

    def connect(self, client_id="checked-client", timeout=30.0):
        return wire.Connection(self.host, self.port, client_id, timeout)

    def kill(self):
        """kill -9."""
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None

    def stop(self, timeout=60.0):
        """SIGTERM, and its exit code; SIGKILL when that takes too long (exit code None)."""
        if not self.process:
            return None
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            return None
        self.process = None
        return code

    def remove(self):
        self.kill()
        shutil.rmtree(self.dir, ignore_errors=True)

    def log_tail(self, lines=30):
        with open(self.log_path, errors="replace") as f:
            return "".join(f.readlines()[-lines:])

    def log_since_start(self):
        with open(self.log_path, errors="replace") as f:
            f.seek(self.log_mark)
            return f.read()

    def rss_kb(self):
        with open("/proc/%d/status" % self.pid) as f:
            for line in f:
                if line.startswith("VmRSS:"):
                    return int(line.split()[1])
        return 0

    def segments(self, suffix=".log"):
        """All files of partitions with that suffix, over all log dirs."""
        out = []
        for d in self.log_dirs:
            out += glob.glob(os.path.join(glob.escape(d), "*-[0-9]*", "*" + suffix))
        partition = re.compile(r"(?!__cluster_metadata-).+-\d+")  # not "t-0.<id>-delete" and such
        return sorted(p for p in out if partition.fullmatch(os.path.basename(os.path.dirname(p))))


def add_broker_options(parser):
    """--fluxmq BIN or --kafka-broker LIBDIR: what is tested."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--fluxmq", metavar="BIN", default=os.environ.get("FLUXMQ"),
                       help="the fluxmq binary to test (default: $FLUXMQ, then build/release/fluxmq)")
    group.add_argument("--kafka-broker", metavar="LIBDIR",
                       help="test Apache Kafka instead, from the jars in LIBDIR: the control")


def broker_choice(options):
    """-> keyword arguments for Broker"""
    if options.kafka_broker:
        return {"kafka": options.kafka_broker}
    binary = options.fluxmq or os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..",
                                            "build", "release", "fluxmq")
    if not os.access(binary, os.X_OK):
        raise SystemExit("no fluxmq binary at %s (see --fluxmq)" % binary)
    return {"fluxmq": binary}


def help_formatter(prog):
    return argparse.RawDescriptionHelpFormatter(prog, max_help_position=30, width=100)
