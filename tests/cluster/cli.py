#!/usr/bin/env python3
"""The command line: what starts, what is refused, with which exit code and sentence.

    cli.py --fluxmq build/release/fluxmq

0 ok, 1 a finding or refusal, 2 usage or configuration. What asks for protection that does not
exist must end with 2, never run in clear (DESIGN section 8).
"""
import argparse
import glob
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from broker import Broker, free_ports  # noqa: E402

STOCK = """process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:%(controller)d
listeners=PLAINTEXT://127.0.0.1:%(port)d,CONTROLLER://127.0.0.1:%(controller)d
inter.broker.listener.name=PLAINTEXT
advertised.listeners=PLAINTEXT://127.0.0.1:%(port)d
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
num.network.threads=3
num.io.threads=8
log.dirs=%(dir)s/data
num.partitions=1
offsets.topic.replication.factor=1
log.retention.hours=168
metrics.listener=none
"""
BOOTSTRAP = STOCK.replace("controller.quorum.voters=1@", "controller.quorum.bootstrap.servers=")

passed = failed = 0


def check(ok, what, detail=""):
    global passed, failed
    passed, failed = passed + bool(ok), failed + (not ok)
    print("%-5s %s%s" % ("ok" if ok else "FAIL", what, "" if ok else ": " + detail[-400:]), flush=True)


def run(binary, *args, timeout=10):
    p = subprocess.run([binary, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=timeout)
    return p.returncode, p.stdout, p.stderr


def refused(binary, what, code, text, *args):
    try:
        got, out, err = run(binary, *args)
    except subprocess.TimeoutExpired:
        check(False, what, "still runs after 10 s")
        return
    check(got == code and text in out + err, what, "exit %d: %s" % (got, out + err))


def configured(work, name, text, extra=""):
    port, controller = free_ports(2)
    path = os.path.join(work, name + ".properties")
    directory = os.path.join(work, name)
    os.makedirs(directory, exist_ok=True)
    with open(path, "w") as f:
        f.write(text % {"port": port, "controller": controller, "dir": directory} + extra)
    return path, port


def starts(binary, what, path, port):
    """Starts, answers on its port, stops with 0 on SIGTERM."""
    p = subprocess.Popen([binary, "server", "--config", path], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    answered, deadline = False, time.monotonic() + 10
    while time.monotonic() < deadline and p.poll() is None and not answered:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            answered = True
        except OSError:
            time.sleep(0.02)
    time.sleep(0.3)
    p.send_signal(signal.SIGTERM)
    try:
        out, _ = p.communicate(timeout=10)
    except subprocess.TimeoutExpired:
        p.kill()
        out, _ = p.communicate()
    check(answered and p.returncode == 0 and "ready after" in out, what, "exit %s: %s" % (p.returncode, out))
    return out


def usage_and_configuration(binary, work):
    code, out, _ = run(binary, "--help")
    check(code == 0 and "server" in out and "verify" in out, "--help", out)
    code, out, _ = run(binary, "server", "--help")
    check(code == 0 and "--config" in out and "--print-config" in out, "server --help", out)
    refused(binary, "no such command", 2, "no command", "frobnicate")
    refused(binary, "no such flag", 2, "--frobnicate", "server", "--frobnicate")
    refused(binary, "no such file", 2, "nowhere.properties", "server", "--config", "/nowhere.properties")
    refused(binary, "a bad number names key and value", 2, "num.partitions", "server", "--override", "num.partitions=many")
    for flag in ("--enable-tls", "--enable-acl"):
        refused(binary, flag + " is refused", 2, "", "server", flag)
    path, _ = configured(work, "sasl", STOCK.replace("PLAINTEXT:PLAINTEXT\n", "PLAINTEXT:SASL_PLAINTEXT\n"))
    refused(binary, "a SASL listener is refused", 2, "SASL_PLAINTEXT", "server", "--config", path)
    path, _ = configured(work, "acl", STOCK, "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer\n")
    refused(binary, "an authorizer is refused", 2, "authorizer.class.name", "server", "--config", path)
    path, _ = configured(work, "two", STOCK.replace("voters=1@", "voters=2@192.0.2.7:9093,1@"))
    refused(binary, "a voter on another host is refused", 2, "", "server", "--config", path)
    code, out, err = run(binary, "server", "--print-config", "--override", "num.partitions=7")
    check(code == 0 and "num.partitions=7" in out and "min.insync.replicas=2" in out, "--print-config", out + err)


def starting(binary, work):
    path, port = configured(work, "voters", STOCK)
    out = starts(binary, "a stock file with voters", path, port)
    check("num.network.threads" in out and "num.io.threads" in out, "keys without effect are told", out)
    path, port = configured(work, "bootstrap", BOOTSTRAP, "frobnication.level=9\n")
    out = starts(binary, "a stock file with bootstrap.servers alone", path, port)
    check(out.count("frobnication.level") == 1, "an unknown key: one warning", out)
    out = starts(binary, "and again on the same directory", path, port)
    with socket.socket() as s:
        s.bind(("127.0.0.1", port))
        s.listen()
        refused(binary, "a port in use", 1, "in use", "server", "--config", path)


def directories(binary):
    with Broker(fluxmq=binary) as b:
        b.start()
        data = b.log_dirs[0]
        refused(binary, "a second process on the same directory", 1, "lock", "server", "--port", "0", "--data-dir", data,
                "--override", "metrics.listener=none")
        b.stop()
        with open(os.path.join(data, "meta.properties")) as f:
            meta = f.read()
        with open(os.path.join(data, "meta.properties"), "w") as f:
            f.write(meta.replace("node.id=1", "node.id=9"))
        refused(binary, "another node's directory", 2, "node", "server", "--port", "0", "--data-dir", data,
                "--override", "metrics.listener=none")
        with open(os.path.join(data, "meta.properties"), "w") as f:
            f.write(meta)
        closed = sorted(glob.glob(os.path.join(data, "fluxmq-raft", "0*-0*")))
        with open(closed[0], "r+b") as f: # in the middle of what the only voter has committed
            f.seek(40)
            byte = f.read(1)
            f.seek(40)
            f.write(bytes([byte[0] ^ 1]))
        refused(binary, "a corrupt raft file names itself and the repair", 1, "fluxmq repair", "server", "--port", "0",
                "--data-dir", data, "--override", "metrics.listener=none")
        shutil.rmtree(os.path.join(data, "fluxmq-raft"))
        refused(binary, "raft files noted and missing", 2, "raft", "server", "--port", "0", "--data-dir", data,
                "--override", "metrics.listener=none")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--fluxmq", default="build/release/fluxmq")
    o = p.parse_args()
    binary = os.path.abspath(o.fluxmq)
    with tempfile.TemporaryDirectory() as work:
        usage_and_configuration(binary, work)
        starting(binary, work)
    directories(binary)
    print("%d passed, %d failed" % (passed, failed))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
